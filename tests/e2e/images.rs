//! Pictures given to an agent, given by it, shown to its caller; words on the outgoing picture.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;

use crate::harness::appliance::Appliance;
use crate::harness::emulators::models::Reply;
use crate::harness::emulators::providers::Providers;
use crate::harness::picture::{Area, Clip, Picture, judge_face, read, read_h264};
use crate::harness::process::output_of;
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, turn};
use crate::talk::{events, silence, spoken};

/// Where captions stand, where a notice does, and what neither touches.
const BOTTOM: Area = Area { left: 0, top: 290, right: 640, bottom: 360 };
const TOP: Area = Area { left: 0, top: 0, right: 640, bottom: 40 };
const MIDDLE: Area = Area { left: 0, top: 70, right: 640, bottom: 270 };

/// Makes a picture with FFmpeg.
pub fn made(arguments: &[&str], file: &Path) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]).args(arguments);
    output_of(command.args(["-frames:v", "1"]).arg(file));
    std::fs::read(file).expect("what FFmpeg wrote")
}

/// A request with any body: status, and the body of the answer.
fn ask(appliance: &Appliance, line: &str, kind: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(appliance.console).expect("the console listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let head = format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("a head");
    // A body that is too large is not read to its end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
    let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1).and_then(|text| text.parse().ok());
    (status.unwrap_or(0), answer[(end + 4).min(answer.len())..].to_vec())
}

pub fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:{kind};base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn judged(bytes: &[u8], suffix: &str) -> crate::harness::picture::FaceReport {
    let file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a file");
    judge_face(&read(file.path()), &Clip::open("face.mp4"))
}

/// Whether two pictures show the same there.
fn same(one: &Picture, other: &Picture, area: Area) -> bool {
    one.psnr(other, Some(area)) > 32.0
}

struct Drawn {
    _folder: tempfile::TempDir,
    plan: Vec<u8>,
    map: std::path::PathBuf,
    face: Vec<u8>,
    settings: Vec<String>,
}

