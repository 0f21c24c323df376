//! Which packets to ask for again, and when (generic NACK, RFC 4585 §6.2.1): first after packets merely overtaken had
//! time to come, then by the round trip with back-off, at last not any more.
//!
//! Numbers are extended ones of `sequence`; how long a gap is held open meanwhile follows from [`Nack::patience`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets asked for at a time. Of a longer gap a key picture is quicker than its packets.
const MISSING_MAX: usize = 400;
/// A packet that is late without being lost comes within this, at first; learned from those that do.
const OVERTAKEN: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(60));
/// Until one was measured.
const ROUND_TRIP: Duration = Duration::from_millis(100);
const ANSWER_MIN: Duration = Duration::from_millis(3);
/// What a round trip varies by, and the peer's timers.
const SLACK: Duration = Duration::from_millis(15);
/// A request is repeated this often.
const REQUESTS_MAX: u8 = 6;
/// Bounds on how long a gap is held open.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(120), Duration::from_millis(450));
/// So many packets asked for in vain: this peer sends nothing again, whatever it negotiated.
const VAIN_MAX: u32 = 24;

/// What came of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NackCounters {
    /// Packets asked for, each counted once.
    pub asked: u64,
    /// Requests in all, repeats included.
    pub requests: u64,
    /// Came in time after they were asked for.
    pub recovered: u64,
    /// Given up: too old, or too many at once.
    pub given_up: u64,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    extended: u64,
    since: Instant,
    next: Instant,
    asked: Option<Instant>,
    requests: u8,
}

/// The packets missing of one stream.
#[derive(Debug)]
pub struct Nack {
    missing: VecDeque<Missing>,
    newest: Option<u64>,
    overtaken: Duration,
    round_trip: Duration,
    measured: bool,
    vain: u32,
    counters: NackCounters,
}

impl Default for Nack {
    fn default() -> Self {
        Nack {
            missing: VecDeque::new(),
            newest: None,
            overtaken: OVERTAKEN.0,
            round_trip: ROUND_TRIP,
            measured: false,
            vain: 0,
            counters: NackCounters::default(),
        }
    }
}

impl Nack {
    pub fn counters(&self) -> NackCounters {
        self.counters
    }

