//! LiveAvatar as its documents describe LITE mode: sessions over REST with a ledger of what is counted, the command channel
//! with its odd points. Picture and voice are the room's: whoever publishes in it is told what to say.
//!
//! Strict: commands before `connected` vanish, pieces under 100 ms move no lips, a turn without its `agent.speak_end` never
//! ends, an interruption of silence is a violation, at the end of its time a session falls silent and says nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::server::{Api, Exchange, Seen, Server};
use super::socket::{Asked, Core, Out, Refusal, SocketServer};

pub const KEY: &str = "live-key";
const SANDBOX_AVATAR: &str = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a";
const LARGEST_MESSAGE: usize = 1 << 20;
/// `speak_started` comes so long after the first sound of a turn.
const BEGINS: Duration = Duration::from_millis(200);

/// What the publisher in the room is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Cast {
    /// 24 kHz.
    Say(Vec<i16>),
    /// Throws away what was not said.
    Cut,
}

pub type Stage = Arc<dyn Fn(Cast) + Send + Sync>;

/// One session in the ledger.
#[derive(Clone, Debug)]
pub struct Booked {
    pub id: String,
    pub token: String,
    /// The body it was asked for with.
    pub asked: Value,
    /// Counted from then on.
    pub started: Option<Instant>,
    /// The reason it was stopped for.
    pub stopped: Option<String>,
}

#[derive(Default)]
pub struct State {
    pub sessions: Vec<Booked>,
    pub room: (String, String),
    /// What a start takes, and the channel until it is connected.
    pub start: Duration,
    pub connect: Duration,
    /// The next start is counted and answered with this status.
    pub half_start: Option<u16>,
    pub max_session: Option<u64>,
    /// Acknowledgements and states do not come any more.
    pub mute: bool,
    /// All channels are cut.
    pub cut: bool,
    /// Types of the commands, in order, those that vanished too.
    pub commands: Vec<String>,
    pub vanished: usize,
    pub heard: Vec<i16>,
    pub keep_alives: usize,
    pub violations: Vec<String>,
}

type Shared = Arc<Mutex<State>>;

fn lock(state: &Shared) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running service; ends when dropped.
pub struct LiveAvatarService {
    pub rest: Server,
    state: Shared,
    _channels: SocketServer,
}

impl LiveAvatarService {
    /// `room`: URL and token of where the avatar is; `stage`: who publishes there.
    pub fn start(room: (String, String), stage: Stage) -> LiveAvatarService {
        let state: Shared = Arc::new(Mutex::new(State { room, ..State::default() }));
        let own = state.clone();
        let channels = SocketServer::start(Arc::new(move |now, asked: Asked| {
            let id = asked.path.rsplit('=').next().unwrap_or_default().to_owned();
            let state = lock(&own);
            let known = state.sessions.iter().find(|session| session.id == id);
            let Some(longest) = known.filter(|session| session.started.is_some()).map(|_| state.max_session)
            else {
                return Err(Refusal(404, None, "no such session".to_owned()));
            };
            let connected = now + state.connect;
            drop(state);
            Ok(Box::new(Channel::new(own.clone(), stage.clone(), now, connected, longest)) as Box<dyn Core>)
        }));
        let api = Rest { state: state.clone(), channels: channels.address.to_string() };
        LiveAvatarService { rest: Server::start(Arc::new(api)), state, _channels: channels }
    }

    /// A session asked for by somebody else than who starts it.
    pub fn book(&self, asked: Value) -> Booked {
        book(&mut self.state(), asked)
    }

