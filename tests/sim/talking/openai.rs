//! OpenAI Realtime.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eyeline::codec::g711::Law;
use eyeline::talk::message::{Endpoint, Failure, Message, Request, Role, ToolSpec, Vendor};
use eyeline::talk::realtime::{RealtimeEvent, RealtimeSettings, Sound, SoundFormat, Turns};
use eyeline::talk::wire::realtime::OpenAiRealtime;
use serde_json::json;

use super::{Talk, Voice};
use crate::emulators::openai_realtime::{Answer, Fault, Realtime, Rules, Shared, lock};
use crate::emulators::socket::Core;
use crate::world::{ms, seconds};

fn settings() -> RealtimeSettings {
    RealtimeSettings {
        instructions: "You are the receptionist.".to_owned(),
        sound: SoundFormat::Law(Law::Mu),
        sees: true,
        ..RealtimeSettings::default()
    }
}

fn endpoint() -> Endpoint {
    let endpoint = Endpoint::new("gpt", Vendor::OpenAi);
    Endpoint {
        base_url: "ws://127.0.0.1:1/v1".into(),
        model: "gpt-realtime".into(),
        api_key: "key".into(),
        ..endpoint
    }
}

fn talk_with(rules: Rules, settings: RealtimeSettings) -> (Talk, Shared) {
    let shared: Shared = Arc::new(Mutex::new(rules));
    let now = Instant::now();
    let own = shared.clone();
    let accept =
        move |now, asked| Realtime::accept(now, &own, &asked).map(|core| Box::new(core) as Box<dyn Core>);
    let machine = OpenAiRealtime::new(now, endpoint(), settings);
    (Talk::new(now, Box::new(machine), Box::new(accept)), shared)
}

fn talk() -> (Talk, Shared) {
    talk_with(Rules::default(), settings())
}

fn speaks(ms: u64) -> Answer {
    Answer::Speak { ms, words: "I see a test picture and a lot more besides.".to_owned() }
}

fn sent(shared: &Shared, kind: &str) -> usize {
    lock(shared).seen.iter().filter(|seen| seen.kind == kind).count()
}

fn has_no_refusals(shared: &Shared) {
    let refused = lock(shared).refused.clone();
    assert!(refused.is_empty(), "{refused:?}");
}

#[test]
fn a_question_is_heard_answered_and_written_down() {
    let (mut talk, shared) = talk();
    talk.run(1_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 1);
    talk.say_for(1_500);
    talk.run(3_000);
    let events: Vec<&RealtimeEvent> = talk.events.iter().map(|(_, event)| event).collect();
    let place = |wanted: &dyn Fn(&RealtimeEvent) -> bool| events.iter().position(|event| wanted(event));
    let started = place(&|event| *event == RealtimeEvent::SpeechStarted).expect("heard");
    let ended = place(&|event| *event == RealtimeEvent::SpeechEnded).expect("its end");
    let sound = place(&|event| matches!(event, RealtimeEvent::Sound { .. })).expect("an answer");
    let done = place(&|event| matches!(event, RealtimeEvent::SoundDone { .. })).expect("its end");
    let over = place(&|event| matches!(event, RealtimeEvent::TurnDone { .. })).expect("the turn's end");
    assert!(started < ended && ended < sound && sound < done && done < over, "{events:?}");
    assert_eq!(talk.sound_ms(0), 1_000);
    let last = |role: Role| {
        events.iter().find_map(|event| match event {
            RealtimeEvent::Transcript { role: own, text, last: true, .. } if *own == role => {
                Some(text.as_str())
            }
            _ => None,
        })
    };
    assert_eq!(last(Role::User), Some("What do you see?"));
    assert_eq!(last(Role::Assistant), Some("I see a test picture."));
    has_no_refusals(&shared);
}

