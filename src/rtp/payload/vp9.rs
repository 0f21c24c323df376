//! VP9 in RTP (RFC 9628), received only: packets to pictures.
//!
//! A picture is everything of one timestamp: one frame, or one for each spatial layer, which go on together as one
//! superframe. What the descriptor says of references and layers is read over: every layer is taken, and what is
//! missing shows in the sequence numbers. A picture that lost a part goes on empty, so that the loss is known.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::access_unit::VideoCodec;
use crate::media::vp9;
use crate::rtp::payload::{Refused, UNIT_MAX, Unit};
use crate::rtp::reorder::Piece;

/// Bits of the first byte (§4.2).
const PICTURE_ID: u8 = 0x80;
const INTER_PREDICTED: u8 = 0x40;
const LAYERS: u8 = 0x20;
const FLEXIBLE: u8 = 0x10;
const BEGINS: u8 = 0x08;
const ENDS: u8 = 0x04;
const STRUCTURE: u8 = 0x02;
/// Bit of a PictureID's first byte: it has 15 bits.
const LONG: u8 = 0x80;
/// Bit of a reference: another one follows; three at most.
const MORE: u8 = 0x01;
const REFERENCES_MAX: usize = 3;
/// Bits of the scalability structure's first byte.
const SIZES: u8 = 0x10;
const GROUP: u8 = 0x08;
/// Spatial layers of a picture.
const LAYERS_MAX: usize = 8;

/// What leads a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The first and the last packet of a frame, which is one spatial layer of a picture.
    pub begins: bool,
    pub ends: bool,
    /// Of 7 or 15 bits.
    pub picture_id: Option<u16>,
    /// Temporal and spatial layer.
    pub layers: Option<(u8, u8)>,
}

impl Descriptor {
    /// Reads one; what follows it belongs to the frame. `None`: malformed.
    pub fn parse(payload: &[u8]) -> Option<(Descriptor, &[u8])> {
        let mut rest = Rest(payload);
        let first = rest.byte()?;
        let has = |bit: u8| first & bit != 0;
        let mut descriptor = Descriptor { begins: has(BEGINS), ends: has(ENDS), ..Descriptor::default() };
        if has(PICTURE_ID) {
            let id = rest.byte()?;
            descriptor.picture_id = Some(if id & LONG != 0 {
                u16::from_be_bytes([id & !LONG, rest.byte()?])
            } else {
                u16::from(id)
            });
        }
        if has(LAYERS) {
            let layer = rest.byte()?;
            descriptor.layers = Some((layer >> 5, layer >> 1 & 7));
            if !has(FLEXIBLE) {
                let _tl0picidx = rest.byte()?;
            }
        }
        if has(FLEXIBLE) && has(INTER_PREDICTED) {
            let mut references = 1;
            while rest.byte()? & MORE != 0 {
                references += 1;
                if references > REFERENCES_MAX {
                    return None;
                }
            }
        }
        if has(STRUCTURE) {
            rest.skip_structure()?;
        }
        (!rest.0.is_empty()).then_some((descriptor, rest.0))
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    /// The scalability structure (§4.2.1): sizes of the layers, and the pattern of a group of pictures.
    fn skip_structure(&mut self) -> Option<()> {
        let first = self.byte()?;
        if first & SIZES != 0 {
            self.skip(4 * (usize::from(first >> 5) + 1))?;
        }
        if first & GROUP != 0 {
            for _ in 0..self.byte()? {
                let references = self.byte()? >> 2 & 3;
                self.skip(usize::from(references))?;
            }
        }
        Some(())
    }
}

/// Packets in sequence to pictures.
#[derive(Debug, Default)]
pub struct Depacketizer {
    building: BytesMut,
    /// Where in `building` each whole frame ends.
    ends: Vec<usize>,
    timestamp: Option<u32>,
    /// Something of the picture has come.
    begun: bool,
    /// A frame has begun and not ended.
    open: bool,
    damaged: bool,
    after_loss: bool,
    /// A key frame has been handed on.
    key_seen: bool,
    refused: Refused,
}

impl Depacketizer {
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Takes the next packet in sequence; hands on the pictures it completes.
    pub fn push(&mut self, piece: Piece<'_>, mut take: impl FnMut(Unit)) {
        if self.begun && self.timestamp != Some(piece.timestamp) {
            // No marker came: with a gap here, the end of it may be what is missing.
            self.damaged |= piece.after_gap || self.open;
            take(self.finish());
        }
        self.timestamp = Some(piece.timestamp);
        if piece.after_gap {
            self.after_loss = true;
            self.damaged |= self.begun;
        }
        self.begun = true;
        match Descriptor::parse(piece.payload) {
            Some((descriptor, data)) => self.take_part(descriptor, data),
            None => {
                self.refused.malformed += 1;
                self.damaged = true;
            }
        }
        if piece.marker {
            take(self.finish());
        }
    }

