//! What a peer connection tells: how it stands, and what came over it.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::Mid;
use crate::media::access_unit::AccessUnit;

/// A data channel of one peer connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelId(pub(super) usize);

/// Sound or pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sound,
    Video,
}

/// One of our candidates in the words of JSON signalling (RTCIceCandidateInit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalCandidate {
    /// `candidate:…`, without `a=`.
    pub candidate: String,
    /// `sdpMid` and `sdpMLineIndex`: always those of the first m-line, over which everything goes.
    pub mid: String,
    pub index: u32,
}

/// A stream the peer sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    pub mid: Mid,
    pub kind: Kind,
    /// The first and the second word of the peer's `a=msid`; of an answer's media our own.
    pub stream: String,
    pub track: String,
}

/// A moment on two clocks of the sender (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The sender's wall clock.
    pub wall: SystemTime,
    /// The stream's RTP time; compare its low 32 bits only.
    pub time: u64,
}

/// One packet of Opus, in the order of arrival.
#[derive(Clone, PartialEq, Eq)]
pub struct SoundPacket {
    pub mid: Mid,
    /// When it came.
    pub at: Instant,
    /// RTP time, 48 kHz, counted on beyond 32 bits.
    pub time: u64,
    pub report: Option<Report>,
    pub data: Arc<[u8]>,
}

impl fmt::Debug for SoundPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoundPacket({} at {}, {} bytes)", self.mid, self.time, self.data.len())
    }
}

/// One coded picture, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct UnitPacket {
    pub mid: Mid,
    /// When its first packet came.
    pub at: Instant,
    /// RTP time, 90 kHz, counted on beyond 32 bits.
    pub time: u64,
    pub report: Option<Report>,
    /// `pts` means nothing; `damaged`: what was lost before it is missing to it.
    pub unit: AccessUnit,
}

impl fmt::Debug for UnitPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnitPacket({} at {}, {} bytes)", self.mid, self.time, self.unit.data.len())
    }
}

/// What happened. After [`PeerEvent::Failed`] and [`PeerEvent::Closed`] nothing follows.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerEvent {
    /// Media and data pass; again after [`PeerEvent::Disconnected`].
    Connected,
    /// Nothing passes for now: it may come back, and an ICE restart helps.
    Disconnected,
    /// It does not connect. For the operator.
    Failed(String),
    Candidate(LocalCandidate),
    /// No more candidates come (of this round). An offer made from now on names all of them.
    Gathered,
    /// The peer sends a stream (or sends it again).
    Track(Track),
    TrackGone {
        mid: Mid,
    },
    Sound(SoundPacket),
    Unit(UnitPacket),
    ChannelOpen {
        id: ChannelId,
        label: String,
    },
    ChannelClosed {
        id: ChannelId,
    },
    Data {
        id: ChannelId,
        data: Bytes,
        text: bool,
    },
    /// The peer wants a key picture of what we send.
    KeyWanted {
        mid: Mid,
    },
    /// The peer said farewell, or ours is said.
    Closed,
}
