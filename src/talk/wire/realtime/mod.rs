//! OpenAI Realtime (GA, over WebSocket): a session that survives its connections.
//!
//! Source: the vendor's OpenAPI description and SDK. Server events are in `read`, client events in `write`, losses and
//! exchanges in `connections`; here are turns, pictures and what is asked. Sockets are the driver's.

mod connections;
mod read;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::talk::message::{Endpoint, Failure, Image, Request, Role, ToolSpec, Usage};
use crate::talk::realtime::{
    Act, Address, BackOff, ItemId, LinkId, RealtimeEvent, RealtimeFigures, RealtimeMachine, RealtimeSettings,
    SaidLately, SoundFormat, SoundLately, Turns,
};

/// The API knows G.711 and this.
const PCM: SoundFormat = SoundFormat::Samples { rate: 24_000 };
/// From the opened socket to a configured session.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(10);
/// Sound before the detected onset that is told again with it.
const PRE_ROLL: Duration = Duration::from_millis(500);
/// The server refuses to commit less.
const SHORTEST_TURN_MS: u64 = 100;
/// A replay is sent in pieces of so many milliseconds.
const REPLAY_PIECE_MS: usize = 1_000;
const ASIDES_AT_ONCE: usize = 4;
const CALLS_AT_ONCE: usize = 16;
const REMEMBERED: usize = 32;
const WANTED_MAX: usize = 8;
/// A fresh session that could not be opened is tried for again after so long.
const STANDBY_AGAIN: Duration = Duration::from_secs(30);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// `session.created` is awaited.
    Opened,
    /// `session.updated` is awaited.
    Asked,
    /// It could take over.
    Configured,
    Live,
}

impl Stage {
    /// For an answer that must come in time; the driver watches over connecting, and what is configured may wait.
    fn is_waiting(self) -> bool {
        matches!(self, Stage::Opened | Stage::Asked)
    }
}

#[derive(Clone, Copy, Debug)]
struct Line {
    id: LinkId,
    stage: Stage,
    since: Instant,
}

/// An answer that is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Answer,
    Say(String),
}

/// The answer that is being made.
struct Active {
    id: String,
    cancelled: bool,
    sounded: bool,
    called: bool,
}

/// A piece of the model's speech.
struct Spoken {
    item: ItemId,
    response: String,
    bytes: usize,
    done: bool,
}

/// A question beside the conversation.
struct Aside {
    id: u64,
    response: Option<String>,
    text: String,
    until: Instant,
}

/// What holds for one connection only.
#[derive(Default)]
struct Talk {
    active: Option<Active>,
    /// Asked for, not yet begun.
    creating: Option<Wanted>,
    cancelled: VecDeque<String>,
    spoken: VecDeque<Spoken>,
    /// Tool calls nobody has answered yet.
    calls: Vec<(String, String)>,
    caller_speaks: bool,
    /// Sound went out that may still be playing.
    unflushed: bool,
    odd: Option<u8>,
    /// Milliseconds in the server's buffer, where turns are ours.
    buffered_ms: u64,
}

/// See the module.
pub struct OpenAiRealtime {
    endpoint: Endpoint,
    settings: RealtimeSettings,
    format: SoundFormat,
    acts: VecDeque<Act>,
    events: VecDeque<RealtimeEvent>,
    next_link: u32,
    current: Option<Line>,
    standby: Option<Line>,
    standby_at: Option<Instant>,
    reopen_at: Option<Instant>,
    back_off: BackOff,
    closed: bool,
    was_ready: bool,
    /// Failed for good since it last was live.
    refusals: u32,
    lately: SoundLately,
    said: SaidLately,
    images: VecDeque<Arc<Image>>,
    /// What the camera shows, in words: the item and its text.
    scene: Option<(String, String)>,
    wanted: VecDeque<Wanted>,
    talk: Talk,
    asides: Vec<Aside>,
    next_aside: u64,
    next_item: u64,
    /// Where the turn began that has no answer yet; it is told again to a new connection.
    turn_since: Option<Instant>,
    /// Since when an answer is awaited.
    owed_since: Option<Instant>,
    in_turn: bool,
    local_speaks: bool,
    lost_at: Option<Instant>,
    /// As the server read them back.
    creates: bool,
    interrupts: bool,
    figures: RealtimeFigures,
}