#[test]
fn pictures_and_what_they_show_start_no_turn_and_the_last_word_counts() {
    let (mut talk, shared) = talk();
    talk.run(1_000);
    talk.next_picture = Some(talk.now);
    for words in ["A man.", "A man with a parcel.", "An empty room."] {
        talk.machine.scene(talk.now, Some(words));
        talk.run(3_000);
    }
    talk.next_picture = None;
    talk.run(100);
    assert_eq!((talk.sound_ms(0), sent(&shared, "response.create")), (0, 0), "nobody has asked anything");
    let told = |shared: &Shared, words: &str| {
        lock(shared).seen.iter().filter(|seen| seen.event.to_string().contains(words)).count()
    };
    assert_eq!(told(&shared, "[what the camera shows now: An empty room.]"), 1);
    // Of three scenes two are stale, and of some ten pictures all but the newest two.
    let deleted = sent(&shared, "conversation.item.delete") as u64;
    assert_eq!(deleted, 2 + talk.pictures - 2, "{} pictures", talk.pictures);
    talk.say_for(1_500);
    talk.run(3_000);
    assert_eq!(talk.sound_ms(0), 1_000, "a question is answered as ever");
    talk.machine.scene(talk.now, None);
    talk.run(100);
    has_no_refusals(&shared);
}

