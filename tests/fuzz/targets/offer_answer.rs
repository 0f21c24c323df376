//! The peer's description as an offer to answer, and as the answer to our offer.

use eyeline::call::negotiate::{self, KeyOffer, MediaSettings, Origin, SrtpPolicy};
use eyeline::engine::plan::{AudioCodec, BoundPorts, Direction, VideoCodec};
use eyeline::media::frame::Size;
use eyeline::sdp;

pub fn run(data: &[u8]) {
    let Ok(theirs) = negotiate::read(data) else { return };
    let settings = MediaSettings {
        audio_codecs: vec![AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcma, AudioCodec::Pcmu],
        audio_direction: Direction::SendReceive,
        video: true,
        video_codecs: VideoCodec::ALL.to_vec(),
        vp8_encoder: true,
        video_direction: Direction::SendReceive,
        max_size: Size::new(1280, 720),
        fps: 30,
        max_kbps: 1000,
        slides: true,
        srtp: SrtpPolicy::Optional,
        key_offer: if data.len().is_multiple_of(2) { KeyOffer::Sdes } else { KeyOffer::Dtls },
        dtls_fingerprint: Some(("sha-256".to_owned(), vec![7; 32])),
        ice: true,
        browser: false,
    };
    let ports = BoundPorts {
        address: [192, 0, 2, 10].into(),
        audio: Some(20_000),
        video: Some(20_002),
        slides: Some(20_004),
    };
    let mut origin = Origin::new("eyeline", 1, [1; 32]);
    if let Ok(wanted) = negotiate::wanted(&theirs, &settings) {
        assert!(wanted.audio || wanted.video);
        let (answer, _) = negotiate::answer(&theirs, &settings, &ports, &mut origin)
            .expect("what is wanted can be answered");
        assert_eq!(answer.media.len(), theirs.media.len(), "RFC 3264 section 6");
        assert!(sdp::parse(answer.to_string().as_bytes()).is_ok());
    }
    let mut origin = Origin::new("eyeline", 2, [2; 32]);
    let ours = negotiate::offer(&settings, &ports, &mut origin);
    if negotiate::accept(&ours, &theirs, &settings, &mut origin).is_ok() {
        let again = negotiate::offer(&settings, &ports, &mut origin);
        assert!(again.media.len() >= ours.media.len(), "RFC 3264 section 8");
    }
}
