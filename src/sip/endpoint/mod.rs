//! The SIP endpoint: it owns every transaction and dialog of the box and turns bytes into events.
//!
//! How to drive it: give it what happened (`handle_*`) or what is wanted (`invite`, `respond`, `ack`, `bye`, …), then
//! drain [`Endpoint::poll`], then sleep until [`Endpoint::wake_at`] and call [`Endpoint::handle_time`].
//!
//! ```text
//! bytes ─▶ parse ─▶ transaction ─▶ dialog / session ─▶ Event
//! respond, bye, … ─▶ dialog ─▶ transaction ─▶ Do::Send
//! ```
//! It knows nothing of SDP and does not decide who may call: [`Access`] comes with the bytes.

mod again;
mod asked;
mod asking;
mod authorize;
mod compose;
mod connection;
mod hop;
mod inbound;
mod keepalive;
mod known;
mod options;
mod outside;
mod prack;
mod prove;
mod session;
#[cfg(test)]
mod tests;
mod timer;
mod transactions;
mod uac;
mod uas;
mod update;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::dialog::DialogKey;
use super::digest::Credentials;
use super::digest::client::Client as Prover;
use super::digest::server::{Guard, User};
use super::header::NameAddr;
pub use super::message::{Body, Headers, Method};
pub use super::transaction::Timers;
use super::uri::Uri;
use connection::Connections;
pub use hop::{Hop, MOST_HOPS};
pub use known::Replaced;
use outside::OpenOutside;
pub use outside::{Outside, OutsideRequest};
use session::Session;
use transactions::{ClientTransaction, ServerTransaction};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
    /// TLS over TCP (RFC 3261 §26.2).
    Tls,
    /// WebSocket (RFC 7118).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// As written in Via.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
            Transport::Ws => "WS",
            Transport::Wss => "WSS",
        }
    }

    /// From the `transport` parameter of a URI.
    pub fn of_parameter(name: &str) -> Option<Self> {
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];
        all.into_iter().find(|transport| transport.name().eq_ignore_ascii_case(name))
    }

    /// Runs on a stream: nothing is repeated by us.
    pub fn is_reliable(self) -> bool {
        match self {
            Transport::Udp => false,
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => true,
        }
    }

    /// Encrypted on its hop.
    pub fn is_secure(self) -> bool {
        match self {
            Transport::Udp | Transport::Tcp | Transport::Ws => false,
            Transport::Tls | Transport::Wss => true,
        }
    }

    /// The port when none is written (RFC 3261 §19.1.2, RFC 7118 §5.2).
    pub fn default_port(self) -> u16 {
        match self {
            Transport::Udp | Transport::Tcp => 5060,
            Transport::Tls => 5061,
            Transport::Ws => 80,
            Transport::Wss => 443,
        }
    }
}

/// One stream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The endpoint's handle of one INVITE session, from the INVITE to the end of its dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// One request inside a session, ours or theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One question where a URI leads, answered by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResolveId(pub u64);

/// Both ends of a hop. `local` is our own listening address as the peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub transport: Transport,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub connection: Option<ConnectionId>,
}

/// What the source address is allowed, decided before parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Trusted,
    /// Only responses to us and requests of dialogs we know are taken.
    Stranger,
}

/// What strangers' requests get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strangers {
    #[default]
    Drop,
    /// One stateless 403, never larger than the request.
    Reject,
    /// One stateless 401; who proves to be a user is let in.
    Challenge,
}

#[derive(Clone, Debug)]
pub struct Settings {
    /// Written in User-Agent and Server; empty: left out.
    pub user_agent: String,
    pub timers: Timers,
    pub strangers: Strangers,
    /// What users prove themselves for.
    pub realm: String,
    /// Who may prove to be somebody, and so call or register.
    pub users: Vec<User>,
    /// User part of our Contact.
    pub contact_user: String,
    /// The address in Contact and Via; `None`: the local address of the hop.
    pub advertise: Option<IpAddr>,
    /// INVITE sessions at one time; over it 503 without state.
    pub max_sessions: usize,
    pub max_transactions: usize,
    /// How long a session lives without a refresh (RFC 4028); zero: we ask for no session timers.
    pub session_expires: Duration,
    /// The shortest such interval a peer may ask for; at least 90 s by the RFC.
    pub min_se: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            user_agent: "Eyeline".to_owned(),
            timers: Timers::default(),
            strangers: Strangers::Drop,
            realm: "eyeline".to_owned(),
            users: Vec::new(),
            contact_user: "eyeline".to_owned(),
            advertise: None,
            max_sessions: 20_000,
            max_transactions: 200_000,
            session_expires: Duration::from_secs(1800),
            min_se: Duration::from_secs(90),
        }
    }
}

/// A response as its user writes it; the rest of the headers comes from the request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    pub status: u16,
    /// `None`: the standard phrase.
    pub reason: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Option<Body>,
}

