//! Driver. The screen in front of the SIP sockets, shared by those who read them and the control loop: one short lock
//! for each message, so that what a stranger sends too much of costs nobody else anything.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::useragent::admission::Admission;
use crate::useragent::admission::screen::{Dropped, Screen, Verdict};

/// A handle; clones share one screen.
#[derive(Clone)]
pub struct Door(Arc<Mutex<Screen>>);

impl Door {
    pub fn new(admission: Admission) -> Self {
        Door(Arc::new(Mutex::new(Screen::new(admission))))
    }

    /// Judges one datagram that has just been read.
    pub fn look(&self, source: IpAddr, bytes: &[u8]) -> Verdict {
        let now = now();
        self.with(|screen| screen.look(now, source, bytes))
    }

    pub fn is_banned(&self, now: Instant, source: IpAddr) -> bool {
        self.with(|screen| screen.is_banned(now, source))
    }

    /// Something of ours goes out: whoever gets a request may answer it.
    pub fn sends(&self, now: Instant, remote: IpAddr, bytes: &[u8]) {
        if !bytes.starts_with(b"SIP/2.0 ") {
            self.with(|screen| screen.acquaint(now, remote));
        }
    }

    /// A source showed a wrong password.
    pub fn guessed(&self, now: Instant, source: IpAddr) {
        self.with(|screen| screen.guessed(now, source));
    }

    pub fn dropped(&self) -> Dropped {
        self.with(|screen| screen.dropped())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Screen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[expect(clippy::disallowed_methods, reason = "readers have no other clock")]
fn now() -> Instant {
    Instant::now()
}
