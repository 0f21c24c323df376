//! Which remote address a stream takes packets from, and sends to (symmetric RTP), safe against RTP bleed.
//!
//! The address of the SDP locks at once. Another one (a peer behind NAT) must be a host that [`Reach`] lets be learnt and
//! must pass probation while the SDP address is silent; it gives way when that one speaks. Everybody else is foreign for
//! as long as the call lasts, however silent the peer is. Media alone never moves a lock: that takes a new SDP address,
//! or packets that were authenticated (SRTP). What is inside the packets is checked before they are shown here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::rtp::reach::{Reach, is_one_host};

/// Packets in sequence from one unexpected address before it may lock.
const PROBATION: u32 = 4;
/// How long the SDP address must have been silent meanwhile: time for the real peer to start.
const SILENCE: Duration = Duration::from_millis(200);
/// The same for an address on another host than the SDP's and the signalling's.
const SILENCE_ELSEWHERE: Duration = Duration::from_secs(1);
/// How long the source must have been silent before authentic packets of another address take its place.
const SILENCE_AUTHENTIC: Duration = Duration::from_millis(500);
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
    reach: Reach,
    /// Packets that are judged were made with the keys of the stream.
    authentic: bool,
    locked: Option<SocketAddr>,
    /// When the source was last heard.
    heard: Option<Instant>,
    candidate: Option<Candidate>,
}

impl SourceLock {
    /// `preferred`: the RTP address of the peer's SDP. `authentic`: only packets that were authenticated are shown to
    /// the lock.
    pub fn new(preferred: Option<SocketAddr>, reach: Reach, authentic: bool) -> Self {
        let preferred = preferred.filter(is_usable).map(canonical);
        SourceLock { preferred, reach, authentic, locked: None, heard: None, candidate: None }
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
            *self = SourceLock::new(preferred, self.reach.clone(), self.authentic);
        }
    }

    /// Whether packets are authenticated from now on. What was learnt from packets that were not is worth nothing then.
    pub fn set_authentic(&mut self, authentic: bool) {
        if authentic && !self.authentic {
            *self = SourceLock::new(self.preferred, self.reach.clone(), authentic);
        }
        self.authentic = authentic;
    }

    /// Judges a packet with a valid header and a payload type of this stream.
    pub fn judge(&mut self, now: Instant, source: SocketAddr, ssrc: u32, sequence: u16) -> Verdict {
        let source = canonical(source);
        if self.locked == Some(source) {
            self.heard = Some(now);
            return Verdict::Accepted;
        }
        if self.preferred == Some(source) && (self.locked.is_none() || !self.authentic || self.is_silent(now))
        {
            return self.lock(now, source);
        }
        let passed = match (self.authentic, self.locked) {
            (true, None) => self.may_be_authentic(source),
            (true, Some(_)) => {
                self.may_be_authentic(source)
                    && self.is_silent(now)
                    && self.probe(now, source, ssrc, sequence, Duration::ZERO)
            }
            (false, None) => match self.patience(source) {
                Some(silence) => self.probe(now, source, ssrc, sequence, silence),
                None => false,
            },
            (false, Some(_)) => false,
        };
        if passed { self.lock(now, source) } else { Verdict::Foreign }
    }

    /// Whether control packets may come from this host without being named: the source's, if that one is not named
    /// either; before there is a source, the signaller's.
    pub fn may_control(&self, source: SocketAddr) -> bool {
        let ip = source.ip().to_canonical();
        match self.locked {
            Some(locked) => locked.ip() == ip && self.preferred != Some(locked),
            None => !self.names(source) && self.reach.signals_from(ip) && self.reach.learns(ip),
        }
    }

    /// Whether the SDP names this host.
    fn names(&self, source: SocketAddr) -> bool {
        self.preferred.is_some_and(|preferred| preferred.ip() == source.ip().to_canonical())
    }

    fn may_be_authentic(&self, source: SocketAddr) -> bool {
        self.names(source) || self.reach.allows(source)
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.heard.is_none_or(|heard| now.saturating_duration_since(heard) >= SILENCE_AUTHENTIC)
    }

    /// How long the SDP address must be silent before this one may take its place; `None`: never.
    fn patience(&self, source: SocketAddr) -> Option<Duration> {
        if !self.names(source) && !self.reach.learns(source.ip()) {
            return None;
        }
        match self.preferred {
            None => Some(Duration::ZERO),
            Some(_) if self.names(source) || self.reach.signals_from(source.ip()) => Some(SILENCE),
            Some(_) => Some(SILENCE_ELSEWHERE),
        }
    }

    fn lock(&mut self, now: Instant, source: SocketAddr) -> Verdict {
        self.locked = Some(source);
        self.heard = Some(now);
        self.candidate = None;
        Verdict::Locked
    }

    fn probe(
        &mut self,
        now: Instant,
        source: SocketAddr,
        ssrc: u32,
        sequence: u16,
        silence: Duration,
    ) -> bool {
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
        candidate.passed >= PROBATION && now.duration_since(candidate.since) >= silence
    }
}

