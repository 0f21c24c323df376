//! Driver. Providers without a network: canned answers after stated times, set by `options` of a `mock` section.
//!
//! | key | of | says |
//! |---|---|---|
//! | `delay_ms`, `gap_ms` | all | until the first piece; between the pieces |
//! | `fail`, `fail_times` | all | `busy` `error` `refuse` `hang` `cut` `garbled`, the first so many times (else always) |
//! | `text` | llm, stt | the answer; in it `{said}` are the words asked, `{images}` the number of pictures with them, `{number}` which question it is |
//! | `answers` | llm | a list of `{ when, text, call = { name, arguments }, fail }`: the first whose `when` is in the words |
//! | `texts` | stt | one after the other for the turns of a call; the last one stays |
//! | `word_ms` | stt | a word of the text is told so often while the caller speaks; 0: only at the end |
//! | `tone_hz`, `letter_ms` | tts | the voice: a tone, so long for a letter |

#![expect(clippy::disallowed_methods, reason = "the stated times pass on the clock")]

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::talk::message::{Delta, Endpoint, Failure, Finish, Request, Role, ToolCall, Usage};

/// Longest text and most letters a canned voice speaks.
const LETTERS_MAX: usize = 4_000;

fn number(options: &Map<String, Value>, key: &str, otherwise: u64) -> u64 {
    options.get(key).and_then(Value::as_u64).unwrap_or(otherwise)
}

fn text<'a>(options: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    options.get(key).and_then(Value::as_str)
}

/// How a canned answer goes wrong.
enum Fault {
    Failure(Failure),
    Hang,
    /// In the middle of the answer.
    Cut,
}

/// The fault wanted for question `number`.
fn fault(options: &Map<String, Value>, number: u64) -> Option<Fault> {
    let times = options.get("fail_times").and_then(Value::as_u64).unwrap_or(u64::MAX);
    let word = text(options, "fail").filter(|_| number < times)?;
    Some(match word {
        "busy" => Fault::Failure(Failure::Busy { retry_after_ms: None }),
        "refuse" => Fault::Failure(Failure::Refused { status: 400, text: "a canned refusal".to_owned() }),
        "garbled" => Fault::Failure(Failure::Garbled("a canned muddle".to_owned())),
        "hang" => Fault::Hang,
        "cut" => Fault::Cut,
        _ => Fault::Failure(Failure::Failed { status: 500, text: "a canned failure".to_owned() }),
    })
}

/// Waits for the first piece, or fails as it is told to. `true`: it is to be cut in the middle.
async fn begin(options: &Map<String, Value>, number_asked: u64, timeout_ms: u64) -> Result<bool, Failure> {
    let delay = number(options, "delay_ms", 0);
    let fault = fault(options, number_asked);
    let delay = if matches!(fault, Some(Fault::Hang)) { u64::MAX } else { delay };
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay.min(timeout_ms))).await;
    }
    if delay > timeout_ms {
        return Err(Failure::TooSlow(timeout_ms));
    }
    match fault {
        Some(Fault::Failure(failure)) => Err(failure),
        Some(Fault::Cut) => Ok(true),
        Some(Fault::Hang) | None => Ok(false),
    }
}

/// A canned answer of a language model.
pub struct CannedAnswer {
    deltas: VecDeque<Delta>,
    gap: Duration,
    cut: bool,
}

impl CannedAnswer {
    /// Waits until its first piece is due.
    pub async fn begin(endpoint: &Endpoint, request: &Request, number_asked: u64) -> Result<Self, Failure> {
        let said = words_asked(request);
        let options = merged(&endpoint.options, &said);
        let cut = begin(&options, number_asked, endpoint.timeout_ms).await?;
        let mut deltas = deltas(&options, &said, request, number_asked);
        if cut {
            deltas.truncate(deltas.len() / 2);
        }
        Ok(CannedAnswer { deltas, gap: Duration::from_millis(number(&options, "gap_ms", 0)), cut })
    }

    pub async fn next(&mut self) -> Result<Option<Delta>, Failure> {
        if !self.gap.is_zero() {
            tokio::time::sleep(self.gap).await;
        }
        match self.deltas.pop_front() {
            None if self.cut => Err(Failure::Cut),
            delta => Ok(delta),
        }
    }
}

/// What the model was asked last: the caller's words or a tool's answer.
fn words_asked(request: &Request) -> String {
    let asked = |message: &&crate::talk::message::Message| matches!(message.role, Role::User | Role::Tool);
    request.messages.iter().rev().find(asked).map(|message| message.words()).unwrap_or_default()
}

