//! OpenAI Realtime (GA) over WebSocket as its documentation describes it: strict about what it is sent, in the order
//! of events of the real one, with its limits and with faults on demand.
//!
//! Composed from the vendor's OpenAPI description; `scripts/prove-emulators` runs the vendor's SDK against it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::socket::{Asked, Core, Out, Refusal, SocketServer};

/// How the model answers one turn.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Speaks so long, with these words.
    Speak {
        ms: u64,
        words: String,
    },
    /// Speaks exactly these bytes, in the session's format.
    Bytes {
        sound: Vec<u8>,
        words: String,
    },
    Call {
        name: String,
        arguments: String,
    },
    /// `response.done` with status `failed` and this code.
    Fail(&'static str),
    /// Never.
    Hang,
}

/// What is done to the present connection.
#[derive(Clone, Debug)]
pub enum Fault {
    Cut,
    Hang,
    Close(u16, &'static str),
    Malformed,
    Error(&'static str),
}

/// What a test sets and reads.
pub struct Rules {
    pub key: String,
    /// From the end of a turn to the first sound.
    pub think: Duration,
    /// From the end of a turn to its transcript.
    pub transcribe: Duration,
    /// Sound is generated so many times faster than it plays.
    pub pace: u32,
    /// What turn detection says when it is not told.
    pub silence_ms: u64,
    /// Sound deltas that follow the end of a cancelled response.
    pub trailing: usize,
    pub session_limit: Duration,
    /// Tokens of context; older items are dropped beyond.
    pub context: u64,
    pub answers: VecDeque<Answer>,
    pub heard: String,
    /// Cuts PCM deltas at odd bytes.
    pub odd: bool,
    /// Handshakes refused first: status, Retry-After.
    pub refuse: VecDeque<(u16, Option<u32>)>,
    pub faults: VecDeque<Fault>,
    pub keep_sound: bool,
    pub seen: Vec<Seen>,
    /// All responses that ended: input tokens, and how many items are images.
    pub turns: Vec<(Instant, u64, usize)>,
    /// What it sent, deltas by their number of bytes.
    pub connections: usize,
    /// Events of clients it had to refuse.
    pub refused: Vec<String>,
    pub dropped_items: u64,
    pub sent_sound: Vec<u8>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            key: "key".to_owned(),
            think: Duration::from_millis(100),
            transcribe: Duration::from_millis(300),
            pace: 10,
            silence_ms: 200,
            trailing: 0,
            session_limit: Duration::from_secs(3600),
            context: 28_672,
            answers: VecDeque::new(),
            heard: "What do you see?".to_owned(),
            odd: false,
            refuse: VecDeque::new(),
            faults: VecDeque::new(),
            keep_sound: true,
            seen: Vec::new(),
            turns: Vec::new(),
            connections: 0,
            refused: Vec::new(),
            dropped_items: 0,
            sent_sound: Vec::new(),
        }
    }
}

/// A client's event; the sound of an append stands apart.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub connection: usize,
    pub kind: String,
    pub event: Value,
    pub sound: Vec<u8>,
}

pub type Shared = Arc<Mutex<Rules>>;

pub fn lock(rules: &Shared) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves on a free port; the URL is what goes into `base_url`.
pub fn start(rules: &Shared) -> (SocketServer, String) {
    let shared = rules.clone();
    let server = SocketServer::start(Arc::new(move |now, asked| {
        Realtime::accept(now, &shared, &asked).map(|core| Box::new(core) as Box<dyn Core>)
    }));
    let url = format!("ws://{}/v1", server.address);
    (server, url)
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Mu,
    A,
    Pcm,
}

impl Format {
    fn bytes_per_ms(self) -> usize {
        if self == Format::Pcm { 48 } else { 8 }
    }

    /// Mean level of the sound, 0 to 32767.
    fn level(self, bytes: &[u8]) -> u32 {
        let level = |sum: u64, count: usize| u32::try_from(sum / count.max(1) as u64).unwrap_or(u32::MAX);
        match self {
            Format::Pcm => {
                let samples =
                    bytes.chunks_exact(2).map(|b| u64::from(i16::from_le_bytes([b[0], b[1]]).unsigned_abs()));
                level(samples.sum(), bytes.len() / 2)
            }
            Format::Mu => level(bytes.iter().map(|b| magnitude(!b, 33)).sum(), bytes.len()),
            Format::A => level(bytes.iter().map(|b| magnitude(b ^ 0x55, 0)).sum(), bytes.len()),
        }
    }

    fn tone(self, ms: u64) -> Vec<u8> {
        let count = ms as usize * self.bytes_per_ms();
        match self {
            // Loud codes of either sign: a square wave of 500 Hz.
            Format::Mu => (0..count).map(|n| if n / 8 % 2 == 0 { 0x9f } else { 0x1f }).collect(),
            Format::A => (0..count).map(|n| if n / 8 % 2 == 0 { 0xb5 } else { 0x35 }).collect(),
            Format::Pcm => {
                let sample = |n: usize| if (n / 24).is_multiple_of(2) { 6_000_i16 } else { -6_000 };
                (0..count / 2).flat_map(|n| sample(n).to_le_bytes()).collect()
            }
        }
    }
}

