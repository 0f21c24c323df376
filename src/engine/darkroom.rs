//! Driver. One thread for the work on single pictures of all calls: clearing given ones, coding them as files, keeping
//! them on disk.
//!
//! Nobody's sound or video waits for it, and no task computes. What is asked of it waits in a bounded queue; who asked one
//! too many gets no answer, and says so.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use crate::base::queue::{Fifo, Sender, queue};
use crate::base::stop::{Outcome, Scope};

/// Pieces of work that wait; a gate takes up to a tenth of a second for each.
const WAITING: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

/// The way to the thread; it ends with the last of these.
#[derive(Clone)]
pub struct Darkroom {
    work: Sender<Work, Fifo>,
}

impl Darkroom {
    pub fn start(scope: &mut Scope) -> Darkroom {
        let (work, waiting) = queue(Fifo { depth: WAITING });
        scope.thread("darkroom", move || {
            while let Some(work) = waiting.take() {
                let work: Work = work;
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    tracing::error!("work on a picture panicked: a bug");
                }
            }
            Outcome::Done
        });
        Darkroom { work }
    }

    /// Has it done. The answer fails when too much waits, or the work panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (answer, told) = oneshot::channel();
        self.work.offer(Box::new(move || {
            // Whoever asked may have gone.
            let _ = answer.send(work());
        }));
        told
    }

    /// Pieces of work that were given up for newer ones.
    pub fn lost(&self) -> u64 {
        self.work.counters().lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[tokio::test]
    async fn work_is_done_in_order_bounded_and_a_panic_costs_only_itself() {
        let mut scope = Scope::new("test", tokio::runtime::Handle::current());
        let room = Darkroom::start(&mut scope);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        assert!(room.run(|| -> u32 { panic!("bad") }).await.is_err());
        std::panic::set_hook(hook);
        assert_eq!(room.run(|| 7).await, Ok(7));
        let (go, wait) = mpsc::channel::<()>();
        let (begun, started) = oneshot::channel();
        let blocked = room.run(move || {
            let _ = begun.send(());
            wait.recv_timeout(Duration::from_secs(5)).is_ok()
        });
        started.await.expect("it runs");
        let mut answers: Vec<_> = (0..=WAITING).map(|n| room.run(move || n)).collect();
        assert_eq!(room.lost(), 1);
        go.send(()).expect("it waits");
        assert_eq!(blocked.await, Ok(true));
        assert!(answers.remove(0).await.is_err(), "the oldest was given up");
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await, Ok(n + 1));
        }
        drop(room);
        scope.close(Duration::from_secs(2)).await;
    }
}
