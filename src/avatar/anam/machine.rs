//! One session: asked for, joined, spoken in, kept alive, ended.
//!
//! Pure. What it wants done it says in [`Act`]s; texts for the socket wait here, so that an interruption can take them
//! back. The peer connection's fate is in [`super::path`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::data::{self, Told, Transcripts};
use super::path::Path;
use super::rest::Admission;
use super::signal::{self, Candidate, Said};
use super::turns::Turns;
use super::{AnamSettings, Mode};
use crate::avatar::uplink::{Up, Uplink};
use crate::avatar::{AvatarEvent, Cause, Limits, Lost, Terms, Turn};
use crate::base::time::Clock;
use crate::media::access_unit::VideoCodec;
use crate::remote::failure::Failure;
use crate::remote::websocket::Ended;

/// How often a session is asked for where the network or the service stumbles.
const TRIES: u32 = 3;
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// Between two tries to open a lost socket, times the tries so far.
const REOPEN: Duration = Duration::from_millis(100);
/// A socket open so long has forgotten what was before.
const STABLE: Duration = Duration::from_secs(5);
/// Bytes of text that wait for the socket: two minutes of speech.
const OUTBOX_BYTES: usize = 8 << 20;
/// Texts that wait for the data channel.
const DATA_MAX: usize = 16;
/// A farewell may take so long: with the socket open, and where one must first be had.
const FAREWELL: Duration = Duration::from_millis(600);
const LONG_FAREWELL: Duration = Duration::from_secs(4);
const FAREWELL_AGAIN: Duration = Duration::from_millis(500);
/// The end of a session's time is told so long before it, and it is left so long before the engine leaves it.
const NEAR_LIMIT: Duration = Duration::from_secs(30);
const AHEAD_OF_LIMIT: Duration = Duration::from_secs(3);

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Ask for a session.
    Ask,
    /// Open the socket.
    Connect,
    /// Close the socket, with a farewell.
    Disconnect,
    /// A fresh peer connection in place of any other, and its offer.
    Offer {
        codecs: Vec<VideoCodec>,
    },
    /// An offer of new paths for the peer connection there is.
    Restart,
    Answer(String),
    Candidate(Candidate),
    /// Over the data channel.
    Data(String),
    ClosePeer,
}

/// The signalling socket.
#[derive(Debug, PartialEq)]
enum Link {
    Absent,
    Opening,
    Open { since: Instant },
    Waiting { until: Instant },
}

#[derive(Debug)]
enum Stage {
    Asking,
    Joining,
    Ready,
    /// Saying farewell.
    Leaving {
        until: Instant,
    },
    Over,
}

/// A text for the socket.
#[derive(Debug)]
struct Outgoing {
    text: String,
    kind: Kind,
}

#[derive(Debug, PartialEq)]
enum Kind {
    Sound(Turn),
    Offer,
    Other,
}

/// What happened, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that could not be read.
    pub malformed: u64,
    /// Pieces of our voice dropped: too much waited.
    pub dropped: u64,
    /// The socket was opened again.
    pub reopened: u64,
    /// ICE was restarted.
    pub restarts: u32,
}

/// One session.
#[derive(Debug)]
pub struct Machine {
    settings: AnamSettings,
    limits: Limits,
    clock: Clock,
    stage: Stage,
    /// Its loss was told: nothing but its end is.
    lost: bool,
    /// The call wants it no more, and waits for its end.
    closing: bool,
    /// The engine counts it no more, or never did.
    ended: bool,
    ready_by: Instant,
    tries: u32,
    ask_at: Option<Instant>,
    /// It is being asked for.
    asking: bool,
    admission: Option<Admission>,
    admitted_at: Instant,
    near_told: bool,
    link: Link,
    losses: u32,
    heartbeat_at: Option<Instant>,
    outbox: VecDeque<Outgoing>,
    outbox_bytes: usize,
    path: Path,
    session_ready: bool,
    channel: bool,
    data: VecDeque<String>,
    uplink: Uplink,
    /// Of the next piece of our voice within its turn.
    number: u32,
    /// Texts spoken with the engine's own voice.
    talks: u32,
    turns: Turns,
    transcripts: Transcripts,
    acts: VecDeque<Act>,
    events: VecDeque<AvatarEvent>,
    figures: Figures,
}