/// The linear size of a companded code, roughly: enough to tell speech from silence.
fn magnitude(code: u8, bias: u64) -> u64 {
    let (segment, step) = (u32::from(code >> 4 & 7), u64::from(code & 15));
    ((step * 2 + 33) << segment).saturating_sub(bias) * 4
}

struct Item {
    id: String,
    tokens: u64,
    image: bool,
    /// Of a reply: what was generated of it, and until where it is kept.
    sound_bytes: usize,
    is_reply: bool,
}

struct Response {
    id: String,
    item: String,
    in_band: bool,
    words: String,
}

/// One session.
pub struct Realtime {
    rules: Shared,
    connection: usize,
    started: Instant,
    out: VecDeque<Out>,
    /// What is to be sent when, of which response.
    due: VecDeque<(Instant, String, Value)>,
    next: u64,
    session: Value,
    format_in: Format,
    format_out: Format,
    items: Vec<Item>,
    active: Option<Response>,
    asides: Vec<Response>,
    spoke: bool,
    buffer: usize,
    total: usize,
    voiced: usize,
    unvoiced: usize,
    speaking: Option<String>,
    over: bool,
}

const EVENT_KEYS: [(&str, &[&str]); 10] = [
    ("session.update", &["session"]),
    ("input_audio_buffer.append", &["audio"]),
    ("input_audio_buffer.commit", &[]),
    ("input_audio_buffer.clear", &[]),
    ("conversation.item.create", &["previous_item_id", "item"]),
    ("conversation.item.retrieve", &["item_id"]),
    ("conversation.item.delete", &["item_id"]),
    ("conversation.item.truncate", &["item_id", "content_index", "audio_end_ms"]),
    ("response.create", &["response"]),
    ("response.cancel", &["response_id"]),
];

const SESSION_KEYS: [&str; 15] = [
    "type",
    "model",
    "output_modalities",
    "instructions",
    "max_output_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "truncation",
    "tracing",
    "prompt",
    "include",
    "audio",
    "id",
];

const RESPONSE_KEYS: [&str; 10] = [
    "instructions",
    "tools",
    "tool_choice",
    "output_modalities",
    "audio",
    "max_output_tokens",
    "metadata",
    "conversation",
    "input",
    "prompt",
];

impl Realtime {
    /// The handshake.
    pub fn accept(now: Instant, rules: &Shared, asked: &Asked) -> Result<Realtime, Refusal> {
        let mut shared = lock(rules);
        if let Some((status, retry)) = shared.refuse.pop_front() {
            return Err(Refusal(status, retry, format!("{{\"error\":{{\"code\":\"{status}\"}}}}")));
        }
        let error = |code: &str| format!("{{\"error\":{{\"message\":\"refused\",\"code\":\"{code}\"}}}}");
        if asked.header("authorization") != Some(&format!("Bearer {}", shared.key)) {
            return Err(Refusal(401, None, error("invalid_api_key")));
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let model = query.split('&').find_map(|pair| pair.strip_prefix("model="));
        if path != "/v1/realtime" || model.is_none_or(str::is_empty) {
            return Err(Refusal(404, None, error("not_found")));
        }
        shared.connections += 1;
        let (connection, silence) = (shared.connections, shared.silence_ms);
        drop(shared);
        let mut session = Realtime {
            rules: rules.clone(),
            connection,
            started: now,
            out: VecDeque::new(),
            due: VecDeque::new(),
            next: 0,
            session: json!({
                "type": "realtime", "object": "realtime.session", "id": format!("sess_{connection}"),
                "model": model, "output_modalities": ["audio"], "instructions": "Be helpful.", "tools": [],
                "tool_choice": "auto", "max_output_tokens": "inf", "truncation": "auto",
                "audio": {
                    "input": {"format": {"type": "audio/pcm", "rate": 24000}, "transcription": null,
                        "noise_reduction": null,
                        "turn_detection": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300,
                            "silence_duration_ms": silence, "idle_timeout_ms": null,
                            "create_response": true, "interrupt_response": true}},
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy", "speed": 1.0}},
            }),
            format_in: Format::Pcm,
            format_out: Format::Pcm,
            items: Vec::new(),
            active: None,
            asides: Vec::new(),
            spoke: false,
            buffer: 0,
            total: 0,
            voiced: 0,
            unvoiced: 0,
            speaking: None,
            over: false,
        };
        let created = json!({"type": "session.created", "session": session.session});
        session.send(created);
        Ok(session)
    }

    fn id(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}_{}x{}", self.connection, self.next)
    }

    fn send(&mut self, mut event: Value) {
        event["event_id"] = self.id("event").into();
        self.out.push_back(Out::Text(event.to_string()));
    }

