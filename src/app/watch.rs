//! Driver. What the control loop tells the rest of the program: log lines, call records on disk, the console's view.
//!
//! It watches and decides nothing; how the view looks is `console`'s.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::runtime::Handle;

use crate::app::config::settings::Config;
use crate::app::console::view::{
    AvatarView, CallDirection, CallView, ModelView, Part, Parts, Readiness, RecordingView, SipView, Snapshot,
    StagesView, Totals, VideoView, WorkerView,
};
use crate::app::detectors::Detectors;
use crate::app::door::Door;
use crate::app::faces::Faces;
use crate::app::service::Heartbeat;
use crate::app::signalling::{Signalling, Watch};
use crate::app::streams::{stream_record, stream_view};
use crate::app::timeline::Timeline;
use crate::app::tracks;
use crate::avatar::ledger::LedgerFigures;
use crate::base::stop::{Outcome, Scope};
use crate::base::time::Clock;
use crate::call::{Call, Ended, Tell};
use crate::engine::Engines;
use crate::engine::plan::{
    CallId, Label, PictureReport, Protection, StreamReport, Streams, VideoCodec, VideoStream,
};
use crate::engine::report::Gauges;
use crate::record::agent::AgentRecord;
use crate::record::record::{CallRecord, DigitRecord, PictureRecord, RecordingRecord, StreamRecord};
use crate::record::store::{free_bytes, record_path};
use crate::sip::register::State;
use crate::useragent::admission::screen::Dropped;
use crate::useragent::{Do, UserAgent};

/// The view is renewed at most this often, and less often with many calls, so that looking stays cheap beside them.
const RENEWAL: Duration = Duration::from_millis(250);
const RENEWAL_PER_CALL: Duration = Duration::from_micros(100);
const SLOWEST_RENEWAL: Duration = Duration::from_secs(1);
/// The disk is asked this often.
const DISK_RENEWAL: Duration = Duration::from_secs(5);
/// The last events of a call that are shown; its record holds more.
const EVENTS_SHOWN: usize = 50;
/// Ended calls shown.
const RECENT: usize = 50;

/// The latest view, read by the console.
pub struct Shared {
    name: String,
    started: Instant,
    heartbeat: Heartbeat,
    latest: Mutex<Snapshot>,
}

impl Shared {
    pub fn new(name: String, started: Instant, heartbeat: Heartbeat) -> Self {
        Shared { name, started, heartbeat, latest: Mutex::default() }
    }

    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot {
            appliance: self.name.clone(),
            uptime: now.saturating_duration_since(self.started),
            loop_age: self.heartbeat.age(now),
            ..latest
        }
    }
}

/// What is remembered of a live call besides what the call itself knows.
#[derive(Default)]
struct Live {
    digits: Vec<(char, Instant)>,
    timeline: Timeline,
    recording: Option<PathBuf>,
    gauges: Option<Arc<Gauges>>,
}

/// Watches the control loop.
pub struct Watching {
    clock: Clock,
    detectors: Arc<Detectors>,
    shared: Arc<Shared>,
    transports: Vec<Part>,
    data: PathBuf,
    min_free: u64,
    live: HashMap<CallId, Live>,
    recent: VecDeque<Arc<CallView>>,
    ended: Totals,
    recorded: RecordingView,
    renew_at: Option<Instant>,
    /// The loop has turned since the view was renewed.
    stale: bool,
    disk: Part,
    disk_at: Option<Instant>,
    /// Whether calls may come, as of the last renewal.
    ready: bool,
    door: Door,
    faces: Faces,
    scope: Scope,
}

