//! Driver. The inbound picture thread of one call: decode → gate → filters → overlay → bus.
//!
//! It is the only thread that touches uncleared pictures, and it hands out none. It drains when the network task
//! drops its queue.

#![expect(clippy::disallowed_methods, reason = "stages are timed and the gate has a deadline")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::base::queue::{Gop, Latest, Receiver, Sender, Taken};
use crate::base::stop::Outcome;
use crate::base::time::Pts;
use crate::engine::bus::Bus;
use crate::engine::report::Gauges;
use crate::media::access_unit::AccessUnit;
use crate::media::codec::{Detection, VideoDecoder};
use crate::media::filter::Gate;
use crate::media::frame::CleanFrame;
use crate::media::pool::FramePool;
use crate::vision::filters::Filters;
use crate::vision::overlay::{Overlay, Stamp};

/// Units that came without a picture coming out: the decoder is stuck until a key picture.
const SILENT_LIMIT: Duration = Duration::from_secs(1);

/// Boxes of one observer, with the time of the picture they were seen in.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub pts: Pts,
    pub detections: Vec<Detection>,
}

/// Everything the thread owns.
pub struct VideoIn {
    pub units: Receiver<AccessUnit, Gop>,
    pub decoder: Box<dyn VideoDecoder>,
    pub gate: Gate,
    pub filters: Filters,
    pub overlay: Overlay,
    pub stamp: Stamp,
    pub pool: FramePool,
    /// Cleared pictures before anything is drawn on them, for observers.
    pub undrawn: Option<Sender<CleanFrame, Latest>>,
    pub seen: Vec<Receiver<Seen, Latest>>,
    pub show_seen_for: Duration,
    pub bus: Bus,
    pub epoch: Instant,
    pub gauges: Arc<Gauges>,
    pub key_needed: Arc<AtomicBool>,
}

impl VideoIn {
    /// Runs until the queue of coded pictures closes.
    pub fn run(mut self) -> Outcome {
        let mut seen: Vec<Seen> = self.seen.iter().map(|_| Seen::default()).collect();
        let mut last_picture = Instant::now();
        while let Some(unit) = self.units.take() {
            let started = Instant::now();
            let raw = match self.decoder.decode(&unit, &self.pool) {
                Ok(Some(raw)) => raw,
                Ok(None) => {
                    if started.duration_since(last_picture) > SILENT_LIMIT {
                        last_picture = started;
                        self.key_needed.store(true, Ordering::Release);
                    }
                    continue;
                }
                Err(error) => {
                    self.gauges.fault(format!("decoder: {error}"));
                    self.key_needed.store(true, Ordering::Release);
                    continue;
                }
            };
            let decoded = Instant::now();
            last_picture = decoded;
            self.gauges.decode.took(decoded - started);
            self.gauges.decoded.add(1);
            self.gauges.saw_size(raw.size());
            if self.gauges.first_picture.value() == 0 {
                let ms = decoded.duration_since(self.epoch).as_millis();
                self.gauges.first_picture.set(u64::try_from(ms).unwrap_or(0) + 1);
            }
            let before = self.gate.counters();
            let clean = self.gate.release(decoded, raw, &self.pool);
            let cleared = Instant::now();
            let after = self.gate.counters();
            self.gauges.gate.took(cleared - decoded);
            self.gauges.passed.add(after.passed - before.passed);
            self.gauges.withheld.add(after.withheld - before.withheld);
            let Some(clean) = clean else {
                self.gauges.dropped.add(1);
                continue;
            };
            self.dress(clean, &mut seen);
            self.gauges.age.took(started.elapsed());
        }
        Outcome::Done
    }

    /// Draws on a cleared picture and hands it out.
    fn dress(&mut self, clean: CleanFrame, seen: &mut [Seen]) {
        if let Some(undrawn) = &self.undrawn {
            undrawn.offer(clean.clone());
        }
        for (seen, incoming) in seen.iter_mut().zip(&self.seen) {
            if let Taken::Item(news) = incoming.try_take() {
                self.gauges.detections.add(news.detections.len() as u64);
                *seen = news;
            }
        }
        let pts = clean.pts();
        let mut boxes: Vec<Detection> = self.gate.found().cloned().collect();
        let fresh = i64::try_from(self.show_seen_for.as_nanos()).unwrap_or(i64::MAX);
        for seen in seen.iter().filter(|seen| pts - seen.pts <= fresh) {
            boxes.extend(seen.detections.iter().cloned());
        }
        let filtered = if self.filters.is_empty() {
            Some(clean)
        } else {
            self.filters.apply(clean, &self.pool)
        };
        let drawn = match filtered {
            Some(picture) if self.overlay.draws(&boxes) => {
                let (overlay, stamp) = (&mut self.overlay, &mut self.stamp);
                picture.edit(&self.pool, |picture| overlay.draw(picture, &boxes, stamp))
            }
            other => other,
        };
        match drawn {
            Some(picture) => self.bus.publish(&picture),
            None => self.gauges.dropped.add(1),
        }
    }
}
