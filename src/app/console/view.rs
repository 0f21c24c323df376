//! What the console shows: plain values the control loop fills, and their JSON. Nothing in here acts.
//!
//! Counters of a call count from its start; [`Totals`] keeps those of calls that have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::engine::lateness::LatenessFigures;
use crate::record::agent::AgentRecord;
use crate::record::record::{EventRecord, QualityRecord, TrackRecord};
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// `[appliance] name`.
    pub appliance: String,
    pub uptime: Duration,
    /// Since the control loop last went round.
    pub loop_age: Duration,
    pub parts: Parts,
    /// Live calls, oldest first.
    pub calls: Vec<CallView>,
    /// Ended calls, newest first.
    pub recent: Vec<Arc<CallView>>,
    /// Sums over the calls that have ended; see [`Totals::add`].
    pub ended: Totals,
    pub sip: SipView,
    pub worker: WorkerView,
    /// How late the 20 ms beats of all calls came since the start.
    pub lateness: LatenessFigures,
    pub recording: RecordingView,
    /// By name, each of `[avatar.NAME]`.
    pub avatars: Vec<AvatarView>,
}

/// What the sessions of one avatar came to since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AvatarView {
    pub name: String,
    /// Sessions now, and those that began.
    pub open: u32,
    pub opened: u64,
    /// Not begun for the sake of `max_sessions` or `budget_minutes`; lost; left by an earlier run and ended.
    pub refused: u64,
    pub lost: u64,
    pub reaped: u64,
    pub minutes: f64,
    pub usd: f64,
    /// Of `budget_minutes`, for today; `null`: no limit.
    pub minutes_left_today: Option<f64>,
}

/// What must be there before calls may come.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Parts {
    pub transports: Vec<Part>,
    pub disk: Part,
    /// One for each censor target in use: a loaded detector that finds it.
    pub censor: Vec<Part>,
    /// Every other detector in use; a missing one only degrades.
    pub detectors: Vec<Part>,
    /// Where we register; a missing one only degrades.
    pub accounts: Vec<Part>,
    /// Peers that are dialled; some that take calls answer no OPTIONS, so a silent one is shown and changes nothing.
    pub peers: Vec<Part>,
    pub draining: bool,
}

/// One thing that works or does not.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// `udp:0.0.0.0:5060`, `disk`, `face`, `objects`.
    pub name: String,
    pub ok: bool,
    /// What happened and what to do; empty when it works.
    pub detail: String,
}

impl Part {
    pub fn good(name: impl Into<String>) -> Self {
        Part { name: name.into(), ok: true, detail: String::new() }
    }

    pub fn bad(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Part { name: name.into(), ok: false, detail: detail.into() }
    }
}

/// Whether calls may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    Ready,
    /// Calls may come; something is missing that is not needed for safety.
    Degraded,
    NotReady,
}

impl Parts {
    pub fn readiness(&self) -> Readiness {
        let bound = !self.transports.is_empty() && all_ok(&self.transports);
        if !bound || !self.disk.ok || self.draining || !all_ok(&self.censor) {
            Readiness::NotReady
        } else if !all_ok(&self.detectors) || !all_ok(&self.accounts) {
            Readiness::Degraded
        } else {
            Readiness::Ready
        }
    }

    /// Every part with its kind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Part)> {
        let kind = |kind: &'static str| move |part| (kind, part);
        self.transports
            .iter()
            .map(kind("transport"))
            .chain(std::iter::once(&self.disk).map(kind("disk")))
            .chain(self.censor.iter().map(kind("censor")))
            .chain(self.detectors.iter().map(kind("detector")))
            .chain(self.accounts.iter().map(kind("account")))
            .chain(self.peers.iter().map(kind("peer")))
    }
}

fn all_ok(parts: &[Part]) -> bool {
    parts.iter().all(|part| part.ok)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CallDirection {
    #[default]
    Inbound,
    Outbound,
}

impl CallDirection {
    pub fn word(self) -> &'static str {
        match self {
            CallDirection::Inbound => "inbound",
            CallDirection::Outbound => "outbound",
        }
    }
}

