//! Codecs in a video line: H.264 (RFC 6184 §8), VP8 (RFC 7741 §6), VP9 (RFC 9628 §6), H.265 (RFC 7798 §7): formats,
//! profiles, limits, feedback.
//!
//! What we can encode comes first. A line that has nothing of it is taken to receive only.

use super::level::Level;
use super::{MediaSettings, feedback, line, spoken};
use crate::engine::plan::{Direction, Feedback, PacketizationMode, Retransmission, VideoCodec};
use crate::sdp::crypto::from_base64;
use crate::sdp::media::bandwidth;
use crate::sdp::{Attribute, Media, SessionDescription};

/// Assumed where a peer states no profile. On paper that is level 1.0 (RFC 6184 §8.1); Dahua door stations leave
/// the parameters out and take and send 720p.
const UNSTATED: [u8; 3] = [0x42, 0xe0, 0x1f];

/// What we encode and offer, level aside: Constrained Baseline.
const OURS: [u8; 3] = [0x42, 0xe0, 0x00];

const MOST_PARAMETER_SETS: usize = 16;
const LONGEST_PARAMETER_SET: usize = 1024;

/// Room kept for audio when only the whole session's bandwidth is stated, kbit/s: G.711 with its headers.
const AUDIO_KBPS: u64 = 80;

/// One payload type of a line.
#[derive(Clone, Debug)]
pub(super) struct Format {
    pub payload_type: u8,
    pub codec: VideoCodec,
    /// Of H.264.
    pub mode: PacketizationMode,
    /// As stated, if it was; of H.264.
    pub profile_level_id: Option<[u8; 3]>,
    mode_stated: bool,
    level_asymmetry: bool,
    max_macroblocks: Option<u32>,
    max_macroblocks_per_second: Option<u32>,
    max_kbps: Option<u32>,
    pub parameter_sets: Vec<Vec<u8>>,
}

/// What one peer's video line gives us.
#[derive(Clone, Debug)]
pub(super) struct VideoChoice {
    pub format: Format,
    /// We can encode it.
    pub sends: bool,
    /// Every payload type of the line with this codec.
    pub receive: Vec<(u8, VideoCodec)>,
    pub feedback: Feedback,
    pub retransmission: Retransmission,
}

/// What the peer lets us send.
pub(super) struct Limits {
    pub kbps: Option<u32>,
    pub macroblocks: u32,
    pub macroblocks_per_second: u32,
}

/// Chooses a codec we can encode before one we cannot, then by our order of codecs; of H.264 mode 1 before mode 0, then
/// the profile we encode; then by the peer's order. `None`: nothing in common.
pub(super) fn choose(media: &Media, settings: &MediaSettings) -> Option<VideoChoice> {
    let formats = formats(media);
    let rank = |format: &Format| {
        let place = settings.video_codecs.iter().position(|codec| *codec == format.codec)?;
        let other_profile = format.codec == VideoCodec::H264
            && profile(format.profile_level_id.unwrap_or(UNSTATED)) != Some(Profile::Baseline);
        let single_nal = format.mode == PacketizationMode::SingleNal;
        Some((!settings.can_send(format.codec), place, single_nal, other_profile))
    };
    let ranked = formats.iter().filter_map(|format| Some((rank(format)?, format)));
    let (_, format) = ranked.min_by_key(|(rank, _)| *rank)?;
    let same = formats.iter().filter(|other| other.codec == format.codec);
    let receive: Vec<(u8, VideoCodec)> = same.map(|format| (format.payload_type, format.codec)).collect();
    Some(VideoChoice {
        sends: settings.can_send(format.codec),
        feedback: feedback::asked(media, format.payload_type),
        retransmission: feedback::again(media, &receive, format.payload_type),
        receive,
        format: format.clone(),
    })
}

/// The payload types of a line we can decode, in its order.
pub(super) fn formats(media: &Media) -> Vec<Format> {
    media.payload_types().into_iter().filter_map(|number| format_of(media, number)).collect()
}

