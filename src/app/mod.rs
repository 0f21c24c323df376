//! Floor 7: the program around the agent. Configuration, command line, console, systemd.
//!
//! Outside formats (TOML, JSON, metrics) have their own types here; the floors below get plain settings.

pub mod assemble;
pub mod cli;
pub mod config;
pub mod console;
pub mod detectors;
mod device;
pub mod dial;
pub mod door;
mod face_tally;
mod faces;
pub mod footprint;
pub mod gallery;
pub mod load;
pub mod log;
pub mod models;
pub mod report;
pub mod serve;
pub mod service;
pub mod signalling;
pub mod sip_trace;
mod streams;
mod talkers;
pub mod tally;
pub mod target;
pub mod timeline;
mod tooling;
mod tracks;
pub mod watch;
