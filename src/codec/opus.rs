//! Opus (RFC 6716) by libopus: mono, 48 kHz, with forward error correction and discontinuous transmission.
//!
//! How it travels in RTP is RFC 7587; what the peer asked for in SDP comes as [`OpusSettings`]. Packets of two channels
//! are decoded to one. libopus fills gaps itself and continues a pause in its background noise, so [`super::conceal`] is
//! not used.

use std::ffi::{CStr, c_int};
use std::ptr::NonNull;

use opusic_sys as ffi;

use crate::codec::ffmpeg::broken;
use crate::media::codec::{AudioDecoder, AudioEncoder, CodecError};

/// Hz, in RTP and in the sound.
pub const RATE: u32 = 48_000;
/// 120 ms, the longest packet (RFC 6716 §3.2).
const PACKET_MAX: usize = 5_760;
/// Sound that ends without a pause fades out over 10 ms.
const FADE: usize = 480;
/// libopus goes on smoothly over a gap in steps of 10 ms. It takes steps of 2.5 ms too, but then the sound may jump from
/// each to the next: what grows too loud is cut to nothing at once.
const STEP: usize = 480;
/// Larger packets would not fit where everything passes.
const BYTES_MAX: usize = 1_200;
/// Packets of so few bytes only say that the pause goes on (RFC 7587 §3.1.3).
const PAUSE_BYTES: usize = 2;
/// The bit of a packet's first byte that all modes without SILK have (RFC 6716 §3.1).
const CELT: u8 = 0x80;
/// A pause without an update of its noise for this long is silence: senders refresh it every 400 ms.
const NOISE_MAX: usize = RATE as usize * 2;

/// How one stream is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusSettings {
    /// Bits a second, 6,000 to 510,000, and as many while packets are lost and `fec` repeats them.
    pub bitrate: u32,
    pub repeating_bitrate: u32,
    /// The highest rate in Hz the receiver plays.
    pub max_playback_rate: u32,
    /// Adds what helps over lost packets, as much as [`AudioEncoder::set_loss`] makes useful.
    pub fec: bool,
    /// Silence is not sent.
    pub dtx: bool,
    /// Every packet has the same size.
    pub constant: bool,
    /// 0 to 10: quality for CPU.
    pub complexity: u8,
}

impl Default for OpusSettings {
    fn default() -> Self {
        OpusSettings {
            bitrate: 32_000,
            repeating_bitrate: 40_000,
            max_playback_rate: RATE,
            fec: false,
            dtx: false,
            constant: false,
            complexity: 5,
        }
    }
}

fn failed(what: &str, code: c_int) -> CodecError {
    // SAFETY: gives a pointer to a static text for every code.
    let text = unsafe { CStr::from_ptr(ffi::opus_strerror(code)) };
    broken(format!("Opus, {what}: {}", text.to_string_lossy()))
}

/// One stream's decoder.
pub struct OpusDecoder {
    state: NonNull<ffi::OpusDecoder>,
    /// The sender pauses, and its background noise goes on: samples since it was last told of.
    noise: Option<usize>,
    /// The last packet was of CELT alone: what the next one repeats of it means nothing to libopus.
    celt: bool,
    /// Something is heard that silence would cut off.
    rings: bool,
    /// Made of a gap and not asked for yet: libopus works in whole steps, and what follows goes on where they end.
    ahead: Vec<i16>,
}

// SAFETY: libopus keeps no thread-local state; the pointer is owned alone.
unsafe impl Send for OpusDecoder {}

impl OpusDecoder {
    pub fn new() -> Result<Self, CodecError> {
        let mut code = ffi::OPUS_OK;
        // SAFETY: plain numbers and a pointer to a local.
        let state = unsafe { ffi::opus_decoder_create(RATE as i32, 1, &raw mut code) };
        let state = NonNull::new(state).filter(|_| code == ffi::OPUS_OK);
        let state = state.ok_or_else(|| failed("a decoder", code))?;
        Ok(OpusDecoder { state, noise: None, celt: false, rings: false, ahead: Vec::with_capacity(STEP) })
    }

