//! Agents that wear a face: a real SIP call, and a server of faces on loopback. What the caller sees and hears is measured,
//! not what the appliance believes.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::appliance::Appliance;
use crate::harness::emulators::raw_avatar::RawAvatar;
use crate::harness::face_measures::{
    LOUD_DB, call, drawn, edges, face_of, frequency_there, in_the_middle, levels, mouths, offsets, voices,
};
use crate::harness::process::Process;
use crate::harness::uac::{Caller, Sending};
use crate::harness::{root, turn, wait_for};
use crate::talk::{events, number, silence, spoken};

/// A second of speech: the built-in voice takes so long for a letter.
const LETTER_MS: usize = 40;

/// `examples/avatar_server.py`, on a port of its own.
pub struct Server {
    process: Process,
    folder: tempfile::TempDir,
    pub port: u16,
}

impl Server {
    pub fn start(port: u16, more: &[&str]) -> Server {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("python3");
        command.arg("-u").arg(root().join("examples/avatar_server.py")).arg("--port").arg(port.to_string());
        let process = Process::start("avatar_server", command.args(more), folder.path());
        let port = wait_for(Duration::from_secs(5), || {
            let log = process.log();
            let digits = log.split("listening on port ").nth(1)?.chars().take_while(char::is_ascii_digit);
            digits.collect::<String>().parse().ok()
        });
        let port = port.unwrap_or_else(|| panic!("{}", process.last_words()));
        Server { process, folder, port }
    }

    /// At once, without a word to anybody.
    fn kill(self) -> u16 {
        self.process.signal(Signal::KILL);
        drop(self.folder);
        self.port
    }
}

