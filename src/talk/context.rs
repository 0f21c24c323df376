//! The conversation as a model is told it: pinned context, turns with their pictures, replies as far as they were heard,
//! tool calls and their results.
//!
//! Pure. What a model is sent stays of one size however long the talk: old pictures become a line of text, old turns are
//! left out whole. How each provider writes it is in `talk::wire`; when to ask is for the conversation to decide.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::talk::message::{Image, Message, Part, Request, Role, ToolCall, ToolSpec};
use crate::talk::sight::budget::{image_tokens, text_tokens};
use crate::talk::sight::memory::Memory;

/// What a conversation begins with, and how much of it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextSettings {
    /// The system prompt.
    pub instructions: String,
    pub tools: Vec<ToolSpec>,
    /// Limit of one answer.
    pub max_tokens: Option<u32>,
    /// Pictures before the model at a time, beside pinned ones.
    pub keep_images: usize,
    /// Tokens of turns that are sent, as we reckon them; instructions, tools and pinned context come on top. The
    /// newest turn is sent in any case.
    pub history_tokens: u64,
}

impl Default for ContextSettings {
    fn default() -> Self {
        ContextSettings {
            instructions: String::new(),
            tools: Vec::new(),
            max_tokens: None,
            keep_images: 4,
            history_tokens: 8_000,
        }
    }
}

/// One piece of a reply as it was spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    pub text: String,
    /// How long it takes to say, in milliseconds.
    pub ms: u64,
}

/// Letters of one piece of text that are kept; texts and tool results may be longer than is good for a talk.
const TEXT_MAX: usize = 16 << 10;
/// Pinned messages.
const PINNED_MAX: usize = 32;
/// Given pictures before the model at a time, beside those of the camera.
pub const GIVEN_KEPT: usize = 4;
/// Trimming goes down to this part of the limit, so that the beginning of what is sent stays the same for some turns:
/// providers read it from their caches.
const TRIMMED_TO: (u64, u64) = (4, 5);

/// The conversation of one call.
#[derive(Clone, Debug)]
pub struct Context {
    settings: ContextSettings,
    pinned: Vec<Message>,
    history: VecDeque<Message>,
    memory: Memory,
    /// Shown since the last turn; they go with the next, as a picture alone is no turn.
    shown: Vec<Arc<Image>>,
    /// Given since the last turn, with what was said of them; they go before the words of the next.
    given: Vec<(Arc<Image>, String)>,
    /// Given pictures are counted apart: the camera's do not push them out.
    given_memory: Memory,
    /// What a model of its own sees now.
    scene: Option<String>,
    /// Pictures that tools brought, until all calls of their message are answered.
    brought: Vec<Arc<Image>>,
    /// Turns of the caller that were left out.
    left_out: u64,
}

impl Context {
    pub fn new(settings: ContextSettings) -> Self {
        Context {
            memory: Memory::new(settings.keep_images),
            settings,
            pinned: Vec::new(),
            history: VecDeque::new(),
            shown: Vec::new(),
            given: Vec::new(),
            given_memory: Memory::new(GIVEN_KEPT),
            scene: None,
            brought: Vec::new(),
            left_out: 0,
        }
    }

    /// Stands before everything that is said, and is never left out. `false`: there is too much of it already.
    pub fn pin(&mut self, mut message: Message) -> bool {
        if self.pinned.len() >= PINNED_MAX {
            return false;
        }
        for part in &mut message.parts {
            if let Part::Image(image) = part
                && !image.pinned
            {
                let mut pinned = Image::clone(image);
                pinned.pinned = true;
                *part = Part::Image(Arc::new(pinned));
            }
            bound(part);
        }
        self.pinned.push(message);
        true
    }

    /// Other instructions or tools from the next request on.
    pub fn set_instructions(&mut self, instructions: impl Into<String>) {
        self.settings.instructions = instructions.into();
    }

    pub fn set_tools(&mut self, tools: Vec<ToolSpec>) {
        self.settings.tools = tools;
    }

    /// A picture without words: it is sent with the caller's next turn.
    pub fn show(&mut self, image: Arc<Image>) {
        self.shown.retain(|shown| shown.id != image.id);
        self.shown.push(image);
        let over = self.shown.len().saturating_sub(self.settings.keep_images.max(1));
        self.shown.drain(..over);
    }

