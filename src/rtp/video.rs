//! One video stream in both directions, of any codec.
//!
//! How to drive it, from the task that owns the sockets:
//! ```text
//! datagram of the RTP socket    handle_rtp      (RTCP on the same port is told apart here)
//! datagram of the RTCP socket   handle_rtcp
//! a coded picture to send       send            (packets leave paced: by handle_time)
//! the decoder needs a start     request_key     (loss asks by itself)
//! the call got a SIP INFO       handle_key_request
//! at wake_at()                  handle_time
//! after each of these           poll until None, poll_unit until None, poll_event until None, take_key_request,
//!                               take_key_request_by_signalling when neither PLI nor FIR was negotiated
//! at the end                    close, poll
//! ```
//! Sources and reports are `session`, order is `reorder`, lost packets are `repair`, how much may be sent is `bandwidth`,
//! packets to units and back `payload`; decoding is elsewhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::rtp::bandwidth::{Bandwidth, BandwidthFigures};
use crate::rtp::extension;
use crate::rtp::feedback::{NegotiatedFeedback, PathMessage, Retransmission};
use crate::rtp::history::HistoryCounters;
use crate::rtp::key_request::{Asking, Obeying};
use crate::rtp::nack::NackCounters;
use crate::rtp::pacer::{Paced, Pacer};
use crate::rtp::packet;
use crate::rtp::payload::{Depacketizer, Packetizer, Refused, SendFormat, Unit};
use crate::rtp::reorder::{Piece, Reorder};
use crate::rtp::repair::Repair;
use crate::rtp::rtcp::Tail;
use crate::rtp::session::{
    Feedback, Out, REPORT_INTERVAL, Received, SendHeader, Session, SourceEvent, StreamSettings,
    StreamStatistics,
};
use crate::rtp::timeline::{SendTimeline, Timeline};

/// How long a gap waits for late packets when the peer does not send lost ones again.
pub const REORDER_WAIT: Duration = Duration::from_millis(50);
/// Retransmitted packets may come this far behind.
const MISORDER_MAX: u16 = 500;
const CHUNK_LEN: usize = 64 << 10;
/// Units waiting to be polled.
const UNITS_MAX: usize = 64;

/// A peer that takes feedback takes reports this often (RFC 4585 §3.4): what adapts to loss adapts sooner.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(1500);

/// What one video stream needs to know.
#[derive(Clone, Debug)]
pub struct VideoSettings {
    /// The clock rate is 90,000.
    pub stream: StreamSettings,
    /// Payload types taken.
    pub receive: Vec<(u8, VideoCodec)>,
    pub send_payload_type: u8,
    /// `None`: a codec nothing is sent in.
    pub send_format: Option<SendFormat>,
    /// From the peer's SDP, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    pub feedback: NegotiatedFeedback,
    pub retransmission: Retransmission,
    /// Bytes of payload per packet sent, normally 1200; numbers and retransmissions take a few of them.
    pub max_payload: usize,
    /// The most that may be sent; pictures larger than usual are spread by it.
    pub pace_kbps: u32,
    /// Normally [`REORDER_WAIT`].
    pub reorder_wait: Duration,
}

/// What a renewed offer and answer may change while the stream runs.
#[derive(Clone, Debug)]
pub struct VideoTerms {
    pub receive: Vec<(u8, VideoCodec)>,
    pub send_payload_type: u8,
    /// `None`: a codec nothing is sent in.
    pub send_format: Option<SendFormat>,
    /// From the peer's SDP, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    pub feedback: NegotiatedFeedback,
    pub retransmission: Retransmission,
    pub rtcp_mux: bool,
    pub pace_kbps: u32,
}

/// Figures of video besides [`StreamStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoCounters {
    pub units_received: u64,
    pub keys_received: u64,
    /// Yielded with `damaged` set.
    pub units_damaged: u64,
    /// Not yielded: no parameter sets or key frame yet, nothing usable in them, or nobody polled.
    pub units_dropped: u64,
    pub key_requests_sent: u64,
    pub key_requests_received: u64,
    /// Packets we asked for, and packets the peer asked for.
    pub asked: NackCounters,
    pub repeated: HistoryCounters,
    pub units_sent: u64,
    /// Mode 0: NAL units that fit no packet.
    pub nals_refused: u64,
    /// The pacer was full.
    pub units_unsent: u64,
    pub timestamp_jumps: u64,
    pub payload: Refused,
}

/// See the module.
#[derive(Debug)]
pub struct VideoStream {
    session: Session,
    receive: Vec<(u8, VideoCodec)>,
    feedback: NegotiatedFeedback,
    reorder: Reorder,
    reorder_wait: Duration,
    repair: Repair,
    bandwidth: Bandwidth,
    assembly: Assembly,
    asking: Asking,
    ask_by_signalling: bool,
    fir_sequence: u8,
    obeying: Obeying,
    payload_type: u8,
    send_format: Option<SendFormat>,
    packetizer: Option<Packetizer>,
    max_payload: usize,
    seed: u64,
    send_timeline: SendTimeline,
    pacer: Pacer,
    /// A unit was not sent whole: the peer cannot decode until the next key picture.
    sending_broken: bool,
    sent_to: Option<SocketAddr>,
}

/// Packets in order to units the decoder takes.
#[derive(Debug)]
struct Assembly {
    depacketizer: Depacketizer,
    /// Of the last unit.
    codec: Option<VideoCodec>,
    timeline: Timeline,
    /// Timestamp and first packet of the picture being received and of the one before.
    begun: [Option<(u32, Instant)>; 2],
    /// Since the last whole key picture something was lost, or there was none yet.
    broken: bool,
    /// A key picture is needed since the last look.
    wants_key: bool,
    got_key: bool,
    /// A key picture came, but not whole.
    missed_key: bool,
    units: VecDeque<AccessUnit>,
    counters: VideoCounters,
}

