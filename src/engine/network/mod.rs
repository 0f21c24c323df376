//! Driver. One call's packets: sockets ↔ RTP machines, the 20 ms audio beat, and the clock of dead media.
//!
//! A task of the media runtime. It moves packets and G.711; decoding and encoding of pictures are threads behind
//! queues. Streams come and go by [`Order`]. All rules about RTP are in `rtp/`.

#![expect(clippy::disallowed_methods, reason = "the task reads the clock for the RTP machines")]

mod alignment;
pub mod audio;
mod figures;
pub mod guard;
mod handshake;
mod hearing;
mod life;
pub mod sockets;
mod speaking;
mod stall;
pub mod video;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use crate::base::queue::{Fifo, Gop, Receiver, Sender};
use crate::base::stop::{Outcome, StopToken};
use crate::engine::lateness::Lateness;
use crate::engine::network::alignment::Alignment;
use crate::engine::network::audio::AudioPart;
use crate::engine::network::figures::{Figures, KeyRequests, Second};
use crate::engine::network::guard::Guard;
use crate::engine::network::life::{Life, Sign};
use crate::engine::network::stall::{Change, Look, Stall};
use crate::engine::network::video::{Inlet, VideoChange, VideoPart};
use crate::engine::plan::{AudioStream as AudioStreamPlan, CallId, Event, Timeouts};
use crate::engine::report::Gauges;
use crate::media::access_unit::AccessUnit;
use crate::media::audio::BLOCK_MS;
use crate::rtp::audio::AudioEvent;
use crate::rtp::lipsync::LipSync;
use crate::rtp::session::StreamStatistics;

/// How often sound is heard and said, and everything that is in no hurry is looked after.
const BEAT: Duration = Duration::from_millis(BLOCK_MS as u64);
/// The same while nothing may be heard, said or shown: a held call costs next to nothing.
const IDLE_BEAT: Duration = Duration::from_millis(200);

/// What may be changed while the task runs.
pub enum Order {
    /// A stream that was not there before.
    AddAudio(Box<AudioPart>),
    AddVideo(Box<VideoPart>),
    AddSlides(Box<VideoPart>),
    /// Offer and answer were renewed.
    Audio(Box<AudioStreamPlan>),
    Video(Box<VideoChange>),
    Slides(Box<VideoChange>),
    /// The stream is gone: its sockets close, its threads drain and end.
    DropAudio,
    DropVideo,
    /// The call is answered: silence counts from now on.
    Answered,
    DropSlides,
    SendKey,
    SendDigits(String),
}

/// Everything the task owns.
pub struct Network {
    pub call: CallId,
    pub epoch: Instant,
    pub audio: Option<AudioPart>,
    pub video: Option<VideoPart>,
    /// A shared screen, received only.
    pub slides: Option<VideoPart>,
    pub orders: Receiver<Order, Fifo>,
    pub events: Sender<Event, Fifo>,
    pub gauges: Arc<Gauges>,
    pub slides_gauges: Arc<Gauges>,
    pub lateness: Arc<Lateness>,
    pub timeouts: Timeouts,
    pub token: StopToken,
    pub lip_sync: LipSync,
}

/// The task and what it remembers of its call.
struct Task {
    network: Network,
    life: Life,
    audio_figures: Figures,
    video_figures: Figures,
    slides_figures: Figures,
    key_requests: KeyRequests,
    alignment: Alignment,
    stall: Stall,
}

