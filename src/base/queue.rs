//! Driver. Bounded queues, one type per loss policy: the type says what happens when it is full.
//!
//! `offer` never blocks and says what it cost. Threads [`Receiver::take`], tasks [`Receiver::recv`]. A queue
//! closes when its last sender drops; what is left can still be taken. Counters are read from either end.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// What offering one item did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Queued,
    /// Queued, and this many older items were thrown away for it.
    Replaced(usize),
    /// Thrown away itself.
    Refused,
    /// The receiver is gone.
    Closed,
}

/// How a full queue behaves.
pub trait Policy<T>: Send + 'static {
    /// Puts `item` in or throws something away.
    fn admit(&mut self, items: &mut VecDeque<T>, item: T) -> Offered;
}

/// One place: the newest item replaces an untaken one.
pub struct Latest;

/// Full: the oldest item goes.
pub struct Fifo {
    pub depth: usize,
}

/// Full: the producer waits ([`Sender::send`]); only for a network stream that we may pause.
pub struct Wait {
    pub depth: usize,
}

/// Coded pictures. Full: everything is refused up to the next key picture, and a key picture replaces the lot.
pub struct Gop {
    depth: usize,
    skipping: bool,
}

impl Gop {
    pub fn new(depth: usize) -> Self {
        Gop { depth, skipping: false }
    }
}

/// What [`Gop`] must know of its items.
pub trait Coded {
    /// Whether decoding can start here.
    fn is_key(&self) -> bool;
}

impl<T: Send> Policy<T> for Latest {
    fn admit(&mut self, items: &mut VecDeque<T>, item: T) -> Offered {
        let replaced = items.len();
        items.clear();
        items.push_back(item);
        if replaced == 0 { Offered::Queued } else { Offered::Replaced(replaced) }
    }
}

impl<T: Send> Policy<T> for Fifo {
    fn admit(&mut self, items: &mut VecDeque<T>, item: T) -> Offered {
        let over = (items.len() + 1).saturating_sub(self.depth);
        items.drain(..over.min(items.len()));
        items.push_back(item);
        if over == 0 { Offered::Queued } else { Offered::Replaced(over) }
    }
}

impl<T: Send> Policy<T> for Wait {
    fn admit(&mut self, items: &mut VecDeque<T>, item: T) -> Offered {
        if items.len() >= self.depth {
            return Offered::Refused;
        }
        items.push_back(item);
        Offered::Queued
    }
}

impl<T: Coded + Send> Policy<T> for Gop {
    fn admit(&mut self, items: &mut VecDeque<T>, item: T) -> Offered {
        if item.is_key() {
            self.skipping = false;
            if items.len() >= self.depth {
                let replaced = items.len();
                items.clear();
                items.push_back(item);
                return Offered::Replaced(replaced);
            }
        } else if self.skipping {
            return Offered::Refused;
        } else if items.len() >= self.depth {
            self.skipping = true;
            return Offered::Refused;
        }
        items.push_back(item);
        Offered::Queued
    }
}

struct State<T, P> {
    items: VecDeque<T>,
    policy: P,
    senders: usize,
    receiver_alive: bool,
    /// The receiver is to look up from its wait although nothing arrived.
    nudged: bool,
    /// A thread waits: waking one is a system call, which queues between tasks are spared.
    sleeps: bool,
}

struct Shared<T, P> {
    state: Mutex<State<T, P>>,
    arrived: Condvar,
    arrived_async: Notify,
    room: Notify,
    offered: AtomicU64,
    lost: AtomicU64,
}

impl<T, P> Shared<T, P> {
    fn lock(&self) -> MutexGuard<'_, State<T, P>> {
        // The guarded code cannot panic half-way through a change, so a poisoned lock is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Items offered to and lost by one queue since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    pub offered: u64,
    pub lost: u64,
}

pub struct Sender<T, P> {
    shared: Arc<Shared<T, P>>,
}

pub struct Receiver<T, P> {
    shared: Arc<Shared<T, P>>,
    policy: PhantomData<P>,
}

/// Makes a queue with the given loss policy.
pub fn queue<T: Send, P: Policy<T>>(policy: P) -> (Sender<T, P>, Receiver<T, P>) {
    let state = State {
        items: VecDeque::new(),
        policy,
        senders: 1,
        receiver_alive: true,
        nudged: false,
        sleeps: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        arrived: Condvar::new(),
        arrived_async: Notify::new(),
        room: Notify::new(),
        offered: AtomicU64::new(0),
        lost: AtomicU64::new(0),
    });
    (Sender { shared: shared.clone() }, Receiver { shared, policy: PhantomData })
}

