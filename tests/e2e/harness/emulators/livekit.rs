//! A LiveKit server on loopback, as much of it as clients of version 0 notice: joining by token, one peer connection each
//! way, tracks and data packets passed between participants, farewells and new tokens on command. And a vendor whose worker
//! joins its rooms: REST with a ledger, speech by `lk.audio_stream`, the three procedures of playback.
//!
//! One thread with a runtime of its own; what was wrong is kept in [`LiveKit::refused`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use eyeline::media::access_unit::VideoCodec;
use eyeline::webrtc::Mid;
use eyeline::webrtc::event::{ChannelId, PeerEvent};
use eyeline::webrtc::link::PeerLink;
use eyeline::webrtc::settings::{PeerSettings, VideoWish, Way};
use futures_util::{SinkExt as _, StreamExt as _};
use hmac::{Hmac, Mac as _};
use livekit_protocol::data_packet::Value as Packet;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use livekit_protocol::{
    DataPacket, DisconnectReason, JoinResponse, LeaveRequest, ParticipantInfo, ParticipantPermission,
    ParticipantUpdate, Pong, Room, RpcAck, RpcRequest, RpcResponse, ServerInfo, SessionDescription,
    SignalRequest, SignalResponse, TrackInfo, TrackPublishedResponse, TrackSubscribed, TrickleRequest,
    rpc_response,
};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::face::{Coding, Due, Face, FaceSettings};
use super::server::{Api, Exchange, Seen, Server};

/// The one key of the server.
pub const KEY: &str = "devkey";
pub const SECRET: &str = "a secret of thirty-two characters";
/// The vendor's.
pub const API_KEY: &str = "sk-vendor-1";

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// From the request to its being in the room.
    pub late: Duration,
    /// It never tells that it has finished.
    pub never_finishes: bool,
    pub coding: Coding,
    /// Width and height of its picture.
    pub size: (usize, usize),
}

impl Default for WorkerSettings {
    fn default() -> Self {
        WorkerSettings {
            late: Duration::from_millis(50),
            never_finishes: false,
            coding: Coding::Baseline,
            size: (640, 360),
        }
    }
}

impl WorkerSettings {
    fn face(&self) -> FaceSettings {
        let (width, height) = self.size;
        FaceSettings { coding: self.coding, width, height, ..FaceSettings::default() }
    }
}

/// What a worker got.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub rate: u32,
    pub samples: Vec<i16>,
    /// Streams that were closed.
    pub segments: usize,
    pub cleared: Vec<Instant>,
    /// Key pictures somebody asked for.
    pub key_wishes: usize,
    /// When its lips were lit and went dark.
    pub lips: Vec<(Instant, bool)>,
}

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

/// One who joined over the network.
struct Participant {
    info: ParticipantInfo,
    room: String,
    stream: Box<WebSocketStream<TcpStream>>,
    outgoing: VecDeque<Message>,
    subscriber: PeerLink,
    reliable: Option<ChannelId>,
    open: bool,
    waiting: VecDeque<Vec<u8>>,
    offers: u32,
    answered: u32,
    /// Something changed while an offer was not answered: another follows.
    again: bool,
    /// Whose tracks are offered.
    shown: Option<ParticipantInfo>,
    publisher: Option<PeerLink>,
    /// Its picture among what it publishes.
    picture: Option<Mid>,
    sequence: u32,
    gone: bool,
}

impl Participant {
    fn send(&mut self, message: Response) {
        let bytes = SignalResponse { message: Some(message) }.encode_to_vec();
        self.outgoing.push_back(Message::Binary(bytes.into()));
    }

    /// An offer of what is there for it, with the tracks under their owner's name.
    fn offer(&mut self) {
        self.again = self.offers > self.answered;
        if self.again {
            return;
        }
        let Some(sdp) = self.subscriber.create_offer() else { return };
        self.offers += 1;
        let sdp = self.shown.as_ref().map_or_else(|| sdp.clone(), |owner| named(&sdp, owner));
        let id = self.offers;
        self.send(Response::Offer(SessionDescription {
            r#type: "offer".to_owned(),
            sdp,
            id,
            ..SessionDescription::default()
        }));
    }

