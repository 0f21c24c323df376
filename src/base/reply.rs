//! Driver. An answer that somebody waits for, carried through floors that only pass it on.
//!
//! Whoever can answer does; where the last copy is dropped without an answer, who waits is told so at once. Nothing here
//! waits.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The answering end. Copies are of the same question; the first answer counts.
pub struct Reply<T>(Arc<Mutex<Option<oneshot::Sender<T>>>>);

impl<T> Reply<T> {
    /// The answering end, and the one to wait on, which fails when there will be no answer.
    pub fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Answers. `false`: it was answered before, or nobody waits any more.
    pub fn send(&self, answer: T) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        sender.is_some_and(|sender| sender.send(answer).is_ok())
    }

    /// Whether an answer would still be heard.
    pub fn is_awaited(&self) -> bool {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }
}

impl<T> Clone for Reply<T> {
    fn clone(&self) -> Self {
        Reply(self.0.clone())
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Copies are equal.
impl<T> PartialEq for Reply<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Eq for Reply<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_counts_and_a_dropped_question_is_told() {
        let (reply, mut answer) = Reply::new();
        let copy = reply.clone();
        assert!(reply == copy && reply.is_awaited());
        assert!(copy.send(1) && !reply.send(2) && !reply.is_awaited());
        assert_eq!(answer.try_recv(), Ok(1));
        let (reply, mut answer) = Reply::<u8>::new();
        drop((reply.clone(), reply));
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        let (reply, answer) = Reply::new();
        drop(answer);
        assert!(!reply.is_awaited() && !reply.send(1));
    }
}
