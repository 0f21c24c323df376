//! Floor 6: every call of the box, the SIP endpoint below them, and who may call.
//!
//! Pure: one machine for the whole control plane. `app::signalling` gives it bytes, engine events and time, and
//! carries out what [`UserAgent::poll`] says. A call whose step panics is discarded alone.

pub mod accounts;
pub mod admission;
pub mod control;
pub mod dialling;
mod forking;
mod gate;
mod inviting;
pub mod metadata;
pub mod peers;
mod probing;
mod reaching;
mod redirect;
mod referred;
pub mod registrar;
mod resolving;
pub mod routing;
mod stepping;
mod takeover;
mod terms;
mod texts;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::call::behaviour::{Behaviour, Room};
use crate::call::early::Ring;
use crate::call::end::EndReason;
use crate::call::negotiate::MediaSettings;
use crate::call::{Call, CallSettings, Ended, Tell};
use crate::engine::plan::{CallId, Command, Event as EngineEvent, Label};
use crate::sip::{
    self, Access, ConnectionId, Endpoint, Event, Hop, NameAddr, Peer, ResolveId, Response, SessionId,
    Transport, Uri,
};
use crate::useragent::accounts::{Account, Accounts};
use crate::useragent::admission::Admission;
use crate::useragent::admission::intake::{Intake, Limits};
use crate::useragent::control::Agent;
use crate::useragent::dialling::{Denied, DialReason, Dialling};
use crate::useragent::forking::Fork;
use crate::useragent::probing::Probe;
pub use crate::useragent::reaching::Way;
use crate::useragent::redirect::Redirect;
use crate::useragent::referred::Listeners;
use crate::useragent::registrar::Registrar;
use crate::useragent::resolving::Resolving;
use crate::useragent::routing::Route;
use crate::useragent::transfer::Transfers;

/// What the user agent is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub sip: sip::Settings,
    pub admission: Admission,
    pub routes: Vec<Route>,
    pub media: MediaSettings,
    /// The appliance's name, for labels.
    pub name: String,
    /// The address in SDP; `None`: the local address the peer reached.
    pub advertise: Option<IpAddr>,
    /// 0: as many as the box was measured to carry.
    pub max_calls: usize,
    /// New calls over all callers; 0: no limit.
    pub calls_per_second: u32,
    /// The status over the limit: 503 or 486.
    pub busy: u16,
    pub max_call: Duration,
    /// Calls made for others: until they are given up.
    pub ring_timeout: Duration,
    /// Agents that calls can be made with.
    pub agents: Vec<Agent>,
    /// Accounts and peers by name, with the host their extensions are at.
    pub trunks: Vec<(String, Uri)>,
    /// Where we register.
    pub accounts: Vec<Account>,
    /// Who registers with us.
    pub registrar: registrar::Settings,
    /// The longest call that is dialled.
    pub dial_max: Duration,
    /// Whom this box may call.
    pub dialling: Dialling,
}

/// A call to make.
#[derive(Clone, Debug)]
pub struct Dial {
    pub to: Uri,
    pub from: NameAddr,
    /// Where it goes, best first; empty: the driver is asked where `to` leads ([`Do::Resolve`]).
    pub hops: Vec<Hop>,
    pub behaviour: Behaviour,
    pub room: Room,
    pub media: MediaSettings,
    pub ring_timeout: Duration,
    /// Further headers of the INVITE.
    pub headers: Vec<(String, String)>,
    /// What its label says besides parties and names.
    pub label: Label,
    pub way: Way,
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
    /// Where does this URI lead (RFC 3263)? Answer with [`UserAgent::handle_resolved`].
    Resolve {
        id: ResolveId,
        uri: Uri,
    },
    /// A wrong name or password came from there.
    Guessed {
        source: IpAddr,
    },
    Engine(Command),
    Tell {
        call: CallId,
        label: Label,
        tell: Tell,
    },
    Ended {
        call: CallId,
        label: Label,
        ended: Box<Ended>,
    },
    /// How one of our registrations stands now.
    Registration {
        account: String,
        state: sip::register::State,
    },
}

/// Counts of the control plane.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub incoming: u64,
    pub outgoing: u64,
    pub ended: u64,
    /// INVITEs without a route, over the limit or while draining.
    pub refused: u64,
    /// Calls discarded because a step panicked.
    pub faults: u64,
    /// Texts of peers that have no call, or more than one.
    pub texts_apart: u64,
}

