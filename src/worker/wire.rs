//! The messages between the program and its inference child, and their bytes.
//!
//! Pure. One message is one datagram of the control socket: a tag byte, then fixed little-endian fields for what is
//! sent per picture and JSON for what is sent once. Both ends are the same build, so there is no version. Bytes from
//! the child are still checked: native code may have damaged it.

use serde::{Deserialize, Serialize};

use crate::inference::family::Found;
use crate::inference::manifest::ModelSpec;
use crate::media::codec::Rect;

/// Longest message in bytes, both ways.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Boxes of one answer beyond this many are cut off, weakest first. Enough for a crowd, and an answer stays small.
pub const MAX_BOXES: usize = 512;

/// One network of a detector and what counts as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Look {
    pub model: u32,
    pub confidence: f32,
    pub iou: f32,
    /// Class indices wanted; empty: all.
    pub classes: Vec<u16>,
}

/// One detector: its place in the queue and the networks that see each of its pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Requests of gates are served before those of observers.
    pub gate: bool,
    /// Bytes of the picture memory that travels with the message.
    pub capacity: usize,
    pub looks: Vec<Look>,
}

/// Sent once, first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    pub onnxruntime: Option<std::path::PathBuf>,
    pub nice: i32,
}

/// Look at the picture in the detector's memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    pub detector: u32,
    pub sequence: u64,
    pub width: u32,
    pub height: u32,
    /// CLOCK_MONOTONIC in nanoseconds; both processes share it.
    pub deadline_ns: u64,
}

/// From the program to the child.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Hello(Hello),
    Load {
        model: u32,
        spec: Box<ModelSpec>,
    },
    /// Carries the picture memory as a file descriptor. Replaces an earlier one of the same detector.
    Open {
        detector: u32,
        setup: Setup,
    },
    Close {
        detector: u32,
    },
    Detect(Request),
    Ping {
        number: u64,
    },
    #[cfg(feature = "faults")]
    Fault(super::Fault),
}

/// From the child to the program.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Loaded { model: u32 },
    LoadFailed { model: u32, problem: String },
    Answer(Answer),
    Refused { detector: u32, sequence: u64, refusal: Refusal },
    Pong { number: u64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Refusal {
    /// Its deadline had passed before it was this request's turn.
    Expired,
    Failed(String),
}

/// Microseconds one model took for one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Took {
    pub model: u32,
    /// With preparation and decoding.
    pub total_us: u32,
    /// The network alone.
    pub run_us: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub detector: u32,
    pub sequence: u64,
    /// Requests of other detectors waiting when this one was done.
    pub waiting: u32,
    pub times: Vec<Took>,
    pub boxes: Vec<(u32, Found)>,
}

mod tag {
    pub const HELLO: u8 = 1;
    pub const LOAD: u8 = 2;
    pub const OPEN: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const DETECT: u8 = 5;
    pub const PING: u8 = 6;
    #[cfg(feature = "faults")]
    pub const FAULT: u8 = 7;
    pub const LOADED: u8 = 65;
    pub const LOAD_FAILED: u8 = 66;
    pub const ANSWER: u8 = 67;
    pub const REFUSED: u8 = 68;
    pub const PONG: u8 = 69;
}

