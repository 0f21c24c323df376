//! VP8 in RTP (RFC 7741), both ways: packets to frames and frames to packets.
//!
//! A frame begins where a packet says so (S bit, partition 0) and ends at the marker or where the timestamp changes. One
//! that lost a part is of no use to a decoder and goes on empty, so that the loss is known. All extensions of the
//! descriptor are read; of what they say nothing is needed here: every temporal layer is taken, and what is missing
//! shows in the sequence numbers.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::access_unit::VideoCodec;
use crate::media::vp8;
use crate::rtp::payload::{Payload, Refused, UNIT_MAX, Unit};
use crate::rtp::reorder::Piece;

/// Bits of the first byte (§4.2).
const EXTENDED: u8 = 0x80;
const STARTS: u8 = 0x10;
const PARTITION: u8 = 0x07;
/// Bits of the second byte.
const PICTURE_ID: u8 = 0x80;
const TL0PICIDX: u8 = 0x40;
const LAYER: u8 = 0x20;
const KEY_INDEX: u8 = 0x10;
/// Bit of the third byte: the PictureID has 15 bits.
const LONG: u8 = 0x80;

/// What leads a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// The first packet of a partition.
    pub starts: bool,
    /// Of 0 to 7; 0 begins with the frame's header.
    pub partition: u8,
    /// Of 7 or 15 bits.
    pub picture_id: Option<u16>,
    pub tl0picidx: Option<u8>,
    /// Temporal layer.
    pub layer: Option<u8>,
    pub key_index: Option<u8>,
}

impl Descriptor {
    /// Reads one; what follows it belongs to the frame. `None`: malformed.
    pub fn parse(payload: &[u8]) -> Option<(Descriptor, &[u8])> {
        let (&first, mut rest) = payload.split_first()?;
        let mut descriptor =
            Descriptor { starts: first & STARTS != 0, partition: first & PARTITION, ..Descriptor::default() };
        if first & EXTENDED != 0 {
            let mut take = || {
                let (&byte, behind) = rest.split_first()?;
                rest = behind;
                Some(byte)
            };
            let extensions = take()?;
            if extensions & PICTURE_ID != 0 {
                let id = take()?;
                descriptor.picture_id = Some(if id & LONG != 0 {
                    u16::from_be_bytes([id & !LONG, take()?])
                } else {
                    u16::from(id)
                });
            }
            if extensions & TL0PICIDX != 0 {
                descriptor.tl0picidx = Some(take()?);
            }
            if extensions & (LAYER | KEY_INDEX) != 0 {
                let both = take()?;
                descriptor.layer = (extensions & LAYER != 0).then_some(both >> 6);
                descriptor.key_index = (extensions & KEY_INDEX != 0).then_some(both & 0x1f);
            }
        }
        (!rest.is_empty()).then_some((descriptor, rest))
    }
}

/// Packets in sequence to frames.
#[derive(Debug, Default)]
pub struct Depacketizer {
    building: BytesMut,
    timestamp: Option<u32>,
    /// Something of the frame has come.
    begun: bool,
    /// Its beginning has come.
    headed: bool,
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

    /// Takes the next packet in sequence; hands on the frames it completes.
    pub fn push(&mut self, piece: Piece<'_>, mut take: impl FnMut(Unit)) {
        if self.begun && self.timestamp != Some(piece.timestamp) {
            // No marker came: with a gap here, the end of it may be what is missing.
            self.damaged |= piece.after_gap;
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
        if descriptor.starts && descriptor.partition == 0 && !self.headed {
            self.headed = true;
        } else if !self.headed {
            self.damaged = true;
        }
        if self.damaged {
            return;
        }
        if self.building.len() + data.len() > UNIT_MAX {
            self.refused.too_large += 1;
            self.damaged = true;
            self.building.clear();
            return;
        }
        self.building.put_slice(data);
    }

    fn finish(&mut self) -> Unit {
        let (damaged, after_loss) = (self.damaged, self.after_loss);
        let mut data = self.building.split().freeze();
        if damaged {
            data = Bytes::new();
        }
        let key = vp8::is_key(&data);
        self.key_seen |= key;
        (self.begun, self.headed, self.damaged, self.after_loss) = (false, false, false, false);
        Unit {
            codec: VideoCodec::Vp8,
            data,
            timestamp: self.timestamp.unwrap_or_default(),
            key,
            decodable: self.key_seen,
            damaged,
            after_loss,
        }
    }
}

/// Frames to packets, each with a 15-bit PictureID: peers tell frames apart by it and repair losses better.
#[derive(Clone, Copy, Debug)]
pub struct Packetizer {
    max_payload: usize,
    picture_id: u16,
}

impl Packetizer {
    /// `max_payload`: bytes per payload, descriptor included, at least 16. `picture_id`: of the first frame.
    pub fn new(max_payload: usize, picture_id: u16) -> Self {
        Packetizer { max_payload, picture_id }
    }

