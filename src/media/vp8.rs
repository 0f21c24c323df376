//! The header of a VP8 frame (RFC 6386 §9.1): is it a key frame, and how large.
//!
//! The rest of a frame is the decoder's; packets are `rtp::payload::vp8`'s.

use crate::media::frame::Size;

const START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];

/// Whether a frame, or the beginning of one, is a key frame. Nonsense is none.
pub fn is_key(frame: &[u8]) -> bool {
    picture_size(frame).is_some()
}

/// The size a key frame states. `None`: an interframe, or nonsense.
pub fn picture_size(frame: &[u8]) -> Option<Size> {
    let [tag, _, _, code @ .., width_low, width_high, height_low, height_high] = frame.first_chunk::<10>()?;
    let key = tag & 1 == 0 && *code == START_CODE;
    // The upper two bits ask for a picture to be shown larger; nobody does.
    let side = |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high & 0x3f]));
    let size = Size::new(side(*width_low, *width_high), side(*height_low, *height_high));
    (key && size.width > 0 && size.height > 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_key_frame_is_read_without_its_scale() {
        let key = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x42, 0x68, 0x81];
        assert_eq!(picture_size(&key), Some(Size::new(640, 360)));
        for at in [0, 3, 4, 5] {
            let mut wrong = key;
            wrong[at] ^= 1;
            assert!(!is_key(&wrong), "byte {at}");
        }
        assert!(!is_key(&key[..9]));
        assert!(!is_key(&[0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0, 0, 1, 0]), "no width");
    }
}
