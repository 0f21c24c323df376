//! Driver. The task of one call whose agent talks: carries sound, judgements, words, pictures and answers into the
//! pure conversation, and does what comes out of it.
//!
//! ```text
//! caller's block ─▶ hear ─▶ conversation ─▶ Ask ═ models    Speak ═ voices ─▶ Say ─▶ beat of the network task
//!        └▶ ears, transcriber ─┘   ▲                └ Look ═ sight      Tool ─▶ tools ─▶ wish of the call
//! ```
//! It waits for networks and never computes for long; the beat does not wait for it. A call whose agent is stuck goes on
//! as a silent call.

#![expect(clippy::disallowed_methods, reason = "turns and replies are timed")]

pub(super) mod captioning;
pub mod cues;
mod doors;
mod figures;
pub mod picturing;
pub mod realtime;
pub mod seeing;
pub mod toolbox;
pub(super) mod voicing;
pub mod watching;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use self::captioning::Captioning;
use self::cues::Cue;
use self::realtime::Realtime;
use self::seeing::{Saw, Seeing, SeeingSettings};
use self::toolbox::{Answered, Came, ToolSet, Toolbox, Tooling};
use self::voicing::Voicing;
use crate::base::queue::{Fifo, Receiver, Sender};
use crate::base::reply::Reply;
use crate::base::stop::Outcome;
use crate::codec::g711::Law;
use crate::engine::face::{FaceSettings, Turnkey};
use crate::engine::pictures::{Given, Pictures};
use crate::engine::plan::{CallId, Event};
use crate::engine::playout::{LONGEST_AHEAD, Position, Say};
use crate::engine::sight::SightHandle;
use crate::media::audio::{Judgement, Pcm};
use crate::talk::conversation::{Conversation, ConversationSettings, Do, Told};
use crate::talk::hear::{Heard, Hearing, HearingSettings};
use crate::talk::link::{
    self, Answer, Decision, Decisions, Models, Transcribers, Transcript, Transcription, Voices,
};
use crate::talk::message::{Delta, Failure};
use crate::talk::sight::Reason;
use crate::talk::sight::description::Seen;
use crate::talk::tools::unlock::Who;
use crate::talk::wire::decision::Verdict;
use crate::vision::appearance::Appearance;
use crate::worker::ears::{Ears, Listener};

/// Blocks of the caller that wait for this task.
pub const BLOCKS: usize = 50;
/// Orders that wait for it.
pub const ORDERS: usize = 64;
/// What came into the picture, waiting for it; what is lost is said again as long as it is there.
pub const SEEN: usize = 64;
/// What our own line carries between words, for the echo gate.
pub(super) const PAUSE_DB: f32 = -100.0;

/// An agent that talks, as every call of it needs it.
#[derive(Clone)]
pub struct Agent {
    pub name: String,
    pub conversation: ConversationSettings,
    pub hearing: HearingSettings,
    pub seeing: SeeingSettings,
    pub mind: Mind,
    /// What the caller sees of it; [`Mind::Avatar`] has one.
    pub face: Option<Arc<FaceSettings>>,
    /// `None`: speech is told by its energy alone.
    pub ears: Option<Ears>,
    /// Who decides of turns before a pipeline answers them; `None`: nobody.
    pub decisions: Option<Decisions>,
    /// What it has to act with.
    pub tools: Arc<ToolSet>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({})", self.name)
    }
}

/// Whom it talks through.
#[derive(Clone)]
pub enum Mind {
    Pipeline(Pipeline),
    Realtime(Box<Realtime>),
    /// The provider of its face hears and answers.
    Avatar(Turnkey),
}

/// Three models, each a list in the order of trying; shared by the calls of an agent.
#[derive(Clone)]
pub struct Pipeline {
    pub models: Arc<Models>,
    pub transcribers: Arc<Transcribers>,
    pub voices: Arc<Voices>,
}

