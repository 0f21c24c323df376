//! Lost packets of one video stream, both ways: asking the peer to send them again (RFC 4585 §6.2.1), and sending ours
//! again when asked, as they were or in a stream of retransmissions (RFC 4588).
//!
//! When to ask is `nack`, what is kept `history`; order and gaps are `reorder`'s.

use std::time::{Duration, Instant};

use crate::rtp::feedback::{NegotiatedFeedback, PathWriter, Retransmission};
use crate::rtp::history::{History, HistoryCounters};
use crate::rtp::nack::{Nack, NackCounters};
use crate::rtp::rtcp::Tail;
use crate::rtp::session::{Queued, Session};

/// Requests of one compound that are looked at; a peer that misses more asks for a key picture.
const WANTED_MAX: usize = 256;

/// Both halves; without NACK neither does anything.
#[derive(Debug)]
pub struct Repair {
    asks: Option<Nack>,
    history: Option<History>,
    terms: Retransmission,
    /// Numbers the peer asked for in the compound being read.
    wanted: Vec<u16>,
    /// Numbers to ask for.
    asking: Vec<u16>,
    kbps: u32,
    /// Counted before the terms changed.
    past: (NackCounters, HistoryCounters),
}

impl Repair {
    /// `kbps`: our bitrate.
    pub fn new(feedback: NegotiatedFeedback, terms: Retransmission, kbps: u32) -> Self {
        let mut repair = Repair {
            asks: None,
            history: None,
            terms,
            wanted: Vec::new(),
            asking: Vec::new(),
            kbps,
            past: Default::default(),
        };
        repair.set_asks(feedback.nack);
        repair
    }

    fn set_asks(&mut self, nack: bool) {
        if nack != self.asks.is_some() {
            self.past = self.counters();
            self.asks = nack.then(Nack::default);
            self.history = nack.then(|| History::new(self.kbps));
        }
    }

    /// A renewed offer and answer.
    pub fn renegotiate(&mut self, feedback: NegotiatedFeedback, terms: Retransmission) {
        self.terms = terms;
        self.set_asks(feedback.nack);
    }

    pub fn set_rate(&mut self, kbps: u32) {
        self.kbps = kbps;
        if let Some(history) = &mut self.history {
            history.set_rate(kbps);
        }
    }

    pub fn counters(&self) -> (NackCounters, HistoryCounters) {
        let (asked, sent) = self.past;
        let nack = self.asks.as_ref().map(Nack::counters).unwrap_or_default();
        let history = self.history.as_ref().map(History::counters).unwrap_or_default();
        (
            NackCounters {
                asked: asked.asked + nack.asked,
                requests: asked.requests + nack.requests,
                recovered: asked.recovered + nack.recovered,
                given_up: asked.given_up + nack.given_up,
            },
            HistoryCounters {
                asked: sent.asked + history.asked,
                lost: sent.lost + history.lost,
                sent: sent.sent + history.sent,
                refused: sent.refused + history.refused,
            },
        )
    }

    /// The payload type a packet of the retransmission stream stands for. `None`: it is none of those.
    pub fn original_of(&self, packet: &[u8]) -> Option<u8> {
        let kind = packet.get(1)? & 0x7f;
        self.terms.receive.iter().find(|(number, _)| *number == kind).map(|(_, original)| *original)
    }

    /// Every packet received, in whatever order. `false`: so much is missing that only a key picture helps.
    pub fn arrived(&mut self, now: Instant, extended: u64) -> bool {
        self.asks.as_mut().is_none_or(|nack| nack.arrived(now, extended))
    }

    /// Packets before this one were handed on or given up.
    pub fn passed(&mut self, next: Option<u64>) {
        if let (Some(nack), Some(next)) = (&mut self.asks, next) {
            nack.passed(next);
        }
    }

    /// The peer began another stream.
    pub fn restart(&mut self) {
        if let Some(nack) = &mut self.asks {
            nack.restart();
        }
    }

    /// How long a gap is held open for retransmissions. `None`: none will come.
    pub fn patience(&self) -> Option<Duration> {
        self.asks.as_ref().and_then(Nack::patience)
    }

    /// Asks for what is due.
    pub fn ask(&mut self, now: Instant, session: &mut Session) {
        let Some(nack) = &mut self.asks else { return };
        let (own, Some(media)) = (session.ssrc(), session.remote_ssrc()) else { return };
        if nack.wake_at().is_none_or(|at| now < at) {
            return;
        }
        if let Some(round_trip) = session.round_trip() {
            nack.set_round_trip(round_trip);
        }
        self.asking.clear();
        nack.due(now, |extended| self.asking.push(session.number_of(extended)));
        let mut writer = PathWriter::default();
        writer.nack(own, media, &self.asking);
        if !writer.is_empty() {
            session.feed_back(Tail::Path(writer.bytes()));
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.asks.as_ref().and_then(Nack::wake_at)
    }

    /// The peer misses this packet of ours.
    pub fn want(&mut self, sequence: u16) {
        if self.history.is_some() && self.wanted.len() < WANTED_MAX {
            self.wanted.push(sequence);
        }
    }

    /// Packets of ours the peer asked for at least once.
    pub fn lost(&self) -> u64 {
        self.past.1.lost + self.history.as_ref().map_or(0, |history| history.counters().lost)
    }

    /// A packet of ours left.
    pub fn sent(&mut self, now: Instant, queued: &Queued) {
        if let Some(history) = &mut self.history {
            history.keep(now, queued.sequence, &queued.packet);
        }
    }

    /// Sends again what was asked for; hands on what left.
    pub fn answer(&mut self, now: Instant, session: &mut Session, mut left: impl FnMut(&Queued)) {
        let Some(history) = &mut self.history else { return };
        let round_trip = session.round_trip().unwrap_or_default();
        for sequence in self.wanted.drain(..) {
            let Some(packet) = history.again(now, sequence, round_trip) else { continue };
            let queued = match self.terms.send {
                None => session.send_again(sequence, packet),
                Some(number) => session.send_beside(number, &packet),
            };
            if let Some(queued) = queued {
                left(&queued);
            }
        }
    }
}
