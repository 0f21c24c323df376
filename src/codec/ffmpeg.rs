//! What every user of FFmpeg here shares: set-up once per process, error texts, owners of its objects.
//!
//! FFmpeg's own log goes to `tracing` at DEBUG, never to stderr. Codec decisions do not belong here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Once;

use ffmpeg_next::ffi;

use crate::media::codec::CodecError;

/// Routes FFmpeg's log. Every constructor here calls it; calling it again does nothing.
pub fn init() {
    static ONCE: Once = Once::new();
    // SAFETY: the callback is a plain function that lives as long as the process.
    ONCE.call_once(|| unsafe { ffi::av_log_set_callback(Some(log)) });
}

/// The shape of `av_log_format_line2` for this target's `va_list`.
type FormatLine<V> =
    unsafe extern "C" fn(*mut c_void, c_int, *const c_char, V, *mut c_char, c_int, *mut c_int) -> c_int;

/// Generic over the `va_list`, whose type has another name on every architecture.
unsafe extern "C" fn log<V>(object: *mut c_void, level: c_int, format: *const c_char, arguments: V) {
    if level > ffi::AV_LOG_WARNING || !tracing::enabled!(target: "ffmpeg", tracing::Level::DEBUG) {
        return;
    }
    let mut line = [0_u8; 256];
    if cfg!(target_arch = "x86_64") {
        let mut prefix = 1;
        let address = ffi::av_log_format_line2 as *const ();
        // SAFETY: `V` is the type the binding gives this function's fourth argument, because `log` was accepted by
        // `av_log_set_callback`, which shares it; FFmpeg ends the line with a zero inside the buffer.
        unsafe {
            let format_line: FormatLine<V> = std::mem::transmute_copy(&address);
            let (at, room) = (line.as_mut_ptr().cast(), line.len() as c_int);
            format_line(object, level, format, arguments, at, room, &mut prefix);
        }
        let text = CStr::from_bytes_until_nul(&line).map(CStr::to_string_lossy).unwrap_or_default();
        tracing::debug!(target: "ffmpeg", "{}", text.trim_end());
    } else if !format.is_null() {
        // The binding's `va_list` is not trustworthy on other targets: the unformatted text must do.
        // SAFETY: FFmpeg passes a zero-terminated format string.
        let text = unsafe { CStr::from_ptr(format) }.to_string_lossy();
        tracing::debug!(target: "ffmpeg", "{}", text.trim_end());
    }
}

