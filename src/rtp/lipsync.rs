//! Sound and picture of one peer on one timeline (RFC 3550 §6.4.1: what the NTP times of sender reports are for).
//!
//! Sound sets the pace: it is placed when it is played. Pictures are placed when they came, moved by
//! [`LipSync::shift`], so that what happened at one moment at the sender has one time here: in the recording, and in the
//! timestamps and sender reports of what is mirrored. Placing itself is `timeline`'s and `jitter`'s.

use std::time::{Duration, Instant};

/// Sound and picture further apart than this have no clock in common.
const PLAUSIBLE_NANOS: i64 = 2_000_000_000;
/// The shift follows by a tenth of the time that passes: pictures neither jump nor run backwards.
const SLEW: i64 = 10;
/// The estimate moves by this share of what is new: one beat's rounding does not show.
const SMOOTH: i64 = 8;

/// How far a peer's pictures are moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct LipSync {
    /// As it was measured last, and smoothed.
    measured: Option<i64>,
    skew: Option<i64>,
    /// What pictures are moved by, once anything is known.
    shift: Option<i64>,
    updated: Option<Instant>,
}

impl LipSync {
    /// `sound`, `picture`: the time of a moment here minus its time by the sender's clock, in nanoseconds, of sound as it
    /// is played and of pictures as they came; `None`: no sender report yet. `delay`: how long sound waits from its
    /// arrival to its playing: the best guess while a report is missing.
    pub fn update(&mut self, now: Instant, sound: Option<i64>, picture: Option<i64>, delay: Duration) {
        let by_reports = sound
            .zip(picture)
            .map(|(sound, picture)| sound.saturating_sub(picture))
            .filter(|skew| skew.abs() <= PLAUSIBLE_NANOS);
        if let Some(new) = by_reports {
            self.measured = Some(new);
            self.skew = Some(self.skew.map_or(new, |skew| match new - skew {
                // Another report, another clock: not a matter of smoothing.
                step if step.abs() > PLAUSIBLE_NANOS / 20 => new,
                step => skew + step / SMOOTH,
            }));
        }
        let wanted = self.skew.unwrap_or(delay.as_nanos() as i64);
        let passed = self.updated.map_or(Duration::ZERO, |updated| now.saturating_duration_since(updated));
        let most = passed.as_nanos() as i64 / SLEW;
        self.shift = Some(self.shift.map_or(wanted, |shift| shift + (wanted - shift).clamp(-most, most)));
        self.updated = Some(now);
    }

    /// Nanoseconds to add to the time of a picture.
    pub fn shift(&self) -> i64 {
        self.shift.unwrap_or(0)
    }

    /// By how much pictures would come before the sound they belong to, negative behind it, were they not moved;
    /// `None`: the peer did not say.
    pub fn skew(&self) -> Option<i64> {
        self.skew
    }

    /// What of it was left after moving when it was last measured.
    pub fn residual(&self) -> Option<i64> {
        self.measured.map(|skew| skew - self.shift())
    }

    /// Another stream, another clock.
    pub fn restart(&mut self) {
        (self.skew, self.measured) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn run(sync: &mut LipSync, start: Instant, beats: u64, sound: Option<i64>, picture: Option<i64>) {
        for beat in 0..beats {
            let now = start + Duration::from_millis(beat * 20);
            sync.update(now, sound, picture, Duration::from_millis(20));
        }
    }

    #[test]
    fn without_reports_pictures_wait_as_long_as_sound() {
        let (mut sync, start) = (LipSync::default(), Instant::now());
        run(&mut sync, start, 10, Some(0), None);
        assert_eq!((sync.shift(), sync.skew()), (20 * MS, None));
    }

    #[test]
    fn reports_are_followed_without_a_jump() {
        let (mut sync, start) = (LipSync::default(), Instant::now());
        run(&mut sync, start, 50, None, None);
        let start = start + Duration::from_secs(1);
        run(&mut sync, start, 2, Some(5_000 * MS), Some(4_900 * MS));
        assert!(sync.shift() <= 24 * MS, "{}", sync.shift());
        assert_eq!(sync.skew(), Some(100 * MS));
        run(&mut sync, start, 100, Some(5_000 * MS), Some(4_900 * MS));
        assert_eq!((sync.shift(), sync.residual()), (100 * MS, Some(0)));
    }

    #[test]
    fn clocks_that_have_nothing_in_common_are_not_believed() {
        let (mut sync, start) = (LipSync::default(), Instant::now());
        run(&mut sync, start, 500, Some(i64::MAX), Some(i64::MIN));
        run(&mut sync, start, 500, Some(5_000_000 * MS), Some(0));
        assert_eq!((sync.shift(), sync.skew()), (20 * MS, None));
    }

    #[test]
    fn a_new_stream_is_measured_anew() {
        let (mut sync, start) = (LipSync::default(), Instant::now());
        run(&mut sync, start, 200, Some(60 * MS), Some(0));
        sync.restart();
        assert_eq!((sync.skew(), sync.shift()), (None, 60 * MS));
    }
}
