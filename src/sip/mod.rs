//! Floor 2: RFC 3261 and friends, bytes to dialogs. Pure: time and randomness are arguments.
//!
//! Nothing here opens a socket, reads a clock or knows SDP: bodies are bytes with a content type.

pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod header;
pub mod identifier;
pub mod language;
pub mod locate;
pub mod message;
pub mod multipart;
pub mod parse;
pub mod party;
pub mod print;
pub mod refer;
pub mod register;
pub mod replaces;
pub mod stream;
pub mod transaction;
pub mod uri;

pub use endpoint::{
    Access, Body, ConnectionId, Counters, Do, Endpoint, Event, Headers, Hop, Incoming, Method, Outgoing,
    Outside, OutsideRequest, Peer, Replaced, RequestId, ResolveId, Response, SessionId, Settings, Strangers,
    Timers, Transport,
};
pub use header::NameAddr;
pub use uri::Uri;
