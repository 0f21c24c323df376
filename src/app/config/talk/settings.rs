//! The settings themselves, with their defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::picture::Place;
use crate::app::config::secret::Secret;
use crate::app::config::settings::{Word, words};
use crate::app::config::tools::settings::Start;

words! {
    /// Whose API a provider speaks.
    Vendor {
        /// OpenAI, and every server that speaks like it.
        Openai = "openai",
        Gemini = "gemini",
        Anthropic = "anthropic",
        Deepgram = "deepgram",
        /// espeak-ng on this box.
        Espeak = "espeak",
        /// Built in: canned answers after stated times.
        Mock = "mock",
    }
}

/// What a section of providers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Transcription,
    Language,
    Speech,
    Realtime,
}

impl Service {
    pub const ALL: [Service; 4] =
        [Service::Transcription, Service::Language, Service::Speech, Service::Realtime];

    /// The section's name.
    pub fn section(self) -> &'static str {
        match self {
            Service::Transcription => "stt",
            Service::Language => "llm",
            Service::Speech => "tts",
            Service::Realtime => "realtime",
        }
    }

    /// Who offers it.
    pub fn vendors(self) -> &'static [Vendor] {
        match self {
            Service::Transcription => &[Vendor::Openai, Vendor::Deepgram, Vendor::Mock],
            Service::Language => &[Vendor::Openai, Vendor::Gemini, Vendor::Anthropic, Vendor::Mock],
            Service::Speech => &[Vendor::Openai, Vendor::Deepgram, Vendor::Espeak, Vendor::Mock],
            Service::Realtime => &[Vendor::Openai, Vendor::Gemini],
        }
    }
}

words! {
    /// Whether a model can look at pictures.
    Sees {
        /// By what is known of its name.
        Auto = "auto",
        True = "true",
        False = "false",
    }
}

/// `[stt.NAME]`, `[llm.NAME]`, `[tts.NAME]`, `[realtime.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub vendor: Vendor,
    /// Empty: the vendor's own.
    pub base_url: String,
    pub model: String,
    /// Empty: the vendor's variable of the environment, unless `base_url` is plain http.
    pub api_key: Secret,
    pub voice: String,
    /// ISO 639-1; empty: the model finds out.
    pub language: String,
    pub temperature: Option<f64>,
    /// Put into requests as they are.
    pub options: Map<String, Value>,
    pub timeout: Duration,
    pub sees: Sees,
    pub prices: Prices,
}

/// US dollars for a million tokens; 0: not known, and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prices {
    /// That go in.
    pub input: f64,
    /// That come out.
    pub output: f64,
    /// Of pictures that go in; 0: as others.
    pub image: f64,
}

impl Prices {
    /// Whether anything can be counted.
    pub fn are_known(self) -> bool {
        self.input > 0.0 || self.image > 0.0
    }
}

impl Default for Provider {
    fn default() -> Self {
        Provider {
            vendor: Vendor::Openai,
            base_url: String::new(),
            model: String::new(),
            api_key: Secret::default(),
            voice: String::new(),
            language: String::new(),
            temperature: None,
            options: Map::new(),
            timeout: Duration::from_secs(10),
            sees: Sees::Auto,
            prices: Prices::default(),
        }
    }
}

/// Models known not to see, by what their name begins with.
const BLIND: [&str; 12] = [
    "gpt-3.5",
    "o1-mini",
    "o3-mini",
    "deepseek",
    "mistral-large",
    "mixtral",
    "codestral",
    "phi3",
    "phi-3-mini",
    "qwen2.5:",
    "qwen3:",
    "llama3.1",
];

impl Provider {
    /// Whether it can be shown pictures.
    pub fn can_see(&self) -> bool {
        match self.sees {
            Sees::True => true,
            Sees::False => false,
            Sees::Auto => {
                let name = self.model.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
                !BLIND.iter().any(|blind| name.starts_with(blind))
            }
        }
    }
}

/// The providers of each service, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Providers {
    pub stt: BTreeMap<String, Provider>,
    pub llm: BTreeMap<String, Provider>,
    pub tts: BTreeMap<String, Provider>,
    pub realtime: BTreeMap<String, Provider>,
}