impl VideoStream {
    /// `seed`: for SSRC, first timestamp and report times; different for every stream.
    pub fn new(now: Instant, settings: VideoSettings, seed: u64) -> Self {
        let stream = StreamSettings { clock_rate: 90_000, ..settings.stream };
        let timeline = Timeline::new(stream.clock_rate, stream.epoch);
        let mut session = Session::new(now, stream, MISORDER_MAX, CHUNK_LEN, seed);
        let first_timestamp = session.random_timestamp();
        let epoch = session.settings().epoch;
        let mut depacketizer = Depacketizer::default();
        depacketizer.learn(settings.parameter_sets.iter().map(Vec::as_slice));
        let max_payload = room(settings.max_payload, settings.feedback);
        let mut stream = VideoStream {
            session,
            receive: settings.receive,
            feedback: settings.feedback,
            reorder: Reorder::new(settings.reorder_wait),
            reorder_wait: settings.reorder_wait,
            repair: Repair::new(settings.feedback, settings.retransmission, settings.pace_kbps),
            bandwidth: Bandwidth::new(epoch, settings.feedback, settings.pace_kbps),
            assembly: Assembly {
                depacketizer,
                codec: None,
                timeline,
                begun: [None; 2],
                broken: true,
                wants_key: false,
                got_key: false,
                missed_key: false,
                units: VecDeque::new(),
                counters: VideoCounters::default(),
            },
            asking: Asking::default(),
            ask_by_signalling: false,
            fir_sequence: 0,
            obeying: Obeying::default(),
            payload_type: settings.send_payload_type,
            send_format: settings.send_format,
            packetizer: settings.send_format.map(|format| Packetizer::new(format, max_payload, seed)),
            max_payload: settings.max_payload,
            seed,
            send_timeline: SendTimeline::new(90_000, first_timestamp),
            pacer: Pacer::new(settings.pace_kbps),
            sending_broken: false,
            sent_to: None,
        };
        stream.follow_feedback();
        stream
    }

    /// What the negotiated feedback means for packets and reports.
    fn follow_feedback(&mut self) {
        let NegotiatedFeedback { pli, fir, nack, tmmbr, remb, transport_cc } = self.feedback;
        let any = pli || fir || nack || tmmbr || remb || transport_cc.is_some();
        self.session.report_every(if any { FEEDBACK_INTERVAL } else { REPORT_INTERVAL });
        self.session.number_packets(transport_cc);
        self.session.expect_repeats(nack);
    }

