//! Whole endpoints in virtual time: two of them on a wire that delays and loses, and one against scripted text.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::message::Message;
use super::super::parse::parse;
use super::*;

pub(super) const ALICE: &str = "10.0.0.1:5060";
pub(super) const BOB: &str = "10.0.0.2:5060";

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(super) fn sdp(text: &str) -> Option<Body> {
    Some(Body { content_type: "application/sdp".to_owned(), bytes: text.as_bytes().to_vec() })
}

pub(super) fn ok() -> Response {
    Response { status: 200, body: sdp("answer"), ..Response::default() }
}

/// Two endpoints on a wire; `lost` names the messages (by count of all messages) that the wire swallows.
pub(super) struct Wire {
    pub now: Instant,
    pub alice: Endpoint,
    pub bob: Endpoint,
    pub lost: BTreeSet<usize>,
    pub carried: Vec<String>,
    pub events_a: Vec<Event>,
    pub events_b: Vec<Event>,
    transport: Transport,
}

impl Wire {
    pub fn new(transport: Transport) -> Self {
        Wire::with(transport, Settings::default(), Settings::default())
    }

    pub fn with(transport: Transport, alice: Settings, bob: Settings) -> Self {
        Wire {
            now: Instant::now(),
            alice: Endpoint::new(alice, [1; 32]),
            bob: Endpoint::new(bob, [2; 32]),
            lost: BTreeSet::new(),
            carried: Vec::new(),
            events_a: Vec::new(),
            events_b: Vec::new(),
            transport,
        }
    }

    pub fn call(&mut self) -> SessionId {
        let outgoing = Outgoing {
            to: Uri::parse("sip:bob@10.0.0.2").expect("a uri"),
            from: NameAddr::parse("<sip:alice@10.0.0.1>").expect("an address"),
            hops: vec![Hop::to(self.transport, address(BOB), address(ALICE))],
            headers: Vec::new(),
            body: sdp("offer"),
            target: None,
            credentials: None,
        };
        let session = self.alice.invite(self.now, outgoing);
        self.settle();
        session
    }

    /// Carries messages until both are quiet.
    pub fn settle(&mut self) {
        loop {
            let from_alice = drain(&mut self.alice, &mut self.events_a);
            let from_bob = drain(&mut self.bob, &mut self.events_b);
            if from_alice.is_empty() && from_bob.is_empty() {
                return;
            }
            for what in from_alice {
                self.carry(what, true);
            }
            for what in from_bob {
                self.carry(what, false);
            }
        }
    }

    fn carry(&mut self, what: Do, from_alice: bool) {
        let (here, there) = if from_alice { (ALICE, BOB) } else { (BOB, ALICE) };
        let connection = (self.transport == Transport::Tcp).then_some(ConnectionId(1));
        let peer =
            Peer { transport: self.transport, local: address(there), remote: address(here), connection };
        match what {
            Do::Send { bytes, .. } => {
                let first = String::from_utf8_lossy(&bytes).lines().next().unwrap_or_default().to_owned();
                let number = self.carried.len();
                self.carried.push(first);
                if self.lost.contains(&number) {
                    return;
                }
                let to = if from_alice { &mut self.bob } else { &mut self.alice };
                match self.transport {
                    Transport::Udp => to.handle_datagram(self.now, peer, Access::Trusted, &bytes),
                    // One byte at a time: framing must not care.
                    Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => {
                        for byte in &bytes {
                            to.handle_stream(self.now, ConnectionId(1), std::slice::from_ref(byte));
                        }
                    }
                }
            }
            Do::Connect { connection, .. } => {
                assert!(from_alice, "only the caller opens a stream");
                self.alice.handle_connected(self.now, connection, address(ALICE));
                self.bob.handle_accepted(self.now, ConnectionId(1), peer, Access::Trusted, None);
            }
            Do::Close(_) | Do::Resolve { .. } | Do::Event(_) => {}
        }
    }

