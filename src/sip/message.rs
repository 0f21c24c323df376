//! A SIP message in memory: start line, ordered headers as text, body as bytes.
//!
//! Reading bytes is in `parse`, writing them in `print`, the grammar of single values in `header`.

use std::borrow::Cow;
use std::fmt;

use super::header::{CSeq, NameAddr, Via, split_list};
use super::multipart::{self, Content};
use super::uri::Uri;

/// Methods compare with case (RFC 3261 section 7.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    Info,
    Message,
    Update,
    Prack,
    Refer,
    Notify,
    Register,
    Subscribe,
    Publish,
    Other(String),
}

impl Method {
    pub fn as_str(&self) -> &str {
        match self {
            Method::Invite => "INVITE",
            Method::Ack => "ACK",
            Method::Bye => "BYE",
            Method::Cancel => "CANCEL",
            Method::Options => "OPTIONS",
            Method::Info => "INFO",
            Method::Message => "MESSAGE",
            Method::Update => "UPDATE",
            Method::Prack => "PRACK",
            Method::Refer => "REFER",
            Method::Notify => "NOTIFY",
            Method::Register => "REGISTER",
            Method::Subscribe => "SUBSCRIBE",
            Method::Publish => "PUBLISH",
            Method::Other(token) => token,
        }
    }
}

impl From<&str> for Method {
    fn from(token: &str) -> Method {
        match token {
            "INVITE" => Method::Invite,
            "ACK" => Method::Ack,
            "BYE" => Method::Bye,
            "CANCEL" => Method::Cancel,
            "OPTIONS" => Method::Options,
            "INFO" => Method::Info,
            "MESSAGE" => Method::Message,
            "UPDATE" => Method::Update,
            "PRACK" => Method::Prack,
            "REFER" => Method::Refer,
            "NOTIFY" => Method::Notify,
            "REGISTER" => Method::Register,
            "SUBSCRIBE" => Method::Subscribe,
            "PUBLISH" => Method::Publish,
            other => Method::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Long names of headers with the letter of their compact form, most frequent first.
const NAMES: &[(&str, Option<u8>)] = &[
    ("Via", Some(b'v')),
    ("From", Some(b'f')),
    ("To", Some(b't')),
    ("Call-ID", Some(b'i')),
    ("CSeq", None),
    ("Contact", Some(b'm')),
    ("Content-Length", Some(b'l')),
    ("Content-Type", Some(b'c')),
    ("Max-Forwards", None),
    ("Route", None),
    ("Record-Route", None),
    ("User-Agent", None),
    ("Server", None),
    ("Allow", None),
    ("Accept", None),
    ("Supported", Some(b'k')),
    ("Require", None),
    ("Proxy-Require", None),
    ("Unsupported", None),
    ("Subject", Some(b's')),
    ("Session-Expires", Some(b'x')),
    ("Min-SE", None),
    ("Reason", None),
    ("Warning", None),
    ("Retry-After", None),
    ("Expires", None),
    ("Date", None),
    ("Timestamp", None),
    ("RSeq", None),
    ("RAck", None),
    ("Content-Encoding", Some(b'e')),
    ("Content-Disposition", None),
    ("Event", Some(b'o')),
    ("Allow-Events", Some(b'u')),
    ("Refer-To", Some(b'r')),
    ("Referred-By", Some(b'b')),
    ("Accept-Contact", Some(b'a')),
    ("Reject-Contact", Some(b'j')),
    ("Request-Disposition", Some(b'd')),
    ("Identity", Some(b'y')),
    ("Authorization", None),
    ("Proxy-Authorization", None),
    ("WWW-Authenticate", None),
    ("Proxy-Authenticate", None),
    ("P-Asserted-Identity", None),
];

/// The long name in its usual case for a known header or compact form.
fn known_name(name: &str) -> Option<&'static str> {
    match name.as_bytes() {
        [letter] => {
            let letter = letter.to_ascii_lowercase();
            NAMES.iter().find(|(_, compact)| *compact == Some(letter)).map(|(long, _)| *long)
        }
        _ => NAMES.iter().find(|(long, _)| long.eq_ignore_ascii_case(name)).map(|(long, _)| *long),
    }
}

/// The name to compare with: compact forms stand for their long names.
fn long_name(name: &str) -> &str {
    if name.len() == 1 { known_name(name).unwrap_or(name) } else { name }
}

/// Headers in order of appearance. Names compare without case; compact forms are folded to long names when added.
///
/// `Content-Length` never stands here: `parse` cuts the body by it, `print` writes the true one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    pub fn new() -> Headers {
        Headers(Vec::new())
    }

    pub fn with_capacity(lines: usize) -> Headers {
        Headers(Vec::with_capacity(lines))
    }

    fn name(name: &str) -> Cow<'static, str> {
        known_name(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
    }

