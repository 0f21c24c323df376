//! Driver (its caller tells the time). What makes the agent of a call act without anybody speaking: what is done at the
//! answer, triggers, and what came of something the model was told to wait for.

use std::time::Instant;

use serde_json::json;

use super::seeing::Seeing;
use super::toolbox::Toolbox;
use crate::talk::conversation::Told;
use crate::talk::trigger::Action;

/// Notes that wait for a moment of silence.
const NOTES: usize = 8;
/// The tool that shows something to the caller.
const SHOW: &str = "show";

/// Done when the call is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Say(String),
    /// What the tool `show` is to show.
    Show(String),
    /// The trigger of this name begins.
    Trigger(String),
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cue {
    /// Something nobody said, for the model to act on, with a picture.
    Note(String),
    Say(String),
}

impl Toolbox {
    /// The call is answered.
    pub fn handle_answer(&mut self, now: Instant) {
        self.triggers.begin(now);
        self.starts = self.tooling.set.on_start.iter().cloned().collect();
    }

    /// Something comes into the picture, stays, or leaves it.
    pub fn handle_seen(&mut self, now: Instant, class: &str, there: bool) {
        if there {
            self.doors.handle_seen(now, class);
        }
        self.triggers.handle_seen(now, class, there);
    }

    /// What is to be done now. `free`: nobody speaks, and the model is not at work.
    pub fn poll(&mut self, now: Instant, free: bool, seeing: &mut Seeing) -> Option<Cue> {
        self.door_time(now);
        self.triggers.handle_time(now);
        while let Some(start) = self.starts.pop_front() {
            match start {
                Start::Say(text) if free => return Some(Cue::Say(text)),
                // What stands behind it waits as well: there is an order.
                Start::Say(text) => {
                    self.starts.push_front(Start::Say(text));
                    break;
                }
                Start::Show(what) => self.use_own(now, SHOW, json!({"picture": what}).to_string(), seeing),
                Start::Trigger(name) => self.triggers.start(now, &name),
            }
        }
        while let Some(trigger) = self.triggers.poll(now, free) {
            self.tell(Told::new("trigger.fired").with("trigger", trigger.name));
            match trigger.action {
                Action::Ask(text) => return Some(noted(&text)),
                Action::Tool { name, arguments } => self.use_own(now, &name, arguments, seeing),
            }
        }
        if free { self.notes.pop_front().map(|text| noted(&text)) } else { None }
    }

    /// Something the model is told as soon as nobody speaks.
    pub(super) fn note(&mut self, text: String) {
        if self.notes.len() < NOTES {
            self.notes.push_back(text);
        } else {
            tracing::warn!(call = %self.tooling.call, "too many notes wait for a moment of silence: one is lost");
        }
    }
}

/// A model is not to take it for the caller's words.
fn noted(text: &str) -> Cue {
    Cue::Note(format!("(The caller did not say this. {text})"))
}
