//! How much is taken: calls a second, calls at one time, calls of one peer, and what the box can carry.

use eyeline::call::end::EndReason;
use eyeline::sip::Method;
use eyeline::useragent::Settings;
use eyeline::useragent::admission::Admission;
use eyeline::useragent::admission::capacity::Figures;
use eyeline::useragent::peers::{Peer, Peers};

use crate::phone::Phone;
use crate::world::{World, audio_video, ms, seconds, settings};

/// Statuses of calls by new phones, all at once.
fn call_at_once(world: &mut World, calls: usize) -> Vec<u16> {
    let phones: Vec<usize> = (0..calls).map(|_| world.add_phone()).collect();
    for phone in &phones {
        world.phones[*phone].invite("100", Some(&audio_video()));
    }
    world.run(ms(200));
    for phone in &phones {
        if world.phones[*phone].statuses(Method::Invite).contains(&200) {
            world.phones[*phone].ack(None);
        }
    }
    world.run(ms(200));
    phones.iter().filter_map(|phone| world.phones[*phone].statuses(Method::Invite).last().copied()).collect()
}

fn count(statuses: &[u16], status: u16) -> usize {
    statuses.iter().filter(|found| **found == status).count()
}

#[test]
fn a_burst_of_calls_is_spread_and_running_calls_stay() {
    let mut world = World::with(Settings { calls_per_second: 5, ..settings() });
    world.establish("100", &audio_video());
    let statuses = call_at_once(&mut world, 10);
    let taken = count(&statuses, 200);
    assert!((4..=5).contains(&taken) && count(&statuses, 503) == 10 - taken, "{statuses:?}");
    let refused = world.phones.iter().filter(|phone| phone.statuses(Method::Invite) == [503]);
    let later: Vec<u32> = refused
        .map(|phone| phone.response(Method::Invite).headers.value("Retry-After").unwrap().parse().unwrap())
        .collect();
    assert!(later.iter().all(|seconds| (5..=30).contains(seconds)), "{later:?}");
    assert!(later.iter().any(|seconds| *seconds != later[0]), "they do not come back together: {later:?}");
    world.run(seconds(2));
    assert_eq!(count(&call_at_once(&mut world, 5), 200), 5);
    assert_eq!(
        world.appliance().agent.calls().filter(|call| call.state_name() == "established").count(),
        taken + 6
    );
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::Shutdown));
    world.end();
}

#[test]
fn a_peer_may_have_its_own_number_of_calls_and_others_theirs() {
    let source = vec!["10.0.0.1/32".parse().unwrap()];
    let peer = Peer { name: "trunk".to_owned(), source, max_calls: 1, ..Peer::default() };
    let admission = Admission::new(vec!["10.0.0.0/8".parse().unwrap()]).with_peers(Peers::new(vec![peer]));
    let mut world = World::with(Settings { admission, busy: 486, ..settings() });
    world.phone().address = "10.0.0.1:5060".parse().unwrap();
    world.establish("100", &audio_video());
    let second = world.add_phone();
    world.phones[second].address = "10.0.0.1:5070".parse().unwrap();
    world.act_on(second, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[second].statuses(Method::Invite), [486]);
    let other = world.add_phone();
    world.phones[other].address = "10.0.0.9:5060".parse().unwrap();
    world.act_on(other, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[other].statuses(Method::Invite), [180, 200]);
    world.act_on(other, |phone| phone.ack(None));
    world.act_on(other, Phone::bye);
    world.act(Phone::bye);
    let again = world.add_phone();
    world.phones[again].address = "10.0.0.1:5080".parse().unwrap();
    world.act_on(again, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[again].statuses(Method::Invite), [180, 200]);
    world.act_on(again, |phone| phone.ack(None));
    world.act_on(again, Phone::bye);
    world.end();
}

#[test]
fn a_full_box_keeps_its_calls_and_takes_new_ones_when_there_is_room() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    let figures = |busy: f32| Figures { busy, own: busy, memory: 1 << 30, port_pairs: 100 };
    for _ in 0..5 {
        world.command(|agent, _| agent.observe(figures(0.95)));
    }
    let second = world.add_phone();
    world.act_on(second, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[second].statuses(Method::Invite), [503]);
    assert_eq!(world.appliance().agent.room(), (0, 1));
    assert_eq!(world.appliance().agent.calls().next().unwrap().state_name(), "established");
    for _ in 0..20 {
        world.command(|agent, _| agent.observe(figures(0.2)));
    }
    let third = world.add_phone();
    world.act_on(third, |phone| phone.invite("100", Some(&audio_video())));
    assert_eq!(world.phones[third].statuses(Method::Invite), [180, 200]);
    world.act_on(third, |phone| phone.ack(None));
    world.act_on(third, Phone::bye);
    world.act(Phone::bye);
    world.end();
}

#[test]
fn options_say_how_many_calls_fit() {
    let mut world = World::with(Settings { max_calls: 3, ..settings() });
    world.establish("100", &audio_video());
    let proxy = world.add_phone();
    world.phones[proxy].prepare_outside();
    world.act_on(proxy, |phone| phone.request("OPTIONS", None));
    let answer = world.phones[proxy].response(Method::Options);
    assert_eq!(answer.headers.value("X-Capacity"), Some("2/3"));
    world.command(|agent, _| agent.set_ready(false));
    world.act_on(proxy, |phone| phone.request("OPTIONS", None));
    assert_eq!(world.phones[proxy].statuses(Method::Options), [200, 503]);
    world.command(|agent, _| agent.set_ready(true));
    world.act_on(proxy, |phone| phone.request("OPTIONS", None));
    assert_eq!(world.phones[proxy].statuses(Method::Options), [200, 503, 200]);
    world.act(Phone::bye);
    world.end();
}
