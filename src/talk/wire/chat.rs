//! Chat completions, as OpenAI's API reference has them (`POST /chat/completions`, streamed) and vLLM, Ollama, llama.cpp,
//! LM Studio and others speak them too.
//!
//! Written for all of these: text alone is a plain string, pictures stand before it, unknown members are passed over.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::body::{arguments, complaint, data_url, lay_over, pictures};
use super::events::Event;
use super::{Progress, Reader};
use crate::talk::message::{
    Delta, Detail, Endpoint, Failure, Finish, Message, Part, Request, Role, ToolCall, Usage,
};

/// Calls one answer may make, and bytes of one call's arguments.
const CALLS_MAX: usize = 32;
const ARGUMENTS_MAX: usize = 64 << 10;

/// The JSON of a request.
pub fn body(endpoint: &Endpoint, request: &Request) -> Value {
    let mut messages = Vec::new();
    if !request.instructions.is_empty() {
        messages.push(json!({ "role": "system", "content": request.instructions }));
    }
    // Pictures of tools, which may not stand in their answers and not between them.
    let mut shown = Vec::new();
    for message in &request.messages {
        if message.role != Role::Tool && !shown.is_empty() {
            messages.push(json!({ "role": "user", "content": std::mem::take(&mut shown) }));
        }
        messages.push(written(message));
        if message.role == Role::Tool {
            shown.extend(pictures(message).map(part));
        }
    }
    if !shown.is_empty() {
        messages.push(json!({ "role": "user", "content": shown }));
    }
    let mut body = json!({
        "model": endpoint.model,
        "messages": messages,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    let mut set = |key: &str, value: Value| body[key] = value;
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            let function =
                json!({ "name": tool.name, "description": tool.description, "parameters": tool.parameters });
            json!({ "type": "function", "function": function })
        });
        set("tools", tools.collect());
    }
    if let Some((name, schema)) = &request.schema {
        let schema = json!({ "name": name, "schema": schema, "strict": true });
        set("response_format", json!({ "type": "json_schema", "json_schema": schema }));
    }
    if let Some(most) = request.max_tokens {
        // OpenAI's newer models know the newer name alone, most other servers the older.
        let name = if endpoint.base_url.is_empty() { "max_completion_tokens" } else { "max_tokens" };
        set(name, json!(most));
    }
    if let Some(temperature) = endpoint.temperature {
        set("temperature", json!(temperature));
    }
    lay_over(&mut body, &endpoint.options);
    body
}

fn written(message: &Message) -> Value {
    let words = message.words();
    match message.role {
        Role::System => json!({ "role": "system", "content": words }),
        Role::Tool => {
            let id = message.answers.as_ref().map_or("", |(id, _)| id);
            json!({ "role": "tool", "tool_call_id": id, "content": words })
        }
        Role::Assistant if message.calls.is_empty() => json!({ "role": "assistant", "content": words }),
        Role::Assistant => {
            let calls = message.calls.iter().map(|call| {
                let arguments = arguments(&call.arguments).to_string();
                let function = json!({ "name": call.name, "arguments": arguments });
                json!({ "id": call.id, "type": "function", "function": function })
            });
            let content = if words.is_empty() { Value::Null } else { words.into() };
            json!({ "role": "assistant", "content": content, "tool_calls": calls.collect::<Vec<_>>() })
        }
        Role::User => {
            let mut parts: Vec<Value> = pictures(message).map(part).collect();
            if parts.is_empty() {
                return json!({ "role": "user", "content": words });
            }
            if !words.is_empty() {
                parts.push(json!({ "type": "text", "text": words }));
            }
            json!({ "role": "user", "content": parts })
        }
    }
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Url(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
        Part::Image(image) => {
            let mut place = json!({ "url": data_url(image) });
            let detail = match image.detail {
                Detail::Auto => Some("auto"),
                Detail::Low => Some("low"),
                Detail::High => Some("high"),
                Detail::Omit => None,
            };
            if let Some(detail) = detail {
                place["detail"] = detail.into();
            }
            json!({ "type": "image_url", "image_url": place })
        }
    }
}

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Chat {
    calls: Vec<Written>,
    usage: Option<Usage>,
    finish: Option<Finish>,
    over: bool,
    thinking: Thinking,
}

/// A call as far as it has come.
#[derive(Debug)]
struct Written {
    index: u64,
    call: ToolCall,
}

/// Local models write what they think into their answer, before it: `<think>…</think>`. It is not to be spoken.
#[derive(Debug, PartialEq, Eq)]
enum Thinking {
    /// What has come may become `<think>`.
    Unknown(String),
    /// The end of what was thought, in which the closing mark may begin.
    Yes(String),
    /// Thought out, and nothing but space since.
    Past,
    No,
}

