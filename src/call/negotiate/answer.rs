//! Their offer, our answer (RFC 3264 §6): the same lines in the same order.

use super::audio::{self, AudioChoice};
use super::route::route;
use super::video::{self, VideoChoice};
use super::{MediaSettings, Origin, Refusal, agreed, description, is_plain_rtp, refused};
use crate::engine::plan::{AudioStream, BoundPorts, Direction, Route, Streams, VideoStream, Wanted};
use crate::sdp::{Media, SessionDescription};

/// The lines we take, by their place.
struct Chosen {
    audio: Option<(usize, AudioChoice)>,
    video: Option<(usize, VideoChoice)>,
}

fn choose(offer: &SessionDescription, settings: &MediaSettings) -> Result<Chosen, Refusal> {
    let live = || offer.media.iter().enumerate().filter(|(_, media)| media.port != 0 && is_plain_rtp(media));
    let audio = live()
        .filter(|(_, media)| media.is_audio())
        .find_map(|(place, media)| Some((place, audio::choose(media, settings)?)));
    let video = live()
        .filter(|(_, media)| settings.video && media.is_video())
        .find_map(|(place, media)| Some((place, video::choose(media)?)));
    if audio.is_none() && video.is_none() {
        return Err(Refusal::NotAcceptable(why_nothing(offer).to_owned()));
    }
    Ok(Chosen { audio, video })
}

fn why_nothing(offer: &SessionDescription) -> &'static str {
    if offer.media.is_empty() {
        "The offer has no media line"
    } else if offer.media.iter().all(|media| media.port == 0) {
        "Every media line of the offer has port 0"
    } else if !offer.media.iter().any(|media| media.port != 0 && is_plain_rtp(media)) {
        "No media line with a supported transport: RTP/AVP or RTP/AVPF"
    } else {
        "No common codec: G.711 audio or H.264 video"
    }
}

/// Which ports an answer to this offer needs. [`Refusal::NotAcceptable`] when nothing in it can be taken.
pub fn wanted(offer: &SessionDescription, settings: &MediaSettings) -> Result<Wanted, Refusal> {
    let chosen = choose(offer, settings)?;
    Ok(Wanted { audio: chosen.audio.is_some(), video: chosen.video.is_some(), slides: false })
}

/// The answer to an offer and what it makes of the call. A stream without a bound port is refused in the answer.
pub fn answer(
    offer: &SessionDescription,
    settings: &MediaSettings,
    ports: &BoundPorts,
    origin: &mut Origin,
) -> Result<(SessionDescription, Streams), Refusal> {
    let chosen = choose(offer, settings)?;
    let audio = chosen.audio.zip(ports.audio);
    let video = chosen.video.zip(ports.video);
    if audio.is_none() && video.is_none() {
        return Err(Refusal::NotAcceptable("No port for a media line of the offer".to_owned()));
    }
    let mut lines: Vec<Media> = offer.media.iter().map(refused).collect();
    let mut streams = Streams::default();
    let with_audio = audio.is_some();
    if let Some(((place, choice), port)) = audio {
        let theirs = &offer.media[place];
        let route = answered_route(offer, theirs, ports, settings.audio_direction);
        lines[place] = audio::answer(&choice, port, theirs, route.direction, route.rtcp_mux);
        lines[place].kind.clone_from(&theirs.kind);
        streams.audio = Some(AudioStream {
            route,
            codec: choice.codec,
            send_payload_type: choice.payload_type,
            receive: choice.receive,
            telephone_event: choice.telephone_event,
            ptime_ms: choice.ptime_ms,
        });
    }
    if let Some(((place, choice), port)) = video {
        let theirs = &offer.media[place];
        let route = answered_route(offer, theirs, ports, settings.video_direction);
        lines[place] = video::answer(&choice, settings, port, theirs, route.direction, route.rtcp_mux);
        lines[place].kind.clone_from(&theirs.kind);
        streams.video = Some(stream_of(choice, offer, theirs, route, with_audio));
    }
    origin.take(offer);
    let answer = origin.sign(ports.address, description(ports.address, offer.time, lines));
    Ok((answer, streams))
}

fn answered_route(
    offer: &SessionDescription,
    theirs: &Media,
    ports: &BoundPorts,
    wanted: Direction,
) -> Route {
    let direction = agreed(wanted, offer, theirs);
    route(offer, theirs, Some(ports.address), direction, theirs.has("rtcp-mux"))
}