/// A new INVITE.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub peer: Peer,
    pub request_uri: Uri,
    pub from: NameAddr,
    pub to: NameAddr,
    pub call_id: String,
    pub headers: Headers,
    pub body: Option<Body>,
    /// Who proved to be one of our users; `None`: nobody asked.
    pub user: Option<String>,
}

/// An INVITE to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub to: Uri,
    /// The Request-URI, when it is not `to`.
    pub target: Option<Uri>,
    pub from: NameAddr,
    /// Tried in this order: on a transport error, a 503 or silence the next one gets the request. Never empty.
    pub hops: Vec<Hop>,
    pub headers: Vec<(String, String)>,
    pub body: Option<Body>,
    /// Answers a challenge to this INVITE and to what we send in its dialog.
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// A new call; 100 has been sent.
    Invited { session: SessionId, invite: Box<Incoming> },
    /// The caller gave up; 200 and 487 have been sent. `reason`: its Reason header. Session over.
    Cancelled { session: SessionId, reason: Option<String> },
    /// A reliable 18x of ours arrived (RFC 3262). `request`: the PRACK has a body; answer it with `respond_to`.
    Pracked { session: SessionId, request: Option<RequestId>, body: Option<Body> },
    /// Our 2xx (or our re-INVITE answer) arrived.
    Acked { session: SessionId, body: Option<Body> },
    /// No ACK for 64 × T1; BYE has been sent. Or no PRACK for so long; 504 has been sent.
    AckTimedOut { session: SessionId },
    /// Answer with `respond_to`.
    Reinvited { session: SessionId, request: RequestId, headers: Headers, body: Option<Body> },
    /// An UPDATE with an offer (RFC 3311); answer with `respond_to`.
    Updated { session: SessionId, request: RequestId, headers: Headers, body: Option<Body> },
    /// The session needs a re-INVITE with the current description (RFC 4028 §7.4).
    RefreshWanted { session: SessionId },
    /// Nobody refreshed the session; BYE has been sent, unless the peer had no dialog left.
    Expired { session: SessionId },
    /// Their re-INVITE was cancelled; 487 has been sent.
    Withdrawn { session: SessionId, request: RequestId },
    /// INFO, MESSAGE and the like inside the dialog; answer with `respond_to`.
    Requested { session: SessionId, request: RequestId, method: Method, headers: Headers, body: Option<Body> },
    /// 200 has been sent. Session over.
    ByeReceived { session: SessionId, reason: Option<String> },
    /// 101-198 to our INVITE. `fork`: whose, by its tag. `reliable`: its PRACK is on the way.
    Progress {
        session: SessionId,
        status: u16,
        fork: String,
        reliable: bool,
        headers: Headers,
        body: Option<Body>,
    },
    /// 2xx to our INVITE; answer with `ack`.
    Answered { session: SessionId, fork: String, headers: Headers, body: Option<Body> },
    /// Our INVITE failed: final response, 408 after a timeout, 503 after a transport error. Session over.
    Failed { session: SessionId, status: u16, reason: String, headers: Headers },
    /// Final response to our request inside the dialog.
    Responded {
        session: SessionId,
        request: RequestId,
        method: Method,
        status: u16,
        headers: Headers,
        body: Option<Body>,
    },
    /// Our BYE or CANCEL is done. Session over.
    Ended { session: SessionId },
    /// The final response to `send_outside`, 408 after a timeout, 503 after a transport error.
    /// `realm`: the one that asked for proof, if one did and got it.
    OutsideAnswered {
        request: RequestId,
        status: u16,
        reason: String,
        headers: Headers,
        body: Option<Body>,
        realm: Option<String>,
    },
    /// REGISTER, MESSAGE and the like outside any dialog; answer with `reply`.
    OutsideRequested { request: RequestId, asked: Box<OutsideRequest> },
    /// A wrong name or password, or a proof used twice; 403 has been sent.
    ProofRefused { source: IpAddr },
}

impl Event {
    /// `None`: it belongs to no session.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Event::Invited { session, .. }
            | Event::Cancelled { session, .. }
            | Event::Pracked { session, .. }
            | Event::Updated { session, .. }
            | Event::RefreshWanted { session }
            | Event::Expired { session }
            | Event::Acked { session, .. }
            | Event::AckTimedOut { session }
            | Event::Reinvited { session, .. }
            | Event::Withdrawn { session, .. }
            | Event::Requested { session, .. }
            | Event::ByeReceived { session, .. }
            | Event::Progress { session, .. }
            | Event::Answered { session, .. }
            | Event::Failed { session, .. }
            | Event::Responded { session, .. }
            | Event::Ended { session } => Some(*session),
            Event::OutsideAnswered { .. } | Event::OutsideRequested { .. } | Event::ProofRefused { .. } => {
                None
            }
        }
    }
}

#[derive(Debug)]
pub enum Do {
    Send {
        peer: Peer,
        bytes: Vec<u8>,
    },
    /// `name`: the domain dialled, for the certificate and the WebSocket's Host.
    Connect {
        connection: ConnectionId,
        transport: Transport,
        remote: SocketAddr,
        name: Option<String>,
    },
    Close(ConnectionId),
    /// Where does this URI lead? Answer with [`Endpoint::handle_resolved`] or what asked.
    Resolve {
        id: ResolveId,
        uri: Uri,
    },
    Event(Event),
}

