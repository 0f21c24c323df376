//! Driver. The task of one call whose agent is a model that hears and speaks itself: carries the caller's sound and
//! pictures into the session, and what the session says to the caller.
//!
//! The provider says when the caller's turn is over. Whether the caller interrupts is decided here, by the same ears as
//! everywhere else: faster, and a "mhm" does not stop the reply. G.711 is not decoded for the model: its bytes are those
//! of the call.

#![expect(clippy::disallowed_methods, reason = "turns and replies are timed")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tools::{Act, act};
use super::voicing::{self, Voicing};
use super::{Agent, Line, PAUSE_DB, Parts, TalkOrder, Wish, judged, seen, until};
use crate::base::queue::{Fifo, Receiver, Sender};
use crate::base::stop::Outcome;
use crate::codec::g711;
use crate::engine::plan::{CallId, Event};
use crate::engine::playout::{Piece, Position};
use crate::engine::sight::SightHandle;
use crate::media::audio::{Judgement, Pcm, block_samples};
use crate::talk::conversation::Told;
use crate::talk::hear::{Heard, Hearing, HearingSettings};
use crate::talk::link::{RealtimeSession, Voices};
use crate::talk::message::{Endpoint, Failure, Role, ToolCall};
use crate::talk::realtime::{ItemId, RealtimeEvent, RealtimeSettings, Sound, SoundFormat, Turns};
use crate::talk::sight::{Reason, Sighted};
use crate::worker::ears::Listener;

/// Pieces of 20 ms handed to the playout at a time: a minute. What a model says beyond waits here.
const HANDED: u32 = 3_000;
/// Pieces that wait here: ten minutes. No answer to a caller is longer.
const WAITING: usize = 30_000;
/// Items whose words or sound are followed.
const ITEMS: usize = 64;

/// A model that hears and speaks itself.
#[derive(Clone)]
pub struct Realtime {
    pub endpoint: Endpoint,
    pub settings: RealtimeSettings,
    /// Says what is to be said when the model is gone.
    pub voices: Arc<Voices>,
}

/// Something the model says: an utterance of the playout.
struct Item {
    id: ItemId,
    utterance: u32,
    text: String,
    told: bool,
}

/// The stream of sound and who listens to it.
struct Hears {
    line: Line,
    hearing: Hearing,
    listener: Option<Listener>,
}

impl Hears {
    fn new(line: Line, agent: &Agent) -> Hears {
        let hearing = Hearing::new(HearingSettings { rate: line.rate, ..agent.hearing.clone() });
        // What is listened to is a copy at a rate of its own.
        let listener = agent.ears.as_ref().map(|ears| ears.listener(hearing.copy_rate()));
        Hears { line, hearing, listener }
    }
}

/// The running session.
pub struct RealtimeTalking {
    call: CallId,
    epoch: Instant,
    agent: Arc<Agent>,
    realtime: Realtime,
    orders: Receiver<TalkOrder, Fifo>,
    events: Sender<Event, Fifo>,
    sight: Option<SightHandle>,
    session: Option<RealtimeSession>,
    ears: Option<Hears>,
    items: VecDeque<Item>,
    utterances: u32,
    /// Sound that is more than a minute ahead.
    waiting: VecDeque<Piece>,
    position: Position,
    /// When the caller fell silent, until the answer to it is heard.
    silent: Option<Instant>,
    looking: VecDeque<ToolCall>,
    leaving: Option<String>,
    begun: bool,
    ready: bool,
    greeted: bool,
    /// The words for a caller whose model is gone.
    voicing: VecDeque<Voicing>,
    coded: Vec<u8>,
}

enum Happened {
    Block(Option<Pcm>),
    Judged(Judgement),
    Session(RealtimeEvent),
    Voiced(Result<Option<Arc<[i16]>>, Failure>),
    Seen(Option<Sighted>),
    Order(Option<TalkOrder>),
    Time,
}

