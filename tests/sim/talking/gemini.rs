//! Gemini Live.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eyeline::talk::message::{Endpoint, Failure, Message, Role, ToolSpec, Vendor};
use eyeline::talk::realtime::{RealtimeEvent, RealtimeSettings, SoundFormat, Turns};
use eyeline::talk::wire::live::GeminiLive;
use serde_json::json;

use super::{Talk, Voice, picture};
use crate::emulators::gemini_live::{Answer, Fault, Live, Rules, Shared, lock, number_of};
use crate::emulators::socket::Core;
use crate::world::{ms, seconds};

fn settings() -> RealtimeSettings {
    RealtimeSettings {
        instructions: "You are the receptionist.".to_owned(),
        sound: SoundFormat::Samples { rate: 16_000 },
        sees: true,
        ..RealtimeSettings::default()
    }
}

fn endpoint() -> Endpoint {
    let endpoint = Endpoint::new("gemini", Vendor::Gemini);
    Endpoint {
        base_url: "http://127.0.0.1:1".into(),
        model: "gemini-live".into(),
        api_key: "key".into(),
        ..endpoint
    }
}

fn talk_with(rules: Rules, settings: RealtimeSettings) -> (Talk, Shared) {
    let shared: Shared = Arc::new(Mutex::new(rules));
    let now = Instant::now();
    let own = shared.clone();
    let accept =
        move |now, asked| Live::accept(now, &own, &asked).map(|core| Box::new(core) as Box<dyn Core>);
    let machine = GeminiLive::new(now, endpoint(), settings);
    (Talk::new(now, Box::new(machine), Box::new(accept)), shared)
}

fn talk() -> (Talk, Shared) {
    talk_with(Rules::default(), settings())
}

fn speaks(ms: u64) -> Answer {
    Answer::Speak { ms, words: " I see a test picture and a lot more besides.".to_owned() }
}

fn has_no_refusals(shared: &Shared) {
    let refused = lock(shared).refused.clone();
    assert!(refused.is_empty(), "{refused:?}");
}

/// Numbers of the blocks a connection was told, in order.
fn blocks(shared: &Shared, connection: usize) -> Vec<u64> {
    let rules = lock(shared);
    let sound = rules.seen.iter().filter(|seen| seen.connection == connection && seen.kind == "audio");
    sound.flat_map(|seen| seen.sound.chunks(640).filter_map(number_of).collect::<Vec<_>>()).collect()
}

/// The longest time between two messages with sound, over all connections.
fn longest_gap(shared: &Shared) -> Duration {
    let rules = lock(shared);
    let at: Vec<Instant> =
        rules.seen.iter().filter(|seen| seen.kind == "audio").map(|seen| seen.at).collect();
    at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[test]
fn a_question_is_heard_answered_and_written_down_in_either_case_of_names() {
    for (snake, binary) in [(false, true), (true, false)] {
        let (mut talk, shared) = talk_with(Rules { snake, binary, ..Rules::default() }, settings());
        talk.run(1_000);
        assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 1);
        talk.say_for(1_500);
        talk.run(3_000);
        assert_eq!(talk.sound_ms(0), 1_000, "snake {snake}");
        let last = |role: Role| {
            talk.events.iter().find_map(|(_, event)| match event {
                RealtimeEvent::Transcript { role: own, text, last: true, .. } if *own == role => {
                    Some(text.clone())
                }
                _ => None,
            })
        };
        assert_eq!(last(Role::User).as_deref(), Some("What do you see?"));
        assert_eq!(last(Role::Assistant).as_deref(), Some("I see a test picture."));
        let done = talk.events.iter().position(|(_, event)| matches!(event, RealtimeEvent::SoundDone { .. }));
        let over = talk.events.iter().position(|(_, event)| matches!(event, RealtimeEvent::TurnDone { .. }));
        let (done, over) = (done.expect("the sound's end"), over.expect("the turn's end"));
        assert!(
            talk.events[over].0 - talk.events[done].0 > ms(500),
            "sound ends when it is generated, not played"
        );
        assert!(matches!(&talk.events[over].1, RealtimeEvent::TurnDone { usage } if usage.input_tokens > 0));
        has_no_refusals(&shared);
    }
}

