//! Driver (the journal). The faces agents can wear: from `[avatar.NAME]` to providers whose sessions are counted, and the
//! task that ends sessions nobody saw end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::app::assemble;
use crate::app::config::avatar::read::usual_variable;
use crate::app::config::avatar::settings::{self as config, Avatar};
use crate::app::config::settings::speech::Speaking;
use crate::app::config::settings::{Agent, Config};
use crate::avatar::Provider;
use crate::avatar::anam::session::Anam;
use crate::avatar::anam::{self, AnamSettings};
use crate::avatar::journal::{Entry, Journal};
use crate::avatar::ledger::{Allowance, Ledger, LedgerFigures};
use crate::avatar::liveavatar::{LiveAvatar, LiveAvatarSettings, Sandbox, VideoEncoding, VideoQuality};
use crate::avatar::metered::Metered;
use crate::avatar::room::template::{Step, Template};
use crate::avatar::room::{Room, RoomSettings};
use crate::avatar::websocket::{Protocol, WebSocketAvatar, WebSocketSettings};
use crate::base::queue::{self, Fifo, Receiver};
use crate::base::stop::Outcome;
use crate::engine::face::FaceSettings;
use crate::media::access_unit::VideoCodec;
use crate::media::frame::Size;
use crate::remote::http::Http;

/// Sessions that wait to be ended.
const DEBTS: usize = 256;
/// Pauses between attempts to end one; after the last it is left to its provider, and to the next start.
const PATIENCE: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
];
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Every configured avatar; cloning shares their books.
#[derive(Clone, Default)]
pub struct Faces {
    avatars: BTreeMap<String, Metered>,
    /// What is missing, in words.
    problems: Vec<String>,
}

/// Ends sessions nobody saw end, an earlier run's first.
pub struct Reaper {
    avatars: BTreeMap<String, Metered>,
    debts: Receiver<Entry, Fifo>,
    waiting: VecDeque<Owed>,
}

struct Owed {
    entry: Entry,
    tries: usize,
    due: Instant,
}

impl Faces {
    /// Nothing is asked of any provider yet.
    pub fn new(config: &Config) -> (Faces, Option<Reaper>) {
        if config.avatars.is_empty() {
            return (Faces::default(), None);
        }
        let (journal, left) = Journal::open(&config.appliance.data_dir.join("avatars.journal"));
        let (journal, http) = (Arc::new(journal), Http::new());
        let (debts, owed) = queue::queue(Fifo { depth: DEBTS });
        let mut faces = Faces::default();
        for (name, avatar) in &config.avatars {
            match provider(avatar, &http, is_greeted_for(config, name)) {
                Ok(provider) => {
                    let ledger = Ledger::new(Allowance {
                        minutes_a_day: avatar.budget_minutes,
                        sessions: avatar.max_sessions,
                        usd_per_minute: avatar.usd_per_minute,
                    });
                    let metered = Metered::new(name, provider, ledger, journal.clone(), debts.clone());
                    faces.avatars.insert(name.clone(), metered);
                }
                Err(why) => faces.problems.push(format!("avatar {name} is not used: {why}")),
            }
        }
        for (name, session) in left.iter().filter(|(name, _)| !faces.avatars.contains_key(name)) {
            faces.problems.push(format!(
                "avatar {name} is not configured any more: its session {session} of an earlier run is left to its provider"
            ));
            journal.closed(name, session);
        }
        let known = left.into_iter().filter(|(name, _)| faces.avatars.contains_key(name));
        let waiting = known.map(|entry| Owed { entry, tries: 0, due: Instant::now() }).collect();
        let reaper = Reaper { avatars: faces.avatars.clone(), debts: owed, waiting };
        (faces, Some(reaper))
    }

    /// The face of an agent; `None`: it has none, or it cannot be had.
    pub fn of(&self, config: &Config, agent: &Speaking) -> Option<Arc<FaceSettings>> {
        let metered = self.avatars.get(&agent.avatar)?;
        let avatar = config.avatars.get(&agent.avatar)?;
        let most = |own: u32, other: usize| if own == 0 { other } else { other.min(own as usize) };
        let video = config.video.max_size;
        let spoken = if agent.language == "auto" { avatar.language.clone() } else { agent.language.clone() };
        let mut face = FaceSettings {
            language: spoken,
            most: Size::new(most(avatar.width, video.width), most(avatar.height, video.height)),
            fps: if avatar.fps == 0 { u32::MAX } else { avatar.fps },
            retries: avatar.reconnects,
            buffer: avatar.buffer,
            idle_release: Some(avatar.idle_release).filter(|idle| !idle.is_zero()),
            ..FaceSettings::new(&agent.avatar, Arc::new(metered.clone()))
        };
        // Both were checked when they were read.
        face.transforms = assemble::transforms(&avatar.transforms).unwrap_or_default();
        face.overlay.watermark = assemble::watermark(&config.overlay, &avatar.watermark).ok().flatten();
        Some(Arc::new(face))
    }