    /// Appends up to `samples`, a multiple of [`STEP`] for gaps. No payload: a gap. Gives how many.
    fn run(
        &mut self,
        payload: Option<&[u8]>,
        samples: usize,
        fec: bool,
        out: &mut Vec<i16>,
    ) -> Result<usize, c_int> {
        let from = out.len();
        out.resize(from + samples, 0);
        let (data, length) = payload.map_or((std::ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        // SAFETY: `data` holds `length` bytes or is null with length 0; the vector holds `samples` behind `from`.
        let made = unsafe {
            let into = out.as_mut_ptr().add(from);
            ffi::opus_decode(self.state.as_ptr(), data, length, into, samples as c_int, c_int::from(fec))
        };
        let count = usize::try_from(made).map_err(|_| made);
        out.truncate(from + count.unwrap_or(0).min(samples));
        count
    }

    /// Appends exactly `samples` of what libopus makes of a gap, with the help of the packet behind it. Gives how many
    /// that packet held.
    fn fill(&mut self, samples: usize, next: Option<&[u8]>, out: &mut Vec<i16>) -> usize {
        let (end, held) = (out.len() + samples, next.map_or(0, |next| self.held_of(next)));
        let mut repaired = 0;
        out.append(&mut self.ahead);
        while out.len() < end {
            let step = ((end - out.len()).div_ceil(STEP) * STEP).min(PACKET_MAX);
            // libopus wants the whole rest of the gap at once, and fills what the packet cannot itself.
            let last = out.len() + step >= end;
            let mended =
                next.is_some_and(|next| last && matches!(self.run(Some(next), step, true, out), Ok(1..)));
            // Where the gap is shorter than a packet, it is made up after all.
            if mended && step >= held {
                repaired = held;
            }
            if !mended && !matches!(self.run(None, step, false, out), Ok(1..)) {
                break;
            }
        }
        self.ahead.extend(out.drain(end.min(out.len())..));
        out.resize(end, 0);
        repaired
    }

    /// How much of what came before it a packet can hold once more: its frame. Nothing where either mode is CELT alone.
    fn held_of(&self, packet: &[u8]) -> usize {
        match packet.first() {
            Some(first) if !self.celt && first & CELT == 0 => {
                // SAFETY: only the first byte is read.
                let frame = unsafe { ffi::opus_packet_get_samples_per_frame(packet.as_ptr(), RATE as i32) };
                usize::try_from(frame).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

impl Drop for OpusDecoder {
    fn drop(&mut self) {
        // SAFETY: made by opus_decoder_create, ended once.
        unsafe { ffi::opus_decoder_destroy(self.state.as_ptr()) };
    }
}

impl AudioDecoder for OpusDecoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), CodecError> {
        if payload.is_empty() {
            return Err(broken("Opus: an empty packet".to_owned()));
        }
        self.noise = (payload.len() <= PAUSE_BYTES).then_some(0);
        self.rings = true;
        // The packet begins where they end.
        out.append(&mut self.ahead);
        self.run(Some(payload), PACKET_MAX, false, out).map_err(|code| failed("a packet", code))?;
        self.celt = payload[0] & CELT != 0;
        Ok(())
    }

    fn conceal(&mut self, samples: usize, next: Option<&[u8]>, out: &mut Vec<i16>) -> usize {
        self.fill(samples, next.filter(|next| !next.is_empty()), out)
    }

    fn quiet(&mut self, samples: usize, out: &mut Vec<i16>) {
        match self.noise.filter(|since| *since < NOISE_MAX) {
            Some(since) => {
                self.noise = Some(since + samples);
                self.fill(samples, None, out);
            }
            None => {
                let from = out.len();
                if std::mem::take(&mut self.rings) {
                    self.fill(samples.min(FADE), None, out);
                    self.ahead.clear();
                    for (at, sample) in out[from..].iter_mut().enumerate() {
                        *sample = (i32::from(*sample) * (FADE - at) as i32 / FADE as i32) as i16;
                    }
                }
                out.resize(from + samples, 0);
            }
        }
    }
}

/// One stream's encoder.
pub struct OpusEncoder {
    state: NonNull<ffi::OpusEncoder>,
    loss: u8,
    /// Without and with packets repeated.
    bitrates: [c_int; 2],
}

// SAFETY: as for the decoder.
unsafe impl Send for OpusEncoder {}

impl OpusEncoder {
    pub fn new(settings: &OpusSettings) -> Result<Self, CodecError> {
        let mut code = ffi::OPUS_OK;
        // SAFETY: plain numbers and a pointer to a local.
        let state =
            unsafe { ffi::opus_encoder_create(RATE as i32, 1, ffi::OPUS_APPLICATION_VOIP, &raw mut code) };
        let state = NonNull::new(state).filter(|_| code == ffi::OPUS_OK);
        let state = state.ok_or_else(|| failed("an encoder", code))?;
        let bits = |bitrate: u32| bitrate.clamp(6_000, 510_000) as c_int;
        let repeating = if settings.fec { settings.repeating_bitrate } else { settings.bitrate };
        let bitrates = [bits(settings.bitrate), bits(repeating)];
        let mut encoder = OpusEncoder { state, loss: 0, bitrates };
        let bandwidth = match settings.max_playback_rate {
            0..=8_000 => ffi::OPUS_BANDWIDTH_NARROWBAND,
            8_001..=12_000 => ffi::OPUS_BANDWIDTH_MEDIUMBAND,
            12_001..=16_000 => ffi::OPUS_BANDWIDTH_WIDEBAND,
            16_001..=24_000 => ffi::OPUS_BANDWIDTH_SUPERWIDEBAND,
            24_001.. => ffi::OPUS_BANDWIDTH_FULLBAND,
        };
        for (request, value) in [
            (ffi::OPUS_SET_BITRATE_REQUEST, bitrates[0]),
            (ffi::OPUS_SET_MAX_BANDWIDTH_REQUEST, bandwidth),
            (ffi::OPUS_SET_COMPLEXITY_REQUEST, c_int::from(settings.complexity.min(10))),
            (ffi::OPUS_SET_INBAND_FEC_REQUEST, c_int::from(settings.fec)),
            (ffi::OPUS_SET_DTX_REQUEST, c_int::from(settings.dtx)),
            (ffi::OPUS_SET_VBR_REQUEST, c_int::from(!settings.constant)),
            (ffi::OPUS_SET_SIGNAL_REQUEST, ffi::OPUS_AUTO),
        ] {
            encoder.set(request, value)?;
        }
        Ok(encoder)
    }

    fn set(&mut self, request: c_int, value: c_int) -> Result<(), CodecError> {
        // SAFETY: every request given here takes one number.
        match unsafe { ffi::opus_encoder_ctl(self.state.as_ptr(), request, value) } {
            ffi::OPUS_OK => Ok(()),
            code => Err(failed(&format!("setting {request} to {value}"), code)),
        }
    }
}

impl Drop for OpusEncoder {
    fn drop(&mut self) {
        // SAFETY: made by opus_encoder_create, ended once.
        unsafe { ffi::opus_encoder_destroy(self.state.as_ptr()) };
    }
}

impl AudioEncoder for OpusEncoder {
    fn sample_rate(&self) -> u32 {
        RATE
    }

    /// `samples`: 10, 20, 40 or 60 ms.
    fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), CodecError> {
        let from = out.len();
        out.resize(from + BYTES_MAX, 0);
        let count = c_int::try_from(samples.len()).unwrap_or(c_int::MAX);
        // SAFETY: `samples` holds `count`, the vector holds BYTES_MAX behind `from`.
        let made = unsafe {
            let into = out.as_mut_ptr().add(from);
            ffi::opus_encode(self.state.as_ptr(), samples.as_ptr(), count, into, BYTES_MAX as i32)
        };
        let made = usize::try_from(made).map_err(|_| failed("a packet", made));
        let length = made.as_ref().copied().unwrap_or(0);
        out.truncate(from + if length <= PAUSE_BYTES { 0 } else { length });
        made.map(|_| ())
    }

    fn set_loss(&mut self, percent: u8) {
        let percent = percent.min(100);
        if percent != std::mem::replace(&mut self.loss, percent) {
            // Cannot fail for a percentage and for what was clamped.
            let _ = self.set(ffi::OPUS_SET_PACKET_LOSS_PERC_REQUEST, c_int::from(percent));
            let _ = self.set(ffi::OPUS_SET_BITRATE_REQUEST, self.bitrates[usize::from(percent > 0)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const BLOCK: usize = 960;

    /// Something like a voice: pitch glides, syllables come and go.
    fn voice(blocks: usize) -> Vec<i16> {
        let mut phase = 0.0_f64;
        (0..blocks * BLOCK)
            .map(|n| {
                let t = n as f64 / f64::from(RATE);
                phase += std::f64::consts::TAU * (140.0 + 30.0 * (5.0 * t).sin()) / f64::from(RATE);
                let tone: f64 = (1..12).map(|k| (phase * f64::from(k)).sin() / f64::from(k)).sum();
                (tone * 5_000.0 * (0.6 + 0.4 * (20.0 * t).sin())) as i16
            })
            .collect()
    }

    fn level(samples: &[i16]) -> f64 {
        (samples.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>() / samples.len().max(1) as f64).sqrt()
    }

    fn coded(settings: &OpusSettings, loss: u8, samples: &[i16], block: usize) -> Vec<Vec<u8>> {
        let mut encoder = OpusEncoder::new(settings).expect("an encoder");
        encoder.set_loss(loss);
        let packet = |block: &[i16]| {
            let mut out = Vec::new();
            encoder.encode(block, &mut out).expect("coded");
            out
        };
        samples.chunks_exact(block).map(packet).collect()
    }

    /// How alike two runs are, 0 to 1.
    fn alike(a: &[i16], b: &[i16]) -> f64 {
        let product =
            |a: &[i16], b: &[i16]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        product(a, b) / (product(a, a) * product(b, b)).sqrt().max(1.0)
    }

    #[test]
    fn sound_goes_through_in_packets_of_every_length() {
        for block in [480, 960, 1_920, 2_880] {
            let packets = coded(&OpusSettings::default(), 0, &voice(60), block);
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
            for packet in &packets {
                decoder.decode(packet, &mut out).expect("sound");
            }
            assert_eq!(out.len(), 60 * BLOCK);
            let share = level(&out[BLOCK * 10..]) / level(&voice(60)[BLOCK * 10..]);
            assert!((0.8..1.2).contains(&share), "{block}: {share}");
            let bits = packets.iter().map(Vec::len).sum::<usize>() * 8;
            assert!((20_000.0..45_000.0).contains(&(bits as f64 / 1.2)), "{block}: {bits} bits in 1.2 s");
        }
    }

    #[test]
    fn what_the_next_packet_repeats_is_nearer_the_truth_than_a_guess() {
        let settings = OpusSettings { fec: true, max_playback_rate: 16_000, ..Default::default() };
        let packets = coded(&settings, 20, &voice(100), BLOCK);
        let decoded = |mend: &dyn Fn(&mut OpusDecoder, usize, &mut Vec<i16>)| {
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
            for (n, packet) in packets.iter().enumerate() {
                if n % 7 == 6 {
                    mend(&mut decoder, n, &mut out);
                } else {
                    decoder.decode(packet, &mut out).expect("sound");
                }
            }
            assert_eq!(out.len(), 100 * BLOCK);
            out
        };
        let whole = decoded(&|decoder, n, out| decoder.decode(&packets[n], out).expect("sound"));
        let guessed = decoded(&|decoder, _, out| assert_eq!(decoder.conceal(BLOCK, None, out), 0));
        let mended = decoded(&|decoder, n, out| {
            assert_eq!(decoder.conceal(BLOCK, packets.get(n + 1).map(Vec::as_slice), out), BLOCK);
        });
        let at_losses = |other: &[i16]| {
            let places = (20..98).filter(|n| n % 7 == 6).map(|n| n * BLOCK..(n + 1) * BLOCK);
            let all: Vec<f64> = places.map(|at| alike(&whole[at.clone()], &other[at])).collect();
            all.iter().sum::<f64>() / all.len() as f64
        };
        let (guess, mend) = (at_losses(&guessed), at_losses(&mended));
        assert!(mend > 0.75 && mend > guess + 0.1, "guessed {guess:.3}, mended {mend:.3}");
    }

    #[test]
    fn what_is_said_to_be_taken_from_the_next_packet_is_taken_from_there() {
        let repeating = OpusSettings { fec: true, max_playback_rate: 16_000, ..Default::default() };
        let speech = coded(&repeating, 20, &voice(60), BLOCK);
        let music = coded(&OpusSettings { bitrate: 128_000, ..Default::default() }, 0, &voice(60), BLOCK);
        assert!(music[40][0] & CELT != 0 && speech[40][0] & CELT == 0);
        let taken = |before: &[Vec<u8>], samples: usize, next: Option<&Vec<u8>>| {
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
            for packet in before {
                decoder.decode(packet, &mut out).expect("sound");
            }
            out.clear();
            let repaired = decoder.conceal(samples, next.map(Vec::as_slice), &mut out);
            (repaired, out)
        };
        let differs = |n: &usize| {
            let before = &speech[..*n - 1];
            taken(before, BLOCK, speech.get(*n)).1 != taken(before, BLOCK, None).1
        };
        let next = (31..59).find(differs).expect("a packet that repeats");
        let (before, behind) = (&speech[..next - 1], speech.get(next));
        let (all, guess) = (taken(before, BLOCK, behind), taken(before, BLOCK, None));
        assert!(all.0 == BLOCK && all.1 != guess.1);
        assert_eq!(taken(before, 3 * BLOCK, behind).0, BLOCK, "only the end of a longer gap");
        // Less than a packet, behind another codec's mode, or of a packet that holds nothing: it is all made up.
        for (before, samples, next) in
            [(before, BLOCK / 2, behind), (&music[..30], BLOCK, behind), (before, BLOCK, music.get(next))]
        {
            assert_eq!(taken(before, samples, next), taken(before, samples, None));
        }
    }

    #[test]
    fn a_gap_of_any_length_is_filled_exactly() {
        let packets = coded(&OpusSettings::default(), 0, &voice(50), BLOCK);
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        for packet in &packets {
            decoder.decode(packet, &mut out).expect("sound");
        }
        for samples in [1, 119, 120, 960, 961, 10_000] {
            for next in [None, packets.last().map(Vec::as_slice), Some(&[][..])] {
                let mut gap = Vec::new();
                decoder.conceal(samples, next, &mut gap);
                assert_eq!(gap.len(), samples);
            }
        }
    }

    #[test]
    fn sound_that_ends_fades_to_silence() {
        let packets = coded(&OpusSettings::default(), 0, &voice(50), BLOCK);
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        for packet in &packets {
            decoder.decode(packet, &mut out).expect("sound");
        }
        let largest =
            |samples: &[i16]| samples.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max();
        let before = largest(&out[out.len() - 2 * BLOCK..]);
        let end = out.len();
        decoder.quiet(BLOCK, &mut out);
        assert!(largest(&out[end - 1..]) <= before, "{:?} after {before:?}", largest(&out[end - 1..]));
        assert_eq!(out[end + FADE..], [0; BLOCK - FADE]);
        assert!(level(&out[end..end + FADE]) > 100.0);
    }

    #[test]
    fn a_gap_filled_in_odd_pieces_sounds_as_one_filled_in_steps() {
        for max_playback_rate in [16_000, 48_000] {
            let settings = OpusSettings { max_playback_rate, ..Default::default() };
            let packets = coded(&settings, 5, &voice(300), BLOCK);
            // Two packets of every ten are lost.
            let filled = |piece: usize| {
                let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
                for (n, packet) in packets.iter().enumerate() {
                    match n % 10 {
                        7 | 8 => {
                            let end = (n + 1) * BLOCK;
                            while out.len() < end {
                                decoder.conceal(piece.min(end - out.len()), None, &mut out);
                            }
                        }
                        _ => decoder.decode(packet, &mut out).expect("sound"),
                    }
                }
                out
            };
            let steps = filled(STEP);
            assert_eq!(steps.len(), 300 * BLOCK);
            for piece in [1, 119, 120, 137, 240, 479] {
                assert!(filled(piece) == steps, "{piece} of {max_playback_rate}");
            }
            // Longer than the gap: what was made beyond it is heard before the packet, which goes on from there.
            let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
            decoder.decode(&packets[0], &mut out).expect("sound");
            decoder.conceal(100, None, &mut out);
            assert_eq!(out.len(), BLOCK + 100);
            decoder.decode(&packets[1], &mut out).expect("sound");
            assert_eq!(out.len(), 2 * BLOCK + STEP);
        }
    }

    #[test]
    fn a_pause_is_not_sent_and_its_noise_goes_on_without_a_step() {
        let mut random = StdRng::seed_from_u64(5);
        let mut sound = voice(100);
        // Speech, then the noise of a room.
        for (n, sample) in sound.iter_mut().enumerate() {
            let noise = random.random_range(-120..=120);
            *sample = if n < 30 * BLOCK { sample.saturating_add(noise) } else { noise };
        }
        let settings = OpusSettings { dtx: true, max_playback_rate: 16_000, ..Default::default() };
        let packets = coded(&settings, 0, &sound, BLOCK);
        let sent = packets[60..].iter().filter(|packet| !packet.is_empty()).count();
        assert!((1..=8).contains(&sent), "{sent} of 40 packets of a pause were sent");
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        for packet in &packets {
            match packet.as_slice() {
                [] => decoder.quiet(BLOCK, &mut out),
                packet => decoder.decode(packet, &mut out).expect("sound"),
            }
        }
        let tail = &out[60 * BLOCK..];
        let largest = tail.windows(2).map(|w| (i32::from(w[1]) - i32::from(w[0])).abs()).max();
        assert!(largest < Some(400), "{largest:?}");
    }

    #[test]
    fn a_pause_told_by_a_short_packet_is_not_digital_silence() {
        let mut random = StdRng::seed_from_u64(6);
        let noise: Vec<i16> = (0..100 * BLOCK).map(|_| random.random_range(-300..=300)).collect();
        let settings = OpusSettings { max_playback_rate: 16_000, bitrate: 16_000, ..Default::default() };
        let packets = coded(&settings, 0, &noise, BLOCK);
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        for packet in &packets {
            decoder.decode(packet, &mut out).expect("sound");
        }
        // Only the first byte: the same kind of packet, nothing in it.
        decoder.decode(&packets[50][..1], &mut out).expect("a pause");
        let mut pause = Vec::new();
        for _ in 0..20 {
            decoder.quiet(BLOCK, &mut pause);
        }
        assert!(level(&pause[15 * BLOCK..]) > 5.0, "{}", level(&pause[15 * BLOCK..]));
        for _ in 0..200 {
            decoder.quiet(BLOCK, &mut pause);
        }
        assert_eq!(level(&pause[210 * BLOCK..]), 0.0, "not for ever");
    }

    #[test]
    fn two_channels_become_one() {
        let mut code = 0;
        let mut packet = vec![0; 1_200];
        let stereo: Vec<i16> = voice(20).iter().flat_map(|sample| [*sample, *sample]).collect();
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        // SAFETY: pointers to what is declared here, with its lengths.
        unsafe {
            let encoder = ffi::opus_encoder_create(48_000, 2, ffi::OPUS_APPLICATION_AUDIO, &raw mut code);
            ffi::opus_encoder_ctl(encoder, ffi::OPUS_SET_FORCE_CHANNELS_REQUEST, 2);
            for block in stereo.chunks_exact(2 * BLOCK) {
                let made = ffi::opus_encode(encoder, block.as_ptr(), 960, packet.as_mut_ptr(), 1_200);
                assert_eq!(ffi::opus_packet_get_nb_channels(packet.as_ptr()), 2);
                decoder.decode(&packet[..made as usize], &mut out).expect("sound");
            }
            ffi::opus_encoder_destroy(encoder);
        }
        assert_eq!(out.len(), 20 * BLOCK);
        let share = level(&out[BLOCK * 5..]) / level(&voice(20)[BLOCK * 5..]);
        assert!((0.8..1.2).contains(&share), "{share}");
    }

    #[test]
    fn the_terms_of_the_receiver_are_kept() {
        let sound = voice(100);
        let narrow = OpusSettings { max_playback_rate: 8_000, bitrate: 12_000, ..Default::default() };
        let packets = coded(&narrow, 0, &sound, BLOCK);
        let widest = packets.iter().map(|packet| packet[0] >> 3).max();
        assert!(widest < Some(4), "narrowband has configurations 0 to 3: {widest:?}");
        let bits = packets.iter().map(Vec::len).sum::<usize>() * 8 / 2;
        assert!(bits < 14_500, "{bits} bit/s");
        let constant = OpusSettings { constant: true, ..Default::default() };
        let sizes: std::collections::BTreeSet<usize> =
            coded(&constant, 0, &sound, BLOCK).iter().map(Vec::len).collect();
        assert_eq!(sizes.len(), 1, "{sizes:?}");
    }

    /// A sine of 440 Hz by FFmpeg's own encoder, which is not libopus.
    const OF_FFMPEG: [&str; 4] = [
        "f822287568ab24d0b88881c9aaec9ed9e5547c957390952e780a295487484e99f876baf646bc361bbf0b1bdbaf \
        433ea2d2763ac4baa88d6a9af16f1636",
        "f87247b10ea8aa261b78a6b8eeec0dd1b963d0009cb39269c4a6d158ff227e69f8233911c68842878ce4abf277 \
        3e9525f1663edf5f66926213d9d44c0d",
        "f81d25d0b2b9130a41e11aff79c38a7c248b6c5fcdf6548cede5a3f90da56abd84b22ef8a4200716b352aace6f \
        41d6bf742af93cf4e9d8f2294ed3a27a",
        "f872432c75b766b48de1f46cdbcc69a521830f2b7c0e3d948ac0d94fc1bd0c7f168caa4fcb6cedf7f70ce663ab \
        6d2cddc447a2afaf1429a6d648e2279e",
    ];

    #[test]
    fn packets_of_another_encoder_are_the_tone_they_were() {
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        for hex in OF_FFMPEG {
            let digits: Vec<u8> =
                hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
            let packet: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            decoder.decode(&packet, &mut out).expect("sound");
        }
        assert_eq!(out.len(), 4 * BLOCK);
        let steady = &out[BLOCK..];
        let peak = steady.iter().max().copied().unwrap_or(0);
        assert!((3_500..4_800).contains(&peak), "{peak}");
        // It is the same one period (109.1 samples) later.
        let same = alike(&steady[..1_500], &steady[109..1_609]);
        assert!(same > 0.97, "{same}");
    }

    #[test]
    fn mutated_packets_are_sound_or_refused() {
        let packets = coded(&OpusSettings::default(), 0, &voice(50), BLOCK);
        let (mut decoder, mut out) = (OpusDecoder::new().expect("a decoder"), Vec::new());
        let mut random = StdRng::seed_from_u64(9);
        for n in 0..3_000 {
            let mut packet = packets[n % packets.len()].clone();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..packet.len());
                packet[at] = random.random();
            }
            packet.truncate(random.random_range(0..=packet.len()));
            out.clear();
            match n % 3 {
                0 => drop(decoder.conceal(BLOCK, Some(&packet), &mut out)),
                _ => drop(decoder.decode(&packet, &mut out)),
            }
            assert!(out.len() <= PACKET_MAX);
        }
    }
}
