//! What happens inside an established call: renewed offers of both sides, holding, keys, key pictures.

use eyeline::call::Tell;
use eyeline::call::end::EndReason;
use eyeline::engine::plan::{Command, Direction, Event, Streams};
use eyeline::sip::Method;

use crate::engine::Manner;
use crate::world::{Appliance, World, audio_only, audio_video, directed, ms, seconds, unusable};

fn established() -> World {
    let mut world = World::new();
    world.establish("100", &audio_video());
    world
}

fn version(world: &World) -> String {
    world.phones[0].described().origin.unwrap().session_version
}

fn directions(streams: &Streams) -> (Direction, Direction) {
    let (audio, video) = (streams.audio.as_ref().unwrap(), streams.video.as_ref().unwrap());
    (audio.route.direction, video.route.direction)
}

/// Both directions in the last session description we sent inside a request.
fn asked(world: &World) -> String {
    let invite = world.phones[0].requests(Method::Invite).pop().unwrap();
    let text = String::from_utf8(invite.body.clone()).unwrap();
    let names = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let words = text.lines().filter_map(|line| line.strip_prefix("a=").filter(|name| names.contains(name)));
    words.collect::<Vec<_>>().join(" ")
}

fn hang_up(mut world: World) {
    world.act(|phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn a_peer_holds_and_resumes() {
    let mut world = established();
    assert_eq!(version(&world), "1");
    world.act(|phone| phone.reinvite(Some(&directed("sendonly"))));
    world.act(|phone| phone.ack(None));
    assert_eq!(version(&world), "2");
    assert_eq!(directions(world.appliance().updated()), (Direction::ReceiveOnly, Direction::ReceiveOnly));
    assert!(world.phone().answer().contains("a=recvonly"));
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    world.act(|phone| phone.ack(None));
    assert_eq!(version(&world), "3");
    assert_eq!(directions(world.appliance().updated()), (Direction::SendReceive, Direction::SendReceive));
    assert_eq!(world.appliance().engine.story(), "prepare start update update");
    assert_eq!(
        world.appliance().told.iter().filter(|(_, tell)| matches!(tell, Tell::Updated { .. })).count(),
        2
    );
    hang_up(world);
}

#[test]
fn an_unchanged_offer_changes_nothing() {
    let mut world = established();
    let before = world.phone().answer();
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    world.act(|phone| phone.ack(None));
    assert_eq!(world.phone().answer(), before);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn video_is_added_after_its_port_is_bound() {
    let mut world = World::new();
    world.establish("100", &audio_only());
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    assert_eq!(world.appliance().engine.story(), "prepare start prepare update");
    let described = world.phone().described();
    assert_eq!(described.media.iter().map(|line| line.port).collect::<Vec<_>>(), [20_000, 20_002]);
    world.act(|phone| phone.ack(None));
    assert!(world.appliance().streams().video.is_some());
    hang_up(world);
}

#[test]
fn without_a_port_for_the_video_the_call_stays_as_it_was() {
    let mut world = World::new();
    world.appliance().engine.manner = Manner::Runs(1);
    world.establish("100", &audio_only());
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 500]);
    assert_eq!(world.appliance().engine.story(), "prepare start prepare");
    hang_up(world);
}

#[test]
fn an_offer_that_cannot_be_used_leaves_the_media_untouched() {
    let mut world = established();
    let before = world.appliance().streams().clone();
    world.act(|phone| phone.reinvite(Some(&unusable())));
    world.act(|phone| phone.reinvite(Some("rubbish")));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 488, 400]);
    assert!(world.phone().response(Method::Invite).headers.value("Warning").is_some());
    assert_eq!(*world.appliance().streams(), before);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn a_reinvite_without_sdp_gets_our_offer() {
    let mut world = established();
    world.act(|phone| phone.reinvite(None));
    let described = world.phone().described();
    assert_eq!(described.media.iter().map(|line| line.port).collect::<Vec<_>>(), [20_000, 20_002]);
    world.act(|phone| phone.ack(Some(&directed("sendonly"))));
    assert_eq!(directions(world.appliance().updated()), (Direction::ReceiveOnly, Direction::ReceiveOnly));
    hang_up(world);
}

#[test]
fn a_reinvite_without_sdp_and_without_an_answer_ends_the_call() {
    let mut world = established();
    world.act(|phone| phone.reinvite(None));
    world.act(|phone| phone.ack(None));
    assert!(matches!(world.appliance().end(), EndReason::NegotiationFailed(_)));
    assert_eq!(world.phone().requests(Method::Bye).len(), 1);
    world.end();
}

#[test]
fn a_reinvite_that_is_taken_back_changes_nothing() {
    for manner in [Manner::Binds, Manner::Runs(1)] {
        let mut world = World::new();
        world.appliance().engine.manner = manner;
        world.establish("100", &audio_only());
        world.appliance().engine.delay = seconds(1);
        world.act(|phone| phone.reinvite(Some(&audio_video())));
        world.act(|phone| phone.cancel());
        assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 487]);
        world.run(seconds(2));
        assert_eq!(world.appliance().engine.story(), "prepare start prepare");
        assert!(world.appliance().streams().video.is_none());
        world.appliance().engine.delay = ms(1);
        hang_up(world);
    }
}

