//! Who is who: users that prove themselves and register here, and accounts of ours elsewhere.

use std::time::Duration;

use eyeline::call::end::EndReason;
use eyeline::sip::digest::client::{Attempts, Client};
use eyeline::sip::digest::{Credentials, server};
use eyeline::sip::message::{Message, RequestMessage, ResponseMessage};
use eyeline::sip::parse::parse;
use eyeline::sip::register::State;
use eyeline::sip::{self, Method, Strangers, Uri};
use eyeline::useragent::accounts::Account;
use eyeline::useragent::{Dial, Settings, Way, registrar};

use crate::phone::Phone;
use crate::world::{World, audio_video, dial, ms, seconds, settings};

const USERS: [&str; 2] = ["door1", "door2"];

/// An office with two users, and strangers who are asked for proof.
fn office() -> Settings {
    let user = |name: &&str| server::User { name: (*name).to_owned(), password: "s3cret".to_owned() };
    let listed = |name: &&str| registrar::User { name: (*name).to_owned(), display_name: String::new() };
    Settings {
        sip: sip::Settings {
            strangers: Strangers::Challenge,
            realm: "office".to_owned(),
            users: USERS.iter().map(user).collect(),
            ..sip::Settings::default()
        },
        registrar: registrar::Settings {
            users: USERS.iter().map(listed).collect(),
            domains: vec!["office".to_owned()],
            ..registrar::Settings::default()
        },
        ..settings()
    }
}

/// An appliance with an account at the first phone's address.
fn with_account(realm: Option<&str>) -> Settings {
    let account = Account {
        name: "pbx".to_owned(),
        registrar: Uri::parse("sip:10.0.0.1").unwrap(),
        username: "200".to_owned(),
        password: "s3cret".to_owned(),
        realm: realm.map(str::to_owned),
        display_name: "Reception".to_owned(),
        expires: seconds(300),
        outbound_proxy: None,
        instance: "urn:uuid:1".to_owned(),
        srtp: None,
        key_offer: None,
    };
    Settings { accounts: vec![account], ..settings() }
}

fn client(username: &str, password: &str) -> Client {
    let realms = vec!["office".to_owned()];
    Client::new(Credentials { username: username.to_owned(), password: password.to_owned(), realms })
}

/// A request of a phone outside any call.
fn request(phone: &Phone, method: &str, uri: &str, number: u32, more: &str) -> RequestMessage {
    let address = phone.address;
    let text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch=z9hG4bK{method}{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:door1@office>;tag=f\r\nTo: <sip:door1@office>\r\n\
         Call-ID: c-{address}\r\nCSeq: {number} {method}\r\nContact: <sip:door1@{address}>\r\n\
         User-Agent: a door station with a name of usual length\r\n{more}Content-Length: 0\r\n\r\n"
    );
    match parse(text.as_bytes()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// The same with proof for the last challenge the phone heard.
fn proven(phone: &Phone, client: &mut Client, request: &RequestMessage) -> RequestMessage {
    let mut request = request.clone();
    let challenge = phone.response(request.method.clone());
    assert_eq!(challenge.status, 401);
    let answers = client.answer(&challenge.headers, &mut Attempts::default(), &request, "c").unwrap();
    for (name, value) in answers {
        request.headers.push(name, value);
    }
    request
}

/// Registers the phone as `door1`; says every status it heard.
fn register(world: &mut World, phone: usize, client: &mut Client, more: &str) -> Vec<u16> {
    let number = 10 * (1 + world.phones[phone].statuses(Method::Register).len() as u32);
    let first = request(&world.phones[phone], "REGISTER", "sip:office", number, more);
    world.act_on(phone, |phone| phone.outbox.push(first.to_bytes()));
    let second = request(&world.phones[phone], "REGISTER", "sip:office", number + 1, more);
    let second = proven(&world.phones[phone], client, &second);
    world.act_on(phone, |phone| phone.outbox.push(second.to_bytes()));
    world.phones[phone].statuses(Method::Register)
}

fn dial_door(world: &mut World) {
    let here = world.appliances[0].address;
    let door = Uri::parse("sip:door1@office").unwrap();
    let dial = Dial { to: door, hops: Vec::new(), ..dial(here, here, seconds(30)) };
    world.command(|agent, now| agent.dial(now, dial));
}

#[test]
fn a_door_registers_with_its_password_and_is_called_by_name() {
    let mut world = World::with(office());
    dial_door(&mut world);
    assert_eq!(world.appliance().end().to_string(), "rejected (480 door1 is not registered)");
    world.appliance().ended.clear();
    assert_eq!(register(&mut world, 0, &mut client("door1", "s3cret"), "Expires: 600\r\n"), [401, 200]);
    let listed = world.phone().response(Method::Register).headers.value("Contact").unwrap().to_owned();
    assert_eq!(listed, "<sip:door1@10.0.0.1:5060>;expires=600");
    dial_door(&mut world);
    let invite = world.phone().requests(Method::Invite)[0].clone();
    assert_eq!(invite.uri.to_string(), "sip:door1@10.0.0.1:5060");
    assert_eq!(invite.headers.value("To"), Some("<sip:door1@office>"));
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    world.run(seconds(1));
    assert_eq!(world.appliance().agent.calls().next().unwrap().state_name(), "established");
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::HungUp));
}