    /// Cuts one frame into payloads of nearly equal size, in order.
    pub fn packetize(&mut self, frame: &Bytes, mut put: impl FnMut(Payload)) {
        let [high, low] = (self.picture_id | u16::from(LONG) << 8).to_be_bytes();
        self.picture_id = self.picture_id.wrapping_add(1);
        let room = self.max_payload.max(16) - 4;
        let parts = frame.len().div_ceil(room);
        let each = frame.len().div_ceil(parts.max(1));
        let mut from = 0;
        while from < frame.len() {
            let to = (from + each).min(frame.len());
            let start = if from == 0 { STARTS } else { 0 };
            let payload = Payload::new(&[EXTENDED | start, PICTURE_ID, high, low], frame.slice(from..to));
            put(Payload { marker: to == frame.len(), ..payload });
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// A frame of `len` bytes with the header of one of 320x240.
    fn frame(key: bool, len: usize) -> Bytes {
        let mut data: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        data[..10].copy_from_slice(&[0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xf0, 0x00]);
        data[0] |= u8::from(!key);
        data.into()
    }

    fn cut(packetizer: &mut Packetizer, frame: &Bytes) -> Vec<(Vec<u8>, bool)> {
        let mut packets = Vec::new();
        packetizer.packetize(frame, |payload| packets.push((payload.parts().concat(), payload.marker)));
        packets
    }

    fn join(depacketizer: &mut Depacketizer, packets: &[(u32, &[u8], bool, bool)]) -> Vec<Unit> {
        let mut units = Vec::new();
        for (timestamp, payload, marker, after_gap) in packets {
            let (timestamp, marker, after_gap) = (*timestamp, *marker, *after_gap);
            let piece = Piece { codec: VideoCodec::Vp8, timestamp, marker, payload, after_gap };
            depacketizer.push(piece, |unit| units.push(unit));
        }
        units
    }

    #[test]
    fn descriptors_are_read_with_every_extension() {
        let read = |bytes: &[u8]| Descriptor::parse(bytes).map(|(descriptor, rest)| (descriptor, rest.len()));
        let plain = Descriptor { starts: true, ..Descriptor::default() };
        let all = Descriptor {
            partition: 3,
            picture_id: Some(0x1234),
            tl0picidx: Some(7),
            layer: Some(2),
            key_index: Some(5),
            ..Descriptor::default()
        };
        let table: [(&[u8], _); 10] = [
            (&[0x10, 1], Some((plain, 1))),
            // Reserved bits and the N bit change nothing.
            (&[0x10 | 0x68, 1], Some((plain, 1))),
            (&[0x90, 0x00, 1, 2], Some((plain, 2))),
            (&[0x90, 0x80, 0x7f, 1], Some((Descriptor { picture_id: Some(0x7f), ..plain }, 1))),
            (&[0x90, 0x80, 0x80, 0x01, 1], Some((Descriptor { picture_id: Some(1), ..plain }, 1))),
            (&[0x90, 0x40, 9, 1], Some((Descriptor { tl0picidx: Some(9), ..plain }, 1))),
            (&[0x90, 0x20, 0xc0, 1], Some((Descriptor { layer: Some(3), ..plain }, 1))),
            (&[0x90, 0x10, 0x1f, 1], Some((Descriptor { key_index: Some(31), ..plain }, 1))),
            (&[0x83, 0xf0, 0x92, 0x34, 7, 0x85, 1], Some((all, 1))),
            (&[0x10], None),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(bytes), expected, "{bytes:02x?}");
        }
        let long = [0x83, 0xf0, 0x92, 0x34, 7, 0x85];
        (0..=long.len()).for_each(|len| assert_eq!(read(&long[..len]), None, "{len}"));
    }

    #[test]
    fn a_key_frame_of_a_thousand_packets_comes_back_whole() {
        let key = frame(true, 1_190_000);
        let mut packetizer = Packetizer::new(1200, u16::MAX);
        let packets = cut(&mut packetizer, &key);
        assert!(packets.iter().all(|(payload, _)| payload.len() <= 1200));
        assert_eq!(packets.iter().filter(|(_, marker)| *marker).count(), 1);
        assert!(packets[0].0[0] == 0x90 && packets[1].0[0] == 0x80);
        let ids = |packets: &[(Vec<u8>, bool)]| {
            Descriptor::parse(&packets[0].0).and_then(|(descriptor, _)| descriptor.picture_id)
        };
        assert_eq!(ids(&packets), Some(0x7fff));
        assert_eq!(ids(&cut(&mut packetizer, &frame(false, 20))), Some(0), "15 bits wrap");
        let pieces: Vec<_> = packets.iter().map(|(p, marker)| (9, p.as_slice(), *marker, false)).collect();
        let units = join(&mut Depacketizer::default(), &pieces);
        assert_eq!(units.len(), 1);
        assert!(units[0].key && units[0].decodable && !units[0].damaged && units[0].data == key);
    }

    #[test]
    fn a_frame_with_a_hole_goes_on_empty_and_the_next_is_whole() {
        let mut packetizer = Packetizer::new(100, 0);
        let (key, next) = (cut(&mut packetizer, &frame(true, 400)), cut(&mut packetizer, &frame(false, 400)));
        assert_eq!((key.len(), next.len()), (5, 5));
        let part = |packets: &'_ [(Vec<u8>, bool)], timestamp: u32, lost: &[usize]| {
            let mut gap = false;
            let mut kept = Vec::new();
            for (n, (payload, marker)) in packets.iter().enumerate() {
                if lost.contains(&n) {
                    gap = true;
                } else {
                    kept.push((timestamp, payload.clone(), *marker, std::mem::take(&mut gap)));
                }
            }
            (kept, gap)
        };
        for lost in [vec![0], vec![2], vec![4], vec![0, 1, 2, 3]] {
            let (mut pieces, gap) = part(&key, 1, &lost);
            let (after, _) = part(&next, 2, &[]);
            pieces.extend(after);
            if let Some(first) = pieces.iter_mut().find(|piece| gap && piece.0 == 2) {
                first.3 = true;
            }
            let pieces: Vec<_> = pieces.iter().map(|(t, p, m, gap)| (*t, p.as_slice(), *m, *gap)).collect();
            let units = join(&mut Depacketizer::default(), &pieces);
            assert_eq!(units.len(), 2, "{lost:?}");
            assert!(units[0].damaged && units[0].data.is_empty() && !units[0].key, "{lost:?}");
            assert!(!units[1].damaged && !units[1].decodable, "{lost:?}: no key frame yet");
            assert_eq!(units[1].after_loss, gap, "{lost:?}");
        }
    }

