//! What is heard on one audio stream: a decoder for every payload type in use, at one sample rate and one pace for all.
//!
//! Pure. What is due, lost or to be hurried is `rtp::audio`'s to say; what is done with the sound is [`super::audio`]'s.

use std::time::Instant;

use crate::codec::comfort::ComfortNoise;
use crate::codec::g711::{G711Decoder, Law};
use crate::codec::g722::G722Decoder;
use crate::codec::opus::OpusDecoder;
use crate::codec::resample::Resampler;
use crate::codec::stretch::{Stretch, StretchFigures};
use crate::engine::plan::AudioCodec;
use crate::media::audio::block_samples;
use crate::media::codec::{AudioDecoder, CodecError};
use crate::rtp::audio::{AudioStream, Playout};
use crate::rtp::jitter::Pace;

/// Steps of one block: every packet that may wait, and what is concealed between them.
const STEPS_MAX: usize = 160;
/// A converter gives sound in pieces: it is asked so often for what it holds back.
const FILLS_MAX: usize = 4;

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
    ready: Stretch,
    scratch: Vec<i16>,
    /// What the sender says its silence sounds like, and whether that is heard now.
    noise: ComfortNoise,
    noisy: bool,
}

impl Hearing {
    /// `rate` in Hz: that of everything taken from here. `receive`: what the peer may send.
    pub fn new(rate: u32, receive: &[(u8, AudioCodec)]) -> Self {
        Hearing {
            rate,
            receive: receive.to_vec(),
            voices: Vec::new(),
            last: 0,
            ready: Stretch::new(rate),
            scratch: Vec::new(),
            noise: ComfortNoise::default(),
            noisy: false,
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
            self.ready = Stretch::new(rate);
            for voice in &mut self.voices {
                voice.resampler = converter(voice.decoder.sample_rate(), rate);
            }
        }
    }

    /// Samples of one block.
    fn block(&self) -> usize {
        block_samples(self.rate)
    }

    /// How much was left out and put in, together.
    pub fn stretched_ms(&self) -> u64 {
        let StretchFigures { left_out, put_in } = self.ready.figures();
        (left_out + put_in) * 1000 / u64::from(self.rate)
    }

    /// Fills the block of this moment with what `machine` has for it. `false`: nobody speaks.
    pub fn play(&mut self, machine: &mut AudioStream, now: Instant, block: &mut Vec<i16>) -> bool {
        let (rate, units) = (u64::from(self.rate), u64::from(machine.playout_rate()));
        let samples = |ticks: u32| (u64::from(ticks) * rate / units) as usize;
        block.resize(self.block(), 0);
        for _ in 0..STEPS_MAX {
            let waits = self.ready.buffered();
            let (mut broken, mut repaired) = (false, 0);
            match machine.playout(now, (waits as u64 * units / rate) as u32) {
                Playout::Packet { payload_type, payload, samples: ticks, skip, .. } => {
                    broken = self.packet(payload_type, payload).is_err();
                    if broken {
                        let _ = self.lost(samples(ticks), None);
                    }
                    self.ready.skip(waits, samples(skip));
                }
                Playout::Lost { samples: ticks, following } => {
                    repaired = self.lost(samples(ticks), following);
                }
                Playout::Play(pace) => {
                    self.stretch(pace, samples);
                    self.ready.take(block);
                    return true;
                }
                Playout::Quiet => {
                    if let Some(noise) = machine.take_comfort_noise() {
                        self.noise.describe(noise.payload());
                        self.noisy = true;
                    }
                    self.quiet();
                    self.ready.take(block);
                    return waits > 0;
                }
            }
            if broken {
                machine.undecodable();
            }
            if repaired > 0 {
                machine.repaired((repaired as u64 * units / rate) as u32);
            }
        }
        self.ready.take(block);
        true
    }

    fn stretch(&mut self, pace: Pace, samples: impl Fn(u32) -> usize) {
        let block = self.block();
        match pace {
            Pace::Steady => 0,
            Pace::Faster { at_most, urgent } => self.ready.shorten(samples(at_most), block, urgent),
            Pace::Slower => self.ready.lengthen(),
        };
    }

    /// Decodes one packet. An error: it is no sound of its codec, or its codec cannot be had; nothing is heard of it.
    fn packet(&mut self, payload_type: u8, payload: &[u8]) -> Result<(), CodecError> {
        self.choose(payload_type)?;
        let Some(voice) = self.voices.get_mut(self.last) else { return Ok(()) };
        let from = self.ready.buffered();
        append(voice, self.rate, &mut self.scratch, self.ready.input(), |decoder, out| {
            decoder.decode(payload, out)
        })?;
        if std::mem::take(&mut self.noisy) {
            self.noise.leave(self.rate, &mut self.ready.input()[from..]);
        }
        Ok(())
    }

    /// So many samples were lost. `next`: the packet behind them, when it may hold them. Gives how many it did hold.
    fn lost(&mut self, samples: usize, next: Option<&[u8]>) -> usize {
        let voice = self.voices.get(self.last).filter(|voice| voice.codec == AudioCodec::Opus);
        let own_rate = voice.map_or(self.rate, |voice| voice.decoder.sample_rate()) as usize;
        let next = next.filter(|_| voice.is_some());
        let mut held = 0;
        self.fill(samples, |decoder, samples, out| held += decoder.conceal(samples, next, out));
        held * self.rate as usize / own_rate
    }