/// The line an agent hears and speaks on.
pub struct Line {
    /// Hz of the caller's sound and of what is said.
    pub rate: u32,
    /// The call is G.711 by this law.
    pub law: Option<Law>,
    pub say: Say,
    pub sound: Receiver<Pcm, Fifo>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({} Hz)", self.rate)
    }
}

/// What the call wants of its agent.
#[derive(Debug)]
pub enum TalkOrder {
    /// A stream of sound begins; one there was before is gone.
    Attach(Line),
    /// Say a text, behind what is being said.
    Say(String),
    /// A turn without sound.
    Text(String),
    /// The turn is over, whatever is heard.
    CommitTurn,
    ClearTurn,
    /// The call was answered: now the agent speaks.
    Begin,
    /// The caller pressed a key.
    Digit(char),
    /// What came of a wish, and whether it was granted.
    Done {
        id: String,
        result: String,
        done: bool,
    },
    /// Somebody asks what there is to see now; an empty question asks for nothing in particular.
    Describe {
        question: String,
        reply: Reply<Seen>,
    },
}

/// What an agent wants of its call; answered by [`TalkOrder::Done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    HangUp,
    Digits(String),
    Transfer(String),
    Hold,
    /// Nothing is recorded from now on, or everything again.
    Record {
        paused: bool,
    },
}

/// What the task is made of.
pub struct Parts {
    pub call: CallId,
    pub epoch: Instant,
    pub agent: Arc<Agent>,
    pub orders: Receiver<TalkOrder, Fifo>,
    pub events: Sender<Event, Fifo>,
    pub sight: Option<SightHandle>,
    pub pictures: Arc<Pictures>,
    /// What applications give.
    pub given: Receiver<Given, Fifo>,
    pub seen: Option<Receiver<Appearance, Fifo>>,
    pub caller: Who,
}

impl Parts {
    /// The tools of this call.
    fn toolbox(&mut self) -> Toolbox {
        Toolbox::new(Tooling {
            call: self.call,
            events: self.events.clone(),
            offered: self.agent.conversation.context.tools.clone(),
            set: self.agent.tools.clone(),
            seen: self.seen.take(),
            caller: std::mem::take(&mut self.caller),
            pictures: Some(self.pictures.clone()),
        })
    }
}

/// The running conversation.
pub struct Talking {
    call: CallId,
    epoch: Instant,
    agent: Arc<Agent>,
    pipeline: Pipeline,
    orders: Receiver<TalkOrder, Fifo>,
    events: Sender<Event, Fifo>,
    seeing: Seeing,
    conversation: Conversation,
    /// `None`: there is no sound.
    ears: Option<Hears>,
    answer: Option<(u32, Answer)>,
    decision: Option<(u32, Decision)>,
    voicing: VecDeque<Voicing>,
    toolbox: Toolbox,
    captioning: Captioning,
    given: Receiver<Given, Fifo>,
    position: Position,
    begun: bool,
    pre_roll: Vec<i16>,
}

/// All that listens to one stream of sound.
struct Hears {
    line: Line,
    hearing: Hearing,
    listener: Option<Listener>,
    transcription: Transcription,
}

impl Hears {
    fn new(line: Line, agent: &Agent, pipeline: &Pipeline) -> Hears {
        let (rate, law) = (line.rate, line.law);
        let hearing = Hearing::new(HearingSettings { rate, ..agent.hearing.clone() });
        // What is listened to is a copy at a rate of its own.
        let rate = hearing.copy_rate();
        Hears {
            line,
            hearing,
            listener: agent.ears.as_ref().map(|ears| ears.listener(rate)),
            transcription: pipeline.transcribers.open(link::Sound { rate, law }),
        }
    }
}

