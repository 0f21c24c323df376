//! Where in the caller's own beat ours falls: a packet that comes just after a beat waits a whole block for the next.
//!
//! Pure. Once, as a stream begins, beats are moved to come when packets have waited as long as they need and no longer.
//! After that our clock is our own: a sender whose clock drifts is followed by stretching.

use std::time::Duration;

use crate::engine::network::audio::AudioPart;

/// A beat comes earlier by so much, so that what we send stays even.
const STEP: Duration = Duration::from_millis(1);
/// Not less than this is left of the time packets could wait longer.
const SPARE: Duration = Duration::from_millis(2);
/// Beats with sound: the first ones tell how packets come.
const BEGINS: u32 = 12;
const ENDS: u32 = 150;

/// The beats of one call.
#[derive(Debug, Default)]
pub struct Alignment {
    /// Beats with sound so far.
    heard: u32,
}

impl Alignment {
    /// By how much the next beat comes earlier than its turn.
    pub fn step(&mut self, audio: Option<&AudioPart>) -> Duration {
        if self.heard >= ENDS {
            return Duration::ZERO;
        }
        let Some(spare) = audio.and_then(|audio| audio.machine.spare_wait()) else { return Duration::ZERO };
        self.take(spare)
    }

    fn take(&mut self, spare: Duration) -> Duration {
        self.heard += 1;
        if self.heard < BEGINS { Duration::ZERO } else { spare.saturating_sub(SPARE).min(STEP) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_move_once_and_by_little() {
        let mut alignment = Alignment::default();
        let mut spare = Duration::from_millis(17);
        let mut moved = Vec::new();
        for _ in 0..300 {
            let step = alignment.take(spare);
            spare -= step;
            moved.push(step);
            if alignment.heard >= ENDS {
                break;
            }
        }
        assert_eq!(spare, SPARE);
        assert!(moved.iter().all(|step| *step <= STEP) && moved[..11].iter().all(Duration::is_zero));
    }
}
