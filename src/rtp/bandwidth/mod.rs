//! How much one video stream may send, from everything the peer tells: its limits (REMB, TMMBR), its reports of loss,
//! and when each packet came (transport-wide feedback); and what we tell a peer that sends to us.
//!
//! ```text
//! transport-wide feedback ─▶ flight ─▶ trend ─▶ rate ─┐
//! report blocks, losses of the feedback ─▶ loss ──────┼▶ least of all ─▶ encoder, pacer
//! REMB, TMMBR, b= ────────────────────────────────────┘
//! packets received ─▶ arrivals ─▶ transport-wide feedback, or trend ─▶ rate ─▶ REMB
//! ```
//! Wire formats are `feedback`'s; the encoder is the engine's.

pub mod arrivals;
pub mod flight;
pub mod loss;
pub mod rate;
pub mod trend;

use std::time::{Duration, Instant};

use crate::rtp::feedback::{Limit, NegotiatedFeedback, PathMessage, PathWriter};
use crate::rtp::rtcp::{Block, Tail};
use crate::rtp::session::{Queued, Session};
use arrivals::Arrivals;
use flight::Flight;
use loss::Loss;
use rate::Rate;
use trend::{Trend, Usage};

/// Less than this is no picture any more; loss and delay never ask for less.
const LEAST_KBPS: u32 = 50;
/// What a peer may hold us to at the least.
const LIMIT_MIN_KBPS: u32 = 16;
/// Loss alone leaves this share.
const LOSS_SHARE: f64 = 0.1;
/// Smaller changes are not told to the encoder, and none sooner than this, but for deep cuts.
const STEP_DOWN: f64 = 0.97;
const STEP_UP: f64 = 1.05;
const PAUSE: Duration = Duration::from_millis(300);
const DEEP: f64 = 0.8;
/// Share of the rate kept for packets sent again is measured over this.
const AGAIN_WINDOW: Duration = Duration::from_secs(2);
/// Bytes of a usual packet, for limits that count its headers.
const PACKET_BYTES: u64 = 1200;
/// REMB: begun with, bounds, and how often it is told.
const REMB_START: f64 = 4_000_000.0;
const REMB_BOUNDS: (f64, f64) = (100_000.0, 20_000_000.0);
const REMB_INTERVAL: Duration = Duration::from_secs(1);
const REMB_WINDOW: Duration = Duration::from_millis(500);
/// Bytes of RTP, UDP and IP in front of each payload, as TMMBR counts them.
const OVERHEAD: u16 = 40;
/// Round trip until one is known.
const ROUND_TRIP: Duration = Duration::from_millis(100);

/// Figures of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BandwidthFigures {
    /// What we may send now, kilobits a second.
    pub target_kbps: u32,
    /// What the delay of our packets lets us; `None`: the peer does not tell.
    pub delay_kbps: Option<u32>,
    /// What loss lets us.
    pub loss_kbps: u32,
    pub remb_kbps: Option<u32>,
    pub tmmbr_kbps: Option<u32>,
    /// What we estimate the path from the peer to carry.
    pub receive_kbps: Option<u32>,
    /// Transport-wide feedback and estimates sent.
    pub told: u64,
    /// The same received.
    pub heard: u64,
}

/// One stream's share of the path, both ways.
#[derive(Debug)]
pub struct Bandwidth {
    epoch: Instant,
    feedback: NegotiatedFeedback,
    most_kbps: u32,
    delay: Option<(Flight, Trend, Rate)>,
    loss: Loss,
    remb: Option<u64>,
    /// Who limits us, and to what.
    tmmbr: Option<(u32, Limit)>,
    /// The owner of a limit waits for our answer.
    answer: Option<(u32, Limit)>,
    /// Highest number and losses of the last report block, and packets asked for until then.
    reported: Option<(u32, i32, u64)>,
    again: Again,
    told_kbps: u32,
    told_at: Option<Instant>,
    fresh: bool,
    arrivals: Option<Arrivals>,
    inbound: Option<Inbound>,
    heard: u64,
}

