//! Driver (reads the clock). Pictures to coded pictures within what the peer can take: size, rate, level, NAL length.
//!
//! When a picture is due, and which, is `video_out`'s.

#![expect(clippy::disallowed_methods, reason = "encoding is timed")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::queue::{Gop, Offered, Sender};
use crate::base::time::Pts;
use crate::codec::h264::encoder::{self, EncoderKind, EncoderSettings};
use crate::codec::vp8::Vp8Encoder;
use crate::engine::ladder::Ladder;
use crate::engine::report::Gauges;
use crate::engine::steering::Steered;
use crate::media::access_unit::AccessUnit;
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::vision::filters::Resize;

/// Two pictures are at least so far apart on the wire: a repeated one bears the present time, a received one the time
/// it came.
const STEP: Duration = Duration::from_millis(10);
/// An encoder that fails is opened again; after so many failures in a row it is given a rest first.
const FAILURES_MAX: u32 = 3;
const REST: Duration = Duration::from_secs(1);

/// An encoder to which another bitrate costs a key picture gets one only when it differs by so much, and so long after
/// the last.
const DEAR_STEP: f64 = 0.25;
const DEAR_PAUSE: Duration = Duration::from_secs(4);

/// Which encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    H264(EncoderKind),
    Vp8,
}

/// Which encoder, and what it is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coder {
    pub encoding: Encoding,
    pub limits: Limits,
}

/// What the peer can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max: Size,
    pub max_macroblocks: u32,
    pub max_macroblocks_per_second: u32,
    pub kbps: u32,
    pub fps: u32,
    /// Largest NAL unit, for packetization-mode 0.
    pub max_nal_bytes: Option<usize>,
    /// The peer takes whole NAL units only.
    pub single_nal: bool,
    pub profile_level_id: [u8; 3],
}

impl Limits {
    /// The size a picture of `size` is sent in: never enlarged, even, within the peer's level.
    pub fn fit(&self, size: Size) -> Size {
        let macroblocks = |size: Size| size.width.div_ceil(16) * size.height.div_ceil(16);
        let most = (self.max_macroblocks as usize).max(1);
        let mut scale = 1.0_f64;
        scale = scale.min(self.max.width as f64 / size.width as f64);
        scale = scale.min(self.max.height as f64 / size.height as f64);
        scale = scale.min((most as f64 / macroblocks(size) as f64).sqrt());
        loop {
            let even = |length: usize| (((length as f64 * scale) as usize) & !1).max(16);
            let fitted = if scale >= 1.0 {
                Size::new((size.width & !1).max(16), (size.height & !1).max(16))
            } else {
                Size::new(even(size.width), even(size.height))
            };
            if macroblocks(fitted) <= most || fitted.width <= 16 || fitted.height <= 16 {
                return fitted;
            }
            scale = scale.min(1.0) * 0.98;
        }
    }

    /// Pictures a second the peer's level allows for `size`.
    pub fn fps_of(&self, size: Size) -> u32 {
        let macroblocks = (size.width.div_ceil(16) * size.height.div_ceil(16)).max(1) as u32;
        (self.max_macroblocks_per_second / macroblocks).max(1)
    }
}

/// The encoder, opened anew when the picture's size or what was negotiated changes.
pub struct Coding {
    pub coder: Coder,
    pub units: Sender<AccessUnit, Gop>,
    pub pool: FramePool,
    pub gauges: Arc<Gauges>,
    encoder: Option<Box<dyn VideoEncoder>>,
    resize: Option<(Size, Resize)>,
    ladder: Ladder,
    /// What the open encoder is held to, and since when.
    rate: (u32, Pts),
    last_sent: Option<Pts>,
    failures: u32,
    /// Pictures before this are left out.
    rests_until: Option<Pts>,
}

impl Coding {
    pub fn new(coder: Coder, units: Sender<AccessUnit, Gop>, pool: FramePool, gauges: Arc<Gauges>) -> Self {
        Coding {
            coder,
            units,
            pool,
            gauges,
            encoder: None,
            resize: None,
            ladder: Ladder::default(),
            rate: (0, Pts::ZERO),
            last_sent: None,
            failures: 0,
            rests_until: None,
        }
    }

    /// Follows what was negotiated anew. `true`: something was.
    pub fn renew(&mut self, steered: &Steered) -> bool {
        let Some(coder) = steered.take_coder() else { return false };
        (self.coder, self.encoder) = (coder, None);
        true
    }

