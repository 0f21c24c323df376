//! What arrives: screening, matching to transactions (RFC 3261 §17.1.3, §17.2.3) and dialogs (§12.2.2), and the
//! answers the endpoint gives by itself (§8.2).

use std::time::Instant;

use super::super::dialog::DialogKey;
use super::super::message::{Headers, Message, Method, RequestMessage};
use super::super::multipart::{self, Content};
use super::super::parse::{Malformed, is_keep_alive, parse};
use super::authorize::Entry;
use super::compose::{ACCEPT, ALLOW, response_peer, response_to, stamp_source};
use super::transactions::ServerMachine;
use super::{Access, Endpoint, Peer, Response, SessionId};
use super::{options, outside};

impl Endpoint {
    /// One datagram from the peer.
    pub fn handle_datagram(&mut self, now: Instant, peer: Peer, access: Access, bytes: &[u8]) {
        if !is_keep_alive(bytes) {
            self.handle_message(now, peer, access, bytes);
        }
    }

    pub(super) fn handle_message(&mut self, now: Instant, peer: Peer, access: Access, bytes: &[u8]) {
        match parse(bytes) {
            Ok(Message::Request(request)) => self.handle_request(now, peer, access, bytes.len(), request),
            Ok(Message::Response(response)) => {
                self.counters.responses += 1;
                self.handle_response(now, response);
            }
            Err(malformed) => self.handle_malformed(peer, access, &malformed),
        }
    }

    fn handle_malformed(&mut self, peer: Peer, access: Access, malformed: &Malformed) {
        self.counters.malformed += 1;
        tracing::debug!(remote = %peer.remote, "malformed SIP: {}", malformed.why);
        let Some(request) = &malformed.answerable else { return };
        if access == Access::Trusted && request.method != Method::Ack {
            self.reply_stateless(peer, request, malformed.status, &[]);
        }
    }

    /// One response without a transaction behind it; it is sent once and not larger than it must be.
    fn reply_stateless(&mut self, peer: Peer, request: &RequestMessage, status: u16, more: &[(&str, &str)]) {
        let mut request = request.clone();
        stamp_source(&mut request, peer.remote);
        let tag = self.token();
        let mut response = response_to(&request, status, Some(&tag));
        for (name, value) in more {
            response.headers.push(name, (*value).to_owned());
        }
        let to = response_peer(&request, peer);
        self.send(to, response.to_bytes());
    }

    fn handle_request(
        &mut self,
        now: Instant,
        peer: Peer,
        access: Access,
        length: usize,
        mut request: RequestMessage,
    ) {
        self.counters.requests += 1;
        let dialog = self.dialog_of(&request);
        let user = match dialog {
            Some(_) => None,
            None => match self.screen(now, peer, access, length, &request) {
                Entry::Open(user) => user,
                Entry::Closed => return,
            },
        };
        stamp_source(&mut request, peer.remote);
        self.connections.take_alias(peer, &request);
        let Some(key) = server_key(&request) else {
            self.counters.malformed += 1;
            return;
        };
        if request.method == Method::Ack {
            return self.handle_ack(now, &key, dialog, &request);
        }
        if let Some(id) = self.server_of.get(&key).copied() {
            return self.repeat_server(id);
        }
        if self.servers.len() >= self.settings.max_transactions {
            self.counters.overload += 1;
            return self.reply_stateless(peer, &request, 503, &[("Retry-After", "10")]);
        }
        if let Some(refusal) = refusal_of(&request) {
            return self.answer(now, peer, key, request, refusal);
        }
        match (&request.method, dialog) {
            (Method::Cancel, _) => self.handle_cancel(now, peer, key, request),
            (_, Some(session)) => self.handle_in_dialog(now, peer, key, session, request),
            (method, None) if request.to().is_some_and(|to| to.tag().is_some()) => {
                tracing::debug!(method = method.as_str(), "a request of a dialog that is not here");
                self.answer(now, peer, key, request, plain(481));
            }
            (Method::Invite, None) => self.handle_invite(now, peer, key, request, user),
            (Method::Options, None) => self.handle_options(now, peer, key, request),
            (method, None) if outside::is_taken(method) => self.handle_outside(now, peer, key, request, user),
            (Method::Bye, None) => self.answer(now, peer, key, request, plain(481)),
            (_, None) => self.answer(now, peer, key, request, plain(405)),
        }
    }

    /// The session whose dialog the request names.
    fn dialog_of(&self, request: &RequestMessage) -> Option<SessionId> {
        let local_tag = request.to()?.tag()?.to_owned();
        let remote_tag = request.from()?.tag().unwrap_or_default().to_owned();
        let key = DialogKey { call_id: request.call_id()?.to_owned(), local_tag, remote_tag };
        self.session_of.get(&key).copied()
    }

