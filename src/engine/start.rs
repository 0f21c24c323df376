//! Driver. Every call's engine: binds ports and gives them back, carries out what calls want of their graphs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Handle;

use crate::base::queue::{self, Fifo, Offered, Receiver};
use crate::base::stop::{Outcome, Scope};
use crate::base::time::Clock;
use crate::codec::h264::encoder::EncoderKind;
use crate::engine::canvas::Showing;
use crate::engine::darkroom::Darkroom;
use crate::engine::graph::{Pairs, Running, Supplies};
use crate::engine::lateness::LatenessFigures;
use crate::engine::network::Order;
use crate::engine::pictures::{Pictures, Studio};
use crate::engine::plan::{BoundPorts, CallId, Command, Event, Gating, Plan, Streams, Wanted};
use crate::engine::ports::{Pair, PortRange};
use crate::engine::talk::{Agent, TalkOrder};
use crate::engine::voice::Speaker;
use crate::media::codec::Detector;
use crate::secure::dtls::Identity;
use crate::vision::observer::ObserverSettings;
use crate::vision::schedule::Schedule;

const EVENTS_DEPTH: usize = 256;

/// Where detectors come from, by their configured name.
pub trait Catalogue: Send + Sync {
    /// For a gate: every picture waits for it.
    fn gate(&self, name: &str) -> Result<(Box<dyn Detector>, Schedule), String>;
    /// For an observer.
    fn observer(&self, name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String>;
}

/// What every call's engine shares.
#[derive(Clone)]
pub struct Settings {
    pub rtp_ports: (u16, u16),
    pub seed: [u8; 32],
    pub clock: Clock,
    /// RTCP name of this box.
    pub cname: String,
    pub catalogue: Arc<dyn Catalogue>,
    /// The certificate of this box for DTLS-SRTP. `None`: streams that need one fail.
    pub dtls: Option<Arc<Identity>>,
    /// Where an encoder of a configured name is chosen by proof; remembered, so calls do not wait for it.
    pub choose_encoder: fn(&str, bool) -> Result<EncoderKind, String>,
    /// What the single pictures of all calls share.
    pub studio: Studio,
}

/// The engines of all calls, owned by the control loop.
pub struct Engines {
    supplies: Supplies,
    ports: PortRange,
    calls: HashMap<CallId, Entry>,
    closing: Scope,
}

/// The port of one stream, from `Prepare` until the stream or the call is gone.
#[derive(Default)]
struct Slot {
    port: Option<u16>,
    /// Its sockets, until a stream runs on them.
    pair: Option<Pair>,
}

#[derive(Default)]
struct Entry {
    audio: Slot,
    video: Slot,
    slides: Slot,
    running: Option<Running>,
}

impl Slot {
    /// The sockets, if a stream begins on them now.
    fn begin(&mut self, begins: bool) -> Option<Pair> {
        if begins { self.pair.take() } else { None }
    }

    /// The port, if the stream on it is gone; its sockets close with the stream.
    fn end(&mut self, ends: bool) -> Option<u16> {
        if ends { std::mem::take(self).port } else { None }
    }
}

impl Engines {
    /// `media`: the runtime of network tasks; `runtime`: where engines are taken down.
    pub fn new(settings: Settings, media: Handle, runtime: Handle) -> (Self, Receiver<Event, Fifo>) {
        let (events, heard) = queue::queue(Fifo { depth: EVENTS_DEPTH });
        let mut rng = StdRng::from_seed(settings.seed);
        let (low, high) = settings.rtp_ports;
        let start = rng.next_u32() as u16;
        let mut closing = Scope::new("engines", runtime.clone());
        let darkroom = Darkroom::start(&mut closing);
        let engines = Engines {
            ports: PortRange::new(low, high, start),
            closing,
            calls: HashMap::new(),
            supplies: Supplies {
                settings,
                media,
                runtime: runtime.clone(),
                speaker: Speaker::default(),
                rng,
                events,
                lateness: Arc::default(),
                darkroom,
            },
        };
        (engines, heard)
    }

    /// The running engine of a call, for figures.
    pub fn running(&self, call: CallId) -> Option<&Running> {
        self.calls.get(&call).and_then(|entry| entry.running.as_ref())
    }

    /// The single pictures of a running call.
    pub fn pictures(&self, call: CallId) -> Option<Arc<Pictures>> {
        self.running(call).map(|running| running.pictures().clone())
    }

    /// What clears pictures for an agent whose call does not exist yet.
    pub fn pictures_beforehand(
        &self,
        gating: Option<Gating>,
        showing: &Showing,
        agent: Option<&Arc<Agent>>,
    ) -> Arc<Pictures> {
        self.supplies.beforehand(gating, showing, agent)
    }

    /// Pairs of RTP ports that are free.
    pub fn free_port_pairs(&mut self, now: Instant) -> usize {
        self.ports.free(now)
    }

    /// How late the beats of all calls came so far.
    pub fn lateness(&self) -> LatenessFigures {
        self.supplies.lateness.read()
    }

