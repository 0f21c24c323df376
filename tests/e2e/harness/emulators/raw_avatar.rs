//! A MuseTalk-type server as RoomKit's clients know it: `POST /start`, `GET /idle_frame`, `/ws/stream`, `POST /stop` on one
//! port. It draws a dark picture whose middle is white exactly while the sound it was made of is loud.
//!
//! Strict: sound before `/start`, a second piece while one is worked on, and text are told as violations.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::{Bytes, Message};

pub const WIDTH: u16 = 64;
pub const HEIGHT: u16 = 48;

/// What it does and what was done to it.
#[derive(Default)]
pub struct RawState {
    /// Pictures a second.
    pub fps: u32,
    /// What a piece takes it, and a start.
    pub work: Duration,
    pub start: Duration,
    /// Instead of a start.
    pub refuse: Option<u16>,
    /// Every connection is cut.
    pub cut: bool,
    /// Pieces are not answered any more.
    pub hang: bool,
    /// The body of the last `/start`; `None`: not begun, or stopped.
    pub started: Option<Value>,
    pub starts: usize,
    pub stops: usize,
    /// All sound it got.
    pub heard: Vec<i16>,
    pub pieces: usize,
    pub flushes: usize,
    pub violations: Vec<String>,
}

type Shared = Arc<Mutex<RawState>>;

fn lock(state: &Shared) -> MutexGuard<'_, RawState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server on a free port of loopback; ends when dropped.
pub struct RawAvatar {
    pub address: SocketAddr,
    state: Shared,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RawAvatar {
    pub fn start() -> RawAvatar {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("not blocking");
        let state: Shared = Arc::new(Mutex::new(RawState { fps: 30, ..RawState::default() }));
        let (stop, stopped) = oneshot::channel();
        let own = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                let accept = async {
                    while let Ok((socket, _)) = listener.accept().await {
                        tokio::spawn(serve(socket, own.clone()));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        RawAvatar { address, state, stop: Some(stop), thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, RawState> {
        lock(&self.state)
    }

    /// Sessions begun and ended.
    pub fn ledger(&self) -> (usize, usize) {
        let state = self.state();
        (state.starts, state.stops)
    }
}

impl Drop for RawAvatar {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The picture of a face that is at rest or talks.
pub fn picture(loud: bool) -> Vec<u8> {
    let mut message = [WIDTH.to_be_bytes(), HEIGHT.to_be_bytes()].concat();
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let mouth = x.abs_diff(WIDTH / 2) < 12 && y.abs_diff(HEIGHT / 2) < 8;
            message.extend([if mouth && loud { 250 } else { 30 }; 3]);
        }
    }
    message
}

async fn serve(mut socket: TcpStream, state: Shared) {
    let _ = socket.set_nodelay(true);
    let mut head = vec![0; 4096];
    let read = loop {
        let Ok(read) = socket.peek(&mut head).await else { return };
        if read == 0 || head[..read].windows(4).any(|end| end == b"\r\n\r\n") || read == head.len() {
            break read;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let text = String::from_utf8_lossy(&head[..read]).to_lowercase();
    if text.starts_with("get /ws/stream ") {
        if let Ok(stream) = tokio_tungstenite::accept_async(socket).await {
            stream_pictures(stream, &state).await;
        }
        return;
    }
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    let end = text.find("\r\n\r\n").map_or(read, |end| end + 4);
    let mut request = vec![0; end + length];
    if socket.read_exact(&mut request).await.is_err() {
        return;
    }
    let first = text.lines().next().unwrap_or_default().to_owned();
    let (status, body) = answer(&first, &request[end..], &state).await;
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = socket.write_all(&[head.as_bytes(), &body].concat()).await;
    let _ = socket.shutdown().await;
}

async fn answer(first: &str, body: &[u8], state: &Shared) -> (u16, Vec<u8>) {
    match first {
        "post /start http/1.1" => {
            let (wait, refuse) = {
                let state = lock(state);
                (state.start, state.refuse)
            };
            tokio::time::sleep(wait).await;
            if let Some(status) = refuse {
                return (status, br#"{"detail":"no GPU is free"}"#.to_vec());
            }
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let whole = asked["reference_image"].is_string()
                && ["width", "height", "sample_rate"].iter().all(|key| asked[key].is_u64());
            let mut state = lock(state);
            if !whole {
                state.violations.push(format!("started with {asked}"));
                return (422, br#"{"detail":"a field is missing"}"#.to_vec());
            }
            (state.started, state.starts) = (Some(asked), state.starts + 1);
            (200, format!(r#"{{"status":"ready","fps":{}}}"#, state.fps).into_bytes())
        }
        "get /idle_frame http/1.1" => (200, picture(false)),
        "post /stop http/1.1" => {
            let mut state = lock(state);
            (state.started, state.stops) = (None, state.stops + 1);
            (200, b"{}".to_vec())
        }
        _ => (404, Vec::new()),
    }
}

async fn stream_pictures(mut stream: tokio_tungstenite::WebSocketStream<TcpStream>, state: &Shared) {
    loop {
        let message = tokio::select! {
            message = stream.next() => message,
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                if lock(state).cut { return }
                continue;
            }
        };
        let piece = match message {
            Some(Ok(Message::Binary(piece))) => piece,
            Some(Ok(Message::Text(_))) => {
                lock(state).violations.push("text".to_owned());
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => return,
        };
        let samples: Vec<i16> =
            piece.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
        let (work, fps, rate) = {
            let mut state = lock(state);
            if state.started.is_none() {
                state.violations.push("sound before it was started".to_owned());
            }
            state.heard.extend(&samples);
            (state.pieces, state.flushes) = match samples.is_empty() {
                false => (state.pieces + 1, state.flushes),
                true => (state.pieces, state.flushes + 1),
            };
            let rate =
                state.started.as_ref().and_then(|asked| asked["sample_rate"].as_u64()).unwrap_or(16_000);
            (state.work, state.fps as usize, rate as usize)
        };
        // Whatever comes meanwhile is one piece too many.
        if let Ok(Some(Ok(Message::Binary(_)))) = tokio::time::timeout(work, stream.next()).await {
            lock(state).violations.push("a piece while another is worked on".to_owned());
        }
        if lock(state).hang {
            continue;
        }
        // One picture for what is left over too: real servers round up.
        for slice in samples.chunks(rate / fps) {
            let loud = slice.iter().any(|sample| sample.unsigned_abs() > 1_000);
            if stream.send(Message::Binary(picture(loud).into())).await.is_err() {
                return;
            }
        }
        if stream.send(Message::Binary(Bytes::new())).await.is_err() {
            return;
        }
    }
}
