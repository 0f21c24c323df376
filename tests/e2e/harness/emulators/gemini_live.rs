//! Gemini Live (BidiGenerateContent) as its documentation describes it: setup first, either case of names, binary
//! frames, resumption, goAway and its limits; with faults on demand.
//!
//! Composed from the vendor's SDK; `scripts/prove-emulators` runs that SDK against it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use super::socket::{Asked, Core, Out, Refusal, SocketServer};

/// How the model answers one turn.
#[derive(Clone, Debug)]
pub enum Answer {
    Speak {
        ms: u64,
        words: String,
    },
    Call {
        name: String,
        arguments: Value,
    },
    /// Never.
    Hang,
    /// `turnComplete` with this reason and nothing else.
    Refuse(&'static str),
}

/// What is done to the present connection.
#[derive(Clone, Debug)]
pub enum Fault {
    Cut,
    Hang,
    Close(u16, &'static str),
    Malformed,
    /// Says that it goes in so many milliseconds, and goes.
    GoAway(u64),
}

/// What a resumable session knows.
#[derive(Clone, Default)]
pub struct Known {
    pub tokens: u64,
    pub turns: usize,
    /// The number of the last block of sound it holds, where the test numbers them.
    pub heard_until: u64,
}

/// What a test sets and reads.
pub struct Rules {
    pub key: String,
    pub think: Duration,
    /// From the socket's opening to `setupComplete`.
    pub setup: Duration,
    pub pace: u32,
    pub silence_ms: u64,
    /// A connection's life, and how long before its end it says so.
    pub connection_limit: Duration,
    pub go_away: Duration,
    /// A session's life without compression: with pictures, and with sound alone.
    pub video_limit: Duration,
    pub sound_limit: Duration,
    pub answers: VecDeque<Answer>,
    pub heard: String,
    /// Answers in binary frames, as the real one does.
    pub binary: bool,
    pub snake: bool,
    pub refuse: VecDeque<(u16, Option<u32>)>,
    /// Handles are refused with 1007.
    pub forget_handles: bool,
    pub faults: VecDeque<Fault>,
    pub keep_sound: bool,
    pub seen: Vec<Seen>,
    pub connections: usize,
    pub states: HashMap<String, Known>,
    /// Prompt tokens of each turn.
    pub turns: Vec<(Instant, u64)>,
    /// Closed because of what a client sent.
    pub refused: Vec<String>,
    /// Connections begun from a handle, and what that state had heard.
    pub resumed: Vec<(usize, u64)>,
    /// Times of `interrupted`.
    pub interrupted: Vec<Instant>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            key: "key".to_owned(),
            think: Duration::from_millis(100),
            setup: Duration::from_millis(80),
            pace: 10,
            silence_ms: 300,
            connection_limit: Duration::from_secs(600),
            go_away: Duration::from_secs(60),
            video_limit: Duration::from_secs(120),
            sound_limit: Duration::from_secs(900),
            answers: VecDeque::new(),
            heard: " What do you see?".to_owned(),
            binary: true,
            snake: false,
            refuse: VecDeque::new(),
            forget_handles: false,
            faults: VecDeque::new(),
            keep_sound: true,
            seen: Vec::new(),
            connections: 0,
            states: HashMap::new(),
            turns: Vec::new(),
            refused: Vec::new(),
            resumed: Vec::new(),
            interrupted: Vec::new(),
        }
    }
}

/// A client's message; the data of sound stands apart, that of pictures is replaced by its length.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub connection: usize,
    /// `setup`, `audio`, `video`, `text`, `activityStart`, `activityEnd`, `clientContent`, `toolResponse`.
    pub kind: String,
    pub message: Value,
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
        Live::accept(now, &shared, &asked).map(|core| Box::new(core) as Box<dyn Core>)
    }));
    let url = format!("http://{}", server.address);
    (server, url)
}

/// The value under either writing of its name.
fn of<'a>(value: &'a Value, camel: &str) -> &'a Value {
    value.get(camel).or_else(|| value.get(snake(camel))).unwrap_or(&Value::Null)
}

fn snake(camel: &str) -> String {
    camel
        .chars()
        .flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] })
        .collect()
}

/// Base64 of either alphabet: the vendor's own SDK writes the one of URLs.
fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).ok()
}