#[test]
fn an_interruption_ends_the_sound_also_after_everything_was_generated() {
    // Generated at once, played for four seconds: the caller speaks long after the last piece came.
    let rules = Rules { answers: [speaks(4_000), speaks(600)].into(), pace: 40, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(1_500);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::SoundDone { .. })), 1);
    let from = talk.events.len();
    talk.say_for(700);
    talk.run(2_500);
    let interrupted = talk.events[from..]
        .iter()
        .position(|(_, event)| matches!(event, RealtimeEvent::Interrupted { item: Some(_) }));
    assert!(interrupted.is_some(), "{:?}", &talk.events[from..]);
    assert_eq!(talk.sound_ms(from), 600, "and the next answer is whole");
    // In mid-generation too.
    lock(&shared).answers.extend([speaks(4_000), speaks(600)]);
    lock(&shared).pace = 1;
    talk.say_for(700);
    talk.run(1_200);
    let from = talk.events.len();
    talk.say_for(700);
    talk.run(3_000);
    let at =
        talk.events[from..].iter().position(|(_, event)| matches!(event, RealtimeEvent::Interrupted { .. }));
    assert_eq!(talk.sound_ms(from + at.expect("interrupted")), 600);
    has_no_refusals(&shared);
}

#[test]
fn who_interrupts_by_order_hears_nothing_more_of_that_turn() {
    let rules = Rules { answers: [speaks(3_000), speaks(600)].into(), pace: 1, ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(500);
    talk.say_for(800);
    talk.run(1_000);
    talk.machine.interrupt(talk.now);
    let from = talk.events.len();
    talk.run(4_000);
    assert_eq!(talk.sound_ms(from), 0);
    assert!(talk.machine.figures().late_dropped > 10);
    talk.say_for(800);
    talk.run(2_000);
    assert_eq!(talk.sound_ms(from), 600);
    has_no_refusals(&shared);
}

#[test]
fn pictures_go_out_once_a_second_and_the_newest_wins() {
    let (mut talk, shared) = talk();
    talk.run(500);
    for id in 1..=50 {
        talk.machine.push_image(talk.now, picture(id, talk.now));
        talk.run(100);
    }
    talk.run(2_000);
    let sent = lock(&shared).seen.iter().filter(|seen| seen.kind == "video").count();
    assert!((5..=7).contains(&sent), "{sent} in five seconds");
    assert_eq!(talk.machine.figures().images_dropped as usize, 50 - sent);
    has_no_refusals(&shared);
}

#[test]
fn tools_are_called_answered_and_taken_back() {
    let call = |name: &str| Answer::Call { name: name.to_owned(), arguments: json!({"where": "door"}) };
    let rules = Rules {
        answers: [call("look"), speaks(600), call("unlock"), speaks(500)].into(),
        ..Rules::default()
    };
    let parameters = json!({"type": "object", "additionalProperties": false, "$schema": "x",
        "properties": {"where": {"type": ["string", "null"], "enum": ["door"]}}, "required": ["where"]});
    let tool = ToolSpec { name: "look".into(), description: "Looks.".into(), parameters };
    let (mut talk, shared) = talk_with(rules, RealtimeSettings { tools: vec![tool], ..settings() });
    talk.run(500);
    talk.say_for(800);
    talk.run(1_000);
    let calls = |talk: &Talk| -> Vec<_> {
        talk.events
            .iter()
            .filter_map(|(_, event)| match event {
                RealtimeEvent::Call(call) => Some(call.clone()),
                _ => None,
            })
            .collect()
    };
    let first = calls(&talk).pop().expect("a call");
    assert_eq!((first.name.as_str(), first.arguments.as_str()), ("look", r#"{"where":"door"}"#));
    talk.machine.answer_tool(talk.now, &first.id, r#"{"seen": "a person"}"#);
    talk.run(2_000);
    assert_eq!(talk.sound_ms(0), 600);
    talk.say_for(800);
    talk.run(1_000);
    let second = calls(&talk).pop().expect("another");
    assert_eq!(second.name, "unlock");
    talk.say_for(800);
    talk.run(2_000);
    let cancelled = RealtimeEvent::CallsCancelled(vec![second.id.clone()]);
    assert_eq!(talk.count(|event| *event == cancelled), 1);
    talk.machine.answer_tool(talk.now, &second.id, "open");
    talk.run(500);
    assert_eq!(talk.machine.figures().unasked_results, 1, "its answer does not go out");
    let setup = lock(&shared).seen.iter().find(|seen| seen.kind == "setup").map(|seen| seen.message.clone());
    let parameters =
        setup.map(|setup| setup["setup"]["tools"][0]["functionDeclarations"][0]["parameters"].clone());
    let wanted = json!({"type": "OBJECT", "required": ["where"],
        "properties": {"where": {"type": "STRING", "nullable": true, "enum": ["door"]}}});
    assert_eq!(parameters, Some(wanted));
    has_no_refusals(&shared);
}

#[test]
fn turns_of_ours_begin_half_a_second_before_they_are_told() {
    let settings = RealtimeSettings { turns: Turns::Ours, ..settings() };
    let (mut talk, shared) = talk_with(Rules::default(), settings);
    talk.run(2_000);
    assert!(blocks(&shared, 1).is_empty());
    talk.voice = Voice::Speech;
    talk.run(100);
    talk.machine.begin_turn(talk.now);
    talk.run(900);
    talk.voice = Voice::Silence;
    talk.machine.commit_turn(talk.now);
    talk.run(2_500);
    assert_eq!(talk.sound_ms(0), 1_000);
    assert!((69..=71).contains(&blocks(&shared, 1).len()), "1.4 s in blocks");
    has_no_refusals(&shared);
}

#[test]
fn a_hand_over_in_silence_loses_no_block_and_leaves_no_gap() {
    let (mut talk, shared) = talk();
    talk.run(1_000);
    talk.say_for(800);
    talk.run(3_000);
    lock(&shared).faults.push_back(Fault::GoAway(50_000));
    talk.run(3_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Recycled), 1, "long before the last moment");
    assert_eq!(lock(&shared).resumed.len(), 1);
    let (old, new) = (blocks(&shared, 1), blocks(&shared, 2));
    let (last, first) = (old.last().copied().unwrap_or_default(), new.first().copied().unwrap_or_default());
    assert!(first <= last + 1, "{last} then {first}");
    assert!(new.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, each once");
    assert!(longest_gap(&shared) <= ms(40), "{:?}", longest_gap(&shared));
    let from = talk.events.len();
    talk.say_for(800);
    talk.run(2_500);
    assert_eq!(talk.sound_ms(from), 1_000);
    has_no_refusals(&shared);
}

#[test]
fn a_hand_over_in_mid_sentence_tells_the_sentence_again() {
    let (mut talk, shared) = talk();
    talk.run(1_000);
    talk.say_for(800);
    talk.run(3_000);
    talk.voice = Voice::Speech;
    talk.machine.caller_speaks(talk.now, true);
    let onset = talk.block + 1;
    talk.run(400);
    lock(&shared).faults.push_back(Fault::GoAway(4_000));
    // Longer than the server waits.
    talk.run(4_500);
    talk.voice = Voice::Silence;
    talk.machine.caller_speaks(talk.now, false);
    let from = talk.events.len();
    talk.run(3_000);
    let new = blocks(&shared, 2);
    assert!(new.first().is_some_and(|first| *first <= onset), "{:?} after {onset}", new.first());
    assert!(new.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert_eq!(talk.sound_ms(from), 1_000, "the sentence is answered");
    assert!(longest_gap(&shared) <= ms(40), "{:?}", longest_gap(&shared));
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Trouble(_))), 0);
    has_no_refusals(&shared);
}

#[test]
fn a_cut_without_warning_is_resumed_and_the_question_told_again() {
    let (mut talk, shared) = talk();
    talk.run(1_000);
    talk.say_for(800);
    talk.run(3_000);
    talk.voice = Voice::Speech;
    talk.machine.caller_speaks(talk.now, true);
    let onset = talk.block + 1;
    talk.run(600);
    lock(&shared).faults.push_back(Fault::Cut);
    talk.run(600);
    talk.voice = Voice::Silence;
    talk.machine.caller_speaks(talk.now, false);
    let from = talk.events.len();
    talk.run(3_000);
    assert_eq!(talk.sound_ms(from), 1_000);
    assert_eq!(lock(&shared).resumed.len(), 1);
    assert!(blocks(&shared, 2).first().is_some_and(|first| *first <= onset));
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 2);
    has_no_refusals(&shared);
}

#[test]
fn a_state_that_is_refused_is_replaced_by_what_was_said() {
    let history = vec![Message::text(Role::User, "My name is Ada.")];
    let (mut talk, shared) = talk_with(Rules::default(), RealtimeSettings { history, ..settings() });
    talk.run(1_000);
    talk.machine.push_image(talk.now, picture(1, talk.now));
    talk.say_for(800);
    talk.run(3_000);
    lock(&shared).forget_handles = true;
    lock(&shared).faults.push_back(Fault::Cut);
    talk.run(3_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 2);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Closed(_))), 0);
    let rules = lock(&shared);
    let told = rules.seen.iter().rev().find(|seen| seen.kind == "clientContent").expect("history");
    let turns = told.message["clientContent"]["turns"].to_string();
    for words in ["My name is Ada.", "What do you see?", "I see a test picture."] {
        assert!(turns.contains(words), "{turns}");
    }
    let video = rules.seen.iter().filter(|seen| seen.kind == "video" && seen.connection == rules.connections);
    assert_eq!(video.count(), 1, "the newest picture too");
    assert_eq!(rules.refused.len(), 1, "the handle only: {:?}", rules.refused);
    drop(rules);
    let from = talk.events.len();
    talk.say_for(800);
    talk.run(2_500);
    assert_eq!(talk.sound_ms(from), 1_000);
}

