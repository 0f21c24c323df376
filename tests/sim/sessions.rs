//! Long calls: session timers of either side, UPDATE, a hundred holds, and what crosses what.

use eyeline::call::end::EndReason;
use eyeline::engine::plan::Direction;
use eyeline::sip::Method;
use eyeline::useragent::Settings;

use crate::world::{World, audio_only, audio_video, directed, ms, seconds, settings};

/// An appliance that refreshes often.
fn hasty() -> Settings {
    let mut settings = settings();
    (settings.sip.session_expires, settings.sip.min_se) = (seconds(100), seconds(90));
    settings
}

fn establish(world: &mut World, more: &str) {
    world.phone().more = more.to_owned();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.ack(None));
    assert_eq!(state(world), "established");
}

/// What the phone says of timers when it answers our refreshes.
const AGREED: &str =
    "Require: timer\r\nSession-Expires: 100;refresher=uac\r\nAllow: INVITE, ACK, BYE, UPDATE\r\n";

fn state(world: &World) -> &'static str {
    world.appliances[0].agent.calls().next().expect("a call").state_name()
}

fn hang_up(mut world: World) {
    world.act(|phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn twenty_refreshes_by_update_leave_the_call_as_it_was() {
    let mut world = World::with(hasty());
    establish(
        &mut world,
        "Supported: timer\r\nSession-Expires: 100;refresher=uas\r\nAllow: INVITE, ACK, BYE, UPDATE\r\n",
    );
    world.phone().more = AGREED.to_owned();
    world.run(seconds(1_001));
    assert_eq!(world.phone().requests(Method::Update).len(), 20);
    let update = world.phone().requests(Method::Update)[0].clone();
    assert_eq!(update.headers.value("Session-Expires"), Some("100;refresher=uac"));
    assert!(update.body.is_empty());
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn a_phone_without_update_is_refreshed_by_reinvites_with_the_description_that_stands() {
    let mut world = World::with(hasty());
    establish(
        &mut world,
        "Supported: timer\r\nSession-Expires: 100;refresher=uas\r\nAllow: INVITE, ACK, BYE\r\n",
    );
    let stands = world.phone().answer();
    world.phone().more = AGREED.replace(", UPDATE", "");
    for round in 0..20 {
        world.run(seconds(50));
        let invites = world.phone().requests(Method::Invite);
        assert_eq!(invites.len(), round + 1);
        assert_eq!(String::from_utf8_lossy(&invites[round].body), stands, "o= as it was");
        world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    }
    assert_eq!(world.phone().requests(Method::Ack).len(), 20);
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn a_phone_that_refreshes_by_itself_is_never_asked() {
    let mut world = World::with(hasty());
    let more =
        "Supported: timer\r\nSession-Expires: 100;refresher=uac\r\nAllow: INVITE, ACK, BYE, UPDATE\r\n";
    establish(&mut world, more);
    let granted = world.phone().response(Method::Invite).headers.value("Session-Expires").map(str::to_owned);
    assert_eq!(granted.as_deref(), Some("100;refresher=uac"));
    for round in 0..20 {
        world.run(seconds(45));
        if round % 2 == 0 {
            world.act(|phone| phone.request("UPDATE", None));
        } else {
            world.act(|phone| phone.reinvite(Some(&audio_video())));
            world.act(|phone| phone.ack(None));
        }
    }
    let ended = &world.appliances[0].ended;
    assert!(ended.is_empty(), "{ended:?} {:?}", world.phones[0].heard);
    assert!(
        world.phone().requests(Method::Update).is_empty()
            && world.phone().requests(Method::Invite).is_empty()
    );
    assert_eq!(world.appliance().engine.story(), "prepare start");
    hang_up(world);
}

#[test]
fn a_phone_that_stops_refreshing_is_hung_up() {
    let mut world = World::with(hasty());
    establish(&mut world, "Supported: timer\r\nSession-Expires: 100;refresher=uac\r\n");
    world.run(seconds(66));
    assert_eq!(world.appliance().ended.len(), 0);
    world.run(seconds(2));
    let bye = world.phone().requests(Method::Bye)[0].clone();
    assert!(bye.headers.value("Reason").unwrap().contains("session expired"));
    assert_eq!(*world.appliance().end(), EndReason::SessionExpired);
    world.end();
}

#[test]
fn a_phone_that_went_away_is_noticed_by_the_refresh() {
    let mut world = World::with(hasty());
    establish(&mut world, "Allow: INVITE, ACK, BYE, UPDATE\r\n");
    world.phone().polite = false;
    world.run(seconds(50 + 33));
    assert_eq!(*world.appliance().end(), EndReason::SessionExpired);
    world.end();
}

#[test]
fn a_callee_that_wants_longer_sessions_is_dialled_again_with_its_interval() {
    let mut world = World::with(hasty());
    world.dial(seconds(30));
    let invite = world.phone().requests(Method::Invite)[0].clone();
    assert_eq!(invite.headers.value("Session-Expires"), Some("100"));
    assert!(invite.headers.value("Supported").unwrap().contains("timer"));
    world.act(|phone| {
        phone.more = "Min-SE: 600\r\n".to_owned();
        phone.reply(Method::Invite, 422, None);
        phone.more = "Require: timer\r\nSession-Expires: 600;refresher=uac\r\nAllow: UPDATE\r\n".to_owned();
    });
    let invites = world.phone().requests(Method::Invite);
    assert_eq!(invites.len(), 2);
    assert_eq!(invites[1].headers.value("Session-Expires"), Some("600"));
    assert_eq!(invites[1].headers.value("Min-SE"), Some("600"));
    assert_eq!((invites[1].call_id(), invites[1].cseq().unwrap().number), (invites[0].call_id(), 2));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    world.run(seconds(301));
    assert_eq!(world.phone().requests(Method::Update).len(), 1);
    hang_up(world);
}

#[test]
fn an_update_moves_the_media_of_a_running_call() {
    let mut world = World::new();
    establish(&mut world, "");
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &directed("inactive")))));
    assert_eq!(world.phone().statuses(Method::Update), [200]);
    assert!(String::from_utf8_lossy(&world.phone().response(Method::Update).body).contains("a=inactive"));
    assert_eq!(world.appliance().updated().audio.as_ref().unwrap().route.direction, Direction::Inactive);
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", "rubbish"))));
    world.act(|phone| phone.request("UPDATE", Some(("text/plain", "hello"))));
    assert_eq!(world.phone().statuses(Method::Update), [200, 400, 415]);
    assert_eq!(world.appliance().engine.story(), "prepare start update", "what fails changes nothing");
    hang_up(world);
}

