//! Driver. The thread that owns the child that listens: starts it, hands its judgements on, replaces it when it dies or
//! hangs.
//!
//! The child asks the kernel to die with the thread that started it, so this thread lives as long as [`super::Ears`].

#![expect(clippy::disallowed_methods, reason = "heartbeats and back-off are measured on the clock")]

use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::worker::control::{self, Blocking, Received};
use crate::worker::ears::wire::{Ask, MAX_MESSAGE, Reply};
use crate::worker::ears::{EarsError, Judgement, Link, Shared};
use crate::worker::launch::{self, BACK_OFF_FIRST, BACK_OFF_LAST, GOOD_WHILE};

/// Heartbeats while somebody is listened to, and while nobody is.
const PING_BUSY: Duration = Duration::from_millis(250);
const PING_IDLE: Duration = Duration::from_secs(2);
/// A question without an answer for so long was lost.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Keeps a child running until [`super::Ears`] is dropped.
pub fn run(shared: &Arc<Shared>) {
    let mut back_off = BACK_OFF_FIRST;
    loop {
        let started = Instant::now();
        let why = match launch::launch(
            &shared.settings.executable,
            &["worker", "ears"],
            &shared.settings.environment,
        ) {
            Ok((child, socket)) => {
                let mut running = Running::new(child, socket);
                let end = running.watch(shared);
                let status = {
                    bring_down(shared, &end);
                    launch::end(running.child, &running.socket)
                };
                match end {
                    End::Stopped => return,
                    End::Broken(why) => format!("{why} ({status})"),
                    End::Unloaded(why) => why,
                }
            }
            Err(error) => {
                let why = format!("{}: {error}", shared.settings.executable.display());
                bring_down(shared, &End::Broken(why.clone()));
                why
            }
        };
        back_off = if started.elapsed() > GOOD_WHILE { BACK_OFF_FIRST } else { back_off };
        tracing::warn!("listening process: {why}; starting it again in {} ms", back_off.as_millis());
        if pause(shared, back_off) {
            return;
        }
        back_off = (back_off * 2).min(BACK_OFF_LAST);
        shared.lock().restarts += 1;
    }
}

/// Why a child is not watched any more.
enum End {
    /// Nobody holds the ears any more.
    Stopped,
    Broken(String),
    /// It lives and cannot load its networks.
    Unloaded(String),
}

/// Tells every listener.
fn bring_down(shared: &Shared, end: &End) {
    let mut state = shared.lock();
    shared.generation.store(0, Ordering::Release);
    let (text, why) = match end {
        End::Stopped => ("it was stopped".to_owned(), EarsError::Start("it was stopped".to_owned())),
        End::Broken(why) => (why.clone(), EarsError::Start(why.clone())),
        End::Unloaded(why) => (why.clone(), EarsError::Load(why.clone())),
    };
    let was_up = matches!(state.link, Link::Up { .. });
    state.link = Link::Down { why };
    state.last_error = Some(text);
    for seat in state.seats.values_mut() {
        seat.asked = None;
        if was_up {
            seat.judgements.offer(Judgement::Gone);
        }
    }
    drop(state);
    shared.changed.notify_all();
}

