//! The report of `eyeline call`: what was asked, what happened, as JSON for scripts and as text for people.
//!
//! Pure. Times are milliseconds; those of media count from the answer.

use std::time::Instant;

use serde::Serialize;

use crate::call::Ended;
use crate::engine::plan::{PacketizationMode, Report, StreamReport, Streams, VideoCodec};

/// Media that came at less than this share of its nominal rate did not flow.
const LEAST_SHARE: f64 = 0.5;
/// Packets a second of 20 ms audio.
const AUDIO_RATE: f64 = 50.0;
/// A picture stream has at least one picture a second.
const LEAST_FPS: f64 = 1.0;

/// What the command saw of its call.
#[derive(Debug)]
pub struct Story {
    pub started: Instant,
    pub ringing: Option<Instant>,
    /// Media came before the answer.
    pub early: Option<Instant>,
    pub answered: Option<Instant>,
    pub updates: Vec<(Instant, Streams)>,
    pub digits: Vec<char>,
    pub ended: Option<Box<Ended>>,
}

impl Story {
    pub fn new(started: Instant) -> Self {
        Story {
            started,
            ringing: None,
            early: None,
            answered: None,
            updates: Vec::new(),
            digits: Vec::new(),
            ended: None,
        }
    }
}

/// The report. Absent parts are null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallReport {
    pub uri: String,
    /// `ok` or `failed`.
    pub result: &'static str,
    /// Why it failed, in words.
    pub problems: Vec<String>,
    pub status: Option<u16>,
    pub end_reason: Option<String>,
    pub setup_ms: SetupReport,
    /// From the answer to the end.
    pub duration_s: f64,
    pub audio: Option<AudioReport>,
    pub video: Option<VideoReport>,
    /// Renegotiations during the call, ours and theirs.
    pub updates: usize,
    /// Digits the peer pressed.
    pub digits: String,
    /// What was received: left channel the peer, right channel what we sent.
    pub files: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SetupReport {
    /// From INVITE.
    pub ringing: Option<f64>,
    /// The peer named its media before it answered.
    pub early_media: Option<f64>,
    pub answered: Option<f64>,
    /// From the answer.
    pub first_audio: Option<u64>,
    pub first_video: Option<u64>,
    pub first_picture: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PacketsReport {
    pub packets_sent: u64,
    pub packets_received: u64,
    pub packets_lost: u64,
    pub packets_late: u64,
    pub loss_percent: f64,
    pub jitter_ms: f64,
    pub round_trip_ms: Option<f64>,
    /// The SRTP suite that protected it; absent: it went in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp: Option<&'static str>,
    /// How its keys came: `sdes` or `dtls`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp_via: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AudioReport {
    pub codec: String,
    /// Mean opinion scores by the E-model (ITU-T G.107): of what was heard here, and of what the peer heard.
    pub mos: Option<f64>,
    pub peer_mos: Option<f64>,
    /// From the arrival of sound to its playing.
    pub wait_ms: Option<f64>,
    /// Made up for what was lost, and got back from the packet behind it (Opus).
    pub concealed_ms: Option<u64>,
    pub repaired_ms: Option<u64>,
    #[serde(flatten)]
    pub packets: PacketsReport,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VideoReport {
    pub codec: &'static str,
    /// Of H.264.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packetization_mode: Option<u8>,
    #[serde(flatten)]
    pub packets: PacketsReport,
    pub pictures_sent: u64,
    pub pictures_decoded: u64,
    /// Decoded pictures a second, from the first one to the end.
    pub fps: f64,
    pub width: usize,
    pub height: usize,
    pub key_requests_sent: u64,
    pub key_requests_received: u64,
    /// Packets asked for again, and those of them that came in time.
    pub packets_asked: u64,
    pub packets_recovered: u64,
    /// Packets of ours that were sent again.
    pub packets_repeated: u64,
    /// What the path let us send at the end, kilobits a second.
    pub target_kbps: u32,
    /// Times the received picture stood still, and for how long in all.
    pub stalls: u64,
    pub stalled_ms: u64,
}

impl CallReport {
    /// `with_video`: video was asked for.
    pub fn new(uri: &str, with_video: bool, story: Story) -> Self {
        let since = |from: Instant, at: Instant| at.saturating_duration_since(from).as_secs_f64() * 1e3;
        let ended = story.ended.as_deref();
        let media = ended.and_then(|ended| ended.report.as_deref());
        let duration = match (story.answered, ended) {
            (Some(answered), Some(ended)) => ended.ended.saturating_duration_since(answered).as_secs_f64(),
            (None, _) | (_, None) => 0.0,
        };
        let streams = ended.map(|ended| ended.streams.clone()).unwrap_or_default();
        let audio = audio_report(&streams, media);
        let video = video_report(&streams, media, duration);
        let mut report = CallReport {
            uri: uri.to_owned(),
            result: "ok",
            problems: Vec::new(),
            status: story.answered.map(|_| 200).or(ended.map(|ended| ended.reason.status().0)),
            end_reason: ended.map(|ended| ended.reason.name().to_owned()),
            setup_ms: SetupReport {
                ringing: story.ringing.map(|at| round(since(story.started, at))),
                early_media: story.early.map(|at| round(since(story.started, at))),
                answered: story.answered.map(|at| round(since(story.started, at))),
                first_audio: media.and_then(|media| media.audio.as_ref()?.first_packet_ms),
                first_video: media.and_then(|media| media.video.as_ref()?.first_packet_ms),
                first_picture: media.and_then(|media| media.pictures.first_picture_ms),
            },
            duration_s: round(duration),
            audio,
            video,
            updates: story.updates.len(),
            digits: story.digits.iter().collect(),
            files: files(media),
        };
        report.judge(with_video, &story, duration, media);
        report
    }

    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }

    fn judge(&mut self, with_video: bool, story: &Story, duration: f64, media: Option<&Report>) {
        if story.answered.is_none() {
            let why = story.ended.as_ref().map_or("nothing came back".to_owned(), |e| e.reason.to_string());
            self.problems.push(format!("the call was not answered: {why}"));
        } else {
            self.judge_media(with_video, duration);
        }
        if let Some(ended) = &story.ended
            && story.answered.is_some()
            && !matches!(ended.reason.name(), "hung-up" | "peer-hung-up")
        {
            self.problems.push(format!("the call ended early: {}", ended.reason));
        }
        if story.ended.is_none() {
            self.problems.push("the call did not end in time".to_owned());
        }
        self.problems.extend(media.iter().flat_map(|media| media.faults.iter().cloned()));
        if let Some(error) = media.and_then(|media| media.recording.as_ref()?.error.as_ref()) {
            self.problems.push(format!("what was received could not be saved: {error}"));
        }
        self.result = if self.problems.is_empty() { "ok" } else { "failed" };
    }

    fn judge_media(&mut self, with_video: bool, duration: f64) {
        let enough = (duration * AUDIO_RATE * LEAST_SHARE) as u64;
        match &self.audio {
            None => self.problems.push("the peer takes no audio".to_owned()),
            Some(audio) if audio.packets.packets_received < enough => self.problems.push(format!(
                "audio did not flow: {} packets came, {enough} or more were expected",
                audio.packets.packets_received
            )),
            Some(_) => {}
        }
        if !with_video {
            return;
        }
        match &self.video {
            None => {
                self.problems.push("the peer takes no video (say --audio-only if that is meant)".to_owned())
            }
            Some(video) if video.packets.packets_received == 0 => {
                self.problems.push("no video came back".to_owned());
            }
            Some(video) if video.fps < LEAST_FPS => self
                .problems
                .push(format!("video cannot be watched: {} pictures were decoded", video.pictures_decoded)),
            Some(_) => {}
        }
    }

    /// Indented, with a line end.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// A few lines for people.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{}: {}\n", self.uri, self.result);
        for problem in &self.problems {
            let _ = writeln!(text, "  problem: {problem}");
        }
        if let Some(answered) = self.setup_ms.answered {
            let _ = writeln!(text, "  answered after {answered} ms, {} s long", self.duration_s);
        }
        if let Some(audio) = &self.audio {
            let packets = &audio.packets;
            let _ = writeln!(
                text,
                "  audio {}: {} packets sent, {} received, {:.1} % lost, jitter {:.1} ms",
                audio.codec,
                packets.packets_sent,
                packets.packets_received,
                packets.loss_percent,
                packets.jitter_ms
            );
        }
        if let Some(video) = &self.video {
            let packets = &video.packets;
            let mode = video.packetization_mode.map(|mode| format!(" mode {mode}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  video {}{mode}: {} packets sent, {} received, {:.1} % lost, {}x{} at {:.1} pictures a second",
                video.codec,
                packets.packets_sent,
                packets.packets_received,
                packets.loss_percent,
                video.width,
                video.height,
                video.fps
            );
        }
        for file in &self.files {
            let _ = writeln!(text, "  saved {file}");
        }
        text
    }
}

fn packets_report(report: &StreamReport) -> PacketsReport {
    let expected = (report.packets_received + report.packets_lost).max(1);
    PacketsReport {
        packets_sent: report.packets_sent,
        packets_received: report.packets_received,
        packets_lost: report.packets_lost,
        packets_late: report.packets_late,
        loss_percent: round(report.packets_lost as f64 * 100.0 / expected as f64),
        jitter_ms: round(report.jitter_ms),
        round_trip_ms: report.round_trip_ms.map(round),
        srtp: report.shielded.map(|shielded| shielded.suite),
        srtp_via: report.shielded.map(|shielded| shielded.via),
    }
}

fn audio_report(streams: &Streams, media: Option<&Report>) -> Option<AudioReport> {
    let stream = streams.audio.as_ref()?;
    let report = media?.audio.as_ref()?;
    let quality = report.quality.as_ref();
    Some(AudioReport {
        codec: stream.codec.name().to_owned(),
        mos: quality.map(|quality| round(quality.mos)),
        peer_mos: quality.and_then(|quality| quality.peer_mos).map(round),
        wait_ms: quality.map(|quality| round(quality.wait_ms)),
        concealed_ms: quality.map(|quality| quality.concealed_ms),
        repaired_ms: quality.map(|quality| quality.repaired_ms),
        packets: packets_report(report),
    })
}

fn video_report(streams: &Streams, media: Option<&Report>, duration: f64) -> Option<VideoReport> {
    let stream = streams.video.as_ref()?;
    let media = media?;
    let pictures = &media.pictures;
    let shown = duration - pictures.first_picture_ms.unwrap_or(0) as f64 / 1e3;
    let size = pictures.size;
    let path = media.video.as_ref()?.path.unwrap_or_default();
    Some(VideoReport {
        codec: stream.codec.name(),
        packetization_mode: (stream.codec == VideoCodec::H264).then_some(match stream.send_mode {
            PacketizationMode::SingleNal => 0,
            PacketizationMode::NonInterleaved => 1,
        }),
        packets: packets_report(media.video.as_ref()?),
        pictures_sent: pictures.encoded,
        pictures_decoded: pictures.decoded,
        fps: if shown > 0.1 { round(pictures.decoded as f64 / shown) } else { 0.0 },
        width: size.map_or(0, |size| size.width),
        height: size.map_or(0, |size| size.height),
        key_requests_sent: pictures.key_requests_sent,
        key_requests_received: pictures.key_requests_received,
        packets_asked: path.asked,
        packets_recovered: path.recovered,
        packets_repeated: path.repeated,
        target_kbps: path.target_kbps,
        stalls: pictures.stalls,
        stalled_ms: pictures.stalled_ms,
    })
}

fn files(media: Option<&Report>) -> Vec<String> {
    let recording = media.and_then(|media| media.recording.as_ref());
    recording.map_or(Vec::new(), |recording| {
        recording.paths.iter().map(|path| path.display().to_string()).collect()
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::end::EndReason;
    use std::time::Duration;

    fn story(reason: EndReason, answered: bool) -> Story {
        let started = Instant::now();
        let answered = answered.then_some(started + Duration::from_millis(12));
        let ended = started + Duration::from_secs(10);
        let streams = Streams::default();
        let ended = Ended { reason, peer_reason: None, started, answered, ended, streams, report: None };
        Story { answered, ended: Some(Box::new(ended)), ..Story::new(started) }
    }

    #[test]
    fn a_call_that_nobody_took_says_why() {
        let reason = EndReason::Rejected { status: 486, text: "Busy Here".to_owned() };
        let report = CallReport::new("sip:x@y", true, story(reason, false));
        assert!(!report.ok());
        assert_eq!(report.status, Some(486));
        assert_eq!(report.problems, ["the call was not answered: rejected (486 Busy Here)"]);
    }

    #[test]
    fn an_answered_call_without_media_fails() {
        let report = CallReport::new("sip:x@y", true, story(EndReason::HungUp, true));
        assert_eq!(report.result, "failed");
        assert_eq!(report.setup_ms.answered, Some(12.0));
        assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
    }
}
