//! The values a call and its engine speak: what was negotiated, what to run, what happened.
//!
//! Pure. `call/negotiate.rs` fills the streams from offer and answer; the drivers beside this file carry them out.

use std::net::{IpAddr, SocketAddr};

/// Which way media flows, seen from this box (RFC 3264 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendReceive,
    SendOnly,
    ReceiveOnly,
    Inactive,
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::ReceiveOnly)
    }

    /// The same flow seen from the other side.
    pub fn reversed(self) -> Self {
        match self {
            Direction::SendOnly => Direction::ReceiveOnly,
            Direction::ReceiveOnly => Direction::SendOnly,
            both => both,
        }
    }
}

/// Where one media stream goes and may come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The peer's RTP address from its SDP; `None`: nothing is sent until a source has been locked.
    pub remote: Option<SocketAddr>,
    /// The peer's RTCP address: `a=rtcp`, else RTP port + 1, else the RTP address itself with rtcp-mux.
    pub remote_rtcp: Option<SocketAddr>,
    pub rtcp_mux: bool,
    pub direction: Direction,
}

/// An audio codec this box speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AudioCodec {
    Pcmu,
    Pcma,
}

impl AudioCodec {
    /// The encoding name of RFC 3551 §6.
    pub fn name(self) -> &'static str {
        match self {
            AudioCodec::Pcmu => "PCMU",
            AudioCodec::Pcma => "PCMA",
        }
    }

    /// RTP clock rate in Hz.
    pub fn clock_rate(self) -> u32 {
        8000
    }
}

/// One negotiated audio stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioStream {
    pub route: Route,
    /// What we send.
    pub codec: AudioCodec,
    pub send_payload_type: u8,
    /// Every payload type we take, with its codec: the peer may switch between what was negotiated.
    pub receive: Vec<(u8, AudioCodec)>,
    /// RFC 4733 payload type we receive and send, when negotiated.
    pub telephone_event: Option<u8>,
    /// Milliseconds per packet we send: `a=ptime`, 20 by default.
    pub ptime_ms: u32,
}

/// RFC 6184 §6.2: how NAL units may be put into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketizationMode {
    /// Mode 0: one whole NAL unit per packet.
    SingleNal,
    /// Mode 1: also STAP-A and FU-A.
    NonInterleaved,
}

/// RTCP feedback that may be sent and will be obeyed (RFC 4585, RFC 5104).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    pub pli: bool,
    pub fir: bool,
    pub nack: bool,
}

/// One negotiated H.264 stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoStream {
    pub route: Route,
    pub send_payload_type: u8,
    /// How we send; we receive every packet form whatever was negotiated.
    pub send_mode: PacketizationMode,
    /// Every payload type we take.
    pub receive: Vec<u8>,
    /// `profile-level-id` the peer can decode: profile_idc, profile_iop, level_idc.
    pub profile_level_id: [u8; 3],
    /// Parameter sets from the peer's `sprop-parameter-sets`, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    pub feedback: Feedback,
    /// What the peer's level, `max-*`, `b=` allow us to send. `None`: no stated limit.
    pub max_kbps: Option<u32>,
    /// Largest picture in macroblocks, from level_idc or max-fs.
    pub max_macroblocks: u32,
    /// Macroblocks per second, from level_idc or max-mbps.
    pub max_macroblocks_per_second: u32,
}

/// What one call's media is, once offer and answer are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub audio: Option<AudioStream>,
    pub video: Option<VideoStream>,
}

/// Which streams need ports before an offer or answer can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub audio: bool,
    pub video: bool,
}

/// The ports the engine bound for one call; RTCP is always the next higher port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundPorts {
    /// The address written into SDP.
    pub address: IpAddr,
    pub audio: Option<u16>,
    pub video: Option<u16>,
}