    fn refuse(&mut self, about: &Value, code: &str, parameter: &str, message: &str) {
        lock(&self.rules).refused.push(format!("{code} {parameter}: {message}"));
        self.send(json!({"type": "error", "error": {"type": "invalid_request_error", "code": code,
            "message": message, "param": parameter, "event_id": about["event_id"]}}));
    }

    /// Keys nobody knows are refused, as the real one does.
    fn unknown_key(object: &Value, known: &[&str]) -> Option<String> {
        object.as_object()?.keys().find(|key| !known.contains(&key.as_str())).cloned()
    }

    fn event(&mut self, now: Instant, event: &Value) {
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        let Some((_, keys)) = EVENT_KEYS.iter().find(|(known, _)| *known == kind) else {
            self.refuse(event, "invalid_value", "type", &format!("Invalid value: '{kind}'."));
            return;
        };
        let known: Vec<&str> = keys.iter().copied().chain(["type", "event_id"]).collect();
        if let Some(key) = Self::unknown_key(event, &known) {
            self.refuse(event, "unknown_parameter", &key, &format!("Unknown parameter: '{key}'."));
            return;
        }
        match kind.as_str() {
            "session.update" => self.update(event),
            "input_audio_buffer.append" => self.append(now, event),
            "input_audio_buffer.commit" => self.commit(now, event),
            "input_audio_buffer.clear" => {
                self.buffer = 0;
                self.send(json!({"type": "input_audio_buffer.cleared"}));
            }
            "conversation.item.create" => self.create_item(event),
            "conversation.item.delete" => self.delete_item(event),
            "conversation.item.truncate" => self.truncate(event),
            "conversation.item.retrieve" => self.retrieve(event),
            "response.create" => self.create_response(now, event),
            "response.cancel" => self.cancel(now, event),
            _ => {}
        }
    }

    fn update(&mut self, event: &Value) {
        let given = &event["session"];
        if given["type"] != "realtime" {
            self.refuse(event, "missing_required_parameter", "session.type", "Missing required parameter.");
            return;
        }
        if let Some(key) = Self::unknown_key(given, &SESSION_KEYS) {
            self.refuse(event, "unknown_parameter", &format!("session.{key}"), "Unknown parameter.");
            return;
        }
        let modalities = &given["output_modalities"];
        if !modalities.is_null() && *modalities != json!(["audio"]) && *modalities != json!(["text"]) {
            self.refuse(event, "invalid_value", "session.output_modalities", "One of audio and text.");
            return;
        }
        let voice = &given["audio"]["output"]["voice"];
        if self.spoke && !voice.is_null() && *voice != self.session["audio"]["output"]["voice"] {
            self.refuse(
                event,
                "cannot_update_voice",
                "session.audio.output.voice",
                "Audio was already made.",
            );
            return;
        }
        for side in ["input", "output"] {
            let format = &given["audio"][side]["format"];
            if format.is_null() {
                continue;
            }
            let Some(found) = Self::format(format) else {
                self.refuse(
                    event,
                    "invalid_value",
                    &format!("session.audio.{side}.format"),
                    "Invalid format.",
                );
                return;
            };
            match side {
                "input" => self.format_in = found,
                _ => self.format_out = found,
            }
        }
        let detection = &given["audio"]["input"]["turn_detection"];
        let known = [
            "type",
            "threshold",
            "prefix_padding_ms",
            "silence_duration_ms",
            "idle_timeout_ms",
            "create_response",
            "interrupt_response",
            "eagerness",
        ];
        if let Some(key) = Self::unknown_key(detection, &known) {
            self.refuse(
                event,
                "unknown_parameter",
                &format!("session.audio.input.turn_detection.{key}"),
                "Unknown.",
            );
            return;
        }
        merge(&mut self.session, given);
        let updated = json!({"type": "session.updated", "session": self.session});
        self.send(updated);
    }

    fn format(format: &Value) -> Option<Format> {
        let keys = format.as_object()?.len();
        match format["type"].as_str()? {
            "audio/pcmu" if keys == 1 => Some(Format::Mu),
            "audio/pcma" if keys == 1 => Some(Format::A),
            "audio/pcm" if format["rate"] == 24_000 => Some(Format::Pcm),
            _ => None,
        }
    }

    fn append(&mut self, now: Instant, event: &Value) {
        let Some(sound) = event["audio"].as_str().and_then(|audio| STANDARD.decode(audio).ok()) else {
            self.refuse(event, "invalid_value", "audio", "Invalid 'audio': expected base64.");
            return;
        };
        if sound.len() > 15 << 20 {
            self.refuse(event, "invalid_value", "audio", "At most 15 MiB.");
            return;
        }
        let block = self.format_in.bytes_per_ms() * 20;
        for piece in sound.chunks(block) {
            self.hear(now, piece);
        }
    }