    /// A datagram of the RTP socket.
    pub fn handle_rtp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        if packet::is_rtcp(bytes) {
            return self.handle_rtcp(now, source, bytes);
        }
        if let Some(id) = self.feedback.transport_cc
            && self.session.is_source(source)
            && let Some(number) = extension::number(bytes, id)
        {
            self.bandwidth.numbered(now, number);
        }
        let received = match self.repair.original_of(bytes) {
            Some(original) => self.session.receive_again(now, source, bytes, original),
            None => {
                let receive = &self.receive;
                let known = |kind| receive.iter().any(|(number, _)| *number == kind);
                let received = self.session.receive(now, source, bytes, known);
                if let Some(received) = received.filter(|received| received.known) {
                    self.bandwidth.arrived(now, received.packet.timestamp, bytes.len());
                }
                received
            }
        };
        if let Some(received) = received {
            self.take(now, received);
        }
    }

    fn take(&mut self, now: Instant, received: Received<'_>) {
        let assembly = &mut self.assembly;
        if received.restarted {
            self.reorder.restart(|piece| assembly.take(now, piece));
            assembly.restart(now);
            // The first packets: a key picture is asked for, whether or not they are one.
            assembly.wants_key = true;
            self.repair.restart();
        }
        if !self.repair.arrived(now, received.extended) {
            assembly.wants_key = true;
        }
        let packet = received.packet;
        let receive = &self.receive;
        let codec_of = |kind| receive.iter().find(|(number, _)| *number == kind).map(|(_, codec)| *codec);
        // One of an unknown payload type only holds its place.
        let (codec, payload) =
            codec_of(packet.payload_type).map_or_else(Default::default, |c| (c, packet.payload));
        let (timestamp, marker) = (packet.timestamp, packet.marker);
        let piece = Piece { codec, timestamp, marker, payload, after_gap: false };
        self.reorder.push(now, received.extended, piece, |piece| assembly.take(now, piece));
        self.after_receiving(now);
    }

    /// A datagram of the RTCP socket.
    pub fn handle_rtcp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let (obeying, counters) = (&mut self.obeying, &mut self.assembly.counters);
        let (repair, bandwidth) = (&mut self.repair, &mut self.bandwidth);
        let path = (self.session.ssrc(), self.session.round_trip());
        self.session.receive_rtcp(now, source, bytes, |feedback| match feedback {
            Feedback::Pli => {
                counters.key_requests_received += 1;
                obeying.asked(now);
            }
            Feedback::Fir { sequence } => {
                counters.key_requests_received += 1;
                obeying.asked_by_fir(now, sequence);
            }
            Feedback::Report(block) => bandwidth.reported(now, &block, repair.lost()),
            Feedback::Path(PathMessage::Nack { sequence }) => repair.want(sequence),
            Feedback::Path(message) => bandwidth.heard(now, message, path),
        });
        self.repair.answer(now, &mut self.session, |queued| {
            self.bandwidth.sent_again(now, queued.packet.len());
            self.bandwidth.sent(now, queued);
        });
        if self.bandwidth.has_answer() {
            self.bandwidth.tell(now, &mut self.session);
        }
    }

    /// The peer asked for a key picture by signalling (SIP INFO).
    pub fn handle_key_request(&mut self, now: Instant) {
        self.assembly.counters.key_requests_received += 1;
        self.obeying.asked(now);
    }

    /// Sends what is due: paced packets, reports, requests; gives up gaps.
    pub fn handle_time(&mut self, now: Instant) {
        let assembly = &mut self.assembly;
        self.reorder.handle_time(now, |piece| assembly.take(now, piece));
        self.obeying.handle_time(now);
        self.after_receiving(now);
        self.release(now);
        self.session.handle_time(now);
    }

    /// A moment on the sender's clock subtracted from the same moment here, as pictures are placed; in nanoseconds.
    pub fn clock_offset(&self) -> Option<i64> {
        let (pts, timestamp) = self.assembly.timeline.newest()?;
        Some(pts.nanos() - self.session.sender_time(timestamp, self.session.expected_clock_rate())?)
    }

    /// When [`VideoStream::handle_time`] is next needed.
    pub fn wake_at(&self) -> Instant {
        let others = [
            self.reorder.wake_at(),
            self.pacer.wake_at(),
            self.obeying.wake_at(),
            self.asking.wake_at().filter(|_| self.can_ask()),
            self.repair.wake_at().filter(|_| self.can_ask()),
            self.bandwidth.wake_at().filter(|_| self.can_ask()),
        ];
        others.into_iter().flatten().fold(self.session.wake_at(), Instant::min)
    }

    /// Datagrams to send.
    pub fn poll(&mut self) -> Option<Out> {
        self.session.poll()
    }

    /// Received pictures, parameter sets in front of every key.
    pub fn poll_unit(&mut self) -> Option<AccessUnit> {
        self.assembly.units.pop_front()
    }

    pub fn poll_event(&mut self) -> Option<SourceEvent> {
        self.session.poll_event()
    }

    /// Whether packets are authenticated before they come here from now on (SRTP).
    pub fn set_authentic(&mut self, authentic: bool) {
        self.session.set_authentic(authentic);
    }

    /// The decoder or the engine needs a key picture from the peer.
    pub fn request_key(&mut self, now: Instant) {
        self.asking.want(now);
        self.after_receiving(now);
    }

    /// Whether the peer wants a key picture from us; at most once a second.
    pub fn take_key_request(&mut self) -> bool {
        self.obeying.take()
    }

    /// Neither PLI nor FIR was negotiated: requests go by SIP INFO.
    pub fn wants_key_by_signalling(&self) -> bool {
        !self.feedback.pli && !self.feedback.fir
    }

    /// Whether the call should ask for a key picture by signalling now; already spaced and repeated.
    pub fn take_key_request_by_signalling(&mut self) -> bool {
        std::mem::take(&mut self.ask_by_signalling)
    }

    /// Queues one picture. What cannot be sent whole makes [`VideoStream::take_key_request`] true.
    pub fn send(&mut self, now: Instant, unit: &AccessUnit) {
        if !self.session.settings().sends {
            return;
        }
        // Coded before the terms changed: what follows begins with a key picture.
        if self.packetizer.as_ref().is_none_or(|packetizer| packetizer.codec() != unit.codec) {
            self.assembly.counters.units_unsent += 1;
            return;
        }
        let destination = self.session.destination();
        if destination.is_none() {
            self.assembly.counters.units_unsent += 1;
            return;
        }
        let elsewhere = destination != self.sent_to;
        self.sent_to = destination;
        if unit.key {
            self.sending_broken = false;
        } else if elsewhere {
            // Whoever begins to receive here cannot decode yet.
            self.obeying.asked(now);
        }
        if self.sending_broken || !self.pacer.has_room(unit.data.len()) {
            self.sending_broken = true;
            self.assembly.counters.units_unsent += 1;
            return self.obeying.asked(now);
        }
        let (timestamp, pts) = (self.send_timeline.timestamp(unit.pts), unit.pts);
        let pacer = &mut self.pacer;
        let refused = self.packetizer.as_mut().map_or(0, |packetizer| {
            packetizer.packetize(&unit.data, |payload| pacer.push(Paced { payload, timestamp, pts }))
        });
        self.assembly.counters.units_sent += 1;
        if refused > 0 {
            self.assembly.counters.nals_refused += refused as u64;
            self.obeying.asked(now);
        }
        self.release(now);
    }

    /// The bitrate the encoder is to be held to from now on, in kilobits a second; only when it changed.
    pub fn take_rate(&mut self, now: Instant) -> Option<u32> {
        let kbps = self.bandwidth.take_rate(now)?;
        self.pacer.set_rate(kbps);
        Some(kbps)
    }

    /// A new offer/answer moved the peer or the direction (hold, resume).
    pub fn redirect(
        &mut self,
        remote: Option<SocketAddr>,
        rtcp: Option<SocketAddr>,
        receives: bool,
        sends: bool,
    ) {
        // Nobody can decode what follows pictures that were never sent.
        self.sending_broken |= sends && !self.session.settings().sends;
        self.session.redirect(remote, rtcp, receives, sends);
    }

    /// A renewed offer and answer. Where packets look different from now on, sending goes on with a key picture.
    pub fn renegotiate(&mut self, terms: VideoTerms) {
        let room_before = room(self.max_payload, self.feedback);
        let room = room(self.max_payload, terms.feedback);
        let before = (self.payload_type, self.send_format, room_before);
        if (terms.send_payload_type, terms.send_format, room) != before {
            self.pacer.clear();
            self.sending_broken = true;
            self.send_format = terms.send_format;
            self.packetizer = terms.send_format.map(|format| Packetizer::new(format, room, self.seed));
        }
        self.payload_type = terms.send_payload_type;
        self.receive = terms.receive;
        self.feedback = terms.feedback;
        self.repair.renegotiate(terms.feedback, terms.retransmission);
        self.bandwidth.renegotiate(terms.feedback, terms.pace_kbps);
        self.follow_feedback();
        self.ask_by_signalling &= self.wants_key_by_signalling();
        self.assembly.depacketizer.learn(terms.parameter_sets.iter().map(Vec::as_slice));
        self.session.set_rtcp_mux(terms.rtcp_mux);
        self.pacer.set_rate(terms.pace_kbps);
        self.repair.set_rate(terms.pace_kbps);
    }

    /// Says goodbye in RTCP.
    pub fn close(&mut self, now: Instant) {
        self.session.report(now, Tail::Bye);
    }

    pub fn statistics(&self) -> StreamStatistics {
        let mut statistics = self.session.statistics();
        statistics.packets_late = self.reorder.late();
        statistics.malformed += self.assembly.depacketizer.refused().malformed;
        statistics
    }

    /// Cheaper than all of them.
    pub fn packets_received(&self) -> u64 {
        self.session.packets_received()
    }

    /// How much may be sent, and what that follows from.
    pub fn bandwidth(&self) -> BandwidthFigures {
        self.bandwidth.figures()
    }

    pub fn counters(&self) -> VideoCounters {
        let (asked, repeated) = self.repair.counters();
        VideoCounters {
            asked,
            repeated,
            payload: self.assembly.depacketizer.refused(),
            timestamp_jumps: self.assembly.timeline.jumps(),
            ..self.assembly.counters
        }
    }

    /// Our SSRC and the peer's.
    pub fn ssrcs(&self) -> (u32, Option<u32>) {
        (self.session.ssrc(), self.session.remote_ssrc())
    }

    fn can_ask(&self) -> bool {
        self.session.remote_ssrc().is_some() && self.session.settings().receives
    }

    fn after_receiving(&mut self, now: Instant) {
        self.repair.passed(self.reorder.next());
        self.reorder.set_wait(self.repair.patience().unwrap_or(self.reorder_wait));
        let assembly = &mut self.assembly;
        self.reorder.handle_time(now, |piece| assembly.take(now, piece));
        if self.can_ask() {
            self.repair.ask(now, &mut self.session);
            self.bandwidth.tell(now, &mut self.session);
        }
        if std::mem::take(&mut self.assembly.missed_key) {
            self.asking.missed(now);
        }
        if std::mem::take(&mut self.assembly.got_key) {
            self.asking.satisfied();
        }
        if std::mem::take(&mut self.assembly.wants_key) {
            self.asking.want(now);
        }
        let Some(media_ssrc) = self.session.remote_ssrc().filter(|_| self.session.settings().receives) else {
            return;
        };
        if !self.asking.due(now) {
            return;
        }
        self.assembly.counters.key_requests_sent += 1;
        if self.feedback.pli {
            self.session.feed_back(Tail::Pli { media_ssrc });
        } else if self.feedback.fir {
            self.fir_sequence = self.fir_sequence.wrapping_add(1);
            self.session.feed_back(Tail::Fir { media_ssrc, sequence: self.fir_sequence });
        } else {
            self.ask_by_signalling = true;
        }
    }

    fn release(&mut self, now: Instant) {
        let VideoStream { session, pacer, repair, bandwidth, payload_type, .. } = self;
        pacer.release(now, |Paced { payload, timestamp, pts }| {
            let header = SendHeader { marker: payload.marker, payload_type: *payload_type, timestamp };
            if let Some(queued) = session.send(now, header, pts, &payload.parts()) {
                repair.sent(now, &queued);
                bandwidth.sent(now, &queued);
            }
        });
    }
}

