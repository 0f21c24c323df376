//! Driver. One session with LiveAvatar: token, start, the command channel and the room side by side, stop in every case.
//!
//! Whatever was begun is ended: also a start whose answer never came, or that is still on its way when the call is over.

#![expect(clippy::disallowed_methods, reason = "the machine's time is read here")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::{RequestBuilder, Url};
use serde_json::{Value, json};
use tokio::time::Sleep;

use super::commands::{Act, Commands};
use super::rest::{self, Pass, Places};
use super::{LiveAvatarSettings, limits};
use crate::avatar::lifetime::{Hour, Lifetime};
use crate::avatar::livekit::{RoomEvent, RoomLink, RoomTerms};
use crate::avatar::{AvatarEvent, Cause, Farewell, Limits, Lost, Session, Terms, Turn};
use crate::media::access_unit::VideoCodec;
use crate::remote::address::below;
use crate::remote::failure::Failure;
use crate::remote::http::{self, Http};
use crate::remote::websocket::{Frame, WebSocket, WebSocketSettings};

/// Who speaks in the vendor's rooms.
const IDENTITY: &str = "heygen";
/// An answer to a request, but for the start's.
const ASKED: Duration = Duration::from_secs(8);
const STARTED: Duration = Duration::from_secs(25);
/// A start that is on its way when the session is to end gets so long.
const START_LEFT: Duration = Duration::from_millis(1_500);
const STOPPED: Duration = Duration::from_millis(1_200);
/// A stop that failed is tried once more after.
const STOP_AGAIN: Duration = Duration::from_millis(200);
const FAREWELL: Duration = Duration::from_millis(4_700);
const BODY_MOST: usize = 1 << 20;
/// The service falls silent at the end of its time without a word: ours is over before.
const EARLY: Duration = Duration::from_secs(15);

/// The operator's account.
#[derive(Clone)]
pub struct Account {
    pub http: Http,
    pub root: Url,
    pub key: String,
}

impl Account {
    async fn answer(
        &self,
        within: Duration,
        request: RequestBuilder,
        secret: &str,
    ) -> Result<Value, Failure> {
        let mut reply = http::send(within.as_millis() as u64, secret, request).await?;
        let body = http::whole(&mut reply, BODY_MOST).await?;
        serde_json::from_slice(&body).map_err(|_| Failure::Garbled("no JSON".to_owned()))
    }

    fn keyed(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("x-api-key", &self.key)
    }

    async fn token(self, asked: Value) -> Result<Pass, Failure> {
        let request = self.http.post(below(&self.root, "v1", "sessions/token"))?.json(&asked);
        let body = self.answer(ASKED, self.keyed(request), &self.key).await?;
        rest::read_token(&body).ok_or_else(|| Failure::Garbled("a token without a session".to_owned()))
    }

    async fn start(self, pass: Pass) -> Result<Places, Failure> {
        let request = self.http.post(below(&self.root, "v1", "sessions/start"))?.json(&json!({}));
        let body = self.answer(STARTED, request.bearer_auth(&pass.token), &pass.token).await?;
        rest::read_start(&body).map_err(|lacks| Failure::Garbled(format!("a start without {lacks}")))
    }

    /// Ends a session; `true`: it is over, or there is none.
    async fn stop(&self, session: &str, reason: &str) -> bool {
        for again in [false, true] {
            if again {
                tokio::time::sleep(STOP_AGAIN).await;
            }
            let Ok(request) = self.http.post(below(&self.root, "v1", "sessions/stop")) else { return false };
            let request = self.keyed(request.json(&rest::stop(session, reason)));
            match http::send(STOPPED.as_millis() as u64, &self.key, request).await {
                Ok(_) | Err(Failure::Refused { status: 404 | 410, .. }) => return true,
                Err(Failure::Refused { .. }) => return false,
                Err(_) => {}
            }
        }
        false
    }

    pub async fn reap(&self, session: &str) -> bool {
        let mut list = below(&self.root, "v1", "sessions");
        list.set_query(Some("type=active"));
        if let Ok(request) = self.http.get(list)
            && let Ok(body) = self.answer(ASKED, self.keyed(request), &self.key).await
            && rest::lists(&body, session) == Some(false)
        {
            return true;
        }
        self.stop(session, "ZOMBIE_SESSION_REAP").await
    }
}

