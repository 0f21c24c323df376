//! Driver. The task of one call whose agent is a model that hears and speaks itself: carries the caller's sound and
//! pictures into the session, and what the session says to the caller.
//!
//! The provider says when the caller's turn is over. Whether the caller interrupts is decided here, by the same ears as
//! everywhere else: faster, and a "mhm" does not stop the reply. G.711 is not decoded for the model: its bytes are those
//! of the call.

#![expect(clippy::disallowed_methods, reason = "turns and replies are timed")]

mod saying;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::captioning::Captioning;
use super::cues::Cue;
use super::figures;
use super::seeing::{Saw, Seeing};
use super::toolbox::{Answered, Came, Toolbox};
use super::voicing::{self, Voicing};
use super::{Agent, Line, PAUSE_DB, Parts, TalkOrder, judged, until};
use crate::base::queue::{Fifo, Receiver, Sender};
use crate::base::stop::Outcome;
use crate::codec::g711;
use crate::engine::pictures::Given;
use crate::engine::plan::{CallId, Event};
use crate::engine::playout::{Piece, Position};
use crate::media::audio::{Judgement, Pcm};
use crate::talk::context::GIVEN_KEPT;
use crate::talk::conversation::Told;
use crate::talk::hear::{Heard, Hearing, HearingSettings};
use crate::talk::link::{RealtimeSession, Voices};
use crate::talk::message::{Endpoint, Failure, Image, Role, Usage, Vendor};
use crate::talk::realtime::{ItemId, RealtimeEvent, RealtimeSettings, SoundFormat, Turns};
use crate::talk::sight::Reason;
use crate::worker::ears::Listener;

/// A turn nobody answers for so long is not waited for any more.
const UNANSWERED: Duration = Duration::from_secs(5);
/// A model that was asked begins to speak within this, or has nothing to say.
const ANSWER_BEGINS: Duration = Duration::from_secs(2);
/// A picture is waited for so long.
const PICTURE_LIMIT: Duration = Duration::from_millis(500);

/// A model that hears and speaks itself.
#[derive(Clone)]
pub struct Realtime {
    pub endpoint: Endpoint,
    pub settings: RealtimeSettings,
    /// Says what is to be said when the model is gone.
    pub voices: Arc<Voices>,
}

impl Realtime {
    /// Whether its vendor can be told that what it heard was no turn.
    pub fn can_forget_turns(&self) -> bool {
        self.endpoint.vendor == Vendor::OpenAi
    }

    fn turns_are_ours(&self) -> bool {
        self.settings.turns == Turns::Ours
    }
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
    seeing: Seeing,
    session: Option<RealtimeSession>,
    ears: Option<Hears>,
    items: VecDeque<Item>,
    utterances: u32,
    /// Sound that is more than a minute ahead.
    waiting: VecDeque<Piece>,
    position: Position,
    /// When the caller fell silent, until the answer to it is heard.
    silent: Option<Instant>,
    /// Questions beside the talk: the session's number and that of whoever asks; as many as wait.
    asides: Vec<(u64, u64)>,
    toolbox: Toolbox,
    captioning: Captioning,
    given: Receiver<Given, Fifo>,
    /// Given pictures the model has before it.
    kept: VecDeque<u64>,
    /// The caller speaks.
    spoken_to: bool,
    /// When the model was last asked for something, without the caller.
    asked: Instant,
    /// What it is told as soon as the picture is there, at the latest then.
    noting: Option<(String, Instant)>,
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
    Saw(Saw),
    Tools(Came),
    Given(Given),
    Order(Option<TalkOrder>),
    Time,
}

