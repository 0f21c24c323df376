//! Our offer (RFC 3264 §5, §8): the first one, a later one, or the one in a 2xx to an INVITE without SDP.

use super::{MediaSettings, Origin, audio, description, is_plain_rtp, refused, video};
use crate::engine::plan::{BoundPorts, PacketizationMode};
use crate::sdp::{Media, SessionDescription};

/// Profile of our own lines; every peer knows it, and `rtcp-fb` is understood in it.
const PROTOCOL: &str = "RTP/AVP";

/// Everything we can do, within `settings` and the bound ports. Lines of this session's earlier descriptions stay
/// in their places, with port 0 when they are no longer wanted; payload types keep their meaning.
///
/// H.264 goes out twice, mode 1 and mode 0: some peers know only one of them (baresip 1.0: mode 0).
pub fn offer(settings: &MediaSettings, ports: &BoundPorts, origin: &mut Origin) -> SessionDescription {
    let previous = origin.previous.as_ref().map(|description| description.media.clone()).unwrap_or_default();
    let mut lines: Vec<Media> = previous.iter().map(refused).collect();
    if let Some(port) = ports.audio.filter(|_| !settings.audio_codecs.is_empty()) {
        let (place, earlier) = place(&previous, Media::is_audio);
        put(&mut lines, place, audio_line(settings, port, earlier, origin));
    }
    if let Some(port) = ports.video.filter(|_| settings.video) {
        let (place, earlier) = place(&previous, Media::is_video);
        put(&mut lines, place, video_line(settings, port, earlier, origin));
    }
    let time = origin.previous.as_ref().map_or((0, 0), |description| description.time);
    origin.sign(ports.address, description(ports.address, time, lines))
}

/// The place of the line in use, else of a free one of its kind; and the line in use.
fn place(previous: &[Media], kind: fn(&Media) -> bool) -> (Option<usize>, Option<&Media>) {
    let live = previous.iter().position(|media| kind(media) && media.port != 0);
    let free = || previous.iter().position(|media| kind(media) && is_plain_rtp(media));
    (live.or_else(free), live.and_then(|place| previous.get(place)))
}

fn put(lines: &mut Vec<Media>, place: Option<usize>, line: Media) {
    match place.and_then(|place| lines.get_mut(place)) {
        Some(slot) => *slot = line,
        None => lines.push(line),
    }
}

fn audio_line(settings: &MediaSettings, port: u16, earlier: Option<&Media>, origin: &mut Origin) -> Media {
    let codecs = audio::offered_codecs(settings, earlier);
    let clock_rate = codecs.first().map_or(8000, |(_, codec)| codec.clock_rate());
    let event = earlier
        .and_then(|media| audio::telephone_event(media, clock_rate))
        .unwrap_or_else(|| origin.fresh_payload_type(101));
    let protocol = earlier.map_or(PROTOCOL, |media| &media.protocol);
    let rtcp_mux = earlier.is_some_and(|media| media.has("rtcp-mux"));
    let direction = settings.audio_direction;
    audio::build(&codecs, Some(event), port, protocol, audio::PTIME_MS, direction, rtcp_mux)
}

