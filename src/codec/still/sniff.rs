//! What the first bytes of a file say it is, and how large its picture is, before anything is decoded.
//!
//! Pure. Sources: JFIF (ITU-T T.81 §B.2.2), PNG (ISO 15948 §11.2.2), GIF89a §18, WebP container (RFC 9649 §2.5 to
//! §2.7). What a sender calls its file is not believed.

use crate::codec::still::ImageType;
use crate::media::frame::Size;

/// What bytes claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub kind: ImageType,
    pub size: Size,
}

/// Reads the header. `None`: no picture we take, or one that does not say how large it is.
pub fn sniff(bytes: &[u8]) -> Option<Claim> {
    let (kind, size) = if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        (ImageType::Jpeg, jpeg(bytes)?)
    } else if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        (ImageType::Png, png(bytes)?)
    } else if bytes.starts_with(b"GIF87a") || bytes.starts_with(b"GIF89a") {
        (ImageType::Gif, Size::new(little16(bytes, 6)?, little16(bytes, 8)?))
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        (ImageType::Webp, webp(bytes)?)
    } else {
        return None;
    };
    (size.width > 0 && size.height > 0).then_some(Claim { kind, size })
}

/// Walks the segments to the frame header; entropy-coded data comes after it.
fn jpeg(bytes: &[u8]) -> Option<Size> {
    let mut at = 2;
    loop {
        while bytes.get(at) == Some(&0xff) && bytes.get(at + 1) == Some(&0xff) {
            at += 1;
        }
        let (start, marker) = (*bytes.get(at)?, *bytes.get(at + 1)?);
        if start != 0xff {
            return None;
        }
        match marker {
            // Markers without a length.
            0x01 | 0xd0..=0xd8 => at += 2,
            // SOF0 to SOF15 without DHT, JPG and DAC.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some(Size::new(big16(bytes, at + 7)?, big16(bytes, at + 5)?));
            }
            0x00 | 0xd9 | 0xda => return None,
            _ => {
                let len = big16(bytes, at + 2)?;
                if len < 2 {
                    return None;
                }
                at += 2 + len;
            }
        }
    }
}

/// What a JPEG's Exif says of how the camera was held: 1 is upright, up to 8. `None`: nothing.
pub fn orientation(bytes: &[u8]) -> Option<u16> {
    if !bytes.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    let mut at = 2;
    // Exif is among the first segments; none that stands after the picture begins counts.
    loop {
        let (start, marker) = (*bytes.get(at)?, *bytes.get(at + 1)?);
        let len = big16(bytes, at + 2)?;
        match marker {
            0xe1 if bytes.get(at + 4..at + 10) == Some(b"Exif\0\0") => {
                return exif_orientation(bytes.get(at + 10..(at + 2 + len).min(bytes.len()))?);
            }
            0xe0..=0xef | 0xfe if start == 0xff && len >= 2 => at += 2 + len,
            _ => return None,
        }
    }
}

/// The tag 0x0112 of the first directory (TIFF 6.0 §2).
fn exif_orientation(tiff: &[u8]) -> Option<u16> {
    const ENTRY: usize = 12;
    let big = match tiff.get(..4)? {
        b"MM\0*" => true,
        b"II*\0" => false,
        _ => return None,
    };
    let two = |at: usize| if big { big16(tiff, at) } else { little16(tiff, at) };
    let (first, second) = (two(4)?, two(6)?);
    let directory = if big { first << 16 | second } else { second << 16 | first };
    let entries = two(directory)?;
    let is_it = |at: &usize| two(*at) == Some(0x0112);
    let entry = (0..entries.min(256)).map(|number| directory + 2 + number * ENTRY).find(is_it)?;
    u16::try_from(two(entry + 8)?).ok()
}

fn png(bytes: &[u8]) -> Option<Size> {
    if bytes.get(12..16)? != b"IHDR" {
        return None;
    }
    let side = |at: usize| {
        let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(four)).ok()
    };
    Some(Size::new(side(16)?, side(20)?))
}

fn webp(bytes: &[u8]) -> Option<Size> {
    match bytes.get(12..16)? {
        b"VP8X" => Some(Size::new(little24(bytes, 24)? + 1, little24(bytes, 27)? + 1)),
        b"VP8 " => {
            let marked = bytes.get(23..26)? == [0x9d, 0x01, 0x2a];
            marked.then_some(())?;
            Some(Size::new(little16(bytes, 26)? & 0x3fff, little16(bytes, 28)? & 0x3fff))
        }
        b"VP8L" => {
            (*bytes.get(20)? == 0x2f).then_some(())?;
            let four: [u8; 4] = bytes.get(21..25)?.try_into().ok()?;
            let bits = u32::from_le_bytes(four);
            Some(Size::new((bits & 0x3fff) as usize + 1, (bits >> 14 & 0x3fff) as usize + 1))
        }
        _ => None,
    }
}

fn big16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?))
}

fn little16(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(*bytes.get(at + 1)?) << 8 | usize::from(*bytes.get(at)?))
}

fn little24(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(*bytes.get(at + 2)?) << 16 | little16(bytes, at)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(bytes: &[u8]) -> Option<(ImageType, usize, usize)> {
        sniff(bytes).map(|claim| (claim.kind, claim.size.width, claim.size.height))
    }

    #[test]
    fn each_kind_says_its_size() {
        let jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08\x01\x68\x02\x80\x03";
        assert_eq!(claim(jpeg), Some((ImageType::Jpeg, 640, 360)));
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\x68\x08\x02\0\0\0";
        assert_eq!(claim(png), Some((ImageType::Png, 640, 360)));
        assert_eq!(claim(b"GIF89a\x80\x02\x68\x01\0\0"), Some((ImageType::Gif, 640, 360)));
        let extended = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x7f\x02\0\x67\x01\0";
        assert_eq!(claim(extended), Some((ImageType::Webp, 640, 360)));
        let lossy = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x80\x02\x68\x01";
        assert_eq!(claim(lossy), Some((ImageType::Webp, 640, 360)));
        let bits = (639_u32 | 359 << 14).to_le_bytes();
        let lossless = [b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f".as_slice(), &bits].concat();
        assert_eq!(claim(&lossless), Some((ImageType::Webp, 640, 360)));
    }

    #[test]
    fn what_is_no_picture_or_cut_short_is_none_and_nothing_panics() {
        for other in [&b""[..], b"%PDF-1.7", b"<svg>", b"BM\0\0", b"GIF89a\0\0\0\0", b"\xff\xd8\xff\xd9"] {
            assert_eq!(claim(other), None);
        }
        let whole: [&[u8]; 4] = [
            b"\xff\xd8\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
            b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08\x01\x68\x02\x80\x03",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\x68\x08\x02\0\0\0",
            b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x7f\x02\0\x67\x01\0",
        ];
        for bytes in whole {
            for end in 0..bytes.len() {
                let _ = (sniff(&bytes[..end]), orientation(&bytes[..end]));
                for value in [0, 0x7f, 0xff] {
                    let mut broken = bytes.to_vec();
                    broken[end] = value;
                    let _ = (sniff(&broken), orientation(&broken));
                }
            }
        }
    }
}
