//! The H.264 sequence parameter set (ITU-T H.264 §7.3.2.1.1) up to the picture's size, and ids of picture
//! parameter sets. Hardened: nonsense is an error, never a panic or a huge number.
//!
//! Display information (VUI) is not read. Finding parameter sets in a stream is [`super::nal`].

use crate::media::frame::Size;
use crate::media::nal::{self, NalType};

/// The largest picture taken, in pixels.
pub const MAX_WIDTH: u32 = 4096;
pub const MAX_HEIGHT: u32 = 2304;

/// Why a parameter set was refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpsError {
    #[error("it ends too early")]
    Truncated,
    #[error("it is not the expected kind of parameter set")]
    OtherKind,
    #[error("its {0} is out of range")]
    OutOfRange(&'static str),
    #[error("its pictures are {width}x{height}, more than {MAX_WIDTH}x{MAX_HEIGHT}")]
    TooLarge { width: u32, height: u32 },
}

/// What this box wants to know of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    pub profile_idc: u8,
    /// The byte between profile and level: `constraint_set0_flag` is its highest bit.
    pub constraint_flags: u8,
    pub level_idc: u8,
    pub id: u8,
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    pub pic_order_cnt_type: u8,
    pub num_ref_frames: u8,
    /// False: interlaced tools may be used.
    pub frame_mbs_only: bool,
    /// Whole macroblocks.
    pub coded_width: u32,
    pub coded_height: u32,
    /// What is shown, after cropping.
    pub width: u32,
    pub height: u32,
}

impl Sps {
    /// Reads one NAL unit, header byte included, start code not.
    pub fn parse(unit: &[u8]) -> Result<Sps, SpsError> {
        if unit.first().map(|header| NalType::of(*header)) != Some(NalType::Sps) {
            return Err(SpsError::OtherKind);
        }
        // No field up to the size lies further in than this, so a huge unit costs nothing.
        let bytes = nal::unescaped(&unit[..unit.len().min(4096)]);
        let mut bits = Bits::new(&bytes[1..]);
        let profile_idc = bits.take(8)? as u8;
        let constraint_flags = bits.take(8)? as u8;
        let level_idc = bits.take(8)? as u8;
        let id = bits.ue_to(31, "id")? as u8;
        let chroma = Chroma::read(&mut bits, profile_idc)?;
        bits.ue_to(12, "frame number length")?;
        let pic_order_cnt_type = read_order(&mut bits)?;
        let num_ref_frames = bits.ue_to(16, "number of reference frames")? as u8;
        bits.take(1)?;
        let width_mbs = bits.ue_to(16_384, "width")? + 1;
        let height_units = bits.ue_to(16_384, "height")? + 1;
        let frame_mbs_only = bits.take(1)? == 1;
        if !frame_mbs_only {
            bits.take(1)?;
        }
        bits.take(1)?;
        let coded_width = width_mbs * 16;
        let coded_height = height_units * 16 * if frame_mbs_only { 1 } else { 2 };
        if coded_width > MAX_WIDTH || coded_height > MAX_HEIGHT {
            return Err(SpsError::TooLarge { width: coded_width, height: coded_height });
        }
        let (cut_x, cut_y) = read_cropping(&mut bits, chroma.format_idc, frame_mbs_only)?;
        if cut_x >= coded_width || cut_y >= coded_height {
            return Err(SpsError::OutOfRange("cropping"));
        }
        Ok(Sps {
            profile_idc,
            constraint_flags,
            level_idc,
            id,
            chroma_format_idc: chroma.format_idc,
            bit_depth_luma: chroma.depth_luma,
            bit_depth_chroma: chroma.depth_chroma,
            pic_order_cnt_type,
            num_ref_frames,
            frame_mbs_only,
            coded_width,
            coded_height,
            width: coded_width - cut_x,
            height: coded_height - cut_y,
        })
    }
}

/// `pic_parameter_set_id` and `seq_parameter_set_id` of a picture parameter set, header byte included.
pub fn pps_ids(unit: &[u8]) -> Result<(u8, u8), SpsError> {
    if unit.first().map(|header| NalType::of(*header)) != Some(NalType::Pps) {
        return Err(SpsError::OtherKind);
    }
    let bytes = nal::unescaped(&unit[..unit.len().min(64)]);
    let mut bits = Bits::new(&bytes[1..]);
    Ok((bits.ue_to(255, "id")? as u8, bits.ue_to(31, "sequence id")? as u8))
}

/// The size that the last sequence parameter set of an Annex B stream declares, beyond the limits or not.
/// `None`: there is none, or it makes no sense.
pub fn picture_size(annexb: &[u8]) -> Option<Size> {
    let sets = nal::units(annexb).filter(|unit| NalType::of(unit[0]) == NalType::Sps);
    let (width, height) = match Sps::parse(sets.last()?) {
        Ok(sps) => (sps.width, sps.height),
        Err(SpsError::TooLarge { width, height }) => (width, height),
        Err(_) => return None,
    };
    Some(Size::new(usize::try_from(width).ok()?, usize::try_from(height).ok()?))
}

