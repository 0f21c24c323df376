//! Signalling with a LiveKit server, version 0: joining, who is here, descriptions and candidates, and beginning anew.
//!
//! Pure. What broke is never resumed: the room is joined again as if for the first time, which for a call of minutes
//! costs a second and spares the state of two servers. What travels over the peer connections does not belong here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use livekit_protocol::leave_request::Action;
use livekit_protocol::participant_info::State as Presence;
use livekit_protocol::signal_request::Message as Request;
use livekit_protocol::signal_response::Message as Response;
use livekit_protocol::{
    DisconnectReason, JoinResponse, LeaveRequest, ParticipantInfo, Ping, SessionDescription, SignalRequest,
    SignalResponse, SignalTarget, SubscriptionError, TrackType, TrickleRequest, UpdateSubscription,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::token::ON_BEHALF;
use super::tracks::{Line, lines};
use crate::avatar::{Cause, Lost};
use crate::remote::failure::Failure;
use crate::webrtc::event::Kind;
use crate::webrtc::settings::IceServer;

/// From the open socket to the first word of the server.
const JOIN_WITHIN: Duration = Duration::from_secs(5);
/// Where the server does not say.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// A stay of this length takes back what earlier trouble counted.
const SETTLED: Duration = Duration::from_secs(30);
/// Participants looked at; a room of a call holds a handful.
const PARTICIPANTS_MAX: usize = 64;

/// When a room that was lost is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoins {
    /// Attempts in a row, after the first.
    pub most: u32,
    /// The pause before the first of them; each further one is twice as long.
    pub pause: Duration,
}

impl Default for Rejoins {
    fn default() -> Self {
        Rejoins { most: 4, pause: Duration::from_millis(250) }
    }
}

/// Which participant is the avatar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its identity; empty: whoever publishes for us, or whoever publishes a picture.
    pub identity: String,
}

/// Which peer connection is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Publisher,
    Subscriber,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Opens a socket; an earlier one is dropped.
    Connect,
    /// Peer connections of an earlier stay are dropped, new ones begin.
    NewPeers {
        servers: Vec<IceServer>,
    },
    Send(Vec<u8>),
    /// The subscriber is to answer, by [`Signal::answer`].
    Offered {
        sdp: String,
        id: u32,
    },
    /// The publisher's offer was answered.
    Answered {
        sdp: String,
    },
    Candidate {
        target: Target,
        candidate: String,
    },
    /// Which m-lines bring the avatar's sound and picture, as they stand now.
    Listen {
        sound: Option<String>,
        video: Option<String>,
    },
    /// Nothing more is done here; the socket is closed once what was sent is out.
    HangUp,
}

/// What happened, for whoever uses the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    Joined {
        room: String,
        identity: String,
    },
    /// Somebody came, or changed what it publishes.
    Here {
        identity: String,
        is_avatar: bool,
        sound: bool,
        video: bool,
    },
    Gone {
        identity: String,
        is_avatar: bool,
    },
    /// The room is being entered again.
    Rejoining {
        why: String,
    },
    Warning(String),
    Lost(Lost),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    /// The socket is open; the server must say something by then.
    Joining(Instant),
    In {
        since: Instant,
    },
    /// Until the next attempt.
    Waiting(Instant),
    Over,
}

/// What could not be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalCounters {
    pub unread: u64,
    pub rejoined: u64,
}

/// One participant's stay in a room.
pub struct Signal {
    expected: Expected,
    rejoins: Rejoins,
    token: String,
    state: State,
    attempts: u32,
    identity: String,
    /// By `PA_…`.
    here: HashMap<String, ParticipantInfo>,
    lines: Vec<Line>,
    listening: (Option<String>, Option<String>),
    /// Tracks of others, which were sent back.
    unwanted: HashSet<String>,
    offers: u32,
    ping_every: Duration,
    ping_timeout: Duration,
    heard: Instant,
    ping_at: Instant,
    acts: VecDeque<Act>,
    notices: VecDeque<Notice>,
    counters: SignalCounters,
}

impl Signal {
    pub fn new(now: Instant, token: String, expected: Expected, rejoins: Rejoins) -> Self {
        Signal {
            expected,
            rejoins,
            token,
            state: State::Connecting,
            attempts: 0,
            identity: String::new(),
            here: HashMap::new(),
            lines: Vec::new(),
            listening: (None, None),
            unwanted: HashSet::new(),
            offers: 0,
            ping_every: PING_EVERY,
            ping_timeout: PING_TIMEOUT,
            heard: now,
            ping_at: now,
            acts: VecDeque::from([Act::Connect]),
            notices: VecDeque::new(),
            counters: SignalCounters::default(),
        }
    }

