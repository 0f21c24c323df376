//! Driver. Sends one datagram at once on a socket that a runtime also reads from.
//!
//! The runtime's own non-blocking send asks its readiness table first, and a fresh socket is not in it yet: the first
//! INVITE and the first RTP packets would be lost. The kernel knows better.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use rustix::net::{SendFlags, sendto};

/// Never blocks. An error is a lost datagram; the protocols above repeat or conceal.
pub fn send(socket: impl AsFd, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
    sendto(socket, bytes, SendFlags::DONTWAIT, &to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fresh_socket_sends_its_first_datagram() {
        let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let sender = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let to = receiver.local_addr().expect("bound");
        send(&sender, b"first", to).expect("sent at once");
        let mut buffer = [0; 16];
        let (length, _) = receiver.recv_from(&mut buffer).await.expect("it arrives");
        assert_eq!(&buffer[..length], b"first");
    }
}
