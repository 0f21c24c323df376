//! A vendor's REST API as data: what is asked to begin and to end a session, with places for `{names}`.
//!
//! Pure. How a request travels does not belong here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Number, Value};

/// Requests until a session is begun.
const STEPS_MAX: usize = 4;
/// The longest id of a session that is kept.
const SESSION_MAX: usize = 200;
/// Where answers have the id of a session, if a template does not say.
const SESSIONS: [&str; 8] = [
    "/session_id",
    "/sessionId",
    "/id",
    "/data/session_id",
    "/data/id",
    "/conversation_id",
    "/task_id",
    "/session/id",
];

/// One request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    /// Empty: `POST`.
    pub method: String,
    pub url: String,
    pub headers: BTreeMap<String, String>,
    /// Members that are all one `{name}` without a value are left out; `{name#}` is a number.
    pub body: Value,
    /// JSON pointer of the session's id in the answer; empty: where it usually is.
    pub session: String,
    /// Names for later requests: JSON pointers into the answer.
    pub take: BTreeMap<String, String>,
}

/// One vendor.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Template {
    /// The root of its API: `{base}`.
    pub base: String,
    /// Under which identity its worker is in the room.
    pub identity: String,
    /// Hz of the sound it takes.
    pub rate: u32,
    /// Who takes the sound, where that is another participant than the avatar.
    pub listener: String,
    /// Variables that must be configured.
    pub needs: Vec<String>,
    pub start: Vec<Step>,
    /// Without it a session ends with its room.
    pub stop: Option<Step>,
    /// Why it cannot be used any more.
    pub withdrawn: String,
}

impl Template {
    /// A vendor known by name.
    ///
    /// # Errors
    /// Nobody knows the name, or the vendor has withdrawn its service.
    pub fn known(vendor: &str) -> Result<Template, String> {
        let all: BTreeMap<String, Template> =
            serde_json::from_str(include_str!("vendors.json")).map_err(|error| error.to_string())?;
        let names = all.keys().cloned().collect::<Vec<_>>().join(", ");
        let found = all.get(vendor).ok_or_else(|| format!("{vendor:?} is none of {names}"))?;
        if found.withdrawn.is_empty() { Ok(found.clone()) } else { Err(found.withdrawn.clone()) }
    }

    /// Whether it can be used: its places are filled by `known` names or what earlier answers give.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn check(&self, known: &Values) -> Result<(), String> {
        if self.start.is_empty() || self.start.len() > STEPS_MAX {
            return Err(format!("1 to {STEPS_MAX} requests begin a session"));
        }
        if self.start.iter().chain(&self.stop).any(|step| step.url.is_empty()) {
            return Err("a request has no url".to_owned());
        }
        if let Some(missing) = self.needs.iter().find(|name| known.of(name).is_empty()) {
            return Err(format!("variables.{missing} is missing"));
        }
        let headers = self.start.iter().flat_map(|step| step.headers.values());
        if known.of("api_key").is_empty() && headers.into_iter().any(|value| value.contains("{api_key}")) {
            return Err("api_key is missing".to_owned());
        }
        let mut known = known.clone();
        known.set("session", "s");
        for step in self.start.iter().chain(&self.stop) {
            let texts = std::iter::once(&step.url).chain(step.headers.values());
            for text in texts {
                known.fill(text).map_err(|name| format!("nothing is known for {{{name}}}"))?;
            }
            known.fill_body(&step.body).map_err(|name| format!("nothing is known for {{{name}}}"))?;
            step.take.keys().for_each(|name| known.set(name, "taken"));
        }
        Ok(())
    }
}

/// What stands for the names.
#[derive(Clone, Default)]
pub struct Values(BTreeMap<String, String>);

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Values {
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// Empty: there is none.
    pub fn of(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A text with its names replaced; the error is the first name that is not known.
    pub fn fill(&self, text: &str) -> Result<String, String> {
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, name, after)) = place(rest) {
            out.push_str(before);
            out.push_str(self.0.get(name).ok_or_else(|| name.to_owned())?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// A body with its names replaced. Members that are one name without a value are left out.
    pub fn fill_body(&self, body: &Value) -> Result<Value, String> {
        Ok(match body {
            Value::String(text) => self.fill_value(text)?,
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.fill_body(item)).collect::<Result<Vec<_>, _>>()?)
            }
            Value::Object(members) => {
                let mut filled = Map::new();
                for (name, member) in members {
                    let value = self.fill_body(member)?;
                    if !value.is_null() || member.is_null() {
                        filled.insert(name.clone(), value);
                    }
                }
                Value::Object(filled)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => body.clone(),
        })
    }

    fn fill_value(&self, text: &str) -> Result<Value, String> {
        let Some(("", name, "")) = place(text) else { return self.fill(text).map(Value::String) };
        let value = self.of(name);
        if value.is_empty() {
            return Ok(Value::Null);
        }
        let number = text.ends_with("#}").then(|| value.parse::<u64>().ok()).flatten();
        Ok(number
            .map_or_else(|| Value::String(value.to_owned()), |number| Value::Number(Number::from(number))))
    }
}

