//! Floor 5: one call's life.

pub mod negotiate;
