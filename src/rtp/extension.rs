//! Header extensions of RTP packets (RFC 8285): reading one element, and the one we write, the transport-wide sequence
//! number.
//!
//! Which ids mean what is negotiated; nothing is kept here.

use rtp_types::RtpPacket;

/// How a profile says that elements follow: one-byte headers; two-byte headers in the upper twelve bits.
const ONE_BYTE: u16 = 0xbede;
const TWO_BYTES: u16 = 0x1000;
/// Length of the extension we write.
pub const TRANSPORT_SEQUENCE_LEN: usize = 8;

/// The element `id` of a packet, as a number of 16 bits. `None`: it has none, or another length.
pub fn number(packet: &[u8], id: u8) -> Option<u16> {
    let read = RtpPacket::parse(packet).ok()?;
    let (profile, data) = read.extension()?;
    let element = if profile == ONE_BYTE {
        one_byte(data, id)?
    } else if profile & 0xfff0 == TWO_BYTES {
        two_bytes(data, id)?
    } else {
        return None;
    };
    Some(u16::from_be_bytes(element.try_into().ok()?))
}

fn one_byte(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [head, behind @ ..] = rest {
        let (id, len) = (head >> 4, usize::from(head & 15) + 1);
        // Zero is padding; fifteen ends the list (RFC 8285 §4.2).
        rest = match id {
            0 => behind,
            15 => return None,
            id if id == wanted => return behind.get(..len),
            _ => behind.get(len..)?,
        };
    }
    None
}

fn two_bytes(mut rest: &[u8], wanted: u8) -> Option<&[u8]> {
    while let [id, behind @ ..] = rest {
        if *id == 0 {
            rest = behind;
            continue;
        }
        let [len, behind @ ..] = behind else { return None };
        let element = behind.get(..usize::from(*len))?;
        if *id == wanted {
            return Some(element);
        }
        rest = behind.get(usize::from(*len)..)?;
    }
    None
}

/// The extension that numbers a packet, as it stands behind the fixed header. `id`: 1 to 14.
pub fn transport_sequence(id: u8, number: u16) -> [u8; TRANSPORT_SEQUENCE_LEN] {
    let ([p, q], [high, low]) = (ONE_BYTE.to_be_bytes(), number.to_be_bytes());
    [p, q, 0, 1, (id & 15) << 4 | 1, high, low, 0]
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn packet(extension: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        bytes.extend(extension);
        bytes.extend([1, 2, 3]);
        bytes
    }

    #[test]
    fn the_number_is_found_among_other_elements_in_either_form() {
        assert_eq!(number(&packet(&transport_sequence(5, 0xabcd)), 5), Some(0xabcd));
        let one = [0xbe, 0xde, 0, 2, 0x20, 9, 0, 0x51, 0xab, 0xcd, 0, 0];
        assert_eq!((number(&packet(&one), 5), number(&packet(&one), 2)), (Some(0xabcd), None));
        let two = [0x10, 0x00, 0, 3, 2, 3, 1, 1, 1, 0, 5, 2, 0xab, 0xcd, 0, 0];
        assert_eq!(number(&packet(&two), 5), Some(0xabcd));
        let ended = [0xbe, 0xde, 0, 1, 0xf0, 0x51, 0xab, 0xcd];
        assert_eq!(number(&packet(&ended), 5), None);
        assert_eq!(number(&[0x80; 20], 5), None);
    }

    #[test]
    fn mutated_extensions_never_panic() {
        let mut random = StdRng::seed_from_u64(4);
        for _ in 0..30_000 {
            let mut bytes = packet(&[0x10, 0x00, 0, 3, 2, 3, 1, 1, 1, 0, 5, 2, 0xab, 0xcd, 0, 0]);
            if random.random_bool(0.5) {
                (bytes[12], bytes[13]) = (0xbe, 0xde);
            }
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(1..=bytes.len()));
            for id in 0..=20 {
                number(&bytes, id);
            }
        }
    }
}
