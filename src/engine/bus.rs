//! Driver (queues). Hands every cleared picture to whoever subscribed; each subscriber keeps only the newest.
//!
//! Subscribing is done before the pictures start; the bus closes its queues by being dropped.

use crate::base::queue::{Latest, Sender};
use crate::media::frame::CleanFrame;

/// The fan-out of one call's pictures.
#[derive(Default)]
pub struct Bus {
    subscribers: Vec<Sender<CleanFrame, Latest>>,
    /// Who looks now and then: what it does not take is not lost.
    lookers: Vec<Sender<CleanFrame, Latest>>,
}

impl Bus {
    /// A subscriber whose queue outlives the bus.
    pub fn add(&mut self, subscriber: Sender<CleanFrame, Latest>) {
        self.subscribers.push(subscriber);
    }

    /// Somebody who takes the newest picture when it is asked for.
    pub fn add_looker(&mut self, looker: Sender<CleanFrame, Latest>) {
        self.lookers.push(looker);
    }

    pub fn publish(&self, picture: &CleanFrame) {
        for subscriber in self.subscribers.iter().chain(&self.lookers) {
            subscriber.offer(picture.clone());
        }
    }

    /// Pictures replaced before their subscriber took them.
    pub fn lost(&self) -> u64 {
        self.subscribers.iter().map(|subscriber| subscriber.counters().lost).sum()
    }
}
