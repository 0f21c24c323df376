//! Floor 5: the life of one call, from the first INVITE or our dialling to its one end.
//!
//! ```text
//! incoming:  Offered ──ports──▶ (Ringing) ──▶ Answered ──ACK──▶ Established ──▶ Ending ──▶ Over
//! outgoing:  Dialling ─ports──▶ Inviting ──2xx──▶ Established ──▶ Ending ──▶ Over
//! ```
//! Pure. It speaks SIP through [`SipDo`], media through [`Command`], and the rest of the box through [`Tell`].
//! Who may call, and which agent answers, is decided above (`useragent`); what SDP means is in [`negotiate`].

pub mod behaviour;
pub mod early;
pub mod end;
mod ending;
mod incoming;
pub mod info;
pub mod negotiate;
mod outgoing;
pub mod reach;
pub mod reason;
mod reoffer;
pub mod story;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::call::behaviour::{Behaviour, Room};
use crate::call::early::{Forks, Ring, Ringing};
use crate::call::end::EndReason;
use crate::call::negotiate::{MediaSettings, Origin, Refusal};
use crate::call::reason::PeerReason;
use crate::engine::plan::{BoundPorts, CallId, Command, Event, Label, Report, Streams, Wanted};
use crate::sdp::SessionDescription;
use crate::sip::{self, Body, Method, RequestId};

/// The engine is given this long to bind ports.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);

pub const SDP: &str = "application/sdp";

/// What a call is made with; fixed for its life.
#[derive(Clone, Debug)]
pub struct CallSettings {
    pub media: MediaSettings,
    /// The address in our SDP.
    pub address: IpAddr,
    pub label: Label,
    pub behaviour: Behaviour,
    pub room: Room,
    /// Where its media may go.
    /// `o=` session id.
    pub origin: u64,
    /// Feeds keys and passwords in our SDP; used for this call only.
    pub seed: [u8; 32],
    pub max_call: Duration,
    /// Outgoing: until CANCEL.
    pub ring_timeout: Duration,
    /// Incoming: before the answer.
    pub ring: Ring,
}

/// What the call wants of its SIP session.
#[derive(Clone, Debug, PartialEq)]
pub enum SipDo {
    Respond { status: u16, reason: Option<String>, headers: Vec<(String, String)>, body: Option<Body> },
    RespondTo { request: RequestId, status: u16, headers: Vec<(String, String)>, body: Option<Body> },
    Invite { body: Body },
    Ack { body: Option<Body> },
    Cancel { reason: String },
    Bye { reason: String },
    Request { method: Method, body: Option<Body> },
}

/// What happened, for logs, the console and the call record.
#[derive(Clone, Debug, PartialEq)]
pub enum Tell {
    Ringing,
    /// Media flows before the answer.
    Early {
        streams: Box<Streams>,
    },
    Answered {
        streams: Box<Streams>,
    },
    Updated {
        streams: Box<Streams>,
    },
    Digit(char),
    Moment(story::Moment),
}

/// The call's whole story, told once.
#[derive(Clone, Debug)]
pub struct Ended {
    pub reason: EndReason,
    /// What the peer said of its BYE, CANCEL or refusal.
    pub peer_reason: Option<PeerReason>,
    pub started: Instant,
    pub answered: Option<Instant>,
    pub ended: Instant,
    pub streams: Streams,
    pub report: Option<Box<Report>>,
}

#[derive(Debug)]
pub enum Do {
    Sip(SipDo),
    Engine(Command),
    Tell(Tell),
    /// Nothing of this call is left; drop it.
    Forget(Box<Ended>),
}

