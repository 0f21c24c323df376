//! The tables to settings. What one value must be on its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::settings::{Avatar, KEYS, Provider, Rest, Sandbox};
use crate::app::config::file::Value;
use crate::app::config::read::{SECOND, watermark};
use crate::app::config::section::Section;
use crate::app::config::settings::Word;
use crate::app::config::talk::read::{base_url, json, language, prompt};

pub fn avatars(root: &Section, into: &mut BTreeMap<String, Avatar>) {
    for (name, section) in root.table("avatar").tables() {
        into.insert(name, avatar(&section));
    }
}

fn avatar(section: &Section) -> Avatar {
    let mut avatar = Avatar::default();
    if !section.has("provider") {
        section.problem("provider", "write \"anam\", \"liveavatar\", \"livekit\" or \"websocket\"");
    }
    section.word("provider", &mut avatar.provider);
    section.parsed("base_url", &mut avatar.base_url, base_url);
    section.secret("api_key", &mut avatar.api_key);
    section.text("avatar_id", &mut avatar.avatar_id);
    persona(section, &mut avatar);
    section.word("video_quality", &mut avatar.video_quality);
    section.word("video_encoding", &mut avatar.video_encoding);
    section.whole("width", &mut avatar.width, 0..=4096);
    section.whole("height", &mut avatar.height, 0..=4096);
    section.whole("fps", &mut avatar.fps, 0..=60);
    sandbox(section, &mut avatar.sandbox);
    room(section, &mut avatar);
    section.word("protocol", &mut avatar.protocol);
    section.parsed("image", &mut avatar.image, |text| Ok(PathBuf::from(text)));
    section.duration("buffer_seconds", &mut avatar.buffer, SECOND, 0.0..=5.0);
    section.duration("max_session_s", &mut avatar.max_session, SECOND, 0.0..=86_400.0);
    section.whole("budget_minutes", &mut avatar.budget_minutes, 0..=1_000_000);
    section.whole("max_sessions", &mut avatar.max_sessions, 0..=10_000);
    section.duration("idle_release_s", &mut avatar.idle_release, SECOND, 0.0..=86_400.0);
    section.number("usd_per_minute", &mut avatar.usd_per_minute, 0.0..=1_000.0);
    section.whole("reconnects", &mut avatar.reconnects, 0..=20);
    section.words("transforms", &mut avatar.transforms);
    section.parsed("watermark", &mut avatar.watermark, watermark);
    for (key, providers) in KEYS {
        if section.has(key) && !providers.contains(&avatar.provider) {
            let known: Vec<String> = providers.iter().map(|known| format!("{:?}", known.word())).collect();
            section.problem(key, format!("is for provider = {}", known.join(" or ")));
        }
    }
    avatar
}

fn persona(section: &Section, avatar: &mut Avatar) {
    section.word("mode", &mut avatar.mode);
    section.text("persona_id", &mut avatar.persona_id);
    section.text("avatar_model", &mut avatar.avatar_model);
    section.text("voice_id", &mut avatar.voice_id);
    section.text("llm_id", &mut avatar.llm_id);
    section.parsed("language", &mut avatar.language, language);
    section.parsed("system_prompt", &mut avatar.system_prompt, prompt);
    section.flag("replay", &mut avatar.replay);
}

fn sandbox(section: &Section, into: &mut Sandbox) {
    match section.raw("sandbox").map(|node| &node.value) {
        Some(Value::Flag(sandbox)) => *into = if *sandbox { Sandbox::True } else { Sandbox::False },
        Some(Value::Text(text)) if text == "auto" => *into = Sandbox::Auto,
        Some(_) => section.wrong_at("sandbox", "true, false or \"auto\""),
        None => {}
    }
}

fn room(section: &Section, avatar: &mut Avatar) {
    section.text("vendor", &mut avatar.vendor);
    section.parsed("livekit_url", &mut avatar.livekit_url, base_url);
    section.secret("livekit_api_key", &mut avatar.livekit_api_key);
    section.secret("livekit_api_secret", &mut avatar.livekit_api_secret);
    avatar.variables = section.table("variables").texts();
    section.text("identity", &mut avatar.identity);
    section.whole("rate", &mut avatar.rate, 0..=48_000);
    avatar.start = rest(&section.table("start"));
    avatar.stop = rest(&section.table("stop"));
    let rates = [0, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];
    if !rates.contains(&avatar.rate) {
        section.problem("rate", "write 16000, 24000 or 48000; 0 for what the provider is known to take");
    }
}

fn rest(section: &Section) -> Rest {
    let mut rest = Rest { method: "POST".into(), ..Rest::default() };
    section.parsed("method", &mut rest.method, |text| {
        let method = text.to_ascii_uppercase();
        let known = ["GET", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str());
        if known { Ok(method) } else { Err(format!("{text:?} is none of GET, POST, PUT, PATCH, DELETE")) }
    });
    section.parsed("url", &mut rest.url, base_url);
    rest.headers = section.table("headers").secrets();
    if let Some(node) = section.raw("body") {
        match json(node) {
            serde_json::Value::Object(body) => rest.body = body,
            _ => section.wrong_at("body", "a table"),
        }
    }
    section.parsed("session", &mut rest.session, |text| {
        let good = text.is_empty() || text.starts_with('/');
        if good { Ok(text.to_owned()) } else { Err("a JSON pointer: \"/session_id\"".to_owned()) }
    });
    if rest.url.is_empty() { Rest::default() } else { rest }
}

/// The environment variable a vendor's own tools read.
pub fn usual_variable(provider: Provider) -> Option<&'static str> {
    match provider {
        Provider::Anam => Some("ANAM_API_KEY"),
        Provider::LiveAvatar => Some("LIVEAVATAR_API_KEY"),
        Provider::LiveKit | Provider::WebSocket => None,
    }
}

/// The longest a session may last that is to be ended before its provider does.
pub const LEAST_SESSION: Duration = Duration::from_secs(30);
