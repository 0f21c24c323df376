//! Driver. The task of one call's face: carries what the agent says up to the session, and what comes back to the caller.
//!
//! Beside the call: it may take seconds to connect and to say farewell, and nobody waits for it but the call's end.

#![expect(clippy::disallowed_methods, reason = "a face is timed")]

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, Cause, Farewell, Lost, MediaTime, Picture, Terms};
use crate::base::queue::{Fifo, Gop, Latest, Receiver, Sender};
use crate::base::stop::Outcome;
use crate::engine::face::FaceSettings;
use crate::engine::face::figures::FaceFigures;
use crate::engine::face::keeping::{Ended, FAREWELL, Keeping};
use crate::engine::face::picture::Shown;
use crate::engine::face::turnkey::{Answer, Desk, Wanted};
use crate::engine::face::voice::{Act, Voice};
use crate::engine::plan::{CallId, Event};
use crate::engine::playout::{Piece, Relay, Sign};
use crate::talk::conversation::Told;

/// Orders that wait for the task.
pub const ORDERS: usize = 16;

/// What the call wants of its face.
pub enum FaceOrder {
    /// A stream of sound begins; one there was before is gone.
    Sound(Relay),
    /// Where pictures go; one there was before is gone.
    Pictures(Sender<Shown, Gop>),
    /// A session is wanted on these terms; `None`: none is.
    Want(Option<Terms>),
}

/// What the task is made of.
pub struct FaceParts {
    pub call: CallId,
    pub epoch: Instant,
    pub settings: Arc<FaceSettings>,
    pub orders: Receiver<FaceOrder, Fifo>,
    /// Key pictures the caller waits for.
    pub wishes: Receiver<(), Latest>,
    pub events: Sender<Event, Fifo>,
    pub figures: Arc<FaceFigures>,
    /// Of an agent whose provider hears and answers by itself.
    pub desk: Option<Desk>,
}

pub struct Face {
    parts: FaceParts,
    keeping: Keeping,
    voice: Voice,
    relay: Option<Relay>,
    pictures: Option<Sender<Shown, Gop>>,
    /// The session's own name, for what is told of it.
    session: String,
}

enum Happened {
    /// `None`: the call is over.
    Order(Option<FaceOrder>),
    Sign(Option<Sign>),
    Piece(Option<Piece>),
    Session(AvatarEvent),
    Wanted(Wanted),
    Key,
    Time,
}

impl Face {
    pub fn new(parts: FaceParts) -> Self {
        Face {
            keeping: Keeping::new(parts.settings.clone(), parts.epoch),
            voice: Voice::new(parts.epoch, parts.settings.buffer),
            relay: None,
            pictures: None,
            session: String::new(),
            parts,
        }
    }

    /// Runs until the call is over and every session was said farewell to.
    pub async fn run(mut self) -> Outcome {
        loop {
            let now = Instant::now();
            self.keep(now);
            self.carry_out(now);
            let happened = self.next().await;
            let now = Instant::now();
            match happened {
                Happened::Order(Some(order)) => self.order(now, order),
                Happened::Order(None) => break,
                Happened::Sign(Some(Sign::Cut(utterance))) => self.voice.cut(now, utterance),
                Happened::Sign(Some(Sign::CallerSpeaks(speaks))) => {
                    if let Some(session) = self.keeping.session() {
                        session.listening(speaks);
                    }
                    self.keeping.touch(now);
                }
                Happened::Sign(None) | Happened::Piece(None) => self.relay = None,
                Happened::Piece(Some(piece)) => {
                    self.keeping.touch(now);
                    if self.relay.as_ref().is_some_and(|relay| relay.wants(piece.utterance)) {
                        self.voice.say(now, piece);
                    }
                }
                Happened::Session(event) => self.event(now, event),
                Happened::Wanted(wanted) => self.wanted(now, wanted),
                Happened::Key => {
                    if let Some(session) = self.keeping.session() {
                        session.want_key_picture();
                    }
                }
                Happened::Time => self.voice.handle_time(now),
            }
        }
        self.leave().await;
        Outcome::Done
    }

    async fn next(&mut self) -> Happened {
        let wake = [self.voice.wake_at(), self.keeping.wake_at()].into_iter().flatten().min();
        let full = self.voice.is_full();
        let Face { parts, keeping, relay, .. } = self;
        let FaceParts { orders, wishes, desk, .. } = parts;
        tokio::select! {
            biased;
            order = orders.recv() => Happened::Order(order),
            sign = sign(relay.as_ref()) => Happened::Sign(sign),
            event = poll_fn(|context| keeping.poll_next(context)) => Happened::Session(event),
            piece = piece(relay.as_ref().filter(|_| !full)) => Happened::Piece(piece),
            wanted = wanted(desk.as_ref()) => Happened::Wanted(wanted),
            // Where nobody can wish any more the call ends, which its orders tell.
            () = wishes.recv_while_open() => Happened::Key,
            () = until(wake) => Happened::Time,
        }
    }

