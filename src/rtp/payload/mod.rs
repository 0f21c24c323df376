//! Payload formats: what a codec's data looks like inside packets.

pub mod h264;
