//! The decoder of inbound pictures, whatever their codec: FFmpeg, one thread, no delay, concealing what was lost.
//!
//! Each unit says its codec; where it is another than before, the decoder is opened anew and begins at a key picture.
//! Damaged units are decoded anyway; asking the peer for a key picture is the engine's business. It must also ask
//! when units go in and no pictures come out: a picture lost at the wrap of `frame_num` hides those up to the next
//! wrap (FFmpeg, H.264 streams with picture order count type 2).

use ffmpeg_next::ffi::{self, AVCodecID};

use crate::base::time::Pts;
use crate::codec::convert::{Converted, Converter, fits};
use crate::codec::ffmpeg::{AGAIN, CodecContext, Options, Packet, Picture, check};
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{CodecError, VideoDecoder};
use crate::media::frame::{Frame, RawFrame, Size};
use crate::media::pool::FramePool;
use crate::media::{h265, sps, vp8, vp9};

/// So many pictures are withheld while none is known to be complete; then a stream that never sends a key picture
/// (gradual intra refresh without recovery points) is shown as it is.
const WITHHELD_MAX: u32 = 90;

/// No camera sends less on either side, and no encoder takes it.
const SMALLEST: usize = 16;

/// What one decoder did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderCounters {
    pub units: u64,
    pub pictures: u64,
    /// Units FFmpeg could make nothing of.
    pub unusable: u64,
    /// Pictures outside the size limits.
    pub bad_size: u64,
    /// Pictures before the first complete one.
    pub withheld: u64,
    /// Pictures for which the pool had no buffer.
    pub no_room: u64,
}

/// One decoder of one inbound stream.
pub struct Decoder {
    codec: VideoCodec,
    context: CodecContext,
    packet: Packet,
    picture: Picture,
    converter: Converter,
    max: Size,
    complete: bool,
    counters: DecoderCounters,
}

impl Decoder {
    /// The largest picture decoded unless settings say less; either side may be the long one.
    pub const MAX: Size = Size::new(4096, 2304);

    /// Pictures larger than `max` are refused before memory is taken for them.
    pub fn new(codec: VideoCodec, max: Size) -> Result<Self, CodecError> {
        Ok(Decoder {
            codec,
            context: open(codec, max)?,
            packet: Packet::new()?,
            picture: Picture::new()?,
            converter: Converter::default(),
            max,
            complete: false,
            counters: DecoderCounters::default(),
        })
    }

    pub fn counters(&self) -> DecoderCounters {
        self.counters
    }

    /// Another codec from here on.
    fn change(&mut self, codec: VideoCodec) -> Result<(), CodecError> {
        self.context = open(codec, self.max)?;
        (self.codec, self.complete) = (codec, false);
        Ok(())
    }

    fn send(&mut self, unit: &AccessUnit) -> i32 {
        let context = self.context.as_ptr();
        self.packet.lend(&unit.data, |packet| {
            packet.fields().pts = unit.pts.nanos();
            // SAFETY: context and packet are valid; FFmpeg copies packets that are not reference counted.
            unsafe { ffi::avcodec_send_packet(context, packet.as_ptr()) }
        })
    }

    /// Takes every finished picture; the newest one is what counts.
    fn receive(&mut self, pool: &FramePool) -> Result<Option<Frame>, CodecError> {
        let mut newest = None;
        loop {
            // SAFETY: context and frame are valid.
            let code = unsafe { ffi::avcodec_receive_frame(self.context.as_ptr(), self.picture.as_ptr()) };
            if code < 0 {
                return Ok(newest);
            }
            if let Some(picture) = self.finish(pool)? {
                newest = Some(picture);
            }
            self.picture.clear();
        }
    }

