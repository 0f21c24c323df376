//! A session with a model that hears and speaks itself, in words OpenAI Realtime and Gemini Live share.
//!
//! Pure. How each vendor writes it is in `talk::wire`, the sockets are in `talk::link`. When the caller is to be
//! interrupted, and what was really heard, is known elsewhere and told here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::codec::g711::Law;
use crate::talk::message::{Failure, Image, Message, Request, Role, ToolCall, ToolSpec, Usage};

/// How sound is written. The same type for the call's side and the provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundFormat {
    /// 8 kHz, a byte a sample.
    Law(Law),
    /// 16-bit samples, mono; Hz.
    Samples { rate: u32 },
}

impl SoundFormat {
    /// Bytes of a millisecond on the wire.
    pub fn bytes_per_ms(self) -> usize {
        match self {
            SoundFormat::Law(_) => 8,
            SoundFormat::Samples { rate } => rate as usize / 1000 * 2,
        }
    }
}

/// A piece of sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sound {
    /// G.711 as the model gave it: it goes into RTP untouched.
    Payload {
        law: Law,
        bytes: Vec<u8>,
    },
    Samples {
        rate: u32,
        samples: Vec<i16>,
    },
}

impl Sound {
    pub fn duration(&self) -> Duration {
        let (samples, rate) = match self {
            Sound::Payload { bytes, .. } => (bytes.len(), 8_000),
            Sound::Samples { rate, samples } => (samples.len(), *rate),
        };
        Duration::from_secs_f64(samples as f64 / f64::from(rate.max(1)))
    }
}

/// Who decides when the caller begins and ends to speak.
#[derive(Clone, Debug, PartialEq)]
pub enum Turns {
    /// The provider's detection; `None` leaves its default.
    Theirs { silence_ms: Option<u32>, prefix_ms: Option<u32>, threshold: Option<f64>, interrupts: bool },
    /// `begin_turn` and `commit_turn`, from the detection on this box.
    Ours,
}

/// One session. The defaults are those of a telephone call with a provider's own turn detection.
#[derive(Clone, Debug)]
pub struct RealtimeSettings {
    pub instructions: String,
    pub tools: Vec<ToolSpec>,
    /// What was said and shown before the first word; comes back after every reconnection.
    pub history: Vec<Message>,
    /// The call's sound: what is pushed, and what comes back where the provider offers it.
    pub sound: SoundFormat,
    pub turns: Turns,
    /// Whether what the caller says is asked for as text, and of which model (OpenAI; empty: its default here).
    pub transcribe: bool,
    pub transcription_model: String,
    /// Whether pictures may be sent at all.
    pub sees: bool,
    /// Pictures the model keeps; older ones are deleted where the provider can, pinned ones never.
    pub keep_images: usize,
    /// Tokens of talk the model keeps; beyond, the oldest are forgotten by the provider.
    pub context_tokens: u32,
    /// The shortest time between two pictures to Gemini; those in between are replaced by newer ones.
    pub image_interval: Duration,
    /// When a session is exchanged for a fresh one at the next quiet moment, and when without waiting for one.
    pub recycle_after: Duration,
    pub recycle_at_last: Duration,
    /// Sound kept to be told again to a new connection.
    pub replay: Duration,
    /// An answer that has not begun after so long: the connection is made anew and the turn told again.
    pub answer_within: Duration,
    /// What was said is kept as text for the next connection: so many pieces of at most 2000 characters.
    pub history_items: usize,
}

impl Default for RealtimeSettings {
    fn default() -> Self {
        RealtimeSettings {
            instructions: String::new(),
            tools: Vec::new(),
            history: Vec::new(),
            sound: SoundFormat::Law(Law::A),
            turns: Turns::Theirs { silence_ms: None, prefix_ms: None, threshold: None, interrupts: true },
            transcribe: true,
            transcription_model: String::new(),
            sees: false,
            keep_images: 2,
            context_tokens: 8_000,
            image_interval: Duration::from_secs(1),
            recycle_after: Duration::from_secs(20 * 60),
            recycle_at_last: Duration::from_secs(55 * 60),
            replay: Duration::from_secs(8),
            answer_within: Duration::from_secs(10),
            history_items: 40,
        }
    }
}

/// Names a piece of the model's speech.
pub type ItemId = Arc<str>;