    /// Turn detection by level.
    fn hear(&mut self, now: Instant, piece: &[u8]) {
        self.buffer += piece.len();
        self.total += piece.len();
        let detection = self.session["audio"]["input"]["turn_detection"].clone();
        if !detection.is_object() {
            return;
        }
        let ms = piece.len() / self.format_in.bytes_per_ms();
        if self.format_in.level(piece) > 400 {
            self.voiced += ms;
            self.unvoiced = 0;
        } else {
            self.unvoiced += ms;
            if self.unvoiced >= 100 {
                self.voiced = 0;
            }
        }
        let silence = detection["silence_duration_ms"].as_u64().unwrap_or(200) as usize;
        match self.speaking.clone() {
            None if self.voiced >= 60 => {
                let item = self.id("item");
                let heard = self.total / self.format_in.bytes_per_ms();
                let prefix = detection["prefix_padding_ms"].as_u64().unwrap_or(300) as usize;
                let start = heard.saturating_sub(self.voiced + prefix);
                self.send(json!({"type": "input_audio_buffer.speech_started", "item_id": item,
                    "audio_start_ms": start}));
                self.speaking = Some(item);
                if detection["interrupt_response"] == true {
                    self.end_response(now, "turn_detected");
                }
            }
            Some(item) if self.unvoiced >= silence => {
                self.speaking = None;
                self.voiced = 0;
                let heard = self.total / self.format_in.bytes_per_ms();
                self.send(json!({"type": "input_audio_buffer.speech_stopped", "item_id": item,
                    "audio_end_ms": heard}));
                self.committed(now, item);
                if detection["create_response"] == true {
                    self.respond(now, &json!({}));
                }
            }
            None | Some(_) => {}
        }
    }

    fn commit(&mut self, now: Instant, event: &Value) {
        let ms = self.buffer / self.format_in.bytes_per_ms();
        if ms < 100 {
            let message = format!("buffer too small: expected at least 100ms, it has {ms}ms");
            self.refuse(event, "input_audio_buffer_commit_empty", "", &message);
            return;
        }
        let item = self.id("item");
        self.committed(now, item);
    }

    fn committed(&mut self, now: Instant, item: String) {
        let previous = self.items.last().map(|item| item.id.clone());
        let ms = self.buffer / self.format_in.bytes_per_ms();
        self.buffer = 0;
        self.send(
            json!({"type": "input_audio_buffer.committed", "previous_item_id": previous, "item_id": item}),
        );
        let value = json!({"id": item, "object": "realtime.item", "type": "message", "status": "completed",
            "role": "user", "content": [{"type": "input_audio", "transcript": null}]});
        self.items.push(Item {
            id: item.clone(),
            tokens: ms as u64 / 100,
            image: false,
            sound_bytes: 0,
            is_reply: false,
        });
        self.send(json!({"type": "conversation.item.added", "previous_item_id": previous, "item": value}));
        self.send(json!({"type": "conversation.item.done", "previous_item_id": previous, "item": value}));
        if self.session["audio"]["input"]["transcription"].is_object() {
            let rules = lock(&self.rules);
            let (at, words) = (now + rules.transcribe, rules.heard.clone());
            drop(rules);
            self.later(
                at,
                "",
                json!({"type": "conversation.item.input_audio_transcription.delta", "item_id": item,
                "content_index": 0, "delta": words}),
            );
            self.later(
                at,
                "",
                json!({"type": "conversation.item.input_audio_transcription.completed",
                "item_id": item, "content_index": 0, "transcript": words,
                "usage": {"type": "duration", "seconds": ms as f64 / 1000.0}}),
            );
        }
    }

    fn later(&mut self, at: Instant, response: &str, event: Value) {
        let place = self.due.iter().position(|(due, _, _)| *due > at).unwrap_or(self.due.len());
        self.due.insert(place, (at, response.to_owned(), event));
    }

    fn is_item_good(item: &Value) -> Result<(u64, bool), String> {
        let tokens_of = |text: &Value| text.as_str().map(|text| text.len() as u64 / 4 + 1);
        match item["type"].as_str() {
            Some("function_call_output") => {
                item["call_id"].as_str().ok_or("item.call_id")?;
                Ok((tokens_of(&item["output"]).ok_or("item.output")?, false))
            }
            Some("function_call") => Ok((tokens_of(&item["arguments"]).ok_or("item.arguments")?, false)),
            Some("message") => {
                let role = item["role"].as_str().unwrap_or_default();
                let (mut tokens, mut image) = (0, false);
                let content = item["content"].as_array().filter(|content| !content.is_empty());
                for part in content.ok_or("item.content")? {
                    tokens += match (role, part["type"].as_str().unwrap_or_default()) {
                        ("user" | "system", "input_text") | ("assistant", "output_text") => {
                            tokens_of(&part["text"]).ok_or("item.content.text")?
                        }
                        ("user", "input_image") => {
                            image = true;
                            let url = part["image_url"].as_str().unwrap_or_default();
                            let data = ["jpeg", "png"]
                                .iter()
                                .find_map(|kind| url.strip_prefix(&format!("data:image/{kind};base64,")));
                            let data = data.and_then(|data| STANDARD.decode(data).ok());
                            let good = data.is_some_and(|data| {
                                data.starts_with(b"\xff\xd8\xff") || data.starts_with(b"\x89PNG")
                            });
                            if !good {
                                return Err("item.content.image_url".to_owned());
                            }
                            match part["detail"].as_str() {
                                Some("low") => 85,
                                None | Some("auto" | "high") => 1105,
                                Some(_) => return Err("item.content.detail".to_owned()),
                            }
                        }
                        _ => return Err("item.content.type".to_owned()),
                    };
                }
                Ok((tokens, image))
            }
            _ => Err("item.type".to_owned()),
        }
    }

