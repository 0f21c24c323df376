//! Before the answer, in both roles: ringing, early media, reliable responses, forks, and the races with CANCEL.

use eyeline::call::Tell;
use eyeline::call::end::EndReason;
use eyeline::engine::plan::{CallId, Command, Direction, Event};
use eyeline::sip::Method;

use crate::world::{World, audio_only, audio_video, directed, ms, seconds};

fn state(world: &World) -> &'static str {
    world.appliances[0].agent.calls().next().expect("a call").state_name()
}

fn told(world: &World) -> Vec<&'static str> {
    let word = |tell: &Tell| match tell {
        Tell::Ringing => "ringing",
        Tell::Early { .. } => "early",
        Tell::Answered { .. } => "answered",
        Tell::Updated { .. } => "updated",
        Tell::Moment(_) => "moment",
        Tell::Digit(_) => "digit",
    };
    world.appliances[0].told.iter().map(|(_, tell)| word(tell)).collect()
}

/// The port our video goes to.
fn video_port(world: &World) -> Option<u16> {
    let streams = world.appliances[0].agent.calls().next().expect("a call").streams();
    streams.video.as_ref()?.route.remote.map(|remote| remote.port())
}

/// The phone's PRACK for the last 18x it heard.
fn prack(world: &mut World, sdp: Option<&str>) {
    let rseq = world.phone().response(Method::Invite).headers.value("RSeq").expect("a number").to_owned();
    world.act(|phone| {
        phone.more = format!("RAck: {rseq} 1 INVITE\r\n");
        phone.request("PRACK", sdp.map(|text| ("application/sdp", text)));
        phone.more.clear();
    });
    assert_eq!(world.phone().statuses(Method::Prack).last(), Some(&200));
}

fn hang_up(mut world: World) {
    world.act(|phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn a_route_lets_it_ring_before_it_answers() {
    let mut world = World::new();
    world.act(|phone| phone.invite("ring", Some(&audio_video())));
    world.run(ms(4_800));
    assert_eq!((world.phone().statuses(Method::Invite), state(&world)), (vec![180], "ringing"));
    assert_eq!(world.appliance().engine.story(), "prepare");
    world.run(ms(200));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200]);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    world.act(|phone| phone.ack(None));
    hang_up(world);
}

#[test]
fn a_route_looks_before_it_answers() {
    let mut world = World::new();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    assert_eq!((world.phone().statuses(Method::Invite), state(&world)), (vec![180, 183], "early"));
    assert_eq!(world.appliance().engine.story(), "prepare start");
    let early = world.phone().response(Method::Invite).body.clone();
    world.run(seconds(5));
    assert_eq!(world.phone().answer().into_bytes(), early, "the 200 says the same");
    assert_eq!(world.appliance().engine.story(), "prepare start answered");
    assert_eq!(told(&world), ["ringing", "early", "answered"]);
    world.act(|phone| phone.ack(None));
    hang_up(world);
}

#[test]
fn silence_counts_from_the_answer_on() {
    let mut world = World::new();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    world.engine_says(|call| Event::MediaLost { call });
    assert_eq!(state(&world), "early", "nobody has to send before the answer");
    world.run(seconds(5));
    world.act(|phone| phone.ack(None));
    world.engine_says(|call| Event::MediaLost { call });
    assert_eq!(*world.appliance().end(), EndReason::MediaTimeout);
    world.end();
}

#[test]
fn a_caller_who_can_gets_its_early_media_reliably_and_the_answer_after_the_prack() {
    let mut world = World::new();
    world.phone().more = "Supported: 100rel\r\n".to_owned();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    assert_eq!(world.phone().response(Method::Invite).headers.value("Require"), Some("100rel"));
    world.run(seconds(5));
    assert!(!world.phone().statuses(Method::Invite).contains(&200), "RFC 3262 §3");
    world.phone().more.clear();
    prack(&mut world, None);
    assert_eq!(world.phone().response(Method::Invite).status, 200);
    world.act(|phone| phone.ack(None));
    assert_eq!(state(&world), "established");
    hang_up(world);
}

#[test]
fn a_caller_who_never_acknowledges_the_ring_is_refused_after_32_s() {
    let mut world = World::new();
    world.phone().more = "Require: 100rel\r\n".to_owned();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    world.run(seconds(33));
    assert_eq!(world.phone().response(Method::Invite).status, 504);
    assert_eq!(*world.appliance().end(), EndReason::AckMissing);
    world.end();
}

#[test]
fn an_invite_without_sdp_is_answered_in_the_prack() {
    for required in [false, true] {
        let mut world = World::new();
        let option = if required { "Require" } else { "Supported" };
        world.phone().more = format!("{option}: 100rel\r\n");
        world.act(|phone| phone.invite("look", None));
        world.phone().more.clear();
        let statuses = world.phone().statuses(Method::Invite);
        assert_eq!(statuses, if required { vec![183] } else { vec![180, 183] }, "{option}");
        assert_eq!(world.appliance().engine.story(), "prepare");
        prack(&mut world, Some(&audio_video()));
        assert_eq!((world.appliances[0].engine.story().as_str(), state(&world)), ("prepare start", "early"));
        world.run(seconds(5));
        assert!(world.phone().answer().is_empty(), "offer and answer are complete");
        world.act(|phone| phone.ack(None));
        assert_eq!(world.appliance().engine.story(), "prepare start answered");
        hang_up(world);
    }
}

