//! One audio stream in both directions.
//!
//! How to drive it, from the task that owns the sockets:
//! ```text
//! datagram of the RTP socket    handle_rtp      (RTCP on the same port is told apart here)
//! datagram of the RTCP socket   handle_rtcp
//! every 20 ms                   playout         (until it says Play or Quiet; decode and conceal what it says before)
//! encoded audio to send         send            (digits queued by send_digit leave in its place)
//! at wake_at()                  handle_time
//! after each of these           poll until None, poll_event until None
//! at the end                    close, poll
//! ```
//! A tick that was missed is made up for later; its time is that of the beat, not when it was made up for. Delay and order are `jitter`, sources and
//! reports `session`, digits `payload::dtmf`; decoding, concealing and mixing are elsewhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::rtp::jitter::{Incoming, JitterBuffer, JitterCounters, Next, Pace};
use crate::rtp::packet::{self, Packet};
use crate::rtp::payload::dtmf::{Digit, Receiver, Sender};
use crate::rtp::payload::opus;
use crate::rtp::quality::{self, Impairment, Loss};
use crate::rtp::rtcp::Tail;
use crate::rtp::session::{
    Feedback, Out, Received, SendHeader, Session, SourceEvent, StreamSettings, StreamStatistics,
};
use crate::rtp::xr::VoipMetrics;

/// RFC 3550's own limit: nobody sends audio again that came this late.
const MISORDER_MAX: u16 = 100;
const CHUNK_LEN: usize = 4 << 10;
const EVENTS_MAX: usize = 64;
/// All lengths of playout are in this: every clock rate in use divides it, so one stream may mix them.
const PLAYOUT_RATE: u32 = 48_000;
/// Opus packets no longer than this say that the sender pauses (RFC 7587 §3.1.3).
const OPUS_PAUSE_BYTES: usize = 2;
/// More of a comfort noise payload describes nothing that is heard.
const NOISE_BYTES: usize = 16;
/// A pause in sending that the timestamps must show.
const SEND_GAP: Duration = Duration::from_millis(200);

/// A line is judged from a second of sound on.
const JUDGED_FROM: u64 = 50;
/// What making a packet takes at the sender.
const PACKET_MS: f64 = 20.0;
/// What packets may come to wait.
const BUFFER_MAX_MS: f64 = 250.0;

/// One payload type taken, and how long its packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioFormat {
    pub payload_type: u8,
    /// Of its timestamps, in Hz.
    pub clock_rate: u32,
    /// Bytes of 20 ms for codecs of constant rate: 160 for G.711 and G.722. `None`: Opus, which says so itself.
    pub bytes_per_20ms: Option<usize>,
}

impl AudioFormat {
    /// PCMU, PCMA and G.722.
    pub fn g711(payload_type: u8) -> Self {
        AudioFormat { payload_type, clock_rate: 8_000, bytes_per_20ms: Some(160) }
    }
}

/// What the peer may send beside, and instead of, each other.
#[derive(Clone, Debug, Default)]
pub struct AudioTerms {
    /// Everything the peer may send, audio only.
    pub receive: Vec<AudioFormat>,
    /// Payload types of telephone events with their clock rates; the first is sent.
    pub telephone_events: Vec<(u8, u32)>,
    /// Payload types of comfort noise with their clock rates.
    pub comfort_noises: Vec<(u8, u32)>,
    /// The peer wants to hear how it is heard (RFC 3611).
    pub extended_reports: bool,
}

/// What one audio stream needs to know.
#[derive(Clone, Debug)]
pub struct AudioSettings {
    pub stream: StreamSettings,
    pub terms: AudioTerms,
}

/// What to do in one tick of 20 ms. The first two want to be asked again. Lengths are at [`AudioStream::playout_rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Playout<'a> {
    /// Decode this. It should give `samples`; leave out the first `skip` of them: they were concealed already.
    Packet {
        payload_type: u8,
        payload: &'a [u8],
        samples: u32,
        skip: u32,
        /// The sender's clock, at the same rate.
        timestamp: u32,
    },
    /// Conceal so much. `following`: the packet behind it, if that may hold what was lost; if it did, say so
    /// ([`AudioStream::repaired`]).
    Lost { samples: u32, following: Option<&'a [u8]> },
    /// Enough is decoded: play a block of it.
    Play(Pace),
    /// The sender is silent, or there is none yet: play what is left.
    Quiet,
}

/// How good a line is, as heard at one end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// R of the E-model, 0 to 93.2, and the mean opinion score made of it, 1 to 4.4.
    pub rating: f64,
    pub opinion: f64,
    /// Share of packets not played, 0 to 1: lost, or too late.
    pub lost: f64,
    /// How much longer than by chance packets are missing in a row; 1: by chance.
    pub burst_ratio: f64,
    /// From mouth to ear, one way, as far as it is known: half the round trip, packets, and their wait.
    pub delay_ms: f64,
}

/// What happened on the stream besides sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioEvent {
    /// Media comes from, and goes to, this address from now on.
    SourceLocked(SocketAddr),
    /// The peer began a new stream at the same address.
    SourceChanged,
    /// A key was pressed and released.
    Digit(Digit),
    /// The peer's RTCP says its stream ended; the call goes on.
    Bye,
}

/// See the module.
#[derive(Debug)]
pub struct AudioStream {
    session: Session,
    receive: Vec<AudioFormat>,
    telephone_events: Vec<(u8, u32)>,
    comfort_noises: Vec<(u8, u32)>,
    extended_reports: bool,
    /// What the sender said last about its silence, and the number of that packet.
    noise: Option<(u64, Noise)>,
    jitter: JitterBuffer,
    digits: Receiver,
    digits_out: Sender,
    events: VecDeque<AudioEvent>,
    next_timestamp: u32,
    /// When the next packet should leave if none is left out.
    next_send: Option<Instant>,
    /// Silence was not sent: speech begins with the next packet.
    paused: bool,
}

