//! Calls to us, from the INVITE to their end.

use eyeline::call::Tell;
use eyeline::call::end::EndReason;
use eyeline::engine::plan::{Command, Direction, Event};
use eyeline::sip::Method;

use crate::world::{World, audio_only, audio_video, ms, seconds, unusable};

#[test]
fn a_video_call_is_answered_line_by_line() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    let answer = world.phone().answer();
    let origin = answer.lines().nth(1).unwrap().to_owned();
    assert!(origin.starts_with("o=eyeline ") && origin.ends_with(" 1 IN IP4 192.0.2.1"), "{origin}");
    let rest: Vec<&str> = answer.lines().skip(2).collect();
    assert_eq!(
        rest,
        [
            "s=-",
            "c=IN IP4 192.0.2.1",
            "t=0 0",
            "m=audio 20000 RTP/AVP 8 101",
            "a=rtpmap:8 PCMA/8000",
            "a=rtpmap:101 telephone-event/8000",
            "a=fmtp:101 0-15",
            "a=ptime:20",
            "a=sendrecv",
            "m=video 20002 RTP/AVP 97",
            "b=AS:1000",
            "a=rtpmap:97 H264/90000",
            "a=fmtp:97 profile-level-id=42e01f;packetization-mode=1",
            "a=rtcp-fb:97 nack pli",
            "a=sendrecv",
        ]
    );
    assert_eq!(world.appliance().engine.story(), "prepare start");
    let Command::Start { plan, .. } = &world.appliances[0].engine.commands[1] else { unreachable!() };
    let video = plan.streams.video.as_ref().unwrap();
    assert_eq!(video.route.remote, "10.0.0.1:4002".parse().ok());
    assert_eq!((plan.label.from.as_str(), plan.label.to.as_str()), ("phone0", "100"));
    world.act(|phone| phone.ack(None));
    world.act(|phone| phone.bye());
    assert_eq!(world.phone().statuses(Method::Bye), [200]);
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    assert_eq!(world.appliance().engine.story(), "prepare start stop");
    world.end();
}

#[test]
fn the_audio_route_takes_no_video() {
    let mut world = World::new();
    world.establish("audio", &audio_video());
    let described = world.phone().described();
    assert_eq!(described.media.iter().map(|line| line.port).collect::<Vec<_>>(), [20_000, 0]);
    assert!(world.appliance().streams().video.is_none());
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn an_escaped_user_part_finds_its_route() {
    let mut world = World::new();
    world.establish("haus%20tor", &audio_video());
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().label().to, "haus tor");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn an_invite_without_sdp_gets_our_offer_and_media_starts_with_the_answer_in_the_ack() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", None));
    let offer = world.phone().described();
    assert_eq!(offer.media.iter().map(|line| line.port).collect::<Vec<_>>(), [20_000, 20_002]);
    assert_eq!(world.appliance().engine.story(), "prepare");
    world.act(|phone| phone.ack(Some(&audio_only())));
    assert_eq!(world.appliance().engine.story(), "prepare start");
    assert!(world.appliance().streams().audio.is_some() && world.appliance().streams().video.is_none());
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn an_ack_whose_answer_is_missing_or_useless_ends_the_call_with_a_bye() {
    for answer in [None, Some("rubbish".to_owned()), Some(unusable())] {
        let mut world = World::new();
        world.act(|phone| phone.invite("100", None));
        world.act(|phone| phone.ack(answer.as_deref()));
        let bye = world.phone().requests(Method::Bye)[0].clone();
        assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=88;text=\"negotiation-failed\""));
        assert!(matches!(world.appliance().end(), EndReason::NegotiationFailed(_)));
        assert_eq!(world.appliance().engine.story(), "prepare stop");
        world.end();
    }
}

#[test]
fn a_caller_who_gives_up_while_ports_are_bound_gets_487() {
    let mut world = World::new();
    world.appliance().engine.delay = seconds(1);
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.cancel());
    assert_eq!(world.phone().statuses(Method::Cancel), [200]);
    assert_eq!(world.phone().statuses(Method::Invite), [180, 487]);
    world.run(seconds(5));
    assert_eq!(*world.appliance().end(), EndReason::PeerCancelled);
    assert_eq!(world.appliance().engine.story(), "prepare stop");
    world.end();
    assert_eq!(world.phone().statuses(Method::Invite), [180, 487], "no answer comes later");
}

#[test]
fn a_caller_may_hang_up_before_acknowledging() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.bye());
    assert_eq!(world.phone().statuses(Method::Bye), [200]);
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200], "the answer is not repeated");
}

