//! The media level of a description, and readers for the attributes a call needs.
//!
//! `rtpmap`, `fmtp`, `ptime` and directions are RFC 8866 §6; `rtcp` is RFC 3605, `rtcp-mux` RFC 5761, `rtcp-fb` RFC 4585.
//! Which codec is chosen is not decided here.

use std::net::IpAddr;

use super::session::{Attribute, Bandwidth, Connection};

/// One `m=` line and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Media {
    /// `audio`, `video`, `application`, ... as written.
    pub kind: String,
    /// 0 means refused or disabled.
    pub port: u16,
    /// `RTP/AVP`, ... as written.
    pub protocol: String,
    /// Payload types for RTP, otherwise anything. May be empty: some peers refuse that way.
    pub formats: Vec<String>,
    pub connection: Option<Connection>,
    pub bandwidth: Vec<Bandwidth>,
    pub attributes: Vec<Attribute>,
}

/// Which way media flows, seen from the writer of the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendReceive,
    SendOnly,
    ReceiveOnly,
    Inactive,
}

/// `a=rtpmap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtpMap<'a> {
    /// Compare without case.
    pub encoding: &'a str,
    /// Hz; 0 when missing or unreadable.
    pub clock_rate: u32,
    /// 1 when not stated.
    pub channels: u32,
}

/// `a=rtcp`: where the writer wants its RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcpAddress {
    pub port: u16,
    pub address: Option<IpAddr>,
}

/// The parameters of one `a=fmtp`, `name=value` separated by semicolons with any spaces around them.
#[derive(Clone, Copy, Debug)]
pub struct FormatParameters<'a>(pub &'a str);

impl Direction {
    /// The attribute's name.
    pub fn name(self) -> &'static str {
        match self {
            Direction::SendReceive => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::ReceiveOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }
}

impl<'a> FormatParameters<'a> {
    /// The value of `name`, compared without case; the first one counts.
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.0.split(';').find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The value of `name` as a number.
    pub fn number(self, name: &str) -> Option<u32> {
        self.value(name)?.parse().ok()
    }
}

/// The first direction attribute in a list.
pub fn direction(attributes: &[Attribute]) -> Option<Direction> {
    const ALL: [Direction; 4] =
        [Direction::SendReceive, Direction::SendOnly, Direction::ReceiveOnly, Direction::Inactive];
    attributes.iter().find_map(|attribute| {
        ALL.into_iter().find(|direction| attribute.name.eq_ignore_ascii_case(direction.name()))
    })
}

impl Media {
    pub fn is_audio(&self) -> bool {
        self.kind.eq_ignore_ascii_case("audio")
    }

    pub fn is_video(&self) -> bool {
        self.kind.eq_ignore_ascii_case("video")
    }

    /// The values of every attribute called `name`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.attributes
            .iter()
            .filter(move |attribute| attribute.name.eq_ignore_ascii_case(name))
            .map(|attribute| attribute.value.as_deref().unwrap_or(""))
    }

    /// Whether there is an attribute called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    pub fn direction(&self) -> Option<Direction> {
        direction(&self.attributes)
    }

    /// The formats that are RTP payload types, in order, without repetition.
    pub fn payload_types(&self) -> Vec<u8> {
        let mut numbers = Vec::with_capacity(self.formats.len());
        for number in self.formats.iter().filter_map(|format| format.parse::<u8>().ok()) {
            if number < 128 && !numbers.contains(&number) {
                numbers.push(number);
            }
        }
        numbers
    }

    /// The first mapping of a payload type; a second one for the same number is a mistake of the writer.
    pub fn rtpmap(&self, payload_type: u8) -> Option<RtpMap<'_>> {
        let mapping = self.of_payload_type("rtpmap", payload_type)?;
        let mut parts = mapping.split('/').map(str::trim);
        let encoding = parts.next().filter(|encoding| !encoding.is_empty())?;
        let clock_rate = parts.next().and_then(|rate| rate.parse().ok()).unwrap_or(0);
        let channels = parts.next().and_then(|channels| channels.parse().ok()).unwrap_or(1);
        Some(RtpMap { encoding, clock_rate, channels })
    }

    pub fn fmtp(&self, payload_type: u8) -> Option<FormatParameters<'_>> {
        self.of_payload_type("fmtp", payload_type).map(FormatParameters)
    }

    fn of_payload_type<'a>(&'a self, name: &'a str, payload_type: u8) -> Option<&'a str> {
        self.values(name).find_map(|value| {
            let (number, rest) = value.split_once(char::is_whitespace)?;
            (number.parse() == Ok(payload_type)).then(|| rest.trim())
        })
    }

    /// The words of every `rtcp-fb` that is for this payload type or for all of them.
    pub fn feedback(&self, payload_type: u8) -> impl Iterator<Item = Vec<&str>> {
        self.values("rtcp-fb").filter_map(move |value| {
            let mut words = value.split_whitespace();
            let whom = words.next()?;
            (whom == "*" || whom.parse() == Ok(payload_type)).then(|| words.collect())
        })
    }

    /// Milliseconds per packet the writer wants. A peer that repeats it per codec (OmniPCX) gets its first.
    pub fn ptime(&self) -> Option<u32> {
        self.values("ptime").find_map(|value| value.trim().parse().ok()).filter(|&ms| ms > 0)
    }

    /// Milliseconds per packet the writer can take at most; of several the smallest.
    pub fn maxptime(&self) -> Option<u32> {
        self.values("maxptime").filter_map(|value| value.trim().parse().ok()).filter(|&ms| ms > 0).min()
    }

    pub fn rtcp(&self) -> Option<RtcpAddress> {
        let mut words = self.values("rtcp").next()?.split_whitespace();
        let port = words.next()?.parse().ok()?;
        let address = words.nth(2).and_then(|address| address.parse().ok());
        Some(RtcpAddress { port, address })
    }
}

