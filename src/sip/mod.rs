//! Floor 2: RFC 3261 and friends, bytes to dialogs. Pure: time and randomness are arguments.
//!
//! Nothing here opens a socket, reads a clock or knows SDP: bodies are bytes with a content type.

pub mod header;
pub mod message;
pub mod parse;
pub mod print;
pub mod stream;
pub mod uri;
