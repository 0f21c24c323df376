//! Where media may go: an offer must not turn this box into a cannon, nor reach into networks its peer cannot.
//!
//! Allowed is the source of the signalling, and what lies in a trusted network; never multicast, broadcast or an
//! unspecified address, and loopback only for a peer that signals from it. An address that is not allowed is left
//! out: nothing is sent until media has come, as for a peer behind a translator.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::engine::plan::{Route, Streams};

/// The rule for one call.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Where the peer signals from.
    pub signalling: Option<IpAddr>,
    pub networks: Vec<IpNet>,
}

impl Reach {
    /// Takes out the addresses that nothing may be sent to.
    pub fn limit(&self, streams: &mut Streams) {
        let audio = streams.audio.as_mut().map(|audio| &mut audio.route);
        let video = streams.video.as_mut().map(|video| &mut video.route);
        let slides = streams.slides.as_mut().map(|slides| &mut slides.route);
        for route in audio.into_iter().chain(video).chain(slides) {
            self.limit_route(route);
        }
    }

    fn limit_route(&self, route: &mut Route) {
        for remote in [&mut route.remote, &mut route.remote_rtcp] {
            if remote.is_some_and(|address| !self.allows(address)) {
                tracing::debug!(address = ?remote, "media may not go there: not the signalling's source, not trusted");
                *remote = None;
            }
        }
    }

    fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if ip.is_multicast() || ip.is_unspecified() || broadcast || address.port() == 0 {
            return false;
        }
        let source = self.signalling.map(|source| source.to_canonical());
        if ip.is_loopback() {
            return source.is_some_and(|source| source.is_loopback());
        }
        source == Some(ip) || self.networks.iter().any(|network| network.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_goes_to_the_signaller_and_to_trusted_networks_only() {
        let reach = |signalling: &str| Reach {
            signalling: signalling.parse().ok(),
            networks: vec!["10.0.0.0/8".parse().expect("a network"), "127.0.0.0/8".parse().expect("another")],
        };
        for (signalling, address, expected) in [
            ("192.0.2.1", "192.0.2.1:4000", true),
            ("192.0.2.1", "10.9.9.9:4000", true),
            ("192.0.2.1", "198.51.100.1:4000", false),
            ("192.0.2.1", "127.0.0.1:4000", false),
            ("127.0.0.1", "127.0.0.1:4000", true),
            ("10.0.0.1", "239.1.1.1:4000", false),
            ("10.0.0.1", "255.255.255.255:4000", false),
            ("10.0.0.1", "10.0.0.1:0", false),
            ("::ffff:192.0.2.1", "192.0.2.1:4000", true),
        ] {
            let address: SocketAddr = address.parse().expect("an address");
            assert_eq!(reach(signalling).allows(address), expected, "{address} for {signalling}");
        }
    }
}
