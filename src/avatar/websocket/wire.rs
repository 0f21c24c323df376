//! The messages of both protocols, as bytes and text.
//!
//! Pure. `raw` is the protocol of MuseTalk-type servers as RoomKit speaks it; `timed` is described in
//! `docs/AVATAR_WEBSOCKET.md`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::avatar::{MediaTime, Terms, Turn};
use crate::media::access_unit::VideoCodec;
use crate::media::frame::Size;
use crate::remote::websocket::{Bytes, Utf8Bytes};

/// The version of `timed` that is spoken here.
pub const VERSION: u64 = 1;
/// Bytes before the content of a binary message of `timed`: kind, flags, two spare, turn, time; big-endian.
pub const HEADER: usize = 16;
const SOUND: u8 = 1;
const PICTURE: u8 = 2;
const KEY: u8 = 1;
/// Letters of a server's words that are kept.
const LETTERS: usize = 200;

/// How the pictures of `timed` are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Video(VideoCodec),
    /// Two lengths of 16 bits and the pixels, as in `raw`.
    Rgb,
}

impl Coding {
    /// Its word; `None`: pictures of this codec are not taken.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Coding::Video(VideoCodec::H264) => Some("h264"),
            Coding::Video(VideoCodec::Vp8) => Some("vp8"),
            Coding::Video(VideoCodec::Vp9 | VideoCodec::H265) => None,
            Coding::Rgb => Some("rgb"),
        }
    }

    /// What a caller who takes these codecs can be shown, most wanted first; nothing to one who sees nothing.
    pub fn wanted(codecs: &[VideoCodec]) -> Vec<Coding> {
        let coded = codecs.iter().map(|codec| Coding::Video(*codec)).filter(|coding| coding.word().is_some());
        let plain = (!codecs.is_empty()).then_some(Coding::Rgb);
        coded.chain(plain).collect()
    }
}

/// A binary message of `timed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    Sound { turn: Turn, at: MediaTime, samples: Vec<i16> },
    Picture { turn: Turn, at: MediaTime, key: bool, data: Bytes },
}

/// Why a message is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    #[error("a binary message of {0} bytes")]
    Short(usize),
    #[error("sound of {0} bytes")]
    Halved(usize),
    #[error("a binary message of kind {0}")]
    Kind(u8),
    #[error("a message that is no JSON object")]
    NoObject,
    #[error("a message of type {0:?}")]
    Type(String),
    #[error("{0:?} without {1}")]
    Lacks(&'static str, &'static str),
}

pub fn samples_of(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

pub fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

/// Reads a binary message of `timed`.
pub fn read_media(message: &Bytes) -> Result<Media, Odd> {
    let (Some(&[kind, flags, _, _, t0, t1, t2, t3]), Some(at)) =
        (message.first_chunk::<8>(), message.get(8..HEADER).and_then(<[u8]>::first_chunk::<8>))
    else {
        return Err(Odd::Short(message.len()));
    };
    let (turn, at) = (Turn::from_be_bytes([t0, t1, t2, t3]), MediaTime(i64::from_be_bytes(*at)));
    let data = message.slice(HEADER..);
    match kind {
        SOUND if !data.len().is_multiple_of(2) => Err(Odd::Halved(data.len())),
        SOUND => Ok(Media::Sound { turn, at, samples: samples_of(&data) }),
        PICTURE => Ok(Media::Picture { turn, at, key: flags & KEY != 0, data }),
        other => Err(Odd::Kind(other)),
    }
}

/// Sound for a server of `timed`; `at` counts from the beginning of its turn.
pub fn write_sound(turn: Turn, at: MediaTime, samples: &[i16]) -> Bytes {
    let mut message = Vec::with_capacity(HEADER + 2 * samples.len());
    message.extend_from_slice(&[SOUND, 0, 0, 0]);
    message.extend_from_slice(&turn.to_be_bytes());
    message.extend_from_slice(&at.0.to_be_bytes());
    message.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    Bytes::from(message)
}

/// A picture of `raw`, and of `timed` as RGB: its size and its pixels. `None`: their numbers do not agree.
pub fn read_picture(message: &Bytes) -> Option<(Size, Bytes)> {
    let &[w0, w1, h0, h1] = message.first_chunk::<4>()?;
    let side = |bytes| usize::from(u16::from_be_bytes(bytes));
    let size = Size::new(side([w0, w1]), side([h0, h1]));
    let fits = size.width > 0 && size.height > 0 && message.len() == 4 + 3 * size.width * size.height;
    fits.then(|| (size, message.slice(4..)))
}

/// What `timed` begins with.
pub struct Greeting<'a> {
    pub terms: &'a Terms,
    pub avatar: &'a str,
    pub size: Size,
    pub fps: u32,
    pub rate: u32,
    pub codings: &'a [Coding],
}

