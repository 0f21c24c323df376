//! Transfers (RFC 3515, RFC 5589): a peer sends one of our calls to somebody else, or we send a peer away.
//!
//! ```text
//! theirs: REFER ─▶ allowed? ─▶ 202, NOTIFY 100 ─▶ a new call with the same agent ─▶ NOTIFY 180, 200 ─▶ they hang up
//! ours:   hold ─▶ allowed? ─▶ REFER ─▶ NOTIFY … ─▶ 2xx: BYE; anything else: resume
//! ```
//! A subscription that comes with a REFER lives inside its call and ends with it (RFC 5057 §5.1).

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use super::control::{Kind, Refused};
use super::dialling::DialReason;
use super::{Dial, UserAgent, Way};
use crate::call::Call;
use crate::call::end::EndReason;
use crate::call::story::Moment;
use crate::engine::plan::{CallId, Direction, Label};
use crate::sip::refer::{self, Referral, Subscription};
use crate::sip::replaces::Replaces;
use crate::sip::{Body, Event, Headers, Method, NameAddr, RequestId, SessionId, Uri};

/// A hold before our REFER takes no longer than this.
const HOLD_LIMIT: Duration = Duration::from_secs(5);
/// Between our REFER, its response and each piece of news.
const NEWS_LIMIT: Duration = Duration::from_secs(90);
/// Whoever sent its call away hangs up within this, or we do.
const GOODBYE_LIMIT: Duration = Duration::from_secs(10);
/// Seconds a subscription is said to last; the call it is about has a final answer before.
pub(super) const SUBSCRIPTION_S: u32 = 180;

/// Where the peer of a call is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferTo {
    /// To a URI nobody has called yet.
    Blind(Uri),
    /// To the peer of another call of ours, whose place it takes there.
    Attended(CallId),
}

/// Every transfer that is under way; at most one in each direction for each call.
#[derive(Default)]
pub(super) struct Transfers {
    /// By the call the REFER came in.
    theirs: BTreeMap<CallId, Theirs>,
    /// The call made for a REFER, and the call that came in.
    made_for: HashMap<CallId, CallId>,
    /// By the call whose peer is sent away.
    ours: BTreeMap<CallId, Ours>,
}

/// A REFER of the peer that was taken.
struct Theirs {
    target: String,
    /// `Event` of its NOTIFYs.
    event: String,
    /// No NOTIFY is wanted, or none is taken.
    quiet: bool,
    /// The status last told.
    told: u16,
    /// The new call is up: who referred hangs up until then.
    hang_up_at: Option<Instant>,
}

/// A REFER of ours.
struct Ours {
    stage: Stage,
    target: Uri,
    replaces: Option<Replaces>,
    /// The hold is ours and is taken back when the transfer fails.
    held: bool,
    until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The peer is being held.
    Holding,
    /// The REFER waits for its response.
    Asked(RequestId),
    /// It was taken; news comes.
    Taken,
}

impl Transfers {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let theirs = self.theirs.values().filter_map(|theirs| theirs.hang_up_at);
        theirs.chain(self.ours.values().map(|ours| ours.until)).min()
    }
}

/// What an event of a call says about the transfer it was made for.
pub(super) fn news_of(event: &Event) -> Option<(u16, String)> {
    if let Event::Progress { status, .. } = event {
        return Some((*status, String::new()));
    }
    if let Event::Failed { status, reason, .. } = event {
        return Some((*status, reason.clone()));
    }
    matches!(event, Event::Answered { .. }).then(|| (200, "OK".to_owned()))
}

/// Requests of transfers and their responses, before the call sees them.
impl UserAgent {
    /// `None`: the event was about a transfer and is dealt with.
    pub(super) fn refer_event(
        &mut self,
        now: Instant,
        call: CallId,
        session: SessionId,
        event: Event,
    ) -> Option<Event> {
        match event {
            Event::Requested { request, method: Method::Refer, headers, .. } => {
                self.referred(now, call, session, request, &headers);
                None
            }
            Event::Requested { request, method: Method::Notify, headers, body, .. } => {
                self.notified(now, call, session, request, &headers, body.as_ref());
                None
            }
            Event::Responded { method: Method::Refer, request, status, headers, .. } => {
                self.refer_answered(now, call, request, status, &headers);
                None
            }
            Event::Responded { method: Method::Notify, status, .. } => {
                // Nobody there wants to know: the transfer itself goes on.
                if status >= 400
                    && let Some(theirs) = self.transfers.theirs.get_mut(&call)
                {
                    theirs.quiet = true;
                }
                None
            }
            event => Some(event),
        }
    }