    pub fn root(&self) -> String {
        format!("http://{}", self.rest.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Sessions that are counted and were not stopped.
    pub fn leaks(&self) -> Vec<String> {
        let state = self.state();
        let open = |session: &&Booked| session.started.is_some() && session.stopped.is_none();
        state.sessions.iter().filter(open).map(|session| session.id.clone()).collect()
    }
}

struct Rest {
    state: Shared,
    channels: String,
}

fn envelope(data: Value) -> Value {
    json!({ "code": 1000, "data": data, "message": "ok" })
}

/// The token of a session, which may start and end it as the key may.
fn bearer(seen: &Seen) -> String {
    let bearer = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    bearer.unwrap_or_default().to_owned()
}

fn book(state: &mut State, asked: Value) -> Booked {
    let number = state.sessions.len() + 1;
    // Clients read the mode in it.
    let claims = json!({ "sub": number, "start_session_data": { "mode": asked["mode"] } }).to_string();
    let token = format!("header.{}.signature", URL_SAFE_NO_PAD.encode(claims));
    let booked = Booked { id: format!("session-{number}"), token, asked, started: None, stopped: None };
    state.sessions.push(booked.clone());
    booked
}

impl Rest {
    fn token(&self, seen: &Seen) -> (u16, Value) {
        let (asked, mut state) = (seen.json(), lock(&self.state));
        let sandbox = asked["is_sandbox"] == true;
        let free = asked["avatar_id"] == SANDBOX_AVATAR;
        let quality = asked["video_settings"]["quality"].as_str().unwrap_or_default();
        let encoding = asked["video_settings"]["encoding"].as_str().unwrap_or_default();
        let whole = asked["mode"] == "LITE"
            && asked["avatar_id"].is_string()
            && sandbox == free
            && ["very_high", "high", "medium", "low"].contains(&quality)
            && ["H264", "VP8"].contains(&encoding);
        if !whole {
            state.violations.push(format!("asked for {asked}"));
            return (422, json!({ "code": 422, "data": null, "message": "validation failed" }));
        }
        let Booked { id, token, .. } = book(&mut state, asked);
        let data = json!({ "session_id": id, "session_token": token });
        (200, envelope(data))
    }

    fn begin(&self, seen: &Seen) -> (u16, Value) {
        std::thread::sleep(lock(&self.state).start);
        let mut state = lock(&self.state);
        let bearer = bearer(seen);
        let (url, join) = state.room.clone();
        let (half, longest) = (state.half_start.take(), state.max_session);
        let Some(session) = state.sessions.iter_mut().find(|session| session.token == bearer) else {
            return (401, json!({ "code": 401, "data": null, "message": format!("bad token {bearer}") }));
        };
        session.started = Some(Instant::now());
        let id = session.id.clone();
        if session.stopped.is_some() {
            state.violations.push(format!("{id} was stopped before it was started"));
        }
        if let Some(status) = half {
            return (status, json!({ "code": status, "data": null, "message": "upstream failed" }));
        }
        let data = json!({
            "session_id": id,
            "livekit_url": url,
            "livekit_client_token": join,
            "max_session_duration": longest,
            "ws_url": format!("ws://{}/channel?session={id}", self.channels),
        });
        (201, envelope(data))
    }

    fn end(&self, seen: &Seen) -> (u16, Value) {
        let (asked, mut state) = (seen.json(), lock(&self.state));
        let reason = asked["reason"].as_str().unwrap_or_default().to_owned();
        let bearer = bearer(seen);
        let its = |own: &Booked| asked["session_id"] == own.id.as_str() || own.token == bearer;
        let known = state.sessions.iter_mut().find(|session| its(session));
        let Some(session) = known else {
            return (404, json!({ "code": 404, "data": null, "message": "no such session" }));
        };
        session.stopped.get_or_insert(reason);
        (200, envelope(Value::Null))
    }

    fn list(&self) -> (u16, Value) {
        let state = lock(&self.state);
        let open =
            state.sessions.iter().filter(|session| session.started.is_some() && session.stopped.is_none());
        let items: Vec<Value> = open.map(|session| json!({ "id": session.id })).collect();
        (200, envelope(json!({ "count": items.len(), "next": null, "results": items })))
    }
}

impl Api for Rest {
    fn name(&self, seen: &Seen) -> &'static str {
        match seen.path.as_str() {
            "/v1/sessions/token" => "token",
            "/v1/sessions/start" => "start",
            "/v1/sessions/stop" => "stop",
            "/v1/sessions/keep-alive" => "keep-alive",
            "/v1/sessions" => "list",
            _ => "unknown",
        }
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        let name = self.name(seen);
        let known = |bearer: String| lock(&self.state).sessions.iter().any(|own| own.token == bearer);
        let keyed = seen.header("x-api-key") == Some(KEY)
            || ["stop", "keep-alive"].contains(&name) && known(bearer(seen));
        let (status, body) = match (name, seen.method.as_str()) {
            ("token" | "stop" | "keep-alive" | "list", _) if !keyed => {
                (401, json!({ "code": 401, "data": null, "message": "Invalid API key" }))
            }
            ("token", "POST") => self.token(seen),
            ("start", "POST") => self.begin(seen),
            ("stop", "POST") => self.end(seen),
            ("keep-alive", "POST") => {
                lock(&self.state).keep_alives += 1;
                (200, envelope(Value::Null))
            }
            ("list", "GET") => self.list(),
            _ => (404, json!({ "code": 404, "data": null, "message": "not found" })),
        };
        exchange.json(status, &body, &[]);
    }
}

/// One command channel.
struct Channel {
    state: Shared,
    stage: Stage,
    connected: Instant,
    /// It falls silent then.
    silent: Option<Instant>,
    /// What is to be said, and when.
    out: VecDeque<(Instant, Value)>,
    /// The utterance that is spoken: its id, when it begins, how much sound it has, whether it is complete.
    utterance: Option<Utterance>,
    talking: bool,
}

struct Utterance {
    id: String,
    begins: Instant,
    length: Duration,
    complete: bool,
}

impl Channel {
    fn new(state: Shared, stage: Stage, now: Instant, connected: Instant, longest: Option<u64>) -> Channel {
        let told = |state: &str| json!({ "type": "session.state_updated", "state": state });
        let out = VecDeque::from([(now, told("connecting")), (connected, told("connected"))]);
        let silent = longest.map(|seconds| now + Duration::from_secs(seconds));
        Channel { state, stage, connected, silent, out, utterance: None, talking: false }
    }

