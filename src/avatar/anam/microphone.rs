//! What the caller says, on its way up: 48 kHz Opus, 20 ms a packet, at most a second of it.
//!
//! No clock, no socket. When packets may go is known elsewhere.

use std::collections::VecDeque;

use crate::codec::opus::{OpusEncoder, OpusSettings};
use crate::codec::resample::Resampler;
use crate::media::codec::{AudioEncoder as _, CodecError};

/// Hz and samples of a packet.
const RATE: u32 = 48_000;
const BLOCK: usize = 960;
/// Packets that wait: a second. What comes more makes the oldest go.
const WAITING_MAX: usize = 50;

/// The way up.
pub struct Microphone {
    resampler: Option<Resampler>,
    encoder: OpusEncoder,
    samples: Vec<i16>,
    waiting: VecDeque<Packet>,
    /// RTP time of the next packet.
    time: u64,
    dropped: u64,
}

/// A packet of Opus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// RTP time, 48 kHz.
    pub time: u64,
    pub data: Vec<u8>,
}

impl Microphone {
    pub fn new() -> Result<Self, CodecError> {
        Ok(Microphone {
            resampler: None,
            encoder: OpusEncoder::new(&OpusSettings::default())?,
            samples: Vec::with_capacity(2 * BLOCK),
            waiting: VecDeque::with_capacity(WAITING_MAX),
            time: 0,
            dropped: 0,
        })
    }

    /// Packets that were never sent.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes sound, mono. Fails on rates nobody has.
    pub fn take(&mut self, samples: &[i16], rate: u32) -> Result<(), CodecError> {
        if self.resampler.as_ref().is_none_or(|resampler| resampler.from() != rate) {
            self.resampler = Some(Resampler::new(rate, RATE)?);
            self.samples.clear();
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.process(samples, &mut self.samples)?;
        }
        let mut used = 0;
        while let Some(block) = self.samples.get(used..used + BLOCK) {
            let mut data = Vec::with_capacity(200);
            self.encoder.encode(block, &mut data)?;
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
                self.dropped += 1;
            }
            self.waiting.push_back(Packet { time: self.time, data });
            self.time += BLOCK as u64;
            used += BLOCK;
        }
        self.samples.drain(..used);
        Ok(())
    }

    /// The next packet, in the order of speech.
    pub fn poll(&mut self) -> Option<Packet> {
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::opus::OpusDecoder;
    use crate::media::codec::AudioDecoder as _;

    fn tone(rate: u32, ms: usize) -> Vec<i16> {
        let step = 440.0 * std::f64::consts::TAU / f64::from(rate);
        (0..rate as usize * ms / 1_000).map(|n| ((n as f64 * step).sin() * 8_000.0) as i16).collect()
    }

    #[test]
    fn the_tone_of_every_call_goes_up_at_its_own_pitch() {
        for rate in [8_000, 16_000, 48_000] {
            let mut microphone = Microphone::new().expect("an encoder");
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
            let mut times = Vec::new();
            for block in tone(rate, 1_000).chunks(rate as usize / 50) {
                microphone.take(block, rate).expect("taken");
                while let Some(packet) = microphone.poll() {
                    decoder.decode(&packet.data, &mut out).expect("sound");
                    times.push(packet.time);
                }
            }
            assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 960) && times.len() >= 48, "{rate}");
            let middle = &out[out.len() / 4..out.len() * 3 / 4];
            let crossings = middle.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count() as f64;
            let hz = crossings / 2.0 * 48_000.0 / middle.len() as f64;
            assert!((hz - 440.0).abs() < 5.0, "{rate}: {hz} Hz");
        }
    }

    #[test]
    fn what_nobody_takes_is_bounded_by_a_second_and_the_oldest_goes() {
        let mut microphone = Microphone::new().expect("an encoder");
        microphone.take(&tone(48_000, 3_000), 48_000).expect("taken");
        assert_eq!((microphone.waiting.len(), microphone.dropped()), (WAITING_MAX, 100));
        assert_eq!(microphone.poll().map(|packet| packet.time), Some(100 * 960));
        assert!(microphone.take(&[0; 10], 7).is_err());
    }
}
