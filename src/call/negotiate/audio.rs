//! G.711 and telephone-event in an audio line (RFC 3551, RFC 4733 §7.1).

use super::{MediaSettings, line, spoken};
use crate::engine::plan::{AudioCodec, Direction, OpusTerms};
use crate::sdp::{Attribute, Media};

/// Events 0-9, *, #, A-D. Flash (16) is not taken.
const EVENTS: &str = "0-15";

/// Milliseconds per packet where nothing else is asked for.
pub(super) const PTIME_MS: u32 = 20;

/// What one peer's audio line gives us.
#[derive(Clone, Debug)]
pub(super) struct AudioChoice {
    pub payload_type: u8,
    pub codec: AudioCodec,
    /// Every known codec of the line.
    pub receive: Vec<(u8, AudioCodec)>,
    pub telephone_event: Option<u8>,
    pub opus: OpusTerms,
    pub ptime_ms: u32,
}

/// Chooses by our preference among what the line names; `None`: nothing in common.
pub(super) fn choose(media: &Media, settings: &MediaSettings) -> Option<AudioChoice> {
    let receive: Vec<(u8, AudioCodec)> =
        codecs(media).into_iter().filter(|(_, codec)| settings.audio_codecs.contains(codec)).collect();
    let preferred = |wanted: &AudioCodec| receive.iter().find(|(_, codec)| codec == wanted);
    let &(payload_type, codec) = settings.audio_codecs.iter().find_map(preferred)?;
    let telephone_event = telephone_event(media, codec.clock_rate());
    let opus = OpusTerms::default();
    Some(AudioChoice { payload_type, codec, receive, telephone_event, opus, ptime_ms: ptime(media) })
}

/// The codecs of a line we know, with the writer's payload types, in its order.
pub(super) fn codecs(media: &Media) -> Vec<(u8, AudioCodec)> {
    let known = |number| codec_of(media, number).map(|codec| (number, codec));
    media.payload_types().into_iter().filter_map(known).collect()
}

fn codec_of(media: &Media, payload_type: u8) -> Option<AudioCodec> {
    let codecs = [AudioCodec::Pcmu, AudioCodec::Pcma];
    match media.rtpmap(payload_type) {
        Some(map) => codecs.into_iter().find(|codec| {
            let same_rate = map.clock_rate == 0 || map.clock_rate == codec.clock_rate();
            map.encoding.eq_ignore_ascii_case(codec.name()) && same_rate && map.channels == 1
        }),
        // Static numbers need no mapping (RFC 3551 §6).
        None => codecs.into_iter().find(|&codec| static_payload_type(codec) == payload_type),
    }
}

/// RFC 3551 §6; Opus has none, and gets the number most use.
fn static_payload_type(codec: AudioCodec) -> u8 {
    match codec {
        AudioCodec::Pcmu => 0,
        AudioCodec::Pcma => 8,
        AudioCodec::G722 => 9,
        AudioCodec::Opus => 111,
    }
}

/// The first telephone-event of the line with this clock rate: Linphone lists one per codec clock.
pub(super) fn telephone_event(media: &Media, clock_rate: u32) -> Option<u8> {
    media.payload_types().into_iter().find(|&number| {
        media.rtpmap(number).is_some_and(|map| {
            map.encoding.eq_ignore_ascii_case("telephone-event") && map.clock_rate == clock_rate
        })
    })
}

/// What we send: the asked packet time in steps of 10 ms, never more than the peer can take or 60 ms.
fn ptime(media: &Media) -> u32 {
    let asked = media.ptime().unwrap_or(PTIME_MS).min(60);
    let at_most = media.maxptime().unwrap_or(60);
    (asked.min(at_most) / 10 * 10).max(10)
}

/// Our audio line for what was chosen from the peer's.
pub(super) fn answer(
    choice: &AudioChoice,
    port: u16,
    offered: &Media,
    direction: Direction,
    rtcp_mux: bool,
) -> Media {
    let codecs = [(choice.payload_type, choice.codec)];
    build(&codecs, choice.telephone_event, port, &offered.protocol, choice.ptime_ms, direction, rtcp_mux)
}