/// Every key in snake case.
fn in_snake(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            object.into_iter().map(|(key, value)| (snake(&key), in_snake(value))).collect()
        }
        Value::Array(array) => array.into_iter().map(in_snake).collect(),
        other => other,
    }
}

const SETUP_KEYS: [&str; 16] = [
    "model",
    "generationConfig",
    "systemInstruction",
    "tools",
    "realtimeInputConfig",
    "inputAudioTranscription",
    "outputAudioTranscription",
    "sessionResumption",
    "contextWindowCompression",
    "proactivity",
    "historyConfig",
    "explicitVadSignal",
    "avatarConfig",
    "safetySettings",
    "labels",
    "translationConfig",
];

/// What is to be sent when; the turn it belongs to, 0 for none.
type Due = (Instant, u64, Value);

/// One connection.
pub struct Live {
    rules: Shared,
    connection: usize,
    started: Instant,
    out: VecDeque<Out>,
    due: VecDeque<Due>,
    next: u64,
    known: Known,
    set_up: bool,
    ready: bool,
    compresses: Option<u64>,
    resumes: bool,
    manual: bool,
    awaits_history: bool,
    video: bool,
    last_video: Option<Instant>,
    warned: bool,
    /// Said by a fault: the time to go.
    leaves: Option<Instant>,
    voiced: usize,
    unvoiced: usize,
    speaking: bool,
    turn: u64,
    generating: bool,
    /// Until the turn is told complete.
    playing: bool,
    calls: Vec<String>,
    spoke: bool,
    over: bool,
}

impl Live {
    pub fn accept(now: Instant, rules: &Shared, asked: &Asked) -> Result<Live, Refusal> {
        let mut shared = lock(rules);
        if let Some((status, retry)) = shared.refuse.pop_front() {
            return Err(Refusal(status, retry, "refused".to_owned()));
        }
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let by_query = query.split('&').find_map(|pair| pair.strip_prefix("key="));
        if asked.header("x-goog-api-key").or(by_query) != Some(&shared.key) {
            return Err(Refusal(403, None, "API key not valid".to_owned()));
        }
        let known_path = ["v1", "v1beta", "v1alpha"].iter().any(|version| {
            // The SDK puts two slashes where its base URL ends in one.
            path.replace("//", "/")
                == format!("/ws/google.ai.generativelanguage.{version}.GenerativeService.BidiGenerateContent")
        });
        if !known_path {
            return Err(Refusal(404, None, "no such method".to_owned()));
        }
        shared.connections += 1;
        let connection = shared.connections;
        drop(shared);
        Ok(Live {
            rules: rules.clone(),
            connection,
            started: now,
            out: VecDeque::new(),
            due: VecDeque::new(),
            next: 0,
            known: Known::default(),
            set_up: false,
            ready: false,
            compresses: None,
            resumes: false,
            manual: false,
            awaits_history: false,
            video: false,
            last_video: None,
            warned: false,
            leaves: None,
            voiced: 0,
            unvoiced: 0,
            speaking: false,
            turn: 0,
            generating: false,
            playing: false,
            calls: Vec::new(),
            spoke: false,
            over: false,
        })
    }

    fn end(&mut self, out: Out) {
        self.over = true;
        self.out.push_back(out);
    }

    fn refuse(&mut self, code: u16, why: &str) {
        lock(&self.rules).refused.push(format!("{code}: {why}"));
        self.end(Out::Close(code, why.chars().take(120).collect()));
    }

    fn send(&mut self, message: Value) {
        let rules = lock(&self.rules);
        let (binary, in_snake_case) = (rules.binary, rules.snake);
        drop(rules);
        let message = if in_snake_case { in_snake(message) } else { message };
        let text = message.to_string();
        self.out.push_back(if binary { Out::Binary(text.into_bytes()) } else { Out::Text(text) });
    }

    fn later(&mut self, at: Instant, turn: u64, message: Value) {
        let place = self.due.iter().position(|(due, _, _)| *due > at).unwrap_or(self.due.len());
        self.due.insert(place, (at, turn, message));
    }