/// All calls and the endpoint.
pub struct UserAgent {
    settings: Settings,
    endpoint: Endpoint,
    /// Boxed: neighbours in the map are moved when one comes or goes.
    calls: BTreeMap<CallId, Box<Call>>,
    call_of: HashMap<SessionId, CallId>,
    session_of: HashMap<CallId, SessionId>,
    dials: HashMap<CallId, Dial>,
    resolving: HashMap<ResolveId, Resolving>,
    probes: Vec<Probe>,
    accounts: Accounts,
    account_seed: [u8; 32],
    registrar: Registrar,
    /// Calls that ring at several contacts.
    forks: HashMap<CallId, Fork>,
    redirects: HashMap<CallId, Redirect>,
    dialling: Dialling,
    transfers: Transfers,
    /// Who hears of calls that were asked for by a REFER of its own.
    listeners: Listeners,
    /// Calls that take the place of another, which ends with their answer.
    replacing: HashMap<CallId, CallId>,
    /// Live calls by their `X-Session-ID`.
    sessions_named: HashMap<String, CallId>,
    intake: Intake,
    /// Calls of known peers, by the peer's name.
    trunk_of: HashMap<CallId, String>,
    armed: HashMap<CallId, Instant>,
    timers: BTreeSet<(Instant, CallId)>,
    next_call: u64,
    /// Feeds keys in SDP; nothing of it shows in a tag or branch.
    secrets: StdRng,
    draining: bool,
    /// The registrars have to be told that we go.
    leaving: bool,
    counters: Counters,
    out: VecDeque<Do>,
}

impl UserAgent {
    /// `seed` feeds every tag, branch and identifier.
    pub fn new(settings: Settings, seed: [u8; 32]) -> Self {
        let first = u64::from_le_bytes([seed[0], seed[1], seed[2], seed[3], seed[4], 0, 0, 0]);
        let probes = probing::of(settings.admission.peers());
        let registrar = Registrar::new(settings.registrar.clone());
        UserAgent {
            endpoint: Endpoint::new(settings.sip.clone(), seed),
            dialling: settings.dialling.clone(),
            transfers: Transfers::default(),
            listeners: Listeners::new(),
            replacing: HashMap::new(),
            sessions_named: HashMap::new(),
            intake: Intake::new(
                Limits {
                    max_calls: settings.max_calls,
                    calls_per_second: settings.calls_per_second,
                    busy: settings.busy,
                },
                seed.map(|byte| byte ^ 0x5a),
            ),
            trunk_of: HashMap::new(),
            settings,
            calls: BTreeMap::new(),
            call_of: HashMap::new(),
            session_of: HashMap::new(),
            dials: HashMap::new(),
            resolving: HashMap::new(),
            probes,
            accounts: Accounts::default(),
            account_seed: seed.map(|byte| byte ^ 0x5c),
            registrar,
            forks: HashMap::new(),
            redirects: HashMap::new(),
            armed: HashMap::new(),
            timers: BTreeSet::new(),
            next_call: first,
            secrets: StdRng::from_seed(apart(seed)),
            draining: false,
            leaving: false,
            counters: Counters::default(),
            out: VecDeque::new(),
        }
    }

    /// Whether requests from this address are taken.
    pub fn access(&self, source: IpAddr) -> Access {
        if self.accounts.knows(source) { Access::Trusted } else { self.settings.admission.access(source) }
    }

    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.values().map(Box::as_ref)
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn sip_counters(&self) -> &sip::Counters {
        self.endpoint.counters()
    }

    /// SIP sessions whose dialog is not over, and transactions not yet forgotten.
    pub fn sip_open(&self) -> (usize, usize) {
        (self.endpoint.open_sessions(), self.endpoint.open_transactions())
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, bytes: &[u8]) {
        let access = self.access(peer.remote.ip());
        self.show_room();
        self.endpoint.handle_datagram(now, peer, access, bytes);
        self.settle(now);
    }

    /// Whether a stream from there may stay. A stranger's may where strangers are answered at all.
    pub fn takes_stream(&self, source: IpAddr, tls_name: Option<&str>) -> bool {
        tls_name.is_some()
            || self.access(source) == Access::Trusted
            || self.settings.sip.strangers != sip::Strangers::Drop
    }

