//! G.711 (ITU-T G.711): 8 kHz sound in one byte a sample, by either law.
//!
//! Nothing is allocated but what the caller's vector needs. How lost sound is hidden is in [`super::conceal`].

use crate::codec::conceal::Concealer;
use crate::media::codec::{AudioDecoder, AudioEncoder, CodecError};

/// Hz.
const RATE: u32 = 8_000;

/// The two companding laws, by their RTP names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Law {
    /// µ-law, PCMU.
    Mu,
    /// A-law, PCMA.
    A,
}

impl Law {
    /// The byte that decodes to (almost) nothing.
    pub const fn silence(self) -> u8 {
        match self {
            Law::Mu => 0xff,
            Law::A => 0xd5,
        }
    }
}

/// Appends one byte a sample.
pub fn encode(law: Law, samples: &[i16], into: &mut Vec<u8>) {
    match law {
        Law::Mu => into.extend(samples.iter().map(|sample| mu_from(*sample))),
        Law::A => into.extend(samples.iter().map(|sample| a_from(*sample))),
    }
}

/// Appends one sample a byte.
pub fn decode(law: Law, bytes: &[u8], into: &mut Vec<i16>) {
    let table = match law {
        Law::Mu => &MU,
        Law::A => &A,
    };
    into.extend(bytes.iter().map(|byte| table[usize::from(*byte)]));
}

/// One stream's decoder.
pub struct G711Decoder {
    law: Law,
    concealer: Concealer,
}

impl G711Decoder {
    pub fn new(law: Law) -> Self {
        G711Decoder { law, concealer: Concealer::new(RATE) }
    }
}

impl AudioDecoder for G711Decoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), CodecError> {
        let from = out.len();
        decode(self.law, payload, out);
        self.concealer.good(out, from);
        Ok(())
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
pub struct G711Encoder {
    law: Law,
}

impl G711Encoder {
    pub fn new(law: Law) -> Self {
        G711Encoder { law }
    }
}

impl AudioEncoder for G711Encoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), CodecError> {
        encode(self.law, samples, out);
        Ok(())
    }

    fn set_loss(&mut self, _percent: u8) {}
}

static MU: [i16; 256] = table(Law::Mu);
static A: [i16; 256] = table(Law::A);

const fn table(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match law {
            Law::Mu => mu_to(byte as u8),
            Law::A => a_to(byte as u8),
        };
        byte += 1;
    }
    table
}

/// The bias that makes every µ-law segment start at a power of two, in 16-bit samples.
const BIAS: i32 = 132;

const fn mu_to(byte: u8) -> i16 {
    let byte = !byte as i32;
    let magnitude = ((((byte & 0x0f) << 3) + BIAS) << ((byte & 0x70) >> 4)) - BIAS;
    (if byte & 0x80 == 0 { magnitude } else { -magnitude }) as i16
}

fn mu_from(sample: i16) -> u8 {
    let magnitude = i32::from(sample).abs().min(32_635) + BIAS;
    // The bias keeps bit 7 the lowest leading bit there is.
    let segment = 24 - magnitude.leading_zeros();
    let code = ((segment as i32) << 4) | ((magnitude >> (segment + 3)) & 0x0f);
    let sign = if sample < 0 { 0x7f } else { 0xff };
    code as u8 ^ sign
}

const fn a_to(byte: u8) -> i16 {
    let byte = (byte ^ 0x55) as i32;
    let (segment, step) = ((byte & 0x70) >> 4, (byte & 0x0f) << 4);
    let magnitude = if segment == 0 { step + 8 } else { (step + 0x108) << (segment - 1) };
    (if byte & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

fn a_from(sample: i16) -> u8 {
    let (magnitude, sign) = if sample >= 0 { (sample >> 3, 0xd5) } else { (!(sample >> 3), 0x55) };
    let magnitude = i32::from(magnitude);
    // Segments 0 and 1 share a step; above, each begins at a power of two.
    let segment = (27 - (magnitude | 0x1f).leading_zeros()) as i32;
    let code = (segment << 4) | ((magnitude >> segment.max(1)) & 0x0f);
    code as u8 ^ sign
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(law: Law, samples: &[i16]) -> Vec<i16> {
        let (mut bytes, mut back) = (Vec::new(), Vec::new());
        encode(law, samples, &mut bytes);
        decode(law, &bytes, &mut back);
        back
    }

    #[test]
    fn every_byte_survives_decoding_and_encoding() {
        for law in [Law::Mu, Law::A] {
            for byte in 0..=255_u8 {
                let (mut samples, mut bytes) = (Vec::new(), Vec::new());
                decode(law, &[byte], &mut samples);
                encode(law, &samples, &mut bytes);
                // µ-law has two zeros; the positive one is sent.
                let wanted = if law == Law::Mu && byte == 0x7f { 0xff } else { byte };
                assert_eq!(bytes, [wanted], "{law:?}");
            }
        }
    }

    #[test]
    fn every_sample_stays_within_half_a_step_of_its_segment() {
        for law in [Law::Mu, Law::A] {
            for sample in i16::MIN..=i16::MAX {
                let error = (i32::from(round(law, &[sample])[0]) - i32::from(sample)).abs();
                let bound = (i32::from(sample).abs() + BIAS) / 32 + 8;
                // Beyond the highest code everything is that code.
                assert!(error <= bound.max(644), "{law:?} {sample} {error}");
                assert!(error <= bound || sample.unsigned_abs() > 32_000, "{law:?} {sample} {error}");
            }
        }
    }

    #[test]
    fn both_laws_agree_with_an_independent_implementation() {
        use audio_codec::{Decoder, pcma::PcmaDecoder, pcmu::PcmuDecoder};
        let all: Vec<u8> = (0..=255).collect();
        for (law, theirs) in
            [(Law::Mu, PcmuDecoder::new().decode(&all)), (Law::A, PcmaDecoder::new().decode(&all))]
        {
            let mut ours = Vec::new();
            decode(law, &all, &mut ours);
            assert_eq!(ours, theirs, "{law:?}");
        }
    }

    #[test]
    fn silence_is_silent() {
        for law in [Law::Mu, Law::A] {
            let mut samples = Vec::new();
            decode(law, &[law.silence()], &mut samples);
            assert!(samples[0].abs() <= 8);
        }
    }
}