    fn message(&mut self, now: Instant, message: &Value) {
        let Some(object) = message.as_object().filter(|object| object.len() == 1) else {
            self.refuse(1007, "Request payload must hold exactly one message");
            return;
        };
        let Some(key) = object.keys().next() else { return };
        let kinds = ["setup", "clientContent", "realtimeInput", "toolResponse"];
        let Some(kind) = kinds.into_iter().find(|kind| kind == key || snake(kind) == *key) else {
            self.refuse(1007, &format!("Invalid JSON payload received. Unknown name \"{key}\""));
            return;
        };
        let body = of(message, kind);
        match kind {
            "setup" if self.set_up => self.refuse(1007, "setup must be the first message only"),
            "setup" => self.setup(now, body),
            _ if !self.set_up => self.refuse(1007, "the first message must be setup"),
            _ if !self.ready => self.refuse(1007, "nothing may be sent before setupComplete"),
            "clientContent" => self.client_content(now, body),
            "toolResponse" => self.tool_response(now, body),
            _ if self.awaits_history => self.refuse(1007, "initial history is awaited in clientContent"),
            _ => self.realtime_input(now, body),
        }
    }

    fn setup(&mut self, now: Instant, setup: &Value) {
        let unknown = setup.as_object().and_then(|setup| {
            setup
                .keys()
                .find(|key| !SETUP_KEYS.iter().any(|known| known == key || snake(known) == **key))
                .cloned()
        });
        if let Some(key) = unknown {
            self.refuse(1007, &format!("Invalid JSON payload received. Unknown name \"{key}\" at 'setup'"));
            return;
        }
        if !of(setup, "model").as_str().is_some_and(|model| model.starts_with("models/")) {
            self.refuse(1008, "model is not found for bidiGenerateContent");
            return;
        }
        let modalities =
            of(of(setup, "generationConfig"), "responseModalities").as_array().map_or(0, Vec::len);
        if modalities > 1 {
            self.refuse(1007, "At most one response modality can be specified");
            return;
        }
        let compression = of(setup, "contextWindowCompression");
        let from = of(compression, "triggerTokens");
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        self.compresses = compression.is_object().then(|| number(from).unwrap_or(100_000));
        let resumption = of(setup, "sessionResumption");
        self.resumes = resumption.is_object();
        if let Some(handle) = of(resumption, "handle").as_str() {
            let rules = lock(&self.rules);
            let state = rules.states.get(handle).filter(|_| !rules.forget_handles).cloned();
            drop(rules);
            let Some(state) = state else {
                self.refuse(1007, "Session handle is not valid");
                return;
            };
            lock(&self.rules).resumed.push((self.connection, state.heard_until));
            self.known = state;
        }
        let input = of(setup, "realtimeInputConfig");
        self.manual = of(of(input, "automaticActivityDetection"), "disabled") == &Value::Bool(true);
        let history = of(setup, "historyConfig");
        self.awaits_history = of(history, "initialHistoryInClientContent") == &Value::Bool(true);
        self.set_up = true;
        let at = now + lock(&self.rules).setup;
        self.later(at, 0, json!({"setupComplete": {"sessionId": format!("session-{}", self.connection)}}));
    }

    fn new_handle(&mut self) {
        if !self.resumes {
            return;
        }
        if !self.calls.is_empty() {
            self.send(json!({"sessionResumptionUpdate": {"newHandle": "", "resumable": false}}));
            return;
        }
        self.next += 1;
        let handle = format!("handle-{}-{}", self.connection, self.next);
        lock(&self.rules).states.insert(handle.clone(), self.known.clone());
        self.send(json!({"sessionResumptionUpdate": {"newHandle": handle, "resumable": true}}));
    }

    fn client_content(&mut self, now: Instant, content: &Value) {
        let turns = of(content, "turns").as_array().cloned().unwrap_or_default();
        let roles = turns.iter().all(|turn| matches!(of(turn, "role").as_str(), Some("user" | "model")));
        if turns.is_empty() || !roles {
            self.refuse(1007, "contents with roles user and model are wanted");
            return;
        }
        if self.spoke && !self.awaits_history {
            self.refuse(1007, "Request contains an invalid argument.");
            return;
        }
        self.known.tokens += turns.iter().map(|turn| turn.to_string().len() as u64 / 8).sum::<u64>();
        let complete = of(content, "turnComplete") == &Value::Bool(true);
        match std::mem::take(&mut self.awaits_history) {
            true => self.awaits_history = !complete,
            false if complete => self.respond(now),
            false => {}
        }
    }

