//! Driver. The control loop: SIP sockets, engine events, commands and time go into the user agent; what it wants
//! comes out of it.
//!
//! One task owns the whole control plane. Reader tasks only move bytes into one bounded queue (a flood loses its
//! own oldest messages, counted), so message order is total and nothing here takes a lock.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket, tcp};
use tokio::sync::oneshot;

use crate::base::datagram;
use crate::base::queue::{self, Fifo, Offered, Receiver, Sender, Taken};
use crate::base::stop::{Outcome, Scope, StopToken};
use crate::call::end::EndReason;
use crate::engine::Engines;
use crate::engine::plan::{CallId, Event as EngineEvent};
use crate::sip::{Access, ConnectionId, Hop, Peer, ResolveId, Transport, Uri};
use crate::useragent::control::{Asked, Refused};
use crate::useragent::{Dial, Do, UserAgent};

/// Messages read and not yet handled.
const INBOUND_DEPTH: usize = 4096;
/// Messages waiting for one slow stream.
const STREAM_DEPTH: usize = 64;
/// Messages handled before timers and engine events get their turn.
const BATCH: usize = 64;
/// Remembered answers to "which of our addresses reaches this peer".
const LOCAL_ADDRESSES: usize = 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// A stream that takes nothing for so long is given up.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Accepted streams at one time; further ones are closed at once.
const MOST_ACCEPTED: usize = 1000;
/// When a silent stream is asked whether its peer is still there, how often again, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// How long peers may take to answer the BYE at the end of the process.
const GOODBYE_LIMIT: Duration = Duration::from_secs(4);
/// After it no transaction waits for an answer any more (64 × T1, RFC 3261 §17), and no call has given up yet.
const TRANSACTIONS_END: Duration = Duration::from_millis(32_500);
const LARGEST_DATAGRAM: usize = 65_535;

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
    /// Refuse new calls.
    Drain,
    HangUpAll(EndReason),
    /// The loop ends when the last call is over.
    Finish,
}

enum Inbound {
    Datagram { socket: usize, remote: SocketAddr, bytes: Vec<u8> },
    Accepted { stream: TcpStream, local: SocketAddr, remote: SocketAddr },
    Connected { connection: ConnectionId, stream: TcpStream, local: SocketAddr },
    Data { connection: ConnectionId, bytes: Vec<u8> },
    Closed { connection: ConnectionId },
    Resolved { id: ResolveId, transport: Transport, found: Result<Vec<SocketAddr>, String> },
}

struct Listener {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
}

/// One stream connection; dropping it ends both of its tasks.
struct Stream {
    /// Without it the writing half ends once all is sent.
    outgoing: Sender<Vec<u8>, Fifo>,
    /// Ends the reading half.
    closed: StopToken,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.closed.stop();
    }
}

/// The sockets of one SIP user agent.
pub struct Signalling {
    udp: Vec<Listener>,
    tcp: Vec<SocketAddr>,
    streams: HashMap<ConnectionId, Stream>,
    /// Connections accepted by us count down from the top, those the endpoint asked for count up.
    next_accepted: u64,
    inbound: Sender<Inbound, Fifo>,
    arrived: Receiver<Inbound, Fifo>,
    local_of: HashMap<IpAddr, IpAddr>,
    scope: Scope,
    unsent: u64,
    /// What the user agent wants besides messages; empty between turns.
    deferred: Vec<Do>,
}

impl Signalling {
    /// Binds every listener, or says which one could not be bound and why.
    pub async fn bind(listen: &[(Transport, SocketAddr)], mut scope: Scope) -> anyhow::Result<Self> {
        let (inbound, arrived) = queue::queue(Fifo { depth: INBOUND_DEPTH });
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for (transport, address) in listen {
            let taken = || {
                format!(
                    "cannot listen for SIP on {address}: is another SIP program running? Change sip.listen"
                )
            };
            match transport {
                Transport::Udp => {
                    let socket = Arc::new(udp_socket(*address).with_context(taken)?);
                    let local = socket.local_addr().with_context(taken)?;
                    scope.task_until_stopped(
                        "sip-udp",
                        read_datagrams(socket.clone(), udp.len(), inbound.clone()),
                    );
                    udp.push(Listener { socket, local });
                }
                Transport::Tcp => {
                    let listener = TcpListener::bind(address).await.with_context(taken)?;
                    tcp.push(listener.local_addr().with_context(taken)?);
                    scope.task_until_stopped("sip-tcp", accept(listener, inbound.clone()));
                }
                Transport::Tls | Transport::Ws | Transport::Wss => {
                    anyhow::bail!("{} is not listened on", transport.name())
                }
            }
        }
        Ok(Signalling {
            udp,
            tcp,
            streams: HashMap::new(),
            next_accepted: u64::MAX,
            inbound,
            arrived,
            local_of: HashMap::new(),
            scope,
            unsent: 0,
            deferred: Vec::new(),
        })
    }

