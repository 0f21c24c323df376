//! FFmpeg's pictures to the one format inside, planar I420, limited range, even sizes; and back.
//!
//! One copy per picture decoded, none per picture encoded. Range and layout are changed only when the source is not limited-range 4:2:0 already.
//! Colour conversion to RGB does not belong here.

use std::ffi::{c_int, c_void};
use std::ptr;

use ffmpeg_next::ffi::{self, AVColorRange, AVPixelFormat};

use crate::base::time::Pts;
use crate::codec::ffmpeg::{Picture, broken, check};
use crate::media::codec::CodecError;
use crate::media::frame::{CleanFrame, FrameMut, Plane, Size};
use crate::media::pool::FramePool;

/// What became of one decoded picture.
pub enum Converted {
    Picture(FrameMut),
    /// Larger than the limit, or without area.
    BadSize(Size),
    /// The pool is empty.
    NoRoom,
}

/// Copies decoded pictures into pooled ones; keeps a scaler for unusual formats.
#[derive(Default)]
pub struct Converter {
    scaler: Option<Scaler>,
}

impl Converter {
    pub fn convert(
        &mut self,
        picture: &Picture,
        pool: &FramePool,
        pts: Pts,
        max: Size,
    ) -> Result<Converted, CodecError> {
        let fields = picture.read();
        let size = Size::new(even(fields.width), even(fields.height));
        if size.width == 0 || size.height == 0 || !fits(size, max) {
            return Ok(Converted::BadSize(size));
        }
        let Some(mut into) = pool.take_sized(size, pts) else {
            return Ok(Converted::NoRoom);
        };
        let full = fields.color_range == AVColorRange::AVCOL_RANGE_JPEG;
        match Layout::of(fields.format, full) {
            Layout::Limited => copy(picture, &mut into, None)?,
            Layout::Full => copy(picture, &mut into, Some((&LUMA_TO_LIMITED, &CHROMA_TO_LIMITED)))?,
            Layout::Other => {
                let scaler = match self.scaler.take() {
                    Some(scaler) if scaler.serves(picture) => scaler,
                    _ => Scaler::new(picture)?,
                };
                copy(self.scaler.insert(scaler).run(picture)?, &mut into, None)?;
            }
        }
        Ok(Converted::Picture(into))
    }
}

/// Points `target` at the planes of `source`; what it keeps is a share of them, not a copy.
pub fn lend(target: &mut Picture, source: &CleanFrame) -> Result<(), CodecError> {
    let frame = source.frame();
    let fields = target.fields();
    for (index, plane) in Plane::ALL.into_iter().enumerate() {
        let width = if plane == Plane::Y { frame.size().width } else { frame.size().chroma().width };
        fields.data[index] = frame.plane(plane).as_ptr().cast_mut();
        fields.linesize[index] = c_int::try_from(width).unwrap_or(0);
    }
    fields.width = c_int::try_from(frame.size().width).unwrap_or(0);
    fields.height = c_int::try_from(frame.size().height).unwrap_or(0);
    fields.format = AVPixelFormat::AV_PIX_FMT_YUV420P as c_int;
    fields.color_range = AVColorRange::AVCOL_RANGE_MPEG;
    let share = Box::into_raw(Box::new(source.clone()));
    // SAFETY: the planes live in the shared picture, which the buffer owns until FFmpeg's last reference goes;
    // the read-only flag keeps FFmpeg from writing.
    unsafe {
        let (data, len) = (frame.bytes().as_ptr().cast_mut(), frame.bytes().len());
        let readonly = ffi::AV_BUFFER_FLAG_READONLY;
        fields.buf[0] = ffi::av_buffer_create(data, len, Some(give_back), share.cast(), readonly);
        if fields.buf[0].is_null() {
            drop(Box::from_raw(share));
            fields.data = [ptr::null_mut(); 8];
            return Err(broken("no memory for a picture"));
        }
    }
    Ok(())
}

unsafe extern "C" fn give_back(share: *mut c_void, _data: *mut u8) {
    // SAFETY: `share` is the box `lend` made; FFmpeg calls this once.
    drop(unsafe { Box::from_raw(share.cast::<CleanFrame>()) });
}

