//! Driver. The SIP trace switched on and off over HTTP; it shows on standard output and always ends by itself.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use super::control::{Wrong, foreign, is_foreign, read};
use crate::app::sip_trace;

/// Switches the trace on for so long, or off.
pub type Trace = Arc<dyn Fn(Option<Duration>) + Send + Sync>;

/// POST /api/v1/sip-trace
pub(super) async fn start(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let length = match read(request, &["for"]).await.and_then(|fields| fields.text("for")) {
        Ok(length) => length,
        Err(wrong) => return wrong.into_response(),
    };
    let length = match length.as_deref().map(sip_trace::length) {
        None => sip_trace::USUAL,
        Some(Ok(length)) => length,
        Some(Err(shape)) => return Wrong::bad("for", &shape).into_response(),
    };
    switch(&shared, Some(length))
}

/// DELETE /api/v1/sip-trace
pub(super) async fn stop(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if is_foreign(&headers) {
        return foreign().into_response();
    }
    switch(&shared, None)
}

fn switch(shared: &Shared, length: Option<Duration>) -> Response {
    let Some(reins) = &shared.reins else {
        return Wrong::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "there is nothing to show here")
            .into_response();
    };
    (reins.trace)(length);
    let body = Json(json!({ "for_s": length.unwrap_or_default().as_secs() }));
    (StatusCode::OK, body).into_response()
}