    /// Somebody gives a picture: it is sent with the caller's next turn, behind what is said of it. The last four are
    /// kept, whatever the camera shows.
    pub fn give(&mut self, image: Arc<Image>, words: &str) {
        if self.given.len() >= GIVEN_KEPT {
            self.given.remove(0);
        }
        self.given.push((image, words.to_owned()));
    }

    /// The caller's turn: what it said, wrote or did, and the pictures of that turn.
    pub fn user(&mut self, words: &str, images: &[Arc<Image>]) {
        self.close_calls();
        let images = self.with_shown(images);
        self.shown.clear();
        for image in &images {
            let gone = self.memory.show(image);
            self.forget(&gone);
            // Shown again, it stands where it is newest.
            self.forget(&[image.id]);
        }
        let images = images.into_iter().filter(|image| image.pinned || self.memory.holds(image.id)).collect();
        let mut message = turn(words, images);
        let given = std::mem::take(&mut self.given);
        let mut first = Vec::new();
        for (image, words) in given {
            let gone = self.given_memory.show(&image);
            self.forget(&gone);
            first.extend((!words.is_empty()).then(|| text(&words)));
            first.push(Part::Image(image));
        }
        message.parts.splice(..0, first);
        self.history.push_back(message);
        self.trim();
    }

    /// The caller goes on where it stopped, before anything was answered: one turn of both.
    pub fn amend(&mut self, words: &str) -> bool {
        let Some(last) = self.history.back_mut().filter(|last| last.role == Role::User) else { return false };
        last.parts.retain(|part| !matches!(part, Part::Text(_)));
        last.parts.push(text(words));
        true
    }

    /// Takes the caller's newest turn back, as though it had not been. `false`: something was answered since.
    pub fn retract(&mut self) -> bool {
        let is_user = self.history.back().is_some_and(|last| last.role == Role::User);
        if is_user {
            self.history.pop_back();
        }
        is_user
    }

    /// What the agent said, as far as it was heard. `cut`: it was stopped there. Nothing heard is nothing said.
    pub fn reply(&mut self, heard: &str, cut: bool) {
        let heard = heard.trim();
        if heard.is_empty() {
            return;
        }
        let words = if cut { format!("{heard} …") } else { heard.to_owned() };
        let parts = vec![text(&words)];
        self.history.push_back(Message { role: Role::Assistant, parts, calls: Vec::new(), answers: None });
        self.trim();
    }

    /// The agent wants something done; `words` are what it said with it.
    pub fn calls(&mut self, words: &str, calls: Vec<ToolCall>) {
        self.close_calls();
        let parts = if words.trim().is_empty() { Vec::new() } else { vec![text(words.trim())] };
        self.history.push_back(Message { role: Role::Assistant, parts, calls, answers: None });
    }

    /// What came of the call `id`, with pictures if there are any. `false`: nobody waits for it (any more).
    pub fn answer(&mut self, id: &str, result: &str, images: &[Arc<Image>]) -> bool {
        let Some((at, call)) = self.open_calls().into_iter().find(|(_, call)| call.id == id) else {
            return false;
        };
        self.insert_answer(at, call, result);
        self.brought.extend(images.iter().cloned());
        if self.open_calls().is_empty() && !self.brought.is_empty() {
            // Results are text for most providers; the pictures follow as though the caller had shown them.
            let brought = std::mem::take(&mut self.brought);
            self.user("[what the tool shows]", &brought);
        }
        self.trim();
        true
    }

    /// What a model of its own sees now; the last word counts, and the same is not said twice.
    pub fn observe(&mut self, scene: Option<String>) {
        self.scene = scene;
    }

    /// The request for an answer to what was said so far.
    pub fn request(&self) -> Request {
        if self.open_calls().is_empty() {
            return self.written();
        }
        let mut closed = self.clone();
        closed.close_calls();
        closed.written()
    }

    /// The request for an answer to `words` and `images` as though they were the caller's next turn, which may never
    /// come: what [`Context::user`] and [`Context::request`] would give.
    pub fn request_for(&self, words: &str, images: &[Arc<Image>]) -> Request {
        let mut ahead = self.clone();
        ahead.user(words, images);
        ahead.written()
    }

