//! The whole control plane in virtual time: one user agent, or two, against scripted phones on a seeded network.
//!
//! ```text
//! Phone ──text──▶ Network (delay, loss, order, doubles) ──▶ UserAgent ──Command──▶ Engine (binds, refuses, is silent)
//! ```
//! The clock jumps from one wake-up to the next, so minutes of timers take milliseconds. Each file holds the
//! scenarios of one subject; each scenario ends with `World::end`, which knows what may never be left behind.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "virtual time starts at a real instant")]

mod emulators;
mod engine;
mod network;
mod phone;
#[path = "../golden/torture_files.rs"]
mod torture_files;
mod world;

mod allowed;
mod early;
mod identity;
mod incoming;
mod media;
mod outgoing;
mod places;
mod redirect;
mod refused;
mod reoffer;
mod sessions;
mod sight;
mod storm;
mod talking;
mod torture;
mod transfer;
