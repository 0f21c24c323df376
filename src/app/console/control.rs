//! Driver. Call control over HTTP: reads what is asked, gives it to the control loop, writes what came of it.
//!
//! A page of another site cannot write a request with a JSON content type without asking first, and nobody here
//! answers that question: `Content-Type: application/json` is wanted of every POST, also of one without a body.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::{Mistake, Refusal, Reins, Shared, images};
use crate::engine::plan::CallId;
use crate::useragent::control::{Asked, Kind, Place, Refused};

/// The control loop as the console asks it; `None`: it does not answer.
pub type Controller =
    Arc<dyn Fn(Asked) -> Pin<Box<dyn Future<Output = Option<Result<CallId, Refused>>> + Send>> + Send + Sync>;

/// The largest request body.
const BODY_MAX: usize = 64 * 1024;
/// A body has to be here by then.
const BODY_LIMIT: Duration = Duration::from_secs(5);
/// One that may hold pictures, by then.
const LARGE_BODY_LIMIT: Duration = Duration::from_secs(30);

/// POST /api/v1/calls
pub(super) async fn place(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let known = ["to", "agent", "account", "video", "headers", "context"];
    // What is known before the first word may hold pictures.
    let placed = async {
        let _room = images::room_for(&shared, &request)?;
        let fields = read_up_to(request, &known, images::LARGE_BODY).await?;
        let mut place = fields.place()?;
        place.context = images::context(&shared, &place.agent, fields.0.get("context")).await?;
        Ok::<Place, Wrong>(place)
    };
    match placed.await {
        Ok(place) => answer(&shared, Asked::Place(place), None, StatusCode::CREATED).await,
        Err(mistake) => mistake.into_response(),
    }
}

/// DELETE /api/v1/calls/{id}
pub(super) async fn hang_up(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    if is_foreign(&headers) {
        return foreign().into_response();
    }
    answer(&shared, Asked::HangUp { call: id.clone() }, Some(&id), StatusCode::OK).await
}

/// POST /api/v1/calls/{id}/{hold,resume,dtmf,transfer,say,text,turn,describe,recording}
pub(super) async fn act(
    State(shared): State<Arc<Shared>>,
    Path((id, verb)): Path<(String, String)>,
    request: Request,
) -> Response {
    let known: &[&str] = match verb.as_str() {
        "hold" | "resume" => &[],
        "dtmf" => &["digits"],
        "transfer" => &["to", "with"],
        "say" | "text" => &["text"],
        "turn" | "recording" => &["action"],
        "describe" => return super::describe::describe(&shared, id, request).await,
        _ => return super::nowhere().await,
    };
    let fields = match read(request, known).await {
        Ok(fields) => fields,
        Err(mistake) => return mistake.into_response(),
    };
    let call = id.clone();
    let asked = match verb.as_str() {
        "hold" => Ok((Asked::Hold { call }, StatusCode::OK)),
        "resume" => Ok((Asked::Resume { call }, StatusCode::OK)),
        "dtmf" => fields.needed("digits").map(|digits| (Asked::Digits { call, digits }, StatusCode::OK)),
        "say" => fields.needed("text").map(|text| (Asked::Say { call, text }, StatusCode::ACCEPTED)),
        "text" => fields.needed("text").map(|text| (Asked::Text { call, text }, StatusCode::ACCEPTED)),
        "turn" => fields.needed("action").and_then(|action| match action.as_str() {
            "commit" | "clear" => Ok((Asked::Turn { call, commit: action == "commit" }, StatusCode::OK)),
            _ => Err(Wrong::bad("action", "commit or clear")),
        }),
        "recording" => fields.needed("action").and_then(|action| match action.as_str() {
            "pause" | "resume" => Ok((Asked::Record { call, paused: action == "pause" }, StatusCode::OK)),
            _ => Err(Wrong::bad("action", "pause or resume")),
        }),
        _ => fields.text("to").and_then(|to| {
            let with = fields.text("with")?;
            Ok((Asked::Transfer { call, to, with }, StatusCode::ACCEPTED))
        }),
    };
    match asked {
        Ok((asked, status)) => answer(&shared, asked, Some(&id), status).await,
        Err(mistake) => mistake.into_response(),
    }
}