/// Bytes of payload left where packets are numbered or sent again in a stream of their own.
fn room(max_payload: usize, feedback: NegotiatedFeedback) -> usize {
    let numbered = if feedback.transport_cc.is_some() { extension::TRANSPORT_SEQUENCE_LEN } else { 0 };
    let again = if feedback.nack { size_of::<u16>() } else { 0 };
    max_payload.saturating_sub(numbered + again)
}

impl Assembly {
    fn take(&mut self, now: Instant, piece: Piece<'_>) {
        if piece.after_gap {
            self.broken = true;
            self.wants_key = true;
        }
        if self.begun[0].is_none_or(|(timestamp, _)| timestamp != piece.timestamp) {
            self.begun = [Some((piece.timestamp, now)), self.begun[0]];
        }
        let units = self.depacketizer.push(piece);
        units.into_iter().flatten().for_each(|unit| self.finish(now, unit));
    }

    fn finish(&mut self, now: Instant, unit: Unit) {
        let Unit { codec, data, timestamp, key, decodable, damaged, after_loss } = unit;
        self.counters.units_received += 1;
        self.broken |= damaged || after_loss;
        if self.codec.replace(codec).is_some_and(|before| before != codec) {
            self.broken = true;
        }
        if key && !damaged {
            self.broken = false;
            self.got_key = true;
            self.wants_key = false;
        } else if self.broken {
            self.wants_key = true;
            self.missed_key |= key;
        }
        self.counters.keys_received += u64::from(key);
        if data.is_empty() || !decodable || self.units.len() >= UNITS_MAX {
            self.counters.units_dropped += 1;
            self.broken = true;
            return;
        }
        let begun = self.begun.iter().flatten().find(|(begun, _)| *begun == timestamp);
        let pts = self.timeline.pts(begun.map_or(now, |(_, at)| *at), timestamp);
        self.counters.units_damaged += u64::from(self.broken);
        self.units.push_back(AccessUnit { codec, data, pts, key, damaged: self.broken });
    }

