//! What each FFmpeg encoder wants besides the common settings: options, pixel layout, a hardware device.
//!
//! What all of them are asked for is [`super::encoder`]; which of them works is for [`super::probe`] to find out.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffmpeg_next::ffi::{self, AVHWDeviceType, AVPixelFormat};

use crate::codec::ffmpeg::{CodecContext, Options, Picture, broken, check};
use crate::codec::h264::encoder::EncoderKind;
use crate::media::codec::CodecError;
use crate::media::frame::{Frame, Plane, Size};

/// Options that make an encoder answer each picture at once and in Constrained Baseline.
pub(super) fn options(kind: EncoderKind, variant: Variant) -> Options {
    let mut options = Options::of(match kind {
        EncoderKind::X264 => &[
            ("preset", "ultrafast"),
            ("tune", "zerolatency"),
            ("profile", "baseline"),
            ("forced-idr", "1"),
            // The preset leaves the in-loop filter out, which low bitrates show as blocks.
            ("x264-params", "deblock=0,0:no-deblock=0"),
        ],
        EncoderKind::Nvenc => &[
            ("preset", "p2"),
            ("tune", "ull"),
            ("profile", "baseline"),
            ("rc", "cbr"),
            ("zerolatency", "1"),
            ("delay", "0"),
            ("forced-idr", "1"),
        ],
        EncoderKind::Vaapi => {
            &[("profile", "constrained_baseline"), ("async_depth", "1"), ("aud", "0"), ("sei", "0")]
        }
        EncoderKind::Qsv => &[
            ("profile", "baseline"),
            ("async_depth", "1"),
            ("forced_idr", "1"),
            ("low_delay_brc", "1"),
            ("recovery_point_sei", "0"),
            ("pic_timing_sei", "0"),
        ],
        EncoderKind::V4l2m2m => &[("num_output_buffers", "6"), ("num_capture_buffers", "4")],
        EncoderKind::OpenH264 => &[],
    });
    if kind == EncoderKind::Vaapi && variant == Variant::Other {
        options.set("low_power", "1");
    }
    options
}

/// Devices of one kind differ in one thing that only opening shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Usual,
    /// V4L2: chroma interleaved. VAAPI: the low-power encoder, the only one of many newer Intel chips.
    Other,
}

impl Variant {
    /// What is worth trying, in order.
    pub(super) fn of(kind: EncoderKind) -> &'static [Variant] {
        match kind {
            EncoderKind::V4l2m2m | EncoderKind::Vaapi => &[Variant::Usual, Variant::Other],
            EncoderKind::Nvenc | EncoderKind::Qsv | EncoderKind::X264 | EncoderKind::OpenH264 => {
                &[Variant::Usual]
            }
        }
    }
}

/// What to look at when an encoder does not open.
pub(super) fn advice(kind: EncoderKind) -> &'static str {
    match kind {
        EncoderKind::Nvenc => " (it needs an NVIDIA GPU with NVENC and its driver's libnvidia-encode)",
        EncoderKind::V4l2m2m => {
            " (it needs a V4L2 memory-to-memory H.264 encoder in /dev/video* and the group video)"
        }
        EncoderKind::Vaapi => " (it needs a VAAPI driver that encodes H.264, and the group render)",
        EncoderKind::Qsv => " (it needs an Intel GPU and the Media SDK or oneVPL runtime)",
        EncoderKind::X264 | EncoderKind::OpenH264 => "",
    }
}

/// How a picture gets to the encoder.
pub(super) enum Upload {
    /// As it is.
    Planar,
    /// Chroma interleaved, in plain memory.
    Interleaved { width: c_int, height: c_int },
    /// Chroma interleaved and copied into the device.
    Surface { frames: BufferRef, staging: Picture },
}

/// Sets the pixel format, and opens the device where one is needed.
pub(super) fn prepare(
    kind: EncoderKind,
    variant: Variant,
    context: &mut CodecContext,
    size: Size,
) -> Result<Upload, CodecError> {
    let (width, height) = (side(size.width), side(size.height));
    if kind == EncoderKind::V4l2m2m {
        // The others are told by name; this one has no such option.
        context.fields().profile = ffi::FF_PROFILE_H264_CONSTRAINED_BASELINE;
    }
    match (kind, variant) {
        (EncoderKind::Qsv, _) | (EncoderKind::V4l2m2m, Variant::Other) => {
            context.fields().pix_fmt = AVPixelFormat::AV_PIX_FMT_NV12;
            Ok(Upload::Interleaved { width, height })
        }
        (EncoderKind::Vaapi, _) => {
            let frames = surfaces(width, height)?;
            let fields = context.fields();
            fields.pix_fmt = AVPixelFormat::AV_PIX_FMT_VAAPI;
            fields.hw_frames_ctx = frames.share()?;
            let mut staging = Picture::new()?;
            interleaved(&mut staging, width, height)?;
            Ok(Upload::Surface { frames, staging })
        }
        _ => {
            context.fields().pix_fmt = AVPixelFormat::AV_PIX_FMT_YUV420P;
            Ok(Upload::Planar)
        }
    }
}