    /// The token the server wants next: it may have given another.
    pub fn token(&self) -> &str {
        &self.token
    }

    pub fn counters(&self) -> SignalCounters {
        self.counters
    }

    pub fn poll_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Whether the room is entered.
    pub fn is_in(&self) -> bool {
        matches!(self.state, State::In { .. })
    }

    fn send(&mut self, message: Request) {
        self.acts.push_back(Act::Send(SignalRequest { message: Some(message) }.encode_to_vec()));
    }

    /// The socket is open.
    pub fn handle_open(&mut self, now: Instant) {
        if self.state == State::Connecting {
            self.state = State::Joining(now + JOIN_WITHIN);
        }
    }

    /// The socket is gone, or could not be opened.
    pub fn handle_ended(&mut self, now: Instant, failure: &Failure) {
        match self.state {
            State::Connecting if !failure.is_passing() => {
                let mut lost = Lost::of(failure);
                // Who was let in before has a token whose time is over: another session brings another.
                if lost.cause == Cause::Refused && !self.identity.is_empty() {
                    lost.cause = Cause::Connection;
                }
                self.lose(lost);
            }
            State::Connecting | State::Joining(_) | State::In { .. } => {
                let lost = Lost::of(failure);
                self.rejoin(now, lost);
            }
            State::Waiting(_) | State::Over => {}
        }
    }

    /// A peer connection failed.
    pub fn handle_peer_failed(&mut self, now: Instant, why: &str) {
        if self.is_in() {
            self.rejoin(now, Lost::new(Cause::Connection, format!("no media: {why}")));
        }
    }

    fn lose(&mut self, lost: Lost) {
        if self.state != State::Over {
            self.state = State::Over;
            self.acts.push_back(Act::HangUp);
            self.notices.push_back(Notice::Lost(lost));
        }
    }

    fn rejoin(&mut self, now: Instant, lost: Lost) {
        if let State::In { since } = self.state
            && now.saturating_duration_since(since) >= SETTLED
        {
            self.attempts = 0;
        }
        if self.attempts >= self.rejoins.most {
            return self.lose(lost);
        }
        let pause = self.rejoins.pause * 2_u32.saturating_pow(self.attempts);
        self.attempts += 1;
        self.counters.rejoined += 1;
        self.state = State::Waiting(now + pause);
        self.notices.push_back(Notice::Rejoining { why: lost.why });
    }

    /// Takes one binary message of the server.
    pub fn handle_frame(&mut self, now: Instant, bytes: &[u8]) {
        self.heard = now;
        if !matches!(self.state, State::Joining(_) | State::In { .. }) {
            return;
        }
        let Some(message) = SignalResponse::decode(bytes).ok().and_then(|response| response.message) else {
            self.counters.unread += 1;
            return;
        };
        match message {
            Response::Join(join) => self.joined(now, join),
            Response::Offer(offer) => self.offered(offer),
            Response::Answer(answer) if answer.id == 0 || answer.id == self.offers => {
                self.acts.push_back(Act::Answered { sdp: answer.sdp });
            }
            Response::Trickle(trickle) => self.trickled(&trickle),
            Response::Update(update) => {
                for participant in update.participants {
                    self.seen(participant);
                }
                self.sort();
            }
            Response::Leave(leave) => self.told_to_leave(now, &leave),
            Response::RefreshToken(token) => self.token = token,
            Response::SubscriptionResponse(refused) => {
                let why = match SubscriptionError::try_from(refused.err) {
                    Ok(SubscriptionError::SeCodecUnsupported) => "no codec in common",
                    Ok(SubscriptionError::SeTrackNotfound) => "no such track",
                    Ok(SubscriptionError::SeUnknown) | Err(_) => "refused",
                };
                let track = bounded(&refused.track_sid);
                self.notices.push_back(Notice::Warning(format!("track {track} does not come: {why}")));
            }
            // Who speaks, how good the line is, what others may see: nothing follows from it here.
            _ => {}
        }
    }

