//! What an agent's models used up and what its talk came to, as it is told for the call record. Pure.

use crate::engine::sight::SightFigures;
use crate::talk::conversation::{ConversationFigures, Told};
use crate::talk::message::Usage;
use crate::talk::realtime::RealtimeFigures;
use crate::talk::sight::budget::Spent;

/// What one answer used up.
pub fn usage(usage: Usage) -> Told {
    Told::new("agent.usage")
        .with("input_tokens", usage.input_tokens)
        .with("cached_tokens", usage.cached_tokens)
        .with("image_tokens", usage.image_tokens)
        .with("output_tokens", usage.output_tokens)
}

/// At the end of a call with a pipeline.
pub fn conversation(figures: ConversationFigures) -> Told {
    Told::new("agent.figures")
        .with("questions", figures.questions)
        .with("questions_wasted", figures.questions_wasted)
        .with("undecided", figures.undecided)
}

/// At the end of a call with a realtime model.
pub fn session(figures: RealtimeFigures) -> Told {
    Told::new("agent.figures")
        .with("images_sent", figures.images_sent)
        .with("images_dropped", figures.images_dropped)
        .with("images_deleted", figures.images_deleted)
        .with("late_dropped", figures.late_dropped)
        .with("truncated", figures.truncated)
        .with("malformed", figures.malformed)
        .with("reconnected", figures.reconnected)
        .with("recycled", figures.recycled)
        .with("replayed_ms", figures.replayed_ms)
        .with("resampled", figures.resampled)
}

/// At the end of a call that was looked at.
pub fn sight(figures: SightFigures, spent: Spent) -> Told {
    Told::new("vision.figures")
        .with("seen", figures.seen)
        .with("sampled", figures.sampled)
        .with("same", figures.same)
        .with("sent", figures.sent)
        .with("dropped", figures.dropped)
        .with("failed", figures.failed)
        .with("blind", figures.blind)
        .with("bytes", figures.bytes)
        .with("encode_us", figures.encode_us)
        .with("age_ms_p50", figures.age_ms_p50)
        .with("age_ms_p95", figures.age_ms_p95)
        .with("images", spent.images)
        .with("images_refused", spent.refused)
        .with("tokens", spent.tokens)
        .with("cost_usd", spent.usd)
}
