//! The audio line: G.711, G.722, Opus (RFC 3551, RFC 7587 §7), telephone-event (RFC 4733 §7.1) and comfort noise
//! (RFC 3389 §4).

use super::{MediaSettings, Origin, line, spoken};
use crate::engine::plan::{AudioCodec, Direction, OpusTerms};
use crate::sdp::{Attribute, Media};

const ALL: [AudioCodec; 4] = [AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcma, AudioCodec::Pcmu];

/// Events 0-9, *, #, A-D. Flash (16) is not taken.
const EVENTS: &str = "0-15";
/// What we say of the Opus we receive: what a packet repeats of the one before is made use of. All the rest is as RFC
/// 7587 §6.1 has it where nothing is said: 48 kHz, one channel is enough, pauses may be sent.
const OPUS: &str = "useinbandfec=1";
/// What most others use for it.
const OPUS_NUMBER: u8 = 111;
/// Comfort noise where no mapping says otherwise (RFC 3551 §6).
const NOISE_NUMBER: u8 = 13;

/// Milliseconds per packet where nothing else is asked for.
pub(super) const PTIME_MS: u32 = 20;

/// What one peer's audio line gives us.
#[derive(Clone, Debug)]
pub(super) struct AudioChoice {
    pub payload_type: u8,
    pub codec: AudioCodec,
    /// Every known codec of the line.
    pub receive: Vec<(u8, AudioCodec)>,
    /// Every telephone-event of the line with its clock rate; the first is for the codec chosen.
    pub events: Vec<(u8, u32)>,
    /// Every comfort noise of the line with its clock rate.
    pub noises: Vec<(u8, u32)>,
    pub opus: OpusTerms,
    pub ptime_ms: u32,
}

/// Chooses by our preference among what the line names; `None`: nothing in common.
pub(super) fn choose(media: &Media, settings: &MediaSettings) -> Option<AudioChoice> {
    let receive = common(media, settings);
    let preferred = |wanted: &AudioCodec| receive.iter().find(|(_, codec)| codec == wanted).copied();
    let first = settings.audio_codecs.iter().find_map(preferred)?;
    Some(chosen(media, first, receive))
}

/// As [`choose`], by the peer's preference: its answer names first what it wants (RFC 3264 §6.1).
pub(super) fn obey(media: &Media, settings: &MediaSettings) -> Option<AudioChoice> {
    let receive = common(media, settings);
    let first = *receive.first()?;
    Some(chosen(media, first, receive))
}

fn common(media: &Media, settings: &MediaSettings) -> Vec<(u8, AudioCodec)> {
    codecs(media).into_iter().filter(|(_, codec)| settings.audio_codecs.contains(codec)).collect()
}

fn chosen(
    media: &Media,
    (payload_type, codec): (u8, AudioCodec),
    receive: Vec<(u8, AudioCodec)>,
) -> AudioChoice {
    let mut events = named(media, "telephone-event");
    // At the codec's clock (Linphone lists one per clock); else the one all know, which WhatsApp and baresip name
    // beside Opus too.
    events.retain(|(_, clock_rate)| *clock_rate == codec.clock_rate() || *clock_rate == 8_000);
    events.sort_by_key(|(_, clock_rate)| *clock_rate != codec.clock_rate());
    AudioChoice {
        payload_type,
        codec,
        receive,
        events,
        noises: named(media, "CN"),
        opus: opus_terms(media, payload_type),
        ptime_ms: ptime(media),
    }
}

/// The codecs of a line we know, with the writer's payload types, in its order.
pub(super) fn codecs(media: &Media) -> Vec<(u8, AudioCodec)> {
    let known = |number| codec_of(media, number).map(|codec| (number, codec));
    media.payload_types().into_iter().filter_map(known).collect()
}

fn codec_of(media: &Media, payload_type: u8) -> Option<AudioCodec> {
    match media.rtpmap(payload_type) {
        Some(map) => ALL.into_iter().find(|codec| {
            let same_rate = map.clock_rate == 0 || map.clock_rate == codec.clock_rate();
            // Opus always says two (RFC 7587 §4.1), whatever is in its packets; some leave it out.
            let same_channels = map.channels == 1 || (map.channels == 2 && *codec == AudioCodec::Opus);
            map.encoding.eq_ignore_ascii_case(codec.name()) && same_rate && same_channels
        }),
        // Static numbers need no mapping (RFC 3551 §6).
        None => ALL.into_iter().find(|&codec| static_payload_type(codec) == Some(payload_type)),
    }
}

