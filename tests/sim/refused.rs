//! What is not taken, and what the caller hears about it.

use eyeline::call::end::EndReason;
use eyeline::sip::Method;
use eyeline::useragent::Settings;

use crate::engine::Manner;
use crate::phone::Phone;
use crate::world::{World, audio_video, seconds, settings, unusable};

#[test]
fn nobody_lives_there() {
    let mut world = World::new();
    world.act(|phone| phone.invite("999", Some(&audio_video())));
    assert_eq!(world.phone().statuses(Method::Invite), [404]);
    assert_eq!(world.appliance().agent.counters().refused, 1);
    assert!(world.appliance().engine.commands.is_empty(), "no ports for it");
    world.end();
}

#[test]
fn an_offer_without_a_known_codec_is_refused_with_its_reason() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&unusable())));
    assert_eq!(world.phone().statuses(Method::Invite), [488]);
    let warning = world.phone().response(Method::Invite).headers.value("Warning").unwrap().to_owned();
    assert_eq!(warning, "304 eyeline \"No common codec for sound or picture\"");
    world.end();
}

#[test]
fn an_offer_that_is_none_is_a_bad_request() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some("this is no SDP")));
    assert_eq!(world.phone().statuses(Method::Invite), [400]);
    world.end();
}

/// Seconds after which the refused phone is to try again.
fn retry_after(phone: &Phone) -> u32 {
    phone.response(Method::Invite).headers.value("Retry-After").unwrap().parse().unwrap()
}

#[test]
fn over_the_limit_callers_are_told_when_to_come_back() {
    for busy in [503, 486] {
        let mut world = World::with(Settings { max_calls: 1, busy, ..settings() });
        let second = world.add_phone();
        world.establish("100", &audio_video());
        world.act_on(second, |phone| phone.invite("100", Some(&audio_video())));
        assert_eq!(world.phones[second].statuses(Method::Invite), [busy]);
        assert!((5..=30).contains(&retry_after(&world.phones[second])));
        world.act(|phone| phone.bye());
        let third = world.add_phone();
        world.act_on(third, |phone| phone.invite("100", Some(&audio_video())));
        assert_eq!(world.phones[third].statuses(Method::Invite), [180, 200], "there is room again");
        world.act_on(third, |phone| phone.ack(None));
        world.act_on(third, Phone::bye);
        world.end();
    }
}

#[test]
fn a_draining_appliance_keeps_its_calls_and_takes_no_more() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    let second = world.add_phone();
    world.command(|agent, _| agent.drain());
    world.act_on(second, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[second].statuses(Method::Invite), [503]);
    assert!((5..=30).contains(&retry_after(&world.phones[second])));
    let third = world.add_phone();
    world.phones[third].prepare_outside();
    world.act_on(third, |phone| phone.request("OPTIONS", None));
    assert_eq!(world.phones[third].statuses(Method::Options), [503]);
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().state_name(), "established");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_ready_appliance_answers_options() {
    let mut world = World::new();
    world.phone().prepare_outside();
    world.act(|phone| phone.request("OPTIONS", None));
    assert_eq!(world.phone().statuses(Method::Options), [200]);
    world.end();
}

#[test]
fn strangers_hear_nothing() {
    let mut world = World::new();
    world.phone().address = "203.0.113.9:5060".parse().unwrap();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.request("OPTIONS", None));
    world.run(seconds(60));
    assert!(world.phone().heard.is_empty());
    assert_eq!(world.appliance().agent.sip_counters().strangers_dropped, 2);
    world.end();
}

#[test]
fn without_a_free_port_the_caller_is_asked_to_try_again() {
    let mut world = World::new();
    world.appliance().engine.manner = Manner::Runs(0);
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 503]);
    assert_eq!(world.phone().response(Method::Invite).headers.value("Retry-After"), Some("10"));
    assert!(matches!(world.appliance().end(), EndReason::Refused { status: 503, .. }));
    world.end();
}

#[test]
fn an_engine_that_says_nothing_does_not_leave_the_caller_waiting() {
    let mut world = World::new();
    world.appliance().engine.manner = Manner::IsSilent;
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.run(seconds(10));
    assert_eq!(world.phone().statuses(Method::Invite), [180, 500]);
    assert!(matches!(world.appliance().end(), EndReason::EngineFault(_)));
    world.end();
}