    /// Lets time pass, event by event.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = [self.alice.wake_at(), self.bob.wake_at()].into_iter().flatten().min();
            match next.filter(|at| *at <= end) {
                Some(at) => self.now = at,
                None => break,
            }
            self.alice.handle_time(self.now);
            self.bob.handle_time(self.now);
            self.settle();
        }
        self.now = end;
    }

    pub fn invited(&self) -> SessionId {
        match self.events_b.iter().find(|event| matches!(event, Event::Invited { .. })) {
            Some(event) => event.session().expect("an event of a session"),
            None => panic!("no INVITE arrived: {:?}", self.carried),
        }
    }

    pub fn establish(&mut self) -> (SessionId, SessionId) {
        let a = self.call();
        let b = self.invited();
        self.bob.respond(self.now, b, ok());
        self.settle();
        self.alice.ack(self.now, a, None);
        self.settle();
        assert!(self.events_b.iter().any(|event| matches!(event, Event::Acked { .. })));
        (a, b)
    }

    /// Everything forgotten on both sides once all timers have run.
    pub fn assert_nothing_left(&mut self) {
        self.pass(Duration::from_secs(200));
        // An open stream is watched for as long as it is open.
        self.alice.handle_closed(self.now, ConnectionId(1));
        self.bob.handle_closed(self.now, ConnectionId(1));
        self.pass(Duration::from_secs(2));
        for endpoint in [&self.alice, &self.bob] {
            assert_eq!(endpoint.open_sessions(), 0);
            assert_eq!(endpoint.open_transactions(), 0);
            assert!(endpoint.wake_at().is_none() && endpoint.session_of.is_empty());
            assert!(endpoint.client_of.is_empty() && endpoint.server_of.is_empty());
            assert!(endpoint.merges.is_empty());
        }
    }
}

fn drain(endpoint: &mut Endpoint, events: &mut Vec<Event>) -> Vec<Do> {
    let mut wanted = Vec::new();
    while let Some(what) = endpoint.poll() {
        match what {
            Do::Event(event) => events.push(event),
            other => wanted.push(other),
        }
    }
    wanted
}

#[test]
fn a_call_is_set_up_and_ended_over_udp_and_over_tcp() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut wire = Wire::new(transport);
        let (a, _) = wire.establish();
        wire.alice.bye(wire.now, a, Some("Q.850;cause=16"));
        wire.settle();
        let bye = wire.events_b.iter().find_map(|event| match event {
            Event::ByeReceived { reason, .. } => reason.clone(),
            _ => None,
        });
        assert_eq!(bye.as_deref(), Some("Q.850;cause=16"));
        assert!(matches!(wire.events_a.last(), Some(Event::Ended { .. })));
        wire.assert_nothing_left();
    }
}

#[test]
fn every_single_lost_message_is_repaired() {
    let mut clean = Wire::new(Transport::Udp);
    let (a, _) = clean.establish();
    clean.alice.bye(clean.now, a, None);
    clean.settle();
    for lost in 0..clean.carried.len() {
        let mut wire = Wire::new(Transport::Udp);
        wire.lost = [lost].into();
        let a = wire.call();
        wire.pass(Duration::from_secs(1));
        let b = wire.invited();
        wire.bob.respond(wire.now, b, ok());
        wire.settle();
        wire.pass(Duration::from_secs(2));
        assert!(wire.events_a.iter().any(|event| matches!(event, Event::Answered { .. })), "lost {lost}");
        wire.alice.ack(wire.now, a, None);
        wire.settle();
        wire.pass(Duration::from_secs(8));
        let acked = wire.events_b.iter().filter(|event| matches!(event, Event::Acked { .. })).count();
        assert_eq!(acked, 1, "lost {lost}: {:?}", wire.carried);
        wire.alice.bye(wire.now, a, None);
        wire.settle();
        wire.pass(Duration::from_secs(8));
        assert!(wire.events_b.iter().any(|event| matches!(event, Event::ByeReceived { .. })), "lost {lost}");
        wire.assert_nothing_left();
    }
}