    fn order(&mut self, now: Instant, order: FaceOrder) {
        match order {
            FaceOrder::Sound(relay) => {
                // What the old stream was owed is of no use on the new one.
                self.voice.restart(now);
                self.relay = Some(relay);
            }
            FaceOrder::Pictures(pictures) => {
                self.pictures = Some(pictures);
                if let Some(session) = self.keeping.session() {
                    session.want_key_picture();
                }
            }
            FaceOrder::Want(terms) => {
                let wanted = terms.is_some();
                self.keeping.want(now, terms);
                if !wanted {
                    self.pictures = None;
                    self.drop_session(now, Farewell::CallOver, "no_picture");
                }
            }
        }
    }

    /// Opens, gives back and gives up what is due.
    fn keep(&mut self, now: Instant) {
        self.keeping.handle_time(now);
        if self.keeping.open(now) {
            self.parts.figures.sessions.add(1);
            self.session.clear();
        }
        if self.keeping.is_overdue(now) {
            self.lost(now, &broken("it was not ready in time"));
        }
        if self.keeping.is_idle(now) && !self.voice.owes() {
            self.voice.lost(now);
            self.show(Shown::Gone);
            if let Some(counted) = self.keeping.release(now) {
                self.closed("idle", counted);
            }
        }
    }

    fn carry_out(&mut self, now: Instant) {
        let mut broken_by = None;
        while let Some(act) = self.voice.poll() {
            match act {
                Act::Up { turn, samples } => {
                    if let Some(session) = self.keeping.session() {
                        session.speak(turn, &samples);
                    }
                }
                Act::End(turn) => {
                    if let Some(session) = self.keeping.session() {
                        session.end(turn);
                    }
                }
                Act::Interrupt(turn) => {
                    self.parts.figures.interrupted.add(1);
                    if let Some(session) = self.keeping.session() {
                        session.interrupt(turn);
                    }
                }
                Act::Pass(piece) => {
                    if let Some(relay) = &self.relay {
                        relay.pass(piece);
                    }
                }
                Act::Speaking { utterance, after, wait } => {
                    self.parts.figures.sound.add(wait);
                    self.spoke(now, utterance, after);
                }
                Act::Spoken { utterance } => self.answer(Answer::Spoken(utterance)),
                Act::Broken(why) => broken_by = Some(why),
            }
        }
        if let Some(why) = broken_by {
            self.lost(now, &broken(why));
            return self.carry_out(now);
        }
        if let Some(relay) = &self.relay {
            relay.owe(self.voice.owes());
        }
    }

    fn event(&mut self, now: Instant, event: AvatarEvent) {
        match event {
            AvatarEvent::Asked { .. } => {}
            AvatarEvent::Opened { session } => {
                self.keeping.counted(now);
                self.session = session;
            }
            AvatarEvent::Ready => self.ready(now),
            AvatarEvent::Speaking { turn } => self.voice.handle_speaking(now, turn),
            AvatarEvent::Ended { turn, interrupted } => self.voice.handle_ended(now, turn, interrupted),
            AvatarEvent::Hushed => self.voice.handle_hushed(now),
            AvatarEvent::Transcript { speaker, text, last } => {
                self.answer(Answer::Transcript { speaker, text, last });
            }
            AvatarEvent::CallerSpeaks(speaks) => {
                self.keeping.touch(now);
                self.answer(Answer::CallerSpeaks(speaks));
            }
            AvatarEvent::Sound { at, rate, samples } => {
                let made = self.keeping.made(now, at);
                self.voice.handle_sound(now, made, rate, &samples);
            }
            AvatarEvent::Picture { at, picture } => self.picture(now, at, picture),
            AvatarEvent::Warning(text) => {
                tracing::warn!(call = %self.parts.call, avatar = self.parts.settings.name, "{text}");
                self.tell(self.told("avatar.warning").with("text", text));
            }
            AvatarEvent::NearLimit { left } => {
                self.tell(self.told("avatar.near_limit").with("left_s", left.as_secs_f64().round()));
            }
            AvatarEvent::Lost(lost) => self.lost(now, &lost),
            AvatarEvent::Closed { .. } => {
                self.lost(now, &Lost { why: "its provider closed it".to_owned(), cause: Cause::Over });
            }
        }
    }

    fn picture(&mut self, now: Instant, at: MediaTime, picture: Picture) {
        let made = self.keeping.made(now, at);
        self.voice.handle_picture(now, made);
        self.show(Shown::Picture { made, came: now, sound: self.voice.sound(), picture });
    }

    fn show(&self, shown: Shown) {
        if let Some(pictures) = &self.pictures {
            pictures.offer(shown);
        }
    }

