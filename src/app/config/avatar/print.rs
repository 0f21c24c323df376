//! The settings back to TOML: of each avatar the keys its provider knows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::settings::{Avatar, KEYS, Provider, Rest, Sandbox};
use crate::app::config::print::{Page, key, quoted};
use crate::app::config::settings::Word;
use crate::app::config::talk::print::toml_of;

const SECOND: Duration = Duration::from_secs(1);

pub fn avatars(page: &mut Page, avatars: &BTreeMap<String, Avatar>) {
    for (name, avatar) in avatars {
        page.section(format_args!("avatar.{}", key(name)));
        print(page, avatar);
        for (request, rest) in [("start", &avatar.start), ("stop", &avatar.stop)] {
            if !rest.url.is_empty() {
                page.section(format_args!("avatar.{}.{request}", key(name)));
                print_rest(page, rest);
            }
        }
    }
}

fn print(page: &mut Page, avatar: &Avatar) {
    page.word("provider", avatar.provider);
    page.text("base_url", &avatar.base_url);
    page.text("api_key", avatar.api_key.shown());
    page.text("avatar_id", &avatar.avatar_id);
    for (key, providers) in KEYS {
        if providers.contains(&avatar.provider) {
            print_own(page, key, avatar);
        }
    }
    page.raw("width", avatar.width);
    page.raw("height", avatar.height);
    page.raw("fps", avatar.fps);
    page.duration("buffer_seconds", avatar.buffer, SECOND);
    page.duration("max_session_s", avatar.max_session, SECOND);
    page.raw("budget_minutes", avatar.budget_minutes);
    page.raw("max_sessions", avatar.max_sessions);
    page.duration("idle_release_s", avatar.idle_release, SECOND);
    page.raw("usd_per_minute", avatar.usd_per_minute);
    page.raw("reconnects", avatar.reconnects);
    page.texts("transforms", avatar.transforms.iter().map(|transform| transform.word()));
    page.text("watermark", &avatar.watermark);
}

fn print_own(page: &mut Page, key: &str, avatar: &Avatar) {
    let texts = [
        ("persona_id", avatar.persona_id.as_str()),
        ("avatar_model", &avatar.avatar_model),
        ("voice_id", &avatar.voice_id),
        ("llm_id", &avatar.llm_id),
        ("language", &avatar.language),
        ("system_prompt", &avatar.system_prompt),
        ("vendor", &avatar.vendor),
        ("livekit_url", &avatar.livekit_url),
        ("livekit_api_key", avatar.livekit_api_key.shown()),
        ("livekit_api_secret", avatar.livekit_api_secret.shown()),
        ("identity", &avatar.identity),
    ];
    if let Some((_, text)) = texts.iter().find(|(name, _)| *name == key) {
        return page.text(key, text);
    }
    match key {
        "mode" => page.word(key, avatar.mode),
        "replay" => page.raw(key, avatar.replay),
        "sandbox" => match avatar.sandbox {
            Sandbox::Auto => page.text(key, Sandbox::Auto.word()),
            Sandbox::True => page.raw(key, true),
            Sandbox::False => page.raw(key, false),
        },
        "video_quality" => page.word(key, avatar.video_quality),
        "video_encoding" => page.word(key, avatar.video_encoding),
        "variables" if !avatar.variables.is_empty() => {
            let variables =
                avatar.variables.iter().map(|(name, text)| (name.clone(), Value::from(text.as_str())));
            page.raw(key, toml_of(&Value::Object(variables.collect())));
        }
        "rate" => page.raw(key, avatar.rate),
        "protocol" => page.word(key, avatar.protocol),
        "image" => page.text(key, &avatar.image.display().to_string()),
        _ => {}
    }
}

fn print_rest(page: &mut Page, rest: &Rest) {
    page.text("method", &rest.method);
    page.text("url", &rest.url);
    if !rest.headers.is_empty() {
        let header = |(name, value): (&String, &crate::app::config::secret::Secret)| {
            format!("{} = {}", key(name), quoted(value.shown()))
        };
        let headers: Vec<String> = rest.headers.iter().map(header).collect();
        page.raw("headers", format!("{{ {} }}", headers.join(", ")));
    }
    if !rest.body.is_empty() {
        page.raw("body", toml_of(&Value::Object(rest.body.clone())));
    }
    page.text("session", &rest.session);
}

/// Whether a provider needs a key of its own.
pub fn needs_key(provider: Provider) -> bool {
    matches!(provider, Provider::Anam | Provider::LiveAvatar)
}