#[test]
fn a_200_is_repeated_until_its_ack_and_the_call_ends_when_none_comes() {
    let mut wire = Wire::new(Transport::Udp);
    wire.call();
    let b = wire.invited();
    wire.bob.respond(wire.now, b, ok());
    wire.settle();
    // Alice's user never acknowledges: the endpoint has nothing to repeat.
    wire.pass(Duration::from_secs(31));
    let answers = wire.carried.iter().filter(|line| line.contains("200 OK")).count();
    // At 0, 0.5, 1.5, 3.5 s, then each 4 s.
    assert_eq!(answers, 10);
    assert!(!wire.events_b.iter().any(|event| matches!(event, Event::AckTimedOut { .. })));
    wire.pass(Duration::from_secs(2));
    assert!(wire.events_b.iter().any(|event| matches!(event, Event::AckTimedOut { .. })));
    assert!(wire.carried.iter().any(|line| line.starts_with("BYE")));
    assert!(wire.events_a.iter().any(|event| matches!(event, Event::ByeReceived { .. })));
    wire.assert_nothing_left();
}

#[test]
fn a_cancelled_call_is_terminated_with_487() {
    let mut wire = Wire::new(Transport::Udp);
    let a = wire.call();
    wire.alice.cancel(wire.now, a, None);
    wire.settle();
    assert!(matches!(wire.events_b.last(), Some(Event::Cancelled { .. })));
    assert!(matches!(wire.events_a.last(), Some(Event::Failed { status: 487, .. })));
    wire.assert_nothing_left();
}

#[test]
fn an_answer_that_overtakes_the_cancel_is_acknowledged_and_hung_up() {
    let mut wire = Wire::new(Transport::Udp);
    let a = wire.call();
    let b = wire.invited();
    wire.alice.cancel(wire.now, a, None);
    // Bob answers before the CANCEL reaches him.
    wire.bob.respond(wire.now, b, ok());
    wire.settle();
    assert!(wire.carried.iter().any(|line| line.starts_with("ACK")));
    assert!(wire.carried.iter().any(|line| line.starts_with("BYE")));
    assert!(!wire.events_a.iter().any(|event| matches!(event, Event::Answered { .. })));
    assert!(matches!(wire.events_a.last(), Some(Event::Ended { .. })));
    wire.assert_nothing_left();
}

#[test]
fn a_hang_up_before_the_ack_waits_for_it() {
    let mut wire = Wire::new(Transport::Udp);
    let a = wire.call();
    let b = wire.invited();
    wire.bob.respond(wire.now, b, ok());
    wire.bob.bye(wire.now, b, None);
    wire.settle();
    assert!(!wire.carried.iter().any(|line| line.starts_with("BYE")));
    wire.alice.ack(wire.now, a, None);
    wire.settle();
    assert!(wire.carried.iter().any(|line| line.starts_with("BYE")));
    wire.assert_nothing_left();
}

#[test]
fn a_refusal_reaches_the_caller_and_leaves_nothing() {
    let mut wire = Wire::new(Transport::Udp);
    wire.call();
    let b = wire.invited();
    wire.bob.respond(wire.now, b, Response { status: 486, ..Response::default() });
    wire.settle();
    assert!(matches!(wire.events_a.last(), Some(Event::Failed { status: 486, .. })));
    wire.assert_nothing_left();
}

#[test]
fn nobody_there_is_a_408_after_32_s() {
    let mut wire = Wire::new(Transport::Udp);
    wire.lost = (0..100).collect();
    wire.call();
    wire.pass(Duration::from_secs(33));
    assert!(matches!(wire.events_a.last(), Some(Event::Failed { status: 408, .. })));
    assert_eq!(wire.carried.len(), 7);
    wire.assert_nothing_left();
}

#[test]
fn a_reinvite_is_answered_and_two_at_once_are_refused_with_491() {
    let mut wire = Wire::new(Transport::Udp);
    let (a, b) = wire.establish();
    wire.alice.request(wire.now, a, Method::Invite, Vec::new(), sdp("hold"));
    wire.settle();
    let request = wire.events_b.iter().find_map(|event| match event {
        Event::Reinvited { request, body, .. } => Some((*request, body.clone())),
        _ => None,
    });
    let (request, body) = request.expect("the re-INVITE arrives");
    assert_eq!(body, sdp("hold"));
    wire.bob.respond_to(wire.now, b, request, ok());
    wire.settle();
    assert!(matches!(wire.events_a.last(), Some(Event::Responded { status: 200, .. })));
    let acked = wire.events_b.iter().filter(|event| matches!(event, Event::Acked { .. })).count();
    assert_eq!(acked, 2);

    wire.alice.request(wire.now, a, Method::Invite, Vec::new(), sdp("one"));
    wire.bob.request(wire.now, b, Method::Invite, Vec::new(), sdp("two"));
    wire.settle();
    for events in [&wire.events_a, &wire.events_b] {
        assert!(matches!(events.last(), Some(Event::Responded { status: 491, .. })));
    }
    wire.bob.bye(wire.now, b, None);
    wire.settle();
    wire.assert_nothing_left();
}

