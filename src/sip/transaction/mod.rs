//! The four transaction machines of RFC 3261 §17 with the Accepted states of RFC 6026, one machine a file.
//!
//! They hold no bytes: each verb answers with what the owner should do. Repeating a 2xx until its ACK is not a
//! transaction's work; it lives in the session.

pub mod client;
pub mod client_invite;
pub mod server;
pub mod server_invite;

use std::time::Duration;

/// The base timers of RFC 3261 table 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest retransmit interval.
    pub t2: Duration,
    /// How long a message lives in the network.
    pub t4: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Timers { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) }
    }
}

impl Timers {
    /// Timers B, F, H, J, L and M.
    pub fn patience(&self) -> Duration {
        self.t1 * 64
    }

    /// Timer D: at least 32 s on UDP.
    pub(super) fn wait_d(&self) -> Duration {
        self.patience().max(Duration::from_secs(32))
    }
}
