//! Driver (rooms' names, the time of day). Avatars whose worker joins a LiveKit room of ours: a vendor's REST API as data,
//! and one way to speak to all of them.
//!
//! ```text
//! Room::open ─ start ─▶ vendor ─ its worker joins ─▶ room ◀─ RoomLink ─ RoomSession
//! ```
//! The server must be one the vendor's cloud can reach; this box is none. How a room works belongs to [`super::livekit`].
#![expect(clippy::disallowed_methods, reason = "tokens bear the time of day")]

pub mod rest;
pub mod session;
pub mod template;
pub mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;

use self::rest::Rest;
use self::session::RoomSession;
use self::template::{Template, Values};
use super::livekit::token::{Grant, access_token};
use super::{Limits, Provider, Session, Terms};
use crate::remote::address;
use crate::remote::http::Http;

/// What a template may ask for beside its own variables.
pub const NAMES: &[&str] = &[
    "base",
    "api_key",
    "avatar_id",
    "livekit_url",
    "avatar_token",
    "listener_token",
    "room",
    "identity",
    "avatar_identity",
    "rate",
    "max_session_s",
    "call",
    "language",
];
/// Who we are in a room.
const IDENTITY: &str = "eyeline";
/// The rate of a template that says none.
const RATE: u32 = 24_000;

/// One avatar in rooms, as configured.
#[derive(Clone)]
pub struct RoomSettings {
    /// The LiveKit server: `wss://…`.
    pub livekit_url: String,
    pub livekit_key: String,
    pub livekit_secret: String,
    pub template: Template,
    /// Instead of the vendor's own root.
    pub base_url: String,
    pub api_key: String,
    pub avatar_id: String,
    /// Of the template, beside [`NAMES`].
    pub variables: BTreeMap<String, String>,
    /// Instead of the template's; empty and 0: the template's.
    pub identity: String,
    pub rate: u32,
    pub longest: Option<Duration>,
    /// Until the worker must be in the room with a picture.
    pub ready_within: Duration,
    /// After an interruption the worker is believed to be silent so long afterwards.
    pub clear_within: Duration,
    /// For one request.
    pub timeout: Duration,
}

impl RoomSettings {
    pub fn new(livekit_url: &str, livekit_key: &str, livekit_secret: &str, template: Template) -> Self {
        RoomSettings {
            livekit_url: livekit_url.to_owned(),
            livekit_key: livekit_key.to_owned(),
            livekit_secret: livekit_secret.to_owned(),
            template,
            base_url: String::new(),
            api_key: String::new(),
            avatar_id: String::new(),
            variables: BTreeMap::new(),
            identity: String::new(),
            rate: 0,
            longest: None,
            ready_within: Duration::from_secs(30),
            clear_within: Duration::from_secs(2),
            timeout: Duration::from_secs(15),
        }
    }

    /// Under which identity the worker is in the room.
    fn avatar_identity(&self) -> &str {
        let named = [self.identity.as_str(), self.template.identity.as_str(), "avatar-agent"];
        named.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
    }

    /// Who takes the sound.
    fn listener(&self) -> &str {
        if self.template.listener.is_empty() { self.avatar_identity() } else { &self.template.listener }
    }

    fn limits(&self) -> Limits {
        let known = [self.rate, self.template.rate, RATE].into_iter().find(|rate| *rate > 0);
        Limits {
            rate: known.unwrap_or(RATE),
            first_piece: Duration::from_millis(100),
            next_piece: Duration::from_millis(200),
            longest: self.longest,
            ready_within: self.ready_within,
            ..Limits::default()
        }
    }

    fn token(&self, grant: &Grant<'_>) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let lives = self.longest.unwrap_or(Duration::from_secs(6 * 3_600)) + Duration::from_secs(600);
        access_token(&self.livekit_key, &self.livekit_secret, grant, now, lives)
    }

