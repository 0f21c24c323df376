//! What a model wants when it calls a tool: its arguments, read and bounded.
//!
//! Pure.

use serde_json::Value;

use crate::talk::message::ToolCall;

/// Longer arguments are not read, bytes.
const ARGUMENTS_MAX: usize = 32 * 1024;

/// One tool with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    Look,
    HangUp,
    Digits(String),
    Transfer(String),
    Hold,
    /// Gives a picture of that name.
    SendImage {
        picture: String,
        text: String,
    },
    /// Shows it; none: the call's own again.
    Show {
        picture: String,
        seconds: Option<u64>,
    },
}

impl Wanted {
    /// Reads a call.
    ///
    /// # Errors
    /// Says in words for the model what is missing.
    pub fn read(call: &ToolCall) -> Result<Wanted, &'static str> {
        if call.arguments.len() > ARGUMENTS_MAX {
            return Err("The arguments are too long.");
        }
        let arguments = serde_json::from_str::<Value>(&call.arguments).unwrap_or(Value::Null);
        let text = |name: &str| arguments[name].as_str().unwrap_or_default().trim().to_owned();
        match call.name.as_str() {
            "look" => Ok(Wanted::Look),
            "hang_up" => Ok(Wanted::HangUp),
            "dtmf" => given(text("digits")).map(Wanted::Digits).ok_or("Say which digits."),
            "transfer" => given(text("to")).map(Wanted::Transfer).ok_or("Say to whom."),
            "hold" => Ok(Wanted::Hold),
            "send_image" => {
                let picture = given(text("picture")).ok_or("Say which picture.")?;
                Ok(Wanted::SendImage { picture, text: text("text") })
            }
            "show" => {
                let picture = given(text("picture")).ok_or("Say which picture.")?;
                Ok(Wanted::Show { picture, seconds: arguments["seconds"].as_u64() })
            }
            _ => Err("There is no such tool."),
        }
    }

    /// What a policy's list of allowed values is about.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Wanted::Digits(subject) | Wanted::Transfer(subject) => Some(subject),
            Wanted::SendImage { picture, .. } | Wanted::Show { picture, .. } => Some(picture),
            Wanted::Look | Wanted::HangUp | Wanted::Hold => None,
        }
    }
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: "1".into(), name: name.into(), arguments: arguments.into(), signature: None }
    }

    #[test]
    fn arguments_are_read_or_asked_for() {
        let read = |name: &str, arguments: &str| Wanted::read(&call(name, arguments));
        assert_eq!(read("dtmf", r#"{"digits": " 12# "}"#), Ok(Wanted::Digits("12#".into())));
        assert_eq!(read("transfer", r#"{"to": "sip:a@b"}"#), Ok(Wanted::Transfer("sip:a@b".into())));
        assert_eq!(read("look", "not JSON"), Ok(Wanted::Look));
        let shown = Wanted::Show { picture: "map".into(), seconds: Some(20) };
        assert_eq!(read("show", r#"{"picture": "map", "seconds": 20}"#), Ok(shown));
        assert!(read("show", "{}").is_err() && read("send_image", r#"{"picture": 3}"#).is_err());
        for broken in ["", "{", "[]", r#"{"to": 5}"#, r#"{"to": " "}"#] {
            assert_eq!(read("transfer", broken), Err("Say to whom."));
        }
        assert!(read("look", &" ".repeat(ARGUMENTS_MAX + 1)).is_err());
        assert!(read("open_everything", "{}").is_err());
    }
}
