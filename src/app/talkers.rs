//! Driver. The agents that talk: from the sections of the configuration to what each call of them needs. Their
//! providers, and the networks that listen, are shared by all calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::app::config::decisions::DecisionKind;
use crate::app::config::settings::speech::{
    Context, ContextRole, Endpointing, ImageDetail, ImageFormat, Prices, Provider, Resize, Service, Sight,
    Speaking, Talk, TurnDetection, Vendor, Vision,
};
use crate::app::config::settings::{Agent as AgentConfig, Config, Route};
use crate::app::config::talk::read::{milliseconds, usual_variable};
use crate::app::faces::Faces;
use crate::app::gallery::Gallery;
use crate::app::tooling::Tooling;
use crate::base::time::Clock;
use crate::codec::still::encode::{StillFormat, StillSettings};
use crate::codec::still::fit::{Fit, Strategy};
use crate::engine::face::Turnkey;
use crate::engine::sight::SightSettings;
use crate::engine::sources::Sources;
use crate::engine::talk::realtime::Realtime;
use crate::engine::talk::seeing::{Describing, SeeingSettings};
use crate::engine::talk::{Agent, Mind, Pipeline};
use crate::inference::store::{ModelFile, Store};
use crate::talk::context::ContextSettings;
use crate::talk::conversation::ConversationSettings;
use crate::talk::hear::{EndpointingMode, HearingSettings, Turns};
use crate::talk::link::{DecisionSettings, Decisions, Http, LinkSettings, Models, Transcribers, Voices};
use crate::talk::message::{self, Detail, Endpoint, Message, Part, Role};
use crate::talk::realtime::{RealtimeSettings, Turns as TurnsOf};
use crate::talk::sight::Mode;
use crate::talk::sight::budget::BudgetSettings;
use crate::talk::sight::describe::DescribeSettings;
use crate::talk::sight::sampler::SamplerSettings;
use crate::talk::sight::watch::WatchSettings;
use crate::talk::tools;
use crate::worker::ears::{Ears, EarsSettings};

/// The models that listen, by their names in the manifest.
const VOICE_MODEL: &str = "silero-vad";
const TURN_MODEL: &str = "smart-turn-v3.2";
/// A realtime provider ends turns; whether it is interrupted is decided here.
const THEIRS: TurnsOf =
    TurnsOf::Theirs { silence_ms: None, prefix_ms: None, threshold: None, interrupts: false };
/// Hz until a call says otherwise.
const RATE: u32 = 8_000;

/// How an agent looks, and the language it speaks; empty: as it is written.
type Way = (Sight, String);

/// Every agent that talks, ready for calls, and the model that looks for those who cannot.
#[derive(Default)]
pub struct Talkers {
    /// By name, and once for each way its routes have it look, and each language.
    agents: BTreeMap<String, Vec<(Way, Arc<Agent>)>>,
    gallery: Gallery,
    describing: Option<Describing>,
    clock: Option<Clock>,
    ears: Option<Ears>,
    tooling: Tooling,
    faces: Faces,
    judges_turns: bool,
    /// What is missing, in words.
    problems: Vec<String>,
}

