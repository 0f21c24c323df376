//! What is asked beside the media inside a call, in both directions: INFO with keys (dtmf-relay) and wishes for a key
//! picture (RFC 5168), and texts (MESSAGE, RFC 3428).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::story::{self, Moment};
use super::{Call, Do, SipDo, State, Tell};
use crate::engine::plan::Command;
use crate::engine::talk::TalkOrder;
use crate::sip::{Body, Headers, Method, RequestId};

/// How long a key is down, and the pause before the next.
const PRESS: Duration = Duration::from_millis(160);
const PAUSE: Duration = Duration::from_millis(100);
/// Stands for a key that nobody is to read.
const HIDDEN: char = '•';
/// Keys that wait to be relayed.
const KEYS_MAX: usize = 64;
/// After so many refusals in a row the peer is not asked by INFO any more.
const REFUSALS_MAX: u8 = 3;
/// The largest text, bytes, and how many a call takes.
pub const TEXT_MAX: usize = 16 * 1024;
const TEXTS_MAX: u16 = 200;
pub const PLAIN: &str = "text/plain";
const INFO_ACCEPT: &str = "application/sdp, application/dtmf-relay, application/media_control+xml";

/// What stands between the call and its peer's INFO and MESSAGE.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Keys to relay, and when the next may be pressed.
    keys: VecDeque<char>,
    next_key: Option<Instant>,
    refusals: u8,
    texts: u16,
}

impl Beside {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.next_key.filter(|_| !self.keys.is_empty())
    }
}

/// RFC 5168 §7.
const PICTURE_FAST_UPDATE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\" ?>\r\n<media_control><vc_primitive><to_encoder>\
<picture_fast_update></picture_fast_update></to_encoder></vc_primitive></media_control>\r\n";

impl Call {
    /// Presses keys towards the peer, in its media when it takes them there, else by INFO; what is no key of a
    /// telephone is left out.
    pub fn send_digits(&mut self, now: Instant, digits: &str) {
        let digits: String = digits.chars().filter_map(key).collect();
        if digits.is_empty() || !matches!(self.state, State::Established { .. }) {
            return;
        }
        if self.streams.audio.as_ref().is_some_and(|audio| !audio.telephone_events.is_empty()) {
            return self.out.push_back(Do::Engine(Command::SendDigits { call: self.id, digits }));
        }
        let room = KEYS_MAX.saturating_sub(self.beside.keys.len());
        self.beside.keys.extend(digits.chars().take(room));
        self.relay_key(now);
    }

