//! Driver. The control loop: SIP sockets, engine events, commands and time go into the user agent; what it wants
//! comes out of it.
//!
//! One task owns the whole control plane. Reader tasks only move bytes into bounded queues: datagrams of trusted sources
//! and of strangers apart (a flood loses its own oldest), streams wait, so that their peers slow down. Message order is
//! total, and nothing here takes a lock but the screen's in front of the sockets.

mod caps;
mod certificate;
mod listen;
pub mod origin;
pub mod resolve;
mod stream;
pub mod tls;
mod udp;
mod websocket;

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use self::listen::Listening;
use self::origin::Origins;
use self::stream::{Streams, Wire};
use self::tls::{Tls, TlsSettings};
use self::udp::Inlets;
use crate::app::door::Door;
use crate::app::sip_trace::Tracer;
use crate::app::sip_trace::ladder::Way;
use crate::app::sip_trace::mask::mask;
use crate::base::datagram;
use crate::base::queue::{self, Fifo, Receiver, Sender, Taken, Wait};
use crate::base::stop::{Outcome, Scope};
use crate::call::end::EndReason;
use crate::engine::Engines;
use crate::engine::pictures::Pictures;
use crate::engine::plan::{CallId, Command, Event as EngineEvent};
use crate::sip::locate::Place;
use crate::sip::{Access, ConnectionId, Hop, Peer, ResolveId, Transport};
use crate::useragent::admission::Admission;
use crate::useragent::admission::capacity::Figures;
use crate::useragent::control::{Asked, Refused};
use crate::useragent::{Dial, Do, UserAgent};

/// Datagrams read and not yet handled.
const DATAGRAMS: usize = 4096;
/// Of strangers.
const STRANGERS: usize = 256;
/// Pieces of streams and answers of DNS not yet handled.
const INBOUND: usize = 1024;
/// Messages handled before timers and engine events get their turn.
const BATCH: usize = 64;
/// Of them those of strangers.
const BATCH_OF_STRANGERS: usize = 8;
/// How long peers may take to answer the BYE at the end of the process.
const GOODBYE_LIMIT: Duration = Duration::from_secs(4);
/// After it no transaction waits for an answer any more (64 × T1, RFC 3261 §17), and no call has given up yet.
const TRANSACTIONS_END: Duration = Duration::from_millis(32_500);

/// What the rest of the program asks of the control loop.
#[derive(Debug)]
pub enum Order {
    Dial(Box<Dial>),
    HangUp {
        call: CallId,
        reason: EndReason,
    },
    Hold {
        call: CallId,
    },
    Resume {
        call: CallId,
    },
    SendDigits {
        call: CallId,
        digits: String,
    },
    /// Whatever may be asked of calls from outside; the answer goes back.
    Control {
        asked: Asked,
        reply: oneshot::Sender<Result<CallId, Refused>>,
    },
    /// The pictures of a call, or what clears those for an agent.
    Pictures {
        of: PicturesOf,
        reply: oneshot::Sender<Result<Arc<Pictures>, Refused>>,
    },
    /// Refuse new calls.
    Drain,
    HangUpAll(EndReason),
    /// Show messages for so long, or no longer.
    Trace(Option<Duration>),
    /// Read the certificate files again; a bad one leaves everything as it is.
    ReadCertificates,
    /// The loop ends when the last call is over.
    /// How busy the box was in the last second; ports are counted here.
    Observed(Figures),
    Finish,
}

/// Whose pictures are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PicturesOf {
    Call(String),
    /// One whose call is yet to be made.
    Agent(String),
}

/// What the sockets are made with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub listen: Vec<(Transport, SocketAddr)>,
    pub tls: TlsSettings,
    /// Who is trusted, for the screen in front of the sockets.
    pub admission: Admission,
    /// The DNS server; `None`: the system's.
    pub dns: Option<SocketAddr>,
    /// Feeds the choice between equal SRV records.
    pub seed: u64,
    pub origins: Origins,
}

