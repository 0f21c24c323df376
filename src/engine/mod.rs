//! Floor 4: the data plane of calls. It runs what a call plans and reports what happened.
//!
//! ```text
//!              network (task)            │ video-in (thread)                │ consumers
//! RTP ──▶ rtp::VideoStream ──Gop 30──▶   │ decode ▶ Gate ▶ overlay ▶ bus ──▶│ video-out ▶ encode ──Gop 15──▶ network
//! RTP ──▶ rtp::AudioStream ▶ 20 ms tick  │                                  │ recorder, observers
//!            └▶ mixer ▶ RTP              │                                  │
//! ```
//! No SIP and no SDP here: [`plan`] is the whole language between a call and its engine.

pub mod album;
pub mod bus;
pub mod canvas;
mod coding;
pub mod darkroom;
pub mod face;
mod graph;
mod ladder;
pub mod lateness;
pub mod mix;
pub mod network;
mod observe;
mod paint;
pub mod pictures;
pub mod plan;
pub mod playout;
pub mod ports;
pub mod report;
pub mod runtime;
pub mod sight;
pub mod sources;
mod start;
mod steering;
pub mod talk;
pub mod video_in;
pub mod video_out;
mod voice;

pub use graph::Running;
pub use start::{Catalogue, Engines, Settings};
pub use voice::Speaker;

#[cfg(test)]
mod tests;
