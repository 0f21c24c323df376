//! Session timers (RFC 4028): how long a session lives without a refresh, who refreshes it, and its end when nobody
//! does.
//!
//! ```text
//! half the interval: UPDATE, or RefreshWanted for a re-INVITE with the current description
//! interval − min(32 s, a third): BYE and Expired
//! ```

use std::time::{Duration, Instant};

use super::super::message::{Headers, Method, RequestMessage, ResponseMessage};
use super::inbound::plain;
use super::options;
use super::session::State;
use super::transactions::User;
use super::{Endpoint, Event, Response, SessionId};

/// RFC 4028 §5: no interval is shorter.
const LEAST: Duration = Duration::from_secs(90);
/// A peer that grants less than it was asked for is followed down to here.
const BRIEFEST: Duration = Duration::from_secs(20);
/// A refresh that cannot go out now is tried again so much later.
const SOON: Duration = Duration::from_secs(1);
/// Between attempts that failed; shorter in brief sessions.
const PAUSE: Duration = Duration::from_secs(10);
/// Longer intervals are cut to a day: nothing here counts longer.
const MOST: Duration = Duration::from_secs(86_400);

/// The timer of one session.
#[derive(Debug, Default)]
pub(super) struct SessionTimer {
    /// Negotiated, or our own against a peer without timers; `None`: the session lives until somebody ends it.
    interval: Option<Duration>,
    /// We refresh.
    ours: bool,
    /// The peer has timers too, and waits for refreshes or sends them.
    shared: bool,
    /// The longest Min-SE heard of.
    least: Duration,
    /// The peer's Allow names UPDATE, and none has been refused.
    updates: bool,
    refresh_at: Option<Instant>,
    expire_at: Option<Instant>,
    /// 422s in a row.
    pub brief: u8,
}

impl SessionTimer {
    pub fn wake_at(&self) -> Option<Instant> {
        [self.refresh_at, self.expire_at].into_iter().flatten().min()
    }

    pub fn stop(&mut self) {
        (self.refresh_at, self.expire_at) = (None, None);
    }

    /// Counts from now.
    fn begin(&mut self, now: Instant) {
        self.stop();
        self.brief = 0;
        let Some(interval) = self.interval else { return };
        // A peer without timers is only asked what cannot disturb it: many a door station ends a call over a re-INVITE.
        let asks = self.ours && (self.shared || self.updates);
        self.refresh_at = asks.then_some(now + interval / 2);
        // §10: the BYE goes out while the other side still knows the session.
        let early = (interval / 3).min(Duration::from_secs(32));
        self.expire_at = self.shared.then_some(now + interval - early);
    }

    /// Takes a peer's Min-SE into account.
    pub fn raise(&mut self, headers: &Headers) -> bool {
        let least = headers.value("Min-SE").and_then(seconds_of);
        let higher = least.is_some_and(|least| least > self.least);
        self.least = self.least.max(least.unwrap_or_default());
        higher
    }

    pub fn note_methods(&mut self, headers: &Headers) {
        if headers.value("Allow").is_some() {
            self.updates = options::allows(headers, &Method::Update);
        }
    }
}

impl Endpoint {
    /// What we want; `None`: sessions without timers.
    fn wanted_interval(&self, least: Duration) -> Option<Duration> {
        let wanted = self.settings.session_expires;
        (!wanted.is_zero()).then(|| wanted.max(self.settings.min_se).max(least))
    }

    /// What our INVITE or UPDATE says of it.
    pub(super) fn timer_headers(&self, session: SessionId) -> Vec<(String, String)> {
        self.sessions.get(&session).map_or_else(Vec::new, |state| self.timer_headers_of(&state.timer))
    }

    pub(super) fn timer_headers_of(&self, timer: &SessionTimer) -> Vec<(String, String)> {
        let Some(interval) = timer.interval.or_else(|| self.wanted_interval(timer.least)) else {
            return Vec::new();
        };
        let interval = interval.max(timer.least);
        // The first INVITE leaves the choice to the peer; later requests keep the roles (§7.4).
        let refresher = match (timer.interval, timer.ours) {
            (None, _) => "",
            (Some(_), true) => ";refresher=uac",
            (Some(_), false) => ";refresher=uas",
        };
        let mut headers = vec![("Session-Expires".to_owned(), format!("{}{refresher}", interval.as_secs()))];
        let least = self.settings.min_se.max(timer.least);
        if least != LEAST {
            headers.push(("Min-SE".to_owned(), least.as_secs().to_string()));
        }
        headers
    }

