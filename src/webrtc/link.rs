//! Driver: sockets and clock of one peer connection; everything else is [`super::peer`]'s.
//!
//! Polled by its owner, no task of its own. Binds one UDP socket on the address that leads to the signalling server
//! (loopback, if that is there), asks STUN and TURN servers over it, and trickles what they answer.
#![expect(clippy::disallowed_methods, reason = "Driver: sockets and the clock of a peer connection")]

use std::collections::VecDeque;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as Blocking};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use str0m::Candidate;
use str0m::net::Transmit;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::Sleep;

use super::Mid;
use super::event::{ChannelId, PeerEvent};
use super::peer::{Peer, PeerCounters, PeerError, Step};
use super::reflexive::Reflexive;
use super::relay::{Relay, RelayStep};
use super::settings::{PeerSettings, Reach, Server, Way};
use super::tunnel::{Piece, Tunnel};
use crate::media::access_unit::{AccessUnit, VideoCodec};

/// The largest datagram taken.
const DATAGRAM_MAX: usize = 2_048;
const FIND_WITHIN: Duration = Duration::from_secs(3);
/// A relay not had by then is waited for no more; it may still come.
const RELAY_WITHIN: Duration = Duration::from_secs(4);
/// Datagrams taken from one socket before others have their turn.
const AT_ONCE: usize = 64;

struct Socket {
    reads: UdpSocket,
    /// The same socket: sending does not wait for the runtime to say that it may.
    writes: Blocking,
    local: SocketAddr,
}

/// What was found behind the names.
struct Found {
    toward: Vec<SocketAddr>,
    servers: Vec<(Server, SocketAddr)>,
}

/// How the bytes of a relay travel.
enum Path {
    /// Over the socket of this number.
    Datagrams(usize),
    Stream(Box<Tunnel>),
}

struct RelayPath {
    path: Path,
    server: Server,
    place: SocketAddr,
    /// Once there is an address to speak from.
    relay: Option<Relay>,
    asked: Instant,
    settled: bool,
}

/// One peer connection with its sockets.
pub struct PeerLink {
    peer: Peer,
    settings: PeerSettings,
    finding: Option<BoxFuture<'static, Found>>,
    sockets: Vec<Socket>,
    reflexives: Vec<(usize, Reflexive)>,
    relays: Vec<RelayPath>,
    gathered: bool,
    events: VecDeque<PeerEvent>,
    due: Instant,
    timer: Pin<Box<Sleep>>,
    waker: Option<Waker>,
    buffer: Box<[u8]>,
    undelivered: u64,
}

impl PeerLink {
    /// Begins to look for addresses as soon as it is polled. Needs a runtime around it.
    pub fn new(settings: PeerSettings) -> Self {
        let now = Instant::now();
        let finding = find(settings.toward.clone(), settings.servers());
        PeerLink {
            peer: Peer::new(now, &settings),
            settings,
            finding: Some(Box::pin(finding)),
            sockets: Vec::new(),
            reflexives: Vec::new(),
            relays: Vec::new(),
            gathered: false,
            events: VecDeque::new(),
            due: now,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
            waker: None,
            buffer: vec![0; DATAGRAM_MAX].into_boxed_slice(),
            undelivered: 0,
        }
    }

    pub fn counters(&self) -> PeerCounters {
        self.peer.counters()
    }

    /// Datagrams the system did not take.
    pub fn undelivered(&self) -> u64 {
        self.undelivered
    }

    pub fn is_connected(&self) -> bool {
        self.peer.is_connected()
    }

    /// See [`Peer::want_sound`].
    pub fn want_sound(&mut self, way: Way) {
        self.peer.want_sound(way);
    }

    /// See [`Peer::want_video`].
    pub fn want_video(&mut self, way: Way) {
        self.peer.want_video(way);
    }

    /// See [`Peer::create_offer`]. Candidates found by then are in it, later ones trickle.
    pub fn create_offer(&mut self) -> Option<String> {
        let offer = self.peer.create_offer();
        self.flush();
        offer
    }

    /// See [`Peer::take_answer`].
    pub fn take_answer(&mut self, sdp: &str) -> Result<(), PeerError> {
        let taken = self.peer.take_answer(Instant::now(), sdp);
        self.flush();
        taken
    }

    /// See [`Peer::take_offer`].
    pub fn take_offer(&mut self, sdp: &str) -> Result<String, PeerError> {
        let answer = self.peer.take_offer(Instant::now(), sdp);
        self.flush();
        answer
    }

