//! The DTLS handshakes of one port: who may shake hands, for how long, and which of them wins. Pure.
//!
//! A stranger's ClientHello costs nothing and ends nothing: sources were looked at before they come here, each has its
//! own association, and the first whose certificate is right ends the others (RFC 5763 §5, CVE-2023-49786).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::engine::plan::{DtlsPeer, SrtpKeys};
use crate::secure::dtls::{Association, Failure, Identity, Progress};

/// Keys must be there this long after the peer could have begun.
const LIMIT: Duration = Duration::from_secs(5);
/// Sources tried at a time.
const OPEN_MAX: usize = 4;

/// See the module.
pub struct Handshake {
    identity: Arc<Identity>,
    peer: DtlsPeer,
    open: Vec<(SocketAddr, Association)>,
    /// Whose keys are used.
    winner: Option<SocketAddr>,
    deadline: Option<Instant>,
    failure: Option<Failure>,
    /// Handshake messages of sources that may not, or no longer.
    pub refused: u64,
}

impl Handshake {
    pub fn new(identity: Arc<Identity>, peer: DtlsPeer) -> Self {
        Handshake {
            identity,
            peer,
            open: Vec::new(),
            winner: None,
            deadline: None,
            failure: None,
            refused: 0,
        }
    }

    /// From now on the peer can shake hands at `address`; as the client we begin.
    pub fn begin(&mut self, now: Instant, address: Option<SocketAddr>) {
        if self.winner.is_some() {
            return;
        }
        self.deadline.get_or_insert(now + LIMIT);
        if let (true, true, Some(address)) = (self.peer.client, self.open.is_empty(), address) {
            self.add(now, address);
        }
    }

