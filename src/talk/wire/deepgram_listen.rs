//! Deepgram's speech to text over WebSocket (`/v1/listen`), as its API reference has it: sound in, words out while it is
//! spoken.
//!
//! Its stream knows no turns, ours does. A turn ends with `Finalize`; results up to the one marked `from_finalize` are
//! its text. Where nothing is left to finalize no such mark comes: then a turn is done once all its sound is covered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::body::{complaint, parameters};
use crate::codec::g711::Law;
use crate::talk::message::{Endpoint, Failure};

pub const FINALIZE: &str = "{\"type\":\"Finalize\"}";
pub const KEEP_ALIVE: &str = "{\"type\":\"KeepAlive\"}";
/// It closes a connection without sound after 10 s; its manual asks for one of these every 3 to 5.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(4);

/// A turn whose sound is all covered is done after so much silence of the server.
const COVERED_GRACE: Duration = Duration::from_millis(400);
/// Sound at the end of a turn that results may leave out, in seconds.
const UNCOVERED: f64 = 0.3;
/// Turns that wait for their end.
const TURNS_MAX: usize = 8;

/// The query of its URL; `options` are further parameters, and stand over these.
pub fn query(endpoint: &Endpoint, rate: u32, law: Option<Law>, live: bool) -> Vec<(String, String)> {
    let encoding = match law {
        Some(Law::Mu) => "mulaw",
        Some(Law::A) => "alaw",
        None => "linear16",
    };
    let model = if endpoint.model.is_empty() { "nova-3" } else { &endpoint.model };
    let (rate, language) = (rate.to_string(), endpoint.language.as_str());
    let mut own = vec![("model", model), ("smart_format", "true")];
    if live {
        own.extend([
            ("interim_results", "true"),
            ("encoding", encoding),
            ("sample_rate", &rate),
            ("channels", "1"),
        ]);
    }
    match language {
        "" => {}
        "auto" => own.push(("language", "multi")),
        language => own.push(("language", language)),
    }
    let free = |key: &str| {
        !endpoint.options.contains_key(key) || ["encoding", "sample_rate", "channels"].contains(&key)
    };
    let own = own.into_iter().filter(|(key, _)| free(key));
    let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
    own.chain(parameters(&endpoint.options, &["encoding", "sample_rate", "channels"])).collect()
}

/// The text of what `POST /v1/listen` answers to a whole file.
pub fn text_of_file(body: &[u8]) -> Result<String, Failure> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
    let text = value.pointer("/results/channels/0/alternatives/0/transcript").and_then(Value::as_str);
    text.map(|text| text.trim().to_owned()).ok_or_else(|| Failure::Garbled("no transcript in it".to_owned()))
}

/// What is told of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Partial(String),
    /// Of a turn that was committed, in their order.
    Final(String),
}

#[derive(Debug, Default)]
struct Turn {
    /// What is settled, and what may still change.
    settled: String,
    open: String,
    /// Where its sound ends, in seconds of the connection; `None`: it goes on.
    ends: Option<f64>,
    /// When its end was asked for, and the last word of the server since.
    asked: Option<Instant>,
    heard: Option<Instant>,
    discarded: bool,
}

impl Turn {
    fn words(&self) -> String {
        let both = [self.settled.trim(), self.open.trim()];
        both.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}

/// The turns of one connection.
#[derive(Debug, Default)]
pub struct Listening {
    /// The last one may still be spoken, those before it wait for their end.
    turns: VecDeque<Turn>,
    /// Seconds of sound sent.
    sent: f64,
    /// Seconds of sound the settled results cover.
    covered: f64,
    told: VecDeque<Heard>,
}

impl Listening {
    /// A turn begins.
    pub fn begin(&mut self) {
        self.turns.push_back(Turn::default());
    }

    /// So much of its sound was sent.
    pub fn handle_sent(&mut self, seconds: f64) {
        self.sent += seconds;
    }

    /// The turn is over, and `Finalize` was sent. Fails when too many wait.
    pub fn commit(&mut self, now: Instant, discarded: bool) -> Result<(), Failure> {
        if let Some(turn) = self.turns.back_mut().filter(|turn| turn.ends.is_none()) {
            turn.ends = Some(self.sent);
            turn.asked = Some(now);
            turn.discarded = discarded;
        }
        if self.turns.len() > TURNS_MAX { Err(Failure::TooSlow(0)) } else { Ok(()) }
    }

