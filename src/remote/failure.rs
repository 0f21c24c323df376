//! Why somebody reached over the network did not do what was asked, in words for an operator and without secrets.
//!
//! Pure. When to ask again is not decided here.

use serde_json::Value;

/// Letters of a provider's complaint that are kept.
const ERROR_LETTERS: usize = 200;

/// Why a provider did not do what it was asked. `Display` says it to an operator, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("it is not reached: {0}")]
    Unreached(String),
    #[error("no answer within {0} ms")]
    TooSlow(u64),
    /// 429; milliseconds of Retry-After, where given.
    #[error("it asks to wait{}", .retry_after_ms.map(|ms| format!(" {ms} ms")).unwrap_or_default())]
    Busy { retry_after_ms: Option<u64> },
    #[error("it failed with status {status}: {text}")]
    Failed { status: u16, text: String },
    /// 400, 401, 403, 404, 422 and their like: asking again is of no use.
    #[error("it refuses with status {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("its answer cannot be read: {0}")]
    Garbled(String),
    #[error("the answer was cut off")]
    Cut,
    /// Asked nothing: it failed too often lately.
    #[error("it is left alone for another {0} ms")]
    Resting(u64),
}

impl Failure {
    /// Whether the same question may be asked again, here or elsewhere.
    pub fn is_passing(&self) -> bool {
        match self {
            Failure::Unreached(_)
            | Failure::TooSlow(_)
            | Failure::Busy { .. }
            | Failure::Failed { .. }
            | Failure::Garbled(_)
            | Failure::Cut
            | Failure::Resting(_) => true,
            Failure::Refused { .. } => false,
        }
    }

    /// Whether it is pictures that are refused: the model cannot see, or not these. Providers say so in words only.
    pub fn is_about_pictures(&self) -> bool {
        let Failure::Refused { status: 400 | 404 | 415 | 422, text } = self else { return false };
        let text = text.to_ascii_lowercase();
        ["image", "vision", "multimodal", "multi-modal"].iter().any(|word| text.contains(word))
    }
}

/// What an error's body says, in a line, without the key.
pub fn complaint(body: &str, key: &str) -> String {
    let json = serde_json::from_str::<Value>(body).unwrap_or_default();
    let places =
        ["/error/message", "/0/error/message", "/error", "/message", "/detail", "/err_msg", "/description"];
    let said = places.iter().find_map(|place| json.pointer(place).and_then(Value::as_str)).unwrap_or(body);
    let said = if key.is_empty() { said.to_owned() } else { said.replace(key, "***") };
    let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(ERROR_LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_one_short_line() {
        assert_eq!(complaint("<html>\n  bad\u{7}  gateway </html>", ""), "<html> bad gateway </html>");
        assert_eq!(complaint(&"x".repeat(999), "").len(), ERROR_LETTERS);
        assert_eq!(complaint("{\"detail\":\"no such key sk-1\"}", "sk-1"), "no such key ***");
    }
}
