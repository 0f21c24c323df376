//! 16-bit little-endian sound as it arrives: cut anywhere, at another rate, or in a WAV file though plain samples were
//! asked for.

use crate::codec::resample::Resampler;
use crate::codec::wav;
use crate::talk::message::Failure;

/// Five minutes at 48 kHz: more is a fault of a provider.
const SAMPLES_MAX: usize = 5 * 60 * 48_000;
/// A header is looked for in so many bytes.
const HEADER_MAX: usize = 64 << 10;

enum Form {
    /// Not known yet: what has come.
    Start(Vec<u8>),
    Samples,
}

/// One stream of sound.
pub struct Pcm {
    form: Form,
    /// The first half of a sample.
    half: Option<u8>,
    rate: u32,
    wanted: u32,
    /// Made when the rate is known; none where it is the one wanted.
    resampler: Option<Resampler>,
    samples: Vec<i16>,
    count: usize,
}

impl Pcm {
    /// Samples are taken to be at `rate` Hz unless a header says otherwise, and come out at `wanted` Hz.
    pub fn new(rate: u32, wanted: u32) -> Self {
        let (form, samples) = (Form::Start(Vec::new()), Vec::new());
        Pcm { form, half: None, rate, wanted, resampler: None, samples, count: 0 }
    }

    /// Takes the next bytes and appends what they make.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<i16>) -> Result<(), Failure> {
        let Form::Start(start) = &mut self.form else { return self.convert(bytes, out) };
        start.extend_from_slice(bytes);
        let sound = match wav::is_wav(start) {
            None => return Ok(()),
            Some(false) => std::mem::take(start),
            Some(true) => match wav::header(start).map_err(|why| Failure::Garbled(why.to_owned()))? {
                None if start.len() > HEADER_MAX => {
                    return Err(Failure::Garbled("no sound in the WAV file".to_owned()));
                }
                None => return Ok(()),
                Some(header) => {
                    self.rate = header.rate;
                    start.split_off(header.begins.min(start.len()))
                }
            },
        };
        self.form = Form::Samples;
        if self.rate != self.wanted {
            let made = Resampler::new(self.rate, self.wanted);
            self.resampler = Some(made.map_err(|error| Failure::Garbled(error.to_string()))?);
        }
        self.convert(&sound, out)
    }

    fn convert(&mut self, bytes: &[u8], out: &mut Vec<i16>) -> Result<(), Failure> {
        let (before, mut bytes) = (out.len(), bytes);
        self.samples.clear();
        if let (Some(half), Some((first, rest))) = (self.half, bytes.split_first()) {
            self.samples.push(i16::from_le_bytes([half, *first]));
            (self.half, bytes) = (None, rest);
        }
        let (pairs, odd) = bytes.as_chunks::<2>();
        self.samples.extend(pairs.iter().map(|pair| i16::from_le_bytes(*pair)));
        self.half = self.half.or(odd.first().copied());
        match &mut self.resampler {
            None => out.extend_from_slice(&self.samples),
            Some(resampler) => {
                let done = resampler.process(&self.samples, out);
                done.map_err(|error| Failure::Garbled(error.to_string()))?;
            }
        }
        self.count += out.len() - before;
        if self.count > SAMPLES_MAX {
            return Err(Failure::Garbled("more than five minutes of sound for a sentence".to_owned()));
        }
        Ok(())
    }

    /// The end: what the converter held back. Half a sample is nothing.
    pub fn finish(&mut self, out: &mut Vec<i16>) -> Result<(), Failure> {
        if let Some(resampler) = &mut self.resampler {
            // The converter holds back its delay; as much silence pushes the end out.
            let tail = vec![0; self.rate as usize / 50];
            resampler.process(&tail, out).map_err(|error| Failure::Garbled(error.to_string()))?;
        }
        Ok(())
    }

    /// Whether samples leave as they came.
    pub fn is_passed_through(&self) -> bool {
        self.resampler.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }

    fn read(sound: &[u8], cut: usize, rate: u32, wanted: u32) -> Result<Vec<i16>, Failure> {
        let (mut pcm, mut out) = (Pcm::new(rate, wanted), Vec::new());
        for piece in sound.chunks(cut) {
            pcm.push(piece, &mut out)?;
        }
        pcm.finish(&mut out)?;
        Ok(out)
    }

    #[test]
    fn samples_are_whole_wherever_bytes_are_cut() {
        let samples: Vec<i16> = (-500..500).map(|n| n * 60).collect();
        let mut odd = bytes(&samples);
        odd.push(0x7f);
        for cut in [1, 2, 3, 7, 44, 45, 999, 5_000] {
            assert_eq!(read(&odd, cut, 8_000, 8_000), Ok(samples.clone()), "{cut}");
            assert_eq!(
                read(&wav::write(8_000, &samples), cut, 24_000, 8_000),
                Ok(samples.clone()),
                "WAV, {cut}"
            );
        }
    }

    #[test]
    fn a_tone_at_another_rate_keeps_its_length_and_level() {
        let tone: Vec<i16> = (0..24_000).map(|n| ((f64::from(n) * 0.115_2).sin() * 9_000.0) as i16).collect();
        for (sound, rate) in [(bytes(&tone), 24_000), (wav::write(24_000, &tone), 16_000)] {
            let out = read(&sound, 1_001, rate, 8_000).expect("sound");
            assert!((7_950..=8_200).contains(&out.len()), "{}", out.len());
            let peak = out[2_000..6_000].iter().map(|s| s.abs()).max();
            assert!(peak.is_some_and(|peak| (8_700..9_300).contains(&peak)), "{peak:?}");
        }
    }

    #[test]
    fn endless_sound_is_refused() {
        let mut pcm = Pcm::new(8_000, 8_000);
        let (second, mut out) = (vec![1; 2 << 20], Vec::new());
        let end = (0..30).find_map(|_| {
            out.clear();
            pcm.push(&second, &mut out).err()
        });
        assert!(end.is_some());
    }
}
