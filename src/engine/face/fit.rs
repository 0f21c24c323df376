//! Whether coded pictures of a face can go to the caller as they are.
//!
//! Pure. What a decoder of one profile can read of another: ITU-T H.264 Annex A.

use crate::engine::coding::{Coder, Encoding, Limits};
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::frame::Size;
use crate::media::nal::{self, NalType};
use crate::media::sps::Sps;
use crate::media::vp8;

const BASELINE: u8 = 66;
const MAIN: u8 = 77;
const EXTENDED: u8 = 88;
const HIGH: u8 = 100;

/// Whether the peer can decode what begins with this key picture.
pub fn fits(key: &AccessUnit, coder: &Coder) -> bool {
    let limits = &coder.limits;
    // Whoever takes one NAL unit in a packet takes none that is longer, and nobody here cuts pictures anew.
    if !key.key || key.damaged || limits.single_nal {
        return false;
    }
    match (coder.encoding, key.codec) {
        (Encoding::H264(_), VideoCodec::H264) => h264_fits(&key.data, limits),
        (Encoding::Vp8, VideoCodec::Vp8) => {
            vp8::picture_size(&key.data).is_some_and(|size| size_fits(size, limits))
        }
        (Encoding::H264(_) | Encoding::Vp8, _) => false,
    }
}

fn h264_fits(data: &[u8], limits: &Limits) -> bool {
    let mut sets = nal::units(data).filter(|unit| NalType::of(unit[0]) == NalType::Sps).peekable();
    sets.peek().is_some()
        && sets.all(|set| {
            Sps::parse(set).is_ok_and(|sps| {
                let size = Size::new(sps.width as usize, sps.height as usize);
                let [profile, flags, level] = limits.profile_level_id;
                size_fits(size, limits)
                    && profile_fits((sps.profile_idc, sps.constraint_flags), (profile, flags))
                    && sps.level_idc <= level
            })
        })
}

fn size_fits(size: Size, limits: &Limits) -> bool {
    limits.fit(size) == size
}

/// Whether a decoder that says it knows the second can decode the first: `profile_idc` and the byte of constraints.
fn profile_fits((profile, flags): (u8, u8), (known, known_flags): (u8, u8)) -> bool {
    // set0: it keeps to Baseline, set1: to Main, both: to what the two have in common.
    let main = profile == MAIN || flags & 0x40 != 0;
    let common = profile == BASELINE && flags & 0x40 != 0 || profile == MAIN && flags & 0x80 != 0;
    match known {
        BASELINE if known_flags & 0x40 != 0 => common,
        BASELINE | EXTENDED => common || profile == BASELINE,
        MAIN => common || main,
        HIGH => common || main || profile == HIGH,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::codec::h264::encoder::{self, EncoderKind, EncoderSettings};
    use crate::media::frame::{CleanFrame, Plane};
    use crate::media::pool::FramePool;

    fn coder(profile_level_id: [u8; 3]) -> Coder {
        let limits = Limits {
            max: Size::new(1280, 720),
            max_macroblocks: 3_600,
            max_macroblocks_per_second: 108_000,
            kbps: 1_000,
            fps: 25,
            max_nal_bytes: None,
            single_nal: false,
            profile_level_id,
        };
        Coder { encoding: Encoding::H264(EncoderKind::X264), limits }
    }

    fn key(size: Size, profile_level_id: [u8; 3]) -> AccessUnit {
        let settings = EncoderSettings {
            profile_level_id: Some(profile_level_id),
            ..EncoderSettings::new(size, 25, 500)
        };
        let mut encoder = encoder::open(EncoderKind::X264, &settings).expect("an encoder");
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        picture.plane_mut(Plane::Y).fill(90);
        let unit = encoder.encode(&CleanFrame::drawn_here(picture), true).expect("coded");
        unit.expect("a picture")
    }

    #[test]
    fn the_same_profile_and_size_fit_and_larger_ones_do_not() {
        let unit = key(Size::new(640, 360), [0x42, 0xe0, 0x1f]);
        assert!(fits(&unit, &coder([0x42, 0xe0, 0x1f])));
        assert!(fits(&unit, &coder([0x4d, 0x00, 0x1f])), "Main knows what is common");
        assert!(fits(&unit, &coder([0x64, 0x00, 0x28])));
        assert!(!fits(&unit, &coder([0x42, 0xe0, 0x0c])), "its level is too low");
        let mut small = coder([0x42, 0xe0, 0x1f]);
        small.limits.max = Size::new(352, 288);
        assert!(!fits(&unit, &small));
        let mut single = coder([0x42, 0xe0, 0x1f]);
        single.limits.single_nal = true;
        assert!(!fits(&unit, &single));
    }

    #[test]
    fn a_profile_is_decoded_by_those_that_hold_it() {
        let common = (66, 0xe0);
        let (baseline, main, high) = ((66, 0), (77, 0), (100, 0));
        for (stream, known, fits) in [
            (common, common, true),
            (common, main, true),
            (common, high, true),
            (baseline, common, false),
            (baseline, main, false),
            (main, common, false),
            (main, high, true),
            (high, main, false),
            (high, high, true),
            ((77, 0x80), common, true),
        ] {
            assert_eq!(profile_fits(stream, known), fits, "{stream:?} {known:?}");
        }
    }

    #[test]
    fn another_codec_does_not_fit() {
        let mut unit = key(Size::new(640, 360), [0x42, 0xe0, 0x1f]);
        unit.codec = VideoCodec::Vp8;
        assert!(!fits(&unit, &coder([0x42, 0xe0, 0x1f])));
        unit.codec = VideoCodec::H264;
        unit.key = false;
        assert!(!fits(&unit, &coder([0x42, 0xe0, 0x1f])));
    }
}
