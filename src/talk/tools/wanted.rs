//! What a model wants when it calls a tool: its arguments, read and bounded.
//!
//! Pure.

use serde_json::Value;

use super::unlock::UNLOCK;
use super::{CALLER, LIST_SOURCES};
use crate::talk::message::ToolCall;

/// Longer arguments are not read, bytes.
const ARGUMENTS_MAX: usize = 32 * 1024;

/// One tool with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// At the caller; at this source.
    Look(Option<String>),
    ListSources,
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
    PauseRecording(bool),
    /// The door's name; empty: the only one.
    Unlock(String),
    /// What an operator declared: its arguments.
    Service(Value),
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
            "look" => Ok(Wanted::Look(given(text("source")).filter(|source| source != CALLER))),
            LIST_SOURCES => Ok(Wanted::ListSources),
            "hang_up" => Ok(Wanted::HangUp),
            "dtmf" => given(text("digits")).map(Wanted::Digits).ok_or("Say which digits."),
            "transfer" => given(text("to")).map(Wanted::Transfer).ok_or("Say to whom."),
            "hold" => Ok(Wanted::Hold),
            "pause_recording" => match &arguments["paused"] {
                Value::Bool(paused) => Ok(Wanted::PauseRecording(*paused)),
                _ => Err("Say whether it is to be paused: true or false."),
            },
            "send_image" => {
                let picture = given(text("picture")).ok_or("Say which picture.")?;
                Ok(Wanted::SendImage { picture, text: text("text") })
            }
            "show" => {
                let picture = given(text("picture")).ok_or("Say which picture.")?;
                Ok(Wanted::Show { picture, seconds: arguments["seconds"].as_u64() })
            }
            UNLOCK => Ok(Wanted::Unlock(text("door"))),
            // Whether there is one, and what its arguments must be, its declaration says.
            _ => Ok(Wanted::Service(arguments)),
        }
    }

    /// What a policy's list of allowed values is about.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Wanted::Digits(subject) | Wanted::Transfer(subject) => Some(subject),
            Wanted::SendImage { picture, .. } | Wanted::Show { picture, .. } => Some(picture),
            Wanted::Look(_)
            | Wanted::ListSources
            | Wanted::HangUp
            | Wanted::Hold
            | Wanted::PauseRecording(_)
            | Wanted::Unlock(_)
            | Wanted::Service(_) => None,
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
        assert_eq!(read("look", "not JSON"), Ok(Wanted::Look(None)));
        assert_eq!(read("look", r#"{"source": "caller"}"#), Ok(Wanted::Look(None)));
        assert_eq!(read("look", r#"{"source": "yard"}"#), Ok(Wanted::Look(Some("yard".into()))));
        let shown = Wanted::Show { picture: "map".into(), seconds: Some(20) };
        assert_eq!(read("show", r#"{"picture": "map", "seconds": 20}"#), Ok(shown));
        assert!(read("show", "{}").is_err() && read("send_image", r#"{"picture": 3}"#).is_err());
        for broken in ["", "{", "[]", r#"{"to": 5}"#, r#"{"to": " "}"#] {
            assert_eq!(read("transfer", broken), Err("Say to whom."));
        }
        assert!(read("look", &" ".repeat(ARGUMENTS_MAX + 1)).is_err());
        assert_eq!(read("pause_recording", r#"{"paused": true}"#), Ok(Wanted::PauseRecording(true)));
        assert!(read("pause_recording", r#"{"paused": "yes"}"#).is_err());
        // A PIN a model was told or made up is nothing that is read.
        let opened = read("unlock", r#"{"door": "front", "pin": "1234", "override": true}"#);
        assert_eq!(opened, Ok(Wanted::Unlock("front".into())));
    }
}
