//! H.264 encoders behind [`VideoEncoder`]: which there are, what they are asked for, and the FFmpeg one.
//!
//! Constrained Baseline, no B pictures, no delay, Annex B. Every key picture starts with its parameter sets.
//! Whether an encoder works on this box is for [`super::probe`] to find out.

use std::ffi::c_int;

use ffmpeg_next::ffi::{self, AVPictureType};

use crate::base::time::Pts;
use crate::codec::convert::lend;
use crate::codec::ffmpeg::{AGAIN, CodecContext, Packet, Picture, broken, check};
use crate::codec::h264::hardware::{self, Upload, Variant};
use crate::codec::h264::shape::Shaper;
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::frame::{CleanFrame, Size};

/// The encoders there are, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EncoderKind {
    Nvenc,
    V4l2m2m,
    Vaapi,
    Qsv,
    X264,
    OpenH264,
}

impl EncoderKind {
    pub const ALL: [EncoderKind; 6] = [
        EncoderKind::Nvenc,
        EncoderKind::V4l2m2m,
        EncoderKind::Vaapi,
        EncoderKind::Qsv,
        EncoderKind::X264,
        EncoderKind::OpenH264,
    ];

    /// The name in settings, which for all but one is FFmpeg's.
    pub fn name(self) -> &'static str {
        match self {
            EncoderKind::Nvenc => "h264_nvenc",
            EncoderKind::V4l2m2m => "h264_v4l2m2m",
            EncoderKind::Vaapi => "h264_vaapi",
            EncoderKind::Qsv => "h264_qsv",
            EncoderKind::X264 => "libx264",
            EncoderKind::OpenH264 => "openh264",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the bitrate changes without a new encoder.
    fn adapts(self) -> bool {
        matches!(self, EncoderKind::X264 | EncoderKind::Nvenc)
    }
}

/// What an encoder is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Even, at least 16 pixels each way.
    pub size: Size,
    /// Nominal pictures a second; rate control counts on it.
    pub fps: u32,
    pub kbps: u32,
    /// No NAL unit may be longer: packetization-mode 0 sends one whole NAL unit a packet.
    pub max_nal_bytes: Option<usize>,
    /// The peer's limit: profile_idc, profile_iop, level_idc. The level is written into the stream; the profile is
    /// always Constrained Baseline, which every decoder takes.
    pub profile_level_id: Option<[u8; 3]>,
    /// A key picture at least this often, even when nobody asks.
    pub key_interval_s: u32,
}

impl EncoderSettings {
    pub fn new(size: Size, fps: u32, kbps: u32) -> Self {
        EncoderSettings { size, fps, kbps, max_nal_bytes: None, profile_level_id: None, key_interval_s: 10 }
    }

    pub(in crate::codec) fn key_interval(&self) -> u32 {
        self.fps.saturating_mul(self.key_interval_s).max(1)
    }

    pub(in crate::codec) fn checked(self) -> Result<Self, CodecError> {
        let Size { width, height } = self.size;
        let sides_ok = [width, height].iter().all(|side| (16..=8192).contains(side) && side % 2 == 0);
        if !sides_ok {
            return Err(broken(format!(
                "{} cannot be encoded: both sides must be even, 16 to 8192",
                self.size
            )));
        }
        if !(1..=240).contains(&self.fps) || !(16..=100_000).contains(&self.kbps) {
            let asked = format!("{} pictures a second at {} kb/s", self.fps, self.kbps);
            return Err(broken(format!("{asked} cannot be encoded: 1 to 240 and 16 to 100000")));
        }
        Ok(self)
    }
}

/// Opens an encoder. It may still not work: see [`super::probe::choose`].
pub fn open(kind: EncoderKind, settings: &EncoderSettings) -> Result<Box<dyn VideoEncoder>, CodecError> {
    let settings = settings.clone().checked()?;
    match kind {
        EncoderKind::OpenH264 => open_openh264(&settings),
        _ => Ok(Box::new(FfmpegEncoder::open(kind, &settings)?)),
    }
}

#[cfg(feature = "openh264")]
fn open_openh264(settings: &EncoderSettings) -> Result<Box<dyn VideoEncoder>, CodecError> {
    Ok(Box::new(super::openh264::OpenH264Encoder::open(settings)?))
}

#[cfg(not(feature = "openh264"))]
fn open_openh264(_settings: &EncoderSettings) -> Result<Box<dyn VideoEncoder>, CodecError> {
    Err(broken("openh264 is not in this build: build with the feature `openh264`"))
}

/// How much the rate control may send ahead, in milliseconds of the bitrate: what bounds a key picture.
const BUFFER_MS: i64 = 400;

/// Finer than this nobody sees (about 45 dB), while a quiet picture would cost the whole bitrate, and the time to
/// write it.
const QUANTIZER_MIN: c_int = 18;

/// Nanoseconds: an encoder hands back the time of the picture a unit belongs to.
const TIME_BASE: ffi::AVRational = ffi::AVRational { num: 1, den: 1_000_000_000 };

struct FfmpegEncoder {
    kind: EncoderKind,
    settings: EncoderSettings,
    context: CodecContext,
    upload: Upload,
    picture: Picture,
    packet: Packet,
    shaper: Shaper,
    last: i64,
    key_owed: bool,
}

impl FfmpegEncoder {
    fn open(kind: EncoderKind, settings: &EncoderSettings) -> Result<Self, CodecError> {
        let (context, upload) = open_context(kind, settings)?;
        let shaper = Shaper::new(context.extradata());
        Ok(FfmpegEncoder {
            kind,
            settings: settings.clone(),
            context,
            upload,
            picture: Picture::new()?,
            packet: Packet::new()?,
            shaper,
            last: i64::MIN,
            key_owed: true,
        })
    }

