//! What we ask inside a dialog, and what comes back: the client side of RFC 3261 §12.2.1, §14.1 and §15.1.1.
//!
//! The INVITE that makes the dialog is `uac`'s.

use std::time::{Duration, Instant};

use super::super::message::{Body, Method, ResponseMessage};
use super::compose::dialog_peer;
use super::session::State;
use super::transactions::User;
use super::{Endpoint, Event, RequestId, SessionId};

/// A re-INVITE may ask people, as for video; a peer that only ever says 100 is given up.
pub(super) const REINVITE_LIMIT: Duration = Duration::from_secs(180);

impl Endpoint {
    /// Ends the session: BYE when there is a dialog, once their ACK has come. `Ended` follows.
    pub fn bye(&mut self, now: Instant, session: SessionId, reason: Option<&str>) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        match &mut state.state {
            State::Answered { bye } => *bye = Some(reason.map(str::to_owned)),
            State::Accepted { cseq } => {
                let cseq = *cseq;
                state.state = State::Confirmed;
                self.send_ack(now, session, cseq, None);
                self.send_bye(now, session, reason);
            }
            State::Confirmed => self.send_bye(now, session, reason),
            State::Invited => {
                let response = super::Response { status: 480, ..super::Response::default() };
                self.respond(now, session, response);
            }
            State::Inviting { .. } => self.cancel(now, session, reason),
            State::Closing => {}
        }
    }

    pub(super) fn send_bye(&mut self, now: Instant, session: SessionId, reason: Option<&str>) {
        let headers: Vec<(String, String)> =
            reason.map(|reason| ("Reason".to_owned(), reason.to_owned())).into_iter().collect();
        self.close_open(now, session);
        if let Some(state) = self.sessions.get_mut(&session) {
            state.state = State::Closing;
            state.repeat = None;
        }
        self.start_in_dialog(now, session, Method::Bye, &headers, None, User::Bye(session));
        self.tend_session(session);
    }

    /// Sends a request inside the dialog; `Responded` follows.
    pub fn request(
        &mut self,
        now: Instant,
        session: SessionId,
        method: Method,
        headers: Vec<(String, String)>,
        body: Option<Body>,
    ) -> RequestId {
        let request = RequestId(self.new_id());
        let user = User::Request(session, request, method.clone());
        let mut headers = headers;
        if matches!(method, Method::Invite | Method::Update) {
            headers.extend(self.timer_headers(session));
        }
        let sent = self.start_in_dialog(now, session, method.clone(), &headers, body.as_ref(), user);
        let Some(sent) = sent else { return request };
        let Some(state) = self.sessions.get_mut(&session) else { return request };
        match method {
            Method::Invite => {
                state.our_reinvite = Some(sent);
                self.limit_client(sent, now + REINVITE_LIMIT);
            }
            Method::Update => state.our_update = Some(sent),
            _ => {}
        }
        request
    }

    pub(super) fn start_in_dialog(
        &mut self,
        now: Instant,
        session: SessionId,
        method: Method,
        headers: &[(String, String)],
        body: Option<&Body>,
        user: User,
    ) -> Option<u64> {
        let state = self.sessions.get_mut(&session)?;
        let mut dialog = state.dialog.take()?;
        let peer = dialog_peer(&dialog, state);
        let mut request = dialog.request(method);
        state.dialog = Some(dialog);
        let (branch, via) = self.new_via(peer.transport, peer.local);
        request.headers.prepend("Via", via);
        if let Some(state) = self.sessions.get(&session) {
            self.finish_request(&mut request, state, headers, body);
        }
        let rest = self.stand_ins(session, &peer);
        Some(self.start_client_over(now, peer, rest, branch, request, user))
    }

    pub(super) fn responded(
        &mut self,
        now: Instant,
        session: SessionId,
        request: RequestId,
        method: Method,
        response: ResponseMessage,
    ) {
        let body = response.body();
        let number = response.cseq().map_or(0, |cseq| cseq.number);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if method == Method::Invite {
            let kept = state.acks.iter().find(|(known, ..)| *known == number);
            if let Some((_, _, peer, bytes)) = kept {
                let (peer, bytes) = (*peer, bytes.clone());
                self.counters.retransmissions += 1;
                self.send(peer, bytes);
                return;
            }
            state.our_reinvite = None;
            if response.status < 300 {
                if let Some(dialog) = &mut state.dialog {
                    dialog.refresh_target(response.contact());
                }
                self.send_ack(now, session, number, None);
                self.take_timer(now, session, &response);
            }
        }
        if method == Method::Update {
            self.update_responded(now, session, &response);
        }
        let status = response.status;
        // RFC 5057 §5.1: a NOTIFY nobody waits for ends its subscription and not the call.
        let of_usage = method == Method::Notify;
        self.event(Event::Responded { session, request, method, status, headers: response.headers, body });
        // §12.2.1.2: the peer does not know the dialog any more.
        if status == 481 && !of_usage {
            self.forget_session(now, session);
            self.event(Event::ByeReceived { session, reason: None });
        }
    }
}