    fn written(&self) -> Request {
        let mut messages: Vec<Message> = self.pinned.iter().chain(&self.history).cloned().collect();
        if let (Some(first), 1..) = (messages.get_mut(self.pinned.len()), self.left_out) {
            let line = format!("[{} earlier turns of this call are left out]", self.left_out);
            first.parts.insert(0, Part::Text(line));
        }
        if let Some(scene) = &self.scene
            && let Some(last) = messages.iter_mut().rev().find(|message| message.role == Role::User)
        {
            last.parts.insert(0, Part::Text(format!("[what the camera shows now: {scene}]")));
        }
        Request {
            instructions: self.settings.instructions.clone(),
            messages,
            tools: self.settings.tools.clone(),
            schema: None,
            max_tokens: self.settings.max_tokens,
        }
    }

    /// Everything that was said and is still known, pinned context apart.
    pub fn history(&self) -> impl Iterator<Item = &Message> {
        self.history.iter()
    }

    /// The tokens a request made now is reckoned at, without instructions and tools.
    pub fn tokens(&self) -> u64 {
        self.pinned.iter().chain(&self.history).map(cost).sum()
    }

    /// Turns of the caller that are not sent any more.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What was shown since the last turn and `images`, each picture once: where it is newest.
    fn with_shown(&self, images: &[Arc<Image>]) -> Vec<Arc<Image>> {
        let all: Vec<&Arc<Image>> = self.shown.iter().chain(images).collect();
        let is_last = |at: usize| all[at + 1..].iter().all(|later| later.id != all[at].id);
        (0..all.len()).filter(|at| is_last(*at)).map(|at| all[at].clone()).collect()
    }

    /// Puts notes in the place of pictures.
    fn forget(&mut self, ids: &[u64]) {
        for part in self.history.iter_mut().flat_map(|message| &mut message.parts) {
            if let Part::Image(image) = part
                && ids.contains(&image.id)
            {
                *part = Part::Text(format!("[{}]", image.note));
            }
        }
    }

    /// Calls nobody has answered, with the place of their message.
    fn open_calls(&self) -> Vec<(usize, ToolCall)> {
        let Some(at) = self.history.iter().rposition(|message| !message.calls.is_empty()) else {
            return Vec::new();
        };
        let answered = |call: &&ToolCall| {
            let mut answers = self.history.iter().skip(at + 1).filter_map(|message| message.answers.as_ref());
            answers.any(|(id, _)| *id == call.id)
        };
        self.history[at].calls.iter().filter(|call| !answered(call)).map(|call| (at, call.clone())).collect()
    }

    /// Providers refuse a conversation in which a call has no answer.
    fn close_calls(&mut self) {
        for (at, call) in self.open_calls() {
            self.insert_answer(at, call, "It was interrupted.");
        }
        self.brought.clear();
    }

    fn insert_answer(&mut self, at: usize, call: ToolCall, result: &str) {
        let answers = Some((call.id, call.name));
        let answer = Message { role: Role::Tool, parts: vec![text(result)], calls: Vec::new(), answers };
        // Behind the answers there are, before anything else.
        let behind =
            self.history.iter().skip(at + 1).take_while(|message| message.role == Role::Tool).count();
        self.history.insert(at + 1 + behind, answer);
    }

    /// Leaves the oldest turns out, whole: what remains begins with the caller.
    fn trim(&mut self) {
        let mut left = self.history.iter().map(cost).sum::<u64>();
        if left <= self.settings.history_tokens {
            return;
        }
        let target = self.settings.history_tokens * TRIMMED_TO.0 / TRIMMED_TO.1;
        let begins = |message: &Message| message.role == Role::User;
        while left > target {
            let Some(next) = (1..self.history.len()).find(|at| begins(&self.history[*at])) else { return };
            for gone in self.history.drain(..next) {
                left = left.saturating_sub(cost(&gone));
                self.left_out += u64::from(begins(&gone));
            }
        }
    }
}

