//! Floor 5: the life of one call, from the first INVITE or our dialling to its one end.
//!
//! ```text
//! incoming:  Offered ──ports──▶ Answered ──ACK──▶ Established ──▶ Ending ──▶ Over
//! outgoing:  Dialling ─ports──▶ Inviting ──2xx──▶ Established ──▶ Ending ──▶ Over
//! ```
//! Pure. It speaks SIP through [`SipDo`], media through [`Command`], and the rest of the box through [`Tell`].
//! Who may call, and which agent answers, is decided above (`useragent`); what SDP means is in [`negotiate`].

pub mod behaviour;
pub mod end;
pub mod negotiate;
pub mod reach;
mod reoffer;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::call::behaviour::{Behaviour, Room};
use crate::call::end::EndReason;
use crate::call::negotiate::{MediaSettings, Origin, Refusal};
use crate::call::reach::Reach;
use crate::engine::plan::{BoundPorts, CallId, Command, Event, Label, Report, Streams, Wanted};
use crate::sdp::SessionDescription;
use crate::sip::{self, Body, Method, RequestId};

/// The engine is given this long to bind ports.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);
/// The engine is given this long to stop after it was told.
const ENGINE_STOP_LIMIT: Duration = Duration::from_secs(15);
/// A dialog that does not end by itself after BYE or CANCEL is given up (64 × T1 and a second).
const DIALOG_END_LIMIT: Duration = Duration::from_secs(33);

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
    pub reach: Reach,
    /// `o=` session id.
    pub origin: u64,
    /// Feeds keys and passwords in our SDP; used for this call only.
    pub seed: [u8; 32],
    pub max_call: Duration,
    /// Outgoing: until CANCEL.
    pub ring_timeout: Duration,
}

/// What the call wants of its SIP session.
#[derive(Clone, Debug, PartialEq)]
pub enum SipDo {
    Respond { status: u16, reason: Option<String>, headers: Vec<(String, String)>, body: Option<Body> },
    RespondTo { request: RequestId, status: u16, headers: Vec<(String, String)>, body: Option<Body> },
    Invite { body: Body },
    Ack { body: Option<Body> },
    Cancel,
    Bye { reason: String },
    Request { method: Method, body: Option<Body> },
}

/// What happened, for logs, the console and the call record.
#[derive(Clone, Debug, PartialEq)]
pub enum Tell {
    Ringing,
    Answered { streams: Box<Streams> },
    Updated { streams: Box<Streams> },
    Digit(char),
}

/// The call's whole story, told once.
#[derive(Clone, Debug)]
pub struct Ended {
    pub reason: EndReason,
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
    /// Incoming, 200 sent. `offered`: our offer, when the answer comes in the ACK.
    Answered {
        offered: Option<SessionDescription>,
    },
    /// Outgoing, waiting for ports.
    Dialling,
    /// Outgoing, INVITE sent.
    Inviting {
        offered: SessionDescription,
        early: Option<Box<SessionDescription>>,
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
    /// Whether the SIP session still needs something of us or the peer.
    dialog_open: bool,
    end: Option<EndReason>,
    report: Option<Box<Report>>,
    started: Instant,
    answered: Option<Instant>,
    reoffer: reoffer::Reoffer,
    hold: reoffer::Hold,
    out: VecDeque<Do>,
}

impl Call {
    /// An INVITE that admission and routing let through. `offer` is its body, if any.
    pub fn incoming(now: Instant, id: CallId, settings: CallSettings, offer: Option<&Body>) -> Self {
        let mut call = Call::new(now, id, settings, State::Over);
        match call.read_offer(offer) {
            Ok((offer, wanted)) => {
                call.state = State::Offered { offer };
                call.respond(180, None, None);
                call.tell(Tell::Ringing);
                call.prepare(wanted);
            }
            Err(refusal) => call.refuse(now, refusal),
        }
        call
    }

    /// A call we make.
    pub fn outgoing(now: Instant, id: CallId, settings: CallSettings) -> Self {
        let wanted = Wanted { audio: true, video: settings.media.video, slides: false };
        let mut call = Call::new(now, id, settings, State::Dialling);
        call.dialog_open = false;
        call.hold.own_dialog();
        call.prepare(wanted);
        call
    }

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
            dialog_open: true,
            end: None,
            report: None,
            started: now,
            answered: None,
            reoffer: reoffer::Reoffer::default(),
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

    /// Whether it counts against `sip.max_calls`.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ending { .. } | State::Over)
    }

