//! Which streams live: keep-alives of RFC 5626 §3.5.1, and limits for peers that open streams and say nothing, half of
//! something or nothing any more.
//!
//! [`Pulse`] is one stream's clock. All streams are looked at together every [`EVERY`]; without streams no timer runs.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Access, ConnectionId, Do, Endpoint, Peer, Timer, Transport};

pub(super) const PING: &[u8] = b"\r\n\r\n";
pub(super) const PONG: &[u8] = b"\r\n";
/// How often streams are looked at.
const EVERY: Duration = Duration::from_secs(2);
/// An accepted stream brings its first message in it, and every message is whole in it.
const MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// Strangers' streams without a message.
const IDLE_STRANGER: Duration = Duration::from_secs(32);
/// Anybody's stream without a message and without a call.
const IDLE: Duration = Duration::from_secs(900);
const PING_EVERY: Duration = Duration::from_secs(25);
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// What becomes of a stream now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    Ping,
    Close(&'static str),
    /// To be closed if nothing needs it.
    Idle,
}

/// The times of one stream.
#[derive(Debug)]
pub(super) struct Pulse {
    /// We opened it, so that we keep it alive.
    ours: bool,
    since: Instant,
    /// A whole message went or came.
    used: Option<Instant>,
    /// The start of a message came, its end did not.
    half_since: Option<Instant>,
    /// One of its requests had a success: nobody unknown.
    proven: bool,
    pinged: Instant,
    awaits_pong: bool,
    /// A registration stands on it.
    held: bool,
    /// It has answered a ping before, so that silence means something.
    answers: bool,
}

impl Pulse {
    pub fn new(now: Instant, ours: bool) -> Self {
        Pulse {
            ours,
            since: now,
            used: None,
            half_since: None,
            proven: false,
            pinged: now,
            awaits_pong: false,
            held: false,
            answers: false,
        }
    }

    pub fn used(&mut self, now: Instant) {
        self.used = Some(now);
    }

    /// It is not closed for want of messages.
    pub fn hold(&mut self) {
        self.held = true;
    }

    pub fn proven(&mut self) {
        self.proven = true;
    }

    /// Bytes came. `true`: they are the answer to our ping and nothing else.
    pub fn heard(&mut self, bytes: &[u8]) -> bool {
        let pong = self.awaits_pong && bytes == PONG;
        self.awaits_pong = false;
        self.answers |= pong;
        pong
    }

    /// Whether a message is begun and not whole.
    pub fn half(&mut self, now: Instant, half: bool) {
        self.half_since = half.then(|| self.half_since.unwrap_or(now));
    }

    /// Whether calls may stand on it.
    pub fn carries(&self) -> bool {
        self.ours || self.proven
    }

    pub fn beat(&mut self, now: Instant, access: Access) -> Beat {
        let passed = |since: Instant, limit| now.saturating_duration_since(since) >= limit;
        if self.half_since.is_some_and(|since| passed(since, MESSAGE_LIMIT)) {
            return Beat::Close("a message that never ends");
        }
        if !self.ours && self.used.is_none() && passed(self.since, MESSAGE_LIMIT) {
            return Beat::Close("no message");
        }
        let used = self.used.unwrap_or(self.since);
        if access == Access::Stranger && !self.proven && passed(used, IDLE_STRANGER) {
            return Beat::Close("a stranger with nothing to say");
        }
        if self.awaits_pong && self.answers && passed(self.pinged, PONG_LIMIT) {
            return Beat::Close("no answer to a keep-alive");
        }
        if passed(used, IDLE) && !self.held {
            return Beat::Idle;
        }
        self.ping(now)
    }

    /// The keep-alive of a stream of ours, when its time has come.
    pub fn ping(&mut self, now: Instant) -> Beat {
        if !self.ours || now.saturating_duration_since(self.pinged) < PING_EVERY {
            return Beat::Nothing;
        }
        self.pinged = now;
        self.awaits_pong = true;
        Beat::Ping
    }
}

impl Endpoint {
    /// Arms the look at all streams, if there is anything to look at.
    pub(super) fn watch_streams(&mut self, now: Instant) {
        let wanted = (!self.connections.is_empty()).then_some(now + EVERY);
        if self.looks_at.is_none()
            && let Some(at) = wanted
        {
            self.looks_at = Some(at);
            self.timers.insert((at, Timer::Streams));
        }
    }