    /// The sender has nothing to say: what is short of a block is silence, or the noise it announced.
    fn quiet(&mut self) {
        let waits = self.ready.buffered();
        let short = self.block().saturating_sub(waits);
        if self.noisy && !self.noise.is_silent() {
            let input = self.ready.input();
            input.resize(waits + short, 0);
            return self.noise.fill(self.rate, &mut input[waits..]);
        }
        self.fill(short, |decoder, samples, out| decoder.quiet(samples, out));
        // Silence is better begun by whoever knows how to fade.
        if self.ready.input()[waits..].iter().all(|sample| *sample == 0) {
            self.ready.skip(waits, short);
        }
    }

    /// Appends `samples` or a little more of `make`, by the one who spoke last; silence when nobody has.
    fn fill(&mut self, samples: usize, mut make: impl FnMut(&mut dyn AudioDecoder, usize, &mut Vec<i16>)) {
        let end = self.ready.buffered() + samples;
        for _ in 0..FILLS_MAX {
            let short = end.saturating_sub(self.ready.buffered());
            let Some(voice) = self.voices.get_mut(self.last).filter(|_| short > 0) else { break };
            let own = (short * voice.decoder.sample_rate() as usize).div_ceil(self.rate.max(1) as usize);
            // Conversion of made-up sound cannot fail where that of received sound does not.
            let _ = append(voice, self.rate, &mut self.scratch, self.ready.input(), |decoder, out| {
                make(decoder, own, out);
                Ok(())
            });
        }
        if self.ready.buffered() < end {
            self.ready.input().resize(end, 0);
        }
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

    fn take(hearing: &mut Hearing, block: &mut Vec<i16>) {
        block.resize(block_samples(hearing.rate), 0);
        hearing.ready.take(block);
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
                        take(&mut hearing, &mut block);
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
                take(&mut hearing, &mut block);
            }
            hearing.lost(block_samples(hearing.rate), None);
            take(&mut hearing, &mut block);
            assert!(level(&block) > 1_500.0, "{codec:?}: {}", level(&block));
            for _ in 0..50 {
                hearing.lost(block_samples(hearing.rate), None);
                take(&mut hearing, &mut block);
            }
            assert!(level(&block) < 60.0, "{codec:?}: {}", level(&block));
            hearing.quiet();
            take(&mut hearing, &mut block);
            assert_eq!(level(&block), 0.0, "{codec:?}");
        }
    }

    #[test]
    fn what_nobody_agreed_on_is_an_error_and_nobody_yet_is_silence() {
        let mut hearing = Hearing::new(8_000, &ALL[..1]);
        let mut block = Vec::new();
        take(&mut hearing, &mut block);
        assert_eq!(block, [0; 160]);
        assert!(hearing.packet(96, &[1, 2, 3]).is_err());
        hearing.lost(block_samples(hearing.rate), None);
        take(&mut hearing, &mut block);
        assert_eq!(block, [0; 160]);
    }

    #[test]
    fn renewed_terms_keep_what_still_means_the_same() {
        let mut hearing = Hearing::new(8_000, &ALL);
        let mut block = Vec::new();
        for packet in packets(AudioCodec::Opus, 20) {
            hearing.packet(96, &packet).unwrap();
            take(&mut hearing, &mut block);
        }
        hearing.renew(48_000, &[(96, AudioCodec::Opus), (0, AudioCodec::Pcmu)]);
        assert_eq!(hearing.voices.len(), 1);
        for packet in packets(AudioCodec::Opus, 20) {
            hearing.packet(96, &packet).unwrap();
            take(&mut hearing, &mut block);
        }
        assert_eq!(block.len(), 960);
        hearing.renew(48_000, &[(96, AudioCodec::G722)]);
        assert!(hearing.voices.is_empty());
    }

    #[test]
    #[ignore = "a measurement: cargo nextest run --run-ignored only -E 'test(what_an_echo_costs)' --no-capture"]
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    fn what_an_echo_costs() {
        const SECONDS: usize = 20;
        for codec in [AudioCodec::Pcmu, AudioCodec::G722, AudioCodec::Opus] {
            let rate = codec.sample_rate();
            let voice: Vec<i16> = (0..rate as usize * SECONDS)
                .map(|n| {
                    let t = n as f64 / f64::from(rate);
                    let sum: f64 = (1..12).map(|k| (880.0 * t * f64::from(k)).sin() / f64::from(k)).sum();
                    (sum * 4_000.0 * (0.6 + 0.4 * (20.0 * t).sin())) as i16
                })
                .collect();
            let mut encoder = encoder(codec, &OpusTerms::default()).expect("an encoder");
            let mut decoder = decoder(codec).expect("a decoder");
            let (mut coded, mut heard) = (Vec::new(), Vec::new());
            let start = Instant::now();
            for block in voice.chunks_exact(rate as usize / 50) {
                coded.clear();
                heard.clear();
                encoder.encode(block, &mut coded).expect("coded");
                decoder.decode(&coded, &mut heard).expect("decoded");
            }
            let share = start.elapsed().as_secs_f64() / SECONDS as f64 * 100.0;
            eprintln!("{}: decoding and encoding one call is {share:.3} % of a core", codec.name());
        }
    }
}
