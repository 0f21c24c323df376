//! What an INVITE says about its call besides media: who calls and under which names (RFC 3325, RFC 3323), whom it was
//! for before (RFC 5806, RFC 7044), room and session, and the `X-` headers an application gives it.
//!
//! Everything is bounded, and control characters are drawn: it ends in logs, records and file names.

use super::{UserAgent, user_of};
use crate::engine::plan::{CallId, Label};
use crate::sip::language::languages;
use crate::sip::party::{asserted, first_diverting, shown, wants_privacy};
use crate::sip::{Headers, Incoming, NameAddr};

/// `X-` headers kept of one call.
const HEADERS_MAX: usize = 32;
/// The longest value that is kept, bytes.
const VALUE_MAX: usize = 1024;
const NAME_MAX: usize = 64;
/// A caller that does not want to be known.
const HIDDEN: &str = "anonymous";
/// Headers of an application besides `X-`.
const ALLOWED: [&str; 6] =
    ["Subject", "Priority", "Alert-Info", "Call-Info", "User-to-User", "P-Preferred-Identity"];

/// The label of a call from its INVITE, without what the user agent itself gives (name, call, agent).
/// `believed`: what it asserts about the caller counts.
pub(super) fn label_of(invite: &Incoming, believed: bool) -> Label {
    let headers = &invite.headers;
    let identity = asserted(headers).filter(|_| believed);
    let hidden = wants_privacy(headers);
    // Who proved to be a user is that user, whatever From says.
    let written = invite.user.clone().unwrap_or_else(|| user_of(&invite.from.uri));
    let named = |address: &NameAddr| address.display.as_deref().map(shown).filter(|name| !name.is_empty());
    let user = |address: &NameAddr| shown(&user_of(&address.uri));
    let is_anonymous = written.is_empty() || written.eq_ignore_ascii_case(HIDDEN);
    let from = match (&identity, hidden) {
        (_, true) => HIDDEN.to_owned(),
        (Some(identity), false) if is_anonymous => user(identity),
        (Some(_) | None, false) => written,
    };
    let display = named(&invite.from).or_else(|| identity.as_ref().and_then(named));
    let first = |name: &str| headers.value(name).map(shown).filter(|value| !value.is_empty());
    Label {
        display_name: display.filter(|_| !hidden).unwrap_or_default(),
        asserted: identity.as_ref().filter(|_| !hidden).map(user),
        proven: invite.user.clone(),
        diverted_by: first_diverting(headers).as_ref().map(user).filter(|user| !user.is_empty()),
        room: first("X-Room-ID").unwrap_or_else(|| shown(&invite.call_id)),
        session: first("X-Session-ID").unwrap_or_else(|| from.clone()),
        headers: custom(headers),
        languages: languages(headers),
        to: user_of(&invite.request_uri),
        incoming: true,
        sip_call_id: invite.call_id.clone(),
        peer: invite.peer.remote.to_string(),
        from,
        ..Label::default()
    }
}

/// The `X-` headers, in order.
fn custom(headers: &Headers) -> Vec<(String, String)> {
    let ours = |(name, _): &(&str, &str)| {
        name.len() <= NAME_MAX && name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("X-"))
    };
    let cut = |value: &str| {
        let mut end = value.len().min(VALUE_MAX);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let drawn = |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
        value.get(..end).unwrap_or_default().chars().map(drawn).collect::<String>()
    };
    headers.iter().filter(ours).take(HEADERS_MAX).map(|(name, value)| (name.to_owned(), cut(value))).collect()
}

