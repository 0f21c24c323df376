//! A cleared picture to the bytes of a JPEG or PNG file, by FFmpeg.
//!
//! [`Still`] has no other maker than [`Stills::encode`], which takes a [`CleanFrame`]: whatever holds a still holds
//! nothing the gate has not cleared. Pictures inside are of limited range, those in JPEG and PNG files of full range.
//! Quality means the tables of ITU-T T.81 §K.1, scaled as libjpeg scales them, except that FFmpeg fixes the step of the
//! mean at 8.

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use ffmpeg_next::ffi::{self, AVColorRange, AVPixelFormat};

use crate::codec::ffmpeg::{CodecContext, Options, Packet, Picture, broken, check};
use crate::codec::still::ImageType;
use crate::codec::still::fit::{Fit, Layout, Part};
use crate::codec::still::scale::{Planes, Scaling, Shape};
use crate::media::codec::CodecError;
use crate::media::frame::{CleanFrame, Frame, Plane, Size};

/// What stills are made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillSettings {
    pub fit: Fit,
    pub format: StillFormat,
}

impl Default for StillSettings {
    fn default() -> Self {
        StillSettings { fit: Fit::default(), format: StillFormat::Jpeg { quality: 75 } }
    }
}

/// The two formats we write; every model takes both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StillFormat {
    /// Quality from 1 to 100.
    Jpeg {
        quality: u8,
    },
    Png,
}

impl StillFormat {
    pub fn image_type(self) -> ImageType {
        match self {
            StillFormat::Jpeg { .. } => ImageType::Jpeg,
            StillFormat::Png => ImageType::Png,
        }
    }

    fn pixels(self) -> AVPixelFormat {
        match self {
            StillFormat::Jpeg { .. } => AVPixelFormat::AV_PIX_FMT_YUVJ420P,
            StillFormat::Png => AVPixelFormat::AV_PIX_FMT_RGB24,
        }
    }
}

/// A cleared picture as a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Still {
    kind: ImageType,
    size: Size,
    bytes: Arc<[u8]>,
}

impl Still {
    pub fn kind(&self) -> ImageType {
        self.kind
    }

    pub fn size(&self) -> Size {
        self.size
    }

    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }
}

impl std::fmt::Debug for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Still({:?} {} {} bytes)", self.kind, self.size, self.bytes.len())
    }
}

/// Makes stills, one after the other; keeps what FFmpeg needs for the size seen last.
pub struct Stills {
    settings: StillSettings,
    scaling: Option<Scaling>,
    encoder: Option<(Size, CodecContext)>,
    packet: Packet,
}

impl Stills {
    pub fn new(settings: StillSettings) -> Result<Self, CodecError> {
        Ok(Stills { settings, scaling: None, encoder: None, packet: Packet::new()? })
    }

    pub fn settings(&self) -> StillSettings {
        self.settings
    }

    pub fn encode(&mut self, picture: &CleanFrame) -> Result<Still, CodecError> {
        let layout = self.settings.fit.lay_out(picture.size());
        let mut plain = self.draw(picture.frame(), &layout)?;
        let kind = self.settings.format.image_type();
        if self.encoder.as_ref().is_none_or(|(size, _)| *size != layout.canvas) {
            self.encoder = Some((layout.canvas, open(self.settings.format, layout.canvas)?));
        }
        let bytes = self.code(&mut plain);
        if bytes.is_err() {
            // An encoder that failed is not asked again.
            self.encoder = None;
        }
        Ok(Still { kind, size: layout.canvas, bytes: bytes? })
    }

    /// The picture in the still's size, format and range.
    fn draw(&mut self, picture: &Frame, layout: &Layout) -> Result<Picture, CodecError> {
        let format = self.settings.format.pixels();
        let mut plain = Picture::new()?;
        let fields = plain.fields();
        (fields.width, fields.height) = (length(layout.canvas.width), length(layout.canvas.height));
        fields.format = format as c_int;
        fields.color_range = AVColorRange::AVCOL_RANGE_JPEG;
        plain.allocate()?;
        let from = Shape {
            width: length(layout.from.size.width),
            height: length(layout.from.size.height),
            format: AVPixelFormat::AV_PIX_FMT_YUV420P,
            full: false,
        };
        let (width, height) = (length(layout.onto.size.width), length(layout.onto.size.height));
        // swscale knows the range apart from the format.
        let planar = AVPixelFormat::AV_PIX_FMT_YUV420P;
        let plain_format = if format == AVPixelFormat::AV_PIX_FMT_RGB24 { format } else { planar };
        let to = Shape { width, height, format: plain_format, full: true };
        let scaling = Scaling::kept(&mut self.scaling, from, to)?;
        let (source, target) = (planes_of(picture, layout.from), planes_in(&mut plain, layout.onto, format));
        // SAFETY: both parts lie inside their pictures, which `Layout` promises; the target was just allocated.
        unsafe { scaling.run(source, target)? };
        if layout.onto.size != layout.canvas {
            // After the scaling, which may write some pixels beyond the end of a line.
            blacken_around(&mut plain, layout, format);
        }
        Ok(plain)
    }

