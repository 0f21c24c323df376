//! Hiding lost sound, after ITU-T G.711 Appendix I: the last pitch period is repeated and fades out.
//!
//! Nothing clicks: what is invented starts where the sound stopped, and goes on until it is in phase with what comes
//! after it. Works at any rate. Whether a block is lost or only late is the jitter buffer's to say (`rtp`).

/// Pitch of the human voice: 66 to 400 Hz.
const PERIOD_MIN_US: usize = 2_500;
const PERIOD_MAX_US: usize = 15_000;
/// How much of the past is compared to find the period.
const COMPARED_US: usize = 20_000;
/// Repeated at full level for so long, then fading to nothing at [`SILENT_US`].
const FULL_US: usize = 20_000;
const SILENT_US: usize = 200_000;
/// What is invented begins at the level of the last sample and is on its own after this.
const ONSET_US: usize = 2_000;
/// The way back from invented to received sound: 4 ms and as much again for every 10 ms lost, at most 10 ms.
const RETURN_US: usize = 4_000;
const RETURN_MAX_US: usize = 10_000;
/// Both are compared over so much; less alike than this, nothing is gained by waiting for the phase.
const PHASE_US: usize = 5_000;
const ALIKE: f64 = 0.5;

/// Remembers one stream's last sound and continues it when a block is missing.
pub struct Concealer {
    rate: usize,
    /// The newest samples, at the end; invented ones are not kept.
    history: Vec<i16>,
    /// One pitch period, made to join its own beginning.
    cycle: Vec<i16>,
    /// How far the last sample was from where the cycle before it ended.
    onset: i32,
    /// Samples invented since the last received one.
    invented: usize,
}

impl Concealer {
    /// `rate` in Hz.
    pub fn new(rate: u32) -> Self {
        let rate = rate as usize;
        let kept = samples(rate, COMPARED_US + PERIOD_MAX_US * 5 / 4);
        Concealer { rate, history: vec![0; kept], cycle: Vec::new(), onset: 0, invented: 0 }
    }

    /// Sound that was received, in `out` from this place on. After a loss its beginning is faded in from what was
    /// invented before it, and some of that is put before it so that both are in phase.
    pub fn good(&mut self, out: &mut Vec<i16>, from: usize) {
        if self.invented > 0 {
            let lead = self.phase_of(&out[from..]);
            let end = out.len();
            out.resize(end + lead, 0);
            out.copy_within(from..end, from + lead);
            out[from..from + lead].fill_with(|| self.invent());
            let longer = self.invented * RETURN_US / samples(self.rate, 10_000).max(1);
            let block = &mut out[from + lead..];
            let length = samples(self.rate, (RETURN_US + longer).min(RETURN_MAX_US)).min(block.len());
            for (at, sample) in block.iter_mut().take(length).enumerate() {
                let (old, new) = (i32::from(self.invent()), i32::from(*sample));
                let (at, all) = (at as i32 + 1, length as i32 + 1);
                *sample = ((old * (all - at) + new * at) / all) as i16;
            }
            self.invented = 0;
        }
        self.remember(&out[from..]);
    }

    /// Appends what was received last and what was invented since, until it fell silent, and `more` of what would be
    /// next; gives how much was received. Nothing: nothing was invented.
    pub fn recent(&self, more: usize, out: &mut Vec<i16>) -> usize {
        if self.invented == 0 {
            return 0;
        }
        out.extend_from_slice(&self.history);
        let invented = self.invented.min(samples(self.rate, SILENT_US)) + more;
        out.extend((0..invented).map(|at| self.invented_at(at)));
        self.history.len()
    }

    /// How many samples more must be invented for `block` to go on where they end.
    fn phase_of(&self, block: &[i16]) -> usize {
        let compared = samples(self.rate, PHASE_US).min(block.len());
        let cycle = self.cycle.len();
        if self.invented >= samples(self.rate, SILENT_US) || cycle == 0 || compared == 0 {
            return 0;
        }
        let step = (self.rate / 8_000).max(1);
        let alike = |lead: usize| {
            let (mut product, mut ours, mut theirs) = (0.0, 1.0, 1.0);
            for at in (0..compared).step_by(step) {
                let a = f64::from(self.cycle[(self.invented + lead + at) % cycle]);
                let b = f64::from(block[at]);
                product += a * b;
                ours += a * a;
                theirs += b * b;
            }
            product / f64::sqrt(ours * theirs)
        };
        let leads = || (0..cycle).step_by(step);
        let best = leads().map(alike).fold(0.0, f64::max);
        // The shortest that is nearly as good.
        leads().find(|lead| alike(*lead) >= ALIKE.max(best - 0.02)).unwrap_or(0)
    }

