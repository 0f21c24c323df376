//! Driver. One fragmented MP4 file (ISO 14496-12), by FFmpeg's muxer: whatever was cut is on disk and plays.
//!
//! What goes into which file and when a fragment ends is decided by `part` and `timeline`.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::ffi;
use ffmpeg_next::format::context::{Output, StreamIo};

use crate::codec::ffmpeg::{self, Options, Packet, check};
use crate::media::codec::CodecError;
use crate::media::frame::Size;

/// Ticks a second of the picture track.
const PICTURE_RATE: i64 = 90_000;
const NANOS: i64 = 1_000_000_000;

/// Why a recording ended early.
#[derive(Debug, thiserror::Error)]
pub enum MuxError {
    #[error("{path} cannot be created: {error}", path = .path.display())]
    Create { path: PathBuf, error: io::Error },
    #[error("{path} already holds something and is not overwritten", path = .0.display())]
    Exists(PathBuf),
    #[error("{path} cannot be written: {error}{advice}", path = .path.display(), advice = advice(.error))]
    Write { path: PathBuf, error: io::Error },
    #[error("{path}: {error}", path = .path.display())]
    Muxer { path: PathBuf, error: CodecError },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (make room, or lower recording.max_gib or retain_days)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (the disk went read-only: see dmesg)",
        _ => "",
    }
}

/// The picture track's declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureTrack {
    pub size: Size,
    /// Its parameter sets, as Annex B.
    pub sets: Vec<u8>,
}

/// The sound track's declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoundTrack {
    pub rate: u32,
    pub channels: usize,
    /// AudioSpecificConfig.
    pub configuration: Vec<u8>,
}

/// What the writing side of FFmpeg tells this side.
#[derive(Debug, Default)]
struct Written {
    bytes: u64,
    error: Option<io::Error>,
}

struct Sink {
    file: File,
    written: Arc<Mutex<Written>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.write(bytes);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(count) => written.bytes += *count as u64,
            // Retried by the caller; anything else ends the recording, and FFmpeg keeps only a number of it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let copy = error
                    .raw_os_error()
                    .map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
                written.error.get_or_insert(copy);
            }
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file being written.
pub struct Mux {
    path: PathBuf,
    output: Output,
    file: File,
    written: Arc<Mutex<Written>>,
    packet: Packet,
    picture_stream: Option<c_int>,
    sound_stream: Option<(c_int, i64)>,
}

impl Mux {
    /// Creates the file, or takes an empty one, and writes its beginning.
    pub fn create(
        path: &Path,
        picture: Option<&PictureTrack>,
        sound: Option<&SoundTrack>,
    ) -> Result<Self, MuxError> {
        ffmpeg::init();
        let create = |error| MuxError::Create { path: path.to_owned(), error };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map_err(create)?;
        if file.metadata().map_err(create)?.len() > 0 {
            return Err(MuxError::Exists(path.to_owned()));
        }
        let written = Arc::new(Mutex::new(Written::default()));
        let sink = Sink { file: file.try_clone().map_err(create)?, written: written.clone() };
        let muxer = |error| MuxError::Muxer { path: path.to_owned(), error };
        let lib = |error: ffmpeg_next::Error| muxer(ffmpeg::broken(error.to_string()));
        let io = StreamIo::from_write(sink).map_err(lib)?;
        let output = ffmpeg_next::format::output_to_stream(io, None, Some("mp4")).map_err(lib)?;
        let packet = Packet::new().map_err(muxer)?;
        let path = path.to_owned();
        let mut mux = Mux { path, output, file, written, packet, picture_stream: None, sound_stream: None };
        mux.picture_stream = picture.map(|track| mux.add_picture(track)).transpose()?;
        mux.sound_stream = sound.map(|track| mux.add_sound(track)).transpose()?;
        mux.begin()?;
        Ok(mux)
    }

