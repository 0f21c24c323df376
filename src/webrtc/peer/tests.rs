//! Two peers against each other in virtual time: with loss, cuts, new media, and nonsense.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::webrtc::settings::VideoWish;

const MS: Duration = Duration::from_millis(1);

fn settings(sound: Way, video: Way, codecs: &[VideoCodec]) -> PeerSettings {
    let video = VideoWish { way: video, codecs: codecs.to_vec() };
    PeerSettings { sound, video, ..PeerSettings::default() }
}

/// One end, and what it told.
struct End {
    peer: Peer,
    address: SocketAddr,
    told: Vec<(Duration, PeerEvent)>,
    wake: Instant,
}

impl End {
    fn count(&self, is: impl Fn(&PeerEvent) -> bool) -> usize {
        self.told.iter().filter(|(_, event)| is(event)).count()
    }

    fn units(&self) -> impl Iterator<Item = &UnitPacket> {
        self.told.iter().filter_map(|(_, event)| match event {
            PeerEvent::Unit(unit) => Some(unit),
            _ => None,
        })
    }

    fn when(&self, is: impl Fn(&PeerEvent) -> bool) -> Option<Duration> {
        self.told.iter().find(|(_, event)| is(event)).map(|(at, _)| *at)
    }
}

/// Two ends and the way between them.
struct Pair {
    start: Instant,
    now: Instant,
    ends: [End; 2],
    flying: Vec<(Instant, usize, SocketAddr, SocketAddr, Vec<u8>)>,
    loss: f64,
    /// Some overtake others.
    uneven: bool,
    cut: bool,
    random: StdRng,
}

impl Pair {
    fn new(client: PeerSettings, server: PeerSettings) -> Self {
        let start = Instant::now();
        let end = |settings: &PeerSettings, address: &str| {
            let address: SocketAddr = address.parse().expect("an address");
            let mut peer = Peer::new(start, settings);
            let host = Candidate::host(address, "udp").expect("a candidate");
            peer.add_local_candidate(start, host);
            End { peer, address, told: Vec::new(), wake: start }
        };
        let ends = [end(&client, "10.0.0.1:5000"), end(&server, "10.0.0.2:6000")];
        let random = StdRng::seed_from_u64(7);
        Pair { start, now: start, ends, flying: Vec::new(), loss: 0.0, uneven: false, cut: false, random }
    }

    /// The first end offers, the second answers.
    fn agree(&mut self, offerer: usize) -> (String, String) {
        let offer = self.ends[offerer].peer.create_offer().expect("something to agree on");
        let now = self.now;
        let answer = self.ends[1 - offerer].peer.take_offer(now, &offer).expect("an answer");
        self.ends[offerer].peer.take_answer(now, &answer).expect("agreed");
        (offer, answer)
    }

    fn drain(&mut self, at: usize) {
        loop {
            match self.ends[at].peer.poll() {
                Step::Send(transmit) => {
                    let lost = self.cut || self.random.random_bool(self.loss);
                    let uneven = if self.uneven { self.random.random_range(0..5) } else { 0 };
                    let delay = 15 * MS + MS * uneven;
                    let to = self.ends.iter().position(|end| end.address == transmit.destination);
                    if let Some(to) = to.filter(|_| !lost) {
                        let bytes = transmit.contents.to_vec();
                        self.flying.push((
                            self.now + delay,
                            to,
                            transmit.source,
                            transmit.destination,
                            bytes,
                        ));
                    }
                }
                Step::Event(PeerEvent::Candidate(candidate)) => {
                    let now = self.now;
                    self.ends[1 - at].peer.add_remote_candidate(now, &candidate.candidate);
                }
                Step::Event(event) => {
                    let since = self.now - self.start;
                    self.ends[at].told.push((since, event));
                }
                Step::Wait(until) => {
                    self.ends[at].wake = until;
                    return;
                }
            }
        }
    }

    fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            for at in 0..2 {
                self.drain(at);
            }
            let next = self.flying.iter().map(|flying| flying.0);
            let next = next.chain(self.ends.iter().map(|end| end.wake)).min().expect("two ends");
            if next > end {
                self.now = end;
                return;
            }
            // Time never stands still, else a peer that is due at once would be asked for ever.
            self.now = next.max(self.now + MS / 10);
            let now = self.now;
            let (due, later) =
                std::mem::take(&mut self.flying).into_iter().partition(|flying| flying.0 <= now);
            self.flying = later;
            for (_, to, source, destination, bytes) in due {
                self.ends[to].peer.receive(now, source, destination, &bytes);
                self.drain(to);
            }
            for end in &mut self.ends {
                if end.wake <= now {
                    end.peer.handle_time(now);
                }
            }
        }
    }

    /// The second end sends so many pictures and twice as many packets of sound, 25 pictures a second.
    fn play(&mut self, codec: VideoCodec, pictures: u64) {
        for n in 0..pictures {
            let now = self.now;
            let server = &mut self.ends[1].peer;
            server.send_unit(now, now, 90_000 + n * 3_600, &picture(codec, n));
            for half in 0..2 {
                self.ends[1].peer.send_sound(
                    self.now,
                    self.now,
                    48_000 + (2 * n + half) * 960,
                    &[0x78, 1, 2],
                );
                self.run(20 * MS);
            }
        }
    }
}

/// A picture that takes several packets; every 25th is a key picture.
fn picture(codec: VideoCodec, n: u64) -> AccessUnit {
    let key = n.is_multiple_of(25);
    let body: Vec<u8> = (0..if key { 9_000 } else { 2_500 }).map(|at| (at % 251 + 1) as u8).collect();
    let mut data = Vec::new();
    match codec {
        VideoCodec::H264 => {
            if key {
                nal::push(&mut data, &[0x67, 0x42, 0xe0, 0x1f, 0x95, 0xa0, 0x28]);
                nal::push(&mut data, &[0x68, 0xce, 0x3c, 0x80]);
            }
            nal::push(&mut data, &[&[if key { 0x65 } else { 0x41 }], body.as_slice()].concat());
        }
        _ => {
            let first = if key { 0x10 } else { 0x11 };
            data = [&[first, 2, 0, 0x9d, 1, 0x2a, 0x80, 2, 0x68, 1], body.as_slice()].concat();
        }
    }
    AccessUnit { codec, data: Bytes::from(data), pts: Pts::ZERO, key, damaged: false }
}

fn is_connected(event: &PeerEvent) -> bool {
    matches!(event, PeerEvent::Connected)
}

