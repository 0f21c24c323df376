//! Their answer to our offer, in a response or, for an INVITE without SDP, in the ACK.
//!
//! Forgiving: lines we did not offer are ignored (Dahua answers audio with audio and video), missing ones count as
//! refused, and a line that slipped to another place is found by its kind.

use super::answer::{stream_of, within};
use super::protection::{Pairing, accepted};
use super::route::route;
use super::{MediaSettings, Origin, Refusal, agreed, audio, direction, extended, feedback, is_slides, video};
use crate::engine::plan::{AudioCodec, AudioStream, Direction, Route, Streams, VideoCodec, VideoStream};
use crate::sdp::{Connection, Media, SessionDescription};

/// What the answer makes of the call. [`Refusal::NotAcceptable`] when it refuses everything we offered.
pub fn accept(
    offer: &SessionDescription,
    answer: &SessionDescription,
    settings: &MediaSettings,
    origin: &mut Origin,
) -> Result<Streams, Refusal> {
    let [audio_protected, video_protected, slides_protected] = origin.protected;
    // Of two lines in use the one that is no screen is the picture of the call.
    let camera = |media: &Media| media.is_video() && !is_slides(media);
    let has_camera = offer.media.iter().any(|media| camera(media) && media.port != 0);
    let picture: &dyn Fn(&Media) -> bool = if has_camera { &camera } else { &Media::is_video };
    let audio = pair(offer, answer, &Media::is_audio, &Media::is_audio)
        .and_then(|pair| audio_stream(&pair, settings, audio_protected));
    let with_audio = audio.is_some();
    let video = pair(offer, answer, picture, &Media::is_video).and_then(|pair| {
        video_stream(&pair, settings, settings.video_direction, video_protected, with_audio)
    });
    let slides = pair(offer, answer, &is_slides, &is_slides)
        .filter(|_| has_camera)
        .and_then(|pair| video_stream(&pair, settings, Direction::ReceiveOnly, slides_protected, with_audio));
    if audio.is_none() && video.is_none() {
        return Err(Refusal::NotAcceptable("The answer takes none of the offered media".to_owned()));
    }
    let streams = Streams { audio, video, slides };
    origin.take(answer);
    origin.agreed = streams.clone();
    Ok(streams)
}

/// Our line in use of a kind, and the line that answers it: the one in its place, else one of that kind.
fn pair<'a>(
    offer: &'a SessionDescription,
    answer: &'a SessionDescription,
    ours: &dyn Fn(&Media) -> bool,
    kind: &dyn Fn(&Media) -> bool,
) -> Option<Pairing<'a>> {
    let used = |(_, media): &(usize, &Media)| ours(media) && media.port != 0;
    let (place, ours) = offer.media.iter().enumerate().find(used)?;
    let in_place = answer.media.get(place).filter(|media| media.kind.eq_ignore_ascii_case(&ours.kind));
    let theirs = in_place.or_else(|| answer.media.iter().find(|media| kind(media) && media.port != 0))?;
    (theirs.port != 0).then_some(Pairing { offer, ours, answer, theirs })
}

/// `None`: the line cannot be used as it is protected, or as it is not.
fn answered_route(
    pair: &Pairing<'_>,
    settings: &MediaSettings,
    wanted: Direction,
    protected: bool,
) -> Option<Route> {
    use crate::sdp::Direction::{ReceiveOnly, SendOnly, SendReceive};
    let Pairing { offer, ours, answer, theirs } = *pair;
    let (protection, ice) = accepted(pair, settings, protected)?;
    let stated = offer.direction_of(ours);
    let offered =
        direction(matches!(stated, SendReceive | SendOnly), matches!(stated, SendReceive | ReceiveOnly));
    let limited = direction(wanted.sends() && offered.sends(), wanted.receives() && offered.receives());
    let local = offer.connection_of(ours).and_then(Connection::ip);
    let rtcp_mux = ours.has("rtcp-mux") && theirs.has("rtcp-mux");
    let plain = route(answer, theirs, local, agreed(limited, answer, theirs), rtcp_mux);
    Some(Route { protection, ice, ..plain })
}

