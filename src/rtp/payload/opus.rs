//! What a receiver must know of an Opus payload before it is decoded (RFC 6716 §3, RFC 7587): how long it lasts, and
//! whether it carries the packet before it once more.
//!
//! Decoding is in `codec`.

/// The longest packet, 120 ms (RFC 6716 §3.2.5, R5).
const LONGEST: u32 = 5760;
/// Length of a SILK frame.
const SILK_FRAME: u32 = 960;

/// Length at 48 kHz; `None`: no Opus packet.
pub fn samples(payload: &[u8]) -> Option<u32> {
    let (first, rest) = payload.split_first()?;
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(rest.first()? & 63),
    };
    let samples = frames * frame_samples(*first);
    (1..=LONGEST).contains(&samples).then_some(samples)
}

/// Table 2 of RFC 6716.
fn frame_samples(first: u8) -> u32 {
    let config = first >> 3;
    match config {
        0..12 => [480, 960, 1920, 2880][usize::from(config % 4)],
        12..16 => [480, 960][usize::from(config % 2)],
        _ => [120, 240, 480, 960][usize::from(config % 4)],
    }
}

/// Whether a packet of one frame repeats the one before it (RFC 6716 §4.2.3, §4.2.4). Packets of several frames are
/// rare and not looked into.
pub fn repairs(payload: &[u8]) -> bool {
    let [first, frame, ..] = *payload else { return false };
    // Only SILK and hybrid modes can.
    if first >> 3 >= 16 || first & 3 != 0 {
        return false;
    }
    let parts = frame_samples(first).div_ceil(SILK_FRAME);
    let bit = |index: u32| frame >> (7 - index) & 1 == 1;
    let stereo = first & 4 != 0;
    // For each channel: one flag of voice for each part, then that of the repetition.
    bit(parts) || (stereo && bit(2 * parts + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_the_table() {
        // Hybrid 20 ms, one frame; CELT 2.5 ms, two frames; SILK 60 ms, one; three of 20 ms.
        for (payload, length) in [
            (&[15 << 3][..], Some(960)),
            (&[16 << 3 | 1], Some(240)),
            (&[3 << 3, 0], Some(2880)),
            (&[1 << 3 | 3, 3], Some(2880)),
            (&[1 << 3 | 3, 7], None),
            (&[1 << 3 | 3, 0], None),
            (&[1 << 3 | 3], None),
            (&[], None),
        ] {
            assert_eq!(samples(payload), length, "{payload:?}");
        }
    }

    #[test]
    fn repetition_stands_behind_the_flags_of_voice() {
        assert!(repairs(&[1 << 3, 0b1100_0000]) && !repairs(&[1 << 3, 0b1000_0000]));
        assert!(repairs(&[3 << 3, 0b0001_0000]) && !repairs(&[3 << 3, 0b1110_0000]));
        assert!(repairs(&[1 << 3 | 4, 0b1001_0000]), "the second channel alone");
        assert!(!repairs(&[31 << 3, 0xff]) && !repairs(&[1 << 3 | 1, 0xff]) && !repairs(&[8]));
    }
}
