//! Floor 0: words without a domain. Time, queues, answers, and the tree that stops everything.
//!
//! Nothing here knows SIP, media or models.

pub mod datagram;
pub mod queue;
pub mod reply;
pub mod stop;
pub mod time;
