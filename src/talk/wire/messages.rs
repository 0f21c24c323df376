//! Anthropic's messages (`POST /v1/messages`, streamed), as its API reference has them.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::body::{OPENING, arguments, base64, complaint, is_users, lay_over};
use super::events::Event;
use super::{Progress, Reader};
use crate::talk::message::{Delta, Endpoint, Failure, Finish, Message, Part, Request, Role, ToolCall, Usage};

/// The version of the API that is spoken, of its header.
pub const VERSION: &str = "2023-06-01";

/// An answer must have a limit here; a spoken one is far shorter.
const TOKENS: u32 = 1_024;
/// Calls one answer may make, and bytes of one call's arguments.
const CALLS_MAX: usize = 32;
const ARGUMENTS_MAX: usize = 64 << 10;

/// The JSON of a request.
pub fn body(endpoint: &Endpoint, request: &Request) -> Value {
    let mut messages: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in &request.messages {
        let role = if is_users(message.role) { "user" } else { "assistant" };
        if messages.is_empty() && role == "assistant" {
            messages.push(("user", vec![text(OPENING)]));
        }
        let blocks = blocks(message);
        match messages.last_mut() {
            Some((last, all)) if *last == role => all.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => messages.push((role, blocks)),
        }
    }
    let messages: Vec<Value> =
        messages.into_iter().map(|(role, content)| json!({ "role": role, "content": content })).collect();
    let mut body = json!({
        "model": endpoint.model,
        "max_tokens": request.max_tokens.unwrap_or(TOKENS),
        "messages": messages,
        "stream": true,
    });
    if !request.instructions.is_empty() {
        body["system"] = request.instructions.as_str().into();
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({ "name": tool.name, "description": tool.description, "input_schema": tool.parameters })
        });
        body["tools"] = tools.collect();
    }
    if let Some((_, schema)) = &request.schema {
        body["output_config"] = json!({ "format": { "type": "json_schema", "schema": schema } });
    }
    if let Some(temperature) = endpoint.temperature {
        body["temperature"] = temperature.into();
    }
    lay_over(&mut body, &endpoint.options);
    body
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn blocks(message: &Message) -> Vec<Value> {
    // Empty text is refused.
    let mut blocks: Vec<Value> = message.parts.iter().filter_map(block).collect();
    if message.role == Role::Tool {
        let id = message.answers.as_ref().map_or("", |(id, _)| id);
        return vec![json!({ "type": "tool_result", "tool_use_id": id, "content": blocks })];
    }
    blocks.extend(message.calls.iter().map(|call| {
        let input = arguments(&call.arguments);
        json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input })
    }));
    blocks
}

fn block(part: &Part) -> Option<Value> {
    match part {
        Part::Text(words) => (!words.trim().is_empty()).then(|| text(words)),
        Part::Image(image) => {
            let (kind, data) = (image.kind.media_type(), base64(&image.bytes));
            let source = json!({ "type": "base64", "media_type": kind, "data": data });
            Some(json!({ "type": "image", "source": source }))
        }
        Part::Url(url) => Some(json!({ "type": "image", "source": { "type": "url", "url": url } })),
    }
}

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Messages {
    /// The call being written, by the index of its block.
    call: Option<(u64, ToolCall)>,
    calls: usize,
    usage: Usage,
    finish: Option<Finish>,
    stopped: bool,
    over: bool,
}

impl Messages {
    fn handle_usage(&mut self, value: &Value) {
        let number = |key: &str| value[key].as_u64();
        let (read, made) = (number("cache_read_input_tokens"), number("cache_creation_input_tokens"));
        if let Some(plain) = number("input_tokens") {
            // What came from the cache is counted apart there, and as a part of the whole here.
            self.usage.input_tokens = plain + read.unwrap_or(0) + made.unwrap_or(0);
            self.usage.cached_tokens = read.unwrap_or(0);
        }
        if let Some(tokens) = number("output_tokens") {
            self.usage.output_tokens = tokens;
        }
    }

