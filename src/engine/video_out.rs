//! Driver. The outbound picture thread of one call: source → fit to the peer → encode → network.
//!
//! Sources are the cleared inbound picture (mirror), a test card, a file or a still. An IDR picture follows a key
//! request with the next picture; the first picture goes out at once, as a slate when nothing has come yet.

#![expect(clippy::disallowed_methods, reason = "own pictures are paced by the clock")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::queue::{Gop, Latest, Offered, Receiver, Sender, Taken};
use crate::base::stop::{Outcome, StopToken};
use crate::base::time::Pts;
use crate::codec::h264::encoder::{self, EncoderKind, EncoderSettings};
use crate::engine::report::Gauges;
use crate::media::access_unit::AccessUnit;
use crate::media::codec::VideoEncoder;
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::vision::filters::Resize;

/// A picture that nobody renews is sent again this often, so the peer keeps something to show.
const REPEAT: Duration = Duration::from_secs(1);
/// How long the first real picture may take before a slate goes out in its place.
const FIRST_WAIT: Duration = Duration::from_millis(80);

/// Draws the pictures of a source that is not the caller's own picture.
pub trait Painter: Send {
    /// The picture number `n`, at `pts`. `None`: no buffer is free.
    fn paint(&mut self, n: u64, pts: Pts, pool: &FramePool) -> Option<CleanFrame>;
}

/// Where the pictures come from.
pub enum Source {
    Mirror {
        pictures: Receiver<CleanFrame, Latest>,
        slate: Box<dyn Painter>,
    },
    /// Ends with the call's token.
    Own {
        painter: Box<dyn Painter>,
        fps: u32,
        token: StopToken,
    },
}

/// What the peer can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max: Size,
    pub max_macroblocks: u32,
    pub max_macroblocks_per_second: u32,
    pub kbps: u32,
    pub fps: u32,
    /// Largest NAL unit, for packetization-mode 0.
    pub max_nal_bytes: Option<usize>,
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

/// Everything the thread owns.
pub struct VideoOut {
    pub source: Source,
    pub encoder: EncoderKind,
    pub limits: Limits,
    pub units: Sender<AccessUnit, Gop>,
    pub pool: FramePool,
    pub epoch: Instant,
    pub key_wanted: Arc<AtomicBool>,
    pub gauges: Arc<Gauges>,
}

impl VideoOut {
    /// Runs until its source closes or the network is gone.
    pub fn run(mut self) -> Outcome {
        let mut sender = Coding {
            kind: self.encoder,
            limits: self.limits,
            units: self.units.clone(),
            pool: self.pool.clone(),
            key_wanted: self.key_wanted.clone(),
            gauges: self.gauges.clone(),
            encoder: None,
            resize: None,
            last_sent: None,
        };
        match &mut self.source {
            Source::Mirror { pictures, slate } => {
                mirror(self.epoch, pictures, &mut **slate, &mut sender, &self.pool)
            }
            Source::Own { painter, fps, token } => {
                own(self.epoch, &mut **painter, *fps, token, &mut sender, &self.pool)
            }
        }
    }
}

fn mirror(
    epoch: Instant,
    pictures: &Receiver<CleanFrame, Latest>,
    slate: &mut dyn Painter,
    sender: &mut Coding,
    pool: &FramePool,
) -> Outcome {
    let mut last: Option<CleanFrame> = None;
    loop {
        let patience = if last.is_none() { FIRST_WAIT } else { REPEAT };
        let picture = match pictures.take_within(patience) {
            Taken::Item(picture) => Some(picture),
            Taken::Empty => {
                let now = Pts::at(epoch, Instant::now());
                match &last {
                    Some(last) => Some(last.at(now)),
                    None => slate.paint(0, now, pool),
                }
            }
            Taken::Closed => return Outcome::Done,
        };
        let Some(picture) = picture else { continue };
        match sender.send(&picture) {
            Ok(true) => last = Some(picture),
            Ok(false) => return Outcome::Done,
            Err(text) => return Outcome::Failed(text),
        }
    }
}

fn own(
    epoch: Instant,
    painter: &mut dyn Painter,
    fps: u32,
    token: &StopToken,
    sender: &mut Coding,
    pool: &FramePool,
) -> Outcome {
    let period = Duration::from_secs(1) / fps.max(1);
    let start = Instant::now();
    let mut n = 0_u64;
    loop {
        let due =
            start + Duration::from_nanos(u64::try_from(period.as_nanos()).unwrap_or(0).saturating_mul(n));
        let wait = due.saturating_duration_since(Instant::now());
        if token.wait(wait) {
            return Outcome::Done;
        }
        let picture = painter.paint(n, Pts::at(epoch, due), pool);
        n += 1;
        // A box too slow for its own pictures leaves some out rather than falling behind for ever.
        let behind = Instant::now().saturating_duration_since(due);
        n += u64::try_from(behind.as_nanos() / period.as_nanos().max(1)).unwrap_or(0);
        let Some(picture) = picture else { continue };
        match sender.send(&picture) {
            Ok(true) => {}
            Ok(false) => return Outcome::Done,
            Err(text) => return Outcome::Failed(text),
        }
    }
}

/// The encoder, reopened when the picture's size changes.
struct Coding {
    kind: EncoderKind,
    limits: Limits,
    units: Sender<AccessUnit, Gop>,
    pool: FramePool,
    key_wanted: Arc<AtomicBool>,
    gauges: Arc<Gauges>,
    encoder: Option<Box<dyn VideoEncoder>>,
    resize: Option<(Size, Resize)>,
    last_sent: Option<Pts>,
}

impl Coding {
    /// Encodes and queues one picture. `Ok(false)`: the network is gone.
    fn send(&mut self, picture: &CleanFrame) -> Result<bool, String> {
        let size = self.limits.fit(picture.size());
        if self.is_too_soon(picture.pts(), size) {
            return Ok(true);
        }
        let started = Instant::now();
        let Some(fitted) = self.fit(picture, size) else {
            self.gauges.dropped.add(1);
            return Ok(true);
        };
        let fresh = self.encoder.as_ref().is_none_or(|open| open.size() != fitted.size());
        if fresh {
            self.encoder = Some(self.open(fitted.size())?);
        }
        let Some(encoder) = &mut self.encoder else { return Ok(true) };
        let key = self.key_wanted.swap(false, Ordering::AcqRel) || fresh;
        let unit = encoder.encode(&fitted, key).map_err(|error| format!("encoder: {error}"))?;
        self.gauges.encode.took(started.elapsed());
        let Some(unit) = unit else { return Ok(true) };
        self.last_sent = Some(picture.pts());
        self.gauges.encoded.add(1);
        match self.units.offer(unit) {
            Offered::Queued | Offered::Replaced(_) => Ok(true),
            Offered::Refused => {
                self.key_wanted.store(true, Ordering::Release);
                Ok(true)
            }
            Offered::Closed => Ok(false),
        }
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
        let least = 1_000_000_000 / i64::from(self.limits.fps_of(size)) * 7 / 10;
        let passed = pts - last;
        (0..least).contains(&passed)
    }

    fn open(&self, size: Size) -> Result<Box<dyn VideoEncoder>, String> {
        let settings = EncoderSettings {
            max_nal_bytes: self.limits.max_nal_bytes,
            profile_level_id: Some(self.limits.profile_level_id),
            ..EncoderSettings::new(size, self.limits.fps, self.limits.kbps)
        };
        encoder::open(self.kind, &settings).map_err(|error| format!("encoder: {error}"))
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
