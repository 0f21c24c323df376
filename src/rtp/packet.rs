//! The RTP data packet (RFC 3550 §5.1) and telling it from RTCP on one port (RFC 5761 §4).
//!
//! Reading and writing bytes only: who sent them is `source`, what order they come in `sequence` and `jitter`.

use bytes::{BufMut, Bytes, BytesMut};
use rtp_types::RtpPacket;

use crate::rtp::extension::transport_sequence;

/// Length of a header without contributing sources and extensions.
pub const HEADER_LEN: usize = 12;
/// Packets larger than this are malformed: no datagram of a sane path carries them whole.
pub const PACKET_MAX: usize = 9000;

/// A received packet. `payload` is without contributing sources, header extension and padding; it may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// `None`: not version 2, cut off, or padded beyond its own header.
    pub fn parse(bytes: &'a [u8]) -> Option<Packet<'a>> {
        if bytes.len() > PACKET_MAX {
            return None;
        }
        let read = RtpPacket::parse(bytes).ok()?;
        let start = read.payload_offset();
        Some(Packet {
            marker: read.marker_bit(),
            payload_type: read.payload_type(),
            sequence: read.sequence_number(),
            timestamp: read.timestamp(),
            ssrc: read.ssrc(),
            payload: bytes.get(start..start + read.payload_len())?,
        })
    }
}

/// Whether bytes on a shared port are RTCP: packet types 192 to 223.
pub fn is_rtcp(bytes: &[u8]) -> bool {
    matches!(bytes, [first, 192..=223, ..] if first >> 6 == 2)
}

/// What goes in front of a payload.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub marker: bool,
    pub payload_type: u8,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
}

/// Writes packets into shared chunks of memory: one allocation per many packets.
#[derive(Debug)]
pub struct Writer {
    chunk: BytesMut,
    chunk_len: usize,
}

impl Writer {
    /// `chunk_len`: bytes taken from the allocator at a time.
    pub fn new(chunk_len: usize) -> Self {
        Writer { chunk: BytesMut::new(), chunk_len }
    }

    /// One packet whose payload is the concatenation of `parts`.
    pub fn write(&mut self, header: &Header, parts: &[&[u8]]) -> Bytes {
        self.write_numbered(header, None, parts)
    }

    /// The same with a number for transport-wide feedback: the id of its header extension, and the number.
    pub fn write_numbered(&mut self, header: &Header, number: Option<(u8, u16)>, parts: &[&[u8]]) -> Bytes {
        let extension = number.map(|(id, number)| transport_sequence(id, number));
        let extension = extension.as_ref().map_or(&[][..], |bytes| &bytes[..]);
        let len = HEADER_LEN + extension.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if self.chunk.capacity() < len {
            self.chunk.reserve(self.chunk_len.max(len));
        }
        self.chunk.put_u8(if extension.is_empty() { 0x80 } else { 0x90 });
        self.chunk.put_u8(u8::from(header.marker) << 7 | header.payload_type & 0x7f);
        self.chunk.put_u16(header.sequence);
        self.chunk.put_u32(header.timestamp);
        self.chunk.put_u32(header.ssrc);
        self.chunk.put_slice(extension);
        for part in parts {
            self.chunk.put_slice(part);
        }
        self.chunk.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn sample() -> Vec<u8> {
        // Padding, one extension word, two contributing sources, payload 1 2 3, padding of 5.
        let mut bytes = vec![0xb2, 0xe0, 0x12, 0x34, 0, 0, 0, 9, 0xaa, 0xbb, 0xcc, 0xdd];
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 7, 7, 7, 7, 1, 2, 3, 0, 0, 0, 0, 5]);
        bytes
    }

    #[test]
    fn sources_extension_and_padding_are_taken_off() {
        let bytes = sample();
        let packet = Packet::parse(&bytes).expect("valid");
        assert_eq!(packet.payload, [1, 2, 3]);
        assert_eq!((packet.marker, packet.payload_type, packet.sequence), (true, 96, 0x1234));
        assert_eq!((packet.timestamp, packet.ssrc), (9, 0xaabb_ccdd));
    }

    #[test]
    fn a_written_packet_reads_back() {
        let mut writer = Writer::new(64);
        for sequence in 0..50 {
            let header =
                Header { marker: sequence % 2 == 0, payload_type: 8, sequence, timestamp: 7, ssrc: 1 };
            let bytes = writer.write(&header, &[&[1, 2], &[3; 30]]);
            let packet = Packet::parse(&bytes).expect("valid");
            assert_eq!(
                (packet.sequence, packet.marker, packet.payload.len()),
                (sequence, sequence % 2 == 0, 32)
            );
        }
    }

    #[test]
    fn cut_or_wrongly_padded_packets_are_refused() {
        let good = sample();
        for end in 0..good.len() {
            if let Some(packet) = Packet::parse(&good[..end]) {
                assert!(packet.payload.len() < end);
            }
        }
        let mut padded = good.clone();
        *padded.last_mut().expect("bytes") = 200;
        assert_eq!(Packet::parse(&padded), None);
        assert_eq!(Packet::parse(&[0x40; 20]), None, "version 1");
        assert_eq!(Packet::parse(&vec![0x80; PACKET_MAX + 1]), None);
    }

    #[test]
    fn mutated_packets_never_panic() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..50_000 {
            let mut bytes = sample();
            bytes.truncate(random.random_range(1..=bytes.len()));
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            if let Some(packet) = Packet::parse(&bytes) {
                assert!(packet.payload.len() + HEADER_LEN <= bytes.len());
            }
        }
    }

    #[test]
    fn control_packets_are_told_from_media_on_one_port() {
        assert!(is_rtcp(&[0x81, 200, 0, 1]) && is_rtcp(&[0x81, 206, 0, 1]));
        assert!(!is_rtcp(&[0x80, 0x80 | 8, 0, 1]) && !is_rtcp(&[0x80, 96]) && !is_rtcp(&[]));
    }
}
