//! What a peer connection is asked for, and how the addresses of STUN and TURN servers are written (RFC 7064, RFC 7065).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::media::access_unit::VideoCodec;

/// Servers taken of those a provider names; each costs sockets and time.
pub const SERVERS_MAX: usize = 4;

/// Which way a medium goes, seen from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Not offered.
    #[default]
    None,
    Receive,
    Send,
    Both,
}

/// What is wished of pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VideoWish {
    pub way: Way,
    /// Most wanted first; H.264 and VP8 are known here, others are left out.
    pub codecs: Vec<VideoCodec>,
}

/// A server as providers name it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IceServer {
    pub urls: Vec<String>,
    pub username: String,
    pub credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServer({:?})", self.urls)
    }
}

/// One peer connection.
#[derive(Clone, Default)]
pub struct PeerSettings {
    /// The host, by name or address, whose route says which of our addresses is used: the signalling server.
    pub toward: String,
    pub ice_servers: Vec<IceServer>,
    /// Nothing goes but through a TURN server.
    pub relay_only: bool,
    /// What our first offer holds. An answer takes what the offer holds, of the codecs named here.
    pub sound: Way,
    pub video: VideoWish,
    /// How TURN over TLS trusts; `None`: such servers are left out.
    pub tls: Option<Arc<ClientConfig>>,
    /// Not connected for so long, at first or again: failed. Zero: 15 s.
    pub connect_within: Duration,
}

impl fmt::Debug for PeerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSettings")
            .field("toward", &self.toward)
            .field("ice_servers", &self.ice_servers)
            .field("sound", &self.sound)
            .field("video", &self.video)
            .finish_non_exhaustive()
    }
}

impl PeerSettings {
    pub fn patience(&self) -> Duration {
        if self.connect_within.is_zero() { Duration::from_secs(15) } else { self.connect_within }
    }

    /// The servers of use, in the order in which they are tried, at most [`SERVERS_MAX`].
    pub fn servers(&self) -> Vec<Server> {
        let all = self.ice_servers.iter().flat_map(|named| {
            let keys = (named.username.clone(), named.credential.clone());
            named.urls.iter().filter_map(move |url| Server::parse(url, &keys.0, &keys.1))
        });
        let mut all: Vec<Server> = all.filter(|server| !self.relay_only || server.relays()).collect();
        all.sort_by_key(|server| server.reach);
        all.truncate(SERVERS_MAX);
        all
    }
}

/// How a server is reached; the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// STUN alone: tells the address we are seen at.
    Stun,
    TurnUdp,
    TurnTcp,
    TurnTls,
}

/// One server.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    pub reach: Reach,
    pub host: String,
    pub port: u16,
    pub username: String,
    pub credential: String,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}:{}", self.reach, self.host, self.port)
    }
}

impl Server {
    /// `stun:host[:port]`, `turn:host[:port][?transport=udp|tcp]`, `turns:…`. `None`: nothing we can use (TURN without a
    /// name and a key, TURN over DTLS, STUN over TCP).
    pub fn parse(url: &str, username: &str, credential: &str) -> Option<Server> {
        let (scheme, rest) = url.split_once(':')?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let transport = query.split('&').find_map(|pair| pair.strip_prefix("transport="));
        let reach = match (scheme.to_ascii_lowercase().as_str(), transport) {
            ("stun", None | Some("udp")) => Reach::Stun,
            ("turn", None | Some("udp")) => Reach::TurnUdp,
            ("turn", Some("tcp")) => Reach::TurnTcp,
            ("turns", None | Some("tcp")) => Reach::TurnTls,
            _ => return None,
        };
        if reach != Reach::Stun && (username.is_empty() || credential.is_empty()) {
            return None;
        }
        let usual = if reach == Reach::TurnTls { 5349 } else { 3478 };
        let (host, port) = match place.strip_prefix('[') {
            Some(v6) => {
                let (host, rest) = v6.split_once(']')?;
                (host, rest.strip_prefix(':').map_or(Some(usual), |port| port.parse().ok())?)
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (place, usual),
            },
        };
        (!host.is_empty()).then(|| Server {
            reach,
            host: host.to_owned(),
            port,
            username: username.to_owned(),
            credential: credential.to_owned(),
        })
    }

    pub fn relays(&self) -> bool {
        self.reach != Reach::Stun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_in_many_ways() {
        let seen =
            |url: &str| Server::parse(url, "u", "c").map(|server| (server.reach, server.host, server.port));
        for (url, reach, host, port) in [
            ("stun:stun.example.com", Reach::Stun, "stun.example.com", 3478),
            ("STUN:192.0.2.1:19302", Reach::Stun, "192.0.2.1", 19302),
            ("turn:t.example?transport=udp", Reach::TurnUdp, "t.example", 3478),
            ("turn:t.example:80?transport=tcp", Reach::TurnTcp, "t.example", 80),
            ("turns:t.example:443?transport=tcp", Reach::TurnTls, "t.example", 443),
            ("turns:[2001:db8::1]", Reach::TurnTls, "2001:db8::1", 5349),
            ("turn:[::1]:4000", Reach::TurnUdp, "::1", 4000),
        ] {
            assert_eq!(seen(url), Some((reach, host.to_owned(), port)), "{url}");
        }
        for url in [
            "",
            "stun:",
            "http://x",
            "turn:x:port",
            "turn:[::1",
            "turns:x?transport=udp",
            "turn:x?transport=sctp",
        ] {
            assert_eq!(seen(url), None, "{url}");
        }
        assert_eq!(Server::parse("turn:t.example", "", ""), None, "no key, no relay");
    }

    #[test]
    fn cheap_servers_come_first_and_their_number_is_bounded_and_keys_are_not_told() {
        let named = |url: &str| IceServer {
            urls: vec![url.to_owned(), "nonsense".to_owned()],
            username: "who".to_owned(),
            credential: "secret".to_owned(),
        };
        let urls = ["turns:a", "turn:b?transport=tcp", "turn:c", "stun:d", "turn:e", "stun:f"];
        let settings = PeerSettings { ice_servers: urls.map(named).to_vec(), ..PeerSettings::default() };
        let hosts: Vec<String> = settings.servers().into_iter().map(|server| server.host).collect();
        assert_eq!(hosts, ["d", "f", "c", "e"]);
        let settings = PeerSettings { relay_only: true, ..settings };
        let hosts: Vec<String> = settings.servers().into_iter().map(|server| server.host).collect();
        assert_eq!(hosts, ["c", "e", "b", "a"]);
        let told = format!("{settings:?} {:?}", settings.servers());
        assert!(!told.contains("secret") && !told.contains("who"), "{told}");
    }
}
