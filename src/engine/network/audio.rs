//! The audio stream of one call in its network task: packets, and every 20 ms what is heard and what is said.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::base::queue::{Fifo, Latest, Receiver, Sender, Taken};
use crate::base::time::Pts;
use crate::engine::mix::Mixer;
use crate::engine::network::figures::{quality_report, stream_report};
use crate::engine::network::guard::{Guard, Port};
use crate::engine::network::hearing::Hearing;
use crate::engine::network::sockets::Sockets;
use crate::engine::network::speaking::Speaking;
use crate::engine::plan::{AudioCodec, AudioStream as AudioStreamPlan, Direction, StreamReport};
use crate::engine::playout::Playout;
use crate::media::audio::{Pcm, block_samples};
use crate::media::codec::CodecError;
use crate::rtp::audio::{AudioFormat, AudioStream, AudioTerms};
use crate::rtp::payload::dtmf::Digit;

/// How long a key is pressed, and the silence after it.
const DIGIT_MS: u32 = 160;
const DIGIT_PAUSE_BLOCKS: u32 = 5;
/// Blocks between two looks at what the peer reports as lost.
const LOSS_BLOCKS: u32 = 50;

/// Prepared sound: the opening, and what is looped after it.
#[derive(Default)]
pub struct Prepared {
    /// Hz of both.
    pub rate: u32,
    pub opening: Option<Arc<[i16]>>,
    pub looped: Option<Arc<[i16]>>,
}

/// The audio stream of one call.
pub struct AudioPart {
    pub sockets: Sockets,
    pub guard: Guard,
    pub machine: AudioStream,
    /// When the first packet came, on the call's clock.
    pub first_ms: Option<u64>,
    pub stream: AudioStreamPlan,
    pub mixer: Mixer,
    pub prepared: Receiver<Prepared, Latest>,
    /// Keys still to be pressed.
    pub digits: VecDeque<char>,
    pub caller: Option<Sender<Pcm, Fifo>>,
    pub agent: Option<Sender<Pcm, Fifo>>,
    /// What an agent hears, every block of it, and what it says.
    pub listener: Option<Sender<Pcm, Fifo>>,
    pub playout: Option<Playout>,
    pub beat: Beat,
}

/// The RTCP port of sound is read every so many blocks: a system call for nothing costs as much as one for a packet.
const REPORT_BLOCKS: u32 = 5;

/// What one block leaves for the next.
pub struct Beat {
    /// Hz of what is heard, said and recorded: the sample rate of the codec we send.
    rate: u32,
    hearing: Hearing,
    speaking: Speaking,
    heard: Vec<i16>,
    said: Vec<i16>,
    first_sent: bool,
    /// Blocks until the next key may be pressed.
    pause: u32,
    /// Blocks until the peer's reports are looked at.
    until_loss: u32,
    /// Blocks until the RTCP port is read.
    until_reports: u32,
}

impl Beat {
    pub fn new(stream: &AudioStreamPlan) -> Result<Self, CodecError> {
        let rate = stream.codec.sample_rate();
        let samples = block_samples(rate);
        Ok(Beat {
            rate,
            hearing: Hearing::new(rate, &stream.receive),
            speaking: Speaking::new(stream)?,
            heard: vec![0; samples],
            said: vec![0; samples],
            first_sent: false,
            pause: 0,
            until_loss: LOSS_BLOCKS,
            until_reports: 0,
        })
    }

    /// Offer and answer were renewed.
    fn renew(&mut self, stream: &AudioStreamPlan) -> Result<(), CodecError> {
        self.rate = stream.codec.sample_rate();
        self.hearing.renew(self.rate, &stream.receive);
        for block in [&mut self.heard, &mut self.said] {
            block.clear();
            block.resize(block_samples(self.rate), 0);
        }
        self.speaking.renew(stream)
    }
}

impl AudioPart {
    pub fn sends(&self) -> bool {
        self.stream.route.direction.sends() && self.guard.ready()
    }

    /// Whether sound may flow, either way.
    pub fn is_active(&self) -> bool {
        self.stream.route.direction != Direction::Inactive || !self.digits.is_empty()
    }

    pub fn receives(&self) -> bool {
        self.stream.route.direction.receives()
    }

    pub fn report(&self) -> StreamReport {
        StreamReport {
            quality: quality_report(&self.machine, self.beat.hearing.stretched_ms()),
            ..stream_report(&self.machine.statistics(), self.first_ms, &self.guard)
        }
    }

    /// Reads what waits at both ports. `false`: no packet did.
    pub fn read(&mut self) -> bool {
        let AudioPart { sockets, guard, machine, .. } = self;
        let any = sockets.read_rtp(|at, source, bytes| {
            if let Some(plain) = guard.receive(at, Port::Rtp, source, bytes) {
                machine.handle_rtp(at, source, plain);
            }
        });
        // Reports are in no hurry and the kernel notes when they come; handshakes on their port are.
        self.beat.until_reports = self.beat.until_reports.saturating_sub(1);
        if self.beat.until_reports == 0 || self.stream.route.protection.is_some() {
            self.beat.until_reports =
                if self.stream.route.direction == Direction::Inactive { 1 } else { REPORT_BLOCKS };
            sockets.read_rtcp(|at, source, bytes| {
                if let Some(plain) = guard.receive(at, Port::Rtcp, source, bytes) {
                    machine.handle_rtcp(at, source, plain);
                }
            });
        }
        self.follow();
        any
    }

    /// Does what is due.
    pub fn handle_time(&mut self, now: Instant) {
        if now >= self.machine.wake_at() {
            self.machine.handle_time(now);
        }
        self.guard.handle_time(now);
        self.follow();
    }

