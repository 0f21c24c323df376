//! Media before the answer: a call to us that rings with its picture already flowing, and what the forks of a call of
//! ours send while they ring (RFC 3261 §13.2.1, RFC 3262 §5, RFC 3960).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::end::EndReason;
use super::negotiate;
use super::{Call, Do, SipDo, State, Tell, body_of};
use crate::call::reach;
use crate::engine::plan::{BoundPorts, Command, Direction, Streams};
use crate::rtp::reach::Reach;
use crate::sdp::SessionDescription;
use crate::sip::{Body, Headers, RequestId};

/// Forks of one call whose description is remembered.
const FORKS: usize = 8;

/// How an incoming call is let ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// So long before the answer; zero: answered at once.
    pub time: Duration,
    /// Media flows while it rings: 183 with SDP.
    pub early_media: bool,
    pub reliable: Reliable,
}

/// What the caller makes of provisional responses (RFC 3262).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reliable {
    #[default]
    No,
    Supported,
    /// None may be sent that is not reliable.
    Required,
}

impl Reliable {
    /// As the headers of an INVITE say.
    pub fn of(headers: &Headers) -> Self {
        let names = |header| headers.list(header).any(|tag| tag.trim().eq_ignore_ascii_case("100rel"));
        match (names("Require"), names("Supported")) {
            (true, _) => Reliable::Required,
            (false, true) => Reliable::Supported,
            (false, false) => Reliable::No,
        }
    }
}

/// The media of a call to us that rings.
#[derive(Debug)]
pub(super) enum Ringing {
    /// Nothing is agreed. `None`: the INVITE carried no offer.
    Silent { offer: Option<SessionDescription> },
    /// Our offer went out in the 18x; its answer comes in the PRACK.
    Offered { offered: SessionDescription },
    /// It flows. `answer`: what the 200 repeats.
    Flowing { answer: Option<Body> },
}

/// What the forks of our call said of their media, the newest last.
#[derive(Debug, Default)]
pub(super) struct Forks(VecDeque<(String, SessionDescription)>);

impl Forks {
    pub(super) fn keep(&mut self, fork: &str, answer: SessionDescription) {
        self.0.retain(|(known, _)| known != fork);
        if self.0.len() >= FORKS {
            self.0.pop_front();
        }
        self.0.push_back((fork.to_owned(), answer));
    }

    /// What a 2xx without a description stands by: its own fork's, else the newest.
    pub(super) fn of(&self, fork: &str) -> Option<&SessionDescription> {
        let own = self.0.iter().find(|(known, _)| known == fork);
        own.or(self.0.back()).map(|(_, answer)| answer)
    }
}

/// Calls to us.
impl Call {
    /// Ports are bound: the call is answered, or rings first.
    pub(super) fn ready(&mut self, now: Instant, offer: Option<SessionDescription>, ports: &BoundPorts) {
        let ring = self.settings.ring;
        if ring.time.is_zero() {
            return self.pick_up(now, offer, ports);
        }
        let by_prack = match ring.reliable {
            Reliable::No => false,
            Reliable::Supported => ring.early_media,
            // §5: the first reliable response to an INVITE without an offer carries ours.
            Reliable::Required => true,
        };
        let media = match offer {
            Some(offer) if ring.early_media => {
                match negotiate::answer(&offer, &self.settings.media, ports, &mut self.origin) {
                    Ok((answer, streams)) => {
                        let body = body_of(&answer);
                        self.respond(183, None, Some(body.clone()));
                        self.flow_early(streams);
                        Ringing::Flowing { answer: Some(body) }
                    }
                    Err(refusal) => return self.refuse(now, refusal),
                }
            }
            None if by_prack => {
                let offered = negotiate::offer(&self.settings.media, ports, &mut self.origin);
                let status = if ring.early_media { 183 } else { 180 };
                self.respond(status, None, Some(body_of(&offered)));
                Ringing::Offered { offered }
            }
            offer => Ringing::Silent { offer },
        };
        self.state = State::Ringing { until: now + ring.time, media };
    }

    /// It has rung long enough.
    pub(super) fn stop_ringing(&mut self, now: Instant) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Ringing { media: Ringing::Silent { offer }, .. } => match self.ports {
                Some(ports) => self.pick_up(now, offer, &ports),
                None => self.finish(now, EndReason::EngineFault("no ports are bound".to_owned())),
            },
            // It goes out once the PRACK has come.
            State::Ringing { media: Ringing::Offered { offered }, .. } => {
                self.respond(200, None, None);
                self.state = State::Answered { offered: Some(offered) };
            }
            State::Ringing { media: Ringing::Flowing { answer }, .. } => {
                self.respond(200, None, answer);
                self.state = State::Answered { offered: None };
                self.begin(now, self.streams.clone());
            }
            other => self.state = other,
        }
    }

    /// A PRACK with a body: the answer to our offer, or a new offer (RFC 3262 §5).
    pub(super) fn pracked(&mut self, now: Instant, request: RequestId, body: Option<&Body>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Ringing { until, media: Ringing::Offered { offered } } => {
                let media = Ringing::Flowing { answer: None };
                self.state = State::Ringing { until, media };
                match self.accept(&offered, body) {
                    Ok(streams) => {
                        self.respond_to(request, 200, None);
                        self.flow_early(streams);
                    }
                    Err(text) => self.refuse_prack(now, request, text),
                }
            }
            State::Answered { offered: Some(offered) } => {
                self.state = State::Answered { offered: None };
                match self.accept(&offered, body) {
                    Ok(streams) => {
                        self.respond_to(request, 200, None);
                        self.begin(now, streams);
                    }
                    Err(text) => self.refuse_prack(now, request, text),
                }
            }
            other => {
                self.state = other;
                self.updated(request, body);
            }
        }
    }

    fn refuse_prack(&mut self, now: Instant, request: RequestId, text: String) {
        self.respond_to(request, 488, None);
        self.finish(now, EndReason::NegotiationFailed(text));
    }

    /// An offer was answered in between: the 200 has nothing to add to it.
    pub(super) fn forget_answer(&mut self) {
        if let State::Ringing { media: Ringing::Flowing { answer }, .. } = &mut self.state {
            *answer = None;
        }
    }
}

