//! Floor 3: the conversation of an agent with a caller, and the models reached over the network for it.
//!
//! ```text
//! caller's sound ─ hear (speech, pauses, turns) ─┐
//! caller's picture ─ sight (what is worth showing) ┼─ conversation ─ request ─ wire ─ link ══ model
//! model's words ─ sentences ─ wire ─ link ══ voice ─┴─ playout of the engine
//! ```
//! `message` holds the words all of them share. What is in `wire` is pure: a provider's events to ours and back. What
//! is in `link` opens sockets. How sound and pictures come here and leave is `engine`'s.

pub mod context;
pub mod conversation;
pub mod hear;
pub mod link;
pub mod message;
pub mod realtime;
pub mod sentences;
pub mod sight;
pub mod tools;
pub mod trigger;
pub mod wire;