    /// The peer began a new stream: what is half built ends, and nothing is decodable until a key picture.
    fn restart(&mut self, now: Instant) {
        if let Some(unit) = self.depacketizer.flush() {
            self.finish(now, unit);
        }
        self.timeline.restart();
        self.broken = true;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::time::SystemTime;

    use super::*;
    use crate::base::time::{Clock, Pts};
    use crate::media::nal;
    use crate::rtp::packet::{Header, Packet, Writer};
    use crate::rtp::payload::h264::PacketizationMode;
    use crate::rtp::reach::Reach;
    use crate::rtp::rtcp::{self, Message};

    const SPS: [u8; 14] =
        [0x67, 0x42, 0xc0, 0x1e, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0, 0x44, 0x00, 0x00, 0x03];
    const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];
    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn peer() -> SocketAddr {
        at("192.0.2.1:4000")
    }

    fn settings(now: Instant) -> VideoSettings {
        VideoSettings {
            stream: StreamSettings {
                clock_rate: 90_000,
                cname: "eyeline".into(),
                remote: Some(peer()),
                remote_rtcp: Some(at("192.0.2.1:4001")),
                reach: Reach::default(),
                authentic: false,
                rtcp_mux: false,
                receives: true,
                sends: true,
                clock: Clock::new(now, SystemTime::UNIX_EPOCH),
                epoch: now,
            },
            receive: vec![(99, VideoCodec::H264)],
            send_payload_type: 97,
            send_format: Some(SendFormat::H264(PacketizationMode::NonInterleaved)),
            parameter_sets: Vec::new(),
            feedback: NegotiatedFeedback { pli: true, fir: true, ..Default::default() },
            retransmission: Retransmission::default(),
            max_payload: 1200,
            pace_kbps: 800,
            reorder_wait: REORDER_WAIT,
        }
    }

    fn slice(header: u8, len: usize, seed: u8) -> Vec<u8> {
        let mut unit: Vec<u8> = (0..len).map(|i| (i % 250) as u8 ^ seed | 1).collect();
        unit[0] = header;
        unit[1] |= 0x80;
        unit
    }

    /// A picture of `len` bytes in one slice.
    fn picture(key: bool, sets: bool, len: usize, pts: Pts) -> AccessUnit {
        let mut data = Vec::new();
        if sets {
            nal::push(&mut data, &SPS);
            nal::push(&mut data, &PPS);
        }
        nal::push(&mut data, &slice(if key { 0x65 } else { 0x41 }, len, 5));
        AccessUnit { codec: VideoCodec::H264, data: data.into(), pts, key, damaged: false }
    }

    /// A stream under test and a scripted peer.
    struct World {
        start: Instant,
        stream: VideoStream,
        writer: Writer,
        ssrc: u32,
        sequence: u16,
        timestamp: u32,
    }

    impl World {
        fn new(change: impl FnOnce(&mut VideoSettings)) -> World {
            let start = Instant::now();
            let mut settings = settings(start);
            change(&mut settings);
            let stream = VideoStream::new(start, settings, 42);
            World {
                start,
                stream,
                writer: Writer::new(4096),
                ssrc: 7,
                sequence: 60_000,
                timestamp: u32::MAX - 9000,
            }
        }

        fn now(&self, ms: u64) -> Instant {
            self.start + MS(ms)
        }

        /// The packets of the peer's next picture.
        fn packets(&mut self, unit: &AccessUnit) -> Vec<Bytes> {
            let format = SendFormat::H264(PacketizationMode::NonInterleaved);
            let mut packetizer = Packetizer::new(format, 1200, 0);
            let mut packets = Vec::new();
            self.timestamp = self.timestamp.wrapping_add(3600);
            packetizer.packetize(&unit.data, |payload| {
                let header = Header {
                    marker: payload.marker,
                    payload_type: 99,
                    sequence: self.sequence,
                    timestamp: self.timestamp,
                    ssrc: self.ssrc,
                };
                self.sequence = self.sequence.wrapping_add(1);
                packets.push(self.writer.write(&header, &payload.parts()));
            });
            packets
        }

        fn hear(&mut self, ms: u64, packets: &[Bytes]) {
            let now = self.now(ms);
            packets.iter().for_each(|packet| self.stream.handle_rtp(now, peer(), packet));
        }

        fn show(&mut self, ms: u64, unit: &AccessUnit) {
            let packets = self.packets(unit);
            self.hear(ms, &packets);
        }

        fn units(&mut self) -> Vec<AccessUnit> {
            std::iter::from_fn(|| self.stream.poll_unit()).collect()
        }

        /// Runs to `ms`, obeying `wake_at`; what left, with its millisecond.
        fn run(&mut self, from: u64, to: u64) -> Vec<(u64, Out)> {
            let mut out = Vec::new();
            let mut now = self.now(from);
            while now <= self.now(to) {
                self.stream.handle_time(now);
                let ms = (now - self.start).as_millis() as u64;
                out.extend(std::iter::from_fn(|| self.stream.poll()).map(|datagram| (ms, datagram)));
                let next = self.stream.wake_at();
                assert!(next > now, "wake_at stands still");
                now = next;
            }
            out
        }

        /// When key pictures were asked for.
        fn requests(out: &[(u64, Out)]) -> Vec<u64> {
            let mut times = Vec::new();
            for (ms, datagram) in out {
                if let Out::Rtcp(_, bytes) = datagram {
                    let asks = |message| {
                        matches!(message, Message::Pli { media_ssrc: 7 } | Message::Fir { ssrc: 7, .. })
                    };
                    rtcp::read(bytes, |message| {
                        if asks(message) {
                            times.push(*ms)
                        }
                    });
                }
            }
            times
        }
    }

