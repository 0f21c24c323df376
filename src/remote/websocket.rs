//! Driver. A WebSocket to a provider (RFC 6455): connected, pinged when silent, bounded both ways, given up when dead.
//!
//! Nothing runs by itself: [`WebSocket::next`] reads, writes what [`WebSocket::send`] queued, and watches the time.
//! What the frames mean does not belong here.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::{HeaderMap, Uri, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
pub use tokio_tungstenite::tungstenite::{Bytes, Utf8Bytes};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::address::is_near;
use super::failure::{Failure, complaint};

/// Limits of one connection.
#[derive(Clone, Debug)]
pub struct WebSocketSettings {
    /// Name, connection, TLS and handshake together.
    pub connect_within: Duration,
    /// Without a frame for so long, it is pinged.
    pub ping_after: Duration,
    /// Without a frame for so long, it is given up.
    pub silent_after: Duration,
    /// Bytes of a message that may come.
    pub largest_message: usize,
    /// Bytes that may wait to be written; more, and the peer is given up.
    pub waiting_max: usize,
    /// `None`: the system's authorities.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        WebSocketSettings {
            connect_within: Duration::from_secs(10),
            ping_after: Duration::from_secs(5),
            silent_after: Duration::from_secs(10),
            largest_message: 16 << 20,
            waiting_max: 8 << 20,
            tls: None,
        }
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Text(Utf8Bytes),
    Binary(Bytes),
}

impl Frame {
    fn len(&self) -> usize {
        match self {
            Frame::Text(text) => text.len(),
            Frame::Binary(bytes) => bytes.len(),
        }
    }

    fn into_message(self) -> Message {
        match self {
            Frame::Text(text) => Message::Text(text),
            Frame::Binary(bytes) => Message::Binary(bytes),
        }
    }
}

/// Why a connection is over. `Display` says it to an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The peer closed it; 1005 where it gave no code.
    #[error("it closed the connection with {code}: {reason}")]
    Closed { code: u16, reason: String },
    #[error("the connection was cut: {0}")]
    Cut(String),
    #[error("nothing came for {0} ms")]
    Silent(u64),
    #[error("it does not take what is sent")]
    Stuck,
}

impl Ended {
    /// The same in the words of every provider.
    pub fn failure(&self) -> Failure {
        match self {
            // Bad data and broken rules stay so when they are sent again.
            Ended::Closed { code: code @ (1002 | 1003 | 1007..=1010), reason } => {
                Failure::Refused { status: *code, text: reason.clone() }
            }
            Ended::Closed { code: 1013, .. } => Failure::Busy { retry_after_ms: None },
            Ended::Closed { code: 1000 | 1001 | 1005 | 1006, .. } | Ended::Cut(_) | Ended::Stuck => {
                Failure::Cut
            }
            Ended::Closed { code, reason } => Failure::Failed { status: *code, text: reason.clone() },
            Ended::Silent(ms) => Failure::TooSlow(*ms),
        }
    }
}

/// An open connection. Dropped: the socket closes without a farewell.
pub struct WebSocket {
    stream: WebSocketStream<Wire>,
    settings: WebSocketSettings,
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    heard: Instant,
    pinged: bool,
    timer: Pin<Box<Sleep>>,
    ended: Option<Ended>,
}

