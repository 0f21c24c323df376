//! Their INVITEs, from 100 to the ACK of a 2xx: the server side of RFC 3261 §9 and §13. What follows inside the dialog
//! is `asked`'s.

use std::time::Instant;

use super::super::dialog::Dialog;
use super::super::message::{Method, RequestMessage};
use super::compose::response_peer;
use super::inbound::{plain, reason_of, server_key};
use super::session::{Repeat, Session, State};
use super::transactions::ServerMachine;
use super::{Endpoint, Event, Incoming, Peer, Response, SessionId, Timer};

impl Endpoint {
    pub(super) fn handle_invite(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        request: RequestMessage,
        user: Option<String>,
    ) {
        let merge = merge_key(&request);
        if merge.as_ref().is_some_and(|merge| self.merges.contains_key(merge)) {
            return self.answer(now, peer, key, request, plain(482));
        }
        if self.sessions.len() >= self.settings.max_sessions {
            self.counters.overload += 1;
            let headers = vec![("Retry-After".to_owned(), "10".to_owned())];
            return self.answer(now, peer, key, request, Response { headers, ..plain(503) });
        }
        if let Some(refusal) = self.too_brief(&request) {
            return self.answer(now, peer, key, request, refusal);
        }
        let tag = self.token();
        let dialog = Dialog::of_invited(&request, &tag, 0);
        let (Some(dialog), Some(from), Some(to), Some(call_id)) =
            (dialog, request.from(), request.to(), request.call_id().map(str::to_owned))
        else {
            self.counters.malformed += 1;
            return self.answer(now, peer, key, request, plain(400));
        };
        let session = SessionId(self.new_id());
        let invite = Incoming {
            peer,
            request_uri: request.uri.clone(),
            from,
            to,
            call_id,
            headers: request.headers.clone(),
            body: request.body(),
            user,
        };
        let translated = behind_translator(&request, peer);
        let to = response_peer(&request, peer);
        let transaction = self.start_server(key, merge, to, request, Some(session));
        let mut state = Session::new(State::Invited, peer, peer.local, tag, transaction);
        state.behind_translator = translated;
        state.identifier = Some(self.new_identifier(invite.headers.value("Session-ID")));
        self.session_of.insert(dialog.key.clone(), session);
        state.dialog = Some(dialog);
        self.sessions.insert(session, state);
        self.say_trying();
        self.unanswered = Some((now, transaction));
        self.event(Event::Invited { session, invite: Box::new(invite) });
    }

    /// 100 for an INVITE that nothing else was said to when it had been told of (RFC 3261 §17.2.1): who rings or
    /// refuses at once needs none.
    pub(super) fn say_trying(&mut self) {
        let Some((now, transaction)) = self.unanswered.take() else { return };
        let Some(server) = self.servers.get(&transaction).filter(|server| server.last.is_none()) else {
            return;
        };
        let mut message = super::compose::response_to(&server.request, 100, None);
        let identifier = server.session.and_then(|session| self.identifier(session));
        if let Some(identifier) = identifier {
            message.headers.push("Session-ID", identifier);
        }
        self.send_response(now, transaction, &message);
    }

    /// Answers the INVITE of a session: 18x (reliable when the caller asks for it, or can and it has a body), 2xx
    /// (repeated until its ACK; after the PRACK of an 18x with a body), or a final refusal that ends the session.
    pub fn respond(&mut self, now: Instant, session: SessionId, response: Response) {
        let Some(state) = self.sessions.get(&session) else { return };
        if !matches!(state.state, State::Invited) {
            return;
        }
        let Some(mut response) = self.in_turn(session, response) else { return };
        let rseq = self.number(session, &mut response);
        let Some(state) = self.sessions.get(&session) else { return };
        let (transaction, tag, peer) = (state.invite, state.local_tag.clone(), state.peer);
        let Some(server) = self.servers.get(&transaction) else { return };
        if (200..300).contains(&response.status) {
            let request = server.request.clone();
            response.headers.extend(self.grant_timer(now, session, &request));
        }
        let Some(server) = self.servers.get(&transaction) else { return };
        let message = self.finish_response(&server.request, &response, &tag, peer);
        if !self.send_response(now, transaction, &message) {
            return;
        }
        match response.status {
            0..=199 => {
                if let Some(rseq) = rseq {
                    let described = response.body.is_some();
                    self.repeat_until_prack(now, session, transaction, rseq, described);
                }
            }
            200..=299 => {
                self.repeat_until_ack(now, session, transaction);
                if let Some(state) = self.sessions.get_mut(&session) {
                    state.state = State::Answered { bye: None };
                }
            }
            _ => self.forget_session(now, session),
        }
    }

    /// Keeps sending the transaction's 2xx until the session's ACK.
    pub(super) fn repeat_until_ack(&mut self, now: Instant, session: SessionId, transaction: u64) {
        let Some(server) = self.servers.get(&transaction) else { return };
        let timers = self.settings.timers;
        let repeat = Repeat {
            bytes: server.last.clone().unwrap_or_default(),
            peer: server.peer,
            cseq: server.request.cseq().map_or(0, |cseq| cseq.number),
            // A stream loses nothing, but a proxy further on may: §13.3.1.4 repeats on every transport.
            resend_at: now + timers.t1,
            interval: timers.t1,
            give_up_at: now + timers.patience(),
        };
        if let Some(state) = self.sessions.get_mut(&session) {
            state.repeat = Some(repeat);
        }
        self.tend_session(session);
    }

