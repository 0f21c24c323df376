//! Calls that are sent elsewhere, made and steered by an application, with real phones at the other ends.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::appliance::Appliance;
use crate::harness::baresip::{Baresip, Settings};
use crate::harness::uac::Caller;
use crate::harness::{turn, wait_for};

/// A baresip that takes calls, sound only.
fn phone() -> Baresip {
    Baresip::start(&Settings { answers: true, clip: None, ..Settings::default() })
}

/// An appliance that may call these URIs.
fn appliance(allowed: &[String]) -> Appliance {
    let allow = format!("sip.dial_allow={}", json!(allowed));
    Appliance::start(&[&allow, "recording.enabled=true"])
}

fn soon() -> Duration {
    Duration::from_secs(8)
}

fn state(appliance: &Appliance, id: &str) -> Value {
    appliance.api("GET", &format!("/api/v1/calls/{id}"), "").1
}

/// Waits until the call has an event of this kind; its data.
fn event(appliance: &Appliance, id: &str, kind: &str) -> Value {
    let found = wait_for(soon(), || {
        let call = state(appliance, id);
        call["events"].as_array()?.iter().rev().find(|event| event["kind"] == kind).cloned()
    });
    found.unwrap_or_else(|| panic!("{kind} in {}; {}", state(appliance, id), appliance.process.last_words()))
        ["data"]
        .clone()
}

fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let wanted = format!("{}:", name.to_ascii_lowercase());
    message
        .lines()
        .find(|line| line.to_ascii_lowercase().starts_with(&wanted))
        .map(|line| line[wanted.len()..].trim())
}

#[test]
fn a_caller_sends_its_call_to_a_phone_that_may_be_called() {
    let _turn = turn();
    let mut callee = phone();
    let appliance = appliance(&[callee.uri()]);
    let mut caller = Caller::new(&appliance.uri());
    let answer = caller.invite(&caller.offer(None));
    assert_eq!(answer.status, 200);

    let refused = caller.ask("REFER", "Refer-To: <sip:+900123456@127.0.0.1:5999>\r\n", "");
    assert!(refused.starts_with("SIP/2.0 403"), "{refused}");
    assert!(header(&refused, "Warning").is_some_and(|text| text.contains("dial_allow")), "{refused}");

    let taken = caller.ask(
        "REFER",
        &format!("Refer-To: <{}>\r\nReferred-By: <sip:boss@example.com>\r\n", callee.uri()),
        "",
    );
    assert!(taken.starts_with("SIP/2.0 202"), "{taken}");
    let mut news = Vec::new();
    while news.last().is_none_or(|last: &String| !last.contains("terminated")) {
        let notify = caller.is_asked("NOTIFY", "200 OK", "", soon());
        news.push(
            notify.unwrap_or_else(|| panic!("news after {news:?}; {}", appliance.process.last_words())),
        );
    }
    assert!(news[0].contains("SIP/2.0 100 Trying") && news[0].contains("active"), "{news:?}");
    assert!(news.last().is_some_and(|last| last.contains("SIP/2.0 200 OK")), "{news:?}");
    caller.hang_up();
    assert!(callee.event(soon(), &["CALL_ESTABLISHED"]).is_some(), "{}", callee.process.last_words());
    callee.talk(Duration::from_secs(2));

    let made = wait_for(soon(), || {
        let calls = appliance.live_calls();
        (calls.len() == 1 && calls[0]["direction"] == "outbound").then(|| calls[0].clone())
    });
    let made = made.expect("the call to the phone, and no other");
    assert_eq!((&made["agent"], &made["state"]), (&json!("mirror"), &json!("established")));
    assert!(made["audio"]["packets_received"].as_u64() > Some(25), "{made}");
    let (status, _) = appliance.api("DELETE", &format!("/api/v1/calls/{}", made["id"].as_str().unwrap()), "");
    assert_eq!(status, 200);
    assert!(callee.closed(soon()).is_some());
}

