//! Driver. Every call's engine: binds ports, builds the graph of a plan, changes it, takes it down and reports.

#![expect(clippy::disallowed_methods, reason = "a call's media clock starts when its plan does")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::runtime::Handle;

use crate::base::queue::{self, Fifo, Offered, Receiver, Sender};
use crate::base::stop::{Outcome, Scope};
use crate::base::time::Clock;
use crate::codec::h264::encoder::EncoderKind;
use crate::engine::graph;
use crate::engine::network::Order;
use crate::engine::plan::{BoundPorts, CallId, Command, Event, Plan, Report, Streams, Wanted};
use crate::engine::ports::{Pair, PortRange};
use crate::engine::report::Gauges;
use crate::engine::voice::Speaker;
use crate::media::codec::Detector;
use crate::record::recorder::RecorderReport;
use crate::vision::observer::ObserverSettings;
use crate::vision::schedule::Schedule;

/// A call's members are given this long to drain; the recorder closes its file in it.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
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
    /// Where an encoder of a configured name is chosen by proof; remembered, so calls do not wait for it.
    pub choose_encoder: fn(&str, bool) -> Result<EncoderKind, String>,
}

/// The engines of all calls, owned by the control loop.
pub struct Engines {
    pub(super) settings: Settings,
    pub(super) media: Handle,
    pub(super) speaker: Speaker,
    pub(super) rng: StdRng,
    pub(super) events: Sender<Event, Fifo>,
    ports: PortRange,
    calls: HashMap<CallId, Entry>,
    closing: Scope,
}

#[derive(Default)]
struct Entry {
    address: Option<IpAddr>,
    audio: Option<Pair>,
    video: Option<Pair>,
    bound: Vec<u16>,
    audio_port: Option<u16>,
    video_port: Option<u16>,
    running: Option<Running>,
}

/// One running call.
pub struct Running {
    pub gauges: Arc<Gauges>,
    pub streams: Streams,
    /// The file being recorded.
    pub recording: Option<PathBuf>,
    pub(super) scope: Scope,
    pub(super) orders: Sender<Order, Fifo>,
    pub(super) recorded: Arc<Mutex<Option<RecorderReport>>>,
}

impl Engines {
    /// `media`: the runtime of network tasks; `runtime`: where engines are taken down.
    pub fn new(settings: Settings, media: Handle, runtime: Handle) -> (Self, Receiver<Event, Fifo>) {
        let (events, heard) = queue::queue(Fifo { depth: EVENTS_DEPTH });
        let mut rng = StdRng::from_seed(settings.seed);
        let (low, high) = settings.rtp_ports;
        let start = rng.next_u32() as u16;
        let engines = Engines {
            ports: PortRange::new(low, high, start),
            closing: Scope::new("engines", runtime),
            speaker: Speaker::default(),
            calls: HashMap::new(),
            settings,
            media,
            rng,
            events,
        };
        (engines, heard)
    }

    /// The running engine of a call, for figures.
    pub fn running(&self, call: CallId) -> Option<&Running> {
        self.calls.get(&call).and_then(|entry| entry.running.as_ref())
    }

    /// Makes greetings beforehand, so that the first caller need not wait for them.
    pub fn speaker(&self) -> Speaker {
        self.speaker.clone()
    }

    /// Carries out what a call wants. What comes of it is an [`Event`].
    pub fn handle(&mut self, now: Instant, command: Command) {
        match command {
            Command::Prepare { call, wanted, address } => self.prepare(now, call, wanted, address),
            Command::Start { call, plan } => self.start(call, *plan),
            Command::Update { call, streams } => self.update(call, streams),
            Command::SendKey { call } => self.order(call, Order::SendKey),
            Command::SendDigits { call, digits } => self.order(call, Order::SendDigits(digits)),
            Command::Stop { call } => self.stop(now, call),
        }
    }

    fn tell(&self, event: Event) {
        if self.events.offer(event) != Offered::Queued {
            tracing::error!("the control loop does not take engine events: a bug");
        }
    }

    fn prepare(&mut self, now: Instant, call: CallId, wanted: Wanted, address: IpAddr) {
        let entry = self.calls.entry(call).or_default();
        entry.address = Some(address);
        for (wants, is_video) in [(wanted.audio, false), (wanted.video, true)] {
            let have = if is_video { entry.video_port } else { entry.audio_port };
            if !wants || have.is_some() {
                continue;
            }
            match self.ports.bind(now, address) {
                Ok(pair) => {
                    entry.bound.push(pair.port);
                    let (port, place) = if is_video {
                        (&mut entry.video_port, &mut entry.video)
                    } else {
                        (&mut entry.audio_port, &mut entry.audio)
                    };
                    *port = Some(pair.port);
                    *place = Some(pair);
                }
                Err(why) => return self.tell(Event::NotPrepared { call, why }),
            }
        }
        let ports = BoundPorts { address, audio: entry.audio_port, video: entry.video_port };
        self.tell(Event::Prepared { call, ports });
    }

    fn start(&mut self, call: CallId, plan: Plan) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let sockets = graph::Pairs { audio: entry.audio.take(), video: entry.video.take() };
        match graph::build(self, call, plan, sockets) {
            Ok(running) => {
                if let Some(entry) = self.calls.get_mut(&call) {
                    entry.running = Some(running);
                }
            }
            Err(text) => self.tell(Event::Fault { call, text }),
        }
    }

    fn update(&mut self, call: CallId, streams: Streams) {
        let Some(running) = self.calls.get_mut(&call).and_then(|entry| entry.running.as_mut()) else {
            return;
        };
        running.streams = streams.clone();
        let audio = streams.audio.map(Order::Audio);
        let video = streams.video.map(Order::Video);
        for order in audio.into_iter().chain(video) {
            self.order(call, order);
        }
    }

    fn order(&mut self, call: CallId, order: Order) {
        let running = self.calls.get(&call).and_then(|entry| entry.running.as_ref());
        if running.is_some_and(|running| running.orders.offer(order) != Offered::Queued) {
            let text = "the network task does not take orders".to_owned();
            self.tell(Event::Fault { call, text });
        }
    }

    fn stop(&mut self, now: Instant, call: CallId) {
        let Some(entry) = self.calls.remove(&call) else {
            return self.tell(Event::Stopped { call, report: Box::default() });
        };
        for port in &entry.bound {
            self.ports.release(now, *port);
        }
        let Some(running) = entry.running else {
            return self.tell(Event::Stopped { call, report: Box::default() });
        };
        let events = self.events.clone();
        self.closing.task("stop", async move {
            let report = Box::new(take_down(call, running).await);
            events.offer(Event::Stopped { call, report });
            Outcome::Done
        });
    }
}

async fn take_down(call: CallId, running: Running) -> Report {
    let outcomes = running.scope.close(CLOSE_LIMIT).await;
    let mut report = running.gauges.report();
    for (name, outcome) in outcomes {
        let text = match outcome {
            Outcome::Done => continue,
            Outcome::Failed(text) => format!("{name}: {text}"),
            Outcome::Panicked(text) => format!("{name} panicked: {text}"),
            Outcome::Abandoned => format!("{name} did not end in time"),
        };
        tracing::warn!(%call, "{text}");
        report.faults.push(text);
    }
    report.recording = running.recorded.lock().unwrap_or_else(PoisonError::into_inner).take();
    report
}

impl Engines {
    pub(super) fn seed(&mut self) -> u64 {
        self.rng.next_u64()
    }
}
