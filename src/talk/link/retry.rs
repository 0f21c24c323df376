//! Who of a list of providers is asked when, until one begins to answer.
//!
//! Pure. The first of the list that may be asked is asked. When it fails the next is asked at once, and it again after a
//! back-off; when it is slow the next is asked beside it. Who refuses is not asked again for the same question.

use std::time::{Duration, Instant};

use super::LinkSettings;
use crate::talk::message::Failure;

/// A provider that starts to rest before we have asked anybody is waited for if it is no longer than this.
const SHORT_REST: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked so often, not again before.
    Idle {
        asked: u32,
        not_before: Option<Instant>,
    },
    Asked {
        asked: u32,
        since: Instant,
    },
    Refused,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask this one of the list, and say so by [`Plan::handle_asked`].
    Ask(usize),
    /// Nothing before then, unless somebody answers or fails.
    Wait(Instant),
    GiveUp(Failure),
}

/// The plan for one question.
pub struct Plan {
    settings: LinkSettings,
    began: Instant,
    states: Vec<State>,
    last: Option<Failure>,
    /// 0.8 to 1.2, so that callers that failed together do not come back together.
    spread: f64,
}

impl Plan {
    /// `chance`: 0 to 1, by chance.
    pub fn new(now: Instant, settings: LinkSettings, providers: usize, chance: f64) -> Self {
        Plan {
            settings,
            began: now,
            states: vec![State::Idle { asked: 0, not_before: None }; providers],
            last: None,
            spread: 0.8 + 0.4 * chance.clamp(0.0, 1.0),
        }
    }

    /// `rests`: until when a provider is left alone.
    pub fn step(&self, now: Instant, rests: impl Fn(usize) -> Option<Instant>) -> Step {
        let end = self.began + self.settings.patience;
        if now >= end {
            let slow = Failure::TooSlow(self.settings.patience.as_millis() as u64);
            return Step::GiveUp(self.last.clone().unwrap_or(slow));
        }
        let newest = self.states.iter().filter_map(|state| match state {
            State::Asked { since, .. } => Some(*since),
            State::Idle { .. } | State::Refused => None,
        });
        match newest.max() {
            None => self.next_of_all(now, end, rests),
            Some(newest) => {
                let fresh = |(_, state): &(usize, &State)| matches!(state, State::Idle { asked: 0, .. });
                let mut fresh = self.states.iter().enumerate().filter(fresh);
                let Some((index, _)) = fresh.find(|(index, _)| rests(*index).is_none()) else {
                    return Step::Wait(end);
                };
                let at = newest + self.settings.beside_after;
                if at <= now { Step::Ask(index) } else { Step::Wait(at.min(end)) }
            }
        }
    }

    /// Nobody is being asked.
    fn next_of_all(&self, now: Instant, end: Instant, rests: impl Fn(usize) -> Option<Instant>) -> Step {
        let mut soonest: Option<(Instant, usize)> = None;
        for (index, state) in self.states.iter().enumerate() {
            let State::Idle { asked, not_before } = *state else { continue };
            if asked > self.settings.retries {
                continue;
            }
            let at = not_before.max(rests(index)).unwrap_or(now).max(now);
            if at == now {
                return Step::Ask(index);
            }
            if soonest.is_none_or(|(soonest, _)| at < soonest) {
                soonest = Some((at, index));
            }
        }
        match (soonest, &self.last) {
            (Some((at, _)), Some(last)) if at >= end => Step::GiveUp(last.clone()),
            (Some((at, _)), Some(_)) => Step::Wait(at),
            (Some((at, _)), None) if at - now <= SHORT_REST && at < end => Step::Wait(at),
            (Some((at, _)), None) => Step::GiveUp(Failure::Resting((at - now).as_millis() as u64)),
            (None, Some(last)) => Step::GiveUp(last.clone()),
            (None, None) => Step::GiveUp(Failure::Unreached("no provider is configured".to_owned())),
        }
    }

    pub fn handle_asked(&mut self, now: Instant, index: usize) {
        if let Some(state) = self.states.get_mut(index) {
            let before = match *state {
                State::Idle { asked, .. } | State::Asked { asked, .. } => asked,
                State::Refused => 0,
            };
            *state = State::Asked { asked: before + 1, since: now };
        }
    }

