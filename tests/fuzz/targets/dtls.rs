//! Datagrams into a DTLS handshake. The first byte chooses our role and whether the other side is the one our SDP
//! names; then two bytes lead each step: what happens, and how many bytes follow.
//!
//! Keys come from the named peer alone, both sides get the same ones, and nobody makes us send without end.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use eyeline::engine::network::guard::{Guard, Port};
use eyeline::engine::plan::{Direction, DtlsPeer, Protection, Route, SrtpKeys};
use eyeline::rtp::reach::Reach;
use eyeline::secure::dtls::{Association, Identity, Progress};
use eyeline::secure::srtp::{Incoming, Outgoing};

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 5000);
/// A flight of ours in datagrams, and then some.
const FLIGHT: usize = 16;
/// Rounds of what is left of a handshake after the steps, half a second each.
const ROUNDS: usize = 8;

static OURS: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::generate().expect("a certificate")));
static THEIRS: LazyLock<[Identity; 2]> =
    LazyLock::new(|| [0, 1].map(|_| Identity::generate().expect("a certificate")));

/// Both ends and what is on its way to the peer.
struct Wire {
    now: Instant,
    guard: Guard,
    peer: Association,
    keys: Option<SrtpKeys>,
    sent: usize,
    heard: usize,
}

impl Wire {
    fn new(now: Instant, client: bool, stranger: bool) -> Self {
        let fingerprint = THEIRS[0].fingerprint();
        let route = Route {
            remote: Some(PEER),
            remote_rtcp: Some(PEER),
            rtcp_mux: true,
            direction: Direction::SendReceive,
            protection: Protection::Dtls(Box::new(DtlsPeer { client, fingerprint })),
            ice: None,
        };
        let guard = Guard::new(
            now,
            &route,
            Reach { signalling: Some(PEER.ip()), ..Reach::default() },
            Some(OURS.clone()),
        );
        let peer = Association::new(now, &THEIRS[usize::from(stranger)], !client, OURS.fingerprint());
        Wire { now, guard, peer: peer.expect("an association"), keys: None, sent: 0, heard: 0 }
    }

    fn us_hear(&mut self, datagram: &mut [u8]) {
        self.heard += 1;
        let passed = self.guard.receive(self.now, Port::Rtp, PEER, datagram);
        assert!(passed.is_none(), "nothing on a stream without keys is media");
    }

    fn peer_sends(&mut self, bend: &[u8]) -> bool {
        let Some(datagram) = self.peer.poll() else { return false };
        let mut datagram = datagram.to_vec();
        datagram.iter_mut().zip(bend).for_each(|(byte, bend)| *byte ^= bend);
        self.us_hear(&mut datagram);
        true
    }

    fn peer_hears(&mut self) -> bool {
        let Some((_, to, datagram)) = self.guard.poll() else { return false };
        assert_eq!(to, PEER);
        self.sent += 1;
        if let Ok(Some(Progress::Keys(keys))) = self.peer.handle(self.now, &datagram) {
            self.keys = Some(keys);
        }
        true
    }

    /// A packet in each direction.
    fn agree(&mut self) {
        let Some(keys) = self.keys.clone().filter(|_| self.guard.ready()) else { return };
        let mut plain = vec![0x80, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 7];
        plain.extend([5; 20]);
        let mut packet = self.guard.protect(Port::Rtp, &plain).expect("there are keys").to_vec();
        let mut incoming = Incoming::new(keys.suite, &keys.remote).expect("a key of its length");
        let length = incoming.unprotect_rtp(&mut packet).expect("the same keys");
        assert_eq!(packet[..length], plain);
        let mut packet = plain.clone();
        let mut outgoing = Outgoing::new(keys.suite, &keys.local).expect("a key of its length");
        outgoing.protect_rtp(&mut packet).expect("protected");
        assert_eq!(self.guard.receive(self.now, Port::Rtp, PEER, &mut packet), Some(plain.as_slice()));
    }
}

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let now = Instant::now();
    let Some((first, mut rest)) = data.split_first() else { return };
    let stranger = first & 2 != 0;
    let mut wire = Wire::new(now, first & 1 != 0, stranger);
    while let [what, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        match what & 3 {
            // What is no handshake belongs to the target for packets.
            0 if bytes.first().is_some_and(|first| (20..64).contains(first)) => {
                wire.us_hear(&mut bytes.to_vec());
            }
            1 => drop(wire.peer_sends(&[])),
            2 => drop(wire.peer_sends(bytes)),
            _ => drop(wire.peer_hears()),
        }
    }
    for _ in 0..ROUNDS {
        while wire.peer_hears() || wire.peer_sends(&[]) {}
        wire.now += Duration::from_millis(500);
        wire.guard.handle_time(wire.now);
        let _ = wire.peer.handle_time(wire.now);
    }
    assert!(!stranger || !wire.guard.ready(), "keys with somebody the SDP does not name");
    wire.agree();
    let most = FLIGHT * (wire.heard + ROUNDS + 1);
    assert!(wire.sent <= most, "{} datagrams for {}", wire.sent, wire.heard);
}