/// The options with those of the answer chosen for these words over them.
fn merged(options: &Map<String, Value>, said: &str) -> Map<String, Value> {
    let said = said.to_lowercase();
    let fits =
        |answer: &&Map<String, Value>| said.contains(&text(answer, "when").unwrap_or("").to_lowercase());
    let answers = options.get("answers").and_then(Value::as_array).into_iter().flatten();
    let chosen = answers.filter_map(Value::as_object).find(fits);
    let mut all = options.clone();
    if let Some(chosen) = chosen {
        all.extend(chosen.iter().map(|(key, value)| (key.clone(), value.clone())));
        if chosen.contains_key("call") && !chosen.contains_key("text") {
            all.remove("text");
        }
    }
    all
}

fn deltas(options: &Map<String, Value>, said: &str, request: &Request, number: u64) -> VecDeque<Delta> {
    let call = options.get("call").and_then(Value::as_object);
    let otherwise = if call.is_some() { "" } else { "You said: {said}" };
    let answer = text(options, "text").unwrap_or(otherwise);
    let answer = answer
        .replace("{number}", &number.to_string())
        .replace("{said}", said)
        .replace("{images}", &request.image_count().to_string());
    let mut deltas: VecDeque<Delta> =
        answer.split_inclusive(' ').map(|word| Delta::Text(word.to_owned())).collect();
    let output_tokens = deltas.len() as u64;
    deltas.extend(call.map(|call| {
        let arguments = call.get("arguments").map_or_else(|| "{}".to_owned(), Value::to_string);
        let id = format!("call_{}", request.messages.len());
        Delta::Call(ToolCall {
            id,
            name: text(call, "name").unwrap_or("").to_owned(),
            arguments,
            signature: None,
        })
    }));
    let input_tokens: u64 = request.messages.iter().map(|message| message.words().len() as u64 / 4).sum();
    let image_tokens = 85 * request.image_count() as u64;
    let input_tokens = input_tokens + image_tokens;
    deltas.push_back(Delta::Usage(Usage { input_tokens, cached_tokens: 0, image_tokens, output_tokens }));
    deltas.push_back(Delta::Finish(if call.is_some() { Finish::Tools } else { Finish::Stop }));
    deltas
}

