//! What is written, and that nothing a server says can hurt. Whole conversations are in `tests/sim/talking`.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::*;
use crate::talk::message::Vendor;

fn endpoint() -> Endpoint {
    let endpoint = Endpoint::new("gemini", Vendor::Gemini);
    Endpoint { model: "gemini-live".into(), voice: "Puck".into(), api_key: "secret".into(), ..endpoint }
}

#[test]
fn addresses_are_those_of_the_vendor_or_of_the_operator_and_hide_the_key() {
    let machine = GeminiLive::new(Instant::now(), endpoint(), RealtimeSettings::default());
    let address = machine.address();
    let path = "ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    assert_eq!(address.url, format!("wss://generativelanguage.googleapis.com/{path}"));
    assert_eq!(address.headers, [("x-goog-api-key", "secret".to_owned())]);
    assert!(!format!("{address:?}").contains("secret"));
    for (base, wanted) in [
        (
            "https://example.com/v1alpha/",
            format!("https://example.com/{}", path.replace("v1beta", "v1alpha")),
        ),
        ("http://127.0.0.1:80", format!("http://127.0.0.1:80/{path}")),
        ("wss://host/ws/service", "wss://host/ws/service".to_owned()),
    ] {
        assert_eq!(write::url(&Endpoint { base_url: base.into(), ..endpoint() }), wanted);
    }
}

#[test]
fn a_setup_compresses_resumes_and_says_who_decides_turns() {
    let settings = RealtimeSettings { sees: true, turns: Turns::Ours, ..RealtimeSettings::default() };
    let text = write::setup(&endpoint(), &settings, Some("h1"), false);
    let setup = serde_json::from_str::<Value>(&text).expect("JSON")["setup"].clone();
    assert_eq!(setup["model"], "models/gemini-live");
    assert_eq!(setup["sessionResumption"], json!({"handle": "h1"}));
    assert_eq!(setup["contextWindowCompression"], json!({"triggerTokens": 8_000, "slidingWindow": {}}));
    assert_eq!(setup["realtimeInputConfig"]["automaticActivityDetection"], json!({"disabled": true}));
    assert_eq!(setup["realtimeInputConfig"]["turnCoverage"], "TURN_INCLUDES_AUDIO_ACTIVITY_AND_ALL_VIDEO");
    let voice = &setup["generationConfig"]["speechConfig"]["voiceConfig"]["prebuiltVoiceConfig"]["voiceName"];
    assert_eq!(voice, "Puck");
    assert!(setup.get("historyConfig").is_none() && setup.get("tools").is_none());
}

#[test]
fn results_of_tools_are_objects() {
    for (given, wanted) in [
        (r#"{"seen": 1}"#, json!({"seen": 1})),
        ("[1]", json!({"output": [1]})),
        ("a person", json!({"output": "a person"})),
    ] {
        let text = write::tool_result("c", "look", given);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["toolResponse"]["functionResponses"][0]["response"], wanted);
    }
}

#[test]
fn nothing_a_server_says_hurts() {
    let mut random = StdRng::seed_from_u64(7);
    let (mut now, link) = (Instant::now(), LinkId(0));
    let mut machine =
        GeminiLive::new(now, endpoint(), RealtimeSettings { sees: true, ..RealtimeSettings::default() });
    machine.handle_opened(now, link);
    machine.handle_frame(now, link, br#"{"setupComplete": {}}"#);
    assert_eq!(machine.poll_event(), Some(RealtimeEvent::Ready));
    let value = |random: &mut StdRng| match random.random_range(0..10) {
        0 => Value::Null,
        1 => json!(random.random::<u64>()),
        2 => json!({"text": " ö".repeat(random.random_range(0..40)), "finished": true}),
        3 => json!(true),
        4 => json!({"parts": [{"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": "AAAAAAA="}}, 3]}),
        5 => {
            json!({"parts": [{"inline_data": {"mime_type": "audio/pcm;rate=0", "data": "!"}}, {"text": "x"}]})
        }
        6 => json!({"functionCalls": [{"id": "c", "name": "n"}, {}], "ids": ["c", 4]}),
        7 => {
            json!({"newHandle": "h", "resumable": true, "lastConsumedClientMessageIndex": u64::MAX, "timeLeft": "9e18s"})
        }
        8 => json!({"promptTokenCount": u64::MAX, "responseTokenCount": u64::MAX,
            "promptTokensDetails": [{"modality": "IMAGE", "tokenCount": u64::MAX}, {"modality": "VIDEO", "tokenCount": 9}]}),
        _ => json!({"timeLeft": "9s", "voiceActivityType": "ACTIVITY_START"}),
    };
    for _ in 0..20_000 {
        let mut content = json!({});
        for key in [
            "modelTurn",
            "inputTranscription",
            "outputTranscription",
            "interrupted",
            "generationComplete",
            "turnComplete",
        ] {
            if random.random_bool(0.4) {
                content[key] = value(&mut random);
            }
        }
        let mut message = json!({"serverContent": content});
        for key in [
            "toolCall",
            "toolCallCancellation",
            "goAway",
            "sessionResumptionUpdate",
            "usageMetadata",
            "voiceActivity",
        ] {
            if random.random_bool(0.2) {
                message[key] = value(&mut random);
            }
        }
        let mut bytes = message.to_string().into_bytes();
        if random.random_bool(0.2) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        now += Duration::from_millis(random.random_range(0..50));
        let link = machine.current.map_or(link, |line| line.id);
        machine.handle_frame(now, link, &bytes);
        machine.handle_time(now);
        machine.heard(now, "turn-2", random.random_range(0..100));
        while machine.poll_act().is_some() {}
        while machine.poll_event().is_some() {}
        assert!(machine.talk.calls.len() <= CALLS_AT_ONCE);
    }
}
