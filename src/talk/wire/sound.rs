//! Sound of a call to a realtime provider's format and back.
//!
//! G.711 that both speak passes untouched. One resampler a direction otherwise, and none where the rates agree.

use crate::codec::g711::{self, Law};
use crate::codec::resample::Resampler;
use crate::media::codec::CodecError;
use crate::talk::realtime::{Sound, SoundFormat};

/// 16-bit samples of bytes that may be cut anywhere; `odd` keeps the half of one.
pub fn samples(bytes: Vec<u8>, odd: &mut Option<u8>) -> Vec<i16> {
    let mut all = Vec::with_capacity(bytes.len() / 2 + 1);
    let mut rest = bytes.into_iter();
    while let Some(low) = odd.take().or_else(|| rest.next()) {
        match rest.next() {
            Some(high) => all.push(i16::from_le_bytes([low, high])),
            None => {
                *odd = Some(low);
                break;
            }
        }
    }
    all
}

/// The caller's sound, on its way to the provider.
pub struct Inward {
    to: SoundFormat,
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    converted: Vec<i16>,
    bytes: Vec<u8>,
    resampled: u64,
}

impl Inward {
    pub fn new(to: SoundFormat) -> Self {
        Inward {
            to,
            resampler: None,
            samples: Vec::new(),
            converted: Vec::new(),
            bytes: Vec::new(),
            resampled: 0,
        }
    }

    /// Samples that went through a resampler.
    pub fn resampled(&self) -> u64 {
        self.resampled
    }

    /// G.711 as it came. The bytes themselves where the provider takes that law.
    pub fn payload<'a>(&'a mut self, law: Law, payload: &'a [u8]) -> Result<&'a [u8], CodecError> {
        if self.to == SoundFormat::Law(law) {
            return Ok(payload);
        }
        let mut samples = std::mem::take(&mut self.samples);
        samples.clear();
        g711::decode(law, payload, &mut samples);
        let done = self.convert(&samples, 8_000);
        self.samples = samples;
        done?;
        Ok(&self.bytes)
    }

    /// Samples at `rate`. Fails on rates nobody has.
    pub fn samples(&mut self, samples: &[i16], rate: u32) -> Result<&[u8], CodecError> {
        self.convert(samples, rate)?;
        Ok(&self.bytes)
    }

    fn convert(&mut self, samples: &[i16], rate: u32) -> Result<(), CodecError> {
        let wanted = match self.to {
            SoundFormat::Law(_) => 8_000,
            SoundFormat::Samples { rate } => rate,
        };
        self.converted.clear();
        if rate == wanted {
            self.converted.extend_from_slice(samples);
        } else {
            let fits = self.resampler.as_ref().is_some_and(|resampler| resampler.from() == rate);
            if !fits {
                self.resampler = Some(Resampler::new(rate, wanted)?);
            }
            if let Some(resampler) = &mut self.resampler {
                resampler.process(samples, &mut self.converted)?;
                self.resampled += samples.len() as u64;
            }
        }
        self.bytes.clear();
        match self.to {
            SoundFormat::Law(law) => g711::encode(law, &self.converted, &mut self.bytes),
            SoundFormat::Samples { .. } => {
                self.bytes.extend(self.converted.iter().flat_map(|sample| sample.to_le_bytes()));
            }
        }
        Ok(())
    }
}

/// The model's sound, on its way to the caller.
pub struct Outward {
    to: SoundFormat,
    resampler: Option<Resampler>,
    resampled: u64,
}

impl Outward {
    pub fn new(to: SoundFormat) -> Self {
        Outward { to, resampler: None, resampled: 0 }
    }

    pub fn resampled(&self) -> u64 {
        self.resampled
    }

