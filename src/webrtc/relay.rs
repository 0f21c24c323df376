//! A place on a TURN server (RFC 8656) through which datagrams go, without the socket: by `turn-client-proto`.
//!
//! Asks for an address of the server's, keeps it, and lets peers in as we send to them. How bytes reach the server is
//! [`super::link`]'s (UDP) and [`super::tunnel`]'s (TCP, TLS). Over a stream the same messages go one behind the other,
//! filled up to four bytes (§12.5); the crate's own client for TCP leaves that out, so they are told apart here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turn_client_proto::api::{TurnClientApi, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::stun::Instant as Moment;
use turn_client_proto::stun::agent::Transmit;
use turn_client_proto::types::{AddressFamily, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

/// Peers with a channel of their own, which costs 4 bytes a datagram instead of 36.
const CHANNELS_MAX: usize = 8;

/// What a stream may leave unfinished: more than the longest message.
const UNFINISHED_MAX: usize = 1 << 17;

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
    client: TurnClientUdp,
    /// Over TCP or TLS: what came of a message that is not complete.
    unfinished: Option<Vec<u8>>,
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
        if stream {
            // Nothing is lost there.
            let long = Duration::from_secs(5);
            config.set_request_retransmits(long, long, 2, long);
        }
        Relay {
            client: TurnClientUdp::allocate(local, server, config),
            unfinished: stream.then(Vec::new),
            local,
            server,
            started: now,
            address: None,
            channels: Vec::new(),
            over: false,
            unsent: 0,
        }
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
        let Some(mut unfinished) = self.unfinished.take() else {
            return self.receive_one(now, bytes, &mut give);
        };
        unfinished.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((length, filled)) = framed(&unfinished[at..]) {
            if unfinished.len() - at < filled {
                break;
            }
            self.receive_one(now, &unfinished[at..at + length], &mut give);
            at += filled;
        }
        unfinished.drain(..at);
        if unfinished.len() > UNFINISHED_MAX || unfinished.first().is_some_and(|first| *first > 0x7f) {
            // It speaks something else: nothing behind this can be told apart.
            self.over = true;
        }
        self.unfinished = Some(unfinished);
    }

    fn receive_one(&mut self, now: Instant, bytes: &[u8], give: &mut impl FnMut(SocketAddr, &[u8])) {
        let now = self.moment(now);
        let came = Transmit::new(bytes, TransportType::Udp, self.server, self.local);
        if let TurnRecvRet::PeerData(data) = self.client.recv(came, now) {
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
        let mut wrapped = built?.build().data;
        if self.unfinished.is_some() {
            wrapped.resize(wrapped.len().next_multiple_of(4), 0);
        }
        Some(wrapped)
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

/// The length of the message a stream goes on with, and the same filled up; `None`: its head is not complete, or it is
/// none.
fn framed(bytes: &[u8]) -> Option<(usize, usize)> {
    let [first, _, high, low] = *bytes.first_chunk::<4>()?;
    let body = usize::from(u16::from_be_bytes([high, low]));
    match first {
        0x00..=0x3f => Some((body + 20, body + 20)),
        0x40..=0x7f => Some((body + 4, (body + 4).next_multiple_of(4))),
        0x80.. => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_stream_are_told_apart_however_they_come() {
        let channel = [0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0];
        let stun = [&[0x01, 0x01, 0, 4][..], &[7; 16], &[9; 4]].concat();
        assert_eq!(framed(&channel), Some((9, 12)));
        assert_eq!(framed(&stun), Some((24, 24)));
        assert_eq!(framed(&channel[..3]), None);
        assert_eq!(framed(&[0x80, 0, 0, 4]), None);
        let now = Instant::now();
        let (local, server) = ("127.0.0.1:1".parse().expect("a"), "127.0.0.1:2".parse().expect("a"));
        let mut relay = Relay::new(now, local, server, true, "who", "secret");
        let all = [&channel[..], &stun, &channel].concat();
        for piece in all.chunks(7) {
            relay.receive(now, piece, |_, _| panic!("nobody was let in"));
        }
        assert_eq!(relay.unfinished, Some(Vec::new()), "nothing is left");
        relay.receive(now, b"\xffHTTP", |_, _| panic!("nobody was let in"));
        assert!(relay.over);
        assert!(matches!(relay.poll(now), RelayStep::Wait(_)));
    }
}
