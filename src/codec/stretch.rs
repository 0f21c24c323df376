//! Sound between its decoder and its hearer: played a little faster or slower without a change of pitch.
//!
//! A piece as long as the signal repeats itself (WSOLA: waveform similarity, overlap and add) is left out or put in,
//! where the signal is alike at both of its ends. Works at any rate. When and how much is the jitter buffer's to say
//! (`rtp`); sound that is lost is continued by `conceal`.

/// A piece is a period of the human voice, 66 to 400 Hz.
const PIECE_MIN_US: usize = 2_500;
const PIECE_MAX_US: usize = 15_000;
/// Two places are compared, and joined, over so much.
const JOIN_MAX_US: usize = 10_000;
const JOIN_MIN_US: usize = 4_000;
/// What is as alike as this is joined without being heard.
const ALIKE: f64 = 0.9;
/// Noise is never alike, and hides a seam well: it is cut after so many refusals.
const PATIENCE: u32 = 4;
/// A mean square below this is silence: 20 of 32,768.
const SILENT: f64 = 400.0;
/// An end and a beginning beside silence are faded.
const EDGE_US: usize = 4_000;
/// Nothing keeps more than this.
const LONGEST_US: usize = 1_000_000;

/// What waits between decoder and hearer of one stream.
#[derive(Debug)]
pub struct Stretch {
    rate: usize,
    pending: Vec<i16>,
    /// The newest sound that was played, at the end.
    past: Vec<i16>,
    /// Nothing was played before: the next sound begins from silence.
    silent: bool,
    refused: u32,
    figures: StretchFigures,
}

/// What was done to a stream's sound, in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StretchFigures {
    pub left_out: u64,
    pub put_in: u64,
}

/// A shift at which the sound is like itself.
struct Likeness {
    shift: usize,
    /// Over so many samples.
    joined: usize,
    /// Correlation, -1 to 1.
    alike: f64,
    /// Mean square.
    power: f64,
}

impl Stretch {
    /// `rate` in Hz.
    pub fn new(rate: u32) -> Self {
        let rate = rate as usize;
        Stretch {
            rate,
            pending: Vec::with_capacity(rate / 8),
            past: vec![0; samples(rate, EDGE_US)],
            silent: true,
            refused: 0,
            figures: StretchFigures::default(),
        }
    }

    /// Samples that wait.
    pub fn buffered(&self) -> usize {
        self.pending.len()
    }

    pub fn figures(&self) -> StretchFigures {
        self.figures
    }

    /// Where decoded sound is appended.
    pub fn input(&mut self) -> &mut Vec<i16> {
        &mut self.pending
    }

    /// Leaves out `count` samples from this place on. What is before them turns into what is behind them.
    pub fn skip(&mut self, from: usize, count: usize) {
        let end = (from + count).min(self.pending.len());
        let count = end - from.min(end);
        if count == 0 {
            return;
        }
        let joined = samples(self.rate, JOIN_MIN_US).min(self.pending.len() - end);
        // From behind: what is read must not have been written.
        for at in (0..joined).rev() {
            let (old, new) = (self.pending[from + at], self.pending[end + at]);
            self.pending[end + at] = mix(old, new, at + 1, joined + 1, 1.0);
        }
        self.pending.drain(from..end);
    }

    /// Leaves a piece of at most `at_most` samples out of what waits, so that `keep` samples stay. Returns how long it
    /// was; 0: nothing could be left out without being heard. `urgent`: even then.
    pub fn shorten(&mut self, at_most: usize, keep: usize, urgent: bool) -> usize {
        let most = at_most.min(self.pending.len().saturating_sub(keep));
        let Some(found) = self.find(most).filter(|found| self.accepts(found, urgent)) else { return 0 };
        let Likeness { shift, joined, alike, .. } = found;
        // From behind: what is read must not have been written.
        for at in (0..joined).rev() {
            let (old, new) = (self.pending[at], self.pending[at + shift]);
            self.pending[at + shift] = mix(old, new, at + 1, joined + 1, alike);
        }
        self.pending.drain(..shift);
        self.figures.left_out += shift as u64;
        shift
    }

    /// Puts a piece in. Returns how long it is; 0: none could be put in without being heard.
    pub fn lengthen(&mut self) -> usize {
        let Some(found) = self.find(usize::MAX).filter(|found| self.accepts(found, false)) else { return 0 };
        let Likeness { shift, joined, alike, .. } = found;
        // The beginning is played, then what follows turns into it once more.
        let len = self.pending.len();
        self.pending.resize(len + shift, 0);
        self.pending.copy_within(..len, shift);
        for at in 0..joined {
            // Moved by `shift`: the beginning stands there, and `old` one shift later.
            let (old, new) = (self.pending[at + 2 * shift], self.pending[at + shift]);
            self.pending[at + shift] = mix(old, new, at + 1, joined + 1, alike);
        }
        self.figures.put_in += shift as u64;
        shift
    }

    fn accepts(&mut self, found: &Likeness, urgent: bool) -> bool {
        let taken = found.alike >= ALIKE || found.power < SILENT || urgent || self.refused >= PATIENCE;
        self.refused = if taken { 0 } else { self.refused + 1 };
        taken
    }