/// Waits `limit`. `true`: the ears were dropped meanwhile.
fn pause(shared: &Shared, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        if shared.lock().stopping {
            return true;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || control::wait(&[&shared.wake], Some(left)).is_err() {
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
    ready: bool,
    /// When the oldest unanswered heartbeat was sent.
    unanswered: Option<Instant>,
    pings: u64,
}

impl Running {
    fn new(child: Child, socket: OwnedFd) -> Self {
        Running {
            child,
            socket: Arc::new(socket),
            incoming: vec![0; MAX_MESSAGE],
            outgoing: Vec::new(),
            ready: false,
            unanswered: None,
            pings: 0,
        }
    }

    fn send(&mut self, ask: &Ask<'_>) -> Result<(), Errno> {
        ask.write(&mut self.outgoing);
        control::send(self.socket.as_fd(), &self.outgoing, None, Blocking::No)
    }

    /// Hands judgements on until the child has to be replaced.
    fn watch(&mut self, shared: &Shared) -> End {
        // What cannot be sent to a child that died at once shows when its socket is read.
        let _ = self.send(&Ask::Hello(shared.hello()));
        let mut next_ping = Instant::now();
        loop {
            let now = Instant::now();
            let (stopping, busy, lost) = {
                let state = shared.lock();
                let overdue = |asked: &Instant| now.saturating_duration_since(*asked) > ANSWER_MAX;
                let lost = state.seats.values().any(|seat| seat.asked.as_ref().is_some_and(overdue));
                (state.stopping, !state.seats.is_empty(), lost)
            };
            if stopping {
                return End::Stopped;
            }
            if lost {
                return End::Broken("it lost a question".to_owned());
            }
            let patience = if self.ready { shared.settings.stall } else { shared.settings.load };
            if self.unanswered.is_some_and(|since| now - since >= patience) {
                return End::Broken(format!("no heartbeat for {} ms", patience.as_millis()));
            }
            if busy {
                next_ping = next_ping.min(now + PING_BUSY);
            }
            if now >= next_ping {
                self.pings += 1;
                match self.send(&Ask::Ping { number: self.pings }) {
                    // A full queue is an unanswered heartbeat too.
                    Ok(()) | Err(Errno::AGAIN) => {
                        self.unanswered.get_or_insert(now);
                    }
                    Err(_) => return End::Broken("it ended".to_owned()),
                }
                next_ping = now + if busy { PING_BUSY } else { PING_IDLE };
            }
            let limit = next_ping.saturating_duration_since(Instant::now());
            if control::wait(&[&*self.socket, &shared.wake], Some(limit)).is_err() {
                return End::Broken("its socket cannot be watched".to_owned());
            }
            clear_wake(shared);
            if let Some(end) = self.take_replies(shared) {
                return end;
            }
        }
    }

    fn take_replies(&mut self, shared: &Shared) -> Option<End> {
        loop {
            match control::receive(self.socket.as_fd(), &mut self.incoming) {
                Ok(Received::Nothing) => return None,
                Ok(Received::Closed) => return Some(End::Broken("it ended".to_owned())),
                Err(error) => return Some(End::Broken(format!("its socket: {error}"))),
                Ok(Received::Message(length, _)) => {
                    // Whatever it says, it is not stuck.
                    if let Some(since) = &mut self.unanswered {
                        *since = Instant::now();
                    }
                    let Some(reply) = self.incoming.get(..length).and_then(Reply::read) else {
                        return Some(End::Broken("it talks nonsense".to_owned()));
                    };
                    if let Some(end) = self.handle(shared, reply) {
                        return Some(end);
                    }
                }
            }
        }
    }

    fn handle(&mut self, shared: &Shared, reply: Reply) -> Option<End> {
        match reply {
            Reply::Ready { turn } => {
                self.ready = true;
                let mut state = shared.lock();
                state.turn_problem = turn;
                state.children += 1;
                state.link = Link::Up { socket: self.socket.clone(), pid: self.child.id() };
                shared.generation.store(state.children, Ordering::Release);
                drop(state);
                shared.changed.notify_all();
            }
            Reply::Failed { problem } => return Some(End::Unloaded(problem)),
            Reply::Speech { listener, probability, until, took_us } => {
                let mut state = shared.lock();
                state.windows += 1;
                state.windows_us += u64::from(took_us);
                if let Some(seat) = state.seats.get(&listener) {
                    seat.judgements.offer(Judgement::Speech { probability, until });
                }
            }
            Reply::Finished { listener, probability, until, took_us } => {
                let mut state = shared.lock();
                if probability >= 0.0 {
                    state.answered += 1;
                    state.answers_us += u64::from(took_us);
                }
                if let Some(seat) = state.seats.get_mut(&listener) {
                    seat.asked = None;
                    seat.judgements.offer(match probability {
                        0.0.. => Judgement::Finished { probability, until },
                        _ => Judgement::Unanswered,
                    });
                }
            }
            Reply::Pong { number } => {
                if number == self.pings {
                    self.unanswered = None;
                }
            }
        }
        None
    }
}