    /// A DTLS datagram of a source that may send one.
    pub fn handle(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) -> Option<Progress> {
        let mut at = self.open.iter().position(|(address, _)| *address == source);
        if at.is_none() && self.peer.client && self.winner.is_none() && !is_client_hello(datagram) {
            // The peer answers from elsewhere: its address is not what its SDP says.
            at = (self.open.len() == 1).then_some(0);
        }
        if at.is_none() && !self.peer.client && is_client_hello(datagram) && self.open.len() < OPEN_MAX {
            at = self.winner.is_none().then(|| self.add(now, source)).flatten();
        }
        let Some(at) = at else {
            self.refused += 1;
            return None;
        };
        let outcome = self.open.get_mut(at)?.1.handle(now, datagram);
        match outcome {
            Ok(Some(Progress::Keys(keys))) => Some(Progress::Keys(self.won(at, keys))),
            Ok(Some(Progress::Closed)) => {
                self.open.remove(at);
                self.winner = None;
                Some(Progress::Closed)
            }
            Ok(None) => None,
            Err(failure) => {
                self.lost(now, at, failure);
                None
            }
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        let mut at = 0;
        while let Some((_, association)) = self.open.get_mut(at) {
            match association.handle_time(now) {
                Ok(()) => at += 1,
                Err(failure) => {
                    self.lost(now, at, failure);
                    at += 1;
                }
            }
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let timers = self.open.iter().filter_map(|(_, association)| association.wake_at());
        timers.chain(self.deadline).min()
    }

    /// Datagrams to send.
    pub fn poll(&mut self) -> Option<(SocketAddr, BytesMut)> {
        self.open.iter_mut().find_map(|(address, association)| Some((*address, association.poll()?)))
    }

    /// Why there are no keys although the time for them is over; once.
    pub fn overdue(&mut self, now: Instant) -> Option<String> {
        self.deadline.take_if(|deadline| now >= *deadline)?;
        let unheard = format!("the peer did not shake hands within {} s", LIMIT.as_secs());
        Some(self.failure.take().map_or(unheard, |failure| failure.to_string()))
    }

    /// Says goodbye. Poll afterwards.
    pub fn close(&mut self, now: Instant) {
        self.open.iter_mut().for_each(|(_, association)| association.close(now));
    }

    fn add(&mut self, now: Instant, address: SocketAddr) -> Option<usize> {
        let fingerprint = self.peer.fingerprint.clone();
        match Association::new(now, &self.identity, self.peer.client, fingerprint) {
            Ok(association) => {
                self.open.push((address, association));
                Some(self.open.len() - 1)
            }
            Err(failure) => {
                self.failure = Some(failure);
                None
            }
        }
    }

    fn won(&mut self, at: usize, keys: SrtpKeys) -> SrtpKeys {
        let winner = self.open.swap_remove(at);
        self.winner = Some(winner.0);
        self.open = vec![winner];
        self.deadline = None;
        keys
    }

    /// This association will not come to keys: as the client we try again, as the server we wait for others.
    fn lost(&mut self, now: Instant, at: usize, failure: Failure) {
        if self.winner.is_some() {
            return;
        }
        tracing::debug!(%failure, "a DTLS handshake failed");
        let again = self.peer.client && matches!(failure, Failure::Broken(_));
        self.failure = Some(failure);
        let (address, _) = self.open.remove(at);
        if again && self.deadline.is_some_and(|deadline| now < deadline) {
            self.add(now, address);
        }
    }
}

/// A first message: what begins an association of the server.
fn is_client_hello(datagram: &[u8]) -> bool {
    datagram.first() == Some(&22) && datagram.get(3..5) == Some(&[0, 0]) && datagram.get(13) == Some(&1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn pair() -> (Handshake, Handshake) {
        let own = || Arc::new(Identity::generate().expect("a certificate"));
        let (client, server) = (own(), own());
        let peer = |client, identity: &Identity| DtlsPeer { client, fingerprint: identity.fingerprint() };
        (Handshake::new(client.clone(), peer(true, &server)), Handshake::new(server, peer(false, &client)))
    }

    /// Carries datagrams between client (at port 1) and server (at port 2) until nothing moves.
    fn carry(now: Instant, client: &mut Handshake, server: &mut Handshake) -> Vec<Progress> {
        let mut all = Vec::new();
        loop {
            let before = all.len();
            let mut moved = false;
            while let Some((_, datagram)) = client.poll() {
                moved = true;
                all.extend(server.handle(now, at(1), &datagram));
            }
            while let Some((to, datagram)) = server.poll() {
                moved = true;
                if to == at(1) {
                    all.extend(client.handle(now, at(2), &datagram));
                }
            }
            if !moved && all.len() == before {
                return all;
            }
        }
    }

    #[test]
    fn strangers_beside_the_peer_do_not_keep_it_from_its_keys() {
        let (mut client, mut server) = pair();
        let now = Instant::now();
        server.begin(now, None);
        client.begin(now, Some(at(2)));
        // Another's ClientHello, with another certificate behind it, and nonsense.
        let (mut stranger, _) = pair();
        stranger.begin(now, Some(at(2)));
        let (_, hello) = stranger.poll().expect("a first flight");
        assert_eq!(server.handle(now, at(9), &hello), None);
        for n in 0..200_u8 {
            assert_eq!(server.handle(now, at(9), &[22, 0xfe, 0xfd, n, n, n]), None);
        }
        assert_eq!(carry(now, &mut client, &mut server).len(), 2, "both have keys");
        assert!(server.open.len() == 1 && server.wake_at().is_none());
        assert_eq!(server.handle(now, at(9), &hello), None);
        assert!(server.refused > 0);
    }

    #[test]
    fn a_hello_from_elsewhere_does_not_reach_the_handshake_we_began() {
        let (mut client, mut server) = pair();
        let (mut stranger, _) = pair();
        let now = Instant::now();
        client.begin(now, Some(at(2)));
        stranger.begin(now, Some(at(1)));
        let (_, hello) = stranger.poll().expect("a first flight");
        assert!(client.handle(now, at(9), &hello).is_none());
        assert_eq!(client.refused, 1);
        let keys = carry(now, &mut client, &mut server);
        assert_eq!(keys.iter().filter(|progress| matches!(progress, Progress::Keys(_))).count(), 2);
    }

    #[test]
    fn sources_are_bounded_and_nothing_but_a_hello_begins() {
        let (mut client, mut server) = pair();
        let now = Instant::now();
        client.begin(now, Some(at(2)));
        let (_, hello) = client.poll().expect("a first flight");
        for port in 10..30 {
            assert_eq!(server.handle(now, at(port), &[23; 40]), None);
            assert_eq!(server.handle(now, at(port), &hello), None);
        }
        assert_eq!(server.open.len(), OPEN_MAX);
    }

    #[test]
    fn who_never_answers_is_told_once_when_the_time_is_over() {
        let (mut client, _) = pair();
        let mut now = Instant::now();
        let end = now + LIMIT;
        client.begin(now, Some(at(2)));
        let mut flights = 0;
        while now < end {
            assert_eq!(client.overdue(now), None);
            while client.poll().is_some() {
                flights += 1;
            }
            now = client.wake_at().expect("it waits for something").max(now);
            client.handle_time(now);
        }
        assert!(flights >= 8, "{flights} flights");
        assert!(client.overdue(now).is_some());
        assert_eq!(client.overdue(now), None);
    }

    #[test]
    fn a_wrong_certificate_is_the_reason_that_is_given() {
        let (mut client, _) = pair();
        let (_, mut other) = pair();
        let now = Instant::now();
        client.begin(now, Some(at(2)));
        other.begin(now, None);
        assert!(carry(now, &mut client, &mut other).is_empty());
        let why = client.overdue(now + LIMIT).expect("the time is over");
        assert!(why.contains("certificate"), "{why}");
    }

    #[test]
    fn after_a_goodbye_the_peer_may_begin_again() {
        let (mut client, mut server) = pair();
        let now = Instant::now();
        server.begin(now, None);
        client.begin(now, Some(at(2)));
        assert_eq!(carry(now, &mut client, &mut server).len(), 2);
        client.close(now);
        assert_eq!(carry(now, &mut client, &mut server), [Progress::Closed]);
        let mut again = Handshake::new(client.identity.clone(), client.peer.clone());
        again.begin(now, Some(at(2)));
        assert_eq!(carry(now, &mut again, &mut server).len(), 2);
    }
}
