//! The figures of one stream, from the engine's report to what console and call record show.

use crate::app::console::view::{PathView, StreamView};
use crate::engine::plan::{PathReport, QualityReport, StreamReport};
use crate::record::record::{PathRecord, QualityRecord, StreamRecord};

pub fn stream_view(codec: String, report: &StreamReport) -> StreamView {
    StreamView {
        codec,
        packets_received: report.packets_received,
        packets_sent: report.packets_sent,
        packets_lost: report.packets_lost,
        packets_late: report.packets_late,
        duplicates: report.duplicates,
        packets_foreign: report.foreign_packets,
        packets_malformed: report.malformed_packets,
        bytes_received: report.bytes_received,
        bytes_sent: report.bytes_sent,
        jitter_ms: report.jitter_ms,
        round_trip_ms: report.round_trip_ms,
        quality: report.quality.as_ref().map(quality_record),
        skew_ms: report.skew_ms.map(rounded),
        srtp: report.shielded.map(|shielded| shielded.suite),
        srtp_via: report.shielded.map(|shielded| shielded.via),
        srtp_auth_failures: report.srtp_auth_failures,
        dtls_refused: report.dtls_refused,
        path: report.path.as_ref().map(path_view),
    }
}

pub fn stream_record(codec: String, report: &StreamReport) -> StreamRecord {
    StreamRecord {
        codec,
        packets_received: report.packets_received,
        packets_lost: report.packets_lost,
        packets_sent: report.packets_sent,
        bytes_received: report.bytes_received,
        bytes_sent: report.bytes_sent,
        jitter_ms: report.jitter_ms,
        round_trip_ms: report.round_trip_ms,
        quality: report.quality.as_ref().map(quality_record),
        skew_ms: report.skew_ms.map(rounded),
        srtp: report.shielded.map(|shielded| shielded.suite.to_owned()),
        srtp_via: report.shielded.map(|shielded| shielded.via.to_owned()),
        srtp_auth_failures: report.srtp_auth_failures,
        path: report.path.as_ref().map(path_record),
        pictures: None,
    }
}

fn path_view(path: &PathReport) -> PathView {
    PathView {
        asked: path.asked,
        recovered: path.recovered,
        given_up: path.given_up,
        repeats_wanted: path.repeats_wanted,
        repeated: path.repeated,
        repeats_refused: path.repeats_refused,
        target_kbps: path.target_kbps,
        remb_kbps: path.remb_kbps,
        tmmbr_kbps: path.tmmbr_kbps,
        delay_kbps: path.delay_kbps,
        loss_kbps: path.loss_kbps,
        inbound_kbps: path.inbound_kbps,
    }
}

fn path_record(path: &PathReport) -> PathRecord {
    PathRecord {
        asked: path.asked,
        recovered: path.recovered,
        given_up: path.given_up,
        repeated: path.repeated,
        repeats_refused: path.repeats_refused,
        target_kbps: path.target_kbps,
    }
}

/// Nobody hears a third digit.
pub fn quality_record(report: &QualityReport) -> QualityRecord {
    QualityRecord {
        mos: rounded(report.mos),
        rating: rounded(report.rating),
        loss_percent: rounded(report.loss_percent),
        burst_ratio: rounded(report.burst_ratio),
        wait_ms: rounded(report.wait_ms),
        concealed_ms: report.concealed_ms,
        repaired_ms: report.repaired_ms,
        stretched_ms: report.stretched_ms,
        peer_mos: report.peer_mos.map(rounded),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
