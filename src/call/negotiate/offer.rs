//! Our offer (RFC 3264 §5, §8): the first one, a later one, or the one in a 2xx to an INVITE without SDP.

use super::answer::{protections, routes};
use super::protection::{Offered, is_rtp, lite_if_ice};
use super::{MediaSettings, Origin, audio, description, feedback, is_slides, named, refused, video};
use crate::engine::plan::{BoundPorts, Direction, Ice, PacketizationMode, Protection, VideoCodec};
use crate::sdp::{Attribute, Media, SessionDescription};

/// Everything we can do, within `settings` and the bound ports. Lines of this session's earlier descriptions stay
/// in their places, with port 0 when they are no longer wanted; payload types, keys and protection stay what they are.
///
/// H.264 goes out twice, mode 1 and mode 0: some peers know only one of them (baresip 1.0: mode 0). A line that is only
/// received, for want of an encoder, goes on as it is. A shared screen is never asked for, only kept.
pub fn offer(settings: &MediaSettings, ports: &BoundPorts, origin: &mut Origin) -> SessionDescription {
    origin.settle();
    let previous = origin.previous.as_ref().map(|description| description.media.clone()).unwrap_or_default();
    let mut lines: Vec<Media> = previous.iter().map(refused).collect();
    let agreed = origin.agreed.clone();
    let protections = protections(&agreed);
    let ice = routes(&agreed).map(|route| route.and_then(|route| route.ice.as_ref()));
    let mut offering = Offering { settings, ports, origin, previous: &previous, lines: &mut lines };
    if let Some(port) = ports.audio.filter(|_| !settings.audio_codecs.is_empty()) {
        offering.line(Media::is_audio, port, (protections[0], ice[0]), audio_line);
    }
    if let Some(port) = ports.video.filter(|_| settings.video) {
        // The picture of the call may be a screen that came alone.
        let slides_alone = agreed.video.is_some() && !previous.iter().any(|m| is_camera(m) && m.port != 0);
        let kind = if slides_alone { Media::is_video } else { is_camera };
        offering.line(kind, port, (protections[1], ice[1]), video_line);
    }
    if let Some(port) = ports.slides.filter(|_| settings.slides && settings.video && agreed.slides.is_some())
    {
        offering.line(is_slides, port, (protections[2], ice[2]), slides_line);
    }
    let time = origin.previous.as_ref().map_or((0, 0), |description| description.time);
    let mut offer = description(ports.address, time, lines);
    offer.attributes = lite_if_ice(&offer.media);
    origin.sign(ports.address, offer)
}

fn is_camera(media: &Media) -> bool {
    media.is_video() && !is_slides(media)
}

/// What the lines of one offer are made from.
struct Offering<'a> {
    settings: &'a MediaSettings,
    ports: &'a BoundPorts,
    origin: &'a mut Origin,
    previous: &'a [Media],
    lines: &'a mut Vec<Media>,
}

type Write = fn(&MediaSettings, u16, Option<&Media>, &Offered, &mut Origin) -> Media;

impl Offering<'_> {
    fn line(
        &mut self,
        kind: fn(&Media) -> bool,
        port: u16,
        agreed: (Option<&Protection>, Option<&Ice>),
        write: Write,
    ) {
        let (place, earlier) = place(self.previous, kind);
        let place = place.unwrap_or(self.lines.len());
        let (settings, address) = (self.settings, self.ports.address);
        let mut offered = self.origin.secure_offer((place, earlier), agreed, settings, (address, port));
        let mut line = write(settings, port, earlier, &offered, self.origin);
        line.attributes.extend(earlier.and_then(named));
        line.attributes
            .extend(earlier.filter(|media| is_slides(media)).map(|_| Attribute::new("content", "slides")));
        line.attributes.append(&mut offered.attributes);
        match self.lines.get_mut(place) {
            Some(slot) => *slot = line,
            None => self.lines.push(line),
        }
    }
}

