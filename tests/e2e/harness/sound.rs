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

/// The text as espeak-ng's `voice` says it, without the silence around it, between -1 and 1.
pub fn espeak(voice: &str, text: &str) -> Vec<f64> {
    let file = tempfile::Builder::new().suffix(".wav").tempfile().expect("a temporary file");
    output_of(Command::new("espeak-ng").args(["-v", voice, "-s", "160", "-w"]).arg(file.path()).arg(text));
    let samples = read(file.path(), 1).remove(0);
    let loud = |sample: &f64| sample.abs() > 0.02;
    let first = samples.iter().position(loud).unwrap_or(0);
    let last = samples.iter().rposition(loud).map_or(samples.len(), |last| last + 1);
    samples[first..last].to_vec()
}

/// Writes samples at 8 kHz as 16-bit mono WAV.
pub fn write(file: &Path, samples: &[f64]) {
    let length = samples.len() as u32 * 2;
    let mut bytes = [&b"RIFF"[..], &(length + 36).to_le_bytes(), b"WAVEfmt \x10\0\0\0\x01\0\x01\0"].concat();
    bytes.extend([RATE.to_le_bytes(), (RATE * 2).to_le_bytes()].concat());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend(length.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes()));
    std::fs::write(file, bytes).expect("a writable folder");
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

/// ITU-T G.711 mu-law of a sample from -1 to 1.
pub fn to_mu_law(sample: f64) -> u8 {
    let magnitude = ((sample.abs() * 8159.0).round() as i32).min(8158) + 33;
    let exponent = (0..8).rev().find(|exponent| magnitude >= 32 << exponent).unwrap_or(0);
    let mantissa = (magnitude >> (exponent + 1)) & 15;
    let sign = if sample < 0.0 { 0 } else { 0x80 };
    sign | (!(exponent << 4 | mantissa) as u8 & 0x7f)
}

/// The sample from -1 to 1 of a mu-law byte.
pub fn from_mu_law(byte: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(!byte >> 4 & 7), i32::from(!byte & 15));
    let magnitude = f64::from(((2 * mantissa + 33) << exponent) - 33) / 8159.0;
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

/// The longest stretch of blocks of 10 ms that are quieter than `floor_db`, in milliseconds.
pub fn longest_silence_ms(samples: &[f64], floor_db: f64) -> u32 {
    let (mut longest, mut run) = (0, 0);
    for block in samples.chunks_exact(RATE as usize / 100) {
        run = if level_db(block) < floor_db { run + 10 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[test]
fn mu_law_goes_there_and_back_and_silence_is_measured() {
    for byte in 0..=255u8 {
        // Both zeros are zero.
        let back = to_mu_law(from_mu_law(byte));
        assert!(back == byte || byte == 0x7f, "{byte:#x} {back:#x}");
    }
    let mut samples = vec![0.3; RATE as usize];
    samples[800..1200].fill(0.0);
    assert_eq!(longest_silence_ms(&samples, -40.0), 50);
}

#[test]
fn a_tone_is_told_from_another() {
    let tone: Vec<f64> = (0..RATE)
        .map(|n| (std::f64::consts::TAU * 700.0 * f64::from(n) / f64::from(RATE)).sin() * 0.5)
        .collect();
    assert!(tone_share(&tone, 700.0) > 0.99 && tone_share(&tone, 1100.0) < 0.01);
    assert!((level_db(&tone) + 9.03).abs() < 0.1, "{}", level_db(&tone));
}
