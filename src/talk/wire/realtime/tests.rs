//! What is written, and that nothing a server says can hurt. Whole conversations are in `tests/sim/talking`.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};

use super::*;
use crate::codec::g711::Law;
use crate::talk::message::Vendor;

fn endpoint() -> Endpoint {
    let endpoint = Endpoint::new("gpt", Vendor::OpenAi);
    Endpoint { model: "gpt-realtime".into(), voice: "marin".into(), api_key: "secret".into(), ..endpoint }
}

fn sent(machine: &mut OpenAiRealtime) -> Vec<Value> {
    let mut all = Vec::new();
    while let Some(act) = machine.poll_act() {
        if let Act::Send { text, .. } = act {
            all.push(serde_json::from_str(&text).expect("JSON"));
        }
    }
    all
}

/// A session that listens.
fn live(settings: RealtimeSettings) -> (Instant, LinkId, OpenAiRealtime) {
    let (now, link) = (Instant::now(), LinkId(0));
    let mut machine = OpenAiRealtime::new(now, endpoint(), settings);
    machine.handle_opened(now, link);
    for event in [json!({"type": "session.created"}), json!({"type": "session.updated", "session": {}})] {
        machine.handle_frame(now, link, event.to_string().as_bytes());
    }
    assert_eq!(machine.poll_event(), Some(RealtimeEvent::Ready));
    (now, link, machine)
}

#[test]
fn addresses_are_those_of_the_vendor_or_of_the_operator_and_hide_the_key() {
    let machine = OpenAiRealtime::new(Instant::now(), endpoint(), RealtimeSettings::default());
    let address = machine.address();
    assert_eq!(address.url, "wss://api.openai.com/v1/realtime?model=gpt-realtime");
    assert_eq!(address.headers, [("authorization", "Bearer secret".to_owned())]);
    assert!(!format!("{address:?}").contains("secret"));
    let own = Endpoint { base_url: "http://10.0.0.5:8000/v1/".into(), model: "a b/ü".into(), ..endpoint() };
    assert_eq!(write::url(&own), "http://10.0.0.5:8000/v1/realtime?model=a%20b%2F%C3%BC");
}

#[test]
fn a_session_says_what_it_wants_and_options_lie_over_it() {
    let options = json!({"audio": {"input": {"noise_reduction": {"type": "far_field"}}}, "tracing": "auto"});
    let options: Map<String, Value> = options.as_object().cloned().unwrap_or_default();
    let endpoint = Endpoint { options, language: "de".into(), ..endpoint() };
    let settings = RealtimeSettings { sound: SoundFormat::Law(Law::Mu), ..RealtimeSettings::default() };
    let text = write::session(&endpoint, &settings, SoundFormat::Law(Law::Mu));
    let session = serde_json::from_str::<Value>(&text).expect("JSON")["session"].clone();
    let input = &session["audio"]["input"];
    assert_eq!(input["format"], json!({"type": "audio/pcmu"}));
    assert_eq!(input["noise_reduction"], json!({"type": "far_field"}));
    assert_eq!(input["transcription"]["language"], "de");
    assert_eq!(input["turn_detection"]["type"], "server_vad");
    assert_eq!(session["audio"]["output"], json!({"format": {"type": "audio/pcmu"}, "voice": "marin"}));
    assert_eq!((&session["type"], &session["tracing"]), (&json!("realtime"), &json!("auto")));
    let ours = RealtimeSettings { turns: Turns::Ours, ..settings };
    let text = write::session(&endpoint, &ours, PCM);
    let session = serde_json::from_str::<Value>(&text).expect("JSON")["session"].clone();
    assert_eq!(session["audio"]["input"]["turn_detection"], Value::Null);
    assert_eq!(session["audio"]["output"]["format"], json!({"type": "audio/pcm", "rate": 24_000}));
}

