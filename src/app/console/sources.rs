//! Driver. The box's own sources of pictures over HTTP: `GET /api/v1/sources`, `GET /api/v1/sources/{name}/snapshot.jpg`.
//!
//! A snapshot went through the same gate as what agents see of the source.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{Shared, refuse};
use crate::engine::sources::{Listed, State as Condition};

#[derive(Serialize)]
struct SourceView {
    name: String,
    description: String,
    /// `idle`, `connected`, `lost`.
    state: &'static str,
    /// Why it is lost.
    why: Option<String>,
    shown: u64,
    withheld: u64,
}

#[derive(Serialize)]
struct SourcesView {
    sources: Vec<SourceView>,
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Response {
    let view = |listed: Listed| SourceView {
        state: listed.state.word(),
        why: match listed.state {
            Condition::Lost(why) => Some(why),
            Condition::Idle | Condition::Connected => None,
        },
        name: listed.name,
        description: listed.description,
        shown: listed.shown,
        withheld: listed.withheld,
    };
    let listed = shared.reins.as_ref().map(|reins| reins.sources.list()).unwrap_or_default();
    Json(SourcesView { sources: listed.into_iter().map(view).collect() }).into_response()
}

pub(super) async fn snapshot(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let Some(look) = shared.reins.as_ref().and_then(|reins| reins.sources.look(&name)) else {
        return refuse(StatusCode::NOT_FOUND, "unknown_source", "no source has this name");
    };
    match look.await {
        Ok(image) => {
            ([(header::CONTENT_TYPE, image.kind.media_type())], image.bytes.to_vec()).into_response()
        }
        Err(why) => refuse(StatusCode::SERVICE_UNAVAILABLE, "no_picture", why),
    }
}
