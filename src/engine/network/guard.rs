//! What stands between the ports of one stream and its RTP machine: ICE, DTLS and SRTP, as negotiated. Pure.
//!
//! It fails closed. On a protected stream nothing passes in either direction before there are keys, and nothing is kept
//! for later; what is not authentic is counted and forgotten, so the source of a stream is learnt from the peer alone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::network::handshake::Handshake;
use crate::engine::plan::{Ice, Protection, Route, Shielded, SrtpKeys};
use crate::rtp::packet;
use crate::rtp::reach::Reach;
use crate::secure::dtls::{Identity, Progress};
use crate::secure::ice::{Check, Responder};
use crate::secure::srtp::{Discard, Incoming, Outgoing};
use crate::secure::{self, Kind};

/// Packets protected with the keys of before are taken for so long after a change.
const OVERLAP: Duration = Duration::from_secs(5);
/// Addresses that passed a check; the oldest goes first.
const VALID_MAX: usize = 16;
/// Answers to checks waiting to be sent; the driver drains after every read.
const REPLIES_MAX: usize = 64;

/// One of a stream's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Rtp,
    Rtcp,
}

/// What was not let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardCounters {
    /// Not made with the key of the stream, plain packets among them.
    pub forged: u64,
    pub replayed: u64,
    /// Came before there were keys.
    pub early: u64,
    /// No packet at all.
    pub malformed: u64,
    /// Handshakes of sources that are not the peer, or without need.
    pub handshakes_refused: u64,
    /// Checks that did not know the password, or too many of them.
    pub checks_refused: u64,
}

/// See the module.
pub struct Guard {
    identity: Option<Arc<Identity>>,
    reach: Reach,
    mux: bool,
    /// RTP and RTCP address of the SDP.
    remotes: [Option<SocketAddr>; 2],
    protection: Protection,
    ice: Option<Checked>,
    /// Of the RTP port, and of the RTCP port where it shakes hands on its own.
    legs: [Leg; 2],
    replies: VecDeque<(Port, SocketAddr, Vec<u8>)>,
    /// A packet on its way out.
    sealed: Vec<u8>,
    /// Where media goes, or whether it may, is another thing than when it was last asked.
    changed: bool,
    failure: Option<String>,
    counters: GuardCounters,
}

#[derive(Default)]
struct Leg {
    keyed: Option<Keyed>,
    handshake: Option<Handshake>,
}

/// Keys in use.
struct Keyed {
    keys: SrtpKeys,
    via: &'static str,
    incoming: Incoming,
    outgoing: Outgoing,
    /// What the peer may still send with.
    before: Option<(Incoming, Instant)>,
    /// A packet that may have to be tried with both.
    copy: Vec<u8>,
}

/// ICE of one stream.
struct Checked {
    terms: Ice,
    responder: Responder,
    valid: VecDeque<SocketAddr>,
    /// By port.
    nominated: [Option<SocketAddr>; 2],
    last: Option<Instant>,
}

impl Guard {
    pub fn new(now: Instant, route: &Route, reach: Reach, identity: Option<Arc<Identity>>) -> Self {
        let mut guard = Guard {
            identity,
            reach,
            mux: route.rtcp_mux,
            remotes: [route.remote, route.remote_rtcp],
            protection: Protection::None,
            ice: None,
            legs: Default::default(),
            replies: VecDeque::new(),
            sealed: Vec::new(),
            changed: false,
            failure: None,
            counters: GuardCounters::default(),
        };
        guard.renew(now, route);
        guard
    }

