//! Avatars over WebSockets, without a call: what is spoken comes back at its rate with lips that fit, an interruption is
//! silent, what breaks is told. The peers are `examples/avatar_server.py` and emulators on loopback.

use std::future::poll_fn;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eyeline::avatar::liveavatar::{LiveAvatar, LiveAvatarSettings};
use eyeline::avatar::livekit::token::{Grant, access_token};
use eyeline::avatar::websocket::{Protocol, WebSocketAvatar, WebSocketSettings};
use eyeline::avatar::{AvatarEvent, Cause, Farewell, Lost, Picture, Provider as _, Session, Terms, Turn};
use eyeline::codec::decoder::Decoder;
use eyeline::media::access_unit::VideoCodec;
use eyeline::media::codec::VideoDecoder as _;
use eyeline::media::filter::Gate;
use eyeline::media::frame::{Plane, RawFrame, Size};
use eyeline::media::pool::FramePool;
use eyeline::remote::http::Http;

use crate::harness::emulators::liveavatar::{Cast, KEY, LiveAvatarService};
use crate::harness::emulators::livekit::{self, LiveKit};
use crate::harness::emulators::raw_avatar::RawAvatar;
use crate::harness::emulators::server::Fault;
use crate::harness::emulators::socket::{Asked, Core, Out, SocketServer};

const RATE: u32 = 16_000;
const PATIENCE: Duration = Duration::from_secs(15);

fn settings(protocol: Protocol, url: String) -> WebSocketSettings {
    WebSocketSettings { protocol, url, rate: RATE, ..WebSocketSettings::default() }
}

fn terms(codecs: &[VideoCodec]) -> Terms {
    Terms {
        call: "call-1".to_owned(),
        codecs: codecs.to_vec(),
        most: Size::new(640, 480),
        language: "en".to_owned(),
        again: false,
    }
}

/// 440 Hz.
fn tone(millis: u32) -> Vec<i16> {
    let step = std::f64::consts::TAU * 440.0 / f64::from(RATE);
    (0..RATE / 1_000 * millis).map(|n| (8_000.0 * (f64::from(n) * step).sin()) as i16).collect()
}

fn silence(millis: u32) -> Vec<i16> {
    vec![0; (RATE / 1_000 * millis) as usize]
}

/// A session, and what came of it.
struct Talk {
    session: Box<dyn Session>,
    rate: u32,
    /// When it was told, of what comes beside sound and pictures.
    told: Vec<(Instant, String)>,
    lost: Option<Lost>,
    /// Sound by its own time in microseconds, when it came, and its samples.
    sound: Vec<(i64, Instant, Vec<i16>)>,
    /// How bright the mouth is, by the picture's own time.
    mouths: Vec<(i64, u8)>,
    keys: usize,
    coded: usize,
    decoder: Decoder,
    gate: Gate,
    pool: FramePool,
}

impl Talk {
    fn open(settings: WebSocketSettings, terms: Terms) -> Talk {
        let avatar = WebSocketAvatar::new(settings, &Http::new()).unwrap();
        Talk::of(avatar.open(terms))
    }

    fn of(session: Box<dyn Session>) -> Talk {
        Talk {
            rate: session.limits().rate,
            session,
            told: vec![],
            lost: None,
            sound: vec![],
            mouths: vec![],
            keys: 0,
            coded: 0,
            decoder: Decoder::new(VideoCodec::H264, Size::new(1280, 720)).unwrap(),
            gate: Gate::open(),
            pool: FramePool::new(4),
        }
    }

    fn see(&mut self, at: i64, raw: RawFrame) {
        let Some(clean) = self.gate.release(Instant::now(), raw, &self.pool) else { return };
        let (frame, size) = (clean.frame(), clean.size());
        // Where the example's mouth is, and that of faces in rooms; the raw emulator's is in the middle.
        let line = if size.height == 48 { size.height / 2 } else { size.height * 7 / 10 };
        self.mouths.push((at, frame.plane(Plane::Y)[line * size.width + size.width / 2]));
    }