/// One call, live or ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CallView {
    /// The short id of logs and files.
    pub id: String,
    pub direction: CallDirection,
    pub from: String,
    pub to: String,
    pub agent: String,
    /// `preparing`, `ringing`, `early` (media before the answer), `answered`, `established`, `ending`, `ended`.
    pub state: String,
    #[serde(serialize_with = "time_text")]
    pub started: Option<SystemTime>,
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub duration: Duration,
    /// INVITE to 200.
    #[serde(rename = "setup_ms", serialize_with = "optional_millis")]
    pub setup: Option<Duration>,
    /// The one reason; `None` while it lives.
    pub end_reason: Option<String>,
    /// The SIP status it was answered or refused with.
    pub status: Option<u16>,
    pub audio: Option<StreamView>,
    pub video: Option<VideoView>,
    /// A shared screen beside the camera's picture.
    pub slides: Option<VideoView>,
    /// The file it is recorded into.
    pub recording: Option<String>,
    /// The name the caller goes by.
    pub display_name: String,
    /// The identity the caller's network stands by.
    pub asserted: Option<String>,
    /// Whom the call was for before it was diverted.
    pub diverted_by: Option<String>,
    /// `X-Room-ID`, else the Call-ID.
    pub room: String,
    /// `X-Session-ID`, else the caller.
    pub session: String,
    /// Session-ID (RFC 7989), both halves.
    pub session_id: Option<String>,
    /// The `X-` headers of the INVITE.
    pub headers: Vec<(String, String)>,
    /// Which way each track goes, and whose it is.
    pub tracks: Vec<TrackRecord>,
    /// The last things that happened, oldest first.
    pub events: Vec<EventRecord>,
    /// What its agent did.
    pub conversation: Option<AgentRecord>,
    /// Times of the stages of its answers, for metrics.
    #[serde(skip)]
    pub stages: BTreeMap<&'static str, Histogram>,
}

/// One RTP session.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamView {
    pub codec: String,
    pub packets_received: u64,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub packets_late: u64,
    pub duplicates: u64,
    /// From another source than the locked one.
    pub packets_foreign: u64,
    pub packets_malformed: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub jitter_ms: f64,
    pub round_trip_ms: Option<f64>,
    /// How good the line is; absent: no sound, or too little yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityRecord>,
    /// How much sooner than their sound pictures come, as mirrored and recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skew_ms: Option<f64>,
    /// The SRTP suite that protects it; absent: it goes in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp: Option<&'static str>,
    /// How its keys came: `sdes` or `dtls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp_via: Option<&'static str>,
    /// Packets that were not made with its key.
    pub srtp_auth_failures: u64,
    /// DTLS handshakes of sources that are not the peer.
    pub dtls_refused: u64,
    /// Lost packets and the path, of video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathView>,
}

/// Lost packets of a video stream and the path it takes; rates in kilobits a second, absent where the peer does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct PathView {
    /// Packets we asked for again, those that came in time, those given up.
    pub asked: u64,
    pub recovered: u64,
    pub given_up: u64,
    /// Packets the peer asked for, those sent again, those not.
    pub repeats_wanted: u64,
    pub repeated: u64,
    pub repeats_refused: u64,
    /// What we may send, and what that follows from.
    pub target_kbps: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remb_kbps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmmbr_kbps: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_kbps: Option<u32>,
    pub loss_kbps: u32,
    /// What we estimate the path from the peer to carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound_kbps: Option<u32>,
}

/// The video of one call, stage by stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct VideoView {
    #[serde(flatten)]
    pub stream: StreamView,
    /// Of the decoded picture.
    pub width: u32,
    pub height: u32,
    pub fps_in: f64,
    pub fps_out: f64,
    /// From the last packet of a picture to the sent one made of it.
    pub age_ms: f64,
    pub stages_ms: StagesView,
    pub pictures_decoded: u64,
    pub pictures_passed: u64,
    /// Replaced by the slate.
    pub pictures_withheld: u64,
    /// Lost for want of a buffer at the gate.
    pub pictures_dropped: u64,
    /// Lost in each queue, by its name.
    pub queue_dropped: BTreeMap<String, u64>,
    pub key_requests_sent: u64,
    pub key_requests_received: u64,
    /// Times the caller's picture stood still, and for how long in all.
    pub stalls: u64,
    pub stalled_ms: u64,
}

/// Mean time of each stage of late, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StagesView {
    pub decode: f64,
    pub gate: f64,
    pub encode: f64,
    pub inference: f64,
}

/// SIP since start.
#[derive(Clone, Debug, Default)]
pub struct SipView {
    /// Received.
    pub requests: u64,
    /// Received.
    pub responses: u64,
    pub retransmissions: u64,
    pub malformed: u64,
    /// Requests asked for proof, and proofs that were wrong.
    pub challenges: u64,
    pub proofs_refused: u64,
    /// Contacts registered here.
    pub bindings: usize,
    /// Thrown away without an answer, by reason: `acl`, `rate`, …
    pub dropped: BTreeMap<String, u64>,
}