#[test]
fn what_is_refused_for_good_ends_it() {
    let rules = Rules { faults: [Fault::Close(1008, "model is not found")].into(), ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, settings());
    talk.run(30_000);
    let told: Vec<_> = talk.events.iter().map(|(_, event)| event.clone()).collect();
    assert!(matches!(&told[..], [RealtimeEvent::Closed(Failure::Refused { status: 1008, .. })]), "{told:?}");
    assert_eq!(lock(&shared).connections, 1);
    let (mut talk, _) = talk_with(Rules { key: "other".to_owned(), ..Rules::default() }, settings());
    talk.run(10_000);
    assert!(matches!(
        talk.events.last(),
        Some((_, RealtimeEvent::Closed(Failure::Refused { status: 403, .. })))
    ));
}

#[test]
fn trouble_passes() {
    let rules = Rules { refuse: [(429, Some(1)), (503, None)].into(), ..Rules::default() };
    let (mut talk, shared) = talk_with(rules, RealtimeSettings { answer_within: seconds(3), ..settings() });
    talk.run(4_000);
    assert_eq!(talk.count(|event| *event == RealtimeEvent::Ready), 1);
    lock(&shared).faults.push_back(Fault::Malformed);
    talk.run(200);
    assert_eq!(talk.machine.figures().malformed, 1);
    lock(&shared).answers.push_back(Answer::Hang);
    talk.say_for(800);
    talk.run(7_000);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Trouble(Failure::TooSlow(3_000)))), 1);
    assert_eq!(talk.sound_ms(0), 1_000, "asked again over a fresh connection");
    lock(&shared).faults.push_back(Fault::Close(1011, "deadline"));
    talk.run(2_000);
    lock(&shared).answers.push_back(Answer::Refuse("IMAGE_PROHIBITED_INPUT_CONTENT"));
    talk.say_for(800);
    talk.run(2_000);
    let refused = |event: &RealtimeEvent| matches!(event, RealtimeEvent::Trouble(Failure::Failed { text, .. }) if text.contains("IMAGE_PROHIBITED"));
    assert_eq!(talk.count(refused), 1);
    let from = talk.events.len();
    talk.machine.text(talk.now, "Hello?");
    talk.run(2_000);
    assert_eq!(talk.sound_ms(from), 1_000);
    has_no_refusals(&shared);
}