    fn take(&mut self, event: AvatarEvent) {
        let word = match event {
            AvatarEvent::Sound { at, rate, samples } => {
                self.rate = rate;
                self.sound.push((at.0, Instant::now(), samples.to_vec()));
                return;
            }
            AvatarEvent::Picture { at, picture: Picture::Coded(unit) } => {
                self.coded += 1;
                self.keys += usize::from(unit.key);
                if let Some(raw) = self.decoder.decode(&unit, &self.pool).unwrap() {
                    self.see(at.0, raw);
                }
                return;
            }
            AvatarEvent::Picture { at, picture: Picture::Plain(raw) } => return self.see(at.0, raw),
            AvatarEvent::Lost(lost) => {
                let word = format!("lost {}", lost.cause.word());
                self.lost = Some(lost);
                word
            }
            AvatarEvent::Opened { session } => format!("opened {session}"),
            AvatarEvent::Ready => "ready".to_owned(),
            AvatarEvent::Speaking { turn } => format!("speaking {turn}"),
            AvatarEvent::Ended { turn, interrupted } => format!("ended {turn} {interrupted}"),
            AvatarEvent::Hushed => "hushed".to_owned(),
            AvatarEvent::Closed { .. } => "closed".to_owned(),
            AvatarEvent::Warning(text) => format!("warning {text}"),
            AvatarEvent::NearLimit { .. } => "near limit".to_owned(),
            other => format!("{other:?}"),
        };
        self.told.push((Instant::now(), word));
    }

    fn when(&self, word: &str) -> Option<Instant> {
        self.told.iter().find(|(_, told)| told == word).map(|(at, _)| *at)
    }

    /// Polls until something was told.
    async fn until(&mut self, word: &str) {
        let late = Instant::now() + PATIENCE;
        while self.when(word).is_none() {
            let next =
                tokio::time::timeout_at(late.into(), poll_fn(|context| self.session.poll_next(context)));
            let event = next.await.unwrap_or_else(|_| panic!("no {word:?} in {:?}", self.told));
            self.take(event);
        }
    }

    async fn pass(&mut self, length: Duration) {
        let until = tokio::time::Instant::now() + length;
        while let Ok(event) =
            tokio::time::timeout_at(until, poll_fn(|context| self.session.poll_next(context))).await
        {
            self.take(event);
        }
    }

    async fn close(&mut self) {
        let begun = Instant::now();
        self.session.close(Farewell::CallOver);
        self.session.close(Farewell::CallOver);
        self.until("closed").await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(self.told.iter().filter(|(_, told)| told == "closed").count(), 1);
    }

    fn say(&mut self, turn: Turn, samples: &[i16]) {
        for block in samples.chunks(320) {
            self.session.speak(turn, block);
        }
    }

    /// All sound on its own time line, in samples; asserts that none is missing and none twice.
    fn line(&self) -> Vec<i16> {
        let mut line: Vec<i16> = vec![];
        for (at, _, samples) in &self.sound {
            let due = line.len() as i64 * 1_000_000 / i64::from(self.rate);
            assert!((at - due).abs() < 1_000, "sound at {at}, not at {due}");
            line.extend(samples);
        }
        line
    }

    /// Milliseconds at which the voice begins and ends, and at which the mouth opens and closes.
    fn edges(&self) -> (Vec<i64>, Vec<i64>) {
        let line = self.line();
        let per_ms = self.rate as usize / 1_000;
        // The sine is below the threshold for less than 2 ms.
        let loud = |ms: usize| line[ms * per_ms..(ms + 3) * per_ms].iter().any(|sample| sample.abs() > 2_000);
        let milliseconds = line.len() / per_ms - 3;
        let sound = edges((0..milliseconds).map(|ms| (ms as i64, loud(ms))));
        (sound, edges(self.mouths.iter().map(|(at, luma)| (at / 1_000, *luma > 130))))
    }
}

fn edges(states: impl Iterator<Item = (i64, bool)>) -> Vec<i64> {
    let (mut before, mut found) = (false, vec![]);
    for (at, state) in states {
        if state != before {
            found.push(at);
        }
        before = state;
    }
    found
}

/// Hz, by the zero crossings of what is loud.
fn frequency(samples: &[i16]) -> f64 {
    let loud: Vec<i16> = samples.iter().copied().skip_while(|sample| sample.abs() < 500).collect();
    let loud = &loud[..loud.len().min(RATE as usize * 2 / 5)];
    let crossings = loud.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count();
    crossings as f64 * f64::from(RATE) / loud.len() as f64
}

/// Three times half a second of tone, with pauses: six edges.
fn words() -> Vec<i16> {
    [tone(480), silence(320), tone(480), silence(320), tone(480), silence(200)].concat()
}

