//! What audio and video streams have in common (RFC 3550 §6, §8): source lock, SSRC and sequence tracking,
//! statistics, RTCP reports and their schedule, and writing packets.
//!
//! Payloads, jitter and pacing belong to [`super::audio`] and [`super::video`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::base::time::{Clock, Pts};
use crate::rtp::feedback::PathMessage;
use crate::rtp::packet::{Header, Packet, Writer};
use crate::rtp::reach::Reach;
use crate::rtp::rtcp::{self, Block, Message, SenderInfo, Tail};
use crate::rtp::sequence::{Arrival, Sequence};
use crate::rtp::source::{SourceLock, Verdict, canonical};
use crate::rtp::xr::{self, VoipMetrics};

mod again;

use again::Beside;
pub use again::Queued;

/// Mean time between reports (RFC 3550 §6.2), each drawn from half to one and a half of it.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// The first report leaves early so that lip-sync has something to go by.
const FIRST_REPORT_MS: (u64, u64) = (100, 400);
/// Packets of a source that was just replaced are stragglers for this long.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// Datagrams waiting to be polled; the driver drains after every call.
const OUT_MAX: usize = 4096;
const EVENTS_MAX: usize = 64;
/// A source heard so lately still lives: another one must send two packets in sequence to take its place, or every
/// lone packet (comfort noise, tones of a gateway) would cut the stream.
const ALIVE: Duration = Duration::from_millis(100);
/// A port of RTCP that was silent so long, some reports, may be replaced by another one of the same host.
const RTCP_SILENCE: Duration = Duration::from_secs(20);
/// Foreign packets before there is a source that are worth a line in the log: a second of sound.
const TOLD_OF_STRANGERS: u64 = 50;
/// Longer round trips are nonsense in the peer's report.
const ROUND_TRIP_MAX_MS: f64 = 30_000.0;

/// Where one stream goes and what it counts in.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// RTP clock rate in Hz.
    pub clock_rate: u32,
    /// RTCP name of this box, the same for all streams of a call; at most 255 bytes are used.
    pub cname: String,
    /// RTP address in the peer's SDP.
    pub remote: Option<SocketAddr>,
    pub remote_rtcp: Option<SocketAddr>,
    /// Who may become the source where the SDP does not name it.
    pub reach: Reach,
    /// Every packet was authenticated before it comes here (SRTP).
    pub authentic: bool,
    pub rtcp_mux: bool,
    pub receives: bool,
    pub sends: bool,
    /// For the wall time in sender reports.
    pub clock: Clock,
    /// The instant that is [`Pts::ZERO`] on the call's media clock.
    pub epoch: Instant,
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// From the RTP socket.
    Rtp(SocketAddr, Bytes),
    /// From the RTCP socket; with rtcp-mux from the RTP socket.
    Rtcp(SocketAddr, Bytes),
}

/// What happened to a stream's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// Media comes from, and goes to, this address from now on.
    Locked(SocketAddr),
    /// The peer began a new stream (another SSRC) at the same address.
    Changed,
    /// The peer's RTCP says its stream ended. The call does not end by this.
    Bye,
}

/// Figures of one stream, cumulative over SSRC changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStatistics {
    /// Different packets of the locked source.
    pub packets_received: u64,
    /// Payload bytes.
    pub bytes_received: u64,
    /// Numbers that never came.
    pub packets_lost: u64,
    /// Came, but too late to be used.
    pub packets_late: u64,
    pub duplicates: u64,
    /// RTP and RTCP from addresses that are not the source.
    pub foreign_packets: u64,
    pub malformed: u64,
    pub unknown_payload_type: u64,
    pub source_changes: u64,
    /// Interarrival jitter of RFC 3550 §6.4.1.
    pub jitter_ms: f64,
    pub round_trip_ms: Option<f64>,
    pub packets_sent: u64,
    /// Payload bytes.
    pub bytes_sent: u64,
    /// Packets not sent: no destination yet, or the driver does not drain.
    pub unsent: u64,
    /// What the peer lost of ours since its previous report, 0 to 1.
    pub remote_lost_fraction: Option<f64>,
    /// The same since the beginning, in packets.
    pub remote_lost: Option<u64>,
    pub remote_jitter_ms: Option<f64>,
    pub rtcp_received: u64,
    pub rtcp_sent: u64,
    pub last_received: Option<Instant>,
    pub last_rtcp_received: Option<Instant>,
}

