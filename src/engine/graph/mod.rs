//! Driver. Builds one call's media graph from its plan (sockets, RTP machines, threads and the queues between them),
//! changes it as offers and answers are renewed, and takes it down.

#![expect(clippy::disallowed_methods, reason = "a call's media clock starts when its plan does")]

mod audio;
mod face;
pub(super) mod gate;
mod record;
mod talk;
mod video;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::RngCore;
use rand::rngs::StdRng;
use tokio::runtime::Handle;

use crate::base::queue::{self, Fifo, Offered, Sender};
use crate::base::stop::{Outcome, Scope};
use crate::codec::still::encode::StillSettings;
use crate::engine::canvas::{Board, NOTICE, Showing};
use crate::engine::coding::Coder;
use crate::engine::darkroom::Darkroom;
use crate::engine::graph::face::Worn;
use crate::engine::graph::record::Taps;
use crate::engine::graph::talk::Talk;
use crate::engine::lateness::Lateness;
use crate::engine::network::audio::AudioPart;
use crate::engine::network::guard::Guard;
use crate::engine::network::sockets::{Bell, Sockets};
use crate::engine::network::video::{VideoChange, VideoPart};
use crate::engine::network::{Network, Order};
use crate::engine::pictures::{GIVEN_WAITING, Given, Pictures, Terms};
use crate::engine::plan::{CallId, Event, Gating, Plan, Report, Route, Streams, VideoIn};
use crate::engine::ports::Pair;
use crate::engine::report::Gauges;
use crate::engine::start::Settings;
use crate::engine::talk::Agent;
use crate::engine::voice::Speaker;
use crate::record::pauses::Pauses;
use crate::record::recorder::RecorderReport;
use crate::rtp::lipsync::LipSync;
use crate::rtp::session::StreamSettings;

/// A call's members are given this long to drain; the recorder closes its file in it.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
const ORDERS_DEPTH: usize = 64;

/// What every call's graph takes from.
pub(super) struct Supplies {
    pub settings: Settings,
    pub media: Handle,
    /// Where conversations run.
    pub runtime: Handle,
    pub speaker: Speaker,
    pub rng: StdRng,
    pub events: Sender<Event, Fifo>,
    /// How late the beats of all calls come.
    pub lateness: Arc<Lateness>,
    pub darkroom: Darkroom,
}

impl Supplies {
    fn pictures(
        &self,
        call: CallId,
        epoch: Instant,
        plan: &Plan,
        given: Sender<Given, Fifo>,
    ) -> Arc<Pictures> {
        let showing = &plan.video_out.showing;
        let gating = match &plan.video_in {
            VideoIn::Gated { gate, .. } => Some(gate.clone()),
            VideoIn::Open { .. } => None,
        };
        let terms = self.terms(call, epoch, gating, showing, plan.talk.as_ref());
        let (studio, catalogue) = (self.settings.studio.clone(), self.settings.catalogue.clone());
        let given = plan.talk.is_some().then_some(given);
        Arc::new(Pictures::new(terms, studio, catalogue, self.darkroom.clone(), self.events.clone(), given))
    }

    fn terms(
        &self,
        call: CallId,
        epoch: Instant,
        gating: Option<Gating>,
        showing: &Showing,
        agent: Option<&Arc<Agent>>,
    ) -> Terms {
        let seeing = agent.map(|agent| &agent.seeing);
        Terms {
            call,
            epoch,
            clock: self.settings.clock,
            gating,
            trusts: showing.trusts_images,
            talks: agent.is_some(),
            sees: seeing.is_some_and(|seeing| seeing.sees),
            still: seeing.map_or_else(StillSettings::default, |seeing| seeing.sight.still),
            context: agent.map_or_else(Vec::new, |agent| agent.conversation.pinned.clone()),
            board: Board::new(showing.captions),
        }
    }

    /// What clears the pictures an agent is given before there is a call.
    pub(super) fn beforehand(
        &self,
        gating: Option<Gating>,
        showing: &Showing,
        agent: Option<&Arc<Agent>>,
    ) -> Arc<Pictures> {
        let terms = self.terms(CallId(0), Instant::now(), gating, showing, agent);
        let (studio, catalogue) = (self.settings.studio.clone(), self.settings.catalogue.clone());
        Arc::new(Pictures::beforehand(terms, studio, catalogue, self.darkroom.clone(), self.events.clone()))
    }

