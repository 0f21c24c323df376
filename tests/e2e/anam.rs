//! Agents with a face of Anam, in calls: with a voice of ours in passthrough mode, with its own in microphone mode, and
//! without one where it fails. The service is an emulator that the vendor's own SDK is content with.

use std::future::poll_fn;
use std::time::Duration;

use eyeline::avatar::anam::AnamSettings;
use eyeline::avatar::anam::session::Anam as Service;
use eyeline::avatar::{AvatarEvent, Provider as _, Terms};
use eyeline::media::access_unit::VideoCodec;
use eyeline::media::frame::Size;
use eyeline::remote::http::Http;
use serde_json::Value;

use crate::harness::appliance::Appliance;
use crate::harness::emulators::anam::{Anam, KEY, OWN_HZ};
use crate::harness::emulators::face::frequency;
use crate::harness::emulators::server::Fault;
use crate::harness::face_measures::{
    LOUD_DB, call, edges, face_of, levels, lit, mouths, offsets, say, voices,
};
use crate::harness::sound::from_mu_law;
use crate::harness::uac::{Caller, Received, Sending};
use crate::harness::{turn, wait_for};
use crate::talk::{events, number, silence, spoken};

const LETTER_MS: usize = 40;

/// An agent of ours with a face of theirs.
fn wearing(anam: &Anam) -> Appliance {
    let avatar = format!(
        r#"avatar.face={{provider="anam", base_url="{}", api_key="{KEY}", avatar_id="a-1", reconnects=4}}"#,
        anam.root()
    );
    let voice = format!(r#"tts.mock={{provider="mock", options={{tone_hz=440, letter_ms={LETTER_MS}}}}}"#);
    Appliance::start(&[
        &avatar,
        &voice,
        r#"stt.mock={provider="mock", options={text="Stop."}}"#,
        r#"llm.mock={provider="mock", options={text="Yes."}}"#,
        r#"agent.a={kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="", avatar="face"}"#,
        r#"route=[{to="100", agent="a", detect=[]}]"#,
        r#"talk.turn_detection="vad""#,
        "recording.min_free_gib=0",
    ])
}

fn caller(appliance: &Appliance) -> Caller {
    Caller::new(&format!("sip:100@{}", appliance.sip))
}

/// Blocks with a voice in them.
fn loud(received: &Received, from: f64, to: f64) -> usize {
    let blocks = levels(&received.audio);
    blocks.iter().filter(|(at, level)| (from..to).contains(at) && *level > LOUD_DB).count()
}

/// Hz of what the caller heard in this time.
fn heard_hz(received: &Received, from: f64, to: f64) -> f64 {
    let packets = received.audio.packets.iter().filter(|packet| (from..to).contains(&packet.at));
    let samples = packets.flat_map(|packet| packet.payload.iter().map(|byte| from_mu_law(*byte)));
    let samples: Vec<i16> = samples.map(|sample| (sample * 32_767.0) as i16).collect();
    frequency(&samples, 8_000)
}

/// Lips and voice begin and end together, four times: within 45 ms as a rule, and never so far apart that it is seen.
fn assert_in_step(voice: &[(f64, bool)], lips: &[(f64, bool)], record: &Value) {
    println!("voice {voice:.3?}\nlips {lips:.3?}");
    assert_eq!((voice.len(), lips.len()), (4, 4), "{record:#}");
    let apart = voice.iter().zip(lips).map(|(heard, seen)| ((seen.0 - heard.0) * 1_000.0).abs());
    let mut apart: Vec<f64> = apart.collect();
    apart.sort_by(f64::total_cmp);
    assert!((apart[1] + apart[2]) / 2.0 <= 45.0 && apart[3] <= 90.0, "{apart:.0?} ms: {record:#}");
}

/// Nothing is left counting at the vendor, and nothing was wrong with what it got.
fn assert_settled(anam: &Anam, sessions: usize) {
    let over = wait_for(Duration::from_secs(6), || anam.leaks().is_empty().then_some(()));
    let log = anam.sessions();
    assert!(over.is_some() && log.len() == sessions, "{log:#?}");
    assert_eq!(anam.refused(), [""; 0]);
}

#[test]
fn a_face_of_anam_is_in_step_with_our_voice_and_silent_at_once_though_it_never_obeys() {
    let _turn = turn();
    let anam = Anam::start();
    let appliance = wearing(&anam);
    let mut caller = caller(&appliance);
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let id = appliance.current_call();
    let stop = spoken("Stop please, I have another question for you");
    let onset = 11.0;
    let said = [silence(11_000), stop, silence(4_000)].concat();
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0);
    let sending = Sending { time, sound: Some(&said), ..Sending::default() };
    let (short, long) = ("a".repeat(40), "a".repeat(300));
    let mut texts = [(1.5, &short), (5.0, &short), (8.5, &long)].into_iter().peekable();
    let received = caller.stream_as(&answer, &sending, |_, at| {
        if let Some((_, text)) = texts.next_if(|(due, _)| at.as_secs_f64() >= *due) {
            say(&appliance, &id, text);
            // What is cut from now on goes on there.
            anam.rules(|rules| rules.deaf = text.len() > 40);
        }
    });
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let face = face_of(&record);
    println!("{face:#}");

    let all = mouths(&received.video, lit);
    let lips = edges(&all.into_iter().filter(|(at, _)| *at < 8.0).collect::<Vec<_>>());
    let voice = edges(&voices(&received.audio).into_iter().filter(|(at, _)| *at < 8.0).collect::<Vec<_>>());
    assert_in_step(&voice, &lips, &record);
    assert!((heard_hz(&received, 1.0, 8.0) - 440.0).abs() < 6.0, "{}", heard_hz(&received, 1.0, 8.0));
    let first = &anam.sessions()[0];
    let hz = frequency(&first.log.heard, first.log.rate);
    assert!(first.log.rate == 24_000 && (hz - 440.0).abs() < 6.0, "it got {hz:.1} Hz");
    assert_eq!(first.asked["personaConfig"]["enableAudioPassthrough"], true);
    assert_eq!(first.asked["sessionOptions"]["sessionReplay"]["enableSessionReplay"], false);
    assert!(number(&face["figures"], "passed_through") > 200.0, "{face:#}");
    assert_eq!(face["figures"]["encoded"], 0, "{face:#}");
    // The one that stands still when the face is given up.
    assert!(number(&face["figures"], "decoded") <= 1.0, "{face:#}");

    // The tone is given up, and nothing but "Yes." is heard after it, whatever the face goes on to say.
    assert!(loud(&received, 10.0, onset) > 45, "it speaks when it is interrupted: {record:#}");
    assert_eq!(
        (first.log.interrupts.len(), events(&record, "agent.interrupted").len()),
        (1, 1),
        "{record:#}"
    );
    let levels = levels(&received.audio);
    let last = levels.iter().take_while(|(at, level)| *at < onset || *level > -60.0).last().expect("sound").0;
    println!("the last of it leaves {:.0} ms after the caller began", (last - onset) * 1_000.0);
    assert!(last - onset <= 0.3, "{record:#}");
    let rest = loud(&received, last + 0.05, f64::MAX);
    assert!(rest <= 12 + 4 * LETTER_MS / 20, "{rest} blocks of something after the end: {record:#}");
    let lost = events(&record, "avatar.lost");
    assert!(lost.first().is_some_and(|lost| lost["why"].to_string().contains("does not stop")), "{record:#}");
    assert_settled(&anam, 2);
}

