//! Bytes to one message, tolerant of what real peers send and hard against what attackers send.
//!
//! Taken: LF line ends, folded and compact headers, odd white space, a missing last blank line, text that is not
//! UTF-8. Refused: what leaves doubt about who asked what, or where the message ends. Framing of streams is in
//! `stream`; whether a method, extension or body is supported belongs to the layers above.

use std::borrow::Cow;

use super::header::{CSeq, NameAddr, Via, is_token};
use super::message::{Headers, Message, Method, RequestMessage, ResponseMessage};
use super::uri::{Scheme, Uri, decimal};

/// The longest message taken, in bytes; also the most that UDP carries.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest start line with headers, in bytes.
pub const MAX_HEAD: usize = 32 * 1024;
/// The most header lines.
pub const MAX_LINES: usize = 256;

/// Why bytes are no acceptable message, and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Malformed {
    pub why: &'static str,
    /// The request to answer with `status`: its top Via can be read and it has every header an answer repeats.
    /// Its URI may be a place holder. `None`: stay silent (a response, an ACK, or not enough to answer).
    pub answerable: Option<Box<RequestMessage>>,
    /// 400, 416 or 505.
    pub status: u16,
}

impl Malformed {
    fn silent(why: &'static str) -> Malformed {
        Malformed { why, answerable: None, status: 400 }
    }
}

/// Whether a datagram only keeps a path open: line ends, or the zero bytes and blanks some phones send.
pub fn is_keep_alive(bytes: &[u8]) -> bool {
    bytes.len() <= 8 && bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0 | b' '))
}

/// Reads one whole message, a datagram or what `stream` cut out. The body ends where Content-Length says, and is
/// everything left without it.
pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    if bytes.len() > MAX_MESSAGE {
        return Err(Malformed::silent("longer than a message may be"));
    }
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = bytes.get(blank..).unwrap_or_default();
    let (head, rest) = match find_head_end(bytes, 0) {
        Some(end) => (bytes.get(..end.head), bytes.get(end.body..)),
        None if bytes.ends_with(b"\n") => (Some(bytes), None),
        None => return Err(Malformed::silent("no end of the headers")),
    };
    let (head, rest) = (head.unwrap_or_default(), rest.unwrap_or_default());
    if head.len() > MAX_HEAD {
        return Err(Malformed::silent("longer headers than a message may have"));
    }
    let head = String::from_utf8_lossy(head);
    let (start, lines) = head.split_once('\n').unwrap_or((&head, ""));
    let start = start.trim();
    let read = read_headers(lines)?;
    let body = body_of(&read, rest);
    if start.get(..4).is_some_and(|protocol| protocol.eq_ignore_ascii_case("SIP/")) {
        response(start, read, body)
    } else {
        request(start, read, body)
    }
}

/// Where the start line with the headers ends, and where the body starts behind the blank line.
pub(super) struct HeadEnd {
    pub head: usize,
    pub body: usize,
}

/// Looks for the blank line from `from` on.
pub(super) fn find_head_end(bytes: &[u8], from: usize) -> Option<HeadEnd> {
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match bytes.get(at..)? {
            [b'\n', ..] => return Some(HeadEnd { head: at, body: at + 1 }),
            [b'\r', b'\n', ..] => return Some(HeadEnd { head: at, body: at + 2 }),
            _ => {}
        }
    }
}

/// The lines behind the start line, each with its continuation lines. `Err`: not `name: value`.
pub(super) struct HeaderLines<'a> {
    pub rest: &'a str,
}

impl<'a> HeaderLines<'a> {
    fn line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        line
    }
}

impl<'a> Iterator for HeaderLines<'a> {
    type Item = Result<(&'a str, Cow<'a, str>), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let first = self.line();
        let (name, value) = match first.split_once(':') {
            Some((name, value)) if is_token(name.trim_end()) => (name.trim_end(), value),
            _ => ("", ""),
        };
        let mut value = without_returns(value.trim());
        while self.rest.starts_with([' ', '\t']) {
            let more = without_returns(self.line().trim());
            if !value.is_empty() && !more.is_empty() {
                value.to_mut().push(' ');
            }
            value.to_mut().push_str(&more);
        }
        Some(if name.is_empty() { Err(()) } else { Ok((name, value)) })
    }
}

/// A lone CR would end a line for some readers: it becomes a space.
fn without_returns(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { Cow::Owned(text.replace('\r', " ")) } else { Cow::Borrowed(text) }
}

