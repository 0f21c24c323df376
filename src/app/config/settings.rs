//! What a configuration means: plain values, checked and with their defaults. No places, no TOML, no files.
//!
//! Durations are `Duration`, sizes in pixels, shares 0 to 1 unless a field says otherwise.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::avatar::settings::Avatar;
use super::decisions::Decisions;
use super::secret::Secret;
pub use super::sip::settings::{
    Account, Busy, Listen, Sip, SipPeer, SrtpOffer, SrtpPolicy, Strangers, Tls, Transport, User,
};
use super::source::Source;
use super::talk::picture::Place as PicturePlace;
pub use super::talk::settings as speech;
use super::talk::settings::{Providers, Sight, Speaking, Talk, Vision};
use super::tools::settings::Tools;
use crate::engine::plan::{AudioCodec, VideoCodec};
use crate::media::frame::Size;

/// The name of the recording profile that `[recording]` itself is.
pub const DEFAULT_RECORDING: &str = "default";

/// Defines an enum whose variants are words of the configuration.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl Word for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, $name::$variant)),+];
        }
    };
}

pub(super) use words;

/// An enum written as one of a few words.
pub trait Word: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    /// The word as it is written.
    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// The whole configuration, section by section.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub appliance: Appliance,
    pub sip: Sip,
    pub media: Media,
    pub video: Video,
    pub models: Models,
    /// By name; `faces` and `objects` are built in.
    pub detectors: BTreeMap<String, Detector>,
    pub censor: Censor,
    pub filters: Filters,
    pub overlay: Overlay,
    pub vision: Vision,
    /// Of the operator, for agents to send and show.
    pub pictures: BTreeMap<String, PicturePlace>,
    pub talk: Talk,
    pub providers: Providers,
    pub tools: Tools,
    /// By name.
    pub sources: BTreeMap<String, Source>,
    pub avatars: BTreeMap<String, Avatar>,
    pub decisions: Decisions,
    /// By name; [`DEFAULT_RECORDING`] is `[recording]` itself, the others start from its values.
    pub recording: BTreeMap<String, Recording>,
    /// By name; `mirror` is built in.
    pub agents: BTreeMap<String, Agent>,
    /// The first that matches takes the call; none: 404.
    pub routes: Vec<Route>,
    pub console: Console,
}

impl Default for Config {
    fn default() -> Self {
        let named = |name: &str| name.to_owned();
        let detectors =
            [(named("faces"), Detector::named("faces")), (named("objects"), Detector::named("objects"))];
        let mut config = Config {
            appliance: Appliance::default(),
            sip: Sip::default(),
            media: Media::default(),
            video: Video::default(),
            models: Models::default(),
            detectors: BTreeMap::from(detectors),
            censor: Censor::default(),
            filters: Filters::default(),
            overlay: Overlay::default(),
            vision: Vision::default(),
            pictures: BTreeMap::new(),
            talk: Talk::default(),
            providers: Providers::default(),
            tools: Tools::default(),
            sources: BTreeMap::new(),
            avatars: BTreeMap::new(),
            decisions: Decisions::default(),
            recording: BTreeMap::from([(named(DEFAULT_RECORDING), Recording::default())]),
            agents: BTreeMap::from([(named("mirror"), Agent::default())]),
            routes: Vec::new(),
            console: Console::default(),
        };
        config.routes.push(Route::defaults(&config));
        config
    }
}

impl Config {
    /// The folder a recording profile writes into.
    pub fn recordings_dir(&self, recording: &Recording) -> PathBuf {
        recording.dir.clone().unwrap_or_else(|| self.appliance.data_dir.join("recordings"))
    }
}

/// `[appliance]`
#[derive(Clone, Debug, PartialEq)]
pub struct Appliance {
    pub name: String,
    /// `./data`, or systemd's state directory where there is one.
    pub data_dir: PathBuf,
    /// How long running calls may go on after SIGTERM.
    pub drain: Duration,
}

impl Default for Appliance {
    fn default() -> Self {
        Appliance { name: "eyeline".into(), data_dir: "./data".into(), drain: Duration::from_secs(60) }
    }
}

impl Word for VideoCodec {
    const ALL: &'static [(&'static str, Self)] = &[
        ("h264", VideoCodec::H264),
        ("vp8", VideoCodec::Vp8),
        ("vp9", VideoCodec::Vp9),
        ("h265", VideoCodec::H265),
    ];
}

