//! The messages between the program and the child that listens, and their bytes.
//!
//! Pure. One message is one datagram: a tag byte, then little-endian fields for what is sent all the time and JSON for
//! what is sent once. Positions count the samples of a listener, at its own rate.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::inference::store::ModelFile;

/// Longest message in bytes, both ways.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// Longest block of one message: 340 ms at 48 kHz.
pub const MAX_SAMPLES: usize = 16_384;

/// Sent first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub onnxruntime: Option<PathBuf>,
    pub nice: i32,
    pub voice: ModelFile,
    pub turn: Option<ModelFile>,
}

/// From the program to the child.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask<'a> {
    Hello(Hello),
    /// A stream begins, or begins anew.
    Open {
        listener: u32,
        rate: u32,
    },
    Close {
        listener: u32,
    },
    /// Sound that begins at position `from`; its bytes are little-endian samples.
    Hear {
        listener: u32,
        from: u64,
        sound: &'a [u8],
    },
    /// Has the speaker finished? The last `samples` of what was heard count.
    Finished {
        listener: u32,
        samples: u64,
    },
    Ping {
        number: u64,
    },
    #[cfg(feature = "faults")]
    Fault(crate::worker::Fault),
}

/// From the child to the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Networks are loaded; what there is to say of the second one.
    Ready {
        turn: Option<String>,
    },
    Failed {
        problem: String,
    },
    Speech {
        listener: u32,
        probability: f32,
        until: u64,
        took_us: u32,
    },
    /// `probability` outside of 0 to 1: nobody could say.
    Finished {
        listener: u32,
        probability: f32,
        until: u64,
        took_us: u32,
    },
    Pong {
        number: u64,
    },
}

mod tag {
    pub const HELLO: u8 = 1;
    pub const OPEN: u8 = 2;
    pub const CLOSE: u8 = 3;
    pub const HEAR: u8 = 4;
    pub const FINISHED: u8 = 5;
    pub const PING: u8 = 6;
    #[cfg(feature = "faults")]
    pub const FAULT: u8 = 7;
    pub const READY: u8 = 65;
    pub const FAILED: u8 = 66;
    pub const SPEECH: u8 = 67;
    pub const HAS_FINISHED: u8 = 68;
    pub const PONG: u8 = 69;
}

/// Appends a block's samples as they travel.
pub fn write_sound(listener: u32, from: u64, block: &[i16], out: &mut Vec<u8>) {
    out.clear();
    out.push(tag::HEAR);
    out.extend(listener.to_le_bytes());
    out.extend(from.to_le_bytes());
    out.extend(block.iter().flat_map(|sample| sample.to_le_bytes()));
}

/// Whether these are the bytes of an [`Ask::Open`].
pub fn opens(message: &[u8]) -> bool {
    message.first() == Some(&tag::OPEN)
}

impl<'a> Ask<'a> {
    /// Replaces the content of `out` by this message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Ask::Hello(hello) => json(out, tag::HELLO, hello),
            Ask::Open { listener, rate } => {
                out.push(tag::OPEN);
                out.extend(listener.to_le_bytes());
                out.extend(rate.to_le_bytes());
            }
            Ask::Close { listener } => {
                out.push(tag::CLOSE);
                out.extend(listener.to_le_bytes());
            }
            Ask::Hear { listener, from, sound } => {
                out.push(tag::HEAR);
                out.extend(listener.to_le_bytes());
                out.extend(from.to_le_bytes());
                out.extend_from_slice(sound);
            }
            Ask::Finished { listener, samples } => {
                out.push(tag::FINISHED);
                out.extend(listener.to_le_bytes());
                out.extend(samples.to_le_bytes());
            }
            Ask::Ping { number } => {
                out.push(tag::PING);
                out.extend(number.to_le_bytes());
            }
            #[cfg(feature = "faults")]
            Ask::Fault(fault) => json(out, tag::FAULT, fault),
        }
    }

    /// `None`: not a message of ours.
    pub fn read(message: &'a [u8]) -> Option<Ask<'a>> {
        let (tag, body) = message.split_first()?;
        let mut fields = Fields(body);
        Some(match *tag {
            tag::HELLO => Ask::Hello(serde_json::from_slice(body).ok()?),
            tag::OPEN => Ask::Open { listener: fields.u32()?, rate: fields.u32()? },
            tag::CLOSE => Ask::Close { listener: fields.u32()? },
            tag::HEAR => {
                let (listener, from, sound) = (fields.u32()?, fields.u64()?, fields.0);
                Ask::Hear { listener, from, sound }
            }
            tag::FINISHED => Ask::Finished { listener: fields.u32()?, samples: fields.u64()? },
            tag::PING => Ask::Ping { number: fields.u64()? },
            #[cfg(feature = "faults")]
            tag::FAULT => Ask::Fault(serde_json::from_slice(body).ok()?),
            _ => return None,
        })
    }
}

