//! Floor 2: coded pictures and sound to plain ones and back.
//!
//! Synchronous computation called from threads. No queue, no file, no packet: those belong to `record/`, `source/`
//! and `rtp/`. FFmpeg does the work on pictures and AAC; `ffmpeg` holds what its users here and on floor 3 share. libopus does
//! Opus.

pub mod aac;
pub mod comfort;
pub mod conceal;
pub mod convert;
pub mod decoder;
pub mod ffmpeg;
pub mod g711;
pub mod g722;
pub mod h264;
pub mod opus;
pub mod resample;
pub mod rgb;
pub mod still;
pub mod stretch;
pub mod vp8;
pub mod wav;
