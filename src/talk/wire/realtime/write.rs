//! What is said to OpenAI Realtime: client events as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::codec::g711::Law;
use crate::talk::message::{Detail, Endpoint, Image, ImageType, Message, Part, Request, Role, ToolSpec};
use crate::talk::realtime::{RealtimeSettings, SoundFormat, Turns, overlay};

/// The model that writes down what the caller says, where none is named.
const TRANSCRIBER: &str = "gpt-4o-mini-transcribe";

/// `input_audio_buffer.append`, the one event of the hot path.
pub fn append(bytes: &[u8]) -> String {
    const START: &str = r#"{"type":"input_audio_buffer.append","audio":""#;
    let mut text = String::with_capacity(START.len() + bytes.len().div_ceil(3) * 4 + 2);
    text.push_str(START);
    STANDARD.encode_string(bytes, &mut text);
    text.push_str("\"}");
    text
}

fn format(sound: SoundFormat) -> Value {
    match sound {
        SoundFormat::Law(Law::Mu) => json!({"type": "audio/pcmu"}),
        SoundFormat::Law(Law::A) => json!({"type": "audio/pcma"}),
        SoundFormat::Samples { rate } => json!({"type": "audio/pcm", "rate": rate}),
    }
}

fn turn_detection(turns: &Turns) -> Value {
    let Turns::Theirs { silence_ms, prefix_ms, threshold, interrupts } = turns else { return Value::Null };
    let mut detection = Map::new();
    detection.insert("type".into(), "server_vad".into());
    detection.insert("create_response".into(), true.into());
    detection.insert("interrupt_response".into(), (*interrupts).into());
    let given = [
        ("silence_duration_ms", silence_ms.map(Value::from)),
        ("prefix_padding_ms", prefix_ms.map(Value::from)),
        ("threshold", threshold.map(Value::from)),
    ];
    detection.extend(given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Value::Object(detection)
}

pub fn tools(tools: &[ToolSpec]) -> Value {
    let each = tools.iter().map(|tool| {
        json!({"type": "function", "name": tool.name, "description": tool.description,
            "parameters": tool.parameters})
    });
    Value::Array(each.collect())
}

/// `session.update` of a fresh session. The operator's options lie over it.
pub fn session(endpoint: &Endpoint, settings: &RealtimeSettings, sound: SoundFormat) -> String {
    let mut input = json!({"format": format(sound), "turn_detection": turn_detection(&settings.turns)});
    if settings.transcribe {
        let named = settings.transcription_model.as_str();
        let mut transcription = json!({"model": if named.is_empty() { TRANSCRIBER } else { named }});
        if !endpoint.language.is_empty() && endpoint.language != "auto" {
            transcription["language"] = endpoint.language.as_str().into();
        }
        input["transcription"] = transcription;
    }
    let mut output = json!({"format": format(sound)});
    if !endpoint.voice.is_empty() {
        output["voice"] = endpoint.voice.as_str().into();
    }
    let mut session = json!({
        "type": "realtime", "output_modalities": ["audio"], "instructions": settings.instructions,
        "tools": tools(&settings.tools), "tool_choice": "auto",
        "truncation": {"type": "retention_ratio", "retention_ratio": 0.8,
            "token_limits": {"post_instructions": settings.context_tokens}},
        "audio": {"input": input, "output": output},
    });
    if let Some(session) = session.as_object_mut() {
        overlay(session, &endpoint.options);
    }
    json!({"type": "session.update", "event_id": "session-1", "session": session}).to_string()
}

/// `session.update` of a running one.
pub fn session_changed(settings: &RealtimeSettings) -> String {
    json!({"type": "session.update", "event_id": "tidy-session", "session": {
        "type": "realtime", "instructions": settings.instructions, "tools": tools(&settings.tools)}})
    .to_string()
}

/// The text, and the picture's data URL where the provider takes such pictures.
fn image_content(image: &Image) -> Option<Value> {
    if !matches!(image.kind, ImageType::Jpeg | ImageType::Png) {
        return None;
    }
    let url = format!("data:{};base64,{}", image.kind.media_type(), STANDARD.encode(&image.bytes));
    let mut content = json!({"type": "input_image", "image_url": url});
    match image.detail {
        Detail::Auto => content["detail"] = "auto".into(),
        Detail::Low => content["detail"] = "low".into(),
        Detail::High => content["detail"] = "high".into(),
        Detail::Omit => {}
    }
    Some(content)
}

/// A picture as an item of the conversation, with a name of ours. `None`: of a kind that is not taken.
pub fn image(item: &str, image: &Image) -> Option<String> {
    let mut content = Vec::new();
    if !image.note.is_empty() {
        content.push(json!({"type": "input_text", "text": image.note}));
    }
    content.push(image_content(image)?);
    let item = json!({"id": item, "type": "message", "role": "user", "content": content});
    let event = format!("image-{}", image.id);
    Some(json!({"type": "conversation.item.create", "event_id": event, "item": item}).to_string())
}

/// A message of the conversation in the roles of this API; `None`: nothing of it can be said here.
fn message_item(message: &Message) -> Option<Value> {
    let (role, text_kind) = match message.role {
        Role::System => ("system", "input_text"),
        Role::User => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
        Role::Tool => ("system", "input_text"),
    };
    let content: Vec<Value> = message
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(json!({"type": text_kind, "text": text})),
            Part::Image(image) if message.role == Role::User => image_content(image),
            Part::Url(url) if message.role == Role::User && url.starts_with("data:") => {
                Some(json!({"type": "input_image", "image_url": url}))
            }
            // This API fetches nothing and takes pictures of the user only.
            Part::Image(_) | Part::Url(_) => None,
        })
        .collect();
    (!content.is_empty()).then(|| json!({"type": "message", "role": role, "content": content}))
}

