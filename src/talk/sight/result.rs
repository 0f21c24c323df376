//! What a model of its own says it sees, as one strict shape: asked for by a schema, read, repaired or refused.
//!
//! Pure. Models wrap JSON into prose and fences, forget a comma, count in words, or are cut off. What can be understood
//! is repaired and marked as such; what cannot is refused with the reason, and the model may be asked once more
//! ([`ask_again`]). An answer never becomes an empty result.

use serde_json::{Map, Value, json};

use crate::talk::message::{Message, Request, Role};

/// What is in a picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vision {
    /// Never empty.
    pub description: String,
    /// What is seen, in a word or two each, without repetition.
    pub labels: Vec<String>,
    /// What is written in the picture.
    pub text: String,
    /// How many faces; `None`: the model did not say.
    pub faces: Option<u32>,
    /// 0 to 1; `None`: the model did not say.
    pub confidence: Option<f32>,
    /// It was not what the schema asks for.
    pub repaired: bool,
}

/// Why an answer is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("it is empty")]
    Empty,
    #[error("there is no JSON object in it")]
    NoObject,
    #[error("its JSON cannot be read: {0}")]
    Broken(String),
    #[error("its description is missing or empty")]
    NoDescription,
}

const DESCRIPTION_MAX: usize = 4_000;
const TEXT_MAX: usize = 4_000;
const LABELS_MAX: usize = 32;
const LABEL_MAX: usize = 64;
/// An answer is read so far.
const ANSWER_MAX: usize = 64 << 10;

/// The shape asked for, with its name.
pub fn schema() -> (String, Value) {
    let shape = json!({
        "type": "object",
        "properties": {
            "description": { "type": "string", "description": "what is seen, in one or two sentences" },
            "labels": {
                "type": "array",
                "items": { "type": "string" },
                "description": "people, things and places that are seen, in a word or two each",
            },
            "text": { "type": "string", "description": "what is written in the picture, else empty" },
            "faces": { "type": "integer", "description": "how many faces are seen" },
            "confidence": { "type": "number", "description": "from 0, a guess, to 1, certain" },
        },
        "required": ["description", "labels", "text", "faces", "confidence"],
        "additionalProperties": false,
    });
    ("vision".to_owned(), shape)
}

/// Reads an answer.
pub fn read(answer: &str) -> Result<Vision, Unreadable> {
    let answer = answer.trim().trim_start_matches('\u{feff}');
    if answer.is_empty() {
        return Err(Unreadable::Empty);
    }
    let end = (0..=answer.len().min(ANSWER_MAX)).rev().find(|at| answer.is_char_boundary(*at)).unwrap_or(0);
    let answer = &answer[..end];
    let strict = serde_json::from_str::<Value>(answer).ok();
    let mut repaired = strict.is_none();
    let value = match strict {
        Some(value) => value,
        None => {
            let start = answer.find('{').ok_or(Unreadable::NoObject)?;
            let mended = mend(&answer[start..]);
            serde_json::from_str(&mended).map_err(|error| Unreadable::Broken(error.to_string()))?
        }
    };
    let object = innermost(value, &mut repaired).ok_or(Unreadable::NoObject)?;
    let mut vision = shape(&object, &mut repaired)?;
    vision.repaired = repaired;
    Ok(vision)
}

/// The same question once more, with what was wrong about the answer.
pub fn ask_again(request: &Request, answer: &str, why: &Unreadable) -> Request {
    let mut again = request.clone();
    let shown: String = answer.chars().take(2_000).collect();
    if !shown.trim().is_empty() {
        again.messages.push(Message::text(Role::Assistant, shown));
    }
    let words = format!("That is not the JSON object asked for: {why}. Answer with that object alone.");
    again.messages.push(Message::text(Role::User, words));
    again
}

