//! Eyeline answers video calls at the edge. Modules stand in floor order; see ARCHITECTURE.md.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn"))]

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` breaks detectors on purpose; it is for test builds, not for a release");

pub mod base;

pub mod media;

pub mod codec;
pub mod inference;
pub mod remote;
pub mod rtp;
pub mod sdp;
pub mod secure;
pub mod sip;
pub mod webrtc;

pub mod avatar;
pub mod record;
pub mod source;
pub mod talk;
pub mod vision;
pub mod worker;

pub mod engine;

pub mod call;

pub mod useragent;

pub mod app;