pub fn hello(greeting: &Greeting<'_>) -> Utf8Bytes {
    let pictures: Vec<&str> = greeting.codings.iter().filter_map(|coding| coding.word()).collect();
    let said = json!({
        "type": "hello",
        "versions": [VERSION],
        "call": greeting.terms.call,
        "avatar": greeting.avatar,
        "language": greeting.terms.language,
        "rate": greeting.rate,
        "pictures": pictures,
        "width": greeting.size.width,
        "height": greeting.size.height,
        "fps": greeting.fps,
    });
    said.to_string().into()
}

/// What else a client of `timed` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    End(Turn),
    Interrupt(Turn),
    Listening(bool),
    Key,
    Bye(&'static str),
}

pub fn order(order: Order) -> Utf8Bytes {
    let said = match order {
        Order::End(turn) => json!({ "type": "end", "turn": turn }),
        Order::Interrupt(turn) => json!({ "type": "interrupt", "turn": turn }),
        Order::Listening(on) => json!({ "type": "listening", "on": on }),
        Order::Key => json!({ "type": "key" }),
        Order::Bye(reason) => json!({ "type": "bye", "reason": reason }),
    };
    said.to_string().into()
}

/// What a server of `timed` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Hello { version: u64, session: String, rate: u32, coding: Option<Coding> },
    Ready,
    Refused { reason: String, text: String },
    Speaking(Turn),
    Ended { turn: Turn, interrupted: bool },
    Interrupted(Turn),
    Warning(String),
    Limit { left: Duration },
    Bye(String),
}

fn words(value: &Value, key: &str) -> String {
    let text = value[key].as_str().unwrap_or_default();
    text.chars().filter(|letter| !letter.is_control()).take(LETTERS).collect()
}

