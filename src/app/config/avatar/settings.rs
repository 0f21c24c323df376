//! The settings themselves, with their defaults, and which provider knows which key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::app::config::secret::Secret;
use crate::app::config::settings::{Transform, Word, words};

words! {
    /// Who makes the face.
    Provider {
        Anam = "anam",
        LiveAvatar = "liveavatar",
        /// A vendor's worker in a LiveKit room of yours.
        LiveKit = "livekit",
        /// A server that speaks one of the two WebSocket protocols.
        WebSocket = "websocket",
    }
}

words! {
    /// Who hears, thinks and speaks.
    Mode {
        /// The agent; its voice moves the face.
        Passthrough = "passthrough",
        /// The provider, for agents of `kind = "avatar"`.
        Microphone = "microphone",
    }
}

words! {
    /// Whether sessions are the vendor's free short ones.
    Sandbox {
        /// Where no avatar of one's own is named.
        Auto = "auto",
        True = "true",
        False = "false",
    }
}

words! {
    VideoQuality { VeryHigh = "very_high", High = "high", Medium = "medium", Low = "low" }
}

words! {
    VideoEncoding {
        /// What the caller takes.
        Auto = "auto",
        H264 = "H264",
        Vp8 = "VP8",
    }
}

words! {
    /// What is spoken over the WebSocket.
    Protocol {
        /// JSON and stamped binary messages both ways.
        Timed = "timed",
        /// Sound up, raw pictures down.
        Raw = "raw",
    }
}

/// A request of a vendor's REST API, with places for `{names}`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rest {
    pub method: String,
    /// Empty: there is no such request.
    pub url: String,
    pub headers: BTreeMap<String, Secret>,
    pub body: Map<String, Value>,
    /// JSON pointer of the session's id in the answer.
    pub session: String,
}

/// `[avatar.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Avatar {
    pub provider: Provider,
    /// Empty: the vendor's own.
    pub base_url: String,
    pub api_key: Secret,
    pub avatar_id: String,
    pub mode: Mode,
    /// Of Anam.
    pub persona_id: String,
    pub avatar_model: String,
    pub voice_id: String,
    pub llm_id: String,
    pub language: String,
    pub system_prompt: String,
    /// The vendor keeps what it heard and showed.
    pub replay: bool,
    /// Of LiveAvatar.
    pub sandbox: Sandbox,
    pub video_quality: VideoQuality,
    pub video_encoding: VideoEncoding,
    /// The largest picture wanted, and pictures a second; 0: the provider's.
    pub width: u32,
    pub height: u32,
    pub fps: u32,
    /// Sound and pictures that may wait to be in step.
    pub buffer: Duration,
    /// Of one session; zero: the provider's limit.
    pub max_session: Duration,
    /// Of rooms: a vendor known by name, or its requests.
    pub vendor: String,
    pub livekit_url: String,
    pub livekit_api_key: Secret,
    pub livekit_api_secret: Secret,
    pub variables: BTreeMap<String, String>,
    pub identity: String,
    pub rate: u32,
    pub start: Rest,
    pub stop: Rest,
    /// Of a WebSocket.
    pub protocol: Protocol,
    pub image: PathBuf,
    /// Of all sessions of a day (UTC); 0: no limit.
    pub budget_minutes: u32,
    /// Sessions at once; 0: no limit.
    pub max_sessions: u32,
    /// A session nobody spoke through for so long is released; zero: never.
    pub idle_release: Duration,
    /// For the record only.
    pub usd_per_minute: f64,
    /// New sessions after one was lost, in a call.
    pub reconnects: u32,
    /// Put on its pictures, which are then decoded and coded again.
    pub transforms: Vec<Transform>,
    pub watermark: String,
}

impl Default for Avatar {
    fn default() -> Self {
        Avatar {
            provider: Provider::Anam,
            base_url: String::new(),
            api_key: Secret::default(),
            avatar_id: String::new(),
            mode: Mode::Passthrough,
            persona_id: String::new(),
            avatar_model: String::new(),
            voice_id: String::new(),
            llm_id: String::new(),
            language: String::new(),
            system_prompt: String::new(),
            replay: false,
            sandbox: Sandbox::Auto,
            video_quality: VideoQuality::High,
            video_encoding: VideoEncoding::Auto,
            width: 1280,
            height: 720,
            fps: 30,
            buffer: Duration::from_secs(1),
            max_session: Duration::ZERO,
            vendor: String::new(),
            livekit_url: String::new(),
            livekit_api_key: Secret::default(),
            livekit_api_secret: Secret::default(),
            variables: BTreeMap::new(),
            identity: String::new(),
            rate: 0,
            start: Rest::default(),
            stop: Rest::default(),
            protocol: Protocol::Timed,
            image: PathBuf::new(),
            budget_minutes: 0,
            max_sessions: 0,
            idle_release: Duration::ZERO,
            usd_per_minute: 0.0,
            reconnects: 2,
            transforms: Vec::new(),
            watermark: String::new(),
        }
    }
}

impl Avatar {
    /// Whether its provider hears the caller and answers by itself.
    pub fn listens(&self) -> bool {
        self.provider == Provider::Anam && self.mode == Mode::Microphone
    }

    /// Whether sessions are the vendor's free ones.
    pub fn is_sandbox(&self) -> bool {
        match self.sandbox {
            Sandbox::Auto => self.avatar_id.is_empty(),
            Sandbox::True => true,
            Sandbox::False => false,
        }
    }
}

/// Keys that not every provider knows, and who does.
pub const KEYS: [(&str, &[Provider]); 22] = [
    ("mode", &[Provider::Anam]),
    ("persona_id", &[Provider::Anam]),
    ("avatar_model", &[Provider::Anam]),
    ("voice_id", &[Provider::Anam]),
    ("llm_id", &[Provider::Anam]),
    ("language", &[Provider::Anam]),
    ("system_prompt", &[Provider::Anam]),
    ("replay", &[Provider::Anam]),
    ("sandbox", &[Provider::LiveAvatar]),
    ("video_quality", &[Provider::LiveAvatar, Provider::Anam]),
    ("video_encoding", &[Provider::LiveAvatar, Provider::Anam, Provider::LiveKit]),
    ("vendor", &[Provider::LiveKit]),
    ("livekit_url", &[Provider::LiveKit]),
    ("livekit_api_key", &[Provider::LiveKit]),
    ("livekit_api_secret", &[Provider::LiveKit]),
    ("variables", &[Provider::LiveKit]),
    ("identity", &[Provider::LiveKit]),
    ("rate", &[Provider::LiveKit, Provider::WebSocket]),
    ("start", &[Provider::LiveKit]),
    ("stop", &[Provider::LiveKit]),
    ("protocol", &[Provider::WebSocket]),
    ("image", &[Provider::WebSocket]),
];