#[test]
fn wrong_passwords_and_unknown_names_get_the_same_answer() {
    let mut answers = Vec::new();
    for (name, password) in [("door1", "guess"), ("nobody", "guess"), ("door2", "")] {
        let mut world = World::with(office());
        assert_eq!(register(&mut world, 0, &mut client(name, password), ""), [401, 403]);
        answers.push(world.phone().response(Method::Register).to_bytes());
        assert_eq!(world.appliance().agent.sip_counters().proofs_refused, 1);
        dial_door(&mut world);
        assert_eq!(world.appliance().end().to_string(), "rejected (480 door1 is not registered)");
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "what differs tells who exists");
}

#[test]
fn a_user_cannot_register_another_one() {
    let mut world = World::with(office());
    assert_eq!(register(&mut world, 0, &mut client("door2", "s3cret"), ""), [401, 403]);
    dial_door(&mut world);
    assert_eq!(world.appliance().end().to_string(), "rejected (480 door1 is not registered)");
}

#[test]
fn a_proof_that_was_overheard_is_worth_nothing() {
    let mut world = World::with(office());
    register(&mut world, 0, &mut client("door1", "s3cret"), "");
    let sent = request(world.phone(), "REGISTER", "sip:office", 30, "");
    world.act(|phone| phone.outbox.push(sent.to_bytes()));
    let genuine = proven(world.phone(), &mut client("door1", "s3cret"), &sent);
    let mut first = genuine.clone();
    first.headers.set("CSeq", "31 REGISTER");
    first.headers.set("Via", "SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKfirst");
    let mut replayed = genuine;
    replayed.headers.set("CSeq", "32 REGISTER");
    replayed.headers.set("Via", "SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKreplayed");
    replayed.headers.set("Contact", "<sip:thief@10.0.0.66>");
    world.act(|phone| phone.outbox.push(first.to_bytes()));
    world.act(|phone| phone.outbox.push(replayed.to_bytes()));
    assert_eq!(world.phone().statuses(Method::Register), [401, 200, 401, 200, 403]);
    dial_door(&mut world);
    assert_eq!(world.phone().requests(Method::Invite)[0].uri.to_string(), "sip:door1@10.0.0.1:5060");
}

