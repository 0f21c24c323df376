//! A LiveKit server on loopback, as much of it as clients of version 0 notice: joining by token, one peer connection each
//! way, tracks and data packets passed between participants, farewells and new tokens on command. And a vendor whose worker
//! joins its rooms: REST with a ledger, speech by `lk.audio_stream`, the three procedures of playback.
//!
//! One thread with a runtime of its own; what was wrong is kept in [`LiveKit::refused`].

mod participant;
mod rooms;
mod worker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;

use super::face::Face;
use super::server::{Api, Exchange, Seen, Server};
use rooms::Rooms;
pub use worker::{Heard, WorkerSettings};

/// The one key of the server.
pub const KEY: &str = "devkey";
pub const SECRET: &str = "a secret of thirty-two characters";
/// The vendor's.
pub const API_KEY: &str = "sk-vendor-1";

#[derive(Default)]
struct Shared {
    refused: Vec<String>,
    joined: Vec<String>,
    deleted: Vec<String>,
    heard: HashMap<String, Heard>,
    worker: WorkerSettings,
    /// Sessions of the vendor: room and whether it still counts.
    ledger: Vec<(String, String, bool)>,
}

enum Command {
    Arrived {
        stream: Box<WebSocketStream<TcpStream>>,
        identity: String,
        room: String,
        agent: bool,
    },
    Worker {
        room: String,
        identity: String,
        behalf: String,
    },
    WorkerLeaves {
        room: String,
    },
    /// What a worker is told by another way than its room.
    Say {
        room: String,
        samples: Vec<i16>,
        rate: u32,
    },
    CutWorker {
        room: String,
    },
    RoomDeleted {
        room: String,
    },
    Reconnect,
    Refresh(String),
    Cut,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server and vendor; both end when dropped.
pub struct LiveKit {
    pub address: SocketAddr,
    /// The vendor's REST: `POST /v1/session` (`bey`), `DELETE /v1/session/{id}`.
    pub vendor: Server,
    shared: Arc<Mutex<Shared>>,
    tell: mpsc::UnboundedSender<Command>,
    stop: Arc<AtomicBool>,
}

impl LiveKit {
    pub fn start() -> LiveKit {
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
                let accepting = tokio::spawn(accept(listener, own.clone(), own_tell.clone()));
                Rooms::new(own, told, own_tell, own_stop).run().await;
                accepting.abort();
            });
        });
        let address = address.recv().expect("started");
        let api = Vendor { shared: shared.clone(), tell: tell.clone(), next: AtomicU32::new(1) };
        LiveKit { address, vendor: Server::start(Arc::new(api)), shared, tell, stop }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// What broke the rules.
    pub fn refused(&self) -> Vec<String> {
        lock(&self.shared).refused.clone()
    }

    /// Identities in the order in which they joined.
    pub fn joined(&self) -> Vec<String> {
        lock(&self.shared).joined.clone()
    }

    pub fn deleted(&self) -> Vec<String> {
        lock(&self.shared).deleted.clone()
    }

    /// What the worker of the only room, or of the last one, heard.
    pub fn heard(&self) -> Heard {
        let shared = lock(&self.shared);
        let room = shared.ledger.last().map(|(_, room, _)| room.clone()).unwrap_or_default();
        shared.heard.get(&room).cloned().unwrap_or_default()
    }

    pub fn workers(&self, settings: WorkerSettings) {
        // Its pictures are coded here and now, not while it is waited for.
        Face::new(settings.face(), Instant::now());
        lock(&self.shared).worker = settings;
    }

    /// Sessions the vendor counts now, and all there ever were.
    pub fn sessions(&self) -> (usize, usize) {
        let shared = lock(&self.shared);
        (shared.ledger.iter().filter(|(_, _, open)| *open).count(), shared.ledger.len())
    }

    /// Everybody is told to come again.
    pub fn tell_reconnect(&self) {
        let _ = self.tell.send(Command::Reconnect);
    }

    pub fn refresh_token(&self, token: &str) {
        let _ = self.tell.send(Command::Refresh(token.to_owned()));
    }

    /// The sockets of all participants are cut.
    pub fn cut(&self) {
        let _ = self.tell.send(Command::Cut);
    }

    /// The worker of the last room leaves without a word.
    pub fn worker_leaves(&self) {
        let room = lock(&self.shared).ledger.last().map(|(_, room, _)| room.clone()).unwrap_or_default();
        let _ = self.tell.send(Command::WorkerLeaves { room });
    }

    /// A worker comes without having been asked for by REST: for tests of clients.
    pub fn bring_worker(&self, room: &str, identity: &str) {
        lock(&self.shared).ledger.push(("-".to_owned(), room.to_owned(), false));
        let (room, identity) = (room.to_owned(), identity.to_owned());
        let _ = self.tell.send(Command::Worker { room, identity, behalf: String::new() });
    }
}

impl LiveKit {
    /// A worker is to say this; its vendor has a channel of its own.
    pub fn say(&self, room: &str, samples: Vec<i16>, rate: u32) {
        let _ = self.tell.send(Command::Say { room: room.to_owned(), samples, rate });
    }

