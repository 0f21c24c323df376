//! What is heard on the line, as captions of the outgoing picture: the caller's words as they are understood, the agent's
//! as they are played and not as they are made.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::canvas::Board;
use crate::talk::conversation::Told;
use crate::vision::caption::Who;

/// Utterances whose words wait to be heard.
const WAITING: usize = 64;

/// The captions of one call.
pub struct Captioning {
    board: Arc<Board>,
    texts: VecDeque<(u32, String)>,
    /// The utterance that is heard.
    heard: u32,
}

impl Captioning {
    pub fn new(board: Arc<Board>) -> Self {
        Captioning { board, texts: VecDeque::new(), heard: 0 }
    }

    /// Something is told of the conversation: what the caller said is written.
    pub fn handle_told(&self, now: Instant, told: &Told) {
        if matches!(told.kind, "transcript.partial" | "transcript.final")
            && let Some(text) = told.text()
        {
            self.board.caption(now, Who::Caller, text);
        }
    }

    /// All words of an utterance so far.
    pub fn says(&mut self, now: Instant, utterance: u32, text: &str) {
        match self.texts.iter_mut().find(|(known, _)| *known == utterance) {
            Some((_, known)) => text.clone_into(known),
            None => {
                if self.texts.len() >= WAITING {
                    self.texts.pop_front();
                }
                self.texts.push_back((utterance, text.to_owned()));
            }
        }
        self.write(now);
    }

    /// This utterance is being played; 0: none was yet.
    pub fn follow(&mut self, now: Instant, utterance: u32) {
        self.heard = utterance;
        self.write(now);
    }

    /// What was not heard until now will not be.
    pub fn cut(&mut self) {
        let heard = self.heard;
        self.texts.retain(|(utterance, _)| *utterance <= heard);
    }

    fn write(&mut self, now: Instant) {
        let heard = self.heard;
        self.texts.retain(|(utterance, _)| *utterance >= heard);
        if let Some((_, text)) = self.texts.iter().find(|(utterance, _)| *utterance == heard) {
            self.board.caption(now, Who::Agent, text);
        }
    }
}
