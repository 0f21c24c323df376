//! Driver. Builds one call's media graph from its plan: sockets, RTP machines, threads and the queues between them.

#![expect(clippy::disallowed_methods, reason = "a call's media clock starts when its plan does")]

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::net::UdpSocket;

use crate::base::queue::{self, Fifo, Gop, Latest, Receiver, Sender};
use crate::base::stop::{Outcome, Scope};
use crate::base::time::{Clock, Pts};
use crate::codec::h264::decoder::H264Decoder;
use crate::engine::bus::Bus;
use crate::engine::mix::{Mixer, Steady};
use crate::engine::network::{AudioPart, Network, Prepared, Sockets, VideoPart};
use crate::engine::observe::Observing;
use crate::engine::paint::{Playing, Still};
use crate::engine::plan::{
    AudioStream, CallId, GatedRecord, Gating, OpenRecord, PacketizationMode, Picture, Place, Plan,
    RecordAudio, Recording, Route, Then, VideoIn as VideoInPlan, VideoStream,
};
use crate::engine::ports::Pair;
use crate::engine::report::Gauges;
use crate::engine::start::{Engines, Running};
use crate::engine::video_in::VideoIn;
use crate::engine::video_out::{Limits, Painter, Source, VideoOut};
use crate::engine::voice::Speaker;
use crate::media::access_unit::AccessUnit;
use crate::media::audio::Pcm;
use crate::media::filter::{Gate, VideoFilter};
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::record::recorder::{
    self, PictureInput, RecordVideo, RecorderInputs, RecorderReport, RecorderSettings, SoundLayout,
};
use crate::record::store::{RecordingName, Store};
use crate::rtp::audio::{AudioFormat, AudioSettings, AudioStream as AudioMachine};
use crate::rtp::payload::h264::PacketizationMode as SendMode;
use crate::rtp::session::StreamSettings;
use crate::rtp::video::{NegotiatedFeedback, REORDER_WAIT, VideoSettings, VideoStream as VideoMachine};
use crate::source::test_picture::TestCard;
use crate::vision::censor::Censor;
use crate::vision::filters::{Resize, Transforms};
use crate::vision::observer::{Boxes, Observer};
use crate::vision::overlay::Overlay;
use crate::vision::slate::TextSlate;

/// Decoder hand 1 + gate copy 1 + {observers 2, video-out, recorder, preview} × (slot 1 + working 1) + slate 1 +
/// burst 1.
const POOL_IN: usize = 14;
/// Source 1 + resized 1 + encoder 1 + next of a file 2.
const POOL_OUT: usize = 5;
const UNITS_IN: usize = 30;
const UNITS_OUT: usize = 15;
const UNITS_RECORDED: usize = 120;
/// 5 s of sound.
const PCM_RECORDED: usize = 250;
/// Payload bytes of a packet: fits every path with tunnels.
const MAX_PAYLOAD: usize = 1200;
const LARGEST_PICTURE: Size = Size::new(4096, 2304);
/// The size of the first slate, before the caller's own is known.
const FIRST_SLATE: Size = Size::new(640, 360);

/// The bound sockets of one call.
pub(super) struct Pairs {
    pub audio: Option<Pair>,
    pub video: Option<Pair>,
}

/// The queues a recorder reads, and their writing ends.
#[derive(Default)]
struct Taps {
    caller: Option<Sender<Pcm, Fifo>>,
    agent: Option<Sender<Pcm, Fifo>>,
    units: Option<Sender<AccessUnit, Gop>>,
    inputs: RecorderInputs,
}

/// What the parts of one graph share while it is built.
struct Site<'a> {
    engines: &'a mut Engines,
    call: CallId,
    plan: &'a Plan,
    scope: Scope,
    gauges: Arc<Gauges>,
    epoch: Instant,
    clock: Clock,
}