    /// See [`Peer::add_remote_candidate`].
    pub fn add_remote_candidate(&mut self, candidate: &str) {
        self.peer.add_remote_candidate(Instant::now(), candidate);
        self.flush();
    }

    /// See [`Peer::open_channel`].
    pub fn open_channel(
        &mut self,
        label: &str,
        ordered: bool,
        max_retransmits: Option<u16>,
    ) -> Option<ChannelId> {
        let id = self.peer.open_channel(Instant::now(), label, ordered, max_retransmits);
        self.flush();
        id
    }

    /// See [`Peer::send`].
    pub fn send(&mut self, id: ChannelId, bytes: &[u8], text: bool) -> bool {
        let sent = self.peer.send(Instant::now(), id, bytes, text);
        self.flush();
        sent
    }

    /// See [`Peer::buffered`].
    pub fn buffered(&mut self, id: ChannelId) -> usize {
        self.peer.buffered(id)
    }

    /// See [`Peer::send_sound`].
    pub fn send_sound(&mut self, at: Instant, time: u64, packet: &[u8]) -> bool {
        let sent = self.peer.send_sound(Instant::now(), at, time, packet);
        self.flush();
        sent
    }

    /// See [`Peer::send_unit`].
    pub fn send_unit(&mut self, at: Instant, time: u64, unit: &AccessUnit) -> bool {
        let sent = self.peer.send_unit(Instant::now(), at, time, unit);
        self.flush();
        sent
    }

    /// See [`Peer::codecs_out`].
    pub fn codecs_out(&mut self) -> Vec<VideoCodec> {
        self.peer.codecs_out()
    }

    /// See [`Peer::want_key_picture`].
    pub fn want_key_picture(&mut self, mid: Mid) {
        self.peer.want_key_picture(Instant::now(), mid);
        self.flush();
    }

    /// See [`Peer::restart_ice`]: the next [`PeerLink::create_offer`] restarts.
    pub fn restart_ice(&mut self) {
        self.peer.restart_ice();
    }

    /// Says farewell; [`PeerEvent::Closed`] follows. Again: nothing.
    pub fn close(&mut self) {
        let now = Instant::now();
        self.peer.close(now);
        self.flush();
        for at in 0..self.relays.len() {
            let last = self.relays[at].relay.as_mut().map(|relay| relay.close(now));
            for bytes in last.unwrap_or_default() {
                self.give_server(at, &bytes);
            }
        }
    }