/// Our audio line in an offer: `codecs` in our order.
pub(super) fn build(
    codecs: &[(u8, AudioCodec)],
    telephone_event: Option<u8>,
    port: u16,
    protocol: &str,
    ptime_ms: u32,
    direction: Direction,
    rtcp_mux: bool,
) -> Media {
    let numbers = codecs.iter().map(|(number, _)| *number).chain(telephone_event);
    let mut media = line("audio", port, protocol, numbers);
    let attributes = &mut media.attributes;
    for (number, codec) in codecs {
        let mapping = format!("{number} {}/{}", codec.name(), codec.clock_rate());
        attributes.push(Attribute::new("rtpmap", mapping));
    }
    if let Some(number) = telephone_event {
        let clock_rate = codecs.first().map_or(8000, |(_, codec)| codec.clock_rate());
        attributes.push(Attribute::new("rtpmap", format!("{number} telephone-event/{clock_rate}")));
        attributes.push(Attribute::new("fmtp", format!("{number} {EVENTS}")));
    }
    attributes.push(Attribute::new("ptime", ptime_ms.to_string()));
    attributes.push(Attribute::flag(spoken(direction).name()));
    if rtcp_mux {
        attributes.push(Attribute::flag("rtcp-mux"));
    }
    media
}

/// The codecs of our offer: what `previous` named keeps its number, the rest is static.
pub(super) fn offered_codecs(settings: &MediaSettings, previous: Option<&Media>) -> Vec<(u8, AudioCodec)> {
    let named = previous.map(codecs).unwrap_or_default();
    let number = |codec: &AudioCodec| {
        named
            .iter()
            .find(|(_, known)| known == codec)
            .map_or(static_payload_type(*codec), |(number, _)| *number)
    };
    settings.audio_codecs.iter().map(|codec| (number(codec), *codec)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, settings};
    use super::*;

    fn chosen(lines: &str) -> Option<AudioChoice> {
        choose(&described(lines).media[0], &settings())
    }

    #[test]
    fn static_and_dynamic_numbers_are_known_and_our_preference_decides() {
        let choice = chosen("m=audio 4000 RTP/AVP 0 96 18\r\na=rtpmap:96 pcma/8000/1\r\n").unwrap();
        assert_eq!((choice.payload_type, choice.codec), (96, AudioCodec::Pcma));
        assert_eq!(choice.receive, [(0, AudioCodec::Pcmu), (96, AudioCodec::Pcma)]);
    }

    #[test]
    fn what_only_sounds_like_g711_is_not_taken() {
        assert!(chosen("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 PCMA/16000\r\n").is_none());
        assert!(chosen("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 PCMU/8000/2\r\n").is_none());
        assert!(chosen("m=audio 4000 RTP/AVP 96\r\n").is_none());
        assert!(chosen("m=audio 4000 RTP/AVP\r\n").is_none());
    }

    #[test]
    fn telephone_event_is_taken_at_the_clock_of_the_codec() {
        let lines = "m=audio 4000 RTP/AVP 101 0 99\r\na=rtpmap:101 telephone-event/48000\r\n\
            a=rtpmap:99 Telephone-Event/8000\r\n";
        assert_eq!(chosen(lines).unwrap().telephone_event, Some(99));
        assert_eq!(chosen("m=audio 4000 RTP/AVP 0 101\r\n").unwrap().telephone_event, None);
    }

    #[test]
    fn packet_times_are_honoured_within_reason() {
        let ptime = |lines: &str| chosen(&format!("m=audio 4000 RTP/AVP 0\r\n{lines}")).unwrap().ptime_ms;
        assert_eq!(ptime(""), 20);
        assert_eq!(ptime("a=ptime:30\r\n"), 30);
        assert_eq!(ptime("a=ptime:40\r\na=maxptime:20\r\n"), 20);
        assert_eq!(ptime("a=ptime:4294967295\r\n"), 60);
        assert_eq!(ptime("a=maxptime:1\r\n"), 10);
        assert_eq!(ptime("a=ptime:0\r\n"), 20);
    }
}
