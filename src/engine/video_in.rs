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
use crate::base::time::Clock;
use crate::engine::bus::Bus;
use crate::engine::plan::Label;
use crate::engine::report::Gauges;
use crate::media::access_unit::{AccessUnit, VideoCodec};
use crate::media::codec::{Detection, VideoDecoder};
use crate::media::filter::Gate;
use crate::media::frame::CleanFrame;
use crate::media::pool::FramePool;
use crate::vision::filters::{Resize, Transforms, rescaled};
use crate::vision::observer::Boxes;
use crate::vision::overlay::{Overlay, Stamp};

/// Units that came without a picture coming out: the decoder is stuck until a key picture.
const SILENT_LIMIT: Duration = Duration::from_secs(1);

/// Everything the thread owns.
pub struct VideoIn {
    pub units: Receiver<AccessUnit, Gop>,
    pub decoder: Box<dyn VideoDecoder>,
    pub gate: Gate,
    pub transforms: Transforms,
    pub resize: Option<Resize>,
    pub overlay: Overlay,
    pub label: Label,
    pub clock: Clock,
    pub pool: FramePool,
    /// Cleared pictures before anything is drawn on them, for observers.
    pub undrawn: Vec<Sender<CleanFrame, Latest>>,
    /// What the observers saw.
    pub seen: Vec<Receiver<Boxes, Latest>>,
    pub bus: Bus,
    /// Of a recorder that copies H.264: it gets the pictures of every other codec.
    pub recoded: Option<Sender<CleanFrame, Latest>>,
    pub epoch: Instant,
    pub gauges: Arc<Gauges>,
    pub key_needed: Arc<AtomicBool>,
    /// Pictures drawn on so far.
    pub frame: u64,
}

impl VideoIn {
    /// Runs until the queue of coded pictures closes.
    pub fn run(mut self) -> Outcome {
        let mut seen: Vec<Boxes> = self.seen.iter().map(|_| Boxes::default()).collect();
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
            self.dress(cleared, clean, unit.codec, &mut seen);
            self.gauges.lost_to_decoder.set(self.units.counters().lost);
            self.gauges.lost_on_bus.set(self.bus.lost());
            self.gauges.age.took(started.elapsed());
        }
        Outcome::Done
    }

    /// Draws on a cleared picture and hands it out.
    fn dress(&mut self, now: Instant, clean: CleanFrame, codec: VideoCodec, seen: &mut [Boxes]) {
        for undrawn in &self.undrawn {
            undrawn.offer(clean.clone());
        }
        for (seen, incoming) in seen.iter_mut().zip(&self.seen) {
            if let Taken::Item(news) = incoming.try_take() {
                self.gauges.detections.add(news.found.len() as u64);
                *seen = news;
            }
        }
        let (pts, size) = (clean.pts(), clean.size());
        let mut boxes: Vec<Detection> = self.gate.found().cloned().collect();
        boxes.extend(seen.iter().flat_map(|seen| seen.at(pts, size)).cloned());
        match self.draw(now, clean, &mut boxes) {
            Some(picture) => {
                self.bus.publish(&picture);
                if let Some(recoded) = self.recoded.as_ref().filter(|_| codec != VideoCodec::H264) {
                    recoded.offer(picture);
                }
            }
            None => self.gauges.dropped.add(1),
        }
    }

    fn draw(&mut self, now: Instant, clean: CleanFrame, boxes: &mut [Detection]) -> Option<CleanFrame> {
        let from = clean.size();
        let fitted = match &mut self.resize {
            Some(resize) => resize.apply(clean, &self.pool)?,
            None => clean,
        };
        let to = fitted.size();
        if from != to {
            boxes.iter_mut().for_each(|detection| detection.rect = rescaled(&detection.rect, from, to));
        }
        let draws = self.overlay.draws(!boxes.is_empty());
        if self.transforms.is_empty() && !draws {
            return Some(fitted);
        }
        self.frame += 1;
        let stamp = Stamp {
            name: &self.label.name,
            time: self.clock.wall(now).into(),
            call: &self.label.call,
            from: &self.label.from,
            to: &self.label.to,
            frame: self.frame,
        };
        let (transforms, overlay) = (&mut self.transforms, &mut self.overlay);
        fitted.edit(&self.pool, |picture| {
            transforms.apply(picture);
            if draws {
                overlay.draw(picture, &*boxes, &stamp);
            }
        })
    }
}