#[test]
fn an_update_that_adds_video_waits_for_its_port() {
    let mut world = World::new();
    world.establish("100", &audio_only());
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &audio_video()))));
    assert_eq!(world.phone().statuses(Method::Update), [200]);
    assert_eq!(world.appliance().engine.story(), "prepare start prepare update");
    hang_up(world);
}

#[test]
fn a_reinvite_moves_the_media_to_another_address_and_codec() {
    let mut world = World::new();
    establish(&mut world, "");
    let moved = audio_video()
        .replace("10.0.0.1", "10.0.0.9")
        .replace("RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\n", "RTP/AVP 0 101\r\n");
    world.act(|phone| phone.reinvite(Some(&moved)));
    world.act(|phone| phone.ack(None));
    let audio = world.appliance().updated().audio.clone().unwrap();
    assert_eq!(audio.codec.name(), "PCMU");
    assert_eq!(audio.route.remote, "10.0.0.9:4000".parse().ok());
    hang_up(world);
}

#[test]
fn before_a_late_ack_keys_are_taken() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.request("INFO", Some(("application/dtmf", "5"))));
    assert_eq!(world.phone().statuses(Method::Info), [200]);
    world.run(seconds(25));
    assert_eq!(state(&world), "answered");
    world.act(|phone| phone.ack(None));
    assert_eq!(state(&world), "established");
    hang_up(world);
}

