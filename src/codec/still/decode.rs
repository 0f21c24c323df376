//! Pictures somebody gives us, from the bytes of a file to a [`RawFrame`], within limits.
//!
//! The header is believed only as far as it limits: it must say a size within them before FFmpeg sees a byte, and
//! FFmpeg is held to the same. The first picture of an animation is taken. What is given has no clearance: it goes
//! through a gate like every remote picture.

use std::ffi::c_int;

use ffmpeg_next::ffi::{self, AVCodecID, AVPixelFormat};

use crate::base::time::Pts;
use crate::codec::ffmpeg::{CodecContext, Options, Packet, Picture, text_of};
use crate::codec::still::ImageType;
use crate::codec::still::fit::{Fit, Strategy};
use crate::codec::still::scale::{Planes, Scaling, Shape};
use crate::codec::still::sniff::{Claim, orientation, sniff};
use crate::media::codec::CodecError;
use crate::media::frame::{FrameMut, Plane, RawFrame, Size};
use crate::media::pool::FramePool;

/// How much is taken of whoever gives pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the file.
    pub bytes: usize,
    /// Of the picture in it, width times height.
    pub pixels: usize,
    /// What comes out is at most this large, and never larger than the picture.
    pub size: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { bytes: 10 << 20, pixels: 24_000_000, size: Size::new(1920, 1920) }
    }
}

/// Why a picture is not taken; says it to whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("{0} bytes are over the limit of {1}")]
    TooManyBytes(usize, usize),
    #[error("it is no JPEG, PNG, WebP or GIF")]
    Unknown,
    #[error("a picture of {0} is over the limit of {1} pixels")]
    TooManyPixels(Size, usize),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("there is no room for it now")]
    NoRoom,
}

impl From<CodecError> for Unusable {
    fn from(error: CodecError) -> Self {
        Unusable::Damaged(error.to_string())
    }
}

/// What the bytes claim, if that is within the limits.
pub fn admit(bytes: &[u8], limits: &Limits) -> Result<Claim, Unusable> {
    if bytes.len() > limits.bytes {
        return Err(Unusable::TooManyBytes(bytes.len(), limits.bytes));
    }
    let claim = sniff(bytes).ok_or(Unusable::Unknown)?;
    let pixels = claim.size.width.checked_mul(claim.size.height);
    if pixels.is_none_or(|pixels| pixels > limits.pixels) {
        return Err(Unusable::TooManyPixels(claim.size, limits.pixels));
    }
    Ok(claim)
}

/// Decodes one file. It takes as long as FFmpeg takes: a thread or another process calls this, never a task.
pub fn open(bytes: &[u8], pool: &FramePool, pts: Pts, limits: &Limits) -> Result<RawFrame, Unusable> {
    pixels(bytes, pool, pts, limits).map(|picture| RawFrame::new(picture.freeze()))
}

/// As [`open`], for a process that hands the pixels to another, which locks them up again: nobody has cleared them.
pub fn pixels(bytes: &[u8], pool: &FramePool, pts: Pts, limits: &Limits) -> Result<FrameMut, Unusable> {
    let claim = admit(bytes, limits)?;
    let picture = decode(bytes, claim, limits)?;
    settle(&picture, claim.kind, Turn::of(bytes), pool, pts, limits)
}

fn decode(bytes: &[u8], claim: Claim, limits: &Limits) -> Result<Picture, Unusable> {
    let codec = match claim.kind {
        ImageType::Jpeg => AVCodecID::AV_CODEC_ID_MJPEG,
        ImageType::Png => AVCodecID::AV_CODEC_ID_PNG,
        ImageType::Webp => AVCodecID::AV_CODEC_ID_WEBP,
        ImageType::Gif => AVCodecID::AV_CODEC_ID_GIF,
    };
    let mut context = CodecContext::decoder(codec)?;
    let fields = context.fields();
    fields.thread_count = 1;
    fields.max_pixels = i64::try_from(limits.pixels).unwrap_or(i64::MAX);
    context.open(&mut Options::new(), "opening a decoder of stills")?;
    let mut picture = Picture::new()?;
    let code = Packet::new()?.lend(bytes, |packet| {
        // SAFETY: context, packet and frame are valid; FFmpeg copies what it keeps; a null packet says that nothing
        // follows.
        unsafe {
            let sent = ffi::avcodec_send_packet(context.as_ptr(), packet.as_ptr());
            if sent < 0 {
                return sent;
            }
            ffi::avcodec_send_packet(context.as_ptr(), std::ptr::null());
            ffi::avcodec_receive_frame(context.as_ptr(), picture.as_ptr())
        }
    });
    if code < 0 {
        return Err(Unusable::Damaged(text_of(code)));
    }
    Ok(picture)
}