    #[test]
    fn pictures_arrive_whole_in_order_and_on_the_media_clock() {
        let mut world = World::new(|_| {});
        for n in 0..30u64 {
            world.show(100 + n * 40, &picture(n == 0, n == 0, 3000, Pts::ZERO));
        }
        let units = world.units();
        assert_eq!(units.len(), 30);
        assert!(units[0].key && units.iter().all(|unit| !unit.damaged));
        assert_eq!(units[29].pts.millis(), 100 + 29 * 40);
        assert_eq!(world.stream.poll_event(), Some(SourceEvent::Locked(peer())));
    }

    #[test]
    fn a_key_picture_of_a_thousand_packets_in_bad_order_assembles() {
        let mut world = World::new(|_| {});
        let unit = picture(true, true, 1_190_000, Pts::ZERO);
        let mut packets = world.packets(&unit);
        assert!(packets.len() > 990);
        packets[10..].chunks_exact_mut(7).for_each(<[Bytes]>::reverse);
        for (n, packet) in packets.iter().enumerate() {
            world.hear(100 + n as u64 / 20, std::slice::from_ref(packet));
        }
        let units = world.units();
        assert_eq!(units.len(), 1);
        assert!(units[0].key && !units[0].damaged && units[0].data == unit.data);
    }

    #[test]
    fn parameter_sets_stand_in_front_of_every_key_picture() {
        let mut world = World::new(|settings| settings.parameter_sets = vec![SPS.to_vec(), PPS.to_vec()]);
        world.show(100, &picture(true, false, 500, Pts::ZERO));
        let units = world.units();
        let mut sets = Vec::new();
        [&SPS[..], &PPS].iter().for_each(|set| nal::push(&mut sets, set));
        assert!(units[0].key && nal::parameter_sets(&units[0].data) == Some(sets));
        let mut without = World::new(|_| {});
        without.show(100, &picture(true, false, 500, Pts::ZERO));
        assert!(without.units().is_empty(), "nothing a decoder could use");
        without.show(140, &picture(true, true, 500, Pts::ZERO));
        without.show(180, &picture(true, false, 500, Pts::ZERO));
        assert!(without.units().iter().all(|unit| unit.key && nal::parameter_sets(&unit.data).is_some()));
    }

    #[test]
    fn after_loss_pictures_are_damaged_and_a_key_picture_is_asked_for_until_one_comes() {
        let mut world = World::new(|_| {});
        world.show(100, &picture(true, true, 3000, Pts::ZERO));
        world.run(100, 1000);
        world.units();
        let packets = world.packets(&picture(false, false, 5000, Pts::ZERO));
        world.hear(1000, &[&packets[..2], &packets[3..]].concat());
        let out = world.run(1001, 9000);
        assert_eq!(World::requests(&out), [1050, 1550, 2050, 3050, 4050, 5050, 6050, 7050, 8050]);
        world.show(9000, &picture(false, false, 500, Pts::ZERO));
        let units = world.units();
        assert!(units.len() == 2 && units.iter().all(|unit| unit.damaged && !unit.key));
        world.show(9040, &picture(true, true, 3000, Pts::ZERO));
        world.show(9080, &picture(false, false, 500, Pts::ZERO));
        assert!(world.units().iter().all(|unit| !unit.damaged));
        assert!(World::requests(&world.run(9081, 30_000)).is_empty());
    }

    #[test]
    fn a_stream_joined_in_the_middle_asks_at_once() {
        for feedback in [
            NegotiatedFeedback { pli: true, ..Default::default() },
            NegotiatedFeedback { fir: true, ..Default::default() },
        ] {
            let mut world = World::new(|settings| {
                settings.feedback = feedback;
                settings.parameter_sets = vec![SPS.to_vec(), PPS.to_vec()];
            });
            world.show(100, &picture(false, false, 500, Pts::ZERO));
            let out = world.run(100, 3000);
            assert_eq!(World::requests(&out), [100, 600, 1100, 2100], "{feedback:?}");
            assert!(world.units().iter().all(|unit| unit.damaged));
        }
    }

    #[test]
    fn without_feedback_requests_go_by_signalling() {
        let mut world = World::new(|settings| settings.feedback = NegotiatedFeedback::default());
        assert!(world.stream.wants_key_by_signalling());
        world.show(100, &picture(false, false, 500, Pts::ZERO));
        assert!(world.stream.take_key_request_by_signalling());
        assert!(!world.stream.take_key_request_by_signalling());
        assert!(World::requests(&world.run(100, 599)).is_empty());
        assert!(!world.stream.take_key_request_by_signalling());
        world.run(600, 700);
        assert!(world.stream.take_key_request_by_signalling());
    }

    #[test]
    fn a_storm_of_requests_yields_one_key_picture_a_second() {
        let mut world = World::new(|_| {});
        world.show(0, &picture(true, true, 500, Pts::ZERO));
        let own = world.stream.ssrcs().0;
        let mut obeyed = 0;
        for ms in 0..5000u64 {
            let tail = if ms % 2 == 0 {
                Tail::Pli { media_ssrc: own }
            } else {
                Tail::Fir { media_ssrc: own, sequence: (ms / 2) as u8 }
            };
            let storm = rtcp::write(7, None, None, "peer", tail);
            world.stream.handle_rtcp(world.now(ms), at("192.0.2.1:4001"), &storm);
            obeyed += u32::from(world.stream.take_key_request());
        }
        assert!((4..=5).contains(&obeyed), "{obeyed}");
        assert_eq!(world.stream.counters().key_requests_received, 5000);
        world.stream.handle_rtcp(
            world.now(9000),
            at("203.0.113.5:4001"),
            &rtcp::write(7, None, None, "x", Tail::Pli { media_ssrc: own }),
        );
        assert!(!world.stream.take_key_request(), "a stranger is not obeyed");
    }

