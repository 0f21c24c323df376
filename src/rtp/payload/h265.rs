//! H.265 in RTP (RFC 7798), received only: packets to access units.
//!
//! Single NAL units, aggregation packets and fragmentation units in any mix, without decoding order numbers (they are
//! not negotiated); PACI packets are refused. A unit ends at the marker or where the timestamp changes. Loss never
//! glues two NAL units together: one that lost a part is dropped, the other slices of its picture stay.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::access_unit::VideoCodec;
use crate::media::h265::{HEADER_LEN, NalType, parameter_set_id};
use crate::media::nal::{self, START_CODE};
use crate::rtp::payload::{Refused, UNIT_MAX, Unit};
use crate::rtp::reorder::Piece;

/// Types of payload (§4.4).
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;
const PACI: u8 = 50;
/// Bits of a fragment's header.
const START: u8 = 0x80;
const END: u8 = 0x40;
/// Parameter sets kept per stream and kind, and the largest one.
const SETS_KEPT: usize = 8;
const PARAMETER_SET_MAX: usize = 1024;

/// The parameter sets last heard of, by kind and id.
#[derive(Clone, Debug, Default)]
struct ParameterSets {
    /// Video, sequence, picture.
    kinds: [Vec<(u8, Vec<u8>)>; 3],
}

fn kind_of(first: u8) -> Option<usize> {
    match NalType::of(first) {
        NalType::Vps => Some(0),
        NalType::Sps => Some(1),
        NalType::Pps => Some(2),
        NalType::Slice | NalType::RandomAccess | NalType::Other(_) => None,
    }
}

impl ParameterSets {
    /// Takes a parameter set NAL unit; nonsense and other units are ignored.
    fn learn(&mut self, unit: &[u8]) {
        let Some(kind) = unit.first().and_then(|first| kind_of(*first)) else { return };
        let Some(id) = parameter_set_id(unit).filter(|_| unit.len() <= PARAMETER_SET_MAX) else { return };
        let sets = &mut self.kinds[kind];
        if sets.last().is_some_and(|(newest, same)| *newest == id && same == unit) {
            return;
        }
        sets.retain(|(other, _)| *other != id);
        if sets.len() >= SETS_KEPT {
            sets.remove(0);
        }
        sets.push((id, unit.to_vec()));
    }

    /// Whether a decoder can start with them.
    fn complete(&self) -> bool {
        self.kinds.iter().all(|sets| !sets.is_empty())
    }
}

/// Packets in sequence to access units.
#[derive(Debug, Default)]
pub struct Depacketizer {
    building: BytesMut,
    timestamp: Option<u32>,
    flags: Flags,
    /// Where the NAL unit of unfinished fragments begins in `building`.
    fragment: Option<usize>,
    sets: ParameterSets,
    refused: Refused,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    picture: bool,
    random_access: bool,
    /// Kinds of parameter sets in the unit.
    sets: [bool; 3],
    damaged: bool,
    after_loss: bool,
    /// Too large: swallow the rest of it.
    overflow: bool,
}

