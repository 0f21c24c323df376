//! Gemini Live (BidiGenerateContent): a session that survives its connections.
//!
//! Source: the vendor's SDK (message types, live client). Server messages are in `read`, client messages in `write`,
//! losses and hand-over in `connections`; here are turns and pictures. Sockets are the driver's.

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

const SOUND_IN: SoundFormat = SoundFormat::Samples { rate: 16_000 };
const CONFIGURED_WITHIN: Duration = Duration::from_secs(10);
const PRE_ROLL: Duration = Duration::from_millis(500);
const REPLAY_PIECE_MS: usize = 1_000;
/// The hand-over is over so long before the server closes, and begun so long before that even while somebody speaks.
const HANDOVER_MARGIN: Duration = Duration::from_secs(3);
const HANDOVER_AHEAD: Duration = Duration::from_secs(5);
/// A second connection that could not be opened is tried for again after so long.
const STANDBY_AGAIN: Duration = Duration::from_secs(1);
/// After an interruption sound is thrown away until the turn is told complete, but not longer.
const MUTED_AT_MOST: Duration = Duration::from_secs(1);
/// The same after an interruption of ours: the server goes on to the end of its turn.
const MUTED_BY_US: Duration = Duration::from_secs(30);
const CALLS_AT_ONCE: usize = 16;
/// Words of the caller are told so long after them.
const WORDS_WITHIN: Duration = Duration::from_secs(2);
const TEXTS_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// `setup` was sent; nothing else may be before it is answered.
    Opened,
    /// It could take over.
    Configured,
    Live,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    id: LinkId,
    stage: Stage,
    since: Instant,
}

/// What the model says now.
struct Turn {
    item: ItemId,
    ms: u64,
    odd: Option<u8>,
    sounded: bool,
    done: bool,
}

/// What holds for one connection only.
#[derive(Default)]
struct Talk {
    turn: Option<Turn>,
    /// The item of what the caller says.
    heard: Option<String>,
    last_item: Option<ItemId>,
    last_ms: u64,
    calls: Vec<(String, String)>,
    /// Until then sound belongs to a turn that was cut off.
    muted: Option<Instant>,
    unflushed: bool,
    usage: Usage,
}

/// Words for the model that wait for a session.
enum Waiting {
    Say(String),
    Text(String),
}

/// See the module.
pub struct GeminiLive {
    endpoint: Endpoint,
    settings: RealtimeSettings,
    acts: VecDeque<Act>,
    events: VecDeque<RealtimeEvent>,
    next_link: u32,
    current: Option<Line>,
    standby: Option<Line>,
    standby_at: Option<Instant>,
    /// Which state the second connection was resumed from.
    standby_handle: Option<String>,
    reopen_at: Option<Instant>,
    back_off: BackOff,
    closed: bool,
    was_ready: bool,
    refusals: u32,
    /// The last state that can be resumed, when it was told, and the last message it holds, where that is told.
    handle: Option<String>,
    handle_at: Instant,
    consumed: Option<u64>,
    /// The current connection was resumed, so it knows what was said.
    resumed: bool,
    /// Client messages of all connections, and those before the current one.
    sent: u64,
    sent_before: u64,
    /// The server closes then; a hand-over is wanted without haste.
    handover_by: Option<Instant>,
    handover_wanted: bool,
    lately: SoundLately,
    said: SaidLately,
    images: VecDeque<Arc<Image>>,
    next_image: Option<Arc<Image>>,
    image_sent: Option<Instant>,
    waiting: VecDeque<Waiting>,
    talk: Talk,
    turns: u64,
    next_aside: u64,
    turn_since: Option<Instant>,
    owed_since: Option<Instant>,
    in_turn: bool,
    local_speaks: bool,
    /// When the detection on this box heard the caller begin, while they speak; and end.
    speaks_since: Option<Instant>,
    silent_since: Option<Instant>,
    lost_at: Option<Instant>,
    figures: RealtimeFigures,
}