#[test]
fn sound_and_pictures_of_either_codec_come_down_and_data_goes_both_ways() {
    for codec in [VideoCodec::H264, VideoCodec::Vp8] {
        let mut pair = Pair::new(
            settings(Way::Receive, Way::Receive, &[codec]),
            settings(Way::Send, Way::Send, &[VideoCodec::H264, VideoCodec::Vp8]),
        );
        let now = pair.now;
        let session = pair.ends[0].peer.open_channel(now, "session", true, None).expect("a channel");
        pair.agree(0);
        pair.run(Duration::from_secs(2));
        for end in &pair.ends {
            let at = end.when(is_connected).expect("connected");
            assert!(at < Duration::from_millis(900), "{at:?}");
            assert_eq!(
                end.count(
                    |event| matches!(event, PeerEvent::ChannelOpen { label, .. } if label == "session")
                ),
                1
            );
        }
        pair.play(codec, 50);
        pair.run(200 * MS);
        let client = &pair.ends[0];
        let came: Vec<&UnitPacket> = client.units().collect();
        assert_eq!(came.len(), 50, "{codec:?}");
        for (n, unit) in came.iter().enumerate() {
            let sent = picture(codec, n as u64);
            assert_eq!((unit.unit.key, unit.unit.damaged), (sent.key, false), "{codec:?} {n}");
            assert_eq!(unit.time - came[0].time, n as u64 * 3_600);
            let bytes = |unit: &AccessUnit| nal::units(&unit.data).map(<[u8]>::to_vec).collect::<Vec<_>>();
            match codec {
                VideoCodec::H264 => assert_eq!(bytes(&unit.unit), bytes(&sent)),
                _ => assert_eq!(unit.unit.data, sent.data),
            }
        }
        assert_eq!(client.count(|event| matches!(event, PeerEvent::Sound(_))), 100);
        assert!(came.last().is_some_and(|unit| unit.report.is_some()), "sender reports come");

        // Wishes and messages.
        let (now, mid) = (pair.now, came[0].mid);
        pair.ends[0].peer.want_key_picture(now, mid);
        assert!(pair.ends[0].peer.send(now, session, b"{\"message_type\":\"interrupt\"}", true));
        pair.run(100 * MS);
        let server = &mut pair.ends[1];
        assert_eq!(server.count(|event| matches!(event, PeerEvent::KeyWanted { .. })), 1);
        let came = server.told.iter().find_map(|(_, event)| match event {
            PeerEvent::Data { id, data, text: true } => Some((*id, data.clone())),
            _ => None,
        });
        let (id, data) = came.expect("a message");
        assert_eq!(&data[..], b"{\"message_type\":\"interrupt\"}");
        assert!(server.peer.send(now, id, &[7; 20_000], false));
        pair.run(300 * MS);
        let back = |event: &PeerEvent| matches!(event, PeerEvent::Data { data, text: false, .. } if data.len() == 20_000);
        assert_eq!(pair.ends[0].count(back), 1);

        // Farewell.
        let now = pair.now;
        pair.ends[0].peer.close(now);
        pair.run(Duration::from_secs(2));
        for end in &pair.ends {
            assert_eq!(end.count(|event| matches!(event, PeerEvent::Closed)), 1);
            assert!(end.peer.is_over());
        }
    }
}

#[test]
fn the_offer_is_what_browsers_write() {
    let mut peer =
        Peer::new(Instant::now(), &settings(Way::Both, Way::Receive, &[VideoCodec::H264, VideoCodec::Vp8]));
    peer.open_channel(Instant::now(), "session", true, None);
    let offer = peer.create_offer().expect("an offer");
    let kinds: Vec<&str> =
        offer.lines().filter_map(|line| line.strip_prefix("m=")).map(|line| &line[..5]).collect();
    assert_eq!(kinds, ["video", "audio", "appli"], "{offer}");
    let video = offer.split("m=").nth(1).expect("video");
    assert!(video.contains("a=recvonly") && video.contains("a=rtcp-fb:102 nack pli"), "{video}");
    assert!(video.starts_with("video 9 UDP/TLS/RTP/SAVPF 102 103 104"), "H.264 first: {video}");
    for profile in ["42e01f", "42001f", "4d001f", "64001f"] {
        assert!(video.contains(&format!("profile-level-id={profile}")), "{profile}: {video}");
    }
    assert!(video.contains("packetization-mode=1") && !video.contains("packetization-mode=0"), "{video}");
    let audio = offer.split("m=").nth(2).expect("audio");
    assert!(audio.contains("a=sendrecv") && audio.contains("opus/48000/2"), "{audio}");
    assert!(offer.contains("a=group:BUNDLE ") && offer.contains("a=setup:actpass"), "{offer}");
    assert!(
        offer.contains("UDP/DTLS/SCTP webrtc-datachannel") && offer.contains("a=sctp-port:5000"),
        "{offer}"
    );
    assert!(offer.contains("a=fingerprint:sha-256 ") && offer.contains("a=ice-ufrag:"), "{offer}");
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    let mut pair = Pair::new(
        settings(Way::Receive, Way::Receive, &[VideoCodec::H264]),
        settings(Way::Send, Way::Send, &[VideoCodec::H264]),
    );
    (pair.loss, pair.uneven) = (0.05, true);
    pair.agree(0);
    pair.run(Duration::from_secs(3));
    pair.play(VideoCodec::H264, 250);
    pair.run(Duration::from_secs(1));
    let whole = pair.ends[0].units().filter(|unit| !unit.unit.damaged).count();
    let sound = pair.ends[0].count(|event| matches!(event, PeerEvent::Sound(_)));
    assert!(whole >= 240, "{whole} of 250 pictures");
    assert!((450..=500).contains(&sound), "{sound} of 500 packets of sound, which nobody repeats");
}