/// What the Content-Length lines of one message say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Length {
    #[default]
    Absent,
    Bytes(usize),
    /// Not a number, or two that differ.
    Wrong,
}

impl Length {
    pub(super) fn and(self, value: &str) -> Length {
        match (self, decimal(value)) {
            (Length::Absent, Some(bytes)) => Length::Bytes(bytes),
            (Length::Bytes(before), Some(bytes)) if before == bytes => self,
            _ => Length::Wrong,
        }
    }

    pub(super) fn is_named(name: &str) -> bool {
        name.eq_ignore_ascii_case("Content-Length") || name.eq_ignore_ascii_case("l")
    }
}

struct Read {
    headers: Headers,
    length: Length,
    /// The first thing found wrong.
    problem: Option<&'static str>,
}

fn read_headers(lines: &str) -> Result<Read, Malformed> {
    let mut read = Read { headers: Headers::with_capacity(16), length: Length::Absent, problem: None };
    let mut count = 0;
    for line in (HeaderLines { rest: lines }) {
        match line {
            // Not counted: a message without one is printed with it.
            Ok((name, value)) if Length::is_named(name) => {
                read.length = read.length.and(&value);
                continue;
            }
            Ok((name, value)) => read.headers.push(name, value),
            Err(()) => read.problem = Some("a header line without name or colon"),
        }
        count += 1;
        if count > MAX_LINES {
            return Err(Malformed::silent("more headers than a message may have"));
        }
    }
    Ok(read)
}

fn body_of(read: &Read, rest: &[u8]) -> Result<Vec<u8>, &'static str> {
    match read.length {
        Length::Absent => Ok(rest.to_vec()),
        Length::Bytes(length) => match rest.get(..length) {
            Some(body) => Ok(body.to_vec()),
            None => Err("body shorter than Content-Length"),
        },
        Length::Wrong => Err("Content-Length is not one number"),
    }
}

fn response(start: &str, read: Read, body: Result<Vec<u8>, &'static str>) -> Result<Message, Malformed> {
    let (version, rest) = start.split_once([' ', '\t']).unwrap_or((start, ""));
    let (status, reason) = rest.trim_start().split_once([' ', '\t']).unwrap_or((rest.trim_start(), ""));
    if !version.eq_ignore_ascii_case("SIP/2.0") {
        return Err(Malformed::silent("response of another SIP version"));
    }
    let status = decimal(status)
        .filter(|number| (100..700).contains(number) && status.len() == 3)
        .ok_or(Malformed::silent("status code out of range"))?;
    let cseq = check_headers(&read.headers).map_err(Malformed::silent)?;
    if matches!(cseq.method, Method::Ack) {
        return Err(Malformed::silent("response to an ACK"));
    }
    if let Some(why) = read.problem {
        return Err(Malformed::silent(why));
    }
    let body = body.map_err(Malformed::silent)?;
    let reason = without_returns(reason.trim()).into_owned();
    Ok(Message::Response(ResponseMessage { status, reason, headers: read.headers, body }))
}

fn request(start: &str, read: Read, body: Result<Vec<u8>, &'static str>) -> Result<Message, Malformed> {
    let mut words = start.split_ascii_whitespace();
    let method = words.next().unwrap_or("");
    let version = words.next_back().unwrap_or("");
    if !is_token(method) || !version.get(..4).is_some_and(|protocol| protocol.eq_ignore_ascii_case("SIP/")) {
        return Err(Malformed::silent("neither a request line nor a status line"));
    }
    let method = Method::from(method);
    let (uri, mut wrong) = match (words.next(), words.next()) {
        (Some(text), None) => request_uri(text),
        _ => (None, Some((400, "space in the request line"))),
    };
    if !version.eq_ignore_ascii_case("SIP/2.0") {
        wrong = Some((505, "request of another SIP version"));
    }
    let (body, short) = match body {
        Ok(body) => (body, None),
        Err(why) => (Vec::new(), Some(why)),
    };
    let wrong = wrong.or_else(|| {
        let why = read.problem.or_else(|| check_request(&read.headers, &method).err()).or(short)?;
        Some((400, why))
    });
    let request = |uri| RequestMessage { method, uri, headers: read.headers, body };
    match (uri, wrong) {
        (Some(uri), None) => Ok(Message::Request(request(uri))),
        (uri, wrong) => {
            let (status, why) = wrong.unwrap_or((400, "not a URI in the request line"));
            let request = request(uri.unwrap_or_else(Uri::unreadable));
            Err(Malformed { why, answerable: is_answerable(&request).then(|| Box::new(request)), status })
        }
    }
}

