//! The machine in virtual time, with a socket that takes everything while it is open, and with anything in any order.

use std::time::SystemTime;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::media::frame::Size;

/// A session in virtual time, with a socket that takes everything while it is open.
struct Play {
    machine: Machine,
    now: Instant,
    begun: Instant,
    open: bool,
    sent: Vec<(u64, Value)>,
    acts: Vec<Act>,
    events: Vec<AvatarEvent>,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn admission() -> Admission {
    Admission { reconnections: 3, ..Admission::of_handle("s-1@ws://127.0.0.1:9/ws").expect("a handle") }
}

const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 98\r\n\
                      a=rtpmap:98 H264/90000\r\na=sendonly\r\n";

impl Play {
    fn new(settings: AnamSettings) -> Self {
        let now = Instant::now();
        let codecs = vec![VideoCodec::H264, VideoCodec::Vp8];
        let terms = Terms {
            call: "c1".into(),
            codecs,
            most: Size::new(640, 480),
            language: String::new(),
            again: false,
        };
        let clock = Clock::new(now, SystemTime::UNIX_EPOCH);
        let machine = Machine::new(now, clock, settings, &terms);
        let (sent, acts, events) = (Vec::new(), Vec::new(), Vec::new());
        let mut play = Play { machine, now, begun: now, open: false, sent, acts, events };
        play.settle();
        play
    }

    fn ready(settings: AnamSettings) -> Self {
        let mut play = Play::new(settings);
        play.join();
        play.sent.clear();
        play.acts.clear();
        play.events.clear();
        play
    }

    fn join(&mut self) {
        self.with(|machine, now| machine.handle_admitted(now, admission()));
        self.with(|machine, _| machine.handle_offer("v=0"));
        self.open();
        self.say("answer", json!({ "type": "answer", "sdp": ANSWER }));
        self.with(|machine, now| machine.handle_connected(now));
        self.with(|machine, _| machine.handle_channel(true));
        self.say("sessionready", json!({}));
        self.with(|machine, now| machine.handle_picture(now));
    }

    fn settle(&mut self) {
        loop {
            while self.open
                && let Some(text) = self.machine.poll_text(self.now)
            {
                let at = (self.now - self.begun).as_millis() as u64;
                self.sent.push((at, serde_json::from_str(&text).expect("JSON")));
            }
            let Some(act) = self.machine.poll_act() else { break };
            if act == Act::Disconnect {
                self.open = false;
            }
            self.acts.push(act);
        }
        while let Some(event) = self.machine.poll_event() {
            self.events.push(event);
        }
    }

    fn with(&mut self, act: impl FnOnce(&mut Machine, Instant)) {
        act(&mut self.machine, self.now);
        self.settle();
    }

    fn open(&mut self) {
        self.open = true;
        self.with(|machine, now| machine.handle_open(now));
    }

    fn cut(&mut self) {
        self.open = false;
        self.with(|machine, now| machine.handle_closed(now, &Ended::Cut("end of stream".into())));
    }

    fn say(&mut self, action: &str, payload: Value) {
        let text = json!({ "actionType": action, "sessionId": "s-1", "payload": payload }).to_string();
        self.with(|machine, now| machine.handle_text(now, &text));
    }

    fn tell(&mut self, kind: &str, data: Value) {
        let text = json!({ "messageType": kind, "data": data }).to_string();
        self.with(|machine, _| machine.handle_data(&text));
    }

    /// Time passes; sound and pictures come, if `media`.
    fn pass(&mut self, length: Duration, media: bool) {
        let until = self.now + length;
        while self.now < until {
            let step = self.machine.wake_at().unwrap_or(until).clamp(self.now, self.now + ms(100)).min(until);
            self.now = step.max(self.now + ms(1)).min(until);
            if media {
                self.with(|machine, now| machine.handle_picture(now));
            }
            self.with(Machine::handle_time);
            assert!(
                self.machine.wake_at().is_none_or(|at| at > self.now),
                "what was due was done: {:?}",
                self.machine
            );
        }
    }

    fn sent(&mut self) -> Vec<String> {
        let all = std::mem::take(&mut self.sent).into_iter();
        all.map(|(_, text)| text["actionType"].as_str().expect("an action").to_owned()).collect()
    }

    fn acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events).iter().map(|event| format!("{event:?}")).collect()
    }

    /// The last event, which must be a loss.
    fn lost(&mut self) -> Cause {
        match self.events.pop() {
            Some(AvatarEvent::Lost(lost)) => lost.cause,
            other => panic!("{other:?}"),
        }
    }
}

