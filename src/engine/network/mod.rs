//! Driver. One call's packets: sockets ↔ RTP machines, the 20 ms audio beat, and the clock of dead media.
//!
//! A task of the media runtime. It moves packets and G.711; decoding and encoding of pictures are threads behind
//! queues. Streams come and go by [`Order`]. All rules about RTP are in `rtp/`.

#![expect(clippy::disallowed_methods, reason = "the task reads the clock for the RTP machines")]

pub mod audio;
mod figures;
mod life;
pub mod video;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};

use crate::base::datagram;
use crate::base::queue::{Fifo, Receiver, Sender};
use crate::base::stop::{Outcome, StopToken};
use crate::engine::network::audio::AudioPart;
use crate::engine::network::figures::{Figures, KeyRequests, Second};
use crate::engine::network::life::{Life, Sign};
use crate::engine::network::video::{VideoChange, VideoPart};
use crate::engine::plan::{AudioStream as AudioStreamPlan, CallId, Event, Timeouts};
use crate::engine::report::Gauges;
use crate::media::access_unit::AccessUnit;
use crate::media::audio::BLOCK_MS;
use crate::rtp::audio::AudioEvent;
use crate::rtp::session::{Out, StreamStatistics};

/// Packets read from one socket before others get their turn.
const BATCH: usize = 64;
/// An Ethernet frame and some; longer datagrams are cut and then refused by the parser.
const LARGEST_PACKET: usize = 4096;

/// The two sockets of one stream.
pub struct Sockets {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
    /// RTCP leaves from the RTP socket too (RFC 5761).
    pub mux: bool,
}

/// What may be changed while the task runs.
pub enum Order {
    /// A stream that was not there before.
    AddAudio(Box<AudioPart>),
    AddVideo(Box<VideoPart>),
    /// Offer and answer were renewed.
    Audio(Box<AudioStreamPlan>),
    Video(Box<VideoChange>),
    /// The stream is gone: its sockets close, its threads drain and end.
    DropAudio,
    DropVideo,
    SendKey,
    SendDigits(String),
}

/// Everything the task owns.
pub struct Network {
    pub call: CallId,
    pub epoch: Instant,
    pub audio: Option<AudioPart>,
    pub video: Option<VideoPart>,
    pub orders: Receiver<Order, Fifo>,
    pub events: Sender<Event, Fifo>,
    pub gauges: Arc<Gauges>,
    pub timeouts: Timeouts,
    pub token: StopToken,
}

/// The task and what it remembers of its call.
struct Task {
    network: Network,
    life: Life,
    audio_figures: Figures,
    video_figures: Figures,
    key_requests: KeyRequests,
}

enum Woken {
    Stop,
    Tick,
    Audio,
    Video,
    Unit(AccessUnit),
    EncoderGone,
    Order(Option<Order>),
    Time,
}

/// Tells the call when the task goes down with a panic: nothing else would notice.
struct Alarm {
    call: CallId,
    events: Sender<Event, Fifo>,
    armed: bool,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.armed {
            let text = "the network task broke".to_owned();
            self.events.offer(Event::Fault { call: self.call, text });
        }
    }
}

impl Network {
    /// Runs until told to stop.
    pub async fn run(self) -> Outcome {
        let mut alarm = Alarm { call: self.call, events: self.events.clone(), armed: true };
        let task = Task {
            life: Life::new(self.epoch),
            network: self,
            audio_figures: Figures::default(),
            video_figures: Figures::default(),
            key_requests: KeyRequests::default(),
        };
        let outcome = task.run().await;
        alarm.armed = false;
        outcome
    }

    async fn wait(&self, tick: &mut tokio::time::Interval) -> Woken {
        let wake_at = [
            self.audio.as_ref().map(|audio| audio.machine.wake_at()),
            self.video.as_ref().map(|video| video.machine.wake_at()),
        ];
        let wake_at = wake_at.into_iter().flatten().min();
        tokio::select! {
            biased;
            () = self.token.stopped() => Woken::Stop,
            _ = tick.tick() => Woken::Tick,
            () = readable(self.audio.as_ref().map(|audio| &audio.sockets)) => Woken::Audio,
            () = readable(self.video.as_ref().map(|video| &video.sockets)) => Woken::Video,
            unit = encoded(self.video.as_ref()) => unit.map_or(Woken::EncoderGone, Woken::Unit),
            order = self.orders.recv() => Woken::Order(order),
            () = until(wake_at) => Woken::Time,
        }
    }