    /// §9: 422 when the peer asks for less than we allow.
    pub(super) fn too_brief(&self, request: &RequestMessage) -> Option<Response> {
        let (asked, _) = expires_of(&request.headers)?;
        if asked >= self.settings.min_se || !options::can(&request.headers, "timer") {
            return None;
        }
        let headers = vec![("Min-SE".to_owned(), self.settings.min_se.as_secs().to_string())];
        Some(Response { headers, ..plain(422) })
    }

    /// Our 2xx to their INVITE or UPDATE: decides, begins, and returns what the response says (§9).
    pub(super) fn grant_timer(
        &mut self,
        now: Instant,
        session: SessionId,
        request: &RequestMessage,
    ) -> Vec<(String, String)> {
        let headers = &request.headers;
        let asked = expires_of(headers);
        let shared = options::can(headers, "timer");
        let least = self.sessions.get(&session).map_or(Duration::ZERO, |state| state.timer.least);
        let least = least.max(headers.value("Min-SE").and_then(seconds_of).unwrap_or_default());
        let own = self.wanted_interval(least);
        let Some(state) = self.sessions.get_mut(&session) else { return Vec::new() };
        let timer = &mut state.timer;
        timer.least = least;
        timer.note_methods(headers);
        let asked_for = asked.map(|(interval, _)| interval.max(self.settings.min_se));
        timer.interval = match (asked_for, own) {
            // Shorter is allowed, longer is not.
            (Some(asked), Some(own)) => Some(asked.min(own).max(least)),
            (Some(asked), None) => Some(asked),
            (None, own) => own,
        };
        timer.shared = shared;
        // Who asks refreshes, unless it says otherwise; who does not know how cannot.
        timer.ours = match asked.and_then(|(_, refresher)| refresher) {
            Some(Refresher::Uas) => true,
            Some(Refresher::Uac) | None => !shared,
        };
        timer.begin(now);
        let Some(interval) = timer.interval else { return Vec::new() };
        let refresher = if timer.ours { "uas" } else { "uac" };
        let mut headers =
            vec![("Session-Expires".to_owned(), format!("{};refresher={refresher}", interval.as_secs()))];
        if shared && !timer.ours {
            headers.push(("Require".to_owned(), "timer".to_owned()));
        }
        self.tend_session(session);
        headers
    }

    /// Their 2xx to our INVITE or UPDATE (§7.2).
    pub(super) fn take_timer(&mut self, now: Instant, session: SessionId, response: &ResponseMessage) {
        let granted = expires_of(&response.headers);
        let least = self.sessions.get(&session).map_or(Duration::ZERO, |state| state.timer.least);
        let own = self.wanted_interval(least);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let timer = &mut state.timer;
        timer.note_methods(&response.headers);
        match granted {
            Some((interval, refresher)) => {
                timer.interval = Some(interval.max(BRIEFEST.min(self.settings.min_se)));
                timer.ours = refresher != Some(Refresher::Uas);
                timer.shared = true;
            }
            // Nobody over there waits for refreshes: ours only find out whether the peer is still there.
            None => (timer.interval, timer.ours, timer.shared) = (own, true, false),
        }
        timer.begin(now);
        self.tend_session(session);
    }

    pub(super) fn refresh_time(&mut self, now: Instant, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if matches!(state.state, State::Closing) {
            return state.timer.stop();
        }
        if state.timer.expire_at.is_some_and(|at| now >= at) {
            state.timer.stop();
            self.event(Event::Expired { session });
            return self.bye(now, session, Some("SIP;cause=408;text=\"session expired\""));
        }
        if state.timer.refresh_at.is_none_or(|at| now < at) {
            return;
        }
        let free = matches!(state.state, State::Confirmed) && !state.is_renewing() && state.repeat.is_none();
        if !free {
            state.timer.refresh_at = Some(now + SOON);
        } else if state.timer.updates {
            state.timer.refresh_at = None;
            let headers = self.timer_headers(session);
            let user = User::Refresh(session);
            let sent = self.start_in_dialog(now, session, Method::Update, &headers, None, user);
            if let Some(state) = self.sessions.get_mut(&session) {
                state.our_update = sent;
            }
        } else {
            let again = now + pause(state.timer.interval);
            state.timer.refresh_at = Some(again);
            self.event(Event::RefreshWanted { session });
        }
    }