/// To limited-range 4:2:0 of even size within the limits.
fn settle(
    picture: &Picture,
    kind: ImageType,
    turn: Turn,
    pool: &FramePool,
    pts: Pts,
    limits: &Limits,
) -> Result<FrameMut, Unusable> {
    let fields = picture.read();
    let side = |length: c_int| usize::try_from(length).unwrap_or(0);
    let size = Size::new(side(fields.width), side(fields.height));
    let known = (0..AVPixelFormat::AV_PIX_FMT_NB as c_int).contains(&fields.format);
    if size.width == 0 || size.height == 0 || !known {
        return Err(Unusable::Damaged("nothing in it".to_owned()));
    }
    // SAFETY: the number is one of this binding's pixel formats, checked above.
    let format: AVPixelFormat = unsafe { std::mem::transmute(fields.format) };
    let most = turn.size(limits.size);
    let fit = Fit { width: most.width, height: most.height, strategy: Strategy::ScaleAspectFit };
    let fitted = fit.lay_out(size).canvas;
    let even = |length: usize| (length & !1).max(2);
    let to = Size::new(even(fitted.width), even(fitted.height));
    let mut frame = pool.take_sized(turn.size(to), pts).ok_or(Unusable::NoRoom)?;
    let (width, height) = (fields.width, fields.height);
    // Of the four only WebP's lossy pictures are video; for RGB the word means nothing.
    let full = kind != ImageType::Webp;
    let source = Shape { width, height, format: without_range(format), full };
    let (width, height) = (to.width as c_int, to.height as c_int);
    let target = Shape { width, height, format: AVPixelFormat::AV_PIX_FMT_YUV420P, full: false };
    let mut scaling = Scaling::new(source, target)?;
    let from = Planes {
        data: [fields.data[0], fields.data[1], fields.data[2], fields.data[3]],
        lines: [fields.linesize[0], fields.linesize[1], fields.linesize[2], fields.linesize[3]],
    };
    // swscale may write past the end of a line that is no multiple of its vectors: into memory of FFmpeg's, copied.
    let mut roomy = Picture::new()?;
    let room = roomy.fields();
    (room.width, room.height, room.format) = (width, height, target.format as c_int);
    roomy.allocate()?;
    let room = roomy.fields();
    let into = Planes {
        data: [room.data[0], room.data[1], room.data[2], room.data[3]],
        lines: [room.linesize[0], room.linesize[1], room.linesize[2], room.linesize[3]],
    };
    // SAFETY: the decoder filled a picture of the size and format it says; the target was just allocated.
    unsafe { scaling.run(from, into)? };
    for (index, plane) in Plane::ALL.into_iter().enumerate() {
        let size = if plane == Plane::Y { to } else { to.chroma() };
        let lost = || Unusable::Damaged("a plane is missing".to_owned());
        let width = turn.size(size).width;
        for (row, line) in frame.plane_mut(plane).chunks_exact_mut(width).enumerate() {
            if turn == Turn::Upright {
                line.copy_from_slice(roomy.row(index, row, width).ok_or_else(lost)?);
                continue;
            }
            for (column, pixel) in line.iter_mut().enumerate() {
                let (x, y) = turn.source(column, row, size);
                *pixel = roomy.row(index, y, size.width).ok_or_else(lost)?[x];
            }
        }
    }
    Ok(frame)
}

/// How a camera was held, and so how its picture must be turned to be seen upright (Exif 2.3 §4.6.4, Orientation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Upright,
    /// Mirrored from left to right.
    Mirrored,
    OnItsHead,
    UpsideDown,
    Transposed,
    /// A quarter, clockwise.
    Right,
    Transverse,
    /// A quarter, against the clock.
    Left,
}

impl Turn {
    fn of(file: &[u8]) -> Turn {
        match orientation(file) {
            Some(2) => Turn::Mirrored,
            Some(3) => Turn::OnItsHead,
            Some(4) => Turn::UpsideDown,
            Some(5) => Turn::Transposed,
            Some(6) => Turn::Right,
            Some(7) => Turn::Transverse,
            Some(8) => Turn::Left,
            Some(_) | None => Turn::Upright,
        }
    }

    /// The size after turning.
    fn size(self, size: Size) -> Size {
        match self {
            Turn::Upright | Turn::Mirrored | Turn::OnItsHead | Turn::UpsideDown => size,
            Turn::Transposed | Turn::Right | Turn::Transverse | Turn::Left => {
                Size::new(size.height, size.width)
            }
        }
    }

    /// Where the pixel that is seen at `x`, `y` stands in a file of `size`.
    fn source(self, x: usize, y: usize, size: Size) -> (usize, usize) {
        let across = |at: usize| size.width - 1 - at;
        let down = |at: usize| size.height - 1 - at;
        match self {
            Turn::Upright => (x, y),
            Turn::Mirrored => (across(x), y),
            Turn::OnItsHead => (across(x), down(y)),
            Turn::UpsideDown => (x, down(y)),
            Turn::Transposed => (y, x),
            Turn::Right => (y, down(x)),
            Turn::Transverse => (across(y), down(x)),
            Turn::Left => (across(y), x),
        }
    }
}