#[test]
fn info_is_handed_over_and_answered() {
    let mut wire = Wire::new(Transport::Tcp);
    let (a, b) = wire.establish();
    wire.alice.request(wire.now, a, Method::Info, Vec::new(), None);
    wire.settle();
    let Some(Event::Requested { request, method: Method::Info, .. }) = wire.events_b.last() else {
        panic!("no INFO: {:?}", wire.events_b.last());
    };
    let request = *request;
    wire.bob.respond_to(wire.now, b, request, Response { status: 415, ..Response::default() });
    wire.settle();
    assert!(matches!(wire.events_a.last(), Some(Event::Responded { status: 415, .. })));
    wire.alice.bye(wire.now, a, None);
    wire.settle();
    wire.assert_nothing_left();
}

/// One endpoint against text.
pub(super) struct Scripted {
    pub now: Instant,
    pub endpoint: Endpoint,
    pub events: Vec<Event>,
}

impl Scripted {
    pub fn new(settings: Settings) -> Self {
        Scripted { now: Instant::now(), endpoint: Endpoint::new(settings, [3; 32]), events: Vec::new() }
    }

    pub fn hears(&mut self, from: &str, access: Access, text: &str) -> Vec<(SocketAddr, String)> {
        let peer =
            Peer { transport: Transport::Udp, local: address(BOB), remote: address(from), connection: None };
        self.endpoint.handle_datagram(self.now, peer, access, text.replace('\n', "\r\n").as_bytes());
        self.says()
    }

    pub fn says(&mut self) -> Vec<(SocketAddr, String)> {
        let wanted = drain(&mut self.endpoint, &mut self.events);
        let text = |what| match what {
            Do::Send { peer, bytes } => Some((peer.remote, String::from_utf8_lossy(&bytes).into_owned())),
            Do::Connect { .. } | Do::Close(_) | Do::Resolve { .. } | Do::Event(_) => None,
        };
        wanted.into_iter().filter_map(text).collect()
    }
}

pub(super) fn request(method: &str, branch: &str, to_tag: &str, cseq: u32, more: &str) -> String {
    format!(
        "{method} sip:bob@10.0.0.2 SIP/2.0\nVia: SIP/2.0/UDP 192.168.1.9:5090;rport;branch=z9hG4bK{branch}\n\
         From: <sip:alice@example.com>;tag=a\nTo: <sip:bob@example.com>{to_tag}\nCall-ID: c1\n\
         CSeq: {cseq} {method}\nContact: <sip:alice@192.168.1.9:5090>\nMax-Forwards: 70\n{more}\
         Content-Length: 0\n\n"
    )
}

/// The To tag of our first message, as a parameter.
pub(super) fn our_tag(said: &[(SocketAddr, String)]) -> String {
    let to = said[0].1.lines().find(|line| line.starts_with("To:"));
    let tag = to.and_then(|to| to.split(";tag=").nth(1));
    format!(";tag={}", tag.expect("our tag"))
}

pub(super) fn status(said: &[(SocketAddr, String)]) -> Vec<&str> {
    said.iter().map(|(_, text)| text.split(' ').nth(1).unwrap_or_default()).collect()
}

#[test]
fn answers_go_to_the_source_with_rport_filled_in() {
    let mut phone = Scripted::new(Settings::default());
    let said = phone.hears("203.0.113.7:4321", Access::Trusted, &request("OPTIONS", "1", "", 1, ""));
    assert_eq!(said[0].0, address("203.0.113.7:4321"));
    assert!(said[0].1.contains("received=203.0.113.7") && said[0].1.contains("rport=4321"), "{}", said[0].1);
    assert!(said[0].1.contains("Allow: INVITE"));
}

