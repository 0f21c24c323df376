//! WebSocket servers of emulators: one thread, many connections; what is said on them is decided by a core without
//! a clock or a socket, so that the same core serves tests in virtual time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// What a core wants done on its connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Out {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    /// The socket closes without a farewell.
    Cut,
    /// Nothing is read or written any more; the socket stays open.
    Hang,
}

/// One connection of an emulated API.
pub trait Core: Send {
    fn handle(&mut self, now: Instant, message: &[u8], is_binary: bool);
    /// What is due now, in order.
    fn poll(&mut self, now: Instant) -> Option<Out>;
    fn wake_at(&self) -> Option<Instant>;
}

/// What the handshake asked for.
pub struct Asked {
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// A refusal of the handshake: status, Retry-After in seconds, body.
pub struct Refusal(pub u16, pub Option<u32>, pub String);

pub type Open = Arc<dyn Fn(Instant, Asked) -> Result<Box<dyn Core>, Refusal> + Send + Sync>;

/// A running server on a free port of loopback; ends when dropped.
pub struct SocketServer {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl SocketServer {
    pub fn start(open: Open) -> SocketServer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("not blocking");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, open) => {}
                    _ = stopped => {}
                }
            });
        });
        SocketServer { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, open: Open) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(serve(socket, open.clone()));
    }
}

#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
async fn serve(socket: TcpStream, open: Open) {
    let _ = socket.set_nodelay(true);
    let core: Arc<Mutex<Option<Box<dyn Core>>>> = Arc::default();
    let slot = core.clone();
    let check = move |request: &Request, response: Response| {
        let headers = request.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
        let asked = Asked { path: request.uri().to_string(), headers: headers.collect() };
        match open(Instant::now(), asked) {
            Ok(core) => {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(core);
                Ok(response)
            }
            Err(Refusal(status, retry_after, body)) => {
                let mut refusal = ErrorResponse::new(Some(body));
                *refusal.status_mut() = StatusCode::from_u16(status).expect("a status");
                if let Some(seconds) = retry_after {
                    refusal.headers_mut().insert("retry-after", seconds.into());
                }
                Err(refusal)
            }
        }
    };
    let Ok(mut stream) = tokio_tungstenite::accept_hdr_async(socket, check).await else { return };
    let Some(mut core) = core.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    loop {
        while let Some(out) = core.poll(Instant::now()) {
            let sent = match out {
                Out::Text(text) => stream.send(Message::text(text)).await,
                Out::Binary(bytes) => stream.send(Message::Binary(Bytes::from(bytes))).await,
                Out::Close(code, reason) => {
                    let frame = CloseFrame { code: code.into(), reason: reason.into() };
                    let _ = stream.close(Some(frame)).await;
                    // The other side's farewell, if it says one.
                    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
                    let _ = tokio::time::timeout(Duration::from_millis(500), rest).await;
                    return;
                }
                Out::Cut => return,
                Out::Hang => std::future::pending().await,
            };
            if sent.is_err() {
                return;
            }
        }
        // Faults are injected from outside; they are looked for often enough to be prompt.
        let latest = Instant::now() + Duration::from_millis(5);
        let wake = core.wake_at().map_or(latest, |at| at.min(latest));
        tokio::select! {
            message = stream.next() => match message {
                Some(Ok(Message::Text(text))) => core.handle(Instant::now(), text.as_bytes(), false),
                Some(Ok(Message::Binary(bytes))) => core.handle(Instant::now(), &bytes, true),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = tokio::time::sleep_until(wake.into()) => {}
        }
    }
}
