//! One H.264 stream in both directions.
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
//! Sources and reports are `session`, order is `reorder`, packets to units `payload::h264`; decoding is elsewhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};

use crate::media::access_unit::AccessUnit;
use crate::rtp::key_request::{Asking, Obeying};
use crate::rtp::pacer::{Paced, Pacer};
use crate::rtp::packet;
use crate::rtp::payload::h264::{Depacketizer, PacketizationMode, Packetizer, Refused, Unit};
use crate::rtp::reorder::{Piece, Reorder};
use crate::rtp::rtcp::Tail;
use crate::rtp::session::{
    Feedback, Out, SendHeader, Session, SourceEvent, StreamSettings, StreamStatistics,
};
use crate::rtp::timeline::{SendTimeline, Timeline};

/// How long a gap waits for late packets when the peer does not send lost ones again.
pub const REORDER_WAIT: Duration = Duration::from_millis(50);
/// Retransmitted packets may come this far behind.
const MISORDER_MAX: u16 = 500;
const CHUNK_LEN: usize = 64 << 10;
/// Units waiting to be polled.
const UNITS_MAX: usize = 64;

/// RTCP feedback negotiated with the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NegotiatedFeedback {
    pub pli: bool,
    pub fir: bool,
    pub nack: bool,
}

/// What one video stream needs to know.
#[derive(Clone, Debug)]
pub struct VideoSettings {
    /// The clock rate is 90,000.
    pub stream: StreamSettings,
    /// Payload types taken.
    pub receive: Vec<u8>,
    pub send_payload_type: u8,
    pub send_mode: PacketizationMode,
    /// From the peer's SDP, without start codes.
    pub parameter_sets: Vec<Vec<u8>>,
    pub feedback: NegotiatedFeedback,
    /// Bytes of payload per packet sent, normally 1200.
    pub max_payload: usize,
    /// Mean bitrate sent; pictures larger than usual are spread by it.
    pub pace_kbps: u32,
    /// Normally [`REORDER_WAIT`].
    pub reorder_wait: Duration,
}

/// Figures of video besides [`StreamStatistics`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoCounters {
    pub units_received: u64,
    pub keys_received: u64,
    /// Yielded with `damaged` set.
    pub units_damaged: u64,
    /// Not yielded: no parameter sets yet, nothing usable in them, or nobody polled.
    pub units_dropped: u64,
    pub key_requests_sent: u64,
    pub key_requests_received: u64,
    pub nacks_received: u64,
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
    receive: Vec<u8>,
    feedback: NegotiatedFeedback,
    reorder: Reorder,
    assembly: Assembly,
    asking: Asking,
    ask_by_signalling: bool,
    fir_sequence: u8,
    obeying: Obeying,
    payload_type: u8,
    packetizer: Packetizer,
    send_timeline: SendTimeline,
    pacer: Pacer,
    /// A unit was not sent whole: the peer cannot decode until the next key picture.
    sending_broken: bool,
}

