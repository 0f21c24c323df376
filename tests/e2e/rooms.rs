//! Avatars whose worker joins a LiveKit room, without a call: what is spoken comes back at its rate with a picture, an
//! interruption is silent, a room that is lost is entered again, and nothing is left counting at the vendor.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::{Duration, Instant};

use eyeline::avatar::livekit::token::{Grant, access_token};
use eyeline::avatar::livekit::{RoomEvent, RoomLink, RoomTerms};
use eyeline::avatar::room::template::{Step, Template};
use eyeline::avatar::room::{Room, RoomSettings};
use eyeline::avatar::{AvatarEvent, Cause, Farewell, Lost, Picture, Provider as _, Session, Terms, Turn};
use eyeline::media::access_unit::VideoCodec;
use eyeline::media::frame::Size;
use eyeline::remote::http::Http;
use serde_json::json;

use crate::harness::emulators::face::{Coding, frequency};
use crate::harness::emulators::livekit::{API_KEY, KEY, LiveKit, SECRET, WorkerSettings};
use crate::harness::emulators::server::Fault;

const PATIENCE: Duration = Duration::from_secs(10);

/// 440 Hz.
pub fn tone(rate: u32, millis: u32) -> Vec<i16> {
    let step = std::f64::consts::TAU * 440.0 / f64::from(rate);
    (0..rate / 1_000 * millis).map(|n| (8_000.0 * (f64::from(n) * step).sin()) as i16).collect()
}

pub fn settings(server: &LiveKit) -> RoomSettings {
    RoomSettings {
        base_url: format!("http://{}", server.vendor.address),
        api_key: API_KEY.to_owned(),
        avatar_id: "a-1".to_owned(),
        timeout: Duration::from_secs(3),
        ..RoomSettings::new(&server.url(), KEY, SECRET, Template::known("bey").expect("bey"))
    }
}

/// A vendor nobody knows by name, that is told when it is over.
fn own_template() -> Template {
    let headers = BTreeMap::from([("x-api-key".to_owned(), "{api_key}".to_owned())]);
    let body = json!({ "avatar_id": "{avatar_id}", "livekit_url": "{livekit_url}", "livekit_token": "{avatar_token}" });
    let start =
        Step { url: "{base}/v1/session".to_owned(), headers: headers.clone(), body, ..Step::default() };
    let stop = Step {
        method: "DELETE".to_owned(),
        url: "{base}/v1/session/{session}".to_owned(),
        headers,
        ..Step::default()
    };
    Template { start: vec![start], stop: Some(stop), rate: 16_000, ..Template::default() }
}

/// A session, and what came of it.
pub struct Talk {
    pub session: Box<dyn Session>,
    told: Vec<(Instant, String)>,
    lost: Option<Lost>,
    /// When it came, at 48 kHz.
    sound: Vec<(Instant, Vec<i16>)>,
    pub keys: usize,
    pub pictures: usize,
    codec: Option<VideoCodec>,
}

impl Talk {
    pub fn open(settings: RoomSettings, codecs: &[VideoCodec]) -> Talk {
        let room = Room::new(settings, &Http::new()).expect("complete settings");
        let terms = Terms {
            call: "call-1".to_owned(),
            codecs: codecs.to_vec(),
            most: Size::new(640, 480),
            language: "en".to_owned(),
            again: false,
        };
        Talk {
            session: room.open(terms),
            told: Vec::new(),
            lost: None,
            sound: Vec::new(),
            keys: 0,
            pictures: 0,
            codec: None,
        }
    }

    fn take(&mut self, event: AvatarEvent) {
        match event {
            AvatarEvent::Sound { rate, samples, .. } => {
                assert_eq!(rate, 48_000);
                self.sound.push((Instant::now(), samples.to_vec()));
            }
            AvatarEvent::Picture { picture: Picture::Coded(unit), .. } => {
                self.pictures += 1;
                self.keys += usize::from(unit.key);
                self.codec = Some(unit.codec);
            }
            AvatarEvent::Lost(lost) => {
                self.told.push((Instant::now(), format!("Lost {:?}", lost.cause)));
                self.lost = Some(lost);
            }
            other => self.told.push((Instant::now(), format!("{other:?}"))),
        }
    }

    pub async fn listen(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Ok(event) =
            tokio::time::timeout_at(until.into(), poll_fn(|context| self.session.poll_next(context))).await
        {
            self.take(event);
        }
    }

