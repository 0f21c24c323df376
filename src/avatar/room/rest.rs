//! Driver. A vendor's REST API as its template says, and the room's own: beginning and ending a session.

use std::time::Duration;

use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::template::{Step, Template, Values, session_of};
use crate::remote::address;
use crate::remote::failure::Failure;
use crate::remote::http::{Http, send, whole};

const ANSWER_MAX: usize = 256 << 10;
/// The end of a session: one request, and all of them.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Everything that is asked about one room.
pub struct Rest {
    pub(super) http: Http,
    pub(super) template: Template,
    pub(super) values: Values,
    /// What no complaint may repeat.
    pub(super) secrets: Vec<String>,
    pub(super) livekit_url: String,
    /// A token with which the room may be administered.
    pub(super) admin: String,
    pub(super) room: String,
    pub(super) timeout: Duration,
}

fn garbled(why: impl Into<String>) -> Failure {
    Failure::Garbled(why.into())
}

impl Rest {
    /// The room it is about.
    pub fn room(&self) -> &str {
        &self.room
    }

    async fn ask(&self, values: &Values, step: &Step, within: Duration) -> Result<Value, Failure> {
        let wrong = |text: String| Failure::Refused { status: 0, text };
        let url = values.fill(&step.url).map_err(wrong)?;
        let url: Url = address::root(&url, "")?;
        let method = if step.method.is_empty() { "POST" } else { step.method.as_str() };
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let mut request = self.http.request(method, url)?;
        for (name, value) in &step.headers {
            request = request.header(name, values.fill(value).map_err(wrong)?);
        }
        let body = values.fill_body(&step.body).map_err(wrong)?;
        if !body.is_null() {
            request = request.json(&body);
        }
        let timeout_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let key = self.secrets.first().map(String::as_str).unwrap_or_default();
        let mut reply = send(timeout_ms, key, request).await?;
        let body = whole(&mut reply, ANSWER_MAX).await?;
        // Some answer nothing where all is well.
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Begins a session; its id, as the vendor knows it.
    pub async fn start(&self) -> Result<String, Failure> {
        let mut values = self.values.clone();
        let mut session = None;
        for step in &self.template.start {
            let answer = self.ask(&values, step, self.timeout).await?;
            session = session_of(step, &answer).or(session);
            for (name, place) in &step.take {
                let taken = answer.pointer(place).and_then(Value::as_str);
                let taken = taken.ok_or_else(|| garbled(format!("nothing at {place}")))?;
                values.set(name, taken);
            }
        }
        Ok(session.unwrap_or_else(|| "-".to_owned()))
    }

    /// Ends a session, where the vendor has a request for it, and closes the room, which its worker cannot outlive.
    /// `true`: it is over, or there is none.
    pub async fn stop(&self, session: Option<&str>) -> bool {
        let (told, closed) = futures_util::future::join(self.stop_vendor(session), self.close_room()).await;
        told && (closed || self.template.stop.is_some())
    }

    async fn stop_vendor(&self, session: Option<&str>) -> bool {
        let Some((step, session)) = self.template.stop.as_ref().zip(session) else { return true };
        let mut values = self.values.clone();
        values.set("session", session);
        is_over(self.ask(&values, step, STOP_WITHIN).await)
    }

    async fn close_room(&self) -> bool {
        let Ok(root) = address::root(&self.livekit_url, "") else { return true };
        let step = Step {
            url: address::below(
                &address::with_scheme(root, false),
                "",
                "twirp/livekit.RoomService/DeleteRoom",
            )
            .to_string(),
            headers: [("authorization".to_owned(), format!("Bearer {}", self.admin))].into(),
            body: json!({ "room": self.room }),
            ..Step::default()
        };
        // Nothing of this is a template.
        is_over(self.ask(&Values::default(), &step, STOP_WITHIN).await)
    }
}

/// What is not there is over.
fn is_over(answer: Result<Value, Failure>) -> bool {
    match answer {
        Ok(_) | Err(Failure::Refused { status: 404 | 409 | 410, .. }) => true,
        Err(failure) => {
            tracing::debug!("a session is not ended: {failure}");
            false
        }
    }
}
