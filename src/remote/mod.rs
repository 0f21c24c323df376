//! Floor 2: how anything reached over the network is asked: HTTP, WebSockets, work its owner polls, where plain text may
//! go, and why it failed.
//!
//! What is asked, and of whom, belongs to `talk` and `avatar`.

pub mod address;
pub mod failure;
pub mod flow;
pub mod http;
pub mod websocket;