impl Talkers {
    /// Starts what the configured agents need. What cannot be had costs only itself.
    pub fn start(config: &Config, clock: Clock, gallery: Gallery, sources: Sources, faces: Faces) -> Self {
        let http = Http::new();
        let mut talkers = Talkers {
            describing: describing(config, &http),
            clock: Some(clock),
            gallery,
            tooling: Tooling::new(config, sources),
            faces,
            ..Talkers::default()
        };
        let speaking =
            |agent: &AgentConfig| !matches!(agent, AgentConfig::Mirror { .. } | AgentConfig::Record { .. });
        if !config.agents.values().any(speaking) {
            return talkers;
        }
        talkers.ears = talkers.listen(config);
        for (name, agent) in &config.agents {
            let of_route =
                |route: &Route| Some(route.sight.unwrap_or(agent.sight())).filter(|_| route.agent == *name);
            let mut sights = vec![agent.sight()];
            sights.extend(config.routes.iter().filter_map(of_route));
            let of_routes = config.routes.iter().filter(|route| route.agent == *name);
            let languages = of_routes.map(|route| route.language.as_str()).chain(agent.languages());
            let languages: BTreeSet<&str> = languages.chain([""]).collect();
            for (sight, language) in
                sights.into_iter().flat_map(|sight| languages.iter().map(move |language| (sight, *language)))
            {
                if talkers.agent_named(name, sight, language).is_some() {
                    continue;
                }
                let looking = |settings: &Speaking| Speaking { sight, ..settings.speaking(language) };
                let made = match agent {
                    AgentConfig::Pipeline(own) => talkers.agent(config, clock, &http, name, &looking(own)),
                    AgentConfig::Realtime(own) => talkers.realtime(config, clock, &http, name, &looking(own)),
                    AgentConfig::Avatar(own) => talkers.avatar(config, clock, &http, name, &looking(own)),
                    AgentConfig::Mirror { .. } | AgentConfig::Record { .. } => break,
                };
                let blind = made.seeing.blind.as_ref();
                talkers.problems.extend(blind.map(|why| format!("agent {name} gets no pictures: {why}")));
                talkers
                    .agents
                    .entry(name.clone())
                    .or_default()
                    .push(((sight, language.to_owned()), Arc::new(made)));
            }
        }
        talkers
    }

    /// The agent of that name, looking that way, in that language; empty: as it is written.
    pub fn agent_named(&self, name: &str, sight: Sight, language: &str) -> Option<&Arc<Agent>> {
        let ways = self.agents.get(name)?;
        let found = ways.iter().find(|((own, spoken), _)| *own == sight && spoken == language);
        found.map(|(_, agent)| agent)
    }

    /// How calls of an agent that does not talk are looked at. `None`: nobody would look.
    pub fn watch(&self, config: &Config, sight: Sight) -> Option<Arc<SeeingSettings>> {
        Some(self.seeing(config, self.clock?, sight, None)).filter(SeeingSettings::looks).map(Arc::new)
    }

    /// `model`: the agent's own, where it has one.
    fn seeing(
        &self,
        config: &Config,
        clock: Clock,
        looks: Sight,
        model: Option<&Provider>,
    ) -> SeeingSettings {
        let mode = match looks {
            Sight::Off => Mode::Off,
            Sight::Turn => Mode::Turn,
            Sight::Live => Mode::Live,
            Sight::Continuous => Mode::Continuous,
        };
        let sees = model.is_some_and(Provider::can_see);
        let blind = model.filter(|_| !sees && matches!(mode, Mode::Turn | Mode::Live));
        SeeingSettings {
            mode,
            sight: sight(&config.vision, clock),
            sees,
            blind: blind.map(|model| format!("{:?} is not known to see", model.model)),
            describing: self.describing.clone(),
            aside: false,
            budget: budget(&config.vision, model.map_or_else(Prices::default, |model| model.prices)),
        }
    }

    pub fn sources(&self) -> &Sources {
        &self.tooling.sources
    }

    pub fn faces(&self) -> &Faces {
        &self.faces
    }

    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The networks that tell speech and ends of turns, where they are installed.
    fn listen(&mut self, config: &Config) -> Option<Ears> {
        let mut found = |name: &str| match model_file(config, name) {
            Ok(file) => Some(file),
            Err(why) => {
                self.problems.push(format!("{name} is not used: {why}"));
                None
            }
        };
        let turn = match config.talk.turn_detection {
            TurnDetection::Auto | TurnDetection::SmartTurn => found(TURN_MODEL),
            TurnDetection::Vad | TurnDetection::Manual => None,
        };
        let voice = found(VOICE_MODEL)?;
        let settings =
            EarsSettings { onnxruntime: config.models.onnxruntime.clone(), ..EarsSettings::new(voice, turn) };
        let judges_turns = settings.turn.is_some();
        match Ears::start(settings) {
            Ok(ears) => {
                self.judges_turns = judges_turns;
                Some(ears)
            }
            Err(error) => {
                self.problems.push(format!("speech is told by its loudness alone: {error}"));
                None
            }
        }
    }