    fn read_audio(&mut self, packet: &mut [u8]) {
        let Some(audio) = &mut self.audio else { return };
        let now = Instant::now();
        for _ in 0..BATCH {
            let Ok((length, source)) = audio.sockets.rtp.try_recv_from(packet) else { break };
            audio.machine.handle_rtp(now, source, &packet[..length]);
        }
        for _ in 0..BATCH {
            let Ok((length, source)) = audio.sockets.rtcp.try_recv_from(packet) else { break };
            audio.machine.handle_rtcp(now, source, &packet[..length]);
        }
        note_first(self.epoch, now, &mut audio.first_ms, audio.machine.statistics().packets_received);
        while let Some(event) = audio.machine.poll_event() {
            if let AudioEvent::Digit(digit) = event {
                self.events.offer(Event::Digit { call: self.call, digit: digit.digit });
            }
        }
    }

    fn read_video(&mut self, packet: &mut [u8]) {
        let Some(video) = &mut self.video else { return };
        let now = Instant::now();
        for _ in 0..BATCH {
            let Ok((length, source)) = video.sockets.rtp.try_recv_from(packet) else { break };
            video.machine.handle_rtp(now, source, &packet[..length]);
        }
        for _ in 0..BATCH {
            let Ok((length, source)) = video.sockets.rtcp.try_recv_from(packet) else { break };
            video.machine.handle_rtcp(now, source, &packet[..length]);
        }
        note_first(self.epoch, now, &mut video.first_ms, video.machine.statistics().packets_received);
        video.settle(now, &self.gauges);
    }

    fn send_unit(&mut self, unit: &AccessUnit) {
        if let Some(video) = &mut self.video {
            let now = Instant::now();
            video.machine.send(now, unit);
            video.settle(now, &self.gauges);
        }
    }

    fn beat(&mut self, now: Instant) {
        if let Some(audio) = &mut self.audio {
            audio.beat(self.epoch, now);
        }
        if self.video.as_mut().is_some_and(|video| video.watch_key(now)) {
            self.events.offer(Event::WantsKey { call: self.call });
        }
    }

    fn handle_time(&mut self) {
        let now = Instant::now();
        if let Some(audio) = &mut self.audio {
            audio.machine.handle_time(now);
        }
        if let Some(video) = &mut self.video {
            video.machine.handle_time(now);
            // A reorder wait that ran out may have completed a picture.
            video.settle(now, &self.gauges);
        }
    }

    /// Sends whatever the machines have ready. A full socket loses the packet, as a network would.
    fn flush(&mut self) {
        if let Some(audio) = &mut self.audio {
            while let Some(out) = audio.machine.poll() {
                send(&audio.sockets, &out);
            }
        }
        if let Some(video) = &mut self.video {
            while let Some(out) = video.machine.poll() {
                send(&video.sockets, &out);
            }
        }
    }

    fn encoder_gone(&mut self) {
        if let Some(video) = &mut self.video {
            video.encoded = None;
            let text = "the outbound picture broke: sound goes on";
            self.gauges.fault(text.to_owned());
            tracing::warn!(call = %self.call, "{text}");
        }
    }
}

