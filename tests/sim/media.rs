//! Which media a call has: bodies in parts, shared screens, protected lines, and offers that take everything away.

use eyeline::call::Tell;
use eyeline::call::end::EndReason;
use eyeline::engine::plan::{Direction, Protection, Streams};
use eyeline::sip::Method;

use crate::world::{World, audio_only, audio_video, seconds};

const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n";
const KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIz";
const SCREEN: &str =
    "m=video 4004 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\na=content:slides\r\na=sendonly\r\n";

fn protected(key: &str) -> String {
    format!("{HEAD}m=audio 4000 RTP/SAVP 8\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}\r\n")
}

fn in_parts(kind: &str, text: &str) -> String {
    format!(
        "--part\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n\
         <recording/>\r\n--part\r\nContent-Type: {kind}\r\n\r\n{text}\r\n--part--\r\n"
    )
}

fn ports(world: &World) -> Vec<u16> {
    world.phones[0].described().media.iter().map(|line| line.port).collect()
}

fn protection(streams: &Streams) -> &Protection {
    &streams.audio.as_ref().unwrap().route.protection
}

fn hang_up(mut world: World) {
    world.act(|phone| phone.bye());
    assert_eq!(*world.appliance().end(), EndReason::PeerHungUp);
    world.end();
}

#[test]
fn an_offer_between_other_parts_is_answered() {
    for kind in ["multipart/mixed;boundary=part", "multipart/alternative; boundary=\"part\""] {
        let mut world = World::new();
        let body = in_parts("application/sdp", &audio_only());
        world.act(|phone| phone.invite_with("100", (kind, &body)));
        assert_eq!(ports(&world), [20_000], "{kind}");
        world.act(|phone| phone.ack(None));
        world.run(seconds(1));
        hang_up(world);
    }
}

#[test]
fn parts_without_an_offer_are_refused_as_the_wrong_kind() {
    let mut world = World::new();
    let body = in_parts("text/plain", "hello");
    world.act(|phone| phone.invite_with("100", ("multipart/mixed;boundary=part", &body)));
    let response = world.phone().response(Method::Invite);
    assert_eq!(response.status, 415);
    assert!(response.headers.value("Accept").is_some_and(|accept| accept.contains("application/sdp")));
    world.run(seconds(40));
}

#[test]
fn an_offer_that_takes_everything_away_is_answered_and_media_may_come_back() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    let nothing = audio_video().replace("audio 4000", "audio 0").replace("video 4002", "video 0");
    world.act(|phone| phone.reinvite(Some(&nothing)));
    world.act(|phone| phone.ack(None));
    assert_eq!(ports(&world), [0, 0]);
    assert_eq!(*world.appliance().updated(), Streams::default());
    world.run(seconds(20));
    world.act(|phone| phone.reinvite(Some(&audio_video())));
    world.act(|phone| phone.ack(None));
    assert!(ports(&world).iter().all(|port| *port > 0), "{:?}", ports(&world));
    assert!(world.appliance().updated().video.is_some());
    hang_up(world);
}

#[test]
fn a_screen_is_shown_and_taken_away_inside_a_call() {
    let mut world = World::new();
    world.establish("100", &audio_video());
    assert!(world.appliance().streams().slides.is_none());
    world.act(|phone| phone.reinvite(Some(&format!("{}{SCREEN}", audio_video()))));
    world.act(|phone| phone.ack(None));
    let slides = world.appliance().updated().slides.clone().unwrap();
    assert_eq!(slides.route.direction, Direction::ReceiveOnly);
    assert_eq!(ports(&world).len(), 3);
    assert!(world.phone().answer().ends_with("a=recvonly\r\na=content:slides\r\n"));
    let gone = format!("{}{}", audio_video(), SCREEN.replace("4004", "0"));
    world.act(|phone| phone.reinvite(Some(&gone)));
    world.act(|phone| phone.ack(None));
    assert!(world.appliance().updated().slides.is_none() && world.appliance().updated().video.is_some());
    let told = world.appliance().told.iter();
    assert_eq!(told.filter(|(_, tell)| matches!(tell, Tell::Updated { .. })).count(), 2);
    hang_up(world);
}

#[test]
fn a_route_without_slides_refuses_the_screen_alone() {
    let mut world = World::new();
    world.establish("audio", &format!("{}{SCREEN}", audio_video()));
    assert_eq!(ports(&world)[1..], [0, 0]);
    hang_up(world);
}

#[test]
fn a_protected_call_is_never_continued_in_the_clear() {
    let mut world = World::new();
    world.establish("100", &protected(KEY));
    let before = protection(world.appliance().streams()).clone();
    assert!(matches!(before, Protection::Sdes(_)));
    let plain = protected(KEY)
        .replace("SAVP", "AVP")
        .lines()
        .filter(|line| !line.contains("crypto"))
        .fold(String::new(), |text, line| text + line + "\r\n");
    world.act(|phone| phone.reinvite(Some(&plain)));
    assert_eq!(world.phone().response(Method::Invite).status, 488);
    world.act(|phone| phone.reinvite(Some(&protected(KEY))));
    world.act(|phone| phone.ack(None));
    assert_eq!(world.appliance().engine.story(), "prepare start", "nothing changed for the engine");
    hang_up(world);
}
