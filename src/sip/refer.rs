//! REFER in words (RFC 3515, RFC 3892, RFC 4488): where to, by whom, and how it went.
//!
//! ```text
//! REFER, Refer-To: <target?Replaces=…>  ──▶ 202 ──▶ NOTIFY "SIP/2.0 100 Trying" ──▶ … ──▶ NOTIFY "SIP/2.0 200 OK", terminated
//! ```
//! Whether a target may be called, and calling it, is the user agent's.

use super::header::NameAddr;
use super::message::{Body, Headers, reason_phrase};
use super::replaces::{Replaces, uri_headers};
use super::uri::{Scheme, Uri};

/// The event package of transfers.
pub const EVENT: &str = "refer";
const FRAGMENT: &str = "message/sipfrag;version=2.0";
/// A Referred-By longer than this is not passed on, bytes.
const REFERRER_MAX: usize = 1024;

/// What a REFER asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referral {
    /// Whom to call: without header fields and without a method.
    pub target: Uri,
    /// The dialog of the target that the new call takes over: an attended transfer.
    pub replaces: Option<Replaces>,
    /// Referred-By as it came, for the new INVITE.
    pub referred_by: Option<String>,
    /// The referrer wants no NOTIFY (RFC 4488).
    pub quiet: bool,
}

impl Referral {
    /// Reads the headers of a REFER.
    ///
    /// # Errors
    /// The status it is refused with, and why.
    pub fn read(headers: &Headers) -> Result<Referral, (u16, &'static str)> {
        let mut values = headers.list("Refer-To");
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err((400, "one Refer-To is needed"));
        };
        // Without brackets its header fields belong to the URI all the same: what else could they be?
        let uri = match value.contains('<') {
            true => NameAddr::parse(value).map(|address| address.uri),
            false => Uri::parse(value.trim()),
        };
        let mut target = uri.ok_or((400, "the Refer-To cannot be read"))?;
        match &target.scheme {
            Scheme::Sip | Scheme::Sips => {}
            Scheme::Other(name) if name == "tel" => {}
            Scheme::Other(_) => return Err((416, "Refer-To: only sip, sips and tel can be called")),
        }
        if let Some(method) = target.parameter("method") {
            if !method.is_some_and(|method| method.eq_ignore_ascii_case("INVITE")) {
                return Err((501, "Refer-To: only calls are made for others"));
            }
            target.parameters.retain(|(name, _)| !name.eq_ignore_ascii_case("method"));
        }
        let mut replaces = None;
        // Of the header fields only Replaces is taken: the rest would let a peer write our INVITE.
        for (name, value) in target.headers.take().iter().flat_map(|text| uri_headers(text)) {
            if name.eq_ignore_ascii_case("Replaces") {
                let read = Replaces::parse(&value).ok_or((400, "the Replaces in Refer-To cannot be read"))?;
                replaces = Some(read);
            }
        }
        let referred_by = headers
            .value("Referred-By")
            .filter(|value| value.len() <= REFERRER_MAX && NameAddr::parse(value).is_some());
        Ok(Referral {
            target,
            replaces,
            referred_by: referred_by.map(str::to_owned),
            quiet: headers.value("Refer-Sub").is_some_and(|value| value.trim().eq_ignore_ascii_case("false")),
        })
    }
}

/// `Refer-To` for our own REFER.
pub fn refer_to(target: &Uri, replaces: Option<&Replaces>) -> String {
    let mut target = target.clone();
    target.headers = replaces
        .map(|replaces| format!("Replaces={}", super::replaces::escape_uri_header(&replaces.to_string())));
    format!("<{target}>")
}

/// The body of a NOTIFY: how the call that was asked for stands.
pub fn fragment(status: u16, reason: Option<&str>) -> Body {
    let reason = reason.map_or_else(
        || reason_phrase(status).to_owned(),
        |text| text.chars().filter(|letter| !letter.is_control()).take(128).collect(),
    );
    Body { content_type: FRAGMENT.to_owned(), bytes: format!("SIP/2.0 {status} {reason}\r\n").into_bytes() }
}

/// The status and text of a NOTIFY's body; `None`: it is no fragment with a status line.
pub fn status_of(body: &Body) -> Option<(u16, String)> {
    let kind = body.content_type.split(';').next()?.trim();
    if !kind.eq_ignore_ascii_case("message/sipfrag") {
        return None;
    }
    let text = String::from_utf8_lossy(&body.bytes);
    let line = text.lines().next()?.trim();
    let rest = line.get(..8).filter(|version| version.eq_ignore_ascii_case("SIP/2.0 ")).and(line.get(8..))?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = status.parse().ok().filter(|status| (100..700).contains(status))?;
    let reason = reason.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter });
    Some((status, reason.take(128).collect()))
}

/// Subscription-State (RFC 6665 §4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Seconds it goes on; `None`: not said.
    Active(Option<u32>),
    Terminated,
}