    pub fn cut_worker(&self, room: &str) {
        let _ = self.tell.send(Command::CutWorker { room: room.to_owned() });
    }
}

impl Drop for LiveKit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The claims of a token whose signature is good and whose time has come.
fn claims(token: &str) -> Result<Value, String> {
    let (signed, signature) = token.rsplit_once('.').ok_or("no token")?;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("a key");
    mac.update(signed.as_bytes());
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|error| error.to_string())?;
    mac.verify_slice(&signature).map_err(|_| "the signature is wrong")?;
    let body = signed.split('.').nth(1).ok_or("no claims")?;
    let body = URL_SAFE_NO_PAD.decode(body).map_err(|error| error.to_string())?;
    let claims: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    if claims["iss"] != KEY || claims["exp"].as_u64().is_none_or(|end| end <= now) {
        return Err("the key or the time is wrong".to_owned());
    }
    Ok(claims)
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<Shared>>, tell: mpsc::UnboundedSender<Command>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, shared.clone(), tell.clone()));
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Mutex<Shared>>, tell: mpsc::UnboundedSender<Command>) {
    let mut head = vec![0; 32 << 10];
    let mut read = 0;
    for _ in 0..200 {
        read = stream.peek(&mut head).await.unwrap_or(0);
        if head[..read].windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if read == 0 {
        // Who hangs up before asking has done nothing wrong.
        return;
    }
    let text = String::from_utf8_lossy(&head[..read]).into_owned();
    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let bearer = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().strip_prefix("Bearer ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.to_owned())
    });
    let token = bearer
        .or_else(|| query.split('&').find_map(|pair| Some(pair.strip_prefix("access_token=")?.to_owned())));
    let claims = claims(&token.unwrap_or_default());
    let video =
        |name: &str| claims.as_ref().ok().map(|claims| claims["video"][name].clone()).unwrap_or_default();
    let status = match (path, &claims) {
        ("/rtc/v1" | "/rtc/v1/validate", _) => 404,
        (_, Err(why)) => {
            lock(&shared).refused.push(format!("{path}: {why}"));
            401
        }
        ("/rtc", Ok(claims)) => {
            let room = video("room").as_str().unwrap_or_default().to_owned();
            let identity = claims["sub"].as_str().unwrap_or_default().to_owned();
            let agent = claims["kind"] == "agent";
            if video("roomJoin") == true && !room.is_empty() && !identity.is_empty() {
                let Ok(stream) = tokio_tungstenite::accept_async(stream).await else { return };
                let _ = tell.send(Command::Arrived { stream: Box::new(stream), identity, room, agent });
                return;
            }
            403
        }
        ("/twirp/livekit.RoomService/DeleteRoom", Ok(_)) => {
            if video("roomCreate") == true {
                let room = video("room").as_str().unwrap_or_default().to_owned();
                lock(&shared).deleted.push(room.clone());
                let _ = tell.send(Command::RoomDeleted { room });
                200
            } else {
                403
            }
        }
        ("/rtc/validate", Ok(_)) => 200,
        _ => 404,
    };
    let _ = stream.read(&mut head).await;
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A vendor's REST.
struct Vendor {
    shared: Arc<Mutex<Shared>>,
    tell: mpsc::UnboundedSender<Command>,
    next: AtomicU32,
}

impl Api for Vendor {
    fn name(&self, seen: &Seen) -> &'static str {
        if seen.method == "DELETE" { "stop" } else { "start" }
    }

    fn answer(&self, seen: &Seen, exchange: &mut Exchange<'_>) {
        if seen.header("x-api-key") != Some(API_KEY) {
            return exchange.json(401, &json!({ "error": format!("no such key {API_KEY}") }), &[]);
        }
        if let ("DELETE", Some(id)) = (seen.method.as_str(), seen.path.strip_prefix("/v1/session/")) {
            let mut shared = lock(&self.shared);
            let Some(own) = shared.ledger.iter_mut().find(|(own, _, _)| own == id) else {
                return exchange.json(404, &json!({ "error": "no such session" }), &[]);
            };
            own.2 = false;
            let _ = self.tell.send(Command::WorkerLeaves { room: own.1.clone() });
            return exchange.json(200, &json!({}), &[]);
        }
        let body = seen.json();
        let token = body["livekit_token"].as_str().unwrap_or_default();
        let good = seen.path == "/v1/session"
            && body["avatar_id"].is_string()
            && body["livekit_url"].as_str().is_some_and(|url| url.starts_with("ws"));
        let worker = claims(token).ok().filter(|claims| good && claims["kind"] == "agent");
        let Some(worker) = worker else {
            lock(&self.shared).refused.push(format!("start: {body}"));
            return exchange.json(422, &json!({ "error": "what is posted cannot be used" }), &[]);
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (room, identity) = (text(&worker["video"]["room"]), text(&worker["sub"]));
        let behalf = text(&worker["attributes"]["lk.publish_on_behalf"]);
        let id = format!("s-{}", self.next.fetch_add(1, Ordering::Relaxed));
        lock(&self.shared).ledger.push((id.clone(), room.clone(), true));
        let _ = self.tell.send(Command::Worker { room, identity, behalf });
        exchange.json(200, &json!({ "id": id }), &[]);
    }
}
