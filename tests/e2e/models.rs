//! Calls to agents whose models are emulated: OpenAI Realtime, Gemini Live, and servers that speak like OpenAI. Each hears
//! the caller, sees the picture of that turn, and is heard.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::Appliance;
use crate::harness::capture::Stream;
use crate::harness::emulators::providers::Providers;
use crate::harness::emulators::{gemini_live, openai_realtime};
use crate::harness::picture::{Clip, judge_face, read};
use crate::harness::sound::{from_mu_law, level_db, to_mu_law};
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, turn, wait_for};
use crate::images::{data_url, made};
use crate::talk::{events, number, silence, spoken};

fn appliance(vendor: &str, url: &str) -> Appliance {
    Appliance::start(&[
        &format!(r#"realtime.model={{provider="{vendor}", base_url="{url}", model="m", api_key="key"}}"#),
        &format!(
            r#"agent.a={{kind="realtime", realtime="model", sight="turn",
                context=[{{text="The plan of the house.", image="{}"}}]}}"#,
            plan()
        ),
        r#"route=[{to="*", agent="a", detect=[]}]"#,
        "recording.min_free_gib=0",
    ])
}

/// A small picture as a data URL.
fn plan() -> String {
    let file = tempfile::Builder::new().suffix(".png").tempfile().expect("a temporary file");
    let bytes = made(&["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=1"], file.path());
    data_url("image/png", &bytes)
}

/// One call: a question after a second and a half, pictures all the time. What the caller heard, what it said as
/// mu-law, when the question ended, and the call record.
fn question(appliance: &Appliance, seconds: f64) -> (Stream, Vec<u8>, f64, Value) {
    let clip = Packetized::read(&media("face.mp4"), 1);
    let said: Vec<f64> = [silence(1_500), spoken("What do you see in this picture right now?")].concat();
    let end_s = said.len() as f64 / 8_000.0;
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let time = Duration::from_secs_f64(end_s + seconds);
    let sending = Sending { time, video: Some(&clip), sound: Some(&said), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, _| ());
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    // The law has two codes for silence, which sound the same; samples have one.
    let code = |sample: &f64| match to_mu_law(*sample) {
        0x7f => 0xff,
        code => code,
    };
    let said = said[1_500 * 8..].iter().map(code).collect();
    (received.audio, said, end_s, record)
}

/// The longest run of `wanted` that stands in `all`.
fn longest_common(all: &[u8], wanted: &[u8]) -> usize {
    let mut longest = 0;
    for start in (0..wanted.len()).step_by(160) {
        let first = &wanted[start..wanted.len().min(start + 160)];
        for at in
            all.windows(first.len()).enumerate().filter(|(_, window)| *window == first).map(|(at, _)| at)
        {
            let same = all[at..].iter().zip(&wanted[start..]).take_while(|(a, b)| a == b).count();
            longest = longest.max(same);
        }
    }
    longest
}

#[test]
fn openai_hears_and_answers_a_g711_call_byte_for_byte_and_sees_the_caller() {
    let _turn = turn();
    let rules: openai_realtime::Shared = Arc::new(Mutex::new(openai_realtime::Rules::default()));
    // Every code of the law but the two that both mean silence.
    let codes: Vec<u8> = (0..=255u8).filter(|code| *code != 0x7f).collect();
    let reply: Vec<u8> = codes.iter().copied().cycle().take(8_000).collect();
    openai_realtime::lock(&rules).answers.push_back(openai_realtime::Answer::Bytes {
        sound: reply.clone(),
        words: "I see a person.".to_owned(),
    });
    let (_server, url) = openai_realtime::start(&rules);
    let appliance = appliance("openai", &url);
    let (heard, said, _, record) = question(&appliance, 3.5);
    let rules = openai_realtime::lock(&rules);
    assert_eq!(rules.refused, [""; 0]);
    let up: Vec<u8> = rules.seen.iter().flat_map(|seen| seen.sound.clone()).collect();
    let (went, came) = (longest_common(&up, &said), said.len());
    assert!(went >= 4_000, "{went} of {came} bytes in a row arrive as they were");
    let down: Vec<u8> = heard.packets.iter().flat_map(|packet| packet.payload.clone()).collect();
    assert!(longest_common(&down, &reply) >= 7_000, "the reply arrives as it was");
    assert_eq!(record["conversation"]["model"]["resampled"], 0, "no resampler is in the path: {record:#}");
    let is_image = |event: &Value| event.to_string().contains("data:image/jpeg;base64,/9j/");
    let images =
        rules.seen.iter().filter(|seen| seen.kind == "conversation.item.create" && is_image(&seen.event));
    let plan = rules.seen.iter().find(|seen| seen.kind == "conversation.item.create").expect("an item");
    let told = plan.event.to_string();
    assert!(
        told.contains("The plan of the house.") && told.contains("data:image/png;base64,"),
        "{told:.200}"
    );
    assert!(images.count() >= 1, "a picture of the turn is in the conversation");
    assert_eq!(events(&record, "agent.reply")[0]["text"], "I see a person.");
    assert!(events(&record, "vision.sent").iter().all(|sent| number(sent, "age_ms") <= 150.0), "{record:#}");
}