/// A packet of the locked source.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    pub packet: Packet<'a>,
    /// Extended sequence number; grows also over restarts.
    pub extended: u64,
    /// Another SSRC, or the sender restarted its numbers: what is buffered belongs to the past.
    pub restarted: bool,
    /// Of a payload type of this stream.
    pub known: bool,
}

/// What the peer asks for in RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback<'a> {
    Pli,
    Fir {
        sequence: u8,
    },
    /// What the peer received of our stream.
    Report(Block),
    Path(PathMessage<'a>),
}

/// One stream in both directions.
#[derive(Debug)]
pub struct Session {
    settings: StreamSettings,
    misorder_max: u16,
    random: StdRng,
    lock: SourceLock,
    /// Where control packets come from when it is not where the SDP says, and when the last one came.
    rtcp_source: Option<(SocketAddr, Instant)>,
    remote_ssrc: Option<u32>,
    replaced: Option<(u32, Instant)>,
    /// Another SSRC at the source's address, and the number its next packet must have.
    newcomer: Option<(u32, u16)>,
    sequence: Sequence,
    jitter: Jitter,
    /// Of the timestamps that arrive, in Hz.
    clock_rate: u32,
    last_report: Option<(u64, Instant)>,
    /// NTP time and timestamp of one moment at the sender, by its newest report.
    sender_clock: Option<(u64, u32)>,
    /// Extended reports: what to say in ours, and what the peer said in its last one.
    metrics: Option<VoipMetrics>,
    remote_metrics: Option<VoipMetrics>,
    /// A restart nobody was told of, because nothing was received (hold).
    restarted: bool,
    ssrc: u32,
    next_sequence: u16,
    /// A moment of our stream: its time and timestamp.
    sent: Option<(Pts, u32)>,
    reported_as_sender: bool,
    report_interval: Duration,
    next_report: Instant,
    writer: Writer,
    beside: Beside,
    out: VecDeque<Out>,
    events: VecDeque<SourceEvent>,
    statistics: StreamStatistics,
}

