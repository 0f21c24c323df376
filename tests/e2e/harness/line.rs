//! A bad line: what a phone sends through it is delayed, lost and reordered, by a seed; what comes back is not.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How bad it is.
#[derive(Clone, Copy)]
pub struct Badness {
    /// Of all packets, in runs of three on average.
    pub lost_percent: f64,
    /// Each packet is late by something between nothing and this.
    pub jitter: Duration,
    pub seed: u64,
}

/// A running line. Dropping it ends it.
pub struct Line {
    /// Where the phone sends, and where it says that it listens.
    pub address: SocketAddr,
    server: Arc<AtomicU16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Between a phone on this port of loopback and a server that is named later.
    pub fn new(phone: u16, badness: Badness) -> Line {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let address = socket.local_addr().expect("its address");
        let (server, stop) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicBool::new(false)));
        let (to, stopped) = (server.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut random = badness.seed;
            let mut chance = move || {
                // Knuth's generator for MMIX; its upper half is random enough.
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as f64 / 2f64.powi(31)
            };
            let (mut buffer, mut late, mut count) = ([0; 2048], BTreeMap::new(), 0_u64);
            let share = badness.lost_percent / 100.0;
            let mut losing = false;
            while !stopped.load(Ordering::Relaxed) {
                let received = socket.recv_from(&mut buffer).ok();
                let now = Instant::now();
                match received {
                    Some((length, from)) if from.port() == phone => {
                        let limit = if losing { 2.0 / 3.0 } else { share / (1.0 - share) / 3.0 };
                        losing = chance() < limit;
                        count += 1;
                        if !losing {
                            late.insert(
                                (now + badness.jitter.mul_f64(chance()), count),
                                buffer[..length].to_vec(),
                            );
                        }
                    }
                    Some((length, _)) => {
                        let _ = socket.send_to(&buffer[..length], (Ipv4Addr::LOCALHOST, phone));
                    }
                    None => {}
                }
                while let Some(entry) = late.first_entry().filter(|entry| entry.key().0 <= now) {
                    let _ =
                        socket.send_to(&entry.remove(), (Ipv4Addr::LOCALHOST, to.load(Ordering::Relaxed)));
                }
            }
        });
        Line { address, server, stop, thread: Some(thread) }
    }

    /// The server's port on loopback.
    pub fn lead_to(&self, port: u16) {
        self.server.store(port, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