impl Task {
    async fn run(mut self) -> Outcome {
        let mut tick = interval(Duration::from_millis(u64::from(BLOCK_MS)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut packet = vec![0; LARGEST_PACKET];
        let mut second = Second::new(self.network.epoch);
        loop {
            self.network.flush();
            match self.network.wait(&mut tick).await {
                Woken::Stop => break,
                Woken::Tick => {
                    let now = Instant::now();
                    self.network.beat(now);
                    if second.is_over(now) {
                        self.publish(now, &mut second);
                        self.check_life(now);
                    }
                }
                Woken::Audio => self.network.read_audio(&mut packet),
                Woken::Video => self.network.read_video(&mut packet),
                Woken::Unit(unit) => self.network.send_unit(&unit),
                Woken::EncoderGone => self.network.encoder_gone(),
                Woken::Order(Some(order)) => self.obey(Instant::now(), order),
                Woken::Order(None) => break,
                Woken::Time => self.network.handle_time(),
            }
        }
        let now = Instant::now();
        self.drop_audio(now);
        self.drop_video(now);
        let mut last = Second::new(self.network.epoch);
        self.publish(now, &mut last);
        Outcome::Done
    }

    fn obey(&mut self, now: Instant, order: Order) {
        match order {
            Order::SendKey => {
                if let Some(video) = &mut self.network.video {
                    video.machine.handle_key_request(now);
                    video.settle(now, &self.network.gauges);
                }
                return;
            }
            Order::SendDigits(digits) => {
                if let Some(audio) = &mut self.network.audio {
                    audio.digits.extend(digits.chars());
                }
                return;
            }
            Order::AddAudio(part) => {
                self.drop_audio(now);
                self.network.audio = Some(*part);
            }
            Order::AddVideo(part) => {
                self.drop_video(now);
                self.network.video = Some(*part);
            }
            Order::Audio(stream) => {
                if let Some(audio) = &mut self.network.audio {
                    audio.renew(*stream);
                }
            }
            Order::Video(change) => {
                if let Some(video) = &mut self.network.video {
                    video.renew(now, *change);
                    video.settle(now, &self.network.gauges);
                }
            }
            Order::DropAudio => self.drop_audio(now),
            Order::DropVideo => self.drop_video(now),
        }
        self.life.changed(now);
    }

    fn drop_audio(&mut self, now: Instant) {
        if let Some(audio) = &mut self.network.audio {
            audio.machine.close(now);
            self.network.flush();
        }
        if let Some(audio) = self.network.audio.take() {
            self.audio_figures.keep(audio.report());
        }
    }

    fn drop_video(&mut self, now: Instant) {
        if let Some(video) = &mut self.network.video {
            video.machine.close(now);
            self.network.flush();
        }
        if let Some(video) = self.network.video.take() {
            self.video_figures.keep(video.report());
            self.key_requests = self.key_requests.and(Some(video.machine.counters()));
        }
    }

    fn publish(&self, now: Instant, second: &mut Second) {
        let Network { audio, video, gauges, .. } = &self.network;
        let audio = self.audio_figures.with(audio.as_ref().map(AudioPart::report));
        let requests = self.key_requests.and(video.as_ref().map(|video| video.machine.counters()));
        gauges.set_streams(audio, self.video_figures.with(video.as_ref().map(VideoPart::report)));
        gauges.key_requests_sent.set(requests.sent);
        gauges.key_requests_received.set(requests.received);
        second.turn(now, gauges);
    }

    /// Tells the call when nothing has come for too long.
    fn check_life(&mut self, now: Instant) {
        let Network { audio, video, timeouts, .. } = &self.network;
        let sign = |statistics: StreamStatistics, receives| Sign {
            last: statistics.last_received.max(statistics.last_rtcp_received),
            receives,
        };
        let audio = audio.as_ref().map(|audio| sign(audio.machine.statistics(), audio.receives()));
        let video = video.as_ref().map(|video| sign(video.machine.statistics(), video.receives()));
        if self.life.is_over(now, timeouts, [audio, video]) {
            self.network.events.offer(Event::MediaLost { call: self.network.call });
        }
    }
}

fn note_first(epoch: Instant, now: Instant, first_ms: &mut Option<u64>, received: u64) {
    if first_ms.is_none() && received > 0 {
        *first_ms = u64::try_from(now.saturating_duration_since(epoch).as_millis()).ok();
    }
}

fn send(sockets: &Sockets, out: &Out) {
    let sent = match out {
        Out::Rtp(to, bytes) => datagram::send(&sockets.rtp, bytes, *to),
        Out::Rtcp(to, bytes) if sockets.mux => datagram::send(&sockets.rtp, bytes, *to),
        Out::Rtcp(to, bytes) => datagram::send(&sockets.rtcp, bytes, *to),
    };
    if let Err(error) = sent {
        tracing::trace!(%error, "a media packet was not sent");
    }
}

async fn readable(sockets: Option<&Sockets>) {
    let Some(sockets) = sockets else { return pending().await };
    // An error shows again on the next read, which counts it.
    tokio::select! {
        _ = sockets.rtp.readable() => {}
        _ = sockets.rtcp.readable() => {}
    }
}

async fn encoded(video: Option<&VideoPart>) -> Option<AccessUnit> {
    match video.and_then(|video| video.encoded.as_ref()) {
        Some(encoded) => encoded.recv().await,
        None => pending().await,
    }
}

async fn until(wake_at: Option<Instant>) {
    match wake_at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => pending().await,
    }
}
