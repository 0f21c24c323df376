//! One offer or answer per kind of endpoint, with what must come of it beside it as text.
//!
//! `tests/data/sdp/NAME.sdp` is what the endpoint sends. `NAME.answer` holds our answer and the streams, or the
//! refusal; for `answer-*.sdp` it holds the streams after our standard offer. `EYELINE_BLESS=1` writes the
//! `.answer` files anew: read the difference before keeping it.

#![allow(clippy::unwrap_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use eyeline::call::negotiate::{self, KeyOffer, MediaSettings, Origin, Refusal, SrtpPolicy};
use eyeline::engine::plan::{
    AudioCodec, BoundPorts, Direction, PacketizationMode, Protection, Route, Streams, VideoCodec, VideoStream,
};
use eyeline::media::frame::Size;
use eyeline::sdp::{self, SessionDescription};

fn settings() -> MediaSettings {
    MediaSettings {
        audio_codecs: vec![AudioCodec::Pcma, AudioCodec::Pcmu],
        audio_direction: Direction::SendReceive,
        video: true,
        video_codecs: VideoCodec::ALL.to_vec(),
        vp8_encoder: true,
        video_direction: Direction::SendReceive,
        max_size: Size::new(1280, 720),
        fps: 15,
        max_kbps: 1000,
        slides: false,
        srtp: SrtpPolicy::Optional,
        key_offer: KeyOffer::Sdes,
        dtls_fingerprint: Some(("sha-256".to_owned(), (0..32).collect())),
        ice: false,
        browser: false,
    }
}

/// With every audio codec, in the order of the defaults.
fn wide() -> MediaSettings {
    let audio_codecs = vec![AudioCodec::Opus, AudioCodec::G722, AudioCodec::Pcma, AudioCodec::Pcmu];
    MediaSettings { audio_codecs, ..settings() }
}

fn ports(ip6: bool) -> BoundPorts {
    let address = if ip6 { "2001:db8::10".parse() } else { "192.0.2.10".parse() };
    BoundPorts { address: address.unwrap(), audio: Some(20000), video: Some(20002), slides: Some(20004) }
}

fn origin() -> Origin {
    Origin::new("eyeline", 1, [7; 32])
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sdp")
}

