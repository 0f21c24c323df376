//! Whether the peers we dial answer: OPTIONS to every `[[sip.peer]]` with a `uri`, which also keeps translators and
//! connections on the way open. What becomes of it is told once per change.

use std::time::{Duration, Instant};

use super::UserAgent;
use super::peers::Peers;
use crate::sip::endpoint::Outside;
use crate::sip::{Hop, Method, NameAddr, RequestId, ResolveId, Uri};

/// From one answer, or its absence, to the next question.
const EVERY: Duration = Duration::from_secs(30);
/// Peers are not all asked at once.
const APART: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has said what time it is yet.
    New,
    Resting(Instant),
    Resolving(ResolveId),
    Asked(RequestId),
}

/// One peer and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    name: String,
    uri: Uri,
    state: State,
    sequence: u32,
    answers: Option<bool>,
}

/// A probe for every peer that is dialled.
pub(super) fn of(peers: &Peers) -> Vec<Probe> {
    let probe = |(name, uri): (&String, &Uri)| Probe {
        name: name.clone(),
        uri: uri.clone(),
        state: State::New,
        sequence: 0,
        answers: None,
    };
    peers.iter().filter_map(|peer| Some((&peer.name, peer.uri.as_ref()?))).map(probe).collect()
}

impl Probe {
    fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Resting(until) => Some(until),
            State::New | State::Resolving(_) | State::Asked(_) => None,
        }
    }

    /// The outcome of one question. `true`: it is news.
    fn learn(&mut self, now: Instant, answers: bool) -> bool {
        self.state = State::Resting(now + EVERY);
        self.answers.replace(answers) != Some(answers)
    }
}

impl UserAgent {
    /// Asks whoever is due.
    pub(super) fn probe(&mut self, now: Instant) {
        for index in 0..self.probes.len() {
            let probe = &mut self.probes[index];
            match probe.state {
                State::New => {
                    let turn = APART * u32::try_from(index).unwrap_or(u32::MAX);
                    probe.state = State::Resting(now + turn);
                }
                State::Resting(until) if now >= until && !self.draining => {
                    let id = self.endpoint.resolve(probe.uri.clone());
                    self.probes[index].state = State::Resolving(id);
                }
                State::Resting(_) | State::Resolving(_) | State::Asked(_) => {}
            }
        }
    }

    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.probes.iter().filter_map(Probe::wake_at).min().filter(|_| !self.draining)
    }

    /// The addresses of a peer that is to be asked. Gives them back when they are not.
    pub(super) fn probe_resolved(
        &mut self,
        now: Instant,
        id: ResolveId,
        found: Result<Vec<Hop>, String>,
    ) -> Option<Result<Vec<Hop>, String>> {
        let index = self.probes.iter().position(|probe| probe.state == State::Resolving(id));
        let Some(index) = index else { return Some(found) };
        let hops = found.unwrap_or_default();
        let Some(first) = hops.first() else {
            self.probed(now, index, false, "its name leads nowhere");
            return None;
        };
        let user = &self.settings.sip.contact_user;
        let from = Uri::sip(user, &first.local.ip().to_string(), Some(first.local.port()));
        let probe = &mut self.probes[index];
        probe.sequence += 1;
        let outside = Outside {
            method: Method::Options,
            uri: probe.uri.clone(),
            from: NameAddr::new(from),
            to: NameAddr::new(probe.uri.clone()),
            call_id: None,
            cseq: probe.sequence,
            hops,
            headers: vec![("Accept".to_owned(), "application/sdp".to_owned())],
            body: None,
            credentials: None,
        };
        let request = self.endpoint.send_outside(now, outside);
        self.probes[index].state = State::Asked(request);
        None
    }

    /// A final answer to a request outside dialogs. `false`: it was none of ours.
    pub(super) fn probe_answered(&mut self, now: Instant, request: RequestId, status: u16) -> bool {
        let index = self.probes.iter().position(|probe| probe.state == State::Asked(request));
        let Some(index) = index else { return false };
        // Any other answer, even a refusal, comes from somebody who is there.
        let answers = !matches!(status, 408 | 503);
        self.probed(
            now,
            index,
            answers,
            if status == 408 { "no answer" } else { "nothing takes requests there" },
        );
        true
    }

    fn probed(&mut self, now: Instant, index: usize, answers: bool, why: &str) {
        let probe = &mut self.probes[index];
        if !probe.learn(now, answers) {
            return;
        }
        if answers {
            tracing::info!(peer = probe.name, "the peer answers at {}", probe.uri);
        } else {
            tracing::warn!(
                peer = probe.name,
                "the peer does not answer at {}: {why}; check its uri",
                probe.uri
            );
        }
    }

    /// Every peer with a `uri`, and whether it answered when it was last asked; `None`: it was not yet.
    pub fn probed_peers(&self) -> impl Iterator<Item = (&str, Option<bool>)> {
        self.probes.iter().map(|probe| (probe.name.as_str(), probe.answers))
    }
}