    /// Relays the next key, if its time has come.
    pub(super) fn relay_key(&mut self, now: Instant) {
        if self.beside.next_key.is_some_and(|at| now < at) || !matches!(self.state, State::Established { .. })
        {
            return;
        }
        let Some(key) = self.beside.keys.pop_front() else {
            self.beside.next_key = None;
            return;
        };
        self.beside.next_key = Some(now + PRESS + PAUSE);
        let body = Body {
            content_type: "application/dtmf-relay".to_owned(),
            bytes: format!("Signal={key}\r\nDuration={}\r\n", PRESS.as_millis()).into_bytes(),
        };
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Info, body: Some(body) }));
    }

    /// The final response to an INFO of ours.
    pub(super) fn info_answered(&mut self, status: u16) {
        if (200..300).contains(&status) {
            self.beside.refusals = 0;
            return;
        }
        self.beside.refusals = self.beside.refusals.saturating_add(1);
        if self.beside.refusals == REFUSALS_MAX {
            tracing::info!(call = %self.id, status, "the peer takes no INFO: none is sent any more");
            self.beside.keys.clear();
        }
    }

    pub(super) fn ask_key_by_info(&mut self) {
        let refused = self.beside.refusals >= REFUSALS_MAX;
        if refused || !matches!(self.state, State::Established { .. }) {
            return;
        }
        let body = Body {
            content_type: "application/media_control+xml".to_owned(),
            bytes: PICTURE_FAST_UPDATE.as_bytes().to_vec(),
        };
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Info, body: Some(body) }));
    }

    pub(super) fn requested(
        &mut self,
        request: RequestId,
        method: &Method,
        headers: &Headers,
        body: Option<&Body>,
    ) {
        match method {
            Method::Message => return self.texted(request, body),
            Method::Info => {}
            Method::Invite
            | Method::Ack
            | Method::Bye
            | Method::Cancel
            | Method::Options
            | Method::Update
            | Method::Prack
            | Method::Refer
            | Method::Notify
            | Method::Register
            | Method::Subscribe
            | Method::Publish
            | Method::Other(_) => return self.refuse_beside(request, 405, None),
        }
        // RFC 6086 §4.2.2: no package is known here; an INFO without one is of the old kind.
        if headers.value("Info-Package").is_some() {
            return self.refuse_beside(request, 469, Some(("Recv-Info", "")));
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
                    self.pressed(digit);
                }
            }
            _ => self.refuse_beside(request, 415, Some(("Accept", INFO_ACCEPT))),
        }
    }

    /// A key of the peer: for the agent as it is, for logs and records where it may be read.
    pub(super) fn pressed(&mut self, digit: char) {
        let behaviour = &self.settings.behaviour;
        let hidden = behaviour.hides_digits() || self.recording_paused;
        if behaviour.talks() {
            self.out.push_back(Do::Engine(Command::Talk { call: self.id, order: TalkOrder::Digit(digit) }));
        }
        self.tell(Tell::Digit(if hidden { HIDDEN } else { digit }));
    }

    /// From now on nothing is recorded, or everything again. `false`: this call is not recorded.
    pub fn pause_recording(&mut self, paused: bool) -> bool {
        if self.settings.room.recording.is_none() {
            return false;
        }
        if std::mem::replace(&mut self.recording_paused, paused) != paused {
            self.out.push_back(Do::Engine(Command::PauseRecording { call: self.id, paused }));
            let kind = if paused { "recording.paused" } else { "recording.resumed" };
            self.tell(Tell::Moment(Moment::new(kind)));
        }
        true
    }

    /// A text from the peer.
    fn texted(&mut self, request: RequestId, body: Option<&Body>) {
        match text_of(body) {
            Ok(_) if self.beside.texts >= TEXTS_MAX => {
                self.refuse_beside(request, 503, Some(("Retry-After", "3600")));
            }
            Ok(text) => {
                self.respond_to(request, 200, None);
                self.take_text(&text);
            }
            Err(415) => self.refuse_beside(request, 415, Some(("Accept", PLAIN))),
            Err(status) => self.refuse_beside(request, status, None),
        }
    }

    fn refuse_beside(&mut self, request: RequestId, status: u16, header: Option<(&str, &str)>) {
        let headers = header.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        self.out.push_back(Do::Sip(SipDo::RespondTo { request, status, headers, body: None }));
    }

    /// A text of the peer that came outside of the call. `false`: it has had enough of them.
    pub fn text(&mut self, text: &str) -> bool {
        let room = self.beside.texts < TEXTS_MAX;
        if room {
            self.take_text(text);
        }
        room
    }

    /// It stands in the record; to an agent that talks it is a turn of the caller in writing.
    fn take_text(&mut self, text: &str) {
        self.beside.texts += 1;
        self.tell(Tell::Moment(Moment::message(text)));
        if self.answered.is_some() && self.settings.behaviour.talks() && !text.trim().is_empty() {
            let order = TalkOrder::Text(text.to_owned());
            self.out.push_back(Do::Engine(Command::Talk { call: self.id, order }));
        }
    }
}

/// The text of a MESSAGE.
///
/// # Errors
/// The status it is refused with.
pub fn text_of(body: Option<&Body>) -> Result<String, u16> {
    let Some(body) = body else { return Ok(String::new()) };
    let kind = body.content_type.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case(PLAIN) {
        return Err(415);
    }
    if body.bytes.len() > TEXT_MAX {
        return Err(413);
    }
    Ok(story::readable(&String::from_utf8_lossy(&body.bytes)))
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
