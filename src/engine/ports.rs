//! Driver. RTP ports: even RTP, the next odd one RTCP, bound as a pair, and a pause before a pair is used again.
//!
//! A port that still receives an old call's packets must not become a new call's (RTP of one call in another).

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// After a call its ports rest this long.
const QUARANTINE: Duration = Duration::from_secs(2);

/// RTP and RTCP of one stream.
#[derive(Debug)]
pub struct Pair {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
    pub port: u16,
}

/// `[media] rtp_ports`.
#[derive(Debug)]
pub struct PortRange {
    low: u16,
    high: u16,
    next: u16,
    used: HashSet<u16>,
    resting: VecDeque<(Instant, u16)>,
}

impl PortRange {
    /// Ports from `low` to `high`, both included. `start` (from a seed) is where the search begins, so that
    /// two programs on one box rarely meet.
    pub fn new(low: u16, high: u16, start: u16) -> Self {
        let low = low + low % 2;
        let pairs = (high.saturating_sub(low) / 2).max(1);
        PortRange {
            low,
            high,
            next: low + 2 * (start % pairs),
            used: HashSet::new(),
            resting: VecDeque::new(),
        }
    }

    /// Binds a free pair on `address`.
    pub fn bind(&mut self, now: Instant, address: IpAddr) -> Result<Pair, String> {
        self.wake(now);
        let pairs = usize::from(self.high.saturating_sub(self.low)).div_ceil(2);
        for _ in 0..pairs {
            let port = self.next;
            self.next = if port + 3 <= self.high { port + 2 } else { self.low };
            if self.used.contains(&port) {
                continue;
            }
            match bind_pair(address, port) {
                Ok(pair) => {
                    self.used.insert(port);
                    return Ok(pair);
                }
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(format!("cannot bind RTP port {port} on {address}: {error}")),
            }
        }
        Err(format!(
            "every RTP port from {} to {} is in use: widen media.rtp_ports or lower sip.max_calls",
            self.low, self.high
        ))
    }

    /// Pairs that nobody has; what other programs on the box hold is found when it is bound.
    pub fn free(&self) -> usize {
        let pairs = usize::from(self.high.saturating_sub(self.low)).div_ceil(2);
        pairs.saturating_sub(self.used.len())
    }

    /// The call that had `port` is over.
    pub fn release(&mut self, now: Instant, port: u16) {
        self.resting.push_back((now + QUARANTINE, port));
    }

    fn wake(&mut self, now: Instant) {
        while let Some((until, port)) = self.resting.front().copied() {
            if until > now {
                break;
            }
            self.resting.pop_front();
            self.used.remove(&port);
        }
    }
}

fn bind_pair(address: IpAddr, port: u16) -> std::io::Result<Pair> {
    let rtp = bind(address, port)?;
    let rtcp = bind(address, port + 1)?;
    Ok(Pair { rtp, rtcp, port })
}

fn bind(address: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    let socket = match UdpSocket::bind(SocketAddr::new(address, port)) {
        // An advertised address need not be one of ours (NAT): listen on all.
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            let any: IpAddr = if address.is_ipv4() {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            };
            UdpSocket::bind(SocketAddr::new(any, port))?
        }
        other => other?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_released_pair_rests_before_it_is_used_again() {
        let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut range = PortRange::new(39_700, 39_703, 0);
        let now = Instant::now();
        let first = range.bind(now, home).expect("a free pair");
        let second = range.bind(now, home).expect("another");
        assert_ne!(first.port, second.port);
        assert!(range.bind(now, home).is_err());
        assert_eq!(range.free(), 0);
        let port = first.port;
        drop(first);
        range.release(now, port);
        assert!(range.bind(now + Duration::from_secs(1), home).is_err());
        assert_eq!(range.bind(now + Duration::from_secs(3), home).expect("rested").port, port);
    }
}