#[test]
fn a_reinvite_that_waits_when_we_hang_up_gets_487() {
    let mut world = World::new();
    world.establish("100", &audio_only());
    world.appliance().engine.delay = seconds(1);
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    let call = world.appliance().call();
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 487]);
    world.end();
}

#[test]
fn a_request_that_comes_after_our_bye_gets_481() {
    let mut world = established();
    world.phone().polite = false;
    let call = world.appliance().call();
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 481]);
    world.act(|phone| phone.request("INFO", None));
    assert_eq!(world.phone().statuses(Method::Info), [481]);
    world.act(|phone| phone.reply(Method::Bye, 200, None));
    world.end();
}

#[test]
fn a_picture_fast_update_asks_the_encoder_for_a_key_picture() {
    let mut world = established();
    let xml = "<media_control><vc_primitive><to_encoder><picture_fast_update/></to_encoder></vc_primitive></media_control>";
    world.act(|phone| phone.request("INFO", Some(("application/media_control+xml", xml))));
    assert_eq!(world.phone().statuses(Method::Info), [200]);
    assert_eq!(world.appliance().engine.story(), "prepare start key");
    hang_up(world);
}

#[test]
fn a_decoder_in_need_asks_by_info() {
    let mut world = established();
    world.engine_says(|call| Event::WantsKey { call });
    let info = world.phone().requests(Method::Info)[0].clone();
    assert!(String::from_utf8(info.body).unwrap().contains("picture_fast_update"));
    hang_up(world);
}

#[test]
fn digits_arrive_by_info_and_by_rtp() {
    let mut world = established();
    let relay = ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n");
    world.act(|phone| phone.request("INFO", Some(relay)));
    world.engine_says(|call| Event::Digit { call, digit: '#' });
    assert_eq!(world.phone().statuses(Method::Info), [200]);
    let digit = |tell: &Tell| match tell {
        Tell::Digit(digit) => Some(*digit),
        _ => None,
    };
    let digits: String = world.appliance().told.iter().filter_map(|(_, tell)| digit(tell)).collect();
    assert_eq!(digits, "5#");
    hang_up(world);
}

#[test]
fn an_info_nobody_knows_gets_415() {
    let mut world = established();
    world.act(|phone| phone.request("INFO", Some(("application/x-broadworks", "?"))));
    assert_eq!(world.phone().statuses(Method::Info), [415]);
    assert!(world.phone().response(Method::Info).headers.value("Accept").is_some());
    hang_up(world);
}

#[test]
fn keys_are_pressed_and_other_letters_left_out() {
    let mut world = established();
    let call = world.appliance().call();
    world.command(|agent, now| agent.send_digits(now, call, "1-2b*x"));
    let Some(Command::SendDigits { digits, .. }) = world.appliance().engine.commands.last() else {
        panic!("{}", world.appliance().engine.story())
    };
    assert_eq!(digits, "12B*");
    hang_up(world);
}

fn hold(world: &mut World) {
    let call = world.appliance().call();
    world.command(|agent, now| agent.hold(now, call));
}

fn resume(world: &mut World) {
    let call = world.appliance().call();
    world.command(|agent, now| agent.resume(now, call));
}

fn is_held(appliance: &Appliance) -> bool {
    appliance.agent.calls().next().unwrap().is_held()
}

#[test]
fn we_hold_and_resume_a_caller() {
    let mut world = established();
    hold(&mut world);
    assert_eq!(asked(&world), "sendonly sendonly");
    assert!(!is_held(&world.appliances[0]), "not before the peer agrees");
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    assert!(is_held(&world.appliances[0]));
    assert_eq!(directions(world.appliance().updated()), (Direction::SendOnly, Direction::SendOnly));
    resume(&mut world);
    assert_eq!(asked(&world), "sendrecv sendrecv");
    let versions: Vec<String> = world
        .phone()
        .requests(Method::Invite)
        .iter()
        .map(|invite| eyeline::sdp::parse(&invite.body).unwrap().origin.unwrap().session_version)
        .collect();
    assert_eq!(versions, ["2", "3"]);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(directions(world.appliance().updated()), (Direction::SendReceive, Direction::SendReceive));
    assert!(!is_held(&world.appliances[0]));
    hang_up(world);
}

