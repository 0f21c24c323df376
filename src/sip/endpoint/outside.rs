//! Requests that belong to no dialog, in both directions: REGISTER, MESSAGE, SUBSCRIBE and the like (RFC 3261 §8).
//!
//! INVITE and OPTIONS have their own ways. What a request means is its user's business; here it is carried,
//! answered in time, and bounded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::digest::Credentials;
use super::super::digest::client::Client as Prover;
use super::super::header::NameAddr;
use super::super::message::{Body, Headers, Method, RequestMessage, ResponseMessage, reason_phrase};
use super::super::uri::Uri;
use super::compose::{response_peer, set_body};
use super::inbound::plain;
use super::transactions::User;
use super::{Endpoint, Event, Hop, Peer, RequestId, Response, Timer};

/// Requests of peers that wait for our answer at one time; further ones get 503.
const MOST_OPEN: usize = 512;
/// Whoever is to answer has so long; then the peer gets 500.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A request of ours outside any dialog. [`Event::OutsideAnswered`] follows exactly once.
#[derive(Clone, Debug)]
pub struct Outside {
    pub method: Method,
    pub uri: Uri,
    pub from: NameAddr,
    pub to: NameAddr,
    /// `None`: a new one. A registration keeps its own over all refreshes (RFC 3261 §10.2.4).
    pub call_id: Option<String>,
    pub cseq: u32,
    /// Tried in this order; none: 503.
    pub hops: Vec<Hop>,
    /// Contact, Expires, Route and whatever else this method wants. Methods that make a dialog get our own Contact
    /// when none is given.
    pub headers: Vec<(String, String)>,
    pub body: Option<Body>,
    pub credentials: Option<Credentials>,
}

/// A request of a peer outside any dialog.
#[derive(Clone, Debug)]
pub struct OutsideRequest {
    pub peer: Peer,
    /// Who proved to be one of our users.
    pub user: Option<String>,
    pub method: Method,
    pub uri: Uri,
    pub from: NameAddr,
    pub to: NameAddr,
    pub headers: Headers,
    pub body: Option<Body>,
}

/// A request of a peer that waits for `reply`.
pub(super) struct Open {
    transaction: u64,
    tag: String,
    peer: Peer,
    until: Instant,
}

/// What is open in the peer's direction.
pub(super) type OpenOutside = HashMap<RequestId, Open>;

impl Endpoint {
    /// Sends a request that belongs to no dialog.
    pub fn send_outside(&mut self, now: Instant, outside: Outside) -> RequestId {
        let id = RequestId(self.new_id());
        let Some((hop, rest)) = self.places(outside.hops) else {
            self.outside_failed(id, 503);
            return id;
        };
        let peer = hop.peer();
        let (branch, via) = self.new_via(peer.transport, peer.local);
        let mut from = outside.from;
        if from.tag().is_none() {
            from.set_tag(&self.token());
        }
        let mut headers = Headers::default();
        headers.push("Via", via);
        headers.push("Max-Forwards", "70");
        headers.push("From", from.to_string());
        headers.push("To", outside.to.to_string());
        headers.push("Call-ID", outside.call_id.unwrap_or_else(|| self.token()));
        headers.push("CSeq", format!("{} {}", outside.cseq, outside.method));
        let given = outside.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Contact"));
        if !given && makes_dialog(&outside.method) {
            headers.push("Contact", self.contact(peer.transport, peer.local));
        }
        self.identify(&mut headers, "User-Agent");
        for (name, value) in &outside.headers {
            headers.push(name, value.clone());
        }
        let mut body = Vec::new();
        set_body(&mut headers, &mut body, outside.body.as_ref());
        let request = RequestMessage { method: outside.method, uri: outside.uri, headers, body };
        if let Some(credentials) = outside.credentials {
            self.provers.insert(id, Prover::new(credentials));
        }
        self.start_client_over(now, peer, rest, branch, request, User::Outside(id));
        id
    }

    /// A response to a request of ours: only the final one is of interest.
    pub(super) fn outside_answered(&mut self, request: RequestId, response: ResponseMessage) {
        let realm = self.realm_of(request);
        let body = response.body();
        let ResponseMessage { status, reason, headers, .. } = response;
        self.event(Event::OutsideAnswered { request, status, reason, headers, body, realm });
    }

    /// No response came (408), or it could not be sent (503).
    pub(super) fn outside_failed(&mut self, request: RequestId, status: u16) {
        let realm = self.realm_of(request);
        let reason = reason_phrase(status).to_owned();
        self.event(Event::OutsideAnswered {
            request,
            status,
            reason,
            headers: Headers::default(),
            body: None,
            realm,
        });
    }