impl Depacketizer {
    /// Parameter sets of the SDP, without start codes; others than of H.265 are ignored.
    pub fn learn<'a>(&mut self, parameter_sets: impl IntoIterator<Item = &'a [u8]>) {
        parameter_sets.into_iter().for_each(|unit| self.sets.learn(unit));
    }

    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Takes the next packet in sequence; hands on the units it completes.
    pub fn push(&mut self, piece: Piece<'_>, mut take: impl FnMut(Unit)) {
        let begun = self.flags.picture || self.flags.overflow;
        if begun && self.timestamp.is_some_and(|before| before != piece.timestamp) {
            // No marker came: with a gap here, the end of it may be what is missing.
            self.flags.damaged |= piece.after_gap;
            take(self.finish());
        }
        self.timestamp = Some(piece.timestamp);
        if piece.after_gap {
            self.flags.after_loss = true;
            self.cut_fragment();
            // Whether the beginning is missing shows in the first slice.
            self.flags.damaged |= self.flags.picture;
        }
        if !piece.payload.is_empty() {
            self.take_payload(piece.payload);
        }
        if piece.marker && (self.flags.picture || self.flags.overflow || self.fragment.is_some()) {
            take(self.finish());
        }
    }

    /// The stream ends here: what is half built is handed on as damaged.
    pub fn flush(&mut self) -> Option<Unit> {
        self.flags.damaged = true;
        let unit = self.flags.picture.then(|| self.finish());
        self.drop_unit();
        unit
    }

    fn take_payload(&mut self, payload: &[u8]) {
        // The forbidden bit, a header cut short, or a layer of a scalable stream (§1.1.4: zero).
        let sane = payload.len() > HEADER_LEN && payload[0] & 0x81 == 0 && payload[1] & 0xf8 == 0;
        match payload[0] >> 1 & 0x3f {
            _ if !sane => self.refuse_malformed(),
            FRAGMENTATION => self.take_fragment(payload),
            kind => {
                // Another packet in the middle of a fragmented unit: its end was lost without a gap in numbers.
                self.cut_fragment();
                match kind {
                    0..AGGREGATION => self.take_nal(payload),
                    AGGREGATION => self.take_aggregate(&payload[HEADER_LEN..]),
                    PACI => {
                        self.refused.unsupported += 1;
                        self.flags.damaged = true;
                    }
                    _ => self.refuse_malformed(),
                }
            }
        }
    }

    fn take_aggregate(&mut self, mut rest: &[u8]) {
        while let [high, low, behind @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((unit, next)) = behind.split_at_checked(len).filter(|(unit, _)| unit.len() > HEADER_LEN)
            else {
                return self.refuse_malformed();
            };
            if unit[0] & 0x80 == 0 && (unit[0] >> 1 & 0x3f) < AGGREGATION {
                self.take_nal(unit);
            } else {
                self.refuse_malformed();
            }
            rest = next;
        }
        if !rest.is_empty() {
            self.refuse_malformed();
        }
    }

    fn take_nal(&mut self, unit: &[u8]) {
        if !self.reserve(unit.len()) {
            return;
        }
        self.note(unit[0], unit.get(HEADER_LEN).copied());
        self.building.put_slice(&START_CODE);
        self.building.put_slice(unit);
        self.sets.learn(unit);
    }

    fn take_fragment(&mut self, payload: &[u8]) {
        let [first, second, header, data @ ..] = payload else { return self.refuse_malformed() };
        if data.is_empty() {
            return self.refuse_malformed();
        }
        let kind = header & 0x3f;
        let first = first & 0x81 | kind << 1;
        if header & START != 0 {
            self.cut_fragment();
            if kind >= AGGREGATION {
                return self.refuse_malformed();
            }
            if !self.reserve(data.len()) {
                return;
            }
            self.note(first, data.first().copied());
            self.fragment = Some(self.building.len());
            self.building.put_slice(&START_CODE);
            self.building.put_slice(&[first, *second]);
        }
        let goes_on = |begin: &usize| self.building.get(begin + START_CODE.len()) == Some(&first);
        let Some(begin) = self.fragment.filter(goes_on) else {
            // The middle of a unit whose beginning never came.
            self.cut_fragment();
            self.flags.damaged = true;
            return;
        };
        if !self.reserve(data.len()) {
            return;
        }
        self.building.put_slice(data);
        if header & END != 0 {
            self.fragment = None;
            self.sets.learn(&self.building[begin + START_CODE.len()..]);
        }
    }

    /// Room for so many more bytes, or the unit is given up.
    fn reserve(&mut self, len: usize) -> bool {
        if self.flags.overflow {
            return false;
        }
        if self.building.len() + len + START_CODE.len() + HEADER_LEN > UNIT_MAX {
            self.refused.too_large += 1;
            self.building.clear();
            self.fragment = None;
            self.flags.overflow = true;
            self.flags.damaged = true;
            return false;
        }
        true
    }

    /// `third`: the first byte behind the header of a NAL unit; in a slice segment its first bit says that the picture
    /// begins here.
    fn note(&mut self, first: u8, third: Option<u8>) {
        let kind = NalType::of(first);
        if kind.is_picture() && !self.flags.picture {
            let begins_picture = third.is_some_and(|byte| byte & 0x80 != 0);
            self.flags.damaged |= self.flags.after_loss && !begins_picture;
        }
        self.flags.picture |= kind.is_picture();
        self.flags.random_access |= kind == NalType::RandomAccess;
        if let Some(kind) = kind_of(first) {
            self.flags.sets[kind] = true;
        }
    }

    /// A fragmented unit will not get its end.
    fn cut_fragment(&mut self) {
        if let Some(begin) = self.fragment.take() {
            self.flags.damaged = true;
            self.building.truncate(begin);
        }
    }

    fn refuse_malformed(&mut self) {
        self.refused.malformed += 1;
        self.flags.damaged = true;
    }

    fn finish(&mut self) -> Unit {
        self.cut_fragment();
        let flags = self.flags;
        let mut data = self.building.split().freeze();
        let decodable = self.sets.complete();
        let key = flags.random_access
            && decodable
            && nal::units(&data).any(|unit| NalType::of(unit[0]).is_picture());
        if key && (flags.damaged || flags.sets != [true; 3]) {
            data = self.behind_sets(&data);
        } else if !flags.picture {
            data = Bytes::new();
        }
        let (timestamp, codec) = (self.timestamp.unwrap_or_default(), VideoCodec::H265);
        let damaged = flags.damaged || data.is_empty();
        self.drop_unit();
        Unit { codec, data, timestamp, key, decodable, damaged, after_loss: flags.after_loss }
    }

    /// A key picture behind every parameter set known.
    fn behind_sets(&self, picture: &[u8]) -> Bytes {
        let mut whole = Vec::with_capacity(picture.len() + 256);
        self.sets.kinds.iter().flatten().for_each(|(_, set)| nal::push(&mut whole, set));
        whole.extend_from_slice(picture);
        whole.into()
    }

    fn drop_unit(&mut self) {
        self.building.clear();
        self.fragment = None;
        self.flags = Flags::default();
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const VPS: [u8; 6] = [0x40, 0x01, 0x0c, 0x01, 0xff, 0xff];
    /// Of x265, 640x360.
    const SPS: [u8; 28] = [
        0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00,
        0x3f, 0xa0, 0x05, 0x02, 0x01, 0x71, 0xf2, 0xe5, 0xba, 0x4a, 0x4c,
    ];
    const PPS: [u8; 6] = [0x44, 0x01, 0xc0, 0x71, 0x83, 0x12];
    const IDR: u8 = 19 << 1;
    const TRAIL: u8 = 1 << 1;

    /// The first slice segment of a picture.
    fn slice(kind: u8, len: usize, seed: u8) -> Vec<u8> {
        let mut unit: Vec<u8> = (0..len).map(|i| (i % 250) as u8 ^ seed | 1).collect();
        (unit[0], unit[1]) = (kind, 1);
        unit[2] |= 0x80;
        unit
    }

    fn fragments(unit: &[u8], each: usize) -> Vec<Vec<u8>> {
        let parts: Vec<&[u8]> = unit[2..].chunks(each).collect();
        let lead = |n: usize| {
            let start = if n == 0 { START } else { 0 };
            let end = if n + 1 == parts.len() { END } else { 0 };
            [FRAGMENTATION << 1, 1, start | end | unit[0] >> 1]
        };
        parts.iter().enumerate().map(|(n, part)| [&lead(n)[..], part].concat()).collect()
    }

    fn aggregate(units: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![AGGREGATION << 1, 1];
        for unit in units {
            out.extend_from_slice(&(unit.len() as u16).to_be_bytes());
            out.extend_from_slice(unit);
        }
        out
    }

    fn join(depacketizer: &mut Depacketizer, packets: &[(u32, &[u8], bool, bool)]) -> Vec<Unit> {
        let mut units = Vec::new();
        for (timestamp, payload, marker, after_gap) in packets {
            let (timestamp, marker, after_gap) = (*timestamp, *marker, *after_gap);
            let piece = Piece { codec: VideoCodec::H265, timestamp, marker, payload, after_gap };
            depacketizer.push(piece, |unit| units.push(unit));
        }
        units
    }

    fn kinds(unit: &Unit) -> Vec<u8> {
        nal::units(&unit.data).map(|unit| unit[0] >> 1).collect()
    }

    #[test]
    fn every_form_of_packet_is_read() {
        let (key, sets) = (slice(IDR, 5000, 3), aggregate(&[&VPS, &SPS, &PPS]));
        let parts = fragments(&key, 1000);
        let mut packets = vec![(1, sets.as_slice(), false, false)];
        packets.extend(parts.iter().map(|part| (1, part.as_slice(), false, false)));
        packets.last_mut().expect("a packet").2 = true;
        let mut depacketizer = Depacketizer::default();
        let units = join(&mut depacketizer, &packets);
        assert!(units.len() == 1 && units[0].key && units[0].decodable && !units[0].damaged);
        assert_eq!(kinds(&units[0]), [32, 33, 34, 19]);
        assert!(units[0].data.ends_with(&key));
        let next = slice(TRAIL, 50, 1);
        let units = join(&mut depacketizer, &[(2, &next, true, false)]);
        assert!(!units[0].key && units[0].data[4..] == next[..]);
    }

    #[test]
    fn a_key_picture_without_its_parameter_sets_gets_those_of_the_description() {
        let key = slice(IDR, 50, 3);
        let mut depacketizer = Depacketizer::default();
        let units = join(&mut depacketizer, &[(1, &key, true, false)]);
        assert!(!units[0].decodable && !units[0].key);
        depacketizer.learn([&VPS[..], &SPS, &PPS, &[0x67, 0x42], &[]]);
        let units = join(&mut depacketizer, &[(2, &key, true, false)]);
        assert!(units[0].key && units[0].decodable);
        assert_eq!(kinds(&units[0]), [32, 33, 34, 19]);
        assert!(join(&mut depacketizer, &[(3, &PPS, false, false), (3, &key, true, false)])[0].key);
    }

    #[test]
    fn a_lost_fragment_costs_its_unit_and_no_other() {
        let (first, second) = (slice(TRAIL, 3000, 1), slice(TRAIL, 300, 2));
        let parts = fragments(&first, 1000);
        for lost in 0..parts.len() {
            let mut packets = Vec::new();
            for (n, part) in parts.iter().enumerate().filter(|(n, _)| *n != lost) {
                packets.push((1, part.as_slice(), false, n == lost + 1));
            }
            packets.push((1, &second, true, lost + 1 == parts.len()));
            let units = join(&mut Depacketizer::default(), &packets);
            assert_eq!(units.len(), 1, "{lost}");
            assert!(units[0].damaged && units[0].data[4..] == second[..], "{lost}");
        }
        let cut: Vec<_> = parts[..2].iter().map(|part| (1, part.as_slice(), false, false)).collect();
        let mut depacketizer = Depacketizer::default();
        join(&mut depacketizer, &cut);
        let units = join(&mut depacketizer, &[(2, &second, true, true)]);
        assert_eq!(units.len(), 2);
        assert!(units[0].damaged && units[0].data.is_empty() && units[1].after_loss && !units[1].damaged);
    }

    #[test]
    fn what_is_not_of_this_format_is_refused_and_counted() {
        let mut depacketizer = Depacketizer::default();
        for payload in [
            &[PACI << 1, 1, 0, 0, 9][..],
            &[0x82, 1, 9],
            &[0x02],
            &[0x02, 0x09, 1],
            &[51 << 1, 1, 0],
            &[AGGREGATION << 1, 1, 0, 9, 1],
            &[AGGREGATION << 1, 1, 0],
            &[FRAGMENTATION << 1, 1, 0x81],
            &[FRAGMENTATION << 1, 1, START | 49, 1],
        ] {
            join(&mut depacketizer, &[(1, payload, false, false)]);
        }
        assert_eq!(depacketizer.refused(), Refused { malformed: 8, unsupported: 1, too_large: 0 });
        assert_eq!(depacketizer.flush(), None);
    }

    #[test]
    fn endless_fragments_end_at_the_limit() {
        let mut depacketizer = Depacketizer::default();
        let mut part = vec![0x55; 1200];
        (part[0], part[1], part[2]) = (FRAGMENTATION << 1, 1, START | 1);
        for _ in 0..8000 {
            assert!(join(&mut depacketizer, &[(1, &part, false, false)]).is_empty());
            assert!(depacketizer.building.len() <= UNIT_MAX);
            part[2] = 1;
        }
        assert_eq!(depacketizer.refused().too_large, 1);
        let good = slice(TRAIL, 10, 1);
        let last = join(&mut depacketizer, &[(2, &good, true, false)]);
        assert_eq!(last.last().map(|unit| unit.damaged), Some(false));
    }

    #[test]
    fn mutated_payloads_never_panic_and_memory_stays_bounded() {
        let mut random = StdRng::seed_from_u64(15);
        let mut packets = vec![(aggregate(&[&VPS, &SPS, &PPS]), false)];
        packets.extend(fragments(&slice(IDR, 6000, 3), 500).into_iter().map(|part| (part, false)));
        packets.push((slice(TRAIL, 500, 4), true));
        let mut depacketizer = Depacketizer::default();
        let (mut timestamp, mut keys) = (0u32, 0);
        for round in 0..60_000 {
            let (mut payload, mut marker) = packets[round % packets.len()].clone();
            if round % 4 == 0 {
                payload.truncate(random.random_range(0..payload.len()));
            }
            for _ in 0..random.random_range(0..4) {
                if !payload.is_empty() {
                    let at = random.random_range(0..payload.len().min(8));
                    payload[at] = random.random();
                }
            }
            marker ^= random.random_range(0..10) == 0;
            timestamp += u32::from(random.random_range(0..8) == 0);
            let after_gap = random.random_range(0..20) == 0;
            let piece = Piece { codec: VideoCodec::H265, timestamp, marker, payload: &payload, after_gap };
            depacketizer.push(piece, |unit| {
                assert!(unit.damaged || !unit.data.is_empty());
                keys += usize::from(unit.key);
            });
            assert!(depacketizer.building.len() <= UNIT_MAX);
            assert!(depacketizer.sets.kinds.iter().all(|sets| sets.len() <= SETS_KEPT));
        }
        assert!(keys > 0);
    }
}
