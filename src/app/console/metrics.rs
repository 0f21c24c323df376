//! Prometheus text of one snapshot. Names start with `eyeline_`; labels never hold a caller's number.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, GaugeValueEncoder, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::engine::lateness;

use super::view::{
    AgentTotals, AvatarView, Histogram, Readiness, SETUP_BOUNDS_S, Snapshot, StreamView, Totals, VideoView,
};

/// What `Content-Type` says of [`write()`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The snapshot as OpenMetrics text.
pub fn write(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("eyeline");
    registry.register_collector(Box::new(Sheet(snapshot)));
    let mut page = String::with_capacity(8 * 1024);
    match text::encode(&mut page, &registry) {
        Ok(()) => page,
        Err(fmt::Error) => String::new(),
    }
}

#[derive(Debug)]
struct Sheet(Snapshot);

impl Collector for Sheet {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let snapshot = &self.0;
        let mut totals = snapshot.ended.clone();
        for call in &snapshot.calls {
            totals.add_live(call);
        }
        let mut out = Out(encoder);
        process(&mut out, snapshot)?;
        calls(&mut out, snapshot, &totals)?;
        sip(&mut out, snapshot)?;
        codecs(&mut out, snapshot)?;
        media(&mut out, snapshot, &totals)?;
        video(&mut out, snapshot, &totals.video)?;
        agents(&mut out, &totals.agents)?;
        avatars(&mut out, &snapshot.avatars)?;
        worker_and_disk(&mut out, snapshot)
    }
}

/// A gauge that writes whole numbers without a fraction.
struct Number(f64);

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder) -> fmt::Result {
        const EXACT: f64 = (1u64 << 53) as f64;
        if self.0.fract() == 0.0 && self.0.abs() < EXACT {
            (self.0 as i64).encode(encoder)
        } else {
            self.0.encode(encoder)
        }
    }
}