#[test]
fn a_path_to_anam_that_dies_in_mid_sentence_leaves_the_voice_and_no_session_behind() {
    let _turn = turn();
    let anam = Anam::start();
    let appliance = wearing(&anam);
    let mut caller = caller(&appliance);
    let (long, short) = ("a".repeat(150), "a".repeat(25));
    let mut steps = [1_800, 3_500, 4_000].into_iter().enumerate().peekable();
    let received =
        call(&appliance, &mut caller, Duration::from_secs(13), &[(1.0, &long), (10.0, &short)], |at| {
            let Some((step, _)) = steps.next_if(|(_, due)| at >= Duration::from_millis(*due)) else { return };
            match step {
                // The socket alone is opened again, and nobody hears it.
                0 => anam.cut_sockets(),
                1 => {
                    anam.rules(|rules| rules.answers = false);
                    anam.cut_peers();
                }
                _ => anam.rules(|rules| rules.answers = true),
            }
        });
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let heard = voices(&received.audio).into_iter().filter(|(at, loud)| *at < 9.5 && *loud);
    let heard: Vec<f64> = heard.map(|(at, _)| at).collect();
    let hole = heard.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    println!("{hole:.3} s without a voice, {} blocks of it", heard.len());
    assert!(hole < 1.0, "{hole:.3} s without a voice: {record:#}");
    // Six seconds of it, a crumb more or less where one way ends and the other begins.
    assert!((292..=312).contains(&heard.len()), "{} blocks: {record:#}", heard.len());
    let warned = events(&record, "avatar.warning");
    assert!(warned[0]["text"].to_string().contains("opened again"), "{record:#}");
    let lost = events(&record, "avatar.lost");
    assert!(lost.len() == 1 && lost[0]["cause"] == "connection", "{record:#}");
    assert_eq!(events(&record, "avatar.connected").len(), 2, "{record:#}");
    let offsets = offsets(&received, lit);
    assert!(offsets.last().is_some_and(|last| last.abs() <= 45.0), "the new face is in step: {offsets:?}");
    assert_settled(&anam, 2);
    let sessions = anam.sessions();
    assert!(sessions[0].log.sockets == 2 && sessions[0].ended.is_some_and(|(_, who)| who == "client"));
}