/// Packets in order to units the decoder takes.
#[derive(Debug)]
struct Assembly {
    depacketizer: Depacketizer,
    timeline: Timeline,
    /// Since the last whole key picture something was lost, or there was none yet.
    broken: bool,
    /// A key picture is needed since the last look.
    wants_key: bool,
    got_key: bool,
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
        VideoStream {
            session,
            receive: settings.receive,
            feedback: settings.feedback,
            reorder: Reorder::new(settings.reorder_wait),
            assembly: Assembly {
                depacketizer: Depacketizer::new(settings.parameter_sets.iter().map(Vec::as_slice)),
                timeline,
                broken: true,
                wants_key: false,
                got_key: false,
                units: VecDeque::new(),
                counters: VideoCounters::default(),
            },
            asking: Asking::default(),
            ask_by_signalling: false,
            fir_sequence: 0,
            obeying: Obeying::default(),
            payload_type: settings.send_payload_type,
            packetizer: Packetizer { mode: settings.send_mode, max_payload: settings.max_payload },
            send_timeline: SendTimeline::new(90_000, first_timestamp),
            pacer: Pacer::new(settings.pace_kbps),
            sending_broken: false,
        }
    }

    /// A datagram of the RTP socket.
    pub fn handle_rtp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        if packet::is_rtcp(bytes) {
            return self.handle_rtcp(now, source, bytes);
        }
        let Some(received) = self.session.receive(now, source, bytes, |kind| self.receive.contains(&kind))
        else {
            return;
        };
        let assembly = &mut self.assembly;
        if received.restarted {
            self.reorder.restart(|piece| assembly.take(now, piece));
            assembly.restart(now);
            // The first packets: a key picture is asked for, whether or not they are one.
            assembly.wants_key = true;
        }
        let packet = received.packet;
        let payload = if received.known { packet.payload } else { &[] };
        let part = (packet.timestamp, packet.marker, payload);
        self.reorder.push(now, received.extended, part, |piece| assembly.take(now, piece));
        self.after_receiving(now);
    }

    /// A datagram of the RTCP socket.
    pub fn handle_rtcp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let (obeying, counters) = (&mut self.obeying, &mut self.assembly.counters);
        self.session.receive_rtcp(now, source, bytes, |feedback| match feedback {
            Feedback::Pli => {
                counters.key_requests_received += 1;
                obeying.asked(now);
            }
            Feedback::Fir { sequence } => {
                counters.key_requests_received += 1;
                obeying.asked_by_fir(now, sequence);
            }
            Feedback::Nack { .. } => counters.nacks_received += 1,
        });
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

    /// When [`VideoStream::handle_time`] is next needed.
    pub fn wake_at(&self) -> Instant {
        let others = [
            self.reorder.wake_at(),
            self.pacer.wake_at(),
            self.obeying.wake_at(),
            self.asking.wake_at().filter(|_| self.can_ask()),
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
        if unit.key {
            self.sending_broken = false;
        }
        if self.sending_broken || !self.pacer.has_room(unit.data.len()) {
            self.sending_broken = true;
            self.assembly.counters.units_unsent += 1;
            return self.obeying.asked(now);
        }
        let (timestamp, pts) = (self.send_timeline.timestamp(unit.pts), unit.pts);
        let pacer = &mut self.pacer;
        let refused =
            self.packetizer.packetize(&unit.data, |payload| pacer.push(Paced { payload, timestamp, pts }));
        self.assembly.counters.units_sent += 1;
        if refused > 0 {
            self.assembly.counters.nals_refused += refused as u64;
            self.obeying.asked(now);
        }
        self.release(now);
    }

    /// The encoder's bitrate changed.
    pub fn set_pace(&mut self, kbps: u32) {
        self.pacer.set_rate(kbps);
    }

    /// A new offer/answer moved the peer or the direction (hold, resume).
    pub fn redirect(
        &mut self,
        remote: Option<SocketAddr>,
        rtcp: Option<SocketAddr>,
        receives: bool,
        sends: bool,
    ) {
        self.session.redirect(remote, rtcp, receives, sends);
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

    pub fn counters(&self) -> VideoCounters {
        VideoCounters {
            payload: self.assembly.depacketizer.refused(),
            timestamp_jumps: self.assembly.timeline.jumps(),
            ..self.assembly.counters
        }
    }

    /// The parameter sets last heard of, Annex B; empty when there are none.
    pub fn parameter_sets(&self) -> Vec<u8> {
        self.assembly.depacketizer.parameter_sets().annexb()
    }

    /// Our SSRC and the peer's.
    pub fn ssrcs(&self) -> (u32, Option<u32>) {
        (self.session.ssrc(), self.session.remote_ssrc())
    }

    fn can_ask(&self) -> bool {
        self.session.remote_ssrc().is_some() && self.session.settings().receives
    }

    fn after_receiving(&mut self, now: Instant) {
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
            self.session.report(now, Tail::Pli { media_ssrc });
        } else if self.feedback.fir {
            self.fir_sequence = self.fir_sequence.wrapping_add(1);
            self.session.report(now, Tail::Fir { media_ssrc, sequence: self.fir_sequence });
        } else {
            self.ask_by_signalling = true;
        }
    }

    fn release(&mut self, now: Instant) {
        let (session, payload_type) = (&mut self.session, self.payload_type);
        self.pacer.release(now, |Paced { payload, timestamp, pts }| {
            let header = SendHeader { marker: payload.marker, payload_type, timestamp };
            session.send(now, header, pts, &payload.parts());
        });
    }
}

impl Assembly {
    fn take(&mut self, now: Instant, piece: Piece<'_>) {
        if piece.after_gap {
            self.broken = true;
            self.wants_key = true;
        }
        let Assembly { depacketizer, .. } = self;
        // A packet completes two units at most: the one before it and its own.
        let mut done = [None, None];
        depacketizer.push(piece, |unit| {
            let place = usize::from(done[0].is_some());
            done[place] = Some(unit);
        });
        done.into_iter().flatten().for_each(|unit| self.finish(now, unit));
    }

    fn finish(&mut self, now: Instant, unit: Unit) {
        self.counters.units_received += 1;
        self.broken |= unit.damaged || unit.after_loss;
        let sets_known = self.depacketizer.parameter_sets().complete();
        let key = unit.idr && sets_known && !unit.data.is_empty();
        if key && !unit.damaged {
            self.broken = false;
            self.got_key = true;
            self.wants_key = false;
        } else if self.broken {
            self.wants_key = true;
        }
        self.counters.keys_received += u64::from(key);
        if unit.data.is_empty() || !sets_known || self.units.len() >= UNITS_MAX {
            self.counters.units_dropped += 1;
            self.broken = true;
            return;
        }
        let data = if key && !(unit.has_sps && unit.has_pps) {
            let sets = self.depacketizer.parameter_sets().annexb();
            let mut whole = BytesMut::with_capacity(sets.len() + unit.data.len());
            whole.put_slice(&sets);
            whole.put_slice(&unit.data);
            whole.freeze()
        } else {
            unit.data
        };
        let pts = self.timeline.pts(now, unit.timestamp);
        self.counters.units_damaged += u64::from(self.broken);
        self.units.push_back(AccessUnit { data, pts, key, damaged: self.broken });
    }

    /// The peer began a new stream: what is half built ends, and nothing is decodable until a key picture.
    fn restart(&mut self, now: Instant) {
        let mut last = None;
        self.depacketizer.flush(|unit| last = Some(unit));
        if let Some(unit) = last {
            self.finish(now, unit);
        }
        self.timeline.restart();
        self.broken = true;
    }
}
