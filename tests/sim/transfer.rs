//! Calls that are sent elsewhere (REFER), that take the place of others (Replaces), and what they carry besides media.

use eyeline::call::Tell;
use eyeline::call::story::Moment;
use eyeline::engine::plan::{CallId, Command};
use eyeline::sip::Method;
use eyeline::useragent::control::{Asked, Kind, Place, Refused};

use serde_json::Value;

use crate::phone::Phone;
use crate::world::{Appliance, World, audio_only, audio_video, ms, seconds, settings};

/// A world with three phones; the first is in a call.
fn talking() -> World {
    let mut world = World::new();
    world.add_phone();
    world.add_phone();
    world.establish("100", &audio_video());
    world
}

/// The first phone sends its call to the second.
fn refer(world: &mut World, to: &str, more: &str) {
    world.act(|phone| phone.request_with("REFER", &format!("Refer-To: <{to}>\r\n{more}"), None));
}

/// What the NOTIFYs to a phone said: status line and state of the subscription.
fn news(phone: &Phone) -> Vec<(String, String)> {
    let said = phone.requests(Method::Notify).into_iter().map(|notify| {
        let state = notify.headers.value("Subscription-State").unwrap().split(';').next().unwrap().to_owned();
        assert!(notify.headers.value("Event").unwrap().starts_with("refer;id="));
        assert!(notify.headers.value("Content-Type").unwrap().starts_with("message/sipfrag"));
        (String::from_utf8(notify.body.clone()).unwrap().trim_end().to_owned(), state)
    });
    said.collect()
}

fn line(text: &str, state: &str) -> (String, String) {
    (text.to_owned(), state.to_owned())
}

fn moments(appliance: &Appliance) -> Vec<(&'static str, String)> {
    let of = |(_, tell): &(CallId, Tell)| match tell {
        Tell::Moment(Moment { kind, data }) => {
            let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let data: Vec<String> =
                data.iter().map(|(name, value)| format!("{name}={}", written(value))).collect();
            Some((*kind, data.join(" ")))
        }
        _ => None,
    };
    appliance.told.iter().filter_map(of).collect()
}

fn kinds(appliance: &Appliance) -> Vec<&'static str> {
    moments(appliance).into_iter().map(|(kind, _)| kind).collect()
}

/// The call of the phone with this number, by what the label says of its peer.
fn call_with(world: &World, phone: usize) -> CallId {
    let address = world.phones[phone].address.to_string();
    let agent = &world.appliances[0].agent;
    agent.calls().find(|call| call.label().peer == address).expect("a call with this phone").id()
}

const BOB: &str = "sip:bob@10.0.0.2:5060";