#[derive(Debug)]
enum State {
    /// Incoming, waiting for ports. `None`: the INVITE carried no offer.
    Offered {
        offer: Option<SessionDescription>,
    },
    /// Incoming, not to be answered yet.
    Ringing {
        until: Instant,
        media: Ringing,
    },
    /// Incoming, 200 sent. `offered`: our offer, when the answer comes in the ACK.
    Answered {
        offered: Option<SessionDescription>,
    },
    /// Outgoing, waiting for ports.
    Dialling,
    /// Outgoing, INVITE sent.
    Inviting {
        offered: SessionDescription,
        forks: Forks,
        give_up_at: Instant,
    },
    Established {
        until: Instant,
    },
    Ending {
        give_up_at: Instant,
    },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Idle,
    /// Told to prepare or to start: it has to be told to stop.
    Busy,
    Stopping,
    Stopped,
}

/// One call.
pub struct Call {
    id: CallId,
    settings: CallSettings,
    state: State,
    origin: Origin,
    ports: Option<BoundPorts>,
    streams: Streams,
    engine: Engine,
    /// The engine has been started.
    flowing: bool,
    /// Whether the SIP session still needs something of us or the peer.
    dialog_open: bool,
    end: Option<EndReason>,
    peer_reason: Option<PeerReason>,
    report: Option<Box<Report>>,
    started: Instant,
    answered: Option<Instant>,
    reoffer: reoffer::Reoffer,
    hold: reoffer::Hold,
    beside: info::Beside,
    recording_paused: bool,
    out: VecDeque<Do>,
}

impl Call {
    fn new(now: Instant, id: CallId, settings: CallSettings, state: State) -> Self {
        Call {
            id,
            hold: reoffer::Hold::new(&settings.media),
            origin: Origin::new("eyeline", settings.origin, settings.seed),
            settings,
            state,
            ports: None,
            streams: Streams::default(),
            engine: Engine::Idle,
            flowing: false,
            dialog_open: true,
            end: None,
            peer_reason: None,
            report: None,
            started: now,
            answered: None,
            reoffer: reoffer::Reoffer::default(),
            beside: info::Beside::default(),
            recording_paused: false,
            out: VecDeque::new(),
        }
    }

    pub fn id(&self) -> CallId {
        self.id
    }

    pub fn label(&self) -> &Label {
        &self.settings.label
    }

    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    pub fn answered(&self) -> Option<Instant> {
        self.answered
    }

    /// What it was made with.
    pub fn settings(&self) -> &CallSettings {
        &self.settings
    }

    /// Writes down what both sides call this call (Session-ID, RFC 7989), and its Call-ID once there is one.
    pub fn identify(&mut self, session_id: Option<String>, call_id: Option<String>) {
        let label = &mut self.settings.label;
        label.session_id = session_id.or(label.session_id.take());
        label.sip_call_id = call_id.unwrap_or_else(|| std::mem::take(&mut label.sip_call_id));
    }

    /// Of several contacts the one at this address has the call.
    pub fn answered_at(&mut self, peer: String) {
        self.settings.label.peer = peer;
    }

    /// Offer and answer and their acknowledgement are complete, and none is on its way.
    pub fn is_settled(&self) -> bool {
        matches!(self.state, State::Established { .. }) && matches!(self.reoffer, reoffer::Reoffer::None)
    }

