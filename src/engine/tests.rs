//! Engines driven by a scripted peer over loopback: streams that come, go, change, are held, and break.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;

use crate::base::queue::{Fifo, Receiver, Taken};
use crate::base::time::{Clock, Pts};
use crate::codec::g711::{self, Law};
use crate::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use crate::codec::opus::OpusDecoder;
use crate::codec::vp8::Vp8Encoder;
use crate::engine::plan::*;
use crate::engine::{Catalogue, Engines, Settings, runtime};
use crate::media::access_unit::AccessUnit;
use crate::media::codec::{AudioDecoder, DetectError, Detection, Detector, VideoEncoder};
use crate::media::frame::{Frame, Size};
use crate::media::nal;
use crate::media::pool::FramePool;
use crate::rtp::packet::{self, Header, Packet, Writer};
use crate::rtp::payload::h264::PacketizationMode as Mode;
use crate::rtp::payload::{Packetizer, SendFormat};
use crate::rtp::reach::Reach;
use crate::secure::dtls::{Association, Identity, Progress};
use crate::secure::srtp::{Incoming, Outgoing};
use crate::secure::{self, Kind, ice};
use crate::source::test_picture::TestCard;
use crate::source::tone;
use crate::vision::censor::CensorSettings;
use crate::vision::observer::ObserverSettings;
use crate::vision::overlay::OverlaySettings;
use crate::vision::schedule::Schedule;

const CALL: CallId = CallId(7);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SIZE: Size = Size::new(320, 180);
const BLOCK: Duration = Duration::from_millis(20);
const FRAME: Duration = Duration::from_millis(66);
const MS: fn(u64) -> Duration = Duration::from_millis;

/// A detector that breaks the thread it runs on.
struct Panics;

impl Detector for Panics {
    fn detect(&mut self, _picture: &Frame, _deadline: Instant) -> Result<Vec<Detection>, DetectError> {
        panic!("a broken model");
    }
}

struct Broken;

impl Catalogue for Broken {
    fn gate(&self, _name: &str) -> Result<(Box<dyn Detector>, Schedule), String> {
        Ok((Box::new(Panics), Schedule::default()))
    }

    fn observer(&self, name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String> {
        Err(format!("no {name}"))
    }
}

fn media() -> Handle {
    static MEDIA: OnceLock<Handle> = OnceLock::new();
    MEDIA.get_or_init(|| runtime::start(|| ()).expect("a media thread")).clone()
}

fn own_identity() -> Arc<Identity> {
    static IDENTITY: OnceLock<Arc<Identity>> = OnceLock::new();
    IDENTITY.get_or_init(|| Arc::new(Identity::generate().expect("a certificate"))).clone()
}

/// Two seconds of the test card, a key picture at the start.
fn clip() -> Vec<AccessUnit> {
    coded_by(open(EncoderKind::X264, &clip_settings()).expect("an encoder").as_mut())
}

fn clip_settings() -> EncoderSettings {
    EncoderSettings { key_interval_s: 60, ..EncoderSettings::new(SIZE, 15, 300) }
}

fn coded_by(encoder: &mut dyn VideoEncoder) -> Vec<AccessUnit> {
    let (pool, card) = (FramePool::new(2), TestCard::new(SIZE, 3));
    let picture = |n: u32| card.draw(n, Pts::from_millis(i64::from(n) * 66), &pool).expect("room");
    (0..30).filter_map(|n| encoder.encode(&picture(n), n == 0).expect("coded")).collect()
}

/// One packet the peer received.
struct Seen {
    at: Instant,
    payload_type: u8,
    timestamp: u32,
    payload: Vec<u8>,
}

impl Seen {
    fn is_key(&self) -> bool {
        let kind = self.payload[0] & 31;
        kind == 5 || (kind == 28 && self.payload[1] & 0x9f == 0x85)
    }

    fn is_slice(&self) -> bool {
        let kind = self.payload[0] & 31;
        self.is_key() || kind == 1 || kind == 28
    }
}

fn pictures(seen: &[Seen]) -> usize {
    let mut timestamps: Vec<u32> = seen.iter().map(|packet| packet.timestamp).collect();
    timestamps.dedup();
    timestamps.len()
}

/// One direction of a stream at the peer.
struct Line {
    socket: UdpSocket,
    to: Option<SocketAddr>,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    due: Instant,
    /// What was agreed on with the engine, and what came of it.
    protection: Protection,
    ice: Option<Ice>,
    address: Option<SocketAddr>,
    keys: Option<(Outgoing, Incoming)>,
    dtls: Option<Association>,
    /// Media that was not protected as agreed.
    clear: usize,
    answers: usize,
}

impl Line {
    fn new(payload_type: u8) -> Self {
        let socket = UdpSocket::bind((HOME, 0)).expect("a port");
        socket.set_nonblocking(true).expect("does not block");
        Line {
            socket,
            to: None,
            payload_type,
            sequence: 65_530,
            timestamp: 1,
            due: Instant::now(),
            protection: Protection::None,
            ice: None,
            address: None,
            keys: None,
            dtls: None,
            clear: 0,
            answers: 0,
        }
    }

