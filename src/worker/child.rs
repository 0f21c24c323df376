//! Driver. The child's side: one thread that takes requests, looks at pictures and answers.
//!
//! Started as `eyeline worker` with the control socket as standard input. It is the program's own child and ends
//! with it: a closed socket and the death signal both see to that. It answers heartbeats only between pictures, so a
//! native call that never returns shows.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use crate::inference::family::{Found, Limits};
use crate::inference::manifest::ModelSpec;
use crate::inference::session::{Network, Runtime, SessionError};
use crate::inference::tensor::Picture;
use crate::media::frame::Size;
use crate::worker::control::{self, Blocking, Received, monotonic_ns};
use crate::worker::picture::Readable;
use crate::worker::wire::{Answer, Ask, Hello, MAX_BOXES, MAX_MESSAGE, Refusal, Reply, Request, Setup, Took};

/// Runs until the program closes its end of `control`. The result is the exit code.
pub fn run(control: impl AsFd) -> i32 {
    let control = control.as_fd();
    if rustix::net::sockopt::socket_type(control).is_err() {
        eprintln!("eyeline worker is started by eyeline itself");
        return 2;
    }
    isolate(c"eyeline-worker");
    let mut child = Child::new(control);
    loop {
        let limit = child.has_requests().then_some(Duration::ZERO);
        if control::wait(&[&control], limit).is_err() {
            return 1;
        }
        match child.take_messages().and_then(|open| child.serve_one().map(|()| open)) {
            Ok(true) => {}
            // The program is gone, or wants us gone.
            Ok(false) | Err(Errno::PIPE | Errno::CONNRESET) => return 0,
            Err(error) => {
                eprintln!("eyeline worker: control socket: {error}");
                return 1;
            }
        }
    }
}

/// Dies with its parent and leaves no picture behind in a core file.
pub(super) fn isolate(name: &std::ffi::CStr) {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // The program may get these to finish its calls first, and its gates need us until then.
        // SAFETY: ignoring a signal installs no handler and touches no memory.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let name = rustix::thread::set_name(name);
    let death = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let core = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let dumpable = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Some(error) = [name, death, core, dumpable].into_iter().find_map(Result::err) {
        eprintln!("eyeline worker: not fully isolated: {error}");
    }
}

/// One detector of the program.
struct Seat {
    setup: Setup,
    picture: Readable,
    request: Option<Request>,
    /// Count of requests served when its own was served last.
    served_at: u64,
}

struct Child<'a> {
    control: BorrowedFd<'a>,
    library: Option<PathBuf>,
    runtime: Option<Runtime>,
    networks: BTreeMap<u32, Network>,
    seats: BTreeMap<u32, Seat>,
    served: u64,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    found: Vec<Found>,
    #[cfg(feature = "faults")]
    faults: Faults,
}

impl<'a> Child<'a> {
    fn new(control: BorrowedFd<'a>) -> Self {
        Child {
            control,
            library: None,
            runtime: None,
            networks: BTreeMap::new(),
            seats: BTreeMap::new(),
            served: 0,
            incoming: vec![0; MAX_MESSAGE],
            outgoing: Vec::new(),
            found: Vec::new(),
            #[cfg(feature = "faults")]
            faults: Faults::from_environment(),
        }
    }

    fn has_requests(&self) -> bool {
        self.seats.values().any(|seat| seat.request.is_some())
    }

    /// Takes everything that waits at the socket. `false`: the program has closed it.
    fn take_messages(&mut self) -> Result<bool, Errno> {
        loop {
            match control::receive(self.control, &mut self.incoming)? {
                Received::Nothing => return Ok(true),
                Received::Closed => return Ok(false),
                Received::Message(length, carried) => {
                    if let Some(ask) = self.incoming.get(..length).and_then(Ask::read) {
                        self.handle(ask, carried)?;
                    }
                }
            }
        }
    }

