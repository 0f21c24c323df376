//! Who may call, and how much of it: decided from the source address before anything is parsed or allocated
//! ([`Admission`], [`screen`]), and from what the box can carry when a call arrives ([`intake`], [`capacity`]).
//!
//! Pure. Reading datagrams and the load of the box is the driver's.

pub mod bucket;
pub mod capacity;
pub mod intake;
pub mod scanner;
pub mod screen;

use std::net::IpAddr;

use ipnet::IpNet;

use super::peers::Peers;
use crate::sip::Access;

/// `[sip] trusted` and the sources of `[[sip.peer]]`.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    trusted: Vec<IpNet>,
    peers: Peers,
}

impl Admission {
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Admission { trusted, peers: Peers::default() }
    }

    pub fn with_peers(self, peers: Peers) -> Self {
        Admission { peers, ..self }
    }

    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    pub fn networks(&self) -> &[IpNet] {
        &self.trusted
    }

    /// An IPv4 address that arrived on an IPv6 socket counts as IPv4.
    pub fn access(&self, source: IpAddr) -> Access {
        let source = source.to_canonical();
        if self.trusted.iter().any(|network| network.contains(&source)) || self.peers.is_source(source) {
            Access::Trusted
        } else {
            Access::Stranger
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::Peer;
    use super::*;

    #[test]
    fn mapped_addresses_count_as_what_they_are_and_others_are_strangers() {
        let admission = Admission::new(vec!["10.0.0.0/8".parse().expect("a network")]);
        let access = |text: &str| admission.access(text.parse().expect("an address"));
        assert_eq!(access("10.1.2.3"), Access::Trusted);
        assert_eq!(access("::ffff:10.1.2.3"), Access::Trusted);
        assert_eq!(access("192.0.2.1"), Access::Stranger);
    }

    #[test]
    fn the_source_of_a_peer_is_trusted() {
        let source = vec!["192.0.2.0/24".parse().expect("a network")];
        let peer = Peer { name: "office".to_owned(), source, ..Peer::default() };
        let admission = Admission::new(Vec::new()).with_peers(Peers::new(vec![peer]));
        assert_eq!(admission.access("192.0.2.1".parse().expect("an address")), Access::Trusted);
        assert_eq!(admission.access("192.0.3.1".parse().expect("an address")), Access::Stranger);
    }
}
