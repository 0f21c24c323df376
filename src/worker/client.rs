//! Driver. The program's side: one [`Worker`] for the inference child, one [`Detector`] per call and purpose.
//!
//! A detector has one picture memory and at most one request under way. Its caller waits until the deadline and never
//! longer; an answer that comes later is thrown away by its sequence number, and until it has come (or the child is
//! gone) the memory is not written again. Starting, watching and restarting the child is [`super::supervise`].

#![expect(clippy::disallowed_methods, reason = "waits for answers up to a deadline")]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

use crate::inference::manifest::ModelSpec;
use crate::media::codec::{DetectError, Detection, Detector};
use crate::media::frame::Frame;
use crate::worker::control::{self, Blocking};
use crate::worker::picture::Writable;
use crate::worker::supervise;
use crate::worker::wire::{Answer, Ask, Hello, Look, Refusal, Request, Setup};

/// How the child is started.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The program to run as `PROGRAM worker`: this one.
    pub executable: PathBuf,
    /// The ONNX Runtime library; `None`: searched for.
    pub onnxruntime: Option<PathBuf>,
    /// Added to the child's nice value; 0 leaves it.
    pub nice: i32,
    /// A heartbeat unanswered for so long means the child hangs.
    pub stall: Duration,
    /// Longest time loading models may take.
    pub load: Duration,
    /// Further environment of the child, which otherwise gets little of ours.
    pub environment: Vec<(String, String)>,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        WorkerSettings {
            // Not the path: after an upgrade it names another program than the one that runs.
            executable: PathBuf::from("/proc/self/exe"),
            onnxruntime: None,
            nice: 0,
            stall: Duration::from_secs(2),
            load: Duration::from_secs(30),
            environment: Vec::new(),
        }
    }
}

/// Why the worker or a model cannot be used; the text says what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorkerError {
    #[error("the inference process cannot be started: {0}")]
    Start(String),
    #[error("{0}")]
    Load(String),
    #[error("model {0}: not loaded within {1} s")]
    LoadTimeout(String, u64),
}

/// Whose requests are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// In line: a picture waits for it.
    Gate,
    /// Beside the line.
    Observer,
}

/// What a detector looks for with one model.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorOptions {
    /// Scores must be above it, 0 to 1.
    pub confidence: f32,
    /// Boxes of a class that overlap more are one thing.
    pub iou: f32,
    /// Class names wanted; empty: all of the model.
    pub classes: Vec<String>,
}

/// A loaded model. It stays loaded, over restarts too, as long as the worker lives.
#[derive(Clone, Debug)]
pub struct ModelHandle {
    pub(super) index: u32,
    labels: Arc<[Arc<str>]>,
    confidence: f32,
    iou: f32,
}

impl ModelHandle {
    /// The manifest's confidence and overlap, all classes.
    pub fn options(&self) -> DetectorOptions {
        DetectorOptions { confidence: self.confidence, iou: self.iou, classes: Vec::new() }
    }
}

/// Whether a model can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    Loading,
    Ready,
    Failed(String),
}

#[derive(Clone, Debug)]
pub struct ModelStatus {
    pub name: String,
    pub state: ModelState,
    /// Pictures looked at.
    pub count: u64,
    /// Milliseconds per picture in the child: preparing, running, decoding.
    pub mean_ms: f64,
    /// The network alone, without preparing and decoding.
    pub mean_run_ms: f64,
    pub last_ms: f64,
}

#[derive(Clone, Debug)]
pub struct WorkerStatus {
    pub alive: bool,
    pub pid: Option<u32>,
    pub restarts: u64,
    /// Why the child was last restarted or is down.
    pub last_error: Option<String>,
    pub detectors: usize,
    /// Requests that were waiting when the last answer was given.
    pub queue: u32,
    /// Requests without an answer in time.
    pub late: u64,
    pub models: Vec<ModelStatus>,
}

/// The inference child. Clones share it; the last one to go ends it.
#[derive(Clone)]
pub struct Worker {
    owner: Arc<Owner>,
}

/// Ends the child when nobody holds the worker or one of its detectors any more.
struct Owner {
    shared: Arc<Shared>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake_supervisor();
    }
}

/// What callers and the supervising thread share.
pub(super) struct Shared {
    pub settings: WorkerSettings,
    state: Mutex<State>,
    /// A model was loaded or failed, or the child came up or went down.
    pub changed: Condvar,
    /// Readable when the supervisor has something to do.
    pub wake: OwnedFd,
}

pub(super) struct State {
    pub link: Link,
    pub stopping: bool,
    pub models: Vec<ModelEntry>,
    pub seats: BTreeMap<u32, Arc<Seat>>,
    next_seat: u32,
    pub restarts: u64,
    pub last_error: Option<String>,
    pub queue: u32,
    pub late: u64,
}