fn audio_stream(pair: &Pairing<'_>, settings: &MediaSettings, protected: bool) -> Option<AudioStream> {
    let named = with_our_mappings(pair.theirs, pair.ours);
    let choice = audio::obey(&named, settings)?;
    let mut receive: Vec<(u8, AudioCodec)> = audio::codecs(pair.ours);
    for &(number, codec) in &choice.receive {
        if !receive.iter().any(|(known, _)| *known == number) {
            receive.push((number, codec));
        }
    }
    Some(AudioStream {
        route: answered_route(pair, settings, settings.audio_direction, protected)?,
        codec: choice.codec,
        send_payload_type: choice.payload_type,
        receive,
        telephone_events: choice.events,
        comfort_noises: choice.noises,
        opus: choice.opus,
        ptime_ms: choice.ptime_ms,
        extended_reports: extended::wanted(pair.answer, pair.theirs),
    })
}

fn video_stream(
    pair: &Pairing<'_>,
    settings: &MediaSettings,
    wanted: Direction,
    protected: bool,
    with_audio: bool,
) -> Option<VideoStream> {
    let named = with_our_mappings(pair.theirs, pair.ours);
    let mut choice = video::choose(&named, settings)?;
    // The peer may send any codec it names, under our number or under its own.
    let theirs = video::formats(&named);
    let taken = |codec: VideoCodec| theirs.iter().any(|format| format.codec == codec);
    let ours = video::formats(pair.ours).into_iter().filter(|format| taken(format.codec));
    let mut receive: Vec<(u8, VideoCodec)> = ours.map(|format| (format.payload_type, format.codec)).collect();
    for format in theirs.iter().filter(|format| settings.video_codecs.contains(&format.codec)) {
        if !receive.iter().any(|(known, _)| *known == format.payload_type) {
            receive.push((format.payload_type, format.codec));
        }
    }
    // Payload types for packets sent again count only where we offered any; ours are taken as offered.
    let ours = feedback::again(pair.ours, &receive, choice.format.payload_type);
    choice.retransmission.send = choice.retransmission.send.filter(|_| !ours.receive.is_empty());
    choice.retransmission.receive = ours.receive;
    choice.receive = receive;
    let route = answered_route(pair, settings, within(wanted, &choice), protected)?;
    Some(stream_of(choice, pair.answer, pair.theirs, route, with_audio))
}

