//! The one end of a call: what is said to the peer, the engine stopped, the story told.

use std::time::{Duration, Instant};

use super::end::EndReason;
use super::{Call, Do, Ended, Engine, SipDo, State, reoffer};
use crate::engine::plan::Command;

/// The engine is given this long to stop after it was told.
const ENGINE_STOP_LIMIT: Duration = Duration::from_secs(15);
/// A dialog that does not end by itself after BYE or CANCEL is given up (64 × T1 and a second).
const DIALOG_END_LIMIT: Duration = Duration::from_secs(33);

impl Call {
    /// Ends the call from our side: operator, agent, shutdown, or a fault above.
    pub fn hang_up(&mut self, now: Instant, reason: EndReason) {
        self.finish(now, reason);
    }

    /// The only way a call ends: says the right thing to the peer, stops the engine, keeps the first reason.
    pub(super) fn finish(&mut self, now: Instant, reason: EndReason) {
        if self.end.is_some() {
            // The news may be that the last thing this call waited for is over.
            return self.forget_when_over(now);
        }
        self.reoffer = reoffer::Reoffer::None;
        if self.dialog_open {
            self.close_dialog(&reason);
        }
        self.end = Some(reason);
        if self.engine == Engine::Busy {
            self.engine = Engine::Stopping;
            self.out.push_back(Do::Engine(Command::Stop { call: self.id }));
        }
        let limit = if self.dialog_open { DIALOG_END_LIMIT } else { ENGINE_STOP_LIMIT };
        self.state = State::Ending { give_up_at: now + limit };
        self.forget_when_over(now);
    }

    pub(super) fn close_dialog(&mut self, reason: &EndReason) {
        match &self.state {
            State::Offered { .. } | State::Ringing { .. } => {
                let (status, text) = reason.status();
                let headers = if status == 503 {
                    vec![("Retry-After".to_owned(), "10".to_owned())]
                } else {
                    Vec::new()
                };
                let response = SipDo::Respond { status, reason: Some(text.to_owned()), headers, body: None };
                self.out.push_back(Do::Sip(response));
                self.dialog_open = false;
            }
            State::Inviting { .. } => {
                let reason = reason.reason_header();
                self.out.push_back(Do::Sip(SipDo::Cancel { reason }));
            }
            State::Answered { .. } | State::Established { .. } => {
                self.out.push_back(Do::Sip(SipDo::Bye { reason: reason.reason_header() }));
            }
            State::Dialling | State::Ending { .. } | State::Over => self.dialog_open = false,
        }
    }

    pub(super) fn forget_when_over(&mut self, now: Instant) {
        let engine_over = matches!(self.engine, Engine::Idle | Engine::Stopped);
        if !matches!(self.state, State::Ending { .. }) || self.dialog_open || !engine_over {
            return;
        }
        self.state = State::Over;
        let ended = Ended {
            reason: self.end.clone().unwrap_or(EndReason::HungUp),
            peer_reason: self.peer_reason.clone(),
            started: self.started,
            answered: self.answered,
            ended: now,
            streams: self.streams.clone(),
            report: self.report.take(),
        };
        self.out.push_back(Do::Forget(Box::new(ended)));
    }
}
