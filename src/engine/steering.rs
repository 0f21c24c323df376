//! Driver (queues). How the network task steers the outbound picture thread: send or pause, a key picture, another
//! coder, the slate for good. The thread sleeps on its queue of pictures and is nudged awake.
//!
//! The network's end keeps that queue open: pictures that end (a broken decoder) do not end what the peer sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::base::queue::{self, Latest, Receiver, Sender, Taken};
use crate::engine::coding::Coder;
use crate::media::frame::CleanFrame;

#[derive(Default)]
struct Switches {
    sends: AtomicBool,
    key: AtomicBool,
    blind: AtomicBool,
    /// Kilobits a second; 0: the coder's own.
    rate: AtomicU32,
}

/// The network task's end. Dropping it ends the thread.
pub struct Steering {
    switches: Arc<Switches>,
    pictures: Sender<CleanFrame, Latest>,
    coders: Sender<Coder, Latest>,
}

/// The thread's end.
pub struct Steered {
    switches: Arc<Switches>,
    pictures: Receiver<CleanFrame, Latest>,
    coders: Receiver<Coder, Latest>,
}

/// Both ends; the first picture will be a key picture.
pub fn steering(sends: bool) -> (Steering, Steered) {
    let switches = Arc::new(Switches {
        sends: AtomicBool::new(sends),
        key: AtomicBool::new(true),
        blind: AtomicBool::new(false),
        rate: AtomicU32::new(0),
    });
    let (pictures, taken) = queue::queue(Latest);
    let (coders, followed) = queue::queue(Latest);
    let steered = Steered { switches: switches.clone(), pictures: taken, coders: followed };
    (Steering { switches, pictures, coders }, steered)
}

impl Steering {
    /// Where cleared pictures go in.
    pub fn feed(&self) -> Sender<CleanFrame, Latest> {
        self.pictures.clone()
    }

    /// A key picture, now.
    pub fn want_key(&self) {
        self.switches.key.store(true, Ordering::Release);
        self.pictures.nudge();
    }

    /// Pauses, or goes on with a key picture.
    pub fn set_sending(&self, sends: bool) {
        let before = self.switches.sends.swap(sends, Ordering::AcqRel);
        if sends && !before {
            self.want_key();
        }
    }

    /// The path carries this much, from the next picture on.
    pub fn set_rate(&self, kbps: u32) {
        self.switches.rate.store(kbps, Ordering::Relaxed);
    }

    /// Codes differently from the next picture on.
    pub fn renew(&self, coder: Coder) {
        self.coders.offer(coder);
        self.want_key();
    }

    /// No picture of the peer will come any more: show the slate.
    pub fn go_blind(&self) {
        self.switches.blind.store(true, Ordering::Release);
        self.pictures.nudge();
    }
}

impl Steered {
    /// Waits for a picture; `Empty` also when something was switched.
    pub fn picture_within(&self, patience: Duration) -> Taken<CleanFrame> {
        self.pictures.take_within(patience)
    }

    pub fn sends(&self) -> bool {
        self.switches.sends.load(Ordering::Acquire)
    }

    pub fn is_blind(&self) -> bool {
        self.switches.blind.load(Ordering::Acquire)
    }

    pub fn wants_key(&self) -> bool {
        self.switches.key.load(Ordering::Acquire)
    }

    pub fn want_key(&self) {
        self.switches.key.store(true, Ordering::Release);
    }

    /// Whether the picture at hand is to be a key picture.
    pub fn take_key(&self) -> bool {
        self.switches.key.swap(false, Ordering::AcqRel)
    }

    /// What the path carries, where that is known.
    pub fn rate(&self) -> Option<u32> {
        Some(self.switches.rate.load(Ordering::Relaxed)).filter(|kbps| *kbps != 0)
    }

    pub fn take_coder(&self) -> Option<Coder> {
        match self.coders.try_take() {
            Taken::Item(coder) => Some(coder),
            Taken::Empty | Taken::Closed => None,
        }
    }
}
