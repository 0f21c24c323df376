//! Our INVITEs, from the request to the ACK of a 2xx, and every response that comes: the client side of RFC 3261 §9 and
//! §13. What follows inside the dialog is `asking`'s.

use std::time::Instant;

use super::super::dialog::Dialog;
use super::super::digest::client::Client as Prover;
use super::super::header::NameAddr;
use super::super::message::{Body, Headers, Method, RequestMessage, ResponseMessage, reason_phrase};
use super::super::party::shown;
use super::compose::{ALLOW, dialog_peer, set_body};
use super::known::with_display;
use super::options::{self, SUPPORTED};
use super::session::{Cancel, Session, State};
use super::timer::SessionTimer;
use super::transactions::{ClientMachine, User};
use super::{Endpoint, Event, Outgoing, Peer, SessionId};
use crate::sip::transaction::client_invite::Received;

impl Endpoint {
    /// Sends an INVITE and makes its session.
    pub fn invite(&mut self, now: Instant, outgoing: Outgoing) -> SessionId {
        let session = SessionId(self.new_id());
        let tag = self.token();
        let Some((hop, rest)) = self.places(outgoing.hops) else {
            let reason = reason_phrase(503).to_owned();
            self.event(Event::Failed { session, status: 503, reason, headers: Headers::default() });
            return session;
        };
        let peer = hop.peer();
        let (branch, via) = self.new_via(peer.transport, peer.local);
        let mut from = outgoing.from;
        from.set_tag(&tag);
        let mut headers = Headers::default();
        headers.push("Via", via);
        headers.push("Max-Forwards", "70".to_owned());
        headers.push("From", from.to_string());
        headers.push("To", NameAddr::new(outgoing.to.clone()).to_string());
        headers.push("Call-ID", self.token());
        headers.push("CSeq", "1 INVITE".to_owned());
        let display = from.display.as_deref().map(shown).unwrap_or_default();
        headers.push("Contact", with_display(&display, self.contact(peer.transport, peer.local)));
        let identifier = self.new_identifier(None);
        headers.push("Session-ID", identifier.to_string());
        headers.push("Allow", ALLOW.to_owned());
        headers.push("Supported", SUPPORTED.to_owned());
        for (name, value) in self.timer_headers_of(&SessionTimer::default()) {
            headers.push(&name, value);
        }
        self.identify(&mut headers, "User-Agent");
        for (name, value) in &outgoing.headers {
            headers.push(name, value.clone());
        }
        let mut body = Vec::new();
        set_body(&mut headers, &mut body, outgoing.body.as_ref());
        let uri = outgoing.target.unwrap_or(outgoing.to);
        let request = RequestMessage { method: Method::Invite, uri, headers, body };
        let state = State::Inviting { cancel: Cancel::No };
        let mut made = Session::new(state, peer, hop.local, tag, 0);
        made.sent_invite = Some(request.clone());
        (made.identifier, made.display) = (Some(identifier), display);
        made.prover = outgoing.credentials.map(Prover::new);
        self.sessions.insert(session, made);
        let user = User::Invite(session);
        let id = self.start_client_over(now, peer, rest, branch, request, user);
        if let Some(made) = self.sessions.get_mut(&session) {
            made.invite = id;
        }
        session
    }

