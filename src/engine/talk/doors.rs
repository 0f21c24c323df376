//! Driver (a lock). Doors of a call: what the rules of [`crate::talk::tools::unlock`] decide is done, and every try is
//! written down, with who, by what right and what came of it, never with a PIN.

use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use super::Wish;
use super::toolbox::{Toolbox, What, Worked};
use crate::talk::conversation::Told;
use crate::talk::tools::unlock::{Opening, Resting, UNLOCK, Verdict};

const TYPE_IT: &str = "The caller has to type the PIN on the telephone's keys, and # behind it. Ask for that now; the \
                       PIN is never said. You are told what comes of it.";

impl Toolbox {
    /// Somebody wants a door open: a model by the tool, or the operator by a trigger.
    pub(super) fn unlock(&mut self, now: Instant, id: String, door: &str) {
        let Some(at) = self.doors.find(door) else {
            return self.close(&id, Worked::refused("There is no such door."));
        };
        let resting = *self.resting(at);
        match self.doors.handle_call(now, at, &resting) {
            Verdict::Open(by) => self.open_door(id, at, by),
            Verdict::AskPin => {
                self.audit(at, "pin-asked", "");
                self.close(&id, Worked::done(TYPE_IT));
            }
            Verdict::Refused(why) => {
                self.audit(at, "refused", why);
                self.close(&id, Worked::refused(format!("The door stays shut: {why}.")));
            }
        }
    }

    /// The caller pressed a key.
    pub fn handle_digit(&mut self, now: Instant, digit: char) {
        let Some(at) = self.doors.typing() else { return };
        let shared = self.tooling.set.doors[at].resting.clone();
        // Held while it is judged: another call may try the same door.
        let verdict = {
            let mut resting = shared.lock().unwrap_or_else(PoisonError::into_inner);
            self.doors.handle_digit(now, digit, &mut resting)
        };
        match verdict {
            Some(Verdict::Open(by)) => {
                let id = self.own_id();
                self.begin_open(now, id.clone(), UNLOCK.to_owned(), true);
                self.open_door(id, at, by);
            }
            Some(Verdict::Refused(why)) => {
                self.audit(at, "refused", why);
                self.note(format!("The door stays shut: {why}."));
            }
            Some(Verdict::AskPin) | None => {}
        }
    }

    /// Nobody typed a PIN in time.
    pub(super) fn door_time(&mut self, now: Instant) {
        if let Some(at) = self.doors.handle_time(now) {
            self.audit(at, "refused", "no PIN in time");
            self.note("The door stays shut: the caller typed no PIN in time.".to_owned());
        }
    }

    fn open_door(&mut self, id: String, at: usize, by: &'static str) {
        let Some(door) = self.doors.door(at).cloned() else { return };
        self.waits_for(&id, What::Door(at, by));
        match &door.opening {
            Opening::Digits(digits) => self.wish(id, Wish::Digits(digits.clone())),
            Opening::Request(service) => {
                let (service, link) = (service.clone(), self.tooling.set.link.clone());
                let prepared = service.prepare(&serde_json::Value::Null);
                let work = async move {
                    match prepared {
                        Ok(prepared) => match link.ask(&service, prepared).await {
                            Ok(_) => Worked::done(""),
                            Err(why) => Worked::refused(why),
                        },
                        Err(why) => Worked::refused(why),
                    }
                };
                self.begin(id, Box::pin(work));
            }
        }
    }

    /// A door was told to open, or could not be; the words for the model.
    pub(super) fn opened(&mut self, at: usize, by: &'static str, worked: Worked, own: bool) -> Worked {
        let name = self.doors.door(at).map(|door| door.name.clone()).unwrap_or_default();
        let worked = if worked.refused {
            self.audit(at, "failed", &worked.result);
            Worked::refused(format!("The door {name} could not be opened: {}", worked.result))
        } else {
            self.audit(at, "opened", by);
            Worked::done(format!("The door {name} is open."))
        };
        // Of a PIN the model only knows that it was asked for.
        if own && by == "pin" {
            self.note(worked.result.clone());
        }
        worked
    }

    fn audit(&self, at: usize, outcome: &'static str, why: &str) {
        let (call, caller) = (self.tooling.call, self.tooling.caller.shown.as_str());
        let door = self.doors.door(at).map(|door| door.name.as_str()).unwrap_or_default();
        tracing::info!(%call, door, caller, outcome, why, "unlock");
        let told = Told::new("unlock.tried").with("door", door).with("caller", caller);
        self.tell(told.with("outcome", outcome).with("why", why));
    }

    fn resting(&self, at: usize) -> MutexGuard<'_, Resting> {
        // Whoever names a door has found it among these.
        self.tooling.set.doors[at].resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