struct Chroma {
    format_idc: u8,
    depth_luma: u8,
    depth_chroma: u8,
}

impl Chroma {
    fn read(bits: &mut Bits<'_>, profile_idc: u8) -> Result<Chroma, SpsError> {
        if !matches!(profile_idc, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            return Ok(Chroma { format_idc: 1, depth_luma: 8, depth_chroma: 8 });
        }
        let format_idc = bits.ue_to(3, "chroma format")? as u8;
        if format_idc == 3 {
            bits.take(1)?;
        }
        let depth_luma = bits.ue_to(6, "bit depth")? as u8 + 8;
        let depth_chroma = bits.ue_to(6, "bit depth")? as u8 + 8;
        bits.take(1)?;
        if bits.take(1)? == 1 {
            for list in 0..if format_idc == 3 { 12 } else { 8 } {
                if bits.take(1)? == 1 {
                    skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Ok(Chroma { format_idc, depth_luma, depth_chroma })
    }
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Result<(), SpsError> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            let delta = bits.se()?;
            if !(-128..=127).contains(&delta) {
                return Err(SpsError::OutOfRange("scaling list"));
            }
            next = (last + delta).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Ok(())
}

fn read_order(bits: &mut Bits<'_>) -> Result<u8, SpsError> {
    let kind = bits.ue_to(2, "picture order type")?;
    match kind {
        0 => {
            bits.ue_to(12, "picture order length")?;
        }
        1 => {
            bits.take(1)?;
            bits.se()?;
            bits.se()?;
            for _ in 0..bits.ue_to(255, "picture order cycle")? {
                bits.se()?;
            }
        }
        _ => {}
    }
    Ok(kind as u8)
}

/// Pixels cut from width and height (§7.4.2.1.1, equations 7-19 to 7-22).
fn read_cropping(bits: &mut Bits<'_>, chroma: u8, frame_mbs_only: bool) -> Result<(u32, u32), SpsError> {
    if bits.take(1)? == 0 {
        return Ok((0, 0));
    }
    let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
    let unit_y = if chroma == 1 { 2 } else { 1 } * if frame_mbs_only { 1 } else { 2 };
    let mut edge = || bits.ue_to(MAX_WIDTH, "cropping");
    let (left, right, top, bottom) = (edge()?, edge()?, edge()?, edge()?);
    Ok(((left + right) * unit_x, (top + bottom) * unit_y))
}

/// Bits from the most significant on, with Exp-Golomb codes (§9.1).
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Bits { bytes, at: 0 }
    }

    fn bit(&mut self) -> Result<u32, SpsError> {
        let byte = self.bytes.get(self.at / 8).ok_or(SpsError::Truncated)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(u32::from(bit))
    }

    /// At most 32 bits.
    pub(super) fn take(&mut self, count: u32) -> Result<u32, SpsError> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | self.bit()?;
        }
        Ok(value)
    }

    pub(super) fn ue(&mut self) -> Result<u32, SpsError> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return Err(SpsError::OutOfRange("Exp-Golomb code"));
            }
        }
        Ok((1 << zeros) - 1 + self.take(zeros)?)
    }

    fn ue_to(&mut self, most: u32, what: &'static str) -> Result<u32, SpsError> {
        let value = self.ue()?;
        if value > most { Err(SpsError::OutOfRange(what)) } else { Ok(value) }
    }

    fn se(&mut self) -> Result<i32, SpsError> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        Ok((if code % 2 == 1 { magnitude } else { -magnitude }) as i32)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// x264, Constrained Baseline level 3.0, 640x360 (23 macroblock rows, 8 lines cropped), picture order type 2.
    const X264_640X360: [u8; 24] = [
        0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00,
        0x00, 0x03, 0x00, 0xf0, 0x3c, 0x58, 0xba,
    ];

    struct Writer {
        bits: Vec<bool>,
    }

    impl Writer {
        fn put(&mut self, count: u32, value: u32) -> &mut Self {
            self.bits.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
            self
        }

        fn ue(&mut self, value: u32) -> &mut Self {
            let length = 32 - (value + 1).leading_zeros();
            self.put(length - 1, 0).put(length, value + 1)
        }

        fn unit(&self) -> Vec<u8> {
            let pack =
                |bits: &[bool]| bits.iter().enumerate().fold(0, |b, (i, on)| b | u8::from(*on) << (7 - i));
            let mut unit = vec![0x67];
            unit.extend(self.bits.chunks(8).map(pack));
            unit.push(0x80);
            unit
        }
    }

    fn baseline(width_mbs: u32, height_mbs: u32, crop: Option<[u32; 4]>) -> Vec<u8> {
        let mut w = Writer { bits: Vec::new() };
        w.put(8, 66).put(8, 0xc0).put(8, 30).ue(0).ue(0).ue(2).ue(1).put(1, 0);
        w.ue(width_mbs - 1).ue(height_mbs - 1).put(1, 1).put(1, 1).put(1, u32::from(crop.is_some()));
        for edge in crop.into_iter().flatten() {
            w.ue(edge);
        }
        w.put(1, 0);
        w.unit()
    }

    #[test]
    fn an_x264_set_names_its_size_and_profile() {
        let sps = Sps::parse(&X264_640X360).expect("valid");
        assert_eq!((sps.width, sps.height, sps.coded_height), (640, 360, 368));
        assert_eq!((sps.profile_idc, sps.constraint_flags, sps.level_idc), (66, 0xc0, 30));
        assert_eq!(sps.chroma_format_idc, 1);
    }

    #[test]
    fn cropping_is_counted_in_chroma_samples() {
        let sps = Sps::parse(&baseline(120, 68, Some([0, 0, 0, 4]))).expect("valid");
        assert_eq!((sps.width, sps.height), (1920, 1080));
        assert_eq!(sps.pic_order_cnt_type, 2);
    }

    #[test]
    fn high_profile_with_scaling_lists_is_read() {
        let mut w = Writer { bits: Vec::new() };
        w.put(8, 100).put(8, 0).put(8, 31).ue(0).ue(1).ue(0).ue(0).put(1, 0).put(1, 1);
        w.put(1, 1).ue(0); // first list: one delta of 0, then 15 more
        for _ in 0..15 {
            w.ue(0);
        }
        w.put(7, 0).ue(0).ue(0).ue(2).ue(4).put(1, 0).ue(79).ue(44).put(1, 1).put(1, 1).put(1, 0).put(1, 0);
        let sps = Sps::parse(&w.unit()).expect("valid");
        assert_eq!((sps.width, sps.height, sps.num_ref_frames), (1280, 720, 4));
    }

    #[test]
    fn giant_and_cropped_away_pictures_are_refused() {
        let giant = Sps::parse(&baseline(4096, 4096, None));
        assert_eq!(giant, Err(SpsError::TooLarge { width: 65_536, height: 65_536 }));
        assert!(Sps::parse(&baseline(256, 144, None)).is_ok(), "the limit itself is taken");
        assert!(Sps::parse(&baseline(257, 144, None)).is_err());
        let mut stream = Vec::new();
        nal::push(&mut stream, &X264_640X360);
        assert_eq!(picture_size(&stream), Some(Size::new(640, 360)));
        nal::push(&mut stream, &baseline(4096, 4096, None));
        assert_eq!(picture_size(&stream), Some(Size::new(65_536, 65_536)), "for a refusal that says so");
        assert_eq!(Sps::parse(&baseline(4, 4, Some([0, 40, 0, 0]))), Err(SpsError::OutOfRange("cropping")));
    }

    #[test]
    fn every_cut_of_a_set_is_an_error_or_a_sane_size() {
        for end in 0..X264_640X360.len() {
            if let Ok(sps) = Sps::parse(&X264_640X360[..end]) {
                assert_eq!((sps.width, sps.height), (640, 360));
            }
        }
        assert_eq!(Sps::parse(&[0x68, 1]), Err(SpsError::OtherKind));
        assert_eq!(Sps::parse(&[0x67, 0x42]), Err(SpsError::Truncated));
    }

    #[test]
    fn mutated_sets_never_panic_nor_exceed_the_limits() {
        let mut random = StdRng::seed_from_u64(7);
        let seeds = [X264_640X360.to_vec(), baseline(120, 68, Some([0, 0, 0, 4]))];
        for round in 0..60_000 {
            let mut unit = seeds[round % 2].clone();
            if round % 5 == 0 {
                unit = (0..random.random_range(1..64)).map(|_| random.random()).collect();
            }
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..unit.len());
                unit[at] = random.random();
            }
            unit[0] = 0x67;
            if let Ok(sps) = Sps::parse(&unit) {
                assert!(
                    sps.width >= 1 && sps.width <= MAX_WIDTH && sps.height >= 1 && sps.height <= MAX_HEIGHT
                );
            }
            unit[0] = 0x68;
            let _ = pps_ids(&unit);
        }
    }

    #[test]
    fn picture_sets_name_their_ids() {
        // 1 -> id 0, 010 -> sequence id 1
        assert_eq!(pps_ids(&[0x68, 0b1010_0000]), Ok((0, 1)));
        assert_eq!(pps_ids(&[0x68]), Err(SpsError::Truncated));
    }
}
