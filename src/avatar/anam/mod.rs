//! Anam: a face that comes over a WebRTC connection of its own, with signalling over one WebSocket.
//!
//! Two ways to use it. Passthrough: our voice goes up as samples over the WebSocket and comes back lip-synced. Microphone:
//! the caller's sound goes up over the WebRTC connection, and the service listens, thinks and speaks by itself.
//!
//! ```text
//! rest ─▶ machine ─▶ signal, data ═ session (driver) ═ WebSocket, WebRTC ─▶ downlink ─▶ sound, pictures
//! ```
//! Written from the vendor's published documents and clients; the vendor's own service was never asked.

pub mod data;
pub mod machine;
pub mod microphone;
pub mod path;
pub mod rest;
pub mod session;
pub mod signal;
pub mod turns;

use std::fmt;
use std::time::Duration;

use super::Limits;
use crate::media::access_unit::VideoCodec;
use crate::media::frame::Size;

/// The root of the vendor's API, without its version.
pub const BASE_URL: &str = "https://api.anam.ai";

/// Whose words the face speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Ours: what the agent's voice says.
    #[default]
    Passthrough,
    /// Its own: it hears the caller and answers.
    Microphone,
}

/// How pictures are coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quality {
    /// A fixed bitrate.
    #[default]
    High,
    /// As the network allows.
    Auto,
}

/// One avatar at Anam. Empty texts are left to the vendor.
#[derive(Clone, PartialEq)]
pub struct AnamSettings {
    pub api_key: String,
    /// Empty: [`BASE_URL`].
    pub base_url: String,
    /// A persona kept at the vendor; it replaces all that describes one here.
    pub persona_id: String,
    pub avatar_id: String,
    pub avatar_model: String,
    pub voice_id: String,
    pub llm_id: String,
    /// Empty: the call's.
    pub language: String,
    pub system_prompt: String,
    pub mode: Mode,
    /// In microphone mode: it waits for the caller's first words.
    pub skip_greeting: bool,
    pub quality: Quality,
    /// What pictures are asked for in first; `None`: what the caller takes.
    pub codec: Option<VideoCodec>,
    /// The picture's size; `None`: what the model makes.
    pub size: Option<Size>,
    /// Where it is made; `region_strict`: nowhere else.
    pub region: String,
    pub region_strict: bool,
    /// Whether the vendor keeps a recording of its own.
    pub replay: bool,
    /// A mark in the picture that it is made by a machine.
    pub disclosure: bool,
    /// How long a session may last.
    pub longest: Option<Duration>,
    /// In microphone mode: how long nobody may speak before the vendor ends the session.
    pub ends_after_silence: Option<Duration>,
    /// Until a session must be ready.
    pub ready_within: Duration,
}

impl Default for AnamSettings {
    fn default() -> Self {
        AnamSettings {
            api_key: String::new(),
            base_url: String::new(),
            persona_id: String::new(),
            avatar_id: String::new(),
            avatar_model: String::new(),
            voice_id: String::new(),
            llm_id: String::new(),
            language: String::new(),
            system_prompt: String::new(),
            mode: Mode::Passthrough,
            skip_greeting: false,
            quality: Quality::High,
            codec: None,
            size: None,
            region: String::new(),
            region_strict: false,
            replay: false,
            disclosure: false,
            longest: None,
            ends_after_silence: None,
            ready_within: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for AnamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnamSettings")
            .field("base_url", &self.base_url)
            .field("persona_id", &self.persona_id)
            .field("avatar_id", &self.avatar_id)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl AnamSettings {
    /// What these settings make of a session. The vendor advises 24 kHz mono, and takes speech faster than it is spoken.
    pub fn limits(&self) -> Limits {
        Limits {
            rate: 24_000,
            first_piece: Duration::from_millis(100),
            next_piece: Duration::from_millis(240),
            largest_piece: 24_000,
            longest: self.longest,
            ready_within: self.ready_within,
            listens: self.mode == Mode::Microphone,
            ..Limits::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_shown() {
        let settings = AnamSettings { api_key: "secret".to_owned(), ..AnamSettings::default() };
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
