//! One coded picture: the NAL units of one H.264 access unit (ITU-T H.264 §7.4.1.2.3) in Annex B form.
//!
//! Packets do not belong here (`rtp::payload`), nor does what is inside a NAL unit ([`super::nal`]).

use bytes::Bytes;

use crate::base::queue::Coded;
use crate::base::time::Pts;

/// A coded picture. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessUnit {
    /// Annex B: every NAL unit behind a 3- or 4-byte start code.
    pub data: Bytes,
    pub pts: Pts,
    /// Decoding can start here: an IDR picture with the parameter sets it needs.
    pub key: bool,
    /// Something of this picture, or of one it refers to, was lost on the way.
    pub damaged: bool,
}

impl Coded for AccessUnit {
    fn is_key(&self) -> bool {
        self.key
    }
}
