//! The application's word about a turn before it is answered: as it is, with other words, or not at all.
//!
//! A question asked ahead goes on meanwhile; where the words change it is asked again. Without an answer in time the
//! turn goes on as it is: a caller is not left in silence because an application is.

use std::time::Instant;

use super::turn::Decided;
use super::{Conversation, Do, Told};
use crate::talk::message::Failure;
use crate::talk::wire::decision::Verdict;

impl Conversation {
    /// Whether a turn that is over waits for the application's word.
    pub(super) fn is_undecided(&self, now: Instant) -> bool {
        let Some(turn) = &self.turn else { return false };
        match turn.decision {
            Decided::Open => self.settings.decided_within.is_some(),
            Decided::Asked { until, .. } => now < until,
            Decided::Settled => false,
        }
    }

    pub(super) fn ask_for_decision(&mut self, now: Instant) {
        let (Some(turn), Some(limit)) = (&mut self.turn, self.settings.decided_within) else { return };
        if turn.decision != Decided::Open {
            return;
        }
        self.decisions += 1;
        let number = self.decisions;
        turn.decision = Decided::Asked { number, until: now + limit };
        self.out.push_back(Do::Decide { number, text: turn.text(), pictures: turn.pictures().len() });
    }

    /// The application's word about the turn it was asked about with this number; too late, it counts for nothing.
    pub fn handle_decision(&mut self, now: Instant, number: u32, verdict: Result<Verdict, Failure>) {
        let Some(turn) = &mut self.turn else { return };
        if !matches!(turn.decision, Decided::Asked { number: asked, until } if asked == number && now < until)
        {
            return;
        }
        turn.decision = Decided::Settled;
        match verdict {
            Ok(Verdict::Proceed) => {}
            Ok(Verdict::Amend(text)) => {
                let told = Told::new("turn.amended").with("from", turn.text()).with("to", text.clone());
                turn.amended(text);
                if let Some(mut turn) = self.turn.take() {
                    self.take_back(&mut turn);
                    self.turn = Some(turn);
                }
                self.tell(told);
            }
            Ok(Verdict::Veto(reason)) => {
                self.tell(Told::new("turn.vetoed").with("reason", reason));
                return self.let_go();
            }
            Err(failure) => self.undecided(&failure.to_string()),
        }
        self.go_on(now);
    }

    fn undecided(&mut self, why: &str) {
        self.figures.undecided += 1;
        self.tell(Told::new("decision.failed").with("decision", "turn.completed").with("why", why));
    }