    fn tool_response(&mut self, now: Instant, response: &Value) {
        for answer in of(response, "functionResponses").as_array().cloned().unwrap_or_default() {
            let id = of(&answer, "id").as_str().unwrap_or_default().to_owned();
            if of(&answer, "name").as_str().is_none() || !of(&answer, "response").is_object() {
                self.refuse(1007, "functionResponses want id, name and an object as response");
                return;
            }
            if !self.calls.contains(&id) {
                self.refuse(1008, "function response for an unknown call");
                return;
            }
            self.calls.retain(|call| *call != id);
        }
        if self.calls.is_empty() {
            self.respond(now);
        }
    }

    fn realtime_input(&mut self, now: Instant, input: &Value) {
        let Some(key) = input.as_object().filter(|object| object.len() == 1).and_then(|o| o.keys().next())
        else {
            self.refuse(1007, "realtimeInput holds exactly one field");
            return;
        };
        let data = |blob: &Value| decode(of(blob, "data").as_str().unwrap_or_default());
        match key.replace("_s", "S").replace("_e", "E").as_str() {
            "audio" => {
                let blob = of(input, "audio");
                let good = of(blob, "mimeType").as_str().is_some_and(|mime| mime.starts_with("audio/pcm"));
                match data(blob).filter(|data| good && data.len() % 2 == 0) {
                    Some(sound) => sound.chunks(640).for_each(|piece| self.hear(now, piece)),
                    None => self.refuse(1007, "audio/pcm in base64 is wanted"),
                }
            }
            "video" => {
                let blob = of(input, "video");
                let mime = of(blob, "mimeType").as_str().unwrap_or_default().to_owned();
                let picture = data(blob).unwrap_or_default();
                if !matches!(mime.as_str(), "image/jpeg" | "image/png")
                    || !(picture.starts_with(b"\xff\xd8\xff") || picture.starts_with(b"\x89PNG"))
                {
                    self.refuse(1007, "Unable to process input image");
                    return;
                }
                let early = self.last_video.is_some_and(|last| now < last + Duration::from_millis(990));
                if early {
                    self.refuse(1008, "more than one picture a second");
                    return;
                }
                self.last_video = Some(now);
                self.video = true;
                self.known.tokens += 258;
            }
            "text" => {
                self.known.tokens += 10;
                self.interrupt(now);
                self.respond(now);
            }
            "activityStart" if self.manual && !self.speaking => {
                self.speaking = true;
                self.interrupt(now);
            }
            "activityEnd" if self.manual && self.speaking => {
                self.speaking = false;
                self.heard(now);
                self.respond(now);
            }
            "audioStreamEnd" => {}
            other => self.refuse(1007, &format!("{other} is not expected here")),
        }
    }

    /// Turn detection by level. A block's first samples may hold its number, for tests that count them.
    fn hear(&mut self, now: Instant, piece: &[u8]) {
        let sum: u64 =
            piece.chunks_exact(2).map(|b| u64::from(i16::from_le_bytes([b[0], b[1]]).unsigned_abs())).sum();
        let level = sum / (piece.len() as u64 / 2).max(1);
        if let Some(number) = number_of(piece) {
            self.known.heard_until = self.known.heard_until.max(number);
        }
        self.known.tokens += u64::from(self.next.is_multiple_of(2));
        if self.manual {
            return;
        }
        let ms = piece.len() / 32;
        if level > 400 {
            self.voiced += ms;
            self.unvoiced = 0;
        } else {
            self.unvoiced += ms;
            if self.unvoiced >= 100 {
                self.voiced = 0;
            }
        }
        let silence = lock(&self.rules).silence_ms as usize;
        if !self.speaking && self.voiced >= 60 {
            self.speaking = true;
            self.interrupt(now);
        } else if self.speaking && self.unvoiced >= silence {
            self.speaking = false;
            self.voiced = 0;
            self.heard(now);
            self.respond(now);
        }
    }

    fn heard(&mut self, now: Instant) {
        let words = lock(&self.rules).heard.clone();
        let (first, rest) = words.split_at(words.len() / 2);
        for words in [first, rest] {
            self.later(now, 0, json!({"serverContent": {"inputTranscription": {"text": words}}}));
        }
    }

