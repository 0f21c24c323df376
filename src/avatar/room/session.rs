//! Driver: one session of an avatar in a room. It begins the vendor's worker and joins at the same time, sends speech as
//! streams of bytes, and asks and answers the procedures of both sides.
//!
//! Nothing runs by itself: [`RoomSession::poll_next`] does all of it.
#![expect(clippy::disallowed_methods, reason = "Driver: the clock of a session")]

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::Sleep;

use super::RoomSettings;
use super::rest::Rest;
use super::turns::Turns;
use crate::avatar::livekit::packet::{ByteStream, Inward, RpcFailure, code};
use crate::avatar::livekit::{RoomEvent, RoomLink, RoomTerms};
use crate::avatar::uplink::{Up, Uplink};
use crate::avatar::{AvatarEvent, Cause, Farewell, Limits, Lost, Session, Terms, Turn};
use crate::remote::failure::Failure;

const SPEECH: &str = "lk.audio_stream";
const CLEAR: &str = "lk.clear_buffer";
const STARTED: &str = "lk.playback_started";
const FINISHED: &str = "lk.playback_finished";
/// Everything of a farewell.
const FAREWELL: Duration = Duration::from_secs(4);
/// An end that comes is told so long before.
const WARNING: Duration = Duration::from_secs(15);
/// Speech goes up in pieces of so many bytes at most: half a second at 24 kHz.
const SPOKEN: usize = 24_000;

/// A session.
pub struct RoomSession {
    limits: Limits,
    listener: String,
    avatar: String,
    rest: Arc<Rest>,
    starting: Option<BoxFuture<'static, Result<String, Failure>>>,
    session: Option<String>,
    link: RoomLink,
    uplink: Uplink,
    turns: Turns,
    stream: Option<(Turn, ByteStream)>,
    /// The worker is in the room, and its picture came.
    here: bool,
    seen: bool,
    ready: bool,
    ready_by: Instant,
    begun: Option<Instant>,
    warned: bool,
    events: VecDeque<AvatarEvent>,
    ending: Option<Ending>,
    over: bool,
    timer: Pin<Box<Sleep>>,
}

struct Ending {
    stopping: Option<BoxFuture<'static, bool>>,
    /// The provider knows it no more.
    stopped: bool,
    link_closed: bool,
    until: Instant,
}

impl RoomSession {
    pub(super) fn open(
        settings: &RoomSettings,
        limits: Limits,
        rest: Rest,
        token: &str,
        terms: &Terms,
    ) -> Self {
        let now = Instant::now();
        let rest = Arc::new(rest);
        let starter = rest.clone();
        // Whatever is begun in it, the worker does not outlive the room.
        let asked = AvatarEvent::Asked { session: format!("{}/", rest.room()) };
        let room = RoomTerms {
            // A worker codes as it likes.
            codecs: terms.showable(),
            publishes: true,
            ..RoomTerms::new(&settings.livekit_url, token, settings.avatar_identity())
        };
        RoomSession {
            uplink: Uplink::new(&Limits { largest_piece: SPOKEN, ..limits.clone() }),
            turns: Turns::new(settings.clear_within),
            ready_by: now + limits.ready_within,
            limits,
            listener: settings.listener().to_owned(),
            avatar: settings.avatar_identity().to_owned(),
            rest,
            starting: Some(Box::pin(async move { starter.start().await })),
            session: None,
            link: RoomLink::open(room),
            stream: None,
            here: false,
            seen: false,
            ready: false,
            begun: None,
            warned: false,
            events: VecDeque::from([asked]),
            ending: None,
            over: false,
            timer: Box::pin(tokio::time::sleep_until(now.into())),
        }
    }

    /// The end, of which `lost` tells why where nobody asked for it. What the vendor counts is stopped in every case: a
    /// request to begin that is not answered yet may have been heard.
    fn finish(&mut self, lost: Option<Lost>) {
        if self.ending.is_some() {
            return;
        }
        self.events.extend(lost.map(AvatarEvent::Lost));
        self.link.close();
        let (rest, session, starting) = (self.rest.clone(), self.session.clone(), self.starting.take());
        let stopping = Box::pin(async move {
            // A request to begin is let finish: what it begins can only be ended by its id.
            let (session, answered) = match (session, starting) {
                (None, Some(starting)) => match tokio::time::timeout(FAREWELL / 2, starting).await {
                    Ok(started) => (started.ok(), true),
                    Err(_) => (None, false),
                },
                (session, _) => (session, true),
            };
            rest.stop(session.as_deref()).await && answered
        });
        let until = Instant::now() + FAREWELL;
        self.ending = Some(Ending { stopping: Some(stopping), stopped: false, link_closed: false, until });
    }

