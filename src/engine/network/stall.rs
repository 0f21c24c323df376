//! When the peer's picture stands still: pictures came and come no more, whether packets do or not. Pure.

use std::time::{Duration, Instant};

/// So many times the usual distance of pictures, within these bounds.
const USUAL: u32 = 5;
const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The first picture may take this long after the first packet.
const FIRST: Duration = Duration::from_secs(3);

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// No picture for so long. `packets`: though packets come.
    Stalled { packets: bool },
    /// A picture again, after so long.
    Resumed { after: Duration },
}

/// What is known of the stream at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Pictures decoded, packets received, both since the start.
    pub pictures: u64,
    pub packets: u64,
    pub receives: bool,
}

/// The watch over one received picture.
#[derive(Debug, Default)]
pub struct Stall {
    pictures: u64,
    packets: u64,
    /// When the last picture, and the last packet, was seen.
    at: Option<Instant>,
    packet_at: Option<Instant>,
    usual: Option<Duration>,
    stalled: bool,
    count: u64,
    total: Duration,
}

impl Stall {
    /// Stretches that ended or still last, and the time in those that ended.
    pub fn figures(&self) -> (u64, Duration) {
        (self.count, self.total)
    }

    /// Looks, often; says what changed.
    pub fn look(&mut self, now: Instant, look: Look) -> Option<Change> {
        if !look.receives {
            // Held: nothing is expected, and what comes after begins anew.
            *self =
                Stall { count: self.count, total: self.total, pictures: look.pictures, ..Stall::default() };
            self.packets = look.packets;
            return None;
        }
        if look.packets > self.packets {
            (self.packets, self.packet_at) = (look.packets, Some(now));
        }
        let fresh = look.pictures.saturating_sub(self.pictures);
        self.pictures = look.pictures;
        let Some(before) = self.at else {
            // The first one is waited for from the first packet on.
            self.at = self.packet_at.map(|at| if fresh > 0 { now } else { at + FIRST - LIMITS.0 });
            return None;
        };
        let passed = now.saturating_duration_since(before);
        if fresh > 0 {
            self.at = Some(now);
            if std::mem::take(&mut self.stalled) {
                self.total += passed;
                return Some(Change::Resumed { after: passed });
            }
            let distance = passed / u32::try_from(fresh).unwrap_or(u32::MAX).max(1);
            self.usual = Some(self.usual.map_or(distance, |usual| (usual * 15 + distance) / 16));
            return None;
        }
        let limit = self.usual.map_or(LIMITS.0, |usual| (usual * USUAL).clamp(LIMITS.0, LIMITS.1));
        if self.stalled || passed < limit {
            return None;
        }
        self.stalled = true;
        self.count += 1;
        let packets = self.packet_at.is_some_and(|at| now.saturating_duration_since(at) < limit / 2);
        Some(Change::Stalled { packets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Looks every 20 ms; `pictures` and `packets` say whether there is a new one at a millisecond.
    fn play(
        stall: &mut Stall,
        ms: std::ops::Range<u64>,
        start: Instant,
        (pictures, packets): (impl Fn(u64) -> bool, impl Fn(u64) -> bool),
        seen: &mut Look,
    ) -> Vec<(u64, Change)> {
        let look = |ms: u64| {
            seen.pictures += u64::from(pictures(ms));
            seen.packets += u64::from(packets(ms));
            stall.look(start + MS(ms), *seen).map(|change| (ms, change))
        };
        ms.step_by(20).filter_map(look).collect()
    }

    fn look() -> Look {
        Look { pictures: 0, packets: 0, receives: true }
    }

    #[test]
    fn a_picture_that_stands_still_is_told_with_its_cause_and_its_length() {
        let (mut stall, mut seen, start) = (Stall::default(), look(), Instant::now());
        let at =
            |ms: u64| !(5000..8000).contains(&ms) && !(12_000..13_500).contains(&ms) && ms.is_multiple_of(60);
        let packets = |ms: u64| !(12_000..13_500).contains(&ms);
        let told = play(&mut stall, 0..20_000, start, (at, packets), &mut seen);
        assert_eq!(
            told,
            [
                (5980, Change::Stalled { packets: true }),
                (8040, Change::Resumed { after: MS(3060) }),
                (12_940, Change::Stalled { packets: false }),
                (13_500, Change::Resumed { after: MS(1560) }),
            ]
        );
        assert_eq!(stall.figures(), (2, MS(4620)));
    }

    #[test]
    fn a_slow_source_is_no_stall_and_a_decoder_that_never_begins_is() {
        let (mut stall, mut seen, start) = (Stall::default(), look(), Instant::now());
        let slow = |ms: u64| ms.is_multiple_of(1000);
        assert!(play(&mut stall, 0..60_000, start, (slow, slow), &mut seen).is_empty());
        let (mut stall, mut seen) = (Stall::default(), look());
        let told = play(&mut stall, 0..10_000, start, (|_| false, |ms| ms >= 1000), &mut seen);
        assert_eq!(told, [(4000, Change::Stalled { packets: true })]);
        let (mut stall, mut seen) = (Stall::default(), look());
        assert!(play(&mut stall, 0..10_000, start, (|_| false, |_| false), &mut seen).is_empty());
    }

    #[test]
    fn a_held_picture_is_not_waited_for() {
        let (mut stall, mut seen, start) = (Stall::default(), look(), Instant::now());
        play(&mut stall, 0..2000, start, (|ms| ms.is_multiple_of(60), |_| true), &mut seen);
        seen.receives = false;
        assert!(play(&mut stall, 2000..9000, start, (|_| false, |_| false), &mut seen).is_empty());
        seen.receives = true;
        assert!(play(&mut stall, 9000..9900, start, (|_| false, |_| true), &mut seen).is_empty());
    }
}
