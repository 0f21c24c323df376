//! The header of a VP9 frame (VP9 bitstream specification §6.2): is it a key frame, and how large.
//!
//! Profile 0 only, as negotiated. The rest of a frame is the decoder's; packets are `rtp::payload::vp9`'s.

use crate::media::frame::Size;

const SYNC_CODE: [u8; 3] = [0x49, 0x83, 0x42];
/// `color_space` of RGB, which profile 0 cannot have.
const RGB: u8 = 7;

/// Whether a frame, or the beginning of one, is a key frame. Nonsense is none.
pub fn is_key(frame: &[u8]) -> bool {
    picture_size(frame).is_some()
}

/// The size a key frame states. `None`: an interframe, another profile, or nonsense.
pub fn picture_size(frame: &[u8]) -> Option<Size> {
    let [first, code @ .., a, b, c, d, e] = frame.first_chunk::<9>()?;
    // Two bits of marker, two of profile, then `show_existing_frame` and `frame_type`: 0 for a key frame.
    let key = first & 0xfc == 0x80 && *code == SYNC_CODE && a >> 5 != RGB;
    // Three bits of colour space and one of range come before the two sizes of 16 bits each.
    let bits = u64::from_be_bytes([0, 0, 0, *a, *b, *c, *d, *e]) >> 4;
    let side = |bits: u64| (bits & 0xffff) as usize + 1;
    key.then(|| Size::new(side(bits >> 16), side(bits)))
}

/// The frames of one picture (spatial layers, lowest first) as one superframe (Annex B): `ends` says where in `frames`
/// each ends, up to 8 of them.
pub fn superframe_index(ends: &[usize]) -> Vec<u8> {
    let marker = 0xc0 | 3 << 3 | (ends.len().saturating_sub(1) as u8 & 7);
    let mut index = vec![marker];
    let mut from = 0;
    for end in ends {
        index.extend_from_slice(&((end - from) as u32).to_le_bytes());
        from = *end;
    }
    index.push(marker);
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a key frame of libvpx, 640x360.
    const KEY: [u8; 9] = [0x82, 0x49, 0x83, 0x42, 0x00, 0x27, 0xf0, 0x16, 0x70];

    #[test]
    fn the_size_of_a_key_frame_is_read() {
        assert_eq!(picture_size(&KEY), Some(Size::new(640, 360)));
        for (at, bit) in [(0, 0x40), (0, 0x20), (0, 0x08), (0, 0x04), (1, 1), (4, 0xe0)] {
            let mut wrong = KEY;
            wrong[at] ^= bit;
            assert!(!is_key(&wrong), "byte {at} bit {bit:#x}");
        }
        assert!(!is_key(&KEY[..8]));
    }

    #[test]
    fn a_superframe_names_the_length_of_each_frame() {
        assert_eq!(superframe_index(&[300, 1000]), [0xd9, 0x2c, 1, 0, 0, 0xbc, 2, 0, 0, 0xd9]);
    }
}
