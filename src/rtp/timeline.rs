//! 32-bit RTP timestamps and the call's media clock, both ways: the only place that converts.
//!
//! Inbound: the first packet's arrival anchors the stream; afterwards timestamps rule, and the anchor follows the
//! earliest arrivals slowly, so that a sender's clock drift does not add up. A timestamp that disagrees with its
//! arrival by more than [`JUMP_MS`] is a jump: the stream is anchored anew and never goes backwards.
//! Playout order and delay are `jitter`.

use std::time::{Duration, Instant};

use crate::base::time::Pts;

/// Disagreement between timestamp and arrival that cannot be delay.
const JUMP_MS: i64 = 2000;
/// How often the anchor is corrected, and by how much at most: up to 500 parts per million.
const WINDOW: Duration = Duration::from_secs(4);
const STEP_NANOS: i64 = 2_000_000;
/// A first packet that was slow shows in the faster ones after it: they are believed sooner, a little each.
const SETTLING: Duration = Duration::from_secs(5);
const SETTLE_NANOS: i64 = 5_000_000;

/// Timestamps of one received stream.
#[derive(Clone, Debug)]
pub struct Timeline {
    clock_rate: u32,
    epoch: Instant,
    anchor: Option<Anchor>,
    jumps: u64,
}

#[derive(Clone, Debug)]
struct Anchor {
    /// Extended timestamp of the newest packet seen.
    extended: i64,
    timestamp: u32,
    /// Nanoseconds to add to the extended timestamp's own nanoseconds.
    offset: i64,
    newest: Pts,
    window_ends: Instant,
    earliest: i64,
    settled_at: Instant,
}

impl Timeline {
    /// `epoch`: the instant that is Pts zero. A clock rate of 0 is taken as 1.
    pub fn new(clock_rate: u32, epoch: Instant) -> Self {
        Timeline { clock_rate: clock_rate.max(1), epoch, anchor: None, jumps: 0 }
    }

    /// Forgets the stream: the next timestamp anchors a new one, later than all before it.
    pub fn restart(&mut self) {
        if let Some(anchor) = &mut self.anchor {
            anchor.offset = i64::MIN;
        }
    }

    /// How often the timestamps jumped.
    pub fn jumps(&self) -> u64 {
        self.jumps
    }

    /// The newest moment and its timestamp.
    pub fn newest(&self) -> Option<(Pts, u32)> {
        let anchor = self.anchor.as_ref().filter(|anchor| anchor.offset != i64::MIN)?;
        let nanos = self.nanos(anchor.extended).saturating_add(anchor.offset);
        Some((Pts::from_nanos(nanos), anchor.timestamp))
    }

    fn nanos(&self, extended: i64) -> i64 {
        (i128::from(extended) * 1_000_000_000 / i128::from(self.clock_rate)) as i64
    }

    /// The time of a packet or picture that arrived at `now`.
    pub fn pts(&mut self, now: Instant, timestamp: u32) -> Pts {
        let arrival = Pts::at(self.epoch, now);
        let Some(anchor) = &self.anchor else {
            self.anchor_at(now, timestamp, arrival);
            return arrival;
        };
        let step = i64::from(timestamp.wrapping_sub(anchor.timestamp) as i32);
        let extended = anchor.extended + step;
        let (offset, newest) = (anchor.offset, anchor.newest);
        if offset == i64::MIN {
            let pts = arrival.max(newest + Duration::from_millis(1));
            self.anchor_at(now, timestamp, pts);
            return pts;
        }
        let pts = Pts::from_nanos(self.nanos(extended).saturating_add(offset));
        let late = arrival - pts;
        if late.abs() > JUMP_MS * 1_000_000 {
            self.jumps += 1;
            let pts = arrival.max(newest + Duration::from_millis(1));
            self.anchor_at(now, timestamp, pts);
            return pts;
        }
        self.follow(now, extended, timestamp, late, pts);
        pts
    }

    fn anchor_at(&mut self, now: Instant, timestamp: u32, pts: Pts) {
        let extended = i64::from(timestamp);
        let offset = pts.nanos() - self.nanos(extended);
        let window_ends = now + WINDOW;
        let (earliest, settled_at) = (i64::MAX, now + SETTLING);
        self.anchor =
            Some(Anchor { extended, timestamp, offset, newest: pts, window_ends, earliest, settled_at });
    }

    fn follow(&mut self, now: Instant, extended: i64, timestamp: u32, late: i64, pts: Pts) {
        let Some(anchor) = &mut self.anchor else {
            return;
        };
        anchor.earliest = anchor.earliest.min(late);
        if late < 0 && extended > anchor.extended && now < anchor.settled_at {
            let step = late.max(-SETTLE_NANOS);
            anchor.offset += step;
            anchor.earliest = anchor.earliest.saturating_sub(step);
        }
        if extended > anchor.extended {
            anchor.extended = extended;
            anchor.timestamp = timestamp;
        }
        anchor.newest = anchor.newest.max(pts);
        if now >= anchor.window_ends {
            anchor.offset += anchor.earliest.clamp(-STEP_NANOS, STEP_NANOS);
            anchor.earliest = i64::MAX;
            anchor.window_ends = now + WINDOW;
        }
    }
}