impl Watching {
    pub fn new(
        config: &Config,
        clock: Clock,
        detectors: Arc<Detectors>,
        shared: Arc<Shared>,
        sip: &Signalling,
        faces: Faces,
        runtime: Handle,
    ) -> Self {
        let transports = sip
            .bound()
            .iter()
            .map(|(transport, address)| Part::good(format!("{}:{address}", transport.name().to_lowercase())))
            .collect();
        let recorded = config.routes.iter().find_map(|route| route.record.as_ref());
        let profile = recorded.and_then(|name| config.recording.get(name));
        Watching {
            clock,
            detectors,
            shared,
            transports,
            data: profile.map_or(config.appliance.data_dir.clone(), |profile| config.recordings_dir(profile)),
            min_free: profile.map_or(0, |profile| profile.min_free_bytes()),
            live: HashMap::new(),
            recent: VecDeque::new(),
            ended: Totals::default(),
            recorded: RecordingView::default(),
            renew_at: None,
            stale: false,
            disk: Part::good("disk"),
            disk_at: None,
            ready: true,
            door: sip.door(),
            faces,
            scope: Scope::new("records", runtime),
        }
    }

    fn told(&mut self, now: Instant, call: CallId, label: &Label, tell: &Tell) {
        let live = self.live.entry(call).or_default();
        live.timeline.told(now, tell);
        match tell {
            Tell::Ringing => {
                tracing::info!(call = %label.call, agent = %label.agent, "ringing");
                tracing::debug!(call = %label.call, from = %label.from, to = %label.to, peer = %label.peer, "parties");
            }
            Tell::Early { streams } => {
                tracing::info!(call = %label.call, media = %media_of(streams), "media before the answer");
            }
            Tell::Answered { streams } => {
                let session_id = label.session_id.as_deref().unwrap_or_default();
                tracing::info!(call = %label.call, media = %media_of(streams), %session_id, "answered");
            }
            Tell::Updated { streams } => {
                tracing::info!(call = %label.call, media = %media_of(streams), "media renegotiated");
            }
            Tell::Digit(digit) => {
                tracing::debug!(call = %label.call, %digit, "digit");
                live.digits.push((*digit, now));
            }
            Tell::Moment(moment) => {
                let told = |word: &(&str, Value)| format!("{}={}", word.0, word.1);
                let data: Vec<String> = moment.data.iter().map(told).collect();
                tracing::info!(call = %label.call, "{}", moment.kind);
                tracing::debug!(call = %label.call, "{} {}", moment.kind, data.join(" "));
            }
        }
    }