#[test]
fn a_caller_sends_its_call_to_somebody_who_may_be_called() {
    let mut world = talking();
    refer(&mut world, BOB, "Referred-By: <sip:alice@example.com>\r\n");
    assert_eq!(world.phone().statuses(Method::Refer), [202]);
    let invite = world.phones[1].requests(Method::Invite)[0].clone();
    assert_eq!(invite.uri.to_string(), BOB);
    assert_eq!(invite.headers.value("Referred-By"), Some("<sip:alice@example.com>"));
    assert_eq!(invite.from().unwrap().uri.user(), Some("100"), "it calls under the name it was called by");
    world.act_on(1, |bob| bob.reply(Method::Invite, 180, None));
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(
        news(world.phone()),
        [
            line("SIP/2.0 100 Trying", "active"),
            line("SIP/2.0 180 Ringing", "active"),
            line("SIP/2.0 200 OK", "terminated")
        ]
    );
    world.act(|phone| phone.bye());
    assert_eq!(world.appliance().end().to_string(), "peer-hung-up");
    let made = call_with(&world, 1);
    let call = world.appliances[0].agent.calls().find(|call| call.id() == made).unwrap();
    assert_eq!((call.state_name(), call.label().agent.as_str()), ("established", "mirror"));
    assert_eq!(kinds(world.appliance()), ["call.transfer_asked", "call.transferred"]);
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn nobody_is_sent_to_a_number_that_may_not_be_dialled() {
    for target in ["sip:+900123456@192.0.2.200", "tel:+900123456", "sip:+900123456@192.0.2.200;x=@10.0.0.2"] {
        let mut world = talking();
        refer(&mut world, target, "");
        assert_eq!(world.phone().statuses(Method::Refer), [403], "{target}");
        let warning = world.phone().response(Method::Refer).headers.value("Warning").unwrap().to_owned();
        assert!(warning.contains("dial_allow"), "{warning}");
        assert_eq!(world.appliance().agent.counters().outgoing, 0);
        assert!(news(world.phone()).is_empty());
        assert_eq!(kinds(world.appliance()), ["call.transfer_refused"]);
        assert_eq!(world.appliances[0].agent.calls().next().unwrap().state_name(), "established");
        world.act(|phone| phone.bye());
        world.end();
    }
}

#[test]
fn a_busy_target_leaves_the_call_as_it_is_and_another_may_be_tried() {
    let mut world = talking();
    refer(&mut world, BOB, "");
    world.act_on(1, |bob| bob.reply(Method::Invite, 486, None));
    assert_eq!(news(world.phone()).last(), Some(&line("SIP/2.0 486 Busy Here", "terminated")));
    assert_eq!(kinds(world.appliance()), ["call.transfer_asked", "call.transfer_failed"]);
    refer(&mut world, "sip:carol@10.0.0.3:5060", "");
    assert_eq!(world.phone().statuses(Method::Refer), [202, 202]);
    world.act_on(2, |carol| carol.reply(Method::Invite, 200, Some(&audio_only())));
    assert_eq!(news(world.phone()).last(), Some(&line("SIP/2.0 200 OK", "terminated")));
    world.act(|phone| phone.bye());
    world.act_on(2, |carol| carol.bye());
    world.end();
}

#[test]
fn nobody_answers_the_target_and_the_referrer_is_told() {
    let mut world = talking();
    refer(&mut world, BOB, "");
    world.act_on(1, |bob| bob.reply(Method::Invite, 180, None));
    world.run(seconds(31));
    world.act_on(1, |bob| bob.reply(Method::Cancel, 200, None));
    world.act_on(1, |bob| bob.reply(Method::Invite, 487, None));
    let told = news(world.phone());
    assert_eq!(told.last().map(|(_, state)| state.as_str()), Some("terminated"), "{told:?}");
    assert_eq!(world.appliances[0].agent.calls().count(), 1, "the first call goes on");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_lost_notify_is_sent_again() {
    let mut world = talking();
    let mut notifies = 0;
    world.network.lose(move |text| {
        notifies += usize::from(text.starts_with("NOTIFY"));
        text.starts_with("NOTIFY") && notifies == 1
    });
    refer(&mut world, BOB, "");
    assert!(news(world.phone()).is_empty());
    world.run(seconds(1));
    assert_eq!(news(world.phone()), [line("SIP/2.0 100 Trying", "active")]);
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_only())));
    assert_eq!(news(world.phone()).len(), 2);
    world.act(|phone| phone.bye());
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_referrer_that_answers_no_notify_keeps_its_call() {
    let mut world = talking();
    world.phone().polite = false;
    refer(&mut world, BOB, "");
    world.act_on(1, |bob| bob.reply(Method::Invite, 486, None));
    world.run(seconds(40));
    assert_eq!(world.appliances[0].agent.calls().count(), 1, "a subscription nobody wants costs no call");
    world.phone().polite = true;
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_referrer_that_wants_no_news_gets_none() {
    let mut world = talking();
    refer(&mut world, BOB, "Refer-Sub: false\r\nRequire: norefersub\r\n");
    let response = world.phone().response(Method::Refer).clone();
    assert_eq!((response.status, response.headers.value("Refer-Sub")), (202, Some("false")));
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_only())));
    assert!(news(world.phone()).is_empty());
    world.act(|phone| phone.bye());
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_referrer_that_does_not_hang_up_is_hung_up() {
    let mut world = talking();
    refer(&mut world, BOB, "");
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_only())));
    world.run(seconds(11));
    assert_eq!(world.phone().requests(Method::Bye).len(), 1);
    assert_eq!(world.appliance().end().to_string(), "transferred");
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_referrer_that_hangs_up_at_once_does_not_end_the_new_call() {
    let mut world = talking();
    refer(&mut world, BOB, "");
    world.act(|phone| phone.bye());
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_only())));
    let made = call_with(&world, 1);
    assert!(
        world.appliances[0].agent.calls().any(|call| call.id() == made && call.state_name() == "established")
    );
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_refer_that_meets_our_bye_is_too_late() {
    let mut world = talking();
    let call = world.appliance().call();
    world.phone().polite = false;
    world.command(|agent, now| agent.control(now, Asked::HangUp { call: call.to_string() })).unwrap();
    refer(&mut world, BOB, "");
    assert_eq!(world.phone().statuses(Method::Refer), [481]);
    assert_eq!(world.appliance().agent.counters().outgoing, 0);
    world.act(|phone| phone.reply(Method::Bye, 200, None));
    world.end();
}

