//! One call by itself: what is rare on a wire, and rules that hold for any order of events.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::behaviour::mirror::Mirror;
use super::early::Reliable;
use super::negotiate::tests as sdp;
use super::*;
use crate::engine::plan::{Direction, Look, Picture, Timeouts, VideoOut};
use crate::media::frame::Size;
use crate::rtp::reach::Reach;
use crate::sip::{Headers, SessionId};
use crate::vision::overlay::OverlaySettings;

const SESSION: SessionId = SessionId(1);
const ID: CallId = CallId(1);

fn settings(origin: u64) -> CallSettings {
    let max = Size::new(640, 480);
    CallSettings {
        media: sdp::settings(),
        address: [192, 0, 2, 10].into(),
        label: Label::default(),
        behaviour: Behaviour::Mirror(Mirror { greeting: String::new(), echo: true }),
        room: Room {
            reach: Reach { trusted: ["192.0.2.0/24".parse().expect("a network")].into(), ..Reach::default() },
            gate: None,
            watch: None,
            look: Look {
                observers: Vec::new(),
                overlay: OverlaySettings::default(),
                transforms: Vec::new(),
                resize: None,
            },
            video_out: VideoOut {
                picture: Picture::Mirror,
                max,
                fps: 15,
                kbps: 500,
                encoder: "auto".to_owned(),
                showing: Default::default(),
            },
            recording: None,
            timeouts: Timeouts { start: second(10), flow: second(30), hold: second(300) },
        },
        origin,
        seed: [7; 32],
        max_call: second(600),
        ring_timeout: second(30),
        ring: Ring::default(),
    }
}