impl Vision {
    /// Whether it tells nobody anything who knows `before`: the same counts, labels and words, more or less.
    pub fn says_the_same_as(&self, before: &Vision) -> bool {
        let same_set = |a: &[String], b: &[String]| a.len() == b.len() && a.iter().all(|one| b.contains(one));
        self.faces == before.faces
            && same_text(&self.text, &before.text)
            && (same_set(&self.labels, &before.labels) || self.description == before.description)
            && likeness(&self.description, &before.description) >= 0.6
    }

    /// In a line, for the context of an agent.
    pub fn line(&self) -> String {
        let mut line = self.description.clone();
        if !self.text.is_empty() {
            line.push_str(&format!(" Written: {}", self.text));
        }
        line
    }
}

fn words_of(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    let mut words: Vec<String> = words.map(str::to_lowercase).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn same_text(a: &str, b: &str) -> bool {
    words_of(a) == words_of(b)
}

/// Words both have, of all words.
fn likeness(a: &str, b: &str) -> f64 {
    let (a, b) = (words_of(a), words_of(b));
    let both = a.iter().filter(|word| b.binary_search(word).is_ok()).count();
    let all = a.len() + b.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

/// From the first brace to the one that closes it, with what is usually wrong put right: trailing commas, Python's
/// words, raw line ends in strings, an end that is missing.
fn mend(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut open = Vec::new();
    let (mut quoted, mut escaped) = (false, false);
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        if quoted {
            match letter {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => quoted = false,
                '\n' => {
                    out.push_str("\\n");
                    continue;
                }
                '\t' => {
                    out.push_str("\\t");
                    continue;
                }
                _ if letter.is_control() => continue,
                _ => {}
            }
            out.push(letter);
            continue;
        }
        match letter {
            '"' => quoted = true,
            '{' => open.push('}'),
            '[' => open.push(']'),
            '}' | ']' => {
                drop_comma(&mut out);
                open.pop();
            }
            _ => {}
        }
        let python = [("None", "null"), ("True", "true"), ("False", "false")];
        let found = python.iter().find(|(word, _)| text[at..].starts_with(word));
        match found {
            Some((word, json)) => {
                out.push_str(json);
                letters.nth(word.len() - 2);
            }
            None => out.push(letter),
        }
        if open.is_empty() {
            return out;
        }
    }
    if escaped {
        out.pop();
    }
    if quoted {
        out.push('"');
    }
    drop_comma(&mut out);
    // A key without its value.
    if out.trim_end().ends_with(':') {
        out.push_str("null");
    }
    out.extend(open.iter().rev());
    out
}

fn drop_comma(out: &mut String) {
    let end = out.trim_end().len();
    if out[..end].ends_with(',') {
        out.truncate(end - 1);
    }
}

/// The object with the description, if it is wrapped into others.
fn innermost(value: Value, repaired: &mut bool) -> Option<Map<String, Value>> {
    let mut value = value;
    for _ in 0..4 {
        match value {
            Value::Object(object) if description_of(&object).is_some() => return Some(object),
            Value::Object(object) => {
                let inner = object.values().find(|inner| inner.is_object() || inner.is_array()).cloned();
                let wrapped = inner.filter(|_| object.len() == 1);
                let Some(inner) = wrapped else { return Some(object) };
                value = inner;
            }
            Value::Array(items) => value = items.into_iter().find(Value::is_object)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        }
        *repaired = true;
    }
    None
}

fn description_of(object: &Map<String, Value>) -> Option<(&str, bool)> {
    let names = ["description", "caption", "summary"];
    names.iter().enumerate().find_map(|(at, name)| Some((object.get(*name)?.as_str()?, at > 0)))
}

fn shape(object: &Map<String, Value>, repaired: &mut bool) -> Result<Vision, Unreadable> {
    let (description, renamed) = description_of(object).ok_or(Unreadable::NoDescription)?;
    *repaired |= renamed;
    let description = cut(description.trim(), DESCRIPTION_MAX);
    if description.is_empty() {
        return Err(Unreadable::NoDescription);
    }
    let labels = labels_of(object.get("labels"), repaired);
    let text = match object.get("text") {
        Some(Value::String(text)) => cut(text.trim(), TEXT_MAX),
        Some(Value::Array(lines)) => {
            *repaired = true;
            let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
            cut(&lines.join("\n"), TEXT_MAX)
        }
        Some(_) | None => {
            *repaired = true;
            String::new()
        }
    };
    let faces = match object.get("faces").and_then(Value::as_u64) {
        Some(faces) => u32::try_from(faces).ok(),
        None => {
            *repaired = true;
            object.get("faces").and_then(count_of)
        }
    };
    let confidence = match object.get("confidence").and_then(Value::as_f64) {
        Some(sure) if (0.0..=1.0).contains(&sure) => Some(sure as f32),
        _ => {
            *repaired = true;
            object.get("confidence").and_then(share_of)
        }
    };
    Ok(Vision { description, labels, text, faces, confidence, repaired: false })
}

fn labels_of(value: Option<&Value>, repaired: &mut bool) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    let mut add = |label: &str| {
        let label = cut(label.trim(), LABEL_MAX);
        if !label.is_empty() && labels.len() < LABELS_MAX && !labels.contains(&label) {
            labels.push(label);
        }
    };
    match value {
        Some(Value::Array(items)) => {
            for item in items {
                let named = ["name", "label", "class"].iter().find_map(|key| item.get(*key)?.as_str());
                *repaired |= !item.is_string();
                if let Some(label) = item.as_str().or(named) {
                    add(label);
                }
            }
        }
        Some(Value::String(list)) => {
            *repaired = true;
            list.split([',', ';', '\n']).for_each(add);
        }
        Some(_) | None => *repaired = true,
    }
    labels
}