    /// Whether it counts against `sip.max_calls`.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ending { .. } | State::Over)
    }

    /// A word for the console.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Offered { .. } | State::Dialling => "preparing",
            State::Ringing { .. } | State::Inviting { .. } if self.flowing => "early",
            State::Ringing { .. } | State::Inviting { .. } => "ringing",
            State::Answered { .. } => "answered",
            State::Established { .. } => "established",
            State::Ending { .. } => "ending",
            State::Over => "over",
        }
    }

    pub fn poll(&mut self) -> Option<Do> {
        self.out.pop_front()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        match &self.state {
            State::Ringing { until, .. } => Some(*until),
            State::Inviting { give_up_at, .. } | State::Ending { give_up_at } => Some(*give_up_at),
            State::Established { until } => {
                let others = [self.reoffer.wake_at(), self.beside.wake_at()];
                Some(others.into_iter().flatten().fold(*until, Instant::min))
            }
            State::Offered { .. } | State::Dialling => Some(self.started + PREPARE_LIMIT),
            State::Answered { .. } | State::Over => None,
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        match &self.state {
            State::Ringing { until, .. } if now >= *until => self.stop_ringing(now),
            State::Inviting { give_up_at, .. } if now >= *give_up_at => self.finish(now, EndReason::NoAnswer),
            State::Established { until } if now >= *until => self.finish(now, EndReason::TooLong),
            State::Established { .. } => {
                self.ask_again(now);
                self.relay_key(now);
            }
            State::Offered { .. } | State::Dialling if now >= self.started + PREPARE_LIMIT => {
                self.finish(now, EndReason::EngineFault("the engine binds no ports".to_owned()));
            }
            State::Ending { give_up_at } if now >= *give_up_at => {
                self.dialog_open = false;
                self.engine = Engine::Stopped;
                self.forget_when_over(now);
            }
            State::Offered { .. }
            | State::Ringing { .. }
            | State::Answered { .. }
            | State::Dialling
            | State::Inviting { .. }
            | State::Ending { .. }
            | State::Over => {}
        }
    }

    /// Something happened on the call's SIP session.
    pub fn handle_sip(&mut self, now: Instant, event: sip::Event) {
        match event {
            sip::Event::Cancelled { reason, .. } => {
                self.hear_reason(reason.as_deref());
                self.dialog_open = false;
                self.finish(now, EndReason::PeerCancelled);
            }
            sip::Event::Acked { body, .. } => self.acked(now, body.as_ref()),
            sip::Event::AckTimedOut { .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::AckMissing);
            }
            sip::Event::Pracked { request: Some(request), body, .. } => {
                self.pracked(now, request, body.as_ref());
            }
            sip::Event::Updated { request, body, .. } => self.updated(request, body.as_ref()),
            sip::Event::RefreshWanted { .. } => self.refresh(),
            sip::Event::Expired { .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::SessionExpired);
            }
            sip::Event::ByeReceived { reason, .. } => {
                self.hear_reason(reason.as_deref());
                self.dialog_open = false;
                self.finish(now, EndReason::PeerHungUp);
            }
            sip::Event::Progress { status, fork, body, .. } => self.progress(status, &fork, body.as_ref()),
            sip::Event::Answered { fork, body, .. } => self.peer_answered(now, &fork, body.as_ref()),
            sip::Event::Failed { status, reason, headers, .. } => {
                self.hear_reason(headers.value("Reason"));
                self.dialog_open = false;
                self.finish(now, EndReason::Rejected { status, text: reason });
            }
            sip::Event::Ended { .. } => {
                self.dialog_open = false;
                self.forget_when_over(now);
            }
            sip::Event::Reinvited { request, body, .. } => self.reinvited(request, body.as_ref()),
            sip::Event::Requested { request, method, headers, body, .. } => {
                self.requested(request, &method, &headers, body.as_ref());
            }
            sip::Event::Withdrawn { request, .. } => self.withdrawn(request),
            sip::Event::Responded { method: Method::Invite, status, body, .. } => {
                self.reoffer_answered(now, status, body.as_ref());
            }
            sip::Event::Responded { method: Method::Info, status, .. } => self.info_answered(status),
            // `Invited` made this call, and nothing hangs on other answers or on a PRACK without a body.
            sip::Event::Invited { .. }
            | sip::Event::Responded { .. }
            | sip::Event::Pracked { .. }
            | sip::Event::OutsideAnswered { .. }
            | sip::Event::OutsideRequested { .. }
            | sip::Event::ProofRefused { .. } => {}
        }
    }

    /// Something happened in the call's engine.
    pub fn handle_engine(&mut self, now: Instant, event: Event) {
        match event {
            Event::Prepared { ports, .. } => self.prepared(now, ports),
            Event::NotPrepared { why, .. } => self.not_prepared(now, why),
            // Before the answer nobody has to send.
            Event::MediaLost { .. } if self.answered.is_none() => {}
            Event::MediaLost { .. } => self.finish(now, EndReason::MediaTimeout),
            Event::Unprotected { why, .. } => self.finish(now, EndReason::ProtectionFailed(why)),
            Event::WantsKey { .. } => self.ask_key_by_info(),
            Event::PictureStalled { packets, .. } => self.tell(Tell::Moment(story::stalled(packets))),
            Event::PictureResumed { after_ms, .. } => self.tell(Tell::Moment(story::resumed(after_ms))),
            Event::Digit { digit, .. } => self.pressed(digit),
            Event::Told { told, .. } => self.tell(Tell::Moment(story::told(told))),
            // Whoever has all calls grants them.
            Event::Wish { .. } => {}
            Event::Fault { text, .. } => self.finish(now, EndReason::EngineFault(text)),
            Event::Stopped { report, .. } => {
                self.engine = Engine::Stopped;
                self.report = Some(report);
                if self.is_live() {
                    let text = "the engine stopped by itself".to_owned();
                    return self.finish(now, EndReason::EngineFault(text));
                }
                self.forget_when_over(now);
            }
        }
    }

    fn prepare(&mut self, wanted: Wanted) {
        self.engine = Engine::Busy;
        let command = Command::Prepare { call: self.id, wanted, address: self.settings.address };
        self.out.push_back(Do::Engine(command));
    }

    fn prepared(&mut self, now: Instant, ports: BoundPorts) {
        self.ports = Some(ports);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Offered { offer } => self.ready(now, offer, &ports),
            State::Dialling => {
                let offered = negotiate::offer(&self.settings.media, &ports, &mut self.origin);
                self.dialog_open = true;
                self.out.push_back(Do::Sip(SipDo::Invite { body: body_of(&offered) }));
                let give_up_at = now + self.settings.ring_timeout;
                self.state = State::Inviting { offered, forks: Forks::default(), give_up_at };
            }
            other => {
                self.state = other;
                self.continue_reoffer();
            }
        }
    }

    fn not_prepared(&mut self, now: Instant, why: String) {
        tracing::warn!(call = %self.id, "no media ports: {why}");
        match self.state {
            State::Offered { .. } => {
                let text = "Service Unavailable".to_owned();
                self.finish(now, EndReason::Refused { status: 503, text });
            }
            State::Dialling => self.finish(now, EndReason::EngineFault(format!("no media ports: {why}"))),
            // The media that flows goes on.
            State::Ringing { .. }
            | State::Inviting { .. }
            | State::Answered { .. }
            | State::Established { .. } => self.refuse_reoffer(500),
            State::Ending { .. } | State::Over => {}
        }
    }

    fn accept(&mut self, offered: &SessionDescription, body: Option<&Body>) -> Result<Streams, String> {
        let body = body.ok_or_else(|| "the answer carries no SDP".to_owned())?;
        negotiate::read(&body.bytes)
            .and_then(|answer| negotiate::accept(offered, &answer, &self.settings.media, &mut self.origin))
            .map_err(|refusal| refusal.to_string())
    }

    fn respond(&mut self, status: u16, header: Option<(String, String)>, body: Option<Body>) {
        let headers = header.into_iter().collect();
        self.out.push_back(Do::Sip(SipDo::Respond { status, reason: None, headers, body }));
    }

    fn hear_reason(&mut self, header: Option<&str>) {
        self.peer_reason = header.and_then(reason::read).or(self.peer_reason.take());
    }

    fn tell(&mut self, tell: Tell) {
        self.out.push_back(Do::Tell(tell));
    }
}

/// RFC 3261 §20.43, 304: media type not available.
fn warning(refusal: &Refusal) -> (String, String) {
    let text = refusal.to_string().replace(['"', '\\', '\r', '\n'], "'");
    ("Warning".to_owned(), format!("304 eyeline \"{text}\""))
}

fn body_of(description: &SessionDescription) -> Body {
    Body { content_type: SDP.to_owned(), bytes: description.to_string().into_bytes() }
}

#[cfg(test)]
mod tests;