#[test]
fn a_prack_that_comes_after_its_time_to_answer_still_makes_the_call() {
    let mut world = World::new();
    world.phone().more = "Supported: 100rel\r\n".to_owned();
    world.act(|phone| phone.invite("look", None));
    world.phone().more.clear();
    world.run(seconds(8));
    assert_eq!(world.phone().response(Method::Invite).status, 183);
    prack(&mut world, Some(&audio_video()));
    assert_eq!(world.phone().response(Method::Invite).status, 200);
    world.act(|phone| phone.ack(None));
    assert_eq!(
        (world.appliances[0].engine.story().as_str(), state(&world)),
        ("prepare start", "established")
    );
    hang_up(world);
}

#[test]
fn without_100rel_an_invite_without_sdp_just_rings() {
    let mut world = World::new();
    world.act(|phone| phone.invite("look", None));
    world.run(seconds(5));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200]);
    world.act(|phone| phone.ack(Some(&audio_video())));
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn a_caller_who_gives_up_while_its_picture_is_looked_at_leaves_nothing() {
    let mut world = World::new();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    world.run(seconds(2));
    world.act(|phone| {
        phone.more = "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\nReason: Q.850;cause=26\r\n"
            .to_owned();
        phone.cancel();
    });
    assert_eq!(world.phone().response(Method::Invite).status, 487);
    assert_eq!(world.appliance().engine.story(), "prepare start stop");
    assert_eq!(*world.appliance().end(), EndReason::PeerCancelled);
    let said = world.appliances[0].ended[0].1.peer_reason.clone().map(|said| said.to_string());
    assert_eq!(said.as_deref(), Some("Q.850 26: non-selected user clearing"));
    world.end();
}

#[test]
fn an_operator_who_hangs_up_a_ringing_call_refuses_it() {
    for route in ["ring", "look"] {
        let mut world = World::new();
        world.act(|phone| phone.invite(route, Some(&audio_video())));
        let call = world.appliance().call();
        world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
        assert_eq!(world.phone().response(Method::Invite).status, 480);
        world.end();
    }
}

#[test]
fn an_update_before_the_answer_changes_the_early_media() {
    let mut world = World::new();
    world.phone().more = "Supported: 100rel\r\n".to_owned();
    world.act(|phone| phone.invite("look", Some(&audio_video())));
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &directed("sendonly")))));
    assert_eq!(world.phone().statuses(Method::Update), [500], "the PRACK is missing (RFC 3311 §5.2)");
    prack(&mut world, None);
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &directed("sendonly")))));
    assert_eq!(world.phone().statuses(Method::Update), [500, 200]);
    let updated = world.appliance().updated();
    assert_eq!(updated.audio.as_ref().unwrap().route.direction, Direction::ReceiveOnly);
    world.run(seconds(5));
    assert!(world.phone().answer().is_empty(), "an older answer must not come after a newer one");
    world.act(|phone| phone.ack(None));
    assert_eq!(world.appliance().engine.story(), "prepare start update answered");
    hang_up(world);
}

#[test]
fn a_cancel_that_meets_the_answer_changes_nothing() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.cancel());
    assert_eq!(world.phone().statuses(Method::Cancel), [200]);
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200]);
    world.act(|phone| phone.ack(None));
    assert_eq!(state(&world), "established");
    hang_up(world);
}

/// The phone has been called and rings.
fn ringing() -> (World, CallId) {
    let mut world = World::new();
    let call = world.dial(seconds(30));
    (world, call)
}

fn answer(world: &mut World, fork: &'static str, status: u16, sdp: Option<&str>) {
    world.act(|phone| {
        phone.fork = Some(fork);
        phone.reply(Method::Invite, status, sdp);
    });
}

#[test]
fn a_door_that_shows_itself_before_it_answers_is_seen_at_once() {
    let (mut world, _) = ringing();
    answer(&mut world, "door", 183, Some(&audio_video()));
    assert_eq!((world.appliances[0].engine.story().as_str(), state(&world)), ("prepare start", "early"));
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().answered(), None);
    answer(&mut world, "door", 200, Some(&audio_video()));
    assert_eq!(world.appliance().engine.story(), "prepare start answered");
    assert_eq!(told(&world), ["early", "answered"]);
    hang_up(world);
}

