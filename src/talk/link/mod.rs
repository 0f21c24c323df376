//! Providers reached over the network. Every driver of the conversation is here; what a provider's bytes mean is in
//! `talk::wire`.

pub mod realtime;
pub mod websocket;

pub use realtime::RealtimeSession;