impl Word for AudioCodec {
    const ALL: &'static [(&'static str, Self)] = &[
        ("opus", AudioCodec::Opus),
        ("g722", AudioCodec::G722),
        ("pcma", AudioCodec::Pcma),
        ("pcmu", AudioCodec::Pcmu),
    ];
}

/// `[media]`
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// First and last port, both included; the first is even.
    pub rtp_ports: (u16, u16),
    /// In the order of preference; never empty.
    pub audio_codecs: Vec<AudioCodec>,
    /// In the order of preference; VP9 and H.265 are received only. Empty: audio-only calls.
    pub video_codecs: Vec<VideoCodec>,
    /// Where neither the peer nor the account says otherwise.
    pub srtp: SrtpPolicy,
    /// The same of calls we make.
    pub srtp_offer: SrtpOffer,
    /// From answer to the first RTP or RTCP.
    pub rtp_start_timeout: Duration,
    /// Without RTP and RTCP in a running call.
    pub rtp_timeout: Duration,
    /// How long a call may be held.
    pub hold_timeout: Duration,
}

impl Default for Media {
    fn default() -> Self {
        Media {
            rtp_ports: (20_000, 20_999),
            audio_codecs: vec![AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcma, AudioCodec::Pcmu],
            video_codecs: VideoCodec::ALL.to_vec(),
            srtp: SrtpPolicy::Optional,
            srtp_offer: SrtpOffer::Sdes,
            rtp_start_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(15),
            hold_timeout: Duration::from_secs(1800),
        }
    }
}

words! {
    /// How H.264 is encoded; the words are FFmpeg's names.
    Encoder {
        /// The first that proves itself, in the order below.
        Auto = "auto",
        H264Nvenc = "h264_nvenc",
        H264V4l2m2m = "h264_v4l2m2m",
        H264Vaapi = "h264_vaapi",
        H264Qsv = "h264_qsv",
        Libx264 = "libx264",
        Openh264 = "openh264",
    }
}

/// `[video]`: what is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Video {
    /// The largest picture; both sides even.
    pub max_size: Size,
    pub fps: u32,
    pub bitrate_kbps: u32,
    pub encoder: Encoder,
}

impl Default for Video {
    fn default() -> Self {
        Video { max_size: Size::new(1280, 720), fps: 15, bitrate_kbps: 1000, encoder: Encoder::Auto }
    }
}

/// `[models]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Models {
    /// `None`: the usual places.
    pub dir: Option<PathBuf>,
    /// The library. `None`: the usual places.
    pub onnxruntime: Option<PathBuf>,
}

/// `[detector.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Detector {
    /// A name of the manifest, a path, or `auto`: the first face model that is present.
    pub model: String,
    pub confidence: f32,
    /// For the censor: every picture (1), every second (2), …
    pub every: u32,
    /// Empty: all classes of the model.
    pub classes: Vec<String>,
    /// Overlap at which the weaker of two boxes goes. `None`: the model's own.
    pub iou: Option<f32>,
    /// Outside the censor: at most so many pictures a second, the newest wins.
    pub fps: f32,
    /// Outside the censor: nothing is scanned while nothing moves.
    pub motion_gate: bool,
}

impl Detector {
    /// The defaults of a detector of this name.
    pub fn named(name: &str) -> Self {
        let plain = Detector {
            model: String::new(),
            confidence: 0.5,
            every: 1,
            classes: Vec::new(),
            iou: None,
            fps: 5.0,
            motion_gate: true,
        };
        match name {
            "faces" => Detector { model: "auto".into(), confidence: 0.35, ..plain },
            "objects" => Detector {
                model: "yolox-nano".into(),
                classes: ["person", "car", "dog"].map(str::to_owned).to_vec(),
                iou: Some(0.45),
                ..plain
            },
            _ => plain,
        }
    }
}

words! {
    /// How a region is hidden.
    Style { Pixelate = "pixelate", Blur = "blur", Black = "black" }
}

words! {
    /// What is shown of a picture that could not be cleared.
    OnFailure { Slate = "slate", BlurFrame = "blur_frame" }
}

/// Corners of an area that is always masked, at least three, each `[x, y]` as shares of width and height.
pub type Zone = Vec<[f32; 2]>;

