//! A bad network between a caller and whom it calls: passes the signalling on, puts itself into the media path by
//! rewriting the ports of offer and answer, and loses, delays, overtakes and doubles what goes by. Seeded.
//!
//! It keeps the video that got through, as each side received it.

use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::capture::{Rtp, Stream};
use super::free_ports;

/// What is done to media, RTP and RTCP, both ways.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Share of the packets lost, and how many in a row on average.
    pub loss: f64,
    pub burst: f64,
    /// One way.
    pub delay: Duration,
    /// Share that comes 15 ms late, share that comes twice.
    pub overtaken: f64,
    pub doubled: f64,
    /// Pause between bursts of exactly `burst` packets of the picture, each way.
    pub bursts: Option<Duration>,
    /// Nobody offers to send lost packets again.
    pub without_nack: bool,
    pub seed: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Impairment {
            loss: 0.0,
            burst: 3.0,
            delay: Duration::from_millis(20),
            overtaken: 0.0,
            doubled: 0.0,
            bursts: None,
            without_nack: false,
            seed: 1,
        }
    }
}

/// Towards whom a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    Caller,
    Callee,
}

/// A running bad network. Dropping it ends it.
pub struct Impaired {
    pub address: SocketAddr,
    passed: Arc<Mutex<[Vec<Rtp>; 2]>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impaired {
    /// In front of `callee`, for one call.
    pub fn before(callee: SocketAddr, impairment: Impairment) -> Impaired {
        let signalling = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        signalling.set_nonblocking(true).expect("a socket that does not block");
        let address = signalling.local_addr().expect("its address");
        let passed: Arc<Mutex<[Vec<Rtp>; 2]>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let mut path = Path {
            callee,
            caller: None,
            signalling,
            lines: [Line::new(), Line::new()],
            impairment,
            random: StdRng::seed_from_u64(impairment.seed),
            losing: [false; 2],
            bursts: [(Instant::now(), 0); 2],
            flying: BinaryHeap::new(),
            order: 0,
            passed: passed.clone(),
            start: Instant::now(),
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                path.turn();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Impaired { address, passed, stop, thread: Some(thread) }
    }

    /// The video one side received, in the order it came; packets that came twice are in it once.
    pub fn video(&self, toward: Toward) -> Stream {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = std::collections::BTreeSet::new();
        let fresh = |packet: &&Rtp| seen.insert((packet.ssrc, packet.sequence));
        Stream {
            packets: passed[toward as usize].iter().filter(fresh).cloned().collect(),
            reports: Vec::new(),
        }
    }
}

impl Drop for Impaired {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The sockets of one media line, RTP and RTCP, facing the caller and facing the callee, and where each of them takes
/// its media.
struct Line {
    sockets: [[UdpSocket; 2]; 2],
    ports: [u16; 2],
    theirs: [Option<u16>; 2],
    is_video: bool,
}

impl Line {
    fn new() -> Line {
        let first = free_ports(4);
        let bind = |port: u16| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
            socket.set_nonblocking(true).expect("a socket that does not block");
            socket
        };
        let pair = |port| [bind(port), bind(port + 1)];
        Line {
            sockets: [pair(first), pair(first + 2)],
            ports: [first, first + 2],
            theirs: [None; 2],
            is_video: false,
        }
    }
}

struct Flying {
    comes: Instant,
    order: u64,
    line: usize,
    toward: Toward,
    control: usize,
    bytes: Vec<u8>,
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Flying {}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.comes, other.order).cmp(&(self.comes, self.order))
    }
}

struct Path {
    callee: SocketAddr,
    caller: Option<SocketAddr>,
    signalling: UdpSocket,
    lines: [Line; 2],
    impairment: Impairment,
    random: StdRng,
    losing: [bool; 2],
    /// When the last burst began, and how many packets it has left.
    bursts: [(Instant, u32); 2],
    flying: BinaryHeap<Flying>,
    order: u64,
    passed: Arc<Mutex<[Vec<Rtp>; 2]>>,
    start: Instant,
}

