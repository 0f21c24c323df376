//! Driver. The task of one call whose agent is a face and nothing else: the provider hears, thinks and speaks.
//!
//! Whether the caller interrupts is decided here, by the same ears as everywhere else, and at once: the provider's own
//! word comes a network later. What was said is told as the provider tells it.

#![expect(clippy::disallowed_methods, reason = "turns are timed")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::avatar::Speaker;
use crate::base::queue::{Fifo, Receiver, Sender};
use crate::base::stop::Outcome;
use crate::engine::face::Turnkey;
use crate::engine::pictures::Given;
use crate::engine::plan::{CallId, Event};
use crate::engine::playout::Position;
use crate::engine::talk::captioning::Captioning;
use crate::engine::talk::seeing::Seeing;
use crate::engine::talk::voicing::{self, Voicing};
use crate::engine::talk::{Agent, Line, PAUSE_DB, Parts, TalkOrder, judged, until};
use crate::media::audio::{Judgement, Pcm};
use crate::talk::conversation::Told;
use crate::talk::hear::{Heard, Hearing, HearingSettings};
use crate::talk::message::Failure;
use crate::worker::ears::Listener;

/// What waits for the face: two seconds of the caller.
pub const WANTED: usize = 100;
/// What waits for this task.
pub const ANSWERS: usize = 256;

/// What the agent wants of its face.
#[derive(Debug)]
pub enum Wanted {
    Microphone(Pcm),
    /// Something said by the caller, without sound.
    Text(String),
    /// Something to say.
    Say(String),
}

/// What the face tells its agent.
#[derive(Debug)]
pub enum Answer {
    /// It hears and speaks from now on.
    Ready,
    /// It will not come back.
    Gone,
    Transcript {
        speaker: Speaker,
        text: String,
        last: bool,
    },
    CallerSpeaks(bool),
    /// An utterance begins to be heard.
    Speaking {
        utterance: u32,
        at: Instant,
    },
    Spoken(u32),
    /// It has no voice for a text, or is not there.
    Unsaid(String),
}

/// The face's end of the two queues.
pub struct Desk {
    pub wanted: Receiver<Wanted, Fifo>,
    pub answers: Sender<Answer, Fifo>,
}

/// The agent's end.
pub struct Client {
    pub wanted: Sender<Wanted, Fifo>,
    pub answers: Receiver<Answer, Fifo>,
}

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

/// The running call.
pub struct TurnkeyTalking {
    call: CallId,
    epoch: Instant,
    agent: Arc<Agent>,
    turnkey: Turnkey,
    client: Client,
    orders: Receiver<TalkOrder, Fifo>,
    events: Sender<Event, Fifo>,
    given: Receiver<Given, Fifo>,
    seeing: Seeing,
    ears: Option<Hears>,
    captioning: Captioning,
    voicing: VecDeque<Voicing>,
    /// The last utterance, and what is said in it.
    utterance: u32,
    text: String,
    position: Position,
    /// When the caller fell silent, until the answer to it is heard.
    silent: Option<Instant>,
    begun: bool,
    ready: bool,
    greeted: bool,
}

enum Happened {
    Block(Option<Pcm>),
    Judged(Judgement),
    Answer(Option<Answer>),
    Voiced(Result<Option<Arc<[i16]>>, Failure>),
    Saw,
    Order(Option<TalkOrder>),
    Time,
}

impl TurnkeyTalking {
    pub fn new(parts: Parts, turnkey: Turnkey, client: Client) -> Self {
        let Parts { call, epoch, agent, orders, events, sight, pictures, given, .. } = parts;
        TurnkeyTalking {
            seeing: Seeing::new(call, events.clone(), Some(agent.seeing.clone()), sight),
            captioning: Captioning::new(pictures.board().clone()),
            call,
            epoch,
            agent,
            turnkey,
            client,
            orders,
            events,
            given,
            ears: None,
            voicing: VecDeque::new(),
            utterance: 0,
            text: String::new(),
            position: Position::default(),
            silent: None,
            begun: false,
            ready: false,
            greeted: false,
        }
    }

