//! Pictures that are given: where a configuration or an application says they are, and what is taken of them.
//!
//! Pure. A place is a file, a data URL or a URL. Whoever gives a picture is trusted or not: a trusted one may be sent as
//! it came, any other is decoded away from this process and goes through a gate. URLs are fetched by
//! `talk::link::fetch`.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use reqwest::Url;

use crate::codec::still::ImageType;
use crate::codec::still::decode::{Limits, Unusable, admit};
use crate::talk::message::Image;

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// Bytes of a data URL.
    Here(Vec<u8>),
    Url(Url),
}

/// Why a place cannot be read; says it to whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    #[error("it is empty")]
    Empty,
    #[error("a data URL of a picture begins with data:image/jpeg;base64, (or png, webp, gif)")]
    NoPicture,
    #[error("its base64 cannot be read")]
    Base64,
    #[error("{0} bytes are over the limit of {1}")]
    TooLong(usize, usize),
    #[error("a URL begins with https://, or http:// on the own network")]
    Scheme,
}

const MEDIA_TYPES: [&str; 5] = ["image/jpeg", "image/jpg", "image/png", "image/webp", "image/gif"];

/// Base64 as people write it: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Place {
    /// Reads where a picture is. A relative file is as it is written. `most`: bytes a data URL may hold.
    pub fn parse(text: &str, most: usize) -> Result<Place, BadPlace> {
        let text = text.trim();
        let scheme = text.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            _ if text.is_empty() => Err(BadPlace::Empty),
            Some("data") => data(text.get("data:".len()..).unwrap_or_default(), most).map(Place::Here),
            Some("http" | "https") => Url::parse(text).map(Place::Url).map_err(|_| BadPlace::Scheme),
            Some(_) if text.contains("://") => Err(BadPlace::Scheme),
            Some(_) | None => Ok(Place::File(PathBuf::from(text))),
        }
    }
}

/// What follows `data:`.
fn data(text: &str, most: usize) -> Result<Vec<u8>, BadPlace> {
    let (head, body) = text.split_once(',').ok_or(BadPlace::NoPicture)?;
    let mut words = head.split(';').map(|word| word.trim().to_ascii_lowercase());
    let media_type = words.next().unwrap_or_default();
    if !MEDIA_TYPES.contains(&media_type.as_str()) || !words.any(|word| word == "base64") {
        return Err(BadPlace::NoPicture);
    }
    let longest = body.len() / 4 * 3;
    if longest > most + 3 {
        return Err(BadPlace::TooLong(longest, most));
    }
    let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    BASE64.decode(body).map_err(|_| BadPlace::Base64)
}

/// What a picture of someone trusted needs before it can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    Ready(Arc<Image>),
    /// Too large, or of a kind not every model takes: it must be decoded and coded anew.
    Recode,
}

/// Larger files are coded anew: models refuse them, or charge for what they do not look at.
const READY_BYTES: usize = 4 << 20;
const READY_SIDE: usize = 2048;

/// Takes a picture of someone the route trusts (the operator, or an application that was given the right). `note` is what
/// stands in its place once it is forgotten.
pub fn trusted(
    bytes: &[u8],
    id: u64,
    note: &str,
    pinned: bool,
    limits: &Limits,
) -> Result<Trusted, Unusable> {
    let claim = admit(bytes, limits)?;
    let common = match claim.kind {
        ImageType::Jpeg | ImageType::Png => true,
        // Some models refuse them, and a GIF may be an animation.
        ImageType::Webp | ImageType::Gif => false,
    };
    let small =
        claim.size.width <= READY_SIDE && claim.size.height <= READY_SIDE && bytes.len() <= READY_BYTES;
    if !common || !small {
        return Ok(Trusted::Recode);
    }
    let mut image = Image::given(id, claim.kind, bytes, claim.size, note);
    image.pinned = pinned;
    Ok(Trusted::Ready(Arc::new(image)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::frame::Size;
    use crate::talk::message::Origin;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\x68\x08\x02\0\0\0";

    #[test]
    fn places_are_told_apart() {
        let parse = |text: &str| Place::parse(text, 1_000);
        assert_eq!(parse("plans/house.png"), Ok(Place::File("plans/house.png".into())));
        assert_eq!(parse("C:house.png"), Ok(Place::File("C:house.png".into())));
        assert!(matches!(parse("https://a.example/x.png"), Ok(Place::Url(_))));
        assert!(matches!(parse("HTTP://10.0.0.1/x.png"), Ok(Place::Url(_))));
        assert_eq!(parse("ftp://a.example/x.png"), Err(BadPlace::Scheme));
        assert_eq!(parse("file:///etc/passwd"), Err(BadPlace::Scheme));
        assert_eq!(parse("http://"), Err(BadPlace::Scheme));
        assert_eq!(parse("  "), Err(BadPlace::Empty));
    }

    #[test]
    fn data_urls_are_read_as_people_write_them_and_bounded() {
        let here = |text: &str| Place::parse(text, 12);
        for text in [
            "data:image/png;base64,aGVsbG8=",
            "data:image/png;base64,aGVsbG8",
            "DATA:image/JPEG;name=x;base64,aGVs\n bG8=",
        ] {
            assert_eq!(here(text), Ok(Place::Here(b"hello".to_vec())), "{text}");
        }
        assert_eq!(here("data:image/png;base64,a*b"), Err(BadPlace::Base64));
        assert_eq!(here("data:image/png,hello"), Err(BadPlace::NoPicture));
        assert_eq!(here("data:text/html;base64,aGVsbG8="), Err(BadPlace::NoPicture));
        assert_eq!(here("data:"), Err(BadPlace::NoPicture));
        let long = format!("data:image/png;base64,{}", "A".repeat(24));
        assert_eq!(here(&long), Err(BadPlace::TooLong(18, 12)));
    }

    #[test]
    fn a_trusted_picture_is_sent_as_it_came_if_models_take_it() {
        let limits = Limits::default();
        let Ok(Trusted::Ready(image)) = trusted(PNG, 3, "the plan", true, &limits) else {
            panic!("not ready")
        };
        assert_eq!((image.size, image.origin(), image.pinned), (Size::new(640, 360), Origin::Given, true));
        assert_eq!(&image.bytes[..], PNG);
        let gif = b"GIF89a\x80\x02\x68\x01\0\0";
        assert_eq!(trusted(gif, 1, "", false, &limits), Ok(Trusted::Recode));
        let wide = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x0f\xff\0\0\x01\x68\x08\x02\0\0\0";
        assert_eq!(trusted(wide, 1, "", false, &limits), Ok(Trusted::Recode));
        assert_eq!(trusted(b"<svg>", 1, "", false, &limits), Err(Unusable::Unknown));
    }
}
