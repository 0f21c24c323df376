//! What `[sip]` means: plain values, checked and with their defaults. Re-exported by [`super::super::settings`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::super::secret::Secret;
use super::super::settings::{Word, words};
pub use crate::sip::Transport;
use crate::sip::Uri;

impl Word for Transport {
    const ALL: &'static [(&'static str, Self)] = &[
        ("udp", Transport::Udp),
        ("tcp", Transport::Tcp),
        ("tls", Transport::Tls),
        ("ws", Transport::Ws),
        ("wss", Transport::Wss),
    ];
}

/// One `[sip] listen` entry: `udp:0.0.0.0:5060`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub transport: Transport,
    /// Port 0: any free one.
    pub address: SocketAddr,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.word(), self.address)
    }
}

words! {
    /// What callers outside `trusted` get.
    Strangers {
        /// No answer at all.
        Drop = "drop",
        /// 401; those who know the password of a [`User`] may call.
        Challenge = "challenge",
        /// 403.
        Reject = "reject",
    }
}

words! {
    /// The status of a call beyond `max_calls`.
    Busy {
        /// With Retry-After.
        Unavailable503 = "503",
        Busy486 = "486",
    }
}

words! {
    /// Whether media is encrypted (SDES or DTLS-SRTP).
    SrtpPolicy {
        /// Never; offers that insist on it are refused.
        Off = "off",
        /// Where the peer offers it.
        Optional = "optional",
        /// No call without it.
        Required = "required",
    }
}

words! {
    /// How calls we make agree on keys.
    SrtpOffer {
        /// Keys in the SDP.
        Sdes = "sdes",
        /// A handshake on the media path.
        Dtls = "dtls",
    }
}

/// `[sip]`
#[derive(Clone, Debug, PartialEq)]
pub struct Sip {
    pub listen: Vec<Listen>,
    /// The address in Contact and SDP. `None`: the one that faces the peer.
    pub advertise: Option<IpAddr>,
    /// The DNS server for names that are dialled. `None`: the system's.
    pub dns: Option<SocketAddr>,
    /// Web pages whose scripts may open WebSockets, besides those of this host: `https://phone.example.com`, or `*`.
    pub origins: Vec<String>,
    /// Who may call without a password, besides the sources of [`Sip::peers`].
    pub trusted: Vec<IpNet>,
    pub strangers: Strangers,
    /// The realm of our challenges. `None`: the appliance's name.
    pub realm: Option<String>,
    /// 0: as many as the box was measured to carry.
    pub max_calls: u32,
    pub busy: Busy,
    /// New calls a second over all callers; 0: no limit.
    pub calls_per_second: u32,
    /// RFC 4028: the session interval we ask for, and the shortest we take.
    pub session_expires: Duration,
    pub min_se: Duration,
    /// Outgoing calls: CANCEL after this long without an answer.
    pub ring_timeout: Duration,
    pub max_call: Duration,
    /// Globs of URIs that may be dialled, and that redirects and transfers may lead to.
    pub dial_allow: Vec<String>,
    /// Dialled calls an hour over all of the above; 0: no limit.
    pub dial_per_hour: u32,
    /// The longest dialled call. `None`: [`Sip::max_call`].
    pub dial_max: Option<Duration>,
    pub tls: Tls,
    pub users: Vec<User>,
    pub peers: Vec<SipPeer>,
    pub accounts: Vec<Account>,
}

