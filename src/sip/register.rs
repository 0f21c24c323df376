//! Staying registered somewhere: RFC 3261 §10.2, with the flows and back-off of RFC 5626.
//!
//! Pure: it says when to ask whom for how long, its user sends. Proof is the endpoint's, addresses are the driver's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use super::endpoint::{Headers, Hop, Transport};
use super::header::NameAddr;
use super::uri::{Uri, decimal};

/// Pauses after failures (RFC 5626 §4.5): doubling from the first to the last, each up to a fifth longer or shorter, so
/// that a registrar that comes back is found within a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_secs(50);
/// After a refusal that only a person can mend: a wrong password, an unknown user.
const REFUSED_PAUSE: Duration = Duration::from_secs(300);
/// The longest wait a registrar may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// The longest lifetime a registrar may ask for.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);
/// Over datagrams nothing tells that a registrar came back without its memory, so it is asked this often.
const DATAGRAM_REFRESH: Duration = Duration::from_secs(55);
/// Keep-alives (RFC 5626 §4.4.2), each at a random time between these two.
const KEEP_ALIVE_MS: (u64, u64) = (24_000, 29_000);
/// How long taking leave may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);
/// CSeq numbers left free between two requests: the endpoint uses some to prove who we are.
const STEP: u32 = 8;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was answered yet.
    Starting,
    /// `expires`: the lifetime granted.
    Registered { expires: Duration },
    /// `retry`: when it is tried again.
    Failed { status: u16, text: String, retry: Duration },
    /// We took leave.
    Gone,
}

impl State {
    pub fn is_registered(&self) -> bool {
        matches!(self, State::Registered { .. })
    }
}

/// What its user is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Where does the registrar, or the proxy before it, stand? Answer with `handle_hops`.
    Resolve,
    /// Ask one place for a lifetime in seconds, 0 to take leave. Answer with `handle_answer`.
    Ask {
        hop: Hop,
        call_id: String,
        cseq: u32,
        expires: u64,
    },
    /// Keep the path open.
    KeepAlive(Hop),
    Tell(State),
}

#[derive(Debug)]
enum Phase {
    Resting { until: Instant, then: Next },
    Resolving,
    Asking,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Resolve,
    Ask,
}

/// One registration of ours.
pub struct Registrant {
    wanted: Duration,
    expires: Duration,
    rng: StdRng,
    call_id: String,
    cseq: u32,
    phase: Phase,
    state: State,
    /// The place in use, and the ones not tried.
    hop: Option<Hop>,
    others: VecDeque<Hop>,
    failures: u32,
    keep_alive_at: Option<Instant>,
    leaving: Option<Instant>,
    out: VecDeque<Do>,
}

impl Registrant {
    /// Asks for the first time at `now`. `seed` feeds pauses and the Call-ID.
    pub fn new(now: Instant, expires: Duration, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        Registrant {
            wanted: expires,
            expires,
            call_id: format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64()),
            rng,
            cseq: 0,
            phase: Phase::Resting { until: now, then: Next::Resolve },
            state: State::Starting,
            hop: None,
            others: VecDeque::new(),
            failures: 0,
            keep_alive_at: None,
            leaving: None,
            out: VecDeque::new(),
        }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// The place we are, or try to be, registered at.
    pub fn hop(&self) -> Option<&Hop> {
        self.hop.as_ref()
    }