    /// Acknowledges the 2xx to our INVITE, with an answer when the 2xx carried the offer.
    pub fn ack(&mut self, now: Instant, session: SessionId, body: Option<Body>) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let State::Accepted { cseq } = state.state else { return };
        state.state = State::Confirmed;
        self.send_ack(now, session, cseq, body.as_ref());
    }

    pub(super) fn send_ack(&mut self, _now: Instant, session: SessionId, cseq: u32, body: Option<&Body>) {
        let Some(state) = self.sessions.get(&session) else { return };
        let Some(dialog) = &state.dialog else { return };
        let (peer, tag) = (dialog_peer(dialog, state), dialog.key.remote_tag.clone());
        let ack = dialog.ack(cseq);
        let bytes = self.complete(session, ack, peer, body);
        self.send(peer, bytes.clone());
        if let Some(state) = self.sessions.get_mut(&session) {
            state.keep_ack(cseq, tag, peer, bytes);
        }
    }

    /// The bytes of an ACK to a 2xx: a request without a transaction.
    fn complete(
        &mut self,
        session: SessionId,
        mut ack: RequestMessage,
        peer: Peer,
        body: Option<&Body>,
    ) -> Vec<u8> {
        let (_, via) = self.new_via(peer.transport, peer.local);
        ack.headers.prepend("Via", via);
        if let Some(state) = self.sessions.get(&session) {
            self.finish_request(&mut ack, state, &[], body);
            for (name, value) in &state.proof {
                ack.headers.push(name, value.clone());
            }
        }
        ack.to_bytes()
    }

    /// Gives up our INVITE: CANCEL as soon as a provisional response allows it (§9.1). `Failed` or `Ended` follows.
    pub fn cancel(&mut self, now: Instant, session: SessionId, reason: Option<&str>) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let State::Inviting { cancel } = &mut state.state else { return };
        if *cancel != Cancel::No {
            return;
        }
        *cancel = Cancel::Wanted;
        state.cancel_reason = reason.map(str::to_owned);
        let invite = state.invite;
        let may = self.clients.get(&invite).is_some_and(|transaction| match &transaction.machine {
            ClientMachine::Invite(machine) => machine.is_proceeding(),
            ClientMachine::Other(_) => false,
        });
        if may {
            self.send_cancel(now, session);
        }
    }

    fn send_cancel(&mut self, now: Instant, session: SessionId) {
        let patience = self.patience();
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.state = State::Inviting { cancel: Cancel::Sent { give_up_at: now + patience } };
        let Some(transaction) = self.clients.get(&state.invite) else { return };
        let (peer, branch) = (transaction.peer, transaction.key.0.clone());
        let mut cancel = hop_request(&transaction.request, Method::Cancel, None);
        if let Some(reason) = &state.cancel_reason {
            cancel.headers.push("Reason", reason.clone());
        }
        self.start_client(now, peer, branch, cancel, User::Nobody);
        self.tend_session(session);
    }

    /// A cancelled INVITE whose final response never comes is given up.
    pub(super) fn cancel_time(&mut self, now: Instant, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        let State::Inviting { cancel: Cancel::Sent { give_up_at } } = state.state else { return };
        if now < give_up_at {
            return;
        }
        let invite = state.invite;
        if let Some(transaction) = self.clients.get_mut(&invite)
            && let ClientMachine::Invite(machine) = &mut transaction.machine
        {
            machine.terminate();
        }
        self.tend_client(invite);
        self.client_failed(now, User::Invite(session), 408);
    }

    /// A response: matched by branch and CSeq method (§17.1.3). One with a second Via is for somebody behind us, and
    /// we are no proxy (§8.1.3.3).
    pub(super) fn handle_response(&mut self, now: Instant, response: ResponseMessage) {
        if response.headers.list("Via").nth(1).is_some() {
            self.counters.stray += 1;
            return;
        }
        let branch = response.via().and_then(|via| via.branch().map(str::to_owned));
        let method = response.cseq().map(|cseq| cseq.method);
        let (Some(branch), Some(method)) = (branch, method) else {
            self.counters.malformed += 1;
            return;
        };
        let Some(id) = self.client_of.get(&(branch, method)).copied() else {
            self.counters.stray += 1;
            return;
        };
        let Some(user) = self.clients.get(&id).map(|transaction| transaction.user.clone()) else { return };
        self.hear_identifier(&user, &response);
        let Some(transaction) = self.clients.get_mut(&id) else { return };
        let refused = (response.status == 422).then(|| transaction.request.clone());
        let (deliver, ack) = match &mut transaction.machine {
            ClientMachine::Invite(machine) => match machine.handle_response(now, response.status) {
                Received::Deliver => (true, false),
                Received::DeliverAndAck => (true, true),
                Received::Ack => (false, true),
                Received::Ignore => (false, false),
            },
            ClientMachine::Other(machine) => (machine.handle_response(now, response.status), false),
        };
        if ack {
            // §17.1.1.3: same branch, the To of the response.
            let ack = hop_request(&transaction.request, Method::Ack, response.headers.value("To"));
            let peer = transaction.peer;
            self.send(peer, ack.to_bytes());
        }
        let unproven = if deliver { self.unproven(id, response.status) } else { None };
        self.tend_client(id);
        if unproven.is_some_and(|unproven| self.prove(now, unproven, &response)) {
            return;
        }
        if deliver && refused.is_some_and(|request| self.ask_longer(now, &user, request, &response)) {
            return;
        }
        // RFC 3263 §4.3: a place that is overloaded is left for the next one.
        if deliver && (response.status != 503 || !self.next_place(now, id)) {
            let invited = if let User::Invite(session) = &user { Some(*session) } else { None };
            if let Some(session) = invited {
                self.learn_hop(id, session, &response);
            }
            self.deliver(now, user, response);
            invited.into_iter().for_each(|session| self.seek_target(session));
        }
    }

    fn deliver(&mut self, now: Instant, user: User, response: ResponseMessage) {
        match (user, response.status) {
            (User::Invite(session), 100..=199) => self.invite_progress(now, session, response),
            (User::Invite(session), 200..=299) => self.invite_answered(now, session, &response),
            (User::Invite(session), status) => {
                self.forget_session(now, session);
                let reason = response.reason;
                self.event(Event::Failed { session, status, reason, headers: response.headers });
            }
            (User::Request(session, request, method), 200..) => {
                self.responded(now, session, request, method, response);
            }
            (User::Bye(session), 200..) => {
                self.forget_session(now, session);
                self.event(Event::Ended { session });
            }
            (User::Outside(request), 200..) => self.outside_answered(request, response),
            (User::Refresh(session), 200..) => self.refreshed(now, session, &response),
            (User::Request(..) | User::Refresh(_) | User::Bye(_) | User::Outside(_), _)
            | (User::Prack(_) | User::Nobody, _) => {}
        }
    }

    fn invite_progress(&mut self, now: Instant, session: SessionId, response: ResponseMessage) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.progressed |= response.status > 100;
        if matches!(state.state, State::Inviting { cancel: Cancel::Wanted }) {
            self.send_cancel(now, session);
        }
        let status = response.status;
        // 199 says that one fork has given up (RFC 6228): the others go on.
        if status > 100 && self.take_provisional(now, session, &response) && status != 199 {
            let body = response.body();
            let reliable = options::names(&response.headers, "Require", "100rel");
            let fork = fork_of(&response);
            let headers = response.headers;
            self.event(Event::Progress { session, status, fork, reliable, headers, body });
        }
    }

    fn invite_answered(&mut self, now: Instant, session: SessionId, response: &ResponseMessage) {
        let cseq = response.cseq().map_or(1, |cseq| cseq.number);
        let tag = fork_of(response);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let kept = state.acks.iter().find(|(known, remote, ..)| *known == cseq && *remote == tag);
        if let Some((_, _, peer, bytes)) = kept {
            // Our ACK was lost.
            let (peer, bytes) = (*peer, bytes.clone());
            self.counters.retransmissions += 1;
            self.send(peer, bytes);
            return;
        }
        let Some(invite) = &state.sent_invite else { return };
        let Some(mut dialog) = Dialog::of_answer(invite, response) else {
            self.counters.malformed += 1;
            return;
        };
        self.confirm(session, &mut dialog);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let State::Inviting { cancel } = state.state else {
            let ours = state.dialog.as_ref().is_some_and(|ours| ours.key == dialog.key);
            // Another branch of a fork answered too: it gets its ACK and a BYE (§13.2.2.4).
            if !ours {
                self.refuse_fork(now, session, dialog, cseq);
            }
            return;
        };
        self.session_of.insert(dialog.key.clone(), session);
        state.dialog = Some(dialog);
        if cancel == Cancel::No {
            state.state = State::Accepted { cseq };
            self.take_timer(now, session, response);
            let (headers, body) = (response.headers.clone(), response.body());
            self.event(Event::Answered { session, fork: tag, headers, body });
        } else {
            // The answer overtook our CANCEL.
            state.state = State::Confirmed;
            self.send_ack(now, session, cseq, None);
            self.send_bye(now, session, None);
        }
        self.tend_session(session);
    }

    fn refuse_fork(&mut self, now: Instant, session: SessionId, mut dialog: Dialog, cseq: u32) {
        let Some(state) = self.sessions.get(&session) else { return };
        let peer = dialog_peer(&dialog, state);
        let tag = dialog.key.remote_tag.clone();
        let ack = dialog.ack(cseq);
        let bytes = self.complete(session, ack, peer, None);
        self.send(peer, bytes.clone());
        if let Some(state) = self.sessions.get_mut(&session) {
            state.keep_ack(cseq, tag, peer, bytes);
        }
        let mut bye = dialog.request(Method::Bye);
        let (branch, via) = self.new_via(peer.transport, peer.local);
        bye.headers.prepend("Via", via);
        self.start_client(now, peer, branch, bye, User::Nobody);
    }

    /// A request of ours got no response (408) or could not be sent (503).
    pub(super) fn client_failed(&mut self, now: Instant, user: User, status: u16) {
        let reason = reason_phrase(status).to_owned();
        match user {
            User::Invite(session) => {
                if self.sessions.get(&session).is_some_and(|s| matches!(s.state, State::Inviting { .. })) {
                    self.forget_session(now, session);
                    self.event(Event::Failed { session, status, reason, headers: Headers::default() });
                }
            }
            User::Request(session, request, method) => {
                let Some(state) = self.sessions.get_mut(&session) else { return };
                match method {
                    Method::Invite => state.our_reinvite = None,
                    Method::Update => state.our_update = None,
                    _ => {}
                }
                let of_usage = method == Method::Notify;
                let headers = Headers::default();
                self.event(Event::Responded { session, request, method, status, headers, body: None });
                if status == 408 && !of_usage {
                    // §12.2.1.2: a dialog whose peer does not answer is over.
                    self.bye(now, session, Some("SIP;cause=408;text=\"no answer inside the dialog\""));
                    self.event(Event::ByeReceived { session, reason: None });
                }
            }
            User::Refresh(session) => self.refresh_failed(now, session, status),
            User::Bye(session) => {
                self.forget_session(now, session);
                self.event(Event::Ended { session });
            }
            User::Outside(request) => self.outside_failed(request, status),
            User::Prack(_) | User::Nobody => {}
        }
    }
}

