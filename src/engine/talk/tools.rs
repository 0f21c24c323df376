//! Driver. What an agent may do besides talking. Each tool says in a sentence what came of it, for the model.
//!
//! What changes the call is a [`Wish`]: the call decides, by its own rules, and answers.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::{Talking, Wish};
use crate::engine::plan::Event;
use crate::talk::conversation::Told;
use crate::talk::message::{Image, ToolCall, ToolSpec};
use crate::talk::sight::Reason;

/// What a tool call comes to.
pub(super) enum Act {
    Look,
    HangUp,
    Wish(Wish),
    Refuse(&'static str),
}

/// Reads what a model asks for. A tool it was not given is refused: what somebody says or shows cannot widen that.
pub(super) fn act(offered: &[ToolSpec], call: &ToolCall, sees: bool) -> Act {
    let arguments = serde_json::from_str::<Value>(&call.arguments).unwrap_or(Value::Null);
    let text = |name: &str| arguments[name].as_str().unwrap_or_default().trim().to_owned();
    if !offered.iter().any(|tool| tool.name == call.name) {
        return Act::Refuse("There is no such tool.");
    }
    match call.name.as_str() {
        "look" if sees => Act::Look,
        "look" => Act::Refuse("There is no picture of the caller."),
        "hang_up" => Act::HangUp,
        "dtmf" => match text("digits") {
            digits if digits.is_empty() => Act::Refuse("Say which digits."),
            digits => Act::Wish(Wish::Digits(digits)),
        },
        "transfer" => match text("to") {
            to if to.is_empty() => Act::Refuse("Say to whom."),
            to => Act::Wish(Wish::Transfer(to)),
        },
        "hold" => Act::Wish(Wish::Hold),
        _ => Act::Refuse("There is no such tool."),
    }
}

impl Talking {
    /// Does what a model asks for.
    pub(super) fn tool(&mut self, now: Instant, call: ToolCall) {
        match act(&self.agent.conversation.context.tools, &call, self.sight.is_some()) {
            Act::Look => {
                if let Some(sight) = &self.sight {
                    sight.want(Reason::Look);
                }
                self.looking.push_back(call);
            }
            Act::HangUp => {
                let result = "The call ends when you have said goodbye.";
                self.conversation.handle_tool(now, &call.id, result, &[], true);
                self.leaving = Some(call.id);
            }
            Act::Wish(wish) => self.wish(call.id, wish),
            Act::Refuse(why) => self.refuse(now, &call, why),
        }
    }

    fn refuse(&mut self, now: Instant, call: &ToolCall, why: &str) {
        self.tell(Told::new("agent.tool_refused").with("tool", call.name.clone()).with("why", why));
        self.conversation.handle_tool(now, &call.id, why, &[], false);
    }

    fn wish(&self, id: String, wish: Wish) {
        self.events.offer(Event::Wish { call: self.call, id, wish });
    }

    /// The picture a tool waited for.
    pub(super) fn looked(&mut self, now: Instant, image: Option<Arc<Image>>) {
        let Some(call) = self.looking.pop_front() else { return };
        match image {
            Some(image) => {
                let result = "This is what the caller's camera shows now.";
                self.conversation.handle_tool(now, &call.id, result, &[image], false);
            }
            None => self.refuse(now, &call, "There is no picture of the caller."),
        }
    }

    /// Hangs up once the goodbye was heard.
    pub(super) fn leave_when_silent(&mut self) {
        let silent = self.ears.as_ref().is_none_or(|ears| ears.line.say.is_idle());
        if self.leaving.is_some() && !self.conversation.is_replying() && self.voicing.is_empty() && silent {
            let id = self.leaving.take().unwrap_or_default();
            self.wish(id, Wish::HangUp);
        }
    }
}