/// Whether an application may put this header into an INVITE of ours.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    if headers.len() > HEADERS_MAX {
        return Err(format!("at most {HEADERS_MAX} headers"));
    }
    for (name, value) in headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!%*+`'~".contains(&byte);
        let known = name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("X-"))
            || ALLOWED.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(token) || !known {
            return Err(format!("{:?} cannot be set: use X-… or one of {}", shown(name), ALLOWED.join(", ")));
        }
        if value.len() > VALUE_MAX {
            return Err(format!("{name} is longer than {VALUE_MAX} bytes"));
        }
        if !is_plain(value) {
            return Err(format!("{name} holds a line end or another control character"));
        }
    }
    Ok(())
}

/// Nothing in it can end a header.
pub(super) fn is_plain(value: &str) -> bool {
    !value.chars().any(char::is_control)
}

impl UserAgent {
    /// The live call that an INVITE's `X-Session-ID` names already.
    pub(super) fn live_session(&self, invite: &Incoming) -> Option<CallId> {
        let name = invite.headers.value("X-Session-ID").map(shown).filter(|name| !name.is_empty())?;
        let call = self.sessions_named.get(&name)?;
        self.calls.get(call).filter(|call| call.is_live()).map(|call| call.id())
    }

    /// From now on an INVITE with the same `X-Session-ID` is refused, until the call ends.
    pub(super) fn name_session(&mut self, invite: &Incoming, call: CallId) {
        let name = invite.headers.value("X-Session-ID").map(shown).filter(|name| !name.is_empty());
        if let Some(name) = name {
            self.sessions_named.insert(name, call);
        }
    }

    pub(super) fn forget_session_name(&mut self, label: &Label, call: CallId) {
        if self.sessions_named.get(&label.session) == Some(&call) {
            self.sessions_named.remove(&label.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::{Peer, Transport, Uri};

    fn invite(from: &str, lines: &[(&str, &str)]) -> Incoming {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, *value));
        Incoming {
            peer: Peer {
                transport: Transport::Udp,
                local: "192.0.2.1:5060".parse().expect("an address"),
                remote: "192.0.2.9:5060".parse().expect("an address"),
                connection: None,
            },
            request_uri: Uri::parse("sip:100@192.0.2.1").expect("a URI"),
            from: NameAddr::parse(from).expect("an address"),
            to: NameAddr::parse("<sip:100@192.0.2.1>").expect("an address"),
            call_id: "c@h".to_owned(),
            headers,
            body: None,
            user: None,
        }
    }

    #[test]
    fn room_and_session_have_their_defaults_and_their_names() {
        let plain = label_of(&invite("<sip:alice@h>", &[]), false);
        assert_eq!((plain.room.as_str(), plain.session.as_str()), ("c@h", "alice"));
        let named = invite("<sip:alice@h>", &[("x-room-id", " lobby "), ("X-Session-ID", "s1")]);
        let named = label_of(&named, false);
        assert_eq!((named.room.as_str(), named.session.as_str()), ("lobby", "s1"));
    }

    #[test]
    fn an_assertion_counts_only_from_those_who_are_believed() {
        let lines = [("P-Asserted-Identity", "\"Front Door\" <sip:200@h>")];
        let stranger = label_of(&invite("<sip:anonymous@anonymous.invalid>", &lines), false);
        assert_eq!((stranger.from.as_str(), stranger.asserted), ("anonymous", None));
        let trusted = label_of(&invite("<sip:anonymous@anonymous.invalid>", &lines), true);
        assert_eq!((trusted.from.as_str(), trusted.asserted.as_deref()), ("200", Some("200")));
        assert_eq!(trusted.display_name, "Front Door");
        let both = label_of(&invite("\"Bob\" <sip:7@h>", &lines), true);
        assert_eq!(
            (both.from.as_str(), both.asserted.as_deref(), both.display_name.as_str()),
            ("7", Some("200"), "Bob")
        );
    }

    #[test]
    fn who_asks_for_privacy_is_not_written_down() {
        let lines = [("P-Asserted-Identity", "<sip:200@h>"), ("Privacy", "id")];
        let label = label_of(&invite("\"Bob\" <sip:7@h>", &lines), true);
        assert_eq!(
            (label.from.as_str(), label.asserted, label.display_name.as_str()),
            ("anonymous", None, "")
        );
        assert_eq!(label.session, "anonymous");
    }

    #[test]
    fn custom_headers_are_kept_in_order_and_bounded() {
        let long = format!("{}é", "x".repeat(VALUE_MAX - 1));
        let mut lines = vec![("X-Door", "front\u{7}"), ("Subject", "no"), ("x-long", long.as_str())];
        lines.extend(std::iter::repeat_n(("X-More", "1"), 100));
        let label = label_of(&invite("<sip:a@h>", &lines), false);
        assert_eq!(label.headers.len(), HEADERS_MAX);
        assert_eq!(label.headers[0], ("X-Door".to_owned(), "front\u{fffd}".to_owned()));
        assert_eq!(label.headers[1].1.len(), VALUE_MAX - 1, "cut between characters");
        assert_eq!(label.diverted_by, None);
        let diverted = invite("<sip:a@h>", &[("Diversion", "<sip:20@h>;reason=user-busy")]);
        assert_eq!(label_of(&diverted, false).diverted_by.as_deref(), Some("20"));
    }

    #[test]
    fn a_header_cannot_smuggle_another_one() {
        let check = |name: &str, value: &str| check_headers(&[(name.to_owned(), value.to_owned())]);
        assert_eq!(check("X-Order", "4711 / ä"), Ok(()));
        assert_eq!(check("subject", "hello"), Ok(()));
        for (name, value) in [
            ("X-A", "1\r\nVia: evil"),
            ("X-A", "1\nB: 2"),
            ("X-A", "\u{0}"),
            ("X-A: 1\r\nVia", "x"),
            ("X A", "x"),
            ("", "x"),
            ("Via", "SIP/2.0/UDP h"),
            ("Route", "<sip:evil;lr>"),
            ("X-A", &"x".repeat(VALUE_MAX + 1)),
        ] {
            assert!(check(name, value).is_err(), "{name}: {value}");
        }
        assert!(check_headers(&vec![("X-A".to_owned(), String::new()); HEADERS_MAX + 1]).is_err());
    }
}