#[test]
fn gemini_hears_sees_and_answers() {
    let _turn = turn();
    let rules: gemini_live::Shared = Arc::new(Mutex::new(gemini_live::Rules::default()));
    gemini_live::lock(&rules)
        .answers
        .push_back(gemini_live::Answer::Speak { ms: 1_000, words: "I see a person.".to_owned() });
    let (_server, url) = gemini_live::start(&rules);
    let appliance = appliance("gemini", &url);
    let (heard, _, end_s, record) = question(&appliance, 3.5);
    let rules = gemini_live::lock(&rules);
    assert_eq!(rules.refused, [""; 0]);
    let plan = rules.seen.iter().find(|seen| seen.kind == "clientContent").expect("what it knows before");
    let told = plan.message.to_string();
    assert!(told.contains("The plan of the house.") && told.contains("image/png"), "{told:.200}");
    let kinds = |kind: &str| rules.seen.iter().filter(|seen| seen.kind == kind).count();
    assert!(kinds("audio") > 50 && kinds("video") >= 1, "{} {}", kinds("audio"), kinds("video"));
    let level = |payload: &[u8]| level_db(&payload.iter().map(|byte| from_mu_law(*byte)).collect::<Vec<_>>());
    let loud =
        heard.packets.iter().filter(|packet| packet.at > end_s && level(&packet.payload) > -35.0).count();
    assert!((40..=60).contains(&loud), "a second is heard: {loud} packets: {record:#}");
    assert!(
        events(&record, "transcript.final").iter().any(|event| event["text"] == "What do you see?"),
        "{record:#}"
    );
}

