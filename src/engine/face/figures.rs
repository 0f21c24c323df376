//! What a call's face came to: counted by its task and the thread of its pictures, told once for the call record.
//!
//! Pure but for atomics.

use std::time::Duration;

use crate::engine::report::Count;
use crate::talk::conversation::Told;

/// Steps of [`Spread`]: 5 ms each, the last one open.
const STEPS: usize = 64;
const STEP_MS: u64 = 5;

/// How long something took, counted in steps: percentiles without keeping the times.
#[derive(Debug)]
pub struct Spread([Count; STEPS]);

impl Default for Spread {
    fn default() -> Self {
        Spread(std::array::from_fn(|_| Count::default()))
    }
}

impl Spread {
    pub fn add(&self, took: Duration) {
        let step = usize::try_from(took.as_millis() as u64 / STEP_MS).unwrap_or(STEPS);
        self.0[step.min(STEPS - 1)].add(1);
    }

    /// Milliseconds so many percent did not exceed, but for the last step; 0: nothing was counted.
    pub fn part(&self, percent: u64) -> u64 {
        let all: u64 = self.0.iter().map(Count::value).sum();
        let mut below = 0;
        for (step, count) in (1..).zip(&self.0) {
            below += count.value();
            if below * 100 >= all * percent {
                return if all == 0 { 0 } else { step * STEP_MS };
            }
        }
        STEPS as u64 * STEP_MS
    }
}

/// Figures of one call's face.
#[derive(Debug, Default)]
pub struct FaceFigures {
    /// Sessions asked for, those that became ready, those lost.
    pub sessions: Count,
    pub ready: Count,
    pub lost: Count,
    /// Milliseconds the provider counted, and the last session took to become ready.
    pub counted_ms: Count,
    pub ready_ms: Count,
    /// Turns that were heard, and how long their first sound took in all, in milliseconds.
    pub turns: Count,
    pub begins_ms: Count,
    /// Turns that were cut.
    pub interrupted: Count,
    /// Coded pictures that came; sent on as they came; decoded; encoded anew; thrown away.
    pub pictures: Count,
    pub passed: Count,
    pub decoded: Count,
    pub encoded: Count,
    pub dropped: Count,
    /// Key pictures asked of the provider.
    pub keys: Count,
    /// From a picture's coming until it left the thread, its wait for its sound and its coding included; and the same of
    /// the first sound of a turn.
    pub picture: Spread,
    pub sound: Spread,
    /// How much later than its sound a picture left.
    pub apart: Spread,
    /// By how many milliseconds pictures come later than sound.
    pub lag_ms: Count,
}

impl FaceFigures {
    /// All of them, once, at the end.
    pub fn told(&self, avatar: &str) -> Told {
        Told::new("avatar.figures")
            .with("avatar", avatar)
            .with("sessions", self.sessions.value())
            .with("ready", self.ready.value())
            .with("lost", self.lost.value())
            .with("counted_ms", self.counted_ms.value())
            .with("ready_ms", self.ready_ms.value())
            .with("turns", self.turns.value())
            .with("begins_ms", self.begins_ms.value() / self.turns.value().max(1))
            .with("interrupted", self.interrupted.value())
            .with("pictures", self.pictures.value())
            .with("passed_through", self.passed.value())
            .with("decoded", self.decoded.value())
            .with("encoded", self.encoded.value())
            .with("dropped", self.dropped.value())
            .with("keys", self.keys.value())
            .with("picture_ms_p50", self.picture.part(50))
            .with("picture_ms_p95", self.picture.part(95))
            .with("sound_ms_p95", self.sound.part(95))
            .with("apart_ms_p95", self.apart.part(95))
            .with("lag_ms", self.lag_ms.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_told_to_five_milliseconds() {
        let spread = Spread::default();
        assert_eq!(spread.part(95), 0);
        (0..100).for_each(|ms| spread.add(Duration::from_millis(ms)));
        spread.add(Duration::from_secs(9));
        assert_eq!((spread.part(50), spread.part(95), spread.part(100)), (55, 100, 320));
    }
}