pub(super) enum Link {
    /// The first start is under way.
    Starting,
    Up {
        socket: Arc<OwnedFd>,
        pid: u32,
        generation: u64,
    },
    Down {
        why: String,
    },
}

pub(super) struct ModelEntry {
    pub spec: ModelSpec,
    handle: ModelHandle,
    pub state: ModelState,
    /// Times it was sent to a child without an answer: a file that kills the child is not tried for ever.
    pub attempts: u32,
    pub count: u64,
    pub total_us: u64,
    pub run_us: u64,
    pub last_us: u32,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // No guarded code can panic half-way through a change, so a poisoned lock is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_supervisor(&self) {
        // Only a full counter refuses, and then it is awake already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn send(&self, ask: &Ask, carried: Option<&Writable>) -> Result<(), DetectError> {
        let socket = match &self.lock().link {
            Link::Up { socket, .. } => socket.clone(),
            Link::Starting => return Err(DetectError::Down("it is starting".to_owned())),
            Link::Down { why } => return Err(DetectError::Down(why.clone())),
        };
        let mut message = Vec::with_capacity(64);
        ask.write(&mut message);
        match control::send(socket.as_fd(), &message, carried.map(Writable::descriptor), Blocking::No) {
            Ok(()) => Ok(()),
            // Its queue is full: it has not taken a message for long.
            Err(Errno::AGAIN) => Err(DetectError::Late),
            Err(error) => Err(DetectError::Down(error.to_string())),
        }
    }
}

impl Worker {
    /// Starts the child. Models are loaded afterwards; a missing ONNX Runtime shows there.
    pub fn start(settings: WorkerSettings) -> Result<Worker, WorkerError> {
        let start = |error: String| WorkerError::Start(error);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| start(error.to_string()))?;
        let state = State {
            link: Link::Starting,
            stopping: false,
            models: Vec::new(),
            seats: BTreeMap::new(),
            next_seat: 0,
            restarts: 0,
            last_error: None,
            queue: 0,
            late: 0,
        };
        let shared = Arc::new(Shared { settings, state: Mutex::new(state), changed: Condvar::new(), wake });
        let owner = Arc::new(Owner { shared: shared.clone() });
        let watched = shared.clone();
        crate::base::stop::process_thread("inference", move || supervise::run(&watched))
            .map_err(|error| start(error.to_string()))?;
        let guard = shared.lock();
        let limit = Duration::from_secs(5);
        let waiting = |state: &mut State| matches!(state.link, Link::Starting);
        let (guard, _) =
            shared.changed.wait_timeout_while(guard, limit, waiting).unwrap_or_else(PoisonError::into_inner);
        match &guard.link {
            Link::Up { .. } => {}
            Link::Starting => return Err(start("no sign of life within 5 s".to_owned())),
            Link::Down { why } => return Err(start(why.clone())),
        }
        drop(guard);
        Ok(Worker { owner })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.owner.shared
    }

    /// Loads a model and waits for it; the same file is loaded once. Not for real-time threads.
    pub fn load(&self, spec: ModelSpec) -> Result<ModelHandle, WorkerError> {
        let shared = self.shared();
        let limit = shared.settings.load;
        let mut state = shared.lock();
        let known = state.models.iter().position(|entry| entry.spec == spec);
        let index = known.unwrap_or(state.models.len());
        if known.is_none() {
            state.models.push(ModelEntry::new(index as u32, spec.clone()));
        }
        let failed = matches!(state.models[index].state, ModelState::Failed(_));
        if known.is_none() || failed {
            state.models[index].state = ModelState::Loading;
            state.models[index].attempts = 0;
            drop(state);
            // When the child is down the supervisor sends all models once it is up again.
            if shared.send(&ask_load(index as u32, &spec), None).is_ok() {
                shared.wake_supervisor();
            }
            state = shared.lock();
        }
        let loading = |state: &mut State| state.models[index].state == ModelState::Loading;
        let (state, _) =
            shared.changed.wait_timeout_while(state, limit, loading).unwrap_or_else(PoisonError::into_inner);
        let entry = &state.models[index];
        match &entry.state {
            ModelState::Ready => Ok(entry.handle.clone()),
            ModelState::Loading => Err(WorkerError::LoadTimeout(spec.name, limit.as_secs())),
            ModelState::Failed(why) => Err(WorkerError::Load(why.clone())),
        }
    }

    /// A detector for a gate: each picture is seen by every model, and its requests go first.
    pub fn detector(&self, models: Vec<(ModelHandle, DetectorOptions)>) -> Box<dyn Detector> {
        Box::new(self.seat(models, Priority::Gate))
    }

    /// A detector whose requests wait while gates have some.
    pub fn observer(&self, models: Vec<(ModelHandle, DetectorOptions)>) -> Box<dyn Detector> {
        Box::new(self.seat(models, Priority::Observer))
    }

    fn seat(&self, models: Vec<(ModelHandle, DetectorOptions)>, priority: Priority) -> RemoteDetector {
        let looks = models.iter().map(|(model, options)| look(model, options)).collect();
        let mut state = self.shared().lock();
        let id = state.next_seat;
        state.next_seat += 1;
        let models = models.into_iter().map(|(model, _)| model).collect();
        let seat =
            Seat { id, priority, looks, models, slot: Mutex::new(Slot::default()), answered: Condvar::new() };
        let seat = Arc::new(seat);
        state.seats.insert(id, seat.clone());
        drop(state);
        // From now on heartbeats come more often.
        self.shared().wake_supervisor();
        RemoteDetector { worker: self.clone(), seat }
    }

    pub fn status(&self) -> WorkerStatus {
        let state = self.shared().lock();
        let mean = |sum: u64, count: u64| if count == 0 { 0.0 } else { sum as f64 / count as f64 / 1e3 };
        let models = state.models.iter().map(|entry| ModelStatus {
            name: entry.spec.name.clone(),
            state: entry.state.clone(),
            count: entry.count,
            mean_ms: mean(entry.total_us, entry.count),
            mean_run_ms: mean(entry.run_us, entry.count),
            last_ms: f64::from(entry.last_us) / 1e3,
        });
        let pid = if let Link::Up { pid, .. } = state.link { Some(pid) } else { None };
        WorkerStatus {
            alive: pid.is_some(),
            pid,
            restarts: state.restarts,
            last_error: state.last_error.clone(),
            detectors: state.seats.len(),
            queue: state.queue,
            late: state.late,
            models: models.collect(),
        }
    }

    /// Makes something go wrong in the child.
    #[cfg(feature = "faults")]
    pub fn inject(&self, fault: super::Fault) {
        // A child that is down already cannot be broken further.
        let _ = self.shared().send(&Ask::Fault(fault), None);
    }
}

