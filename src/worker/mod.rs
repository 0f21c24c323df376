//! Floor 3: child processes of this same binary for native code that may stall or crash.
//!
//! ```text
//! call thread ─ client::Worker ══ control socket (SEQPACKET) ══ child::run ─ inference::session
//!                    └──────────── memfd, one picture ───────────────┘
//! ```
//! Sound is judged in a second child, so that neither holds the other up:
//! ```text
//! network task ─ ears::Listener ══ control socket ══ ears::child ─ inference::hearing
//! ```
//! Pictures that strangers give are decoded in a third, one child for each:
//! ```text
//! Opener ══ control socket, memfd with the file ══ stills::run ─ codec::still ═ memfd with the picture ═▶ RawFrame
//! ```
//! A stalled native call cannot be stopped in a thread; a process can be killed. What is looked for and what
//! happens to the boxes belongs to `vision/`.

pub mod child;
pub mod client;
mod control;
pub mod ears;
#[cfg(feature = "faults")]
mod fault;
mod launch;
mod picture;
pub mod stills;
mod supervise;
mod wire;

#[cfg(feature = "faults")]
pub use fault::Fault;