enum State {
    Asking(BoxFuture<'static, Result<Pass, Failure>>),
    Starting(BoxFuture<'static, Result<Places, Failure>>),
    Running,
    /// The vendor is asked to stop it; room and channel say farewell meanwhile.
    Ending(BoxFuture<'static, bool>),
    Gone,
}

enum Line {
    None,
    Opening(BoxFuture<'static, Result<WebSocket, Failure>>),
    Open(Box<WebSocket>),
}

/// See the module.
pub struct LiveAvatarSession {
    account: Account,
    limits: Limits,
    codecs: Vec<VideoCodec>,
    commands: Commands,
    state: State,
    /// Its id, once there is something to stop.
    session: Option<String>,
    line: Line,
    room: Option<RoomLink>,
    /// Something came of the avatar.
    flows: bool,
    ready: bool,
    ready_by: Option<Instant>,
    life: Lifetime,
    lost: bool,
    closing: Option<Instant>,
    closed: bool,
    /// The vendor has nothing to stop, or has stopped it.
    ended: bool,
    events: VecDeque<AvatarEvent>,
    timer: Pin<Box<Sleep>>,
}

impl LiveAvatarSession {
    pub fn open(settings: LiveAvatarSettings, account: Account, terms: Terms) -> Self {
        let limits = Limits { ready_within: settings.ready_within, ..limits(settings.longest()) };
        let asking = account.clone().token(rest::token(&settings, &terms)).boxed();
        let codecs = if terms.codecs.is_empty() { vec![] } else { vec![rest::encoding(&settings, &terms)] };
        LiveAvatarSession {
            account,
            commands: Commands::new(&limits),
            codecs,
            state: State::Asking(asking),
            session: None,
            line: Line::None,
            room: None,
            flows: false,
            ready: false,
            ready_by: Some(Instant::now() + limits.ready_within),
            limits,
            life: Lifetime::default(),
            lost: false,
            closing: None,
            closed: false,
            ended: true,
            events: VecDeque::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    fn lose(&mut self, lost: Lost) {
        if self.lost || self.closing.is_some() {
            return;
        }
        self.lost = true;
        let reason = if lost.cause == Cause::Over { Farewell::Limit } else { Farewell::Broken };
        self.events.push_back(AvatarEvent::Lost(lost));
        self.finish(reason);
    }

    /// Leaves the room and the channel, and has the vendor stop what was begun.
    fn finish(&mut self, farewell: Farewell) {
        (self.ready_by, self.life) = (None, Lifetime::default());
        if let Some(room) = &mut self.room {
            room.close();
        }
        self.line = match std::mem::replace(&mut self.line, Line::None) {
            Line::Open(mut socket) => {
                socket.close();
                Line::Open(socket)
            }
            Line::None | Line::Opening(_) => Line::None,
        };
        let before = std::mem::replace(&mut self.state, State::Gone);
        let Some(session) = self.session.clone() else { return };
        let (account, reason) = (self.account.clone(), rest::reason(farewell));
        self.state = match before {
            State::Asking(_) | State::Running => {
                State::Ending(async move { account.stop(&session, reason).await }.boxed())
            }
            // Stopped before it was started, it would begin to count after.
            State::Starting(starting) => State::Ending(
                async move {
                    let _ = tokio::time::timeout(START_LEFT, starting).await;
                    account.stop(&session, reason).await
                }
                .boxed(),
            ),
            state @ (State::Ending(_) | State::Gone) => state,
        };
    }

    fn begin(&mut self, now: Instant, places: Places) {
        self.limits.longest = [self.limits.longest, places.longest].into_iter().flatten().min();
        let ours = self.limits.longest.map(|longest| longest - EARLY.min(longest / 4));
        self.life = Lifetime::new(now, ours);
        let mut terms = RoomTerms::new(&places.room, &places.token, IDENTITY);
        terms.codecs.clone_from(&self.codecs);
        self.room = Some(RoomLink::open(terms));
        // The service answers pings late: its own keep-alive and the connection itself have to do.
        let day = Duration::from_secs(86_400);
        let settings =
            WebSocketSettings { ping_after: day, silent_after: 2 * day, ..WebSocketSettings::default() };
        let opening = async move { WebSocket::connect(&places.commands, &[], &settings).await };
        self.line = Line::Opening(opening.boxed());
        self.state = State::Running;
    }

    fn poll_state(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        match &mut self.state {
            State::Asking(asking) => match asking.poll_unpin(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(pass)) => {
                    self.session = Some(pass.session.clone());
                    self.events.push_back(AvatarEvent::Opened { session: pass.session.clone() });
                    self.state = State::Starting(self.account.clone().start(pass).boxed());
                }
                Poll::Ready(Err(failure)) => self.lose(Lost::of(&failure)),
            },
            State::Starting(starting) => match starting.poll_unpin(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(places)) => self.begin(now, places),
                Poll::Ready(Err(failure)) => {
                    // Its answer came; what it began is stopped all the same.
                    self.state = State::Running;
                    self.lose(Lost::of(&failure));
                }
            },
            State::Ending(ending) => match ending.poll_unpin(context) {
                Poll::Pending => return false,
                Poll::Ready(stopped) => (self.state, self.ended) = (State::Gone, stopped),
            },
            State::Running | State::Gone => return false,
        }
        true
    }

    fn poll_line(&mut self, context: &mut Context<'_>, now: Instant) -> bool {
        match &mut self.line {
            Line::None => false,
            Line::Opening(opening) => match opening.poll_unpin(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(socket)) => {
                    self.line = Line::Open(Box::new(socket));
                    true
                }
                Poll::Ready(Err(failure)) => {
                    self.line = Line::None;
                    self.lose(Lost::of(&failure));
                    true
                }
            },
            Line::Open(socket) => match socket.poll_next(context) {
                Poll::Pending => false,
                Poll::Ready(Ok(Frame::Text(text))) => {
                    self.commands.handle_text(now, &text);
                    true
                }
                Poll::Ready(Ok(Frame::Binary(_))) => true,
                Poll::Ready(Err(ended)) => {
                    self.line = Line::None;
                    self.lose(Lost::of(&ended.failure()));
                    true
                }
            },
        }
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> bool {
        let Some(room) = &mut self.room else { return false };
        let Poll::Ready(event) = room.poll_next(context) else { return false };
        match event {
            RoomEvent::Media(event) => {
                self.flows |= matches!(event, AvatarEvent::Sound { .. } | AvatarEvent::Picture { .. });
                self.push(event);
            }
            RoomEvent::Rejoining { why } => {
                self.push(AvatarEvent::Warning(format!("the avatar's room is entered again: {why}")));
            }
            RoomEvent::Lost(lost) => self.lose(lost),
            RoomEvent::Closed => self.room = None,
            RoomEvent::Gone { is_avatar: true, .. } => {
                self.lose(Lost::new(Cause::Connection, "the avatar left its room"));
            }
            RoomEvent::Joined { .. }
            | RoomEvent::Here { .. }
            | RoomEvent::Gone { .. }
            | RoomEvent::Publishing
            | RoomEvent::Seen
            | RoomEvent::Packet(_) => {}
        }
        true
    }

    fn push(&mut self, event: AvatarEvent) {
        if !self.lost && self.closing.is_none() {
            self.events.push_back(event);
        }
    }

    /// Sends what the channel's machine wants and tells what it noticed.
    fn carry(&mut self) {
        while let Some(act) = self.commands.next_act() {
            match act {
                Act::Send(text) => {
                    if let Line::Open(socket) = &mut self.line {
                        // A connection that takes nothing says so when it is polled.
                        socket.send(Frame::Text(text));
                    }
                }
                Act::Tell(AvatarEvent::Lost(lost)) => self.lose(lost),
                Act::Tell(event) => {
                    if let (AvatarEvent::Hushed, Some(room)) = (&event, &mut self.room) {
                        room.flush();
                    }
                    self.push(event);
                }
            }
        }
        if !self.ready && self.flows && self.commands.is_connected() {
            (self.ready, self.ready_by) = (true, None);
            self.push(AvatarEvent::Ready);
        }
    }

    fn handle_time(&mut self, now: Instant) {
        if self.closing.is_some_and(|by| by <= now) {
            (self.state, self.line, self.room) = (State::Gone, Line::None, None);
        }
        if self.ready_by.is_some_and(|by| by <= now) {
            let waited = self.limits.ready_within.as_millis();
            self.lose(Lost::new(Cause::Connection, format!("not ready within {waited} ms")));
        }
        match self.life.handle_time(now) {
            Some(Hour::Near { left }) => self.push(AvatarEvent::NearLimit { left }),
            Some(Hour::Over) => self.lose(Lost::new(Cause::Over, "its time is over")),
            None => {}
        }
        if matches!(self.state, State::Running) {
            self.commands.handle_time(now);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let running = matches!(self.state, State::Running);
        let commands = self.commands.wake_at().filter(|_| running);
        [commands, self.ready_by, self.life.wake_at(), self.closing].into_iter().flatten().min()
    }

    fn is_gone(&self) -> bool {
        matches!(self.state, State::Gone) && self.room.is_none()
    }
}

impl Session for LiveAvatarSession {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        loop {
            if self.closed {
                return Poll::Pending;
            }
            let now = Instant::now();
            self.handle_time(now);
            self.carry();
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let mut more = self.poll_state(context, now);
            more |= self.poll_line(context, now);
            more |= self.poll_room(context);
            self.carry();
            if more || !self.events.is_empty() {
                continue;
            }
            if self.closing.is_some() && self.is_gone() {
                self.closed = true;
                return Poll::Ready(AvatarEvent::Closed { ended: self.ended });
            }
            let Some(at) = self.wake_at() else { return Poll::Pending };
            self.timer.as_mut().reset(at.into());
            if self.timer.poll_unpin(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn speak(&mut self, turn: Turn, samples: &[i16]) {
        if self.ready {
            self.commands.speak(Instant::now(), turn, samples);
        }
    }

    fn end(&mut self, turn: Turn) {
        self.commands.end(turn);
    }

    fn interrupt(&mut self, turn: Turn) {
        self.commands.interrupt(Instant::now(), turn);
        if let Some(room) = &mut self.room {
            room.flush();
        }
    }

    fn listening(&mut self, listening: bool) {
        self.commands.listening(listening);
    }

    fn want_key_picture(&mut self) {
        if let Some(room) = &mut self.room {
            room.want_key_picture();
        }
    }

    fn close(&mut self, farewell: Farewell) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + FAREWELL);
        self.events.clear();
        if !self.lost {
            self.finish(farewell);
        }
    }
}
