//! Driver. Asks the operator's application for a decision and waits a stated time at most.
//!
//! A question is posted once: by the time it could be asked again the caller has waited too long. What holds without an
//! answer is for whoever asks to know. How question and answer are written is in [`crate::talk::wire::decision`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::base::time::Clock;
use crate::remote::flow::Flow;
use crate::remote::http::{self, Http};
use crate::talk::message::Failure;
use crate::talk::wire::decision::{ANSWER_MAX, Question, SIGNATURE, TIMESTAMP, Verdict, signature, verdict};

/// Who decides, and for how long they are waited for.
#[derive(Clone)]
pub struct DecisionSettings {
    pub url: Url,
    /// Signs the questions; empty: they are not signed.
    pub secret: String,
    pub timeout: Duration,
    /// The appliance's name, told with each question.
    pub appliance: String,
    pub clock: Clock,
}

/// The application that decides; shared by all calls.
#[derive(Clone)]
pub struct Decisions {
    settings: Arc<DecisionSettings>,
    http: Http,
    asked: Arc<AtomicU64>,
}

/// One question under way; dropped, nobody waits for it.
pub struct Decision(Flow<Result<Verdict, Failure>>);

impl Decision {
    /// The answer, once. Cancel-safe.
    pub async fn next(&mut self) -> Result<Verdict, Failure> {
        self.0.next().await.unwrap_or(Err(Failure::Cut))
    }
}

impl Decisions {
    pub fn new(http: &Http, settings: DecisionSettings) -> Self {
        Decisions { settings: Arc::new(settings), http: http.clone(), asked: Arc::default() }
    }

    /// The longest that an answer is waited for.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Asks about something of a call; `kind` and `data` as in events. Nothing happens until it is polled.
    pub fn ask(&self, now: Instant, call: &str, kind: &str, data: Value) -> Decision {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let at = OffsetDateTime::from(self.settings.clock.wall(now));
        let time = at.format(&Rfc3339).unwrap_or_default();
        let id = format!("{}-{number}", at.unix_timestamp());
        let appliance = &self.settings.appliance;
        let body = Question { id: &id, time: &time, appliance, call, kind, data }.body();
        let (settings, http) = (self.settings.clone(), self.http.clone());
        Decision(Flow::new(move |out| async move {
            let limit = settings.timeout;
            let answer = tokio::time::timeout(limit, post(&settings, &http, at.unix_timestamp(), body)).await;
            let late = Failure::TooSlow(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            out.give(answer.unwrap_or(Err(late))).await;
        }))
    }
}

async fn post(settings: &DecisionSettings, http: &Http, at: i64, body: Vec<u8>) -> Result<Verdict, Failure> {
    let timestamp = at.to_string();
    let mut request = http.post(settings.url.clone())?.header(CONTENT_TYPE, "application/json");
    if !settings.secret.is_empty() {
        request = request.header(SIGNATURE, signature(&settings.secret, &timestamp, &body));
    }
    let request = request.header(TIMESTAMP, timestamp).body(body);
    // What bounds the wait is the question's own limit.
    let mut reply = http::send(60_000, "", request).await?;
    verdict(&http::whole(&mut reply, ANSWER_MAX).await?)
}