    fn over(&mut self, call: CallId, label: &Label, ended: &Ended) {
        let mut live = self.live.remove(&call).unwrap_or_default();
        live.timeline.ended(ended);
        match &ended.peer_reason {
            Some(said) => tracing::info!(call = %label.call, "ended: {} ({said})", ended.reason),
            None => tracing::info!(call = %label.call, "ended: {}", ended.reason),
        }
        for fault in ended.report.iter().flat_map(|report| &report.faults) {
            tracing::warn!(call = %label.call, "{fault}");
        }
        let view = self.view_of_ended(label, ended, &live);
        self.ended.add(&view);
        self.recent.push_front(Arc::new(view));
        self.recent.truncate(RECENT);
        let recording = ended.report.as_ref().and_then(|report| report.recording.as_ref());
        if let Some(recording) = recording {
            self.recorded.bytes += recording.bytes;
            self.recorded.errors += u64::from(recording.error.is_some());
        }
        let path =
            recording.and_then(|recording| recording.paths.first().cloned()).or(live.recording.clone());
        if let Some(path) = path {
            let record = self.record(label, ended, &live);
            let path = record_path(&path);
            self.scope.thread("record", move || match record.write(&path) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            });
        }
    }

    fn record(&self, label: &Label, ended: &Ended, live: &Live) -> CallRecord {
        let wall = |at: Instant| seconds(self.clock.wall(at));
        let report = ended.report.as_deref();
        let audio = report.and_then(|report| report.audio.as_ref());
        let video = report.and_then(|report| report.video.as_ref());
        let since_answer =
            |at: Instant| at.saturating_duration_since(ended.answered.unwrap_or(ended.started));
        let (events, events_lost) = live.timeline.record(ended.started, usize::MAX);
        CallRecord {
            events,
            events_lost,
            tracks: tracks::of(&ended.streams, &label.agent, live.timeline.tally().face()),
            conversation: self.conversation(live),
            display_name: label.display_name.clone(),
            asserted: label.asserted.clone(),
            diverted_by: label.diverted_by.clone(),
            room: label.room.clone(),
            session: label.session.clone(),
            session_id: label.session_id.clone(),
            headers: label.headers.clone(),
            id: label.call.clone(),
            call_id: label.sip_call_id.clone(),
            direction: if label.incoming { "in" } else { "out" }.to_owned(),
            from: label.from.clone(),
            to: label.to.clone(),
            peer: (!label.peer.is_empty()).then(|| label.peer.clone()),
            agent: Some(label.agent.clone()),
            started: wall(ended.started),
            answered: ended.answered.map(wall),
            ended: Some(wall(ended.ended)),
            end_reason: Some(ended.reason.name().to_owned()),
            peer_reason: ended.peer_reason.as_ref().map(ToString::to_string),
            audio: audio.map(|audio| stream_record(audio_codec(&ended.streams), audio)),
            video: video.zip(report).map(|(video, report)| {
                video_record(video_codec(ended.streams.video.as_ref()), video, &report.pictures)
            }),
            slides: report
                .and_then(|report| report.slides.as_ref())
                .map(|slides| video_record(slides_codec(ended), &slides.stream, &slides.pictures)),
            recording: report.and_then(|report| report.recording.as_ref()).map(RecordingRecord::from),
            digits: live
                .digits
                .iter()
                .map(|(digit, at)| DigitRecord {
                    digit: digit.to_string(),
                    at: since_answer(*at).as_secs_f64(),
                })
                .collect(),
        }
    }

    /// What its agent did, with what its face cost.
    fn conversation(&self, live: &Live) -> Option<AgentRecord> {
        let mut record = live.timeline.tally().record()?;
        if let Some(avatar) = &mut record.avatar {
            avatar.usd = avatar.seconds / 60.0 * self.faces.price(&avatar.name);
        }
        Some(record)
    }

    fn view_of_ended(&self, label: &Label, ended: &Ended, live: &Live) -> CallView {
        let report = ended.report.as_deref();
        let status = match ended.answered {
            Some(_) => 200,
            None => ended.reason.status().0,
        };
        CallView {
            state: "ended".to_owned(),
            started: Some(self.clock.wall(ended.started)),
            duration: ended.ended.saturating_duration_since(ended.answered.unwrap_or(ended.ended)),
            setup: ended.answered.map(|at| at.saturating_duration_since(ended.started)),
            end_reason: Some(ended.reason.name().to_owned()),
            status: Some(status),
            audio: report
                .and_then(|report| report.audio.as_ref())
                .map(|audio| stream_view(audio_codec(&ended.streams), audio)),
            video: report.and_then(|report| {
                let codec = video_codec(ended.streams.video.as_ref());
                Some(video_view(codec, report.video.as_ref()?, &report.pictures))
            }),
            slides: report
                .and_then(|report| report.slides.as_ref())
                .map(|slides| video_view(slides_codec(ended), &slides.stream, &slides.pictures)),
            recording: report
                .and_then(|report| report.recording.as_ref()?.paths.first())
                .map(|path| path.display().to_string()),
            events: live.timeline.record(ended.started, EVENTS_SHOWN).0,
            tracks: tracks::of(&ended.streams, &label.agent, live.timeline.tally().face()),
            conversation: self.conversation(live),
            stages: live.timeline.tally().stages().clone(),
            ..named(label)
        }
    }

    fn view(&self, now: Instant, call: &Call, engines: &Engines) -> CallView {
        let running = engines.running(call.id());
        let live = self.live.get(&call.id());
        // An engine that is being taken down has figures still: counters must not fall before the call is over.
        let gauges = match running {
            Some(running) => Some(running.gauges.clone()),
            None => live.and_then(|live| live.gauges.clone()),
        };
        let (audio, video) = gauges.as_ref().map_or((None, None), |gauges| gauges.streams());
        let inference = self.detectors.status().map_or(0.0, |status| mean_inference(&status));
        CallView {
            state: call.state_name().to_owned(),
            started: Some(self.clock.wall(call.started())),
            duration: call.answered().map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
            setup: call.answered().map(|at| at.saturating_duration_since(call.started())),
            audio: audio.map(|audio| stream_view(audio_codec(call.streams()), &audio)),
            video: video.zip(gauges).map(|(video, gauges)| {
                let codec = video_codec(call.streams().video.as_ref());
                let view = video_view(codec, &video, &gauges.pictures());
                VideoView {
                    fps_in: gauges.fps_in.value() as f64 / 1e3,
                    fps_out: gauges.fps_out.value() as f64 / 1e3,
                    age_ms: gauges.age.last_ms(),
                    stages_ms: StagesView { inference, ..view.stages_ms },
                    ..view
                }
            }),
            slides: running.and_then(|running| running.slides.slides()).map(|slides| {
                let codec = video_codec(call.streams().slides.as_ref());
                video_view(codec, &slides.stream, &slides.pictures)
            }),
            recording: running
                .and_then(|running| running.recording.as_ref())
                .map(|path| path.display().to_string()),
            events: live.map_or_else(Vec::new, |live| live.timeline.record(call.started(), EVENTS_SHOWN).0),
            tracks: tracks::of(
                call.streams(),
                &call.label().agent,
                live.and_then(|live| live.timeline.tally().wears()),
            ),
            conversation: live.and_then(|live| self.conversation(live)),
            stages: live.map_or_else(BTreeMap::new, |live| live.timeline.tally().stages().clone()),
            ..named(call.label())
        }
    }

    fn disk(&mut self, now: Instant) -> Part {
        if self.disk_at.is_none_or(|at| now >= at) {
            self.disk_at = Some(now + DISK_RENEWAL);
            self.disk = match free_bytes(existing(&self.data)) {
                Ok(free) => {
                    self.recorded.free_bytes = free;
                    if free < self.min_free {
                        let text = format!("{} MiB free in {}: make room", free >> 20, self.data.display());
                        Part::bad("disk", text)
                    } else {
                        Part::good("disk")
                    }
                }
                Err(error) => Part::bad("disk", format!("{}: {error}", self.data.display())),
            };
        }
        self.disk.clone()
    }

    fn parts(&mut self, now: Instant, agent: &UserAgent) -> Parts {
        let part = |(name, problem): (String, Option<String>)| match problem {
            None => Part::good(name),
            Some(problem) => Part::bad(name, problem),
        };
        Parts {
            transports: self.transports.clone(),
            disk: self.disk(now),
            censor: self.detectors.target_states().into_iter().map(part).collect(),
            detectors: self.detectors.detector_states().into_iter().map(part).collect(),
            accounts: agent.registrations().map(account_part).collect(),
            peers: agent.probed_peers().map(peer_part).collect(),
            draining: agent.is_draining(),
        }
    }
}