    /// Until something beginning so is told, from the place `from` on; when that was.
    pub async fn until(&mut self, from: usize, word: &str) -> Instant {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some((at, _)) = self.told.iter().skip(from).find(|(_, told)| told.starts_with(word)) {
                return *at;
            }
            assert!(Instant::now() < end, "no {word} in {:?}", self.told);
            self.listen(Duration::from_millis(20)).await;
        }
    }

    pub async fn say(&mut self, turn: Turn, samples: &[i16]) {
        for piece in samples.chunks(960) {
            self.session.speak(turn, piece);
        }
        self.session.end(turn);
    }

    /// What is not silent of what came since then.
    pub fn loud(&self, since: Instant) -> Vec<i16> {
        let heard =
            self.sound.iter().filter(|(at, _)| *at >= since).flat_map(|(_, samples)| samples.iter().copied());
        let heard: Vec<i16> = heard.collect();
        let first = heard.iter().position(|sample| sample.unsigned_abs() > 2_000);
        let last = heard.iter().rposition(|sample| sample.unsigned_abs() > 2_000);
        first.zip(last).map(|(first, last)| heard[first..=last].to_vec()).unwrap_or_default()
    }

    pub async fn close(&mut self) {
        self.session.close(Farewell::CallOver);
        self.until(0, "Closed").await;
    }
}

#[tokio::test]
async fn a_worker_in_a_room_is_heard_and_seen_at_its_rate_and_falls_silent_when_interrupted() {
    let server = LiveKit::start();
    for (rate, own) in [
        (24_000, settings(&server)),
        (16_000, RoomSettings { template: own_template(), ..settings(&server) }),
    ] {
        let mut talk = Talk::open(own, &[VideoCodec::H264]);
        talk.until(0, "Ready").await;
        assert!(
            talk.told.iter().any(|(_, told)| told.starts_with("Opened { session: \"eyeline-")),
            "{:?}",
            talk.told
        );
        let begun = Instant::now();
        talk.say(1, &tone(rate, 1_000)).await;
        talk.until(0, "Speaking { turn: 1 }").await;
        talk.until(0, "Ended { turn: 1, interrupted: false }").await;
        talk.listen(Duration::from_millis(300)).await;
        let heard = server.heard();
        assert_eq!((heard.rate, heard.segments, heard.samples.len()), (rate, 1, rate as usize));
        assert!((frequency(&heard.samples, rate) - 440.0).abs() < 3.0, "{}", frequency(&heard.samples, rate));
        let back = talk.loud(begun);
        assert!((40_000..60_000).contains(&back.len()), "{} samples of a second", back.len());
        assert!((frequency(&back, 48_000) - 440.0).abs() < 3.0, "{}", frequency(&back, 48_000));
        assert_eq!(talk.codec, Some(VideoCodec::H264));
        assert!(talk.keys > 0 && talk.pictures > 20, "{} of {}", talk.keys, talk.pictures);

        talk.say(2, &tone(rate, 5_000)).await;
        talk.until(0, "Speaking { turn: 2 }").await;
        talk.listen(Duration::from_millis(400)).await;
        let cut = Instant::now();
        talk.session.interrupt(2);
        let hushed = talk.until(0, "Hushed").await;
        assert!(hushed - cut < Duration::from_millis(500), "{:?}", hushed - cut);
        assert_eq!(server.heard().cleared.len(), 1);
        talk.listen(Duration::from_millis(200)).await;
        let quiet = Instant::now();
        talk.listen(Duration::from_millis(600)).await;
        assert!(talk.loud(quiet).is_empty(), "the cut turn goes on");
        talk.say(3, &tone(rate, 300)).await;
        talk.until(0, "Ended { turn: 3, interrupted: false }").await;
        talk.close().await;
        assert_eq!(server.sessions().0, 0, "left counting");
    }
    assert_eq!(server.refused(), [""; 0]);
    assert_eq!(server.deleted().len(), 2);
}

#[tokio::test]
async fn a_room_that_is_lost_is_entered_again_a_late_worker_is_waited_for_and_one_that_leaves_is_told() {
    let server = LiveKit::start();
    let late = Duration::from_millis(800);
    server.workers(WorkerSettings {
        late,
        never_finishes: true,
        coding: Coding::Vp8,
        ..WorkerSettings::default()
    });
    let begun = Instant::now();
    let mut talk = Talk::open(settings(&server), &[VideoCodec::Vp8]);
    assert!(talk.until(0, "Ready").await - begun >= late);
    assert_eq!(talk.codec, Some(VideoCodec::Vp8));

    // A worker that never tells: the clock does.
    talk.say(1, &tone(24_000, 3_000)).await;
    talk.until(0, "Speaking { turn: 1 }").await;
    let cut = Instant::now();
    talk.session.interrupt(1);
    let hushed = talk.until(0, "Hushed").await - cut;
    assert!((1_900..2_500).contains(&hushed.as_millis()), "{hushed:?}");

    for again in [LiveKit::tell_reconnect, LiveKit::cut] {
        let (told, pictures) = (talk.told.len(), talk.pictures);
        again(&server);
        talk.until(told, "Warning").await;
        let end = Instant::now() + PATIENCE;
        while talk.pictures < pictures + 25 {
            assert!(Instant::now() < end, "no picture after the room was entered again: {:?}", talk.told);
            talk.listen(Duration::from_millis(50)).await;
        }
        let begun = Instant::now();
        talk.say(2 + told as Turn, &tone(24_000, 500)).await;
        talk.listen(Duration::from_millis(1_200)).await;
        assert!((frequency(&talk.loud(begun), 48_000) - 440.0).abs() < 3.0, "{:?}", talk.told);
    }
    server.worker_leaves();
    talk.until(0, "Lost Connection").await;
    talk.until(0, "Closed").await;
    assert_eq!(server.sessions(), (0, 1));
    assert_eq!(server.refused(), [""; 0]);
}

