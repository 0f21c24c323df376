//! Driver (queues). Hands every cleared picture to whoever subscribed; each subscriber keeps only the newest.
//!
//! Subscribing is done before the pictures start; the bus closes its queues by being dropped.

use crate::base::queue::{Latest, Sender};
use crate::media::frame::CleanFrame;

/// The fan-out of one call's pictures.
#[derive(Default)]
pub struct Bus {
    subscribers: Vec<Sender<CleanFrame, Latest>>,
}

impl Bus {
    /// A subscriber whose queue outlives the bus.
    pub fn add(&mut self, subscriber: Sender<CleanFrame, Latest>) {
        self.subscribers.push(subscriber);
    }

    pub fn publish(&self, picture: &CleanFrame) {
        for subscriber in &self.subscribers {
            subscriber.offer(picture.clone());
        }
    }

    /// Pictures replaced before their subscriber took them.
    pub fn lost(&self) -> u64 {
        self.subscribers.iter().map(|subscriber| subscriber.counters().lost).sum()
    }
}