fn request_uri(text: &str) -> (Option<Uri>, Option<(u16, &'static str)>) {
    let uri = Uri::parse(text);
    let wrong = match &uri {
        None => Some((400, "not a URI in the request line")),
        Some(uri) if uri.headers.is_some() => Some((400, "headers in the Request-URI")),
        Some(Uri { scheme: Scheme::Other(scheme), .. }) if scheme != "tel" => {
            Some((416, "unknown scheme in the Request-URI"))
        }
        Some(_) => None,
    };
    (uri, wrong)
}

/// The headers without which neither a transaction nor a dialog can be found (RFC 3261 section 8.1.1).
fn check_headers(headers: &Headers) -> Result<CSeq, &'static str> {
    let mut vias = headers.list("Via").peekable();
    if vias.peek().is_none() {
        return Err("no Via");
    }
    if !vias.all(|via| Via::parse(via).is_some()) {
        return Err("wrong Via");
    }
    if NameAddr::parse(single(headers, "From")?).is_none() {
        return Err("wrong From");
    }
    if NameAddr::parse(single(headers, "To")?).is_none() {
        return Err("wrong To");
    }
    if single(headers, "Call-ID")?.is_empty() {
        return Err("empty Call-ID");
    }
    CSeq::parse(single(headers, "CSeq")?).ok_or("wrong CSeq")
}

fn single<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, &'static str> {
    let mut values = headers.values(name);
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err("From, To, Call-ID or CSeq is missing or doubled"),
    }
}

fn check_request(headers: &Headers, method: &Method) -> Result<(), &'static str> {
    if check_headers(headers)?.method != *method {
        return Err("CSeq names another method");
    }
    if !headers.list("Contact").all(|contact| contact == "*" || NameAddr::parse(contact).is_some()) {
        return Err("wrong Contact");
    }
    if !headers.list("Record-Route").all(|route| NameAddr::parse(route).is_some()) {
        return Err("wrong Record-Route");
    }
    Ok(())
}

