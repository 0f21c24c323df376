//! The caller's turn while it is not answered: its words, its pictures, and the question asked ahead of its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ConversationSettings;
use crate::talk::message::{Delta, Failure, Image};
use crate::talk::sight::Reason;

/// Pieces of an answer kept while the turn may still go on; one of more pieces is no answer to a caller.
const AHEAD_MAX: usize = 4096;

/// A question asked before its turn was over, and what came of it so far.
#[derive(Debug)]
pub struct Ahead {
    pub ask: u32,
    pub asked: Instant,
    pub came: Vec<Result<Delta, Failure>>,
}

impl Ahead {
    pub fn new(ask: u32, asked: Instant) -> Self {
        Ahead { ask, asked, came: Vec::new() }
    }

    pub fn keep(&mut self, delta: Result<Delta, Failure>) {
        match (self.came.len(), self.came.last_mut(), delta) {
            // A word is not worth a place of its own.
            (_, Some(Ok(Delta::Text(text))), Ok(Delta::Text(more))) => text.push_str(&more),
            (0..AHEAD_MAX, _, delta) => self.came.push(delta),
            // It has to end in something: a reply without an end would never be over.
            (AHEAD_MAX, _, _) => self.came.push(Err(Failure::Garbled("it has too many pieces".to_owned()))),
            _ => {}
        }
    }
}

/// What the caller said since the last reply.
#[derive(Debug)]
pub struct Turn {
    /// When the caller began.
    pub began: Instant,
    /// The last sound of it; `None`: it goes on.
    pub silent: Option<Instant>,
    /// When its last words were there.
    pub understood: Option<Instant>,
    /// When it was found to be over, and how long after its last sound.
    pub over: Option<(Instant, Duration)>,
    pub ask: Option<Ahead>,
    /// Questions asked for it.
    pub asked: u32,
    pub picture_wanted: bool,
    /// It is nothing the caller said: something happened that the model is to act on.
    pub note: bool,
    texts: Vec<String>,
    /// Texts still to come.
    awaited: u32,
    onset: Option<Arc<Image>>,
    last: Option<Arc<Image>>,
    /// Since when a picture is waited for.
    looked: Option<Instant>,
    /// A newer one was asked for, for the question at hand.
    renewed: bool,
    pub decision: Decided,
}

/// What the application has decided of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It was not asked.
    Open,
    Asked {
        number: u32,
        until: Instant,
    },
    Settled,
}

impl Turn {
    pub fn new(began: Instant) -> Self {
        Turn {
            began,
            silent: None,
            understood: None,
            over: None,
            ask: None,
            asked: 0,
            picture_wanted: false,
            note: false,
            texts: Vec::new(),
            awaited: 0,
            onset: None,
            last: None,
            looked: None,
            renewed: false,
            decision: Decided::Open,
        }
    }

    /// Its answer was not wanted: the caller goes on.
    pub fn reopened(self) -> Self {
        Turn { over: None, ask: None, decision: Decided::Open, ..self }
    }

    /// The caller speaks (again).
    pub fn resume(&mut self) {
        self.silent = None;
        self.over = None;
        self.renewed = false;
        self.decision = Decided::Open;
    }

    /// The caller is silent since `at`; the text of what it said is awaited.
    pub fn pause(&mut self, at: Instant) {
        self.silent = Some(at);
        self.awaited += 1;
    }

    /// The words of one pause came; what was asked without them is not asked rightly.
    pub fn understood(&mut self, now: Instant, text: &str) {
        self.awaited = self.awaited.saturating_sub(1);
        self.understood = Some(now);
        if !text.is_empty() {
            self.note = false;
            self.texts.push(text.to_owned());
        }
    }

    pub fn misunderstood(&mut self, now: Instant) {
        self.awaited = self.awaited.saturating_sub(1);
        self.understood = Some(now);
    }

    /// Its words were written: it is over at once.
    pub fn written(&mut self, now: Instant, text: &str) {
        self.texts.push(text.to_owned());
        self.understood = Some(now);
        self.silent = Some(now);
        self.over = Some((now, Duration::ZERO));
    }

    /// The application has other words for it.
    pub fn amended(&mut self, text: String) {
        self.texts = vec![text];
        // Its question is another one, with a picture of its own time.
        self.renewed = false;
    }

    /// What a later turn said stands behind it.
    pub fn join(&mut self, newer: Turn) {
        self.texts.extend(newer.texts);
        self.awaited += newer.awaited;
        self.silent = newer.silent;
        self.understood = newer.understood.or(self.understood);
        self.over = newer.over;
        self.decision = Decided::Open;
        self.picture_wanted = newer.picture_wanted;
        self.last = newer.last.or(self.last.take());
    }

    pub fn picture(&mut self, image: Option<Arc<Image>>, reason: Reason) {
        match reason {
            Reason::Onset => self.onset = image.or(self.onset.take()),
            _ => {
                self.picture_wanted = false;
                self.last = image.or(self.last.take());
            }
        }
    }

    /// The picture of the end of the turn; the one of its beginning where there is no other.
    pub fn pictures(&self) -> Vec<Arc<Image>> {
        self.last.iter().chain(self.onset.iter().filter(|_| self.last.is_none())).cloned().collect()
    }

    /// Milliseconds from each picture to the question.
    pub fn ages(&self, asked: Instant) -> Vec<u64> {
        let age = |image: &Arc<Image>| {
            let age = asked.saturating_duration_since(image.taken?);
            Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        };
        self.pictures().iter().filter_map(age).collect()
    }

    pub fn text(&self) -> String {
        self.texts.join(" ")
    }

    /// Whether the words so far are there, or are not waited for any longer.
    pub fn is_understood(&self, now: Instant, settings: &ConversationSettings) -> bool {
        let Some(silent) = self.silent else { return false };
        self.awaited == 0 || now >= self.over.map_or(silent, |(at, _)| at) + settings.transcript_limit
    }

    /// The same of its picture.
    pub fn is_seen(&self, now: Instant, settings: &ConversationSettings) -> bool {
        !self.picture_wanted || self.picture_until(settings).is_some_and(|at| now >= at)
    }

    fn picture_until(&self, settings: &ConversationSettings) -> Option<Instant> {
        Some(self.looked.max(self.understood)? + settings.picture_limit)
    }

    /// Whether a picture is to be taken again before the question: what it shows is over. Once for each question.
    pub fn wants_newer_picture(&mut self, now: Instant, stale: Duration) -> bool {
        let taken = self.last.as_ref().and_then(|image| image.taken);
        let wants = !self.renewed && taken.is_none_or(|at| now.saturating_duration_since(at) > stale);
        if wants {
            (self.renewed, self.picture_wanted, self.looked) = (true, true, Some(now));
        }
        wants
    }

    pub fn may_ask_ahead(&self, now: Instant, settings: &ConversationSettings) -> bool {
        settings.preemptive
            && self.asked < settings.preemptive_most
            && now.saturating_duration_since(self.began) <= settings.preemptive_longest
    }

    pub fn wake_at(&self, settings: &ConversationSettings) -> Option<Instant> {
        let silent = self.silent?;
        if self.awaited > 0 {
            return Some(self.over.map_or(silent, |(at, _)| at) + settings.transcript_limit);
        }
        let decided = match self.decision {
            Decided::Asked { until, .. } => Some(until),
            Decided::Open | Decided::Settled => None,
        };
        let pictured = self.picture_until(settings).filter(|_| self.picture_wanted);
        [decided, pictured].into_iter().flatten().min()
    }
}