#[test]
fn options_says_503_while_not_ready() {
    let mut phone = Scripted::new(Settings::default());
    phone.endpoint.set_ready(false);
    let said = phone.hears(ALICE, Access::Trusted, &request("OPTIONS", "1", "", 1, ""));
    assert_eq!(status(&said), ["503"]);
}

#[test]
fn strangers_get_nothing_and_cost_nothing() {
    let mut phone = Scripted::new(Settings::default());
    for method in ["INVITE", "OPTIONS", "REGISTER", "BYE"] {
        assert!(phone.hears(ALICE, Access::Stranger, &request(method, "1", "", 1, "")).is_empty());
    }
    assert_eq!(phone.endpoint.counters().strangers_dropped, 4);
    assert_eq!((phone.endpoint.open_sessions(), phone.endpoint.open_transactions()), (0, 0));
    let settings = Settings { strangers: Strangers::Reject, ..Settings::default() };
    let mut phone = Scripted::new(settings);
    let long = request("INVITE", "1", "", 1, "Subject: enough room for the answer to be no larger\n");
    let said = phone.hears(ALICE, Access::Stranger, &long);
    assert_eq!(status(&said), ["403"]);
    assert!(said[0].1.len() <= long.replace('\n', "\r\n").len());
    assert_eq!(phone.endpoint.open_transactions(), 0);
}

#[test]
fn what_is_not_understood_is_refused_as_the_rfc_says() {
    let mut phone = Scripted::new(Settings::default());
    for (n, (method, more, to_tag, expected)) in [
        ("PUBLISHED", "", "", "405"),
        ("BYE", "", "", "481"),
        ("INFO", "", ";tag=gone", "481"),
        ("INVITE", "Require: precondition\n", "", "420"),
        ("CANCEL", "", "", "481"),
    ]
    .into_iter()
    .enumerate()
    {
        let said = phone.hears(ALICE, Access::Trusted, &request(method, &format!("x{n}"), to_tag, 1, more));
        assert_eq!(status(&said), [expected], "{method} {more}");
    }
    let hops = request("INVITE", "h", "", 1, "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &hops)), ["483"]);
    let text = request("INVITE", "t", "", 1, "Content-Type: text/plain\n")
        .replace("Content-Length: 0\n\n", "Content-Length: 2\n\nhi");
    let said = phone.hears(ALICE, Access::Trusted, &text);
    assert_eq!(status(&said), ["415"]);
    assert!(said[0].1.contains("Accept: application/sdp"));
}

#[test]
fn the_same_call_over_two_paths_is_merged_and_a_repeat_is_absorbed() {
    let mut phone = Scripted::new(Settings::default());
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, ""))), ["100"]);
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, ""))), ["100"]);
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("INVITE", "2", "", 1, ""))), ["482"]);
    assert_eq!(phone.events.len(), 1);
}

#[test]
fn an_old_cseq_inside_the_dialog_is_refused() {
    let mut phone = Scripted::new(Settings::default());
    phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 5, ""));
    let session = phone.events[0].session().expect("a session");
    phone.endpoint.respond(phone.now, session, ok());
    let tag = our_tag(&phone.says());
    phone.hears(ALICE, Access::Trusted, &request("ACK", "2", &tag, 5, ""));
    assert!(matches!(phone.events.last(), Some(Event::Acked { .. })));
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("INFO", "3", &tag, 4, ""))), ["500"]);
    // A stranger's address does not matter inside a known dialog.
    assert_eq!(status(&phone.hears(ALICE, Access::Stranger, &request("BYE", "4", &tag, 6, ""))), ["200"]);
}

