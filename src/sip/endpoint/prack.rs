//! Reliable provisional responses (RFC 3262), both roles.
//!
//! ```text
//! ours:   18x with RSeq, repeated ──PRACK──▶ the next 18x, or the final response that waited behind it
//! theirs: 18x with RSeq, in order, once ──▶ PRACK with RAck; one early dialog for each fork
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::RngCore;

use super::super::dialog::{Dialog, DialogKey};
use super::super::message::{Method, RequestMessage, ResponseMessage};
use super::compose::dialog_peer;
use super::inbound::plain;
use super::options;
use super::session::State;
use super::transactions::User;
use super::{Endpoint, Event, Peer, RequestId, Response, SessionId};

/// Provisional responses of ours that wait for the PRACK of the one before.
const WAITING: usize = 8;
/// Early dialogs of one INVITE of ours.
const EARLY: usize = 8;
const TAG: &str = "100rel";

/// Our provisional responses to one INVITE.
#[derive(Debug, Default)]
pub(super) struct Reliably {
    /// The last RSeq given.
    rseq: u32,
    sent: Option<Sent>,
    /// The numbers of one that a 2xx has overtaken: its PRACK still comes (§3).
    overtaken: Option<(u32, u32)>,
    waiting: VecDeque<Response>,
    /// The 2xx that waits for the PRACK of an 18x with SDP (§3).
    last: Option<Response>,
    /// Their PRACK with a body that its user has not answered yet.
    answering: Option<RequestId>,
    /// An 18x with SDP has been acknowledged: what it said stands.
    pub described: bool,
}

/// A reliable 18x being repeated.
#[derive(Debug)]
struct Sent {
    rseq: u32,
    cseq: u32,
    described: bool,
    bytes: Vec<u8>,
    peer: Peer,
    resend_at: Instant,
    interval: Duration,
    give_up_at: Instant,
}

impl Reliably {
    pub fn wake_at(&self) -> Option<Instant> {
        self.sent.as_ref().map(|sent| sent.resend_at.min(sent.give_up_at))
    }

    fn is_open(&self) -> bool {
        self.sent.is_some() || self.answering.is_some()
    }

    /// Whether an offer or answer in an 18x still waits for its PRACK.
    pub fn is_undecided(&self) -> bool {
        self.answering.is_some() || self.sent.as_ref().is_some_and(|sent| sent.described)
    }

    fn holds_back(&self) -> bool {
        self.is_undecided() || self.waiting.iter().any(|waiting| waiting.body.is_some())
    }
}

/// Our provisional responses.
impl Endpoint {
    /// Lets a response through, or keeps it until a PRACK comes. Returns what may be sent now.
    pub(super) fn in_turn(&mut self, session: SessionId, response: Response) -> Option<Response> {
        let reliable = self.is_reliable(session, &response);
        let state = self.sessions.get_mut(&session)?;
        let pending = &mut state.reliably;
        match response.status {
            101..=199 if reliable && pending.is_open() => {
                if pending.waiting.len() >= WAITING {
                    pending.waiting.pop_front();
                    self.counters.overload += 1;
                }
                pending.waiting.push_back(response);
                None
            }
            200..=299 if pending.holds_back() => {
                pending.last = Some(response);
                None
            }
            200.. => {
                pending.overtaken = pending.sent.take().map(|sent| (sent.rseq, sent.cseq));
                pending.waiting.clear();
                Some(response)
            }
            _ => Some(response),
        }
    }

    /// §3: when the INVITE requires it, and when it is supported and something hangs on the response.
    fn is_reliable(&self, session: SessionId, response: &Response) -> bool {
        let Some(state) = self.sessions.get(&session) else { return false };
        let Some(server) = self.servers.get(&state.invite) else { return false };
        let headers = &server.request.headers;
        let asked = options::names(headers, "Require", TAG);
        (101..=199).contains(&response.status)
            && (asked || (response.body.is_some() && options::can(headers, TAG)))
    }

    /// Numbers a provisional response that is to be reliable.
    pub(super) fn number(&mut self, session: SessionId, response: &mut Response) -> Option<u32> {
        if !self.is_reliable(session, response) {
            return None;
        }
        // §3: the first number is drawn from the lower half.
        let first = self.rng.next_u32() >> 1;
        let state = self.sessions.get_mut(&session)?;
        let last = if state.reliably.rseq == 0 { first } else { state.reliably.rseq };
        state.reliably.rseq = last.wrapping_add(1).max(1);
        let rseq = state.reliably.rseq;
        response.headers.push(("Require".to_owned(), TAG.to_owned()));
        response.headers.push(("RSeq".to_owned(), rseq.to_string()));
        Some(rseq)
    }

