//! Non-INVITE client transaction, RFC 3261 §17.1.2.

use std::time::{Duration, Instant};

use super::Timers;
pub use super::client_invite::Timed;

#[derive(Debug)]
enum State {
    /// Timers E and F, before (`t1` doubling) and after (`t2`) a provisional response.
    Trying {
        resend_at: Option<Instant>,
        interval: Duration,
        give_up_at: Instant,
    },
    /// Timer K.
    Completed {
        until: Instant,
    },
    Terminated,
}

#[derive(Debug)]
pub struct Client {
    state: State,
    timers: Timers,
    reliable: bool,
}

impl Client {
    /// The request has just been sent for the first time.
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        let resend_at = (!reliable).then_some(now + timers.t1);
        let state = State::Trying { resend_at, interval: timers.t1, give_up_at: now + timers.patience() };
        Client { state, timers, reliable }
    }

    /// `true`: the response is for the user.
    pub fn handle_response(&mut self, now: Instant, status: u16) -> bool {
        let State::Trying { interval, .. } = &mut self.state else { return false };
        if status < 200 {
            *interval = self.timers.t2;
        } else {
            let wait = if self.reliable { Duration::ZERO } else { self.timers.t4 };
            self.state = State::Completed { until: now + wait };
        }
        true
    }

    pub fn handle_time(&mut self, now: Instant) -> Timed {
        match &mut self.state {
            State::Trying { give_up_at, .. } if now >= *give_up_at => {
                self.state = State::Terminated;
                Timed::TimedOut
            }
            State::Trying { resend_at: Some(at), interval, .. } if now >= *at => {
                *interval = (*interval * 2).min(self.timers.t2);
                *at += *interval;
                Timed::Resend
            }
            State::Completed { until } if now >= *until => {
                self.state = State::Terminated;
                Timed::Nothing
            }
            State::Trying { .. } | State::Completed { .. } | State::Terminated => Timed::Nothing,
        }
    }

    /// The same request goes somewhere else, as a new transaction.
    pub fn restart(&mut self, now: Instant, reliable: bool) {
        *self = Client::new(now, self.timers, reliable);
    }

    /// The transport failed.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Trying { resend_at, give_up_at, .. } => {
                Some(resend_at.map_or(*give_up_at, |at| at.min(*give_up_at)))
            }
            State::Completed { until } => Some(*until),
            State::Terminated => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_bye_is_repeated_with_growing_pauses_up_to_t2() {
        let start = Instant::now();
        let mut machine = Client::new(start, Timers::default(), false);
        let mut sent = Vec::new();
        loop {
            let at = machine.wake_at().expect("it waits until it is over");
            match machine.handle_time(at) {
                Timed::Resend => sent.push((at - start).as_millis()),
                Timed::TimedOut => break,
                Timed::Nothing => unreachable!("it waits for nothing else"),
            }
        }
        assert_eq!(sent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    }

    #[test]
    fn only_the_first_final_response_is_for_the_user() {
        let now = Instant::now();
        let mut machine = Client::new(now, Timers::default(), false);
        assert!(machine.handle_response(now, 200));
        assert!(!machine.handle_response(now, 200));
        assert_eq!(machine.wake_at(), Some(now + Duration::from_secs(5)));
    }
}
