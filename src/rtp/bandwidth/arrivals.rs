//! When numbered packets came, told to their sender every [`INTERVAL`] (transport-wide feedback, draft-holmer-rmcat-
//! transport-wide-cc-extensions §3.1).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rtcp_types::TwccPacketStatus;

use crate::rtp::feedback::PathWriter;

/// The pace senders expect is 50 to 100 ms.
pub const INTERVAL: Duration = Duration::from_millis(70);
/// Numbers kept and told of at a time.
const NUMBERS_MAX: usize = 1000;
/// A jump further than this is another numbering.
const JUMP_MAX: i64 = 2000;
/// Units of the reference time and of its parts.
const REFERENCE_MICROS: i64 = 64_000;
const DELTA_MICROS: i64 = 250;

/// What came since the sender was last told.
#[derive(Debug)]
pub struct Arrivals {
    epoch: Instant,
    /// From number `first` on without gaps: when each came, if it did, in microseconds.
    came: VecDeque<Option<i64>>,
    first: i64,
    newest: Option<i64>,
    /// Lowest number not told of yet.
    untold: Option<i64>,
    next: Option<Instant>,
    count: u8,
    told: u64,
}

impl Arrivals {
    /// `epoch`: zero of the times told.
    pub fn new(epoch: Instant) -> Self {
        Arrivals {
            epoch,
            came: VecDeque::new(),
            first: 0,
            newest: None,
            untold: None,
            next: None,
            count: 0,
            told: 0,
        }
    }

    /// Feedback packets written.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// A packet with this number came.
    pub fn arrived(&mut self, now: Instant, number: u16) {
        let step = self.newest.map_or(0, |newest| i64::from(number.wrapping_sub(newest as u16) as i16));
        let place = match self.newest {
            Some(newest) if step.abs() <= JUMP_MAX => {
                self.newest = Some(newest.max(newest + step));
                newest + step
            }
            Some(_) | None => {
                self.came.clear();
                self.untold = None;
                // Room below it for packets it overtook.
                self.first = i64::from(number) + (1 << 16);
                self.newest = Some(self.first);
                self.first
            }
        };
        if place < self.first {
            return;
        }
        while self.first + self.came.len() as i64 <= place {
            self.came.push_back(None);
        }
        while self.came.len() > NUMBERS_MAX {
            self.came.pop_front();
            self.first += 1;
        }
        let index = usize::try_from(place - self.first).unwrap_or(usize::MAX);
        let Some(slot) = self.came.get_mut(index).filter(|slot| slot.is_none()) else { return };
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        *slot = i64::try_from(micros).ok();
        self.untold = Some(self.untold.map_or(place, |untold| untold.min(place)));
        self.next.get_or_insert(now + INTERVAL);
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.next
    }

    /// Writes what is due.
    pub fn tell(&mut self, now: Instant, ssrcs: (u32, u32), writer: &mut PathWriter) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        self.next = None;
        while let Some(untold) = self.untold {
            let begin = usize::try_from(untold.max(self.first) - self.first).unwrap_or(usize::MAX);
            let Some(reference) =
                self.came.iter().skip(begin).flatten().next().map(|at| at / REFERENCE_MICROS)
            else {
                break;
            };
            let statuses = self.statuses(begin, reference);
            let number = (self.first + begin as i64) as u16;
            let fitted = writer.transport_wide(ssrcs, (number, reference as u32, self.count), &statuses);
            self.count = self.count.wrapping_add(1);
            self.told += 1;
            let done = begin + fitted;
            self.untold = (fitted > 0 && done < self.came.len()).then_some(self.first + done as i64);
        }
        self.untold = None;
        // A little is kept: what is overtaken may lie before what was told.
        while self.came.len() > NUMBERS_MAX / 2 {
            self.came.pop_front();
            self.first += 1;
        }
    }

    /// From `begin` on, up to where a delta no longer fits.
    fn statuses(&self, begin: usize, reference: i64) -> Vec<TwccPacketStatus> {
        let mut before = reference * REFERENCE_MICROS;
        let mut statuses = Vec::new();
        for came in self.came.iter().skip(begin) {
            let Some(at) = came else {
                statuses.push(TwccPacketStatus::NotReceived);
                continue;
            };
            let Ok(delta) = i16::try_from((at - before).div_euclid(DELTA_MICROS)) else { break };
            // What the unit cuts off is carried to the next.
            before += i64::from(delta) * DELTA_MICROS;
            statuses.push(TwccPacketStatus::Received { delta });
        }
        statuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::feedback;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn told(arrivals: &mut Arrivals, now: Instant) -> Vec<(u16, Option<i64>)> {
        let mut writer = PathWriter::default();
        arrivals.tell(now, (1, 2), &mut writer);
        let mut all = Vec::new();
        let mut rest = writer.bytes();
        while rest.len() >= 4 {
            let len = (usize::from(u16::from_be_bytes([rest[2], rest[3]])) + 1) * 4;
            assert!(feedback::arrivals(&rest[..len], |arrival| all.push((arrival.sequence, arrival.micros))));
            rest = &rest[len..];
        }
        all
    }

    #[test]
    fn what_came_and_what_did_not_is_told_in_time_over_the_wrap() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        for (ms, number) in [(100, 65_534u16), (103, 65_535), (110, 2), (111, 1)] {
            arrivals.arrived(start + MS(ms), number);
        }
        assert_eq!(arrivals.wake_at(), Some(start + MS(100) + INTERVAL));
        assert!(told(&mut arrivals, start + MS(120)).is_empty());
        let at = |ms: i64| Some(ms * 1000);
        let all = told(&mut arrivals, start + MS(170));
        assert_eq!(all, [(65_534, at(100)), (65_535, at(103)), (0, None), (1, at(111)), (2, at(110))]);
        assert_eq!(arrivals.wake_at(), None);
        arrivals.arrived(start + MS(200), 0);
        arrivals.arrived(start + MS(201), 3);
        let again = told(&mut arrivals, start + MS(300));
        assert_eq!(again, [(0, at(200)), (1, at(111)), (2, at(110)), (3, at(201))]);
    }

    #[test]
    fn long_silence_jumps_and_floods_are_survived_within_bounds() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start);
        arrivals.arrived(start, 5);
        arrivals.arrived(start + MS(60_000), 6);
        assert_eq!(told(&mut arrivals, start + MS(61_000)).len(), 2);
        arrivals.arrived(start + MS(61_000), 40_000);
        assert_eq!(told(&mut arrivals, start + MS(62_000)), [(40_000, Some(61_000_000))]);
        let mut number = 1u16;
        for ms in 0..50_000u64 {
            number = number.wrapping_mul(25_173).wrapping_add(13_849);
            arrivals.arrived(start + MS(62_000 + ms), if ms % 3 == 0 { number } else { ms as u16 });
            assert!(arrivals.came.len() <= NUMBERS_MAX);
            if ms % 70 == 0 {
                told(&mut arrivals, start + MS(62_000 + ms));
            }
        }
    }
}