    /// Fills a block from what waits. What is missing is silence, with the end before it faded.
    pub fn take(&mut self, block: &mut [i16]) {
        let count = block.len().min(self.pending.len());
        block[..count].copy_from_slice(&self.pending[..count]);
        self.pending.drain(..count);
        let longest = samples(self.rate, LONGEST_US);
        if self.pending.len() > longest {
            self.pending.drain(..self.pending.len() - longest);
        }
        if self.silent && count > 0 {
            let edge = samples(self.rate, EDGE_US).min(count);
            for (at, sample) in block[..edge].iter_mut().enumerate() {
                *sample = (i32::from(*sample) * (at as i32 + 1) / (edge as i32 + 1)) as i16;
            }
            self.silent = false;
        }
        self.remember(&block[..count]);
        if count < block.len() {
            self.fade_out(&mut block[count..]);
        }
    }

    /// What was heard last is played backwards while it fades: there is no step.
    fn fade_out(&mut self, rest: &mut [i16]) {
        rest.fill(0);
        if std::mem::replace(&mut self.silent, true) {
            return;
        }
        let edge = self.past.len().min(rest.len());
        for (at, (sample, old)) in rest.iter_mut().zip(self.past.iter().rev()).enumerate() {
            *sample = (i32::from(*old) * (edge - at) as i32 / (edge as i32 + 1)) as i16;
        }
        self.past.fill(0);
    }

    fn remember(&mut self, block: &[i16]) {
        let kept = self.past.len();
        let block = &block[block.len().saturating_sub(kept)..];
        self.past.copy_within(block.len().., 0);
        self.past[kept - block.len()..].copy_from_slice(block);
    }

    /// The shift of at most `most` samples at which what waits is most like itself. `None`: there is too little of it.
    fn find(&self, most: usize) -> Option<Likeness> {
        let waiting = self.pending.len();
        let shortest = samples(self.rate, PIECE_MIN_US);
        let longest = samples(self.rate, PIECE_MAX_US)
            .min(most)
            .min(waiting.checked_sub(samples(self.rate, JOIN_MIN_US))?);
        if longest < shortest {
            return None;
        }
        let joined = samples(self.rate, JOIN_MAX_US).min(waiting - longest);
        // Every sample of 8 kHz is looked at, fewer at higher rates; then its neighbourhood.
        let step = (self.rate / 8_000).max(1);
        let coarse = self.most_alike((shortest..=longest).step_by(step), joined, step)?;
        let around = coarse.shift.saturating_sub(step).max(shortest)..=(coarse.shift + step).min(longest);
        self.most_alike(around, joined, 1)
    }

    fn most_alike(
        &self,
        shifts: impl Iterator<Item = usize>,
        joined: usize,
        step: usize,
    ) -> Option<Likeness> {
        let here = &self.pending[..joined];
        let energy = |part: &[i16]| part.iter().step_by(step).map(|s| f64::from(*s).powi(2)).sum::<f64>();
        let (own, count) = (energy(here), joined.div_ceil(step).max(1) as f64);
        let mut best: Option<Likeness> = None;
        for shift in shifts {
            let there = &self.pending[shift..shift + joined];
            let pairs = here.iter().zip(there).step_by(step);
            let product: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let other = energy(there);
            let alike = product / (own * other).sqrt().max(1.0);
            // Of two alike the longer piece: fewer seams. Silence is alike everywhere.
            if best.as_ref().is_none_or(|best| alike >= best.alike) {
                best = Some(Likeness { shift, joined, alike, power: own.max(other) / count });
            }
        }
        best
    }
}

/// From `old` to `new`, `at` of `all`, at constant power for sounds `alike` so much.
fn mix(old: i16, new: i16, at: usize, all: usize, alike: f64) -> i16 {
    let weight = at as f64 / all as f64;
    let power = weight.powi(2) + (1.0 - weight).powi(2) + 2.0 * weight * (1.0 - weight) * alike.max(0.0);
    let mixed = (f64::from(old) * (1.0 - weight) + f64::from(new) * weight) / power.sqrt();
    mixed.clamp(-32_768.0, 32_767.0) as i16
}