    pub fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    pub fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Resting { until, .. } => Some(until),
            Phase::Resolving | Phase::Asking => None,
            Phase::Gone => return None,
        };
        [phase, self.keep_alive_at, self.leaving].into_iter().flatten().min()
    }

    pub fn handle_time(&mut self, now: Instant) {
        if self.leaving.is_some_and(|until| now >= until) {
            return self.go();
        }
        if let Phase::Resting { until, then } = self.phase
            && now >= until
        {
            match then {
                Next::Resolve => self.resolve(),
                Next::Ask => self.ask(),
            }
        }
        if self.keep_alive_at.is_some_and(|at| now >= at) {
            self.keep_alive_at = Some(now + self.pause_between_keep_alives());
            if let Some(hop) = self.hop.clone() {
                self.out.push_back(Do::KeepAlive(hop));
            }
        }
    }

    /// The places of the registrar, best first; none: it was not found.
    pub fn handle_hops(&mut self, now: Instant, hops: Vec<Hop>) {
        if !matches!(self.phase, Phase::Resolving) {
            return;
        }
        self.others = hops.into();
        match self.others.pop_front() {
            Some(first) => {
                self.hop = Some(first);
                self.ask();
            }
            None => self.fail(now, 503, "the registrar's address was not found", None),
        }
    }

    /// The final answer to the last [`Do::Ask`]; 408 and 503 also stand for none.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        contact: &Uri,
        status: u16,
        reason: &str,
        headers: &Headers,
    ) {
        if !matches!(self.phase, Phase::Asking) {
            return;
        }
        if self.leaving.is_some() {
            return self.go();
        }
        match status {
            200..=299 => self.registered(now, granted(headers, contact).unwrap_or(self.expires)),
            423 => self.too_short(now, headers),
            401 | 403 | 404 | 407 => self.fail(now, status, reason, Some(REFUSED_PAUSE)),
            _ => match self.others.pop_front() {
                // Another server of the same registrar, at once.
                Some(next) if status == 408 || status >= 500 => {
                    self.hop = Some(next);
                    self.ask();
                }
                _ => self.fail(now, status, reason, retry_after(headers)),
            },
        }
    }

    /// The stream to the registrar broke: nobody can reach us any more.
    pub fn handle_flow_lost(&mut self, now: Instant) {
        if self.leaving.is_some() {
            return self.go();
        }
        if self.state.is_registered() && matches!(self.phase, Phase::Resting { .. }) {
            self.fail(now, 503, "the connection was lost", None);
        }
    }

    /// Ends the registration; `Do::Tell(State::Gone)` follows within three seconds.
    pub fn leave(&mut self, now: Instant) {
        if self.leaving.is_some() || self.is_gone() {
            return;
        }
        if !self.state.is_registered() || self.hop.is_none() {
            return self.go();
        }
        self.leaving = Some(now + LEAVE_LIMIT);
        self.keep_alive_at = None;
        self.expires = Duration::ZERO;
        self.ask();
    }

    fn resolve(&mut self) {
        self.phase = Phase::Resolving;
        self.out.push_back(Do::Resolve);
    }

    fn ask(&mut self) {
        let Some(hop) = self.hop.clone() else { return self.resolve() };
        self.cseq += STEP;
        self.phase = Phase::Asking;
        let (call_id, cseq, expires) = (self.call_id.clone(), self.cseq, self.expires.as_secs());
        self.out.push_back(Do::Ask { hop, call_id, cseq, expires });
    }

    fn registered(&mut self, now: Instant, expires: Duration) {
        self.failures = 0;
        let share = self.rng.random_range(0.5..0.9);
        let mut wait = expires.mul_f64(share);
        if self.hop.as_ref().is_some_and(|hop| !hop.transport.is_reliable()) {
            wait = wait.min(DATAGRAM_REFRESH.mul_f64(share / 0.9));
        }
        self.phase = Phase::Resting { until: now + wait, then: Next::Ask };
        if self.keep_alive_at.is_none() {
            self.keep_alive_at = Some(now + self.pause_between_keep_alives());
        }
        self.tell(State::Registered { expires });
    }

    /// RFC 3261 §10.2.8.
    fn too_short(&mut self, now: Instant, headers: &Headers) {
        let least = headers.value("Min-Expires").and_then(|text| decimal::<u64>(text.trim()));
        match least.map(Duration::from_secs) {
            Some(least) if least > self.expires && least <= LONGEST_LIFE => {
                self.expires = least;
                self.ask();
            }
            _ => self.fail(now, 423, "no lifetime is long enough", Some(REFUSED_PAUSE)),
        }
    }

    fn fail(&mut self, now: Instant, status: u16, text: &str, wait: Option<Duration>) {
        let doubled = FIRST_PAUSE * 2_u32.saturating_pow(self.failures.min(16));
        self.failures += 1;
        // Jitter may lengthen what the registrar asked for, never shorten it.
        let retry = match wait {
            Some(wait) => wait.min(LONGEST_WAIT).mul_f64(self.rng.random_range(1.0..1.2)),
            None => doubled.min(LAST_PAUSE).mul_f64(self.rng.random_range(0.8..1.2)),
        };
        self.expires = self.expires.max(self.wanted);
        self.keep_alive_at = None;
        self.phase = Phase::Resting { until: now + retry, then: Next::Resolve };
        self.tell(State::Failed { status, text: text.to_owned(), retry });
    }

    fn go(&mut self) {
        (self.phase, self.keep_alive_at, self.leaving) = (Phase::Gone, None, None);
        self.tell(State::Gone);
    }

    fn tell(&mut self, state: State) {
        // Every failure is told, but a refresh is no news.
        if state != self.state {
            self.state = state.clone();
            self.out.push_back(Do::Tell(state));
        }
    }

    fn pause_between_keep_alives(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(KEEP_ALIVE_MS.0..=KEEP_ALIVE_MS.1))
    }
}