    /// Our listener accepted a stream. `tls_name`: what its client certificate, if it was verified, names.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        peer: Peer,
        tls_name: Option<String>,
    ) {
        let access = match &tls_name {
            // An authority we name vouches for it.
            Some(_) => Access::Trusted,
            None => self.access(peer.remote.ip()),
        };
        self.endpoint.handle_accepted(now, connection, peer, access, tls_name);
        self.settle(now);
    }

    /// A stream we asked for is there.
    pub fn handle_connected(&mut self, now: Instant, connection: ConnectionId, local: SocketAddr) {
        self.endpoint.handle_connected(now, connection, local);
        self.settle(now);
    }

    pub fn handle_stream(&mut self, now: Instant, connection: ConnectionId, bytes: &[u8]) {
        self.show_room();
        self.endpoint.handle_stream(now, connection, bytes);
        self.settle(now);
    }

    pub fn handle_closed(&mut self, now: Instant, connection: ConnectionId) {
        let remote = self.endpoint.remote_of(connection);
        self.endpoint.handle_closed(now, connection);
        self.registrar.forget_connection(connection);
        if let Some((transport, remote)) = remote {
            self.accounts.handle_flow_lost(now, transport, remote);
        }
        self.settle(now);
    }

    pub fn handle_engine(&mut self, now: Instant, event: EngineEvent) {
        let call = event.call();
        match event {
            EngineEvent::Wish { id, wish, .. } => self.grant(now, call, id, wish),
            event => self.step(now, call, |call| call.handle_engine(now, event)),
        }
        self.settle(now);
    }

    pub fn handle_time(&mut self, now: Instant) {
        self.endpoint.handle_time(now);
        self.probe(now);
        self.accounts.handle_time(now);
        while let Some((at, call)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.armed.remove(&call);
            self.step(now, call, |call| call.handle_time(now));
        }
        self.transfer_time(now);
        self.settle(now);
    }

    /// Makes a call.
    pub fn dial(&mut self, now: Instant, dial: Dial) -> CallId {
        let id = self.new_call_id();
        self.dial_as(now, id, dial);
        self.settle(now);
        id
    }

    /// The same inside a step: what the endpoint wants is carried out with the rest.
    fn dial_as(&mut self, now: Instant, id: CallId, dial: Dial) {
        self.counters.outgoing += 1;
        match self.directed(now, dial.clone()) {
            Ok(dial) if dial.hops.is_empty() => self.resolve(now, id, dial),
            Ok(dial) => self.start_dial(now, id, dial),
            Err(reason) => self.not_dialled(now, id, &dial, reason),
        }
    }

    fn start_dial(&mut self, now: Instant, id: CallId, mut dial: Dial) {
        let Some(first) = dial.hops.first().cloned() else { return };
        // The offer names one address of ours: only places of its family can follow.
        dial.hops.retain(|hop| hop.remote.is_ipv4() == first.remote.is_ipv4());
        if dial.from.uri.host.is_empty() {
            let own = self.settings.advertise.unwrap_or(first.local.ip());
            dial.from.uri = Uri::sip(&user_of(&dial.from.uri), &own.to_string(), None);
        }
        // Any of a user's contacts may be the one that answers.
        let others = dial.way.others.iter().map(|other| other.hop.clone());
        let places: Vec<Hop> = dial.hops.iter().cloned().chain(others).collect();
        let settings = CallSettings {
            media: terms::outgoing(
                self.settings.admission.peers(),
                dial.media.clone(),
                (first.remote.ip(), first.name.as_deref()),
                first.transport,
                dial.way.account.as_deref().and_then(|name| self.accounts.terms(name)),
            ),
            address: self.settings.advertise.unwrap_or(first.local.ip()),
            label: Label {
                peer: first.remote.to_string(),
                from: user_of(&dial.from.uri),
                to: user_of(&dial.to),
                ..self.label(id, dial.label.clone())
            },
            behaviour: dial.behaviour.clone(),
            room: Room { reach: self.reach_of(&places), ..dial.room.clone() },
            origin: id.0,
            seed: self.secrets.random(),
            max_call: self.settings.dial_max,
            ring_timeout: dial.ring_timeout,
            ring: Ring::default(),
        };
        self.note_peer(id, first.remote.ip(), None);
        self.dials.insert(id, dial);
        self.calls.insert(id, Box::new(Call::outgoing(now, id, settings)));
        self.step(now, id, |_| ());
    }

    /// Whether a URI may be called; if so it counts as called.
    ///
    /// # Errors
    /// Says which rule forbids it.
    pub fn permit(&mut self, now: Instant, uri: &Uri, reason: DialReason) -> Result<(), Denied> {
        self.dialling.permit(now, uri, reason)
    }

    pub fn hang_up(&mut self, now: Instant, call: CallId, reason: EndReason) {
        self.stop_resolving(now, call, &reason);
        self.step(now, call, |call| call.hang_up(now, reason));
        self.settle(now);
    }

    /// Asks the peer to stop sending; see [`Call::hold`].
    pub fn hold(&mut self, now: Instant, call: CallId) {
        self.step(now, call, |call| call.hold());
        self.settle(now);
    }

    pub fn resume(&mut self, now: Instant, call: CallId) {
        self.step(now, call, |call| call.resume());
        self.settle(now);
    }

    /// Presses keys towards the peer.
    pub fn send_digits(&mut self, now: Instant, call: CallId, digits: &str) {
        self.step(now, call, |call| call.send_digits(now, digits));
        self.settle(now);
    }

    /// Refuses new calls from now on; running ones go on.
    pub fn drain(&mut self) {
        self.draining = true;
        self.endpoint.set_ready(false);
        self.leaving = true;
    }

    pub fn hang_up_all(&mut self, now: Instant, reason: &EndReason) {
        self.stop_all_resolving(now, reason);
        let live: Vec<CallId> = self.calls.keys().copied().collect();
        for call in live {
            self.step(now, call, |call| call.hang_up(now, reason.clone()));
        }
        self.settle(now);
    }

    pub fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let call = self.timers.first().map(|(at, _)| *at);
        let others = [self.accounts.wake_at(), self.transfers.wake_at(), self.probe_at()];
        [call, self.endpoint.wake_at()].into_iter().chain(others).flatten().min()
    }

    /// Drains the endpoint until it and the calls have nothing more to say to each other.
    fn settle(&mut self, now: Instant) {
        if std::mem::take(&mut self.leaving) {
            self.accounts.leave(now);
        }
        loop {
            self.tend_accounts(now);
            let Some(wanted) = self.endpoint.poll() else { return };
            match wanted {
                sip::Do::Send { peer, bytes } => self.out.push_back(Do::Send { peer, bytes }),
                sip::Do::Connect { connection, transport, remote, name } => {
                    self.out.push_back(Do::Connect { connection, transport, remote, name });
                }
                sip::Do::Resolve { id, uri } => self.out.push_back(Do::Resolve { id, uri }),
                sip::Do::Close(connection) => self.out.push_back(Do::Close(connection)),
                sip::Do::Event(Event::Invited { session, invite }) => self.invited(now, session, &invite),
                // A call may be gone before its dialog: the endpoint ends that alone.
                sip::Do::Event(event) => match event.session() {
                    Some(session) => {
                        if let Some(call) = self.call_of.get(&session).copied() {
                            self.happened(now, call, session, event);
                        }
                    }
                    None => self.outside(now, event),
                },
            }
        }
    }

    /// What belongs to no call.
    fn outside(&mut self, now: Instant, event: Event) {
        match event {
            Event::OutsideAnswered { request, status, reason, headers, realm, .. } => {
                let probed = self.probe_answered(now, request, status);
                if !probed {
                    self.accounts.handle_answer(now, request, (status, &reason), &headers, realm);
                }
            }
            Event::OutsideRequested { request, asked } => {
                if asked.method == sip::Method::Refer {
                    return self.referred_apart(now, request, &asked);
                }
                let response = match asked.method {
                    sip::Method::Register => self.registered(now, &asked),
                    _ => self.outside_response(now, &asked),
                };
                self.endpoint.reply(now, request, response);
            }
            Event::ProofRefused { source } => {
                tracing::warn!(%source, "wrong name or password");
                self.out.push_back(Do::Guessed { source });
            }
            _ => {}
        }
    }

    fn label(&self, id: CallId, label: Label) -> Label {
        Label { name: self.settings.name.clone(), call: id.to_string(), ..label }
    }

    fn new_call_id(&mut self) -> CallId {
        self.next_call = self.next_call.wrapping_add(1);
        CallId(self.next_call)
    }

    fn invite(&mut self, now: Instant, id: CallId, body: sip::Body) {
        let Some(dial) = self.dials.get(&id) else { return };
        self.redirects.entry(id).or_default().note(&dial.to, &body);
        let place = (dial.way.target.clone(), &dial.way.route[..], dial.hops.clone());
        let outgoing = forking::outgoing(dial, &body, place);
        let session = self.endpoint.invite(now, outgoing);
        self.session_of.insert(id, session);
        self.call_of.insert(session, id);
        let (identifier, call_id) = (self.endpoint.identifier(session), self.endpoint.call_id(session));
        if let Some(call) = self.calls.get_mut(&id) {
            call.identify(identifier, call_id);
        }
        self.ring_others(now, id, session, &body);
    }
}

/// Another seed: what is drawn from the first one stands in every message, and nobody may get from there to the keys.
fn apart(seed: [u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"eyeline media keys").chain_update(seed).finalize().into()
}

/// The user part as people read it. An escaped control character is drawn, not obeyed.
fn user_of(uri: &Uri) -> String {
    let user = uri.user_decoded().unwrap_or_default();
    user.chars()
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}