    fn lose(&mut self, cause: Cause, why: &str) {
        self.finish(Some(Lost::new(cause, why)));
    }

    fn poll_start(&mut self, context: &mut Context<'_>) {
        let Some(starting) = &mut self.starting else { return };
        let Poll::Ready(started) = starting.as_mut().poll(context) else { return };
        self.starting = None;
        match started {
            Ok(session) => {
                self.begun = Some(Instant::now());
                self.events
                    .push_back(AvatarEvent::Opened { session: format!("{}/{session}", self.rest.room()) });
                self.session = Some(session);
            }
            Err(failure) => self.finish(Some(Lost::of(&failure))),
        }
    }

    fn room_told(&mut self, event: RoomEvent) {
        if let Some(ending) = &mut self.ending {
            ending.link_closed |= matches!(event, RoomEvent::Closed);
            return;
        }
        match event {
            RoomEvent::Joined { .. } | RoomEvent::Publishing => {}
            RoomEvent::Rejoining { why } => {
                self.stream = None;
                self.events.push_back(AvatarEvent::Warning(format!("the room is entered again: {why}")));
            }
            RoomEvent::Here { is_avatar: true, video, .. } => self.here |= video,
            RoomEvent::Gone { is_avatar: true, .. } => {
                self.lose(Cause::Connection, "the avatar left the room");
            }
            RoomEvent::Here { .. } | RoomEvent::Gone { .. } => {}
            RoomEvent::Seen => self.seen = true,
            RoomEvent::Media(event) => {
                if let AvatarEvent::Sound { samples, .. } = &event {
                    self.events.extend(self.turns.heard(samples));
                }
                self.events.push_back(event);
            }
            RoomEvent::Packet(inward) => self.packet(inward),
            RoomEvent::Lost(lost) => self.finish(Some(lost)),
            RoomEvent::Closed => self.lose(Cause::Connection, "the room was left"),
        }
    }

    fn packet(&mut self, inward: Inward) {
        match inward {
            Inward::Call { id, from, method, payload } => {
                let theirs = from == self.avatar || from == self.listener;
                let told = match method.as_str() {
                    STARTED if theirs => self.turns.told_started().into_iter().collect(),
                    FINISHED if theirs => {
                        let report: Value = serde_json::from_str(&payload).unwrap_or_default();
                        let interrupted = report.get("interrupted").and_then(Value::as_bool);
                        self.turns.told_finished(interrupted.unwrap_or(false))
                    }
                    _ => {
                        let message = "no such method".to_owned();
                        let failure = RpcFailure { code: code::UNSUPPORTED_METHOD, message };
                        return self.link.answer(&from, &id, Err(failure));
                    }
                };
                self.link.answer(&from, &id, Ok("ok".to_owned()));
                self.events.extend(told);
            }
            // Whether it was cleared is told by `playback_finished`, or by the clock.
            Inward::Answer { .. } | Inward::Data { .. } => {}
        }
    }

    /// What the clock brings.
    fn handle_time(&mut self, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        self.events.extend(self.turns.handle_time(now));
        let mut said = Vec::new();
        self.uplink.handle_time(now, |up| said.push(up));
        self.send(said);
        if !self.ready && self.here && self.seen && self.session.is_some() && self.link.is_publishing() {
            self.ready = true;
            self.events.push_back(AvatarEvent::Ready);
        }
        if !self.ready && now >= self.ready_by {
            let why =
                if self.here { "no picture of the avatar comes" } else { "no avatar came into the room" };
            return self.lose(Cause::Connection, why);
        }
        let Some(end) = self.time_out() else { return };
        if now >= end {
            self.lose(Cause::Over, "the session's time is over");
        } else if !self.warned && now + WARNING >= end {
            self.warned = true;
            self.events.push_back(AvatarEvent::NearLimit { left: end - now });
        }
    }