    /// Offer and answer were renewed. What is the same goes on as it was, counters of packets included.
    pub fn renew(&mut self, now: Instant, route: &Route) {
        self.mux = route.rtcp_mux;
        self.remotes = [route.remote, route.remote_rtcp];
        self.renew_ice(now, route.ice.as_ref());
        if self.protection != route.protection {
            let before = std::mem::replace(&mut self.protection, route.protection.clone());
            self.end_handshakes();
            match self.protection.clone() {
                Protection::None => self.legs = Default::default(),
                Protection::Sdes(keys) => {
                    self.legs[1] = Leg::default();
                    self.key(now, 0, *keys, "sdes");
                }
                Protection::Dtls(peer) => match &self.identity {
                    Some(identity) => {
                        let handshake = || Some(Handshake::new(identity.clone(), (*peer).clone()));
                        for leg in &mut self.legs {
                            leg.handshake = handshake();
                        }
                    }
                    None => self.failure = Some("there is no certificate of our own for DTLS".to_owned()),
                },
            }
            self.changed |= before != Protection::None;
        }
        if self.mux {
            self.legs[1] = Leg::default();
        }
        if self.ice.is_none() {
            self.begin(now);
        }
    }

    /// Whether media may be sent.
    pub fn ready(&self) -> bool {
        self.protection == Protection::None || self.legs[0].keyed.is_some()
    }

    /// Where RTP and RTCP go.
    pub fn remotes(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let nominated = self.ice.as_ref().map_or([None, None], |ice| ice.nominated);
        let rtp = nominated[0].or(self.remotes[0]);
        let rtcp = if self.mux && nominated[0].is_some() { rtp } else { nominated[1].or(self.remotes[1]) };
        (rtp, rtcp)
    }

    /// Whether [`Guard::remotes`] or [`Guard::ready`] may say something new; once.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Why this stream cannot be protected; once.
    pub fn take_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// When the peer last proved by a check that it is there.
    pub fn last_check(&self) -> Option<Instant> {
        self.ice.as_ref().and_then(|ice| ice.last)
    }

    /// Which suite protects the stream, and how its keys came.
    pub fn shielded(&self) -> Option<Shielded> {
        let keyed = self.legs[0].keyed.as_ref()?;
        Some(Shielded { suite: keyed.keys.suite.name(), via: keyed.via })
    }

    pub fn counters(&self) -> GuardCounters {
        let refused = self.legs.iter().filter_map(|leg| leg.handshake.as_ref()).map(|shake| shake.refused);
        let handshakes_refused = self.counters.handshakes_refused + refused.sum::<u64>();
        GuardCounters { handshakes_refused, ..self.counters }
    }

    /// What of a datagram is for the RTP machine, in the clear.
    pub fn receive<'a>(
        &mut self,
        now: Instant,
        port: Port,
        source: SocketAddr,
        datagram: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        match secure::kind(datagram) {
            Kind::Media => self.open(now, port, datagram),
            Kind::Stun if self.ice.is_some() => {
                self.check(now, port, source, datagram);
                None
            }
            Kind::Dtls if matches!(self.protection, Protection::Dtls(_)) => {
                self.shake(now, port, source, datagram);
                None
            }
            // The machine counts what is no packet, and whose it was.
            Kind::Stun | Kind::Dtls | Kind::Unknown if self.protection == Protection::None => Some(datagram),
            Kind::Stun | Kind::Dtls | Kind::Unknown => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    /// What goes on the wire for a packet of the RTP machine. `None`: nothing may.
    pub fn protect<'a>(&'a mut self, port: Port, plain: &'a [u8]) -> Option<&'a [u8]> {
        if self.protection == Protection::None {
            return Some(plain);
        }
        let leg = self.leg(port);
        let keyed = self.legs[leg].keyed.as_mut()?;
        self.sealed.clear();
        self.sealed.extend_from_slice(plain);
        let sealed = match port {
            Port::Rtp => keyed.outgoing.protect_rtp(&mut self.sealed),
            Port::Rtcp => keyed.outgoing.protect_rtcp(&mut self.sealed),
        };
        sealed.ok().map(|()| self.sealed.as_slice())
    }

    /// Datagrams of ICE and DTLS to send.
    pub fn poll(&mut self) -> Option<(Port, SocketAddr, Vec<u8>)> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        let [rtp, rtcp] = &mut self.legs;
        let flight = |leg: &mut Leg| leg.handshake.as_mut().and_then(Handshake::poll);
        let (port, (to, datagram)) = match flight(rtp) {
            Some(flight) => (Port::Rtp, flight),
            None => (Port::Rtcp, flight(rtcp)?),
        };
        Some((port, to, datagram.to_vec()))
    }

