//! Calls whose URI leads to a name: they wait for the driver to find its addresses (RFC 3263) before they exist.

use std::time::Instant;

use super::{Dial, Do, UserAgent};
use crate::call::Ended;
use crate::call::end::EndReason;
use crate::engine::plan::{CallId, Label, Streams};
use crate::sip::{Hop, ResolveId};

/// A call that waits for addresses.
pub(super) struct Resolving {
    call: CallId,
    dial: Dial,
    since: Instant,
}

impl UserAgent {
    pub(super) fn resolve(&mut self, now: Instant, call: CallId, dial: Dial) {
        let id = self.endpoint.resolve(dial.way.via.as_ref().unwrap_or(&dial.to).clone());
        self.resolving.insert(id, Resolving { call, dial, since: now });
    }

    /// The driver's answer to [`Do::Resolve`]: places in the order in which they are to be tried, or why there are none.
    pub fn handle_resolved(&mut self, now: Instant, id: ResolveId, found: Result<Vec<Hop>, String>) {
        if self.accounts.handle_resolved(now, id, &found) {
            return self.settle(now);
        }
        match (self.resolving.remove(&id), found) {
            (Some(waiting), Ok(hops)) if !hops.is_empty() => {
                let dial = Dial { hops, ..waiting.dial };
                self.start_dial(now, waiting.call, dial);
            }
            (Some(waiting), found) => {
                let text = found.err().unwrap_or_else(|| format!("{} leads nowhere", waiting.dial.to));
                self.give_up(now, waiting, EndReason::Rejected { status: 503, text });
            }
            (None, found) => {
                if let Some(found) = self.probe_resolved(now, id, found)
                    && !self.place_found(now, id, &found)
                {
                    self.endpoint.handle_resolved(now, id, found.unwrap_or_default());
                }
            }
        }
        self.settle(now);
    }

    /// Ends one call that still waits, if it does.
    pub(super) fn stop_resolving(&mut self, now: Instant, call: CallId, reason: &EndReason) {
        let waiting = self.resolving.iter().find(|(_, waiting)| waiting.call == call).map(|(id, _)| *id);
        if let Some(waiting) = waiting.and_then(|id| self.resolving.remove(&id)) {
            self.give_up(now, waiting, reason.clone());
        }
    }

    pub(super) fn stop_all_resolving(&mut self, now: Instant, reason: &EndReason) {
        let waiting: Vec<CallId> = self.resolving.values().map(|waiting| waiting.call).collect();
        for call in waiting {
            self.stop_resolving(now, call, reason);
        }
    }

    /// No call is there and none is coming.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.resolving.is_empty() && (!self.draining || self.accounts.are_gone())
    }

    /// A call that leads nowhere: it ends before it exists.
    pub(super) fn not_dialled(&mut self, now: Instant, call: CallId, dial: &Dial, reason: EndReason) {
        self.give_up(now, Resolving { call, dial: dial.clone(), since: now }, reason);
    }

    fn give_up(&mut self, now: Instant, waiting: Resolving, reason: EndReason) {
        let Resolving { call, dial, since } = waiting;
        let label = Label {
            peer: dial.to.host.clone(),
            from: super::user_of(&dial.from.uri),
            to: super::user_of(&dial.to),
            ..self.label(call, dial.label)
        };
        let streams = Streams::default();
        let ended = Ended {
            reason,
            peer_reason: None,
            started: since,
            answered: None,
            ended: now,
            streams,
            report: None,
        };
        self.counters.ended += 1;
        self.transfer_over(now, call, &ended.reason);
        self.out.push_back(Do::Ended { call, label, ended: Box::new(ended) });
    }
}
