//! Whether a packet is the first of a key picture: what lies before it is not needed any more.
//!
//! Told from the payload alone. Where that is not sure, it is not.

use crate::media::access_unit::VideoCodec;
use crate::rtp::payload::{vp8, vp9};

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// Of H.265.
const VPS: u8 = 32;
const AGGREGATION: u8 = 48;
/// Frame marker, the profile's reserved bit, "show an existing frame" and the frame's type: a key frame of profile 0 to 2.
const VP9_HEADER: u8 = 0xcc;
const VP9_KEY: u8 = 0x80;

/// Whether a key picture begins with this payload.
pub fn begins_key(codec: VideoCodec, payload: &[u8]) -> bool {
    match codec {
        VideoCodec::H264 => match payload {
            [head, first, second, unit @ ..] => match head & 0x1f {
                STAP_A => matches!(unit, [inner, begin, ..] if begins(inner & 0x1f, *begin)),
                // The start bit, and the kind of the unit that is cut up.
                FU_A => first & 0x80 != 0 && begins(first & 0x1f, *second),
                kind => begins(kind, *first),
            },
            _ => false,
        },
        VideoCodec::Vp8 => vp8::Descriptor::parse(payload).is_some_and(|(descriptor, frame)| {
            let first = descriptor.starts && descriptor.partition == 0;
            first && frame.first().is_some_and(|header| header & 1 == 0)
        }),
        VideoCodec::Vp9 => vp9::Descriptor::parse(payload).is_some_and(|(descriptor, frame)| {
            let first = descriptor.begins && descriptor.layers.is_none_or(|(_, spatial)| spatial == 0);
            first && frame.first().is_some_and(|header| header & VP9_HEADER == VP9_KEY)
        }),
        // A video parameter set, alone or first of several.
        VideoCodec::H265 => match payload {
            [head, _, rest @ ..] => match (head >> 1 & 0x3f, rest) {
                (AGGREGATION, [_, _, inner, ..]) => inner >> 1 & 0x3f == VPS,
                (kind, _) => kind == VPS,
            },
            _ => false,
        },
    }
}

/// A parameter set in front of it, or its first slice: that begins at macroblock 0, which is a set first bit.
fn begins(kind: u8, behind: u8) -> bool {
    kind == SPS || kind == IDR && behind & 0x80 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_of_a_key_picture_is_known_in_every_form() {
        let h264 = |payload: &[u8]| begins_key(VideoCodec::H264, payload);
        assert!(h264(&[0x67, 0x42, 0xe0, 1]) && h264(&[0x65, 0x88, 1]) && h264(&[0x78, 0, 2, 0x67, 0x42]));
        assert!(h264(&[0x7c, 0x85, 0x88, 1]));
        let others: [&[u8]; 7] = [
            &[],
            &[0x65],
            &[0x41, 0x9a, 1],
            &[0x65, 0x08, 1],
            &[0x7c, 0x05, 0x88],
            &[0x7c, 0x81, 0x9a],
            &[0x78, 0, 2, 0x41, 0x9a],
        ];
        assert!(others.iter().all(|payload| !h264(payload)));
        let vp8 = |payload: &[u8]| begins_key(VideoCodec::Vp8, payload);
        let vp9 = |payload: &[u8]| begins_key(VideoCodec::Vp9, payload);
        assert!(
            vp9(&[0x08, 0x82, 0x49]) && !vp9(&[0x08, 0x86, 0]) && !vp9(&[0x00, 0x82, 0x49]) && !vp9(&[0x08])
        );
        let h265 = |payload: &[u8]| begins_key(VideoCodec::H265, payload);
        assert!(h265(&[0x40, 1, 0x0c]) && h265(&[0x60, 1, 0, 4, 0x40, 1]) && !h265(&[0x26, 1, 0xaf]));
        assert!(!h265(&[0x60, 1, 0, 4, 0x26, 1]) && !h265(&[0x62, 1, 0x93]) && !h265(&[]));
        assert!(vp8(&[0x10, 0x10, 2, 0]) && !vp8(&[0x10, 0x11, 2, 0]) && !vp8(&[0x00, 0x10, 2, 0]));
    }
}