fn is_answerable(request: &RequestMessage) -> bool {
    let present = |name| request.headers.value(name).is_some_and(|value| !value.is_empty());
    request.method != Method::Ack
        && request.via().is_some()
        && ["From", "To", "Call-ID", "CSeq"].into_iter().all(present)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIA: &str = "Via: SIP/2.0/UDP h;branch=z9hG4bK1\r\n";
    const REST: &str = "From: <sip:f@h>;tag=1\r\nTo: <sip:t@h>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n";

    fn invite(extra: &str) -> Vec<u8> {
        format!("INVITE sip:t@h SIP/2.0\r\n{VIA}{REST}{extra}").into_bytes()
    }

    fn request(bytes: &[u8]) -> RequestMessage {
        match parse(bytes) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn folded_lines_become_one_with_single_spaces() {
        let read = request(&invite("Subject:\r\n  one\r\n\t two  \n three\r\nP-X: y\r\n\r\n"));
        assert_eq!(read.headers.value("Subject"), Some("one two three"));
        assert_eq!(read.headers.value("P-X"), Some("y"));
    }

    #[test]
    fn a_lone_carriage_return_is_a_space() {
        let read = request(&invite("Subject: a\rInjected: b\r\n\r\n"));
        assert_eq!(read.headers.value("Subject"), Some("a Injected: b"));
        assert_eq!(read.headers.value("Injected"), None);
    }

    #[test]
    fn the_body_ends_where_the_length_says() {
        assert_eq!(request(&invite("Content-Length: 3\r\n\r\nabcdef")).body, b"abc");
        assert_eq!(request(&invite("\r\nabcdef")).body, b"abcdef");
        assert_eq!(request(&invite("l:0\r\n\r\nabcdef")).body, b"");
        assert_eq!(request(&invite("Content-Length: 3\r\n\r\nabcdef")).headers.value("Content-Length"), None);
    }

    #[test]
    fn a_refused_request_can_be_answered_in_its_own_words() {
        let refused = parse(&invite("Content-Length: 9\r\n\r\nabc")).unwrap_err();
        assert_eq!((refused.status, refused.why), (400, "body shorter than Content-Length"));
        let answerable = refused.answerable.unwrap();
        assert_eq!(answerable.call_id(), Some("c"));
        assert_eq!(answerable.method, Method::Invite);
        assert_eq!(answerable.uri.to_string(), "sip:t@h");
    }

    #[test]
    fn an_unreadable_request_uri_is_answered_without_it() {
        let text = format!("OPTIONS nonsense SIP/2.0\r\n{VIA}{REST}\r\n");
        let refused = parse(text.as_bytes()).unwrap_err();
        assert_eq!((refused.status, refused.why), (400, "not a URI in the request line"));
        assert_eq!(refused.answerable.unwrap().method, Method::Options);
    }

    #[test]
    fn the_version_is_judged_before_everything_else() {
        let text = format!("INVITE foo:x SIP/9\r\n{VIA}{REST}\r\n");
        assert_eq!(parse(text.as_bytes()).unwrap_err().status, 505);
    }

    #[test]
    fn an_ack_is_never_answered() {
        let text = format!("ACK sip:t@h SIP/2.0\r\n{VIA}{REST}\r\n");
        let refused = parse(text.as_bytes()).unwrap_err();
        assert_eq!((refused.why, refused.answerable), ("CSeq names another method", None));
    }

    #[test]
    fn every_mandatory_header_is_missed() {
        let whole = String::from_utf8(invite("\r\n")).unwrap();
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            let without: String =
                whole.split_inclusive('\n').filter(|line| !line.starts_with(&format!("{name}:"))).collect();
            assert_eq!(parse(without.as_bytes()).unwrap_err().answerable, None, "{name}");
        }
    }

    #[test]
    fn limits_hold_for_bytes_headers_and_lines() {
        let silent = |bytes: &[u8]| parse(bytes).unwrap_err();
        let fits = invite(&format!("\r\n{}", "b".repeat(MAX_MESSAGE - invite("\r\n").len())));
        assert!(parse(&fits).is_ok());
        let long = [fits.as_slice(), b"b"].concat();
        assert_eq!(silent(&long).why, "longer than a message may be");
        let wide = invite(&format!("X: {}\r\n\r\n", "y".repeat(MAX_HEAD)));
        assert_eq!(silent(&wide).why, "longer headers than a message may have");
        assert!(parse(&invite(&format!("{}\r\n", "X: y\r\n".repeat(MAX_LINES - 5)))).is_ok());
        let many = invite(&format!("{}\r\n", "X: y\r\n".repeat(MAX_LINES - 4)));
        assert_eq!(silent(&many).why, "more headers than a message may have");
    }

    #[test]
    fn a_status_line_is_read_with_any_reason() {
        let response = |line: &str| parse(format!("{line}\r\n{VIA}{REST}\r\n").as_bytes());
        for (line, status, reason) in [
            ("SIP/2.0 200 OK", 200, "OK"),
            ("sip/2.0 180", 180, ""),
            ("SIP/2.0 486  So busy, \"sorry\" ", 486, "So busy, \"sorry\""),
        ] {
            match response(line) {
                Ok(Message::Response(read)) => {
                    assert_eq!((read.status, read.reason.as_str()), (status, reason))
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        for line in
            ["SIP/2.0 099 x", "SIP/2.0 700 x", "SIP/2.0 20 x", "SIP/2.0 abc x", "SIP/2.0", "SIP/1.0 200 OK"]
        {
            assert_eq!(response(line).unwrap_err().answerable, None, "{line}");
        }
    }

    #[test]
    fn every_cut_of_a_message_is_refused_or_whole() {
        let whole = invite("Content-Length: 4\r\n\r\nbody");
        assert!(parse(&whole).is_ok());
        for end in 0..whole.len() {
            let cut = &whole[..end];
            let ends_a_line_behind_cseq = cut.ends_with(b"1 INVITE\r\n");
            assert_eq!(parse(cut).is_ok(), ends_a_line_behind_cseq, "{:?}", String::from_utf8_lossy(cut));
        }
    }

    #[test]
    fn keep_alives_are_told_from_messages() {
        for bytes in [b"\r\n\r\n".as_slice(), b"\r\n", b"\0\0\0\0", b""] {
            assert!(is_keep_alive(bytes));
            assert!(parse(bytes).is_err());
        }
        assert!(!is_keep_alive(b"\r\n\r\nINV"));
        assert!(!is_keep_alive(&[0; 9]));
    }
}
