//! The video stream of one call in its network task: packets to the decoder's thread, coded pictures to packets, and
//! key pictures asked for in both directions.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::queue::{Gop, Offered, Receiver, Sender};
use crate::base::time::Pts;
use crate::engine::coding::Coder;
use crate::engine::network::BEAT;
use crate::engine::network::figures::stream_report;
use crate::engine::network::guard::{Guard, Port};
use crate::engine::network::sockets::{Bell, Sockets};
use crate::engine::plan::{
    Direction, PacketizationMode, PathReport, StreamReport, VideoCodec, VideoStream as VideoStreamPlan,
};
use crate::engine::report::Gauges;
use crate::engine::steering::Steering;
use crate::media::access_unit::AccessUnit;
use crate::rtp::payload::SendFormat;
use crate::rtp::payload::h264::PacketizationMode as SendMode;
use crate::rtp::video::{VideoStream, VideoTerms};

/// The packets of a picture come together: after the first, the rest is read at the next half beat, which is at least
/// so far away. Waking up costs more than reading a packet.
const GATHER: Duration = Duration::from_millis(2);

/// When the RTP socket is read.
pub struct Inlet {
    bell: Bell,
    /// Packets are being gathered and are read then; `None`: the bell tells.
    read_at: Option<Instant>,
}

impl Inlet {
    pub fn new(bell: Bell) -> Self {
        Inlet { bell, read_at: None }
    }

    pub fn read_at(&self) -> Option<Instant> {
        self.read_at
    }

    /// Something came; for ever while packets are gathered.
    pub async fn rung(&self) {
        match self.read_at {
            None => self.bell.rung().await,
            Some(_) => pending().await,
        }
    }
}

/// The video stream of one call. Dropping it ends its threads.
pub struct VideoPart {
    pub sockets: Sockets,
    pub guard: Guard,
    pub inlet: Inlet,
    pub machine: VideoStream,
    /// When the first packet came, on the call's clock.
    pub first_ms: Option<u64>,
    pub stream: VideoStreamPlan,
    pub decoder: Sender<AccessUnit, Gop>,
    /// `None`: the encoder ended.
    pub encoded: Option<Receiver<AccessUnit, Gop>>,
    pub steering: Steering,
    /// Set by the decoder: it needs a key picture.
    pub key_needed: Arc<AtomicBool>,
    pub recorder: Option<Sender<AccessUnit, Gop>>,
    /// A key picture of H.264 went to the recorder: what follows can be decoded from the file. Other codecs are not
    /// copied: the recorder gets their pictures from the thread that decodes them.
    pub recorded: bool,
    /// The decoder's thread has ended before its time.
    pub blind: bool,
    /// Pictures are moved by this, in nanoseconds, to where their sound is.
    pub shift: i64,
    /// What is left between both, when the peer's reports tell.
    pub skew_ms: Option<f64>,
}

/// What a renewed offer and answer make of a running stream.
pub struct VideoChange {
    pub stream: VideoStreamPlan,
    pub pace_kbps: u32,
    /// Where pictures must be coded differently.
    pub coder: Option<Coder>,
}

impl VideoPart {
    /// Whether pictures may flow, either way.
    pub fn is_active(&self) -> bool {
        self.stream.route.direction != Direction::Inactive
    }

    pub fn receives(&self) -> bool {
        self.stream.route.direction.receives()
    }

    pub fn report(&self) -> StreamReport {
        StreamReport {
            path: Some(self.path()),
            skew_ms: self.skew_ms,
            ..stream_report(&self.machine.statistics(), self.first_ms, &self.guard)
        }
    }

    /// Reads what came, until nothing more comes or a picture is whole.
    pub fn read(&mut self, now: Instant, next_beat: Instant, gauges: &Gauges) {
        let VideoPart { sockets, guard, machine, .. } = self;
        let before = machine.counters().units_received;
        let any = sockets.read_rtp(|at, source, bytes| {
            if let Some(plain) = guard.receive(at, Port::Rtp, source, bytes) {
                machine.handle_rtp(at, source, plain);
            }
        });
        let whole = machine.counters().units_received != before;
        self.follow();
        self.settle(now, gauges);
        if any && !whole {
            let half_beats = [next_beat.checked_sub(BEAT / 2), Some(next_beat)];
            let next = half_beats.into_iter().flatten().find(|at| *at >= now + GATHER);
            self.inlet.read_at = Some(next.unwrap_or(next_beat + BEAT / 2));
        } else {
            self.inlet.read_at = None;
            self.inlet.bell.arm(&self.sockets);
        }
    }

    pub fn read_rtcp(&mut self, now: Instant, gauges: &Gauges) {
        let VideoPart { sockets, guard, machine, .. } = self;
        sockets.read_rtcp(|at, source, bytes| {
            if let Some(plain) = guard.receive(at, Port::Rtcp, source, bytes) {
                machine.handle_rtcp(at, source, plain);
            }
        });
        self.follow();
        self.settle(now, gauges);
    }

    /// Does what is due.
    pub fn handle_time(&mut self, now: Instant, gauges: &Gauges) {
        self.guard.handle_time(now);
        self.follow();
        if now >= self.machine.wake_at() {
            self.machine.handle_time(now);
            // A reorder wait that ran out may have completed a picture.
            self.settle(now, gauges);
        }
    }

    pub fn wake_at(&self) -> Instant {
        let others = [self.guard.wake_at(), self.inlet.read_at()];
        others.into_iter().flatten().fold(self.machine.wake_at(), Instant::min)
    }

