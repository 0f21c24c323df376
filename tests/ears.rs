//! The child that listens, as calls see it: right judgements at any rate, soon; and what happens when it dies or hangs.
//!
//! Needs ONNX Runtime beside the binary and the two networks in `./models` (`make setup`).

#![expect(clippy::disallowed_methods, reason = "tests wait for another process")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use eyeline::inference::manifest::{TURN_MODEL, VOICE_MODEL};
use eyeline::inference::store::Store;
use eyeline::source::speech::{SpeechSettings, say};
use eyeline::worker::ears::{Ears, EarsError, EarsSettings, Judgement, Listener};
use rustix::process::{Pid, Signal};

const LIMIT: Duration = Duration::from_secs(20);

fn settings() -> EarsSettings {
    let store = Store::open(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models"))).expect("a manifest");
    let file = |name: &str| store.file(name).expect("make setup fetches it");
    EarsSettings {
        executable: PathBuf::from(env!("CARGO_BIN_EXE_eyeline")),
        ..EarsSettings::new(file(VOICE_MODEL), Some(file(TURN_MODEL)))
    }
}

fn speech(rate: u32) -> Vec<i16> {
    say("Good morning, my name is Peter.", &SpeechSettings::new(rate)).expect("espeak-ng is installed")
}

/// Hands the sound over as a call does, but without its pauses, and waits for the judgement of its last window.
async fn judged(listener: &mut Listener, sound: &[i16], rate: u32) -> Vec<(f32, u64)> {
    let begin = listener.heard();
    for block in sound.chunks(rate as usize / 50) {
        listener.hear(block);
        // Nobody speaks as fast as a computer: the child's socket holds a second or two.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let last = begin + sound.len() as u64 - u64::from(rate) * 50 / 1_000;
    let mut all = Vec::new();
    let limit = Instant::now() + LIMIT;
    while all.last().is_none_or(|(_, until)| *until < last) {
        assert!(Instant::now() < limit, "judged up to {:?} of {last}", all.last());
        match tokio::time::timeout(LIMIT, listener.next()).await.expect("a judgement") {
            Judgement::Speech { probability, until } => all.push((probability, until)),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn share_of_speech(judged: &[(f32, u64)]) -> f64 {
    judged.iter().filter(|(probability, _)| *probability >= 0.5).count() as f64 / judged.len() as f64
}

#[tokio::test]
async fn speech_is_told_from_silence_at_the_rates_of_calls() {
    let ears = Ears::start(settings()).expect("the child starts");
    for rate in [8_000, 16_000, 48_000] {
        let mut listener = ears.listener(rate);
        let quiet = judged(&mut listener, &vec![3; rate as usize], rate).await;
        assert_eq!(share_of_speech(&quiet), 0.0, "{rate}");
        let sound = speech(rate);
        let spoken = judged(&mut listener, &sound, rate).await;
        assert!(share_of_speech(&spoken) > 0.7, "{rate}: {}", share_of_speech(&spoken));
        let steps = spoken.windows(2).all(|pair| pair[1].1 - pair[0].1 == u64::from(rate) * 32 / 1_000);
        assert!(steps, "{rate}: windows of 32 ms without a gap");
    }
    let status = ears.status();
    assert!(status.alive && status.listeners == 0 && status.restarts == 0, "{status:?}");
    assert_eq!((status.blocks_lost, status.turn_problem), (0, None));
}

#[tokio::test]
async fn callers_do_not_hear_each_other() {
    let ears = Ears::start(settings()).expect("the child starts");
    let (mut one, mut other) = (ears.listener(8_000), ears.listener(8_000));
    let sound = speech(8_000);
    let together =
        async { tokio::join!(judged(&mut one, &sound, 8_000), judged(&mut other, &[0; 16_000], 8_000)) };
    let (spoken, quiet) = together.await;
    assert!(share_of_speech(&spoken) > 0.7 && share_of_speech(&quiet) == 0.0);
    // The same sound again, alone: the same judgements.
    let mut alone = ears.listener(8_000);
    assert_eq!(judged(&mut alone, &sound, 8_000).await, spoken);
}

async fn finished(listener: &mut Listener, spoken: Duration) -> Judgement {
    listener.ask_finished(spoken);
    loop {
        match tokio::time::timeout(LIMIT, listener.next()).await.expect("an answer") {
            Judgement::Speech { .. } => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn whether_a_speaker_has_finished_is_answered_beside_the_line() {
    let ears = Ears::start(settings()).expect("the child starts");
    let mut answers = Vec::new();
    for text in ["Good morning, my name is Peter.", "I would like to"] {
        let mut listener = ears.listener(16_000);
        let mut sound = say(text, &SpeechSettings::new(16_000)).expect("espeak-ng");
        let end = sound.iter().rposition(|sample| sample.abs() > 300).expect("words");
        sound.truncate(end);
        sound.extend([0; 3_200]);
        judged(&mut listener, &sound, 16_000).await;
        let heard = listener.heard();
        let answer = finished(&mut listener, Duration::from_secs(4)).await;
        let Judgement::Finished { probability, until } = answer else { panic!("{answer:?}") };
        assert_eq!(until, heard);
        answers.push(probability);
    }
    assert!(answers[0] > 0.5 && answers[1] < 0.5, "{answers:?}");

    // Questions of one caller do not make the others wait for their judgements.
    let (mut asking, mut speaking) = (ears.listener(8_000), ears.listener(8_000));
    let block = vec![5i16; 160];
    let mut waits = Vec::new();
    for number in 0..100u64 {
        asking.hear(&block);
        if number % 5 == 0 {
            asking.ask_finished(Duration::from_secs(8));
        }
        let started = Instant::now();
        speaking.hear(&block);
        // Every window ends in a block; the others are answered by nothing.
        if let Ok(Judgement::Speech { .. }) =
            tokio::time::timeout(Duration::from_millis(60), speaking.next()).await
        {
            waits.push(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waits.sort();
    let status = ears.status();
    println!(
        "{} windows beside {} questions: half within {:?}, all within {:?}; a window takes {:.0} us, an answer {:.0} ms",
        waits.len(),
        status.asked,
        waits[waits.len() / 2],
        waits[waits.len() - 1],
        status.window_us,
        status.answer_ms,
    );
    assert!(waits.len() >= 55 && waits[waits.len() / 2] < Duration::from_millis(10), "{waits:?}");
}

fn child(ears: &Ears) -> Pid {
    Pid::from_raw(ears.status().pid.expect("a running child") as i32).expect("not 0")
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Hands silence over until the listener says that the child is gone.
async fn gone(listener: &mut Listener) {
    let limit = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < limit, "it never said so");
        listener.hear(&[0; 160]);
        let next = tokio::time::timeout(Duration::from_millis(20), listener.next()).await;
        if let Ok(Judgement::Gone) = next {
            return;
        }
    }
}

#[tokio::test]
async fn a_killed_or_hanging_child_is_told_of_and_replaced_and_listeners_go_on() {
    let ears =
        Ears::start(EarsSettings { stall: Duration::from_millis(500), ..settings() }).expect("it starts");
    let mut listener = ears.listener(8_000);
    let sound = speech(8_000);
    for (number, signal) in [Signal::KILL, Signal::STOP].into_iter().enumerate() {
        judged(&mut listener, &sound, 8_000).await;
        let before = child(&ears);
        rustix::process::kill_process(before, signal).expect("sent");
        gone(&mut listener).await;
        // Sound and questions while there is nobody are lost, not waited for.
        listener.hear(&[0; 160]);
        assert_eq!(finished(&mut listener, Duration::from_secs(1)).await, Judgement::Unanswered);
        until("a new child", || ears.status().alive && ears.status().restarts == number as u64 + 1).await;
        assert_ne!(child(&ears), before);
        let again = judged(&mut listener, &sound, 8_000).await;
        assert!(share_of_speech(&again) > 0.7);
    }
    let status = ears.status();
    assert!(status.blocks_lost > 0 && status.last_error.is_some(), "{status:?}");
}

#[tokio::test]
async fn what_is_missing_is_said_and_what_can_be_done_without_is_done_without() {
    let nothing = EarsSettings { executable: "/nowhere/eyeline".into(), ..settings() };
    assert!(matches!(Ears::start(nothing), Err(EarsError::Start(why)) if why.contains("/nowhere/eyeline")));
    let mut damaged = settings();
    damaged.voice.sha256 = vec!["00".repeat(32)];
    assert!(matches!(Ears::start(damaged), Err(EarsError::Load(why)) if why.contains("SHA-256")));
    let mut another = settings();
    another.voice = another.turn.clone().expect("a file");
    assert!(matches!(Ears::start(another), Err(EarsError::Load(why)) if why.contains("another network")));

    let mut without = settings();
    without.turn = None;
    let ears = Ears::start(without).expect("it starts");
    let mut listener = ears.listener(8_000);
    listener.hear(&[0; 160]);
    assert_eq!(finished(&mut listener, Duration::from_secs(1)).await, Judgement::Unanswered);
    let mut broken = settings();
    if let Some(turn) = &mut broken.turn {
        turn.path = "/nowhere/turn.onnx".into();
    }
    let ears = Ears::start(broken).expect("it starts");
    assert!(ears.status().turn_problem.is_some_and(|why| why.contains("/nowhere/turn.onnx")));
}

#[tokio::test]
async fn the_child_ends_with_the_last_listener() {
    let ears = Ears::start(settings()).expect("it starts");
    let listener = ears.listener(8_000);
    let child = child(&ears);
    drop(ears);
    assert!(rustix::process::test_kill_process(child).is_ok(), "the listener still holds it");
    drop(listener);
    let stat = format!("/proc/{}/stat", child.as_raw_nonzero());
    until("the child ends", || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")))
        .await;
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_child_that_swallows_judgements_or_dies_over_and_over_costs_no_more_than_judgements() {
    use eyeline::worker::Fault;
    let ears = Ears::start(settings()).expect("it starts");
    let mut listener = ears.listener(8_000);
    ears.inject(Fault::DropAnswers(10));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let first = judged(&mut listener, &speech(8_000), 8_000).await;
    assert_eq!(first[0].1, 11 * 256, "ten windows said nothing");
    for _ in 0..2 {
        ears.inject(Fault::Kill);
        gone(&mut listener).await;
        until("a new child", || ears.status().alive).await;
    }
    let again = judged(&mut listener, &speech(8_000), 8_000).await;
    assert!(share_of_speech(&again) > 0.7);
}