    /// The time for a decision is over: the stated default is to go on.
    pub(super) fn expire_decision(&mut self, now: Instant) {
        let Some(turn) = &mut self.turn else { return };
        if matches!(turn.decision, Decided::Asked { until, .. } if now >= until) {
            turn.decision = Decided::Settled;
            self.undecided("no answer in time");
            self.go_on(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::talk::conversation::ConversationSettings;
    use crate::talk::message::{Delta, Finish, Part, Request};

    const LIMIT: Duration = Duration::from_millis(150);

    /// A turn in writing is over at once.
    fn asked(text: &str) -> (Conversation, Instant, Vec<Do>) {
        let settings = ConversationSettings {
            sees: false,
            decided_within: Some(LIMIT),
            ..ConversationSettings::default()
        };
        let mut conversation = Conversation::new(settings);
        let now = Instant::now();
        conversation.handle_text(now, text);
        let done = drained(&mut conversation);
        (conversation, now, done)
    }

    fn drained(conversation: &mut Conversation) -> Vec<Do> {
        std::iter::from_fn(|| conversation.poll()).collect()
    }

    fn words(request: &Request) -> String {
        let last = request.messages.last().expect("a question");
        last.parts
            .iter()
            .filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
            .collect()
    }

    fn last_ask(done: &[Do]) -> (u32, String) {
        let ask = |done: &Do| match done {
            Do::Ask { ask, request } => Some((*ask, words(request))),
            _ => None,
        };
        done.iter().rev().find_map(ask).expect("a question")
    }

    fn speaks(done: &[Do]) -> bool {
        done.iter().any(|done| matches!(done, Do::Speak { .. }))
    }

    fn answer(conversation: &mut Conversation, now: Instant, ask: u32, text: &str) {
        conversation.handle_delta(now, ask, Ok(Delta::Text(text.to_owned())));
        conversation.handle_delta(now, ask, Ok(Delta::Finish(Finish::Stop)));
    }

    #[test]
    fn nothing_is_said_before_the_application_has_decided_though_the_model_was_asked() {
        let (mut conversation, now, done) = asked("Open the door.");
        let (ask, text) = last_ask(&done);
        assert_eq!(text, "Open the door.");
        assert!(
            done.iter()
                .any(|done| matches!(done, Do::Decide { number: 1, text, .. } if text == "Open the door."))
        );
        answer(&mut conversation, now, ask, "It is open.");
        assert!(!speaks(&drained(&mut conversation)), "it was not decided");
        conversation.handle_decision(now + LIMIT / 2, 1, Ok(Verdict::Proceed));
        assert!(speaks(&drained(&mut conversation)));
    }

    #[test]
    fn an_amended_turn_is_asked_again_and_the_answer_to_the_old_words_is_never_heard() {
        let (mut conversation, now, done) = asked("What is my balance?");
        let (old, _) = last_ask(&done);
        answer(&mut conversation, now, old, "I do not know.");
        conversation.handle_decision(now, 1, Ok(Verdict::Amend("What is my balance? [it is 12]".into())));
        let done = drained(&mut conversation);
        let (new, text) = last_ask(&done);
        assert!(new != old && text == "What is my balance? [it is 12]" && !speaks(&done), "{done:?}");
        assert!(done.contains(&Do::Abandon { ask: old }));
        answer(&mut conversation, now, old, "late");
        assert!(!speaks(&drained(&mut conversation)));
        answer(&mut conversation, now, new, "Twelve.");
        let said = drained(&mut conversation);
        assert!(
            said.iter().any(|done| matches!(done, Do::Speak { text, .. } if text == "Twelve.")),
            "{said:?}"
        );
        let asked_of = conversation.context().history().next().expect("the turn").parts.clone();
        assert_eq!(asked_of, [Part::Text("What is my balance? [it is 12]".into())], "as amended, for good");
    }

    #[test]
    fn a_vetoed_turn_is_not_answered_and_not_remembered() {
        let (mut conversation, now, done) = asked("My card number is 4111.");
        let (ask, _) = last_ask(&done);
        conversation.handle_decision(now, 1, Ok(Verdict::Veto("payment".into())));
        let done = drained(&mut conversation);
        assert!(done.contains(&Do::Abandon { ask }) && !speaks(&done));
        assert!(done.iter().any(|done| matches!(done, Do::Tell(told) if told.kind == "turn.vetoed")));
        assert_eq!(conversation.context().history().count(), 0);
        answer(&mut conversation, now, ask, "late");
        assert!(drained(&mut conversation).is_empty());
    }

    #[test]
    fn without_a_word_in_time_or_with_a_failure_the_turn_goes_on_as_it_is() {
        let (mut conversation, now, done) = asked("Hello?");
        let (ask, _) = last_ask(&done);
        answer(&mut conversation, now, ask, "Hello.");
        assert_eq!(conversation.wake_at(), Some(now + LIMIT));
        conversation.handle_time(now + LIMIT);
        assert!(speaks(&drained(&mut conversation)));
        conversation.handle_decision(now + LIMIT, 1, Ok(Verdict::Veto(String::new())));
        assert!(drained(&mut conversation).is_empty(), "too late to count");
        assert_eq!(conversation.figures().undecided, 1);

        let (mut conversation, now, done) = asked("Hello?");
        let (ask, _) = last_ask(&done);
        answer(&mut conversation, now, ask, "Hello.");
        conversation.handle_decision(now, 1, Err(Failure::Cut));
        assert!(speaks(&drained(&mut conversation)));
    }
}