/// Our Contact on one hop, as an account of a registrar: `user` is what calls for it ask for, `host` our address there.
pub fn contact(user: &str, host: &str, hop: &Hop) -> Uri {
    let mut uri = Uri::sip(user, host, Some(hop.local.port()));
    let transport = match hop.transport {
        Transport::Udp => return uri,
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
        Transport::Ws | Transport::Wss => "ws",
    };
    uri.parameters.push(("transport".to_owned(), Some(transport.to_owned())));
    uri
}

/// The lifetime a registrar granted: that of our Contact, else the smallest of any (some rewrite addresses), else of all.
fn granted(headers: &Headers, contact: &Uri) -> Option<Duration> {
    let all: Vec<NameAddr> = headers.list("Contact").filter_map(NameAddr::parse).collect();
    let of = |bound: &NameAddr| bound.parameter("expires").flatten().and_then(decimal::<u64>);
    let same = |bound: &&NameAddr| {
        bound.uri.user == contact.user && bound.uri.host == contact.host && bound.uri.port == contact.port
    };
    let ours = all.iter().filter(same).find_map(of).or_else(|| all.iter().filter_map(of).min());
    let any = || headers.value("Expires").and_then(|text| decimal::<u64>(text.trim()));
    // A lifetime of nothing would be asked for without a pause.
    ours.or_else(any).map(|seconds| Duration::from_secs(seconds.max(2)))
}