    pub fn wake_at(&self) -> Instant {
        self.guard.wake_at().map_or(self.machine.wake_at(), |at| at.min(self.machine.wake_at()))
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

    /// Media goes where, and when, the guard lets it.
    fn follow(&mut self) {
        if self.guard.take_change() {
            let (remote, rtcp) = self.guard.remotes();
            self.machine.redirect(remote, rtcp, self.receives(), self.sends());
        }
    }

    /// Offer and answer were renewed. What the peer might send before stays known: it may be on its way.
    pub fn renew(&mut self, now: Instant, mut stream: AudioStreamPlan) {
        let route = &stream.route;
        self.guard.renew(now, route);
        let (receives, sends) = (route.direction.receives(), route.direction.sends() && self.guard.ready());
        let (remote, rtcp) = self.guard.remotes();
        self.machine.set_authentic(route.protection.is_some());
        self.machine.redirect(remote, rtcp, receives, sends);
        self.machine.set_rtcp_mux(route.rtcp_mux);
        self.sockets.mux = route.rtcp_mux;
        for (number, codec) in &self.stream.receive {
            let taken = stream.receive.iter().any(|(known, _)| known == number);
            let other = stream.telephone_events.iter().chain(&stream.comfort_noises);
            if !taken && !other.into_iter().any(|(known, _)| known == number) {
                stream.receive.push((*number, *codec));
            }
        }
        self.machine.renegotiate(terms(&stream), stream.codec.clock_rate());
        if let Err(error) = self.beat.renew(&stream) {
            tracing::error!("{} cannot be sent: {error}", stream.codec.name());
        }
        self.mixer.set_rate(self.beat.rate);
        self.stream = stream;
    }

    /// One 20 ms block: what is heard, what is said, and both to the recorder.
    pub fn beat(&mut self, epoch: Instant, now: Instant) {
        self.take_prepared();
        let heard = self.hear(now);
        let pts = Pts::at(epoch, now);
        let rate = self.beat.rate;
        if let (true, Some(recorder)) = (heard && self.receives(), &self.caller) {
            recorder.offer(Pcm { rate, pts, samples: self.beat.heard.as_slice().into() });
        }
        if let Some(listener) = &self.listener {
            // When it came, not when it is played: who answers counts pauses from there.
            let pts = pts - self.machine.playout_delay();
            listener.offer(Pcm { rate, pts, samples: self.beat.heard.as_slice().into() });
        }
        if !self.sends() {
            if let Some(playout) = &mut self.playout {
                playout.pass_by();
            }
            return;
        }
        self.press();
        self.follow_loss();
        let Beat { heard, said, speaking, first_sent, .. } = &mut self.beat;
        self.mixer.fill(heard, said);
        if let Some(playout) = &mut self.playout {
            playout.fill(now, rate, said);
        }
        if let Some(recorder) = &self.agent {
            recorder.offer(Pcm { rate, pts, samples: said.as_slice().into() });
        }
        let (machine, payload_type) = (&mut self.machine, self.stream.send_payload_type);
        speaking.say(said, |spoken| {
            let marker = !std::mem::replace(first_sent, true);
            machine.send(now, payload_type, spoken.payload, spoken.ticks, marker);
        });
    }

    /// What helps over losses is worth its bits only where there are some.
    fn follow_loss(&mut self) {
        let Beat { speaking, until_loss, .. } = &mut self.beat;
        *until_loss -= 1;
        if *until_loss == 0 {
            *until_loss = LOSS_BLOCKS;
            let lost = self.machine.statistics().remote_lost_fraction.unwrap_or(0.0);
            speaking.set_loss((lost * 100.0).round().clamp(0.0, 100.0) as u8);
        }
    }

    fn take_prepared(&mut self) {
        match self.prepared.try_take() {
            Taken::Item(prepared) => {
                self.mixer.set_source_rate(prepared.rate);
                match prepared.opening {
                    Some(opening) => self.mixer.open_with(opening),
                    None => self.mixer.open_without(),
                }
                if let Some(looped) = prepared.looped {
                    self.mixer.loop_over(looped);
                }
            }
            Taken::Empty => {}
            // Whoever prepared the opening is done, or broke: nothing more is worth waiting for.
            Taken::Closed => self.mixer.open_without(),
        }
    }

    /// Fills the block that is heard now. `false`: there is nothing to hear.
    fn hear(&mut self, now: Instant) -> bool {
        self.beat.hearing.play(&mut self.machine, now, &mut self.beat.heard)
    }

    /// One key at a time, with a pause that door stations need to tell two presses apart.
    fn press(&mut self) {
        if self.machine.is_sending_digits() {
            self.beat.pause = DIGIT_PAUSE_BLOCKS;
        } else if self.beat.pause > 0 {
            self.beat.pause -= 1;
        } else if let Some(digit) = self.digits.pop_front() {
            self.machine.send_digit(Digit { digit, duration_ms: DIGIT_MS });
        }
    }
}

/// What the peer may send, in the words of its RTP machine.
pub fn terms(stream: &AudioStreamPlan) -> AudioTerms {
    let format = |&(payload_type, codec): &(u8, AudioCodec)| AudioFormat {
        payload_type,
        clock_rate: codec.clock_rate(),
        bytes_per_20ms: codec.bytes_per_20ms(),
    };
    AudioTerms {
        receive: stream.receive.iter().map(format).collect(),
        telephone_events: stream.telephone_events.clone(),
        comfort_noises: stream.comfort_noises.clone(),
        extended_reports: stream.extended_reports,
    }
}
