//! Header values with a grammar of their own (RFC 3261 section 20): name-addr, Via, CSeq, comma lists.
//!
//! Values are read when asked for; a message keeps them as text. Whole messages belong to `parse` and `print`.

use std::fmt;
use std::net::IpAddr;

use super::message::Method;
use super::uri::{
    Parameters, Uri, bracketed, decimal, host_ip, parameter, parse_parameters, set_parameter,
    split_host_port, write_parameters,
};

/// The value of From, To, Contact, Route, Record-Route, Refer-To...: a URI with an optional display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// Plain text: quotes and escapes removed.
    pub display: Option<String>,
    pub uri: Uri,
    /// Header parameters, behind the URI.
    pub parameters: Parameters,
}

impl NameAddr {
    pub fn new(uri: Uri) -> NameAddr {
        NameAddr { display: None, uri, parameters: Vec::new() }
    }

    /// Reads one value. Unquoted display names may hold anything but quotes and angle brackets; a URI without
    /// brackets must not hold a comma or a question mark, since they would belong to the header.
    pub fn parse(text: &str) -> Option<NameAddr> {
        let text = text.trim();
        if text.starts_with('"') {
            let (display, rest) = take_quoted(text)?;
            return NameAddr::parse_bracketed(Some(display), rest.trim_start());
        }
        if let Some(at) = text.find('<') {
            let (display, rest) = text.split_at_checked(at)?;
            let display = display.trim_end();
            if display.contains(['"', '>']) {
                return None;
            }
            return NameAddr::parse_bracketed((!display.is_empty()).then(|| display.to_owned()), rest);
        }
        let (uri, parameters) = text.split_once(';').unwrap_or((text, ""));
        if uri.contains(['?', ',']) {
            return None;
        }
        let uri = Uri::parse(uri.trim_end())?;
        Some(NameAddr { display: None, uri, parameters: parse_parameters(parameters)? })
    }

    fn parse_bracketed(display: Option<String>, rest: &str) -> Option<NameAddr> {
        let (uri, rest) = rest.strip_prefix('<')?.split_once('>')?;
        let uri = Uri::parse(uri.trim())?;
        let rest = rest.trim_start();
        let parameters = match rest.strip_prefix(';') {
            Some(parameters) => parse_parameters(parameters)?,
            None if rest.is_empty() => Vec::new(),
            None => return None,
        };
        Some(NameAddr { display, uri, parameters })
    }

    pub fn tag(&self) -> Option<&str> {
        self.parameter("tag").flatten()
    }

    pub fn set_tag(&mut self, tag: &str) {
        set_parameter(&mut self.parameters, "tag", Some(tag));
    }

    /// `None`: absent; `Some(None)`: present without a value.
    pub fn parameter(&self, name: &str) -> Option<Option<&str>> {
        parameter(&self.parameters, name)
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            out.write_str("\"")?;
            for symbol in display.chars() {
                if matches!(symbol, '"' | '\\') {
                    out.write_str("\\")?;
                }
                write!(out, "{symbol}")?;
            }
            out.write_str("\" ")?;
        }
        write!(out, "<{}>", self.uri)?;
        write_parameters(out, &self.parameters)
    }
}

/// A quoted string at the start of `text`: its content without escapes, and what follows.
fn take_quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut content = String::with_capacity(inner.len().min(64));
    let mut escaped = false;
    for (at, symbol) in inner.char_indices() {
        match symbol {
            _ if escaped => {
                content.push(symbol);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((content, inner.get(at + 1..)?)),
            _ => content.push(symbol),
        }
    }
    None
}

/// One Via value (RFC 3261 section 20.42).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Upper case: `UDP`, `TCP`.
    pub transport: String,
    /// As written; an IPv6 address stands in brackets.
    pub host: String,
    pub port: Option<u16>,
    pub parameters: Parameters,
}

impl Via {
    /// What a branch starts with when its sender follows RFC 3261.
    pub const MAGIC: &'static str = "z9hG4bK";

    /// `host` is a name or an address, IPv6 with or without brackets.
    pub fn new(transport: &str, host: &str, port: Option<u16>) -> Via {
        Via {
            transport: transport.to_ascii_uppercase(),
            host: bracketed(host).into_owned(),
            port,
            parameters: Vec::new(),
        }
    }

