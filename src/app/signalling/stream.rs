//! Driver. Streams of SIP, accepted and opened, in the clear, over TLS, as WebSockets: handshakes within limits, and two
//! tasks that move the bytes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::{ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_tungstenite::WebSocketStream;

use super::caps::Caps;
use super::origin::Origins;
use super::tls::Tls;
use super::{Inbound, Signalling, certificate, websocket};
use crate::base::queue::{self, Fifo, Offered, Receiver, Sender, Wait};
use crate::base::stop::{Outcome, Scope, StopToken};
use crate::sip::{Access, ConnectionId, Peer, Transport};
use crate::useragent::UserAgent;

/// Messages waiting for one slow stream.
const DEPTH: usize = 64;
/// Opening a stream, with its handshakes.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// The handshakes of an accepted one.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// A stream that takes nothing for so long is given up.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// When a silent stream is asked whether its peer is still there, how often again, and how many times.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// What was sent must be acknowledged by then: a keep-alive into a dead path ends the stream.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(20);

/// An open stream, ready for messages.
pub(super) enum Wire {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
    Web(Box<WebSocketStream<TcpStream>>),
    SecureWeb(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

/// One stream connection; dropping it ends its tasks.
struct Stream {
    /// Without it the writing half ends once all is sent. `None`: still shaking hands.
    outgoing: Option<Sender<Vec<u8>, Fifo>>,
    /// Ends the reading half.
    closed: StopToken,
    /// Whom it is counted for, if it was accepted.
    source: Option<IpAddr>,
    /// Where it leads, for the trace.
    with: Option<(Transport, SocketAddr)>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.closed.stop();
    }
}

/// Every stream there is.
pub(super) struct Streams {
    open: HashMap<ConnectionId, Stream>,
    caps: Caps,
    /// Connections accepted by us count down from the top, those the endpoint asked for count up.
    next_accepted: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { open: HashMap::new(), caps: Caps::default(), next_accepted: u64::MAX }
    }
}

impl Streams {
    pub fn remove(&mut self, connection: ConnectionId) {
        if let Some(source) = self.open.remove(&connection).and_then(|stream| stream.source) {
            self.caps.release(source);
        }
    }

    /// `false`: it is gone or too slow.
    pub fn send(&self, connection: ConnectionId, bytes: Vec<u8>) -> bool {
        let outgoing = self.open.get(&connection).and_then(|stream| stream.outgoing.as_ref());
        outgoing.is_some_and(|outgoing| outgoing.offer(bytes) == Offered::Queued)
    }

    /// Where a stream leads.
    pub fn with(&self, connection: ConnectionId) -> Option<(Transport, SocketAddr)> {
        self.open.get(&connection)?.with
    }

    /// A place for an accepted stream, unless there are enough.
    fn admit(
        &mut self,
        transport: Transport,
        remote: SocketAddr,
        trusted: bool,
    ) -> Option<(ConnectionId, StopToken)> {
        let source = remote.ip();
        if !self.caps.admit(source, trusted) {
            return None;
        }
        let connection = ConnectionId(self.next_accepted);
        self.next_accepted -= 1;
        let closed = StopToken::default();
        let stream = Stream {
            outgoing: None,
            closed: closed.clone(),
            source: Some(source),
            with: Some((transport, remote)),
        };
        self.open.insert(connection, stream);
        Some((connection, closed))
    }
}