/// What of a reply was heard after `heard_ms` of it were played: whole words, and whether it was all of it.
pub fn heard(spoken: &[Spoken], heard_ms: u64) -> (String, bool) {
    let (mut words, mut left) = (String::new(), heard_ms);
    for piece in spoken {
        if !words.is_empty() && left > 0 {
            words.push(' ');
        }
        if left >= piece.ms {
            words.push_str(piece.text.trim());
            left -= piece.ms;
            continue;
        }
        let letters = piece.text.chars().count() as u64;
        let reached = piece.text.char_indices().nth((letters * left / piece.ms.max(1)) as usize);
        let part = &piece.text[..reached.map_or(piece.text.len(), |(at, _)| at)];
        // The word that was being said does not count; where a script has no spaces, letters do.
        let end = if part.len() == piece.text.len() { part.len() } else { part.rfind(' ').unwrap_or(0) };
        let end = if end == 0 && !piece.text.trim().contains(' ') { part.len() } else { end };
        words.push_str(part[..end].trim());
        return (words.trim_end().to_owned(), false);
    }
    (words, true)
}

fn turn(words: &str, images: Vec<Arc<Image>>) -> Message {
    let mut parts: Vec<Part> = images.into_iter().map(Part::Image).collect();
    if !words.is_empty() || parts.is_empty() {
        parts.push(text(words));
    }
    Message { role: Role::User, parts, calls: Vec::new(), answers: None }
}

fn text(words: &str) -> Part {
    let mut part = Part::Text(words.to_owned());
    bound(&mut part);
    part
}

fn bound(part: &mut Part) {
    if let Part::Text(words) = part
        && words.len() > TEXT_MAX
    {
        let end = (0..=TEXT_MAX).rev().find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words.truncate(end);
        words.push_str(" …");
    }
}

/// Roles and separators of one message.
const MESSAGE_TOKENS: u64 = 4;