async fn answer(shared: &Shared, asked: Asked, id: Option<&str>, good: StatusCode) -> Response {
    match ask(shared, asked, id).await {
        Ok(call) => {
            let id = call.to_string();
            let place = format!("/api/v1/calls/{id}");
            let body = Json(json!({ "id": id }));
            if good == StatusCode::CREATED {
                (good, [(header::LOCATION, place)], body).into_response()
            } else {
                (good, body).into_response()
            }
        }
        Err(wrong) => wrong.into_response(),
    }
}

/// Asks the control loop; the call it concerned.
pub(super) async fn ask(shared: &Shared, asked: Asked, id: Option<&str>) -> Result<CallId, Wrong> {
    let unavailable = |code, text: &str| Err(Wrong::new(StatusCode::SERVICE_UNAVAILABLE, code, text));
    let Some(Reins { controller, .. }) = &shared.reins else {
        return unavailable("unavailable", "calls cannot be controlled here");
    };
    match controller(asked).await {
        Some(Ok(call)) => Ok(call),
        Some(Err(refused)) => {
            let ended = id.is_some_and(|id| (shared.source)().recent.iter().any(|call| call.id == id));
            if refused.code == "unknown_call" && refused.field.is_none() && ended {
                return Err(Wrong::new(StatusCode::CONFLICT, "wrong_state", "the call has ended"));
            }
            Err(Wrong::from(refused))
        }
        None => unavailable("busy", "the control loop does not answer: try again"),
    }
}

/// What a request is turned away with.
pub(super) struct Wrong {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<&'static str>,
}

impl Wrong {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Wrong { status, code, message: message.into(), field: None }
    }

    #[must_use]
    pub(super) fn at(self, field: &'static str) -> Self {
        Wrong { field: Some(field), ..self }
    }

    pub(super) fn bad(field: &'static str, message: &str) -> Self {
        Wrong {
            field: Some(field),
            ..Wrong::new(StatusCode::BAD_REQUEST, "bad_request", format!("{field}: {message}"))
        }
    }
}

impl From<Refused> for Wrong {
    fn from(refused: Refused) -> Self {
        let status = match refused.kind {
            Kind::Unknown => StatusCode::NOT_FOUND,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Bad => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Spent => StatusCode::TOO_MANY_REQUESTS,
            Kind::Upstream => StatusCode::BAD_GATEWAY,
        };
        Wrong { status, code: refused.code, message: refused.message, field: refused.field }
    }
}

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        let error = Mistake { code: self.code, message: self.message, field: self.field };
        (self.status, Json(Refusal { error })).into_response()
    }
}

/// Whether a browser says that a page of another site asks.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let crossed = site.is_some_and(|site| site != "same-origin" && site != "none");
    let host = text(header::HOST);
    let elsewhere =
        text(header::ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, host)| host) != host);
    crossed || elsewhere
}

pub(super) fn foreign() -> Wrong {
    Wrong::new(StatusCode::FORBIDDEN, "foreign_origin", "a page of another site may not control calls")
}

/// The members of a JSON object.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

/// Reads the body of a POST: JSON, small, in time, nothing unknown in it.
pub(super) async fn read(request: Request, known: &[&str]) -> Result<Fields, Wrong> {
    read_up_to(request, known, BODY_MAX).await
}

/// The same of so many bytes.
pub(super) async fn read_up_to(request: Request, known: &[&str], most: usize) -> Result<Fields, Wrong> {
    let (parts, body) = request.into_parts();
    if is_foreign(&parts.headers) {
        return Err(foreign());
    }
    if !media_type(&parts.headers).eq_ignore_ascii_case("application/json") {
        let text = "send Content-Type: application/json";
        return Err(Wrong::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", text));
    }
    let bytes = body_of(body, most).await?;
    if bytes.is_empty() {
        return Ok(Fields(Map::new()));
    }
    let bad = |text: String| Wrong::new(StatusCode::BAD_REQUEST, "bad_request", text);
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| bad(format!("not JSON: {error}")))?;
    let Value::Object(members) = value else { return Err(bad("a JSON object is wanted".to_owned())) };
    if let Some(unknown) = members.keys().find(|name| !known.contains(&name.as_str())) {
        let unknown: String = unknown.chars().filter(|letter| !letter.is_control()).take(64).collect();
        return Err(bad(format!("{unknown:?} is not known here; known: {}", known.join(", "))));
    }
    Ok(Fields(members))
}

