//! The terms of media with one peer: what its `[[sip.peer]]` says, else what holds for all. Pure.
//!
//! What the terms do to an offer is `call::negotiate`'s.

use std::net::IpAddr;

use super::peers::Peers;
use crate::call::negotiate::MediaSettings;
use crate::sip::Transport;

/// The terms for whoever signals from `source`, over a connection on which `tls_name` was proven.
pub(super) fn incoming(
    peers: &Peers,
    media: MediaSettings,
    source: IpAddr,
    tls_name: Option<&str>,
) -> MediaSettings {
    let Some(peer) = peers.of(source, tls_name) else { return media };
    MediaSettings { srtp: peer.srtp.unwrap_or(media.srtp), ice: peer.ice || media.ice, ..media }
}

/// The terms for a call of ours. Whoever is reached over a WebSocket is a browser, which takes nothing but DTLS.
pub(super) fn outgoing(
    peers: &Peers,
    media: MediaSettings,
    destination: IpAddr,
    transport: Transport,
    name: Option<&str>,
) -> MediaSettings {
    let browser = media.browser || matches!(transport, Transport::Ws | Transport::Wss);
    // The name we verify on the connection is the one it is told by.
    MediaSettings { browser, ..incoming(peers, media, destination, name) }
}

#[cfg(test)]
mod tests {
    use super::super::peers::Peer;
    use super::*;
    use crate::call::negotiate::SrtpPolicy;
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
            let terms = incoming(&peers(), media(), source.parse().expect("an address"), shown);
            (terms.srtp, terms.ice)
        };
        assert_eq!(of("192.0.2.9", None), (SrtpPolicy::Required, false));
        assert_eq!(of("203.0.113.1", Some("pbx.example.com")), (SrtpPolicy::Required, true));
        assert_eq!(of("203.0.113.1", None), (SrtpPolicy::Optional, false));
    }

    #[test]
    fn a_browser_is_known_by_its_transport() {
        let of = |transport| outgoing(&peers(), media(), [192, 0, 2, 9].into(), transport, None);
        assert!(of(Transport::Wss).browser && !of(Transport::Tls).browser);
        assert_eq!(of(Transport::Udp).srtp, SrtpPolicy::Required);
    }
}