impl GeminiLive {
    pub fn new(now: Instant, endpoint: Endpoint, settings: RealtimeSettings) -> Self {
        let mut machine = GeminiLive {
            acts: VecDeque::new(),
            events: VecDeque::new(),
            next_link: 0,
            current: None,
            standby: None,
            standby_at: None,
            standby_handle: None,
            reopen_at: None,
            back_off: BackOff::default(),
            closed: false,
            was_ready: false,
            refusals: 0,
            handle: None,
            handle_at: now,
            consumed: None,
            resumed: false,
            sent: 0,
            sent_before: 0,
            handover_by: None,
            handover_wanted: false,
            lately: SoundLately::new(SOUND_IN, settings.replay),
            said: SaidLately::new(settings.history_items),
            images: VecDeque::new(),
            next_image: None,
            image_sent: None,
            waiting: VecDeque::new(),
            talk: Talk::default(),
            turns: 0,
            next_aside: 0,
            // What is said before the session is there is told to it; with turns of ours there is none yet.
            turn_since: (settings.turns != Turns::Ours).then_some(now),
            owed_since: None,
            in_turn: false,
            local_speaks: false,
            speaks_since: None,
            silent_since: None,
            lost_at: None,
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

    fn send(&mut self, text: String) -> bool {
        let link = self.live();
        if let Some(link) = link {
            self.sent += 1;
            self.acts.push_back(Act::Send { link, text });
        }
        link.is_some()
    }

    fn tell(&mut self, event: RealtimeEvent) {
        self.events.push_back(event);
    }

    fn has_history(&self) -> bool {
        !self.settings.history.is_empty() || self.said.all().next().is_some()
    }

    // Turns and pictures.

    /// Whether the server wrote down words of the turn that goes on.
    fn has_words(&self) -> bool {
        let text = self.talk.heard.as_ref().and_then(|item| self.said.text(item));
        text.is_some_and(|text| !text.is_empty())
    }

    /// What the detection here took for speech, and no words followed.
    fn forget_noise(&mut self, now: Instant) {
        if self.silent_since.is_some_and(|since| now >= since + WORDS_WITHIN) {
            self.silent_since = None;
            if self.owed_since.is_none() && self.settings.turns != Turns::Ours && !self.has_words() {
                self.turn_since = None;
            }
        }
    }

    fn hand(&mut self, now: Instant, waiting: Waiting) {
        if self.live().is_none() {
            if self.waiting.len() >= TEXTS_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(waiting);
            return;
        }
        let text = match waiting {
            Waiting::Say(words) => write::say(&words),
            Waiting::Text(words) => {
                self.turns += 1;
                let item = format!("heard-{}", self.turns);
                self.said.open(&item, Role::User);
                self.said.set(&item, &words);
                write::text(&words)
            }
        };
        self.send(text);
        self.owed_since = Some(now);
    }

    fn send_image(&mut self, now: Instant) {
        let due = self.image_sent.is_none_or(|sent| now >= sent + self.settings.image_interval);
        if !due || self.live().is_none() {
            return;
        }
        if let Some(image) = self.next_image.take() {
            self.send(write::image(&image));
            self.figures.images_sent += 1;
            self.image_sent = Some(now);
            self.images.push_back(image);
            while self.images.iter().filter(|image| !image.pinned).count() > self.settings.keep_images.max(1)
            {
                let Some(at) = self.images.iter().position(|image| !image.pinned) else { break };
                self.images.remove(at);
            }
        }
    }
}

impl RealtimeMachine for GeminiLive {
    fn address(&self) -> Address {
        let mut headers = Vec::new();
        if !self.endpoint.api_key.is_empty() {
            headers.push(("x-goog-api-key", self.endpoint.api_key.clone()));
        }
        Address { url: write::url(&self.endpoint), headers }
    }

    fn sound_in(&self) -> SoundFormat {
        SOUND_IN
    }

    fn handle_opened(&mut self, now: Instant, link: LinkId) {
        let for_standby = self.standby.is_some_and(|line| line.id == link);
        let handle = if for_standby { self.standby_handle.clone() } else { self.handle.clone() };
        let text = write::setup(
            &self.endpoint,
            &self.settings,
            handle.as_deref(),
            handle.is_none() && self.has_history(),
        );
        for line in [&mut self.current, &mut self.standby].into_iter().flatten() {
            if line.id == link && line.stage == Stage::Connecting {
                *line = Line { stage: Stage::Opened, since: now, ..*line };
                self.acts.push_back(Act::Send { link, text });
                break;
            }
        }
        if !for_standby {
            self.resumed = handle.is_some();
        }
    }

    fn handle_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        self.read(now, link, bytes);
        self.hand_over(now);
    }

    fn handle_ended(&mut self, now: Instant, link: LinkId, failure: Failure) {
        if self.current.is_some_and(|line| line.id == link) {
            self.lose(now, failure);
        } else if self.standby.is_some_and(|line| line.id == link) {
            self.standby = None;
            self.standby_at = Some(now + STANDBY_AGAIN);
            if !failure.is_passing() && self.standby_handle == self.handle {
                // The state is refused; the next second connection is a fresh one.
                self.handle = None;
            }
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
            if line.stage == Stage::Opened && now >= line.since + CONFIGURED_WITHIN {
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
        self.send_image(now);
        self.forget_noise(now);
        self.hand_over(now);
    }

    fn wake_at(&self) -> Option<Instant> {
        let lines = [self.current, self.standby].into_iter().flatten();
        let waiting =
            lines.filter(|line| line.stage == Stage::Opened).map(|line| line.since + CONFIGURED_WITHIN);
        let live = self.live();
        let owed = live.and(self.owed_since).map(|since| since + self.settings.answer_within);
        let image = live.and(self.next_image.as_ref()).and(self.image_sent);
        let image = image.map(|sent| sent + self.settings.image_interval);
        let standby = self.standby.map(|line| line.stage);
        let handover = match (self.handover_by, standby) {
            (Some(by), None) => Some(self.standby_at.unwrap_or(by.checked_sub(HANDOVER_AHEAD).unwrap_or(by))),
            (Some(by), Some(Stage::Configured)) => Some(by),
            (Some(_), Some(_)) | (None, _) => None,
        };
        let handover = live.and(handover);
        let noise = self.silent_since.map(|since| since + WORDS_WITHIN);
        waiting.chain(self.reopen_at).chain(owed).chain(image).chain(handover).chain(noise).min()
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
        self.lately.push(now, self.sent, bytes);
        if self.settings.turns != Turns::Ours || self.in_turn {
            self.send(write::audio(bytes));
        }
    }

    fn push_image(&mut self, now: Instant, image: Arc<Image>) {
        if !self.settings.sees || self.closed {
            self.figures.images_dropped += 1;
            return;
        }
        if self.next_image.replace(image).is_some() {
            self.figures.images_dropped += 1;
        }
        self.send_image(now);
    }

    /// Nothing is deleted there; the window slides over it.
    fn drop_image(&mut self, _now: Instant, id: u64) {
        self.images.retain(|image| image.id != id);
        self.next_image.take_if(|image| image.id == id);
    }

    /// Text here is a turn that is answered, and `clientContent` ends the session of newer models once they have spoken.
    fn scene(&mut self, _now: Instant, _words: Option<&str>) {}

    fn caller_speaks(&mut self, now: Instant, speaks: bool) {
        if speaks == self.local_speaks {
            return;
        }
        self.local_speaks = speaks;
        self.speaks_since = speaks.then_some(now);
        if speaks && self.talk.turn.is_none() {
            self.caller_began(now);
        }
        self.silent_since = (!speaks).then_some(now);
        if !speaks && self.talk.turn.is_none() && self.settings.turns != Turns::Ours && self.has_words() {
            self.owed_since = Some(now);
        }
        self.hand_over(now);
    }

    fn begin_turn(&mut self, now: Instant) {
        if self.settings.turns != Turns::Ours || self.in_turn {
            return;
        }
        self.in_turn = true;
        let since = now.checked_sub(PRE_ROLL).unwrap_or(now);
        self.turn_since = Some(since);
        if self.send(write::activity("activityStart")) {
            let sound = self.lately.since(since);
            if !sound.is_empty() {
                self.send(write::audio(&sound));
            }
        }
    }

    fn commit_turn(&mut self, now: Instant) {
        if self.settings.turns == Turns::Ours
            && std::mem::take(&mut self.in_turn)
            && self.send(write::activity("activityEnd"))
        {
            self.owed_since = Some(now);
        }
    }

    fn clear_turn(&mut self, _now: Instant) {}

    /// The server cannot be told; what is kept for another session is cut.
    fn heard(&mut self, _now: Instant, item: &str, ms: u64) {
        let turn = self.talk.turn.as_ref().filter(|turn| &*turn.item == item).map(|turn| turn.ms);
        let last = self.talk.last_item.as_deref() == Some(item);
        let Some(all) = turn.or(last.then_some(self.talk.last_ms)) else { return };
        if ms < all {
            self.figures.truncated += 1;
            self.said.cut(item, ms, all);
        }
    }

    fn interrupt(&mut self, now: Instant) {
        self.talk.unflushed = false;
        self.owed_since = None;
        if let Some(turn) = &mut self.talk.turn {
            turn.done = true;
            self.talk.muted = Some(now + MUTED_BY_US);
        }
        self.events.retain(|event| {
            !matches!(
                event,
                RealtimeEvent::Sound { .. }
                    | RealtimeEvent::SoundDone { .. }
                    | RealtimeEvent::Interrupted { .. }
            )
        });
    }

    fn say(&mut self, now: Instant, text: &str) {
        self.hand(now, Waiting::Say(text.to_owned()));
    }

    fn text(&mut self, now: Instant, text: &str) {
        self.hand(now, Waiting::Text(text.to_owned()));
    }

    fn answer_tool(&mut self, now: Instant, id: &str, result: &str) {
        let Some(at) = self.talk.calls.iter().position(|(call, _)| call == id) else {
            self.figures.unasked_results += 1;
            return;
        };
        let (_, name) = self.talk.calls.remove(at);
        self.send(write::tool_result(id, &name, result));
        self.turns += 1;
        let item = format!("result-{}", self.turns);
        self.said.open(&item, Role::System);
        self.said.set(&item, &format!("The tool {name} answered: {result}"));
        if self.talk.calls.is_empty() {
            self.owed_since = Some(now);
        }
    }

    fn ask_aside(&mut self, _now: Instant, _request: &Request) -> u64 {
        self.next_aside += 1;
        let id = self.next_aside;
        let text =
            "Gemini Live takes no questions beside the conversation; ask a model of [vision]".to_owned();
        let answer = Err(Failure::Refused { status: 0, text });
        self.tell(RealtimeEvent::Aside { id, answer, usage: Usage::default() });
        id
    }

    /// Taken by the next connection, which follows at the next quiet moment.
    fn update(&mut self, now: Instant, instructions: String, tools: Vec<ToolSpec>) {
        self.settings.instructions = instructions;
        self.settings.tools = tools;
        self.handover_wanted = true;
        self.hand_over(now);
    }
}

#[cfg(test)]
mod tests;