#[test]
fn unreadable_and_doubled_refers_are_refused() {
    let mut world = talking();
    world.act(|phone| phone.request("REFER", None));
    world.act(|phone| phone.request_with("REFER", "Refer-To: <http://h/>\r\n", None));
    refer(&mut world, BOB, "");
    refer(&mut world, BOB, "");
    assert_eq!(world.phone().statuses(Method::Refer), [400, 416, 202, 491]);
    world.act_on(1, |bob| bob.reply(Method::Invite, 603, None));
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_refer_outside_of_a_call_makes_no_call() {
    let mut world = World::new();
    world.phone().prepare_outside();
    refer(&mut world, BOB, "");
    assert!(world.phone().statuses(Method::Refer)[0] >= 400);
    assert_eq!(world.appliance().agent.counters().outgoing, 0);
    world.end();
}

#[test]
fn an_attended_transfer_names_the_dialog_that_is_taken_over() {
    let mut world = talking();
    refer(&mut world, &format!("{BOB}?Replaces=c7%40h%3Bto-tag%3Dt1%3Bfrom-tag%3Df1&X-Evil=1"), "");
    let invite = world.phones[1].requests(Method::Invite)[0].clone();
    assert_eq!(invite.headers.value("Replaces"), Some("c7@h;to-tag=t1;from-tag=f1"));
    assert_eq!(invite.headers.value("Require"), Some("replaces"));
    assert_eq!(invite.headers.value("X-Evil"), None);
    assert_eq!(invite.uri.to_string(), BOB);
    world.act_on(1, |bob| bob.reply(Method::Invite, 481, None));
    world.act(|phone| phone.bye());
    world.end();
}

/// We send the first phone's call to the second phone; the hold before it has been answered.
fn sent_away(world: &mut World) -> CallId {
    let call = world.appliance().call();
    let asked = Asked::Transfer { call: call.to_string(), to: Some(BOB.to_owned()), with: None };
    world.command(|agent, now| agent.control(now, asked)).unwrap();
    assert!(world.phone().requests(Method::Refer).is_empty(), "first the peer is held");
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&crate::world::directed("recvonly"))));
    let refer = world.phone().requests(Method::Refer)[0].clone();
    assert_eq!(refer.headers.value("Refer-To"), Some(format!("<{BOB}>").as_str()));
    assert!(refer.headers.value("Referred-By").unwrap().starts_with("<sip:100@192.0.2.1"));
    call
}

fn tell(world: &mut World, state: &str, text: &str) {
    let more = format!("Event: refer\r\nSubscription-State: {state}\r\n");
    world.act(|phone| phone.request_with("NOTIFY", &more, Some(("message/sipfrag", text))));
}