#[test]
fn servers_that_speak_like_openai_get_the_censored_picture_of_the_very_turn() {
    let _turn = turn();
    let providers = Providers::start();
    providers.hear(&["What do you see?"]);
    let root = providers.root("v1");
    let appliance = Appliance::start(&[
        &format!(r#"stt.s={{base_url="{root}", model="whisper-1", api_key="key"}}"#),
        &format!(r#"llm.l={{base_url="{root}", model="m", api_key="key", sees=true}}"#),
        &format!(r#"tts.t={{base_url="{root}", model="tts-1", voice="alloy", api_key="key"}}"#),
        r#"agent.a={kind="pipeline", stt="s", llm="l", tts="t"}"#,
        r#"route=[{to="*", agent="a", detect=[], censor=true}]"#,
        r#"overlay.watermark="""#,
        "recording.min_free_gib=0",
    ]);
    let (heard, _, end_s, record) = question(&appliance, 6.0);
    let questions = providers.questions();
    let asked = questions.last().unwrap_or_else(|| panic!("no question: {record:#}"));
    assert_eq!((asked.said.as_str(), asked.newest.len()), ("What do you see?", 1), "{record:#}");
    let picture = &asked.newest[0];
    assert!(picture.media_type == "image/jpeg" && picture.bytes.len() < 200_000, "{}", picture.bytes.len());
    let file = tempfile::Builder::new().suffix(".jpg").tempfile().expect("a temporary file");
    std::fs::write(file.path(), &picture.bytes).expect("a file");
    let report = judge_face(&read(file.path()), &Clip::open("face.mp4"));
    assert_eq!(
        (report.pictures, report.hidden, report.scene_kept),
        (1, 1, 1),
        "the face is hidden: {report:?}"
    );
    assert!(number(events(&record, "transcript.final")[0], "picture_age_ms") <= 150.0, "{record:#}");
    let level = |payload: &[u8]| level_db(&payload.iter().map(|byte| from_mu_law(*byte)).collect::<Vec<_>>());
    assert!(
        heard.packets.iter().any(|packet| packet.at > end_s && level(&packet.payload) > -40.0),
        "a reply"
    );
}

#[test]
fn turns_of_a_realtime_agent_can_be_the_applications() {
    let _turn = turn();
    let rules: openai_realtime::Shared = Arc::new(Mutex::new(openai_realtime::Rules::default()));
    openai_realtime::lock(&rules)
        .answers
        .push_back(openai_realtime::Answer::Bytes { sound: vec![0x20; 4_000], words: "Yes.".to_owned() });
    let (_server, url) = openai_realtime::start(&rules);
    let (_gemini, gemini_url) = gemini_live::start(&Arc::new(Mutex::new(gemini_live::Rules::default())));
    let appliance = Appliance::start(&[
        &format!(r#"realtime.o={{provider="openai", base_url="{url}", model="m", api_key="key"}}"#),
        &format!(r#"realtime.g={{provider="gemini", base_url="{gemini_url}", model="m", api_key="key"}}"#),
        r#"agent.o={kind="realtime", realtime="o", sight="off"}"#,
        r#"agent.g={kind="realtime", realtime="g", sight="off"}"#,
        r#"route=[{to="o", agent="o"}, {to="g", agent="g"}]"#,
        r#"talk.turn_detection="manual""#,
        "recording.min_free_gib=0",
    ]);
    let asked = |kind: &str| openai_realtime::lock(&rules).seen.iter().any(|seen| seen.kind == kind);
    let act = |action: &str| {
        let live = wait_for(Duration::from_secs(3), || {
            appliance.live_calls().into_iter().find(|call| call["state"] == "established")
        });
        let live = live.expect("a call");
        let id = live["id"].as_str().expect("an id");
        appliance.api("POST", &format!("/api/v1/calls/{id}/turn"), &format!(r#"{{"action":"{action}"}}"#))
    };
    let mut other = Caller::new(&appliance.uri().replace("sip:mirror", "sip:g"));
    other.invite(&other.offer(None));
    let (status, refusal) = act("clear");
    assert_eq!((status, &refusal["error"]["code"]), (409, &"no_turns".into()), "Gemini cannot forget");
    assert_eq!(act("commit").0, 200);
    other.hang_up();

    let mut caller = Caller::new(&appliance.uri().replace("sip:mirror", "sip:o"));
    let answer = caller.invite(&caller.offer(None));
    let question = spoken("Is anybody there?");
    let said: Vec<f64> = [silence(1_000), question.clone(), silence(1_500), question].concat();
    let first_end = 1.0 + (said.len() - 20_000) as f64 / 16_000.0;
    let end = said.len() as f64 / 8_000.0;
    let sending =
        Sending { time: Duration::from_secs_f64(end + 2.5), sound: Some(&said), ..Sending::default() };
    let mut steps = 0;
    let received = caller.stream_as(&answer, &sending, |_, elapsed| {
        if steps == 0 && elapsed.as_secs_f64() > first_end + 1.0 {
            steps = 1;
            assert!(!asked("response.create"), "nobody said that the turn is over");
            assert_eq!(act("clear").0, 200);
        } else if steps == 1 && elapsed.as_secs_f64() > end + 1.0 {
            steps = 2;
            assert!(!asked("input_audio_buffer.commit") && !asked("response.create"));
            assert_eq!(act("commit").0, 200);
        }
    });
    caller.hang_up();
    assert!(asked("input_audio_buffer.commit") && asked("response.create"));
    assert_eq!(openai_realtime::lock(&rules).refused, [""; 0]);
    let packets = received.audio.packets.iter();
    let answers = packets.filter(|packet| packet.payload.iter().all(|byte| *byte == 0x20));
    let heard: Vec<f64> = answers.map(|packet| packet.at).collect();
    assert!(heard.len() > 15 && heard.iter().all(|at| *at > end + 1.0), "{heard:?}");
}
