//! Calls of ours that are sent elsewhere by a 3xx: only where the dial policy permits, in order, not for ever.

use eyeline::call::end::EndReason;
use eyeline::sip::Method;

use crate::world::{World, audio_video, seconds};

/// The first phone has been called; so many others wait.
fn dialled(others: usize) -> World {
    let mut world = World::new();
    for _ in 0..others {
        world.add_phone();
    }
    world.dial(seconds(30));
    world
}

/// A phone sends the call elsewhere.
fn send_on(world: &mut World, phone: usize, contacts: &[&str]) {
    world.act_on(phone, |phone| {
        phone.more = contacts.iter().map(|contact| format!("Contact: {contact}\r\n")).collect();
        phone.reply(Method::Invite, 302, None);
        phone.more.clear();
    });
}

fn rings(world: &World, phone: usize) -> usize {
    world.phones[phone].requests(Method::Invite).len()
}

fn state(world: &World) -> &'static str {
    world.appliances[0].agent.calls().next().expect("a call").state_name()
}

#[test]
fn a_permitted_contact_is_called_and_nobody_notices() {
    let mut world = dialled(1);
    send_on(&mut world, 0, &["<sip:desk@10.0.0.2>"]);
    assert_eq!((rings(&world, 0), rings(&world, 1)), (1, 1));
    assert_eq!(world.phones[1].requests(Method::Invite)[0].uri.to_string(), "sip:desk@10.0.0.2");
    assert_eq!(world.phones[0].requests(Method::Ack).len(), 1, "the 302 is acknowledged");
    world.act_on(1, |phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(
        (state(&world), world.appliances[0].engine.story().as_str()),
        ("established", "prepare start")
    );
    assert_eq!(world.appliances[0].agent.calls().next().unwrap().label().peer, "10.0.0.2:5060");
    world.act_on(1, |phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn a_contact_that_is_not_allowed_ends_the_call_with_the_302_and_says_why() {
    let mut world = dialled(1);
    send_on(&mut world, 0, &["<sip:+4990012345@203.0.113.9>"]);
    let end = "rejected (302 Moved Temporarily; not followed: it is not in sip.dial_allow)";
    assert_eq!(world.appliance().end().to_string(), end);
    assert_eq!(world.appliance().engine.story(), "prepare stop");
    world.end();
}

#[test]
fn contacts_are_tried_in_order_of_q_and_the_next_one_when_one_is_busy() {
    let mut world = dialled(2);
    send_on(&mut world, 0, &["<sip:b@10.0.0.3>;q=0.2, <sip:x@203.0.113.9>;q=1.0, <sip:a@10.0.0.2>;q=0.7"]);
    assert_eq!((rings(&world, 1), rings(&world, 2)), (1, 0));
    world.act_on(1, |phone| phone.reply(Method::Invite, 486, None));
    assert_eq!((rings(&world, 1), rings(&world, 2)), (1, 1));
    world.act_on(2, |phone| phone.reply(Method::Invite, 603, None));
    assert_eq!(world.appliance().end().to_string(), "rejected (603 Decline)");
    world.end();
}

#[test]
fn a_circle_is_left() {
    let mut world = dialled(1);
    send_on(&mut world, 0, &["<sip:a@10.0.0.2>"]);
    send_on(&mut world, 1, &["<sip:100@10.0.0.1:5060>"]);
    let end = world.appliance().end().to_string();
    assert!(end.ends_with("not followed: it leads in a circle)"), "{end}");
    world.end();
}

#[test]
fn after_five_places_it_is_enough() {
    let mut world = dialled(0);
    for round in 0..6 {
        send_on(&mut world, 0, &[&format!("<sip:n{round}@10.0.0.1>")]);
    }
    assert_eq!(rings(&world, 0), 6);
    let end = world.appliance().end().to_string();
    assert!(end.ends_with("not followed: the call has been sent on 5 times)"), "{end}");
    world.end();
}

#[test]
fn a_hang_up_while_the_next_place_is_looked_for_ends_the_call() {
    let mut settings = crate::world::settings();
    settings.dialling =
        eyeline::useragent::dialling::Dialling::new(vec!["sip:*@nowhere.example.com".to_owned()]);
    let mut world = World::with(settings);
    let call = world.dial(seconds(30));
    world.dns_is_silent = true;
    send_on(&mut world, 0, &["<sip:a@nowhere.example.com>"]);
    assert_eq!(state(&world), "ringing");
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    assert_eq!(*world.appliance().end(), EndReason::HungUp);
    world.end();
}
