//! Floor 4: the data plane of one call. It runs what the call plans and reports what happened.
//!
//! No SIP and no SDP here: [`plan`] is the whole language between a call and its engine.

pub mod plan;