impl<T, P> Sender<T, P> {
    pub fn counters(&self) -> QueueCounters {
        counters_of(&self.shared)
    }

    /// Ends the present or the next [`Receiver::take_within`] with `Empty`, if nothing arrives before it looks.
    pub fn nudge(&self) {
        self.shared.lock().nudged = true;
        self.shared.arrived.notify_one();
    }

    /// `thread`: a thread waits rather than a task.
    fn wake(&self, thread: bool) {
        if thread {
            self.shared.arrived.notify_one();
        } else {
            self.shared.arrived_async.notify_one();
        }
    }
}

impl<T: Send, P: Policy<T>> Sender<T, P> {
    /// Offers one item; never blocks.
    pub fn offer(&self, item: T) -> Offered {
        let (offered, sleeps) = {
            let mut state = self.shared.lock();
            if !state.receiver_alive {
                return Offered::Closed;
            }
            let State { items, policy, sleeps, .. } = &mut *state;
            (policy.admit(items, item), *sleeps)
        };
        self.shared.offered.fetch_add(1, Ordering::Relaxed);
        match offered {
            Offered::Queued => self.wake(sleeps),
            Offered::Replaced(n) => {
                self.shared.lost.fetch_add(n as u64, Ordering::Relaxed);
                self.wake(sleeps);
            }
            Offered::Refused => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
            Offered::Closed => {}
        }
        offered
    }
}

impl<T: Send> Sender<T, Wait> {
    /// Waits for room. `false`: the receiver is gone.
    pub async fn send(&self, item: T) -> bool {
        let mut item = Some(item);
        loop {
            let room = self.shared.room.notified();
            {
                let mut state = self.shared.lock();
                if !state.receiver_alive {
                    return false;
                }
                if state.items.len() < state.policy.depth {
                    state.items.extend(item.take());
                    let sleeps = state.sleeps;
                    drop(state);
                    self.shared.offered.fetch_add(1, Ordering::Relaxed);
                    self.wake(sleeps);
                    return true;
                }
            }
            room.await;
        }
    }
}

impl<T, P> Clone for Sender<T, P> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T, P> Drop for Sender<T, P> {
    fn drop(&mut self) {
        let last = {
            let mut state = self.shared.lock();
            state.senders -= 1;
            state.senders == 0
        };
        if last {
            self.shared.arrived.notify_all();
            self.shared.arrived_async.notify_one();
        }
    }
}

/// What a bounded wait brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    Item(T),
    /// Nothing came in time, or the sender nudged.
    Empty,
    /// All senders are gone and everything has been taken.
    Closed,
}

impl<T, P> Receiver<T, P> {
    /// For threads: blocks for the next item. `None`: all senders are gone and everything has been taken.
    pub fn take(&self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                self.shared.room.notify_one();
                return Some(item);
            }
            if state.senders == 0 {
                return None;
            }
            state.sleeps = true;
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeps = false;
        }
    }

    /// For threads: blocks at most `patience`.
    pub fn take_within(&self, patience: Duration) -> Taken<T> {
        let mut state = self.shared.lock();
        let idle = |state: &mut State<T, P>| state.items.is_empty() && state.senders > 0 && !state.nudged;
        if !patience.is_zero() && idle(&mut state) {
            state.sleeps = true;
            (state, _) = self
                .shared
                .arrived
                .wait_timeout_while(state, patience, idle)
                .unwrap_or_else(PoisonError::into_inner);
            state.sleeps = false;
        }
        state.nudged = false;
        match state.items.pop_front() {
            Some(item) => {
                self.shared.room.notify_one();
                Taken::Item(item)
            }
            None if state.senders == 0 => Taken::Closed,
            None => Taken::Empty,
        }
    }

    /// Takes what is there without waiting.
    pub fn try_take(&self) -> Taken<T> {
        self.take_within(Duration::ZERO)
    }

    /// For tasks: waits for the next item. Cancel-safe. `None`: closed and drained.
    pub async fn recv(&self) -> Option<T> {
        loop {
            let arrived = self.shared.arrived_async.notified();
            match self.try_take() {
                Taken::Item(item) => return Some(item),
                Taken::Closed => return None,
                Taken::Empty => arrived.await,
            }
        }
    }

    /// For one branch among others: as [`Receiver::recv`], and never ready once closed and drained. Cancel-safe. To wait in
    /// what a branch of `select!` does would keep all the others from being looked at.
    pub async fn recv_while_open(&self) -> T {
        match self.recv().await {
            Some(item) => item,
            None => std::future::pending().await,
        }
    }

    /// Throws away what is queued and says how much it was; the loss is wanted and not counted.
    pub fn clear(&self) -> usize {
        let mut state = self.shared.lock();
        let n = state.items.len();
        state.items.clear();
        self.shared.room.notify_one();
        n
    }

    pub fn len(&self) -> usize {
        self.shared.lock().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn counters(&self) -> QueueCounters {
        counters_of(&self.shared)
    }
}

