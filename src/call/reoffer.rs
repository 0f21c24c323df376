//! A renewed offer inside an established call (RFC 3264 §8): hold, resume, video added or removed, new addresses.
//!
//! A re-offer that fails, theirs or ours, leaves the media as it was.

use std::time::{Duration, Instant};

use super::{Call, Do, SipDo, State, Tell, body_of};
use crate::call::negotiate::{self, MediaSettings, Refusal};
use crate::call::reach;
use crate::engine::plan::{BoundPorts, Command, Direction, Streams, Wanted};
use crate::sdp::SessionDescription;
use crate::sip::{Body, Method, RequestId};

/// Where a renewed offer stands.
#[derive(Debug, Default)]
pub(super) enum Reoffer {
    #[default]
    None,
    /// Waiting for the ports of a stream that is new.
    Preparing { request: RequestId, offer: SessionDescription, by: By },
    /// The re-INVITE carried no offer; ours went out in the 200 and its answer comes with the ACK.
    Offered { offered: SessionDescription },
    /// Our answer went out and its ACK has not come: no new offer of ours before it (RFC 3261 §14.1).
    Unacknowledged,
    /// Our re-INVITE is out. `hold`: what it asks for.
    Asking { offered: SessionDescription, hold: bool },
    /// Ours met theirs (491).
    Pausing { until: Instant },
}

/// What brought their offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Its ACK follows.
    Invite,
    /// UPDATE or PRACK.
    Update,
}

impl Reoffer {
    /// When to ask again.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self {
            Reoffer::Pausing { until } => Some(*until),
            Reoffer::None
            | Reoffer::Preparing { .. }
            | Reoffer::Offered { .. }
            | Reoffer::Unacknowledged
            | Reoffer::Asking { .. } => None,
        }
    }
}

/// Holding the peer: what is wanted, and what it last agreed to.
#[derive(Debug)]
pub(super) struct Hold {
    wanted: bool,
    held: bool,
    /// The directions without hold.
    audio: Direction,
    video: Direction,
    /// We dialled: the Call-ID is ours.
    own_dialog: bool,
    /// How often ours met theirs.
    glares: u8,
}

impl Hold {
    pub(super) fn new(media: &MediaSettings) -> Self {
        Hold {
            wanted: false,
            held: false,
            audio: media.audio_direction,
            video: media.video_direction,
            own_dialog: false,
            glares: 0,
        }
    }

    pub(super) fn own_dialog(&mut self) {
        self.own_dialog = true;
    }

    fn direct(&self, hold: bool, media: &mut MediaSettings) {
        let limited = |direction: Direction| match (hold, direction.sends()) {
            (false, _) => direction,
            (true, true) => Direction::SendOnly,
            (true, false) => Direction::Inactive,
        };
        media.audio_direction = limited(self.audio);
        media.video_direction = limited(self.video);
    }

    /// RFC 3261 §14.1: 2.1 to 4 s for the owner of the Call-ID, up to 2 s for the other side, in steps of 10 ms.
    fn pause(&self, seed: u64) -> Duration {
        let mixed = (seed ^ u64::from(self.glares)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let milliseconds = if self.own_dialog { 2_100 + mixed % 191 * 10 } else { mixed % 201 * 10 };
        Duration::from_millis(milliseconds)
    }
}

/// Holding and resuming from our side.
impl Call {
    /// Asks the peer to stop sending. Until it agrees, and if it does not, the media stays as it is.
    pub fn hold(&mut self) {
        self.want_hold(true);
    }

    /// Takes a hold back.
    pub fn resume(&mut self) {
        self.want_hold(false);
    }

    /// Whether the peer has agreed to be held.
    pub fn is_held(&self) -> bool {
        self.hold.held
    }

    fn want_hold(&mut self, hold: bool) {
        self.hold.wanted = hold;
        self.hold.glares = 0;
        self.renew();
    }