    /// The addresses really bound, for logs and tests that asked for port 0.
    pub fn bound(&self) -> Vec<(Transport, SocketAddr)> {
        let udp = self.udp.iter().map(|listener| (Transport::Udp, listener.local));
        udp.chain(self.tcp.iter().map(|local| (Transport::Tcp, *local))).collect()
    }

    /// Our own address as `remote` sees it, with the port of our first listener for the transport.
    pub fn local_towards(&mut self, transport: Transport, remote: SocketAddr) -> SocketAddr {
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        let found = match transport {
            Transport::Udp => self.udp.iter().map(|listener| listener.local).find(fits),
            Transport::Tcp => self.tcp.iter().copied().find(fits),
            Transport::Tls | Transport::Ws | Transport::Wss => None,
        };
        let local = found.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        SocketAddr::new(self.concrete(local.ip(), remote.ip()), local.port())
    }

    /// A wildcard listener's concrete address towards one peer, by the routing table.
    fn concrete(&mut self, local: IpAddr, remote: IpAddr) -> IpAddr {
        if !local.is_unspecified() {
            return local;
        }
        if let Some(known) = self.local_of.get(&remote) {
            return *known;
        }
        let any: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let probed = std::net::UdpSocket::bind((any, 0))
            .and_then(|socket| socket.connect((remote, 9)).and_then(|()| socket.local_addr()));
        let Ok(found) = probed.map(|address| address.ip()) else { return local };
        if self.local_of.len() >= LOCAL_ADDRESSES {
            self.local_of.clear();
        }
        self.local_of.insert(remote, found);
        found
    }

    /// Takes `first` and what waits behind it, up to a batch: a flood must not keep time from passing.
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

    /// Takes one message from the sockets into the user agent.
    fn deliver(&mut self, agent: &mut UserAgent, now: Instant, message: Inbound) {
        match message {
            Inbound::Datagram { socket, remote, bytes } => {
                let listening = self.udp[socket].local;
                // Strangers cost no lookup.
                let ip = match agent.access(remote.ip()) {
                    Access::Trusted => self.concrete(listening.ip(), remote.ip()),
                    Access::Stranger => listening.ip(),
                };
                let local = SocketAddr::new(ip, listening.port());
                let peer = Peer { transport: Transport::Udp, local, remote, connection: None };
                ladder("<-", &remote, &bytes);
                agent.handle_datagram(now, peer, &bytes);
            }
            Inbound::Accepted { stream, local, remote } => {
                if agent.access(remote.ip()) == Access::Stranger {
                    return;
                }
                if self.streams.len() >= MOST_ACCEPTED {
                    tracing::warn!(%remote, "a SIP connection is closed: {MOST_ACCEPTED} are open");
                    return;
                }
                let connection = ConnectionId(self.next_accepted);
                self.next_accepted -= 1;
                self.carry(connection, stream);
                let peer = Peer { transport: Transport::Tcp, local, remote, connection: Some(connection) };
                agent.handle_accepted(now, connection, peer, None);
            }
            Inbound::Connected { connection, stream, local } => {
                self.carry(connection, stream);
                agent.handle_connected(now, connection, local);
            }
            Inbound::Data { connection, bytes } => {
                ladder("<-", &connection, &bytes);
                agent.handle_stream(now, connection, &bytes);
            }
            Inbound::Resolved { id, transport, found } => {
                let found = found.map(|found| {
                    let hop = |remote| Hop::to(transport, remote, self.local_towards(transport, remote));
                    found.into_iter().map(hop).collect()
                });
                agent.handle_resolved(now, id, found);
            }
            Inbound::Closed { connection } => {
                self.streams.remove(&connection);
                agent.handle_closed(now, connection);
            }
        }
    }

