//! One reply of the agent: the answer as it comes, cut into sentences, and how far the caller has heard it.

use std::time::{Duration, Instant};

use super::Told;
use super::turn::Turn;
use crate::talk::message::ToolCall;
use crate::talk::sentences::Sentences;

/// How fast is spoken where the length of a sentence is not known yet.
const LETTERS_PER_SECOND: usize = 15;

/// One sentence: an utterance of the playout.
#[derive(Debug)]
pub struct Sentence {
    pub utterance: u32,
    pub text: String,
    /// Its length, once all of it is made.
    length_ms: Option<u32>,
    heard_ms: u32,
    whole: bool,
    /// Nobody could speak it.
    mute: bool,
}

impl Sentence {
    pub fn new(utterance: u32, text: String) -> Self {
        Sentence { utterance, text, length_ms: None, heard_ms: 0, whole: false, mute: false }
    }

    /// What was heard of it, in whole words.
    fn heard(&self) -> &str {
        if self.whole {
            return &self.text;
        }
        let letters = self.text.chars().count();
        let said = match self.length_ms.filter(|ms| *ms > 0) {
            Some(ms) => letters * self.heard_ms as usize / ms as usize,
            None => self.heard_ms as usize * LETTERS_PER_SECOND / 1000,
        };
        let end = self.text.char_indices().nth(said).map_or(self.text.len(), |(at, _)| at);
        let cut = &self.text[..end];
        // The word at the cut was not heard to its end.
        if end == self.text.len() { cut } else { cut.rfind(' ').map_or("", |space| &cut[..space]) }
    }
}

/// One reply.
#[derive(Debug)]
pub struct Reply {
    /// What it answers; `None`: it was not asked for.
    pub turn: Option<Turn>,
    /// The question whose answer is coming.
    pub ask: Option<u32>,
    pub asked_at: Option<Instant>,
    pub sentences: Vec<Sentence>,
    /// Utterances that are no part of the answer.
    pub beside: Vec<u32>,
    pub calls: Vec<ToolCall>,
    pub open_calls: usize,
    pub steps: u32,
    /// A tool brought something nobody needs to speak about.
    pub quiet: bool,
    /// When something is said because the answer takes so long.
    pub filler_at: Option<Instant>,
    cutter: Sentences,
    /// Sentences that stand in the context already, with the calls that followed them.
    told: usize,
    released: Instant,
    first_words: Option<Instant>,
    first_sound: Option<Instant>,
}

impl Reply {
    /// To a turn whose question has been asked.
    pub fn to(turn: Turn, ask: u32, now: Instant, filler_after: Duration) -> Self {
        Reply { turn: Some(turn), ask: Some(ask), filler_at: Some(now + filler_after), ..Reply::said(now) }
    }

    /// Without having been asked.
    pub fn said(now: Instant) -> Self {
        Reply {
            turn: None,
            ask: None,
            asked_at: None,
            sentences: Vec::new(),
            beside: Vec::new(),
            calls: Vec::new(),
            open_calls: 0,
            steps: 0,
            quiet: false,
            filler_at: None,
            cutter: Sentences::default(),
            told: 0,
            released: now,
            first_words: None,
            first_sound: None,
        }
    }

    /// Whether any of it is on its way to the caller.
    pub fn is_spoken(&self) -> bool {
        !self.sentences.is_empty() || !self.beside.is_empty()
    }

    /// Nobody waits for words: it answers a note, or a tool said all there is to say.
    pub fn may_be_silent(&self) -> bool {
        self.quiet || self.turn.as_ref().is_some_and(|turn| turn.note)
    }

    pub fn cut(&mut self, text: &str) -> Vec<String> {
        self.cutter.push(text);
        std::iter::from_fn(|| self.cutter.poll()).collect()
    }

    /// The answer is over: what is left of it.
    pub fn finish(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.cutter.finish()).collect()
    }

    pub fn first_words(&mut self, now: Instant) {
        self.first_words.get_or_insert(now);
        self.filler_at = None;
    }

    /// Whether it is time to say that it takes long; once.
    pub fn take_filler(&mut self, now: Instant) -> bool {
        self.filler_at.take_if(|at| now >= *at).is_some()
    }

    pub fn voiced(&mut self, utterance: u32, ms: Option<u32>) {
        if let Some(sentence) = self.sentences.iter_mut().find(|sentence| sentence.utterance == utterance) {
            sentence.length_ms = ms;
            sentence.mute = ms.is_none() || ms == Some(0);
        }
        if ms.is_none_or(|ms| ms == 0) {
            self.beside.retain(|beside| *beside != utterance);
        }
    }

    /// Follows the playout. The first sound of an answer is told.
    pub fn played(&mut self, utterance: u32, ms: u32, whole: bool, began: Instant) -> Option<Told> {
        self.beside.retain(|beside| *beside > utterance || *beside == utterance && !whole);
        for sentence in &mut self.sentences {
            if sentence.utterance < utterance {
                sentence.whole = !sentence.mute;
            } else if sentence.utterance == utterance {
                sentence.heard_ms = ms;
                sentence.whole = whole;
            }
        }
        let ours = self.sentences.iter().any(|sentence| sentence.utterance == utterance);
        if !ours || self.first_sound.is_some() {
            return None;
        }
        self.first_sound = Some(began);
        self.turn.is_some().then(|| self.began_to_speak(began))
    }

    fn began_to_speak(&self, began: Instant) -> Told {
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from);
        let mut told = Told::new("agent.speaking");
        let Some(turn) = &self.turn else { return told };
        if let Some(silent) = turn.silent {
            told = told.with_ms("after_ms", since(silent, began));
            if let Some(understood) = turn.understood {
                told = told.with_ms("transcript_ms", since(silent, understood));
            }
        }
        if let Some((_, waited)) = turn.over {
            told = told.with_ms("end_of_turn_ms", waited);
        }
        if let (Some(asked), Some(words)) = (self.asked_at, self.first_words) {
            told = told.with_ms("first_words_ms", since(asked, words));
            // From when both the words were there and the turn was over, what is left is the voice.
            told = told.with_ms("first_sound_ms", since(words.max(self.released), began));
        }
        told
    }

    /// Nothing more will come, and everything that could be said was heard.
    pub fn is_over(&self) -> bool {
        let said = |sentence: &Sentence| sentence.whole || sentence.mute;
        self.ask.is_none()
            && self.open_calls == 0
            && self.beside.is_empty()
            && self.sentences.iter().all(said)
    }

    pub fn text(&self) -> String {
        joined(self.sentences.iter().map(|sentence| sentence.text.as_str()))
    }

    /// What was said since tools were last called, and from now on stands in the context.
    pub fn words_since_calls(&mut self) -> String {
        let words = joined(self.sentences.iter().skip(self.told).map(|sentence| sentence.text.as_str()));
        self.told = self.sentences.len();
        words
    }

    /// What the caller heard of what does not stand in the context yet.
    pub fn heard(&self) -> String {
        joined(self.sentences.iter().skip(self.told).map(Sentence::heard))
    }

    pub fn told(&self, text: &str, interrupted: bool) -> Told {
        let kind = if interrupted { "agent.interrupted" } else { "agent.reply" };
        let heard: u32 = self.sentences.iter().map(|sentence| sentence.heard_ms).sum();
        Told::new(kind).with("text", text).with("heard_ms", heard)
    }
}

fn joined<'a>(sentences: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for sentence in sentences.filter(|sentence| !sentence.is_empty()) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(sentence);
    }
    text
}