    fn show(&mut self, owner: &ParticipantInfo) {
        self.shown = Some(owner.clone());
        // A stream nobody publishes yet would have a name that is never mended.
        let has = |kind: i32| owner.tracks.iter().any(|track| track.r#type == kind);
        if has(0) {
            self.subscriber.want_sound(Way::Send);
        }
        if has(1) {
            self.subscriber.want_video(Way::Send);
        }
        self.offer();
    }

    fn give(&mut self, packet: &DataPacket) {
        self.waiting.push_back(packet.encode_to_vec());
        self.hand_over();
    }

    /// What waits, as the channel takes it: what is written while it is full is lost.
    fn hand_over(&mut self) {
        let Some(id) = self.reliable.filter(|_| self.open) else { return };
        while self.subscriber.buffered(id) < 32 << 10
            && let Some(bytes) = self.waiting.pop_front()
        {
            self.subscriber.send(id, &bytes, false);
        }
    }
}

/// The participant and the track instead of what our peer connection calls them.
fn named(sdp: &str, owner: &ParticipantInfo) -> String {
    let mut kind = 0;
    let lines = sdp.lines().map(|line| {
        if let Some(media) = line.strip_prefix("m=") {
            kind = i32::from(media.starts_with("video"));
        }
        let track = owner.tracks.iter().find(|track| track.r#type == kind);
        match (line.starts_with("a=msid:"), track) {
            (true, Some(track)) => format!("a=msid:{}|{} {}", owner.sid, track.sid, track.sid),
            _ => line.to_owned(),
        }
    });
    lines.map(|line| line + "\r\n").collect()
}

/// A worker inside the server: what it is sent and what it sends is what goes over the network.
struct Worker {
    info: ParticipantInfo,
    room: String,
    face: Face,
    settings: WorkerSettings,
    /// Who speaks through it.
    speaker: String,
    stream: Option<String>,
    /// What follows of this stream is dropped.
    dropped: Option<String>,
    closed: bool,
    told: bool,
    sent_ms: u64,
    calls: u32,
    outgoing: Vec<(String, Packet)>,
}

impl Worker {
    fn call(&mut self, method: &str, payload: String) {
        self.calls += 1;
        let request = RpcRequest {
            id: format!("{}-{}", self.info.sid, self.calls),
            method: method.to_owned(),
            payload,
            response_timeout_ms: 8_000,
            version: 1,
            ..RpcRequest::default()
        };
        self.outgoing.push((self.speaker.clone(), Packet::RpcRequest(request)));
    }

    fn finished(&mut self, interrupted: bool) {
        self.told = false;
        self.closed = false;
        if !self.settings.never_finishes {
            let position = self.sent_ms as f64 / 1_000.0;
            let report = json!({ "playback_position": position, "interrupted": interrupted });
            self.call("lk.playback_finished", report.to_string());
        }
        self.sent_ms = 0;
    }

    fn take(&mut self, now: Instant, from: &str, packet: Packet, shared: &mut Shared) {
        let heard = shared.heard.entry(self.room.clone()).or_default();
        match packet {
            Packet::StreamHeader(header) => {
                let number =
                    |name: &str| header.attributes.get(name).and_then(|text| text.parse::<u32>().ok());
                let good = header.topic == "lk.audio_stream" && number("num_channels") == Some(1);
                let Some(rate) = number("sample_rate").filter(|_| good && self.stream.is_none()) else {
                    return shared.refused.push(format!("a stream {header:?}"));
                };
                heard.rate = rate;
                self.stream = Some(header.stream_id);
                self.speaker = from.to_owned();
                self.closed = false;
            }
            Packet::StreamChunk(chunk) => {
                if self.dropped.as_ref() == Some(&chunk.stream_id) {
                    return;
                }
                if self.stream.as_ref() != Some(&chunk.stream_id) || chunk.content.len() > 15_000 {
                    return shared.refused.push(format!("a chunk of {} bytes", chunk.content.len()));
                }
                let samples: Vec<i16> =
                    chunk.content.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
                self.sent_ms += samples.len() as u64 * 1_000 / u64::from(heard.rate.max(1));
                self.face.say(now, &samples, heard.rate);
                heard.samples.extend(samples);
            }
            Packet::StreamTrailer(end) => {
                if self.dropped.take_if(|dropped| *dropped == end.stream_id).is_none() {
                    self.closed = true;
                    heard.segments += 1;
                }
                self.stream = self.stream.take().filter(|own| *own != end.stream_id);
            }
            Packet::RpcRequest(request) => {
                self.outgoing
                    .push((from.to_owned(), Packet::RpcAck(RpcAck { request_id: request.id.clone() })));
                if request.method == "lk.clear_buffer" {
                    heard.cleared.push(now);
                    self.face.cut(now);
                    self.dropped = self.stream.take();
                    self.finished(true);
                } else {
                    shared.refused.push(format!("a call of {}", request.method));
                }
                let value = Some(rpc_response::Value::Payload(String::new()));
                let response = RpcResponse { request_id: request.id, value };
                self.outgoing.push((from.to_owned(), Packet::RpcResponse(response)));
            }
            _ => {}
        }
    }

    fn watch(&mut self, shared: &mut Shared) {
        let heard = shared.heard.entry(self.room.clone()).or_default();
        heard.lips.append(&mut self.face.log.turns);
        if self.face.is_speaking() && !self.told && (self.sent_ms > 0) {
            self.told = true;
            self.call("lk.playback_started", String::new());
        }
        if self.told && self.closed && self.face.waiting().is_zero() {
            self.finished(false);
        }
    }
}

/// Everybody in all rooms.
struct Rooms {
    shared: Arc<Mutex<Shared>>,
    told: mpsc::UnboundedReceiver<Command>,
    tell: mpsc::UnboundedSender<Command>,
    stop: Arc<AtomicBool>,
    here: Vec<Participant>,
    workers: Vec<Worker>,
    coming: Vec<(Instant, String, String, String)>,
    next: u32,
}

fn settings(way: Way) -> PeerSettings {
    let video = VideoWish { way, codecs: vec![VideoCodec::H264, VideoCodec::Vp8] };
    PeerSettings { toward: "127.0.0.1".to_owned(), sound: way, video, ..PeerSettings::default() }
}

impl Rooms {
    fn new(
        shared: Arc<Mutex<Shared>>,
        told: mpsc::UnboundedReceiver<Command>,
        tell: mpsc::UnboundedSender<Command>,
        stop: Arc<AtomicBool>,
    ) -> Rooms {
        Rooms { shared, told, tell, stop, here: Vec::new(), workers: Vec::new(), coming: Vec::new(), next: 0 }
    }

    async fn run(mut self) {
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        while !self.stop.load(Ordering::Relaxed) {
            std::future::poll_fn(|context| {
                self.poll(context);
                beat.poll_tick(context).map(|_| ())
            })
            .await;
        }
    }

    fn sid(&mut self, kind: &str) -> String {
        self.next += 1;
        format!("{kind}_{:04}", self.next)
    }

    fn poll(&mut self, context: &mut Context<'_>) {
        let now = Instant::now();
        while let Poll::Ready(Some(command)) = self.told.poll_recv(context) {
            self.obey(now, command);
        }
        let due: Vec<_> = self.coming.extract_if(.., |(at, ..)| *at <= now).collect();
        for (_, room, identity, behalf) in due {
            self.come(now, room, identity, &behalf);
        }
        for at in 0..self.here.len() {
            self.poll_one(now, at, context);
        }
        self.poll_workers(now);
        let gone: Vec<Participant> = self.here.extract_if(.., |one| one.gone).collect();
        for one in gone {
            self.update(&one.room, ParticipantInfo { state: 3, ..one.info });
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Arrived { stream, identity, room, agent } => self.arrive(stream, identity, room, agent),
            Command::Worker { room, identity, behalf } => {
                let late = lock(&self.shared).worker.late;
                self.coming.push((now + late, room, identity, behalf));
            }
            Command::WorkerLeaves { room } => {
                self.coming.retain(|(_, own, ..)| *own != room);
                let gone: Vec<Worker> = self.workers.extract_if(.., |worker| worker.room == room).collect();
                for worker in gone {
                    self.update(&room, ParticipantInfo { state: 3, ..worker.info });
                }
            }
            Command::RoomDeleted { room } => {
                let leave =
                    LeaveRequest { reason: DisconnectReason::RoomDeleted as i32, ..LeaveRequest::default() };
                for one in self.here.iter_mut().filter(|one| one.room == room) {
                    one.send(Response::Leave(leave.clone()));
                }
                // A worker that is thrown out ends its session.
                let mut shared = lock(&self.shared);
                shared.ledger.iter_mut().filter(|own| own.1 == room).for_each(|own| own.2 = false);
                drop(shared);
                let _ = self.tell.send(Command::WorkerLeaves { room });
            }
            Command::Say { room, samples, rate } => {
                for worker in self.workers.iter_mut().filter(|worker| worker.room == room) {
                    worker.face.say(now, &samples, rate);
                }
            }
            Command::CutWorker { room } => {
                for worker in self.workers.iter_mut().filter(|worker| worker.room == room) {
                    worker.face.cut(now);
                }
            }
            Command::Reconnect => {
                for one in &mut self.here {
                    one.send(Response::Leave(LeaveRequest { action: 2, ..LeaveRequest::default() }));
                }
            }
            Command::Refresh(token) => {
                self.here.iter_mut().for_each(|one| one.send(Response::RefreshToken(token.clone())));
            }
            Command::Cut => self.here.iter_mut().for_each(|one| one.gone = true),
        }
    }

    fn arrive(
        &mut self,
        stream: Box<WebSocketStream<TcpStream>>,
        identity: String,
        room: String,
        agent: bool,
    ) {
        lock(&self.shared).joined.push(identity.clone());
        // Who comes twice is thrown out the first time.
        self.here.retain(|one| one.info.identity != identity || one.room != room);
        let info = ParticipantInfo {
            sid: self.sid("PA"),
            identity,
            state: 2,
            kind: if agent { 4 } else { 0 },
            permission: Some(ParticipantPermission {
                can_subscribe: true,
                can_publish: true,
                can_publish_data: true,
                ..ParticipantPermission::default()
            }),
            ..ParticipantInfo::default()
        };
        let others = self.others(&room);
        let shown = others.iter().find(|other| !other.tracks.is_empty()).cloned();
        let way = if shown.is_some() { Way::Send } else { Way::None };
        let mut subscriber = PeerLink::new(settings(way));
        let reliable = subscriber.open_channel("_reliable", true, None);
        let _ = subscriber.open_channel("_lossy", false, Some(0));
        let join = JoinResponse {
            room: Some(Room { sid: "RM_1".to_owned(), name: room.clone(), ..Room::default() }),
            participant: Some(info.clone()),
            other_participants: others,
            subscriber_primary: true,
            ping_timeout: 15,
            ping_interval: 5,
            server_version: "1.9.0".to_owned(),
            server_info: Some(ServerInfo {
                version: "1.9.0".to_owned(),
                protocol: 16,
                ..ServerInfo::default()
            }),
            ..JoinResponse::default()
        };
        self.update(&room, info.clone());
        let mut one = Participant {
            info,
            room,
            stream,
            outgoing: VecDeque::new(),
            subscriber,
            reliable,
            open: false,
            waiting: VecDeque::new(),
            offers: 0,
            answered: 0,
            again: false,
            shown,
            publisher: None,
            picture: None,
            sequence: 0,
            gone: false,
        };
        one.send(Response::Join(join));
        one.offer();
        self.here.push(one);
    }

    fn others(&self, room: &str) -> Vec<ParticipantInfo> {
        let workers =
            self.workers.iter().filter(|worker| worker.room == room).map(|worker| worker.info.clone());
        let here = self.here.iter().filter(|one| one.room == room).map(|one| one.info.clone());
        workers.chain(here).collect()
    }

    fn update(&mut self, room: &str, info: ParticipantInfo) {
        for one in self.here.iter_mut().filter(|one| one.room == room && one.info.sid != info.sid) {
            one.send(Response::Update(ParticipantUpdate { participants: vec![info.clone()] }));
        }
    }

    fn come(&mut self, now: Instant, room: String, identity: String, behalf: &str) {
        let settings = lock(&self.shared).worker.clone();
        let mime = if settings.coding == Coding::Vp8 { "video/VP8" } else { "video/H264" };
        let track = |kind: i32, name: &str, mime: &str, sid: String| TrackInfo {
            sid,
            r#type: kind,
            name: name.to_owned(),
            source: if kind == 0 { 2 } else { 1 },
            mime_type: mime.to_owned(),
            ..TrackInfo::default()
        };
        let (sound, video) = (self.sid("TR"), self.sid("TR"));
        let mut info = ParticipantInfo {
            sid: self.sid("PA"),
            identity: identity.clone(),
            state: 2,
            kind: 4,
            tracks: vec![track(0, "voice", "audio/opus", sound), track(1, "face", mime, video)],
            ..ParticipantInfo::default()
        };
        info.attributes.insert("lk.publish_on_behalf".to_owned(), behalf.to_owned());
        lock(&self.shared).joined.push(identity);
        self.update(&room, info.clone());
        for one in self.here.iter_mut().filter(|one| one.room == room) {
            one.show(&info);
        }
        let (width, height) = settings.size;
        let face = Face::new(
            FaceSettings { coding: settings.coding, width, height, ..FaceSettings::default() },
            now,
        );
        self.workers.push(Worker {
            info,
            room,
            face,
            settings,
            speaker: String::new(),
            stream: None,
            dropped: None,
            closed: false,
            told: false,
            sent_ms: 0,
            calls: 0,
            outgoing: Vec::new(),
        });
    }

    fn poll_workers(&mut self, now: Instant) {
        for worker in &mut self.workers {
            while let Some(due) = worker.face.poll(now) {
                for one in self.here.iter_mut().filter(|one| one.room == worker.room) {
                    match &due {
                        Due::Sound { at, time, packet, .. } => one.subscriber.send_sound(*at, *time, packet),
                        Due::Unit { at, time, unit, .. } => one.subscriber.send_unit(*at, *time, unit),
                    };
                }
            }
            worker.watch(&mut lock(&self.shared));
            for (to, value) in std::mem::take(&mut worker.outgoing) {
                let packet = DataPacket {
                    participant_identity: worker.info.identity.clone(),
                    participant_sid: worker.info.sid.clone(),
                    destination_identities: vec![to.clone()],
                    value: Some(value),
                    ..DataPacket::default()
                };
                let reached = |one: &&mut Participant| one.room == worker.room && one.info.identity == to;
                self.here.iter_mut().filter(reached).for_each(|one| one.give(&packet));
            }
        }
    }

    fn poll_one(&mut self, now: Instant, at: usize, context: &mut Context<'_>) {
        loop {
            let one = &mut self.here[at];
            while let Some(message) = one.outgoing.pop_front() {
                if one.stream.poll_ready_unpin(context).is_pending()
                    || one.stream.start_send_unpin(message).is_err()
                {
                    one.gone = true;
                    return;
                }
            }
            let _ = one.stream.poll_flush_unpin(context);
            match one.stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => self.request(at, &bytes),
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => {
                    one.gone = true;
                    return;
                }
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(event) = self.here[at].subscriber.poll_next(context) {
            self.subscriber_told(at, event);
        }
        self.here[at].hand_over();
        while let Some(Poll::Ready(event)) =
            self.here[at].publisher.as_mut().map(|own| own.poll_next(context))
        {
            self.publisher_told(now, at, event);
        }
    }

    fn request(&mut self, at: usize, bytes: &[u8]) {
        let Some(message) = SignalRequest::decode(bytes).ok().and_then(|request| request.message) else {
            return lock(&self.shared).refused.push("a request that cannot be read".to_owned());
        };
        let sid = self.sid("TR");
        let one = &mut self.here[at];
        let refuse = |why: String| lock(&self.shared).refused.push(why);
        match message {
            Request::Answer(answer) => {
                // The vendor's own SDK leaves the number out.
                let id = if answer.id == 0 { one.offers } else { answer.id };
                if id != one.offers || one.answered == id || answer.r#type != "answer" {
                    return refuse(format!("the answer {} to {}", answer.id, one.offers));
                }
                one.answered = id;
                match one.subscriber.take_answer(&answer.sdp) {
                    Ok(()) if one.again => one.offer(),
                    Ok(()) => {}
                    Err(why) => refuse(format!("an answer: {why}")),
                }
            }
            Request::Offer(offer) => {
                let publisher = one.publisher.get_or_insert_with(|| PeerLink::new(settings(Way::None)));
                // One picture of each is enough here.
                let plain = |line: &&str| !line.starts_with("a=simulcast") && !line.starts_with("a=rid");
                let sdp: String =
                    offer.sdp.lines().filter(plain).map(|line| line.to_owned() + "\r\n").collect();
                match publisher.take_offer(&sdp) {
                    Ok(sdp) => one.send(Response::Answer(SessionDescription {
                        r#type: "answer".to_owned(),
                        sdp,
                        id: offer.id,
                        ..SessionDescription::default()
                    })),
                    Err(why) => refuse(format!("an offer: {why}")),
                }
            }
            Request::Trickle(trickle) => {
                let init: Value = serde_json::from_str(&trickle.candidate_init).unwrap_or_default();
                let candidate = init["candidate"].as_str().unwrap_or_default();
                match (trickle.target, &mut one.publisher) {
                    (1, _) => one.subscriber.add_remote_candidate(candidate),
                    (0, Some(publisher)) => publisher.add_remote_candidate(candidate),
                    (0, None) => {}
                    (other, _) => refuse(format!("a candidate for {other}")),
                }
            }
            Request::AddTrack(add) => {
                let track = TrackInfo {
                    sid,
                    r#type: add.r#type,
                    name: add.name,
                    source: add.source,
                    ..TrackInfo::default()
                };
                one.info.tracks.push(track.clone());
                one.send(Response::TrackPublished(TrackPublishedResponse {
                    cid: add.cid,
                    track: Some(track),
                }));
                let (room, info) = (one.room.clone(), one.info.clone());
                self.update(&room, info);
            }
            Request::PingReq(ping) => {
                one.send(Response::PongResp(Pong {
                    last_ping_timestamp: ping.timestamp,
                    timestamp: ping.timestamp,
                }));
            }
            Request::Ping(timestamp) => one.send(Response::Pong(timestamp)),
            Request::Leave(_) => one.gone = true,
            // Qualities, attributes, subscriptions: there is nothing to choose from here.
            _ => {}
        }
    }

    fn trickle(one: &mut Participant, target: i32, candidate: &str, mid: &str) {
        let init = json!({ "candidate": candidate, "sdpMid": mid, "sdpMLineIndex": 0 });
        let candidate_init = init.to_string();
        one.send(Response::Trickle(TrickleRequest { candidate_init, target, r#final: false }));
    }

    fn subscriber_told(&mut self, at: usize, event: PeerEvent) {
        let one = &mut self.here[at];
        match event {
            PeerEvent::Candidate(local) => Self::trickle(one, 1, &local.candidate, &local.mid),
            PeerEvent::ChannelOpen { id, .. } if Some(id) == one.reliable => {
                one.open = true;
                one.hand_over();
            }
            PeerEvent::KeyWanted { .. } => {
                let room = one.room.clone();
                lock(&self.shared).heard.entry(room.clone()).or_default().key_wishes += 1;
                for other in self.here.iter_mut().filter(|other| other.room == room) {
                    if let Some((publisher, mid)) = other.publisher.as_mut().zip(other.picture) {
                        publisher.want_key_picture(mid);
                    }
                }
                self.workers
                    .iter_mut()
                    .filter(|worker| worker.room == room)
                    .for_each(|worker| worker.face.key_wanted());
            }
            _ => {}
        }
    }

    fn publisher_told(&mut self, now: Instant, at: usize, event: PeerEvent) {
        let one = &mut self.here[at];
        match event {
            PeerEvent::Candidate(local) => Self::trickle(one, 0, &local.candidate, &local.mid),
            PeerEvent::Data { data, .. } => self.packet(now, at, &data),
            PeerEvent::Track(_) => {
                let (room, info) = (one.room.clone(), one.info.clone());
                let others = |other: &&mut Participant| other.room == room && other.info.sid != info.sid;
                let mut seen = false;
                for other in self.here.iter_mut().filter(others) {
                    other.show(&info);
                    seen = true;
                }
                // Whoever publishes may wait until somebody takes it.
                for track in info.tracks.iter().filter(|_| seen) {
                    let track_sid = track.sid.clone();
                    self.here[at].send(Response::TrackSubscribed(TrackSubscribed { track_sid }));
                }
            }
            PeerEvent::Sound(packet) => {
                let (room, sid) = (one.room.clone(), one.info.sid.clone());
                for other in self.here.iter_mut().filter(|other| other.room == room && other.info.sid != sid)
                {
                    other.subscriber.send_sound(packet.at, packet.time, &packet.data);
                }
            }
            PeerEvent::Unit(packet) => {
                one.picture = Some(packet.mid);
                let (room, sid) = (one.room.clone(), one.info.sid.clone());
                for other in self.here.iter_mut().filter(|other| other.room == room && other.info.sid != sid)
                {
                    other.subscriber.send_unit(packet.at, packet.time, &packet.unit);
                }
            }
            _ => {}
        }
    }

    fn packet(&mut self, now: Instant, at: usize, bytes: &[u8]) {
        let (room, sid, identity) = {
            let one = &self.here[at];
            (one.room.clone(), one.info.sid.clone(), one.info.identity.clone())
        };
        let mut shared = lock(&self.shared);
        let Ok(mut packet) = DataPacket::decode(bytes) else {
            return shared.refused.push("a packet that cannot be read".to_owned());
        };
        let one = &mut self.here[at];
        if packet.sequence != 0 && packet.sequence != one.sequence + 1 {
            shared.refused.push(format!("packet {} after {}", packet.sequence, one.sequence));
        }
        one.sequence = packet.sequence.max(one.sequence);
        packet.participant_identity.clone_from(&identity);
        packet.participant_sid.clone_from(&sid);
        let to = packet.destination_identities.clone();
        let wanted = |other: &str| to.is_empty() || to.iter().any(|name| name == other);
        for worker in self.workers.iter_mut().filter(|own| own.room == room && wanted(&own.info.identity)) {
            if let Some(value) = packet.value.clone() {
                worker.take(now, &identity, value, &mut shared);
            }
        }
        drop(shared);
        let reached = |other: &&mut Participant| {
            other.room == room && other.info.sid != sid && wanted(&other.info.identity)
        };
        self.here.iter_mut().filter(reached).for_each(|other| other.give(&packet));
    }
}
