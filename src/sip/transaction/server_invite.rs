//! INVITE server transaction, RFC 3261 §17.2.1 and RFC 6026 §7.1.

use std::time::{Duration, Instant};

use super::Timers;

#[derive(Debug)]
enum State {
    Proceeding,
    /// A 2xx was sent: repeats of the INVITE are absorbed, the session repeats the 2xx. Timer L.
    Accepted {
        until: Instant,
    },
    /// Timers G and H.
    Completed {
        resend_at: Option<Instant>,
        interval: Duration,
        give_up_at: Instant,
    },
    /// Timer I.
    Confirmed {
        until: Instant,
    },
    Terminated,
}

/// What a passed deadline means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// Send the last response again.
    Resend,
    Nothing,
}

#[derive(Debug)]
pub struct ServerInvite {
    state: State,
    timers: Timers,
    reliable: bool,
}

impl ServerInvite {
    pub fn new(timers: Timers, reliable: bool) -> Self {
        ServerInvite { state: State::Proceeding, timers, reliable }
    }

    /// A repeat of the INVITE. `true`: send the last response again.
    pub fn handle_repeat(&self) -> bool {
        matches!(self.state, State::Proceeding | State::Completed { .. })
    }

    /// The user answers. `true`: the response may be sent.
    pub fn respond(&mut self, now: Instant, status: u16) -> bool {
        if !matches!(self.state, State::Proceeding) {
            return false;
        }
        match status {
            0..=199 => {}
            200..=299 => self.state = State::Accepted { until: now + self.timers.patience() },
            _ => {
                let resend_at = (!self.reliable).then_some(now + self.timers.t1);
                let give_up_at = now + self.timers.patience();
                self.state = State::Completed { resend_at, interval: self.timers.t1, give_up_at };
            }
        }
        true
    }

    /// The ACK of a failure.
    pub fn handle_ack(&mut self, now: Instant) {
        if matches!(self.state, State::Completed { .. }) {
            let wait = if self.reliable { Duration::ZERO } else { self.timers.t4 };
            self.state = State::Confirmed { until: now + wait };
        }
    }

    pub fn handle_time(&mut self, now: Instant) -> Timed {
        match &mut self.state {
            State::Completed { give_up_at: until, .. }
            | State::Accepted { until }
            | State::Confirmed { until }
                if now >= *until =>
            {
                self.state = State::Terminated;
                Timed::Nothing
            }
            State::Completed { resend_at: Some(at), interval, .. } if now >= *at => {
                *interval = (*interval * 2).min(self.timers.t2);
                *at += *interval;
                Timed::Resend
            }
            State::Proceeding
            | State::Accepted { .. }
            | State::Completed { .. }
            | State::Confirmed { .. }
            | State::Terminated => Timed::Nothing,
        }
    }

    /// Whether a final response is still owed.
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding)
    }

    /// Whether a 2xx was sent: its ACK is not for this transaction.
    pub fn is_accepted(&self) -> bool {
        matches!(self.state, State::Accepted { .. })
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Completed { resend_at, give_up_at, .. } => {
                Some(resend_at.map_or(*give_up_at, |at| at.min(*give_up_at)))
            }
            State::Accepted { until } | State::Confirmed { until } => Some(*until),
            State::Proceeding | State::Terminated => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_repeated_until_its_ack() {
        let start = Instant::now();
        let mut machine = ServerInvite::new(Timers::default(), false);
        assert!(machine.respond(start, 180) && machine.respond(start, 486));
        assert!(!machine.respond(start, 200), "one final response only");
        let mut sent = Vec::new();
        while sent.len() < 4 {
            let at = machine.wake_at().expect("it repeats");
            if machine.handle_time(at) == Timed::Resend {
                sent.push((at - start).as_millis());
            }
        }
        assert_eq!(sent, [500, 1_500, 3_500, 7_500]);
        machine.handle_ack(start + Duration::from_secs(8));
        assert_eq!(machine.wake_at(), Some(start + Duration::from_secs(13)));
    }

    #[test]
    fn a_repeated_invite_gets_the_last_response_until_a_2xx_was_sent() {
        let now = Instant::now();
        let mut machine = ServerInvite::new(Timers::default(), false);
        assert!(machine.handle_repeat());
        machine.respond(now, 200);
        assert!(!machine.handle_repeat());
    }
}
