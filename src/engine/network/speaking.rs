//! What is said on one audio stream: blocks of sound to packets of the negotiated length.
//!
//! Pure. What is said is the mixer's; when and where packets go is `rtp::audio`'s.

use crate::codec::g711::{G711Encoder, Law};
use crate::codec::g722::G722Encoder;
use crate::codec::opus::{OpusEncoder, OpusSettings};
use crate::engine::plan::{AudioCodec, AudioStream, OpusTerms};
use crate::media::codec::{AudioEncoder, CodecError};

/// What Opus gets where the peer names no limit, in bits a second: speech at full bandwidth.
const OPUS_BITRATE: u32 = 32_000;
/// What it gets besides while packets are lost and the peer takes repeats: with less, libopus leaves them out up to a
/// tenth lost, as 24,000 and 32,000 are below what it thinks both are worth.
const REPEATS_BITRATE: u32 = 8_000;

/// Makes the encoder of one stream.
pub fn encoder(codec: AudioCodec, terms: &OpusTerms) -> Result<Box<dyn AudioEncoder>, CodecError> {
    Ok(match codec {
        AudioCodec::Pcmu => Box::new(G711Encoder::new(Law::Mu)),
        AudioCodec::Pcma => Box::new(G711Encoder::new(Law::A)),
        AudioCodec::G722 => Box::<G722Encoder>::default(),
        AudioCodec::Opus => Box::new(OpusEncoder::new(&settings(terms))?),
    })
}

fn settings(terms: &OpusTerms) -> OpusSettings {
    let wanted = match terms.max_playback_rate {
        0..=8_000 => 14_000,
        8_001..=16_000 => 24_000,
        16_001.. => OPUS_BITRATE,
    };
    let most = terms.max_bitrate.unwrap_or(u32::MAX);
    OpusSettings {
        bitrate: wanted.min(most),
        repeating_bitrate: (wanted + REPEATS_BITRATE).min(most),
        max_playback_rate: terms.max_playback_rate,
        fec: terms.fec,
        dtx: terms.dtx,
        constant: terms.constant,
        ..OpusSettings::default()
    }
}

/// One packet's payload and its length on the RTP clock; empty: nothing needs to be sent for so long.
pub struct Spoken<'a> {
    pub payload: &'a [u8],
    pub ticks: u32,
}

/// The encoder of one stream, and what is short of a packet.
pub struct Speaking {
    codec: AudioCodec,
    terms: OpusTerms,
    encoder: Box<dyn AudioEncoder>,
    /// Samples of one packet, and its length on the RTP clock.
    packet: (usize, u32),
    waiting: Vec<i16>,
    coded: Vec<u8>,
}

impl Speaking {
    pub fn new(stream: &AudioStream) -> Result<Self, CodecError> {
        let packet = packet_of(stream);
        Ok(Speaking {
            codec: stream.codec,
            terms: stream.opus,
            encoder: encoder(stream.codec, &stream.opus)?,
            packet,
            waiting: Vec::with_capacity(2 * packet.0),
            coded: Vec::with_capacity(1_500),
        })
    }

    /// Offer and answer were renewed. The same codec on the same terms goes on as it is.
    pub fn renew(&mut self, stream: &AudioStream) -> Result<(), CodecError> {
        if (stream.codec, stream.opus) != (self.codec, self.terms) {
            *self = Speaking::new(stream)?;
        }
        self.packet = packet_of(stream);
        Ok(())
    }

    /// How much of what we send is lost, as the peer says.
    pub fn set_loss(&mut self, percent: u8) {
        self.encoder.set_loss(percent);
    }