impl Session {
    /// `misorder_max`: see [`Sequence::new`]. `chunk_len`: see [`Writer::new`].
    pub fn new(
        now: Instant,
        settings: StreamSettings,
        misorder_max: u16,
        chunk_len: usize,
        seed: u64,
    ) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut settings = settings;
        settings.clock_rate = settings.clock_rate.max(1);
        let end = (0..=settings.cname.len().min(255)).rev().find(|end| settings.cname.is_char_boundary(*end));
        settings.cname.truncate(end.unwrap_or(0));
        let clock_rate = settings.clock_rate;
        let first_report = random.random_range(FIRST_REPORT_MS.0..=FIRST_REPORT_MS.1);
        Session {
            lock: SourceLock::new(settings.remote, settings.reach.clone(), settings.authentic),
            settings,
            misorder_max,
            rtcp_source: None,
            remote_ssrc: None,
            replaced: None,
            newcomer: None,
            sequence: Sequence::new(misorder_max),
            jitter: Jitter::default(),
            clock_rate,
            last_report: None,
            sender_clock: None,
            metrics: None,
            remote_metrics: None,
            restarted: false,
            ssrc: random.random(),
            next_sequence: random.random_range(0..0x8000),
            sent: None,
            reported_as_sender: false,
            report_interval: REPORT_INTERVAL,
            next_report: now + Duration::from_millis(first_report),
            beside: Beside { ssrc: random.random(), next_sequence: random.random(), transport: None },
            random,
            writer: Writer::new(chunk_len),
            out: VecDeque::new(),
            events: VecDeque::new(),
            statistics: StreamStatistics::default(),
        }
    }

    pub fn settings(&self) -> &StreamSettings {
        &self.settings
    }

    /// The next packet to arrive has timestamps of this clock (RFC 7160).
    pub fn expect_clock_rate(&mut self, clock_rate: u32) {
        if clock_rate != self.clock_rate {
            let scale = f64::from(clock_rate) / f64::from(self.clock_rate);
            self.jitter = Jitter { estimate: self.jitter.estimate * scale, transit: None };
            self.clock_rate = clock_rate.max(1);
        }
    }

    pub fn expected_clock_rate(&self) -> u32 {
        self.clock_rate
    }

    /// We send at another clock from now on. `true`: it is another than before, and so another stream (RFC 7160 §4.1).
    pub fn set_clock_rate(&mut self, clock_rate: u32) -> bool {
        let changes = clock_rate != self.settings.clock_rate;
        if changes {
            self.settings.clock_rate = clock_rate.max(1);
            self.ssrc = self.random.random();
            self.sent = None;
        }
        changes
    }

    /// A random first timestamp.
    pub fn random_timestamp(&mut self) -> u32 {
        self.random.random()
    }

    /// The peer's stream, once it was heard.
    pub fn remote_ssrc(&self) -> Option<u32> {
        self.remote_ssrc
    }

    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Where packets go: the locked source, before that the address of the SDP.
    pub fn destination(&self) -> Option<SocketAddr> {
        self.lock.destination()
    }

    /// A new offer/answer moved the peer or the direction. Where nothing changed, nothing starts anew.
    pub fn redirect(
        &mut self,
        remote: Option<SocketAddr>,
        rtcp: Option<SocketAddr>,
        receives: bool,
        sends: bool,
    ) {
        self.lock.redirect(remote);
        if self.settings.remote_rtcp != rtcp {
            self.rtcp_source = None;
        }
        self.settings.remote = remote;
        self.settings.remote_rtcp = rtcp;
        self.settings.receives = receives;
        self.settings.sends = sends;
    }

    /// Whether RTCP shares the RTP port from now on (RFC 5761).
    pub fn set_rtcp_mux(&mut self, rtcp_mux: bool) {
        self.settings.rtcp_mux = rtcp_mux;
    }

    /// Whether packets are authenticated before they come here from now on.
    pub fn set_authentic(&mut self, authentic: bool) {
        self.lock.set_authentic(authentic);
    }

    /// Takes a datagram of the RTP socket. `None`: nothing for the stream, and counted.
    pub fn receive<'a>(
        &mut self,
        now: Instant,
        source: SocketAddr,
        bytes: &'a [u8],
        is_known: impl Fn(u8) -> bool,
    ) -> Option<Received<'a>> {
        let Some(packet) = Packet::parse(bytes) else {
            self.statistics.malformed += 1;
            return None;
        };
        let known = is_known(packet.payload_type);
        if self.lock.locked().is_none() && !known {
            self.statistics.unknown_payload_type += 1;
            return None;
        }
        match self.lock.judge(now, source, packet.ssrc, packet.sequence) {
            Verdict::Foreign => {
                self.statistics.foreign_packets += 1;
                self.tell_of_strangers(source);
                return None;
            }
            Verdict::Locked => self.begin_source(source),
            Verdict::Accepted => {}
        }
        let changed = self.remote_ssrc != Some(packet.ssrc);
        if changed && !self.change_source(now, packet.ssrc, packet.sequence) {
            self.statistics.foreign_packets += 1;
            return None;
        }
        self.statistics.last_received = Some(now);
        let (extended, restarted) = match self.sequence.arrive(packet.sequence) {
            Arrival::Counted(extended) => (extended, changed),
            Arrival::Restarted(extended) => (extended, true),
            Arrival::Duplicate | Arrival::Suspect => return None,
        };
        self.statistics.bytes_received += packet.payload.len() as u64;
        if !known {
            self.statistics.unknown_payload_type += 1;
        } else {
            let since = Pts::at(self.settings.epoch, now).nanos();
            let arrival = (i128::from(since) * i128::from(self.clock_rate) / 1_000_000_000) as u32;
            self.jitter.arrive(arrival, packet.timestamp, self.clock_rate);
        }
        self.restarted |= restarted;
        if !self.settings.receives {
            return None;
        }
        Some(Received { packet, extended, restarted: std::mem::take(&mut self.restarted), known })
    }

    /// One line for whoever wonders why nothing is heard.
    fn tell_of_strangers(&mut self, source: SocketAddr) {
        if self.statistics.foreign_packets == TOLD_OF_STRANGERS && self.lock.locked().is_none() {
            tracing::warn!(
                %source,
                "media comes from where the peer neither signals nor says it is, and is not taken: if it is the peer's, \
                 list its network in `networks` of a [[sip.peer]]"
            );
        }
    }

    fn begin_source(&mut self, source: SocketAddr) {
        self.event(SourceEvent::Locked(source));
        self.rtcp_source = None;
        if self.remote_ssrc.take().is_some() {
            self.replaced = None;
            self.fold_sequence();
        }
    }

    /// Starts the numbers of another SSRC; `false` for stragglers of the one before, and for a newcomer's first
    /// packet while the present one lives.
    fn change_source(&mut self, now: Instant, ssrc: u32, sequence: u16) -> bool {
        let straggler =
            self.replaced.is_some_and(|(old, at)| old == ssrc && now.duration_since(at) < STRAGGLERS);
        if straggler {
            return false;
        }
        let heard = self.statistics.last_received.filter(|_| self.remote_ssrc.is_some());
        let alive = heard.is_some_and(|at| now.saturating_duration_since(at) < ALIVE);
        if alive && self.newcomer != Some((ssrc, sequence)) {
            self.newcomer = Some((ssrc, sequence.wrapping_add(1)));
            return false;
        }
        self.newcomer = None;
        if let Some(old) = self.remote_ssrc {
            self.replaced = Some((old, now));
            self.statistics.source_changes += 1;
            self.event(SourceEvent::Changed);
            self.fold_sequence();
        }
        self.remote_ssrc = Some(ssrc);
        self.sequence.continue_with(self.misorder_max);
        self.jitter = Jitter::default();
        self.last_report = None;
        self.sender_clock = None;
        true
    }

    fn fold_sequence(&mut self) {
        self.statistics.packets_received += self.sequence.received();
        self.statistics.packets_lost += self.sequence.lost();
        self.statistics.duplicates += self.sequence.duplicates();
    }

    /// Takes a datagram of the RTCP socket, or one of the RTP socket that is RTCP.
    pub fn receive_rtcp(
        &mut self,
        now: Instant,
        source: SocketAddr,
        bytes: &[u8],
        mut take: impl FnMut(Feedback<'_>),
    ) {
        if !self.takes_rtcp(now, canonical(source)) {
            self.statistics.foreign_packets += 1;
            return;
        }
        self.statistics.rtcp_received += 1;
        self.statistics.last_rtcp_received = Some(now);
        let mut byes = 0;
        let sound = rtcp::read(bytes, |message| match message {
            Message::SenderReport(info) if self.remote_ssrc == Some(info.ssrc) => {
                self.last_report = Some((info.ntp, now));
                // Without a clock senders write 0.
                self.sender_clock = Some((info.ntp, info.rtp_timestamp)).filter(|(ntp, _)| *ntp != 0);
            }
            Message::Report(block) if block.ssrc == self.ssrc => {
                let ntp = self.settings.clock.ntp(now);
                read_block(&mut self.statistics, &block, ntp, self.settings.clock_rate);
                take(Feedback::Report(block));
            }
            Message::VoipMetrics(metrics) if metrics.ssrc == self.ssrc => {
                self.remote_metrics = Some(metrics);
            }
            Message::Bye { ssrc } if self.remote_ssrc == Some(ssrc) => byes += 1,
            Message::Pli { .. } => take(Feedback::Pli),
            Message::Fir { sequence, .. } => take(Feedback::Fir { sequence }),
            Message::Path(message) => take(Feedback::Path(message)),
            Message::SenderReport(_) | Message::Report(_) | Message::Bye { .. } | Message::VoipMetrics(_) => {
            }
        });
        if byes > 0 {
            self.event(SourceEvent::Bye);
        }
        self.statistics.malformed += u64::from(!sound);
    }

    /// Writes one packet whose payload is the concatenation of `parts`. `pts` is the moment the timestamp means.
    ///
    /// `None`: it was not sent.
    pub fn send(&mut self, now: Instant, header: SendHeader, pts: Pts, parts: &[&[u8]]) -> Option<Queued> {
        if !self.settings.sends {
            return None;
        }
        let Some(destination) = self.lock.destination().filter(|_| self.out.len() < OUT_MAX) else {
            self.statistics.unsent += 1;
            return None;
        };
        let header = Header {
            marker: header.marker,
            payload_type: header.payload_type,
            sequence: self.next_sequence,
            timestamp: header.timestamp,
            ssrc: self.ssrc,
        };
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.statistics.packets_sent += 1;
        self.statistics.bytes_sent += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.sent = Some((pts, header.timestamp));
        if !self.reported_as_sender {
            let soon = now + Duration::from_millis(FIRST_REPORT_MS.0);
            self.next_report = self.next_report.min(soon);
        }
        let number = self.beside.number();
        let packet = self.writer.write_numbered(&header, number, parts);
        self.out.push_back(Out::Rtp(destination, packet.clone()));
        let transport = number.map(|(_, number)| number);
        Some(Queued { sequence: header.sequence, transport, packet })
    }

    /// Sends a report that is due.
    pub fn handle_time(&mut self, now: Instant) {
        if now >= self.next_report {
            let percent = self.random.random_range(50..150);
            self.next_report = now + self.report_interval * percent / 100;
            self.report(now, Tail::Nothing);
        }
    }

    pub fn wake_at(&self) -> Instant {
        self.next_report
    }

    /// Sends a compound now. `false`: there is nowhere to send it.
    pub fn report(&mut self, now: Instant, tail: Tail<'_>) -> bool {
        let Some(destination) = self.rtcp_destination() else {
            return false;
        };
        let ntp = self.settings.clock.ntp(now);
        let sent = self.sent.filter(|_| self.settings.sends);
        let sender = sent.map(|(pts, timestamp)| SenderInfo {
            ssrc: self.ssrc,
            ntp,
            rtp_timestamp: timestamp.wrapping_add(self.ticks(Pts::at(self.settings.epoch, now) - pts)),
            packets: self.statistics.packets_sent as u32,
            bytes: self.statistics.bytes_sent as u32,
        });
        self.reported_as_sender |= sender.is_some();
        let block = self.remote_ssrc.map(|ssrc| self.block(now, ssrc));
        let mut bytes = rtcp::write(self.ssrc, sender, block, &self.settings.cname, tail);
        if let (Some(metrics), Tail::Nothing, false) = (&self.metrics, tail, bytes.is_empty()) {
            bytes = [&bytes[..], &xr::write(self.ssrc, metrics)].concat().into();
        }
        if bytes.is_empty() || self.out.len() >= OUT_MAX {
            return false;
        }
        self.statistics.rtcp_sent += 1;
        self.out.push_back(Out::Rtcp(destination, bytes));
        true
    }

    /// What the next reports say of how the peer is heard (RFC 3611); `None`: nothing.
    pub fn set_metrics(&mut self, metrics: Option<VoipMetrics>) {
        self.metrics = metrics;
    }

    /// What the peer said last of how we are heard.
    pub fn remote_metrics(&self) -> Option<&VoipMetrics> {
        self.remote_metrics.as_ref()
    }

    /// The moment of a received timestamp by the sender's NTP clock, in nanoseconds since 1900 or 2036.
    ///
    /// `rate` in Hz: that of the timestamp, a multiple of the sender's own.
    pub fn sender_time(&self, timestamp: u32, rate: u32) -> Option<i64> {
        let (ntp, reported) = self.sender_clock?;
        let reported = reported.wrapping_mul(rate / self.clock_rate);
        let since = i64::from(timestamp.wrapping_sub(reported) as i32);
        let reported = (i128::from(ntp) * 1_000_000_000) >> 32;
        let since = i128::from(since) * 1_000_000_000 / i128::from(rate.max(1));
        i64::try_from(reported + since).ok()
    }

    fn ticks(&self, nanos: i64) -> u32 {
        (i128::from(nanos) * i128::from(self.settings.clock_rate) / 1_000_000_000) as u32
    }

    fn block(&mut self, now: Instant, ssrc: u32) -> Block {
        let since = |at: Instant| (now.duration_since(at).as_nanos() * 65_536 / 1_000_000_000) as u32;
        Block {
            ssrc,
            fraction_lost: self.sequence.fraction_lost_since_report(),
            cumulative_lost: i32::try_from(self.sequence.lost()).unwrap_or(i32::MAX),
            highest_sequence: self.sequence.highest_for_report(),
            jitter: self.jitter.estimate as u32,
            last_sender_report: self.last_report.map_or(0, |(ntp, _)| rtcp::middle(ntp)),
            delay_since_last: self.last_report.map_or(0, |(_, at)| since(at)),
        }
    }

    /// With rtcp-mux the RTP address; a peer behind NAT where it was heard; else what the SDP says.
    fn rtcp_destination(&self) -> Option<SocketAddr> {
        let destination = self.lock.destination()?;
        if self.settings.rtcp_mux {
            return Some(destination);
        }
        let as_signalled = self.settings.remote.is_some_and(|remote| {
            remote.ip().to_canonical() == destination.ip() && remote.port() == destination.port()
        });
        let next_port = || Some(SocketAddr::new(destination.ip(), destination.port().checked_add(1)?));
        if as_signalled {
            return self.settings.remote_rtcp.or_else(next_port);
        }
        self.rtcp_source.map(|(source, _)| source).or_else(next_port)
    }

    /// Control packets come from where the SDP says or where the media comes from. Of a peer behind a translator another
    /// port is taken too, one at a time.
    fn takes_rtcp(&mut self, now: Instant, source: SocketAddr) -> bool {
        let named = self.settings.remote_rtcp.map(canonical) == Some(source);
        if named || self.lock.destination() == Some(source) {
            return true;
        }
        if !self.lock.may_control(source) {
            return false;
        }
        match &mut self.rtcp_source {
            Some((known, at)) if *known == source || now.saturating_duration_since(*at) > RTCP_SILENCE => {
                (*known, *at) = (source, now);
                true
            }
            Some(_) => false,
            None => {
                self.rtcp_source = Some((source, now));
                true
            }
        }
    }

    pub fn poll(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<SourceEvent> {
        self.events.pop_front()
    }

    fn event(&mut self, event: SourceEvent) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    /// The newest sender report: NTP time and when it came.
    pub fn last_sender_report(&self) -> Option<(u64, Instant)> {
        self.last_report
    }

    pub fn malformed_payload(&mut self) {
        self.statistics.malformed += 1;
    }

    pub fn statistics(&self) -> StreamStatistics {
        let mut statistics = self.statistics;
        statistics.packets_received += self.sequence.received();
        statistics.packets_lost += self.sequence.lost();
        statistics.duplicates += self.sequence.duplicates();
        statistics.jitter_ms = self.jitter.estimate * 1000.0 / f64::from(self.clock_rate);
        statistics
    }
}

/// What a stream decides of a packet's header.
#[derive(Clone, Copy, Debug)]
pub struct SendHeader {
    pub marker: bool,
    pub payload_type: u8,
    pub timestamp: u32,
}

fn read_block(statistics: &mut StreamStatistics, block: &Block, ntp: u64, clock_rate: u32) {
    statistics.remote_lost_fraction = Some(f64::from(block.fraction_lost) / 256.0);
    statistics.remote_lost = u64::try_from(block.cumulative_lost).ok().or(Some(0));
    statistics.remote_jitter_ms = Some(f64::from(block.jitter) * 1000.0 / f64::from(clock_rate));
    if block.last_sender_report == 0 {
        return;
    }
    let passed =
        rtcp::middle(ntp).wrapping_sub(block.last_sender_report).wrapping_sub(block.delay_since_last);
    // Clocks of 16 binary places: a little below zero is zero.
    let round_trip = f64::from(passed as i32).max(0.0) * 1000.0 / 65_536.0;
    if round_trip < ROUND_TRIP_MAX_MS && (passed as i32) > -65_536 {
        statistics.round_trip_ms = Some(round_trip);
    }
}

/// Interarrival jitter (RFC 3550 appendix A.8), in timestamp units.
#[derive(Clone, Copy, Debug, Default)]
struct Jitter {
    estimate: f64,
    transit: Option<u32>,
}

impl Jitter {
    fn arrive(&mut self, arrival: u32, timestamp: u32, clock_rate: u32) {
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let distance = f64::from((transit.wrapping_sub(before) as i32).unsigned_abs());
            // More than this is a jump of the timestamps, not of the network.
            if distance < f64::from(clock_rate) * 5.0 {
                self.estimate += (distance - self.estimate) / 16.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn session(start: Instant, cname: &str) -> Session {
        let remote: SocketAddr = "192.0.2.1:4000".parse().expect("an address");
        let settings = StreamSettings {
            clock_rate: 8000,
            cname: cname.into(),
            remote: Some(remote),
            remote_rtcp: None,
            reach: Reach::default(),
            authentic: false,
            rtcp_mux: false,
            receives: true,
            sends: true,
            clock: Clock::new(start, SystemTime::UNIX_EPOCH),
            epoch: start,
        };
        Session::new(start, settings, 100, 4096, 5)
    }

    fn peer() -> SocketAddr {
        "192.0.2.1:4000".parse().expect("an address")
    }

    fn hear(session: &mut Session, now: Instant, ssrc: u32, sequence: u16, payload_type: u8) -> Option<bool> {
        let header =
            Header { marker: false, payload_type, sequence, timestamp: u32::from(sequence) * 160, ssrc };
        let bytes = Writer::new(64).write(&header, &[&[0; 20]]);
        session.receive(now, peer(), &bytes, |kind| kind == 8).map(|received| received.restarted)
    }

    #[test]
    fn stragglers_of_the_old_source_do_not_switch_back() {
        let start = Instant::now();
        let mut session = session(start, "x");
        assert_eq!(hear(&mut session, start, 1, 10, 8), Some(true));
        assert_eq!(hear(&mut session, start + MS(20), 2, 900, 8), None);
        assert_eq!(hear(&mut session, start + MS(22), 2, 901, 8), Some(true));
        assert_eq!(hear(&mut session, start + MS(30), 1, 11, 8), None);
        assert_eq!(hear(&mut session, start + MS(40), 2, 902, 8), Some(false));
        assert_eq!(hear(&mut session, start + MS(1500), 1, 90, 8), Some(true), "it really came back");
        assert_eq!(session.statistics().source_changes, 2);
        assert_eq!(session.statistics().packets_received, 4);
    }

    #[test]
    fn lone_packets_of_others_do_not_cut_a_living_stream_and_a_silent_one_is_replaced_at_once() {
        let start = Instant::now();
        let mut session = session(start, "x");
        hear(&mut session, start, 1, 0, 8);
        for n in 1..200u16 {
            let now = start + MS(u64::from(n) * 20);
            assert_eq!(hear(&mut session, now, 1000 + u32::from(n), n.wrapping_mul(77), 8), None);
            assert_eq!(hear(&mut session, now, 1, n, 8), Some(false), "packet {n}");
        }
        assert_eq!(session.statistics().source_changes, 0);
        assert_eq!(hear(&mut session, start + MS(4100), 7, 5, 8), Some(true));
    }

    #[test]
    fn a_restart_during_hold_is_told_afterwards() {
        let start = Instant::now();
        let mut session = session(start, "x");
        hear(&mut session, start, 1, 10, 8);
        session.redirect(Some(peer()), None, false, false);
        assert_eq!(hear(&mut session, start, 2, 500, 8), None);
        assert_eq!(hear(&mut session, start, 2, 501, 8), None);
        assert_eq!(session.statistics().source_changes, 1);
        session.redirect(Some(peer()), None, true, true);
        assert_eq!(hear(&mut session, start, 2, 502, 8), Some(true));
        assert_eq!(hear(&mut session, start, 2, 503, 8), Some(false));
    }

    #[test]
    fn unknown_payload_types_do_not_lock_and_later_only_keep_their_number() {
        let start = Instant::now();
        let mut session = session(start, "x");
        assert_eq!(hear(&mut session, start, 1, 10, 77), None);
        assert_eq!(session.poll_event(), None);
        hear(&mut session, start, 1, 11, 8);
        assert_eq!(hear(&mut session, start, 1, 12, 77), Some(false));
        hear(&mut session, start, 1, 13, 8);
        let statistics = session.statistics();
        assert_eq!((statistics.packets_lost, statistics.unknown_payload_type), (0, 2));
    }

    #[test]
    fn control_packets_come_from_the_peer_alone_and_from_one_port_of_it_at_a_time() {
        let start = Instant::now();
        let mut session = session(start, "x");
        session.settings.remote_rtcp = Some("192.0.2.1:4001".parse().expect("an address"));
        let (there, phone) = ("198.51.100.7:9001", "198.51.100.7:9000".parse().expect("an address"));
        let reach = Reach { signalling: Some(SocketAddr::ip(&phone)), ..Reach::default() };
        session.lock = SourceLock::new(session.settings.remote, reach, false);
        let report = rtcp::write(1, None, None, "p", Tail::Nothing);
        let taken = |session: &mut Session, ms, from: &str| {
            let before = session.statistics().rtcp_received;
            session.receive_rtcp(start + MS(ms), from.parse().expect("an address"), &report, |_| {});
            session.statistics().rtcp_received != before
        };
        assert!(
            taken(&mut session, 0, "192.0.2.1:4001") && taken(&mut session, 0, "192.0.2.1:4000"),
            "named"
        );
        assert!(!taken(&mut session, 0, "192.0.2.2:4001") && !taken(&mut session, 0, "192.0.2.1:9001"));
        assert!(taken(&mut session, 0, there), "the signaller's host, one port of it");
        assert!(!taken(&mut session, 10, "198.51.100.7:9003") && taken(&mut session, 20, there));
        for n in 0..20u16 {
            let header = Header {
                marker: false,
                payload_type: 8,
                sequence: n,
                timestamp: u32::from(n) * 160,
                ssrc: 1,
            };
            let bytes = Writer::new(64).write(&header, &[&[0; 20]]);
            session.receive(start + MS(20 * u64::from(n)), phone, &bytes, |kind| kind == 8);
        }
        assert_eq!(session.destination(), Some(phone));
        assert!(taken(&mut session, 500, there) && !taken(&mut session, 510, "198.51.100.7:9007"));
        assert!(taken(&mut session, 60_000, "198.51.100.7:9007"), "the other one is silent for long");
        // The SDP was right after all: nothing unnamed is taken any more.
        hear(&mut session, start + MS(61_000), 1, 100, 8);
        assert!(!taken(&mut session, 61_000, "192.0.2.1:9001") && !taken(&mut session, 61_000, there));
        assert!(taken(&mut session, 61_000, "192.0.2.1:4001"));
    }

    #[test]
    fn the_round_trip_is_read_from_the_peers_report_and_nonsense_is_not() {
        let start = Instant::now();
        let mut session = session(start, "x");
        hear(&mut session, start, 1, 10, 8);
        let ntp = rtcp::middle(session.settings().clock.ntp(start + MS(1000)));
        let block = |last, delay| Block {
            ssrc: session.ssrc(),
            fraction_lost: 64,
            last_sender_report: last,
            delay_since_last: delay,
            ..Block::default()
        };
        let good = rtcp::write(1, None, Some(block(ntp, 65_536 / 2)), "p", Tail::Nothing);
        let nonsense = rtcp::write(1, None, Some(block(ntp, 65_536 * 900)), "p", Tail::Nothing);
        session.receive_rtcp(start + MS(1540), peer(), &good, |_| {});
        session.receive_rtcp(start + MS(1540), peer(), &nonsense, |_| {});
        let statistics = session.statistics();
        assert!(statistics.round_trip_ms.is_some_and(|ms| (ms - 40.0).abs() < 1.0), "{statistics:?}");
        assert_eq!(statistics.remote_lost_fraction, Some(0.25));
    }

    #[test]
    fn interarrival_jitter_settles_at_the_mean_difference() {
        let start = Instant::now();
        let mut session = session(start, "x");
        for n in 0..2000u16 {
            hear(&mut session, start + MS(u64::from(n) * 20 + u64::from(n % 2) * 8), 1, n, 8);
        }
        assert!((session.statistics().jitter_ms - 8.0).abs() < 0.5);
    }

    #[test]
    fn a_long_name_is_cut_and_reports_still_leave() {
        let start = Instant::now();
        let mut session = session(start, &"é".repeat(200));
        assert!(session.settings().cname.len() == 254);
        session.handle_time(start + MS(500));
        assert!(matches!(session.poll(), Some(Out::Rtcp(to, _)) if to.port() == 4001));
    }

    #[test]
    fn a_driver_that_never_drains_costs_bounded_memory() {
        let start = Instant::now();
        let mut session = session(start, "x");
        let header = SendHeader { marker: false, payload_type: 8, timestamp: 1 };
        for _ in 0..2 * OUT_MAX {
            session.send(start, header, Pts::ZERO, &[&[0; 20]]);
        }
        assert_eq!(session.statistics().unsent, OUT_MAX as u64);
    }
}