    fn agent(&self, config: &Config, clock: Clock, http: &Http, name: &str, settings: &Speaking) -> Agent {
        let list = |service: Service, names: &[String]| -> Vec<Endpoint> {
            let known = config.providers.of(service);
            names.iter().filter_map(|name| Some(endpoint(name, known.get(name)?, settings))).collect()
        };
        let links = LinkSettings::default();
        let mut voices = list(Service::Speech, &settings.tts);
        // When no other voice answers, the box still speaks.
        if !voices.iter().any(|voice| voice.vendor == message::Vendor::Espeak) {
            voices.push(Endpoint {
                language: language(&settings.language),
                ..Endpoint::new("espeak", message::Vendor::Espeak)
            });
        }
        let model = settings.llm.first().and_then(|name| config.providers.llm.get(name));
        let seeing = self.seeing(config, clock, settings.sight, model);
        let decisions = decisions(config, clock, http);
        Agent {
            name: name.to_owned(),
            conversation: ConversationSettings {
                decided_within: decisions.as_ref().map(Decisions::timeout),
                ..self.conversation(config, name, settings, &seeing)
            },
            hearing: hearing(&config.talk, self.judges_turns),
            seeing,
            mind: Mind::Pipeline(Pipeline {
                models: Arc::new(Models::new(http, list(Service::Language, &settings.llm), links)),
                transcribers: Arc::new(Transcribers::new(
                    http,
                    list(Service::Transcription, &settings.stt),
                    links,
                )),
                voices: Arc::new(Voices::new(http, voices, links)),
            }),
            face: self.faces.of(config, settings),
            ears: self.ears.clone(),
            decisions,
            tools: Arc::new(self.tooling.set(config, name, settings)),
        }
    }

    fn realtime(&self, config: &Config, clock: Clock, http: &Http, name: &str, settings: &Speaking) -> Agent {
        let provider = config.providers.realtime.get(&settings.realtime).cloned().unwrap_or_default();
        let seeing = self.seeing(config, clock, settings.sight, Some(&provider));
        // Gemini Live has nothing beside its talk.
        let aside = seeing.sees && provider.vendor == Vendor::Openai;
        let seeing = SeeingSettings { aside, ..seeing };
        let talks = self.conversation(config, name, settings, &seeing);
        let espeak = Endpoint {
            language: language(&settings.language),
            ..Endpoint::new("espeak", message::Vendor::Espeak)
        };
        let realtime = Realtime {
            endpoint: endpoint(&settings.realtime, &provider, settings),
            settings: RealtimeSettings {
                instructions: settings.instructions.clone(),
                tools: talks.context.tools.clone(),
                history: talks.pinned.clone(),
                sees: seeing.sees,
                keep_images: settings.keep_images as usize,
                turns: match config.talk.turn_detection {
                    TurnDetection::Manual => TurnsOf::Ours,
                    TurnDetection::Auto | TurnDetection::SmartTurn | TurnDetection::Vad => THEIRS,
                },
                ..RealtimeSettings::default()
            },
            voices: Arc::new(Voices::new(http, vec![espeak], LinkSettings::default())),
        };
        Agent {
            name: name.to_owned(),
            conversation: talks,
            hearing: hearing(&config.talk, self.judges_turns),
            seeing,
            mind: Mind::Realtime(Box::new(realtime)),
            face: self.faces.of(config, settings),
            ears: self.ears.clone(),
            // It answers by itself.
            decisions: None,
            tools: Arc::new(self.tooling.set(config, name, settings)),
        }
    }

    /// The provider of its face hears and answers.
    fn avatar(&self, config: &Config, clock: Clock, http: &Http, name: &str, settings: &Speaking) -> Agent {
        let seeing = self.seeing(config, clock, settings.sight, None);
        let espeak = Endpoint {
            language: language(&settings.language),
            ..Endpoint::new("espeak", message::Vendor::Espeak)
        };
        Agent {
            name: name.to_owned(),
            conversation: self.conversation(config, name, settings, &seeing),
            hearing: hearing(&config.talk, self.judges_turns),
            seeing,
            mind: Mind::Avatar(Turnkey {
                voices: Arc::new(Voices::new(http, vec![espeak], LinkSettings::default())),
            }),
            face: self.faces.of(config, settings),
            ears: self.ears.clone(),
            decisions: None,
            tools: Arc::new(self.tooling.set(config, name, settings)),
        }
    }

