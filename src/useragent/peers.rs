//! Known peers: PBXs, SBCs and trunks with a policy of their own (`[[sip.peer]]`), told by where they signal from
//! or by the name in the certificate they have shown.
//!
//! Pure. The certificate was proven when its connection was opened; here its name is only compared.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::call::negotiate::{KeyOffer, SrtpPolicy};
use crate::sip::Uri;
use crate::sip::digest::Credentials;

/// One `[[sip.peer]]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peer {
    pub name: String,
    /// Where it signals from.
    pub source: Vec<IpNet>,
    /// The name its certificate must carry; lower case.
    pub tls_name: Option<String>,
    /// Where its media may come from and go to, besides where it signals from.
    pub networks: Vec<IpNet>,
    /// Where it is dialled.
    pub uri: Option<Uri>,
    /// How its challenges are answered.
    pub credentials: Option<Credentials>,
    /// Its calls at one time; 0: no limit of its own.
    pub max_calls: usize,
    /// Whether its P-Asserted-Identity is believed.
    pub identity: bool,
    /// Whether ICE that it offers is answered.
    pub ice: bool,
    /// `None`: what holds for everybody.
    pub srtp: Option<SrtpPolicy>,
    pub key_offer: Option<KeyOffer>,
}

/// All of them, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    peers: Vec<Peer>,
}

impl Peers {
    pub fn new(peers: Vec<Peer>) -> Self {
        Peers { peers }
    }

    /// Whose signalling comes from `source`, over a connection on which `tls_name` was proven. One told by its
    /// certificate wins over one told by its address, then the most specific network, then the first.
    pub fn of(&self, source: IpAddr, tls_name: Option<&str>) -> Option<&Peer> {
        let source = source.to_canonical();
        let mut best: Option<(&Peer, (bool, u8))> = None;
        for peer in &self.peers {
            if let Some(rank) = peer.rank(source, tls_name)
                && best.is_none_or(|(_, known)| rank > known)
            {
                best = Some((peer, rank));
            }
        }
        best.map(|(peer, _)| peer)
    }

    pub fn named(&self, name: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    /// Whether a peer signals from here that needs no certificate for it.
    pub fn is_source(&self, source: IpAddr) -> bool {
        self.of(source, None).is_some()
    }
}

impl Peer {
    /// How well it fits; `None`: it is not this peer. A peer with both a network and a certificate name needs both.
    fn rank(&self, source: IpAddr, tls_name: Option<&str>) -> Option<(bool, u8)> {
        let network =
            self.source.iter().filter(|network| network.contains(&source)).max_by_key(|n| n.prefix_len());
        if !self.source.is_empty() && network.is_none() {
            return None;
        }
        let proven = match &self.tls_name {
            Some(wanted) => {
                if !tls_name.is_some_and(|shown| shown.eq_ignore_ascii_case(wanted)) {
                    return None;
                }
                true
            }
            None if self.source.is_empty() => return None,
            None => false,
        };
        Some((proven, network.map_or(0, IpNet::prefix_len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, source: &[&str], tls_name: Option<&str>) -> Peer {
        let source = source.iter().map(|network| network.parse().expect("a network")).collect();
        Peer { name: name.to_owned(), source, tls_name: tls_name.map(str::to_owned), ..Peer::default() }
    }

    #[test]
    fn a_peer_is_told_by_its_network_or_by_its_certificate() {
        let peers = Peers::new(vec![
            peer("wide", &["192.0.2.0/24", "2001:db8::/32"], None),
            peer("narrow", &["192.0.2.128/25"], None),
            peer("same", &["192.0.2.128/25"], None),
            peer("proven", &[], Some("pbx.example.com")),
            peer("both", &["198.51.100.0/24"], Some("sbc.example.com")),
            peer("only dialled", &[], None),
        ]);
        for (source, shown, expected) in [
            ("192.0.2.1", None, Some("wide")),
            ("::ffff:192.0.2.1", None, Some("wide")),
            ("2001:db8::7", None, Some("wide")),
            ("192.0.2.200", None, Some("narrow")),
            ("192.0.2.200", Some("PBX.example.com"), Some("proven")),
            ("203.0.113.9", Some("pbx.example.com"), Some("proven")),
            ("203.0.113.9", Some("other.example.com"), None),
            ("203.0.113.9", None, None),
            ("198.51.100.7", None, None),
            ("198.51.100.7", Some("sbc.example.com"), Some("both")),
            ("203.0.113.9", Some("sbc.example.com"), None),
        ] {
            let found = peers.of(source.parse().expect("an address"), shown);
            assert_eq!(found.map(|peer| peer.name.as_str()), expected, "{source} {shown:?}");
        }
        assert!(peers.named("only dialled").is_some() && peers.named("nobody").is_none());
        assert!(!peers.is_source("198.51.100.7".parse().expect("an address")));
    }
}
