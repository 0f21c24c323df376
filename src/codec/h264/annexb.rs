//! Annex B byte streams (ITU-T H.264 Annex B) as encoders write them and recordings need them.
//!
//! What is inside a NAL unit does not belong here (`media::nal`, `media::sps`).

use bytes::{BufMut, Bytes, BytesMut};

/// `nal_unit_type` values (Table 7-1) that matter here.
const SLICE: u8 = 1;
const IDR_SLICE: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// The NAL units of an Annex B stream, without start codes and trailing zeros, each with its offset in `data`.
pub fn nal_units(data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut next = start_code(data, 0).map(|(_, after)| after);
    std::iter::from_fn(move || {
        let begin = next?;
        let end = match start_code(data, begin) {
            Some((at, after)) => {
                next = Some(after);
                at
            }
            None => {
                next = None;
                data.len()
            }
        };
        let mut unit = data.get(begin..end)?;
        while let [rest @ .., 0] = unit {
            unit = rest;
        }
        Some((begin, unit))
    })
    .filter(|(_, unit)| !unit.is_empty())
}

/// Where the next three-byte start code begins and ends, from `from` on.
fn start_code(data: &[u8], from: usize) -> Option<(usize, usize)> {
    let rest = data.get(from..)?;
    let at = rest.windows(3).position(|w| w == [0, 0, 1])?;
    Some((from + at, from + at + 3))
}

fn kind(unit: &[u8]) -> u8 {
    unit.first().map_or(0, |byte| byte & 0x1f)
}

/// The longest NAL unit of a stream in bytes.
pub fn longest(data: &[u8]) -> usize {
    nal_units(data).map(|(_, unit)| unit.len()).max().unwrap_or(0)
}

/// The parameter sets a decoder needs, without start codes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterSets {
    pub sps: Option<Bytes>,
    pub pps: Option<Bytes>,
}

impl ParameterSets {
    /// The sets in front of the first slice of `data`.
    pub fn of(data: &[u8]) -> Self {
        let mut sets = ParameterSets::default();
        for (_, unit) in nal_units(data) {
            match kind(unit) {
                SPS => sets.sps = Some(Bytes::copy_from_slice(unit)),
                PPS => sets.pps = Some(Bytes::copy_from_slice(unit)),
                SLICE | IDR_SLICE => break,
                _ => {}
            }
        }
        sets
    }

    pub fn complete(&self) -> bool {
        self.sps.is_some() && self.pps.is_some()
    }

    /// Both sets as Annex B.
    pub fn annex_b(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for unit in self.sps.iter().chain(&self.pps) {
            out.extend_from_slice(&START_CODE);
            out.extend_from_slice(unit);
        }
        out
    }
}

/// The slices of an access unit: what stands from the start code of its first slice on.
pub fn slices(data: &[u8]) -> &[u8] {
    let first = nal_units(data).find(|(_, unit)| matches!(kind(unit), SLICE..=IDR_SLICE));
    let at = first.map_or(data.len(), |(at, _)| at - 3);
    data.get(at..).unwrap_or_default()
}

/// Gives every encoder's output one shape: key pictures begin with SPS and PPS, nothing else precedes the slices.
///
/// Encoders differ in what they put in front (delimiters, SEI with their name) and some send parameter sets once.
#[derive(Debug, Default)]
pub struct Shaper {
    sets: ParameterSets,
}

impl Shaper {
    /// `extradata`: parameter sets the encoder keeps outside the stream, in Annex B; may be empty.
    pub fn new(extradata: &[u8]) -> Self {
        Shaper { sets: ParameterSets::of(extradata) }
    }

    /// The shaped unit and whether it is a key picture. `None`: there is no slice in it.
    pub fn shape(&mut self, data: &[u8]) -> Option<(Bytes, bool)> {
        let mut plain = true;
        for (at, unit) in nal_units(data) {
            match kind(unit) {
                SPS => self.sets.sps = Some(Bytes::copy_from_slice(unit)),
                PPS => self.sets.pps = Some(Bytes::copy_from_slice(unit)),
                IDR_SLICE => return Some((self.with_sets(data.get(at..)?), true)),
                SLICE..IDR_SLICE if plain => return Some((Bytes::copy_from_slice(data), false)),
                SLICE..IDR_SLICE => return Some((from_slice(BytesMut::new(), data.get(at..)?), false)),
                _ => {}
            }
            plain = false;
        }
        None
    }

    fn with_sets(&self, slices: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(slices.len() + 96);
        for unit in self.sets.sps.iter().chain(&self.sets.pps) {
            out.put_slice(&START_CODE);
            out.put_slice(unit);
        }
        from_slice(out, slices)
    }
}

/// `slices` begins right behind the first slice's start code.
fn from_slice(mut out: BytesMut, slices: &[u8]) -> Bytes {
    out.reserve(slices.len() + START_CODE.len());
    out.put_slice(&START_CODE);
    out.put_slice(slices);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS_UNIT: [u8; 3] = [0x67, 66, 30];
    const PPS_UNIT: [u8; 2] = [0x68, 1];

    fn stream(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&[0, 0, 1][..], unit].concat()).collect()
    }

    #[test]
    fn units_are_found_behind_either_start_code_without_trailing_zeros() {
        let data = [&[0, 0, 0, 1, 0x67, 7, 0, 0, 0, 1, 0x68, 8, 0][..], &[0, 0, 1, 0x65, 1]].concat();
        let units: Vec<&[u8]> = nal_units(&data).map(|(_, unit)| unit).collect();
        assert_eq!(units, [&[0x67, 7][..], &[0x68, 8], &[0x65, 1]]);
        assert_eq!(longest(&data), 2);
        assert_eq!(nal_units(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn a_key_picture_without_its_parameter_sets_gets_them() {
        let mut shaper = Shaper::default();
        let (first, key) = shaper.shape(&stream(&[&SPS_UNIT, &PPS_UNIT, &[0x65, 9]])).expect("a picture");
        assert!(key);
        let (later, key) = shaper.shape(&stream(&[&[0x65, 9]])).expect("a picture");
        assert!(key);
        assert_eq!(first, later);
    }

    #[test]
    fn delimiters_and_encoder_advertisements_are_dropped() {
        let mut shaper = Shaper::default();
        let (unit, key) =
            shaper.shape(&stream(&[&[0x09, 0xf0], &[0x06, 5, 1], &[0x61, 3]])).expect("a picture");
        assert!(!key);
        assert_eq!(nal_units(&unit).map(|(_, u)| u).collect::<Vec<_>>(), [&[0x61, 3]]);
        assert!(shaper.shape(&stream(&[&[0x06, 5, 1]])).is_none());
    }

    #[test]
    fn slices_leave_the_parameter_sets_behind() {
        let data = stream(&[&SPS_UNIT, &PPS_UNIT, &[0x65, 9], &[0x65, 8]]);
        assert_eq!(slices(&data), stream(&[&[0x65, 9], &[0x65, 8]]));
        assert_eq!(ParameterSets::of(&data).sps.as_deref(), Some(&SPS_UNIT[..]));
    }
}