fn samples(rate: usize, us: usize) -> usize {
    rate * us / 1_000_000
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A voice whose pitch wanders, as a voice does.
    fn voice(rate: u32, from: usize, len: usize) -> Vec<i16> {
        let at = |n: usize| {
            let t = n as f64 / f64::from(rate);
            let phase = std::f64::consts::TAU * (130.0 * t + 2.0 * (3.0 * t).sin());
            (6000.0 * phase.sin() + 3000.0 * (2.0 * phase).sin() + 1500.0 * (5.0 * phase).sin()) as i16
        };
        (from..from + len).map(at).collect()
    }

    fn steepest(samples: &[i16]) -> i32 {
        samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max().unwrap_or(0)
    }

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    /// Plays two seconds of `source`, changing the pace in every fourth block; what was heard.
    fn played(
        rate: u32,
        faster: bool,
        source: impl Fn(usize, usize) -> Vec<i16>,
    ) -> (Vec<i16>, StretchFigures) {
        let block = rate as usize / 50;
        let mut stretch = Stretch::new(rate);
        let (mut given, mut heard) = (0, Vec::new());
        for tick in 0..100 {
            let lead = if faster { 2 * block } else { block };
            while stretch.buffered() < lead {
                stretch.input().extend(source(given, block));
                given += block;
            }
            match (tick % 4, faster) {
                (3, true) => drop(stretch.shorten(usize::MAX, block, false)),
                (3, false) => drop(stretch.lengthen()),
                _ => {}
            }
            let mut out = vec![0; block];
            stretch.take(&mut out);
            heard.extend(out);
        }
        let waits = stretch.buffered();
        assert_eq!(
            given + stretch.figures().put_in as usize - stretch.figures().left_out as usize,
            heard.len() + waits,
            "every sample is accounted for"
        );
        (heard, stretch.figures())
    }

    #[test]
    fn a_voice_goes_faster_and_slower_without_a_click() {
        for rate in [8_000, 16_000, 48_000] {
            let source = |from, len| voice(rate, from, len);
            let original = voice(rate, 0, rate as usize * 2);
            for faster in [true, false] {
                let (heard, figures) = played(rate, faster, source);
                let changed = figures.left_out + figures.put_in;
                assert!(
                    changed >= 20 * u64::from(rate) / 200,
                    "{changed} samples at {rate}: a piece each time"
                );
                let rest = &heard[rate as usize / 50..];
                assert!(steepest(rest) <= steepest(&original) * 11 / 10, "{} at {rate}", steepest(rest));
                assert!((level(rest) / level(&original) - 1.0).abs() < 0.03, "{}", level(rest));
            }
        }
    }

    #[test]
    fn a_tone_stays_one_tone() {
        for hertz in [200.0, 440.0, 1000.0] {
            let at = |n: usize| (8000.0 * (std::f64::consts::TAU * hertz * n as f64 / 8000.0).sin()) as i16;
            let (heard, figures) = played(8000, true, |from, len| (from..from + len).map(at).collect());
            assert!(figures.left_out > 400);
            // What a filter that stops the tone leaves: x[n] - 2 cos(w) x[n-1] + x[n-2].
            let twice = 2.0 * (std::f64::consts::TAU * hertz / 8000.0).cos();
            let rest: f64 = heard[200..]
                .windows(3)
                .map(|w| (f64::from(w[2]) - twice * f64::from(w[1]) + f64::from(w[0])).powi(2))
                .sum();
            let rest = (rest / heard.len() as f64).sqrt();
            assert!(rest < level(&heard) * 0.02, "{rest} of {} at {hertz} Hz", level(&heard));
        }
    }

    #[test]
    fn noise_is_changed_after_some_patience_and_keeps_its_level() {
        let mut random = StdRng::seed_from_u64(1);
        let noise: Vec<i16> = (0..40_000).map(|_| random.random_range(-3000..3000)).collect();
        let (heard, figures) = played(8000, true, |from, len| noise[from..from + len].to_vec());
        assert!(figures.left_out > 200, "{}", figures.left_out);
        for part in heard[160..].chunks(400).filter(|part| part.len() == 400) {
            assert!((level(part) / level(&noise) - 1.0).abs() < 0.25, "{}", level(part));
        }
    }

    #[test]
    fn an_end_and_a_beginning_are_faded() {
        let mut stretch = Stretch::new(8000);
        let mut heard = Vec::new();
        for tick in 0..10 {
            if tick % 5 < 3 {
                // A constant would be one large step at both ends.
                stretch.input().extend([10_000; 130]);
            }
            let mut out = [0; 160];
            stretch.take(&mut out);
            heard.extend(out);
        }
        assert!(steepest(&heard) <= 10_000 / 25, "{}", steepest(&heard));
        assert_eq!(heard[heard.len() - 160..], [0; 160]);
    }

    #[test]
    fn what_is_left_out_leaves_no_step() {
        let sound = voice(8000, 0, 480);
        for (from, count) in [(160, 37), (0, 100), (300, 1), (160, 160)] {
            let mut stretch = Stretch::new(8000);
            stretch.input().extend_from_slice(&sound);
            stretch.skip(from, count);
            assert_eq!(stretch.buffered(), 480 - count);
            let left = stretch.input();
            assert!(steepest(left) <= steepest(&sound) * 12 / 10, "{from} {count}: {}", steepest(left));
            assert_eq!(left[..from], sound[..from]);
            assert_eq!(left[from + 32..], sound[from + count + 32..]);
        }
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_is_changed_where_there_is_too_little() {
        let mut stretch = Stretch::new(8000);
        assert_eq!((stretch.shorten(100, 0, true), stretch.lengthen()), (0, 0));
        stretch.input().extend([1; 160]);
        assert_eq!(stretch.shorten(100, 160, true), 0, "the block stays whole");
        stretch.input().extend(vec![1; 100_000]);
        stretch.take(&mut [0; 160]);
        assert_eq!(stretch.buffered(), 8000);
        stretch.skip(7_990, 100);
        assert_eq!(stretch.buffered(), 7_990);
    }
}