    /// The first line of that name.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// Every line of that name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = long_name(name);
        self.0
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Every element of the comma lists of every line of that name. Not for headers whose values hold plain commas,
    /// such as Date.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).flat_map(split_list)
    }

    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((Headers::name(name), value.into()));
    }

    /// Puts a line in front of every other.
    pub fn prepend(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(0, (Headers::name(name), value.into()));
    }

    /// Replaces every line of that name by this one, at the place of the first.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let name = Headers::name(name);
        match self.0.iter().position(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            Some(first) => {
                let mut index = 0;
                self.0.retain(|(known, _)| {
                    let keep = index <= first || !known.eq_ignore_ascii_case(&name);
                    index += 1;
                    keep
                });
                if let Some(line) = self.0.get_mut(first) {
                    line.1 = value.into();
                }
            }
            None => self.0.push((name, value.into())),
        }
    }

    /// Replaces the first element of the comma list of that name and keeps the others: a received top Via.
    pub fn set_first(&mut self, name: &str, value: &str) {
        let name = long_name(name);
        match self.0.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
            Some((_, line)) => {
                let mut renewed = value.to_owned();
                for other in split_list(line).skip(1) {
                    renewed.push_str(", ");
                    renewed.push_str(other);
                }
                *line = renewed;
            }
            None => self.push(name, value),
        }
    }

    pub fn remove(&mut self, name: &str) {
        let name = long_name(name);
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_str()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topmost Via.
    pub fn via(&self) -> Option<Via> {
        Via::parse(self.list("Via").next()?)
    }

    pub fn from(&self) -> Option<NameAddr> {
        NameAddr::parse(self.value("From")?)
    }

    pub fn to(&self) -> Option<NameAddr> {
        NameAddr::parse(self.value("To")?)
    }

    pub fn call_id(&self) -> Option<&str> {
        self.value("Call-ID")
    }

    pub fn cseq(&self) -> Option<CSeq> {
        CSeq::parse(self.value("CSeq")?)
    }

    /// The first Contact; `None` for `*`.
    pub fn contact(&self) -> Option<NameAddr> {
        NameAddr::parse(self.list("Contact").next()?)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// As in the Content-Type header, parameters included; empty when the header was missing.
    pub content_type: String,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMessage {
    pub method: Method,
    pub uri: Uri,
    pub headers: Headers,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseMessage {
    /// 100 to 699.
    pub status: u16,
    pub reason: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Request(RequestMessage),
    Response(ResponseMessage),
}

/// What requests and responses read alike.
macro_rules! readers {
    ($message:ty) => {
        impl $message {
            /// The body with its type, or of a body in parts its session description; `None` when it is empty.
            pub fn body(&self) -> Option<Body> {
                body_of(&self.headers, &self.body)
            }

            /// Sets or clears the body and its Content-Type.
            pub fn set_body(&mut self, body: Option<Body>) {
                match body {
                    Some(Body { content_type, bytes }) => {
                        self.headers.set("Content-Type", content_type);
                        self.body = bytes;
                    }
                    None => {
                        self.headers.remove("Content-Type");
                        self.body.clear();
                    }
                }
            }

            /// The topmost Via.
            pub fn via(&self) -> Option<Via> {
                self.headers.via()
            }

            pub fn from(&self) -> Option<NameAddr> {
                self.headers.from()
            }

            pub fn to(&self) -> Option<NameAddr> {
                self.headers.to()
            }

            pub fn call_id(&self) -> Option<&str> {
                self.headers.call_id()
            }

            pub fn cseq(&self) -> Option<CSeq> {
                self.headers.cseq()
            }

            pub fn contact(&self) -> Option<NameAddr> {
                self.headers.contact()
            }
        }
    };
}

readers!(RequestMessage);
readers!(ResponseMessage);

fn body_of(headers: &Headers, bytes: &[u8]) -> Option<Body> {
    if bytes.is_empty() {
        return None;
    }
    let content_type = headers.value("Content-Type").unwrap_or_default();
    // Of several parts the session description is the one somebody here can use.
    if multipart::is_multipart(content_type)
        && let Content::Description(part) = multipart::description(content_type, bytes)
    {
        return Some(Body { content_type: "application/sdp".to_owned(), bytes: part.to_vec() });
    }
    Some(Body { content_type: content_type.to_owned(), bytes: bytes.to_vec() })
}

impl RequestMessage {
    pub fn new(method: Method, uri: Uri) -> RequestMessage {
        RequestMessage { method, uri, headers: Headers::new(), body: Vec::new() }
    }
}

impl ResponseMessage {
    /// With the usual reason phrase and no headers.
    pub fn new(status: u16) -> ResponseMessage {
        ResponseMessage {
            status,
            reason: reason_phrase(status).to_owned(),
            headers: Headers::new(),
            body: Vec::new(),
        }
    }

    /// An answer to `request` with the headers every answer repeats (RFC 3261 section 8.2.6.2), as they were
    /// written. The tag of To is the caller's to add.
    pub fn answering(request: &RequestMessage, status: u16) -> ResponseMessage {
        let mut response = ResponseMessage::new(status);
        for via in request.headers.values("Via") {
            response.headers.push("Via", via);
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            if let Some(value) = request.headers.value(name) {
                response.headers.push(name, value);
            }
        }
        if status == 100
            && let Some(timestamp) = request.headers.value("Timestamp")
        {
            response.headers.push("Timestamp", timestamp);
        }
        response
    }
}

/// The usual words for a status; those of its class when it is unknown.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => match status / 100 {
            ..2 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            6.. => "Global Failure",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(name, *value);
        }
        headers
    }

    fn lines(headers: &Headers) -> Vec<(&str, &str)> {
        headers.iter().collect()
    }

    #[test]
    fn compact_and_shouted_names_are_found_under_the_long_name() {
        let headers =
            headers(&[("i", "1"), ("CALL-ID", "2"), ("M", "<sip:a@h>"), ("x-Own", "y"), ("q", "z")]);
        assert_eq!(headers.values("call-id").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers.contact().unwrap().uri.to_string(), "sip:a@h");
        assert_eq!(headers.value("X-OWN"), Some("y"));
        let names: Vec<&str> = headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Call-ID", "Call-ID", "Contact", "x-Own", "q"]);
    }

    #[test]
    fn every_compact_form_is_a_letter_of_its_own() {
        let mut letters: Vec<u8> = NAMES.iter().filter_map(|(_, compact)| *compact).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), NAMES.iter().filter(|(_, compact)| compact.is_some()).count());
    }

    #[test]
    fn setting_leaves_one_line_at_the_first_place() {
        let mut changed = headers(&[("P-A", "1"), ("Via", "x"), ("P-B", "2"), ("v", "y"), ("P-C", "3")]);
        changed.set("via", "z");
        assert_eq!(lines(&changed), [("P-A", "1"), ("Via", "z"), ("P-B", "2"), ("P-C", "3")]);
        changed.set("P-D", "4");
        assert_eq!(changed.value("P-D"), Some("4"));
        changed.remove("V");
        assert_eq!(changed.value("Via"), None);
    }

    #[test]
    fn the_top_via_is_replaced_alone() {
        let mut changed = headers(&[("Via", "SIP/2.0/UDP a , SIP/2.0/UDP b"), ("Via", "SIP/2.0/UDP c")]);
        changed.set_first("Via", "SIP/2.0/UDP a;received=192.0.2.1");
        assert_eq!(
            changed.list("Via").collect::<Vec<_>>(),
            ["SIP/2.0/UDP a;received=192.0.2.1", "SIP/2.0/UDP b", "SIP/2.0/UDP c"]
        );
        changed.prepend("Via", "SIP/2.0/UDP top");
        assert_eq!(changed.via().unwrap().host, "top");
    }

    #[test]
    fn an_answer_repeats_what_finds_its_transaction() {
        let mut request = RequestMessage::new(Method::Invite, Uri::sip("a", "h", None));
        for (name, value) in [
            ("Via", "SIP/2.0/UDP a"),
            ("Via", "SIP/2.0/UDP b"),
            ("From", "<sip:f@h>;tag=1"),
            ("To", "sip:t@h"),
            ("Call-ID", "c"),
            ("CSeq", "1 INVITE"),
            ("Timestamp", "54"),
            ("Call-ID", "doubled"),
            ("Subject", "s"),
        ] {
            request.headers.push(name, value);
        }
        let answer = ResponseMessage::answering(&request, 486);
        assert_eq!(answer.reason, "Busy Here");
        assert_eq!(
            lines(&answer.headers),
            [
                ("Via", "SIP/2.0/UDP a"),
                ("Via", "SIP/2.0/UDP b"),
                ("From", "<sip:f@h>;tag=1"),
                ("To", "sip:t@h"),
                ("Call-ID", "c"),
                ("CSeq", "1 INVITE"),
            ]
        );
        assert_eq!(ResponseMessage::answering(&request, 100).headers.value("Timestamp"), Some("54"));
    }

    #[test]
    fn a_body_comes_and_goes_with_its_type() {
        let mut message = ResponseMessage::new(200);
        assert_eq!(message.body(), None);
        let body = Body { content_type: "application/sdp".into(), bytes: b"v=0".to_vec() };
        message.set_body(Some(body.clone()));
        assert_eq!(message.body(), Some(body));
        message.set_body(None);
        assert_eq!((message.body(), message.headers.is_empty()), (None, true));
    }

    #[test]
    fn methods_compare_with_case() {
        assert_eq!(Method::from("INVITE"), Method::Invite);
        assert_eq!(Method::from("invite"), Method::Other("invite".into()));
        assert_eq!(Method::from("invite").as_str(), "invite");
    }

    #[test]
    fn unknown_statuses_have_the_words_of_their_class() {
        assert_eq!(reason_phrase(488), "Not Acceptable Here");
        assert_eq!([199, 299, 399, 499, 599, 699].map(reason_phrase).map(str::len), [8, 7, 11, 15, 14, 14]);
    }
}