impl Default for Thinking {
    fn default() -> Self {
        Thinking::Unknown(String::new())
    }
}

const THINK: &str = "<think>";
const THOUGHT: &str = "</think>";

impl Chat {
    fn handle_choice(&mut self, choice: &Value, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        // A server that does not stream gives the whole message at once.
        let delta = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        for key in ["content", "refusal"] {
            if let Some(text) = delta[key].as_str().filter(|text| !text.is_empty()) {
                self.handle_text(text, out);
            }
        }
        for (place, piece) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.handle_call(place, piece)?;
        }
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.flush_text(out);
            out.extend(self.calls.drain(..).map(|written| Delta::Call(written.call)));
            let called = out.iter().any(|delta| matches!(delta, Delta::Call(_)));
            self.finish = Some(match reason {
                "length" => Finish::Length,
                "content_filter" => Finish::Refused,
                _ if called => Finish::Tools,
                _ => Finish::Stop,
            });
        }
        Ok(())
    }

    fn handle_text(&mut self, text: &str, out: &mut VecDeque<Delta>) {
        match &mut self.thinking {
            Thinking::No => out.push_back(Delta::Text(text.to_owned())),
            Thinking::Past => {
                let answer = text.trim_start();
                if !answer.is_empty() {
                    out.push_back(Delta::Text(answer.to_owned()));
                    self.thinking = Thinking::No;
                }
            }
            Thinking::Unknown(seen) => {
                seen.push_str(text);
                let start = seen.trim_start();
                if let Some(thought) = start.strip_prefix(THINK) {
                    let thought = thought.to_owned();
                    self.thinking = Thinking::Yes(String::new());
                    self.handle_text(&thought, out);
                } else if !THINK.starts_with(start) {
                    self.flush_text(out);
                }
            }
            Thinking::Yes(end) => {
                end.push_str(text);
                if let Some((_, answer)) = end.split_once(THOUGHT) {
                    let answer = answer.to_owned();
                    self.thinking = Thinking::Past;
                    self.handle_text(&answer, out);
                } else {
                    let cut = end.len().saturating_sub(THOUGHT.len());
                    let cut = (cut..=end.len()).find(|at| end.is_char_boundary(*at)).unwrap_or(0);
                    end.drain(..cut);
                }
            }
        }
    }

    /// A beginning that is not one of thoughts is one of an answer.
    fn flush_text(&mut self, out: &mut VecDeque<Delta>) {
        if let Thinking::Unknown(seen) = &mut self.thinking {
            out.extend((!seen.is_empty()).then(|| Delta::Text(std::mem::take(seen))));
            self.thinking = Thinking::No;
        }
    }

    fn handle_call(&mut self, place: usize, piece: &Value) -> Result<(), Failure> {
        let index = piece["index"].as_u64().unwrap_or(place as u64);
        let id = piece["id"].as_str().unwrap_or_default();
        let function = &piece["function"];
        let name = function["name"].as_str().unwrap_or_default();
        // Some servers number every call 0: another id is another call.
        let known = self.calls.iter().rposition(|written| {
            written.index == index && (id.is_empty() || written.call.id == id || written.call.id.is_empty())
        });
        let known = known.unwrap_or(self.calls.len());
        if known == self.calls.len() {
            let id = if id.is_empty() { format!("call_{known}") } else { id.to_owned() };
            let (name, arguments) = (String::new(), String::new());
            self.calls.push(Written { index, call: ToolCall { id, name, arguments, signature: None } });
        }
        let Some(written) = self.calls.get_mut(known).filter(|_| known < CALLS_MAX) else {
            return Err(Failure::Garbled(format!("more than {CALLS_MAX} calls in an answer")));
        };
        if written.call.name.is_empty() {
            name.clone_into(&mut written.call.name);
        }
        match &function["arguments"] {
            Value::String(text) => written.call.arguments.push_str(text),
            whole @ Value::Object(_) => written.call.arguments = whole.to_string(),
            _ => {}
        }
        if written.call.arguments.len() > ARGUMENTS_MAX {
            return Err(Failure::Garbled(format!("arguments of more than {ARGUMENTS_MAX} bytes")));
        }
        Ok(())
    }
}

fn usage(value: &Value) -> Usage {
    let number = |place: &str| value.pointer(place).and_then(Value::as_u64).unwrap_or(0);
    Usage {
        input_tokens: number("/prompt_tokens"),
        cached_tokens: number("/prompt_tokens_details/cached_tokens"),
        image_tokens: number("/prompt_tokens_details/image_tokens"),
        output_tokens: number("/completion_tokens"),
    }
}

