//! What the end-to-end tests and the benchmark share: processes that always end, free ports, the appliance, real and
//! scripted peers, and judges of what those peers received. Every wait has an end; everything stays on loopback.
//!
//! Knows nothing of Eyeline's insides: it sees what a peer, an operator and a file system see.

#![allow(dead_code, reason = "the tests and the benchmark each use a part")]

pub mod appliance;
pub mod baresip;
pub mod browser;
pub mod capture;
pub mod certificates;
pub mod emulators;
pub mod endurance;
pub mod face_measures;
pub mod impaired;
pub mod kamailio;
pub mod line;
pub mod mutate;
pub mod name_server;
pub mod picture;
pub mod process;
pub mod relay;
pub mod sdks;
pub mod sipp;
pub mod sound;
pub mod uac;

use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Asks `probe` until it answers; `None` once `limit` has passed.
pub fn wait_for<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Live calls run one after the other, or they would measure each other. Hold the guard for the whole test.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// First of `count` neighbouring ports that nobody has bound, UDP or TCP, on 127.0.0.1. Even, and below the range
/// the kernel hands out by itself. Tests that run side by side have ranges of their own: a port is found before it is
/// bound.
pub fn free_ports(count: u16) -> u16 {
    static TRIES: AtomicU16 = AtomicU16::new(0);
    let own = (std::process::id() % 97) as u16;
    let side = std::env::var("NEXTEST_TEST_GLOBAL_SLOT").ok().and_then(|slot| slot.parse::<u16>().ok());
    let (start, width) = side.map_or((12_000, 20_000), |slot| (12_000 + slot % 4 * 5_000, 4_900));
    for _ in 0..500 {
        let try_number = TRIES.fetch_add(1, Ordering::Relaxed);
        let first =
            start + (own.wrapping_mul(211).wrapping_add(try_number.wrapping_mul(128)) % width) / 2 * 2;
        let all = (first..first + count).all(|port| {
            UdpSocket::bind(("127.0.0.1", port)).is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok()
        });
        if all {
            return first;
        }
    }
    panic!("no {count} neighbouring free ports on loopback");
}

/// The project's root folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A clip or sound made by `make setup`.
pub fn media(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target.join("media").join(name);
    assert!(path.exists(), "{} is missing: run `make setup`", path.display());
    path
}