/// Bytes sent again, as a rate.
#[derive(Debug, Default)]
struct Again {
    bytes: usize,
    since: Option<Instant>,
    kbps: f64,
}

/// What a receiver estimates without numbers on the packets.
#[derive(Debug)]
struct Inbound {
    trend: Trend,
    rate: Rate,
    /// Timestamp of the newest picture, extended and in microseconds.
    newest: Option<(u32, i64)>,
    bytes: usize,
    since: Option<Instant>,
    through: Option<f64>,
    next: Option<Instant>,
    told: u64,
    told_bits: f64,
}

impl Bandwidth {
    /// `most_kbps`: what the peer's SDP and our own settings allow.
    pub fn new(epoch: Instant, feedback: NegotiatedFeedback, most_kbps: u32) -> Self {
        let mut bandwidth = Bandwidth {
            epoch,
            feedback: NegotiatedFeedback::default(),
            most_kbps,
            delay: None,
            loss: Loss::new(loss_bounds(most_kbps)),
            remb: None,
            tmmbr: None,
            answer: None,
            reported: None,
            again: Again::default(),
            told_kbps: most_kbps,
            told_at: None,
            fresh: false,
            arrivals: None,
            inbound: None,
            heard: 0,
        };
        bandwidth.renegotiate(feedback, most_kbps);
        bandwidth
    }

    /// A renewed offer and answer.
    pub fn renegotiate(&mut self, feedback: NegotiatedFeedback, most_kbps: u32) {
        let most = f64::from(most_kbps) * 1e3;
        if feedback.transport_cc != self.feedback.transport_cc {
            let bounds = (f64::from(LEAST_KBPS) * 1e3, most);
            let begin = || (Flight::new(self.epoch), Trend::new(false), Rate::new(most, bounds));
            self.delay = feedback.transport_cc.map(|_| begin());
            self.arrivals = feedback.transport_cc.map(|_| Arrivals::new(self.epoch));
        }
        let estimates = (feedback.remb || feedback.tmmbr) && feedback.transport_cc.is_none();
        if estimates != self.inbound.is_some() {
            self.inbound = estimates.then(Inbound::new);
        }
        self.remb = self.remb.filter(|_| feedback.remb);
        self.tmmbr = self.tmmbr.filter(|_| feedback.tmmbr);
        if let Some((_, _, rate)) = &mut self.delay {
            rate.set_most(most);
        }
        self.loss.set_bounds(loss_bounds(most_kbps));
        self.feedback = feedback;
        self.most_kbps = most_kbps;
        self.fresh = true;
    }

    /// A packet of ours left.
    pub fn sent(&mut self, now: Instant, queued: &Queued) {
        if let (Some((flight, ..)), Some(number)) = (&mut self.delay, queued.transport) {
            flight.sent(now, number, queued.packet.len());
        }
    }

    /// A packet was sent again.
    pub fn sent_again(&mut self, now: Instant, bytes: usize) {
        self.again.add(now, bytes);
    }

