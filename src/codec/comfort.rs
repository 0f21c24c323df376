//! Comfort noise (RFC 3389): what is heard while a sender is silent and says how its room sounds.
//!
//! A level and, if the sender gives one, the shape of the spectrum as reflection coefficients. Fades, so that neither
//! its beginning nor its changes are heard as steps. Opus has its own way ([`super::opus`]).

/// Coefficients beyond these say nothing that is heard.
const ORDER_MAX: usize = 12;
/// Full scale of RFC 3389 §3.1 (0 dBov) is that of 16-bit samples.
const FULL: f32 = 32_768.0;
/// A change of level takes so long.
const FADE_MS: u32 = 40;
/// The filter takes at most so much of the power of what goes in.
const POWER_MIN: f32 = 1e-3;
/// Softer is silence.
const SILENT: u8 = 90;
/// Louder than this is no background: a broken or hostile sender.
const LOUDEST: u8 = 30;

/// One stream's noise.
pub struct ComfortNoise {
    /// Root mean square aimed at, and now.
    target: f32,
    level: f32,
    /// What the level changes by in one value of 8 kHz.
    step: f32,
    /// Of a lattice synthesis filter, and its state.
    reflection: [f32; ORDER_MAX],
    order: usize,
    state: [f32; ORDER_MAX + 1],
    /// What the filter does to the power of white noise.
    gain: f32,
    random: u32,
}

impl Default for ComfortNoise {
    fn default() -> Self {
        ComfortNoise {
            target: 0.0,
            level: 0.0,
            step: 0.0,
            reflection: [0.0; ORDER_MAX],
            order: 0,
            state: [0.0; ORDER_MAX + 1],
            gain: 1.0,
            random: 0x2545_f491,
        }
    }
}

impl ComfortNoise {
    /// Takes a payload: the level in -dBov, then coefficients. An empty one says silence.
    pub fn describe(&mut self, payload: &[u8]) {
        let (level, shape) =
            payload.split_first().map_or((127, &[][..]), |(level, shape)| (level & 0x7f, shape));
        self.target =
            if level >= SILENT { 0.0 } else { FULL * 10_f32.powf(-f32::from(level.max(LOUDEST)) / 20.0) };
        self.step = (self.target - self.level).abs() / (8.0 * FADE_MS as f32);
        self.order = 0;
        let mut power = 1.0;
        for (coefficient, byte) in self.reflection.iter_mut().zip(shape) {
            // §3.2: 0 to 254 stand for -1 to 1; the ends would not be stable.
            *coefficient = ((f32::from(*byte) - 127.0) / 127.0).clamp(-0.98, 0.98);
            let left = power * (1.0 - *coefficient * *coefficient);
            // Sharper than any room: the rest is left out.
            if left < POWER_MIN {
                break;
            }
            power = left;
            self.order += 1;
        }
        self.gain = power.sqrt();
    }

    /// The next noise fades in anew.
    fn stop(&mut self) {
        self.level = 0.0;
        self.step = self.target / (8.0 * FADE_MS as f32);
        self.state = [0.0; ORDER_MAX + 1];
    }

    /// The sender speaks again, `block` begins: the noise fades out under it.
    pub fn leave(&mut self, rate: u32, block: &mut [i16]) {
        let length = ((rate / 200) as usize).min(block.len());
        for (at, sample) in block.iter_mut().take(length).enumerate() {
            let left = (length - at) as f32 / (length + 1) as f32;
            *sample = sample.saturating_add((self.next() * self.level * left) as i16);
        }
        self.stop();
    }

    /// Whether there is anything to be heard.
    pub fn is_silent(&self) -> bool {
        self.target == 0.0 && self.level < 1.0
    }

    /// Replaces `block`, of `rate` Hz.
    pub fn fill(&mut self, rate: u32, block: &mut [i16]) {
        // What the payload describes is 8 kHz sound: at higher rates a noise value is held, its sharp edge is far below
        // the level of the noise.
        let repeat = (rate / 8_000).max(1) as usize;
        for piece in block.chunks_mut(repeat) {
            self.level += (self.target - self.level).clamp(-self.step, self.step);
            let value = (self.next() * self.level) as i16;
            piece.fill(value);
        }
    }

    /// One value of power 1.
    fn next(&mut self) -> f32 {
        // Uniform from -1 to 1 has a power of one third.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        let mut forward = (self.random as f32 / u32::MAX as f32 * 2.0 - 1.0) * 1.732 * self.gain;
        for at in (0..self.order).rev() {
            let coefficient = self.reflection[at];
            forward -= coefficient * self.state[at];
            self.state[at + 1] = self.state[at] + coefficient * forward;
        }
        self.state[0] = forward;
        if !forward.is_finite() {
            self.stop();
            return 0.0;
        }
        forward
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    /// Power of the upper half of the band against the lower.
    fn brightness(samples: &[i16]) -> f64 {
        let difference: Vec<i16> = samples.windows(2).map(|w| w[1].saturating_sub(w[0])).collect();
        level(&difference) / level(samples)
    }

    fn noise(payload: &[u8], rate: u32) -> Vec<i16> {
        let mut noise = ComfortNoise::default();
        noise.describe(payload);
        let mut samples = vec![0; rate as usize];
        samples.chunks_mut(rate as usize / 50).for_each(|block| noise.fill(rate, block));
        samples
    }

    #[test]
    fn the_level_is_as_described_at_every_rate_and_with_every_shape() {
        for rate in [8_000, 16_000, 48_000] {
            for shape in [&[][..], &[60], &[30, 160, 127, 200], &[127; 30]] {
                let payload: Vec<u8> = std::iter::once(50).chain(shape.iter().copied()).collect();
                let heard = level(&noise(&payload, rate)[rate as usize / 5..]);
                let wanted = 32_768.0 * 10_f64.powf(-50.0 / 20.0);
                assert!((0.7..1.4).contains(&(heard / wanted)), "{rate} {shape:?}: {heard}, not {wanted}");
            }
        }
    }

    #[test]
    fn the_shape_is_heard() {
        let (dark, white, bright) = (noise(&[45, 10], 8_000), noise(&[45], 8_000), noise(&[45, 244], 8_000));
        assert!(brightness(&dark) < 0.7 * brightness(&white));
        assert!(brightness(&bright) > 1.2 * brightness(&white));
    }

    #[test]
    fn it_fades_in_and_out() {
        let mut noise = ComfortNoise::default();
        noise.describe(&[40]);
        let mut block = [0; 160];
        noise.fill(8_000, &mut block);
        assert!(level(&block[..8]) < 0.2 * level(&block[120..]));
        for _ in 0..5 {
            noise.fill(8_000, &mut block);
        }
        let loud = level(&block);
        let mut voice = [0; 160];
        noise.leave(8_000, &mut voice);
        assert!(level(&voice[..10]) > 0.3 * loud && level(&voice[40..]) == 0.0);
        for _ in 0..5 {
            noise.fill(8_000, &mut block);
        }
        noise.describe(&[]);
        for _ in 0..3 {
            noise.fill(8_000, &mut block);
        }
        assert!(noise.is_silent() && level(&block) < 2.0);
    }

    #[test]
    fn any_payload_is_bounded() {
        for first in 0..=255_u8 {
            for shape in [[0; 12], [255; 12], [first; 12]] {
                let payload: Vec<u8> = std::iter::once(first).chain(shape).collect();
                let loudest = noise(&payload, 8_000).iter().map(|s| s.unsigned_abs()).max();
                assert!(loudest < Some(20_000), "{payload:?}: {loudest:?}");
            }
        }
    }
}
