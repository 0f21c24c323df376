//! Hiding lost sound, after ITU-T G.711 Appendix I: the last pitch period is repeated and fades out.
//!
//! Works at any rate. Whether a block is lost or only late is the jitter buffer's to say (`rtp`).

/// Pitch of the human voice: 66 to 400 Hz.
const PERIOD_MIN_US: usize = 2_500;
const PERIOD_MAX_US: usize = 15_000;
/// How much of the past is compared to find the period.
const COMPARED_US: usize = 20_000;
/// Repeated at full level for so long, then fading to nothing at [`SILENT_US`].
const FULL_US: usize = 10_000;
const SILENT_US: usize = 60_000;
/// The way back from invented to received sound: 4 ms and as much again for every 10 ms lost, at most 10 ms.
const RETURN_US: usize = 4_000;
const RETURN_MAX_US: usize = 10_000;

/// Remembers one stream's last sound and continues it when a block is missing.
pub struct Concealer {
    rate: usize,
    /// The newest samples, at the end; invented ones are not kept.
    history: Vec<i16>,
    /// One pitch period, made to join its own beginning.
    cycle: Vec<i16>,
    /// Samples invented since the last received one.
    invented: usize,
}

impl Concealer {
    /// `rate` in Hz.
    pub fn new(rate: u32) -> Self {
        let rate = rate as usize;
        let kept = samples(rate, COMPARED_US + PERIOD_MAX_US * 5 / 4);
        Concealer { rate, history: vec![0; kept], cycle: Vec::new(), invented: 0 }
    }

    /// A received block: its beginning is faded in from what was invented before it.
    pub fn good(&mut self, block: &mut [i16]) {
        if self.invented > 0 {
            let longer = self.invented * RETURN_US / samples(self.rate, 10_000).max(1);
            let length = samples(self.rate, (RETURN_US + longer).min(RETURN_MAX_US)).min(block.len());
            for (at, sample) in block.iter_mut().take(length).enumerate() {
                let (old, new) = (i32::from(self.invent()), i32::from(*sample));
                let (at, all) = (at as i32 + 1, length as i32 + 1);
                *sample = ((old * (all - at) + new * at) / all) as i16;
            }
            self.invented = 0;
        }
        self.remember(block);
    }

    /// A lost block: `out` is filled with the continuation of what was heard, in the end with silence.
    pub fn conceal(&mut self, out: &mut [i16]) {
        if self.invented == 0 {
            self.find_cycle();
        }
        for sample in out.iter_mut() {
            *sample = self.invent();
        }
    }

    /// As [`Concealer::conceal`], behind what is in `out`.
    pub fn append(&mut self, samples: usize, out: &mut Vec<i16>) {
        let from = out.len();
        out.resize(from + samples, 0);
        self.conceal(&mut out[from..]);
    }

    fn remember(&mut self, block: &[i16]) {
        let kept = self.history.len();
        let block = &block[block.len().saturating_sub(kept)..];
        self.history.copy_within(block.len().., 0);
        self.history[kept - block.len()..].copy_from_slice(block);
    }

    fn invent(&mut self) -> i16 {
        let (full, silent) = (samples(self.rate, FULL_US), samples(self.rate, SILENT_US));
        let at = self.invented;
        self.invented += 1;
        let Some(sample) = at.checked_rem(self.cycle.len()).and_then(|place| self.cycle.get(place)) else {
            return 0;
        };
        if at < full {
            return *sample;
        }
        let left = silent.saturating_sub(at) as i64;
        (i64::from(*sample) * left / (silent - full).max(1) as i64) as i16
    }

    fn find_cycle(&mut self) {
        let period = self.period();
        let history = &self.history;
        let end = history.len();
        self.cycle.clear();
        self.cycle.extend_from_slice(&history[end - period..]);
        // The last quarter turns into what came before the period, so that its end joins its beginning.
        let quarter = period / 4;
        for at in 0..quarter {
            let (old, new) = (history[end - quarter + at], history[end - period - quarter + at]);
            let (weight, all) = (at as i32 + 1, quarter as i32 + 1);
            let mixed = (i32::from(old) * (all - weight) + i32::from(new) * weight) / all;
            self.cycle[period - quarter + at] = mixed as i16;
        }
    }

