//! Stills: single pictures coded as files are, for models and people. JPEG and PNG are written; JPEG, PNG, WebP and
//! GIF are read.
//!
//! `fit` says what of a picture goes where, `encode` makes a [`encode::Still`] of a cleared picture and of nothing
//! else, `sniff` tells what bytes claim to be before anybody decodes them, `decode` opens them within limits. Which
//! picture is worth a still is for `talk::sight` to say.

pub mod decode;
pub mod encode;
pub mod fit;
mod scale;
pub mod sniff;

/// How a still is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageType {
    Jpeg,
    Png,
    Webp,
    Gif,
}

impl ImageType {
    /// As HTTP and the models' APIs call it.
    pub fn media_type(self) -> &'static str {
        match self {
            ImageType::Jpeg => "image/jpeg",
            ImageType::Png => "image/png",
            ImageType::Webp => "image/webp",
            ImageType::Gif => "image/gif",
        }
    }

    /// What a file of it is called at its end.
    pub fn extension(self) -> &'static str {
        match self {
            ImageType::Jpeg => "jpg",
            ImageType::Png => "png",
            ImageType::Webp => "webp",
            ImageType::Gif => "gif",
        }
    }
}