impl Machine {
    /// Begins by asking for a session.
    pub fn new(now: Instant, clock: Clock, settings: AnamSettings, terms: &Terms) -> Self {
        let limits = settings.limits();
        Machine {
            clock,
            stage: Stage::Asking,
            lost: false,
            closing: false,
            ended: false,
            ready_by: now + limits.ready_within,
            tries: 0,
            ask_at: None,
            asking: true,
            admission: None,
            admitted_at: now,
            near_told: false,
            link: Link::Absent,
            losses: 0,
            heartbeat_at: None,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            path: Path::new(settings.codec, &terms.codecs),
            session_ready: false,
            channel: false,
            data: VecDeque::new(),
            uplink: Uplink::new(&limits),
            number: 0,
            talks: 0,
            turns: Turns::new(settings.mode == Mode::Microphone),
            transcripts: Transcripts::default(),
            acts: VecDeque::from([Act::Ask]),
            events: VecDeque::new(),
            figures: Figures::default(),
            settings,
            limits,
        }
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    pub fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    pub fn figures(&self) -> Figures {
        Figures { restarts: self.path.restarts(), ..self.figures }
    }

    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<AvatarEvent> {
        self.events.pop_front()
    }

    /// The next text for the open socket.
    pub fn poll_text(&mut self, now: Instant) -> Option<String> {
        let Outgoing { text, kind } = self.outbox.pop_front()?;
        self.outbox_bytes -= text.len();
        if kind == Kind::Offer {
            self.path.offer_went(now);
        }
        if self.outbox.is_empty() && matches!(self.stage, Stage::Leaving { .. }) {
            self.acts.push_back(Act::Disconnect);
        }
        Some(text)
    }

    /// Whether what the caller says goes up now.
    pub fn hears(&self) -> bool {
        self.settings.mode == Mode::Microphone && matches!(self.stage, Stage::Ready)
    }

    fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Leaving { .. })
    }

    fn is_alive(&self) -> bool {
        matches!(self.stage, Stage::Joining | Stage::Ready)
    }

    fn tell(&mut self, event: AvatarEvent) {
        if !self.lost {
            self.events.push_back(event);
        }
    }

    fn queue(&mut self, kind: Kind, text: String) {
        self.outbox_bytes += text.len();
        self.outbox.push_back(Outgoing { text, kind });
    }

    /// A text with the session's id in it.
    fn queue_of(&mut self, kind: Kind, text: impl FnOnce(&str) -> String) {
        if let Some(admission) = &self.admission {
            let text = text(&admission.session);
            self.queue(kind, text);
        }
    }

    // How it begins.

    /// The session was given.
    pub fn handle_admitted(&mut self, now: Instant, admission: Admission) {
        self.asking = false;
        if matches!(self.stage, Stage::Over) {
            return;
        }
        self.tell(AvatarEvent::Opened { session: admission.handle() });
        self.admission = Some(admission);
        self.admitted_at = now;
        self.link = Link::Opening;
        self.acts.push_back(Act::Connect);
        if self.is_leaving() {
            // Nobody wants it any more, and it counts.
            self.queue_of(Kind::Other, signal::end);
            return;
        }
        self.stage = Stage::Joining;
        self.path.begin(&mut self.acts);
    }

    /// The session was not given.
    pub fn handle_refused(&mut self, now: Instant, failure: &Failure) {
        self.asking = false;
        if self.is_leaving() {
            return self.finish(true);
        }
        self.tries += 1;
        let stumbled = matches!(failure, Failure::Unreached(_) | Failure::Cut | Failure::Failed { .. });
        if stumbled && self.tries < TRIES {
            self.ask_at = Some(now + TRY_AGAIN * (1 << (self.tries - 1)));
        } else {
            self.lose(now, Lost::of(failure));
        }
    }

    // The socket.

    pub fn handle_open(&mut self, now: Instant) {
        self.link = Link::Open { since: now };
        if self.is_leaving() {
            return;
        }
        self.heartbeat_at = self.admission.as_ref().map(|admission| now + admission.heartbeat);
        if self.losses > 0 {
            self.figures.reopened += 1;
            self.path.signalling_again(&mut self.acts);
        }
    }

    /// It did not open.
    pub fn handle_unopened(&mut self, now: Instant, failure: &Failure) {
        if self.is_leaving() {
            return match failure.is_passing() {
                true => self.link = Link::Waiting { until: now + FAREWELL_AGAIN },
                // It knows the session no more.
                false => self.finish(true),
            };
        }
        self.link = Link::Absent;
        if failure.is_passing() {
            self.reopen(now, &failure.to_string());
        } else if matches!(self.stage, Stage::Ready) {
            // It was let in before: the session is gone, not the key.
            self.lose(now, Lost::new(Cause::Connection, failure.to_string()));
        } else {
            self.lose(now, Lost::of(failure));
        }
    }

    pub fn handle_closed(&mut self, now: Instant, ended: &Ended) {
        if self.is_leaving() {
            return self.finish(self.outbox.is_empty());
        }
        let stable =
            matches!(self.link, Link::Open { since } if now.saturating_duration_since(since) >= STABLE);
        if stable {
            self.losses = 0;
        }
        self.link = Link::Absent;
        self.heartbeat_at = None;
        if matches!(ended, Ended::Closed { code: 1008, .. }) {
            let cause = if matches!(self.stage, Stage::Ready) { Cause::Connection } else { Cause::Refused };
            self.lose(now, Lost::new(cause, ended.to_string()));
        } else {
            self.reopen(now, &ended.to_string());
        }
    }

    fn reopen(&mut self, now: Instant, why: &str) {
        self.losses += 1;
        if self.losses > self.admission.as_ref().map_or(0, |admission| admission.reconnections) {
            return self.lose(now, Lost::new(Cause::Connection, format!("signalling: {why}")));
        }
        if self.losses == 1 {
            self.tell(AvatarEvent::Warning(format!("signalling is opened again: {why}")));
        }
        self.link = Link::Waiting { until: now + REOPEN * self.losses };
    }

    pub fn handle_text(&mut self, now: Instant, text: &str) {
        let Some(said) = signal::read(text) else {
            self.figures.malformed += 1;
            return;
        };
        if !self.is_alive() {
            return;
        }
        let done = match said {
            Said::Answer(sdp) => self.path.answer(now, sdp, &mut self.acts),
            Said::Candidate(candidate) => {
                self.path.candidate(candidate, &mut self.acts);
                Ok(())
            }
            Said::Ready => {
                self.session_ready = true;
                self.check_ready();
                Ok(())
            }
            Said::Interrupted(_) => {
                let events = &mut self.events;
                self.turns.was_cut(|event| events.push_back(event));
                Ok(())
            }
            Said::Warning(text) => {
                self.tell(AvatarEvent::Warning(text));
                Ok(())
            }
            Said::End(why) => {
                let why = if why.is_empty() { "the provider ended it".to_owned() } else { why };
                self.tell_lost(Lost::new(Cause::Over, why));
                self.finish(true);
                Ok(())
            }
            Said::Other => Ok(()),
        };
        if let Err(lost) = done {
            self.lose(now, lost);
        }
    }

    fn check_ready(&mut self) {
        if matches!(self.stage, Stage::Joining) && self.session_ready && self.path.is_connected() {
            self.stage = Stage::Ready;
            self.tell(AvatarEvent::Ready);
        }
    }

    // The peer connection.

    /// Its offer is made.
    pub fn handle_offer(&mut self, sdp: &str) {
        if self.is_alive() {
            self.queue_of(Kind::Offer, |session| signal::offer(session, sdp));
        }
    }

    /// An address of ours that the offer did not name.
    pub fn handle_candidate(&mut self, candidate: &Candidate) {
        if self.is_alive() {
            self.queue_of(Kind::Other, |session| signal::candidate(session, candidate));
        }
    }

    pub fn handle_connected(&mut self, now: Instant) {
        self.path.connected(now);
        self.check_ready();
    }

    pub fn handle_disconnected(&mut self, now: Instant) {
        self.path.disconnected(now);
    }

    /// It does not connect, and will not.
    pub fn handle_failed(&mut self, now: Instant) {
        self.path.failed(now);
    }

    /// The engine closed it. That the session is over, and why, is said on the socket.
    pub fn handle_hung_up(&mut self, now: Instant) {
        self.path.hung_up(now);
    }

    /// It cannot be used at all.
    pub fn handle_unusable(&mut self, now: Instant, why: &str) {
        self.lose(now, Lost::new(Cause::Connection, why));
    }

    /// The data channel opened, or closed.
    pub fn handle_channel(&mut self, open: bool) {
        self.channel = open;
        if open {
            self.acts.extend(self.data.drain(..).map(Act::Data));
        }
    }

    pub fn handle_data(&mut self, text: &str) {
        match data::read(text) {
            _ if !self.is_alive() => {}
            None => self.figures.malformed += 1,
            Some(Told::Other) => {}
            Some(Told::CallerSpeaks(speaks)) => self.tell(AvatarEvent::CallerSpeaks(speaks)),
            Some(Told::Words(words)) => {
                let event = self.transcripts.take(&words);
                self.events.extend(event);
                if words.speaker == crate::avatar::Speaker::Avatar {
                    let events = &mut self.events;
                    if words.interrupted {
                        self.turns.was_cut(|event| events.push_back(event));
                    } else if words.last && self.limits.listens {
                        self.turns.said_all();
                    }
                }
            }
        }
    }

    /// Sound that came down, before it is passed on.
    pub fn handle_sound(&mut self, now: Instant, samples: &[i16]) {
        if !self.is_alive() {
            return;
        }
        self.path.sound(now);
        let events = &mut self.events;
        self.turns.sound(now, samples, |event| events.push_back(event));
    }

    pub fn handle_picture(&mut self, now: Instant) {
        self.path.picture(now);
    }

    // What the call wants.

    pub fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16]) {
        if matches!(self.stage, Stage::Ready) && self.settings.mode == Mode::Passthrough {
            let mut ups = Vec::new();
            self.uplink.speak(now, turn, samples, |up| ups.push(up));
            self.send_up(ups);
        }
    }

    pub fn end(&mut self, turn: Turn) {
        if !self.is_alive() {
            return;
        }
        let mut ups = Vec::new();
        self.uplink.end(turn, |up| ups.push(up));
        self.send_up(ups);
    }

    fn send_up(&mut self, ups: Vec<Up>) {
        for up in ups {
            match up {
                Up::Piece { turn, samples } => {
                    if self.outbox_bytes > OUTBOX_BYTES {
                        self.figures.dropped += 1;
                        continue;
                    }
                    let (rate, number) = (self.limits.rate, self.number);
                    self.number += 1;
                    self.queue_of(Kind::Sound(turn), |session| {
                        signal::audio(session, rate, number, &samples)
                    });
                    let length = Duration::from_micros(samples.len() as u64 * 1_000_000 / u64::from(rate));
                    self.turns.sent(turn, length);
                }
                Up::End { turn } => {
                    self.number = 0;
                    self.queue_of(Kind::Other, signal::audio_end);
                    self.turns.complete(turn);
                }
            }
        }
    }

    /// The data channel's word first, for it is heard at once; then the end of what went up.
    pub fn interrupt(&mut self, now: Instant, turn: Turn) {
        let open = self.uplink.cut(turn);
        if !self.is_alive() {
            return;
        }
        let heard = self.turns.cut(turn);
        let kept = |out: &Outgoing| !matches!(out.kind, Kind::Sound(own) if own <= turn);
        self.outbox.retain(kept);
        self.outbox_bytes = self.outbox.iter().map(|out| out.text.len()).sum();
        if !(open || heard) {
            return;
        }
        if self.channel {
            let at = self.timestamp(now);
            if let Some(admission) = &self.admission {
                self.acts.push_back(Act::Data(data::interrupt(&admission.session, &at)));
            }
        }
        if open {
            self.number = 0;
            self.queue_of(Kind::Other, signal::audio_end);
        }
    }

    fn timestamp(&self, now: Instant) -> String {
        // Fails for years that nobody lives in.
        OffsetDateTime::from(self.clock.wall(now)).format(&Rfc3339).unwrap_or_default()
    }

    /// Says a text with the engine's own voice, if it has one here.
    pub fn say(&mut self, text: &str) -> bool {
        if !self.limits.listens || !matches!(self.stage, Stage::Ready) || self.outbox_bytes > OUTBOX_BYTES {
            return false;
        }
        self.talks += 1;
        let id = format!("say-{}", self.talks);
        self.queue_of(Kind::Other, |session| signal::talk(session, &id, text));
        true
    }

    /// Text as if the caller had said it.
    pub fn text(&mut self, now: Instant, text: &str) -> bool {
        if !self.limits.listens || !self.is_alive() {
            return false;
        }
        let at = self.timestamp(now);
        let Some(admission) = &self.admission else { return false };
        let text = data::speech(&admission.session, &at, text);
        if self.channel {
            self.acts.push_back(Act::Data(text));
        } else if self.data.len() < DATA_MAX {
            self.data.push_back(text);
        } else {
            return false;
        }
        true
    }

    // How it ends.

    /// The call wants it no more: its end follows.
    pub fn close(&mut self, now: Instant) {
        if std::mem::replace(&mut self.closing, true) {
            return;
        }
        match self.stage {
            Stage::Leaving { .. } => {}
            Stage::Over => self.events.push_back(AvatarEvent::Closed { ended: self.ended }),
            Stage::Asking if !self.asking => self.finish(true),
            Stage::Asking | Stage::Joining | Stage::Ready => self.leave(now),
        }
    }

    fn tell_lost(&mut self, lost: Lost) {
        self.tell(AvatarEvent::Lost(lost));
        self.lost = true;
    }

    /// It is told at once, and ended at the provider while it is still polled.
    fn lose(&mut self, now: Instant, lost: Lost) {
        if matches!(self.stage, Stage::Leaving { .. } | Stage::Over) {
            return;
        }
        self.tell_lost(lost);
        if self.admission.is_some() || self.asking { self.leave(now) } else { self.finish(true) }
    }

    fn leave(&mut self, now: Instant) {
        let limit = if matches!(self.link, Link::Open { .. }) { FAREWELL } else { LONG_FAREWELL };
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.queue_of(Kind::Other, signal::end);
        self.acts.push_back(Act::ClosePeer);
        if matches!(self.link, Link::Waiting { .. } | Link::Absent) && self.admission.is_some() {
            self.link = Link::Opening;
            self.acts.push_back(Act::Connect);
        }
        (self.ask_at, self.heartbeat_at) = (None, None);
        self.stage = Stage::Leaving { until: now + limit };
    }

    fn finish(&mut self, ended: bool) {
        (self.stage, self.ended) = (Stage::Over, ended);
        self.link = Link::Absent;
        self.outbox.clear();
        self.outbox_bytes = 0;
        self.acts.extend([Act::Disconnect, Act::ClosePeer]);
        if self.closing {
            self.events.push_back(AvatarEvent::Closed { ended });
        }
    }

    // Time.

    fn limit_at(&self) -> Option<(Instant, Instant)> {
        let longest = self.limits.longest.filter(|_| self.admission.is_some() && self.is_alive())?;
        let near = longest - NEAR_LIMIT.min(longest / 4);
        let end = longest - AHEAD_OF_LIMIT.min(longest / 10);
        Some((self.admitted_at + near, self.admitted_at + end))
    }

    pub fn wake_at(&self) -> Option<Instant> {
        if matches!(self.stage, Stage::Over) {
            return None;
        }
        let link = match self.link {
            Link::Waiting { until } => Some(until),
            Link::Absent | Link::Opening | Link::Open { .. } => None,
        };
        let stage = match &self.stage {
            Stage::Asking | Stage::Joining => Some(self.ready_by),
            Stage::Leaving { until } => Some(*until),
            Stage::Ready | Stage::Over => None,
        };
        let alive = self.is_alive();
        let path = self.path.wake_at().filter(|_| alive);
        let speech = self.uplink.wake_at().filter(|_| alive);
        let limit = self.limit_at().map(|(near, end)| if self.near_told { end } else { near });
        [self.ask_at, link, stage, path, speech, limit, self.heartbeat_at].into_iter().flatten().min()
    }

    pub fn handle_time(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match &self.stage {
            Stage::Over => return,
            Stage::Leaving { until } if *until <= now => return self.finish(false),
            Stage::Asking | Stage::Joining if self.ready_by <= now => {
                let why = format!("not ready after {} s", self.limits.ready_within.as_secs());
                self.lose(now, Lost::new(Cause::Connection, why));
            }
            Stage::Asking | Stage::Joining | Stage::Ready | Stage::Leaving { .. } => {}
        }
        if due(self.ask_at) {
            (self.ask_at, self.asking) = (None, true);
            self.acts.push_back(Act::Ask);
        }
        if matches!(self.link, Link::Waiting { until } if until <= now) {
            self.link = Link::Opening;
            self.acts.push_back(Act::Connect);
        }
        if due(self.heartbeat_at) {
            self.heartbeat_at = self.admission.as_ref().map(|admission| now + admission.heartbeat);
            self.queue_of(Kind::Other, signal::heartbeat);
        }
        if !self.is_alive() {
            return;
        }
        let mut ups = Vec::new();
        self.uplink.handle_time(now, |up| ups.push(up));
        self.send_up(ups);
        if let Err(lost) = self.path.handle_time(now, &mut self.acts) {
            self.lose(now, lost);
        }
        self.watch_limit(now);
    }

    fn watch_limit(&mut self, now: Instant) {
        let Some((near, end)) = self.limit_at() else { return };
        if end <= now {
            self.lose(now, Lost::new(Cause::Over, "the session's time is used up"));
        } else if near <= now && !std::mem::replace(&mut self.near_told, true) {
            self.tell(AvatarEvent::NearLimit { left: end - now });
        }
    }
}

#[cfg(test)]
mod tests;