/// A picture turned by a quarter fits the same limit.
pub fn fits(size: Size, max: Size) -> bool {
    let (long, short) = (size.width.max(size.height), size.width.min(size.height));
    let (max_long, max_short) = (max.width.max(max.height), max.width.min(max.height));
    long <= max_long && short <= max_short
}

fn even(side: c_int) -> usize {
    usize::try_from(side).unwrap_or(0) & !1
}

enum Layout {
    Limited,
    Full,
    Other,
}

impl Layout {
    fn of(format: c_int, full: bool) -> Self {
        if format == AVPixelFormat::AV_PIX_FMT_YUV420P as c_int {
            if full { Layout::Full } else { Layout::Limited }
        } else if format == AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int {
            Layout::Full
        } else {
            Layout::Other
        }
    }
}

/// Full to limited range for one byte, rounded: luma 0..255 to 16..235.
const LUMA_TO_LIMITED: [u8; 256] = limited(219, 16, 0);
/// Chroma 0..255 around 128 to 16..240.
const CHROMA_TO_LIMITED: [u8; 256] = limited(224, 128, 128);

const fn limited(span: i32, base: i32, centre: i32) -> [u8; 256] {
    let mut table = [0; 256];
    let mut value = 0;
    while value < 256 {
        let scaled = (value as i32 - centre) * span;
        let rounded = if scaled < 0 { (scaled - 127) / 255 } else { (scaled + 127) / 255 };
        table[value] = (rounded + base) as u8;
        value += 1;
    }
    table
}

/// Copies three planes of 4:2:0, each byte through its table where one is given.
fn copy(
    from: &Picture,
    into: &mut FrameMut,
    tables: Option<(&[u8; 256], &[u8; 256])>,
) -> Result<(), CodecError> {
    let size = into.size();
    for (index, plane) in Plane::ALL.into_iter().enumerate() {
        let Size { width, height } = if plane == Plane::Y { size } else { size.chroma() };
        let table = tables.map(|(luma, chroma)| if plane == Plane::Y { luma } else { chroma });
        let target = into.plane_mut(plane);
        for (row, to) in target.chunks_exact_mut(width).take(height).enumerate() {
            let source = from.row(index, row, width).ok_or_else(|| broken("a picture without its planes"))?;
            match table {
                None => to.copy_from_slice(source),
                Some(table) => {
                    for (to, from) in to.iter_mut().zip(source) {
                        *to = table[usize::from(*from)];
                    }
                }
            }
        }
    }
    Ok(())
}

/// Anything else to limited-range 4:2:0 of the same size.
struct Scaler {
    context: *mut ffi::SwsContext,
    source: (c_int, c_int, c_int),
    result: Picture,
}

// SAFETY: the scaling context is used by one thread at a time, through `&mut`.
unsafe impl Send for Scaler {}

impl Scaler {
    fn shape(picture: &Picture) -> (c_int, c_int, c_int) {
        let fields = picture.read();
        (fields.width, fields.height, fields.format)
    }

    fn serves(&self, picture: &Picture) -> bool {
        self.source == Self::shape(picture)
    }