/// A comfort noise payload (RFC 3389).
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    bytes: [u8; NOISE_BYTES],
    length: usize,
}

impl Noise {
    fn new(payload: &[u8]) -> Self {
        let length = payload.len().min(NOISE_BYTES);
        let mut bytes = [0; NOISE_BYTES];
        bytes[..length].copy_from_slice(&payload[..length]);
        Noise { bytes, length }
    }

    pub fn payload(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AudioStream {
    /// `seed`: for SSRC, first timestamp and report times; different for every stream.
    pub fn new(now: Instant, settings: AudioSettings, seed: u64) -> Self {
        let clock_rate = settings.stream.clock_rate;
        let mut session = Session::new(now, settings.stream, MISORDER_MAX, CHUNK_LEN, seed);
        AudioStream {
            next_timestamp: session.random_timestamp(),
            session,
            receive: settings.terms.receive,
            telephone_events: settings.terms.telephone_events,
            comfort_noises: settings.terms.comfort_noises,
            extended_reports: settings.terms.extended_reports,
            noise: None,
            jitter: JitterBuffer::new(now, PLAYOUT_RATE),
            digits: Receiver::new(clock_rate),
            digits_out: Sender::new(clock_rate),
            events: VecDeque::new(),
            next_send: None,
            paused: false,
        }
    }

    /// In Hz: the unit of all lengths of playout.
    pub fn playout_rate(&self) -> u32 {
        PLAYOUT_RATE
    }

    fn format(&self, payload_type: u8) -> Option<AudioFormat> {
        self.receive.iter().find(|format| format.payload_type == payload_type).copied()
    }

    /// A datagram of the RTP socket.
    pub fn handle_rtp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        if packet::is_rtcp(bytes) {
            return self.handle_rtcp(now, source, bytes);
        }
        let clock_rate = bytes.get(1).and_then(|second| self.clock_of(second & 0x7f));
        if let Some(clock_rate) = clock_rate {
            self.session.expect_clock_rate(clock_rate);
        }
        let Some(received) = self.session.receive(now, source, bytes, |_| clock_rate.is_some()) else {
            return;
        };
        if received.restarted {
            self.jitter.restart();
            self.noise = None;
            self.digits = Receiver::new(self.session.settings().clock_rate);
        }
        let Received { packet, extended, .. } = received;
        let kind = packet.payload_type;
        if let Some((_, clock_rate)) = self.telephone_events.iter().find(|(known, _)| *known == kind) {
            self.jitter.pause(extended);
            self.digits.set_clock_rate(*clock_rate);
            match self.digits.push(now, packet.timestamp, packet.marker, packet.payload) {
                Ok(digit) => self.report(digit.map(AudioEvent::Digit)),
                Err(_) => self.session.malformed_payload(),
            }
        } else if let Some(format) = self.format(packet.payload_type) {
            self.jitter.push(now, incoming(format, extended, &packet));
            if format.bytes_per_20ms.is_none() && packet.payload.len() <= OPUS_PAUSE_BYTES {
                self.jitter.pause(extended);
            }
            self.noise = self.noise.filter(|(number, _)| *number > extended);
        } else {
            // The sender is there and has nothing to say.
            self.jitter.pause(extended);
            let noise = self.comfort_noises.iter().any(|(known, _)| *known == kind);
            if noise && self.noise.is_none_or(|(number, _)| number < extended) {
                self.noise = Some((extended, Noise::new(packet.payload)));
            }
        }
    }

    /// `None`: a payload type that was not negotiated.
    fn clock_of(&self, payload_type: u8) -> Option<u32> {
        let others = self.telephone_events.iter().chain(&self.comfort_noises);
        let other = others.into_iter().find(|(known, _)| *known == payload_type);
        // An event or noise at another clock than the codec has its timestamps on the codec's clock: nothing to measure.
        match other {
            Some(_) => Some(self.session.expected_clock_rate()),
            None => self.format(payload_type).map(|format| format.clock_rate),
        }
    }

    /// How the sender's silence sounds, told once after each of its packets: for [`Playout::Quiet`].
    pub fn take_comfort_noise(&mut self) -> Option<Noise> {
        self.noise.take().map(|(_, noise)| noise)
    }

    /// A datagram of the RTCP socket.
    pub fn handle_rtcp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let ignore = |_: Feedback| {};
        self.session.receive_rtcp(now, source, bytes, ignore);
    }

