//! H.264 in RTP (RFC 6184), both ways: packets to access units and access units to packets.
//!
//! Received: single NAL units, STAP-A and FU-A in any mix, whatever mode was negotiated; interleaved forms are
//! refused. A unit ends at the marker or where the timestamp changes. Loss never glues two NAL units together: a
//! slice that lost its end stays as far as it came (decoders conceal the rest), anything else broken is dropped.
//! Order and loss of packets are found by `reorder`; what damage means for later pictures is `video`'s.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::access_unit::VideoCodec;
use crate::media::nal::{self, NalType, START_CODE};
use crate::media::sps;
use crate::rtp::payload::{self, Payload, Refused, UNIT_MAX};
use crate::rtp::reorder::Piece;

/// Larger NAL units are dropped whole.
pub const NAL_MAX: usize = 2 << 20;
/// Parameter sets kept per stream, and the largest one.
const SPS_KEPT: usize = 4;
const PPS_KEPT: usize = 8;
const PARAMETER_SET_MAX: usize = 1024;

const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// RFC 6184 §6.2: how NAL units are put into packets we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketizationMode {
    /// Mode 0: one whole NAL unit per packet.
    SingleNal,
    /// Mode 1: also STAP-A and FU-A.
    NonInterleaved,
}

/// One access unit as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Annex B. Empty when nothing of it is of use; then it is damaged too.
    pub data: Bytes,
    pub timestamp: u32,
    /// Holds an IDR slice.
    pub idr: bool,
    pub has_sps: bool,
    pub has_pps: bool,
    /// Part of this very unit is missing.
    pub damaged: bool,
    /// Packets were missing in or before it.
    pub after_loss: bool,
}

/// The parameter sets last heard of, by id.
#[derive(Clone, Debug, Default)]
pub struct ParameterSets {
    sps: VecDeque<(u8, Vec<u8>)>,
    pps: VecDeque<(u8, Vec<u8>)>,
}

impl ParameterSets {
    /// Takes a parameter set NAL unit; nonsense and other units are ignored.
    pub fn learn(&mut self, unit: &[u8]) {
        if unit.len() > PARAMETER_SET_MAX {
            return;
        }
        if let Ok(read) = sps::Sps::parse(unit) {
            remember(&mut self.sps, read.id, unit, SPS_KEPT);
        } else if let Ok((id, _)) = sps::pps_ids(unit) {
            remember(&mut self.pps, id, unit, PPS_KEPT);
        }
    }

    /// Whether a decoder can start with them.
    pub fn complete(&self) -> bool {
        !self.sps.is_empty() && !self.pps.is_empty()
    }

    /// Annex B of all of them, sequence sets first.
    pub fn annexb(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.sps.iter().chain(&self.pps).for_each(|(_, unit)| nal::push(&mut out, unit));
        out
    }

    /// The newest sequence parameter set.
    pub fn sps(&self) -> Option<&[u8]> {
        self.sps.back().map(|(_, unit)| unit.as_slice())
    }
}

fn remember(sets: &mut VecDeque<(u8, Vec<u8>)>, id: u8, unit: &[u8], most: usize) {
    if sets.back().is_some_and(|(newest, same)| *newest == id && same == unit) {
        return;
    }
    sets.retain(|(other, _)| *other != id);
    if sets.len() >= most {
        sets.pop_front();
    }
    sets.push_back((id, unit.to_vec()));
}

/// Packets in sequence to access units.
#[derive(Debug, Default)]
pub struct Depacketizer {
    building: BytesMut,
    timestamp: Option<u32>,
    flags: Flags,
    /// Where the NAL unit of an unfinished FU-A begins in `building`.
    fragment: Option<usize>,
    sets: ParameterSets,
    refused: Refused,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    picture: bool,
    idr: bool,
    sps: bool,
    pps: bool,
    damaged: bool,
    after_loss: bool,
    /// Too large: swallow the rest of it.
    overflow: bool,
}

