//! Calls whose place must be found first, fails, or has several addresses; and peers that are asked whether they answer.

use eyeline::sip::{Hop, Method, Transport, Uri};
use eyeline::useragent::Dial;
use eyeline::useragent::admission::Admission;
use eyeline::useragent::peers::{Peer, Peers};

use crate::world::{World, audio_video, dial, seconds, settings};

/// Whether the peer of this name answered when it was last asked.
fn office_answers(world: &World) -> Option<bool> {
    world.appliances[0].agent.probed_peers().find(|(name, _)| *name == "office").expect("a peer with a uri").1
}

#[test]
fn a_uri_without_places_is_looked_up_and_called() {
    let mut world = World::new();
    let (here, there) = (world.appliances[0].address, world.phones[0].address);
    let wanted = Dial { hops: Vec::new(), ..dial(here, there, seconds(30)) };
    world.command(|agent, now| agent.dial(now, wanted));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(world.appliance().engine.story(), "prepare start");
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_name_that_leads_nowhere_ends_the_call_with_the_reason() {
    let mut world = World::new();
    let (here, there) = (world.appliances[0].address, world.phones[0].address);
    let to = Uri::parse("sip:100@nowhere.example").unwrap();
    let wanted = Dial { hops: Vec::new(), to, ..dial(here, there, seconds(30)) };
    world.command(|agent, now| agent.dial(now, wanted));
    let ended = world.appliance().end().to_string();
    assert!(ended.contains("nowhere.example"), "{ended}");
    assert!(world.phone().heard.is_empty());
    world.end();
}

#[test]
fn a_call_goes_to_the_next_place_when_the_first_says_nothing() {
    let mut world = World::new();
    let (here, there) = (world.appliances[0].address, world.phones[0].address);
    let hops = ["10.9.9.9:5060".parse().unwrap(), there].map(|place| Hop::to(Transport::Udp, place, here));
    let wanted = Dial { hops: hops.to_vec(), ..dial(here, there, seconds(30)) };
    world.command(|agent, now| agent.dial(now, wanted));
    world.run(seconds(3));
    assert!(world.phone().heard.is_empty());
    world.run(seconds(2));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    assert_eq!(world.phone().requests(Method::Ack).len(), 1);
    world.act(|phone| phone.bye());
    world.end();
}

#[test]
fn a_peer_with_a_uri_is_asked_whether_it_answers() {
    let phone = World::new().phones[0].address;
    let peer =
        Peer { name: "office".to_owned(), uri: Uri::parse(&format!("sip:{phone}")), ..Peer::default() };
    let admission = Admission::new(vec!["10.0.0.0/8".parse().unwrap()]).with_peers(Peers::new(vec![peer]));
    let mut world = World::with(eyeline::useragent::Settings { admission, ..settings() });
    assert_eq!(world.phones[0].address, phone);
    world.command(|agent, now| agent.handle_time(now));
    world.command(|agent, now| agent.handle_time(now));
    assert_eq!(world.phone().requests(Method::Options).len(), 1);
    assert_eq!(office_answers(&world), None);
    world.act(|phone| phone.reply(Method::Options, 404, None));
    assert_eq!(office_answers(&world), Some(true), "a refusal is an answer");
    world.run(seconds(31));
    assert!(world.phone().requests(Method::Options).len() > 1, "again after half a minute");
    world.run(seconds(35));
    assert_eq!(office_answers(&world), Some(false));
    world.command(|agent, _| agent.drain());
    world.end();
}