impl Ask {
    /// Replaces the content of `out` by this message.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Ask::Hello(hello) => json(out, tag::HELLO, hello),
            Ask::Load { model, spec } => json(out, tag::LOAD, &(model, spec)),
            Ask::Open { detector, setup } => json(out, tag::OPEN, &(detector, setup)),
            Ask::Close { detector } => {
                out.push(tag::CLOSE);
                out.extend(detector.to_le_bytes());
            }
            Ask::Detect(request) => {
                out.push(tag::DETECT);
                out.extend(request.detector.to_le_bytes());
                out.extend(request.sequence.to_le_bytes());
                out.extend(request.width.to_le_bytes());
                out.extend(request.height.to_le_bytes());
                out.extend(request.deadline_ns.to_le_bytes());
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
    pub fn read(message: &[u8]) -> Option<Ask> {
        let (tag, body) = message.split_first()?;
        let mut fields = Fields(body);
        Some(match *tag {
            tag::HELLO => Ask::Hello(serde_json::from_slice(body).ok()?),
            tag::LOAD => {
                let (model, spec) = serde_json::from_slice(body).ok()?;
                Ask::Load { model, spec }
            }
            tag::OPEN => {
                let (detector, setup) = serde_json::from_slice(body).ok()?;
                Ask::Open { detector, setup }
            }
            tag::CLOSE => Ask::Close { detector: fields.u32()? },
            tag::DETECT => Ask::Detect(Request {
                detector: fields.u32()?,
                sequence: fields.u64()?,
                width: fields.u32()?,
                height: fields.u32()?,
                deadline_ns: fields.u64()?,
            }),
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
            Reply::Loaded { model } => {
                out.push(tag::LOADED);
                out.extend(model.to_le_bytes());
            }
            Reply::LoadFailed { model, problem } => json(out, tag::LOAD_FAILED, &(model, problem)),
            Reply::Answer(answer) => write_answer(answer, out),
            Reply::Refused { detector, sequence, refusal } => {
                json(out, tag::REFUSED, &(detector, sequence, refusal));
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
        Some(match *tag {
            tag::LOADED => Reply::Loaded { model: fields.u32()? },
            tag::LOAD_FAILED => {
                let (model, problem) = serde_json::from_slice(body).ok()?;
                Reply::LoadFailed { model, problem }
            }
            tag::ANSWER => Reply::Answer(read_answer(&mut fields)?),
            tag::REFUSED => {
                let (detector, sequence, refusal) = serde_json::from_slice(body).ok()?;
                Reply::Refused { detector, sequence, refusal }
            }
            tag::PONG => Reply::Pong { number: fields.u64()? },
            _ => return None,
        })
    }
}

fn json(out: &mut Vec<u8>, tag: u8, value: &impl Serialize) {
    out.push(tag);
    serde_json::to_writer(out, value).expect("these types have string keys only, and memory does not fail");
}

fn write_answer(answer: &Answer, out: &mut Vec<u8>) {
    out.push(tag::ANSWER);
    out.extend(answer.detector.to_le_bytes());
    out.extend(answer.sequence.to_le_bytes());
    out.extend(answer.waiting.to_le_bytes());
    out.extend((answer.times.len() as u32).to_le_bytes());
    for took in &answer.times {
        for value in [took.model, took.total_us, took.run_us] {
            out.extend(value.to_le_bytes());
        }
    }
    let boxes = &answer.boxes[..answer.boxes.len().min(MAX_BOXES)];
    out.extend((boxes.len() as u32).to_le_bytes());
    for (model, found) in boxes {
        out.extend(model.to_le_bytes());
        out.extend(u32::from(found.class).to_le_bytes());
        for value in [found.score, found.rect.x1, found.rect.y1, found.rect.x2, found.rect.y2] {
            out.extend(value.to_le_bytes());
        }
    }
}

fn read_answer(fields: &mut Fields<'_>) -> Option<Answer> {
    let (detector, sequence, waiting) = (fields.u32()?, fields.u64()?, fields.u32()?);
    let count = fields.u32()? as usize;
    let mut times = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        times.push(Took { model: fields.u32()?, total_us: fields.u32()?, run_us: fields.u32()? });
    }
    let count = fields.u32()? as usize;
    let mut boxes = Vec::with_capacity(count.min(MAX_BOXES));
    for _ in 0..count {
        let model = fields.u32()?;
        let class = u16::try_from(fields.u32()?).ok()?;
        let score = fields.f32()?;
        let rect = Rect { x1: fields.f32()?, y1: fields.f32()?, x2: fields.f32()?, y2: fields.f32()? };
        boxes.push((model, Found { class, score, rect }));
    }
    // A message that goes on is not one of ours.
    fields.0.is_empty().then_some(Answer { detector, sequence, waiting, times, boxes })
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

    /// Not a number or infinite: not one of ours.
    fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes).filter(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::manifest::Manifest;

    fn answer(boxes: usize) -> Answer {
        let rect = Rect { x1: 1.5, y1: 2.0, x2: 30.25, y2: 4.0 };
        let found = Found { class: 7, score: 0.5, rect };
        Answer {
            detector: 3,
            sequence: 9,
            waiting: 1,
            times: vec![Took { model: 0, total_us: 4800, run_us: 4500 }],
            boxes: vec![(0, found); boxes],
        }
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let contract =
            Manifest::built_in().model("yolox-nano").and_then(|m| m.contract.clone()).expect("listed");
        let spec = ModelSpec {
            name: "yolox-nano".to_owned(),
            path: "/m/a.onnx".into(),
            sha256: vec!["00".to_owned()],
            contract,
            labels: vec![],
            live: true,
        };
        let look = Look { model: 0, confidence: 0.35, iou: 0.3, classes: vec![0, 2] };
        let asks = [
            Ask::Hello(Hello { onnxruntime: Some("/x.so".into()), nice: 5 }),
            Ask::Load { model: 1, spec: Box::new(spec) },
            Ask::Open { detector: 4, setup: Setup { gate: true, capacity: 345_600, looks: vec![look] } },
            Ask::Close { detector: 4 },
            Ask::Detect(Request {
                detector: 4,
                sequence: 1 << 40,
                width: 640,
                height: 360,
                deadline_ns: u64::MAX,
            }),
            Ask::Ping { number: 12 },
        ];
        let mut bytes = Vec::new();
        for ask in asks {
            ask.write(&mut bytes);
            assert_eq!(Ask::read(&bytes), Some(ask));
        }
        let replies = [
            Reply::Loaded { model: 1 },
            Reply::LoadFailed { model: 1, problem: "no \"file\"".to_owned() },
            Reply::Answer(answer(2)),
            Reply::Refused { detector: 4, sequence: 7, refusal: Refusal::Expired },
            Reply::Refused { detector: 4, sequence: 7, refusal: Refusal::Failed("x".to_owned()) },
            Reply::Pong { number: 12 },
        ];
        for reply in replies {
            reply.write(&mut bytes);
            assert_eq!(Reply::read(&bytes), Some(reply));
        }
    }

    #[test]
    fn cut_lengthened_and_foreign_messages_are_none_of_ours() {
        let mut bytes = Vec::new();
        Reply::Answer(answer(2)).write(&mut bytes);
        for length in 0..bytes.len() {
            assert_eq!(Reply::read(&bytes[..length]), None, "cut at {length}");
        }
        bytes.push(0);
        assert_eq!(Reply::read(&bytes), None);
        assert_eq!(Ask::read(&[200, 1, 2, 3]), None);
    }

    #[test]
    fn an_answer_full_of_boxes_still_fits_a_message() {
        let mut bytes = Vec::new();
        Reply::Answer(answer(100_000)).write(&mut bytes);
        assert!(bytes.len() < MAX_MESSAGE);
        assert!(matches!(Reply::read(&bytes), Some(Reply::Answer(a)) if a.boxes.len() == MAX_BOXES));
    }
}
