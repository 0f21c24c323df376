//! Dialogs as other stacks see them: reliable ringing, media before the answer, UPDATE, session timers of either side.

use std::net::{SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::appliance::{Appliance, eyeline};
use crate::harness::capture::Stream;
use crate::harness::picture::{self, Clip, judge_face};
use crate::harness::sipp::{Calls, Script, Sipp};
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, turn, wait_for};

/// Sound alone, nothing to look at.
const PLAIN: &str = r#"agent.mirror={kind="mirror", audio="echo"}"#;
const AT_ONCE: &str = r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false}]"#;
/// Rings one second with its media flowing.
const EARLY: &str =
    r#"route=[{to="*", agent="mirror", censor=false, detect=[], record=false, ring_s=1, early_media=true}]"#;

fn play(appliance: &Appliance, scenarios: &[&str]) {
    let calls = Calls { patience: Duration::from_secs(6), ..Calls::default() };
    for name in scenarios {
        let passed = Sipp::caller(Script::File(name), &appliance.uri(), calls).passed();
        passed.unwrap_or_else(|why| panic!("{name}: {why}\n{}", appliance.process.last_words()));
    }
}

/// The JSON of the live calls.
fn live(appliance: &Appliance) -> serde_json::Value {
    let (_, page) = appliance.get("/api/v1/calls").expect("the console answers");
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    page["live"].clone()
}

fn assert_no_call_left(appliance: &Appliance) {
    let none = wait_for(Duration::from_secs(8), || live(appliance).as_array()?.is_empty().then_some(()));
    assert!(none.is_some(), "a call is left: {}", live(appliance));
}

#[test]
fn sipp_is_rung_reliably_and_gives_up_at_its_leisure() {
    let _turn = turn();
    let appliance = Appliance::start(&[PLAIN, EARLY]);
    play(&appliance, &["prack", "prack_of_nothing", "prack_late_offer", "cancel_while_looked_at"]);
    assert_no_call_left(&appliance);
}

#[test]
fn sipp_refreshes_its_sessions() {
    let _turn = turn();
    let appliance = Appliance::start(&[PLAIN, AT_ONCE]);
    play(&appliance, &["refreshes", "too_brief"]);
    assert_no_call_left(&appliance);
}

#[test]
fn sipp_is_refreshed_by_update_and_by_reinvite_and_hung_up_when_it_stops() {
    let _turn = turn();
    let brief = ["sip.session_expires_s=2", "sip.min_se_s=1", PLAIN, AT_ONCE];
    let appliance = Appliance::start(&brief);
    play(&appliance, &["refreshed_by_update", "refreshed_by_reinvite", "stops_refreshing"]);
    assert_no_call_left(&appliance);
}

#[test]
fn sipp_rings_reliably_wants_longer_sessions_and_moves_the_media() {
    let _turn = turn();
    for name in ["rings_reliably", "wants_longer", "updates"] {
        let calls = Calls { patience: Duration::from_secs(9), ..Calls::default() };
        let callee = Sipp::callee(Script::File(name), calls);
        let output = eyeline()
            .args(["call", &callee.uri(), "--json", "--audio-only", "--duration", "1.5"])
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        callee.passed().unwrap_or_else(|why| panic!("{name}: {why}\n{report}"));
        assert!(report.contains("\"hung-up\""), "{name}: {report}");
    }
}