fn cost(message: &Message) -> u64 {
    let parts = message.parts.iter().map(|part| match part {
        Part::Text(words) => text_tokens(words),
        Part::Image(image) => image_tokens(image),
        Part::Url(_) => 1_000,
    });
    let calls = message.calls.iter().map(|call| text_tokens(&call.name) + text_tokens(&call.arguments));
    MESSAGE_TOKENS + parts.sum::<u64>() + calls.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::codec::still::ImageType;
    use crate::media::frame::Size;

    fn image(id: u64) -> Arc<Image> {
        let size = Size::new(1024, 576);
        Arc::new(Image::given(id, ImageType::Jpeg, vec![0], size, format!("picture {id}")))
    }

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: "look".to_owned(), arguments: "{}".to_owned(), signature: None }
    }

    fn context(keep_images: usize) -> Context {
        Context::new(ContextSettings { keep_images, ..ContextSettings::default() })
    }

    /// `U:what is this? #1` for each message.
    fn told(request: &Request) -> Vec<String> {
        let letter = |role: Role| match role {
            Role::System => 'S',
            Role::User => 'U',
            Role::Assistant => 'A',
            Role::Tool => 'T',
        };
        let line = |message: &Message| {
            let mut line = format!("{}:{}", letter(message.role), message.words().replace('\n', " "));
            message.images().for_each(|image| line.push_str(&format!(" #{}", image.id)));
            message.calls.iter().for_each(|call| line.push_str(&format!(" ?{}", call.id)));
            message.answers.iter().for_each(|(id, _)| line.push_str(&format!(" !{id}")));
            line
        };
        request.messages.iter().map(line).collect()
    }

    #[test]
    fn the_turn_carries_its_picture_and_old_ones_become_a_line() {
        let mut context = context(2);
        for id in 1..=3 {
            context.user(&format!("what is {id}?"), &[image(id)]);
            context.reply(&format!("a thing {id}"), false);
        }
        let expected = [
            "U:[picture 1] what is 1?",
            "A:a thing 1",
            "U:what is 2? #2",
            "A:a thing 2",
            "U:what is 3? #3",
            "A:a thing 3",
        ];
        assert_eq!(told(&context.request()), expected);
    }

    #[test]
    fn a_picture_that_still_stands_moves_to_the_newest_turn() {
        let mut context = context(4);
        context.user("hello", &[image(1)]);
        context.reply("hi", false);
        context.user("and now?", &[image(1)]);
        assert_eq!(told(&context.request()), ["U:[picture 1] hello", "A:hi", "U:and now? #1"]);
        // Nothing changed from the beginning of the turn to its end.
        context.reply("the same", false);
        context.show(image(2));
        context.user("sure?", &[image(2), image(1), image(2)]);
        assert_eq!(told(&context.request())[4..], ["U:sure? #1 #2"]);
    }

    #[test]
    fn a_picture_alone_is_no_turn_and_goes_with_the_next() {
        let mut context = context(2);
        for id in 1..=3 {
            context.show(image(id));
        }
        assert_eq!(context.request().messages.len(), 0);
        assert_eq!(told(&context.request_for("look", &[image(4)])), ["U:look #3 #4"]);
        context.user("look", &[]);
        assert_eq!(told(&context.request()), ["U:look #2 #3"]);
    }

    #[test]
    fn what_is_given_goes_with_the_next_turn_and_the_camera_does_not_push_it_out() {
        let mut context = context(1);
        context.give(image(100), "the contract");
        assert_eq!(context.request().messages.len(), 0, "a picture alone is no turn");
        let ahead = context.request_for("what is this?", &[image(1)]);
        context.user("what is this?", &[image(1)]);
        assert_eq!(context.request(), ahead);
        assert_eq!(told(&context.request()), ["U:the contract what is this? #100 #1"]);
        for id in 2..6 {
            context.reply("ok", false);
            context.user("and now?", &[image(id)]);
        }
        assert!(told(&context.request())[0].ends_with("#100"), "{:?}", told(&context.request()));
        for id in 101..107 {
            context.give(image(id), "");
        }
        context.user("all of them", &[]);
        let all = told(&context.request());
        assert!(all[0].contains("[picture 100]"), "{all:?}");
        assert_eq!(all.last().map(String::as_str), Some("U:all of them #103 #104 #105 #106"));
    }

    #[test]
    fn speculating_changes_nothing_and_asks_what_the_turn_would_ask() {
        let mut context = context(2);
        context.user("hello", &[image(1)]);
        context.reply("hi", false);
        let before = context.request();
        let ahead = context.request_for("what is this?", &[image(2)]);
        assert_eq!(context.request(), before);
        assert_eq!(ahead.image_count(), 2);
        context.user("what is this?", &[image(2)]);
        assert_eq!(context.request(), ahead);
    }

    #[test]
    fn a_reply_is_what_was_heard_of_it() {
        let spoken = |text: &str, ms| Spoken { text: text.to_owned(), ms };
        let reply = [spoken("Good morning.", 1_000), spoken("How can I help you today?", 2_000)];
        assert_eq!(heard(&reply, 3_000), ("Good morning. How can I help you today?".to_owned(), true));
        assert_eq!(heard(&reply, 2_000), ("Good morning. How can I".to_owned(), false));
        assert_eq!(heard(&reply, 1_000), ("Good morning.".to_owned(), false));
        assert_eq!(heard(&reply, 100), (String::new(), false));
        assert_eq!(heard(&[spoken("お元気ですか", 600)], 300), ("お元気".to_owned(), false));
        assert_eq!(heard(&[], 10), (String::new(), true));
        let mut context = context(2);
        context.user("hello", &[]);
        context.reply("", true);
        context.reply("Good morning. How can", true);
        assert_eq!(told(&context.request()), ["U:hello", "A:Good morning. How can …"]);
    }

    #[test]
    fn every_call_has_its_answer_in_every_request() {
        let mut context = context(2);
        context.user("look twice", &[]);
        context.calls("One moment.", vec![call("a"), call("b")]);
        let interrupted = ["T:It was interrupted. !a", "T:It was interrupted. !b"];
        let start = ["U:look twice", "A:One moment. ?a ?b"];
        assert_eq!(told(&context.request()), [start, interrupted].concat());
        assert!(context.answer("b", "seen", &[image(5)]));
        assert!(!context.answer("b", "again", &[]), "answered already");
        assert!(!context.answer("z", "what?", &[]));
        assert!(context.answer("a", "seen too", &[]));
        let expected = ["T:seen !b", "T:seen too !a", "U:[what the tool shows] #5"];
        assert_eq!(told(&context.request()), [&start[..], &expected[..]].concat());
        context.calls("", vec![call("c")]);
        context.user("stop", &[]);
        assert_eq!(told(&context.request())[5..], ["A: ?c", "T:It was interrupted. !c", "U:stop"]);
        assert!(!context.answer("c", "too late", &[]));
    }

    #[test]
    fn pinned_context_is_never_forgotten_and_the_scene_is_said_once() {
        let mut context = context(1);
        let mut plan = Message::text(Role::User, "the plan of the house");
        plan.parts.push(Part::Image(image(100)));
        assert!(context.pin(plan));
        for turn in 0..50 {
            context.observe(Some(format!("a man with {turn} parcels")));
            context.user("hm", &[image(turn)]);
            context.reply("yes", false);
        }
        let request = context.request();
        assert_eq!(told(&request)[0], "U:the plan of the house #100");
        let all = told(&request).join("|");
        assert_eq!(all.matches("parcels").count(), 1, "{all}");
        assert!(all.contains("[what the camera shows now: a man with 49 parcels]"));
        assert_eq!(request.image_count(), 2);
    }

    #[test]
    fn turns_can_be_amended_and_taken_back() {
        let mut context = context(2);
        context.user("what is", &[image(1)]);
        assert!(context.amend("what is this?"));
        assert_eq!(told(&context.request()), ["U:what is this? #1"]);
        assert!(context.retract());
        assert_eq!(context.request().messages, []);
        context.user("hello", &[]);
        context.reply("hi", false);
        assert!(!context.retract() && !context.amend("no"));
    }

    #[test]
    fn what_is_too_long_for_a_talk_is_cut_at_a_letter() {
        let mut context = context(2);
        context.user(&"ä".repeat(TEXT_MAX), &[]);
        let request = context.request();
        let words = request.messages[0].words();
        assert!(words.len() <= TEXT_MAX + 8 && words.ends_with(" …"), "{}", words.len());
    }

    /// Half an hour of talk with video in virtual time: a turn every 12 s, a sample every second of speech, a tool in
    /// every fifth turn. What is sent must be of one size, and no more than is allowed.
    #[test]
    fn thirty_minutes_of_talk_with_video_cost_the_same_per_turn() {
        let settings = ContextSettings {
            instructions: "You are the receptionist.".to_owned(),
            ..ContextSettings::default()
        };
        let (limit, keep) = (settings.history_tokens, settings.keep_images);
        let mut context = Context::new(settings);
        let (start, end) = (Instant::now(), Duration::from_secs(30 * 60));
        let (mut now, mut next_id, mut turns) = (start, 1, Vec::new());
        while now - start < end {
            let number = turns.len();
            for _ in 0..4 {
                context.show(image(next_id));
                next_id += 1;
                now += Duration::from_secs(1);
            }
            context.user(
                &format!("question {number}: {}", "what is that over there? ".repeat(4)),
                &[image(next_id)],
            );
            next_id += 1;
            if number % 5 == 0 {
                context.calls("", vec![call(&format!("call{number}"))]);
                assert!(context.answer(&format!("call{number}"), &"seen ".repeat(50), &[]));
            }
            let request = context.request();
            assert!(request.image_count() <= keep);
            assert_eq!(request.messages.last().map(|last| last.role == Role::Assistant), Some(false));
            let latest = request.messages.iter().flat_map(Message::images).map(|image| image.id).max();
            assert_eq!(latest, Some(next_id - 1), "the picture of this very turn");
            let first = request.messages.first().map(|first| first.role);
            assert_eq!(first, Some(Role::User), "no answer without its question");
            turns.push(context.tokens());
            context.reply(&"It is a parcel, I think. ".repeat(6), number % 7 == 0);
            now += Duration::from_secs(8);
        }
        assert!(turns.len() >= 150, "{}", turns.len());
        let most = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
        assert!(most(&turns) <= limit, "{} of {limit}", most(&turns));
        let (early, late) = (&turns[30..60], &turns[turns.len() - 30..]);
        assert!(most(late) <= most(early) * 21 / 20, "{} grew to {}", most(early), most(late));
        assert!(context.left_out() > 50);
    }
}
