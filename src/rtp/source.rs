//! Which remote address a stream takes packets from, and sends to (symmetric RTP), safe against RTP bleed.
//!
//! The address of the SDP locks at once and for good. Another one (a peer behind NAT) must pass probation while
//! the SDP address is silent, and gives way when that one speaks. Media alone never moves a lock.
//! What is inside the packets is checked before they are shown here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Packets in sequence from one unexpected address before it may lock.
const PROBATION: u32 = 4;
/// How long the SDP address must have been silent meanwhile: time for the real peer to start.
const SILENCE: Duration = Duration::from_millis(200);
/// The same for an address on another host than the SDP's and the signalling's.
const SILENCE_STRANGER: Duration = Duration::from_secs(1);
/// A candidate that pauses this long starts again.
const CANDIDATE_IDLE: Duration = Duration::from_millis(500);

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Accepted, and from now on this is the source.
    Locked,
    /// Not (yet) the source: drop and count.
    Foreign,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    address: SocketAddr,
    ssrc: u32,
    next: u16,
    passed: u32,
    since: Instant,
    last: Instant,
}

/// The lock of one stream.
#[derive(Clone, Debug)]
pub struct SourceLock {
    preferred: Option<SocketAddr>,
    signalling: Option<std::net::IpAddr>,
    locked: Option<SocketAddr>,
    candidate: Option<Candidate>,
}

impl SourceLock {
    /// `preferred`: the RTP address of the peer's SDP; `signalling`: the host its signalling comes from.
    pub fn new(preferred: Option<SocketAddr>, signalling: Option<std::net::IpAddr>) -> Self {
        let preferred = preferred.filter(is_usable).map(canonical);
        SourceLock {
            preferred,
            signalling: signalling.map(|ip| ip.to_canonical()),
            locked: None,
            candidate: None,
        }
    }

    /// The source, once there is one.
    pub fn locked(&self) -> Option<SocketAddr> {
        self.locked
    }

    /// Where to send: the source, before that the address of the SDP.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.locked.or(self.preferred)
    }

    /// A new SDP names another address: the lock begins anew; the same address changes nothing.
    pub fn redirect(&mut self, preferred: Option<SocketAddr>) {
        let preferred = preferred.filter(is_usable).map(canonical);
        if preferred != self.preferred {
            *self = SourceLock::new(preferred, self.signalling);
        }
    }

    /// Judges a packet with a valid header and a payload type of this stream.
    pub fn judge(&mut self, now: Instant, source: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        let source = canonical(source);
        if self.locked == Some(source) {
            return Verdict::Accepted;
        }
        if self.preferred == Some(source) {
            return self.lock(source);
        }
        if self.locked.is_some() {
            return Verdict::Foreign;
        }
        let passed = self.probe(now, source, ssrc, sequence);
        if passed { self.lock(source) } else { Verdict::Foreign }
    }

    /// Whether control packets of this address belong to the stream: the host of the source or of the SDP.
    pub fn is_peer(&self, source: SocketAddr) -> bool {
        let ip = source.ip().to_canonical();
        match self.destination() {
            Some(destination) => destination.ip() == ip,
            None => false,
        }
    }

    fn lock(&mut self, source: SocketAddr) -> Verdict {
        self.locked = Some(source);
        self.candidate = None;
        Verdict::Locked
    }

    fn probe(&mut self, now: Instant, source: SocketAddr, ssrc: u32, sequence: u16) -> bool {
        let fresh = Candidate {
            address: source,
            ssrc,
            next: sequence.wrapping_add(1),
            passed: 1,
            since: now,
            last: now,
        };
        let Some(candidate) = &mut self.candidate else {
            self.candidate = Some(fresh);
            return false;
        };
        if candidate.address != source {
            // One candidate at a time: a second stranger cannot push the first out unless that one went silent.
            if now.duration_since(candidate.last) > CANDIDATE_IDLE {
                self.candidate = Some(fresh);
            }
            return false;
        }
        if candidate.ssrc != ssrc || candidate.next != sequence {
            // Keeps its age and its last good moment: nonsense cannot hold the place against others.
            *candidate = Candidate { since: candidate.since, last: candidate.last, ..fresh };
            return false;
        }
        candidate.next = sequence.wrapping_add(1);
        candidate.passed = candidate.passed.saturating_add(1);
        candidate.last = now;
        let known = [self.preferred.map(|address| address.ip()), self.signalling];
        let silence = match self.preferred {
            None => Duration::ZERO,
            Some(_) if known.contains(&Some(source.ip())) => SILENCE,
            Some(_) => SILENCE_STRANGER,
        };
        candidate.passed >= PROBATION && now.duration_since(candidate.since) >= silence
    }
}

