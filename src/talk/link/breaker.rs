//! When a provider is left alone because it fails: a circuit breaker, shared by all calls.
//!
//! Pure. After [`LinkSettings::rest_after`] failures in a row it rests; then it is asked again, and the next failure
//! lets it rest twice as long. A provider that says when to come back is believed, within bounds.

use std::time::{Duration, Instant};

use super::LinkSettings;
use crate::talk::message::Failure;

/// The state of one provider.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    in_a_row: u32,
    rests_until: Option<Instant>,
}

impl Breaker {
    /// It answered.
    pub fn handle_answer(&mut self) {
        *self = Breaker::default();
    }

    pub fn handle_failure(&mut self, now: Instant, failure: &Failure, settings: &LinkSettings) {
        let rest = match failure {
            Failure::Busy { retry_after_ms: Some(ms) } => Some(Duration::from_millis(*ms)),
            // A wrong key or a wrong model is wrong for every question; anything else was wrong with this one.
            Failure::Refused { status: 401..=404, .. } => self.count(settings),
            Failure::Refused { .. } | Failure::Resting(_) => return,
            Failure::Busy { retry_after_ms: None }
            | Failure::Unreached(_)
            | Failure::TooSlow(_)
            | Failure::Failed { .. }
            | Failure::Garbled(_)
            | Failure::Cut => self.count(settings),
        };
        if let Some(rest) = rest {
            let until = now + rest.min(settings.rest_max);
            self.rests_until = self.rests_until.max(Some(until));
        }
    }

    /// One more failure in a row; how long to rest for it.
    fn count(&mut self, settings: &LinkSettings) -> Option<Duration> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let beyond = self.in_a_row.checked_sub(settings.rest_after.max(1))?;
        Some(settings.rest.saturating_mul(1 << beyond.min(16)))
    }

    /// Until when it is left alone; `None`: it may be asked.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.rests_until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LinkSettings = LinkSettings {
        retries: 3,
        back_off: Duration::from_millis(100),
        back_off_max: Duration::from_secs(1),
        beside_after: Duration::from_secs(1),
        patience: Duration::from_secs(10),
        rest_after: 3,
        rest: Duration::from_secs(2),
        rest_max: Duration::from_secs(30),
    };

    fn rest_after(breaker: &mut Breaker, now: Instant, failures: u32) -> Option<Duration> {
        for _ in 0..failures {
            breaker.handle_failure(now, &Failure::Cut, &SETTINGS);
        }
        breaker.rests_until(now).map(|until| until - now)
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_each_further_one_doubles_the_rest() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(rest_after(&mut breaker, now, 2), None);
        assert_eq!(rest_after(&mut breaker, now, 1), Some(Duration::from_secs(2)));
        let later = now + Duration::from_secs(2);
        assert_eq!(breaker.rests_until(later), None, "after its rest it may be asked");
        assert_eq!(rest_after(&mut breaker, later, 1), Some(Duration::from_secs(4)));
        assert_eq!(rest_after(&mut breaker, later, 30), Some(Duration::from_secs(30)), "the longest rest");
        breaker.handle_answer();
        assert_eq!(breaker.rests_until(later), None);
        assert_eq!(rest_after(&mut breaker, later, 2), None, "an answer starts the count anew");
    }

    #[test]
    fn who_says_when_to_come_back_is_believed_within_bounds() {
        let now = Instant::now();
        for (asked_ms, rest_s) in [(4_000, 4), (86_400_000, 30)] {
            let mut breaker = Breaker::default();
            let busy = Failure::Busy { retry_after_ms: Some(asked_ms) };
            breaker.handle_failure(now, &busy, &SETTINGS);
            assert_eq!(breaker.rests_until(now), Some(now + Duration::from_secs(rest_s)));
        }
    }

    #[test]
    fn a_question_that_is_refused_says_nothing_of_the_next_but_a_wrong_key_does() {
        let now = Instant::now();
        for (status, rests) in [(400, false), (422, false), (401, true), (404, true)] {
            let mut breaker = Breaker::default();
            for _ in 0..3 {
                let refused = Failure::Refused { status, text: String::new() };
                breaker.handle_failure(now, &refused, &SETTINGS);
            }
            assert_eq!(breaker.rests_until(now).is_some(), rests, "{status}");
        }
    }
}
