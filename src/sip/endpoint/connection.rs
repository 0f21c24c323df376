//! Where messages go: datagrams at once, streams over an open connection or one that is asked for.
//!
//! A connection is found again by its id or by the remote address (RFC 5923), and messages wait, bounded, while one
//! is being opened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::super::message::RequestMessage;
use super::super::parse::is_keep_alive;
use super::super::stream::{Framed, Framer};
use super::hop::Hop;
use super::keepalive::{PING, PONG, Pulse};
use super::{Access, ConnectionId, Do, Endpoint, Peer, Transport};

/// Longest message on a stream.
const LARGEST_MESSAGE: usize = 64 * 1024;
/// Messages that wait for a connection to open.
const WAITING: usize = 32;
/// Addresses under which one stream is known.
const MOST_ALIASES: usize = 4;
/// Addresses whose domain is remembered.
const MOST_NAMES: usize = 4096;

pub(super) struct Connection {
    peer: Peer,
    access: Access,
    /// The domain its certificate was checked against, or what the accepted peer's certificate names.
    name: Option<String>,
    framer: Framer,
    /// `None`: not open yet.
    pulse: Option<Pulse>,
    /// `Some`: not open yet.
    waiting: Option<Vec<Vec<u8>>>,
}

#[derive(Default)]
pub(super) struct Connections {
    open: HashMap<ConnectionId, Connection>,
    by_remote: HashMap<(Transport, SocketAddr), ConnectionId>,
    /// The domain last dialled at an address, for the certificate when its stream is opened again.
    names: HashMap<(Transport, SocketAddr), String>,
    next: u64,
}

impl Connections {
    /// Remembers under which domain a hop is known.
    pub fn name(&mut self, hop: &Hop) {
        let key = (hop.transport, hop.remote);
        let Some(name) = hop.name.clone().filter(|_| hop.transport.is_reliable()) else { return };
        if self.names.len() >= MOST_NAMES && !self.names.contains_key(&key) {
            self.names.clear();
        }
        self.names.insert(key, name);
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Every open stream with its clock.
    pub fn pulses(&mut self) -> impl Iterator<Item = (Peer, Access, &mut Pulse)> {
        self.open.values_mut().filter_map(|connection| {
            let (peer, access) = (connection.peer, connection.access);
            connection.pulse.as_mut().map(|pulse| (peer, access, pulse))
        })
    }

    pub fn pulse(&mut self, id: ConnectionId) -> Option<&mut Pulse> {
        self.open.get_mut(&id)?.pulse.as_mut()
    }

    /// RFC 5923 §5: requests to the address an accepted peer says it listens on go over its own stream. Only for an
    /// address it really has, and over TLS only for a certificate we know.
    pub fn take_alias(&mut self, peer: Peer, request: &RequestMessage) {
        let Some(connection) = peer.connection.and_then(|id| self.open.get(&id)) else { return };
        let Some(via) = request.via().filter(|via| via.parameter("alias").is_some()) else { return };
        let unknown = peer.transport.is_secure() && connection.name.is_none();
        if unknown || via.host_ip() != Some(peer.remote.ip().to_canonical()) {
            return;
        }
        let port = via.port.unwrap_or(peer.transport.default_port());
        let key = (peer.transport, SocketAddr::new(peer.remote.ip(), port));
        let Some(id) = peer.connection else { return };
        let own = self.by_remote.values().filter(|known| **known == id).count();
        if own < MOST_ALIASES {
            self.by_remote.insert(key, id);
        }
    }

    pub fn is_known(&self, id: ConnectionId) -> bool {
        self.open.contains_key(&id)
    }

    pub fn is_opening(&self, id: ConnectionId) -> bool {
        self.open.get(&id).is_some_and(|connection| connection.waiting.is_some())
    }

    /// The open stream to a hop. One whose certificate was checked for another domain is none of it.
    fn known(&self, peer: &Peer) -> Option<ConnectionId> {
        if let Some(id) = peer.connection.filter(|id| self.open.contains_key(id)) {
            return Some(id);
        }
        let key = (peer.transport, peer.remote);
        let id = *self.by_remote.get(&key)?;
        let wanted = self.names.get(&key).filter(|_| peer.transport.is_secure());
        let name = self.open.get(&id)?.name.as_ref();
        (wanted.is_none() || wanted == name).then_some(id)
    }
}

impl Endpoint {
    /// A stream accepted by our listener.
    ///
    /// `tls_name`: what the client certificate that was verified names.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        id: ConnectionId,
        peer: Peer,
        access: Access,
        tls_name: Option<String>,
    ) {
        let peer = Peer { connection: Some(id), ..peer };
        let framer = Framer::new(LARGEST_MESSAGE);
        let pulse = Pulse::new(now, false);
        let connection =
            Connection { peer, access, name: tls_name, framer, pulse: Some(pulse), waiting: None };
        self.connections.by_remote.insert((peer.transport, peer.remote), id);
        self.connections.open.insert(id, connection);
        self.watch_streams(now);
    }

    /// The stream asked for by `Do::Connect` is open.
    pub fn handle_connected(&mut self, now: Instant, id: ConnectionId, _local: SocketAddr) {
        let Some(connection) = self.connections.open.get_mut(&id) else {
            self.out.push_back(Do::Close(id));
            return;
        };
        let peer = connection.peer;
        connection.pulse = Some(Pulse::new(now, true));
        for bytes in connection.waiting.take().unwrap_or_default() {
            self.out.push_back(Do::Send { peer, bytes });
        }
        self.watch_streams(now);
    }