/// What happened to messages since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub requests: u64,
    pub responses: u64,
    pub malformed: u64,
    /// Requests of strangers without an answer.
    pub strangers_dropped: u64,
    pub strangers_rejected: u64,
    /// Requests that were asked for proof.
    pub challenges: u64,
    /// Wrong names and passwords, and proofs used twice.
    pub proofs_refused: u64,
    /// Messages of ours sent again by a timer or a repeat of the peer's.
    pub retransmissions: u64,
    /// Repeats of the peer's requests.
    pub repeats: u64,
    /// Responses and ACKs that belong to nothing.
    pub stray: u64,
    /// Refused for want of room.
    pub overload: u64,
    pub transport_errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Client(u64),
    Server(u64),
    Session(SessionId),
    Outside(RequestId),
    /// A stream for a large request should be open.
    Opening(u64),
    /// All streams are looked at.
    Streams,
}

/// All SIP state of one user agent.
pub struct Endpoint {
    settings: Settings,
    rng: StdRng,
    ready: bool,
    /// Free and all; `None`: nothing is said about it.
    room: Option<(usize, usize)>,
    counters: Counters,
    clients: HashMap<u64, ClientTransaction>,
    /// Branch and method.
    client_of: HashMap<(String, Method), u64>,
    servers: HashMap<u64, ServerTransaction>,
    server_of: HashMap<String, u64>,
    /// Call-ID, From tag and CSeq of open initial INVITEs, to see merged ones (§8.2.2.2).
    merges: HashMap<String, u64>,
    sessions: HashMap<SessionId, Session>,
    session_of: HashMap<DialogKey, SessionId>,
    outside: OpenOutside,
    /// Who answers challenges to our requests outside dialogs.
    provers: HashMap<RequestId, Prover>,
    guard: Guard,
    connections: Connections,
    /// Addresses that took no stream for a large request, and until when that is believed.
    without_stream: HashMap<SocketAddr, Instant>,
    looks_at: Option<Instant>,
    /// Dialogs whose next hop has a name.
    seeking: HashMap<ResolveId, (SessionId, Uri)>,
    timers: BTreeSet<(Instant, Timer)>,
    next: u64,
    out: VecDeque<Do>,
    /// The INVITE that came last, until it is known whether it needs a 100.
    unanswered: Option<(Instant, u64)>,
}

impl Endpoint {
    /// `seed` feeds tags, branches and Call-IDs.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let guard = Guard::new(settings.realm.clone(), &settings.users, secret);
        Endpoint {
            settings,
            rng,
            ready: true,
            room: None,
            counters: Counters::default(),
            clients: HashMap::new(),
            client_of: HashMap::new(),
            servers: HashMap::new(),
            server_of: HashMap::new(),
            merges: HashMap::new(),
            sessions: HashMap::new(),
            session_of: HashMap::new(),
            outside: OpenOutside::new(),
            provers: HashMap::new(),
            guard,
            connections: Connections::default(),
            without_stream: HashMap::new(),
            looks_at: None,
            seeking: HashMap::new(),
            timers: BTreeSet::new(),
            next: 0,
            out: VecDeque::new(),
            unanswered: None,
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sessions whose dialog is not over.
    pub fn open_sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Transactions not yet forgotten.
    pub fn open_transactions(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// Calls that could still be taken, and all together: what OPTIONS says in `X-Capacity`.
    pub fn set_room(&mut self, free: usize, total: usize) {
        self.room = Some((free, total));
    }

    /// Whether OPTIONS is answered 200 or 503.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// The next thing to do. Whoever takes an event acts on it before polling again.
    pub fn poll(&mut self) -> Option<Do> {
        if self.out.is_empty() {
            self.say_trying();
        }
        self.out.pop_front()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub fn handle_time(&mut self, now: Instant) {
        while let Some((at, timer)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Client(id) => self.client_time(now, id),
                Timer::Server(id) => self.server_time(now, id),
                Timer::Session(id) => self.session_time(now, id),
                Timer::Outside(id) => self.outside_time(now, id),
                Timer::Opening(id) => self.opening_time(now, id),
                Timer::Streams => self.look_at_streams(now),
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.out.push_back(Do::Event(event));
    }

    fn new_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// 64 random bits as text, for tags, branches and Call-IDs.
    fn token(&mut self) -> String {
        format!("{:016x}", self.rng.next_u64())
    }

    /// Moves one timer from where it was armed to where it is wanted.
    fn rearm(&mut self, timer: Timer, armed: Option<Instant>, wanted: Option<Instant>) {
        if armed == wanted {
            return;
        }
        if let Some(at) = armed {
            self.timers.remove(&(at, timer));
        }
        if let Some(at) = wanted {
            self.timers.insert((at, timer));
        }
    }

    fn patience(&self) -> Duration {
        self.settings.timers.patience()
    }
}
