//! Anam on loopback: sessions over HTTP with a ledger, an engine's signalling socket, and the peer connection over which a
//! made-up face is seen and heard. In passthrough mode it speaks what goes up the socket; in microphone mode it hears the
//! caller, writes down what was said and answers in a tone of its own.
//!
//! One thread with a runtime of its own; what was wrong is kept in [`Anam::refused`].

mod engine;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::face::Coding;
use super::server::{Api, Exchange, Seen, Server};
use engine::Engine;

pub const KEY: &str = "anam-key-1";
/// Where the engine's socket is.
const ENDPOINT: &str = "/v1/engines/e-1/ws";
/// A voice of its own, Hz.
pub const OWN_HZ: f64 = 523.0;

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct Rules {
    pub coding: Coding,
    /// From the connection to `sessionready`.
    pub ready_after: Duration,
    pub heartbeat_s: u64,
    /// Interruptions are taken and not carried out.
    pub deaf: bool,
    /// New sockets are closed with 1008.
    pub gate_closed: bool,
    /// Offers are not answered.
    pub answers: bool,
    /// In microphone mode: what it says first, what it understands of the caller, what it says to that and how soon.
    pub greeting: String,
    pub understands: String,
    pub reply: String,
    pub thinks: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            coding: Coding::Baseline,
            ready_after: Duration::from_millis(100),
            heartbeat_s: 5,
            deaf: false,
            gate_closed: false,
            answers: true,
            greeting: String::new(),
            understands: "What time is it?".to_owned(),
            reply: "It is noon in the whole wide world.".to_owned(),
            thinks: Duration::from_millis(300),
        }
    }
}

/// One session in the ledger.
#[derive(Clone, Debug)]
pub struct Booked {
    pub id: String,
    /// The body it was asked for with.
    pub asked: Value,
    pub begun: Instant,
    /// When, and who ended it: `client`, `engine`, `limit`, or `heartbeat` where nobody did.
    pub ended: Option<(Instant, &'static str)>,
    pub log: Log,
}

/// What came in a session.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Of the socket, in order, without sound, candidates and heartbeats.
    pub actions: Vec<String>,
    pub sockets: usize,
    pub heartbeats: usize,
    pub rate: u32,
    /// Our voice.
    pub heard: Vec<i16>,
    /// Ends of turns.
    pub turns: usize,
    pub interrupts: Vec<Instant>,
    /// Pieces that came behind an interruption and before the end of their turn.
    pub late: usize,
    /// The caller, 48 kHz.
    pub microphone: Vec<i16>,
    /// Texts as if the caller had said them.
    pub texts: Vec<String>,
    pub pictures: u64,
    pub key_wishes: u64,
}

#[derive(Default)]
struct Shared {
    rules: Rules,
    refused: Vec<String>,
    sessions: Vec<Booked>,
    tokens: Vec<(String, Value)>,
}

enum Command {
    Arrived { stream: Box<WebSocketStream<TcpStream>>, session: String },
    CutSockets,
    CutPeers,
    End(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running service; ends when dropped.
pub struct Anam {
    /// `token` and `session` are the names of its faults and paces.
    pub rest: Server,
    shared: Arc<Mutex<Shared>>,
    tell: mpsc::UnboundedSender<Command>,
    stop: Arc<AtomicBool>,
}

impl Anam {
    pub fn start() -> Anam {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (tell, told) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (give, address) = std::sync::mpsc::channel();
        let (own, own_tell, own_stop) = (shared.clone(), tell.clone(), stop.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                give.send(listener.local_addr().expect("bound")).expect("the starter waits");
                let accepting = tokio::spawn(accept(listener, own.clone(), own_tell));
                Engine::new(own, told, own_stop).run().await;
                accepting.abort();
            });
        });
        let engine = address.recv().expect("started");
        let rest = Server::start(Arc::new(Rest { shared: shared.clone(), engine }));
        Anam { rest, shared, tell, stop }
    }

    pub fn root(&self) -> String {
        format!("http://{}", self.rest.address)
    }

    pub fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.shared).rules);
    }

    /// What broke the rules.
    pub fn refused(&self) -> Vec<String> {
        lock(&self.shared).refused.clone()
    }

    pub fn sessions(&self) -> Vec<Booked> {
        lock(&self.shared).sessions.clone()
    }

    /// Sessions that count, or that nobody ended until they were given up.
    pub fn leaks(&self) -> Vec<String> {
        let shared = lock(&self.shared);
        let open =
            |own: &&Booked| own.ended.is_none() || own.ended.is_some_and(|(_, who)| who == "heartbeat");
        shared.sessions.iter().filter(open).map(|own| own.id.clone()).collect()
    }

    pub fn cut_sockets(&self) {
        let _ = self.tell.send(Command::CutSockets);
    }

    /// Peer connections die without a word.
    pub fn cut_peers(&self) {
        let _ = self.tell.send(Command::CutPeers);
    }

    /// The service ends all sessions.
    pub fn end(&self, why: &str) {
        let _ = self.tell.send(Command::End(why.to_owned()));
    }
}