    /// A packet of the peer's with this number came.
    pub fn numbered(&mut self, now: Instant, number: u16) {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.arrived(now, number);
        }
    }

    /// A packet of the peer's came: its timestamp and length.
    pub fn arrived(&mut self, now: Instant, timestamp: u32, bytes: usize) {
        let at = micros(now.saturating_duration_since(self.epoch));
        if let Some(inbound) = &mut self.inbound {
            inbound.arrived(now, at, timestamp, bytes);
        }
    }

    /// The peer reports on our stream. `asked`: how many packets it has asked for so far; what was sent again no longer
    /// counts as lost in its report.
    pub fn reported(&mut self, now: Instant, block: &Block, asked: u64) {
        let before = self.reported.replace((block.highest_sequence, block.cumulative_lost, asked));
        let Some((highest, lost, asked_before)) = before else { return };
        let expected = block.highest_sequence.wrapping_sub(highest);
        // Behind, or a restart of the peer's count.
        if expected > 1 << 20 {
            return;
        }
        let lost = u64::try_from(block.cumulative_lost.saturating_sub(lost)).unwrap_or(0);
        let lost = lost.max(asked.saturating_sub(asked_before));
        // Where packets are told of one by one, that is sooner and the same.
        if self.delay.as_ref().is_none_or(|(flight, ..)| flight.through().is_none()) {
            self.loss.told(now, u64::from(expected), lost, None);
        }
    }

    /// The peer tells about the path.
    pub fn heard(
        &mut self,
        now: Instant,
        message: PathMessage<'_>,
        (own, round_trip): (u32, Option<Duration>),
    ) {
        match message {
            PathMessage::Remb { bits } if self.feedback.remb => {
                self.heard += 1;
                self.remb = Some(bits);
            }
            PathMessage::Tmmbr { ssrc, sender, limit } if self.feedback.tmmbr && ssrc == own => {
                self.tmmbr = Some((sender, limit));
                self.answer = self.tmmbr;
            }
            PathMessage::TransportWide(feedback) => {
                self.told(now, feedback, round_trip.unwrap_or(ROUND_TRIP))
            }
            PathMessage::Remb { .. }
            | PathMessage::Tmmbr { .. }
            | PathMessage::Tmmbn
            | PathMessage::Nack { .. } => {}
        }
    }

    fn told(&mut self, now: Instant, feedback: &[u8], round_trip: Duration) {
        let Some((flight, trend, rate)) = &mut self.delay else { return };
        self.heard += 1;
        let mut over = false;
        let told = flight.told(feedback, |came| {
            trend.packet(came.sent, came.arrived);
            over |= trend.usage() == Usage::Over;
        });
        if told.expected == 0 {
            return;
        }
        let through = flight.through();
        // Once in a feedback is enough: what came behind it left before anything could be done.
        let usage = if over { Usage::Over } else { trend.usage() };
        rate.update(now, usage, through, round_trip);
        self.loss.told(now, told.expected, told.lost, through);
    }

    /// Sends what is due: feedback about the peer's packets, answers to its limits.
    pub fn tell(&mut self, now: Instant, session: &mut Session) {
        let (own, media) = (session.ssrc(), session.remote_ssrc().unwrap_or(0));
        let mut writer = PathWriter::default();
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.tell(now, (own, media), &mut writer);
        }
        if let Some(bits) = self.inbound.as_mut().and_then(|inbound| inbound.due(now)) {
            if self.feedback.remb {
                writer.remb(own, media, bits);
            } else {
                writer.tmmbr(own, media, Limit { bits, overhead: OVERHEAD });
            }
        }
        if let Some((owner, limit)) = self.answer.take() {
            writer.tmmbn(own, owner, limit);
        }
        if !writer.is_empty() {
            session.feed_back(Tail::Path(writer.bytes()));
        }
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let arrivals = self.arrivals.as_ref().and_then(Arrivals::wake_at);
        let inbound = self.inbound.as_ref().and_then(|inbound| inbound.next);
        [arrivals, inbound].into_iter().flatten().min()
    }

    /// Whether an answer waits to be sent with [`Bandwidth::tell`].
    pub fn has_answer(&self) -> bool {
        self.answer.is_some()
    }

    /// What may be sent, kilobits a second.
    pub fn target_kbps(&self) -> u32 {
        let kbps = |bits: f64| (bits / 1e3) as u32;
        let own = self.delay.as_ref().map_or(u32::MAX, |(_, _, rate)| kbps(rate.bits()));
        let careful = own.min(kbps(self.loss.bits())).max(LEAST_KBPS);
        let told = self.remb_kbps().unwrap_or(u32::MAX).min(self.tmmbr_kbps().unwrap_or(u32::MAX));
        careful.min(told.max(LIMIT_MIN_KBPS)).min(self.most_kbps)
    }

    fn remb_kbps(&self) -> Option<u32> {
        self.remb.map(|bits| u32::try_from(bits / 1000).unwrap_or(u32::MAX))
    }

    /// Without the headers the limit counts.
    fn tmmbr_kbps(&self) -> Option<u32> {
        let (_, limit) = self.tmmbr?;
        let media = u128::from(limit.bits) * u128::from(PACKET_BYTES);
        let bits = media / u128::from(PACKET_BYTES + u64::from(limit.overhead));
        Some(u32::try_from(bits / 1000).unwrap_or(u32::MAX))
    }

    /// What the encoder is to be held to from now on, when that changed enough: what may be sent, less what is sent
    /// again.
    pub fn take_rate(&mut self, now: Instant) -> Option<u32> {
        let target = self.target_kbps();
        let again = self.again.kbps(now).min(f64::from(target) / 2.0) as u32;
        let (kbps, told) =
            ((target - again).max(LIMIT_MIN_KBPS.min(self.most_kbps)), f64::from(self.told_kbps));
        let share = f64::from(kbps) / told.max(1.0);
        let recent = self.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        let whole = kbps == self.most_kbps && kbps != self.told_kbps;
        let changed = share <= STEP_DOWN || share >= STEP_UP || whole;
        if !std::mem::take(&mut self.fresh) && (!changed || (recent && share > DEEP)) {
            return None;
        }
        self.told_kbps = kbps;
        self.told_at = Some(now);
        Some(kbps)
    }

    pub fn figures(&self) -> BandwidthFigures {
        let told = self.arrivals.as_ref().map_or(0, Arrivals::told);
        BandwidthFigures {
            target_kbps: self.target_kbps(),
            delay_kbps: self.delay.as_ref().map(|(_, _, rate)| (rate.bits() / 1e3) as u32),
            loss_kbps: (self.loss.bits() / 1e3) as u32,
            remb_kbps: self.remb_kbps(),
            tmmbr_kbps: self.tmmbr_kbps(),
            receive_kbps: self.inbound.as_ref().map(|inbound| (inbound.rate.bits() / 1e3) as u32),
            told: told + self.inbound.as_ref().map_or(0, |inbound| inbound.told),
            heard: self.heard,
        }
    }
}

