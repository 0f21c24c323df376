//! Language models in the words of three vendors: OpenAI's chat completions, Gemini's streamed generateContent and
//! Anthropic's messages. Strict: what their references forbid is refused as they refuse it.

use base64::Engine as _;
use serde_json::{Value, json};

use super::server::{Exchange, Seen};

/// What a model answers.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub text: String,
    /// Names and arguments.
    pub calls: Vec<(String, Value)>,
}

/// A picture in a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub media_type: String,
    pub bytes: Vec<u8>,
    pub detail: Option<String>,
}

/// What was asked, whoever's words it was asked in.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The words of the last message.
    pub said: String,
    /// All pictures, in order.
    pub pictures: Vec<Picture>,
    /// Pictures of the last message.
    pub newest: Vec<Picture>,
    pub messages: usize,
    /// The answer has to be JSON of a schema.
    pub structured: bool,
}

/// A refusal: status, message, and the field it is about.
pub struct Refusal(pub u16, pub String, pub String);

pub fn refuse<T>(message: impl Into<String>, field: &str) -> Result<T, Refusal> {
    Err(Refusal(400, message.into(), field.to_owned()))
}

/// How strict a server is beyond its vendor's reference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// It sees nothing: pictures are a 400.
    pub blind: bool,
    /// It does not know the word `detail`.
    pub no_detail: bool,
    /// It does not stream, whatever it is asked.
    pub whole: bool,
    /// A server on the site: whoever reaches it may ask, without a key.
    pub keyless: bool,
}

pub fn need<'a>(value: &'a Value, field: &str) -> Result<&'a str, Refusal> {
    let text = value[field].as_str().filter(|text| !text.is_empty());
    text.ok_or_else(|| Refusal(400, format!("Missing required parameter: '{field}'."), field.to_owned()))
}

pub fn key_of<'a>(seen: &'a Seen, header: &str, prefix: &str) -> Result<&'a str, Refusal> {
    let key = seen.header(header).and_then(|value| value.strip_prefix(prefix)).unwrap_or_default();
    match key {
        "" => Err(Refusal(401, "You didn't provide an API key.".to_owned(), String::new())),
        "wrong" => Err(Refusal(401, format!("Incorrect API key provided: {key}."), String::new())),
        key => Ok(key),
    }
}

/// Base64 that decodes to what its media type says.
fn picture(media_type: &str, data: &str, detail: Option<&str>) -> Result<Picture, Refusal> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(data);
    let Ok(bytes) = bytes else { return refuse("The image data is not valid base64.", "image") };
    let is_right = match media_type {
        "image/jpeg" => bytes.starts_with(&[0xff, 0xd8]),
        "image/png" => bytes.starts_with(b"\x89PNG"),
        "image/webp" => bytes.starts_with(b"RIFF"),
        "image/gif" => bytes.starts_with(b"GIF8"),
        _ => return refuse(format!("Unsupported image type {media_type}."), "image"),
    };
    if !is_right {
        return refuse(format!("The image is not {media_type}."), "image");
    }
    Ok(Picture { media_type: media_type.to_owned(), bytes, detail: detail.map(str::to_owned) })
}

/// Checks a request to `/chat/completions`.
pub fn check_chat(seen: &Seen, quirks: Quirks) -> Result<Asked, Refusal> {
    key_of(seen, "authorization", "Bearer ")?;
    let body = seen.json();
    if need(&body, "model")? == "no-such-model" {
        return Err(Refusal(404, "The model does not exist.".to_owned(), "model".to_owned()));
    }
    let Some(messages) = body["messages"].as_array().filter(|list| !list.is_empty()) else {
        return refuse("Expected a non-empty array.", "messages");
    };
    let mut asked = Asked { messages: messages.len(), ..Asked::default() };
    let mut awaited: Vec<&str> = Vec::new();
    for message in messages {
        let role = need(message, "role")?;
        if role == "tool" {
            let id = need(message, "tool_call_id")?;
            let Some(at) = awaited.iter().position(|awaited| *awaited == id) else {
                return refuse("A message with role 'tool' answers no preceding 'tool_calls'.", "messages");
            };
            awaited.remove(at);
        } else if !awaited.is_empty() {
            return refuse(
                "An assistant message with 'tool_calls' must be followed by all answers.",
                "messages",
            );
        }
        if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
            return refuse(format!("Invalid role {role}."), "messages");
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments = call["function"]["arguments"].as_str().unwrap_or("none");
            if serde_json::from_str::<Value>(arguments).is_err() {
                return refuse("Tool arguments are no JSON.", "messages");
            }
            awaited.push(need(call, "id")?);
        }
        asked.newest.clear();
        asked.said = chat_content(message, role, quirks, &mut asked.newest)?;
        asked.pictures.extend(asked.newest.clone());
    }
    asked.structured = check_format(&body["response_format"])?;
    for tool in body["tools"].as_array().into_iter().flatten() {
        if tool["type"] != "function" || !tool["function"]["parameters"].is_object() {
            return refuse("Invalid tool.", "tools");
        }
        need(&tool["function"], "name")?;
    }
    Ok(asked)
}