/// A number that was written otherwise: `"2"`, `2.0`, `["left", "right"]`, `"none"`.
fn count_of(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => number.as_f64().filter(|n| *n >= 0.0 && *n < 1e6).map(|n| n.round() as u32),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "none" | "no" | "zero" => Some(0),
            "one" => Some(1),
            "two" => Some(2),
            "three" => Some(3),
            other => other.parse().ok(),
        },
        Value::Array(items) => u32::try_from(items.len()).ok(),
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
    }
}

/// A share that was written otherwise: `85`, `"85%"`, `"high"`.
fn share_of(value: &Value) -> Option<f32> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            let text = text.trim().to_lowercase();
            match text.as_str() {
                "high" | "very high" | "certain" => 0.9,
                "medium" | "moderate" => 0.6,
                "low" => 0.3,
                other => match other.strip_suffix('%') {
                    Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
                    None => other.parse().ok()?,
                },
            }
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let share = if number > 1.0 { number / 100.0 } else { number };
    (0.0..=1.0).contains(&share).then_some(share as f32)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => text[..end].to_owned(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"description":"A man holds a parcel.","labels":["man","parcel"],"text":"DHL","faces":1,"confidence":0.9}"#;

    fn good() -> Vision {
        Vision {
            description: "A man holds a parcel.".to_owned(),
            labels: vec!["man".to_owned(), "parcel".to_owned()],
            text: "DHL".to_owned(),
            faces: Some(1),
            confidence: Some(0.9),
            repaired: false,
        }
    }

    #[test]
    fn what_fits_the_schema_is_taken_as_it_is() {
        assert_eq!(read(GOOD), Ok(good()));
        let (_, schema) = schema();
        let required = schema["required"].as_array().expect("a list").len();
        assert_eq!(
            schema["properties"].as_object().map(Map::len),
            Some(required),
            "strict: all are required"
        );
    }

    #[test]
    fn what_models_do_to_json_is_undone_and_said() {
        for answer in [
            format!("```json\n{GOOD}\n```"),
            format!("Here is the result:\n{GOOD}\nAnything else {{today}}?"),
            format!("[{GOOD}]"),
            format!("{{\"result\": {GOOD}}}"),
            GOOD.replace("\"parcel\"]", "\"parcel\",]").replace("0.9}", "0.9,}"),
            GOOD.replace("0.9}", "0.9"),
            GOOD.replace("0.9", "\"90%\""),
            GOOD.replace("0.9", "90"),
            GOOD.replace("0.9", "\"high\""),
            GOOD.replace(":1,", ":\"one\","),
            GOOD.replace(":1,", ":[{\"box\":[1,2]}],"),
            GOOD.replace(r#"["man","parcel"]"#, r#""man, parcel""#),
            GOOD.replace(r#"["man","parcel"]"#, r#"[{"name":"man","score":0.8},{"name":"parcel"}]"#),
            GOOD.replace("description", "caption"),
        ] {
            assert_eq!(read(&answer), Ok(Vision { repaired: true, ..good() }), "{answer}");
        }
    }

    #[test]
    fn what_is_missing_is_unknown_and_not_nought() {
        let vision = read(r#"{"description": "A door."}"#).expect("a result");
        assert_eq!((vision.faces, vision.confidence, vision.repaired), (None, None, true));
        let cut = read(r#"{"description":"A man at the door with a red par"#).expect("a result");
        assert_eq!(cut.description, "A man at the door with a red par");
        let cut = read(r#"{"description":"A man.","labels":["man","par"#).expect("a result");
        assert_eq!(cut.labels, ["man", "par"]);
        let cut = read("{\"description\":\"two\nlines\",\"faces\":").expect("a result");
        assert_eq!((cut.description.as_str(), cut.faces), ("two\nlines", None));
        let python = read(r#"{"description": "A door.", "labels": [], "text": None, "faces": 0}"#);
        assert_eq!(python.map(|vision| vision.faces), Ok(Some(0)));
    }

    #[test]
    fn nothing_becomes_an_empty_result() {
        assert_eq!(read("  "), Err(Unreadable::Empty));
        assert_eq!(read("I see a man at the door."), Err(Unreadable::NoObject));
        assert_eq!(read("[]"), Err(Unreadable::NoObject));
        assert_eq!(read("{}"), Err(Unreadable::NoDescription));
        assert_eq!(read(r#"{"description":"  ","labels":["a"]}"#), Err(Unreadable::NoDescription));
        assert_eq!(read(r#"{"description":null,"faces":2}"#), Err(Unreadable::NoDescription));
        assert!(matches!(read("{what is this}"), Err(Unreadable::Broken(_))));
    }

    #[test]
    fn any_cut_and_any_byte_is_read_or_refused() {
        let nested = format!("{}{GOOD}", "{\"a\":[".repeat(300));
        for answer in [GOOD, &nested, "{\"description\":\"\\\\\\\"é\u{1}\", None, ]}}"] {
            for end in (0..answer.len()).filter(|at| answer.is_char_boundary(*at)) {
                if let Ok(vision) = read(&answer[..end]) {
                    assert!(!vision.description.is_empty());
                }
            }
        }
    }

    #[test]
    fn asking_again_shows_what_was_wrong() {
        let request = Request { messages: vec![Message::text(Role::User, "look")], ..Request::default() };
        let again = ask_again(&request, "A door.", &Unreadable::NoObject);
        let words: Vec<String> = again.messages.iter().map(Message::words).collect();
        assert_eq!(words[1], "A door.");
        assert!(words[2].contains("no JSON object"), "{words:?}");
        assert_eq!(ask_again(&request, " ", &Unreadable::Empty).messages.len(), 2);
    }

    #[test]
    fn the_same_in_other_words_is_the_same_and_another_count_is_not() {
        let other_words = Vision { description: "A man holds the parcel.".to_owned(), ..good() };
        assert!(other_words.says_the_same_as(&good()));
        assert!(!Vision { faces: Some(2), ..good() }.says_the_same_as(&good()));
        assert!(!Vision { text: "UPS".to_owned(), ..good() }.says_the_same_as(&good()));
        let gone = Vision { description: "An empty porch in the rain.".to_owned(), ..good() };
        assert!(!gone.says_the_same_as(&good()));
        assert_eq!(good().line(), "A man holds a parcel. Written: DHL");
    }
}