    /// A call told something: that may concern a transfer it belongs to.
    pub(super) fn transfer_news(&mut self, now: Instant, call: CallId, (status, text): (u16, String)) {
        self.tell_listener(now, call, status, &text);
        let Some(referrer) = self.transfers.made_for.get(&call).copied() else { return };
        let Some(theirs) = self.transfers.theirs.get_mut(&referrer) else { return };
        if theirs.told == status || theirs.told >= 200 {
            return;
        }
        theirs.told = status;
        let target = theirs.target.clone();
        if status >= 200 {
            self.transfers.made_for.remove(&call);
        }
        self.notify(now, referrer, status, &text);
        let moment = match status {
            0..=199 => return,
            200..=299 => Moment::new("call.transferred").with("by", "peer"),
            _ => Moment::new("call.transfer_failed").with("by", "peer"),
        };
        let moment =
            moment.with("target", target).with("status", status.to_string()).with("call", call.to_string());
        self.tell_moment(referrer, moment);
        if status < 300 {
            if let Some(theirs) = self.transfers.theirs.get_mut(&referrer) {
                theirs.hang_up_at = Some(now + GOODBYE_LIMIT);
            }
        } else {
            self.transfers.theirs.remove(&referrer);
        }
    }

    /// A call is over, and with it what depended on it.
    pub(super) fn transfer_over(&mut self, now: Instant, call: CallId, reason: &EndReason) {
        let (status, text) = reason.status();
        self.transfer_news(now, call, (status, text.to_owned()));
        self.transfers.made_for.remove(&call);
        self.transfers.theirs.remove(&call);
        self.transfers.ours.remove(&call);
        self.replacing.remove(&call);
    }

    pub(super) fn transfer_time(&mut self, now: Instant) {
        let mut left = Vec::new();
        self.transfers.theirs.retain(|call, theirs| {
            let due = theirs.hang_up_at.is_some_and(|at| now >= at);
            left.extend(due.then_some(*call));
            !due
        });
        for call in left {
            self.step(now, call, |call| call.hang_up(now, EndReason::Transferred));
        }
        let due: Vec<CallId> =
            self.transfers.ours.iter().filter(|(_, ours)| now >= ours.until).map(|(call, _)| *call).collect();
        for call in due {
            let holding = self.transfers.ours.get(&call).is_some_and(|ours| ours.stage == Stage::Holding);
            if holding {
                self.send_refer(now, call);
            } else {
                self.transfer_failed(now, call, 408, "no news of it");
            }
        }
    }
}

/// The peer sends its call to somebody else.
impl UserAgent {
    fn referred(
        &mut self,
        now: Instant,
        call: CallId,
        session: SessionId,
        request: RequestId,
        headers: &Headers,
    ) {
        match self.take_referral(now, call, headers) {
            Ok((referral, dial)) => {
                let quiet = referral.quiet;
                let more = quiet.then(|| ("Refer-Sub".to_owned(), "false".to_owned()));
                self.respond_beside(now, session, request, 202, more.into_iter().collect());
                let id = headers.cseq().map_or(0, |cseq| cseq.number);
                let theirs = Theirs {
                    target: referral.target.to_string(),
                    event: format!("{};id={id}", refer::EVENT),
                    quiet,
                    told: 100,
                    hang_up_at: None,
                };
                let target = theirs.target.clone();
                self.transfers.theirs.insert(call, theirs);
                self.notify(now, call, 100, "Trying");
                let made = self.new_call_id();
                self.transfers.made_for.insert(made, call);
                self.tell_moment(
                    call,
                    Moment::new("call.transfer_asked")
                        .with("by", "peer")
                        .with("target", target)
                        .with("call", made.to_string()),
                );
                self.dial_as(now, made, dial);
            }
            Err((status, text)) => {
                let warning = format!("399 eyeline \"{}\"", text.replace(['"', '\\'], "'"));
                self.respond_beside(now, session, request, status, vec![("Warning".to_owned(), warning)]);
                let moment = Moment::new("call.transfer_refused").with("by", "peer");
                self.tell_moment(call, moment.with("status", status.to_string()).with("why", text));
            }
        }
    }

    /// Whether a REFER is taken, and the call it becomes.
    fn take_referral(
        &mut self,
        now: Instant,
        id: CallId,
        headers: &Headers,
    ) -> Result<(Referral, Dial), (u16, String)> {
        let call = self.calls.get(&id).filter(|call| call.is_live() && call.answered().is_some());
        let call = call.ok_or((481, "the call is not up".to_owned()))?;
        if self.transfers.theirs.contains_key(&id) || self.transfers.ours.contains_key(&id) {
            return Err((491, "this call is being transferred already".to_owned()));
        }
        if self.draining {
            return Err((503, "shutting down".to_owned()));
        }
        let referral = Referral::read(headers).map_err(|(status, text)| (status, text.to_owned()))?;
        let dial = self.dial_for(call, &referral);
        // Last: what is permitted is counted.
        self.dialling
            .permit(now, &referral.target, DialReason::Refer)
            .map_err(|denied| (403, format!("{} is not called: {denied}", referral.target)))?;
        Ok((referral, dial))
    }

