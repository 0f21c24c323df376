//! A provider's words to ours and back. Pure: bytes and times come in as arguments.

pub mod realtime;
pub mod sound;
