//! What is heard on one audio stream: a decoder for every payload type in use, at one sample rate for all.
//!
//! Pure. When a packet is due is `rtp::audio`'s to say; what is done with the sound is [`super::audio`]'s.

use crate::codec::g711::{G711Decoder, Law};
use crate::codec::g722::G722Decoder;
use crate::codec::opus::OpusDecoder;
use crate::codec::resample::Resampler;
use crate::engine::plan::AudioCodec;
use crate::media::audio::block_samples;
use crate::media::codec::{AudioDecoder, CodecError};

/// Sound decoded and not heard yet is at most so long: two of the longest packets.
const READY_MAX_MS: usize = 240;

/// Makes a decoder for one payload type of one stream.
pub fn decoder(codec: AudioCodec) -> Result<Box<dyn AudioDecoder>, CodecError> {
    Ok(match codec {
        AudioCodec::Pcmu => Box::new(G711Decoder::new(Law::Mu)),
        AudioCodec::Pcma => Box::new(G711Decoder::new(Law::A)),
        AudioCodec::G722 => Box::<G722Decoder>::default(),
        AudioCodec::Opus => Box::new(OpusDecoder::new()?),
    })
}

/// One payload type that has been heard.
struct Voice {
    payload_type: u8,
    codec: AudioCodec,
    decoder: Box<dyn AudioDecoder>,
    /// `None`: it has the rate of what is heard.
    resampler: Option<Resampler>,
}

/// The decoders of one stream. Each keeps its state over packets, and while another one speaks.
pub struct Hearing {
    rate: u32,
    receive: Vec<(u8, AudioCodec)>,
    voices: Vec<Voice>,
    /// Of `voices`: who spoke last, and so who fills gaps.
    last: usize,
    /// Decoded and not heard yet, at `rate`.
    ready: Vec<i16>,
    scratch: Vec<i16>,
}

impl Hearing {
    /// `rate` in Hz: that of everything taken from here. `receive`: what the peer may send.
    pub fn new(rate: u32, receive: &[(u8, AudioCodec)]) -> Self {
        Hearing {
            rate,
            receive: receive.to_vec(),
            voices: Vec::new(),
            last: 0,
            ready: Vec::with_capacity(2 * block_samples(rate)),
            scratch: Vec::new(),
        }
    }

    /// Offer and answer were renewed. Decoders whose payload type still means the same go on.
    pub fn renew(&mut self, rate: u32, receive: &[(u8, AudioCodec)]) {
        self.receive = receive.to_vec();
        let last = self.voices.get(self.last).map(|voice| voice.payload_type);
        self.voices.retain(|voice| receive.contains(&(voice.payload_type, voice.codec)));
        self.last = self.voices.iter().position(|voice| Some(voice.payload_type) == last).unwrap_or(0);
        if rate != self.rate {
            self.rate = rate;
            self.ready.clear();
            for voice in &mut self.voices {
                voice.resampler = converter(voice.decoder.sample_rate(), rate);
            }
        }
    }

    /// Samples of one block.
    fn block(&self) -> usize {
        block_samples(self.rate)
    }

    /// Whether a block can be taken without anything new.
    pub fn is_ready(&self) -> bool {
        self.ready.len() >= self.block()
    }

    /// Decodes one packet. An error: it is no sound of its codec, or its codec cannot be had; nothing is heard of it.
    pub fn packet(&mut self, payload_type: u8, payload: &[u8]) -> Result<(), CodecError> {
        self.choose(payload_type)?;
        let Some(voice) = self.voices.get_mut(self.last) else { return Ok(()) };
        append(voice, self.rate, &mut self.scratch, &mut self.ready, |decoder, out| {
            decoder.decode(payload, out)
        })?;
        let most = READY_MAX_MS * self.rate as usize / 1000;
        let excess = self.ready.len().saturating_sub(most);
        self.ready.drain(..excess);
        Ok(())
    }

    /// One block was lost. `next`: the packet behind the gap, when the gap ends with this block.
    pub fn lost(&mut self, next: Option<&[u8]>) {
        self.fill(self.block(), |decoder, samples, out| decoder.conceal(samples, next, out));
    }

    /// One block in which the sender has nothing to say.
    pub fn quiet(&mut self) {
        self.fill(self.block(), |decoder, samples, out| decoder.quiet(samples, out));
    }

    /// The next block into `block`. What is short of it is concealed.
    pub fn take(&mut self, block: &mut Vec<i16>) {
        let samples = self.block();
        let short = samples.saturating_sub(self.ready.len());
        if short > 0 {
            self.fill(short, |decoder, samples, out| decoder.conceal(samples, None, out));
        }
        block.clear();
        block.extend_from_slice(&self.ready[..samples]);
        self.ready.drain(..samples);
    }

    /// Appends `samples` of `make`, by the one who spoke last; silence when nobody has.
    fn fill(&mut self, samples: usize, make: impl FnOnce(&mut dyn AudioDecoder, usize, &mut Vec<i16>)) {
        let end = self.ready.len() + samples;
        if let Some(voice) = self.voices.get_mut(self.last) {
            let own = samples * voice.decoder.sample_rate() as usize / self.rate.max(1) as usize;
            // Conversion of made-up sound cannot fail where that of received sound does not.
            let _ = append(voice, self.rate, &mut self.scratch, &mut self.ready, |decoder, out| {
                make(decoder, own, out);
                Ok(())
            });
        }
        self.ready.resize(end, 0);
    }

