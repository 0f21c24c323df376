//! Driver. Health, metrics, the list of calls and their control over HTTP on `[console] listen`.
//!
//! ```text
//! listener ─▶ connection (header limits, one deadline) ─▶ access ─▶ route ─▶ Snapshot ─▶ JSON, HTML, metrics
//! ```
//! Calls are changed by `control` alone. `/healthz` is open to all who reach it, for supervisors.

mod access;
mod control;
mod describe;
mod images;
mod metrics;
mod page;
mod sources;
mod trace;
pub mod view;

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::app::config::settings;
use crate::app::service::STUCK_AFTER;
use crate::base::stop::StopToken;
use crate::engine::album::Album;
use crate::engine::sources::Sources;
use access::{Access, Denied};
pub use control::Controller;
pub use images::PictureSource;
pub use trace::Trace;
use view::{CallView, Parts, Readiness, Snapshot};

/// How the console sees the rest: called for each request, cheap, never blocking.
pub type Source = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;

/// How long clients may take.
#[derive(Clone, Copy)]
struct Patience {
    /// From the opening, or the end of the last answer, to the end of the headers.
    headers: Duration,
    /// No connection lives longer; clients open another.
    connection: Duration,
}

const PATIENCE: Patience = Patience { headers: Duration::from_secs(5), connection: Duration::from_secs(120) };

/// Serves until told to stop. Open connections are closed then.
pub async fn serve(
    listener: TcpListener,
    settings: &settings::Console,
    source: Source,
    reins: Option<Reins>,
    stop: StopToken,
) {
    accept(listener, router(Access::new(settings), source, reins), PATIENCE, stop).await;
}

async fn accept(listener: TcpListener, router: Router, patience: Patience, stop: StopToken) {
    let mut connections: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    loop {
        let room = connections.len() < CONNECTIONS_MAX;
        let accepted = tokio::select! {
            () = stop.stopped() => return,
            accepted = listener.accept(), if room => accepted,
            () = one_ends(&mut connections) => continue,
        };
        match accepted {
            Ok((stream, _)) => connections.push(Box::pin(connection(stream, router.clone(), patience))),
            Err(error) => {
                tracing::warn!(%error, "the console cannot accept a connection");
                // Out of descriptors, most likely: others must end first.
                pause(&mut connections).await;
            }
        }
    }
}

/// Drives all connections until at least one has ended; waits for ever where there is none.
async fn one_ends(connections: &mut Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    poll_fn(|context| {
        let before = connections.len();
        connections.retain_mut(|connection| connection.as_mut().poll(context).is_pending());
        if connections.len() < before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn pause(connections: &mut Vec<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    // Elapsing is the point.
    let _ = tokio::time::timeout(Duration::from_millis(100), one_ends(connections)).await;
}

async fn connection(stream: TcpStream, router: Router, patience: Patience) {
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(patience.connection, serving).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "console connection"),
    }
}

/// What is steered from here.
#[derive(Clone)]
pub struct Reins {
    pub controller: Controller,
    pub trace: Trace,
    pub sources: Sources,
    pub pictures: PictureSource,
    pub album: Album,
}

struct Shared {
    access: Access,
    source: Source,
    reins: Option<Reins>,
    /// Large bodies being read.
    large: Semaphore,
}

fn router(access: Access, source: Source, reins: Option<Reins>) -> Router {
    let shared = Arc::new(Shared { access, source, reins, large: Semaphore::new(images::LARGE_AT_ONCE) });
    Router::new()
        .route("/", get(status))
        .route("/style.css", get(style))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/calls", get(calls).post(control::place))
        .route("/api/v1/calls/{id}", get(call).delete(control::hang_up))
        .route("/api/v1/calls/{id}/images", get(images::list).post(images::give))
        .route("/api/v1/calls/{id}/images/{number}", get(images::one))
        .route("/api/v1/calls/{id}/show", post(images::show))
        .route("/api/v1/calls/{id}/captions", post(images::captions))
        .route("/api/v1/calls/{id}/{verb}", post(control::act))
        .route("/api/v1/avatars", get(avatars))
        .route("/api/v1/sources", get(sources::list))
        .route("/api/v1/sources/{name}/snapshot.jpg", get(sources::snapshot))
        .route("/api/v1/sip-trace", post(trace::start).delete(trace::stop))
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(shared.clone(), admit))
        .route("/healthz", get(healthz))
        .layer(axum::middleware::from_fn(harden))
        .with_state(shared)
}