/// Something happened.
enum Happened {
    /// `None`: the stream of sound is gone.
    Block(Option<Pcm>),
    Judged(Judgement),
    Words(Result<Transcript, Failure>),
    Piece(Option<Result<Delta, Failure>>),
    Decided(Result<Verdict, Failure>),
    Voiced(Result<Option<Arc<[i16]>>, Failure>),
    Saw(Saw),
    Tools(Came),
    Given(Given),
    Order(TalkOrder),
    Time,
    /// Nobody gives orders any more: the call is over.
    Over,
}

impl Talking {
    pub fn new(mut parts: Parts, pipeline: Pipeline) -> Self {
        let toolbox = parts.toolbox();
        let Parts { call, epoch, agent, orders, events, sight, pictures, given, .. } = parts;
        let seeing = Seeing::new(call, events.clone(), Some(agent.seeing.clone()), sight);
        Talking {
            conversation: Conversation::new(agent.conversation.clone()),
            ears: None,
            answer: None,
            decision: None,
            voicing: VecDeque::new(),
            toolbox,
            captioning: Captioning::new(pictures.board().clone()),
            given,
            position: Position::default(),
            begun: false,
            pre_roll: Vec::new(),
            call,
            epoch,
            agent,
            pipeline,
            orders,
            events,
            seeing,
        }
    }

    /// Runs until the call is over.
    pub async fn run(mut self) -> Outcome {
        loop {
            self.carry_out();
            match self.next().await {
                Happened::Block(Some(block)) => self.block(&block),
                Happened::Block(None) => self.ears = None,
                Happened::Judged(judgement) => {
                    if let Some(ears) = &mut self.ears {
                        ears.hearing.handle_judgement(Instant::now(), judgement);
                    }
                }
                Happened::Words(words) => self.words(words),
                Happened::Piece(piece) => self.piece(piece),
                Happened::Decided(verdict) => {
                    if let Some((number, _)) = self.decision.take() {
                        self.conversation.handle_decision(Instant::now(), number, verdict);
                    }
                }
                Happened::Voiced(sound) => self.voiced(sound),
                Happened::Saw(saw) => self.saw(saw),
                Happened::Tools(Came::Answered(answered)) => self.answered(&answered),
                // What is due is taken up at the next round.
                Happened::Tools(Came::Due) => {}
                Happened::Given(given) => self.conversation.handle_given(given.image, &given.text),
                Happened::Order(order) => self.order(order),
                Happened::Time => self.time(),
                Happened::Over => {
                    self.tell(figures::conversation(self.conversation.figures()));
                    self.seeing.close();
                    return Outcome::Done;
                }
            }
        }
    }

    async fn next(&mut self) -> Happened {
        let hears = self.ears.as_ref().and_then(|ears| ears.hearing.wake_at());
        let wake = [self.conversation.wake_at(), hears].into_iter().flatten().min();
        let ahead = voicing::ahead(&self.voicing, self.position) >= LONGEST_AHEAD;
        let Talking { orders, ears, answer, decision, voicing, seeing, toolbox, given, .. } = self;
        tokio::select! {
            biased;
            order = orders.recv() => order.map_or(Happened::Over, Happened::Order),
            happened = listened(ears.as_mut()) => happened,
            piece = answered(answer.as_mut()) => Happened::Piece(piece),
            verdict = decided(decision.as_mut()) => Happened::Decided(verdict),
            saw = seeing.next() => Happened::Saw(saw),
            came = toolbox.next() => Happened::Tools(came),
            Some(given) = given.recv() => Happened::Given(given),
            voiced = voicing::next(voicing), if !ahead => Happened::Voiced(voiced),
            () = until(wake) => Happened::Time,
        }
    }

    /// Does what the conversation wants, and tells it what was heard, until neither has anything more.
    fn carry_out(&mut self) {
        let now = Instant::now();
        self.follow_cues(now);
        loop {
            while let Some(heard) = self.ears.as_mut().and_then(|ears| ears.hearing.poll()) {
                self.heard(now, heard);
            }
            let Some(wanted) = self.conversation.poll() else { break };
            self.carry(now, wanted);
        }
        let quiet = self.ears.as_ref().is_none_or(|ears| ears.line.say.is_idle());
        self.toolbox.leave_when(quiet && self.voicing.is_empty() && !self.conversation.is_busy());
    }

