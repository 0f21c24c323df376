//! One offer or answer per kind of endpoint, with what must come of it beside it as text.
//!
//! `tests/data/sdp/NAME.sdp` is what the endpoint sends. `NAME.answer` holds our answer and the streams, or the
//! refusal; for `answer-*.sdp` it holds the streams after our standard offer. `EYELINE_BLESS=1` writes the
//! `.answer` files anew: read the difference before keeping it.

#![allow(clippy::unwrap_used, reason = "a failed expectation ends the test")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use eyeline::call::negotiate::{self, MediaSettings, Origin, Refusal, SrtpPolicy};
use eyeline::engine::plan::{AudioCodec, BoundPorts, Direction, PacketizationMode, Route, Streams};
use eyeline::media::frame::Size;
use eyeline::sdp::{self, SessionDescription};

fn settings() -> MediaSettings {
    MediaSettings {
        audio_codecs: vec![AudioCodec::Pcma, AudioCodec::Pcmu],
        audio_direction: Direction::SendReceive,
        video: true,
        video_direction: Direction::SendReceive,
        max_size: Size::new(1280, 720),
        fps: 15,
        max_kbps: 1000,
        slides: false,
        srtp: SrtpPolicy::Optional,
        dtls_fingerprint: Some(("sha-256".to_owned(), (0..32).collect())),
        ice: false,
        browser: false,
    }
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
    let offer = negotiate::read(body)?;
    let ip6 = offer.connection.as_ref().is_some_and(|connection| connection.ip6);
    negotiate::answer(&offer, &settings(), &ports(ip6), &mut origin())
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
        answer(body).map(|(answer, streams)| {
            format!("{}\n{}", answer.to_string().replace("\r\n", "\n"), shown(&streams))
        })
    };
    result.unwrap_or_else(|refusal| format!("{} {refusal}\n", refusal.status()))
}

fn shown(streams: &Streams) -> String {
    let mut text = String::new();
    if let Some(audio) = &streams.audio {
        writeln!(text, "audio {}", shown_route(&audio.route)).unwrap();
        let (codec, number) = (audio.codec.name(), audio.send_payload_type);
        writeln!(text, "  send {number} {codec} every {} ms", audio.ptime_ms).unwrap();
        let receive: Vec<_> =
            audio.receive.iter().map(|(number, codec)| format!("{number} {}", codec.name())).collect();
        writeln!(text, "  receive {}; event {:?}", receive.join(", "), audio.telephone_event).unwrap();
    }
    if let Some(video) = &streams.video {
        writeln!(text, "video {}", shown_route(&video.route)).unwrap();
        let [a, b, c] = video.profile_level_id;
        let mode = match video.send_mode {
            PacketizationMode::SingleNal => 0,
            PacketizationMode::NonInterleaved => 1,
        };
        writeln!(text, "  send {} mode {mode}; receive {:?}", video.send_payload_type, video.receive)
            .unwrap();
        let (size, rate) = (video.max_macroblocks, video.max_macroblocks_per_second);
        writeln!(
            text,
            "  peer {a:02x}{b:02x}{c:02x}, {size} macroblocks, {rate}/s, {:?} kbps",
            video.max_kbps
        )
        .unwrap();
        writeln!(text, "  parameter sets {:02x?}; {:?}", video.parameter_sets, video.feedback).unwrap();
    }
    text
}

fn shown_route(route: &Route) -> String {
    let address = |address: Option<std::net::SocketAddr>| address.map_or("-".to_owned(), |a| a.to_string());
    let mux = if route.rtcp_mux { " mux" } else { "" };
    format!("{:?} {} rtcp {}{mux}", route.direction, address(route.remote), address(route.remote_rtcp))
}

#[test]
fn every_endpoint_gets_the_answer_written_beside_it() {
    let bless = std::env::var_os("EYELINE_BLESS").is_some();
    let mut wrong = Vec::new();
    let corpus = corpus();
    assert!(corpus.len() >= 28, "the corpus is incomplete: {}", corpus.len());
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
        let Ok((answer, streams)) = negotiate::answer(&offer, &settings(), &ports(false), &mut origin) else {
            continue;
        };
        answered += 1;
        mirrors(&offer, &answer);
        assert!(streams.audio.is_some() || streams.video.is_some());
        assert!(negotiate::offer(&settings(), &ports(false), &mut origin).media.len() >= offer.media.len());
    }
    assert!(answered > 5_000, "only {answered} mutants were still answerable");
}

/// RFC 3264 §6: the same lines in the same order; what is answered was offered.
fn mirrors(offer: &SessionDescription, answer: &SessionDescription) {
    assert_eq!(offer.media.len(), answer.media.len());
    for (theirs, ours) in offer.media.iter().zip(&answer.media) {
        assert_eq!((&theirs.kind, &theirs.protocol), (&ours.kind, &ours.protocol));
        assert!(theirs.port != 0 || ours.port == 0, "a refused line came back to life");
        assert!(ours.port == 0 || ours.payload_types().iter().all(|n| theirs.payload_types().contains(n)));
        assert!(ours.port == 0 || !ours.has("rtcp-mux") || theirs.has("rtcp-mux"));
    }
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
    let takes = |line: &serde_json::Value| line["accepted"] == true && within_reach(line);
    let result = answer(body);
    if !lines.iter().any(takes) {
        assert_eq!(result.map(|_| ()).map_err(|refusal| refusal.status()), Err(488), "{name}");
        return;
    }
    let (answer, _) = result.unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
    mirrors(offer, &answer);
    assert_eq!(answer.media.len(), lines.len(), "{name}");
    for pattern in strings(&expect["session_must_not_have"]) {
        assert!(!found(&answer.to_string(), pattern), "{name}: {pattern}");
    }
    for (media, line) in answer.media.iter().zip(lines) {
        assert_eq!(media.port != 0, takes(line), "{name} {}", media.kind);
        if media.port == 0 {
            continue;
        }
        let text = media.to_string();
        let number = media.payload_types()[0];
        let codecs: Vec<_> = strings(&line["codec"]).map(|codec| codec.trim_end_matches("/1")).collect();
        let map = media.rtpmap(number).unwrap();
        let ours = format!("{number} {}/{}", map.encoding, map.clock_rate);
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
    }
}

/// Whether this build has what the line needs: no SRTP, G.711 and H.264 only.
fn within_reach(line: &serde_json::Value) -> bool {
    let plain = matches!(line["proto"].as_str(), Some("RTP/AVP" | "RTP/AVPF"));
    plain
        && strings(&line["codec"])
            .any(|codec| ["PCMU", "PCMA", "H264"].iter().any(|ours| codec.contains(ours)))
}

fn strings(list: &serde_json::Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str)
}

/// The three shapes of pattern the index uses: line start, rtpmap of a codec in any case, anywhere.
fn found(text: &str, pattern: &str) -> bool {
    if let Some(codec) = pattern.strip_prefix(r"(?i)^a=rtpmap:\d+ ") {
        let wanted = format!(" {}", codec.to_lowercase());
        text.lines().any(|line| line.starts_with("a=rtpmap:") && line.to_lowercase().contains(&wanted))
    } else if let Some(start) = pattern.strip_prefix('^') {
        text.lines().any(|line| line.starts_with(start))
    } else {
        text.contains(pattern)
    }
}