struct Datagram {
    socket: usize,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

enum Inbound {
    Accepted {
        transport: Transport,
        stream: TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// The handshake of an accepted stream is done.
    Greeted {
        connection: ConnectionId,
        peer: Peer,
        wire: Box<Wire>,
        tls_name: Option<String>,
    },
    Connected {
        connection: ConnectionId,
        wire: Box<Wire>,
        local: SocketAddr,
    },
    Data {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    Closed {
        connection: ConnectionId,
    },
    Resolved {
        id: ResolveId,
        name: Option<String>,
        found: Result<Vec<Place>, String>,
    },
    Certificates(Result<Arc<Tls>, String>),
}

/// The sockets of one SIP user agent.
pub struct Signalling {
    listening: Listening,
    streams: Streams,
    tls: Arc<Tls>,
    tls_settings: TlsSettings,
    searches: Sender<resolve::Wanted, Fifo>,
    seed: u64,
    origins: Arc<Origins>,
    datagrams: Receiver<Datagram, Fifo>,
    strangers: Receiver<Datagram, Fifo>,
    door: Door,
    tracer: Tracer,
    inbound: Sender<Inbound, Wait>,
    arrived: Receiver<Inbound, Wait>,
    scope: Scope,
    unsent: u64,
    /// What the user agent wants besides messages; empty between turns.
    deferred: Vec<Do>,
    /// What is to be sent; empty between turns.
    outgoing: Vec<Do>,
}

impl Signalling {
    /// Binds every listener and reads the certificates, or says which one failed, why, and what to do.
    pub async fn bind(settings: Settings, mut scope: Scope) -> anyhow::Result<Self> {
        let tls = Arc::new(Tls::load(&settings.tls)?);
        let (inbound, arrived) = queue::queue(Wait { depth: INBOUND });
        let (trusted, datagrams) = queue::queue(Fifo { depth: DATAGRAMS });
        let (strange, strangers) = queue::queue(Fifo { depth: STRANGERS });
        let door = Door::new(settings.admission);
        let inlets = Inlets { door: door.clone(), trusted, strangers: strange };
        let (searches, wanted) = queue::queue(Fifo { depth: resolve::DEPTH });
        let can_tls = tls.server().is_some();
        let listening = Listening::bind(&settings.listen, can_tls, &mut scope, &inlets, &inbound).await?;
        scope.task_until_stopped("sip-resolve", resolve::run(settings.dns, wanted, inbound.clone()));
        Ok(Signalling {
            listening,
            streams: Streams::default(),
            tls,
            tls_settings: settings.tls,
            searches,
            seed: settings.seed,
            origins: Arc::new(settings.origins),
            datagrams,
            strangers,
            door,
            tracer: Tracer::default(),
            inbound,
            arrived,
            scope,
            unsent: 0,
            deferred: Vec::new(),
            outgoing: Vec::new(),
        })
    }

    /// The addresses really bound, for logs and tests that asked for port 0.
    pub fn bound(&self) -> Vec<(Transport, SocketAddr)> {
        self.listening.bound()
    }

    /// The screen in front of the sockets.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// What shows messages, when it is switched on.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    fn trace(&mut self, now: Instant, length: Option<Duration>) {
        match length {
            Some(length) => self.tracer.start(now, length, &mut self.scope),
            None => self.tracer.stop(),
        }
    }

    /// A hop to a place, with our own address as it sees us. `None`: nothing of ours reaches it.
    pub fn hop(&mut self, place: Place, name: Option<String>) -> Option<Hop> {
        let local = self.listening.local_towards(place.transport, place.remote)?;
        Some(Hop { name, ..Hop::to(place.transport, place.remote, local) })
    }

    /// Takes `first` and what waits behind it, up to a batch: a flood must not keep time from passing.
    fn deliver_datagrams(&mut self, agent: &mut UserAgent, now: Instant, first: Option<Datagram>) {
        let mut next = first;
        for left in (0..BATCH).rev() {
            let Some(message) = next.take() else { return };
            self.deliver_datagram(agent, now, message);
            if left > 0
                && let Taken::Item(message) = self.datagrams.try_take()
            {
                next = Some(message);
            }
        }
    }

    fn deliver_strangers(&mut self, agent: &mut UserAgent, now: Instant, first: Option<Datagram>) {
        let mut next = first;
        for _ in 0..BATCH_OF_STRANGERS {
            let Some(message) = next.take() else { return };
            self.deliver_datagram(agent, now, message);
            if let Taken::Item(message) = self.strangers.try_take() {
                next = Some(message);
            }
        }
        // What was taken is not thrown away.
        if let Some(message) = next {
            self.deliver_datagram(agent, now, message);
        }
    }

    fn deliver_datagram(&mut self, agent: &mut UserAgent, now: Instant, message: Datagram) {
        let Datagram { socket, remote, bytes } = message;
        let listening = self.listening.datagram_local(socket);
        // Strangers cost no lookup.
        let ip = match agent.access(remote.ip()) {
            Access::Trusted => self.listening.concrete(listening.ip(), remote.ip()),
            Access::Stranger => None,
        };
        let local = SocketAddr::new(ip.unwrap_or(listening.ip()), listening.port());
        let peer = Peer { transport: Transport::Udp, local, remote, connection: None };
        self.show(now, Way::In, Some((Transport::Udp, remote)), &bytes);
        agent.handle_datagram(now, peer, &bytes);
    }

    fn deliver_batch(&mut self, agent: &mut UserAgent, now: Instant, first: Option<Inbound>) {
        let mut next = first;
        for left in (0..BATCH).rev() {
            let Some(message) = next.take() else { return };
            self.deliver(agent, now, message);
            if left > 0
                && let Taken::Item(message) = self.arrived.try_take()
            {
                next = Some(message);
            }
        }
    }

    /// Takes one message of a stream, or an answer we waited for, into the user agent.
    fn deliver(&mut self, agent: &mut UserAgent, now: Instant, message: Inbound) {
        match message {
            Inbound::Accepted { transport, stream, local, remote } => {
                self.accepted(agent, now, transport, stream, local, remote);
            }
            Inbound::Greeted { connection, peer, wire, tls_name } => {
                self.greeted(agent, now, connection, peer, *wire, tls_name);
            }
            Inbound::Connected { connection, wire, local } => {
                self.carry(connection, *wire);
                agent.handle_connected(now, connection, local);
            }
            Inbound::Data { connection, bytes } => {
                self.show(now, Way::In, self.streams.with(connection), &bytes);
                agent.handle_stream(now, connection, &bytes);
            }
            Inbound::Closed { connection } => {
                self.streams.remove(connection);
                agent.handle_closed(now, connection);
            }
            Inbound::Resolved { id, name, found } => {
                let found = found.map(|places| {
                    places.into_iter().filter_map(|place| self.hop(place, name.clone())).collect()
                });
                agent.handle_resolved(now, id, found);
            }
            Inbound::Certificates(Ok(tls)) => {
                self.tls = tls;
                tracing::info!("the TLS certificates are read again");
            }
            Inbound::Certificates(Err(why)) => {
                tracing::error!("the TLS certificates stay as they were: {why}");
            }
        }
    }

    fn read_certificates(&mut self) {
        let (settings, inbound) = (self.tls_settings.clone(), self.inbound.clone());
        let (tell, told) = oneshot::channel();
        self.scope.thread("certificates", move || {
            let read = Tls::load(&settings).map(Arc::new).map_err(|error| format!("{error:#}"));
            // Nobody waits for it when the process ends.
            let _ = tell.send(read);
            Outcome::Done
        });
        self.scope.task_until_stopped("sip-certificates", async move {
            if let Ok(read) = told.await {
                inbound.send(Inbound::Certificates(read)).await;
            }
            Outcome::Done
        });
    }

    /// For the log and the trace.
    fn show(&self, now: Instant, way: Way, with: Option<(Transport, SocketAddr)>, bytes: &[u8]) {
        self.tracer.message(now, way, with, bytes);
        ladder(way, with, bytes);
    }

    fn send(&mut self, now: Instant, peer: &Peer, bytes: Vec<u8>) {
        self.show(now, Way::Out, Some((peer.transport, peer.remote)), &bytes);
        self.door.sends(now, peer.remote.ip(), &bytes);
        if let Some(connection) = peer.connection {
            if !self.streams.send(connection, bytes) {
                self.unsent += 1;
            }
            return;
        }
        let socket = self.listening.datagram_socket(peer.local.port(), peer.remote.is_ipv4());
        if socket.is_none_or(|socket| datagram::send(socket, &bytes, peer.remote).is_err()) {
            // A lost datagram is SIP's everyday: the transaction repeats it.
            self.unsent += 1;
        }
    }

    /// Carries out everything the user agent wants. `ended` and `tell` go to `watch`.
    fn carry_out(
        &mut self,
        agent: &mut UserAgent,
        engines: &mut Engines,
        now: Instant,
        watch: &mut dyn Watch,
    ) {
        while let Some(wanted) = agent.poll() {
            match wanted {
                // Who is told that it may send sends at once: the new terms are in force before it is told.
                Do::Engine(command @ Command::Update { .. }) if !self.is_deferred(command.call()) => {
                    engines.handle(now, command);
                }
                Do::Engine(_) | Do::Tell { .. } | Do::Ended { .. } | Do::Registration { .. } => {
                    self.deferred.push(wanted);
                }
                Do::Send { .. }
                | Do::Connect { .. }
                | Do::Close(_)
                | Do::Guessed { .. }
                | Do::Resolve { .. } => self.outgoing.push(wanted),
            }
        }
        let mut outgoing = std::mem::take(&mut self.outgoing);
        for wanted in outgoing.drain(..) {
            self.put_out(now, wanted);
        }
        self.outgoing = outgoing;
        // Starting threads and writing the log take longer than all messages together: nobody waits for them.
        for wanted in self.deferred.drain(..) {
            match wanted {
                Do::Engine(command) => engines.handle(now, command),
                told => watch.happened(now, &told),
            }
        }
    }

    /// Whether something else waits for this call's engine: orders keep their order.
    fn is_deferred(&self, call: CallId) -> bool {
        self.deferred.iter().any(|held| matches!(held, Do::Engine(command) if command.call() == call))
    }

    /// What goes to sockets and to those who look names up.
    fn put_out(&mut self, now: Instant, wanted: Do) {
        match wanted {
            Do::Send { peer, bytes } => self.send(now, &peer, bytes),
            Do::Connect { connection, transport, remote, name } => {
                self.connect(connection, transport, remote, name);
            }
            Do::Close(connection) => self.streams.remove(connection),
            Do::Guessed { source } => self.door.guessed(now, source),
            Do::Resolve { id, uri } => {
                self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                self.searches.offer(resolve::Wanted { id, uri, seed: self.seed });
            }
            Do::Engine(_) | Do::Tell { .. } | Do::Ended { .. } | Do::Registration { .. } => {}
        }
    }
}

/// Sees what happens to calls, and is asked once per turn of the loop.
pub trait Watch: Send {
    /// A `Do::Tell` or `Do::Ended`.
    fn happened(&mut self, now: Instant, what: &Do);
    /// The loop has turned; the state may be published. Called at least once a second.
    fn turned(&mut self, now: Instant, agent: &UserAgent, engines: &Engines);
    /// Whether the box may take calls, for those who ask with OPTIONS.
    fn is_ready(&self) -> bool {
        true
    }
    /// When the loop is to turn again even if nothing happens until then.
    fn wake_at(&self) -> Option<Instant> {
        None
    }
    /// The loop has ended: finishes what is still being written.
    fn close(self: Box<Self>, limit: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Runs until [`Order::Finish`] and the last call is over.
pub async fn run(
    mut signalling: Signalling,
    mut agent: UserAgent,
    mut engines: Engines,
    events: Receiver<EngineEvent, Fifo>,
    orders: Receiver<Order, Fifo>,
    mut watch: Box<dyn Watch>,
) -> Box<dyn Watch> {
    let (mut finishing, mut goodbye) = (false, None);
    #[expect(clippy::disallowed_methods, reason = "the control loop reads the clock for the machines below")]
    agent.register_accounts(Instant::now());
    loop {
        #[expect(
            clippy::disallowed_methods,
            reason = "the control loop reads the clock for the machines below"
        )]
        let now = Instant::now();
        signalling.carry_out(&mut agent, &mut engines, now, &mut *watch);
        // What an engine has to say at once (its ports are bound) is part of the same turn.
        for _ in 0..BATCH {
            let Taken::Item(event) = events.try_take() else { break };
            agent.handle_engine(now, event);
            signalling.carry_out(&mut agent, &mut engines, now, &mut *watch);
        }
        watch.turned(now, &agent, &engines);
        agent.set_ready(watch.is_ready());
        if finishing && agent.is_idle() {
            break;
        }
        let second = now + Duration::from_secs(1);
        let wake_at = [agent.wake_at(), watch.wake_at()].into_iter().flatten().fold(second, Instant::min);
        let arrived = tokio::select! {
            message = signalling.datagrams.recv() => Arrived::Datagram(message),
            message = signalling.arrived.recv() => Arrived::Message(message),
            message = signalling.strangers.recv() => Arrived::Stranger(message),
            event = events.recv() => Arrived::Engine(event),
            order = orders.recv() => Arrived::Order(order),
            () = tokio::time::sleep_until(wake_at.into()) => Arrived::Time,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the control loop reads the clock for the machines below"
        )]
        let now = Instant::now();
        match arrived {
            Arrived::Datagram(message) => signalling.deliver_datagrams(&mut agent, now, message),
            Arrived::Message(message) => signalling.deliver_batch(&mut agent, now, message),
            Arrived::Stranger(message) => signalling.deliver_strangers(&mut agent, now, message),
            Arrived::Engine(Some(event)) => agent.handle_engine(now, event),
            Arrived::Order(Some(Order::ReadCertificates)) => signalling.read_certificates(),
            Arrived::Order(Some(Order::Trace(length))) => signalling.trace(now, length),
            Arrived::Order(Some(Order::Observed(figures))) => {
                agent.observe(Figures { port_pairs: engines.free_port_pairs(now), ..figures });
            }
            Arrived::Order(Some(order)) => {
                if matches!(order, Order::HangUpAll(_)) {
                    goodbye = Some(now);
                }
                finishing |= obey(&mut agent, &engines, now, order);
            }
            // Whoever gave orders is gone: end as if told.
            Arrived::Engine(None) | Arrived::Order(None) => {
                agent.drain();
                finishing = true;
                goodbye = Some(now);
                agent.hang_up_all(now, &EndReason::Shutdown);
            }
            Arrived::Time => {}
        }
        agent.handle_time(now);
        if finishing && let Some(said) = goodbye.take_if(|said| now >= *said + GOODBYE_LIMIT) {
            // Whoever has not answered by now will not: as if its time had passed. Files are closed all the same.
            agent.handle_time(said + TRANSACTIONS_END);
        }
    }
    signalling.tracer.stop();
    signalling.scope.close(Duration::from_millis(200)).await;
    watch
}

enum Arrived {
    Datagram(Option<Datagram>),
    Stranger(Option<Datagram>),
    Message(Option<Inbound>),
    Engine(Option<EngineEvent>),
    Order(Option<Order>),
    Time,
}

/// `true`: the loop is to end with the last call.
fn obey(agent: &mut UserAgent, engines: &Engines, now: Instant, order: Order) -> bool {
    match order {
        Order::Dial(dial) => {
            agent.dial(now, *dial);
        }
        Order::HangUp { call, reason } => agent.hang_up(now, call, reason),
        Order::Hold { call } => agent.hold(now, call),
        Order::Resume { call } => agent.resume(now, call),
        Order::SendDigits { call, digits } => agent.send_digits(now, call, &digits),
        Order::Control { asked, reply } => {
            // Whoever asked may have gone.
            let _ = reply.send(agent.control(now, asked));
        }
        Order::Drain => agent.drain(),
        // The sockets' and the engine's business.
        Order::ReadCertificates | Order::Trace(_) | Order::Observed(_) => {}
        Order::Pictures { of, reply } => {
            let _ = reply.send(pictures(agent, engines, &of));
        }
        Order::HangUpAll(reason) => agent.hang_up_all(now, &reason),
        Order::Finish => return true,
    }
    false
}

/// Where the pictures of a call, or for one, are handled.
fn pictures(agent: &UserAgent, engines: &Engines, of: &PicturesOf) -> Result<Arc<Pictures>, Refused> {
    match of {
        PicturesOf::Call(call) => {
            let call = agent.find_established(call)?;
            engines.pictures(call).ok_or_else(|| Refused::unknown("no live call has this id"))
        }
        PicturesOf::Agent(name) => {
            let agent = agent.agent_named(name)?;
            let (room, talks) = (&agent.room, agent.behaviour.agent());
            Ok(engines.pictures_beforehand(room.gate.clone(), &room.video_out.showing, talks))
        }
    }
}

/// One line per message at DEBUG, the whole message at TRACE, its secrets masked.
fn ladder(way: Way, with: Option<(Transport, SocketAddr)>, bytes: &[u8]) {
    if !tracing::enabled!(target: "eyeline::sip", tracing::Level::DEBUG) {
        return;
    }
    let (arrow, text) = (way.arrow(), mask(bytes));
    let with = with.map_or_else(String::new, |(transport, remote)| format!("{} {remote}", transport.name()));
    let header = |name: &str| {
        let found =
            text.lines().find(|line| line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)));
        found.unwrap_or_default().to_owned()
    };
    let first = text.lines().next().unwrap_or_default();
    tracing::debug!(target: "eyeline::sip", "{arrow} {with} {first} | {} | {}", header("CSeq:"), header("Call-ID:"));
    tracing::trace!(target: "eyeline::sip", "{arrow} {with}\n{text}");
}