#[test]
fn a_peer_sent_away_is_hung_up_once_it_has_arrived() {
    let mut world = talking();
    sent_away(&mut world);
    world.act(|phone| phone.reply(Method::Refer, 202, None));
    tell(&mut world, "active;expires=60", "SIP/2.0 100 Trying\r\n");
    tell(&mut world, "active;expires=60", "SIP/2.0 180 Ringing\r\n");
    assert!(world.phone().requests(Method::Bye).is_empty());
    tell(&mut world, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
    assert_eq!(world.phone().statuses(Method::Notify), [200, 200, 200]);
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=16;text=\"transferred\""));
    assert_eq!(world.appliance().end().to_string(), "transferred");
    let told = kinds(world.appliance());
    assert_eq!(told.first(), Some(&"call.transfer_asked"));
    assert_eq!(told.last(), Some(&"call.transferred"));
    world.end();
}

#[test]
fn a_failed_transfer_takes_the_peer_back() {
    type Failure = fn(&mut World);
    let failures: [Failure; 4] = [
        |world| {
            world.act(|phone| phone.reply(Method::Refer, 202, None));
            tell(world, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
        },
        |world| world.act(|phone| phone.reply(Method::Refer, 405, None)),
        |world| {
            world.act(|phone| phone.reply(Method::Refer, 202, None));
            tell(world, "terminated;reason=giveup", "");
        },
        // No news at all.
        |world| {
            world.act(|phone| phone.reply(Method::Refer, 202, None));
            world.run(seconds(91));
        },
    ];
    for fails in failures {
        let mut world = talking();
        sent_away(&mut world);
        fails(&mut world);
        assert_eq!(kinds(world.appliance()).last(), Some(&"call.transfer_failed"));
        assert_eq!(world.phone().requests(Method::Invite).len(), 2, "hold, and back");
        world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
        let call = world.appliances[0].agent.calls().next().unwrap();
        assert!(!call.is_held() && call.state_name() == "established");
        world.act(|phone| phone.bye());
        world.end();
    }
}

#[test]
fn a_peer_that_hangs_up_during_its_transfer_has_hung_up() {
    let mut world = talking();
    sent_away(&mut world);
    world.act(|phone| phone.bye());
    assert_eq!(world.appliance().end().to_string(), "peer-hung-up");
    world.end();
}

#[test]
fn we_send_nobody_where_we_may_not_dial() {
    let mut world = talking();
    let call = world.appliance().call().to_string();
    let asked = Asked::Transfer { call, to: Some("sip:+900123@192.0.2.200".to_owned()), with: None };
    let refused = world.command(|agent, now| agent.control(now, asked)).unwrap_err();
    assert!(
        matches!(refused, Refused { kind: Kind::Denied, code: "not_allowed", field: Some("to"), .. }),
        "{refused}"
    );
    assert!(
        world.phone().requests(Method::Refer).is_empty() && world.phone().requests(Method::Invite).is_empty()
    );
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_notify_nobody_asked_for_is_refused() {
    let mut world = talking();
    tell(&mut world, "active", "SIP/2.0 200 OK\r\n");
    world.act(|phone| phone.request_with("NOTIFY", "Event: presence\r\n", None));
    assert_eq!(world.phone().statuses(Method::Notify), [481, 489]);
    assert_eq!(world.appliances[0].agent.calls().count(), 1);
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn two_of_our_calls_are_joined() {
    let mut world = talking();
    world.act_on(1, |bob| bob.invite("audio", Some(&audio_only())));
    world.act_on(1, |bob| bob.ack(None));
    let (alice, bob) = (call_with(&world, 0).to_string(), call_with(&world, 1).to_string());
    let asked = Asked::Transfer { call: alice, to: None, with: Some(bob) };
    world.command(|agent, now| agent.control(now, asked)).unwrap();
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&crate::world::directed("recvonly"))));
    let refer = world.phone().requests(Method::Refer)[0].headers.value("Refer-To").unwrap().to_owned();
    let (call_id, own, theirs) = world.phones[1].dialog();
    let expected = format!("<sip:10.0.0.2:5060?Replaces={call_id}%3Bto-tag%3D{own}%3Bfrom-tag%3D{theirs}>");
    assert_eq!(refer, expected, "bob's own tag is the To tag of the INVITE he will get");
    world.act(|phone| phone.reply(Method::Refer, 202, None));
    tell(&mut world, "terminated", "SIP/2.0 200 OK");
    assert_eq!(world.appliance().end().to_string(), "transferred");
    world.act_on(1, |bob| bob.bye());
    world.end();
}