/// Starts everything. An error leaves nothing running.
pub(super) fn build(
    engines: &mut Engines,
    call: CallId,
    plan: Plan,
    pairs: Pairs,
) -> Result<Running, String> {
    let clock = engines.settings.clock;
    let mut site = Site {
        scope: Scope::new(format!("call {call}"), engines.media.clone()),
        gauges: Arc::new(Gauges::default()),
        epoch: Instant::now(),
        engines,
        call,
        plan: &plan,
        clock,
    };
    let mut taps = site.taps();
    let audio = match (&plan.streams.audio, pairs.audio) {
        (Some(stream), Some(pair)) => Some(site.audio(stream, pair, &mut taps)?),
        _ => None,
    };
    let video = match (&plan.streams.video, pairs.video) {
        (Some(stream), Some(pair)) => Some(site.video(stream, pair, &mut taps)?),
        _ => None,
    };
    let recorded = Arc::new(Mutex::new(None));
    let recording = site.recorder(taps, recorded.clone());
    let (orders, given) = queue::queue(Fifo { depth: 64 });
    let network = Network {
        call,
        epoch: site.epoch,
        audio,
        video,
        orders: given,
        events: site.engines.events.clone(),
        gauges: site.gauges.clone(),
        timeouts: plan.timeouts,
        token: site.scope.token(),
    };
    site.scope.task("network", network.run());
    let Site { scope, gauges, .. } = site;
    Ok(Running { gauges, streams: plan.streams, recording, scope, orders, recorded })
}

