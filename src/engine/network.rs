//! Driver. One call's packets: sockets ↔ RTP machines, the 20 ms audio beat, and the clock of dead media.
//!
//! A task of the media runtime. It moves packets and G.711; decoding and encoding of pictures are threads behind
//! queues. All rules about RTP are in `rtp/`.

#![expect(clippy::disallowed_methods, reason = "the task reads the clock for the RTP machines")]

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};

use crate::base::queue::{Fifo, Gop, Latest, Offered, Receiver, Sender, Taken};
use crate::base::stop::{Outcome, StopToken};
use crate::base::time::Pts;
use crate::codec::conceal::Concealer;
use crate::codec::g711::{self, Law};
use crate::engine::mix::Mixer;
use crate::engine::plan::{
    AudioCodec, AudioStream as AudioStreamPlan, CallId, Event, StreamReport, Timeouts,
    VideoStream as VideoStreamPlan,
};
use crate::engine::report::Gauges;
use crate::media::access_unit::AccessUnit;
use crate::media::audio::{BLOCK_MS, Pcm, block_samples};
use crate::rtp::audio::{AudioEvent, AudioFormat, AudioStream, Playout};
use crate::rtp::payload::dtmf::Digit;
use crate::rtp::session::{Out, StreamStatistics};
use crate::rtp::video::VideoStream;

/// Packets read from one socket before others get their turn.
const BATCH: usize = 64;
/// An Ethernet frame and some; longer datagrams are cut and then refused by the parser.
const LARGEST_PACKET: usize = 4096;

/// How long a key is pressed, and the silence after it.
const DIGIT_MS: u32 = 160;
const DIGIT_PAUSE_BLOCKS: u32 = 5;

/// The two sockets of one stream.
pub struct Sockets {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
    /// RTCP leaves from the RTP socket too (RFC 5761).
    pub mux: bool,
}

/// Prepared sound: the opening, and what is looped after it.
#[derive(Default)]
pub struct Prepared {
    pub opening: Option<Arc<[i16]>>,
    pub looped: Option<Arc<[i16]>>,
}

/// The audio stream of one call.
pub struct AudioPart {
    pub sockets: Sockets,
    pub machine: AudioStream,
    /// When the first packet came, on the call's clock.
    pub first_ms: Option<u64>,
    pub codec: AudioCodec,
    pub send_payload_type: u8,
    pub receive: Vec<(u8, AudioCodec)>,
    pub ptime_ms: u32,
    pub sends: bool,
    pub receives: bool,
    pub mixer: Mixer,
    pub prepared: Receiver<Prepared, Latest>,
    /// Keys still to be pressed.
    pub digits: VecDeque<char>,
    pub caller: Option<Sender<Pcm, Fifo>>,
    pub agent: Option<Sender<Pcm, Fifo>>,
}

/// The video stream of one call.
pub struct VideoPart {
    pub sockets: Sockets,
    pub machine: VideoStream,
    /// When the first packet came, on the call's clock.
    pub first_ms: Option<u64>,
    pub receives: bool,
    pub decoder: Sender<AccessUnit, Gop>,
    /// `None`: the encoder has ended; nothing more comes.
    pub encoded: Option<Receiver<AccessUnit, Gop>>,
    /// Set for the encoder: the next picture is to be a key picture.
    pub key_wanted: Arc<AtomicBool>,
    /// Set by the decoder: it needs a key picture.
    pub key_needed: Arc<AtomicBool>,
    pub recorder: Option<Sender<AccessUnit, Gop>>,
}