fn peer_part((name, answers): (&str, Option<bool>)) -> Part {
    match answers {
        Some(false) => Part::bad(name, "does not answer OPTIONS at its uri"),
        Some(true) | None => Part::good(name),
    }
}

fn account_part((name, state): (&str, &State)) -> Part {
    match state {
        State::Registered { .. } => Part::good(name),
        State::Starting => Part::bad(name, "not registered yet"),
        State::Gone => Part::bad(name, "unregistered"),
        State::Failed { status, text, retry } => {
            Part::bad(name, format!("{status} {text}, next try after {} s", retry.as_secs()))
        }
    }
}

fn registration(account: &str, state: &State) {
    match state {
        State::Registered { expires } => {
            tracing::info!(%account, "registered for {} s", expires.as_secs());
        }
        State::Failed { status, text, retry } => {
            let hint =
                if matches!(status, 401 | 403 | 407) { ": check username, password and realm" } else { "" };
            tracing::warn!(%account, "not registered: {status} {text}{hint}; next try after {} s", retry.as_secs());
        }
        State::Gone => tracing::info!(%account, "unregistered"),
        State::Starting => {}
    }
}

impl Watch for Watching {
    fn happened(&mut self, now: Instant, what: &Do) {
        match what {
            Do::Tell { call, label, tell } => self.told(now, *call, label, tell),
            Do::Ended { call, label, ended } => {
                // A view of what has just ended must not wait for the next renewal.
                self.renew_at = None;
                self.over(*call, label, ended);
            }
            Do::Registration { account, state } => registration(account, state),
            Do::Send { .. }
            | Do::Connect { .. }
            | Do::Close(_)
            | Do::Resolve { .. }
            | Do::Guessed { .. }
            | Do::Engine(_) => {}
        }
    }