    /// A lost block: `out` is filled with the continuation of what was heard, in the end with silence.
    pub fn conceal(&mut self, out: &mut [i16]) {
        if self.invented == 0 {
            self.find_cycle();
        }
        // Most lines are quiet most of the time, and that must cost nothing.
        if self.invented >= samples(self.rate, SILENT_US) {
            self.invented += out.len();
            return out.fill(0);
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
        self.invented += 1;
        self.invented_at(self.invented - 1)
    }

    fn invented_at(&self, at: usize) -> i16 {
        let (full, silent) = (samples(self.rate, FULL_US), samples(self.rate, SILENT_US));
        let Some(sample) = at.checked_rem(self.cycle.len()).and_then(|place| self.cycle.get(place)) else {
            return 0;
        };
        if at < full {
            let onset = samples(self.rate, ONSET_US);
            let more = self.onset * onset.saturating_sub(at) as i32 / onset.max(1) as i32;
            return (i32::from(*sample) + more).clamp(-32_768, 32_767) as i16;
        }
        let left = silent.saturating_sub(at) as i64;
        (i64::from(*sample) * left / (silent - full).max(1) as i64) as i16
    }

    fn find_cycle(&mut self) {
        let period = self.period();
        let history = &self.history;
        let end = history.len();
        self.onset = i32::from(history[end - 1]) - i32::from(history[end - period - 1]);
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
            concealer.good(&mut hum(rate, n * block, block), 0);
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
        let mut levels = Vec::new();
        for _ in 0..11 {
            let mut out = vec![0; block];
            concealer.conceal(&mut out);
            levels.push(level(&out));
        }
        assert!(levels[1..10].windows(2).all(|pair| pair[0] > pair[1]), "{levels:?}");
        // 60 ms lost are not heard as a hole, 200 ms end in one.
        assert!(levels[2] > levels[0] * 0.7 && levels[10] == 0.0, "{levels:?}");
    }

    fn steepest(samples: &[i16]) -> i32 {
        samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max().unwrap_or(0)
    }

    #[test]
    fn loss_of_any_length_begins_and_ends_without_a_step() {
        for rate in [8_000, 48_000] {
            let block = rate as usize / 50;
            let largest = steepest(&hum(rate, 0, rate as usize / 10));
            for lost in 1..=10 {
                for shift in 0..5 {
                    let (mut concealer, _) = heard(rate);
                    let mut out = hum(rate, 9 * block, block);
                    concealer.append(lost * block, &mut out);
                    // What comes back need not be where it would have been: it was late, not lost.
                    let (from, late) = (out.len(), shift * block / 7);
                    out.extend(hum(rate, (10 + lost) * block - late, 2 * block));
                    concealer.good(&mut out, from);
                    let found = steepest(&out);
                    assert!(
                        found <= largest * 6 / 5,
                        "{found} of {largest}: {lost} blocks at {rate}, {late}"
                    );
                    let back = &out[from..out.len() - block];
                    assert!(
                        lost > 3 || level(back) > level(&out[..block]) * 0.6,
                        "{lost} {late} {}",
                        level(back)
                    );
                    assert!(out.len() <= from + 2 * block + rate as usize / 60, "one cycle more at most");
                }
            }
        }
    }

    #[test]
    fn sound_returns_as_it_is() {
        let (mut concealer, block) = heard(8_000);
        let mut out = Vec::new();
        concealer.append(block, &mut out);
        out.extend(hum(8_000, 11 * block, block));
        concealer.good(&mut out, block);
        let end = out.len();
        assert_eq!(out[end - 60..], hum(8_000, 11 * block, block)[block - 60..]);
    }

    #[test]
    fn nothing_heard_yet_is_silence() {
        let mut out = vec![7; 160];
        Concealer::new(8_000).conceal(&mut out);
        assert_eq!(out, [0; 160]);
    }
}
