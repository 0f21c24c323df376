//! Our answers to challenges (RFC 3261 §22.2, §22.3): the request goes out once more, with proof, as a new transaction.
//!
//! Only requests of sessions that we began with credentials, and requests outside dialogs that carry some, are proven:
//! whoever calls us cannot make us prove anything.

use std::time::Instant;

use super::super::dialog::Dialog;
use super::super::digest::client::{Attempts, Client};
use super::super::message::{Method, RequestMessage, ResponseMessage};
use super::asking::REINVITE_LIMIT;
use super::hop::Hop;
use super::session::{Cancel, State};
use super::transactions::User;
use super::{Endpoint, Peer};

/// A request that may be repeated with proof.
pub(super) struct Unproven {
    peer: Peer,
    rest: std::collections::VecDeque<Hop>,
    request: RequestMessage,
    user: User,
    attempts: Attempts,
}

impl Endpoint {
    /// What is needed to repeat the request of a transaction, if `status` asks for proof.
    pub(super) fn unproven(&self, id: u64, status: u16) -> Option<Unproven> {
        if !matches!(status, 401 | 407) {
            return None;
        }
        let transaction = self.clients.get(&id)?;
        Some(Unproven {
            peer: transaction.peer,
            rest: transaction.places.rest.clone(),
            request: transaction.request.clone(),
            user: transaction.user.clone(),
            attempts: transaction.attempts.clone(),
        })
    }

    fn prover(&mut self, user: &User) -> Option<&mut Client> {
        match user {
            User::Invite(session)
            | User::Request(session, ..)
            | User::Refresh(session)
            | User::Prack(session)
            | User::Bye(session) => {
                let state = self.sessions.get_mut(session)?;
                let given_up = match &state.state {
                    State::Inviting { cancel } => *cancel != Cancel::No,
                    State::Invited
                    | State::Answered { .. }
                    | State::Accepted { .. }
                    | State::Confirmed
                    | State::Closing => false,
                };
                state.prover.as_mut().filter(|_| !given_up)
            }
            User::Outside(request) => self.provers.get_mut(request),
            User::Nobody => None,
        }
    }

    /// Answers a challenge by sending the request again. `false`: it stays unanswered.
    pub(super) fn prove(&mut self, now: Instant, unproven: Unproven, response: &ResponseMessage) -> bool {
        let Unproven { peer, rest, mut request, user, mut attempts } = unproven;
        let cnonce = self.token();
        let Some(prover) = self.prover(&user) else { return false };
        let Some(answers) = prover.answer(&response.headers, &mut attempts, &request, &cnonce) else {
            return false;
        };
        for (name, value) in &answers {
            // Proof for other realms stays; the one refused goes.
            let only = answers.iter().filter(|(other, _)| other == name).count() == 1;
            if only {
                request.headers.set(name, value.clone())
            } else {
                request.headers.push(name, value.clone())
            }
        }
        let number = self.next_number(&user, &request);
        request.headers.set("CSeq", format!("{number} {}", request.method));
        let (branch, request) = self.addressed(request, peer);
        let session = match &user {
            User::Invite(session) | User::Request(session, ..) | User::Refresh(session) => Some(*session),
            User::Bye(_) | User::Prack(_) | User::Outside(_) | User::Nobody => None,
        };
        let (first, sent) = (matches!(user, User::Invite(_)), request.clone());
        let id = self.start_client_over(now, peer, rest, branch, request, user);
        if let Some(transaction) = self.clients.get_mut(&id) {
            transaction.attempts = attempts;
        }
        let Some(state) = session.and_then(|session| self.sessions.get_mut(&session)) else { return true };
        match sent.method {
            // RFC 3261 §13.2.2.4: the ACK of the 2xx carries what the INVITE carried.
            Method::Invite if first => {
                (state.invite, state.sent_invite, state.proof) = (id, Some(sent), answers);
                state.early.clear();
            }
            Method::Invite => {
                (state.our_reinvite, state.proof) = (Some(id), answers);
                self.limit_client(id, now + REINVITE_LIMIT);
            }
            Method::Update => state.our_update = Some(id),
            _ => {}
        }
        true
    }

    fn next_number(&mut self, user: &User, request: &RequestMessage) -> u32 {
        let after = request.cseq().map_or(1, |cseq| cseq.number.saturating_add(1));
        let (session, early) = match user {
            User::Request(session, ..) | User::Refresh(session) | User::Bye(session) => (session, false),
            User::Prack(session) => (session, true),
            User::Invite(_) | User::Outside(_) | User::Nobody => return after,
        };
        let Some(state) = self.sessions.get_mut(session) else { return after };
        let fork = request.to().and_then(|to| to.tag().map(str::to_owned)).filter(|_| early);
        let of_fork = |dialog: &Dialog| fork.as_ref().is_none_or(|fork| dialog.key.remote_tag == *fork);
        let made = state.dialog.as_mut().filter(|dialog| of_fork(dialog));
        let forks = state.early.iter_mut().map(|early| &mut early.dialog);
        let dialog = made.or_else(|| forks.filter(|_| early).find(|dialog| of_fork(dialog)));
        dialog.map_or(after, Dialog::next_cseq)
    }
}