    /// Repeats the 18x just sent through `transaction` until its PRACK.
    pub(super) fn repeat_until_prack(
        &mut self,
        now: Instant,
        session: SessionId,
        transaction: u64,
        rseq: u32,
        described: bool,
    ) {
        let timers = self.settings.timers;
        let Some(server) = self.servers.get(&transaction) else { return };
        let sent = Sent {
            rseq,
            cseq: server.request.cseq().map_or(0, |cseq| cseq.number),
            described,
            bytes: server.last.clone().unwrap_or_default(),
            peer: server.peer,
            resend_at: now + timers.t1,
            interval: timers.t1,
            give_up_at: now + timers.patience(),
        };
        if let Some(state) = self.sessions.get_mut(&session) {
            state.reliably.sent = Some(sent);
        }
        self.tend_session(session);
    }

    pub(super) fn prack_time(&mut self, now: Instant, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let Some(sent) = state.reliably.sent.as_mut() else { return };
        if now >= sent.give_up_at {
            // §3: the INVITE is refused with a 5xx.
            self.respond(now, session, plain(504));
            return self.event(Event::AckTimedOut { session });
        }
        if now >= sent.resend_at {
            sent.interval *= 2;
            sent.resend_at = now + sent.interval;
            let (peer, bytes) = (sent.peer, sent.bytes.clone());
            self.counters.retransmissions += 1;
            self.send(peer, bytes);
        }
    }

    pub(super) fn handle_prack(
        &mut self,
        now: Instant,
        peer: Peer,
        key: String,
        session: SessionId,
        request: RequestMessage,
    ) {
        let rack = request.headers.value("RAck").and_then(numbers_of);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let sent = state.reliably.sent.as_ref().map(|sent| (sent.rseq, sent.cseq));
        if rack.is_none() || (rack != sent && rack != state.reliably.overtaken) {
            return self.answer(now, peer, key, request, plain(481));
        }
        state.reliably.overtaken = None;
        state.reliably.described |= state.reliably.sent.take().is_some_and(|sent| sent.described);
        if request.body.is_empty() {
            self.answer(now, peer, key, request, plain(200));
            self.event(Event::Pracked { session, request: None, body: None });
            self.respond_next(now, session);
        } else {
            let id = self.hand_over(peer, key, session, request);
            if let Some(state) = self.sessions.get_mut(&session) {
                state.reliably.answering = Some(id);
            }
        }
        self.tend_session(session);
    }

    /// The user has answered a PRACK: what waited behind it may go.
    pub(super) fn prack_answered(&mut self, now: Instant, session: SessionId, request: RequestId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.reliably.answering == Some(request) {
            state.reliably.answering = None;
            self.respond_next(now, session);
        }
    }

    fn respond_next(&mut self, now: Instant, session: SessionId) {
        while let Some(state) = self.sessions.get_mut(&session) {
            if !matches!(state.state, State::Invited) {
                return;
            }
            let pending = &mut state.reliably;
            let next = if pending.is_open() { None } else { pending.waiting.pop_front() };
            let last = if pending.holds_back() { None } else { pending.last.take() };
            match next.or(last) {
                Some(response) => self.respond(now, session, response),
                None => return,
            }
        }
    }
}

/// An early dialog of our INVITE, one for each fork that has answered provisionally.
#[derive(Debug)]
pub(super) struct Early {
    pub dialog: Dialog,
    /// The last RSeq acknowledged.
    rseq: Option<u32>,
}

/// Their provisional responses.
impl Endpoint {
    /// Notes the early dialog of a provisional response and acknowledges a reliable one. `false`: it is a repeat or came
    /// out of order, and goes no further (§4).
    pub(super) fn take_provisional(
        &mut self,
        now: Instant,
        session: SessionId,
        response: &ResponseMessage,
    ) -> bool {
        let reliable = options::names(&response.headers, "Require", TAG);
        let rseq = response.headers.value("RSeq").and_then(|text| text.trim().parse::<u32>().ok());
        let cseq = response.cseq().map_or(1, |cseq| cseq.number);
        let Some(place) = self.early_place(session, response) else { return true };
        let Some(state) = self.sessions.get_mut(&session) else { return false };
        let Some(early) = state.early.get_mut(place) else { return true };
        let (true, Some(rseq)) = (reliable, rseq) else { return true };
        if early.rseq.is_some_and(|last| rseq != last.wrapping_add(1)) {
            self.counters.repeats += 1;
            return false;
        }
        early.rseq = Some(rseq);
        let rack = vec![("RAck".to_owned(), format!("{rseq} {cseq} INVITE"))];
        let mut prack = early.dialog.request(Method::Prack);
        let peer = dialog_peer(&state.early[place].dialog, state);
        let (branch, via) = self.new_via(peer.transport, peer.local);
        prack.headers.prepend("Via", via);
        if let Some(state) = self.sessions.get(&session) {
            self.finish_request(&mut prack, state, &rack, None);
        }
        self.start_client(now, peer, branch, prack, User::Prack(session));
        true
    }

