//! Who a request says it is from and for: asserted identities (RFC 3325), privacy (RFC 3323), diversion (RFC 5806,
//! RFC 7044), and names as they may be shown.
//!
//! Whether an assertion is believed is decided above: anybody can write one.

use super::header::NameAddr;
use super::message::Headers;

/// The longest name that is kept, in characters.
const NAME_MAX: usize = 128;

/// Text of a peer as it may be shown and stored: control characters are drawn, not obeyed, and it ends somewhere.
pub fn shown(text: &str) -> String {
    let drawn = |letter: char| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter };
    text.trim().chars().take(NAME_MAX).map(drawn).collect()
}

/// The identity a network asserts: P-Asserted-Identity, with the `sip:` one before the `tel:` one, else
/// Remote-Party-ID, else P-Preferred-Identity.
pub fn asserted(headers: &Headers) -> Option<NameAddr> {
    let asserted = headers.list("P-Asserted-Identity").filter_map(NameAddr::parse).next();
    asserted
        .or_else(|| headers.list("Remote-Party-ID").find_map(calling_party))
        .or_else(|| headers.list("P-Preferred-Identity").find_map(NameAddr::parse))
}

/// A Remote-Party-ID of the caller that its network stands by.
fn calling_party(value: &str) -> Option<NameAddr> {
    let address = NameAddr::parse(value)?;
    let is = |name: &str, wanted: &str| {
        let found = address.parameter(name).flatten();
        found.is_none_or(|found| found.eq_ignore_ascii_case(wanted))
    };
    (is("party", "calling") && is("screen", "yes")).then_some(address)
}

/// Whether the caller wants its number kept from those it calls.
pub fn wants_privacy(headers: &Headers) -> bool {
    let hides = |value: &str| {
        let wanted = ["id", "user", "header"];
        value.split(';').any(|part| wanted.iter().any(|word| part.trim().eq_ignore_ascii_case(word)))
    };
    let full = |value: &str| {
        NameAddr::parse(value)
            .and_then(|address| address.parameter("privacy").flatten().map(str::to_ascii_lowercase))
            .is_some_and(|privacy| privacy == "full" || privacy == "uri")
    };
    headers.values("Privacy").any(hides) || headers.list("Remote-Party-ID").any(full)
}

/// The party that was called first, when the call was diverted on its way: the last Diversion is the oldest
/// (RFC 5806 §2), History-Info begins with the first target (RFC 7044 §5).
pub fn first_diverting(headers: &Headers) -> Option<NameAddr> {
    if let Some(oldest) = headers.list("Diversion").filter_map(NameAddr::parse).last() {
        return Some(oldest);
    }
    let mut history = headers.list("History-Info").filter_map(NameAddr::parse);
    let first = history.next()?;
    // One entry is only where the call was sent to.
    history.next().map(|_| first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        lines.iter().for_each(|(name, value)| headers.push(name, *value));
        headers
    }

    fn user(address: Option<NameAddr>) -> Option<String> {
        address?.uri.user().map(str::to_owned)
    }

    #[test]
    fn an_asserted_identity_is_found_in_each_spelling() {
        let found = |lines: &[(&str, &str)]| user(asserted(&headers(lines)));
        let pai = ("P-Asserted-Identity", "\"A\" <sip:+4930@example.com>, <tel:+4931>");
        let rpid = ("Remote-Party-ID", "<sip:200@h>;party=calling;screen=yes");
        let ppi = ("P-Preferred-Identity", "<sip:300@h>");
        assert_eq!(found(&[ppi, rpid, pai]).as_deref(), Some("+4930"));
        assert_eq!(found(&[ppi, rpid]).as_deref(), Some("200"));
        assert_eq!(found(&[ppi]).as_deref(), Some("300"));
        assert_eq!(found(&[("P-Asserted-Identity", "<tel:+4931>")]).as_deref(), Some("+4931"));
        assert_eq!(found(&[("Remote-Party-ID", "<sip:200@h>;party=called")]), None);
        assert_eq!(
            found(&[("Remote-Party-ID", "<sip:200@h>;screen=no")]),
            None,
            "not screened, not believed"
        );
        assert_eq!(found(&[("P-Asserted-Identity", "rubbish")]), None);
    }

    #[test]
    fn privacy_is_asked_for_in_each_spelling() {
        for (name, value, expected) in [
            ("Privacy", "id", true),
            ("Privacy", "critical; Id", true),
            ("Privacy", "none", false),
            ("Privacy", "session", false),
            ("Remote-Party-ID", "<sip:200@h>;privacy=full", true),
            ("Remote-Party-ID", "<sip:200@h>;privacy=off", false),
        ] {
            assert_eq!(wants_privacy(&headers(&[(name, value)])), expected, "{name}: {value}");
        }
    }

    #[test]
    fn the_first_diverting_party_is_the_oldest() {
        let found = |lines: &[(&str, &str)]| user(first_diverting(&headers(lines)));
        let twice =
            [("Diversion", "<sip:30@h>;reason=no-answer"), ("Diversion", "<sip:20@h>;reason=user-busy")];
        assert_eq!(found(&twice).as_deref(), Some("20"));
        let history = [("History-Info", "<sip:20@h?Reason=SIP%3Bcause%3D302>;index=1, <sip:30@h>;index=1.1")];
        assert_eq!(found(&history).as_deref(), Some("20"));
        assert_eq!(found(&[("History-Info", "<sip:30@h>;index=1")]), None, "nobody diverted anything");
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn names_are_drawn_and_end() {
        assert_eq!(shown(" B\u{7}ob\n\u{1b}[2J "), "B\u{fffd}ob\u{fffd}\u{fffd}[2J");
        assert_eq!(shown(&"x".repeat(1000)).len(), NAME_MAX);
    }
}
