//! The tools an agent can be given: how its model is told of them, what it wants when it calls one, whether it may.
//!
//! ```text
//! ToolCall ─▶ offered? ─▶ wanted (its arguments, read) ─▶ policy ─▶ done by engine::talk::toolbox, or refused in words
//! ```
//! Pure. What is allowed comes from the configuration and from what happened on this box; nothing a model writes, a
//! caller says or a picture shows can change it. Doing what a tool says is the engine's and the call's.
//!
//! A new tool is a name and a spec here, a [`Wanted`] with its arguments, and an arm in the toolbox.

pub mod http;
pub mod policy;
pub mod schema;
pub mod unlock;
pub mod wanted;

use serde_json::{Value, json};

pub use self::policy::{Gatekeeper, Needs, Policies, Policy};
pub use self::wanted::Wanted;
use crate::talk::message::ToolSpec;

/// Every tool there is, by its name in the configuration.
pub const NAMES: [&str; 8] =
    ["look", "hang_up", "dtmf", "transfer", "hold", "pause_recording", "send_image", "show"];

/// The tool that says where an agent may look besides the caller, and what the caller is called as one of those places.
pub const LIST_SOURCES: &str = "list_sources";
pub const CALLER: &str = "caller";

/// `look` of an agent that may look elsewhere as well: at these sources. `caller`: at the caller, too.
pub fn look_at(caller: bool, sources: &[String]) -> ToolSpec {
    let mut places: Vec<&str> = if caller { vec![CALLER] } else { Vec::new() };
    places.extend(sources.iter().map(String::as_str));
    let description = "Look at a place now. You get the picture it shows at this moment. list_sources says what the \
                       places are.";
    let source = json!({"type": "string", "enum": places, "description": "where to look"});
    let required: &[&str] = if caller { &[] } else { &["source"] };
    ToolSpec {
        name: "look".to_owned(),
        description: description.to_owned(),
        parameters: object(json!({"source": source}), required),
    }
}

/// `list_sources`; an agent with sources has it.
pub fn list_sources() -> ToolSpec {
    ToolSpec {
        name: LIST_SOURCES.to_owned(),
        description: "Say where you can look besides the caller: names for the tool look, what each shows, and whether \
                      it is connected."
            .to_owned(),
        parameters: object(json!({}), &[]),
    }
}

/// The tool of this name.
pub fn spec(name: &str) -> Option<ToolSpec> {
    let (description, parameters) = match name {
        "look" => (
            "Look at the caller now. You get the picture their camera shows at this moment. Use it when you are asked \
             what you see, or when it matters for your answer.",
            object(json!({}), &[]),
        ),
        "hang_up" => (
            "End the call. Say goodbye first: the call ends when you have finished speaking.",
            object(json!({}), &[]),
        ),
        "dtmf" => (
            "Press keys of the telephone, for example to choose from a menu.",
            object(json!({"digits": {"type": "string", "description": "0-9, *, #, A-D"}}), &["digits"]),
        ),
        "transfer" => (
            "Transfer the caller to somebody else. Your part of the call ends with it.",
            object(
                json!({"to": {"type": "string", "description": "an extension, a user's name or a SIP URI"}}),
                &["to"],
            ),
        ),
        "hold" => ("Put the caller on hold.", object(json!({}), &[])),
        "pause_recording" => (
            "Stop the recording of this call for a while, or let it go on: before the caller says something that must \
             not be kept, such as the number of a card.",
            object(
                json!({"paused": {"type": "boolean", "description": "false: go on recording"}}),
                &["paused"],
            ),
        ),
        "send_image" => (
            "Give a picture to whoever follows this call, to be kept with it: for example what the caller shows you.",
            object(
                json!({
                    "picture": {"type": "string", "description": which(&[])},
                    "text": {"type": "string", "description": "what it shows, in a few words"},
                }),
                &["picture"],
            ),
        ),
        "show" => (
            "Show the caller a picture on the screen of their telephone.",
            object(
                json!({
                    "picture": {"type": "string", "description": which(&[])},
                    "seconds": {"type": "integer", "description": "how long; 0: until another is shown", "minimum": 0},
                }),
                &["picture"],
            ),
        ),
        _ => return None,
    };
    Some(ToolSpec { name: name.to_owned(), description: description.to_owned(), parameters })
}

/// The pictures a model can name.
fn which(names: &[String]) -> String {
    let mut known =
        "snapshot (what the caller's camera shows now), or the number of a picture of this call".to_owned();
    if !names.is_empty() {
        known.push_str(", or one of: ");
        known.push_str(&names.join(", "));
    }
    known
}

/// The tool, if it is one of pictures, with the names of those the agent has.
pub fn naming(mut tool: ToolSpec, names: &[String]) -> ToolSpec {
    if let Some(picture) = tool.parameters.pointer_mut("/properties/picture/description") {
        *picture = which(names).into();
        if tool.name == "show"
            && let Some(text) = picture.as_str()
        {
            *picture = format!("{text}; none: no picture any more").into();
        }
    }
    tool
}

/// A JSON Schema of arguments.
pub fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_words_and_a_schema() {
        for name in NAMES {
            let tool = spec(name).expect("a tool");
            assert!(tool.name == name && tool.description.len() > 10 && tool.parameters["type"] == "object");
        }
        assert_eq!(spec("unlock_everything"), None);
    }
}
