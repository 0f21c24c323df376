//! Driver. Web sockets to Deepgram: one that listens to a call, and those that speak sentences, kept for the next one.

#![expect(clippy::disallowed_methods, reason = "its connections are kept alive and given up by the clock")]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::Sound;
use super::asking::DEEPGRAM;
use crate::codec::g711;
use crate::remote::address;
use crate::remote::websocket::{Bytes, Frame, WebSocket, WebSocketSettings};
use crate::talk::message::{Endpoint, Failure};
use crate::talk::wire::deepgram_listen::{self, Heard, Listening};
use crate::talk::wire::deepgram_speak::{self, Coding, Said};
use crate::talk::wire::pcm::Pcm;

/// Sockets kept for the next sentence of any call, and for how long.
const IDLE_MAX: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(20);
/// Bytes kept while a connection is being opened.
const QUEUED_MAX: usize = 4 << 20;

fn settings() -> WebSocketSettings {
    // Who listens is silent while the caller is; how long an answer may take is counted apart.
    WebSocketSettings {
        connect_within: Duration::from_secs(5),
        silent_after: IDLE_FOR + Duration::from_secs(10),
        ..WebSocketSettings::default()
    }
}

fn place(endpoint: &Endpoint, path: &str, query: Vec<(String, String)>) -> Result<String, Failure> {
    let mut url = address::below(&address::root(&endpoint.base_url, DEEPGRAM)?, "v1", path);
    url.query_pairs_mut().extend_pairs(query);
    Ok(address::with_scheme(url, true).into())
}

async fn connect(endpoint: &Endpoint, url: &str) -> Result<WebSocket, Failure> {
    let token = format!("Token {}", endpoint.api_key);
    let headers = [("authorization", token.as_str())];
    let headers = if endpoint.api_key.is_empty() { &headers[..0] } else { &headers[..] };
    WebSocket::connect(url, headers, &settings()).await
}

/// Sockets that have spoken and wait for another sentence.
#[derive(Default)]
pub struct Idle(Mutex<VecDeque<(String, Instant, WebSocket)>>);

impl Idle {
    fn take(&self, url: &str) -> Option<WebSocket> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since, _)| since.elapsed() < IDLE_FOR);
        let at = idle.iter().rposition(|(of, ..)| of == url)?;
        idle.remove(at).map(|(_, _, socket)| socket)
    }

    fn put(&self, url: String, socket: WebSocket) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back((url, Instant::now(), socket));
    }
}

enum Decoder {
    G711(g711::Law),
    Linear(Box<Pcm>),
}

/// A sentence being spoken.
pub struct DeepgramSpeech {
    endpoint: Endpoint,
    text: Arc<str>,
    url: String,
    idle: Arc<Idle>,
    socket: Option<WebSocket>,
    /// The socket has spoken before and may have died since.
    reused: bool,
    decoder: Decoder,
}

impl DeepgramSpeech {
    /// Asks; connects first where no socket waits.
    pub async fn begin(
        endpoint: &Endpoint,
        idle: Arc<Idle>,
        text: Arc<str>,
        sound: Sound,
    ) -> Result<Self, Failure> {
        let coding = Coding::of(sound.rate, sound.law);
        let decoder = match coding {
            Coding::G711(law) => Decoder::G711(law),
            Coding::Linear { rate } => Decoder::Linear(Box::new(Pcm::new(rate, sound.rate))),
        };
        let url = place(endpoint, "speak", deepgram_speak::query(endpoint, coding))?;
        let socket = idle.take(&url);
        let reused = socket.is_some();
        let endpoint = endpoint.clone();
        let mut speech = DeepgramSpeech { endpoint, text, url, idle, socket, reused, decoder };
        speech.ask().await?;
        Ok(speech)
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        let mut socket = match self.socket.take() {
            Some(socket) => socket,
            None => connect(&self.endpoint, &self.url).await?,
        };
        for message in deepgram_speak::say(&self.text) {
            socket.send(Frame::Text(message.into()));
        }
        self.socket = Some(socket);
        Ok(())
    }

    /// The next samples; `None`: there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        let mut samples = Vec::new();
        while samples.is_empty() {
            let Some(socket) = &mut self.socket else { return Ok(None) };
            let limit = Duration::from_millis(self.endpoint.timeout_ms);
            let slow = |_| Failure::TooSlow(self.endpoint.timeout_ms);
            let frame = match tokio::time::timeout(limit, socket.next()).await.map_err(slow)? {
                Ok(frame) => frame,
                Err(_) if std::mem::take(&mut self.reused) => {
                    self.socket = None;
                    self.ask().await?;
                    continue;
                }
                Err(ended) => {
                    self.socket = None;
                    return Err(ended.failure());
                }
            };
            self.reused = false;
            self.handle_frame(frame, &mut samples)?;
        }
        Ok(Some(samples))
    }

    fn handle_frame(&mut self, frame: Frame, samples: &mut Vec<i16>) -> Result<(), Failure> {
        match (frame, &mut self.decoder) {
            (Frame::Binary(bytes), Decoder::G711(law)) => g711::decode(*law, &bytes, samples),
            (Frame::Binary(bytes), Decoder::Linear(pcm)) => pcm.push(&bytes, samples)?,
            (Frame::Text(text), decoder) => match deepgram_speak::read(&text, &self.endpoint.api_key)? {
                Said::Flushed => {
                    if let Decoder::Linear(pcm) = decoder {
                        pcm.finish(samples)?;
                    }
                    if let Some(socket) = self.socket.take() {
                        self.idle.put(self.url.clone(), socket);
                    }
                }
                Said::Warning(text) => tracing::warn!(provider = self.endpoint.name, "{text}"),
                Said::Other => {}
            },
        }
        Ok(())
    }
}

