//! Sessions with realtime models over real sockets, and the vendors' own SDKs against the emulators of them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eyeline::codec::g711::Law;
use eyeline::talk::link::RealtimeSession;
use eyeline::talk::link::websocket::WebSocketSettings;
use eyeline::talk::message::{Endpoint, Failure, Vendor};
use eyeline::talk::realtime::{RealtimeEvent, RealtimeSettings, Sound, SoundFormat};
use serde_json::json;

use crate::harness::emulators::{gemini_live, openai_realtime};
use crate::harness::sdks;

/// Runs a script with the vendors' SDKs.
fn prove(script: &str, arguments: &[&str]) {
    let content = sdks::content(script, arguments);
    assert!(content.is_ok(), "{content:?}");
}

#[test]
fn openais_own_client_speaks_with_the_emulator() {
    use openai_realtime::{Answer, Rules};
    let speak = |ms| Answer::Speak { ms, words: "I see a test picture.".to_owned() };
    let call = Answer::Call { name: "look".to_owned(), arguments: r#"{"where":"door"}"#.to_owned() };
    let rules = Arc::new(Mutex::new(Rules {
        answers: [speak(1_000), call, speak(20_000)].into(),
        ..Rules::default()
    }));
    let (_server, url) = openai_realtime::start(&rules);
    prove("openai_realtime.py", &[&url, "key"]);
    let refused = openai_realtime::lock(&rules).refused.clone();
    assert_eq!(refused.len(), 1, "the one truncation that is too long: {refused:?}");
}

#[test]
fn googles_own_client_speaks_with_the_emulator() {
    use gemini_live::{Answer, Rules};
    let speak = |ms| Answer::Speak { ms, words: " I see a test picture.".to_owned() };
    let call = Answer::Call { name: "look".to_owned(), arguments: json!({"where": "door"}) };
    let rules = Rules {
        answers: [speak(1_000), call, speak(3_000)].into(),
        connection_limit: Duration::from_secs(30),
        go_away: Duration::from_secs(25),
        ..Rules::default()
    };
    let rules = Arc::new(Mutex::new(rules));
    let (_server, url) = gemini_live::start(&rules);
    prove("gemini_live.py", &[&url, "key"]);
    let refused = gemini_live::lock(&rules).refused.clone();
    assert_eq!(refused.len(), 1, "the unknown handle: {refused:?}");
}

fn endpoint(vendor: Vendor, url: &str) -> Endpoint {
    let endpoint = Endpoint::new("realtime", vendor);
    Endpoint { base_url: url.to_owned(), model: "model".to_owned(), api_key: "key".to_owned(), ..endpoint }
}

/// A caller on the line: a block every 20 ms, and everything the session says with its time.
struct Caller {
    session: RealtimeSession,
    beat: tokio::time::Interval,
    law: Option<Law>,
    events: Vec<(Instant, RealtimeEvent)>,
}

impl Caller {
    fn new(endpoint: Endpoint, settings: RealtimeSettings) -> Caller {
        let law = match settings.sound {
            SoundFormat::Law(law) => Some(law),
            SoundFormat::Samples { .. } => None,
        };
        let sockets = WebSocketSettings {
            ping_after: Duration::from_millis(300),
            silent_after: Duration::from_millis(800),
            ..WebSocketSettings::default()
        };
        let session = RealtimeSession::open_with(endpoint, settings, sockets).expect("a session");
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        Caller { session, beat, law, events: Vec::new() }
    }

    async fn talk(&mut self, speaks: bool, milliseconds: u64) {
        let loud: Vec<i16> = (0..160).map(|n| if n / 8 % 2 == 0 { 6_000 } else { -6_000 }).collect();
        let samples = if speaks { loud } else { vec![0; 160] };
        let payload: Vec<u8> = match (self.law, speaks) {
            (Some(_), true) => (0..160).map(|n| if n / 8 % 2 == 0 { 0x9f } else { 0x1f }).collect(),
            (Some(law), false) => vec![law.silence(); 160],
            (None, _) => Vec::new(),
        };
        self.session.caller_speaks(speaks);
        for _ in 0..milliseconds / 20 {
            loop {
                tokio::select! {
                    _ = self.beat.tick() => break,
                    event = self.session.next() => self.events.push((Instant::now(), event)),
                }
            }
            match self.law {
                Some(law) => self.session.push_payload(law, &payload),
                None => self.session.push_sound(&samples, 8_000),
            }
        }
        self.session.caller_speaks(false);
    }

    fn count(&self, wanted: impl Fn(&RealtimeEvent) -> bool) -> usize {
        self.events.iter().filter(|(_, event)| wanted(event)).count()
    }

    fn sound_ms(&self, from: usize) -> u128 {
        let sounds = self.events[from..].iter().filter_map(|(_, event)| match event {
            RealtimeEvent::Sound { sound, .. } => Some(sound.duration().as_micros()),
            _ => None,
        });
        sounds.sum::<u128>() / 1000
    }

    /// From the provider's end of speech to the first sound told here.
    fn answer_times(&self) -> Vec<Duration> {
        let mut ended = None;
        let mut times = Vec::new();
        for (at, event) in &self.events {
            match event {
                RealtimeEvent::SpeechEnded => ended = Some(*at),
                RealtimeEvent::Sound { .. } => times.extend(ended.take().map(|ended| *at - ended)),
                _ => {}
            }
        }
        times
    }
}

fn is_send<T: Send>(_: &T) {}

#[tokio::test]
async fn a_g711_call_talks_with_openai_and_survives_its_faults() {
    use openai_realtime::{Fault, Rules, lock};
    let rules = Arc::new(Mutex::new(Rules::default()));
    let (_server, url) = openai_realtime::start(&rules);
    let settings = RealtimeSettings { sound: SoundFormat::Law(Law::Mu), ..RealtimeSettings::default() };
    let mut caller = Caller::new(endpoint(Vendor::OpenAi, &url), settings);
    is_send(&caller.session);
    caller.talk(false, 300).await;
    for _ in 0..3 {
        caller.talk(true, 400).await;
        caller.talk(false, 800).await;
    }
    assert_eq!(caller.sound_ms(0), 3_000);
    let mut times = caller.answer_times();
    times.sort();
    println!("end of speech told to first sound told, 100 ms of thinking in it: {times:?}");
    assert!(times[times.len() / 2] <= Duration::from_millis(140), "{times:?}");
    let all_payload = caller.events.iter().all(|(_, event)| match event {
        RealtimeEvent::Sound { sound, .. } => matches!(sound, Sound::Payload { law: Law::Mu, .. }),
        _ => true,
    });
    assert!(all_payload);
    assert_eq!(caller.session.figures().resampled, 0);
    // A socket cut, then a peer that hangs: the next question is answered each time.
    for fault in [Fault::Cut, Fault::Hang] {
        lock(&rules).faults.push_back(fault);
        caller.talk(false, 1_500).await;
        let from = caller.events.len();
        caller.talk(true, 400).await;
        caller.talk(false, 1_000).await;
        assert_eq!(caller.sound_ms(from), 1_000);
    }
    assert_eq!(caller.count(|event| *event == RealtimeEvent::Ready), 3);
    assert_eq!(lock(&rules).connections, 3);
    assert!(lock(&rules).refused.is_empty(), "{:?}", lock(&rules).refused);
}

#[tokio::test]
async fn a_call_talks_with_gemini_over_a_hand_over_without_a_gap() {
    use gemini_live::{Fault, Rules, lock};
    let rules = Arc::new(Mutex::new(Rules::default()));
    let (_server, url) = gemini_live::start(&rules);
    let settings =
        RealtimeSettings { sound: SoundFormat::Samples { rate: 8_000 }, ..RealtimeSettings::default() };
    let mut caller = Caller::new(endpoint(Vendor::Gemini, &url), settings);
    caller.talk(false, 400).await;
    caller.talk(true, 400).await;
    caller.talk(false, 1_800).await;
    assert!((1_000..=1_060).contains(&caller.sound_ms(0)), "{} ms", caller.sound_ms(0));
    lock(&rules).faults.push_back(Fault::GoAway(20_000));
    caller.talk(false, 700).await;
    assert_eq!(caller.count(|event| *event == RealtimeEvent::Recycled), 1, "{:?}", caller.events);
    let from = caller.events.len();
    caller.talk(true, 400).await;
    caller.talk(false, 1_800).await;
    assert!((1_000..=1_060).contains(&caller.sound_ms(from)), "{} ms", caller.sound_ms(from));
    let rates = caller.events.iter().all(|(_, event)| match event {
        RealtimeEvent::Sound { sound, .. } => matches!(sound, Sound::Samples { rate: 8_000, .. }),
        _ => true,
    });
    assert!(rates);
    let rules = lock(&rules);
    let at: Vec<Instant> =
        rules.seen.iter().filter(|seen| seen.kind == "audio").map(|seen| seen.at).collect();
    let mut gaps: Vec<Duration> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort();
    let longest = gaps.last().copied().unwrap_or_default();
    println!("longest time between two blocks at the provider, over a hand-over: {longest:?}");
    assert!(longest <= Duration::from_millis(60), "{longest:?}");
    assert_eq!(rules.resumed.len(), 1);
    assert!(rules.refused.is_empty(), "{:?}", rules.refused);
}

#[tokio::test]
async fn a_provider_that_is_busy_then_wrong_is_told_apart() {
    use openai_realtime::{Rules, lock};
    let rules = Rules { refuse: [(429, Some(1)), (500, None), (401, None)].into(), ..Rules::default() };
    let rules = Arc::new(Mutex::new(rules));
    let (_server, url) = openai_realtime::start(&rules);
    let mut session = RealtimeSession::open(endpoint(Vendor::OpenAi, &url), RealtimeSettings::default())
        .expect("a session");
    let started = Instant::now();
    let mut told = Vec::new();
    while !matches!(told.last(), Some(RealtimeEvent::Closed(_))) {
        let event = tokio::time::timeout(Duration::from_secs(5), session.next()).await.expect("an event");
        told.push(event);
    }
    assert!(
        matches!(
            &told[..],
            [
                RealtimeEvent::Trouble(Failure::Busy { retry_after_ms: Some(1_000) }),
                RealtimeEvent::Trouble(Failure::Failed { status: 500, .. }),
                RealtimeEvent::Closed(Failure::Refused { status: 401, .. })
            ]
        ),
        "{told:?}"
    );
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is obeyed");
    assert_eq!(lock(&rules).connections, 0);
}