fn second(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn body(text: &str) -> Body {
    Body { content_type: SDP.to_owned(), bytes: text.as_bytes().to_vec() }
}

fn audio_video() -> Body {
    body(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.20\r\ns=-\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n\
         m=video 4002 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
    )
}

fn audio_only() -> Body {
    body(
        "v=0\r\no=- 1 2 IN IP4 192.0.2.20\r\ns=-\r\nc=IN IP4 192.0.2.20\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n",
    )
}

fn prepared() -> Event {
    Event::Prepared { call: ID, ports: sdp::ports() }
}

fn stopped() -> Event {
    Event::Stopped { call: ID, report: Box::new(Report::default()) }
}

fn acked() -> sip::Event {
    sip::Event::Acked { session: SESSION, body: None }
}

fn said(call: &mut Call) -> Vec<Do> {
    std::iter::from_fn(|| call.poll()).collect()
}

fn forgotten(said: &[Do]) -> Option<&Ended> {
    said.iter().find_map(|what| match what {
        Do::Forget(ended) => Some(&**ended),
        _ => None,
    })
}

fn established(now: Instant) -> Call {
    let mut call = Call::incoming(now, ID, settings(1), Some(&audio_video()));
    call.handle_engine(now, prepared());
    call.handle_sip(now, acked());
    assert_eq!(call.state_name(), "established");
    said(&mut call);
    call
}

#[test]
fn a_call_whose_peer_and_engine_both_keep_silent_is_given_up() {
    let now = Instant::now();
    let mut call = established(now);
    call.hang_up(now, EndReason::HungUp);
    assert!(forgotten(&said(&mut call)).is_none());
    let at = call.wake_at().expect("a time to give up");
    call.handle_time(at);
    let told = said(&mut call);
    let ended = forgotten(&told).expect("the story is told");
    assert_eq!((ended.reason.clone(), ended.report.is_none()), (EndReason::HungUp, true));
    assert_eq!(call.wake_at(), None);
}

#[test]
fn the_first_reason_is_the_one_that_is_told() {
    let now = Instant::now();
    let mut call = established(now);
    call.handle_engine(now, Event::MediaLost { call: ID });
    call.hang_up(now, EndReason::HungUp);
    call.handle_engine(now, Event::Fault { call: ID, text: "late".to_owned() });
    call.handle_engine(now, stopped());
    call.handle_sip(now, sip::Event::ByeReceived { session: SESSION, reason: None });
    let told = said(&mut call);
    assert_eq!(forgotten(&told).map(|ended| &ended.reason), Some(&EndReason::MediaTimeout));
}

#[test]
fn an_engine_that_stops_by_itself_ends_its_call() {
    let now = Instant::now();
    let mut call = established(now);
    call.handle_engine(now, stopped());
    let told = said(&mut call);
    assert!(matches!(&told[..], [Do::Sip(SipDo::Bye { .. })]), "{told:?}");
    call.handle_sip(now, sip::Event::Ended { session: SESSION });
    let told = said(&mut call);
    assert!(matches!(forgotten(&told), Some(Ended { reason: EndReason::EngineFault(_), .. })));
}

#[test]
fn nothing_is_pressed_before_somebody_listens() {
    let now = Instant::now();
    let mut call = Call::incoming(now, ID, settings(1), Some(&audio_video()));
    said(&mut call);
    call.send_digits(now, "1");
    assert!(said(&mut call).is_empty());
}

/// The pause between the 491 and the next attempt.
fn pause(mut call: Call, now: Instant) -> Duration {
    call.hold();
    let (headers, request) = (Headers::default(), RequestId(1));
    let method = Method::Invite;
    let glare = sip::Event::Responded { session: SESSION, request, method, status: 491, headers, body: None };
    call.handle_sip(now, glare);
    let again = call.wake_at().expect("another attempt");
    said(&mut call);
    call.handle_time(again);
    assert!(matches!(&said(&mut call)[..], [Do::Sip(SipDo::Request { .. })]));
    again - now
}

#[test]
fn the_pause_after_a_491_depends_on_whose_call_it_is() {
    let now = Instant::now();
    let mut pauses = (Vec::new(), Vec::new());
    for origin in 0..200 {
        let mut called = Call::incoming(now, ID, settings(origin), Some(&audio_video()));
        called.handle_engine(now, prepared());
        called.handle_sip(now, acked());
        pauses.0.push(pause(called, now).as_millis());
        let mut caller = Call::outgoing(now, ID, settings(origin));
        caller.handle_engine(now, prepared());
        let (headers, body) = (Headers::default(), Some(audio_video()));
        caller.handle_sip(now, sip::Event::Answered { session: SESSION, fork: String::new(), headers, body });
        pauses.1.push(pause(caller, now).as_millis());
    }
    // RFC 3261 §14.1, in steps of 10 ms.
    assert!(pauses.0.iter().all(|pause| *pause <= 2_000 && pause % 10 == 0));
    assert!(pauses.1.iter().all(|pause| (2_100..=4_000).contains(pause) && pause % 10 == 0));
    for mut pauses in [pauses.0, pauses.1] {
        pauses.sort_unstable();
        pauses.dedup();
        assert!(pauses.len() > 50, "two boxes would meet again: {pauses:?}");
    }
}

/// Any event, sensible or not.
fn any_sip(rng: &mut StdRng) -> sip::Event {
    let (session, headers) = (SESSION, Headers::default());
    let request = RequestId(rng.random_range(0..3));
    let body = match rng.random_range(0..5) {
        0..=1 => Some(audio_video()),
        2 => Some(audio_only()),
        3 => Some(body("rubbish")),
        _ => None,
    };
    let status = [100, 180, 200, 408, 481, 487, 488, 491, 503][rng.random_range(0..9)];
    let method = if rng.random() { Method::Invite } else { Method::Info };
    match rng.random_range(0..16) {
        0 => sip::Event::Cancelled { session, reason: None },
        1..=2 => sip::Event::Acked { session, body },
        3 => sip::Event::AckTimedOut { session },
        4 => sip::Event::Reinvited { session, request, headers, body },
        5 => sip::Event::Withdrawn { session, request },
        6 => sip::Event::Requested { session, request, method: Method::Info, headers, body },
        7 => sip::Event::Progress { session, status: 183, fork: fork(rng), reliable: false, headers, body },
        8 => sip::Event::Answered { session, fork: fork(rng), headers, body },
        9 => sip::Event::Responded { session, request, method, status, headers, body },
        10 => sip::Event::Ended { session },
        11 => sip::Event::Updated { session, request, headers, body },
        12 => sip::Event::Pracked { session, request: Some(request), body },
        13 => sip::Event::RefreshWanted { session },
        14 if rng.random_bool(0.3) => sip::Event::Expired { session },
        _ if rng.random_bool(0.3) => sip::Event::ByeReceived { session, reason: None },
        _ => sip::Event::Failed { session, status: 487, reason: String::new(), headers },
    }
}

fn fork(rng: &mut StdRng) -> String {
    ["a", "b"][rng.random_range(0..2)].to_owned()
}

fn any_engine(rng: &mut StdRng) -> Event {
    let call = ID;
    match rng.random_range(0..12) {
        0..=5 => prepared(),
        6 => Event::NotPrepared { call, why: "no port".to_owned() },
        7 => Event::MediaLost { call },
        8 => Event::WantsKey { call },
        9 => Event::Digit { call, digit: '1' },
        10 => Event::Fault { call, text: "broken".to_owned() },
        _ => stopped(),
    }
}

/// Some ring before they answer.
fn ringing(rng: &mut StdRng, settings: CallSettings) -> CallSettings {
    let reliable = [Reliable::No, Reliable::Supported, Reliable::Required][rng.random_range(0..3)];
    let time = second([0, 0, 5, 30][rng.random_range(0..4)]);
    CallSettings { ring: Ring { time, early_media: rng.random(), reliable }, ..settings }
}

/// What one call said over its life, checked as it comes.
#[derive(Default)]
struct Rules {
    starts: usize,
    stops: usize,
    finals: usize,
    byes: usize,
    forgets: usize,
    prepared: bool,
}

impl Rules {
    fn check(&mut self, what: &Do) {
        assert_eq!(self.forgets, 0, "after the end: {what:?}");
        let is_engine = matches!(what, Do::Engine(_));
        assert!(!is_engine || self.stops == 0, "the engine was stopped before: {what:?}");
        match what {
            Do::Engine(Command::Prepare { .. }) => self.prepared = true,
            Do::Engine(Command::Start { .. }) => self.starts += 1,
            Do::Engine(Command::Update { .. } | Command::Answered { .. }) => {
                assert_eq!(self.starts, 1, "an update before the start");
            }
            Do::Engine(Command::Stop { .. }) => self.stops += 1,
            Do::Sip(SipDo::Respond { status, .. }) if *status >= 200 => self.finals += 1,
            Do::Sip(SipDo::Bye { .. } | SipDo::Cancel { .. }) => self.byes += 1,
            Do::Forget(_) => self.forgets += 1,
            Do::Sip(_) | Do::Tell(_) | Do::Engine(_) => {}
        }
        assert!(self.starts <= 1 && self.finals <= 1 && self.byes <= 1, "twice: {what:?}");
    }
}

#[test]
fn whatever_happens_in_whatever_order_a_call_ends_once_and_stops_its_engine() {
    let start = Instant::now();
    for seed in 0..3_000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut now = start;
        let offer = [Some(audio_video()), Some(audio_only()), None][rng.random_range(0..3)].clone();
        let mut call = match rng.random_range(0..3) {
            0 => Call::outgoing(now, ID, settings(seed)),
            _ => Call::incoming(now, ID, ringing(&mut rng, settings(seed)), offer.as_ref()),
        };
        let mut rules = Rules::default();
        for _ in 0..rng.random_range(1..60) {
            now += Duration::from_millis(rng.random_range(0..2_000));
            match rng.random_range(0..12) {
                0..=5 => call.handle_sip(now, any_sip(&mut rng)),
                6..=7 => call.handle_engine(now, any_engine(&mut rng)),
                8 => call.hold(),
                9 => call.resume(),
                10 if rng.random_bool(0.2) => call.hang_up(now, EndReason::HungUp),
                _ => call.handle_time(now),
            }
            said(&mut call).iter().for_each(|what| rules.check(what));
            if rules.forgets > 0 {
                // Its owner has dropped it.
                break;
            }
        }
        // Nobody says anything any more: time alone has to end it.
        for _ in 0..20 {
            let Some(at) = call.wake_at() else { break };
            now = now.max(at);
            call.handle_time(now);
            said(&mut call).iter().for_each(|what| rules.check(what));
        }
        if rules.forgets == 0 && call.state_name() == "answered" {
            // The endpoint watches over the missing ACK.
            call.handle_sip(now, sip::Event::AckTimedOut { session: SESSION });
            said(&mut call).iter().for_each(|what| rules.check(what));
            if let Some(at) = call.wake_at() {
                call.handle_time(at);
                said(&mut call).iter().for_each(|what| rules.check(what));
            }
        }
        assert_eq!(rules.forgets, 1, "seed {seed}: {} stays", call.state_name());
    }
}

#[test]
fn the_directions_of_a_held_call_come_back_as_they_were() {
    let now = Instant::now();
    let mut settings = settings(1);
    settings.media.video_direction = Direction::ReceiveOnly;
    let mut call = Call::incoming(now, ID, settings, Some(&audio_video()));
    call.handle_engine(now, prepared());
    call.handle_sip(now, acked());
    let directions = |call: &Call| (call.settings.media.audio_direction, call.settings.media.video_direction);
    let before = directions(&call);
    call.hold();
    assert_eq!(directions(&call), (Direction::SendOnly, Direction::Inactive));
    let (headers, request, method) = (Headers::default(), RequestId(1), Method::Invite);
    let refused =
        sip::Event::Responded { session: SESSION, request, method, status: 488, headers, body: None };
    call.handle_sip(now, refused);
    assert_eq!(directions(&call), before);
}