#[test]
fn a_stranger_is_asked_once_and_costs_nothing_until_it_proves_itself() {
    let mut world = World::with(office());
    world.phone().address = "203.0.113.9:5060".parse().unwrap();
    let uri = "sip:100@192.0.2.1:5060";
    let mut invite = request(world.phone(), "INVITE", uri, 1, "Content-Type: application/sdp\r\n");
    invite.body = audio_video().into_bytes();
    world.act(|phone| phone.outbox.push(invite.to_bytes()));
    assert_eq!(world.phone().statuses(Method::Invite), [401]);
    let answer = world.phone().response(Method::Invite).clone();
    assert!(answer.to_bytes().len() <= invite.to_bytes().len(), "nothing is amplified");
    assert_eq!(world.appliance().agent.sip_open(), (0, 0), "nothing is remembered");
    let mut renewed = request(world.phone(), "INVITE", uri, 2, "");
    renewed.body = audio_video().into_bytes();
    renewed.headers.push("Content-Type", "application/sdp");
    let renewed = proven(world.phone(), &mut client("door1", "s3cret"), &renewed);
    world.act(|phone| phone.outbox.push(renewed.to_bytes()));
    assert_eq!(world.phone().statuses(Method::Invite), [401, 180, 200]);
    assert_eq!(world.appliance().agent.calls().next().unwrap().label().from, "door1");
    let counters = *world.appliance().agent.sip_counters();
    assert_eq!((counters.challenges, counters.proofs_refused), (1, 0));
}

#[test]
fn a_short_request_of_a_stranger_is_not_answered_with_a_longer_one() {
    let mut world = World::with(office());
    world.phone().address = "203.0.113.9:5060".parse().unwrap();
    let text = "OPTIONS sip:a@h SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK1\r\n\
                From: <sip:a@h>;tag=1\r\nTo: <sip:a@h>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n";
    world.act(|phone| phone.outbox.push(text.as_bytes().to_vec()));
    world.run(seconds(40));
    assert!(world.phone().heard.is_empty());
    world.end();
}

/// Two phones of one user, both called.
fn ringing_twice() -> World {
    let mut world = World::with(office());
    let second = world.add_phone();
    register(&mut world, 0, &mut client("door1", "s3cret"), "");
    register(&mut world, second, &mut client("door1", "s3cret"), "");
    dial_door(&mut world);
    for phone in [0, second] {
        assert_eq!(world.phones[phone].requests(Method::Invite).len(), 1, "both at once");
        world.act_on(phone, |phone| phone.reply(Method::Invite, 180, None));
    }
    world
}

#[test]
fn every_contact_rings_and_the_first_that_answers_has_the_call() {
    for first in [0, 1] {
        let mut world = ringing_twice();
        world.act_on(first, |phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
        let other = 1 - first;
        let cancel = world.phones[other].requests(Method::Cancel)[0].clone();
        assert!(cancel.headers.value("Reason").unwrap().contains("cause=200"), "completed elsewhere");
        world.act_on(other, |phone| phone.reply(Method::Cancel, 200, None));
        world.act_on(other, |phone| phone.reply(Method::Invite, 487, None));
        world.run(seconds(1));
        let peer = world.phones[first].address.to_string();
        let call = world.appliance().agent.calls().next().unwrap();
        assert_eq!((call.state_name(), &call.label().peer), ("established", &peer));
        world.command(|agent, now| agent.hang_up_all(now, &EndReason::HungUp));
        assert_eq!(world.phones[first].requests(Method::Bye).len(), 1);
        assert!(world.phones[other].requests(Method::Bye).is_empty());
        world.end();
    }
}

#[test]
fn two_that_answer_at_once_make_one_call() {
    let mut world = ringing_twice();
    world.act_on(0, |phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    // It has not heard of the CANCEL yet.
    world.act_on(1, |phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    world.run(seconds(1));
    assert_eq!(world.appliance().agent.calls().count(), 1);
    assert_eq!(world.phones[1].requests(Method::Ack).len(), 1, "acknowledged");
    assert_eq!(world.phones[1].requests(Method::Bye).len(), 1, "and hung up");
    assert!(world.phones[0].requests(Method::Bye).is_empty());
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::HungUp));
    world.end();
}

#[test]
fn a_call_to_several_contacts_fails_when_the_last_refuses_and_a_decline_counts_for_all() {
    for (first, second, status) in [(486, 480, 486), (480, 486, 486), (480, 503, 480)] {
        let mut world = ringing_twice();
        world.act_on(0, |phone| phone.reply(Method::Invite, first, None));
        assert_eq!(world.appliance().agent.calls().filter(|call| call.is_live()).count(), 1);
        world.act_on(1, |phone| phone.reply(Method::Invite, second, None));
        assert_eq!(world.appliance().end().status().0, status, "{first} {second}");
        world.end();
    }
    let mut world = ringing_twice();
    world.act_on(1, |phone| phone.reply(Method::Invite, 603, None));
    assert_eq!(world.phones[0].requests(Method::Cancel).len(), 1);
    world.act_on(0, |phone| phone.reply(Method::Cancel, 200, None));
    world.act_on(0, |phone| phone.reply(Method::Invite, 487, None));
    assert_eq!(world.appliance().end().status().0, 603);
    world.end();
}

#[test]
fn a_call_to_several_contacts_is_given_up_at_all_of_them() {
    let mut world = ringing_twice();
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::HungUp));
    for phone in [0, 1] {
        assert_eq!(world.phones[phone].requests(Method::Cancel).len(), 1);
        world.act_on(phone, |phone| phone.reply(Method::Cancel, 200, None));
        world.act_on(phone, |phone| phone.reply(Method::Invite, 487, None));
    }
    world.end();
}

