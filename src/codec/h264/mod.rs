//! H.264 (ITU-T H.264): several encoders behind one trait, and the proof that picks the encoder this box really has.
//!
//! Decoding (`codec::decoder`), packetization (`rtp::payload`) and negotiation (`call::negotiate`) do not belong here.

pub mod encoder;
mod hardware;
#[cfg(feature = "openh264")]
mod openh264;
pub mod probe;
mod shape;