/// The type of a body, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim()
}

/// A body of at most so many bytes, in time.
pub(super) async fn body_of(body: Body, most: usize) -> Result<Bytes, Wrong> {
    let limit = if most > BODY_MAX { LARGE_BODY_LIMIT } else { BODY_LIMIT };
    match tokio::time::timeout(limit, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let text = format!("the body is broken or larger than {most} bytes");
            Err(Wrong::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text))
        }
        Err(_) => Err(Wrong::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body does not come")),
    }
}

impl Fields {
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, Wrong> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Wrong::bad(name, "a text is wanted")),
        }
    }

    fn needed(&self, name: &'static str) -> Result<String, Wrong> {
        self.text(name)?.ok_or_else(|| Wrong::bad(name, "is missing"))
    }

    fn place(&self) -> Result<Place, Wrong> {
        let video = match self.0.get("video") {
            None | Some(Value::Null) => None,
            Some(Value::Bool(wanted)) => Some(*wanted),
            Some(_) => return Err(Wrong::bad("video", "true or false is wanted")),
        };
        let headers = match self.0.get("headers") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(pairs)) => {
                let pair = |(name, value): (&String, &Value)| match value {
                    Value::String(value) => Ok((name.clone(), value.clone())),
                    _ => Err(Wrong::bad("headers", "texts are wanted")),
                };
                pairs.iter().map(pair).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(Wrong::bad("headers", "an object of texts is wanted")),
        };
        Ok(Place {
            to: self.needed("to")?,
            agent: self.needed("agent")?,
            account: self.text("account")?,
            video,
            headers,
            context: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::view::{CallView, Snapshot};
    use super::super::{Access, PATIENCE, accept, router};
    use super::*;
    use crate::app::config::settings;
    use crate::base::stop::StopToken;

    /// A console whose control loop keeps what it was asked and answers by the name of the call.
    async fn start() -> (SocketAddr, Arc<Mutex<Vec<Asked>>>, StopToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let kept = heard.clone();
        let kept_trace = trace_kept();
        let controller: Controller = Arc::new(move |asked| {
            kept.lock().unwrap().push(asked.clone());
            let refused = |kind, code| Some(Err(Refused::new(kind, code, "no")));
            let answer = match &asked {
                Asked::Place(place) if place.to.contains("denied") => {
                    Some(Err(Refused::new(Kind::Denied, "not_allowed", "sip.dial_allow").at("to")))
                }
                Asked::HangUp { call } if call == "gone" || call == "old" => {
                    refused(Kind::Unknown, "unknown_call")
                }
                Asked::Hold { call } if call == "early" => refused(Kind::Conflict, "wrong_state"),
                Asked::Hold { call } if call == "stuck" => None,
                Asked::Place(_)
                | Asked::HangUp { .. }
                | Asked::Hold { .. }
                | Asked::Resume { .. }
                | Asked::Digits { .. }
                | Asked::Say { .. }
                | Asked::Text { .. }
                | Asked::Describe { .. }
                | Asked::Turn { .. }
                | Asked::Record { .. }
                | Asked::Transfer { .. } => Some(Ok(CallId(0xabc))),
            };
            Box::pin(async move { answer })
        });
        let stop = StopToken::default();
        let recent = vec![Arc::new(CallView { id: "old".into(), ..CallView::default() })];
        let snapshot = Snapshot { recent, ..Snapshot::default() };
        let access = Access::new(&settings::Console::default());
        let traced = kept_trace.clone();
        let trace: super::super::Trace = Arc::new(move |length| traced.lock().unwrap().push(length));
        let pictures: super::super::PictureSource = Arc::new(|_| Box::pin(async { None }));
        let (album, sources) = Default::default();
        let reins = Reins { controller, trace, pictures, album, sources };
        let router = router(access, Arc::new(move || snapshot.clone()), Some(reins));
        tokio::spawn(accept(listener, router, PATIENCE, stop.clone()));
        (address, heard, stop)
    }

    type Traced = Arc<Mutex<Vec<Option<Duration>>>>;

    /// What was asked of the trace, in this test's thread.
    fn trace_kept() -> Traced {
        thread_local! {
            static KEPT: Traced = Arc::default();
        }
        KEPT.with(Clone::clone)
    }

    async fn ask(address: SocketAddr, line: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    const IS_JSON: &str = "Content-Type: application/json\r\n";

    #[tokio::test]
    async fn the_trace_is_switched_on_for_a_while_and_off() {
        let (address, _, _stop) = start().await;
        let path = "/api/v1/sip-trace";
        let (status, answer) = ask(address, &format!("POST {path}"), IS_JSON, r#"{"for":"10m"}"#).await;
        assert!(status == 200 && answer.ends_with(r#"{"for_s":600}"#), "{answer}");
        assert_eq!(ask(address, &format!("POST {path}"), IS_JSON, "").await.0, 200);
        assert_eq!(ask(address, &format!("POST {path}"), IS_JSON, r#"{"for":"30h"}"#).await.0, 400);
        assert_eq!(ask(address, &format!("POST {path}"), "", "").await.0, 415);
        assert_eq!(
            ask(address, &format!("DELETE {path}"), "Origin: http://evil.example\r\n", "").await.0,
            403
        );
        assert_eq!(ask(address, &format!("DELETE {path}"), "", "").await.0, 200);
        let expected = [Some(Duration::from_secs(600)), Some(Duration::from_secs(3600)), None];
        assert_eq!(*trace_kept().lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn every_verb_reaches_the_control_loop_as_it_was_meant() {
        let (address, heard, _stop) = start().await;
        let place = r#"{"to":"sip:a@h","agent":"mirror","video":false,"headers":{"X-A":"1"}}"#;
        let (status, answer) = ask(address, "POST /api/v1/calls", IS_JSON, place).await;
        assert_eq!(status, 201, "{answer}");
        assert!(
            answer.contains("location: /api/v1/calls/000abc") && answer.ends_with(r#"{"id":"000abc"}"#),
            "{answer}"
        );
        for (line, body, expected) in [
            ("POST /api/v1/calls/1/hold", "", 200),
            ("POST /api/v1/calls/1/resume", "{}", 200),
            ("POST /api/v1/calls/1/dtmf", r#"{"digits":"12#"}"#, 200),
            ("POST /api/v1/calls/1/recording", r#"{"action":"pause"}"#, 200),
            ("POST /api/v1/calls/1/transfer", r#"{"to":"sip:b@h"}"#, 202),
            ("POST /api/v1/calls/1/transfer", r#"{"with":"2"}"#, 202),
            ("DELETE /api/v1/calls/1", "", 200),
        ] {
            assert_eq!(ask(address, line, IS_JSON, body).await.0, expected, "{line}");
        }
        let call = || "1".to_owned();
        assert_eq!(
            *heard.lock().unwrap(),
            [
                Asked::Place(Place {
                    to: "sip:a@h".into(),
                    agent: "mirror".into(),
                    account: None,
                    video: Some(false),
                    headers: vec![("X-A".into(), "1".into())],
                    context: Vec::new(),
                }),
                Asked::Hold { call: call() },
                Asked::Resume { call: call() },
                Asked::Digits { call: call(), digits: "12#".into() },
                Asked::Record { call: call(), paused: true },
                Asked::Transfer { call: call(), to: Some("sip:b@h".into()), with: None },
                Asked::Transfer { call: call(), to: None, with: Some("2".into()) },
                Asked::HangUp { call: call() },
            ]
        );
    }

    #[tokio::test]
    async fn mistakes_of_users_are_named_and_never_ours() {
        let (address, heard, _stop) = start().await;
        let large = format!(r#"{{"to":"{}"}}"#, "x".repeat(BODY_MAX));
        for (line, headers, body, expected, word) in [
            ("POST /api/v1/calls", IS_JSON, "", 400, "\"field\":\"to\""),
            ("POST /api/v1/calls", IS_JSON, "{", 400, "not JSON"),
            ("POST /api/v1/calls", IS_JSON, "[]", 400, "object"),
            ("POST /api/v1/calls", IS_JSON, r#"{"to":7,"agent":"a"}"#, 400, "\"field\":\"to\""),
            ("POST /api/v1/calls", IS_JSON, r#"{"to":"x"}"#, 400, "\"field\":\"agent\""),
            ("POST /api/v1/calls", IS_JSON, r#"{"to":"x","agent":"a","evil":1}"#, 400, "evil"),
            (
                "POST /api/v1/calls",
                IS_JSON,
                r#"{"to":"x","agent":"a","video":"yes"}"#,
                400,
                "\"field\":\"video\"",
            ),
            ("POST /api/v1/calls", IS_JSON, r#"{"to":"x","agent":"a","headers":{"X":1}}"#, 400, "headers"),
            ("POST /api/v1/calls/1/hold", IS_JSON, &large, 413, "too_large"),
            (
                "POST /api/v1/calls",
                "Content-Type: text/plain\r\n",
                r#"{"to":"x","agent":"a"}"#,
                415,
                "not_json",
            ),
            ("POST /api/v1/calls/1/hold", "", "", 415, "not_json"),
            ("POST /api/v1/calls/1/dtmf", IS_JSON, "{}", 400, "digits"),
            ("POST /api/v1/calls/1/recording", IS_JSON, r#"{"action":"stop"}"#, 400, "pause or resume"),
            ("POST /api/v1/calls/1/dance", IS_JSON, "{}", 404, "not_found"),
            ("PUT /api/v1/calls/1", IS_JSON, "{}", 405, "method_not_allowed"),
        ] {
            let (status, answer) = ask(address, line, headers, body).await;
            assert!(status == expected && answer.contains(word), "{line} {body:.60}: {answer}");
        }
        assert!(heard.lock().unwrap().is_empty(), "nothing wrong reaches the control loop");
    }

    #[tokio::test]
    async fn what_the_control_loop_refuses_has_its_status_and_its_reason() {
        let (address, _, _stop) = start().await;
        let denied = r#"{"to":"sip:denied@h","agent":"a"}"#;
        let (status, answer) = ask(address, "POST /api/v1/calls", IS_JSON, denied).await;
        assert!(
            status == 403 && answer.contains("dial_allow") && answer.contains("\"field\":\"to\""),
            "{answer}"
        );
        for (line, expected) in [
            ("DELETE /api/v1/calls/gone", 404),
            ("DELETE /api/v1/calls/old", 409),
            ("POST /api/v1/calls/early/hold", 409),
            ("POST /api/v1/calls/stuck/hold", 503),
        ] {
            assert_eq!(ask(address, line, IS_JSON, "").await.0, expected, "{line}");
        }
    }

    #[tokio::test]
    async fn a_page_of_another_site_controls_nothing() {
        let (address, heard, _stop) = start().await;
        for header in
            ["Origin: http://evil.example.com\r\n", "Sec-Fetch-Site: cross-site\r\n", "Origin: null\r\n"]
        {
            let headers = format!("{IS_JSON}{header}");
            assert_eq!(ask(address, "POST /api/v1/calls/1/hold", &headers, "").await.0, 403, "{header}");
            assert_eq!(ask(address, "DELETE /api/v1/calls/1", header, "").await.0, 403, "{header}");
        }
        assert!(heard.lock().unwrap().is_empty());
        let own = format!("{IS_JSON}Origin: http://127.0.0.1\r\nSec-Fetch-Site: same-origin\r\n");
        assert_eq!(ask(address, "POST /api/v1/calls/1/hold", &own, "").await.0, 200);
    }
}