/// What a session tells.
#[derive(Clone, Debug, PartialEq)]
pub enum RealtimeEvent {
    /// The model listens: at first, and again after the connection was lost.
    Ready,
    /// The provider hears the caller speak, or no more.
    SpeechStarted,
    SpeechEnded,
    Sound {
        item: ItemId,
        sound: Sound,
    },
    /// All sound of that item has come.
    SoundDone {
        item: ItemId,
    },
    /// `text` is all of it so far; `last`: it will not change. Unordered against sound.
    Transcript {
        role: Role,
        item: ItemId,
        text: String,
        last: bool,
    },
    Call(ToolCall),
    /// The model does not wait for these any more.
    CallsCancelled(Vec<String>),
    /// The caller spoke: what is queued for them is to be thrown away, and `heard` told. Nothing of that answer
    /// follows.
    Interrupted {
        item: Option<ItemId>,
    },
    /// The model's turn is over.
    TurnDone {
        usage: Usage,
    },
    /// The answer to `ask_aside`.
    Aside {
        id: u64,
        answer: Result<String, Failure>,
        usage: Usage,
    },
    /// Something failed; the session goes on or comes back by itself.
    Trouble(Failure),
    /// A fresh session replaced an old one; nothing was lost.
    Recycled,
    /// It is over: of no use to try again. Nothing follows.
    Closed(Failure),
}

/// What a session did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealtimeFigures {
    pub images_sent: u64,
    /// Replaced by a newer one before they were sent, or of a kind the provider does not take.
    pub images_dropped: u64,
    pub images_deleted: u64,
    /// Pieces of answers that were cancelled, thrown away.
    pub late_dropped: u64,
    /// Messages that made no sense, and of kinds not known here.
    pub malformed: u64,
    pub unknown: u64,
    /// Errors the provider told that change nothing.
    pub errors_ignored: u64,
    pub truncated: u64,
    /// Connections lost and made anew; exchanged as planned.
    pub reconnected: u64,
    pub recycled: u64,
    /// Milliseconds of sound told again to a new connection.
    pub replayed_ms: u64,
    /// Samples that went through a resampler; stays 0 where G.711 passes through.
    pub resampled: u64,
    /// Tool results nobody waited for.
    pub unasked_results: u64,
    pub usage: Usage,
}

/// A connection of a session; a session has two while it changes from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// What a machine wants of its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Connect to [`RealtimeMachine::address`]; answered by `handle_opened` or `handle_ended`.
    Open {
        link: LinkId,
    },
    Send {
        link: LinkId,
        text: String,
    },
    /// Say farewell and forget it; nothing more is expected of it.
    Close {
        link: LinkId,
    },
}

/// Where a session connects to. Its headers hold a key and are not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Address({})", self.url.split('?').next().unwrap_or_default())
    }
}

/// A session of one vendor: connections, turns, pictures and tools in virtual time. Commands before the first
/// [`RealtimeEvent::Ready`] are kept and done then.
pub trait RealtimeMachine: Send {
    fn address(&self) -> Address;
    /// How sound is to be given to `handle_sound`.
    fn sound_in(&self) -> SoundFormat;

    fn handle_opened(&mut self, now: Instant, link: LinkId);
    /// One message, text or binary.
    fn handle_frame(&mut self, now: Instant, link: LinkId, bytes: &[u8]);
    fn handle_ended(&mut self, now: Instant, link: LinkId, failure: Failure);
    fn handle_time(&mut self, now: Instant);
    fn wake_at(&self) -> Option<Instant>;
    fn poll_act(&mut self) -> Option<Act>;
    fn poll_event(&mut self) -> Option<RealtimeEvent>;
    fn figures(&self) -> RealtimeFigures;

    /// The caller's sound in the format of `sound_in`.
    fn handle_sound(&mut self, now: Instant, bytes: &[u8]);
    fn push_image(&mut self, now: Instant, image: Arc<Image>);
    fn drop_image(&mut self, now: Instant, id: u64);
    /// What a model of its own sees now, in words; the ones before are forgotten. It asks for no answer. A provider that
    /// takes no words without answering them ignores it.
    fn scene(&mut self, now: Instant, words: Option<&str>);
    /// The detection on this box hears the caller speak, or no more; only a hint where turns are theirs.
    fn caller_speaks(&mut self, now: Instant, speaks: bool);
    fn begin_turn(&mut self, now: Instant);
    fn commit_turn(&mut self, now: Instant);
    /// What was said since `begin_turn` is not to be answered. Gemini has no such wish: there the turn stays open.
    fn clear_turn(&mut self, now: Instant);
    fn heard(&mut self, now: Instant, item: &str, ms: u64);
    fn interrupt(&mut self, now: Instant);
    fn say(&mut self, now: Instant, text: &str);
    fn text(&mut self, now: Instant, text: &str);
    fn answer_tool(&mut self, now: Instant, id: &str, result: &str);
    fn ask_aside(&mut self, now: Instant, request: &Request) -> u64;
    fn update(&mut self, now: Instant, instructions: String, tools: Vec<ToolSpec>);
}

