//! What is said to Gemini Live: client messages as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::talk::message::{Endpoint, Image, Message, Part, Role, ToolSpec};
use crate::talk::realtime::{RealtimeSettings, Said, Turns, overlay};

const HOST: &str = "wss://generativelanguage.googleapis.com";
const SERVICE: &str = "GenerativeService.BidiGenerateContent";
/// Keywords of JSON Schema this API knows.
const KNOWN: [&str; 18] = [
    "anyOf",
    "default",
    "description",
    "enum",
    "example",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "nullable",
    "pattern",
    "properties",
    "required",
    "title",
];

/// `realtimeInput.audio`, the one message of the hot path.
pub fn audio(bytes: &[u8]) -> String {
    const START: &str = r#"{"realtimeInput":{"audio":{"mimeType":"audio/pcm;rate=16000","data":""#;
    let mut text = String::with_capacity(START.len() + bytes.len().div_ceil(3) * 4 + 4);
    text.push_str(START);
    STANDARD.encode_string(bytes, &mut text);
    text.push_str("\"}}}");
    text
}

pub fn image(image: &Image) -> String {
    let data = STANDARD.encode(&image.bytes);
    json!({"realtimeInput": {"video": {"mimeType": image.kind.media_type(), "data": data}}}).to_string()
}

pub fn text(text: &str) -> String {
    json!({"realtimeInput": {"text": text}}).to_string()
}

pub fn say(words: &str) -> String {
    text(&format!("Say this to the caller now, word for word, and nothing else: {words}"))
}

/// `activityStart`, `activityEnd`.
pub fn activity(word: &str) -> String {
    json!({"realtimeInput": {word: {}}}).to_string()
}

pub fn tool_result(id: &str, name: &str, result: &str) -> String {
    let response = match serde_json::from_str(result) {
        Ok(Value::Object(object)) => Value::Object(object),
        Ok(other) => json!({"output": other}),
        Err(_) => json!({"output": result}),
    };
    json!({"toolResponse": {"functionResponses": [{"id": id, "name": name, "response": response}]}})
        .to_string()
}

/// JSON Schema in the words of this API.
fn schema(given: &Value) -> Value {
    let Some(given) = given.as_object() else { return given.clone() };
    let mut schema = Map::new();
    for (key, value) in given {
        let value = match (key.as_str(), value) {
            ("type", Value::String(kind)) => Value::String(kind.to_uppercase()),
            ("type", Value::Array(kinds)) => {
                let mut kinds = kinds.iter().filter_map(Value::as_str);
                schema.insert("nullable".into(), kinds.clone().any(|kind| kind == "null").into());
                kinds.find(|kind| *kind != "null").unwrap_or("string").to_uppercase().into()
            }
            ("properties", Value::Object(properties)) => {
                properties.iter().map(|(name, value)| (name.clone(), schema_of(value))).collect()
            }
            ("items", value) => schema_of(value),
            ("anyOf", Value::Array(any)) => any.iter().map(schema_of).collect(),
            (known, value) if KNOWN.contains(&known) => value.clone(),
            _ => continue,
        };
        schema.insert(key.clone(), value);
    }
    Value::Object(schema)
}

fn schema_of(value: &Value) -> Value {
    schema(value)
}

fn tools(tools: &[ToolSpec]) -> Value {
    let each = tools.iter().map(|tool| {
        let mut function = json!({"name": tool.name, "description": tool.description});
        let takes = tool.parameters["properties"].as_object().is_some_and(|given| !given.is_empty());
        if takes {
            function["parameters"] = schema(&tool.parameters);
        }
        function
    });
    json!([{"functionDeclarations": each.collect::<Vec<_>>()}])
}