fn corpus() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(data()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sdp") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}

fn answer(body: &[u8]) -> Result<(SessionDescription, Streams), Refusal> {
    answer_as(&settings(), body)
}

fn answer_as(settings: &MediaSettings, body: &[u8]) -> Result<(SessionDescription, Streams), Refusal> {
    let offer = negotiate::read(body)?;
    let ip6 = offer.connection.as_ref().is_some_and(|connection| connection.ip6);
    negotiate::answer(&offer, settings, &ports(ip6), &mut origin())
}

#[test]
fn a_shared_screen_is_a_stream_of_its_own_where_it_is_wanted() {
    let wanting = MediaSettings { slides: true, ..settings() };
    let corpus = corpus();
    for (name, place) in [
        ("cisco-room-content-and-bfcp", 3),
        ("aver-room-one-number-mapped-twice", 2),
        ("room-with-bfcp-and-slides", 3),
    ] {
        let (answer, streams) = answer_as(&wanting, &corpus[name]).unwrap();
        mirrors(&negotiate::read(&corpus[name]).unwrap(), &answer);
        let line = &answer.media[place];
        assert_eq!((line.port, line.direction().unwrap().name()), (20004, "recvonly"), "{name}");
        assert_eq!(line.values("content").next(), Some("slides"), "{name}");
        let (video, slides) = (streams.video.unwrap(), streams.slides.unwrap());
        assert_eq!(slides.route.direction, Direction::ReceiveOnly);
        assert_ne!(video.route.remote, slides.route.remote, "{name}");
        assert!(answer_as(&settings(), &corpus[name]).unwrap().1.slides.is_none(), "{name}");
    }
}

fn accept(body: &[u8]) -> Result<Streams, Refusal> {
    let mut origin = origin();
    let ours = negotiate::offer(&settings(), &ports(false), &mut origin);
    negotiate::accept(&ours, &negotiate::read(body)?, &settings(), &mut origin)
}

fn outcome(name: &str, body: &[u8]) -> String {
    let result = if name.starts_with("answer-") {
        accept(body).map(|streams| shown(&streams))
    } else {
        answer(body)
            .map(|(answer, streams)| format!("{}\n{}", without_secrets(&answer.to_string()), shown(&streams)))
    };
    result.unwrap_or_else(|refusal| format!("{} {refusal}\n", refusal.status()))
}

/// Keys are drawn by a generator that may change.
fn without_secrets(description: &str) -> String {
    let masked = |line: &str| {
        let secret =
            ["a=ice-ufrag:", "a=ice-pwd:", "a=tls-id:"].into_iter().find(|name| line.starts_with(name));
        let key = line.find(" inline:").filter(|_| line.starts_with("a=crypto:"));
        match (secret, key) {
            (Some(name), _) => format!("{name}…\n"),
            (None, Some(at)) => format!("{} inline:…\n", &line[..at]),
            (None, None) => format!("{line}\n"),
        }
    };
    description.lines().map(masked).collect()
}

fn shown(streams: &Streams) -> String {
    let mut text = String::new();
    if let Some(audio) = &streams.audio {
        writeln!(text, "audio {}", shown_route(&audio.route)).unwrap();
        let (codec, number) = (audio.codec.name(), audio.send_payload_type);
        writeln!(text, "  send {number} {codec} every {} ms", audio.ptime_ms).unwrap();
        let receive: Vec<_> =
            audio.receive.iter().map(|(number, codec)| format!("{number} {}", codec.name())).collect();
        let event = audio.telephone_events.first().map(|(number, _)| *number);
        writeln!(text, "  receive {}; event {:?}", receive.join(", "), event).unwrap();
    }
    for (name, video) in [("video", &streams.video), ("slides", &streams.slides)] {
        let Some(video) = video else { continue };
        writeln!(text, "{name} {}", shown_route(&video.route)).unwrap();
        let [a, b, c] = video.profile_level_id;
        let receive: Vec<u8> = video.receive.iter().map(|(number, _)| *number).collect();
        let (how, peer) = match (video.codec, video.send_mode) {
            (VideoCodec::H264, PacketizationMode::SingleNal) => ("mode 0", format!("{a:02x}{b:02x}{c:02x}")),
            (VideoCodec::H264, PacketizationMode::NonInterleaved) => {
                ("mode 1", format!("{a:02x}{b:02x}{c:02x}"))
            }
            (other, _) => (other.name(), "any level".to_owned()),
        };
        writeln!(text, "  send {} {how}; receive {receive:?}", video.send_payload_type).unwrap();
        let (size, rate) = (video.max_macroblocks, video.max_macroblocks_per_second);
        writeln!(text, "  peer {peer}, {size} macroblocks, {rate}/s, {:?} kbps", video.max_kbps).unwrap();
        let sets = &video.parameter_sets;
        writeln!(text, "  parameter sets {sets:02x?}; feedback {}", shown_feedback(video)).unwrap();
    }
    text
}

fn shown_feedback(video: &VideoStream) -> String {
    let feedback = video.feedback;
    let named = [
        (feedback.nack, "nack"),
        (feedback.pli, "nack pli"),
        (feedback.fir, "ccm fir"),
        (feedback.tmmbr, "ccm tmmbr"),
        (feedback.remb, "goog-remb"),
        (feedback.transport_cc.is_some(), "transport-cc"),
    ];
    let words: Vec<&str> = named.iter().filter(|(agreed, _)| *agreed).map(|(_, words)| *words).collect();
    let again = video.retransmission.send.map_or(String::new(), |number| format!("; again in {number}"));
    format!("[{}]{again}", words.join(", "))
}

fn shown_route(route: &Route) -> String {
    let address = |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |a| a.to_string());
    let mux = if route.rtcp_mux { " mux" } else { "" };
    let protection = match &route.protection {
        Protection::None => String::new(),
        Protection::Sdes(keys) => format!("; {}", keys.suite.name()),
        Protection::Dtls(peer) => {
            let role = if peer.client { "client" } else { "server" };
            format!("; DTLS {role} of {}", peer.fingerprint.0)
        }
    };
    let ice = if route.ice.is_some() { "; ICE-lite" } else { "" };
    let (remote, rtcp) = (address(route.remote), address(route.remote_rtcp));
    format!("{:?} {remote} rtcp {rtcp}{mux}{protection}{ice}", route.direction)
}

