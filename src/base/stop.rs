//! Driver. The stop tree, and the only place that spawns tasks and threads.
//!
//! A [`Scope`] owns its members. Producers are told to stop by the scope's token; consumers are told by their
//! queues closing, so they drain what they have. [`Scope::close`] waits for all of them up to a deadline and
//! says how each one ended; a panic is an outcome, not the end of the process.

#![expect(
    clippy::disallowed_methods,
    reason = "this module is where tasks and threads are spawned and waited for"
)]

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

/// How one member of a scope ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It could not go on; the text says what happened, where, and what to do.
    Failed(String),
    /// A bug: the panic's message.
    Panicked(String),
    /// Still running when the deadline passed; it was left behind.
    Abandoned,
}

/// The name of a member, as it appears in thread lists and reports.
pub type Name = String;

/// Tells producers to stop. Cheap to clone; once stopped it stays stopped.
#[derive(Clone, Default)]
pub struct StopToken {
    inner: Arc<TokenInner>,
}

#[derive(Default)]
struct TokenInner {
    stopped: AtomicBool,
    notify: Notify,
    /// For threads; the flag itself is the atomic.
    gate: Mutex<()>,
    waiting: Condvar,
}

impl StopToken {
    pub fn stop(&self) {
        {
            // Under the lock, so that a thread between its look at the flag and its wait does not miss it.
            let _gate = self.inner.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.inner.stopped.store(true, Ordering::SeqCst);
        }
        self.inner.waiting.notify_all();
        self.inner.notify.notify_waiters();
    }

    /// For threads: waits at most `patience`. `true`: stopped.
    pub fn wait(&self, patience: Duration) -> bool {
        let gate = self.inner.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.inner.waiting.wait_timeout_while(gate, patience, |()| !self.is_stopped());
        drop(waited);
        self.is_stopped()
    }

    pub fn is_stopped(&self) -> bool {
        self.inner.stopped.load(Ordering::SeqCst)
    }

    /// Completes when [`StopToken::stop`] was called, before or after.
    pub async fn stopped(&self) {
        loop {
            let mut notified = std::pin::pin!(self.inner.notify.notified());
            // Registered before the flag is read, so a stop between the two is not missed.
            notified.as_mut().enable();
            if self.is_stopped() {
                return;
            }
            notified.await;
        }
    }
}

struct Member {
    name: Name,
    done: oneshot::Receiver<Outcome>,
}

/// A set of tasks and threads that live and end together.
pub struct Scope {
    name: Name,
    runtime: Handle,
    token: StopToken,
    members: Vec<Member>,
    /// Members that have ended are swept when there are this many.
    sweep_at: usize,
}

const SWEEP_FROM: usize = 64;

impl Scope {
    /// A scope whose tasks run on `runtime`.
    pub fn new(name: impl Into<Name>, runtime: Handle) -> Self {
        Scope {
            name: name.into(),
            runtime,
            token: StopToken::default(),
            members: Vec::new(),
            sweep_at: SWEEP_FROM,
        }
    }

    pub fn token(&self) -> StopToken {
        self.token.clone()
    }

    /// Runs `work` as a task on the scope's runtime.
    pub fn task(&mut self, name: impl Into<Name>, work: impl Future<Output = Outcome> + Send + 'static) {
        let (tell, done) = oneshot::channel();
        self.runtime.spawn(async move {
            let outcome = CatchUnwind(Box::pin(work)).await;
            // Nobody listening means the scope was abandoned; the outcome has no other reader.
            let _ = tell.send(outcome);
        });
        self.keep(Member { name: name.into(), done });
    }

    /// Runs `work` as a task that is simply dropped when the scope closes.
    pub fn task_until_stopped(
        &mut self,
        name: impl Into<Name>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        let token = self.token();
        self.task(name, async move {
            tokio::select! {
                outcome = work => outcome,
                () = token.stopped() => Outcome::Done,
            }
        });
    }

    /// A long-lived scope must not remember every connection it ever carried.
    fn keep(&mut self, member: Member) {
        if self.members.len() >= self.sweep_at {
            self.members.retain_mut(|member| match member.done.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => true,
                Ok(Outcome::Done) | Err(oneshot::error::TryRecvError::Closed) => false,
                Ok(outcome) => {
                    tracing::warn!(?outcome, "{} in {} ended early", member.name, self.name);
                    false
                }
            });
            self.sweep_at = (2 * self.members.len()).max(SWEEP_FROM);
        }
        self.members.push(member);
    }

    /// Runs `work` on a thread of its own, named `scope/name` (Linux shows the first 15 bytes).
    pub fn thread(&mut self, name: impl Into<Name>, work: impl FnOnce() -> Outcome + Send + 'static) {
        let name = name.into();
        let (tell, done) = oneshot::channel();
        let body = move || {
            let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| panicked(&*panic));
            let _ = tell.send(outcome);
        };
        let full = format!("{}/{}", name, self.name);
        if let Err(error) = std::thread::Builder::new().name(full).spawn(body) {
            // The closure and its sender are gone, so the member already reads as ended; say why here.
            tracing::error!(%error, "no thread for {name}: raise the process limit (LimitNPROC, TasksMax)");
        }
        self.keep(Member { name, done });
    }

    /// Tells the producers, waits for every member up to `deadline` together, and says how each ended.
    pub async fn close(self, deadline: Duration) -> Vec<(Name, Outcome)> {
        self.token.stop();
        let until = tokio::time::Instant::now() + deadline;
        let mut outcomes = Vec::with_capacity(self.members.len());
        for member in self.members {
            let outcome = match tokio::time::timeout_at(until, member.done).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Outcome::Failed("it could not be started".to_owned()),
                Err(_) => Outcome::Abandoned,
            };
            outcomes.push((member.name, outcome));
        }
        outcomes
    }
}

/// A long-lived thread outside any call, for example the media runtime.
pub fn process_thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// A thread whose result is waited for, for example a proof at the start.
pub fn joined_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Outcome {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Outcome::Panicked(text.unwrap_or_else(|| "a panic without a message".to_owned()))
}

struct CatchUnwind<F>(Pin<Box<F>>);

impl<F: Future<Output = Outcome>> Future for CatchUnwind<F> {
    type Output = Outcome;
    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Outcome> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(context))) {
            Ok(poll) => poll,
            Err(panic) => std::task::Poll::Ready(panicked(&*panic)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closing_stops_producers_and_reports_every_member() {
        let mut scope = Scope::new("call", Handle::current());
        let token = scope.token();
        scope.task("network", async move {
            token.stopped().await;
            Outcome::Done
        });
        scope.thread("video-in", || panic!("the decoder broke"));
        scope.task("slow", std::future::pending());
        let outcomes = scope.close(Duration::from_millis(500)).await;
        assert_eq!(outcomes[0], ("network".to_owned(), Outcome::Done));
        assert_eq!(outcomes[1], ("video-in".to_owned(), Outcome::Panicked("the decoder broke".to_owned())));
        assert_eq!(outcomes[2], ("slow".to_owned(), Outcome::Abandoned));
    }

    #[tokio::test]
    async fn a_panicking_task_is_an_outcome() {
        let mut scope = Scope::new("call", Handle::current());
        scope.task("bad", async { panic!("bad task") });
        let outcomes = scope.close(Duration::from_secs(1)).await;
        assert_eq!(outcomes[0].1, Outcome::Panicked("bad task".to_owned()));
    }
}