    fn send(&mut self, marker: bool, parts: &[&[u8]]) {
        let header = Header {
            marker,
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 0x5eed + u32::from(self.payload_type >= 96),
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = Writer::new(2048).write(&header, parts).to_vec();
        if self.protection != Protection::None {
            let Some((out, _)) = &mut self.keys else { return };
            out.protect_rtp(&mut packet).expect("protected");
        }
        if let Some(to) = self.to {
            let _ = self.socket.send_to(&packet, to);
        }
    }

    /// Agrees on fresh keys.
    fn agree(&mut self, suite: SrtpSuite, local: u8, remote: u8) {
        let length = suite.lengths().0 + suite.lengths().1;
        let keys = SrtpKeys { suite, local: vec![local; length], remote: vec![remote; length] };
        let out = Outgoing::new(suite, &keys.remote).expect("a key");
        self.keys = Some((out, Incoming::new(suite, &keys.local).expect("a key")));
        self.protection = Protection::Sdes(Box::new(keys));
    }

    /// Agrees on a handshake; `client`: which the engine is.
    fn shake(&mut self, own: &Identity, engine: &Identity, client: bool) {
        let handshake = Association::new(Instant::now(), own, !client, engine.fingerprint());
        self.dtls = Some(handshake.expect("it begins"));
        self.keys = None;
        self.protection = Protection::Dtls(Box::new(DtlsPeer { client, fingerprint: own.fingerprint() }));
    }

    fn handshake(&mut self, datagram: Option<&[u8]>) {
        let (Some(handshake), Some(to)) = (&mut self.dtls, self.to) else { return };
        let now = Instant::now();
        if let Some(Progress::Keys(keys)) =
            datagram.and_then(|bytes| handshake.handle(now, bytes).expect("sound"))
        {
            let out = Outgoing::new(keys.suite, &keys.local).expect("a key");
            self.keys = Some((out, Incoming::new(keys.suite, &keys.remote).expect("a key")));
        }
        handshake.handle_time(now).expect("in time");
        while let Some(flight) = handshake.poll() {
            let _ = self.socket.send_to(&flight, to);
        }
    }

    /// One check as a full ICE agent sends it.
    fn check(&self, password: &str, extra: &[(u16, &[u8])]) {
        let bytes = ice::check(password, "ours:theirs", extra);
        self.socket.send_to(&bytes, self.to.expect("a port")).expect("sent");
    }

    fn receive(&mut self, into: &mut Vec<Seen>) {
        let mut buffer = [0; 4096];
        self.handshake(None);
        while let Ok((mut length, _)) = self.socket.recv_from(&mut buffer) {
            match secure::kind(&buffer[..length]) {
                Kind::Dtls => self.handshake(Some(&buffer[..length])),
                Kind::Stun => self.answers += 1,
                Kind::Media | Kind::Unknown => {}
            }
            if secure::kind(&buffer[..length]) != Kind::Media {
                continue;
            }
            if self.protection != Protection::None {
                let rtcp = packet::is_rtcp(&buffer[..length]);
                let opened = self.keys.as_mut().and_then(|(_, incoming)| {
                    let bytes = &mut buffer[..length];
                    if rtcp { incoming.unprotect_rtcp(bytes) } else { incoming.unprotect_rtp(bytes) }.ok()
                });
                let Some(plain) = opened else {
                    self.clear += 1;
                    continue;
                };
                length = plain;
            }
            if packet::is_rtcp(&buffer[..length]) {
                continue;
            }
            let Some(packet) = Packet::parse(&buffer[..length]) else { continue };
            into.push(Seen {
                at: Instant::now(),
                payload_type: packet.payload_type,
                timestamp: packet.timestamp,
                payload: packet.payload.to_vec(),
            });
        }
    }

    fn route(&self, direction: Direction) -> Route {
        let remote = self.address.or(self.socket.local_addr().ok());
        Route {
            remote,
            remote_rtcp: remote,
            rtcp_mux: true,
            direction,
            protection: self.protection.clone(),
            ice: self.ice.clone(),
        }
    }
}

/// One call of an engine and the peer on its other side.
struct World {
    engines: Engines,
    events: Receiver<Event, Fifo>,
    happened: Vec<Event>,
    ports: Option<BoundPorts>,
    audio: Line,
    video: Line,
    law: Law,
    voice: Vec<i16>,
    clip: Vec<AccessUnit>,
    blocks: usize,
    frames: usize,
    talks: bool,
    shows: bool,
    heard: Vec<Seen>,
    seen: Vec<Seen>,
    folder: tempfile::TempDir,
}

impl World {
    /// `port`: of this test alone, among those of this process.
    fn new(port: u16) -> World {
        World::with(port, |_, _| Ok(EncoderKind::X264))
    }