/// Reads a text message of `timed`. Keys that are not known are passed over.
pub fn read_text(text: &str) -> Result<Told, Odd> {
    let value: Value = serde_json::from_str(text).map_err(|_| Odd::NoObject)?;
    if !value.is_object() {
        return Err(Odd::NoObject);
    }
    let turn = |of: &'static str| {
        let turn = value["turn"].as_u64().and_then(|turn| Turn::try_from(turn).ok());
        turn.ok_or(Odd::Lacks(of, "turn"))
    };
    match value["type"].as_str().unwrap_or_default() {
        "hello" => {
            let version = value["version"].as_u64().ok_or(Odd::Lacks("hello", "version"))?;
            let rate = value["rate"].as_u64().and_then(|rate| u32::try_from(rate).ok()).unwrap_or(0);
            let coding = [Coding::Video(VideoCodec::H264), Coding::Video(VideoCodec::Vp8), Coding::Rgb]
                .into_iter()
                .find(|coding| coding.word().is_some_and(|word| value["picture"] == word));
            Ok(Told::Hello { version, session: words(&value, "session"), rate, coding })
        }
        "ready" => Ok(Told::Ready),
        "refused" => Ok(Told::Refused { reason: words(&value, "reason"), text: words(&value, "text") }),
        "speaking" => Ok(Told::Speaking(turn("speaking")?)),
        "ended" => {
            Ok(Told::Ended { turn: turn("ended")?, interrupted: value["interrupted"] == Value::Bool(true) })
        }
        "interrupted" => Ok(Told::Interrupted(turn("interrupted")?)),
        "warning" => Ok(Told::Warning(words(&value, "text"))),
        "limit" => {
            let left = value["left_s"].as_f64().ok_or(Odd::Lacks("limit", "left_s"))?;
            let left = Duration::try_from_secs_f64(left).map_err(|_| Odd::Lacks("limit", "left_s"))?;
            Ok(Told::Limit { left: left.min(Duration::from_secs(86_400)) })
        }
        "bye" => Ok(Told::Bye(words(&value, "reason"))),
        other => Err(Odd::Type(other.chars().take(32).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_messages_are_what_the_page_says() {
        let written = write_sound(7, MediaTime(0x0102_0304), &[1, -2]);
        assert_eq!(&written[..], [1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0xfe, 0xff]);
        let sound = Media::Sound { turn: 7, at: MediaTime(0x0102_0304), samples: vec![1, -2] };
        assert_eq!(read_media(&written), Ok(sound));
        let picture =
            Bytes::from_static(&[2, 1, 9, 9, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 254, 5]);
        assert_eq!(
            read_media(&picture),
            Ok(Media::Picture { turn: 256, at: MediaTime(-2), key: true, data: Bytes::from_static(&[5]) })
        );
        for length in 0..HEADER {
            assert_eq!(read_media(&written.slice(..length)), Err(Odd::Short(length)));
        }
        assert_eq!(read_media(&written.slice(..19)), Err(Odd::Halved(3)));
        assert_eq!(read_media(&Bytes::from(vec![9; 40])), Err(Odd::Kind(9)));
    }

    #[test]
    fn a_raw_picture_is_as_long_as_it_says() {
        let message = Bytes::from([&[0, 2, 0, 1][..], &[7; 6]].concat());
        assert_eq!(read_picture(&message), Some((Size::new(2, 1), Bytes::from_static(&[7; 6]))));
        assert_eq!(read_picture(&message.slice(..9)), None);
        assert_eq!(read_picture(&Bytes::from_static(&[0, 0, 0, 0])), None);
        assert_eq!(read_picture(&Bytes::new()), None);
    }

    #[test]
    fn words_of_a_server_are_read_and_nonsense_is_named() {
        let hello =
            r#"{"type":"hello","version":1,"session":"s\u0007-1","rate":24000,"picture":"h264","x":[]}"#;
        let coding = Some(Coding::Video(VideoCodec::H264));
        assert_eq!(
            read_text(hello),
            Ok(Told::Hello { version: 1, session: "s-1".to_owned(), rate: 24_000, coding })
        );
        assert_eq!(
            read_text(r#"{"type":"ended","turn":3}"#),
            Ok(Told::Ended { turn: 3, interrupted: false })
        );
        assert_eq!(
            read_text(r#"{"type":"limit","left_s":1.5}"#),
            Ok(Told::Limit { left: Duration::from_millis(1500) })
        );
        for (text, odd) in [
            ("[]", Odd::NoObject),
            ("{", Odd::NoObject),
            (r#"{"type":"speaking"}"#, Odd::Lacks("speaking", "turn")),
            (r#"{"type":"speaking","turn":-1}"#, Odd::Lacks("speaking", "turn")),
            (r#"{"type":"speaking","turn":4294967296}"#, Odd::Lacks("speaking", "turn")),
            (r#"{"type":"limit","left_s":-3}"#, Odd::Lacks("limit", "left_s")),
            (r#"{"type":"hello"}"#, Odd::Lacks("hello", "version")),
            (r#"{"type":"dance"}"#, Odd::Type("dance".to_owned())),
        ] {
            assert_eq!(read_text(text), Err(odd), "{text}");
        }
    }

    #[test]
    fn a_caller_is_offered_what_it_takes_and_one_who_sees_nothing_nothing() {
        use VideoCodec::{H265, Vp8, Vp9};
        assert_eq!(Coding::wanted(&[]), []);
        assert_eq!(Coding::wanted(&[Vp9, Vp8, H265]), [Coding::Video(Vp8), Coding::Rgb]);
    }
}
