//! When to ask for a key picture, and when to obey being asked. Clocks and counts only; the messages are `video`'s.

use std::time::{Duration, Instant};

/// Asking goes on at these times after the first until a key picture comes, then every [`REPEAT`].
const SCHEDULE_MS: [u64; 4] = [500, 500, 1000, 2000];
const REPEAT: Duration = Duration::from_secs(10);
/// A peer that sent key pictures before does obey: what it sent was lost. It is asked this often for a while.
const REPEAT_OBEYED: Duration = Duration::from_secs(1);
const REPEATS_OBEYED: usize = 60;
/// At most two requests a second leave, whatever happens.
const SPACING: Duration = Duration::from_millis(500);
/// At most one request a second is obeyed.
const OBEY_SPACING: Duration = Duration::from_secs(1);

/// Our requests to the peer.
#[derive(Clone, Debug, Default)]
pub struct Asking {
    /// When to ask next, and how often was asked since it was wanted.
    next: Option<(Instant, usize)>,
    last: Option<Instant>,
    obeyed: bool,
}

impl Asking {
    /// A key picture is needed. Repeats by itself until [`Asking::satisfied`].
    pub fn want(&mut self, now: Instant) {
        if self.next.is_none() {
            let earliest = self.last.map_or(now, |last| last + SPACING);
            self.next = Some((earliest.max(now), 0));
        }
    }

    pub fn satisfied(&mut self) {
        self.next = None;
        self.obeyed = true;
    }

    /// A key picture came, but not whole: the next request need not wait for its turn.
    pub fn missed(&mut self, now: Instant) {
        self.obeyed = true;
        self.next = None;
        self.want(now);
    }

    pub fn wanted(&self) -> bool {
        self.next.is_some()
    }

    /// Whether to ask now.
    pub fn due(&mut self, now: Instant) -> bool {
        let Some((at, asked)) = self.next.filter(|(at, _)| now >= *at) else {
            return false;
        };
        let scheduled = SCHEDULE_MS.get(asked).map_or(REPEAT, |ms| Duration::from_millis(*ms));
        let obeys = self.obeyed && asked < REPEATS_OBEYED;
        let pause = if obeys { scheduled.min(REPEAT_OBEYED) } else { scheduled };
        // From when it was due, but never in a burst after a late call.
        self.next = Some(((at + pause).max(now + SPACING), asked + 1));
        self.last = Some(now);
        true
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }
}

/// The peer's requests to us.
#[derive(Clone, Debug, Default)]
pub struct Obeying {
    last: Option<Instant>,
    pending: Option<Instant>,
    ready: bool,
    last_fir: Option<u8>,
}

impl Obeying {
    /// The peer wants a key picture; within a second of the last one it waits until that second is over.
    pub fn asked(&mut self, now: Instant) {
        if self.pending.is_none() {
            self.pending = Some(self.last.map_or(now, |last| now.max(last + OBEY_SPACING)));
        }
        self.handle_time(now);
    }

    /// A full intra request; one with the number of the previous is that one repeated (RFC 5104 §3.5.1).
    pub fn asked_by_fir(&mut self, now: Instant, sequence: u8) {
        let obeyed_lately = self.last.is_some_and(|last| now.duration_since(last) < 2 * OBEY_SPACING);
        if self.last_fir != Some(sequence) || !obeyed_lately {
            self.last_fir = Some(sequence);
            self.asked(now);
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        if self.pending.is_some_and(|at| now >= at) {
            self.pending = None;
            self.last = Some(now);
            self.ready = true;
        }
    }

    /// Whether to encode a key picture now.
    pub fn take(&mut self) -> bool {
        std::mem::take(&mut self.ready)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn asking_repeats_on_schedule_until_a_key_picture_comes() {
        let start = Instant::now();
        let mut asking = Asking::default();
        asking.want(start);
        let asked: Vec<u64> = (0..30_000).filter(|ms| asking.due(start + MS(*ms))).collect();
        assert_eq!(asked, [0, 500, 1000, 2000, 4000, 14_000, 24_000]);
        asking.satisfied();
        assert!(!asking.due(start + MS(40_000)) && asking.wake_at().is_none());
    }

    #[test]
    fn a_peer_that_obeyed_before_is_asked_every_second_and_at_once_after_a_key_picture_that_was_lost() {
        let start = Instant::now();
        let mut asking = Asking::default();
        asking.satisfied();
        asking.want(start);
        let mut asked = Vec::new();
        for ms in 0..6000 {
            if ms == 4300 {
                asking.missed(start + MS(ms));
            }
            if asking.due(start + MS(ms)) {
                asked.push(ms);
            }
        }
        assert_eq!(asked, [0, 500, 1000, 2000, 3000, 4000, 4500, 5000, 5500]);
    }

    #[test]
    fn constant_loss_asks_at_most_twice_a_second() {
        let start = Instant::now();
        let mut asking = Asking::default();
        let mut asked = 0;
        for ms in 0..10_000 {
            asking.want(start + MS(ms));
            asked += u32::from(asking.due(start + MS(ms)));
            if ms % 7 == 0 {
                asking.satisfied();
            }
        }
        assert!((15..=20).contains(&asked), "{asked}");
    }

    #[test]
    fn a_storm_of_requests_yields_one_key_picture_a_second() {
        let start = Instant::now();
        let mut obeying = Obeying::default();
        let mut obeyed = 0;
        for ms in 0..10_000u64 {
            obeying.asked(start + MS(ms));
            obeying.asked_by_fir(start + MS(ms), (ms % 250) as u8);
            obeyed += u32::from(obeying.take());
        }
        assert!((9..=10).contains(&obeyed), "{obeyed}");
    }

    #[test]
    fn a_request_too_early_is_kept_and_a_repeated_fir_is_one_request() {
        let start = Instant::now();
        let mut obeying = Obeying::default();
        obeying.asked_by_fir(start, 3);
        assert!(obeying.take());
        obeying.asked_by_fir(start + MS(20), 3);
        assert_eq!(obeying.wake_at(), None);
        obeying.asked(start + MS(100));
        assert!(!obeying.take());
        assert_eq!(obeying.wake_at(), Some(start + MS(1000)));
        obeying.handle_time(start + MS(1000));
        assert!(obeying.take() && !obeying.take());
    }
}