    #[test]
    fn a_new_source_at_the_same_address_is_followed() {
        let mut world = World::new(|_| {});
        world.show(100, &picture(true, true, 3000, Pts::ZERO));
        world.show(140, &picture(false, false, 3000, Pts::ZERO));
        (world.ssrc, world.sequence, world.timestamp) = (8, 100, 5);
        world.show(180, &picture(true, true, 3000, Pts::ZERO));
        world.show(220, &picture(false, false, 3000, Pts::ZERO));
        let units = world.units();
        assert_eq!(units.len(), 4);
        assert!(units.iter().all(|unit| !unit.damaged));
        assert!(units.windows(2).all(|pair| pair[1].pts > pair[0].pts));
        let statistics = world.stream.statistics();
        assert_eq!((statistics.source_changes, statistics.packets_lost), (1, 0));
    }

    #[test]
    fn packets_of_other_payload_types_and_padding_leave_no_gap() {
        let mut world = World::new(|_| {});
        world.show(100, &picture(true, true, 500, Pts::ZERO));
        for payload_type in [100, 99] {
            let header =
                Header { marker: true, payload_type, sequence: world.sequence, timestamp: 1, ssrc: 7 };
            world.sequence = world.sequence.wrapping_add(1);
            let packet = world.writer.write(&header, &[]);
            world.hear(120, &[packet]);
        }
        world.show(140, &picture(false, false, 500, Pts::ZERO));
        assert!(world.units().iter().all(|unit| !unit.damaged));
        assert_eq!(world.stream.statistics().unknown_payload_type, 1);
    }

    #[test]
    fn a_stranger_changes_nothing_before_and_after_the_lock() {
        let mut world = World::new(|_| {});
        let hijack = |world: &mut World, ms: u64| {
            let header =
                Header { marker: true, payload_type: 99, sequence: (ms / 20) as u16, timestamp: 9, ssrc: 7 };
            let packet = world.writer.write(&header, &[&slice(0x65, 100, 1)]);
            let now = world.now(ms);
            world.stream.handle_rtp(now, at("203.0.113.5:4000"), &packet);
        };
        for ms in (0..400).step_by(20) {
            hijack(&mut world, ms);
        }
        assert_eq!(world.stream.statistics().packets_received, 0);
        world.show(400, &picture(true, true, 500, Pts::ZERO));
        for ms in (400..4000).step_by(20) {
            hijack(&mut world, ms);
        }
        assert_eq!(world.units().len(), 1);
        world.stream.send(world.now(4000), &picture(true, true, 500, Pts::ZERO));
        let to: Vec<_> = world
            .run(4000, 9000)
            .into_iter()
            .map(|(_, out)| match out {
                Out::Rtp(to, _) | Out::Rtcp(to, _) => to.ip(),
            })
            .collect();
        assert!(!to.is_empty() && to.iter().all(|ip| *ip == peer().ip()));
        assert_eq!(world.stream.statistics().foreign_packets, 200);
    }

    #[test]
    fn sent_pictures_arrive_whole_at_another_stream_and_reports_give_the_round_trip() {
        let mut world = World::new(|_| {});
        let mut other = VideoStream::new(
            world.start,
            VideoSettings { receive: vec![(97, VideoCodec::H264)], ..settings(world.start) },
            1,
        );
        let sent: Vec<AccessUnit> = (0..50u64)
            .map(|n| {
                picture(
                    n % 25 == 0,
                    n % 25 == 0,
                    if n % 25 == 0 { 90_000 } else { 2500 },
                    Pts::from_millis(n as i64 * 40),
                )
            })
            .collect();
        let mut got = Vec::new();
        for ms in 0..12_000u64 {
            let now = world.now(ms);
            if ms % 40 == 0
                && let Some(unit) = sent.get(ms as usize / 40)
            {
                world.stream.send(now, unit);
            }
            world.stream.handle_time(now);
            other.handle_time(now);
            let cross = |from: &mut VideoStream, to: &mut VideoStream| {
                while let Some(out) = from.poll() {
                    match out {
                        Out::Rtp(_, bytes) => to.handle_rtp(now, peer(), &bytes),
                        Out::Rtcp(_, bytes) => to.handle_rtcp(now, peer(), &bytes),
                    }
                }
            };
            cross(&mut world.stream, &mut other);
            cross(&mut other, &mut world.stream);
            got.extend(std::iter::from_fn(|| other.poll_unit()));
        }
        assert_eq!(got.len(), 50);
        assert!(
            got.iter()
                .zip(&sent)
                .all(|(got, sent)| got.data == sent.data && got.key == sent.key && !got.damaged)
        );
        let steps: Vec<i64> = got.windows(2).map(|pair| (pair[1].pts - pair[0].pts) / 1_000_000).collect();
        assert!(steps.iter().all(|step| (39..=41).contains(step)), "{steps:?}");
        let statistics = world.stream.statistics();
        assert_eq!(statistics.remote_lost_fraction, Some(0.0));
        assert!(statistics.round_trip_ms.is_some_and(|ms| ms < 5.0), "{:?}", statistics.round_trip_ms);
    }

