//! A request of ours sent once more after a response that says what it lacked: a longer interval (422, RFC 4028 §7.3).
//!
//! The new request is the old one with the next CSeq and a new branch (RFC 3261 §8.1.3.5).

use std::time::Instant;

use super::super::message::{Method, RequestMessage, ResponseMessage};
use super::asking::REINVITE_LIMIT;
use super::session::{Cancel, State};
use super::transactions::User;
use super::{Endpoint, SessionId};

/// So often in a row is a 422 believed.
const BRIEF: u8 = 3;

impl Endpoint {
    /// Asks again with what a 422 names. `false`: the response is as it is.
    pub(super) fn ask_longer(
        &mut self,
        now: Instant,
        user: &User,
        request: RequestMessage,
        response: &ResponseMessage,
    ) -> bool {
        let Some(session) = session_of(user).filter(|_| response.status == 422) else { return false };
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        if matches!(state.state, State::Inviting { cancel: Cancel::Wanted | Cancel::Sent { .. } })
            || matches!(state.state, State::Closing)
            || state.timer.brief >= BRIEF
            || !state.timer.raise(&response.headers)
        {
            return false;
        }
        state.timer.brief += 1;
        let mut request = request;
        for (name, value) in self.timer_headers(session) {
            request.headers.set(&name, value);
        }
        self.send_again(now, user.clone(), request)
    }

    /// Sends `request`, which has been refused, changed as its caller wants it, as a new transaction. `false`: there is
    /// no session to send it in.
    pub(super) fn send_again(&mut self, now: Instant, user: User, mut request: RequestMessage) -> bool {
        let Some(session) = session_of(&user) else { return false };
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        let initial = matches!(user, User::Invite(_));
        let number = match &mut state.dialog {
            Some(dialog) if !initial => dialog.next_cseq(),
            _ => request.cseq().map_or(1, |cseq| cseq.number).wrapping_add(1),
        };
        let (peer, method) = (state.peer, request.method.clone());
        let peer = match &state.dialog {
            Some(dialog) if !initial => super::compose::dialog_peer(dialog, state),
            _ => peer,
        };
        request.headers.set("CSeq", format!("{number} {}", method.as_str()));
        let (branch, request) = self.addressed(request, peer);
        let id = self.start_client(now, peer, branch, request.clone(), user);
        if method == Method::Invite && !initial {
            self.limit_client(id, now + REINVITE_LIMIT);
        }
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        match method {
            Method::Invite if initial => {
                state.invite = id;
                state.sent_invite = Some(request);
                state.early.clear();
            }
            Method::Invite => state.our_reinvite = Some(id),
            Method::Update => state.our_update = Some(id),
            _ => {}
        }
        true
    }
}

fn session_of(user: &User) -> Option<SessionId> {
    match user {
        User::Invite(session) | User::Request(session, ..) | User::Refresh(session) => Some(*session),
        User::Bye(_) | User::Prack(_) | User::Outside(_) | User::Nobody => None,
    }
}
