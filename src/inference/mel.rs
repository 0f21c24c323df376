//! Sound as the end-of-turn network sees it: the log-mel spectrogram of Whisper, 80 bands of the last 8 s.
//!
//! Pure. Windows of 25 ms every 10 ms at 16 kHz, mirrored at both ends; bands on Slaney's mel scale, each of area one;
//! tenth logarithms, nothing more than 8 below the highest, brought to about -1 to 1. The sound is brought to mean 0 and
//! variance 1 before.

use std::f64::consts::TAU;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Hz of the sound.
pub const RATE: u32 = 16_000;
/// Samples of one spectrogram: 8 s.
pub const SAMPLES: usize = 8 * RATE as usize;
pub const BANDS: usize = 80;
pub const FRAMES: usize = SAMPLES / HOP;

const WINDOW: usize = 400;
const HOP: usize = 160;
const BINS: usize = WINDOW / 2 + 1;

/// One band: its first bin and the weights from there on.
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Makes spectrograms; its buffers are used again.
pub struct LogMel {
    fft: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    bands: Vec<Band>,
    /// The sound, mirrored by half a window at either end.
    padded: Vec<f32>,
    frame: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Default for LogMel {
    fn default() -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(WINDOW);
        let window = (0..WINDOW).map(|n| (0.5 - 0.5 * (TAU * n as f64 / WINDOW as f64).cos()) as f32);
        LogMel {
            window: window.collect(),
            bands: bands(),
            padded: vec![0.0; SAMPLES + WINDOW],
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            fft,
        }
    }
}

impl LogMel {
    /// Replaces `into` by [`BANDS`] rows of [`FRAMES`] values. `sound`: 16-bit samples at [`RATE`]; only the last
    /// [`SAMPLES`] count, and silence stands before a shorter one.
    pub fn compute(&mut self, sound: &[i16], into: &mut Vec<f32>) {
        self.pad(sound);
        into.clear();
        into.resize(BANDS * FRAMES, 0.0);
        for number in 0..FRAMES {
            let part = self.padded[number * HOP..].iter().zip(&self.window);
            self.frame.iter_mut().zip(part).for_each(|(out, (sample, weight))| *out = sample * weight);
            // It fails on wrong lengths only; the planner made all three.
            if self.fft.process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch).is_err()
            {
                continue;
            }
            for (row, band) in self.bands.iter().enumerate() {
                let bins = self.spectrum[band.first..].iter().zip(&band.weights);
                let power: f32 = bins.map(|(bin, weight)| bin.norm_sqr() * weight).sum();
                into[row * FRAMES + number] = power.max(1e-10).log10();
            }
        }
        let highest = into.iter().copied().fold(f32::MIN, f32::max);
        into.iter_mut().for_each(|value| *value = (value.max(highest - 8.0) + 4.0) / 4.0);
    }

    fn pad(&mut self, sound: &[i16]) {
        let sound = &sound[sound.len().saturating_sub(SAMPLES)..];
        let half = WINDOW / 2;
        // Silence before a short sound counts in both.
        let mean = sound.iter().map(|sample| f64::from(*sample)).sum::<f64>() / SAMPLES as f64 / 32_768.0;
        let square = sound.iter().map(|sample| (f64::from(*sample) / 32_768.0).powi(2)).sum::<f64>();
        let variance = (square / SAMPLES as f64 - mean * mean).max(0.0);
        let scale = 1.0 / (variance + 1e-7).sqrt();
        let value = |sample: f64| ((sample - mean) * scale) as f32;
        let body = &mut self.padded[half..half + SAMPLES];
        let (silence, rest) = body.split_at_mut(SAMPLES - sound.len());
        silence.fill(value(0.0));
        rest.iter_mut().zip(sound).for_each(|(out, sample)| *out = value(f64::from(*sample) / 32_768.0));
        for n in 1..=half {
            self.padded[half - n] = self.padded[half + n];
            self.padded[half + SAMPLES - 1 + n] = self.padded[half + SAMPLES - 1 - n];
        }
    }
}