/// What the operator has, and an agent over servers that speak like OpenAI.
fn drawn(root: &str) -> Drawn {
    let folder = tempfile::tempdir().expect("a folder");
    let (plan, map) = (folder.path().join("plan.png"), folder.path().join("map.jpg"));
    let plan_bytes = made(&["-f", "lavfi", "-i", "testsrc2=size=320x200:rate=1"], &plan);
    made(&["-f", "lavfi", "-i", "smptebars=size=640x360:rate=1"], &map);
    let face =
        made(&["-i", &media("face.mp4").display().to_string(), "-q:v", "2"], &folder.path().join("f.jpg"));
    let settings = vec![
        format!(r#"stt.s={{base_url="{root}", model="whisper-1", api_key="key"}}"#),
        format!(r#"llm.l={{base_url="{root}", model="m", api_key="key", sees=true}}"#),
        format!(r#"tts.t={{base_url="{root}", model="tts-1", voice="alloy", api_key="key"}}"#),
        format!(
            r#"agent.a={{kind="pipeline", stt="s", llm="l", tts="t", tools=["send_image", "show"], display_name="Desk",
                disclosure="You talk to a machine.", context=[{{text="The plan.", image="{}"}}]}}"#,
            plan.display()
        ),
        format!(r#"picture.map={{file="{}"}}"#, map.display()),
        r#"route=[{to="*", agent="a", detect=[], censor=true}]"#.to_owned(),
        r#"overlay.watermark="""#.to_owned(),
        "overlay.captions=true".to_owned(),
        "recording.min_free_gib=0".to_owned(),
        r#"talk.turn_detection="vad""#.to_owned(),
    ];
    Drawn { _folder: folder, plan: plan_bytes, map, face, settings }
}

#[test]
fn pictures_are_given_cleared_sent_and_shown_and_words_are_written() {
    let _turn = turn();
    let providers = Providers::start();
    providers.hear(&["What do you see?", "Please keep it."]);
    providers.answer(|asked| {
        let keeps = asked.said.contains("keep it");
        let calls = vec![("send_image".to_owned(), json!({"picture": "snapshot", "text": "the caller"}))];
        Reply {
            text: if keeps { String::new() } else { "I see what you gave me.".to_owned() },
            calls: if keeps { calls } else { Vec::new() },
        }
    });
    let drawn = drawn(&providers.root("v1"));
    let settings: Vec<&str> = drawn.settings.iter().map(String::as_str).collect();
    let appliance = Appliance::start(&settings);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let said: Vec<f64> =
        [silence(2_500), spoken("What do you see?"), silence(4_500), spoken("Please keep it.")].concat();
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0 + 5.0);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let sending = Sending { time, video: Some(&clip), sound: Some(&said), ..Sending::default() };
    let received = std::thread::scope(|scope| {
        let start = Instant::now();
        let (appliance, drawn) = (&appliance, &drawn);
        scope.spawn(move || {
            let id = appliance.current_call();
            give(appliance, &id, &drawn.face);
            std::thread::sleep(Duration::from_millis(6_500).saturating_sub(start.elapsed()));
            let path = format!("/api/v1/calls/{id}/show");
            let (status, shown) = appliance.api("POST", &path, r#"{"picture":"map","seconds":3}"#);
            assert!(status == 200 && shown["showing"] == "640x360", "{status} {shown}");
            mistakes(appliance, &id);
        });
        caller.stream_as(&answer, &sending, |_, _| ())
    });
    let id = appliance.current_call();
    asked(&providers, &drawn);
    kept(&appliance, &id);
    caller.hang_up();
    seen(&received.video.h264(), &drawn.map);
    let record = appliance.call_record(&appliance.finished_recording());
    for kind in ["image.received", "image.sent", "image.shown"] {
        assert_eq!(events(&record, kind).len(), 1, "{kind}: {record:#}");
    }
}

/// A face as JSON, before the first question.
fn give(appliance: &Appliance, id: &str, face: &[u8]) {
    let body = json!({"image": data_url("image/jpeg", face), "text": "Who is this?"}).to_string();
    let (status, answer) =
        ask(appliance, &format!("POST /api/v1/calls/{id}/images"), "application/json", body.as_bytes());
    let told = String::from_utf8_lossy(&answer);
    assert!(status == 201 && told.contains("\"direction\":\"received\""), "{status} {told}");
}

/// Mistakes of users are told as such.
fn mistakes(appliance: &Appliance, id: &str) {
    let images = format!("POST /api/v1/calls/{id}/images");
    let json = "application/json";
    let huge = vec![0; 9 << 20];
    let damaged =
        [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x02\x80\0\0\x01\x68\x08\x02\0\0\0".as_slice(), &[7; 50]]
            .concat();
    let wide = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x7f\xff\0\0\x7f\xff\x08\x02\0\0\0";
    for (line, kind, body, expected) in [
        (images.as_str(), "image/jpeg", &huge[..], 413),
        (&images, "image/png", wide, 413),
        (&images, "text/plain", b"hello", 415),
        (&images, "image/jpeg", b"this is no picture", 415),
        (&images, "image/png", &damaged, 422),
        (&images, json, br#"{"image":"http://127.0.0.1:9/x.png"}"#, 422),
        (&images, json, br#"{"image":"/etc/passwd"}"#, 400),
        (&images, json, br#"{"text":"x"}"#, 400),
        (&images, json, br#"{"image":"data:image/png;base64,!"}"#, 400),
        ("POST /api/v1/calls/ffffff/images", json, br#"{"image":"data:image/png;base64,AAAA"}"#, 404),
        (&format!("POST /api/v1/calls/{id}/show"), json, br#"{"picture":"nothing"}"#, 404),
        (&format!("POST /api/v1/calls/{id}/show"), json, br#"{"seconds":5}"#, 400),
        (&format!("POST /api/v1/calls/{id}/captions"), json, br#"{"on":"yes"}"#, 400),
        (&format!("GET /api/v1/calls/{id}/images/99"), json, b"", 404),
    ] {
        let (status, answer) = ask(appliance, line, kind, body);
        assert_eq!(status, expected, "{line} {kind}: {}", String::from_utf8_lossy(&answer));
    }
}

/// What the model was told: the plan each time as it is, and with the first question the picture that was given, its
/// face hidden.
fn asked(providers: &Providers, drawn: &Drawn) {
    let questions = providers.questions();
    let first = questions.iter().find(|asked| asked.said.contains("What do you see?")).expect("a question");
    assert!(first.said.contains("Who is this?"), "{}", first.said);
    assert_eq!(first.newest.len(), 2, "the picture that was given and that of the turn");
    let report = judged(&first.newest[0].bytes, ".jpg");
    assert_eq!((report.hidden, report.scene_kept), (1, 1), "the face is hidden: {report:?}");
    for asked in &questions {
        let plan = asked.pictures.first().map(|picture| picture.bytes.as_slice());
        assert_eq!(plan, Some(drawn.plan.as_slice()), "{}", asked.said);
    }
    let last = questions.last().expect("a question");
    assert!(last.pictures.len() >= 3 && last.said.contains("kept as picture 2"), "{}", last.said);
}

/// What is kept of the call: the picture that was given, and the one the agent sent.
fn kept(appliance: &Appliance, id: &str) {
    let (status, list) = appliance.api("GET", &format!("/api/v1/calls/{id}/images"), "");
    let images = list["images"].as_array().expect("a list");
    assert!(status == 200 && images.len() == 2, "{list:#}");
    assert_eq!((&images[0]["direction"], &images[1]["direction"]), (&json!("received"), &json!("sent")));
    assert_eq!(images[1]["text"], "the caller");
    for number in [1, 2] {
        let (status, bytes) = ask(appliance, &format!("GET /api/v1/calls/{id}/images/{number}"), "", b"");
        let report = judged(&bytes, ".jpg");
        assert!(status == 200 && report.hidden == 1 && report.scene_kept == 1, "{number}: {report:?}");
        let file = images[number - 1]["file"].as_str().expect("a file beside the recording");
        assert_eq!(std::fs::read(file).expect("the file"), bytes);
    }
}

/// What the caller saw: the disclosure first, captions with the reply, the map for its time, then the desk again.
fn seen(h264: &[u8], map: &Path) {
    let pictures = read_h264(h264);
    let map = &read(map)[0];
    let shown = pictures.iter().filter(|picture| same(picture, map, MIDDLE)).count();
    assert!((8..=30).contains(&shown), "{shown} pictures of the map for three seconds");
    let last = pictures.last().expect("pictures");
    assert!(!same(last, map, MIDDLE), "its time is over");
    let desk = pictures.iter().filter(|picture| same(picture, last, MIDDLE));
    let plain: Vec<&Picture> = desk.collect();
    let noticed = plain.iter().filter(|picture| !same(picture, last, TOP)).count();
    assert!(noticed > 40, "{noticed} pictures with the disclosure");
    assert!(!same(plain[5], last, TOP), "from the beginning");
    let first = plain[5];
    let captioned = plain.iter().filter(|picture| !same(picture, first, BOTTOM)).count();
    assert!(captioned > 30, "{captioned} pictures with captions of {}", plain.len());
}

/// Pictures of a call whose camera never shows the same for long, by what is in their middle.
fn like(pictures: &[Picture], other: &Picture) -> usize {
    pictures.iter().filter(|picture| same(picture, other, MIDDLE)).count()
}

#[test]
fn a_trusted_picture_goes_as_it_came_a_stranger_s_is_shown_censored_and_audio_calls_show_none() {
    let _turn = turn();
    let providers = Providers::start();
    providers.hear(&["Hello"]);
    let drawn = drawn(&providers.root("v1"));
    let mut settings: Vec<&str> = drawn.settings.iter().map(String::as_str).collect();
    settings.push(r#"sip.dial_allow=["sip:*@127.0.0.1"]"#);
    settings.push(
        r#"route=[{to="200", agent="mirror", detect=[], censor=true}, {to="*", agent="a", detect=[], trust_images=true}]"#,
    );
    let appliance = Appliance::start(&settings);
    without_video(&appliance, &providers, &drawn);
    dialled(&appliance, &drawn);
    let clip = Packetized::read(&media("face.mp4"), 1);
    let mut caller = Caller::new(&format!("sip:200@{}", appliance.sip));
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let id = appliance.current_call();
    let mut look = |seconds| {
        let time = Duration::from_secs(seconds);
        let sending = Sending { time, video: Some(&clip), ..Sending::default() };
        read_h264(&caller.stream_as(&answer, &sending, |_, _| ()).video.h264())
    };
    let before = look(2);
    let path = format!("/api/v1/calls/{id}/show");
    let body = json!({"image": data_url("image/jpeg", &drawn.face), "seconds": 0}).to_string();
    let (status, told) = appliance.api("POST", &path, &body);
    assert!(status == 200 && told["seconds"] == 0, "{status} {told}");
    let during = look(3);
    let standing = during.last().expect("pictures");
    let stood = like(&during, standing);
    assert!((8..=25).contains(&stood), "{stood} of {} pictures", during.len());
    let report = judge_face(&during[during.len() - 3..], &Clip::open("face.mp4"));
    assert_eq!((report.hidden, report.scene_kept), (3, 3), "a stranger's face is hidden: {report:?}");
    let (status, told) = appliance.api("POST", &path, r#"{"clear":true}"#);
    assert!(status == 200 && told["showing"].is_null(), "{status} {told}");
    let after = look(2);
    let moves = |pictures: &[Picture]| like(pictures, &pictures[pictures.len() - 1]) < pictures.len() / 2;
    assert!(moves(&before) && moves(&after[5..]), "the mirror shows the caller before and after");
    let (status, told) = appliance.api("POST", &format!("/api/v1/calls/{id}/images"), &body);
    assert!(status == 400 || told["error"]["code"] == "no_conversation", "{status} {told}");
}

/// A call without video: nothing can be shown on it, but its agent can be given a picture, which goes to the model as it
/// came where the route trusts who gives it.
fn without_video(appliance: &Appliance, providers: &Providers, drawn: &Drawn) {
    let said: Vec<f64> = [silence(1_000), spoken("Hello there")].concat();
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    let id = appliance.current_call();
    let (status, told) = appliance.api("POST", &format!("/api/v1/calls/{id}/show"), r#"{"picture":"map"}"#);
    assert!(status == 409 && told["error"]["code"] == "no_video", "{status} {told}");
    let (status, told) = ask(appliance, &format!("POST /api/v1/calls/{id}/images"), "image/png", &drawn.plan);
    assert!(status == 201, "without video too: {status} {}", String::from_utf8_lossy(&told));
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0 + 2.0);
    caller.stream_as(&answer, &Sending { time, sound: Some(&said), ..Sending::default() }, |_, _| ());
    caller.hang_up();
    let questions = providers.questions();
    let first = questions.last().expect("a question");
    assert_eq!(first.newest.len(), 1, "{}", first.said);
    assert_eq!(first.newest[0].bytes, drawn.plan);
}

/// What an agent is told before its call.
fn dialled(appliance: &Appliance, drawn: &Drawn) {
    let place = |context: serde_json::Value| {
        let body = json!({"to": "sip:x@127.0.0.1:9", "agent": "a", "context": context}).to_string();
        appliance.api("POST", "/api/v1/calls", &body)
    };
    let good = json!([{"role": "system", "text": "Be brief."},
        {"text": "Who called.", "image": data_url("image/jpeg", &drawn.face)}]);
    let (status, told) = place(good);
    assert_eq!(status, 201, "{told}");
    let id = told["id"].as_str().expect("an id");
    assert_eq!(appliance.api("DELETE", &format!("/api/v1/calls/{id}"), "").0, 200);
    for bad in
        [json!("x"), json!([{"role": "tool", "text": "x"}]), json!([{"text": "x", "more": 1}]), json!([{}])]
    {
        assert_eq!(place(bad.clone()).0, 400, "{bad}");
    }
    assert_eq!(place(json!([{"image": data_url("image/png", b"no picture")}])).0, 415);
}