    /// The call a REFER asks for: the same agent, under the name the old call was made to.
    fn dial_for(&self, call: &Call, referral: &Referral) -> Dial {
        let settings = call.settings();
        let label = &settings.label;
        let own = if label.incoming { &label.to } else { &label.from };
        let mut headers: Vec<(String, String)> = Vec::new();
        if let Some(replaces) = &referral.replaces {
            headers.push(("Replaces".to_owned(), replaces.to_string()));
            headers.push(("Require".to_owned(), "replaces".to_owned()));
        }
        if let Some(referrer) = &referral.referred_by {
            headers.push(("Referred-By".to_owned(), referrer.clone()));
        }
        let mut media = settings.media.clone();
        // A hold of the old call is not one of the new.
        media.audio_direction = Direction::SendReceive;
        media.video_direction = Direction::SendReceive;
        Dial {
            to: referral.target.clone(),
            from: NameAddr::new(Uri::sip(own, &settings.address.to_string(), None)),
            hops: Vec::new(),
            behaviour: settings.behaviour.clone(),
            room: settings.room.clone(),
            media,
            ring_timeout: self.settings.ring_timeout,
            headers,
            way: Way::default(),
            label: Label {
                agent: label.agent.clone(),
                room: label.room.clone(),
                session: label.session.clone(),
                ..Label::default()
            },
        }
    }

    /// Tells the referrer how the call stands; a final status ends the subscription.
    fn notify(&mut self, now: Instant, referrer: CallId, status: u16, text: &str) {
        let Some(session) = self.session_of.get(&referrer).copied() else { return };
        let Some(theirs) = self.transfers.theirs.get(&referrer).filter(|theirs| !theirs.quiet) else {
            return;
        };
        let state =
            if status >= 200 { Subscription::Terminated } else { Subscription::Active(Some(SUBSCRIPTION_S)) };
        let headers = vec![
            ("Event".to_owned(), theirs.event.clone()),
            ("Subscription-State".to_owned(), state.value()),
        ];
        let text = Some(text).filter(|text| !text.is_empty());
        let body = Some(refer::fragment(status, text));
        self.endpoint.request(now, session, Method::Notify, headers, body);
    }
}

/// We send a peer away.
impl UserAgent {
    /// Sends the peer of a call to somebody else. What becomes of it is told as moments of the call, which ends when the
    /// peer has arrived.
    ///
    /// # Errors
    /// Says why it cannot be tried.
    pub fn transfer(&mut self, now: Instant, id: CallId, to: &TransferTo) -> Result<(), Refused> {
        let done = self.start_transfer(now, id, to);
        self.settle(now);
        done
    }

    fn start_transfer(&mut self, now: Instant, id: CallId, to: &TransferTo) -> Result<(), Refused> {
        let conflict = |message: &str| Refused::new(Kind::Conflict, "wrong_state", message);
        let call = self.calls.get(&id).ok_or_else(|| Refused::unknown("no live call has this id"))?;
        if call.state_name() != "established" {
            return Err(conflict("only an answered call can be transferred"));
        }
        if self.transfers.ours.contains_key(&id) || self.transfers.theirs.contains_key(&id) {
            return Err(conflict("this call is being transferred already"));
        }
        let held = call.is_held();
        let (target, replaces, reason) = match to {
            TransferTo::Blind(uri) => (uri.clone(), None, DialReason::Refer),
            TransferTo::Attended(other) => {
                let (target, replaces) = self.peer_of(id, *other)?;
                (target, Some(replaces), DialReason::Replaces)
            }
        };
        self.dialling.permit(now, &target, reason).map_err(|denied| {
            Refused::new(Kind::Denied, "not_allowed", format!("{target} may not be dialled: {denied}"))
                .at("to")
        })?;
        let moment = Moment::new("call.transfer_asked").with("by", "us").with("target", target.to_string());
        let until = now + HOLD_LIMIT;
        let ours = Ours { stage: Stage::Holding, target, replaces, held: !held, until };
        self.transfers.ours.insert(id, ours);
        self.tell_moment(id, moment);
        self.step(now, id, |call| {
            if !held {
                call.hold();
            }
        });
        Ok(())
    }