    /// A message of the server.
    pub fn handle_text(&mut self, now: Instant, text: &str, key: &str) -> Result<(), Failure> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
        match value["type"].as_str() {
            Some("Results") => self.handle_results(now, &value),
            Some("Error") => return Err(Failure::Failed { status: 500, text: complaint(text, key) }),
            // SpeechStarted, UtteranceEnd and Metadata: who speaks when is decided on this box.
            _ => {}
        }
        Ok(())
    }

    fn handle_results(&mut self, now: Instant, value: &Value) {
        let words = value.pointer("/channel/alternatives/0/transcript").and_then(Value::as_str);
        let words = words.unwrap_or_default().trim();
        let is_final = value["is_final"].as_bool() == Some(true);
        if is_final {
            let end = value["start"].as_f64().unwrap_or(0.0) + value["duration"].as_f64().unwrap_or(0.0);
            self.covered = self.covered.max(end);
        }
        let Some(turn) = self.turns.front_mut() else { return };
        turn.heard = Some(now);
        if is_final {
            turn.open.clear();
            if !words.is_empty() {
                if !turn.settled.is_empty() {
                    turn.settled.push(' ');
                }
                turn.settled.push_str(words);
            }
        } else {
            words.clone_into(&mut turn.open);
        }
        if value["from_finalize"].as_bool() == Some(true) && turn.ends.is_some() {
            self.end_first();
        } else if !words.is_empty() && !turn.discarded && turn.ends.is_none() {
            let partial = Heard::Partial(turn.words());
            if let Some(Heard::Partial(_)) = self.told.back() {
                self.told.pop_back();
            }
            self.told.push_back(partial);
        }
    }

    fn end_first(&mut self) {
        if let Some(turn) = self.turns.pop_front()
            && !turn.discarded
        {
            self.told.push_back(Heard::Final(turn.words()));
        }
    }

    /// Time has passed; `timeout` is what an answer may take.
    pub fn handle_time(&mut self, now: Instant, timeout: Duration) -> Result<(), Failure> {
        while let Some((due, covered)) = self.due(timeout)
            && now >= due
        {
            if !covered {
                return Err(Failure::TooSlow(timeout.as_millis() as u64));
            }
            self.end_first();
        }
        Ok(())
    }

    /// When the first turn is given up or taken as it is, and whether the latter.
    fn due(&self, timeout: Duration) -> Option<(Instant, bool)> {
        let turn = self.turns.front()?;
        let (ends, asked) = (turn.ends?, turn.asked?);
        let covered = self.covered + UNCOVERED >= ends;
        let since = turn.heard.map_or(asked, |heard| heard.max(asked));
        Some(if covered { (since + COVERED_GRACE.min(timeout), true) } else { (since + timeout, false) })
    }

    pub fn wake_at(&self, timeout: Duration) -> Option<Instant> {
        self.due(timeout).map(|(due, _)| due)
    }

