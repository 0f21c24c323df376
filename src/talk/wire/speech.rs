//! Speech from text, as OpenAI's API reference has it (`POST /audio/speech`) and Kokoro, Piper, Speaches and others serve
//! it too: plain samples, streamed.

use serde_json::{Value, json};

use super::body::lay_over;
use crate::talk::message::Endpoint;

/// Hz of plain samples.
pub const RATE: u32 = 24_000;
/// Letters of one request.
const LETTERS_MAX: usize = 4_096;

/// The JSON of a request.
pub fn body(endpoint: &Endpoint, text: &str) -> Value {
    let input: String = text.chars().take(LETTERS_MAX).collect();
    let voice = if endpoint.voice.is_empty() { "alloy" } else { &endpoint.voice };
    let mut body =
        json!({ "model": endpoint.model, "input": input, "voice": voice, "response_format": "pcm" });
    lay_over(&mut body, &endpoint.options);
    body
}

/// The rate a media type names: `audio/pcm;rate=16000`.
pub fn rate_of(content_type: &str) -> u32 {
    let named = content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("rate").then(|| value.trim().parse().ok()).flatten()
    });
    named.unwrap_or(RATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Vendor;

    #[test]
    fn plain_samples_are_asked_for() {
        let mut endpoint = Endpoint { model: "tts-1".to_owned(), ..Endpoint::new("x", Vendor::OpenAi) };
        endpoint.options.insert("speed".to_owned(), json!(1.1));
        let wanted = json!({ "model": "tts-1", "input": "Hello.", "voice": "alloy", "response_format": "pcm", "speed": 1.1 });
        assert_eq!(body(&endpoint, "Hello."), wanted);
        assert_eq!(
            body(&endpoint, &"ä".repeat(9_000))["input"].as_str().map(|s| s.chars().count()),
            Some(4_096)
        );
    }

    #[test]
    fn a_named_rate_is_believed() {
        for (content_type, rate) in [
            ("audio/pcm", 24_000),
            ("audio/L16; channels=1; rate=16000", 16_000),
            ("audio/pcm;rate=fast", 24_000),
            ("", 24_000),
        ] {
            assert_eq!(rate_of(content_type), rate);
        }
    }
}