    fn with(port: u16, choose_encoder: fn(&str, bool) -> Result<EncoderKind, String>) -> World {
        // Below what the kernel hands out by itself.
        let first_port = 2_000 + (std::process::id() % 50) as u16 * 200 + port;
        let settings = Settings {
            rtp_ports: (first_port, first_port + 19),
            seed: [3; 32],
            clock: Clock::new(Instant::now(), SystemTime::now()),
            cname: "test".to_owned(),
            catalogue: Arc::new(Broken),
            dtls: Some(own_identity()),
            choose_encoder,
            studio: Default::default(),
        };
        let (engines, events) = Engines::new(settings, media(), media());
        World {
            engines,
            events,
            happened: Vec::new(),
            ports: None,
            audio: Line::new(0),
            video: Line::new(97),
            law: Law::Mu,
            voice: tone::sine(8000, 500.0, 1000, 0.4),
            clip: clip(),
            blocks: 0,
            frames: 0,
            talks: true,
            shows: true,
            heard: Vec::new(),
            seen: Vec::new(),
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    fn audio(&self, direction: Direction) -> AudioStream {
        AudioStream {
            route: self.audio.route(direction),
            codec: AudioCodec::Pcmu,
            send_payload_type: 0,
            receive: vec![(0, AudioCodec::Pcmu)],
            opus: Default::default(),
            telephone_events: Vec::new(),
            comfort_noises: Vec::new(),
            ptime_ms: 20,
            extended_reports: false,
        }
    }

    fn video(&self, direction: Direction) -> VideoStream {
        VideoStream {
            route: self.video.route(direction),
            codec: VideoCodec::H264,
            send_payload_type: 97,
            send_mode: PacketizationMode::NonInterleaved,
            receive: vec![(97, VideoCodec::H264)],
            profile_level_id: [0x42, 0xe0, 0x1f],
            parameter_sets: Vec::new(),
            feedback: Feedback { pli: true, ..Feedback::default() },
            retransmission: Retransmission::default(),
            max_kbps: None,
            max_macroblocks: 3600,
            max_macroblocks_per_second: 108_000,
        }
    }

    fn streams(&self, audio: bool, video: bool) -> Streams {
        Streams {
            audio: audio.then(|| self.audio(Direction::SendReceive)),
            video: video.then(|| self.video(Direction::SendReceive)),
            slides: None,
        }
    }

    fn plan(&self, streams: Streams) -> Plan {
        let look = Look {
            observers: Vec::new(),
            overlay: OverlaySettings::default(),
            transforms: Vec::new(),
            resize: None,
        };
        Plan {
            label: Label { name: "test".to_owned(), ..Label::default() },
            streams,
            reach: Reach { signalling: Some(HOME), ..Reach::default() },
            video_in: VideoIn::Open { record: OpenRecord::Reencode, look },
            video_out: VideoOut {
                picture: Picture::Mirror,
                max: Size::new(640, 360),
                fps: 15,
                kbps: 300,
                encoder: "auto".to_owned(),
                showing: Default::default(),
            },
            voice: Voice { greeting: None, then: Then::Echo },
            talk: None,
            watch: None,
            recording: Some(Recording {
                place: Place::Exact(self.folder.path().join("call.mp4")),
                audio: RecordAudio::Stereo,
                video: true,
                encoder: "auto".to_owned(),
                kbps: 300,
                min_free_bytes: 0,
            }),
            timeouts: Timeouts { start: MS(30_000), flow: MS(20_000), hold: MS(60_000) },
        }
    }

    fn tell(&mut self, command: Command) {
        self.engines.handle(Instant::now(), command);
        self.listen();
    }

    fn listen(&mut self) {
        while let Taken::Item(event) = self.events.try_take() {
            match event {
                Event::Prepared { ports, .. } => self.ports = Some(ports),
                other => self.happened.push(other),
            }
        }
    }

    /// Binds what the streams need and lets the peer know.
    fn prepare(&mut self, streams: &Streams) {
        let wanted = Wanted { audio: streams.audio.is_some(), video: streams.video.is_some(), slides: false };
        self.tell(Command::Prepare { call: CALL, wanted, address: HOME });
        let ports = self.ports.expect("ports are bound");
        self.audio.to = ports.audio.filter(|_| wanted.audio).map(|port| (HOME, port).into());
        self.video.to = ports.video.filter(|_| wanted.video).map(|port| (HOME, port).into());
    }

    fn start(&mut self, streams: Streams) {
        let plan = self.plan(streams);
        self.start_plan(plan);
    }

    fn start_plan(&mut self, plan: Plan) {
        self.prepare(&plan.streams);
        self.tell(Command::Start { call: CALL, plan: Box::new(plan) });
    }

    fn update(&mut self, streams: Streams) {
        self.prepare(&streams);
        self.tell(Command::Update { call: CALL, streams: Box::new(streams) });
    }

    fn send(&mut self) {
        let now = Instant::now();
        if self.talks && now >= self.audio.due {
            let from = self.blocks % 50 * 160;
            let mut coded = Vec::new();
            g711::encode(self.law, &self.voice[from..from + 160], &mut coded);
            self.audio.send(false, &[&coded]);
            self.audio.timestamp = self.audio.timestamp.wrapping_add(160);
            self.audio.due = (self.audio.due + BLOCK).max(now - BLOCK);
            self.blocks += 1;
        }
        if self.shows && now >= self.video.due {
            let unit = &self.clip[self.frames % self.clip.len()];
            let format = match unit.codec {
                VideoCodec::H264 => SendFormat::H264(Mode::NonInterleaved),
                VideoCodec::Vp8 => SendFormat::Vp8,
                codec @ (VideoCodec::Vp9 | VideoCodec::H265) => panic!("{codec:?} is not sent here"),
            };
            let mut packetizer = Packetizer::new(format, 1200, self.frames as u64);
            let line = &mut self.video;
            packetizer.packetize(&unit.data, |payload| line.send(payload.marker, &payload.parts()));
            line.timestamp = line.timestamp.wrapping_add(6000);
            line.due = (line.due + FRAME).max(now - FRAME);
            self.frames += 1;
        }
    }

    /// Lets time pass; what came before is forgotten.
    fn run(&mut self, time: Duration) {
        self.heard.clear();
        self.seen.clear();
        self.run_until(time, |_| false);
    }

    /// Lets time pass until something is so. How long it took; `None`: it never was.
    fn run_until(&mut self, time: Duration, is_so: impl Fn(&World) -> bool) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.send();
            self.audio.receive(&mut self.heard);
            self.video.receive(&mut self.seen);
            self.listen();
            if is_so(self) {
                return Some(start.elapsed());
            }
            std::thread::sleep(MS(3));
        }
        None
    }

