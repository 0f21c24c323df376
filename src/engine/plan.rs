//! The values a call and its engine speak: what was negotiated, what to run, what happened.
//!
//! Pure. `call/negotiate.rs` fills the streams from offer and answer; the drivers beside this file carry them out.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::canvas::Showing;
use crate::engine::talk::seeing::SeeingSettings;
use crate::engine::talk::{Agent, TalkOrder, Wish};
pub use crate::media::access_unit::VideoCodec;
use crate::media::frame::Size;
use crate::record::recorder::RecorderReport;
pub use crate::rtp::feedback::{NegotiatedFeedback as Feedback, Retransmission};
use crate::rtp::reach::Reach;
pub use crate::secure::keys::{SrtpKeys, SrtpSuite};
use crate::talk::conversation::Told;
use crate::vision::censor::CensorSettings;
use crate::vision::filters::Transform;
use crate::vision::overlay::OverlaySettings;

/// Which way media flows, seen from this box (RFC 3264 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    SendReceive,
    SendOnly,
    ReceiveOnly,
    Inactive,
}

impl Protection {
    /// Whether packets are authenticated.
    pub fn is_some(&self) -> bool {
        match self {
            Protection::None => false,
            Protection::Sdes(_) | Protection::Dtls(_) => true,
        }
    }
}

impl Direction {
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Direction::SendReceive | Direction::ReceiveOnly)
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
    pub protection: Protection,
    /// The peer speaks ICE and we answer its checks (ICE-lite, RFC 8445 §2.5).
    pub ice: Option<Ice>,
}

/// How the packets of one stream are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    #[default]
    None,
    /// Keys from `a=crypto` (RFC 4568).
    Sdes(Box<SrtpKeys>),
    /// Keys from a DTLS handshake on the media path (RFC 5763, RFC 5764).
    Dtls(Box<DtlsPeer>),
}

/// The DTLS peer of one stream, as its SDP describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtlsPeer {
    /// We send the ClientHello (`a=setup:active` on our side).
    pub client: bool,
    /// The hash of the peer's certificate (RFC 8122): its name as in SDP, lower case, and its bytes.
    pub fingerprint: (String, Vec<u8>),
}

/// User fragments and passwords of both sides (RFC 8445 §5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Ice {
    pub local_ufrag: String,
    pub local_password: String,
    pub remote_ufrag: String,
    pub remote_password: String,
}

impl std::fmt::Debug for Ice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ice({}, {})", self.local_ufrag, self.remote_ufrag)
    }
}

/// An audio codec this box speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AudioCodec {
    Pcmu,
    Pcma,
    G722,
    Opus,
}

impl AudioCodec {
    /// The encoding name of RFC 3551 §6 and RFC 7587 §7.
    pub fn name(self) -> &'static str {
        match self {
            AudioCodec::Pcmu => "PCMU",
            AudioCodec::Pcma => "PCMA",
            AudioCodec::G722 => "G722",
            AudioCodec::Opus => "opus",
        }
    }

    /// RTP clock rate in Hz. That of G.722 is half of what it samples, by an old mistake (RFC 3551 §4.5.2).
    pub fn clock_rate(self) -> u32 {
        match self {
            AudioCodec::Pcmu | AudioCodec::Pcma | AudioCodec::G722 => 8_000,
            AudioCodec::Opus => 48_000,
        }
    }

    /// Hz of the sound that goes in and comes out.
    pub fn sample_rate(self) -> u32 {
        match self {
            AudioCodec::Pcmu | AudioCodec::Pcma => 8_000,
            AudioCodec::G722 => 16_000,
            AudioCodec::Opus => 48_000,
        }
    }

    /// Bytes of 20 ms where packets can be cut anywhere; `None`: a packet is decoded whole.
    pub fn bytes_per_20ms(self) -> Option<usize> {
        match self {
            AudioCodec::Pcmu | AudioCodec::Pcma | AudioCodec::G722 => Some(160),
            AudioCodec::Opus => None,
        }
    }
}

