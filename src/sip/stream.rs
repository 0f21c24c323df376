//! Cuts a byte stream into SIP messages (RFC 3261 section 18.3) and keep-alives (RFC 5626 section 4.4.1).
//!
//! Only Content-Length is read here; whether a message makes sense is for `parse` to say.

use super::parse::{HeaderLines, Length, MAX_HEAD, find_head_end};

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

/// One per connection. After every [`Framer::push`], call [`Framer::next`] until it says [`Framed::Need`]: what waits
/// here is then never longer than the limit.
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// Start of what has not been given out.
    start: usize,
    /// Bytes behind `start` known to hold no end of the headers.
    scanned: usize,
    /// Length of the message at `start`, once its headers are whole.
    length: Option<usize>,
    line_ends: u8,
    limit: usize,
    broken: Option<&'static str>,
}

impl Framer {
    /// `limit`: the longest message taken, in bytes.
    pub fn new(limit: usize) -> Framer {
        Framer { buffer: Vec::new(), start: 0, scanned: 0, length: None, line_ends: 0, limit, broken: None }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_none() {
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// Once broken, always broken.
    #[expect(
        clippy::should_implement_trait,
        reason = "the end of what was pushed is not the end of the stream"
    )]
    pub fn next(&mut self) -> Framed {
        let framed = match self.broken {
            Some(why) => Framed::Broken(why),
            None => self.cut(),
        };
        if let Framed::Broken(why) = framed {
            self.broken = Some(why);
            self.buffer = Vec::new();
            self.start = 0;
        }
        framed
    }

    /// The start of a message waits for its rest.
    pub fn has_part(&self) -> bool {
        self.buffer.get(self.start..).is_some_and(|rest| rest.iter().any(|byte| !byte.is_ascii_whitespace()))
    }

    fn cut(&mut self) -> Framed {
        let length = match self.length {
            Some(length) => length,
            None => match self.find_length() {
                Ok(length) => *self.length.insert(length),
                Err(framed) => return framed,
            },
        };
        let Some(message) = self.buffer.get(self.start..self.start + length) else {
            return Framed::Need;
        };
        let message = message.to_vec();
        self.advance(length);
        Framed::Message(message)
    }

    fn advance(&mut self, length: usize) {
        self.start += length;
        self.scanned = 0;
        self.length = None;
    }

    /// The whole length of the message at the front, or what there is instead.
    fn find_length(&mut self) -> Result<usize, Framed> {
        loop {
            let line_end = match self.buffer.get(self.start..).unwrap_or_default() {
                [] | [b'\r'] => return Err(Framed::Need),
                [b'\r', b'\n', ..] => 2,
                [b'\n', ..] => 1,
                [first, ..] if first.is_ascii_graphic() => break,
                _ => return Err(Framed::Broken("not SIP")),
            };
            self.advance(line_end);
            self.line_ends += 1;
            if self.line_ends == 2 {
                self.line_ends = 0;
                return Err(Framed::KeepAlive);
            }
        }
        self.line_ends = 0;
        let waiting = self.buffer.get(self.start..).unwrap_or_default();
        let longest = MAX_HEAD.min(self.limit);
        let Some(end) = find_head_end(waiting, self.scanned).filter(|end| end.body <= longest) else {
            // The same is said however the bytes were cut.
            if waiting.len() > longest {
                return Err(Framed::Broken("headers too long"));
            }
            // The last two bytes may be the start of the blank line.
            self.scanned = waiting.len().saturating_sub(2);
            return Err(Framed::Need);
        };
        let head = String::from_utf8_lossy(waiting.get(..end.head).unwrap_or_default());
        let lines = HeaderLines { rest: head.split_once('\n').map_or("", |(_, lines)| lines) };
        let length = lines
            .flatten()
            .filter(|(name, _)| Length::is_named(name))
            .fold(Length::Absent, |length, (_, value)| length.and(&value));
        let body = match length {
            // Required on streams, yet left out by some where there is no body.
            Length::Absent => 0,
            Length::Bytes(body) => body,
            Length::Wrong => return Err(Framed::Broken("Content-Length is not one number")),
        };
        match end.body.checked_add(body) {
            Some(whole) if whole <= self.limit => Ok(whole),
            _ => Err(Framed::Broken("message too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = b"INFO sip:a@h SIP/2.0\r\nCall-ID: 1\r\nContent-Length: 5\r\n\r\nab\r\nc";
    const SECOND: &[u8] = b"SIP/2.0 200 OK\nX: y\nl :\n  3\n\nxyz";

    fn drain(framer: &mut Framer) -> Vec<Framed> {
        let mut seen = Vec::new();
        loop {
            match framer.next() {
                Framed::Need => return seen,
                framed => seen.push(framed),
            }
            assert!(seen.len() < 100, "{seen:?}");
        }
    }

    fn broken(bytes: &[u8]) -> &'static str {
        let mut framer = Framer::new(1000);
        framer.push(bytes);
        match (framer.next(), framer.next()) {
            (Framed::Broken(why), Framed::Broken(again)) if why == again => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_are_cut_alike_however_the_bytes_arrive() {
        let stream = [b"\r\n".as_slice(), FIRST, SECOND, b"\r\n\r\n", b"\r\n", FIRST].concat();
        let expected = [
            Framed::Message(FIRST.to_vec()),
            Framed::Message(SECOND.to_vec()),
            Framed::KeepAlive,
            Framed::Message(FIRST.to_vec()),
        ];
        for size in 1..=stream.len() {
            let mut framer = Framer::new(1000);
            let mut seen = Vec::new();
            for chunk in stream.chunks(size) {
                framer.push(chunk);
                seen.extend(drain(&mut framer));
            }
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn without_a_length_there_is_no_body() {
        let mut framer = Framer::new(1000);
        framer.push(b"ACK sip:a@h SIP/2.0\r\nX: y\r\n\r\nINFO");
        assert_eq!(drain(&mut framer), [Framed::Message(b"ACK sip:a@h SIP/2.0\r\nX: y\r\n\r\n".to_vec())]);
    }

    #[test]
    fn a_length_that_cannot_be_followed_breaks_the_stream() {
        let with =
            |length: &str| [b"A b SIP/2.0\r\nContent-Length: ", length.as_bytes(), b"\r\n\r\n"].concat();
        for length in ["-1", "x", "", "1,1", "18446744073709551616", "1\r\nl: 2"] {
            assert_eq!(broken(&with(length)), "Content-Length is not one number", "{length}");
        }
        assert_eq!(broken(&with("18446744073709551615")), "message too long");
        assert_eq!(broken(&with("1000")), "message too long");
    }

    #[test]
    fn the_limit_is_exact() {
        let head = b"A b SIP/2.0\r\nContent-Length: 50\r\n\r\n";
        let mut framer = Framer::new(head.len() + 50);
        framer.push(head);
        framer.push(&[b'x'; 50]);
        assert!(matches!(framer.next(), Framed::Message(message) if message.len() == head.len() + 50));
        let mut framer = Framer::new(head.len() + 49);
        framer.push(head);
        assert_eq!(framer.next(), Framed::Broken("message too long"));
    }

    #[test]
    fn endless_headers_and_other_protocols_are_given_up() {
        assert_eq!(broken(&[b'a'; 1001]), "headers too long");
        assert_eq!(broken(b"\x16\x03\x01\x02\x00"), "not SIP");
        assert_eq!(broken(b"\rX"), "not SIP");
    }
}
