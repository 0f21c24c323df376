//! A decision asked of the operator's application: how the question is written and signed, and how its answer is read.
//!
//! Source: PRODUCT.md §8, one JSON shape for events and decisions; the signature is an HMAC (RFC 2104) over time and
//! body, so that a copied question is told by its age. Pure.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::talk::message::Failure;

/// The header fields a question carries beside its body.
pub const SIGNATURE: &str = "x-eyeline-signature";
pub const TIMESTAMP: &str = "x-eyeline-timestamp";
/// The longest answer that is read.
pub const ANSWER_MAX: usize = 64 << 10;
/// Letters of an amended turn.
const TEXT_MAX: usize = 16 << 10;

/// What the application decided of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it is.
    Proceed,
    /// The model is asked this instead.
    Amend(String),
    /// The turn is not answered; why, for the record.
    Veto(String),
}

/// A question, as it is posted.
#[derive(Clone, Debug, PartialEq)]
pub struct Question<'a> {
    pub id: &'a str,
    /// UTC, RFC 3339.
    pub time: &'a str,
    pub appliance: &'a str,
    pub call: &'a str,
    pub kind: &'a str,
    pub data: Value,
}

impl Question<'_> {
    pub fn body(&self) -> Vec<u8> {
        let Question { id, time, appliance, call, kind, data } = self;
        json!({ "id": id, "time": time, "appliance": appliance, "call": call, "kind": kind, "data": data })
            .to_string()
            .into_bytes()
    }
}

/// `sha256=` and the hexadecimal HMAC-SHA256 of `TIMESTAMP.BODY`.
pub fn signature(secret: &str, timestamp: &str, body: &[u8]) -> String {
    // HMAC takes keys of every length (RFC 2104 §2).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut text = String::from("sha256=");
    for byte in mac.finalize().into_bytes() {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads `{"action": "proceed"|"amend"|"veto", "text"?, "reason"?}`; nothing at all is "proceed".
///
/// # Errors
/// [`Failure::Garbled`] with what is wrong. Then the stated default holds.
pub fn verdict(body: &[u8]) -> Result<Verdict, Failure> {
    if body.trim_ascii().is_empty() {
        return Ok(Verdict::Proceed);
    }
    let garbled = |why: &str| Failure::Garbled(why.to_owned());
    let answer: Value = serde_json::from_slice(body).map_err(|_| garbled("the decision is no JSON"))?;
    let text = |name: &str| answer[name].as_str().map(str::trim).filter(|text| !text.is_empty());
    match text("action") {
        Some("proceed") => Ok(Verdict::Proceed),
        Some("amend") => match text("text") {
            Some(text) if text.len() <= TEXT_MAX => Ok(Verdict::Amend(text.to_owned())),
            Some(_) => Err(garbled("the amended text is too long")),
            None => Err(garbled("a decision to amend needs a text")),
        },
        Some("veto") => Ok(Verdict::Veto(text("reason").unwrap_or_default().chars().take(200).collect())),
        Some(_) | None => Err(garbled("a decision's action is proceed, amend or veto")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_of_the_shape_of_events_and_signed_over_its_time() {
        let question = Question {
            id: "7",
            time: "2026-01-02T03:04:05Z",
            appliance: "eyeline",
            call: "00beef",
            kind: "turn.completed",
            data: json!({"text": "Open the door."}),
        };
        let value: Value = serde_json::from_slice(&question.body()).expect("JSON");
        assert_eq!(value["kind"], "turn.completed");
        assert_eq!(value["data"]["text"], "Open the door.");
        // Computed with `printf '1.{}' | openssl dgst -sha256 -hmac key`.
        let ours = signature("key", "1", b"{}");
        assert_eq!(ours, "sha256=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224");
        assert_ne!(signature("key", "2", b"{}"), ours);
        assert_ne!(signature("other", "1", b"{}"), ours);
    }

    #[test]
    fn answers_are_read_strictly_and_none_is_assent() {
        for (body, expected) in [
            ("", Verdict::Proceed),
            (r#"{"action":"proceed"}"#, Verdict::Proceed),
            (
                r#"{"action":"amend","text":" The caller is Ms Weber. "}"#,
                Verdict::Amend("The caller is Ms Weber.".into()),
            ),
            (r#"{"action":"veto","reason":"payment"}"#, Verdict::Veto("payment".into())),
            (r#"{"action":"veto"}"#, Verdict::Veto(String::new())),
        ] {
            assert_eq!(verdict(body.as_bytes()), Ok(expected), "{body}");
        }
        let long = format!(r#"{{"action":"amend","text":"{}"}}"#, "a".repeat(TEXT_MAX + 1));
        for body in ["no", "{}", "[]", r#"{"action":"amend"}"#, r#"{"action":"allow"}"#, long.as_str()] {
            assert!(matches!(verdict(body.as_bytes()), Err(Failure::Garbled(_))), "{body:.40}");
        }
    }
}
