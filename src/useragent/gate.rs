//! Where calls meet what is allowed: the number of calls, their rate, what the box can carry, what a peer may have.

use std::net::IpAddr;
use std::time::Instant;

use super::UserAgent;
use super::admission::capacity::Figures;
use super::admission::intake::Refusal;
use crate::engine::plan::CallId;
use crate::sip::{ConnectionId, Peer};

impl UserAgent {
    /// What the driver measured in the last second.
    pub fn observe(&mut self, figures: Figures) {
        self.intake.observe(figures, self.calls.len());
    }

    /// Calls that could still be taken, and all together with those that run.
    pub fn room(&self) -> (usize, usize) {
        self.intake.room(self.calls.len())
    }

    /// Whether the box may take calls, as far as those who watch it know; OPTIONS says so.
    pub fn set_ready(&mut self, ready: bool) {
        self.endpoint.set_ready(ready && !self.draining);
    }

    /// Tells the endpoint what to say about our room to whoever asks with OPTIONS.
    pub(super) fn show_room(&mut self) {
        let (free, total) = self.room();
        self.endpoint.set_room(free, total);
    }

    /// Whether a new call is refused, and how.
    pub(super) fn refuses(&mut self, now: Instant, caller: &Peer) -> Option<Refusal> {
        let proven = caller.connection.and_then(|connection| self.endpoint.tls_name(connection));
        let of_peer = match self.settings.admission.peers().of(caller.remote.ip(), proven) {
            Some(peer) if peer.max_calls > 0 => (self.calls_of_peer(&peer.name), peer.max_calls),
            Some(_) | None => (0, 0),
        };
        self.intake.admit(now, self.draining, self.live_calls(), of_peer).err()
    }

    fn live_calls(&self) -> usize {
        // Counting those that are only being taken down matters where the limit is a number.
        match self.settings.max_calls {
            0 => self.calls.len(),
            _ => self.calls.values().filter(|call| call.is_live()).count(),
        }
    }

    fn calls_of_peer(&self, name: &str) -> usize {
        let live = |call: &CallId| self.calls.get(call).is_some_and(|call| call.is_live());
        self.trunk_of.iter().filter(|(call, peer)| *peer == name && live(call)).count()
    }

    /// Remembers whose call it is, if its peer is known.
    pub(super) fn note_peer(&mut self, call: CallId, remote: IpAddr, connection: Option<ConnectionId>) {
        let proven = connection.and_then(|connection| self.endpoint.tls_name(connection));
        if let Some(peer) = self.settings.admission.peers().of(remote, proven) {
            self.trunk_of.insert(call, peer.name.clone());
        }
    }
}
