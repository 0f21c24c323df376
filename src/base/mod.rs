//! Floor 0: words without a domain. Time, queues, and the tree that stops everything.
//!
//! Nothing here knows SIP, media or models.

pub mod datagram;
pub mod queue;
pub mod stop;
pub mod time;
