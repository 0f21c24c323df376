//! Deepgram's text to speech over WebSocket (`/v1/speak`), as its API reference has it: sentences in, sound out, told
//! apart by `Flushed`.

use serde_json::{Value, json};

use super::body::complaint;
use crate::codec::g711::Law;
use crate::talk::message::{Endpoint, Failure};

/// Letters of one message.
const LETTERS_MAX: usize = 2_000;

/// How its sound is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    G711(Law),
    Linear {
        /// Hz.
        rate: u32,
    },
}

impl Coding {
    /// What is asked for a call of this rate and law: its own law, its own rate, else one to convert from.
    pub fn of(rate: u32, law: Option<Law>) -> Self {
        match (law, rate) {
            (Some(law), 8_000) => Coding::G711(law),
            (_, 8_000 | 16_000 | 24_000 | 32_000 | 48_000) => Coding::Linear { rate },
            _ => Coding::Linear { rate: 24_000 },
        }
    }

    /// The values of `encoding` and `sample_rate`.
    pub fn names(self) -> (&'static str, u32) {
        match self {
            Coding::G711(Law::Mu) => ("mulaw", 8_000),
            Coding::G711(Law::A) => ("alaw", 8_000),
            Coding::Linear { rate } => ("linear16", rate),
        }
    }
}

/// The query of its URL; `options` are further parameters.
pub fn query(endpoint: &Endpoint, coding: Coding) -> Vec<(String, String)> {
    let (encoding, rate) = coding.names();
    // The model is the voice there.
    let model = if endpoint.voice.is_empty() { &endpoint.model } else { &endpoint.voice };
    let model = if model.is_empty() { "aura-2-thalia-en" } else { model };
    let own =
        [("model", model.to_owned()), ("encoding", encoding.to_owned()), ("sample_rate", rate.to_string())];
    let mut query: Vec<(String, String)> = Vec::new();
    for (key, value) in own {
        // How it is coded is ours to say, the rest is not.
        if key != "model" || !endpoint.options.contains_key(key) {
            query.push((key.to_owned(), value));
        }
    }
    query.extend(super::body::parameters(&endpoint.options, &["encoding", "sample_rate"]));
    query
}

/// The messages of one sentence.
pub fn say(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut messages: Vec<String> = letters
        .chunks(LETTERS_MAX)
        .map(|piece| json!({ "type": "Speak", "text": piece.iter().collect::<String>() }).to_string())
        .collect();
    messages.push(json!({ "type": "Flush" }).to_string());
    messages
}

/// What a text message of the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// All sound of the sentence has been sent.
    Flushed,
    Warning(String),
    /// Nothing we need.
    Other,
}

/// Reads a text message.
pub fn read(text: &str, key: &str) -> Result<Said, Failure> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
    match value["type"].as_str() {
        Some("Flushed") => Ok(Said::Flushed),
        Some("Warning") => Ok(Said::Warning(complaint(text, key))),
        Some("Error") => Err(Failure::Failed { status: 500, text: complaint(text, key) }),
        _ => Ok(Said::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Vendor;

    #[test]
    fn a_call_gets_its_own_law_and_rate() {
        for (rate, law, names) in [
            (8_000, Some(Law::Mu), ("mulaw", 8_000)),
            (8_000, Some(Law::A), ("alaw", 8_000)),
            (8_000, None, ("linear16", 8_000)),
            (16_000, None, ("linear16", 16_000)),
            (48_000, None, ("linear16", 48_000)),
            (22_050, None, ("linear16", 24_000)),
        ] {
            assert_eq!(Coding::of(rate, law).names(), names);
        }
    }

    #[test]
    fn options_are_parameters_but_the_coding_is_ours() {
        let mut endpoint = Endpoint { model: "aura-2-x".to_owned(), ..Endpoint::new("x", Vendor::Deepgram) };
        endpoint.options.insert("encoding".to_owned(), json!("mp3"));
        endpoint.options.insert("mip_opt_out".to_owned(), json!(true));
        let query = query(&endpoint, Coding::Linear { rate: 24_000 });
        let text: Vec<String> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(text, ["model=aura-2-x", "encoding=linear16", "sample_rate=24000", "mip_opt_out=true"]);
    }

    #[test]
    fn long_sentences_are_several_messages_before_one_flush() {
        assert_eq!(say("Hi."), ["{\"text\":\"Hi.\",\"type\":\"Speak\"}", "{\"type\":\"Flush\"}"]);
        assert_eq!(say(&"ä".repeat(4_500)).len(), 4);
    }

    #[test]
    fn its_words_are_told_apart() {
        assert_eq!(read("{\"type\":\"Flushed\",\"sequence_id\":0}", ""), Ok(Said::Flushed));
        assert_eq!(read("{\"type\":\"Metadata\",\"request_id\":\"x\"}", ""), Ok(Said::Other));
        let warning = read("{\"type\":\"Warning\",\"description\":\"too  fast\",\"code\":\"W\"}", "");
        assert_eq!(warning, Ok(Said::Warning("too fast".to_owned())));
        assert!(read("{\"type\":\"Error\",\"description\":\"no\"}", "").is_err());
        assert!(matches!(read("{", ""), Err(Failure::Garbled(_))));
    }
}