impl Site<'_> {
    fn sockets(&self, pair: Pair, mux: bool) -> Result<Sockets, String> {
        let _guard = self.engines.media.enter();
        let adopt =
            |socket| UdpSocket::from_std(socket).map_err(|error| format!("RTP port {}: {error}", pair.port));
        Ok(Sockets { rtp: adopt(pair.rtp)?, rtcp: adopt(pair.rtcp)?, mux })
    }

    fn stream(&self, route: &Route, clock_rate: u32) -> StreamSettings {
        StreamSettings {
            clock_rate,
            cname: self.engines.settings.cname.clone(),
            remote: route.remote,
            remote_rtcp: route.remote_rtcp,
            signalling: self.plan.signalling,
            rtcp_mux: route.rtcp_mux,
            receives: route.direction.receives(),
            sends: route.direction.sends(),
            clock: self.clock,
            epoch: self.epoch,
        }
    }

    fn audio(&mut self, stream: &AudioStream, pair: Pair, taps: &mut Taps) -> Result<AudioPart, String> {
        let rate = stream.codec.clock_rate();
        let settings = AudioSettings {
            stream: self.stream(&stream.route, rate),
            receive: stream.receive.iter().map(|(number, _)| AudioFormat::g711(*number)).collect(),
            telephone_event: stream.telephone_event,
        };
        let machine = AudioMachine::new(self.epoch, settings, self.engines.seed());
        let (tell, prepared) = queue::queue(Latest);
        let awaits = self.plan.voice.greeting.is_some();
        let mixer = Mixer::new(steady(&self.plan.voice.then, rate), awaits);
        self.voice(rate, tell);
        Ok(AudioPart {
            sockets: self.sockets(pair, stream.route.rtcp_mux)?,
            machine,
            first_ms: None,
            codec: stream.codec,
            send_payload_type: stream.send_payload_type,
            receive: stream.receive.clone(),
            ptime_ms: stream.ptime_ms,
            sends: stream.route.direction.sends(),
            receives: stream.route.direction.receives(),
            mixer,
            prepared,
            digits: VecDeque::new(),
            caller: taps.caller.take(),
            agent: taps.agent.take(),
        })
    }

    /// Speech and files take time to prepare: beside the call, not before it.
    fn voice(&mut self, rate: u32, tell: Sender<Prepared, Latest>) {
        let (voice, speaker) = (self.plan.voice.clone(), self.engines.speaker.clone());
        let gauges = self.gauges.clone();
        if voice.greeting.is_none() && !matches!(voice.then, Then::Speech(_) | Then::Clip(_)) {
            return;
        }
        self.scope.thread("voice", move || {
            let opening = voice.greeting.as_deref().map(|text| speaker.say(text, rate));
            let looped = match &voice.then {
                Then::Speech(text) => Some(speaker.say(text, rate)),
                Then::Clip(path) => match Speaker::sound_of(path, rate) {
                    Ok(sound) => Some(sound),
                    Err(text) => {
                        gauges.fault(text);
                        None
                    }
                },
                Then::Echo | Then::Silence | Then::Tone(_) => None,
            };
            tell.offer(Prepared { opening, looped });
            Outcome::Done
        });
    }

    fn video(&mut self, stream: &VideoStream, pair: Pair, taps: &mut Taps) -> Result<VideoPart, String> {
        let bounded = stream.send_mode == PacketizationMode::SingleNal;
        let encoder = (self.engines.settings.choose_encoder)(&self.plan.video_out.encoder, bounded)?;
        let kbps =
            stream.max_kbps.map_or(self.plan.video_out.kbps, |most| most.min(self.plan.video_out.kbps));
        let settings = VideoSettings {
            stream: self.stream(&stream.route, 90_000),
            receive: stream.receive.clone(),
            send_payload_type: stream.send_payload_type,
            send_mode: match stream.send_mode {
                PacketizationMode::SingleNal => SendMode::SingleNal,
                PacketizationMode::NonInterleaved => SendMode::NonInterleaved,
            },
            parameter_sets: stream.parameter_sets.clone(),
            feedback: NegotiatedFeedback {
                pli: stream.feedback.pli,
                fir: stream.feedback.fir,
                nack: stream.feedback.nack,
            },
            max_payload: MAX_PAYLOAD,
            pace_kbps: kbps,
            reorder_wait: REORDER_WAIT,
        };
        let machine = VideoMachine::new(self.epoch, settings, self.engines.seed());
        let (key_wanted, key_needed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let mut bus = Bus::default();
        let (units, encoded) = queue::queue(Gop::new(UNITS_OUT));
        if stream.route.direction.sends() || self.plan.video_out.picture != Picture::Mirror {
            let limits = Limits {
                max: self.plan.video_out.max,
                max_macroblocks: stream.max_macroblocks,
                max_macroblocks_per_second: stream.max_macroblocks_per_second,
                kbps,
                fps: self.plan.video_out.fps,
                max_nal_bytes: bounded.then_some(MAX_PAYLOAD),
                profile_level_id: stream.profile_level_id,
            };
            let out = VideoOut {
                source: self.source(&mut bus)?,
                encoder,
                limits,
                units: units.clone(),
                pool: FramePool::new(POOL_OUT),
                epoch: self.epoch,
                key_wanted: key_wanted.clone(),
                gauges: self.gauges.clone(),
            };
            self.scope.thread("video-out", move || out.run());
        }
        drop(units);
        if let Some(PictureInput::Pictures(pictures)) = &mut taps.inputs.pictures {
            *pictures = bus.subscribe();
        }
        let decoder = self.video_in(bus, key_needed.clone())?;
        Ok(VideoPart {
            sockets: self.sockets(pair, stream.route.rtcp_mux)?,
            machine,
            first_ms: None,
            receives: stream.route.direction.receives(),
            decoder,
            encoded: Some(encoded),
            key_wanted,
            key_needed,
            recorder: taps.units.take(),
        })
    }

    fn source(&mut self, bus: &mut Bus) -> Result<Source, String> {
        let name = self.plan.label.name.clone();
        let painter: Box<dyn Painter> = match &self.plan.video_out.picture {
            Picture::Mirror => {
                let slate = Box::new(Still::new("waiting for your picture", &name, FIRST_SLATE));
                return Ok(Source::Mirror { pictures: bus.subscribe(), slate });
            }
            Picture::TestCard { source, size } => Box::new(TestCard::new(*size, *source)),
            Picture::Clip { path, size } => Box::new(Playing::open(path, *size)?),
            Picture::Still { text, size } => Box::new(Still::new(text, &name, *size)),
        };
        Ok(Source::Own { painter, fps: self.plan.video_out.fps, token: self.scope.token() })
    }

    fn video_in(&mut self, bus: Bus, key_needed: Arc<AtomicBool>) -> Result<Sender<AccessUnit, Gop>, String> {
        let (sender, units) = queue::queue(Gop::new(UNITS_IN));
        let look = self.plan.video_in.look();
        let (mut undrawn, mut seen) = (Vec::new(), Vec::new());
        if look.overlay.boxes {
            for name in look.observers.clone() {
                if let Some((pictures, boxes)) = self.observer(&name) {
                    undrawn.push(pictures);
                    seen.push(boxes);
                }
            }
        }
        let decoder = H264Decoder::new(LARGEST_PICTURE).map_err(|error| error.to_string())?;
        let thread = VideoIn {
            units,
            decoder: Box::new(decoder),
            gate: self.gate(),
            transforms: Transforms::new(look.transforms.clone()),
            resize: look.resize.map(Resize::new),
            overlay: Overlay::new(look.overlay.clone()),
            label: self.plan.label.clone(),
            clock: self.clock,
            pool: FramePool::new(POOL_IN),
            undrawn,
            seen,
            bus,
            epoch: self.epoch,
            gauges: self.gauges.clone(),
            key_needed,
            frame: 0,
        };
        self.scope.thread("video-in", move || thread.run());
        Ok(sender)
    }

    /// A gate that cannot be built is closed: nothing but the slate passes.
    fn gate(&mut self) -> Gate {
        let VideoInPlan::Gated { gate, .. } = &self.plan.video_in else { return Gate::open() };
        let name = Some(self.plan.label.name.as_str());
        match self.censor(gate) {
            Ok(censor) => {
                let filters: Vec<Box<dyn VideoFilter>> = vec![Box::new(censor)];
                Gate::filtering(filters, Box::new(TextSlate::new("picture withheld", name)))
            }
            Err(why) => {
                tracing::error!(call = %self.call, "the censor cannot work and no picture will pass: {why}");
                self.gauges.fault(format!("censor: {why}"));
                Gate::closed(Box::new(TextSlate::new("picture withheld", name)))
            }
        }
    }

    fn censor(&self, gating: &Gating) -> Result<Censor, String> {
        let settings = gating.censor.clone();
        let mut names = gating.detectors.iter();
        let Some(first) = names.next() else {
            if settings.targets.is_empty() {
                return Ok(Censor::without_detector(settings));
            }
            return Err(format!("no detector finds {}", settings.targets.join(", ")));
        };
        let catalogue = &self.engines.settings.catalogue;
        let (detector, schedule) = catalogue.gate(first)?;
        let mut censor = Censor::new(settings, detector, schedule);
        for name in names {
            let (detector, schedule) = catalogue.gate(name)?;
            censor = censor.and(detector, schedule);
        }
        Ok(censor)
    }

    fn observer(&mut self, name: &str) -> Option<(Sender<CleanFrame, Latest>, Receiver<Boxes, Latest>)> {
        let (detector, settings) = match self.engines.settings.catalogue.observer(name) {
            Ok(found) => found,
            Err(why) => {
                self.gauges.fault(format!("detector {name}: {why}"));
                return None;
            }
        };
        let (pictures, taken) = queue::queue(Latest);
        let (seen, boxes) = queue::queue(Latest);
        let observing = Observing { detector, observer: Observer::new(settings), pictures: taken, seen };
        self.scope.thread("observer", move || observing.run());
        Some((pictures, boxes))
    }

    /// The recorder's queues, as the plan wants them.
    fn taps(&self) -> Taps {
        let mut taps = Taps::default();
        let Some(recording) = &self.plan.recording else { return taps };
        if recording.audio != RecordAudio::None && self.plan.streams.audio.is_some() {
            let (caller, heard) = queue::queue(Fifo { depth: PCM_RECORDED });
            let (agent, said) = queue::queue(Fifo { depth: PCM_RECORDED });
            taps.caller = Some(caller);
            taps.agent = Some(agent);
            taps.inputs.caller = Some(heard);
            taps.inputs.agent = Some(said);
        }
        if self.plan.streams.video.is_none() {
            return taps;
        }
        // The bus puts its own queue in the place of this one.
        let pictures = || Some(PictureInput::Pictures(queue::queue(Latest).1));
        match &self.plan.video_in {
            VideoInPlan::Open { record: OpenRecord::CopyUnits, .. } => {
                let (units, taken) = queue::queue(Gop::new(UNITS_RECORDED));
                taps.units = Some(units);
                taps.inputs.pictures = Some(PictureInput::Units(taken));
            }
            VideoInPlan::Open { record: OpenRecord::Reencode, .. }
            | VideoInPlan::Gated { record: GatedRecord::Reencode, .. } => taps.inputs.pictures = pictures(),
            VideoInPlan::Open { record: OpenRecord::Off, .. }
            | VideoInPlan::Gated { record: GatedRecord::Off, .. } => {}
        }
        taps
    }

    /// Starts the recorder. A recording that cannot start never costs the call; it is reported.
    fn recorder(
        &mut self,
        taps: Taps,
        recorded: Arc<Mutex<Option<RecorderReport>>>,
    ) -> Option<std::path::PathBuf> {
        let recording = self.plan.recording.as_ref()?;
        let tell = |report| *recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        let settings = match self.recorder_settings(recording, &taps) {
            Ok(settings) => settings,
            Err(text) => {
                tracing::error!(call = %self.call, "not recorded: {text}");
                tell(RecorderReport { error: Some(text), ..RecorderReport::default() });
                return None;
            }
        };
        let path = settings.path.clone();
        let inputs = taps.inputs;
        let (slot, call) = (recorded.clone(), self.call);
        self.scope.thread("recorder", move || {
            let report = recorder::run(settings, inputs);
            // Now, not when the call is over: somebody may still make room.
            if let Some(error) = &report.error {
                tracing::error!(%call, "the recording has ended before its call: {error}");
            }
            let outcome = report.error.clone().map_or(Outcome::Done, Outcome::Failed);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
            outcome
        });
        Some(path)
    }

    fn recorder_settings(&self, recording: &Recording, taps: &Taps) -> Result<RecorderSettings, String> {
        let encoder = (self.engines.settings.choose_encoder)(&recording.encoder, false)?;
        let audio = match recording.audio {
            _ if taps.inputs.caller.is_none() => None,
            RecordAudio::Stereo => Some(SoundLayout::Stereo),
            RecordAudio::Mixed => Some(SoundLayout::Mixed),
            RecordAudio::None => None,
        };
        Ok(RecorderSettings {
            path: self.place(recording)?,
            epoch: self.epoch,
            origin: Pts::ZERO,
            video: taps.inputs.pictures.as_ref().map(|_| RecordVideo {
                size: FIRST_SLATE,
                fps: self.plan.video_out.fps,
                kbps: recording.kbps,
                encoder,
            }),
            audio: audio.map(|layout| recorder::RecordAudio { rate: 8000, layout }),
        })
    }

    fn place(&self, recording: &Recording) -> Result<std::path::PathBuf, String> {
        match &recording.place {
            Place::Exact(path) => {
                let folder = path.parent().unwrap_or(path);
                std::fs::create_dir_all(folder)
                    .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
                Ok(path.clone())
            }
            Place::Dated(root) => {
                let store = Store::new(root, recording.min_free_bytes);
                let date = time::OffsetDateTime::from(self.clock.wall(self.epoch)).date();
                let label = &self.plan.label;
                let name = RecordingName {
                    call: label.call.clone(),
                    from: label.from.clone(),
                    to: label.to.clone(),
                };
                store.reserve(date, &name).map_err(|error| error.to_string())
            }
        }
    }
}

fn steady(then: &Then, rate: u32) -> Steady {
    match then {
        Then::Echo => Steady::Echo,
        Then::Silence => Steady::Silence,
        Then::Tone(hertz) => Mixer::tone(*hertz, rate),
        Then::Speech(_) | Then::Clip(_) => Steady::Loop,
    }
}