    fn seed(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// What tells that something came to an RTP socket.
    fn bell(&self, sockets: &Sockets) -> Result<Bell, String> {
        let _guard = self.media.enter();
        Bell::new(sockets).map_err(|error| format!("an RTP socket cannot be waited for: {error}"))
    }
}

/// The sockets bound for streams that are new.
#[derive(Default)]
pub(super) struct Pairs {
    pub audio: Option<Pair>,
    pub video: Option<Pair>,
    pub slides: Option<Pair>,
}

/// One running call.
pub struct Running {
    pub gauges: Arc<Gauges>,
    /// The same of the shared screen.
    pub slides: Arc<Gauges>,
    pub streams: Streams,
    /// The file being recorded.
    pub recording: Option<PathBuf>,
    call: CallId,
    plan: Plan,
    epoch: Instant,
    scope: Scope,
    orders: Sender<Order, Fifo>,
    taps: Taps,
    pauses: Pauses,
    /// Set: the peer is asked for a key picture of its camera.
    key_needed: Option<Arc<AtomicBool>>,
    recorded: Arc<Mutex<Option<RecorderReport>>>,
    /// What became of the shared screen's file.
    slides_recorded: Arc<Mutex<Option<RecorderReport>>>,
    /// How pictures are coded for the peer now.
    coder: Option<Coder>,
    greeted: bool,
    talk: Option<Talk>,
    face: Option<Worn>,
    pictures: Arc<Pictures>,
}

impl Running {
    /// Starts everything. An error leaves nothing running.
    pub(super) fn start(
        supplies: &mut Supplies,
        call: CallId,
        plan: Plan,
        pairs: Pairs,
    ) -> Result<Self, String> {
        let (orders, given) = queue::queue(Fifo { depth: ORDERS_DEPTH });
        let (taps, inputs) = Taps::of(&plan);
        let epoch = Instant::now();
        let (give, gifts) = queue::queue(Fifo { depth: GIVEN_WAITING });
        let pictures = supplies.pictures(call, epoch, &plan, give);
        let mut running = Running {
            gauges: Arc::new(Gauges::default()),
            slides: Arc::new(Gauges::default()),
            streams: plan.streams.clone(),
            recording: None,
            call,
            plan,
            epoch,
            scope: Scope::new(format!("call {call}"), supplies.media.clone()),
            orders,
            taps,
            pauses: Pauses::default(),
            key_needed: None,
            recorded: Arc::new(Mutex::new(None)),
            slides_recorded: Arc::new(Mutex::new(None)),
            coder: None,
            greeted: false,
            talk: None,
            face: None,
            pictures,
        };
        running.prepare_talk(supplies, gifts);
        running.prepare_face(supplies);
        let audio = running.audio_part(supplies, pairs.audio);
        let video = running.video_part(supplies, pairs.video);
        if audio.is_none() && video.is_none() {
            return Err(running.gauges.report().faults.join("; "));
        }
        running.record(supplies, inputs);
        if let Some(recording) = &running.recording {
            running.pictures.keep_beside(recording);
        }
        let slides = running.slides_part(supplies, pairs.slides);
        let network = Network {
            call,
            epoch: running.epoch,
            audio,
            video,
            slides,
            orders: given,
            events: supplies.events.clone(),
            gauges: running.gauges.clone(),
            slides_gauges: running.slides.clone(),
            lateness: supplies.lateness.clone(),
            lip_sync: LipSync::default(),
            timeouts: running.plan.timeouts,
            token: running.scope.token(),
        };
        running.scope.task("network", network.run());
        running.start_talk(supplies);
        Ok(running)
    }

    /// The single pictures of this call.
    pub fn pictures(&self) -> &Arc<Pictures> {
        &self.pictures
    }

    /// The call is answered: what is to be read first is.
    pub(super) fn answered(&self) {
        let notice = &self.plan.video_out.showing.notice;
        if !notice.is_empty() {
            let now = Instant::now();
            self.pictures.board().notice(now, notice, now + NOTICE);
        }
    }