    /// The final response to our refreshing UPDATE.
    pub(super) fn refreshed(&mut self, now: Instant, session: SessionId, response: &ResponseMessage) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.our_update = None;
        let timer = &mut state.timer;
        match response.status {
            200..=299 => {
                if let Some(dialog) = &mut state.dialog {
                    dialog.refresh_target(response.contact());
                }
                self.take_timer(now, session, response);
            }
            481 | 408 => {
                self.forget_session(now, session);
                self.event(Event::Expired { session });
            }
            405 | 420 | 501 => {
                timer.updates = false;
                timer.refresh_at = timer.shared.then_some(now);
            }
            // It is there, and waits for nothing.
            _ if !timer.shared => timer.begin(now),
            _ => {
                let asked = response.headers.value("Retry-After").and_then(seconds_of);
                timer.refresh_at = Some(now + asked.unwrap_or_else(|| pause(timer.interval)).min(PAUSE));
            }
        }
        self.tend_session(session);
    }

    /// No response came to it at all.
    pub(super) fn refresh_failed(&mut self, now: Instant, session: SessionId, status: u16) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.our_update = None;
        if status == 408 {
            // RFC 3261 §12.2.1.2: a dialog whose peer does not answer is over.
            state.timer.stop();
            self.event(Event::Expired { session });
            return self.bye(now, session, Some("SIP;cause=408;text=\"no answer to the session refresh\""));
        }
        state.timer.refresh_at = Some(now + pause(state.timer.interval));
        self.tend_session(session);
    }
}

fn pause(interval: Option<Duration>) -> Duration {
    interval.map_or(PAUSE, |interval| (interval / 8).min(PAUSE))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refresher {
    Uac,
    Uas,
}

/// Session-Expires (§4).
fn expires_of(headers: &Headers) -> Option<(Duration, Option<Refresher>)> {
    let text = headers.value("Session-Expires")?;
    let refresher = text.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        match (name.trim().to_ascii_lowercase().as_str(), value.trim().to_ascii_lowercase().as_str()) {
            ("refresher", "uac") => Some(Refresher::Uac),
            ("refresher", "uas") => Some(Refresher::Uas),
            _ => None,
        }
    });
    Some((seconds_of(text)?, refresher))
}

