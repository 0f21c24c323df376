//! The traits behind which codecs and detectors hide, and the values they speak.
//!
//! Implementations live in `codec/` (FFmpeg, OpenH264, libopus) and `worker/` (the inference child). They are
//! synchronous. Those of pictures are called from threads, never from tasks; those of sound take microseconds and run
//! on the media thread's beat.

use std::sync::Arc;
use std::time::Instant;

use crate::media::access_unit::AccessUnit;
use crate::media::frame::{CleanFrame, Frame, RawFrame, Size};
use crate::media::pool::FramePool;

/// Why a codec or a detector could not do its work; the text says what happened, where, and what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("{0}")]
    Broken(String),
}

/// One decoder of one inbound stream.
pub trait VideoDecoder: Send {
    /// Decodes one access unit. `Ok(None)`: no picture yet, or the unit was unusable (counted by the decoder).
    /// Pictures larger than the decoder's limit are refused, not decoded.
    fn decode(&mut self, unit: &AccessUnit, pool: &FramePool) -> Result<Option<RawFrame>, CodecError>;
}

/// One encoder of one outbound or recorded stream.
pub trait VideoEncoder: Send {
    /// Encodes one picture. `key` makes it an IDR picture with its parameter sets in band.
    /// The picture must have the encoder's size.
    fn encode(&mut self, picture: &CleanFrame, key: bool) -> Result<Option<AccessUnit>, CodecError>;

    fn size(&self) -> Size;

    /// Changes the target bitrate from the next picture on.
    fn set_bitrate(&mut self, kbps: u32) -> Result<(), CodecError>;

    /// Whether another bitrate costs nothing; else it costs a key picture.
    fn adapts(&self) -> bool {
        true
    }
}

/// One decoder of one payload type of one inbound stream: mono sound at [`AudioDecoder::sample_rate`].
pub trait AudioDecoder: Send {
    /// In Hz.
    fn sample_rate(&self) -> u32;

    /// Appends the sound of one payload. An error means that nothing was appended: conceal what it should have lasted.
    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) -> Result<(), CodecError>;

    /// Appends exactly `samples` in place of sound that was lost. `next`: the packet behind the gap, if it holds the end
    /// of it once more; codecs with forward error correction take it from there. It is decoded after that as any other.
    /// Gives how much it took from there, in samples; 0: all of it is made up.
    fn conceal(&mut self, samples: usize, next: Option<&[u8]>, out: &mut Vec<i16>) -> usize;

    /// Appends exactly `samples` while the sender has nothing to say: silence, or the background noise it announced.
    fn quiet(&mut self, samples: usize, out: &mut Vec<i16>);
}

/// One encoder of one outbound stream.
pub trait AudioEncoder: Send {
    /// In Hz.
    fn sample_rate(&self) -> u32;

    /// Appends the payload of one packet of `samples`, as long as was agreed. Nothing appended: nothing needs to be sent
    /// (discontinuous transmission).
    fn encode(&mut self, samples: &[i16], out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// How much of what we send is lost, 0 to 100, as the peer reports it.
    fn set_loss(&mut self, percent: u8);
}

/// A box in pixels of the picture, `x1 <= x2`, `y1 <= y2`; may reach beyond the picture's edge.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    pub x1: f32,
    pub y1: f32,
    pub x2: f32,
    pub y2: f32,
}

impl Rect {
    pub fn width(&self) -> f32 {
        self.x2 - self.x1
    }

    pub fn height(&self) -> f32 {
        self.y2 - self.y1
    }

    /// The box grown by `share` of its own width and height on every side.
    pub fn grown(&self, share: f32) -> Rect {
        let (dx, dy) = (self.width() * share, self.height() * share);
        Rect { x1: self.x1 - dx, y1: self.y1 - dy, x2: self.x2 + dx, y2: self.y2 + dy }
    }

    /// Intersection over union, on continuous coordinates.
    pub fn iou(&self, other: &Rect) -> f32 {
        let w = (self.x2.min(other.x2) - self.x1.max(other.x1)).max(0.0);
        let h = (self.y2.min(other.y2) - self.y1.max(other.y1)).max(0.0);
        let both = w * h;
        let union = self.width() * self.height() + other.width() * other.height() - both;
        if union > 0.0 { both / union } else { 0.0 }
    }
}

/// One thing found in one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// The label of the model's list: "face", "person", …
    pub class: Arc<str>,
    /// 0 to 1.
    pub score: f32,
    pub rect: Rect,
}

/// Why a picture could not be looked at. Each of them keeps a gate closed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DetectError {
    #[error("no answer within the deadline")]
    Late,
    #[error("the detector is not running: {0}")]
    Down(String),
    #[error("the detector failed: {0}")]
    Failed(String),
}

/// Looks at pictures of one call, one at a time.
pub trait Detector: Send {
    /// Looks at `picture` and answers before `deadline` or not at all. Blocks; called from threads.
    fn detect(&mut self, picture: &Frame, deadline: Instant) -> Result<Vec<Detection>, DetectError>;
}