#[test]
fn every_endpoint_gets_the_answer_written_beside_it() {
    let bless = std::env::var_os("EYELINE_BLESS").is_some();
    let mut wrong = Vec::new();
    let corpus = corpus();
    assert!(corpus.len() >= 49, "the corpus is incomplete: {}", corpus.len());
    for (name, body) in corpus {
        let path = data().join(format!("{name}.answer"));
        let got = outcome(&name, &body);
        if bless {
            std::fs::write(&path, &got).unwrap();
        } else if std::fs::read_to_string(&path).unwrap_or_default() != got {
            wrong.push(format!("== {name}\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_we_write_is_small_and_reads_back_the_same() {
    for (name, body) in corpus() {
        let read = sdp::parse(&body).unwrap();
        let written = read.to_string();
        assert_eq!(sdp::parse(written.as_bytes()).unwrap().to_string(), written, "{name}");
        if let Ok((answer, _)) = answer(&body) {
            let text = answer.to_string();
            assert!(text.len() <= 1200, "{name}: {} bytes", text.len());
            assert_eq!(sdp::parse(text.as_bytes()).unwrap(), answer, "{name}");
        }
    }
}

/// xorshift64*: enough to shuffle bytes the same way on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d));
        ((wide * below as u128) >> 64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, donor: &[u8]) {
        const SPICE: [&[u8]; 12] = [
            b"99999999999999999999",
            b"-1",
            b"\r\nm=video 1 RTP/AVP 96\r\n",
            b"\0",
            b"\xff\xfe",
            b"=",
            b"*",
            b" ",
            b"4294967296",
            b"a=fmtp:96 profile-level-id=",
            b"65535",
            b"c=IN IP6 ::\r\n",
        ];
        for _ in 0..=self.roll(6) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(5) {
                0 if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => {
                    let end = (at + self.roll(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                3 => {
                    let from = self.roll(donor.len());
                    let piece = &donor[from..(from + self.roll(120)).min(donor.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
                _ => {
                    bytes.splice(at..at, SPICE[self.roll(SPICE.len())].iter().copied());
                }
            }
        }
    }
}

#[test]
fn mutated_descriptions_are_answered_by_the_rules_or_refused() {
    let corpus: Vec<Vec<u8>> = corpus().into_values().collect();
    let mut dice = Dice(0x5eed_0002);
    let mut answered = 0;
    for round in 0..20_000 {
        let mut body = corpus[round % corpus.len()].clone();
        let donor = &corpus[dice.roll(corpus.len())];
        dice.mutate(&mut body, donor);
        let _ = accept(&body);
        let Ok(offer) = negotiate::read(&body) else { continue };
        let written = offer.to_string();
        let again = sdp::parse(written.as_bytes()).map(|read| read.to_string());
        assert_eq!(again.as_deref(), Ok(written.as_str()), "{}", String::from_utf8_lossy(&body));
        let mut origin = origin();
        let settings = if round % 2 == 0 { settings() } else { wide() };
        let Ok((answer, streams)) = negotiate::answer(&offer, &settings, &ports(false), &mut origin) else {
            continue;
        };
        answered += 1;
        mirrors(&offer, &answer);
        assert!(streams.audio.is_some() || streams.video.is_some());
        let again = negotiate::answer(&offer, &settings, &ports(false), &mut origin);
        assert_eq!(again.as_ref().ok(), Some(&(answer.clone(), streams)), "the same offer, another answer");
        assert!(negotiate::offer(&settings, &ports(false), &mut origin).media.len() >= offer.media.len());
    }
    assert!(answered > 5_000, "only {answered} mutants were still answerable");
}

/// RFC 3264 §6: the same lines in the same order; what is answered was offered.
fn mirrors(offer: &SessionDescription, answer: &SessionDescription) {
    assert_eq!(offer.media.len(), answer.media.len());
    for (theirs, ours) in offer.media.iter().zip(&answer.media) {
        assert_eq!((&theirs.kind, &theirs.protocol), (&ours.kind, &ours.protocol));
        assert!(theirs.port != 0 || ours.port == 0, "a refused line came back to life");
        assert_eq!(ours.values("mid").next(), theirs.values("mid").next());
        if ours.port == 0 {
            assert!(!ours.has("crypto") && !ours.has("fingerprint"));
            continue;
        }
        assert!(ours.payload_types().iter().all(|n| theirs.payload_types().contains(n)));
        assert!(!ours.has("rtcp-mux") || theirs.has("rtcp-mux"));
        assert_eq!(ours.attributes.iter().filter(|a| is_direction(&a.name)).count(), 1);
        is_protected_as_offered(theirs, ours);
        for words in ours.values("rtcp-fb") {
            let (number, wanted) = words.split_once(' ').unwrap();
            let offered: Vec<_> =
                theirs.feedback(number.parse().unwrap()).map(|words| words.join(" ")).collect();
            let same = |offered: &String| offered.to_lowercase().starts_with(wanted);
            let listed = |offered: &String| {
                let last = wanted.rsplit(' ').next().unwrap();
                wanted.starts_with("ccm ") && offered.to_lowercase().contains(last)
            };
            assert!(offered.iter().any(|words| same(words) || listed(words)), "{words} in {offered:?}");
        }
    }
    assert!(answer.attributes.iter().all(|attribute| attribute.name == "ice-lite"));
}

fn is_direction(name: &str) -> bool {
    ["sendrecv", "sendonly", "recvonly", "inactive"].contains(&name)
}

/// One key of ours at most, for a tag and suite of theirs; never keys and a fingerprint; nothing plain where the profile
/// forbids it.
fn is_protected_as_offered(theirs: &sdp::Media, ours: &sdp::Media) {
    let stated: Vec<_> = ours.values("crypto").filter_map(sdp::Crypto::parse).collect();
    assert!(stated.len() <= 1 && (stated.is_empty() || !ours.has("fingerprint")));
    for key in &stated {
        let mut offered = theirs.values("crypto").filter_map(sdp::Crypto::parse);
        assert!(offered.any(|other| other.tag == key.tag && other.suite.eq_ignore_ascii_case(&key.suite)));
    }
    let secure = ours.protocol.to_uppercase().contains("SAVP");
    assert!(!secure || !stated.is_empty() || ours.has("fingerprint"), "{ours}");
    assert!(!ours.has("ice-ufrag") || ours.has("candidate"));
    assert_ne!(ours.values("setup").next(), Some("actpass"));
}

/// Bodies of real endpoints, with the answer each must get, when they lie beside the checkout.
#[test]
fn real_endpoints_are_answered_as_their_index_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/sdp");
    let Ok(index) = std::fs::read_to_string(folder.join("index.json")) else {
        eprintln!("no {}: the check against real bodies is left out", folder.display());
        return;
    };
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let mut checked = 0;
    for entry in index.as_array().unwrap() {
        let name = entry["name"].as_str().unwrap();
        let body = std::fs::read(folder.join(entry["file"].as_str().unwrap())).unwrap();
        let read = negotiate::read(&body).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        if entry["role"] == "offer" {
            check_expectation(name, &read, &body, &entry["expect"]);
        }
        checked += 1;
    }
    assert_eq!(checked, index.as_array().unwrap().len());
}

fn check_expectation(name: &str, offer: &SessionDescription, body: &[u8], expect: &serde_json::Value) {
    let lines = expect["m_lines"].as_array().unwrap();
    let must_take = |line: &serde_json::Value| line["accepted"] == true && within_reach(line);
    let (answer, _) = match answer_as(&wide(), body) {
        Ok(answered) => answered,
        Err(refusal) => {
            assert!(!lines.iter().any(must_take), "{name}: {refusal}");
            assert_eq!(refusal.status(), 488, "{name}");
            return;
        }
    };
    mirrors(offer, &answer);
    assert_eq!(answer.media.len(), lines.len(), "{name}");
    for pattern in strings(&expect["session_must_not_have"]) {
        assert!(!found(&answer.to_string(), pattern), "{name}: {pattern}");
    }
    for (media, line) in answer.media.iter().zip(lines) {
        if media.port == 0 {
            assert!(!must_take(line), "{name}: {} is refused", media.kind);
            continue;
        }
        assert!(line["accepted"] != false, "{name}: {} is taken", media.kind);
        check_line(name, media, line);
    }
}

fn check_line(name: &str, media: &sdp::Media, line: &serde_json::Value) {
    let text = media.to_string();
    let number = media.payload_types()[0];
    let codecs: Vec<_> = strings(&line["codec"]).map(|codec| codec.trim_end_matches("/1")).collect();
    let map = media.rtpmap(number).unwrap();
    let channels = if map.channels > 1 { format!("/{}", map.channels) } else { String::new() };
    let ours = format!("{number} {}/{}{channels}", map.encoding, map.clock_rate);
    assert!(codecs.contains(&ours.as_str()), "{name}: {ours} is not in {codecs:?}");
    let direction = media.direction().unwrap().name();
    assert!(strings(&line["direction_ok"]).any(|allowed| allowed == direction), "{name}: {direction}");
    if let Some(mode) = line["packetization_mode"][number.to_string()].as_u64() {
        let stated = media.fmtp(number).and_then(|fmtp| fmtp.number("packetization-mode")).unwrap_or(0);
        assert_eq!(u64::from(stated), mode, "{name}");
    }
    for pattern in strings(&line["must_not_have"]) {
        assert!(!found(&text, pattern), "{name}: {pattern} in\n{text}");
    }
    for pattern in strings(&line["must_have"]) {
        assert!(found(&text, pattern), "{name}: no {pattern} in\n{text}");
    }
}

/// Whether this build has what the line needs.
fn within_reach(line: &serde_json::Value) -> bool {
    let ours = ["opus", "G722", "PCMU", "PCMA", "H264", "VP8"];
    strings(&line["codec"]).any(|codec| ours.iter().any(|ours| codec.contains(ours)))
}

fn strings(list: &serde_json::Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str)
}

/// The shapes of pattern the index uses: line start with one choice in it, rtpmap of a codec in any case, anywhere.
fn found(text: &str, pattern: &str) -> bool {
    if let Some(codec) = pattern.strip_prefix(r"(?i)^a=rtpmap:\d+ ") {
        let wanted = format!(" {}", codec.to_lowercase());
        return text
            .lines()
            .any(|line| line.starts_with("a=rtpmap:") && line.to_lowercase().contains(&wanted));
    }
    let Some(start) = pattern.strip_prefix('^') else { return text.contains(pattern) };
    let begins = |start: &str| match start.strip_suffix('$') {
        Some(whole) => text.lines().any(|line| line == whole),
        None => text.lines().any(|line| line.starts_with(start)),
    };
    match start.split_once('(').and_then(|(before, rest)| Some((before, rest.split_once(')')?))) {
        Some((before, (choices, after))) => {
            choices.split('|').any(|choice| begins(&format!("{before}{choice}{after}")))
        }
        None => begins(start),
    }
}