/// Lips fit the voice at every edge, on the session's own clock.
fn assert_lips(talk: &Talk) {
    let (sound, mouth) = talk.edges();
    assert_eq!((sound.len(), mouth.len()), (6, 6), "{sound:?} {mouth:?}");
    let offsets: Vec<i64> = sound.iter().zip(&mouth).map(|(sound, mouth)| mouth - sound).collect();
    println!("lip offsets in ms: {offsets:?}");
    assert!(offsets.iter().all(|offset| offset.abs() <= 45), "{offsets:?}");
}

/// The example as a user starts it.
struct Example {
    child: Child,
    url: String,
    /// It writes a line for every session: somebody has to listen.
    _output: BufReader<ChildStdout>,
}

impl Example {
    fn start(options: &[&str]) -> Example {
        let mut child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/avatar_server.py"))
            .args(["--port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let port: u16 = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        Example { child, url: format!("ws://127.0.0.1:{port}/avatar"), _output: output }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn speaks_with_fitting_lips(mut talk: Talk) -> Talk {
    talk.until("ready").await;
    let ready = Instant::now();
    talk.say(1, &words());
    talk.session.end(1);
    talk.until("speaking 1").await;
    let answered = ready.elapsed();
    talk.until("ended 1 false").await;
    talk.pass(Duration::from_millis(400)).await;
    let hertz = frequency(&talk.line());
    println!("first sound {answered:?} after it was spoken, tone of {hertz:.1} Hz");
    assert!((hertz - 440.0).abs() < 4.0, "{hertz} Hz");
    assert!(answered < Duration::from_millis(1_500), "{answered:?}");
    assert_lips(&talk);
    talk
}

/// The tone stops within a moment of the interruption, and the next turn is heard.
async fn is_interrupted(talk: &mut Talk) {
    talk.say(2, &tone(6_000));
    talk.until("speaking 2").await;
    talk.pass(Duration::from_millis(600)).await;
    let cut = Instant::now();
    talk.session.interrupt(2);
    talk.say(2, &tone(500));
    talk.until("hushed").await;
    talk.until("ended 2 true").await;
    talk.pass(Duration::from_millis(700)).await;
    let loud = |samples: &[i16]| samples.iter().any(|sample| sample.abs() > 2_000);
    let late = talk.sound.iter().filter(|(_, came, samples)| *came > cut && loud(samples));
    let late: Vec<Duration> = late.map(|(_, came, _)| *came - cut).collect();
    println!("sound after the interruption: {late:?}");
    assert!(late.is_empty(), "{late:?}");
    assert!(talk.mouths.last().unwrap().1 < 130, "the mouth is closed");
    talk.say(3, &tone(300));
    talk.session.end(3);
    talk.until("ended 3 false").await;
    let after = talk.sound.iter().filter(|(_, came, samples)| *came > cut && loud(samples)).count();
    assert!(after > 0, "the next turn is heard");
}

#[tokio::test]
async fn the_examples_face_speaks_is_interrupted_and_gives_key_pictures() {
    let example = Example::start(&["--key", "sesame", "--start-seconds", "0.5"]);
    let settings = WebSocketSettings {
        api_key: "sesame".to_owned(),
        avatar_id: "anna".to_owned(),
        ..settings(Protocol::Timed, example.url.clone())
    };
    let begun = Instant::now();
    let talk = Talk::open(settings.clone(), terms(&[VideoCodec::H264]));
    let mut talk = speaks_with_fitting_lips(talk).await;
    assert!(talk.when("ready").unwrap() - begun >= Duration::from_millis(500), "it loads first");
    is_interrupted(&mut talk).await;
    let keys = talk.keys;
    talk.session.want_key_picture();
    let asked = Instant::now();
    while talk.keys == keys && asked.elapsed() < Duration::from_secs(3) {
        talk.pass(Duration::from_millis(20)).await;
    }
    println!("a key picture {:?} after it was wanted", asked.elapsed());
    assert!(talk.keys > keys && talk.coded > 100);
    talk.close().await;
    // The wrong key, and one session too many.
    let mut refused =
        Talk::open(WebSocketSettings { api_key: "guess".to_owned(), ..settings }, terms(&[VideoCodec::H264]));
    refused.until("lost refused").await;
    assert!(!refused.lost.as_ref().unwrap().why.contains("guess"));
    refused.close().await;
}

#[tokio::test]
async fn the_examples_face_goes_plain_to_who_takes_no_h264_and_its_server_may_die() {
    let mut example = Example::start(&["--sessions", "1", "--width", "160", "--height", "120"]);
    let talk = Talk::open(settings(Protocol::Timed, example.url.clone()), terms(&[VideoCodec::Vp8]));
    let mut talk = speaks_with_fitting_lips(talk).await;
    assert_eq!(talk.coded, 0);
    let mut second = Talk::open(settings(Protocol::Timed, example.url.clone()), terms(&[VideoCodec::H264]));
    second.until("lost busy").await;
    second.close().await;
    talk.say(2, &tone(4_000));
    talk.until("speaking 2").await;
    talk.pass(Duration::from_millis(200)).await;
    let killed = Instant::now();
    example.child.kill().unwrap();
    talk.until("lost connection").await;
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    talk.close().await;
}

/// A server of the timed protocol that says what it is told to.
struct Scripted(Vec<Out>);

impl Core for Scripted {
    fn handle(&mut self, _now: Instant, _message: &[u8], _is_binary: bool) {}
    fn poll(&mut self, _now: Instant) -> Option<Out> {
        (!self.0.is_empty()).then(|| self.0.remove(0))
    }
    fn wake_at(&self) -> Option<Instant> {
        None
    }
}

#[tokio::test]
async fn another_version_a_slow_start_and_a_time_that_is_over_are_told() {
    let script = |out: Vec<Out>| {
        SocketServer::start(Arc::new(move |_, _: Asked| Ok(Box::new(Scripted(out.clone())) as Box<dyn Core>)))
    };
    let hello = r#"{"type":"hello","version":1,"session":"s1","rate":16000,"picture":"h264"}"#.to_owned();
    let ready = r#"{"type":"ready"}"#.to_owned();
    let of = |server: &SocketServer| settings(Protocol::Timed, format!("ws://{}", server.address));
    let newer = script(vec![Out::Text(hello.replace("\"version\":1", "\"version\":2"))]);
    let mut talk = Talk::open(of(&newer), terms(&[VideoCodec::H264]));
    talk.until("lost refused").await;
    assert!(talk.lost.as_ref().unwrap().why.contains("version 2"), "{:?}", talk.lost);
    talk.close().await;
    let slow = script(vec![Out::Text(hello.clone())]);
    let patient = WebSocketSettings { ready_within: Duration::from_millis(700), ..of(&slow) };
    let mut talk = Talk::open(patient, terms(&[VideoCodec::H264]));
    talk.until("opened s1").await;
    talk.until("lost connection").await;
    talk.close().await;
    let short = script(vec![Out::Text(hello), Out::Text(ready)]);
    let limited = WebSocketSettings { longest: Some(Duration::from_millis(500)), ..of(&short) };
    let mut talk = Talk::open(limited, terms(&[VideoCodec::H264]));
    talk.until("lost over").await;
    assert!(talk.when("near limit").is_some());
    talk.close().await;
}

#[tokio::test]
async fn a_raw_servers_face_speaks_is_interrupted_and_is_stopped() {
    let server = RawAvatar::start();
    server.state().work = Duration::from_millis(30);
    let talk = Talk::open(settings(Protocol::Raw, server.url()), terms(&[VideoCodec::H264]));
    assert!(!talk.session.limits().returns_sound);
    let mut talk = speaks_with_fitting_lips(talk).await;
    let asked = server.state().started.clone().unwrap();
    assert_eq!((&asked["width"], &asked["sample_rate"]), (&480.into(), &RATE.into()));
    let heard = frequency(&server.state().heard);
    assert!((heard - 440.0).abs() < 4.0, "at its rate there too: {heard}");
    is_interrupted(&mut talk).await;
    let pieces = server.state().pieces;
    assert!(pieces < 60, "not all of what was cut went up: {pieces}");
    talk.close().await;
    assert_eq!(server.ledger(), (1, 1));
    let violations = server.state().violations.clone();
    assert_eq!(violations, [""; 0]);
}

#[tokio::test]
async fn a_raw_server_that_breaks_is_lost_and_stopped_and_one_that_is_slow_is_waited_for() {
    let server = RawAvatar::start();
    let open = || Talk::open(settings(Protocol::Raw, server.url()), terms(&[VideoCodec::H264]));
    // Cut in mid-sentence.
    let mut talk = open();
    talk.until("ready").await;
    talk.say(1, &tone(4_000));
    talk.until("speaking 1").await;
    server.state().cut = true;
    talk.until("lost connection").await;
    talk.close().await;
    server.state().cut = false;
    assert_eq!(server.ledger(), (1, 1));
    // No GPU.
    server.state().refuse = Some(503);
    let mut talk = open();
    talk.until("lost busy").await;
    talk.close().await;
    server.state().refuse = None;
    // A call that is over while it starts: stopped all the same.
    server.state().start = Duration::from_millis(600);
    let mut talk = open();
    talk.pass(Duration::from_millis(200)).await;
    talk.close().await;
    // A slow start, then a server that hangs.
    let stops = server.state().stops;
    let hasty = WebSocketSettings {
        answer_within: Duration::from_millis(800),
        ..settings(Protocol::Raw, server.url())
    };
    let mut talk = Talk::open(hasty, terms(&[]));
    talk.until("ready").await;
    server.state().hang = true;
    talk.say(1, &tone(1_000));
    talk.until("lost connection").await;
    assert_eq!(talk.lost.as_ref().unwrap().cause, Cause::Connection);
    talk.close().await;
    assert_eq!(server.state().stops, stops + 1);
}

/// The vendor, with a room nobody is in.
fn vendor() -> LiveAvatarService {
    let service =
        LiveAvatarService::start(("ws://127.0.0.1:9/".to_owned(), "join".to_owned()), Arc::new(|_| {}));
    service.state().connect = Duration::from_millis(100);
    service
}

fn account(service: &LiveAvatarService, key: &str) -> LiveAvatar {
    let settings = LiveAvatarSettings {
        api_key: key.to_owned(),
        base_url: service.root(),
        ready_within: Duration::from_secs(2),
        ..LiveAvatarSettings::default()
    };
    LiveAvatar::new(settings, &Http::new()).unwrap()
}

#[tokio::test]
async fn liveavatar_says_no_and_nothing_is_left_counting() {
    let service = vendor();
    let avatar = account(&service, KEY);
    for (api, status, cause) in [
        ("token", 402, "lost refused"),
        ("token", 422, "lost refused"),
        ("token", 429, "lost busy"),
        ("token", 503, "lost busy"),
        ("start", 402, "lost refused"),
        ("start", 429, "lost busy"),
        ("start", 503, "lost busy"),
    ] {
        service.rest.fault(api, Fault::Status(status, None));
        let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::H264])));
        talk.until(cause).await;
        talk.close().await;
        assert_eq!(service.leaks(), [""; 0], "{api} {status}");
    }
    let stops = service.rest.seen_at("/stop").len();
    assert_eq!(stops, 3, "what may have been begun was stopped, and nothing else");
    let mut talk = Talk::of(account(&service, "guess").open(terms(&[])));
    talk.until("lost refused").await;
    assert!(!talk.lost.as_ref().unwrap().why.contains("guess"));
    talk.close().await;
}