/// The Replaces line that names the first phone's call.
fn replaces(world: &World, flags: &str) -> String {
    let (call_id, own, theirs) = world.phones[0].dialog();
    format!("Replaces: {call_id};to-tag={theirs};from-tag={own}{flags}\r\n")
}

#[test]
fn a_new_call_takes_the_place_of_an_old_one() {
    let mut world = talking();
    world.phones[1].more = replaces(&world, "");
    world.act_on(1, |bob| bob.invite("nobody", Some(&audio_only())));
    assert_eq!(
        world.phones[1].statuses(Method::Invite),
        [180, 200],
        "the agent of the old call, not the route"
    );
    world.act_on(1, |bob| bob.ack(None));
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=16;text=\"replaced\""));
    assert_eq!(world.appliance().end().to_string(), "replaced");
    let call = world.appliances[0].agent.calls().next().unwrap();
    assert_eq!((call.state_name(), call.label().agent.as_str()), ("established", "mirror"));
    world.phones[1].more.clear();
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_dialog_that_is_not_here_or_not_to_be_had_is_not_taken_over() {
    type Change = fn(&World) -> String;
    let cases: [(Change, u16); 5] = [
        (|_| "Replaces: nobody;to-tag=1;from-tag=2\r\n".to_owned(), 481),
        (|world| replaces(world, "").replace("from-tag=", "from-tag=x"), 481),
        (|world| replaces(world, ";early-only"), 486),
        (|world| format!("{0}{0}", replaces(world, "")), 400),
        (|world| format!("{}Join: a;to-tag=1;from-tag=2\r\n", replaces(world, "")), 400),
    ];
    for (line, expected) in cases {
        let mut world = talking();
        world.phones[1].more = line(&world);
        world.act_on(1, |bob| bob.invite("100", Some(&audio_only())));
        assert_eq!(world.phones[1].statuses(Method::Invite), [expected], "{}", world.phones[1].more);
        assert_eq!(world.appliances[0].agent.calls().count(), 1);
        world.act(|phone| phone.bye());
        world.end();
    }
}