    /// What to do for the block of this moment; call until it says Play or Quiet. `buffered`: what is decoded and not
    /// played yet, at [`AudioStream::playout_rate`].
    pub fn playout(&mut self, now: Instant, buffered: u32) -> Playout<'_> {
        match self.jitter.next(now, buffered, self.session.sequence()) {
            Next::Packet { payload_type, timestamp, samples, skip } => {
                Playout::Packet { payload_type, payload: self.jitter.payload(), samples, skip, timestamp }
            }
            Next::Lost { samples, repairable } => {
                Playout::Lost { samples, following: self.jitter.following().filter(|_| repairable) }
            }
            Next::Play(pace) => Playout::Play(pace),
            Next::Quiet => Playout::Quiet,
        }
    }

    /// Sends one packet of encoded audio, `samples` long on the RTP clock. `marker`: speech begins here. An empty payload
    /// is silence that need not be sent.
    pub fn send(&mut self, now: Instant, payload_type: u8, payload: &[u8], samples: u32, marker: bool) {
        let clock_rate = self.session.settings().clock_rate;
        let mut marker = marker || self.next_send.is_none();
        let due = self.next_send.unwrap_or(now);
        let mut base = due;
        if now.saturating_duration_since(due) > SEND_GAP {
            // Nothing was sent for a while (hold): the clock went on.
            let skipped = now.duration_since(due).as_nanos() * u128::from(clock_rate) / 1_000_000_000;
            self.next_timestamp = self.next_timestamp.wrapping_add(skipped as u32);
            base = now;
            marker = true;
        }
        let timestamp = self.next_timestamp;
        self.next_timestamp = timestamp.wrapping_add(samples);
        let length = Duration::from_nanos(u64::from(samples) * 1_000_000_000 / u64::from(clock_rate));
        self.next_send = Some(base + length);
        let pts = Pts::at(self.session.settings().epoch, now);
        let event = self.telephone_events.first().and_then(|&(kind, event_rate)| {
            self.digits_out.set_clock_rate(event_rate);
            let length = u64::from(samples) * u64::from(event_rate) / u64::from(clock_rate);
            Some((kind, self.digits_out.tick(timestamp, length as u32)?))
        });
        match event {
            Some((payload_type, event)) => {
                let header = SendHeader { marker: event.marker, payload_type, timestamp: event.timestamp };
                // Its timestamp is that of the digit's beginning.
                let since = timestamp.wrapping_sub(event.timestamp);
                let begun = Duration::from_nanos(u64::from(since) * 1_000_000_000 / u64::from(clock_rate));
                self.session.send(now, header, pts - begun, &[&event.payload]);
            }
            None if payload.is_empty() => self.paused = true,
            None => {
                let marker = marker || std::mem::take(&mut self.paused);
                let header = SendHeader { marker, payload_type, timestamp };
                self.session.send(now, header, pts, &[payload]);
            }
        }
    }

    /// Queues a digit to be sent as telephone event, in the rhythm of [`AudioStream::send`]. `false`: not
    /// negotiated, not a digit, or too many wait.
    pub fn send_digit(&mut self, digit: Digit) -> bool {
        !self.telephone_events.is_empty() && self.digits_out.press(digit)
    }

    /// Whether digits are still going out.
    pub fn is_sending_digits(&self) -> bool {
        self.digits_out.is_busy()
    }

    /// Sends what is due, ends digits whose end was lost.
    pub fn handle_time(&mut self, now: Instant) {
        let digit = self.digits.handle_time(now);
        self.report(digit.map(AudioEvent::Digit));
        if self.extended_reports && now >= self.session.wake_at() {
            self.session.set_metrics(self.metrics());
        }
        self.session.handle_time(now);
    }

    /// When [`AudioStream::handle_time`] is next needed.
    pub fn wake_at(&self) -> Instant {
        self.digits.wake_at().map_or(self.session.wake_at(), |at| at.min(self.session.wake_at()))
    }

    /// Datagrams to send.
    pub fn poll(&mut self) -> Option<Out> {
        self.session.poll()
    }

    pub fn poll_event(&mut self) -> Option<AudioEvent> {
        let of_source = |event| match event {
            SourceEvent::Locked(address) => AudioEvent::SourceLocked(address),
            SourceEvent::Changed => AudioEvent::SourceChanged,
            SourceEvent::Bye => AudioEvent::Bye,
        };
        self.session.poll_event().map(of_source).or_else(|| self.events.pop_front())
    }

    fn report(&mut self, event: Option<AudioEvent>) {
        if self.events.len() < EVENTS_MAX {
            self.events.extend(event);
        }
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

    /// Whether RTCP shares the RTP port from now on (RFC 5761).
    pub fn set_rtcp_mux(&mut self, rtcp_mux: bool) {
        self.session.set_rtcp_mux(rtcp_mux);
    }

    /// Whether packets are authenticated before they come here from now on (SRTP).
    pub fn set_authentic(&mut self, authentic: bool) {
        self.session.set_authentic(authentic);
    }

    /// A renewed offer and answer: what the peer may send from now on, and the clock rate of what we send.
    pub fn renegotiate(&mut self, terms: AudioTerms, clock_rate: u32) {
        self.receive = terms.receive;
        self.telephone_events = terms.telephone_events;
        self.comfort_noises = terms.comfort_noises;
        self.extended_reports = terms.extended_reports;
        if !self.extended_reports {
            self.session.set_metrics(None);
        }
        if self.session.set_clock_rate(clock_rate) {
            self.next_timestamp = self.session.random_timestamp();
            self.next_send = None;
        }
    }

    /// Says goodbye in RTCP.
    pub fn close(&mut self, now: Instant) {
        self.session.report(now, Tail::Bye);
    }

    /// What playout gave was no sound of its codec.
    pub fn undecodable(&mut self) {
        self.session.malformed_payload();
    }

    /// So much of the last [`Playout::Lost`] was in the packet behind it, at [`AudioStream::playout_rate`].
    pub fn repaired(&mut self, samples: u32) {
        self.jitter.repaired(samples);
    }

    pub fn statistics(&self) -> StreamStatistics {
        StreamStatistics { packets_late: self.jitter.counters().late, ..self.session.statistics() }
    }

    /// What the playout buffer did.
    pub fn playout_counters(&self) -> JitterCounters {
        self.jitter.counters()
    }

    /// How long packets wait before they are due: jitter plus a margin.
    pub fn playout_target(&self) -> Duration {
        self.jitter.target()
    }

    /// How long sound waits from its arrival to its playing.
    pub fn playout_delay(&self) -> Duration {
        self.jitter.delay()
    }

    /// A moment, and the timestamp of what was played in it.
    pub fn playing(&self) -> Option<(Instant, u32)> {
        self.jitter.playing()
    }

    /// How the peer is heard here; `None`: too little was played.
    pub fn quality(&self) -> Option<Quality> {
        let counters = self.jitter.counters();
        // What the packet behind it held was heard.
        let loss = Loss {
            played: counters.played + counters.repaired,
            missing: counters.missing - counters.repaired,
            gaps: counters.gaps - counters.gaps_repaired,
        };
        if counters.played < JUDGED_FROM {
            return None;
        }
        let round_trip_ms = self.session.statistics().round_trip_ms.unwrap_or(0.0);
        let delay_ms = round_trip_ms / 2.0 + PACKET_MS + self.jitter.delay().as_secs_f64() * 1e3;
        Some(judge(loss.share(), loss.burst_ratio(), delay_ms))
    }

    /// How we are heard at the peer, by its own word (RFC 3611) or by what it lost; `None`: it said nothing.
    pub fn remote_quality(&self) -> Option<Quality> {
        let statistics = self.session.statistics();
        let half_ms = statistics.round_trip_ms.unwrap_or(0.0) / 2.0;
        if let Some(metrics) = self.session.remote_metrics() {
            let delay_ms = half_ms + f64::from(metrics.end_system_ms);
            let judged = judge((metrics.loss + metrics.discard).min(1.0), 1.0, delay_ms);
            let rating = metrics.rating.unwrap_or(judged.rating);
            let opinion = metrics.conversation.unwrap_or_else(|| quality::opinion(rating));
            return Some(Quality { rating, opinion, ..judged });
        }
        let lost = statistics.remote_lost? as f64 / statistics.packets_sent.max(1) as f64;
        // It waits for its jitter and a packet, as everybody does.
        let waits_ms = PACKET_MS + 2.0 * statistics.remote_jitter_ms.unwrap_or(0.0);
        Some(judge(lost.min(1.0), 1.0, half_ms + PACKET_MS + waits_ms))
    }

    /// What our extended reports say.
    fn metrics(&self) -> Option<VoipMetrics> {
        let quality = self.quality()?;
        let (counters, bursts) = (self.jitter.counters(), self.jitter.bursts());
        let statistics = self.session.statistics();
        let expected = (counters.played + counters.missing).max(1) as f64;
        // RFC 3611 §4.7.1: the one once repair has had its effect, without what was thrown away; the other whether it was
        // repaired or not.
        let late = counters.late - counters.repaired_late;
        let lost = (counters.missing - counters.repaired).saturating_sub(late) as f64 / expected;
        let discarded = ((counters.late + counters.overflow) as f64 / expected).min(1.0);
        let ms = |value: f64| value.round().clamp(0.0, 65_535.0) as u16;
        let waits_ms = self.jitter.delay().as_secs_f64() * 1e3;
        Some(VoipMetrics {
            ssrc: self.session.remote_ssrc()?,
            loss: lost,
            discard: discarded,
            burst_density: bursts.burst_density,
            gap_density: bursts.gap_density,
            burst_ms: ms(bursts.burst_packets * PACKET_MS),
            gap_ms: ms(bursts.gap_packets * PACKET_MS),
            round_trip_ms: ms(statistics.round_trip_ms.unwrap_or(0.0)),
            end_system_ms: ms(waits_ms + 2.0 * PACKET_MS),
            rating: Some(quality.rating),
            listening: Some(judge(quality.lost, quality.burst_ratio, 0.0).opinion),
            conversation: Some(quality.opinion),
            buffer_ms: ms(self.jitter.target().as_secs_f64() * 1e3),
            buffer_max_ms: ms(waits_ms.max(BUFFER_MAX_MS)),
        })
    }

    /// A moment on the sender's clock subtracted from the same moment here, as sound is played; in nanoseconds.
    pub fn clock_offset(&self) -> Option<i64> {
        let (at, timestamp) = self.jitter.playing()?;
        let here = Pts::at(self.session.settings().epoch, at).nanos();
        Some(here - self.session.sender_time(timestamp, PLAYOUT_RATE)?)
    }

    /// How much earlier the beat could come without missing a packet; `None`: nothing is played now.
    pub fn spare_wait(&self) -> Option<Duration> {
        self.jitter.spare()
    }

    /// Our SSRC and the peer's.
    pub fn ssrcs(&self) -> (u32, Option<u32>) {
        (self.session.ssrc(), self.session.remote_ssrc())
    }
}