// Accounts of ours. The first phone plays the registrar.

fn begin(realm: Option<&str>) -> World {
    let mut world = World::with(with_account(realm));
    world.command(|agent, now| agent.register_accounts(now));
    world
}

/// Repeats left out.
fn registers(world: &World) -> Vec<RequestMessage> {
    let mut sent: Vec<RequestMessage> =
        world.phones[0].requests(Method::Register).into_iter().cloned().collect();
    sent.dedup_by_key(|request| request.cseq().unwrap().number);
    sent
}

fn answer(world: &mut World, request: &RequestMessage, status: u16, lines: &[(&str, &str)]) {
    let mut response = ResponseMessage::answering(request, status);
    let mut to = request.to().unwrap();
    if to.tag().is_none() {
        to.set_tag("registrar");
    }
    response.headers.set("To", to.to_string());
    for (name, value) in lines {
        response.headers.push(name, *value);
    }
    world.act(|phone| phone.outbox.push(response.to_bytes()));
}

fn answer_last(world: &mut World, status: u16, lines: &[(&str, &str)]) {
    let last = registers(world).pop().expect("a REGISTER");
    answer(world, &last, status, lines);
}

fn states(world: &World) -> Vec<&State> {
    world.appliances[0].registrations.iter().map(|(_, state)| state).collect()
}

/// Registers, answering one challenge.
fn registered(realm: Option<&str>) -> World {
    let mut world = begin(realm);
    let nonce = "Digest realm=\"office\",nonce=\"n1\",qop=\"auth\"";
    answer_last(&mut world, 401, &[("WWW-Authenticate", nonce)]);
    answer_last(&mut world, 200, &[("Expires", "300")]);
    assert!(states(&world).last().unwrap().is_registered());
    world
}

fn leave(mut world: World) {
    world.command(|agent, now| {
        agent.drain();
        agent.handle_time(now);
    });
    let last = registers(&world).pop().unwrap();
    if last.headers.value("Expires") == Some("0") {
        answer(&mut world, &last, 200, &[]);
    }
    world.run(seconds(5));
    assert_eq!(states(&world).last(), Some(&&State::Gone));
    world.end();
}