/// `kind = "avatar"`: the service hears, thinks and speaks.
#[test]
fn an_agent_that_is_nothing_but_a_face_hears_answers_and_is_interrupted() {
    let _turn = turn();
    let anam = Anam::start();
    anam.rules(|rules| rules.greeting = "Hello there.".to_owned());
    let avatar = format!(
        r#"avatar.face={{provider="anam", mode="microphone", base_url="{}", api_key="{KEY}", persona_id="p-1"}}"#,
        anam.root()
    );
    let appliance = Appliance::start(&[
        &avatar,
        r#"agent.a={kind="avatar", greeting="", avatar="face"}"#,
        r#"route=[{to="100", agent="a", detect=[]}]"#,
        r#"talk.turn_detection="vad""#,
        "recording.min_free_gib=0",
    ]);
    let mut caller = caller(&appliance);
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let id = appliance.current_call();
    let tone = (0..8_000).map(|n| 0.4 * (f64::from(n) * std::f64::consts::TAU * 600.0 / 8_000.0).sin());
    let stop = spoken("Stop please, I have another question for you");
    let (asked, onset) = (2.5, 10.0);
    let said = [silence(2_500), tone.collect(), silence(6_500), stop, silence(4_000)].concat();
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0);
    let mut told = false;
    let sending = Sending { time, sound: Some(&said), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, at| {
        if !told && at >= Duration::from_millis(7_000) {
            told = true;
            // A long answer, which it does not give up; the session after it says nothing by itself.
            anam.rules(|rules| {
                rules.greeting.clear();
                (rules.reply, rules.deaf) = ("b".repeat(200), true);
            });
            let body = r#"{"text":"Tell me a story."}"#;
            let (status, answer) = appliance.api("POST", &format!("/api/v1/calls/{id}/text"), body);
            assert_eq!(status, 202, "{answer}");
        }
    });
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let session = anam.sessions().remove(0);
    assert_eq!(session.asked["personaConfig"]["enableAudioPassthrough"], false);
    // What it hears: the caller's tone and words, as the caller said them.
    let there = &session.log.microphone;
    let begin = there.iter().position(|sample| sample.unsigned_abs() > 2_000).expect("the tone");
    let hz = frequency(&there[begin..begin + 40_000], 48_000);
    assert!((hz - 600.0).abs() < 6.0, "{hz:.1} Hz arrive there");
    assert_eq!(session.log.texts, ["Tell me a story."]);

    // What the caller hears and sees: a greeting, an answer, a story that is cut.
    let early =
        |states: Vec<(f64, bool)>| edges(&states.into_iter().filter(|(at, _)| *at < 6.8).collect::<Vec<_>>());
    let (voice, lips) = (early(voices(&received.audio)), early(mouths(&received.video, lit)));
    assert_in_step(&voice, &lips, &record);
    assert!(voice[2].0 > asked + 1.0 && (heard_hz(&received, 4.0, 6.8) - OWN_HZ).abs() < 6.0, "{voice:?}");
    assert!(loud(&received, 9.0, onset) > 45, "it speaks when it is interrupted: {record:#}");
    let levels = levels(&received.audio);
    let last = levels.iter().take_while(|(at, level)| *at < onset || *level > -60.0).last().expect("sound").0;
    println!("the last of it leaves {:.0} ms after the caller began", (last - onset) * 1_000.0);
    assert!(last - onset <= 0.3, "{record:#}");
    assert_eq!(loud(&received, last + 0.05, f64::MAX), 0, "nothing more of the story: {record:#}");

    let texts = |kind: &str| -> Vec<Value> {
        events(&record, kind).iter().map(|event| event["text"].clone()).collect()
    };
    assert_eq!(texts("transcript.final"), ["What time is it?", "Tell me a story."], "{record:#}");
    let replies = texts("agent.reply");
    assert_eq!(replies[..2], ["Hello there.", "It is noon in the whole wide world."], "{record:#}");
    assert_eq!(events(&record, "agent.interrupted").len(), 1, "{record:#}");
    assert!(number(&face_of(&record)["figures"], "passed_through") > 150.0, "{record:#}");
    assert!(session.log.interrupts.len() == 1, "{:?}", session.log);
    let sessions = anam.sessions().len();
    assert_settled(&anam, sessions);
}