impl ModelEntry {
    fn new(index: u32, spec: ModelSpec) -> Self {
        let handle = ModelHandle {
            index,
            labels: spec.labels.iter().map(|label| label.as_str().into()).collect(),
            confidence: spec.contract.confidence,
            iou: spec.contract.iou,
        };
        ModelEntry {
            spec,
            handle,
            state: ModelState::Loading,
            attempts: 0,
            count: 0,
            total_us: 0,
            run_us: 0,
            last_us: 0,
        }
    }
}

/// The message that loads a model; its labels stay here, the child answers in numbers.
pub(super) fn ask_load(model: u32, spec: &ModelSpec) -> Ask {
    Ask::Load { model, spec: Box::new(ModelSpec { labels: Vec::new(), ..spec.clone() }) }
}

pub(super) fn ask_hello(settings: &WorkerSettings) -> Ask {
    Ask::Hello(Hello { onnxruntime: settings.onnxruntime.clone(), nice: settings.nice })
}

fn look(model: &ModelHandle, options: &DetectorOptions) -> Look {
    let index = |class: &String| model.labels.iter().position(|label| **label == **class);
    let mut classes: Vec<u16> =
        options.classes.iter().filter_map(index).filter_map(|index| u16::try_from(index).ok()).collect();
    if classes.is_empty() && !options.classes.is_empty() {
        // The model knows none of the wanted classes. An empty list would mean all of them.
        classes.push(u16::MAX);
    }
    Look { model: model.index, confidence: options.confidence, iou: options.iou, classes }
}

/// One detector's place, seen by its caller and by the supervisor.
pub(super) struct Seat {
    id: u32,
    priority: Priority,
    looks: Vec<Look>,
    models: Vec<ModelHandle>,
    slot: Mutex<Slot>,
    answered: Condvar,
}

#[derive(Default)]
struct Slot {
    memory: Option<Writable>,
    /// The child that was given the memory.
    opened_in: Option<u64>,
    sequence: u64,
    /// The deadline of the request under way; its memory must not be written.
    pending: Option<Instant>,
    /// Whether the caller still waits for it.
    waiting: bool,
    answer: Option<Result<Vec<Detection>, DetectError>>,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to the caller if it is the one it waits for.
    pub fn settle(&self, sequence: u64, answer: Result<Vec<Detection>, DetectError>) {
        let mut slot = self.lock();
        if slot.pending.is_none() || slot.sequence != sequence {
            return;
        }
        slot.pending = None;
        if slot.waiting {
            slot.answer = Some(answer);
        }
        drop(slot);
        self.answered.notify_all();
    }

    /// The child is gone, and its view of the memory with it.
    pub fn abandon(&self, why: &str) {
        let sequence = self.lock().sequence;
        self.settle(sequence, Err(DetectError::Down(why.to_owned())));
    }

