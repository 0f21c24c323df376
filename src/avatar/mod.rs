//! Floor 3: a face for an agent, made by a service in the cloud or on the local network.
//!
//! ```text
//! agent's voice ─▶ Session::speak ═ provider ═▶ AvatarEvent::Sound, ::Picture ─▶ engine::face ─▶ caller
//! ```
//! A [`Session`] is one control plane (begin, keep alive, end), one way up for sound and one way down for sound and
//! pictures, put together by each provider's module. What becomes of what comes down, and what the caller hears while
//! there is no face, is decided in `engine::face`.

pub mod anam;
pub mod downlink;
pub mod journal;
pub mod ledger;
pub mod lifetime;
pub mod liveavatar;
pub mod livekit;
pub mod metered;
pub mod room;
pub mod uplink;
pub mod websocket;

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::frame::{RawFrame, Size};
use crate::remote::failure::Failure;

/// Everything said between two moments at which the agent may be interrupted; counts up from 1 within a call, over the
/// call's sessions.
pub type Turn = u32;

/// When something was made, on the one clock of a session's sound and pictures: microseconds from its own beginning. What
/// bears the same time belongs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MediaTime(pub i64);

/// What a provider takes, and when it must be told something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hz of the sound that goes up, mono.
    pub rate: u32,
    /// How much speech is gathered before the first piece of a turn goes up, and before each that follows.
    pub first_piece: Duration,
    pub next_piece: Duration,
    /// Bytes of sound in one message.
    pub largest_piece: usize,
    /// A voice that pauses so long within a turn: what was gathered goes up.
    pub flush_after: Duration,
    /// How long a session may last: the smaller of what is configured and what the provider says.
    pub longest: Option<Duration>,
    /// Until a session must be ready.
    pub ready_within: Duration,
    /// How long after its sound went up a turn may begin to be heard.
    pub speaks_within: Duration,
    /// How long after a turn's last sound its end is believed without being told.
    pub ends_within: Duration,
    /// Pictures come with sound of their own; else the agent's sound is played here, beside the pictures made of it.
    pub returns_sound: bool,
    /// The provider hears the caller and answers by itself.
    pub listens: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            rate: 24_000,
            first_piece: Duration::from_millis(100),
            next_piece: Duration::from_millis(100),
            largest_piece: 48_000,
            flush_after: Duration::from_millis(200),
            longest: None,
            ready_within: Duration::from_secs(30),
            speaks_within: Duration::from_secs(4),
            ends_within: Duration::from_secs(2),
            returns_sound: true,
            listens: false,
        }
    }
}

/// What a call wants of a session.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The call's short id, for logs and the provider's labels.
    pub call: String,
    /// What the caller takes, most wanted first; empty: it sees nothing.
    pub codecs: Vec<VideoCodec>,
    /// The largest picture of use.
    pub most: Size,
    /// BCP 47; empty: unknown.
    pub language: String,
    /// The call had a session before that was ready: who greets by itself has done so.
    pub again: bool,
}

impl Terms {
    /// What it can be shown where the provider chooses: as it comes or coded anew, most wanted first; empty: it sees nothing.
    pub fn showable(&self) -> Vec<VideoCodec> {
        let known = [VideoCodec::H264, VideoCodec::Vp8];
        let others =
            known.into_iter().filter(|other| !self.codecs.is_empty() && !self.codecs.contains(other));
        self.codecs.iter().copied().chain(others).collect()
    }
}

/// Whose words a transcript holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    Caller,
    Avatar,
}

/// A picture on its way down.
pub enum Picture {
    /// Coded, in order; `pts` means nothing here.
    Coded(AccessUnit),
    /// Not coded.
    Plain(RawFrame),
}

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Picture::Coded(unit) => write!(f, "Coded({} bytes, key {})", unit.data.len(), unit.key),
            Picture::Plain(picture) => write!(f, "Plain({})", picture.size()),
        }
    }
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// For the operator; without secrets.
    pub why: String,
    pub cause: Cause,
}

impl Lost {
    pub fn new(cause: Cause, why: impl Into<String>) -> Lost {
        Lost { why: why.into(), cause }
    }