    /// What stands for the names in requests about a room.
    fn values(&self, room: &str, terms: Option<&Terms>) -> Values {
        let mut values = Values::default();
        for (name, value) in &self.variables {
            values.set(name, value);
        }
        // What a template may leave out.
        for name in ["image", "emotion", "persona_slug"] {
            if values.of(name).is_empty() {
                values.set(name, "");
            }
        }
        let base = if self.base_url.is_empty() { &self.template.base } else { &self.base_url };
        let avatar = self.avatar_identity();
        let worker =
            |identity| self.token(&Grant::Join { room, identity, name: identity, on_behalf: Some(IDENTITY) });
        let longest = self.longest.unwrap_or(Duration::from_secs(600)).as_secs().to_string();
        for (name, value) in [
            ("base", base.trim_end_matches('/')),
            ("api_key", &self.api_key),
            ("avatar_id", &self.avatar_id),
            ("livekit_url", &self.livekit_url),
            ("avatar_token", &worker(avatar)),
            ("listener_token", &worker(self.listener())),
            ("room", room),
            ("identity", IDENTITY),
            ("avatar_identity", avatar),
            ("rate", &self.limits().rate.to_string()),
            ("max_session_s", &longest),
            ("call", terms.map_or("", |terms| &terms.call)),
            ("language", terms.map_or("", |terms| &terms.language)),
        ] {
            values.set(name, value);
        }
        values
    }
}

impl fmt::Debug for RoomSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomSettings({} at {})", self.avatar_identity(), self.livekit_url)
    }
}

/// A vendor's avatars in rooms of ours.
#[derive(Clone)]
pub struct Room {
    settings: Arc<RoomSettings>,
    http: Http,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({:?})", self.settings)
    }
}

impl Room {
    /// # Errors
    /// What of the settings is missing or cannot be used, in words.
    pub fn new(settings: RoomSettings, http: &Http) -> Result<Room, String> {
        for (name, value) in [
            ("livekit_url", &settings.livekit_url),
            ("livekit_api_key", &settings.livekit_key),
            ("livekit_api_secret", &settings.livekit_secret),
        ] {
            if value.is_empty() {
                return Err(format!("{name} is missing"));
            }
        }
        address::root(&settings.livekit_url, "").map_err(|error| error.to_string())?;
        settings.template.check(&settings.values("room", None))?;
        Ok(Room { settings: Arc::new(settings), http: http.clone() })
    }

    fn rest(&self, room: &str, terms: Option<&Terms>) -> Rest {
        Rest {
            http: self.http.clone(),
            template: self.settings.template.clone(),
            values: self.settings.values(room, terms),
            secrets: vec![self.settings.api_key.clone()],
            livekit_url: self.settings.livekit_url.clone(),
            admin: self.settings.token(&Grant::Administer { room }),
            room: room.to_owned(),
            timeout: self.settings.timeout,
        }
    }
}

impl Provider for Room {
    fn open(&self, terms: Terms) -> Box<dyn Session> {
        let short: String =
            terms.call.chars().filter(|letter| letter.is_ascii_alphanumeric()).take(16).collect();
        let room = format!("eyeline-{short}-{:08x}", rand::random::<u32>());
        let own = Grant::Speak { room: &room, identity: IDENTITY, name: "Eyeline" };
        let token = self.settings.token(&own);
        let rest = self.rest(&room, Some(&terms));
        Box::new(RoomSession::open(&self.settings, self.settings.limits(), rest, &token, &terms))
    }

    /// A session's handle is `room/id of the vendor`, of one that was only asked for `room/`.
    fn reap<'a>(&'a self, session: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Some((room, id)) = session.split_once('/') else { return true };
            self.rest(room, None).stop((!id.is_empty()).then_some(id)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RoomSettings {
        let template = Template::known("bey").expect("bey");
        RoomSettings {
            api_key: "sk-1".to_owned(),
            ..RoomSettings::new("wss://lk.example", "key", "secret", template)
        }
    }

    #[test]
    fn what_is_missing_is_said_and_keys_are_not() {
        let room = Room::new(settings(), &Http::new()).expect("complete");
        let told = format!("{room:?} {:?} {:?}", room.settings, room.settings.values("r", None));
        assert!(!told.contains("sk-1") && !told.contains("secret"), "{told}");
        let without = RoomSettings { livekit_secret: String::new(), ..settings() };
        assert_eq!(Room::new(without, &Http::new()).expect_err("missing"), "livekit_api_secret is missing");
        let keyless = RoomSettings { api_key: String::new(), ..settings() };
        assert_eq!(Room::new(keyless, &Http::new()).expect_err("missing"), "api_key is missing");
        let far = RoomSettings { livekit_url: "ws://93.184.216.34".to_owned(), ..settings() };
        assert!(Room::new(far, &Http::new()).is_err(), "in the clear to far away");
        let rate = RoomSettings { rate: 16_000, identity: "own".to_owned(), ..settings() };
        assert_eq!((rate.limits().rate, rate.listener()), (16_000, "own"));
    }
}