    fn joined(&mut self, now: Instant, join: JoinResponse) {
        let seconds = |given: i32, usual: Duration| match u64::try_from(given) {
            Ok(given @ 1..=600) => Duration::from_secs(given),
            _ => usual,
        };
        self.ping_every = seconds(join.ping_interval, PING_EVERY);
        self.ping_timeout = seconds(join.ping_timeout, PING_TIMEOUT);
        self.ping_at = now + self.ping_every;
        self.state = State::In { since: now };
        self.identity = join.participant.map(|own| own.identity).unwrap_or_default();
        self.lines.clear();
        self.listening = (None, None);
        self.unwanted.clear();
        self.offers = 0;
        let servers = join.ice_servers.into_iter().map(|server| IceServer {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        });
        self.acts.push_back(Act::NewPeers { servers: servers.collect() });
        let room = join.room.map(|room| room.name).unwrap_or_default();
        self.notices.push_back(Notice::Joined { room: bounded(&room), identity: self.identity.clone() });
        let before = std::mem::take(&mut self.here);
        for participant in join.other_participants {
            self.seen(participant);
        }
        for (sid, gone) in before {
            let again = self.here.values().any(|now| now.identity == gone.identity);
            if !self.here.contains_key(&sid) && !again {
                self.gone(&gone);
            }
        }
        self.sort();
    }

