//! Many calls at once on a bad network: whatever happens, every one of them ends once and leaves nothing.

use std::time::Instant;

use eyeline::call::end::EndReason;
use eyeline::engine::plan::{CallId, Event};
use eyeline::sip::Uri;
use eyeline::useragent::Dial;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::{Appliance, World, dial, ms, seconds, settings};

const CALLS: usize = 100;
const SEEDS: u64 = 20;

fn storm(seed: u64, loss: f64) -> World {
    let (caller, called) = (Appliance::new(1, settings(), seed), Appliance::new(2, settings(), seed));
    let mut world = World::of(vec![caller, called], seed);
    world.network.loss = loss;
    world.network.doubles = 0.05;
    world.network.delay = ms(1)..ms(300);
    world
}

/// One of the running calls of an appliance.
fn any_call(world: &World, appliance: usize, rng: &mut StdRng) -> Option<CallId> {
    let calls: Vec<CallId> = world.appliances[appliance].agent.calls().map(|call| call.id()).collect();
    (!calls.is_empty()).then(|| calls[rng.random_range(0..calls.len())])
}

/// Something a user, an operator or the engine does to a call.
fn disturb(appliance: &mut Appliance, now: Instant, call: CallId, rng: &mut StdRng) {
    match rng.random_range(0..10) {
        0..=1 => appliance.agent.hang_up(now, call, EndReason::HungUp),
        2..=4 => appliance.agent.hold(now, call),
        5..=6 => appliance.agent.resume(now, call),
        7 => appliance.engine.says(now, Event::WantsKey { call }),
        8 => appliance.engine.says(now, Event::MediaLost { call }),
        _ => appliance.engine.says(now, Event::Fault { call, text: "broken".to_owned() }),
    }
}

#[test]
fn a_hundred_calls_under_loss_all_end_once_and_leave_nothing() {
    let (mut answered, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = storm(seed, 0.2);
        let (here, there) = (world.appliances[0].address, world.appliances[1].address);
        for _ in 0..CALLS {
            let wanted = dial(here, there, ms(rng.random_range(500..30_000)));
            let now = world.now;
            world.appliances[0].agent.dial(now, wanted);
            world.appliances[1].engine.delay = ms(rng.random_range(0..3_000));
            world.run(ms(rng.random_range(0..200)));
            for side in 0..2 {
                let call = any_call(&world, side, &mut rng).filter(|_| rng.random_bool(0.4));
                if let Some(call) = call {
                    let now = world.now;
                    disturb(&mut world.appliances[side], now, call, &mut rng);
                }
            }
        }
        world.run(seconds(60));
        for side in 0..2 {
            let now = world.now;
            world.appliances[side].agent.hang_up_all(now, &EndReason::Shutdown);
        }
        world.end();
        assert_eq!(world.appliances[0].ended.len(), CALLS, "seed {seed}");
        let ended = world.appliances.iter().flat_map(|appliance| &appliance.ended);
        answered += ended.filter(|(_, ended)| ended.answered.is_some()).count();
        let ends = world.appliances[0].ended.iter();
        refused += ends.filter(|(_, ended)| ended.answered.is_none()).count();
    }
    // The storm is one: neither everything nor nothing got through.
    assert!(answered > 500 && refused > 20, "{answered} answered, {refused} not");
}

#[test]
fn under_loss_alone_almost_every_call_is_made() {
    let mut world = storm(99, 0.2);
    let (here, there) = (world.appliances[0].address, world.appliances[1].address);
    for _ in 0..CALLS {
        let now = world.now;
        world.appliances[0].agent.dial(now, dial(here, there, seconds(60)));
        world.run(ms(50));
    }
    world.run(seconds(40));
    let established = |appliance: &Appliance| {
        appliance.agent.calls().filter(|call| call.state_name() == "established").count()
    };
    assert!(established(&world.appliances[0]) >= CALLS - 2, "{}", established(&world.appliances[0]));
    assert_eq!(established(&world.appliances[0]), established(&world.appliances[1]));
    let now = world.now;
    world.appliances[0].agent.hang_up_all(now, &EndReason::Shutdown);
    world.end();
}

#[test]
fn under_loss_calls_that_are_looked_at_first_ring_reliably_and_are_made() {
    const EARLY: usize = 50;
    let mut world = storm(11, 0.2);
    let (here, there) = (world.appliances[0].address, world.appliances[1].address);
    let to = Uri::parse(&format!("sip:look@{there}")).unwrap();
    for _ in 0..EARLY {
        let now = world.now;
        world.appliances[0].agent.dial(now, Dial { to: to.clone(), ..dial(here, there, seconds(60)) });
        world.run(ms(50));
    }
    world.run(seconds(4));
    let count = |world: &World, state: &str| {
        let calls = world.appliances.iter().flat_map(|appliance| appliance.agent.calls());
        calls.filter(|call| call.state_name() == state).count()
    };
    assert!(count(&world, "early") > EARLY, "media flows before the answer: {}", count(&world, "early"));
    world.run(seconds(40));
    assert!(count(&world, "established") >= 2 * EARLY - 4, "{}", count(&world, "established"));
    let now = world.now;
    world.appliances[1].agent.hang_up_all(now, &EndReason::Shutdown);
    world.end();
}

#[test]
fn ten_thousand_calls_one_after_the_other_leave_nothing() {
    const IN_A_ROW: usize = 10_000;
    let mut world = storm(7, 0.0);
    world.network.doubles = 0.0;
    world.network.delay = ms(1)..ms(2);
    let (here, there) = (world.appliances[0].address, world.appliances[1].address);
    let mut open = 0;
    for number in 0..IN_A_ROW {
        let now = world.now;
        let call = world.appliances[0].agent.dial(now, dial(here, there, seconds(60)));
        world.run(ms(20));
        let (side, now) = (number % 2, world.now);
        let call = if side == 0 { call } else { any_established(&world) };
        world.appliances[side].agent.hang_up(now, call, EndReason::HungUp);
        world.run(ms(20));
        open = open.max(world.appliances[0].agent.calls().count());
    }
    world.end();
    assert!(open <= 1, "{open} calls at a time");
    for appliance in &world.appliances {
        let answered = appliance.ended.iter().filter(|(_, ended)| ended.answered.is_some()).count();
        assert_eq!(answered, IN_A_ROW);
    }
}

/// The called side's only running call.
fn any_established(world: &World) -> CallId {
    let calls = world.appliances[1].agent.calls().filter(|call| call.state_name() == "established");
    calls.last().expect("an established call").id()
}
