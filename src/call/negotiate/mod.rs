//! Offer and answer (RFC 3264): what two session descriptions mean for one call, in the words of [`crate::engine::plan`].
//!
//! ```text
//! their offer → read → wanted → (engine binds ports) → answer → our answer + Streams
//! our offer ← offer ← (engine binds ports);   their answer → read → accept → Streams
//! ```
//! One audio and one video stream are taken, each from the first line of its kind that can be, protected ones before
//! plain ones; a second video line with `a=content:slides` (RFC 4796) where it is wanted. Every other line is mirrored
//! with port 0: nothing is bundled, each line keeps its own port (RFC 8843 §7.3). A renewed offer with port 0 on every
//! line takes all media away and is answered so. Known: G.711, telephone-event (RFC 4733), the video codecs of
//! [`crate::media::access_unit::VideoCodec`] over RTP, plain or protected. Binding ports, sending and SIP status lines do not belong here.

mod accept;
mod answer;
mod audio;
mod extended;
mod feedback;
mod level;
mod offer;
mod protection;
mod route;
mod video;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::engine::plan::{AudioCodec, Direction, Streams, VideoCodec};
use crate::media::frame::Size;
use crate::sdp::{self, Attribute, Connection, Media, OriginLine, SessionDescription, ice};

use answer::protections;
use protection::is_protected;

pub use accept::accept;
pub use answer::{answer, takes_all_away, wanted};
pub use offer::offer;
pub use protection::{KeyOffer, SrtpPolicy};

/// What this box wants in one call. Change the directions to hold or resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSettings {
    /// In order of preference. Empty: no audio.
    pub audio_codecs: Vec<AudioCodec>,
    pub audio_direction: Direction,
    /// Whether video is taken and offered.
    pub video: bool,
    /// Taken, in order of preference. Of them H.264 and VP8 are also offered and sent.
    pub video_codecs: Vec<VideoCodec>,
    /// Whether this box can encode VP8; otherwise it is only received.
    pub vp8_encoder: bool,
    pub video_direction: Direction,
    /// Largest picture and rate this box wants; decides the level it states.
    pub max_size: Size,
    pub fps: u32,
    /// Stated as `b=AS` of the video line.
    pub max_kbps: u32,
    /// Whether a second video line with `a=content:slides` is taken, to be received only.
    pub slides: bool,
    pub srtp: SrtpPolicy,
    /// Of our own offers.
    pub key_offer: KeyOffer,
    /// The hash of our certificate, its name as in SDP; `None`: DTLS is neither offered nor taken.
    pub dtls_fingerprint: Option<(String, Vec<u8>)>,
    /// Whether ICE is answered with ICE-lite also where the transport does not need it.
    pub ice: bool,
    /// Our own offers are what a browser takes: DTLS-SRTP, ICE-lite and rtcp-mux.
    pub browser: bool,
}

impl MediaSettings {
    /// Whether pictures can be sent in this codec. Of VP9 and H.265 we have decoders only.
    fn can_send(&self, codec: VideoCodec) -> bool {
        match codec {
            VideoCodec::H264 => true,
            VideoCodec::Vp8 => self.vp8_encoder,
            VideoCodec::Vp9 | VideoCodec::H265 => false,
        }
    }
}

/// Why a description cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// 488: readable, but nothing in it can be taken. The text is for a `Warning` header.
    #[error("{0}")]
    NotAcceptable(String),
    /// 400: not a session description.
    #[error("{0}")]
    Malformed(String),
}

impl Refusal {
    /// The SIP status it becomes.
    pub fn status(&self) -> u16 {
        match self {
            Refusal::NotAcceptable(_) => 488,
            Refusal::Malformed(_) => 400,
        }
    }
}

/// The local side of one session over all its offers and answers: `o=`, the lines in use and the payload numbers taken.
#[derive(Clone, Debug)]
pub struct Origin {
    username: String,
    session_id: u64,
    version: u64,
    /// What was last sent. A later offer keeps its lines in place (RFC 3264 §8).
    previous: Option<SessionDescription>,
    /// One bit per payload type either side has ever named: none of them may get another meaning.
    taken: u128,
    random: StdRng,
    /// What the last offer and answer made of the call.
    agreed: Streams,
    /// Audio, video, slides: protected in an exchange that is over, so never plain again, also after having been away.
    protected: [bool; 3],
    /// By the place of the line.
    secrets: Vec<protection::Secrets>,
}

