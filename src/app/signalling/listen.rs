//! Driver. What we listen on, and our own addresses as peers see them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};

use super::udp::Inlets;
use super::{Inbound, udp};
use crate::base::queue::{Sender, Wait};
use crate::base::stop::{Outcome, Scope};
use crate::sip::Transport;

/// Remembered answers to "which of our addresses reaches this peer".
const LOCAL_ADDRESSES: usize = 1024;
/// Streams the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

struct Datagrams {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
}

/// All listeners.
pub(super) struct Listening {
    udp: Vec<Datagrams>,
    streams: Vec<(Transport, SocketAddr)>,
    /// Ports from which streams are opened for transports we do not listen on, one per family: a peer then finds the
    /// stream again by our Contact (RFC 5923).
    reserved: [Option<TcpSocket>; 2],
    local_of: HashMap<IpAddr, IpAddr>,
}

impl Listening {
    pub async fn bind(
        listen: &[(Transport, SocketAddr)],
        can_tls: bool,
        scope: &mut Scope,
        inlets: &Inlets,
        inbound: &Sender<Inbound, Wait>,
    ) -> anyhow::Result<Self> {
        let (mut udp, mut streams) = (Vec::new(), Vec::new());
        for (transport, address) in listen {
            let taken = || {
                format!(
                    "cannot listen for SIP on {address}: is another SIP program running? Change sip.listen"
                )
            };
            match transport {
                Transport::Udp => {
                    let socket = Arc::new(udp::bind(*address).with_context(taken)?);
                    let local = socket.local_addr().with_context(taken)?;
                    let reading = udp::read(socket.clone(), udp.len(), inlets.clone());
                    scope.task_until_stopped("sip-udp", reading);
                    udp.push(Datagrams { socket, local });
                }
                Transport::Tls | Transport::Wss if !can_tls => {
                    bail!(
                        "sip.listen has {}:{address}, which needs sip.tls.certificate and private_key: name PEM files",
                        transport.name().to_lowercase()
                    );
                }
                Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => {
                    let listener = stream_listener(*address).with_context(taken)?;
                    streams.push((*transport, listener.local_addr().with_context(taken)?));
                    scope.task_until_stopped("sip-accept", accept(*transport, listener, inbound.clone()));
                }
            }
        }
        Ok(Listening { udp, streams, reserved: [None, None], local_of: HashMap::new() })
    }

    pub fn bound(&self) -> Vec<(Transport, SocketAddr)> {
        let udp = self.udp.iter().map(|listener| (Transport::Udp, listener.local));
        udp.chain(self.streams.iter().copied()).collect()
    }

    pub fn datagram_local(&self, index: usize) -> SocketAddr {
        self.udp[index].local
    }

    /// The socket that sends from this port, or any of the family.
    pub fn datagram_socket(&self, port: u16, is_ipv4: bool) -> Option<&UdpSocket> {
        let family = |listener: &&Datagrams| listener.local.is_ipv4() == is_ipv4;
        let same = self.udp.iter().filter(family).find(|listener| listener.local.port() == port);
        same.or_else(|| self.udp.iter().find(family)).map(|listener| &*listener.socket)
    }

    /// Our own address as `remote` sees it, with the port where it finds us. `None`: we have no socket for it, or no
    /// route leads there.
    pub fn local_towards(&mut self, transport: Transport, remote: SocketAddr) -> Option<SocketAddr> {
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        let listening = self.bound().into_iter().find(|(known, local)| *known == transport && fits(local));
        let local = match listening {
            Some((_, local)) => local,
            None if transport == Transport::Udp => return None,
            None => self.reserve(remote.is_ipv4())?,
        };
        Some(SocketAddr::new(self.concrete(local.ip(), remote.ip())?, local.port()))
    }

    /// Where a stream to `remote` is opened from, when it matters.
    pub fn origin(&mut self, transport: Transport, remote: SocketAddr) -> Option<SocketAddr> {
        let fits = |local: &SocketAddr| local.is_ipv4() == remote.is_ipv4();
        if self.streams.iter().any(|(known, local)| *known == transport && fits(local)) {
            return None;
        }
        self.reserve(remote.is_ipv4())
    }

    /// An address and port that are ours and on which nobody listens.
    fn reserve(&mut self, is_ipv4: bool) -> Option<SocketAddr> {
        let reserved = &mut self.reserved[usize::from(is_ipv4)];
        if reserved.is_none() {
            // The family's own address of the user, if there is one: `eyeline call --bind`.
            let own = self.udp.iter().map(|listener| listener.local.ip());
            let own = own.chain(self.streams.iter().map(|(_, local)| local.ip()));
            let ip = own.filter(|ip| ip.is_ipv4() == is_ipv4).find(|ip| !ip.is_unspecified());
            let ip = ip.unwrap_or(any(is_ipv4));
            let socket = if is_ipv4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
            socket.set_reuseaddr(true).ok()?;
            socket.bind(SocketAddr::new(ip, 0)).ok()?;
            *reserved = Some(socket);
        }
        reserved.as_ref()?.local_addr().ok()
    }

    /// A wildcard listener's concrete address towards one peer, by the routing table.
    pub fn concrete(&mut self, local: IpAddr, remote: IpAddr) -> Option<IpAddr> {
        if !local.is_unspecified() {
            return Some(local);
        }
        if let Some(known) = self.local_of.get(&remote) {
            return Some(*known);
        }
        let probed = std::net::UdpSocket::bind((any(remote.is_ipv4()), 0))
            .and_then(|socket| socket.connect((remote, 9)).and_then(|()| socket.local_addr()));
        let found = probed.ok()?.ip();
        if self.local_of.len() >= LOCAL_ADDRESSES {
            self.local_of.clear();
        }
        self.local_of.insert(remote, found);
        Some(found)
    }
}

fn any(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn stream_listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(BACKLOG).unwrap_or(i32::MAX))?;
    TcpListener::from_std(socket.into())
}

async fn accept(transport: Transport, listener: TcpListener, inbound: Sender<Inbound, Wait>) -> Outcome {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else { continue };
                // Signalling messages are small and answered at once.
                let _ = stream.set_nodelay(true);
                if !inbound.send(Inbound::Accepted { transport, stream, local, remote }).await {
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
