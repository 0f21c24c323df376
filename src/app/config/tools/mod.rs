//! What agents may do besides talking, and what makes them act: `[tool.NAME]`, `[http_tool.NAME]`, `[unlock.NAME]`,
//! `[[trigger]]` and `on_start` of an agent. Settings, reading, checking, printing; what the keys do is
//! `talk::tools`', `talk::trigger`'s and `engine::talk`'s.

pub mod check;
pub mod print;
pub mod read;
pub mod settings;