    #[test]
    fn the_first_report_is_early_and_the_others_about_five_seconds_apart() {
        let mut world = World::new(|settings| settings.feedback = NegotiatedFeedback::default());
        world.stream.send(world.now(0), &picture(true, true, 500, Pts::ZERO));
        let reports: Vec<u64> = world
            .run(0, 120_000)
            .into_iter()
            .filter_map(|(ms, out)| matches!(out, Out::Rtcp(..)).then_some(ms))
            .collect();
        assert!(reports[0] <= 500);
        assert!((16..=36).contains(&reports.len()), "{}", reports.len());
        let gaps: Vec<u64> = reports.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (2500..=7500).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn a_goodbye_of_the_peer_ends_nothing() {
        let mut world = World::new(|_| {});
        world.show(100, &picture(true, true, 500, Pts::ZERO));
        world.stream.handle_rtcp(
            world.now(110),
            at("192.0.2.1:4001"),
            &rtcp::write(7, None, None, "x", Tail::Bye),
        );
        world.show(140, &picture(false, false, 500, Pts::ZERO));
        assert_eq!(world.units().len(), 2);
        let events: Vec<_> = std::iter::from_fn(|| world.stream.poll_event()).collect();
        assert_eq!(events, [SourceEvent::Locked(peer()), SourceEvent::Bye]);
    }

    #[test]
    fn whoever_begins_to_receive_gets_a_key_picture() {
        let mut world = World::new(|settings| {
            settings.stream.remote = None;
            settings.stream.reach.signalling = Some(peer().ip());
        });
        world.stream.send(world.now(0), &picture(true, true, 500, Pts::ZERO));
        assert_eq!(world.stream.counters().units_unsent, 1);
        for n in 0..5 {
            world.show(100 + n * 20, &picture(n == 0, n == 0, 500, Pts::ZERO));
        }
        world.stream.send(world.now(300), &picture(false, false, 500, Pts::ZERO));
        assert!(world.stream.take_key_request());
        world.stream.send(world.now(2000), &picture(false, false, 500, Pts::ZERO));
        assert!(!world.stream.take_key_request());
    }

    #[test]
    fn mode_0_that_cannot_send_a_slice_asks_the_encoder_for_a_key_picture() {
        let mut world = World::new(|settings| {
            settings.send_format = Some(SendFormat::H264(PacketizationMode::SingleNal))
        });
        world.stream.send(world.now(0), &picture(true, true, 900, Pts::ZERO));
        assert!(!world.stream.take_key_request());
        world.stream.send(world.now(40), &picture(false, false, 5000, Pts::from_millis(40)));
        assert!(world.stream.take_key_request());
        assert_eq!(world.stream.counters().nals_refused, 1);
        assert!(world.run(41, 42).iter().all(|(_, out)| match out {
            Out::Rtp(_, bytes) => Packet::parse(bytes).is_some(),
            Out::Rtcp(..) => true,
        }));
    }

    #[test]
    fn renewed_terms_are_followed_from_the_next_key_picture() {
        let mut world = World::new(|_| {});
        world.stream.send(world.now(0), &picture(true, true, 40_000, Pts::ZERO));
        let terms = VideoTerms {
            receive: vec![(99, VideoCodec::H264), (104, VideoCodec::H264)],
            send_payload_type: 104,
            send_format: Some(SendFormat::H264(PacketizationMode::SingleNal)),
            parameter_sets: Vec::new(),
            feedback: NegotiatedFeedback::default(),
            retransmission: Retransmission::default(),
            rtcp_mux: true,
            pace_kbps: 800,
        };
        while world.stream.poll().is_some() {}
        world.stream.renegotiate(terms);
        world.stream.send(world.now(40), &picture(false, false, 500, Pts::from_millis(40)));
        world.stream.send(world.now(80), &picture(true, true, 500, Pts::from_millis(80)));
        let kinds: Vec<_> = world
            .run(81, 300)
            .iter()
            .filter_map(|(_, out)| match out {
                Out::Rtp(_, bytes) => Packet::parse(bytes).map(|p| (p.payload_type, p.payload[0] & 31)),
                Out::Rtcp(..) => None,
            })
            .collect();
        assert_eq!(kinds, [(104, 7), (104, 8), (104, 5)], "nothing of before, and a key picture first");
    }

    #[test]
    fn after_a_hold_sending_goes_on_with_a_key_picture() {
        let mut world = World::new(|_| {});
        world.stream.send(world.now(0), &picture(true, true, 500, Pts::ZERO));
        let remote = Some(peer());
        world.stream.redirect(remote, None, true, false);
        world.stream.send(world.now(40), &picture(false, false, 500, Pts::from_millis(40)));
        world.stream.redirect(remote, None, true, true);
        while world.stream.poll().is_some() {}
        world.stream.send(world.now(80), &picture(false, false, 500, Pts::from_millis(80)));
        assert!(world.run(81, 90).iter().all(|(_, out)| matches!(out, Out::Rtcp(..))));
        assert!(world.stream.take_key_request(), "the encoder is asked for one");
        world.stream.send(world.now(120), &picture(true, true, 500, Pts::from_millis(120)));
        assert!(world.run(121, 130).iter().any(|(_, out)| matches!(out, Out::Rtp(..))));
    }

    #[test]
    fn mutated_datagrams_never_panic_and_memory_stays_bounded() {
        let mut random = StdRng::seed_from_u64(13);
        let mut world = World::new(|_| {});
        let report = rtcp::write(7, None, None, "peer", Tail::Pli { media_ssrc: 1 });
        for round in 0..6_000u64 {
            let unit = picture(round % 10 == 0, round % 10 == 0, random.random_range(2..6000), Pts::ZERO);
            let mut packets = world.packets(&unit);
            packets.push(report.clone());
            for packet in packets {
                let mut bytes = packet.to_vec();
                for _ in 0..random.random_range(0..3) {
                    let at = random.random_range(0..bytes.len().min(24));
                    bytes[at] = random.random();
                }
                bytes.truncate(
                    bytes.len() - random.random_range(0..bytes.len()) * usize::from(round % 9 == 0),
                );
                let now = world.now(round * 7);
                world.stream.handle_rtp(now, peer(), &bytes);
                world.stream.handle_rtcp(now, peer(), &bytes);
                world.stream.handle_time(now);
            }
            if round % 100 == 0 {
                assert!(world.units().len() <= UNITS_MAX);
                while world.stream.poll().is_some() {}
            }
        }
        assert!(world.stream.statistics().malformed > 0);
    }
}
