//! The terms of media with one peer: what its `[[sip.peer]]` says, else what holds for all. Pure.
//!
//! What the terms do to an offer is `call::negotiate`'s.

use std::net::IpAddr;

use super::peers::{Peer, Peers};
use crate::call::negotiate::{KeyOffer, MediaSettings, SrtpPolicy};
use crate::sip::Transport;

/// What one peer or account says; `None`: what holds for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    pub srtp: Option<SrtpPolicy>,
    pub key_offer: Option<KeyOffer>,
    /// ICE that is offered is answered.
    pub ice: bool,
}

impl Terms {
    fn of(peer: &Peer) -> Self {
        Terms { srtp: peer.srtp, key_offer: peer.key_offer, ice: peer.ice }
    }

    /// They stand before what holds for everybody.
    fn over(self, media: MediaSettings) -> MediaSettings {
        MediaSettings {
            srtp: self.srtp.unwrap_or(media.srtp),
            key_offer: self.key_offer.unwrap_or(media.key_offer),
            ice: self.ice || media.ice,
            ..media
        }
    }
}

/// The terms for whoever signals from `source`, over a connection on which `tls_name` was proven. `account`: those of
/// the account that is registered there.
pub(super) fn incoming(
    peers: &Peers,
    media: MediaSettings,
    (source, tls_name): (IpAddr, Option<&str>),
    account: Option<Terms>,
) -> MediaSettings {
    match peers.of(source, tls_name).map(Terms::of).or(account) {
        Some(terms) => terms.over(media),
        None => media,
    }
}

/// The terms for a call of ours, over an account or not. Whoever is reached over a WebSocket is a browser, which takes
/// nothing but DTLS.
pub(super) fn outgoing(
    peers: &Peers,
    media: MediaSettings,
    (destination, name): (IpAddr, Option<&str>),
    transport: Transport,
    account: Option<Terms>,
) -> MediaSettings {
    let browser = media.browser || matches!(transport, Transport::Ws | Transport::Wss);
    // The name we verify on the connection is the one it is told by.
    let media = incoming(peers, MediaSettings { browser, ..media }, (destination, name), None);
    account.unwrap_or_default().over(media)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::Direction;
    use crate::media::frame::Size;

    fn media() -> MediaSettings {
        MediaSettings {
            audio_codecs: Vec::new(),
            audio_direction: Direction::SendReceive,
            video: true,
            video_codecs: Vec::new(),
            vp8_encoder: false,
            video_direction: Direction::SendReceive,
            max_size: Size::new(640, 360),
            fps: 15,
            max_kbps: 500,
            slides: false,
            srtp: SrtpPolicy::Optional,
            key_offer: KeyOffer::Sdes,
            dtls_fingerprint: None,
            ice: false,
            browser: false,
        }
    }

    fn peers() -> Peers {
        let required = Some(SrtpPolicy::Required);
        let trunk = Peer {
            name: "trunk".to_owned(),
            source: vec!["192.0.2.0/24".parse().expect("a network")],
            srtp: required,
            ..Peer::default()
        };
        let proven = Peer {
            name: "proven".to_owned(),
            tls_name: Some("pbx.example.com".to_owned()),
            srtp: required,
            ice: true,
            ..Peer::default()
        };
        Peers::new(vec![trunk, proven])
    }

    #[test]
    fn a_peer_s_own_policy_comes_before_the_appliance_s() {
        let of = |source: &str, shown| {
            let source = source.parse().expect("an address");
            let terms = incoming(&peers(), media(), (source, shown), None);
            (terms.srtp, terms.ice)
        };
        assert_eq!(of("192.0.2.9", None), (SrtpPolicy::Required, false));
        assert_eq!(of("203.0.113.1", Some("pbx.example.com")), (SrtpPolicy::Required, true));
        assert_eq!(of("203.0.113.1", None), (SrtpPolicy::Optional, false));
    }

    #[test]
    fn a_browser_is_known_by_its_transport() {
        let of = |transport| outgoing(&peers(), media(), ([192, 0, 2, 9].into(), None), transport, None);
        assert!(of(Transport::Wss).browser && !of(Transport::Tls).browser);
        assert_eq!(of(Transport::Udp).srtp, SrtpPolicy::Required);
    }

    #[test]
    fn an_account_s_terms_stand_before_its_peer_s_when_we_call_and_behind_them_when_it_does() {
        let account = Terms { srtp: Some(SrtpPolicy::Off), key_offer: Some(KeyOffer::Dtls), ice: false };
        let peer = ([192, 0, 2, 9].into(), None);
        let ours = outgoing(&peers(), media(), peer, Transport::Udp, Some(account));
        assert_eq!((ours.srtp, ours.key_offer), (SrtpPolicy::Off, KeyOffer::Dtls));
        let theirs = incoming(&peers(), media(), peer, Some(account));
        assert_eq!((theirs.srtp, theirs.key_offer), (SrtpPolicy::Required, KeyOffer::Sdes));
        let nobody_else = incoming(&peers(), media(), ([203, 0, 113, 1].into(), None), Some(account));
        assert_eq!(nobody_else.srtp, SrtpPolicy::Off);
    }
}
