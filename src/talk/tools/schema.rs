//! Arguments held against the JSON Schema an operator wrote: a strict subset of the draft of 2020-12, in which whatever
//! is not understood is refused when the configuration is read, not ignored when a door depends on it.
//!
//! Pure. Understood are `type` (one of the six), `properties`, `required`, `items`, `enum`, `minimum`, `maximum`,
//! `minLength`, `maxLength`, `maxItems`, and `title` and `description` for the model. Members that are not named are
//! refused always, as though `additionalProperties` were false.

use serde_json::{Map, Value};

/// Schemas and values deeper than this are refused.
const DEPTH: usize = 8;
/// Letters of a text and items of a list where the schema says nothing.
const LENGTH: u64 = 2_000;

const TYPES: [&str; 6] = ["object", "string", "integer", "number", "boolean", "array"];

/// Looks at a schema itself.
///
/// # Errors
/// Says which keyword is not understood, and where.
pub fn check(schema: &Value) -> Result<(), String> {
    let kind = schema.get("type").and_then(Value::as_str);
    if kind != Some("object") {
        return Err("the arguments are an object: type = \"object\"".to_owned());
    }
    look(schema, "", DEPTH)
}

fn look(schema: &Value, at: &str, depth: usize) -> Result<(), String> {
    let here = if at.is_empty() { "it" } else { at };
    let Value::Object(words) = schema else { return Err(format!("{here} is no table")) };
    if depth == 0 {
        return Err(format!("{here} is too deep"));
    }
    let kind = words.get("type").and_then(Value::as_str).unwrap_or_default();
    if !TYPES.contains(&kind) {
        return Err(format!("{here} needs a type: one of {}", TYPES.join(", ")));
    }
    for (word, value) in words {
        let good = match word.as_str() {
            "type" | "properties" | "items" => true,
            "title" | "description" => value.is_string(),
            "enum" => value.as_array().is_some_and(|values| !values.is_empty()),
            "required" => value.as_array().is_some_and(|names| names.iter().all(Value::is_string)),
            "minimum" | "maximum" => value.is_number(),
            "minLength" | "maxLength" | "maxItems" => value.as_u64().is_some(),
            "additionalProperties" => *value == Value::Bool(false),
            _ => return Err(format!("{here}: the keyword {word:?} is not understood here")),
        };
        if !good {
            return Err(format!("{here}: {word:?} has a value that is not understood here"));
        }
    }
    match (words.get("properties"), words.get("items")) {
        (Some(Value::Object(members)), None) if kind == "object" => {
            members.iter().try_for_each(|(name, inner)| look(inner, &format!("{at}.{name}"), depth - 1))
        }
        (None, Some(items)) if kind == "array" => look(items, &format!("{at}[]"), depth - 1),
        (None, None) if kind != "array" => Ok(()),
        _ => Err(format!("{here}: an object has properties, an array has items, others have neither")),
    }
}

/// Holds arguments against a schema that [`check`] took.
///
/// # Errors
/// Says in words for the model what is wrong.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    hold(schema, value, "the arguments", DEPTH)
}

fn hold(schema: &Value, value: &Value, at: &str, depth: usize) -> Result<(), String> {
    if depth == 0 {
        return Err(format!("{at}: too deep"));
    }
    let kind = schema["type"].as_str().unwrap_or_default();
    let fits = match value {
        Value::Object(_) => kind == "object",
        Value::String(_) => kind == "string",
        Value::Number(number) => {
            kind == "number" || kind == "integer" && (number.is_i64() || number.is_u64())
        }
        Value::Bool(_) => kind == "boolean",
        Value::Array(_) => kind == "array",
        Value::Null => false,
    };
    if !fits {
        return Err(format!("{at}: must be of type {kind}"));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        return Err(format!("{at}: must be one of {}", Value::Array(values.clone())));
    }
    match value {
        Value::Object(members) => hold_members(schema, members, at, depth),
        Value::Array(items) => {
            bounded(items.len() as u64, None, schema["maxItems"].as_u64(), at)?;
            items.iter().try_for_each(|item| hold(&schema["items"], item, &format!("{at}[]"), depth - 1))
        }
        Value::String(text) => {
            let (least, most) = (schema["minLength"].as_u64(), schema["maxLength"].as_u64());
            bounded(text.chars().count() as u64, least, most, at)
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let least = schema["minimum"].as_f64().is_none_or(|least| number >= least);
            let most = schema["maximum"].as_f64().is_none_or(|most| number <= most);
            if least && most { Ok(()) } else { Err(format!("{at}: out of range")) }
        }
        Value::Bool(_) | Value::Null => Ok(()),
    }
}

fn hold_members(schema: &Value, members: &Map<String, Value>, at: &str, depth: usize) -> Result<(), String> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for name in required {
        if !members.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, member) in members {
        match schema["properties"].get(name) {
            Some(inner) => hold(inner, member, name, depth - 1)?,
            None => return Err(format!("{at}: there is no such argument as one of those given")),
        }
    }
    Ok(())
}

fn bounded(count: u64, least: Option<u64>, most: Option<u64>, at: &str) -> Result<(), String> {
    let most = most.unwrap_or(LENGTH);
    let good = count >= least.unwrap_or(0) && count <= most;
    if good { Ok(()) } else { Err(format!("{at}: too short or too long (at most {most})")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "maxLength": 10, "description": "where"},
            "days": {"type": "integer", "minimum": 1, "maximum": 7},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "tags": {"type": "array", "maxItems": 2, "items": {"type": "string"}}
        }})
    }

    #[test]
    fn arguments_fit_or_are_refused() {
        let schema = schema();
        check(&schema).expect("a good schema");
        for good in
            [json!({"city": "Ulm"}), json!({"city": "Ulm", "days": 7, "unit": "C", "tags": ["a", "b"]})]
        {
            assert_eq!(validate(&schema, &good), Ok(()));
        }
        for bad in [
            json!(null),
            json!([]),
            json!("Ulm"),
            json!({}),
            json!({"city": null}),
            json!({"city": 5}),
            json!({"city": "a city with a long name"}),
            json!({"city": "Ulm", "days": 8}),
            json!({"city": "Ulm", "days": 1.5}),
            json!({"city": "Ulm", "days": "1"}),
            json!({"city": "Ulm", "unit": "K"}),
            json!({"city": "Ulm", "tags": ["a", "b", "c"]}),
            json!({"city": "Ulm", "tags": [1]}),
            json!({"city": "Ulm", "url": "http://10.0.0.1"}),
        ] {
            assert!(validate(&schema, &bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schema_that_is_not_understood_is_refused() {
        for bad in [
            json!({}),
            json!({"type": "string"}),
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^x$"}}}),
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}}),
            json!({"type": "object", "additionalProperties": true}),
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}}),
            json!({"type": "object", "required": [1]}),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
    }
}
