//! Calls to an agent that talks, as a caller hears them: answered with a picture, interrupted, and left in the lurch by
//! its models. The models are the built-in ones with stated delays, so that what is ours can be told apart.

use std::time::Duration;

use serde_json::Value;

use crate::harness::appliance::Appliance;
use crate::harness::capture::Stream;
use crate::harness::sound::{self, from_mu_law, level_db};
use crate::harness::uac::{Caller, Packetized, Sending};
use crate::harness::{media, turn, wait_for};

/// The voice of the models is a tone.
const VOICE_HZ: &str = "440";
const STT_MS: u64 = 80;
const LLM_MS: u64 = 120;
const TTS_MS: u64 = 50;

/// The text as espeak-ng says it, without the silence around it, between -1 and 1.
pub fn spoken(text: &str) -> Vec<f64> {
    sound::espeak("en", text)
}

/// Silence for `ms`, in samples.
pub fn silence(ms: usize) -> Vec<f64> {
    vec![0.0; ms * 8]
}

/// An appliance with an agent for each of `answers`: its number, and what its language model does.
fn appliance(agents: &[(&str, &str)]) -> Appliance {
    let mut settings = vec![
        format!(r#"stt.mock={{provider="mock", options={{text="What do you see?", delay_ms={STT_MS}}}}}"#),
        format!(
            r#"tts.mock={{provider="mock", options={{tone_hz={VOICE_HZ}, letter_ms=40, delay_ms={TTS_MS}}}}}"#
        ),
        "recording.min_free_gib=0".to_owned(),
        // What a network thinks of espeak-ng's questions is not asked here.
        r#"talk.turn_detection="vad""#.to_owned(),
    ];
    let mut routes = Vec::new();
    for (number, model) in agents {
        settings.push(format!(r#"llm.m{number}={{provider="mock", timeout_s=4, options={{{model}}}}}"#));
        settings.push(format!(
            r#"agent.a{number}={{kind="pipeline", stt="mock", llm="m{number}", tts="mock", greeting=""}}"#
        ));
        routes.push(format!(r#"{{to="{number}", agent="a{number}", detect=[]}}"#));
    }
    settings.push(format!("route=[{}]", routes.join(", ")));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Appliance::start(&settings)
}

/// What a caller heard, block by block of 20 ms: when it came and how loud it was.
fn levels(heard: &Stream) -> Vec<(f64, f64)> {
    let level = |payload: &[u8]| level_db(&payload.iter().map(|byte| from_mu_law(*byte)).collect::<Vec<_>>());
    heard
        .packets
        .iter()
        .filter(|packet| packet.payload_type == 0)
        .map(|packet| (packet.at, level(&packet.payload)))
        .collect()
}

pub fn events<'a>(record: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = record["events"].as_array().expect("events");
    all.iter().filter(|event| event["kind"] == kind).map(|event| &event["data"]).collect()
}

pub fn number(event: &Value, name: &str) -> f64 {
    let largest = |list: &Vec<Value>| list.iter().filter_map(Value::as_f64).reduce(f64::max);
    event[name].as_f64().or_else(|| event[name].as_array().and_then(largest)).unwrap_or(f64::NAN)
}

/// The sound never pauses, whatever becomes of the models.
fn assert_steady(heard: &Stream) {
    let widest = heard.packets.windows(2).map(|pair| pair[1].at - pair[0].at).fold(0.0, f64::max);
    assert!(widest < 0.12, "a gap of {widest:.3} s in the sound");
}

#[test]
fn a_question_is_answered_with_the_picture_of_that_turn_and_hardly_any_time_of_ours() {
    let _turn = turn();
    let clip = Packetized::read(&media("face.mp4"), 1);
    let appliance =
        appliance(&[("100", &format!(r#"delay_ms={LLM_MS}, text="I see {{images}} of you. {{said}}""#))]);
    let question = spoken("What do you see in this picture right now?");
    let said: Vec<f64> = [silence(1_500), question].concat();
    let end_s = said.len() as f64 / 8_000.0;
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let time = Duration::from_secs_f64(end_s + 4.0);
    let sending = Sending { time, video: Some(&clip), sound: Some(&said), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, _| ());
    caller.hang_up();
    assert_steady(&received.audio);
    let first = levels(&received.audio).into_iter().find(|(_, level)| *level > -30.0).expect("a reply").0;
    let record = appliance.call_record(&appliance.finished_recording());
    let (transcripts, speaking) = (events(&record, "transcript.final"), events(&record, "agent.speaking"));
    let reply = events(&record, "agent.reply");
    assert_eq!(transcripts.len(), 1, "{record:#}");
    assert_eq!(transcripts[0]["pictures"], 1, "{record:#}");
    assert!(number(transcripts[0], "picture_age_ms") <= 150.0, "{record:#}");
    assert_eq!(reply[0]["text"], "I see 1 of you. What do you see?");
    let pause = number(speaking[0], "end_of_turn_ms") / 1000.0;
    let ours = first - end_s - pause - TTS_MS as f64 / 1000.0;
    // The words and the answer came while the pause was waited for. The machine is busy with the picture as well.
    assert!((-0.1..0.15).contains(&ours), "{ours:.3} s besides a pause of {pause:.3} s: {record:#}");
    assert!(number(speaking[0], "first_sound_ms") - TTS_MS as f64 <= 60.0, "{record:#}");
}

#[test]
fn a_caller_who_interrupts_is_listened_to_at_once() {
    let _turn = turn();
    let long = "This is a very long answer, and it goes on and on. ".repeat(12);
    let appliance = appliance(&[("100", &format!(r#"text="{long}""#))]);
    let (question, stop) =
        (spoken("Tell me a story"), spoken("Stop please, I have another question for you"));
    let (wait, rest) = (3_000, 2_500);
    let said: Vec<f64> = [silence(1_200), question, silence(wait), stop.clone(), silence(rest)].concat();
    let onset_s = (said.len() - stop.len()) as f64 / 8_000.0 - rest as f64 / 1_000.0;
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let answer = caller.invite(&caller.offer(None));
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0);
    let received =
        caller.stream_as(&answer, &Sending { time, sound: Some(&said), ..Sending::default() }, |_, _| ());
    caller.hang_up();
    let levels = levels(&received.audio);
    let before: Vec<f64> = levels
        .iter()
        .filter(|(at, _)| (onset_s - 0.4..onset_s).contains(at))
        .map(|(_, level)| *level)
        .collect();
    let loud = before.iter().sum::<f64>() / before.len() as f64;
    assert!(loud > -25.0, "the agent speaks when it is interrupted: {loud:.1} dB");
    let after = |limit: f64| {
        let found = levels.iter().find(|(at, level)| *at > onset_s && *level < limit);
        found.map_or(f64::INFINITY, |(at, _)| (at - onset_s) * 1000.0)
    };
    let (ducked, silent) = (after(loud - 12.0), after(-60.0));
    println!("turned down after {ducked:.0} ms, silent after {silent:.0} ms");
    assert!(
        ducked <= 200.0 && silent <= 300.0,
        "turned down after {ducked:.0} ms, silent after {silent:.0} ms"
    );
    let record = appliance.call_record(&appliance.finished_recording());
    let cut = events(&record, "agent.interrupted");
    assert_eq!(cut.len(), 1, "{record:#}");
    let heard = cut[0]["text"].as_str().unwrap_or_default().len();
    assert!(heard > 10 && heard < long.len() / 2, "only what was heard is remembered: {record:#}");
    assert_steady(&received.audio);
}

#[test]
fn models_that_fail_leave_no_caller_in_silence() {
    let _turn = turn();
    let appliance = appliance(&[
        ("100", r#"fail="hang""#),
        ("101", r#"fail="error", fail_times=4, text="Back again.""#),
        ("102", r#"fail="cut", text="This is half of an answer. And nobody hears this.""#),
    ]);
    let question = spoken("Is anybody there?");
    let said: Vec<f64> = [silence(1_000), question.clone(), silence(5_500), question].concat();
    let end_s = 1.0 + (said.len() as f64 / 8_000.0 - 6.5) / 2.0;
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0 + 3.5);
    let results: Vec<(Stream, String)> = std::thread::scope(|scope| {
        let calls: Vec<_> = ["100", "101", "102"]
            .map(|user| {
                let (uri, said) = (format!("sip:{user}@{}", appliance.sip), &said);
                scope.spawn(move || {
                    let mut caller = Caller::new(&uri);
                    let answer = caller.invite(&caller.offer(None));
                    let sending = Sending { time, sound: Some(said), ..Sending::default() };
                    let received = caller.stream_as(&answer, &sending, |_, _| ());
                    caller.hang_up();
                    (received.audio, user.to_owned())
                })
            })
            .into_iter()
            .collect();
        calls.into_iter().map(|call| call.join().expect("a call")).collect()
    });
    for (heard, user) in &results {
        assert_steady(heard);
        let first = levels(heard).into_iter().find(|(at, level)| *at > end_s && *level > -30.0);
        let after = first.map_or(f64::INFINITY, |(at, _)| at - end_s);
        println!("{user}: something is said {after:.2} s after the question");
        assert!(after <= 3.0, "{user}: silence for {after:.2} s");
    }
    appliance.finished_recording();
    let records: Vec<Value> =
        appliance.recordings().iter().map(|recording| appliance.call_record(recording)).collect();
    let of = |kind: &str| records.iter().flat_map(|record| events(record, kind)).count();
    assert!(of("agent.waiting") >= 1 && of("agent.fallback") >= 1, "{records:#?}");
    let replies: Vec<&Value> = records.iter().flat_map(|record| events(record, "agent.reply")).collect();
    assert!(replies.iter().any(|reply| reply["text"] == "Back again."), "it recovers: {replies:#?}");
}

#[test]
fn the_callers_device_chooses_among_the_languages_of_the_agent_and_a_route_overrules_it() {
    let _turn = turn();
    let appliance = Appliance::start(&[
        r#"stt.mock={provider="mock"}"#,
        r#"llm.mock={provider="mock"}"#,
        r#"tts.mock={provider="mock", options={letter_ms=5}}"#,
        r#"agent.a={kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="Hello.", prompts={de={greeting="Guten Tag."}}}"#,
        r#"route=[{to="1", agent="a"}, {to="2", agent="a", language="de"}]"#,
        "recording.min_free_gib=0",
    ]);
    let cases = [("1", "de-AT, en;q=0.5", "Guten Tag."), ("1", "fr", "Hello."), ("2", "en", "Guten Tag.")];
    for (done, (to, asked, greeting)) in cases.into_iter().enumerate() {
        let mut caller = Caller::new(&appliance.uri().replace("sip:mirror", &format!("sip:{to}")));
        caller.more = format!("Accept-Language: {asked}\r\n");
        let answer = caller.invite(&caller.offer(None));
        let quiet = silence(700);
        let sending = Sending { time: Duration::from_millis(700), sound: Some(&quiet), ..Sending::default() };
        caller.stream_as(&answer, &sending, |_, _| ());
        caller.hang_up();
        let ended = wait_for(Duration::from_secs(5), || {
            let (_, calls) = appliance.api("GET", "/api/v1/calls", "");
            let recent = calls["recent"].as_array()?;
            recent.first().filter(|_| recent.len() == done + 1).cloned()
        });
        let ended = ended.expect("the call is over");
        assert_eq!(events(&ended, "agent.reply")[0]["text"], greeting, "{asked}: {ended:#}");
        assert_eq!(ended["conversation"]["replies"], 1, "{ended:#}");
    }
}