fn static_payload_type(codec: AudioCodec) -> Option<u8> {
    match codec {
        AudioCodec::Pcmu => Some(0),
        AudioCodec::Pcma => Some(8),
        AudioCodec::G722 => Some(9),
        AudioCodec::Opus => None,
    }
}

/// Payload types and clock rates of a format that is no codec, in the line's order.
fn named(media: &Media, encoding: &str) -> Vec<(u8, u32)> {
    let clock_rate = |number| match media.rtpmap(number) {
        Some(map) => map.encoding.eq_ignore_ascii_case(encoding).then_some(map.clock_rate.max(8_000)),
        None => (number == NOISE_NUMBER && encoding == "CN").then_some(8_000),
    };
    let numbers = media.payload_types().into_iter();
    numbers.filter_map(|number| Some((number, clock_rate(number)?))).collect()
}

/// The line's telephone-event of exactly this clock rate.
pub(super) fn telephone_event(media: &Media, clock_rate: u32) -> Option<u8> {
    named(media, "telephone-event")
        .into_iter()
        .find(|(_, rate)| *rate == clock_rate)
        .map(|(number, _)| number)
}

/// What the peer says about the Opus it wants to receive.
fn opus_terms(media: &Media, payload_type: u8) -> OpusTerms {
    let Some(fmtp) = media.fmtp(payload_type) else { return OpusTerms::default() };
    let flag = |name: &str| fmtp.number(name) == Some(1);
    OpusTerms {
        max_playback_rate: fmtp.number("maxplaybackrate").filter(|rate| *rate >= 8_000).unwrap_or(48_000),
        max_bitrate: fmtp.number("maxaveragebitrate").filter(|bits| *bits >= 6_000),
        fec: flag("useinbandfec"),
        dtx: flag("usedtx"),
        constant: flag("cbr"),
    }
}

/// What we send: the asked packet time in steps of 10 ms, never more than the peer can take or 60 ms.
fn ptime(media: &Media) -> u32 {
    let asked = media.ptime().unwrap_or(PTIME_MS).min(60);
    let at_most = media.maxptime().unwrap_or(60);
    (asked.min(at_most) / 10 * 10).max(10)
}

/// What stands in an audio line of ours.
pub(super) struct Line<'a> {
    /// In our order.
    pub codecs: &'a [(u8, AudioCodec)],
    /// Telephone events and comfort noise, with their clock rates.
    pub events: &'a [(u8, u32)],
    pub noises: &'a [(u8, u32)],
    pub port: u16,
    pub protocol: &'a str,
    pub ptime_ms: u32,
    pub direction: Direction,
    pub rtcp_mux: bool,
}

/// Our audio line for what was chosen from the peer's: one codec, what belongs to it, nothing that was not offered.
pub(super) fn answer(
    choice: &AudioChoice,
    port: u16,
    offered: &Media,
    direction: Direction,
    rtcp_mux: bool,
) -> Media {
    let noises: Vec<(u8, u32)> = choice
        .noises
        .iter()
        .filter(|(_, rate)| *rate == choice.codec.clock_rate())
        .take(1)
        .copied()
        .collect();
    build(&Line {
        codecs: &[(choice.payload_type, choice.codec)],
        events: choice.events.get(..1).unwrap_or_default(),
        noises: &noises,
        port,
        protocol: &offered.protocol,
        ptime_ms: choice.ptime_ms,
        direction,
        rtcp_mux,
    })
}