    /// Bytes handed to the operating system.
    pub fn bytes(&self) -> u64 {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    fn add_picture(&mut self, track: &PictureTrack) -> Result<c_int, MuxError> {
        let (index, parameters) = self.add_stream(PICTURE_RATE as c_int)?;
        parameters.codec_type = ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        parameters.codec_id = ffi::AVCodecID::AV_CODEC_ID_H264;
        parameters.format = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
        parameters.width = c_int::try_from(track.size.width).unwrap_or(0);
        parameters.height = c_int::try_from(track.size.height).unwrap_or(0);
        self.extradata(index, &track.sets)?;
        Ok(index)
    }

    fn add_sound(&mut self, track: &SoundTrack) -> Result<(c_int, i64), MuxError> {
        let rate = c_int::try_from(track.rate).unwrap_or(0);
        let (index, parameters) = self.add_stream(rate)?;
        parameters.codec_type = ffi::AVMediaType::AVMEDIA_TYPE_AUDIO;
        parameters.codec_id = ffi::AVCodecID::AV_CODEC_ID_AAC;
        parameters.sample_rate = rate;
        parameters.frame_size = crate::codec::aac::PACKET_SAMPLES as c_int;
        // SAFETY: an empty layout is filled in.
        unsafe { ffi::av_channel_layout_default(&mut parameters.ch_layout, track.channels as c_int) };
        self.extradata(index, &track.configuration)?;
        Ok((index, i64::from(track.rate)))
    }

    fn add_stream(&mut self, ticks: c_int) -> Result<(c_int, &mut ffi::AVCodecParameters), MuxError> {
        // SAFETY: the output is open; a stream FFmpeg returns has parameters and lives as long as the output.
        unsafe {
            let stream = ffi::avformat_new_stream(self.output.as_mut_ptr(), ptr::null());
            if stream.is_null() {
                return Err(self.failed(ffmpeg::broken("no memory for a track")));
            }
            (*stream).time_base = ffi::AVRational { num: 1, den: ticks };
            Ok(((*stream).index, &mut *(*stream).codecpar))
        }
    }

    fn extradata(&mut self, index: c_int, data: &[u8]) -> Result<(), MuxError> {
        let padded = data.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize;
        // SAFETY: `index` is a stream of this output; the memory is FFmpeg's, zeroed, and large enough.
        unsafe {
            let stream = *(*self.output.as_mut_ptr()).streams.add(usize::try_from(index).unwrap_or(0));
            let copy = ffi::av_mallocz(padded).cast::<u8>();
            if copy.is_null() {
                return Err(self.failed(ffmpeg::broken("no memory for a track")));
            }
            ptr::copy_nonoverlapping(data.as_ptr(), copy, data.len());
            (*(*stream).codecpar).extradata = copy;
            (*(*stream).codecpar).extradata_size = c_int::try_from(data.len()).unwrap_or(0);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), MuxError> {
        let mut options = Options::of(&[
            // The caller cuts; a track may begin late, which only `frag_discont` says without an edit list.
            ("movflags", "frag_custom+empty_moov+default_base_moof+frag_discont"),
            ("use_editlist", "0"),
            ("avoid_negative_ts", "disabled"),
            ("flush_packets", "1"),
        ]);
        // SAFETY: the output has its streams; the options are a valid dictionary.
        let code = unsafe { ffi::avformat_write_header(self.output.as_mut_ptr(), &mut options.0) };
        self.result(code, "beginning the file")?;
        self.flush()
    }

    /// One picture in Annex B without parameter sets; times in nanoseconds since the file's beginning.
    pub fn picture(&mut self, data: &[u8], time: i64, lasts: i64, key: bool) -> Result<(), MuxError> {
        let Some(index) = self.picture_stream else { return Ok(()) };
        let (from, until) = (ticks(time, PICTURE_RATE), ticks(time + lasts, PICTURE_RATE));
        self.write(index, data, from, (until - from).max(1), key)
    }

    /// One AAC packet.
    pub fn sound(&mut self, data: &[u8], time: i64) -> Result<(), MuxError> {
        let Some((index, rate)) = self.sound_stream else { return Ok(()) };
        self.write(index, data, ticks(time, rate), crate::codec::aac::PACKET_SAMPLES as i64, true)
    }

    fn write(&mut self, index: c_int, data: &[u8], time: i64, lasts: i64, key: bool) -> Result<(), MuxError> {
        // SAFETY: only the pointer is taken here.
        let output = unsafe { self.output.as_mut_ptr() };
        let code = self.packet.lend(data, |packet| {
            let fields = packet.fields();
            (fields.pts, fields.dts, fields.duration, fields.stream_index) = (time, time, lasts, index);
            fields.flags = if key { ffi::AV_PKT_FLAG_KEY } else { 0 };
            // SAFETY: output and packet are valid; the muxer copies what it keeps.
            unsafe { ffi::av_write_frame(output, packet.as_ptr()) }
        });
        self.result(code, "adding to the file")
    }

    /// Ends the fragment: everything added so far has been handed to the operating system.
    pub fn cut(&mut self) -> Result<(), MuxError> {
        // SAFETY: the output is open; a null packet asks the muxer to end its fragment.
        let code = unsafe { ffi::av_write_frame(self.output.as_mut_ptr(), ptr::null_mut()) };
        self.result(code, "ending a fragment")?;
        self.flush()
    }

    /// Waits until what was handed over is on the disk itself.
    pub fn sync(&mut self) -> Result<(), MuxError> {
        self.file.sync_data().map_err(|error| MuxError::Write { path: self.path.clone(), error })
    }

    /// Ends the file and says how long it is in bytes.
    pub fn finish(mut self) -> Result<u64, MuxError> {
        self.cut()?;
        // SAFETY: the output is open and gets no more packets.
        let code = unsafe { ffi::av_write_trailer(self.output.as_mut_ptr()) };
        self.result(code, "ending the file")?;
        self.flush()?;
        self.sync()?;
        Ok(self.bytes())
    }

    fn flush(&mut self) -> Result<(), MuxError> {
        // SAFETY: the output owns its writer.
        unsafe { ffi::avio_flush((*self.output.as_mut_ptr()).pb) };
        self.result(0, "writing")
    }

    fn failed(&self, error: CodecError) -> MuxError {
        MuxError::Muxer { path: self.path.clone(), error }
    }

    /// The disk's own error, if there was one, else FFmpeg's.
    fn result(&self, code: c_int, doing: &str) -> Result<(), MuxError> {
        if let Some(error) = self.written.lock().unwrap_or_else(PoisonError::into_inner).error.take() {
            return Err(MuxError::Write { path: self.path.clone(), error });
        }
        check(code, doing).map(drop).map_err(|error| self.failed(error))
    }
}

fn ticks(nanos: i64, rate: i64) -> i64 {
    (i128::from(nanos) * i128::from(rate) + i128::from(NANOS / 2)).div_euclid(i128::from(NANOS)) as i64
}