#[test]
fn early_media_that_changes_is_followed_and_the_answer_decides() {
    let (mut world, _) = ringing();
    let moved = audio_video().replace("m=video 4002", "m=video 4100");
    answer(&mut world, "door", 180, Some(&audio_only()));
    assert_eq!(video_port(&world), None);
    answer(&mut world, "door", 183, Some(&audio_video()));
    assert_eq!(video_port(&world), Some(4002));
    // Less does not cost the port that the answer may need.
    answer(&mut world, "door", 183, Some(&audio_only()));
    let video = world.appliance().updated().video.clone().expect("it is kept");
    assert_eq!(video.route.direction, Direction::Inactive);
    answer(&mut world, "door", 200, Some(&moved));
    assert_eq!(video_port(&world), Some(4100));
    assert_eq!(world.appliance().engine.story(), "prepare start update update update answered");
    hang_up(world);
}

#[test]
fn of_forks_the_newest_is_seen_and_the_first_answer_wins() {
    let (mut world, _) = ringing();
    let second = audio_video().replace("m=video 4002", "m=video 5002");
    answer(&mut world, "north", 183, Some(&audio_video()));
    answer(&mut world, "south", 183, Some(&second));
    assert_eq!(video_port(&world), Some(5002));
    answer(&mut world, "south", 199, None);
    assert_eq!(state(&world), "early", "a fork that gives up ends nothing");
    // Without a description it stands by what its own fork said.
    answer(&mut world, "north", 200, None);
    assert_eq!((video_port(&world), state(&world)), (Some(4002), "established"));
    answer(&mut world, "south", 200, Some(&second));
    let byes = world.phone().requests(Method::Bye);
    assert_eq!(byes.len(), 1, "the second answer is acknowledged and hung up");
    assert_eq!(byes[0].to().unwrap().tag(), Some("south"));
    assert_eq!(world.phones[0].requests(Method::Ack).len(), 2);
    assert_eq!((video_port(&world), state(&world)), (Some(4002), "established"));
    world.phone().fork = None;
    let call = world.appliance().call();
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    assert_eq!(world.phone().requests(Method::Bye)[1].to().unwrap().tag(), Some("north"));
    world.end();
}

#[test]
fn a_reliable_ring_is_acknowledged_once_and_its_description_stands() {
    let (mut world, _) = ringing();
    let reliable = |phone: &mut crate::phone::Phone| {
        phone.more = "Require: 100rel\r\nRSeq: 77\r\n".to_owned();
        phone.reply(Method::Invite, 183, Some(&audio_video()));
        phone.more.clear();
    };
    world.act(reliable);
    world.act(reliable);
    let pracks = world.phone().requests(Method::Prack);
    assert_eq!(pracks.len(), 1);
    assert_eq!(pracks[0].headers.value("RAck"), Some("77 1 INVITE"));
    assert_eq!(world.appliance().engine.story(), "prepare start");
    world.act(|phone| phone.reply(Method::Invite, 200, None));
    assert_eq!(
        (world.appliances[0].engine.story().as_str(), state(&world)),
        ("prepare start answered", "established")
    );
    hang_up(world);
}

#[test]
fn early_media_does_not_make_the_ring_last_longer() {
    let (mut world, _) = ringing();
    answer(&mut world, "door", 183, Some(&audio_video()));
    world.engine_says(|call| Event::MediaLost { call });
    world.run(seconds(30));
    let cancel = world.phone().requests(Method::Cancel)[0].clone();
    assert_eq!(cancel.headers.value("Reason"), Some("Q.850;cause=19;text=\"no answer from user\""));
    world.act(|phone| phone.reply(Method::Cancel, 200, None));
    world.act(|phone| phone.reply(Method::Invite, 487, None));
    assert_eq!(*world.appliance().end(), EndReason::NoAnswer);
    assert_eq!(world.appliance().engine.story(), "prepare start stop");
    world.end();
}

#[test]
fn a_callee_that_updates_before_it_answers_is_followed() {
    let (mut world, _) = ringing();
    world.act(|phone| {
        phone.more = "Require: 100rel\r\nRSeq: 1\r\n".to_owned();
        phone.reply(Method::Invite, 183, Some(&audio_video()));
        phone.more.clear();
    });
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &directed("inactive")))));
    assert_eq!(world.phone().statuses(Method::Update), [200]);
    let updated = world.appliance().updated();
    assert_eq!(updated.video.as_ref().unwrap().route.direction, Direction::Inactive);
    world.act(|phone| phone.reply(Method::Invite, 200, None));
    assert_eq!(state(&world), "established");
    hang_up(world);
}

#[test]
fn a_refusal_after_early_media_stops_it_and_says_why() {
    let (mut world, _) = ringing();
    answer(&mut world, "door", 183, Some(&audio_video()));
    world.act(|phone| {
        phone.more = "Reason: Q.850;cause=99\r\n".to_owned();
        phone.reply(Method::Invite, 600, None);
    });
    assert_eq!(world.appliance().end().to_string(), "rejected (600 Busy Everywhere)");
    let said = world.appliances[0].ended[0].1.peer_reason.clone().map(|said| said.to_string());
    assert_eq!(said.as_deref(), Some("Q.850 99: unknown cause"));
    let stopped = matches!(world.appliances[0].engine.commands.last(), Some(Command::Stop { .. }));
    assert!(stopped && world.appliances[0].engine.story() == "prepare start stop");
    world.end();
}