#[test]
fn a_phone_is_sent_to_another_phone() {
    let _turn = turn();
    let (mut first, mut second) = (phone(), phone());
    let appliance = appliance(&[first.uri(), second.uri()]);
    let body = json!({ "to": first.uri(), "agent": "mirror", "video": false }).to_string();
    let (status, placed) = appliance.api("POST", "/api/v1/calls", &body);
    assert_eq!(status, 201, "{placed}");
    let id = placed["id"].as_str().expect("an id").to_owned();
    assert!(first.event(soon(), &["CALL_ESTABLISHED"]).is_some());
    first.talk(Duration::from_secs(1));

    let there = json!({ "to": "sip:+900123@127.0.0.1:5999" }).to_string();
    let (status, denied) = appliance.api("POST", &format!("/api/v1/calls/{id}/transfer"), &there);
    assert_eq!((status, &denied["error"]["code"]), (403, &json!("not_allowed")), "{denied}");

    let there = json!({ "to": second.uri() }).to_string();
    let (status, asked) = appliance.api("POST", &format!("/api/v1/calls/{id}/transfer"), &there);
    assert_eq!(status, 202, "{asked}");
    assert!(second.event(soon(), &["CALL_ESTABLISHED"]).is_some(), "{}", first.process.last_words());
    let ended = wait_for(soon(), || {
        let call = state(&appliance, &id);
        (call["state"] == "ended").then_some(call)
    });
    let ended = ended.expect("our call ends when its peer has arrived");
    // Some phones hang up themselves once they are through.
    assert!(["transferred", "peer-hung-up"].contains(&ended["end_reason"].as_str().unwrap()), "{ended}");
    assert_eq!(event(&appliance, &id, "call.transferred")["target"], second.uri());
    second.talk(Duration::from_secs(1));
    second.hang_up();
}

#[test]
fn a_call_that_is_redirected_reaches_whom_may_be_called() {
    let _turn = turn();
    let mut callee = phone();
    // Where the call is sent on from: it answers like any phone that has been told to divert.
    let appliance = appliance(&["sip:diverted@127.0.0.1*".to_owned(), callee.uri()]);
    let mut diverted = Caller::new(&appliance.uri());
    let first = format!("sip:diverted@{}", diverted.address());
    let body = json!({ "to": first, "agent": "mirror", "video": false }).to_string();
    let (status, placed) = appliance.api("POST", "/api/v1/calls", &body);
    assert_eq!(status, 201, "{placed}");
    let moved = format!("302 Moved Temporarily\r\nContact: <sip:+900123@127.0.0.1:5999>, <{}>", callee.uri());
    assert!(diverted.is_asked("INVITE", &moved, "", soon()).is_some());
    assert!(diverted.is_asked("ACK", "-", "", soon()).is_some(), "the 302 is acknowledged");
    assert!(callee.event(soon(), &["CALL_ESTABLISHED"]).is_some(), "{}", appliance.process.last_words());
    callee.talk(Duration::from_millis(500));
    let id = placed["id"].as_str().expect("an id").to_owned();
    // What the console shows is up to a second old.
    let spoken = wait_for(soon(), || {
        let call = state(&appliance, &id);
        (call["audio"]["packets_received"].as_u64() > Some(25)).then_some(call)
    });
    let call = spoken.unwrap_or_else(|| panic!("no sound: {}", state(&appliance, &id)));
    assert_eq!(call["state"], "established", "{call}");
    assert_eq!(appliance.api("DELETE", &format!("/api/v1/calls/{id}"), "").0, 200);
    assert!(callee.closed(soon()).is_some());
}

#[test]
fn an_application_asks_by_refer_that_somebody_is_called() {
    let _turn = turn();
    let mut callee = phone();
    let appliance = appliance(&[callee.uri()]);
    let mut asking = Caller::new(&appliance.uri());
    let refused = asking.ask("REFER", "Refer-To: <sip:+900123456@127.0.0.1:5999>\r\n", "");
    assert!(refused.starts_with("SIP/2.0 403"), "{refused}");
    assert!(header(&refused, "Warning").is_some_and(|text| text.contains("dial_allow")), "{refused}");

    let taken = asking.ask("REFER", &format!("Refer-To: <{}>\r\n", callee.uri()), "");
    assert!(taken.starts_with("SIP/2.0 202"), "{taken}");
    let tag = header(&taken, "To").and_then(|to| to.split(";tag=").nth(1)).expect("a dialog").to_owned();
    let mut news: Vec<String> = Vec::new();
    while news.last().is_none_or(|last| !last.contains("terminated")) {
        let notify = asking.is_asked("NOTIFY", "200 OK", "", soon());
        news.push(
            notify.unwrap_or_else(|| panic!("news after {news:?}; {}", appliance.process.last_words())),
        );
    }
    assert!(news[0].contains("SIP/2.0 100 Trying") && news[0].contains("Event: refer;id="), "{news:?}");
    assert!(
        news.iter().all(|notify| header(notify, "From").is_some_and(|from| from.contains(&tag))),
        "{news:?}"
    );
    assert!(news.last().is_some_and(|last| last.contains("SIP/2.0 200 OK")), "{news:?}");
    assert!(callee.event(soon(), &["CALL_ESTABLISHED"]).is_some(), "{}", callee.process.last_words());
    callee.talk(Duration::from_secs(1));
    let live = appliance.live_calls();
    assert_eq!(
        (live.len(), &live[0]["agent"], &live[0]["direction"]),
        (1, &json!("mirror"), &json!("outbound"))
    );
    callee.hang_up();
}

