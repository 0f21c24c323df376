//! What becomes of a look through the model of `[vision]`: for the application that asks, the call record and the agent.
//!
//! Pure. How pictures are described is [`super::describe`]'s.

use std::time::Duration;

use serde_json::{Value, json};

use crate::talk::message::Usage;
use crate::talk::sight::describe::{Described, NotDescribed};
use crate::talk::sight::result::Vision;

/// A picture in words.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub vision: Vision,
    /// How old the picture was when it was sent.
    pub age: Option<Duration>,
    pub took: Duration,
    pub usage: Usage,
    /// US dollars; 0 where prices are not known.
    pub usd: f64,
    /// Who answered.
    pub provider: String,
}

/// Why there is none. `Display` says it to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSeen {
    #[error("there is no picture of the caller")]
    NoPicture,
    /// Milliseconds.
    #[error("no answer within {0} ms")]
    TooSlow(u64),
    #[error(transparent)]
    Not(#[from] NotDescribed),
}

/// What somebody who asked is told.
pub type Seen = Result<Description, NotSeen>;

impl NotSeen {
    /// A word to script against.
    pub fn code(&self) -> &'static str {
        match self {
            NotSeen::NoPicture => "no_picture",
            NotSeen::TooSlow(_) => "model_too_slow",
            NotSeen::Not(NotDescribed::Failed(_)) => "model_failed",
            NotSeen::Not(NotDescribed::Unreadable(_)) => "model_unreadable",
            NotSeen::Not(NotDescribed::Spent) => "budget_spent",
            NotSeen::Not(NotDescribed::Crowded) => "too_many_questions",
            NotSeen::Not(NotDescribed::Resting) => "model_resting",
        }
    }
}

impl From<&Described> for Seen {
    fn from(described: &Described) -> Self {
        let Described { outcome, age, took, usage, usd, provider, .. } = described;
        let vision = outcome.clone()?;
        Ok(Description {
            vision,
            age: *age,
            took: *took,
            usage: *usage,
            usd: *usd,
            provider: provider.clone(),
        })
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Description {
    /// Every member as JSON, by its name: of an answer over HTTP, and of `vision.result`.
    pub fn members(&self) -> Vec<(&'static str, Value)> {
        let Vision { description, labels, text, faces, confidence, repaired } = &self.vision;
        // A share is said to the hundredth; more is no knowledge.
        let confidence = confidence.map(|sure| (f64::from(sure) * 100.0).round() / 100.0);
        vec![
            ("description", json!(description)),
            ("labels", json!(labels)),
            ("text", json!(text)),
            ("faces", json!(faces)),
            ("confidence", json!(confidence)),
            ("repaired", json!(repaired)),
            ("age_ms", json!(self.age.map(milliseconds))),
            ("took_ms", json!(milliseconds(self.took))),
            ("provider", json!(self.provider)),
            ("tokens_in", json!(self.usage.input_tokens)),
            ("tokens_out", json!(self.usage.output_tokens)),
            ("cost_usd", json!(self.usd)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::talk::message::Failure;

    #[test]
    fn an_application_reads_every_member_by_its_name() {
        let vision = Vision {
            description: "A man holds a parcel.".into(),
            labels: vec!["man".into()],
            faces: Some(1),
            confidence: Some(0.9),
            ..Vision::default()
        };
        let description = Description {
            vision,
            age: Some(Duration::from_millis(80)),
            took: Duration::from_millis(700),
            usage: Usage { input_tokens: 900, output_tokens: 40, ..Usage::default() },
            usd: 0.0012,
            provider: "vision".into(),
        };
        let members: serde_json::Map<String, Value> =
            description.members().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let expected = json!({
            "description": "A man holds a parcel.", "labels": ["man"], "text": "", "faces": 1, "confidence": 0.9,
            "repaired": false, "age_ms": 80, "took_ms": 700, "provider": "vision", "tokens_in": 900,
            "tokens_out": 40, "cost_usd": 0.0012,
        });
        assert_eq!(Value::Object(members), expected);
    }

    #[test]
    fn a_failure_says_what_and_why() {
        let failed = NotSeen::from(NotDescribed::Failed(Failure::Cut));
        assert_eq!((failed.code(), failed.to_string().as_str()), ("model_failed", "the answer was cut off"));
        assert_eq!(NotSeen::from(NotDescribed::Spent).code(), "budget_spent");
    }
}