/// `[censor]`
#[derive(Clone, Debug, PartialEq)]
pub struct Censor {
    /// Classes of any detector.
    pub targets: Vec<String>,
    pub style: Style,
    /// By how much of its own width and height a box is grown on every side.
    pub margin: f32,
    /// How long a region stays masked after it was last seen.
    pub hold: Duration,
    pub zones: Vec<Zone>,
    pub on_failure: OnFailure,
}

impl Default for Censor {
    fn default() -> Self {
        Censor {
            targets: vec!["face".into()],
            style: Style::Pixelate,
            margin: 0.3,
            hold: Duration::from_millis(800),
            zones: Vec::new(),
            on_failure: OnFailure::Slate,
        }
    }
}

impl Censor {
    /// Whether there is anything to hide.
    pub fn hides(&self) -> bool {
        !self.targets.is_empty() || !self.zones.is_empty()
    }
}

words! {
    /// A change of the whole clean picture.
    Transform {
        Grayscale = "grayscale",
        Sepia = "sepia",
        Invert = "invert",
        Blur = "blur",
        Pixelate = "pixelate",
        Edges = "edges",
        Cartoon = "cartoon",
        Sketch = "sketch",
    }
}

/// `[filters]`: after the gate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    pub transforms: Vec<Transform>,
    /// The box to fit into; never enlarges.
    pub resize: Option<Size>,
}

words! {
    /// Where the watermark stands.
    Position {
        TopLeft = "top-left",
        Top = "top",
        TopRight = "top-right",
        Left = "left",
        Center = "center",
        Right = "right",
        BottomLeft = "bottom-left",
        Bottom = "bottom",
        BottomRight = "bottom-right",
    }
}

/// What may stand in braces in a watermark.
pub const PLACEHOLDERS: [&str; 7] = ["name", "time", "timestamp", "call", "from", "to", "frame"];

/// `[overlay]`
#[derive(Clone, Debug, PartialEq)]
pub struct Overlay {
    pub boxes: bool,
    /// Text with [`PLACEHOLDERS`]; empty: none.
    pub watermark: String,
    pub watermark_position: Position,
    /// Share of the picture's height.
    pub watermark_size: f32,
    /// Red, green, blue.
    pub watermark_color: [u8; 3],
    /// What the caller and an agent that speaks say is written on the picture that is sent.
    pub captions: bool,
}

impl Default for Overlay {
    fn default() -> Self {
        Overlay {
            boxes: true,
            watermark: "{name} {time}".into(),
            watermark_position: Position::BottomRight,
            watermark_size: 0.04,
            watermark_color: [255; 3],
            captions: false,
        }
    }
}

words! {
    /// Whose picture is recorded.
    RecordVideo { Caller = "caller", None = "none" }
}

words! {
    /// How the two voices are recorded.
    RecordAudio {
        /// Left the caller, right the agent.
        Stereo = "stereo",
        Mixed = "mixed",
        None = "none",
    }
}

/// `[recording]` or `[recording.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// Whether calls are recorded that no route speaks about.
    pub enabled: bool,
    /// `None`: `recordings` in the data directory; see [`Config::recordings_dir`].
    pub dir: Option<PathBuf>,
    pub video: RecordVideo,
    pub audio: RecordAudio,
    pub encoder: Encoder,
    /// Below this nothing new is recorded.
    pub min_free_gib: f64,
}

impl Default for Recording {
    fn default() -> Self {
        Recording {
            enabled: true,
            dir: None,
            video: RecordVideo::Caller,
            audio: RecordAudio::Stereo,
            encoder: Encoder::Auto,
            min_free_gib: 1.0,
        }
    }
}

impl Recording {
    /// [`Recording::min_free_gib`] in bytes.
    pub fn min_free_bytes(&self) -> u64 {
        (self.min_free_gib * f64::from(1 << 30)) as u64
    }
}

words! {
    /// What the caller hears from the mirror.
    MirrorAudio {
        /// The greeting, then their own voice.
        Greeting = "greeting",
        Echo = "echo",
        Silence = "silence",
    }
}

words! {
    /// What an agent does.
    AgentKind {
        Mirror = "mirror",
        Record = "record",
        Pipeline = "pipeline",
        Realtime = "realtime",
        Avatar = "avatar",
    }
}

