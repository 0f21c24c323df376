//! Two streams of one sender on one clock.
//!
//! Pure. Sound has its place from the first packet on and keeps it: it is the master. Pictures are placed by when they
//! came, and once sender reports (RFC 3550 §6.4.1) of both say how their clocks stand, by that, moved over slowly.

use std::time::{Instant, UNIX_EPOCH};

use crate::avatar::MediaTime;
use crate::webrtc::event::{Kind, Report};

/// Hz of RTP time.
const SOUND_RATE: u32 = 48_000;
const VIDEO_RATE: u32 = 90_000;
/// Microseconds: streams this far apart by their reports have no clock in common.
const PLAUSIBLE: i64 = 2_000_000;
/// Microseconds: a stream this far from when it came has another clock.
const JUMP: i64 = 1_000_000;
/// Pictures move by a quarter of the time that passes: 5 ms in 20.
const SLEW: i64 = 4;

struct Line {
    rate: u32,
    /// Added to RTP time in microseconds.
    offset: Option<i64>,
    /// The least by which RTP time had to be moved to be when it came.
    arrival: i64,
    report: Option<Report>,
    last: u64,
}

impl Line {
    fn new(rate: u32) -> Self {
        Line { rate, offset: None, arrival: 0, report: None, last: 0 }
    }

    fn micros(&self, time: u64) -> i64 {
        i64::try_from(u128::from(time) * 1_000_000 / u128::from(self.rate)).unwrap_or(i64::MAX)
    }

    /// RTP time in microseconds less the sender's wall clock, by its last report.
    fn against_wall(&self) -> Option<i64> {
        let report = self.report?;
        let wall = report.wall.duration_since(UNIX_EPOCH).ok()?.as_micros();
        // The same 32 bits, near the last packet.
        let apart = i64::from((report.time as u32).wrapping_sub(self.last as u32) as i32);
        let time = self.last.saturating_add_signed(apart);
        Some(self.micros(time).saturating_sub(i64::try_from(wall).ok()?))
    }
}

/// The clock of one session.
pub struct Clocks {
    started: Instant,
    sound: Line,
    video: Line,
    /// Microseconds pictures may still be moved.
    allowance: i64,
}

impl Clocks {
    pub fn new(now: Instant) -> Self {
        Clocks { started: now, sound: Line::new(SOUND_RATE), video: Line::new(VIDEO_RATE), allowance: 0 }
    }

    fn line(&mut self, kind: Kind) -> &mut Line {
        match kind {
            Kind::Sound => &mut self.sound,
            Kind::Video => &mut self.video,
        }
    }

    /// Another stream.
    pub fn restart(&mut self, kind: Kind) {
        let line = self.line(kind);
        *line = Line::new(line.rate);
    }

    /// A packet came, or a picture.
    pub fn arrived(&mut self, kind: Kind, at: Instant, time: u64, report: Option<Report>) {
        let came = at.saturating_duration_since(self.started).as_micros();
        let came = i64::try_from(came).unwrap_or(i64::MAX);
        let line = self.line(kind);
        let offset = came.saturating_sub(line.micros(time));
        let is_new = line.offset.is_none_or(|known| known.saturating_sub(offset).abs() > JUMP);
        if is_new {
            (line.offset, line.arrival) = (Some(offset), offset);
            // What it said of the clock that ended is of no use.
            line.report = line.report.take().and(report);
        }
        line.arrival = line.arrival.min(offset);
        line.last = time;
        if report.is_some() {
            line.report = report;
        }
        if kind == Kind::Video {
            self.align();
        }
    }

    /// Where pictures should be: by reports, else by arrival.
    fn wanted(&self) -> Option<i64> {
        let by_arrival = self.video.offset.map(|_| self.video.arrival)?;
        let by_reports = self.sound.offset.zip(self.sound.against_wall()).zip(self.video.against_wall());
        let by_reports =
            by_reports.map(|((offset, sound), video)| offset.saturating_add(sound).saturating_sub(video));
        Some(
            by_reports
                .filter(|wanted| wanted.saturating_sub(by_arrival).abs() < PLAUSIBLE)
                .unwrap_or(by_arrival),
        )
    }

    fn align(&mut self) {
        let Some((wanted, own)) = self.wanted().zip(self.video.offset) else { return };
        let step = wanted.saturating_sub(own).clamp(-self.allowance, self.allowance);
        self.video.offset = Some(own.saturating_add(step));
        self.allowance = 0;
    }

    /// So many samples of sound passed: pictures may be moved by a part of that.
    pub fn slew(&mut self, samples: usize) {
        let passed = i64::try_from(samples).unwrap_or(0) * 1_000_000 / i64::from(SOUND_RATE);
        self.allowance = (self.allowance + passed / SLEW).min(JUMP);
    }

    /// The place of an RTP time.
    pub fn place(&self, kind: Kind, time: u64) -> MediaTime {
        let line = match kind {
            Kind::Sound => &self.sound,
            Kind::Video => &self.video,
        };
        MediaTime(line.micros(time).saturating_add(line.offset.unwrap_or(0)))
    }
}
