//! Floor 3: calls on disk. Coded pictures and sound into a file that survives a crash, and the record beside it.
//!
//! ```text
//! clean pictures ─▶ encode ─┐
//! access units ─────────────┤ interleave ─▶ parts ─▶ mux ─▶ one fragment a second, on disk
//! caller, agent ─▶ timeline ─▶ AAC ─┘
//! ```
//! Nothing here censors: what arrives has passed the gate. Deleting old recordings and uploading come later.

pub mod agent;
pub mod mux;
mod part;
pub mod pauses;
#[expect(clippy::module_inception, reason = "the call record is what this file holds")]
pub mod record;
pub mod recorder;
pub mod store;
pub mod timeline;