#[test]
fn g711_goes_both_ways_bit_by_bit() {
    let answer: Vec<u8> = (0..8_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let words = "Noise.".to_owned();
    let rules =
        Rules { answers: [Answer::Bytes { sound: answer.clone(), words }].into(), ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(3_000);
    let heard: Vec<u8> = talk
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            RealtimeEvent::Sound { sound: Sound::Payload { law: Law::Mu, bytes }, .. } => Some(bytes.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(heard == answer, "{} bytes of {}", heard.len(), answer.len());
    let sound: Vec<u8> = lock(&shared).seen.iter().flat_map(|seen| seen.sound.clone()).collect();
    let block: Vec<u8> = (0..160).map(|n| if n / 8 % 2 == 0 { 0x9f } else { 0x1f }).collect();
    let spoken = sound.chunks(160).filter(|piece| **piece == block[..]).count();
    assert_eq!(spoken, 40, "800 ms of speech, untouched");
    assert_eq!(sound.len() as u64, (talk.block - 1) * 160, "nothing is lost from the first block on");
    assert_eq!(talk.machine.figures().resampled, 0);
}

#[test]
fn pcm_survives_pieces_of_odd_length() {
    let rules = Rules { odd: true, answers: [speaks(1_000)].into(), ..Rules::default() };
    let settings = RealtimeSettings { sound: SoundFormat::Samples { rate: 24_000 }, ..settings() };
    let (mut talk, shared) = talk_with(rules, settings);
    talk.run(500);
    talk.say_for(800);
    talk.run(3_000);
    let samples: Vec<i16> = talk
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            RealtimeEvent::Sound { sound: Sound::Samples { samples, .. }, .. } => Some(samples.clone()),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(samples.len(), 24_000);
    assert!(samples.iter().all(|sample| sample.abs() == 6_000), "no sample is put together from two");
    has_no_refusals(&shared);
}

#[test]
fn who_speaks_over_an_answer_hears_no_more_of_it() {
    let rules =
        Rules { answers: [speaks(8_000), speaks(500)].into(), trailing: 5, pace: 2, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(1_500);
    let item = talk.events.iter().find_map(|(_, event)| match event {
        RealtimeEvent::Sound { item, .. } => Some(item.clone()),
        _ => None,
    });
    let item = item.expect("it speaks");
    let before = talk.events.len();
    talk.say_for(400);
    let at = talk.events[before..]
        .iter()
        .position(|(_, event)| *event == RealtimeEvent::Interrupted { item: Some(item.clone()) })
        .expect("interrupted")
        + before;
    talk.machine.heard(talk.now, &item, 1_240);
    talk.run(3_000);
    let late = talk.events[at..]
        .iter()
        .any(|(_, event)| matches!(event, RealtimeEvent::Sound { item: own, .. } if *own == item));
    assert!(!late, "nothing of the cancelled answer comes out after the interruption");
    assert!(talk.machine.figures().late_dropped >= 5, "{:?}", talk.machine.figures());
    assert_eq!(talk.sound_ms(at), 500, "the next answer does");
    let truncations: Vec<_> =
        lock(&shared).seen.iter().filter(|seen| seen.kind == "conversation.item.truncate").cloned().collect();
    assert_eq!(truncations.len(), 1);
    assert_eq!(truncations[0].event["audio_end_ms"], 1_240);
    assert_eq!(truncations[0].event["item_id"], &*item);
    has_no_refusals(&shared);
}

#[test]
fn an_answer_nobody_heard_is_deleted_and_one_heard_to_the_end_is_left() {
    let rules = Rules { answers: [speaks(4_000), speaks(500)].into(), pace: 2, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(900);
    talk.machine.interrupt(talk.now);
    let item = talk.events.iter().find_map(|(_, event)| match event {
        RealtimeEvent::Sound { item, .. } => Some(item.clone()),
        _ => None,
    });
    let item = item.expect("it spoke");
    let from = talk.events.len();
    talk.machine.heard(talk.now, &item, 0);
    talk.run(1_000);
    assert_eq!(talk.sound_ms(from), 0);
    let deleted: Vec<_> =
        lock(&shared).seen.iter().filter(|seen| seen.kind == "conversation.item.delete").cloned().collect();
    assert_eq!(deleted.len(), 1);
    assert_eq!(deleted[0].event["item_id"], &*item);
    assert_eq!(sent(&shared, "response.cancel"), 1);
    talk.say_for(800);
    talk.run(2_000);
    talk.machine.heard(talk.now, "item_unknown", 10);
    let last = talk.events.iter().rev().find_map(|(_, event)| match event {
        RealtimeEvent::SoundDone { item } => Some(item.clone()),
        _ => None,
    });
    talk.machine.heard(talk.now, &last.expect("the second answer"), 500);
    talk.run(200);
    assert_eq!(sent(&shared, "conversation.item.truncate"), 0);
    has_no_refusals(&shared);
}

#[test]
fn only_the_newest_pictures_stay_and_each_turn_has_its_own() {
    let (mut talk, shared) = talk();
    talk.next_picture = Some(talk.now);
    talk.run(1_000);
    for _ in 0..5 {
        talk.say_for(1_500);
        talk.run(4_000);
    }
    let rules = lock(&shared);
    assert_eq!(rules.turns.len(), 5);
    assert!(rules.turns.iter().all(|(_, _, images)| *images == 2), "{:?}", rules.turns);
    // The picture of the last second stands before the sound of every turn.
    let mut newest = None;
    for seen in &rules.seen {
        if seen.kind == "conversation.item.create" {
            newest = Some(seen.at);
        }
    }
    assert!(newest.is_some_and(|at| talk.now - at <= ms(1_100)));
    drop(rules);
    has_no_refusals(&shared);
}

#[test]
fn tools_are_called_answered_and_the_talk_goes_on() {
    let call = Answer::Call { name: "look".to_owned(), arguments: r#"{"where": "door"}"#.to_owned() };
    let rules = Rules { answers: [call, speaks(700)].into(), ..Rules::default() };
    let tool =
        ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object"}) };
    let (mut talk, shared) = talk_with(rules, RealtimeSettings { tools: vec![tool], ..settings() });
    talk.run(500);
    talk.say_for(800);
    talk.run(1_000);
    let call = talk.events.iter().find_map(|(_, event)| match event {
        RealtimeEvent::Call(call) => Some(call.clone()),
        _ => None,
    });
    let call = call.expect("a call");
    assert_eq!((call.name.as_str(), call.arguments.as_str()), ("look", r#"{"where": "door"}"#));
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Call(_))), 1, "told once");
    talk.machine.answer_tool(talk.now, "call_unknown", "x");
    talk.machine.answer_tool(talk.now, &call.id, "a person");
    talk.run(2_000);
    assert_eq!(talk.sound_ms(0), 700);
    assert_eq!(talk.machine.figures().unasked_results, 1);
    has_no_refusals(&shared);
}

#[test]
fn a_question_aside_disturbs_nothing() {
    let rules = Rules { answers: [speaks(3_000)].into(), pace: 1, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(1_000);
    let mut message = Message::text(Role::User, "Is there a parcel?");
    message.parts.push(eyeline::talk::message::Part::Image(super::picture(77, talk.now)));
    let request = Request { messages: vec![message], max_tokens: Some(100), ..Request::default() };
    let id = talk.machine.ask_aside(talk.now, &request);
    talk.run(4_000);
    let answer = talk.events.iter().find_map(|(_, event)| match event {
        RealtimeEvent::Aside { id: own, answer, .. } if *own == id => Some(answer.clone()),
        _ => None,
    });
    assert_eq!(answer, Some(Ok("I see a test picture.".to_owned())));
    assert_eq!(talk.sound_ms(0), 3_000, "the answer in progress is whole");
    let images = lock(&shared).turns.iter().map(|(_, _, images)| *images).max();
    assert_eq!(images, Some(0), "the conversation never saw that picture");
    has_no_refusals(&shared);
}

#[test]
fn turns_of_ours_are_committed_with_their_first_phoneme() {
    let settings = RealtimeSettings { turns: Turns::Ours, ..settings() };
    let (mut talk, shared) = talk_with(Rules::default(), settings);
    talk.run(2_000);
    assert_eq!(sent(&shared, "input_audio_buffer.append"), 0, "nothing is sent outside of a turn");
    talk.voice = Voice::Speech;
    talk.run(100);
    talk.machine.begin_turn(talk.now);
    talk.run(900);
    talk.voice = Voice::Silence;
    talk.machine.commit_turn(talk.now);
    talk.run(2_000);
    assert_eq!(talk.sound_ms(0), 1_000);
    let sound: usize = lock(&shared).seen.iter().map(|seen| seen.sound.len()).sum();
    assert!((1_380..=1_420).contains(&(sound / 8)), "{} ms: half a second before it too", sound / 8);
    talk.machine.begin_turn(talk.now);
    talk.machine.interrupt(talk.now);
    talk.machine.commit_turn(talk.now);
    talk.run(500);
    has_no_refusals(&shared);
}

#[test]
fn a_cut_in_mid_question_is_asked_again_and_one_in_mid_answer_ends_it() {
    let (mut talk, shared) = talk();
    talk.run(500);
    talk.voice = Voice::Speech;
    talk.run(700);
    lock(&shared).faults.push_back(Fault::Cut);
    talk.run(500);
    talk.voice = Voice::Silence;
    talk.run(3_000);
    assert_eq!(talk.sound_ms(0), 1_000, "the whole question was told again");
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Trouble(Failure::Cut)), 1);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 2);
    lock(&shared).answers.push_back(speaks(6_000));
    lock(&shared).pace = 1;
    talk.say_for(700);
    talk.run(1_500);
    let from = talk.events.len();
    lock(&shared).faults.push_back(Fault::Cut);
    talk.run(2_000);
    let rest = &talk.events[from..];
    assert!(rest.iter().any(|(_, event)| matches!(event, RealtimeEvent::SoundDone { .. })), "{rest:?}");
    assert!(rest.iter().any(|(_, event)| matches!(event, RealtimeEvent::TurnDone { .. })));
    let from = talk.events.len();
    talk.say_for(700);
    talk.run(2_500);
    assert_eq!(talk.sound_ms(from), 1_000, "the next question is answered");
    has_no_refusals(&shared);
}

#[test]
fn what_passes_is_waited_for_and_what_does_not_ends_it() {
    let rules = Rules { refuse: [(429, Some(2)), (503, None)].into(), ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(1_900);
    assert_eq!(lock(&shared).connections, 0, "Retry-After is obeyed");
    talk.run(3_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 1);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Trouble(Failure::Busy { .. }))), 1);
    for fault in [Fault::Malformed, Fault::Error("server_error"), Fault::Error("rate_limit_exceeded")] {
        lock(&shared).faults.push_back(fault);
    }
    talk.run(500);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Closed(_))), 0);
    lock(&shared).answers.push_back(Answer::Fail("server_error"));
    talk.say_for(700);
    talk.run(1_500);
    let from = talk.events.len();
    talk.say_for(700);
    talk.run(2_000);
    assert_eq!(talk.sound_ms(from), 1_000);
    lock(&shared).faults.push_back(Fault::Error("insufficient_quota"));
    talk.run(500);
    assert!(matches!(
        talk.events.last(),
        Some((_, RealtimeEvent::Closed(Failure::Refused { status: 429, .. })))
    ));
    talk.run(60_000);
    assert_eq!(lock(&shared).connections, 1, "it does not come back");
}