/// IPv4 seen through an IPv6 socket is IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Port 0 and the unspecified address (hold of old) are nobody; media never goes to a group.
fn is_usable(address: &SocketAddr) -> bool {
    address.port() != 0 && is_one_host(address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Signals from 198.51.100.7, owns 203.0.113.0/24, and may name addresses of 192.0.2.0/24.
    fn reach() -> Reach {
        Reach {
            signalling: Some(at("198.51.100.7:1").ip()),
            trusted: ["192.0.2.0/24".parse().expect("a network")].into(),
            own: ["203.0.113.0/24".parse().expect("a network")].into(),
        }
    }

    fn lock() -> SourceLock {
        SourceLock::new(Some(at("192.0.2.1:4000")), reach(), false)
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
    fn without_an_sdp_address_the_signaller_locks_after_probation_and_nobody_else_ever() {
        let mut lock = SourceLock::new(Some(at("0.0.0.0:4000")), reach(), false);
        let now = Instant::now();
        assert_eq!(lock.destination(), None);
        assert_eq!(play(&mut lock, now, "192.0.2.1:5000", 500), 0);
        assert_eq!(play(&mut lock, now, "198.51.100.7:5000", 10), 7);
    }

    #[test]
    fn a_patient_stranger_waits_for_ever() {
        for stranger in ["192.0.2.2:4000", "198.51.100.8:4000", "127.0.0.1:4000", "224.0.0.5:4000"] {
            let (mut lock, now) = (lock(), Instant::now());
            assert_eq!(play(&mut lock, now, stranger, 3000), 0, "{stranger}");
            assert_eq!(lock.destination(), Some(at("192.0.2.1:4000")));
            // Nor does it keep the peer out that comes from elsewhere.
            let later = now + Duration::from_secs(60);
            assert!(play(&mut lock, later, "198.51.100.7:4000", 100) > 80);
        }
    }

    #[test]
    fn authentic_packets_lock_at_once_and_move_the_lock_once_the_source_is_silent() {
        let mut lock = SourceLock::new(Some(at("10.0.0.1:4000")), reach(), true);
        let now = Instant::now();
        assert_eq!(play(&mut lock, now, "198.51.100.7:4000", 50), 50);
        // The same moment from elsewhere: the source lives.
        assert_eq!(play(&mut lock, now + Duration::from_millis(1000), "192.0.2.9:4000", 1), 0);
        let moved = play(&mut lock, now + Duration::from_secs(2), "192.0.2.9:4000", 50);
        assert_eq!(moved, 47, "after four in sequence");
        assert_eq!(lock.destination(), Some(at("192.0.2.9:4000")));
        // With or without keys: nothing goes where this peer may not send it.
        assert_eq!(play(&mut lock, now + Duration::from_secs(9), "8.8.8.8:4000", 500), 0);
    }

    #[test]
    fn what_was_learnt_in_the_clear_is_forgotten_once_packets_are_authenticated() {
        let (mut lock, now) = (lock(), Instant::now());
        play(&mut lock, now, "203.0.113.9:4000", 100);
        lock.set_authentic(true);
        assert_eq!((lock.locked(), lock.destination()), (None, Some(at("192.0.2.1:4000"))));
    }

    #[test]
    fn mapped_addresses_are_the_same_address() {
        let (mut lock, now) = (lock(), Instant::now());
        assert_eq!(lock.judge(now, at("[::ffff:192.0.2.1]:4000"), 7, 1), Verdict::Locked);
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