/// The answer's line, with our own `rtpmap` for numbers it names without one. Not our `fmtp`: an answer that leaves
/// the packetization mode out gets mode 0, which a mode 1 receiver takes as well.
fn with_our_mappings(theirs: &Media, ours: &Media) -> Media {
    let mut named = theirs.clone();
    for number in theirs.payload_types() {
        if theirs.rtpmap(number).is_none()
            && let Some(map) = ours.rtpmap(number)
        {
            let value = format!("{number} {}/{}/{}", map.encoding, map.clock_rate, map.channels);
            named.attributes.push(crate::sdp::Attribute::new("rtpmap", value));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::super::offer;
    use super::super::tests::{described, origin, ports, settings};
    use super::*;
    use crate::engine::plan::PacketizationMode;

    fn accepted_as(settings: &MediaSettings, lines: &str) -> Result<Streams, Refusal> {
        let mut origin = origin();
        let offer = offer(settings, &ports(), &mut origin);
        accept(&offer, &described(lines), settings, &mut origin)
    }

    fn accepted(lines: &str) -> Result<Streams, Refusal> {
        accepted_as(&settings(), lines)
    }

    const AUDIO: &str = "m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n";

    #[test]
    fn a_plain_answer_makes_both_streams() {
        let lines = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n\
            a=fmtp:97 profile-level-id=42e016;packetization-mode=0\r\na=recvonly\r\n";
        let streams = accepted(&format!("{AUDIO}{lines}")).unwrap();
        let audio = streams.audio.unwrap();
        assert_eq!(
            (audio.codec, audio.send_payload_type, audio.telephone_events),
            (AudioCodec::Pcmu, 0, vec![(101, 8_000)])
        );
        assert_eq!(audio.receive, [(8, AudioCodec::Pcma), (0, AudioCodec::Pcmu)]);
        let video = streams.video.unwrap();
        assert_eq!((video.send_payload_type, video.send_mode), (97, PacketizationMode::SingleNal));
        assert_eq!(
            (video.receive, video.max_macroblocks),
            (vec![(96, VideoCodec::H264), (97, VideoCodec::H264)], 1620)
        );
        assert_eq!(video.route.direction, Direction::SendOnly);
        assert_eq!(video.route.remote, "192.0.2.20:4002".parse().ok());
    }

    #[test]
    fn another_payload_number_in_the_answer_is_sent_and_both_are_received() {
        let lines =
            "m=video 4002 RTP/AVP 105\r\na=rtpmap:105 H264/90000\r\na=fmtp:105 packetization-mode=1\r\n";
        let video = accepted(&format!("{AUDIO}{lines}")).unwrap().video.unwrap();
        assert_eq!(
            (video.send_payload_type, video.receive),
            (105, vec![(96, VideoCodec::H264), (97, VideoCodec::H264), (105, VideoCodec::H264)])
        );
        assert_eq!(video.send_mode, PacketizationMode::NonInterleaved);
    }

    #[test]
    fn a_peer_that_takes_several_codecs_may_send_any_of_them_and_gets_our_favourite() {
        let lines = "m=video 4002 RTP/AVP 98 96\r\na=rtpmap:98 VP8/90000\r\na=rtpmap:96 H264/90000\r\n";
        let video = accepted(&format!("{AUDIO}{lines}")).unwrap().video.unwrap();
        assert_eq!((video.codec, video.send_payload_type), (VideoCodec::H264, 96));
        let h264 = VideoCodec::H264;
        assert_eq!(video.receive, [(96, h264), (97, h264), (98, VideoCodec::Vp8)]);
        let vp8 = "m=video 4002 RTP/AVP 100\r\na=rtpmap:100 VP8/90000\r\na=fmtp:100 max-fs=396;max-fr=15\r\n";
        let video = accepted(&format!("{AUDIO}{vp8}")).unwrap().video.unwrap();
        assert_eq!(
            (video.codec, video.send_payload_type, video.max_macroblocks),
            (VideoCodec::Vp8, 100, 396)
        );
        assert_eq!(video.receive, [(98, VideoCodec::Vp8), (100, VideoCodec::Vp8)]);
    }

    #[test]
    fn numbers_without_a_mapping_mean_what_we_offered() {
        let streams = accepted("m=audio 4000 RTP/AVP 8 101\r\nm=video 4002 RTP/AVP 96\r\n").unwrap();
        assert_eq!(streams.audio.unwrap().telephone_events, [(101, 8_000)]);
        assert_eq!(streams.video.unwrap().send_payload_type, 96);
    }

    #[test]
    fn lines_too_many_or_too_few_do_not_cost_the_call() {
        let audio_only = MediaSettings { video: false, ..settings() };
        let extra = format!("{AUDIO}m=video 4002 RTP/AVP 105\r\na=rtpmap:105 H264/90000\r\n");
        let streams = accepted_as(&audio_only, &extra).unwrap();
        assert!(streams.audio.is_some() && streams.video.is_none());
        let streams = accepted(AUDIO).unwrap();
        assert!(streams.audio.is_some() && streams.video.is_none());
        let slipped = accepted("m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n").unwrap();
        assert!(slipped.audio.is_none() && slipped.video.is_some());
        let swapped =
            accepted(&format!("m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n{AUDIO}")).unwrap();
        assert!(swapped.audio.is_some() && swapped.video.is_some());
    }

    #[test]
    fn an_answer_that_takes_nothing_is_refused() {
        assert_eq!(accepted("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\n").unwrap_err().status(), 488);
        assert_eq!(accepted("").unwrap_err().status(), 488);
        assert_eq!(accepted("m=audio 4000 RTP/SAVP 0\r\n").unwrap_err().status(), 488);
    }

    #[test]
    fn an_answer_cannot_widen_what_we_offered() {
        let held = MediaSettings { audio_direction: Direction::SendOnly, ..settings() };
        let audio = accepted_as(&held, AUDIO).unwrap().audio.unwrap();
        assert_eq!(audio.route.direction, Direction::SendOnly);
        let audio = accepted(&format!("{AUDIO}a=rtcp-mux\r\n")).unwrap().audio.unwrap();
        assert!(!audio.route.rtcp_mux);
        assert_eq!(audio.route.remote_rtcp, "192.0.2.20:4001".parse().ok());
    }
}
