//! Driver. The call record: one JSON file beside a recording that says what the call was.
//!
//! Written whole or not at all. Times are seconds since 1970; what is in a field is for the writer to know.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::record::agent::AgentRecord;
use crate::record::recorder::RecorderReport;

/// One call, as it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The short id of logs and file names.
    pub id: String,
    /// The Call-ID header field.
    pub call_id: String,
    /// "in" or "out".
    pub direction: String,
    pub from: String,
    pub to: String,
    /// The peer's signalling address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<String>,
    /// The agent that took the call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub agent: Option<String>,
    /// The name the caller goes by.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub display_name: String,
    /// The identity the caller's network stands by.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asserted: Option<String>,
    /// Whom the call was for before it was diverted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub diverted_by: Option<String>,
    /// X-Room-ID, else the Call-ID.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub room: String,
    /// X-Session-ID, else the caller.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub session: String,
    /// Session-ID (RFC 7989), both halves.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub session_id: Option<String>,
    /// The `X-` headers of the INVITE.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub headers: Vec<(String, String)>,
    /// Seconds since 1970, UTC.
    pub started: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answered: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub end_reason: Option<String>,
    /// What the peer said of its BYE, CANCEL or refusal: protocol, cause and text of its Reason header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub audio: Option<StreamRecord>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub video: Option<StreamRecord>,
    /// A shared screen beside the camera's picture.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slides: Option<StreamRecord>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub recording: Option<RecordingRecord>,
    /// Which way each track went, and whose it was.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub tracks: Vec<TrackRecord>,
    /// What its agent did; absent: it neither talked nor looked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conversation: Option<AgentRecord>,
    /// Digits pressed, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub digits: Vec<DigitRecord>,
    /// What happened, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub events: Vec<EventRecord>,
    /// How many more happened than are kept.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub events_lost: u64,
}

/// One thing that happened in the call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Milliseconds since the call started.
    pub at_ms: u64,
    /// As `call.held`, `video.track_added`, `message.received`.
    pub kind: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub data: BTreeMap<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One media stream of the call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamRecord {
    pub codec: String,
    pub packets_received: u64,
    pub packets_lost: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub jitter_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub round_trip_ms: Option<f64>,
    /// Sound: how good the line was; absent: there was too little of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quality: Option<QualityRecord>,
    /// Pictures: how much sooner than their sound they came in the end, as recorded and mirrored; absent: the peer's
    /// reports did not tell.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub skew_ms: Option<f64>,
    /// The SRTP suite that protected it; absent: it went in the clear.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub srtp: Option<String>,
    /// How its keys came: `sdes` or `dtls`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub srtp_via: Option<String>,
    /// Packets that were not made with its key.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub srtp_auth_failures: u64,
    /// Video: packets asked for again, and the rate the path allowed at the end.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub path: Option<PathRecord>,
    /// Video: pictures decoded, shown as slate, and sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pictures: Option<PictureRecord>,
}

/// Lost packets of a video stream: those we asked for, those of them that came in time, those given up, those of ours
/// sent again and not; and what we might send at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRecord {
    pub asked: u64,
    pub recovered: u64,
    pub given_up: u64,
    pub repeated: u64,
    pub repeats_refused: u64,
    pub target_kbps: u32,
}

/// How good a line was, by the E-model (ITU-T G.107).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QualityRecord {
    /// Mean opinion score of what was heard here, 1 to 4.4, and R, 0 to 93.2.
    pub mos: f64,
    pub rating: f64,
    /// Packets not played, lost or too late.
    pub loss_percent: f64,
    /// How much longer than by chance packets were missing in a row.
    pub burst_ratio: f64,
    /// From the arrival of sound to its playing.
    pub wait_ms: f64,
    /// Made up for what was lost, and got back from the packet behind it (Opus).
    pub concealed_ms: u64,
    #[serde(default)]
    pub repaired_ms: u64,
    /// Left out and put in to follow the network and the peer's clock.
    pub stretched_ms: u64,
    /// Of what the peer heard, where it told.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer_mos: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureRecord {
    /// Times the picture stood still, and for how long in all.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub stalls: u64,
    #[serde(skip_serializing_if = "is_zero", default)]
    pub stalled_ms: u64,
    pub decoded: u64,
    pub withheld: u64,
    pub sent: u64,
    pub width: usize,
    pub height: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DigitRecord {
    pub digit: String,
    /// Seconds since the call was answered.
    pub at: f64,
}

/// One track of the call's media.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackRecord {
    /// `audio` or `video`.
    pub kind: String,
    /// `in` or `out`, seen from this box.
    pub direction: String,
    /// `caller`, `agent` or `avatar`.
    pub role: String,
    /// Whose voice and face it is: of an avatar its agent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub on_behalf_of: Option<String>,
    pub codec: String,
    /// `slides`: a shared screen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<String>,
}

/// The files and what is missing from them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingRecord {
    /// File names beside this record, in order.
    pub files: Vec<String>,
    pub duration_s: f64,
    pub bytes: u64,
    pub pictures: u64,
    pub lost_pictures: u64,
    pub picture_gaps: u64,
    pub audio_gaps: u64,
    pub lost_audio_blocks: u64,
    /// How long it was paused: nothing of that time is in it.
    #[serde(default)]
    pub paused_s: f64,
    /// Why it ended before the call.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl From<&RecorderReport> for RecordingRecord {
    fn from(report: &RecorderReport) -> Self {
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        RecordingRecord {
            files: report.paths.iter().filter_map(name).collect(),
            duration_s: report.duration.as_secs_f64(),
            bytes: report.bytes,
            pictures: report.pictures,
            lost_pictures: report.lost_pictures,
            picture_gaps: report.picture_gaps,
            audio_gaps: report.audio_gaps,
            lost_audio_blocks: report.lost_blocks + report.late_blocks,
            paused_s: report.paused.as_secs_f64(),
            error: report.error.clone(),
        }
    }
}

/// Why a record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the call record {path} cannot be written: {error}", path = .path.display())]
pub struct RecordError {
    pub path: PathBuf,
    pub error: io::Error,
}

impl CallRecord {
    /// Writes the record to `path`: readers see the old one or the new one, also after a power cut.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        self.replace(path).map_err(|error| RecordError { path: path.to_owned(), error })
    }

    fn replace(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let unfinished = path.with_extension("json.part");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        // The new name itself must survive a power cut.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole_and_reads_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("call.json");
        let mut record = CallRecord { id: "3f2a".to_owned(), started: 1.5, ..Default::default() };
        record.write(&path).expect("written");
        let report = RecorderReport { paths: vec!["/x/call.mp4".into()], pictures: 75, ..Default::default() };
        record.end_reason = Some("caller hung up".to_owned());
        record.recording = Some(RecordingRecord::from(&report));
        record.write(&path).expect("written again");
        let text = std::fs::read(&path).expect("there");
        let back: CallRecord = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(back, record);
        assert_eq!(back.recording.expect("recorded").files, ["call.mp4"]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_record_that_cannot_be_written_says_where() {
        let error =
            CallRecord::default().write(Path::new("/nonexistent/call.json")).expect_err("no such folder");
        assert!(error.to_string().contains("/nonexistent/call.json"));
    }
}