    fn stop(mut self) -> (Report, tempfile::TempDir) {
        self.tell(Command::Stop { call: CALL });
        self.happened.retain(|event| !matches!(event, Event::WantsKey { .. }));
        assert!(
            self.happened.iter().all(|event| matches!(event, Event::Stopped { .. })),
            "{:?}",
            self.happened
        );
        let ended = |world: &World| matches!(world.happened.last(), Some(Event::Stopped { .. }));
        self.run_until(MS(8000), ended).expect("it stops");
        let Some(Event::Stopped { report, .. }) = self.happened.pop() else { panic!("no report") };
        (*report, self.folder)
    }

    fn gauges(&self) -> &crate::engine::report::Gauges {
        &self.engines.running(CALL).expect("it runs").gauges
    }

    /// Packets of sound in the last run, and whether they are evenly spread: no hole longer than 100 ms.
    fn assert_sound(&self, time: Duration) {
        let blocks = time.as_millis() as usize / 20;
        assert!(self.heard.len() + 8 > blocks, "{} of {blocks} packets of sound", self.heard.len());
        let hole = self.heard.windows(2).map(|pair| pair[1].at - pair[0].at).max();
        assert!(hole.is_some_and(|hole| hole < MS(100)), "{hole:?} without sound");
    }
}

#[test]
fn video_comes_goes_and_comes_back_while_the_sound_goes_on() {
    let mut world = World::new(0);
    world.start(world.streams(true, false));
    world.run(MS(1200));
    world.assert_sound(MS(1200));
    assert!(world.seen.is_empty());

    let mut ports = Vec::new();
    for _ in 0..2 {
        world.update(world.streams(true, true));
        ports.extend(world.ports.and_then(|ports| ports.video));
        (world.frames, world.seen) = (0, Vec::new());
        let shown = world.gauges().passed.value();
        let first = world.run_until(MS(1000), |world| world.seen.iter().any(Seen::is_slice));
        assert!(first.is_some_and(|first| first < MS(400)), "a picture after {first:?}");
        assert!(world.seen.iter().find(|packet| packet.is_slice()).is_some_and(Seen::is_key));
        world.run(MS(1500));
        world.assert_sound(MS(1500));
        assert!(pictures(&world.seen) > 15, "{} pictures come back", pictures(&world.seen));
        assert!(world.gauges().passed.value() > shown + 15, "they are the peer's own");

        world.update(world.streams(true, false));
        world.run(MS(150));
        world.run(MS(500));
        assert!(world.seen.is_empty(), "no video any more");
        world.assert_sound(MS(500));
        let port = *ports.last().expect("a port");
        assert!(UdpSocket::bind((HOME, port)).is_err(), "the port rests, and nobody else gets it meanwhile");
    }
    assert_ne!(ports[0], ports[1], "a port rests before it is used again");
    let (report, _folder) = world.stop();
    assert_eq!(report.faults, Vec::<String>::new());
    let video = report.video.expect("there was video");
    assert!(video.packets_received > 40 && video.packets_sent > 40, "both times count: {video:?}");
    let recording = report.recording.expect("recorded");
    let names: Vec<_> = recording.paths.iter().filter_map(|path| path.file_name()?.to_str()).collect();
    assert_eq!((names, recording.error), (vec!["call.mp4", "call-2.mp4"], None));
    assert!(recording.pictures > 30, "{} pictures recorded", recording.pictures);
}

#[test]
fn sound_joins_a_call_of_pictures_alone() {
    let mut world = World::new(20);
    world.start(world.streams(false, true));
    world.run(MS(600));
    assert!(pictures(&world.seen) > 4 && world.heard.is_empty());
    world.update(world.streams(true, true));
    world.run(MS(1000));
    world.assert_sound(MS(1000));
    assert!(pictures(&world.seen) > 10, "the pictures went on");
    world.update(world.streams(false, true));
    world.run(MS(100));
    world.run(MS(300));
    assert!(world.heard.is_empty() && pictures(&world.seen) > 2);
    let (report, _folder) = world.stop();
    assert_eq!(report.faults, Vec::<String>::new());
    assert!(report.audio.is_some_and(|audio| audio.packets_received > 40));
}

#[test]
fn another_sound_codec_is_spoken_and_understood_from_one_packet_to_the_next() {
    let mut world = World::new(40);
    world.start(world.streams(true, false));
    world.run(MS(800));
    let mut streams = world.streams(true, false);
    let audio = streams.audio.as_mut().expect("audio");
    (audio.codec, audio.send_payload_type) = (AudioCodec::Pcma, 8);
    audio.receive = vec![(8, AudioCodec::Pcma)];
    world.update(streams);
    // The peer's last packets of before are still on their way.
    world.run(MS(100));
    (world.law, world.audio.payload_type) = (Law::A, 8);
    world.run(MS(1200));
    world.assert_sound(MS(1200));
    assert!(world.heard.iter().all(|packet| packet.payload_type == 8));
    let mut echo = Vec::new();
    for packet in &world.heard[15..] {
        g711::decode(Law::A, &packet.payload, &mut echo);
    }
    let share = tone::share(&echo, 8000, 500.0);
    assert!(share > 0.9, "{share:.2} of the echo is the tone that was said");

    // One with another clock, that only we change to: the echo goes on at its rate.
    let mut streams = world.streams(true, false);
    let audio = streams.audio.as_mut().expect("audio");
    (audio.codec, audio.send_payload_type) = (AudioCodec::Opus, 96);
    audio.receive = vec![(96, AudioCodec::Opus), (8, AudioCodec::Pcma)];
    world.update(streams);
    world.run(MS(100));
    world.run(MS(1200));
    world.assert_sound(MS(1200));
    let (mut decoder, mut echo) = (OpusDecoder::new().expect("a decoder"), Vec::new());
    for packet in &world.heard {
        assert_eq!(packet.payload_type, 96);
        decoder.decode(&packet.payload, &mut echo).expect("Opus");
    }
    let steps = world.heard.windows(2).map(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp));
    assert!(steps.into_iter().all(|step| step == 960));
    let share = tone::share(&echo[15 * 960..], 48_000, 500.0);
    assert!(share > 0.9, "{share:.2} of the echo by Opus is the tone that was said");
    let (report, _folder) = world.stop();
    assert_eq!(report.audio.map(|audio| audio.packets_lost), Some(0));
}

#[test]
fn a_peer_that_falls_back_to_mode_0_gets_small_nal_units_from_a_key_picture_on() {
    let mut world = World::new(60);
    world.start(world.streams(true, true));
    world.run(MS(700));
    assert!(world.seen.iter().any(|packet| packet.payload[0] & 31 > 23), "mode 1 packs and fragments");
    let mut streams = world.streams(true, true);
    let video = streams.video.as_mut().expect("video");
    (video.send_mode, video.send_payload_type) = (PacketizationMode::SingleNal, 104);
    (video.receive, video.max_kbps) = (vec![(104, VideoCodec::H264)], Some(1));
    world.update(streams);
    world.video.payload_type = 104;
    world.run(MS(1200));
    let new: Vec<&Seen> = world.seen.iter().skip_while(|packet| packet.payload_type == 97).collect();
    assert!(new.iter().all(|packet| packet.payload_type == 104 && packet.payload[0] & 31 < 24));
    assert!(new.iter().all(|packet| packet.payload.len() <= 1200));
    assert!(new.iter().find(|packet| packet.is_slice()).is_some_and(|packet| packet.is_key()));
    assert!(world.run_until(MS(1000), |world| pictures(&world.seen) > 12).is_some());
    let (report, _folder) = world.stop();
    assert_eq!(report.faults, Vec::<String>::new());
}

#[test]
fn a_peer_may_change_its_codec_and_is_shown_and_recorded_on() {
    let mut world = World::new(300);
    let mut streams = world.streams(true, true);
    let both = vec![(97, VideoCodec::H264), (98, VideoCodec::Vp8)];
    streams.video.as_mut().expect("video").receive = both.clone();
    let mut plan = world.plan(streams.clone());
    let look = plan.video_in.look().clone();
    plan.video_in = VideoIn::Open { record: OpenRecord::CopyUnits, look };
    world.start_plan(plan);
    world.run(MS(1500));
    let vp8 = coded_by(&mut Vp8Encoder::open(&clip_settings()).expect("libvpx"));
    let h264 = std::mem::replace(&mut world.clip, vp8);
    (world.video.payload_type, world.frames) = (98, 0);
    world.run(MS(1500));
    assert!(world.seen.iter().all(|packet| packet.payload_type == 97), "what we send stays");
    assert!(pictures(&world.seen) > 15, "the peer goes on seeing itself");

    // A renewed offer: from now on we send VP8 too.
    let video = streams.video.as_mut().expect("video");
    (video.codec, video.send_payload_type) = (VideoCodec::Vp8, 98);
    world.update(streams);
    world.run(MS(1000));
    let new: Vec<&Seen> = world.seen.iter().skip_while(|packet| packet.payload_type == 97).collect();
    assert!(new.len() > 8 && new.iter().all(|packet| packet.payload_type == 98), "{}", new.len());
    let first = &new[0].payload;
    assert!(first[0] == 0x90 && first[4] & 1 == 0, "a key frame first: {:02x?}", &first[..5]);

    (world.clip, world.video.payload_type, world.frames) = (h264, 97, 0);
    world.run(MS(1000));
    let (report, _folder) = world.stop();
    assert_eq!(report.faults, Vec::<String>::new());
    let recording = report.recording.expect("a recording");
    let decoded = report.pictures.decoded;
    assert!(decoded > 60, "{decoded} pictures of 75");
    assert!(recording.pictures + 10 > decoded && recording.error.is_none(), "{decoded}: {recording:?}");
}

#[test]
fn a_hold_costs_nothing_and_a_resume_begins_with_a_key_picture() {
    let mut world = World::new(80);
    world.start(world.streams(true, true));
    world.run(MS(700));
    for direction in [Direction::Inactive, Direction::ReceiveOnly, Direction::Inactive] {
        let held = Streams {
            audio: Some(world.audio(direction)),
            video: Some(world.video(direction)),
            slides: None,
        };
        world.talks = direction.receives();
        world.shows = direction.receives();
        world.update(held);
        world.run(MS(100));
        let encoded = world.gauges().encoded.value();
        world.run(MS(500));
        assert!(world.heard.is_empty() && world.seen.is_empty(), "nothing is sent on hold");
        assert_eq!(world.gauges().encoded.value(), encoded, "nothing is encoded on hold");
        world.update(world.streams(true, true));
        (world.talks, world.shows) = (true, false);
        let first = world.run_until(MS(1000), |world| world.seen.iter().any(Seen::is_slice));
        assert!(first.is_some_and(|first| first < MS(200)), "a picture {first:?} after the resume");
        assert!(world.seen.iter().find(|packet| packet.is_slice()).is_some_and(Seen::is_key));
        (world.shows, world.frames) = (true, 0);
        world.run(MS(600));
        world.assert_sound(MS(600));
        assert!(pictures(&world.seen) > 5);
    }
    let (report, _folder) = world.stop();
    assert_eq!(report.faults, Vec::<String>::new());
}

#[test]
fn a_peer_that_shows_nothing_sees_a_slate_at_once() {
    let mut world = World::new(100);
    world.shows = false;
    world.start(world.streams(true, true));
    let first = world.run_until(MS(1000), |world| world.seen.iter().any(Seen::is_key));
    assert!(first.is_some_and(|first| first < MS(200)), "a slate after {first:?}");
    let (report, _folder) = world.stop();
    assert_eq!(report.pictures.decoded, 0);
}

#[test]
fn a_broken_picture_thread_costs_the_picture_only() {
    let mut world = World::new(120);
    let mut plan = world.plan(world.streams(true, true));
    plan.video_in = VideoIn::Gated {
        gate: Gating { censor: CensorSettings::default(), detectors: vec!["faces".to_owned()] },
        record: GatedRecord::Reencode,
        look: plan.video_in.look().clone(),
    };
    world.start_plan(plan);
    world.run(MS(800));
    world.run(MS(1500));
    world.assert_sound(MS(1500));
    assert!((1..=4).contains(&pictures(&world.seen)), "the slate, again and again");
    assert_eq!(world.gauges().passed.value(), 0);
    let told = |event: &Event| matches!(event, Event::PictureStalled { packets: true, .. });
    assert_eq!(world.happened.iter().filter(|event| told(event)).count(), 1, "the picture stands still");
    world.happened.retain(|event| !told(event));
    let (report, _folder) = world.stop();
    let faults = report.faults.join("; ");
    assert!(faults.contains("the peer sees the slate") && faults.contains("a broken model"), "{faults}");
    assert!(
        report.recording.is_some_and(|recording| recording.error.is_none() && recording.audio_blocks > 50)
    );
}

#[test]
fn a_call_without_an_encoder_is_still_heard() {
    let mut world = World::with(140, |_, _| Err("no encoder works".to_owned()));
    world.start(world.streams(true, true));
    world.run(MS(800));
    world.assert_sound(MS(800));
    assert!(world.seen.is_empty());
    let (report, _folder) = world.stop();
    assert!(report.pictures.decoded > 5, "the peer's picture is still looked at");
    assert!(report.faults.iter().any(|fault| fault.contains("no encoder works")), "{:?}", report.faults);
}

#[test]
fn without_feedback_a_key_picture_is_asked_for_by_signalling_and_given_by_it() {
    let mut world = World::new(160);
    let mut streams = world.streams(true, true);
    streams.video.as_mut().expect("video").feedback = Feedback::default();
    world.frames = 1;
    world.start(streams);
    let asked = |world: &World| world.happened.iter().any(|event| matches!(event, Event::WantsKey { .. }));
    assert!(world.run_until(MS(1000), asked).is_some(), "no key picture came, so one is asked for");
    world.frames = 0;
    world.run(MS(1300));
    world.run(MS(300));
    assert!(!world.seen.iter().any(Seen::is_key), "nobody asked for a key picture");
    for _ in 0..5 {
        world.tell(Command::SendKey { call: CALL });
    }
    world.run(MS(400));
    // A peer without feedback gets key pictures in many slices.
    let keys: BTreeSet<u32> =
        world.seen.iter().filter(|packet| packet.is_key()).map(|packet| packet.timestamp).collect();
    assert_eq!(keys.len(), 1, "one for all five");
    let (report, _folder) = world.stop();
    assert_eq!((report.pictures.key_requests_received, report.faults), (5, Vec::new()));
}

#[test]
fn the_clip_is_what_it_says() {
    let clip = clip();
    assert!(clip.len() == 30 && clip[0].key && !clip[1].key && nal::parameter_sets(&clip[0].data).is_some());
}

/// Packets nobody asked for, to the port `to`: plain, with a wrong key, and the peer's own again.
fn attack(to: SocketAddr, ssrc: u32) {
    let socket = UdpSocket::bind((HOME, 0)).expect("a port");
    let suite = SrtpSuite::AesCm128HmacSha1_80;
    let mut wrong = Outgoing::new(suite, &[99; 30]).expect("a key");
    for sequence in 0..100 {
        let header = Header { marker: false, payload_type: 0, sequence, timestamp: 9, ssrc };
        let mut packet = Writer::new(2048).write(&header, &[&[1; 160]]).to_vec();
        socket.send_to(&packet, to).expect("sent");
        wrong.protect_rtp(&mut packet).expect("protected");
        socket.send_to(&packet, to).expect("sent");
    }
}

#[test]
fn protected_sound_and_pictures_go_both_ways_and_nothing_else_gets_in() {
    let mut world = World::new(180);
    world.audio.agree(SrtpSuite::AesCm128HmacSha1_80, 1, 2);
    world.video.agree(SrtpSuite::AeadAes128Gcm, 3, 4);
    world.start(world.streams(true, true));
    world.run(MS(1000));
    world.assert_sound(MS(1000));
    assert!(pictures(&world.seen) > 8, "{} pictures", pictures(&world.seen));
    attack(world.audio.to.expect("a port"), 0x5eed);
    attack(world.video.to.expect("a port"), 0x77);
    world.run(MS(1000));
    world.assert_sound(MS(1000));
    assert!(pictures(&world.seen) > 8 && world.audio.clear + world.video.clear == 0);
    let (report, _folder) = world.stop();
    let (audio, video) = (report.audio.expect("audio"), report.video.expect("video"));
    let shielded = |suite| Some(Shielded { suite, via: "sdes" });
    assert_eq!(audio.shielded, shielded("AES_CM_128_HMAC_SHA1_80"));
    assert_eq!(video.shielded, shielded("AEAD_AES_128_GCM"));
    // Numbers that were heard before are told from forgeries without a look at the rest.
    let refused = |stream: &StreamReport| stream.srtp_auth_failures + stream.srtp_replayed;
    assert_eq!((refused(&audio), refused(&video)), (200, 200));
    assert!(audio.srtp_auth_failures > 50, "{audio:?}");
    assert_eq!((audio.packets_lost, audio.foreign_packets), (0, 0), "{audio:?}");
}

#[test]
fn keys_outlive_a_hold_and_new_keys_cost_no_sound() {
    let mut world = World::new(200);
    world.audio.agree(SrtpSuite::AesCm128HmacSha1_80, 1, 2);
    world.start(world.streams(true, false));
    world.run(MS(600));
    for _ in 0..3 {
        world.talks = false;
        let held = Streams { audio: Some(world.audio(Direction::Inactive)), ..Streams::default() };
        world.update(held);
        world.run(MS(200));
        world.talks = true;
        world.update(world.streams(true, false));
        world.run(MS(100));
        world.run(MS(400));
        world.assert_sound(MS(400));
    }
    assert_eq!(world.audio.clear, 0, "the same keys go on where they were");
    for round in 0..3 {
        world.audio.agree(SrtpSuite::AeadAes128Gcm, 10 + round, 20 + round);
        world.update(world.streams(true, false));
        world.run(MS(500));
        world.assert_sound(MS(500));
        assert!(world.audio.clear <= 1, "at most what was on its way");
        world.audio.clear = 0;
    }
    let (report, _folder) = world.stop();
    let audio = report.audio.expect("audio");
    assert_eq!((audio.packets_lost, audio.srtp_replayed), (0, 0), "{audio:?}");
}

#[test]
fn a_handshake_on_the_media_path_protects_in_either_role() {
    for (client, port) in [(false, 220), (true, 240)] {
        let mut world = World::new(port);
        let peer = Identity::generate().expect("a certificate");
        world.audio.shake(&peer, &own_identity(), client);
        world.video.shake(&peer, &own_identity(), client);
        world.start(world.streams(true, true));
        // A stranger on another host's port is not asked; one on a host that is named is not believed.
        let stranger = Identity::generate().expect("a certificate");
        let mut hello = Association::new(Instant::now(), &stranger, true, own_identity().fingerprint())
            .expect("it begins");
        let socket = UdpSocket::bind((HOME, 0)).expect("a port");
        let to = world.audio.to.expect("a port");
        socket.send_to(&hello.poll().expect("a first flight"), to).expect("sent");
        let keyed = |world: &World| world.audio.keys.is_some() && world.video.keys.is_some();
        let took = world.run_until(MS(3000), keyed).expect("keys");
        assert!(took < MS(1500), "keys after {took:?}");
        world.frames = 0;
        world.run(MS(200));
        world.run(MS(1000));
        world.assert_sound(MS(1000));
        assert!(pictures(&world.seen) > 8, "{} pictures", pictures(&world.seen));
        assert_eq!(world.audio.clear + world.video.clear, 0, "nothing goes in the clear, keys or not");
        // The same fingerprint again: the association stays.
        world.update(world.streams(true, true));
        world.run(MS(500));
        world.assert_sound(MS(500));
        // Another certificate: a new handshake, and sound from the old keys until it is over.
        let other = Identity::generate().expect("a certificate");
        let old = world.audio.keys.take();
        world.audio.shake(&other, &own_identity(), client);
        world.audio.keys = old;
        world.update(world.streams(true, true));
        world.run(MS(1500));
        assert!(world.audio.dtls.as_ref().is_some_and(Association::is_done));
        world.run(MS(600));
        world.assert_sound(MS(600));
        let (report, _folder) = world.stop();
        let audio = report.audio.expect("audio");
        let shielded = Some(Shielded { suite: "AEAD_AES_128_GCM", via: "dtls" });
        assert_eq!((audio.shielded, report.faults.len()), (shielded, 0));
    }
}

#[test]
fn a_peer_that_shakes_no_hands_is_told_of_and_gets_nothing() {
    let mut world = World::new(260);
    let peer = Identity::generate().expect("a certificate");
    world.audio.shake(&peer, &own_identity(), false);
    world.audio.dtls = None;
    world.start(world.streams(true, false));
    let told = |world: &World| world.happened.iter().any(|event| matches!(event, Event::Unprotected { .. }));
    let after = world.run_until(MS(6500), told).expect("told");
    assert!(after > MS(4800), "{after:?}");
    assert_eq!(world.audio.clear, 0);
    world.happened.clear();
    let (report, _folder) = world.stop();
    assert_eq!(report.audio.map(|audio| (audio.packets_sent, audio.shielded)), Some((0, None)));
}

#[test]
fn a_browser_checks_first_then_shakes_hands_and_may_move() {
    let mut world = World::new(280);
    let peer = Identity::generate().expect("a certificate");
    let password = "0123456789012345678901";
    world.audio.shake(&peer, &own_identity(), false);
    world.audio.address = Some("0.0.0.0:9".parse().expect("nobody"));
    world.audio.ice = Some(Ice {
        local_ufrag: "ours".to_owned(),
        local_password: password.to_owned(),
        remote_ufrag: "theirs".to_owned(),
        remote_password: "x".repeat(22),
    });
    world.start(world.streams(true, false));
    world.run(MS(300));
    assert!(world.audio.keys.is_none(), "no handshake with an address that was not checked");
    world.audio.check("guessed", &[ice::NOMINATING]);
    world.run(MS(300));
    assert!(world.audio.answers == 1 && world.audio.keys.is_none());
    world.audio.check(password, &[ice::NOMINATING]);
    world.run_until(MS(2000), |world| world.audio.keys.is_some()).expect("keys");
    world.run(MS(600));
    world.assert_sound(MS(600));
    // The peer's network changes: a check from the new address takes media with it.
    let moved = UdpSocket::bind((HOME, 0)).expect("a port");
    moved.set_nonblocking(true).expect("does not block");
    world.audio.socket = moved;
    world.audio.check(password, &[ice::NOMINATING]);
    world.run(MS(100));
    world.run(MS(600));
    world.assert_sound(MS(600));
    let (report, _folder) = world.stop();
    let audio = report.audio.expect("audio");
    assert_eq!((audio.ice_refused, audio.shielded.map(|shielded| shielded.via)), (1, Some("dtls")));
    assert!(audio.dtls_refused > 0);
}

#[path = "face/tests.rs"]
mod face;
