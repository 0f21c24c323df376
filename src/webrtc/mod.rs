//! Floor 2: one WebRTC peer connection (RFC 8825 and what it names), around `str0m`.
//!
//! ```text
//! link::PeerLink (sockets, clock) ─ datagrams ─▶ peer::Peer ─▶ event::PeerEvent
//!        └ relay, reflexive: how the address seen from outside is had (TURN, STUN)
//! ```
//! Signalling, and what the streams are for, belong to `avatar`.

pub mod event;
pub mod link;
pub mod peer;
pub mod reflexive;
pub mod relay;
pub mod settings;
pub mod tunnel;

pub use str0m::media::Mid;