    pub fn handle_failure(&mut self, now: Instant, index: usize, failure: Failure) {
        let Some(state) = self.states.get_mut(index) else { return };
        let asked = match *state {
            State::Idle { asked, .. } | State::Asked { asked, .. } => asked,
            State::Refused => return,
        };
        *state = if failure.is_passing() {
            let doubled = self.settings.back_off.saturating_mul(1 << asked.saturating_sub(1).min(16));
            let mut pause = doubled.min(self.settings.back_off_max).mul_f64(self.spread);
            if let Failure::Busy { retry_after_ms: Some(ms) } = failure {
                pause = pause.max(Duration::from_millis(ms));
            }
            State::Idle { asked, not_before: now.checked_add(pause) }
        } else {
            State::Refused
        };
        self.last = Some(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: LinkSettings = LinkSettings {
        retries: 2,
        back_off: Duration::from_millis(100),
        back_off_max: Duration::from_millis(150),
        beside_after: Duration::from_secs(1),
        patience: Duration::from_secs(10),
        rest_after: 3,
        rest: Duration::from_secs(2),
        rest_max: Duration::from_secs(30),
    };

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn never(_: usize) -> Option<Instant> {
        None
    }

    /// Runs a plan whose questions all fail at once, and gives who was asked when, in ms, and the end of it.
    fn run(settings: LinkSettings, providers: usize, failure: &Failure) -> (Vec<(u64, usize)>, Failure) {
        let start = Instant::now();
        let (mut now, mut asked) = (start, Vec::new());
        let mut plan = Plan::new(now, settings, providers, 0.5);
        loop {
            match plan.step(now, never) {
                Step::Ask(index) => {
                    asked.push(((now - start).as_millis() as u64, index));
                    plan.handle_asked(now, index);
                    plan.handle_failure(now, index, failure.clone());
                }
                Step::Wait(until) => {
                    assert!(until > now, "time goes on");
                    now = until;
                }
                Step::GiveUp(failure) => return (asked, failure),
            }
        }
    }

    #[test]
    fn the_next_is_asked_at_once_and_all_again_after_a_growing_pause() {
        let (asked, end) = run(SETTINGS, 2, &Failure::Cut);
        assert_eq!(asked, [(0, 0), (0, 1), (100, 0), (100, 1), (250, 0), (250, 1)]);
        assert_eq!(end, Failure::Cut);
    }

    #[test]
    fn who_refuses_is_asked_once() {
        let refused = Failure::Refused { status: 401, text: "no".to_owned() };
        let (asked, end) = run(SETTINGS, 2, &refused);
        assert_eq!((asked, end), (vec![(0, 0), (0, 1)], refused));
    }

    #[test]
    fn who_asks_to_wait_is_waited_for_unless_it_is_too_long() {
        let busy = |ms| Failure::Busy { retry_after_ms: Some(ms) };
        let (asked, _) = run(SETTINGS, 1, &busy(3_000));
        assert_eq!(asked, [(0, 0), (3_000, 0), (6_000, 0)]);
        let (asked, end) = run(SETTINGS, 1, &busy(60_000));
        assert_eq!((asked, end), (vec![(0, 0)], busy(60_000)), "given up at once, not after the patience");
    }

    #[test]
    fn a_slow_one_gets_company_and_patience_ends() {
        let start = Instant::now();
        let mut plan = Plan::new(start, SETTINGS, 2, 0.5);
        assert_eq!(plan.step(start, never), Step::Ask(0));
        plan.handle_asked(start, 0);
        assert_eq!(plan.step(at(start, 10), never), Step::Wait(at(start, 1_000)));
        assert_eq!(plan.step(at(start, 1_000), never), Step::Ask(1));
        plan.handle_asked(at(start, 1_000), 1);
        assert_eq!(plan.step(at(start, 1_001), never), Step::Wait(at(start, 10_000)));
        // The second fails while the first still thinks: nobody is left to be asked beside it.
        plan.handle_failure(at(start, 1_100), 1, Failure::Cut);
        assert_eq!(plan.step(at(start, 1_300), never), Step::Wait(at(start, 10_000)));
        assert_eq!(plan.step(at(start, 10_000), never), Step::GiveUp(Failure::Cut));
        assert_eq!(Plan::new(start, SETTINGS, 1, 0.5).step(at(start, 10_000), never), {
            Step::GiveUp(Failure::TooSlow(10_000))
        });
    }

    #[test]
    fn one_that_rests_is_passed_over_and_if_all_rest_it_is_said_at_once() {
        let start = Instant::now();
        let plan = Plan::new(start, SETTINGS, 2, 0.5);
        let first_rests = |index| (index == 0).then(|| at(start, 5_000));
        assert_eq!(plan.step(start, first_rests), Step::Ask(1));
        assert_eq!(plan.step(start, |_| Some(at(start, 5_000))), Step::GiveUp(Failure::Resting(5_000)));
        assert_eq!(plan.step(start, |_| Some(at(start, 400))), Step::Wait(at(start, 400)), "a short rest");
    }

    #[test]
    fn an_empty_list_is_a_failure() {
        let (asked, end) = run(SETTINGS, 0, &Failure::Cut);
        assert!(asked.is_empty() && matches!(end, Failure::Unreached(_)));
    }
}
