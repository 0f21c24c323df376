//! The GPL-free encoder: OpenH264 built from source (BSD-2). Never the decoder of the network: it loses whole
//! groups of pictures to one lost packet.

use std::ffi::c_int;

use openh264::OpenH264API;
use openh264::encoder::{
    BitRate, Complexity, Encoder, EncoderConfig, FrameRate, IntraFramePeriod, Profile, RateControlMode,
    UsageType,
};
use openh264::formats::YUVSlices;

use crate::codec::ffmpeg::broken;
use crate::codec::h264::encoder::EncoderSettings;
use crate::codec::h264::shape::Shaper;
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::frame::{CleanFrame, Plane, Size};

/// `ENCODER_OPTION_BITRATE` and `ENCODER_OPTION_MAX_BITRATE` of `codec_app_def.h`.
const OPTION_BITRATE: c_int = 5;
const OPTION_MAX_BITRATE: c_int = 6;
const OPTION_TRACE_LEVEL: c_int = 25;
/// `SPATIAL_LAYER_ALL`.
const ALL_LAYERS: c_int = 4;

/// `SBitrateInfo` of `codec_app_def.h`.
#[repr(C)]
struct LayerBitrate {
    layer: c_int,
    bits_per_second: c_int,
}

pub(super) struct OpenH264Encoder {
    encoder: Encoder,
    settings: EncoderSettings,
    started: bool,
    key_owed: bool,
    stream: Vec<u8>,
    shaper: Shaper,
}

impl OpenH264Encoder {
    pub(super) fn open(settings: &EncoderSettings) -> Result<Self, CodecError> {
        let mut config = EncoderConfig::new()
            .bitrate(BitRate::from_bps(settings.kbps.saturating_mul(1000)))
            .max_frame_rate(FrameRate::from_hz(settings.fps as f32))
            .rate_control_mode(RateControlMode::Bitrate)
            .usage_type(UsageType::CameraVideoRealTime)
            .profile(Profile::Baseline)
            .complexity(Complexity::Low)
            .intra_frame_period(IntraFramePeriod::from_num_frames(settings.key_interval()))
            .scene_change_detect(false)
            // Rate control needs the leave to skip; without it the library warns on stderr.
            .skip_frames(true)
            .num_threads(1);
        if let Some(bytes) = settings.max_nal_bytes {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            config = config.max_slice_len(bytes);
        }
        let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).map_err(failed)?;
        let mut quiet: c_int = 0;
        // SAFETY: the level is read as an int, and is one of the options allowed before initialisation. The crate
        // sets it too late for what the library says while it starts. A refusal costs a line on stderr.
        let _ = unsafe { encoder.raw_api().set_option(OPTION_TRACE_LEVEL, (&raw mut quiet).cast()) };
        Ok(OpenH264Encoder {
            encoder,
            settings: settings.clone(),
            started: false,
            key_owed: true,
            stream: Vec::new(),
            shaper: Shaper::default(),
        })
    }

    fn set_option(&mut self, option: c_int, kbps: u32) -> Result<(), CodecError> {
        let bits_per_second = c_int::try_from(u64::from(kbps) * 1000).unwrap_or(c_int::MAX);
        let mut value = LayerBitrate { layer: ALL_LAYERS, bits_per_second };
        // SAFETY: the encoder is initialised (`started`), and both options read an `SBitrateInfo`.
        let code = unsafe { self.encoder.raw_api().set_option(option, (&raw mut value).cast()) };
        if code == 0 { Ok(()) } else { Err(broken(format!("openh264 refused {kbps} kb/s (code {code})"))) }
    }
}

fn failed(error: openh264::Error) -> CodecError {
    broken(format!("encoding with openh264: {error}"))
}

impl VideoEncoder for OpenH264Encoder {
    fn encode(&mut self, picture: &CleanFrame, key: bool) -> Result<Option<AccessUnit>, CodecError> {
        let size = self.settings.size;
        if picture.size() != size {
            let (got, wants) = (picture.size(), size);
            return Err(broken(format!("a picture of {got} given to an encoder for {wants}")));
        }
        // A skipped picture still owes its key picture.
        self.key_owed |= key;
        if self.key_owed && self.started {
            self.encoder.force_intra_frame();
        }
        let frame = picture.frame();
        let planes = (frame.plane(Plane::Y), frame.plane(Plane::U), frame.plane(Plane::V));
        let chroma = size.chroma().width;
        let source = YUVSlices::new(planes, (size.width, size.height), (size.width, chroma, chroma));
        let at = openh264::Timestamp::from_millis(u64::try_from(picture.pts().millis()).unwrap_or(0));
        let coded = self.encoder.encode_at(&source, at).map_err(failed)?;
        self.started = true;
        self.stream.clear();
        coded.write_vec(&mut self.stream);
        let Some((data, key)) = self.shaper.shape(&self.stream) else {
            return Ok(None);
        };
        self.key_owed &= !key;
        Ok(Some(AccessUnit { codec: VideoCodec::H264, data, pts: picture.pts(), key, damaged: false }))
    }

    fn size(&self) -> Size {
        self.settings.size
    }

    fn set_bitrate(&mut self, kbps: u32) -> Result<(), CodecError> {
        let settings = EncoderSettings { kbps, ..self.settings.clone() }.checked()?;
        if kbps == self.settings.kbps {
            return Ok(());
        }
        if !self.started {
            *self = Self::open(&settings)?;
            return Ok(());
        }
        // The maximum may never be below the target.
        let order = if kbps > self.settings.kbps {
            [OPTION_MAX_BITRATE, OPTION_BITRATE]
        } else {
            [OPTION_BITRATE, OPTION_MAX_BITRATE]
        };
        for option in order {
            self.set_option(option, kbps)?;
        }
        self.settings = settings;
        Ok(())
    }
}
