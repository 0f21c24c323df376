//! A telephone that says what a scenario tells it to say: one call, as text, without timers of its own.

use std::net::SocketAddr;
use std::time::Instant;

use eyeline::sdp::{self, SessionDescription};
use eyeline::sip::NameAddr;
use eyeline::sip::message::{Message, Method, RequestMessage, ResponseMessage};
use eyeline::sip::parse::parse;

pub struct Phone {
    pub address: SocketAddr,
    agent: SocketAddr,
    /// Says 100 to an INVITE, acknowledges refusals, answers BYE, INFO, PRACK and UPDATE, as every phone does by itself.
    pub polite: bool,
    /// Header lines in every request and response from now on.
    pub more: String,
    /// The tag of its responses to an INVITE, when it answers as a fork.
    pub fork: Option<&'static str>,
    pub heard: Vec<(Instant, Message)>,
    pub outbox: Vec<Vec<u8>>,
    call_id: String,
    tag: String,
    own: String,
    theirs: String,
    target: String,
    cseq: u32,
    branches: u32,
    invite: (u32, String),
}

/// Body of a request: type and text.
pub type Content<'a> = Option<(&'a str, &'a str)>;

impl Phone {
    pub fn new(number: usize, agent: SocketAddr) -> Self {
        let address: SocketAddr = format!("10.0.0.{}:5060", number + 1).parse().unwrap();
        Phone {
            address,
            agent,
            polite: true,
            more: String::new(),
            fork: None,
            heard: Vec::new(),
            outbox: Vec::new(),
            call_id: format!("call-{number}"),
            tag: format!("phone{number}"),
            own: format!("<sip:phone{number}@10.0.0.{}>;tag=phone{number}", number + 1),
            theirs: String::new(),
            target: String::new(),
            cseq: 0,
            branches: 0,
            invite: (0, String::new()),
        }
    }

    /// An INVITE that begins a call.
    pub fn invite(&mut self, user: &str, sdp: Option<&str>) {
        self.target = format!("sip:{user}@{}", self.agent);
        self.theirs = format!("<{}>", self.target);
        self.send_invite(sdp);
    }

    /// An INVITE with a body of any kind.
    pub fn invite_with(&mut self, user: &str, content: (&str, &str)) {
        self.invite(user, None);
        self.outbox.pop();
        let (cseq, branch) = self.invite.clone();
        self.send("INVITE", cseq, &branch, Some(content));
    }

    /// Requests go outside any call from now on.
    pub fn prepare_outside(&mut self) {
        self.target = format!("sip:{}", self.agent);
        self.theirs = format!("<{}>", self.target);
    }

    /// An INVITE inside the call.
    pub fn reinvite(&mut self, sdp: Option<&str>) {
        self.send_invite(sdp);
    }

    fn send_invite(&mut self, sdp: Option<&str>) {
        self.cseq += 1;
        self.branches += 1;
        self.invite = (self.cseq, format!("i{}", self.branches));
        self.send_invite_again(sdp);
    }

    /// The same INVITE once more.
    pub fn send_invite_again(&mut self, sdp: Option<&str>) {
        let (cseq, branch) = self.invite.clone();
        self.send("INVITE", cseq, &branch, sdp.map(|text| ("application/sdp", text)));
    }

    pub fn ack(&mut self, sdp: Option<&str>) {
        self.branches += 1;
        let branch = format!("a{}", self.branches);
        self.send("ACK", self.invite.0, &branch, sdp.map(|text| ("application/sdp", text)));
    }

    pub fn cancel(&mut self) {
        let (cseq, branch) = self.invite.clone();
        self.send("CANCEL", cseq, &branch, None);
    }

    pub fn bye(&mut self) {
        self.request("BYE", None);
    }

    /// A request with further header lines.
    pub fn request_with(&mut self, method: &str, more: &str, content: Content<'_>) {
        let before = std::mem::replace(&mut self.more, more.to_owned());
        self.request(method, content);
        self.more = before;
    }

    /// Call-ID, its own tag and that of its peer.
    pub fn dialog(&self) -> (String, String, String) {
        let tag = |address: &str| {
            let read = NameAddr::parse(address).unwrap();
            read.tag().unwrap_or_default().to_owned()
        };
        (self.call_id.clone(), tag(&self.own), tag(&self.theirs))
    }

    pub fn request(&mut self, method: &str, content: Content<'_>) {
        self.cseq += 1;
        self.branches += 1;
        let branch = format!("r{}", self.branches);
        self.send(method, self.cseq, &branch, content);
    }

