//! The VP8 encoder: libvpx through FFmpeg, in real time, without delay, made for lines that lose packets.
//!
//! Whether it works on this box is found out once, as with H.264 ([`super::h264::probe`]); without it VP8 is only
//! received. Decoding is [`super::decoder`], packets are `rtp::payload::vp8`.

use std::ffi::c_int;
use std::sync::OnceLock;

use ffmpeg_next::ffi::{self, AVPictureType};

use crate::codec::convert::lend;
use crate::codec::ffmpeg::{AGAIN, CodecContext, Options, Packet, Picture, broken, check};
use crate::codec::h264::encoder::EncoderSettings;
use crate::codec::h264::probe;
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::frame::{CleanFrame, Size};
use crate::media::vp8;

/// FFmpeg's name of it.
pub const NAME: &str = "libvpx";

const CLOCK_RATE: i64 = 90_000;
/// How much the rate control may send ahead, in milliseconds of the bitrate.
const BUFFER_MS: i64 = 400;
/// Of 0 to 63. Finer nobody sees; coarser is no picture.
const QUANTIZER: (c_int, c_int) = (8, 56);
/// What libvpx wants: no look-ahead, no hidden pictures, a bound on key pictures in percent of an average one.
const OPTIONS: [(&str, &str); 6] = [
    ("deadline", "realtime"),
    ("cpu-used", "8"),
    ("lag-in-frames", "0"),
    ("auto-alt-ref", "0"),
    ("error-resilient", "default"),
    ("max-intra-rate", "900"),
];

/// Whether this box can encode VP8: a moving picture that decodes back, key pictures where they are asked for. Takes
/// some 100 ms the first time.
///
/// # Errors
/// The text says what is missing.
pub fn proven() -> Result<(), CodecError> {
    static PROVEN: OnceLock<Result<(), CodecError>> = OnceLock::new();
    let proof = || {
        let result =
            Vp8Encoder::open(&probe::asked()).and_then(|mut encoder| probe::judge(&mut encoder, None));
        match &result {
            Ok(()) => tracing::info!("the encoder {NAME} works"),
            Err(why) => tracing::warn!("VP8 is received only, {NAME} does not work: {why}"),
        }
        result
    };
    PROVEN.get_or_init(proof).clone()
}

/// One encoder of one outbound stream.
pub struct Vp8Encoder {
    settings: EncoderSettings,
    context: CodecContext,
    picture: Picture,
    packet: Packet,
    last: i64,
    key_owed: bool,
}

impl Vp8Encoder {
    /// Of `settings` what H.264 alone has is left aside.
    pub fn open(settings: &EncoderSettings) -> Result<Self, CodecError> {
        let settings = settings.clone().checked()?;
        Ok(Vp8Encoder {
            context: open_context(&settings)?,
            settings,
            picture: Picture::new()?,
            packet: Packet::new()?,
            last: i64::MIN,
            key_owed: true,
        })
    }

    fn receive(&mut self, picture: &CleanFrame) -> Result<Option<AccessUnit>, CodecError> {
        // SAFETY: context and packet are valid.
        let code = unsafe { ffi::avcodec_receive_packet(self.context.as_ptr(), self.packet.as_ptr()) };
        if code == AGAIN {
            return Ok(None);
        }
        check(code, "encoding with libvpx")?;
        let data = bytes::Bytes::copy_from_slice(self.packet.data());
        self.packet.clear();
        let key = vp8::is_key(&data);
        Ok(Some(AccessUnit { codec: VideoCodec::Vp8, data, pts: picture.pts(), key, damaged: false }))
    }
}