impl Default for Sip {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5060));
        let network = |a: [u8; 4], length| IpNet::new_assert(IpAddr::from(a), length);
        Sip {
            listen: [Transport::Udp, Transport::Tcp]
                .map(|transport| Listen { transport, address: any })
                .to_vec(),
            advertise: None,
            dns: None,
            origins: Vec::new(),
            trusted: vec![
                network([127, 0, 0, 0], 8),
                IpNet::new_assert(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), 128),
                network([10, 0, 0, 0], 8),
                network([172, 16, 0, 0], 12),
                network([192, 168, 0, 0], 16),
                IpNet::new_assert(IpAddr::from([0xfc00, 0, 0, 0, 0, 0, 0, 0]), 7),
            ],
            strangers: Strangers::Drop,
            realm: None,
            max_calls: 0,
            busy: Busy::Unavailable503,
            calls_per_second: 30,
            session_expires: Duration::from_secs(1800),
            min_se: Duration::from_secs(90),
            ring_timeout: Duration::from_secs(30),
            max_call: Duration::from_secs(14_400),
            dial_allow: Vec::new(),
            dial_per_hour: 60,
            dial_max: None,
            tls: Tls::default(),
            users: Vec::new(),
            peers: Vec::new(),
            accounts: Vec::new(),
        }
    }
}

/// `[sip.tls]`: PEM files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// Ours, leaf first; required to listen on `tls:` and `wss:`.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Who must have signed certificates that clients show; `None`: they are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Who must have signed certificates of servers we connect to; `None`: whom the system trusts.
    pub server_ca: Option<PathBuf>,
}

/// `[[sip.user]]`: may call from anywhere, and register here, with digest.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// The user part of its address and of its digest; unique.
    pub name: String,
    pub password: Secret,
    pub display_name: String,
}

/// `[[sip.peer]]`: a PBX, SBC or trunk with its own policy.
#[derive(Clone, Debug, PartialEq)]
pub struct SipPeer {
    /// Unique.
    pub name: String,
    /// Where it signals from; such sources are trusted.
    pub source: Vec<IpNet>,
    /// Where its media may come from and go to, besides where it signals from.
    pub networks: Vec<IpNet>,
    /// `None`: [`super::super::settings::Media::srtp`].
    pub srtp: Option<SrtpPolicy>,
    /// `None`: [`super::super::settings::Media::srtp_offer`].
    pub srtp_offer: Option<SrtpOffer>,
    /// Where it is dialled. `None`: it only calls.
    pub uri: Option<Uri>,
    /// How we answer its challenges.
    pub username: String,
    pub password: Secret,
    /// The only realm that gets these credentials. `None`: the first it names, then kept.
    pub realm: Option<String>,
    /// Its calls at one time; 0: no limit of its own.
    pub max_calls: u32,
    /// Whether its P-Asserted-Identity is believed.
    pub identity: bool,
    /// What we show when we connect to it over TLS.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Who must have signed its certificate. `None`: as in [`Tls`].
    pub ca: Option<PathBuf>,
    /// The name its certificate must carry (subjectAltName). As a client of ours it is told by it.
    pub tls_name: Option<String>,
    /// Whether ICE it offers is answered (lite).
    pub ice: bool,
}

impl SipPeer {
    /// A peer with nothing but a name written.
    pub fn named(name: &str) -> Self {
        SipPeer {
            name: name.to_owned(),
            source: Vec::new(),
            networks: Vec::new(),
            srtp: None,
            srtp_offer: None,
            uri: None,
            username: String::new(),
            password: Secret::default(),
            realm: None,
            max_calls: 0,
            identity: true,
            certificate: None,
            private_key: None,
            ca: None,
            tls_name: None,
            ice: false,
        }
    }
}

/// `[[sip.account]]`: we register there.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Unique.
    pub name: String,
    /// `sip:pbx.example.com`, without a user part.
    pub registrar: Uri,
    /// Our user part there, and the name in digest.
    pub username: String,
    pub password: Secret,
    /// The only realm that gets these credentials. `None`: the first the registrar names, then kept.
    pub realm: Option<String>,
    pub display_name: String,
    /// The lifetime we ask for.
    pub expires: Duration,
    /// Where everything for this account is sent. `None`: to the registrar.
    pub outbound_proxy: Option<Uri>,
    /// `None`: [`super::super::settings::Media::srtp`].
    pub srtp: Option<SrtpPolicy>,
    /// `None`: [`super::super::settings::Media::srtp_offer`].
    pub srtp_offer: Option<SrtpOffer>,
}
