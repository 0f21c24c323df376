//! H.265 NAL units (ITU-T H.265 §7.3.1.2), and what of a parameter set this box wants to know: its id, and of a
//! sequence parameter set the size of its pictures. Hardened: nonsense is nothing, never a panic.
//!
//! Finding units in a stream is [`super::nal`]: Annex B is the same as in H.264. Packets are `rtp::payload::h265`'s.

use crate::media::frame::Size;
use crate::media::nal;
use crate::media::sps::Bits;

/// Bytes of a NAL unit's header.
pub const HEADER_LEN: usize = 2;
/// Bits of a profile and of a level in `profile_tier_level`.
const PROFILE_BITS: u32 = 88;
const LEVEL_BITS: u32 = 8;

/// `nal_unit_type` (H.265 table 7-1), as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NalType {
    /// A slice segment of a picture at which decoding cannot start.
    Slice,
    /// A slice segment of an IRAP picture: IDR, CRA, BLA.
    RandomAccess,
    Vps,
    Sps,
    Pps,
    Other(u8),
}

impl NalType {
    /// The type in the first byte of a NAL unit.
    pub fn of(first: u8) -> Self {
        match first >> 1 & 0x3f {
            0..=15 => NalType::Slice,
            16..=23 => NalType::RandomAccess,
            32 => NalType::Vps,
            33 => NalType::Sps,
            34 => NalType::Pps,
            other => NalType::Other(other),
        }
    }

    /// Whether it carries pixels.
    pub fn is_picture(self) -> bool {
        matches!(self, NalType::Slice | NalType::RandomAccess)
    }
}

/// The id a parameter set NAL unit is known by. `None`: another kind of unit, or nonsense.
pub fn parameter_set_id(unit: &[u8]) -> Option<u8> {
    let first = *unit.first()?;
    let bytes = nal::unescaped(unit.get(HEADER_LEN..unit.len().min(1024))?);
    match NalType::of(first) {
        NalType::Vps => bytes.first().map(|byte| byte >> 4),
        NalType::Sps => read_sps(&bytes).map(|(id, _)| id),
        NalType::Pps => Bits::new(&bytes).ue().ok().filter(|id| *id < 64).map(|id| id as u8),
        NalType::Slice | NalType::RandomAccess | NalType::Other(_) => None,
    }
}

/// The size of the pictures behind the first sequence parameter set of an access unit, before cropping.
pub fn picture_size(annexb: &[u8]) -> Option<Size> {
    let sps = nal::units(annexb).find(|unit| NalType::of(unit[0]) == NalType::Sps)?;
    let bytes = nal::unescaped(sps.get(HEADER_LEN..sps.len().min(1024))?);
    read_sps(&bytes).map(|(_, size)| size)
}

/// Id and size (§7.3.2.2.1).
fn read_sps(bytes: &[u8]) -> Option<(u8, Size)> {
    let mut bits = Bits::new(bytes);
    let _vps = bits.take(4).ok()?;
    let more_layers = bits.take(3).ok()?;
    let _nesting = bits.take(1).ok()?;
    skip(&mut bits, PROFILE_BITS + LEVEL_BITS)?;
    let mut sub_layers = 0;
    for layer in 0..if more_layers > 0 { 8 } else { 0 } {
        let [profile, level] = [bits.take(1).ok()?, bits.take(1).ok()?];
        if layer < more_layers {
            sub_layers += profile * PROFILE_BITS + level * LEVEL_BITS;
        }
    }
    skip(&mut bits, sub_layers)?;
    let id = bits.ue().ok().filter(|id| *id < 16)?;
    if bits.ue().ok().filter(|chroma| *chroma < 4)? == 3 {
        bits.take(1).ok()?;
    }
    let mut side = || bits.ue().ok().filter(|side| (1..=16_384).contains(side));
    let size = Size::new(side()? as usize, side()? as usize);
    Some((id as u8, size))
}

fn skip(bits: &mut Bits<'_>, count: u32) -> Option<()> {
    (0..count / 8).try_for_each(|_| bits.take(8).map(drop)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter sets of x265, 640x360.
    const VPS: &str = "40010c01ffff01600000030090000003000003003fba0240";
    const SPS: &str =
        "42010101600000030090000003000003003fa005020171f2e5ba4a4c2f0168080000030008000003007840";
    const PPS: &str = "4401c0718312";

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hexadecimal[at..at + 2], 16).expect("hexadecimal");
        (0..hexadecimal.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn parameter_sets_name_their_ids_and_the_sequence_its_size() {
        let sets = [VPS, SPS, PPS].map(bytes);
        assert_eq!(sets.each_ref().map(|set| parameter_set_id(set)), [Some(0); 3]);
        let kinds = sets.each_ref().map(|set| NalType::of(set[0]));
        assert_eq!(kinds, [NalType::Vps, NalType::Sps, NalType::Pps]);
        let mut annexb = Vec::new();
        sets.iter().for_each(|set| nal::push(&mut annexb, set));
        assert_eq!(picture_size(&annexb), Some(Size::new(640, 368)), "whole blocks of 8");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_read_without_a_panic() {
        for set in [VPS, SPS, PPS].map(bytes) {
            for at in 0..set.len() * 8 {
                let mut wrong = set.clone();
                wrong[at / 8] ^= 0x80 >> (at % 8);
                let _ = parameter_set_id(&wrong);
                let _ = parameter_set_id(&set[..at / 8]);
                let _ = picture_size(&[&[0, 0, 1][..], &wrong].concat());
            }
        }
    }

    #[test]
    fn sub_layers_are_skipped() {
        // Two more temporal layers, the first with a level of its own.
        let mut bits = String::new();
        let mut put = |count: usize, value: u32| bits += &format!("{value:0count$b}");
        put(4, 0);
        put(3, 2);
        put(1, 1);
        (0..12).for_each(|_| put(8, 1));
        put(2, 1);
        (0..7).for_each(|_| put(2, 0));
        put(8, 93);
        // id 1, 4:2:0, 320 by 180.
        bits += "010";
        bits += "010";
        bits += &format!("{:017b}", 321);
        bits += &format!("{:015b}", 181);
        while !bits.len().is_multiple_of(8) {
            bits.push('0');
        }
        let mut unit = vec![0x42, 0x01];
        unit.extend(
            (0..bits.len()).step_by(8).map(|at| u8::from_str_radix(&bits[at..at + 8], 2).expect("bits")),
        );
        assert_eq!(parameter_set_id(&unit), Some(1));
        assert_eq!(picture_size(&[&[0, 0, 1][..], &unit].concat()), Some(Size::new(320, 180)));
    }
}