    fn conversation(
        &self,
        config: &Config,
        name: &str,
        agent: &Speaking,
        seeing: &SeeingSettings,
    ) -> ConversationSettings {
        let names = self.gallery.names(name);
        let looks = seeing.looks();
        let tools = self.tooling.specs(config, agent, looks).into_iter();
        let tools = tools.map(|tool| tools::naming(tool, &names));
        ConversationSettings {
            context: ContextSettings {
                instructions: agent.instructions.clone(),
                tools: tools.collect(),
                keep_images: agent.keep_images as usize,
                ..ContextSettings::default()
            },
            disclosure: agent.disclosure.clone(),
            greeting: agent.greeting.clone(),
            fallback: agent.fallback.clone(),
            preemptive: config.talk.preemptive,
            // Who is told in words what there is to see needs no pictures with its turns.
            sees: seeing.sees && matches!(seeing.mode, Mode::Turn | Mode::Live),
            pinned: pinned(&self.gallery, name, agent, seeing.sees),
            tool_steps: agent.max_tool_steps,
            ..ConversationSettings::default()
        }
    }
}

fn model_file(config: &Config, name: &str) -> Result<ModelFile, String> {
    let store = Store::open(config.models.dir.as_deref()).map_err(|error| error.to_string())?;
    store.file(name).map_err(|error| error.to_string())
}

fn language(configured: &str) -> String {
    if configured == "auto" { String::new() } else { configured.to_owned() }
}

fn endpoint(name: &str, provider: &Provider, agent: &Speaking) -> Endpoint {
    let vendor = match provider.vendor {
        Vendor::Openai => message::Vendor::OpenAi,
        Vendor::Gemini => message::Vendor::Gemini,
        Vendor::Anthropic => message::Vendor::Anthropic,
        Vendor::Deepgram => message::Vendor::Deepgram,
        Vendor::Espeak => message::Vendor::Espeak,
        Vendor::Mock => message::Vendor::Mock,
    };
    let or = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
    Endpoint {
        base_url: provider.base_url.clone(),
        model: provider.model.clone(),
        api_key: key(provider),
        voice: or(&agent.voice, &provider.voice),
        language: or(&provider.language, &language(&agent.language)),
        temperature: provider.temperature,
        options: provider.options.clone(),
        timeout_ms: milliseconds(provider.timeout),
        ..Endpoint::new(name, vendor)
    }
}

/// The key as written, else the vendor's usual variable; that one is not shown to whoever listens on the way.
fn key(provider: &Provider) -> String {
    let plain = provider.base_url.starts_with("http://") || provider.base_url.starts_with("ws://");
    let usual = usual_variable(provider.vendor).filter(|_| provider.api_key.is_empty() && !plain);
    match usual {
        Some(name) => std::env::var(name).unwrap_or_default(),
        None => provider.api_key.expose().to_owned(),
    }
}

/// The application that decides of turns, where there is one.
fn decisions(config: &Config, clock: Clock, http: &Http) -> Option<Decisions> {
    let decisions = &config.decisions;
    let url = decisions.url.clone().filter(|_| decisions.kinds.contains(&DecisionKind::TurnCompleted))?;
    let settings = DecisionSettings {
        url,
        secret: decisions.secret.expose().to_owned(),
        timeout: decisions.timeout,
        appliance: config.appliance.name.clone(),
        clock,
    };
    Some(Decisions::new(http, settings))
}

/// What an agent knows before the first word. One that cannot see gets the words alone.
fn pinned(gallery: &Gallery, name: &str, agent: &Speaking, sees: bool) -> Vec<Message> {
    let role = |role| match role {
        ContextRole::System => Role::System,
        ContextRole::User => Role::User,
        ContextRole::Assistant => Role::Assistant,
    };
    let message = |(table, context): (usize, &Context)| {
        let text = (!context.text.is_empty()).then(|| Part::Text(context.text.clone()));
        let image = gallery.context(name, table).filter(|_| sees).cloned().map(Part::Image);
        let parts: Vec<Part> = text.into_iter().chain(image).collect();
        (!parts.is_empty()).then(|| Message { parts, ..Message::text(role(context.role), "") })
    };
    agent.context.iter().enumerate().filter_map(message).collect()
}

