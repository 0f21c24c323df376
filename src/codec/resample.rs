//! Another sample rate for a running stream of mono sound (rubato's band-limited FFT resampler).
//!
//! Blocks of any length go in; what is ready comes out. Clock drift between two ends does not belong here.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _};

use crate::codec::ffmpeg::broken;
use crate::media::codec::CodecError;

/// About this much sound is converted at a time; it is what bounds the delay.
const CHUNK_MS: usize = 10;

/// One stream's converter.
pub struct Resampler {
    from: u32,
    /// `None`: the rates are equal.
    fft: Option<Fft<f32>>,
    waiting: Vec<f32>,
    converted: Vec<f32>,
}

impl Resampler {
    /// Rates in Hz, 4000 to 192000.
    pub fn new(from: u32, to: u32) -> Result<Self, CodecError> {
        if ![from, to].iter().all(|rate| (4_000..=192_000).contains(rate)) {
            return Err(broken(format!("no conversion from {from} Hz to {to} Hz: 4000 to 192000")));
        }
        let (input, output) = (from as usize, to as usize);
        let chunk = input * CHUNK_MS / 1000;
        let fft = (from != to)
            .then(|| Fft::new(input, output, chunk, 1, FixedSync::Both))
            .transpose()
            .map_err(|error| broken(format!("no conversion from {from} Hz to {to} Hz: {error}")))?;
        Ok(Resampler { from, fft, waiting: Vec::new(), converted: Vec::new() })
    }

    pub fn from(&self) -> u32 {
        self.from
    }

    /// How many samples at the new rate the output lags behind the input.
    pub fn delay(&self) -> usize {
        self.fft.as_ref().map_or(0, |fft| fft.output_delay())
    }

    /// Takes `samples` and appends what is ready to `into`.
    pub fn process(&mut self, samples: &[i16], into: &mut Vec<i16>) -> Result<(), CodecError> {
        let Some(fft) = &mut self.fft else {
            into.extend_from_slice(samples);
            return Ok(());
        };
        self.waiting.extend(samples.iter().map(|sample| f32::from(*sample)));
        let mut used = 0;
        loop {
            let (needs, gives) = (fft.input_frames_next(), fft.output_frames_next());
            let Some(chunk) = self.waiting.get(used..used + needs) else { break };
            self.converted.resize(gives, 0.0);
            let failed = |why: &dyn std::fmt::Display| broken(format!("resampling: {why}"));
            let input = InterleavedSlice::new(chunk, 1, needs).map_err(|why| failed(&why))?;
            let mut output =
                InterleavedSlice::new_mut(&mut self.converted, 1, gives).map_err(|why| failed(&why))?;
            let (_, made) = fft.process_into_buffer(&input, &mut output, None).map_err(|why| failed(&why))?;
            // `as` saturates, which is what an overshoot needs.
            into.extend(self.converted.iter().take(made).map(|sample| sample.round() as i16));
            used += needs;
        }
        self.waiting.drain(..used);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(rate: u32, hz: f64, len: usize) -> Vec<i16> {
        let step = hz * std::f64::consts::TAU / f64::from(rate);
        (0..len).map(|n| ((n as f64 * step).sin() * 10_000.0) as i16).collect()
    }

    #[test]
    fn a_tone_keeps_its_pitch_level_and_length_in_blocks_of_any_size() {
        for (from, to) in
            [(8_000, 16_000), (48_000, 8_000), (22_050, 8_000), (44_100, 48_000), (8_000, 8_000)]
        {
            let mut resampler = Resampler::new(from, to).expect("a converter");
            let mut out = Vec::new();
            for block in sine(from, 440.0, from as usize).chunks(123) {
                resampler.process(block, &mut out).expect("converted");
            }
            let missing = to as usize - out.len();
            assert!(missing < to as usize / 20, "{from} to {to}: {missing} of {to}");
            let settled = &out[out.len() / 4..out.len() * 3 / 4];
            let crossings = settled.windows(2).filter(|w| (w[0] < 0) != (w[1] < 0)).count() as f64;
            let hz = crossings / 2.0 * f64::from(to) / settled.len() as f64;
            assert!((hz - 440.0).abs() < 5.0, "{from} to {to}: {hz} Hz");
            let peak = settled.iter().map(|s| s.abs()).max().expect("samples");
            assert!((9_700..=10_300).contains(&peak), "{from} to {to}: {peak}");
            assert!(resampler.delay() <= to as usize / 50);
        }
    }

    #[test]
    fn a_rate_of_zero_is_refused() {
        assert!(Resampler::new(0, 8_000).is_err());
    }
}
