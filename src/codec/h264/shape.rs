//! One shape for every encoder's output: key pictures begin with SPS and PPS, nothing else precedes the slices.
//!
//! Encoders differ in what they put in front (delimiters, SEI with their name) and some send parameter sets once.
//! Finding and naming NAL units does not belong here (`media::nal`).

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::nal::{self, NalType, START_CODE};

#[derive(Debug, Default)]
pub(super) struct Shaper {
    sps: Option<Bytes>,
    pps: Option<Bytes>,
}

impl Shaper {
    /// `extradata`: parameter sets the encoder keeps outside the stream, in Annex B; may be empty.
    pub(super) fn new(extradata: &[u8]) -> Self {
        let mut shaper = Shaper::default();
        nal::units(extradata).for_each(|unit| shaper.learn(unit));
        shaper
    }

    fn learn(&mut self, unit: &[u8]) {
        match NalType::of(unit[0]) {
            NalType::Sps => self.sps = Some(Bytes::copy_from_slice(unit)),
            NalType::Pps => self.pps = Some(Bytes::copy_from_slice(unit)),
            _ => {}
        }
    }

    /// The shaped unit and whether it is a key picture. `None`: there is no slice in it.
    pub(super) fn shape(&mut self, data: &[u8]) -> Option<(Bytes, bool)> {
        let mut plain = true;
        for unit in nal::units(data) {
            match NalType::of(unit[0]) {
                NalType::Idr => return Some((assemble([&self.sps, &self.pps], nal::slices(data)), true)),
                kind if kind.is_picture() && plain => return Some((Bytes::copy_from_slice(data), false)),
                kind if kind.is_picture() => {
                    return Some((assemble([&None, &None], nal::slices(data)), false));
                }
                _ => self.learn(unit),
            }
            plain = false;
        }
        None
    }
}

/// `slices` begins with a start code of three bytes; at the front of an access unit it has four (§B.1.2).
fn assemble(sets: [&Option<Bytes>; 2], slices: &[u8]) -> Bytes {
    let sets = sets.into_iter().flatten();
    let len = sets.clone().map(|set| START_CODE.len() + set.len()).sum::<usize>();
    let mut out = BytesMut::with_capacity(len + 1 + slices.len());
    for set in sets {
        out.put_slice(&START_CODE);
        out.put_slice(set);
    }
    out.put_u8(0);
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
    fn a_key_picture_without_its_parameter_sets_gets_them() {
        let mut shaper = Shaper::default();
        let (first, key) = shaper.shape(&stream(&[&SPS_UNIT, &PPS_UNIT, &[0x65, 9]])).expect("a picture");
        assert!(key);
        let (later, key) = shaper.shape(&stream(&[&[0x65, 9]])).expect("a picture");
        assert!(key);
        assert_eq!(first, later);
        let mut outside = Shaper::new(&stream(&[&SPS_UNIT, &PPS_UNIT]));
        assert_eq!(outside.shape(&stream(&[&[0x65, 9]])), Some((first, true)));
    }

    #[test]
    fn delimiters_and_encoder_advertisements_are_dropped() {
        let mut shaper = Shaper::default();
        let (unit, key) =
            shaper.shape(&stream(&[&[0x09, 0xf0], &[0x06, 5, 1], &[0x61, 3]])).expect("a picture");
        assert!(!key);
        assert_eq!(nal::units(&unit).collect::<Vec<_>>(), [&[0x61, 3]]);
        assert!(shaper.shape(&stream(&[&[0x06, 5, 1]])).is_none());
    }
}
