//! Gemini's generateContent, streamed (`POST /models/{model}:streamGenerateContent?alt=sse`), as Google's API reference
//! has it. Each event is a whole answer of which one more piece has come; there is no mark of the end.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::body::{OPENING, OWN_ID, arguments, base64, complaint, is_users, lay_over};
use super::events::Event;
use super::{Progress, Reader};
use crate::talk::message::{Delta, Endpoint, Failure, Finish, Message, Part, Request, Role, ToolCall, Usage};

/// Calls one answer may make.
const CALLS_MAX: usize = 32;

/// The path below the root, with its query.
pub fn path(endpoint: &Endpoint) -> String {
    let model = endpoint.model.strip_prefix("models/").unwrap_or(&endpoint.model);
    format!("models/{model}:streamGenerateContent")
}

/// The JSON of a request.
pub fn body(endpoint: &Endpoint, request: &Request) -> Value {
    let mut contents: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        let role = if is_users(message.role) { "user" } else { "model" };
        if contents.is_empty() && role == "model" {
            contents.push(("user", vec![json!({ "text": OPENING })]));
        }
        let parts = parts(message);
        match contents.last_mut() {
            Some((last, all)) if *last == role => all.extend(parts),
            _ if parts.is_empty() => {}
            _ => contents.push((role, parts)),
        }
    }
    let contents: Vec<Value> =
        contents.into_iter().map(|(role, parts)| json!({ "role": role, "parts": parts })).collect();
    let mut body = json!({ "contents": contents });
    if !request.instructions.is_empty() {
        body["systemInstruction"] = json!({ "parts": [{ "text": request.instructions }] });
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "name": tool.name,
                "description": tool.description,
                "parametersJsonSchema": tool.parameters,
            })
        });
        body["tools"] = json!([{ "functionDeclarations": tools.collect::<Vec<_>>() }]);
    }
    let mut settings = Map::new();
    if let Some((_, schema)) = &request.schema {
        settings.insert("responseMimeType".to_owned(), "application/json".into());
        settings.insert("responseJsonSchema".to_owned(), schema.clone());
    }
    if let Some(most) = request.max_tokens {
        settings.insert("maxOutputTokens".to_owned(), most.into());
    }
    if let Some(temperature) = endpoint.temperature {
        settings.insert("temperature".to_owned(), temperature.into());
    }
    if !settings.is_empty() {
        body["generationConfig"] = Value::Object(settings);
    }
    lay_over(&mut body, &endpoint.options);
    body
}

fn parts(message: &Message) -> Vec<Value> {
    let mut parts = Vec::new();
    if message.role == Role::Tool {
        let (id, name) = message.answers.clone().unwrap_or_default();
        let mut answer = json!({ "name": name, "response": { "output": message.words() } });
        if !id.is_empty() && !id.starts_with(OWN_ID) {
            answer["id"] = id.into();
        }
        parts.push(json!({ "functionResponse": answer }));
    }
    for part in &message.parts {
        match part {
            Part::Text(_) if message.role == Role::Tool => {}
            Part::Text(text) if text.is_empty() => {}
            Part::Text(text) => parts.push(json!({ "text": text })),
            Part::Image(image) => parts.push(json!({
                "inlineData": { "mimeType": image.kind.media_type(), "data": base64(&image.bytes) }
            })),
            Part::Url(url) => {
                parts.push(json!({ "fileData": { "fileUri": url, "mimeType": media_type_of(url) } }));
            }
        }
    }
    for call in &message.calls {
        let mut function = json!({ "name": call.name, "args": arguments(&call.arguments) });
        if !call.id.is_empty() && !call.id.starts_with(OWN_ID) {
            function["id"] = call.id.as_str().into();
        }
        let mut part = json!({ "functionCall": function });
        if let Some(signature) = &call.signature {
            part["thoughtSignature"] = signature.as_str().into();
        }
        parts.push(part);
    }
    parts
}

/// By the end of its name; JPEG where that says nothing.
fn media_type_of(url: &str) -> &'static str {
    let path = url.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    match path.rsplit('.').next() {
        Some("png") => "image/png",
        Some("webp") => "image/webp",
        Some("gif") => "image/gif",
        _ => "image/jpeg",
    }
}

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Generate {
    calls: usize,
    usage: Option<Usage>,
    finish: Option<Finish>,
    over: bool,
}