/// The place of the line in use, else of a free one of its kind; and the line in use.
fn place(previous: &[Media], kind: fn(&Media) -> bool) -> (Option<usize>, Option<&Media>) {
    let live = previous.iter().position(|media| kind(media) && media.port != 0);
    let free = || previous.iter().position(|media| kind(media) && media.port == 0 && is_rtp(media));
    (live.or_else(free), live.and_then(|place| previous.get(place)))
}

fn audio_line(
    settings: &MediaSettings,
    port: u16,
    earlier: Option<&Media>,
    offered: &Offered,
    origin: &mut Origin,
) -> Media {
    let codecs = audio::offered_codecs(settings, earlier, origin);
    let events = audio::offered_events(settings, earlier, origin);
    audio::build(&audio::Line {
        codecs: &codecs,
        events: &events,
        noises: &[],
        port,
        protocol: &offered.protocol,
        ptime_ms: audio::PTIME_MS,
        direction: settings.audio_direction,
        rtcp_mux: offered.rtcp_mux,
    })
}

fn video_line(
    settings: &MediaSettings,
    port: u16,
    earlier: Option<&Media>,
    offered: &Offered,
    origin: &mut Origin,
) -> Media {
    picture_line(settings, port, earlier, offered, settings.video_direction, origin)
}

fn slides_line(
    settings: &MediaSettings,
    port: u16,
    earlier: Option<&Media>,
    offered: &Offered,
    origin: &mut Origin,
) -> Media {
    picture_line(settings, port, earlier, offered, Direction::ReceiveOnly, origin)
}

fn picture_line(
    settings: &MediaSettings,
    port: u16,
    earlier: Option<&Media>,
    offered: &Offered,
    direction: Direction,
    origin: &mut Origin,
) -> Media {
    let known = earlier.map(video::formats).unwrap_or_default();
    let kept = |format: &video::Format| {
        let number = format.payload_type;
        let parameters = earlier.and_then(|media| media.fmtp(number)).map(|fmtp| fmtp.0.to_owned());
        (number, format.codec, parameters)
    };
    let mut formats: Vec<(u8, VideoCodec, Option<String>)> = Vec::with_capacity(3);
    let mut direction = direction;
    if !known.is_empty() && !known.iter().any(|format| settings.can_send(format.codec)) {
        formats.extend(known.iter().map(kept));
        direction = super::direction(false, direction.receives());
    } else {
        for codec in settings.video_codecs.iter().copied().filter(|codec| settings.can_send(*codec)) {
            for (mode, preferred) in offered_modes(codec) {
                let same = known.iter().find(|format| format.codec == codec && format.mode == *mode);
                formats.push(same.map(kept).unwrap_or_else(|| {
                    let parameters = match codec {
                        VideoCodec::Vp8 => video::vp8_parameters(settings),
                        VideoCodec::H264 | VideoCodec::Vp9 | VideoCodec::H265 => {
                            video::offered_parameters(settings, *mode)
                        }
                    };
                    (origin.fresh_payload_type(*preferred), codec, Some(parameters))
                }));
            }
        }
    }
    let asked = feedback::offered(settings.browser, earlier);
    let words = feedback::words(&asked, "*");
    let mut media =
        video::build(&formats, &words, settings, port, &offered.protocol, direction, offered.rtcp_mux);
    let again = formats.first().filter(|_| settings.browser).map(|&(original, ..)| {
        let known =
            earlier.map(|media| feedback::again(media, &[(original, VideoCodec::H264)], original).send);
        (known.flatten().unwrap_or_else(|| origin.fresh_payload_type(98)), original)
    });
    feedback::complete(&mut media, &asked, again);
    media
}

