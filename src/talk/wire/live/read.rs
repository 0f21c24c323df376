//! What Gemini Live says: server messages, their names in either case.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::Value;

use super::{CALLS_AT_ONCE, GeminiLive, HANDOVER_MARGIN, MUTED_AT_MOST, Stage, Turn};
use crate::talk::message::{Failure, Role, ToolCall, Usage};
use crate::talk::realtime::{LinkId, RealtimeEvent, Sound, Turns};

/// The value under either writing of its name.
fn of<'a>(value: &'a Value, camel: &str) -> &'a Value {
    if let Some(found) = value.get(camel) {
        return found;
    }
    let mut snake = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    value.get(&snake).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, camel: &str) -> &'a str {
    of(value, camel).as_str().unwrap_or_default()
}

fn is(value: &Value, camel: &str) -> bool {
    of(value, camel).as_bool().unwrap_or_default()
}

/// `50s`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn usage(metadata: &Value) -> Usage {
    let count = |camel: &str| of(metadata, camel).as_u64().unwrap_or_default();
    let details = of(metadata, "promptTokensDetails").as_array();
    // Pictures of a call count as video with some models.
    let pictures =
        details.into_iter().flatten().filter(|part| matches!(text(part, "modality"), "IMAGE" | "VIDEO"));
    Usage {
        input_tokens: count("promptTokenCount"),
        cached_tokens: count("cachedContentTokenCount"),
        image_tokens: pictures.map(|part| of(part, "tokenCount").as_u64().unwrap_or_default()).sum(),
        output_tokens: count("responseTokenCount"),
    }
}

impl GeminiLive {
    pub(super) fn read(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        let message = match serde_json::from_slice::<Value>(bytes) {
            Ok(message) if message.is_object() => message,
            Ok(_) | Err(_) => {
                self.figures.malformed += 1;
                return;
            }
        };
        let stage = [self.current, self.standby].into_iter().flatten().find(|line| line.id == link);
        let Some(stage) = stage.map(|line| line.stage) else { return };
        if of(&message, "setupComplete").is_object() && stage == Stage::Opened {
            self.configured(now, link);
        }
        if self.standby.is_some_and(|line| line.id == link) {
            // Its handles are those of the state it was resumed from.
            return;
        }
        self.resumption(now, of(&message, "sessionResumptionUpdate"));
        let left = of(&message, "goAway");
        if left.is_object() {
            let left = duration(text(left, "timeLeft")).unwrap_or(Duration::from_secs(10));
            self.handover_by = Some(now + left.saturating_sub(HANDOVER_MARGIN));
        }
        if stage != Stage::Live && self.live().is_none() {
            return;
        }
        let metadata = of(&message, "usageMetadata");
        if metadata.is_object() {
            self.talk.usage = usage(metadata);
        }
        self.calls(of(&message, "toolCall"));
        self.calls_cancelled(of(&message, "toolCallCancellation"));
        self.activity(now, of(&message, "voiceActivity"));
        self.content(now, of(&message, "serverContent"));
    }

    fn resumption(&mut self, now: Instant, update: &Value) {
        let handle = text(update, "newHandle");
        if !is(update, "resumable") || handle.is_empty() {
            return;
        }
        let consumed = of(update, "lastConsumedClientMessageIndex");
        let consumed = consumed.as_u64().or_else(|| consumed.as_str().and_then(|number| number.parse().ok()));
        self.consumed = consumed.map(|index| self.sent_before + index);
        self.handle = Some(handle.to_owned());
        self.handle_at = now;
    }

    fn activity(&mut self, now: Instant, activity: &Value) {
        match text(activity, "voiceActivityType") {
            "ACTIVITY_START" => {
                self.caller_began(now);
                self.tell(RealtimeEvent::SpeechStarted);
            }
            "ACTIVITY_END" => self.tell(RealtimeEvent::SpeechEnded),
            _ => {}
        }
    }