    /// The shift at which the newest sound is most like what came before it.
    fn period(&self) -> usize {
        let (shortest, longest) = (samples(self.rate, PERIOD_MIN_US), samples(self.rate, PERIOD_MAX_US));
        // Every second sample of 8 kHz is enough for a first look, fewer at higher rates.
        let step = (self.rate / 4_000).max(1);
        let coarse = (shortest..=longest).step_by(step);
        let best = self.most_alike(coarse, step);
        self.most_alike(best.saturating_sub(step).max(shortest)..=(best + step).min(longest), 1)
    }

    fn most_alike(&self, shifts: impl Iterator<Item = usize>, step: usize) -> usize {
        let compared = samples(self.rate, COMPARED_US);
        let end = self.history.len();
        let newest = &self.history[end - compared..];
        let mut best = (samples(self.rate, PERIOD_MAX_US), f64::MIN);
        for shift in shifts {
            let earlier = &self.history[end - compared - shift..end - shift];
            let (mut product, mut energy) = (0.0, 1.0);
            for (a, b) in newest.iter().zip(earlier).step_by(step) {
                product += f64::from(*a) * f64::from(*b);
                energy += f64::from(*b) * f64::from(*b);
            }
            let alike = product / f64::sqrt(energy);
            if alike > best.1 {
                best = (shift, alike);
            }
        }
        best.0
    }
}

fn samples(rate: usize, us: usize) -> usize {
    rate * us / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hum(rate: u32, from: usize, len: usize) -> Vec<i16> {
        let at = |n: usize| n as f64 * std::f64::consts::TAU / f64::from(rate);
        let voice =
            |t: f64| 6000.0 * (140.0 * t).sin() + 3000.0 * (280.0 * t).sin() + 1500.0 * (560.0 * t).sin();
        (from..from + len).map(|n| voice(at(n)) as i16).collect()
    }

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    fn heard(rate: u32) -> (Concealer, usize) {
        let block = rate as usize / 50;
        let mut concealer = Concealer::new(rate);
        for n in 0..10 {
            concealer.good(&mut hum(rate, n * block, block));
        }
        (concealer, block)
    }

    #[test]
    fn a_lost_block_of_a_hum_goes_on_humming() {
        for rate in [8_000, 16_000, 48_000] {
            let (mut concealer, block) = heard(rate);
            let mut out = vec![0; block];
            concealer.conceal(&mut out);
            let half = block / 2;
            let wrong: Vec<i16> =
                hum(rate, 10 * block, half).iter().zip(&out).map(|(a, b)| a.saturating_sub(*b)).collect();
            assert!(
                level(&wrong) < 0.2 * level(&out[..half]),
                "at {rate}: {} of {}",
                level(&wrong),
                level(&out)
            );
        }
    }

    #[test]
    fn a_long_loss_fades_to_silence() {
        let (mut concealer, block) = heard(8_000);
        let mut blocks = Vec::new();
        for _ in 0..4 {
            let mut out = vec![0; block];
            concealer.conceal(&mut out);
            blocks.push(level(&out));
        }
        assert!(blocks[0] > blocks[1] && blocks[1] > blocks[2] && blocks[2] > 0.0, "{blocks:?}");
        assert_eq!(blocks[3], 0.0);
    }

    #[test]
    fn sound_returns_without_a_step() {
        let (mut concealer, block) = heard(8_000);
        let mut lost = vec![0; block];
        concealer.conceal(&mut lost);
        let mut back = hum(8_000, 11 * block, block);
        let untouched = back.clone();
        concealer.good(&mut back);
        let largest = hum(8_000, 0, 400).windows(2).map(|w| (w[1] - w[0]).abs()).max().expect("samples");
        assert!((back[0] - lost[block - 1]).abs() <= largest * 3 / 2);
        assert_eq!(back[100..], untouched[100..]);
    }

    #[test]
    fn nothing_heard_yet_is_silence() {
        let mut out = vec![7; 160];
        Concealer::new(8_000).conceal(&mut out);
        assert_eq!(out, [0; 160]);
    }
}