/// Structured outputs: a strict schema names all its members as required and takes no others.
fn check_format(format: &Value) -> Result<bool, Refusal> {
    if format.is_null() {
        return Ok(false);
    }
    let wanted = &format["json_schema"];
    let (schema, field) = (&wanted["schema"], "response_format");
    if format["type"] != "json_schema" || wanted["strict"] != true {
        return refuse("Invalid 'response_format'.", field);
    }
    need(wanted, "name")?;
    let members: Option<Vec<&String>> = schema["properties"].as_object().map(|all| all.keys().collect());
    let Some(members) = members.filter(|_| schema["type"] == "object") else {
        return refuse("schema must be an object.", field);
    };
    if schema["additionalProperties"] != false {
        return refuse("'additionalProperties' is required to be supplied and to be false.", field);
    }
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    if members.iter().any(|name| !required.contains(&Value::String((*name).clone()))) {
        return refuse("'required' is required to include every key in properties.", field);
    }
    Ok(true)
}

fn chat_content(
    message: &Value,
    role: &str,
    quirks: Quirks,
    pictures: &mut Vec<Picture>,
) -> Result<String, Refusal> {
    let parts = match &message["content"] {
        Value::String(text) => return Ok(text.clone()),
        Value::Null if role == "assistant" && message["tool_calls"].is_array() => return Ok(String::new()),
        Value::Array(parts) if !parts.is_empty() => parts,
        _ => return refuse("Invalid type for 'content'.", "messages"),
    };
    let mut words = Vec::new();
    for part in parts {
        match part["type"].as_str() {
            Some("text") => words.push(need(part, "text")?.to_owned()),
            Some("image_url") if role != "user" => {
                return refuse("Images stand in user messages only.", "messages");
            }
            Some("image_url") if quirks.blind => {
                return refuse("This model does not support images.", "messages");
            }
            Some("image_url") => {
                let (url, detail) = (need(&part["image_url"], "url")?, part["image_url"]["detail"].as_str());
                if detail.is_some_and(|detail| quirks.no_detail || !["auto", "low", "high"].contains(&detail))
                {
                    return refuse("Invalid value for 'detail'.", "messages");
                }
                let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
                match data {
                    Some((media_type, data)) => pictures.push(picture(media_type, data, detail)?),
                    None if url.starts_with("https://") => {}
                    None => return refuse("Failed to download the image.", "messages"),
                }
            }
            _ => return refuse("Invalid content part.", "messages"),
        }
    }
    Ok(words.join("\n"))
}

pub fn answer_chat(seen: &Seen, reply: &Reply, asked: &Asked, quirks: Quirks, exchange: &mut Exchange<'_>) {
    let body = seen.json();
    let finish = if reply.calls.is_empty() { "stop" } else { "tool_calls" };
    let image_tokens = 85 * asked.pictures.len();
    let usage = json!({ "prompt_tokens": 20 + image_tokens, "completion_tokens": 7, "total_tokens": 27 + image_tokens,
        "prompt_tokens_details": { "cached_tokens": 0, "image_tokens": image_tokens } });
    let calls = reply.calls.iter().enumerate().map(|(index, (name, arguments))| {
        (index, format!("call_{}_{index}", asked.messages), name.clone(), arguments.to_string())
    });
    if body["stream"] != true || quirks.whole {
        let calls: Vec<Value> = calls
            .map(|(_, id, name, arguments)| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
            .collect();
        let mut message = json!({ "role": "assistant", "content": reply.text, "refusal": null });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let whole = json!({ "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{ "index": 0, "message": message, "finish_reason": finish, "logprobs": null }], "usage": usage });
        return exchange.json(200, &whole, &[]);
    }
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
            "choices": choices, "usage": usage, "obfuscation": "x7" });
        ("", chunk.to_string())
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{ "index": 0, "delta": delta, "finish_reason": finish, "logprobs": null }]), Value::Null)
    };
    let mut events = vec![delta(json!({ "role": "assistant", "content": "" }), Value::Null)];
    events.extend(pieces(&reply.text).into_iter().map(|text| delta(json!({ "content": text }), Value::Null)));
    for (index, id, name, arguments) in calls {
        let head = json!({ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": "" } });
        events.push(delta(json!({ "tool_calls": [head] }), Value::Null));
        for piece in halves(&arguments) {
            let piece = json!({ "index": index, "function": { "arguments": piece } });
            events.push(delta(json!({ "tool_calls": [piece] }), Value::Null));
        }
    }
    events.push(delta(json!({}), finish.into()));
    if body["stream_options"]["include_usage"] == true {
        events.push(chunk(json!([]), usage));
    }
    exchange.events(&events, Some("[DONE]"));
}

/// Text as models give it: a word with the space before it.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for word in text.split_inclusive(' ') {
        pieces.push(word.to_owned());
    }
    pieces
}