impl Generate {
    fn handle_part(&mut self, part: &Value, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        if part["thought"].as_bool() == Some(true) {
            return Ok(());
        }
        if let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) {
            out.push_back(Delta::Text(text.to_owned()));
        }
        let call = &part["functionCall"];
        if call.is_object() {
            self.calls += 1;
            if self.calls > CALLS_MAX {
                return Err(Failure::Garbled(format!("more than {CALLS_MAX} calls in an answer")));
            }
            let id = call["id"].as_str().filter(|id| !id.is_empty());
            let arguments = if call["args"].is_object() { call["args"].to_string() } else { "{}".to_owned() };
            out.push_back(Delta::Call(ToolCall {
                id: id.map_or_else(|| format!("{OWN_ID}{}", self.calls), str::to_owned),
                name: call["name"].as_str().unwrap_or_default().to_owned(),
                arguments,
                signature: part["thoughtSignature"].as_str().map(str::to_owned),
            }));
        }
        Ok(())
    }

    fn handle_finish(&mut self, reason: &str) -> Result<(), Failure> {
        self.finish = Some(match reason {
            "MAX_TOKENS" => Finish::Length,
            "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "MALFORMED_RESPONSE" => {
                return Err(Failure::Garbled(reason.to_lowercase()));
            }
            "STOP" | "FINISH_REASON_UNSPECIFIED" | "OTHER" if self.calls > 0 => Finish::Tools,
            "STOP" | "FINISH_REASON_UNSPECIFIED" | "OTHER" => Finish::Stop,
            // SAFETY, RECITATION, BLOCKLIST, PROHIBITED_CONTENT, SPII, LANGUAGE and those of images.
            _ => Finish::Refused,
        });
        Ok(())
    }
}

fn usage(value: &Value) -> Usage {
    let number = |key: &str| value[key].as_u64().unwrap_or(0);
    let details = value["promptTokensDetails"].as_array().into_iter().flatten();
    let pictures = details.filter(|detail| matches!(detail["modality"].as_str(), Some("IMAGE" | "VIDEO")));
    Usage {
        input_tokens: number("promptTokenCount"),
        cached_tokens: number("cachedContentTokenCount"),
        image_tokens: pictures.filter_map(|detail| detail["tokenCount"].as_u64()).sum(),
        output_tokens: number("candidatesTokenCount") + number("thoughtsTokenCount"),
    }
}