    /// Ends the proving of a request.
    fn realm_of(&mut self, request: RequestId) -> Option<String> {
        self.provers.remove(&request).and_then(|prover| prover.proven().map(str::to_owned))
    }

    /// A request of a peer: handed up and kept until its answer.
    pub(super) fn handle_outside(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        request: RequestMessage,
        user: Option<String>,
    ) {
        if self.outside.len() >= MOST_OPEN {
            self.counters.overload += 1;
            let headers = vec![("Retry-After".to_owned(), "10".to_owned())];
            return self.answer(now, peer, key, request, Response { headers, ..plain(503) });
        }
        let (Some(from), Some(to)) = (request.from(), request.to()) else {
            self.counters.malformed += 1;
            return self.answer(now, peer, key, request, plain(400));
        };
        let id = RequestId(self.new_id());
        let asked = OutsideRequest {
            peer,
            user,
            method: request.method.clone(),
            uri: request.uri.clone(),
            from,
            to,
            headers: request.headers.clone(),
            body: request.body(),
        };
        let tag = self.token();
        let transaction = self.start_server(key, None, response_peer(&request, peer), request, None);
        let until = now + ANSWER_LIMIT;
        self.outside.insert(id, Open { transaction, tag, peer, until });
        self.rearm(Timer::Outside(id), None, Some(until));
        self.event(Event::OutsideRequested { request: id, asked: Box::new(asked) });
    }

    /// The tag that our answer to a request will have, while it waits for it.
    pub fn tag_of(&self, request: RequestId) -> Option<&str> {
        self.outside.get(&request).map(|open| open.tag.as_str())
    }

    /// Answers a request of a peer outside any dialog. A second final answer is ignored.
    pub fn reply(&mut self, now: Instant, request: RequestId, response: Response) {
        let Some(open) = self.outside.get(&request) else { return };
        let (transaction, tag, peer, until) = (open.transaction, open.tag.clone(), open.peer, open.until);
        if response.status >= 200 {
            self.outside.remove(&request);
            self.rearm(Timer::Outside(request), Some(until), None);
        }
        let Some(server) = self.servers.get(&transaction) else { return };
        let mut message = self.finish_response(&server.request, &response, &tag, peer);
        if response.status / 100 == 2 && makes_dialog(&server.request.method) {
            let contact = self.contact(peer.transport, peer.local);
            message.headers.push("Contact", contact);
        }
        self.send_response(now, transaction, &message);
    }

    pub(super) fn outside_time(&mut self, now: Instant, request: RequestId) {
        tracing::warn!("a request outside any dialog was left without an answer");
        self.reply(now, request, plain(500));
    }
}

/// Methods whose 2xx makes a dialog, so that both sides need a Contact (RFC 6665, RFC 3515).
fn makes_dialog(method: &Method) -> bool {
    match method {
        Method::Subscribe | Method::Refer | Method::Notify => true,
        Method::Invite
        | Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Options
        | Method::Info
        | Method::Message
        | Method::Update
        | Method::Prack
        | Method::Register
        | Method::Publish
        | Method::Other(_) => false,
    }
}

