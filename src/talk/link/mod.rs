//! Models reached over the network: who is asked, who next when that fails, and how long anything may take.
//!
//! ```text
//! Models, Transcribers, Voices   one agent's list of providers, shared by its calls; the order is the fail-over order
//!   └ Answer, Transcription, Speech   one question, one caller's ears, one sentence: owned and polled by a call
//! RealtimeSession                one call with a model that hears and speaks itself
//! provider (list, `first`) ─ retry (who is asked when, pure) ─ breaker (who is left alone, pure)
//! http, websocket ─ address (where plain text may go, pure)   mock, espeak: without a network
//! ```
//! Nothing here runs by itself: work is done while its owner polls it and ends when its owner drops it. What providers'
//! messages look like is in `talk::wire`.

use std::time::Duration;

use crate::codec::g711::Law;

pub mod asking;
pub mod breaker;
pub mod decisions;
pub mod deepgram;
pub mod espeak;
pub mod fetch;
pub mod mock;
pub mod models;
pub mod provider;
pub mod realtime;
pub mod retry;
pub mod service;
pub mod speaking;
pub mod transcribers;
pub mod transcribing;
pub mod voices;

pub use crate::remote::{address, flow, http, websocket};
pub use decisions::{Decision, DecisionSettings, Decisions};
pub use http::Http;
pub use models::{Answer, Models};
pub use realtime::RealtimeSession;
pub use service::Services;
pub use transcribers::{Transcribers, Transcript, Transcription};
pub use voices::{Speech, Voices};

/// How patient we are with a list of providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Times one provider is asked again for the same question.
    pub retries: u32,
    /// Before the first of them; doubled each time, a fifth more or less by chance.
    pub back_off: Duration,
    pub back_off_max: Duration,
    /// Who has not begun to answer by then gets company: the next of the list is asked beside it.
    pub beside_after: Duration,
    /// The beginning of an answer is waited for so long at most, whoever is asked.
    pub patience: Duration,
    /// After so many failures in a row a provider is left alone, for all calls.
    pub rest_after: u32,
    /// For how long at first; doubled by every failure that follows.
    pub rest: Duration,
    pub rest_max: Duration,
}

impl Default for LinkSettings {
    fn default() -> Self {
        LinkSettings {
            retries: 3,
            back_off: Duration::from_millis(250),
            back_off_max: Duration::from_secs(2),
            beside_after: Duration::from_millis(2_500),
            patience: Duration::from_secs(20),
            rest_after: 3,
            rest: Duration::from_secs(2),
            rest_max: Duration::from_secs(60),
        }
    }
}

/// The sound of a call as providers are to take or give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sound {
    /// Hz of the samples exchanged with the caller of this module.
    pub rate: u32,
    /// The call is G.711 by this law: a provider that speaks it is given, or asked for, just that. Decoding and coding
    /// it again by the same law changes no byte.
    pub law: Option<Law>,
}

impl From<u32> for Sound {
    fn from(rate: u32) -> Self {
        Sound { rate, law: None }
    }
}

/// How one question went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskFigures {
    /// Who answered; empty: nobody has.
    pub provider: String,
    /// From the question to the first piece of the answer.
    pub first: Duration,
    /// How often anybody was asked.
    pub tries: u32,
}

/// One provider since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderFigures {
    pub name: String,
    pub asked: u64,
    /// Began to answer.
    pub answered: u64,
    pub failed: u64,
    /// It is being left alone.
    pub rests: bool,
}