    fn turned(&mut self, now: Instant, agent: &UserAgent, engines: &Engines) {
        self.shared.heartbeat.beat(now);
        self.stale = self.renew_at.is_some_and(|at| now < at);
        if self.stale {
            return;
        }
        let calls = u32::try_from(agent.calls().count()).unwrap_or(u32::MAX);
        let pause = RENEWAL_PER_CALL.saturating_mul(calls).clamp(RENEWAL, SLOWEST_RENEWAL);
        self.renew_at = Some(now + pause);
        for call in agent.calls() {
            if let (Some(running), Some(live)) = (engines.running(call.id()), self.live.get_mut(&call.id())) {
                live.recording = running.recording.clone().or(live.recording.take());
                live.gauges = Some(running.gauges.clone());
            }
        }
        let parts = self.parts(now, agent);
        self.ready = parts.readiness() != Readiness::NotReady;
        let snapshot = Snapshot {
            parts,
            calls: agent.calls().map(|call| self.view(now, call, engines)).collect(),
            recent: self.recent.iter().cloned().collect(),
            ended: self.ended.clone(),
            sip: sip_view(now, agent, self.door.dropped()),
            worker: worker_view(&self.detectors),
            lateness: engines.lateness(),
            recording: self.recorded.clone(),
            avatars: self.faces.figures().into_iter().map(avatar_view).collect(),
            ..Snapshot::default()
        };
        *self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    fn is_ready(&self) -> bool {
        self.ready
    }

    /// What happened since the last renewal must not wait for the next thing to happen.
    fn wake_at(&self) -> Option<Instant> {
        self.renew_at.filter(|_| self.stale)
    }

    fn close(self: Box<Self>, limit: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            for (name, outcome) in self.scope.close(limit).await {
                if outcome != Outcome::Done {
                    tracing::error!("{name}: {outcome:?}");
                }
            }
        })
    }
}