/// Timestamps of one sent stream: a random start, then the media clock.
#[derive(Clone, Copy, Debug)]
pub struct SendTimeline {
    clock_rate: u32,
    first: u32,
}

impl SendTimeline {
    /// `first`: the timestamp of Pts zero, random by RFC 3550 §5.1.
    pub fn new(clock_rate: u32, first: u32) -> Self {
        SendTimeline { clock_rate, first }
    }

    pub fn timestamp(&self, pts: Pts) -> u32 {
        let ticks = i128::from(pts.nanos()) * i128::from(self.clock_rate);
        self.first.wrapping_add(ticks.div_euclid(1_000_000_000) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn timestamps_rule_over_arrival_jitter_and_wrap() {
        let epoch = Instant::now();
        let mut timeline = Timeline::new(90_000, epoch);
        let first = u32::MAX - 90_000;
        for picture in 0..100u32 {
            let jitter = u64::from(picture * 7 % 13);
            let now = epoch + MS(1000 + u64::from(picture) * 40 + if picture == 0 { 0 } else { jitter });
            let pts = timeline.pts(now, first.wrapping_add(picture * 3600));
            assert_eq!(pts.millis(), 1000 + i64::from(picture) * 40);
        }
        assert_eq!(timeline.jumps(), 0);
    }

    #[test]
    fn reordered_timestamps_keep_their_place() {
        let epoch = Instant::now();
        let mut timeline = Timeline::new(8000, epoch);
        assert_eq!(timeline.pts(epoch, 1600).millis(), 0);
        assert_eq!(timeline.pts(epoch + MS(41), 1600 + 320).millis(), 40);
        assert_eq!(timeline.pts(epoch + MS(42), 1600 + 160).millis(), 20);
        assert_eq!(timeline.pts(epoch + MS(60), 1600 + 480).millis(), 60);
    }

    #[test]
    fn a_slow_first_picture_is_forgotten_within_seconds() {
        let epoch = Instant::now();
        let mut timeline = Timeline::new(90_000, epoch);
        let mut last = Pts::from_millis(-1);
        for picture in 0..50u32 {
            let delay = if picture == 0 { 150 } else { 10 };
            let pts = timeline.pts(epoch + MS(u64::from(picture) * 66 + delay), picture * 5940);
            assert!(pts > last);
            last = pts;
        }
        assert!((last.millis() - (49 * 66 + 10)).abs() <= 5, "{}", last.millis());
    }

    #[test]
    fn jumps_are_anchored_anew_and_time_never_runs_back() {
        for jump in [10 * 90_000u32, 0u32.wrapping_sub(10 * 90_000), 1 << 31] {
            let epoch = Instant::now();
            let mut timeline = Timeline::new(90_000, epoch);
            let mut last = Pts::from_millis(-1);
            for picture in 0..50u32 {
                let shift = if picture >= 25 { jump } else { 0 };
                let now = epoch + MS(u64::from(picture) * 40);
                let pts = timeline.pts(now, (picture * 3600).wrapping_add(shift));
                assert!(pts > last && (pts.millis() - i64::from(picture) * 40).abs() <= 40);
                last = pts;
            }
            assert_eq!(timeline.jumps(), 1);
        }
    }

    #[test]
    fn a_new_source_continues_after_the_old_one() {
        let epoch = Instant::now();
        let mut timeline = Timeline::new(90_000, epoch);
        timeline.pts(epoch, 5);
        let before = timeline.pts(epoch + MS(30), 5 + 3600);
        timeline.restart();
        let after = timeline.pts(epoch + MS(35), 3_000_000_000);
        assert!(after > before);
        assert_eq!((timeline.pts(epoch + MS(75), 3_000_003_600) - after) / 1_000_000, 40);
    }

    #[test]
    fn an_hour_of_drift_stays_within_20_ms() {
        for ppm in [200i64, -200] {
            let epoch = Instant::now();
            let mut timeline = Timeline::new(90_000, epoch);
            let mut worst = 0;
            for picture in 0..90_000i64 {
                let now = epoch + MS(picture as u64 * 40);
                let ticks = picture * 3600 * (1_000_000 + ppm) / 1_000_000;
                let pts = timeline.pts(now, ticks as u32);
                worst = worst.max((pts.millis() - picture * 40).abs());
            }
            assert!(worst < 20, "{worst} ms at {ppm} ppm");
            assert_eq!(timeline.jumps(), 0);
        }
    }

    #[test]
    fn sent_timestamps_follow_the_media_clock() {
        let timeline = SendTimeline::new(90_000, u32::MAX);
        assert_eq!(timeline.timestamp(Pts::from_millis(1000)), 89_999);
        assert_eq!(timeline.timestamp(Pts::from_millis(-1000)), u32::MAX - 90_000);
    }
}
