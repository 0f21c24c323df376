//! Driver. The program's side of hearing: one [`Ears`] for the child that listens, one [`Listener`] for each caller.
//!
//! A listener hands sound over without waiting and is told what was judged of it. While the child is gone it says so
//! once ([`Judgement::Gone`]); when there is a new one, judgements come again by themselves. Starting, watching and
//! restarting the child is [`supervise`].

#![expect(clippy::disallowed_methods, reason = "waits for the child to load its networks")]

pub mod child;
mod supervise;
mod wire;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

pub use crate::media::audio::Judgement;

use crate::base::queue::{self, Fifo, Receiver, Sender};
use crate::inference::store::ModelFile;
use crate::worker::control::{self, Blocking};
use crate::worker::ears::wire::{Ask, Hello, MAX_SAMPLES};

/// Judgements one listener may leave unread: 2 s of them.
const JUDGEMENTS_MAX: usize = 64;

/// How the child is started.
#[derive(Clone, Debug)]
pub struct EarsSettings {
    /// The program to run; by default this one.
    pub executable: PathBuf,
    /// The ONNX Runtime library; `None`: searched for.
    pub onnxruntime: Option<PathBuf>,
    /// silero-vad.
    pub voice: ModelFile,
    /// smart-turn; `None`: questions about ends of turns are answered by nobody.
    pub turn: Option<ModelFile>,
    /// Added to the child's nice value; 0 leaves it.
    pub nice: i32,
    /// A heartbeat unanswered for so long means the child hangs.
    pub stall: Duration,
    /// Longest time loading may take.
    pub load: Duration,
    /// Further environment of the child, which otherwise gets little of ours.
    pub environment: Vec<(String, String)>,
}

impl EarsSettings {
    pub fn new(voice: ModelFile, turn: Option<ModelFile>) -> Self {
        EarsSettings {
            // Not the path: after an upgrade it names another program than the one that runs.
            executable: PathBuf::from("/proc/self/exe"),
            onnxruntime: None,
            voice,
            turn,
            nice: 0,
            stall: Duration::from_secs(1),
            load: Duration::from_secs(30),
            environment: Vec::new(),
        }
    }
}

/// Why nobody can listen; the text says what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum EarsError {
    #[error("the listening process cannot be started: {0}")]
    Start(String),
    #[error("{0}")]
    Load(String),
    #[error("the networks that listen were not loaded within {0} s")]
    LoadTimeout(u64),
}

/// How the child does.
#[derive(Clone, Debug)]
pub struct EarsStatus {
    pub alive: bool,
    pub pid: Option<u32>,
    pub restarts: u64,
    /// Why the child was last restarted or is down.
    pub last_error: Option<String>,
    /// Why ends of turns are not judged, if they should be.
    pub turn_problem: Option<String>,
    pub listeners: usize,
    /// Windows judged, and microseconds a window took in the child.
    pub windows: u64,
    pub window_us: f64,
    /// Questions about ends asked, answered, and milliseconds an answer took in the child.
    pub asked: u64,
    pub answered: u64,
    pub answer_ms: f64,
    /// Blocks that could not be handed over.
    pub blocks_lost: u64,
}

/// The child that listens. Clones share it; the last one to go, listeners counted, ends it.
#[derive(Clone)]
pub struct Ears {
    owner: Arc<Owner>,
}

/// Ends the child when nobody holds it any more.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake_supervisor();
    }
}

/// What listeners and the supervising thread share.
struct Shared {
    settings: EarsSettings,
    state: Mutex<State>,
    /// The child became ready, or went down.
    changed: Condvar,
    /// Readable when the supervisor has something to do.
    wake: OwnedFd,
    /// Counts children that became ready; 0: there is none at present. Read for every block, without the lock.
    generation: AtomicU64,
    blocks_lost: AtomicU64,
}