    pub fn poll(&mut self) -> Option<Heard> {
        self.told.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Vendor;
    use serde_json::json;

    const LIMIT: Duration = Duration::from_secs(5);

    fn results(words: &str, start: f64, duration: f64, is_final: bool, from_finalize: bool) -> String {
        json!({ "type": "Results", "start": start, "duration": duration, "is_final": is_final,
            "from_finalize": from_finalize, "channel": { "alternatives": [{ "transcript": words }] } })
        .to_string()
    }

    fn all(ears: &mut Listening) -> Vec<Heard> {
        std::iter::from_fn(|| ears.poll()).collect()
    }

    fn last(text: &str) -> Vec<Heard> {
        vec![Heard::Final(text.to_owned())]
    }

    #[test]
    fn a_turn_is_all_its_settled_results_up_to_the_mark() {
        let now = Instant::now();
        let mut ears = Listening::default();
        ears.begin();
        ears.handle_sent(2.0);
        for text in [
            results("what", 0.0, 0.5, false, false),
            results("What is", 0.0, 1.0, true, false),
            results("this", 1.0, 0.4, false, false),
        ] {
            ears.handle_text(now, &text, "").expect("read");
        }
        assert_eq!(all(&mut ears), [Heard::Partial("What is this".to_owned())], "the newest alone");
        ears.commit(now, false).expect("room");
        ears.handle_text(now, &results("this?", 1.0, 1.0, true, true), "").expect("read");
        assert_eq!(all(&mut ears), last("What is this?"));
    }

    #[test]
    fn results_after_the_end_belong_to_the_turn_that_waits() {
        let now = Instant::now();
        let mut ears = Listening::default();
        ears.begin();
        ears.handle_sent(1.0);
        ears.commit(now, false).expect("room");
        ears.begin();
        ears.handle_sent(1.0);
        ears.handle_text(now, &results("one", 0.0, 1.0, true, false), "").expect("read");
        ears.handle_text(now, &results("", 1.0, 0.0, true, true), "").expect("read");
        ears.handle_text(now, &results("two", 1.0, 0.8, false, false), "").expect("read");
        assert_eq!(all(&mut ears), [Heard::Final("one".to_owned()), Heard::Partial("two".to_owned())]);
    }

    #[test]
    fn a_discarded_turn_takes_its_words_with_it() {
        let now = Instant::now();
        let mut ears = Listening::default();
        ears.begin();
        ears.handle_sent(1.0);
        ears.commit(now, true).expect("room");
        ears.begin();
        ears.handle_sent(1.0);
        ears.commit(now, false).expect("room");
        ears.handle_text(now, &results("hm", 0.0, 1.0, true, true), "").expect("read");
        ears.handle_text(now, &results("Yes.", 1.0, 1.0, true, true), "").expect("read");
        assert_eq!(all(&mut ears), last("Yes."));
    }

    #[test]
    fn a_turn_whose_sound_is_covered_needs_no_mark() {
        let now = Instant::now();
        let mut ears = Listening::default();
        ears.begin();
        ears.handle_sent(1.2);
        ears.handle_text(now, &results("Yes.", 0.0, 1.0, true, false), "").expect("read");
        ears.commit(now, false).expect("room");
        assert_eq!(ears.wake_at(LIMIT), Some(now + COVERED_GRACE));
        ears.handle_time(now + COVERED_GRACE, LIMIT).expect("done");
        assert!(all(&mut ears).contains(&Heard::Final("Yes.".to_owned())));
    }

    #[test]
    fn a_turn_without_an_answer_is_a_failure() {
        let now = Instant::now();
        let mut ears = Listening::default();
        ears.begin();
        ears.handle_sent(3.0);
        ears.commit(now, false).expect("room");
        assert_eq!(ears.wake_at(LIMIT), Some(now + LIMIT));
        ears.handle_time(now + LIMIT / 2, LIMIT).expect("still waiting");
        assert_eq!(ears.handle_time(now + LIMIT, LIMIT), Err(Failure::TooSlow(5_000)));
    }

    #[test]
    fn anything_else_it_says_changes_nothing_and_errors_are_failures() {
        let now = Instant::now();
        let mut ears = Listening::default();
        for text in [
            "{\"type\":\"UtteranceEnd\",\"last_word_end\":1.0}",
            "{\"type\":\"Metadata\"}",
            "[]",
            "{\"type\":\"Results\"}",
        ] {
            ears.handle_text(now, text, "").expect("read");
        }
        assert!(ears.poll().is_none());
        assert!(ears.handle_text(now, "{\"type\":\"Error\",\"description\":\"no\"}", "").is_err());
        assert!(ears.handle_text(now, "{\"type", "").is_err());
    }

    #[test]
    fn the_query_names_the_sound_as_it_is() {
        let mut endpoint = Endpoint { language: "auto".to_owned(), ..Endpoint::new("x", Vendor::Deepgram) };
        endpoint.options.insert("smart_format".to_owned(), json!(false));
        endpoint.options.insert("keyterm".to_owned(), json!(["Eyeline", "SIP"]));
        let text = |law| {
            let query = query(&endpoint, 8_000, law, true);
            query.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&")
        };
        assert_eq!(
            text(Some(Law::Mu)),
            "model=nova-3&interim_results=true&encoding=mulaw&sample_rate=8000&channels=1&language=multi&keyterm=Eyeline&keyterm=SIP&smart_format=false"
        );
        assert!(text(None).contains("encoding=linear16"));
        let body = br#"{"results":{"channels":[{"alternatives":[{"transcript":" Yes. "}]}]}}"#;
        assert_eq!(text_of_file(body), Ok("Yes.".to_owned()));
        assert!(text_of_file(b"{}").is_err());
    }
}