/// `[agent.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub enum Agent {
    /// Shows callers their own clean picture.
    Mirror { audio: MirrorAudio, greeting: String, sight: Sight },
    /// Answers, listens and records; sends a still and silence.
    Record { sight: Sight },
    /// Hears, thinks and speaks through three models.
    Pipeline(Box<Speaking>),
    /// One model does all of it.
    Realtime(Box<Speaking>),
    /// The provider of its face does.
    Avatar(Box<Speaking>),
}

/// What the mirror says when nothing else is written.
pub const GREETING: &str =
    "Hello. You see yourself as Eyeline sees you. Say something and you will hear it again.";

impl Agent {
    /// How it looks at the caller where its route says nothing.
    pub fn sight(&self) -> Sight {
        match self {
            Agent::Mirror { sight, .. } | Agent::Record { sight } => *sight,
            Agent::Pipeline(agent) | Agent::Realtime(agent) | Agent::Avatar(agent) => agent.sight,
        }
    }

    /// The languages callers may choose.
    pub fn languages(&self) -> Vec<&str> {
        match self {
            Agent::Mirror { .. } | Agent::Record { .. } => Vec::new(),
            Agent::Pipeline(agent) | Agent::Realtime(agent) | Agent::Avatar(agent) => {
                agent.offered_languages().collect()
            }
        }
    }

    pub fn kind(&self) -> AgentKind {
        match self {
            Agent::Mirror { .. } => AgentKind::Mirror,
            Agent::Record { .. } => AgentKind::Record,
            Agent::Pipeline(_) => AgentKind::Pipeline,
            Agent::Realtime(_) => AgentKind::Realtime,
            Agent::Avatar(_) => AgentKind::Avatar,
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Agent::Mirror { audio: MirrorAudio::Greeting, greeting: GREETING.into(), sight: Sight::Turn }
    }
}

/// `[[route]]`. All conditions must hold; globs know `*` and `?`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Glob for the user part of the request URI.
    pub to: String,
    /// Glob for the user part of From.
    pub from: String,
    /// Networks the call may come from; empty: any.
    pub source: Vec<IpNet>,
    /// Globs for further headers of the INVITE, by header name.
    pub headers: BTreeMap<String, String>,
    /// A name in [`Config::agents`].
    pub agent: String,
    /// A name in [`Config::recording`]; `None`: not recorded.
    pub record: Option<String>,
    /// Names in [`Config::detectors`].
    pub detect: Vec<String>,
    pub censor: bool,
    pub video: bool,
    /// How the agent looks at the caller here; `None`: as the agent has it.
    pub sight: Option<Sight>,
    /// What the agent speaks here; empty: what it speaks anyway, or what the caller's device asks for.
    pub language: String,
    /// How long it rings before it is answered.
    pub ring: Duration,
    /// Media flows while it rings (183 with SDP).
    pub early_media: bool,
    /// Whether a shared screen (a second video line, `content:slides`) is taken.
    pub slides: bool,
    /// Shown to the caller; empty: none.
    pub display_name: String,
    /// Pictures that applications give for its calls are not censored.
    pub trust_images: bool,
}

impl Route {
    /// A route with nothing written: takes every call, does what the sections say.
    pub fn defaults(config: &Config) -> Self {
        let records = config.recording.get(DEFAULT_RECORDING).is_some_and(|recording| recording.enabled);
        Route {
            to: "*".into(),
            from: "*".into(),
            source: Vec::new(),
            headers: BTreeMap::new(),
            agent: "mirror".into(),
            record: records.then(|| DEFAULT_RECORDING.to_owned()),
            detect: config.detectors.keys().cloned().collect(),
            censor: config.censor.hides(),
            video: !config.media.video_codecs.is_empty(),
            sight: None,
            language: String::new(),
            ring: Duration::ZERO,
            early_media: false,
            slides: false,
            display_name: String::new(),
            trust_images: false,
        }
    }

    /// Whether it takes every call.
    pub fn takes_everything(&self) -> bool {
        self.to == "*" && self.from == "*" && self.source.is_empty() && self.headers.is_empty()
    }
}

/// `[console]`
#[derive(Clone, Debug, PartialEq)]
pub struct Console {
    /// `None`: no console, no health, no metrics.
    pub listen: Option<SocketAddr>,
    /// For browsers (Basic, any user name); empty: none.
    pub password: Secret,
    /// For programs (Bearer); empty: none.
    pub token: Secret,
}

impl Default for Console {
    fn default() -> Self {
        Console {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            password: Secret::default(),
            token: Secret::default(),
        }
    }
}