#[test]
fn a_wrong_key_is_told_once() {
    let rules = Rules { key: "other".to_owned(), ..Rules::default() };
    let (mut talk, _) = talk_with(rules, settings());
    talk.run(30_000);
    let told: Vec<_> = talk.events.iter().map(|(_, event)| event.clone()).collect();
    assert!(matches!(&told[..], [RealtimeEvent::Closed(Failure::Refused { status: 401, .. })]), "{told:?}");
}

#[test]
fn a_model_that_hangs_is_asked_again_over_a_fresh_connection() {
    let rules = Rules { answers: [Answer::Hang].into(), ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, RealtimeSettings { answer_within: seconds(3), ..settings() });
    talk.run(500);
    talk.say_for(700);
    talk.run(6_000);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Trouble(Failure::TooSlow(3_000)))), 1);
    assert_eq!(talk.sound_ms(0), 1_000);
    assert_eq!(lock(&shared).connections, 2);
    has_no_refusals(&shared);
}

#[test]
fn a_network_that_is_away_for_minutes_comes_back() {
    let (mut talk, shared) = talk();
    talk.run(500);
    talk.down = true;
    lock(&shared).faults.push_back(Fault::Cut);
    talk.run(180_000);
    let tries = talk.count(|event| matches!(event, RealtimeEvent::Trouble(Failure::Unreached(_))));
    assert!((30..=45).contains(&tries), "{tries} tries in three minutes");
    talk.down = false;
    talk.run(6_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 2);
    talk.say_for(700);
    talk.run(2_000);
    assert_eq!(talk.sound_ms(0), 1_000);
}

