//! INVITE client transaction, RFC 3261 §17.1.1 and RFC 6026 §7.2.

use std::time::{Duration, Instant};

use super::Timers;

#[derive(Debug)]
enum State {
    /// Timers A and B.
    Calling {
        resend_at: Option<Instant>,
        interval: Duration,
        give_up_at: Instant,
    },
    Proceeding,
    /// A 2xx came: more of them (forks, repeats) are for the user. Timer M.
    Accepted {
        until: Instant,
    },
    /// A 300-699 came and was acknowledged. Timer D.
    Completed {
        until: Instant,
    },
    Terminated,
}

/// What a response means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    Deliver,
    /// The final failure: acknowledge it and tell the user.
    DeliverAndAck,
    /// A repeated final failure: acknowledge it again.
    Ack,
    Ignore,
}

/// What a passed deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    Resend,
    TimedOut,
    Nothing,
}

#[derive(Debug)]
pub struct ClientInvite {
    state: State,
    timers: Timers,
    reliable: bool,
    /// The end of the wait for a final response after a provisional one. `None`: as long as the peer likes.
    limit: Option<Instant>,
}

impl ClientInvite {
    /// The request has just been sent for the first time.
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        let resend_at = (!reliable).then_some(now + timers.t1);
        let state = State::Calling { resend_at, interval: timers.t1, give_up_at: now + timers.patience() };
        ClientInvite { state, timers, reliable, limit: None }
    }

    pub fn handle_response(&mut self, now: Instant, status: u16) -> Received {
        match (&self.state, status) {
            (State::Calling { .. } | State::Proceeding, 100..=199) => {
                self.state = State::Proceeding;
                Received::Deliver
            }
            (State::Calling { .. } | State::Proceeding, 200..=299) => {
                self.state = State::Accepted { until: now + self.timers.patience() };
                Received::Deliver
            }
            (State::Calling { .. } | State::Proceeding, _) => {
                let wait = if self.reliable { Duration::ZERO } else { self.timers.wait_d() };
                self.state = State::Completed { until: now + wait };
                Received::DeliverAndAck
            }
            (State::Accepted { .. }, 200..=299) => Received::Deliver,
            (State::Completed { .. }, 300..=699) => Received::Ack,
            (State::Accepted { .. } | State::Completed { .. } | State::Terminated, _) => Received::Ignore,
        }
    }

    pub fn handle_time(&mut self, now: Instant) -> Timed {
        match &mut self.state {
            State::Proceeding if self.limit.is_some_and(|limit| now >= limit) => {
                self.state = State::Terminated;
                Timed::TimedOut
            }
            State::Calling { give_up_at, .. } if now >= *give_up_at => {
                self.state = State::Terminated;
                Timed::TimedOut
            }
            State::Calling { resend_at: Some(at), interval, .. } if now >= *at => {
                *interval *= 2;
                *at += *interval;
                Timed::Resend
            }
            State::Accepted { until } | State::Completed { until } if now >= *until => {
                self.state = State::Terminated;
                Timed::Nothing
            }
            State::Calling { .. }
            | State::Proceeding
            | State::Accepted { .. }
            | State::Completed { .. }
            | State::Terminated => Timed::Nothing,
        }
    }

    /// Whether a provisional response has come, so that CANCEL may go out (§9.1).
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding)
    }

    /// The same request goes somewhere else, as a new transaction with the old limit.
    pub fn restart(&mut self, now: Instant, reliable: bool) {
        let limit = self.limit;
        *self = ClientInvite { limit, ..ClientInvite::new(now, self.timers, reliable) };
    }

    /// Waits no longer than this for a first response.
    pub fn hurry(&mut self, until: Instant) {
        if let State::Calling { give_up_at, .. } = &mut self.state {
            *give_up_at = until.min(*give_up_at);
        }
    }

    /// After a provisional response waits no longer than this for the final one.
    pub fn limit(&mut self, until: Instant) {
        self.limit = Some(until);
    }

    /// The transport failed or nothing more can come.
    pub fn terminate(&mut self) {
        self.state = State::Terminated;
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Calling { resend_at, give_up_at, .. } => {
                Some(resend_at.map_or(*give_up_at, |at| at.min(*give_up_at)))
            }
            State::Accepted { until } | State::Completed { until } => Some(*until),
            State::Proceeding => self.limit,
            State::Terminated => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unanswered_invite_is_sent_seven_times_and_given_up_after_32_s() {
        let start = Instant::now();
        let mut machine = ClientInvite::new(start, Timers::default(), false);
        let mut sent = vec![0];
        loop {
            let at = machine.wake_at().expect("it waits until it is over");
            match machine.handle_time(at) {
                Timed::Resend => sent.push((at - start).as_millis()),
                Timed::TimedOut => {
                    assert_eq!((at - start).as_millis(), 32_000);
                    break;
                }
                Timed::Nothing => unreachable!("it waits for nothing else"),
            }
        }
        assert_eq!(sent, [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        assert!(machine.is_over());
    }

    #[test]
    fn a_phone_that_rings_for_ever_is_given_up_at_the_limit() {
        let now = Instant::now();
        let mut machine = ClientInvite::new(now, Timers::default(), false);
        machine.limit(now + Duration::from_secs(180));
        machine.handle_response(now, 180);
        assert_eq!(machine.wake_at(), Some(now + Duration::from_secs(180)));
        assert_eq!(machine.handle_time(now + Duration::from_secs(180)), Timed::TimedOut);
        assert!(machine.is_over());
    }

    #[test]
    fn busy_is_acked_again() {
        let now = Instant::now();
        let mut machine = ClientInvite::new(now, Timers::default(), false);
        assert_eq!(machine.handle_response(now, 486), Received::DeliverAndAck);
        assert_eq!(machine.handle_response(now, 486), Received::Ack);
        assert_eq!(machine.wake_at(), Some(now + Duration::from_secs(32)));
    }

    #[test]
    fn a_second_2xx_reaches_the_user_and_a_late_failure_does_not() {
        let now = Instant::now();
        let mut machine = ClientInvite::new(now, Timers::default(), true);
        assert_eq!(machine.handle_response(now, 180), Received::Deliver);
        assert!(machine.is_proceeding() && machine.wake_at().is_none());
        assert_eq!(machine.handle_response(now, 200), Received::Deliver);
        assert_eq!(machine.handle_response(now, 200), Received::Deliver);
        assert_eq!(machine.handle_response(now, 486), Received::Ignore);
        machine.handle_time(now + Duration::from_secs(32));
        assert!(machine.is_over());
    }
}