    /// The other end of a stream.
    pub fn remote_of(&self, id: ConnectionId) -> Option<(Transport, SocketAddr)> {
        self.connections.open.get(&id).map(|connection| (connection.peer.transport, connection.peer.remote))
    }

    /// Keeps the way of a registration open (RFC 5626 §3.5.1): a datagram path now, a stream by its own keep-alives. A
    /// stream that is closed stays closed.
    pub fn keep_alive(&mut self, hop: &Hop) {
        if !hop.transport.is_reliable() {
            self.out.push_back(Do::Send { peer: hop.peer(), bytes: PING.to_vec() });
        } else if let Some(id) = self.connections.known(&hop.peer()) {
            self.connections.pulse(id).into_iter().for_each(Pulse::hold);
        }
    }

    /// The stream closed or could not be opened.
    pub fn handle_closed(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.open.remove(&id) else { return };
        let key = (connection.peer.transport, connection.peer.remote);
        if self.connections.by_remote.get(&key) == Some(&id) {
            self.connections.by_remote.remove(&key);
        }
        // Aliases are few beside streams that close.
        self.connections.by_remote.retain(|_, known| *known != id);
        // Calls on it go on over whatever their peer's Contact names. A stranger's stream carries none.
        if connection.pulse.as_ref().is_some_and(Pulse::carries) {
            for session in self.sessions.values_mut().filter(|session| session.peer.connection == Some(id)) {
                session.peer.connection = None;
            }
        }
        self.fail_clients(now, id);
    }

    /// Bytes of a stream.
    pub fn handle_stream(&mut self, now: Instant, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.open.get_mut(&id) else { return };
        let (peer, access) = (connection.peer, connection.access);
        if connection.pulse.as_mut().is_some_and(|pulse| pulse.heard(bytes)) {
            return;
        }
        if matches!(peer.transport, Transport::Ws | Transport::Wss) {
            return self.handle_frame(now, peer, access, bytes);
        }
        connection.framer.push(bytes);
        loop {
            let Some(connection) = self.connections.open.get_mut(&id) else { return };
            match connection.framer.next() {
                Framed::Message(message) => {
                    connection.pulse.iter_mut().for_each(|pulse| pulse.used(now));
                    self.handle_message(now, peer, access, &message);
                }
                // RFC 5626 §4.4.1: a double CRLF is answered by a single one.
                Framed::KeepAlive => self.out.push_back(Do::Send { peer, bytes: PONG.to_vec() }),
                Framed::Need => {
                    let half = connection.framer.has_part();
                    return connection.pulse.iter_mut().for_each(|pulse| pulse.half(now, half));
                }
                Framed::Broken(why) => {
                    tracing::debug!(remote = %peer.remote, "a SIP stream lost its framing: {why}");
                    self.counters.malformed += 1;
                    self.out.push_back(Do::Close(id));
                    return self.handle_closed(now, id);
                }
            }
        }
    }

    /// RFC 7118 §5: a frame is a message, framing has no say.
    fn handle_frame(&mut self, now: Instant, peer: Peer, access: Access, bytes: &[u8]) {
        if is_keep_alive(bytes) {
            if bytes == PING {
                self.out.push_back(Do::Send { peer, bytes: PONG.to_vec() });
            }
            return;
        }
        if let Some(pulse) = peer.connection.and_then(|id| self.connections.pulse(id)) {
            pulse.used(now);
        }
        self.handle_message(now, peer, access, bytes);
    }

    /// Sends to a hop and says over which connection.
    pub(super) fn send(&mut self, peer: Peer, bytes: Vec<u8>) -> Option<ConnectionId> {
        if !peer.transport.is_reliable() {
            self.out.push_back(Do::Send { peer, bytes });
            return None;
        }
        let id = match (self.connections.known(&peer), peer.connection) {
            (Some(id), _) => id,
            // Nobody listens where an accepted stream came from.
            (None, Some(id)) if id.0 > self.connections.next => {
                self.counters.transport_errors += 1;
                return None;
            }
            (None, _) => self.connect(peer),
        };
        if let Some(connection) = self.connections.open.get_mut(&id) {
            match &mut connection.waiting {
                None => self.out.push_back(Do::Send { peer: connection.peer, bytes }),
                Some(waiting) if waiting.len() < WAITING => waiting.push(bytes),
                Some(_) => self.counters.transport_errors += 1,
            }
        }
        Some(id)
    }

    fn connect(&mut self, peer: Peer) -> ConnectionId {
        self.connections.next += 1;
        let id = ConnectionId(self.connections.next);
        let peer = Peer { connection: Some(id), ..peer };
        let name = self.connections.names.get(&(peer.transport, peer.remote)).cloned();
        // We chose to talk to this peer: what it sends on this stream is wanted.
        let connection = Connection {
            peer,
            access: Access::Trusted,
            name: name.clone(),
            framer: Framer::new(LARGEST_MESSAGE),
            pulse: None,
            waiting: Some(Vec::new()),
        };
        self.connections.open.insert(id, connection);
        self.connections.by_remote.insert((peer.transport, peer.remote), id);
        let (transport, remote) = (peer.transport, peer.remote);
        self.out.push_back(Do::Connect { connection: id, transport, remote, name });
        id
    }

    /// What the verified client certificate of an accepted stream names.
    pub fn tls_name(&self, id: ConnectionId) -> Option<&str> {
        self.connections.open.get(&id)?.name.as_deref()
    }
}