    fn ready(&mut self, now: Instant) {
        let Some(after) = self.keeping.ready(now) else { return };
        let Some(session) = self.keeping.session() else { return };
        let limits = session.limits().clone();
        session.want_key_picture();
        self.voice.ready(&limits);
        let figures = &self.parts.figures;
        figures.ready.add(1);
        figures.ready_ms.set(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let told = self.told("avatar.connected").with("session", self.session.clone());
        self.tell(told.with_ms("after_ms", after));
        self.answer(Answer::Ready);
    }

    fn spoke(&self, now: Instant, utterance: u32, after: Option<Duration>) {
        let figures = &self.parts.figures;
        figures.turns.add(1);
        figures.lag_ms.set(u64::try_from(self.voice.lag().as_millis()).unwrap_or(u64::MAX));
        let mut told = self.told("avatar.speaking");
        if let Some(after) = after {
            figures.begins_ms.add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            told = told.with_ms("after_ms", after);
        }
        self.tell(told.with_ms("lag_ms", self.voice.lag()));
        self.answer(Answer::Speaking { utterance, at: now });
    }

    /// The session is over by itself, or of no use.
    fn lost(&mut self, now: Instant, lost: &Lost) {
        let Some(Ended { counted, again }) = self.keeping.lost(now, lost.cause) else { return };
        self.parts.figures.lost.add(1);
        self.count(counted);
        self.voice.lost(now);
        self.show(Shown::Gone);
        let told = self.told("avatar.lost").with("session", self.session.clone());
        let told = told.with("cause", lost.cause.word()).with("why", lost.why.clone());
        let told = told.with("seconds", counted.as_secs_f64());
        self.tell(match again {
            Some(pause) => told.with_ms("again_ms", pause),
            None => told,
        });
        if again.is_none() {
            self.answer(Answer::Gone);
        }
    }

    /// Ends the session, if there is one: what it still owed is said directly.
    fn drop_session(&mut self, now: Instant, farewell: Farewell, why: &'static str) {
        self.voice.lost(now);
        if let Some(counted) = self.keeping.close(now, farewell) {
            self.closed(why, counted);
        }
    }

    fn closed(&self, why: &'static str, counted: Duration) {
        self.count(counted);
        let told = self.told("avatar.closed").with("session", self.session.clone());
        self.tell(told.with("why", why).with("seconds", counted.as_secs_f64()));
    }

    fn count(&self, counted: Duration) {
        self.parts.figures.counted_ms.add(u64::try_from(counted.as_millis()).unwrap_or(u64::MAX));
    }

    /// What an agent wants whose provider hears and answers.
    fn wanted(&mut self, now: Instant, wanted: Wanted) {
        let done = match (self.keeping.session(), &wanted) {
            (Some(session), Wanted::Microphone(block)) => {
                session.microphone(&block.samples, block.rate);
                true
            }
            (None, Wanted::Microphone(_)) => true,
            (Some(session), Wanted::Say(text)) => session.say(text),
            (Some(session), Wanted::Text(text)) => session.text(text),
            (None, Wanted::Say(_) | Wanted::Text(_)) => false,
        };
        if let Wanted::Say(text) = wanted {
            self.keeping.touch(now);
            if !done {
                self.answer(Answer::Unsaid(text));
            }
        }
    }

    fn answer(&self, answer: Answer) {
        if let Some(desk) = &self.parts.desk {
            desk.answers.offer(answer);
        }
    }

    /// Says farewell, and waits until every provider knows.
    async fn leave(&mut self) {
        self.keeping.want(Instant::now(), None);
        self.drop_session(Instant::now(), Farewell::CallOver, "call_over");
        self.relay = None;
        let until = Instant::now() + FAREWELL;
        while !self.keeping.is_done() && Instant::now() < until {
            let wake = self.keeping.wake_at().map_or(until, |at| at.min(until));
            tokio::select! {
                _ = poll_fn(|context| self.keeping.poll_done(context)) => {}
                () = tokio::time::sleep_until(wake.into()) => self.keeping.handle_time(Instant::now()),
            }
        }
        self.tell(self.parts.figures.told(&self.parts.settings.name));
    }

    fn told(&self, kind: &'static str) -> Told {
        Told::new(kind).with("avatar", self.parts.settings.name.clone())
    }

    fn tell(&self, told: Told) {
        self.parts.events.offer(Event::Told { call: self.parts.call, told });
    }
}

async fn sign(relay: Option<&Relay>) -> Option<Sign> {
    match relay {
        Some(relay) => relay.sign().await,
        None => pending().await,
    }
}

async fn piece(relay: Option<&Relay>) -> Option<Piece> {
    match relay {
        Some(relay) => relay.piece().await,
        None => pending().await,
    }
}

async fn wanted(desk: Option<&Desk>) -> Wanted {
    match desk {
        Some(desk) => desk.wanted.recv_while_open().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// A session that is of no use, in our words.
fn broken(why: &str) -> Lost {
    Lost { why: why.to_owned(), cause: Cause::Connection }
}