    /// Where the peer of another call is, and the dialog it has with us.
    fn peer_of(&self, id: CallId, other: CallId) -> Result<(Uri, Replaces), Refused> {
        let call = self.calls.get(&other).filter(|call| other != id && call.state_name() == "established");
        let session = call.and_then(|_| self.session_of.get(&other).copied());
        let dialog = session.and_then(|session| self.endpoint.dialog(session));
        let (key, target) = dialog.ok_or_else(|| {
            Refused::new(Kind::Conflict, "wrong_state", "the other call is not an answered one").at("with")
        })?;
        Ok((target, Replaces::of_peer(&key)))
    }

    /// The call has had a step: once the hold has been answered, one way or the other, the REFER goes out.
    pub(super) fn transfer_step(&mut self, now: Instant, id: CallId) {
        let waits = self.transfers.ours.get(&id).is_some_and(|ours| ours.stage == Stage::Holding);
        if waits && self.calls.get(&id).is_some_and(|call| call.is_settled()) {
            self.send_refer(now, id);
        }
    }

    fn send_refer(&mut self, now: Instant, id: CallId) {
        let (Some(session), Some(call)) = (self.session_of.get(&id).copied(), self.calls.get(&id)) else {
            return;
        };
        let label = call.label();
        let own = if label.incoming { &label.to } else { &label.from };
        let referrer = NameAddr::new(Uri::sip(own, &call.settings().address.to_string(), None));
        let Some(ours) = self.transfers.ours.get_mut(&id) else { return };
        let headers = vec![
            ("Refer-To".to_owned(), refer::refer_to(&ours.target, ours.replaces.as_ref())),
            ("Referred-By".to_owned(), referrer.to_string()),
        ];
        let request = self.endpoint.request(now, session, Method::Refer, headers, None);
        ours.stage = Stage::Asked(request);
        ours.until = now + NEWS_LIMIT;
    }

    fn refer_answered(
        &mut self,
        now: Instant,
        id: CallId,
        request: RequestId,
        status: u16,
        headers: &Headers,
    ) {
        let Some(ours) = self.transfers.ours.get_mut(&id) else { return };
        if ours.stage != Stage::Asked(request) {
            return;
        }
        if !(200..300).contains(&status) {
            return self.transfer_failed(now, id, status, "the peer does not take the transfer");
        }
        ours.stage = Stage::Taken;
        ours.until = now + NEWS_LIMIT;
        // RFC 4488: it will not tell.
        if headers.value("Refer-Sub").is_some_and(|value| value.trim().eq_ignore_ascii_case("false")) {
            self.transfer_done(now, id, 202);
        }
    }

    fn notified(
        &mut self,
        now: Instant,
        id: CallId,
        session: SessionId,
        request: RequestId,
        headers: &Headers,
        body: Option<&Body>,
    ) {
        if !refer::is_about_refer(headers) {
            let allowed = vec![("Allow-Events".to_owned(), refer::EVENT.to_owned())];
            return self.respond_beside(now, session, request, 489, allowed);
        }
        let Some(ours) = self.transfers.ours.get_mut(&id).filter(|ours| ours.stage != Stage::Holding) else {
            return self.respond_beside(now, session, request, 481, Vec::new());
        };
        // It may overtake the response to the REFER.
        ours.until = now + NEWS_LIMIT;
        let target = ours.target.to_string();
        self.respond_beside(now, session, request, 200, Vec::new());
        let ended = Subscription::of(headers) == Subscription::Terminated;
        match body.and_then(refer::status_of) {
            Some((status @ 200..=299, _)) => self.transfer_done(now, id, status),
            Some((status @ 300.., text)) => self.transfer_failed(now, id, status, &text),
            Some((status, _)) if !ended => {
                let moment = Moment::new("call.transfer_progress").with("target", target);
                self.tell_moment(id, moment.with("status", status.to_string()));
            }
            Some(_) | None if ended => self.transfer_failed(now, id, 480, "it ended without an outcome"),
            Some(_) | None => {}
        }
    }

    fn transfer_done(&mut self, now: Instant, id: CallId, status: u16) {
        let Some(ours) = self.transfers.ours.remove(&id) else { return };
        let moment = Moment::new("call.transferred").with("by", "us").with("target", ours.target.to_string());
        self.tell_moment(id, moment.with("status", status.to_string()));
        self.step(now, id, |call| call.hang_up(now, EndReason::Transferred));
    }

    fn transfer_failed(&mut self, now: Instant, id: CallId, status: u16, why: &str) {
        let Some(ours) = self.transfers.ours.remove(&id) else { return };
        let moment =
            Moment::new("call.transfer_failed").with("by", "us").with("target", ours.target.to_string());
        self.tell_moment(id, moment.with("status", status.to_string()).with("why", why));
        if ours.held {
            self.step(now, id, Call::resume);
        }
    }
}
