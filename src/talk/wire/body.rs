//! What the requests of all providers share: options laid over them, pictures in them, keys before them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::talk::message::{Image, Message, Part, Role};

/// Ids we gave to calls whose model gave none; such a model is not told them.
pub const OWN_ID: &str = "own-";

/// Said where a provider wants a conversation to begin with its user, and ours begins with the agent.
pub const OPENING: &str = "(The call begins.)";

/// Lays `options` over `body`: tables are joined, anything else replaces what stands there.
pub fn lay_over(body: &mut Value, options: &Map<String, Value>) {
    let Some(body) = body.as_object_mut() else { return };
    for (key, value) in options {
        match (body.get_mut(key), value) {
            (Some(under @ Value::Object(_)), Value::Object(over)) => lay_over(under, over),
            _ => {
                body.insert(key.clone(), value.clone());
            }
        }
    }
}

pub use crate::remote::failure::complaint;

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text.trim()).ok()
}

pub fn data_url(image: &Image) -> String {
    format!("data:{};base64,{}", image.kind.media_type(), base64(&image.bytes))
}

/// Arguments as the object providers want back, whatever a model wrote.
pub fn arguments(text: &str) -> Value {
    let parsed = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
    parsed.unwrap_or_else(|| Value::Object(Map::new()))
}

/// Options as the parameters of a query, without those of these names; a list repeats its name.
pub fn parameters(options: &Map<String, Value>, without: &[&str]) -> Vec<(String, String)> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut all = Vec::new();
    for (key, value) in options.iter().filter(|(key, _)| !without.contains(&key.as_str())) {
        match value {
            Value::Array(items) => all.extend(items.iter().map(|item| (key.clone(), plain(item)))),
            value => all.push((key.clone(), plain(value))),
        }
    }
    all
}

/// Parts that are pictures.
pub fn pictures(message: &Message) -> impl Iterator<Item = &Part> {
    message.parts.iter().filter(|part| match part {
        Part::Image(_) | Part::Url(_) => true,
        Part::Text(_) => false,
    })
}

/// Whether a message is written under the name of the user where there are but two.
pub fn is_users(role: Role) -> bool {
    match role {
        Role::User | Role::Tool | Role::System => true,
        Role::Assistant => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn options_are_joined_with_tables_and_replace_everything_else() {
        let mut body = json!({ "a": 1, "config": { "x": 1, "y": [1] }, "model": "m" });
        let options = json!({ "config": { "y": [2], "z": { "w": 3 } }, "model": "n", "new": true });
        lay_over(&mut body, options.as_object().expect("a table"));
        assert_eq!(
            body,
            json!({ "a": 1, "config": { "x": 1, "y": [2], "z": { "w": 3 } }, "model": "n", "new": true })
        );
    }

    #[test]
    fn broken_arguments_are_none() {
        assert_eq!(arguments("{\"a\":1}"), json!({ "a": 1 }));
        for broken in ["", "{", "[1]", "null"] {
            assert_eq!(arguments(broken), json!({}), "{broken}");
        }
    }
}