struct State {
    link: Link,
    stopping: bool,
    seats: BTreeMap<u32, Seat>,
    next_seat: u32,
    children: u64,
    restarts: u64,
    last_error: Option<String>,
    turn_problem: Option<String>,
    windows: u64,
    windows_us: u64,
    asked: u64,
    answered: u64,
    answers_us: u64,
}

enum Link {
    Starting,
    Up { socket: Arc<OwnedFd>, pid: u32 },
    Down { why: EarsError },
}

/// One listener as the supervisor sees it.
struct Seat {
    judgements: Sender<Judgement, Fifo>,
    /// When the question was asked that has no answer yet.
    asked: Option<Instant>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No guarded code can panic half-way through a change, so a poisoned lock is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_supervisor(&self) {
        // Only a full counter refuses, and then it is awake already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn hello(&self) -> Hello {
        let EarsSettings { onnxruntime, nice, voice, turn, .. } = self.settings.clone();
        Hello { onnxruntime, nice, voice, turn }
    }
}

impl Ears {
    /// Starts the child and waits until it has loaded its networks. A missing second network is no error; it shows in
    /// the status.
    pub fn start(settings: EarsSettings) -> Result<Ears, EarsError> {
        let start = |error: String| EarsError::Start(error);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| start(error.to_string()))?;
        let state = State {
            link: Link::Starting,
            stopping: false,
            seats: BTreeMap::new(),
            next_seat: 0,
            children: 0,
            restarts: 0,
            last_error: None,
            turn_problem: None,
            windows: 0,
            windows_us: 0,
            asked: 0,
            answered: 0,
            answers_us: 0,
        };
        let limit = settings.load;
        let shared = Arc::new(Shared {
            settings,
            state: Mutex::new(state),
            changed: Condvar::new(),
            wake,
            generation: AtomicU64::new(0),
            blocks_lost: AtomicU64::new(0),
        });
        let owner = Arc::new(Owner { shared: shared.clone() });
        let watched = shared.clone();
        crate::base::stop::process_thread("ears", move || supervise::run(&watched))
            .map_err(|error| start(error.to_string()))?;
        let waiting = |state: &mut State| matches!(state.link, Link::Starting);
        let waited = shared.changed.wait_timeout_while(shared.lock(), limit, waiting);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match &guard.link {
            Link::Up { .. } => {}
            Link::Starting => return Err(EarsError::LoadTimeout(limit.as_secs())),
            Link::Down { why } => return Err(why.clone()),
        }
        drop(guard);
        Ok(Ears { owner })
    }

    /// Somebody to listen to one caller, whose sound has `rate` Hz.
    pub fn listener(&self, rate: u32) -> Listener {
        let (judgements, inbox) = queue::queue(Fifo { depth: JUDGEMENTS_MAX });
        let mut state = self.owner.shared.lock();
        let id = state.next_seat;
        state.next_seat = state.next_seat.wrapping_add(1);
        state.seats.insert(id, Seat { judgements, asked: None });
        drop(state);
        Listener {
            ears: self.clone(),
            id,
            rate,
            inbox,
            heard: 0,
            opened_in: 0,
            socket: None,
            message: Vec::new(),
        }
    }

    pub fn status(&self) -> EarsStatus {
        let state = self.owner.shared.lock();
        let pid = if let Link::Up { pid, .. } = state.link { Some(pid) } else { None };
        let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 };
        EarsStatus {
            alive: pid.is_some(),
            pid,
            restarts: state.restarts,
            last_error: state.last_error.clone(),
            turn_problem: state.turn_problem.clone(),
            listeners: state.seats.len(),
            windows: state.windows,
            window_us: mean(state.windows_us, state.windows),
            asked: state.asked,
            answered: state.answered,
            answer_ms: mean(state.answers_us, state.answered) / 1e3,
            blocks_lost: self.owner.shared.blocks_lost.load(Ordering::Relaxed),
        }
    }

    /// Makes something go wrong in the child.
    #[cfg(feature = "faults")]
    pub fn inject(&self, fault: crate::worker::Fault) {
        let socket = match &self.owner.shared.lock().link {
            Link::Up { socket, .. } => socket.clone(),
            Link::Starting | Link::Down { .. } => return,
        };
        let mut message = Vec::new();
        Ask::Fault(fault).write(&mut message);
        // A child that is down already cannot be broken further.
        let _ = control::send(socket.as_fd(), &message, None, Blocking::No);
    }
}

