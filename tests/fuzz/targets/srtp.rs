//! Datagrams to the port of an encrypted stream: a peer's packets, whole, bent and twice, and anything else.
//!
//! The first byte chooses the suite; then two bytes lead each datagram: what it is, and how many bytes follow. What
//! comes out is what the peer sent, each packet once, and the peer's own packets come out whatever else was there.

use std::net::SocketAddr;
use std::time::Instant;

use eyeline::engine::network::guard::{Guard, Port};
use eyeline::engine::plan::{Direction, Protection, Route, SrtpKeys, SrtpSuite};
use eyeline::rtp::reach::Reach;
use eyeline::secure::srtp::Outgoing;

const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 5000);

fn route(suite: SrtpSuite, remote: &[u8]) -> Route {
    let keys = SrtpKeys { suite, local: vec![1; remote.len()], remote: remote.to_vec() };
    Route {
        remote: Some(PEER),
        remote_rtcp: Some(PEER),
        rtcp_mux: true,
        direction: Direction::SendReceive,
        protection: Protection::Sdes(Box::new(keys)),
        ice: None,
    }
}

/// What the peer sends, in the clear and as it goes on the wire.
struct Peer {
    out: Outgoing,
    sequence: u16,
    reports: u32,
    /// In the clear; not come out yet.
    sent: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl Peer {
    fn send(&mut self, report: bool, skip: u8, bytes: &[u8]) -> Vec<u8> {
        let mut packet = if report {
            self.reports += 1;
            let mut packet = vec![0x80, 201, 0, 1, 0, 0, 0, 7];
            packet.extend(self.reports.to_be_bytes());
            packet
        } else {
            self.sequence = self.sequence.wrapping_add(1 + u16::from(skip));
            let mut packet = vec![0x80, 0];
            packet.extend(self.sequence.to_be_bytes());
            packet.extend([0, 0, 0, 9, 0, 0, 0, 7]);
            packet
        };
        packet.extend(bytes);
        self.sent.push(packet.clone());
        let sealed =
            if report { self.out.protect_rtcp(&mut packet) } else { self.out.protect_rtp(&mut packet) };
        sealed.expect("the peer may send");
        self.last.clone_from(&packet);
        packet
    }
}

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let now = Instant::now();
    let Some((first, mut rest)) = data.split_first() else { return };
    let suite = [SrtpSuite::AesCm128HmacSha1_80, SrtpSuite::AeadAes128Gcm, SrtpSuite::AeadAes256Gcm]
        [usize::from(first % 3)];
    let (key, salt) = suite.lengths();
    let master = vec![2; key + salt];
    let out = Outgoing::new(suite, &master).expect("a key of its length");
    let mut peer = Peer { out, sequence: 0, reports: 0, sent: Vec::new(), last: Vec::new() };
    let mut guard = Guard::new(now, &route(suite, &master), Reach::default(), None);
    while let [what, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        let (report, skip) = (what & 4 != 0, what >> 3);
        let (mut datagram, genuine) = match what & 3 {
            0 => (bytes.to_vec(), false),
            1 => (peer.send(report, skip, bytes), true),
            2 => {
                let mut packet = peer.send(report, skip, &[5; 20]);
                let at = usize::from(skip).min(packet.len());
                packet[at..].iter_mut().zip(bytes).for_each(|(byte, bend)| *byte ^= bend);
                (packet, false)
            }
            _ => (peer.last.clone(), false),
        };
        match guard.receive(now, Port::Rtp, PEER, &mut datagram) {
            Some(plain) => {
                let at = peer.sent.iter().position(|sent| sent == plain);
                peer.sent.swap_remove(at.expect("the peer sent this, and it did not come out before"));
            }
            None => assert!(!genuine, "a packet of the peer's is refused"),
        }
    }
}