#[tokio::test]
async fn what_a_vendor_refuses_is_told_as_what_can_be_done_and_nothing_is_left_counting() {
    let server = LiveKit::start();
    for (status, cause) in
        [(402, Cause::Refused), (429, Cause::Busy), (503, Cause::Busy), (500, Cause::Connection)]
    {
        server.vendor.fault("start", Fault::Status(status, None));
        let mut talk = Talk::open(settings(&server), &[VideoCodec::H264]);
        talk.until(0, "Lost").await;
        assert_eq!(talk.lost.as_ref().map(|lost| lost.cause), Some(cause), "{status}");
        talk.until(0, "Closed").await;
    }
    let wrong = RoomSettings { api_key: "sk-wrong-7".to_owned(), ..settings(&server) };
    let mut talk = Talk::open(wrong, &[VideoCodec::H264]);
    talk.until(0, "Lost Refused").await;
    assert!(!format!("{:?}", talk.lost).contains("sk-wrong-7"));
    // Closed while it begins: what the vendor began is ended.
    let mut talk = Talk::open(settings(&server), &[VideoCodec::H264]);
    talk.listen(Duration::from_millis(1)).await;
    talk.close().await;
    assert_eq!(server.sessions().0, 0);
    // Another run's.
    let left = Talk::open(settings(&server), &[VideoCodec::H264]);
    let mut left = left;
    left.until(0, "Opened").await;
    let opened =
        left.told.iter().find_map(|(_, told)| told.split('"').nth(1).map(str::to_owned)).expect("its id");
    drop(left);
    assert_eq!(server.sessions().0, 1);
    assert!(Room::new(settings(&server), &Http::new()).expect("complete").reap(&opened).await);
    assert_eq!(server.sessions().0, 0);
}

#[tokio::test]
async fn a_session_whose_time_is_over_is_told_before_and_ended_at_the_vendor() {
    let server = LiveKit::start();
    let longest = Duration::from_secs(3);
    let mut talk =
        Talk::open(RoomSettings { longest: Some(longest), ..settings(&server) }, &[VideoCodec::H264]);
    let begun = talk.until(0, "Opened").await;
    talk.until(0, "NearLimit").await;
    talk.until(0, "Ready").await;
    talk.say(1, &tone(24_000, 5_000)).await;
    let over = talk.until(0, "Lost Over").await - begun;
    assert!((2_900..3_500).contains(&over.as_millis()), "{over:?}");
    talk.until(0, "Closed").await;
    assert_eq!(server.sessions().0, 0, "left counting");
    assert_eq!(server.refused(), [""; 0]);
}

#[tokio::test]
async fn a_link_joins_as_a_subscriber_refuses_a_bad_token_and_uses_the_newest_one() {
    let server = LiveKit::start();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let grant = Grant::Join { room: "r", identity: "us", name: "", on_behalf: None };
    let token = |secret: &str| access_token(KEY, secret, &grant, now, Duration::from_secs(60));
    let mut bad = RoomLink::open(RoomTerms::new(&server.url(), &token("wrong"), "heygen"));
    let lost = tokio::time::timeout(PATIENCE, bad.next()).await.expect("in time");
    assert!(matches!(lost, RoomEvent::Lost(Lost { cause: Cause::Refused, .. })), "{lost:?}");

    let mut link = RoomLink::open(RoomTerms::new(&server.url(), &token(SECRET), "heygen"));
    let (mut seen, mut joined, mut told) = (0, 0, Vec::new());
    let end = Instant::now() + PATIENCE;
    while seen < 2 {
        let event = tokio::time::timeout_at(end.into(), link.next()).await;
        let event = event.unwrap_or_else(|_| panic!("{told:?} {:?} {:?}", link.counters(), server.refused()));
        match &event {
            RoomEvent::Joined { .. } => {
                joined += 1;
                if joined == 1 {
                    server.bring_worker("r", "heygen");
                }
            }
            RoomEvent::Seen => {
                seen += 1;
                if seen == 1 {
                    server.refresh_token(&token(SECRET));
                    server.tell_reconnect();
                }
            }
            RoomEvent::Lost(lost) => panic!("{lost:?}"),
            _ => {}
        }
        if !matches!(event, RoomEvent::Media(_)) {
            told.push(format!("{event:?}"));
        }
    }
    assert_eq!(joined, 2);
    link.close();
    while !matches!(
        tokio::time::timeout_at(end.into(), link.next()).await.expect("in time"),
        RoomEvent::Closed
    ) {}
}
