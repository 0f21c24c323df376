//! The binary on loopback, seen by real peers: what they send, what they get back, what lies on disk afterwards.
//!
//! `make setup` prepares everything these need (baresip, tcpdump, clips, models).

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests drive real processes in real time")]

mod harness;

mod abuse;
mod anam;
mod avatar_sockets;
mod avatars;
mod bad_input;
mod calls;
mod client;
mod codecs;
mod corpus;
mod decisions;
mod dialogs;
mod endurance;
mod examples;
mod face_codecs;
mod face_ledger;
mod face_pictures;
#[cfg(feature = "faults")]
mod faults;
mod identity;
mod images;
mod lines;
mod lossy;
mod minute;
mod missing;
mod models;
mod offers;
mod peers;
mod realtime;
mod recordings;
mod reoffers;
mod rooms;
mod sdks;
mod shutdown;
mod sipp_scenarios;
mod slides;
mod sources;
mod srtp;
mod strangers;
mod talk;
mod tools;
mod transfer;
mod transports;
mod uses;
mod uses_of_faces;
mod vendors;
mod video_codecs;
mod vision;