#[test]
fn old_names_of_events_are_understood() {
    let (now, link, mut machine) = live(RealtimeSettings::default());
    for event in [
        json!({"type": "response.created", "response": {"id": "r"}}),
        json!({"type": "response.audio.delta", "response_id": "r", "item_id": "i", "delta": "1dXV1dXV1dU="}),
        json!({"type": "response.audio_transcript.delta", "response_id": "r", "item_id": "i", "delta": "Yes"}),
        json!({"type": "response.audio.done", "response_id": "r", "item_id": "i"}),
    ] {
        machine.handle_frame(now, link, event.to_string().as_bytes());
    }
    let told: Vec<RealtimeEvent> = std::iter::from_fn(|| machine.poll_event()).collect();
    assert!(matches!(&told[0], RealtimeEvent::Sound { item, .. } if &**item == "i"), "{told:?}");
    assert!(matches!(&told[1], RealtimeEvent::Transcript { text, last: false, .. } if text == "Yes"));
    assert!(matches!(&told[2], RealtimeEvent::SoundDone { .. }), "{told:?}");
}

#[test]
fn an_order_waits_for_the_answer_that_is_being_made() {
    let (now, link, mut machine) = live(RealtimeSettings::default());
    machine.say(now, "Good morning.");
    machine.text(now, "Hello?");
    let creates = |machine: &mut OpenAiRealtime| {
        sent(machine).into_iter().filter(|event| event["type"] == "response.create").collect::<Vec<_>>()
    };
    let first = creates(&mut machine);
    assert_eq!(first.len(), 1, "one at a time");
    assert!(
        first[0]["response"]["instructions"].as_str().is_some_and(|text| text.ends_with("Good morning."))
    );
    for event in [
        json!({"type": "response.created", "response": {"id": "r"}}),
        json!({"type": "response.done", "response": {"id": "r", "status": "completed", "output": []}}),
    ] {
        machine.handle_frame(now, link, event.to_string().as_bytes());
    }
    assert_eq!(creates(&mut machine).len(), 1);
    // The server began one by itself between the two.
    let error = json!({"type": "error", "error": {"event_id": "create-1",
        "code": "conversation_already_has_active_response"}});
    machine.handle_frame(now, link, error.to_string().as_bytes());
    for event in [
        json!({"type": "response.created", "response": {"id": "s"}}),
        json!({"type": "response.done", "response": {"id": "s", "status": "completed", "output": []}}),
    ] {
        machine.handle_frame(now, link, event.to_string().as_bytes());
    }
    assert_eq!(creates(&mut machine).len(), 1, "asked again");
}

#[test]
fn nothing_a_server_says_hurts() {
    let kinds = [
        "session.created",
        "session.updated",
        "error",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "response.created",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.delta",
        "response.output_audio_transcript.done",
        "response.output_item.done",
        "response.done",
        "nonsense",
    ];
    let mut random = StdRng::seed_from_u64(7);
    let (mut now, link, mut machine) = live(RealtimeSettings { sees: true, ..RealtimeSettings::default() });
    let value = |random: &mut StdRng| match random.random_range(0..7) {
        0 => Value::Null,
        1 => json!(random.random::<u64>()),
        2 => json!("ö".repeat(random.random_range(0..40))),
        3 => json!([1, {"a": []}]),
        4 => {
            json!({"id": "r", "status": "failed", "type": "function_call", "call_id": "c", "output": [{}, 3]})
        }
        5 => json!("1dXV1Q=="),
        _ => json!(format!("r{}", random.random_range(0..3))),
    };
    for round in 0..20_000 {
        let mut event = json!({"type": kinds[random.random_range(0..kinds.len())]});
        for key in ["response_id", "item_id", "delta", "response", "item", "error", "transcript", "session"] {
            if random.random_bool(0.6) {
                event[key] = value(&mut random);
            }
        }
        let mut bytes = event.to_string().into_bytes();
        if random.random_bool(0.2) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        now += Duration::from_millis(random.random_range(0..50));
        machine.handle_frame(now, link, &bytes);
        machine.handle_time(now);
        machine.heard(now, &format!("r{}", round % 3), random.random_range(0..100));
        while machine.poll_act().is_some() {}
        while machine.poll_event().is_some() {}
        let talk = &machine.talk;
        assert!(talk.spoken.len() <= REMEMBERED && talk.cancelled.len() <= REMEMBERED);
        assert!(talk.calls.len() <= CALLS_AT_ONCE && machine.wanted.len() <= WANTED_MAX);
    }
}
