//! H.264 (ITU-T H.264): one decoder for whatever arrives, several encoders behind one trait, and the proof that
//! picks the encoder this box really has.
//!
//! Packetization (`rtp::payload`) and negotiation (`call::negotiate`) do not belong here.

pub mod annexb;
pub mod decoder;
pub mod encoder;
mod hardware;
#[cfg(feature = "openh264")]
mod openh264;
pub mod probe;

use std::ptr;

use ffmpeg_next::ffi;

use crate::codec::ffmpeg::CodecContext;
use crate::media::codec::CodecError;
use crate::media::frame::Size;

/// The size of the picture in `key_unit` (Annex B with its parameter sets). `None`: FFmpeg finds none in it.
pub fn picture_size(key_unit: &[u8]) -> Result<Option<Size>, CodecError> {
    let mut context = CodecContext::decoder(ffi::AVCodecID::AV_CODEC_ID_H264)?;
    let Ok(len) = i32::try_from(key_unit.len()) else { return Ok(None) };
    // The parser reads ahead: its input must be followed by zeros.
    let mut padded = key_unit.to_vec();
    padded.resize(key_unit.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize, 0);
    // SAFETY: the parser lives only in this block, the input is padded, and the output pointers are its own.
    let (width, height) = unsafe {
        let parser = ffi::av_parser_init(ffi::AVCodecID::AV_CODEC_ID_H264 as i32);
        if parser.is_null() {
            return Ok(None);
        }
        (*parser).flags |= ffi::PARSER_FLAG_COMPLETE_FRAMES;
        let (mut out, mut out_len) = (ptr::null_mut(), 0);
        let none = ffi::AV_NOPTS_VALUE;
        let at = padded.as_ptr();
        ffi::av_parser_parse2(parser, context.as_ptr(), &mut out, &mut out_len, at, len, none, none, 0);
        let size = ((*parser).width, (*parser).height);
        ffi::av_parser_close(parser);
        size
    };
    let side = |pixels| usize::try_from(pixels).unwrap_or(0);
    Ok((width > 0 && height > 0).then(|| Size::new(side(width), side(height))))
}