/// IPv4 seen through an IPv6 socket is IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Port 0 and the unspecified address (hold of old) are nobody; media never goes to a group.
fn is_usable(address: &SocketAddr) -> bool {
    let broadcast = matches!(address.ip().to_canonical(), std::net::IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn lock() -> SourceLock {
        SourceLock::new(Some(at("192.0.2.1:4000")), Some(at("198.51.100.7:1").ip()))
    }

    /// Packets 20 ms apart from one address; how many were accepted.
    fn play(lock: &mut SourceLock, start: Instant, from: &str, packets: u16) -> usize {
        let packet = |n: u16| (start + Duration::from_millis(u64::from(n) * 20), 100 + n);
        let judge = |n| {
            let (now, sequence) = packet(n);
            lock.judge(now, at(from), 7, sequence)
        };
        (0..packets).map(judge).filter(|verdict| *verdict != Verdict::Foreign).count()
    }

    #[test]
    fn the_sdp_address_locks_at_once_and_nobody_else_after_it() {
        let (mut lock, now) = (lock(), Instant::now());
        assert_eq!(lock.judge(now, at("192.0.2.1:4000"), 7, 1), Verdict::Locked);
        assert_eq!(play(&mut lock, now, "192.0.2.1:4001", 500), 0);
        assert_eq!(play(&mut lock, now, "203.0.113.9:4000", 500), 0);
        assert_eq!(lock.destination(), Some(at("192.0.2.1:4000")));
    }

    #[test]
    fn a_peer_behind_nat_locks_after_probation() {
        for (from, first) in [("192.0.2.1:9999", 10), ("198.51.100.7:9999", 10), ("203.0.113.9:4000", 50)] {
            let mut lock = lock();
            assert_eq!(play(&mut lock, Instant::now(), from, 100), 100 - first, "{from}");
            assert_eq!(lock.destination(), Some(at(from)));
        }
    }

    #[test]
    fn the_sdp_address_takes_over_from_one_that_was_first() {
        let (mut lock, now) = (lock(), Instant::now());
        let hijacker = "192.0.2.1:6666";
        assert!(play(&mut lock, now, hijacker, 14) <= 5);
        assert_eq!(lock.judge(now, at("192.0.2.1:4000"), 9, 1), Verdict::Locked);
        assert_eq!(play(&mut lock, now, hijacker, 500), 0);
        assert_eq!(lock.destination(), Some(at("192.0.2.1:4000")));
    }

    #[test]
    fn a_hijacker_that_starts_before_the_peer_gets_nothing_in_when_the_peer_comes_in_time() {
        let (mut lock, now) = (lock(), Instant::now());
        assert_eq!(play(&mut lock, now, "203.0.113.9:4000", 40), 0);
        assert_eq!(lock.judge(now + Duration::from_millis(800), at("192.0.2.1:4000"), 9, 1), Verdict::Locked);
    }

    #[test]
    fn scattered_packets_never_pass_probation() {
        let (mut lock, now) = (lock(), Instant::now());
        for n in 0..500u16 {
            let then = now + Duration::from_millis(u64::from(n) * 20);
            assert_eq!(lock.judge(then, at("192.0.2.1:9999"), 7, n.wrapping_mul(31)), Verdict::Foreign);
        }
        assert_eq!(lock.locked(), None);
    }

    #[test]
    fn nonsense_from_one_stranger_does_not_keep_a_peer_behind_nat_out() {
        let (mut lock, now) = (lock(), Instant::now());
        for n in 0..100u16 {
            let then = now + Duration::from_millis(u64::from(n) * 20);
            lock.judge(then, at("203.0.113.9:1"), 7, n.wrapping_mul(31));
            lock.judge(then, at("198.51.100.7:9999"), 8, n);
        }
        assert_eq!(lock.locked(), Some(at("198.51.100.7:9999")));
    }

    #[test]
    fn without_an_sdp_address_probation_alone_decides() {
        let mut lock = SourceLock::new(Some(at("0.0.0.0:4000")), None);
        assert_eq!(lock.destination(), None);
        assert_eq!(play(&mut lock, Instant::now(), "127.0.0.1:5000", 10), 7);
    }

    #[test]
    fn mapped_addresses_are_the_same_address() {
        let (mut lock, now) = (lock(), Instant::now());
        assert_eq!(lock.judge(now, at("[::ffff:192.0.2.1]:4000"), 7, 1), Verdict::Locked);
        assert!(lock.is_peer(at("192.0.2.1:4001")) && !lock.is_peer(at("192.0.2.2:4001")));
    }

    #[test]
    fn a_new_sdp_address_begins_anew_and_the_same_one_keeps_the_lock() {
        let (mut lock, now) = (lock(), Instant::now());
        play(&mut lock, now, "192.0.2.1:9999", 20);
        lock.redirect(Some(at("192.0.2.1:4000")));
        assert_eq!(lock.locked(), Some(at("192.0.2.1:9999")));
        lock.redirect(Some(at("192.0.2.2:4000")));
        assert_eq!((lock.locked(), lock.destination()), (None, Some(at("192.0.2.2:4000"))));
    }
}
