//! How loud the caller is, against the noise of the line: ends of words to the block, onsets before any network knows,
//! and a detector for when there is no network.
//!
//! Pure. Levels are dB below full scale.

use crate::talk::hear::echo::SILENT_DB;

/// Sound below this is nobody's voice.
const QUIET_DB: f32 = -50.0;
/// Above the noise by this: something sounds; and by this: something begins.
const LOUD_DB: f32 = 9.0;
const JUMP_DB: f32 = 10.0;
/// Where the probability by energy alone is one half, and what makes it 0.73.
const HALF_DB: f32 = 12.0;
const SLOPE_DB: f32 = 3.0;
/// The noise follows a quieter block at once by this part, and a louder one by so many dB a block: 2 dB a second, and
/// a quarter of that while there is speech.
const NOISE_FALL: f32 = 0.3;
const NOISE_RISE_DB: f32 = 0.04;

/// The level of `block` in dB below full scale, never below [`SILENT_DB`].
pub fn level_db(block: &[i16]) -> f32 {
    if block.is_empty() {
        return SILENT_DB;
    }
    let sum: f64 = block.iter().map(|sample| f64::from(*sample) * f64::from(*sample)).sum();
    let mean = sum / block.len() as f64 / (32_768.0 * 32_768.0);
    (10.0 * (mean + 1e-12).log10() as f32).max(SILENT_DB)
}

/// One stream's energy.
pub struct Energy {
    noise_db: Option<f32>,
    before_db: f32,
    level_db: f32,
    /// The loudest of the present speech, slowly falling.
    speech_db: f32,
    last_loud: u64,
}

impl Default for Energy {
    fn default() -> Self {
        Energy {
            noise_db: None,
            before_db: SILENT_DB,
            level_db: SILENT_DB,
            speech_db: SILENT_DB,
            last_loud: 0,
        }
    }
}

impl Energy {
    /// Takes the block that begins at sample `from`; gives its level.
    pub fn handle_block(&mut self, block: &[i16], from: u64, speaking: bool) -> f32 {
        let level = level_db(block);
        self.before_db = std::mem::replace(&mut self.level_db, level);
        let noise = self.noise_db.get_or_insert(level);
        if level < *noise {
            *noise += (level - *noise) * NOISE_FALL;
        } else {
            *noise += if speaking { NOISE_RISE_DB / 4.0 } else { NOISE_RISE_DB }.min(level - *noise);
        }
        self.speech_db = if speaking { self.speech_db.max(level) - 0.02 } else { level };
        // Quarters of a block: where a word ends is told to 5 ms.
        let quarter = block.len().div_ceil(4).max(1);
        let floor = (self.noise() + LOUD_DB).max(self.speech_db - 30.0);
        for (number, part) in block.chunks(quarter).enumerate() {
            if level_db(part) > floor {
                self.last_loud = from + (number * quarter + part.len()) as u64;
            }
        }
        level
    }

    /// The level of the line without a voice.
    pub fn noise(&self) -> f32 {
        self.noise_db.unwrap_or(QUIET_DB)
    }

    /// The end of the last sound above the noise.
    pub fn last_loud(&self) -> u64 {
        self.last_loud
    }

    /// Something has begun with the last block.
    pub fn has_jumped(&self) -> bool {
        let floor = (self.noise() + JUMP_DB).max(QUIET_DB);
        self.level_db > floor && self.level_db > self.before_db + 6.0
    }

    /// The last block is far above the noise.
    pub fn is_loud(&self) -> bool {
        self.level_db > (self.noise() + LOUD_DB).max(QUIET_DB)
    }

    /// How likely the last block is speech if nothing is known but its level.
    pub fn probability(&self) -> f32 {
        if self.level_db < QUIET_DB {
            return 0.0;
        }
        let above = self.level_db - self.noise() - HALF_DB;
        1.0 / (1.0 + (-above / SLOPE_DB).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(db: f32) -> Vec<i16> {
        let peak = 32_768.0 * 10f32.powf(db / 20.0) * std::f32::consts::SQRT_2;
        (0..160).map(|n| ((n as f32 * 0.7).sin() * peak) as i16).collect()
    }

    #[test]
    fn levels_are_those_of_full_scale() {
        assert!((level_db(&tone(-20.0)) + 20.0).abs() < 0.3);
        assert_eq!(level_db(&[0; 160]), SILENT_DB);
        assert_eq!(level_db(&[]), SILENT_DB);
    }

    #[test]
    fn a_voice_over_any_steady_noise_is_found_and_the_noise_is_not() {
        for noise in [-90.0, -60.0, -45.0, -35.0] {
            let mut energy = Energy::default();
            let mut at = 0;
            let mut push = |energy: &mut Energy, db: f32| {
                energy.handle_block(&tone(db), at, false);
                at += 160;
                at
            };
            for _ in 0..1_000 {
                push(&mut energy, noise);
            }
            assert!(energy.probability() < 0.1 && !energy.has_jumped(), "{noise}: {}", energy.probability());
            let end = push(&mut energy, noise + 20.0_f32.max(-40.0 - noise));
            assert!(energy.probability() > 0.8 && energy.has_jumped(), "{noise}: {}", energy.probability());
            assert_eq!(energy.last_loud(), end);
            push(&mut energy, noise);
            assert_eq!(energy.last_loud(), end);
        }
    }
}