/// The words for one of FFmpeg's negative results.
pub fn text_of(code: c_int) -> String {
    let mut text = [0_u8; 128];
    // SAFETY: the buffer's length is given; FFmpeg always terminates it.
    unsafe { ffi::av_strerror(code, text.as_mut_ptr().cast(), text.len()) };
    CStr::from_bytes_until_nul(&text).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Turns a negative result into an error that says what was being done.
pub fn check(code: c_int, doing: &str) -> Result<c_int, CodecError> {
    if code < 0 { Err(broken(format!("{doing}: {}", text_of(code)))) } else { Ok(code) }
}

pub fn broken(text: impl Into<String>) -> CodecError {
    CodecError::Broken(text.into())
}

/// "Not now": the codec wants more input, or its output taken first.
pub const AGAIN: c_int = ffi::AVERROR(libc::EAGAIN);

/// A codec context, freed when dropped.
pub struct CodecContext(NonNull<ffi::AVCodecContext>);

// SAFETY: a context may be used from any thread, by one at a time; `&mut` guarantees that.
unsafe impl Send for CodecContext {}

impl CodecContext {
    pub fn decoder(id: ffi::AVCodecID) -> Result<Self, CodecError> {
        init();
        // SAFETY: looks an entry up in a static table.
        let codec = unsafe { ffi::avcodec_find_decoder(id) };
        Self::of(
            codec,
            "this FFmpeg build has no such decoder: install one with H.264, VP8, VP9, H.265 and AAC",
        )
    }

    pub fn encoder(name: &str) -> Result<Self, CodecError> {
        init();
        let wanted = CString::new(name).map_err(|_| broken("an encoder's name with a zero byte"))?;
        // SAFETY: looks an entry up in a static table; the name is terminated.
        let codec = unsafe { ffi::avcodec_find_encoder_by_name(wanted.as_ptr()) };
        Self::of(codec, &format!("this FFmpeg build has no encoder {name}"))
    }

    fn of(codec: *const ffi::AVCodec, absent: &str) -> Result<Self, CodecError> {
        if codec.is_null() {
            return Err(broken(absent));
        }
        // SAFETY: `codec` is an entry of FFmpeg's table.
        let context = unsafe { ffi::avcodec_alloc_context3(codec) };
        NonNull::new(context).map(CodecContext).ok_or_else(|| broken("no memory for a codec"))
    }

    /// Opens the codec the context was made for.
    pub fn open(&mut self, options: &mut Options, doing: &str) -> Result<(), CodecError> {
        // SAFETY: the context was made for its codec; the options are a valid dictionary.
        let code = unsafe { ffi::avcodec_open2(self.as_ptr(), ptr::null(), &mut options.0) };
        check(code, doing).map(drop)
    }

    pub fn as_ptr(&mut self) -> *mut ffi::AVCodecContext {
        self.0.as_ptr()
    }

    pub fn fields(&mut self) -> &mut ffi::AVCodecContext {
        // SAFETY: the pointer is valid for as long as `self`, and borrowed exclusively.
        unsafe { self.0.as_mut() }
    }

    /// What FFmpeg keeps outside the stream: parameter sets, the AAC configuration.
    pub fn extradata(&self) -> &[u8] {
        // SAFETY: FFmpeg keeps pointer and length in step.
        unsafe {
            let fields = self.0.as_ref();
            let len = usize::try_from(fields.extradata_size).unwrap_or(0);
            if fields.extradata.is_null() { &[] } else { std::slice::from_raw_parts(fields.extradata, len) }
        }
    }
}

impl Drop for CodecContext {
    fn drop(&mut self) {
        let mut context = self.0.as_ptr();
        // SAFETY: this is the only owner.
        unsafe { ffi::avcodec_free_context(&mut context) };
    }
}

/// A dictionary of options.
pub struct Options(pub *mut ffi::AVDictionary);

impl Options {
    pub fn new() -> Self {
        Options(ptr::null_mut())
    }

    pub fn set(&mut self, key: &str, value: &str) {
        let (Ok(key), Ok(value)) = (CString::new(key), CString::new(value)) else { return };
        // SAFETY: both strings are copied.
        unsafe { ffi::av_dict_set(&mut self.0, key.as_ptr(), value.as_ptr(), 0) };
    }

    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let mut options = Self::new();
        for (key, value) in pairs {
            options.set(key, value);
        }
        options
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: this is the only owner; a null dictionary is allowed.
        unsafe { ffi::av_dict_free(&mut self.0) };
    }
}

/// An `AVPacket`.
pub struct Packet(NonNull<ffi::AVPacket>);

// SAFETY: plain memory with atomically counted references.
unsafe impl Send for Packet {}

impl Packet {
    pub fn new() -> Result<Self, CodecError> {
        // SAFETY: allocates.
        let packet = unsafe { ffi::av_packet_alloc() };
        NonNull::new(packet).map(Packet).ok_or_else(|| broken("no memory for a packet"))
    }

    pub fn as_ptr(&mut self) -> *mut ffi::AVPacket {
        self.0.as_ptr()
    }

    pub fn fields(&mut self) -> &mut ffi::AVPacket {
        // SAFETY: valid and exclusively borrowed.
        unsafe { self.0.as_mut() }
    }

    pub fn data(&self) -> &[u8] {
        // SAFETY: FFmpeg keeps pointer and length in step.
        unsafe {
            let fields = self.0.as_ref();
            let len = usize::try_from(fields.size).unwrap_or(0);
            if fields.data.is_null() { &[] } else { std::slice::from_raw_parts(fields.data, len) }
        }
    }

    /// Lets go of the data.
    pub fn clear(&mut self) {
        // SAFETY: valid packet.
        unsafe { ffi::av_packet_unref(self.as_ptr()) };
    }

