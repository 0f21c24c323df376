//! Payload formats: what a codec's data looks like inside packets.

pub mod dtmf;
pub mod h264;
