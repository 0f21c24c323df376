//! Driver. The task of one call whose agent does not talk, and is looked at all the same: its pictures are described when
//! somebody asks, or all the time.

use super::TalkOrder;
use super::seeing::{Saw, Seeing};
use crate::base::queue::{Fifo, Receiver};
use crate::base::stop::Outcome;

/// See the module.
pub struct Watching {
    orders: Receiver<TalkOrder, Fifo>,
    seeing: Seeing,
}

impl Watching {
    pub fn new(orders: Receiver<TalkOrder, Fifo>, seeing: Seeing) -> Self {
        Watching { orders, seeing }
    }

    /// Runs until the call is over.
    pub async fn run(mut self) -> Outcome {
        loop {
            let Watching { orders, seeing } = &mut self;
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(TalkOrder::Begin) => seeing.begin(),
                    Some(TalkOrder::Describe { question, reply }) => seeing.describe(question, reply),
                    // For agents that talk; whoever asks is refused before.
                    Some(
                        TalkOrder::Attach(_)
                        | TalkOrder::Say(_)
                        | TalkOrder::Text(_)
                        | TalkOrder::CommitTurn
                        | TalkOrder::ClearTurn
                        | TalkOrder::Digit(_)
                        | TalkOrder::Done { .. },
                    ) => {}
                    None => {
                        seeing.close();
                        return Outcome::Done;
                    }
                },
                // It is told already, and there is nobody else to tell.
                saw = seeing.next() => match saw {
                    Saw::Picture { .. } | Saw::Scene(_) | Saw::Looked(_) | Saw::Question { .. } => {}
                },
            }
        }
    }
}
