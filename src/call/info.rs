//! What is asked beside the media inside a call: INFO with keys (dtmf-relay) and wishes for a key picture (RFC 5168).

use super::{Call, Do, SipDo, State, Tell};
use crate::engine::plan::Command;
use crate::sip::{Body, Method, RequestId};

/// RFC 5168 §7.
const PICTURE_FAST_UPDATE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\r\n<media_control><vc_primitive><to_encoder>\
<picture_fast_update></picture_fast_update></to_encoder></vc_primitive></media_control>\r\n";

impl Call {
    /// Presses keys towards the peer; what is no key of a telephone is left out.
    pub fn send_digits(&mut self, digits: &str) {
        let digits: String = digits.chars().filter_map(key).collect();
        if !digits.is_empty() && matches!(self.state, State::Established { .. }) {
            self.out.push_back(Do::Engine(Command::SendDigits { call: self.id, digits }));
        }
    }

    pub(super) fn ask_key_by_info(&mut self) {
        if !matches!(self.state, State::Established { .. }) {
            return;
        }
        let body = Body {
            content_type: "application/media_control+xml".to_owned(),
            bytes: PICTURE_FAST_UPDATE.as_bytes().to_vec(),
        };
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Info, body: Some(body) }));
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
}

/// A key of a telephone as RFC 4733 knows it.
fn key(digit: char) -> Option<char> {
    let digit = digit.to_ascii_uppercase();
    matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D').then_some(digit)
}

/// `Signal=5` of dtmf-relay, or the bare digit of application/dtmf.
fn digit_of(bytes: &[u8]) -> Option<char> {
    let text = String::from_utf8_lossy(bytes);
    let signal = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("signal").then(|| value.trim().to_owned())
    });
    key(signal.as_deref().unwrap_or(text.trim()).chars().next()?)
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
