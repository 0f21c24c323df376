//! The figures of one running call, written by its threads and read by the console and the final report.
//!
//! Pure but for atomics: each figure has one writer; readers see each of them whole, not all of one moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::engine::plan::{PictureReport, Report, SlidesReport, StreamReport};
use crate::media::frame::Size;

/// Sum, last and count of a stage's time per picture.
#[derive(Debug, Default)]
pub struct Stage {
    count: AtomicU64,
    sum_us: AtomicU64,
    last_us: AtomicU64,
}

impl Stage {
    pub fn took(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
        self.last_us.store(us, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Seconds in total, for metrics.
    pub fn seconds(&self) -> f64 {
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    pub fn mean_ms(&self) -> f64 {
        let count = self.count().max(1);
        self.sum_us.load(Ordering::Relaxed) as f64 / 1e3 / count as f64
    }

    pub fn last_ms(&self) -> f64 {
        self.last_us.load(Ordering::Relaxed) as f64 / 1e3
    }
}

/// A figure.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One call's live figures.
#[derive(Debug, Default)]
pub struct Gauges {
    pub decode: Stage,
    pub gate: Stage,
    pub encode: Stage,
    /// From the packet that completed a picture to the cleared picture.
    pub age: Stage,
    pub decoded: Count,
    pub passed: Count,
    pub withheld: Count,
    pub dropped: Count,
    pub encoded: Count,
    pub detections: Count,
    /// Coded pictures thrown away before the decoder, cleared ones before a consumer, coded ones before the network.
    pub lost_to_decoder: Count,
    pub lost_on_bus: Count,
    pub lost_to_network: Count,
    pub key_requests_sent: Count,
    pub key_requests_received: Count,
    pub stalls: Count,
    pub stalled_ms: Count,
    /// Milliseconds after the start, plus one; 0: none yet.
    pub first_picture: Count,
    /// Thousandths of pictures per second, renewed each second.
    pub fps_in: Count,
    pub fps_out: Count,
    size: Count,
    streams: Mutex<(Option<StreamReport>, Option<StreamReport>)>,
    faults: Mutex<Vec<String>>,
}

/// Faults kept for the report; more say nothing new.
const FAULTS_KEPT: usize = 16;

impl Gauges {
    pub fn saw_size(&self, size: Size) {
        self.size.set((size.width as u64) << 32 | size.height as u64);
    }

    pub fn size(&self) -> Option<Size> {
        let packed = self.size.value();
        (packed != 0).then(|| Size::new((packed >> 32) as usize, (packed & 0xffff_ffff) as usize))
    }

    pub fn fault(&self, text: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_KEPT && !faults.contains(&text) {
            faults.push(text);
        }
    }

    /// The network's figures, renewed about once a second.
    pub fn set_streams(&self, audio: Option<StreamReport>, video: Option<StreamReport>) {
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = (audio, video);
    }

    pub fn streams(&self) -> (Option<StreamReport>, Option<StreamReport>) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What each queue lost, by the name of who should have had it.
    pub fn lost(&self) -> [(&'static str, u64); 3] {
        [
            ("decoder", self.lost_to_decoder.value()),
            ("consumers", self.lost_on_bus.value()),
            ("network", self.lost_to_network.value()),
        ]
    }

    pub fn pictures(&self) -> PictureReport {
        let first = self.first_picture.value();
        PictureReport {
            decoded: self.decoded.value(),
            passed: self.passed.value(),
            withheld: self.withheld.value(),
            dropped: self.dropped.value(),
            lost: self.lost(),
            encoded: self.encoded.value(),
            size: self.size(),
            key_requests_sent: self.key_requests_sent.value(),
            key_requests_received: self.key_requests_received.value(),
            stalls: self.stalls.value(),
            stalled_ms: self.stalled_ms.value(),
            decode_ms: self.decode.mean_ms(),
            gate_ms: self.gate.mean_ms(),
            encode_ms: self.encode.mean_ms(),
            first_picture_ms: first.checked_sub(1),
        }
    }

    /// The figures of a shared screen; `None` when there never was one.
    pub fn slides(&self) -> Option<SlidesReport> {
        let (_, stream) = self.streams();
        Some(SlidesReport { stream: stream?, pictures: self.pictures() })
    }

    /// The final report, but for slides and recording.
    pub fn report(&self) -> Report {
        let (audio, video) = self.streams();
        Report {
            audio,
            video,
            pictures: self.pictures(),
            slides: None,
            recording: None,
            faults: self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