/// The inference child.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkerView {
    /// Whether any model is wanted at all.
    pub wanted: bool,
    pub alive: bool,
    pub restarts: u64,
    /// Answers that came after their deadline, or never.
    pub late: u64,
    /// By model.
    pub models: BTreeMap<String, ModelView>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ModelView {
    pub runs: u64,
    /// Mean of late.
    pub inference_ms: f64,
}

/// The disk and what went onto it.
#[derive(Clone, Debug, Default)]
pub struct RecordingView {
    pub free_bytes: u64,
    pub bytes: u64,
    pub errors: u64,
}

/// Sums over ended calls, so that counters never fall when a call ends.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// By direction and SIP status (0: none).
    pub calls: BTreeMap<(CallDirection, u16), u64>,
    pub audio: StreamView,
    pub video: VideoView,
    pub setup: Histogram,
    pub agents: AgentTotals,
}

/// What agents did in all calls.
#[derive(Clone, Debug, Default)]
pub struct AgentTotals {
    pub sum: AgentRecord,
    pub cost_usd: f64,
    pub stages: BTreeMap<&'static str, Histogram>,
}

impl AgentTotals {
    fn add(&mut self, call: &CallView) {
        for (stage, times) in &call.stages {
            self.stages.entry(stage).or_default().add(times);
        }
        let Some(other) = &call.conversation else { return };
        let sum = &mut self.sum;
        let sums = [
            (&mut sum.turns, other.turns),
            (&mut sum.turns_unused, other.turns_unused),
            (&mut sum.turns_amended, other.turns_amended),
            (&mut sum.turns_vetoed, other.turns_vetoed),
            (&mut sum.replies, other.replies),
            (&mut sum.interruptions, other.interruptions),
            (&mut sum.false_interruptions, other.false_interruptions),
            (&mut sum.fallbacks, other.fallbacks),
            (&mut sum.pictures_sent, other.pictures_sent),
            (&mut sum.vision_results, other.vision_results),
            (&mut sum.tokens.input, other.tokens.input),
            (&mut sum.tokens.cached, other.tokens.cached),
            (&mut sum.tokens.image, other.tokens.image),
            (&mut sum.tokens.output, other.tokens.output),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
        for (service, failures) in &other.failures {
            *sum.failures.entry(service.clone()).or_default() += failures;
        }
        for (tool, other) in &other.tools {
            // A tool that was only ever refused may be one a model has thought up.
            let name = if other.called > other.refused { tool } else { "refused" };
            let sum = sum.tools.entry(name.to_owned()).or_default();
            sum.called += other.called;
            sum.refused += other.refused;
        }
        self.cost_usd += other.sight.get("cost_usd").and_then(serde_json::Value::as_f64).unwrap_or_default();
    }
}

impl Totals {
    /// Adds a call that has ended.
    pub fn add(&mut self, call: &CallView) {
        *self.calls.entry((call.direction, call.status.unwrap_or(0))).or_default() += 1;
        self.add_live(call);
    }