    fn code(&mut self, plain: &mut Picture) -> Result<Arc<[u8]>, CodecError> {
        let Some((_, encoder)) = &mut self.encoder else { return Err(broken("no encoder of stills")) };
        plain.fields().quality = encoder.fields().global_quality;
        // SAFETY: context, frame and packet are valid; the encoder takes its own reference.
        unsafe {
            check(ffi::avcodec_send_frame(encoder.as_ptr(), plain.as_ptr()), "making a still")?;
            check(ffi::avcodec_receive_packet(encoder.as_ptr(), self.packet.as_ptr()), "making a still")?;
        }
        let bytes = Arc::from(self.packet.data());
        self.packet.clear();
        Ok(bytes)
    }
}

fn length(side: usize) -> c_int {
    c_int::try_from(side).unwrap_or(0)
}

fn open(format: StillFormat, size: Size) -> Result<CodecContext, CodecError> {
    let name = match format {
        StillFormat::Jpeg { .. } => "mjpeg",
        StillFormat::Png => "png",
    };
    let mut context = CodecContext::encoder(name)?;
    let fields = context.fields();
    (fields.width, fields.height) = (length(size.width), length(size.height));
    fields.time_base = ffi::AVRational { num: 1, den: 25 };
    fields.pix_fmt = format.pixels();
    fields.color_range = AVColorRange::AVCOL_RANGE_JPEG;
    fields.thread_count = 1;
    let mut options = Options::new();
    match format {
        StillFormat::Jpeg { quality } => {
            fields.flags |= ffi::AV_CODEC_FLAG_QSCALE as c_int;
            // A scale of 8 is where FFmpeg takes the tables as they are.
            fields.global_quality = 8 * ffi::FF_QP2LAMBDA;
            fields.intra_matrix = table(&LUMA, quality)?;
            fields.chroma_intra_matrix = table(&CHROMA, quality)?;
        }
        StillFormat::Png => {
            fields.compression_level = 6;
            options.set("pred", "paeth");
        }
    }
    context.open(&mut options, "opening the encoder of stills")?;
    Ok(context)
}

/// ITU-T T.81 table K.1, line by line.
const LUMA: [u8; 64] = [
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
    22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
    87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
];
/// Table K.2.
const CHROMA: [u8; 64] = [
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];

/// One entry of a table at `quality` from 1 to 100.
fn step(base: u8, quality: u8) -> u16 {
    let quality = u32::from(quality.clamp(1, 100));
    let percent = if quality < 50 { 5000 / quality } else { 200 - 2 * quality };
    ((u32::from(base) * percent + 50) / 100).clamp(1, 255) as u16
}

/// In memory of FFmpeg's, which frees it together with its context.
fn table(base: &[u8; 64], quality: u8) -> Result<*mut u16, CodecError> {
    // SAFETY: allocates; every entry is written before anybody reads it.
    unsafe {
        let memory = ffi::av_malloc(64 * size_of::<u16>()).cast::<u16>();
        if memory.is_null() {
            return Err(broken("no memory for the encoder of stills"));
        }
        for (at, base) in base.iter().enumerate() {
            memory.add(at).write(step(*base, quality));
        }
        Ok(memory)
    }
}

/// The planes of `part` of one of our pictures.
fn planes_of(picture: &Frame, part: Part) -> Planes {
    let mut planes = Planes { data: [ptr::null_mut(); 4], lines: [0; 4] };
    for (index, plane) in Plane::ALL.into_iter().enumerate() {
        let halved = usize::from(plane != Plane::Y);
        let width = if plane == Plane::Y { picture.size().width } else { picture.size().chroma().width };
        let start = (part.top >> halved) * width + (part.left >> halved);
        // Only read from: `Scaling` wants one type for both ends.
        planes.data[index] = picture.plane(plane)[start..].as_ptr().cast_mut();
        planes.lines[index] = length(width);
    }
    planes
}