/// What goes wrong with a session, and what is told of it.
struct Trouble {
    name: &'static str,
    /// At the start, and while it speaks.
    at_start: fn(&Anam),
    later: fn(&Anam),
    cause: &'static str,
    /// Another session is tried.
    again: bool,
    sessions: usize,
}

const NOTHING: fn(&Anam) = |_| ();

const TROUBLES: [Trouble; 6] = [
    Trouble {
        name: "no credit",
        at_start: |anam| anam.rest.fault_always("session", Some(Fault::Status(402, None))),
        later: NOTHING,
        cause: "refused",
        again: false,
        sessions: 0,
    },
    Trouble {
        name: "too many sessions",
        at_start: |anam| anam.rest.fault_always("session", Some(Fault::Status(429, None))),
        later: NOTHING,
        cause: "busy",
        again: true,
        sessions: 0,
    },
    Trouble {
        name: "too busy",
        at_start: |anam| anam.rest.fault_always("session", Some(Fault::Status(503, None))),
        later: NOTHING,
        cause: "busy",
        again: true,
        sessions: 0,
    },
    Trouble {
        name: "slow",
        at_start: |anam| anam.rules(|rules| rules.ready_after = Duration::from_secs(10)),
        later: NOTHING,
        cause: "",
        again: false,
        sessions: 1,
    },
    Trouble {
        name: "ended by the vendor",
        at_start: NOTHING,
        later: |anam| anam.end("Session length limit reached"),
        cause: "over",
        again: false,
        sessions: 1,
    },
    Trouble {
        name: "not let in any more",
        at_start: NOTHING,
        later: |anam| {
            anam.rules(|rules| rules.gate_closed = true);
            anam.cut_sockets();
        },
        cause: "connection",
        again: true,
        sessions: 1,
    },
];