/// What the peer's `fmtp` says about the Opus it wants to receive (RFC 7587 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusTerms {
    /// `maxplaybackrate` in Hz: more would be wasted on it.
    pub max_playback_rate: u32,
    /// `maxaveragebitrate` in bits a second.
    pub max_bitrate: Option<u32>,
    /// `useinbandfec`: it can make use of forward error correction.
    pub fec: bool,
    /// `usedtx`: silence need not be sent.
    pub dtx: bool,
    /// `cbr`: packets of one size.
    pub constant: bool,
}

impl Default for OpusTerms {
    fn default() -> Self {
        OpusTerms { max_playback_rate: 48_000, max_bitrate: None, fec: false, dtx: false, constant: false }
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
    /// RFC 4733 payload types taken, with their clock rates; the first is sent. Empty: not negotiated.
    pub telephone_events: Vec<(u8, u32)>,
    /// RFC 3389 payload types taken, with their clock rates.
    pub comfort_noises: Vec<(u8, u32)>,
    /// How Opus is sent, when it is what we send.
    pub opus: OpusTerms,
    /// Milliseconds per packet we send: `a=ptime`, 20 by default.
    pub ptime_ms: u32,
    /// The peer asked how it is heard: `a=rtcp-xr` (RFC 3611).
    pub extended_reports: bool,
}

/// RFC 6184 §6.2: how NAL units may be put into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketizationMode {
    /// Mode 0: one whole NAL unit per packet.
    SingleNal,
    /// Mode 1: also STAP-A and FU-A.
    NonInterleaved,
}

/// One negotiated video stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoStream {
    pub route: Route,
    /// What we send.
    pub codec: VideoCodec,
    pub send_payload_type: u8,
    /// How we send H.264; we receive every packet form whatever was negotiated.
    pub send_mode: PacketizationMode,
    /// Every payload type we take, with its codec: the peer may switch between what was negotiated.
    pub receive: Vec<(u8, VideoCodec)>,
    /// `profile-level-id` the peer can decode, of H.264: profile_idc, profile_iop, level_idc.
    pub profile_level_id: [u8; 3],
    /// Parameter sets from the peer's `sprop-parameter-sets`, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    pub feedback: Feedback,
    pub retransmission: Retransmission,
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
    /// A second video line with `a=content:slides` (RFC 4796): a shared screen, received only.
    pub slides: Option<VideoStream>,
}

/// Which streams need ports before an offer or answer can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub audio: bool,
    pub video: bool,
    pub slides: bool,
}

/// The ports the engine bound for one call; RTCP is always the next higher port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundPorts {
    /// The address written into SDP.
    pub address: IpAddr,
    pub audio: Option<u16>,
    pub video: Option<u16>,
    pub slides: Option<u16>,
}

/// One call, in the engine, in the console and in the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:06x}", self.0 & 0xff_ffff)
    }
}

/// What a call tells its engine.
#[derive(Debug)]
pub enum Command {
    /// Bind ports; answered by `Prepared` or `NotPrepared`. Ports already bound stay.
    Prepare { call: CallId, wanted: Wanted, address: IpAddr },
    /// Media may flow.
    Start { call: CallId, plan: Box<Plan> },
    /// Offer and answer were renewed: addresses, directions, payload types, streams added or removed. A stream that is
    /// added needs its port prepared before; the port of one that is removed is given back.
    Update { call: CallId, streams: Box<Streams> },
    /// A call whose media flowed before is answered: from now on silence counts.
    Answered { call: CallId },
    /// The peer asked for a key picture by signalling (RFC 5168).
    SendKey { call: CallId },
    /// Press keys, one after the other (RFC 4733).
    SendDigits { call: CallId, digits: String },
    /// Something for the agent that talks on this call.
    Talk { call: CallId, order: TalkOrder },
    /// From now on nothing is recorded, or everything again.
    PauseRecording { call: CallId, paused: bool },
    /// The end; answered by `Stopped`.
    Stop { call: CallId },
}