    fn handle(&mut self, ask: Ask, carried: Option<OwnedFd>) -> Result<(), Errno> {
        match ask {
            Ask::Hello(Hello { onnxruntime, nice }) => {
                self.library = onnxruntime;
                // Without the right to change it the priority stays; the work gets done all the same.
                let _ = rustix::process::nice(nice);
                Ok(())
            }
            Ask::Load { model, spec } => {
                let reply = match self.load(&spec) {
                    Ok(network) => {
                        self.networks.insert(model, network);
                        Reply::Loaded { model }
                    }
                    Err(error) => Reply::LoadFailed { model, problem: error.to_string() },
                };
                self.send(&reply)
            }
            Ask::Open { detector, setup } => {
                let picture =
                    carried.ok_or(Errno::BADF).and_then(|file| Readable::new(&file, setup.capacity));
                match picture {
                    Ok(picture) => {
                        let served_at = self.seats.get(&detector).map_or(0, |seat| seat.served_at);
                        self.seats.insert(detector, Seat { setup, picture, request: None, served_at });
                    }
                    // Its requests are refused by name; that is where the program looks.
                    Err(error) => {
                        eprintln!("eyeline worker: picture memory of detector {detector}: {error}");
                        self.seats.remove(&detector);
                    }
                }
                Ok(())
            }
            Ask::Close { detector } => {
                self.seats.remove(&detector);
                Ok(())
            }
            Ask::Detect(request) => match self.seats.get_mut(&request.detector) {
                Some(seat) => {
                    seat.request = Some(request);
                    Ok(())
                }
                None => self.refuse(&request, Refusal::Failed("its picture memory is not open".to_owned())),
            },
            Ask::Ping { number } => self.send(&Reply::Pong { number }),
            #[cfg(feature = "faults")]
            Ask::Fault(fault) => {
                self.faults.add(fault);
                Ok(())
            }
        }
    }

    fn load(&mut self, spec: &ModelSpec) -> Result<Network, SessionError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => Runtime::start(self.library.as_deref())?,
        };
        Network::load(self.runtime.insert(runtime), spec)
    }

    /// Gives back what nobody waits for any more, whoever's turn it is: its memory is free again at once.
    fn expire(&mut self) -> Result<(), Errno> {
        if !self.has_requests() {
            return Ok(());
        }
        let now = monotonic_ns();
        loop {
            let late = |seat: &mut Seat| seat.request.take_if(|request| request.deadline_ns <= now);
            let Some(request) = self.seats.values_mut().find_map(late) else { return Ok(()) };
            self.refuse(&request, Refusal::Expired)?;
        }
    }

    /// Serves the request whose turn it is, if there is one.
    fn serve_one(&mut self) -> Result<(), Errno> {
        self.expire()?;
        let waiting = self.seats.iter().filter(|(_, seat)| seat.request.is_some());
        let Some(next) = next(waiting.map(|(id, seat)| (*id, seat.setup.gate, seat.served_at))) else {
            return Ok(());
        };
        self.served += 1;
        let Some(seat) = self.seats.get_mut(&next) else { return Ok(()) };
        seat.served_at = self.served;
        let Some(request) = seat.request.take() else { return Ok(()) };
        #[cfg(feature = "faults")]
        match self.faults.strike(self.served) {
            Strike::None => {}
            Strike::Silent => return Ok(()),
            Strike::Error => return self.refuse(&request, Refusal::Failed("injected".to_owned())),
        }
        match self.look(&request) {
            Ok(mut answer) => {
                answer.waiting = self.seats.values().filter(|seat| seat.request.is_some()).count() as u32;
                self.send(&Reply::Answer(answer))
            }
            Err(refusal) => self.refuse(&request, refusal),
        }
    }

    fn look(&mut self, request: &Request) -> Result<Answer, Refusal> {
        let failed = |text: &str| Refusal::Failed(text.to_owned());
        let seat = self.seats.get(&request.detector).ok_or_else(|| failed("the detector is closed"))?;
        let size = Size::new(request.width as usize, request.height as usize);
        let bytes =
            seat.picture.bytes().get(..size.i420_len()).ok_or_else(|| failed("the picture is too large"))?;
        let picture = Picture::I420 { size, bytes };
        let mut answer =
            Answer { detector: request.detector, sequence: request.sequence, ..Answer::default() };
        for look in &seat.setup.looks {
            // Nobody waits for it any more: leave the time to the others.
            if monotonic_ns() >= request.deadline_ns {
                return Err(Refusal::Expired);
            }
            let network =
                self.networks.get_mut(&look.model).ok_or_else(|| failed("its model is not loaded"))?;
            let limits = Limits { confidence: look.confidence, iou: look.iou, classes: &look.classes };
            let timing = network.detect(&picture, &limits, &mut self.found);
            let timing = timing.map_err(|error| Refusal::Failed(error.to_string()))?;
            let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            let (total_us, run_us) = (micros(timing.total()), micros(timing.run));
            answer.times.push(Took { model: look.model, total_us, run_us });
            answer.boxes.extend(self.found.iter().map(|found| (look.model, *found)));
        }
        if answer.boxes.len() > MAX_BOXES {
            answer.boxes.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
        }
        Ok(answer)
    }

    fn refuse(&mut self, request: &Request, refusal: Refusal) -> Result<(), Errno> {
        self.send(&Reply::Refused { detector: request.detector, sequence: request.sequence, refusal })
    }

    fn send(&mut self, reply: &Reply) -> Result<(), Errno> {
        reply.write(&mut self.outgoing);
        control::send(self.control, &self.outgoing, None, Blocking::Yes)
    }
}

