//! The audio stream of one call in its network task: packets, and every 20 ms what is heard and what is said.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::base::queue::{Fifo, Latest, Receiver, Sender, Taken};
use crate::base::time::Pts;
use crate::codec::conceal::Concealer;
use crate::codec::g711::{self, Law};
use crate::engine::mix::Mixer;
use crate::engine::network::figures::stream_report;
use crate::engine::network::guard::{Guard, Port};
use crate::engine::network::sockets::Sockets;
use crate::engine::plan::{AudioCodec, AudioStream as AudioStreamPlan, StreamReport};
use crate::media::audio::{Pcm, block_samples};
use crate::rtp::audio::{AudioFormat, AudioStream, Playout};
use crate::rtp::payload::dtmf::Digit;

/// How long a key is pressed, and the silence after it.
const DIGIT_MS: u32 = 160;
const DIGIT_PAUSE_BLOCKS: u32 = 5;

/// Prepared sound: the opening, and what is looped after it.
#[derive(Default)]
pub struct Prepared {
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
    pub beat: Beat,
}

/// What one block leaves for the next.
pub struct Beat {
    concealer: Concealer,
    heard: Vec<i16>,
    said: Vec<i16>,
    coded: Vec<u8>,
    first_sent: bool,
    /// Blocks until the next key may be pressed.
    pause: u32,
}

impl Beat {
    pub fn new(rate: u32) -> Self {
        let samples = block_samples(rate);
        Beat {
            concealer: Concealer::new(rate),
            heard: vec![0; samples],
            said: vec![0; samples],
            coded: Vec::with_capacity(samples * 3),
            first_sent: false,
            pause: 0,
        }
    }
}

impl AudioPart {
    pub fn sends(&self) -> bool {
        self.stream.route.direction.sends() && self.guard.ready()
    }

    pub fn receives(&self) -> bool {
        self.stream.route.direction.receives()
    }

    pub fn report(&self) -> StreamReport {
        stream_report(&self.machine.statistics(), self.first_ms, &self.guard)
    }

    /// Reads what waits at both ports. `false`: no packet did.
    pub fn read(&mut self) -> bool {
        let AudioPart { sockets, guard, machine, .. } = self;
        let any = sockets.read_rtp(|at, source, bytes| {
            if let Some(plain) = guard.receive(at, Port::Rtp, source, bytes) {
                machine.handle_rtp(at, source, plain);
            }
        });
        sockets.read_rtcp(|at, source, bytes| {
            if let Some(plain) = guard.receive(at, Port::Rtcp, source, bytes) {
                machine.handle_rtcp(at, source, plain);
            }
        });
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
            if !taken && stream.telephone_event != Some(*number) {
                stream.receive.push((*number, *codec));
            }
        }
        let formats = stream.receive.iter().map(|(number, _)| AudioFormat::g711(*number));
        self.machine.renegotiate(formats.collect(), stream.telephone_event);
        if stream.codec != self.stream.codec {
            self.beat.coded.clear();
        }
        self.stream = stream;
    }

    /// One 20 ms block: what is heard, what is said, and both to the recorder.
    pub fn beat(&mut self, epoch: Instant, now: Instant) {
        self.take_prepared();
        let heard = self.hear(now);
        let pts = Pts::at(epoch, now);
        let rate = self.stream.codec.clock_rate();
        if let (true, Some(recorder)) = (heard && self.receives(), &self.caller) {
            recorder.offer(Pcm { rate, pts, samples: self.beat.heard.as_slice().into() });
        }
        if !self.sends() {
            return;
        }
        self.press();
        let Beat { heard, said, coded, first_sent, .. } = &mut self.beat;
        self.mixer.fill(heard, said);
        if let Some(recorder) = &self.agent {
            recorder.offer(Pcm { rate, pts, samples: said.as_slice().into() });
        }
        g711::encode(law(self.stream.codec), said, coded);
        // G.711: one byte a sample. A packet may be shorter or longer than a block.
        let packet = (rate / 1000 * self.stream.ptime_ms.max(10)) as usize;
        while coded.len() >= packet {
            let marker = !std::mem::replace(first_sent, true);
            let payload_type = self.stream.send_payload_type;
            self.machine.send(now, payload_type, &coded[..packet], packet as u32, marker);
            coded.drain(..packet);
        }
    }

    fn take_prepared(&mut self) {
        match self.prepared.try_take() {
            Taken::Item(prepared) => {
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
        let Beat { concealer, heard, said, .. } = &mut self.beat;
        match self.machine.playout(now) {
            Playout::Packet { payload_type, payload, .. } => {
                let codec = self.stream.receive.iter().find(|(known, _)| *known == payload_type);
                heard.clear();
                g711::decode(law(codec.map_or(self.stream.codec, |(_, codec)| *codec)), payload, heard);
                heard.resize(said.len(), 0);
                concealer.good(heard);
                true
            }
            // G.711 is cut into blocks, so nothing is held over; a codec that is would be decoded here.
            Playout::Lost | Playout::Held => {
                heard.resize(said.len(), 0);
                concealer.conceal(heard);
                true
            }
            Playout::Quiet => {
                heard.clear();
                heard.resize(said.len(), 0);
                false
            }
        }
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

fn law(codec: AudioCodec) -> Law {
    match codec {
        AudioCodec::Pcmu => Law::Mu,
        AudioCodec::Pcma => Law::A,
    }
}