/// The stream that follows from a choice in the peer's line `theirs`.
pub(super) fn stream_of(
    choice: VideoChoice,
    description: &SessionDescription,
    theirs: &Media,
    route: Route,
    with_audio: bool,
) -> VideoStream {
    let limits = choice.format.limits(description, theirs, with_audio);
    VideoStream {
        route,
        send_payload_type: choice.format.payload_type,
        send_mode: choice.format.mode,
        profile_level_id: choice.format.decodes(),
        receive: choice.receive,
        parameter_sets: choice.format.parameter_sets,
        feedback: choice.feedback,
        max_kbps: limits.kbps,
        max_macroblocks: limits.macroblocks,
        max_macroblocks_per_second: limits.macroblocks_per_second,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, ports, settings};
    use super::*;
    use crate::engine::plan::AudioCodec;

    const ROOM: &str = "m=audio 4000 RTP/SAVP 0\r\nm=audio 4002 RTP/AVPF 8 0\r\nm=application 4004 UDP/BFCP *\r\n\
        m=video 4006 RTP/AVPF 96 97\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 H264/90000\r\na=rtcp-mux\r\n\
        m=video 4008 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\nm=audio 4010 RTP/AVP 0\r\nm=text 0 RTP/AVP 98\r\n";

    fn answered(lines: &str) -> Result<(SessionDescription, Streams), Refusal> {
        answer(&described(lines), &settings(), &ports(), &mut Origin::new("-", 1))
    }

    #[test]
    fn every_line_is_mirrored_in_its_place_and_one_of_each_kind_is_taken() {
        let (answer, streams) = answered(ROOM).unwrap();
        let lines: Vec<_> =
            answer.media.iter().map(|m| (m.kind.as_str(), m.port, m.protocol.as_str())).collect();
        assert_eq!(
            lines,
            [
                ("audio", 0, "RTP/SAVP"),
                ("audio", 20000, "RTP/AVPF"),
                ("application", 0, "UDP/BFCP"),
                ("video", 20002, "RTP/AVPF"),
                ("video", 0, "RTP/AVP"),
                ("audio", 0, "RTP/AVP"),
                ("text", 0, "RTP/AVP"),
            ]
        );
        let (audio, video) = (streams.audio.unwrap(), streams.video.unwrap());
        assert_eq!(audio.route.remote_rtcp, "192.0.2.20:4003".parse().ok());
        assert!(!answer.media[1].has("rtcp-mux"));
        assert_eq!(video.route.remote_rtcp, "192.0.2.20:4006".parse().ok());
        assert!(answer.media[3].has("rtcp-mux"));
    }

    #[test]
    fn audio_survives_unusable_video_and_video_may_come_alone() {
        let audio = "m=audio 4000 RTP/AVP 0\r\n";
        let video = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n";
        let vp8 = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";
        let wants = |lines: &str| wanted(&described(lines), &settings());
        assert_eq!(wants(&format!("{audio}{vp8}")), Ok(Wanted { audio: true, ..Wanted::default() }));
        assert_eq!(wants(video), Ok(Wanted { video: true, ..Wanted::default() }));
        let silent = MediaSettings { video: false, ..settings() };
        let both = described(&format!("{audio}{video}"));
        assert_eq!(wanted(&both, &silent), Ok(Wanted { audio: true, ..Wanted::default() }));
        let only_audio = BoundPorts { video: None, ..ports() };
        let (answer, streams) = answer(&both, &settings(), &only_audio, &mut Origin::new("-", 1)).unwrap();
        assert_eq!((answer.media[1].port, streams.video), (0, None));
    }

    #[test]
    fn what_cannot_be_taken_is_refused_with_its_reason() {
        let reason = |lines: &str| match answered(lines) {
            Err(Refusal::NotAcceptable(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason("").contains("no media line"));
        assert!(reason("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\n").contains("port 0"));
        assert!(reason("m=audio 4000 RTP/SAVP 0\r\n").contains("transport"));
        assert!(reason("m=audio 4000 RTP/AVP 18\r\n").contains("codec"));
    }

    #[test]
    fn an_unchanged_re_offer_gets_the_same_answer() {
        let mut origin = Origin::new("-", 1);
        let offer = described(ROOM);
        let first = answer(&offer, &settings(), &ports(), &mut origin).unwrap();
        assert_eq!(answer(&offer, &settings(), &ports(), &mut origin).unwrap(), first);
        let held = described(&format!("a=sendonly\r\n{ROOM}"));
        let (changed, streams) = answer(&held, &settings(), &ports(), &mut origin).unwrap();
        assert_eq!(changed.origin.unwrap().session_version, "2");
        assert_eq!(streams.audio.unwrap().route.direction, Direction::ReceiveOnly);
    }

    #[test]
    fn one_codec_is_answered_and_all_known_ones_are_received() {
        let (answer, streams) =
            answered("m=audio 4000 RTP/AVP 0 8 96\r\na=rtpmap:96 telephone-event/8000\r\na=ptime:30\r\n")
                .unwrap();
        assert_eq!(answer.media[0].formats, ["8", "96"]);
        assert!(answer.to_string().contains("a=fmtp:96 0-15\r\na=ptime:30\r\na=sendrecv\r\n"));
        let audio = streams.audio.unwrap();
        assert_eq!((audio.send_payload_type, audio.codec, audio.ptime_ms), (8, AudioCodec::Pcma, 30));
        assert_eq!(audio.receive, [(0, AudioCodec::Pcmu), (8, AudioCodec::Pcma)]);
        assert_eq!(audio.telephone_event, Some(96));
    }
}
