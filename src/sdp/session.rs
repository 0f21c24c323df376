//! The session level of a description: RFC 8866 §5, every line above the first `m=`.
//!
//! Lines without influence on a call (`i= u= e= p= r= z= k=`) are not kept. Bytes are [`mod@super::parse`]'s and
//! [`mod@super::print`]'s.

use std::net::IpAddr;

use super::media::{self, Direction, Media};

/// One whole description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDescription {
    /// `o=`; `None` when the peer left it out or wrote nothing usable.
    pub origin: Option<OriginLine>,
    /// `s=`; `-` when missing.
    pub name: String,
    pub connection: Option<Connection>,
    pub bandwidth: Vec<Bandwidth>,
    /// Start and stop of the first `t=`; an answer repeats them (RFC 3264 §6).
    pub time: (u64, u64),
    pub attributes: Vec<Attribute>,
    /// In the order of the `m=` lines, which is their identity in offer and answer.
    pub media: Vec<Media>,
}

/// `o=` (RFC 8866 §5.2). The numbers stay text: peers write more digits than any integer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginLine {
    pub username: String,
    pub session_id: String,
    pub session_version: String,
    pub address: Connection,
}

/// An address as `c=` and `o=` write it (RFC 8866 §5.7), without the `IN IP4` in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The address or host name, as written, without a `/ttl`.
    pub host: String,
    pub ip6: bool,
}

/// `b=` (RFC 8866 §5.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// `AS`, `TIAS`, `CT`, ...
    pub kind: String,
    /// kbit/s for `AS` and `CT`, bit/s for `TIAS`.
    pub value: u64,
}

/// `a=name` or `a=name:value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub name: String,
    pub value: Option<String>,
}

impl Connection {
    pub fn of(address: IpAddr) -> Self {
        Connection { host: address.to_string(), ip6: address.is_ipv6() }
    }

    /// The address by what is written, whatever address type stands before it. `None` for a host name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// `0.0.0.0` or `::`: the old way to say that nothing may be sent (RFC 3264 §8.4).
    pub fn is_hold(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

impl Attribute {
    pub fn flag(name: &str) -> Self {
        Attribute { name: name.to_owned(), value: None }
    }

    pub fn new(name: &str, value: impl Into<String>) -> Self {
        Attribute { name: name.to_owned(), value: Some(value.into()) }
    }
}

impl SessionDescription {
    /// The address for `media`: its own `c=`, else the session's.
    pub fn connection_of<'a>(&'a self, media: &'a Media) -> Option<&'a Connection> {
        media.connection.as_ref().or(self.connection.as_ref())
    }

    /// The direction of `media`: its own attribute, else the session's, else both ways (RFC 8866 §6.7).
    pub fn direction_of(&self, media: &Media) -> Direction {
        media.direction().or_else(|| media::direction(&self.attributes)).unwrap_or(Direction::SendReceive)
    }
}