impl RealtimeTalking {
    pub fn new(mut parts: Parts, realtime: Realtime) -> Self {
        let toolbox = parts.toolbox();
        let Parts { call, epoch, agent, orders, events, sight, pictures, given, .. } = parts;
        let seeing = Seeing::new(call, events.clone(), Some(agent.seeing.clone()), sight);
        RealtimeTalking {
            call,
            epoch,
            agent,
            realtime,
            orders,
            events,
            seeing,
            session: None,
            ears: None,
            items: VecDeque::new(),
            utterances: 0,
            waiting: VecDeque::new(),
            position: Position::default(),
            silent: None,
            asides: Vec::new(),
            toolbox,
            captioning: Captioning::new(pictures.board().clone()),
            given,
            kept: VecDeque::new(),
            spoken_to: false,
            asked: epoch,
            noting: None,
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
            self.follow_cues();
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
                Happened::Saw(saw) => self.saw(saw),
                Happened::Tools(Came::Answered(answered)) => self.answered(answered),
                // What is due is taken up at the next round.
                Happened::Tools(Came::Due) => {}
                Happened::Given(given) => self.given(given),
                Happened::Order(Some(order)) => self.order(order),
                Happened::Order(None) => {
                    if let Some(session) = &self.session {
                        self.tell(figures::session(session.figures()));
                    }
                    self.seeing.close();
                    return Outcome::Done;
                }
                Happened::Time => {
                    if let Some(ears) = &mut self.ears {
                        ears.hearing.handle_time(Instant::now());
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let hears = self.ears.as_ref().and_then(|ears| ears.hearing.wake_at());
        let noting = self.noting.as_ref().map(|(_, until)| *until);
        let wake = [hears, noting].into_iter().flatten().min();
        let RealtimeTalking { orders, ears, session, voicing, seeing, toolbox, given, .. } = self;
        tokio::select! {
            biased;
            order = orders.recv() => Happened::Order(order),
            happened = listened(ears.as_mut()) => happened,
            event = told(session.as_mut()) => Happened::Session(event),
            saw = seeing.next() => Happened::Saw(saw),
            came = toolbox.next() => Happened::Tools(came),
            Some(given) = given.recv() => Happened::Given(given),
            voiced = voicing::next(voicing) => Happened::Voiced(voiced),
            () = until(wake) => Happened::Time,
        }
    }

    /// What the ears made of the sound.
    fn listen(&mut self) {
        while let Some(heard) = self.ears.as_mut().and_then(|ears| ears.hearing.poll()) {
            match heard {
                Heard::SpeechStarted { .. } => {
                    self.toolbox.handle_speech();
                    self.speaking(true, Reason::Onset);
                }
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
                // Else the provider ends turns.
                Heard::TurnEnded { .. } => {
                    if let Some(session) = self.session.as_mut().filter(|_| self.realtime.turns_are_ours()) {
                        session.commit_turn();
                    }
                }
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
        self.spoken_to = speaking;
        self.tell(Told::new(if speaking { "speech.started" } else { "speech.ended" }));
        if let Some(session) = &mut self.session {
            session.caller_speaks(speaking);
            // Does nothing where turns are theirs.
            if speaking {
                session.begin_turn();
            }
        }
        self.seeing.speaking(speaking);
        if let Some(ears) = &self.ears {
            ears.line.say.caller_speaks(speaking);
        }
        // Nobody waits for a picture that will not come.
        let _ = self.seeing.want(reason);
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
                    self.waiting.push_back(Piece {
                        utterance,
                        rate,
                        samples: Arc::from([]),
                        last: true,
                        place: None,
                    });
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
                    let utterance = item.utterance;
                    self.captioning.says(Instant::now(), utterance, text.trim());
                }
            }
            RealtimeEvent::Transcript { .. } | RealtimeEvent::SpeechStarted | RealtimeEvent::SpeechEnded => {}
            RealtimeEvent::Aside { id, answer, usage } => {
                if let Some(at) = self.asides.iter().position(|(asked, _)| *asked == id) {
                    let (_, number) = self.asides.swap_remove(at);
                    self.aside(number, answer, usage);
                }
            }
            RealtimeEvent::TurnDone { usage } => {
                self.tell(figures::usage(usage));
                let stale = self.seeing.turn_done(usage);
                if let Some(session) = &mut self.session {
                    stale.into_iter().for_each(|id| session.drop_image(id));
                }
            }
            RealtimeEvent::Call(call) => self.toolbox.handle_call(Instant::now(), call, &mut self.seeing),
            RealtimeEvent::CallsCancelled(ids) => self.toolbox.cancel(&ids),
            RealtimeEvent::Interrupted { .. } => self.cut(),
            RealtimeEvent::Trouble(failure) if failure.is_about_pictures() => self.seeing.blinded(&failure),
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

    /// The caller wants the floor.
    fn interrupt(&mut self) {
        if let Some(session) = &mut self.session {
            session.interrupt();
        }
        self.cut();
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

    fn saw(&mut self, saw: Saw) {
        match saw {
            Saw::Picture { image, reason } => {
                let shown = image.is_some_and(|image| self.show(image, reason));
                if reason == Reason::Look {
                    self.toolbox.handle_look(shown, Vec::new());
                } else if reason == Reason::Turn
                    && let Some((text, _)) = self.noting.take()
                {
                    self.note(&text);
                }
            }
            Saw::Scene(scene) => {
                if let Some(session) = &mut self.session {
                    session.scene(scene.as_deref());
                }
            }
            Saw::Looked(looked) => self.toolbox.handle_looked(looked),
            Saw::Question { number, request } => match &mut self.session {
                Some(session) => {
                    let id = session.ask_aside(&request);
                    self.asides.push((id, number));
                }
                None => self.aside(number, Err(Failure::Cut), Usage::default()),
            },
        }
    }

    /// What the model said beside the talk.
    fn aside(&mut self, number: u64, answer: Result<String, Failure>, usage: Usage) {
        self.tell(figures::usage(usage));
        self.seeing.handle_aside(number, answer, usage, &self.realtime.endpoint.name);
    }

    /// What is to be done without anybody having spoken.
    fn follow_cues(&mut self) {
        let now = Instant::now();
        // A note waits for the picture that goes with it, a moment.
        if let Some((text, _)) = self.noting.take_if(|(_, until)| now >= *until) {
            self.note(&text);
        }
        loop {
            let quiet = self.silent.is_none_or(|silent| now >= silent + UNANSWERED);
            let idle = self.greeted && !self.spoken_to && self.noting.is_none();
            let free = idle && quiet && !self.is_speaking() && now >= self.asked + ANSWER_BEGINS;
            match self.toolbox.poll(now, free, &mut self.seeing) {
                Some(Cue::Note(text)) if self.seeing.want(Reason::Turn) => {
                    self.noting = Some((text, now + PICTURE_LIMIT));
                }
                Some(Cue::Note(text)) => self.note(&text),
                Some(Cue::Say(text)) => {
                    self.asked = now;
                    if let Some(session) = &mut self.session {
                        session.say(&text);
                    }
                }
                None => return,
            }
        }
    }

    fn note(&mut self, text: &str) {
        self.asked = Instant::now();
        self.tell(Told::new("agent.noted").with("text", text));
        if let Some(session) = &mut self.session {
            session.text(text);
        }
    }

    /// Sends a picture the model has not seen yet. `false`: it has not seen it and will not.
    fn show(&mut self, image: Arc<Image>, reason: Reason) -> bool {
        if self.seeing.has_shown(&image) {
            return true;
        }
        let Some(session) = &mut self.session else { return false };
        if !self.seeing.take(&image) {
            return false;
        }
        let age = image.taken.map_or(Duration::ZERO, |taken| taken.elapsed());
        session.push_image(image);
        self.tell(Told::new("vision.sent").with("reason", reason.name()).with_ms("age_ms", age));
        true
    }

    fn answered(&mut self, answered: Answered) {
        let Some(session) = &mut self.session else { return };
        for image in answered.images.into_iter().filter(|image| self.seeing.take(image)) {
            session.push_image(image);
        }
        session.answer_tool(&answered.id, &answered.result);
    }

    /// A picture from outside: it stays before the model until four newer ones were given, and starts no turn.
    fn given(&mut self, given: Given) {
        let Some(session) = &mut self.session else { return };
        let mut image = Image::clone(&given.image);
        image.pinned = true;
        if !given.text.is_empty() {
            image.note = given.text;
        }
        self.kept.push_back(image.id);
        session.push_image(Arc::new(image));
        if self.kept.len() > GIVEN_KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            session.drop_image(oldest);
        }
    }

    fn leave_when_silent(&mut self) {
        let said = self.position.utterance == self.utterances && self.position.whole;
        self.toolbox.leave_when(said && !self.is_speaking());
    }

    fn order(&mut self, order: TalkOrder) {
        match order {
            TalkOrder::Attach(line) => self.attach(line),
            TalkOrder::Begin => {
                if !std::mem::replace(&mut self.begun, true) {
                    self.toolbox.handle_answer(Instant::now());
                }
                self.seeing.begin();
                self.greet();
            }
            TalkOrder::Describe { question, reply } => self.seeing.describe(question, reply),
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
            TalkOrder::CommitTurn => {
                if let Some(ears) = &mut self.ears {
                    ears.hearing.commit_turn(Instant::now());
                }
            }
            TalkOrder::ClearTurn => {
                if let Some(ears) = &mut self.ears {
                    ears.hearing.clear_turn();
                }
                if let Some(session) = &mut self.session {
                    session.clear_turn();
                }
            }
            TalkOrder::Digit(digit) => self.toolbox.handle_digit(Instant::now(), digit),
            TalkOrder::Done { id, result, done } => self.toolbox.handle_done(&id, result, done),
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
        self.captioning.handle_told(Instant::now(), &told);
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
