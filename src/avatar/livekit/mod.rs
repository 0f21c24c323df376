//! A LiveKit room as a client sees it: signalling version 0 over a WebSocket, one peer connection each way, data packets.
//!
//! ```text
//! link::RoomLink ─ frames ─▶ signal::Signal (who is here, which track is whose, when to begin anew)
//!       ├ subscriber ─ PeerLink ─▶ Downlink ─▶ sound and pictures of the avatar
//!       └ publisher  ─ PeerLink ◀─ packet::Packets (streams of bytes, calls of procedures)
//! ```
//! Sources: the published protobufs of LiveKit (`livekit-protocol`) and its documents. What an avatar is told over a room
//! belongs to [`super::room`].

pub mod link;
pub mod packet;
pub mod signal;
pub mod token;
pub mod tracks;

pub use link::{RoomEvent, RoomLink, RoomTerms};