    /// The next event. Cancel-safe; what nobody takes waits in the sockets.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<PeerEvent> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.waker = Some(context.waker().clone());
        }
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if self.peer.is_over() {
                self.sockets.clear();
                return Poll::Pending;
            }
            self.poll_finding(context);
            let mut more = self.poll_sockets(context);
            more |= self.poll_tunnels(context);
            let now = Instant::now();
            if self.due <= now {
                self.peer.handle_time(now);
            }
            self.work(now);
            if !self.events.is_empty() || more {
                continue;
            }
            self.timer.as_mut().reset(self.due.into());
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// As [`PeerLink::poll_next`]; cancel-safe.
    pub async fn next(&mut self) -> PeerEvent {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_finding(&mut self, context: &mut Context<'_>) {
        let Some(finding) = &mut self.finding else { return };
        if let Poll::Ready(found) = finding.as_mut().poll(context) {
            self.finding = None;
            self.bind(found);
        }
    }

    /// Sockets on the addresses that lead to where we want to get, and questions to the servers.
    fn bind(&mut self, found: Found) {
        let now = Instant::now();
        let anywhere = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9));
        let toward = if found.toward.is_empty() { vec![anywhere] } else { found.toward };
        for is_v4 in [true, false] {
            let Some(target) = toward.iter().find(|address| address.is_ipv4() == is_v4) else { continue };
            match socket_toward(*target) {
                Ok(socket) => {
                    if !self.settings.relay_only
                        && let Ok(candidate) = Candidate::host(socket.local, "udp")
                    {
                        self.peer.add_local_candidate(now, candidate);
                    }
                    self.sockets.push(socket);
                }
                Err(error) => tracing::debug!("no socket toward {target}: {error}"),
            }
        }
        if self.sockets.is_empty() {
            self.events.push_back(PeerEvent::Failed(format!("no way to {}", self.settings.toward)));
            return self.peer.close(now);
        }
        for (server, place) in found.servers {
            self.ask(now, server, place);
        }
    }

    fn ask(&mut self, now: Instant, server: Server, place: SocketAddr) {
        let near = self.sockets.iter().position(|socket| socket.local.is_ipv4() == place.is_ipv4());
        let path = match (server.reach, near) {
            (Reach::Stun, Some(at)) => return self.reflexives.push((at, Reflexive::new(now, place))),
            (Reach::Stun | Reach::TurnUdp, None) => return,
            (Reach::TurnUdp, Some(at)) => Path::Datagrams(at),
            (Reach::TurnTcp, _) => Path::Stream(Box::new(Tunnel::open(place, None))),
            (Reach::TurnTls, _) => {
                let Some(tls) = self.settings.tls.clone() else { return };
                Path::Stream(Box::new(Tunnel::open(place, Some((tls, server.host.clone())))))
            }
        };
        let relay = match &path {
            Path::Datagrams(at) => {
                let local = self.sockets[*at].local;
                Some(Relay::new(now, local, place, false, &server.username, &server.credential))
            }
            Path::Stream(_) => None,
        };
        self.relays.push(RelayPath { path, server, place, relay, asked: now, settled: false });
    }

    /// `true`: there may be more.
    fn poll_sockets(&mut self, context: &mut Context<'_>) -> bool {
        let mut more = false;
        for at in 0..self.sockets.len() {
            for taken in 0.. {
                if taken == AT_ONCE {
                    more = true;
                    break;
                }
                let mut read = ReadBuf::new(&mut self.buffer);
                let Poll::Ready(came) = self.sockets[at].reads.poll_recv_from(context, &mut read) else {
                    break;
                };
                let length = read.filled().len();
                // Errors are refusals of what was sent before (ICMP); checks find out what they mean.
                if let Ok(source) = came {
                    self.receive(at, source, length);
                }
            }
        }
        more
    }

    fn receive(&mut self, at: usize, source: SocketAddr, length: usize) {
        let now = Instant::now();
        let local = self.sockets[at].local;
        let bytes = &self.buffer[..length];
        let over =
            |path: &RelayPath| matches!(path.path, Path::Datagrams(own) if own == at) && path.place == source;
        if let Some(relay) =
            self.relays.iter_mut().find(|path| over(path)).and_then(|path| path.relay.as_mut())
        {
            let (address, peer) = (relay.address(), &mut self.peer);
            return relay.receive(now, bytes, |from, data| {
                if let Some(address) = address {
                    peer.receive(now, from, address, data);
                }
            });
        }
        if let Some((_, asked)) = self.reflexives.iter_mut().find(|(_, asked)| asked.server() == source) {
            let seen = asked.receive(bytes);
            if let Some(seen) = seen.filter(|seen| *seen != local && !self.settings.relay_only)
                && let Ok(candidate) = Candidate::server_reflexive(seen, local, "udp")
            {
                self.peer.add_local_candidate(now, candidate);
            }
            return;
        }
        self.peer.receive(now, source, local, bytes);
    }

    fn poll_tunnels(&mut self, context: &mut Context<'_>) -> bool {
        let mut more = false;
        for path in &mut self.relays {
            let Path::Stream(tunnel) = &mut path.path else { continue };
            let Poll::Ready(piece) = tunnel.poll(context, &mut self.buffer) else { continue };
            let now = Instant::now();
            more = true;
            match piece {
                Piece::Open(local) => {
                    let keys = (&path.server.username, &path.server.credential);
                    path.relay = Some(Relay::new(now, local, path.place, true, keys.0, keys.1));
                }
                Piece::Bytes(length) => {
                    let Some(relay) = &mut path.relay else { continue };
                    let (address, peer) = (relay.address(), &mut self.peer);
                    relay.receive(now, &self.buffer[..length], |from, data| {
                        if let Some(address) = address {
                            peer.receive(now, from, address, data);
                        }
                    });
                }
                Piece::Over(why) => {
                    tracing::info!("no relay through {:?}: {why}", path.server);
                    (path.relay, path.settled) = (None, true);
                }
            }
        }
        more
    }

    /// Lets everything that is due happen, as after each thing the owner does.
    fn flush(&mut self) {
        self.work(Instant::now());
        // The timer, and what is to be written or told, are seen to at the next poll.
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    fn work(&mut self, now: Instant) {
        let mut due = now + Duration::from_secs(3);
        self.ask_servers(now, &mut due);
        self.run_relays(now, &mut due);
        loop {
            match self.peer.poll() {
                Step::Send(transmit) => self.route(now, &transmit),
                Step::Event(event) => self.events.push_back(event),
                Step::Wait(at) => {
                    due = due.min(at);
                    break;
                }
            }
        }
        self.due = due;
        let settled = self.finding.is_none()
            && self.reflexives.iter().all(|(_, asked)| asked.is_done())
            && self.relays.iter().all(|path| path.settled);
        if settled && !std::mem::replace(&mut self.gathered, true) {
            self.events.push_back(PeerEvent::Gathered);
        }
    }

    fn ask_servers(&mut self, now: Instant, due: &mut Instant) {
        for (at, asked) in &mut self.reflexives {
            let server = asked.server();
            if let Some(request) = asked.poll(now)
                && let Some(socket) = self.sockets.get(*at)
            {
                self.undelivered += u64::from(socket.writes.send_to(request, server).is_err());
            }
            if let Some(at) = asked.wake_at() {
                *due = (*due).min(at);
            }
        }
    }

    fn run_relays(&mut self, now: Instant, due: &mut Instant) {
        for at in 0..self.relays.len() {
            let limit = self.relays[at].asked + RELAY_WITHIN;
            self.relays[at].settled |= limit <= now;
            if !self.relays[at].settled {
                *due = (*due).min(limit);
            }
            while let Some(relay) = &mut self.relays[at].relay {
                match relay.poll(now) {
                    RelayStep::Send(bytes) => self.give_server(at, &bytes),
                    RelayStep::Allocated(address) => {
                        let local = match self.relays[at].path {
                            Path::Datagrams(own) => self.sockets.get(own).map(|socket| socket.local),
                            Path::Stream(_) => self.sockets.first().map(|socket| socket.local),
                        };
                        self.relays[at].settled = true;
                        if let Some(Ok(candidate)) =
                            local.map(|local| Candidate::relayed(address, local, "udp"))
                        {
                            self.peer.add_local_candidate(now, candidate);
                        }
                    }
                    RelayStep::Failed(why) => {
                        tracing::info!("no relay through {:?}: {why}", self.relays[at].server);
                        (self.relays[at].relay, self.relays[at].settled) = (None, true);
                    }
                    RelayStep::Wait(until) => {
                        *due = (*due).min(until);
                        break;
                    }
                }
            }
        }
    }

    fn give_server(&mut self, at: usize, bytes: &[u8]) {
        let path = &mut self.relays[at];
        let sent = match &mut path.path {
            Path::Datagrams(own) => {
                self.sockets.get(*own).is_some_and(|socket| socket.writes.send_to(bytes, path.place).is_ok())
            }
            Path::Stream(tunnel) => tunnel.send(bytes),
        };
        self.undelivered += u64::from(!sent);
    }

    fn route(&mut self, now: Instant, transmit: &Transmit) {
        if let Some(socket) = self.sockets.iter().find(|socket| socket.local == transmit.source) {
            let sent = socket.writes.send_to(&transmit.contents, transmit.destination);
            self.undelivered += u64::from(sent.is_err());
            return;
        }
        let relayed =
            |path: &RelayPath| path.relay.as_ref().and_then(Relay::address) == Some(transmit.source);
        if let Some(at) = self.relays.iter().position(relayed) {
            let relay = self.relays[at].relay.as_mut();
            let wrapped = relay.and_then(|relay| relay.send(now, transmit.destination, &transmit.contents));
            if let Some(bytes) = wrapped {
                self.give_server(at, &bytes);
            }
        }
    }
}

