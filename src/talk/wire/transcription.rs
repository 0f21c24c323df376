//! Text from speech, as OpenAI's API reference has it (`POST /audio/transcriptions`, multipart) and whisper.cpp, vLLM,
//! Speaches and others serve it too.

use serde_json::{Map, Value};

use super::events::Events;
use crate::talk::message::{Endpoint, Failure};

/// The fields beside the file.
pub fn fields(endpoint: &Endpoint) -> Vec<(String, String)> {
    let mut fields = Map::new();
    fields.insert("model".to_owned(), endpoint.model.as_str().into());
    fields.insert("response_format".to_owned(), "json".into());
    if !matches!(endpoint.language.as_str(), "" | "auto") {
        fields.insert("language".to_owned(), endpoint.language.as_str().into());
    }
    if let Some(temperature) = endpoint.temperature {
        fields.insert("temperature".to_owned(), temperature.into());
    }
    fields.extend(endpoint.options.clone());
    let mut list = Vec::new();
    for (key, value) in fields {
        match value {
            Value::Null => {}
            Value::String(text) => list.push((key, text)),
            Value::Array(items) => {
                for item in items {
                    let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
                    list.push((format!("{key}[]"), text));
                }
            }
            other => list.push((key, other.to_string())),
        }
    }
    list
}

/// The text of an answer of this media type.
pub fn text(content_type: &str, body: &[u8]) -> Result<String, Failure> {
    let body = String::from_utf8_lossy(body);
    if content_type.starts_with("text/event-stream") {
        return streamed(&body);
    }
    if content_type.starts_with("text/plain") {
        return Ok(body.trim().to_owned());
    }
    let value: Value =
        serde_json::from_str(&body).map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
    let text = value["text"].as_str().ok_or_else(|| Failure::Garbled("no text in it".to_owned()))?;
    Ok(text.trim().to_owned())
}

fn streamed(body: &str) -> Result<String, Failure> {
    let (mut events, mut all) = (Events::default(), Vec::new());
    events.push(body.as_bytes(), &mut all)?;
    events.finish(&mut all);
    for event in all.iter().filter(|event| event.data.trim() != "[DONE]") {
        let value: Value = serde_json::from_str(&event.data)
            .map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
        if value["type"] == "transcript.text.done" {
            return Ok(value["text"].as_str().unwrap_or_default().trim().to_owned());
        }
    }
    Err(Failure::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Vendor;
    use serde_json::json;

    #[test]
    fn fields_are_text_and_a_language_of_auto_is_none() {
        let mut endpoint = Endpoint {
            model: "whisper-1".to_owned(),
            language: "auto".to_owned(),
            temperature: Some(0.0),
            ..Endpoint::new("x", Vendor::OpenAi)
        };
        endpoint.options.insert("prompt".to_owned(), json!("Names: Anna"));
        endpoint.options.insert("include".to_owned(), json!(["logprobs"]));
        let field = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut all = fields(&endpoint);
        all.sort();
        assert_eq!(
            all,
            [
                field("include[]", "logprobs"),
                field("model", "whisper-1"),
                field("prompt", "Names: Anna"),
                field("response_format", "json"),
                field("temperature", "0.0"),
            ]
        );
        endpoint.language = "de".to_owned();
        assert!(fields(&endpoint).contains(&field("language", "de")));
    }

    #[test]
    fn every_form_of_an_answer_is_read() {
        assert_eq!(text("application/json", br#"{"text":" Hello. ","usage":{}}"#), Ok("Hello.".to_owned()));
        assert_eq!(text("text/plain; charset=utf-8", b"Hello.\n"), Ok("Hello.".to_owned()));
        let events = b"data: {\"type\":\"transcript.text.delta\",\"delta\":\"Hel\"}\n\ndata: {\"type\":\"transcript.text.done\",\"text\":\"Hello.\"}\n\n";
        assert_eq!(text("text/event-stream", events), Ok("Hello.".to_owned()));
        assert_eq!(text("text/event-stream", &events[..events.len() / 2]), Err(Failure::Cut));
        for broken in ["", "{", "{}", "{\"text\":1}"] {
            assert!(
                matches!(text("application/json", broken.as_bytes()), Err(Failure::Garbled(_))),
                "{broken}"
            );
        }
    }
}