/// `judges_turns`: there is a network that tells ends of turns.
fn hearing(talk: &Talk, judges_turns: bool) -> HearingSettings {
    let mut hearing = HearingSettings::new(RATE);
    hearing.voice.activation_threshold = talk.vad_threshold;
    hearing.voice.min_silence = talk.min_silence;
    hearing.endpointing.mode = match talk.endpointing {
        Endpointing::Fixed => EndpointingMode::Fixed,
        Endpointing::Dynamic => EndpointingMode::Dynamic,
    };
    hearing.endpointing.min_delay = talk.min_delay;
    hearing.endpointing.max_delay = talk.max_delay;
    (hearing.endpointing.turns, hearing.endpointing.model) = match talk.turn_detection {
        TurnDetection::Auto | TurnDetection::SmartTurn => (Turns::Automatic, judges_turns),
        TurnDetection::Vad => (Turns::Automatic, false),
        TurnDetection::Manual => (Turns::Manual, false),
    };
    (hearing.noise, hearing.agc) = (talk.noise, talk.agc);
    hearing.interruption.enabled = talk.interruptions;
    hearing.interruption.min_duration = talk.min_interruption;
    hearing.interruption.min_words = talk.min_words as usize;
    hearing.interruption.resume_false_interruption = talk.resume_false_interruption;
    hearing.interruption.false_interruption_timeout = talk.false_interruption_timeout;
    hearing
}

/// The model of `[vision]`, shared by all calls.
fn describing(config: &Config, http: &Http) -> Option<Describing> {
    let vision = &config.vision;
    if !vision.describes() {
        return None;
    }
    let endpoint = endpoint("vision", &vision.model, &Speaking::default());
    let links = LinkSettings { patience: vision.model.timeout, ..LinkSettings::default() };
    Some(Describing {
        models: Models::new(http, vec![endpoint], links),
        settings: DescribeSettings {
            prompt: vision.prompt.clone(),
            budget: budget(vision, vision.model.prices),
            ..DescribeSettings::default()
        },
        limit: vision.model.timeout,
    })
}

fn budget(vision: &Vision, prices: Prices) -> BudgetSettings {
    BudgetSettings {
        images: vision.budget_images.into(),
        tokens: vision.budget_tokens.into(),
        usd: vision.budget_usd,
        usd_per_million_in: prices.input,
        usd_per_million_out: prices.output,
        usd_per_million_image: prices.image,
        whole: false,
    }
}

/// How pictures of the box's own sources are shown: as those of callers are, but always as JPEG.
pub fn of_sources(config: &Config, clock: Clock) -> (StillSettings, Detail) {
    let SightSettings { still, detail, .. } = sight(&config.vision, clock);
    let quality = config.vision.quality.min(100) as u8;
    (StillSettings { format: StillFormat::Jpeg { quality }, ..still }, detail)
}

fn sight(vision: &Vision, clock: Clock) -> SightSettings {
    let strategy = match vision.resize {
        Resize::CenterAspectFit => Strategy::CenterAspectFit,
        Resize::CenterAspectCover => Strategy::CenterAspectCover,
        Resize::ScaleAspectFit => Strategy::ScaleAspectFit,
        Resize::ScaleAspectCover => Strategy::ScaleAspectCover,
        Resize::Skew => Strategy::Skew,
    };
    SightSettings {
        watch: WatchSettings {
            sampler: SamplerSettings {
                speaking_fps: vision.speaking_fps.into(),
                silent_fps: vision.silent_fps.into(),
                onset: vision.onset_frame,
            },
            ..WatchSettings::default()
        },
        still: StillSettings {
            fit: Fit { width: vision.max_width as usize, height: vision.max_height as usize, strategy },
            format: match vision.format {
                ImageFormat::Jpeg => StillFormat::Jpeg { quality: vision.quality.min(100) as u8 },
                ImageFormat::Png => StillFormat::Png,
            },
        },
        detail: match vision.detail {
            ImageDetail::Auto => Detail::Auto,
            ImageDetail::Low => Detail::Low,
            ImageDetail::High => Detail::High,
            ImageDetail::Omit => Detail::Omit,
        },
        clock,
        first_id: 1,
    }
}