    /// Where the early dialog of this response stands among those of its session, which it may be the first of.
    fn early_place(&mut self, session: SessionId, response: &ResponseMessage) -> Option<usize> {
        response.to()?.tag()?;
        let state = self.sessions.get_mut(&session)?;
        let dialog = Dialog::of_answer(state.sent_invite.as_ref()?, response)?;
        if let Some(place) = state.early.iter().position(|early| early.dialog.key == dialog.key) {
            state.early[place].dialog.refresh_target(response.contact());
            return Some(place);
        }
        if state.early.len() >= EARLY {
            self.counters.overload += 1;
            return None;
        }
        self.session_of.insert(dialog.key.clone(), session);
        state.early.push(Early { dialog, rseq: None });
        Some(state.early.len() - 1)
    }

    /// A 2xx makes `dialog` out of an early one: its numbers go on.
    pub(super) fn confirm(&self, session: SessionId, dialog: &mut Dialog) {
        let early = self.sessions.get(&session).and_then(|state| early_of(&state.early, &dialog.key));
        if let Some(early) = early {
            dialog.follow(&early.dialog);
        }
    }
}

fn early_of<'a>(early: &'a [Early], key: &DialogKey) -> Option<&'a Early> {
    early.iter().find(|early| early.dialog.key == *key)
}