    fn create_item(&mut self, event: &Value) {
        let mut item = event["item"].clone();
        let (tokens, image) = match Self::is_item_good(&item) {
            Ok(good) => good,
            Err(parameter) => {
                self.refuse(event, "invalid_value", &parameter, "Invalid value.");
                return;
            }
        };
        let id = match item["id"].as_str() {
            Some(id) => id.to_owned(),
            None => self.id("item"),
        };
        if id.len() > 32 || self.items.iter().any(|own| own.id == id) {
            self.refuse(event, "invalid_value", "item.id", "The id is taken or longer than 32.");
            return;
        }
        let previous = event["previous_item_id"].as_str();
        if previous
            .is_some_and(|previous| previous != "root" && !self.items.iter().any(|own| own.id == previous))
        {
            self.refuse(event, "item_not_found", "previous_item_id", "No such item.");
            return;
        }
        item["id"] = id.clone().into();
        item["status"] = "completed".into();
        let previous = self.items.last().map(|item| item.id.clone());
        self.items.push(Item { id, tokens, image, sound_bytes: 0, is_reply: false });
        self.send(json!({"type": "conversation.item.added", "previous_item_id": previous, "item": item}));
        self.send(json!({"type": "conversation.item.done", "previous_item_id": previous, "item": item}));
    }

    fn place(&mut self, event: &Value) -> Option<usize> {
        let id = event["item_id"].as_str().unwrap_or_default();
        let at = self.items.iter().position(|item| item.id == id);
        if at.is_none() {
            self.refuse(event, "item_not_found", "item_id", &format!("Item '{id}' does not exist."));
        }
        at
    }

    fn delete_item(&mut self, event: &Value) {
        if let Some(at) = self.place(event) {
            let item = self.items.remove(at);
            self.send(json!({"type": "conversation.item.deleted", "item_id": item.id}));
        }
    }

    fn retrieve(&mut self, event: &Value) {
        if let Some(at) = self.place(event) {
            let id = self.items[at].id.clone();
            self.send(json!({"type": "conversation.item.retrieved", "item": {"id": id, "type": "message",
                "role": "user", "content": []}}));
        }
    }

    fn truncate(&mut self, event: &Value) {
        let Some(at) = self.place(event) else { return };
        let all = self.items[at].sound_bytes / self.format_out.bytes_per_ms();
        let end = event["audio_end_ms"].as_u64();
        if !self.items[at].is_reply || event["content_index"] != 0 || end.is_none() {
            self.refuse(
                event,
                "invalid_value",
                "item_id",
                "Only the sound of the model's messages is truncated.",
            );
            return;
        }
        if end.is_some_and(|end| end as usize > all) {
            let message =
                format!("Audio content of {all}ms is already shorter than {}ms", end.unwrap_or_default());
            self.refuse(event, "invalid_value", "audio_end_ms", &message);
            return;
        }
        self.items[at].sound_bytes = end.unwrap_or_default() as usize * self.format_out.bytes_per_ms();
        self.send(json!({"type": "conversation.item.truncated", "item_id": event["item_id"],
            "content_index": 0, "audio_end_ms": end}));
    }

    fn create_response(&mut self, now: Instant, event: &Value) {
        let given = &event["response"];
        if let Some(key) = Self::unknown_key(given, &RESPONSE_KEYS) {
            self.refuse(event, "unknown_parameter", &format!("response.{key}"), "Unknown parameter.");
            return;
        }
        if given["conversation"] != "none" && self.active.is_some() {
            let message = "Conversation already has an active response in progress.";
            self.refuse(event, "conversation_already_has_active_response", "", message);
            return;
        }
        for item in given["input"].as_array().into_iter().flatten() {
            if let Err(parameter) = Self::is_item_good(item) {
                self.refuse(event, "invalid_value", &format!("response.input.{parameter}"), "Invalid value.");
                return;
            }
        }
        self.respond(now, given);
    }

    fn cancel(&mut self, now: Instant, event: &Value) {
        let wanted = event["response_id"].as_str();
        let active = self.active.as_ref().map(|response| response.id.clone());
        if active.is_none() || wanted.is_some_and(|wanted| active.as_deref() != Some(wanted)) {
            self.refuse(
                event,
                "response_cancel_not_active",
                "",
                "Cancellation failed: no active response found",
            );
            return;
        }
        self.end_response(now, "client_cancelled");
    }