/// The number a header begins with.
fn seconds_of(text: &str) -> Option<Duration> {
    let number = text.split([';', '(', ' ']).next()?.trim();
    number.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()).min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        lines.iter().for_each(|(name, value)| headers.push(name, *value));
        headers
    }

    #[test]
    fn session_expires_is_read_with_and_without_its_refresher() {
        let read = |text| expires_of(&headers(&[("x", text)]));
        assert_eq!(read("1800"), Some((Duration::from_secs(1800), None)));
        assert_eq!(read("90 ; Refresher=UAS"), Some((Duration::from_secs(90), Some(Refresher::Uas))));
        assert_eq!(read("4294967295;refresher=uac;x=y"), Some((MOST, Some(Refresher::Uac))));
        assert_eq!(read("soon"), None);
        assert_eq!(read("4294967296"), None);
    }

    #[test]
    fn the_refresh_is_at_half_time_and_the_end_a_little_before_the_whole() {
        let now = Instant::now();
        let at = |timer: &SessionTimer| {
            [timer.refresh_at, timer.expire_at].map(|at| at.map(|at| (at - now).as_secs()))
        };
        let interval = Some(Duration::from_secs(1800));
        let mut timer = SessionTimer { interval, ours: true, shared: true, ..SessionTimer::default() };
        timer.begin(now);
        assert_eq!(at(&timer), [Some(900), Some(1768)]);
        timer.interval = Some(Duration::from_secs(90));
        timer.ours = false;
        timer.begin(now);
        assert_eq!(at(&timer), [None, Some(60)]);
        timer.shared = false;
        timer.begin(now);
        assert_eq!(at(&timer), [None, None]);
    }

    #[test]
    fn a_min_se_only_ever_rises() {
        let mut timer = SessionTimer::default();
        assert!(timer.raise(&headers(&[("Min-SE", "600")])));
        assert!(!timer.raise(&headers(&[("Min-SE", "120")])));
        assert!(!timer.raise(&headers(&[])));
        assert_eq!(timer.least, Duration::from_secs(600));
    }

    use super::super::tests::{ALICE, Scripted, Wire, ok, our_tag, request, status};
    use super::super::{Access, Settings, Transport};

    fn settings(expires: u64, least: u64) -> Settings {
        let (session_expires, min_se) = (Duration::from_secs(expires), Duration::from_secs(least));
        Settings { session_expires, min_se, ..Settings::default() }
    }

    fn count(wire: &Wire, start: &str) -> usize {
        wire.carried.iter().filter(|line| line.starts_with(start)).count()
    }

    #[test]
    fn a_session_is_refreshed_at_half_time_as_long_as_both_are_there() {
        let mut wire = Wire::with(Transport::Udp, settings(1800, 90), settings(600, 90));
        let (a, _) = wire.establish();
        wire.pass(Duration::from_secs(3 * 3600 + 10));
        // Bob wants 600 s, Alice asked and refreshes: every 300 s.
        assert_eq!(count(&wire, "UPDATE"), 36);
        assert!(
            !wire.events_a.iter().chain(&wire.events_b).any(|event| matches!(event, Event::Expired { .. }))
        );
        wire.alice.bye(wire.now, a, None);
        wire.settle();
        wire.assert_nothing_left();
    }

    #[test]
    fn both_sides_end_a_session_that_is_not_refreshed() {
        let mut wire = Wire::with(Transport::Udp, settings(600, 90), settings(600, 90));
        wire.establish();
        let start = wire.now;
        wire.lost = (wire.carried.len()..10_000).collect();
        wire.pass(Duration::from_secs(300 + 33));
        assert!(
            wire.events_a.iter().any(|event| matches!(event, Event::Expired { .. })),
            "no answer to the refresh"
        );
        wire.pass(Duration::from_secs(600 - 32) - (wire.now - start));
        assert!(
            wire.events_b.iter().any(|event| matches!(event, Event::Expired { .. })),
            "32 s before the end"
        );
        wire.assert_nothing_left();
    }

    #[test]
    fn a_brief_session_is_refused_with_422_and_asked_for_again_longer() {
        let mut wire = Wire::with(Transport::Udp, settings(90, 90), settings(1800, 1200));
        let (a, b) = wire.establish();
        assert_eq!((count(&wire, "INVITE"), count(&wire, "SIP/2.0 422")), (2, 1));
        wire.pass(Duration::from_secs(605));
        assert_eq!(count(&wire, "UPDATE"), 1, "half of 1200 s");
        // Against an UPDATE too: Bob has become stricter.
        wire.bob.settings.min_se = Duration::from_secs(1600);
        wire.pass(Duration::from_secs(600));
        assert_eq!((count(&wire, "UPDATE"), count(&wire, "SIP/2.0 422")), (3, 2));
        wire.bob.bye(wire.now, b, None);
        wire.settle();
        assert!(
            wire.events_a
                .iter()
                .any(|event| matches!(event, Event::ByeReceived { session, .. } if *session == a))
        );
        wire.assert_nothing_left();
    }

    #[test]
    fn a_peer_that_insists_on_422_is_refused_in_the_end() {
        let mut wire = Wire::with(Transport::Udp, settings(90, 90), settings(1800, 1200));
        wire.alice.settings.session_expires = Duration::from_secs(90);
        wire.bob.settings.min_se = MOST * 2;
        wire.call();
        assert!(
            matches!(wire.events_a.last(), Some(Event::Failed { status: 422, .. })),
            "{:?}",
            wire.carried
        );
        wire.assert_nothing_left();
    }

    /// An answered INVITE with these headers, the 200 it got, and our tag.
    fn answered(phone: &mut Scripted, more: &str) -> (SessionId, String, String) {
        phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, more));
        let session = phone.events[0].session().expect("a session");
        phone.endpoint.respond(phone.now, session, ok());
        let said = phone.says();
        let tag = our_tag(&said);
        phone.hears(ALICE, Access::Trusted, &request("ACK", "2", &tag, 1, ""));
        (session, said[0].1.clone(), tag)
    }

    /// Everything sent in this time.
    fn pass(phone: &mut Scripted, seconds: u64) -> Vec<String> {
        let end = phone.now + Duration::from_secs(seconds);
        let mut said = Vec::new();
        while let Some(at) = phone.endpoint.wake_at().filter(|at| *at <= end) {
            phone.now = at;
            phone.endpoint.handle_time(at);
            said.extend(phone.says().into_iter().map(|(_, text)| text));
        }
        phone.now = end;
        said
    }

    #[test]
    fn who_refreshes_is_said_in_the_200() {
        for (more, expected, required) in [
            ("Supported: timer\nSession-Expires: 600\n", "600;refresher=uac", true),
            ("Supported: timer\nSession-Expires: 600;refresher=uas\n", "600;refresher=uas", false),
            ("k: timer\nx: 7200;refresher=uac\n", "1800;refresher=uac", true),
            ("Supported: timer\nSession-Expires: 7200\nMin-SE: 3600\n", "3600;refresher=uac", true),
            ("Supported: timer\n", "1800;refresher=uac", true),
            ("", "1800;refresher=uas", false),
        ] {
            let mut phone = Scripted::new(settings(1800, 90));
            let (_, answer, _) = answered(&mut phone, more);
            assert!(answer.contains(&format!("Session-Expires: {expected}\r\n")), "{more}: {answer}");
            assert_eq!(answer.contains("Require: timer\r\n"), required, "{more}: {answer}");
        }
    }

    #[test]
    fn a_peer_without_update_is_refreshed_by_a_reinvite_and_one_without_timers_only_by_update() {
        let mut phone = Scripted::new(settings(1800, 90));
        answered(
            &mut phone,
            "Supported: timer\nSession-Expires: 600;refresher=uas\nAllow: INVITE, ACK, BYE\n",
        );
        assert!(pass(&mut phone, 299).is_empty());
        pass(&mut phone, 2);
        assert!(
            matches!(phone.events.last(), Some(Event::RefreshWanted { .. })),
            "{:?}",
            phone.events.last()
        );

        let mut phone = Scripted::new(settings(1800, 90));
        answered(&mut phone, "");
        assert!(pass(&mut phone, 7200).is_empty(), "nothing is asked of a plain door station");

        let mut phone = Scripted::new(settings(1800, 90));
        answered(&mut phone, "Allow: INVITE, ACK, BYE, UPDATE\n");
        assert!(pass(&mut phone, 901)[0].starts_with("UPDATE "));
    }

    #[test]
    fn a_refresh_of_the_peer_moves_the_end() {
        let mut phone = Scripted::new(settings(1800, 90));
        let (_, _, tag) = answered(&mut phone, "Supported: timer\nSession-Expires: 600\n");
        assert!(pass(&mut phone, 560).is_empty());
        let refresh = "Supported: timer\nSession-Expires: 600;refresher=uac\n";
        let said = phone.hears(ALICE, Access::Trusted, &request("UPDATE", "u", &tag, 2, refresh));
        assert_eq!(status(&said), ["200"]);
        assert!(said[0].1.contains("Session-Expires: 600;refresher=uac\r\n"), "{}", said[0].1);
        assert!(pass(&mut phone, 560).is_empty());
        let said = pass(&mut phone, 9);
        assert!(said[0].starts_with("BYE ") && said[0].contains("session expired"), "{said:?}");
        assert!(phone.events.iter().any(|event| matches!(event, Event::Expired { .. })));
    }

    #[test]
    fn an_update_that_is_not_understood_is_followed_by_a_reinvite() {
        let mut phone = Scripted::new(settings(1800, 90));
        let more = "Supported: timer\nSession-Expires: 600;refresher=uas\nAllow: UPDATE\n";
        answered(&mut phone, more);
        let said = pass(&mut phone, 301);
        assert!(said[0].starts_with("UPDATE ") && said[0].contains("Session-Expires: 600;refresher=uac"));
        let refusal: Vec<&str> = said[0]
            .lines()
            .filter(|line| {
                ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name))
            })
            .collect();
        let refusal = format!("SIP/2.0 405 No\n{}\nContent-Length: 0\n\n", refusal.join("\n"));
        phone.hears(ALICE, Access::Stranger, &refusal);
        pass(&mut phone, 1);
        assert!(
            matches!(phone.events.last(), Some(Event::RefreshWanted { .. })),
            "{:?}",
            phone.events.last()
        );
    }
}