/// RAck (§7.2): the number of the response and that of its INVITE.
fn numbers_of(rack: &str) -> Option<(u32, u32)> {
    let mut words = rack.split_ascii_whitespace();
    let numbers = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    words.next().is_some_and(|method| method == "INVITE").then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{ALICE, BOB, Scripted, Wire, address, ok, our_tag, request, sdp, status};
    use super::super::{Access, Hop, NameAddr, Outgoing, Settings, Timers, Transport};
    use super::*;
    use crate::sip::digest::Credentials;
    use crate::sip::uri::Uri;

    fn ringing(body: Option<&str>) -> Response {
        Response { status: 183, body: body.and_then(sdp), ..Response::default() }
    }

    fn count(wire: &Wire, start: &str) -> usize {
        wire.carried.iter().filter(|line| line.starts_with(start)).count()
    }

    fn place(wire: &Wire, start: &str) -> usize {
        let place = wire.carried.iter().position(|line| line.starts_with(start));
        place.unwrap_or_else(|| panic!("no {start}: {:?}", wire.carried))
    }

    #[test]
    fn the_answer_waits_for_the_prack_of_an_18x_with_sdp() {
        let mut wire = Wire::new(Transport::Udp);
        let a = wire.call();
        let b = wire.invited();
        wire.bob.respond(wire.now, b, ringing(Some("early")));
        wire.bob.respond(wire.now, b, ok());
        wire.settle();
        assert_eq!(count(&wire, "PRACK"), 1);
        assert!(place(&wire, "SIP/2.0 183") < place(&wire, "PRACK"));
        let answered = wire.events_a.iter().position(|event| matches!(event, Event::Answered { .. }));
        let progressed = wire.events_a.iter().position(|event| {
            matches!(event, Event::Progress { status: 183, reliable: true, body: Some(_), .. })
        });
        assert!(progressed < answered && progressed.is_some(), "{:?}", wire.events_a);
        assert!(wire.events_b.iter().any(|event| matches!(event, Event::Pracked { request: None, .. })));
        wire.alice.ack(wire.now, a, None);
        wire.alice.bye(wire.now, a, None);
        wire.settle();
        // The numbers of the early dialog go on: INVITE 1, PRACK 2, BYE 3.
        assert!(matches!(wire.events_a.last(), Some(Event::Ended { .. })));
        wire.assert_nothing_left();
    }

    #[test]
    fn an_18x_without_sdp_to_a_caller_who_only_can_stays_unreliable() {
        let mut wire = Wire::new(Transport::Udp);
        wire.call();
        let b = wire.invited();
        wire.bob.respond(wire.now, b, ringing(None));
        wire.settle();
        assert_eq!(count(&wire, "PRACK"), 0);
        wire.bob.respond(wire.now, b, plain(486));
        wire.settle();
        wire.assert_nothing_left();
    }

    #[test]
    fn every_single_lost_message_of_a_reliable_ring_is_repaired() {
        for lost in 0..8 {
            let mut wire = Wire::new(Transport::Udp);
            wire.lost = [lost].into();
            let a = wire.call();
            wire.pass(Duration::from_secs(1));
            let b = wire.invited();
            wire.bob.respond(wire.now, b, ringing(Some("early")));
            wire.settle();
            wire.pass(Duration::from_secs(3));
            wire.bob.respond(wire.now, b, ok());
            wire.settle();
            wire.pass(Duration::from_secs(3));
            wire.alice.ack(wire.now, a, None);
            wire.settle();
            wire.pass(Duration::from_secs(8));
            let progress =
                wire.events_a.iter().filter(|event| matches!(event, Event::Progress { .. })).count();
            let pracked = wire.events_b.iter().filter(|event| matches!(event, Event::Pracked { .. })).count();
            let acked = wire.events_b.iter().filter(|event| matches!(event, Event::Acked { .. })).count();
            assert_eq!((progress, pracked, acked), (1, 1, 1), "lost {lost}: {:?}", wire.carried);
            wire.bob.bye(wire.now, b, None);
            wire.settle();
            wire.assert_nothing_left();
        }
    }

    /// An INVITE of a caller who demands reliability, and our answer to it.
    fn demanding(phone: &mut Scripted) -> (SessionId, String) {
        let said = phone.hears(ALICE, Access::Trusted, &request("INVITE", "1", "", 1, "Require: 100rel\n"));
        assert_eq!(status(&said), ["100"]);
        let session = phone.events[0].session().expect("a session");
        phone.endpoint.respond(phone.now, session, Response { status: 180, ..Response::default() });
        let said = phone.says();
        assert!(said[0].1.contains("Require: 100rel\r\n"), "{}", said[0].1);
        (session, our_tag(&said) + "|" + value(&said[0].1, "RSeq: "))
    }

    fn value<'a>(text: &'a str, header: &str) -> &'a str {
        text.lines().find_map(|line| line.strip_prefix(header)).unwrap_or_default()
    }

    fn split(tag: &str) -> (&str, u32) {
        let (tag, rseq) = tag.split_once('|').expect("a tag and a number");
        (tag, rseq.parse().expect("a number"))
    }

    #[test]
    fn without_a_prack_the_ring_is_repeated_and_the_call_refused_after_32_s() {
        let mut phone = Scripted::new(Settings::default());
        demanding(&mut phone);
        let start = phone.now;
        let mut sent = Vec::new();
        while let Some(at) = phone.endpoint.wake_at() {
            phone.now = at;
            phone.endpoint.handle_time(at);
            for (_, text) in phone.says() {
                let status = text.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
                sent.push((status.expect("a status"), (at - start).as_millis()));
            }
            if sent.last().is_some_and(|(status, _)| *status == 504) {
                break;
            }
        }
        let rings: Vec<u128> = sent.iter().filter(|(status, _)| *status == 180).map(|(_, at)| *at).collect();
        assert_eq!(rings, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
        assert_eq!(sent.last(), Some(&(504, Timers::default().patience().as_millis())));
        assert!(matches!(phone.events.last(), Some(Event::AckTimedOut { .. })));
    }

    #[test]
    fn a_prack_for_nothing_gets_481_and_the_next_ring_waits_for_the_right_one() {
        let mut phone = Scripted::new(Settings::default());
        let (session, tag) = demanding(&mut phone);
        let (tag, rseq) = split(&tag);
        phone.endpoint.respond(phone.now, session, ringing(Some("early")));
        assert!(phone.says().is_empty(), "one at a time (§3)");
        let prack =
            |branch: &str, cseq, rack: &str| request("PRACK", branch, tag, cseq, &format!("RAck: {rack}\n"));
        for (cseq, rack) in
            [(2, format!("{} 1 INVITE", rseq + 1)), (3, format!("{rseq} 9 INVITE")), (4, "x".into())]
        {
            let said = phone.hears(ALICE, Access::Trusted, &prack(&format!("p{cseq}"), cseq, &rack));
            assert_eq!(status(&said), ["481"], "{rack}");
        }
        let said = phone.hears(ALICE, Access::Trusted, &prack("p5", 5, &format!("{rseq} 1 INVITE")));
        assert_eq!(status(&said), ["200", "183"]);
        assert_eq!(value(&said[1].1, "RSeq: "), (rseq + 1).to_string());
        let again = phone.hears(ALICE, Access::Trusted, &prack("p6", 6, &format!("{rseq} 1 INVITE")));
        assert_eq!(status(&again), ["481"]);
    }

    #[test]
    fn a_prack_that_the_answer_has_overtaken_is_still_taken() {
        let mut phone = Scripted::new(Settings::default());
        let (session, tag) = demanding(&mut phone);
        let (tag, rseq) = split(&tag);
        phone.endpoint.respond(phone.now, session, ok());
        assert_eq!(status(&phone.says()), ["200"], "nothing was described in the ring");
        for (branch, cseq, expected) in [("p", 2, "200"), ("q", 3, "481")] {
            let prack = request("PRACK", branch, tag, cseq, &format!("RAck: {rseq} 1 INVITE\n"));
            assert_eq!(status(&phone.hears(ALICE, Access::Trusted, &prack)), [expected]);
        }
    }

    #[test]
    fn an_offer_in_a_prack_is_answered_before_the_call_is() {
        let mut phone = Scripted::new(Settings::default());
        let (session, tag) = demanding(&mut phone);
        let (tag, rseq) = split(&tag);
        let prack =
            request("PRACK", "p", tag, 2, &format!("RAck: {rseq} 1 INVITE\nContent-Type: application/sdp\n"))
                .replace("Content-Length: 0\n\n", "Content-Length: 5\n\noffer");
        assert!(phone.hears(ALICE, Access::Trusted, &prack).is_empty());
        let Some(Event::Pracked { request: Some(id), body: Some(_), .. }) = phone.events.last().cloned()
        else {
            panic!("{:?}", phone.events.last());
        };
        phone.endpoint.respond(phone.now, session, ok());
        assert!(phone.says().is_empty(), "the PRACK first");
        phone.endpoint.respond_to(phone.now, session, id, ok());
        let said = phone.says();
        assert_eq!(status(&said), ["200", "200"]);
        assert!(said[0].1.contains(" PRACK\r\n") && said[1].1.contains(" INVITE\r\n"));
    }

    #[test]
    fn a_cancel_while_a_prack_is_missing_leaves_nothing_behind() {
        let mut phone = Scripted::new(Settings::default());
        let (session, _) = demanding(&mut phone);
        phone.endpoint.respond(phone.now, session, ringing(Some("early")));
        phone.endpoint.respond(phone.now, session, ok());
        assert!(phone.says().is_empty(), "both wait");
        let said =
            phone.hears(ALICE, Access::Trusted, &request("CANCEL", "1", "", 1, "Reason: Q.850;cause=16\n"));
        assert!(status(&said).contains(&"487"), "{said:?}");
        let cancelled = matches!(phone.events.last(), Some(Event::Cancelled { reason: Some(_), .. }));
        assert!(cancelled && phone.endpoint.open_sessions() == 0);
    }

    /// Our INVITE as a caller, with what its headers say.
    fn dialled(phone: &mut Scripted) -> (SessionId, String) {
        dialled_as(phone, None)
    }

    fn dialled_as(phone: &mut Scripted, credentials: Option<Credentials>) -> (SessionId, String) {
        let outgoing = Outgoing {
            target: None,
            to: Uri::parse("sip:alice@10.0.0.1").expect("a URI"),
            from: NameAddr::parse("<sip:bob@10.0.0.2>").expect("an address"),
            hops: vec![Hop::to(Transport::Udp, address(ALICE), address(BOB))],
            headers: Vec::new(),
            body: sdp("offer"),
            credentials,
        };
        let session = phone.endpoint.invite(phone.now, outgoing);
        (session, phone.says().remove(0).1)
    }

    fn response(invite: &str, status: u16, fork: &str, more: &str) -> String {
        let line = |name: &str| invite.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        format!(
            "SIP/2.0 {status} X\n{}\n{}\nTo: <sip:alice@10.0.0.1>;tag={fork}\n{}\n{}\n\
             Contact: <sip:{fork}@10.0.0.1>\n{more}Content-Length: 0\n\n",
            line("Via:"),
            line("From:"),
            line("Call-ID:"),
            line("CSeq:")
        )
    }

    #[test]
    fn each_fork_is_acknowledged_in_its_own_dialog_in_order_and_once() {
        let mut phone = Scripted::new(Settings::default());
        let (session, invite) = dialled(&mut phone);
        assert!(invite.contains("Supported: 100rel"), "{invite}");
        let hears = |phone: &mut Scripted, fork: &str, rseq: u32| {
            let more = format!("Require: 100rel\nRSeq: {rseq}\n");
            phone.hears(ALICE, Access::Stranger, &response(&invite, 183, fork, &more))
        };
        let said = hears(&mut phone, "x", 7);
        assert!(said[0].1.starts_with("PRACK sip:x@10.0.0.1 "), "{}", said[0].1);
        assert!(said[0].1.contains("RAck: 7 1 INVITE\r\n") && said[0].1.contains("CSeq: 2 PRACK"));
        assert!(hears(&mut phone, "x", 7).is_empty(), "a repeat");
        assert!(hears(&mut phone, "x", 9).is_empty(), "one is missing before it");
        assert!(hears(&mut phone, "x", 8)[0].1.contains("RAck: 8 1 INVITE"));
        let said = hears(&mut phone, "y", 1);
        assert!(said[0].1.contains(";tag=y") && said[0].1.contains("CSeq: 2 PRACK"), "{}", said[0].1);
        let forks: Vec<&str> = phone
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Progress { fork, .. } => Some(fork.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(forks, ["x", "x", "y"]);
        phone.hears(ALICE, Access::Stranger, &response(&invite, 199, "x", ""));
        phone.hears(ALICE, Access::Stranger, &response(&invite, 200, "x", ""));
        phone.endpoint.ack(phone.now, session, None);
        phone.endpoint.bye(phone.now, session, None);
        let said = phone.says();
        assert!(said[1].1.starts_with("BYE sip:x@") && said[1].1.contains("CSeq: 4 BYE"), "{}", said[1].1);
        // The other fork answers too: it gets its ACK and a BYE behind its own PRACK.
        let said = phone.hears(ALICE, Access::Stranger, &response(&invite, 200, "y", ""));
        assert!(said[0].1.starts_with("ACK sip:y@") && said[1].1.contains("CSeq: 3 BYE"), "{said:?}");
    }

    #[test]
    fn a_fork_too_many_is_counted_and_not_kept() {
        let mut phone = Scripted::new(Settings::default());
        let (_, invite) = dialled(&mut phone);
        for fork in 0..40 {
            let more = "Require: 100rel\nRSeq: 1\n";
            phone.hears(ALICE, Access::Stranger, &response(&invite, 180, &format!("f{fork}"), more));
        }
        assert_eq!(phone.endpoint.counters().overload, 40 - EARLY as u64);
    }

    #[test]
    fn a_challenged_prack_goes_out_again_with_proof_in_its_own_dialog() {
        let own = Credentials { username: "200".into(), password: "p".into(), realms: vec!["office".into()] };
        for (credentials, again) in [(Some(own), 1), (None, 0)] {
            let mut phone = Scripted::new(Settings::default());
            let (_, invite) = dialled_as(&mut phone, credentials);
            let more = "Require: 100rel\nRSeq: 7\n";
            let prack = phone.hears(ALICE, Access::Stranger, &response(&invite, 183, "x", more)).remove(0).1;
            let asks = "Proxy-Authenticate: Digest realm=\"office\",nonce=\"n\",qop=\"auth\"\n";
            let said = phone.hears(ALICE, Access::Stranger, &response(&prack, 407, "x", asks));
            assert_eq!(count_of(&said, "PRACK "), again, "{said:?}");
            let Some((_, proven)) = said.iter().find(|(_, text)| text.starts_with("PRACK ")) else {
                continue;
            };
            assert!(
                proven.contains("Proxy-Authorization: Digest username=\"200\"")
                    && proven.contains("CSeq: 3 PRACK")
            );
            assert!(proven.contains("RAck: 7 1 INVITE") && proven.contains(";tag=x"), "{proven}");
            let said = phone.hears(ALICE, Access::Stranger, &response(proven, 407, "x", asks));
            assert_eq!(count_of(&said, "PRACK "), 0, "once is enough");
        }
    }

    fn count_of(said: &[(std::net::SocketAddr, String)], start: &str) -> usize {
        said.iter().filter(|(_, text)| text.starts_with(start)).count()
    }
}