    /// What a failed request or connection means for a session.
    pub fn of(failure: &Failure) -> Lost {
        let cause = match failure {
            Failure::Busy { .. } | Failure::Failed { status: 503, .. } | Failure::Resting(_) => Cause::Busy,
            Failure::Refused { .. } => Cause::Refused,
            Failure::Unreached(_)
            | Failure::TooSlow(_)
            | Failure::Failed { .. }
            | Failure::Garbled(_)
            | Failure::Cut => Cause::Connection,
        };
        Lost { why: failure.to_string(), cause }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Another session may be tried at once.
    Connection,
    /// 429, 503, no room: another may be tried later.
    Busy,
    /// 402: no credit; 401, 403, 400, 422: a key or a setting is wrong. Trying again is of no use.
    Refused,
    /// The session's time is over, or the provider ended it.
    Over,
}

impl Cause {
    /// The word in events.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Connection => "connection",
            Cause::Busy => "busy",
            Cause::Refused => "refused",
            Cause::Over => "over",
        }
    }
}

/// What a session tells. After [`AvatarEvent::Closed`] nothing follows; after [`AvatarEvent::Lost`] only that, once the
/// session was closed: what is to be ended at the provider is ended by polling on.
#[derive(Debug)]
pub enum AvatarEvent {
    /// The provider is about to be asked. Until it answers, what it may have begun is ended by this handle.
    Asked {
        session: String,
    },
    /// The provider has begun to count: the id under which it knows the session. Comes before `Ready`, once.
    Opened {
        session: String,
    },
    /// Sound that goes up from now on is spoken.
    Ready,
    /// The first sound of a turn is about to be heard.
    Speaking {
        turn: Turn,
    },
    /// The turn is over. Providers tell this early, late or never: it ends a turn, and measures nothing.
    Ended {
        turn: Turn,
        interrupted: bool,
    },
    /// An interruption was carried out.
    Hushed,
    /// What was said, by a provider that listens.
    Transcript {
        speaker: Speaker,
        text: String,
        last: bool,
    },
    /// The caller speaks or has stopped, as a provider that listens hears it.
    CallerSpeaks(bool),
    /// Sound of the avatar, mono, silence too.
    Sound {
        at: MediaTime,
        rate: u32,
        samples: Arc<[i16]>,
    },
    Picture {
        at: MediaTime,
        picture: Picture,
    },
    /// For the operator.
    Warning(String),
    /// The session ends soon.
    NearLimit {
        left: Duration,
    },
    Lost(Lost),
    /// `ended`: the provider is known not to count any more. Otherwise the session is still owed an end.
    Closed {
        ended: bool,
    },
}

/// Why we end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    CallOver,
    Idle,
    /// Its time or its money is used up.
    Limit,
    /// It is of no use any more.
    Broken,
}

/// One session with a provider. Nothing runs by itself: polling it connects, reads, writes and waits. Dropped before it is
/// closed, it leaves the provider counting until the provider notices.
pub trait Session: Send {
    fn limits(&self) -> &Limits;

    /// The next event. Cancel-safe; sound and pictures nobody takes are bounded, the oldest is lost and counted.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent>;

    /// Sound of a turn, mono at the provider's rate, as fast as it is made. Before `Ready` it is lost.
    fn speak(&mut self, turn: Turn, samples: &[i16]);

    /// Nothing more comes of this turn.
    fn end(&mut self, turn: Turn);

    /// Nothing of this turn or one before it may be heard. Waits for nothing.
    fn interrupt(&mut self, turn: Turn);

    /// The caller is speaking: how the avatar looks meanwhile.
    fn listening(&mut self, _listening: bool) {}

    /// What the caller says, for a provider that listens; mono.
    fn microphone(&mut self, _samples: &[i16], _rate: u32) {}

    /// Says a text with the provider's own voice. `false`: it has none.
    fn say(&mut self, _text: &str) -> bool {
        false
    }

    /// The provider takes this as said by the caller. `false`: it cannot.
    fn text(&mut self, _text: &str) -> bool {
        false
    }

    /// The next coded picture should be a key picture.
    fn want_key_picture(&mut self) {}

    /// Begins the farewell; [`AvatarEvent::Closed`] comes within five seconds. Again: nothing.
    fn close(&mut self, farewell: Farewell);
}

/// One provider as configured in `[avatar.NAME]`: opens sessions, and ends those a crash left behind.
pub trait Provider: Send + Sync + fmt::Debug {
    /// Begins; nothing waits. Fails only through events.
    fn open(&self, terms: Terms) -> Box<dyn Session>;

    /// Ends a session of an earlier run of this program, by its id; `true`: it is over, or there is no such session.
    fn reap<'a>(&'a self, session: &'a str) -> futures_util::future::BoxFuture<'a, bool>;
}