/// What may be changed while the task runs.
pub enum Order {
    /// Offer and answer were renewed.
    Audio(AudioStreamPlan),
    Video(VideoStreamPlan),
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

/// The audio side's own state between ticks.
struct Beat {
    concealer: Concealer,
    heard: Vec<i16>,
    said: Vec<i16>,
    coded: Vec<u8>,
    first_sent: bool,
    /// Blocks until the next key may be pressed.
    pause: u32,
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

impl Network {
    /// Runs until told to stop.
    pub async fn run(mut self) -> Outcome {
        let samples = block_samples(self.audio.as_ref().map_or(8000, |audio| audio.codec.clock_rate()));
        let mut beat = Beat {
            concealer: Concealer::new(8000),
            heard: vec![0; samples],
            said: vec![0; samples],
            coded: Vec::with_capacity(samples * 3),
            first_sent: false,
            pause: 0,
        };
        let mut tick = interval(Duration::from_millis(u64::from(BLOCK_MS)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut packet = vec![0; LARGEST_PACKET];
        let mut second = Second::new(self.epoch);
        let mut lost = false;
        loop {
            self.flush();
            match self.wait(&mut tick).await {
                Woken::Stop => break,
                Woken::Tick => {
                    let now = Instant::now();
                    self.beat(now, &mut beat);
                    self.watch_key(now);
                    if second.is_over(now) {
                        self.publish(now, &mut second);
                        lost = lost || self.check_life(now);
                    }
                }
                Woken::Audio => self.read_audio(&mut packet),
                Woken::Video => self.read_video(&mut packet),
                Woken::Unit(unit) => self.send_unit(&unit),
                Woken::EncoderGone => {
                    if let Some(video) = &mut self.video {
                        video.encoded = None;
                    }
                    self.fail("the video encoder ended");
                }
                Woken::Order(Some(order)) => self.obey(order),
                Woken::Order(None) => break,
                Woken::Time => self.handle_time(),
            }
        }
        self.goodbye();
        let mut last = Second::new(self.epoch);
        self.publish(Instant::now(), &mut last);
        Outcome::Done
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
        deliver_units(now, video);
        while video.machine.poll_event().is_some() {}
        if video.machine.take_key_request() {
            self.gauges.key_requests_received.add(1);
            video.key_wanted.store(true, Ordering::Release);
        }
    }

    fn send_unit(&mut self, unit: &AccessUnit) {
        if let Some(video) = &mut self.video {
            video.machine.send(Instant::now(), unit);
        }
    }

    /// One 20 ms block: what is heard, what is said, and both to the recorder.
    fn beat(&mut self, now: Instant, beat: &mut Beat) {
        let Some(audio) = &mut self.audio else { return };
        if let Taken::Item(prepared) = audio.prepared.try_take() {
            match prepared.opening {
                Some(opening) => audio.mixer.open_with(opening),
                None => audio.mixer.open_without(),
            }
            if let Some(looped) = prepared.looped {
                audio.mixer.loop_over(looped);
            }
        }
        let heard = match audio.machine.playout(now) {
            Playout::Packet { payload_type, payload, .. } => {
                let codec = audio.receive.iter().find(|(known, _)| *known == payload_type);
                beat.heard.clear();
                g711::decode(law(codec.map_or(audio.codec, |(_, codec)| *codec)), &payload, &mut beat.heard);
                beat.heard.resize(beat.said.len(), 0);
                beat.concealer.good(&mut beat.heard);
                true
            }
            // G.711 is cut into blocks, so nothing is held over; a codec that is would be decoded here.
            Playout::Lost | Playout::Held => {
                beat.heard.resize(beat.said.len(), 0);
                beat.concealer.conceal(&mut beat.heard);
                true
            }
            Playout::Quiet => {
                beat.heard.clear();
                beat.heard.resize(beat.said.len(), 0);
                false
            }
        };
        let pts = Pts::at(self.epoch, now);
        let rate = audio.codec.clock_rate();
        if let (true, Some(recorder)) = (heard && audio.receives, &audio.caller) {
            recorder.offer(Pcm { rate, pts, samples: beat.heard.as_slice().into() });
        }
        if !audio.sends {
            return;
        }
        Self::press(audio, beat);
        audio.mixer.fill(&beat.heard, &mut beat.said);
        if let Some(recorder) = &audio.agent {
            recorder.offer(Pcm { rate, pts, samples: beat.said.as_slice().into() });
        }
        g711::encode(law(audio.codec), &beat.said, &mut beat.coded);
        // G.711: one byte a sample. A packet may be shorter or longer than a block.
        let packet = (rate / 1000 * audio.ptime_ms.max(10)) as usize;
        while beat.coded.len() >= packet {
            let marker = !std::mem::replace(&mut beat.first_sent, true);
            audio.machine.send(now, audio.send_payload_type, &beat.coded[..packet], packet as u32, marker);
            beat.coded.drain(..packet);
        }
    }

    /// One key at a time, with a pause that door stations need to tell two presses apart.
    fn press(audio: &mut AudioPart, beat: &mut Beat) {
        if audio.machine.is_sending_digits() {
            beat.pause = DIGIT_PAUSE_BLOCKS;
        } else if beat.pause > 0 {
            beat.pause -= 1;
        } else if let Some(digit) = audio.digits.pop_front() {
            audio.machine.send_digit(Digit { digit, duration_ms: DIGIT_MS });
        }
    }

    fn watch_key(&mut self, now: Instant) {
        let Some(video) = &mut self.video else { return };
        if video.key_needed.swap(false, Ordering::AcqRel) {
            video.machine.request_key(now);
        }
        if video.machine.take_key_request_by_signalling() {
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
            deliver_units(now, video);
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

    fn obey(&mut self, order: Order) {
        match order {
            Order::SendKey => {
                if let Some(video) = &self.video {
                    self.gauges.key_requests_received.add(1);
                    video.key_wanted.store(true, Ordering::Release);
                }
            }
            Order::SendDigits(digits) => {
                if let Some(audio) = &mut self.audio {
                    audio.digits.extend(digits.chars());
                }
            }
            Order::Audio(stream) => {
                if let Some(audio) = &mut self.audio {
                    let (route, moved) = (&stream.route, &mut audio.machine);
                    audio.sends = route.direction.sends();
                    audio.receives = route.direction.receives();
                    moved.redirect(route.remote, route.remote_rtcp, audio.receives, audio.sends);
                    let formats = stream.receive.iter().map(|(number, _)| AudioFormat::g711(*number));
                    moved.renegotiate(formats.collect(), stream.telephone_event);
                    audio.codec = stream.codec;
                    audio.send_payload_type = stream.send_payload_type;
                    audio.ptime_ms = stream.ptime_ms;
                    audio.receive = stream.receive;
                }
            }
            Order::Video(stream) => {
                if let Some(video) = &mut self.video {
                    let route = &stream.route;
                    video.receives = route.direction.receives();
                    let sends = route.direction.sends();
                    video.machine.redirect(route.remote, route.remote_rtcp, video.receives, sends);
                    video.key_wanted.store(true, Ordering::Release);
                }
            }
        }
    }

    fn goodbye(&mut self) {
        let now = Instant::now();
        if let Some(audio) = &mut self.audio {
            audio.machine.close(now);
        }
        if let Some(video) = &mut self.video {
            video.machine.close(now);
        }
        self.flush();
    }

    fn fail(&self, text: &str) {
        self.gauges.fault(text.to_owned());
        tracing::warn!(call = %self.call, "{text}");
    }

    fn publish(&self, now: Instant, second: &mut Second) {
        let audio = self.audio.as_ref().map(|part| stream_report(&part.machine.statistics(), part.first_ms));
        let video = self.video.as_ref().map(|part| stream_report(&part.machine.statistics(), part.first_ms));
        self.gauges.set_streams(audio, video);
        if let Some(video) = &self.video {
            self.gauges.key_requests_sent.set(video.machine.counters().key_requests_sent);
        }
        second.turn(now, &self.gauges);
    }

    /// Tells the call when nothing has come for too long. `true`: told.
    fn check_life(&self, now: Instant) -> bool {
        let audio = self.audio.as_ref().map(|audio| (audio.machine.statistics(), audio.receives));
        let video = self.video.as_ref().map(|video| (video.machine.statistics(), video.receives));
        let streams = [audio, video];
        let last = streams
            .iter()
            .flatten()
            .flat_map(|(statistics, _)| [statistics.last_received, statistics.last_rtcp_received])
            .flatten()
            .max();
        let held = streams.iter().flatten().all(|(_, receives)| !receives);
        let (since, limit) = match last {
            _ if held => (last.unwrap_or(self.epoch), self.timeouts.hold),
            Some(last) => (last, self.timeouts.flow),
            None => (self.epoch, self.timeouts.start),
        };
        if now.duration_since(since) < limit {
            return false;
        }
        self.events.offer(Event::MediaLost { call: self.call });
        true
    }
}

fn law(codec: AudioCodec) -> Law {
    match codec {
        AudioCodec::Pcmu => Law::Mu,
        AudioCodec::Pcma => Law::A,
    }
}

fn deliver_units(now: Instant, video: &mut VideoPart) {
    while let Some(unit) = video.machine.poll_unit() {
        if !video.receives {
            continue;
        }
        if let Some(recorder) = &video.recorder {
            recorder.offer(unit.clone());
        }
        if video.decoder.offer(unit) == Offered::Refused {
            // Up to the next key picture nothing can be decoded: ask for it now.
            video.machine.request_key(now);
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
        Out::Rtp(to, bytes) => sockets.rtp.try_send_to(bytes, *to),
        Out::Rtcp(to, bytes) if sockets.mux => sockets.rtp.try_send_to(bytes, *to),
        Out::Rtcp(to, bytes) => sockets.rtcp.try_send_to(bytes, *to),
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

fn stream_report(statistics: &StreamStatistics, first_packet_ms: Option<u64>) -> StreamReport {
    StreamReport {
        packets_received: statistics.packets_received,
        packets_lost: statistics.packets_lost,
        packets_late: statistics.packets_late,
        duplicates: statistics.duplicates,
        foreign_packets: statistics.foreign_packets,
        malformed_packets: statistics.malformed,
        packets_sent: statistics.packets_sent,
        bytes_received: statistics.bytes_received,
        bytes_sent: statistics.bytes_sent,
        jitter_ms: statistics.jitter_ms,
        round_trip_ms: statistics.round_trip_ms,
        first_packet_ms,
    }
}

/// Frame rates once a second.
struct Second {
    since: Instant,
    decoded: u64,
    encoded: u64,
}

impl Second {
    fn new(now: Instant) -> Self {
        Second { since: now, decoded: 0, encoded: 0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= Duration::from_secs(1)
    }

    fn turn(&mut self, now: Instant, gauges: &Gauges) {
        let ms = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(1).max(1);
        let (decoded, encoded) = (gauges.decoded.value(), gauges.encoded.value());
        gauges.fps_in.set((decoded - self.decoded) * 1_000_000 / ms);
        gauges.fps_out.set((encoded - self.encoded) * 1_000_000 / ms);
        *self = Second { since: now, decoded, encoded };
    }
}
