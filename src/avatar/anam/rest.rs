//! A session asked for over HTTP: the request's body, and what the answer says of the way in.
//!
//! Pure.

use std::time::Duration;

use reqwest::Url;
use serde_json::{Map, Value, json};

use super::{AnamSettings, Mode, Quality};
use crate::avatar::Terms;
use crate::remote::address;
use crate::remote::failure::Failure;
use crate::webrtc::settings::IceServer;

/// Bytes of an answer that are read.
pub const ANSWER_BYTES: usize = 256 << 10;
/// STUN and TURN servers that are taken.
const ICE_SERVERS_MAX: usize = 16;
const HEARTBEAT: Duration = Duration::from_secs(5);
const RECONNECTIONS: u32 = 5;

/// Where a session is asked for. Fails where the root may not be spoken to.
pub fn address(settings: &AnamSettings) -> Result<Url, Failure> {
    let root = address::root(&settings.base_url, super::BASE_URL)?;
    Ok(address::below(&root, "v1", "engine/session"))
}

/// What is asked for.
pub fn body(settings: &AnamSettings, terms: &Terms) -> Value {
    json!({
        "clientMetadata": { "client": "eyeline", "version": env!("CARGO_PKG_VERSION") },
        "clientLabel": format!("eyeline {}", terms.call),
        "personaConfig": persona(settings, terms),
        "sessionOptions": options(settings),
    })
}

fn persona(settings: &AnamSettings, terms: &Terms) -> Value {
    let mut persona = Map::new();
    let mut put = |name: &str, value: Value| persona.insert(name.to_owned(), value);
    let language = if settings.language.is_empty() { &terms.language } else { &settings.language };
    let texts = [
        ("personaId", &settings.persona_id),
        ("avatarId", &settings.avatar_id),
        ("avatarModel", &settings.avatar_model),
        ("voiceId", &settings.voice_id),
        ("llmId", &settings.llm_id),
        ("systemPrompt", &settings.system_prompt),
        ("languageCode", language),
    ];
    // A persona kept at the vendor says all that itself.
    let taken = if settings.persona_id.is_empty() { texts.len() } else { 1 };
    for (name, text) in texts.into_iter().take(taken).filter(|(_, text)| !text.is_empty()) {
        put(name, json!(text));
    }
    put("enableAudioPassthrough", json!(settings.mode == Mode::Passthrough));
    if let Some(longest) = settings.longest {
        put("maxSessionLengthSeconds", json!(longest.as_secs().max(1)));
    }
    if settings.mode == Mode::Microphone {
        if settings.skip_greeting || terms.again {
            put("skipGreeting", json!(true));
        }
        if let Some(silence) = settings.ends_after_silence {
            put("voiceDetectionOptions", json!({ "silenceBeforeSessionEndSeconds": silence.as_secs_f64() }));
        }
    }
    Value::Object(persona)
}

fn options(settings: &AnamSettings) -> Value {
    let quality = match settings.quality {
        Quality::High => "high",
        Quality::Auto => "auto",
    };
    let mut options = json!({
        "videoQuality": quality,
        "sessionReplay": { "enableSessionReplay": settings.replay },
    });
    if let Some(size) = settings.size {
        options["videoWidth"] = json!(size.width);
        options["videoHeight"] = json!(size.height);
    }
    if !settings.region.is_empty() {
        options["region"] = json!(settings.region);
        options["regionPolicy"] = json!(if settings.region_strict { "strict" } else { "preferred" });
    }
    if settings.disclosure {
        options["showAIAvatarDisclosure"] = json!(true);
    }
    options
}

/// The way into a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub session: String,
    /// The signalling socket, without its query.
    pub socket: Url,
    pub heartbeat: Duration,
    /// How often a lost socket may be opened again.
    pub reconnections: u32,
    pub ice_servers: Vec<IceServer>,
    /// Media must go over a TURN server.
    pub relay_only: bool,
}

impl Admission {
    /// The signalling socket with the session in it.
    pub fn url(&self) -> String {
        let mut url = self.socket.clone();
        url.query_pairs_mut().append_pair("session_id", &self.session);
        url.into()
    }

    /// What a later run of this program needs to end the session: its id and its socket.
    pub fn handle(&self) -> String {
        format!("{}@{}", self.session, self.socket)
    }

