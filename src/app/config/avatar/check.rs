//! What avatars, and the agents that have one, must be together.

use super::print::needs_key;
use super::read::{LEAST_SESSION, usual_variable};
use super::settings::{Avatar, Mode, Protocol, Provider, Sandbox};
use crate::app::config::section::{Reading, did_you_mean};
use crate::app::config::settings::speech::Speaking;
use crate::app::config::settings::{Agent, Config};
use crate::app::config::talk::check::check_address;

pub fn check(config: &Config, reading: &Reading) {
    for (name, avatar) in &config.avatars {
        check_avatar(reading, &format!("avatar.{name}"), avatar);
    }
    for (name, agent) in &config.agents {
        let path = format!("agent.{name}");
        match agent {
            Agent::Pipeline(agent) | Agent::Realtime(agent) => with_face(config, reading, &path, agent),
            Agent::Avatar(agent) => turnkey(config, reading, &path, agent),
            Agent::Mirror { .. } | Agent::Record { .. } => {}
        }
    }
}

fn check_avatar(reading: &Reading, path: &str, avatar: &Avatar) {
    check_address(reading, path, "base_url", &avatar.base_url);
    check_address(reading, path, "livekit_url", &avatar.livekit_url);
    check_address(reading, path, "start.url", &avatar.start.url);
    check_address(reading, path, "stop.url", &avatar.stop.url);
    let problem = |key: &str, text: &str| reading.problem(&format!("{path}.{key}"), text);
    if needs_key(avatar.provider) && avatar.api_key.is_empty() && !reading.only_looking() {
        let variable = usual_variable(avatar.provider).unwrap_or_default();
        let text = format!("write the vendor's key, or set {variable}");
        if std::env::var_os(variable).is_none() {
            reading.warning(&format!("{path}.api_key"), text);
        }
    }
    if !avatar.max_session.is_zero() && avatar.max_session < LEAST_SESSION {
        problem("max_session_s", "shorter than half a minute; 0 is the provider's own limit");
    }
    match avatar.provider {
        Provider::Anam => {
            if avatar.avatar_id.is_empty() && avatar.persona_id.is_empty() {
                problem("avatar_id", "say which face: avatar_id, or persona_id of a stored one");
            }
            if avatar.mode == Mode::Passthrough
                && [&avatar.voice_id, &avatar.llm_id, &avatar.system_prompt]
                    .iter()
                    .any(|text| !text.is_empty())
            {
                let text = "voice_id, llm_id and system_prompt are of mode = \"microphone\": here the agent thinks and speaks";
                reading.warning(&format!("{path}.mode"), text);
            }
        }
        Provider::LiveAvatar => {
            if avatar.sandbox == Sandbox::True && !avatar.avatar_id.is_empty() {
                problem(
                    "sandbox",
                    "true goes with the vendor's own avatar only: leave avatar_id out, or write false",
                );
            }
            if avatar.sandbox == Sandbox::False && avatar.avatar_id.is_empty() {
                problem("sandbox", "false needs an avatar of yours: write avatar_id");
            }
        }
        Provider::LiveKit => room(reading, path, avatar),
        Provider::WebSocket => {
            if avatar.base_url.is_empty() {
                problem("base_url", "say where the server is: ws://192.168.1.9:8765");
            }
            if avatar.protocol == Protocol::Timed && !avatar.image.as_os_str().is_empty() {
                problem("image", "is for protocol = \"raw\"");
            }
        }
    }
}

fn room(reading: &Reading, path: &str, avatar: &Avatar) {
    let problem = |key: &str, text: &str| reading.problem(&format!("{path}.{key}"), text);
    if avatar.livekit_url.is_empty() {
        problem("livekit_url", "say where your LiveKit server is: wss://NAME.livekit.cloud");
    }
    for (key, secret) in
        [("livekit_api_key", &avatar.livekit_api_key), ("livekit_api_secret", &avatar.livekit_api_secret)]
    {
        if secret.is_empty() && !reading.only_looking() {
            problem(key, "tokens for the room are signed with it");
        }
    }
    match (avatar.vendor.is_empty(), avatar.start.url.is_empty()) {
        (true, true) => problem("vendor", "name a vendor, or describe its request in [avatar.NAME.start]"),
        (false, false) => problem("start", "a vendor known by name has its own"),
        (true, false) | (false, true) => {}
    }
}

fn known<'a>(config: &'a Config, reading: &Reading, path: &str, agent: &Speaking) -> Option<&'a Avatar> {
    let found = config.avatars.get(&agent.avatar);
    if found.is_none() {
        let help = did_you_mean(&agent.avatar, config.avatars.keys().map(String::as_str));
        let text = format!("there is no [avatar.{}]{help}", agent.avatar);
        reading.problem(&format!("{path}.avatar"), text);
    }
    found
}

/// An agent that speaks through a face.
fn with_face(config: &Config, reading: &Reading, path: &str, agent: &Speaking) {
    if agent.avatar.is_empty() {
        return;
    }
    if known(config, reading, path, agent).is_some_and(Avatar::listens) {
        let text = "its avatar has mode = \"microphone\", which is for agents of kind \"avatar\"";
        reading.problem(&format!("{path}.avatar"), text);
    }
}