    /// The caller speaks: what is said or played ends, without `generationComplete` if it was not yet told.
    fn interrupt(&mut self, now: Instant) {
        if !self.calls.is_empty() {
            let ids = std::mem::take(&mut self.calls);
            self.send(json!({"toolCallCancellation": {"ids": ids}}));
        }
        if !self.playing {
            return;
        }
        let turn = self.turn;
        self.due.retain(|(_, own, _)| *own != turn);
        self.playing = false;
        self.generating = false;
        lock(&self.rules).interrupted.push(now);
        self.send(json!({"serverContent": {"interrupted": true}}));
        self.send(json!({"serverContent": {"turnComplete": true}}));
        self.new_handle();
    }

    fn respond(&mut self, now: Instant) {
        self.turn += 1;
        self.spoke = true;
        let turn = self.turn;
        let (answer, think, pace) = {
            let mut rules = lock(&self.rules);
            (rules.answers.pop_front(), rules.think, rules.pace.max(1))
        };
        let at = now + think;
        self.known.turns += 1;
        self.known.tokens += 60;
        // The window slides back to half of where it begins to.
        if let Some(from) = self.compresses
            && self.known.tokens > from
        {
            self.known.tokens = from / 2;
        }
        let tokens = self.known.tokens;
        match answer.unwrap_or(Answer::Speak { ms: 1_000, words: " I see a test picture.".to_owned() }) {
            Answer::Hang => {}
            Answer::Refuse(reason) => {
                self.later(
                    at,
                    turn,
                    json!({"serverContent": {"turnComplete": true, "turnCompleteReason": reason}}),
                );
            }
            Answer::Call { name, arguments } => {
                self.next += 1;
                let id = format!("call-{}-{}", self.connection, self.next);
                self.calls.push(id.clone());
                self.later(
                    at,
                    turn,
                    json!({"toolCall": {"functionCalls": [{"id": id, "name": name, "args": arguments}]}}),
                );
            }
            Answer::Speak { ms, words } => {
                self.generating = true;
                self.playing = true;
                self.speak(at, turn, ms, &words, pace, tokens);
            }
        }
    }

    fn speak(&mut self, at: Instant, turn: u64, ms: u64, words: &str, pace: u32, tokens: u64) {
        let pieces = ms.div_ceil(40).max(1) as u32;
        let each: Vec<&str> = words.split_inclusive(' ').collect();
        let mut last = at;
        for n in 0..pieces {
            last = at + Duration::from_millis(40) * n / pace;
            let sample = |n: usize| if (n / 24).is_multiple_of(2) { 6_000_i16 } else { -6_000 };
            let sound: Vec<u8> = (0..960).flat_map(|n| sample(n).to_le_bytes()).collect();
            let part =
                json!({"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": STANDARD.encode(sound)}});
            self.later(
                last,
                turn,
                json!({"serverContent": {"modelTurn": {"role": "model", "parts": [part]}}}),
            );
            let (from, to) =
                (n as usize * each.len() / pieces as usize, (n as usize + 1) * each.len() / pieces as usize);
            if from < to {
                let text = each[from..to].concat();
                self.later(last, turn, json!({"serverContent": {"outputTranscription": {"text": text}}}));
            }
        }
        self.later(last, turn, json!({"serverContent": {"generationComplete": true}}));
        let played = at + Duration::from_millis(ms);
        let usage = json!({"promptTokenCount": tokens, "responseTokenCount": ms / 40,
            "totalTokenCount": tokens + ms / 40,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": tokens.saturating_sub(258)},
                {"modality": "VIDEO", "tokenCount": 258.min(tokens)}]});
        self.later(played, turn, json!({"serverContent": {"turnComplete": true}, "usageMetadata": usage}));
    }

    /// What goes out changes what is known here.
    fn sending(&mut self, now: Instant, message: &Value) {
        if message["setupComplete"].is_object() {
            self.ready = true;
        }
        if message["serverContent"]["generationComplete"] == true {
            self.generating = false;
        }
        if message["serverContent"]["turnComplete"] == true {
            self.playing = false;
            lock(&self.rules).turns.push((now, self.known.tokens));
        }
    }

    fn limits(&mut self, now: Instant) {
        let rules = lock(&self.rules);
        let life = now.duration_since(self.started);
        let (limit, warning) = (rules.connection_limit, rules.go_away);
        let context = if self.video { rules.video_limit } else { rules.sound_limit };
        drop(rules);
        if self.compresses.is_none() && life >= context {
            self.refuse(1008, "the session's duration is exceeded");
        } else if life >= limit {
            self.end(Out::Close(1001, "connection aborted".to_owned()));
        } else if life + warning >= limit && !self.warned {
            self.warned = true;
            self.send(json!({"goAway": {"timeLeft": format!("{}s", warning.as_secs_f64())}}));
        }
        if self.leaves.is_some_and(|at| now >= at) && !self.over {
            self.end(Out::Cut);
        }
    }

    fn fault(&mut self, now: Instant) {
        let fault = lock(&self.rules).faults.pop_front();
        match fault {
            Some(Fault::Cut) => self.end(Out::Cut),
            Some(Fault::Hang) => self.end(Out::Hang),
            Some(Fault::Close(code, reason)) => self.end(Out::Close(code, reason.to_owned())),
            Some(Fault::Malformed) => {
                self.out.push_back(Out::Binary(b"{\"serverContent\": {\"modelT\xff".to_vec()))
            }
            Some(Fault::GoAway(ms)) => {
                self.leaves = Some(now + Duration::from_millis(ms));
                self.send(json!({"goAway": {"timeLeft": format!("{}s", ms as f64 / 1000.0)}}));
            }
            None => {}
        }
    }
}

