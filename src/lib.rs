//! Eyeline answers video calls at the edge. Modules stand in floor order; see ARCHITECTURE.md.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn"))]

pub mod base;

pub mod media;

pub mod codec;
pub mod inference;
pub mod rtp;
pub mod sdp;
pub mod sip;

pub mod record;
pub mod source;
pub mod vision;
pub mod worker;

pub mod engine;

pub mod call;

pub mod useragent;

pub mod app;