    fn usage(&mut self) -> (u64, Value) {
        let truncation = &self.session["truncation"];
        let asked = truncation["token_limits"]["post_instructions"].as_u64().unwrap_or(u64::MAX);
        let limit = lock(&self.rules).context.min(asked);
        let ratio = truncation["retention_ratio"].as_f64().unwrap_or(1.0);
        let total = |items: &[Item]| items.iter().map(|item| item.tokens).sum::<u64>();
        let goal = if total(&self.items) > limit { (limit as f64 * ratio) as u64 } else { limit };
        while total(&self.items) > goal && self.items.len() > 1 {
            self.items.remove(0);
            lock(&self.rules).dropped_items += 1;
        }
        let all = total(&self.items);
        let image: u64 = self.items.iter().filter(|item| item.image).map(|item| item.tokens).sum();
        let usage = json!({"total_tokens": all + 50, "input_tokens": all, "output_tokens": 50,
            "input_token_details": {"text_tokens": all - image, "audio_tokens": 0, "image_tokens": image,
                "cached_tokens": 0}, "output_token_details": {"text_tokens": 10, "audio_tokens": 40}});
        (all, usage)
    }

    /// Makes a response: everything it will say, with the time it is due.
    fn respond(&mut self, now: Instant, given: &Value) {
        let in_band = given["conversation"] != "none";
        let (id, item) = (self.id("resp"), self.id("item"));
        let (answer, think, pace, odd) = {
            let mut rules = lock(&self.rules);
            let answer = if in_band { rules.answers.pop_front() } else { None };
            (answer, rules.think, rules.pace.max(1), rules.odd)
        };
        let answer = answer.unwrap_or(Answer::Speak { ms: 1_000, words: "I see a test picture.".to_owned() });
        let shown = json!({"object": "realtime.response", "id": id, "status": "in_progress",
            "status_details": null, "output": [], "metadata": given["metadata"], "usage": null,
            "conversation_id": in_band.then_some("conv_1")});
        self.later(now, &id, json!({"type": "response.created", "response": shown}));
        self.later(now, &id, json!({"type": "rate_limits.updated", "rate_limits": []}));
        let response = Response { id: id.clone(), item: item.clone(), in_band, words: String::new() };
        let begins = now + think;
        match answer {
            Answer::Hang => {}
            Answer::Fail(code) => {
                let done = json!({"type": "response.done", "response": {"object": "realtime.response", "id": id,
                    "status": "failed", "output": [], "status_details": {"type": "failed",
                    "error": {"type": code, "code": code, "message": "it failed"}}}});
                self.later(begins, &id, done);
            }
            Answer::Call { name, arguments } => self.call(begins, &id, &item, &name, &arguments),
            Answer::Speak { words, .. } | Answer::Bytes { words, .. } if !in_band => {
                self.write(begins, &id, &item, &words, &given["metadata"]);
            }
            Answer::Speak { ms, words } => {
                let sound = self.format_out.tone(ms);
                self.speak(begins, &id, &item, sound, &words, (pace, odd));
            }
            Answer::Bytes { sound, words } => self.speak(begins, &id, &item, sound, &words, (pace, odd)),
        }
        match in_band {
            true => self.active = Some(response),
            false => self.asides.push(response),
        }
    }

    fn opening(&mut self, at: Instant, id: &str, item: &str, part: &Value) {
        let value = json!({"id": item, "object": "realtime.item", "type": "message", "status": "in_progress",
            "role": "assistant", "content": []});
        self.later(
            at,
            id,
            json!({"type": "response.output_item.added", "response_id": id, "output_index": 0,
            "item": value}),
        );
        self.later(
            at,
            id,
            json!({"type": "conversation.item.added", "previous_item_id": null, "item": value}),
        );
        self.later(
            at,
            id,
            json!({"type": "response.content_part.added", "response_id": id, "item_id": item,
            "output_index": 0, "content_index": 0, "part": part}),
        );
    }

    fn closing(&mut self, at: Instant, id: &str, item: &str, part: &Value, content: &Value) {
        let value = json!({"id": item, "object": "realtime.item", "type": "message", "status": "completed",
            "role": "assistant", "content": [content]});
        self.later(
            at,
            id,
            json!({"type": "response.content_part.done", "response_id": id, "item_id": item,
            "output_index": 0, "content_index": 0, "part": part}),
        );
        self.later(
            at,
            id,
            json!({"type": "response.output_item.done", "response_id": id, "output_index": 0,
            "item": value}),
        );
        self.later(
            at,
            id,
            json!({"type": "conversation.item.done", "previous_item_id": null, "item": value}),
        );
        self.later(
            at,
            id,
            json!({"type": "response.done", "response": {"object": "realtime.response", "id": id,
            "status": "completed", "status_details": null, "output": [value], "usage": null}}),
        );
    }

