//! Judges of sound: how loud, and which tone.

use std::path::Path;
use std::process::Command;

use super::process::output_of;

pub const RATE: u32 = 8000;

/// Decodes a file's sound to 8 kHz; one vector per channel.
pub fn read(file: &Path, channels: usize) -> Vec<Vec<f64>> {
    let bytes = output_of(
        Command::new("ffmpeg")
            .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-i"])
            .arg(file)
            .args(["-vn", "-ac", &channels.to_string(), "-ar", &RATE.to_string(), "-f", "s16le", "-"]),
    );
    let samples: Vec<f64> = bytes
        .chunks_exact(2)
        .map(|pair| f64::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0)
        .collect();
    (0..channels).map(|channel| samples.iter().skip(channel).step_by(channels).copied().collect()).collect()
}

/// Root mean square level in dB below full scale.
pub fn level_db(samples: &[f64]) -> f64 {
    let power = samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len().max(1) as f64;
    10.0 * power.max(1e-12).log10()
}

/// Share of the sound's power that lies at `hertz`, by the Goertzel filter over blocks of 100 ms.
pub fn tone_share(samples: &[f64], hertz: f64) -> f64 {
    let (mut at_tone, mut all) = (0.0, 0.0);
    for block in samples.chunks_exact(RATE as usize / 10) {
        let coefficient = 2.0 * (std::f64::consts::TAU * hertz / f64::from(RATE)).cos();
        let (mut before, mut last) = (0.0, 0.0);
        for sample in block {
            (before, last) = (last, sample + coefficient * last - before);
        }
        let power = last * last + before * before - coefficient * last * before;
        at_tone += 2.0 * power / block.len() as f64;
        all += block.iter().map(|sample| sample * sample).sum::<f64>();
    }
    if all > 0.0 { at_tone / all } else { 0.0 }
}

#[test]
fn a_tone_is_told_from_another() {
    let tone: Vec<f64> = (0..RATE)
        .map(|n| (std::f64::consts::TAU * 700.0 * f64::from(n) / f64::from(RATE)).sin() * 0.5)
        .collect();
    assert!(tone_share(&tone, 700.0) > 0.99 && tone_share(&tone, 1100.0) < 0.01);
    assert!((level_db(&tone) + 9.03).abs() < 0.1, "{}", level_db(&tone));
}
