//! The ICE attributes of a description (RFC 8839): user fragment, password, and our own host candidates.
//!
//! The peer's candidates are not read: an ICE-lite agent answers checks and makes none.

use std::net::IpAddr;

use super::media::Media;
use super::session::{Attribute, SessionDescription};

/// Longest fragment and password (RFC 8839 §5.4).
const LONGEST: usize = 256;

/// The fragment and password for `media`: its own, else the session's. `None`: the writer does not speak ICE.
pub fn credentials(description: &SessionDescription, media: &Media) -> Option<(String, String)> {
    let of = |name: &str| attribute(description, media, name).filter(|value| is_usable(value));
    Some((of("ice-ufrag")?.to_owned(), of("ice-pwd")?.to_owned()))
}

/// Whether the writer only answers checks too.
pub fn is_lite(description: &SessionDescription) -> bool {
    description.attributes.iter().any(|attribute| attribute.name.eq_ignore_ascii_case("ice-lite"))
}

/// The value of the first attribute called `name`: of the line, else of the session.
pub fn attribute<'a>(description: &'a SessionDescription, media: &'a Media, name: &str) -> Option<&'a str> {
    let lists = [&media.attributes, &description.attributes];
    let found = lists.into_iter().flatten().find(|attribute| attribute.name.eq_ignore_ascii_case(name))?;
    found.value.as_deref()
}

/// Words that can be a STUN user name and leave room for the rest of a line.
fn is_usable(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= LONGEST
        && value.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

/// The host candidates of one stream (RFC 8445 §5.1.2.1, one address): RTP, and RTCP on the next port without mux.
pub fn host_candidates(address: IpAddr, port: u16, rtcp_mux: bool) -> Vec<Attribute> {
    let priority = |component: u32| (126 << 24) | (65_535 << 8) | (256 - component);
    let candidate = |component: u32, port: u16| {
        let value = format!("1 {component} UDP {} {address} {port} typ host", priority(component));
        Attribute::new("candidate", value)
    };
    let rtcp = port.checked_add(1).filter(|_| !rtcp_mux);
    std::iter::once(candidate(1, port)).chain(rtcp.map(|port| candidate(2, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn read(lines: &str) -> Option<(String, String)> {
        let description = parse(format!("v=0\r\n{lines}").as_bytes()).unwrap();
        credentials(&description, &description.media[0])
    }

    #[test]
    fn the_line_s_own_words_come_before_the_session_s() {
        let own = "a=ice-ufrag:sess\r\na=ice-pwd:sessionpassword0123456\r\nm=audio 9 RTP/AVP 0\r\na=ice-ufrag:line\r\n";
        assert_eq!(read(own), Some(("line".to_owned(), "sessionpassword0123456".to_owned())));
        assert_eq!(read("m=audio 9 RTP/AVP 0\r\na=ice-ufrag:line\r\n"), None);
        let broken = "m=audio 9 RTP/AVP 0\r\na=ice-ufrag:a:b\r\na=ice-pwd:sessionpassword0123456\r\n";
        assert_eq!(read(broken), None);
    }

    #[test]
    fn a_component_has_a_candidate_of_its_own() {
        let lines = |mux| -> Vec<String> {
            let list = host_candidates([192, 0, 2, 1].into(), 4000, mux);
            list.into_iter().filter_map(|attribute| attribute.value).collect()
        };
        assert_eq!(lines(true), ["1 1 UDP 2130706431 192.0.2.1 4000 typ host"]);
        assert_eq!(lines(false)[1], "1 2 UDP 2130706430 192.0.2.1 4001 typ host");
    }
}
