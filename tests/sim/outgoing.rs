//! Calls we make.

use eyeline::call::Tell;
use eyeline::call::end::EndReason;
use eyeline::sip::{Hop, Method, Transport};

use crate::engine::Manner;
use crate::world::{World, audio_only, audio_video, dial, ms, seconds, unusable};

fn ended_as(world: &mut World) -> String {
    world.appliance().end().to_string()
}

#[test]
fn a_phone_that_answers_is_connected_and_hung_up() {
    let mut world = World::new();
    let call = world.dial(seconds(30));
    let invite = world.phone().requests(Method::Invite)[0].clone();
    let offer = String::from_utf8(invite.body).unwrap();
    assert!(offer.contains("m=audio 20000 ") && offer.contains("m=video 20002 "), "{offer}");
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    let told: Vec<&Tell> = world.appliances[0].told.iter().map(|(_, tell)| tell).collect();
    assert!(matches!(told[..], [Tell::Ringing, Tell::Answered { .. }]), "{told:?}");
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=16;text=\"normal call clearing\""));
    assert_eq!(ended_as(&mut world), "hung-up");
    world.end();
}

#[test]
fn a_phone_that_refuses_says_why() {
    let mut world = World::new();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 486, None));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    assert_eq!(ended_as(&mut world), "rejected (486 Busy Here)");
    assert_eq!(world.appliance().engine.story(), "prepare stop");
    world.end();
}

#[test]
fn nobody_picks_up() {
    let mut world = World::new();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.run(seconds(30));
    assert_eq!(world.phone().requests(Method::Cancel).len(), 1);
    world.act(|phone| phone.reply(Method::Cancel, 200, None));
    assert_eq!(world.appliance().ended.len(), 0, "the INVITE has no final response yet");
    world.act(|phone| phone.reply(Method::Invite, 487, None));
    assert_eq!(ended_as(&mut world), "no-answer");
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    world.end();
}

#[test]
fn a_phone_that_ignores_the_cancel_does_not_keep_the_call() {
    let mut world = World::new();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.run(seconds(64));
    assert_eq!(ended_as(&mut world), "no-answer");
    world.end();
}

#[test]
fn a_phone_that_is_not_there_is_given_up() {
    let mut world = World::new();
    world.phone().polite = false;
    world.dial(seconds(60));
    world.run(seconds(33));
    assert_eq!(ended_as(&mut world), "rejected (408 Request Timeout)");
    world.end();
}

#[test]
fn a_hang_up_while_it_rings_cancels() {
    let mut world = World::new();
    world.phone().polite = false;
    let call = world.dial(seconds(30));
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    assert!(world.phone().requests(Method::Cancel).is_empty(), "not before a provisional response (§9.1)");
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.act(|phone| phone.reply(Method::Cancel, 200, None));
    world.act(|phone| phone.reply(Method::Invite, 487, None));
    assert_eq!(ended_as(&mut world), "hung-up");
    world.end();
}

#[test]
fn an_answer_that_crosses_our_cancel_is_acknowledged_and_hung_up() {
    let mut world = World::new();
    let call = world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 180, None));
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    world.act(|phone| phone.reply(Method::Cancel, 200, None));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    assert_eq!(world.phone().requests(Method::Bye).len(), 1);
    assert_eq!(ended_as(&mut world), "hung-up");
    assert_eq!(world.appliance().engine.story(), "prepare stop");
    world.end();
}

#[test]
fn an_answer_without_usable_sdp_is_acknowledged_and_hung_up() {
    for sdp in [None, Some("rubbish".to_owned()), Some(unusable())] {
        let mut world = World::new();
        world.dial(seconds(30));
        world.act(|phone| phone.reply(Method::Invite, 200, sdp.as_deref()));
        assert_eq!(world.phone().requests(Method::Ack).len(), 1);
        let bye = world.phone().requests(Method::Bye)[0].clone();
        assert_eq!(bye.headers.value("Reason"), Some("Q.850;cause=88;text=\"negotiation-failed\""));
        assert!(matches!(world.appliance().end(), EndReason::NegotiationFailed(_)));
        assert_eq!(world.appliance().engine.story(), "prepare stop");
        world.end();
    }
}

#[test]
fn a_200_without_sdp_stands_by_what_the_183_said() {
    let mut world = World::new();
    world.dial(seconds(30));
    world.act(|phone| phone.reply(Method::Invite, 183, Some(&audio_only())));
    world.act(|phone| phone.reply(Method::Invite, 200, None));
    assert!(world.appliance().streams().audio.is_some() && world.appliance().streams().video.is_none());
    world.act(|phone| phone.bye());
    assert_eq!(ended_as(&mut world), "peer-hung-up");
    world.end();
}

#[test]
fn a_lost_ack_is_sent_again_when_the_answer_is_repeated() {
    let mut world = World::new();
    world.dial(seconds(30));
    let mut acks = 0;
    world.network.lose(move |text| {
        acks += usize::from(text.starts_with("ACK"));
        text.starts_with("ACK") && acks == 1
    });
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(world.phone().requests(Method::Ack).len(), 0);
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn without_ports_nothing_is_dialled() {
    let mut world = World::new();
    world.appliance().engine.manner = Manner::Runs(0);
    world.dial(seconds(30));
    assert!(world.phone().heard.is_empty());
    assert_eq!(ended_as(&mut world), "engine-fault: no media ports: no port is free");
    world.end();
}

#[test]
fn a_stream_nobody_accepts_ends_the_call_at_once() {
    let mut world = World::new();
    let (here, there) = (world.appliances[0].address, world.phones[0].address);
    let wanted = eyeline::useragent::Dial {
        hops: vec![Hop::to(Transport::Tcp, there, here)],
        ..dial(here, there, seconds(30))
    };
    world.command(|agent, now| agent.dial(now, wanted));
    assert_eq!(ended_as(&mut world), "rejected (503 Service Unavailable)");
    world.end();
}

#[test]
fn a_call_whose_step_panics_is_dropped_alone() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    let second = world.add_phone();
    // No instant is that far away: the step that sets the timer panics.
    let broken = dial(world.appliances[0].address, world.phones[second].address, std::time::Duration::MAX);
    world.command(|agent, now| agent.dial(now, broken));
    assert_eq!(world.appliance().agent.counters().faults, 1);
    assert!(ended_as(&mut world).starts_with("control-fault: "));
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().state_name(), "established");
    world.run(ms(500));
    world.act(|phone| phone.bye());
    assert_eq!(world.phone().statuses(Method::Bye), [200]);
    world.end();
}