#[test]
fn routes_are_mirrored_and_the_bye_follows_them() {
    let mut phone = Scripted::new(Settings::default());
    let routes = "Record-Route: <sip:10.0.0.8:5080;lr>\n";
    phone.hears("10.0.0.8:5080", Access::Trusted, &request("INVITE", "1", "", 1, routes));
    let session = phone.events[0].session().expect("a session");
    phone.endpoint.respond(phone.now, session, ok());
    let answer = phone.says();
    assert!(answer[0].1.contains("Record-Route: <sip:10.0.0.8:5080;lr>"));
    let tag = our_tag(&answer);
    phone.hears("10.0.0.8:5080", Access::Trusted, &request("ACK", "2", &tag, 1, ""));
    phone.endpoint.bye(phone.now, session, None);
    let said = phone.says();
    assert_eq!(said[0].0, address("10.0.0.8:5080"));
    let Ok(Message::Request(bye)) = parse(said[0].1.as_bytes()) else { panic!("not a request") };
    assert_eq!(bye.uri.to_string(), "sip:alice@192.168.1.9:5090");
    assert_eq!(bye.headers.value("Route"), Some("<sip:10.0.0.8:5080;lr>"));
}

#[test]
fn a_second_fork_that_answers_is_acknowledged_and_hung_up() {
    let mut wire = Wire::new(Transport::Udp);
    let a = wire.call();
    let b = wire.invited();
    let mut fork = None;
    wire.bob.respond(wire.now, b, ok());
    for what in drain(&mut wire.bob, &mut wire.events_b) {
        if let Do::Send { bytes, .. } = &what {
            fork = Some(String::from_utf8_lossy(bytes).replace(";tag=", ";tag=other"));
        }
        wire.carry(what, false);
    }
    wire.settle();
    wire.alice.ack(wire.now, a, None);
    wire.settle();
    // Only the To tag is another one; the From tag is ours.
    let fork = fork.expect("an answer");
    let fork: Vec<String> =
        fork.lines()
            .map(|line| {
                if line.starts_with("From:") { line.replace(";tag=other", ";tag=") } else { line.to_owned() }
            })
            .collect();
    let peer = Peer {
        transport: Transport::Udp,
        local: address(ALICE),
        remote: address("10.0.0.3:5060"),
        connection: None,
    };
    let before = wire.carried.len();
    wire.alice.handle_datagram(wire.now, peer, Access::Stranger, fork.join("\r\n").as_bytes());
    wire.settle();
    let after: Vec<&String> = wire.carried[before..].iter().collect();
    assert!(after[0].starts_with("ACK") && after[1].starts_with("BYE"), "{after:?}");
    let answered = wire.events_a.iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert_eq!(answered, 1, "the call stands");
    wire.alice.bye(wire.now, a, None);
    wire.settle();
    wire.assert_nothing_left();
}

#[test]
fn a_lost_stream_is_opened_again_for_the_bye() {
    let mut wire = Wire::new(Transport::Tcp);
    let (a, _) = wire.establish();
    wire.alice.handle_closed(wire.now, ConnectionId(1));
    wire.bob.handle_closed(wire.now, ConnectionId(1));
    wire.alice.bye(wire.now, a, None);
    let mut wanted = drain(&mut wire.alice, &mut wire.events_a);
    assert!(matches!(wanted.pop(), Some(Do::Connect { connection: ConnectionId(2), .. })));
    wire.alice.handle_connected(wire.now, ConnectionId(2), address(ALICE));
    let sent = drain(&mut wire.alice, &mut wire.events_a);
    assert!(matches!(&sent[..], [Do::Send { bytes, .. }] if bytes.starts_with(b"BYE")));
    // And if it cannot be opened, the call is over all the same.
    wire.alice.handle_closed(wire.now, ConnectionId(2));
    drain(&mut wire.alice, &mut wire.events_a);
    assert!(matches!(wire.events_a.last(), Some(Event::Ended { .. })));
}

/// A call that Bob answered and whose re-INVITE he has not: his session and the request.
fn reinvited() -> (Wire, SessionId, SessionId, RequestId) {
    let mut wire = Wire::new(Transport::Udp);
    let (a, b) = wire.establish();
    wire.alice.request(wire.now, a, Method::Invite, Vec::new(), sdp("more"));
    wire.settle();
    let Some(Event::Reinvited { request, .. }) = wire.events_b.last() else { panic!("{:?}", wire.carried) };
    let request = *request;
    (wire, a, b, request)
}