impl Drop for Anam {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sessions over HTTP.
struct Rest {
    shared: Arc<Mutex<Shared>>,
    engine: SocketAddr,
}

impl Rest {
    /// What is wrong with what a session is asked for with.
    fn mistake(asked: &Value) -> Option<&'static str> {
        let persona = &asked["personaConfig"];
        let words = ["personaId", "avatarId"].iter().filter(|name| persona[**name].is_string()).count();
        let replay = &asked["sessionOptions"]["sessionReplay"]["enableSessionReplay"];
        let quality = &asked["sessionOptions"]["videoQuality"];
        let size = ["videoWidth", "videoHeight"].map(|name| asked["sessionOptions"][name].is_u64());
        match () {
            () if words == 0 => Some("neither a persona nor an avatar"),
            () if !persona["enableAudioPassthrough"].is_boolean() => Some("enableAudioPassthrough"),
            () if !(quality.is_null() || *quality == "high" || *quality == "auto") => Some("videoQuality"),
            () if size[0] != size[1] => Some("width and height go together"),
            () if !(replay.is_null() || replay.is_boolean()) => Some("enableSessionReplay"),
            () => None,
        }
    }

    fn token(&self, asked: &Value) -> (u16, Value) {
        let mut shared = lock(&self.shared);
        if let Some(mistake) = Self::mistake(asked) {
            shared.refused.push(format!("a token: {mistake}: {asked}"));
            return (400, json!({ "error": "Bad Request", "message": mistake }));
        }
        let token = format!("header.claims.signature-{}", shared.tokens.len() + 1);
        shared.tokens.push((token.clone(), asked.clone()));
        (200, json!({ "sessionToken": token }))
    }

    fn session(&self, bearer: &str, asked: Value) -> (u16, Value) {
        let mut shared = lock(&self.shared);
        let by_token =
            shared.tokens.iter().find(|(token, _)| token == bearer).map(|(_, asked)| asked.clone());
        let asked_with = match by_token {
            Some(asked) => asked,
            None if bearer == KEY => asked.clone(),
            None => return (401, json!({ "error": "Unauthorized", "message": "Invalid API key" })),
        };
        let metadata = &asked["clientMetadata"];
        let mistake = Self::mistake(&asked_with)
            .or_else(|| (!metadata["client"].is_string()).then_some("clientMetadata"));
        if let Some(mistake) = mistake {
            shared.refused.push(format!("a session: {mistake}: {asked}"));
            return (400, json!({ "error": "Bad Request", "message": mistake }));
        }
        let id = format!("session-{}", shared.sessions.len() + 1);
        shared.sessions.push(Booked {
            id: id.clone(),
            asked: asked_with,
            begun: Instant::now(),
            ended: None,
            log: Log::default(),
        });
        let config = json!({ "heartbeatIntervalSeconds": shared.rules.heartbeat_s,
            "maxWsReconnectionAttempts": 5, "iceServers": [] });
        let host = format!("{}/v1/engines/e-1", self.engine);
        let answer = json!({ "sessionId": id, "engineHost": host, "engineProtocol": "http", "region": "eu",
            "signallingEndpoint": ENDPOINT, "clientConfig": config });
        (201, answer)
    }
}

impl Api for Rest {
    fn name(&self, seen: &Seen) -> &'static str {
        if seen.path.ends_with("session-token") { "token" } else { "session" }
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        std::thread::sleep(exchange.pace.delay);
        let bearer = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let bearer = bearer.unwrap_or_default();
        let (status, body) = match (seen.method.as_str(), seen.path.as_str()) {
            ("POST", "/v1/auth/session-token") if bearer == KEY => self.token(&seen.json()),
            ("POST", "/v1/auth/session-token") => (401, json!({ "message": "Invalid API key" })),
            ("POST", "/v1/engine/session") => self.session(bearer, seen.json()),
            _ => (404, json!({ "message": "Not Found" })),
        };
        exchange.json(status, &body, &[]);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>, tell: mpsc::UnboundedSender<Command>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, shared.clone(), tell.clone()));
    }
}

/// Opens a socket to whoever knows a session.
async fn serve(mut stream: TcpStream, shared: Arc<Mutex<Shared>>, tell: mpsc::UnboundedSender<Command>) {
    let _ = stream.set_nodelay(true);
    let mut head = vec![0; 16 << 10];
    let mut read = 0;
    for _ in 0..200 {
        read = stream.peek(&mut head).await.unwrap_or(0);
        if head[..read].windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let text = String::from_utf8_lossy(&head[..read]).into_owned();
    let target = text.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let session = query.split('&').find_map(|pair| pair.strip_prefix("session_id=")).unwrap_or_default();
    let (known, over, closed) = {
        let shared = lock(&shared);
        let own = shared.sessions.iter().find(|own| own.id == session);
        (own.is_some(), own.is_some_and(|own| own.ended.is_some()), shared.rules.gate_closed)
    };
    if path != ENDPOINT || !known {
        lock(&shared).refused.push(format!("a socket at {target}"));
        let _ = stream.read(&mut head).await;
        let _ = stream.write_all(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        return;
    }
    let Ok(mut stream) = tokio_tungstenite::accept_async(stream).await else { return };
    if over || closed {
        let reason = if over { "the session is over" } else { "not let in" };
        let frame = CloseFrame { code: 1008.into(), reason: reason.into() };
        let _ = stream.close(Some(frame)).await;
        let rest = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = tokio::time::timeout(Duration::from_millis(500), rest).await;
        return;
    }
    let _ = tell.send(Command::Arrived { stream: Box::new(stream), session: session.to_owned() });
}