    /// The way back in, of a [`Admission::handle`].
    pub fn of_handle(handle: &str) -> Option<Admission> {
        let (session, socket) = handle.split_once('@')?;
        let socket = Url::parse(socket).ok().filter(|url| matches!(url.scheme(), "ws" | "wss"))?;
        Some(Admission {
            session: session.to_owned(),
            socket,
            heartbeat: HEARTBEAT,
            reconnections: 0,
            ice_servers: Vec::new(),
            relay_only: false,
        })
    }
}

/// Reads the answer. `encrypted`: it came over TLS, and what follows may do no less.
pub fn admission(answer: &[u8], encrypted: bool) -> Result<Admission, Failure> {
    let garbled = |why: &str| Failure::Garbled(format!("the session's answer: {why}"));
    let answer: Value = serde_json::from_slice(answer).map_err(|_| garbled("no JSON"))?;
    let text = |name: &str| answer[name].as_str().filter(|text| !text.is_empty());
    let session = text("sessionId").ok_or_else(|| garbled("no sessionId"))?;
    if session.len() > 200 || !session.chars().all(|letter| letter.is_ascii_graphic() && letter != '@') {
        return Err(garbled("a sessionId that is none"));
    }
    let host = text("engineHost").ok_or_else(|| garbled("no engineHost"))?;
    let endpoint = text("signallingEndpoint").ok_or_else(|| garbled("no signallingEndpoint"))?;
    let scheme = match text("engineProtocol") {
        Some("http") if !encrypted => "ws",
        Some("http") => return Err(garbled("an engine without TLS")),
        _ => "wss",
    };
    // The host may bear a path of its own, which is not the socket's.
    let authority = host.split('/').next().unwrap_or_default();
    let slash = if endpoint.starts_with('/') { "" } else { "/" };
    let socket = Url::parse(&format!("{scheme}://{authority}{slash}{endpoint}"));
    let mut socket = socket.map_err(|_| garbled("an engine without an address"))?;
    if !socket.username().is_empty() || socket.password().is_some() {
        return Err(garbled("an engine with a password"));
    }
    socket.set_fragment(None);
    let config = &answer["clientConfig"];
    let seconds = config["heartbeatIntervalSeconds"].as_f64().filter(|seconds| *seconds > 0.0);
    let reconnections = config["maxWsReconnectionAttempts"].as_u64();
    Ok(Admission {
        session: session.to_owned(),
        socket,
        heartbeat: seconds.map_or(HEARTBEAT, |seconds| Duration::from_secs_f64(seconds.clamp(0.5, 60.0))),
        reconnections: reconnections.map_or(RECONNECTIONS, |times| times.min(20) as u32),
        ice_servers: ice_servers(&config["iceServers"]),
        relay_only: config["iceTransportPolicy"] == "relay",
    })
}