impl Upload {
    /// Makes `target` the picture the encoder takes.
    pub(super) fn fill(&mut self, source: &Frame, target: &mut Picture) -> Result<(), CodecError> {
        match self {
            Upload::Planar => Err(broken("planar pictures are lent, not filled")),
            Upload::Interleaved { width, height } => {
                interleaved(target, *width, *height)?;
                interleave(source, target)
            }
            Upload::Surface { frames, staging } => {
                staging.make_writable()?;
                interleave(source, staging)?;
                // SAFETY: a live frames context; the empty frame receives one of its surfaces.
                let code = unsafe { ffi::av_hwframe_get_buffer(frames.0.as_ptr(), target.as_ptr(), 0) };
                check(code, "taking a VAAPI surface")?;
                // SAFETY: both frames are valid and of the same size.
                let code = unsafe { ffi::av_hwframe_transfer_data(target.as_ptr(), staging.as_ptr(), 0) };
                check(code, "copying a picture to the VAAPI device").map(drop)
            }
        }
    }
}

fn side(pixels: usize) -> c_int {
    c_int::try_from(pixels).unwrap_or(0)
}

fn interleaved(picture: &mut Picture, width: c_int, height: c_int) -> Result<(), CodecError> {
    let fields = picture.fields();
    (fields.width, fields.height) = (width, height);
    fields.format = AVPixelFormat::AV_PIX_FMT_NV12 as c_int;
    fields.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
    picture.allocate()
}

/// I420 to NV12.
fn interleave(source: &Frame, target: &mut Picture) -> Result<(), CodecError> {
    let no_planes = || broken("a picture without its planes");
    let Size { width, height } = source.size();
    for (row, from) in source.plane(Plane::Y).chunks_exact(width).take(height).enumerate() {
        target.row_mut(0, row, width).ok_or_else(no_planes)?.copy_from_slice(from);
    }
    let chroma = source.size().chroma();
    let rows = source
        .plane(Plane::U)
        .chunks_exact(chroma.width)
        .zip(source.plane(Plane::V).chunks_exact(chroma.width));
    for (row, (us, vs)) in rows.enumerate() {
        let into = target.row_mut(1, row, 2 * chroma.width).ok_or_else(no_planes)?;
        for (pair, (u, v)) in into.chunks_exact_mut(2).zip(us.iter().zip(vs)) {
            pair.copy_from_slice(&[*u, *v]);
        }
    }
    Ok(())
}

/// A counted reference to one of FFmpeg's hardware contexts.
pub(super) struct BufferRef(NonNull<ffi::AVBufferRef>);

// SAFETY: the count is atomic and the contexts lock for themselves.
unsafe impl Send for BufferRef {}

impl BufferRef {
    fn share(&self) -> Result<*mut ffi::AVBufferRef, CodecError> {
        // SAFETY: a live reference.
        let share = unsafe { ffi::av_buffer_ref(self.0.as_ptr()) };
        if share.is_null() { Err(broken("no memory for a reference")) } else { Ok(share) }
    }
}

impl Drop for BufferRef {
    fn drop(&mut self) {
        let mut reference = self.0.as_ptr();
        // SAFETY: this is one counted reference.
        unsafe { ffi::av_buffer_unref(&mut reference) };
    }
}

/// Surfaces of the default VAAPI device.
fn surfaces(width: c_int, height: c_int) -> Result<BufferRef, CodecError> {
    let mut device = ptr::null_mut();
    let kind = AVHWDeviceType::AV_HWDEVICE_TYPE_VAAPI;
    // SAFETY: no device name and no options: the default device.
    let code = unsafe { ffi::av_hwdevice_ctx_create(&mut device, kind, ptr::null(), ptr::null_mut(), 0) };
    check(
        code,
        "opening the VAAPI device (is /dev/dri/renderD128 there and readable, and a driver installed?)",
    )?;
    let device = NonNull::new(device).map(BufferRef).ok_or_else(|| broken("no VAAPI device"))?;
    // SAFETY: a live device context.
    let frames = unsafe { ffi::av_hwframe_ctx_alloc(device.0.as_ptr()) };
    let frames = NonNull::new(frames).map(BufferRef).ok_or_else(|| broken("no memory for VAAPI surfaces"))?;
    // SAFETY: the buffer of a frames context holds an `AVHWFramesContext`, not yet used by anyone else.
    unsafe {
        let fields = &mut *frames.0.as_ref().data.cast::<ffi::AVHWFramesContext>();
        fields.format = AVPixelFormat::AV_PIX_FMT_VAAPI;
        fields.sw_format = AVPixelFormat::AV_PIX_FMT_NV12;
        (fields.width, fields.height, fields.initial_pool_size) = (width, height, 8);
    }
    // SAFETY: as above.
    check(unsafe { ffi::av_hwframe_ctx_init(frames.0.as_ptr()) }, "making VAAPI surfaces")?;
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::pool::FramePool;

    #[test]
    fn interleaving_pairs_the_chroma_samples() {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(Size::new(4, 2), Pts::ZERO).expect("room");
        picture.plane_mut(Plane::U).copy_from_slice(&[1, 2]);
        picture.plane_mut(Plane::V).copy_from_slice(&[8, 9]);
        let mut target = Picture::new().expect("memory");
        Upload::Interleaved { width: 4, height: 2 }.fill(&picture.freeze(), &mut target).expect("filled");
        assert_eq!(target.row(1, 0, 4), Some(&[1, 8, 2, 9][..]));
    }

    #[test]
    fn a_box_without_vaapi_is_told_where_to_look() {
        if std::path::Path::new("/dev/dri").exists() {
            return;
        }
        let error = surfaces(64, 64).err().expect("no device").to_string();
        assert!(error.contains("/dev/dri/renderD128"), "{error}");
    }
}