/// Writes the line.
pub(super) fn build(wanted: &Line<'_>) -> Media {
    let others = wanted.noises.iter().chain(wanted.events).map(|(number, _)| *number);
    let numbers = wanted.codecs.iter().map(|(number, _)| *number).chain(others);
    let mut media = line("audio", wanted.port, wanted.protocol, numbers);
    let attributes = &mut media.attributes;
    for (number, codec) in wanted.codecs {
        let mapping = format!("{number} {}/{}", codec.name(), codec.clock_rate());
        match codec {
            AudioCodec::Opus => {
                attributes.push(Attribute::new("rtpmap", format!("{mapping}/2")));
                attributes.push(Attribute::new("fmtp", format!("{number} {OPUS}")));
            }
            AudioCodec::Pcmu | AudioCodec::Pcma | AudioCodec::G722 => {
                attributes.push(Attribute::new("rtpmap", mapping));
            }
        }
    }
    for (number, clock_rate) in wanted.noises {
        attributes.push(Attribute::new("rtpmap", format!("{number} CN/{clock_rate}")));
    }
    for (number, clock_rate) in wanted.events {
        attributes.push(Attribute::new("rtpmap", format!("{number} telephone-event/{clock_rate}")));
        attributes.push(Attribute::new("fmtp", format!("{number} {EVENTS}")));
    }
    attributes.push(Attribute::new("ptime", wanted.ptime_ms.to_string()));
    attributes.push(Attribute::flag(spoken(wanted.direction).name()));
    if wanted.rtcp_mux {
        attributes.push(Attribute::flag("rtcp-mux"));
    }
    media
}

/// The codecs of our offer: what `previous` named keeps its number, the rest has its static one, or one that never meant
/// anything in this session.
pub(super) fn offered_codecs(
    settings: &MediaSettings,
    previous: Option<&Media>,
    origin: &mut Origin,
) -> Vec<(u8, AudioCodec)> {
    let named = previous.map(codecs).unwrap_or_default();
    let mut all = Vec::with_capacity(settings.audio_codecs.len());
    for codec in &settings.audio_codecs {
        let known = named.iter().find(|(_, known)| known == codec).map(|(number, _)| *number);
        let number = known.or_else(|| static_payload_type(*codec));
        all.push((number.unwrap_or_else(|| origin.fresh_payload_type(OPUS_NUMBER)), *codec));
    }
    all
}