#[test]
fn texts_outside_of_a_call_are_written_to_the_call_of_their_sender() {
    let _turn = turn();
    let appliance = appliance(&[]);
    let mut caller = Caller::new(&appliance.uri());
    let plain = "Content-Type: text/plain\r\n";
    let text = |caller: &mut Caller, text: &str| caller.ask("MESSAGE", plain, text);
    let apart = text(&mut caller, "is anybody there?");
    assert!(apart.starts_with("SIP/2.0 202"), "{apart}");
    let html = caller.ask("MESSAGE", "Content-Type: text/html\r\n", "<b>");
    assert!(html.starts_with("SIP/2.0 415") && header(&html, "Accept") == Some("text/plain"), "{html}");
    let mut talking = Caller::new(&appliance.uri());
    assert_eq!(talking.invite(&talking.offer(None)).status, 200);
    let heard = text(&mut caller, "the parcel is behind the bin");
    assert!(heard.starts_with("SIP/2.0 200"), "{heard}");
    talking.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    let events = record["events"].as_array().expect("events");
    let texts: Vec<&Value> = events
        .iter()
        .filter(|event| event["kind"] == "message.received")
        .map(|event| &event["data"]["text"])
        .collect();
    assert_eq!(texts, [&json!("the parcel is behind the bin")], "{record}");

    for (strangers, answer) in [("reject", Some("SIP/2.0 403")), ("drop", None)] {
        let policy = format!("sip.strangers=\"{strangers}\"");
        let closed = Appliance::start(&["sip.trusted=[\"192.0.2.0/24\"]", &policy]);
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        stranger.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let own = stranger.local_addr().unwrap();
        let message = format!(
            "MESSAGE sip:mirror@{} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKm{}\r\nMax-Forwards: 70\r\n\
             From: <sip:nobody@{own}>;tag=1\r\nTo: <sip:mirror@{}>\r\nCall-ID: stranger-{}\r\nCSeq: 1 MESSAGE\r\n\
             {plain}Content-Length: 300\r\n\r\n{}",
            closed.sip,
            own.port(),
            closed.sip,
            own.port(),
            "x".repeat(300)
        );
        stranger.send_to(message.as_bytes(), closed.sip).unwrap();
        let mut buffer = [0; 2000];
        let heard = stranger
            .recv(&mut buffer)
            .ok()
            .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned());
        match answer {
            Some(start) => assert!(heard.as_ref().is_some_and(|heard| heard.starts_with(start)), "{heard:?}"),
            None => assert_eq!(heard, None),
        }
    }
}