/// The first message of a connection. `handle` resumes; `has_history`: `clientContent` follows before anything else.
pub fn setup(
    endpoint: &Endpoint,
    settings: &RealtimeSettings,
    handle: Option<&str>,
    has_history: bool,
) -> String {
    let model = if endpoint.model.is_empty() { "gemini-live-2.5-flash-preview" } else { &endpoint.model };
    let model = if model.contains('/') { model.to_owned() } else { format!("models/{model}") };
    let mut generation = json!({"responseModalities": ["AUDIO"]});
    let mut speech = Map::new();
    if !endpoint.voice.is_empty() {
        let voice = json!({"prebuiltVoiceConfig": {"voiceName": endpoint.voice}});
        speech.insert("voiceConfig".into(), voice);
    }
    if !endpoint.language.is_empty() && endpoint.language != "auto" {
        speech.insert("languageCode".into(), endpoint.language.as_str().into());
    }
    if !speech.is_empty() {
        generation["speechConfig"] = Value::Object(speech);
    }
    if let Some(temperature) = endpoint.temperature {
        generation["temperature"] = temperature.into();
    }
    let mut resumption = Map::new();
    resumption.extend(handle.map(|handle| ("handle".to_owned(), handle.into())));
    let mut setup = json!({
        "model": model, "generationConfig": generation,
        "realtimeInputConfig": input_config(settings),
        "outputAudioTranscription": {},
        "sessionResumption": resumption,
        "contextWindowCompression": {"triggerTokens": settings.context_tokens, "slidingWindow": {}},
    });
    if settings.transcribe {
        setup["inputAudioTranscription"] = json!({});
    }
    if !settings.instructions.is_empty() {
        setup["systemInstruction"] = json!({"parts": [{"text": settings.instructions}]});
    }
    if !settings.tools.is_empty() {
        setup["tools"] = tools(&settings.tools);
    }
    if has_history {
        setup["historyConfig"] = json!({"initialHistoryInClientContent": true});
    }
    if let Some(setup) = setup.as_object_mut() {
        overlay(setup, &endpoint.options);
    }
    json!({"setup": setup}).to_string()
}

fn input_config(settings: &RealtimeSettings) -> Value {
    let mut detection = Map::new();
    let mut handling = "START_OF_ACTIVITY_INTERRUPTS";
    match &settings.turns {
        Turns::Ours => {
            detection.insert("disabled".into(), true.into());
        }
        Turns::Theirs { silence_ms, prefix_ms, interrupts, .. } => {
            detection.extend(silence_ms.map(|ms| ("silenceDurationMs".to_owned(), ms.into())));
            detection.extend(prefix_ms.map(|ms| ("prefixPaddingMs".to_owned(), ms.into())));
            if !interrupts {
                handling = "NO_INTERRUPTION";
            }
        }
    }
    let mut config = json!({"automaticActivityDetection": detection, "activityHandling": handling});
    if settings.sees {
        config["turnCoverage"] = "TURN_INCLUDES_AUDIO_ACTIVITY_AND_ALL_VIDEO".into();
    }
    config
}

fn content(message: &Message) -> Option<Value> {
    let role = match message.role {
        Role::System | Role::User | Role::Tool => "user",
        Role::Assistant => "model",
    };
    let parts: Vec<Value> = message
        .parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => json!({"text": text}),
            Part::Image(image) => {
                let data = STANDARD.encode(&image.bytes);
                json!({"inlineData": {"mimeType": image.kind.media_type(), "data": data}})
            }
            Part::Url(url) => json!({"fileData": {"fileUri": url, "mimeType": "image/jpeg"}}),
        })
        .collect();
    (!parts.is_empty()).then(|| json!({"role": role, "parts": parts}))
}

/// What was said before this session, as turns that ask for no answer. `None`: nothing was.
pub fn history<'a>(given: &[Message], said: impl Iterator<Item = &'a Said>) -> Option<String> {
    let mut turns: Vec<Value> = given.iter().filter_map(content).collect();
    turns.extend(said.filter_map(|said| content(&Message::text(said.role, said.text.clone()))));
    (!turns.is_empty()).then(|| json!({"clientContent": {"turns": turns, "turnComplete": true}}).to_string())
}

/// Where sessions are, from the root of the API with or without its version.
pub fn url(endpoint: &Endpoint) -> String {
    let base = endpoint.base_url.trim_end_matches('/');
    if base.contains("/ws/") {
        return base.to_owned();
    }
    let (base, version) = match base.rsplit_once('/') {
        Some((root, version)) if version.starts_with("v1") => (root, version),
        Some(_) => (base, "v1beta"),
        None => (HOST, "v1beta"),
    };
    format!("{base}/ws/google.ai.generativelanguage.{version}.{SERVICE}")
}
