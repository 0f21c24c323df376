//! When a line is dead: nothing came for too long, by the limit of the state it is in. Pure.

use std::time::Instant;

use crate::engine::plan::Timeouts;

/// What is known of one stream's arrivals.
#[derive(Clone, Copy, Debug)]
pub struct Sign {
    /// The newest RTP or RTCP packet.
    pub last: Option<Instant>,
    pub receives: bool,
}

/// The watch over one call's line.
#[derive(Debug)]
pub struct Life {
    /// Silence counts from here: the start, or the last change of what may be sent.
    since: Instant,
    heard: bool,
    told: bool,
}

impl Life {
    pub fn new(now: Instant) -> Self {
        Life { since: now, heard: false, told: false }
    }

    /// The call was answered, or offer and answer were renewed (hold, resume, a stream more or less): everybody gets time
    /// to follow.
    pub fn changed(&mut self, now: Instant) {
        self.since = now;
        self.told = false;
    }

    /// `true`, once until something changes: the line is dead. A line on which nothing is to be received is held.
    pub fn is_over(&mut self, now: Instant, timeouts: &Timeouts, signs: [Option<Sign>; 2]) -> bool {
        let signs = signs.iter().flatten();
        let last = signs.clone().filter_map(|sign| sign.last).max();
        self.heard |= last.is_some();
        let held = signs.clone().all(|sign| !sign.receives);
        let limit = match self.heard {
            _ if held => timeouts.hold,
            true => timeouts.flow,
            false => timeouts.start,
        };
        let since = last.map_or(self.since, |last| last.max(self.since));
        let over = !self.told && now.saturating_duration_since(since) >= limit;
        self.told |= over;
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        start: Duration::from_secs(30),
        flow: Duration::from_secs(20),
        hold: Duration::from_secs(600),
    };

    fn sign(last: Option<Instant>, receives: bool) -> [Option<Sign>; 2] {
        [Some(Sign { last, receives }), None]
    }

    #[test]
    fn each_state_has_its_own_limit_and_the_end_is_told_once() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut life = Life::new(start);
        assert!(!life.is_over(at(29), &TIMEOUTS, sign(None, true)));
        assert!(life.is_over(at(30), &TIMEOUTS, sign(None, true)));
        assert!(!life.is_over(at(31), &TIMEOUTS, sign(None, true)));
        let mut life = Life::new(start);
        assert!(!life.is_over(at(24), &TIMEOUTS, sign(Some(at(5)), true)));
        assert!(life.is_over(at(25), &TIMEOUTS, sign(Some(at(5)), true)));
    }

    #[test]
    fn a_long_hold_is_not_held_against_the_resumed_call() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut life = Life::new(start);
        assert!(!life.is_over(at(10), &TIMEOUTS, sign(Some(at(10)), true)));
        life.changed(at(11));
        assert!(!life.is_over(at(500), &TIMEOUTS, sign(Some(at(10)), false)));
        life.changed(at(500));
        assert!(!life.is_over(at(501), &TIMEOUTS, sign(Some(at(10)), true)));
        assert!(life.is_over(at(520), &TIMEOUTS, sign(Some(at(10)), true)));
    }

    #[test]
    fn one_stream_that_lives_is_enough_and_reports_are_life() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let both = |audio, video| {
            [Some(Sign { last: audio, receives: true }), Some(Sign { last: video, receives: true })]
        };
        let mut life = Life::new(start);
        // Sound that never came, or stopped, beside pictures; pictures that stopped beside reports of the sound.
        for second in 1..100 {
            assert!(!life.is_over(at(second), &TIMEOUTS, both(None, Some(at(second)))));
        }
        for second in 100..200 {
            assert!(!life.is_over(at(second), &TIMEOUTS, both(Some(at(second)), Some(at(99)))));
        }
        assert!(!life.is_over(at(218), &TIMEOUTS, both(Some(at(199)), Some(at(99)))));
        assert!(life.is_over(at(219), &TIMEOUTS, both(Some(at(199)), Some(at(99)))));
        // A call that may only be seen by the peer is not dead while the peer says nothing.
        let mut life = Life::new(start);
        let one_way =
            [Some(Sign { last: None, receives: false }), Some(Sign { last: None, receives: false })];
        assert!(!life.is_over(at(500), &TIMEOUTS, one_way) && life.is_over(at(600), &TIMEOUTS, one_way));
    }

    #[test]
    fn a_hold_that_nobody_ends_is_over_at_its_limit() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut life = Life::new(start);
        life.changed(at(100));
        assert!(!life.is_over(at(699), &TIMEOUTS, sign(Some(at(100)), false)));
        assert!(life.is_over(at(700), &TIMEOUTS, sign(Some(at(100)), false)));
    }
}