/// Both roles.
impl Call {
    /// Before the answer: media may flow, and changes with whoever speaks last.
    pub(super) fn flow_early(&mut self, mut streams: Streams) {
        if self.flowing {
            self.keep_ports(&mut streams);
            return self.update(streams);
        }
        self.flow(streams);
        self.tell(Tell::Early { streams: Box::new(self.streams.clone()) });
    }

    /// A fork that takes less than the one before does not cost the ports the answer may need.
    fn keep_ports(&self, streams: &mut Streams) {
        if streams.video.is_none() {
            streams.video.clone_from(&self.streams.video);
            if let Some(video) = &mut streams.video {
                video.route.direction = Direction::Inactive;
            }
        }
        if streams.slides.is_none() {
            streams.slides.clone_from(&self.streams.slides);
            if let Some(slides) = &mut streams.slides {
                slides.route.direction = Direction::Inactive;
            }
        }
        if streams.audio.is_none() {
            streams.audio.clone_from(&self.streams.audio);
            if let Some(audio) = &mut streams.audio {
                audio.route.direction = Direction::Inactive;
            }
        }
    }

    /// Media flows by these streams: the engine starts, or follows.
    pub(super) fn flow(&mut self, mut streams: Streams) {
        if self.flowing {
            return self.update(streams);
        }
        reach::limit(&self.settings.room.reach, &mut streams);
        self.streams = streams.clone();
        self.flowing = true;
        let label = self.settings.label.clone();
        let plan = self.settings.behaviour.plan(label, streams, &self.settings.room);
        self.out.push_back(Do::Engine(Command::Start { call: self.id, plan: Box::new(plan) }));
    }

    /// The call is answered and flows by these streams.
    pub(super) fn begin(&mut self, now: Instant, streams: Streams) {
        let early = self.flowing;
        self.answered.get_or_insert(now);
        self.flow(streams);
        if early || self.settings.behaviour.talks() || self.settings.room.watch.is_some() {
            self.out.push_back(Do::Engine(Command::Answered { call: self.id }));
        }
        self.tell(Tell::Answered { streams: Box::new(self.streams.clone()) });
    }
}

/// Calls of ours.
impl Call {
    /// A redirection, or the next contact, leads to another peer: what the first one said is void.
    pub fn moved(&mut self, peer: SocketAddr, reach: Reach) {
        if let State::Inviting { forks, .. } = &mut self.state {
            *forks = Forks::default();
        }
        self.settings.label.peer = peer.to_string();
        self.settings.room.reach = reach;
    }

    /// 18x.
    pub(super) fn progress(&mut self, status: u16, fork: &str, body: Option<&Body>) {
        let State::Inviting { offered, forks, .. } = &mut self.state else { return };
        let answer = body.and_then(|body| negotiate::read(&body.bytes).ok());
        let accepted = answer.and_then(|answer| {
            let streams = negotiate::accept(offered, &answer, &self.settings.media, &mut self.origin).ok();
            forks.keep(fork, answer);
            streams
        });
        if status == 180 {
            self.tell(Tell::Ringing);
        }
        if let Some(streams) = accepted {
            self.flow_early(streams);
        }
    }

    /// 2xx.
    pub(super) fn peer_answered(&mut self, now: Instant, fork: &str, body: Option<&Body>) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Inviting { offered, forks, .. } => {
                self.out.push_back(Do::Sip(SipDo::Ack { body: None }));
                self.state = State::Established { until: now + self.settings.max_call };
                // A 200 without SDP stands by what an 18x said (RFC 3261 §13.2.1).
                let accepted = match (body, forks.of(fork)) {
                    (None, Some(early)) => {
                        negotiate::accept(&offered, early, &self.settings.media, &mut self.origin)
                            .map_err(|refusal| refusal.to_string())
                    }
                    (body, _) => self.accept(&offered, body),
                };
                match accepted {
                    Ok(streams) => {
                        self.begin(now, streams);
                        self.renew();
                    }
                    Err(text) => self.finish(now, EndReason::NegotiationFailed(text)),
                }
            }
            other => self.state = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::negotiate::tests::described;
    use super::*;

    #[test]
    fn a_2xx_without_a_description_stands_by_its_own_fork() {
        let mut forks = Forks::default();
        let port = |forks: &Forks, fork| forks.of(fork).map(|said| said.media[0].port);
        assert_eq!(port(&forks, "a"), None);
        forks.keep("a", described("m=audio 1000 RTP/AVP 8\r\n"));
        forks.keep("b", described("m=audio 2000 RTP/AVP 8\r\n"));
        assert_eq!(
            (port(&forks, "a"), port(&forks, "b"), port(&forks, "c")),
            (Some(1000), Some(2000), Some(2000))
        );
        forks.keep("a", described("m=audio 3000 RTP/AVP 8\r\n"));
        assert_eq!((port(&forks, "a"), port(&forks, "c")), (Some(3000), Some(3000)));
        for number in 0..50 {
            forks.keep(&number.to_string(), described("m=audio 4000 RTP/AVP 8\r\n"));
        }
        assert_eq!(forks.0.len(), FORKS);
    }
}