/// The value of the first `b=` of this kind that says more than zero.
pub fn bandwidth(lines: &[Bandwidth], kind: &str) -> Option<u64> {
    lines.iter().find(|line| line.kind.eq_ignore_ascii_case(kind) && line.value > 0).map(|line| line.value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::parse;

    fn media(lines: &str) -> Media {
        parse(format!("v=0\r\nm=video 4000 RTP/AVP 97 98\r\n{lines}").as_bytes()).unwrap().media.remove(0)
    }

    #[test]
    fn rtpmap_is_read_with_and_without_channels_and_in_any_case() {
        let media = media("a=RTPMAP:97  h264/90000\r\na=rtpmap:98 opus/48000/2\r\na=rtpmap:97 late/1\r\n");
        assert_eq!(media.rtpmap(97), Some(RtpMap { encoding: "h264", clock_rate: 90000, channels: 1 }));
        assert_eq!(media.rtpmap(98).map(|map| map.channels), Some(2));
        assert_eq!(media.rtpmap(99), None);
    }

    #[test]
    fn fmtp_parameters_may_have_spaces_capitals_and_flags() {
        let media = media(
            "a=fmtp:97 Profile-Level-Id = 64001f ; packetization-mode=1;T; sprop-parameter-sets=Z0I=,aM4=;\r\n",
        );
        let fmtp = media.fmtp(97).unwrap();
        assert_eq!(fmtp.value("profile-level-id"), Some("64001f"));
        assert_eq!(fmtp.number("packetization-mode"), Some(1));
        assert_eq!(fmtp.value("sprop-parameter-sets"), Some("Z0I=,aM4="));
        assert_eq!(fmtp.value("T"), None);
    }

    #[test]
    fn feedback_is_for_one_payload_type_or_for_all() {
        let media = media("a=rtcp-fb:* ccm fir tmmbr\r\na=rtcp-fb:97 nack pli\r\na=rtcp-fb:98 nack\r\n");
        let words: Vec<_> = media.feedback(97).collect();
        assert_eq!(words, [vec!["ccm", "fir", "tmmbr"], vec!["nack", "pli"]]);
    }

    #[test]
    fn rtcp_may_carry_an_address() {
        let read = |lines| media(lines).rtcp();
        assert_eq!(read("a=rtcp:4009\r\n"), Some(RtcpAddress { port: 4009, address: None }));
        let address = "192.0.2.7".parse().ok();
        assert_eq!(read("a=rtcp:4009 IN IP4 192.0.2.7\r\n"), Some(RtcpAddress { port: 4009, address }));
        assert_eq!(read("a=rtcp:x\r\n"), None);
    }

    #[test]
    fn repeated_packet_times_are_settled() {
        let media = media("a=ptime:30\r\na=ptime:40\r\na=maxptime:60\r\na=maxptime:40\r\n");
        assert_eq!((media.ptime(), media.maxptime()), (Some(30), Some(40)));
    }
}
