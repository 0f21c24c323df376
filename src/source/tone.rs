//! Tones: pure samples, and how much of a sound is one tone.
//!
//! Which tone means what, and when it sounds, is the engine's.

use std::f64::consts::TAU;

/// A sine of `hz` at `level` (0 to 1 of full scale), `ms` long.
pub fn sine(rate: u32, hz: f64, ms: u32, level: f64) -> Vec<i16> {
    mixed(rate, &[hz], ms, level)
}

/// Two soft notes, each fading out: heard where a voice should be and none is installed.
pub fn chime(rate: u32) -> Vec<i16> {
    let mut samples = Vec::new();
    for (hz, ms) in [(659.25, 260), (523.25, 440)] {
        let mut note = mixed(rate, &[hz, 2.0 * hz], ms, 0.3);
        let (rise, all) = (f64::from(rate) / 100.0, note.len() as f64);
        for (at, sample) in note.iter_mut().enumerate() {
            let at = at as f64;
            let envelope = (at / rise).min(1.0) * (1.0 - at / all).powi(2);
            *sample = (f64::from(*sample) * envelope) as i16;
        }
        samples.extend(note);
    }
    samples
}

fn mixed(rate: u32, tones: &[f64], ms: u32, level: f64) -> Vec<i16> {
    let count = u64::from(rate) * u64::from(ms) / 1000;
    let scale = level.clamp(0.0, 1.0) * f64::from(i16::MAX) / tones.len().max(1) as f64;
    let at = |n: u64| tones.iter().map(|hz| (n as f64 * hz * TAU / f64::from(rate)).sin()).sum::<f64>();
    (0..count).map(|n| (at(n) * scale) as i16).collect()
}

/// The share (0 to 1) of the power of `samples` that is a tone of `hz` (Goertzel's algorithm). Silence has none.
pub fn share(samples: &[i16], rate: u32, hz: f64) -> f64 {
    let turn = 2.0 * (hz * TAU / f64::from(rate)).cos();
    let (mut last, mut before, mut power) = (0.0, 0.0, 0.0);
    for sample in samples {
        let sample = f64::from(*sample);
        (last, before) = (sample + turn * last - before, last);
        power += sample * sample;
    }
    if power <= 0.0 {
        return 0.0;
    }
    let tone = last * last + before * before - turn * last * before;
    (2.0 * tone / (power * samples.len() as f64)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sine_is_all_its_own_tone_and_no_other() {
        let samples = sine(8_000, 440.0, 500, 0.5);
        assert_eq!(samples.len(), 4_000);
        assert!(share(&samples, 8_000, 440.0) > 0.95);
        assert!(share(&samples, 8_000, 880.0) < 0.02);
        assert_eq!(share(&[0; 100], 8_000, 440.0), 0.0);
    }

    #[test]
    fn the_chime_starts_and_ends_softly() {
        let samples = chime(16_000);
        assert!(samples.len() > 8_000);
        assert!(samples[..20].iter().chain(&samples[samples.len() - 20..]).all(|s| s.abs() < 1_500));
        assert!(samples.iter().any(|s| s.abs() > 3_000));
    }
}