/// The planes of `part` of one of FFmpeg's pictures, which we have just allocated.
fn planes_in(picture: &mut Picture, part: Part, format: AVPixelFormat) -> Planes {
    let fields = picture.fields();
    let mut planes = Planes { data: [ptr::null_mut(); 4], lines: [0; 4] };
    let rgb = format == AVPixelFormat::AV_PIX_FMT_RGB24;
    for index in 0..if rgb { 1 } else { 3 } {
        let halved = usize::from(index > 0);
        let line = fields.linesize[index];
        let across = (part.left >> halved) * if rgb { 3 } else { 1 };
        let start = (part.top >> halved) * usize::try_from(line).unwrap_or(0) + across;
        planes.data[index] = fields.data[index].wrapping_add(start);
        planes.lines[index] = line;
    }
    planes
}

/// Paints black what lies around the picture.
fn blacken_around(picture: &mut Picture, layout: &Layout, format: AVPixelFormat) {
    let rgb = format == AVPixelFormat::AV_PIX_FMT_RGB24;
    for index in 0..if rgb { 1 } else { 3 } {
        let halved = usize::from(index > 0);
        let half = |length: usize| if halved == 1 { length.div_ceil(2) } else { length };
        let pixel = if rgb { 3 } else { 1 };
        let black = if halved == 1 { 128 } else { 0 };
        let (width, height) = (half(layout.canvas.width) * pixel, half(layout.canvas.height));
        let (left, top) = ((layout.onto.left >> halved) * pixel, layout.onto.top >> halved);
        let (right, bottom) =
            (left + half(layout.onto.size.width) * pixel, top + half(layout.onto.size.height));
        for row in 0..height {
            let Some(line) = picture.row_mut(index, row, width) else { return };
            if (top..bottom).contains(&row) {
                line[..left].fill(black);
                line[right.min(width)..].fill(black);
            } else {
                line.fill(black);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::base::time::Pts;
    use crate::codec::still::decode::{Limits, open as read};
    use crate::codec::still::fit::Strategy;
    use crate::codec::still::sniff::sniff;
    use crate::media::filter::Gate;
    use crate::media::pool::FramePool;
    use crate::media::psnr::psnr_y;

    /// Shapes, gradients and colours; limited range.
    fn scene(size: Size) -> CleanFrame {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(size, Pts::ZERO).expect("room");
        let [y, u, v] = picture.planes_mut();
        for (at, luma) in y.iter_mut().enumerate() {
            let (x, line) = (at % size.width, at / size.width);
            let edge = if (x / 40 + line / 40).is_multiple_of(2) { 40 } else { 0 };
            *luma = (16 + (x * 150 / size.width) + edge) as u8;
        }
        let chroma = size.chroma();
        for (at, (u, v)) in u.iter_mut().zip(v).enumerate() {
            let (x, line) = (at % chroma.width, at / chroma.width);
            (*u, *v) = ((90 + x * 70 / chroma.width) as u8, (160 - line * 60 / chroma.height) as u8);
        }
        CleanFrame::drawn_here(picture)
    }

    fn back(still: &Still) -> CleanFrame {
        let pool = FramePool::new(2);
        let raw = read(still.bytes(), &pool, Pts::ZERO, &Limits::default()).expect("our own still");
        Gate::open().release(Instant::now(), raw, &pool).expect("an open gate")
    }

    fn made(picture: &CleanFrame, format: StillFormat, fit: Fit) -> Still {
        Stills::new(StillSettings { fit, format }).expect("FFmpeg").encode(picture).expect("a still")
    }

    #[test]
    fn a_still_shows_what_the_picture_showed() {
        let picture = scene(Size::new(640, 360));
        for (format, at_least) in [(StillFormat::Jpeg { quality: 75 }, 38.0), (StillFormat::Png, 40.0)] {
            let still = made(&picture, format, Fit::default());
            let claim = sniff(still.bytes()).expect("a header");
            assert_eq!((claim.kind, claim.size), (format.image_type(), Size::new(640, 360)));
            let seen = back(&still);
            let likeness = psnr_y(picture.frame(), seen.frame());
            assert!(likeness > at_least, "{format:?}: {likeness:.1} dB");
            for plane in [Plane::U, Plane::V] {
                let (a, b) = (picture.frame().plane(plane), seen.frame().plane(plane));
                let off: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
                assert!(off <= 3 * a.len() as u64, "{format:?}: {plane:?} is off by {off}");
            }
        }
    }

    /// Black must be 0 and white 255 in the file, or every picture looks washed out to a model.
    #[test]
    fn files_have_the_full_range() {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(Size::new(64, 32), Pts::ZERO).expect("room");
        for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            *luma = if at % 64 < 32 { 16 } else { 235 };
        }
        picture.plane_mut(Plane::U).fill(128);
        picture.plane_mut(Plane::V).fill(128);
        let picture = CleanFrame::drawn_here(picture);
        for format in [StillFormat::Jpeg { quality: 90 }, StillFormat::Png] {
            let mut stills = Stills::new(StillSettings { fit: Fit::default(), format }).expect("FFmpeg");
            let layout = stills.settings.fit.lay_out(picture.size());
            let plain = stills.draw(picture.frame(), &layout).expect("a picture");
            let pixel = if format == StillFormat::Png { 3 } else { 1 };
            let line = plain.row(0, 8, 64 * pixel).expect("a line");
            assert!(line[8 * pixel] <= 1 && line[56 * pixel] >= 254, "{format:?} {line:?}");
        }
    }

    #[test]
    fn strategies_show_the_part_they_name_and_bars_are_black() {
        let picture = scene(Size::new(640, 360));
        let fit = |strategy| Fit { width: 200, height: 200, strategy };
        for format in [StillFormat::Jpeg { quality: 90 }, StillFormat::Png] {
            let boxed = back(&made(&picture, format, fit(Strategy::CenterAspectFit)));
            assert_eq!(boxed.size(), Size::new(200, 200));
            let row = |picture: &CleanFrame, row: usize| {
                let width = picture.size().width;
                picture.frame().plane(Plane::Y)[row * width..(row + 1) * width].to_vec()
            };
            assert!(row(&boxed, 10).iter().all(|luma| *luma < 24), "{format:?}");
            assert!(row(&boxed, 190).iter().all(|luma| *luma < 24), "{format:?}");
            assert!(row(&boxed, 100).iter().filter(|luma| **luma > 60).count() > 100, "{format:?}");
            let cut = back(&made(&picture, format, fit(Strategy::CenterAspectCover)));
            // The middle 360 of 640 columns: the gradient begins at 140 of 640.
            let first = row(&cut, 30)[3];
            assert!((45..100).contains(&first), "{format:?} {first}");
            for (strategy, width, height) in
                [(Strategy::ScaleAspectFit, 200, 113), (Strategy::ScaleAspectCover, 356, 200)]
            {
                let still = made(&picture, format, fit(strategy));
                assert_eq!(still.size(), Size::new(width, height), "{strategy:?}");
                assert_eq!(sniff(still.bytes()).map(|claim| claim.size), Some(still.size()));
            }
        }
    }

    #[test]
    fn the_tables_in_the_file_are_those_of_the_quality_asked_for() {
        let picture = scene(Size::new(320, 240));
        let len = |quality| made(&picture, StillFormat::Jpeg { quality }, Fit::default()).bytes().len();
        assert!(len(20) < len(75) && len(75) < len(95), "{} {} {}", len(20), len(75), len(95));
        let still = made(&picture, StillFormat::Jpeg { quality: 75 }, Fit::default());
        let at = still.bytes().windows(4).position(|four| four == [0xff, 0xdb, 0x00, 0x43]);
        let at = at.or_else(|| still.bytes().windows(2).position(|two| two == [0xff, 0xdb]));
        let start = at.expect("a table") + 5;
        // In zigzag order: 16, 11, 12, 14, 12, 10 at half.
        assert_eq!(still.bytes()[start..start + 6], [8, 6, 6, 7, 6, 5]);
    }

    #[test]
    fn any_size_makes_a_still_and_sizes_may_change() {
        let mut stills = Stills::new(StillSettings::default()).expect("FFmpeg");
        for (width, height) in [(2, 2), (16, 2), (176, 144), (2, 64), (1920, 1080), (720, 1280), (176, 144)] {
            let still = stills.encode(&scene(Size::new(width, height))).expect("a still");
            assert!(still.size().width <= 1024 && still.size().height <= 1024);
            assert_eq!(sniff(still.bytes()).map(|claim| claim.size), Some(still.size()));
        }
    }

    /// What a turn waits for. The best of ten, as other tests run beside this one.
    #[test]
    fn a_still_is_made_well_within_what_a_turn_may_wait() {
        for (size, most_ms) in [(Size::new(640, 360), 15), (Size::new(1280, 720), 30)] {
            let picture = scene(size);
            let mut stills = Stills::new(StillSettings::default()).expect("FFmpeg");
            let mut times: Vec<u128> = (0..10)
                .map(|_| {
                    let began = Instant::now();
                    stills.encode(&picture).expect("a still");
                    began.elapsed().as_micros()
                })
                .collect();
            times.sort_unstable();
            println!("{size}: {} us at best, {} us in the middle", times[0], times[5]);
            assert!(times[0] < most_ms * 1_000, "{size}: {times:?} us");
        }
    }
}
