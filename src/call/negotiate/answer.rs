//! Their offer, our answer (RFC 3264 §6): the same lines in the same order.

use super::audio::{self, AudioChoice};
use super::protection::{self, Means, Place, Secured, SrtpPolicy, lite_if_ice};
use super::route::route;
use super::video::{self, VideoChoice};
use super::{
    MediaSettings, Origin, Refusal, agreed, description, direction, extended, is_slides, named, refused,
};
use crate::engine::plan::{
    AudioStream, BoundPorts, Direction, Protection, Route, Streams, VideoStream, Wanted,
};
use crate::sdp::{Attribute, Media, SessionDescription};

/// A line we take: its place, what of it, and how it is protected.
struct Taken<T> {
    place: usize,
    choice: T,
    means: Means,
}

/// The lines we take.
struct Chosen {
    audio: Option<Taken<AudioChoice>>,
    video: Option<Taken<VideoChoice>>,
    slides: Option<Taken<VideoChoice>>,
}

/// `protected`: which of audio, video and slides may not go in the clear any more.
fn choose(
    offer: &SessionDescription,
    settings: &MediaSettings,
    protected: [bool; 3],
) -> Result<Chosen, Refusal> {
    let audio = pick(offer, settings, protected[0], |_, media| {
        media.is_audio().then(|| audio::choose(media, settings)).flatten()
    });
    let picture = |media: &Media| {
        (settings.video && media.is_video()).then(|| video::choose(media, settings)).flatten()
    };
    let camera =
        pick(offer, settings, protected[1], |_, media| (!is_slides(media)).then(|| picture(media)).flatten());
    // A screen that comes alone is the picture of the call.
    let video = camera.or_else(|| pick(offer, settings, protected[1], |_, media| picture(media)));
    let used = video.as_ref().map(|taken| taken.place);
    let slides = settings.slides.then(|| {
        pick(offer, settings, protected[2], |place, media| {
            (is_slides(media) && Some(place) != used).then(|| picture(media)).flatten()
        })
    });
    if audio.is_none() && video.is_none() {
        return Err(Refusal::NotAcceptable(why_nothing(offer, settings).to_owned()));
    }
    Ok(Chosen { audio, video, slides: slides.flatten() })
}

/// The first line that can be taken; a protected one before a plain one, which some peers offer side by side.
fn pick<T>(
    offer: &SessionDescription,
    settings: &MediaSettings,
    protected: bool,
    usable: impl Fn(usize, &Media) -> Option<T>,
) -> Option<Taken<T>> {
    let lines = offer.media.iter().enumerate().filter(|(_, media)| media.port != 0);
    let mut plain = None;
    for (place, media) in lines {
        let Some(means) = protection::means(offer, media, settings, protected) else { continue };
        let Some(choice) = usable(place, media) else { continue };
        let protects = means.protects();
        let taken = Taken { place, choice, means };
        if protects {
            return Some(taken);
        }
        plain = plain.or(Some(taken));
    }
    plain
}

/// What protects the streams of a call.
pub(super) fn protections(streams: &Streams) -> [Option<&Protection>; 3] {
    routes(streams).map(|route| route.map(|route| &route.protection))
}

/// Audio, video, slides.
pub(super) fn routes(streams: &Streams) -> [Option<&Route>; 3] {
    let Streams { audio, video, slides } = streams;
    [
        audio.as_ref().map(|audio| &audio.route),
        video.as_ref().map(|video| &video.route),
        slides.as_ref().map(|slides| &slides.route),
    ]
}

fn why_nothing(offer: &SessionDescription, settings: &MediaSettings) -> &'static str {
    let live = || offer.media.iter().filter(|media| media.port != 0);
    if offer.media.is_empty() {
        "The offer has no media line"
    } else if live().next().is_none() {
        "Every media line of the offer has port 0"
    } else if !live().any(protection::is_rtp) {
        "No media line with a supported transport: RTP/AVP(F), RTP/SAVP(F) or UDP/TLS/RTP/SAVP(F)"
    } else if live().any(|media| protection::means(offer, media, settings, false).is_some()) {
        "No common codec for sound or picture"
    } else if settings.srtp == SrtpPolicy::Required {
        "Encryption is required here, and the offer has no usable a=crypto or a=fingerprint"
    } else {
        "Encryption is demanded, and the offer has no usable a=crypto or a=fingerprint"
    }
}

/// Whether the offer has port 0 on every line: in a running call it takes all media away (RFC 3264 §8.2).
pub fn takes_all_away(offer: &SessionDescription) -> bool {
    !offer.media.is_empty() && offer.media.iter().all(|media| media.port == 0)
}