/// The text of one caller's turn, counted from 0.
pub fn canned_words(endpoint: &Endpoint, turn: usize) -> String {
    let texts =
        endpoint.options.get("texts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let nth = texts.get(turn).or(texts.last()).and_then(Value::as_str);
    nth.or(text(&endpoint.options, "text")).unwrap_or("hello").to_owned()
}

/// The beginning of that text as it is told after so many milliseconds of speech.
pub fn canned_partial(endpoint: &Endpoint, turn: usize, spoken_ms: u64) -> Option<String> {
    let words = spoken_ms.checked_div(number(&endpoint.options, "word_ms", 300))?;
    let text = canned_words(endpoint, turn);
    let told: Vec<&str> = text.split_whitespace().take(words as usize).collect();
    (!told.is_empty()).then(|| told.join(" "))
}

/// The text of that turn once it is due.
pub async fn transcribe(endpoint: &Endpoint, turn: usize, number_asked: u64) -> Result<String, Failure> {
    match begin(&endpoint.options, number_asked, endpoint.timeout_ms).await? {
        true => Err(Failure::Cut),
        false => Ok(canned_words(endpoint, turn)),
    }
}

/// A canned voice: a tone.
pub struct CannedSpeech {
    rate: u32,
    hz: f64,
    made: usize,
    samples: usize,
    gap: Duration,
    cut: bool,
}

/// Milliseconds of a piece of its sound.
const PIECE_MS: usize = 100;
/// Of full scale.
const LEVEL: f64 = 0.25 * i16::MAX as f64;

impl CannedSpeech {
    pub async fn begin(
        endpoint: &Endpoint,
        words: &str,
        rate: u32,
        number_asked: u64,
    ) -> Result<Self, Failure> {
        let options = &endpoint.options;
        let cut = begin(options, number_asked, endpoint.timeout_ms).await?;
        let letters = words.chars().count().min(LETTERS_MAX) as u64;
        let length_ms = letters * number(options, "letter_ms", 60).min(1_000);
        let samples = (length_ms * u64::from(rate) / 1_000) as usize;
        Ok(CannedSpeech {
            rate,
            hz: number(options, "tone_hz", 440) as f64,
            made: 0,
            samples: if cut { samples / 2 } else { samples },
            gap: Duration::from_millis(number(options, "gap_ms", 0)),
            cut,
        })
    }

    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        if !self.gap.is_zero() {
            tokio::time::sleep(self.gap).await;
        }
        let end = self.samples.min(self.made + self.rate as usize * PIECE_MS / 1_000);
        if end == self.made {
            return if self.cut { Err(Failure::Cut) } else { Ok(None) };
        }
        let step = std::f64::consts::TAU * self.hz / f64::from(self.rate);
        let piece = (self.made..end).map(|n| ((n as f64 * step).sin() * LEVEL) as i16).collect();
        self.made = end;
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::{Message, Vendor};

    fn mock(options: Value) -> Endpoint {
        let options = options.as_object().cloned().expect("a table");
        Endpoint { options, ..Endpoint::new("canned", Vendor::Mock) }
    }

    fn asked(words: &str) -> Request {
        Request { messages: vec![Message::text(Role::User, words)], ..Request::default() }
    }

    async fn answer(endpoint: &Endpoint, words: &str, number: u64) -> Result<Vec<Delta>, Failure> {
        let mut answer = CannedAnswer::begin(endpoint, &asked(words), number).await?;
        let mut all = Vec::new();
        while let Some(delta) = answer.next().await? {
            all.push(delta);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn the_answer_is_chosen_by_the_words_asked() {
        let endpoint = mock(serde_json::json!({
            "text": "Else.",
            "answers": [
                { "when": "Weather", "text": "It is {said} with {images} pictures." },
                { "when": "door", "call": { "name": "unlock", "arguments": { "pin": "1" } } },
            ],
        }));
        let deltas = answer(&endpoint, "sunny weather", 0).await.expect("an answer");
        let words: String = deltas
            .iter()
            .filter_map(|d| if let Delta::Text(t) = d { Some(t.as_str()) } else { None })
            .collect();
        assert_eq!(words, "It is sunny weather with 0 pictures.");
        assert_eq!(deltas.last(), Some(&Delta::Finish(Finish::Stop)));
        let deltas = answer(&endpoint, "open the door", 0).await.expect("an answer");
        assert!(
            matches!(&deltas[0], Delta::Call(call) if call.name == "unlock" && call.arguments == "{\"pin\":\"1\"}")
        );
        assert_eq!(deltas.last(), Some(&Delta::Finish(Finish::Tools)));
        assert_eq!(answer(&endpoint, "hm", 0).await.expect("an answer")[0], Delta::Text("Else.".to_owned()));
    }

    #[tokio::test]
    async fn faults_come_as_often_as_told() {
        let endpoint = mock(serde_json::json!({ "fail": "busy", "fail_times": 2 }));
        for (number, fails) in [(0, true), (1, true), (2, false)] {
            assert_eq!(answer(&endpoint, "hm", number).await.is_err(), fails, "{number}");
        }
        let cut = mock(serde_json::json!({ "fail": "cut", "text": "one two three" }));
        let mut answer = CannedAnswer::begin(&cut, &asked(""), 0).await.expect("it begins");
        assert_eq!(answer.next().await, Ok(Some(Delta::Text("one ".to_owned()))));
        while let Ok(Some(_)) = answer.next().await {}
        assert_eq!(answer.next().await, Err(Failure::Cut));
        let hang = Endpoint { timeout_ms: 20, ..mock(serde_json::json!({ "fail": "hang" })) };
        assert_eq!(transcribe(&hang, 0, 0).await, Err(Failure::TooSlow(20)));
    }

    #[test]
    fn a_callers_turns_have_their_texts_and_words_come_as_they_are_spoken() {
        let endpoint = mock(serde_json::json!({ "texts": ["what is this", "thank you"], "word_ms": 100 }));
        assert_eq!(canned_words(&endpoint, 0), "what is this");
        assert_eq!(canned_words(&endpoint, 7), "thank you");
        assert_eq!(canned_partial(&endpoint, 0, 50), None);
        assert_eq!(canned_partial(&endpoint, 0, 250).as_deref(), Some("what is"));
        assert_eq!(canned_partial(&endpoint, 0, 9_999).as_deref(), Some("what is this"));
        assert_eq!(canned_partial(&mock(serde_json::json!({ "word_ms": 0 })), 0, 9_999), None);
    }

    #[tokio::test]
    async fn the_voice_is_as_long_as_its_text() {
        let endpoint = mock(serde_json::json!({ "letter_ms": 50 }));
        let mut speech = CannedSpeech::begin(&endpoint, "ten letter", 8_000, 0).await.expect("a voice");
        let mut all = Vec::new();
        while let Some(piece) = speech.next().await.expect("sound") {
            all.extend(piece);
        }
        assert_eq!(all.len(), 4_000);
        assert!(all.iter().any(|sample| *sample > 8_000));
    }
}