#[test]
fn a_caller_is_seen_before_it_is_answered() {
    let _turn = turn();
    let appliance = Appliance::start(&[r#"route=[{to="*", agent="mirror", ring_s=5, early_media=true}]"#]);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&appliance.uri());
    let early = caller.ring(&caller.offer(Some(&Caller::h264_offer(1))));
    assert_eq!((early.status, early.ports().len()), (183, 2), "{early:?}");
    let mut seen = None;
    let sending = Sending { time: Duration::from_secs(4), video: Some(&clip), ..Sending::default() };
    let shown = caller.stream_as(&early, &sending, |_, at| {
        if at > Duration::from_millis(3_500) && seen.is_none() {
            seen = Some(live(&appliance)[0].clone());
        }
    });
    let seen = seen.expect("a look at the console");
    assert_eq!(seen["state"], "early", "{seen}");
    assert!(seen["video"]["pictures_decoded"].as_u64() > Some(25), "decoded before the answer: {seen}");
    assert!(shown.video.per_second() >= 10.0, "{:.1} fps come back meanwhile", shown.video.per_second());
    let answer = caller.picked_up(Duration::from_secs(4));
    assert_eq!((answer.status, &answer.sdp), (200, &early.sdp), "{answer:?}");
    let talked = caller.stream(&answer, Duration::from_secs(2), Some(&clip));
    assert_eq!(live(&appliance)[0]["state"], "established");
    caller.hang_up();
    assert!(talked.audio.packets.len() > 80, "{} packets of sound", talked.audio.packets.len());
    // What was not answered yet is hidden like everything else.
    let early = judge_face(&picture::read_h264(&shown.video.h264()), &Clip::open("face.mp4"));
    assert!(early.pictures > 20 && early.hidden == early.pictures, "{early:?}");
    let recording = appliance.finished_recording();
    let kept = judge_face(&picture::read(&recording), &Clip::open("face.mp4"));
    assert!(kept.pictures > 60 && kept.hidden == kept.pictures, "early pictures are recorded: {kept:?}");
}

/// A door station that shows who is there before anybody in it has answered.
struct Door {
    signalling: UdpSocket,
    audio: UdpSocket,
    video: UdpSocket,
}

impl Door {
    fn new() -> Door {
        let bind = || UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
        let door = Door { signalling: bind(), audio: bind(), video: bind() };
        door.signalling.set_read_timeout(Some(Duration::from_millis(5))).expect("a limit above zero");
        door
    }

    fn uri(&self) -> String {
        format!("sip:door@{}", self.signalling.local_addr().expect("a bound socket"))
    }

    fn heard(&self) -> Option<(String, SocketAddr)> {
        let mut buffer = [0; 8192];
        let (length, from) = self.signalling.recv_from(&mut buffer).ok()?;
        Some((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
    }

    fn say(&self, status: &str, request: &str, to: SocketAddr, sdp: &str) {
        let kept = ["via:", "from:", "call-id:", "cseq:"];
        let lines: String = request
            .lines()
            .filter(|line| kept.iter().any(|name| line.to_ascii_lowercase().starts_with(name)))
            .map(|line| format!("{}\r\n", line.trim_end()))
            .collect();
        let own =
            request.lines().find(|line| line.to_ascii_lowercase().starts_with("to:")).unwrap_or_default();
        let tag = if own.contains(";tag=") { "" } else { ";tag=door" };
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let contact = format!("Contact: <{}>\r\n", self.uri());
        let text = format!(
            "SIP/2.0 {status}\r\n{lines}{}{tag}\r\n{contact}{kind}Content-Length: {}\r\n\r\n{sdp}",
            own.trim_end(),
            sdp.len()
        );
        self.signalling.send_to(text.as_bytes(), to).expect("loopback takes datagrams");
    }

    /// Takes one call: 183 with its media, the answer after `ring`, both streams until the BYE.
    fn open(self, clip: Packetized, ring: Duration) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let (invite, caller) = wait_for(Duration::from_secs(10), || {
                self.heard().filter(|(text, _)| text.starts_with("INVITE "))
            })
            .expect("an INVITE");
            let port = |kind: &str| -> u16 {
                let line = invite.lines().find_map(|line| line.strip_prefix(&format!("m={kind} ")));
                line.and_then(|line| line.split(' ').next()?.parse().ok()).expect("an m-line")
            };
            let to = |kind: &str| SocketAddr::from(([127, 0, 0, 1], port(kind)));
            let own = |socket: &UdpSocket| socket.local_addr().expect("a bound socket").port();
            let sdp = format!(
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {} RTP/AVP 8\r\n\
                 m=video {} RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 profile-level-id=42e01f;\
                 packetization-mode=1\r\n",
                own(&self.audio),
                own(&self.video)
            );
            self.say("183 Session Progress", &invite, caller, &sdp);
            let (mut sound, mut pictures) = (Rtp::new(8, 160), Rtp::new(96, 6_000));
            let start = Instant::now();
            let mut answered = false;
            while start.elapsed() < Duration::from_secs(20) {
                while start.elapsed() > sound.count * Duration::from_millis(20) {
                    sound.send(&self.audio, to("audio"), &[vec![0xd5; 160]]);
                }
                while start.elapsed() > pictures.count * Duration::from_micros(66_667) {
                    let unit = &clip.units[pictures.count as usize % clip.units.len()];
                    pictures.send(&self.video, to("video"), unit);
                }
                if !answered && start.elapsed() > ring {
                    self.say("200 OK", &invite, caller, &sdp);
                    answered = true;
                }
                if let Some((text, from)) = self.heard()
                    && text.starts_with("BYE ")
                {
                    return self.say("200 OK", &text, from, "");
                }
            }
            panic!("nobody hung up");
        })
    }
}

/// One outgoing RTP stream.
struct Rtp {
    payload_type: u8,
    step: u32,
    /// Pictures or blocks so far.
    count: u32,
    sequence: u16,
}

impl Rtp {
    fn new(payload_type: u8, step: u32) -> Rtp {
        Rtp { payload_type, step, count: 0, sequence: 7 }
    }

    fn send(&mut self, socket: &UdpSocket, to: SocketAddr, payloads: &[Vec<u8>]) {
        for (number, payload) in payloads.iter().enumerate() {
            let marker = u8::from(self.payload_type >= 96 && number + 1 == payloads.len()) << 7;
            let mut packet = vec![0x80, marker | self.payload_type];
            packet.extend(self.sequence.to_be_bytes());
            packet.extend(self.count.wrapping_mul(self.step).to_be_bytes());
            packet.extend(u32::from(self.payload_type).to_be_bytes());
            packet.extend_from_slice(payload);
            let _ = socket.send_to(&packet, to);
            self.sequence = self.sequence.wrapping_add(1);
        }
        self.count += 1;
    }
}

#[test]
fn a_door_that_is_called_is_seen_before_it_answers() {
    let _turn = turn();
    let door = Door::new();
    let uri = door.uri();
    let open = door.open(Packetized::read(&media("scene.mp4"), 1), Duration::from_secs(3));
    let folder = tempfile::tempdir().unwrap();
    let output = eyeline()
        .current_dir(folder.path())
        .args(["call", &uri, "--json", "--duration", "2", "--out", "received"])
        .output()
        .unwrap();
    open.join().expect("the door saw the whole call");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(output.status.code(), Some(0), "{report}");
    let setup = &report["setup_ms"];
    assert!(setup["early_media"].as_f64() < Some(1_500.0), "{report}");
    assert!(setup["answered"].as_f64() > Some(2_900.0), "{report}");
    // Two seconds of talking are 30 pictures; the rest was seen while it rang.
    assert!(report["video"]["pictures_decoded"].as_u64() > Some(55), "{report}");
    let file = std::fs::read_dir(folder.path().join("received"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "mp4"))
        .expect("what was received");
    let seconds = crate::harness::appliance::playable_seconds(&file);
    assert!(seconds > 4.0, "the early pictures are in the file: {seconds:.1} s");
}

/// Sound all the time.
fn assert_sound(stream: &Stream, time: Duration, when: &str) {
    let due = time.as_secs_f64() * 50.0;
    let count = stream.packets.len() as f64;
    assert!(count > due * 0.8, "{when}: {count} of {due} packets of sound");
    assert!(stream.packets.first().is_some_and(|packet| packet.at < 0.1), "{when}: sound at once");
}

#[test]
fn a_call_survives_twenty_refreshes_of_ours_with_sound_after_each() {
    let _turn = turn();
    let appliance = Appliance::start(&["sip.session_expires_s=2", "sip.min_se_s=1", PLAIN, AT_ONCE]);
    let mut caller = Caller::new(&appliance.uri());
    caller.more =
        "Supported: timer\r\nSession-Expires: 2;refresher=uas\r\nAllow: INVITE, ACK, BYE, UPDATE\r\n".into();
    let answer = caller.invite(&caller.offer(None));
    assert!(answer.headers.contains("Session-Expires: 2;refresher=uas"), "{answer:?}");
    let start = Instant::now();
    while caller.refreshes < 20 {
        assert!(start.elapsed() < Duration::from_secs(30), "{} refreshes", caller.refreshes);
        let before = caller.refreshes;
        let time = Duration::from_millis(500);
        let heard = caller.stream(&answer, time, None);
        assert_sound(&heard.audio, time, &format!("after refresh {before}"));
    }
    caller.hang_up();
    assert_no_call_left(&appliance);
}

#[test]
fn a_call_survives_twenty_refreshes_of_the_callers_with_sound_after_each() {
    let _turn = turn();
    let appliance = Appliance::start(&["sip.session_expires_s=2", "sip.min_se_s=1", PLAIN, AT_ONCE]);
    let mut caller = Caller::new(&appliance.uri());
    caller.more = "Supported: timer\r\nSession-Expires: 2;refresher=uac\r\n".into();
    let offer = caller.offer(None);
    let answer = caller.invite(&offer);
    for round in 0..20 {
        if round % 2 == 0 {
            assert_eq!(caller.update(), 200, "round {round}");
        } else {
            assert_eq!(caller.reinvite(&offer).status, 200, "round {round}");
        }
        let time = Duration::from_millis(400);
        let heard = caller.stream(&answer, time, None);
        assert_sound(&heard.audio, time, &format!("round {round}"));
    }
    // It stops: the session ends a third before its time.
    assert!(caller.is_hung_up(Duration::from_secs(3)));
    assert_no_call_left(&appliance);
}