/// Puts what the operator wrote in `options` over a request, object into object.
pub fn overlay(onto: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (onto.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => overlay(below, above),
            _ => {
                onto.insert(key.clone(), value.clone());
            }
        }
    }
}

/// What two answers used up together; what a server counts may be anything.
pub fn add(one: Usage, other: Usage) -> Usage {
    Usage {
        input_tokens: one.input_tokens.saturating_add(other.input_tokens),
        cached_tokens: one.cached_tokens.saturating_add(other.cached_tokens),
        image_tokens: one.image_tokens.saturating_add(other.image_tokens),
        output_tokens: one.output_tokens.saturating_add(other.output_tokens),
    }
}

/// Something said, kept as text for the next connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub item: ItemId,
    pub role: Role,
    pub text: String,
}

/// The last of what was said. Older pieces are forgotten.
#[derive(Clone, Debug, Default)]
pub struct SaidLately {
    pieces: VecDeque<Said>,
    most: usize,
}

const LONGEST_SAID: usize = 2_000;

impl SaidLately {
    pub fn new(most: usize) -> Self {
        SaidLately { pieces: VecDeque::new(), most }
    }

    /// Makes room for an item where it stands in the talk; its text may come later.
    pub fn open(&mut self, item: &str, role: Role) {
        if self.pieces.iter().any(|said| &*said.item == item) {
            return;
        }
        while self.pieces.len() >= self.most.max(1) {
            self.pieces.pop_front();
        }
        self.pieces.push_back(Said { item: item.into(), role, text: String::new() });
    }

    pub fn append(&mut self, item: &str, text: &str) {
        if let Some(said) = self.find(item) {
            let room = LONGEST_SAID.saturating_sub(said.text.chars().count());
            said.text.extend(text.chars().take(room));
        }
    }

    pub fn set(&mut self, item: &str, text: &str) {
        if let Some(said) = self.find(item) {
            said.text = text.chars().take(LONGEST_SAID).collect();
        }
    }

    /// Keeps the part of the text that belongs to `heard` of `all` milliseconds, to the last whole word.
    pub fn cut(&mut self, item: &str, heard: u64, all: u64) {
        if let Some(said) = self.find(item)
            && heard < all
        {
            let letters = said.text.chars().count() as u64 * heard / all.max(1);
            let kept: String =
                said.text.chars().take(usize::try_from(letters).unwrap_or(usize::MAX)).collect();
            said.text = kept.rsplit_once(' ').map_or(String::new(), |(whole, _)| whole.to_owned());
        }
    }

    pub fn forget(&mut self, item: &str) {
        self.pieces.retain(|said| &*said.item != item);
    }

    pub fn text(&self, item: &str) -> Option<&str> {
        self.pieces.iter().find(|said| &*said.item == item).map(|said| said.text.as_str())
    }

    /// Everything that has a text, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Said> {
        self.pieces.iter().filter(|said| !said.text.trim().is_empty())
    }

    fn find(&mut self, item: &str) -> Option<&mut Said> {
        self.pieces.iter_mut().rev().find(|said| &*said.item == item)
    }
}

/// The sound of the last seconds, to be told again.
#[derive(Clone, Debug)]
pub struct SoundLately {
    blocks: VecDeque<(Instant, u64, Vec<u8>)>,
    bytes: usize,
    most: usize,
}

impl SoundLately {
    pub fn new(format: SoundFormat, kept: Duration) -> Self {
        let ms = usize::try_from(kept.as_millis()).unwrap_or(usize::MAX);
        SoundLately { blocks: VecDeque::new(), bytes: 0, most: format.bytes_per_ms().saturating_mul(ms) }
    }

    /// Keeps a block; `number` is the one its message had on the wire, where they are counted.
    pub fn push(&mut self, now: Instant, number: u64, bytes: &[u8]) {
        let mut block = Vec::new();
        self.bytes += bytes.len();
        while self.bytes > self.most {
            let Some((_, _, oldest)) = self.blocks.pop_front() else { break };
            self.bytes -= oldest.len();
            block = oldest;
        }
        if bytes.len() > self.most {
            self.bytes = 0;
            return;
        }
        // The oldest block's memory serves the newest.
        block.clear();
        block.extend_from_slice(bytes);
        self.blocks.push_back((now, number, block));
    }

    /// Everything that came at `from` or later, as one.
    pub fn since(&self, from: Instant) -> Vec<u8> {
        self.joined(|(at, _, _)| *at >= from)
    }

    /// Everything behind the message of that number.
    pub fn behind(&self, number: u64) -> Vec<u8> {
        self.joined(|(_, own, _)| *own > number)
    }

