//! What the peer asks inside a dialog, and our answers: the server side of RFC 3261 §12.2.2, §14.2 and §15.1.2.
//!
//! The INVITE that makes the dialog is `uas`'s.

use std::time::Instant;

use super::super::message::{Method, RequestMessage};
use super::compose::response_peer;
use super::inbound::plain;
use super::session::State;
use super::{Endpoint, Event, Peer, RequestId, Response, SessionId};

impl Endpoint {
    /// A request inside a dialog.
    pub(super) fn handle_in_dialog(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) {
        let Some(state) = self.sessions.get_mut(&session) else {
            return self.answer(now, peer, key, request, plain(481));
        };
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        let in_order = state.dialog.as_mut().is_some_and(|dialog| dialog.take_remote_cseq(number));
        if !in_order {
            return self.answer(now, peer, key, request, plain(500));
        }
        if matches!(state.state, State::Closing) && request.method != Method::Bye {
            // Our BYE is on its way: nobody is left to answer.
            return self.answer(now, peer, key, request, plain(481));
        }
        if peer.connection.is_some() {
            // The peer may have come back on a new stream.
            state.peer = peer;
        }
        match request.method {
            Method::Bye => self.handle_bye(now, peer, key, session, request),
            Method::Invite => self.handle_reinvite(now, peer, key, session, request),
            Method::Options => self.answer(now, peer, key, request, plain(200)),
            Method::Info | Method::Message => self.hand_over(peer, key, session, request),
            Method::Ack
            | Method::Cancel
            | Method::Update
            | Method::Prack
            | Method::Refer
            | Method::Notify
            | Method::Register
            | Method::Subscribe
            | Method::Publish
            | Method::Other(_) => self.answer(now, peer, key, request, plain(405)),
        }
    }

    fn handle_bye(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) {
        let reason = request.headers.value("Reason").map(str::to_owned);
        self.answer(now, peer, key, request, plain(200));
        let Some(state) = self.sessions.get(&session) else { return };
        let early = matches!(state.state, State::Invited);
        if early {
            // §15.1.2: what waits for an answer gets 487. It also forgets the session.
            self.respond(now, session, plain(487));
        } else {
            self.forget_session(now, session);
        }
        self.event(Event::ByeReceived { session, reason });
    }

    fn handle_reinvite(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.our_reinvite.is_some()
            || matches!(state.state, State::Inviting { .. } | State::Accepted { .. })
        {
            return self.answer(now, peer, key, request, plain(491));
        }
        if state.their_reinvite || matches!(state.state, State::Invited) || state.repeat.is_some() {
            // §14.2: the one before has no final response, or its ACK is missing.
            let headers = vec![("Retry-After".to_owned(), "1".to_owned())];
            return self.answer(now, peer, key, request, Response { headers, ..plain(500) });
        }
        state.their_reinvite = true;
        if let Some(dialog) = &mut state.dialog {
            dialog.refresh_target(request.contact());
        }
        self.hand_over(peer, key, session, request);
    }

    /// Gives a request to the session's user, who answers with `respond_to`.
    fn hand_over(&mut self, peer: Peer, key: String, session: SessionId, request: RequestMessage) {
        let id = RequestId(self.new_id());
        let (method, headers, body) = (request.method.clone(), request.headers.clone(), request.body());
        let to = response_peer(&request, peer);
        let transaction = self.start_server(key, None, to, request, Some(session));
        if let Some(state) = self.sessions.get_mut(&session) {
            state.open.insert(id, transaction);
        }
        self.event(match method {
            Method::Invite => Event::Reinvited { session, request: id, headers, body },
            method => Event::Requested { session, request: id, method, headers, body },
        });
    }

    /// Answers a request inside the dialog.
    pub fn respond_to(&mut self, now: Instant, session: SessionId, request: RequestId, response: Response) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(transaction) = state.open.get(&request).copied() else { return };
        if response.status >= 200 {
            state.open.remove(&request);
        }
        self.close_request(now, session, transaction, response);
    }

    /// The dialog ends: what the peer still waits for inside it gets 487 (§15.1.2), and no transaction stays behind.
    pub(super) fn close_open(&mut self, now: Instant, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        let mut open: Vec<u64> = state.open.values().copied().collect();
        open.sort_unstable();
        for transaction in open {
            self.close_request(now, session, transaction, plain(487));
        }
    }

    pub(super) fn close_request(
        &mut self,
        now: Instant,
        session: SessionId,
        transaction: u64,
        response: Response,
    ) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(server) = self.servers.get(&transaction) else { return };
        let is_invite = server.request.method == Method::Invite;
        if is_invite && response.status >= 200 {
            state.their_reinvite = false;
        }
        state.open.retain(|_, open| *open != transaction || response.status < 200);
        let (tag, peer) = (state.local_tag.clone(), state.peer);
        let message = self.finish_response(&server.request, &response, &tag, peer);
        if self.send_response(now, transaction, &message)
            && is_invite
            && (200..300).contains(&response.status)
        {
            self.repeat_until_ack(now, session, transaction);
        }
    }
}