fn halves(text: &str) -> [&str; 2] {
    let middle = (text.len() / 2..).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (first, second) = text.split_at(middle);
    [first, second]
}

/// Checks a request to `models/{model}:…generateContent`.
pub fn check_generate(seen: &Seen, quirks: Quirks) -> Result<Asked, Refusal> {
    let in_query = seen.parameter("key");
    if in_query.is_none() {
        key_of(seen, "x-goog-api-key", "")?;
    }
    let body = camel(seen.json());
    let Some(contents) = body["contents"].as_array().filter(|list| !list.is_empty()) else {
        return refuse("contents is not specified", "contents");
    };
    let mut asked = Asked { messages: contents.len(), ..Asked::default() };
    let mut last_role = "";
    for content in contents {
        let role = content["role"].as_str().unwrap_or("user");
        if role != "user" && role != "model" {
            return refuse("Please use a valid role: user, model.", "contents");
        }
        if role == last_role || last_role.is_empty() && role == "model" {
            return refuse("Please ensure that turns alternate between user and model.", "contents");
        }
        last_role = role;
        let Some(parts) = content["parts"].as_array().filter(|parts| !parts.is_empty()) else {
            return refuse("must include at least one parts field", "contents");
        };
        asked.newest.clear();
        asked.said = generate_parts(parts, quirks, &mut asked.newest)?;
        asked.pictures.extend(asked.newest.clone());
    }
    if last_role != "user" {
        return refuse("Please ensure that the conversation ends with a user turn.", "contents");
    }
    for (key, _) in body.as_object().into_iter().flatten() {
        let known = [
            "contents",
            "systemInstruction",
            "tools",
            "toolConfig",
            "generationConfig",
            "safetySettings",
            "cachedContent",
        ];
        if !known.contains(&key.as_str()) {
            return refuse(format!("Invalid JSON payload received. Unknown name \"{key}\""), key);
        }
    }
    Ok(asked)
}

/// Names of members in either writing as one, as this vendor takes them; what a user made is left alone.
fn camel(value: Value) -> Value {
    const OF_USERS: [&str; 4] = ["args", "response", "parameters", "parametersJsonSchema"];
    let name = |snake: &str| {
        let mut parts = snake.split('_');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
    };
    match value {
        Value::Array(items) => items.into_iter().map(camel).collect(),
        Value::Object(members) => {
            let member = |(key, value): (String, Value)| {
                let key = if key.split('_').any(str::is_empty) { key } else { name(&key) };
                let value = if OF_USERS.contains(&key.as_str()) { value } else { camel(value) };
                (key, value)
            };
            Value::Object(members.into_iter().map(member).collect())
        }
        other => other,
    }
}

fn generate_parts(parts: &[Value], quirks: Quirks, pictures: &mut Vec<Picture>) -> Result<String, Refusal> {
    let mut words = Vec::new();
    for part in parts {
        let kinds = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
        if kinds.iter().filter(|kind| !part[**kind].is_null()).count() != 1 {
            return refuse("required oneof field 'data' must have one initialized field", "contents");
        }
        if let Some(text) = part["text"].as_str() {
            words.push(text.to_owned());
        }
        if part["inlineData"].is_object() {
            if quirks.blind {
                return refuse("Image input modality is not enabled for this model", "contents");
            }
            let (kind, data) = (need(&part["inlineData"], "mimeType")?, need(&part["inlineData"], "data")?);
            // Bytes of the protocol's JSON come in either alphabet.
            pictures.push(picture(kind, &data.replace('-', "+").replace('_', "/"), None)?);
        }
        if part["functionResponse"].is_object() && !part["functionResponse"]["response"].is_object() {
            return refuse("function_response.response is no object", "contents");
        }
        if let Some(output) = part["functionResponse"]["response"]["output"].as_str() {
            words.push(output.to_owned());
        }
    }
    Ok(words.join("\n"))
}