    /// Runs `with` while the packet points at `data`, which is neither copied nor kept.
    pub fn lend<R>(&mut self, data: &[u8], with: impl FnOnce(&mut Self) -> R) -> R {
        self.clear();
        let fields = self.fields();
        fields.data = data.as_ptr().cast_mut();
        fields.size = c_int::try_from(data.len()).unwrap_or(0);
        let result = with(self);
        self.clear();
        result
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let mut packet = self.0.as_ptr();
        // SAFETY: this is the only owner.
        unsafe { ffi::av_packet_free(&mut packet) };
    }
}

/// An `AVFrame`: one picture or one run of samples.
pub struct Picture(NonNull<ffi::AVFrame>);

// SAFETY: plain memory with atomically counted references.
unsafe impl Send for Picture {}

impl Picture {
    pub fn new() -> Result<Self, CodecError> {
        // SAFETY: allocates.
        let frame = unsafe { ffi::av_frame_alloc() };
        NonNull::new(frame).map(Picture).ok_or_else(|| broken("no memory for a picture"))
    }

    pub fn as_ptr(&mut self) -> *mut ffi::AVFrame {
        self.0.as_ptr()
    }

    pub fn fields(&mut self) -> &mut ffi::AVFrame {
        // SAFETY: valid and exclusively borrowed.
        unsafe { self.0.as_mut() }
    }

    pub fn read(&self) -> &ffi::AVFrame {
        // SAFETY: valid for as long as `self`.
        unsafe { self.0.as_ref() }
    }

    pub fn clear(&mut self) {
        // SAFETY: valid frame.
        unsafe { ffi::av_frame_unref(self.as_ptr()) };
    }

    /// Gives the frame memory for the format and size its fields say.
    pub fn allocate(&mut self) -> Result<(), CodecError> {
        // SAFETY: format and size were set by the caller; FFmpeg checks them.
        check(unsafe { ffi::av_frame_get_buffer(self.as_ptr(), 0) }, "memory for a picture").map(drop)
    }

    /// Makes sure nobody else reads the memory; copies when somebody does.
    pub fn make_writable(&mut self) -> Result<(), CodecError> {
        // SAFETY: valid frame with its own buffers.
        check(unsafe { ffi::av_frame_make_writable(self.as_ptr()) }, "memory for a picture").map(drop)
    }

    /// Row `row` of plane `plane`, `len` bytes. `None`: the frame has no such row.
    pub fn row(&self, plane: usize, row: usize, len: usize) -> Option<&[u8]> {
        let fields = self.read();
        let start = *fields.data.get(plane)?;
        let stride = isize::try_from(*fields.linesize.get(plane)?).ok()?;
        if start.is_null() || stride.unsigned_abs() < len {
            return None;
        }
        // SAFETY: FFmpeg's planes hold `linesize` bytes for each row of the picture, which bounds `row` in callers.
        Some(unsafe { std::slice::from_raw_parts(start.offset(stride * isize::try_from(row).ok()?), len) })
    }

    pub fn row_mut(&mut self, plane: usize, row: usize, len: usize) -> Option<&mut [u8]> {
        let at = self.row(plane, row, len)?.as_ptr().cast_mut();
        // SAFETY: as in `row`; the frame is borrowed exclusively and its memory was made writable by the caller.
        Some(unsafe { std::slice::from_raw_parts_mut(at, len) })
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        let mut frame = self.0.as_ptr();
        // SAFETY: this is the only owner.
        unsafe { ffi::av_frame_free(&mut frame) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_encoder_is_named_in_the_error() {
        let error = CodecContext::encoder("h264_nowhere").err().expect("there is none");
        assert!(error.to_string().contains("h264_nowhere"), "{error}");
    }

    #[test]
    fn results_read_as_words() {
        assert!(
            check(ffi::AVERROR_INVALIDDATA, "reading").is_err_and(|e| e.to_string().contains("Invalid data"))
        );
        assert_eq!(check(3, "reading"), Ok(3));
    }
}