    /// Dollars for a minute; 0: not known.
    pub fn price(&self, name: &str) -> f64 {
        self.avatars.get(name).map_or(0.0, Metered::price)
    }

    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// What each came to so far, by name.
    pub fn figures(&self) -> Vec<(String, LedgerFigures)> {
        self.avatars.iter().map(|(name, metered)| (name.clone(), metered.figures())).collect()
    }
}

impl Reaper {
    /// Runs until it is dropped.
    pub async fn run(mut self) -> Outcome {
        loop {
            let due = self.waiting.iter().map(|owed| owed.due).min();
            tokio::select! {
                entry = self.debts.recv_while_open() => {
                    self.waiting.push_back(Owed { entry, tries: 0, due: Instant::now() });
                }
                () = until(due) => self.settle().await,
            }
        }
    }

    /// Ends those that are due.
    async fn settle(&mut self) {
        let now = Instant::now();
        for _ in 0..self.waiting.len() {
            let Some(owed) = self.waiting.pop_front() else { return };
            if owed.due > now {
                self.waiting.push_back(owed);
                continue;
            }
            let (avatar, session) = &owed.entry;
            let Some(metered) = self.avatars.get(avatar) else { continue };
            let over = tokio::time::timeout(ATTEMPT, metered.reap_left(session)).await.unwrap_or(false);
            match (over, PATIENCE.get(owed.tries)) {
                (true, _) => tracing::info!(%avatar, %session, "a session nobody had ended is over"),
                (false, Some(pause)) => {
                    let due = Instant::now() + *pause;
                    self.waiting.push_back(Owed { tries: owed.tries + 1, due, ..owed });
                }
                (false, None) => {
                    tracing::warn!(%avatar, %session, "a session cannot be ended: it is left to its provider");
                }
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The key as written, else the vendor's usual variable; that one is not shown to whoever listens on the way.
fn key(avatar: &Avatar) -> String {
    let plain = avatar.base_url.starts_with("http://") || avatar.base_url.starts_with("ws://");
    let usual = usual_variable(avatar.provider).filter(|_| avatar.api_key.is_empty() && !plain);
    match usual {
        Some(name) => std::env::var(name).unwrap_or_default(),
        None => avatar.api_key.expose().to_owned(),
    }
}

/// Whether an agent that is this avatar says something of ours first: then the avatar need not.
fn is_greeted_for(config: &Config, name: &str) -> bool {
    config.agents.values().any(|agent| match agent {
        Agent::Avatar(own) => own.avatar == name && !(own.greeting.is_empty() && own.disclosure.is_empty()),
        Agent::Mirror { .. } | Agent::Record { .. } | Agent::Pipeline(_) | Agent::Realtime(_) => false,
    })
}

/// Who makes the face; `greeted`: what it says first is ours.
fn provider(avatar: &Avatar, http: &Http, greeted: bool) -> Result<Arc<dyn Provider>, String> {
    match avatar.provider {
        config::Provider::WebSocket => websocket(avatar, http),
        config::Provider::LiveAvatar => liveavatar(avatar, http),
        config::Provider::LiveKit => room(avatar, http),
        config::Provider::Anam => Ok(Arc::new(Anam::new(http, anam(avatar, greeted)))),
    }
}

fn anam(avatar: &Avatar, greeted: bool) -> AnamSettings {
    AnamSettings {
        api_key: key(avatar),
        base_url: avatar.base_url.clone(),
        persona_id: avatar.persona_id.clone(),
        avatar_id: avatar.avatar_id.clone(),
        avatar_model: avatar.avatar_model.clone(),
        voice_id: avatar.voice_id.clone(),
        llm_id: avatar.llm_id.clone(),
        language: avatar.language.clone(),
        system_prompt: avatar.system_prompt.clone(),
        mode: match avatar.mode {
            config::Mode::Passthrough => anam::Mode::Passthrough,
            config::Mode::Microphone => anam::Mode::Microphone,
        },
        quality: match avatar.video_quality {
            config::VideoQuality::VeryHigh | config::VideoQuality::High => anam::Quality::High,
            config::VideoQuality::Medium | config::VideoQuality::Low => anam::Quality::Auto,
        },
        codec: match avatar.video_encoding {
            config::VideoEncoding::Auto => None,
            config::VideoEncoding::H264 => Some(VideoCodec::H264),
            config::VideoEncoding::Vp8 => Some(VideoCodec::Vp8),
        },
        skip_greeting: greeted,
        replay: avatar.replay,
        longest: Some(avatar.max_session).filter(|longest| !longest.is_zero()),
        ..AnamSettings::default()
    }
}

/// A worker in a room: of a vendor known by name, or as its requests are configured.
fn room(avatar: &Avatar, http: &Http) -> Result<Arc<dyn Provider>, String> {
    let template = if avatar.vendor.is_empty() {
        let stop = Some(step(&avatar.stop)).filter(|step| !step.url.is_empty());
        Template { start: vec![step(&avatar.start)], stop, ..Template::default() }
    } else {
        Template::known(&avatar.vendor)?
    };
    let [key_id, secret] =
        [&avatar.livekit_api_key, &avatar.livekit_api_secret].map(|secret| secret.expose());
    let settings = RoomSettings {
        base_url: avatar.base_url.clone(),
        api_key: key(avatar),
        avatar_id: avatar.avatar_id.clone(),
        variables: avatar.variables.clone(),
        identity: avatar.identity.clone(),
        rate: avatar.rate,
        longest: Some(avatar.max_session).filter(|longest| !longest.is_zero()),
        ..RoomSettings::new(&avatar.livekit_url, key_id, secret, template)
    };
    Ok(Arc::new(Room::new(settings, http)?))
}

fn step(rest: &config::Rest) -> Step {
    let body = if rest.body.is_empty() { Value::Null } else { Value::Object(rest.body.clone()) };
    Step {
        method: rest.method.clone(),
        url: rest.url.clone(),
        headers: rest.headers.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect(),
        body,
        session: rest.session.clone(),
        ..Step::default()
    }
}

/// A vendor's cloud.
fn liveavatar(avatar: &Avatar, http: &Http) -> Result<Arc<dyn Provider>, String> {
    let settings = LiveAvatarSettings {
        api_key: key(avatar),
        base_url: avatar.base_url.clone(),
        avatar_id: avatar.avatar_id.clone(),
        sandbox: match avatar.sandbox {
            config::Sandbox::Auto => Sandbox::Auto,
            config::Sandbox::True => Sandbox::True,
            config::Sandbox::False => Sandbox::False,
        },
        video_quality: match avatar.video_quality {
            config::VideoQuality::VeryHigh => VideoQuality::VeryHigh,
            config::VideoQuality::High => VideoQuality::High,
            config::VideoQuality::Medium => VideoQuality::Medium,
            config::VideoQuality::Low => VideoQuality::Low,
        },
        video_encoding: match avatar.video_encoding {
            config::VideoEncoding::Auto => VideoEncoding::Auto,
            config::VideoEncoding::H264 => VideoEncoding::H264,
            config::VideoEncoding::Vp8 => VideoEncoding::Vp8,
        },
        longest: Some(avatar.max_session).filter(|longest| !longest.is_zero()),
        ..LiveAvatarSettings::default()
    };
    let made = LiveAvatar::new(settings, http).map_err(|failure| failure.to_string())?;
    Ok(Arc::new(made))
}

/// A server of avatars on the local network.
fn websocket(avatar: &Avatar, http: &Http) -> Result<Arc<dyn Provider>, String> {
    let or = |own: u32, usual: u32| if own == 0 { usual } else { own };
    let usual = WebSocketSettings::default();
    let image = match avatar.image.as_os_str().is_empty() {
        true => Vec::new(),
        false => std::fs::read(&avatar.image).map_err(|why| format!("{}: {why}", avatar.image.display()))?,
    };
    let settings = WebSocketSettings {
        protocol: match avatar.protocol {
            config::Protocol::Timed => Protocol::Timed,
            config::Protocol::Raw => Protocol::Raw,
        },
        url: avatar.base_url.clone(),
        api_key: key(avatar),
        avatar_id: avatar.avatar_id.clone(),
        image: image.into(),
        rate: or(avatar.rate, usual.rate),
        size: Size::new(or(avatar.width, 1280) as usize, or(avatar.height, 720) as usize),
        fps: or(avatar.fps, usual.fps),
        longest: Some(avatar.max_session).filter(|longest| !longest.is_zero()),
        ..usual
    };
    let made = WebSocketAvatar::new(settings, http).map_err(|failure| failure.to_string())?;
    Ok(Arc::new(made))
}
