//! A renewed offer inside an established call (RFC 3264 §8): hold, resume, video added or removed, new addresses;
//! and the requests beside it that a call answers itself (INFO).
//!
//! A re-offer that fails leaves the media as it was.

use super::{Call, Do, SipDo, State, Tell, body_of};
use crate::call::negotiate::{self, Refusal};
use crate::engine::plan::{Command, Wanted};
use crate::sdp::SessionDescription;
use crate::sip::{Body, Method, RequestId};

/// RFC 5168 §7.
pub(super) const PICTURE_FAST_UPDATE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\r\n<media_control><vc_primitive><to_encoder>\
<picture_fast_update></picture_fast_update></to_encoder></vc_primitive></media_control>\r\n";

/// Where a renewed offer stands.
#[derive(Debug, Default)]
pub(super) enum Reoffer {
    #[default]
    None,
    /// Waiting for the ports of a stream that is new.
    Preparing { request: RequestId, offer: SessionDescription },
    /// The re-INVITE carried no offer; ours went out in the 200 and its answer comes with the ACK.
    Offered { offered: SessionDescription },
}

impl Call {
    pub(super) fn reinvited(&mut self, request: RequestId, body: Option<&Body>) {
        if !matches!(self.state, State::Answered { .. } | State::Established { .. }) {
            return self.respond_to(request, 481, None);
        }
        if matches!(self.reoffer, Reoffer::Preparing { .. }) {
            return self.respond_to(request, 491, None);
        }
        let Some(body) = body else { return self.offer_again(request) };
        match self.read_reoffer(body) {
            Ok((offer, wanted)) if self.has_ports(wanted) => self.answer_again(request, &offer),
            Ok((offer, wanted)) => {
                self.reoffer = Reoffer::Preparing { request, offer };
                self.prepare(wanted);
            }
            Err(refusal) => self.respond_to(request, status_of(&refusal), None),
        }
    }

    fn read_reoffer(&self, body: &Body) -> Result<(SessionDescription, Wanted), Refusal> {
        let offer = negotiate::read(&body.bytes)?;
        let wanted = negotiate::wanted(&offer, &self.settings.media)?;
        Ok((offer, wanted))
    }

    fn has_ports(&self, wanted: Wanted) -> bool {
        let ports = self.ports.as_ref();
        let has = |wanted: bool, port: Option<u16>| !wanted || port.is_some();
        ports.is_some_and(|ports| has(wanted.audio, ports.audio) && has(wanted.video, ports.video))
    }

    fn offer_again(&mut self, request: RequestId) {
        let Some(ports) = self.ports else { return self.respond_to(request, 500, None) };
        let offered = negotiate::offer(&self.settings.media, &ports, &mut self.origin);
        self.respond_to(request, 200, Some(body_of(&offered)));
        self.reoffer = Reoffer::Offered { offered };
    }

    fn answer_again(&mut self, request: RequestId, offer: &SessionDescription) {
        let Some(ports) = self.ports else { return self.respond_to(request, 500, None) };
        match negotiate::answer(offer, &self.settings.media, &ports, &mut self.origin) {
            Ok((answer, streams)) => {
                self.respond_to(request, 200, Some(body_of(&answer)));
                self.update(streams);
            }
            Err(refusal) => self.respond_to(request, status_of(&refusal), None),
        }
    }

    fn update(&mut self, streams: crate::engine::plan::Streams) {
        if streams == self.streams {
            return;
        }
        self.streams = streams.clone();
        self.out.push_back(Do::Engine(Command::Update { call: self.id, streams: streams.clone() }));
        self.tell(Tell::Updated { streams });
    }

    /// The ports of a new stream are bound.
    pub(super) fn continue_reoffer(&mut self) {
        if let Reoffer::Preparing { request, offer } = std::mem::take(&mut self.reoffer) {
            self.answer_again(request, &offer);
        }
    }

    /// Answers a waiting re-offer with a failure. `false`: there is none.
    pub(super) fn refuse_reoffer(&mut self, status: u16) -> bool {
        match std::mem::take(&mut self.reoffer) {
            Reoffer::Preparing { request, .. } => {
                self.respond_to(request, status, None);
                true
            }
            other => {
                self.reoffer = other;
                false
            }
        }
    }

    /// An ACK inside the call. `Some`: the answer it should have carried cannot be used.
    pub(super) fn reoffer_acked(&mut self, body: Option<&Body>) -> Option<String> {
        match std::mem::take(&mut self.reoffer) {
            Reoffer::Offered { offered } => match self.accept(&offered, body) {
                Ok(streams) => {
                    self.update(streams);
                    None
                }
                Err(text) => Some(text),
            },
            other => {
                self.reoffer = other;
                None
            }
        }
    }

    pub(super) fn requested(&mut self, request: RequestId, method: Method, body: Option<&Body>) {
        if method != Method::Info {
            return self.respond_to(request, 200, None);
        }
        let Some(body) = body else { return self.respond_to(request, 200, None) };
        let kind = body.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match kind.as_str() {
            "application/media_control+xml" => {
                self.respond_to(request, 200, None);
                if String::from_utf8_lossy(&body.bytes).contains("picture_fast_update") {
                    self.out.push_back(Do::Engine(Command::SendKey { call: self.id }));
                }
            }
            "application/dtmf-relay" | "application/dtmf" => {
                self.respond_to(request, 200, None);
                if let Some(digit) = digit_of(&body.bytes) {
                    self.tell(Tell::Digit(digit));
                }
            }
            _ => self.respond_to(request, 415, None),
        }
    }

    fn respond_to(&mut self, request: RequestId, status: u16, body: Option<Body>) {
        let headers = match status {
            415 => vec![(
                "Accept".to_owned(),
                "application/sdp, application/dtmf-relay, application/media_control+xml".to_owned(),
            )],
            _ => Vec::new(),
        };
        self.out.push_back(Do::Sip(SipDo::RespondTo { request, status, headers, body }));
    }
}

fn status_of(refusal: &Refusal) -> u16 {
    match refusal {
        Refusal::Malformed(_) => 400,
        Refusal::NotAcceptable(_) => 488,
    }
}

/// `Signal=5` of dtmf-relay, or the bare digit of application/dtmf.
fn digit_of(bytes: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(bytes);
    let signal = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("signal").then(|| value.trim().to_owned())
    });
    let digit = signal.as_deref().unwrap_or(text.trim()).chars().next()?.to_ascii_uppercase();
    matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D').then_some(digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_info_bodies_carry_a_digit() {
        assert_eq!(digit_of(b"Signal=5\r\nDuration=160\r\n"), Some('5'));
        assert_eq!(digit_of(b"#"), Some('#'));
        assert_eq!(digit_of(b"Signal=x"), None);
    }
}
