//! RTCP feedback in a video line: `a=rtcp-fb` (RFC 4585 §4, RFC 5104 §7), the header extension that numbers packets for
//! transport-wide feedback (RFC 8285 §5), and payload types for packets sent again (RFC 4588 §8).
//!
//! Only what was offered is answered. Profile AVP or AVPF makes no difference to real peers.

use crate::engine::plan::{Feedback, Retransmission, VideoCodec};
use crate::sdp::{Attribute, Media};

const TRANSPORT_SEQUENCE: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// The id we offer it with: ours are the only header extensions in our offers.
const TRANSPORT_SEQUENCE_ID: u8 = 3;
const RTX: &str = "rtx";

/// The feedback the peer asked for that we know.
pub(super) fn asked(media: &Media, payload_type: u8) -> Feedback {
    let mut feedback = Feedback::default();
    let mut numbered = false;
    for words in media.feedback(payload_type) {
        let has = |word: &str| words.iter().any(|other| other.eq_ignore_ascii_case(word));
        let Some(first) = words.first() else { continue };
        match first.to_ascii_lowercase().as_str() {
            "nack" => {
                feedback.nack |= words.len() == 1;
                feedback.pli |= has("pli");
            }
            // Polycom HDX writes several on one line: `ccm fir tmmbr`.
            "ccm" => {
                feedback.fir |= has("fir");
                feedback.tmmbr |= has("tmmbr");
            }
            "goog-remb" => feedback.remb = true,
            "transport-cc" => numbered = true,
            _ => {}
        }
    }
    feedback.transport_cc = transport_sequence(media).filter(|_| numbered);
    feedback
}

/// The id of the header extension that numbers packets, where it has one of a single byte.
fn transport_sequence(media: &Media) -> Option<u8> {
    let entry = media.values("extmap").find_map(|value| {
        let (id, uri) = value.split_once(' ')?;
        let named = uri.split(' ').next()?.eq_ignore_ascii_case(TRANSPORT_SEQUENCE);
        named.then(|| id.split('/').next()?.parse().ok()).flatten()
    })?;
    (1..=14).contains(&entry).then_some(entry)
}

/// The payload types in which the peer sends again, each with what it stands for, and the one for what we send.
pub(super) fn again(media: &Media, receive: &[(u8, VideoCodec)], send: u8) -> Retransmission {
    let stands_for = |number: u8| {
        let map = media.rtpmap(number)?;
        let named = map.encoding.eq_ignore_ascii_case(RTX);
        let original = media.fmtp(number)?.number("apt").and_then(|original| u8::try_from(original).ok())?;
        named.then_some((number, original))
    };
    let pairs = media.payload_types().into_iter().filter_map(stands_for);
    let pairs: Vec<(u8, u8)> =
        pairs.filter(|(_, original)| receive.iter().any(|(number, _)| number == original)).collect();
    let send = pairs.iter().find(|(_, original)| *original == send).map(|(number, _)| *number);
    Retransmission { send, receive: pairs }
}

/// `a=rtcp-fb` values for what was agreed on, with the payload type in front.
pub(super) fn words(feedback: &Feedback, payload_type: &str) -> Vec<String> {
    let named = [
        (feedback.nack, "nack"),
        (feedback.pli, "nack pli"),
        (feedback.fir, "ccm fir"),
        (feedback.tmmbr, "ccm tmmbr"),
        (feedback.remb, "goog-remb"),
        (feedback.transport_cc.is_some(), "transport-cc"),
    ];
    named
        .into_iter()
        .filter(|(agreed, _)| *agreed)
        .map(|(_, words)| format!("{payload_type} {words}"))
        .collect()
}

/// What goes into our line beside `a=rtcp-fb`: the header extension, and the payload type for packets sent again with
/// the one it stands for.
pub(super) fn complete(media: &mut Media, feedback: &Feedback, again: Option<(u8, u8)>) {
    if let Some(id) = feedback.transport_cc {
        media.attributes.push(Attribute::new("extmap", format!("{id} {TRANSPORT_SEQUENCE}")));
    }
    if let Some((number, original)) = again {
        media.formats.push(number.to_string());
        media.attributes.push(Attribute::new("rtpmap", format!("{number} {RTX}/90000")));
        media.attributes.push(Attribute::new("fmtp", format!("{number} apt={original}")));
    }
}

/// What we offer: to browsers what they know, to everybody else what SIP phones know; offers are to stay small.
pub(super) fn offered(browser: bool, earlier: Option<&Media>) -> Feedback {
    let id = earlier.and_then(transport_sequence).unwrap_or(TRANSPORT_SEQUENCE_ID);
    Feedback {
        pli: true,
        fir: true,
        nack: true,
        tmmbr: !browser,
        remb: false,
        transport_cc: browser.then_some(id),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::described;
    use super::*;

    const LINE: &str = "m=video 5000 RTP/AVPF 96 97 98\r\na=rtpmap:96 H264/90000\r\na=rtpmap:97 rtx/90000\r\n\
        a=fmtp:97 apt=96\r\na=rtpmap:98 rtx/90000\r\na=fmtp:98 apt=120\r\n";

    fn of(lines: &str) -> Feedback {
        asked(&described(&format!("{LINE}{lines}")).media[0], 96)
    }

    #[test]
    fn feedback_is_taken_per_payload_type_or_for_all() {
        assert_eq!(of(""), Feedback::default());
        let only = Feedback { pli: true, ..Feedback::default() };
        assert_eq!(of("a=rtcp-fb:* nack pli\r\na=rtcp-fb:97 nack\r\n"), only);
        let several = Feedback { pli: true, fir: true, nack: true, tmmbr: true, ..Feedback::default() };
        let lines = "a=rtcp-fb:96 nack\r\na=rtcp-fb:96 NACK PLI\r\na=rtcp-fb:* ccm fir tmmbr\r\n";
        assert_eq!(of(lines), several);
    }

    #[test]
    fn transport_wide_feedback_needs_its_header_extension() {
        let asks = "a=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 goog-remb\r\n";
        assert_eq!(of(asks), Feedback { remb: true, ..Feedback::default() });
        let with = |id: &str| of(&format!("{asks}a=extmap:{id} {TRANSPORT_SEQUENCE}\r\n")).transport_cc;
        assert_eq!(
            (with("5"), with("5/sendrecv"), with("15"), with("0"), with("x")),
            (Some(5), Some(5), None, None, None)
        );
    }

    #[test]
    fn retransmissions_belong_to_a_payload_type_that_is_taken() {
        let media = &described(LINE).media[0];
        let expected = Retransmission { send: Some(97), receive: vec![(97, 96)] };
        assert_eq!(again(media, &[(96, VideoCodec::H264)], 96), expected);
        assert_eq!(again(media, &[(99, VideoCodec::H264)], 99), Retransmission::default());
    }
}