    /// Adds what a live call has come to so far: it has no result yet.
    pub fn add_live(&mut self, call: &CallView) {
        self.setup.extend(call.setup);
        if let Some(audio) = &call.audio {
            self.audio.add(audio);
        }
        if let Some(video) = &call.video {
            self.video.add(video);
        }
        self.agents.add(call);
    }
}

impl StreamView {
    /// Adds the counters of another; what is no counter stays.
    pub fn add(&mut self, other: &StreamView) {
        let sums = [
            (&mut self.packets_received, other.packets_received),
            (&mut self.packets_sent, other.packets_sent),
            (&mut self.packets_lost, other.packets_lost),
            (&mut self.packets_late, other.packets_late),
            (&mut self.duplicates, other.duplicates),
            (&mut self.packets_foreign, other.packets_foreign),
            (&mut self.packets_malformed, other.packets_malformed),
            (&mut self.srtp_auth_failures, other.srtp_auth_failures),
            (&mut self.dtls_refused, other.dtls_refused),
            (&mut self.bytes_received, other.bytes_received),
            (&mut self.bytes_sent, other.bytes_sent),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
        if let Some(path) = &other.path {
            self.path.get_or_insert_default().add(path);
        }
        if let Some(other) = &other.quality {
            let quality = self.quality.get_or_insert_default();
            quality.concealed_ms += other.concealed_ms;
            quality.repaired_ms += other.repaired_ms;
            quality.stretched_ms += other.stretched_ms;
        }
    }
}

impl PathView {
    fn add(&mut self, other: &PathView) {
        let sums = [
            (&mut self.asked, other.asked),
            (&mut self.recovered, other.recovered),
            (&mut self.given_up, other.given_up),
            (&mut self.repeats_wanted, other.repeats_wanted),
            (&mut self.repeated, other.repeated),
            (&mut self.repeats_refused, other.repeats_refused),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }
}

impl VideoView {
    /// Adds the counters of another; what is no counter stays.
    pub fn add(&mut self, other: &VideoView) {
        self.stream.add(&other.stream);
        let sums = [
            (&mut self.pictures_decoded, other.pictures_decoded),
            (&mut self.pictures_passed, other.pictures_passed),
            (&mut self.pictures_withheld, other.pictures_withheld),
            (&mut self.pictures_dropped, other.pictures_dropped),
            (&mut self.key_requests_sent, other.key_requests_sent),
            (&mut self.key_requests_received, other.key_requests_received),
            (&mut self.stalls, other.stalls),
            (&mut self.stalled_ms, other.stalled_ms),
        ];
        sums.into_iter().for_each(|(sum, more)| *sum = sum.saturating_add(more));
        for (queue, dropped) in &other.queue_dropped {
            *self.queue_dropped.entry(queue.clone()).or_default() += dropped;
        }
    }
}

/// Upper bounds of [`Histogram`] in seconds.
pub const SETUP_BOUNDS_S: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0];

/// Times of call set-up, and of the stages of answers.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    pub sum_s: f64,
    pub count: u64,
    /// How many lie at or under each bound and above the one before.
    pub buckets: [u64; SETUP_BOUNDS_S.len()],
}

impl Histogram {
    fn add(&mut self, other: &Histogram) {
        self.sum_s += other.sum_s;
        self.count += other.count;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, more)| *sum += more);
    }
}

impl Extend<Duration> for Histogram {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, times: T) {
        for time in times {
            let seconds = time.as_secs_f64();
            self.sum_s += seconds;
            self.count += 1;
            let fits = SETUP_BOUNDS_S.iter().zip(&mut self.buckets).find(|(bound, _)| seconds <= **bound);
            if let Some((_, bucket)) = fits {
                *bucket += 1;
            }
        }
    }
}

/// RFC 3339 in UTC.
pub fn written(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

fn time_text<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(written).serialize(serializer)
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
}

fn optional_millis<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64() * 1000.0).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        Parts {
            transports: vec![Part::good("udp:0.0.0.0:5060")],
            disk: Part::good("disk"),
            censor: vec![Part::good("face")],
            detectors: vec![Part::good("objects")],
            accounts: vec![Part::good("pbx")],
            peers: vec![Part::good("office")],
            draining: false,
        }
    }

    #[test]
    fn only_a_detector_outside_the_censor_may_be_missing() {
        let check = |change: fn(&mut Parts), expected| {
            let mut parts = parts();
            change(&mut parts);
            assert_eq!(parts.readiness(), expected, "{parts:?}");
        };
        check(|_| {}, Readiness::Ready);
        check(|parts| parts.detectors[0].ok = false, Readiness::Degraded);
        check(|parts| parts.accounts[0].ok = false, Readiness::Degraded);
        check(|parts| parts.peers[0].ok = false, Readiness::Ready);
        check(|parts| parts.censor[0].ok = false, Readiness::NotReady);
        check(|parts| parts.transports[0].ok = false, Readiness::NotReady);
        check(|parts| parts.transports.clear(), Readiness::NotReady);
        check(|parts| parts.disk.ok = false, Readiness::NotReady);
        check(|parts| parts.draining = true, Readiness::NotReady);
    }

    #[test]
    fn a_call_is_shown_with_names_users_can_script_against() {
        let call = CallView {
            id: "7".into(),
            started: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)),
            duration: Duration::from_millis(2500),
            setup: Some(Duration::from_millis(12)),
            video: Some(VideoView { fps_in: 15.0, ..VideoView::default() }),
            ..CallView::default()
        };
        let json = serde_json::to_value(&call).unwrap();
        assert_eq!(json["started"], "2027-01-15T08:00:00Z");
        assert_eq!(json["duration_s"], 2.5);
        assert_eq!(json["setup_ms"], 12.0);
        assert_eq!(json["direction"], "inbound");
        assert_eq!(json["video"]["fps_in"], 15.0);
        assert_eq!(json["video"]["packets_lost"], 0);
        assert!(json["audio"].is_null());
    }
}
