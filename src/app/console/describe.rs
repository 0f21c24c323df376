//! Driver. What there is to see of a caller now, asked over HTTP: `POST /api/v1/calls/{id}/describe`.
//!
//! The call's own task asks the model and answers within that model's time; nothing is waited for here beyond it.

use std::time::Duration;

use axum::Json;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Shared;
use super::control::{Wrong, ask, read};
use crate::base::reply::Reply;
use crate::talk::sight::describe::NotDescribed;
use crate::talk::sight::description::{Description, NotSeen};
use crate::useragent::control::{Asked, Kind, Refused};

/// Beyond what any model is waited for (`vision.timeout_s`); whoever does not answer by then never will.
const LONGEST: Duration = Duration::from_secs(602);

pub(super) async fn describe(shared: &Shared, id: String, request: Request) -> Response {
    match look(shared, id, request).await {
        Ok(description) => {
            let members = description.members().into_iter();
            let body: Map<String, Value> = members.map(|(name, value)| (name.to_owned(), value)).collect();
            Json(Value::Object(body)).into_response()
        }
        Err(wrong) => wrong.into_response(),
    }
}

async fn look(shared: &Shared, id: String, request: Request) -> Result<Description, Wrong> {
    let question = read(request, &["question"]).await?.text("question")?.unwrap_or_default();
    let (reply, answer) = Reply::new();
    ask(shared, Asked::Describe { call: id.clone(), question, reply }, Some(&id)).await?;
    match tokio::time::timeout(LONGEST, answer).await {
        Ok(Ok(Ok(description))) => Ok(description),
        Ok(Ok(Err(why))) => Err(Refused::new(kind(&why), why.code(), why.to_string()).into()),
        // The task that was to answer is gone, and its call with it.
        Ok(Err(_)) | Err(_) => Err(Refused::new(Kind::Conflict, "wrong_state", "the call has ended").into()),
    }
}

fn kind(why: &NotSeen) -> Kind {
    match why {
        NotSeen::NoPicture => Kind::Conflict,
        NotSeen::Not(NotDescribed::Spent | NotDescribed::Crowded) => Kind::Spent,
        NotSeen::TooSlow(_)
        | NotSeen::Not(NotDescribed::Failed(_) | NotDescribed::Unreadable(_) | NotDescribed::Resting) => {
            Kind::Upstream
        }
    }
}