/// One metric family after the other.
struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family<const N: usize, V>(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        rows: impl IntoIterator<Item = ([(&'static str, String); N], V)>,
        encode: impl Fn(&mut MetricEncoder, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in rows {
            let labels = labels.to_vec();
            encode(&mut encoder.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Label; N], f64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Gauge, rows, |encoder, value| {
            encoder.encode_gauge(&Number(value))
        })
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Label; N], u64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Counter, rows, |encoder, value| {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&Number(value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }
}

type Label = (&'static str, String);

fn label((name, value): (&'static str, &str)) -> Label {
    (name, value.to_owned())
}

fn one(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

fn process(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let build = [[label(("version", env!("CARGO_PKG_VERSION"))), label(("appliance", &snapshot.appliance))]];
    out.gauges("build_info", "Always 1", build.map(|labels| (labels, 1.0)))?;
    out.gauge("uptime_seconds", "Since start", snapshot.uptime.as_secs_f64())?;
    out.gauge("loop_age_seconds", "Since the control loop last went round", snapshot.loop_age.as_secs_f64())?;
    let readiness = snapshot.parts.readiness();
    out.gauge("ready", "Calls may come", one(readiness != Readiness::NotReady))?;
    out.gauge(
        "degraded",
        "Something not needed for safety is missing",
        one(readiness == Readiness::Degraded),
    )?;
    out.gauge("draining", "No new calls are taken", one(snapshot.parts.draining))?;
    let parts = snapshot
        .parts
        .all()
        .map(|(kind, part)| ([label(("kind", kind)), label(("name", &part.name))], one(part.ok)));
    out.gauges("part_ok", "What must be there, and whether it works", parts)
}

fn calls(out: &mut Out, snapshot: &Snapshot, totals: &Totals) -> fmt::Result {
    let mut active: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    for direction in ["inbound", "outbound"] {
        for media in ["audio", "video"] {
            active.insert((direction, media), 0.0);
        }
    }
    for call in &snapshot.calls {
        let media = if call.video.is_some() { "video" } else { "audio" };
        *active.entry((call.direction.word(), media)).or_default() += 1.0;
    }
    let rows = active.iter().map(|((dir, media), n)| ([label(("dir", dir)), label(("media", media))], *n));
    out.gauges("calls_active", "Calls that live, by whether they have video", rows)?;
    let ended = totals.calls.iter().map(|((direction, status), n)| {
        ([label(("dir", direction.word())), ("result_code", status.to_string())], *n)
    });
    out.counters("calls", "Calls that have ended, by their SIP status", ended)?;
    let setup = &totals.setup;
    out.0
        .encode_descriptor("call_setup_seconds", "INVITE to 200", None, MetricType::Histogram)?
        .encode_histogram::<NoLabelSet>(setup.sum_s, setup.count, &buckets(setup), None)
}

fn buckets(times: &Histogram) -> Vec<(f64, u64)> {
    let mut buckets: Vec<(f64, u64)> = SETUP_BOUNDS_S.into_iter().zip(times.buckets).collect();
    buckets.push((f64::INFINITY, times.count.saturating_sub(times.buckets.iter().sum())));
    buckets
}

/// Sessions of avatars: what costs money by the minute.
fn avatars(out: &mut Out, avatars: &[AvatarView]) -> fmt::Result {
    let of = |avatar: &AvatarView| [label(("avatar", &avatar.name))];
    let open = avatars.iter().map(|avatar| (of(avatar), f64::from(avatar.open)));
    out.gauges("avatar_sessions_open", "Sessions at providers now", open)?;
    let fates = avatars.iter().flat_map(|avatar| {
        let row = |fate, n| ([label(("avatar", &avatar.name)), label(("fate", fate))], n);
        [
            row("opened", avatar.opened),
            row("refused", avatar.refused),
            row("lost", avatar.lost),
            row("reaped", avatar.reaped),
        ]
    });
    out.counters("avatar_sessions", "Sessions by what became of them", fates)?;
    let minutes = avatars.iter().map(|avatar| (of(avatar), avatar.minutes));
    out.gauges("avatar_minutes", "Minutes of sessions since the start", minutes)?;
    let usd = avatars.iter().map(|avatar| (of(avatar), avatar.usd));
    out.gauges("avatar_cost_usd", "What they cost at the configured price", usd)?;
    let left = avatars.iter().filter_map(|avatar| Some((of(avatar), avatar.minutes_left_today?)));
    out.gauges("avatar_minutes_left", "Of budget_minutes, for today", left)
}

/// What agents that talk and look did.
fn agents(out: &mut Out, totals: &AgentTotals) -> fmt::Result {
    let sum = &totals.sum;
    let turns = [
        ("answered", sum.turns),
        ("unused", sum.turns_unused),
        ("amended", sum.turns_amended),
        ("vetoed", sum.turns_vetoed),
    ];
    let rows = turns.map(|(fate, n)| ([label(("fate", fate))], n));
    out.counters("agent_turns", "Turns of callers; amended ones are answered too", rows)?;
    let replies = [("whole", sum.replies), ("interrupted", sum.interruptions), ("fallback", sum.fallbacks)];
    let rows = replies.map(|(fate, n)| ([label(("fate", fate))], n));
    out.counters("agent_replies", "Replies, and times no model answered", rows)?;
    out.counter("agent_false_interruptions", "Replies that went on after a pause", sum.false_interruptions)?;
    let rows = sum.failures.iter().map(|(service, n)| ([label(("service", service))], *n));
    out.counters("agent_failures", "Models and applications that did not answer", rows)?;
    let rows = sum.tools.iter().flat_map(|(tool, record)| {
        let row = |fate, n| ([label(("tool", tool)), label(("fate", fate))], n);
        [row("called", record.called), row("refused", record.refused)]
    });
    out.counters("agent_tools", "Tools that models called, and of those the refused", rows)?;
    out.counter("agent_pictures", "Pictures that went to agents' own models", sum.pictures_sent)?;
    out.counter("agent_descriptions", "Pictures described by the model of [vision]", sum.vision_results)?;
    let tokens = [
        ("input", sum.tokens.input),
        ("cached", sum.tokens.cached),
        ("image", sum.tokens.image),
        ("output", sum.tokens.output),
    ];
    let rows = tokens.map(|(kind, n)| ([label(("kind", kind))], n));
    out.counters("agent_tokens", "As providers counted; cached and image are parts of input", rows)?;
    out.gauge(
        "agent_cost_usd",
        "Spent on pictures by ended calls, at the configured prices",
        totals.cost_usd,
    )?;
    let stages = totals.stages.iter().map(|(stage, times)| ([label(("stage", stage))], times));
    let help = "From the caller's last sound to the reply (turn), and its parts";
    out.family(("agent_latency_seconds", help), MetricType::Histogram, stages, |encoder, times| {
        encoder.encode_histogram::<NoLabelSet>(times.sum_s, times.count, &buckets(times), None)
    })
}

fn sip(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let sip = &snapshot.sip;
    out.counter("sip_requests", "Requests received", sip.requests)?;
    out.counter("sip_responses", "Responses received", sip.responses)?;
    out.counter("sip_retransmissions", "Messages sent again", sip.retransmissions)?;
    out.counter("sip_parse_errors", "Messages that could not be read", sip.malformed)?;
    out.counter("sip_challenges", "Requests asked for proof", sip.challenges)?;
    out.counter("sip_proofs_refused", "Wrong names and passwords", sip.proofs_refused)?;
    out.gauge("registrar_bindings", "Contacts registered here", sip.bindings as f64)?;
    let accounts = snapshot.parts.accounts.iter();
    let up = accounts.map(|part| ([label(("account", &part.name))], f64::from(u8::from(part.ok))));
    out.gauges("registration_up", "Whether we are registered there", up)?;
    let peers = snapshot.parts.peers.iter();
    let up = peers.map(|part| ([label(("peer", &part.name))], f64::from(u8::from(part.ok))));
    out.gauges("peer_up", "Whether a peer we dial answers OPTIONS", up)?;
    let dropped = sip.dropped.iter().map(|(reason, n)| ([label(("reason", reason))], *n));
    out.counters("sip_dropped", "Messages thrown away without an answer", dropped)
}

/// Name, help, and which counter of a stream it is.
type Counted = (&'static str, &'static str, fn(&StreamView) -> u64);

/// How many live streams each codec has.
fn codecs(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let mut found: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for call in &snapshot.calls {
        let audio = call.audio.as_ref().map(|stream| ("audio", stream));
        let video = call.video.as_ref().map(|video| ("video", &video.stream));
        for (media, stream) in audio.into_iter().chain(video) {
            *found.entry((media, &stream.codec)).or_default() += 1;
        }
    }
    let row = |((media, codec), count): ((&str, &str), u32)| {
        ([label(("codec", codec)), label(("media", media))], f64::from(count))
    };
    out.gauges("streams", "Live streams by what is sent", found.into_iter().map(row))
}

fn media(out: &mut Out, snapshot: &Snapshot, totals: &Totals) -> fmt::Result {
    let both = [("audio", &totals.audio), ("video", &totals.video.stream)];
    let directed = |pick: fn(&StreamView) -> [(&'static str, u64); 2]| {
        both.into_iter().flat_map(move |(media, stream)| {
            pick(stream).map(|(dir, n)| ([label(("dir", dir)), label(("media", media))], n))
        })
    };
    out.counters(
        "rtp_packets",
        "RTP packets",
        directed(|stream| [("in", stream.packets_received), ("out", stream.packets_sent)]),
    )?;
    out.counters(
        "rtp_bytes",
        "RTP bytes",
        directed(|stream| [("in", stream.bytes_received), ("out", stream.bytes_sent)]),
    )?;
    let counted: [Counted; 7] = [
        ("rtp_lost", "Packets that never came", |stream| stream.packets_lost),
        ("rtp_late", "Packets that came too late", |stream| stream.packets_late),
        ("rtp_duplicates", "Packets that came twice", |stream| stream.duplicates),
        ("rtp_foreign_source", "Packets from another source than the locked one", |stream| {
            stream.packets_foreign
        }),
        ("rtp_malformed", "Packets that could not be read", |stream| stream.packets_malformed),
        ("srtp_auth_failures", "Packets not made with the key of their stream", |stream| {
            stream.srtp_auth_failures
        }),
        ("dtls_refused", "DTLS handshakes of sources that are not the peer", |stream| stream.dtls_refused),
    ];
    for (name, help, pick) in counted {
        out.counters(name, help, both.map(|(media, stream)| ([label(("media", media))], pick(stream))))?;
    }
    let path = totals.video.stream.path.unwrap_or_default();
    let again = [
        ("asked", path.asked),
        ("recovered", path.recovered),
        ("given_up", path.given_up),
        ("wanted_by_peer", path.repeats_wanted),
        ("sent", path.repeated),
        ("refused", path.repeats_refused),
    ];
    out.counters(
        "video_retransmissions",
        "Lost video packets: those we asked for and what came of it, those peers asked for and what came of it",
        again.map(|(what, n)| ([label(("what", what))], n)),
    )?;
    let live = |pick: fn(&StreamView) -> Option<f64>| {
        snapshot.calls.iter().flat_map(move |call| {
            let audio = call.audio.as_ref().map(|stream| ("audio", stream));
            let video = call.video.as_ref().map(|video| ("video", &video.stream));
            audio.into_iter().chain(video).filter_map(move |(media, stream)| {
                pick(stream).map(|ms| ([label(("call", &call.id)), label(("media", media))], ms / 1000.0))
            })
        })
    };
    out.gauges("jitter_seconds", "Interarrival jitter of live calls", live(|stream| Some(stream.jitter_ms)))?;
    out.gauges("rtcp_rtt_seconds", "Round trip of live calls", live(|stream| stream.round_trip_ms))?;
    out.gauges(
        "av_skew_seconds",
        "How much sooner than their sound pictures of live calls come",
        live(|stream| stream.skew_ms),
    )?;
    sound(out, snapshot, totals)
}

fn sound(out: &mut Out, snapshot: &Snapshot, totals: &Totals) -> fmt::Result {
    let live =
        || snapshot.calls.iter().filter_map(|call| Some((&call.id, call.audio.as_ref()?.quality.as_ref()?)));
    let mos = live().flat_map(|(id, quality)| {
        [("in", Some(quality.mos)), ("out", quality.peer_mos)]
            .into_iter()
            .filter_map(|(dir, mos)| Some(([label(("call", id)), label(("dir", dir))], mos?)))
    });
    out.gauges("mos_estimate", "Mean opinion score of live calls by the E-model: 1 to 4.4", mos)?;
    let waits = live().map(|(id, quality)| ([label(("call", id))], quality.wait_ms / 1000.0));
    out.gauges("jitter_buffer_seconds", "From the arrival of sound to its playing, of live calls", waits)?;
    let total = totals.audio.quality.clone().unwrap_or_default();
    let made = [
        ("concealed", total.concealed_ms),
        ("repaired", total.repaired_ms),
        ("stretched", total.stretched_ms),
    ];
    out.family(
        (
            "audio_made",
            "Seconds of sound invented for lost packets, got back from those behind them, and left out or put in",
        ),
        MetricType::Counter,
        made.map(|(how, ms)| ([label(("how", how))], ms as f64 / 1000.0)),
        |encoder, seconds| encoder.encode_counter::<NoLabelSet, f64, f64>(&seconds, None),
    )?;
    let lateness = &snapshot.lateness;
    let bounds = lateness::BOUNDS_S.into_iter().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(lateness.buckets).collect();
    out.0
        .encode_descriptor(
            "tick_lateness_seconds",
            "How late beats of 20 ms come",
            None,
            MetricType::Histogram,
        )?
        .encode_histogram::<NoLabelSet>(lateness.sum_s, lateness.count(), &buckets, None)
}

fn video(out: &mut Out, snapshot: &Snapshot, totals: &VideoView) -> fmt::Result {
    let live = || snapshot.calls.iter().filter_map(|call| call.video.as_ref().map(|video| (&call.id, video)));
    let fps = live().flat_map(|(id, video)| {
        [("in", video.fps_in), ("out", video.fps_out)]
            .map(|(dir, fps)| ([label(("call", id)), label(("dir", dir))], fps))
    });
    out.gauges("video_fps", "Pictures a second of live calls", fps)?;
    let age = live().map(|(id, video)| ([label(("call", id))], video.age_ms / 1000.0));
    let target = live().filter_map(|(id, video)| {
        let path = video.stream.path?;
        Some(([label(("call", id))], f64::from(path.target_kbps) * 1e3))
    });
    out.gauges("video_target_bits_per_second", "What the path lets us send in live calls", target)?;
    out.counter("video_stalls", "Times a received picture stood still", totals.stalls)?;
    out.counter("video_stalled_milliseconds", "How long in all", totals.stalled_ms)?;
    out.gauges("video_age_seconds", "Age of the picture when it is sent", age)?;
    let stages = live().flat_map(|(id, video)| {
        let stages = video.stages_ms;
        [
            ("decode", stages.decode),
            ("gate", stages.gate),
            ("encode", stages.encode),
            ("inference", stages.inference),
        ]
        .map(|(stage, ms)| ([label(("call", id)), label(("stage", stage))], ms / 1000.0))
    });
    out.gauges("video_stage_seconds", "Mean time of each stage of live calls", stages)?;
    let states = [
        ("decoded", totals.pictures_decoded),
        ("passed", totals.pictures_passed),
        ("withheld", totals.pictures_withheld),
        ("dropped", totals.pictures_dropped),
    ];
    out.counters(
        "video_frames",
        "Pictures, by what became of them",
        states.map(|(s, n)| ([label(("state", s))], n)),
    )?;
    out.counter("censor_blocked_frames", "Pictures replaced by the slate", totals.pictures_withheld)?;
    let queues = totals.queue_dropped.iter().map(|(queue, n)| ([label(("queue", queue))], *n));
    out.counters("video_queue_dropped", "Pictures lost in each queue", queues)?;
    let keys = [("sent", totals.key_requests_sent), ("received", totals.key_requests_received)];
    out.counters(
        "keyframe_requests",
        "Requests for a key picture",
        keys.map(|(how, n)| ([label(("how", how))], n)),
    )
}

fn worker_and_disk(out: &mut Out, snapshot: &Snapshot) -> fmt::Result {
    let worker = &snapshot.worker;
    out.gauge("worker_up", "The inference process lives", one(worker.alive))?;
    out.counter("worker_restarts", "Times the inference process was started again", worker.restarts)?;
    let models = || worker.models.iter().map(|(name, model)| ([label(("model", name))], model));
    out.gauges(
        "inference_seconds",
        "Mean time of one inference",
        models().map(|(labels, model)| (labels, model.inference_ms / 1000.0)),
    )?;
    out.counters("inference_runs", "Inferences", models().map(|(labels, model)| (labels, model.runs)))?;
    out.counter("inference_late", "Answers that came after their deadline, or never", worker.late)?;
    out.counter("recording_bytes", "Bytes recorded", snapshot.recording.bytes)?;
    out.counter("recording_errors", "Recordings that could not be written", snapshot.recording.errors)?;
    out.gauge("disk_free_bytes", "Free space where recordings go", snapshot.recording.free_bytes as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::record::record::QualityRecord;

    use super::super::view::{CallDirection, CallView, ModelView, Part};
    use super::*;
    use crate::record::agent::{AgentRecord, ToolRecord};

    fn call(id: &str) -> CallView {
        let mut turns = Histogram::default();
        turns.extend([Duration::from_millis(700)]);
        let stream =
            StreamView { packets_received: 100, packets_lost: 3, jitter_ms: 4.0, ..StreamView::default() };
        let video = VideoView {
            stream: StreamView { skew_ms: Some(2.0), ..stream.clone() },
            fps_in: 15.0,
            age_ms: 30.0,
            pictures_withheld: 2,
            ..VideoView::default()
        };
        let quality = QualityRecord {
            mos: 4.1,
            wait_ms: 20.0,
            concealed_ms: 60,
            repaired_ms: 40,
            ..QualityRecord::default()
        };
        let stream = StreamView { quality: Some(quality), ..stream };
        CallView {
            id: id.into(),
            from: "sip:+4930123456@example.com".into(),
            status: Some(200),
            setup: Some(Duration::from_millis(12)),
            audio: Some(StreamView { codec: "opus".into(), ..stream }),
            video: Some(video),
            conversation: Some(AgentRecord {
                turns: 3,
                failures: [("llm".to_owned(), 1)].into(),
                tools: [("look".to_owned(), ToolRecord { called: 2, refused: 0 })].into(),
                sight: [("cost_usd".to_owned(), 0.25.into())].into(),
                ..AgentRecord::default()
            }),
            stages: [("turn", turns)].into(),
            ..CallView::default()
        }
    }

    #[test]
    fn live_and_ended_calls_are_counted_together_and_without_numbers_of_people() {
        let mut snapshot =
            Snapshot { appliance: "door \"1\"".into(), calls: vec![call("8")], ..Snapshot::default() };
        snapshot.ended.add(&call("7"));
        snapshot.ended.add(&CallView {
            direction: CallDirection::Outbound,
            status: Some(486),
            ..CallView::default()
        });
        snapshot.parts.censor = vec![Part::bad("face", "no model")];
        snapshot.lateness.buckets = [3, 4, 0, 0, 0, 0, 0, 0, 0, 1];
        snapshot.worker.models.insert("yunet".into(), ModelView { runs: 9, inference_ms: 5.0 });
        let page = write(snapshot);
        for line in [
            "eyeline_calls_active{dir=\"inbound\",media=\"video\"} 1",
            "eyeline_calls_total{dir=\"inbound\",result_code=\"200\"} 1",
            "eyeline_calls_total{dir=\"outbound\",result_code=\"486\"} 1",
            "eyeline_rtp_packets_total{dir=\"in\",media=\"video\"} 200",
            "eyeline_streams{codec=\"opus\",media=\"audio\"} 1",
            "eyeline_rtp_lost_total{media=\"audio\"} 6",
            "eyeline_jitter_seconds{call=\"8\",media=\"audio\"} 0.004",
            "eyeline_av_skew_seconds{call=\"8\",media=\"video\"} 0.002",
            "eyeline_mos_estimate{call=\"8\",dir=\"in\"} 4.1",
            "eyeline_jitter_buffer_seconds{call=\"8\"} 0.02",
            "eyeline_audio_made_total{how=\"concealed\"} 0.12",
            "eyeline_audio_made_total{how=\"repaired\"} 0.08",
            "eyeline_tick_lateness_seconds_bucket{le=\"0.001\"} 7",
            "eyeline_tick_lateness_seconds_count 8",
            "eyeline_video_fps{call=\"8\",dir=\"in\"} 15",
            "eyeline_video_age_seconds{call=\"8\"} 0.03",
            "eyeline_video_frames_total{state=\"withheld\"} 4",
            "eyeline_call_setup_seconds_count 2",
            "eyeline_call_setup_seconds_bucket{le=\"0.01\"} 0",
            "eyeline_call_setup_seconds_bucket{le=\"0.025\"} 2",
            "eyeline_call_setup_seconds_bucket{le=\"+Inf\"} 2",
            "eyeline_part_ok{kind=\"censor\",name=\"face\"} 0",
            "eyeline_inference_seconds{model=\"yunet\"} 0.005",
            "eyeline_ready 0",
            "eyeline_agent_turns_total{fate=\"answered\"} 6",
            "eyeline_agent_failures_total{service=\"llm\"} 2",
            "eyeline_agent_tools_total{tool=\"look\",fate=\"called\"} 4",
            "eyeline_agent_cost_usd 0.5",
            "eyeline_agent_latency_seconds_count{stage=\"turn\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "no {line} in\n{page}");
        }
        assert!(page.contains("appliance=\"door \\\"1\\\"\""), "{page}");
        assert!(!page.contains("4930123456"), "{page}");
        assert!(page.ends_with("# EOF\n"));
    }
}