fn format_of(media: &Media, payload_type: u8) -> Option<Format> {
    let map = media.rtpmap(payload_type)?;
    let known = VideoCodec::ALL.into_iter().find(|codec| map.encoding.eq_ignore_ascii_case(codec.name()));
    let codec = known.filter(|_| matches!(map.clock_rate, 0 | 90_000))?;
    let fmtp = media.fmtp(payload_type);
    let number = |name| fmtp.and_then(|fmtp| fmtp.number(name));
    let plain = Format {
        payload_type,
        codec,
        mode: PacketizationMode::NonInterleaved,
        profile_level_id: None,
        mode_stated: false,
        level_asymmetry: false,
        max_macroblocks: None,
        max_macroblocks_per_second: None,
        max_kbps: None,
        parameter_sets: Vec::new(),
    };
    match codec {
        VideoCodec::H264 => h264_format(media, payload_type),
        VideoCodec::Vp8 => {
            let (frames, size) = (number("max-fr"), number("max-fs"));
            let per_second = frames.zip(size).map(|(frames, size)| frames.saturating_mul(size).max(1));
            Some(Format { max_macroblocks: size, max_macroblocks_per_second: per_second, ..plain })
        }
        // Others have more than 8 bits or more colour than our decoder is asked for.
        VideoCodec::Vp9 => (number("profile-id").unwrap_or(0) == 0).then_some(plain),
        VideoCodec::H265 => {
            let plain_order = number("sprop-max-don-diff").unwrap_or(0) == 0;
            let text = |name| fmtp.and_then(|fmtp| fmtp.value(name)).unwrap_or("");
            let sets =
                ["sprop-vps", "sprop-sps", "sprop-pps"].into_iter().flat_map(|name| base64_list(text(name)));
            let main = number("profile-id").unwrap_or(1) == 1 && plain_order;
            main.then(|| Format { parameter_sets: sets.collect(), ..plain })
        }
    }
}

