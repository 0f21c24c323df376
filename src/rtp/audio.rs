//! One audio stream in both directions.
//!
//! How to drive it, from the task that owns the sockets:
//! ```text
//! datagram of the RTP socket    handle_rtp      (RTCP on the same port is told apart here)
//! datagram of the RTCP socket   handle_rtcp
//! every 20 ms                   playout         (decode what it gives, conceal on Lost, silence on Quiet)
//! encoded audio to send         send            (digits queued by send_digit leave in its place)
//! at wake_at()                  handle_time
//! after each of these           poll until None, poll_event until None
//! at the end                    close, poll
//! ```
//! A tick that was missed is made up for by calling `playout` again. Delay and order are `jitter`, sources and
//! reports `session`, digits `payload::dtmf`; decoding, concealing and mixing are elsewhere.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::rtp::jitter::{Incoming, JitterBuffer, JitterCounters, Next};
use crate::rtp::packet;
use crate::rtp::payload::dtmf::{Digit, Receiver, Sender};
use crate::rtp::rtcp::Tail;
use crate::rtp::session::{
    Feedback, Out, Received, SendHeader, Session, SourceEvent, StreamSettings, StreamStatistics,
};

/// RFC 3550's own limit: nobody sends audio again that came this late.
const MISORDER_MAX: u16 = 100;
const CHUNK_LEN: usize = 4 << 10;
const EVENTS_MAX: usize = 64;
/// A pause in sending that the timestamps must show.
const SEND_GAP: Duration = Duration::from_millis(200);

/// One payload type taken, and how its packets may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioFormat {
    pub payload_type: u8,
    /// Of its timestamps, in Hz.
    pub clock_rate: u32,
    /// Bytes of 20 ms for codecs whose packets can be cut anywhere: 160 for G.711 and G.722. `None`: packets are
    /// played whole.
    pub bytes_per_20ms: Option<usize>,
}

impl AudioFormat {
    /// PCMU, PCMA and G.722.
    pub fn g711(payload_type: u8) -> Self {
        AudioFormat { payload_type, clock_rate: 8_000, bytes_per_20ms: Some(160) }
    }
}

/// What one audio stream needs to know.
#[derive(Clone, Debug)]
pub struct AudioSettings {
    pub stream: StreamSettings,
    /// Everything the peer may send, audio only.
    pub receive: Vec<AudioFormat>,
    /// Payload type of telephone events, at the stream's clock rate.
    pub telephone_event: Option<u8>,
}

/// What one tick of 20 ms plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Playout<'a> {
    /// Decode this. With `bytes_per_20ms` it is 20 ms, shorter only where the rest was lost: conceal the rest.
    /// Without, it is one whole packet, and [`Playout::Held`] follows while it lasts.
    Packet {
        payload_type: u8,
        payload: &'a [u8],
        /// It cannot be cut: `payload` is one packet as it came.
        whole: bool,
        /// The sender's clock.
        timestamp: u32,
        /// When its first sample came or would have come on the fastest path, on the call's media clock.
        pts: Pts,
    },
    /// The packet given before goes on for this block.
    Held,
    /// Conceal one block.
    Lost,
    /// The sender is silent, or there is none yet.
    Quiet,
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
    telephone_event: Option<u8>,
    jitter: JitterBuffer,
    digits: Receiver,
    digits_out: Sender,
    events: VecDeque<AudioEvent>,
    next_timestamp: u32,
    /// When the next packet should leave if none is left out.
    next_send: Option<Instant>,
}

impl AudioStream {
    /// `seed`: for SSRC, first timestamp and report times; different for every stream.
    pub fn new(now: Instant, settings: AudioSettings, seed: u64) -> Self {
        let clock_rate = settings.stream.clock_rate;
        let mut session = Session::new(now, settings.stream, MISORDER_MAX, CHUNK_LEN, seed);
        AudioStream {
            next_timestamp: session.random_timestamp(),
            session,
            receive: settings.receive,
            telephone_event: settings.telephone_event,
            jitter: JitterBuffer::new(now, clock_rate),
            digits: Receiver::new(clock_rate),
            digits_out: Sender::new(clock_rate),
            events: VecDeque::new(),
            next_send: None,
        }
    }

    fn format(&self, payload_type: u8) -> Option<AudioFormat> {
        self.receive.iter().find(|format| format.payload_type == payload_type).copied()
    }

