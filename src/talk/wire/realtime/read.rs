//! What OpenAI Realtime says: server events, in any order it likes.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Active, CALLS_AT_ONCE, OpenAiRealtime, REMEMBERED, Spoken, Stage, write};
use crate::talk::message::{Failure, Role, ToolCall, Usage};
use crate::talk::realtime::{LinkId, RealtimeEvent, Sound, SoundFormat, Turns};

/// Errors no new connection mends, and what they count as.
const FATAL: [(&str, u16); 5] = [
    ("insufficient_quota", 429),
    ("invalid_api_key", 401),
    ("account_deactivated", 403),
    ("billing_hard_limit_reached", 402),
    ("model_not_found", 404),
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// A word about `error`, short enough for a log.
fn told(error: &Value) -> String {
    let (code, message) = (code_of(error), text(error, "message"));
    format!("{code}: {message}").chars().take(300).collect()
}

fn code_of(error: &Value) -> &str {
    match text(error, "code") {
        "" => text(error, "type"),
        code => code,
    }
}

fn usage(response: &Value) -> Usage {
    let usage = &response["usage"];
    let details = &usage["input_token_details"];
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    Usage {
        input_tokens: count(&usage["input_tokens"]),
        cached_tokens: count(&details["cached_tokens"]),
        image_tokens: count(&details["image_tokens"]),
        output_tokens: count(&usage["output_tokens"]),
    }
}

impl OpenAiRealtime {
    pub(super) fn read(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        let Ok(event) = serde_json::from_slice::<Value>(bytes) else {
            self.figures.malformed += 1;
            return;
        };
        let Some(kind) = event["type"].as_str() else {
            self.figures.malformed += 1;
            return;
        };
        let stage = [self.current, self.standby].into_iter().flatten().find(|line| line.id == link);
        match (stage.map(|line| line.stage), kind) {
            // A connection that was given up.
            (None, _) => {}
            (Some(_), "session.created") => self.configure(link),
            (Some(Stage::Asked), "session.updated") => self.configured(now, link, &event["session"]),
            (Some(Stage::Live), "session.updated") => self.read_back(&event["session"]),
            (Some(_), "error") => self.error(now, link, &event["error"]),
            (Some(Stage::Live), kind) => self.live_event(now, kind, &event),
            (Some(_), _) => self.figures.unknown += 1,
        }
    }

    fn configure(&mut self, link: LinkId) {
        let text = write::session(&self.endpoint, &self.settings, self.format);
        for line in [&mut self.current, &mut self.standby].into_iter().flatten() {
            if line.id == link && matches!(line.stage, Stage::Connecting | Stage::Opened) {
                line.stage = Stage::Asked;
                self.acts.push_back(super::Act::Send { link, text });
                return;
            }
        }
    }

    fn configured(&mut self, now: Instant, link: LinkId, session: &Value) {
        self.read_back(session);
        if let Some(standby) = self.standby.as_mut().filter(|line| line.id == link) {
            standby.stage = Stage::Configured;
        } else {
            self.begin(now);
        }
    }

    /// The server's defaults are not those of its documentation.
    fn read_back(&mut self, session: &Value) {
        let detection = &session["audio"]["input"]["turn_detection"];
        if detection.is_object() {
            self.creates = detection["create_response"].as_bool().unwrap_or(true);
            self.interrupts = detection["interrupt_response"].as_bool().unwrap_or(true);
        }
    }

    fn error(&mut self, now: Instant, link: LinkId, error: &Value) {
        let code = code_of(error);
        let status = FATAL.iter().find(|(fatal, _)| *fatal == code).map(|(_, status)| *status);
        if let Some(status) = status {
            self.close_for_good(Failure::Refused { status, text: told(error) });
            return;
        }
        let about = text(error, "event_id");
        let refused = Failure::Refused { status: 400, text: told(error) };
        match about.split_once('-') {
            // What we ask for is wrong; a new connection would be asked the same.
            Some(("session", _)) => self.close_for_good(refused),
            Some(("aside", number)) => {
                let id: u64 = number.parse().unwrap_or_default();
                self.finish_aside(|aside| aside.id == id, Err(refused), Usage::default());
            }
            Some(("create", _)) => self.create_refused(now, code, refused),
            Some(("image", number)) => {
                let id: Option<u64> = number.parse().ok();
                self.images.retain(|image| Some(image.id) != id);
                self.figures.images_dropped += 1;
                self.tell(RealtimeEvent::Trouble(refused));
            }
            Some(("tidy", _)) => self.figures.errors_ignored += 1,
            Some(_) | None if code == "session_expired" => {
                self.acts.push_back(super::Act::Close { link });
                super::RealtimeMachine::handle_ended(self, now, link, Failure::Cut);
            }
            Some(_) | None if code == "rate_limit_exceeded" => {
                self.tell(RealtimeEvent::Trouble(Failure::Busy { retry_after_ms: None }));
            }
            // A race of two cancellations is no news.
            Some(_) | None if code == "response_cancel_not_active" => self.figures.errors_ignored += 1,
            Some(_) | None => self.tell(RealtimeEvent::Trouble(refused)),
        }
    }

    fn create_refused(&mut self, now: Instant, code: &str, refused: Failure) {
        let Some(wanted) = self.talk.creating.take() else { return };
        self.owed_since = None;
        if code == "conversation_already_has_active_response" {
            // The server began one by itself; ours follows it.
            self.wanted.push_front(wanted);
            self.figures.errors_ignored += 1;
        } else {
            self.turn_since = None;
            self.tell(RealtimeEvent::Trouble(refused));
            self.ask_wanted(now);
        }
    }

    fn live_event(&mut self, now: Instant, kind: &str, event: &Value) {
        match kind {
            "input_audio_buffer.speech_started" => self.speech_started(now),
            "input_audio_buffer.speech_stopped" => self.speech_stopped(now),
            "input_audio_buffer.committed" => {
                let item = text(event, "item_id");
                self.said.open(item, Role::User);
            }
            "conversation.item.input_audio_transcription.delta" => {
                let item = text(event, "item_id");
                self.said.open(item, Role::User);
                self.said.append(item, text(event, "delta"));
                self.transcript(item, Role::User, false);
            }
            "conversation.item.input_audio_transcription.completed" => {
                let item = text(event, "item_id");
                self.said.open(item, Role::User);
                self.said.set(item, text(event, "transcript").trim());
                self.transcript(item, Role::User, true);
            }
            "conversation.item.input_audio_transcription.failed" => self.figures.errors_ignored += 1,
            "response.created" => self.response_created(now, &event["response"]),
            "response.output_audio.delta" | "response.audio.delta" => self.sound(event),
            "response.output_audio.done" | "response.audio.done" => self.sound_done(text(event, "item_id")),
            "response.output_audio_transcript.delta"
            | "response.audio_transcript.delta"
            | "response.output_text.delta"
            | "response.text.delta" => self.words(event, false),
            "response.output_audio_transcript.done"
            | "response.audio_transcript.done"
            | "response.output_text.done"
            | "response.text.done" => self.words(event, true),
            "response.output_item.done" => {
                let response = text(event, "response_id").to_owned();
                self.item_done(&response, &event["item"]);
            }
            "response.done" => self.response_done(now, &event["response"]),
            "session.created"
            | "rate_limits.updated"
            | "input_audio_buffer.cleared"
            | "conversation.created"
            | "conversation.item.created"
            | "conversation.item.added"
            | "conversation.item.done"
            | "conversation.item.deleted"
            | "conversation.item.truncated"
            | "conversation.item.retrieved"
            | "response.output_item.added"
            | "response.content_part.added"
            | "response.content_part.done"
            | "response.function_call_arguments.delta"
            | "response.function_call_arguments.done" => {}
            _ => self.figures.unknown += 1,
        }
    }

    fn speech_started(&mut self, now: Instant) {
        self.talk.caller_speaks = true;
        if self.turn_since.is_none() {
            self.turn_since = Some(now.checked_sub(super::PRE_ROLL).unwrap_or(now));
        }
        self.tell(RealtimeEvent::SpeechStarted);
        if self.interrupts {
            self.interrupted();
        }
    }

    fn speech_stopped(&mut self, now: Instant) {
        self.talk.caller_speaks = false;
        self.tell(RealtimeEvent::SpeechEnded);
        if self.creates && self.settings.turns != Turns::Ours {
            self.owed_since.get_or_insert(now);
        }
    }

    fn transcript(&mut self, item: &str, role: Role, last: bool) {
        let text = self.said.text(item).unwrap_or_default().to_owned();
        if !text.is_empty() {
            self.tell(RealtimeEvent::Transcript { role, item: item.into(), text, last });
        }
    }

    fn response_created(&mut self, now: Instant, response: &Value) {
        let id = text(response, "id").to_owned();
        let aside: Option<u64> =
            response["metadata"]["aside"].as_str().and_then(|number| number.parse().ok());
        if let Some(number) = aside {
            match self.asides.iter_mut().find(|aside| aside.id == number) {
                Some(aside) => aside.response = Some(id),
                // Given up before it began.
                None => self.remember_cancelled(id),
            }
            return;
        }
        self.talk.creating = None;
        self.owed_since = Some(now);
        let cancelled = self.talk.caller_speaks && self.interrupts;
        if cancelled {
            // It began while the caller had already begun to speak again.
            self.send(write::cancel(&id));
            self.remember_cancelled(id.clone());
            self.owed_since = None;
        }
        self.talk.active = Some(Active { id, cancelled, sounded: false, called: false });
    }

    /// Whether a piece belongs to an answer nobody wants any more.
    fn is_late(&mut self, response: &str) -> bool {
        let late = self.talk.cancelled.iter().any(|cancelled| cancelled == response);
        self.figures.late_dropped += u64::from(late);
        late
    }

    fn began(&mut self) {
        self.owed_since = None;
        self.turn_since = None;
        if let Some(active) = &mut self.talk.active {
            active.sounded = true;
        }
    }

    fn sound(&mut self, event: &Value) {
        let (response, item) = (text(event, "response_id"), text(event, "item_id"));
        if self.is_late(response) {
            return;
        }
        let Ok(bytes) = STANDARD.decode(text(event, "delta")) else {
            self.figures.malformed += 1;
            return;
        };
        self.began();
        if !self.talk.spoken.iter().any(|spoken| &*spoken.item == item) {
            if self.talk.spoken.len() >= REMEMBERED {
                self.talk.spoken.pop_front();
            }
            let (item, response) = (item.into(), response.to_owned());
            self.talk.spoken.push_back(Spoken { item, response, bytes: 0, done: false });
            self.talk.odd = None;
        }
        let Some(spoken) = self.talk.spoken.iter_mut().find(|spoken| &*spoken.item == item) else { return };
        spoken.bytes += bytes.len();
        let item = spoken.item.clone();
        let sound = match self.format {
            SoundFormat::Law(law) => Sound::Payload { law, bytes },
            SoundFormat::Samples { rate } => {
                Sound::Samples { rate, samples: super::super::sound::samples(bytes, &mut self.talk.odd) }
            }
        };
        self.talk.unflushed = true;
        self.tell(RealtimeEvent::Sound { item, sound });
    }

    fn sound_done(&mut self, item: &str) {
        let Some(spoken) = self.talk.spoken.iter_mut().find(|spoken| &*spoken.item == item && !spoken.done)
        else {
            return;
        };
        spoken.done = true;
        let item = spoken.item.clone();
        self.tell(RealtimeEvent::SoundDone { item });
    }

    fn words(&mut self, event: &Value, last: bool) {
        let (response, item) = (text(event, "response_id"), text(event, "item_id"));
        let whole =
            if event["transcript"].is_string() { text(event, "transcript") } else { text(event, "text") };
        if let Some(aside) = self.asides.iter_mut().find(|aside| aside.response.as_deref() == Some(response))
        {
            match last {
                true => whole.clone_into(&mut aside.text),
                false => aside.text.push_str(text(event, "delta")),
            }
            return;
        }
        if self.is_late(response) {
            return;
        }
        self.began();
        self.said.open(item, Role::Assistant);
        match last {
            true => self.said.set(item, whole),
            false => self.said.append(item, text(event, "delta")),
        }
        self.transcript(item, Role::Assistant, last);
    }

    fn item_done(&mut self, response: &str, item: &Value) {
        let (id, name) = (text(item, "call_id"), text(item, "name"));
        let is_call = text(item, "type") == "function_call" && !matches!(text(item, "status"), "incomplete");
        let known = self.talk.calls.iter().any(|(call, _)| call == id);
        let aside = self.asides.iter().any(|aside| aside.response.as_deref() == Some(response));
        if !is_call || known || aside || id.is_empty() || self.is_late(response) {
            return;
        }
        if self.talk.calls.len() >= CALLS_AT_ONCE {
            self.figures.malformed += 1;
            return;
        }
        self.owed_since = None;
        self.turn_since = None;
        if let Some(active) = &mut self.talk.active {
            active.called = true;
        }
        self.talk.calls.push((id.to_owned(), name.to_owned()));
        let (id, name, arguments) = (id.to_owned(), name.to_owned(), text(item, "arguments").to_owned());
        self.tell(RealtimeEvent::Call(ToolCall { id, name, arguments, signature: None }));
    }

    fn finish_aside(
        &mut self,
        which: impl Fn(&super::Aside) -> bool,
        answer: Result<String, Failure>,
        usage: Usage,
    ) {
        if let Some(at) = self.asides.iter().position(which) {
            let aside = self.asides.remove(at);
            let answer = answer.map(|text| if text.is_empty() { aside.text } else { text });
            self.tell(RealtimeEvent::Aside { id: aside.id, answer, usage });
        }
    }

    fn count(&mut self, usage: Usage) {
        let total = &mut self.figures.usage;
        total.input_tokens += usage.input_tokens;
        total.cached_tokens += usage.cached_tokens;
        total.image_tokens += usage.image_tokens;
        total.output_tokens += usage.output_tokens;
    }

    fn response_done(&mut self, now: Instant, response: &Value) {
        let (id, status) = (text(response, "id"), text(response, "status"));
        let usage = usage(response);
        self.count(usage);
        let error = &response["status_details"]["error"];
        let code = code_of(error);
        if let Some((_, number)) = FATAL.iter().find(|(fatal, _)| *fatal == code) {
            self.close_for_good(Failure::Refused { status: *number, text: told(error) });
            return;
        }
        let failed = Failure::Failed { status: 500, text: told(error) };
        if self.asides.iter().any(|aside| aside.response.as_deref() == Some(id)) {
            let answer = if status == "completed" { Ok(String::new()) } else { Err(failed) };
            self.finish_aside(|aside| aside.response.as_deref() == Some(id), answer, usage);
            return;
        }
        let Some(active) = self.talk.active.take_if(|active| active.id == id) else { return };
        self.owed_since = None;
        if !active.cancelled {
            for item in response["output"].as_array().into_iter().flatten().take(CALLS_AT_ONCE) {
                // What its own event did not tell.
                if status == "completed" && !active.called {
                    self.item_done(id, item);
                }
            }
            let open = self.talk.spoken.iter().filter(|spoken| spoken.response == id && !spoken.done);
            for item in open.map(|spoken| spoken.item.clone()).collect::<Vec<_>>() {
                self.sound_done(&item);
            }
            self.turn_since = None;
        }
        match status {
            "failed" if code == "rate_limit_exceeded" => {
                self.tell(RealtimeEvent::Trouble(Failure::Busy { retry_after_ms: None }));
            }
            "failed" => self.tell(RealtimeEvent::Trouble(failed)),
            // Cancelled by the server although nobody here knew why.
            "cancelled" if !active.cancelled => self.cancelled_there(id),
            _ => {}
        }
        self.tell(RealtimeEvent::TurnDone { usage });
        self.ask_wanted(now);
    }

    fn cancelled_there(&mut self, response: &str) {
        self.remember_cancelled(response.to_owned());
        if std::mem::take(&mut self.talk.unflushed) {
            let item = self.talk.spoken.back().map(|spoken| spoken.item.clone());
            self.tell(RealtimeEvent::Interrupted { item });
        }
    }
}