impl Reader for Generate {
    fn handle_event(&mut self, event: &Event, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        let value: Value = serde_json::from_str(&event.data)
            .map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
        if value["error"].is_object() {
            let status = value["error"]["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500);
            return Err(match status {
                429 => Failure::Busy { retry_after_ms: None },
                _ => Failure::Failed { status, text: complaint(&event.data, "") },
            });
        }
        if value["usageMetadata"].is_object() {
            self.usage = Some(usage(&value["usageMetadata"]));
        }
        if value["promptFeedback"]["blockReason"].is_string() {
            self.finish = Some(Finish::Refused);
        }
        let candidate = &value["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.handle_part(part, out)?;
        }
        match candidate["finishReason"].as_str() {
            Some(reason) => self.handle_finish(reason),
            None => Ok(()),
        }
    }

    fn handle_end(&mut self, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let finish = self.finish.ok_or(Failure::Cut)?;
        out.extend(self.usage.map(Delta::Usage));
        out.push_back(Delta::Finish(finish));
        Ok(())
    }

    fn progress(&self) -> Progress {
        match (self.over, self.finish) {
            (true, _) => Progress::Over,
            (false, Some(_)) => Progress::Said,
            (false, None) => Progress::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Vendor;
    use crate::talk::wire::tests::{read, words};

    fn piece(part: Value, finish: Option<&str>) -> String {
        let mut candidate = json!({ "content": { "role": "model", "parts": [part] }, "index": 0 });
        if let Some(finish) = finish {
            candidate["finishReason"] = finish.into();
        }
        json!({ "candidates": [candidate], "modelVersion": "m" }).to_string()
    }

    #[test]
    fn turns_alternate_and_begin_with_the_user() {
        let endpoint = Endpoint {
            model: "models/m".to_owned(),
            temperature: Some(0.5),
            ..Endpoint::new("x", Vendor::Gemini)
        };
        let call = ToolCall {
            id: format!("{OWN_ID}1"),
            name: "look".to_owned(),
            arguments: "{\"at\":1}".to_owned(),
            signature: Some("s1".to_owned()),
        };
        let request = Request {
            instructions: "Be brief.".to_owned(),
            messages: vec![
                Message::text(Role::Assistant, "Hello."),
                Message { calls: vec![call.clone()], ..Message::text(Role::Assistant, "") },
                Message {
                    answers: Some((call.id.clone(), "look".to_owned())),
                    ..Message::text(Role::Tool, "a door")
                },
                Message::text(Role::System, "a note"),
                Message::text(Role::User, "Well?"),
            ],
            schema: Some(("seen".to_owned(), json!({ "type": "object" }))),
            max_tokens: Some(7),
            ..Request::default()
        };
        let body = body(&endpoint, &request);
        let roles: Vec<&str> =
            body["contents"].as_array().expect("a list").iter().filter_map(|c| c["role"].as_str()).collect();
        assert_eq!(roles, ["user", "model", "user"]);
        let called = &body["contents"][1]["parts"][1];
        assert_eq!(called["functionCall"], json!({ "name": "look", "args": { "at": 1 } }));
        assert_eq!(called["thoughtSignature"], "s1");
        let answered = &body["contents"][2]["parts"];
        assert_eq!(
            answered[0]["functionResponse"],
            json!({ "name": "look", "response": { "output": "a door" } })
        );
        assert_eq!((&answered[1]["text"], &answered[2]["text"]), (&json!("a note"), &json!("Well?")));
        assert_eq!(body["systemInstruction"]["parts"][0]["text"], "Be brief.");
        assert_eq!(
            body["generationConfig"],
            json!({ "responseMimeType": "application/json", "responseJsonSchema": { "type": "object" },
                "maxOutputTokens": 7, "temperature": 0.5 })
        );
        assert_eq!(path(&endpoint), "models/m:streamGenerateContent");
    }

    #[test]
    fn an_answer_is_read_piece_by_piece_without_its_thoughts() {
        let last = json!({ "candidates": [{ "content": { "parts": [{ "text": "." }] }, "finishReason": "STOP" }],
            "usageMetadata": { "promptTokenCount": 300, "candidatesTokenCount": 5, "thoughtsTokenCount": 2,
                "promptTokensDetails": [{ "modality": "TEXT", "tokenCount": 42 }, { "modality": "IMAGE", "tokenCount": 258 }] } });
        let events = [
            piece(json!({ "text": "let me think", "thought": true }), None),
            piece(json!({ "text": "A door" }), None),
            last.to_string(),
        ];
        let deltas = read(Generate::default(), &events).expect("an answer");
        assert_eq!(words(&deltas), "A door.");
        let usage = Usage { input_tokens: 300, cached_tokens: 0, image_tokens: 258, output_tokens: 7 };
        assert_eq!(deltas[deltas.len() - 2..], [Delta::Usage(usage), Delta::Finish(Finish::Stop)]);
        assert_eq!(read(Generate::default(), &events[..2]).map(drop), Err(Failure::Cut));
    }

    #[test]
    fn calls_keep_their_signature_and_get_an_id() {
        let part =
            json!({ "functionCall": { "name": "look", "args": { "at": 1 } }, "thoughtSignature": "s1" });
        let deltas = read(Generate::default(), &[piece(part, Some("STOP"))]).expect("an answer");
        let call = ToolCall {
            id: "own-1".to_owned(),
            name: "look".to_owned(),
            arguments: "{\"at\":1}".to_owned(),
            signature: Some("s1".to_owned()),
        };
        assert_eq!(deltas, [Delta::Call(call), Delta::Finish(Finish::Tools)]);
    }

    #[test]
    fn refusals_and_errors_are_told_apart() {
        let refused = |event: Value| read(Generate::default(), &[event.to_string()]);
        for event in [
            json!({ "promptFeedback": { "blockReason": "SAFETY" } }),
            json!({ "candidates": [{ "finishReason": "PROHIBITED_CONTENT" }] }),
        ] {
            assert_eq!(refused(event), Ok(vec![Delta::Finish(Finish::Refused)]));
        }
        let busy =
            json!({ "error": { "code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED" } });
        assert_eq!(refused(busy), Err(Failure::Busy { retry_after_ms: None }));
        assert!(matches!(
            refused(json!({ "candidates": [{ "finishReason": "MALFORMED_FUNCTION_CALL" }] })),
            Err(Failure::Garbled(_))
        ));
        assert!(matches!(read(Generate::default(), &["[{".to_owned()]), Err(Failure::Garbled(_))));
    }
}