/// An agent that is its avatar.
fn turnkey(config: &Config, reading: &Reading, path: &str, agent: &Speaking) {
    if agent.avatar.is_empty() {
        return reading.problem(&format!("{path}.avatar"), "say which [avatar.NAME] it is");
    }
    if known(config, reading, path, agent).is_some_and(|avatar| !avatar.listens()) {
        let text = "its avatar does not hear callers: write mode = \"microphone\" (Anam), or give a \"pipeline\" or \
                    \"realtime\" agent this face";
        reading.problem(&format!("{path}.avatar"), text);
    }
    for (key, given) in [
        ("stt", !agent.stt.is_empty()),
        ("llm", !agent.llm.is_empty()),
        ("tts", !agent.tts.is_empty()),
        ("realtime", !agent.realtime.is_empty()),
        ("tools", !agent.tools.is_empty()),
        ("sources", !agent.sources.is_empty()),
    ] {
        if given {
            reading.problem(
                &format!("{path}.{key}"),
                "the avatar's provider hears, thinks and speaks: leave it out",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::app::config::secret::LEFT_OUT;
    use crate::app::config::{Given, load, print};

    fn given(toml: &str) -> (tempfile::TempDir, Given) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eyeline.toml");
        std::fs::write(&path, toml).unwrap();
        (folder, Given { files: vec![path], ..Given::default() })
    }

    const ALL: &str = r#"
        [avatar.anna]
        provider = "anam"
        api_key = "k"
        avatar_id = "a"
        mode = "microphone"
        language = "de"
        [avatar.lea]
        provider = "liveavatar"
        api_key = "k"
        avatar_id = "b"
        video_encoding = "H264"
        max_session_s = 600
        budget_minutes = 120
        [avatar.room]
        provider = "livekit"
        livekit_url = "wss://x.livekit.cloud"
        livekit_api_key = "k"
        livekit_api_secret = "s"
        variables = { persona = "p" }
        [avatar.room.start]
        url = "https://api.example.com/v1/sessions"
        headers = { "x-api-key" = "k" }
        body = { url = "{livekit_url}", nested = { token = "{avatar_token}" } }
        session = "/id"
        [avatar.box]
        provider = "websocket"
        base_url = "ws://192.168.1.9:8765"
        [stt.m]
        provider = "mock"
        [llm.m]
        provider = "mock"
        [tts.m]
        provider = "mock"
        [agent.p]
        kind = "pipeline"
        stt = "m"
        llm = "m"
        tts = "m"
        avatar = "box"
        [agent.t]
        kind = "avatar"
        avatar = "anna"
    "#;

    #[test]
    fn avatars_of_every_provider_read_back_as_they_are_printed() {
        let (_folder, first) = given(ALL);
        let loaded = load(&first).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(loaded.config.avatars.len(), 4);
        let printed = print::print(&loaded.config);
        assert!(!printed.contains("\"k\""), "keys are not shown: {printed}");
        let shown = printed.replace(LEFT_OUT, "k");
        let (_folder, again) = given(&shown);
        let again = load(&again).unwrap_or_else(|problems| panic!("{problems}\n{shown}"));
        assert_eq!(
            again.config.avatars.keys().collect::<Vec<_>>(),
            loaded.config.avatars.keys().collect::<Vec<_>>()
        );
        assert_eq!(again.config.avatars["box"], loaded.config.avatars["box"]);
        assert_eq!(again.config.agents, loaded.config.agents);
    }

    #[test]
    fn contradictions_are_refused_with_what_to_do() {
        for (from, to, why) in [
            ("avatar_id = \"b\"", "avatar_id = \"b\"\nsandbox = true", "leave avatar_id out"),
            ("avatar_id = \"b\"", "sandbox = false", "write avatar_id"),
            ("max_session_s = 600", "max_session_s = 5", "half a minute"),
            ("language = \"de\"", "sandbox = true", "is for provider = \"liveavatar\""),
            ("avatar = \"box\"", "avatar = \"bix\"", "did you mean \"box\"?"),
            ("avatar = \"box\"", "avatar = \"anna\"", "kind \"avatar\""),
            ("avatar = \"anna\"", "avatar = \"box\"", "does not hear callers"),
            ("avatar = \"anna\"", "avatar = \"anna\"\nllm = \"m\"", "leave it out"),
            ("base_url = \"ws://192.168.1.9:8765\"", "", "say where the server is"),
            ("ws://192.168.1.9:8765", "ws://93.184.216.34", "is not on this site"),
            ("livekit_api_secret = \"s\"", "", "signed with it"),
            ("variables = { persona = \"p\" }", "vendor = \"bey\"", "has its own"),
        ] {
            assert!(ALL.contains(from), "{from}");
            let (_folder, bad) = given(&ALL.replacen(from, to, 1));
            let said = load(&bad).map_or_else(|problems| problems.to_string(), |_| String::new());
            assert!(said.contains(why), "{to}: {said}");
        }
    }
}