fn microphone() -> AnamSettings {
    AnamSettings { mode: Mode::Microphone, ..AnamSettings::default() }
}

#[test]
fn a_session_is_asked_for_joined_and_ready_once_the_engine_and_the_connection_are() {
    let mut play = Play::new(AnamSettings::default());
    assert_eq!(play.acts(), [Act::Ask]);
    play.with(|machine, now| machine.handle_admitted(now, admission()));
    assert_eq!(play.told(), [r#"Opened { session: "s-1@ws://127.0.0.1:9/ws" }"#]);
    assert_eq!(play.acts(), [Act::Connect, Act::Offer { codecs: vec![VideoCodec::H264] }]);
    play.with(|machine, _| machine.handle_offer("v=0"));
    play.open();
    assert_eq!(play.sent(), ["offer"]);
    play.say("icecandidate", json!({ "candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": 0 }));
    play.say("answer", json!({ "type": "answer", "sdp": ANSWER }));
    let acts = play.acts();
    assert!(matches!(&acts[..], [Act::Answer(_), Act::Candidate(_)]), "{acts:?}");
    play.say("sessionready", json!({}));
    play.with(|machine, now| machine.speak(now, 1, &[1; 9_600]));
    assert_eq!((play.sent().len(), play.told().len()), (0, 0), "nobody would hear it");
    play.with(|machine, now| machine.handle_connected(now));
    assert_eq!(play.told(), ["Ready"]);
    play.pass(Duration::from_secs(11), true);
    assert_eq!(play.sent(), ["heartbeat", "heartbeat"]);
}

#[test]
fn turns_go_up_numbered_from_zero_and_ended_once() {
    let mut play = Play::ready(AnamSettings::default());
    for turn in [1, 2] {
        for _ in 0..25 {
            play.with(|machine, now| machine.speak(now, turn, &[5; 480]));
        }
        play.with(|machine, _| machine.end(turn));
        play.with(|machine, _| machine.end(turn));
        let sent = std::mem::take(&mut play.sent);
        let numbers: Vec<_> =
            sent.iter().map(|(_, text)| text["payload"]["sequenceNumber"].as_u64()).collect();
        assert_eq!(numbers, [Some(0), Some(1), Some(2), None], "100, 240 and 160 ms");
        assert_eq!(sent[3].1["actionType"], "agentaudioinputend");
        assert_eq!(sent[0].1["payload"]["sampleRate"], 24_000);
    }
    play.with(|machine, _| machine.end(7));
    assert_eq!(play.sent(), [""; 0], "a turn of which nothing went up");
}

#[test]
fn an_interruption_is_said_on_the_data_channel_first_and_takes_back_what_waits() {
    let mut play = Play::ready(AnamSettings::default());
    play.with(|machine, now| machine.speak(now, 1, &[5; 24_000]));
    assert_eq!(play.sent().len(), 4);
    play.cut();
    play.with(|machine, now| machine.speak(now, 1, &[5; 24_000]));
    play.acts.clear();
    play.with(|machine, now| machine.interrupt(now, 1));
    let interrupts = play.acts();
    assert!(
        matches!(&interrupts[..], [Act::Data(text)]
            if text.contains(r#""message_type":"interrupt""#) && text.contains("1970-01-01T00:00:00Z")),
        "{interrupts:?}"
    );
    play.with(|machine, now| machine.interrupt(now, 1));
    assert_eq!(play.acts(), [], "once");
    play.pass(ms(100), true);
    play.open();
    play.with(|machine, now| machine.speak(now, 1, &[5; 24_000]));
    assert_eq!(play.sent(), ["agentaudioinputend"], "nothing of the turn, and its end");
    play.with(|machine, now| machine.speak(now, 2, &[5; 2_400]));
    assert_eq!(play.sent[0].1["payload"]["sequenceNumber"], 0);
    // A turn whose end went up is cut on the data channel alone.
    play.with(|machine, _| machine.end(2));
    play.sent.clear();
    play.acts.clear();
    play.with(|machine, now| machine.interrupt(now, 2));
    assert_eq!((play.sent().len(), play.acts().len()), (0, 1));
}

#[test]
fn a_lost_socket_is_opened_again_and_what_waited_goes_out() {
    let mut play = Play::ready(AnamSettings::default());
    play.cut();
    assert!(play.told()[0].starts_with("Warning"));
    play.with(|machine, now| machine.speak(now, 1, &[5; 2_400]));
    play.pass(ms(99), true);
    assert_eq!(play.acts(), []);
    play.pass(ms(1), true);
    assert_eq!(play.acts(), [Act::Connect], "and the connection that stands is left alone");
    play.with(|machine, now| machine.handle_unopened(now, &Failure::Unreached("refused".into())));
    play.pass(ms(200), true);
    assert_eq!(play.acts(), [Act::Connect]);
    play.open();
    assert_eq!(play.sent(), ["agentaudioinput"]);
    assert_eq!(play.machine.figures().reopened, 1);
    play.pass(STABLE, true);
    // What was before is forgotten: three tries again.
    for _ in 0..3 {
        play.cut();
        play.pass(ms(300), true);
        assert_eq!(play.acts().pop(), Some(Act::Connect));
        play.open();
    }
    play.told();
    play.acts();
    play.cut();
    assert_eq!(play.lost(), Cause::Connection);
    // It is told that it is over, if it comes back in time.
    assert_eq!(play.acts(), [Act::ClosePeer, Act::Connect]);
    play.with(|machine, now| machine.handle_unopened(now, &Failure::Unreached("refused".into())));
    play.pass(FAREWELL_AGAIN, false);
    assert_eq!(play.acts(), [Act::Connect]);
    play.sent.clear();
    play.open();
    assert_eq!(play.sent(), ["endsession"]);
    play.pass(LONG_FAREWELL, false);
    assert_eq!(play.machine.wake_at(), None);
}

#[test]
fn a_gateway_that_refuses_is_not_asked_again() {
    let mut play = Play::ready(AnamSettings::default());
    let ended = Ended::Closed { code: 1008, reason: "policy".into() };
    play.with(|machine, now| machine.handle_closed(now, &ended));
    assert_eq!(play.lost(), Cause::Connection, "the session is gone");
    let mut play = Play::new(AnamSettings::default());
    play.with(|machine, now| machine.handle_admitted(now, admission()));
    play.with(|machine, now| machine.handle_closed(now, &ended));
    assert_eq!(play.lost(), Cause::Refused, "it never began");
}

#[test]
fn a_session_that_is_not_given_says_what_can_be_done_about_it() {
    let failed = |status| Failure::Failed { status, text: "broken".into() };
    let refused = |status| Failure::Refused { status, text: "no".into() };
    for (failure, tries, cause) in [
        (refused(401), 1, Cause::Refused),
        (refused(402), 1, Cause::Refused),
        (Failure::Busy { retry_after_ms: None }, 1, Cause::Busy),
        (failed(503), 3, Cause::Busy),
        (failed(500), 3, Cause::Connection),
        (Failure::Cut, 3, Cause::Connection),
        (Failure::TooSlow(10_000), 1, Cause::Connection),
    ] {
        let mut play = Play::new(AnamSettings::default());
        let mut asked = 0;
        while play.acts().contains(&Act::Ask) {
            asked += 1;
            play.with(|machine, now| machine.handle_refused(now, &failure));
            play.pass(ms(600), false);
        }
        assert_eq!((asked, play.lost()), (tries, cause), "{failure}");
    }
}

#[test]
fn what_is_not_ready_in_time_is_left_and_told_so() {
    let mut play = Play::new(AnamSettings::default());
    play.with(|machine, now| machine.handle_admitted(now, admission()));
    play.with(|machine, _| machine.handle_offer("v=0"));
    play.open();
    play.say("answer", json!({ "type": "answer", "sdp": ANSWER }));
    play.with(|machine, now| machine.handle_connected(now));
    play.sent.clear();
    // Slow, and still taken.
    play.pass(Duration::from_secs(10), true);
    assert_eq!(play.told().len(), 1);
    play.pass(Duration::from_secs(20), true);
    assert_eq!(play.sent().pop().as_deref(), Some("endsession"));
    assert_eq!(play.lost(), Cause::Connection);
    play.with(|machine, now| {
        machine.handle_closed(now, &Ended::Closed { code: 1000, reason: String::new() })
    });
    assert_eq!(play.told(), [""; 0], "no end before it is asked for");
    play.with(Machine::close);
    assert_eq!(play.told().pop().as_deref(), Some("Closed { ended: true }"));
}

#[test]
fn the_engines_end_is_an_end_and_is_not_answered() {
    let mut play = Play::ready(AnamSettings::default());
    play.say("warning", json!("nearly out of credit"));
    play.say("endsession", json!("out of credit"));
    assert_eq!(play.events.len(), 2);
    assert!(format!("{:?}", play.events[0]).contains("nearly out of credit"));
    assert_eq!(play.lost(), Cause::Over);
    assert_eq!(play.sent(), [""; 0]);
    assert_eq!(play.acts(), [Act::Disconnect, Act::ClosePeer]);
}

#[test]
fn an_engine_that_hangs_up_has_a_moment_to_say_why() {
    let mut play = Play::ready(AnamSettings::default());
    play.with(Machine::handle_hung_up);
    play.pass(ms(100), true);
    play.say("endsession", json!("out of credit"));
    assert_eq!(play.lost(), Cause::Over);
    let mut play = Play::ready(AnamSettings::default());
    play.with(Machine::handle_hung_up);
    play.pass(ms(300), true);
    assert_eq!(play.lost(), Cause::Connection);
}

#[test]
fn a_session_is_left_before_its_time_is_over() {
    let longest = Duration::from_secs(100);
    let mut play = Play::ready(AnamSettings { longest: Some(longest), ..AnamSettings::default() });
    play.pass(Duration::from_secs(74), true);
    assert_eq!(play.told(), [""; 0]);
    play.pass(Duration::from_secs(2), true);
    assert_eq!(play.told(), ["NearLimit { left: 22s }"]);
    play.sent.clear();
    play.pass(Duration::from_secs(21) + FAREWELL, true);
    assert_eq!(play.sent().pop().as_deref(), Some("endsession"), "it is told so first");
    assert_eq!(play.lost(), Cause::Over);
    assert!(play.now - play.begun < longest);
}

#[test]
fn a_farewell_reaches_the_engine_whenever_it_is_said() {
    let close = |play: &mut Play| play.with(Machine::close);
    let closed = Ended::Closed { code: 1000, reason: String::new() };
    // While it is asked for: what is given is given back.
    let mut play = Play::new(AnamSettings::default());
    close(&mut play);
    play.pass(ms(2_000), false);
    play.with(|machine, now| machine.handle_admitted(now, admission()));
    play.open();
    assert_eq!(play.sent(), ["endsession"]);
    play.with(|machine, now| machine.handle_closed(now, &closed));
    assert_eq!(play.told().last().map(String::as_str), Some("Closed { ended: true }"));
    // While it is joined, and while the socket is away.
    for away in [false, true] {
        let mut play = Play::new(AnamSettings::default());
        play.with(|machine, now| machine.handle_admitted(now, admission()));
        if away {
            play.open();
            play.cut();
            play.acts.clear();
        }
        close(&mut play);
        assert!(play.acts().contains(&Act::Connect), "{away}");
        play.open();
        assert_eq!(play.sent(), ["endsession"]);
        play.with(|machine, now| machine.handle_closed(now, &closed));
        assert_eq!(play.told().last().map(String::as_str), Some("Closed { ended: true }"));
    }
    // Spoken in: what waits is dropped; an engine that says nothing is not waited for long.
    let mut play = Play::ready(AnamSettings::default());
    close(&mut play);
    close(&mut play);
    assert_eq!(play.sent(), ["endsession"]);
    assert_eq!(play.acts(), [Act::ClosePeer, Act::Disconnect]);
    assert_eq!(play.told(), [""; 0]);
    play.pass(FAREWELL, false);
    assert_eq!(play.told(), ["Closed { ended: false }"]);
    // Never given, never opened: within five seconds.
    let mut play = Play::new(AnamSettings::default());
    close(&mut play);
    play.pass(Duration::from_secs(5), false);
    assert_eq!(play.told(), ["Closed { ended: false }"]);
}

#[test]
fn an_engine_that_thinks_for_itself_hears_speaks_and_is_read() {
    let mut play = Play::ready(microphone());
    assert!(play.machine.hears());
    play.with(|machine, now| machine.speak(now, 1, &[5; 24_000]));
    assert_eq!(play.sent(), [""; 0], "our voice is not its voice");
    play.tell("userSpeechStarted", json!({}));
    play.tell("userSpeechEnded", json!({}));
    let words =
        json!({ "message_id": "m", "role": "user", "content": "What time is it?", "end_of_speech": true });
    play.tell("speechText", words);
    assert_eq!(
        play.told(),
        [
            "CallerSpeaks(true)",
            "CallerSpeaks(false)",
            r#"Transcript { speaker: Caller, text: "What time is it?", last: true }"#
        ]
    );
    for _ in 0..25 {
        play.with(|machine, now| machine.handle_sound(now, &[3_000; 960]));
        play.now += ms(20);
    }
    let cut = json!({ "message_id": "n", "role": "persona", "content": "It is", "interrupted": true });
    play.tell("speechText", cut);
    assert_eq!(
        play.told(),
        [
            "Speaking { turn: 1 }",
            r#"Transcript { speaker: Avatar, text: "It is", last: true }"#,
            "Ended { turn: 1, interrupted: true }",
            "Hushed"
        ]
    );
    play.with(|machine, now| assert!(machine.say("Hello.") && machine.text(now, "Hi.")));
    assert_eq!(play.sent(), ["talkstream"]);
    assert!(matches!(&play.acts()[..], [Act::Data(text)] if text.contains(r#""message_type":"speech""#)));
    let mut play = Play::ready(AnamSettings::default());
    play.with(|machine, now| {
        assert!(!machine.say("Hello.") && !machine.text(now, "Hi.") && !machine.hears())
    });
}

#[test]
fn too_much_speech_is_dropped_and_counted_not_kept() {
    let mut play = Play::ready(AnamSettings::default());
    play.cut();
    for _ in 0..400 {
        play.machine.speak(play.now, 1, &[5; 24_000]);
    }
    assert!(play.machine.outbox_bytes < OUTBOX_BYTES + (64 << 10));
    assert!(play.machine.figures().dropped > 100);
}

/// Whatever comes in whatever order: nothing panics, nothing is due for ever, one end and nothing after it.
#[test]
fn any_order_of_anything_ends_once() {
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let longest = Some(Duration::from_secs(random.random_range(1..60)));
        let mode = if random.random() { Mode::Microphone } else { Mode::Passthrough };
        let mut play = Play::new(AnamSettings { longest, mode, ..AnamSettings::default() });
        for _ in 0..random.random_range(5..80) {
            chance(&mut play, random.random_range(0..24));
            play.pass(ms(random.random_range(0..1_500)), random.random());
        }
        play.with(Machine::close);
        play.pass(Duration::from_secs(5), false);
        let lost = play.events.iter().position(|event| matches!(event, AvatarEvent::Lost(_)));
        let closed = play.events.iter().position(|event| matches!(event, AvatarEvent::Closed { .. }));
        assert_eq!(closed, Some(play.events.len() - 1), "seed {seed}: {:?}", play.events);
        assert!(lost.is_none_or(|at| at + 2 == play.events.len()), "seed {seed}: {:?}", play.events);
    }
}

fn chance(play: &mut Play, number: u32) {
    match number {
        0 => play.with(|machine, now| machine.handle_admitted(now, admission())),
        1 => play.with(|machine, now| machine.handle_refused(now, &Failure::Cut)),
        2 => play.open(),
        3 => play.cut(),
        4 => play.with(|machine, now| machine.handle_unopened(now, &Failure::Cut)),
        5 => play.say("answer", json!({ "sdp": ANSWER })),
        6 => play.say("answer", json!({ "sdp": "v=0" })),
        7 => play.say("sessionready", Value::Null),
        8 => play.say("talkinputstreaminterrupted", json!({})),
        9 => play.with(|machine, _| machine.handle_offer("v=0")),
        10 => play.with(|machine, now| machine.handle_connected(now)),
        11 => play.with(|machine, now| machine.handle_disconnected(now)),
        12 => play.with(|machine, now| machine.handle_failed(now)),
        13 => play.with(|machine, _| machine.handle_channel(true)),
        14 => play.with(|machine, now| machine.speak(now, 1, &[9; 9_000])),
        15 => play.with(|machine, now| machine.interrupt(now, 1)),
        16 => play.with(|machine, now| machine.speak(now, 3, &[9; 9_000])),
        17 => play.with(|machine, _| machine.end(3)),
        18 => play.with(|machine, now| machine.handle_sound(now, &[900; 960])),
        19 => play.with(|machine, now| machine.handle_sound(now, &[0; 960])),
        20 => play.with(|machine, _| machine.handle_data("{")),
        21 => play.tell("speechText", json!({ "role": "persona", "content": "x", "interrupted": true })),
        22 => play.with(|machine, _| {
            machine.say("x");
        }),
        _ => play.with(|machine, now| {
            machine.text(now, "x");
        }),
    }
}
