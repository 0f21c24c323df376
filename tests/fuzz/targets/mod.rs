//! What each fuzz target does with its bytes. The fuzzers call these with inputs they invent; `tests/fuzz_corpus.rs`
//! calls them with the inputs that are kept.
//!
//! A target panics when what it was given breaks a promise of the code below it.

pub mod digest;
pub mod dtls;
pub mod feedback;
pub mod h264_payload;
pub mod h265_payload;
pub mod multipart;
pub mod offer_answer;
pub mod playout;
pub mod rtcp;
pub mod rtcp_xr;
pub mod rtp;
pub mod rtp_extension;
pub mod rtp_stream;
pub mod sdp;
pub mod sip_connection;
pub mod sip_endpoint;
pub mod sip_message;
pub mod sip_stream;
pub mod sip_values;
pub mod sps;
pub mod srtp;
pub mod stun;
pub mod telephone_event;
pub mod uri;
pub mod vp8_payload;
pub mod vp9_payload;

use eyeline::media::access_unit::VideoCodec;
use eyeline::rtp::reorder::Piece;

/// One target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its folder in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("digest", digest::run),
    ("dtls", dtls::run),
    ("feedback", feedback::run),
    ("h264_payload", h264_payload::run),
    ("h265_payload", h265_payload::run),
    ("multipart", multipart::run),
    ("offer_answer", offer_answer::run),
    ("playout", playout::run),
    ("rtcp", rtcp::run),
    ("rtcp_xr", rtcp_xr::run),
    ("rtp", rtp::run),
    ("rtp_extension", rtp_extension::run),
    ("rtp_stream", rtp_stream::run),
    ("sdp", sdp::run),
    ("sip_connection", sip_connection::run),
    ("sip_endpoint", sip_endpoint::run),
    ("sip_message", sip_message::run),
    ("sip_stream", sip_stream::run),
    ("sip_values", sip_values::run),
    ("sps", sps::run),
    ("srtp", srtp::run),
    ("stun", stun::run),
    ("telephone_event", telephone_event::run),
    ("uri", uri::run),
    ("vp8_payload", vp8_payload::run),
    ("vp9_payload", vp9_payload::run),
];

/// Reads payloads of which each is led by three bytes: marker 1, a gap before it 2, another timestamp 4; and its length.
fn pieces(codec: VideoCodec, data: &[u8], mut take: impl FnMut(Piece<'_>)) {
    let (mut rest, mut timestamp) = (data, 0);
    while let [flags, high, low, tail @ ..] = rest {
        let (payload, tail) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])).min(tail.len()));
        timestamp += u32::from(flags & 4);
        take(Piece { codec, payload, timestamp, marker: flags & 1 != 0, after_gap: flags & 2 != 0 });
        rest = tail;
    }
}