#[test]
fn a_repeated_invite_makes_one_call() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    for _ in 0..3 {
        world.act(|phone| phone.send_invite_again(Some(&audio_video())));
    }
    assert_eq!(world.appliance().agent.counters().incoming, 1);
    world.act(|phone| phone.ack(None));
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn an_answer_that_is_lost_four_times_still_makes_the_call() {
    let mut world = World::new();
    let mut lost = 0;
    world.network.lose(move |text| {
        lost += usize::from(text.starts_with("SIP/2.0 200"));
        text.starts_with("SIP/2.0 200") && lost <= 4
    });
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phone().statuses(Method::Invite), [180]);
    world.run(seconds(8));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 200]);
    world.act(|phone| phone.ack(None));
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().state_name(), "established");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_call_whose_ack_never_comes_ends_as_ack_missing() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.run(seconds(31));
    assert_eq!(world.appliance().ended.len(), 0);
    world.run(seconds(2));
    assert_eq!(*world.appliance().end(), EndReason::AckMissing);
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert!(bye.headers.value("Reason").unwrap().contains("ACK not received"));
    world.end();
}

#[test]
fn a_dead_line_is_hung_up_and_the_bye_says_so() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    world.engine_says(|call| Event::MediaLost { call });
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=102;text=\"media-timeout\""));
    assert_eq!(*world.appliance().end(), EndReason::MediaTimeout);
    world.end();
}

#[test]
fn a_broken_engine_ends_its_call() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    world.engine_says(|call| Event::Fault { call, text: "the encoder is gone".to_owned() });
    assert_eq!(*world.appliance().end(), EndReason::EngineFault("the encoder is gone".to_owned()));
    assert_eq!(world.phone().requests(Method::Bye).len(), 1);
    assert_eq!(world.appliance().engine.story(), "prepare start stop");
    world.end();
}

#[test]
fn a_call_that_is_too_long_is_ended() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    world.run(seconds(3599));
    assert_eq!(world.phone().requests(Method::Bye).len(), 0);
    world.run(seconds(2));
    assert_eq!(*world.appliance().end(), EndReason::TooLong);
    world.end();
}

#[test]
fn a_hang_up_before_the_ack_waits_for_it_and_ends_without_it_too() {
    for acknowledged in [true, false] {
        let mut world = World::new();
        world.act(|phone| phone.invite("100", Some(&audio_video())));
        let call = world.appliance().call();
        world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
        assert!(world.phone().requests(Method::Bye).is_empty(), "a BYE before the ACK (RFC 3261 §15)");
        assert_eq!(world.appliance().engine.story(), "prepare start stop");
        if acknowledged {
            world.act(|phone| phone.ack(None));
            assert_eq!(world.appliance().ended.len(), 1);
        } else {
            world.run(seconds(33));
        }
        assert_eq!(world.phone().requests(Method::Bye).len(), 1);
        assert_eq!(*world.appliance().end(), EndReason::HungUp);
        world.end();
    }
}

#[test]
fn a_phone_that_vanished_does_not_keep_its_call() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    world.phone().polite = false;
    let call = world.appliance().call();
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    assert_eq!(world.appliance().ended.len(), 0, "the BYE is repeated");
    world.run(seconds(33));
    assert_eq!(*world.appliance().end(), EndReason::HungUp);
    assert_eq!(world.phone().requests(Method::Bye).len(), 11);
    world.end();
}

#[test]
fn shutdown_ends_running_calls_and_refuses_those_being_set_up() {
    let mut world = World::new();
    let second = world.add_phone();
    world.establish("100", &audio_video());
    world.appliance().engine.delay = ms(500);
    world.act_on(second, |phone| phone.invite("100", Some(&audio_video())));
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::Shutdown));
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=41;text=\"shutdown\""));
    assert_eq!(world.phones[second].statuses(Method::Invite), [180, 503]);
    world.end();
    assert!(world.appliance().ended.iter().all(|(_, ended)| ended.reason == EndReason::Shutdown));
}

#[test]
fn a_call_tells_when_it_rang_and_was_answered() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    let told: Vec<&Tell> = world.appliances[0].told.iter().map(|(_, tell)| tell).collect();
    let [Tell::Ringing, Tell::Answered { streams }] = told[..] else { panic!("{told:?}") };
    assert_eq!(streams.audio.as_ref().unwrap().route.direction, Direction::SendReceive);
    world.run(seconds(10));
    world.act(|phone| phone.bye());
    let ended = &world.appliances[0].ended[0].1;
    let talked = ended.ended - ended.answered.unwrap();
    assert!(talked >= seconds(10) && talked < seconds(11), "{talked:?}");
    world.end();
}
