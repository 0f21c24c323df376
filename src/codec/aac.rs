//! The AAC-LC encoder of recordings (FFmpeg's own).
//!
//! Takes any number of samples, gives packets of 1024. Containers do not belong here (`record::mux`).

use std::ffi::c_int;

use bytes::Bytes;
use ffmpeg_next::ffi::{self, AVSampleFormat};

use crate::codec::ffmpeg::{AGAIN, CodecContext, Options, Packet, Picture, broken, check};
use crate::media::codec::CodecError;

/// Samples of one channel in one packet.
pub const PACKET_SAMPLES: usize = 1024;

/// One coded packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AacPacket {
    pub data: Bytes,
    /// In samples since the first one given; the first packet is the encoder's run-up and negative.
    pub pts: i64,
}

/// One stream's encoder.
pub struct AacEncoder {
    context: CodecContext,
    frame: Picture,
    packet: Packet,
    channels: usize,
    /// Interleaved samples short of a packet.
    waiting: Vec<i16>,
    given: i64,
}

impl AacEncoder {
    /// `rate` 8000, 16000, 48000 or another AAC rate; `channels` 1 or 2.
    pub fn new(rate: u32, channels: usize, kbps: u32) -> Result<Self, CodecError> {
        if !(1..=2).contains(&channels) {
            return Err(broken(format!("AAC with {channels} channels: 1 or 2")));
        }
        let mut context = CodecContext::encoder("aac")?;
        let fields = context.fields();
        fields.sample_fmt = AVSampleFormat::AV_SAMPLE_FMT_FLTP;
        fields.sample_rate = c_int::try_from(rate).unwrap_or(0);
        fields.bit_rate = i64::from(kbps) * 1000;
        fields.time_base = ffi::AVRational { num: 1, den: fields.sample_rate };
        fields.thread_count = 1;
        fields.flags |= ffi::AV_CODEC_FLAG_GLOBAL_HEADER as c_int;
        // SAFETY: an empty layout is filled in.
        unsafe { ffi::av_channel_layout_default(&mut fields.ch_layout, channels as c_int) };
        context.open(&mut Options::new(), &format!("opening the AAC encoder at {rate} Hz"))?;
        let (frame, packet) = (Picture::new()?, Packet::new()?);
        Ok(AacEncoder { context, frame, packet, channels, waiting: Vec::new(), given: 0 })
    }

    /// What a container must say of the stream (ISO 14496-3 AudioSpecificConfig).
    pub fn configuration(&self) -> &[u8] {
        self.context.extradata()
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Takes interleaved samples and gives every finished packet to `out`.
    pub fn encode(&mut self, samples: &[i16], out: &mut Vec<AacPacket>) -> Result<(), CodecError> {
        self.waiting.extend_from_slice(samples);
        let length = PACKET_SAMPLES * self.channels;
        let mut used = 0;
        while self.waiting.len() - used >= length {
            self.fill(used, PACKET_SAMPLES)?;
            self.send(true)?;
            self.receive(out)?;
            used += length;
        }
        self.waiting.drain(..used);
        Ok(())
    }

    /// Gives what is left; nothing may be encoded after it.
    pub fn finish(&mut self, out: &mut Vec<AacPacket>) -> Result<(), CodecError> {
        let rest = self.waiting.len() / self.channels;
        if rest > 0 {
            self.fill(0, rest)?;
            self.send(true)?;
            self.receive(out)?;
            self.waiting.clear();
        }
        self.send(false)?;
        self.receive(out)
    }

    fn fill(&mut self, from: usize, count: usize) -> Result<(), CodecError> {
        self.frame.clear();
        let fields = self.frame.fields();
        fields.format = AVSampleFormat::AV_SAMPLE_FMT_FLTP as c_int;
        fields.nb_samples = count as c_int;
        fields.sample_rate = self.context.fields().sample_rate;
        fields.pts = self.given;
        // SAFETY: an empty layout is filled in.
        unsafe { ffi::av_channel_layout_default(&mut fields.ch_layout, self.channels as c_int) };
        self.frame.allocate()?;
        self.given += count as i64;
        let interleaved = self.waiting.get(from..from + count * self.channels).unwrap_or_default();
        for channel in 0..self.channels {
            // SAFETY: the frame was just allocated with `count` float samples in each of its channels' planes.
            let plane = unsafe {
                std::slice::from_raw_parts_mut(self.frame.fields().data[channel].cast::<f32>(), count)
            };
            for (to, from) in plane.iter_mut().zip(interleaved.chunks_exact(self.channels)) {
                *to = f32::from(from[channel]) / 32_768.0;
            }
        }
        Ok(())
    }

    fn send(&mut self, more: bool) -> Result<(), CodecError> {
        let frame = if more { self.frame.as_ptr() } else { std::ptr::null_mut() };
        // SAFETY: context and frame are valid; a null frame asks for the rest.
        check(unsafe { ffi::avcodec_send_frame(self.context.as_ptr(), frame) }, "encoding AAC").map(drop)
    }

    fn receive(&mut self, out: &mut Vec<AacPacket>) -> Result<(), CodecError> {
        loop {
            // SAFETY: context and packet are valid.
            let code = unsafe { ffi::avcodec_receive_packet(self.context.as_ptr(), self.packet.as_ptr()) };
            if code == AGAIN || code == ffi::AVERROR_EOF {
                return Ok(());
            }
            check(code, "encoding AAC")?;
            let pts = self.packet.fields().pts;
            out.push(AacPacket { data: Bytes::copy_from_slice(self.packet.data()), pts });
            self.packet.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_cover_every_sample_at_every_rate() {
        for rate in [8_000, 16_000, 48_000] {
            for channels in [1, 2] {
                let mut encoder = AacEncoder::new(rate, channels, 48).expect("an encoder");
                assert!(encoder.configuration().len() >= 2);
                let mut packets = Vec::new();
                for _ in 0..50 {
                    encoder
                        .encode(&vec![1000; rate as usize / 50 * channels], &mut packets)
                        .expect("encoded");
                }
                encoder.finish(&mut packets).expect("finished");
                let last = packets.last().expect("packets");
                assert!(
                    last.pts + PACKET_SAMPLES as i64 >= i64::from(rate),
                    "{rate} {channels}: {}",
                    last.pts
                );
                assert!(packets.windows(2).all(|w| w[1].pts - w[0].pts == PACKET_SAMPLES as i64));
            }
        }
    }

    #[test]
    fn a_rate_aac_does_not_have_is_refused_by_name() {
        let error = AacEncoder::new(12_345, 1, 48).err().expect("no such rate").to_string();
        assert!(error.contains("12345 Hz"), "{error}");
    }
}