/// Methods handed up when they come outside any dialog.
pub(super) fn is_taken(method: &Method) -> bool {
    match method {
        Method::Register
        | Method::Message
        | Method::Notify
        | Method::Subscribe
        | Method::Refer
        | Method::Publish => true,
        Method::Invite
        | Method::Ack
        | Method::Bye
        | Method::Cancel
        | Method::Options
        | Method::Info
        | Method::Update
        | Method::Prack
        | Method::Other(_) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]

    use super::super::{Access, Do, Settings, Transport};
    use super::*;

    const PHONE: &str = "10.0.0.1:5060";
    const BOX: &str = "10.0.0.2:5060";

    fn phone() -> Peer {
        let address = |text: &str| text.parse().unwrap();
        Peer { transport: Transport::Udp, local: address(BOX), remote: address(PHONE), connection: None }
    }

    fn request(method: &str, branch: &str) -> Vec<u8> {
        format!(
            "{method} sip:box@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{branch}\r\n\
             From: <sip:door1@10.0.0.2>;tag=a\r\nTo: <sip:door1@10.0.0.2>\r\nCall-ID: {branch}\r\n\
             CSeq: 1 {method}\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn drain(endpoint: &mut Endpoint) -> (Vec<String>, Vec<Event>) {
        let (mut said, mut events) = (Vec::new(), Vec::new());
        while let Some(what) = endpoint.poll() {
            match what {
                Do::Send { bytes, .. } => said.push(String::from_utf8(bytes).unwrap()),
                Do::Event(event) => events.push(event),
                Do::Connect { .. } | Do::Close(_) | Do::Resolve { .. } => {}
            }
        }
        (said, events)
    }

    fn asked(events: &[Event]) -> RequestId {
        match events {
            [Event::OutsideRequested { request, .. }] => *request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_handed_up_once_and_its_answer_repeated() {
        let (now, mut endpoint) = (Instant::now(), Endpoint::new(Settings::default(), [1; 32]));
        endpoint.handle_datagram(now, phone(), Access::Trusted, &request("REGISTER", "r"));
        endpoint.handle_datagram(now, phone(), Access::Trusted, &request("REGISTER", "r"));
        let (said, events) = drain(&mut endpoint);
        assert!(said.is_empty());
        let id = asked(&events);
        endpoint.reply(now, id, plain(200));
        endpoint.reply(now, id, plain(403));
        endpoint.handle_datagram(now, phone(), Access::Trusted, &request("REGISTER", "r"));
        let (said, events) = drain(&mut endpoint);
        assert_eq!(said.len(), 2);
        assert!(said.iter().all(|text| text.starts_with("SIP/2.0 200 ")) && events.is_empty());
        endpoint.handle_time(now + Duration::from_secs(40));
        assert_eq!(endpoint.open_transactions(), 0);
        assert_eq!(endpoint.wake_at(), None);
    }

    #[test]
    fn what_nobody_answers_gets_500_and_too_many_503() {
        let (now, mut endpoint) = (Instant::now(), Endpoint::new(Settings::default(), [1; 32]));
        for n in 0..=MOST_OPEN {
            let bytes = request("MESSAGE", &format!("m{n}"));
            endpoint.handle_datagram(now, phone(), Access::Trusted, &bytes);
        }
        let (said, events) = drain(&mut endpoint);
        assert_eq!(events.len(), MOST_OPEN);
        assert!(
            said.len() == 1 && said[0].starts_with("SIP/2.0 503 ") && said[0].contains("Retry-After: 10")
        );
        endpoint.handle_time(now + ANSWER_LIMIT);
        let (said, _) = drain(&mut endpoint);
        assert_eq!(said.len(), MOST_OPEN);
        assert!(said.iter().all(|text| text.starts_with("SIP/2.0 500 ")));
        endpoint.handle_time(now + ANSWER_LIMIT + Duration::from_secs(40));
        assert_eq!((endpoint.open_transactions(), endpoint.wake_at()), (0, None));
    }

    #[test]
    fn ours_hears_one_final_answer_or_408() {
        let (now, mut endpoint) = (Instant::now(), Endpoint::new(Settings::default(), [1; 32]));
        let own = NameAddr::parse("<sip:box@10.0.0.1>").unwrap();
        let outside = Outside {
            method: Method::Message,
            uri: Uri::parse("sip:door1@10.0.0.1").unwrap(),
            from: own.clone(),
            to: own,
            call_id: Some("kept".to_owned()),
            cseq: 7,
            hops: vec![Hop::to(Transport::Udp, PHONE.parse().unwrap(), BOX.parse().unwrap())],
            headers: Vec::new(),
            body: Some(Body { content_type: "text/plain".to_owned(), bytes: b"hello".to_vec() }),
            credentials: None,
        };
        let first = endpoint.send_outside(now, outside.clone());
        let (said, _) = drain(&mut endpoint);
        assert!(said[0].contains("Call-ID: kept\r\n") && said[0].contains("CSeq: 7 MESSAGE\r\n"));
        let answer = |status: &str| {
            let headers: Vec<&str> =
                said[0].lines().filter(|line| line.starts_with(['V', 'F', 'T', 'C'])).collect();
            format!(
                "SIP/2.0 {status}\r\n{}\r\n\r\n",
                headers.join("\r\n").replace("Content-Type: text/plain\r\n", "")
            )
            .replace("Content-Length: 5", "Content-Length: 0")
        };
        for status in ["100 Trying", "202 Accepted", "404 Not Found"] {
            endpoint.handle_datagram(now, phone(), Access::Stranger, answer(status).as_bytes());
        }
        let (_, events) = drain(&mut endpoint);
        assert!(
            matches!(events[..], [Event::OutsideAnswered { request, status: 202, .. }] if request == first),
            "{events:?}"
        );
        let second = endpoint.send_outside(now, outside);
        let mut at = now;
        while let Some(next) = endpoint.wake_at() {
            at = next;
            endpoint.handle_time(at);
        }
        let (_, events) = drain(&mut endpoint);
        assert!(
            matches!(events[..], [Event::OutsideAnswered { request, status: 408, .. }] if request == second),
            "{events:?}"
        );
        assert_eq!((at - now, endpoint.open_transactions()), (Duration::from_secs(32), 0));
    }
}