    fn speak(
        &mut self,
        at: Instant,
        id: &str,
        item: &str,
        sound: Vec<u8>,
        words: &str,
        (pace, odd): (u32, bool),
    ) {
        let place = json!({"response_id": id, "item_id": item, "output_index": 0, "content_index": 0});
        let event = |kind: &str, key: &str, value: &str| {
            let mut event = place.clone();
            event["type"] = kind.into();
            event[key] = value.into();
            event
        };
        self.opening(at, id, item, &json!({"type": "audio", "transcript": ""}));
        let chunk = self.format_out.bytes_per_ms() * 100 + usize::from(odd && self.format_out == Format::Pcm);
        let pieces: Vec<&[u8]> = sound.chunks(chunk).collect();
        let each: Vec<&str> = words.split_inclusive(' ').collect();
        let mut last = at;
        for (n, piece) in pieces.iter().enumerate() {
            last = at + Duration::from_millis(100) * n as u32 / pace;
            let word = each
                .iter()
                .skip(n * each.len() / pieces.len())
                .take((n + 1) * each.len() / pieces.len() - n * each.len() / pieces.len());
            for word in word {
                self.later(last, id, event("response.output_audio_transcript.delta", "delta", word));
            }
            self.later(last, id, event("response.output_audio.delta", "delta", &STANDARD.encode(piece)));
        }
        self.later(last, id, event("response.output_audio.done", "type", "response.output_audio.done"));
        self.later(last, id, event("response.output_audio_transcript.done", "transcript", words));
        let part = json!({"type": "audio", "transcript": words});
        self.closing(last, id, item, &part, &json!({"type": "output_audio", "transcript": words}));
    }

