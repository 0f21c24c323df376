//! Somebody on the path: passes datagrams on between one phone and one server, and remembers what it overheard.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running relay. Dropping it ends it.
pub struct Relay {
    pub address: SocketAddr,
    overheard: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Before `server`: what does not come from there goes there, and back to whoever spoke last.
    pub fn before(server: SocketAddr) -> Relay {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let address = socket.local_addr().expect("its address");
        let (overheard, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (heard, stopped) = (overheard.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 65_535];
            let mut phone = None;
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let to = if from == server {
                    phone
                } else {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                    phone = Some(from);
                    Some(server)
                };
                if let Some(to) = to {
                    let _ = socket.send_to(&buffer[..length], to);
                }
            }
        });
        Relay { address, overheard, stop, thread: Some(thread) }
    }

    /// The last message to the server in which all of these stand.
    pub fn last_with(&self, words: &[&str]) -> Option<String> {
        let overheard = self.overheard.lock().unwrap_or_else(PoisonError::into_inner);
        overheard.iter().rev().find(|text| words.iter().all(|word| text.contains(word))).cloned()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
