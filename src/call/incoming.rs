//! A call to us, from the INVITE to the ACK.

use std::time::Instant;

use super::early::Reliable;
use super::end::EndReason;
use super::negotiate::{self, Refusal};
use super::{Call, CallSettings, State, Tell, body_of, warning};
use crate::engine::plan::{BoundPorts, CallId, Wanted};
use crate::sdp::SessionDescription;
use crate::sip::Body;

impl Call {
    /// An INVITE that admission and routing let through. `offer` is its body, if any.
    pub fn incoming(now: Instant, id: CallId, settings: CallSettings, offer: Option<&Body>) -> Self {
        let mut call = Call::new(now, id, settings, State::Over);
        match call.read_offer(offer) {
            Ok((offer, wanted)) => {
                // Where nothing unreliable may be sent, the first response has to carry an offer of ours (RFC 3262 §5).
                if offer.is_some() || call.settings.ring.reliable != Reliable::Required {
                    call.respond(180, None, None);
                }
                call.state = State::Offered { offer };
                call.tell(Tell::Ringing);
                call.prepare(wanted);
            }
            Err(refusal) => call.refuse(now, refusal),
        }
        call
    }

    fn read_offer(&self, body: Option<&Body>) -> Result<(Option<SessionDescription>, Wanted), Refusal> {
        let Some(body) = body else {
            return Ok((None, Wanted { audio: true, video: self.settings.media.video, slides: false }));
        };
        let offer = negotiate::read(&body.bytes)?;
        let wanted = negotiate::wanted(&offer, &self.settings.media)?;
        Ok((Some(offer), wanted))
    }

    /// Answers with 200: their offer, or with ours when there is none.
    pub(super) fn pick_up(&mut self, now: Instant, offer: Option<SessionDescription>, ports: &BoundPorts) {
        let Some(offer) = offer else {
            let offered = negotiate::offer(&self.settings.media, ports, &mut self.origin);
            self.respond(200, None, Some(body_of(&offered)));
            self.state = State::Answered { offered: Some(offered) };
            return;
        };
        match negotiate::answer(&offer, &self.settings.media, ports, &mut self.origin) {
            Ok((answer, streams)) => {
                self.respond(200, None, Some(body_of(&answer)));
                self.state = State::Answered { offered: None };
                self.begin(now, streams);
            }
            Err(refusal) => self.refuse(now, refusal),
        }
    }

    pub(super) fn acked(&mut self, now: Instant, body: Option<&Body>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Answered { offered } => {
                self.state = State::Established { until: now + self.settings.max_call };
                match offered.map(|offered| self.accept(&offered, body)) {
                    Some(Ok(streams)) => self.begin(now, streams),
                    Some(Err(text)) => return self.finish(now, EndReason::NegotiationFailed(text)),
                    None => {}
                }
                self.renew();
            }
            other => {
                self.state = other;
                match self.reoffer_acked(body) {
                    Some(text) => self.finish(now, EndReason::NegotiationFailed(text)),
                    None => self.renew(),
                }
            }
        }
    }

    pub(super) fn refuse(&mut self, now: Instant, refusal: Refusal) {
        let (status, text) = match &refusal {
            Refusal::Malformed(_) => (400, "Bad Request"),
            Refusal::NotAcceptable(_) => (488, "Not Acceptable Here"),
        };
        self.respond(status, Some(warning(&refusal)), None);
        self.dialog_open = false;
        self.finish(now, EndReason::Refused { status, text: text.to_owned() });
    }
}