    fn reopen(&mut self) -> Result<(), CodecError> {
        let (context, upload) = open_context(self.kind, &self.settings)?;
        self.shaper = Shaper::new(context.extradata());
        (self.context, self.upload, self.key_owed) = (context, upload, true);
        Ok(())
    }

    fn send(&mut self, source: &CleanFrame, key: bool) -> Result<c_int, CodecError> {
        match &mut self.upload {
            Upload::Planar => lend(&mut self.picture, source)?,
            upload => upload.fill(source.frame(), &mut self.picture)?,
        }
        let fields = self.picture.fields();
        fields.pts = self.last;
        fields.pict_type =
            if key { AVPictureType::AV_PICTURE_TYPE_I } else { AVPictureType::AV_PICTURE_TYPE_NONE };
        // SAFETY: context and frame are valid; the encoder takes its own reference.
        let code = unsafe { ffi::avcodec_send_frame(self.context.as_ptr(), self.picture.as_ptr()) };
        self.picture.clear();
        Ok(code)
    }

    fn receive(&mut self) -> Result<Option<AccessUnit>, CodecError> {
        // SAFETY: context and packet are valid.
        let code = unsafe { ffi::avcodec_receive_packet(self.context.as_ptr(), self.packet.as_ptr()) };
        if code == AGAIN {
            return Ok(None);
        }
        check(code, &format!("encoding with {}", self.kind.name()))?;
        let pts = Pts::from_nanos(self.packet.fields().pts);
        let shaped = self.shaper.shape(self.packet.data());
        self.packet.clear();
        Ok(shaped.map(|(data, key)| AccessUnit { codec: VideoCodec::H264, data, pts, key, damaged: false }))
    }
}

impl VideoEncoder for FfmpegEncoder {
    fn encode(&mut self, picture: &CleanFrame, key: bool) -> Result<Option<AccessUnit>, CodecError> {
        if picture.size() != self.settings.size {
            let (got, wants) = (picture.size(), self.settings.size);
            return Err(broken(format!("a picture of {got} given to an encoder for {wants}")));
        }
        // Encoders insist on rising times; two pictures of the same time are a nanosecond apart here.
        self.last = picture.pts().nanos().max(self.last.saturating_add(1));
        let key = key || self.key_owed;
        let mut earlier = None;
        let mut code = self.send(picture, key)?;
        if code == AGAIN {
            earlier = self.receive()?;
            code = self.send(picture, key)?;
        }
        check(code, &format!("encoding with {}", self.kind.name()))?;
        self.key_owed = false;
        match earlier {
            None => self.receive(),
            some => Ok(some),
        }
    }

    fn size(&self) -> Size {
        self.settings.size
    }

    fn set_bitrate(&mut self, kbps: u32) -> Result<(), CodecError> {
        let settings = EncoderSettings { kbps, ..self.settings.clone() }.checked()?;
        if self.settings.kbps != kbps {
            self.settings = settings;
            if !self.kind.adapts() {
                return self.reopen();
            }
            set_rate(self.context.fields(), kbps);
        }
        Ok(())
    }

    fn adapts(&self) -> bool {
        self.kind.adapts()
    }
}

fn set_rate(fields: &mut ffi::AVCodecContext, kbps: u32) {
    let rate = i64::from(kbps) * 1000;
    fields.bit_rate = rate;
    fields.rc_max_rate = rate;
    fields.rc_buffer_size = c_int::try_from(rate * BUFFER_MS / 1000).unwrap_or(c_int::MAX);
}

fn open_context(kind: EncoderKind, settings: &EncoderSettings) -> Result<(CodecContext, Upload), CodecError> {
    let mut opened = Err(broken("nothing was tried"));
    for variant in Variant::of(kind) {
        opened = open_variant(kind, *variant, settings);
        if opened.is_ok() {
            break;
        }
    }
    opened
}

fn open_variant(
    kind: EncoderKind,
    variant: Variant,
    settings: &EncoderSettings,
) -> Result<(CodecContext, Upload), CodecError> {
    let mut context = CodecContext::encoder(kind.name())?;
    let upload = hardware::prepare(kind, variant, &mut context, settings.size)?;
    let fields = context.fields();
    let side = |pixels: usize| c_int::try_from(pixels).unwrap_or(0);
    (fields.width, fields.height) = (side(settings.size.width), side(settings.size.height));
    fields.time_base = TIME_BASE;
    fields.framerate = ffi::AVRational { num: settings.fps as c_int, den: 1 };
    fields.gop_size = c_int::try_from(settings.key_interval()).unwrap_or(c_int::MAX);
    fields.max_b_frames = 0;
    fields.thread_count = 1;
    fields.color_range = ffi::AVColorRange::AVCOL_RANGE_MPEG;
    if kind == EncoderKind::X264 {
        fields.qmin = QUANTIZER_MIN;
    }
    set_rate(fields, settings.kbps);
    if let Some(level) = settings.profile_level_id.map(level_of) {
        fields.level = level;
    }
    let mut options = hardware::options(kind, variant);
    if let Some(bytes) = settings.max_nal_bytes {
        options.set("slice-max-size", &bytes.to_string());
        options.set("max_slice_size", &bytes.to_string());
    }
    context.open(&mut options, &format!("opening {}{}", kind.name(), hardware::advice(kind)))?;
    Ok((context, upload))
}

/// Level 1b of the Baseline profiles is written as level 1.1 with constraint_set3 (ITU-T H.264 §A.3.4.1); encoders
/// call it 9.
fn level_of([_, constraints, level]: [u8; 3]) -> c_int {
    if level == 11 && constraints & 0x10 != 0 { 9 } else { c_int::from(level) }
}