    /// A datagram of the RTP socket.
    pub fn handle_rtp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        if packet::is_rtcp(bytes) {
            return self.handle_rtcp(now, source, bytes);
        }
        let (formats, event) = (&self.receive, self.telephone_event);
        let is_known = |kind| event == Some(kind) || formats.iter().any(|format| format.payload_type == kind);
        let Some(received) = self.session.receive(now, source, bytes, is_known) else {
            return;
        };
        if received.restarted {
            self.jitter.restart();
            self.digits = Receiver::new(self.session.settings().clock_rate);
        }
        let Received { packet, extended, .. } = received;
        if Some(packet.payload_type) == self.telephone_event {
            self.jitter.pause(extended);
            match self.digits.push(now, packet.timestamp, packet.marker, packet.payload) {
                Ok(digit) => self.report(digit.map(AudioEvent::Digit)),
                Err(_) => self.session.malformed_payload(),
            }
        } else if let Some(format) = self.format(packet.payload_type) {
            let incoming = Incoming {
                extended,
                timestamp: packet.timestamp,
                payload_type: packet.payload_type,
                payload: packet.payload,
                bytes_per_20ms: format.bytes_per_20ms,
            };
            self.jitter.push(now, incoming);
        } else {
            // Comfort noise and the like: the sender is there and has nothing to say.
            self.jitter.pause(extended);
        }
    }

    /// A datagram of the RTCP socket.
    pub fn handle_rtcp(&mut self, now: Instant, source: SocketAddr, bytes: &[u8]) {
        let ignore = |_: Feedback| {};
        self.session.receive_rtcp(now, source, bytes, ignore);
    }

    /// What to play now; call once for every 20 ms.
    pub fn playout(&mut self, now: Instant) -> Playout<'_> {
        match self.jitter.tick(now, self.session.sequence()) {
            Next::Block { payload_type, timestamp } => {
                let whole = self.format(payload_type).is_some_and(|format| format.bytes_per_20ms.is_none());
                let at = self.jitter.arrival_of(timestamp).unwrap_or(now);
                let pts = Pts::at(self.session.settings().epoch, at);
                Playout::Packet { payload_type, payload: self.jitter.block(), whole, timestamp, pts }
            }
            Next::Held => Playout::Held,
            Next::Lost => Playout::Lost,
            Next::Quiet => Playout::Quiet,
        }
    }

    /// Sends one packet of encoded audio, `samples` long on the RTP clock. `marker`: speech begins here.
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
        let event =
            self.telephone_event.and_then(|kind| Some((kind, self.digits_out.tick(timestamp, samples)?)));
        match event {
            Some((payload_type, event)) => {
                let header = SendHeader { marker: event.marker, payload_type, timestamp: event.timestamp };
                // Its timestamp is that of the digit's beginning.
                let since = timestamp.wrapping_sub(event.timestamp);
                let begun = Duration::from_nanos(u64::from(since) * 1_000_000_000 / u64::from(clock_rate));
                self.session.send(now, header, pts - begun, &[&event.payload]);
            }
            None => {
                let header = SendHeader { marker, payload_type, timestamp };
                self.session.send(now, header, pts, &[payload]);
            }
        }
    }

    /// Queues a digit to be sent as telephone event, in the rhythm of [`AudioStream::send`]. `false`: not
    /// negotiated, not a digit, or too many wait.
    pub fn send_digit(&mut self, digit: Digit) -> bool {
        self.telephone_event.is_some() && self.digits_out.press(digit)
    }

    /// Whether digits are still going out.
    pub fn is_sending_digits(&self) -> bool {
        self.digits_out.is_busy()
    }

    /// Sends what is due, ends digits whose end was lost.
    pub fn handle_time(&mut self, now: Instant) {
        let digit = self.digits.handle_time(now);
        self.report(digit.map(AudioEvent::Digit));
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

    /// A renewed offer and answer: what the peer may send from now on.
    pub fn renegotiate(&mut self, receive: Vec<AudioFormat>, telephone_event: Option<u8>) {
        self.receive = receive;
        self.telephone_event = telephone_event;
    }

    /// Says goodbye in RTCP.
    pub fn close(&mut self, now: Instant) {
        self.session.report(now, Tail::Bye);
    }

    /// What playout gave was no sound of its codec.
    pub fn undecodable(&mut self) {
        self.session.malformed_payload();
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

    /// Our SSRC and the peer's.
    pub fn ssrcs(&self) -> (u32, Option<u32>) {
        (self.session.ssrc(), self.session.remote_ssrc())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::time::SystemTime;

    use super::*;
    use crate::base::time::Clock;
    use crate::rtp::packet::{Header, Packet, Writer};
    use crate::rtp::rtcp::{self, Message};

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
                signalling: None,
                rtcp_mux: false,
                receives: true,
                sends: true,
                clock: Clock::new(now, SystemTime::UNIX_EPOCH),
                epoch: now,
            },
            receive: vec![AudioFormat::g711(0), AudioFormat::g711(8)],
            telephone_event: Some(101),
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
        match stream.playout(now) {
            Playout::Packet { payload, .. } => payload[0].to_string(),
            Playout::Held => "h".into(),
            Playout::Lost => "L".into(),
            Playout::Quiet => "q".into(),
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
            let got = stream.playout(now + MS(5));
            let Playout::Packet { payload_type: got_type, payload, pts, .. } = got else {
                panic!("{got:?} at {n}");
            };
            assert_eq!((payload, got_type), (&[n as u8 - 1; 160][..], if n - 1 < 25 { 0 } else { 8 }));
            assert_eq!(pts.millis(), 1000 + (n as i64 - 1) * 20);
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
            agent.playout(now + MS(12));
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
        assert_eq!(agent.playout_counters().concealed, 0);
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
        let mut stream = AudioStream::new(start, settings(start), 1);
        let (rtp, control) = (at("198.51.100.9:61000"), at("198.51.100.9:61007"));
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
                stream.playout(now);
            }
            if n % 1000 == 0 {
                drain(&mut stream);
                assert!(events(&mut stream).len() <= 2 * EVENTS_MAX);
            }
        }
        assert!(stream.statistics().malformed > 0);
    }
}