async fn admit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let verdict = {
        let text = |name: HeaderName| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
        shared.access.check(text(header::AUTHORIZATION), text(header::HOST))
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err(Denied::NoCredentials) => {
            let challenge =
                (header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"eyeline\", Bearer"));
            let refusal =
                refuse(StatusCode::UNAUTHORIZED, "unauthorized", "bring the console's password or token");
            ([challenge], refusal).into_response()
        }
        Err(Denied::WrongHost) => {
            refuse(StatusCode::FORBIDDEN, "wrong_host", "use localhost or the address of this box")
        }
    }
}

async fn harden(request: Request, next: Next) -> Result<Response, Infallible> {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

#[derive(Serialize)]
struct Refusal {
    error: Mistake,
}

#[derive(Serialize)]
struct Mistake {
    code: &'static str,
    message: String,
    field: Option<&'static str>,
}

fn refuse(status: StatusCode, code: &'static str, message: impl Into<String>) -> Response {
    let error = Mistake { code, message: message.into(), field: None };
    (status, Json(Refusal { error })).into_response()
}

async fn nowhere() -> Response {
    refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing here; see / for what there is")
}

async fn wrong_method() -> Response {
    refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this method does not work here")
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let age = (shared.source)().loop_age;
    if age < STUCK_AFTER {
        (StatusCode::OK, "ok\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("the control loop is stuck since {} s\n", age.as_secs()))
            .into_response()
    }
}

#[derive(Serialize)]
struct Ready {
    state: Readiness,
    #[serde(flatten)]
    parts: Parts,
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let parts = (shared.source)().parts;
    let state = parts.readiness();
    let status = if state == Readiness::NotReady { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(Ready { state, parts })).into_response()
}

async fn metrics_text(State(shared): State<Arc<Shared>>) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    ([kind], metrics::write((shared.source)())).into_response()
}

#[derive(Serialize)]
struct Calls {
    live: Vec<CallView>,
    recent: Vec<Arc<CallView>>,
}

async fn avatars(State(shared): State<Arc<Shared>>) -> Response {
    Json(serde_json::json!({ "avatars": (shared.source)().avatars })).into_response()
}

async fn calls(State(shared): State<Arc<Shared>>) -> Response {
    let Snapshot { calls: live, recent, .. } = (shared.source)();
    Json(Calls { live, recent }).into_response()
}

async fn call(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let Snapshot { calls, recent, .. } = (shared.source)();
    match calls.into_iter().map(Arc::new).chain(recent).find(|call| call.id == id) {
        Some(call) => Json(call).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "unknown_call", "no live or recent call has this id"),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    Html(page::page(&(shared.source)())).into_response()
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"))], page::STYLE)
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::app::config::secret::Secret;
    use view::Part;

    fn snapshot() -> Snapshot {
        let parts = Parts {
            transports: vec![Part::good("udp:127.0.0.1:5060")],
            disk: Part::good("disk"),
            censor: vec![Part::good("face")],
            detectors: vec![Part::bad(
                "objects",
                "yolox-nano is not there; run `eyeline models pull yolox-nano`",
            )],
            accounts: Vec::new(),
            peers: Vec::new(),
            draining: false,
        };
        let call = |id: &str| CallView { id: id.into(), from: "sip:alice@h".into(), ..CallView::default() };
        Snapshot {
            appliance: "eye".into(),
            parts,
            calls: vec![call("1")],
            recent: vec![Arc::new(call("0"))],
            ..Snapshot::default()
        }
    }

    async fn start(settings: settings::Console, snapshot: Snapshot) -> (SocketAddr, StopToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = StopToken::default();
        let token = stop.clone();
        let router = router(Access::new(&settings), Arc::new(move || snapshot.clone()), None);
        let patience = Patience { headers: Duration::from_millis(400), ..PATIENCE };
        tokio::spawn(accept(listener, router, patience, token));
        (address, stop)
    }

    /// Sends raw bytes and reads to the end; everything within 20 s.
    async fn exchange(address: SocketAddr, request: &str) -> String {
        let work = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // A reset after a refusal is an answer, too.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        tokio::time::timeout(Duration::from_secs(20), work).await.expect("an end")
    }

    async fn ask(address: SocketAddr, path: &str, more: &str) -> String {
        exchange(
            address,
            &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n"),
        )
        .await
    }

    fn status_of(answer: &str) -> &str {
        answer.get(9..12).unwrap_or(answer)
    }

    #[tokio::test]
    async fn a_missing_detector_degrades_and_a_missing_censor_closes() {
        let (address, _stop) = start(settings::Console::default(), snapshot()).await;
        let answer = ask(address, "/readyz", "").await;
        assert_eq!(status_of(&answer), "200", "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["state"], "degraded");
        assert_eq!(json["detectors"][0]["ok"], false);
        let mut closed = snapshot();
        closed.parts.censor[0].ok = false;
        let (address, _stop) = start(settings::Console::default(), closed).await;
        let answer = ask(address, "/readyz", "").await;
        assert_eq!(status_of(&answer), "503", "{answer}");
        assert!(answer.contains("\"state\":\"not_ready\""), "{answer}");
    }

    #[tokio::test]
    async fn health_follows_the_control_loop() {
        let (address, _stop) = start(settings::Console::default(), snapshot()).await;
        assert_eq!(status_of(&ask(address, "/healthz", "").await), "200");
        let stuck = Snapshot { loop_age: Duration::from_secs(9), ..snapshot() };
        let (address, _stop) = start(settings::Console::default(), stuck).await;
        let answer = ask(address, "/healthz", "").await;
        assert_eq!(status_of(&answer), "503");
        assert!(answer.contains("stuck since 9 s"), "{answer}");
    }

    #[tokio::test]
    async fn pages_say_what_they_are_and_forbid_everything_else() {
        let (address, _stop) = start(settings::Console::default(), snapshot()).await;
        let check = async |path: &str, status: &str, parts: &[&str]| {
            let answer = ask(address, path, "").await;
            assert_eq!(status_of(&answer), status, "{path}: {answer}");
            assert!(answer.contains("content-security-policy: default-src 'none'"), "{path}: {answer}");
            parts.iter().for_each(|part| assert!(answer.contains(part), "{path} lacks {part}: {answer}"));
        };
        check("/", "200", &["text/html", "sip:alice@h"]).await;
        check("/style.css", "200", &["text/css"]).await;
        check("/metrics", "200", &["openmetrics-text", "eyeline_calls_active"]).await;
        check("/api/v1/calls", "200", &["application/json", "\"live\":[{\"id\":\"1\""]).await;
        check("/api/v1/calls/0", "200", &["\"id\":\"0\""]).await;
        check("/api/v1/calls/9", "404", &["\"error\":{\"code\":\"unknown_call\""]).await;
        check("/nope", "404", &["\"code\":\"not_found\""]).await;
        let answer = exchange(
            address,
            &format!("DELETE /api/v1/calls HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
        )
        .await;
        assert_eq!(status_of(&answer), "405", "{answer}");
    }

    #[tokio::test]
    async fn with_a_token_only_health_is_open() {
        let settings = settings::Console { token: Secret::plain("t0ken"), ..settings::Console::default() };
        let (address, _stop) = start(settings, snapshot()).await;
        assert_eq!(status_of(&ask(address, "/healthz", "").await), "200");
        for path in ["/", "/readyz", "/metrics", "/api/v1/calls", "/nope"] {
            let answer = ask(address, path, "").await;
            assert_eq!(status_of(&answer), "401", "{path}: {answer}");
            assert!(answer.contains("www-authenticate: Basic") && !answer.contains("alice"), "{answer}");
            assert_eq!(
                status_of(&ask(address, path, "Authorization: Bearer wrong\r\n").await),
                "401",
                "{path}"
            );
        }
        assert_eq!(status_of(&ask(address, "/metrics", "Authorization: Bearer t0ken\r\n").await), "200");
    }

    #[tokio::test]
    async fn slow_huge_and_broken_requests_end() {
        let (address, _stop) = start(settings::Console::default(), snapshot()).await;
        let slow = exchange(address, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        let huge = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(200));
        let (slow, huge, many, broken) = tokio::join!(
            slow,
            exchange(address, &huge),
            exchange(address, &many),
            exchange(address, "\0\0\0\r\n\r\n")
        );
        assert!(!slow.starts_with("HTTP/1.1 200"), "{slow}");
        for answer in [huge, many] {
            assert!(answer.is_empty() || status_of(&answer) == "431", "{answer}");
        }
        assert!(broken.is_empty() || status_of(&broken) == "400", "{broken}");
        assert_eq!(status_of(&ask(address, "/healthz", "").await), "200");
    }

    #[tokio::test]
    async fn idle_connections_do_not_keep_others_out_and_stopping_closes_them() {
        let (address, stop) = start(settings::Console::default(), snapshot()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX - 1 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(status_of(&ask(address, "/healthz", "").await), "200");
        stop.stop();
        let mut last = idle.pop().unwrap();
        let mut byte = [0];
        let closed =
            tokio::time::timeout(Duration::from_secs(5), last.read(&mut byte)).await.expect("a close");
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}
