//! Transcription and speech in OpenAI's words: `/audio/transcriptions` (multipart) and `/audio/speech`.

use serde_json::json;

use super::models::{Refusal, key_of, need, refuse};
use super::server::{Exchange, Seen};

/// Hz of speech.
pub const RATE: u32 = 24_000;
/// Milliseconds of speech for a letter, and its tone.
pub const LETTER_MS: usize = 50;
pub const TONE_HZ: f64 = 440.0;

/// A file that was to be transcribed.
#[derive(Clone, Debug)]
pub struct Heard {
    pub rate: u32,
    pub samples: Vec<i16>,
    pub fields: Vec<(String, String)>,
}

/// Checks a request to `/audio/transcriptions`.
pub fn check_transcription(seen: &Seen) -> Result<Heard, Refusal> {
    key_of(seen, "authorization", "Bearer ")?;
    let kind = seen.header("content-type").unwrap_or_default();
    let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") else {
        return refuse("Expected multipart/form-data.", "");
    };
    let mark = format!("--{}", boundary.trim_matches('"'));
    let (mut file, mut fields) = (None, Vec::new());
    for part in split(&seen.body, mark.as_bytes()) {
        let Some(at) = find(part, b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&part[..at]).into_owned();
        let content = part[at + 4..].strip_suffix(b"\r\n").unwrap_or(&part[at + 4..]);
        let word = |key: &str| {
            let from = head.split(&format!("{key}=\"")).nth(1)?;
            from.split('"').next().map(str::to_owned)
        };
        // `name=` stands in `filename=` too, after it.
        let Some(name) = word("; name") else { continue };
        match (name.as_str(), word("; filename")) {
            ("file", Some(filename)) if filename.ends_with(".wav") => file = Some(content),
            ("file", _) => return refuse("Invalid file format.", "file"),
            _ => fields.push((name, String::from_utf8_lossy(content).into_owned())),
        }
    }
    let field = |name: &str| fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    if field("model").unwrap_or_default().is_empty() {
        return refuse("Missing required parameter: 'model'.", "model");
    }
    if !matches!(field("response_format"), None | Some("json" | "text")) {
        return refuse("Invalid response_format.", "response_format");
    }
    if field("language").is_some_and(|language| language.len() != 2) {
        return refuse("Invalid language, expected ISO-639-1.", "language");
    }
    let Some(file) = file else { return refuse("Missing required parameter: 'file'.", "file") };
    let Some((rate, samples)) = read_wav(file) else {
        return refuse("The audio file could not be decoded.", "file");
    };
    if samples.len() * 10 < rate as usize {
        return refuse("Audio file is too short. Minimum audio length is 0.1 seconds.", "file");
    }
    Ok(Heard { rate, samples, fields })
}

pub fn answer_transcription(heard: &Heard, text: &str, exchange: &mut Exchange<'_>) {
    let field =
        |name: &str| heard.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    if field("stream") == Some("true") {
        let events = [
            ("", json!({ "type": "transcript.text.delta", "delta": text }).to_string()),
            ("", json!({ "type": "transcript.text.done", "text": text }).to_string()),
        ];
        return exchange.events(&events, None);
    }
    if field("response_format") == Some("text") {
        return exchange.whole(200, "text/plain", text.as_bytes(), &[]);
    }
    let seconds = heard.samples.len() as f64 / f64::from(heard.rate);
    exchange.json(
        200,
        &json!({ "text": text, "usage": { "type": "duration", "seconds": seconds.ceil() } }),
        &[],
    );
}

/// Checks a request to `/audio/speech`: the words.
pub fn check_speech(seen: &Seen) -> Result<String, Refusal> {
    key_of(seen, "authorization", "Bearer ")?;
    let body = seen.json();
    need(&body, "model")?;
    need(&body, "voice")?;
    let input = need(&body, "input")?;
    if input.chars().count() > 4_096 {
        return refuse("String too long: at most 4096.", "input");
    }
    if !matches!(body["response_format"].as_str(), Some("pcm" | "wav")) {
        return refuse("This server makes pcm and wav.", "response_format");
    }
    Ok(input.to_owned())
}

pub fn answer_speech(seen: &Seen, words: &str, exchange: &mut Exchange<'_>) {
    let is_wav = seen.json()["response_format"] == "wav";
    exchange.head(if is_wav { "audio/wav" } else { "audio/pcm" });
    let mut bytes = Vec::new();
    if is_wav {
        bytes.extend(b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0");
        bytes.extend(RATE.to_le_bytes());
        bytes.extend((RATE * 2).to_le_bytes());
        bytes.extend(b"\x02\0\x10\0data\xff\xff\xff\xff");
    }
    bytes.extend(tone(words, RATE).iter().flat_map(|sample| sample.to_le_bytes()));
    // A tenth of a second at a time, and one byte more: no piece ends where a sample does.
    for piece in bytes.chunks(RATE as usize / 5 + 1) {
        if !exchange.piece(piece, b"<html>bad gateway</html>") {
            return;
        }
    }
    exchange.end();
}

/// What these words sound like here. The first digit in them changes the tone: one reply can be told from another.
pub fn tone(words: &str, rate: u32) -> Vec<i16> {
    let count = words.chars().count() * LETTER_MS * rate as usize / 1_000;
    let digit = words.chars().find_map(|letter| letter.to_digit(10));
    let hertz = digit.map_or(TONE_HZ, |digit| TONE_HZ + 130.0 * f64::from(digit + 1));
    let step = std::f64::consts::TAU * hertz / f64::from(rate);
    (0..count).map(|n| ((n as f64 * step).sin() * 9_000.0) as i16).collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, mark) {
        parts.push(&rest[..at]);
        rest = &rest[at + mark.len()..];
    }
    parts
}

/// Rate and samples of a strict 16-bit mono WAV file.
pub fn read_wav(wav: &[u8]) -> Option<(u32, Vec<i16>)> {
    let fixed = wav.get(..44)?;
    let number = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let is_right = fixed.starts_with(b"RIFF")
        && &fixed[8..16] == b"WAVEfmt "
        && fixed[20..24] == [1, 0, 1, 0]
        && &fixed[36..40] == b"data"
        && number(40) as usize == wav.len() - 44
        && number(4) as usize == wav.len() - 8;
    let samples = wav[44..].as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
    is_right.then_some((number(24), samples))
}