/// Opens a socket for a sentence that comes soon, if none waits.
pub async fn warm(endpoint: &Endpoint, idle: &Idle, sound: Sound) {
    let coding = Coding::of(sound.rate, sound.law);
    if let Ok(url) = place(endpoint, "speak", deepgram_speak::query(endpoint, coding)) {
        let socket = match idle.take(&url) {
            Some(socket) => Ok(socket),
            None => connect(endpoint, &url).await,
        };
        if let Ok(socket) = socket {
            idle.put(url, socket);
        }
    }
}

enum State {
    Connecting(Pin<Box<dyn Future<Output = Result<WebSocket, Failure>> + Send>>),
    Open(Box<WebSocket>),
}

/// A connection that listens to a call.
pub struct DeepgramEars {
    sound: Sound,
    key: String,
    timeout: Duration,
    state: State,
    /// Sent once the connection stands.
    queued: VecDeque<Frame>,
    queued_bytes: usize,
    listening: Listening,
    /// When something was sent last.
    sent: Instant,
    timer: Pin<Box<Sleep>>,
}

impl DeepgramEars {
    /// Connects when it is polled.
    pub fn open(endpoint: &Endpoint, sound: Sound) -> Result<Self, Failure> {
        let query = deepgram_listen::query(endpoint, sound.rate, sound.law, true);
        let url = place(endpoint, "listen", query)?;
        let owned = endpoint.clone();
        Ok(DeepgramEars {
            sound,
            key: endpoint.api_key.clone(),
            timeout: Duration::from_millis(endpoint.timeout_ms),
            state: State::Connecting(Box::pin(async move { connect(&owned, &url).await })),
            queued: VecDeque::new(),
            queued_bytes: 0,
            listening: Listening::default(),
            sent: Instant::now(),
            timer: Box::pin(tokio::time::sleep(deepgram_listen::KEEP_ALIVE_EVERY)),
        })
    }

    pub fn begin(&mut self) {
        self.listening.begin();
    }

    pub fn push(&mut self, samples: &[i16]) {
        let bytes: Bytes = match self.sound.law {
            Some(law) => {
                let mut bytes = Vec::with_capacity(samples.len());
                g711::encode(law, samples, &mut bytes);
                bytes.into()
            }
            None => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<_>>().into(),
        };
        self.listening.handle_sent(samples.len() as f64 / f64::from(self.sound.rate.max(1)));
        self.send(Frame::Binary(bytes));
    }

    /// The turn is over; `discarded`: its text is not wanted.
    pub fn commit(&mut self, discarded: bool) -> Result<(), Failure> {
        self.send(Frame::Text(deepgram_listen::FINALIZE.into()));
        self.listening.commit(Instant::now(), discarded)
    }

    fn send(&mut self, frame: Frame) {
        self.sent = Instant::now();
        match &mut self.state {
            State::Open(socket) => {
                // A socket that takes no more says so when it is polled.
                socket.send(frame);
            }
            State::Connecting(_) => {
                self.queued_bytes += match &frame {
                    Frame::Binary(bytes) => bytes.len(),
                    Frame::Text(text) => text.len(),
                };
                self.queued.push_back(frame);
            }
        }
    }

    /// What it heard next; after a failure it is of no more use.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Heard, Failure>> {
        loop {
            if let Some(heard) = self.listening.poll() {
                return Poll::Ready(Ok(heard));
            }
            match &mut self.state {
                State::Connecting(work) => match work.as_mut().poll(context) {
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                    Poll::Ready(Ok(mut socket)) => {
                        for frame in self.queued.drain(..) {
                            socket.send(frame);
                        }
                        self.state = State::Open(Box::new(socket));
                        continue;
                    }
                    Poll::Pending if self.queued_bytes > QUEUED_MAX => return Poll::Ready(Err(Failure::Cut)),
                    Poll::Pending => {}
                },
                State::Open(socket) => {
                    let frame = pin!(socket.next()).poll(context);
                    match frame {
                        Poll::Ready(Ok(Frame::Text(text))) => {
                            self.listening.handle_text(Instant::now(), &text, &self.key)?;
                            continue;
                        }
                        Poll::Ready(Ok(Frame::Binary(_))) => continue,
                        Poll::Ready(Err(ended)) => return Poll::Ready(Err(ended.failure())),
                        Poll::Pending => {}
                    }
                }
            }
            if self.poll_time(context)?.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// `Ready`: something is due.
    fn poll_time(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, Failure> {
        let now = Instant::now();
        self.listening.handle_time(now, self.timeout)?;
        let mut wake = self.sent + deepgram_listen::KEEP_ALIVE_EVERY;
        if wake <= now {
            self.send(Frame::Text(deepgram_listen::KEEP_ALIVE.into()));
            return Ok(Poll::Ready(()));
        }
        wake = self.listening.wake_at(self.timeout).map_or(wake, |at| at.min(wake));
        self.timer.as_mut().reset(wake.into());
        Ok(self.timer.as_mut().poll(context))
    }
}
