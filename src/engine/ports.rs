//! Driver. RTP ports: even RTP, the next odd one RTCP, bound as a pair, and a pause before a pair is used again.
//!
//! A port that still receives an old call's packets must not become a new call's (RTP of one call in another). So the
//! sockets stay open after the call, and the pause lasts until nothing has come to them for a while.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::network::sockets;

/// After a call, and after the last packet that came to them, its ports rest this long.
const QUARANTINE: Duration = Duration::from_secs(2);
/// And no longer than this, whoever goes on sending: the source lock of the next call knows a stranger.
const QUARANTINE_MAX: Duration = Duration::from_secs(30);
/// Pairs looked at in one go, each costs system calls: for a new call, and when somebody counts.
const WAKE_FEW: usize = 16;
const WAKE_MANY: usize = 512;

/// RTP and RTCP of one stream.
#[derive(Clone, Debug)]
pub struct Pair {
    pub rtp: Arc<UdpSocket>,
    pub rtcp: Arc<UdpSocket>,
    pub port: u16,
}

/// A pair whose call is over.
#[derive(Debug)]
struct Resting {
    pair: Pair,
    since: Instant,
    until: Instant,
}

/// `[media] rtp_ports`.
#[derive(Debug)]
pub struct PortRange {
    low: u16,
    high: u16,
    next: u16,
    /// Of running calls, whose sockets are their streams' too; `None` while they rest.
    used: HashMap<u16, Option<Pair>>,
    /// Nearly in the order in which they may be used again; who has to wait longer goes to the end.
    resting: VecDeque<Resting>,
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
            used: HashMap::new(),
            resting: VecDeque::new(),
        }
    }

    /// Binds a free pair on `address`.
    pub fn bind(&mut self, now: Instant, address: IpAddr) -> Result<Pair, String> {
        self.wake(now, WAKE_FEW);
        for _ in 0..self.pairs() {
            let port = self.next;
            self.next = if port + 3 <= self.high { port + 2 } else { self.low };
            if self.used.contains_key(&port) {
                continue;
            }
            match bind_pair(address, port) {
                Ok(pair) => {
                    self.used.insert(port, Some(pair.clone()));
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

    fn pairs(&self) -> usize {
        usize::from(self.high.saturating_sub(self.low)).div_ceil(2)
    }

    /// Pairs that nobody has; what other programs on the box hold is found when it is bound.
    pub fn free(&mut self, now: Instant) -> usize {
        self.wake(now, WAKE_MANY);
        self.pairs().saturating_sub(self.used.len())
    }

    /// The call that had `port` is over.
    pub fn release(&mut self, now: Instant, port: u16) {
        if let Some(pair) = self.used.get_mut(&port).and_then(Option::take) {
            self.resting.push_back(Resting { pair, since: now, until: now + QUARANTINE });
        }
    }

    /// Closes the pairs that have rested, and lets those rest on that packets still come to.
    fn wake(&mut self, now: Instant, most: usize) {
        for _ in 0..most {
            if self.resting.front().is_none_or(|resting| resting.until > now) {
                return;
            }
            let Some(resting) = self.resting.pop_front() else { return };
            let Pair { rtp, rtcp, port } = &resting.pair;
            let age = [rtp, rtcp].into_iter().filter_map(|socket| sockets::drain(socket)).min();
            let longer = age.and_then(|age| QUARANTINE.checked_sub(age)).unwrap_or_default();
            let until = (now + longer).min(resting.since + QUARANTINE_MAX);
            if until > now {
                self.resting.push_back(Resting { until, ..resting });
            } else {
                self.used.remove(port);
            }
        }
    }
}

fn bind_pair(address: IpAddr, port: u16) -> std::io::Result<Pair> {
    let rtp = bind(address, port)?;
    let rtcp = bind(address, port + 1)?;
    Ok(Pair { rtp: Arc::new(rtp), rtcp: Arc::new(rtcp), port })
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
    sockets::note_arrivals(&socket);
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_released_pair_rests_before_it_is_used_again() {
        let mut range = PortRange::new(39_700, 39_703, 0);
        let now = Instant::now();
        let first = range.bind(now, HOME).expect("a free pair");
        let second = range.bind(now, HOME).expect("another");
        assert_ne!(first.port, second.port);
        assert!(range.bind(now, HOME).is_err());
        assert_eq!(range.free(now), 0);
        let port = first.port;
        drop(first);
        range.release(now, port);
        assert!(range.bind(now + Duration::from_secs(1), HOME).is_err());
        assert_eq!(range.free(now + Duration::from_secs(3)), 1);
        assert_eq!(range.bind(now + Duration::from_secs(3), HOME).expect("rested").port, port);
    }

    #[test]
    fn a_pair_rests_on_while_packets_come_and_not_for_ever() {
        let mut range = PortRange::new(39_704, 39_705, 0);
        let start = Instant::now();
        let pair = range.bind(start, HOME).expect("a free pair");
        let (port, sniper) = (pair.port, UdpSocket::bind((HOME, 0)).expect("a port"));
        drop(pair);
        range.release(start, port);
        // Time is told, packets come now: each look finds one that came just before it, on either port.
        let mut looks = 0;
        let freed = loop {
            let later = start + QUARANTINE * looks;
            sniper.send_to(b"late", (HOME, port + (looks % 2) as u16)).expect("it is still bound");
            if range.free(later) == 1 {
                break later;
            }
            looks += 1;
        };
        assert_eq!(freed.duration_since(start), QUARANTINE_MAX);
    }
}