    /// Since when the answer is overdue.
    pub fn overdue(&self, now: Instant) -> Option<Duration> {
        self.lock().pending.and_then(|deadline| now.checked_duration_since(deadline))
    }

    /// The boxes of an answer under their class names.
    pub fn name_boxes(&self, answer: &Answer) -> Vec<Detection> {
        let name = |(model, found): &(u32, crate::inference::family::Found)| {
            let model = self.models.iter().find(|handle| handle.index == *model)?;
            // A class beyond the list is still something that was found: a gate must hide it.
            let class = model.labels.get(usize::from(found.class)).cloned();
            let class = class.unwrap_or_else(|| Arc::from(format!("class {}", found.class)));
            Some(Detection { class, score: found.score, rect: found.rect })
        };
        answer.boxes.iter().filter_map(name).collect()
    }
}

/// A refusal in the words of the trait.
pub(super) fn refused(refusal: Refusal) -> DetectError {
    match refusal {
        Refusal::Expired => DetectError::Late,
        Refusal::Failed(text) => DetectError::Failed(text),
    }
}

/// The caller's side of a [`Seat`].
struct RemoteDetector {
    worker: Worker,
    seat: Arc<Seat>,
}

impl RemoteDetector {
    /// Sees to it that the running child has memory for a picture of `length` bytes.
    fn open(&self, slot: &mut Slot, length: usize) -> Result<(), DetectError> {
        let shared = self.worker.shared();
        let generation = match &shared.lock().link {
            Link::Up { generation, .. } => *generation,
            Link::Starting => return Err(DetectError::Down("it is starting".to_owned())),
            Link::Down { why } => return Err(DetectError::Down(why.clone())),
        };
        if slot.memory.as_ref().is_none_or(|memory| memory.capacity() < length) {
            let memory = Writable::new(length).map_err(|error| DetectError::Failed(error.to_string()))?;
            slot.memory = Some(memory);
            slot.opened_in = None;
        }
        if slot.opened_in != Some(generation) {
            let setup = Setup {
                gate: self.seat.priority == Priority::Gate,
                capacity: slot.memory.as_ref().map_or(0, Writable::capacity),
                looks: self.seat.looks.clone(),
            };
            shared.send(&Ask::Open { detector: self.seat.id, setup }, slot.memory.as_ref())?;
            slot.opened_in = Some(generation);
        }
        Ok(())
    }

    fn late(&self) -> DetectError {
        self.worker.shared().lock().late += 1;
        DetectError::Late
    }
}

impl Detector for RemoteDetector {
    fn detect(&mut self, picture: &Frame, deadline: Instant) -> Result<Vec<Detection>, DetectError> {
        if self.seat.looks.is_empty() {
            return Err(DetectError::Down("it has no model".to_owned()));
        }
        let left = || deadline.saturating_duration_since(Instant::now());
        let seat = &self.seat;
        // The memory may still hold the picture of a request that was answered too late, or not yet.
        let busy = |slot: &mut Slot| slot.pending.is_some();
        let free = seat.answered.wait_timeout_while(seat.lock(), left(), busy);
        let (mut slot, _) = free.unwrap_or_else(PoisonError::into_inner);
        if slot.pending.is_some() || left().is_zero() {
            return Err(self.late());
        }
        self.open(&mut slot, picture.bytes().len())?;
        if let Some(memory) = &mut slot.memory {
            memory.write(picture.bytes());
        }
        slot.sequence += 1;
        let size = picture.size();
        let request = Request {
            detector: seat.id,
            sequence: slot.sequence,
            width: size.width as u32,
            height: size.height as u32,
            deadline_ns: control::monotonic_ns().saturating_add(left().as_nanos() as u64),
        };
        self.worker.shared().send(&Ask::Detect(request), None)?;
        slot.pending = Some(deadline);
        slot.waiting = true;
        slot.answer = None;
        let unanswered = |slot: &mut Slot| slot.pending.is_some();
        let waited = seat.answered.wait_timeout_while(slot, left(), unanswered);
        let (mut slot, _) = waited.unwrap_or_else(PoisonError::into_inner);
        slot.waiting = false;
        let answer = slot.answer.take();
        drop(slot);
        match answer {
            None | Some(Err(DetectError::Late)) => Err(self.late()),
            // In time for the child is not in time for the picture.
            Some(_) if left().is_zero() => Err(self.late()),
            Some(answer) => answer,
        }
    }
}

impl Drop for RemoteDetector {
    fn drop(&mut self) {
        self.worker.shared().lock().seats.remove(&self.seat.id);
        // A child that is down has forgotten it already.
        let _ = self.worker.shared().send(&Ask::Close { detector: self.seat.id }, None);
    }
}