    fn write(&mut self, at: Instant, id: &str, item: &str, words: &str, metadata: &Value) {
        let place = json!({"response_id": id, "item_id": item, "output_index": 0, "content_index": 0});
        let mut delta = place.clone();
        delta["type"] = "response.output_text.delta".into();
        delta["delta"] = words.into();
        let mut done = place;
        done["type"] = "response.output_text.done".into();
        done["text"] = words.into();
        self.later(at, id, delta);
        self.later(at, id, done);
        self.later(
            at,
            id,
            json!({"type": "response.done", "response": {"object": "realtime.response", "id": id,
            "status": "completed", "status_details": null, "metadata": metadata, "usage": null, "output": [
            {"id": item, "type": "message", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": words}]}]}}),
        );
    }

    fn call(&mut self, at: Instant, id: &str, item: &str, name: &str, arguments: &str) {
        let call = self.id("call");
        let value = json!({"id": item, "object": "realtime.item", "type": "function_call", "status": "completed",
            "call_id": call, "name": name, "arguments": arguments});
        let mut begun = value.clone();
        begun["status"] = "in_progress".into();
        begun["arguments"] = "".into();
        self.later(
            at,
            id,
            json!({"type": "response.output_item.added", "response_id": id, "output_index": 0,
            "item": begun}),
        );
        let (head, tail) = arguments.split_at(arguments.len() / 2);
        for part in [head, tail] {
            self.later(
                at,
                id,
                json!({"type": "response.function_call_arguments.delta", "response_id": id,
                "item_id": item, "output_index": 0, "call_id": call, "delta": part}),
            );
        }
        self.later(
            at,
            id,
            json!({"type": "response.function_call_arguments.done", "response_id": id,
            "item_id": item, "output_index": 0, "call_id": call, "name": name, "arguments": arguments}),
        );
        self.later(
            at,
            id,
            json!({"type": "response.output_item.done", "response_id": id, "output_index": 0,
            "item": value}),
        );
        self.later(
            at,
            id,
            json!({"type": "response.done", "response": {"object": "realtime.response", "id": id,
            "status": "completed", "status_details": null, "output": [value], "usage": null}}),
        );
    }

    /// Cancels what is being said. What was already on its way may still follow.
    fn end_response(&mut self, now: Instant, reason: &str) {
        let Some(active) = self.active.take() else { return };
        let trailing = lock(&self.rules).trailing;
        let rest: Vec<_> = self.due.iter().filter(|(_, id, _)| *id == active.id).cloned().collect();
        self.due.retain(|(_, id, _)| *id != active.id);
        let (_, usage) = self.usage();
        let item = json!({"id": active.item, "type": "message", "status": "incomplete", "role": "assistant",
            "content": [{"type": "output_audio", "transcript": active.words}]});
        self.send(
            json!({"type": "response.done", "response": {"object": "realtime.response", "id": active.id,
            "status": "cancelled", "status_details": {"type": "cancelled", "reason": reason},
            "output": [item], "usage": usage}}),
        );
        let late = rest.into_iter().filter(|(_, _, event)| event["type"] == "response.output_audio.delta");
        for (_, _, event) in late.take(trailing) {
            self.later(now, "", event);
        }
        let known = self.items.iter().any(|item| item.id == active.item);
        if active.in_band && !known {
            self.items.push(Item {
                id: active.item,
                tokens: 5,
                image: false,
                sound_bytes: 0,
                is_reply: true,
            });
        }
    }

    /// What goes out changes what is known here.
    fn sending(&mut self, now: Instant, event: &mut Value) {
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        let response = event["response_id"].as_str().or(event["response"]["id"].as_str());
        let response = response.unwrap_or_default().to_owned();
        let in_band = self.active.as_ref().is_some_and(|active| active.id == response);
        match kind.as_str() {
            "response.output_item.added" if in_band => {
                let id = event["item"]["id"].as_str().unwrap_or_default().to_owned();
                self.items.push(Item { id, tokens: 5, image: false, sound_bytes: 0, is_reply: true });
            }
            "response.output_audio.delta" => {
                self.spoke = true;
                let id = event["item_id"].as_str().unwrap_or_default().to_owned();
                let bytes = STANDARD.decode(event["delta"].as_str().unwrap_or_default()).unwrap_or_default();
                if let Some(item) = self.items.iter_mut().find(|item| item.id == id) {
                    item.sound_bytes += bytes.len();
                    item.tokens += bytes.len() as u64 / (50 * self.format_out.bytes_per_ms() as u64);
                }
                let mut rules = lock(&self.rules);
                if rules.keep_sound {
                    rules.sent_sound.extend(bytes);
                }
            }
            "response.done" => {
                let (all, usage) = self.usage();
                let images = self.items.iter().filter(|item| item.image).count();
                event["response"]["usage"] = usage;
                if in_band {
                    lock(&self.rules).turns.push((now, all, images));
                    self.active = None;
                }
                self.asides.retain(|aside| aside.id != response);
            }
            _ => {}
        }
    }

    fn fault(&mut self) {
        let fault = lock(&self.rules).faults.pop_front();
        match fault {
            Some(Fault::Cut) => self.end(Out::Cut),
            Some(Fault::Hang) => self.end(Out::Hang),
            Some(Fault::Close(code, reason)) => self.end(Out::Close(code, reason.to_owned())),
            Some(Fault::Malformed) => self.out.push_back(Out::Text("{\"type\": \"response.outp".to_owned())),
            Some(Fault::Error(code)) => {
                self.send(json!({"type": "error", "error": {"type": "server_error", "code": code,
                    "message": "something went wrong", "param": null, "event_id": null}}));
            }
            None => {}
        }
    }

    fn end(&mut self, out: Out) {
        self.over = true;
        self.out.push_back(out);
    }
}

/// Only what is present changes; `null` clears.
fn merge(own: &mut Value, given: &Value) {
    match (own.as_object_mut(), given.as_object()) {
        (Some(own), Some(given)) => {
            for (key, value) in given {
                let merges = value.is_object() && !matches!(key.as_str(), "format" | "transcription");
                match own.get_mut(key).filter(|_| merges) {
                    Some(below) if below.is_object() => merge(below, value),
                    Some(_) | None => {
                        own.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        _ => *own = given.clone(),
    }
}

impl Core for Realtime {
    fn handle(&mut self, now: Instant, message: &[u8], is_binary: bool) {
        if self.over {
            return;
        }
        let event = match serde_json::from_slice::<Value>(message) {
            Ok(event) if event.is_object() && !is_binary => event,
            _ => {
                self.refuse(&Value::Null, "invalid_json", "", "Text frames of JSON are wanted.");
                return;
            }
        };
        let mut shown = event.clone();
        let mut sound = Vec::new();
        if let Some(audio) = event["audio"].as_str() {
            sound = STANDARD.decode(audio).unwrap_or_default();
            shown["audio"] = sound.len().into();
        }
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        let mut rules = lock(&self.rules);
        if !rules.keep_sound {
            sound = Vec::new();
        }
        let connection = self.connection;
        rules.seen.push(Seen { at: now, connection, kind, event: shown, sound });
        drop(rules);
        self.event(now, &event);
    }

    fn poll(&mut self, now: Instant) -> Option<Out> {
        if self.over && self.out.is_empty() {
            return None;
        }
        if !self.over {
            self.fault();
            let limit = lock(&self.rules).session_limit;
            if now >= self.started + limit {
                self.send(json!({"type": "error", "error": {"type": "invalid_request_error",
                    "code": "session_expired", "message": "Your session hit the maximum duration.",
                    "param": null, "event_id": null}}));
                self.end(Out::Close(1001, String::new()));
            }
        }
        if let Some(out) = self.out.pop_front() {
            return Some(out);
        }
        if self.due.front().is_some_and(|(at, _, _)| now >= *at) {
            let (_, _, mut event) = self.due.pop_front()?;
            self.sending(now, &mut event);
            self.send(event);
            return self.out.pop_front();
        }
        None
    }

    fn wake_at(&self) -> Option<Instant> {
        let limit = lock(&self.rules).session_limit;
        let due = self.due.front().map(|(at, _, _)| *at);
        [due, Some(self.started + limit)].into_iter().flatten().min().filter(|_| !self.over)
    }
}
