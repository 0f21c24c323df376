//! One call to every contact of a user at once: each gets an INVITE of its own with the same offer, the first that
//! answers has the call and the others are cancelled; refusals are told once nobody is left (as RFC 3261 §16.7 sorts
//! them). To the call it is one peer that forks.

use std::net::SocketAddr;
use std::time::Instant;

use super::registrar::Target;
use super::{Dial, UserAgent, metadata};
use crate::engine::plan::CallId;
use crate::sip::{Body, Event, Headers, Hop, Outgoing, SessionId, Uri};

/// Why the others hear CANCEL (RFC 3326).
const ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
/// What nobody has answered when one contact has refused for all (6xx).
const DECLINED: &str = "SIP;cause=603;text=\"Declined elsewhere\"";

/// The INVITEs of one call that have no final response.
#[derive(Default)]
pub(super) struct Fork {
    ringing: Vec<(SessionId, SocketAddr)>,
    /// The best refusal so far.
    refusal: Option<(u16, String, Headers)>,
}

impl Fork {
    fn take(&mut self, session: SessionId) {
        self.ringing.retain(|(known, _)| *known != session);
    }

    fn refused(&mut self, status: u16, reason: String, headers: Headers) {
        if self.refusal.as_ref().is_none_or(|(known, ..)| rank(status) < rank(*known)) {
            self.refusal = Some((status, reason, headers));
        }
    }
}

/// A person's word before a machine's, and that before silence.
fn rank(status: u16) -> (u8, u16) {
    let class = match status {
        600.. => 0,
        300..=399 => 1,
        408 | 480 | 481 | 487 => 3,
        400..=499 => 2,
        _ => 4,
    };
    (class, status)
}

/// The INVITE of a call to one place.
pub(super) fn outgoing(dial: &Dial, body: &Body, to: (Option<Uri>, &[String], Vec<Hop>)) -> Outgoing {
    let (target, routes, hops) = to;
    let routes = routes.iter().map(|route| ("Route".to_owned(), route.clone()));
    let given = dial.headers.iter().filter(|(_, value)| metadata::is_plain(value)).cloned();
    Outgoing {
        to: dial.to.clone(),
        target,
        from: dial.from.clone(),
        hops,
        headers: routes.chain(given).collect(),
        body: Some(body.clone()),
        credentials: dial.way.credentials.clone(),
    }
}

impl UserAgent {
    /// Sends the INVITE of a call to the user's other contacts too.
    pub(super) fn ring_others(&mut self, now: Instant, call: CallId, first: SessionId, body: &Body) {
        let Some(dial) = self.dials.get_mut(&call) else { return };
        let others = std::mem::take(&mut dial.way.others);
        let Some(hop) = dial.hops.first().filter(|_| !others.is_empty()) else { return };
        let mut fork = Fork { ringing: vec![(first, hop.remote)], refusal: None };
        // The offer names one address of ours.
        let family = hop.remote.is_ipv4();
        let dial = dial.clone();
        for Target { uri, hop, route } in
            others.into_iter().filter(|other| other.hop.remote.is_ipv4() == family)
        {
            let remote = hop.remote;
            let session = self.endpoint.invite(now, outgoing(&dial, body, (Some(uri), &route, vec![hop])));
            self.call_of.insert(session, call);
            fork.ringing.push((session, remote));
        }
        self.forks.insert(call, fork);
    }

    /// Looks at an event before its call does. `None`: it concerned one contact of several.
    pub(super) fn forked(
        &mut self,
        now: Instant,
        call: CallId,
        session: SessionId,
        event: Event,
    ) -> Option<Event> {
        if !self.forks.contains_key(&call) {
            return Some(event);
        }
        if let Event::Answered { .. } = event {
            self.answered_by(now, call, session);
            return Some(event);
        }
        if let Event::Failed { status, reason, headers, .. } = event {
            return self.refused_by(now, call, session, (status, reason, headers));
        }
        if let Event::Ended { .. } = event {
            // An answer overtook our CANCEL and was hung up on.
            return self.refused_by(now, call, session, (487, String::new(), Headers::default()));
        }
        let asked = match &event {
            Event::Requested { request, .. }
            | Event::Updated { request, .. }
            | Event::Reinvited { request, .. } => Some(*request),
            _ => None,
        };
        match asked {
            // Before it has the call, a contact may ring and send pictures, no more.
            Some(request) => {
                self.respond_beside(now, session, request, 491, Vec::new());
                None
            }
            None => Some(event),
        }
    }

    fn answered_by(&mut self, now: Instant, call: CallId, session: SessionId) {
        let Some(fork) = self.forks.remove(&call) else { return };
        self.session_of.insert(call, session);
        let call_id = self.endpoint.call_id(session);
        for (other, remote) in fork.ringing {
            if other == session {
                if let Some(call) = self.calls.get_mut(&call) {
                    call.identify(None, call_id.clone());
                    call.answered_at(remote.to_string());
                }
            } else {
                self.call_of.remove(&other);
                self.endpoint.cancel(now, other, Some(ELSEWHERE));
            }
        }
    }

    fn refused_by(
        &mut self,
        now: Instant,
        call: CallId,
        session: SessionId,
        (status, reason, headers): (u16, String, Headers),
    ) -> Option<Event> {
        let fork = self.forks.get_mut(&call)?;
        fork.take(session);
        fork.refused(status, reason, headers);
        let Some(next) = fork.ringing.first().map(|(session, _)| *session) else {
            let (status, reason, headers) = self.forks.remove(&call)?.refusal?;
            // The last one stands for all.
            self.session_of.insert(call, session);
            return Some(Event::Failed { session, status, reason, headers });
        };
        self.call_of.remove(&session);
        self.session_of.insert(call, next);
        if status >= 600 {
            self.cancel_forks(now, call, DECLINED);
        }
        tracing::info!(%call, status, "one contact refuses, others ring");
        None
    }

    /// The call is given up, at every contact. `false`: it rings at one place, if at all.
    pub(super) fn cancel_forks(&mut self, now: Instant, call: CallId, reason: &str) -> bool {
        let Some(fork) = self.forks.get(&call) else { return false };
        for session in fork.ringing.iter().map(|(session, _)| *session).collect::<Vec<_>>() {
            self.endpoint.cancel(now, session, Some(reason));
        }
        true
    }

    /// The call is gone.
    pub(super) fn forget_forks(&mut self, call: CallId) {
        for (session, _) in self.forks.remove(&call).unwrap_or_default().ringing {
            self.call_of.remove(&session);
        }
    }
}