    /// Measured by reports.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip.min(Duration::from_secs(1));
        self.measured = true;
    }

    /// Every packet of the stream, in whatever order. `false`: so much is missing that only a key picture helps.
    pub fn arrived(&mut self, now: Instant, extended: u64) -> bool {
        let Some(newest) = self.newest else {
            self.newest = Some(extended);
            return true;
        };
        if extended <= newest {
            self.found(now, extended);
            return true;
        }
        self.newest = Some(extended);
        let gap = extended - newest - 1;
        if gap == 0 {
            return true;
        }
        self.overtaken -= (self.overtaken - OVERTAKEN.0) / 64;
        if self.missing.len() as u64 + gap > MISSING_MAX as u64 {
            self.counters.given_up += self.missing.len() as u64 + gap;
            self.missing.clear();
            return false;
        }
        let next = now + self.overtaken;
        let missing = |extended| Missing { extended, since: now, next, asked: None, requests: 0 };
        self.missing.extend((newest + 1..extended).map(missing));
        true
    }

    fn found(&mut self, now: Instant, extended: u64) {
        let Ok(at) = self.missing.binary_search_by_key(&extended, |missing| missing.extended) else {
            return;
        };
        let Some(missing) = self.missing.remove(at) else { return };
        // Sooner than any answer could be: it was only overtaken.
        let soonest = if self.measured { self.round_trip / 3 } else { ANSWER_MIN };
        let answered = missing.asked.filter(|asked| now.saturating_duration_since(*asked) > soonest);
        let Some(asked) = answered else {
            let late = now.saturating_duration_since(missing.since);
            self.overtaken = self.overtaken.max(late + late / 4).clamp(OVERTAKEN.0, OVERTAKEN.1);
            return;
        };
        self.counters.recovered += 1;
        self.vain = 0;
        // With one request the answer tells the round trip, also where we send nothing that could be reported on.
        if missing.requests == 1 {
            let took = now.saturating_duration_since(asked);
            self.round_trip = if self.measured { (self.round_trip * 7 + took) / 8 } else { took };
            self.measured = true;
        }
    }

    /// Packets before `next` are not waited for any more: handed on or given up.
    pub fn passed(&mut self, next: u64) {
        while let Some(missing) = self.missing.front().filter(|missing| missing.extended < next) {
            self.counters.given_up += 1;
            self.vain += u32::from(missing.asked.is_some());
            self.missing.pop_front();
        }
    }

    /// The sender began anew.
    pub fn restart(&mut self) {
        self.missing.clear();
        self.newest = None;
    }

    /// Hands on the extended numbers to ask for now.
    pub fn due(&mut self, now: Instant, mut ask: impl FnMut(u64)) {
        let (pause, counters) = (self.round_trip + SLACK, &mut self.counters);
        for missing in self.missing.iter_mut().filter(|missing| now >= missing.next) {
            if missing.requests >= REQUESTS_MAX {
                missing.next = now + PATIENCE.1;
                continue;
            }
            counters.requests += 1;
            counters.asked += u64::from(missing.asked.is_none());
            missing.asked = Some(now);
            // Once more after the first round trip, then a half longer each time.
            missing.next = now + pause + pause * u32::from(missing.requests) / 2;
            missing.requests += 1;
            ask(missing.extended);
        }
    }

    /// When a request is next due.
    pub fn wake_at(&self) -> Option<Instant> {
        self.missing.iter().map(|missing| missing.next).min()
    }

    /// How long a gap is worth holding open: three attempts. `None`: this peer does not answer.
    pub fn patience(&self) -> Option<Duration> {
        let attempts = self.overtaken + (self.round_trip + SLACK) * 7 / 2;
        (self.vain < VAIN_MAX).then(|| attempts.clamp(PATIENCE.0, PATIENCE.1))
    }

    /// As it is taken to be.
    pub fn round_trip(&self) -> Duration {
        self.round_trip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Runs until `to` ms and returns when each number was asked for.
    fn asked(nack: &mut Nack, start: Instant, to: u64) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        for ms in 0..to {
            nack.due(start + MS(ms), |extended| all.push((ms, extended)));
        }
        all
    }

    #[test]
    fn a_lost_packet_is_asked_for_after_a_moment_and_then_by_the_round_trip() {
        let start = Instant::now();
        let mut nack = Nack::default();
        nack.set_round_trip(MS(45));
        for number in [10, 11, 13] {
            assert!(nack.arrived(start, number));
        }
        assert_eq!(
            asked(&mut nack, start, 2000),
            [(8, 12), (68, 12), (158, 12), (278, 12), (428, 12), (608, 12)]
        );
        assert_eq!(nack.patience(), Some(MS(218)));
        nack.passed(13);
        assert_eq!((nack.wake_at(), nack.counters().given_up, nack.counters().asked), (None, 1, 1));
    }

    #[test]
    fn packets_that_were_only_overtaken_are_not_asked_for() {
        let start = Instant::now();
        let mut nack = Nack::default();
        nack.set_round_trip(MS(60));
        let mut requests = 0;
        // Every twentieth packet comes 15 ms late.
        for number in 0..4000u64 {
            let now = start + MS(number * 5);
            nack.due(now, |_| requests += 1);
            if number % 20 != 10 {
                nack.arrived(now, 100 + number);
            }
            if number % 20 == 13 {
                nack.arrived(now, 100 + number - 3);
            }
        }
        assert!(requests <= 3, "{requests} of 200");
        assert_eq!(nack.counters().recovered, 0);
    }

    #[test]
    fn answers_tell_the_round_trip_and_silence_ends_the_waiting() {
        let start = Instant::now();
        let mut nack = Nack::default();
        for n in 0..60u64 {
            let now = start + MS(n * 300);
            nack.arrived(now, 2 * n);
            nack.due(now + MS(20), |_| {});
            nack.arrived(now + MS(50), (2 * n).saturating_sub(1));
        }
        let round_trip = nack.round_trip();
        assert!((MS(28)..=MS(60)).contains(&round_trip), "{round_trip:?}");
        for n in 60..100u64 {
            let now = start + MS(n * 300);
            nack.arrived(now, 2 * n);
            nack.due(now + MS(20), |_| {});
            nack.passed(2 * n);
        }
        assert_eq!(nack.patience(), None);
    }

    #[test]
    fn too_long_a_gap_is_not_asked_for_and_memory_is_bounded() {
        let start = Instant::now();
        let mut nack = Nack::default();
        nack.arrived(start, 0);
        assert!(!nack.arrived(start, 1000));
        assert_eq!(nack.wake_at(), None);
        for n in 0..100_000u64 {
            nack.arrived(start, 1000 + 2 * n);
            assert!(nack.missing.len() <= MISSING_MAX);
        }
    }
}