    /// Encodes and queues one picture. What cannot be encoded is left out and told. `false`: the network is gone.
    pub fn send(&mut self, picture: &CleanFrame, steered: &Steered) -> bool {
        self.renew(steered);
        if self.rests_until.is_some_and(|until| picture.pts() < until) {
            return true;
        }
        let size = self.coder.limits.fit(picture.size());
        if self.is_too_soon(picture.pts(), size) {
            return true;
        }
        let limits = self.coder.limits;
        let kbps = steered.rate().map_or(limits.kbps, |kbps| kbps.min(limits.kbps));
        let (size, sent) = self.ladder.place(picture.pts(), size, kbps, limits.fps);
        if !sent && !steered.wants_key() {
            return true;
        }
        let started = Instant::now();
        let Some(fitted) = self.fit(picture, size) else {
            self.gauges.dropped.add(1);
            return true;
        };
        let fitted = match self.last_sent {
            Some(last) if fitted.pts() < last + STEP => fitted.at(last + STEP),
            _ => fitted,
        };
        let fresh = self.encoder.as_ref().is_none_or(|open| open.size() != fitted.size());
        if fresh {
            match self.open(fitted.size(), kbps) {
                Ok(encoder) => (self.encoder, self.rate) = (Some(encoder), (kbps, fitted.pts())),
                Err(text) => return self.failed(fitted.pts(), text),
            }
        }
        if let Err(error) = self.follow_rate(fitted.pts(), kbps) {
            return self.failed(fitted.pts(), format!("encoder: {error}"));
        }
        let Some(encoder) = &mut self.encoder else { return true };
        let key = steered.take_key() || fresh;
        let unit = match encoder.encode(&fitted, key) {
            Ok(unit) => unit,
            Err(error) => return self.failed(fitted.pts(), format!("encoder: {error}")),
        };
        self.failures = 0;
        self.gauges.encode.took(started.elapsed());
        let Some(unit) = unit else { return true };
        self.last_sent = Some(fitted.pts());
        self.gauges.encoded.add(1);
        let offered = self.units.offer(unit);
        self.gauges.lost_to_network.set(self.units.counters().lost);
        match offered {
            Offered::Queued | Offered::Replaced(_) => true,
            Offered::Refused => {
                steered.want_key();
                true
            }
            Offered::Closed => false,
        }
    }

    /// Holds the open encoder to what the path carries.
    fn follow_rate(&mut self, pts: Pts, kbps: u32) -> Result<(), CodecError> {
        let (held, since) = self.rate;
        let Some(encoder) = self.encoder.as_mut().filter(|_| kbps != held) else { return Ok(()) };
        let step = (f64::from(kbps) / f64::from(held.max(1)) - 1.0).abs();
        if !encoder.adapts() && (step < DEAR_STEP || pts < since + DEAR_PAUSE) {
            return Ok(());
        }
        self.rate = (kbps, pts);
        encoder.set_bitrate(kbps)
    }

    /// The next picture may be another, or the device behind the encoder be back.
    fn failed(&mut self, at: Pts, text: String) -> bool {
        self.encoder = None;
        self.failures += 1;
        if self.failures == 1 {
            tracing::warn!("a picture is not sent: {text}");
        }
        if self.failures >= FAILURES_MAX {
            self.rests_until = Some(at + REST);
        }
        self.gauges.dropped.add(1);
        self.gauges.fault(text);
        true
    }

    /// Shrinks a picture the peer could not take.
    fn fit(&mut self, picture: &CleanFrame, size: Size) -> Option<CleanFrame> {
        if size == picture.size() {
            return Some(picture.clone());
        }
        if self.resize.as_ref().is_none_or(|(limit, _)| *limit != size) {
            self.resize = Some((size, Resize::new(size)));
        }
        let (_, resize) = self.resize.as_mut()?;
        resize.apply(picture.clone(), &self.pool)
    }

    /// Holds the frame rate within the peer's level, with room for jitter in the source.
    fn is_too_soon(&self, pts: Pts, size: Size) -> bool {
        let Some(last) = self.last_sent else { return false };
        let least = 1_000_000_000 / i64::from(self.coder.limits.fps_of(size)) * 7 / 10;
        let passed = pts - last;
        // Negative: the last one sent was a repetition.
        (0..least).contains(&passed)
    }

    fn open(&self, size: Size, kbps: u32) -> Result<Box<dyn VideoEncoder>, String> {
        let limits = &self.coder.limits;
        let settings = EncoderSettings {
            max_nal_bytes: limits.max_nal_bytes,
            profile_level_id: Some(limits.profile_level_id),
            ..EncoderSettings::new(size, limits.fps, kbps)
        };
        let opened = match self.coder.encoding {
            Encoding::H264(kind) => encoder::open(kind, &settings),
            Encoding::Vp8 => {
                Vp8Encoder::open(&settings).map(|encoder| Box::new(encoder) as Box<dyn VideoEncoder>)
            }
        };
        opened.map_err(|error| format!("encoder: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_macroblocks: u32) -> Limits {
        Limits {
            max: Size::new(1280, 720),
            max_macroblocks,
            max_macroblocks_per_second: 11_880,
            kbps: 500,
            fps: 15,
            max_nal_bytes: None,
            single_nal: false,
            profile_level_id: [0x42, 0xe0, 0x1f],
        }
    }

    #[test]
    fn a_picture_is_never_enlarged_and_fits_the_peers_level() {
        assert_eq!(limits(3600).fit(Size::new(640, 360)), Size::new(640, 360));
        assert_eq!(limits(8192).fit(Size::new(1920, 1080)), Size::new(1280, 720));
        // Level 1.1 takes 396 macroblocks: CIF.
        let small = limits(396).fit(Size::new(640, 360));
        assert!(small.width.div_ceil(16) * small.height.div_ceil(16) <= 396, "{small}");
        assert_eq!(small.width % 2 + small.height % 2, 0);
    }

    #[test]
    fn the_frame_rate_follows_the_level() {
        assert_eq!(limits(396).fps_of(Size::new(352, 288)), 30);
    }
}
