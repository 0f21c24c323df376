//! Driver. The thread that owns the child: starts it, reads its answers, and replaces it when it dies or hangs.
//!
//! The child asks the kernel to die with the thread that started it, so this thread lives as long as the worker.

#![expect(clippy::disallowed_methods, reason = "heartbeats and back-off are measured on the clock")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::media::codec::DetectError;
use crate::worker::client::{Link, ModelState, Seat, Shared, ask_hello, ask_load, refused};
use crate::worker::control::{self, Blocking, Received};
use crate::worker::launch::{self, BACK_OFF_FIRST, BACK_OFF_LAST, GOOD_WHILE};
use crate::worker::wire::{Answer, Ask, MAX_MESSAGE, Reply};

/// Heartbeats while pictures are looked at, and while nothing is.
const PING_BUSY: Duration = Duration::from_millis(250);
const PING_IDLE: Duration = Duration::from_secs(2);

/// A model that was sent so often to a child that died over it is given up.
const MODEL_ATTEMPTS: u32 = 3;

/// Keeps a child running until the worker is dropped.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut back_off = BACK_OFF_FIRST;
    for generation in 0u64.. {
        let started = Instant::now();
        let why = match Running::launch(shared) {
            Ok(mut running) => {
                running.go(shared, generation);
                let why = running.watch(shared);
                bring_down(shared, &why);
                let status = launch::end(running.child, &running.socket);
                why.map(|why| format!("{why} ({status})"))
            }
            Err(error) => {
                let why = Some(format!("{}: {error}", shared.settings.executable.display()));
                bring_down(shared, &why);
                why
            }
        };
        // Only now is the old child gone for certain, and its view of the picture memories with it.
        release_seats(shared, why.as_deref().unwrap_or("it was stopped"));
        let Some(why) = why else { return };
        tracing::warn!("inference process: {why}; starting it again in {} ms", back_off.as_millis());
        back_off = if started.elapsed() > GOOD_WHILE { BACK_OFF_FIRST } else { back_off };
        if pause(shared, back_off) {
            return;
        }
        back_off = (back_off * 2).min(BACK_OFF_LAST);
        shared.lock().restarts += 1;
    }
}

fn bring_down(shared: &Shared, why: &Option<String>) {
    let mut state = shared.lock();
    let text = why.clone().unwrap_or_else(|| "it was stopped".to_owned());
    state.link = Link::Down { why: format!("{text}; it is being restarted") };
    state.last_error = Some(text);
    for entry in &mut state.models {
        if matches!(entry.state, ModelState::Ready | ModelState::Loading) {
            entry.state = ModelState::Loading;
            if entry.attempts >= MODEL_ATTEMPTS {
                let problem =
                    format!("model {}: the inference process dies when it loads it", entry.spec.name);
                entry.state = ModelState::Failed(problem);
            }
        }
    }
    drop(state);
    shared.changed.notify_all();
}

fn release_seats(shared: &Shared, why: &str) {
    // A seat's lock is taken by callers that then take the state's: never the other way round.
    let seats: Vec<Arc<Seat>> = shared.lock().seats.values().cloned().collect();
    for seat in seats {
        seat.abandon(why);
    }
}

/// Waits `limit`. `true`: the worker was dropped meanwhile.
fn pause(shared: &Shared, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        if shared.lock().stopping {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        if control::wait(&[&shared.wake], Some(left)).is_err() {
            return false;
        }
        clear_wake(shared);
    }
}

fn clear_wake(shared: &Shared) {
    // Nothing to read means nobody has written: just as well.
    let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
}

/// One child and our end of its socket.
struct Running {
    child: Child,
    socket: Arc<OwnedFd>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// When the oldest unanswered heartbeat was sent.
    unanswered: Option<Instant>,
    pings: u64,
}

impl Running {
    fn launch(shared: &Shared) -> std::io::Result<Running> {
        let settings = &shared.settings;
        let (child, ours) = launch::launch(&settings.executable, &["worker"], &settings.environment)?;
        let socket = Arc::new(ours);
        let incoming = vec![0; MAX_MESSAGE];
        Ok(Running { child, socket, incoming, outgoing: Vec::new(), unanswered: None, pings: 0 })
    }

    /// Tells the child what to load, and the callers that it is there.
    fn go(&mut self, shared: &Shared, generation: u64) {
        // What cannot be sent to a child that died at once shows when its socket is read.
        let _ = self.send(&ask_hello(&shared.settings));
        let mut state = shared.lock();
        for (index, entry) in state.models.iter_mut().enumerate() {
            if entry.state == ModelState::Loading {
                entry.attempts += 1;
                let _ = self.send(&ask_load(index as u32, &entry.spec));
            }
        }
        let (socket, pid) = (self.socket.clone(), self.child.id());
        state.link = Link::Up { socket, pid, generation };
        drop(state);
        shared.changed.notify_all();
    }

