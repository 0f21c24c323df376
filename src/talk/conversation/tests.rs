//! A caller, a model and a voice, all scripted, in virtual time.

use super::*;
use crate::codec::still::ImageType;
use crate::media::frame::Size;
use crate::talk::message::Role;
use crate::talk::tools;

const MS: fn(u64) -> Duration = Duration::from_millis;

struct Talk {
    conversation: Conversation,
    start: Instant,
    now: Instant,
    did: Vec<Do>,
    images: u64,
}

impl Talk {
    fn with(change: impl FnOnce(&mut ConversationSettings)) -> Talk {
        let mut settings = ConversationSettings::default();
        settings.context.tools = ["look", "hang_up"].iter().filter_map(|name| tools::spec(name)).collect();
        change(&mut settings);
        let start = Instant::now();
        Talk { conversation: Conversation::new(settings), start, now: start, did: Vec::new(), images: 0 }
    }

    fn new() -> Talk {
        Talk::with(|_| {})
    }

    fn collect(&mut self) {
        while let Some(wanted) = self.conversation.poll() {
            self.did.push(wanted);
        }
    }

    /// Lets time pass; timers run when they are due. Pictures that are wanted come at once.
    fn wait(&mut self, ms: u64) {
        let end = self.now + MS(ms);
        self.settle();
        while let Some(at) = self.conversation.wake_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.conversation.handle_time(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        loop {
            self.collect();
            let Some(at) = self.did.iter().position(|wanted| matches!(wanted, Do::Look(_))) else { return };
            let Do::Look(reason) = self.did.remove(at) else { return };
            let image = self.picture();
            self.conversation.handle_picture(self.now, Some(image), reason);
        }
    }

    fn picture(&mut self) -> Arc<Image> {
        self.images += 1;
        let mut image =
            Image::given(self.images, ImageType::Jpeg, [0xff, 0xd8], Size::new(64, 36), "a picture");
        image.taken = Some(self.now);
        Arc::new(image)
    }

    fn heard(&mut self, heard: Heard) {
        self.conversation.handle_heard(self.now, heard);
        self.settle();
    }

    /// The caller speaks for `ms`; its words are known 100 ms after it fell silent.
    fn says(&mut self, text: &str, ms: u64) {
        self.heard(Heard::SpeechStarted { at: self.now });
        self.wait(ms);
        self.heard(Heard::SpeechEnded { at: self.now, spoken_for: MS(ms) });
        self.wait(100);
        self.conversation.handle_transcript(self.now, Ok(text.to_owned()));
        self.settle();
    }

    fn turn_ends(&mut self) {
        self.wait(400);
        self.heard(Heard::TurnEnded { waited: MS(500) });
    }

    fn delta(&mut self, delta: Delta) {
        let ask = self.asked().0;
        self.conversation.handle_delta(self.now, ask, Ok(delta));
        self.settle();
    }

    fn answers(&mut self, text: &str) {
        self.delta(Delta::Text(text.to_owned()));
        self.delta(Delta::Finish(Finish::Stop));
    }

    /// The newest question.
    fn asked(&self) -> (u32, Arc<Request>) {
        let asks = self.did.iter().rev();
        let found = asks.filter_map(|wanted| match wanted {
            Do::Ask { ask, request } => Some((*ask, request.clone())),
            _ => None,
        });
        found.into_iter().next().expect("a question")
    }

    fn spoken(&self) -> Vec<(u32, String)> {
        let spoken = self.did.iter().filter_map(|wanted| match wanted {
            Do::Speak { utterance, text } => Some((*utterance, text.clone())),
            _ => None,
        });
        spoken.collect()
    }

    fn told(&self, kind: &str) -> Vec<Told> {
        let told = self.did.iter().filter_map(|wanted| match wanted {
            Do::Tell(told) if told.kind == kind => Some(told.clone()),
            _ => None,
        });
        told.collect()
    }

    /// An utterance of `length` is made, and heard for `ms`.
    fn plays(&mut self, utterance: u32, ms: u32, length: u32) {
        self.conversation.handle_voiced(self.now, utterance, Ok(length));
        let began = self.now;
        self.wait(ms.into());
        self.conversation.handle_played(self.now, utterance, ms, ms == length, began);
        self.settle();
    }

    /// The messages of the newest question as role and words.
    fn messages(&self) -> Vec<(Role, String)> {
        let (_, request) = self.asked();
        request.messages.iter().map(|message| (message.role, message.words())).collect()
    }
}

fn word(told: &Told, name: &str) -> Option<String> {
    told.data
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[test]
fn a_question_is_asked_before_the_turn_is_over_with_the_picture_of_that_turn() {
    let mut talk = Talk::new();
    talk.says("What do you see?", 1_500);
    let (_, request) = talk.asked();
    assert_eq!((request.image_count(), request.messages.len()), (1, 1));
    assert_eq!(request.messages[0].words(), "What do you see?");
    let taken = request.messages[0].images().next().and_then(|image| image.taken).expect("a time");
    assert!(talk.now - taken <= MS(60), "taken when it was asked, not when the caller fell silent");
    talk.answers("I see one person. It wears a red hat.");
    assert_eq!(talk.spoken(), [], "nothing is said before the turn is over");
    talk.turn_ends();
    assert_eq!(talk.spoken(), [(1, "I see one person.".to_owned()), (2, "It wears a red hat.".to_owned())]);
    assert_eq!(talk.conversation.figures().questions, 1);
    assert_eq!(word(&talk.told("transcript.final")[0], "pictures").as_deref(), Some("1"));
    talk.plays(1, 700, 700);
    talk.plays(2, 800, 800);
    assert_eq!(
        word(&talk.told("agent.reply")[0], "text").as_deref(),
        Some("I see one person. It wears a red hat.")
    );
    assert!(!talk.conversation.is_replying());
    talk.says("And now?", 500);
    let expected = [
        (Role::User, "What do you see?"),
        (Role::Assistant, "I see one person. It wears a red hat."),
        (Role::User, "And now?"),
    ];
    assert_eq!(talk.messages(), expected.map(|(role, text)| (role, text.to_owned())));
}

#[test]
fn a_caller_who_goes_on_gets_one_answer_to_all_of_it() {
    let mut talk = Talk::new();
    talk.says("I would like", 600);
    let first = talk.asked().0;
    talk.wait(100);
    talk.says("to see the doctor", 800);
    assert!(talk.did.contains(&Do::Abandon { ask: first }), "the question to half of it is taken back");
    talk.turn_ends();
    assert_eq!(talk.messages(), [(Role::User, "I would like to see the doctor".to_owned())]);
    talk.answers("Of course.");
    assert_eq!(talk.spoken().len(), 1);
    assert_eq!(talk.conversation.figures().questions_wasted, 1);
}

#[test]
fn a_caller_who_goes_on_after_the_turn_but_before_a_word_is_heard_is_answered_once() {
    let mut talk = Talk::new();
    talk.says("Is the office", 600);
    talk.turn_ends();
    talk.says("open on Sunday?", 600);
    talk.turn_ends();
    assert_eq!(talk.messages(), [(Role::User, "Is the office open on Sunday?".to_owned())]);
    talk.answers("No.");
    assert_eq!(talk.spoken().len(), 1);
}

#[test]
fn an_interruption_keeps_what_was_heard_and_nothing_of_the_rest() {
    let mut talk = Talk::new();
    talk.says("Tell me a story", 800);
    talk.turn_ends();
    talk.delta(Delta::Text("Once upon a time there was a king. He had a".to_owned()));
    talk.plays(1, 1_000, 2_000);
    talk.heard(Heard::SpeechStarted { at: talk.now });
    talk.heard(Heard::Duck);
    talk.heard(Heard::Pause);
    assert!(talk.did.contains(&Do::Duck(true)) && talk.did.contains(&Do::Hold(true)));
    let ask = talk.asked().0;
    talk.heard(Heard::Interrupt);
    assert!(talk.did.contains(&Do::Abandon { ask }) && talk.did.contains(&Do::Hush { through: 1 }));
    let before = talk.spoken().len();
    talk.conversation.handle_delta(talk.now, ask, Ok(Delta::Text(" daughter. She was".to_owned())));
    talk.settle();
    assert_eq!(talk.spoken().len(), before, "late words of it are not spoken");
    talk.wait(500);
    talk.heard(Heard::SpeechEnded { at: talk.now, spoken_for: MS(500) });
    talk.conversation.handle_transcript(talk.now, Ok("stop".to_owned()));
    talk.settle();
    let messages = talk.messages();
    assert_eq!(messages[1].0, Role::Assistant);
    assert!(messages[1].1.starts_with("Once upon a") && !messages[1].1.contains("king"), "{messages:?}");
    assert_eq!(messages[2], (Role::User, "stop".to_owned()));
    assert_eq!(talk.conversation.figures().interruptions, 1);
}

#[test]
fn a_backchannel_does_not_stop_a_reply_and_is_no_turn() {
    let mut talk = Talk::new();
    talk.says("Explain it", 800);
    talk.turn_ends();
    talk.answers("It is a long explanation indeed.");
    talk.plays(1, 500, 3_000);
    talk.heard(Heard::SpeechStarted { at: talk.now });
    talk.heard(Heard::Duck);
    talk.wait(300);
    talk.heard(Heard::SpeechEnded { at: talk.now, spoken_for: MS(300) });
    talk.conversation.handle_transcript(talk.now, Ok("mhm".to_owned()));
    talk.heard(Heard::Resume { false_interruption: true });
    talk.turn_ends();
    assert!(talk.did.contains(&Do::Hold(false)) && talk.did.contains(&Do::Duck(false)));
    assert_eq!(talk.conversation.figures().questions, 1, "nobody answers a mhm");
    talk.conversation.handle_played(talk.now, 1, 3_000, true, talk.start);
    talk.settle();
    assert_eq!(
        word(&talk.told("agent.reply")[0], "text").as_deref(),
        Some("It is a long explanation indeed.")
    );
}

#[test]
fn a_tool_is_answered_with_its_picture_and_the_model_asked_again() {
    let mut talk = Talk::new();
    talk.says("What am I holding?", 800);
    talk.turn_ends();
    let call = ToolCall { id: "c1".into(), name: "look".into(), arguments: "{}".into(), signature: None };
    talk.delta(Delta::Text("Let me look.".to_owned()));
    talk.delta(Delta::Call(call.clone()));
    talk.delta(Delta::Finish(Finish::Tools));
    assert!(talk.did.contains(&Do::Tool(call)));
    let image = talk.picture();
    talk.conversation.handle_tool(talk.now, "c1", "the camera", &[image], false);
    talk.settle();
    let (ask, request) = talk.asked();
    assert!(ask == 2 && request.image_count() == 2 && !request.tools.is_empty());
    talk.answers("A cup.");
    assert_eq!(talk.spoken().len(), 2);
    talk.conversation.handle_tool(talk.now, "c1", "again", &[], false);
    talk.settle();
    assert_eq!(talk.asked().0, 2, "an answer nobody waits for changes nothing");
}

#[test]
fn a_model_that_calls_tools_for_ever_has_to_answer_at_last() {
    let mut talk = Talk::new();
    talk.says("Go on", 500);
    talk.turn_ends();
    for step in 1..=3 {
        let id = format!("c{step}");
        talk.delta(Delta::Call(ToolCall {
            id: id.clone(),
            name: "look".into(),
            arguments: "{}".into(),
            signature: None,
        }));
        talk.delta(Delta::Finish(Finish::Tools));
        talk.conversation.handle_tool(talk.now, &id, "nothing", &[], false);
        talk.settle();
    }
    assert!(talk.asked().1.tools.is_empty());
}

#[test]
fn a_slow_model_is_covered_for_and_a_broken_one_apologised_for() {
    let mut talk = Talk::new();
    talk.says("Hello?", 500);
    talk.turn_ends();
    talk.wait(2_100);
    assert_eq!(talk.spoken(), [(1, "One moment, please.".to_owned())]);
    let ask = talk.asked().0;
    talk.conversation.handle_delta(talk.now, ask, Err(Failure::TooSlow(10_000)));
    talk.settle();
    assert_eq!(talk.spoken()[1].1, ConversationSettings::default().fallback);
    assert_eq!(word(&talk.told("agent.failed")[0], "service").as_deref(), Some("llm"));
    talk.plays(1, 900, 900);
    talk.plays(2, 1_500, 1_500);
    assert!(!talk.conversation.is_replying());
    talk.says("Are you there?", 500);
    talk.turn_ends();
    talk.answers("Yes.");
    assert_eq!(talk.spoken()[2].1, "Yes.", "the next turn is as good as ever");
}

#[test]
fn words_that_never_come_do_not_hold_the_turn_for_ever() {
    let mut talk = Talk::new();
    talk.heard(Heard::SpeechStarted { at: talk.now });
    talk.wait(500);
    talk.heard(Heard::SpeechEnded { at: talk.now, spoken_for: MS(500) });
    talk.turn_ends();
    talk.wait(6_000);
    assert!(talk.told("agent.failed").is_empty() && talk.spoken().is_empty());
    assert_eq!(talk.conversation.figures().questions, 0);
    talk.says("Hello again", 500);
    talk.turn_ends();
    assert_eq!(talk.messages(), [(Role::User, "Hello again".to_owned())]);
}

#[test]
fn a_picture_that_never_comes_does_not_hold_the_question() {
    let mut talk = Talk::new();
    talk.heard(Heard::SpeechStarted { at: talk.now });
    talk.heard(Heard::SpeechEnded { at: talk.now, spoken_for: MS(500) });
    talk.wait(200);
    let conversation = &mut talk.conversation;
    conversation.handle_transcript(talk.now, Ok("Hello".to_owned()));
    while conversation.poll().is_some() {}
    let at = conversation.wake_at().expect("an end to the waiting");
    assert!(at - talk.now <= MS(80));
    conversation.handle_time(at);
    let asked = std::iter::from_fn(|| conversation.poll()).any(|wanted| matches!(wanted, Do::Ask { .. }));
    assert!(asked);
}

#[test]
fn the_disclosure_comes_first_and_what_an_application_says_waits_its_turn() {
    let mut talk = Talk::with(|settings| {
        settings.disclosure = "You are talking to a machine.".into();
        settings.greeting = "Good morning.".into();
    });
    talk.conversation.start(talk.now);
    talk.settle();
    talk.conversation.say(talk.now, "The doctor is late.");
    talk.settle();
    assert_eq!(talk.spoken().len(), 1);
    talk.plays(1, 1_000, 1_000);
    talk.plays(2, 500, 500);
    talk.plays(3, 900, 900);
    let texts: Vec<String> = talk.spoken().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["You are talking to a machine.", "Good morning.", "The doctor is late."]);
    talk.says("Thank you", 400);
    assert_eq!(talk.messages().len(), 4, "what was said stands in the context");
}

#[test]
fn a_voice_that_fails_does_not_leave_the_reply_open() {
    let mut talk = Talk::new();
    talk.says("Hello", 400);
    talk.turn_ends();
    talk.answers("One whole sentence. Two whole sentences.");
    talk.conversation.handle_voiced(talk.now, 1, Err(Failure::Cut));
    talk.conversation.handle_voiced(talk.now, 2, Err(Failure::Cut));
    talk.settle();
    assert!(!talk.conversation.is_replying());
    assert_eq!(talk.told("agent.failed").len(), 2);
}

#[test]
fn a_written_turn_is_answered_at_once_with_a_picture() {
    let mut talk = Talk::new();
    talk.conversation.handle_text(talk.now, "What is in front of the door?");
    talk.settle();
    assert_eq!(talk.asked().1.image_count(), 1);
    talk.answers("A parcel.");
    assert_eq!(talk.spoken().len(), 1);
}

#[test]
fn a_turn_that_is_cleared_was_never_said() {
    let mut talk = Talk::new();
    talk.says("My number is four two", 800);
    let ask = talk.asked().0;
    talk.conversation.clear_turn();
    talk.settle();
    assert!(talk.did.contains(&Do::Abandon { ask }) && talk.did.contains(&Do::Unlisten));
    talk.says("My name is Ann", 800);
    talk.turn_ends();
    assert_eq!(talk.messages(), [(Role::User, "My name is Ann".to_owned())]);
}
