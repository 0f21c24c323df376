//! A call to us, from its INVITE to its agent or its refusal.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rand::Rng as _;

use super::routing::{self, Asked, Route};
use super::{UserAgent, metadata, terms};
use crate::call::behaviour::Room;
use crate::call::early::{Reliable, Ring};
use crate::call::negotiate::MediaSettings;
use crate::call::{Call, CallSettings};
use crate::engine::plan::{CallId, Label};
use crate::sip::{Incoming, Response, SessionId};

impl UserAgent {
    pub(super) fn invited(&mut self, now: Instant, session: SessionId, invite: &Incoming) {
        let shown = invite.peer.connection.and_then(|connection| self.endpoint.tls_name(connection));
        let peer = self.settings.admission.peers().of(invite.peer.remote.ip(), shown);
        let label = metadata::label_of(invite, peer.is_some_and(|peer| peer.identity));
        let (from, to) = (label.from.clone(), label.to.clone());
        let header = |name: &str| invite.headers.value(name).map(str::to_owned);
        let asked = Asked { to: &to, from: &from, source: invite.peer.remote.ip(), header: &header };
        let replaced = match self.asked_to_replace(invite) {
            Ok(replaced) => replaced,
            Err(refusal) => {
                tracing::info!(%from, %to, status = refusal.0, "call refused: {}", refusal.1);
                return self.refuse_invite(now, session, refusal, Vec::new());
            }
        };
        let refusal = if self.live_session(invite).is_some() {
            Some((486, "Session Is Live"))
        } else if replaced.is_some() && !self.draining {
            // One comes, one goes.
            None
        } else {
            self.refuses(now, &invite.peer)
        };
        let route = match replaced {
            Some(old) => self.route_of_call(old),
            None => routing::choose(&self.settings.routes, &asked).cloned(),
        };
        let (status, text) = match (refusal, route) {
            (Some(refusal), _) => refusal,
            (None, None) => (404, "Not Found"),
            (None, Some(route)) => return self.admit(now, session, invite, route, label, replaced),
        };
        let headers = match refusal {
            Some(_) => vec![("Retry-After".to_owned(), self.intake.retry_after().to_string())],
            None => Vec::new(),
        };
        self.refuse_invite(now, session, (status, text), headers);
        tracing::info!(%from, %to, status, "call refused: {text}");
    }

    fn admit(
        &mut self,
        now: Instant,
        session: SessionId,
        invite: &Incoming,
        route: Route,
        label: Label,
        replaced: Option<CallId>,
    ) {
        let id = self.new_call_id();
        self.counters.incoming += 1;
        let source = invite.peer.remote.ip();
        let shown = invite.peer.connection.and_then(|connection| self.endpoint.tls_name(connection));
        let media = MediaSettings {
            video: route.video && self.settings.media.video,
            slides: route.slides,
            ..self.settings.media.clone()
        };
        let account = self.accounts.terms_of_caller(source, &label.to);
        let settings = CallSettings {
            media: terms::incoming(self.settings.admission.peers(), media, (source, shown), account),
            address: self.settings.advertise.unwrap_or(invite.peer.local.ip()),
            label: Label {
                agent: route.agent.clone(),
                session_id: self.endpoint.identifier(session),
                ..self.label(id, label)
            },
            behaviour: route.behaviour,
            room: Room { reach: self.reach(source, shown), ..route.room },
            origin: id.0,
            seed: self.secrets.random(),
            max_call: self.settings.max_call,
            ring_timeout: self.settings.max_call,
            ring: Ring {
                time: route.ring,
                early_media: route.early_media,
                reliable: Reliable::of(&invite.headers),
            },
        };
        self.call_of.insert(session, id);
        self.session_of.insert(id, session);
        self.note_peer(id, source, invite.peer.connection);
        self.endpoint.set_display(session, &route.display_name);
        self.name_session(invite, id);
        if let Some(old) = replaced {
            self.replacing.insert(id, old);
        }
        // The first step reads the offer: it is guarded like every later one.
        match catch_unwind(AssertUnwindSafe(|| Call::incoming(now, id, settings, invite.body.as_ref()))) {
            Ok(call) => {
                self.calls.insert(id, Box::new(call));
                self.step(now, id, |_| ());
            }
            Err(_) => {
                tracing::error!(call = %id, "reading an INVITE panicked and it is refused");
                self.counters.faults += 1;
                self.call_of.remove(&session);
                self.session_of.remove(&id);
                self.trunk_of.remove(&id);
                let response = Response { status: 500, ..Response::default() };
                self.endpoint.respond(now, session, response);
            }
        }
    }
}
