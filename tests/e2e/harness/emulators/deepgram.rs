//! Deepgram: `/v1/listen` and `/v1/speak` over WebSocket, and `/v1/listen` for a whole file.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::audio::{read_wav, tone};
use super::models::{Refusal, key_of, refuse};
use super::server::{Exchange, Fault, Seen};

/// Sound or a `KeepAlive` must come within it.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// An interim result for so much sound, a settled one for each so many.
const INTERIM_S: f64 = 0.3;
const SETTLED_S: f64 = 1.5;

/// Checks the handshake of either socket.
pub fn check(seen: &Seen, speaks: bool) -> Result<(), Refusal> {
    key_of(seen, "authorization", "Token ")?;
    let encoding = seen.parameter("encoding");
    let rate = seen.parameter("sample_rate").and_then(|rate| rate.parse::<u32>().ok());
    match (encoding.as_deref(), rate) {
        (Some("mulaw" | "alaw"), Some(8_000)) => Ok(()),
        (Some("mulaw" | "alaw"), Some(16_000)) if !speaks => Ok(()),
        (Some("linear16"), Some(8_000 | 16_000 | 24_000 | 32_000 | 48_000)) => Ok(()),
        (Some("linear16"), Some(8_001..=48_000)) if !speaks => Ok(()),
        _ => refuse("Unsupported encoding or sample_rate.", "encoding"),
    }
}

/// The text of a whole file.
pub fn answer_file(seen: &Seen, text: &str, exchange: &mut Exchange<'_>) -> Result<(), Refusal> {
    key_of(seen, "authorization", "Token ")?;
    if read_wav(&seen.body).is_none() {
        return refuse("Bad Request: failed to process audio: corrupt or unsupported data", "");
    }
    let alternatives = json!([{ "transcript": text, "confidence": 0.9, "words": [] }]);
    let body = json!({ "metadata": { "request_id": "r1" }, "results": { "channels": [{ "alternatives": alternatives }] } });
    exchange.json(200, &body, &[]);
    Ok(())
}

/// What one connection was sent, told when it ends and while it lasts.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// All sound, as it came.
    pub sound: Vec<u8>,
    /// Names of messages, in order.
    pub messages: Vec<String>,
}

fn upgrade<'a>(seen: &Seen, exchange: &mut Exchange<'a>) -> WebSocket<&'a TcpStream> {
    let key = seen.header("sec-websocket-key").unwrap_or_default();
    let accept = derive_accept_key(key.as_bytes());
    exchange.write(
        format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n")
            .as_bytes(),
    );
    exchange.closed = true;
    let _ = exchange.stream.set_read_timeout(Some(Duration::from_millis(10)));
    WebSocket::from_raw_socket(exchange.stream, Role::Server, None)
}

fn close(socket: &mut WebSocket<&TcpStream>, code: u16, reason: &str) {
    let _ = socket.close(Some(CloseFrame { code: code.into(), reason: reason.to_owned().into() }));
    let _ = socket.flush();
}

/// `None`: the connection is over. `Some(None)`: nothing came.
fn read(socket: &mut WebSocket<&TcpStream>) -> Option<Option<Message>> {
    match socket.read() {
        Ok(Message::Close(_)) => None,
        Ok(message) => Some(Some(message)),
        Err(Error::Io(error))
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            Some(None)
        }
        Err(_) => None,
    }
}

struct Listener {
    start: f64,
    heard: f64,
    /// Of the present turn: its words, how many were settled, and where it began.
    words: Vec<String>,
    settled: usize,
    began: f64,
    told: f64,
}

impl Listener {
    /// Words known after so much sound of the turn.
    fn known(&self) -> usize {
        (((self.heard - self.began) / INTERIM_S) as usize).min(self.words.len())
    }

    /// So many seconds more; what is told for them.
    fn hear(&mut self, seconds: f64, interim: bool) -> Option<String> {
        self.heard += seconds;
        if self.heard - self.start >= SETTLED_S {
            // Settled, though the speech goes on.
            let known = self.known();
            let text = self.results(self.settled, known, true, false);
            (self.settled, self.start, self.told) = (known, self.heard, self.heard);
            return Some(text);
        }
        if interim && self.heard - self.told >= INTERIM_S {
            self.told = self.heard;
            return Some(self.results(self.settled, self.known(), false, false));
        }
        None
    }

    fn results(&self, from: usize, to: usize, is_final: bool, from_finalize: bool) -> String {
        let words = self.words.get(from..to).unwrap_or_default().join(" ");
        json!({ "type": "Results", "channel_index": [0, 1], "duration": self.heard - self.start, "start": self.start,
            "is_final": is_final, "speech_final": false, "from_finalize": from_finalize,
            "channel": { "alternatives": [{ "transcript": words, "confidence": 0.9, "words": [] }] },
            "metadata": { "request_id": "r1", "model_info": { "name": "emulated", "version": "1", "arch": "nova-3" }, "model_uuid": "m1" } })
        .to_string()
    }
}

