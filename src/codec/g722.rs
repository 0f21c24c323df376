//! G.722 (ITU-T G.722, RFC 3551 §4.5.2): 16 kHz sound in one byte for two samples, 64 kbit/s.
//!
//! The arithmetic is the package `audio-codec`'s. The state goes on from packet to packet, so packets may be cut
//! anywhere. How lost sound is hidden is in [`super::conceal`]; the state follows what was invented, as G.722
//! Appendix IV does in its way.

use audio_codec::g722::{G722Decoder as Arithmetic, G722Encoder as Reverse};
use audio_codec::{Decoder as _, Encoder as _};

use crate::codec::conceal::Concealer;
use crate::codec::ffmpeg::broken;
use crate::media::codec::{AudioDecoder, AudioEncoder, CodecError};

/// Hz.
const RATE: u32 = 16_000;

/// What is heard is so many samples behind what was encoded: the filters that split and join the bands.
const DELAY: usize = 22;

/// One stream's decoder.
pub struct G722Decoder {
    state: Arithmetic,
    concealer: Concealer,
    /// Between calls empty of meaning.
    sound: Vec<i16>,
    bytes: Vec<u8>,
}

impl Default for G722Decoder {
    fn default() -> Self {
        G722Decoder {
            state: Arithmetic::new(),
            concealer: Concealer::new(RATE),
            sound: Vec::new(),
            bytes: Vec::new(),
        }
    }
}

impl G722Decoder {
    /// Brings the state to where it would be, had what was invented for a gap been sent: what comes next was predicted
    /// from something much like it.
    fn follow_invented(&mut self) {
        let G722Decoder { state, concealer, sound, bytes } = self;
        sound.clear();
        let learnt = concealer.recent(DELAY, sound);
        if sound.is_empty() {
            return;
        }
        // A new encoder knows the way after hearing what was received last.
        let mut encoder = Reverse::new();
        bytes.resize(encoder.max_encode_bytes(sound.len()), 0);
        let (past, invented) = sound[DELAY..].split_at(learnt);
        if encoder.encode_into(past, bytes).is_err() {
            return;
        }
        let made = encoder.encode_into(invented, bytes).unwrap_or(0);
        sound.resize(state.max_decode_samples(made), 0);
        // Nobody hears it twice. Every byte is sound in G.722.
        let _ = state.decode_into(&bytes[..made], sound);
    }
}

impl AudioDecoder for G722Decoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), CodecError> {
        let from = out.len();
        self.follow_invented();
        out.resize(from + self.state.max_decode_samples(payload.len()), 0);
        match self.state.decode_into(payload, &mut out[from..]) {
            Ok(made) => {
                out.truncate(from + made);
                self.concealer.good(out, from);
                Ok(())
            }
            Err(error) => {
                out.truncate(from);
                Err(broken(format!("G.722: {error:?}")))
            }
        }
    }

    fn conceal(&mut self, samples: usize, _next: Option<&[u8]>, out: &mut Vec<i16>) -> usize {
        self.concealer.append(samples, out);
        0
    }

    fn quiet(&mut self, samples: usize, out: &mut Vec<i16>) {
        out.resize(out.len() + samples, 0);
    }
}

/// One stream's encoder.
pub struct G722Encoder {
    state: Reverse,
}

impl Default for G722Encoder {
    fn default() -> Self {
        G722Encoder { state: Reverse::new() }
    }
}

