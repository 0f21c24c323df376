//! Sight: which pictures of a call are worth showing to a model, and which of them it still knows.
//!
//! ```text
//! cleared pictures ─ watch (sampler, window, scene) ─ a still of engine's ─ Image ─ memory, budget ─ Context ─ model
//! ```
//! `sampler` says when, `scene` whether anything changed and which picture is sharp, `watch` puts them together. `memory`
//! keeps the last pictures and says which are to be forgotten, `budget` what they may cost. `describe` asks a model of
//! its own about pictures, `result` reads its answer, `description` is what becomes of it. `given` is about pictures that are not the caller's. All but
//! `describe` is pure. Threads and encoders are `engine::sight`'s. A picture alone never starts a turn.

use std::sync::Arc;

use crate::talk::message::Image;

pub mod budget;
pub mod describe;
pub mod description;
pub mod given;
pub mod memory;
pub mod result;
pub mod sampler;
pub mod scene;
pub mod watch;

/// How an agent sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Off,
    /// A picture with every turn of the caller, and when a tool asks for one.
    Turn,
    /// The same, and samples in between for models that take them.
    Live,
    /// The same as live, but for a model of its own that describes what it sees.
    Continuous,
}

impl Mode {
    /// The names of the configuration, in the order of the variants.
    pub const NAMES: [&'static str; 4] = ["off", "turn", "live", "continuous"];

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<Mode> {
        let all = [Mode::Off, Mode::Turn, Mode::Live, Mode::Continuous];
        Self::NAMES.iter().position(|known| *known == name).map(|at| all[at])
    }

    /// Whether pictures are taken without being asked for.
    pub fn samples(self) -> bool {
        match self {
            Mode::Off | Mode::Turn => false,
            Mode::Live | Mode::Continuous => true,
        }
    }
}

/// Why a picture was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The caller began to speak.
    Onset,
    /// The caller's turn is over, or may be: the picture of that turn.
    Turn,
    /// It was time.
    Sample,
    /// The agent looks, by its tool.
    Look,
    /// An application or a trigger asks.
    Asked,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Onset => "onset",
            Reason::Turn => "turn",
            Reason::Sample => "sample",
            Reason::Look => "look",
            Reason::Asked => "asked",
        }
    }
}

/// Which of the peer's pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Track {
    Camera,
    /// A shared screen.
    Screen,
}

/// What came of one look. Everything that was wanted is answered by exactly one of these, samples only when something
/// has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighted {
    Seen {
        /// `taken` is when the caller's picture was as it shows, newly stamped if nothing has changed since.
        image: Arc<Image>,
        reason: Reason,
        /// An image of this id was handed out before and still shows what there is to see.
        again: bool,
    },
    /// There is no picture, or none that is new enough. Of samples: none any more.
    Blind { reason: Reason },
}
