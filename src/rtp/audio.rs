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
    /// Bytes of 20 ms for codecs whose packets can be cut anywhere: 160 for G.711 and G.722. `None`: packets are
    /// played whole.
    pub bytes_per_20ms: Option<usize>,
}

impl AudioFormat {
    /// PCMU, PCMA and G.722.
    pub fn g711(payload_type: u8) -> Self {
        AudioFormat { payload_type, bytes_per_20ms: Some(160) }
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
                let at = self.jitter.arrival_of(timestamp).unwrap_or(now);
                let pts = Pts::at(self.session.settings().epoch, at);
                Playout::Packet { payload_type, payload: self.jitter.block(), timestamp, pts }
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

    /// Says goodbye in RTCP.
    pub fn close(&mut self, now: Instant) {
        self.session.report(now, Tail::Bye);
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