#[test]
fn half_an_hour_with_pictures_costs_the_same_every_turn() {
    let rules = Rules { keep_sound: false, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.next_picture = Some(talk.now + ms(300));
    talk.run(1_000);
    let mut turns = 0;
    while talk.now - talk.start < Duration::from_secs(30 * 60) {
        talk.say_for(2_000);
        talk.run(8_000);
        turns += 1;
        assert!(
            talk.events.iter().any(|(_, event)| matches!(event, RealtimeEvent::TurnDone { .. })),
            "turn {turns}"
        );
        talk.events.retain(|(_, event)| {
            !matches!(event, RealtimeEvent::Sound { .. } | RealtimeEvent::TurnDone { .. })
        });
    }
    let figures = talk.machine.figures();
    let rules = lock(&shared);
    assert_eq!(rules.turns.len(), turns, "every question got its answer");
    assert!(rules.turns.iter().all(|(_, _, images)| (1..=2).contains(images)), "pictures never pile up");
    // Once the context is full it stays within the step by which the provider forgets (a fifth, and a turn); a session
    // that begins anew is smaller for a while.
    let limit = settings().context_tokens;
    let sizes: Vec<u64> = rules.turns.iter().map(|(_, tokens, _)| *tokens).collect();
    let most = sizes.iter().max().copied().unwrap_or_default();
    assert!(most <= u64::from(limit), "{most} tokens in one turn");
    let full =
        sizes.iter().position(|size| *size * 10 > u64::from(limit) * 8).expect("half an hour fills it");
    let grown = |pair: &&[u64]| pair[1] > pair[0] + 600;
    assert_eq!(sizes.windows(2).filter(grown).count(), 0, "{sizes:?}");
    let smaller = sizes[full..].iter().filter(|size| **size * 10 < u64::from(limit) * 7).count();
    println!(
        "tokens a turn: full at turn {full} of {turns}, most {most}, {smaller} later ones below 0.7; {figures:?}"
    );
    println!("{sizes:?}");
    assert_eq!(figures.recycled, 1, "{figures:?}");
    assert_eq!((figures.reconnected, rules.connections), (0, 2));
    assert!(figures.images_sent >= 1_700, "{figures:?}");
    assert!(rules.refused.is_empty(), "{:?}", rules.refused);
    // Sound goes on without a hole from one session to the next.
    let appends: Vec<Instant> = rules
        .seen
        .iter()
        .filter(|seen| seen.kind == "input_audio_buffer.append")
        .map(|seen| seen.at)
        .collect();
    let gap = appends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    assert!(gap <= ms(40), "{gap:?}");
}