#[test]
fn a_hang_up_leaves_no_request_without_an_answer() {
    let (mut wire, _, b, _) = reinvited();
    wire.bob.bye(wire.now, b, None);
    wire.settle();
    assert!(wire.carried.iter().any(|line| line.contains("487")), "{:?}", wire.carried);
    wire.assert_nothing_left();
    let (mut wire, a, _, _) = reinvited();
    wire.alice.bye(wire.now, a, None);
    wire.settle();
    assert!(wire.carried.iter().any(|line| line.contains("487")), "{:?}", wire.carried);
    wire.assert_nothing_left();
}

#[test]
fn a_cancelled_reinvite_is_withdrawn_and_the_call_goes_on() {
    let mut phone = Scripted::new(Settings::default());
    phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, ""));
    let session = phone.events[0].session().expect("a session");
    phone.endpoint.respond(phone.now, session, ok());
    let tag = our_tag(&phone.says());
    phone.hears(ALICE, Access::Trusted, &request("ACK", "2", &tag, 1, ""));
    phone.hears(ALICE, Access::Trusted, &request("INVITE", "3", &tag, 2, ""));
    let said = phone.hears(ALICE, Access::Trusted, &request("CANCEL", "3", &tag, 2, ""));
    assert_eq!(status(&said), ["200", "487"]);
    assert!(matches!(phone.events.last(), Some(Event::Withdrawn { .. })), "{:?}", phone.events.last());
    assert_eq!(phone.endpoint.open_sessions(), 1);
}

#[test]
fn a_session_that_is_hanging_up_knows_no_more_requests() {
    let mut phone = Scripted::new(Settings::default());
    phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, ""));
    let session = phone.events[0].session().expect("a session");
    phone.endpoint.respond(phone.now, session, ok());
    let tag = our_tag(&phone.says());
    phone.hears(ALICE, Access::Trusted, &request("ACK", "2", &tag, 1, ""));
    phone.endpoint.bye(phone.now, session, None);
    phone.says();
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("INVITE", "3", &tag, 2, ""))), ["481"]);
    assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &request("BYE", "4", &tag, 3, ""))), ["200"]);
}

#[test]
fn an_ack_of_a_2xx_is_taken_whatever_its_branch() {
    for branch in ["1", "2"] {
        let mut phone = Scripted::new(Settings::default());
        phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, ""));
        let session = phone.events[0].session().expect("a session");
        phone.endpoint.respond(phone.now, session, ok());
        let tag = our_tag(&phone.says());
        phone.hears(ALICE, Access::Trusted, &request("ACK", branch, &tag, 1, ""));
        assert!(matches!(phone.events.last(), Some(Event::Acked { .. })), "branch {branch}");
    }
}

#[test]
fn a_response_with_a_second_via_is_for_somebody_else() {
    let mut wire = Wire::new(Transport::Udp);
    wire.call();
    let b = wire.invited();
    wire.bob.respond(wire.now, b, ok());
    let peer =
        Peer { transport: Transport::Udp, local: address(ALICE), remote: address(BOB), connection: None };
    for what in drain(&mut wire.bob, &mut wire.events_b) {
        let Do::Send { bytes, .. } = what else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.replacen("\r\nFrom:", "\r\nVia: SIP/2.0/UDP 10.9.9.9;branch=z9hG4bKx\r\nFrom:", 1);
        wire.alice.handle_datagram(wire.now, peer, Access::Trusted, text.as_bytes());
    }
    drain(&mut wire.alice, &mut wire.events_a);
    assert!(!wire.events_a.iter().any(|event| matches!(event, Event::Answered { .. })));
    assert_eq!(wire.alice.counters().stray, 1);
}

#[test]
fn a_400_repeats_an_unreadable_to_with_our_tag_behind_it() {
    let mut phone = Scripted::new(Settings::default());
    let text = request("OPTIONS", "1", "", 1, "").replace("To: <sip:bob@example.com>", "To: \"Bob <sip:bob");
    let said = phone.hears(ALICE, Access::Trusted, &text);
    assert_eq!(status(&said), ["400"]);
    assert!(said[0].1.contains("\r\nTo: \"Bob <sip:bob;tag="), "{}", said[0].1);
}

#[test]
fn garbage_is_counted() {
    let mut phone = Scripted::new(Settings::default());
    assert!(phone.hears(ALICE, Access::Trusted, "this is not SIP\n\n").is_empty());
    assert_eq!(phone.endpoint.counters().malformed, 1);
}