    /// Sends the offer that is wanted, if nothing else is on the way; whatever ends calls this again.
    pub(super) fn renew(&mut self) {
        let idle = matches!(self.reoffer, Reoffer::None) && matches!(self.state, State::Established { .. });
        let hold = self.hold.wanted;
        let Some(ports) = self.ports.filter(|_| idle && hold != self.hold.held) else { return };
        self.hold.direct(hold, &mut self.settings.media);
        // Only the streams there are: a hold does not bring back what the peer took away.
        let video = self.settings.media.video && self.streams.video.is_some();
        let media = MediaSettings { video, ..self.settings.media.clone() };
        let ports = BoundPorts { audio: ports.audio.filter(|_| self.streams.audio.is_some()), ..ports };
        let offered = negotiate::offer(&media, &ports, &mut self.origin);
        let body = Some(body_of(&offered));
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Invite, body }));
        self.reoffer = Reoffer::Asking { offered, hold };
    }

    /// The session wants a refresh (RFC 4028 §7.4): a re-INVITE with the description that stands, `o=` as it was.
    pub(super) fn refresh(&mut self) {
        let idle = matches!(self.reoffer, Reoffer::None) && matches!(self.state, State::Established { .. });
        let Some(offered) = self.origin.current().filter(|_| idle).cloned() else { return };
        let body = Some(body_of(&offered));
        self.out.push_back(Do::Sip(SipDo::Request { method: Method::Invite, body }));
        self.reoffer = Reoffer::Asking { offered, hold: self.hold.held };
    }

    /// The final response to our re-INVITE.
    pub(super) fn reoffer_answered(&mut self, now: Instant, status: u16, body: Option<&Body>) {
        let (offered, hold) = match std::mem::take(&mut self.reoffer) {
            Reoffer::Asking { offered, hold } => (offered, hold),
            other => {
                self.reoffer = other;
                return;
            }
        };
        let accepted = if (200..300).contains(&status) { self.accept(&offered, body).ok() } else { None };
        match accepted {
            Some(streams) => {
                self.hold.held = hold;
                self.update(streams);
            }
            None if status == 491 && self.hold.glares == 0 => {
                self.reoffer = Reoffer::Pausing { until: now + self.hold.pause(self.settings.origin) };
                self.hold.glares = 1;
            }
            None => {
                tracing::info!(call = %self.id, status, hold, "the peer does not agree");
                if self.hold.wanted == hold {
                    self.hold.wanted = self.hold.held;
                }
            }
        }
        self.hold.direct(self.hold.held, &mut self.settings.media);
        self.renew();
    }

    /// The pause after a 491 may be over.
    pub(super) fn ask_again(&mut self, now: Instant) {
        if self.reoffer.wake_at().is_some_and(|at| now >= at) {
            self.reoffer = Reoffer::None;
            self.renew();
        }
    }
}

/// What the peer asks inside the call.
impl Call {
    pub(super) fn reinvited(&mut self, request: RequestId, body: Option<&Body>) {
        let answered = matches!(self.state, State::Answered { .. });
        if !answered && !matches!(self.state, State::Established { .. }) {
            return self.respond_to(request, 481, None);
        }
        // Before the ACK the offer and answer of the call itself are not complete.
        if answered || matches!(self.reoffer, Reoffer::Preparing { .. } | Reoffer::Asking { .. }) {
            return self.respond_to(request, 491, None);
        }
        let Some(body) = body else { return self.offer_again(request) };
        self.offered_again(request, body, By::Invite);
    }

    /// An offer in an UPDATE (RFC 3311), or in a PRACK after the first was answered.
    pub(super) fn updated(&mut self, request: RequestId, body: Option<&Body>) {
        let answered = match &self.state {
            State::Established { .. } | State::Answered { offered: None } => true,
            State::Ringing { .. } | State::Inviting { .. } => self.flowing,
            State::Answered { offered: Some(_) } | State::Offered { .. } => false,
            State::Dialling | State::Ending { .. } | State::Over => {
                return self.respond_to(request, 481, None);
            }
        };
        let free = matches!(self.reoffer, Reoffer::None | Reoffer::Unacknowledged | Reoffer::Pausing { .. });
        match body {
            _ if !answered || !free => self.respond_to(request, 491, None),
            None => self.respond_to(request, 200, None),
            Some(body) => self.offered_again(request, body, By::Update),
        }
    }

    fn offered_again(&mut self, request: RequestId, body: &Body, by: By) {
        match self.read_reoffer(body) {
            Ok((offer, wanted)) if self.has_ports(wanted) => self.answer_again(request, &offer, by),
            Ok((offer, wanted)) => {
                self.reoffer = Reoffer::Preparing { request, offer, by };
                self.prepare(wanted);
            }
            Err(refusal) => self.refuse_request(request, &refusal),
        }
    }

