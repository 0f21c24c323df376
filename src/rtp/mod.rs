//! Floor 2: RTP and RTCP (RFC 3550) and the payload formats this box speaks.
//!
//! ```text
//! datagram ─▶ session (source, sequence, statistics) ─▶ jitter ─▶ playout            audio::AudioStream
//!                                                     └▶ reorder ─▶ payload ─▶ units  video::VideoStream
//! payload ─▶ session ─▶ datagram      unit ─▶ payload ─▶ pacer ─▶ session ─▶ datagram
//! ```
//! Pure machines: sockets and clocks are `engine::network`'s, what was negotiated arrives as settings.

pub mod audio;
pub mod bandwidth;
pub mod delay;
pub mod extension;
pub mod feedback;
pub mod history;
pub mod jitter;
pub mod key_request;
pub mod lipsync;
pub mod nack;
pub mod pacer;
pub mod packet;
pub mod payload;
pub mod quality;
pub mod reach;
pub mod reorder;
pub mod repair;
pub mod rtcp;
pub mod sequence;
pub mod session;
pub mod source;
pub mod timeline;
pub mod video;
pub mod xr;

#[cfg(test)]
mod tests;
