//! What speaks and sees with callers: `[stt.NAME]`, `[llm.NAME]`, `[tts.NAME]`, `[realtime.NAME]`, `[talk]`, `[vision]`
//! and the keys of agents that speak. Settings, reading, checking, printing; what the keys do is `talk`'s and `engine`'s.

pub mod check;
pub mod picture;
pub mod print;
pub mod read;
pub mod settings;