impl Signalling {
    /// A stream of our listener: the caps first, then the handshakes beside the loop.
    pub(super) fn accepted(
        &mut self,
        agent: &mut UserAgent,
        now: Instant,
        transport: Transport,
        stream: TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
    ) {
        let source = remote.ip();
        let may_tell = transport.is_secure() && self.tls.knows_clients();
        if (!may_tell && !agent.takes_stream(source, None)) || self.door.is_banned(now, source) {
            return;
        }
        let trusted = agent.access(source) == Access::Trusted;
        let Some((connection, closed)) = self.streams.admit(transport, remote, trusted) else {
            tracing::debug!(%remote, "a SIP connection is closed: too many are open");
            return;
        };
        let peer = Peer { transport, local, remote, connection: Some(connection) };
        if transport == Transport::Tcp {
            return self.greeted(agent, now, connection, peer, Wire::Plain(stream), None);
        }
        let (tls, origins, inbound) = (self.tls.clone(), self.origins.clone(), self.inbound.clone());
        self.scope.task_until_stopped("sip-handshake", async move {
            let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, greet(transport, stream, &tls, &origins));
            let greeted = tokio::select! {
                greeted = handshake => greeted.unwrap_or_else(|_| Err("it takes too long".to_owned())),
                () = closed.stopped() => return Outcome::Done,
            };
            let message = match greeted {
                Ok((wire, tls_name)) => Inbound::Greeted { connection, peer, wire: Box::new(wire), tls_name },
                Err(why) => {
                    tracing::debug!(%remote, "a SIP connection came to nothing: {why}");
                    Inbound::Closed { connection }
                }
            };
            inbound.send(message).await;
            Outcome::Done
        });
    }

    pub(super) fn greeted(
        &mut self,
        agent: &mut UserAgent,
        now: Instant,
        connection: ConnectionId,
        peer: Peer,
        wire: Wire,
        tls_name: Option<String>,
    ) {
        if !agent.takes_stream(peer.remote.ip(), tls_name.as_deref()) {
            tracing::debug!(remote = %peer.remote, "a SIP connection of a stranger is closed");
            return self.streams.remove(connection);
        }
        self.carry(connection, wire);
        agent.handle_accepted(now, connection, peer, tls_name);
    }

    /// Starts the tasks of an open stream.
    pub(super) fn carry(&mut self, connection: ConnectionId, wire: Wire) {
        let (sender, outgoing) = queue::queue(Fifo { depth: DEPTH });
        let fresh = || Stream { outgoing: None, closed: StopToken::default(), source: None, with: None };
        let stream = self.streams.open.entry(connection).or_insert_with(fresh);
        stream.outgoing = Some(sender);
        let (closed, inbound, scope) = (stream.closed.clone(), self.inbound.clone(), &mut self.scope);
        match wire {
            Wire::Plain(stream) => {
                probe(&stream);
                let (reader, writer) = stream.into_split();
                halves(scope, reader, writer, connection, outgoing, inbound, closed);
            }
            Wire::Secure(stream) => {
                probe(stream.get_ref().0);
                let (reader, writer) = tokio::io::split(*stream);
                halves(scope, reader, writer, connection, outgoing, inbound, closed);
            }
            Wire::Web(stream) => {
                probe(stream.get_ref());
                let work = websocket::carry(*stream, connection, outgoing, inbound, closed, WRITE_LIMIT);
                scope.task_until_stopped("sip-websocket", work);
            }
            Wire::SecureWeb(stream) => {
                probe(stream.get_ref().get_ref().0);
                let work = websocket::carry(*stream, connection, outgoing, inbound, closed, WRITE_LIMIT);
                scope.task_until_stopped("sip-websocket", work);
            }
        }
    }

    /// Opens a stream the endpoint asked for.
    pub(super) fn connect(
        &mut self,
        connection: ConnectionId,
        transport: Transport,
        remote: SocketAddr,
        name: Option<String>,
    ) {
        let (inbound, tls) = (self.inbound.clone(), self.tls.clone());
        let from = self.listening.origin(transport, remote);
        self.scope.task_until_stopped("sip-connect", async move {
            let opening = tokio::time::timeout(CONNECT_LIMIT, open(transport, remote, from, name, &tls));
            let opened = opening.await.unwrap_or_else(|_| Err("nobody answers there".to_owned()));
            let message = match opened {
                Ok((wire, local)) => Inbound::Connected { connection, wire: Box::new(wire), local },
                Err(why) => {
                    tracing::warn!(%remote, transport = transport.name(), "no SIP connection: {why}");
                    Inbound::Closed { connection }
                }
            };
            inbound.send(message).await;
            Outcome::Done
        });
    }
}

/// The server's handshakes, and whom the client's certificate names.
async fn greet(
    transport: Transport,
    stream: TcpStream,
    tls: &Tls,
    origins: &Origins,
) -> Result<(Wire, Option<String>), String> {
    let server = || tls.server().ok_or_else(|| "there is no certificate of ours".to_owned());
    match transport {
        Transport::Udp | Transport::Tcp => Ok((Wire::Plain(stream), None)),
        Transport::Ws => Ok((Wire::Web(Box::new(websocket::accept(stream, origins).await?)), None)),
        Transport::Tls => {
            let (stream, name) = secure(stream, server()?, tls).await?;
            Ok((Wire::Secure(Box::new(stream)), name))
        }
        Transport::Wss => {
            let (stream, name) = secure(stream, server()?, tls).await?;
            Ok((Wire::SecureWeb(Box::new(websocket::accept(stream, origins).await?)), name))
        }
    }
}

async fn secure(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    tls: &Tls,
) -> Result<(TlsStream<TcpStream>, Option<String>), String> {
    let stream =
        TlsAcceptor::from(config).accept(stream).await.map_err(|error| format!("no TLS: {error}"))?;
    let shown = stream.get_ref().1.peer_certificates();
    let name = shown.and_then(|shown| tls.name_of(shown, UnixTime::now()));
    Ok((stream.into(), name))
}