    /// What is to be done without anybody having spoken.
    fn follow_cues(&mut self, now: Instant) {
        loop {
            let free = self.begun && self.conversation.is_idle();
            match self.toolbox.poll(now, free, &mut self.seeing) {
                Some(Cue::Note(text)) => self.conversation.handle_note(now, &text),
                Some(Cue::Say(text)) => self.conversation.say(now, &text),
                None => return,
            }
        }
    }

    fn carry(&mut self, now: Instant, wanted: Do) {
        match wanted {
            Do::Listen | Do::Transcribe | Do::Unlisten | Do::Duck(_) | Do::Hold(_) => self.on_line(&wanted),
            Do::Look(reason) => {
                if !self.seeing.want(reason) {
                    self.conversation.handle_picture(now, None, reason);
                }
            }
            Do::Ask { ask, request } => {
                let request = self.seeing.admit(request);
                self.answer = Some((ask, self.pipeline.models.ask(request)));
            }
            Do::Abandon { ask } => {
                self.answer.take_if(|(asked, _)| *asked == ask);
            }
            Do::Speak { utterance, text } => match &self.ears {
                Some(ears) => {
                    self.captioning.says(now, utterance, &text);
                    let speech = self
                        .pipeline
                        .voices
                        .say(&text, link::Sound { rate: ears.line.rate, law: ears.line.law });
                    self.voicing.push_back(Voicing::new(utterance, speech));
                }
                // Nobody could hear it.
                None => self.conversation.handle_voiced(now, utterance, Ok(0)),
            },
            Do::Hush { through } => {
                self.captioning.cut();
                self.voicing.retain(|voicing| voicing.utterance > through);
                if let Some(ears) = &self.ears {
                    ears.line.say.drop_through(through);
                }
            }
            Do::Tool(call) => self.toolbox.handle_call(now, call, &mut self.seeing),
            Do::Decide { number, text, pictures } => self.decide(now, number, &text, pictures),
            Do::Tell(told) => self.tell(told),
        }
    }

    /// Asks the application about a turn; one it was asked about before is over or changed.
    fn decide(&mut self, now: Instant, number: u32, text: &str, pictures: usize) {
        let Some(decisions) = &self.agent.decisions else { return };
        let data = json!({ "agent": self.agent.name, "text": text, "pictures": pictures });
        self.decision = Some((number, decisions.ask(now, &self.call.to_string(), "turn.completed", data)));
    }

    /// What concerns the stream of sound alone.
    fn on_line(&mut self, wanted: &Do) {
        let Some(ears) = &mut self.ears else { return };
        match wanted {
            Do::Listen => {
                ears.hearing.pre_roll(&mut self.pre_roll);
                ears.transcription.begin(&self.pre_roll);
            }
            Do::Transcribe => ears.transcription.commit(),
            Do::Unlisten => ears.transcription.discard(),
            Do::Duck(ducked) => ears.line.say.duck(*ducked),
            Do::Hold(held) => ears.line.say.hold(*held),
            Do::Look(_)
            | Do::Ask { .. }
            | Do::Abandon { .. }
            | Do::Speak { .. }
            | Do::Hush { .. }
            | Do::Tool(_)
            | Do::Decide { .. }
            | Do::Tell(_) => {}
        }
    }

    fn heard(&mut self, now: Instant, heard: Heard) {
        match heard {
            Heard::AskFinished { spoken } => {
                if let Some(listener) = self.ears.as_mut().and_then(|ears| ears.listener.as_mut()) {
                    listener.ask_finished(spoken);
                }
            }
            Heard::SpeechStarted { .. } => {
                self.toolbox.handle_speech();
                self.speaking(true);
            }
            Heard::SpeechEnded { .. } => self.speaking(false),
            Heard::TurnEnded { .. }
            | Heard::Duck
            | Heard::Pause
            | Heard::Interrupt
            | Heard::Resume { .. } => {}
        }
        self.conversation.handle_heard(now, heard);
    }