    fn calls(&mut self, given: &Value) {
        for call in of(given, "functionCalls").as_array().into_iter().flatten() {
            let (id, name) = (text(call, "id"), text(call, "name"));
            if self.talk.calls.len() >= CALLS_AT_ONCE || name.is_empty() {
                self.figures.malformed += 1;
                continue;
            }
            self.owed_since = None;
            self.talk.calls.push((id.to_owned(), name.to_owned()));
            let arguments = match of(call, "args") {
                Value::Null => "{}".to_owned(),
                args => args.to_string(),
            };
            let signature = of(call, "thoughtSignature").as_str().map(str::to_owned);
            let (id, name) = (id.to_owned(), name.to_owned());
            self.tell(RealtimeEvent::Call(ToolCall { id, name, arguments, signature }));
        }
    }

    fn calls_cancelled(&mut self, given: &Value) {
        let ids = of(given, "ids").as_array().into_iter().flatten().filter_map(Value::as_str);
        let ids: Vec<String> =
            ids.filter(|id| self.talk.calls.iter().any(|(call, _)| call == id)).map(str::to_owned).collect();
        self.talk.calls.retain(|(call, _)| !ids.contains(call));
        if !ids.is_empty() {
            self.tell(RealtimeEvent::CallsCancelled(ids));
        }
    }

    fn content(&mut self, now: Instant, content: &Value) {
        if !content.is_object() {
            return;
        }
        let heard = of(content, "inputTranscription");
        if heard.is_object() {
            self.caller_said(now, heard);
        }
        if is(content, "interrupted") {
            self.interrupted(now);
        }
        for part in of(of(content, "modelTurn"), "parts").as_array().into_iter().flatten() {
            self.part(now, part);
        }
        let words = text(of(content, "outputTranscription"), "text");
        if !words.is_empty() {
            self.words(now, words);
        }
        if is(content, "generationComplete") {
            self.sound_done();
        }
        if is(content, "turnComplete") {
            self.turn_complete(text(content, "turnCompleteReason"));
        }
    }

    /// Something was heard of the caller, with or without words.
    pub(super) fn caller_began(&mut self, now: Instant) {
        if self.turn_since.is_none() {
            let since = self.speaks_since.unwrap_or(now);
            self.turn_since = Some(since.checked_sub(super::PRE_ROLL).unwrap_or(since));
        }
    }

    fn caller_said(&mut self, now: Instant, heard: &Value) {
        let words = text(heard, "text");
        let item = self.caller_item();
        let first = self.said.text(&item).is_none_or(str::is_empty);
        if first && !words.trim().is_empty() && self.talk.turn.is_none() {
            self.caller_began(now);
            if self.silent_since.is_some() && self.settings.turns != Turns::Ours {
                // The words of what just ended: an answer is due.
                self.owed_since.get_or_insert(now);
            }
        }
        self.said.append(&item, if first { words.trim_start() } else { words });
        let last = is(heard, "finished");
        self.transcript(&item, Role::User, last);
        if last {
            self.talk.heard = None;
        }
    }

    /// The item of what the caller says now.
    fn caller_item(&mut self) -> String {
        if let Some(item) = &self.talk.heard {
            return item.clone();
        }
        self.turns += 1;
        let item = format!("heard-{}", self.turns);
        self.said.open(&item, Role::User);
        self.talk.heard = Some(item.clone());
        item
    }

    fn transcript(&mut self, item: &str, role: Role, last: bool) {
        let text = self.said.text(item).unwrap_or_default().trim_end().to_owned();
        if !text.is_empty() {
            self.tell(RealtimeEvent::Transcript { role, item: item.into(), text, last });
        }
    }

    /// The turn a piece belongs to; `None`: to one nobody wants any more.
    fn turn(&mut self, now: Instant) -> Option<&mut Turn> {
        if self.talk.muted.is_some_and(|until| now < until) {
            self.figures.late_dropped += 1;
            return None;
        }
        self.talk.muted = None;
        self.owed_since = None;
        self.turn_since = None;
        if self.talk.turn.is_none() {
            // The caller's words come before it, though they may be told after it.
            self.caller_item();
            self.turns += 1;
            let item: crate::talk::realtime::ItemId = format!("turn-{}", self.turns).into();
            self.said.open(&item, Role::Assistant);
            self.talk.last_item = Some(item.clone());
            self.talk.turn = Some(Turn { item, ms: 0, odd: None, sounded: false, done: false });
        }
        self.talk.turn.as_mut()
    }