impl Command {
    pub fn call(&self) -> CallId {
        match self {
            Command::Prepare { call, .. }
            | Command::Start { call, .. }
            | Command::Update { call, .. }
            | Command::Answered { call }
            | Command::SendKey { call }
            | Command::SendDigits { call, .. }
            | Command::Talk { call, .. }
            | Command::PauseRecording { call, .. }
            | Command::Stop { call } => *call,
        }
    }
}

/// What an engine tells its call.
#[derive(Debug)]
pub enum Event {
    Prepared {
        call: CallId,
        ports: BoundPorts,
    },
    NotPrepared {
        call: CallId,
        why: String,
    },
    /// Neither RTP nor RTCP within the timeouts.
    MediaLost {
        call: CallId,
    },
    /// A key picture is needed and RTCP feedback was not negotiated.
    WantsKey {
        call: CallId,
    },
    /// The peer's picture stands still; `packets`: though packets come.
    PictureStalled {
        call: CallId,
        packets: bool,
    },
    /// It moves again, after so many milliseconds.
    PictureResumed {
        call: CallId,
        after_ms: u64,
    },
    /// A digit arrived as RFC 4733 event.
    Digit {
        call: CallId,
        digit: char,
    },
    /// Something of the conversation for the call record.
    Told {
        call: CallId,
        told: Told,
    },
    /// The agent wants something of the call; answered by [`TalkOrder::Done`].
    Wish {
        call: CallId,
        id: String,
        wish: Wish,
    },
    /// A stream that must be protected cannot be; nothing was sent on it.
    Unprotected {
        call: CallId,
        why: String,
    },
    /// A part broke; the call decides.
    Fault {
        call: CallId,
        text: String,
    },
    Stopped {
        call: CallId,
        report: Box<Report>,
    },
}

impl Event {
    pub fn call(&self) -> CallId {
        match self {
            Event::Prepared { call, .. }
            | Event::NotPrepared { call, .. }
            | Event::MediaLost { call }
            | Event::WantsKey { call }
            | Event::PictureStalled { call, .. }
            | Event::PictureResumed { call, .. }
            | Event::Digit { call, .. }
            | Event::Told { call, .. }
            | Event::Wish { call, .. }
            | Event::Unprotected { call, .. }
            | Event::Fault { call, .. }
            | Event::Stopped { call, .. } => *call,
        }
    }
}

/// Who is talking, as drawn in watermarks and written in file names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// The appliance's name.
    pub name: String,
    /// Short call id.
    pub call: String,
    pub from: String,
    pub to: String,
    /// The agent that has the call.
    pub agent: String,
    /// The peer called us.
    pub incoming: bool,
    /// The Call-ID header field, empty before there is one.
    pub sip_call_id: String,
    /// The peer's signalling address.
    pub peer: String,
    /// The name the caller goes by, as it may be shown.
    pub display_name: String,
    /// The identity its network stands by, when that network is believed (RFC 3325).
    pub asserted: Option<String>,
    /// The user it proved to be, by its password.
    pub proven: Option<String>,
    /// Whom the call was for before it was diverted.
    pub diverted_by: Option<String>,
    /// `X-Room-ID`, else the Call-ID.
    pub room: String,
    /// `X-Session-ID`, else the caller.
    pub session: String,
    /// Both halves of Session-ID (RFC 7989).
    pub session_id: Option<String>,
    /// The `X-` headers of the INVITE, in order.
    pub headers: Vec<(String, String)>,
    /// The languages the caller's device asks for, most wanted first.
    pub languages: Vec<String>,
}

/// Everything one call's engine needs to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub label: Label,
    pub streams: Streams,
    /// Where media may go, and what may become its source.
    pub reach: Reach,
    pub video_in: VideoIn,
    pub video_out: VideoOut,
    pub voice: Voice,
    /// An agent that talks; beside it, `voice` is silent.
    pub talk: Option<Arc<Agent>>,
    /// How a call whose agent does not talk is looked at.
    pub watch: Option<Arc<SeeingSettings>>,
    pub recording: Option<Recording>,
    pub timeouts: Timeouts,
}