fn appliance(server: &Server, more: &[&str]) -> Appliance {
    let avatar = format!(
        r#"avatar.face={{provider="websocket", base_url="ws://127.0.0.1:{}/avatar", reconnects=4}}"#,
        server.port
    );
    let voice = format!(r#"tts.mock={{provider="mock", options={{tone_hz=440, letter_ms={LETTER_MS}}}}}"#);
    let mut settings = vec![
        avatar.as_str(),
        voice.as_str(),
        r#"stt.mock={provider="mock", options={text="Stop."}}"#,
        r#"llm.mock={provider="mock", options={text="Yes."}}"#,
        r#"agent.a={kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="", avatar="face"}"#,
        r#"route=[{to="100", agent="a", detect=[]}]"#,
        r#"talk.turn_detection="vad""#,
        "recording.min_free_gib=0",
    ];
    settings.extend(more);
    Appliance::start(&settings)
}

#[test]
fn a_face_goes_through_as_it_came_in_step_with_its_voice_and_the_agent_is_heard_before_it_is_there() {
    let _turn = turn();
    let seconds =
        std::env::var("EYELINE_FACE_SECONDS").ok().and_then(|own| own.parse().ok()).unwrap_or(14_u32);
    let server = Server::start(0, &["--start-seconds", "2"]);
    let appliance = appliance(&server, &[]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let text = "a".repeat(40);
    // The first before there is a face.
    let mut texts = vec![(0.3, "aaaaaaaaaaaaaaaaaaaa")];
    texts.extend((0..seconds / 4 - 1).map(|n| (4.0 + 4.0 * f64::from(n), text.as_str())));
    let received = call(&appliance, &mut caller, Duration::from_secs(seconds.into()), &texts, |_| ());
    caller.hang_up();
    let first = received.video.packets.first().expect("a picture").at;
    assert!(first < 0.3, "the first picture after {first:.3} s");
    let early = levels(&received.audio).iter().filter(|(at, level)| *at < 1.8 && *level > LOUD_DB).count();
    assert!((38..=44).contains(&early), "{early} blocks before there was a face");
    let offsets = offsets(&received, drawn);
    println!("lips later than the sound by {offsets:.0?} ms");
    // Of what was said by the face: two for each.
    let own = &offsets[2.min(offsets.len())..];
    assert!(own.len() >= 2 * (seconds as usize / 4 - 1) - 1, "{offsets:?}");
    let apart = own.iter().fold(0.0_f64, |most, offset| most.max(offset.abs()));
    assert!(apart <= 45.0, "{apart:.0} ms apart: {own:?}");
    let record = appliance.call_record(&appliance.finished_recording());
    let face = face_of(&record);
    println!("{face:#}");
    assert!(
        face["figures"]["passed_through"].as_u64().unwrap_or(0) > u64::from(seconds - 6) * 20,
        "{record:#}"
    );
    assert_eq!(
        (&face["figures"]["decoded"], &face["figures"]["encoded"]),
        (&0.into(), &0.into()),
        "{face:#}"
    );
    assert_eq!(events(&record, "avatar.connected").len(), 1, "{record:#}");
}

#[test]
fn a_caller_who_interrupts_a_face_is_not_talked_over() {
    let _turn = turn();
    let server = Server::start(0, &[]);
    let appliance = appliance(&server, &[]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let id = appliance.current_call();
    let stop = spoken("Stop please, I have another question for you");
    let said: Vec<f64> = [silence(4_000), stop.clone(), silence(3_000)].concat();
    let time = Duration::from_secs_f64(said.len() as f64 / 8_000.0);
    let body = format!(r#"{{"text":"{}"}}"#, "a".repeat(300));
    let mut asked = false;
    let sending = Sending { time, sound: Some(&said), ..Sending::default() };
    let received = caller.stream_as(&answer, &sending, |_, at| {
        if !asked && at >= Duration::from_millis(1_500) {
            asked = true;
            appliance.api("POST", &format!("/api/v1/calls/{id}/say"), &body);
        }
    });
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let levels = levels(&received.audio);
    let before = levels.iter().filter(|(at, level)| (3.0..4.0).contains(at) && *level > LOUD_DB).count();
    assert!(before > 45, "the face speaks when it is interrupted: {record:#}");
    // The tone is given up, once the caller has said enough to be taken seriously; then "Yes." and nothing else.
    let last = levels.iter().take_while(|(at, level)| *at < 4.0 || *level > -60.0).last().expect("sound").0;
    let after_ms = (last - 4.0) * 1_000.0;
    println!("the last of it leaves {after_ms:.0} ms after the caller began");
    assert!(after_ms <= 300.0, "{after_ms:.0} ms: {record:#}");
    let rest = levels.iter().filter(|(at, level)| *at > last + 0.05 && *level > LOUD_DB).count();
    assert!(rest <= 12 + 4 * LETTER_MS / 20, "{rest} blocks of something after the end: {record:#}");
    assert_eq!(events(&record, "agent.interrupted").len(), 1, "{record:#}");
    assert_eq!(face_of(&record)["figures"]["interrupted"], 1, "{record:#}");
}

#[test]
fn a_face_that_is_killed_in_mid_sentence_leaves_the_voice_and_comes_back() {
    let _turn = turn();
    let mut server = Some(Server::start(0, &[]));
    let appliance = appliance(server.as_ref().expect("it runs"), &[]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let long = "a".repeat(150);
    let mut port = 0;
    let mut again = None;
    let received = call(
        &appliance,
        &mut caller,
        Duration::from_secs(13),
        &[(1.0, &long), (10.0, "aaaaaaaaaaaaaaaaaaaaaaaaa")],
        |at| {
            if at >= Duration::from_millis(3_000)
                && let Some(server) = server.take()
            {
                port = server.kill();
            }
            if at >= Duration::from_millis(3_600) && again.is_none() {
                again = Some(Server::start(port, &[]));
            }
        },
    );
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let loud: Vec<f64> = levels(&received.audio)
        .iter()
        .filter(|(at, level)| *at < 9.5 && *level > LOUD_DB)
        .map(|(at, _)| *at)
        .collect();
    let hole = loud.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    println!("{hole:.3} s without a voice, {} blocks of it", loud.len());
    assert!(hole < 1.0, "{hole:.3} s without a voice: {record:#}");
    // Six seconds of it, a crumb more or less where one way ends and the other begins.
    assert!((292..=312).contains(&loud.len()), "{} blocks: {record:#}", loud.len());
    let lost = events(&record, "avatar.lost");
    assert_eq!(lost[0]["cause"], "connection", "{record:#}");
    assert!(events(&record, "avatar.connected").len() == 2, "{record:#}");
    assert!(number(&face_of(&record)["figures"], "passed_through") > 60.0, "{record:#}");
    let offsets = offsets(&received, drawn);
    assert!(offsets.last().is_some_and(|last| last.abs() <= 45.0), "the new face is in step: {offsets:?}");
}

/// A MuseTalk-type server has neither sound nor time: both are made here.
#[test]
fn a_face_of_plain_pictures_is_in_step_with_the_agents_own_voice_and_its_session_is_stopped() {
    let _turn = turn();
    let server = RawAvatar::start();
    server.state().work = Duration::from_millis(30);
    let avatar = format!(
        r#"avatar.face={{provider="websocket", protocol="raw", base_url="{}", rate=16000}}"#,
        server.url()
    );
    let voice = format!(r#"tts.mock={{provider="mock", options={{tone_hz=440, letter_ms={LETTER_MS}}}}}"#);
    let appliance = Appliance::start(&[
        &avatar,
        &voice,
        r#"stt.mock={provider="mock", options={text="Stop."}}"#,
        r#"llm.mock={provider="mock", options={text="Yes."}}"#,
        r#"agent.a={kind="pipeline", stt="mock", llm="mock", tts="mock", greeting="", avatar="face"}"#,
        r#"route=[{to="100", agent="a", detect=[]}]"#,
        "recording.min_free_gib=0",
    ]);
    let mut caller = Caller::new(&format!("sip:100@{}", appliance.sip));
    let text = "a".repeat(40);
    let texts = [(1.5, text.as_str()), (5.0, text.as_str())];
    let received = call(&appliance, &mut caller, Duration::from_secs(9), &texts, |_| ());
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let voice = edges(&voices(&received.audio));
    let lips = edges(&mouths(&received.video, in_the_middle));
    println!("voice {voice:?}\nlips {lips:?}");
    assert_eq!((voice.len(), lips.len()), (4, 4), "{record:#}");
    for (heard, seen) in voice.iter().zip(&lips) {
        let apart = (seen.0 - heard.0) * 1_000.0;
        // Its pictures are 33 ms apart, and they are coded here.
        assert!(apart.abs() <= 60.0, "{apart:.0} ms: {voice:?} {lips:?}");
    }
    let hz = frequency_there(&server.state().heard);
    assert!((hz - 440.0).abs() < 6.0, "the tone arrives there with {hz:.1} Hz");
    let stopped = wait_for(Duration::from_secs(5), || (server.ledger() == (1, 1)).then_some(()));
    assert!(stopped.is_some(), "{:?}", server.ledger());
    let violations = server.state().violations.clone();
    assert_eq!(violations, [""; 0]);
}