#[test]
fn half_an_hour_with_pictures_costs_the_same_every_turn() {
    let (mut talk, shared) = talk();
    talk.next_picture = Some(talk.now + ms(300));
    talk.run(1_000);
    let mut turns = 0;
    while talk.now - talk.start < Duration::from_secs(30 * 60) {
        talk.say_for(2_000);
        talk.run(8_000);
        turns += 1;
        talk.events.retain(|(_, event)| !matches!(event, RealtimeEvent::Sound { .. }));
    }
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::TurnDone { .. })), turns);
    assert_eq!(talk.count(|event| matches!(event, RealtimeEvent::Trouble(_))), 0);
    let figures = talk.machine.figures();
    let gap = longest_gap(&shared);
    let connections = lock(&shared).connections;
    for connection in 1..connections {
        let (old, new) = (blocks(&shared, connection), blocks(&shared, connection + 1));
        let (last, first) =
            (old.last().copied().unwrap_or_default(), new.first().copied().unwrap_or_default());
        assert!(first <= last + 1, "connection {connection}: {last} then {first}");
        assert!(new.windows(2).all(|pair| pair[1] == pair[0] + 1), "in order, each once");
    }
    let rules = lock(&shared);
    assert_eq!(rules.turns.len(), turns, "every question got its answer");
    assert_eq!((figures.recycled as usize, figures.reconnected), (connections - 1, 0));
    assert!((3..=4).contains(&(connections - 1)), "every nine minutes: {connections}");
    assert!(gap <= ms(40), "{gap:?}");
    let most = rules.turns.iter().map(|(_, tokens)| *tokens).max().unwrap_or_default();
    assert!(most <= 17_000, "{most} tokens");
    let pictures: Vec<Instant> =
        rules.seen.iter().filter(|seen| seen.kind == "video").map(|seen| seen.at).collect();
    assert!(pictures.len() > 1_600, "{}", pictures.len());
    assert!(pictures.windows(2).all(|pair| pair[1] - pair[0] >= ms(990)));
    assert!(rules.refused.is_empty(), "{:?}", rules.refused);
    println!("hand-overs {}, longest gap {gap:?}, most tokens {most}; {figures:?}", connections - 1);
}