#[test]
fn an_application_calls_a_phone_holds_it_presses_keys_and_hangs_up() {
    let _turn = turn();
    let mut callee = phone();
    let appliance = appliance(&[callee.uri()]);
    for (body, status, field) in [
        (json!({ "to": "sip:+900123@127.0.0.1:5999", "agent": "mirror" }), 403, "to"),
        (json!({ "to": callee.uri(), "agent": "nobody" }), 400, "agent"),
        (json!({ "to": callee.uri(), "agent": "mirror", "headers": { "Via": "x" } }), 400, "headers"),
        (json!({ "agent": "mirror" }), 400, "to"),
    ] {
        let (found, answer) = appliance.api("POST", "/api/v1/calls", &body.to_string());
        assert_eq!((found, &answer["error"]["field"]), (status, &json!(field)), "{body}: {answer}");
    }
    assert_eq!(appliance.api("POST", "/api/v1/calls/ffffff/hold", "").0, 404);

    let body =
        json!({ "to": callee.uri(), "agent": "mirror", "video": false, "headers": { "X-Order": "4711" } });
    let (status, placed) = appliance.api("POST", "/api/v1/calls", &body.to_string());
    assert_eq!(status, 201, "{placed}");
    let id = placed["id"].as_str().expect("an id").to_owned();
    let act = |verb: &str, body: &str| appliance.api("POST", &format!("/api/v1/calls/{id}/{verb}"), body).0;
    assert!(callee.event(soon(), &["CALL_ESTABLISHED"]).is_some());
    callee.talk(Duration::from_secs(1));

    assert_eq!(act("hold", ""), 200);
    assert_eq!(event(&appliance, &id, "call.held")["by"], "us");
    assert_eq!(act("resume", ""), 200);
    event(&appliance, &id, "call.resumed");
    assert_eq!(act("dtmf", &json!({ "digits": "5#" }).to_string()), 200);
    let pressed: Vec<String> = (0..2)
        .map(|_| callee.event(soon(), &["CALL_DTMF_START"]).map_or_else(String::new, |(_, key)| key))
        .collect();
    assert_eq!(pressed, ["5", "#"], "{}", callee.process.last_words());
    callee.talk(Duration::from_secs(1));

    let (status, _) = appliance.api("DELETE", &format!("/api/v1/calls/{id}"), "");
    assert_eq!(status, 200);
    assert!(callee.closed(soon()).is_some());
    let record = appliance.call_record(&appliance.finished_recording());
    assert_eq!(record["headers"], json!([["X-Order", "4711"]]));
    let kinds: Vec<&str> =
        record["events"].as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    let expected = ["call.answered", "call.held", "call.resumed", "call.ended"];
    let told: Vec<&str> = kinds.iter().copied().filter(|kind| expected.contains(kind)).collect();
    assert_eq!(told, expected, "{kinds:?}");
    assert_eq!(appliance.api("DELETE", &format!("/api/v1/calls/{id}"), "").0, 409, "it has ended");
}

#[test]
fn what_an_invite_says_besides_media_stands_in_the_record() {
    let _turn = turn();
    let peer = r#"sip.peer=[{name="pbx", source=["127.0.0.1/32"], identity=true}]"#;
    let appliance = Appliance::start(&[peer]);
    let mut caller = Caller::new(&appliance.uri());
    caller.more = "X-Room-ID: lobby\r\nX-Session-ID: s-1\r\nX-Door: front\r\n\
                   P-Asserted-Identity: \"Front Door\" <sip:200@pbx.example.com>\r\n\
                   Diversion: <sip:30@pbx.example.com>;reason=no-answer, <sip:20@pbx.example.com>;reason=user-busy\r\n\
                   Session-ID: ab30317f1a784dc48ff824d0d3715d86\r\n"
        .to_owned();
    let answer = caller.invite(&caller.offer(None));
    let session_id = header(&answer.headers, "Session-ID").expect("both halves").to_owned();
    assert!(session_id.ends_with(";remote=ab30317f1a784dc48ff824d0d3715d86"), "{session_id}");
    let mut second = Caller::new(&appliance.uri());
    second.more = "X-Session-ID: s-1\r\n".to_owned();
    assert_eq!(second.invite(&second.offer(None)).status, 486, "one call at a time has the name");
    assert!(caller.ask("MESSAGE", "Content-Type: text/plain\r\n", "").starts_with("SIP/2.0 200"));
    caller.stream(&answer, Duration::from_secs(1), None);
    let live = appliance.live_calls();
    assert_eq!((live.len(), &live[0]["session"]), (1, &json!("s-1")), "{live:?}");
    caller.hang_up();
    let record = appliance.call_record(&appliance.finished_recording());
    for (field, value) in [
        ("room", json!("lobby")),
        ("session", json!("s-1")),
        ("asserted", json!("200")),
        ("diverted_by", json!("20")),
        ("display_name", json!("Front Door")),
        ("session_id", json!(session_id)),
        ("headers", json!([["X-Room-ID", "lobby"], ["X-Session-ID", "s-1"], ["X-Door", "front"]])),
    ] {
        assert_eq!(record[field], value, "{field}: {record}");
    }
    let kinds: Vec<&str> =
        record["events"].as_array().unwrap().iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["call.ringing", "call.answered", "message.received", "call.ended"], "{record}");
}