    fn carry(&mut self, connection: ConnectionId, stream: TcpStream) {
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "a SIP stream is not probed");
        }
        let (reader, writer) = stream.into_split();
        let (sender, outgoing) = queue::queue(Fifo { depth: STREAM_DEPTH });
        let closed = StopToken::default();
        self.streams.insert(connection, Stream { outgoing: sender, closed: closed.clone() });
        let reading = read_stream(reader, connection, self.inbound.clone(), closed.clone());
        self.scope.task_until_stopped("sip-stream-in", reading);
        self.scope.task_until_stopped("sip-stream-out", write_stream(writer, outgoing, closed));
    }

    fn connect(&mut self, connection: ConnectionId, remote: SocketAddr) {
        let inbound = self.inbound.clone();
        self.scope.task_until_stopped("sip-connect", async move {
            let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(remote)).await;
            let message = match connected {
                Ok(Ok(stream)) => match stream.local_addr() {
                    Ok(local) => Inbound::Connected { connection, stream, local },
                    Err(_) => Inbound::Closed { connection },
                },
                Ok(Err(_)) | Err(_) => Inbound::Closed { connection },
            };
            inbound.offer(message);
            Outcome::Done
        });
    }

    fn resolve(&mut self, id: ResolveId, uri: &Uri) {
        let transport = uri.transport().and_then(Transport::of_parameter).unwrap_or(Transport::Udp);
        let port = uri.port.unwrap_or(transport.default_port());
        let (inbound, host, ip) = (self.inbound.clone(), uri.host.clone(), uri.host_ip());
        self.scope.task_until_stopped("sip-resolve", async move {
            let found = match ip {
                Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
                None => match tokio::net::lookup_host((host.as_str(), port)).await {
                    Ok(found) => Ok(found.collect()),
                    Err(error) => Err(format!("{host} has no address: {error}")),
                },
            };
            inbound.offer(Inbound::Resolved { id, transport, found });
            Outcome::Done
        });
    }

    fn send(&mut self, peer: &Peer, bytes: Vec<u8>) {
        ladder("->", &peer.remote, &bytes);
        if let Some(connection) = peer.connection {
            let sent = self.streams.get(&connection).map(|stream| stream.outgoing.offer(bytes));
            if !matches!(sent, Some(Offered::Queued)) {
                self.unsent += 1;
            }
            return;
        }
        let same_port = |listener: &&Listener| {
            listener.local.port() == peer.local.port() && listener.local.is_ipv4() == peer.remote.is_ipv4()
        };
        let same_family = |listener: &&Listener| listener.local.is_ipv4() == peer.remote.is_ipv4();
        let socket = self.udp.iter().find(same_port).or_else(|| self.udp.iter().find(same_family));
        if socket.is_none_or(|listener| datagram::send(&*listener.socket, &bytes, peer.remote).is_err()) {
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
                Do::Send { peer, bytes } => self.send(&peer, bytes),
                Do::Connect { connection, remote, .. } => self.connect(connection, remote),
                Do::Close(connection) => {
                    self.streams.remove(&connection);
                }
                Do::Resolve { id, uri } => self.resolve(id, &uri),
                Do::Engine(_) | Do::Tell { .. } | Do::Ended { .. } | Do::Registration { .. } => {
                    self.deferred.push(wanted);
                }
            }
        }
        // Starting threads and writing the log take longer than all messages together: nobody waits for them.
        for wanted in self.deferred.drain(..) {
            match wanted {
                Do::Engine(command) => engines.handle(now, command),
                told => watch.happened(now, &told),
            }
        }
    }
}

