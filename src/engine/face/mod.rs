//! An agent's face on its call: between a session of an avatar and who hears and sees it.
//!
//! ```text
//! Say ══ pieces ══▶ Face ═ Session::speak ═▶ provider
//!  ║ (no face: straight on)  ◀═ sound, pictures ═ provider
//!  ╚══════════▶ Playout of the beat ◀══ sound, attributed ══ Face ══ pictures ══▶ thread of outgoing pictures
//! ```
//! How a session is spoken to is the provider's (`avatar`); what is said, and when it stops, is the talk's.

mod account;
pub mod figures;
mod fit;
mod hush;
mod keeping;
pub mod lips;
pub mod picture;
mod switch;
pub mod task;
pub mod turnkey;
mod voice;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::avatar::Provider;
use crate::media::frame::Size;
use crate::talk::link::Voices;
use crate::vision::filters::Transform;
use crate::vision::overlay::OverlaySettings;

/// A face as configured, shared by the calls that wear it.
#[derive(Clone)]
pub struct FaceSettings {
    /// As in `[avatar.NAME]`.
    pub name: String,
    pub provider: Arc<dyn Provider>,
    /// BCP 47; empty: unknown.
    pub language: String,
    /// The largest picture of use.
    pub most: Size,
    /// Pictures a second that are of use where they are coded anew; what is passed on keeps its own.
    pub fps: u32,
    /// How often a session that could not be opened, or was lost, is tried again before the call goes on by voice alone.
    pub retries: u32,
    /// The pause before the first of these; each further one is twice as long.
    pub retry_after: Duration,
    /// How long sound and pictures may wait here for one another.
    pub buffer: Duration,
    /// Without anything said for so long, the session is given back; the next words open another.
    pub idle_release: Option<Duration>,
    /// Drawn on every picture of the face, in this order.
    pub transforms: Vec<Transform>,
    /// What is written on it.
    pub overlay: OverlaySettings,
}

impl FaceSettings {
    /// Nothing is drawn, nothing is given back.
    pub fn new(name: &str, provider: Arc<dyn Provider>) -> Self {
        FaceSettings {
            name: name.to_owned(),
            provider,
            language: String::new(),
            most: Size::new(1280, 720),
            fps: u32::MAX,
            retries: 2,
            retry_after: Duration::from_secs(1),
            buffer: Duration::from_secs(1),
            idle_release: None,
            transforms: Vec::new(),
            overlay: OverlaySettings::default(),
        }
    }

    /// Whether anything is drawn on its pictures.
    pub fn draws(&self) -> bool {
        !self.transforms.is_empty() || self.overlay.watermark.is_some()
    }
}

impl fmt::Debug for FaceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaceSettings({})", self.name)
    }
}

/// An agent whose provider hears and answers by itself: the face is all there is.
#[derive(Clone)]
pub struct Turnkey {
    /// Says what is to be said when the provider is gone.
    pub voices: Arc<Voices>,
}
