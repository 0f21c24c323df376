//! Who may ask for something: strangers prove to be one of our users (RFC 3261 §22.1, §22.2), or are turned away.
//!
//! Nothing is kept of who has not proved anything, and what such a source gets is not larger than what it sent: its
//! address may be forged. On a stream it is not, so there any length is sent.

use std::time::Instant;

use super::super::digest::server::Verdict;
use super::super::message::{Method, RequestMessage, ResponseMessage};
use super::compose::{response_peer, response_to, stamp_source};
use super::inbound::server_key;
use super::{Access, Endpoint, Event, Peer, Strangers};

const UNAUTHORIZED: (u16, &str) = (401, "Unauthorized");

/// What becomes of a request outside any dialog.
pub(super) enum Entry {
    /// It is taken; the user who proved to have sent it.
    Open(Option<String>),
    /// It was answered or dropped.
    Closed,
}

impl Endpoint {
    /// Screens a request that belongs to no dialog. `length` is its size in bytes.
    pub(super) fn screen(
        &mut self,
        now: Instant,
        peer: Peer,
        access: Access,
        length: usize,
        request: &RequestMessage,
    ) -> Entry {
        // What belongs to a transaction was let in with it; an ACK and a CANCEL are never asked (RFC 3261 §22.1).
        let known = server_key(request).is_some_and(|key| self.server_of.contains_key(&key));
        let hop_by_hop = match request.method {
            Method::Ack => true,
            Method::Cancel => {
                let invite = RequestMessage { method: Method::Invite, ..request.clone() };
                return match (access, server_key(&invite).filter(|key| self.server_of.contains_key(key))) {
                    (Access::Stranger, None) => self.turn_away(peer, length, request),
                    (Access::Trusted, _) | (Access::Stranger, Some(_)) => Entry::Open(None),
                };
            }
            _ => false,
        };
        let registers = request.method == Method::Register && self.guard.has_users();
        match access {
            _ if known => Entry::Open(None),
            Access::Trusted if hop_by_hop => Entry::Open(None),
            Access::Trusted => self.ask(now, peer, usize::MAX, request, registers),
            Access::Stranger if hop_by_hop => self.turn_away(peer, length, request),
            Access::Stranger => match self.settings.strangers {
                Strangers::Challenge => self.ask(now, peer, length, request, true),
                Strangers::Drop | Strangers::Reject => self.turn_away(peer, length, request),
            },
        }
    }

    /// Judges the proof in a request. `must`: without one it is not taken.
    fn ask(&mut self, now: Instant, peer: Peer, limit: usize, request: &RequestMessage, must: bool) -> Entry {
        let source = peer.remote.ip();
        let stale = match self.guard.judge(now, source, request) {
            Verdict::Known(name) => return Entry::Open(Some(name)),
            _ if !must => return Entry::Open(None),
            Verdict::Unproven => false,
            Verdict::Stale => true,
            // A fresh 401 makes phones that do not read `stale` send the same password for ever; 403 stops them all.
            Verdict::Wrong | Verdict::Replayed => {
                self.counters.proofs_refused += 1;
                self.event(Event::ProofRefused { source });
                self.answer_briefly(peer, limit, request, (403, "Forbidden"), &[]);
                return Entry::Closed;
            }
        };
        let challenges = self.guard.challenges(now, source, stale);
        self.counters.challenges += 1;
        // Both where there is room (RFC 8760 §2.3), else the one every phone knows, else silence.
        let _ = (!knows_md5_only(request)
            && self.answer_briefly(peer, limit, request, UNAUTHORIZED, &challenges))
            || self.answer_briefly(peer, limit, request, UNAUTHORIZED, &challenges[1..]);
        Entry::Closed
    }

    /// A stranger's request that is not taken.
    fn turn_away(&mut self, peer: Peer, length: usize, request: &RequestMessage) -> Entry {
        let silent = match self.settings.strangers {
            Strangers::Drop | Strangers::Challenge => true,
            Strangers::Reject => request.method == Method::Ack,
        };
        if !silent && self.answer_briefly(peer, length, request, (403, "No"), &[]) {
            self.counters.strangers_rejected += 1;
        } else {
            self.counters.strangers_dropped += 1;
        }
        Entry::Closed
    }

    /// One answer without a transaction and without a word too many. `false`: it would have been longer than `limit`.
    fn answer_briefly(
        &mut self,
        peer: Peer,
        limit: usize,
        request: &RequestMessage,
        (status, reason): (u16, &str),
        challenges: &[String],
    ) -> bool {
        let mut request = request.clone();
        stamp_source(&mut request, peer.remote);
        // RFC 3261 §8.2.7: the same tag for the same request, without remembering it.
        let mut response: ResponseMessage = response_to(&request, status, (status == 401).then_some("ask"));
        response.reason = reason.to_owned();
        for challenge in challenges {
            response.headers.push("WWW-Authenticate", challenge.clone());
        }
        let bytes = response.to_bytes();
        if bytes.len() > limit && !peer.transport.is_reliable() {
            return false;
        }
        self.send(response_peer(&request, peer), bytes);
        true
    }
}

/// Phones that give up when they see any challenge with an algorithm they do not know, even beside MD5.
fn knows_md5_only(request: &RequestMessage) -> bool {
    let name = request.headers.value("User-Agent").unwrap_or_default().to_ascii_lowercase();
    ["baresip v0.", "baresip v1."].iter().any(|old| name.starts_with(old))
}
