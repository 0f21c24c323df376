//! What an agent did in a call, as the call record and the API write it. What it said stands in the timeline.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The agent's part of a call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Turns of the caller that were answered; noise and words beside a reply; those the application changed or refused.
    pub turns: u64,
    pub turns_unused: u64,
    pub turns_amended: u64,
    pub turns_vetoed: u64,
    /// Replies heard to their end, and those the caller interrupted, or seemed to.
    pub replies: u64,
    pub interruptions: u64,
    pub false_interruptions: u64,
    /// Times no model answered and the caller was told so.
    pub fallbacks: u64,
    /// By service: `stt`, `llm`, `tts`, `realtime`, `vision`, `decision`.
    pub failures: BTreeMap<String, u64>,
    pub tools: BTreeMap<String, ToolRecord>,
    /// Pictures that went to the agent's own model.
    pub pictures_sent: u64,
    /// Descriptions by the model of `[vision]`.
    pub vision_results: u64,
    pub tokens: TokensRecord,
    /// By stage: `turn` is all of it, from the caller's last sound to the first of the reply.
    pub latency_ms: BTreeMap<String, LatencyRecord>,
    /// Absent: it had none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub avatar: Option<AvatarRecord>,
    /// What sampling came to: pictures seen, sampled, the same, sent, dropped, bytes, ages; what was spent.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sight: BTreeMap<String, Value>,
    /// What else the conversation or the session counted.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub model: BTreeMap<String, Value>,
}

/// The face the agent wore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AvatarRecord {
    /// As in `[avatar.NAME]`.
    pub name: String,
    /// Sessions that were ready, and why others were not or ended before their time, by cause.
    pub sessions: u64,
    pub failures: BTreeMap<String, u64>,
    /// How long its provider counted, and what that cost by the configured price.
    pub seconds: f64,
    pub usd: f64,
    /// Times a session came near its end.
    pub near_limits: u64,
    /// Milliseconds from the beginning of a session until it was ready, and from speech going up until it was heard.
    pub connect_ms: LatencyRecord,
    pub speaking_ms: LatencyRecord,
    /// What else was counted: pictures passed through, decoded and coded, how far lips and voice were apart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub figures: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRecord {
    pub called: u64,
    pub refused: u64,
}

/// Tokens as the providers counted them; `cached` and `image` are parts of `input`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensRecord {
    pub input: u64,
    pub cached: u64,
    pub image: u64,
    pub output: u64,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyRecord {
    pub count: u64,
    pub p50: u32,
    pub p95: u32,
    pub max: u32,
}