    #[test]
    fn a_frame_without_a_marker_ends_at_the_next_timestamp() {
        let mut packetizer = Packetizer::new(1200, 0);
        let packets: Vec<_> = (0..3).map(|n| cut(&mut packetizer, &frame(n == 0, 50)).remove(0).0).collect();
        let mut depacketizer = Depacketizer::default();
        let units =
            join(&mut depacketizer, &[(1, &packets[0], false, false), (2, &packets[1], false, false)]);
        assert_eq!((units.len(), units[0].key, units[0].damaged), (1, true, false));
        let units = join(&mut depacketizer, &[(3, &packets[2], false, true)]);
        assert!(units[0].damaged, "its end may be what was lost");
        assert!(depacketizer.flush().is_some_and(|unit| unit.damaged));
        assert_eq!(depacketizer.flush(), None);
    }

    #[test]
    fn several_partitions_are_one_frame() {
        let whole = frame(true, 30);
        let parts = [[&[0x10][..], &whole[..12]].concat(), [&[0x11][..], &whole[12..]].concat()];
        let units =
            join(&mut Depacketizer::default(), &[(1, &parts[0], false, false), (1, &parts[1], true, false)]);
        assert!(units.len() == 1 && units[0].key && units[0].data == whole);
    }

    #[test]
    fn endless_frames_end_at_the_limit() {
        let mut depacketizer = Depacketizer::default();
        let mut part = vec![0x00; 1200];
        part[0] = 0x10;
        for _ in 0..8000 {
            assert!(join(&mut depacketizer, &[(1, &part, false, false)]).is_empty());
            assert!(depacketizer.building.len() <= UNIT_MAX);
            part[0] = 0;
        }
        assert_eq!(depacketizer.refused().too_large, 1);
    }

    #[test]
    fn mutated_payloads_never_panic_and_memory_stays_bounded() {
        let mut random = StdRng::seed_from_u64(12);
        let mut packetizer = Packetizer::new(300, 77);
        let mut packets = cut(&mut packetizer, &frame(true, 6000));
        packets.extend(cut(&mut packetizer, &frame(false, 900)));
        let mut depacketizer = Depacketizer::default();
        let (mut timestamp, mut whole) = (0u32, 0);
        for round in 0..60_000 {
            let (mut payload, mut marker) = packets[round % packets.len()].clone();
            if round % 4 == 0 {
                payload.truncate(random.random_range(0..payload.len()));
            }
            for _ in 0..random.random_range(0..4) {
                if !payload.is_empty() {
                    let at = random.random_range(0..payload.len().min(14));
                    payload[at] = random.random();
                }
            }
            marker ^= random.random_range(0..10) == 0;
            timestamp += u32::from(random.random_range(0..8) == 0);
            let after_gap = random.random_range(0..20) == 0;
            let piece = Piece { codec: VideoCodec::Vp8, timestamp, marker, payload: &payload, after_gap };
            depacketizer.push(piece, |unit| {
                assert_eq!(unit.damaged, unit.data.is_empty());
                whole += usize::from(unit.key);
            });
            assert!(depacketizer.building.len() <= UNIT_MAX);
        }
        assert!(whole > 0);
    }
}