    pub(super) fn session_time(&mut self, now: Instant, session: SessionId) {
        let t2 = self.settings.timers.t2;
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.armed = None;
        if let Some(repeat) = &mut state.repeat {
            if now >= repeat.give_up_at {
                state.repeat = None;
                state.state = State::Confirmed;
                self.event(Event::AckTimedOut { session });
                return self.bye(now, session, Some("SIP;cause=408;text=\"ACK not received\""));
            }
            if now >= repeat.resend_at {
                repeat.interval = (repeat.interval * 2).min(t2);
                repeat.resend_at = now + repeat.interval;
                let (peer, bytes) = (repeat.peer, repeat.bytes.clone());
                self.counters.retransmissions += 1;
                self.send(peer, bytes);
            }
        }
        self.prack_time(now, session);
        self.cancel_time(now, session);
        self.refresh_time(now, session);
        self.tend_session(session);
    }

    pub(super) fn session_acked(&mut self, now: Instant, session: SessionId, request: &RequestMessage) {
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.repeat.as_ref().is_none_or(|repeat| repeat.cseq != cseq) {
            // A repeated ACK.
            return;
        }
        state.repeat = None;
        let bye = match &mut state.state {
            State::Answered { bye } => {
                let bye = bye.take();
                state.state = State::Confirmed;
                bye
            }
            State::Invited | State::Inviting { .. } | State::Accepted { .. } => None,
            State::Confirmed | State::Closing => None,
        };
        self.event(Event::Acked { session, body: request.body() });
        if let Some(reason) = bye {
            self.bye(now, session, reason.as_deref());
        }
        self.seek_target(session);
        self.tend_session(session);
    }

    pub(super) fn handle_cancel(&mut self, now: Instant, peer: Peer, key: String, request: RequestMessage) {
        let as_invite = RequestMessage { method: Method::Invite, ..request.clone() };
        let invite = server_key(&as_invite).and_then(|key| self.server_of.get(&key).copied());
        let Some(invite) = invite else {
            return self.answer(now, peer, key, request, plain(481));
        };
        let reason = reason_of(&request.headers);
        // §9.2: with the tag of what is cancelled, or a late CANCEL gives the caller's dialog another name.
        let session = self.servers.get(&invite).and_then(|transaction| transaction.session);
        let tag = session.and_then(|session| Some(self.sessions.get(&session)?.local_tag.clone()));
        let tag = tag.unwrap_or_else(|| self.token());
        self.answer_as(now, peer, key, request, plain(200), &tag);
        let Some(transaction) = self.servers.get(&invite) else { return };
        let pending =
            matches!(&transaction.machine, ServerMachine::Invite(machine) if machine.is_proceeding());
        let Some(session) = transaction.session.filter(|_| pending) else { return };
        let Some(state) = self.sessions.get(&session) else { return };
        if state.invite == invite {
            self.respond(now, session, plain(487));
            return self.event(Event::Cancelled { session, reason });
        }
        let reinvite = state.open.iter().find(|(_, open)| **open == invite).map(|(request, _)| *request);
        self.close_request(now, session, invite, plain(487));
        if let Some(request) = reinvite {
            self.event(Event::Withdrawn { session, request });
        }
    }

    /// Arms the session's timer.
    pub(super) fn tend_session(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let wanted = state.wake_at();
        let armed = std::mem::replace(&mut state.armed, wanted);
        self.rearm(Timer::Session(session), armed, wanted);
    }

    pub(super) fn forget_session(&mut self, now: Instant, session: SessionId) {
        self.close_open(now, session);
        let Some(state) = self.sessions.remove(&session) else { return };
        if let Some(transaction) = state.our_reinvite {
            // Its final response is still acknowledged, if it comes in time.
            let until = now + self.patience();
            self.limit_client(transaction, until);
        }
        self.rearm(Timer::Session(session), state.armed, None);
        for early in state.early {
            self.session_of.remove(&early.dialog.key);
        }
        if let Some(dialog) = state.dialog {
            self.session_of.remove(&dialog.key);
        }
    }
}

/// One hop, and the address the peer knows itself by is not the one it is seen from.
fn behind_translator(request: &RequestMessage, peer: Peer) -> bool {
    let hops = request.headers.list("Via").count();
    let seen = peer.remote.ip().to_canonical();
    hops == 1 && request.via().is_some_and(|via| via.host_ip() != Some(seen))
}

/// §8.2.2.2: the same initial request over another path.
fn merge_key(request: &RequestMessage) -> Option<String> {
    let from = request.from()?;
    let cseq = request.cseq()?.number;
    Some(format!("{}|{}|{cseq}", request.call_id()?, from.tag().unwrap_or_default()))
}
