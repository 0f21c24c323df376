//! H.264 (ITU-T H.264): one decoder for whatever arrives, several encoders behind one trait, and the proof that
//! picks the encoder this box really has.
//!
//! Packetization (`rtp::payload`) and negotiation (`call::negotiate`) do not belong here.

pub mod decoder;
pub mod encoder;
mod hardware;
#[cfg(feature = "openh264")]
mod openh264;
pub mod probe;
mod shape;
