//! Server-sent events (WHATWG HTML, 9.2.6), as streaming answers are written: bytes cut anywhere to events.

use crate::talk::message::Failure;

/// Bytes of one line or one event.
const LARGEST: usize = 4 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Empty: it has none.
    pub name: String,
    pub data: String,
}

/// Reads one stream.
#[derive(Debug, Default)]
pub struct Events {
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed after it belongs to it.
    returned: bool,
    event: Event,
    has_data: bool,
}

impl Events {
    /// Takes the next bytes and appends the events they complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Event>) -> Result<(), Failure> {
        for byte in bytes {
            let after_return = std::mem::take(&mut self.returned);
            match byte {
                b'\n' if after_return => {}
                b'\n' => self.end_line(out),
                b'\r' => {
                    self.returned = true;
                    self.end_line(out);
                }
                byte => self.line.push(*byte),
            }
        }
        if self.line.len() + self.event.data.len() > LARGEST {
            return Err(Failure::Garbled(format!("an event of more than {LARGEST} bytes")));
        }
        Ok(())
    }

    /// The stream is over; its last event need not be followed by an empty line.
    pub fn finish(&mut self, out: &mut Vec<Event>) {
        self.end_line(out);
        self.end_event(out);
    }

    fn end_line(&mut self, out: &mut Vec<Event>) {
        let line = std::mem::take(&mut self.line);
        // A letter may be cut between two reads, but a line is whole; what is no UTF-8 is marked as such.
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_start_matches('\u{feff}');
        if line.is_empty() {
            return self.end_event(out);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.event.name),
            // Comments keep connections alive; ids and times serve what we do not do.
            _ => {}
        }
    }

    fn end_event(&mut self, out: &mut Vec<Event>) {
        let event = std::mem::take(&mut self.event);
        if std::mem::take(&mut self.has_data) {
            out.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], cut: usize) -> Vec<(String, String)> {
        let (mut events, mut out) = (Events::default(), Vec::new());
        for piece in text.chunks(cut) {
            events.push(piece, &mut out).expect("small");
        }
        events.finish(&mut out);
        out.into_iter().map(|event| (event.name, event.data)).collect()
    }

    #[test]
    fn events_are_the_same_wherever_bytes_are_cut() {
        let text = ": hello\r\nevent: a\r\ndata: {\"w\":\"grün 🙂\"}\r\n\r\n\ndata:x\ndata: y\nid: 7\n\ndata: [DONE]".as_bytes();
        let whole = read(text, text.len());
        assert_eq!(whole[0], ("a".to_owned(), "{\"w\":\"grün 🙂\"}".to_owned()));
        assert_eq!(whole[1], (String::new(), "x\ny".to_owned()));
        assert_eq!(whole[2].1, "[DONE]");
        assert_eq!(whole.len(), 3);
        for cut in 1..text.len() {
            assert_eq!(read(text, cut), whole, "{cut}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let (mut events, mut out) = (Events::default(), Vec::new());
        let piece = vec![b'x'; 1 << 20];
        assert!((0..8).any(|_| events.push(&piece, &mut out).is_err()));
    }
}
