//! Pictures besides those of callers: an agent looks at a file and at the test card in a real call, sees neither a face nor
//! what it may not look at, and an operator gets the same over HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::appliance::Appliance;
use crate::harness::emulators::models::Reply;
use crate::harness::emulators::providers::Providers;
use crate::harness::picture::{Clip, judge_face, read};
use crate::harness::uac::{Caller, Sending};
use crate::harness::{media, turn};
use crate::talk::events;

/// Status and body of a snapshot.
fn snapshot(appliance: &Appliance, name: &str) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(appliance.console).expect("the console listens");
    stream.set_read_timeout(Some(Duration::from_secs(12))).expect("a timeout above zero");
    let path = format!("/api/v1/sources/{name}/snapshot.jpg");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("a whole answer");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
    let status =
        String::from_utf8_lossy(&answer[..head]).split(' ').nth(1).and_then(|word| word.parse().ok());
    (status.expect("a status"), answer[head + 4..].to_vec())
}

fn assert_hidden(jpeg: &[u8]) {
    let file = tempfile::Builder::new().suffix(".jpg").tempfile().expect("a temporary file");
    std::fs::write(file.path(), jpeg).expect("a file");
    let report = judge_face(&read(file.path()), &Clip::open("face.mp4"));
    assert_eq!((report.pictures, report.hidden, report.scene_kept), (1, 1, 1), "{report:?}");
}

fn appliance(providers: &Providers) -> Appliance {
    let root = providers.root("v1");
    Appliance::start(&[
        &format!(r#"stt.s={{base_url="{root}", model="whisper-1", api_key="key"}}"#),
        &format!(r#"llm.l={{base_url="{root}", model="m", api_key="key", sees=true}}"#),
        r#"tts.t={provider="mock", options={tone_hz=440, letter_ms=5, delay_ms=10}}"#,
        r#"agent.a={kind="pipeline", stt="s", llm="l", tts="t", greeting="", sources=["yard", "card", "gone"]}"#,
        &format!(
            r#"source.yard={{kind="file", path="{}", description="the yard"}}"#,
            media("face.mp4").display()
        ),
        r#"source.card={kind="test", description="a test card", censor=false}"#,
        r#"source.gone={kind="file", path="/nowhere/at/all.mp4"}"#,
        r#"source.vault={kind="test", description="not for agents", censor=false}"#,
        r#"route=[{to="*", agent="a", detect=[]}]"#,
        "recording.min_free_gib=0",
    ])
}

#[test]
fn an_agent_looks_where_it_may_and_sees_what_is_cleared() {
    let _turn = turn();
    let providers = Providers::start();
    // Asked about a place, the model looks there; told what it sees, it says so.
    providers.answer(|asked| match asked.said.strip_prefix("What of the ") {
        Some(place) => {
            let tool = if place == "places" { "list_sources" } else { "look" };
            Reply { text: String::new(), calls: vec![(tool.to_owned(), json!({ "source": place }))] }
        }
        None => Reply { text: "I see.".to_owned(), calls: Vec::new() },
    });
    let appliance = appliance(&providers);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200, "{answer:?}");
    let call = appliance.current_call();
    let path = format!("/api/v1/calls/{call}/text");
    let mut stay = |ms: u64| {
        let sending = Sending { time: Duration::from_millis(ms), sound: Some(&[]), ..Sending::default() };
        caller.stream_as(&answer, &sending, |_, _| ());
    };
    for place in ["places", "card", "yard", "gone", "vault"] {
        let before = providers.questions().len();
        let body = json!({ "text": format!("What of the {place}") }).to_string();
        assert_eq!(appliance.api("POST", &path, &body).0, 202);
        for _ in 0..40 {
            stay(100);
            if providers.questions().len() >= before + 2 {
                break;
            }
        }
        stay(300);
    }
    caller.hang_up();
    let pictures: Vec<usize> = providers.questions().iter().map(|asked| asked.newest.len()).collect();
    let record = appliance.call_record(&appliance.finished_recording());
    assert_eq!(pictures, [0, 0, 0, 1, 0, 1, 0, 0, 0, 0], "{record:#}");
    let yard = &providers.questions()[5].newest[0];
    assert_eq!(yard.media_type, "image/jpeg");
    assert_hidden(&yard.bytes);
    let refused: Vec<String> = events(&record, "agent.tool_refused")
        .iter()
        .filter_map(|event| event["why"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(refused[1], "There is no such source.", "what an agent may not see does not exist for it");
    judge_console(&appliance);
}

fn judge_console(appliance: &Appliance) {
    let (_, listed) = appliance.api("GET", "/api/v1/sources", "");
    let states: Vec<String> = listed["sources"]
        .as_array()
        .expect("sources")
        .iter()
        .map(|source| format!("{} {}", source["name"], source["state"]).replace('"', ""))
        .collect();
    assert!(states.contains(&"card connected".to_owned()), "{states:?}");
    assert!(states.contains(&"gone lost".to_owned()), "{states:?}");
    assert!(states.contains(&"vault idle".to_owned()), "nobody looked: {states:?}");
    let (status, jpeg) = snapshot(appliance, "yard");
    assert_eq!(status, 200);
    assert_hidden(&jpeg);
    assert_eq!((snapshot(appliance, "gone").0, snapshot(appliance, "other").0), (503, 404));
}
