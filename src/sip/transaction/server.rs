//! Non-INVITE server transaction, RFC 3261 §17.2.2.

use std::time::{Duration, Instant};

use super::Timers;

#[derive(Debug)]
enum State {
    Trying,
    /// Timer J: repeats of the request get the same response.
    Completed {
        until: Instant,
    },
    Terminated,
}

#[derive(Debug)]
pub struct Server {
    state: State,
    timers: Timers,
    reliable: bool,
}

impl Server {
    pub fn new(timers: Timers, reliable: bool) -> Self {
        Server { state: State::Trying, timers, reliable }
    }

    /// A repeat of the request. `true`: send the last response again.
    pub fn handle_repeat(&self) -> bool {
        matches!(self.state, State::Completed { .. })
    }

    /// The user answers finally. `true`: the response may be sent.
    pub fn respond(&mut self, now: Instant) -> bool {
        if !matches!(self.state, State::Trying) {
            return false;
        }
        let wait = if self.reliable { Duration::ZERO } else { self.timers.patience() };
        self.state = State::Completed { until: now + wait };
        true
    }

    pub fn handle_time(&mut self, now: Instant) {
        if let State::Completed { until } = self.state
            && now >= until
        {
            self.state = State::Terminated;
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Completed { until } => Some(until),
            State::Trying | State::Terminated => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_bye_gets_the_same_answer_for_64_t1() {
        let now = Instant::now();
        let mut machine = Server::new(Timers::default(), false);
        assert!(!machine.handle_repeat(), "nothing to repeat yet");
        assert!(machine.respond(now));
        assert!(machine.handle_repeat());
        machine.handle_time(now + Duration::from_secs(32));
        assert!(machine.is_over());
    }
}
