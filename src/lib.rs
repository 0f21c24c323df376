//! Eyeline answers video calls at the edge. Modules stand in floor order; see ARCHITECTURE.md.
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests may read clocks and spawn"))]

pub mod base;
pub mod media;

pub mod codec;

pub mod record;
pub mod source;

pub mod engine;