    /// Runs until the call is over.
    pub async fn run(mut self) -> Outcome {
        loop {
            self.listen();
            match self.next().await {
                Happened::Block(Some(block)) => self.block(block),
                Happened::Block(None) => self.ears = None,
                Happened::Judged(judgement) => {
                    if let Some(ears) = &mut self.ears {
                        ears.hearing.handle_judgement(Instant::now(), judgement);
                    }
                }
                Happened::Answer(Some(answer)) => self.answer(answer),
                Happened::Voiced(sound) => self.voiced(sound),
                // It has no eyes of its own; what others ask is answered within.
                Happened::Saw => {}
                Happened::Order(Some(order)) => self.order(order),
                Happened::Order(None) | Happened::Answer(None) => {
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
        let wake = self.ears.as_ref().and_then(|ears| ears.hearing.wake_at());
        let TurnkeyTalking { orders, ears, client, voicing, seeing, given, .. } = self;
        loop {
            return tokio::select! {
                biased;
                order = orders.recv() => Happened::Order(order),
                happened = listened(ears.as_mut()) => happened,
                answer = client.answers.recv() => Happened::Answer(answer),
                voiced = voicing::next(voicing) => Happened::Voiced(voiced),
                _ = seeing.next() => Happened::Saw,
                // It cannot be shown anything.
                Some(_) = given.recv() => continue,
                () = until(wake) => Happened::Time,
            };
        }
    }

    fn listen(&mut self) {
        while let Some(heard) = self.ears.as_mut().and_then(|ears| ears.hearing.poll()) {
            match heard {
                Heard::SpeechStarted { .. } => self.speaking(true),
                Heard::SpeechEnded { at, .. } => {
                    self.silent = Some(at);
                    self.speaking(false);
                }
                Heard::Interrupt => self.interrupt(),
                Heard::Duck => self.with_line(|line| line.say.duck(true)),
                Heard::Pause => self.with_line(|line| line.say.hold(true)),
                Heard::Resume { .. } => self.with_line(|line| {
                    line.say.hold(false);
                    line.say.duck(false);
                }),
                Heard::AskFinished { spoken } => {
                    if let Some(listener) = self.ears.as_mut().and_then(|ears| ears.listener.as_mut()) {
                        listener.ask_finished(spoken);
                    }
                }
                // The provider ends turns.
                Heard::TurnEnded { .. } => {}
            }
        }
    }

    fn with_line(&self, work: impl FnOnce(&Line)) {
        if let Some(ears) = &self.ears {
            work(&ears.line);
        }
    }

    fn speaking(&mut self, speaking: bool) {
        self.tell(Told::new(if speaking { "speech.started" } else { "speech.ended" }));
        self.with_line(|line| line.say.caller_speaks(speaking));
        self.seeing.speaking(speaking);
    }

    /// The caller wants the floor.
    fn interrupt(&mut self) {
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        let speaks = !ears.line.say.is_idle() || (position.utterance == self.utterance && !position.whole);
        ears.line.say.drop_through(self.utterance);
        self.voicing.clear();
        self.captioning.cut();
        if speaks && self.utterance > 0 {
            let told = Told::new("agent.interrupted").with("text", std::mem::take(&mut self.text));
            self.tell(told.with("heard_ms", position.ms));
        }
    }

    /// 20 ms of the caller.
    fn block(&mut self, block: Pcm) {
        let now = Instant::now();
        if let Some(Hears { line, .. }) = self.ears.take_if(|ears| ears.line.rate != block.rate) {
            // The codec was changed: what was heard so far is of another kind.
            self.ears = Some(Hears::new(Line { rate: block.rate, law: None, ..line }, &self.agent));
        }
        let Some(ears) = &mut self.ears else { return };
        let playing = (!ears.line.say.is_idle()).then(|| ears.line.say.level_db().unwrap_or(PAUSE_DB));
        ears.hearing.set_wait(block.age(self.epoch, now));
        let heard = ears.hearing.handle_block(now, &block.samples, playing);
        if let Some(listener) = &mut ears.listener {
            listener.hear(heard);
        }
        self.client.wanted.offer(Wanted::Microphone(block));
        self.follow(now);
    }

    fn follow(&mut self, now: Instant) {
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        if position == self.position {
            return;
        }
        let begins = position.utterance != self.position.utterance;
        let began = self.epoch + ears.line.say.began();
        self.position = position;
        self.captioning.follow(now, position.utterance);
        if let Some(silent) = self.silent.take_if(|_| begins) {
            let after = began.saturating_duration_since(silent);
            self.tell(Told::new("agent.speaking").with_ms("after_ms", after));
        }
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Ready => {
                self.ready = true;
                self.greet();
            }
            Answer::Gone => {
                self.ready = false;
                let text = self.agent.conversation.fallback.clone();
                if !text.is_empty() {
                    self.tell(Told::new("agent.fallback").with("text", text.clone()));
                    self.say_here(&text);
                }
            }
            Answer::Transcript { speaker: Speaker::Caller, text, last } => {
                let kind = if last { "transcript.final" } else { "transcript.partial" };
                self.tell(Told::new(kind).with("text", text.trim()));
            }
            Answer::Transcript { speaker: Speaker::Avatar, text, last } => {
                text.trim().clone_into(&mut self.text);
                self.captioning.says(Instant::now(), self.utterance.max(1), text.trim());
                if last && !self.text.is_empty() {
                    self.tell(Told::new("agent.reply").with("text", self.text.clone()));
                }
            }
            // Our own ears said so before.
            Answer::CallerSpeaks(_) | Answer::Spoken(_) => {}
            Answer::Speaking { utterance, .. } => {
                self.utterance = self.utterance.max(utterance);
                if !self.text.is_empty() {
                    let text = self.text.clone();
                    self.captioning.says(Instant::now(), utterance, &text);
                }
            }
            Answer::Unsaid(text) => self.say_here(&text),
        }
    }

    /// What is said first, once the face listens and the call is answered.
    fn greet(&mut self) {
        if !self.ready || !self.begun || std::mem::replace(&mut self.greeted, true) {
            return;
        }
        let conversation = &self.agent.conversation;
        let texts = [conversation.disclosure.as_str(), conversation.greeting.as_str()];
        let text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            self.client.wanted.offer(Wanted::Say(text));
        }
    }

    /// Says something by a voice of the box.
    fn say_here(&mut self, text: &str) {
        let Some(ears) = &self.ears else { return };
        self.utterance += 1;
        self.captioning.says(Instant::now(), self.utterance, text);
        let speech = self.turnkey.voices.say(text, ears.line.rate);
        self.voicing.push_back(Voicing::new(self.utterance, speech));
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

    fn order(&mut self, order: TalkOrder) {
        match order {
            TalkOrder::Attach(line) => {
                self.position = Position::default();
                self.ears = Some(Hears::new(line, &self.agent));
            }
            TalkOrder::Begin => {
                self.begun = true;
                self.seeing.begin();
                self.greet();
            }
            TalkOrder::Describe { question, reply } => self.seeing.describe(question, reply),
            TalkOrder::Say(text) => {
                self.client.wanted.offer(Wanted::Say(text));
            }
            TalkOrder::Text(text) => {
                self.client.wanted.offer(Wanted::Text(text));
            }
            // Turns are the provider's, and it has no tools.
            TalkOrder::CommitTurn | TalkOrder::ClearTurn | TalkOrder::Digit(_) | TalkOrder::Done { .. } => {}
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
