//! A call of ours, from dialling to the peer's answer.

use std::time::Instant;

use super::end::EndReason;
use super::negotiate;
use super::{Call, CallSettings, Do, SipDo, State, Tell};
use crate::engine::plan::{CallId, Wanted};
use crate::sip::Body;

impl Call {
    /// A call we make.
    pub fn outgoing(now: Instant, id: CallId, settings: CallSettings) -> Self {
        let wanted = Wanted { audio: true, video: settings.media.video, slides: false };
        let mut call = Call::new(now, id, settings, State::Dialling);
        call.dialog_open = false;
        call.hold.own_dialog();
        call.prepare(wanted);
        call
    }

    pub(super) fn progress(&mut self, status: u16, body: Option<&Body>) {
        if let State::Inviting { early, .. } = &mut self.state {
            if let Some(answer) = body.and_then(|body| negotiate::read(&body.bytes).ok()) {
                *early = Some(Box::new(answer));
            }
            if status == 180 {
                self.tell(Tell::Ringing);
            }
        }
    }

    pub(super) fn peer_answered(&mut self, now: Instant, body: Option<&Body>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Inviting { offered, early, .. } => {
                self.out.push_back(Do::Sip(SipDo::Ack { body: None }));
                self.state = State::Established { until: now + self.settings.max_call };
                // A 200 without SDP stands by what a 183 said (RFC 3261 §13.2.1).
                let accepted = match (body, early) {
                    (None, Some(early)) => {
                        negotiate::accept(&offered, &early, &self.settings.media, &mut self.origin)
                            .map_err(|refusal| refusal.to_string())
                    }
                    (body, _) => self.accept(&offered, body),
                };
                match accepted {
                    Ok(streams) => {
                        self.start(now, streams);
                        self.renew();
                    }
                    Err(text) => self.finish(now, EndReason::NegotiationFailed(text)),
                }
            }
            other => self.state = other,
        }
    }
}