    /// A word for the console.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Offered { .. } | State::Dialling => "preparing",
            State::Answered { .. } => "answered",
            State::Inviting { .. } => "ringing",
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
            State::Inviting { give_up_at, .. } | State::Ending { give_up_at } => Some(*give_up_at),
            State::Established { until } => {
                Some(self.reoffer.wake_at().map_or(*until, |again| again.min(*until)))
            }
            State::Offered { .. } | State::Dialling => Some(self.started + PREPARE_LIMIT),
            State::Answered { .. } | State::Over => None,
        }
    }

    pub fn handle_time(&mut self, now: Instant) {
        match &self.state {
            State::Inviting { give_up_at, .. } if now >= *give_up_at => self.finish(now, EndReason::NoAnswer),
            State::Established { until } if now >= *until => self.finish(now, EndReason::TooLong),
            State::Established { .. } => self.ask_again(now),
            State::Offered { .. } | State::Dialling if now >= self.started + PREPARE_LIMIT => {
                self.finish(now, EndReason::EngineFault("the engine binds no ports".to_owned()));
            }
            State::Ending { give_up_at } if now >= *give_up_at => {
                self.dialog_open = false;
                self.engine = Engine::Stopped;
                self.forget_when_over(now);
            }
            State::Offered { .. }
            | State::Answered { .. }
            | State::Dialling
            | State::Inviting { .. }
            | State::Ending { .. }
            | State::Over => {}
        }
    }

    /// Presses keys towards the peer; what is no key of a telephone is left out.
    pub fn send_digits(&mut self, digits: &str) {
        let digits: String = digits.chars().filter_map(reoffer::key).collect();
        if !digits.is_empty() && matches!(self.state, State::Established { .. }) {
            self.out.push_back(Do::Engine(Command::SendDigits { call: self.id, digits }));
        }
    }

    /// Ends the call from our side: operator, agent, shutdown, or a fault above.
    pub fn hang_up(&mut self, now: Instant, reason: EndReason) {
        self.finish(now, reason);
    }

    /// Something happened on the call's SIP session.
    pub fn handle_sip(&mut self, now: Instant, event: sip::Event) {
        match event {
            sip::Event::Cancelled { .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::PeerCancelled);
            }
            sip::Event::Acked { body, .. } => self.acked(now, body.as_ref()),
            sip::Event::AckTimedOut { .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::AckMissing);
            }
            sip::Event::ByeReceived { .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::PeerHungUp);
            }
            sip::Event::Progress { status, body, .. } => self.progress(status, body.as_ref()),
            sip::Event::Answered { body, .. } => self.peer_answered(now, body.as_ref()),
            sip::Event::Failed { status, reason, .. } => {
                self.dialog_open = false;
                self.finish(now, EndReason::Rejected { status, text: reason });
            }
            sip::Event::Ended { .. } => {
                self.dialog_open = false;
                self.forget_when_over(now);
            }
            sip::Event::Reinvited { request, body, .. } => self.reinvited(request, body.as_ref()),
            sip::Event::Requested { request, method, body, .. } => {
                self.requested(request, method, body.as_ref())
            }
            sip::Event::Withdrawn { request, .. } => self.withdrawn(request),
            sip::Event::Responded { method: Method::Invite, status, body, .. } => {
                self.reoffer_answered(now, status, body.as_ref());
            }
            // `Invited` made this call, and nothing hangs on the answer to an INFO.
            sip::Event::Invited { .. } | sip::Event::Responded { .. } => {}
        }
    }

    /// Something happened in the call's engine.
    pub fn handle_engine(&mut self, now: Instant, event: Event) {
        match event {
            Event::Prepared { ports, .. } => self.prepared(now, ports),
            Event::NotPrepared { why, .. } => self.not_prepared(now, why),
            Event::MediaLost { .. } => self.finish(now, EndReason::MediaTimeout),
            Event::WantsKey { .. } => self.ask_key_by_info(),
            Event::Digit { digit, .. } => self.tell(Tell::Digit(digit)),
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

    fn read_offer(&self, body: Option<&Body>) -> Result<(Option<SessionDescription>, Wanted), Refusal> {
        let Some(body) = body else {
            return Ok((None, Wanted { audio: true, video: self.settings.media.video, slides: false }));
        };
        let offer = negotiate::read(&body.bytes)?;
        let wanted = negotiate::wanted(&offer, &self.settings.media)?;
        Ok((Some(offer), wanted))
    }

    fn prepare(&mut self, wanted: Wanted) {
        self.engine = Engine::Busy;
        let command = Command::Prepare { call: self.id, wanted, address: self.settings.address };
        self.out.push_back(Do::Engine(command));
    }

    fn prepared(&mut self, now: Instant, ports: BoundPorts) {
        self.ports = Some(ports);
        match std::mem::replace(&mut self.state, State::Over) {
            State::Offered { offer: Some(offer) } => self.answer(now, &offer, &ports),
            State::Offered { offer: None } => {
                let offered = negotiate::offer(&self.settings.media, &ports, &mut self.origin);
                self.respond(200, None, Some(body_of(&offered)));
                self.state = State::Answered { offered: Some(offered) };
            }
            State::Dialling => {
                let offered = negotiate::offer(&self.settings.media, &ports, &mut self.origin);
                self.dialog_open = true;
                self.out.push_back(Do::Sip(SipDo::Invite { body: body_of(&offered) }));
                let give_up_at = now + self.settings.ring_timeout;
                self.state = State::Inviting { offered, early: None, give_up_at };
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
            State::Answered { .. } | State::Established { .. } => self.refuse_reoffer(500),
            State::Inviting { .. } | State::Ending { .. } | State::Over => {}
        }
    }

    fn answer(&mut self, now: Instant, offer: &SessionDescription, ports: &BoundPorts) {
        match negotiate::answer(offer, &self.settings.media, ports, &mut self.origin) {
            Ok((answer, streams)) => {
                self.respond(200, None, Some(body_of(&answer)));
                self.state = State::Answered { offered: None };
                self.start(now, streams);
            }
            Err(refusal) => self.refuse(now, refusal),
        }
    }

    fn start(&mut self, now: Instant, mut streams: Streams) {
        self.settings.reach.limit(&mut streams);
        self.answered.get_or_insert(now);
        self.streams = streams.clone();
        let plan =
            self.settings.behaviour.plan(self.settings.label.clone(), streams.clone(), &self.settings.room);
        self.out.push_back(Do::Engine(Command::Start { call: self.id, plan: Box::new(plan) }));
        self.tell(Tell::Answered { streams: Box::new(streams) });
    }

    fn acked(&mut self, now: Instant, body: Option<&Body>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Answered { offered } => {
                self.state = State::Established { until: now + self.settings.max_call };
                match offered.map(|offered| self.accept(&offered, body)) {
                    Some(Ok(streams)) => self.start(now, streams),
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

    fn accept(&mut self, offered: &SessionDescription, body: Option<&Body>) -> Result<Streams, String> {
        let body = body.ok_or_else(|| "the answer carries no SDP".to_owned())?;
        negotiate::read(&body.bytes)
            .and_then(|answer| negotiate::accept(offered, &answer, &self.settings.media, &mut self.origin))
            .map_err(|refusal| refusal.to_string())
    }

    fn progress(&mut self, status: u16, body: Option<&Body>) {
        if let State::Inviting { early, .. } = &mut self.state {
            if let Some(answer) = body.and_then(|body| negotiate::read(&body.bytes).ok()) {
                *early = Some(Box::new(answer));
            }
            if status == 180 {
                self.tell(Tell::Ringing);
            }
        }
    }

    fn peer_answered(&mut self, now: Instant, body: Option<&Body>) {
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

    fn ask_key_by_info(&mut self) {
        if !matches!(self.state, State::Established { .. }) {
            return;
        }
        let body = Body {
            content_type: "application/media_control+xml".to_owned(),
            bytes: reoffer::PICTURE_FAST_UPDATE.as_bytes().to_vec(),
        };
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Info, body: Some(body) }));
    }

    fn refuse(&mut self, now: Instant, refusal: Refusal) {
        let (status, text) = match &refusal {
            Refusal::Malformed(_) => (400, "Bad Request"),
            Refusal::NotAcceptable(_) => (488, "Not Acceptable Here"),
        };
        self.respond(status, Some(warning(&refusal)), None);
        self.dialog_open = false;
        self.finish(now, EndReason::Refused { status, text: text.to_owned() });
    }

    fn respond(&mut self, status: u16, header: Option<(String, String)>, body: Option<Body>) {
        let headers = header.into_iter().collect();
        self.out.push_back(Do::Sip(SipDo::Respond { status, reason: None, headers, body }));
    }

    fn tell(&mut self, tell: Tell) {
        self.out.push_back(Do::Tell(tell));
    }

    /// The only way a call ends: says the right thing to the peer, stops the engine, keeps the first reason.
    fn finish(&mut self, now: Instant, reason: EndReason) {
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

    fn close_dialog(&mut self, reason: &EndReason) {
        match &self.state {
            State::Offered { .. } => {
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
            State::Inviting { .. } => self.out.push_back(Do::Sip(SipDo::Cancel)),
            State::Answered { .. } | State::Established { .. } => {
                self.out.push_back(Do::Sip(SipDo::Bye { reason: reason.reason_header() }));
            }
            State::Dialling | State::Ending { .. } | State::Over => self.dialog_open = false,
        }
    }

    fn forget_when_over(&mut self, now: Instant) {
        let engine_over = matches!(self.engine, Engine::Idle | Engine::Stopped);
        if !matches!(self.state, State::Ending { .. }) || self.dialog_open || !engine_over {
            return;
        }
        self.state = State::Over;
        let ended = Ended {
            reason: self.end.clone().unwrap_or(EndReason::HungUp),
            started: self.started,
            answered: self.answered,
            ended: now,
            streams: self.streams.clone(),
            report: self.report.take(),
        };
        self.out.push_back(Do::Forget(Box::new(ended)));
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
