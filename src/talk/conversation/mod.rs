//! What an agent made of three models does: when it listens, looks, asks, speaks, stops and calls a tool.
//!
//! ```text
//! Listen ─▶ a turn (words and its picture) ─▶ question ─▶ answer ─ sentences ─▶ voice ─▶ the caller
//!   ▲            │ asked ahead, while the pause is still waited for      │
//!   └────────────┴───────── the caller speaks: duck, hold, give up ◀─────┘
//! ```
//! Pure. What the caller says and when it has finished comes from `talk::hear` and a transcriber; models, voices,
//! pictures and tools are reached by whoever carries out [`Do`]. What was said is kept in [`Context`].

mod decision;
mod reply;
mod turn;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::talk::context::{Context, ContextSettings};
use crate::talk::conversation::reply::Reply;
use crate::talk::conversation::turn::Turn;
use crate::talk::hear::Heard;
use crate::talk::message::{Delta, Failure, Finish, Image, Message, Request, ToolCall, Usage};
use crate::talk::sight::Reason;

/// How an agent talks.
#[derive(Clone, Debug, PartialEq)]
pub struct ConversationSettings {
    pub context: ContextSettings,
    /// Stands before everything that is said, for good.
    pub pinned: Vec<Message>,
    /// Said first, one after the other; empty: nothing.
    pub disclosure: String,
    pub greeting: String,
    /// Said when no model answers.
    pub fallback: String,
    /// Said when an answer takes longer than `filler_after`; empty: nothing.
    pub filler: String,
    pub filler_after: Duration,
    /// A model is asked as soon as the words are there, before the turn is surely over.
    pub preemptive: bool,
    /// Turns longer than this are not asked ahead: there will be more.
    pub preemptive_longest: Duration,
    /// Questions asked ahead in one turn.
    pub preemptive_most: u32,
    /// A picture goes with each turn.
    pub sees: bool,
    /// Answers of tools that lead to another question in one turn.
    pub tool_steps: u32,
    /// The words of a turn are waited for so long.
    pub transcript_limit: Duration,
    /// A picture is waited for so long once the words are there.
    pub picture_limit: Duration,
    /// One that is older than this when the model is asked is taken again.
    pub picture_stale: Duration,
    /// An application decides of each turn within this time; then the turn goes on as it is. `None`: nobody does.
    pub decided_within: Option<Duration>,
}

impl Default for ConversationSettings {
    fn default() -> Self {
        ConversationSettings {
            context: ContextSettings::default(),
            pinned: Vec::new(),
            disclosure: String::new(),
            greeting: String::new(),
            fallback: "I am sorry, I cannot answer right now.".to_owned(),
            filler: "One moment, please.".to_owned(),
            filler_after: Duration::from_secs(2),
            preemptive: true,
            preemptive_longest: Duration::from_secs(10),
            preemptive_most: 3,
            sees: true,
            tool_steps: 3,
            transcript_limit: Duration::from_secs(5),
            picture_limit: Duration::from_millis(80),
            picture_stale: Duration::from_millis(60),
            decided_within: None,
        }
    }
}

/// What the world should do.
#[derive(Clone, Debug, PartialEq)]
pub enum Do {
    /// A turn begins for the transcriber, with the sound from before it was noticed.
    Listen,
    /// What was heard of it so far is wanted as text.
    Transcribe,
    /// It was none.
    Unlisten,
    Look(Reason),
    Ask {
        ask: u32,
        request: Arc<Request>,
    },
    /// The answer is not wanted any more.
    Abandon {
        ask: u32,
    },
    /// Have it spoken; utterances are played in their order.
    Speak {
        utterance: u32,
        text: String,
    },
    /// Nothing of this utterance or an earlier one is to be heard any more.
    Hush {
        through: u32,
    },
    Duck(bool),
    Hold(bool),
    /// Answered by [`Conversation::handle_tool`].
    Tool(ToolCall),
    /// The application is to decide of the caller's turn; answered by [`Conversation::handle_decision`].
    Decide {
        number: u32,
        text: String,
        pictures: usize,
    },
    Tell(Told),
}