#[tokio::test]
async fn a_liveavatar_session_that_half_began_is_stopped() {
    let service = vendor();
    let avatar = account(&service, KEY);
    // Counted, and answered as if it were not.
    service.state().half_start = Some(500);
    let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::H264])));
    talk.until("lost connection").await;
    assert!(talk.when("opened session-1").is_some(), "in the journal before it counts");
    talk.close().await;
    // A call that is over while the vendor starts.
    service.state().start = Duration::from_millis(700);
    let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::H264])));
    talk.until("opened session-2").await;
    talk.close().await;
    // A room that cannot be entered; the stop's first answer is lost.
    service.state().start = Duration::ZERO;
    service.rest.fault("stop", Fault::Status(502, None));
    let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::Vp8])));
    talk.until("lost connection").await;
    talk.close().await;
    assert_eq!(service.leaks(), [""; 0]);
    let state = service.state();
    assert_eq!(state.sessions.len(), 3);
    assert!(state.sessions.iter().all(|session| session.started.is_some()), "they were counted");
    assert_eq!(state.sessions[2].asked["video_settings"]["encoding"], "VP8");
    assert_eq!(state.violations, [""; 0]);
}

#[tokio::test]
async fn liveavatar_sessions_a_crash_left_behind_are_reaped() {
    let service = vendor();
    let avatar = account(&service, KEY);
    let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::H264])));
    talk.until("opened session-1").await;
    talk.pass(Duration::from_millis(200)).await;
    drop(talk);
    assert_eq!(service.leaks(), ["session-1"]);
    assert!(!account(&service, "guess").reap("session-1").await);
    assert!(avatar.reap("session-1").await && avatar.reap("session-1").await);
    assert!(avatar.reap("of-another-year").await);
    assert_eq!(service.leaks(), [""; 0]);
    assert_eq!(service.state().sessions[0].stopped.as_deref(), Some("ZOMBIE_SESSION_REAP"));
}