    fn finish(&mut self, pool: &FramePool) -> Result<Option<Frame>, CodecError> {
        let fields = self.picture.read();
        self.complete |= fields.flags & ffi::AV_FRAME_FLAG_CORRUPT == 0;
        if !self.complete && self.counters.withheld < u64::from(WITHHELD_MAX) {
            self.counters.withheld += 1;
            return Ok(None);
        }
        let pts = Pts::from_nanos(fields.pts);
        let [width, height] = [fields.width, fields.height].map(|side| usize::try_from(side).unwrap_or(0));
        if width.min(height) < SMALLEST {
            self.refuse(Size::new(width, height));
            return Ok(None);
        }
        match self.converter.convert(&self.picture, pool, pts, self.max)? {
            Converted::Picture(frame) => {
                self.counters.pictures += 1;
                Ok(Some(frame.freeze()))
            }
            Converted::BadSize(size) => {
                self.refuse(size);
                Ok(None)
            }
            Converted::NoRoom => {
                self.counters.no_room += 1;
                Ok(None)
            }
        }
    }

    fn refuse(&mut self, size: Size) {
        self.counters.bad_size += 1;
        if self.counters.bad_size == 1 {
            tracing::warn!("a picture of {size} was refused: the limits are {SMALLEST} and {}", self.max);
        }
    }

    /// What [`VideoDecoder::decode`] gives, open: only for pictures this process drew and encoded itself.
    pub(in crate::codec) fn decode_own(
        &mut self,
        unit: &AccessUnit,
        pool: &FramePool,
    ) -> Result<Option<Frame>, CodecError> {
        self.counters.units += 1;
        if unit.codec != self.codec {
            self.change(unit.codec)?;
        }
        let mut earlier = None;
        let mut code = self.send(unit);
        if code == AGAIN {
            earlier = self.receive(pool)?;
            code = self.send(unit);
        }
        // FFmpeg's H.265 decoder says so of pictures over the limit as well.
        if code == ffi::AVERROR(libc::ENOMEM) && unit.codec != VideoCodec::H265 {
            return check(code, &format!("decoding {}", unit.codec.name())).map(|_| None);
        }
        if code < 0 {
            self.counters.unusable += 1;
            if unit.key
                && let Some(size) = stated_size(unit)
                && !fits(size, self.max)
            {
                self.refuse(size);
            }
        }
        Ok(self.receive(pool)?.or(earlier))
    }
}

/// The size a key picture says it has.
fn stated_size(unit: &AccessUnit) -> Option<Size> {
    match unit.codec {
        VideoCodec::H264 => sps::picture_size(&unit.data),
        VideoCodec::Vp8 => vp8::picture_size(&unit.data),
        VideoCodec::Vp9 => vp9::picture_size(&unit.data),
        VideoCodec::H265 => h265::picture_size(&unit.data),
    }
}

fn open(codec: VideoCodec, max: Size) -> Result<CodecContext, CodecError> {
    let id = match codec {
        VideoCodec::H264 => AVCodecID::AV_CODEC_ID_H264,
        VideoCodec::Vp8 => AVCodecID::AV_CODEC_ID_VP8,
        VideoCodec::Vp9 => AVCodecID::AV_CODEC_ID_VP9,
        VideoCodec::H265 => AVCodecID::AV_CODEC_ID_HEVC,
    };
    let mut context = CodecContext::decoder(id)?;
    let fields = context.fields();
    fields.thread_count = 1;
    fields.flags |= (ffi::AV_CODEC_FLAG_LOW_DELAY | ffi::AV_CODEC_FLAG_OUTPUT_CORRUPT) as i32;
    fields.error_concealment = ffi::FF_EC_GUESS_MVS | ffi::FF_EC_DEBLOCK;
    fields.err_recognition = 0;
    // FFmpeg counts what it would allocate, with rows padded; the exact size is checked on the picture.
    let sides = [max.width, max.height].map(|side| i64::try_from(side.next_multiple_of(64)).unwrap_or(0));
    fields.max_pixels = sides[0].saturating_mul(sides[1]);
    context.open(&mut Options::new(), &format!("opening the {} decoder", codec.name()))?;
    Ok(context)
}

impl VideoDecoder for Decoder {
    fn decode(&mut self, unit: &AccessUnit, pool: &FramePool) -> Result<Option<RawFrame>, CodecError> {
        Ok(self.decode_own(unit, pool)?.map(RawFrame::new))
    }
}