impl OpenAiRealtime {
    pub fn new(now: Instant, endpoint: Endpoint, settings: RealtimeSettings) -> Self {
        let format = match settings.sound {
            SoundFormat::Law(law) => SoundFormat::Law(law),
            SoundFormat::Samples { .. } => PCM,
        };
        let mut machine = OpenAiRealtime {
            format,
            acts: VecDeque::new(),
            events: VecDeque::new(),
            next_link: 0,
            current: None,
            standby: None,
            standby_at: None,
            reopen_at: None,
            back_off: BackOff::default(),
            closed: false,
            was_ready: false,
            refusals: 0,
            lately: SoundLately::new(format, settings.replay),
            said: SaidLately::new(settings.history_items),
            images: VecDeque::new(),
            scene: None,
            wanted: VecDeque::new(),
            talk: Talk::default(),
            asides: Vec::new(),
            next_aside: 0,
            next_item: 0,
            // What is said before the session is there is told to it; with turns of ours there is none yet.
            turn_since: (settings.turns != Turns::Ours).then_some(now),
            owed_since: None,
            in_turn: false,
            local_speaks: false,
            lost_at: None,
            creates: settings.turns != Turns::Ours,
            interrupts: matches!(settings.turns, Turns::Theirs { interrupts: true, .. }),
            figures: RealtimeFigures::default(),
            endpoint,
            settings,
        };
        machine.current = Some(machine.open(now));
        machine
    }

    fn live(&self) -> Option<LinkId> {
        self.current.filter(|line| line.stage == Stage::Live).map(|line| line.id)
    }

    /// Sends to the live session; `false`: there is none.
    fn send(&mut self, text: String) -> bool {
        let link = self.live();
        if let Some(link) = link {
            self.acts.push_back(Act::Send { link, text });
        }
        link.is_some()
    }

    fn tell(&mut self, event: RealtimeEvent) {
        self.events.push_back(event);
    }

    fn fresh_item(&mut self) -> String {
        self.next_item += 1;
        format!("eye_{}", self.next_item)
    }

    // Turns.

    fn commit(&mut self, now: Instant) {
        if self.talk.buffered_ms < SHORTEST_TURN_MS {
            self.turn_since = None;
            return;
        }
        self.send(write::simple("input_audio_buffer.commit"));
        self.talk.buffered_ms = 0;
        self.want(now, Wanted::Answer);
    }

    fn want(&mut self, now: Instant, wanted: Wanted) {
        if wanted == Wanted::Answer && self.wanted.contains(&Wanted::Answer) {
            return;
        }
        if self.wanted.len() >= WANTED_MAX {
            self.wanted.pop_front();
        }
        self.wanted.push_back(wanted);
        self.ask_wanted(now);
    }

    /// One answer at a time.
    fn ask_wanted(&mut self, now: Instant) {
        if self.live().is_none() || self.talk.active.is_some() || self.talk.creating.is_some() {
            return;
        }
        let Some(wanted) = self.wanted.pop_front() else { return };
        let say = match &wanted {
            Wanted::Answer => None,
            Wanted::Say(text) => Some(text.as_str()),
        };
        let text = write::create("create-1", say);
        self.send(text);
        self.talk.creating = Some(wanted);
        self.owed_since = Some(now);
    }

    /// The caller spoke over the answer: nothing more of it comes out.
    fn interrupted(&mut self) {
        if let Some(active) = &mut self.talk.active
            && !active.cancelled
        {
            active.cancelled = true;
            let id = active.id.clone();
            self.remember_cancelled(id);
            self.talk.unflushed = true;
        }
        self.wanted.clear();
        self.owed_since = None;
        if std::mem::take(&mut self.talk.unflushed) {
            let item = self.talk.spoken.back().map(|spoken| spoken.item.clone());
            self.tell(RealtimeEvent::Interrupted { item });
        }
    }

    fn remember_cancelled(&mut self, response: String) {
        if self.talk.cancelled.len() >= REMEMBERED {
            self.talk.cancelled.pop_front();
        }
        for spoken in self.talk.spoken.iter_mut().filter(|spoken| spoken.response == response) {
            spoken.done = true;
        }
        self.talk.odd = None;
        self.talk.cancelled.push_back(response);
    }

    fn forget_stale_images(&mut self) {
        while self.images.iter().filter(|image| !image.pinned).count() > self.settings.keep_images.max(1) {
            let Some(at) = self.images.iter().position(|image| !image.pinned) else { break };
            if let Some(image) = self.images.remove(at) {
                self.delete_image(image.id);
            }
        }
    }

    fn delete_image(&mut self, id: u64) {
        if self.send(write::delete(&image_item(id))) {
            self.figures.images_deleted += 1;
        }
    }
}

fn image_item(id: u64) -> String {
    format!("eye_image_{id}")
}

impl RealtimeMachine for OpenAiRealtime {
    fn address(&self) -> Address {
        let mut headers = Vec::new();
        if !self.endpoint.api_key.is_empty() {
            headers.push(("authorization", format!("Bearer {}", self.endpoint.api_key)));
        }
        Address { url: write::url(&self.endpoint), headers }
    }