fn h264_format(media: &Media, payload_type: u8) -> Option<Format> {
    let fmtp = media.fmtp(payload_type);
    let number = |name| fmtp.and_then(|fmtp| fmtp.number(name));
    let stated_mode = number("packetization-mode");
    let mode = match stated_mode.unwrap_or(0) {
        0 => PacketizationMode::SingleNal,
        1 => PacketizationMode::NonInterleaved,
        _ => return None,
    };
    let profile_level_id = fmtp.and_then(|fmtp| fmtp.value("profile-level-id")).and_then(hexadecimal);
    profile(profile_level_id.unwrap_or(UNSTATED))?;
    let sets = fmtp.and_then(|fmtp| fmtp.value("sprop-parameter-sets")).unwrap_or("");
    Some(Format {
        payload_type,
        codec: VideoCodec::H264,
        mode,
        profile_level_id,
        mode_stated: stated_mode.is_some(),
        level_asymmetry: number("level-asymmetry-allowed") == Some(1),
        max_macroblocks: number("max-fs"),
        max_macroblocks_per_second: number("max-mbps"),
        max_kbps: number("max-br"),
        parameter_sets: parameter_sets(sets),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// Baseline and Constrained Baseline.
    Baseline,
    Main,
    High,
}

/// RFC 6184 Table 5, for the profiles our decoder takes: 8 bit 4:2:0 without data partitioning.
fn profile([idc, iop, _]: [u8; 3]) -> Option<Profile> {
    match idc {
        66 => Some(Profile::Baseline),
        77 if iop & 0x80 != 0 => Some(Profile::Baseline),
        77 => Some(Profile::Main),
        88 if iop & 0x80 != 0 => Some(Profile::Baseline),
        100 => Some(Profile::High),
        _ => None,
    }
}

fn hexadecimal(text: &str) -> Option<[u8; 3]> {
    (text.len() == 6 && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(())?;
    let number = u32::from_str_radix(text, 16).ok()?;
    let [_, profile_idc, profile_iop, level_idc] = number.to_be_bytes();
    Some([profile_idc, profile_iop, level_idc])
}

/// The sequence and picture parameter sets in `sprop-parameter-sets`; anything else in it is left out.
fn parameter_sets(list: &str) -> Vec<Vec<u8>> {
    let usable = |unit: &Vec<u8>| {
        let kind = unit.first().map(|header| header & 0x1f);
        matches!(kind, Some(7 | 8)) && unit.len() > 1 && unit.len() <= LONGEST_PARAMETER_SET
    };
    base64_list(list).filter(usable).collect()
}

fn base64_list(list: &str) -> impl Iterator<Item = Vec<u8>> {
    list.split(',').take(MOST_PARAMETER_SETS).filter_map(from_base64)
}

impl Format {
    /// What the peer's decoder takes, as stated or assumed.
    pub fn decodes(&self) -> [u8; 3] {
        self.profile_level_id.unwrap_or(UNSTATED)
    }

    /// Our `fmtp` in answer to this format. A parameter the peer did not state is not stated back: with its
    /// default it already means the same on both sides, and door stations stumble over what they do not know.
    fn answered(&self, settings: &MediaSettings) -> Option<String> {
        match self.codec {
            VideoCodec::H264 => self.answered_h264(settings),
            VideoCodec::Vp8 => Some(vp8_parameters(settings)),
            VideoCodec::Vp9 => None,
            VideoCodec::H265 => {
                let level = Level::needed(settings.max_size, settings.fps).h265();
                Some(format!("profile-id=1;level-id={level}"))
            }
        }
    }

    fn answered_h264(&self, settings: &MediaSettings) -> Option<String> {
        let mut parameters = Vec::new();
        if let Some(offered) = self.profile_level_id {
            let ours = Level::needed(settings.max_size, settings.fps);
            // Without asymmetry the level holds both ways and may only go down (RFC 6184 §8.2.2).
            let level = if self.level_asymmetry { ours } else { ours.min(Level::of(offered)) };
            parameters.push(stated_profile(level.put_into(offered)));
            // Rooms state a low level and raise it by `max-*`; told the same way, they send us larger pictures too.
            if level != ours && (self.max_macroblocks.is_some() || self.max_macroblocks_per_second.is_some())
            {
                parameters.push(format!("max-mbps={}", ours.macroblocks_per_second));
                parameters.push(format!("max-fs={}", ours.macroblocks));
            }
        }
        if self.mode_stated {
            parameters.push(stated_mode(self.mode));
        }
        if self.level_asymmetry {
            parameters.push("level-asymmetry-allowed=1".to_owned());
        }
        (!parameters.is_empty()).then(|| parameters.join(";"))
    }

    /// What the format and the `b=` lines around it let us send. Raising a level's limits is all `max-*` may do.
    pub fn limits(&self, description: &SessionDescription, media: &Media, with_audio: bool) -> Limits {
        if self.codec != VideoCodec::H264 {
            return Limits {
                kbps: bandwidth_kbps(description, media, with_audio),
                macroblocks: self.max_macroblocks.unwrap_or(u32::MAX).max(1),
                macroblocks_per_second: self.max_macroblocks_per_second.unwrap_or(u32::MAX),
            };
        }
        let level = Level::of(self.decodes());
        let stated = self.profile_level_id.map(|_| level.kbps.max(self.max_kbps.unwrap_or(0)));
        Limits {
            kbps: lower(stated, bandwidth_kbps(description, media, with_audio)),
            macroblocks: level.macroblocks.max(self.max_macroblocks.unwrap_or(0)),
            macroblocks_per_second: level
                .macroblocks_per_second
                .max(self.max_macroblocks_per_second.unwrap_or(0)),
        }
    }
}

fn lower(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// `TIAS` is bare media (RFC 3890); `AS` counts RTP, UDP and IP headers too, a twentieth at our packet size.
fn bandwidth_kbps(description: &SessionDescription, media: &Media, with_audio: bool) -> Option<u32> {
    let of = |lines: &[_]| {
        let tias = bandwidth(lines, "TIAS").map(|bits| bits.div_ceil(1000));
        tias.or_else(|| bandwidth(lines, "AS").map(|kbps| kbps.saturating_mul(19) / 20))
    };
    let whole = || {
        let total = of(&description.bandwidth).or_else(|| bandwidth(&description.bandwidth, "CT"))?;
        Some(total.saturating_sub(if with_audio { AUDIO_KBPS } else { 0 }))
    };
    of(&media.bandwidth).or_else(whole).map(|kbps| u32::try_from(kbps).unwrap_or(u32::MAX).max(1))
}

fn stated_profile([profile_idc, profile_iop, level_idc]: [u8; 3]) -> String {
    format!("profile-level-id={profile_idc:02x}{profile_iop:02x}{level_idc:02x}")
}

fn stated_mode(mode: PacketizationMode) -> String {
    let number = match mode {
        PacketizationMode::SingleNal => 0,
        PacketizationMode::NonInterleaved => 1,
    };
    format!("packetization-mode={number}")
}

/// Our video line for what was chosen from the peer's.
pub(super) fn answer(
    choice: &VideoChoice,
    settings: &MediaSettings,
    port: u16,
    offered: &Media,
    direction: Direction,
    rtcp_mux: bool,
) -> Media {
    let number = choice.format.payload_type;
    let formats = [(number, choice.format.codec, choice.format.answered(settings))];
    let words = feedback::words(&choice.feedback, &number.to_string());
    let mut media = build(&formats, &words, settings, port, &offered.protocol, direction, rtcp_mux);
    let again = choice.retransmission.send.filter(|_| choice.feedback.nack);
    feedback::complete(&mut media, &choice.feedback, again.map(|again| (again, number)));
    media
}

/// Our video line: payload types with their `fmtp`, `rtcp-fb` values as written.
pub(super) fn build(
    formats: &[(u8, VideoCodec, Option<String>)],
    feedback: &[String],
    settings: &MediaSettings,
    port: u16,
    protocol: &str,
    direction: Direction,
    rtcp_mux: bool,
) -> Media {
    let mut media = line("video", port, protocol, formats.iter().map(|(number, ..)| *number));
    let kbps = u64::from(settings.max_kbps);
    media.bandwidth.push(crate::sdp::Bandwidth { kind: "AS".to_owned(), value: kbps });
    let attributes = &mut media.attributes;
    for (number, codec, parameters) in formats {
        attributes.push(Attribute::new("rtpmap", format!("{number} {}/90000", codec.name())));
        attributes.extend(parameters.iter().map(|text| Attribute::new("fmtp", format!("{number} {text}"))));
    }
    attributes.extend(feedback.iter().map(|words| Attribute::new("rtcp-fb", words)));
    attributes.push(Attribute::flag(spoken(direction).name()));
    if rtcp_mux {
        attributes.push(Attribute::flag("rtcp-mux"));
    }
    media
}

/// What we take as VP8, as large as what we state for H.264 (RFC 7741 §6.1).
pub(super) fn vp8_parameters(settings: &MediaSettings) -> String {
    let level = Level::needed(settings.max_size, settings.fps);
    let pictures = level.macroblocks_per_second / level.macroblocks;
    format!("max-fr={pictures};max-fs={}", level.macroblocks)
}

/// The `fmtp` of H.264 as we offer it.
pub(super) fn offered_parameters(settings: &MediaSettings, mode: PacketizationMode) -> String {
    let id = Level::needed(settings.max_size, settings.fps).put_into(OURS);
    format!("{};{};level-asymmetry-allowed=1", stated_profile(id), stated_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, settings};
    use super::*;

    fn chosen(lines: &str) -> Option<VideoChoice> {
        choose(&described(lines).media[0], &settings())
    }

    fn h264(formats: &[(u8, &str)]) -> String {
        let numbers: String = formats.iter().map(|(number, _)| format!(" {number}")).collect();
        let lines =
            formats.iter().map(|(n, fmtp)| format!("a=rtpmap:{n} H264/90000\r\na=fmtp:{n} {fmtp}\r\n"));
        format!("m=video 5000 RTP/AVP{numbers}\r\n{}", lines.collect::<String>())
    }

    #[test]
    fn mode_1_is_preferred_and_one_mode_alone_is_taken() {
        let both = h264(&[
            (97, "packetization-mode=0;profile-level-id=428016"),
            (126, "packetization-mode=1;profile-level-id=428016"),
        ]);
        let choice = chosen(&both).unwrap();
        assert_eq!(
            (choice.format.payload_type, choice.receive),
            (126, vec![(97, VideoCodec::H264), (126, VideoCodec::H264)])
        );
        let alone = chosen(&h264(&[(99, "profile-level-id=42801F")])).unwrap().format;
        assert_eq!((alone.payload_type, alone.mode), (99, PacketizationMode::SingleNal));
        assert!(chosen(&h264(&[(99, "packetization-mode=2")])).is_none());
    }

    #[test]
    fn our_own_profile_is_preferred_and_foreign_ones_are_left() {
        let several = h264(&[
            (96, "profile-level-id=7a001f;packetization-mode=1"),
            (97, "profile-level-id=64001f; packetization-mode=1"),
            (98, "profile-level-id=42001f; packetization-mode=1"),
        ]);
        let choice = chosen(&several).unwrap();
        assert_eq!(
            (choice.format.payload_type, choice.receive),
            (98, vec![(97, VideoCodec::H264), (98, VideoCodec::H264)])
        );
        assert!(chosen(&h264(&[(96, "profile-level-id=58001f")])).is_none());
        assert!(chosen(&h264(&[(96, "profile-level-id=58a01f")])).is_some());
    }

    #[test]
    fn answers_keep_the_profile_and_settle_the_level() {
        let answered = |fmtp: &str| chosen(&h264(&[(96, fmtp)])).unwrap().format.answered(&settings());
        let text = |fmtp: &str| answered(fmtp).unwrap_or_default();
        assert_eq!(
            text("profile-level-id=640016;packetization-mode=1;level-asymmetry-allowed=1"),
            "profile-level-id=64001f;packetization-mode=1;level-asymmetry-allowed=1"
        );
        assert_eq!(
            text("profile-level-id=428016;packetization-mode=1"),
            "profile-level-id=428016;packetization-mode=1"
        );
        assert_eq!(
            text("profile-level-id=428016;max-fs=3600"),
            "profile-level-id=428016;max-mbps=108000;max-fs=3600"
        );
        assert_eq!(text("profile-level-id=42E029"), "profile-level-id=42e01f");
        assert_eq!(text("profile-level-id=rubbish;packetization-mode=0"), "packetization-mode=0");
        assert_eq!(answered("framerate:15.000000"), None);
    }

    #[test]
    fn limits_come_from_the_level_and_are_only_ever_raised() {
        let limits = |lines: &str| {
            let description = described(lines);
            let media = &description.media[0];
            let limits = choose(media, &settings()).unwrap().format.limits(&description, media, true);
            (limits.macroblocks, limits.macroblocks_per_second, limits.kbps)
        };
        let raised = h264(&[(96, "profile-level-id=42e00d;max-fs=3600;max-mbps=1;max-br=5000")]);
        assert_eq!(limits(&raised), (3600, 11_880, Some(5000)));
        let plain = h264(&[(96, "profile-level-id=42e01f")]);
        assert_eq!(limits(&format!("{plain}b=AS:400\r\n")), (3600, 108_000, Some(380)));
        assert_eq!(limits(&format!("{plain}b=AS:400\r\nb=TIAS:329000\r\n")).2, Some(329));
        assert_eq!(limits(&format!("b=CT:480\r\n{plain}")).2, Some(400));
        assert_eq!(limits(&format!("b=AS:20\r\n{plain}")).2, Some(1));
        assert_eq!(limits("m=video 5000 RTP/AVP 105\r\na=rtpmap:105 h264/90000\r\n"), (3600, 108_000, None));
    }

    #[test]
    fn parameter_sets_are_decoded_and_rubbish_between_them_is_dropped() {
        let list = "sprop-parameter-sets=Z0LgHukDwKMg,,%%,aM4yyA==,QUJD";
        let sets = chosen(&h264(&[(96, list)])).unwrap().format.parameter_sets;
        assert_eq!(
            sets,
            [vec![0x67, 0x42, 0xe0, 0x1e, 0xe9, 0x03, 0xc0, 0xa3, 0x20], vec![0x68, 0xce, 0x32, 0xc8]]
        );
    }

    fn line(formats: &[(u8, &str, &str)]) -> String {
        let numbers: String = formats.iter().map(|(number, ..)| format!(" {number}")).collect();
        let lines = formats.iter().map(|(n, codec, fmtp)| {
            let parameters = if fmtp.is_empty() { String::new() } else { format!("a=fmtp:{n} {fmtp}\r\n") };
            format!("a=rtpmap:{n} {codec}/90000\r\n{parameters}")
        });
        format!("m=video 5000 RTP/AVP{numbers}\r\n{}", lines.collect::<String>())
    }

    #[test]
    fn h264_comes_before_vp8_and_what_is_only_received_last() {
        let all = line(&[
            (96, "VP9", ""),
            (97, "H265", ""),
            (98, "vp8", ""),
            (99, "rtx", "apt=98"),
            (100, "red", ""),
            (101, "ulpfec", ""),
            (102, "H264", "packetization-mode=1"),
        ]);
        let choice = chosen(&all).unwrap();
        assert_eq!((choice.format.payload_type, choice.sends), (102, true));
        assert_eq!(choice.receive, [(102, VideoCodec::H264)], "what is not answered is not taken");
        let picked = |settings: &MediaSettings| {
            let choice = choose(&described(&all).media[0], settings)?;
            Some((choice.format.codec, choice.sends))
        };
        let vp8_first = MediaSettings { video_codecs: vec![VideoCodec::Vp8, VideoCodec::H264], ..settings() };
        assert_eq!(picked(&vp8_first), Some((VideoCodec::Vp8, true)));
        let no_libvpx = MediaSettings { vp8_encoder: false, ..vp8_first };
        assert_eq!(picked(&no_libvpx), Some((VideoCodec::H264, true)));
        let vp8_only = MediaSettings { video_codecs: vec![VideoCodec::Vp8], ..no_libvpx };
        assert_eq!(picked(&vp8_only), Some((VideoCodec::Vp8, false)));
        let alone = |codec, fmtp| {
            chosen(&line(&[(96, codec, fmtp)])).map(|choice| (choice.format.codec, choice.sends))
        };
        assert_eq!(alone("VP8", ""), Some((VideoCodec::Vp8, true)));
        assert_eq!(alone("VP9", "profile-id=0"), Some((VideoCodec::Vp9, false)));
        assert_eq!(alone("VP9", "profile-id=2"), None);
        assert_eq!(alone("H265", "profile-id=1;tx-mode=SRST"), Some((VideoCodec::H265, false)));
        assert_eq!(alone("H265", "profile-id=2"), None);
        assert_eq!(alone("H265", "sprop-max-don-diff=2"), None);
        assert_eq!(alone("rtx", "apt=96"), None);
        assert_eq!(alone("AV1", ""), None);
    }

    #[test]
    fn limits_of_vp8_are_those_stated() {
        let limits = |fmtp: &str| {
            let description = described(&format!("{}b=AS:400\r\n", line(&[(96, "VP8", fmtp)])));
            let media = &description.media[0];
            let limits = choose(media, &settings()).unwrap().format.limits(&description, media, true);
            (limits.macroblocks, limits.macroblocks_per_second, limits.kbps)
        };
        assert_eq!(limits("max-fr=15;max-fs=396"), (396, 5940, Some(380)));
        assert_eq!(limits("max-fs=1200"), (1200, u32::MAX, Some(380)));
        assert_eq!(limits("max-fs=0;max-fr=0"), (1, 1, Some(380)));
        assert_eq!(limits(""), (u32::MAX, u32::MAX, Some(380)));
    }

    #[test]
    fn answers_of_other_codecs_say_what_we_take() {
        let answered = |codec: &str, fmtp: &str| {
            chosen(&line(&[(96, codec, fmtp)])).unwrap().format.answered(&settings())
        };
        assert_eq!(answered("VP8", "").as_deref(), Some("max-fr=30;max-fs=3600"));
        assert_eq!(answered("VP9", ""), None);
        assert_eq!(answered("H265", "level-id=150").as_deref(), Some("profile-id=1;level-id=93"));
    }

    #[test]
    fn parameter_sets_of_h265_come_from_three_lists() {
        let fmtp = "sprop-vps=QAEMAf//,%%;sprop-sps=QgEB;sprop-pps=RAHA";
        let sets = chosen(&line(&[(96, "H265", fmtp)])).unwrap().format.parameter_sets;
        assert_eq!(sets, [vec![0x40, 1, 0x0c, 1, 0xff, 0xff], vec![0x42, 1, 1], vec![0x44, 1, 0xc0]]);
    }
}