impl Reader for Chat {
    fn handle_event(&mut self, event: &Event, out: &mut VecDeque<Delta>) -> Result<(), Failure> {
        let data = event.data.trim();
        if data == "[DONE]" {
            return self.handle_end(out);
        }
        let value: Value =
            serde_json::from_str(data).map_err(|error| Failure::Garbled(format!("no JSON: {error}")))?;
        if !value["error"].is_null() {
            let status = value["error"]["code"].as_u64().and_then(|code| code.try_into().ok()).unwrap_or(500);
            return Err(Failure::Failed { status, text: complaint(data, "") });
        }
        if value["usage"].is_object() {
            self.usage = Some(usage(&value["usage"]));
        }
        match value["choices"].get(0) {
            Some(choice) => self.handle_choice(choice, out),
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
            (false, Some(_)) if self.usage.is_some() => Progress::Over,
            (false, Some(_)) => Progress::Said,
            (false, None) => Progress::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::frame::Size;
    use crate::talk::message::{Image, ImageType, ToolSpec, Vendor};
    use crate::talk::wire::tests::{read, words};
    use std::sync::Arc;

    fn chunk(delta: Value, finish: Option<&str>) -> String {
        json!({ "id": "c", "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }], "usage": null })
            .to_string()
    }

    fn image(detail: Detail) -> Part {
        let mut image = Image::given(1, ImageType::Jpeg, *b"jpg", Size { width: 2, height: 2 }, "");
        image.detail = detail;
        Part::Image(Arc::new(image))
    }

    #[test]
    fn pictures_stand_before_words_and_text_alone_is_a_string() {
        let endpoint = Endpoint { model: "m".to_owned(), ..Endpoint::new("x", Vendor::OpenAi) };
        let seen = vec![Part::Text("What is this?".to_owned()), image(Detail::Omit), image(Detail::Low)];
        let request = Request {
            instructions: "Be brief.".to_owned(),
            messages: vec![
                Message::text(Role::Assistant, "Hello."),
                Message { parts: seen, ..Message::text(Role::User, "") },
            ],
            max_tokens: Some(9),
            ..Request::default()
        };
        let body = body(&endpoint, &request);
        assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
        assert_eq!(body["messages"][1]["content"], "Hello.");
        let content = &body["messages"][2]["content"];
        assert_eq!(
            content[0],
            json!({ "type": "image_url", "image_url": { "url": "data:image/jpeg;base64,anBn" } })
        );
        assert_eq!(content[1]["image_url"]["detail"], "low");
        assert_eq!(content[2], json!({ "type": "text", "text": "What is this?" }));
        assert_eq!((&body["max_completion_tokens"], &body["stream"]), (&json!(9), &json!(true)));
    }

    #[test]
    fn pictures_of_tools_follow_all_their_answers() {
        let endpoint =
            Endpoint { base_url: "http://10.0.0.1/v1".to_owned(), ..Endpoint::new("x", Vendor::OpenAi) };
        let call = |id: &str, arguments: &str| ToolCall {
            id: id.to_owned(),
            name: "look".to_owned(),
            arguments: arguments.to_owned(),
            signature: None,
        };
        let answer = |id: &str, parts| Message {
            parts,
            answers: Some((id.to_owned(), "look".to_owned())),
            ..Message::text(Role::Tool, "")
        };
        let request = Request {
            messages: vec![
                Message {
                    calls: vec![call("a", "{}"), call("b", "{broken")],
                    ..Message::text(Role::Assistant, "")
                },
                answer("a", vec![Part::Text("here".to_owned()), image(Detail::Auto)]),
                answer("b", vec![Part::Text("nothing".to_owned())]),
            ],
            tools: vec![ToolSpec {
                name: "look".to_owned(),
                description: "Looks.".to_owned(),
                parameters: json!({ "type": "object" }),
            }],
            max_tokens: Some(5),
            ..Request::default()
        };
        let body = body(&endpoint, &request);
        let roles: Vec<&str> =
            body["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
        assert_eq!(roles, ["assistant", "tool", "tool", "user"]);
        assert_eq!(body["messages"][0]["tool_calls"][1]["function"]["arguments"], "{}");
        assert_eq!(body["messages"][0]["content"], Value::Null);
        assert_eq!(body["messages"][2], json!({ "role": "tool", "tool_call_id": "b", "content": "nothing" }));
        assert_eq!(body["messages"][3]["content"][0]["image_url"]["detail"], "auto");
        assert_eq!(body["tools"][0]["function"]["name"], "look");
        assert_eq!(body["max_tokens"], 5);
    }

    #[test]
    fn an_answer_is_put_together_from_its_chunks() {
        let usage = json!({ "choices": [], "usage": { "prompt_tokens": 90, "completion_tokens": 4,
            "prompt_tokens_details": { "cached_tokens": 10, "image_tokens": 85 } } });
        let events = [
            chunk(json!({ "role": "assistant", "content": "" }), None),
            chunk(json!({ "content": "Hello" }), None),
            chunk(json!({ "content": " you." }), None),
            chunk(json!({}), Some("stop")),
            usage.to_string(),
            "[DONE]".to_owned(),
        ];
        let deltas = read(Chat::default(), &events).expect("an answer");
        assert_eq!(words(&deltas), "Hello you.");
        let usage = Usage { input_tokens: 90, cached_tokens: 10, image_tokens: 85, output_tokens: 4 };
        assert_eq!(deltas[deltas.len() - 2..], [Delta::Usage(usage), Delta::Finish(Finish::Stop)]);
        let without_done = read(Chat::default(), &events[..4]).expect("an answer");
        assert_eq!(without_done.last(), Some(&Delta::Finish(Finish::Stop)));
        assert_eq!(
            read(Chat::default(), &events[..3]).map(drop),
            Err(Failure::Cut),
            "no finish_reason: it was cut"
        );
    }

    #[test]
    fn calls_come_whole_whatever_pieces_servers_make() {
        let piece = |value: Value| chunk(json!({ "tool_calls": [value] }), None);
        let openai = [
            piece(
                json!({ "index": 0, "id": "call_a", "type": "function", "function": { "name": "look", "arguments": "" } }),
            ),
            piece(json!({ "index": 0, "function": { "arguments": "{\"w" } })),
            piece(json!({ "index": 0, "function": { "arguments": "\":1}" } })),
            piece(
                json!({ "index": 1, "id": "call_b", "function": { "name": "hang_up", "arguments": "{}" } }),
            ),
            chunk(json!({}), Some("tool_calls")),
        ];
        // Whole calls, all of them number 0, and a plain "stop": Ollama.
        let whole = [
            piece(
                json!({ "index": 0, "id": "x1", "function": { "name": "look", "arguments": "{\"w\":1}" } }),
            ),
            piece(json!({ "index": 0, "id": "x2", "function": { "name": "hang_up", "arguments": {} } })),
            chunk(json!({}), Some("stop")),
        ];
        for events in [&openai[..], &whole[..]] {
            let deltas = read(Chat::default(), events).expect("an answer");
            let calls: Vec<(&str, &str)> = deltas
                .iter()
                .filter_map(|d| {
                    if let Delta::Call(c) = d { Some((c.name.as_str(), c.arguments.as_str())) } else { None }
                })
                .collect();
            assert_eq!(calls, [("look", "{\"w\":1}"), ("hang_up", "{}")]);
            assert_eq!(deltas.last(), Some(&Delta::Finish(Finish::Tools)));
        }
    }

    #[test]
    fn what_a_local_model_thinks_is_not_said() {
        for (text, said) in [
            ("<think>\nHm, ä < b.</think>\n\nYes.", "Yes."),
            ("  <think></think>No.", "No."),
            ("<thin ice", "<thin ice"),
            ("<th", "<th"),
            ("It is <think> a word.", "It is <think> a word."),
        ] {
            for cut in 1..6 {
                let letters: Vec<char> = text.chars().collect();
                let mut events: Vec<String> = letters
                    .chunks(cut)
                    .map(|piece| chunk(json!({ "content": piece.iter().collect::<String>() }), None))
                    .collect();
                events.push(chunk(json!({}), Some("stop")));
                assert_eq!(words(&read(Chat::default(), &events).expect("an answer")), said, "{cut}");
            }
        }
    }

    #[test]
    fn broken_answers_and_errors_in_them_are_failures() {
        let cases = [
            ("{\"choices\":[{\"del", Failure::Garbled(String::new())),
            (
                "{\"error\":{\"message\":\"out of memory\",\"code\":503}}",
                Failure::Failed { status: 503, text: "out of memory".to_owned() },
            ),
        ];
        for (data, wanted) in cases {
            match (read(Chat::default(), &[data.to_owned()]), wanted) {
                (Err(Failure::Garbled(_)), Failure::Garbled(_)) => {}
                (result, wanted) => assert_eq!(result.map(drop), Err(wanted)),
            }
        }
        let many = (0..40).map(|n| json!({ "index": n, "function": { "name": "x" } })).collect::<Vec<_>>();
        assert!(read(Chat::default(), &[chunk(json!({ "tool_calls": many }), None)]).is_err());
    }

    #[test]
    fn a_server_that_does_not_stream_is_read_too() {
        let whole = json!({ "choices": [{ "message": { "role": "assistant", "content": "Yes." }, "finish_reason": "stop" }],
            "usage": { "prompt_tokens": 3, "completion_tokens": 1 } });
        let deltas = read(Chat::default(), &[whole.to_string()]).expect("an answer");
        assert_eq!((words(&deltas).as_str(), deltas.last()), ("Yes.", Some(&Delta::Finish(Finish::Stop))));
    }
}