    fn is_avatar(&self, participant: &ParticipantInfo) -> bool {
        if !self.expected.identity.is_empty() {
            return participant.identity == self.expected.identity;
        }
        participant.attributes.get(ON_BEHALF) == Some(&self.identity)
            || participant.tracks.iter().any(|track| track.r#type == TrackType::Video as i32)
    }

    fn seen(&mut self, participant: ParticipantInfo) {
        if participant.identity == self.identity {
            return;
        }
        if participant.state == Presence::Disconnected as i32 {
            if let Some(gone) = self.here.remove(&participant.sid) {
                self.gone(&gone);
            }
            return;
        }
        if self.here.len() >= PARTICIPANTS_MAX && !self.here.contains_key(&participant.sid) {
            return;
        }
        let has = |kind: TrackType| participant.tracks.iter().any(|track| track.r#type == kind as i32);
        let notice = Notice::Here {
            identity: bounded(&participant.identity),
            is_avatar: self.is_avatar(&participant),
            sound: has(TrackType::Audio),
            video: has(TrackType::Video),
        };
        self.here.insert(participant.sid.clone(), participant);
        self.notices.push_back(notice);
    }

    fn gone(&mut self, participant: &ParticipantInfo) {
        let is_avatar = self.is_avatar(participant);
        self.notices.push_back(Notice::Gone { identity: bounded(&participant.identity), is_avatar });
    }

    /// Finds the avatar's m-lines, and sends back what others publish.
    fn sort(&mut self) {
        let avatars: HashSet<&str> = self
            .here
            .values()
            .filter(|participant| self.is_avatar(participant))
            .map(|participant| participant.sid.as_str())
            .collect();
        // A track that was published later stands further down; the one before may still be there for a moment.
        let own = |kind: Kind| {
            let mut own = self
                .lines
                .iter()
                .filter(|line| line.kind == kind && avatars.contains(line.participant.as_str()));
            let published = |line: &&Line| {
                self.here
                    .get(&line.participant)
                    .is_some_and(|participant| participant.tracks.iter().any(|track| track.sid == line.track))
            };
            let found = own.clone().rfind(published).or_else(|| own.next_back());
            found.map(|line| line.mid.clone())
        };
        let listening = (own(Kind::Sound), own(Kind::Video));
        let others = self.here.values().filter(|participant| !avatars.contains(participant.sid.as_str()));
        // Before the avatar is known, nobody is sent away.
        let sent_back: Vec<String> = others
            .filter(|_| !avatars.is_empty())
            .flat_map(|participant| participant.tracks.iter().map(|track| track.sid.clone()))
            .filter(|track| !self.unwanted.contains(track))
            .collect();
        if self.listening != listening {
            self.listening = listening.clone();
            self.acts.push_back(Act::Listen { sound: listening.0, video: listening.1 });
        }
        if !sent_back.is_empty() {
            self.unwanted.extend(sent_back.iter().cloned());
            self.send(Request::Subscription(UpdateSubscription {
                track_sids: sent_back,
                subscribe: false,
                participant_tracks: Vec::new(),
            }));
        }
    }

    fn offered(&mut self, offer: SessionDescription) {
        self.lines = lines(&offer.sdp);
        self.acts.push_back(Act::Offered { sdp: offer.sdp, id: offer.id });
        self.sort();
    }

    /// The subscriber's answer to the offer with this id.
    pub fn answer(&mut self, sdp: String, id: u32) {
        let answer =
            SessionDescription { r#type: "answer".to_owned(), sdp, id, ..SessionDescription::default() };
        self.send(Request::Answer(answer));
    }

    /// The publisher's offer.
    pub fn offer(&mut self, sdp: String) {
        self.offers += 1;
        let offer = SessionDescription {
            r#type: "offer".to_owned(),
            sdp,
            id: self.offers,
            ..SessionDescription::default()
        };
        self.send(Request::Offer(offer));
    }

    /// A candidate of ours.
    pub fn candidate(&mut self, target: Target, candidate: &str, mid: &str, index: u32) {
        let target = match target {
            Target::Publisher => SignalTarget::Publisher,
            Target::Subscriber => SignalTarget::Subscriber,
        };
        let init = json!({ "candidate": candidate, "sdpMid": mid, "sdpMLineIndex": index });
        let trickle =
            TrickleRequest { candidate_init: init.to_string(), target: target as i32, r#final: false };
        self.send(Request::Trickle(trickle));
    }

    fn trickled(&mut self, trickle: &TrickleRequest) {
        let init = serde_json::from_str::<Value>(&trickle.candidate_init).unwrap_or_default();
        let Some(candidate) = init.get("candidate").and_then(Value::as_str) else {
            self.counters.unread += u64::from(!trickle.r#final);
            return;
        };
        let target = match SignalTarget::try_from(trickle.target) {
            Ok(SignalTarget::Publisher) => Target::Publisher,
            Ok(SignalTarget::Subscriber) => Target::Subscriber,
            Err(_) => return self.counters.unread += 1,
        };
        self.acts.push_back(Act::Candidate { target, candidate: candidate.to_owned() });
    }

    fn told_to_leave(&mut self, now: Instant, leave: &LeaveRequest) {
        let reason = DisconnectReason::try_from(leave.reason).unwrap_or(DisconnectReason::UnknownReason);
        let why = format!("the room's server: {}", reason.as_str_name().to_lowercase().replace('_', " "));
        match Action::try_from(leave.action) {
            Ok(Action::Reconnect | Action::Resume) => {
                self.rejoin(now, Lost::new(Cause::Connection, why));
            }
            Ok(Action::Disconnect) | Err(_) => {
                let cause = match reason {
                    DisconnectReason::ServerShutdown
                    | DisconnectReason::Migration
                    | DisconnectReason::StateMismatch
                    | DisconnectReason::SignalClose
                    | DisconnectReason::ConnectionTimeout
                    | DisconnectReason::MediaFailure => Cause::Connection,
                    DisconnectReason::JoinFailure | DisconnectReason::DuplicateIdentity => Cause::Refused,
                    _ => Cause::Over,
                };
                self.lose(Lost::new(cause, why));
            }
        }
    }

    /// Says farewell.
    pub fn leave(&mut self) {
        if self.is_in() {
            self.send(Request::Leave(LeaveRequest {
                reason: DisconnectReason::ClientInitiated as i32,
                action: Action::Disconnect as i32,
                ..LeaveRequest::default()
            }));
        }
        if self.state != State::Over {
            self.state = State::Over;
            self.acts.push_back(Act::HangUp);
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Joining(until) | State::Waiting(until) => Some(until),
            State::In { .. } => Some(self.ping_at.min(self.heard + self.ping_timeout)),
            State::Connecting | State::Over => None,
        }
    }

    /// `unix_ms`: the time of day, for pings.
    pub fn handle_time(&mut self, now: Instant, unix_ms: i64) {
        match self.state {
            State::Joining(until) if until <= now => {
                self.rejoin(now, Lost::new(Cause::Connection, "the room's server says nothing"));
            }
            State::Waiting(until) if until <= now => {
                self.state = State::Connecting;
                self.acts.push_back(Act::Connect);
            }
            State::In { .. } if self.heard + self.ping_timeout <= now => {
                self.rejoin(now, Lost::new(Cause::Connection, "the room's server is silent"));
            }
            State::In { .. } if self.ping_at <= now => {
                self.ping_at = now + self.ping_every;
                self.send(Request::PingReq(Ping { timestamp: unix_ms, rtt: 0 }));
            }
            State::Joining(_) | State::Waiting(_) | State::In { .. } | State::Connecting | State::Over => {}
        }
    }
}

/// A name somebody else chose, for logs.
fn bounded(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(128).collect()
}

#[cfg(test)]
mod tests;
