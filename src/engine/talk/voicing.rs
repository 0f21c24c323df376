//! Driver (queues). Sentences on their way through a voice into the playout, one after the other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::playout::{Piece, Position, Say};
use crate::media::audio::block_samples;
use crate::talk::link::Speech;
use crate::talk::message::Failure;

/// One utterance being made.
pub struct Voicing {
    pub utterance: u32,
    speech: Speech,
    /// Samples made so far.
    made: u64,
    /// The same in milliseconds.
    ms: u32,
}

impl Voicing {
    pub fn new(utterance: u32, speech: Speech) -> Self {
        Voicing { utterance, speech, made: 0, ms: 0 }
    }

    /// Passes sound on in pieces that can be cut and counted.
    pub fn pass(&mut self, say: &Say, rate: u32, samples: &[i16]) {
        for piece in samples.chunks(block_samples(rate)) {
            say.say(Piece {
                utterance: self.utterance,
                rate,
                samples: piece.into(),
                last: false,
                place: None,
            });
        }
        self.made += samples.len() as u64;
        self.ms = u32::try_from(self.made * 1000 / u64::from(rate.max(1))).unwrap_or(u32::MAX);
    }

    /// Nothing more comes; how long it is, in milliseconds.
    pub fn end(&self, say: &Say, rate: u32) -> u32 {
        if self.made > 0 {
            say.say(Piece {
                utterance: self.utterance,
                rate,
                samples: Arc::from([]),
                last: true,
                place: None,
            });
        }
        self.ms
    }
}

/// The next sound of the first sentence; the one behind it is fetched meanwhile. Cancel-safe.
pub async fn next(voicing: &mut VecDeque<Voicing>) -> Result<Option<Arc<[i16]>>, Failure> {
    let mut all = voicing.iter_mut();
    let Some(first) = all.next() else { return std::future::pending().await };
    match all.next() {
        None => first.speech.next().await,
        Some(second) => {
            let ahead = async {
                second.speech.fetch().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                sound = first.speech.next() => sound,
                () = ahead => Ok(None),
            }
        }
    }
}

/// How much of the sentence being made is not heard yet.
pub fn ahead(voicing: &VecDeque<Voicing>, position: Position) -> Duration {
    let Some(first) = voicing.front() else { return Duration::ZERO };
    let heard = if first.utterance == position.utterance { position.ms } else { 0 };
    Duration::from_millis(first.ms.saturating_sub(heard).into())
}