impl Providers {
    pub fn of(&self, service: Service) -> &BTreeMap<String, Provider> {
        match service {
            Service::Transcription => &self.stt,
            Service::Language => &self.llm,
            Service::Speech => &self.tts,
            Service::Realtime => &self.realtime,
        }
    }

    pub fn of_mut(&mut self, service: Service) -> &mut BTreeMap<String, Provider> {
        match service {
            Service::Transcription => &mut self.stt,
            Service::Language => &mut self.llm,
            Service::Speech => &mut self.tts,
            Service::Realtime => &mut self.realtime,
        }
    }
}

words! {
    /// How an agent looks at the caller.
    Sight {
        Off = "off",
        /// A picture with each turn.
        Turn = "turn",
        /// Pictures all the time, for a model that takes them.
        Live = "live",
        /// Pictures all the time, for the model of `[vision]`, which says what it sees.
        Continuous = "continuous",
    }
}

/// A piece of an agent's standing context.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    pub role: ContextRole,
    pub text: String,
    /// Shown with it: a file, a data URL or a URL.
    pub image: Option<Place>,
}

words! {
    ContextRole { System = "system", User = "user", Assistant = "assistant" }
}

/// `[agent.NAME.prompts.LANGUAGE]`: what is different in that language; `None`: as the agent has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    pub instructions: Option<String>,
    pub greeting: Option<String>,
    pub disclosure: Option<String>,
    pub fallback: Option<String>,
    pub voice: Option<String>,
}

/// What an agent that speaks is told: `[agent.NAME]` with `kind = "pipeline"` or `"realtime"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Speaking {
    /// Shown to the caller, and told to the model.
    pub display_name: String,
    pub instructions: String,
    /// Said when the call is answered; empty: nothing.
    pub greeting: String,
    /// That a machine speaks; said before the greeting and shown; empty: nothing.
    pub disclosure: String,
    /// Said when no model answers.
    pub fallback: String,
    /// Names in `[stt]`, in the order of trying.
    pub stt: Vec<String>,
    pub llm: Vec<String>,
    pub tts: Vec<String>,
    /// A name in `[realtime]`; of a realtime agent only.
    pub realtime: String,
    pub voice: String,
    /// ISO 639-1, or `auto`.
    pub language: String,
    pub sight: Sight,
    pub tools: Vec<String>,
    /// Of `[source]`: where it may look besides the caller.
    pub sources: Vec<String>,
    /// Done when the call is answered, behind the greeting, in order.
    pub on_start: Vec<Start>,
    /// Pictures a model is shown again; older ones become a line of text.
    pub keep_images: u32,
    pub context: Vec<Context>,
    /// What it is told and says in other languages.
    pub prompts: BTreeMap<String, Prompts>,
    /// Questions of a model to itself in one turn.
    pub max_tool_steps: u32,
    /// Its face, in `[avatar]`; empty: none.
    pub avatar: String,
}

/// Said when no model answers and nothing else is written.
pub const FALLBACK: &str = "I am sorry, I cannot answer right now.";

impl Default for Speaking {
    fn default() -> Self {
        Speaking {
            display_name: String::new(),
            instructions: String::new(),
            greeting: String::new(),
            disclosure: String::new(),
            fallback: FALLBACK.into(),
            stt: Vec::new(),
            llm: Vec::new(),
            tts: Vec::new(),
            realtime: String::new(),
            voice: String::new(),
            language: "auto".into(),
            sight: Sight::Turn,
            tools: vec!["look".into(), "hang_up".into()],
            sources: Vec::new(),
            on_start: Vec::new(),
            keep_images: 4,
            context: Vec::new(),
            prompts: BTreeMap::new(),
            max_tool_steps: 3,
            avatar: String::new(),
        }
    }
}

impl Speaking {
    /// The languages a caller's device may choose: those with prompts, unless one is fixed.
    pub fn offered_languages(&self) -> impl Iterator<Item = &str> {
        let fixed = self.language != "auto";
        self.prompts.keys().map(String::as_str).filter(move |_| !fixed)
    }

    /// The agent as it talks in a language; empty: as it is written.
    #[must_use]
    pub fn speaking(&self, language: &str) -> Speaking {
        let mut agent = self.clone();
        if language.is_empty() {
            return agent;
        }
        language.clone_into(&mut agent.language);
        let prompts = self.prompts.get(language).cloned().unwrap_or_default();
        for (into, text) in [
            (&mut agent.instructions, prompts.instructions),
            (&mut agent.greeting, prompts.greeting),
            (&mut agent.disclosure, prompts.disclosure),
            (&mut agent.fallback, prompts.fallback),
            (&mut agent.voice, prompts.voice),
        ] {
            if let Some(text) = text {
                *into = text;
            }
        }
        agent
    }
}

