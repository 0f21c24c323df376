//! The Replaces header (RFC 3891): which dialog a new INVITE takes over.
//!
//! Finding that dialog is the endpoint's work, deciding about it the user agent's.

use std::fmt;

use super::dialog::DialogKey;
use super::message::Headers;
use super::uri::{parse_parameters, unescape};

/// One value of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaces {
    pub call_id: String,
    /// The tag of the side that gets the header; `0` stands for none.
    pub to_tag: String,
    /// The tag of its peer; `0` stands for none.
    pub from_tag: String,
    /// Only a dialog without an answer may be taken over.
    pub early_only: bool,
}

/// Why a request's Replaces cannot be used: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable;

impl Replaces {
    /// Reads one value. `None`: it is none.
    pub fn parse(text: &str) -> Option<Replaces> {
        let (call_id, parameters) = text.split_once(';')?;
        let call_id = call_id.trim();
        let mut tags = [None, None];
        let mut early_only = false;
        for (name, value) in parse_parameters(parameters)? {
            let slot = match name.to_ascii_lowercase().as_str() {
                "to-tag" => 0,
                "from-tag" => 1,
                "early-only" => {
                    early_only = true;
                    continue;
                }
                _ => continue,
            };
            // A tag given twice names two dialogs (RFC 3891 §6.1).
            if tags[slot].is_some() {
                return None;
            }
            tags[slot] = Some(value.filter(|tag| is_word(tag))?);
        }
        let [Some(to_tag), Some(from_tag)] = tags else { return None };
        is_word(call_id).then(|| Replaces { call_id: call_id.to_owned(), to_tag, from_tag, early_only })
    }

    /// The one value of a request; `Ok(None)`: it has no such header.
    ///
    /// # Errors
    /// More than one, one that cannot be read, or one beside Join (RFC 3891 §3).
    pub fn of(headers: &Headers) -> Result<Option<Replaces>, Unusable> {
        let mut values = headers.list("Replaces");
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() || headers.value("Join").is_some() {
            return Err(Unusable);
        }
        Replaces::parse(value).map(Some).ok_or(Unusable)
    }

    /// The dialog it names, seen from the side that gets the header.
    pub fn dialog(&self) -> DialogKey {
        let tag = |tag: &str| if tag == "0" { String::new() } else { tag.to_owned() };
        DialogKey {
            call_id: self.call_id.clone(),
            local_tag: tag(&self.to_tag),
            remote_tag: tag(&self.from_tag),
        }
    }

    /// The value by which our peer in this dialog of ours is told to take it over: its own tag is the To tag.
    pub fn of_peer(dialog: &DialogKey) -> Replaces {
        let tag = |tag: &str| if tag.is_empty() { "0".to_owned() } else { tag.to_owned() };
        Replaces {
            call_id: dialog.call_id.clone(),
            to_tag: tag(&dialog.remote_tag),
            from_tag: tag(&dialog.local_tag),
            early_only: false,
        }
    }
}

impl fmt::Display for Replaces {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{};to-tag={};from-tag={}", self.call_id, self.to_tag, self.from_tag)?;
        if self.early_only { out.write_str(";early-only") } else { Ok(()) }
    }
}

/// What may stand in a Call-ID or a tag here: visible, and nothing that ends a value.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 256
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"'))
}

/// A header of a URI (`?Name=value`), read from its escapes.
pub fn uri_headers(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((unescape(name).into_owned(), unescape(value).into_owned()))
    })
}

/// Text as a header value inside a URI (RFC 3261 §19.1.1, `hvalue`).
pub fn escape_uri_header(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()[]/?:+$".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_the_rfc_are_read_and_written_again() {
        let text = "98732@sip.example.com;from-tag=r33th4x0r;to-tag=ff87ff";
        let read = Replaces::parse(text).expect("readable");
        assert_eq!(
            (read.to_tag.as_str(), read.from_tag.as_str(), read.early_only),
            ("ff87ff", "r33th4x0r", false)
        );
        assert_eq!(read.to_string(), "98732@sip.example.com;to-tag=ff87ff;from-tag=r33th4x0r");
        assert_eq!(Replaces::parse(&read.to_string()), Some(read));
        let early =
            Replaces::parse("12adf2f34456gs5;to-tag=12345;from-tag=0;early-only;x=y").expect("readable");
        assert!(early.early_only && early.dialog().remote_tag.is_empty(), "tag 0 is no tag");
    }

    #[test]
    fn half_doubled_and_poisoned_values_are_none() {
        for text in [
            "",
            "a",
            "a;to-tag=1",
            "a;from-tag=1",
            "a;to-tag=1;to-tag=2;from-tag=3",
            ";to-tag=1;from-tag=2",
            "a;to-tag=;from-tag=2",
            "a b;to-tag=1;from-tag=2",
            "a\r\nX: y;to-tag=1;from-tag=2",
        ] {
            assert_eq!(Replaces::parse(text), None, "{text:?}");
        }
        let mut headers = Headers::new();
        assert_eq!(Replaces::of(&headers), Ok(None));
        headers.push("Replaces", "a;to-tag=1;from-tag=2");
        assert!(Replaces::of(&headers).is_ok_and(|found| found.is_some()));
        headers.push("Replaces", "b;to-tag=1;from-tag=2");
        assert_eq!(Replaces::of(&headers), Err(Unusable), "two dialogs cannot be taken over");
    }

    #[test]
    fn a_peer_is_told_its_own_view_of_our_dialog() {
        let ours = DialogKey { call_id: "c@h".into(), local_tag: "me".into(), remote_tag: "you".into() };
        let theirs = Replaces::of_peer(&ours).dialog();
        assert_eq!((theirs.local_tag.as_str(), theirs.remote_tag.as_str()), ("you", "me"));
    }

    #[test]
    fn a_value_survives_its_way_through_a_uri() {
        let value = "a%b@h;to-tag=1;from-tag=2";
        let escaped = format!("Replaces={}&Require=replaces", escape_uri_header(value));
        assert!(!escaped.contains([';', '@']), "{escaped}");
        let read: Vec<_> = uri_headers(&escaped).collect();
        assert_eq!(read[0], ("Replaces".to_owned(), value.to_owned()));
        assert_eq!(read[1], ("Require".to_owned(), "replaces".to_owned()));
    }
}