    /// Reads one value. Any version of SIP is taken, so that a request of another version can be answered.
    pub fn parse(text: &str) -> Option<Via> {
        let mut parts = text.splitn(3, '/');
        if !parts.next()?.trim().eq_ignore_ascii_case("SIP") || !is_token(parts.next()?.trim()) {
            return None;
        }
        let rest = parts.next()?.trim_start();
        let (transport, rest) = rest.split_once([' ', '\t'])?;
        if !is_token(transport) {
            return None;
        }
        let (sent_by, parameters) = rest.split_once(';').unwrap_or((rest, ""));
        let (host, port) = split_host_port(sent_by)?;
        Some(Via {
            transport: transport.to_ascii_uppercase(),
            host: host.to_owned(),
            port,
            parameters: parse_parameters(parameters)?,
        })
    }

    pub fn branch(&self) -> Option<&str> {
        self.parameter("branch").flatten()
    }

    /// The branch when it identifies a transaction by itself: the magic cookie and something behind it.
    pub fn unique_branch(&self) -> Option<&str> {
        let branch = self.branch()?;
        let (cookie, rest) = branch.split_at_checked(Via::MAGIC.len())?;
        (cookie.eq_ignore_ascii_case(Via::MAGIC) && !rest.is_empty()).then_some(branch)
    }

    pub fn received(&self) -> Option<IpAddr> {
        self.parameter("received").flatten().and_then(host_ip)
    }

    /// RFC 3581. `None`: absent; `Some(None)`: asked for, not filled in.
    pub fn rport(&self) -> Option<Option<u16>> {
        self.parameter("rport").map(|value| value.and_then(decimal))
    }

    /// The sent-by host when it is an address.
    pub fn host_ip(&self) -> Option<IpAddr> {
        host_ip(&self.host)
    }

    pub fn parameter(&self, name: &str) -> Option<Option<&str>> {
        parameter(&self.parameters, name)
    }

    pub fn set_parameter(&mut self, name: &str, value: Option<&str>) {
        set_parameter(&mut self.parameters, name, value);
    }
}

impl fmt::Display for Via {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(out, ":{port}")?;
        }
        write_parameters(out, &self.parameters)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    pub number: u32,
    pub method: Method,
}

impl CSeq {
    pub fn parse(text: &str) -> Option<CSeq> {
        let (number, method) = text.trim().split_once([' ', '\t'])?;
        let method = method.trim_start();
        if !is_token(method) {
            return None;
        }
        Some(CSeq { number: decimal(number)?, method: Method::from(method) })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.number, self.method)
    }
}

/// The elements of a comma list, trimmed, empty ones left out. Commas in quoted strings and between angle brackets
/// do not separate.
pub fn split_list(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = value;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = element_end(rest);
            let element = rest.get(..end).unwrap_or("").trim();
            rest = rest.get(end + 1..).unwrap_or("");
            if !element.is_empty() {
                return Some(element);
            }
        }
        None
    })
}

/// Where the first comma that separates stands, or the length.
fn element_end(text: &str) -> usize {
    let (mut quoted, mut escaped, mut bracketed) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'<' => bracketed = true,
            b'>' => bracketed = false,
            b',' if !bracketed => return at,
            _ => {}
        }
    }
    text.len()
}