impl Depacketizer {
    /// `parameter_sets`: those of the SDP, without start codes.
    pub fn new<'a>(parameter_sets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut depacketizer = Depacketizer::default();
        depacketizer.learn(parameter_sets);
        depacketizer
    }

    /// Parameter sets of a renewed SDP, without start codes.
    pub fn learn<'a>(&mut self, parameter_sets: impl IntoIterator<Item = &'a [u8]>) {
        parameter_sets.into_iter().for_each(|unit| self.sets.learn(unit));
    }

    pub fn refused(&self) -> Refused {
        self.refused
    }

    pub fn parameter_sets(&self) -> &ParameterSets {
        &self.sets
    }

    /// Takes the next packet in sequence; hands on the units it completes.
    pub fn push(&mut self, piece: Piece<'_>, mut take: impl FnMut(Unit)) {
        let begun = self.flags.picture || self.flags.overflow;
        if begun && self.timestamp.is_some_and(|before| before != piece.timestamp) {
            // No marker came: with a gap here, the end of it may be what is missing.
            self.flags.damaged |= piece.after_gap;
            self.finish(&mut take);
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
        if piece.marker && (self.flags.picture || self.flags.overflow) {
            self.cut_fragment();
            self.finish(&mut take);
        }
    }

    /// The stream ends here: what is half built is handed on as damaged.
    pub fn flush(&mut self, mut take: impl FnMut(Unit)) {
        if self.flags.picture {
            self.flags.damaged = true;
            self.finish(&mut take);
        }
        self.drop_unit();
    }

    /// The unit as a decoder takes it: every key picture behind its parameter sets.
    pub(super) fn whole(&self, unit: Unit) -> payload::Unit {
        let Unit { data, timestamp, idr, has_sps, has_pps, damaged, after_loss } = unit;
        let decodable = self.sets.complete();
        let key = idr && decodable && !data.is_empty();
        let data = if key && !(has_sps && has_pps) {
            let sets = self.sets.annexb();
            let mut whole = BytesMut::with_capacity(sets.len() + data.len());
            whole.put_slice(&sets);
            whole.put_slice(&data);
            whole.freeze()
        } else {
            data
        };
        payload::Unit { codec: VideoCodec::H264, data, timestamp, key, decodable, damaged, after_loss }
    }

    fn take_payload(&mut self, payload: &[u8]) {
        let kind = payload[0] & 0x1f;
        if payload[0] & 0x80 != 0 {
            self.refuse_malformed();
        } else if kind == FU_A {
            self.take_fragment(payload);
        } else {
            // Another packet in the middle of a fragmented unit: its end was lost without a gap in numbers.
            self.cut_fragment();
            match kind {
                1..=23 => self.take_nal(payload),
                STAP_A => self.take_aggregate(&payload[1..]),
                25..=27 | 29 => self.refused.unsupported += 1,
                _ => self.refuse_malformed(),
            }
        }
    }

    fn take_aggregate(&mut self, mut rest: &[u8]) {
        while let [high, low, behind @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((unit, next)) = behind.split_at_checked(len).filter(|(unit, _)| !unit.is_empty()) else {
                return self.refuse_malformed();
            };
            match unit[0] & 0x9f {
                1..=23 => self.take_nal(unit),
                _ => self.refuse_malformed(),
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
        self.note(unit[0], unit.get(1).copied());
        self.building.put_slice(&START_CODE);
        self.building.put_slice(unit);
        if matches!(NalType::of(unit[0]), NalType::Sps | NalType::Pps) {
            self.sets.learn(unit);
        }
    }

    fn take_fragment(&mut self, payload: &[u8]) {
        let [indicator, header, data @ ..] = payload else {
            return self.refuse_malformed();
        };
        let (start, end) = (header & 0x80 != 0, header & 0x40 != 0);
        let first = indicator & 0xe0 | header & 0x1f;
        if start {
            self.cut_fragment();
            if !matches!(first & 0x1f, 1..=23) {
                return self.refuse_malformed();
            }
            if !self.reserve(data.len()) {
                return;
            }
            self.note(first, data.first().copied());
            self.fragment = Some(self.building.len());
            self.building.put_slice(&START_CODE);
            self.building.put_u8(first);
        }
        let Some(begin) = self.fragment.filter(|begin| self.building.get(begin + 4).copied() == Some(first))
        else {
            // The middle of a unit whose beginning never came.
            self.cut_fragment();
            self.flags.damaged = true;
            return;
        };
        if self.building.len() - begin + data.len() > NAL_MAX || !self.reserve(data.len()) {
            return self.overflow();
        }
        self.building.put_slice(data);
        if end {
            self.fragment = None;
            if matches!(NalType::of(first), NalType::Sps | NalType::Pps) {
                self.sets.learn(&self.building[begin + 4..]);
            }
        }
    }

    /// Room for so many more bytes, or the unit is given up.
    fn reserve(&mut self, len: usize) -> bool {
        if self.flags.overflow {
            return false;
        }
        if self.building.len() + len + START_CODE.len() + 1 > UNIT_MAX {
            self.overflow();
            return false;
        }
        true
    }

    fn overflow(&mut self) {
        if !self.flags.overflow {
            self.refused.too_large += 1;
            self.building.clear();
            self.fragment = None;
            self.flags.overflow = true;
            self.flags.damaged = true;
        }
    }

    /// `second`: the first byte of the slice header; its first bit set means the slice begins at macroblock 0.
    fn note(&mut self, header: u8, second: Option<u8>) {
        let kind = NalType::of(header);
        if kind.is_picture() && !self.flags.picture {
            let begins_picture = second.is_some_and(|byte| byte & 0x80 != 0);
            self.flags.damaged |= self.flags.after_loss && !begins_picture;
        }
        self.flags.picture |= kind.is_picture();
        self.flags.idr |= kind == NalType::Idr;
        self.flags.sps |= kind == NalType::Sps;
        self.flags.pps |= kind == NalType::Pps;
    }

    /// A fragmented unit will not get its end.
    fn cut_fragment(&mut self) {
        let Some(begin) = self.fragment.take() else {
            return;
        };
        self.flags.damaged = true;
        let header = self.building.get(begin + START_CODE.len()).copied().unwrap_or_default();
        if !matches!(NalType::of(header), NalType::Slice | NalType::Idr) {
            self.building.truncate(begin);
        }
    }

    fn refuse_malformed(&mut self) {
        self.refused.malformed += 1;
        self.flags.damaged = true;
    }

    fn finish(&mut self, take: &mut impl FnMut(Unit)) {
        self.cut_fragment();
        let (flags, timestamp) = (self.flags, self.timestamp.unwrap_or_default());
        let data = self.building.split().freeze();
        self.drop_unit();
        take(Unit {
            data,
            timestamp,
            idr: flags.idr,
            has_sps: flags.sps,
            has_pps: flags.pps,
            damaged: flags.damaged,
            after_loss: flags.after_loss,
        });
    }

    fn drop_unit(&mut self) {
        self.building.clear();
        self.fragment = None;
        self.flags = Flags::default();
    }
}

/// The largest NAL unit that still goes alone in mode 0 when it exceeds the payload size wished for.
pub const SINGLE_NAL_MAX: usize = 1400;

/// Access units to packets. Shares the unit's memory; only aggregates are copied.
#[derive(Clone, Copy, Debug)]
pub struct Packetizer {
    pub mode: PacketizationMode,
    /// Bytes per payload, at least 16.
    pub max_payload: usize,
}

impl Packetizer {
    /// Cuts one unit (Annex B) into payloads, in order. Returns how many NAL units mode 0 could not send.
    pub fn packetize(&self, annexb: &Bytes, mut put: impl FnMut(Payload)) -> usize {
        let max_payload = self.max_payload.max(16);
        let mut held: Option<Payload> = None;
        let mut put_held = |payload: Payload| {
            if let Some(before) = held.replace(payload) {
                put(before);
            }
        };
        let mut refused = 0;
        let mut small: Vec<Bytes> = Vec::new();
        let mut small_len = 1;
        for unit in nal::units(annexb) {
            let unit = annexb.slice_ref(unit);
            match NalType::of(unit[0]) {
                NalType::AccessUnitDelimiter
                | NalType::Filler
                | NalType::EndOfSequence
                | NalType::EndOfStream => continue,
                NalType::Sps | NalType::Pps | NalType::Sei
                    if self.mode == PacketizationMode::NonInterleaved && unit.len() + 3 <= max_payload =>
                {
                    if small_len + unit.len() + 2 > max_payload {
                        aggregate(&mut small, &mut put_held);
                        small_len = 1;
                    }
                    small_len += unit.len() + 2;
                    small.push(unit);
                    continue;
                }
                _ => aggregate(&mut small, &mut put_held),
            }
            small_len = 1;
            let single = match self.mode {
                PacketizationMode::SingleNal => max_payload.max(SINGLE_NAL_MAX),
                PacketizationMode::NonInterleaved => max_payload,
            };
            if unit.len() <= single {
                put_held(Payload::new(&[], unit));
            } else if self.mode == PacketizationMode::NonInterleaved {
                fragment(&unit, max_payload, &mut put_held);
            } else {
                refused += 1;
            }
        }
        aggregate(&mut small, &mut put_held);
        if let Some(last) = held {
            put(Payload { marker: true, ..last });
        }
        refused
    }
}

/// One STAP-A of all `units` (§5.7.1); a single one goes alone.
fn aggregate(units: &mut Vec<Bytes>, put: &mut impl FnMut(Payload)) {
    let data = match units.as_slice() {
        [] => return,
        [one] => one.clone(),
        several => {
            let mut out =
                BytesMut::with_capacity(1 + several.iter().map(|unit| unit.len() + 2).sum::<usize>());
            let importance = several.iter().map(|unit| unit[0] & 0x60).max().unwrap_or_default();
            out.put_u8(importance | STAP_A);
            for unit in several {
                out.put_u16(unit.len() as u16);
                out.put_slice(unit);
            }
            out.freeze()
        }
    };
    units.clear();
    put(Payload::new(&[], data));
}

/// FU-A of one unit (§5.8), in parts of nearly equal size.
fn fragment(unit: &Bytes, max_payload: usize, put: &mut impl FnMut(Payload)) {
    let (first, data) = (unit[0], unit.slice(1..));
    let parts = data.len().div_ceil(max_payload - 2);
    let each = data.len().div_ceil(parts.max(1));
    let mut from = 0;
    while from < data.len() {
        let to = (from + each).min(data.len());
        let start = if from == 0 { 0x80 } else { 0 };
        let end = if to == data.len() { 0x40 } else { 0 };
        let header = [first & 0xe0 | FU_A, start | end | first & 0x1f];
        put(Payload::new(&header, data.slice(from..to)));
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SPS: [u8; 14] =
        [0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03];
    const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];

    fn annexb(units: &[&[u8]]) -> Bytes {
        let mut out = Vec::new();
        units.iter().for_each(|unit| nal::push(&mut out, unit));
        out.into()
    }

    /// A NAL unit without start codes inside, whose slice begins at macroblock 0.
    fn slice(header: u8, len: usize, seed: u8) -> Vec<u8> {
        let mut unit: Vec<u8> = (0..len).map(|i| (i % 250) as u8 ^ seed | 1).collect();
        unit[0] = header;
        unit[1] |= 0x80;
        unit
    }

    fn cut(mode: PacketizationMode, unit: &Bytes) -> (Vec<(Vec<u8>, bool)>, usize) {
        let mut packets = Vec::new();
        let refused = Packetizer { mode, max_payload: 1200 }
            .packetize(unit, |payload| packets.push((payload.parts().concat(), payload.marker)));
        (packets, refused)
    }

    fn join(depacketizer: &mut Depacketizer, packets: &[(u32, &[u8], bool, bool)]) -> Vec<Unit> {
        let mut units = Vec::new();
        for (timestamp, payload, marker, after_gap) in packets {
            let piece = Piece {
                timestamp: *timestamp,
                marker: *marker,
                payload,
                after_gap: *after_gap,
                ..Piece::default()
            };
            depacketizer.push(piece, |unit| units.push(unit));
        }
        units
    }

    fn round_trip(mode: PacketizationMode, unit: &Bytes) -> (Vec<Unit>, usize) {
        let (packets, refused) = cut(mode, unit);
        assert_eq!(refused, 0);
        assert!(packets.iter().all(|(payload, _)| payload.len() <= 1400));
        assert_eq!(packets.iter().filter(|(_, marker)| *marker).count(), 1);
        let pieces: Vec<_> =
            packets.iter().map(|(payload, marker)| (9, payload.as_slice(), *marker, false)).collect();
        (join(&mut Depacketizer::default(), &pieces), packets.len())
    }

    #[test]
    fn mode_1_carries_a_key_picture_of_a_thousand_packets() {
        let unit = annexb(&[&SPS, &PPS, &slice(0x65, 1_190_000, 3)]);
        let (units, packets) = round_trip(PacketizationMode::NonInterleaved, &unit);
        assert!(packets > 990 && packets <= 1000, "{packets}");
        assert_eq!(units.len(), 1);
        assert!(units[0].idr && units[0].has_sps && units[0].has_pps && !units[0].damaged);
        assert!(units[0].data == unit);
    }

    #[test]
    fn mode_0_carries_every_slice_alone() {
        let slices: Vec<Vec<u8>> = (0..20).map(|n| slice(0x41, 900 + 25 * n, n as u8)).collect();
        let all: Vec<&[u8]> = slices.iter().map(Vec::as_slice).collect();
        let unit = annexb(&all);
        let (units, packets) = round_trip(PacketizationMode::SingleNal, &unit);
        assert_eq!((packets, units.len()), (20, 1));
        assert!(units[0].data == unit && !units[0].idr && !units[0].damaged);
    }

    #[test]
    fn mode_0_refuses_what_does_not_fit_a_packet() {
        let unit = annexb(&[&SPS, &PPS, &slice(0x65, 3000, 1)]);
        let (packets, refused) = cut(PacketizationMode::SingleNal, &unit);
        assert_eq!((packets.len(), refused), (2, 1));
    }

    #[test]
    fn parameter_sets_travel_in_one_aggregate_and_delimiters_not_at_all() {
        let unit = annexb(&[&[0x09, 0xf0], &SPS, &PPS, &slice(0x65, 100, 1)]);
        let (packets, _) = cut(PacketizationMode::NonInterleaved, &unit);
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].0[0], 0x60 | 24);
        assert_eq!(packets[0].0.len(), 1 + 2 + SPS.len() + 2 + PPS.len());
    }

    #[test]
    fn a_crafted_aggregate_is_counted_and_survived() {
        let mut depacketizer = Depacketizer::default();
        for payload in [
            &[0x78, 0x00, 0x02, 0x67, 0x42, 0x00][..],
            &[0x78],
            &[0x78, 0],
            &[0x78, 0, 0],
            &[0x78, 0xff, 0xff, 1],
        ] {
            assert!(join(&mut depacketizer, &[(1, payload, true, false)]).is_empty());
        }
        assert_eq!(depacketizer.refused().malformed, 4);
    }

    #[test]
    fn interleaved_forms_are_refused_and_counted() {
        let mut depacketizer = Depacketizer::default();
        for kind in [25, 26, 27, 29] {
            join(&mut depacketizer, &[(1, &[kind, 1, 2, 3, 4, 5, 6, 7], true, false)]);
        }
        assert_eq!(depacketizer.refused(), Refused { unsupported: 4, ..Refused::default() });
    }

    #[test]
    fn a_lost_fragment_end_does_not_glue_two_units() {
        let (first, second) = (slice(0x41, 3001, 1), slice(0x41, 2396, 2));
        let (a, _) = cut(PacketizationMode::NonInterleaved, &annexb(&[&first]));
        let (b, _) = cut(PacketizationMode::NonInterleaved, &annexb(&[&second]));
        let mut packets: Vec<_> =
            a[..a.len() - 1].iter().map(|(payload, _)| (1, payload.as_slice(), false, false)).collect();
        packets.extend(
            b.iter().enumerate().map(|(i, (payload, marker))| (2, payload.as_slice(), *marker, i == 0)),
        );
        let units = join(&mut Depacketizer::default(), &packets);
        assert_eq!(units.len(), 2);
        assert!(units[0].damaged && units[0].data.len() < 3001);
        assert!(units[1].after_loss && units[1].data[4..] == second[..]);
    }

    #[test]
    fn a_lost_middle_keeps_what_came_before_it_and_drops_the_rest() {
        let (packets, _) = cut(PacketizationMode::NonInterleaved, &annexb(&[&slice(0x65, 5000, 1)]));
        let kept: Vec<_> = [0, 1, 3, 4].map(|i| (1, packets[i].0.as_slice(), packets[i].1, i == 3)).to_vec();
        let units = join(&mut Depacketizer::default(), &kept);
        assert_eq!((units.len(), units[0].damaged), (1, true));
        assert_eq!(nal::units(&units[0].data).count(), 1);
        assert_eq!(units[0].data.len(), 4 + 1 + 2 * 1000);
    }

    #[test]
    fn a_unit_without_a_marker_ends_at_the_next_timestamp() {
        let (a, b) = (slice(0x41, 10, 1), slice(0x41, 10, 2));
        let mut depacketizer = Depacketizer::default();
        let units = join(&mut depacketizer, &[(1, &a, false, false), (2, &b, false, false)]);
        assert_eq!((units.len(), units[0].timestamp, units[0].damaged), (1, 1, false));
        let units = join(&mut depacketizer, &[(3, &a, false, true)]);
        assert!(units[0].damaged, "its end may be what was lost");
    }

    #[test]
    fn parameter_sets_with_their_own_marker_or_timestamp_stay_with_their_picture() {
        let idr = slice(0x65, 10, 1);
        let packets = [(1, &SPS[..], true, false), (1, &PPS[..], true, false), (2, &idr[..], true, false)];
        let units = join(&mut Depacketizer::default(), &packets);
        assert_eq!(units.len(), 1);
        assert!(units[0].has_sps && units[0].has_pps && units[0].timestamp == 2);
    }

    #[test]
    fn after_a_gap_a_key_picture_is_whole_only_when_it_begins_at_its_beginning() {
        let whole = slice(0x65, 10, 1);
        let mut rest = whole.clone();
        rest[1] = 0x11;
        for (unit, damaged) in [(whole, false), (rest, true)] {
            let units = join(&mut Depacketizer::default(), &[(1, &unit, true, true)]);
            assert_eq!((units[0].damaged, units[0].after_loss), (damaged, true));
        }
    }

    #[test]
    fn endless_fragments_end_at_the_limit() {
        let mut depacketizer = Depacketizer::default();
        let mut fragment = vec![0x5c; 1200];
        let mut units = 0;
        for n in 0..5000u32 {
            fragment[1] = if n == 0 { 0x85 } else { 0x05 };
            depacketizer.push(Piece { timestamp: 1, payload: &fragment, ..Piece::default() }, |_| units += 1);
            assert!(depacketizer.building.len() <= NAL_MAX + 16);
        }
        assert_eq!((units, depacketizer.refused().too_large), (0, 1));
        let good = slice(0x65, 10, 1);
        let last = join(&mut depacketizer, &[(2, &good, true, false)]);
        assert_eq!(last.last().map(|unit| unit.damaged), Some(false));
    }

    #[test]
    fn mutated_payloads_never_panic_and_memory_stays_bounded() {
        let mut random = StdRng::seed_from_u64(11);
        let unit = annexb(&[&SPS, &PPS, &slice(0x65, 6000, 3), &slice(0x41, 500, 4)]);
        let (packets, _) = cut(PacketizationMode::NonInterleaved, &unit);
        let mut depacketizer = Depacketizer::new([&SPS[..], &PPS]);
        let mut timestamp = 0u32;
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
            let piece = Piece {
                timestamp,
                marker,
                payload: &payload,
                after_gap: random.random_range(0..20) == 0,
                ..Piece::default()
            };
            depacketizer.push(piece, |unit| {
                assert!(unit.data.len() <= UNIT_MAX);
                assert!(nal::units(&unit.data).count() <= unit.data.len());
            });
            assert!(depacketizer.building.len() <= UNIT_MAX);
        }
    }
}