    /// The stream ends here: what is half built is handed on as damaged, and a key frame is needed.
    pub fn flush(&mut self) -> Option<Unit> {
        self.damaged = true;
        let unit = self.begun.then(|| self.finish());
        *self = Depacketizer { refused: self.refused, ..Depacketizer::default() };
        unit
    }

    fn take_part(&mut self, descriptor: Descriptor, data: &[u8]) {
        // A layer that begins in the midst of another, or goes on without having begun: packets of it are missing.
        self.damaged |= descriptor.begins == self.open;
        if self.damaged {
            return;
        }
        if self.building.len() + data.len() > UNIT_MAX || self.ends.len() >= LAYERS_MAX {
            self.refused.too_large += 1;
            self.damaged = true;
            self.building.clear();
            return;
        }
        self.building.put_slice(data);
        self.open = !descriptor.ends;
        if descriptor.ends {
            self.ends.push(self.building.len());
        }
    }

    fn finish(&mut self) -> Unit {
        let (damaged, after_loss) = (self.damaged, self.after_loss);
        if self.open {
            // The marker is the end too.
            self.ends.push(self.building.len());
        }
        if self.ends.len() > 1 && !damaged {
            self.building.put_slice(&vp9::superframe_index(&self.ends));
        }
        let mut data = self.building.split().freeze();
        if damaged {
            data = Bytes::new();
        }
        let key = vp9::is_key(&data);
        self.key_seen |= key;
        self.ends.clear();
        (self.begun, self.open, self.damaged, self.after_loss) = (false, false, false, false);
        Unit {
            codec: VideoCodec::Vp9,
            data,
            timestamp: self.timestamp.unwrap_or_default(),
            key,
            decodable: self.key_seen,
            damaged,
            after_loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A frame of `len` bytes, a key frame with the header of one of 640x360.
    fn frame(key: bool, len: usize) -> Vec<u8> {
        let mut data: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        data[..9].copy_from_slice(&[0x82, 0x49, 0x83, 0x42, 0x00, 0x27, 0xf0, 0x16, 0x70]);
        data[0] |= u8::from(!key) << 2;
        data
    }

    /// Packets of one picture: `layers` frames, each in parts of 100 bytes, marker on the last.
    fn cut(layers: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
        let mut packets = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let parts: Vec<&[u8]> = layer.chunks(100).collect();
            for (n, part) in parts.iter().enumerate() {
                let bits = if n == 0 { BEGINS } else { 0 } | if n + 1 == parts.len() { ENDS } else { 0 };
                let lead = [PICTURE_ID | LAYERS | bits, 0x80, 5, (number as u8) << 1, 9];
                packets.push(([&lead[..], part].concat(), false));
            }
        }
        packets.last_mut().expect("a packet").1 = true;
        packets
    }

    fn join(depacketizer: &mut Depacketizer, packets: &[(u32, &[u8], bool, bool)]) -> Vec<Unit> {
        let mut units = Vec::new();
        for (timestamp, payload, marker, after_gap) in packets {
            let (timestamp, marker, after_gap) = (*timestamp, *marker, *after_gap);
            let piece = Piece { codec: VideoCodec::Vp9, timestamp, marker, payload, after_gap };
            depacketizer.push(piece, |unit| units.push(unit));
        }
        units
    }

    #[test]
    fn descriptors_are_read_in_both_modes() {
        let read = |bytes: &[u8]| Descriptor::parse(bytes).map(|(descriptor, rest)| (descriptor, rest.len()));
        let whole = Descriptor { begins: true, ends: true, ..Descriptor::default() };
        let table: [(&[u8], _); 10] = [
            (&[0x0c, 1], Some((whole, 1))),
            (&[0x8c, 0x7f, 1], Some((Descriptor { picture_id: Some(0x7f), ..whole }, 1))),
            (&[0x8c, 0x92, 0x34, 1], Some((Descriptor { picture_id: Some(0x1234), ..whole }, 1))),
            // Non-flexible: TL0PICIDX follows the layers.
            (&[0x2c, 0x45, 9, 1, 2], Some((Descriptor { layers: Some((2, 2)), ..whole }, 2))),
            // Flexible: it does not, and references come instead.
            (&[0x3c, 0x45, 1], Some((Descriptor { layers: Some((2, 2)), ..whole }, 1))),
            (&[0x5c, 0x03, 0x05, 0x02, 1], Some((whole, 1))),
            (&[0x5c, 0x03, 0x05, 0x07, 0x02, 1], None),
            // A structure of two layers with sizes and a group of two pictures, one of which refers to two.
            (&[0x0e, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 2, 0x00, 0x08, 1, 2, 7], Some((whole, 1))),
            (&[0x0e, 0x00, 7, 8], Some((whole, 2))),
            (&[0x0e, 0x08, 200, 0], None),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes), expected, "{bytes:02x?}");
            assert!((0..bytes.len()).all(|len| read(&bytes[..len]).is_none_or(|(_, rest)| rest < len)));
        }
        assert_eq!((read(&[]), read(&[0x0c])), (None, None));
    }

