//! What a call's face came to: counted by its task and the thread of its pictures, told once for the call record.
//!
//! Pure but for atomics.

use crate::engine::report::Count;
use crate::talk::conversation::Told;

/// Figures of one call's face.
#[derive(Debug, Default)]
pub struct FaceFigures {
    /// Sessions asked for, those that became ready, those lost.
    pub sessions: Count,
    pub ready: Count,
    pub lost: Count,
    /// Milliseconds the provider counted, and the last session took to become ready.
    pub counted_ms: Count,
    pub ready_ms: Count,
    /// Turns that were heard, and how long their first sound took in all, in milliseconds.
    pub turns: Count,
    pub begins_ms: Count,
    /// Turns that were cut.
    pub interrupted: Count,
    /// Coded pictures that came; sent on as they came; decoded; encoded anew; thrown away.
    pub pictures: Count,
    pub passed: Count,
    pub decoded: Count,
    pub encoded: Count,
    pub dropped: Count,
    /// Key pictures asked of the provider.
    pub keys: Count,
    /// Microseconds from a picture's coming until it was handed to the network, in all; and of those handed on.
    pub picture_us: Count,
    /// Microseconds a picture that was due came too late, the worst.
    pub late_us: Count,
    /// By how many milliseconds pictures come later than sound.
    pub lag_ms: Count,
}

impl FaceFigures {
    /// All of them, once, at the end.
    pub fn told(&self, avatar: &str) -> Told {
        let sent = (self.passed.value() + self.encoded.value()).max(1);
        Told::new("avatar.figures")
            .with("avatar", avatar)
            .with("sessions", self.sessions.value())
            .with("ready", self.ready.value())
            .with("lost", self.lost.value())
            .with("counted_ms", self.counted_ms.value())
            .with("ready_ms", self.ready_ms.value())
            .with("turns", self.turns.value())
            .with("begins_ms", self.begins_ms.value() / self.turns.value().max(1))
            .with("interrupted", self.interrupted.value())
            .with("pictures", self.pictures.value())
            .with("passed_through", self.passed.value())
            .with("decoded", self.decoded.value())
            .with("encoded", self.encoded.value())
            .with("dropped", self.dropped.value())
            .with("keys", self.keys.value())
            .with("picture_ms", self.picture_us.value() as f64 / 1e3 / sent as f64)
            .with("late_ms", self.late_us.value() / 1_000)
            .with("lag_ms", self.lag_ms.value())
    }
}