    fn read_reoffer(&self, body: &Body) -> Result<(SessionDescription, Wanted), Refusal> {
        let offer = negotiate::read(&body.bytes)?;
        if negotiate::takes_all_away(&offer) {
            return Ok((offer, Wanted::default()));
        }
        let wanted = negotiate::wanted(&offer, &self.settings.media)?;
        Ok((offer, wanted))
    }

    fn has_ports(&self, wanted: Wanted) -> bool {
        let ports = self.ports.as_ref();
        let has = |wanted: bool, port: Option<u16>| !wanted || port.is_some();
        ports.is_some_and(|ports| {
            has(wanted.audio, ports.audio)
                && has(wanted.video, ports.video)
                && has(wanted.slides, ports.slides)
        })
    }

    fn offer_again(&mut self, request: RequestId) {
        let Some(ports) = self.ports else { return self.respond_to(request, 500, None) };
        let offered = negotiate::offer(&self.settings.media, &ports, &mut self.origin);
        self.respond_to(request, 200, Some(body_of(&offered)));
        self.reoffer = Reoffer::Offered { offered };
    }

    fn answer_again(&mut self, request: RequestId, offer: &SessionDescription, by: By) {
        let Some(ports) = self.ports else { return self.respond_to(request, 500, None) };
        match negotiate::answer(offer, &self.settings.media, &ports, &mut self.origin) {
            Ok((answer, streams)) => {
                self.respond_to(request, 200, Some(body_of(&answer)));
                match by {
                    By::Invite => self.reoffer = Reoffer::Unacknowledged,
                    By::Update => self.forget_answer(),
                }
                self.update(streams);
            }
            Err(refusal) => self.refuse_request(request, &refusal),
        }
    }

    pub(super) fn update(&mut self, mut streams: Streams) {
        reach::limit(&self.settings.room.reach, &mut streams);
        if streams == self.streams {
            return;
        }
        // The engine gives the port of a stream that is gone back; whoever wants it again has to ask for a new one.
        if let Some(ports) = &mut self.ports {
            ports.audio = ports.audio.filter(|_| streams.audio.is_some() || self.streams.audio.is_none());
            ports.video = ports.video.filter(|_| streams.video.is_some() || self.streams.video.is_none());
            ports.slides = ports.slides.filter(|_| streams.slides.is_some() || self.streams.slides.is_none());
        }
        self.streams = streams.clone();
        self.out.push_back(Do::Engine(Command::Update { call: self.id, streams: Box::new(streams.clone()) }));
        self.tell(Tell::Updated { streams: Box::new(streams) });
    }

    /// The ports of a new stream are bound.
    pub(super) fn continue_reoffer(&mut self) {
        if let Some((request, offer, by)) = self.take_preparing() {
            self.answer_again(request, &offer, by);
            self.renew();
        }
    }

    /// Answers a re-offer that waits for ports with a failure.
    pub(super) fn refuse_reoffer(&mut self, status: u16) {
        if let Some((request, ..)) = self.take_preparing() {
            self.respond_to(request, status, None);
            self.renew();
        }
    }

    /// The peer took its re-INVITE back before we answered.
    pub(super) fn withdrawn(&mut self, request: RequestId) {
        if matches!(self.reoffer, Reoffer::Preparing { request: waiting, .. } if waiting == request) {
            self.reoffer = Reoffer::None;
            self.renew();
        }
    }

    fn take_preparing(&mut self) -> Option<(RequestId, SessionDescription, By)> {
        match std::mem::take(&mut self.reoffer) {
            Reoffer::Preparing { request, offer, by } => Some((request, offer, by)),
            other => {
                self.reoffer = other;
                None
            }
        }
    }

    /// An ACK inside the call. `Some`: the answer it should have carried cannot be used.
    pub(super) fn reoffer_acked(&mut self, body: Option<&Body>) -> Option<String> {
        match std::mem::take(&mut self.reoffer) {
            Reoffer::Unacknowledged => None,
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

    fn refuse_request(&mut self, request: RequestId, refusal: &Refusal) {
        let headers = vec![super::warning(refusal)];
        self.out.push_back(Do::Sip(SipDo::RespondTo {
            request,
            status: refusal.status(),
            headers,
            body: None,
        }));
    }

    pub(super) fn respond_to(&mut self, request: RequestId, status: u16, body: Option<Body>) {
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