    /// When its time is over.
    fn time_out(&self) -> Option<Instant> {
        Some(self.begun? + self.limits.longest?)
    }

    fn wake_at(&self) -> Option<Instant> {
        if let Some(ending) = &self.ending {
            return Some(ending.until);
        }
        let ready = (!self.ready).then_some(self.ready_by);
        let early = if self.warned { Duration::ZERO } else { WARNING };
        let end = self.time_out().map(|end| end.checked_sub(early).unwrap_or(end));
        [ready, end, self.turns.wake_at(), self.uplink.wake_at()].into_iter().flatten().min()
    }

    fn send(&mut self, said: Vec<Up>) {
        for up in said {
            match up {
                Up::Piece { turn, samples } => self.send_piece(turn, &samples),
                Up::End { turn } => {
                    if let Some((_, stream)) = self.stream.take_if(|(own, _)| *own == turn) {
                        self.link.close_stream(stream);
                    }
                }
            }
        }
    }

    fn send_piece(&mut self, turn: Turn, samples: &[i16]) {
        if !self.link.is_publishing() {
            return;
        }
        if self.stream.as_ref().is_none_or(|(own, _)| *own != turn) {
            if let Some((_, before)) = self.stream.take() {
                self.link.close_stream(before);
            }
            let attributes =
                [("sample_rate", self.limits.rate.to_string()), ("num_channels", "1".to_owned())];
            self.stream = Some((turn, self.link.open_stream(&self.listener, SPEECH, &attributes)));
            self.turns.given(turn);
        }
        if let Some((_, stream)) = &mut self.stream {
            let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            self.link.write(stream, &bytes);
        }
    }

    fn poll_ending(&mut self, context: &mut Context<'_>) -> Option<AvatarEvent> {
        let ending = self.ending.as_mut()?;
        if let Some(stopping) = &mut ending.stopping
            && let Poll::Ready(stopped) = stopping.as_mut().poll(context)
        {
            ending.stopped = stopped;
            ending.stopping = None;
        }
        let over = (ending.stopping.is_none() && ending.link_closed) || Instant::now() >= ending.until;
        over.then_some(AvatarEvent::Closed { ended: ending.stopped })
    }
}

impl Session for RoomSession {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            if self.over {
                return Poll::Pending;
            }
            self.poll_start(context);
            let told = self.link.poll_next(context);
            let more = told.is_ready();
            if let Poll::Ready(event) = told {
                self.room_told(event);
            }
            self.handle_time(Instant::now());
            if let Some(closed) = self.poll_ending(context) {
                self.over = true;
                self.events.push_back(closed);
            }
            if more || !self.events.is_empty() {
                continue;
            }
            let Some(wake) = self.wake_at() else { return Poll::Pending };
            self.timer.as_mut().reset(wake.into());
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn speak(&mut self, turn: Turn, samples: &[i16]) {
        if !self.ready || self.ending.is_some() {
            return;
        }
        let mut said = Vec::new();
        self.uplink.speak(Instant::now(), turn, samples, |up| said.push(up));
        self.send(said);
    }

    fn end(&mut self, turn: Turn) {
        let mut said = Vec::new();
        self.uplink.end(turn, |up| said.push(up));
        self.send(said);
    }

    fn interrupt(&mut self, turn: Turn) {
        if self.ending.is_some() {
            return;
        }
        self.uplink.cut(turn);
        if let Some((_, stream)) = self.stream.take_if(|(own, _)| *own <= turn) {
            self.link.cut_stream(stream);
        }
        self.link.flush();
        self.events.retain(|event| !matches!(event, AvatarEvent::Sound { .. }));
        if self.turns.interrupt(Instant::now(), turn) {
            self.link.call(&self.listener, CLEAR, "", Duration::from_secs(10));
        } else if self.turns.wake_at().is_none() {
            self.events.push_back(AvatarEvent::Hushed);
        }
    }

    fn want_key_picture(&mut self) {
        self.link.want_key_picture();
    }

    fn close(&mut self, _farewell: Farewell) {
        self.finish(None);
    }
}