impl AudioEncoder for G722Encoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), CodecError> {
        let from = out.len();
        out.resize(from + self.state.max_encode_bytes(samples.len()), 0);
        let made = self.state.encode_into(samples, &mut out[from..]);
        out.truncate(from + made.as_ref().copied().unwrap_or(0));
        made.map(|_| ()).map_err(|error| broken(format!("G.722: {error:?}")))
    }

    fn set_loss(&mut self, _percent: u8) {}
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn sine(hz: f64, samples: usize) -> Vec<i16> {
        let step = hz * std::f64::consts::TAU / f64::from(RATE);
        (0..samples).map(|n| ((n as f64 * step).sin() * 10_000.0) as i16).collect()
    }

    /// The share of the energy at `hz`, and the level.
    fn purity(samples: &[i16], hz: f64) -> (f64, f64) {
        let step = hz * std::f64::consts::TAU / f64::from(RATE);
        let (mut re, mut im, mut energy) = (0.0, 0.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let value = f64::from(*sample);
            re += value * (n as f64 * step).cos();
            im += value * (n as f64 * step).sin();
            energy += value * value;
        }
        let count = samples.len() as f64;
        (2.0 * (re * re + im * im) / count / energy.max(1.0), (energy / count).sqrt())
    }

    #[test]
    fn after_a_gap_the_state_is_where_the_sound_is() {
        let voice: Vec<i16> = (0..320 * 500)
            .map(|n| {
                let t = f64::from(n) / f64::from(RATE);
                let phase = std::f64::consts::TAU * (140.0 * t + 1.5 * (2.0 * t).sin());
                let tone: f64 = (1..12).map(|k| (phase * f64::from(k)).sin() / f64::from(k)).sum();
                (tone * 5_000.0) as i16
            })
            .collect();
        let mut encoder = G722Encoder::default();
        let mut bytes = Vec::new();
        encoder.encode(&voice, &mut bytes).expect("coded");
        let steepest = |lost: &dyn Fn(usize) -> bool| {
            let (mut decoder, mut out) = (G722Decoder::default(), Vec::new());
            for (n, packet) in bytes.chunks_exact(160).enumerate() {
                if lost(n) {
                    decoder.conceal(320, None, &mut out);
                } else {
                    decoder.decode(packet, &mut out).expect("sound");
                }
            }
            out.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max().unwrap_or(0)
        };
        let usual = steepest(&|_| false);
        for run in 1..5 {
            let found = steepest(&|n| n % 12 >= 12 - run);
            assert!(found <= usual * 12 / 10, "{run} lost in a row: a step of {found}, usually {usual}");
        }
    }

    #[test]
    fn tones_of_both_bands_survive_wherever_packets_are_cut() {
        for hz in [440.0, 3_000.0, 6_000.0] {
            let mut encoder = G722Encoder::default();
            let (mut coded, mut back) = (Vec::new(), Vec::new());
            for block in sine(hz, 16_000).chunks(320) {
                encoder.encode(block, &mut coded).expect("coded");
            }
            assert_eq!(coded.len(), 8_000, "64 kbit/s");
            let mut decoder = G722Decoder::default();
            for cut in coded.chunks(77) {
                decoder.decode(cut, &mut back).expect("decoded");
            }
            assert_eq!(back.len(), 16_000);
            let (share, level) = purity(&back[1_600..], hz);
            assert!(share > 0.98 && (6_000.0..8_000.0).contains(&level), "{hz} Hz: {share}, {level}");
        }
    }

    #[test]
    fn a_lost_packet_of_a_tone_leaves_no_hole() {
        let mut encoder = G722Encoder::default();
        let (mut decoder, mut back) = (G722Decoder::default(), Vec::new());
        for (n, block) in sine(500.0, 3_200).chunks(320).enumerate() {
            let mut coded = Vec::new();
            encoder.encode(block, &mut coded).expect("coded");
            if n == 5 {
                decoder.conceal(320, None, &mut back);
            } else {
                decoder.decode(&coded, &mut back).expect("decoded");
            }
        }
        // What comes back does so in phase.
        assert!((3_200..3_200 + 240).contains(&back.len()), "{}", back.len());
        let weakest = back[800..].chunks(80).map(|part| purity(part, 500.0).1).fold(f64::MAX, f64::min);
        assert!(weakest > 3_000.0, "{weakest}");
    }

    /// FFmpeg's code of [`reference`].
    const OF_FFMPEG: &str = "348920842084048a0d90d2d4d5d7d9dadcdddffdfb7ab77572afb5120f9b3cf835b3311e90d77a77f3b51413fb \
        f7321e92def7321fd4fef3b5561af2f6551af1b45a5f6d3e97725c91f8b1587daf567cb0593b5ed274fc9bb4d8 \
        3d7fd4f6d63c79dbaefaf9d53af37dfcda5894adf3f0717273f53411d857dddffa729c56bb3c10da7998d5f734 \
        1d9952f37237b75f5d9756549355539757599a5e7ebc7576ad";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    /// 20 ms with something in both bands.
    fn reference() -> Vec<i16> {
        let rough: Vec<i32> = (0..320).map(|n| (n * n * 7) % 12_001 - 6_000).collect();
        let mean = |end: usize| {
            let part = &rough[end.saturating_sub(3)..=end];
            part.iter().sum::<i32>().div_euclid(part.len() as i32) as i16
        };
        (0..320).map(mean).collect()
    }

    #[test]
    fn what_ffmpeg_codes_is_decoded_as_ffmpeg_does_and_ours_is_as_good() {
        let mut theirs = Vec::new();
        G722Decoder::default().decode(&bytes(OF_FFMPEG), &mut theirs).expect("decoded");
        let of_ffmpeg = [-2340.0, -1479.0, -385.0, -2008.0, -1485.0, 79.0, -1944.0, -957.0];
        let energy = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let apart = energy(&mut theirs[312..].iter().zip(of_ffmpeg).map(|(a, b)| f64::from(*a) - b));
        // Filters of other precision, the same sound.
        assert!(apart < 0.03 * energy(&mut of_ffmpeg.into_iter()), "{:?}, not {of_ffmpeg:?}", &theirs[312..]);
        let (mut coded, mut ours) = (Vec::new(), Vec::new());
        G722Encoder::default().encode(&reference(), &mut coded).expect("coded");
        G722Decoder::default().decode(&coded, &mut ours).expect("decoded");
        // Both filters together are 22 samples late.
        let noise = |decoded: &[i16]| -> f64 {
            let wrong = decoded[22..].iter().zip(reference()).map(|(a, b)| f64::from(*a) - f64::from(b));
            wrong.map(|wrong| wrong * wrong).sum()
        };
        let (ours, theirs) = (noise(&ours), noise(&theirs));
        assert!(ours < 2.0 * theirs, "{ours} against FFmpeg's {theirs}");
    }

    #[test]
    fn any_bytes_are_sound() {
        let mut random = StdRng::seed_from_u64(3);
        let (mut decoder, mut out) = (G722Decoder::default(), Vec::new());
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..random.random_range(0..200)).map(|_| random.random()).collect();
            out.clear();
            decoder.decode(&bytes, &mut out).expect("sound");
            assert_eq!(out.len(), 2 * bytes.len());
        }
    }
}