/// Opens a stream: the connection, then its handshakes.
async fn open(
    transport: Transport,
    remote: SocketAddr,
    from: Option<SocketAddr>,
    name: Option<String>,
    tls: &Tls,
) -> Result<(Wire, SocketAddr), String> {
    let stream = dial(remote, from).await.map_err(|error| format!("{error}"))?;
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().map_err(|error| format!("{error}"))?;
    let host = name.as_deref().map_or_else(|| remote.to_string(), |name| format!("{name}:{}", remote.port()));
    let wire = match transport {
        Transport::Udp | Transport::Tcp => Wire::Plain(stream),
        Transport::Ws => Wire::Web(Box::new(websocket::connect(stream, &host, false).await?)),
        Transport::Tls => Wire::Secure(Box::new(secure_client(stream, remote, name, tls).await?)),
        Transport::Wss => {
            let stream = secure_client(stream, remote, name, tls).await?;
            Wire::SecureWeb(Box::new(websocket::connect(stream, &host, true).await?))
        }
    };
    Ok((wire, local))
}

async fn dial(remote: SocketAddr, from: Option<SocketAddr>) -> std::io::Result<TcpStream> {
    if let Some(from) = from {
        let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        if socket.bind(from).is_ok() {
            match socket.connect(remote).await {
                // The last stream between the two is still being forgotten: any other port does.
                Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
                connected => return connected,
            }
        }
    }
    TcpStream::connect(remote).await
}

async fn secure_client(
    stream: TcpStream,
    remote: SocketAddr,
    name: Option<String>,
    tls: &Tls,
) -> Result<TlsStream<TcpStream>, String> {
    let config = tls.client(name.as_deref(), remote.ip());
    let dialled = match name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| format!("{name} is not a domain"))?,
        None => ServerName::IpAddress(remote.ip().to_canonical().into()),
    };
    match TlsConnector::from(config).connect(dialled, stream).await {
        Ok(stream) => Ok(stream.into()),
        Err(error) => Err(certificate::refusal(&error)),
    }
}

/// Peers vanish without a word; the kernel finds out.
fn probe(stream: &TcpStream) {
    let probing =
        socket2::TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    let socket = socket2::SockRef::from(stream);
    let set = socket
        .set_tcp_keepalive(&probing)
        .and_then(|()| socket.set_tcp_user_timeout(Some(ACKNOWLEDGED_WITHIN)));
    if let Err(error) = set {
        tracing::debug!(%error, "a SIP stream is not probed");
    }
}

fn halves(
    scope: &mut Scope,
    reader: impl AsyncRead + Unpin + Send + 'static,
    writer: impl AsyncWrite + Unpin + Send + 'static,
    connection: ConnectionId,
    outgoing: Receiver<Vec<u8>, Fifo>,
    inbound: Sender<Inbound, Wait>,
    closed: StopToken,
) {
    scope.task_until_stopped("sip-stream-in", read(reader, connection, inbound, closed.clone()));
    scope.task_until_stopped("sip-stream-out", write(writer, outgoing, closed));
}

async fn read(
    mut reader: impl AsyncRead + Unpin,
    connection: ConnectionId,
    inbound: Sender<Inbound, Wait>,
    closed: StopToken,
) -> Outcome {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read.unwrap_or_else(|error| lost(connection, &error)),
            () = closed.stopped() => 0,
        };
        if read == 0 {
            inbound.send(Inbound::Closed { connection }).await;
            return Outcome::Done;
        }
        let bytes = buffer[..read].to_vec();
        if !inbound.send(Inbound::Data { connection, bytes }).await {
            return Outcome::Done;
        }
    }
}

/// With TLS 1.3 a server says only now that it does not like our certificate.
fn lost(connection: ConnectionId, error: &std::io::Error) -> usize {
    let of_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    if of_tls {
        tracing::warn!(?connection, "a SIP connection is lost: {}", certificate::refusal(error));
    } else {
        tracing::debug!(?connection, %error, "a SIP connection is lost");
    }
    0
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    outgoing: Receiver<Vec<u8>, Fifo>,
    closed: StopToken,
) -> Outcome {
    while let Some(bytes) = outgoing.recv().await {
        let written = async {
            writer.write_all(&bytes).await?;
            // TLS keeps what it could not write yet.
            writer.flush().await
        };
        match tokio::time::timeout(WRITE_LIMIT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    let _ = tokio::time::timeout(WRITE_LIMIT, writer.shutdown()).await;
    // The reader tells the endpoint.
    closed.stop();
    Outcome::Done
}
