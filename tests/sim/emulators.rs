//! The emulators of realtime models that the live tests use too; their cores have neither clock nor socket.

#![allow(dead_code, reason = "sockets and some faults are for the live tests")]

#[path = "../e2e/harness/emulators/gemini_live.rs"]
pub mod gemini_live;
#[path = "../e2e/harness/emulators/openai_realtime.rs"]
pub mod openai_realtime;
#[path = "../e2e/harness/emulators/socket.rs"]
pub mod socket;