    /// Takes one block and calls `send` for each packet that is full. What cannot be encoded is not sent.
    pub fn say(&mut self, block: &[i16], mut send: impl FnMut(Spoken<'_>)) {
        let (samples, ticks) = self.packet;
        // The usual packet is one block: nothing is kept.
        if self.waiting.is_empty() && block.len() == samples {
            return send(spoken(self.encoder.as_mut(), block, &mut self.coded, ticks));
        }
        self.waiting.extend_from_slice(block);
        let mut used = 0;
        while let Some(packet) = self.waiting.get(used..used + samples) {
            send(spoken(self.encoder.as_mut(), packet, &mut self.coded, ticks));
            used += samples;
        }
        self.waiting.drain(..used);
    }
}

fn spoken<'a>(
    encoder: &mut dyn AudioEncoder,
    packet: &[i16],
    coded: &'a mut Vec<u8>,
    ticks: u32,
) -> Spoken<'a> {
    coded.clear();
    if encoder.encode(packet, coded).is_err() {
        coded.clear();
    }
    Spoken { payload: coded, ticks }
}

fn packet_of(stream: &AudioStream) -> (usize, u32) {
    let ms = stream.ptime_ms.clamp(10, 60);
    // What Opus has no frame for is cut shorter (RFC 6716 §2.1.4).
    let ms = match (stream.codec, ms) {
        (AudioCodec::Opus, 10..20) => 10,
        (AudioCodec::Opus, 20..40) => 20,
        (AudioCodec::Opus, 40..60) => 40,
        (AudioCodec::Opus | AudioCodec::Pcmu | AudioCodec::Pcma | AudioCodec::G722, ms) => ms / 10 * 10,
    };
    ((stream.codec.sample_rate() / 1000 * ms) as usize, stream.codec.clock_rate() / 1000 * ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{Direction, Protection, Route};

    fn stream(codec: AudioCodec, ptime_ms: u32) -> AudioStream {
        let route = Route {
            remote: None,
            remote_rtcp: None,
            rtcp_mux: false,
            direction: Direction::SendReceive,
            protection: Protection::None,
            ice: None,
        };
        AudioStream {
            route,
            codec,
            send_payload_type: 96,
            receive: Vec::new(),
            telephone_events: Vec::new(),
            comfort_noises: Vec::new(),
            opus: OpusTerms::default(),
            ptime_ms,
            extended_reports: false,
        }
    }

    /// Bytes and ticks of the packets of one second.
    fn second(codec: AudioCodec, ptime_ms: u32) -> Vec<(usize, u32)> {
        let mut speaking = Speaking::new(&stream(codec, ptime_ms)).unwrap();
        let mut packets = Vec::new();
        let rate = codec.sample_rate();
        for block in crate::source::tone::sine(rate, 300.0, 1000, 0.3).chunks(rate as usize / 50) {
            speaking.say(block, |spoken| packets.push((spoken.payload.len(), spoken.ticks)));
        }
        packets
    }

    #[test]
    fn packets_have_the_length_that_was_asked_for() {
        assert_eq!(second(AudioCodec::Pcma, 20), [(160, 160); 50]);
        assert_eq!(second(AudioCodec::Pcmu, 10), [(80, 80); 100]);
        assert_eq!(second(AudioCodec::G722, 30)[..5], [(240, 240); 5]);
        assert_eq!(second(AudioCodec::G722, 60).len(), 16);
        for (asked, got) in [(10, 10), (20, 20), (30, 20), (40, 40), (50, 40), (60, 60)] {
            let packets = second(AudioCodec::Opus, asked);
            assert_eq!(packets.len(), (1000 / got) as usize, "{asked}");
            assert!(packets.iter().all(|(bytes, ticks)| *bytes > 0 && *ticks == 48 * got), "{asked}");
        }
    }

    #[test]
    fn another_codec_takes_over_and_the_same_one_goes_on() {
        let mut speaking = Speaking::new(&stream(AudioCodec::Pcma, 40)).unwrap();
        let mut packets = 0;
        speaking.say(&[0; 160], |_| packets += 1);
        speaking.renew(&stream(AudioCodec::Pcma, 20)).unwrap();
        speaking.say(&[0; 160], |_| packets += 1);
        assert_eq!(packets, 2, "half a packet was not thrown away");
        speaking.renew(&stream(AudioCodec::Opus, 20)).unwrap();
        speaking.say(&[0; 960], |spoken| assert_eq!(spoken.ticks, 960));
    }
}
