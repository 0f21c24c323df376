//! Which encoder this box really has: each one must encode a moving picture that decodes back.
//!
//! An encoder being present says little (no device, no driver, no session left), so the proof is a short stream:
//! two key pictures where they were asked for, a PSNR that shows a picture, NAL units within the limit. The result
//! is remembered for the life of the process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::base::time::Pts;
use crate::codec::decoder::Decoder;
use crate::codec::ffmpeg::broken;
use crate::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::frame::{CleanFrame, FrameMut, Plane, Size};
use crate::media::nal;
use crate::media::pool::FramePool;
use crate::media::psnr::psnr_y;

/// The size of the proof; a common one that every device takes.
const SIZE: Size = Size::new(640, 360);
const FPS: u32 = 15;
const KBPS: u32 = 1000;
const PICTURES: u32 = 16;
/// The second key picture is asked for here.
const SECOND_KEY: u32 = 8;
/// An encoder may hold back this many pictures before it is called too slow for a call.
const DELAY_MAX: usize = 3;
/// Below this a decoded picture is not the picture that went in.
const PSNR_MIN: f64 = 28.0;
/// What the proof of bounded NAL units asks for: the payload of one RTP packet.
const NAL_LIMIT: usize = 1200;

/// By encoder and whether its NAL units were to be bounded.
type Proofs = HashMap<(EncoderKind, bool), Result<(), CodecError>>;

static PROVEN: Mutex<Option<Proofs>> = Mutex::new(None);

/// The encoder for `setting`: "auto" or one of [`EncoderKind::name`]. Takes some 100 ms the first time.
///
/// # Errors
/// No encoder works, or the named one does not; the text says why and what to do.
pub fn choose(setting: &str) -> Result<EncoderKind, CodecError> {
    choose_from(setting, false)
}

/// As [`choose`], for streams whose NAL units must fit one packet (packetization-mode 0).
pub fn choose_bounded(setting: &str) -> Result<EncoderKind, CodecError> {
    choose_from(setting, true)
}

fn choose_from(setting: &str, bounded: bool) -> Result<EncoderKind, CodecError> {
    if setting != "auto" {
        let names = EncoderKind::ALL.map(EncoderKind::name).join(", ");
        let kind = EncoderKind::named(setting)
            .ok_or_else(|| broken(format!("no encoder is called {setting}: use auto or one of {names}")))?;
        return proven(kind, bounded).map(|()| kind).map_err(|why| {
            broken(format!(
                "the encoder {setting} does not work: {why}; use \"auto\" or another one of {names}"
            ))
        });
    }
    let mut reasons = Vec::new();
    for kind in EncoderKind::ALL {
        match proven(kind, bounded) {
            Ok(()) => return Ok(kind),
            Err(why) => reasons.push(format!("{}: {why}", kind.name())),
        }
    }
    Err(broken(format!(
        "no H.264 encoder works ({}); install an FFmpeg with libx264 or build with the feature `openh264`",
        reasons.join("; ")
    )))
}

fn proven(kind: EncoderKind, bounded: bool) -> Result<(), CodecError> {
    // Held during the proof: several calls starting at once wait for one proof instead of running their own.
    let mut proven = PROVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let results = proven.get_or_insert_default();
    if let Some(known) = results.get(&(kind, bounded)) {
        return known.clone();
    }
    let result = prove(kind, bounded.then_some(NAL_LIMIT));
    match &result {
        Ok(()) => tracing::info!("the encoder {} works", kind.name()),
        Err(why) => tracing::debug!("the encoder {} does not work: {why}", kind.name()),
    }
    results.insert((kind, bounded), result.clone());
    result
}

/// Encodes and decodes the proof once; nothing is remembered.
pub fn prove(kind: EncoderKind, max_nal_bytes: Option<usize>) -> Result<(), CodecError> {
    let mut encoder = open(kind, &EncoderSettings { max_nal_bytes, ..asked() })?;
    judge(encoder.as_mut(), max_nal_bytes)
}

/// What the encoder of a proof is opened with.
pub(in crate::codec) fn asked() -> EncoderSettings {
    EncoderSettings::new(SIZE, FPS, KBPS)
}

/// The proof of an encoder of any codec.
pub(in crate::codec) fn judge(
    encoder: &mut dyn VideoEncoder,
    max_nal_bytes: Option<usize>,
) -> Result<(), CodecError> {
    let pool = FramePool::new(PICTURES as usize + 4);
    let mut originals = Vec::new();
    let mut units = Vec::new();
    for number in 0..PICTURES {
        let mut picture = pool.take_sized(SIZE, at(number)).ok_or_else(|| broken("no room for the proof"))?;
        paint(&mut picture, number as usize);
        let picture = CleanFrame::drawn_here(picture);
        units.extend(encoder.encode(&picture, number == 0 || number == SECOND_KEY)?);
        originals.push(picture);
    }
    judge_stream(&units, max_nal_bytes)?;
    judge_pictures(&units, &originals, &pool)
}