    /// Makes greetings beforehand, so that the first caller need not wait for them.
    pub fn speaker(&self) -> Speaker {
        self.supplies.speaker.clone()
    }

    /// Carries out what a call wants. What comes of it is an [`Event`].
    pub fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Prepare { call, wanted, address } => self.prepare(now, call, wanted, address),
            Command::Start { call, plan } => self.start(call, *plan),
            Command::Update { call, streams } => self.update(now, call, *streams),
            Command::Answered { call } => {
                self.talk(call, TalkOrder::Begin);
                if let Some(running) = self.running(call) {
                    running.answered();
                }
                self.order(call, Order::Answered);
            }
            Command::Talk { call, order } => self.talk(call, order),
            Command::PauseRecording { call, paused } => {
                let done = self.running(call).is_some_and(|running| running.pause_recording(paused));
                if !done {
                    tracing::warn!(%call, paused, "the recording does not follow");
                }
            }
            Command::SendKey { call } => self.order(call, Order::SendKey),
            Command::SendDigits { call, digits } => self.order(call, Order::SendDigits(digits)),
            Command::Stop { call } => self.stop(now, call),
        }
    }

    fn tell(&self, event: Event) {
        if self.supplies.events.offer(event) != Offered::Queued {
            tracing::error!("the control loop does not take engine events: a bug");
        }
    }

    fn prepare(&mut self, now: Instant, call: CallId, wanted: Wanted, address: IpAddr) {
        let entry = self.calls.entry(call).or_default();
        let mut told = None;
        let slots = [
            (wanted.audio, &mut entry.audio),
            (wanted.video, &mut entry.video),
            (wanted.slides, &mut entry.slides),
        ];
        for (wants, slot) in slots {
            if !wants || slot.port.is_some() || told.is_some() {
                continue;
            }
            match self.ports.bind(now, address) {
                Ok(pair) => *slot = Slot { port: Some(pair.port), pair: Some(pair) },
                Err(why) => told = Some(Event::NotPrepared { call, why }),
            }
        }
        let ports = BoundPorts {
            address,
            audio: entry.audio.port,
            video: entry.video.port,
            slides: entry.slides.port,
        };
        self.tell(told.unwrap_or(Event::Prepared { call, ports }));
    }

    fn start(&mut self, call: CallId, plan: Plan) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let pairs = Pairs {
            audio: entry.audio.begin(plan.streams.audio.is_some()),
            video: entry.video.begin(plan.streams.video.is_some()),
            slides: entry.slides.begin(plan.streams.slides.is_some()),
        };
        match Running::start(&mut self.supplies, call, plan, pairs) {
            Ok(running) => entry.running = Some(running),
            Err(text) => self.tell(Event::Fault { call, text }),
        }
    }

    fn update(&mut self, now: Instant, call: CallId, streams: Streams) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let Some(running) = &mut entry.running else { return };
        let before = &running.streams;
        let (no_audio, no_video, no_slides) =
            (before.audio.is_none(), before.video.is_none(), before.slides.is_none());
        let pairs = Pairs {
            audio: entry.audio.begin(no_audio && streams.audio.is_some()),
            video: entry.video.begin(no_video && streams.video.is_some()),
            slides: entry.slides.begin(no_slides && streams.slides.is_some()),
        };
        let ended = [
            entry.audio.end(!no_audio && streams.audio.is_none()),
            entry.video.end(!no_video && streams.video.is_none()),
            entry.slides.end(!no_slides && streams.slides.is_none()),
        ];
        let taken = running.update(&mut self.supplies, streams, pairs);
        for port in ended.into_iter().flatten() {
            self.ports.release(now, port);
        }
        self.tell_unless(taken, call);
    }

    fn order(&mut self, call: CallId, order: Order) {
        let running = self.calls.get(&call).and_then(|entry| entry.running.as_ref());
        let taken = running.is_none_or(|running| running.order(order));
        self.tell_unless(taken, call);
    }

    fn talk(&self, call: CallId, order: TalkOrder) {
        if let Some(running) = self.running(call) {
            running.talk(order);
        }
    }

    fn tell_unless(&self, taken: bool, call: CallId) {
        if !taken {
            let text = "the network task does not take orders".to_owned();
            self.tell(Event::Fault { call, text });
        }
    }

    fn stop(&mut self, now: Instant, call: CallId) {
        let Some(entry) = self.calls.remove(&call) else {
            return self.tell(Event::Stopped { call, report: Box::default() });
        };
        for port in [entry.audio.port, entry.video.port, entry.slides.port].into_iter().flatten() {
            self.ports.release(now, port);
        }
        let Some(running) = entry.running else {
            return self.tell(Event::Stopped { call, report: Box::default() });
        };
        let events = self.supplies.events.clone();
        self.closing.task("stop", async move {
            let report = Box::new(running.take_down().await);
            events.offer(Event::Stopped { call, report });
            Outcome::Done
        });
    }
}
