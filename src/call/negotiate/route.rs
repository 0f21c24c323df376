//! Where a stream goes: `c=`, the port, `a=rtcp` (RFC 3605) and `a=rtcp-mux` (RFC 5761).
//!
//! Whether the peer may name such an address at all (loopback, other networks) is for the caller to decide: it knows
//! where the signalling came from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::engine::plan::{Direction, Protection, Route};
use crate::sdp::{Connection, Media, SessionDescription};

/// The route to the peer's line `media`; `local` is our own media address.
pub(super) fn route(
    description: &SessionDescription,
    media: &Media,
    local: Option<IpAddr>,
    direction: Direction,
    rtcp_mux: bool,
) -> Route {
    let address = description.connection_of(media).and_then(Connection::ip).and_then(|ip| usable(ip, local));
    let remote = address.and_then(|ip| socket(ip, Some(media.port)));
    let remote_rtcp = match media.rtcp() {
        _ if rtcp_mux => remote,
        Some(rtcp) => {
            let own = rtcp.address.and_then(|ip| usable(ip, local));
            own.or(address).and_then(|ip| socket(ip, Some(rtcp.port)))
        }
        None => address.and_then(|ip| socket(ip, media.port.checked_add(1))),
    };
    Route { remote, remote_rtcp, rtcp_mux, direction, protection: Protection::None, ice: None }
}

fn socket(ip: IpAddr, port: Option<u16>) -> Option<SocketAddr> {
    port.filter(|&port| port != 0).map(|port| SocketAddr::new(ip, port))
}

/// Addresses media must never be sent to, or cannot be from our socket, count as not stated.
fn usable(ip: IpAddr, local: Option<IpAddr>) -> Option<IpAddr> {
    let ip = ip.to_canonical();
    let forbidden = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    let same_family = local.is_none_or(|local| local.to_canonical().is_ipv4() == ip.is_ipv4());
    (!forbidden && same_family).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::super::tests::described;
    use super::*;

    fn of(lines: &str, mux: bool) -> (Option<String>, Option<String>) {
        let description = described(lines);
        let local = Some(IpAddr::from([192, 0, 2, 10]));
        let route = route(&description, &description.media[0], local, Direction::SendReceive, mux);
        (route.remote.map(|a| a.to_string()), route.remote_rtcp.map(|a| a.to_string()))
    }

    fn pair(rtp: &str, rtcp: &str) -> (Option<String>, Option<String>) {
        (Some(rtp.to_owned()), Some(rtcp.to_owned()))
    }

    #[test]
    fn rtcp_is_the_next_port_unless_stated() {
        assert_eq!(of("m=audio 4000 RTP/AVP 0\r\n", false), pair("192.0.2.20:4000", "192.0.2.20:4001"));
        let stated = "m=audio 4000 RTP/AVP 0\r\na=rtcp:5001\r\n";
        assert_eq!(of(stated, false), pair("192.0.2.20:4000", "192.0.2.20:5001"));
        assert_eq!(of(stated, true), pair("192.0.2.20:4000", "192.0.2.20:4000"));
        let elsewhere = "m=audio 4000 RTP/AVP 0\r\na=rtcp:5001 IN IP4 192.0.2.30\r\n";
        assert_eq!(of(elsewhere, false), pair("192.0.2.20:4000", "192.0.2.30:5001"));
        let nowhere = "m=audio 4000 RTP/AVP 0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n";
        assert_eq!(of(nowhere, false), pair("192.0.2.20:4000", "192.0.2.20:9"));
        assert_eq!(of("m=audio 65535 RTP/AVP 0\r\n", false), (Some("192.0.2.20:65535".to_owned()), None));
    }

    #[test]
    fn the_line_s_own_address_comes_before_the_session_s() {
        let own = "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.21\r\n";
        assert_eq!(of(own, false), pair("192.0.2.21:4000", "192.0.2.21:4001"));
    }

    #[test]
    fn nothing_is_sent_to_groups_names_or_another_family() {
        for host in
            ["IP4 224.2.1.1/127", "IP4 255.255.255.255", "IP4 0.0.0.0", "IP4 door.example", "IP6 2001:db8::1"]
        {
            let lines = format!("m=audio 4000 RTP/AVP 0\r\nc=IN {host}\r\n");
            assert_eq!(of(&lines, false), (None, None), "{host}");
        }
        let mapped = "m=audio 4000 RTP/AVP 0\r\nc=IN IP6 ::ffff:192.0.2.9\r\n";
        assert_eq!(of(mapped, false), pair("192.0.2.9:4000", "192.0.2.9:4001"));
    }
}