impl Reply {
    /// Replaces the content of `out` by this message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Reply::Ready { turn } => json(out, tag::READY, turn),
            Reply::Failed { problem } => json(out, tag::FAILED, problem),
            Reply::Speech { listener, probability, until, took_us } => {
                out.push(tag::SPEECH);
                judgement(out, *listener, *probability, *until, *took_us);
            }
            Reply::Finished { listener, probability, until, took_us } => {
                out.push(tag::HAS_FINISHED);
                judgement(out, *listener, *probability, *until, *took_us);
            }
            Reply::Pong { number } => {
                out.push(tag::PONG);
                out.extend(number.to_le_bytes());
            }
        }
    }

    /// `None`: not a message of ours.
    pub fn read(message: &[u8]) -> Option<Reply> {
        let (tag, body) = message.split_first()?;
        let mut fields = Fields(body);
        let reply = match *tag {
            tag::READY => return Some(Reply::Ready { turn: serde_json::from_slice(body).ok()? }),
            tag::FAILED => return Some(Reply::Failed { problem: serde_json::from_slice(body).ok()? }),
            tag::SPEECH => {
                let (listener, probability, until, took_us) = fields.judgement()?;
                Reply::Speech { listener, probability, until, took_us }
            }
            tag::HAS_FINISHED => {
                let (listener, probability, until, took_us) = fields.judgement()?;
                Reply::Finished { listener, probability, until, took_us }
            }
            tag::PONG => Reply::Pong { number: fields.u64()? },
            _ => return None,
        };
        fields.0.is_empty().then_some(reply)
    }
}

fn json(out: &mut Vec<u8>, tag: u8, value: &impl Serialize) {
    out.push(tag);
    serde_json::to_writer(out, value).expect("these types have string keys only, and memory does not fail");
}

fn judgement(out: &mut Vec<u8>, listener: u32, probability: f32, until: u64, took_us: u32) {
    out.extend(listener.to_le_bytes());
    out.extend(probability.to_le_bytes());
    out.extend(until.to_le_bytes());
    out.extend(took_us.to_le_bytes());
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn judgement(&mut self) -> Option<(u32, f32, u64, u32)> {
        let listener = self.u32()?;
        let probability = self.array().map(f32::from_le_bytes).filter(|value| value.is_finite())?;
        Some((listener, probability, self.u64()?, self.u32()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> ModelFile {
        ModelFile { name: name.to_owned(), path: format!("/m/{name}").into(), sha256: vec!["00".to_owned()] }
    }

    #[test]
    fn every_message_is_read_as_it_was_written_and_nothing_cut_is() {
        let mut bytes = Vec::new();
        let hello = Hello { onnxruntime: None, nice: 3, voice: file("a"), turn: Some(file("b")) };
        let asks = [
            Ask::Hello(hello),
            Ask::Open { listener: 4, rate: 48_000 },
            Ask::Close { listener: 4 },
            Ask::Hear { listener: 4, from: 1 << 40, sound: &[1, 2, 3, 4] },
            Ask::Finished { listener: 4, samples: 128_000 },
            Ask::Ping { number: 9 },
        ];
        for ask in asks {
            ask.write(&mut bytes);
            assert_eq!(Ask::read(&bytes), Some(ask));
        }
        let replies = [
            Reply::Ready { turn: Some("no file".to_owned()) },
            Reply::Failed { problem: "x".to_owned() },
            Reply::Speech { listener: 1, probability: 0.25, until: 1 << 40, took_us: 99 },
            Reply::Finished { listener: 1, probability: -1.0, until: 7, took_us: 100_000 },
            Reply::Pong { number: 9 },
        ];
        for reply in replies {
            reply.write(&mut bytes);
            for length in 0..bytes.len() {
                assert_eq!(Reply::read(&bytes[..length]), None, "{reply:?} cut at {length}");
            }
            assert_eq!(Reply::read(&bytes), Some(reply));
            bytes.push(0);
            assert_eq!(Reply::read(&bytes), None);
        }
        assert_eq!((Ask::read(&[]), Reply::read(&[200])), (None, None));
    }

    #[test]
    fn sound_travels_as_it_is() {
        let mut bytes = Vec::new();
        write_sound(7, 320, &[-2, 300], &mut bytes);
        assert_eq!(Ask::read(&bytes), Some(Ask::Hear { listener: 7, from: 320, sound: &[254, 255, 44, 1] }));
        write_sound(7, 0, &[0; MAX_SAMPLES], &mut bytes);
        assert!(bytes.len() < MAX_MESSAGE);
    }
}