#[test]
fn an_update_before_the_ack_is_answered() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", Some(&audio_video())));
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &directed("sendonly")))));
    assert_eq!(world.phone().statuses(Method::Update), [200]);
    world.act(|phone| phone.ack(None));
    assert_eq!(
        (world.appliances[0].engine.story().as_str(), state(&world)),
        ("prepare start update", "established")
    );
    hang_up(world);
}

#[test]
fn an_offer_of_theirs_before_the_answer_to_ours_is_refused_with_491() {
    let mut world = World::new();
    world.act(|phone| phone.invite("100", None));
    world.act(|phone| phone.request("UPDATE", Some(("application/sdp", &audio_video()))));
    assert_eq!(world.phone().statuses(Method::Update), [491]);
    world.act(|phone| phone.ack(Some(&audio_video())));
    assert_eq!(state(&world), "established");
    hang_up(world);
}

#[test]
fn a_hundred_rounds_of_hold_and_resume_in_both_styles() {
    let mut world = World::new();
    establish(&mut world, "");
    let old_style = audio_video().replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0");
    for round in 0..100 {
        let held = match round % 3 {
            0 => directed("sendonly"),
            1 => directed("inactive"),
            _ => old_style.clone(),
        };
        for (sdp, sends) in [(held, false), (audio_video(), true)] {
            world.act(|phone| phone.reinvite(Some(&sdp)));
            world.act(|phone| phone.ack(None));
            let audio = world.appliance().updated().audio.clone().unwrap();
            assert_eq!(audio.route.direction.sends(), sends, "round {round}");
        }
    }
    assert_eq!(world.phone().statuses(Method::Invite).iter().filter(|status| **status == 200).count(), 201);
    hang_up(world);
}

#[test]
fn a_hundred_rounds_of_hold_and_resume_from_our_side() {
    let mut world = World::new();
    establish(&mut world, "");
    let call = world.appliance().call();
    for _ in 0..100 {
        world.command(|agent, now| agent.hold(now, call));
        world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
        assert!(world.appliances[0].agent.calls().next().unwrap().is_held());
        world.command(|agent, now| agent.resume(now, call));
        world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
        assert!(!world.appliances[0].agent.calls().next().unwrap().is_held());
    }
    hang_up(world);
}

#[test]
fn a_bye_that_crosses_a_reinvite_ends_both() {
    let mut world = World::new();
    establish(&mut world, "");
    let call = world.appliance().call();
    world.command(|agent, now| agent.hold(now, call));
    world.act(|phone| phone.bye());
    assert_eq!(world.phone().statuses(Method::Bye), [200]);
    world.act(|phone| phone.reply(Method::Invite, 481, None));
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn a_refresh_waits_for_a_renewed_offer_that_is_on_its_way() {
    let mut world = World::with(hasty());
    establish(&mut world, "Supported: timer\r\nSession-Expires: 100;refresher=uas\r\nAllow: UPDATE\r\n");
    world.phone().more = AGREED.to_owned();
    world.run(seconds(49) - ms(100));
    let call = world.appliance().call();
    world.command(|agent, now| agent.hold(now, call));
    world.run(seconds(10));
    assert!(world.phone().requests(Method::Update).is_empty());
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&directed("recvonly"))));
    // The re-INVITE was the refresh.
    world.run(seconds(48));
    assert!(world.phone().requests(Method::Update).is_empty());
    world.run(seconds(3));
    assert_eq!(world.phone().requests(Method::Update).len(), 1);
    hang_up(world);
}

#[test]
fn a_reason_of_the_peer_is_kept_with_the_call() {
    let mut world = World::new();
    establish(&mut world, "");
    world.act(|phone| {
        phone.more = "Reason: Q.850;cause=17;text=\"busy\"\r\n".to_owned();
        phone.bye();
    });
    let said = world.appliances[0].ended[0].1.peer_reason.clone().map(|said| said.to_string());
    assert_eq!(said.as_deref(), Some("Q.850 17: busy"));
    world.end();
}