impl Path {
    fn turn(&mut self) {
        let mut buffer = [0; 65_535];
        while let Ok((length, from)) = self.signalling.recv_from(&mut buffer) {
            let toward = if from == self.callee { Toward::Caller } else { Toward::Callee };
            if toward == Toward::Callee {
                self.caller = Some(from);
            }
            let message = self.rewritten(&buffer[..length], toward);
            let to = if toward == Toward::Callee { Some(self.callee) } else { self.caller };
            if let Some(to) = to {
                let _ = self.signalling.send_to(&message, to);
            }
        }
        for line in 0..self.lines.len() {
            for (side, toward) in [(0, Toward::Callee), (1, Toward::Caller)] {
                for control in 0..2 {
                    while let Ok((length, _)) = self.lines[line].sockets[side][control].recv_from(&mut buffer)
                    {
                        self.impair(line, toward, control, &buffer[..length]);
                    }
                }
            }
        }
        let now = Instant::now();
        while self.flying.peek().is_some_and(|next| next.comes <= now) {
            let Some(next) = self.flying.pop() else { break };
            self.deliver(&next);
        }
    }

    fn impair(&mut self, line: usize, toward: Toward, control: usize, bytes: &[u8]) {
        let Impairment { loss, burst, delay, overtaken, doubled, .. } = self.impairment;
        let leave = 1.0 / burst.max(1.0);
        let enter = loss * leave / (1.0 - loss);
        let losing = &mut self.losing[toward as usize];
        *losing = self.random.random_bool(if *losing { 1.0 - leave } else { enter });
        if *losing || (self.lines[line].is_video && control == 0 && self.is_in_burst(toward)) {
            return;
        }
        let late =
            if self.random.random_bool(overtaken) { Duration::from_millis(15) } else { Duration::ZERO };
        let comes = Instant::now() + delay + late;
        for _ in 0..if self.random.random_bool(doubled) { 2 } else { 1 } {
            self.order += 1;
            self.flying.push(Flying {
                comes,
                order: self.order,
                line,
                toward,
                control,
                bytes: bytes.to_vec(),
            });
        }
    }

    fn is_in_burst(&mut self, toward: Toward) -> bool {
        let Some(pause) = self.impairment.bursts else { return false };
        let (began, left) = &mut self.bursts[toward as usize];
        if began.elapsed() >= pause {
            (*began, *left) = (Instant::now(), self.impairment.burst as u32);
        }
        let lost = *left > 0;
        *left = left.saturating_sub(1);
        lost
    }

    /// Leaves from the socket whose port that side knows as the other's.
    fn deliver(&mut self, flying: &Flying) {
        let Flying { line, toward, control, bytes, .. } = flying;
        let line = &self.lines[*line];
        let side = *toward as usize;
        let Some(port) = line.theirs[side] else { return };
        if line.is_video
            && *control == 0
            && let Some(rtp) = Rtp::read(self.start.elapsed().as_secs_f64(), bytes)
        {
            self.passed.lock().unwrap_or_else(PoisonError::into_inner)[side].push(rtp);
        }
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port + *control as u16));
        let _ = line.sockets[side][*control].send_to(bytes, to);
    }

    /// A message on its way to `toward`, with our ports in place of the other side's.
    fn rewritten(&mut self, message: &[u8], toward: Toward) -> Vec<u8> {
        let text = String::from_utf8_lossy(message);
        let Some((headers, body)) = text.split_once("\r\n\r\n").filter(|(_, body)| body.starts_with("v=0"))
        else {
            return message.to_vec();
        };
        let (mut lines, mut at) = (Vec::new(), 0);
        for line in body.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [kind @ ("m=audio" | "m=video"), port, rest @ ..] = words.as_slice()
                && let (Ok(port), Some(ours)) = (port.parse::<u16>(), self.lines.get_mut(at))
            {
                at += 1;
                // Who sent this takes media at its port.
                let sender = 1 - toward as usize;
                if port != 0 {
                    ours.theirs[sender] = Some(port);
                }
                ours.is_video = *kind == "m=video";
                let shown = if port == 0 { 0 } else { ours.ports[toward as usize] };
                lines.push(format!("{kind} {shown} {}", rest.join(" ")));
            } else if self.impairment.without_nack
                && line.starts_with("a=rtcp-fb:")
                && line.ends_with(" nack")
            {
                // PLI is another: `nack pli`.
            } else if !line.starts_with("a=rtcp:") {
                lines.push(line.to_owned());
            }
        }
        let body: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let headers: Vec<String> = headers
            .lines()
            .map(|line| match line.split_once(':') {
                Some((name, _)) if name.eq_ignore_ascii_case("content-length") => {
                    format!("Content-Length: {}", body.len())
                }
                _ => line.to_owned(),
            })
            .collect();
        format!("{}\r\n\r\n{body}", headers.join("\r\n")).into_bytes()
    }
}