words! {
    /// How long a pause is waited for.
    Endpointing {
        Fixed = "fixed",
        /// Follows the caller's own pauses.
        Dynamic = "dynamic",
    }
}

words! {
    /// Who decides that the caller has finished.
    TurnDetection {
        /// smart-turn where it is there, else pauses alone.
        Auto = "auto",
        SmartTurn = "smart-turn",
        Vad = "vad",
        /// The application, by `POST …/turn`.
        Manual = "manual",
    }
}

/// `[talk]`
#[derive(Clone, Debug, PartialEq)]
pub struct Talk {
    pub turn_detection: TurnDetection,
    pub endpointing: Endpointing,
    /// After a turn that sounds finished. `None`: 0.3 s with smart-turn, 0.5 s without.
    pub min_delay: Option<Duration>,
    /// After one that does not. `None`: 2.5 s with smart-turn, 3 s without.
    pub max_delay: Option<Duration>,
    pub vad_threshold: f32,
    pub min_silence: Duration,
    pub interruptions: bool,
    pub min_interruption: Duration,
    pub min_words: u32,
    pub resume_false_interruption: bool,
    pub false_interruption_timeout: Duration,
    /// Whether a model is asked before the turn is surely over.
    pub preemptive: bool,
    /// On the copy that is listened to only.
    pub noise: bool,
    pub agc: bool,
}

impl Default for Talk {
    fn default() -> Self {
        Talk {
            turn_detection: TurnDetection::Auto,
            endpointing: Endpointing::Fixed,
            min_delay: None,
            max_delay: None,
            vad_threshold: 0.5,
            min_silence: Duration::from_millis(250),
            interruptions: true,
            min_interruption: Duration::from_millis(500),
            min_words: 0,
            resume_false_interruption: true,
            false_interruption_timeout: Duration::from_secs(2),
            preemptive: true,
            noise: false,
            agc: true,
        }
    }
}

words! {
    /// How a picture is brought into the box of `max_width` and `max_height`; none enlarges.
    Resize {
        CenterAspectFit = "center_aspect_fit",
        CenterAspectCover = "center_aspect_cover",
        ScaleAspectFit = "scale_aspect_fit",
        ScaleAspectCover = "scale_aspect_cover",
        Skew = "skew",
    }
}

words! {
    ImageFormat { Jpeg = "jpeg", Png = "png" }
}

words! {
    ImageDetail { Auto = "auto", Low = "low", High = "high", Omit = "omit" }
}

/// `[vision]`: the pictures models get, what they may cost, and a model of its own that describes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// The model that describes.
    pub model: Provider,
    /// What it is told to look for; empty: what it is always told.
    pub prompt: String,
    /// Of one call; 0: no limit.
    pub budget_images: u32,
    pub budget_tokens: u32,
    pub budget_usd: f64,
    pub speaking_fps: f32,
    pub silent_fps: f32,
    pub onset_frame: bool,
    /// 0: as wide as it is.
    pub max_width: u32,
    pub max_height: u32,
    pub resize: Resize,
    pub format: ImageFormat,
    pub quality: u32,
    pub detail: ImageDetail,
}

impl Default for Vision {
    fn default() -> Self {
        Vision {
            model: Provider::default(),
            prompt: String::new(),
            budget_images: 500,
            budget_tokens: 0,
            budget_usd: 0.0,
            speaking_fps: 1.0,
            silent_fps: 0.334,
            onset_frame: true,
            max_width: 1024,
            max_height: 1024,
            resize: Resize::ScaleAspectFit,
            format: ImageFormat::Jpeg,
            quality: 75,
            detail: ImageDetail::Auto,
        }
    }
}

impl Vision {
    /// Whether there is a model that describes. A server on the site may have one only, without a name.
    pub fn describes(&self) -> bool {
        let Provider { vendor, model, base_url, .. } = &self.model;
        *vendor == Vendor::Mock || !model.is_empty() || !base_url.is_empty()
    }
}