fn loss_bounds(most_kbps: u32) -> (f64, f64) {
    let most = f64::from(most_kbps) * 1e3;
    ((most * LOSS_SHARE).max(f64::from(LEAST_KBPS) * 1e3), most)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Again {
    fn add(&mut self, now: Instant, bytes: usize) {
        self.turn(now);
        self.bytes += bytes;
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed >= AGAIN_WINDOW {
            self.kbps = self.bytes as f64 * 8.0 / 1e3 / passed.as_secs_f64();
            (self.bytes, self.since) = (0, Some(now));
        }
    }

    fn kbps(&mut self, now: Instant) -> f64 {
        if self.since.is_some() {
            self.turn(now);
        }
        self.kbps
    }
}

impl Inbound {
    fn new() -> Self {
        Inbound {
            trend: Trend::new(true),
            rate: Rate::new(REMB_START, REMB_BOUNDS),
            newest: None,
            bytes: 0,
            since: None,
            through: None,
            next: None,
            told: 0,
            told_bits: REMB_START,
        }
    }

    fn arrived(&mut self, now: Instant, at: i64, timestamp: u32, bytes: usize) {
        let (before, sent) = self.newest.unwrap_or((timestamp, 0));
        let step = i64::from(timestamp.wrapping_sub(before) as i32);
        let sent = sent + step * 100 / 9;
        if step >= 0 {
            self.newest = Some((timestamp, sent));
        }
        self.trend.packet(sent, at);
        self.bytes += bytes;
        let passed = now.saturating_duration_since(*self.since.get_or_insert(now));
        if passed >= REMB_WINDOW {
            self.through = Some(self.bytes as f64 * 8.0 / passed.as_secs_f64());
            (self.bytes, self.since) = (0, Some(now));
        }
        // The first window says what is sent at all.
        if step > 0 && self.through.is_some() {
            self.rate.update(now, self.trend.usage(), self.through, ROUND_TRIP);
        }
        self.next.get_or_insert(now + REMB_INTERVAL);
        if self.rate.bits() < STEP_DOWN * self.told_bits {
            self.next = Some(now);
        }
    }

    /// What to tell now.
    fn due(&mut self, now: Instant) -> Option<u64> {
        self.next.filter(|at| now >= *at)?;
        self.next = None;
        self.told += 1;
        self.told_bits = self.rate.bits();
        Some(self.told_bits as u64)
    }
}