    /// G.711 passes; samples come out at the call's rate.
    pub fn take(&mut self, sound: Sound) -> Result<Sound, CodecError> {
        let (from, samples) = match sound {
            Sound::Payload { law, bytes } if self.to == SoundFormat::Law(law) => {
                return Ok(Sound::Payload { law, bytes });
            }
            Sound::Payload { law, bytes } => {
                let mut samples = Vec::with_capacity(bytes.len());
                g711::decode(law, &bytes, &mut samples);
                (8_000, samples)
            }
            Sound::Samples { rate, samples } => (rate, samples),
        };
        let rate = self.rate();
        if rate == from {
            return Ok(Sound::Samples { rate, samples });
        }
        if self.resampler.as_ref().is_none_or(|resampler| resampler.from() != from) {
            self.resampler = Some(Resampler::new(from, rate)?);
        }
        let mut converted = Vec::with_capacity(samples.len() * rate as usize / from.max(1) as usize + 480);
        if let Some(resampler) = &mut self.resampler {
            resampler.process(&samples, &mut converted)?;
            self.resampled += samples.len() as u64;
        }
        Ok(Sound::Samples { rate, samples: converted })
    }

    /// What is still inside, at the end of a piece of speech.
    pub fn rest(&mut self) -> Option<Sound> {
        let mut resampler = self.resampler.take()?;
        let rate = self.rate();
        let hidden = resampler.delay() * resampler.from() as usize / rate as usize;
        let silence = vec![0; hidden + resampler.from() as usize / 50];
        let mut samples = Vec::new();
        resampler.process(&silence, &mut samples).ok()?;
        Some(Sound::Samples { rate, samples })
    }

    /// Throws away what is still inside: it belongs to an answer that was cut off.
    pub fn clear(&mut self) {
        self.resampler = None;
    }

    fn rate(&self) -> u32 {
        match self.to {
            SoundFormat::Law(_) => 8_000,
            SoundFormat::Samples { rate } => rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_passes_untouched_both_ways_without_a_resampler() {
        let bytes: Vec<u8> = (0..=255).collect();
        for law in [Law::Mu, Law::A] {
            let mut inward = Inward::new(SoundFormat::Law(law));
            assert_eq!(inward.payload(law, &bytes).expect("passed"), bytes);
            let mut outward = Outward::new(SoundFormat::Law(law));
            let sound = Sound::Payload { law, bytes: bytes.clone() };
            assert_eq!(outward.take(sound.clone()), Ok(sound));
            assert_eq!((inward.resampled(), outward.resampled()), (0, 0));
        }
    }

    #[test]
    fn a_second_of_the_call_is_a_second_for_the_provider_and_back() {
        let tone: Vec<i16> = (0..8_000).map(|n| ((f64::from(n) * 0.35).sin() * 8_000.0) as i16).collect();
        let mut inward = Inward::new(SoundFormat::Samples { rate: 16_000 });
        let mut bytes = Vec::new();
        for block in tone.chunks(160) {
            bytes.extend_from_slice(inward.samples(block, 8_000).expect("converted"));
        }
        assert!((31_000..=32_000).contains(&bytes.len()), "{}", bytes.len());
        assert_eq!(inward.resampled(), 8_000);
        let mut outward = Outward::new(SoundFormat::Samples { rate: 8_000 });
        let answer: Vec<i16> = (0..24_000).map(|n| ((f64::from(n) * 0.1).sin() * 8_000.0) as i16).collect();
        let mut heard = 0;
        for block in answer.chunks(777) {
            let sound =
                outward.take(Sound::Samples { rate: 24_000, samples: block.to_vec() }).expect("converted");
            heard += sound.duration().as_millis();
        }
        heard += outward.rest().map_or(0, |rest| rest.duration().as_millis());
        assert!((1_000..=1_060).contains(&heard), "{heard} ms: nothing of the end is lost");
        assert!(outward.rest().is_none());
    }

    #[test]
    fn another_law_is_decoded_and_coded() {
        let mut inward = Inward::new(SoundFormat::Law(Law::A));
        let silence = inward.payload(Law::Mu, &[Law::Mu.silence(); 160]).expect("coded").to_vec();
        assert_eq!(silence.len(), 160);
        let mut samples = Vec::new();
        g711::decode(Law::A, &silence, &mut samples);
        assert!(samples.iter().all(|sample| sample.abs() <= 8));
        assert_eq!(inward.resampled(), 0);
    }
}