enum Woken {
    /// `None`: the call is over.
    Order(Option<Order>),
    Time,
    Video,
    Slides,
    Unit(AccessUnit),
    EncoderGone,
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
            slides_figures: Figures::default(),
            key_requests: KeyRequests::default(),
            alignment: Alignment::default(),
            stall: Stall::default(),
        };
        let outcome = task.run().await;
        alarm.armed = false;
        outcome
    }

    /// The parts of a stream must not be shared between threads, only what is waited for.
    async fn wait(&mut self, next_beat: Instant, mut sleep: Pin<&mut Sleep>) -> Woken {
        let others = [
            self.audio.as_ref().map(AudioPart::wake_at),
            self.video.as_ref().map(VideoPart::wake_at),
            self.slides.as_ref().map(VideoPart::wake_at),
        ];
        let wake_at = others.into_iter().flatten().fold(next_beat, Instant::min).into();
        if sleep.deadline() != wake_at {
            sleep.as_mut().reset(wake_at);
        }
        let inlet = self.video.as_ref().map(|video| &video.inlet);
        let shared = self.slides.as_ref().map(|slides| &slides.inlet);
        let units = self.video.as_ref().and_then(|video| video.encoded.as_ref());
        tokio::select! {
            biased;
            // Orders first: a peer that was just told it may send must not lose its first packets to the old terms.
            order = self.orders.recv() => Woken::Order(order),
            () = sleep => Woken::Time,
            () = rung(inlet) => Woken::Video,
            () = rung(shared) => Woken::Slides,
            unit = encoded(units) => unit.map_or(Woken::EncoderGone, Woken::Unit),
        }
    }

    fn read_audio(&mut self, now: Instant) {
        let Some(audio) = &mut self.audio else { return };
        let any = audio.read();
        let AudioPart { machine, first_ms, .. } = audio;
        if any {
            note_first(self.epoch, now, first_ms, || machine.statistics());
        }
        while let Some(event) = machine.poll_event() {
            match event {
                AudioEvent::Digit(digit) => {
                    self.events.offer(Event::Digit { call: self.call, digit: digit.digit });
                }
                AudioEvent::SourceChanged => self.lip_sync.restart(),
                AudioEvent::SourceLocked(_) | AudioEvent::Bye => {}
            }
        }
    }

    fn read_video(&mut self, now: Instant, next_beat: Instant) {
        if let Some(video) = &mut self.video {
            video.read(now, next_beat, &self.gauges);
            note_first(self.epoch, now, &mut video.first_ms, || video.machine.statistics());
        }
    }

    fn read_slides(&mut self, now: Instant, next_beat: Instant) {
        if let Some(slides) = &mut self.slides {
            slides.read(now, next_beat, &self.slides_gauges);
            note_first(self.epoch, now, &mut slides.first_ms, || slides.machine.statistics());
        }
    }

    fn send_unit(&mut self, unit: &AccessUnit) {
        if let Some(video) = &mut self.video {
            let now = Instant::now();
            video.machine.send(now, unit);
            video.settle(now, &self.gauges);
        }
    }

    /// From one beat to the next.
    fn step(&self) -> Duration {
        let audio = self.audio.as_ref().is_some_and(AudioPart::is_active);
        let pictures = [&self.video, &self.slides].into_iter().flatten();
        if audio || pictures.into_iter().any(VideoPart::is_active) { BEAT } else { IDLE_BEAT }
    }

    /// `due`: when this beat should have come. What is heard and said keeps that time, however late it is done.
    fn beat(&mut self, now: Instant, due: Instant) {
        self.lateness.note(now.saturating_duration_since(due));
        self.read_audio(now);
        if let Some(audio) = &mut self.audio {
            audio.beat(self.epoch, due);
        }
        self.align_pictures(due);
        if let Some(video) = &mut self.video {
            video.read_rtcp(now, &self.gauges);
        }
        if let Some(slides) = &mut self.slides {
            slides.read_rtcp(now, &self.slides_gauges);
        }
        let parts = [self.video.as_mut(), self.slides.as_mut()];
        // Both are looked at: asking clears what is asked.
        if parts.into_iter().flatten().fold(false, |wants, part| part.watch_key(now) | wants) {
            self.events.offer(Event::WantsKey { call: self.call });
        }
    }

    /// Pictures are moved to where the sound that belongs to them is.
    fn align_pictures(&mut self, due: Instant) {
        let (Some(audio), Some(video)) = (&self.audio, &mut self.video) else { return };
        let (sound, picture) = (audio.machine.clock_offset(), video.machine.clock_offset());
        self.lip_sync.update(due, sound, picture, audio.machine.playout_delay());
        video.shift = self.lip_sync.shift();
        video.skew_ms = self.lip_sync.residual().map(|nanos| nanos as f64 / 1e6);
    }

    fn handle_time(&mut self, now: Instant, next_beat: Instant) {
        if let Some(audio) = self.audio.as_mut().filter(|audio| now >= audio.wake_at()) {
            audio.handle_time(now);
        }
        if self.video.as_ref().and_then(|video| video.inlet.read_at()).is_some_and(|at| now >= at) {
            self.read_video(now, next_beat);
        }
        if let Some(video) = self.video.as_mut().filter(|video| now >= video.wake_at()) {
            video.handle_time(now, &self.gauges);
        }
        if self.slides.as_ref().and_then(|slides| slides.inlet.read_at()).is_some_and(|at| now >= at) {
            self.read_slides(now, next_beat);
        }
        if let Some(slides) = self.slides.as_mut().filter(|slides| now >= slides.wake_at()) {
            slides.handle_time(now, &self.slides_gauges);
        }
        let guards = [
            self.audio.as_mut().map(|audio| &mut audio.guard),
            self.video.as_mut().map(|video| &mut video.guard),
            self.slides.as_mut().map(|slides| &mut slides.guard),
        ];
        for why in guards.into_iter().flatten().filter_map(Guard::take_failure) {
            self.events.offer(Event::Unprotected { call: self.call, why });
        }
    }

    /// Sends whatever the machines have ready.
    fn flush(&mut self) {
        if let Some(audio) = &mut self.audio {
            audio.flush();
        }
        for video in [&mut self.video, &mut self.slides].into_iter().flatten() {
            video.flush();
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
        let mut next_beat = Instant::now();
        let mut sleep = std::pin::pin!(sleep_until(next_beat.into()));
        let mut second = Second::new(self.network.epoch);
        loop {
            self.network.flush();
            let woken = self.network.wait(next_beat, sleep.as_mut()).await;
            if self.network.token.is_stopped() {
                break;
            }
            match woken {
                Woken::Order(Some(order)) => {
                    let now = Instant::now();
                    self.obey(now, order);
                    next_beat = next_beat.min(now + self.network.step());
                }
                Woken::Order(None) => break,
                Woken::Time => {
                    let now = Instant::now();
                    self.network.handle_time(now, next_beat);
                    // Beats that were missed are made up for.
                    while now >= next_beat {
                        self.network.beat(now, next_beat);
                        next_beat += match self.network.step() {
                            BEAT => BEAT - self.alignment.step(self.network.audio.as_ref()),
                            idle => idle,
                        };
                    }
                    self.watch_picture(now);
                    if second.is_over(now) {
                        self.publish(now, &mut second);
                        self.check_life(now);
                    }
                }
                Woken::Video => self.network.read_video(Instant::now(), next_beat),
                Woken::Slides => self.network.read_slides(Instant::now(), next_beat),
                Woken::Unit(unit) => self.network.send_unit(&unit),
                Woken::EncoderGone => self.network.encoder_gone(),
            }
        }
        let now = Instant::now();
        self.drop_audio(now);
        self.drop_video(now);
        self.drop_slides(now);
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
                    audio.renew(now, *stream);
                }
            }
            Order::Video(change) => {
                if let Some(video) = &mut self.network.video {
                    video.renew(now, *change);
                    video.settle(now, &self.network.gauges);
                }
            }
            Order::Answered => {}
            Order::AddSlides(part) => {
                self.drop_slides(now);
                self.network.slides = Some(*part);
            }
            Order::Slides(change) => {
                if let Some(slides) = &mut self.network.slides {
                    slides.renew(now, *change);
                    slides.settle(now, &self.network.slides_gauges);
                }
            }
            Order::DropSlides => self.drop_slides(now),
            Order::DropAudio => self.drop_audio(now),
            Order::DropVideo => self.drop_video(now),
        }
        self.life.changed(now);
    }

    /// Tells when the peer's picture stands still, and when it moves again. A decoder that is stuck needs a start.
    fn watch_picture(&mut self, now: Instant) {
        let Network { video, gauges, events, call, .. } = &mut self.network;
        let packets = video.as_ref().map_or(0, |video| video.machine.packets_received());
        let receives = video.as_ref().is_some_and(VideoPart::receives);
        let look = Look { pictures: gauges.decoded.value(), packets, receives };
        let Some(change) = self.stall.look(now, look) else { return };
        let (count, total) = self.stall.figures();
        gauges.stalls.set(count);
        gauges.stalled_ms.set(u64::try_from(total.as_millis()).unwrap_or(u64::MAX));
        let call = *call;
        match change {
            Change::Stalled { packets } => {
                if let Some(video) = video.as_mut().filter(|_| packets) {
                    video.machine.request_key(now);
                }
                events.offer(Event::PictureStalled { call, packets });
            }
            Change::Resumed { after } => {
                let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                events.offer(Event::PictureResumed { call, after_ms });
            }
        }
    }

    fn drop_audio(&mut self, now: Instant) {
        if let Some(mut audio) = self.network.audio.take() {
            audio.close(now);
            self.audio_figures.keep(audio.report());
        }
    }

    fn drop_video(&mut self, now: Instant) {
        if let Some(mut video) = self.network.video.take() {
            video.close(now);
            self.video_figures.keep(video.report());
            self.key_requests = self.key_requests.and(Some(video.machine.counters()));
        }
    }

    fn drop_slides(&mut self, now: Instant) {
        if let Some(mut slides) = self.network.slides.take() {
            slides.close(now);
            self.slides_figures.keep(slides.report());
        }
    }

    fn publish(&self, now: Instant, second: &mut Second) {
        let Network { audio, video, gauges, .. } = &self.network;
        let audio = self.audio_figures.with(audio.as_ref().map(AudioPart::report));
        let requests = self.key_requests.and(video.as_ref().map(|video| video.machine.counters()));
        gauges.set_streams(audio, self.video_figures.with(video.as_ref().map(VideoPart::report)));
        gauges.key_requests_sent.set(requests.sent);
        gauges.key_requests_received.set(requests.received);
        let slides = self.network.slides.as_ref().map(VideoPart::report);
        self.network.slides_gauges.set_streams(None, self.slides_figures.with(slides));
        second.turn(now, gauges);
    }

    /// Tells the call when nothing has come for too long.
    fn check_life(&mut self, now: Instant) {
        let Network { audio, video, timeouts, .. } = &self.network;
        let sign = |statistics: StreamStatistics, guard: &Guard, receives| {
            let heard = statistics.last_received.max(statistics.last_rtcp_received);
            Sign { last: heard.max(guard.last_check()), receives }
        };
        let audio =
            audio.as_ref().map(|audio| sign(audio.machine.statistics(), &audio.guard, audio.receives()));
        let video =
            video.as_ref().map(|video| sign(video.machine.statistics(), &video.guard, video.receives()));
        if self.life.is_over(now, timeouts, [audio, video]) {
            self.network.events.offer(Event::MediaLost { call: self.network.call });
        }
    }
}

fn note_first(
    epoch: Instant,
    now: Instant,
    first_ms: &mut Option<u64>,
    statistics: impl FnOnce() -> StreamStatistics,
) {
    if first_ms.is_none() && statistics().packets_received > 0 {
        *first_ms = u64::try_from(now.saturating_duration_since(epoch).as_millis()).ok();
    }
}

async fn rung(inlet: Option<&Inlet>) {
    match inlet {
        Some(inlet) => inlet.rung().await,
        None => pending().await,
    }
}

async fn encoded(units: Option<&Receiver<AccessUnit, Gop>>) -> Option<AccessUnit> {
    match units {
        Some(units) => units.recv().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