    pub fn handle_time(&mut self, now: Instant) {
        for (port, leg) in self.legs.iter_mut().enumerate() {
            let Some(handshake) = &mut leg.handshake else { continue };
            handshake.handle_time(now);
            match handshake.overdue(now) {
                Some(why) if port == 0 => self.failure = Some(why),
                // Without its reports a stream is as good as before.
                Some(why) => tracing::debug!("no keys for RTCP: {why}"),
                None => {}
            }
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.legs.iter().filter_map(|leg| leg.handshake.as_ref()?.wake_at()).min()
    }

    /// Says goodbye. Poll afterwards.
    pub fn close(&mut self, now: Instant) {
        self.legs.iter_mut().filter_map(|leg| leg.handshake.as_mut()).for_each(|shake| shake.close(now));
    }

    fn renew_ice(&mut self, now: Instant, terms: Option<&Ice>) {
        let Some(terms) = terms else {
            self.changed |= self.ice.take().is_some();
            return;
        };
        if self.ice.as_ref().is_some_and(|ice| ice.terms == *terms) {
            return;
        }
        // Until the peer has nominated anew, media goes where it went.
        let nominated = self.ice.as_ref().map_or([None, None], |ice| ice.nominated);
        self.ice = Some(Checked {
            responder: Responder::new(now, &terms.local_ufrag, &terms.local_password),
            terms: terms.clone(),
            valid: VecDeque::new(),
            nominated,
            last: None,
        });
    }

    /// What they refused stays counted.
    fn end_handshakes(&mut self) {
        let ended = self.legs.iter_mut().filter_map(|leg| leg.handshake.take());
        self.counters.handshakes_refused += ended.map(|handshake| handshake.refused).sum::<u64>();
    }

    /// The peer can shake hands from now on.
    fn begin(&mut self, now: Instant) {
        let (rtp, rtcp) = self.remotes();
        for (leg, remote) in self.legs.iter_mut().zip([rtp, rtcp]) {
            if let Some(handshake) = &mut leg.handshake {
                let usable = |to: &SocketAddr| to.port() != 0 && !to.ip().is_unspecified();
                handshake.begin(now, remote.filter(usable));
            }
        }
    }

    /// SDES has the same keys for both ports; with DTLS each port has its own, unless RTCP shares the RTP port.
    fn leg(&self, port: Port) -> usize {
        let own = port == Port::Rtcp && !self.mux && matches!(self.protection, Protection::Dtls(_));
        usize::from(own)
    }

    fn open<'a>(&mut self, now: Instant, port: Port, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.protection == Protection::None {
            return Some(datagram);
        }
        let leg = self.leg(port);
        let Some(keyed) = &mut self.legs[leg].keyed else {
            self.counters.early += 1;
            return None;
        };
        match keyed.open(now, datagram) {
            Ok(length) => datagram.get(..length),
            Err(Discard::Forged | Discard::Exhausted) => {
                self.counters.forged += 1;
                None
            }
            Err(Discard::Replayed) => {
                self.counters.replayed += 1;
                None
            }
            Err(Discard::Malformed) => {
                self.counters.malformed += 1;
                None
            }
        }
    }

    fn check(&mut self, now: Instant, port: Port, source: SocketAddr, datagram: &[u8]) {
        let Some(ice) = &mut self.ice else { return };
        let mut reply = Vec::new();
        match ice.responder.handle(now, source, datagram, &mut reply) {
            Check::Passed { nominated } => {
                ice.last = Some(now);
                if !ice.valid.contains(&source) {
                    ice.valid.truncate(VALID_MAX - 1);
                    ice.valid.push_front(source);
                }
                // A check proves who sent it, not that its source is not somebody else's address.
                let may = nominated && self.reach.allows(source);
                let place = &mut ice.nominated[usize::from(port == Port::Rtcp)];
                if may && place.replace(source) != Some(source) {
                    self.changed = true;
                }
                let leg = self.leg(port);
                if let Some(handshake) = &mut self.legs[leg].handshake {
                    handshake.begin(now, Some(source));
                }
            }
            Check::Refused => self.counters.checks_refused += 1,
            Check::Ignored => {}
        }
        if !reply.is_empty() && self.replies.len() < REPLIES_MAX {
            self.replies.push_back((port, source, reply));
        }
    }

    fn shake(&mut self, now: Instant, port: Port, source: SocketAddr, datagram: &[u8]) {
        let (leg, may) = (self.leg(port), self.may_shake(port, source));
        let Some(handshake) = self.legs[leg].handshake.as_mut().filter(|_| may) else {
            self.counters.handshakes_refused += 1;
            return;
        };
        match handshake.handle(now, source, datagram) {
            Some(Progress::Keys(keys)) => self.key(now, leg, keys, "dtls"),
            Some(Progress::Closed) => {
                self.legs[leg].keyed = None;
                self.changed = true;
            }
            None => {}
        }
    }

    /// With ICE who passed a check; without, the hosts that SDP and signalling name.
    fn may_shake(&self, port: Port, source: SocketAddr) -> bool {
        if let Some(ice) = &self.ice {
            return ice.valid.contains(&source);
        }
        let named = self.remotes[usize::from(port == Port::Rtcp)].map(|remote| remote.ip().to_canonical());
        named == Some(source.ip().to_canonical()) || self.reach.signals_from(source.ip())
    }

    /// Takes keys into use. A side whose key stayed goes on where it was.
    fn key(&mut self, now: Instant, leg: usize, keys: SrtpKeys, via: &'static str) {
        let leg = &mut self.legs[leg];
        let (suite, old) = (keys.suite, leg.keyed.take());
        let same = |old: &Keyed, of: fn(&SrtpKeys) -> &Vec<u8>| {
            old.keys.suite == suite && of(&old.keys) == of(&keys)
        };
        let keeps = old
            .as_ref()
            .map_or([false; 2], |old| [same(old, |keys| &keys.local), same(old, |keys| &keys.remote)]);
        let fresh = |keys: &SrtpKeys| -> Option<(Outgoing, Incoming)> {
            Some((Outgoing::new(suite, &keys.local)?, Incoming::new(suite, &keys.remote)?))
        };
        let Some((mut outgoing, mut incoming)) = fresh(&keys) else {
            self.failure = Some(format!("the keys do not fit {}", suite.name()));
            return;
        };
        let mut before = None;
        if let Some(old) = old {
            if keeps[0] {
                outgoing = old.outgoing;
            }
            if keeps[1] {
                (incoming, before) = (old.incoming, old.before);
            } else {
                before = Some((old.incoming, now + OVERLAP));
            }
        }
        leg.keyed = Some(Keyed { keys, via, incoming, outgoing, before, copy: Vec::new() });
        self.changed = true;
    }
}