/// What stands before the first `{name}`, the name, and what follows. Braces around anything else are text.
fn place(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| at + from) {
        let rest = &text[open + 1..];
        if let Some(close) = rest.find('}') {
            let name = rest[..close].strip_suffix('#').unwrap_or(&rest[..close]);
            let good = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            if !name.is_empty() && name.chars().all(good) {
                return Some((&text[..open], name, &rest[close + 1..]));
            }
        }
        from = open + 1;
    }
    None
}

/// The id of the session an answer began.
pub fn session_of(step: &Step, answer: &Value) -> Option<String> {
    let places = if step.session.is_empty() { &SESSIONS[..] } else { &[step.session.as_str()][..] };
    let found = places.iter().find_map(|place| answer.pointer(place));
    let text = match found? {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let good = |letter: char| letter.is_ascii_graphic() && !matches!(letter, '/' | '?' | '#' | '%' | '\\');
    (!text.is_empty() && text.len() <= SESSION_MAX && text.chars().all(good)).then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Values {
        let mut values = Values::default();
        for name in super::super::NAMES {
            values.set(name, if *name == "rate" { "16000" } else { name });
        }
        values
    }

    #[test]
    fn every_vendor_known_by_name_can_be_filled_in_and_one_is_withdrawn() {
        let (without, mut values) = (values(), values());
        values.set("pal_id", "p");
        let names = [
            "bey",
            "tavus",
            "simli",
            "bithuman",
            "lemonslice",
            "avatario",
            "avatartalk",
            "keyframe",
            "did",
            "trugen",
            "runway",
            "protoface",
        ];
        for name in names {
            let template = Template::known(name).expect("a vendor");
            template.check(&values).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(
                template.base.starts_with("https://") && [16_000, 24_000].contains(&template.rate),
                "{name}"
            );
            assert!(!template.identity.is_empty(), "{name}");
        }
        assert!(Template::known("hedra").expect_err("withdrawn").contains("switched off"));
        assert!(Template::known("nobody").expect_err("unknown").contains("bey"));
        assert_eq!(
            Template::known("tavus").expect("tavus").check(&without),
            Err("variables.pal_id is missing".to_owned())
        );
    }

    #[test]
    fn names_are_filled_in_numbers_stay_numbers_and_what_is_not_set_is_left_out() {
        let mut values = values();
        values.set("empty", "");
        let body = json!({ "a": "{rate#}", "b": "x {room} y", "c": "{empty}", "d": [true, "{api_key}"], "e": null, "f": "{nobody}", "g": "{ not a name }" });
        let filled = values.fill_body(&body).expect("filled");
        assert_eq!(
            filled,
            json!({ "a": 16000, "b": "x room y", "d": [true, "api_key"], "e": null, "g": "{ not a name }" })
        );
        assert_eq!(values.fill("{base}/v1/{nobody}"), Err("nobody".to_owned()));
        assert!(!format!("{values:?}").contains("16000"), "values are never told");
    }

    #[test]
    fn ids_of_sessions_are_found_and_what_would_leave_its_place_in_a_url_is_none() {
        let step = Step::default();
        assert_eq!(session_of(&step, &json!({ "session_id": "a-1" })), Some("a-1".to_owned()));
        assert_eq!(session_of(&step, &json!({ "data": { "id": 7 } })), Some("7".to_owned()));
        for bad in ["../x", "", "a b", "a?b"] {
            assert_eq!(session_of(&step, &json!({ "id": bad })), None, "{bad}");
        }
        let own = Step { session: "/deep/er".to_owned(), ..Step::default() };
        assert_eq!(session_of(&own, &json!({ "id": "no", "deep": { "er": "yes" } })), Some("yes".to_owned()));
    }

    #[test]
    fn a_template_that_cannot_be_used_says_why() {
        let step = |url: &str| Step { url: url.to_owned(), ..Step::default() };
        let of = |start: Vec<Step>| Template { start, ..Template::default() }.check(&values());
        assert!(of(vec![]).is_err());
        assert!(of(vec![step("")]).is_err());
        assert!(of(vec![step("{base}/{what}")]).expect_err("unknown").contains("what"));
        let mut first = step("{base}/token");
        first.take.insert("token".to_owned(), "/t".to_owned());
        assert_eq!(of(vec![first, step("{base}/{token}")]), Ok(()));
    }
}
