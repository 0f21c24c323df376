//! Sound inside the box: mono 16-bit PCM in blocks of 20 ms.
//!
//! Codecs, jitter and mixing do not belong here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::time::Pts;

/// The length of every block.
pub const BLOCK_MS: u32 = 20;

/// A run of mono PCM at `rate` Hz, normally [`BLOCK_MS`] long. Cloning shares the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcm {
    pub rate: u32,
    pub pts: Pts,
    pub samples: Arc<[i16]>,
}

impl Pcm {
    /// How much later `now` is, on the clock that started at `epoch`.
    pub fn age(&self, epoch: Instant, now: Instant) -> Duration {
        Duration::from_nanos((Pts::at(epoch, now) - self.pts).max(0).unsigned_abs())
    }
}

/// Samples of one block at `rate` Hz.
pub const fn block_samples(rate: u32) -> usize {
    (rate / 1000 * BLOCK_MS) as usize
}

/// What somebody who listens to a stream of sound says of it. Positions count the samples heard so far, at the
/// stream's own rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Judgement {
    /// How likely the sound between the last such judgement and `until` is speech, 0 to 1.
    Speech { probability: f32, until: u64 },
    /// How likely the speaker had finished, 0 to 1, at the position at which this was asked.
    Finished { probability: f32, until: u64 },
    /// Nobody can say whether he had.
    Unanswered,
    /// Nobody listens at present; judgements may come again later.
    Gone,
}