impl Keyed {
    fn open(&mut self, now: Instant, datagram: &mut [u8]) -> Result<usize, Discard> {
        self.before.take_if(|(_, until)| now >= *until);
        let unprotect = |incoming: &mut Incoming, datagram: &mut [u8]| {
            if packet::is_rtcp(datagram) {
                incoming.unprotect_rtcp(datagram)
            } else {
                incoming.unprotect_rtp(datagram)
            }
        };
        let Some((before, _)) = &mut self.before else { return unprotect(&mut self.incoming, datagram) };
        self.copy.clear();
        self.copy.extend_from_slice(datagram);
        unprotect(&mut self.incoming, datagram).or_else(|why| {
            datagram.copy_from_slice(&self.copy);
            unprotect(before, datagram).map_err(|_| why)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{Direction, DtlsPeer, SrtpSuite};
    use crate::secure::ice::{NOMINATING, check};

    fn at(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn reach() -> Reach {
        Reach { signalling: Some(at(1).ip()), ..Reach::default() }
    }

    fn route(protection: Protection) -> Route {
        Route {
            remote: Some(at(5000)),
            remote_rtcp: Some(at(5001)),
            rtcp_mux: false,
            direction: Direction::SendReceive,
            protection,
            ice: None,
        }
    }

    fn keys(local: u8, remote: u8) -> SrtpKeys {
        SrtpKeys { suite: SrtpSuite::AeadAes128Gcm, local: vec![local; 28], remote: vec![remote; 28] }
    }

    fn sdes(local: u8, remote: u8) -> Protection {
        Protection::Sdes(Box::new(keys(local, remote)))
    }

    fn guard(now: Instant, protection: Protection) -> Guard {
        let identity = Arc::new(Identity::generate().expect("a certificate"));
        Guard::new(now, &route(protection), reach(), Some(identity))
    }

    fn rtp(sequence: u8) -> Vec<u8> {
        let mut packet = vec![0x80, 0, 0, sequence, 0, 0, 0, 1, 9, 9, 9, 9];
        packet.extend([5; 160]);
        packet
    }

    /// A packet of the peer that has `key`.
    fn of_peer(peer: &mut Outgoing, sequence: u8) -> Vec<u8> {
        let mut packet = rtp(sequence);
        peer.protect_rtp(&mut packet).expect("protected");
        packet
    }

    fn peer(key: u8) -> Outgoing {
        Outgoing::new(SrtpSuite::AeadAes128Gcm, &[key; 28]).expect("a key")
    }

    fn takes(guard: &mut Guard, now: Instant, mut packet: Vec<u8>) -> bool {
        guard.receive(now, Port::Rtp, at(5000), &mut packet).is_some()
    }

    #[test]
    fn an_open_stream_passes_everything_on_as_it_is() {
        let now = Instant::now();
        let mut guard = guard(now, Protection::None);
        for packet in [rtp(1), vec![0, 1, 2], vec![22; 30], Vec::new()] {
            assert_eq!(guard.receive(now, Port::Rtp, at(1), &mut packet.clone()), Some(packet.as_slice()));
        }
        assert_eq!(guard.protect(Port::Rtp, &rtp(1)), Some(rtp(1).as_slice()));
        assert!(guard.ready() && guard.shielded().is_none());
    }

    #[test]
    fn nothing_passes_in_the_clear_where_protection_was_agreed() {
        let now = Instant::now();
        let identity = Identity::generate().expect("a certificate");
        let peer = DtlsPeer { client: false, fingerprint: identity.fingerprint() };
        for protection in [sdes(1, 2), Protection::Dtls(Box::new(peer))] {
            let mut guard = guard(now, protection);
            assert!(!takes(&mut guard, now, rtp(1)) && !takes(&mut guard, now, vec![100; 40]));
            let sent = guard.protect(Port::Rtp, &rtp(1)).map(<[u8]>::to_vec);
            assert!(sent.is_none_or(|sent| sent[12..] != rtp(1)[12..]));
            let counters = guard.counters();
            assert_eq!((counters.forged + counters.early, counters.malformed), (1, 1));
        }
    }

    #[test]
    fn without_a_certificate_of_our_own_dtls_fails_and_says_so() {
        let peer = DtlsPeer { client: true, fingerprint: ("sha-256".to_owned(), vec![0; 32]) };
        let route = route(Protection::Dtls(Box::new(peer)));
        let mut guard = Guard::new(Instant::now(), &route, reach(), None);
        assert!(!guard.ready() && guard.protect(Port::Rtp, &rtp(1)).is_none());
        assert!(guard.take_failure().is_some_and(|why| why.contains("certificate")));
    }

    #[test]
    fn the_same_keys_go_on_and_new_ones_overlap() {
        let now = Instant::now();
        let mut guard = guard(now, sdes(1, 2));
        let mut old = peer(2);
        let first = of_peer(&mut old, 1);
        assert!(takes(&mut guard, now, first.clone()));
        guard.renew(now, &route(sdes(1, 2)));
        assert!(!takes(&mut guard, now, first), "a renewed offer with the same keys forgets no replay");

        let sent = guard.protect(Port::Rtp, &rtp(1)).map(<[u8]>::to_vec);
        guard.renew(now, &route(sdes(1, 3)));
        let again = guard.protect(Port::Rtp, &rtp(1)).map(<[u8]>::to_vec);
        assert_eq!(sent, again, "our own key stayed");
        let mut new = peer(3);
        assert!(takes(&mut guard, now, of_peer(&mut new, 1)));
        assert!(takes(&mut guard, now, of_peer(&mut old, 2)), "one that was on its way");
        assert!(takes(&mut guard, now, of_peer(&mut new, 2)));
        let later = now + OVERLAP;
        assert!(!takes(&mut guard, later, of_peer(&mut old, 3)));
        assert!(takes(&mut guard, later, of_peer(&mut new, 3)));
    }

    #[test]
    fn only_hosts_that_sdp_or_signalling_name_may_shake_hands() {
        let now = Instant::now();
        let (own, other) =
            (Identity::generate().expect("a certificate"), Identity::generate().expect("a certificate"));
        let expected = DtlsPeer { client: false, fingerprint: other.fingerprint() };
        let mut guard = Guard::new(
            now,
            &route(Protection::Dtls(Box::new(expected))),
            Reach { signalling: "192.0.2.1".parse().ok(), ..Reach::default() },
            Some(Arc::new(own)),
        );
        let peer = DtlsPeer { client: true, fingerprint: ("sha-256".to_owned(), vec![0; 32]) };
        let mut client = Handshake::new(Arc::new(other), peer);
        client.begin(now, Some(at(1)));
        let (_, hello) = client.poll().expect("a first flight");
        for (source, may) in [
            ("198.51.100.7:5000", false),
            ("127.0.0.1:9999", true),
            ("192.0.2.1:77", true),
            ("[::ffff:192.0.2.1]:78", true),
        ] {
            let source = source.parse().expect("an address");
            assert_eq!(guard.receive(now, Port::Rtp, source, &mut hello.to_vec()), None);
            assert_eq!(guard.poll().is_some_and(|(_, to, _)| to == source), may, "{source}");
        }
        assert_eq!(guard.counters().handshakes_refused, 1);
    }

    #[test]
    fn a_nomination_moves_media_and_a_renewed_offer_does_not_move_it_back() {
        let now = Instant::now();
        let ice = Ice {
            local_ufrag: "ours".to_owned(),
            local_password: "secret".to_owned(),
            remote_ufrag: "theirs".to_owned(),
            remote_password: "other".to_owned(),
        };
        let route = Route { ice: Some(ice), rtcp_mux: true, ..route(Protection::None) };
        let mut guard = Guard::new(now, &route, reach(), None);
        let send = |guard: &mut Guard, password, port, extra: &[(u16, &[u8])]| {
            let mut bytes = check(password, "ours:theirs", extra);
            assert_eq!(guard.receive(now, Port::Rtp, at(port), &mut bytes), None);
            guard.poll().map(|(_, to, _)| to)
        };
        assert_eq!(send(&mut guard, "guessed", 7, &[NOMINATING]), Some(at(7)), "an error goes back");
        assert!(!guard.take_change() && guard.counters().checks_refused == 1 && guard.last_check().is_none());
        assert_eq!(send(&mut guard, "secret", 8, &[]), Some(at(8)));
        assert!(!guard.take_change() && guard.last_check().is_some());
        assert_eq!(send(&mut guard, "secret", 9, &[NOMINATING]), Some(at(9)));
        assert!(guard.take_change());
        assert_eq!(guard.remotes(), (Some(at(9)), Some(at(9))));
        guard.renew(now, &route);
        assert_eq!(guard.remotes(), (Some(at(9)), Some(at(9))));
    }
}