impl Origin {
    /// `session_id`: unique for this box, for example random; only the low 62 bits count. `seed` feeds keys and
    /// passwords: it must be secret and used once.
    pub fn new(username: &str, session_id: u64, seed: [u8; 32]) -> Self {
        let username = if username.is_empty() { "-" } else { username };
        Origin {
            username: username.to_owned(),
            session_id: session_id & (u64::MAX >> 2),
            version: 1,
            previous: None,
            taken: 0,
            random: StdRng::from_seed(seed),
            agreed: Streams::default(),
            protected: [false; 3],
            secrets: Vec::new(),
        }
    }

    /// What was last sent.
    pub fn current(&self) -> Option<&SessionDescription> {
        self.previous.as_ref()
    }

    /// Puts `o=` in, with the next version if anything changed since the last description (RFC 3264 §8).
    fn sign(&mut self, address: std::net::IpAddr, mut description: SessionDescription) -> SessionDescription {
        if let Some(previous) = &self.previous {
            description.origin.clone_from(&previous.origin);
            if *previous == description {
                return description;
            }
            self.version += 1;
        }
        description.origin = Some(OriginLine {
            username: self.username.clone(),
            session_id: self.session_id.to_string(),
            session_version: self.version.to_string(),
            address: Connection::of(address),
        });
        self.take(&description);
        self.previous = Some(description.clone());
        description
    }

    /// A new exchange begins: what the last one agreed on is settled. Of several answers to one offer (forks) each
    /// stands for itself.
    fn settle(&mut self) {
        let [audio, video, slides] = protections(&self.agreed).map(is_protected);
        let [was_audio, was_video, were_slides] = self.protected;
        self.protected = [was_audio || audio, was_video || video, were_slides || slides];
    }

    fn take(&mut self, description: &SessionDescription) {
        for number in description.media.iter().flat_map(Media::payload_types) {
            self.taken |= 1 << number;
        }
    }

    /// A dynamic payload type that never meant anything in this session: `preferred` if it is free.
    fn fresh_payload_type(&mut self, preferred: u8) -> u8 {
        let free = |number: &u8| self.taken & (1 << number) == 0;
        let number = Some(preferred).filter(free).or_else(|| (96..128).find(free)).unwrap_or(preferred);
        self.taken |= 1 << number;
        number
    }
}