#[test]
fn a_place_is_taken_once() {
    let mut world = talking();
    world.appliance().engine.delay = ms(500);
    let line = replaces(&world, "");
    for phone in [1, 2] {
        world.phones[phone].more = line.clone();
        world.act_on(phone, |phone| phone.invite("100", Some(&audio_only())));
    }
    assert_eq!(world.phones[2].statuses(Method::Invite), [603]);
    world.run(seconds(1));
    assert_eq!(world.phones[1].statuses(Method::Invite).last(), Some(&200));
    world.act_on(1, |bob| bob.ack(None));
    assert_eq!(world.appliance().end().to_string(), "replaced");
    world.phones[1].more.clear();
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_replacement_that_fails_leaves_the_old_call_alone() {
    let mut world = talking();
    world.phones[1].more = replaces(&world, "");
    world.act_on(1, |bob| bob.invite("100", Some(&crate::world::unusable())));
    assert_eq!(world.phones[1].statuses(Method::Invite).last(), Some(&488));
    world.run(seconds(1));
    assert!(world.phone().requests(Method::Bye).is_empty());
    // And the place can still be taken.
    world.phones[2].more = replaces(&world, "");
    world.act_on(2, |carol| carol.invite("100", Some(&audio_only())));
    assert_eq!(world.phones[2].statuses(Method::Invite).last(), Some(&200));
    world.act_on(2, |carol| carol.ack(None));
    world.phones[2].more.clear();
    world.act_on(2, |carol| carol.bye());
    world.end();
}

#[test]
fn an_old_call_that_ends_first_does_not_end_the_new_one() {
    let mut world = talking();
    world.appliance().engine.delay = ms(500);
    world.phones[1].more = replaces(&world, "");
    world.act_on(1, |bob| bob.invite("100", Some(&audio_only())));
    world.act(|phone| phone.bye());
    world.run(seconds(1));
    world.act_on(1, |bob| bob.ack(None));
    assert_eq!(world.phones[1].statuses(Method::Invite).last(), Some(&200));
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().state_name(), "established");
    world.phones[1].more.clear();
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_call_of_ours_that_still_rings_is_picked_up_elsewhere() {
    let mut world = World::new();
    world.add_phone();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.phones[1].more = replaces(&world, ";early-only");
    world.act_on(1, |bob| bob.invite("100", Some(&audio_only())));
    assert_eq!(world.phones[1].statuses(Method::Invite), [180, 200]);
    assert_eq!(world.phone().requests(Method::Cancel).len(), 1);
    world.act_on(1, |bob| bob.ack(None));
    world.act(|phone| phone.reply(Method::Cancel, 200, None));
    world.act(|phone| phone.reply(Method::Invite, 487, None));
    assert_eq!(world.appliance().end().to_string(), "replaced");
    world.phones[1].more.clear();
    world.act_on(1, |bob| bob.bye());
    world.end();
}

#[test]
fn a_session_name_is_held_by_one_call_at_a_time() {
    let mut world = World::new();
    world.add_phone();
    world.add_phone();
    world.appliance().engine.delay = ms(50);
    // Both are on their way at once.
    for phone in [0, 1] {
        world.phones[phone].more = "X-Session-ID: lobby-7\r\nX-Room-ID: lobby\r\n".to_owned();
        world.phones[phone].invite("100", Some(&audio_only()));
    }
    world.run(ms(200));
    assert_eq!(world.phones[0].statuses(Method::Invite), [180, 200]);
    assert_eq!(world.phones[1].statuses(Method::Invite), [486]);
    world.act(|phone| phone.ack(None));
    let label = world.appliances[0].agent.calls().next().unwrap().label().clone();
    assert_eq!((label.room.as_str(), label.session.as_str()), ("lobby", "lobby-7"));
    assert_eq!(label.headers.len(), 2);
    assert_eq!(world.appliances[0].engine.story(), "prepare start", "the second one cost no port");
    world.act(|phone| phone.bye());
    world.phones[2].more = "X-Session-ID: lobby-7\r\n".to_owned();
    world.act_on(2, |phone| phone.invite("100", Some(&audio_only())));
    assert_eq!(world.phones[2].statuses(Method::Invite), [180, 200]);
    world.act_on(2, |phone| phone.ack(None));
    world.act_on(2, |phone| phone.bye());
    world.end();
}

#[test]
fn both_halves_of_the_session_id_are_in_every_message() {
    let mut world = World::new();
    world.phone().more = "Session-ID: ab30317f1a784dc48ff824d0d3715d86\r\n".to_owned();
    world.establish("100", &audio_video());
    let ok = world.phone().response(Method::Invite).headers.value("Session-ID").unwrap().to_owned();
    assert!(ok.ends_with(";remote=ab30317f1a784dc48ff824d0d3715d86"), "{ok}");
    let call = world.appliance().call();
    let label = world.appliances[0].agent.calls().next().unwrap().label().clone();
    assert_eq!(label.session_id.as_deref(), Some(ok.as_str()));
    world.act(|phone| phone.request("INFO", None));
    assert_eq!(world.phone().response(Method::Info).headers.value("Session-ID"), Some(ok.as_str()));
    world.command(|agent, now| agent.control(now, Asked::HangUp { call: call.to_string() })).unwrap();
    assert_eq!(world.phone().requests(Method::Bye)[0].headers.value("Session-ID"), Some(ok.as_str()));
    world.end();
}

#[test]
fn a_call_of_ours_learns_the_other_half() {
    let mut world = World::new();
    world.dial(seconds(30));
    let invite = world.phone().requests(Method::Invite)[0].headers.value("Session-ID").unwrap().to_owned();
    assert!(invite.ends_with(&format!(";remote={}", "0".repeat(32))), "{invite}");
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_only())));
    let ack = world.phone().requests(Method::Ack)[0].headers.value("Session-ID").unwrap().to_owned();
    assert_eq!(ack, invite, "the peer says nothing of its half");
    let label = world.appliances[0].agent.calls().next().unwrap().label().clone();
    assert_eq!(label.sip_call_id, world.phone().dialog().0);
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn texts_are_told_and_other_bodies_are_not_taken() {
    let mut world = talking();
    world.act(|phone| {
        phone.request("MESSAGE", Some(("text/plain;charset=utf-8", "The door\r\nis open \u{1b}[2J")))
    });
    world.act(|phone| phone.request("MESSAGE", Some(("text/html", "<b>no</b>"))));
    let large = "x".repeat(16 * 1024 + 1);
    world.act(|phone| phone.request("MESSAGE", Some(("text/plain", &large))));
    assert_eq!(world.phone().statuses(Method::Message), [200, 415, 413]);
    let told = moments(world.appliance());
    assert_eq!(told, [("message.received", "text=The door\nis open \u{fffd}[2J".to_owned())]);
    for _ in 0..250 {
        world.act(|phone| phone.request("MESSAGE", Some(("text/plain", "again"))));
    }
    assert_eq!(moments(world.appliance()).len(), 200, "a flood ends");
    assert_eq!(world.phone().statuses(Method::Message).last(), Some(&503));
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn info_of_a_package_or_a_kind_nobody_knows_is_refused_by_its_own_status() {
    let mut world = talking();
    world.act(|phone| phone.request_with("INFO", "Info-Package: x\r\n", Some(("application/x", "1"))));
    world.act(|phone| phone.request("INFO", Some(("application/x", "1"))));
    assert_eq!(world.phone().statuses(Method::Info), [469, 415]);
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn keys_are_relayed_one_by_one_to_a_phone_without_telephone_events() {
    let mut world = World::new();
    let plain = audio_only()
        .replace("a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n", "")
        .replace(" 101", "");
    world.establish("100", &plain);
    let call = world.appliance().call().to_string();
    let asked = Asked::Digits { call, digits: "12#".to_owned() };
    world.command(|agent, now| agent.control(now, asked)).unwrap();
    world.run(seconds(2));
    let heard: Vec<_> = world.phones[0]
        .heard
        .iter()
        .filter_map(|(at, message)| match message {
            eyeline::sip::message::Message::Request(request) if request.method == Method::Info => {
                Some((*at, String::from_utf8(request.body.clone()).unwrap()))
            }
            _ => None,
        })
        .collect();
    let texts: Vec<&str> = heard.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        texts,
        ["Signal=1\r\nDuration=160\r\n", "Signal=2\r\nDuration=160\r\n", "Signal=#\r\nDuration=160\r\n"]
    );
    for pair in heard.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= ms(250), "160 ms pressed and 100 ms of rest");
    }
    let pressed = |command: &Command| matches!(command, Command::SendDigits { .. });
    assert!(!world.appliances[0].engine.commands.iter().any(pressed));
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_peer_that_refuses_info_three_times_is_not_asked_for_key_pictures_again() {
    let mut world = talking();
    world.phone().polite = false;
    for _ in 0..5 {
        world.engine_says(|call| eyeline::engine::plan::Event::WantsKey { call });
        if world.phone().requests(Method::Info).len() > world.phone().outbox.len() {
            world.act(|phone| phone.reply(Method::Info, 415, None));
        }
    }
    assert_eq!(world.phone().requests(Method::Info).len(), 3);
    world.phone().polite = true;
    world.act(|phone| phone.bye());
    world.end();
}