    #[test]
    fn spatial_layers_of_one_picture_become_one_superframe() {
        let layers = [frame(true, 250), frame(false, 330)];
        let packets = cut(&layers);
        let pieces: Vec<_> = packets.iter().map(|(p, marker)| (9, p.as_slice(), *marker, false)).collect();
        let units = join(&mut Depacketizer::default(), &pieces);
        assert_eq!(units.len(), 1);
        assert!(units[0].key && units[0].decodable && !units[0].damaged);
        let expected = [&layers.concat()[..], &vp9::superframe_index(&[250, 580])].concat();
        assert!(units[0].data == expected);
        let alone = cut(&layers[..1]);
        let pieces: Vec<_> = alone.iter().map(|(p, marker)| (9, p.as_slice(), *marker, false)).collect();
        assert!(join(&mut Depacketizer::default(), &pieces)[0].data == layers[0]);
    }

    #[test]
    fn whatever_packet_is_lost_the_picture_goes_on_empty() {
        let packets = cut(&[frame(true, 250), frame(false, 330)]);
        let next = cut(&[frame(true, 50)]);
        for lost in 0..packets.len() {
            let mut pieces = Vec::new();
            for (n, (payload, marker)) in packets.iter().enumerate().filter(|(n, _)| *n != lost) {
                pieces.push((1, payload.as_slice(), *marker, n == lost + 1));
            }
            pieces.push((2, &next[0].0, true, lost + 1 == packets.len()));
            let units = join(&mut Depacketizer::default(), &pieces);
            assert_eq!(units.len(), 2, "{lost}");
            assert!(units[0].damaged && units[0].data.is_empty() && !units[0].key, "{lost}");
            assert!(units[1].key && !units[1].damaged, "{lost}");
        }
    }

    #[test]
    fn a_stream_that_ends_is_handed_on_as_damaged_and_begins_with_a_key_frame() {
        let mut depacketizer = Depacketizer::default();
        let packets = cut(&[frame(true, 90), frame(false, 250)]);
        join(&mut depacketizer, &[(1, &packets[0].0, true, false), (2, &packets[1].0, false, false)]);
        assert!(depacketizer.flush().is_some_and(|unit| unit.damaged));
        assert_eq!(depacketizer.flush(), None);
        let interframe = cut(&[frame(false, 50)]);
        let units = join(&mut depacketizer, &[(3, &interframe[0].0, true, false)]);
        assert!(!units[0].decodable && !units[0].damaged);
    }

    #[test]
    fn mutated_payloads_never_panic_and_memory_stays_bounded() {
        let mut random = StdRng::seed_from_u64(14);
        let mut packets = cut(&[frame(true, 2000), frame(false, 3000)]);
        packets.push((
            [&[0x0e, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 2, 0, 8, 1, 2][..], &frame(true, 60)].concat(),
            true,
        ));
        let mut depacketizer = Depacketizer::default();
        let (mut timestamp, mut whole) = (0u32, 0);
        for round in 0..60_000 {
            let (mut payload, mut marker) = packets[round % packets.len()].clone();
            if round % 4 == 0 {
                payload.truncate(random.random_range(0..payload.len()));
            }
            for _ in 0..random.random_range(0..4) {
                if !payload.is_empty() {
                    let at = random.random_range(0..payload.len().min(20));
                    payload[at] = random.random();
                }
            }
            marker ^= random.random_range(0..10) == 0;
            timestamp += u32::from(random.random_range(0..8) == 0);
            let after_gap = random.random_range(0..20) == 0;
            let piece = Piece { codec: VideoCodec::Vp9, timestamp, marker, payload: &payload, after_gap };
            depacketizer.push(piece, |unit| {
                assert_eq!(unit.damaged, unit.data.is_empty());
                whole += usize::from(unit.key);
            });
            assert!(depacketizer.building.len() <= UNIT_MAX && depacketizer.ends.len() <= LAYERS_MAX);
        }
        assert!(whole > 0);
    }
}
