//! The figures of one call's streams over all the parts it had: what a stream that is gone counted is kept.

use std::time::{Duration, Instant};

use crate::engine::network::guard::Guard;
use crate::engine::plan::{QualityReport, StreamReport};
use crate::engine::report::Gauges;
use crate::rtp::audio::AudioStream;
use crate::rtp::session::StreamStatistics;
use crate::rtp::video::VideoCounters;

/// Figures of one kind of stream.
#[derive(Debug, Default)]
pub struct Figures {
    past: Option<StreamReport>,
}

impl Figures {
    /// The stream is gone.
    pub fn keep(&mut self, last: StreamReport) {
        self.past = Some(self.with(Some(last)).unwrap_or_default());
    }

    /// All of it so far; `None` when there never was one.
    pub fn with(&self, present: Option<StreamReport>) -> Option<StreamReport> {
        let (past, present) = match (&self.past, present) {
            (None, present) => return present,
            (Some(past), None) => return Some(past.clone()),
            (Some(past), Some(present)) => (past, present),
        };
        Some(StreamReport {
            packets_received: past.packets_received + present.packets_received,
            packets_lost: past.packets_lost + present.packets_lost,
            packets_late: past.packets_late + present.packets_late,
            duplicates: past.duplicates + present.duplicates,
            foreign_packets: past.foreign_packets + present.foreign_packets,
            malformed_packets: past.malformed_packets + present.malformed_packets,
            packets_sent: past.packets_sent + present.packets_sent,
            bytes_received: past.bytes_received + present.bytes_received,
            bytes_sent: past.bytes_sent + present.bytes_sent,
            jitter_ms: present.jitter_ms,
            round_trip_ms: present.round_trip_ms.or(past.round_trip_ms),
            quality: present.quality.or(past.quality),
            skew_ms: present.skew_ms.or(past.skew_ms),
            first_packet_ms: past.first_packet_ms.or(present.first_packet_ms),
            shielded: present.shielded.or(past.shielded),
            srtp_auth_failures: past.srtp_auth_failures + present.srtp_auth_failures,
            srtp_replayed: past.srtp_replayed + present.srtp_replayed,
            srtp_early: past.srtp_early + present.srtp_early,
            dtls_refused: past.dtls_refused + present.dtls_refused,
            ice_refused: past.ice_refused + present.ice_refused,
            path: match (&past.path, present.path) {
                (Some(past), Some(present)) => Some(present.after(past)),
                (past, present) => present.or(*past),
            },
        })
    }
}

pub fn stream_report(
    statistics: &StreamStatistics,
    first_packet_ms: Option<u64>,
    guard: &Guard,
) -> StreamReport {
    let guarded = guard.counters();
    StreamReport {
        packets_received: statistics.packets_received,
        packets_lost: statistics.packets_lost,
        packets_late: statistics.packets_late,
        duplicates: statistics.duplicates,
        foreign_packets: statistics.foreign_packets,
        malformed_packets: statistics.malformed + guarded.malformed,
        packets_sent: statistics.packets_sent,
        bytes_received: statistics.bytes_received,
        bytes_sent: statistics.bytes_sent,
        jitter_ms: statistics.jitter_ms,
        round_trip_ms: statistics.round_trip_ms,
        quality: None,
        skew_ms: None,
        first_packet_ms,
        shielded: guard.shielded(),
        srtp_auth_failures: guarded.forged,
        srtp_replayed: guarded.replayed,
        srtp_early: guarded.early,
        dtls_refused: guarded.handshakes_refused,
        ice_refused: guarded.checks_refused,
        path: None,
    }
}

/// How good the line of a stream of sound is.
pub fn quality_report(machine: &AudioStream, stretched_ms: u64) -> Option<QualityReport> {
    let quality = machine.quality()?;
    Some(QualityReport {
        rating: quality.rating,
        mos: quality.opinion,
        loss_percent: quality.lost * 100.0,
        burst_ratio: quality.burst_ratio,
        wait_ms: machine.playout_delay().as_secs_f64() * 1e3,
        concealed_ms: machine.playout_counters().concealed_us / 1000,
        repaired_ms: machine.playout_counters().repaired_us / 1000,
        stretched_ms,
        peer_mos: machine.remote_quality().map(|quality| quality.opinion),
    })
}

/// Requests for key pictures, both ways.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyRequests {
    pub sent: u64,
    pub received: u64,
}

impl KeyRequests {
    pub fn and(self, present: Option<VideoCounters>) -> Self {
        let present = present.unwrap_or_default();
        KeyRequests {
            sent: self.sent + present.key_requests_sent,
            received: self.received + present.key_requests_received,
        }
    }
}

/// Frame rates once a second.
pub struct Second {
    since: Instant,
    decoded: u64,
    encoded: u64,
}

impl Second {
    pub fn new(now: Instant) -> Self {
        Second { since: now, decoded: 0, encoded: 0 }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= Duration::from_secs(1)
    }

    pub fn turn(&mut self, now: Instant, gauges: &Gauges) {
        let ms = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(1).max(1);
        let (decoded, encoded) = (gauges.decoded.value(), gauges.encoded.value());
        gauges.fps_in.set((decoded - self.decoded) * 1_000_000 / ms);
        gauges.fps_out.set((encoded - self.encoded) * 1_000_000 / ms);
        *self = Second { since: now, decoded, encoded };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_came_back_counts_on() {
        let of = |packets, first| StreamReport {
            packets_sent: packets,
            first_packet_ms: first,
            ..StreamReport::default()
        };
        let mut figures = Figures::default();
        assert_eq!(figures.with(None), None);
        figures.keep(of(10, Some(30)));
        assert_eq!(figures.with(None).map(|all| all.packets_sent), Some(10));
        figures.keep(of(5, Some(900)));
        let all = figures.with(Some(of(1, None))).unwrap_or_default();
        assert_eq!((all.packets_sent, all.first_packet_ms), (16, Some(30)));
    }
}
