//! What the caller hears, block by block: the opening first, then an echo, a tone, a loop or silence.
//!
//! Pure. Where speech and files come from is in `source/`; coding is in `codec/`.

use std::sync::Arc;

use crate::codec::resample::Resampler;

/// What follows the opening.
#[derive(Clone, Debug, PartialEq)]
pub enum Steady {
    Echo,
    Silence,
    Tone {
        hertz: u32,
    },
    /// Played again and again; empty until it has been prepared.
    Loop,
}

/// The agent's voice on one call. All sound is mono at one rate, which changes only with the call's codec.
pub struct Mixer {
    rate: u32,
    opening: Option<Arc<[i16]>>,
    /// An opening is on its way: nothing else may start before it.
    awaiting_opening: bool,
    steady: Steady,
    looped: Arc<[i16]>,
    at: usize,
    phase: f32,
    /// Hz of what was prepared; another rate than the call's after its codec changed.
    source_rate: u32,
    resampler: Option<Resampler>,
    /// Prepared sound on its way from one rate to the other.
    scratch: Vec<i16>,
    converted: Vec<i16>,
}

/// Half of full scale: loud enough to measure, far from clipping.
const TONE_LEVEL: f32 = 12_000.0;

impl Mixer {
    /// `awaits_opening`: hold the steady sound back until [`Mixer::open_with`] or [`Mixer::open_without`].
    pub fn new(steady: Steady, rate: u32, awaits_opening: bool) -> Self {
        Mixer {
            rate,
            opening: None,
            awaiting_opening: awaits_opening,
            steady,
            looped: Arc::from([]),
            at: 0,
            phase: 0.0,
            source_rate: rate,
            resampler: None,
            scratch: Vec::new(),
            converted: Vec::new(),
        }
    }

    /// Blocks have another rate from now on.
    pub fn set_rate(&mut self, rate: u32) {
        if rate != self.rate {
            self.rate = rate;
            self.convert();
        }
    }

    /// The rate of what comes by [`Mixer::open_with`] and [`Mixer::loop_over`].
    pub fn set_source_rate(&mut self, rate: u32) {
        if rate != self.source_rate {
            self.source_rate = rate;
            self.convert();
        }
    }

    fn convert(&mut self) {
        self.converted.clear();
        // All rates of this box can be converted into each other.
        self.resampler = if self.rate == self.source_rate {
            None
        } else {
            Resampler::new(self.source_rate, self.rate).ok()
        };
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
        let prepared = self.opening.is_some() || self.steady == Steady::Loop;
        if !prepared {
            return self.fill_live(caller, block);
        }
        let Some(mut resampler) = self.resampler.take() else {
            return self.fill_prepared(block);
        };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.resize(block.len() * self.source_rate as usize / self.rate.max(1) as usize, 0);
        self.fill_prepared(&mut scratch);
        if resampler.process(&scratch, &mut self.converted).is_ok() {
            let length = self.converted.len().min(block.len());
            block[..length].copy_from_slice(&self.converted[..length]);
            self.converted.drain(..length);
        }
        (self.scratch, self.resampler) = (scratch, Some(resampler));
    }

    /// The opening, then the loop.
    fn fill_prepared(&mut self, block: &mut [i16]) {
        if let Some(opening) = self.opening.take() {
            let rest = &opening[self.at.min(opening.len())..];
            let length = rest.len().min(block.len());
            block[..length].copy_from_slice(&rest[..length]);
            self.at += length;
            if length == block.len() {
                self.opening = Some(opening);
            } else {
                self.at = 0;
            }
        } else if !self.looped.is_empty() {
            for sample in block.iter_mut() {
                *sample = self.looped[self.at % self.looped.len()];
                self.at = (self.at + 1) % self.looped.len();
            }
        }
    }

    fn fill_live(&mut self, caller: &[i16], block: &mut [i16]) {
        match &self.steady {
            Steady::Silence | Steady::Loop => {}
            Steady::Echo => {
                let length = caller.len().min(block.len());
                block[..length].copy_from_slice(&caller[..length]);
            }
            Steady::Tone { hertz } => {
                let step = std::f32::consts::TAU * *hertz as f32 / self.rate.max(1) as f32;
                for sample in block.iter_mut() {
                    *sample = (self.phase.sin() * TONE_LEVEL) as i16;
                    self.phase = (self.phase + step) % std::f32::consts::TAU;
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
        let mut mixer = Mixer::new(Steady::Echo, 8_000, true);
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
        let mut mixer = Mixer::new(Steady::Loop, 8_000, false);
        mixer.loop_over(Arc::from([1, 2, 3]));
        let mut block = [0; 4];
        mixer.fill(&[], &mut block);
        mixer.fill(&[], &mut block);
        assert_eq!(block, [2, 3, 1, 2]);
    }

    #[test]
    fn sound_prepared_at_another_rate_keeps_its_pitch_after_the_codec_changed() {
        let second: Vec<i16> = crate::source::tone::sine(8_000, 400.0, 1000, 0.4);
        for steady in [Steady::Loop, Steady::Tone { hertz: 400 }] {
            let mut mixer = Mixer::new(steady, 8_000, false);
            mixer.loop_over(second.clone().into());
            mixer.fill(&[], &mut [0; 160]);
            mixer.set_rate(48_000);
            let mut all = Vec::new();
            for _ in 0..50 {
                let mut block = [0; 960];
                mixer.fill(&[], &mut block);
                all.extend_from_slice(&block);
            }
            let share = crate::source::tone::share(&all[2_400..], 48_000, 400.0);
            let loudest = all.iter().max().copied().unwrap_or_default();
            assert!(share > 0.98 && loudest > 10_000, "{share} of {loudest}");
        }
    }
}
