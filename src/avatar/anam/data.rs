//! Messages of the data channel `session`: one JSON object each, snake case upward, camel case downward.
//!
//! Pure.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::avatar::{AvatarEvent, Speaker};

/// Transcripts that are still being spoken.
const OPEN_MAX: usize = 8;
/// Letters of one transcript.
const LETTERS: usize = 8_000;

/// What the engine says.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Words(Words),
    CallerSpeaks(bool),
    Other,
}

/// A piece of what somebody said.
#[derive(Clone, Debug, PartialEq)]
pub struct Words {
    pub speaker: Speaker,
    /// Which message it belongs to.
    pub id: String,
    pub text: String,
    pub last: bool,
    pub interrupted: bool,
}

/// What is being said is to stop. `at`: the time, RFC 3339.
pub fn interrupt(session: &str, at: &str) -> String {
    json!({ "message_type": "interrupt", "session_id": session, "timestamp": at }).to_string()
}

/// Text as if the caller had said it.
pub fn speech(session: &str, at: &str, text: &str) -> String {
    json!({ "message_type": "speech", "session_id": session, "timestamp": at, "content": text }).to_string()
}

/// Reads a message. `None`: it cannot be read.
pub fn read(text: &str) -> Option<Told> {
    let message: Value = serde_json::from_str(text).ok()?;
    let data = &message["data"];
    let told = match message["messageType"].as_str()? {
        "speechText" => {
            let user = data["role"].as_str()?.eq_ignore_ascii_case("user");
            let id = &data["message_id"];
            Told::Words(Words {
                speaker: if user { Speaker::Caller } else { Speaker::Avatar },
                id: id.as_str().map_or_else(|| id.to_string(), str::to_owned),
                text: data["content"].as_str()?.chars().take(LETTERS).collect(),
                last: data["end_of_speech"] == true,
                interrupted: data["interrupted"] == true,
            })
        }
        "userSpeechStarted" => Told::CallerSpeaks(true),
        "userSpeechEnded" => Told::CallerSpeaks(false),
        _ => Told::Other,
    };
    Some(told)
}

/// Transcripts put together from their pieces.
#[derive(Debug, Default)]
pub struct Transcripts {
    open: VecDeque<(Speaker, String, String)>,
}

impl Transcripts {
    /// The transcript so far, with this piece in it; nothing where nothing was said.
    pub fn take(&mut self, words: &Words) -> Option<AvatarEvent> {
        let known =
            |(speaker, id, _): &(Speaker, String, String)| *speaker == words.speaker && *id == words.id;
        let at = self.open.iter().position(known);
        let (speaker, id, mut text) = at
            .and_then(|at| self.open.remove(at))
            .unwrap_or_else(|| (words.speaker, words.id.clone(), String::new()));
        let room = LETTERS.saturating_sub(text.chars().count());
        text.extend(words.text.chars().take(room));
        let last = words.last || words.interrupted;
        let said = text.trim().to_owned();
        if !last {
            if self.open.len() == OPEN_MAX {
                self.open.pop_front();
            }
            self.open.push_back((speaker, id, text));
        }
        (!said.is_empty()).then_some(AvatarEvent::Transcript { speaker, text: said, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(id: &str, role: &str, content: &str, last: bool) -> Words {
        let data = json!({ "message_id": id, "content_index": 0, "content": content, "role": role,
            "end_of_speech": last, "interrupted": false, "something": "new" });
        match read(&json!({ "messageType": "speechText", "data": data }).to_string()) {
            Some(Told::Words(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_we_say_has_the_names_of_the_engine() {
        let value: Value = serde_json::from_str(&interrupt("s", "2026-01-02T03:04:05Z")).expect("JSON");
        assert_eq!(
            value,
            json!({ "message_type": "interrupt", "session_id": "s", "timestamp": "2026-01-02T03:04:05Z" })
        );
        let value: Value = serde_json::from_str(&speech("s", "t", "Hi")).expect("JSON");
        assert_eq!((&value["message_type"], &value["content"]), (&json!("speech"), &json!("Hi")));
    }

    #[test]
    fn transcripts_of_both_sides_grow_by_their_pieces() {
        let mut transcripts = Transcripts::default();
        let mut told = Vec::new();
        for words in [
            piece("1", "user", "What ", false),
            piece("2", "persona", "It ", false),
            piece("1", "user", "time is it?", true),
            piece("2", "persona", "is noon.", false),
            piece("2", "persona", "", true),
            piece("3", "persona", " ", true),
        ] {
            if let Some(AvatarEvent::Transcript { speaker, text, last }) = transcripts.take(&words) {
                told.push((speaker, text, last));
            }
        }
        let said = |speaker, text: &str, last| (speaker, text.to_owned(), last);
        assert_eq!(
            told,
            [
                said(Speaker::Caller, "What", false),
                said(Speaker::Avatar, "It", false),
                said(Speaker::Caller, "What time is it?", true),
                said(Speaker::Avatar, "It is noon.", false),
                said(Speaker::Avatar, "It is noon.", true),
            ]
        );
    }

    #[test]
    fn many_and_endless_transcripts_are_bounded_and_nonsense_is_not_read() {
        let mut transcripts = Transcripts::default();
        for n in 0..100 {
            transcripts.take(&piece(&n.to_string(), "persona", "x", false));
        }
        assert_eq!(transcripts.open.len(), OPEN_MAX);
        for _ in 0..20 {
            transcripts.take(&piece("99", "persona", &"y".repeat(1_000), false));
        }
        assert!(transcripts.open.iter().all(|(_, _, text)| text.len() <= LETTERS));
        for broken in ["", "7", "{}", "{\"messageType\":\"speechText\",\"data\":{}}"] {
            assert_eq!(read(broken), None, "{broken}");
        }
        assert_eq!(read("{\"messageType\":\"reasoningText\"}"), Some(Told::Other));
    }
}
