//! One call, one input: what it says is carried out, its timer is armed, and a panic ends it alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{Do, UserAgent, transfer};
use crate::call::end::EndReason;
use crate::call::story::Moment;
use crate::call::{self, Call, Ended, SipDo, Tell};
use crate::engine::plan::{CallId, Command, Label};
use crate::sip::{Event, RequestId, Response, SessionId};

impl UserAgent {
    /// Something happened on a call's session.
    pub(super) fn happened(&mut self, now: Instant, call: CallId, session: SessionId, event: Event) {
        let Some(event) = self.forked(now, call, session, event) else { return };
        let Some(event) = self.refer_event(now, call, session, event) else { return };
        let Some(event) = self.redirected(now, call, event) else { return };
        let news = transfer::news_of(&event);
        if matches!(event, Event::Answered { .. }) {
            let identifier = self.endpoint.identifier(session);
            if let Some(call) = self.calls.get_mut(&call) {
                call.identify(identifier, None);
            }
        }
        self.step(now, call, |call| call.handle_sip(now, event));
        if let Some(news) = news {
            self.transfer_news(now, call, news);
        }
    }

    /// Says that something happened in a call.
    pub(super) fn tell_moment(&mut self, id: CallId, moment: Moment) {
        if let Some(call) = self.calls.get(&id) {
            let label = call.label().clone();
            self.out.push_back(Do::Tell { call: id, label, tell: Tell::Moment(moment) });
        }
    }

    /// Answers a request inside a call that the call itself does not see.
    pub(super) fn respond_beside(
        &mut self,
        now: Instant,
        session: SessionId,
        request: RequestId,
        status: u16,
        headers: Vec<(String, String)>,
    ) {
        let response = Response { status, reason: None, headers, body: None };
        self.endpoint.respond_to(now, session, request, response);
    }

    /// Gives one call one input and carries out what it says. A panic ends that call and no other.
    pub(super) fn step(&mut self, now: Instant, id: CallId, input: impl FnOnce(&mut Call)) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| input(call))) {
            return self.discard(now, id, &*panic);
        }
        let mut wanted = Vec::new();
        while let Some(what) = call.poll() {
            wanted.push(what);
        }
        if wanted.is_empty() {
            let wake_at = call.wake_at();
            return self.arm(id, wake_at);
        }
        let label = call.label().clone();
        let wake_at = call.wake_at();
        self.arm(id, wake_at);
        let answered = wanted.iter().any(|what| matches!(what, call::Do::Tell(Tell::Answered { .. })));
        for what in wanted {
            match what {
                call::Do::Sip(sip) => self.sip(now, id, sip),
                call::Do::Engine(command) => self.out.push_back(Do::Engine(command)),
                call::Do::Tell(tell) => {
                    self.out.push_back(Do::Tell { call: id, label: label.clone(), tell });
                }
                call::Do::Forget(ended) => self.forget(id, label.clone(), ended),
            }
        }
        if answered {
            self.take_place(now, id);
        }
        self.transfer_step(now, id);
    }

    pub(super) fn arm(&mut self, id: CallId, wake_at: Option<Instant>) {
        if self.armed.get(&id).copied() == wake_at {
            return;
        }
        if let Some(old) = self.armed.remove(&id) {
            self.timers.remove(&(old, id));
        }
        if let Some(at) = wake_at {
            self.armed.insert(id, at);
            self.timers.insert((at, id));
        }
    }

    pub(super) fn forget(&mut self, id: CallId, label: Label, ended: Box<Ended>) {
        self.arm(id, None);
        self.calls.remove(&id);
        self.dials.remove(&id);
        self.forget_forks(id);
        self.trunk_of.remove(&id);
        self.redirects.remove(&id);
        if let Some(session) = self.session_of.remove(&id) {
            self.call_of.remove(&session);
        }
        self.counters.ended += 1;
        self.forget_session_name(&label, id);
        self.transfer_over(ended.ended, id, &ended.reason);
        self.out.push_back(Do::Ended { call: id, label, ended });
    }

    pub(super) fn discard(&mut self, now: Instant, id: CallId, panic: &(dyn std::any::Any + Send)) {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        tracing::error!(call = %id, "a step of the call panicked and the call is dropped: {text}");
        self.counters.faults += 1;
        let Some(call) = self.calls.get(&id) else { return };
        let (label, started, answered) = (call.label().clone(), call.started(), call.answered());
        let streams = call.streams().clone();
        self.cancel_forks(now, id, "SIP;cause=500");
        if let Some(session) = self.session_of.get(&id).copied() {
            let reason = EndReason::ControlFault(text.clone());
            // Whichever of the two fits the session's state; the endpoint ignores the other.
            let response = Response { status: 500, reason: None, headers: Vec::new(), body: None };
            self.endpoint.respond(now, session, response);
            self.endpoint.bye(now, session, Some(&reason.reason_header()));
        }
        self.out.push_back(Do::Engine(Command::Stop { call: id }));
        let reason = EndReason::ControlFault(text);
        let ended = Ended { reason, peer_reason: None, started, answered, ended: now, streams, report: None };
        self.forget(id, label, Box::new(ended));
    }

    pub(super) fn sip(&mut self, now: Instant, id: CallId, wanted: SipDo) {
        if let SipDo::Invite { body } = wanted {
            return self.invite(now, id, body);
        }
        if matches!(wanted, SipDo::Cancel { .. }) && self.stop_redirecting(now, id) {
            return;
        }
        if let SipDo::Cancel { reason } = &wanted
            && self.cancel_forks(now, id, reason)
        {
            return;
        }
        let Some(session) = self.session_of.get(&id).copied() else { return };
        match wanted {
            SipDo::Respond { status, reason, headers, body } => {
                self.endpoint.respond(now, session, Response { status, reason, headers, body });
            }
            SipDo::RespondTo { request, status, headers, body } => {
                let response = Response { status, reason: None, headers, body };
                self.endpoint.respond_to(now, session, request, response);
            }
            SipDo::Ack { body } => self.endpoint.ack(now, session, body),
            SipDo::Cancel { reason } => self.endpoint.cancel(now, session, Some(&reason)),
            SipDo::Bye { reason } => self.endpoint.bye(now, session, Some(&reason)),
            SipDo::Request { method, body } => {
                self.endpoint.request(now, session, method, Vec::new(), body);
            }
            SipDo::Invite { .. } => {}
        }
    }
}
