//! One coded picture and the codec it is coded with.
//!
//! Packets do not belong here (`rtp::payload`), nor does what is inside a NAL unit ([`super::nal`]).

use bytes::Bytes;

use crate::base::queue::Coded;
use crate::base::time::Pts;

/// A video codec this box knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    #[default]
    H264,
    Vp8,
    Vp9,
    H265,
}

impl VideoCodec {
    pub const ALL: [VideoCodec; 4] = [VideoCodec::H264, VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::H265];

    /// The encoding name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::H264 => "H264",
            VideoCodec::Vp8 => "VP8",
            VideoCodec::Vp9 => "VP9",
            VideoCodec::H265 => "H265",
        }
    }
}

/// A coded picture. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    pub codec: VideoCodec,
    /// H.264, H.265: one access unit (ITU-T H.264 §7.4.1.2.3) in Annex B form, every NAL unit behind a 3- or 4-byte
    /// start code. VP8: one frame (RFC 6386 §9.1). VP9: one frame, or one superframe of all spatial layers.
    pub data: Bytes,
    pub pts: Pts,
    /// Decoding can start here: an IDR picture with the parameter sets it needs, a key frame.
    pub key: bool,
    /// Something of this picture, or of one it refers to, was lost on the way.
    pub damaged: bool,
}

impl Coded for AccessUnit {
    fn is_key(&self) -> bool {
        self.key
    }
}