fn place(to: &str) -> Asked {
    let headers = vec![("X-Order".to_owned(), "4711".to_owned())];
    Asked::Place(Place { to: to.to_owned(), agent: "mirror".to_owned(), headers, ..Place::default() })
}

#[test]
fn an_application_makes_holds_and_ends_a_call() {
    let mut world = World::new();
    world.add_phone();
    let call = world.command(|agent, now| agent.control(now, place(BOB))).unwrap();
    let invite = world.phones[1].requests(Method::Invite)[0].clone();
    assert_eq!(invite.headers.value("X-Order"), Some("4711"));
    assert_eq!(invite.from().unwrap().display.as_deref(), Some("Door \"1\""));
    assert_eq!(invite.contact().unwrap().display.as_deref(), Some("Door \"1\""));
    assert_eq!(invite.from().unwrap().uri.host, "192.0.2.1");
    let id = || call.to_string();
    let early = world.command(|agent, now| agent.control(now, Asked::Hold { call: id() })).unwrap_err();
    assert_eq!(early.kind, Kind::Conflict);
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&audio_only())));
    let label = world.appliances[0].agent.calls().next().unwrap().label().clone();
    assert_eq!((label.agent.as_str(), label.headers.len()), ("mirror", 1));
    world.command(|agent, now| agent.control(now, Asked::Hold { call: id() })).unwrap();
    assert_eq!(world.phones[1].requests(Method::Invite).len(), 2);
    world.act_on(1, |bob| bob.reply(Method::Invite, 200, Some(&crate::world::directed("recvonly"))));
    let digits = Asked::Digits { call: id(), digits: "1x".to_owned() };
    let wrong = world.command(|agent, now| agent.control(now, digits)).unwrap_err();
    assert_eq!((wrong.kind, wrong.field), (Kind::Bad, Some("digits")));
    world.command(|agent, now| agent.control(now, Asked::HangUp { call: id() })).unwrap();
    assert_eq!(world.appliance().end().to_string(), "hung-up");
    let gone = world.command(|agent, now| agent.control(now, Asked::HangUp { call: id() })).unwrap_err();
    assert_eq!(gone.kind, Kind::Unknown);
    world.end();
}

