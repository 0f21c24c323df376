//! Bytes to one message, tolerant of what real peers send and hard against what attackers send.
//!
//! Taken: LF line ends, folded and compact headers, odd white space, missing last blank line, text that is not UTF-8.
//! Refused: what leaves doubt about who asked what, or where the message ends. Framing of streams is in `stream`.

use super::message::{Message, RequestMessage};

/// The longest message taken, in bytes; also the most that UDP carries.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Why bytes are no acceptable message, and what to say about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Malformed {
    pub why: &'static str,
    /// The request to answer with `status`: it has the headers an answer repeats. `None`: stay silent.
    pub answerable: Option<Box<RequestMessage>>,
    /// 400, 416 or 505.
    pub status: u16,
}

/// Reads one whole message, a datagram or what `stream` cut out. The body ends where Content-Length says.
pub fn parse(bytes: &[u8]) -> Result<Message, Malformed> {
    let _ = bytes;
    Err(Malformed { why: "not read yet", answerable: None, status: 400 })
}