#[test]
fn an_account_registers_proves_itself_refreshes_and_takes_leave() {
    let mut world = registered(None);
    let sent = registers(&world);
    assert_eq!(sent.len(), 2);
    assert_eq!(
        sent[0].headers.value("From").unwrap().split(';').next(),
        Some("\"Reception\" <sip:200@10.0.0.1>")
    );
    let contact = sent[1].headers.value("Contact").unwrap();
    assert!(
        contact.starts_with("<sip:200@192.0.2.1:5060>;+sip.instance=\"<urn:uuid:1>\";reg-id=1"),
        "{contact}"
    );
    let proof = sent[1].headers.value("Authorization").unwrap();
    assert!(proof.contains("username=\"200\",realm=\"office\"") && proof.contains("nc=00000001"), "{proof}");
    assert!(sent[1].cseq().unwrap().number > sent[0].cseq().unwrap().number);
    assert_eq!(sent[0].call_id(), sent[1].call_id());
    world.run(seconds(55));
    assert_eq!(registers(&world).len(), 3, "over datagrams more often than the lifetime asks for");
    answer_last(&mut world, 200, &[("Expires", "300")]);
    leave(world);
}

#[test]
fn a_registrar_that_restarts_is_found_again_within_a_minute() {
    let mut world = registered(None);
    world.network.lose(|text| text.starts_with("REGISTER"));
    world.run(seconds(600));
    assert!(matches!(states(&world).last(), Some(State::Failed { status: 408, .. })), "{:?}", states(&world));
    let before = registers(&world).len();
    world.network.lose(|_| false);
    let back = world.now;
    while registers(&world).len() == before {
        world.run(ms(100));
        assert!(world.now - back <= seconds(60), "nobody came back");
    }
    answer_last(&mut world, 200, &[("Expires", "300")]);
    assert!(states(&world).last().unwrap().is_registered());
    leave(world);
}

#[test]
fn a_lifetime_that_is_too_brief_is_asked_longer() {
    let mut world = begin(None);
    answer_last(&mut world, 423, &[("Min-Expires", "1200")]);
    let sent = registers(&world);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1].headers.value("Expires"), Some("1200"));
    answer_last(&mut world, 200, &[("Expires", "1200")]);
    assert!(states(&world).last().unwrap().is_registered());
    leave(world);
}

#[test]
fn a_busy_registrar_says_when_it_may_be_asked_again() {
    let mut world = begin(None);
    answer_last(&mut world, 503, &[("Retry-After", "120")]);
    world.run(seconds(119));
    assert_eq!(registers(&world).len(), 1);
    world.run(seconds(26));
    assert_eq!(registers(&world).len(), 2);
    answer_last(&mut world, 200, &[("Expires", "300")]);
    leave(world);
}

#[test]
fn a_registrar_that_asks_for_ever_gets_two_answers() {
    let mut world = begin(None);
    for round in 0..6 {
        let nonce = format!("Digest realm=\"office\",nonce=\"{round}\",stale=true");
        answer_last(&mut world, 401, &[("WWW-Authenticate", &nonce)]);
        world.run(seconds(1));
    }
    assert_eq!(registers(&world).len(), 3, "one answer, and one more for a nonce that was said to be old");
    assert!(matches!(states(&world).last(), Some(State::Failed { status: 401, .. })));
    world.run(seconds(290));
    assert_eq!(registers(&world).len(), 3, "a wrong password is not tried again soon");
    leave(world);
}

#[test]
fn no_other_realm_gets_anything() {
    let evil = |lines: &str| format!("Digest realm=\"evil\",nonce=\"1\"{lines}");
    let mut world = begin(Some("office"));
    answer_last(&mut world, 401, &[("WWW-Authenticate", &evil(""))]);
    assert_eq!(registers(&world).len(), 1);
    leave(world);
    // The first realm that took us is kept.
    let mut world = registered(None);
    world.run(seconds(55));
    answer_last(&mut world, 401, &[("WWW-Authenticate", &evil(""))]);
    assert_eq!(registers(&world).len(), 3);
    assert!(
        registers(&world).iter().all(|sent| !sent
            .headers
            .value("Authorization")
            .unwrap_or("")
            .contains("evil"))
    );
    leave(world);
}

fn dial_over_account(world: &mut World) {
    let (here, pbx) = (world.appliances[0].address, world.phones[0].address);
    let to = Uri::parse("sip:300@10.0.0.1").unwrap();
    let dial = Dial { to, hops: Vec::new(), way: Way::over("pbx"), ..dial(here, pbx, seconds(30)) };
    world.command(|agent, now| agent.dial(now, dial));
}