fn lost_by_queue(lost: [(&'static str, u64); 3]) -> BTreeMap<String, u64> {
    lost.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn avatar_view((name, figures): (String, LedgerFigures)) -> AvatarView {
    AvatarView {
        name,
        open: figures.open,
        opened: figures.opened,
        refused: figures.refused,
        lost: figures.lost,
        reaped: figures.reaped,
        minutes: figures.seconds / 60.0,
        usd: figures.usd,
        minutes_left_today: figures.left_today,
    }
}

fn named(label: &Label) -> CallView {
    CallView {
        id: label.call.clone(),
        direction: if label.incoming { CallDirection::Inbound } else { CallDirection::Outbound },
        from: label.from.clone(),
        to: label.to.clone(),
        agent: label.agent.clone(),
        display_name: label.display_name.clone(),
        asserted: label.asserted.clone(),
        diverted_by: label.diverted_by.clone(),
        room: label.room.clone(),
        session: label.session.clone(),
        session_id: label.session_id.clone(),
        headers: label.headers.clone(),
        ..CallView::default()
    }
}

fn sip_view(now: Instant, agent: &UserAgent, dropped: Dropped) -> SipView {
    let counters = agent.sip_counters();
    SipView {
        requests: counters.requests,
        responses: counters.responses,
        retransmissions: counters.retransmissions,
        malformed: counters.malformed,
        challenges: counters.challenges,
        proofs_refused: counters.proofs_refused,
        bindings: agent.registrar().bindings(now).count(),
        dropped: BTreeMap::from([
            ("acl".to_owned(), counters.strangers_dropped),
            ("stray".to_owned(), counters.stray),
            ("overload".to_owned(), counters.overload),
            ("malformed".to_owned(), counters.malformed),
            ("rate".to_owned(), dropped.rate),
            ("scanner".to_owned(), dropped.scanner),
            ("banned".to_owned(), dropped.banned),
        ]),
    }
}

fn worker_view(detectors: &Detectors) -> WorkerView {
    let Some(status) = detectors.status() else { return WorkerView::default() };
    let models = status
        .models
        .iter()
        .map(|model| {
            let view = ModelView { runs: model.count, inference_ms: model.mean_ms };
            (model.name.clone(), view)
        })
        .collect();
    WorkerView { wanted: true, alive: status.alive, restarts: status.restarts, late: status.late, models }
}

fn mean_inference(status: &crate::worker::client::WorkerStatus) -> f64 {
    let busy: Vec<f64> =
        status.models.iter().filter(|model| model.count > 0).map(|model| model.mean_ms).collect();
    if busy.is_empty() { 0.0 } else { busy.iter().sum::<f64>() / busy.len() as f64 }
}

fn audio_codec(streams: &Streams) -> String {
    streams.audio.as_ref().map_or(String::new(), |audio| audio.codec.name().to_owned())
}

fn video_codec(stream: Option<&VideoStream>) -> String {
    stream.map_or(String::new(), |stream| stream.codec.name().to_owned())
}

fn slides_codec(ended: &Ended) -> String {
    video_codec(ended.streams.slides.as_ref())
}

fn video_record(codec: String, stream: &StreamReport, pictures: &PictureReport) -> StreamRecord {
    let pictures = PictureRecord {
        decoded: pictures.decoded,
        withheld: pictures.withheld,
        sent: pictures.encoded,
        width: pictures.size.map_or(0, |size| size.width),
        height: pictures.size.map_or(0, |size| size.height),
        stalls: pictures.stalls,
        stalled_ms: pictures.stalled_ms,
    };
    StreamRecord { pictures: Some(pictures), ..stream_record(codec, stream) }
}

fn video_view(codec: String, stream: &StreamReport, pictures: &PictureReport) -> VideoView {
    VideoView {
        stream: stream_view(codec, stream),
        width: pictures.size.map_or(0, |size| size.width as u32),
        height: pictures.size.map_or(0, |size| size.height as u32),
        stages_ms: StagesView {
            decode: pictures.decode_ms,
            gate: pictures.gate_ms,
            encode: pictures.encode_ms,
            inference: 0.0,
        },
        pictures_decoded: pictures.decoded,
        pictures_passed: pictures.passed,
        pictures_withheld: pictures.withheld,
        pictures_dropped: pictures.dropped,
        queue_dropped: lost_by_queue(pictures.lost),
        key_requests_sent: pictures.key_requests_sent,
        key_requests_received: pictures.key_requests_received,
        stalls: pictures.stalls,
        stalled_ms: pictures.stalled_ms,
        ..VideoView::default()
    }
}

fn media_of(streams: &Streams) -> String {
    let audio =
        streams.audio.as_ref().map(|audio| format!("{} {:?}", audio.codec.name(), audio.route.direction));
    let video = streams.video.as_ref().map(|video| match video.codec {
        VideoCodec::H264 => format!("H264 {:?} {:?}", video.send_mode, video.route.direction),
        codec @ (VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::H265) => {
            format!("{} {:?}", codec.name(), video.route.direction)
        }
    });
    let slides = streams.slides.as_ref().map(|_| "slides".to_owned());
    let protected = (!protections(streams).is_empty()).then(|| protections(streams));
    [audio, video, slides, protected].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// How the streams are protected, each way once: `SRTP AES_CM_128_HMAC_SHA1_80`, `DTLS-SRTP`.
fn protections(streams: &Streams) -> String {
    let routes = [
        streams.audio.as_ref().map(|audio| &audio.route),
        streams.video.as_ref().map(|video| &video.route),
        streams.slides.as_ref().map(|slides| &slides.route),
    ];
    let mut names: Vec<String> = routes
        .into_iter()
        .flatten()
        .filter_map(|route| match &route.protection {
            Protection::None => None,
            Protection::Sdes(keys) => Some(format!("SRTP {}", keys.suite.name())),
            Protection::Dtls(_) => Some("DTLS-SRTP".to_owned()),
        })
        .collect();
    names.dedup();
    names.join(", ")
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The nearest folder that exists: free space is asked before the first recording makes its own.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."))
}