#[test]
fn a_cut_is_told_and_a_restart_mends_it() {
    let mut pair = Pair::new(
        settings(Way::Receive, Way::Receive, &[VideoCodec::Vp8]),
        settings(Way::Send, Way::Send, &[VideoCodec::Vp8]),
    );
    pair.agree(0);
    pair.run(Duration::from_secs(2));
    pair.cut = true;
    let cut = pair.now - pair.start;
    pair.run(Duration::from_secs(6));
    let told = pair.ends[0].when(|event| matches!(event, PeerEvent::Disconnected)).expect("told");
    assert!((2..5).contains(&(told - cut).as_secs()), "{:?}", told - cut);
    pair.cut = false;
    pair.ends[0].peer.restart_ice();
    let (offer, answer) = pair.agree(0);
    assert!(offer.contains("a=candidate:") && answer.contains("a=candidate:"), "all is told again");
    pair.run(Duration::from_secs(2));
    for end in &pair.ends {
        assert_eq!(end.count(is_connected), 2);
    }
    pair.play(VideoCodec::Vp8, 10);
    pair.run(200 * MS);
    assert!(pair.ends[0].units().count() >= 10);
}

#[test]
fn a_restart_without_a_cut_interrupts_nothing() {
    let mut pair = Pair::new(
        settings(Way::Receive, Way::Receive, &[VideoCodec::Vp8]),
        settings(Way::Send, Way::Send, &[VideoCodec::Vp8]),
    );
    pair.agree(0);
    pair.run(Duration::from_secs(2));
    pair.ends[0].peer.restart_ice();
    pair.agree(0);
    pair.run(Duration::from_secs(2));
    pair.play(VideoCodec::Vp8, 25);
    pair.run(200 * MS);
    assert_eq!(pair.ends[0].units().count(), 25);
    assert!(pair.ends[0].peer.is_connected());
}

#[test]
fn media_are_added_later_by_whoever_offers() {
    // As in a room: the server offers data alone, then a voice, then a picture.
    let mut pair = Pair::new(
        settings(Way::None, Way::None, &[VideoCodec::H264]),
        settings(Way::None, Way::None, &[VideoCodec::H264]),
    );
    let now = pair.now;
    pair.ends[1].peer.open_channel(now, "_reliable", true, None).expect("a channel");
    pair.agree(1);
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.ends[0].count(is_connected), 1);
    pair.ends[1].peer.want_sound(Way::Send);
    let (offer, _) = pair.agree(1);
    pair.run(100 * MS);
    let track = pair.ends[0].told.iter().find_map(|(_, event)| match event {
        PeerEvent::Track(track) => Some(track.clone()),
        _ => None,
    });
    let track = track.expect("a track");
    assert_eq!(track.kind, Kind::Sound);
    assert!(!track.stream.is_empty() && offer.contains(&format!("a=msid:{} {}", track.stream, track.track)));
    pair.play(VideoCodec::H264, 5);
    pair.run(100 * MS);
    assert_eq!(pair.ends[0].count(|event| matches!(event, PeerEvent::Sound(_))), 10);
    // Another track in its place: told, with its name.
    pair.ends[1].peer.want_video(Way::Send);
    let offer = pair.ends[1].peer.create_offer().expect("something to agree on");
    let offer = offer.replace(&format!("a=msid:{} {}", track.stream, track.track), "a=msid:PA_2|TR_9 TR_9");
    let now = pair.now;
    let answer = pair.ends[0].peer.take_offer(now, &offer).expect("an answer");
    pair.ends[1].peer.take_answer(now, &answer).expect("agreed");
    pair.run(100 * MS);
    let told: Vec<String> = pair.ends[0].told.iter().map(|(_, event)| format!("{event:?}")).collect();
    let gone = told.iter().position(|told| told.starts_with("TrackGone")).expect("the old one is gone");
    assert!(told[gone + 1].starts_with("Track(") && told[gone + 1].contains("PA_2|TR_9"), "{told:?}");
    assert_eq!(told.iter().filter(|told| told.starts_with("TrackGone")).count(), 1, "{told:?}");
    // Another channel needs no offer.
    let now = pair.now;
    let lossy = pair.ends[0].peer.open_channel(now, "_lossy", false, Some(0)).expect("a channel");
    pair.run(300 * MS);
    assert!(pair.ends[0].peer.send(pair.now, lossy, b"x", false));
    let opened =
        |event: &PeerEvent| matches!(event, PeerEvent::ChannelOpen { label, .. } if label == "_lossy");
    assert_eq!(pair.ends[1].count(opened), 1);
    assert!(pair.ends[0].peer.create_offer().is_none(), "nothing to agree on");
}

