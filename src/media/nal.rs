//! H.264 NAL units in an Annex B byte stream (ITU-T H.264 §7.3.1, §7.4.1, Annex B).
//!
//! Finding units, naming them, and taking emulation prevention out. What is inside a parameter set is
//! [`super::sps`]; how units travel in packets is `rtp::payload`.

use std::borrow::Cow;

use memchr::memmem::Finder;

/// What is put in front of every NAL unit written here.
pub const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// `nal_unit_type` (H.264 table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NalType {
    /// A slice of a picture that is not an IDR picture.
    Slice,
    /// Data partitions A to C (Extended profile).
    Partition,
    /// A slice of an IDR picture.
    Idr,
    Sei,
    Sps,
    Pps,
    AccessUnitDelimiter,
    EndOfSequence,
    EndOfStream,
    Filler,
    Other(u8),
}

impl NalType {
    /// The type in the first byte of a NAL unit.
    pub fn of(header: u8) -> Self {
        match header & 0x1f {
            1 => NalType::Slice,
            2..=4 => NalType::Partition,
            5 => NalType::Idr,
            6 => NalType::Sei,
            7 => NalType::Sps,
            8 => NalType::Pps,
            9 => NalType::AccessUnitDelimiter,
            10 => NalType::EndOfSequence,
            11 => NalType::EndOfStream,
            12 => NalType::Filler,
            other => NalType::Other(other),
        }
    }

    /// Whether it carries pixels (a VCL NAL unit).
    pub fn is_picture(self) -> bool {
        matches!(self, NalType::Slice | NalType::Partition | NalType::Idr)
    }
}

/// The NAL units of an Annex B stream, without start codes and trailing zeros, header byte first. Never empty ones.
/// What stands before the first start code is skipped.
pub fn units(annexb: &[u8]) -> Units<'_> {
    let finder = Finder::new(b"\0\0\x01");
    let rest = finder.find(annexb).and_then(|at| annexb.get(at + 3..));
    Units { finder, rest }
}

/// See [`units`].
pub struct Units<'a> {
    finder: Finder<'static>,
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest?;
            let unit = match self.finder.find(rest) {
                Some(at) => {
                    self.rest = rest.get(at + 3..);
                    &rest[..at]
                }
                None => {
                    self.rest = None;
                    rest
                }
            };
            let zeros = unit.iter().rev().take_while(|byte| **byte == 0).count();
            let unit = &unit[..unit.len() - zeros];
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    }
}

/// Appends one NAL unit behind a start code.
pub fn push(annexb: &mut Vec<u8>, unit: &[u8]) {
    annexb.extend_from_slice(&START_CODE);
    annexb.extend_from_slice(unit);
}

/// The unit without its emulation prevention bytes (§7.4.1.1); borrowed when there are none.
pub fn unescaped(unit: &[u8]) -> Cow<'_, [u8]> {
    let finder = Finder::new(b"\0\0\x03");
    let Some(first) = finder.find(unit) else {
        return Cow::Borrowed(unit);
    };
    let mut out = Vec::with_capacity(unit.len());
    let mut rest = unit;
    let mut found = Some(first);
    while let Some(at) = found {
        out.extend_from_slice(&rest[..at + 2]);
        rest = &rest[at + 3..];
        found = finder.find(rest);
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// The parameter sets in front of the first slice, as Annex B, each once: where packets are lost a set stands there as it
/// came and again as it was known. `None`: a sequence or a picture parameter set is missing.
pub fn parameter_sets(annexb: &[u8]) -> Option<Vec<u8>> {
    let (mut sets, mut sps, mut pps) = (Vec::new(), false, false);
    for unit in units(annexb) {
        if units(&sets).any(|known| known == unit) {
            continue;
        }
        match NalType::of(unit[0]) {
            NalType::Sps => sps = true,
            NalType::Pps => pps = true,
            kind if kind.is_picture() => break,
            _ => continue,
        }
        push(&mut sets, unit);
    }
    (sps && pps).then_some(sets)
}

/// What stands from the start code of the first slice on; nothing where there is no slice.
pub fn slices(annexb: &[u8]) -> &[u8] {
    let first = units(annexb).find(|unit| NalType::of(unit[0]).is_picture());
    let at = first.map_or(annexb.len(), |unit| unit.as_ptr().addr() - annexb.as_ptr().addr() - 3);
    &annexb[at..]
}

/// The longest NAL unit in bytes.
pub fn longest(annexb: &[u8]) -> usize {
    units(annexb).map(<[u8]>::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(annexb: &[u8]) -> Vec<&[u8]> {
        units(annexb).collect()
    }

    #[test]
    fn units_are_found_behind_short_and_long_start_codes() {
        let stream = [9, 9, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 0, 1, 0x65, 3, 4, 0, 0];
        assert_eq!(split(&stream), [&[0x67, 1][..], &[0x68, 2], &[0x65, 3, 4]]);
        assert_eq!(longest(&stream), 3);
    }

    #[test]
    fn a_stream_without_units_yields_none() {
        for stream in [&[][..], &[0, 0], &[0, 0, 1], &[0, 0, 1, 0, 0, 1], &[1, 2, 3, 4], &[0; 9]] {
            assert_eq!(split(stream), Vec::<&[u8]>::new(), "{stream:?}");
        }
    }

    #[test]
    fn pushed_units_are_found_again() {
        let mut stream = Vec::new();
        for unit in [&[0x67, 0x42][..], &[0x65; 5000]] {
            push(&mut stream, unit);
        }
        assert_eq!(split(&stream), [&[0x67, 0x42][..], &[0x65; 5000]]);
    }

    #[test]
    fn emulation_prevention_is_taken_out() {
        assert_eq!(&*unescaped(&[1, 0, 0, 3, 1, 0, 0, 3]), [1, 0, 0, 1, 0, 0]);
        assert_eq!(&*unescaped(&[0, 0, 3, 0, 0, 3, 0]), [0, 0, 0, 0, 0]);
        assert!(matches!(unescaped(&[1, 2, 3]), Cow::Borrowed(_)));
    }

    #[test]
    fn slices_leave_the_parameter_sets_behind() {
        let stream =
            [&[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 1, 6, 9], &[0, 0, 1, 0x65, 9][..]].concat();
        assert_eq!(slices(&stream), [0, 0, 1, 0x65, 9]);
        assert_eq!(slices(slices(&stream)), slices(&stream));
        assert_eq!(parameter_sets(&stream), Some(vec![0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2]));
        assert_eq!(slices(&stream[..8]), [0; 0]);
        assert_eq!(parameter_sets(&stream[..8]), None);
    }

    #[test]
    fn every_parameter_set_in_front_of_a_slice_counts_and_none_behind_it() {
        let mut stream = Vec::new();
        for unit in [&[0x67, 1][..], &[0x68, 2], &[0x68, 3]] {
            push(&mut stream, unit);
        }
        let all = stream.clone();
        push(&mut stream, &[0x65, 4]);
        push(&mut stream, &[0x68, 5]);
        assert_eq!(parameter_sets(&stream), Some(all));
    }

    #[test]
    fn a_set_that_stands_there_twice_counts_once() {
        let stream = |sets: &[&[u8]]| {
            let mut stream = Vec::new();
            for unit in sets.iter().chain(&[&[0x65, 4][..]]) {
                push(&mut stream, unit);
            }
            stream
        };
        let (once, twice) =
            (stream(&[&[0x67, 1], &[0x68, 2]]), stream(&[&[0x67, 1], &[0x68, 2], &[0x67, 1], &[0x68, 2]]));
        assert_eq!(parameter_sets(&twice), parameter_sets(&once));
    }
}