impl VideoEncoder for Vp8Encoder {
    fn encode(&mut self, picture: &CleanFrame, key: bool) -> Result<Option<AccessUnit>, CodecError> {
        if picture.size() != self.settings.size {
            let (got, wants) = (picture.size(), self.settings.size);
            return Err(broken(format!("a picture of {got} given to an encoder for {wants}")));
        }
        let ticks = i128::from(picture.pts().nanos()) * i128::from(CLOCK_RATE) / 1_000_000_000;
        // libvpx insists on rising times.
        self.last = i64::try_from(ticks).unwrap_or(self.last).max(self.last.saturating_add(1));
        lend(&mut self.picture, picture)?;
        let fields = self.picture.fields();
        fields.pts = self.last;
        fields.pict_type = if key || self.key_owed {
            AVPictureType::AV_PICTURE_TYPE_I
        } else {
            AVPictureType::AV_PICTURE_TYPE_NONE
        };
        // SAFETY: context and frame are valid; the encoder takes its own reference.
        let code = unsafe { ffi::avcodec_send_frame(self.context.as_ptr(), self.picture.as_ptr()) };
        self.picture.clear();
        check(code, "encoding with libvpx")?;
        self.key_owed = false;
        self.receive(picture)
    }

    fn size(&self) -> Size {
        self.settings.size
    }

    fn set_bitrate(&mut self, kbps: u32) -> Result<(), CodecError> {
        let settings = EncoderSettings { kbps, ..self.settings.clone() }.checked()?;
        if self.settings.kbps != kbps {
            self.context = open_context(&settings)?;
            (self.settings, self.key_owed) = (settings, true);
        }
        Ok(())
    }

    /// FFmpeg opens libvpx anew for another bitrate.
    fn adapts(&self) -> bool {
        false
    }
}

fn open_context(settings: &EncoderSettings) -> Result<CodecContext, CodecError> {
    let mut context = CodecContext::encoder(NAME)?;
    let fields = context.fields();
    let side = |pixels: usize| c_int::try_from(pixels).unwrap_or(0);
    (fields.width, fields.height) = (side(settings.size.width), side(settings.size.height));
    fields.pix_fmt = ffi::AVPixelFormat::AV_PIX_FMT_YUV420P;
    fields.time_base = ffi::AVRational { num: 1, den: CLOCK_RATE as c_int };
    // The time a picture lasts, from which the rate control learns the rate.
    fields.ticks_per_frame = (CLOCK_RATE as c_int / settings.fps as c_int).max(1);
    fields.framerate = ffi::AVRational { num: settings.fps as c_int, den: 1 };
    fields.gop_size = c_int::try_from(settings.key_interval()).unwrap_or(c_int::MAX);
    fields.thread_count = 1;
    let rate = i64::from(settings.kbps) * 1000;
    (fields.bit_rate, fields.rc_max_rate, fields.rc_min_rate) = (rate, rate, rate);
    fields.rc_buffer_size = c_int::try_from(rate * BUFFER_MS / 1000).unwrap_or(c_int::MAX);
    (fields.qmin, fields.qmax) = QUANTIZER;
    context.open(&mut Options::of(&OPTIONS), "opening libvpx")?;
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::pool::FramePool;

    #[test]
    fn this_box_can_encode_vp8() {
        assert_eq!(proven(), Ok(()));
    }

    #[test]
    fn key_pictures_come_when_asked_for_and_with_another_bitrate() {
        let size = Size::new(320, 180);
        let mut encoder = Vp8Encoder::open(&EncoderSettings::new(size, 15, 300)).expect("libvpx");
        let pool = FramePool::new(2);
        let mut keys = Vec::new();
        for number in 0..20_u32 {
            let mut picture = pool.take_sized(size, Pts::from_millis(i64::from(number) * 66)).expect("room");
            probe::paint(&mut picture, number as usize);
            match number {
                10 => encoder.set_bitrate(300).expect("a bitrate"),
                15 => encoder.set_bitrate(100).expect("a bitrate"),
                _ => {}
            }
            let unit =
                encoder.encode(&CleanFrame::drawn_here(picture), number == 5).expect("coded").expect("now");
            assert_eq!(unit.pts, Pts::from_millis(i64::from(number) * 66));
            if unit.key {
                assert_eq!(vp8::picture_size(&unit.data), Some(size));
                keys.push(number);
            }
        }
        assert_eq!(keys, [0, 5, 15]);
        assert!(encoder.set_bitrate(1).is_err());
    }
}