    fn part(&mut self, now: Instant, part: &Value) {
        let data = of(part, "inlineData");
        if !data.is_object() {
            let words = text(part, "text").to_owned();
            if !is(part, "thought") && !words.is_empty() {
                self.words(now, &words);
            }
            return;
        }
        let media_type = text(data, "mimeType");
        let rate = media_type.split(';').find_map(|word| word.trim().strip_prefix("rate=")?.parse().ok());
        let rate: u32 = rate.unwrap_or(24_000);
        let coded = text(data, "data");
        let bytes = STANDARD.decode(coded).or_else(|_| URL_SAFE.decode(coded));
        let (Ok(bytes), true) =
            (bytes, media_type.starts_with("audio/pcm") && (4_000..=192_000).contains(&rate))
        else {
            self.figures.malformed += 1;
            return;
        };
        let Some(turn) = self.turn(now) else { return };
        let samples = super::super::sound::samples(bytes, &mut turn.odd);
        turn.ms += samples.len() as u64 * 1000 / u64::from(rate);
        turn.sounded = true;
        let item = turn.item.clone();
        self.talk.unflushed = true;
        self.tell(RealtimeEvent::Sound { item, sound: Sound::Samples { rate, samples } });
    }

    fn words(&mut self, now: Instant, words: &str) {
        let asked = self.turn_since.is_some() || self.owed_since.is_some();
        if self.talk.turn.is_none()
            && !asked
            && let Some(item) = self.talk.last_item.clone()
        {
            // Words may be told after the turn they belong to.
            self.said.append(&item, words);
            self.transcript(&item, Role::Assistant, true);
            return;
        }
        let Some(turn) = self.turn(now) else { return };
        let item = turn.item.clone();
        let first = self.said.text(&item).is_none_or(str::is_empty);
        self.said.append(&item, if first { words.trim_start() } else { words });
        self.transcript(&item, Role::Assistant, false);
    }

    pub(super) fn sound_done(&mut self) {
        if let Some(turn) = self.talk.turn.as_mut().filter(|turn| turn.sounded && !turn.done) {
            turn.done = true;
            let item = turn.item.clone();
            self.tell(RealtimeEvent::SoundDone { item });
        }
    }

    /// The caller spoke. It may come after everything was generated, while it still plays.
    fn interrupted(&mut self, now: Instant) {
        self.owed_since = None;
        self.caller_began(now);
        self.talk.muted = Some(now + MUTED_AT_MOST);
        if let Some(turn) = &mut self.talk.turn {
            turn.done = true;
        }
        if std::mem::take(&mut self.talk.unflushed) {
            let item = self.talk.last_item.clone();
            self.tell(RealtimeEvent::Interrupted { item });
        }
    }

    fn turn_complete(&mut self, reason: &str) {
        self.sound_done();
        self.talk.muted = None;
        self.owed_since = None;
        if let Some(item) = self.talk.heard.take() {
            self.transcript(&item, Role::User, true);
        }
        if let Some(turn) = self.talk.turn.take() {
            self.transcript(&turn.item, Role::Assistant, true);
            self.talk.last_ms = turn.ms;
        }
        if reason.contains("PROHIBITED") || reason.contains("SAFETY") || reason.contains("MALFORMED") {
            if reason.contains("IMAGE") {
                self.images.retain(|image| image.pinned);
            }
            self.tell(RealtimeEvent::Trouble(Failure::Failed { status: 0, text: reason.to_owned() }));
        }
        let usage = std::mem::take(&mut self.talk.usage);
        let total = &mut self.figures.usage;
        total.input_tokens += usage.input_tokens;
        total.cached_tokens += usage.cached_tokens;
        total.image_tokens += usage.image_tokens;
        total.output_tokens += usage.output_tokens;
        self.tell(RealtimeEvent::TurnDone { usage });
    }
}