impl<T, P> Drop for Receiver<T, P> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.shared.lock();
            state.receiver_alive = false;
            std::mem::take(&mut state.items)
        };
        drop(left);
        self.shared.room.notify_one();
    }
}

fn counters_of<T, P>(shared: &Shared<T, P>) -> QueueCounters {
    QueueCounters {
        offered: shared.offered.load(Ordering::Relaxed),
        lost: shared.lost.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Unit(u32, bool);
    impl Coded for Unit {
        fn is_key(&self) -> bool {
            self.1
        }
    }

    #[test]
    fn latest_replaces_and_counts() {
        let (tx, rx) = queue(Latest);
        assert_eq!(tx.offer(1), Offered::Queued);
        assert_eq!(tx.offer(2), Offered::Replaced(1));
        assert_eq!(rx.take(), Some(2));
        assert_eq!(rx.counters(), QueueCounters { offered: 2, lost: 1 });
    }

    #[test]
    fn fifo_drops_the_oldest() {
        let (tx, rx) = queue(Fifo { depth: 2 });
        for n in 0..3 {
            tx.offer(n);
        }
        drop(tx);
        assert_eq!((rx.take(), rx.take(), rx.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn gop_refuses_until_a_key_picture_and_a_key_picture_replaces_the_lot() {
        let (tx, rx) = queue(Gop::new(2));
        tx.offer(Unit(0, true));
        tx.offer(Unit(1, false));
        assert_eq!(tx.offer(Unit(2, false)), Offered::Refused);
        assert_eq!(rx.take(), Some(Unit(0, true)));
        // There is room again, but a picture in between is missing: nothing decodable can follow.
        assert_eq!(tx.offer(Unit(3, false)), Offered::Refused);
        tx.offer(Unit(4, true));
        assert_eq!(tx.offer(Unit(5, false)), Offered::Refused);
        assert_eq!(tx.offer(Unit(6, true)), Offered::Replaced(2));
        assert_eq!(rx.take(), Some(Unit(6, true)));
    }

    #[test]
    fn a_taker_wakes_when_the_last_sender_drops() {
        let (tx, rx) = queue::<u8, _>(Latest);
        let taker = std::thread::spawn(move || rx.take());
        drop(tx);
        assert_eq!(taker.join().ok(), Some(None));
    }

    #[test]
    fn a_nudge_ends_one_wait_and_an_item_goes_before_it() {
        let (tx, rx) = queue(Latest);
        let long = Duration::from_secs(60);
        tx.nudge();
        assert_eq!(rx.take_within(long), Taken::Empty);
        tx.nudge();
        tx.offer(1);
        assert_eq!(rx.take_within(long), Taken::Item(1));
        let taker = std::thread::spawn(move || rx.take_within(long));
        tx.nudge();
        assert_eq!(taker.join().ok(), Some(Taken::Empty));
    }

    #[tokio::test]
    async fn a_branch_of_a_closed_queue_leaves_the_others_alone() {
        let (sender, receiver) = queue(Fifo { depth: 2 });
        sender.offer(1);
        assert_eq!(receiver.recv_while_open().await, 1);
        drop(sender);
        let other = std::future::ready("the other");
        let first = tokio::select! {
            biased;
            _item = receiver.recv_while_open() => "closed",
            other = other => other,
        };
        assert_eq!(first, "the other");
    }

    #[tokio::test]
    async fn wait_makes_the_producer_wait_and_tells_it_when_the_receiver_goes() {
        let (tx, rx) = queue(Wait { depth: 1 });
        assert!(tx.send(1).await);
        let second = tokio::spawn(async move { (tx.send(2).await, tx) });
        assert_eq!(rx.recv().await, Some(1));
        assert_eq!(rx.recv().await, Some(2));
        let (sent, tx) = second.await.expect("the sender runs");
        assert!(sent);
        drop(rx);
        assert!(!tx.send(3).await);
    }
}