/// Which ports an answer to this offer needs. [`Refusal::NotAcceptable`] when nothing in it can be taken.
pub fn wanted(offer: &SessionDescription, settings: &MediaSettings) -> Result<Wanted, Refusal> {
    let chosen = choose(offer, settings, [false; 3])?;
    Ok(Wanted {
        audio: chosen.audio.is_some(),
        video: chosen.video.is_some(),
        slides: chosen.slides.is_some(),
    })
}

/// The answer to an offer and what it makes of the call. A stream without a bound port is refused in the answer. Asked
/// again with the same offer it says the same, so that a provisional response and the final one agree.
pub fn answer(
    offer: &SessionDescription,
    settings: &MediaSettings,
    ports: &BoundPorts,
    origin: &mut Origin,
) -> Result<(SessionDescription, Streams), Refusal> {
    origin.settle();
    let before = origin.agreed.clone();
    let mut lines: Vec<Media> = offer.media.iter().map(refused).collect();
    let mut streams = Streams::default();
    if !(takes_all_away(offer) && origin.previous.is_some()) {
        let chosen = choose(offer, settings, origin.protected)?;
        let mut answering = Answering { offer, settings, ports, origin, before: &before, lines: &mut lines };
        streams.audio = chosen.audio.zip(ports.audio).map(|(taken, port)| answering.audio(taken, port));
        let with_audio = streams.audio.is_some();
        let [_, video_kept, slides_kept] = protections(&before);
        let direction = settings.video_direction;
        streams.video = chosen
            .video
            .zip(ports.video)
            .map(|(taken, port)| answering.video(taken, port, direction, video_kept, with_audio));
        streams.slides = chosen.slides.zip(ports.slides).map(|(taken, port)| {
            answering.video(taken, port, Direction::ReceiveOnly, slides_kept, with_audio)
        });
        if streams.audio.is_none() && streams.video.is_none() {
            return Err(Refusal::NotAcceptable("No port for a media line of the offer".to_owned()));
        }
    }
    origin.take(offer);
    let mut answer = description(ports.address, offer.time, lines);
    answer.attributes = lite_if_ice(&answer.media);
    origin.agreed = streams.clone();
    Ok((origin.sign(ports.address, answer), streams))
}

/// What the lines of one answer are made from.
struct Answering<'a> {
    offer: &'a SessionDescription,
    settings: &'a MediaSettings,
    ports: &'a BoundPorts,
    origin: &'a mut Origin,
    before: &'a Streams,
    lines: &'a mut Vec<Media>,
}

impl Answering<'_> {
    fn audio(&mut self, taken: Taken<AudioChoice>, port: u16) -> AudioStream {
        let Taken { place, choice, means } = taken;
        let theirs = &self.offer.media[place];
        let [kept, ..] = protections(self.before);
        let (route, attributes) = self.route(place, &means, (port, self.settings.audio_direction), kept);
        let mut line = audio::answer(&choice, port, theirs, route.direction, route.rtcp_mux);
        let extended_reports = extended::wanted(self.offer, theirs);
        line.attributes.extend(extended_reports.then(extended::agreed));
        self.put(place, line, attributes);
        AudioStream {
            route,
            codec: choice.codec,
            send_payload_type: choice.payload_type,
            receive: choice.receive,
            telephone_events: choice.events,
            comfort_noises: choice.noises,
            opus: choice.opus,
            ptime_ms: choice.ptime_ms,
            extended_reports,
        }
    }

    fn video(
        &mut self,
        taken: Taken<VideoChoice>,
        port: u16,
        wanted: Direction,
        kept: Option<&Protection>,
        with_audio: bool,
    ) -> VideoStream {
        let Taken { place, choice, means } = taken;
        let theirs = &self.offer.media[place];
        let (route, attributes) = self.route(place, &means, (port, within(wanted, &choice)), kept);
        let line = video::answer(&choice, self.settings, port, theirs, route.direction, route.rtcp_mux);
        self.put(place, line, attributes);
        stream_of(choice, self.offer, theirs, route, with_audio)
    }

    fn route(
        &mut self,
        place: usize,
        means: &Means,
        (port, wanted): (u16, Direction),
        kept: Option<&Protection>,
    ) -> (Route, Vec<Attribute>) {
        let (offer, address) = (self.offer, self.ports.address);
        let theirs = &offer.media[place];
        let at = Place { place, offer, theirs, kept, address, port };
        let Secured { protection, ice, attributes } = self.origin.secure_answer(means, &at, self.settings);
        let direction = agreed(wanted, offer, theirs);
        let plain = route(offer, theirs, Some(address), direction, theirs.has("rtcp-mux"));
        (Route { protection, ice, ..plain }, attributes)
    }

    /// Puts our line in the place of theirs, with what it repeats of it.
    fn put(&mut self, place: usize, mut line: Media, attributes: Vec<Attribute>) {
        let theirs = &self.offer.media[place];
        line.kind.clone_from(&theirs.kind);
        line.attributes.extend(named(theirs));
        line.attributes.extend(is_slides(theirs).then(|| Attribute::new("content", "slides")));
        line.attributes.extend(attributes);
        self.lines[place] = line;
    }
}