/// Reads the body of an INVITE, a response or an ACK.
pub fn read(body: &[u8]) -> Result<SessionDescription, Refusal> {
    sdp::parse(body).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// A description of ours without `o=`: the session's address, the given time and lines.
fn description(address: std::net::IpAddr, time: (u64, u64), media: Vec<Media>) -> SessionDescription {
    SessionDescription {
        origin: None,
        name: "-".to_owned(),
        connection: Some(Connection::of(address)),
        bandwidth: Vec::new(),
        time,
        attributes: Vec::new(),
        media,
    }
}

/// A line of ours in use, still without attributes.
fn line(kind: &str, port: u16, protocol: &str, payload_types: impl Iterator<Item = u8>) -> Media {
    Media {
        kind: kind.to_owned(),
        port,
        protocol: protocol.to_owned(),
        formats: payload_types.map(|number| number.to_string()).collect(),
        connection: None,
        bandwidth: Vec::new(),
        attributes: Vec::new(),
    }
}

/// The same line with port 0 (RFC 3264 §6). One format is enough, and keeps our descriptions small. Its name stays
/// (RFC 5888 §9.1).
fn refused(media: &Media) -> Media {
    Media {
        kind: media.kind.clone(),
        port: 0,
        protocol: media.protocol.clone(),
        formats: media.formats.iter().take(1).cloned().collect(),
        connection: None,
        bandwidth: Vec::new(),
        attributes: named(media).into_iter().collect(),
    }
}

/// `a=mid` as offered.
fn named(media: &Media) -> Option<Attribute> {
    media.values("mid").next().map(|name| Attribute::new("mid", name))
}

/// A second picture beside the camera's, as a shared screen (RFC 4796).
fn is_slides(media: &Media) -> bool {
    let words = media.values("content").flat_map(|value| value.split(','));
    media.is_video() && words.into_iter().any(|word| word.trim().eq_ignore_ascii_case("slides"))
}

fn spoken(direction: Direction) -> sdp::Direction {
    match direction {
        Direction::SendReceive => sdp::Direction::SendReceive,
        Direction::SendOnly => sdp::Direction::SendOnly,
        Direction::ReceiveOnly => sdp::Direction::ReceiveOnly,
        Direction::Inactive => sdp::Direction::Inactive,
    }
}

fn direction(sends: bool, receives: bool) -> Direction {
    match (sends, receives) {
        (true, true) => Direction::SendReceive,
        (true, false) => Direction::SendOnly,
        (false, true) => Direction::ReceiveOnly,
        (false, false) => Direction::Inactive,
    }
}

/// What is left of `wanted` when the peer's line `media` allows its complement (RFC 3264 §6.1).
fn agreed(wanted: Direction, description: &SessionDescription, media: &Media) -> Direction {
    use sdp::Direction::{ReceiveOnly, SendOnly, SendReceive};
    let theirs = description.direction_of(media);
    // With ICE the address only says that it is not known yet (RFC 8840 §4.1.1).
    let held = description.connection_of(media).is_some_and(Connection::is_hold)
        && ice::credentials(description, media).is_none();
    let peer_receives = matches!(theirs, SendReceive | ReceiveOnly) && !held;
    let peer_sends = matches!(theirs, SendReceive | SendOnly);
    direction(wanted.sends() && peer_receives, wanted.receives() && peer_sends)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::plan::BoundPorts;

    pub(in crate::call) fn settings() -> MediaSettings {
        MediaSettings {
            audio_codecs: vec![AudioCodec::Pcma, AudioCodec::Pcmu],
            audio_direction: Direction::SendReceive,
            video: true,
            video_codecs: VideoCodec::ALL.to_vec(),
            vp8_encoder: true,
            video_direction: Direction::SendReceive,
            max_size: Size::new(1280, 720),
            fps: 15,
            max_kbps: 1000,
            slides: false,
            srtp: SrtpPolicy::Optional,
            key_offer: KeyOffer::Sdes,
            dtls_fingerprint: Some(("sha-256".to_owned(), vec![0xab; 32])),
            ice: false,
            browser: false,
        }
    }

    pub(in crate::call) fn origin() -> Origin {
        Origin::new("eyeline", 42, [7; 32])
    }

    pub(in crate::call) fn ports() -> BoundPorts {
        BoundPorts {
            address: [192, 0, 2, 10].into(),
            audio: Some(20000),
            video: Some(20002),
            slides: Some(20004),
        }
    }

    pub(in crate::call) fn described(lines: &str) -> SessionDescription {
        read(
            format!("v=0\r\no=- 1 1 IN IP4 192.0.2.20\r\ns=-\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\n{lines}")
                .as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn the_version_rises_only_when_something_changed() {
        let mut origin = Origin::new("", 7, [7; 32]);
        let version = |description: SessionDescription| {
            description.origin.unwrap().session_version.parse::<u64>().unwrap()
        };
        let first = version(offer(&settings(), &ports(), &mut origin));
        let same = version(offer(&settings(), &ports(), &mut origin));
        let held = MediaSettings { audio_direction: Direction::SendOnly, ..settings() };
        let changed = version(offer(&held, &ports(), &mut origin));
        let same_again = version(offer(&held, &ports(), &mut origin));
        assert_eq!((same, changed, same_again), (first, first + 1, first + 1));
    }

    #[test]
    fn rubbish_is_a_400_and_nothing_usable_a_488() {
        assert_eq!(read(b"hello").unwrap_err().status(), 400);
        let unusable = described("m=audio 4000 RTP/AVP 18\r\n");
        assert_eq!(wanted(&unusable, &settings()).unwrap_err().status(), 488);
    }

    #[test]
    fn an_old_style_hold_takes_away_our_sending_only() {
        let held = described("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\n");
        assert_eq!(agreed(Direction::SendReceive, &held, &held.media[0]), Direction::ReceiveOnly);
        let held = described("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\na=recvonly\r\n");
        assert_eq!(agreed(Direction::SendReceive, &held, &held.media[0]), Direction::Inactive);
    }

    #[test]
    fn directions_are_complemented_and_limited_by_what_we_want() {
        let offered = |attribute: &str, wanted| {
            let described = described(&format!("a={attribute}\r\nm=audio 4000 RTP/AVP 0\r\n"));
            agreed(wanted, &described, &described.media[0])
        };
        assert_eq!(offered("sendonly", Direction::SendReceive), Direction::ReceiveOnly);
        assert_eq!(offered("recvonly", Direction::SendReceive), Direction::SendOnly);
        assert_eq!(offered("inactive", Direction::SendReceive), Direction::Inactive);
        assert_eq!(offered("sendrecv", Direction::ReceiveOnly), Direction::ReceiveOnly);
        assert_eq!(offered("recvonly", Direction::ReceiveOnly), Direction::Inactive);
    }
}