/// Looks names up.
async fn find(toward: String, servers: Vec<Server>) -> Found {
    let toward = addresses(&toward, 9).await;
    let looked = servers.into_iter().map(|server| async move {
        let places = addresses(&server.host, server.port).await;
        // Over IPv4 where there is a choice: more of the world is reached from there.
        let place = places.iter().find(|place| place.is_ipv4()).or(places.first()).copied();
        place.map(|place| (server, place))
    });
    let servers = futures_util::future::join_all(looked).await.into_iter().flatten().collect();
    Found { toward, servers }
}

async fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    let host = host.trim_matches(['[', ']']);
    if host.is_empty() {
        return Vec::new();
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, port)];
    }
    match tokio::time::timeout(FIND_WITHIN, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// A socket on the address from which `target` is reached.
fn socket_toward(target: SocketAddr) -> std::io::Result<Socket> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let probe = Blocking::bind(any)?;
    probe.connect(target)?;
    let own = probe.local_addr()?.ip();
    let writes = Blocking::bind((own, 0))?;
    writes.set_nonblocking(true)?;
    let local = writes.local_addr()?;
    // A key picture comes as one burst.
    let _ = socket2::SockRef::from(&writes).set_recv_buffer_size(1 << 20);
    let reads = UdpSocket::from_std(writes.try_clone()?)?;
    Ok(Socket { reads, writes, local })
}

#[cfg(test)]
mod tests;