/// The number a test wrote into the first four samples of a block, below the level of speech.
pub fn number_of(piece: &[u8]) -> Option<u64> {
    let sample = |at: usize| Some(i16::from_le_bytes([*piece.get(at)?, *piece.get(at + 1)?]));
    (sample(0)? == 99).then_some(())?;
    Some(u64::from(sample(2)?.unsigned_abs()) * 10_000 + u64::from(sample(4)?.unsigned_abs()))
}

impl Core for Live {
    fn handle(&mut self, now: Instant, message: &[u8], _is_binary: bool) {
        if self.over {
            return;
        }
        let Ok(message) = serde_json::from_slice::<Value>(message) else {
            self.refuse(1007, "Invalid JSON payload received.");
            return;
        };
        let mut shown = message.clone();
        let mut sound = Vec::new();
        let mut kind =
            message.as_object().and_then(|object| object.keys().next()).cloned().unwrap_or_default();
        let input = of(&message, "realtimeInput");
        if let Some(key) = input.as_object().and_then(|object| object.keys().next()) {
            kind = key.clone();
            let data = of(&input[key.as_str()], "data").as_str();
            if let Some(data) = data {
                sound = decode(data).unwrap_or_default();
                shown = json!({"bytes": sound.len()});
            }
        }
        let connection = self.connection;
        let mut rules = lock(&self.rules);
        if !rules.keep_sound || kind != "audio" {
            sound = Vec::new();
        }
        rules.seen.push(Seen { at: now, connection, kind, message: shown, sound });
        drop(rules);
        self.message(now, &message);
    }

    fn poll(&mut self, now: Instant) -> Option<Out> {
        if !self.over {
            self.fault(now);
        }
        if !self.over {
            self.limits(now);
        }
        if let Some(out) = self.out.pop_front() {
            return Some(out);
        }
        if !self.over && self.due.front().is_some_and(|(at, _, _)| now >= *at) {
            let (_, _, message) = self.due.pop_front()?;
            self.sending(now, &message);
            let renews = message["setupComplete"].is_object()
                || message["serverContent"]["turnComplete"] == true
                || message["toolCall"].is_object();
            self.send(message);
            if renews {
                self.new_handle();
            }
            return self.out.pop_front();
        }
        None
    }

    fn wake_at(&self) -> Option<Instant> {
        let rules = lock(&self.rules);
        let limit = self.started + rules.connection_limit;
        let warning = limit.checked_sub(rules.go_away).filter(|_| !self.warned);
        let due = self.due.front().map(|(at, _, _)| *at);
        [due, warning, Some(limit), self.leaves].into_iter().flatten().min().filter(|_| !self.over)
    }
}