fn judge(lost: f64, burst_ratio: f64, delay_ms: f64) -> Quality {
    let rating = quality::rating(lost, burst_ratio, Impairment::CONCEALED, delay_ms);
    Quality { rating, opinion: quality::opinion(rating), lost, burst_ratio, delay_ms }
}

fn incoming<'a>(format: AudioFormat, extended: u64, packet: &Packet<'a>) -> Incoming<'a> {
    let Packet { timestamp, payload_type, payload, .. } = *packet;
    // Modulo 2^32 as the timestamps themselves: differences stay right over a wrap.
    let timestamp = timestamp.wrapping_mul(PLAYOUT_RATE / format.clock_rate.max(1));
    let (samples, repairs) = match format.bytes_per_20ms {
        Some(bytes) => (Some((payload.len() * (PLAYOUT_RATE as usize / 50) / bytes.max(1)) as u32), false),
        None => (opus::samples(payload), opus::repairs(payload)),
    };
    Incoming { extended, timestamp, payload_type, payload, samples, repairs }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::time::SystemTime;

    use super::*;
    use crate::base::time::Clock;
    use crate::rtp::packet::{Header, Writer};
    use crate::rtp::reach::Reach;
    use crate::rtp::rtcp::{self, Message};
    use crate::rtp::xr;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn peer() -> SocketAddr {
        at("192.0.2.1:4000")
    }

    fn settings(now: Instant) -> AudioSettings {
        AudioSettings {
            stream: StreamSettings {
                clock_rate: 8000,
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
            terms: AudioTerms {
                receive: vec![
                    AudioFormat::g711(0),
                    AudioFormat::g711(8),
                    AudioFormat { payload_type: 111, clock_rate: 48_000, bytes_per_20ms: None },
                ],
                telephone_events: vec![(101, 8_000), (110, 48_000)],
                comfort_noises: vec![(13, 8_000)],
                extended_reports: false,
            },
        }
    }

    /// A packet of 20 ms, its payload filled with its number.
    fn voice(ssrc: u32, number: u64) -> Bytes {
        packet(ssrc, 8, number, &[number as u8; 160])
    }

    fn packet(ssrc: u32, payload_type: u8, number: u64, payload: &[u8]) -> Bytes {
        let (sequence, timestamp) = (number as u16, (number * 160) as u32);
        Writer::new(256).write(&Header { marker: false, payload_type, sequence, timestamp, ssrc }, &[payload])
    }

    /// What a tick gave: the first byte of a packet, or a letter.
    fn tick(stream: &mut AudioStream, now: Instant) -> String {
        let (mut buffered, mut what) = (0, String::new());
        loop {
            match stream.playout(now, buffered) {
                Playout::Packet { payload, samples, .. } => {
                    what = payload[0].to_string();
                    buffered += samples;
                }
                Playout::Lost { samples, .. } => {
                    what = "L".into();
                    buffered += samples;
                }
                Playout::Play(_) => return what,
                Playout::Quiet => return "q".into(),
            }
        }
    }

    fn drain(stream: &mut AudioStream) -> Vec<Out> {
        std::iter::from_fn(|| stream.poll()).collect()
    }

    fn events(stream: &mut AudioStream) -> Vec<AudioEvent> {
        std::iter::from_fn(|| stream.poll_event()).collect()
    }

    #[test]
    fn voice_goes_through_with_its_time_and_the_codec_may_change() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        for n in 0..50u64 {
            let now = start + MS(1000 + n * 20);
            let payload_type = if n < 25 { 0 } else { 8 };
            stream.handle_rtp(now, peer(), &packet(7, payload_type, n, &[n as u8; 160]));
            if n == 0 {
                continue;
            }
            let got = stream.playout(now + MS(5), 0);
            let Playout::Packet { payload_type: got_type, payload, samples, skip, timestamp } = got else {
                panic!("{got:?} at {n}");
            };
            assert_eq!((payload, got_type), (&[n as u8 - 1; 160][..], if n - 1 < 25 { 0 } else { 8 }));
            assert_eq!((samples, skip, timestamp), (960, 0, (n as u32 - 1) * 960));
            assert_eq!(stream.playout(now + MS(5), 960), Playout::Play(Pace::Steady));
        }
        assert_eq!(events(&mut stream), [AudioEvent::SourceLocked(peer())]);
        let statistics = stream.statistics();
        assert_eq!(
            (statistics.packets_received, statistics.packets_lost, statistics.bytes_received),
            (50, 0, 8000)
        );
        assert!(statistics.jitter_ms < 0.1);
    }

    #[test]
    fn comfort_noise_and_events_are_silence_and_not_loss() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut heard = Vec::new();
        for n in 0..60u64 {
            let now = start + MS(n * 20);
            match n {
                20 => stream.handle_rtp(now, peer(), &packet(7, 13, n, &[40])),
                21..40 => {}
                _ => {
                    // The numbers go on where they stopped; the timestamps counted the silence.
                    let number = if n < 20 { n } else { n - 19 };
                    let header = Header {
                        marker: n == 40,
                        payload_type: 8,
                        sequence: number as u16,
                        timestamp: (n * 160) as u32,
                        ssrc: 7,
                    };
                    stream.handle_rtp(now, peer(), &Writer::new(256).write(&header, &[&[n as u8; 160]]));
                }
            }
            heard.push(tick(&mut stream, now + MS(12)));
        }
        assert!(!heard.contains(&"L".into()), "{heard:?}");
        assert_eq!(heard.iter().filter(|what| *what == "q").count(), 20, "{heard:?}");
        assert_eq!(stream.statistics().packets_lost, 0);
    }

    #[test]
    fn what_a_sender_says_of_its_silence_is_told_once_and_ends_with_speech() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        stream.handle_rtp(start, peer(), &voice(7, 0));
        stream.handle_rtp(start + MS(20), peer(), &packet(7, 13, 1, &[40, 1, 2]));
        assert_eq!(stream.take_comfort_noise().map(|noise| noise.payload().to_vec()), Some(vec![40, 1, 2]));
        assert!(stream.take_comfort_noise().is_none());
        stream.handle_rtp(start + MS(40), peer(), &packet(7, 13, 3, &[40; 500]));
        stream.handle_rtp(start + MS(41), peer(), &packet(7, 13, 2, &[50]));
        assert_eq!(stream.take_comfort_noise().map(|noise| noise.payload().len()), Some(NOISE_BYTES));
        stream.handle_rtp(start + MS(60), peer(), &packet(7, 13, 4, &[40]));
        stream.handle_rtp(start + MS(80), peer(), &voice(7, 5));
        assert!(stream.take_comfort_noise().is_none());
    }

    fn opus_packet(number: u16, timestamp: u32, payload: &[u8]) -> Bytes {
        let header = Header { marker: false, payload_type: 111, sequence: number, timestamp, ssrc: 7 };
        Writer::new(256).write(&header, &[payload])
    }

    #[test]
    fn the_codec_may_change_to_one_with_another_clock() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut heard = Vec::new();
        for n in 0..150_u64 {
            let now = start + MS(n * 20);
            let bytes = match n {
                50..100 => opus_packet(n as u16, 7_000_000 + n as u32 * 960, &[1 << 3, n as u8, 1]),
                _ => voice(7, n),
            };
            stream.handle_rtp(now, peer(), &bytes);
            heard.push(tick(&mut stream, now + MS(12)));
        }
        assert_eq!(heard.iter().filter(|what| *what == "L" || *what == "q").count(), 0, "{heard:?}");
        let statistics = stream.statistics();
        assert_eq!((statistics.packets_lost, statistics.packets_late), (0, 0));
        assert!(statistics.jitter_ms < 1.0, "{}", statistics.jitter_ms);
    }

    #[test]
    fn a_pause_of_opus_is_no_loss() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let (mut heard, mut number) = (Vec::new(), 0);
        for n in 0..100_u64 {
            let now = start + MS(n * 20);
            let payload: &[u8] = match n {
                40 | 60 => &[1 << 3],
                41..60 | 61..80 => &[],
                _ => &[1 << 3, 5, 6, 7],
            };
            if !payload.is_empty() {
                stream.handle_rtp(now, peer(), &opus_packet(number, n as u32 * 960, payload));
                number += 1;
            }
            heard.push(tick(&mut stream, now + MS(12)));
        }
        assert!(!heard.contains(&"L".into()), "{heard:?}");
        assert!(heard.iter().filter(|what| *what == "q").count() >= 36, "{heard:?}");
    }

    #[test]
    fn events_have_the_clock_of_their_payload_type() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        stream.handle_rtp(start, peer(), &voice(7, 0));
        for (number, kind, ticks) in [(1, 101, 800_u16), (2, 110, 4_800)] {
            let [high, low] = ticks.to_be_bytes();
            stream.handle_rtp(start + MS(20), peer(), &packet(7, kind, number, &[5, 0x8a, high, low]));
        }
        let digit = AudioEvent::Digit(Digit { digit: '5', duration_ms: 100 });
        assert_eq!(events(&mut stream)[1..], [digit, digit]);
    }

    #[test]
    fn digits_are_sent_at_the_clock_that_was_agreed_on_the_time_line_of_the_codec() {
        for (events, last) in [(vec![(110, 48_000)], 4_800), (vec![(101, 8_000)], 800)] {
            let start = Instant::now();
            let mut settings = settings(start);
            settings.stream.clock_rate = 48_000;
            settings.terms.telephone_events = events.clone();
            let mut stream = AudioStream::new(start, settings, 1);
            assert!(stream.send_digit(Digit { digit: '7', duration_ms: 100 }));
            let mut sent = Vec::new();
            for n in 0..12 {
                stream.send(start + MS(n * 20), 111, &[1, 2, 3], 960, false);
                for out in drain(&mut stream) {
                    let Out::Rtp(_, bytes) = out else { continue };
                    let packet = Packet::parse(&bytes).expect("ours");
                    sent.push((packet.payload_type, packet.timestamp, packet.payload.to_vec()));
                }
            }
            let digits: Vec<_> = sent.iter().filter(|packet| packet.0 == events[0].0).collect();
            let durations: Vec<u16> = digits.iter().map(|p| u16::from_be_bytes([p.2[2], p.2[3]])).collect();
            let step = last / 5;
            let wanted: Vec<u16> = (1..=5).map(|n| n * step).chain([last; 3]).collect();
            assert_eq!(durations, wanted);
            assert!(digits.iter().all(|packet| packet.1 == digits[0].1));
            let speech = sent.iter().find(|packet| packet.0 == 111).expect("speech goes on");
            assert_eq!(speech.1.wrapping_sub(digits[0].1), 8 * 960);
        }
    }

    #[test]
    fn silence_that_need_not_be_sent_shows_in_timestamps_and_the_marker_only() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut sent = Vec::new();
        for n in 0..20 {
            let payload: &[u8] = if (5..15).contains(&n) { &[] } else { &[9; 160] };
            stream.send(start + MS(n * 20), 8, payload, 160, false);
            for out in drain(&mut stream) {
                let Out::Rtp(_, bytes) = out else { continue };
                let packet = Packet::parse(&bytes).expect("ours");
                sent.push((packet.sequence, packet.timestamp, packet.marker));
            }
        }
        assert_eq!(sent.len(), 10);
        assert_eq!(sent[5].0, sent[4].0.wrapping_add(1));
        assert_eq!(sent[5].1, sent[4].1.wrapping_add(11 * 160));
        assert!(sent[5].2 && !sent[6].2);
    }

    #[test]
    fn another_clock_is_another_stream() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        stream.send(start, 8, &[9; 160], 160, true);
        let (before, _) = stream.ssrcs();
        stream.renegotiate(settings(start).terms, 8_000);
        assert_eq!(stream.ssrcs().0, before);
        stream.renegotiate(settings(start).terms, 48_000);
        assert_ne!(stream.ssrcs().0, before);
        stream.send(start + MS(20), 111, &[1, 2, 3], 960, false);
        let last = drain(&mut stream).pop();
        let Some(Out::Rtp(_, bytes)) = last else { panic!("{last:?}") };
        assert!(Packet::parse(&bytes).expect("ours").marker);
    }

    #[test]
    fn a_new_source_is_heard_within_100_ms() {
        let start = Instant::now();
        let mut follow = AudioStream::new(start, settings(start), 1);
        let mut heard = Vec::new();
        for n in 0..100u64 {
            let now = start + MS(n * 20);
            let bytes = if n < 50 { voice(7, n) } else { voice(8, n + 40_000) };
            follow.handle_rtp(now, peer(), &bytes);
            heard.push(tick(&mut follow, now + MS(12)));
        }
        let silent = heard[48..].iter().filter(|what| ["L", "q"].contains(&what.as_str())).count();
        assert!(silent <= 5, "{heard:?}");
        assert!(events(&mut follow).contains(&AudioEvent::SourceChanged));
        // The first one only says that another is there.
        assert_eq!(follow.statistics().packets_received, 99);
    }

    #[test]
    fn a_restarted_sequence_loses_two_packets_at_most() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut played = 0;
        for n in 0..200u64 {
            let now = start + MS(n * 20);
            let sequence = if n < 100 { 5000 + n } else { n - 100 };
            let header = Header {
                marker: false,
                payload_type: 8,
                sequence: sequence as u16,
                timestamp: (n * 160) as u32,
                ssrc: 7,
            };
            stream.handle_rtp(now, peer(), &Writer::new(256).write(&header, &[&[1; 160]]));
            played += usize::from(tick(&mut stream, now + MS(12)) == "1");
        }
        assert!(played >= 197, "{played}");
        assert_eq!(stream.statistics().packets_lost, 0);
    }

    #[test]
    fn digits_sent_are_digits_received_and_replace_the_audio() {
        let start = Instant::now();
        let mut caller = AudioStream::new(start, settings(start), 1);
        let mut agent = AudioStream::new(start, settings(start), 2);
        for digit in ['4', '2', '#'] {
            assert!(caller.send_digit(Digit { digit, duration_ms: 100 }));
        }
        assert!(!caller.send_digit(Digit { digit: 'x', duration_ms: 100 }));
        for n in 0..100u64 {
            let now = start + MS(n * 20);
            caller.send(now, 8, &[9; 160], 160, false);
            for out in drain(&mut caller) {
                if let Out::Rtp(_, bytes) = out {
                    agent.handle_rtp(now, peer(), &bytes);
                    agent.handle_rtp(now, peer(), &bytes);
                }
            }
            agent.handle_time(now);
            tick(&mut agent, now + MS(12));
        }
        let digits: Vec<_> = events(&mut agent)
            .into_iter()
            .filter_map(|event| match event {
                AudioEvent::Digit(digit) => Some((digit.digit, digit.duration_ms)),
                _ => None,
            })
            .collect();
        assert_eq!(digits, [('4', 100), ('2', 100), ('#', 100)]);
        assert!(!caller.is_sending_digits());
        let statistics = agent.statistics();
        assert_eq!((statistics.packets_lost, statistics.duplicates), (0, 100));
        assert_eq!(agent.playout_counters().concealed_us, 0);
    }

    #[test]
    fn a_stranger_is_counted_and_ignored_before_and_after_the_lock() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let stranger = at("203.0.113.5:4000");
        for n in 0..40u64 {
            stream.handle_rtp(start + MS(n * 20), stranger, &voice(7, n + 500));
        }
        assert!(stream.statistics().packets_received <= 5);
        for n in 0..100u64 {
            let now = start + MS(800 + n * 20);
            stream.handle_rtp(now, peer(), &voice(7, n));
            stream.handle_rtp(now, stranger, &voice(7, n + 1));
            stream.handle_rtcp(now, stranger, &rtcp::write(7, None, None, "x", Tail::Bye));
            stream.send(now, 8, &[0; 160], 160, false);
            stream.handle_time(now);
            tick(&mut stream, now + MS(12));
        }
        let statistics = stream.statistics();
        assert_eq!((statistics.packets_received, statistics.packets_lost), (100, 0));
        assert_eq!(statistics.foreign_packets, 240);
        assert!(drain(&mut stream).iter().all(|out| match out {
            Out::Rtp(to, _) => *to == peer(),
            Out::Rtcp(to, _) => *to == at("192.0.2.1:4001"),
        }));
        assert_eq!(events(&mut stream), [AudioEvent::SourceLocked(peer())]);
    }

    #[test]
    fn a_peer_behind_nat_is_answered_where_it_came_from() {
        let start = Instant::now();
        let (rtp, control) = (at("198.51.100.9:61000"), at("198.51.100.9:61007"));
        let mut settings = settings(start);
        settings.stream.reach.signalling = Some(rtp.ip());
        let mut stream = AudioStream::new(start, settings, 1);
        for n in 0..100u64 {
            let now = start + MS(n * 20);
            stream.handle_rtp(now, rtp, &voice(7, n));
            if n == 80 {
                stream.handle_rtcp(now, control, &rtcp::write(7, None, None, "peer", Tail::Nothing));
            }
            stream.send(now, 8, &[0; 160], 160, false);
        }
        drain(&mut stream);
        stream.send(start + MS(2000), 8, &[0; 160], 160, false);
        stream.handle_time(start + MS(9000));
        let to: Vec<SocketAddr> = drain(&mut stream)
            .into_iter()
            .map(|out| match out {
                Out::Rtp(to, _) | Out::Rtcp(to, _) => to,
            })
            .collect();
        assert_eq!(to, [rtp, control]);
    }

    #[test]
    fn reports_state_loss_and_the_time_of_what_was_sent() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut last = 0;
        let mut infos = Vec::new();
        let mut blocks = Vec::new();
        for n in 0..1000u64 {
            let now = start + MS(n * 20);
            if n % 10 != 3 {
                stream.handle_rtp(now, peer(), &voice(7, n));
            }
            stream.send(now, 8, &[0; 160], 160, false);
            stream.handle_time(now);
            for out in drain(&mut stream) {
                match out {
                    Out::Rtp(_, bytes) => last = Packet::parse(&bytes).expect("ours").timestamp,
                    Out::Rtcp(_, bytes) => {
                        rtcp::read(&bytes, |message| match message {
                            Message::SenderReport(info) => infos.push((info, last)),
                            Message::Report(block) => blocks.push(block),
                            _ => {}
                        });
                    }
                }
            }
        }
        assert!(infos.len() >= 3 && infos.iter().all(|(info, last)| info.rtp_timestamp == *last));
        let (first, second) = (infos[0].0, infos[1].0);
        let ntp_ms = ((second.ntp - first.ntp) as f64 / 2f64.powi(32) * 1000.0).round() as u32;
        assert_eq!(second.rtp_timestamp.wrapping_sub(first.rtp_timestamp), ntp_ms * 8);
        let block = blocks.last().expect("a report");
        assert_eq!(block.ssrc, 7);
        assert!((23..=28).contains(&block.fraction_lost), "{}", block.fraction_lost);
    }

    #[test]
    fn who_asks_is_told_how_it_is_heard_and_says_how_we_are() {
        let start = Instant::now();
        let quiet = settings(start).terms;
        let terms = AudioTerms { extended_reports: true, ..quiet.clone() };
        let asked = AudioSettings { terms, ..settings(start) };
        let mut stream = AudioStream::new(start, asked, 1);
        let mut told = Vec::new();
        for n in 0..600u64 {
            let now = start + MS(n * 20);
            if n % 20 != 7 {
                stream.handle_rtp(now, peer(), &voice(7, n));
            }
            tick(&mut stream, now + MS(12));
            stream.send(now, 8, &[0; 160], 160, false);
            stream.handle_time(now + MS(12));
            for out in drain(&mut stream) {
                if let Out::Rtcp(_, bytes) = out {
                    rtcp::read(&bytes, |message| {
                        if let Message::VoipMetrics(metrics) = message {
                            told.push(metrics);
                        }
                    });
                }
            }
        }
        let last = told.last().expect("a report");
        assert!(last.ssrc == 7 && (0.03..0.06).contains(&last.loss), "{last:?}");
        assert!(last.rating.is_some_and(|rating| (75.0..85.0).contains(&rating)), "{last:?}");
        assert!(stream.quality().is_some_and(|quality| (3.8..4.2).contains(&quality.opinion)));
        assert_eq!(stream.remote_quality(), None, "it said nothing yet");
        let ours = stream.ssrcs().0;
        let theirs = VoipMetrics { ssrc: ours, loss: 0.25, conversation: Some(2.5), ..*last };
        let other = VoipMetrics { ssrc: ours + 1, conversation: Some(4.0), ..theirs };
        for metrics in [theirs, other] {
            let report = rtcp::write(7, None, None, "peer", Tail::Nothing);
            let report = [&report[..], &xr::write(7, &metrics)].concat();
            stream.handle_rtcp(start + MS(12_000), at("192.0.2.1:4001"), &report);
        }
        assert_eq!(stream.remote_quality().map(|quality| quality.opinion), Some(2.5));
        stream.renegotiate(quiet, 8_000);
        stream.handle_time(start + MS(20_000));
        let quiet = |out: &Out| matches!(out, Out::Rtcp(_, bytes) if bytes.len() < 90);
        assert!(drain(&mut stream).iter().all(quiet), "nobody asks any more");
    }

    #[test]
    fn sound_is_placed_by_the_clock_of_its_sender() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        for n in 0..100u64 {
            let now = start + MS(n * 20);
            stream.handle_rtp(now, peer(), &voice(7, n));
            tick(&mut stream, now + MS(12));
        }
        assert_eq!(stream.clock_offset(), None, "no report yet");
        // Its clock stands at 1000 s when its timestamp is 8000, which is a second after ours began.
        let info =
            rtcp::SenderInfo { ssrc: 7, ntp: 1000 << 32, rtp_timestamp: 8000, ..rtcp::SenderInfo::default() };
        let report = rtcp::write(7, Some(info), None, "peer", Tail::Nothing);
        stream.handle_rtcp(start + MS(2000), at("192.0.2.1:4001"), &report);
        let offset = stream.clock_offset().expect("both are known");
        assert_eq!(offset / 1_000_000, 1000 + 12 - 1_000_000, "played 12 ms after it came");
    }

    #[test]
    fn a_pause_in_sending_shows_in_timestamps_and_marker_and_not_in_numbers() {
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let mut sent = Vec::new();
        for ms in [0, 20, 40, 5000, 5020] {
            stream.send(start + MS(ms), 8, &[0; 160], 160, false);
            for out in drain(&mut stream) {
                if let Out::Rtp(_, bytes) = out {
                    let packet = Packet::parse(&bytes).expect("ours");
                    sent.push((packet.sequence, packet.timestamp, packet.marker));
                }
            }
        }
        let relative: Vec<_> = sent
            .iter()
            .map(|(sequence, timestamp, marker)| {
                (sequence - sent[0].0, timestamp.wrapping_sub(sent[0].1), *marker)
            })
            .collect();
        assert_eq!(
            relative,
            [(0, 0, true), (1, 160, false), (2, 320, false), (3, 40_000, true), (4, 40_160, false)]
        );
    }

    #[test]
    fn on_hold_nothing_is_sent_and_without_an_address_nothing_can_be() {
        let start = Instant::now();
        let mut held = AudioStream::new(start, settings(start), 1);
        held.redirect(Some(peer()), None, false, false);
        held.send(start, 8, &[0; 160], 160, false);
        assert!(drain(&mut held).is_empty());
        let mut settings = settings(start);
        settings.stream.remote = None;
        let mut nowhere = AudioStream::new(start, settings, 1);
        nowhere.send(start, 8, &[0; 160], 160, false);
        nowhere.handle_time(start + MS(600));
        assert!(drain(&mut nowhere).is_empty());
        assert_eq!(nowhere.statistics().unsent, 1);
    }

    #[test]
    fn with_one_port_control_packets_are_told_apart() {
        let start = Instant::now();
        let mut settings = settings(start);
        settings.stream.rtcp_mux = true;
        let mut stream = AudioStream::new(start, settings, 1);
        stream.handle_rtp(start, peer(), &voice(7, 0));
        stream.handle_rtp(start, peer(), &rtcp::write(7, None, None, "peer", Tail::Bye));
        assert_eq!(events(&mut stream), [AudioEvent::SourceLocked(peer()), AudioEvent::Bye]);
        stream.handle_time(start + MS(600));
        assert!(matches!(drain(&mut stream)[..], [Out::Rtcp(to, _)] if to == peer()));
    }

    #[test]
    fn mutated_datagrams_never_panic() {
        let mut random = StdRng::seed_from_u64(17);
        let start = Instant::now();
        let mut stream = AudioStream::new(start, settings(start), 1);
        let event = [1, 0x8a, 3, 0x20];
        for n in 0..60_000u64 {
            let now = start + MS(n * 5);
            let mut bytes = match n % 4 {
                0 => packet(7, 101, n / 4, &event).to_vec(),
                1 => rtcp::write(7, None, None, "peer", Tail::Bye).to_vec(),
                _ => voice(7, n / 4).to_vec(),
            };
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..bytes.len().min(20));
                bytes[at] = random.random();
            }
            bytes.truncate(bytes.len() - random.random_range(0..bytes.len()) * usize::from(n % 11 == 0));
            stream.handle_rtp(now, peer(), &bytes);
            stream.handle_rtcp(now, peer(), &bytes);
            stream.handle_time(now);
            if n % 4 == 0 {
                let mut buffered = 0;
                while let Playout::Packet { samples, .. } | Playout::Lost { samples, .. } =
                    stream.playout(now, buffered)
                {
                    buffered += samples;
                }
            }
            if n % 1000 == 0 {
                drain(&mut stream);
                assert!(events(&mut stream).len() <= 2 * EVENTS_MAX);
            }
        }
        assert!(stream.statistics().malformed > 0);
    }
}