    fn new(picture: &Picture) -> Result<Self, CodecError> {
        let (width, height, format) = Self::shape(picture);
        let known = (0..AVPixelFormat::AV_PIX_FMT_NB as c_int).contains(&format);
        if !known {
            return Err(broken(format!("a picture in the unknown format {format}")));
        }
        // SAFETY: the number is one of this binding's pixel formats, checked above.
        let source: AVPixelFormat = unsafe { std::mem::transmute(format) };
        let target = AVPixelFormat::AV_PIX_FMT_YUV420P;
        let mut result = Picture::new()?;
        let fields = result.fields();
        (fields.width, fields.height, fields.format) = (width, height, target as c_int);
        result.allocate()?;
        let how = ffmpeg_next::software::scaling::Flags::BILINEAR.bits() as c_int;
        // SAFETY: sizes are those of an existing picture; no filters are given.
        let context = unsafe {
            let null = ptr::null_mut();
            ffi::sws_getContext(width, height, source, width, height, target, how, null, null, ptr::null())
        };
        if context.is_null() {
            return Err(broken(format!("no conversion from pixel format {format}")));
        }
        let full = picture.read().color_range == AVColorRange::AVCOL_RANGE_JPEG;
        // SAFETY: the coefficient tables are static.
        unsafe {
            let table = ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT as c_int);
            ffi::sws_setColorspaceDetails(context, table, c_int::from(full), table, 0, 0, 1 << 16, 1 << 16);
        }
        Ok(Scaler { context, source: (width, height, format), result })
    }

    fn run(&mut self, picture: &Picture) -> Result<&Picture, CodecError> {
        let from = picture.read();
        let into = self.result.fields();
        // SAFETY: both pictures have the sizes and formats the context was made for.
        let code = unsafe {
            ffi::sws_scale(
                self.context,
                from.data.as_ptr().cast(),
                from.linesize.as_ptr(),
                0,
                from.height,
                into.data.as_mut_ptr(),
                into.linesize.as_ptr(),
            )
        };
        check(code, "converting a picture")?;
        Ok(&self.result)
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { ffi::sws_freeContext(self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(format: AVPixelFormat, full: bool, luma: u8, chroma: u8) -> Picture {
        let mut picture = Picture::new().expect("memory");
        let fields = picture.fields();
        (fields.width, fields.height, fields.format) = (33, 18, format as c_int);
        if full {
            fields.color_range = AVColorRange::AVCOL_RANGE_JPEG;
        }
        picture.allocate().expect("memory");
        let tall = format == AVPixelFormat::AV_PIX_FMT_YUV422P;
        for row in 0..18 {
            picture.row_mut(0, row, 33).expect("luma").fill(luma);
        }
        for plane in 1..3 {
            for row in 0..if tall { 18 } else { 9 } {
                picture.row_mut(plane, row, 16).expect("chroma").fill(chroma);
            }
        }
        picture
    }

    fn luma_and_chroma(format: AVPixelFormat, full: bool, luma: u8, chroma: u8) -> (u8, u8) {
        let pool = FramePool::new(1);
        let source = picture(format, full, luma, chroma);
        match Converter::default().convert(&source, &pool, Pts::ZERO, Size::new(64, 64)) {
            Ok(Converted::Picture(frame)) => {
                assert_eq!(frame.size(), Size::new(32, 18));
                (frame.plane(Plane::Y)[40], frame.plane(Plane::U)[20])
            }
            _ => panic!("not converted"),
        }
    }

    #[test]
    fn limited_pictures_are_copied_and_full_ones_are_brought_to_limited_range() {
        use AVPixelFormat::{AV_PIX_FMT_YUV420P, AV_PIX_FMT_YUV422P, AV_PIX_FMT_YUVJ420P};
        assert_eq!(luma_and_chroma(AV_PIX_FMT_YUV420P, false, 200, 90), (200, 90));
        assert_eq!(luma_and_chroma(AV_PIX_FMT_YUV420P, true, 255, 128), (235, 128));
        assert_eq!(luma_and_chroma(AV_PIX_FMT_YUVJ420P, false, 0, 255), (16, 240));
        let (luma, chroma) = luma_and_chroma(AV_PIX_FMT_YUV422P, false, 200, 90);
        assert!(luma.abs_diff(200) <= 1 && chroma.abs_diff(90) <= 1, "{luma} {chroma}");
    }

    #[test]
    fn a_picture_over_the_limit_takes_no_buffer_and_a_turned_one_fits() {
        let pool = FramePool::new(1);
        let source = picture(AVPixelFormat::AV_PIX_FMT_YUV420P, false, 1, 1);
        let convert = |max| Converter::default().convert(&source, &pool, Pts::ZERO, max);
        assert!(matches!(convert(Size::new(32, 16)), Ok(Converted::BadSize(_))));
        assert_eq!(pool.in_use(), 0);
        assert!(matches!(convert(Size::new(18, 32)), Ok(Converted::Picture(_))));
    }
}