/// Listens until the peer or a fault ends it. `next` gives the words of each turn.
pub fn listen(seen: &Seen, exchange: &mut Exchange<'_>, next: &dyn Fn() -> String, tell: &dyn Fn(&Session)) {
    let (fault, delay) = (exchange.fault.clone(), exchange.pace.delay);
    let rate: f64 = seen.parameter("sample_rate").and_then(|rate| rate.parse().ok()).unwrap_or(8_000.0);
    let wide = if seen.parameter("encoding").as_deref() == Some("linear16") { 2.0 } else { 1.0 };
    let interim = seen.parameter("interim_results").as_deref() == Some("true");
    let mut socket = upgrade(seen, exchange);
    let mut session = Session::default();
    let mut ears = Listener { start: 0.0, heard: 0.0, words: Vec::new(), settled: 0, began: 0.0, told: 0.0 };
    let (mut last, mut finals) = (Instant::now(), 0);
    while let Some(message) = read(&mut socket) {
        if last.elapsed() > SILENT_MAX {
            return close(&mut socket, 1011, "NET-0001: no audio was received");
        }
        let Some(message) = message else { continue };
        last = Instant::now();
        match message {
            Message::Binary(bytes) => {
                if ears.words.is_empty() {
                    ears.words = next().split_whitespace().map(str::to_owned).collect();
                    ears.began = ears.heard;
                }
                session.sound.extend_from_slice(&bytes);
                let heard = bytes.len() as f64 / wide / rate;
                if let Some(text) = ears.hear(heard, interim) {
                    let _ = socket.send(Message::text(text));
                }
            }
            Message::Text(text) => {
                let value: Value = serde_json::from_str(&text).unwrap_or_default();
                let name = value["type"].as_str().unwrap_or("none").to_owned();
                session.messages.push(name.clone());
                tell(&session);
                match name.as_str() {
                    "KeepAlive" => {}
                    "Finalize" => {
                        match fault {
                            Some(Fault::CutAfter(turns)) if finals >= turns => return,
                            Some(Fault::HangAfter(turns)) if finals >= turns => return exchange.hang(),
                            Some(Fault::GarbledAt(turn)) if finals == turn => {
                                let _ = socket.send(Message::text("{\"type\":\"Resu"));
                                continue;
                            }
                            _ => {}
                        }
                        finals += 1;
                        std::thread::sleep(delay);
                        let _ = socket.send(Message::text(
                            "{\"type\":\"UtteranceEnd\",\"channel\":[0,1],\"last_word_end\":0.5}",
                        ));
                        if ears.heard > ears.start {
                            let text = ears.results(ears.settled, ears.words.len(), true, true);
                            let _ = socket.send(Message::text(text));
                        }
                        (ears.words, ears.settled, ears.start, ears.told) =
                            (Vec::new(), 0, ears.heard, ears.heard);
                    }
                    "CloseStream" => {
                        let metadata = json!({ "type": "Metadata", "transaction_key": "deprecated", "request_id": "r1",
                            "sha256": "0", "created": "2026-01-01T00:00:00Z", "duration": ears.heard, "channels": 1 });
                        let _ = socket.send(Message::text(metadata.to_string()));
                        return close(&mut socket, 1000, "");
                    }
                    _ => return close(&mut socket, 1008, "DATA-0000: unknown message"),
                }
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    tell(&session);
}

/// Speaks until the peer or a fault ends it.
pub fn speak(seen: &Seen, exchange: &mut Exchange<'_>, tell: &dyn Fn(&Session)) {
    let (fault, pace) = (exchange.fault.clone(), exchange.pace.clone());
    let rate: u32 = seen.parameter("sample_rate").and_then(|rate| rate.parse().ok()).unwrap_or(24_000);
    let encoding = seen.parameter("encoding").unwrap_or_default();
    let mut socket = upgrade(seen, exchange);
    let (mut session, mut text, mut flushed) = (Session::default(), String::new(), 0);
    let metadata = json!({ "type": "Metadata", "request_id": "r1", "model_name": "emulated", "model_version": "1", "model_uuid": "m1" });
    let _ = socket.send(Message::text(metadata.to_string()));
    while let Some(message) = read(&mut socket) {
        let Some(Message::Text(message)) = message else { continue };
        let value: Value = serde_json::from_str(&message).unwrap_or_default();
        let name = value["type"].as_str().unwrap_or("none").to_owned();
        session.messages.push(name.clone());
        tell(&session);
        match name.as_str() {
            "Speak" => {
                let words = value["text"].as_str().unwrap_or_default();
                if words.chars().count() > 2_000 {
                    return close(&mut socket, 1009, "too much text");
                }
                text.push_str(words);
            }
            "Clear" => {
                text.clear();
                let _ = socket
                    .send(Message::text(json!({ "type": "Cleared", "sequence_id": flushed }).to_string()));
            }
            "Close" => return close(&mut socket, 1000, ""),
            "Flush" => {
                std::thread::sleep(pace.delay);
                let sound = coded(&std::mem::take(&mut text), &encoding, rate);
                for (at, piece) in sound.chunks(rate as usize / 5 + 1).enumerate() {
                    match fault {
                        Some(Fault::CutAfter(pieces)) if at >= pieces => return,
                        Some(Fault::HangAfter(pieces)) if at >= pieces => return exchange.hang(),
                        Some(Fault::GarbledAt(bad)) if at == bad => {
                            let _ = socket.send(Message::text("{\"type\":"));
                        }
                        _ => {}
                    }
                    if at > 0 {
                        std::thread::sleep(pace.gap);
                    }
                    if socket.send(Message::Binary(Bytes::copy_from_slice(piece))).is_err() {
                        return;
                    }
                }
                let _ = socket
                    .send(Message::text(json!({ "type": "Flushed", "sequence_id": flushed }).to_string()));
                flushed += 1;
            }
            _ => return close(&mut socket, 1008, "DATA-0000: unknown message"),
        }
    }
}

/// The words' sound as bytes of that coding.
pub fn coded(words: &str, encoding: &str, rate: u32) -> Vec<u8> {
    let samples = tone(words, rate);
    match encoding {
        // A pattern, so that what comes out can be compared to the byte.
        "mulaw" | "alaw" => (0..samples.len()).map(|n| (n % 120) as u8).collect(),
        _ => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
    }
}