    fn sound_in(&self) -> SoundFormat {
        self.format
    }

    fn handle_opened(&mut self, now: Instant, link: LinkId) {
        for line in [&mut self.current, &mut self.standby].into_iter().flatten() {
            if line.id == link && line.stage == Stage::Connecting {
                *line = Line { stage: Stage::Opened, since: now, ..*line };
            }
        }
    }

    fn handle_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        self.read(now, link, bytes);
        self.recycle(now);
    }

    fn handle_ended(&mut self, now: Instant, link: LinkId, failure: Failure) {
        if self.current.is_some_and(|line| line.id == link) {
            self.lose(now, failure);
        } else if self.standby.is_some_and(|line| line.id == link) {
            self.standby = None;
            self.standby_at = Some(now + STANDBY_AGAIN);
        }
    }

    fn handle_time(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if self.reopen_at.is_some_and(|at| now >= at) {
            self.reopen_at = None;
            self.current = Some(self.open(now));
        }
        for line in [self.current, self.standby].into_iter().flatten() {
            if line.stage.is_waiting() && now >= line.since + CONFIGURED_WITHIN {
                self.acts.push_back(Act::Close { link: line.id });
                self.handle_ended(now, line.id, Failure::TooSlow(CONFIGURED_WITHIN.as_millis() as u64));
            }
        }
        if self.owed_since.is_some_and(|since| now >= since + self.settings.answer_within)
            && let Some(link) = self.live()
        {
            self.acts.push_back(Act::Close { link });
            self.lose(now, Failure::TooSlow(self.settings.answer_within.as_millis() as u64));
        }
        while let Some(at) = self.asides.iter().position(|aside| now >= aside.until) {
            let aside = self.asides.remove(at);
            if let Some(response) = aside.response {
                self.send(write::cancel(&response));
                self.remember_cancelled(response);
            }
            let answer = Err(Failure::TooSlow(self.endpoint.timeout_ms));
            self.tell(RealtimeEvent::Aside { id: aside.id, answer, usage: Usage::default() });
        }
        self.recycle(now);
    }

    fn wake_at(&self) -> Option<Instant> {
        let lines = [self.current, self.standby].into_iter().flatten();
        let waiting = lines.filter(|line| line.stage.is_waiting()).map(|line| line.since + CONFIGURED_WITHIN);
        let owed = self.live().and(self.owed_since).map(|since| since + self.settings.answer_within);
        let live = self.current.filter(|line| line.stage == Stage::Live);
        let recycle = live.map(|line| match self.standby {
            None => self.standby_at.unwrap_or(line.since + self.settings.recycle_after),
            Some(_) => line.since + self.settings.recycle_at_last,
        });
        // A passed time of exchange waits for quiet, not for the clock.
        let recycle = recycle.filter(|_| self.standby.is_none_or(|line| line.stage == Stage::Configured));
        let asides = self.asides.iter().map(|aside| aside.until);
        waiting.chain(asides).chain(self.reopen_at).chain(owed).chain(recycle).min()
    }

    fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    fn poll_event(&mut self) -> Option<RealtimeEvent> {
        self.events.pop_front()
    }

    fn figures(&self) -> RealtimeFigures {
        self.figures
    }

    fn handle_sound(&mut self, now: Instant, bytes: &[u8]) {
        if self.closed || bytes.is_empty() {
            return;
        }
        self.lately.push(now, 0, bytes);
        let wanted = self.settings.turns != Turns::Ours || self.in_turn;
        if wanted && self.live().is_some() {
            self.send(write::append(bytes));
            self.talk.buffered_ms += (bytes.len() / self.format.bytes_per_ms().max(1)) as u64;
        }
    }

    fn push_image(&mut self, _now: Instant, image: Arc<Image>) {
        let known = self.images.iter().any(|own| own.id == image.id);
        let text = (self.settings.sees && !known && !self.closed)
            .then(|| write::image(&image_item(image.id), &image))
            .flatten();
        let Some(text) = text else {
            self.figures.images_dropped += 1;
            return;
        };
        if self.send(text) {
            self.figures.images_sent += 1;
        }
        self.images.push_back(image);
        self.forget_stale_images();
    }

    fn drop_image(&mut self, _now: Instant, id: u64) {
        if let Some(at) = self.images.iter().position(|image| image.id == id) {
            self.images.remove(at);
            self.delete_image(id);
        }
    }

    fn scene(&mut self, _now: Instant, words: Option<&str>) {
        if self.closed {
            return;
        }
        if let Some((before, _)) = self.scene.take() {
            self.send(write::delete(&before));
        }
        if let Some(words) = words {
            let (item, text) = (self.fresh_item(), format!("[what the camera shows now: {words}]"));
            self.send(write::said(&item, Role::User, &text));
            self.scene = Some((item, text));
        }
    }

    fn caller_speaks(&mut self, now: Instant, speaks: bool) {
        self.local_speaks = speaks;
        self.recycle(now);
    }

    fn begin_turn(&mut self, now: Instant) {
        if self.settings.turns != Turns::Ours || self.in_turn {
            return;
        }
        self.in_turn = true;
        let since = now.checked_sub(PRE_ROLL).unwrap_or(now);
        self.turn_since = Some(since);
        if self.live().is_some() {
            self.send(write::simple("input_audio_buffer.clear"));
            self.talk.buffered_ms = 0;
            let sound = self.lately.since(since);
            self.talk.buffered_ms = (sound.len() / self.format.bytes_per_ms().max(1)) as u64;
            if !sound.is_empty() {
                self.send(write::append(&sound));
            }
        }
    }

    fn commit_turn(&mut self, now: Instant) {
        if self.settings.turns == Turns::Ours && std::mem::take(&mut self.in_turn) && self.live().is_some() {
            self.commit(now);
        }
    }

    fn clear_turn(&mut self, _now: Instant) {
        if self.settings.turns == Turns::Ours && std::mem::take(&mut self.in_turn) {
            self.turn_since = None;
            self.talk.buffered_ms = 0;
            self.send(write::simple("input_audio_buffer.clear"));
        }
    }

    fn heard(&mut self, _now: Instant, item: &str, ms: u64) {
        let Some(spoken) = self.talk.spoken.iter().find(|spoken| &*spoken.item == item) else { return };
        let all = (spoken.bytes / self.format.bytes_per_ms().max(1)) as u64;
        if ms >= all {
            return;
        }
        self.figures.truncated += 1;
        self.said.cut(item, ms, all);
        match ms {
            // Nothing was heard: it was never said.
            0 => {
                self.said.forget(item);
                self.send(write::delete(item))
            }
            _ => self.send(write::truncate(item, ms)),
        };
    }

    fn interrupt(&mut self, _now: Instant) {
        self.talk.unflushed = false;
        let active =
            self.talk.active.as_ref().filter(|active| !active.cancelled).map(|active| active.id.clone());
        if let Some(id) = active {
            self.send(write::cancel(&id));
        }
        self.interrupted();
        // Who interrupts knows it, and wants no sound that waits here.
        self.events.retain(|event| {
            !matches!(
                event,
                RealtimeEvent::Sound { .. }
                    | RealtimeEvent::SoundDone { .. }
                    | RealtimeEvent::Interrupted { .. }
            )
        });
        if self.settings.turns != Turns::Ours || !self.in_turn {
            self.turn_since = None;
        }
    }

    fn say(&mut self, now: Instant, text: &str) {
        self.want(now, Wanted::Say(text.to_owned()));
    }

    fn text(&mut self, now: Instant, text: &str) {
        let item = self.fresh_item();
        self.said.open(&item, Role::User);
        self.said.set(&item, text);
        self.send(write::said(&item, Role::User, text));
        self.want(now, Wanted::Answer);
    }

    fn answer_tool(&mut self, now: Instant, id: &str, result: &str) {
        let Some(at) = self.talk.calls.iter().position(|(call, _)| call == id) else {
            self.figures.unasked_results += 1;
            return;
        };
        let (_, name) = self.talk.calls.remove(at);
        self.send(write::tool_result(id, result));
        let item = self.fresh_item();
        self.said.open(&item, Role::System);
        self.said.set(&item, &format!("The tool {name} answered: {result}"));
        if self.talk.calls.is_empty() {
            self.want(now, Wanted::Answer);
        }
    }

    fn ask_aside(&mut self, now: Instant, request: &Request) -> u64 {
        self.next_aside += 1;
        let id = self.next_aside;
        let failure = if self.asides.len() >= ASIDES_AT_ONCE {
            Some(Failure::Busy { retry_after_ms: None })
        } else if !self.send(write::aside(id, request)) {
            Some(Failure::Unreached("the session is not connected".to_owned()))
        } else {
            None
        };
        match failure {
            Some(failure) => {
                let (answer, usage) = (Err(failure), Usage::default());
                self.tell(RealtimeEvent::Aside { id, answer, usage });
            }
            None => {
                let until = now + Duration::from_millis(self.endpoint.timeout_ms);
                self.asides.push(Aside { id, response: None, text: String::new(), until });
            }
        }
        id
    }

    fn update(&mut self, _now: Instant, instructions: String, tools: Vec<ToolSpec>) {
        self.settings.instructions = instructions;
        self.settings.tools = tools;
        let text = write::session_changed(&self.settings);
        self.send(text);
    }
}

#[cfg(test)]
mod tests;