/// The same format without the range in its name, which swscale is told apart.
fn without_range(format: AVPixelFormat) -> AVPixelFormat {
    use AVPixelFormat as Pixels;
    for (full, plain) in [
        (Pixels::AV_PIX_FMT_YUVJ420P, Pixels::AV_PIX_FMT_YUV420P),
        (Pixels::AV_PIX_FMT_YUVJ422P, Pixels::AV_PIX_FMT_YUV422P),
        (Pixels::AV_PIX_FMT_YUVJ440P, Pixels::AV_PIX_FMT_YUV440P),
        (Pixels::AV_PIX_FMT_YUVJ444P, Pixels::AV_PIX_FMT_YUV444P),
    ] {
        if format == full {
            return plain;
        }
    }
    format
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(bytes: &[u8], limits: &Limits) -> Result<RawFrame, Unusable> {
        open(bytes, &FramePool::new(1), Pts::ZERO, limits)
    }

    /// A GIF of one red pixel.
    const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

    #[test]
    fn limits_are_kept_before_anything_is_decoded() {
        let limits = Limits { bytes: 40, pixels: 100, size: Size::new(8, 8) };
        assert_eq!(opened(&[0; 41], &limits).err(), Some(Unusable::TooManyBytes(41, 40)));
        assert_eq!(opened(b"%PDF-1.7", &limits).err(), Some(Unusable::Unknown));
        let huge = b"GIF89a\xff\xff\xff\xff\0\0\0";
        let size = Size::new(65_535, 65_535);
        assert_eq!(opened(huge, &limits).err(), Some(Unusable::TooManyPixels(size, 100)));
        let none = FramePool::new(0);
        assert_eq!(open(GIF, &none, Pts::ZERO, &Limits::default()).err(), Some(Unusable::NoRoom));
    }

    #[test]
    fn one_pixel_becomes_a_small_picture() {
        let picture = opened(GIF, &Limits::default()).expect("a picture");
        assert_eq!(picture.size(), Size::new(2, 2));
    }

    /// A picture whose left half is dark, as phones write it when they are held otherwise.
    #[test]
    fn a_picture_of_a_turned_camera_is_seen_upright() {
        use crate::codec::still::encode::{StillFormat, StillSettings, Stills};
        use crate::media::frame::CleanFrame;
        let mut picture = FramePool::new(1).take_sized(Size::new(64, 32), Pts::ZERO).expect("room");
        for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            // The corner at the top left is bright, the rest of the left half dark.
            let (x, y) = (at % 64, at / 64);
            *luma = if x < 16 && y < 16 {
                220
            } else if x < 32 {
                40
            } else {
                120
            };
        }
        picture.plane_mut(Plane::U).fill(128);
        picture.plane_mut(Plane::V).fill(128);
        let settings =
            StillSettings { format: StillFormat::Jpeg { quality: 90 }, ..StillSettings::default() };
        let still =
            Stills::new(settings).and_then(|mut stills| stills.encode(&CleanFrame::drawn_here(picture)));
        let file = still.expect("a still").bytes().to_vec();
        // Where the bright corner is seen: left or right, top or bottom.
        for (value, turned, right, bottom) in [
            (1, false, false, false),
            (2, false, true, false),
            (3, false, true, true),
            (4, false, false, true),
            (5, true, false, false),
            (6, true, true, false),
            (7, true, true, true),
            (8, true, false, true),
        ] {
            let exif = [
                b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
                &[value],
                &[0; 6],
            ]
            .concat();
            let file = [&file[..2], &exif, &file[2..]].concat();
            assert_eq!(orientation(&file), Some(u16::from(value)));
            let seen = pixels(&file, &FramePool::new(1), Pts::ZERO, &Limits::default()).expect("a picture");
            let size = if turned { Size::new(32, 64) } else { Size::new(64, 32) };
            assert_eq!(seen.size(), size, "{value}");
            let x = if right { size.width - 5 } else { 4 };
            let y = if bottom { size.height - 5 } else { 4 };
            assert!(seen.plane(Plane::Y)[y * size.width + x] > 190, "{value}");
        }
    }

    #[test]
    fn damaged_files_are_refused_or_shown_as_far_as_they_go_and_never_hang() {
        for end in 0..GIF.len() {
            let _ = opened(&GIF[..end], &Limits::default());
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = GIF.to_vec();
                broken[end] = value;
                let _ = opened(&broken, &Limits { pixels: 1_000_000, ..Limits::default() });
            }
        }
    }
}