    fn send(&mut self, method: &str, cseq: u32, branch: &str, content: Content<'_>) {
        let (address, own, theirs, call_id) = (self.address, &self.own, &self.theirs, &self.call_id);
        let (kind, body) = content.unwrap_or_default();
        let more = if matches!(method, "ACK") { "" } else { &self.more };
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        // Of a CANCEL: To as in its INVITE (RFC 3261 §9.1).
        let (theirs, target) = match method {
            "CANCEL" => (theirs.split(";tag=").next().unwrap_or_default(), &self.target),
            _ => (theirs.as_str(), &self.target),
        };
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {address};rport;branch=z9hG4bK{}{branch}\r\n\
             Max-Forwards: 70\r\nFrom: {own}\r\nTo: {theirs}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{address}>\r\n{more}{kind}Content-Length: {}\r\n\r\n{body}",
            self.tag,
            body.len()
        );
        self.outbox.push(text.into_bytes());
    }

    /// Answers the last request of this method.
    pub fn reply(&mut self, method: Method, status: u16, sdp: Option<&str>) {
        let request = self.requests(method).pop().expect("a request to reply to").clone();
        self.reply_to(&request, status, sdp);
    }

    fn reply_to(&mut self, request: &RequestMessage, status: u16, sdp: Option<&str>) {
        let mut response = ResponseMessage::answering(request, status);
        let mut to = request.to().unwrap();
        if status > 100 && to.tag().is_none() {
            to.set_tag(self.fork.unwrap_or(&self.tag));
            response.headers.set("To", to.to_string());
        }
        if !(300..400).contains(&status) {
            response.headers.push("Contact", format!("<sip:{}>", self.address));
        }
        for line in self.more.lines().filter(|_| status > 100) {
            let (name, value) = line.split_once(": ").unwrap();
            response.headers.push(name, value);
        }
        if let Some(text) = sdp {
            response.headers.push("Content-Type", "application/sdp");
            response.body = text.as_bytes().to_vec();
        }
        if request.method == Method::Invite && status > 100 {
            self.theirs = request.headers.value("From").unwrap().to_owned();
            self.own = response.headers.value("To").unwrap().to_owned();
            self.call_id = request.call_id().unwrap().to_owned();
            self.target = request.contact().unwrap().uri.to_string();
        }
        self.outbox.push(response.to_bytes());
    }

    pub fn hears(&mut self, now: Instant, bytes: &[u8]) {
        if bytes == b"\r\n\r\n" {
            return;
        }
        let message =
            parse(bytes).unwrap_or_else(|wrong| panic!("{wrong}: {}", String::from_utf8_lossy(bytes)));
        match &message {
            Message::Response(response) => self.hears_response(response),
            Message::Request(request) if self.polite => match request.method {
                Method::Invite => self.reply_to(request, 100, None),
                Method::Bye | Method::Info | Method::Prack | Method::Update | Method::Notify => {
                    self.reply_to(request, 200, None);
                }
                _ => {}
            },
            Message::Request(_) => {}
        }
        self.heard.push((now, message));
    }

    fn hears_response(&mut self, response: &ResponseMessage) {
        let cseq = response.cseq().unwrap();
        if cseq.method != Method::Invite || cseq.number != self.invite.0 || response.status == 100 {
            return;
        }
        let to = response.headers.value("To").unwrap();
        assert!(NameAddr::parse(to).unwrap().tag().is_some(), "a response without our peer's tag");
        if response.status >= 300 {
            if self.polite {
                let established = std::mem::replace(&mut self.theirs, to.to_owned());
                let branch = self.invite.1.clone();
                self.send("ACK", cseq.number, &branch, None);
                self.theirs = established;
            }
            return;
        }
        self.theirs = to.to_owned();
        if let Some(contact) = response.contact() {
            self.target = contact.uri.to_string();
        }
    }

    pub fn requests(&self, method: Method) -> Vec<&RequestMessage> {
        let requests = self.heard.iter().filter_map(|(_, message)| match message {
            Message::Request(request) => Some(request),
            Message::Response(_) => None,
        });
        requests.filter(|request| request.method == method).collect()
    }

    fn responses(&self, method: &Method) -> impl Iterator<Item = &ResponseMessage> {
        let responses = self.heard.iter().filter_map(|(_, message)| match message {
            Message::Response(response) => Some(response),
            Message::Request(_) => None,
        });
        responses.filter(move |response| response.cseq().unwrap().method == *method)
    }

    /// Every status heard for a method, but for 100.
    pub fn statuses(&self, method: Method) -> Vec<u16> {
        self.responses(&method).map(|response| response.status).filter(|status| *status != 100).collect()
    }

    /// The last response to a method.
    pub fn response(&self, method: Method) -> &ResponseMessage {
        self.responses(&method).last().expect("a response")
    }

    /// The body of the last 2xx to an INVITE.
    pub fn answer(&self) -> String {
        let response = self.response(Method::Invite);
        assert_eq!(response.status, 200);
        String::from_utf8(response.body.clone()).unwrap()
    }

    /// The same, read.
    pub fn described(&self) -> SessionDescription {
        sdp::parse(self.answer().as_bytes()).unwrap()
    }
}