pub fn message(message: &Message) -> Option<String> {
    let item = message_item(message)?;
    Some(json!({"type": "conversation.item.create", "event_id": "tidy-history", "item": item}).to_string())
}

pub fn said(item: &str, role: Role, text: &str) -> String {
    let mut item_value = message_item(&Message::text(role, text)).unwrap_or_default();
    item_value["id"] = item.into();
    json!({"type": "conversation.item.create", "event_id": "tidy-said", "item": item_value}).to_string()
}

pub fn tool_result(call: &str, result: &str) -> String {
    json!({"type": "conversation.item.create", "event_id": "tidy-result",
        "item": {"type": "function_call_output", "call_id": call, "output": result}})
    .to_string()
}

pub fn delete(item: &str) -> String {
    json!({"type": "conversation.item.delete", "event_id": "tidy-delete", "item_id": item}).to_string()
}

pub fn truncate(item: &str, ms: u64) -> String {
    json!({"type": "conversation.item.truncate", "event_id": "tidy-truncate", "item_id": item,
        "content_index": 0, "audio_end_ms": ms})
    .to_string()
}

pub fn cancel(response: &str) -> String {
    json!({"type": "response.cancel", "event_id": "tidy-cancel", "response_id": response}).to_string()
}

pub fn simple(kind: &str) -> String {
    json!({"type": kind, "event_id": "tidy-buffer"}).to_string()
}

/// Asks for an answer; `say`: of these words.
pub fn create(event: &str, say: Option<&str>) -> String {
    let mut create = json!({"type": "response.create", "event_id": event});
    if let Some(text) = say {
        let order = format!("Say this to the caller now, word for word, and nothing else: {text}");
        create["response"] = json!({"instructions": order, "tool_choice": "none"});
    }
    create.to_string()
}

/// A question beside the conversation, which it neither sees nor changes.
pub fn aside(number: u64, request: &Request) -> String {
    let input: Vec<Value> = request.messages.iter().filter_map(message_item).collect();
    let mut instructions = request.instructions.clone();
    if let Some((_, schema)) = &request.schema {
        instructions.push_str("\nAnswer with JSON of this schema and nothing else: ");
        instructions.push_str(&schema.to_string());
    }
    let mut response = json!({
        "conversation": "none", "output_modalities": ["text"], "input": input,
        "tools": [], "tool_choice": "none", "metadata": {"aside": number.to_string()},
    });
    if !instructions.is_empty() {
        response["instructions"] = instructions.into();
    }
    if let Some(most) = request.max_tokens {
        response["max_output_tokens"] = most.clamp(1, 4096).into();
    }
    json!({"type": "response.create", "event_id": format!("aside-{number}"), "response": response})
        .to_string()
}

/// The URL of a session.
pub fn url(endpoint: &Endpoint) -> String {
    let base = match endpoint.base_url.trim_end_matches('/') {
        "" => "wss://api.openai.com/v1",
        base => base,
    };
    let model = if endpoint.model.is_empty() { "gpt-realtime" } else { &endpoint.model };
    let mut url = format!("{base}/realtime?model=");
    for byte in model.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}