    fn speaking(&self, speaking: bool) {
        self.seeing.speaking(speaking);
        if let Some(ears) = &self.ears {
            ears.line.say.caller_speaks(speaking);
        }
    }

    /// 20 ms of the caller: also the clock by which the playout is followed.
    fn block(&mut self, block: &Pcm) {
        let now = Instant::now();
        let replying = self.conversation.is_replying();
        if let Some(Hears { line, .. }) = self.ears.take_if(|ears| ears.line.rate != block.rate) {
            // The codec was changed: what was heard so far is of another kind.
            let line = Line { rate: block.rate, law: None, ..line };
            self.ears = Some(Hears::new(line, &self.agent, &self.pipeline));
        }
        let Some(ears) = &mut self.ears else { return };
        let playing = replying.then(|| ears.line.say.level_db().unwrap_or(PAUSE_DB));
        ears.hearing.set_wait(block.age(self.epoch, now));
        let heard = ears.hearing.handle_block(now, &block.samples, playing);
        if let Some(listener) = &mut ears.listener {
            listener.hear(heard);
        }
        ears.transcription.push(heard);
        self.follow(now);
    }

    /// Tells the conversation how far the caller has heard.
    fn follow(&mut self, now: Instant) {
        let Some(ears) = &self.ears else { return };
        let position = ears.line.say.position();
        if position == self.position {
            return;
        }
        self.position = position;
        let began = self.epoch + ears.line.say.began();
        self.captioning.follow(now, position.utterance);
        let Position { utterance, ms, whole } = position;
        self.conversation.handle_played(now, utterance, ms, whole, began);
    }

    fn words(&mut self, words: Result<Transcript, Failure>) {
        let now = Instant::now();
        let Some(ears) = &mut self.ears else { return };
        match words {
            Ok(Transcript::Partial(text)) => {
                ears.hearing.handle_transcript(&text, false);
                self.conversation.handle_partial(&text);
            }
            Ok(Transcript::Final(text)) => {
                ears.hearing.handle_transcript(&text, true);
                // What the words decide comes before the words are answered.
                while let Some(heard) = self.ears.as_mut().and_then(|ears| ears.hearing.poll()) {
                    self.heard(now, heard);
                }
                self.conversation.handle_transcript(now, Ok(text));
            }
            Err(failure) => self.conversation.handle_transcript(now, Err(failure)),
        }
    }

    fn piece(&mut self, piece: Option<Result<Delta, Failure>>) {
        let Some((ask, _)) = self.answer else { return };
        match &piece {
            Some(Ok(Delta::Usage(usage))) => {
                self.seeing.settle(*usage);
                self.tell(figures::usage(*usage));
            }
            Some(Err(failure)) => {
                if let Some(blind) = self.seeing.refused(failure) {
                    // The words alone are answered.
                    self.answer = Some((ask, self.pipeline.models.ask(blind)));
                    return;
                }
            }
            Some(Ok(Delta::Text(_) | Delta::Call(_) | Delta::Finish(_))) | None => {}
        }
        let ends = piece.as_ref().is_none_or(|piece| matches!(piece, Ok(Delta::Finish(_)) | Err(_)));
        if ends {
            self.answer = None;
        }
        self.conversation.handle_delta(Instant::now(), ask, piece.unwrap_or(Err(Failure::Cut)));
    }