    fn joined(&self, wanted: impl Fn(&(Instant, u64, Vec<u8>)) -> bool) -> Vec<u8> {
        let mut all = Vec::new();
        for block in self.blocks.iter().filter(|block| wanted(block)) {
            all.extend_from_slice(&block.2);
        }
        all
    }

    pub fn clear(&mut self) {
        self.blocks.clear();
        self.bytes = 0;
    }
}

/// When to try again: at once, then after 250 ms, doubled up to 5 s, or when the provider says.
#[derive(Clone, Copy, Debug, Default)]
pub struct BackOff {
    tries: u32,
}

impl BackOff {
    pub fn delay(&mut self, failure: &Failure) -> Duration {
        let tries = self.tries;
        self.tries = self.tries.saturating_add(1);
        let own = match tries {
            0 => Duration::ZERO,
            n => Duration::from_millis(250 << (n - 1).min(8)).min(Duration::from_secs(5)),
        };
        match failure {
            Failure::Busy { retry_after_ms } => {
                let asked = Duration::from_millis(retry_after_ms.unwrap_or(500));
                asked.clamp(own, Duration::from_secs(60).max(own))
            }
            Failure::Unreached(_)
            | Failure::TooSlow(_)
            | Failure::Failed { .. }
            | Failure::Refused { .. }
            | Failure::Garbled(_)
            | Failure::Cut
            | Failure::Resting(_) => own,
        }
    }

    pub fn succeeded(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_said_is_cut_where_the_caller_stopped_hearing_it() {
        let mut said = SaidLately::new(3);
        for (item, role) in [("u1", Role::User), ("a1", Role::Assistant), ("u2", Role::User)] {
            said.open(item, role);
        }
        said.append("a1", "We are open ");
        said.append("a1", "from nine to five.");
        said.cut("a1", 1_000, 2_000);
        assert_eq!(said.text("a1"), Some("We are open"));
        said.cut("a1", 3_000, 2_000);
        assert_eq!(said.text("a1"), Some("We are open"));
        said.set("u2", "And today?");
        let all: Vec<&str> = said.all().map(|said| said.text.as_str()).collect();
        assert_eq!(all, ["We are open", "And today?"], "u1 never got a text");
        said.open("a2", Role::Assistant);
        assert_eq!(said.text("u1"), None, "the oldest goes");
        said.append("a2", &"long ".repeat(1000));
        assert_eq!(said.text("a2").map(str::len), Some(LONGEST_SAID));
    }

    #[test]
    fn kept_sound_is_bounded_and_told_from_a_time_or_a_number() {
        let start = Instant::now();
        let mut kept = SoundLately::new(SoundFormat::Law(Law::Mu), Duration::from_millis(100));
        for n in 0..10_u8 {
            kept.push(start + Duration::from_millis(20 * u64::from(n)), u64::from(n), &[n; 160]);
        }
        assert_eq!(kept.since(start).len(), 800, "a hundred milliseconds");
        assert_eq!(kept.since(start + Duration::from_millis(160)), [[8_u8; 160], [9; 160]].concat());
        assert_eq!(kept.behind(8), [9; 160]);
        kept.push(start, 10, &[0; 10_000]);
        assert!(kept.since(start).is_empty(), "more than all the room is not kept");
    }

    #[test]
    fn back_off_grows_is_bounded_and_obeys_retry_after() {
        let mut back_off = BackOff::default();
        let waits: Vec<u128> = (0..8).map(|_| back_off.delay(&Failure::Cut).as_millis()).collect();
        assert_eq!(waits, [0, 250, 500, 1000, 2000, 4000, 5000, 5000]);
        back_off.succeeded();
        let busy = Failure::Busy { retry_after_ms: Some(2_000) };
        assert_eq!(back_off.delay(&busy), Duration::from_secs(2));
        let mad = Failure::Busy { retry_after_ms: Some(u64::MAX) };
        assert_eq!(back_off.delay(&mad), Duration::from_secs(60));
    }

    #[test]
    fn options_lie_over_what_we_say() {
        let mut own = json!({"audio": {"input": {"format": 1}, "output": 2}, "model": "m"});
        let over = json!({"audio": {"input": {"noise_reduction": null}, "output": {"speed": 1.5}}, "tracing": "auto"});
        let (Some(below), Some(above)) = (own.as_object_mut(), over.as_object()) else { panic!("objects") };
        overlay(below, above);
        let wanted = json!({"audio": {"input": {"format": 1, "noise_reduction": null}, "output": {"speed": 1.5}},
            "model": "m", "tracing": "auto"});
        assert_eq!(own, wanted);
    }
}
