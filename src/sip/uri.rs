//! SIP and SIPS URIs (RFC 3261 section 19.1); other schemes are carried without being understood.
//!
//! Text in, text out: what was parsed prints the same but for the case of scheme and host. Resolving hosts does not
//! belong here.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// `;name` and `;name=value` in order, as written; a quoted value keeps its quotes.
pub type Parameters = Vec<(String, Option<String>)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Sip,
    Sips,
    /// Lower case, without the colon.
    Other(String),
}

impl Scheme {
    pub fn as_str(&self) -> &str {
        match self {
            Scheme::Sip => "sip",
            Scheme::Sips => "sips",
            Scheme::Other(name) => name,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    pub scheme: Scheme,
    /// As written, with its escapes; see [`Uri::user_decoded`].
    pub user: Option<String>,
    pub password: Option<String>,
    /// Lower case; an IPv6 address stands in brackets. Of another scheme: everything after the colon, as written.
    pub host: String,
    pub port: Option<u16>,
    pub parameters: Parameters,
    /// Everything after `?`, as written.
    pub headers: Option<String>,
}

impl Uri {
    /// Reads one URI without surrounding space or brackets. `None` when it is not one.
    pub fn parse(text: &str) -> Option<Uri> {
        let (scheme, rest) = text.split_once(':')?;
        if rest.is_empty()
            || rest.bytes().any(|byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f))
        {
            return None;
        }
        if scheme.eq_ignore_ascii_case("sip") {
            Uri::parse_sip(Scheme::Sip, rest)
        } else if scheme.eq_ignore_ascii_case("sips") {
            Uri::parse_sip(Scheme::Sips, rest)
        } else if scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        {
            Some(Uri::opaque(scheme, rest))
        } else {
            None
        }
    }

    fn parse_sip(scheme: Scheme, rest: &str) -> Option<Uri> {
        // `?`, `;` and `,` may stand in a user part, an unescaped `@` only behind it.
        let (user, password, rest) = match rest.split_once('@') {
            Some((user_info, rest)) => {
                let (user, password) = match user_info.split_once(':') {
                    Some((user, password)) => (user, Some(password.to_owned())),
                    None => (user_info, None),
                };
                if user.is_empty() {
                    return None;
                }
                (Some(user.to_owned()), password, rest)
            }
            None => (None, None, rest),
        };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Some(headers.to_owned())),
            None => (rest, None),
        };
        let (host_port, parameters) = match rest.split_once(';') {
            Some((host_port, parameters)) => (host_port, parse_parameters(parameters)?),
            None => (rest, Vec::new()),
        };
        let (host, port) = split_host_port(host_port)?;
        Some(Uri { scheme, user, password, host: host.to_ascii_lowercase(), port, parameters, headers })
    }

    fn opaque(scheme: &str, rest: &str) -> Uri {
        Uri {
            scheme: Scheme::Other(scheme.to_ascii_lowercase()),
            user: None,
            password: None,
            host: rest.to_owned(),
            port: None,
            parameters: Vec::new(),
            headers: None,
        }
    }

    /// A place holder for a Request-URI that is none, so that its request can still be answered.
    pub(super) fn unreadable() -> Uri {
        Uri::opaque("unreadable", "")
    }

    /// `sip:user@host:port`. `user` is plain text and is escaped here; an empty one is left out. `host` is a name, an
    /// IPv4 address, or an IPv6 address with or without brackets.
    pub fn sip(user: &str, host: &str, port: Option<u16>) -> Uri {
        Uri {
            scheme: Scheme::Sip,
            user: (!user.is_empty()).then(|| escape_user(user)),
            password: None,
            host: bracketed(host).to_ascii_lowercase(),
            port,
            parameters: Vec::new(),
            headers: None,
        }
    }

    /// The user as written, escapes included. Of a `tel:` URI: its number.
    pub fn user(&self) -> Option<&str> {
        match &self.scheme {
            Scheme::Other(scheme) if scheme == "tel" => self.host.split(';').next(),
            _ => self.user.as_deref(),
        }
    }

    /// The user with `%xx` decoded, as people read it and as routes compare it.
    pub fn user_decoded(&self) -> Option<Cow<'_, str>> {
        self.user().map(unescape)
    }

    /// `sip:` or `sips:`.
    pub fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }

    /// The `transport` parameter, as written.
    pub fn transport(&self) -> Option<&str> {
        self.parameter("transport").flatten()
    }

    /// Whether the `lr` parameter marks a loose router.
    pub fn is_loose(&self) -> bool {
        self.parameter("lr").is_some()
    }

    /// The host when it is an address; never of another scheme.
    pub fn host_ip(&self) -> Option<IpAddr> {
        match self.scheme {
            Scheme::Other(_) => None,
            _ => host_ip(&self.host),
        }
    }

    /// `None`: absent; `Some(None)`: present without a value. Names compare without case.
    pub fn parameter(&self, name: &str) -> Option<Option<&str>> {
        parameter(&self.parameters, name)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.scheme.as_str())?;
        if let Some(user) = &self.user {
            out.write_str(user)?;
            if let Some(password) = &self.password {
                write!(out, ":{password}")?;
            }
            out.write_str("@")?;
        }
        out.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(out, ":{port}")?;
        }
        write_parameters(out, &self.parameters)?;
        match &self.headers {
            Some(headers) => write!(out, "?{headers}"),
            None => Ok(()),
        }
    }
}