    /// Sends whatever is ready.
    pub fn flush(&mut self) {
        // The end of a handshake before what its keys protect: the peer could not read that.
        while let Some((port, to, bytes)) = self.guard.poll() {
            self.sockets.send_raw(port, to, &bytes);
        }
        while let Some(out) = self.machine.poll() {
            self.sockets.send(&out, &mut self.guard);
        }
    }

    /// Says goodbye.
    pub fn close(&mut self, now: Instant) {
        self.machine.close(now);
        self.flush();
        self.guard.close(now);
        self.flush();
    }

    /// Media goes where, and when, the guard lets it; whoever begins to see it needs a key picture.
    fn follow(&mut self) {
        if self.guard.take_change() {
            let (remote, rtcp) = self.guard.remotes();
            let sends = self.stream.route.direction.sends() && self.guard.ready();
            self.machine.redirect(remote, rtcp, self.receives(), sends);
            self.steering.set_sending(sends);
            if sends {
                self.steering.want_key();
            }
        }
    }

    /// Hands on what the machine has ready; after every call of it that may have received or asked for something.
    pub fn settle(&mut self, now: Instant, gauges: &Gauges) {
        while let Some(unit) = self.machine.poll_unit() {
            if self.receives() {
                self.deliver(now, unit, gauges);
            }
        }
        while self.machine.poll_event().is_some() {}
        if self.machine.take_key_request() {
            self.steering.want_key();
        }
        if let Some(kbps) = self.machine.take_rate(now) {
            self.steering.set_rate(kbps);
        }
    }

    /// Lost packets and the path, both ways.
    pub fn path(&self) -> PathReport {
        let (counters, path) = (self.machine.counters(), self.machine.bandwidth());
        PathReport {
            asked: counters.asked.asked,
            recovered: counters.asked.recovered,
            given_up: counters.asked.given_up,
            repeats_wanted: counters.repeated.asked,
            repeated: counters.repeated.sent,
            repeats_refused: counters.repeated.refused,
            feedback_sent: path.told,
            feedback_received: path.heard,
            target_kbps: path.target_kbps,
            remb_kbps: path.remb_kbps,
            tmmbr_kbps: path.tmmbr_kbps,
            delay_kbps: path.delay_kbps,
            loss_kbps: path.loss_kbps,
            inbound_kbps: path.receive_kbps,
        }
    }

    fn deliver(&mut self, now: Instant, mut unit: AccessUnit, gauges: &Gauges) {
        unit.pts = Pts::from_nanos(unit.pts.nanos().saturating_add(self.shift));
        self.recorded = unit.codec == VideoCodec::H264 && (self.recorded || unit.key);
        if let Some(recorder) = self.recorder.as_ref().filter(|_| self.recorded) {
            recorder.offer(unit.clone());
        }
        if self.blind {
            return;
        }
        match self.decoder.offer(unit) {
            Offered::Queued | Offered::Replaced(_) => {}
            // Up to the next key picture nothing can be decoded: ask for it now.
            Offered::Refused => self.machine.request_key(now),
            Offered::Closed => {
                self.blind = true;
                self.steering.go_blind();
                gauges.fault("the inbound picture broke: the peer sees the slate, sound goes on".to_owned());
            }
        }
    }

    /// Looks what the decoder needs. `true`: the peer must be asked by signalling.
    pub fn watch_key(&mut self, now: Instant) -> bool {
        if self.key_needed.swap(false, Ordering::AcqRel) {
            self.machine.request_key(now);
        }
        self.machine.take_key_request_by_signalling()
    }

    /// Offer and answer were renewed. What the peer might send before stays known: it may be on its way.
    pub fn renew(&mut self, now: Instant, change: VideoChange) {
        let VideoChange { mut stream, pace_kbps, coder } = change;
        self.guard.renew(now, &stream.route);
        let receives = stream.route.direction.receives();
        let sends = stream.route.direction.sends() && self.guard.ready();
        let resumes = receives && !self.receives();
        let named = |number: u8| stream.receive.iter().any(|(other, _)| *other == number);
        let known: Vec<(u8, VideoCodec)> =
            self.stream.receive.iter().filter(|(number, _)| !named(*number)).copied().collect();
        stream.receive.extend(known);
        let (remote, rtcp) = self.guard.remotes();
        self.machine.set_authentic(stream.route.protection.is_some());
        self.machine.redirect(remote, rtcp, receives, sends);
        self.machine.renegotiate(VideoTerms {
            receive: stream.receive.clone(),
            send_payload_type: stream.send_payload_type,
            send_format: send_format(&stream),
            parameter_sets: stream.parameter_sets.clone(),
            feedback: stream.feedback,
            retransmission: stream.retransmission.clone(),
            rtcp_mux: stream.route.rtcp_mux,
            pace_kbps,
        });
        self.sockets.mux = stream.route.rtcp_mux;
        self.stream = stream;
        if resumes {
            self.machine.request_key(now);
        }
        if let Some(coder) = coder {
            if let Some(encoded) = &self.encoded {
                encoded.clear();
            }
            self.steering.renew(coder);
        }
        self.steering.set_sending(sends);
        if sends {
            self.steering.want_key();
        }
    }
}

/// How pictures of a stream are put into packets.
pub fn send_format(stream: &VideoStreamPlan) -> Option<SendFormat> {
    match (stream.codec, stream.send_mode) {
        (VideoCodec::H264, PacketizationMode::SingleNal) => Some(SendFormat::H264(SendMode::SingleNal)),
        (VideoCodec::H264, PacketizationMode::NonInterleaved) => {
            Some(SendFormat::H264(SendMode::NonInterleaved))
        }
        (VideoCodec::Vp8, _) => Some(SendFormat::Vp8),
        (VideoCodec::Vp9 | VideoCodec::H265, _) => None,
    }
}