/// RFC 3261 section 25.1: `token`.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> NameAddr {
        NameAddr::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn display_names_lose_their_quotes_and_get_them_back() {
        let read = address(r#" "Back\\slash \"x\", <y>"  < sip:a@h > ; tag = 1 ;; q=0.5"#);
        assert_eq!(read.display.as_deref(), Some(r#"Back\slash "x", <y>"#));
        assert_eq!(read.uri.to_string(), "sip:a@h");
        assert_eq!(read.tag(), Some("1"));
        assert_eq!(read.to_string(), r#""Back\\slash \"x\", <y>" <sip:a@h>;tag=1;q=0.5"#);
    }

    #[test]
    fn without_brackets_parameters_belong_to_the_header() {
        let read = address("sip:a@h:5070;tag=9;user=phone");
        assert_eq!(read.tag(), Some("9"));
        assert!(read.uri.parameters.is_empty());
        let read = address("<sip:a@h;user=phone>");
        assert_eq!(read.uri.parameter("user"), Some(Some("phone")));
        assert_eq!(read.tag(), None);
    }

    #[test]
    fn unquoted_display_names_are_taken() {
        assert_eq!(address("caller<sip:a@h>").display.as_deref(), Some("caller"));
        assert_eq!(address("Bell, A. <sip:a@h>").display.as_deref(), Some("Bell, A."));
        assert_eq!(address("<sip:a@h>").display, None);
    }

    #[test]
    fn a_quoted_parameter_may_hold_separators() {
        let read = address(r#"<sip:a@h>;note="a;b=\"c";tag=t"#);
        assert_eq!(read.tag(), Some("t"));
        assert_eq!(address(&read.to_string()), read);
    }

    #[test]
    fn a_tag_is_set_once() {
        let mut read = address("<sip:a@h>;x");
        read.set_tag("one");
        read.set_tag("two");
        assert_eq!(read.to_string(), "<sip:a@h>;x;tag=two");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "*",
            "\"open <sip:a@h>",
            "\"x\" sip:a@h",
            "x <sip:a@h",
            "<sip:a@h> x",
            "sip:a@h?x=y",
            "sip:a@h,sip:b@h",
            "a>b <sip:a@h>",
            "<sip:a@h>;tag=\"x",
            "<>",
            "<sip:a@h>;=x",
        ] {
            assert_eq!(NameAddr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn lists_split_outside_quotes_and_brackets_only() {
        let list = r#" "a, \", b" <sip:x,y@h> ,, sip:c@h;p="1,2" ,<sip:d@h;e=",>"#;
        let elements: Vec<&str> = split_list(list).collect();
        assert_eq!(elements, [r#""a, \", b" <sip:x,y@h>"#, r#"sip:c@h;p="1,2""#, r#"<sip:d@h;e=",>"#]);
        assert_eq!(split_list("<sip:a@h>, nonsense, sip:b@h").filter_map(NameAddr::parse).count(), 2);
        assert_eq!(split_list(" , ,").count(), 0);
    }

    #[test]
    fn via_is_read_with_space_where_the_grammar_allows_it() {
        let read =
            Via::parse("SIP / 2.0 / udp  192.0.2.1 : 5070 ; branch = z9hG4bKx ;rport; received=::1").unwrap();
        assert_eq!(
            (read.transport.as_str(), read.host.as_str(), read.port),
            ("UDP", "192.0.2.1", Some(5070))
        );
        assert_eq!(read.unique_branch(), Some("z9hG4bKx"));
        assert_eq!(read.rport(), Some(None));
        assert_eq!(read.received(), Some("::1".parse().unwrap()));
        assert_eq!(read.to_string(), "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKx;rport;received=::1");
    }

    #[test]
    fn a_bare_cookie_identifies_nothing() {
        let branch = |text: &str| Via::parse(&format!("SIP/2.0/UDP h;branch={text}")).unwrap();
        assert_eq!(branch("z9hG4bK").unique_branch(), None);
        assert_eq!(branch("old").unique_branch(), None);
        assert_eq!(branch("ééééé").unique_branch(), None);
        assert_eq!(branch("Z9HG4BK1").unique_branch(), Some("Z9HG4BK1"));
    }

    #[test]
    fn rport_is_absent_asked_for_or_filled_in() {
        let mut via = Via::new("tcp", "2001:db8::1", Some(5060));
        assert_eq!(via.rport(), None);
        via.set_parameter("rport", None);
        assert_eq!(via.rport(), Some(None));
        via.set_parameter("rport", Some("5061"));
        assert_eq!(via.rport(), Some(Some(5061)));
        assert_eq!(via.to_string(), "SIP/2.0/TCP [2001:db8::1]:5060;rport=5061");
        assert_eq!(via.host_ip(), Some("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_via_is_refused() {
        for text in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ;x",
            "HTTP/2.0/UDP h",
            "SIP/2.0 h",
            "SIP/2.0/U\"P h",
            "SIP/2.0/UDP h:x",
            ";",
        ] {
            assert_eq!(Via::parse(text), None, "{text}");
        }
    }

    #[test]
    fn cseq_is_a_number_and_a_method() {
        assert_eq!(CSeq::parse(" 0009 \t INVITE ").unwrap().to_string(), "9 INVITE");
        assert_eq!(CSeq::parse("4294967295 X").unwrap().number, u32::MAX);
        for text in ["", "1", "INVITE 1", "4294967296 INVITE", "-1 INVITE", "+1 INVITE", "1 IN VITE", "1 "] {
            assert_eq!(CSeq::parse(text), None, "{text}");
        }
    }
}