impl WebSocket {
    /// Connects to a `ws://` or `wss://` URL; `http` and `https` mean the same. In the clear only to loopback and
    /// private addresses. Fails with what the peer's HTTP answer says, if it gave one.
    pub async fn connect(
        url: &str,
        headers: &[(&str, &str)],
        settings: &WebSocketSettings,
    ) -> Result<WebSocket, Failure> {
        let limit = settings.connect_within;
        match tokio::time::timeout(limit, Self::connect_unhurried(url, headers, settings)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::TooSlow(millis(limit))),
        }
    }

    async fn connect_unhurried(
        url: &str,
        headers: &[(&str, &str)],
        settings: &WebSocketSettings,
    ) -> Result<WebSocket, Failure> {
        let place = Place::of(url)?;
        let stream = place.open(settings).await?;
        let mut request = ClientRequestBuilder::new(place.uri);
        for (name, value) in headers {
            request = request.with_header(*name, *value);
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(settings.largest_message))
            .max_frame_size(Some(settings.largest_message))
            .write_buffer_size(0);
        let answered = tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        let (stream, _) = answered.map_err(|error| refusal(error, headers))?;
        let now = Instant::now();
        Ok(WebSocket {
            stream,
            settings: settings.clone(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            heard: now,
            pinged: false,
            timer: Box::pin(tokio::time::sleep_until(now + settings.ping_after)),
            ended: None,
        })
    }

    /// Queues a frame; [`WebSocket::next`] writes it. `false`: the connection is over, or the peer takes nothing any
    /// more, which ends it.
    pub fn send(&mut self, frame: Frame) -> bool {
        self.waiting_bytes += frame.len();
        if self.waiting_bytes > self.settings.waiting_max {
            self.ended.get_or_insert(Ended::Stuck);
        }
        if self.ended.is_some() {
            return false;
        }
        self.waiting.push_back(frame.into_message());
        true
    }

    /// Bytes queued and not yet written.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Says farewell after what is queued; [`WebSocket::next`] goes on until the peer has answered or is silent.
    pub fn close(&mut self) {
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
        self.waiting.push_back(Message::Close(Some(frame)));
    }

    /// The next frame; writes and pings meanwhile. Cancel-safe. After an error it gives the same error again.
    pub async fn next(&mut self) -> Result<Frame, Ended> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`WebSocket::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Frame, Ended>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(Err(ended.clone()));
        }
        let polled = self.poll_both_ways(context);
        if let Poll::Ready(Err(ended)) = &polled {
            // The answer to a farewell, as far as it goes without waiting.
            let _ = self.stream.poll_flush_unpin(context);
            self.ended = Some(ended.clone());
        }
        polled
    }

    fn poll_both_ways(&mut self, context: &mut Context<'_>) -> Poll<Result<Frame, Ended>> {
        loop {
            self.poll_write(context)?;
            match self.stream.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(message))) => {
                    self.heard = Instant::now();
                    self.pinged = false;
                    if let Some(frame) = frame_of(message)? {
                        return Poll::Ready(Ok(frame));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Ended::Cut(error.to_string()))),
                Poll::Ready(None) => return Poll::Ready(Err(Ended::Cut("end of stream".to_owned()))),
                Poll::Pending if self.poll_silence(context)? => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Ended> {
        let cut = |error: Error| Ended::Cut(error.to_string());
        while !self.waiting.is_empty() {
            match self.stream.poll_ready_unpin(context) {
                Poll::Ready(ready) => ready.map_err(cut)?,
                Poll::Pending => return Ok(()),
            }
            if let Some(message) = self.waiting.pop_front() {
                self.waiting_bytes = self.waiting_bytes.saturating_sub(length(&message));
                self.stream.start_send_unpin(message).map_err(cut)?;
            }
        }
        match self.stream.poll_flush_unpin(context) {
            Poll::Ready(flushed) => flushed.map_err(cut),
            Poll::Pending => Ok(()),
        }
    }

    /// `true`: a ping is to be written.
    fn poll_silence(&mut self, context: &mut Context<'_>) -> Result<bool, Ended> {
        while self.timer.as_mut().poll(context).is_ready() {
            let silent = self.heard.elapsed();
            if silent >= self.settings.silent_after {
                return Err(Ended::Silent(millis(silent)));
            }
            if silent >= self.settings.ping_after && !self.pinged {
                self.pinged = true;
                self.waiting.push_back(Message::Ping(Bytes::new()));
                self.timer.as_mut().reset(self.heard + self.settings.silent_after);
                return Ok(true);
            }
            let limit = if self.pinged { self.settings.silent_after } else { self.settings.ping_after };
            self.timer.as_mut().reset(self.heard + limit);
        }
        Ok(false)
    }
}

fn length(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => 0,
    }
}

fn frame_of(message: Message) -> Result<Option<Frame>, Ended> {
    match message {
        Message::Text(text) => Ok(Some(Frame::Text(text))),
        Message::Binary(bytes) => Ok(Some(Frame::Binary(bytes))),
        Message::Close(frame) => {
            Err(frame.map_or(Ended::Closed { code: 1005, reason: String::new() }, |frame| Ended::Closed {
                code: frame.code.into(),
                reason: frame.reason.to_string(),
            }))
        }
        // Pings are answered by the library.
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
    }
}

/// Where a URL leads.
struct Place {
    uri: Uri,
    host: String,
    port: u16,
    secure: bool,
}

impl Place {
    fn of(url: &str) -> Result<Place, Failure> {
        let wrong = |why: &str| Failure::Refused { status: 0, text: format!("base_url: {why}") };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it begins with wss:// or ws://"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "wss" | "https" => true,
            "ws" | "http" => false,
            _ => return Err(wrong("it begins with wss:// or ws://")),
        };
        let scheme = if secure { "wss" } else { "ws" };
        let uri: Uri = format!("{scheme}://{rest}").parse().map_err(|_| wrong("it is no URL"))?;
        let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Place { uri, host, port, secure })
    }

    async fn open(&self, settings: &WebSocketSettings) -> Result<Wire, Failure> {
        let unreached = |error: &dyn std::fmt::Display| {
            Failure::Unreached(format!("{} port {}: {error}", self.host, self.port))
        };
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<SocketAddr> = found.map_err(|error| unreached(&error))?.collect();
        let near = |address: &SocketAddr| self.secure || is_near(address.ip());
        let allowed: Vec<SocketAddr> = found.into_iter().filter(near).collect();
        if allowed.is_empty() {
            let text = format!("{} is not of this site: it is reached by wss:// only", self.host);
            return Err(Failure::Refused { status: 0, text });
        }
        let socket = TcpStream::connect(allowed.as_slice()).await.map_err(|error| unreached(&error))?;
        // Every block of sound is a small frame that may not wait for the one before it.
        socket.set_nodelay(true).map_err(|error| unreached(&error))?;
        if !self.secure {
            return Ok(Wire::Clear(socket));
        }
        let config = settings.tls.clone().map_or_else(system_tls, Ok).map_err(|error| unreached(&error))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| unreached(&error))?;
        let stream = TlsConnector::from(config).connect(name, socket).await;
        Ok(Wire::Secure(Box::new(stream.map_err(|error| unreached(&error))?)))
    }
}

/// TLS as the system's authorities vouch for it; read once.
pub fn system_tls() -> Result<Arc<ClientConfig>, String> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    let made = CONFIG.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_platform_verifier())
            .map_err(|error| format!("no TLS: {error}"))?;
        Ok(Arc::new(config.with_no_client_auth()))
    });
    made.clone()
}

/// What an HTTP answer instead of a WebSocket means.
fn refusal(error: Error, headers: &[(&str, &str)]) -> Failure {
    let Error::Http(answer) = error else {
        return Failure::Unreached(format!("no WebSocket: {error}"));
    };
    let status = answer.status().as_u16();
    let body = answer.body().as_deref().unwrap_or_default();
    let text = without_keys(&String::from_utf8_lossy(body), headers);
    match status {
        429 => Failure::Busy { retry_after_ms: retry_after(answer.headers()) },
        400..=499 => Failure::Refused { status, text },
        _ => Failure::Failed { status, text },
    }
}

/// What a provider complains of, without the keys it was sent: some repeat them.
fn without_keys(body: &str, headers: &[(&str, &str)]) -> String {
    let keys = headers.iter().filter_map(|(_, value)| value.rsplit(' ').next());
    keys.filter(|key| !key.is_empty()).fold(complaint(body, ""), |text, key| text.replace(key, "***"))
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let seconds: f64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    // `as` saturates.
    (seconds >= 0.0).then_some((seconds * 1000.0) as u64)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A socket in the clear or under TLS.
enum Wire {
    Clear(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Clear(stream) => Pin::new(stream).poll_read(context, buffer),
            Wire::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Clear(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Clear(stream) => Pin::new(stream).poll_flush(context),
            Wire::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Clear(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
    use rustls::RootCertStore;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    async fn listen() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}/v1?model=m", listener.local_addr().expect("bound"));
        (listener, url)
    }

    fn quick() -> WebSocketSettings {
        WebSocketSettings {
            connect_within: Duration::from_secs(3),
            ping_after: Duration::from_millis(50),
            silent_after: Duration::from_millis(200),
            largest_message: 1 << 16,
            waiting_max: 1 << 20,
            tls: None,
        }
    }

    async fn connect(url: &str) -> Result<WebSocket, Failure> {
        WebSocket::connect(url, &[("authorization", "Bearer secret")], &quick()).await
    }

    /// A server that answers the handshake with these bytes.
    async fn answered_with(bytes: &'static str) -> Failure {
        let (listener, url) = listen().await;
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let read = socket.read(&mut request).await.expect("a request");
            socket.write_all(bytes.as_bytes()).await.expect("answered");
            String::from_utf8_lossy(&request[..read]).to_lowercase()
        });
        let failure = connect(&url).await.err().expect("refused");
        let request = server.await.expect("served");
        assert!(request.starts_with("get /v1?model=m http/1.1"), "{request}");
        assert!(request.contains("authorization: bearer secret"), "{request}");
        failure
    }

    #[tokio::test]
    async fn frames_of_both_kinds_pass_both_ways_in_order() {
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
            while let Some(Ok(message)) = peer.next().await {
                if message.is_text() || message.is_binary() {
                    peer.send(message).await.expect("sent back");
                }
            }
        });
        let mut socket = connect(&url).await.expect("connected");
        let frames: Vec<Frame> = (0..50_u8)
            .map(|n| match n % 2 {
                0 => Frame::Text(Utf8Bytes::from(format!("text {n}"))),
                _ => Frame::Binary(Bytes::from(vec![n; usize::from(n) * 100])),
            })
            .collect();
        for frame in &frames {
            assert!(socket.send(frame.clone()));
        }
        for frame in frames {
            assert_eq!(socket.next().await, Ok(frame));
        }
        assert_eq!(socket.waiting_bytes(), 0);
        socket.close();
        assert!(matches!(socket.next().await, Err(Ended::Closed { code: 1000, .. })));
    }

    #[tokio::test]
    async fn http_answers_become_failures() {
        let busy = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(answered_with(busy).await, Failure::Busy { retry_after_ms: Some(2000) });
        let wrong = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nbad key";
        let failure = answered_with(wrong).await;
        assert!(matches!(failure, Failure::Refused { status: 401, .. }), "{failure}");
        let broken = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(answered_with(broken).await, Failure::Failed { status: 503, .. }));
        assert!(matches!(answered_with("nonsense\r\n\r\n").await, Failure::Unreached(_)));
    }

    #[test]
    fn a_key_that_a_provider_repeats_is_not_passed_on() {
        let headers = [("Authorization", "Bearer sk-secret"), ("x-goog-api-key", "AIza1")];
        let told = without_keys(r#"{"error":{"message":"Incorrect API key: sk-secret, AIza1"}}"#, &headers);
        assert_eq!(told, "Incorrect API key: ***, ***");
    }

    #[tokio::test]
    async fn sound_does_not_leave_the_site_in_the_clear() {
        for url in ["ws://192.0.2.1/", "http://203.0.113.7:8080/", "ws://[2001:db8::1]/"] {
            let failure = connect(url).await.err().expect("refused");
            assert!(
                matches!(&failure, Failure::Refused { status: 0, text } if text.contains("wss://")),
                "{failure}"
            );
        }
        for url in ["ftp://127.0.0.1/", "127.0.0.1:80", "ws://", ""] {
            assert!(matches!(connect(url).await.err(), Some(Failure::Refused { .. })), "{url}");
        }
        for (ip, near) in
            [("10.1.2.3", true), ("192.168.0.9", true), ("::1", true), ("fd00::1", true), ("8.8.8.8", false)]
        {
            assert_eq!(is_near(ip.parse().expect("an address")), near, "{ip}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_answers_pings_lives_and_one_that_hangs_is_given_up() {
        let (listener, url) = listen().await;
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
            // Reading answers pings: for half a second only.
            let _ = tokio::time::timeout(Duration::from_millis(500), async {
                while peer.next().await.is_some() {}
            })
            .await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
        let mut socket = connect(&url).await.expect("connected");
        let started = Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(3), socket.next()).await.expect("it ends");
        assert!(matches!(ended, Err(Ended::Silent(200..=400))), "{ended:?}");
        assert!(started.elapsed() >= Duration::from_millis(600), "{:?}", started.elapsed());
        assert!(!socket.send(Frame::Text("late".into())));
        server.abort();
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_given_up_at_the_bound() {
        let (listener, url) = listen().await;
        let server = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(peer);
        });
        let mut socket = connect(&url).await.expect("connected");
        let block = Frame::Binary(Bytes::from(vec![0; 1 << 16]));
        assert!((0..17).any(|_| !socket.send(block.clone())), "one mebibyte is the bound");
        assert_eq!(socket.next().await, Err(Ended::Stuck));
        server.abort();
    }

    #[tokio::test]
    async fn a_farewell_keeps_its_code_and_a_cut_is_a_cut() {
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
            let frame = CloseFrame { code: CloseCode::Invalid, reason: "invalid argument".into() };
            peer.close(Some(frame)).await.expect("closed");
            let (socket, _) = listener.accept().await.expect("another");
            drop(tokio_tungstenite::accept_async(socket).await.expect("a handshake"));
        });
        let ended = connect(&url).await.expect("connected").next().await.expect_err("closed");
        assert_eq!(ended, Ended::Closed { code: 1007, reason: "invalid argument".to_owned() });
        assert!(!ended.failure().is_passing());
        let ended = connect(&url).await.expect("connected").next().await.expect_err("cut");
        assert!(matches!(ended, Ended::Cut(_)), "{ended}");
        assert_eq!(ended.failure(), Failure::Cut);
    }

    #[tokio::test]
    async fn a_message_over_the_bound_ends_the_connection() {
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
            let _ = peer.send(Message::Binary(Bytes::from(vec![0; (1 << 16) + 1]))).await;
            let _ = peer.next().await;
        });
        let ended = connect(&url).await.expect("connected").next().await;
        assert!(matches!(ended, Err(Ended::Cut(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn under_tls_the_certificate_decides() {
        let authority = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = parameters.self_signed(&authority).expect("an authority");
        let issuer = Issuer::new(parameters, authority);
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        let own = parameters.signed_by(&key, &issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from(own.der().to_vec())],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a server");
        let (listener, url) = listen().await;
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(server));
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(socket).await else { continue };
                let mut peer = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
                peer.send(Message::text("hello")).await.expect("sent");
                let _ = peer.next().await;
            }
        });
        let url = url.replace("ws://", "wss://");
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).expect("an authority");
        let trusting = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let settings = WebSocketSettings { tls: Some(Arc::new(trusting)), ..quick() };
        let mut socket = WebSocket::connect(&url, &[], &settings).await.expect("trusted");
        assert_eq!(socket.next().await, Ok(Frame::Text("hello".into())));
        drop(socket);
        let failure = connect(&url).await.err().expect("the system does not know this authority");
        assert!(matches!(failure, Failure::Unreached(_)), "{failure}");
    }
}
