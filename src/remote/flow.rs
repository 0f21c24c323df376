//! A run of items made by asynchronous work that its owner polls: no task of its own, dropped with its owner.
//!
//! The work waits while [`DEPTH`] items are not taken, so that what a provider sends stays in its socket.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

/// Items made and not taken.
const DEPTH: usize = 64;

/// Where the work puts what it made.
pub struct Outlet<T>(mpsc::Sender<T>);

impl<T> Outlet<T> {
    /// Waits for room.
    pub async fn give(&self, item: T) {
        // The receiver lives in the same `Flow` as the work that calls this.
        let _ = self.0.send(item).await;
    }
}

/// The work and what it has made.
pub struct Flow<T> {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    made: mpsc::Receiver<T>,
}

impl<T> Flow<T> {
    pub fn new<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Outlet<T>) -> F) -> Self {
        let (give, made) = mpsc::channel(DEPTH);
        Flow { work: Some(Box::pin(work(Outlet(give)))), made }
    }

    /// The next item; `None`: the work is done and everything was taken.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            if let Poll::Ready(item) = self.made.poll_recv(context) {
                return Poll::Ready(item);
            }
            match &mut self.work {
                None => return Poll::Pending,
                Some(work) => {
                    if work.as_mut().poll(context).is_pending() {
                        // Pending also where there is something, if this task has done enough at a time: the runtime wakes
                        // it at once, and asking again in the same poll would never end.
                        return self.made.poll_recv(context);
                    }
                    self.work = None;
                }
            }
        }
    }

    /// As [`Flow::poll_next`]; cancel-safe.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Lets the work go on without taking what it makes; ends when the work has. Cancel-safe.
    pub async fn work(&mut self) {
        poll_fn(|context| match &mut self.work {
            None => Poll::Ready(()),
            Some(work) => {
                let done = work.as_mut().poll(context);
                if done.is_ready() {
                    self.work = None;
                }
                done
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn items_come_in_order_and_the_end_is_told_once_the_work_is_done() {
        let mut flow = Flow::new(|out: Outlet<usize>| async move {
            for item in 0..3 * DEPTH {
                out.give(item).await;
            }
        });
        for wanted in 0..3 * DEPTH {
            assert_eq!(flow.next().await, Some(wanted));
        }
        assert_eq!(flow.next().await, None);
    }

    #[tokio::test]
    async fn a_thousand_items_at_once_are_taken_although_the_runtime_wants_its_turn() {
        let mut flow = Flow::new(|out: Outlet<usize>| async move {
            for item in 0..1_000 {
                out.give(item).await;
            }
            std::future::pending::<()>().await;
        });
        for wanted in 0..1_000 {
            assert_eq!(flow.next().await, Some(wanted));
        }
    }

    #[tokio::test]
    async fn work_goes_on_untaken_up_to_the_depth() {
        let (tell, mut told) = mpsc::channel(10 * DEPTH);
        let mut flow = Flow::new(|out: Outlet<usize>| async move {
            for item in 0..2 * DEPTH {
                out.give(item).await;
                let _ = tell.try_send(());
            }
        });
        tokio::select! {
            biased;
            () = flow.work() => panic!("it cannot end while nobody takes"),
            () = tokio::task::yield_now() => {}
        }
        let mut given = 0;
        while told.try_recv().is_ok() {
            given += 1;
        }
        assert_eq!(given, DEPTH);
        let mut taken = 0;
        while flow.next().await.is_some() {
            taken += 1;
        }
        assert_eq!(taken, 2 * DEPTH);
    }
}