/// What we cannot encode is received only.
pub(super) fn within(wanted: Direction, choice: &VideoChoice) -> Direction {
    direction(wanted.sends() && choice.sends, wanted.receives())
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
        codec: choice.format.codec,
        send_payload_type: choice.format.payload_type,
        send_mode: choice.format.mode,
        profile_level_id: choice.format.decodes(),
        receive: choice.receive,
        parameter_sets: choice.format.parameter_sets,
        feedback: choice.feedback,
        retransmission: choice.retransmission,
        max_kbps: limits.kbps,
        max_macroblocks: limits.macroblocks,
        max_macroblocks_per_second: limits.macroblocks_per_second,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, origin, ports, settings};
    use super::*;
    use crate::engine::plan::AudioCodec;

    const ROOM: &str = "m=audio 4000 RTP/SAVP 0\r\nm=audio 4002 RTP/AVPF 8 0\r\nm=application 4004 UDP/BFCP *\r\n\
        m=video 4006 RTP/AVPF 96 97\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 H264/90000\r\na=rtcp-mux\r\n\
        m=video 4008 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\nm=audio 4010 RTP/AVP 0\r\nm=text 0 RTP/AVP 98\r\n";

    fn answered(lines: &str) -> Result<(SessionDescription, Streams), Refusal> {
        answer(&described(lines), &settings(), &ports(), &mut origin())
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
        let av1 = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 AV1/90000\r\n";
        let wants = |lines: &str| wanted(&described(lines), &settings());
        assert_eq!(wants(&format!("{audio}{av1}")), Ok(Wanted { audio: true, ..Wanted::default() }));
        assert_eq!(wants(video), Ok(Wanted { video: true, ..Wanted::default() }));
        let silent = MediaSettings { video: false, ..settings() };
        let both = described(&format!("{audio}{video}"));
        assert_eq!(wanted(&both, &silent), Ok(Wanted { audio: true, ..Wanted::default() }));
        let only_audio = BoundPorts { video: None, ..ports() };
        let (answer, streams) = answer(&both, &settings(), &only_audio, &mut origin()).unwrap();
        assert_eq!((answer.media[1].port, streams.video), (0, None));
    }

    #[test]
    fn what_we_cannot_encode_is_received_only_and_a_renewed_offer_keeps_it() {
        for codec in ["VP9", "H265"] {
            let line = format!("m=video 4002 RTP/AVP 97\r\na=rtpmap:97 {codec}/90000\r\na=sendrecv\r\n");
            let lines = format!("m=audio 4000 RTP/AVP 0\r\n{line}");
            let mut origin = origin();
            let (answer, streams) = answer(&described(&lines), &settings(), &ports(), &mut origin).unwrap();
            assert_eq!(answer.media[1].direction(), Some(crate::sdp::Direction::ReceiveOnly), "{codec}");
            assert_eq!(answer.media[1].payload_types(), [97]);
            assert_eq!(answer.media[0].direction(), Some(crate::sdp::Direction::SendReceive));
            let video = streams.video.unwrap();
            assert_eq!((video.codec.name(), video.route.direction), (codec, Direction::ReceiveOnly));
            let again = super::super::offer(&settings(), &ports(), &mut origin);
            assert_eq!(again.media[1].payload_types(), [97], "{codec}");
            assert_eq!(again.media[1].direction(), Some(crate::sdp::Direction::ReceiveOnly), "{codec}");
        }
        let vp8 = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";
        let (answer, streams) = answered(vp8).unwrap();
        assert!(answer.to_string().contains("a=rtpmap:97 VP8/90000\r\na=fmtp:97 max-fr=30;max-fs=3600\r\n"));
        assert_eq!(streams.video.unwrap().route.direction, Direction::SendReceive);
    }

    #[test]
    fn what_cannot_be_taken_is_refused_with_its_reason() {
        let reason = |lines: &str| match answered(lines) {
            Err(Refusal::NotAcceptable(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason("").contains("no media line"));
        assert!(reason("m=audio 0 RTP/AVP 0\r\nm=video 0 RTP/AVP 96\r\n").contains("port 0"));
        assert!(reason("m=audio 4000 TCP/RTP/AVP 0\r\n").contains("transport"));
        assert!(reason("m=audio 4000 RTP/SAVP 0\r\n").contains("crypto"));
        assert!(reason("m=audio 4000 RTP/AVP 18\r\n").contains("codec"));
    }

    #[test]
    fn an_unchanged_re_offer_gets_the_same_answer() {
        let mut origin = origin();
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
        assert_eq!(audio.telephone_events, [(96, 8_000)]);
    }
}