fn video_line(settings: &MediaSettings, port: u16, earlier: Option<&Media>, origin: &mut Origin) -> Media {
    let mut formats: Vec<(u8, Option<String>)> = Vec::with_capacity(2);
    let known = earlier.map(video::formats).unwrap_or_default();
    for (mode, preferred) in [(PacketizationMode::NonInterleaved, 96), (PacketizationMode::SingleNal, 97)] {
        match known.iter().find(|format| format.mode == mode) {
            Some(format) => {
                let number = format.payload_type;
                let parameters = earlier.and_then(|media| media.fmtp(number)).map(|fmtp| fmtp.0.to_owned());
                formats.push((number, parameters));
            }
            None => {
                let number = origin.fresh_payload_type(preferred);
                formats.push((number, Some(video::offered_parameters(settings, mode))));
            }
        }
    }
    let feedback = ["* nack pli".to_owned(), "* ccm fir".to_owned()];
    let protocol = earlier.map_or(PROTOCOL, |media| &media.protocol);
    let rtcp_mux = earlier.is_some_and(|media| media.has("rtcp-mux"));
    video::build(&formats, &feedback, settings, port, protocol, settings.video_direction, rtcp_mux)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, ports, settings};
    use super::super::{answer, wanted};
    use super::*;
    use crate::engine::plan::Direction;

    #[test]
    fn the_first_offer_is_small_and_names_both_modes() {
        let offer = offer(&settings(), &ports(), &mut Origin::new("eyeline", 42)).to_string();
        let expected = "v=0\r\no=eyeline 42 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
            m=audio 20000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
            a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n\
            m=video 20002 RTP/AVP 96 97\r\nb=AS:1000\r\n\
            a=rtpmap:96 H264/90000\r\na=fmtp:96 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1\r\n\
            a=rtpmap:97 H264/90000\r\na=fmtp:97 profile-level-id=42e01f;packetization-mode=0;level-asymmetry-allowed=1\r\n\
            a=rtcp-fb:* nack pli\r\na=rtcp-fb:* ccm fir\r\na=sendrecv\r\n";
        assert_eq!(offer, expected);
        assert!(offer.len() <= 1200);
    }

    #[test]
    fn only_bound_and_wanted_streams_are_offered() {
        let audio_only = MediaSettings { video: false, ..settings() };
        let offer_of =
            |settings: &MediaSettings, ports| offer(settings, &ports, &mut Origin::new("-", 1)).media;
        assert_eq!(offer_of(&audio_only, ports()).len(), 1);
        let no_audio = BoundPorts { audio: None, ..ports() };
        assert!(offer_of(&settings(), no_audio)[0].is_video());
    }

    #[test]
    fn a_later_offer_keeps_places_numbers_and_profile() {
        let theirs = described(
            "m=application 4004 UDP/BFCP *\r\nm=video 4006 RTP/AVPF 97 99\r\na=rtpmap:97 H265/90000\r\n\
             a=rtpmap:99 H264/90000\r\na=fmtp:99 profile-level-id=64001f;packetization-mode=1\r\na=rtcp-mux\r\n\
             m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000\r\n",
        );
        assert!(wanted(&theirs, &settings()).is_ok());
        let mut origin = Origin::new("-", 1);
        answer(&theirs, &settings(), &ports(), &mut origin).unwrap();
        let held = MediaSettings { audio_direction: Direction::SendOnly, ..settings() };
        let again = offer(&held, &ports(), &mut origin);
        assert_eq!((again.media[0].kind.as_str(), again.media[0].port), ("application", 0));
        let video = &again.media[1];
        assert_eq!(video.protocol, "RTP/AVPF");
        assert!(video.has("rtcp-mux"));
        assert_eq!(video.fmtp(99).unwrap().value("profile-level-id"), Some("64001f"));
        // 97 is H.265 in this session and stays it.
        assert_eq!(video.payload_types(), [99, 98]);
        assert_eq!(again.media[2].payload_types(), [8, 0, 96]);
        assert_eq!(again.media[2].direction(), Some(crate::sdp::Direction::SendOnly));
    }

    #[test]
    fn a_number_the_peer_gave_another_meaning_is_not_taken() {
        let theirs = described("m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 iLBC/8000\r\n");
        let mut origin = Origin::new("-", 1);
        answer(&theirs, &settings(), &ports(), &mut origin).unwrap();
        let again = offer(&settings(), &ports(), &mut origin);
        assert_eq!(again.media[0].payload_types(), [8, 0, 96]);
        assert_eq!(again.media[0].rtpmap(96).unwrap().encoding, "telephone-event");
    }

    #[test]
    fn video_is_added_and_removed_in_its_place() {
        let audio_only = MediaSettings { video: false, ..settings() };
        let mut origin = Origin::new("-", 1);
        let ports_seen = |offer: SessionDescription| offer.media.iter().map(|m| m.port).collect::<Vec<_>>();
        assert_eq!(ports_seen(offer(&audio_only, &ports(), &mut origin)), [20000]);
        assert_eq!(ports_seen(offer(&settings(), &ports(), &mut origin)), [20000, 20002]);
        assert_eq!(ports_seen(offer(&audio_only, &ports(), &mut origin)), [20000, 0]);
        assert_eq!(ports_seen(offer(&settings(), &ports(), &mut origin)), [20000, 20002]);
    }
}