    /// Finds or makes the decoder of a payload type.
    fn choose(&mut self, payload_type: u8) -> Result<(), CodecError> {
        if self.voices.get(self.last).is_some_and(|voice| voice.payload_type == payload_type) {
            return Ok(());
        }
        let known = self.voices.iter().position(|voice| voice.payload_type == payload_type);
        self.last = match known {
            Some(place) => place,
            None => {
                let codec = self.receive.iter().find(|(number, _)| *number == payload_type);
                let Some(&(_, codec)) = codec else {
                    return Err(CodecError::Broken(format!(
                        "payload type {payload_type} means nothing here"
                    )));
                };
                let decoder = decoder(codec)?;
                let resampler = converter(decoder.sample_rate(), self.rate);
                self.voices.push(Voice { payload_type, codec, decoder, resampler });
                self.voices.len() - 1
            }
        };
        Ok(())
    }
}

/// All sample rates of this box can be converted into each other.
fn converter(from: u32, to: u32) -> Option<Resampler> {
    if from == to { None } else { Resampler::new(from, to).ok() }
}

fn append(
    voice: &mut Voice,
    rate: u32,
    scratch: &mut Vec<i16>,
    ready: &mut Vec<i16>,
    make: impl FnOnce(&mut dyn AudioDecoder, &mut Vec<i16>) -> Result<(), CodecError>,
) -> Result<(), CodecError> {
    let Voice { decoder, resampler, .. } = voice;
    if decoder.sample_rate() == rate {
        return make(decoder.as_mut(), ready);
    }
    scratch.clear();
    make(decoder.as_mut(), scratch)?;
    match resampler {
        Some(resampler) => resampler.process(scratch, ready),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::network::speaking::encoder;
    use crate::engine::plan::OpusTerms;

    const ALL: [(u8, AudioCodec); 4] =
        [(0, AudioCodec::Pcmu), (8, AudioCodec::Pcma), (9, AudioCodec::G722), (96, AudioCodec::Opus)];

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len() as f64).sqrt()
    }

    /// Blocks of a tone as packets of one codec.
    fn packets(codec: AudioCodec, blocks: usize) -> Vec<Vec<u8>> {
        let rate = codec.sample_rate();
        let tone = crate::source::tone::sine(rate, 440.0, 20 * blocks as u32, 0.3);
        let mut encoder = encoder(codec, &OpusTerms::default()).unwrap();
        let packet = |block: &[i16]| {
            let mut out = Vec::new();
            encoder.encode(block, &mut out).unwrap();
            out
        };
        tone.chunks_exact(block_samples(rate)).map(packet).collect()
    }

    #[test]
    fn the_peer_may_switch_between_all_codecs_and_the_tone_goes_on_at_any_rate() {
        for rate in [8_000, 16_000, 48_000] {
            let mut hearing = Hearing::new(rate, &ALL);
            let (mut block, mut all) = (Vec::new(), Vec::new());
            for round in 0..3 {
                for (payload_type, codec) in ALL {
                    for packet in packets(codec, 25) {
                        hearing.packet(payload_type, &packet).unwrap();
                        hearing.take(&mut block);
                        assert_eq!(block.len(), block_samples(rate));
                        all.extend_from_slice(&block);
                    }
                    let heard = level(&all[all.len() - 10 * block.len()..]);
                    assert!((5_500.0..8_500.0).contains(&heard), "{rate} {round} {codec:?}: {heard}");
                }
            }
        }
    }

    #[test]
    fn gaps_are_filled_and_long_ones_fall_silent() {
        for (payload_type, codec) in ALL {
            let mut hearing = Hearing::new(48_000, &ALL);
            let mut block = Vec::new();
            for packet in packets(codec, 20) {
                hearing.packet(payload_type, &packet).unwrap();
                hearing.take(&mut block);
            }
            hearing.lost(None);
            hearing.take(&mut block);
            assert!(level(&block) > 1_500.0, "{codec:?}: {}", level(&block));
            for _ in 0..50 {
                hearing.lost(None);
                hearing.take(&mut block);
            }
            assert!(level(&block) < 60.0, "{codec:?}: {}", level(&block));
            hearing.quiet();
            hearing.take(&mut block);
            assert_eq!(level(&block), 0.0, "{codec:?}");
        }
    }

    #[test]
    fn what_nobody_agreed_on_is_an_error_and_nobody_yet_is_silence() {
        let mut hearing = Hearing::new(8_000, &ALL[..1]);
        let mut block = Vec::new();
        hearing.take(&mut block);
        assert_eq!(block, [0; 160]);
        assert!(hearing.packet(96, &[1, 2, 3]).is_err());
        hearing.lost(None);
        hearing.take(&mut block);
        assert_eq!(block, [0; 160]);
    }

    #[test]
    fn renewed_terms_keep_what_still_means_the_same() {
        let mut hearing = Hearing::new(8_000, &ALL);
        let mut block = Vec::new();
        for packet in packets(AudioCodec::Opus, 20) {
            hearing.packet(96, &packet).unwrap();
            hearing.take(&mut block);
        }
        hearing.renew(48_000, &[(96, AudioCodec::Opus), (0, AudioCodec::Pcmu)]);
        assert_eq!(hearing.voices.len(), 1);
        for packet in packets(AudioCodec::Opus, 20) {
            hearing.packet(96, &packet).unwrap();
            hearing.take(&mut block);
        }
        assert_eq!(block.len(), 960);
        hearing.renew(48_000, &[(96, AudioCodec::G722)]);
        assert!(hearing.voices.is_empty());
    }

    #[test]
    fn packets_that_come_too_many_do_not_pile_up() {
        let mut hearing = Hearing::new(8_000, &ALL);
        for packet in packets(AudioCodec::Opus, 100) {
            hearing.packet(96, &packet).unwrap();
        }
        assert!(hearing.ready.len() <= 8 * READY_MAX_MS);
    }
}