/// When the voice, or the mouth, begins and ends, in milliseconds of the session's own time; from blocks of 20 ms.
fn block_edges(talk: &Talk) -> (Vec<i64>, Vec<i64>) {
    let loud = |samples: &[i16]| samples.iter().any(|sample| sample.abs() > 2_000);
    let mut sound: Vec<(i64, bool)> = vec![];
    for (at, _, samples) in &talk.sound {
        // A turn's first and last blocks are partly silent.
        for (n, piece) in samples.chunks(talk.rate as usize / 200).enumerate() {
            sound.push((at / 1_000 + n as i64 * 5, loud(piece)));
        }
    }
    (edges(sound.into_iter()), edges(talk.mouths.iter().map(|(at, luma)| (at / 1_000, *luma > 130))))
}

#[tokio::test]
async fn liveavatars_face_speaks_in_its_room_with_fitting_lips_and_is_interrupted() {
    let rooms = Arc::new(LiveKit::start());
    rooms.bring_worker("room-1", "heygen");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let grant = Grant::Join { room: "room-1", identity: "client", name: "client", on_behalf: None };
    let token = access_token(livekit::KEY, livekit::SECRET, &grant, now, Duration::from_secs(60));
    let stage = rooms.clone();
    let service = LiveAvatarService::start(
        (rooms.url(), token),
        Arc::new(move |cast| match cast {
            Cast::Say(samples) => stage.say("room-1", samples, 24_000),
            Cast::Cut => stage.cut_worker("room-1"),
        }),
    );
    service.state().connect = Duration::from_millis(150);
    let settings = LiveAvatarSettings {
        api_key: KEY.to_owned(),
        base_url: service.root(),
        ..LiveAvatarSettings::default()
    };
    let avatar = LiveAvatar::new(settings, &Http::new()).unwrap();
    let mut talk = Talk::of(avatar.open(terms(&[VideoCodec::H264])));
    talk.until("ready").await;
    let tone = |millis: u32| -> Vec<i16> {
        let step = std::f64::consts::TAU * 440.0 / 24_000.0;
        (0..24 * millis).map(|n| (8_000.0 * (f64::from(n) * step).sin()) as i16).collect()
    };
    talk.say(1, &tone(1_200));
    talk.session.end(1);
    talk.until("speaking 1").await;
    talk.until("ended 1 false").await;
    talk.pass(Duration::from_millis(800)).await;
    let (sound, mouth) = block_edges(&talk);
    println!("voice {sound:?}, mouth {mouth:?}");
    assert_eq!((sound.len(), mouth.len()), (2, 2), "{sound:?} {mouth:?}");
    assert!(
        sound.iter().zip(&mouth).all(|(sound, mouth)| (sound - mouth).abs() <= 45),
        "{sound:?} {mouth:?}"
    );
    let heard = service.state().heard.clone();
    assert_eq!(heard.len(), 24 * 1_200, "all of it arrived");
    talk.say(2, &tone(5_000));
    talk.until("speaking 2").await;
    talk.pass(Duration::from_millis(500)).await;
    talk.session.interrupt(2);
    talk.until("hushed").await;
    talk.pass(Duration::from_millis(400)).await;
    let quiet = Instant::now();
    talk.pass(Duration::from_millis(500)).await;
    let loud = talk.sound.iter().filter(|(_, came, _)| *came > quiet);
    assert!(loud.flat_map(|(_, _, samples)| samples).all(|sample| sample.abs() < 2_000), "it is silent");
    talk.close().await;
    assert_eq!(service.leaks(), [""; 0]);
    let state = service.state();
    assert_eq!((state.vanished, &state.violations[..]), (0, &[""; 0].map(str::to_owned)[..]));
    assert_eq!(state.sessions[0].stopped.as_deref(), Some("USER_CLOSED"));
}