/// The packetization modes a codec is offered with, and the payload type for each.
fn offered_modes(codec: VideoCodec) -> &'static [(PacketizationMode, u8)] {
    match codec {
        VideoCodec::H264 => &[(PacketizationMode::NonInterleaved, 96), (PacketizationMode::SingleNal, 97)],
        VideoCodec::Vp8 => &[(PacketizationMode::NonInterleaved, 98)],
        VideoCodec::Vp9 | VideoCodec::H265 => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, origin, ports, settings};
    use super::super::{SrtpPolicy, answer, wanted};
    use super::*;
    use crate::engine::plan::Direction;

    #[test]
    fn the_first_offer_is_small_and_names_both_modes() {
        let plain = MediaSettings { srtp: SrtpPolicy::Off, ..settings() };
        let offer = offer(&plain, &ports(), &mut origin()).to_string();
        let expected = "v=0\r\no=eyeline 42 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
            m=audio 20000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
            a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n\
            m=video 20002 RTP/AVP 96 97 98\r\nb=AS:1000\r\n\
            a=rtpmap:96 H264/90000\r\na=fmtp:96 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1\r\n\
            a=rtpmap:97 H264/90000\r\na=fmtp:97 profile-level-id=42e01f;packetization-mode=0;level-asymmetry-allowed=1\r\n\
            a=rtpmap:98 VP8/90000\r\na=fmtp:98 max-fr=30;max-fs=3600\r\n\
            a=rtcp-fb:* nack\r\na=rtcp-fb:* nack pli\r\na=rtcp-fb:* ccm fir\r\na=rtcp-fb:* ccm tmmbr\r\n\
            a=sendrecv\r\n";
        assert_eq!(offer, expected);
        assert!(offer.len() <= 1200);
    }

    #[test]
    fn only_bound_and_wanted_streams_are_offered() {
        let audio_only = MediaSettings { video: false, ..settings() };
        let offer_of = |settings: &MediaSettings, ports| offer(settings, &ports, &mut origin()).media;
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
        let mut origin = origin();
        answer(&theirs, &settings(), &ports(), &mut origin).unwrap();
        let held = MediaSettings { audio_direction: Direction::SendOnly, ..settings() };
        let again = offer(&held, &ports(), &mut origin);
        assert_eq!((again.media[0].kind.as_str(), again.media[0].port), ("application", 0));
        let video = &again.media[1];
        assert_eq!(video.protocol, "RTP/AVPF");
        assert!(video.has("rtcp-mux"));
        assert_eq!(video.fmtp(99).unwrap().value("profile-level-id"), Some("64001f"));
        // 97 is H.265 in this session and stays it.
        assert_eq!(video.payload_types(), [99, 98, 100]);
        assert_eq!(again.media[2].payload_types(), [8, 0, 96]);
        assert_eq!(again.media[2].direction(), Some(crate::sdp::Direction::SendOnly));
    }

    #[test]
    fn a_number_the_peer_gave_another_meaning_is_not_taken() {
        let theirs = described("m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 iLBC/8000\r\n");
        let mut origin = origin();
        answer(&theirs, &settings(), &ports(), &mut origin).unwrap();
        let again = offer(&settings(), &ports(), &mut origin);
        assert_eq!(again.media[0].payload_types(), [8, 0, 96]);
        assert_eq!(again.media[0].rtpmap(96).unwrap().encoding, "telephone-event");
    }

    #[test]
    fn video_is_added_and_removed_in_its_place() {
        let audio_only = MediaSettings { video: false, ..settings() };
        let mut origin = origin();
        let ports_seen = |offer: SessionDescription| offer.media.iter().map(|m| m.port).collect::<Vec<_>>();
        assert_eq!(ports_seen(offer(&audio_only, &ports(), &mut origin)), [20000]);
        assert_eq!(ports_seen(offer(&settings(), &ports(), &mut origin)), [20000, 20002]);
        assert_eq!(ports_seen(offer(&audio_only, &ports(), &mut origin)), [20000, 0]);
        assert_eq!(ports_seen(offer(&settings(), &ports(), &mut origin)), [20000, 20002]);
    }
}
