//! Whom this box may call: `sip.dial_allow`, whoever asks for the call.

use std::time::Instant;

use super::routing::glob;
use crate::sip::Uri;

/// Who asks for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialReason {
    /// The operator or an application.
    Call,
    /// A peer, by a 3xx.
    Redirect,
    /// A peer or we, by REFER.
    Refer,
    /// We join two calls that are there.
    Replaces,
}

/// Why a URI is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// The rule.
#[derive(Clone, Debug, Default)]
pub struct Dialling {
    allow: Vec<String>,
}

impl Dialling {
    pub fn new(allow: Vec<String>) -> Self {
        Dialling { allow }
    }

    /// Whether this URI may be called.
    ///
    /// # Errors
    /// Says which rule forbids it.
    pub fn permit(&mut self, _now: Instant, uri: &Uri, reason: DialReason) -> Result<(), Denied> {
        if reason == DialReason::Replaces {
            return Ok(());
        }
        // Parameters are not part of whom it reaches: they must not make a pattern match.
        let user = uri.user().map(|user| format!("{user}@")).unwrap_or_default();
        let text = format!("{}:{user}{}", uri.scheme.as_str(), uri.host);
        let allowed = self.allow.iter().any(|pattern| glob(pattern, &text));
        if allowed { Ok(()) } else { Err(Denied("it is not in sip.dial_allow".to_owned())) }
    }
}