    fn handle_start(&mut self, value: &Value, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        let block = &value["content_block"];
        match block["type"].as_str() {
            Some("tool_use") => {
                self.calls += 1;
                if self.calls > CALLS_MAX {
                    return Err(Failure::Garbled(format!("more than {CALLS_MAX} calls in an answer")));
                }
                let word = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
                let call = ToolCall {
                    id: word("id"),
                    name: word("name"),
                    arguments: String::new(),
                    signature: None,
                };
                self.call = Some((value["index"].as_u64().unwrap_or(0), call));
            }
            Some("text") => {
                let text = block["text"].as_str().filter(|text| !text.is_empty());
                out.extend(text.map(|text| Delta::Text(text.to_owned())));
            }
            // Thoughts and whatever is added later.
            _ => {}
        }
        Ok(())
    }

    fn handle_delta(&mut self, value: &Value, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        let delta = &value["delta"];
        match delta["type"].as_str() {
            Some("text_delta") => {
                let text = delta["text"].as_str().filter(|text| !text.is_empty());
                out.extend(text.map(|text| Delta::Text(text.to_owned())));
            }
            Some("input_json_delta") => {
                if let Some((_, call)) = &mut self.call {
                    call.arguments.push_str(delta["partial_json"].as_str().unwrap_or_default());
                    if call.arguments.len() > ARGUMENTS_MAX {
                        return Err(Failure::Garbled(format!(
                            "arguments of more than {ARGUMENTS_MAX} bytes"
                        )));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn handle_block_stop(&mut self, value: &Value, out: &mut VecDeque<Delta>) {
        let index = value["index"].as_u64().unwrap_or(0);
        if let Some((_, mut call)) = self.call.take_if(|(of, _)| *of == index) {
            if call.arguments.is_empty() {
                call.arguments.push_str("{}");
            }
            out.push_back(Delta::Call(call));
        }
    }
}

/// An error in the middle of an answer.
fn failure(value: &Value, data: &str) -> Failure {
    match value["error"]["type"].as_str() {
        Some("rate_limit_error") => Failure::Busy { retry_after_ms: None },
        Some("overloaded_error") => Failure::Failed { status: 529, text: complaint(data, "") },
        _ => Failure::Failed { status: 500, text: complaint(data, "") },
    }
}

impl Reader for Messages {
    fn handle_event(&mut self, event: &Event, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        let value: Value = serde_json::from_str(&event.data)
            .map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
        match value["type"].as_str() {
            Some("message_start") => self.handle_usage(&value["message"]["usage"]),
            Some("content_block_start") => self.handle_start(&value, out)?,
            Some("content_block_delta") => self.handle_delta(&value, out)?,
            Some("content_block_stop") => self.handle_block_stop(&value, out),
            Some("message_delta") => {
                self.handle_usage(&value["usage"]);
                self.finish = match value["delta"]["stop_reason"].as_str() {
                    Some("tool_use") => Some(Finish::Tools),
                    Some("max_tokens" | "model_context_window_exceeded") => Some(Finish::Length),
                    Some("refusal") => Some(Finish::Refused),
                    Some(_) => Some(Finish::Stop),
                    None => self.finish,
                };
            }
            Some("message_stop") => {
                self.stopped = true;
                return self.handle_end(out);
            }
            Some("error") => return Err(failure(&value, &event.data)),
            // Pings and whatever is added later.
            _ => {}
        }
        Ok(())
    }

    fn handle_end(&mut self, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let finish = self.finish.ok_or(Failure::Cut)?;
        out.push_back(Delta::Usage(self.usage));
        out.push_back(Delta::Finish(finish));
        Ok(())
    }

    fn progress(&self) -> Progress {
        match (self.over || self.stopped, self.finish) {
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

    fn data(events: &[Value]) -> Vec<String> {
        events.iter().map(Value::to_string).collect()
    }

    fn start() -> Value {
        json!({ "type": "message_start", "message": { "usage": { "input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1 } } })
    }

    fn end(reason: &str) -> [Value; 2] {
        [
            json!({ "type": "message_delta", "delta": { "stop_reason": reason }, "usage": { "output_tokens": 6 } }),
            json!({ "type": "message_stop" }),
        ]
    }

    #[test]
    fn results_of_tools_are_the_users_and_the_user_begins() {
        let endpoint = Endpoint { model: "m".to_owned(), ..Endpoint::new("x", Vendor::Anthropic) };
        let call = ToolCall {
            id: "t1".to_owned(),
            name: "look".to_owned(),
            arguments: "{broken".to_owned(),
            signature: None,
        };
        let request = Request {
            instructions: "Be brief.".to_owned(),
            messages: vec![
                Message::text(Role::Assistant, "Hello."),
                Message::text(Role::User, "Look."),
                Message { calls: vec![call], ..Message::text(Role::Assistant, "") },
                Message {
                    answers: Some(("t1".to_owned(), "look".to_owned())),
                    ..Message::text(Role::Tool, "a door")
                },
                Message::text(Role::User, "Well?"),
            ],
            schema: Some(("seen".to_owned(), json!({ "type": "object" }))),
            ..Request::default()
        };
        let body = body(&endpoint, &request);
        let roles: Vec<&str> =
            body["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
        assert_eq!(
            body["messages"][3]["content"],
            json!([{ "type": "tool_use", "id": "t1", "name": "look", "input": {} }]),
            "no empty text"
        );
        let last = &body["messages"][4]["content"];
        assert_eq!(
            last[0],
            json!({ "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "a door" }] })
        );
        assert_eq!(last[1]["text"], "Well?");
        assert_eq!((&body["system"], &body["max_tokens"]), (&json!("Be brief."), &json!(1_024)));
        assert_eq!(body["output_config"]["format"]["schema"], json!({ "type": "object" }));
    }

    #[test]
    fn text_and_calls_come_with_what_was_used_up() {
        let mut events = vec![
            start(),
            json!({ "type": "ping" }),
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "One moment." } }),
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({ "type": "content_block_start", "index": 1, "content_block": { "type": "tool_use", "id": "t1", "name": "look", "input": {} } }),
            json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "input_json_delta", "partial_json": "{\"a\"" } }),
            json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "input_json_delta", "partial_json": ":1}" } }),
            json!({ "type": "content_block_stop", "index": 1 }),
        ];
        events.extend(end("tool_use"));
        let deltas = read(Messages::default(), &data(&events)).expect("an answer");
        assert_eq!(words(&deltas), "One moment.");
        let usage = Usage { input_tokens: 100, cached_tokens: 90, image_tokens: 0, output_tokens: 6 };
        let call = ToolCall {
            id: "t1".to_owned(),
            name: "look".to_owned(),
            arguments: "{\"a\":1}".to_owned(),
            signature: None,
        };
        assert_eq!(deltas[1..], [Delta::Call(call), Delta::Usage(usage), Delta::Finish(Finish::Tools)]);
    }

    #[test]
    fn ends_and_errors_are_told_apart() {
        for (reason, finish) in [
            ("end_turn", Finish::Stop),
            ("max_tokens", Finish::Length),
            ("refusal", Finish::Refused),
            ("a reason of tomorrow", Finish::Stop),
        ] {
            let deltas = read(Messages::default(), &data(&end(reason))).expect("an answer");
            assert_eq!(deltas.last(), Some(&Delta::Finish(finish)));
        }
        assert_eq!(read(Messages::default(), &data(&[start()])).map(drop), Err(Failure::Cut));
        let error = |kind: &str| {
            let error = json!({ "type": "error", "error": { "type": kind, "message": "Overloaded" } });
            read(Messages::default(), &data(&[error]))
        };
        assert_eq!(
            error("overloaded_error"),
            Err(Failure::Failed { status: 529, text: "Overloaded".to_owned() })
        );
        assert_eq!(error("rate_limit_error"), Err(Failure::Busy { retry_after_ms: None }));
    }
}