#[test]
fn a_call_over_an_account_answers_the_proxy_and_ends_with_proof() {
    let mut world = registered(None);
    dial_over_account(&mut world);
    let challenge = "Digest realm=\"office\",nonce=\"p1\",qop=\"auth\",algorithm=SHA-256";
    let first = world.phones[0].requests(Method::Invite)[0].clone();
    assert_eq!(
        first.headers.value("From").unwrap().split(';').next(),
        Some("\"Reception\" <sip:200@10.0.0.1>")
    );
    answer(&mut world, &first, 407, &[("Proxy-Authenticate", challenge)]);
    let second = world.phones[0].requests(Method::Invite)[1].clone();
    let proof = second.headers.value("Proxy-Authorization").unwrap();
    assert!(proof.contains("algorithm=SHA-256") && proof.contains("uri=\"sip:300@10.0.0.1\""), "{proof}");
    assert_eq!(second.cseq().unwrap().number, 2);
    assert_eq!(second.from().unwrap().tag(), first.from().unwrap().tag());
    world.act(|phone| phone.reply(Method::Invite, 200, Some(&audio_video())));
    let ack = world.phones[0].requests(Method::Ack).last().unwrap().headers.clone();
    assert_eq!(ack.value("Proxy-Authorization"), Some(proof));
    world.phone().polite = false;
    world.command(|agent, now| agent.hang_up_all(now, &EndReason::HungUp));
    let bye = world.phones[0].requests(Method::Bye)[0].clone();
    answer(&mut world, &bye, 407, &[("Proxy-Authenticate", challenge)]);
    let again = world.phones[0].requests(Method::Bye)[1].clone();
    assert!(again.headers.value("Proxy-Authorization").unwrap().contains("nc=00000002"));
    assert!(again.cseq().unwrap().number > bye.cseq().unwrap().number);
    answer(&mut world, &again, 200, &[]);
    assert_eq!(world.appliance().end(), &EndReason::HungUp);
    leave(world);
}

#[test]
fn a_call_over_an_account_does_not_prove_itself_to_another_realm() {
    let mut world = registered(None);
    dial_over_account(&mut world);
    let invite = world.phones[0].requests(Method::Invite)[0].clone();
    answer(&mut world, &invite, 407, &[("Proxy-Authenticate", "Digest realm=\"evil\",nonce=\"1\"")]);
    assert_eq!(world.phones[0].requests(Method::Invite).len(), 1);
    assert!(world.appliance().end().to_string().starts_with("rejected (407"));
    leave(world);
}

#[test]
fn a_challenge_inside_a_call_that_somebody_else_began_is_not_answered() {
    let mut world = registered(Some("office"));
    world.establish("100", &audio_video());
    let call = world.appliance().call();
    world.command(|agent, now| agent.hold(now, call));
    let reinvite = world.phones[0].requests(Method::Invite)[0].clone();
    let challenge = "Digest realm=\"office\",nonce=\"1\",qop=\"auth\"";
    answer(&mut world, &reinvite, 407, &[("Proxy-Authenticate", challenge)]);
    world.run(Duration::from_secs(2));
    assert_eq!(world.phones[0].requests(Method::Invite).len(), 1, "the hold failed, and nothing was proven");
    world.phone().polite = false;
    world.command(|agent, now| agent.hang_up(now, call, EndReason::HungUp));
    let bye = world.phones[0].requests(Method::Bye)[0].clone();
    answer(&mut world, &bye, 401, &[("WWW-Authenticate", challenge)]);
    assert_eq!(world.phones[0].requests(Method::Bye).len(), 1);
    let proven = world.phones[0].heard.iter().any(|(_, message)| match message {
        Message::Request(request) => {
            request.method != Method::Register
                && (request.headers.value("Authorization").is_some()
                    || request.headers.value("Proxy-Authorization").is_some())
        }
        Message::Response(_) => false,
    });
    assert!(!proven, "no credentials for whoever called us");
    leave(world);
}