/// The inbound picture. There is no way to write "gated, but record what came in".
#[derive(Clone, Debug)]
pub enum VideoIn {
    /// The route asks for no censor.
    Open {
        record: OpenRecord,
        look: Look,
    },
    Gated {
        gate: Gating,
        record: GatedRecord,
        look: Look,
    },
}

impl VideoIn {
    pub fn look(&self) -> &Look {
        match self {
            VideoIn::Open { look, .. } | VideoIn::Gated { look, .. } => look,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRecord {
    Off,
    /// The caller's coded pictures as they came.
    CopyUnits,
    /// The pictures with what was drawn on them.
    Reencode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatedRecord {
    Off,
    /// Cleared pictures, encoded again.
    Reencode,
}

/// What the gate hides, and which detectors of the catalogue find it.
#[derive(Clone, Debug)]
pub struct Gating {
    pub censor: CensorSettings,
    pub detectors: Vec<String>,
}

/// What is done with a cleared picture: observers that look at it, and what is drawn on it.
#[derive(Clone, Debug)]
pub struct Look {
    /// Detectors of the catalogue that watch without holding the picture up.
    pub observers: Vec<String>,
    pub overlay: OverlaySettings,
    /// In this order, before the overlay.
    pub transforms: Vec<Transform>,
    /// Pictures are shrunk to fit.
    pub resize: Option<Size>,
}

/// Where the pictures we send come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// The caller's own cleared picture.
    Mirror,
    /// A moving test card that names its source.
    TestCard { source: u8, size: Size },
    /// A file, looped; pictures fit into the size.
    Clip { path: PathBuf, size: Size },
    /// One still with a text.
    Still { text: String, size: Size },
    /// The face of the call's agent; a still with this text until there is one.
    Face { text: String, size: Size },
}

/// What we send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VideoOut {
    pub picture: Picture,
    pub max: Size,
    pub fps: u32,
    pub kbps: u32,
    /// An encoder's name, or `auto`.
    pub encoder: String,
    pub showing: Showing,
}

/// What the caller hears: an opening, then something for the rest of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Spoken first; a tone when nothing on the box can speak.
    pub greeting: Option<String>,
    pub then: Then,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    Echo,
    Silence,
    /// A steady tone in Hz.
    Tone(u32),
    /// A text spoken again and again.
    Speech(String),
    /// The sound of a file, looped.
    Clip(PathBuf),
}

/// Where and what to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    pub place: Place,
    pub audio: RecordAudio,
    pub video: bool,
    pub encoder: String,
    pub kbps: u32,
    pub min_free_bytes: u64,
}

/// Where a recording lies; folders are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Under this folder by date and parties.
    Dated(PathBuf),
    /// Exactly here.
    Exact(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordAudio {
    /// Left the caller, right the agent.
    Stereo,
    Mixed,
    None,
}

/// How long a silent line lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the first packet.
    pub start: Duration,
    /// After it flowed.
    pub flow: Duration,
    /// While held.
    pub hold: Duration,
}

/// What one call's engine did, told once when it has stopped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub audio: Option<StreamReport>,
    pub video: Option<StreamReport>,
    pub pictures: PictureReport,
    /// The shared screen, if there was one.
    pub slides: Option<SlidesReport>,
    /// The files of the shared screen stand behind those of the call.
    pub recording: Option<RecorderReport>,
    /// What went wrong on the way without ending the call.
    pub faults: Vec<String>,
}

/// What came of a shared screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlidesReport {
    pub stream: StreamReport,
    pub pictures: PictureReport,
}