fn ice_servers(list: &Value) -> Vec<IceServer> {
    let server = |server: &Value| {
        let text = |name: &str| server[name].as_str().unwrap_or_default().to_owned();
        let urls = match &server["urls"] {
            Value::String(url) => vec![url.clone()],
            Value::Array(urls) => urls.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        let urls: Vec<String> = urls.into_iter().take(ICE_SERVERS_MAX).collect();
        (!urls.is_empty()).then(|| IceServer {
            urls,
            username: text("username"),
            credential: text("credential"),
        })
    };
    list.as_array().into_iter().flatten().filter_map(server).take(ICE_SERVERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let most = crate::media::frame::Size::new(1280, 720);
        Terms { call: "c1".to_owned(), codecs: Vec::new(), most, language: "de".to_owned(), again: false }
    }

    #[test]
    fn our_voice_needs_a_face_and_nothing_else_and_no_replay_is_kept() {
        let settings = AnamSettings { avatar_id: "a1".to_owned(), ..AnamSettings::default() };
        let body = body(&settings, &terms());
        assert_eq!(
            body["personaConfig"],
            json!({ "avatarId": "a1", "languageCode": "de", "enableAudioPassthrough": true })
        );
        assert_eq!(
            body["sessionOptions"],
            json!({ "videoQuality": "high", "sessionReplay": { "enableSessionReplay": false } })
        );
        assert_eq!(body["clientMetadata"]["client"], "eyeline");
    }

    #[test]
    fn its_own_voice_takes_a_persona_described_here_or_kept_there() {
        let settings = AnamSettings {
            mode: Mode::Microphone,
            avatar_id: "a1".to_owned(),
            voice_id: "v1".to_owned(),
            llm_id: "l1".to_owned(),
            system_prompt: "Be brief.".to_owned(),
            language: "fr".to_owned(),
            skip_greeting: true,
            longest: Some(Duration::from_secs(90)),
            ends_after_silence: Some(Duration::from_secs(20)),
            size: Some(crate::media::frame::Size::new(1152, 768)),
            region: "eu".to_owned(),
            region_strict: true,
            ..AnamSettings::default()
        };
        let described = body(&settings, &terms());
        assert_eq!(
            described["personaConfig"],
            json!({ "avatarId": "a1", "voiceId": "v1", "llmId": "l1", "systemPrompt": "Be brief.",
                "languageCode": "fr", "enableAudioPassthrough": false, "skipGreeting": true,
                "maxSessionLengthSeconds": 90,
                "voiceDetectionOptions": { "silenceBeforeSessionEndSeconds": 20.0 } })
        );
        assert_eq!(described["sessionOptions"]["videoWidth"], 1152);
        assert_eq!(described["sessionOptions"]["regionPolicy"], "strict");
        let (greets, first) = (AnamSettings { skip_greeting: false, ..settings.clone() }, terms());
        assert!(body(&greets, &first)["personaConfig"].get("skipGreeting").is_none());
        let second = body(&greets, &Terms { again: true, ..first });
        assert_eq!(second["personaConfig"]["skipGreeting"], true, "it has greeted this caller");
        let kept = body(&AnamSettings { persona_id: "p1".to_owned(), ..settings }, &terms());
        assert_eq!(kept["personaConfig"]["personaId"], "p1");
        assert!(kept["personaConfig"].get("systemPrompt").is_none());
    }

    fn answered(change: impl FnOnce(&mut Value)) -> Value {
        let mut answer = json!({ "sessionId": "s 1".replace(' ', "-"), "engineHost": "connect.example/v1/engines/x",
            "engineProtocol": "https", "signallingEndpoint": "/v1/engines/x/ws",
            "clientConfig": { "heartbeatIntervalSeconds": 5, "maxWsReconnectionAttempts": 3,
                "iceTransportPolicy": "relay",
                "iceServers": [{ "urls": "stun:a" }, { "urls": ["turn:b", "turns:c"], "username": "u",
                    "credential": "hidden" }] } });
        change(&mut answer);
        answer
    }

    fn read(answer: &Value, encrypted: bool) -> Result<Admission, Failure> {
        admission(answer.to_string().as_bytes(), encrypted)
    }

    #[test]
    fn the_way_in_is_read_and_found_again_from_its_handle() {
        let admission = read(&answered(|_| ()), true).expect("read");
        assert_eq!(admission.url(), "wss://connect.example/v1/engines/x/ws?session_id=s-1");
        assert_eq!((admission.reconnections, admission.heartbeat.as_secs()), (3, 5));
        assert!(admission.relay_only);
        assert_eq!(admission.ice_servers[1].urls, ["turn:b", "turns:c"]);
        assert!(!format!("{admission:?}").contains("hidden"));
        let again = Admission::of_handle(&admission.handle()).expect("a handle");
        assert_eq!(again.url(), admission.url());
        for broken in ["s-1", "s-1@", "s-1@ftp://x", ""] {
            assert_eq!(Admission::of_handle(broken), None, "{broken}");
        }
    }

    #[test]
    fn bad_answers_are_failures_and_tls_is_not_given_up() {
        for name in ["sessionId", "engineHost", "signallingEndpoint"] {
            let answer = answered(|answer| answer[name] = Value::Null);
            assert!(matches!(read(&answer, true), Err(Failure::Garbled(_))), "{name}");
        }
        assert!(admission(b"<html>", true).is_err());
        assert!(read(&answered(|answer| answer["sessionId"] = json!("a b")), true).is_err());
        assert!(read(&answered(|answer| answer["engineHost"] = json!("u:p@h")), true).is_err());
        let plain = answered(|answer| answer["engineProtocol"] = json!("http"));
        assert!(read(&plain, true).is_err());
        assert_eq!(read(&plain, false).expect("read").socket.scheme(), "ws");
        let bare = read(&answered(|answer| answer["clientConfig"] = Value::Null), true).expect("read");
        assert_eq!(
            (bare.heartbeat, bare.reconnections, bare.ice_servers.len()),
            (HEARTBEAT, RECONNECTIONS, 0)
        );
    }
}
