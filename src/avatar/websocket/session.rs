//! Driver. One session with an avatar on the local network: asks, connects, carries a machine, says farewell.

#![expect(clippy::disallowed_methods, reason = "the machine's time is read here")]

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::machine::{Act, Beginning, Machine};
use super::raw::Raw;
use super::timed::Timed;
use super::{Protocol, WebSocketSettings};
use crate::avatar::lifetime::{Hour, Lifetime};
use crate::avatar::{AvatarEvent, Cause, Farewell, Limits, Lost, Session, Terms, Turn};
use crate::remote::address::{below, with_scheme};
use crate::remote::failure::Failure;
use crate::remote::http::{self, Http};
use crate::remote::websocket::{Ended, WebSocket};

/// How long a server has for its answer to a request, but for the first.
const ASKED: Duration = Duration::from_secs(3);
/// A farewell may take so long, all of it.
const FAREWELL: Duration = Duration::from_secs(4);
/// Of a picture of the face at rest.
const IDLE_MOST: usize = 8 << 20;

/// Connecting, and what was learnt of it.
type Opening = BoxFuture<'static, Result<(WebSocket, Beginning), Failure>>;

enum State {
    Opening(Opening),
    Open(Box<WebSocket>),
    /// The farewell is said; its answer is waited for.
    Leaving(Box<WebSocket>),
    /// The server is asked to end the session.
    Ending(BoxFuture<'static, bool>),
    Gone,
}

/// See the module.
pub struct WebSocketSession {
    machine: Box<dyn Machine>,
    state: State,
    protocol: Protocol,
    http: Http,
    root: Url,
    key: String,
    ready_by: Option<Instant>,
    life: Lifetime,
    longest: Option<Duration>,
    /// The farewell is over by then.
    closing: Option<Instant>,
    closed: bool,
    timer: Pin<Box<Sleep>>,
}

impl WebSocketSession {
    pub fn open(settings: &WebSocketSettings, root: &Url, http: &Http, terms: Terms) -> Self {
        let now = Instant::now();
        let (http, root, key) = (http.clone(), root.clone(), settings.api_key.clone());
        let (machine, opening): (Box<dyn Machine>, Opening) = match settings.protocol {
            Protocol::Raw => {
                let limits = Raw::limits(settings.rate, settings.ready_within, settings.longest);
                let machine = Raw::new(limits, settings.answer_within);
                (Box::new(machine), begin(settings.clone(), root.clone(), http.clone(), terms).boxed())
            }
            Protocol::Timed => {
                let opening = connect(root.clone(), key.clone(), Beginning::default());
                (Box::new(Timed::new(now, terms, settings.clone())), opening.boxed())
            }
        };
        WebSocketSession {
            machine,
            state: State::Opening(opening),
            protocol: settings.protocol,
            http,
            root,
            key,
            ready_by: Some(now + settings.ready_within),
            life: Lifetime::default(),
            longest: settings.longest,
            closing: None,
            closed: false,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// Ends the session at the server, as far as that has to be asked for.
    fn fall(&mut self) {
        self.ready_by = None;
        self.life = Lifetime::default();
        self.state = match self.protocol {
            Protocol::Raw => State::Ending(stop(self.http.clone(), self.root.clone(), self.key.clone())),
            Protocol::Timed => State::Gone,
        };
    }

    fn lose(&mut self, lost: Lost) -> AvatarEvent {
        self.fall();
        AvatarEvent::Lost(lost)
    }

    /// Does what the machine wants, up to the next event.
    fn carry(&mut self, now: Instant) -> Option<AvatarEvent> {
        while let Some(act) = self.machine.next_act() {
            let event = match act {
                Act::Send(frame) => {
                    if let State::Open(socket) = &mut self.state {
                        // A connection that takes nothing says so when it is polled.
                        socket.send(frame);
                    }
                    continue;
                }
                Act::Left(left) => {
                    self.life.left(now, left);
                    continue;
                }
                Act::Tell(event) => event,
            };
            if self.closing.is_some() {
                continue;
            }
            if let AvatarEvent::Opened { .. } = event {
                self.life = Lifetime::new(now, self.longest);
            } else if let AvatarEvent::Ready = event {
                self.ready_by = None;
            } else if let AvatarEvent::Lost(_) = event {
                self.fall();
            }
            return Some(event);
        }
        None
    }

    /// What the time brings.
    fn hour(&mut self, now: Instant) -> Option<AvatarEvent> {
        if self.closing.is_some_and(|by| by <= now) {
            self.state = State::Gone;
            return None;
        }
        if self.ready_by.is_some_and(|by| by <= now) {
            let waited = self.machine.limits().ready_within.as_millis();
            return Some(self.lose(Lost::new(Cause::Connection, format!("not ready within {waited} ms"))));
        }
        match self.life.handle_time(now) {
            Some(Hour::Near { left }) => return Some(AvatarEvent::NearLimit { left }),
            Some(Hour::Over) => return Some(self.lose(Lost::new(Cause::Over, "its time is over"))),
            None => {}
        }
        if matches!(self.state, State::Open(_)) && self.machine.wake_at().is_some_and(|at| at <= now) {
            self.machine.handle_time(now);
        }
        None
    }

    /// `Ready`: something happened.
    fn poll_state(&mut self, context: &mut Context<'_>, now: Instant) -> Poll<Option<AvatarEvent>> {
        match &mut self.state {
            State::Opening(opening) => match ready!(opening.poll_unpin(context)) {
                Ok((socket, beginning)) => {
                    self.state = State::Open(Box::new(socket));
                    self.machine.handle_open(now, beginning);
                }
                Err(failure) => return Poll::Ready(Some(self.lose(Lost::of(&failure)))),
            },
            State::Open(socket) => match ready!(socket.poll_next(context)) {
                Ok(frame) => self.machine.handle_frame(now, frame),
                Err(ended) => {
                    let lost = lost(&ended);
                    return Poll::Ready(Some(self.lose(lost)));
                }
            },
            State::Leaving(socket) => {
                if ready!(socket.poll_next(context)).is_err() {
                    self.fall();
                }
            }
            State::Ending(ending) => {
                ready!(ending.poll_unpin(context));
                self.state = State::Gone;
            }
            State::Gone => return Poll::Pending,
        }
        Poll::Ready(None)
    }

    fn wake_at(&self) -> Option<Instant> {
        let machine = match self.state {
            State::Open(_) => self.machine.wake_at(),
            State::Opening(_) | State::Leaving(_) | State::Ending(_) | State::Gone => None,
        };
        [machine, self.ready_by, self.life.wake_at(), self.closing].into_iter().flatten().min()
    }
}

impl Session for WebSocketSession {
    fn limits(&self) -> &Limits {
        self.machine.limits()
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        loop {
            let now = Instant::now();
            if let Some(event) = self.carry(now).or_else(|| self.hour(now)).or_else(|| self.carry(now)) {
                return Poll::Ready(event);
            }
            match self.poll_state(context, now) {
                Poll::Ready(Some(event)) if self.closing.is_none() => return Poll::Ready(event),
                Poll::Ready(_) => continue,
                Poll::Pending => {}
            }
            if matches!(self.state, State::Gone) && self.closing.is_some() && !self.closed {
                self.closed = true;
                return Poll::Ready(AvatarEvent::Closed { ended: true });
            }
            match self.wake_at().filter(|_| !self.closed) {
                None => return Poll::Pending,
                Some(at) => self.timer.as_mut().reset(at.into()),
            }
            ready!(self.timer.poll_unpin(context));
        }
    }

    fn speak(&mut self, turn: Turn, samples: &[i16]) {
        self.machine.speak(Instant::now(), turn, samples);
    }

    fn end(&mut self, turn: Turn) {
        self.machine.end(turn);
    }

    fn interrupt(&mut self, turn: Turn) {
        self.machine.interrupt(turn);
    }

    fn listening(&mut self, listening: bool) {
        self.machine.listening(listening);
    }

    fn want_key_picture(&mut self) {
        self.machine.want_key_picture();
    }

    fn close(&mut self, farewell: Farewell) {
        if self.closing.is_some() {
            return;
        }
        let now = Instant::now();
        self.closing = Some(now + FAREWELL);
        self.ready_by = None;
        self.life = Lifetime::default();
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Open(socket) => {
                self.machine.leave(farewell);
                self.state = State::Open(socket);
                self.carry(now);
                let State::Open(mut socket) = std::mem::replace(&mut self.state, State::Gone) else { return };
                socket.close();
                self.state = State::Leaving(socket);
            }
            State::Opening(_) => self.fall(),
            state @ (State::Leaving(_) | State::Ending(_) | State::Gone) => self.state = state,
        }
    }
}

/// What the end of a connection means.
fn lost(ended: &Ended) -> Lost {
    let cause = match ended {
        Ended::Closed { code: 1000 | 1001, .. } => Cause::Over,
        Ended::Closed { .. } | Ended::Cut(_) | Ended::Silent(_) | Ended::Stuck => {
            return Lost::of(&ended.failure());
        }
    };
    Lost::new(cause, ended.to_string())
}

async fn connect(url: Url, key: String, beginning: Beginning) -> Result<(WebSocket, Beginning), Failure> {
    let bearer = format!("Bearer {key}");
    let headers = if key.is_empty() { vec![] } else { vec![("authorization", bearer.as_str())] };
    let url = with_scheme(url, true);
    let socket = WebSocket::connect(url.as_str(), &headers, &Default::default()).await?;
    Ok((socket, beginning))
}

/// `raw`: the session is begun, the face at rest is fetched, then the way for sound is opened.
async fn begin(
    settings: WebSocketSettings,
    root: Url,
    http: Http,
    terms: Terms,
) -> Result<(WebSocket, Beginning), Failure> {
    let (key, size) = (&settings.api_key, settings.size_within(terms.most));
    let asked = json!({
        "reference_image": STANDARD.encode(&settings.image),
        "width": size.width,
        "height": size.height,
        "sample_rate": settings.rate,
    });
    let patience = settings.ready_within.as_millis() as u64;
    let request = http.post(below(&root, "", "start"))?.json(&asked);
    let mut reply = http::send(patience, key, bearing(request, key)).await?;
    let body = http::whole(&mut reply, 1 << 16).await?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let fps = answer["fps"].as_f64().map_or(0, |fps| fps.round() as u32);
    let idle = idle(&root, &http, key).await.unwrap_or_default();
    let beginning =
        Beginning { session: root.host_str().unwrap_or("raw").to_owned(), fps, idle: idle.into() };
    connect(below(&root, "", "ws/stream"), key.clone(), beginning).await
}

/// A server without one is no failure.
async fn idle(root: &Url, http: &Http, key: &str) -> Result<Vec<u8>, Failure> {
    let request = http.get(below(root, "", "idle_frame"))?;
    let mut reply = http::send(ASKED.as_millis() as u64, key, bearing(request, key)).await?;
    http::whole(&mut reply, IDLE_MOST).await
}

/// `raw`: ends what the server does for us; whether that is certain.
pub fn stop(http: Http, root: Url, key: String) -> BoxFuture<'static, bool> {
    async move {
        let Ok(request) = http.post(below(&root, "", "stop")) else { return false };
        http::send(ASKED.as_millis() as u64, &key, bearing(request, &key)).await.is_ok()
    }
    .boxed()
}

fn bearing(request: reqwest::RequestBuilder, key: &str) -> reqwest::RequestBuilder {
    if key.is_empty() { request } else { request.bearer_auth(key) }
}
