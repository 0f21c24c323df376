//! An INVITE that takes the place of a call (Replaces, RFC 3891): how the third party of an attended transfer arrives.
//!
//! The new call gets the agent of the old one. The old one goes on until the new one is answered, and stays when it is not.

use std::time::Instant;

use super::routing::Route;
use super::{Response, UserAgent};
use crate::call::end::EndReason;
use crate::engine::plan::CallId;
use crate::sip::replaces::Replaces;
use crate::sip::{Access, Incoming, Replaced};

/// How an INVITE with Replaces is refused.
type Refusal = (u16, &'static str);

impl UserAgent {
    /// The call that an INVITE wants to take the place of; `Ok(None)`: none.
    pub(super) fn asked_to_replace(&self, invite: &Incoming) -> Result<Option<CallId>, Refusal> {
        let Some(replaces) = Replaces::of(&invite.headers).map_err(|_| (400, "Bad Replaces"))? else {
            return Ok(None);
        };
        let (session, early) = match self.endpoint.replaced(&replaces) {
            Replaced::Confirmed(_) if replaces.early_only => return Err((486, "Busy Here")),
            Replaced::Confirmed(session) => (session, false),
            Replaced::Early(session) => (session, true),
            Replaced::Ended => return Err((603, "Declined")),
            Replaced::Unknown => return Err((481, "Call/Transaction Does Not Exist")),
        };
        let old = self.call_of.get(&session).copied().ok_or((481, "Call/Transaction Does Not Exist"))?;
        let call = self.calls.get(&old).ok_or((481, "Call/Transaction Does Not Exist"))?;
        // Whoever knows both tags has heard them; it must be one of ours all the same.
        if self.access(invite.peer.remote.ip()) == Access::Stranger && invite.user.is_none() {
            return Err((403, "Forbidden"));
        }
        let taken = self.replacing.values().any(|other| *other == old);
        if taken || !call.is_live() || (early && call.label().incoming) {
            return Err((603, "Declined"));
        }
        Ok(Some(old))
    }

    /// The old call's agent, as the route of the new one.
    pub(super) fn route_of_call(&self, call: CallId) -> Option<Route> {
        let settings = self.calls.get(&call)?.settings();
        Some(Route {
            to: None,
            from: None,
            sources: Vec::new(),
            headers: Vec::new(),
            agent: settings.label.agent.clone(),
            behaviour: settings.behaviour.clone(),
            room: settings.room.clone(),
            video: settings.media.video,
            slides: settings.media.slides,
            // Whoever is connected to the agent does not wait again.
            ring: std::time::Duration::ZERO,
            early_media: false,
            display_name: String::new(),
        })
    }

    /// A call was answered: the one whose place it takes ends.
    pub(super) fn take_place(&mut self, now: Instant, call: CallId) {
        if let Some(old) = self.replacing.remove(&call) {
            self.tell_moment(
                old,
                crate::call::story::Moment::new("call.replaced").with("call", call.to_string()),
            );
            self.step(now, old, |call| call.hang_up(now, EndReason::Replaced));
        }
    }

    /// Refuses an INVITE before it becomes a call.
    pub(super) fn refuse_invite(
        &mut self,
        now: Instant,
        session: crate::sip::SessionId,
        (status, text): Refusal,
        headers: Vec<(String, String)>,
    ) {
        self.counters.refused += 1;
        let response = Response { status, reason: Some(text.to_owned()), headers, body: None };
        self.endpoint.respond(now, session, response);
    }
}
