//! What the peer asks inside a dialog, and our answers: the server side of RFC 3261 §12.2.2, §14.2 and §15.1.2.
//!
//! The INVITE that makes the dialog is `uas`'s.

use std::time::Instant;

use super::super::dialog::Dialog;
use super::super::message::{Method, RequestMessage};
use super::compose::{ACCEPT, ALLOW, response_peer};
use super::inbound::{plain, reason_of};
use super::options::SUPPORTED;
use super::session::{Session, State};
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
        let closing = matches!(state.state, State::Closing);
        let inviting = matches!(state.state, State::Inviting { .. });
        let Some((dialog, early)) = dialog_of(state, &request) else {
            return self.answer(now, peer, key, request, plain(481));
        };
        if !dialog.take_remote_cseq(number) {
            return self.answer(now, peer, key, request, plain(500));
        }
        // Our BYE is on its way and nobody is left to answer; or another branch of a fork made the call.
        if (closing && request.method != Method::Bye) || (early && !inviting) {
            return self.answer(now, peer, key, request, plain(481));
        }
        if let Some(identifier) = &mut state.identifier {
            identifier.hear(request.headers.value("Session-ID"));
        }
        if peer.connection.is_some() {
            // The peer may have come back on a new stream.
            state.peer = peer;
        }
        match request.method {
            Method::Bye => self.handle_bye(now, peer, key, session, request),
            Method::Invite => self.handle_reinvite(now, peer, key, session, request),
            Method::Options => {
                // §11.2: as outside, but a box that takes no new calls still has this one.
                let told = [("Allow", ALLOW), ("Accept", ACCEPT), ("Supported", SUPPORTED)];
                let headers = told.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
                self.answer(now, peer, key, request, Response { headers, ..plain(200) });
            }
            Method::Info | Method::Message | Method::Refer | Method::Notify => {
                self.hand_over(peer, key, session, request);
            }
            Method::Update => self.handle_update(now, peer, key, session, request),
            Method::Prack => self.handle_prack(now, peer, key, session, request),
            Method::Ack
            | Method::Cancel
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
        let reason = reason_of(&request.headers);
        self.answer(now, peer, key, request, plain(200));
        let Some(state) = self.sessions.get(&session) else { return };
        if matches!(state.state, State::Inviting { .. }) {
            // §15: no callee may do this; our INVITE still gets its final response.
            return;
        }
        if matches!(state.state, State::Invited) {
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
        if let Some(refusal) = self.too_brief(&request) {
            return self.answer(now, peer, key, request, refusal);
        }
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.our_reinvite.is_some()
            || state.our_update.is_some()
            || matches!(state.state, State::Inviting { .. } | State::Accepted { .. })
        {
            return self.answer(now, peer, key, request, plain(491));
        }
        let busy = state.their_reinvite || state.their_update.is_some() || state.repeat.is_some();
        if busy || matches!(state.state, State::Invited) {
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
    pub(super) fn hand_over(
        &mut self,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) -> RequestId {
        let id = RequestId(self.new_id());
        let (method, headers, body) = (request.method.clone(), request.headers.clone(), request.body());
        let to = response_peer(&request, peer);
        let transaction = self.start_server(key, None, to, request, Some(session));
        if let Some(state) = self.sessions.get_mut(&session) {
            state.open.insert(id, transaction);
        }
        self.event(match method {
            Method::Invite => Event::Reinvited { session, request: id, headers, body },
            Method::Update => Event::Updated { session, request: id, headers, body },
            Method::Prack => Event::Pracked { session, request: Some(id), body },
            method => Event::Requested { session, request: id, method, headers, body },
        });
        id
    }

    /// Answers a request inside the dialog.
    pub fn respond_to(&mut self, now: Instant, session: SessionId, request: RequestId, response: Response) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(transaction) = state.open.get(&request).copied() else { return };
        let is_final = response.status >= 200;
        if is_final {
            state.open.remove(&request);
        }
        self.close_request(now, session, transaction, response);
        if is_final {
            self.update_answered(session, request);
            self.prack_answered(now, session, request);
        }
    }

    /// The dialog a request of the peer names.
    pub(super) fn dialog_mut(&mut self, session: SessionId, request: &RequestMessage) -> Option<&mut Dialog> {
        let state = self.sessions.get_mut(&session)?;
        dialog_of(state, request).map(|(dialog, _)| dialog)
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
        mut response: Response,
    ) {
        let Some(server) = self.servers.get(&transaction) else { return };
        let refreshes = matches!(server.request.method, Method::Invite | Method::Update);
        if refreshes && (200..300).contains(&response.status) {
            let request = server.request.clone();
            response.headers.extend(self.grant_timer(now, session, &request));
        }
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

/// The dialog of the session that a request of the peer names, and whether it is an early one of a fork.
fn dialog_of<'a>(state: &'a mut Session, request: &RequestMessage) -> Option<(&'a mut Dialog, bool)> {
    let tag = request.from().and_then(|from| from.tag().map(str::to_owned)).unwrap_or_default();
    match &mut state.dialog {
        Some(dialog) if dialog.key.remote_tag == tag => Some((dialog, false)),
        _ => {
            let mut early = state.early.iter_mut();
            early.find(|early| early.dialog.key.remote_tag == tag).map(|early| (&mut early.dialog, true))
        }
    }
}