/// The telephone events of our offer, one for each clock rate of its codecs, numbered in the same way.
pub(super) fn offered_events(
    settings: &MediaSettings,
    previous: Option<&Media>,
    origin: &mut Origin,
) -> Vec<(u8, u32)> {
    let mut events: Vec<(u8, u32)> = Vec::with_capacity(2);
    for clock_rate in settings.audio_codecs.iter().map(|codec| codec.clock_rate()) {
        if events.iter().any(|(_, known)| *known == clock_rate) {
            continue;
        }
        let known = previous.and_then(|media| telephone_event(media, clock_rate));
        let preferred = if clock_rate == 8_000 { 101 } else { 110 };
        events.push((known.unwrap_or_else(|| origin.fresh_payload_type(preferred)), clock_rate));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, origin, settings};
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
        assert_eq!(chosen(lines).unwrap().events, [(99, 8_000)]);
        assert!(chosen("m=audio 4000 RTP/AVP 0 101\r\n").unwrap().events.is_empty());
        let opus = "m=audio 4000 RTP/AVP 101 96 99\r\na=rtpmap:101 telephone-event/8000\r\n\
            a=rtpmap:96 opus/48000/2\r\na=rtpmap:99 telephone-event/48000\r\n";
        let choice = wide(opus).unwrap();
        assert_eq!(choice.events, [(99, 48_000), (101, 8_000)]);
        let answered = answer(&choice, 20_000, &described(opus).media[0], Direction::SendReceive, false);
        assert_eq!(answered.formats, ["96", "99"]);
        // The only one there is, at another clock (WhatsApp, baresip 1.0).
        let lines = opus.replace("a=rtpmap:99 telephone-event/48000\r\n", "");
        let answered = answer(
            &wide(&lines).unwrap(),
            20_000,
            &described(&lines).media[0],
            Direction::SendReceive,
            false,
        );
        assert_eq!(answered.formats, ["96", "101"]);
    }

    /// With everything this box speaks.
    fn wide(lines: &str) -> Option<AudioChoice> {
        let settings = MediaSettings { audio_codecs: ALL.to_vec(), ..settings() };
        choose(&described(lines).media[0], &settings)
    }

    #[test]
    fn opus_and_g722_are_taken_in_our_order_as_their_mappings_say() {
        let lines = "m=audio 4000 RTP/AVP 0 9 109\r\na=rtpmap:109 OPUS/48000/2\r\n";
        assert_eq!(wide(lines).unwrap().codec, AudioCodec::Opus);
        assert_eq!(wide("m=audio 4000 RTP/AVP 0 9\r\n").unwrap().codec, AudioCodec::G722);
        let lync = "m=audio 4000 RTP/AVP 117 0\r\na=rtpmap:117 G722/8000/2\r\n";
        assert_eq!(wide(lync).unwrap().receive, [(0, AudioCodec::Pcmu)], "two channels");
        assert!(wide("m=audio 4000 RTP/AVP 111\r\n").is_none(), "a number alone says nothing");
        assert!(wide("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 opus/16000/2\r\n").is_none());
    }

    #[test]
    fn what_a_peer_wants_of_opus_is_read_and_ours_is_said() {
        let terms = |fmtp: &str| {
            wide(&format!("m=audio 4000 RTP/AVP 111\r\na=rtpmap:111 opus/48000/2\r\n{fmtp}")).unwrap().opus
        };
        assert_eq!(terms(""), OpusTerms::default());
        let all =
            "a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000; useinbandfec=1; usedtx=1;cbr=1\r\n";
        let wanted = OpusTerms {
            max_playback_rate: 16_000,
            max_bitrate: Some(20_000),
            fec: true,
            dtx: true,
            constant: true,
        };
        assert_eq!(terms(all), wanted);
        let nonsense = "a=fmtp:111 maxaveragebitrate=1;maxplaybackrate=x;useinbandfec=yes\r\n";
        assert_eq!(terms(nonsense), OpusTerms::default());
        let lines = format!("m=audio 4000 RTP/AVP 111\r\na=rtpmap:111 opus/48000/2\r\n{all}");
        let answered = answer(
            &wide(&lines).unwrap(),
            20_000,
            &described(&lines).media[0],
            Direction::SendReceive,
            false,
        );
        let values: Vec<&str> = answered.attributes.iter().filter_map(|a| a.value.as_deref()).collect();
        assert_eq!(values, ["111 opus/48000/2", "111 useinbandfec=1", "20"]);
    }

    #[test]
    fn comfort_noise_is_answered_at_the_clock_of_the_codec() {
        let lines = "m=audio 4000 RTP/AVP 8 13 105\r\na=rtpmap:105 CN/16000\r\n";
        let answered = |lines: &str| {
            answer(&wide(lines).unwrap(), 20_000, &described(lines).media[0], Direction::SendReceive, false)
        };
        assert_eq!(answered(lines).formats, ["8", "13"]);
        assert_eq!(answered(lines).rtpmap(13).unwrap().encoding, "CN");
        let opus = "m=audio 4000 RTP/AVP 111 13\r\na=rtpmap:111 opus/48000/2\r\n";
        assert_eq!(answered(opus).formats, ["111"], "Opus has its own");
        assert_eq!(wide(opus).unwrap().noises, [(13, 8_000)]);
    }

    #[test]
    fn an_offer_names_all_codecs_and_keeps_their_numbers() {
        let settings = MediaSettings { audio_codecs: ALL.to_vec(), ..settings() };
        let mut origin = origin();
        let codecs = offered_codecs(&settings, None, &mut origin);
        let events = offered_events(&settings, None, &mut origin);
        let numbers: Vec<u8> = codecs.iter().map(|(number, _)| *number).collect();
        assert_eq!((numbers, events), (vec![111, 9, 8, 0], vec![(110, 48_000), (101, 8_000)]));
        let theirs = described(
            "m=audio 4000 RTP/AVP 120 0 96\r\na=rtpmap:120 opus/48000/2\r\na=rtpmap:96 telephone-event/8000\r\n",
        );
        let codecs = offered_codecs(&settings, Some(&theirs.media[0]), &mut origin);
        let events = offered_events(&settings, Some(&theirs.media[0]), &mut origin);
        assert_eq!(codecs[0], (120, AudioCodec::Opus));
        assert_eq!(events[1], (96, 8_000));
        assert_ne!(events[0].0, 110, "taken by the first offer");
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