    /// Answers finally through a transaction of its own.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        request: RequestMessage,
        response: Response,
    ) {
        let tag = self.token();
        self.answer_as(now, peer, key, request, response, &tag);
    }

    /// The same with a To tag that is known already.
    pub(super) fn answer_as(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        request: RequestMessage,
        response: Response,
        tag: &str,
    ) {
        let to = response_peer(&request, peer);
        let message = self.finish_response(&request, &response, tag, peer);
        let id = self.start_server(key, None, to, request, None);
        self.send_response(now, id, &message);
    }

    fn handle_options(&mut self, now: Instant, peer: Peer, key: String, request: RequestMessage) {
        let mut response = plain(if self.ready { 200 } else { 503 });
        if self.ready {
            let told = [
                ("Allow", ALLOW),
                ("Accept", ACCEPT),
                ("Accept-Encoding", "identity"),
                ("Supported", options::SUPPORTED),
            ];
            for (name, value) in told {
                response.headers.push((name.to_owned(), value.to_owned()));
            }
            if let Some((free, total)) = self.room {
                response.headers.push(("X-Capacity".to_owned(), format!("{free}/{total}")));
            }
        } else {
            response.headers.push(("Retry-After".to_owned(), "10".to_owned()));
        }
        self.answer(now, peer, key, request, response);
    }

    fn handle_ack(&mut self, now: Instant, key: &str, dialog: Option<SessionId>, request: &RequestMessage) {
        // The ACK of a failure has the branch of its INVITE; that of a 2xx is a request of the dialog, also from
        // peers that give it the branch of the INVITE.
        if let Some(id) = self.server_of.get(key).copied()
            && let Some(transaction) = self.servers.get_mut(&id)
            && let ServerMachine::Invite(machine) = &mut transaction.machine
            && !machine.is_accepted()
        {
            machine.handle_ack(now);
            return self.tend_server(id);
        }
        match dialog {
            Some(session) => self.session_acked(now, session, request),
            None => self.counters.stray += 1,
        }
    }
}

/// Every Reason header as one comma list (RFC 3326).
pub(super) fn reason_of(headers: &Headers) -> Option<String> {
    let lines: Vec<&str> = headers.values("Reason").collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

pub(super) fn plain(status: u16) -> Response {
    Response { status, ..Response::default() }
}

/// The checks of §8.2.1 to §8.2.3 that need no state.
fn refusal_of(request: &RequestMessage) -> Option<Response> {
    if request.headers.value("Max-Forwards").is_some_and(|hops| hops.trim() == "0")
        && request.method != Method::Options
    {
        return Some(plain(483));
    }
    if let Some(refusal) = options::refusal(request) {
        return Some(refusal);
    }
    if request.method == Method::Invite && !accepts_sdp(&request.headers) {
        return Some(plain(406));
    }
    let kind = request.headers.value("Content-Type").unwrap_or_default();
    let may_offer = matches!(request.method, Method::Invite | Method::Update | Method::Prack);
    let with_offer = may_offer && !request.body.is_empty();
    if with_offer && multipart::description(kind, &request.body) == Content::Other {
        return Some(Response {
            headers: vec![("Accept".to_owned(), "application/sdp, multipart/mixed".to_owned())],
            ..plain(415)
        });
    }
    None
}

/// Without the header a description is what is wanted (§20.1).
fn accepts_sdp(headers: &Headers) -> bool {
    let mut kinds = headers.list("Accept").peekable();
    if kinds.peek().is_none() {
        return headers.value("Accept").is_none();
    }
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        ["application/sdp", "application/*", "*/*"].iter().any(|known| kind.eq_ignore_ascii_case(known))
    })
}

/// What a server transaction is found by: the branch, sent-by and method (an ACK and a CANCEL find their INVITE
/// by it too), or for peers of RFC 2543 the identity of the request.
pub(super) fn server_key(request: &RequestMessage) -> Option<String> {
    let via = request.via()?;
    let method = match request.method {
        Method::Ack => "INVITE",
        _ => request.method.as_str(),
    };
    let sent_by = format!("{}:{}", via.host.to_ascii_lowercase(), via.port.unwrap_or(5060));
    if let Some(branch) = via.unique_branch() {
        return Some(format!("{branch}|{sent_by}|{method}"));
    }
    let branch = via.branch().unwrap_or_default();
    let cseq = request.cseq()?.number;
    let from = request.from()?;
    let tag = from.tag().unwrap_or_default();
    Some(format!("{}|{tag}|{cseq}|{}|{sent_by}|{branch}|{method}", request.call_id()?, request.uri))
}