/// RTP figures of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamReport {
    pub packets_received: u64,
    pub packets_lost: u64,
    pub packets_late: u64,
    pub duplicates: u64,
    pub foreign_packets: u64,
    pub malformed_packets: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub jitter_ms: f64,
    pub round_trip_ms: Option<f64>,
    /// Sound, once there was enough of it.
    pub quality: Option<QualityReport>,
    /// Pictures: what is left between them and their sound once they were moved; positive: they come too soon.
    pub skew_ms: Option<f64>,
    /// From `Start` to the first packet.
    pub first_packet_ms: Option<u64>,
    /// What protects it; `None`: nothing.
    pub shielded: Option<Shielded>,
    /// SRTP packets not made with the stream's key: plain, forged, or damaged.
    pub srtp_auth_failures: u64,
    pub srtp_replayed: u64,
    /// Came before there were keys.
    pub srtp_early: u64,
    /// DTLS handshakes of sources that are not the peer.
    pub dtls_refused: u64,
    /// ICE checks that did not know the password, or too many of them.
    pub ice_refused: u64,
    /// Of video.
    pub path: Option<PathReport>,
}

/// Lost packets of a video stream and the path it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Packets of the peer we asked for, those that came in time, those given up.
    pub asked: u64,
    pub recovered: u64,
    pub given_up: u64,
    /// Packets of ours the peer asked for, each time; those sent again, those not.
    pub repeats_wanted: u64,
    pub repeated: u64,
    pub repeats_refused: u64,
    /// Messages about the path, both ways.
    pub feedback_sent: u64,
    pub feedback_received: u64,
    /// What we may send in kilobits a second, and what that follows from; `None`: the peer does not say.
    pub target_kbps: u32,
    pub remb_kbps: Option<u32>,
    pub tmmbr_kbps: Option<u32>,
    pub delay_kbps: Option<u32>,
    pub loss_kbps: u32,
    /// What we estimate the path from the peer to carry.
    pub inbound_kbps: Option<u32>,
}

impl PathReport {
    /// Counts on from a stream that is gone.
    #[must_use]
    pub fn after(self, past: &PathReport) -> PathReport {
        PathReport {
            asked: past.asked + self.asked,
            recovered: past.recovered + self.recovered,
            given_up: past.given_up + self.given_up,
            repeats_wanted: past.repeats_wanted + self.repeats_wanted,
            repeated: past.repeated + self.repeated,
            repeats_refused: past.repeats_refused + self.repeats_refused,
            feedback_sent: past.feedback_sent + self.feedback_sent,
            feedback_received: past.feedback_received + self.feedback_received,
            ..self
        }
    }
}

/// How good a line is, by the E-model (ITU-T G.107). Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QualityReport {
    /// Of what we hear: R, 0 to 93.2, and the mean opinion score made of it, 1 to 4.4.
    pub rating: f64,
    pub mos: f64,
    /// Packets not played, lost or too late, in percent.
    pub loss_percent: f64,
    /// How much longer than by chance packets are missing in a row.
    pub burst_ratio: f64,
    /// How long sound waits here from its arrival to its playing.
    pub wait_ms: f64,
    /// Made up for what was lost, and got back from the packet behind it.
    pub concealed_ms: u64,
    pub repaired_ms: u64,
    /// Left out and put in to follow the network and the peer's clock.
    pub stretched_ms: u64,
    /// Of what the peer hears, when it said enough about it.
    pub peer_mos: Option<f64>,
}

/// How a stream is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shielded {
    /// The suite's name, as in `a=crypto`.
    pub suite: &'static str,
    /// `sdes` or `dtls`.
    pub via: &'static str,
}

/// Pictures by what became of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PictureReport {
    pub decoded: u64,
    pub passed: u64,
    pub withheld: u64,
    /// Lost between stages for want of a buffer or a place in a queue.
    pub dropped: u64,
    /// Lost in each queue, by who should have had them.
    pub lost: [(&'static str, u64); 3],
    pub encoded: u64,
    pub size: Option<Size>,
    pub key_requests_sent: u64,
    pub key_requests_received: u64,
    /// Times the received picture stood still, and for how long in all.
    pub stalls: u64,
    pub stalled_ms: u64,
    /// Mean milliseconds per picture.
    pub decode_ms: f64,
    pub gate_ms: f64,
    pub encode_ms: f64,
    /// From the start of the plan to the first decoded picture.
    pub first_picture_ms: Option<u64>,
}
