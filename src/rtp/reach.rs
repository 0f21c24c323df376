//! Where one call's media may go, and who may become its source: an offer must not turn this box into a cannon, nor
//! reach into networks its peer cannot, and a stranger must not get a call by being patient.
//!
//! Nothing ever goes to multicast, broadcast or an unspecified address, and to loopback only for a peer that signals
//! from it. Who is locked onto within these limits is decided in [`super::source`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

/// The rule for one call. The default lets media go nowhere.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Where the peer signals from.
    pub signalling: Option<IpAddr>,
    /// Networks the peer's description may name addresses of (`sip.trusted`).
    pub trusted: Arc<[IpNet]>,
    /// Networks that belong to the peer (`networks` of its `[[sip.peer]]`): its media may also come from there unnamed.
    pub own: Arc<[IpNet]>,
}

impl Reach {
    /// Whether the peer may name this address for its media.
    pub fn allows(&self, address: SocketAddr) -> bool {
        address.port() != 0
            && self.permits(address.ip(), |ip| holds(&self.trusted, ip) || holds(&self.own, ip))
    }

    /// Whether media that nobody named this address for may come from it: from where the peer signals, and from
    /// networks that are the peer's own. Any other host of a trusted network is a stranger to this call.
    pub fn learns(&self, source: IpAddr) -> bool {
        self.permits(source, |ip| holds(&self.own, ip))
    }

    /// Whether this is the host the peer signals from.
    pub fn signals_from(&self, ip: IpAddr) -> bool {
        self.signalling.is_some_and(|signalling| signalling.to_canonical() == ip.to_canonical())
    }

    fn permits(&self, ip: IpAddr, inside: impl Fn(IpAddr) -> bool) -> bool {
        let ip = ip.to_canonical();
        is_one_host(ip)
            && (!ip.is_loopback() || self.signalling.is_some_and(|from| from.to_canonical().is_loopback()))
            && (self.signals_from(ip) || inside(ip))
    }
}

/// Not a group, not everybody, not nobody.
pub fn is_one_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !ip.is_multicast() && !ip.is_unspecified() && !broadcast
}

fn holds(networks: &[IpNet], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(signalling: &str) -> Reach {
        let networks = |list: &[&str]| {
            list.iter().map(|text| text.parse().expect("a network")).collect::<Arc<[IpNet]>>()
        };
        Reach {
            signalling: signalling.parse().ok(),
            trusted: networks(&["10.0.0.0/8", "127.0.0.0/8"]),
            own: networks(&["203.0.113.0/24"]),
        }
    }

    #[test]
    fn media_goes_to_the_signaller_and_to_trusted_networks_only() {
        for (signalling, address, expected) in [
            ("192.0.2.1", "192.0.2.1:4000", true),
            ("192.0.2.1", "10.9.9.9:4000", true),
            ("192.0.2.1", "203.0.113.9:4000", true),
            ("192.0.2.1", "198.51.100.1:4000", false),
            ("192.0.2.1", "127.0.0.1:4000", false),
            ("127.0.0.1", "127.0.0.1:4000", true),
            ("127.0.0.1", "127.0.0.9:4000", true),
            ("10.0.0.1", "239.1.1.1:4000", false),
            ("10.0.0.1", "255.255.255.255:4000", false),
            ("10.0.0.1", "10.0.0.1:0", false),
            ("::ffff:192.0.2.1", "192.0.2.1:4000", true),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(reach(signalling).allows(address), expected, "{address} for {signalling}");
        }
    }

    #[test]
    fn a_source_nobody_named_is_the_signaller_or_the_peers_own() {
        for (signalling, source, expected) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "203.0.113.77", true),
            ("192.0.2.1", "10.9.9.9", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.9", false),
            ("239.1.1.1", "239.1.1.1", false),
            ("", "10.0.0.1", false),
        ] {
            let source: IpAddr = source.parse().expect("an address");
            assert_eq!(reach(signalling).learns(source), expected, "{source} for {signalling}");
        }
    }
}
