//! Payload formats: what a codec's data looks like inside packets.
//!
//! Headers, order and loss are not known here; coding and decoding is `codec`'s. G.711 needs no format: its bytes are
//! the payload.

pub mod dtmf;
pub mod h264;
pub mod opus;