/// Whose turn it is among `(detector, gate, served_at)`: gates first, then who has waited longest since its last turn.
fn next(waiting: impl Iterator<Item = (u32, bool, u64)>) -> Option<u32> {
    waiting.min_by_key(|(id, gate, served_at)| (!gate, *served_at, *id)).map(|(id, _, _)| id)
}

#[cfg(feature = "faults")]
#[derive(PartialEq)]
enum Strike {
    None,
    Silent,
    Error,
}

#[cfg(feature = "faults")]
struct Faults {
    plan: super::fault::Plan,
    stall_ms: u64,
    silent: u32,
    failing: u32,
}

#[cfg(feature = "faults")]
impl Faults {
    fn from_environment() -> Self {
        let text = std::env::var("EYELINE_FAULTS").unwrap_or_default();
        Faults { plan: super::fault::Plan::parse(&text), stall_ms: 0, silent: 0, failing: 0 }
    }

    fn add(&mut self, fault: super::Fault) {
        match fault {
            super::Fault::Kill => std::process::abort(),
            super::Fault::Stall { ms } => self.stall_ms += ms,
            super::Fault::DropAnswers(count) => self.silent += count,
            super::Fault::FailAnswers(count) => self.failing += count,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a stalled native call is imitated by sleeping")]
    fn strike(&mut self, request: u64) -> Strike {
        let due: Vec<super::Fault> = self.plan.of(request).collect();
        for fault in due {
            self.add(fault);
        }
        std::thread::sleep(Duration::from_millis(std::mem::take(&mut self.stall_ms)));
        if self.silent > 0 {
            self.silent -= 1;
            return Strike::Silent;
        }
        if self.failing > 0 {
            self.failing -= 1;
            return Strike::Error;
        }
        Strike::None
    }
}

#[cfg(test)]
mod tests {
    use super::next;

    #[test]
    fn gates_come_before_observers_and_equals_take_turns() {
        assert_eq!(next([(1, false, 0), (2, true, 9)].into_iter()), Some(2));
        assert_eq!(next([(1, true, 5), (2, true, 4), (3, true, 6)].into_iter()), Some(2));
        assert_eq!(next([(2, true, 0), (1, true, 0)].into_iter()), Some(1));
        assert_eq!(next([].into_iter()), None);
    }
}
