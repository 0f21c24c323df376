//! Driver (the clock). What a realtime model says, on its way to the playout: which item is which utterance, how far it was
//! heard, what is thrown away.

use std::time::Instant;

use super::{Item, RealtimeTalking};
use crate::codec::g711;
use crate::engine::playout::Piece;
use crate::media::audio::block_samples;
use crate::talk::conversation::Told;
use crate::talk::realtime::{ItemId, Sound};

/// Pieces of 20 ms handed to the playout at a time: a minute. What a model says beyond waits here.
const HANDED: u32 = 3_000;
/// Pieces that wait here: ten minutes. No answer to a caller is longer.
const WAITING: usize = 30_000;
/// Items whose words or sound are followed.
const ITEMS: usize = 64;

impl RealtimeTalking {
    /// Whether anything is being said.
    pub(super) fn is_speaking(&self) -> bool {
        !self.waiting.is_empty() || self.ears.as_ref().is_some_and(|ears| !ears.line.say.is_idle())
    }

    pub(super) fn hand_over(&mut self) {
        let Some(ears) = &self.ears else { return };
        while ears.line.say.waiting() < HANDED
            && let Some(piece) = self.waiting.pop_front()
        {
            ears.line.say.say(piece);
        }
    }

    pub(super) fn follow(&mut self) {
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        if position == self.position {
            return;
        }
        let begins = position.utterance != self.position.utterance;
        let began = self.epoch + ears.line.say.began();
        self.position = position;
        self.captioning.follow(Instant::now(), position.utterance);
        if let Some(silent) = self.silent.take_if(|_| begins) {
            let after = began.saturating_duration_since(silent);
            self.tell(Told::new("agent.speaking").with_ms("after_ms", after));
        }
        for at in 0..self.items.len() {
            let item = &self.items[at];
            let whole =
                item.utterance < position.utterance || item.utterance == position.utterance && position.whole;
            if whole && !item.told && !item.text.is_empty() {
                self.tell(Told::new("agent.reply").with("text", item.text.clone()));
                self.items[at].told = true;
            }
        }
    }

    /// The item of this name; a new one is the next utterance.
    pub(super) fn item(&mut self, id: &ItemId) -> Option<&mut Item> {
        if !self.items.iter().any(|item| item.id == *id) {
            self.utterances += 1;
            if self.items.len() >= ITEMS {
                self.items.pop_front();
            }
            self.items.push_back(Item {
                id: id.clone(),
                utterance: self.utterances,
                text: String::new(),
                told: false,
            });
        }
        self.items.iter_mut().find(|item| item.id == *id)
    }

    pub(super) fn sound(&mut self, id: &ItemId, sound: Sound) {
        let Some(utterance) = self.item(id).map(|item| item.utterance) else { return };
        let (rate, samples) = match sound {
            Sound::Payload { law, bytes } => {
                let mut samples = Vec::with_capacity(bytes.len());
                g711::decode(law, &bytes, &mut samples);
                (8_000, samples)
            }
            Sound::Samples { rate, samples } => (rate, samples),
        };
        let room = WAITING.saturating_sub(self.waiting.len());
        let pieces = samples.chunks(block_samples(rate).max(1));
        if pieces.len() > room {
            tracing::warn!(call = %self.call, "a model speaks more than ten minutes ahead: the rest is not heard");
        }
        for piece in pieces.take(room) {
            self.waiting.push_back(Piece {
                utterance,
                rate,
                samples: piece.into(),
                last: false,
                place: None,
            });
        }
        self.hand_over();
    }

    /// Nothing of what was said so far is heard any more, and the model is told how far the caller heard it.
    pub(super) fn cut(&mut self) {
        self.waiting.clear();
        self.voicing.clear();
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        ears.line.say.drop_through(self.utterances);
        let heard = self.items.iter().find(|item| item.utterance == position.utterance && !position.whole);
        let Some(item) = heard else { return };
        if let Some(session) = &mut self.session {
            session.heard(&item.id, position.ms.into());
        }
        let told = Told::new("agent.interrupted").with("text", item.text.clone());
        self.tell(told.with("heard_ms", position.ms));
        self.items.clear();
    }
}