impl RealtimeTalking {
    pub fn new(parts: Parts, realtime: Realtime) -> Self {
        let Parts { call, epoch, agent, orders, events, sight } = parts;
        RealtimeTalking {
            call,
            epoch,
            agent,
            realtime,
            orders,
            events,
            sight,
            session: None,
            ears: None,
            items: VecDeque::new(),
            utterances: 0,
            waiting: VecDeque::new(),
            position: Position::default(),
            silent: None,
            looking: VecDeque::new(),
            leaving: None,
            begun: false,
            ready: false,
            greeted: false,
            voicing: VecDeque::new(),
            coded: Vec::new(),
        }
    }

    /// Runs until the call is over.
    pub async fn run(mut self) -> Outcome {
        loop {
            self.listen();
            self.leave_when_silent();
            match self.next().await {
                Happened::Block(Some(block)) => self.block(&block),
                Happened::Block(None) => self.ears = None,
                Happened::Judged(judgement) => {
                    if let Some(ears) = &mut self.ears {
                        ears.hearing.handle_judgement(Instant::now(), judgement);
                    }
                }
                Happened::Session(event) => self.event(event),
                Happened::Voiced(sound) => self.voiced(sound),
                Happened::Seen(sighted) => self.seen(sighted),
                Happened::Order(Some(order)) => self.order(order),
                Happened::Order(None) => return Outcome::Done,
                Happened::Time => {
                    if let Some(ears) = &mut self.ears {
                        ears.hearing.handle_time(Instant::now());
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let wake = self.ears.as_ref().and_then(|ears| ears.hearing.wake_at());
        let RealtimeTalking { orders, ears, session, voicing, sight, .. } = self;
        tokio::select! {
            biased;
            order = orders.recv() => Happened::Order(order),
            happened = listened(ears.as_mut()) => happened,
            event = told(session.as_mut()) => Happened::Session(event),
            sighted = seen(sight.as_mut()) => Happened::Seen(sighted),
            voiced = voicing::next(voicing) => Happened::Voiced(voiced),
            () = until(wake) => Happened::Time,
        }
    }

    /// What the ears made of the sound.
    fn listen(&mut self) {
        while let Some(heard) = self.ears.as_mut().and_then(|ears| ears.hearing.poll()) {
            match heard {
                Heard::SpeechStarted { .. } => self.speaking(true, Reason::Onset),
                Heard::SpeechEnded { at, .. } => {
                    self.silent = Some(at);
                    self.speaking(false, Reason::Turn);
                }
                Heard::AskFinished { spoken } => {
                    if let Some(listener) = self.ears.as_mut().and_then(|ears| ears.listener.as_mut()) {
                        listener.ask_finished(spoken);
                    }
                }
                Heard::Interrupt => self.interrupt(),
                Heard::Duck | Heard::Pause | Heard::Resume { .. } => self.hush(heard),
                // The provider ends turns.
                Heard::TurnEnded { .. } => {}
            }
        }
    }

    fn hush(&self, heard: Heard) {
        let Some(ears) = &self.ears else { return };
        match heard {
            Heard::Duck => ears.line.say.duck(true),
            Heard::Pause => ears.line.say.hold(true),
            _ => {
                ears.line.say.hold(false);
                ears.line.say.duck(false);
            }
        }
    }

    fn speaking(&mut self, speaking: bool, reason: Reason) {
        self.tell(Told::new(if speaking { "speech.started" } else { "speech.ended" }));
        if let Some(session) = &mut self.session {
            session.caller_speaks(speaking);
        }
        if let Some(sight) = &self.sight {
            sight.speaking(speaking);
            sight.want(reason);
        }
    }

    /// 20 ms of the caller.
    fn block(&mut self, block: &Pcm) {
        let now = Instant::now();
        let speaks = self.is_speaking();
        if let Some(Hears { line, .. }) = self.ears.take_if(|ears| ears.line.rate != block.rate) {
            // The codec was changed: what was heard so far is of another kind.
            self.ears = Some(Hears::new(Line { rate: block.rate, law: None, ..line }, &self.agent));
        }
        let Some(ears) = &mut self.ears else { return };
        let playing = speaks.then(|| ears.line.say.level_db().unwrap_or(PAUSE_DB));
        ears.hearing.set_wait(block.age(self.epoch, now));
        let heard = ears.hearing.handle_block(now, &block.samples, playing);
        if let Some(listener) = &mut ears.listener {
            listener.hear(heard);
        }
        if let Some(session) = &mut self.session {
            match ears.line.law {
                // By the law of the call: the bytes that came.
                Some(law) => {
                    self.coded.clear();
                    g711::encode(law, &block.samples, &mut self.coded);
                    session.push_payload(law, &self.coded);
                }
                None => session.push_sound(&block.samples, block.rate),
            }
        }
        self.hand_over();
        self.follow();
    }

    /// Whether anything is being said.
    fn is_speaking(&self) -> bool {
        !self.waiting.is_empty() || self.ears.as_ref().is_some_and(|ears| !ears.line.say.is_idle())
    }

    fn hand_over(&mut self) {
        let Some(ears) = &self.ears else { return };
        while ears.line.say.waiting() < HANDED
            && let Some(piece) = self.waiting.pop_front()
        {
            ears.line.say.say(piece);
        }
    }

    fn follow(&mut self) {
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        if position == self.position {
            return;
        }
        let begins = position.utterance != self.position.utterance;
        let began = self.epoch + ears.line.say.began();
        self.position = position;
        if let Some(silent) = self.silent.take_if(|_| begins) {
            let after = began.saturating_duration_since(silent);
            self.tell(Told::new("agent.speaking").with_ms("after_ms", after));
        }
        for at in 0..self.items.len() {
            let item = &self.items[at];
            let whole =
                item.utterance < position.utterance || item.utterance == position.utterance && position.whole;
            if whole && !item.told && !item.text.is_empty() {
                self.tell(Told::new("agent.reply").with("text", item.text.clone()));
                self.items[at].told = true;
            }
        }
    }

    fn event(&mut self, event: RealtimeEvent) {
        match event {
            RealtimeEvent::Ready => {
                self.ready = true;
                self.greet();
            }
            RealtimeEvent::Sound { item, sound } => self.sound(&item, sound),
            RealtimeEvent::SoundDone { item } => {
                if let Some(utterance) = self.item(&item).map(|item| item.utterance) {
                    let rate = self.ears.as_ref().map_or(8_000, |ears| ears.line.rate);
                    self.waiting.push_back(Piece { utterance, rate, samples: Arc::from([]), last: true });
                    self.hand_over();
                }
            }
            RealtimeEvent::Transcript { role: Role::User, text, last: true, .. } => {
                self.tell(Told::new("transcript.final").with("text", text.trim()));
            }
            RealtimeEvent::Transcript { role: Role::Assistant, item, text, last } => {
                let found = self.item(&item);
                if let (Some(item), true) = (found, last || !text.is_empty()) {
                    item.text = text.trim().to_owned();
                }
            }
            RealtimeEvent::Transcript { .. }
            | RealtimeEvent::SpeechStarted
            | RealtimeEvent::SpeechEnded
            | RealtimeEvent::CallsCancelled(_)
            | RealtimeEvent::TurnDone { .. }
            | RealtimeEvent::Aside { .. } => {}
            RealtimeEvent::Call(call) => self.tool(call),
            RealtimeEvent::Interrupted { .. } => self.cut(),
            RealtimeEvent::Trouble(failure) => self.failed(&failure),
            RealtimeEvent::Recycled => self.tell(Told::new("agent.session_renewed")),
            RealtimeEvent::Closed(failure) => {
                self.failed(&failure);
                self.session = None;
                self.fall_back();
            }
        }
    }

    fn failed(&self, failure: &Failure) {
        self.tell(Told::new("agent.failed").with("service", "realtime").with("why", failure.to_string()));
    }

    /// The item of this name; a new one is the next utterance.
    fn item(&mut self, id: &ItemId) -> Option<&mut Item> {
        if !self.items.iter().any(|item| item.id == *id) {
            self.utterances += 1;
            if self.items.len() >= ITEMS {
                self.items.pop_front();
            }
            self.items.push_back(Item {
                id: id.clone(),
                utterance: self.utterances,
                text: String::new(),
                told: false,
            });
        }
        self.items.iter_mut().find(|item| item.id == *id)
    }

    fn sound(&mut self, id: &ItemId, sound: Sound) {
        let Some(utterance) = self.item(id).map(|item| item.utterance) else { return };
        let (rate, samples) = match sound {
            Sound::Payload { law, bytes } => {
                let mut samples = Vec::with_capacity(bytes.len());
                g711::decode(law, &bytes, &mut samples);
                (8_000, samples)
            }
            Sound::Samples { rate, samples } => (rate, samples),
        };
        let room = WAITING.saturating_sub(self.waiting.len());
        let pieces = samples.chunks(block_samples(rate).max(1));
        if pieces.len() > room {
            tracing::warn!(call = %self.call, "a model speaks more than ten minutes ahead: the rest is not heard");
        }
        for piece in pieces.take(room) {
            self.waiting.push_back(Piece { utterance, rate, samples: piece.into(), last: false });
        }
        self.hand_over();
    }

    /// The caller wants the floor.
    fn interrupt(&mut self) {
        if let Some(session) = &mut self.session {
            session.interrupt();
        }
        self.cut();
    }

    /// Nothing of what was said so far is heard any more, and the model is told how far the caller heard it.
    fn cut(&mut self) {
        self.waiting.clear();
        self.voicing.clear();
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        ears.line.say.drop_through(self.utterances);
        let heard = self.items.iter().find(|item| item.utterance == position.utterance && !position.whole);
        let Some(item) = heard else { return };
        if let Some(session) = &mut self.session {
            session.heard(&item.id, position.ms.into());
        }
        let told = Told::new("agent.interrupted").with("text", item.text.clone());
        self.tell(told.with("heard_ms", position.ms));
        self.items.clear();
    }

    /// What is said first, once the model listens and the call is answered.
    fn greet(&mut self) {
        let Some(session) = self.session.as_mut().filter(|_| self.ready && self.begun && !self.greeted)
        else {
            return;
        };
        self.greeted = true;
        let conversation = &self.agent.conversation;
        let texts = [conversation.disclosure.as_str(), conversation.greeting.as_str()];
        let text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            session.say(&text);
        }
    }

    /// The model is gone for good: the caller is told so by another voice.
    fn fall_back(&mut self) {
        let text = self.agent.conversation.fallback.clone();
        let Some(ears) = self.ears.as_ref().filter(|_| !text.is_empty()) else { return };
        self.utterances += 1;
        let speech = self.realtime.voices.say(&text, ears.line.rate);
        self.voicing.push_back(Voicing::new(self.utterances, speech));
        self.tell(Told::new("agent.fallback").with("text", text));
    }

    fn voiced(&mut self, sound: Result<Option<Arc<[i16]>>, Failure>) {
        let (Some(voicing), Some(ears)) = (self.voicing.front_mut(), &self.ears) else {
            self.voicing.clear();
            return;
        };
        if let Ok(Some(samples)) = sound {
            return voicing.pass(&ears.line.say, ears.line.rate, &samples);
        }
        voicing.end(&ears.line.say, ears.line.rate);
        self.voicing.pop_front();
    }

    fn seen(&mut self, sighted: Option<Sighted>) {
        // What the model has seen already it is not sent again.
        let (image, shown, reason) = match sighted {
            Some(Sighted::Seen { image, reason, again }) => ((!again).then_some(image), true, reason),
            Some(Sighted::Blind { reason }) => (None, false, reason),
            None => {
                self.sight = None;
                return;
            }
        };
        if let (Some(session), Some(image)) = (&mut self.session, image) {
            let age = image.taken.map_or(Duration::ZERO, |taken| taken.elapsed());
            session.push_image(image);
            self.tell(Told::new("vision.sent").with("reason", reason.name()).with_ms("age_ms", age));
        }
        if reason == Reason::Look
            && let Some(call) = self.looking.pop_front()
        {
            let result =
                if shown { "The picture is before you now." } else { "There is no picture of the caller." };
            self.answer(&call.id, result);
        }
    }

    fn tool(&mut self, call: ToolCall) {
        self.tell(
            Told::new("agent.tool_called")
                .with("tool", call.name.clone())
                .with("arguments", call.arguments.clone()),
        );
        let sees = self.sight.is_some();
        match act(&self.agent.conversation.context.tools, &call, sees) {
            Act::Look => {
                if let Some(sight) = &self.sight {
                    sight.want(Reason::Look);
                }
                self.looking.push_back(call);
            }
            Act::HangUp => {
                self.answer(&call.id, "The call ends when you have said goodbye.");
                self.leaving = Some(call.id);
            }
            Act::Wish(wish) => {
                self.events.offer(Event::Wish { call: self.call, id: call.id, wish });
            }
            Act::Refuse(why) => {
                self.tell(Told::new("agent.tool_refused").with("tool", call.name.clone()).with("why", why));
                self.answer(&call.id, why);
            }
        }
    }

    fn answer(&mut self, id: &str, result: &str) {
        if let Some(session) = &mut self.session {
            session.answer_tool(id, result);
        }
    }

    fn leave_when_silent(&mut self) {
        let said = self.position.utterance == self.utterances && self.position.whole;
        if self.leaving.is_some() && said && !self.is_speaking() {
            let id = self.leaving.take().unwrap_or_default();
            self.events.offer(Event::Wish { call: self.call, id, wish: Wish::HangUp });
        }
    }

    fn order(&mut self, order: TalkOrder) {
        match order {
            TalkOrder::Attach(line) => self.attach(line),
            TalkOrder::Begin => {
                self.begun = true;
                self.greet();
            }
            TalkOrder::Say(text) => {
                if let Some(session) = &mut self.session {
                    session.say(&text);
                }
            }
            TalkOrder::Text(text) => {
                if let Some(session) = &mut self.session {
                    session.text(&text);
                }
            }
            // The provider ends turns; whoever asks is refused before.
            TalkOrder::CommitTurn | TalkOrder::ClearTurn => {}
            TalkOrder::Done { id, result } => self.answer(&id, &result),
        }
    }

    /// A stream of sound begins; with the first, the session does.
    fn attach(&mut self, line: Line) {
        let (rate, law) = (line.rate, line.law);
        self.position = Position::default();
        self.ears = Some(Hears::new(line, &self.agent));
        if self.session.is_some() {
            return;
        }
        let settings = RealtimeSettings {
            sound: law.map_or(SoundFormat::Samples { rate }, SoundFormat::Law),
            turns: Turns::Theirs { silence_ms: None, prefix_ms: None, threshold: None, interrupts: false },
            ..self.realtime.settings.clone()
        };
        match RealtimeSession::open(self.realtime.endpoint.clone(), settings) {
            Ok(session) => self.session = Some(session),
            Err(failure) => {
                self.failed(&failure);
                self.fall_back();
            }
        }
    }

    fn tell(&self, told: Told) {
        self.events.offer(Event::Told { call: self.call, told });
    }
}

/// What comes of the stream of sound: blocks first, they keep the time.
async fn listened(ears: Option<&mut Hears>) -> Happened {
    let Some(Hears { line, listener, .. }) = ears else { return std::future::pending().await };
    tokio::select! {
        biased;
        block = line.sound.recv() => Happened::Block(block),
        judgement = judged(listener.as_mut()) => Happened::Judged(judgement),
    }
}

async fn told(session: Option<&mut RealtimeSession>) -> RealtimeEvent {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}