fn at(number: u32) -> Pts {
    Pts::from_millis(i64::from(number) * 1000 / i64::from(FPS))
}

fn judge_stream(units: &[AccessUnit], max_nal_bytes: Option<usize>) -> Result<(), CodecError> {
    if units.len() + DELAY_MAX < PICTURES as usize {
        return Err(broken(format!("{} units came out of {PICTURES} pictures", units.len())));
    }
    for wanted in [0, SECOND_KEY] {
        if !units.iter().any(|unit| unit.key && unit.pts == at(wanted)) {
            return Err(broken(format!("picture {wanted} was asked to be a key picture and is none")));
        }
    }
    let longest = units.iter().map(|unit| nal::longest(&unit.data)).max().unwrap_or(0);
    match max_nal_bytes {
        Some(limit) if longest > limit => {
            Err(broken(format!("a NAL unit of {longest} bytes where {limit} were allowed")))
        }
        _ => Ok(()),
    }
}

fn judge_pictures(
    units: &[AccessUnit],
    originals: &[CleanFrame],
    pool: &FramePool,
) -> Result<(), CodecError> {
    let codec = units.first().map_or_else(VideoCodec::default, |unit| unit.codec);
    let mut decoder = Decoder::new(codec, SIZE)?;
    let mut compared = 0;
    for unit in units {
        let Some(decoded) = decoder.decode_own(unit, pool)? else { continue };
        let Some(original) = originals.iter().find(|original| original.pts() == decoded.pts()) else {
            return Err(broken("a picture with a time that was never given"));
        };
        let psnr = psnr_y(original.frame(), &decoded);
        if psnr < PSNR_MIN {
            return Err(broken(format!("a picture came back at {psnr:.1} dB, less than {PSNR_MIN} dB")));
        }
        compared += 1;
    }
    if compared + DELAY_MAX < PICTURES as usize {
        return Err(broken(format!("{compared} of {PICTURES} pictures could be decoded")));
    }
    Ok(())
}

/// A soft gradient that drifts and a bright square that moves: detail, motion and colour.
pub(in crate::codec) fn paint(picture: &mut FrameMut, number: usize) {
    let Size { width, height } = picture.size();
    let square = (40 + 12 * number, height / 3);
    for (y, row) in picture.plane_mut(Plane::Y).chunks_exact_mut(width).enumerate() {
        for (x, pixel) in row.iter_mut().enumerate() {
            let inside = x.wrapping_sub(square.0) < 64 && y.wrapping_sub(square.1) < 64;
            let wave = (x + 2 * number) % 256;
            let slope = wave.min(255 - wave) / 2 + y * 80 / height.max(1);
            *pixel = if inside { 220 } else { 30 + slope as u8 / 2 + 2 * ((x / 16 + y / 16) % 8) as u8 };
        }
    }
    let chroma = picture.size().chroma();
    for plane in [Plane::U, Plane::V] {
        for (y, row) in picture.plane_mut(plane).chunks_exact_mut(chroma.width).enumerate() {
            let across = if plane == Plane::U { y * 100 / chroma.height } else { (y + number) % 100 };
            row.fill(78 + across as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_finds_an_encoder_and_says_its_name() {
        let kind = choose("auto").expect("an encoder on the test machine");
        assert_eq!(EncoderKind::named(kind.name()), Some(kind));
        assert_eq!(choose(kind.name()), Ok(kind));
    }

    #[test]
    fn a_name_nobody_has_lists_those_there_are() {
        let error = choose("x265").expect_err("not H.264").to_string();
        assert!(error.contains("x265") && error.contains("libx264, openh264"), "{error}");
    }

    #[test]
    fn every_encoder_passes_or_says_why_not() {
        for kind in EncoderKind::ALL {
            for bounded in [None, Some(NAL_LIMIT)] {
                let result = prove(kind, bounded);
                println!("{} {bounded:?}: {result:?}", kind.name());
                if matches!(kind, EncoderKind::X264 | EncoderKind::OpenH264) && cfg!(feature = "openh264") {
                    assert_eq!(result, Ok(()), "{}", kind.name());
                }
            }
        }
    }

    #[test]
    fn a_stream_without_the_key_picture_asked_for_fails_the_proof() {
        let unit = |number, key| AccessUnit {
            codec: VideoCodec::H264,
            data: bytes::Bytes::from_static(&[0, 0, 1, 0x65, 1]),
            pts: at(number),
            key,
            damaged: false,
        };
        let units: Vec<_> = (0..PICTURES).map(|number| unit(number, number == 0)).collect();
        assert!(judge_stream(&units, None).is_err_and(|why| why.to_string().contains("picture 8")));
        let units: Vec<_> = (0..PICTURES).map(|number| unit(number, number % SECOND_KEY == 0)).collect();
        assert_eq!(judge_stream(&units, Some(2)), Ok(()));
        assert!(judge_stream(&units, Some(1)).is_err());
    }
}