#[test]
fn nobody_there_is_a_failure_in_time_and_messages_to_nowhere_are_counted() {
    let mut pair = Pair::new(settings(Way::Receive, Way::None, &[]), settings(Way::Send, Way::None, &[]));
    pair.cut = true;
    pair.agree(0);
    pair.run(Duration::from_secs(20));
    let failed = pair.ends[0].when(|event| matches!(event, PeerEvent::Failed(_))).expect("told");
    assert!((14..17).contains(&failed.as_secs()), "{failed:?}");
    assert!(pair.ends[0].peer.is_over());
    let now = pair.now;
    let id = pair.ends[1].peer.open_channel(now, "session", true, None).expect("an id");
    assert!(!pair.ends[1].peer.send(now, id, b"lost", true));
    assert_eq!(pair.ends[1].peer.counters().unsent, 1);
    assert!(!pair.ends[1].peer.send_sound(now, now, 0, &[1, 2, 3]), "not connected");
}

#[test]
fn nonsense_is_refused_and_counted() {
    let now = Instant::now();
    let wishes = settings(Way::Both, Way::Receive, &[VideoCodec::H264]);
    let mut offerer = Peer::new(now, &wishes);
    assert_eq!(offerer.take_answer(now, "v=0\r\n"), Err(PeerError::Unasked));
    let offer = offerer.create_offer().expect("an offer");
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..300 {
        let mut bytes = offer.clone().into_bytes();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..bytes.len());
            match round % 3 {
                0 => bytes[at] = random.random_range(32..127),
                1 => drop(bytes.drain(at..(at + random.random_range(0..40)).min(bytes.len()))),
                _ => bytes.truncate(at.max(1)),
            }
        }
        // Whatever it says, there is an answer or an error.
        let _ = Peer::new(now, &wishes).take_offer(now, &String::from_utf8_lossy(&bytes));
    }
    let mut peer = Peer::new(now, &wishes);
    assert!(matches!(peer.take_offer(now, ""), Err(PeerError::Sdp(_))));
    assert!(matches!(peer.take_offer(now, &"a".repeat(SDP_MAX + 1)), Err(PeerError::Sdp(_))));
    for candidate in ["candidate:nonsense", "candidate:1 1 tcp 1 10.0.0.1 9 typ host tcptype active", "x"] {
        peer.add_remote_candidate(now, candidate);
    }
    assert_eq!(peer.counters().candidates_refused, 3);
    let (from, to) = ("10.0.0.9:1".parse().expect("a"), "10.0.0.1:5000".parse().expect("a"));
    for bytes in [&[][..], &[9; 30], &[0, 1, 2], &[200; 40], &[22; 60], &[128; 50]] {
        peer.receive(now, from, to, bytes);
    }
    assert!(peer.counters().refused >= 3, "{:?}", peer.counters());
}