    pub(super) fn look_at_streams(&mut self, now: Instant) {
        self.looks_at = None;
        let (mut idle, mut closing) = (Vec::new(), Vec::new());
        for (peer, access, pulse) in self.connections.pulses() {
            let Some(id) = peer.connection else { continue };
            match pulse.beat(now, access) {
                Beat::Nothing => {}
                Beat::Ping => self.out.push_back(Do::Send { peer, bytes: PING.to_vec() }),
                Beat::Close(why) => closing.push((id, why)),
                Beat::Idle => idle.push(peer),
            }
        }
        if !idle.is_empty() {
            self.judge_idle(now, &idle, &mut closing);
        }
        closing.sort_unstable();
        for (id, why) in closing {
            tracing::debug!(?id, "a SIP stream is closed: {why}");
            self.out.push_back(Do::Close(id));
            self.handle_closed(now, id);
        }
        self.watch_streams(now);
    }

    /// A stream that calls or registrations stand on is kept alive, others are closed.
    fn judge_idle(&mut self, now: Instant, idle: &[Peer], closing: &mut Vec<(ConnectionId, &'static str)>) {
        let in_calls: HashSet<ConnectionId> =
            self.sessions.values().filter_map(|session| session.peer.connection).collect();
        let far: HashSet<(Transport, SocketAddr)> =
            self.sessions.values().map(|session| (session.peer.transport, session.peer.remote)).collect();
        for peer in idle {
            let Some(id) = peer.connection else { continue };
            let key = (peer.transport, peer.remote);
            if in_calls.contains(&id) || far.contains(&key) {
                if self.connections.pulse(id).is_some_and(|pulse| pulse.ping(now) == Beat::Ping) {
                    self.out.push_back(Do::Send { peer: *peer, bytes: PING.to_vec() });
                }
            } else {
                closing.push((id, "nothing to say for long"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_accepted_stream_must_say_something_whole_in_time() {
        let start = Instant::now();
        let mut silent = Pulse::new(start, false);
        assert_eq!(silent.beat(after(start, 9), Access::Trusted), Beat::Nothing);
        assert_eq!(silent.beat(after(start, 10), Access::Trusted), Beat::Close("no message"));
        let mut slow = Pulse::new(start, false);
        slow.used(after(start, 1));
        slow.half(after(start, 20), true);
        slow.half(after(start, 29), true);
        assert_eq!(slow.beat(after(start, 29), Access::Trusted), Beat::Nothing);
        assert_eq!(slow.beat(after(start, 30), Access::Trusted), Beat::Close("a message that never ends"));
        slow.half(after(start, 30), false);
        assert_eq!(slow.beat(after(start, 30), Access::Trusted), Beat::Nothing);
    }

    #[test]
    fn strangers_are_closed_early_unless_something_they_asked_succeeded() {
        let start = Instant::now();
        let mut stranger = Pulse::new(start, false);
        stranger.used(start);
        assert_eq!(stranger.beat(after(start, 31), Access::Stranger), Beat::Nothing);
        assert_ne!(stranger.beat(after(start, 32), Access::Stranger), Beat::Nothing);
        stranger.proven();
        assert_eq!(stranger.beat(after(start, 800), Access::Stranger), Beat::Nothing);
        assert_eq!(stranger.beat(after(start, 900), Access::Stranger), Beat::Idle);
        stranger.hold();
        assert_eq!(stranger.beat(after(start, 5000), Access::Stranger), Beat::Nothing);
    }

    #[test]
    fn a_stream_of_ours_is_pinged_and_closed_when_a_peer_that_answers_stops() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, true);
        assert_eq!(pulse.beat(after(start, 24), Access::Trusted), Beat::Nothing);
        assert_eq!(pulse.beat(after(start, 25), Access::Trusted), Beat::Ping);
        // It has never answered one: many stacks do not, and TCP itself finds dead paths.
        assert_eq!(pulse.beat(after(start, 36), Access::Trusted), Beat::Nothing);
        assert_eq!(pulse.beat(after(start, 50), Access::Trusted), Beat::Ping);
        assert!(pulse.heard(PONG));
        assert!(!pulse.heard(PONG), "one answer for one ping");
        assert_eq!(pulse.beat(after(start, 75), Access::Trusted), Beat::Ping);
        assert_eq!(pulse.beat(after(start, 84), Access::Trusted), Beat::Nothing);
        assert_eq!(pulse.beat(after(start, 85), Access::Trusted), Beat::Close("no answer to a keep-alive"));
    }
}
