//! A place on a TURN server (RFC 8656) through which datagrams go, without the socket: by `turn-client-proto`.
//!
//! Asks for an address of the server's, keeps it, and lets peers in as we send to them. How bytes reach the server is
//! [`super::link`]'s (UDP) and [`super::tunnel`]'s (TCP, TLS).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::client::TurnClient;
use turn_client_proto::stun::Instant as Moment;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::{AddressFamily, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

/// Peers with a channel of their own, which costs 4 bytes a datagram instead of 36.
const CHANNELS_MAX: usize = 8;

/// What a relay wants next.
#[derive(Debug)]
pub enum RelayStep {
    /// To the server.
    Send(Vec<u8>),
    /// The server's address under which we are reached now.
    Allocated(SocketAddr),
    /// It cannot be had, or was lost.
    Failed(String),
    Wait(Instant),
}

/// One allocation.
pub struct Relay {
    client: TurnClient,
    transport: TransportType,
    local: SocketAddr,
    server: SocketAddr,
    started: Instant,
    address: Option<SocketAddr>,
    channels: Vec<SocketAddr>,
    over: bool,
    /// Datagrams nobody could be sent to yet.
    unsent: u64,
}

impl Relay {
    /// Begins to ask. `stream`: the server is reached over TCP or TLS.
    pub fn new(
        now: Instant,
        local: SocketAddr,
        server: SocketAddr,
        stream: bool,
        username: &str,
        credential: &str,
    ) -> Self {
        let mut config = TurnConfig::new(TurnCredentials::new(username, credential));
        if server.is_ipv6() {
            config.set_address_family(AddressFamily::IPV6);
        }
        let (client, transport) = if stream {
            (TurnClientTcp::allocate(local, server, config).into(), TransportType::Tcp)
        } else {
            (TurnClientUdp::allocate(local, server, config).into(), TransportType::Udp)
        };
        let (address, channels) = (None, Vec::new());
        Relay { client, transport, local, server, started: now, address, channels, over: false, unsent: 0 }
    }

    fn moment(&self, now: Instant) -> Moment {
        let since = now.saturating_duration_since(self.started).as_nanos();
        Moment::from_nanos(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// Where peers send to, once it is had.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Bytes from the server; gives what peers sent.
    pub fn receive(&mut self, now: Instant, bytes: &[u8], mut give: impl FnMut(SocketAddr, &[u8])) {
        let now = self.moment(now);
        let came = Transmit::new(bytes, self.transport, self.server, self.local);
        if let TurnRecvRet::PeerData(data) = self.client.recv(came, now) {
            give(data.peer, data.data());
        }
        // A piece of a stream may hold more than one.
        while let Some(data) = self.client.poll_recv(now) {
            give(data.peer, data.data());
        }
    }

    /// What to send to the server so that `bytes` reach the peer. `None`: the peer is not let in yet, which is asked for;
    /// ICE sends its checks again.
    pub fn send(&mut self, now: Instant, to: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let now = self.moment(now);
        self.address?;
        if !self.client.have_permission(TransportType::Udp, to.ip()) {
            // Fails where it is asked for already.
            let _ = self.client.create_permission(TransportType::Udp, to.ip(), now);
            self.unsent += 1;
            return None;
        }
        if self.channels.len() < CHANNELS_MAX && !self.channels.contains(&to) {
            self.channels.push(to);
            // Without a channel it goes too, only longer.
            let _ = self.client.bind_channel(TransportType::Udp, to, now);
        }
        let built = self.client.send_to(TransportType::Udp, to, bytes, now).ok().flatten();
        self.unsent += u64::from(built.is_none());
        built.map(|built| built.build().data)
    }

    /// What to do next.
    pub fn poll(&mut self, now: Instant) -> RelayStep {
        let moment = self.moment(now);
        if self.over {
            return RelayStep::Wait(now + Duration::from_secs(3_600));
        }
        let waits = self.client.poll(moment);
        while let Some(event) = self.client.poll_event() {
            match event {
                TurnEvent::AllocationCreated(_, address) => {
                    self.address = Some(address);
                    return RelayStep::Allocated(address);
                }
                TurnEvent::AllocationCreateFailed(_) => return self.fail("it gives no address"),
                // A peer it does not let in is a path that fails its checks; nothing else concerns us.
                _ => {}
            }
        }
        if let Some(transmit) = self.client.poll_transmit(moment) {
            return RelayStep::Send(transmit.data.to_vec());
        }
        match waits {
            TurnPollRet::WaitUntil(until) => {
                let left = until.saturating_duration_since(moment);
                RelayStep::Wait(now + left.max(Duration::from_millis(1)))
            }
            TurnPollRet::Closed => self.fail("it closed"),
            // Never asked for: datagrams only.
            TurnPollRet::AllocateTcpSocket { .. } | TurnPollRet::TcpClose { .. } => {
                self.fail("it wants connections to peers")
            }
        }
    }

    fn fail(&mut self, why: &str) -> RelayStep {
        self.over = true;
        RelayStep::Failed(why.to_owned())
    }

    /// Gives the place back: what to send to the server.
    pub fn close(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let moment = self.moment(now);
        if self.over || self.address.is_none() || self.client.delete(moment).is_err() {
            return Vec::new();
        }
        let _ = self.client.poll(moment);
        let mut last = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(moment) {
            last.push(transmit.data.to_vec());
        }
        last
    }

    /// Datagrams that had to be dropped.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }
}
