//! Driver. The datagram sockets of SIP.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::Datagram;
use crate::app::door::Door;
use crate::base::queue::{Fifo, Offered, Sender};
use crate::base::stop::Outcome;
use crate::useragent::admission::screen::Verdict;

const LARGEST_DATAGRAM: usize = 65_535;

pub(super) fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
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

/// Where datagrams go: strangers wait behind the others and cannot push them out.
#[derive(Clone)]
pub(super) struct Inlets {
    pub door: Door,
    pub trusted: Sender<Datagram, Fifo>,
    pub strangers: Sender<Datagram, Fifo>,
}

pub(super) async fn read(socket: Arc<UdpSocket>, index: usize, inlets: Inlets) -> Outcome {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        // Errors here are ICMP echoes of earlier sends; they say nothing about the socket.
        if let Ok((length, remote)) = socket.recv_from(&mut buffer).await {
            let inlet = match inlets.door.look(remote.ip(), &buffer[..length]) {
                Verdict::Trusted => &inlets.trusted,
                Verdict::Stranger => &inlets.strangers,
                Verdict::Dropped => continue,
            };
            let bytes = buffer[..length].to_vec();
            if inlet.offer(Datagram { socket: index, remote, bytes }) == Offered::Closed {
                return Outcome::Done;
            }
        }
    }
}