/// One caller's sound on its way to the child, and what is judged of it.
pub struct Listener {
    ears: Ears,
    id: u32,
    rate: u32,
    inbox: Receiver<Judgement, Fifo>,
    heard: u64,
    /// The child that knows of this listener, and the socket to it.
    opened_in: u64,
    socket: Option<Arc<OwnedFd>>,
    message: Vec<u8>,
}

impl Listener {
    /// Hands a block over; never waits. What the child cannot take is lost and counted.
    pub fn hear(&mut self, block: &[i16]) {
        for part in block.chunks(MAX_SAMPLES) {
            let from = self.heard;
            self.heard += part.len() as u64;
            if self.is_open() {
                wire::write_sound(self.id, from, part, &mut self.message);
                self.send();
            } else {
                self.shared().blocks_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Asks whether the speaker has finished; `spoken`: how much of the last sound belongs to his turn (8 s of it
    /// count). One [`Judgement::Finished`] or [`Judgement::Unanswered`] comes back, unless the child goes meanwhile.
    pub fn ask_finished(&mut self, spoken: Duration) {
        if !self.is_open() {
            if let Some(seat) = self.shared().lock().seats.get(&self.id) {
                seat.judgements.offer(Judgement::Unanswered);
            }
            return;
        }
        let samples = spoken.min(Duration::from_secs(60)).as_millis() as u64 * u64::from(self.rate) / 1_000;
        Ask::Finished { listener: self.id, samples }.write(&mut self.message);
        let mut state = self.ears.owner.shared.lock();
        state.asked += 1;
        if let Some(seat) = state.seats.get_mut(&self.id) {
            seat.asked.get_or_insert_with(Instant::now);
        }
        drop(state);
        self.send();
    }

    /// What was judged next. Cancel-safe.
    pub async fn next(&mut self) -> Judgement {
        match self.inbox.recv().await {
            Some(judgement) => judgement,
            // The other end is dropped with this one only.
            None => std::future::pending().await,
        }
    }

    /// Samples handed over so far.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    fn shared(&self) -> &Shared {
        &self.ears.owner.shared
    }

    /// Sees to it that the running child knows of this listener. `false`: there is no child.
    fn is_open(&mut self) -> bool {
        let generation = self.shared().generation.load(Ordering::Acquire);
        if generation == 0 {
            return false;
        }
        if generation != self.opened_in {
            let socket = match &self.shared().lock().link {
                Link::Up { socket, .. } => socket.clone(),
                Link::Starting | Link::Down { .. } => return false,
            };
            self.socket = Some(socket);
            self.opened_in = generation;
            let mut message = Vec::new();
            Ask::Open { listener: self.id, rate: self.rate }.write(&mut message);
            std::mem::swap(&mut message, &mut self.message);
            self.send();
        }
        true
    }

    fn send(&mut self) {
        let Some(socket) = &self.socket else { return };
        match control::send(socket.as_fd(), &self.message, None, Blocking::No) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                self.shared().blocks_lost.fetch_add(1, Ordering::Relaxed);
                // It may have been the message that opens the stream.
                self.opened_in = if wire::opens(&self.message) { 0 } else { self.opened_in };
            }
            // The supervisor sees the same and says so.
            Err(_) => {}
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared().lock().seats.remove(&self.id);
        if self.opened_in == self.shared().generation.load(Ordering::Acquire) {
            Ask::Close { listener: self.id }.write(&mut self.message);
            self.send();
        }
    }
}