    fn voiced(&mut self, sound: Result<Option<Arc<[i16]>>, Failure>) {
        let (Some(voicing), Some(ears)) = (self.voicing.front_mut(), &self.ears) else {
            self.voicing.clear();
            return;
        };
        let (say, rate) = (&ears.line.say, ears.line.rate);
        let ended = match sound {
            Ok(Some(samples)) => return voicing.pass(say, rate, &samples),
            Ok(None) => Ok(voicing.end(say, rate)),
            Err(failure) => {
                voicing.end(say, rate);
                Err(failure)
            }
        };
        let utterance = voicing.utterance;
        self.voicing.pop_front();
        self.conversation.handle_voiced(Instant::now(), utterance, ended);
    }

    fn saw(&mut self, saw: Saw) {
        match saw {
            Saw::Picture { image, reason: Reason::Look } => {
                self.toolbox.handle_look(image.is_some(), image.into_iter().collect());
            }
            Saw::Picture { image, reason } => {
                self.conversation.handle_picture(Instant::now(), image, reason);
            }
            Saw::Scene(scene) => self.conversation.context().observe(scene),
            Saw::Looked(looked) => self.toolbox.handle_looked(looked),
            // Of realtime models only.
            Saw::Question { .. } => {}
        }
    }

    fn answered(&mut self, answered: &Answered) {
        let Answered { id, result, images, quiet } = answered;
        self.conversation.handle_tool(Instant::now(), id, result, images, *quiet);
    }

    fn order(&mut self, order: TalkOrder) {
        let now = Instant::now();
        match order {
            TalkOrder::Attach(line) => {
                self.position = Position::default();
                self.ears = Some(Hears::new(line, &self.agent, &self.pipeline));
            }
            TalkOrder::Say(text) => self.conversation.say(now, &text),
            TalkOrder::Text(text) => self.conversation.handle_text(now, &text),
            TalkOrder::CommitTurn => {
                if let Some(ears) = &mut self.ears {
                    ears.hearing.commit_turn(now);
                }
            }
            TalkOrder::ClearTurn => {
                if let Some(ears) = &mut self.ears {
                    ears.hearing.clear_turn();
                }
                self.conversation.clear_turn();
            }
            TalkOrder::Describe { question, reply } => self.seeing.describe(question, reply),
            TalkOrder::Begin => {
                self.seeing.begin();
                if !std::mem::replace(&mut self.begun, true) {
                    self.conversation.start(now);
                    self.toolbox.handle_answer(now);
                }
            }
            TalkOrder::Digit(digit) => self.toolbox.handle_digit(now, digit),
            TalkOrder::Done { id, result, done } => self.toolbox.handle_done(&id, result, done),
        }
    }

    fn time(&mut self) {
        let now = Instant::now();
        if let Some(ears) = &mut self.ears {
            ears.hearing.handle_time(now);
        }
        self.conversation.handle_time(now);
        self.follow(now);
    }

    fn tell(&self, told: Told) {
        self.captioning.handle_told(Instant::now(), &told);
        self.events.offer(Event::Told { call: self.call, told });
    }
}

/// What comes of the stream of sound: blocks first, they keep the time.
async fn listened(ears: Option<&mut Hears>) -> Happened {
    let Some(Hears { line, listener, transcription, .. }) = ears else { return std::future::pending().await };
    tokio::select! {
        biased;
        block = line.sound.recv() => Happened::Block(block),
        judgement = judged(listener.as_mut()) => Happened::Judged(judgement),
        words = transcription.next() => Happened::Words(words),
    }
}

pub(super) async fn judged(listener: Option<&mut Listener>) -> Judgement {
    match listener {
        Some(listener) => listener.next().await,
        None => std::future::pending().await,
    }
}

async fn answered(answer: Option<&mut (u32, Answer)>) -> Option<Result<Delta, Failure>> {
    match answer {
        Some((_, answer)) => answer.next().await,
        None => std::future::pending().await,
    }
}

async fn decided(decision: Option<&mut (u32, Decision)>) -> Result<Verdict, Failure> {
    match decision {
        Some((_, decision)) => decision.next().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