impl Subscription {
    /// Of a NOTIFY. One without the header, as old phones send, goes on.
    pub fn of(headers: &Headers) -> Subscription {
        let value = headers.value("Subscription-State").unwrap_or_default();
        let (state, parameters) = value.split_once(';').unwrap_or((value, ""));
        if state.trim().eq_ignore_ascii_case("terminated") {
            return Subscription::Terminated;
        }
        let expires = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("expires").then(|| value.trim().parse().ok())?
        });
        Subscription::Active(expires)
    }

    /// The header's value.
    pub fn value(self) -> String {
        match self {
            Subscription::Active(None) => "active".to_owned(),
            Subscription::Active(Some(seconds)) => format!("active;expires={seconds}"),
            // RFC 3515 §2.4.7: what was to be told has been told.
            Subscription::Terminated => "terminated;reason=noresource".to_owned(),
        }
    }
}

/// Whether a NOTIFY is about transfers, and the `id` of its subscription.
pub fn is_about_refer(headers: &Headers) -> bool {
    let value = headers.value("Event").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, *value));
        headers
    }

    #[test]
    fn a_blind_and_an_attended_target_are_read() {
        let blind = Referral::read(&headers(&[
            ("r", "\"Bob\" <sip:bob@example.com;transport=tcp;method=INVITE>"),
            ("b", "<sip:alice@example.com>"),
        ]));
        let blind = blind.expect("readable");
        assert_eq!(blind.target.to_string(), "sip:bob@example.com;transport=tcp");
        assert_eq!((blind.replaces, blind.quiet), (None, false));
        assert_eq!(blind.referred_by.as_deref(), Some("<sip:alice@example.com>"));
        let attended = Referral::read(&headers(&[
            ("Refer-To", "<sip:bob@h?Replaces=c%40h%3Bto-tag%3D1%3Bfrom-tag%3D2&X-Evil=1&Subject=x>"),
            ("Refer-Sub", "false"),
        ]));
        let attended = attended.expect("readable");
        assert_eq!(attended.target.to_string(), "sip:bob@h", "nobody writes our INVITE");
        assert_eq!(attended.replaces.expect("a dialog").call_id, "c@h");
        assert!(attended.quiet);
        let bare =
            Referral::read(&headers(&[("Refer-To", "sip:bob@h?Replaces=c%3Bto-tag%3D1%3Bfrom-tag%3D2")]));
        assert!(bare.expect("readable").replaces.is_some());
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_its_status() {
        for (value, status) in [
            ("", 400),
            ("<sip:a@h>, <sip:b@h>", 400),
            ("<sip:a@h", 400),
            ("http://example.com/", 416),
            ("<mailto:a@example.com>", 416),
            ("<sip:a@h;method=BYE>", 501),
            ("<sip:a@h?Replaces=c%3Bto-tag%3D1>", 400),
        ] {
            let read = Referral::read(&headers(&[("Refer-To", value)]));
            assert_eq!(read.err().map(|(status, _)| status), Some(status), "{value}");
        }
        assert_eq!(Referral::read(&Headers::new()).err().map(|(status, _)| status), Some(400));
    }

    #[test]
    fn our_own_refer_is_understood_by_ourselves() {
        let target = Uri::parse("sip:bob@h:5070;transport=tcp").expect("a URI");
        let replaces = Replaces::parse("c@h;to-tag=1;from-tag=2").expect("a dialog");
        for replaces in [None, Some(replaces)] {
            let value = refer_to(&target, replaces.as_ref());
            let read = Referral::read(&headers(&[("Refer-To", &value)])).expect("readable");
            assert_eq!((read.target, read.replaces), (target.clone(), replaces));
        }
    }

    #[test]
    fn news_is_written_and_read() {
        assert_eq!(fragment(486, None).bytes, b"SIP/2.0 486 Busy Here\r\n");
        assert_eq!(fragment(603, Some("No\r\nX: y")).bytes, b"SIP/2.0 603 NoX: y\r\n", "no second line");
        assert_eq!(status_of(&fragment(180, None)), Some((180, "Ringing".to_owned())));
        let body =
            |kind: &str, text: &str| Body { content_type: kind.into(), bytes: text.as_bytes().to_vec() };
        assert_eq!(status_of(&body("message/sipfrag", "SIP/2.0 200")), Some((200, String::new())));
        for (kind, text) in [
            ("text/plain", "SIP/2.0 200 OK"),
            ("message/sipfrag", ""),
            ("message/sipfrag", "INVITE sip:a@h SIP/2.0"),
            ("message/sipfrag", "SIP/2.0 99 Low"),
            ("message/sipfrag", "SIP/2.0 abc"),
        ] {
            assert_eq!(status_of(&body(kind, text)), None, "{kind} {text}");
        }
    }

    #[test]
    fn the_state_of_a_subscription_is_read_and_written() {
        let of = |value: &str| Subscription::of(&headers(&[("Subscription-State", value)]));
        assert_eq!(of("active;expires=60"), Subscription::Active(Some(60)));
        assert_eq!(of("terminated;reason=noresource"), Subscription::Terminated);
        assert_eq!(of("pending"), Subscription::Active(None));
        assert_eq!(Subscription::of(&Headers::new()), Subscription::Active(None));
        for state in [Subscription::Active(Some(60)), Subscription::Active(None), Subscription::Terminated] {
            assert_eq!(of(&state.value()), state);
        }
        assert!(is_about_refer(&headers(&[("o", "refer;id=7")])));
        assert!(!is_about_refer(&headers(&[("Event", "presence")])) && !is_about_refer(&Headers::new()));
    }
}