    fn send(&mut self, ask: &Ask) -> Result<(), Errno> {
        ask.write(&mut self.outgoing);
        control::send(self.socket.as_fd(), &self.outgoing, None, Blocking::No)
    }

    /// Reads answers until the child has to be replaced; says why. `None`: the worker was dropped.
    fn watch(&mut self, shared: &Shared) -> Option<String> {
        let mut next_ping = Instant::now();
        loop {
            let now = Instant::now();
            let (stopping, busy, loading) = {
                let state = shared.lock();
                let loading = state.models.iter().any(|entry| entry.state == ModelState::Loading);
                (state.stopping, !state.seats.is_empty() || loading, loading)
            };
            if stopping {
                return None;
            }
            let patience = if loading { shared.settings.load } else { shared.settings.stall };
            if busy {
                next_ping = next_ping.min(now + PING_BUSY);
            }
            if self.unanswered.is_some_and(|since| now - since >= patience) {
                return Some(format!("no heartbeat for {} ms", patience.as_millis()));
            }
            if now >= next_ping {
                if let Some(why) = self.lost_answer(shared, now) {
                    return Some(why);
                }
                self.pings += 1;
                match self.send(&Ask::Ping { number: self.pings }) {
                    // A full queue is an unanswered heartbeat too.
                    Ok(()) | Err(Errno::AGAIN) => {
                        self.unanswered.get_or_insert(now);
                    }
                    Err(_) => return Some("it ended".to_owned()),
                }
                next_ping = now + if busy { PING_BUSY } else { PING_IDLE };
            }
            let limit = next_ping.saturating_duration_since(Instant::now());
            if control::wait(&[&*self.socket, &shared.wake], Some(limit)).is_err() {
                return Some("its socket cannot be watched".to_owned());
            }
            clear_wake(shared);
            if let Some(why) = self.take_replies(shared) {
                return Some(why);
            }
        }
    }

    /// A child that lives but lost a request would leave its detector waiting for ever.
    fn lost_answer(&self, shared: &Shared, now: Instant) -> Option<String> {
        let seats: Vec<Arc<Seat>> = shared.lock().seats.values().cloned().collect();
        let lost =
            seats.iter().any(|seat| seat.overdue(now).is_some_and(|late| late > shared.settings.stall));
        lost.then(|| "it lost a request".to_owned())
    }

    fn take_replies(&mut self, shared: &Shared) -> Option<String> {
        loop {
            match control::receive(self.socket.as_fd(), &mut self.incoming) {
                Ok(Received::Nothing) => return None,
                Ok(Received::Closed) => return Some("it ended".to_owned()),
                Err(error) => return Some(format!("its socket: {error}")),
                Ok(Received::Message(length, _)) => {
                    // Whatever it says, it is not stuck.
                    if let Some(since) = &mut self.unanswered {
                        *since = Instant::now();
                    }
                    let Some(reply) = self.incoming.get(..length).and_then(Reply::read) else {
                        return Some("it talks nonsense".to_owned());
                    };
                    self.handle(shared, reply);
                }
            }
        }
    }

    fn handle(&mut self, shared: &Shared, reply: Reply) {
        match reply {
            Reply::Pong { number } => {
                if number == self.pings {
                    self.unanswered = None;
                }
            }
            Reply::Loaded { model } => settle_model(shared, model, ModelState::Ready),
            Reply::LoadFailed { model, problem } => settle_model(shared, model, ModelState::Failed(problem)),
            Reply::Answer(answer) => {
                if let Some(seat) = count(shared, &answer) {
                    seat.settle(answer.sequence, Ok(seat.name_boxes(&answer)));
                }
            }
            Reply::Refused { detector, sequence, refusal } => {
                let seat = shared.lock().seats.get(&detector).cloned();
                if let Some(seat) = seat {
                    seat.settle(sequence, Err(refused(refusal)) as Result<_, DetectError>);
                }
            }
        }
    }
}

fn settle_model(shared: &Shared, model: u32, to: ModelState) {
    let mut state = shared.lock();
    if let Some(entry) = state.models.get_mut(model as usize) {
        entry.state = to;
        entry.attempts = 0;
    }
    drop(state);
    shared.changed.notify_all();
}

/// Adds an answer to the figures; gives the seat it is for.
fn count(shared: &Shared, answer: &Answer) -> Option<Arc<Seat>> {
    let mut state = shared.lock();
    state.queue = answer.waiting;
    for took in &answer.times {
        if let Some(entry) = state.models.get_mut(took.model as usize) {
            entry.count += 1;
            entry.total_us += u64::from(took.total_us);
            entry.run_us += u64::from(took.run_us);
            entry.last_us = took.total_us;
        }
    }
    state.seats.get(&answer.detector).cloned()
}