/// Sees what happens to calls, and is asked once per turn of the loop.
pub trait Watch: Send {
    /// A `Do::Tell` or `Do::Ended`.
    fn happened(&mut self, now: Instant, what: &Do);
    /// The loop has turned; the state may be published. Called at least once a second.
    fn turned(&mut self, now: Instant, agent: &UserAgent, engines: &Engines);
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
        if finishing && agent.is_idle() {
            break;
        }
        let second = now + Duration::from_secs(1);
        let wake_at = [agent.wake_at(), watch.wake_at()].into_iter().flatten().fold(second, Instant::min);
        let arrived = tokio::select! {
            message = signalling.arrived.recv() => Arrived::Message(message),
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
            Arrived::Message(message) => signalling.deliver_batch(&mut agent, now, message),
            Arrived::Engine(Some(event)) => agent.handle_engine(now, event),
            Arrived::Order(Some(order)) => {
                if matches!(order, Order::HangUpAll(_)) {
                    goodbye = Some(now);
                }
                finishing |= obey(&mut agent, now, order);
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
    signalling.scope.close(Duration::from_millis(200)).await;
    watch
}

enum Arrived {
    Message(Option<Inbound>),
    Engine(Option<EngineEvent>),
    Order(Option<Order>),
    Time,
}

/// `true`: the loop is to end with the last call.
fn obey(agent: &mut UserAgent, now: Instant, order: Order) -> bool {
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
        Order::HangUpAll(reason) => agent.hang_up_all(now, &reason),
        Order::Finish => return true,
    }
    false
}

/// One line per message at DEBUG, the whole message at TRACE.
fn ladder(arrow: &str, with: &dyn std::fmt::Debug, bytes: &[u8]) {
    if !tracing::enabled!(target: "eyeline::sip", tracing::Level::DEBUG) {
        return;
    }
    let text = String::from_utf8_lossy(bytes);
    let header = |name: &str| {
        let found =
            text.lines().find(|line| line.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name)));
        found.unwrap_or_default().to_owned()
    };
    let first = text.lines().next().unwrap_or_default();
    tracing::debug!(target: "eyeline::sip", "{arrow} {with:?} {first} | {} | {}", header("CSeq:"), header("Call-ID:"));
    tracing::trace!(target: "eyeline::sip", "{arrow} {with:?}\n{text}");
}

fn udp_socket(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(socket2::Protocol::UDP))?;
    // An IPv6 wildcard beside an IPv4 one must not take its packets.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Bursts of calls arrive faster than one loop turn; best effort, the kernel caps it.
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn read_datagrams(socket: Arc<UdpSocket>, index: usize, inbound: Sender<Inbound, Fifo>) -> Outcome {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        // Errors here are ICMP echoes of earlier sends; they say nothing about the socket.
        if let Ok((length, remote)) = socket.recv_from(&mut buffer).await {
            let bytes = buffer[..length].to_vec();
            if inbound.offer(Inbound::Datagram { socket: index, remote, bytes }) == Offered::Closed {
                return Outcome::Done;
            }
        }
    }
}

async fn accept(listener: TcpListener, inbound: Sender<Inbound, Fifo>) -> Outcome {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else { continue };
                // Signalling messages are small and answered at once.
                let _ = stream.set_nodelay(true);
                if inbound.offer(Inbound::Accepted { stream, local, remote }) == Offered::Closed {
                    return Outcome::Done;
                }
            }
            Err(error) => {
                // Out of descriptors: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a SIP connection: raise LimitNOFILE");
                #[expect(clippy::disallowed_methods, reason = "a pause before the next try")]
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Peers vanish without a word; the kernel finds out.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    let probing =
        socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    socket2::SockRef::from(stream).set_tcp_keepalive(&probing)
}

async fn read_stream(
    mut reader: tcp::OwnedReadHalf,
    connection: ConnectionId,
    inbound: Sender<Inbound, Fifo>,
    closed: StopToken,
) -> Outcome {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read.unwrap_or(0),
            () = closed.stopped() => 0,
        };
        if read == 0 {
            inbound.offer(Inbound::Closed { connection });
            return Outcome::Done;
        }
        let bytes = buffer[..read].to_vec();
        if inbound.offer(Inbound::Data { connection, bytes }) == Offered::Closed {
            return Outcome::Done;
        }
    }
}

async fn write_stream(
    mut writer: tcp::OwnedWriteHalf,
    outgoing: Receiver<Vec<u8>, Fifo>,
    closed: StopToken,
) -> Outcome {
    while let Some(bytes) = outgoing.recv().await {
        match tokio::time::timeout(WRITE_LIMIT, writer.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let _ = writer.shutdown().await;
    // The reader tells the endpoint.
    closed.stop();
    Outcome::Done
}