/// Triangles between neighbouring centres, in Hz.
fn bands() -> Vec<Band> {
    let top = mel(f64::from(RATE) / 2.0);
    let centres: Vec<f64> = (0..BANDS + 2).map(|n| hertz(top * n as f64 / (BANDS + 1) as f64)).collect();
    let bin = f64::from(RATE) / WINDOW as f64;
    let band = |edges: &[f64]| {
        let [low, centre, high] = [edges[0], edges[1], edges[2]];
        let weight = |n: usize| {
            let hertz = n as f64 * bin;
            let slope = ((hertz - low) / (centre - low)).min((high - hertz) / (high - centre)).max(0.0);
            (slope * 2.0 / (high - low)) as f32
        };
        let first = (0..BINS).find(|n| weight(*n) > 0.0).unwrap_or(0);
        Band { first, weights: (first..BINS).map(weight).take_while(|weight| *weight > 0.0).collect() }
    };
    centres.windows(3).map(band).collect()
}

/// Slaney's scale: linear up to 1 kHz, logarithmic from there.
fn mel(hertz: f64) -> f64 {
    if hertz < 1_000.0 { hertz * 3.0 / 200.0 } else { 15.0 + (hertz / 1_000.0).ln() * 27.0 / 6.4f64.ln() }
}

fn hertz(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1_000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp() }
}

/// A sound to compare with other implementations: two sweeps and a pause.
#[cfg(test)]
fn example() -> Vec<i16> {
    let seconds = |n: usize| n as f64 / f64::from(RATE);
    let sweep = |n: usize| (std::f64::consts::PI * (200.0 + 300.0 * seconds(n)) * seconds(n)).sin();
    let loud = |n: usize| if (n / 8_000).is_multiple_of(3) { 0.0 } else { 8_000.0 };
    (0..40_000).map(|n| (sweep(n) * loud(n)).round() as i16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_narrow_below_and_wide_above_and_leave_no_hole() {
        let bands = bands();
        assert_eq!(bands.len(), BANDS);
        assert!(bands.iter().all(|band| !band.weights.is_empty()));
        assert!(bands[0].weights.len() < bands[BANDS - 1].weights.len());
        assert!((hertz(mel(440.0)) - 440.0).abs() < 1e-9 && (hertz(mel(4_321.0)) - 4_321.0).abs() < 1e-6);
    }

    #[test]
    fn the_spectrogram_is_that_of_the_reference() {
        let mut into = Vec::new();
        LogMel::default().compute(&example(), &mut into);
        assert_eq!(into.len(), BANDS * FRAMES);
        // Values of Whisper's own extractor (numpy) for the same sound.
        for (row, column, expected) in REFERENCE {
            let value = into[row * FRAMES + column];
            assert!(
                (value - expected).abs() < 2e-3,
                "row {row}, column {column}: {value} and not {expected}"
            );
        }
    }

    #[test]
    fn sound_of_any_length_is_taken() {
        let mut mel = LogMel::default();
        let mut into = Vec::new();
        for length in [0, 1, 399, SAMPLES, SAMPLES + 5_000] {
            mel.compute(&vec![i16::MIN; length], &mut into);
            assert!(into.len() == BANDS * FRAMES && into.iter().all(|value| value.is_finite()), "{length}");
        }
    }

    const REFERENCE: [(usize, usize, f32); 14] = [
        (0, 0, -0.1398),
        (0, 799, 0.7307),
        (5, 600, 1.6846),
        (10, 700, 1.3759),
        (10, 650, 1.8383),
        (20, 620, -0.0534),
        (20, 790, 1.7605),
        (40, 799, 0.5012),
        (79, 650, -0.1398),
        (79, 799, -0.0415),
        (3, 550, -0.1398),
        (4, 601, 1.5357),
        (30, 720, -0.1398),
        (60, 680, -0.1398),
    ];
}
