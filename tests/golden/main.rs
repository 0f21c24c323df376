//! Recorded and hand-made inputs with the outcome expected of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod sip_torture;
mod torture_files;
