//! Driver. One observer of one call: a detector that looks at cleared pictures without holding them up.
//!
//! When to look is decided in `vision::observer`; the newest picture wins, and nothing queues.

#![expect(clippy::disallowed_methods, reason = "looks have a deadline")]

use std::time::{Duration, Instant};

use crate::base::queue::{Fifo, Latest, Receiver, Sender};
use crate::base::stop::Outcome;
use crate::media::codec::Detector;
use crate::media::frame::CleanFrame;
use crate::vision::appearance::{Appearance, Appearances};
use crate::vision::observer::{Boxes, Observer};

/// An observer may be slow; it only must not hang for ever on a child that does not answer.
const DEADLINE: Duration = Duration::from_secs(1);

/// Everything the thread owns.
pub struct Observing {
    pub detector: Box<dyn Detector>,
    pub observer: Observer,
    pub pictures: Receiver<CleanFrame, Latest>,
    pub seen: Sender<Boxes, Latest>,
    /// Who is told of what comes and goes.
    pub told: Option<Sender<Appearance, Fifo>>,
}

impl Observing {
    /// Runs until the pictures end.
    pub fn run(mut self) -> Outcome {
        let mut appearances = Appearances::default();
        while let Some(picture) = self.pictures.take() {
            let now = Instant::now();
            if !self.observer.wants(now, picture.frame()) {
                // What was seen before still stands for a picture in which nothing moved.
                self.tell(&mut appearances, now);
                self.seen.offer(self.observer.boxes().clone());
                continue;
            }
            match self.detector.detect(picture.frame(), now + DEADLINE) {
                Ok(found) => {
                    self.observer.saw(picture.pts(), picture.size(), found);
                    self.tell(&mut appearances, now);
                    self.seen.offer(self.observer.boxes().clone());
                }
                Err(error) => {
                    tracing::debug!("an observer saw nothing: {error}");
                    self.observer.failed();
                }
            }
        }
        if let Some(told) = &self.told {
            appearances.end().into_iter().for_each(|gone| {
                told.offer(gone);
            });
        }
        Outcome::Done
    }

    /// What was found last, as somebody follows it who asks for no boxes.
    fn tell(&self, appearances: &mut Appearances, now: Instant) {
        let Some(told) = &self.told else { return };
        let found = self.observer.boxes().found.iter().map(|detection| &*detection.class);
        for appearance in appearances.handle_look(now, found) {
            told.offer(appearance);
        }
    }
}