    /// Follows a renewed offer and answer: streams come, go, or change while they run. `pairs`: the sockets of those
    /// that come. `false`: the network task takes no orders.
    pub(super) fn update(&mut self, supplies: &mut Supplies, streams: Streams, pairs: Pairs) -> bool {
        let before = std::mem::replace(&mut self.streams, streams.clone());
        let audio = match (before.audio, streams.audio) {
            (None, Some(_)) => self.audio_part(supplies, pairs.audio).map(Box::new).map(Order::AddAudio),
            (Some(_), None) => Some(Order::DropAudio),
            (Some(old), Some(new)) if old != new => Some(Order::Audio(Box::new(new))),
            (Some(_), Some(_)) | (None, None) => None,
        };
        let sees = before.video.is_some();
        let video = match (before.video, streams.video) {
            (None, Some(_)) => self.video_part(supplies, pairs.video).map(Box::new).map(Order::AddVideo),
            (Some(_), None) => Some(Order::DropVideo),
            (Some(old), Some(new)) if old != new => {
                Some(Order::Video(Box::new(self.video_change(supplies, new))))
            }
            (Some(_), Some(_)) | (None, None) => None,
        };
        let slides = match (before.slides, streams.slides) {
            (None, Some(_)) => self.slides_part(supplies, pairs.slides).map(Box::new).map(Order::AddSlides),
            (Some(_), None) => Some(Order::DropSlides),
            (Some(old), Some(new)) if old != new => {
                let pace_kbps = self.kbps(&new);
                Some(Order::Slides(Box::new(VideoChange { stream: new, pace_kbps, coder: None })))
            }
            (Some(_), Some(_)) | (None, None) => None,
        };
        if sees != self.streams.video.is_some() {
            self.want_face();
        }
        audio.into_iter().chain(video).chain(slides).all(|order| self.order(order))
    }

    /// `false`: the network task takes no orders.
    pub(super) fn order(&self, order: Order) -> bool {
        self.orders.offer(order) == Offered::Queued
    }

    /// Stops everything, waits for it and says how it was.
    pub(super) async fn take_down(self) -> Report {
        let Running {
            call, scope, gauges, slides, recorded, slides_recorded, taps, orders, talk, face, ..
        } = self;
        // The recorder drains once the last writing end is gone; the network task wakes when no more orders can come.
        drop((taps, orders));
        let mut outcomes = match talk {
            Some(talk) => talk.close().await,
            None => Vec::new(),
        };
        // Providers count until they are told: at the same time as everything else ends.
        let farewell = async {
            match face {
                Some(face) => face.close().await,
                None => Vec::new(),
            }
        };
        let (members, said) = tokio::join!(scope.close(CLOSE_LIMIT), farewell);
        outcomes.extend(members.into_iter().chain(said));
        let mut report = gauges.report();
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
        report.slides = slides.slides();
        report.faults.extend(slides.report().faults.into_iter().map(|text| format!("slides: {text}")));
        let [own, beside] = [recorded, slides_recorded]
            .map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner).take());
        report.recording = match (own, beside) {
            (Some(mut own), Some(beside)) => {
                own.paths.extend(beside.paths);
                own.bytes += beside.bytes;
                own.error = own.error.or(beside.error);
                Some(own)
            }
            (own, beside) => own.or(beside),
        };
        report
    }

    fn audio_part(&mut self, supplies: &mut Supplies, pair: Option<Pair>) -> Option<AudioPart> {
        let stream = self.streams.audio.clone()?;
        let part = pair.ok_or_else(no_port).and_then(|pair| self.audio(supplies, &stream, pair));
        part.map_err(|text| self.fault(format!("no sound: {text}"))).ok()
    }

    fn video_part(&mut self, supplies: &mut Supplies, pair: Option<Pair>) -> Option<VideoPart> {
        let stream = self.streams.video.clone()?;
        let part = pair.ok_or_else(no_port).and_then(|pair| self.video(supplies, &stream, pair));
        part.map_err(|text| self.fault(format!("no picture: {text}"))).ok()
    }

    fn slides_part(&mut self, supplies: &mut Supplies, pair: Option<Pair>) -> Option<VideoPart> {
        let stream = self.streams.slides.clone()?;
        let part = pair.ok_or_else(no_port).and_then(|pair| self.shared_screen(supplies, &stream, pair));
        part.map_err(|text| self.fault(format!("no slides: {text}"))).ok()
    }

    fn fault(&self, text: String) {
        tracing::warn!(call = %self.call, "{text}");
        self.gauges.fault(text);
    }

    /// What protects a stream, and lets it send.
    fn guard(&self, supplies: &Supplies, route: &Route) -> Guard {
        Guard::new(Instant::now(), route, self.plan.reach.clone(), supplies.settings.dtls.clone())
    }

    fn stream_settings(
        &self,
        supplies: &Supplies,
        route: &Route,
        guard: &Guard,
        clock_rate: u32,
    ) -> StreamSettings {
        StreamSettings {
            clock_rate,
            cname: supplies.settings.cname.clone(),
            remote: route.remote,
            remote_rtcp: route.remote_rtcp,
            reach: self.plan.reach.clone(),
            authentic: route.protection.is_some(),
            rtcp_mux: route.rtcp_mux,
            receives: route.direction.receives(),
            sends: route.direction.sends() && guard.ready(),
            clock: supplies.settings.clock,
            epoch: self.epoch,
        }
    }
}

fn no_port() -> String {
    "no port was bound for it".to_owned()
}
