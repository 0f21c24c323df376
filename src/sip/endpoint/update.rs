//! UPDATE (RFC 3311), early and confirmed: a new target, a session refresh, or an offer. Its glare rules.
//!
//! One of theirs without a body is answered here; one with an offer is its user's.

use std::time::Instant;

use super::super::message::{RequestMessage, ResponseMessage};
use super::inbound::plain;
use super::session::{Session, State};
use super::{Endpoint, Peer, RequestId, Response, SessionId};

impl Endpoint {
    pub(super) fn handle_update(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) {
        let refusal = self.too_brief(&request).or_else(|| self.crossed(session, &request));
        if let Some(refusal) = refusal {
            return self.answer(now, peer, key, request, refusal);
        }
        let dialog = self.dialog_mut(session, &request);
        if let Some(dialog) = dialog {
            dialog.refresh_target(request.contact());
        }
        if request.body.is_empty() {
            let headers = self.grant_timer(now, session, &request);
            return self.answer(now, peer, key, request, Response { headers, ..plain(200) });
        }
        let id = self.hand_over(peer, key, session, request);
        if let Some(state) = self.sessions.get_mut(&session) {
            state.their_update = Some(id);
        }
    }

    /// §5.2: their offer meets an offer that has no answer yet.
    fn crossed(&self, session: SessionId, request: &RequestMessage) -> Option<Response> {
        let state = self.sessions.get(&session)?;
        let soon = || {
            let headers = vec![("Retry-After".to_owned(), "1".to_owned())];
            Some(Response { headers, ..plain(500) })
        };
        if state.their_update.is_some() {
            return soon();
        }
        if request.body.is_empty() {
            return None;
        }
        if state.our_reinvite.is_some() || state.our_update.is_some() {
            return Some(plain(491));
        }
        let offered = self.servers.get(&state.invite).is_some_and(|invite| !invite.request.body.is_empty());
        match state.state {
            // The offer of their INVITE, or ours in an 18x, is open until a PRACK settles it.
            State::Invited if state.reliably.is_undecided() && !offered => Some(plain(491)),
            State::Invited if !state.reliably.described => soon(),
            _ if state.their_reinvite => soon(),
            State::Invited
            | State::Answered { .. }
            | State::Inviting { .. }
            | State::Accepted { .. }
            | State::Confirmed
            | State::Closing => None,
        }
    }

    /// The final response to an UPDATE of our user.
    pub(super) fn update_responded(&mut self, now: Instant, session: SessionId, response: &ResponseMessage) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.our_update = None;
        if response.status < 300 {
            if let Some(dialog) = &mut state.dialog {
                dialog.refresh_target(response.contact());
            }
            self.take_timer(now, session, response);
        }
    }

    /// The user has answered an UPDATE.
    pub(super) fn update_answered(&mut self, session: SessionId, request: RequestId) {
        if let Some(state) = self.sessions.get_mut(&session)
            && state.their_update == Some(request)
        {
            state.their_update = None;
        }
    }
}

impl Session {
    /// A renewed offer of either side, or a refresh, is on its way.
    pub(super) fn is_renewing(&self) -> bool {
        self.our_reinvite.is_some()
            || self.our_update.is_some()
            || self.their_reinvite
            || self.their_update.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ALICE, Scripted, Wire, ok, our_tag, request, sdp, status};
    use super::super::{Access, Event, Settings, Transport};
    use super::*;
    use crate::sip::message::Method;

    fn with_offer(update: &str) -> String {
        update.replace("Content-Length: 0\n\n", "Content-Type: application/sdp\nContent-Length: 5\n\noffer")
    }