    fn tell(&mut self, at: Instant, kind: &str, source: &str) {
        let said = json!({ "type": kind, "event_id": "e", "source_event_id": source, "task": { "id": "t" } });
        if !lock(&self.state).mute {
            self.out.push_back((at, said));
        }
    }

    fn agent(&mut self, now: Instant, talking: bool) {
        self.talking = talking;
        let (before, after) = if talking { ("idle", "talking") } else { ("talking", "idle") };
        if !lock(&self.state).mute {
            let said = json!({ "type": "agent.state_updated", "previous_state": before, "new_state": after });
            self.out.push_back((now, said));
        }
    }

    fn speak(&mut self, now: Instant, said: &Value) {
        let id = said["event_id"].as_str().unwrap_or_default().to_owned();
        let audio = STANDARD.decode(said["audio"].as_str().unwrap_or_default()).unwrap_or_default();
        let samples: Vec<i16> =
            audio.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let length = Duration::from_micros(samples.len() as u64 * 1_000_000 / 24_000);
        {
            let mut state = lock(&self.state);
            state.heard.extend(&samples);
            if id.is_empty() || samples.is_empty() || !audio.len().is_multiple_of(2) {
                state.violations.push("agent.speak without event_id or sound".to_owned());
            }
            if length < Duration::from_millis(100) && self.utterance.is_none() {
                state.violations.push(format!("a first piece of {length:?} moves no lips"));
            }
        }
        if self.silent.is_some_and(|silent| silent <= now) {
            return;
        }
        (self.stage)(Cast::Say(samples));
        match &mut self.utterance {
            Some(utterance) => {
                if utterance.id != id && !utterance.complete {
                    let text = format!("{id} before the end of {}", utterance.id);
                    lock(&self.state).violations.push(text);
                }
                utterance.length += length;
                (utterance.id, utterance.complete) = (id.clone(), false);
            }
            None => {
                self.utterance =
                    Some(Utterance { id: id.clone(), begins: now + BEGINS, length, complete: false });
            }
        }
        self.tell(now, "agent.audio_buffer_appended", &id);
    }

    fn interrupt(&mut self, now: Instant) {
        if !self.talking {
            lock(&self.state).violations.push("an interruption of silence".to_owned());
            return;
        }
        (self.stage)(Cast::Cut);
        let id = self.utterance.take().map(|utterance| utterance.id).unwrap_or_default();
        self.tell(now, "agent.audio_buffer_cleared", &id);
        self.tell(now, "agent.speak_interrupted", &id);
        self.agent(now, false);
    }

    fn play(&mut self, now: Instant) {
        let Some(utterance) = &self.utterance else { return };
        let (id, begins, complete) = (utterance.id.clone(), utterance.begins, utterance.complete);
        let over = begins + utterance.length;
        if !self.talking && begins <= now {
            self.agent(now, true);
            self.tell(now, "agent.speak_started", &id);
        }
        if self.talking && complete && over <= now {
            self.utterance = None;
            self.tell(now, "agent.speak_ended", &id);
            self.agent(now, false);
        }
    }
}

impl Core for Channel {
    fn handle(&mut self, now: Instant, message: &[u8], is_binary: bool) {
        let said: Value = serde_json::from_slice(message).unwrap_or_default();
        let kind = said["type"].as_str().unwrap_or_default().to_owned();
        {
            let mut state = lock(&self.state);
            state.commands.push(kind.clone());
            if is_binary || message.len() > LARGEST_MESSAGE {
                state.violations.push(format!("a message of {} bytes", message.len()));
            }
            if now < self.connected {
                state.vanished += 1;
                return;
            }
        }
        match kind.as_str() {
            "agent.speak" => self.speak(now, &said),
            "agent.speak_end" => {
                let id = said["event_id"].as_str().unwrap_or_default().to_owned();
                if let Some(utterance) = self.utterance.as_mut().filter(|utterance| utterance.id == id) {
                    utterance.complete = true;
                }
                self.tell(now, "agent.audio_buffer_committed", &id);
            }
            "agent.interrupt" => self.interrupt(now),
            "session.keep_alive" => lock(&self.state).keep_alives += 1,
            "agent.start_listening" | "agent.stop_listening" => {}
            other => {
                let text = format!("unknown command {other:?}");
                lock(&self.state).violations.push(text.clone());
                let error = json!({ "type": "invalid_request_error", "message": text });
                self.out.push_back((now, json!({ "type": "error", "error": error })));
            }
        }
    }

    fn poll(&mut self, now: Instant) -> Option<Out> {
        if lock(&self.state).cut {
            return Some(Out::Cut);
        }
        if self.silent.is_some_and(|silent| silent <= now) {
            if self.utterance.take().is_some() {
                (self.stage)(Cast::Cut);
            }
            return None;
        }
        self.play(now);
        let (at, _) = self.out.front()?;
        if *at > now {
            return None;
        }
        self.out.pop_front().map(|(_, said)| Out::Text(said.to_string()))
    }

    fn wake_at(&self) -> Option<Instant> {
        self.out.front().map(|(at, _)| *at)
    }
}