/// The address a host names literally, with or without brackets.
pub(super) fn host_ip(host: &str) -> Option<IpAddr> {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).parse().ok()
}

/// An IPv6 address in brackets, anything else as it is.
pub(super) fn bracketed(host: &str) -> Cow<'_, str> {
    if host.contains(':') && !host.starts_with('[') {
        Cow::Owned(format!("[{host}]"))
    } else {
        Cow::Borrowed(host)
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, with space around the colon as Via allows. `None` when either is wrong.
pub(super) fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let text = text.trim();
    let (host, rest) = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (host, rest) = text.split_at_checked(end)?;
        matches!(host_ip(host)?, IpAddr::V6(_)).then_some((host, rest))?
    } else {
        let end = text.find(':').unwrap_or(text.len());
        let (host, rest) = text.split_at_checked(end)?;
        let host = host.trim_end();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if host.is_empty() || !host.bytes().all(good) {
            return None;
        }
        (host, rest)
    };
    let rest = rest.trim();
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':')?.trim();
    Some((host, Some(decimal(digits)?)))
}

/// Digits only, no sign, and no overflow.
pub(super) fn decimal<N: TryFrom<u64>>(digits: &str) -> Option<N> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    N::try_from(digits.parse::<u64>().ok()?).ok()
}

/// The text behind the first `;`. Empty parameters are skipped; a value without a name is an error.
pub(super) fn parse_parameters(text: &str) -> Option<Parameters> {
    let mut parameters = Vec::new();
    for part in split_outside_quotes(text, b';') {
        if part.is_empty() {
            continue;
        }
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (part, None),
        };
        if name.is_empty() || name.contains(['"', '<', '>']) || !quotes_are_whole(value.unwrap_or("")) {
            return None;
        }
        parameters.push((name.to_owned(), value.map(str::to_owned)));
    }
    Some(parameters)
}

/// Splits at `separator`, but not inside quoted strings; the pieces are trimmed.
pub(super) fn split_outside_quotes(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let mut quoted = false;
        let mut escaped = false;
        for (at, byte) in current.bytes().enumerate() {
            if escaped {
                escaped = false;
            } else if quoted {
                match byte {
                    b'\\' => escaped = true,
                    b'"' => quoted = false,
                    _ => {}
                }
            } else if byte == b'"' {
                quoted = true;
            } else if byte == separator {
                rest = current.get(at + 1..);
                return current.get(..at).map(str::trim);
            }
        }
        rest = None;
        Some(current.trim())
    })
}

/// Whether every quoted string in `text` ends.
pub(super) fn quotes_are_whole(text: &str) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

pub(super) fn parameter<'a>(parameters: &'a Parameters, name: &str) -> Option<Option<&'a str>> {
    parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_deref())
}

pub(super) fn set_parameter(parameters: &mut Parameters, name: &str, value: Option<&str>) {
    let value = value.map(str::to_owned);
    match parameters.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        Some((_, old)) => *old = value,
        None => parameters.push((name.to_owned(), value)),
    }
}

pub(super) fn write_parameters(out: &mut fmt::Formatter<'_>, parameters: &Parameters) -> fmt::Result {
    for (name, value) in parameters {
        write!(out, ";{name}")?;
        if let Some(value) = value {
            write!(out, "={value}")?;
        }
    }
    Ok(())
}