/// Whose response it is, among the forks of one INVITE: the tag of its To.
fn fork_of(response: &ResponseMessage) -> String {
    response.to().and_then(|to| to.tag().map(str::to_owned)).unwrap_or_default()
}

/// CANCEL (§9.1) and the ACK of a failure (§17.1.1.3): the INVITE's own hop, routes and CSeq number.
fn hop_request(invite: &RequestMessage, method: Method, to: Option<&str>) -> RequestMessage {
    let mut headers = Headers::default();
    if let Some(via) = invite.headers.list("Via").next() {
        headers.push("Via", via.to_owned());
    }
    for route in invite.headers.values("Route") {
        headers.push("Route", route.to_owned());
    }
    headers.push("Max-Forwards", "70".to_owned());
    for name in ["From", "To", "Call-ID"] {
        let own = invite.headers.value(name);
        let value = if name == "To" { to.or(own) } else { own };
        if let Some(value) = value {
            headers.push(name, value.to_owned());
        }
    }
    let number = invite.cseq().map_or(1, |cseq| cseq.number);
    headers.push("CSeq", format!("{number} {}", method.as_str()));
    if let Some(identifier) = invite.headers.value("Session-ID") {
        headers.push("Session-ID", identifier.to_owned());
    }
    RequestMessage { method, uri: invite.uri.clone(), headers, body: Vec::new() }
}