pub fn answer_generate(seen: &Seen, reply: &Reply, asked: &Asked, exchange: &mut Exchange<'_>) {
    let image_tokens = 258 * asked.pictures.len();
    let usage = json!({ "promptTokenCount": 20 + image_tokens, "candidatesTokenCount": 7, "totalTokenCount": 27 + image_tokens,
        "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 20 }, { "modality": "IMAGE", "tokenCount": image_tokens }] });
    let mut parts: Vec<Value> = pieces(&reply.text).into_iter().map(|text| json!({ "text": text })).collect();
    parts.extend(reply.calls.iter().enumerate().map(|(index, (name, arguments))| {
        json!({ "functionCall": { "name": name, "args": arguments }, "thoughtSignature": base64::engine::general_purpose::STANDARD.encode(format!("sign{index}")) })
    }));
    let whole = |parts: Vec<Value>, is_last: bool| {
        let mut candidate = json!({ "content": { "role": "model", "parts": parts }, "index": 0 });
        let mut answer = json!({ "modelVersion": "emulated", "responseId": "r1" });
        if is_last {
            candidate["finishReason"] = "STOP".into();
            answer["usageMetadata"] = usage.clone();
        }
        answer["candidates"] = json!([candidate]);
        answer
    };
    if !seen.path.ends_with(":streamGenerateContent") {
        return exchange.json(200, &whole(parts, true), &[]);
    }
    if seen.parameter("alt").as_deref() != Some("sse") {
        return exchange.json(200, &json!([whole(parts, true)]), &[]);
    }
    let count = parts.len();
    let events =
        parts.into_iter().enumerate().map(|(at, part)| ("", whole(vec![part], at + 1 == count).to_string()));
    exchange.events(&events.collect::<Vec<_>>(), None);
}

/// Checks a request to `/messages`.
pub fn check_messages(seen: &Seen, quirks: Quirks) -> Result<Asked, Refusal> {
    // The reference names the first, the SDK of today sends the second; so with the versions.
    match seen.header("x-api-key") {
        Some(_) => key_of(seen, "x-api-key", "")?,
        None => key_of(seen, "authorization", "Bearer ")?,
    };
    if !matches!(seen.header("anthropic-version"), Some("2023-06-01" | "2026-10-21")) {
        return refuse("anthropic-version: header is required", "");
    }
    let body = seen.json();
    need(&body, "model")?;
    if !body["max_tokens"].is_u64() {
        return refuse("max_tokens: Field required", "max_tokens");
    }
    let Some(messages) = body["messages"].as_array().filter(|list| !list.is_empty()) else {
        return refuse("messages: at least one message is required", "messages");
    };
    let mut asked = Asked { messages: messages.len(), ..Asked::default() };
    let mut awaited: Vec<String> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let role = need(message, "role")?;
        if !["user", "assistant"].contains(&role) || index == 0 && role != "user" {
            return refuse("messages: first message must use the \"user\" role", "messages");
        }
        let text = json!([{ "type": "text", "text": message["content"] }]);
        let blocks = if message["content"].is_string() { &text } else { &message["content"] };
        let Some(blocks) = blocks.as_array().filter(|blocks| !blocks.is_empty()) else {
            return refuse("messages: content must not be empty", "messages");
        };
        asked.newest.clear();
        let mut words = Vec::new();
        for block in blocks {
            message_block(block, quirks, &mut awaited, &mut words, &mut asked.newest)?;
        }
        if role == "user" && !awaited.is_empty() {
            return refuse(
                "tool_use ids were found without tool_result blocks immediately after",
                "messages",
            );
        }
        awaited = blocks
            .iter()
            .filter(|block| block["type"] == "tool_use")
            .filter_map(|block| block["id"].as_str().map(str::to_owned))
            .collect();
        asked.said = words.join("\n");
        asked.pictures.extend(asked.newest.clone());
    }
    Ok(asked)
}

fn message_block(
    block: &Value,
    quirks: Quirks,
    awaited: &mut Vec<String>,
    words: &mut Vec<String>,
    pictures: &mut Vec<Picture>,
) -> Result<(), Refusal> {
    match block["type"].as_str() {
        Some("text") => match block["text"].as_str().map(str::trim) {
            Some("") | None => return refuse("text content blocks must be non-empty", "messages"),
            Some(text) => words.push(text.to_owned()),
        },
        Some("image") if quirks.blind => return refuse("this model does not support images", "messages"),
        Some("image") if block["source"]["type"] == "url" => {}
        Some("image") => {
            let source = &block["source"];
            pictures.push(picture(need(source, "media_type")?, need(source, "data")?, None)?);
        }
        Some("tool_use") => {
            need(block, "id")?;
            need(block, "name")?;
            if !block["input"].is_object() {
                return refuse("tool_use.input: must be a dictionary", "messages");
            }
        }
        Some("tool_result") => {
            let id = need(block, "tool_use_id")?;
            let Some(at) = awaited.iter().position(|awaited| awaited == id) else {
                return refuse("unexpected tool_use_id found in tool_result blocks", "messages");
            };
            awaited.remove(at);
            let text = json!([{ "type": "text", "text": block["content"] }]);
            let inner = if block["content"].is_string() { &text } else { &block["content"] };
            for block in inner.as_array().into_iter().flatten() {
                message_block(block, quirks, &mut Vec::new(), words, pictures)?;
            }
        }
        _ => return refuse("messages: unknown content block", "messages"),
    }
    Ok(())
}

pub fn answer_messages(seen: &Seen, reply: &Reply, asked: &Asked, exchange: &mut Exchange<'_>) {
    let body = seen.json();
    let reason = if reply.calls.is_empty() { "end_turn" } else { "tool_use" };
    let input_tokens = 20 + 1_000 * asked.pictures.len();
    let blocks: Vec<Value> = reply
        .calls
        .iter()
        .enumerate()
        .map(|(index, (name, input))| {
            json!({ "type": "tool_use", "id": format!("toolu_{}_{index}", asked.messages), "name": name, "input": input })
        })
        .collect();
    let message = |content: Value, stop: Value, output: u64| {
        json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
            "stop_reason": stop, "stop_sequence": null,
            "usage": { "input_tokens": input_tokens, "output_tokens": output, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0 } })
    };
    let text = (!reply.text.is_empty()).then(|| json!({ "type": "text", "text": reply.text }));
    if body["stream"] != true {
        let content: Vec<Value> = text.into_iter().chain(blocks).collect();
        return exchange.json(200, &message(content.into(), reason.into(), 7), &[]);
    }
    let mut events = vec![
        json!({ "type": "message_start", "message": message(json!([]), Value::Null, 1) }),
        json!({ "type": "ping" }),
    ];
    let mut index = 0;
    if text.is_some() {
        events.push(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }));
        for piece in pieces(&reply.text) {
            let delta = json!({ "type": "text_delta", "text": piece });
            events.push(json!({ "type": "content_block_delta", "index": 0, "delta": delta }));
        }
        events.push(json!({ "type": "content_block_stop", "index": 0 }));
        index += 1;
    }
    for block in blocks {
        let input = block["input"].to_string();
        let mut start = block;
        start["input"] = json!({});
        events.push(json!({ "type": "content_block_start", "index": index, "content_block": start }));
        for piece in halves(&input) {
            let delta = json!({ "type": "input_json_delta", "partial_json": piece });
            events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        }
        events.push(json!({ "type": "content_block_stop", "index": index }));
        index += 1;
    }
    events.push(json!({ "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": null }, "usage": { "output_tokens": 7 } }));
    events.push(json!({ "type": "message_stop" }));
    let named: Vec<(&str, String)> =
        events.iter().map(|event| (event["type"].as_str().unwrap_or_default(), event.to_string())).collect();
    exchange.events(&named, None);
}

/// Refuses in the words of the vendor whose path it is.
pub fn refuse_as(api: &str, Refusal(status, message, field): &Refusal, exchange: &mut Exchange<'_>) {
    let body = match api {
        "generate" => {
            let word = if *status == 401 { "UNAUTHENTICATED" } else { "INVALID_ARGUMENT" };
            json!({ "error": { "code": status, "message": message, "status": word } })
        }
        "messages" => {
            let kind = if *status == 401 { "authentication_error" } else { "invalid_request_error" };
            json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": "req_1" })
        }
        _ => {
            json!({ "error": { "message": message, "type": "invalid_request_error", "param": field, "code": null } })
        }
    };
    exchange.json(*status, &body, &[]);
}