/// Something worth a line in the call record: a kind and a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub kind: &'static str,
    pub data: Vec<(&'static str, Value)>,
}

impl Told {
    pub fn new(kind: &'static str) -> Self {
        Told { kind, data: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.data.push((name, value.into()));
        self
    }

    /// Its words, if it has some.
    pub fn text(&self) -> Option<&str> {
        self.data.iter().find(|(name, _)| *name == "text").and_then(|(_, value)| value.as_str())
    }

    /// A time in milliseconds.
    #[must_use]
    pub fn with_ms(self, name: &'static str, time: Duration) -> Self {
        self.with(name, u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What was used up and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConversationFigures {
    pub turns: u64,
    pub replies: u64,
    pub interruptions: u64,
    pub questions: u64,
    /// Asked ahead and of no use.
    pub questions_wasted: u64,
    pub pictures_sent: u64,
    pub failures: u64,
    pub tools: u64,
    /// Turns of which the application was asked in vain.
    pub undecided: u64,
    pub usage: Usage,
}

/// One call's conversation.
pub struct Conversation {
    settings: ConversationSettings,
    context: Context,
    turn: Option<Turn>,
    reply: Option<Reply>,
    /// Replies behind the one being spoken: what an application wants said.
    waiting: VecDeque<String>,
    asks: u32,
    decisions: u32,
    utterances: u32,
    figures: ConversationFigures,
    out: VecDeque<Do>,
}

impl Conversation {
    pub fn new(settings: ConversationSettings) -> Self {
        let mut context = Context::new(settings.context.clone());
        for message in &settings.pinned {
            context.pin(message.clone());
        }
        Conversation {
            context,
            settings,
            turn: None,
            reply: None,
            waiting: VecDeque::new(),
            asks: 0,
            decisions: 0,
            utterances: 0,
            figures: ConversationFigures::default(),
            out: VecDeque::new(),
        }
    }

    pub fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    pub fn figures(&self) -> ConversationFigures {
        self.figures
    }

    pub fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    /// Whether a reply is being made or spoken: the caller would interrupt it.
    pub fn is_replying(&self) -> bool {
        self.reply.as_ref().is_some_and(Reply::is_spoken)
    }

    /// Whether a reply is on its way, even if nothing of it is spoken yet.
    pub fn is_busy(&self) -> bool {
        self.reply.is_some()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let turn = self.turn.as_ref().and_then(|turn| turn.wake_at(&self.settings));
        let reply = self.reply.as_ref().and_then(|reply| reply.filler_at);
        [turn, reply].into_iter().flatten().min()
    }

    fn tell(&mut self, told: Told) {
        self.out.push_back(Do::Tell(told));
    }

    /// The call is answered: what is said first.
    pub fn start(&mut self, now: Instant) {
        for text in [self.settings.disclosure.clone(), self.settings.greeting.clone()] {
            self.say(now, &text);
        }
    }

    /// Says a text, behind what is being said.
    pub fn say(&mut self, now: Instant, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        if self.reply.is_some() {
            self.waiting.push_back(text.to_owned());
            return;
        }
        let mut reply = Reply::said(now);
        let mut sentences = reply.cut(text);
        sentences.extend(reply.finish());
        self.reply = Some(reply);
        self.speak(sentences);
    }

    /// Something was heard of the caller.
    pub fn handle_heard(&mut self, now: Instant, heard: Heard) {
        match heard {
            Heard::SpeechStarted { at } => self.speech_started(at),
            Heard::SpeechEnded { at, .. } => self.speech_ended(at),
            Heard::TurnEnded { waited } => self.turn_ended(now, waited),
            Heard::Duck => self.out.push_back(Do::Duck(true)),
            Heard::Pause => self.out.push_back(Do::Hold(true)),
            Heard::Interrupt => self.interrupt(now),
            Heard::Resume { false_interruption } => {
                self.out.push_back(Do::Hold(false));
                self.out.push_back(Do::Duck(false));
                if false_interruption {
                    self.tell(Told::new("agent.false_interruption"));
                }
            }
            // Whoever listens asks the network himself.
            Heard::AskFinished { .. } => {}
        }
    }

    fn speech_started(&mut self, at: Instant) {
        self.tell(Told::new("speech.started"));
        // What was asked of a turn that goes on is of no use; and nobody wants a reply to half of it.
        let unheard = self.reply.take_if(|reply| !reply.is_spoken() && reply.turn.is_some());
        if let Some(reply) = unheard {
            self.abandon(&reply);
            self.context.retract();
            self.turn = reply.turn.map(Turn::reopened);
        }
        let mut turn = self.turn.take().unwrap_or_else(|| Turn::new(at));
        self.take_back(&mut turn);
        turn.resume();
        self.turn = Some(turn);
        self.out.push_back(Do::Listen);
        if self.settings.sees {
            self.out.push_back(Do::Look(Reason::Onset));
        }
    }

    fn speech_ended(&mut self, at: Instant) {
        self.tell(Told::new("speech.ended"));
        let Some(turn) = &mut self.turn else { return };
        turn.pause(at);
        self.out.push_back(Do::Transcribe);
        if self.settings.sees {
            turn.picture_wanted = true;
            self.out.push_back(Do::Look(Reason::Turn));
        }
    }

    fn turn_ended(&mut self, now: Instant, waited: Duration) {
        let Some(turn) = &mut self.turn else { return };
        turn.over = Some((now, waited));
        self.go_on(now);
    }

    /// What the transcriber understood. Partial text is only told.
    pub fn handle_partial(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.tell(Told::new("transcript.partial").with("text", text.trim()));
        }
    }

    /// The text of one [`Do::Transcribe`], or why there is none.
    pub fn handle_transcript(&mut self, now: Instant, text: Result<String, Failure>) {
        let Some(turn) = &mut self.turn else { return };
        match text {
            Ok(text) => turn.understood(now, text.trim()),
            Err(failure) => {
                turn.misunderstood(now);
                self.failed("stt", &failure);
            }
        }
        self.go_on(now);
    }

    /// A picture that was asked for. One too many does no harm.
    pub fn handle_picture(&mut self, now: Instant, image: Option<Arc<Image>>, reason: Reason) {
        match reason {
            Reason::Onset | Reason::Turn => {
                if let Some(turn) = &mut self.turn {
                    turn.picture(image, reason);
                    self.go_on(now);
                }
            }
            Reason::Sample | Reason::Look | Reason::Asked => {
                if let Some(image) = image {
                    self.context.show(image);
                }
            }
        }
    }

    /// Somebody gives a picture: it goes with the next turn and starts none.
    pub fn handle_given(&mut self, image: Arc<Image>, words: &str) {
        self.context.give(image, words);
    }

    /// Somebody writes to the agent: a turn without sound.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        self.interrupt(now);
        let mut turn = self.turn.take().unwrap_or_else(|| Turn::new(now));
        self.take_back(&mut turn);
        turn.written(now, text.trim());
        turn.picture_wanted = self.settings.sees;
        self.turn = Some(turn);
        if self.settings.sees {
            self.out.push_back(Do::Look(Reason::Turn));
        }
        self.go_on(now);
    }

    /// Nothing is being said, answered or waited for.
    pub fn is_idle(&self) -> bool {
        self.turn.is_none() && self.reply.is_none()
    }

    /// Something happened that nobody said: a turn of its own, for the model to act on. Best while it is idle.
    pub fn handle_note(&mut self, now: Instant, text: &str) {
        let mut turn = self.turn.take().unwrap_or_else(|| Turn::new(now));
        self.take_back(&mut turn);
        turn.note = true;
        turn.written(now, text.trim());
        self.turn = Some(turn);
        if self.settings.sees {
            self.out.push_back(Do::Look(Reason::Turn));
        }
        self.go_on(now);
    }

    /// What the caller said since the last reply is forgotten.
    pub fn clear_turn(&mut self) {
        if let Some(mut turn) = self.turn.take() {
            self.take_back(&mut turn);
            self.out.push_back(Do::Unlisten);
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        self.expire_decision(now);
        if self.turn.as_ref().is_some_and(|turn| turn.wake_at(&self.settings).is_some_and(|at| now >= at)) {
            self.go_on(now);
        }
        let late = self.reply.as_mut().is_some_and(|reply| reply.take_filler(now));
        if late && !self.settings.filler.is_empty() {
            let text = self.settings.filler.clone();
            self.tell(Told::new("agent.waiting").with("text", text.clone()));
            self.speak_beside(text);
        }
    }

    /// Goes on with the turn as far as what is known allows: asks ahead, asks, or lets it go.
    fn go_on(&mut self, now: Instant) {
        let Some(turn) = &mut self.turn else { return };
        if !turn.is_understood(now, &self.settings) || !turn.is_seen(now, &self.settings) {
            return;
        }
        let over = turn.over.is_some();
        if turn.text().is_empty() {
            if over {
                self.let_go();
            }
            return;
        }
        // Beside a reply that goes on, a turn waits to be seen for what it is.
        if self.reply.is_some() {
            if over {
                self.let_go();
            }
            return;
        }
        if over && self.is_undecided(now) {
            self.ask_for_decision(now);
        }
        let Some(turn) = &mut self.turn else { return };
        if turn.ask.is_none() && (over || turn.may_ask_ahead(now, &self.settings)) {
            if self.settings.sees && turn.wants_newer_picture(now, self.settings.picture_stale) {
                return self.out.push_back(Do::Look(Reason::Turn));
            }
            self.ask_for_turn(now);
        }
        if over && !self.is_undecided(now) {
            self.release(now);
        }
    }

    /// The turn was noise, or spoken beside a reply that could not be interrupted.
    fn let_go(&mut self) {
        if let Some(mut turn) = self.turn.take() {
            self.take_back(&mut turn);
            let text = turn.text();
            if !text.is_empty() {
                self.tell(Told::new("transcript.final").with("text", text).with("used", "no"));
            }
        }
    }

    fn ask_for_turn(&mut self, now: Instant) {
        let Some(turn) = &mut self.turn else { return };
        let request = self.context.request_for(&turn.text(), &turn.pictures());
        self.asks += 1;
        turn.ask = Some(turn::Ahead::new(self.asks, now));
        turn.asked += 1;
        self.figures.questions += 1;
        self.figures.pictures_sent += turn.pictures().len() as u64;
        self.out.push_back(Do::Ask { ask: self.asks, request: Arc::new(request) });
    }

    /// What was asked ahead for this turn is not wanted.
    fn take_back(&mut self, turn: &mut Turn) {
        if let Some(ahead) = turn.ask.take() {
            self.figures.questions_wasted += 1;
            self.out.push_back(Do::Abandon { ask: ahead.ask });
        }
    }

    /// The turn is over and its question asked: from here on it is answered.
    fn release(&mut self, now: Instant) {
        let Some(mut turn) = self.turn.take() else { return };
        let Some(ahead) = turn.ask.take() else { return };
        self.figures.turns += 1;
        let text = turn.text();
        self.context.user(&text, &turn.pictures());
        let ages = turn.ages(ahead.asked);
        let kind = if turn.note { "agent.noted" } else { "transcript.final" };
        let mut told = Told::new(kind).with("text", text);
        if !ages.is_empty() {
            told = told.with("pictures", ages.len()).with("picture_age_ms", ages);
        }
        self.tell(told);
        let mut reply = Reply::to(turn, ahead.ask, now, self.settings.filler_after);
        reply.asked_at = Some(ahead.asked);
        self.reply = Some(reply);
        for delta in ahead.came {
            self.handle_delta(now, ahead.ask, delta);
        }
    }

    /// A piece of an answer, or why there is none.
    pub fn handle_delta(&mut self, now: Instant, ask: u32, delta: Result<Delta, Failure>) {
        if let Some(ahead) =
            self.turn.as_mut().and_then(|turn| turn.ask.as_mut()).filter(|ahead| ahead.ask == ask)
        {
            return ahead.keep(delta);
        }
        let Some(reply) = self.reply.as_mut().filter(|reply| reply.ask == Some(ask)) else { return };
        match delta {
            Ok(Delta::Text(text)) => {
                reply.first_words(now);
                let sentences = reply.cut(&text);
                self.speak(sentences);
            }
            Ok(Delta::Call(call)) => {
                reply.first_words(now);
                reply.calls.push(call);
            }
            Ok(Delta::Usage(usage)) => self.figures.usage = added(self.figures.usage, usage),
            Ok(Delta::Finish(finish)) => self.answered(now, finish),
            Err(failure) => {
                self.failed("llm", &failure);
                self.give_up_answer(now);
            }
        }
    }

    fn answered(&mut self, now: Instant, finish: Finish) {
        let Some(reply) = &mut self.reply else { return };
        reply.ask = None;
        reply.filler_at = None;
        let sentences = reply.finish();
        let calls = std::mem::take(&mut reply.calls);
        self.speak(sentences);
        if calls.is_empty() {
            let silent =
                self.reply.as_ref().is_some_and(|reply| reply.sentences.is_empty() && !reply.may_be_silent());
            if silent && finish != Finish::Tools {
                // It would not, or ran out before it began.
                return self.give_up_answer(now);
            }
            return self.finish_reply(now);
        }
        let Some(reply) = &mut self.reply else { return };
        let words = reply.words_since_calls();
        reply.open_calls = calls.len();
        reply.steps += 1;
        self.context.calls(&words, calls.clone());
        for call in calls {
            self.figures.tools += 1;
            self.out.push_back(Do::Tool(call));
        }
    }

    /// What came of a tool, with pictures if it brought any. `silently`: the model need not say anything to it.
    pub fn handle_tool(
        &mut self,
        now: Instant,
        id: &str,
        result: &str,
        images: &[Arc<Image>],
        silently: bool,
    ) {
        if !self.context.answer(id, result, images) {
            return;
        }
        let Some(reply) = &mut self.reply else { return };
        reply.open_calls = reply.open_calls.saturating_sub(1);
        reply.quiet |= silently;
        if reply.open_calls > 0 {
            return;
        }
        if reply.quiet && reply.sentences.iter().any(|sentence| !sentence.text.is_empty()) {
            return self.finish_reply(now);
        }
        let mut request = self.context.request();
        if reply.steps >= self.settings.tool_steps {
            // It has to come to an end.
            request.tools.clear();
        }
        self.asks += 1;
        reply.ask = Some(self.asks);
        reply.filler_at = Some(now + self.settings.filler_after);
        self.figures.questions += 1;
        self.figures.pictures_sent += images.len() as u64;
        self.out.push_back(Do::Ask { ask: self.asks, request: Arc::new(request) });
    }

    /// No answer: what was said stands, and where nothing was, something is.
    fn give_up_answer(&mut self, now: Instant) {
        let Some(reply) = &mut self.reply else { return };
        reply.ask = None;
        reply.filler_at = None;
        reply.open_calls = 0;
        let rest = reply.finish();
        self.speak(rest);
        let silent = self.reply.as_ref().is_some_and(|reply| reply.sentences.is_empty());
        if silent && !self.settings.fallback.is_empty() {
            let text = self.settings.fallback.clone();
            self.tell(Told::new("agent.fallback").with("text", text.clone()));
            self.speak(vec![text]);
        }
        self.finish_reply(now);
    }

    fn failed(&mut self, service: &'static str, failure: &Failure) {
        self.figures.failures += 1;
        self.tell(Told::new("agent.failed").with("service", service).with("why", failure.to_string()));
    }

    /// Has sentences of the reply spoken.
    fn speak(&mut self, sentences: Vec<String>) {
        for text in sentences {
            self.utterances += 1;
            let utterance = self.utterances;
            if let Some(reply) = &mut self.reply {
                reply.sentences.push(reply::Sentence::new(utterance, text.clone()));
            }
            self.out.push_back(Do::Speak { utterance, text });
        }
    }

    /// Has something spoken that is no part of the answer.
    fn speak_beside(&mut self, text: String) {
        self.utterances += 1;
        if let Some(reply) = &mut self.reply {
            reply.beside.push(self.utterances);
        }
        self.out.push_back(Do::Speak { utterance: self.utterances, text });
    }

    /// All sound of an utterance is made; it is so long. `Err`: nobody could speak it (any further).
    pub fn handle_voiced(&mut self, now: Instant, utterance: u32, ms: Result<u32, Failure>) {
        let failure = ms.as_ref().err().cloned();
        if let Some(reply) = &mut self.reply {
            reply.voiced(utterance, ms.ok());
        }
        if let Some(failure) = failure {
            self.failed("tts", &failure);
        }
        self.finish_reply(now);
    }

    /// How far the caller has heard; `began`: when the first sound of this utterance left.
    pub fn handle_played(&mut self, now: Instant, utterance: u32, ms: u32, whole: bool, began: Instant) {
        let Some(reply) = &mut self.reply else { return };
        if let Some(told) = reply.played(utterance, ms, whole, began) {
            self.tell(told);
        }
        self.finish_reply(now);
    }

    /// Ends the reply if everything of it was said.
    fn finish_reply(&mut self, now: Instant) {
        let Some(mut reply) = self.reply.take_if(|reply| reply.is_over()) else { return };
        self.figures.replies += 1;
        let text = reply.text();
        self.context.reply(&reply.words_since_calls(), false);
        self.tell(reply.told(&text, false));
        self.next(now);
    }

    /// The caller wants the floor: what was not heard never will be.
    fn interrupt(&mut self, now: Instant) {
        self.waiting.clear();
        let Some(mut reply) = self.reply.take() else { return };
        self.abandon(&reply);
        self.out.push_back(Do::Hush { through: self.utterances });
        let heard = reply.heard();
        if let (true, Some(turn)) = (heard.is_empty(), reply.turn.take()) {
            // Nobody heard a word of it: as though it had not been, and the caller goes on with the same turn.
            self.context.retract();
            let mut reopened = turn.reopened();
            if let Some(newer) = self.turn.take() {
                reopened.join(newer);
            }
            self.turn = Some(reopened);
            return;
        }
        self.figures.interruptions += 1;
        self.context.reply(&heard, true);
        self.tell(reply.told(&heard, true));
        self.go_on(now);
    }

    fn abandon(&mut self, reply: &Reply) {
        if let Some(ask) = reply.ask {
            self.out.push_back(Do::Abandon { ask });
        }
    }

    /// What waits behind a reply that is over.
    fn next(&mut self, now: Instant) {
        while self.reply.is_none()
            && let Some(text) = self.waiting.pop_front()
        {
            self.say(now, &text);
        }
        self.go_on(now);
    }
}

fn added(sum: Usage, usage: Usage) -> Usage {
    Usage {
        input_tokens: sum.input_tokens + usage.input_tokens,
        cached_tokens: sum.cached_tokens + usage.cached_tokens,
        image_tokens: sum.image_tokens + usage.image_tokens,
        output_tokens: sum.output_tokens + usage.output_tokens,
    }
}