fn retry_after(headers: &Headers) -> Option<Duration> {
    let text = headers.value("Retry-After")?;
    let number = text.split(['(', ';', ' ']).next()?;
    decimal::<u64>(number.trim()).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]

    use super::*;

    struct Desk {
        now: Instant,
        registrant: Registrant,
        told: Vec<State>,
    }

    fn hop(transport: Transport, host: u8) -> Hop {
        let address = |host: u8| std::net::SocketAddr::from(([10, 0, 0, host], 5060));
        Hop::to(transport, address(host), address(1))
    }

    fn ours() -> Uri {
        Uri::parse("sip:200@10.0.0.1:5060").unwrap()
    }

    impl Desk {
        fn new() -> Self {
            let now = Instant::now();
            let registrant = Registrant::new(now, Duration::from_secs(300), [3; 32]);
            Desk { now, registrant, told: Vec::new() }
        }

        /// What is wanted next, after any waiting; keep-alives are counted apart.
        fn next(&mut self) -> (Duration, Do) {
            let since = self.now;
            loop {
                match self.registrant.poll() {
                    Some(Do::Tell(state)) => self.told.push(state),
                    Some(Do::KeepAlive(_)) => {}
                    Some(wanted) => return (self.now - since, wanted),
                    None => {
                        self.now = self.registrant.wake_at().expect("something to wait for");
                        self.registrant.handle_time(self.now);
                    }
                }
            }
        }

        fn asked(&mut self) -> (Duration, u64) {
            match self.next() {
                (waited, Do::Ask { expires, .. }) => (waited, expires),
                (waited, Do::Resolve) => {
                    self.registrant.handle_hops(self.now, vec![hop(Transport::Udp, 9)]);
                    let (more, wanted) = self.next();
                    let Do::Ask { expires, .. } = wanted else { panic!("{wanted:?}") };
                    (waited + more, expires)
                }
                (_, other) => panic!("{other:?}"),
            }
        }

        fn hears(&mut self, status: u16, lines: &[(&str, &str)]) {
            let mut headers = Headers::new();
            for (name, value) in lines {
                headers.push(name, *value);
            }
            self.registrant.handle_answer(self.now, &ours(), status, "why", &headers);
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_granted_lifetime_is_refreshed_in_time_and_more_often_over_datagrams() {
        let mut desk = Desk::new();
        assert_eq!(desk.asked(), (Duration::ZERO, 300));
        desk.hears(200, &[("Contact", "<sip:200@10.0.0.7>;expires=9, <sip:200@10.0.0.1:5060>;expires=60")]);
        let (waited, _) = desk.asked();
        assert!(waited >= seconds(30) && waited <= seconds(54), "{waited:?}");
        desk.hears(200, &[("Expires", "3600")]);
        let (waited, _) = desk.asked();
        assert!(waited <= DATAGRAM_REFRESH, "{waited:?}");
        assert_eq!(desk.told[0], State::Registered { expires: seconds(60) });
    }

    #[test]
    fn a_stream_is_refreshed_by_lifetime_and_its_loss_is_noticed() {
        let mut desk = Desk::new();
        desk.next();
        desk.registrant.handle_hops(desk.now, vec![hop(Transport::Tcp, 9)]);
        desk.next();
        desk.hears(200, &[("Expires", "300")]);
        let (waited, _) = desk.next();
        assert!(waited >= seconds(150) && waited <= seconds(270), "{waited:?}");
        desk.hears(200, &[("Expires", "300")]);
        desk.registrant.handle_flow_lost(desk.now);
        let (waited, wanted) = desk.next();
        assert_eq!(wanted, Do::Resolve);
        assert!(waited <= Duration::from_millis(2400), "{waited:?}");
    }

    #[test]
    fn too_brief_is_asked_again_at_once_with_what_the_registrar_wants() {
        let mut desk = Desk::new();
        desk.asked();
        desk.hears(423, &[("Min-Expires", "1800")]);
        assert_eq!(desk.asked(), (Duration::ZERO, 1800));
        desk.hears(423, &[("Min-Expires", "60")]);
        let (waited, _) = desk.asked();
        assert!(waited >= REFUSED_PAUSE, "a registrar that contradicts itself: {waited:?}");
    }

    #[test]
    fn failures_are_tried_again_with_growing_pauses_and_a_minute_at_most() {
        let mut desk = Desk::new();
        let mut waits = Vec::new();
        for _ in 0..12 {
            waits.push(desk.asked().0);
            desk.hears(408, &[]);
        }
        assert!(waits[1] <= Duration::from_millis(2400), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= seconds(60)), "{waits:?}");
        assert!(waits[8..].iter().all(|wait| *wait >= seconds(40)), "{waits:?}");
        desk.asked();
        desk.hears(200, &[("Expires", "300")]);
        desk.asked();
        desk.hears(500, &[]);
        assert!(desk.asked().0 <= Duration::from_millis(2400), "a success forgets the failures");
    }

    #[test]
    fn a_registrar_says_when_to_come_back_and_a_refusal_waits_long() {
        let mut desk = Desk::new();
        desk.asked();
        desk.hears(503, &[("Retry-After", "120 (busy);duration=10")]);
        let (waited, _) = desk.asked();
        assert!(waited >= seconds(120) && waited <= seconds(144), "{waited:?}");
        desk.hears(403, &[]);
        let (waited, _) = desk.asked();
        assert!(waited >= REFUSED_PAUSE && waited <= REFUSED_PAUSE.mul_f64(1.2), "{waited:?}");
        assert!(matches!(desk.told.last(), Some(State::Failed { status: 403, .. })));
    }

    #[test]
    fn the_next_server_of_the_registrar_is_tried_at_once() {
        let mut desk = Desk::new();
        desk.next();
        desk.registrant.handle_hops(desk.now, vec![hop(Transport::Udp, 8), hop(Transport::Udp, 9)]);
        desk.next();
        desk.hears(503, &[("Retry-After", "100")]);
        let (waited, wanted) = desk.next();
        assert!(matches!(wanted, Do::Ask { hop, .. } if hop.remote.to_string() == "10.0.0.9:5060"));
        assert_eq!(waited, Duration::ZERO);
    }

    #[test]
    fn it_takes_leave_and_does_not_wait_for_ever() {
        for answers in [true, false] {
            let mut desk = Desk::new();
            desk.asked();
            desk.hears(200, &[("Expires", "300")]);
            desk.registrant.leave(desk.now);
            assert_eq!(desk.asked(), (Duration::ZERO, 0));
            if answers {
                desk.hears(200, &[]);
            } else {
                desk.now += LEAVE_LIMIT;
                desk.registrant.handle_time(desk.now);
            }
            assert!(desk.registrant.is_gone());
            assert_eq!(desk.registrant.wake_at(), None);
        }
        let mut never = Desk::new();
        never.registrant.leave(never.now);
        assert!(never.registrant.is_gone());
    }
}