#[test]
fn an_application_calls_only_whom_it_may() {
    let mut world = World::new();
    for (asked, kind, field) in [
        (place("sip:+900123@192.0.2.200"), Kind::Denied, "to"),
        (place("sip:"), Kind::Bad, "to"),
        (place("a\r\nVia: b"), Kind::Bad, "to"),
        (place(""), Kind::Bad, "to"),
        (
            Asked::Place(Place { to: BOB.to_owned(), agent: "nobody".to_owned(), ..Place::default() }),
            Kind::Bad,
            "agent",
        ),
        (
            Asked::Place(Place {
                to: "200".to_owned(),
                agent: "mirror".to_owned(),
                account: Some("nobody".to_owned()),
                ..Place::default()
            }),
            Kind::Bad,
            "account",
        ),
        (
            Asked::Place(Place {
                to: BOB.to_owned(),
                agent: "mirror".to_owned(),
                headers: vec![("X-A".to_owned(), "1\r\nRoute: <sip:evil>".to_owned())],
                ..Place::default()
            }),
            Kind::Bad,
            "headers",
        ),
    ] {
        let refused = world.command(|agent, now| agent.control(now, asked.clone())).unwrap_err();
        assert_eq!((refused.kind, refused.field), (kind, Some(field)), "{asked:?}: {refused}");
    }
    assert_eq!(world.appliance().agent.counters().outgoing, 0);
    // An extension of the only trunk.
    world.add_phone();
    world.command(|agent, now| agent.control(now, place("200"))).unwrap();
    assert_eq!(world.phones[1].requests(Method::Invite)[0].uri.to_string(), "sip:200@10.0.0.2");
    world.act_on(1, |bob| bob.reply(Method::Invite, 486, None));
    world.end();
}

#[test]
fn a_full_or_stopping_box_makes_no_calls() {
    let mut world = World::with(eyeline::useragent::Settings { max_calls: 1, ..settings() });
    world.add_phone();
    world.establish("100", &audio_only());
    let full = world.command(|agent, now| agent.control(now, place(BOB))).unwrap_err();
    assert_eq!((full.kind, full.code), (Kind::Unavailable, "too_many_calls"));
    world.act(|phone| phone.bye());
    world.appliance().agent.drain();
    let draining = world.command(|agent, now| agent.control(now, place(BOB))).unwrap_err();
    assert_eq!((draining.kind, draining.code), (Kind::Unavailable, "draining"));
    world.end();
}
