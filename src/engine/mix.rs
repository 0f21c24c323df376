//! What the caller hears, block by block: the opening first, then an echo, a tone, a loop or silence.
//!
//! Pure. Where speech and files come from is in `source/`; coding is in `codec/`.

use std::sync::Arc;

/// What follows the opening.
#[derive(Clone, Debug, PartialEq)]
pub enum Steady {
    Echo,
    Silence,
    Tone {
        step: f32,
    },
    /// Played again and again; empty until it has been prepared.
    Loop,
}

/// The agent's voice on one call. All sound is mono at one rate.
#[derive(Debug)]
pub struct Mixer {
    opening: Option<Arc<[i16]>>,
    /// An opening is on its way: nothing else may start before it.
    awaiting_opening: bool,
    steady: Steady,
    looped: Arc<[i16]>,
    at: usize,
    phase: f32,
}

/// Half of full scale: loud enough to measure, far from clipping.
const TONE_LEVEL: f32 = 12_000.0;

impl Mixer {
    /// `awaits_opening`: hold the steady sound back until [`Mixer::open_with`] or [`Mixer::open_without`].
    pub fn new(steady: Steady, awaits_opening: bool) -> Self {
        Mixer {
            opening: None,
            awaiting_opening: awaits_opening,
            steady,
            looped: Arc::from([]),
            at: 0,
            phase: 0.0,
        }
    }

    /// A tone of `hertz` at `rate`.
    pub fn tone(hertz: u32, rate: u32) -> Steady {
        Steady::Tone { step: std::f32::consts::TAU * hertz as f32 / rate as f32 }
    }

    /// The opening has been prepared.
    pub fn open_with(&mut self, opening: Arc<[i16]>) {
        self.opening = Some(opening);
        self.awaiting_opening = false;
        self.at = 0;
    }

    /// There will be no opening.
    pub fn open_without(&mut self) {
        self.awaiting_opening = false;
    }

    /// What [`Steady::Loop`] plays.
    pub fn loop_over(&mut self, samples: Arc<[i16]>) {
        self.looped = samples;
    }

    /// Fills one block. `caller` is what was heard in the same moment, as long as `block`.
    pub fn fill(&mut self, caller: &[i16], block: &mut [i16]) {
        block.fill(0);
        if self.awaiting_opening {
            return;
        }
        if let Some(opening) = self.opening.take() {
            let rest = &opening[self.at.min(opening.len())..];
            let length = rest.len().min(block.len());
            block[..length].copy_from_slice(&rest[..length]);
            self.at += length;
            if length == block.len() {
                self.opening = Some(opening);
                return;
            }
            self.at = 0;
            return;
        }
        match &self.steady {
            Steady::Silence => {}
            Steady::Echo => {
                let length = caller.len().min(block.len());
                block[..length].copy_from_slice(&caller[..length]);
            }
            Steady::Tone { step } => {
                for sample in block.iter_mut() {
                    *sample = (self.phase.sin() * TONE_LEVEL) as i16;
                    self.phase = (self.phase + step) % std::f32::consts::TAU;
                }
            }
            Steady::Loop if self.looped.is_empty() => {}
            Steady::Loop => {
                for sample in block.iter_mut() {
                    *sample = self.looped[self.at % self.looped.len()];
                    self.at = (self.at + 1) % self.looped.len();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_starts_only_after_the_opening() {
        let mut mixer = Mixer::new(Steady::Echo, true);
        let mut block = [9; 4];
        mixer.fill(&[5; 4], &mut block);
        assert_eq!(block, [0; 4], "nothing before the opening is ready");
        mixer.open_with(Arc::from([1, 2, 3, 4, 5, 6]));
        mixer.fill(&[7; 4], &mut block);
        assert_eq!(block, [1, 2, 3, 4]);
        mixer.fill(&[7; 4], &mut block);
        assert_eq!(block, [5, 6, 0, 0]);
        mixer.fill(&[7; 4], &mut block);
        assert_eq!(block, [7; 4]);
    }

    #[test]
    fn a_loop_goes_round() {
        let mut mixer = Mixer::new(Steady::Loop, false);
        mixer.loop_over(Arc::from([1, 2, 3]));
        let mut block = [0; 4];
        mixer.fill(&[], &mut block);
        mixer.fill(&[], &mut block);
        assert_eq!(block, [2, 3, 1, 2]);
    }
}