    #[test]
    fn an_offer_in_an_update_is_answered_and_two_at_once_are_refused_with_491() {
        let mut wire = Wire::new(Transport::Udp);
        let (a, b) = wire.establish();
        wire.alice.request(wire.now, a, Method::Update, Vec::new(), sdp("offer"));
        wire.settle();
        let Some(Event::Updated { request, .. }) = wire.events_b.last().cloned() else {
            panic!("{:?}", wire.events_b.last());
        };
        wire.bob.respond_to(wire.now, b, request, ok());
        wire.settle();
        assert!(matches!(
            wire.events_a.last(),
            Some(Event::Responded { status: 200, method: Method::Update, body: Some(_), .. })
        ));
        wire.alice.request(wire.now, a, Method::Update, Vec::new(), sdp("one"));
        wire.bob.request(wire.now, b, Method::Update, Vec::new(), sdp("two"));
        wire.settle();
        for events in [&wire.events_a, &wire.events_b] {
            assert!(matches!(events.last(), Some(Event::Responded { status: 491, .. })));
        }
        wire.alice.request(wire.now, a, Method::Invite, Vec::new(), sdp("one"));
        wire.bob.request(wire.now, b, Method::Update, Vec::new(), sdp("two"));
        wire.settle();
        assert!(matches!(wire.events_b.last(), Some(Event::Responded { status: 491, .. })));
        wire.bob.bye(wire.now, b, None);
        wire.settle();
        wire.assert_nothing_left();
    }

    /// An INVITE with an offer that rings.
    fn ringing(phone: &mut Scripted) -> (SessionId, String) {
        let invite = with_offer(&request("INVITE", "1", "", 1, "Supported: 100rel\n"));
        phone.hears(ALICE, Access::Trusted, &invite);
        let session = phone.events[0].session().expect("a session");
        phone.endpoint.respond(phone.now, session, Response { status: 180, ..Response::default() });
        let tag = our_tag(&phone.says());
        (session, tag)
    }

    #[test]
    fn before_the_first_answer_an_update_may_move_the_target_and_offer_nothing() {
        let mut phone = Scripted::new(Settings::default());
        let (session, tag) = ringing(&mut phone);
        let early = with_offer(&request("UPDATE", "u1", &tag, 2, ""));
        let said = phone.hears(ALICE, Access::Trusted, &early);
        assert_eq!(status(&said), ["500"]);
        assert!(said[0].1.contains("Retry-After: "), "{}", said[0].1);
        let moved = request("UPDATE", "u2", &tag, 3, "")
            .replace("<sip:alice@192.168.1.9:5090>", "<sip:new@10.0.0.7>");
        let said = phone.hears(ALICE, Access::Trusted, &moved);
        assert_eq!(status(&said), ["200"]);
        assert!(said[0].1.contains("Contact: <sip:"), "{}", said[0].1);
        phone.endpoint.respond(phone.now, session, ok());
        phone.says();
        phone.hears(ALICE, Access::Trusted, &request("ACK", "a", &tag, 1, ""));
        phone.endpoint.bye(phone.now, session, None);
        assert!(phone.says()[0].1.starts_with("BYE sip:new@10.0.0.7 "));
    }

    #[test]
    fn after_a_pracked_answer_an_early_update_may_offer() {
        let mut phone = Scripted::new(Settings::default());
        let (session, tag) = ringing(&mut phone);
        phone.endpoint.respond(
            phone.now,
            session,
            Response { status: 183, body: sdp("answer"), ..Response::default() },
        );
        let said = phone.says();
        let rseq = said[0].1.lines().find_map(|line| line.strip_prefix("RSeq: ")).expect("it is reliable");
        let prack = request("PRACK", "p", &tag, 2, &format!("RAck: {rseq} 1 INVITE\n"));
        assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &prack)), ["200"]);
        assert!(
            phone.hears(ALICE, Access::Trusted, &with_offer(&request("UPDATE", "u", &tag, 3, ""))).is_empty()
        );
        let Some(Event::Updated { request: id, .. }) = phone.events.last().cloned() else {
            panic!("{:?}", phone.events.last());
        };
        let second = with_offer(&request("UPDATE", "v", &tag, 4, ""));
        assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &second)), ["500"], "one at a time (§5.2)");
        phone.endpoint.respond_to(phone.now, session, id, ok());
        assert_eq!(status(&phone.says()), ["200"]);
    }
}