#[test]
fn while_we_hold_the_peer_cannot_make_us_receive() {
    let mut world = established();
    hold(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    world.act(|phone| phone.ack(None));
    assert!(world.phone().answer().contains("a=sendonly"));
    assert_eq!(directions(world.appliance().streams()), (Direction::SendOnly, Direction::SendOnly));
    hang_up(world);
}

#[test]
fn a_peer_that_refuses_to_be_held_goes_on_as_before() {
    for status in [488, 503] {
        let mut world = established();
        hold(&mut world);
        world.act(|phone| phone.reply(Method::Invite, status, None));
        world.run(seconds(10));
        assert_eq!(world.phone().requests(Method::Invite).len(), 1, "asked once");
        assert!(!is_held(&world.appliances[0]));
        assert_eq!(world.appliance().engine.story(), "prepare start");
        world.act(|phone| phone.reinvite(Some(&audio_video())));
        world.act(|phone| phone.ack(None));
        assert!(world.phone().answer().contains("a=sendrecv"), "the directions are as they were");
        hang_up(world);
    }
}

#[test]
fn a_hold_does_not_bring_back_video_the_peer_took_away() {
    let mut world = established();
    let without = audio_video().replace("m=video 4002", "m=video 0").replace("phone 5 1", "phone 5 2");
    world.act(|phone| phone.reinvite(Some(&without)));
    world.act(|phone| phone.ack(None));
    assert!(world.appliance().streams().video.is_none());
    hold(&mut world);
    let invite = world.phone().requests(Method::Invite)[0].clone();
    let described = eyeline::sdp::parse(&invite.body).unwrap();
    assert_eq!(described.media.iter().map(|line| line.port).collect::<Vec<_>>(), [20_000, 0]);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_only())));
    hang_up(world);
}

#[test]
fn two_offers_that_meet_are_tried_again_once_after_the_pause_of_the_called() {
    let mut world = established();
    hold(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 491, None));
    world.run(seconds(2));
    assert_eq!(world.phone().requests(Method::Invite).len(), 2, "again within 2 s: the Call-ID is theirs");
    assert_eq!(asked(&world), "sendonly sendonly");
    world.act(|phone| phone.reply(Method::Invite, 491, None));
    world.run(seconds(10));
    assert_eq!(world.phone().requests(Method::Invite).len(), 2);
    assert!(!is_held(&world.appliances[0]));
    hold(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    assert!(is_held(&world.appliances[0]), "a new wish is a new attempt");
    hang_up(world);
}

#[test]
fn two_offers_that_meet_are_tried_again_after_the_longer_pause_of_the_caller() {
    let mut world = World::new();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    hold(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 491, None));
    world.run(ms(1_950));
    assert_eq!(world.phone().requests(Method::Invite).len(), 2, "the call and one hold");
    world.run(ms(2_000));
    assert_eq!(world.phone().requests(Method::Invite).len(), 3);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    assert!(is_held(&world.appliances[0]));
    hang_up(world);
}

#[test]
fn our_offer_that_crosses_theirs_is_refused_to_both() {
    let mut world = established();
    hold(&mut world);
    world.act(|phone| phone.reinvite(Some(&directed("sendonly"))));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200, 491]);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    assert!(is_held(&world.appliances[0]));
    hang_up(world);
}

#[test]
fn a_hold_waits_for_what_is_on_the_way() {
    // Before the ACK of the call, and before the ACK of their offer, none of ours may go out (RFC 3261 §14.1).
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    hold(&mut world);
    assert!(world.phone().requests(Method::Invite).is_empty());
    world.act(|phone| phone.ack(None));
    assert_eq!(world.phone().requests(Method::Invite).len(), 1);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    resume(&mut world);
    assert_eq!(world.phone().requests(Method::Invite).len(), 1);
    world.act(|phone| phone.ack(None));
    assert_eq!(world.phone().requests(Method::Invite).len(), 2);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert!(!is_held(&world.appliances[0]));
    hang_up(world);
}

#[test]
fn a_hold_that_is_taken_back_at_once_ends_resumed() {
    let mut world = established();
    hold(&mut world);
    resume(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    assert_eq!(asked(&world), "sendrecv sendrecv");
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert!(!is_held(&world.appliances[0]));
    assert_eq!(directions(world.appliance().streams()), (Direction::SendReceive, Direction::SendReceive));
    hang_up(world);
}

#[test]
fn a_peer_that_forgot_the_call_ends_it() {
    let mut world = established();
    hold(&mut world);
    world.act(|phone| phone.reply(Method::Invite, 481, None));
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn a_hold_that_is_never_answered_ends_the_call() {
    let mut world = established();
    hold(&mut world);
    world.run(seconds(100));
    assert!(world.appliance().ended.is_empty(), "somebody may be asked there");
    world.run(seconds(90));
    assert_eq!(world.phone().requests(Method::Bye).len(), 1);
    assert_eq!(world.appliance().ended.len(), 1);
    world.end();
}

#[test]
fn the_call_ends_while_our_offer_is_on_the_way() {
    let mut world = established();
    hold(&mut world);
    world.act(|phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    // The 487 to our offer never comes: it is not waited for longer than a lost message lives.
    world.run(seconds(33));
    assert_eq!(world.appliance().agent.sip_open(), (0, 0));
    world.end();
}