fn endure(trouble: &Trouble) {
    let name = trouble.name;
    let anam = Anam::start();
    (trouble.at_start)(&anam);
    let appliance = wearing(&anam);
    let mut caller = caller(&appliance);
    let text = "a".repeat(75);
    let mut hit = false;
    let seconds = if trouble.cause.is_empty() { 15 } else { 9 };
    let received = call(
        &appliance,
        &mut caller,
        Duration::from_secs(seconds),
        &[(0.2, &text), (4.5, &text), (11.5, &text)],
        |at| {
            if !hit && at >= Duration::from_millis(5_500) {
                hit = true;
                (trouble.later)(&anam);
            }
        },
    );
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    // Three seconds for each text, wherever its voice comes from; a crumb more or less where it changes.
    let texts = if trouble.cause.is_empty() { 3 } else { 2 };
    let heard = loud(&received, 0.0, f64::MAX);
    assert!(heard.abs_diff(150 * texts) <= 10, "{name}: {heard} blocks: {record:#}");
    let first = voices(&received.audio).into_iter().find(|(_, loud)| *loud).map_or(9.0, |(at, _)| at);
    assert!(first < 1.0, "{name}: first heard after {first:.2} s");
    let shown = received.video.packets.first().map_or(9.0, |packet| packet.at);
    assert!(shown < 0.5, "{name}: first seen after {shown:.2} s");
    let lost = events(&record, "avatar.lost");
    if trouble.cause.is_empty() {
        let connected = events(&record, "avatar.connected");
        assert!(lost.is_empty() && number(connected[0], "after_ms") > 10_000.0, "{name}: {record:#}");
        assert!(number(&face_of(&record)["figures"], "turns") >= 1.0, "{name}: {record:#}");
    } else {
        assert_eq!(lost[0]["cause"], trouble.cause, "{name}: {record:#}");
        assert_eq!(lost[0]["again_ms"].is_number(), trouble.again, "{name}: {record:#}");
        println!("{name}: {}", lost[0]);
    }
    assert!(anam.sessions().len() >= trouble.sessions, "{name}: {:#?}", anam.sessions());
    assert_eq!(anam.refused(), [""; 0], "{name}");
}

#[test]
fn whatever_keeps_anam_away_the_caller_hears_the_agent_and_the_record_says_why() {
    let _turn = turn();
    for together in TROUBLES.chunks(3) {
        std::thread::scope(|scope| {
            let calls: Vec<_> = together.iter().map(|trouble| scope.spawn(move || endure(trouble))).collect();
            for call in calls {
                call.join().unwrap_or_else(|reason| std::panic::resume_unwind(reason));
            }
        });
    }
}

/// What a crash leaves behind is ended by the next run, which knows no more than what the journal keeps.
#[tokio::test]
async fn a_session_that_was_left_is_ended_by_what_the_journal_keeps_of_it() {
    let anam = Anam::start();
    let settings = AnamSettings {
        api_key: KEY.to_owned(),
        base_url: anam.root(),
        avatar_id: "a-1".to_owned(),
        ..AnamSettings::default()
    };
    let service = Service::new(&Http::new(), settings);
    let codecs = vec![VideoCodec::H264];
    let terms = Terms {
        call: "c-1".to_owned(),
        codecs,
        most: Size::new(640, 360),
        language: String::new(),
        again: false,
    };
    let mut session = service.open(terms);
    let opened = async {
        loop {
            if let AvatarEvent::Opened { session } = poll_fn(|context| session.poll_next(context)).await {
                return session;
            }
        }
    };
    let handle = tokio::time::timeout(Duration::from_secs(5), opened).await.expect("a session");
    drop(session);
    assert!(!handle.contains(KEY) && anam.leaks().len() == 1, "{handle}");
    assert!(service.reap(&handle).await);
    assert_eq!(anam.leaks(), [""; 0]);
    assert!(service.reap(&handle).await, "again: there is none");
    assert_eq!(anam.refused(), [""; 0]);
}