fn escape_user(user: &str) -> String {
    let mut escaped = String::with_capacity(user.len());
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// `%xx` decoded; what is no escape stays.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let nibble = |byte: Option<&u8>| {
        byte.and_then(|&byte| char::from(byte).to_digit(16)).and_then(|n| u8::try_from(n).ok())
    };
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, nibble(bytes.get(at + 1)), nibble(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high << 4 | low);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        Uri::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn every_part_is_read_and_printed_again() {
        let text = "sips:bob:pw@example.com:5061;transport=tcp;lr?Subject=x&Priority=urgent";
        let read = uri(text);
        assert_eq!(read.scheme, Scheme::Sips);
        assert_eq!((read.user(), read.password.as_deref()), (Some("bob"), Some("pw")));
        assert_eq!((read.host.as_str(), read.port), ("example.com", Some(5061)));
        assert_eq!(read.transport(), Some("tcp"));
        assert!(read.is_loose());
        assert_eq!(read.parameter("LR"), Some(None));
        assert_eq!(read.parameter("maddr"), None);
        assert_eq!(read.headers.as_deref(), Some("Subject=x&Priority=urgent"));
        assert_eq!(read.to_string(), text);
    }

    #[test]
    fn scheme_and_host_lose_their_case_and_the_user_keeps_it() {
        assert_eq!(uri("SIP:Bob@EXAMPLE.com").to_string(), "sip:Bob@example.com");
    }

    #[test]
    fn separators_may_stand_in_the_user() {
        let read = uri("sip:user;par=u%40example.net?x,y@example.com;p");
        assert_eq!(read.user(), Some("user;par=u%40example.net?x,y"));
        assert_eq!(read.user_decoded().as_deref(), Some("user;par=u@example.net?x,y"));
        assert_eq!(read.host, "example.com");
    }

    #[test]
    fn addresses_are_found_with_and_without_brackets() {
        assert_eq!(uri("sip:[2001:DB8::1]:5070").host_ip(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(uri("sip:192.0.2.1").host_ip(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(uri("sip:example.com").host_ip(), None);
        assert_eq!(Uri::sip("a", "2001:db8::1", Some(5070)).to_string(), "sip:a@[2001:db8::1]:5070");
    }

    #[test]
    fn a_made_user_is_escaped_so_that_it_reads_back() {
        let made = Uri::sip("front door@1\r\nX: y", "192.0.2.1", None);
        assert_eq!(made.to_string(), "sip:front%20door%401%0D%0AX%3A%20y@192.0.2.1");
        assert_eq!(uri(&made.to_string()).user_decoded().as_deref(), Some("front door@1\r\nX: y"));
        assert_eq!(Uri::sip("", "host", None).to_string(), "sip:host");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(uri("sip:100%@h").user_decoded().as_deref(), Some("100%"));
        assert_eq!(uri("sip:%4@h").user_decoded().as_deref(), Some("%4"));
        assert_eq!(uri("sip:%zz%41@h").user_decoded().as_deref(), Some("%zzA"));
    }

    #[test]
    fn a_telephone_uri_has_its_number_as_user() {
        let read = uri("tel:+1-555;phone-context=example.com");
        assert_eq!(read.user(), Some("+1-555"));
        assert_eq!(read.host_ip(), None);
        assert_eq!(read.to_string(), "tel:+1-555;phone-context=example.com");
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for text in [
            "",
            "sip:",
            "sip",
            "bob@example.com",
            "sip:@host",
            "sip:bob@",
            "sip:h:",
            "sip:h:70000",
            "sip:h:-1",
            "sip:[::1",
            "sip:[192.0.2.1]",
            "sip:a b@h",
            "sip:a@h;<x>",
            "sip:a@h\r\n",
            "sip:a@b@c",
            "sip:ho st",
            "1ab:x",
            "<sip:a@h>",
            "sip:a@h;=v",
            "sip:hé",
            "sip:[::1]x",
        ] {
            assert_eq!(Uri::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_parameter_is_replaced_and_not_doubled() {
        let mut changed = uri("sip:h;Transport=udp;x");
        set_parameter(&mut changed.parameters, "transport", Some("tcp"));
        set_parameter(&mut changed.parameters, "lr", None);
        assert_eq!(changed.to_string(), "sip:h;Transport=tcp;x;lr");
    }
}
