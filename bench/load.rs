//! Many calls with sound at once, from one thread: signalling as plain as can be, one packet every 20 ms for each call,
//! and a look at when each packet came back. The kernel notes the times, so a late reader does not blur them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// G.711, 20 ms.
const PAYLOAD: usize = 160;
const HEADER: usize = 12;
/// Slots of one millisecond over which the calls are spread.
const SLOTS: usize = 20;
const BATCH: usize = 64;
/// Sockets, so that no one of them has to hold a whole second.
const SOCKETS: usize = 8;

/// One call.
struct Leg {
    server: SocketAddr,
    socket: usize,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
    number: usize,
    to_tag: String,
    /// Of the first packet of the window: when it came in milliseconds, and its timestamp.
    first: Option<(f64, u32)>,
    /// How far each packet of the window lies from its place on a grid of 20 ms, in milliseconds.
    offsets: Vec<f32>,
}

/// All calls to one server.
pub struct Load {
    signalling: UdpSocket,
    server: SocketAddr,
    uri: String,
    media: Vec<UdpSocket>,
    /// The attribute of its offers.
    pub direction: &'static str,
    legs: Vec<Leg>,
    /// By the server's RTP port.
    of_port: Vec<u32>,
}

/// What came of one window.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Packets that came back for each that was sent.
    pub returned: f64,
    /// How late packets left the server, measured against the earliest of their call, in milliseconds.
    pub late_p50: f64,
    pub late_p99: f64,
    /// What this thread needed, in shares of a core.
    pub own_share: f64,
}

impl Load {
    pub fn new(uri: &str) -> Load {
        let server = uri.rsplit('@').next().unwrap().parse().unwrap();
        let signalling = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        signalling.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let media = (0..SOCKETS).map(|_| media_socket()).collect();
        let uri = uri.to_owned();
        Load {
            signalling,
            server,
            uri,
            media,
            direction: "sendrecv",
            legs: Vec::new(),
            of_port: vec![u32::MAX; 1 << 16],
        }
    }

    pub fn calls(&self) -> usize {
        self.legs.len()
    }

    /// Calls until there are `count`. `false`: one was not answered.
    pub fn grow(&mut self, count: usize) -> bool {
        while self.legs.len() < count {
            if !self.call(self.legs.len()) {
                return false;
            }
            // The calls that are there must not starve while others are made: a packet each now and then.
            if self.legs.len().is_multiple_of(50) && self.direction == "sendrecv" {
                self.run(Duration::from_millis(20), false);
            }
        }
        true
    }

    fn message(&self, method: &str, number: usize, to_tag: &str, body: &str) {
        let (local, uri) = (self.signalling.local_addr().unwrap(), &self.uri);
        let cseq = if method == "BYE" { 2 } else { 1 };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};rport;branch=z9hG4bK{method}{number}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:load@{local}>;tag=l{number}\r\nTo: <{uri}>{to_tag}\r\n\
             Call-ID: {number}-{local}\r\nCSeq: {cseq} {method}\r\nContact: <sip:load@{local}>\r\n\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.signalling.send_to(text.as_bytes(), self.server).unwrap();
    }

    fn call(&mut self, number: usize) -> bool {
        let socket = number % SOCKETS;
        let port = self.media[socket].local_addr().unwrap().port();
        let body = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={}\r\n",
            self.direction
        );
        self.message("INVITE", number, "", &body);
        let mut buffer = [0; 8192];
        let (to_tag, rtp) = loop {
            let Ok(length) = self.signalling.recv(&mut buffer) else { return false };
            let text = String::from_utf8_lossy(&buffer[..length]);
            if !text.contains(&format!("Call-ID: {number}-")) || text.starts_with("SIP/2.0 1") {
                continue;
            }
            let tag =
                text.lines().find(|line| line.starts_with("To:")).and_then(|line| line.split(";tag=").nth(1));
            let rtp =
                text.split("m=audio ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
            let (true, Some(tag), Some(rtp)) = (text.starts_with("SIP/2.0 200"), tag, rtp) else {
                eprintln!("bench: call {number}: {}", text.lines().next().unwrap_or_default());
                return false;
            };
            break (format!(";tag={}", tag.split(';').next().unwrap_or_default()), rtp);
        };
        self.message("ACK", number, &to_tag, "");
        self.of_port[usize::from(rtp)] = self.legs.len() as u32;
        self.legs.push(Leg {
            server: SocketAddr::from((Ipv4Addr::LOCALHOST, rtp)),
            socket,
            sequence: 0,
            timestamp: 0,
            ssrc: 0x10ad_0000 + number as u32,
            number,
            to_tag,
            first: None,
            offsets: Vec::new(),
        });
        true
    }

    /// Ends all calls.
    pub fn hang_up(&mut self) {
        for leg in std::mem::take(&mut self.legs) {
            self.message("BYE", leg.number, &leg.to_tag, "");
            // Slow enough for any receive buffer.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends sound on every call for `time`; looks at what comes back in it.
    pub fn talk(&mut self, time: Duration) -> Window {
        // Jitter buffers fill, locks are made.
        self.run(Duration::from_secs(2), false);
        self.legs.iter_mut().for_each(|leg| (leg.first, leg.offsets) = (None, Vec::new()));
        let before = own_cpu();
        let (sent, came) = self.run(time, true);
        let own_share = (own_cpu() - before).as_secs_f64() / time.as_secs_f64();
        let mut late: Vec<f32> = Vec::new();
        for leg in &self.legs {
            let earliest = leg.offsets.iter().copied().fold(f32::INFINITY, f32::min);
            late.extend(leg.offsets.iter().map(|offset| offset - earliest));
        }
        late.sort_by(f32::total_cmp);
        let share = |share: f64| {
            let last = late.len().saturating_sub(1) as f64;
            late.get((last * share) as usize).map_or(f64::NAN, |late| f64::from(*late))
        };
        Window { returned: came as f64 / sent as f64, late_p50: share(0.5), late_p99: share(0.99), own_share }
    }

    fn run(&mut self, time: Duration, watched: bool) -> (u64, u64) {
        let start = Instant::now();
        let (mut slot, mut sent, mut came) = (0_u32, 0, 0);
        while start.elapsed() < time {
            let due = start + Duration::from_millis(1) * slot;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sent += self.send(slot as usize % SLOTS);
            came += self.receive(watched);
            slot += 1;
        }
        (sent, came)
    }

    /// One packet on each call of this slot.
    fn send(&mut self, slot: usize) -> u64 {
        let mut packets = [[0_u8; HEADER + PAYLOAD]; BATCH];
        let mut sent = 0;
        for socket in 0..SOCKETS {
            let descriptor = self.media[socket].as_raw_fd();
            let mut legs =
                self.legs.iter_mut().skip(slot).step_by(SLOTS).filter(|leg| leg.socket == socket).peekable();
            while legs.peek().is_some() {
                // SAFETY: all-zero bytes are valid for these C structures.
                let (mut messages, mut names): ([libc::mmsghdr; BATCH], [libc::sockaddr_in; BATCH]) =
                    unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
                let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
                let mut count = 0;
                for leg in legs.by_ref().take(BATCH) {
                    leg.fill(&mut packets[count]);
                    names[count].sin_family = libc::AF_INET as _;
                    names[count].sin_port = leg.server.port().to_be();
                    names[count].sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
                    slices[count] = libc::iovec {
                        iov_base: packets[count].as_mut_ptr().cast(),
                        iov_len: HEADER + PAYLOAD,
                    };
                    let header = &mut messages[count].msg_hdr;
                    header.msg_name = (&raw mut names[count]).cast();
                    header.msg_namelen = size_of::<libc::sockaddr_in>() as _;
                    header.msg_iov = &raw mut slices[count];
                    header.msg_iovlen = 1;
                    count += 1;
                }
                // SAFETY: `count` headers point at names and buffers that outlive the call.
                let done = unsafe { libc::sendmmsg(descriptor, messages.as_mut_ptr(), count as _, 0) };
                sent += u64::try_from(done).unwrap_or(0);
            }
        }
        sent
    }

    /// Everything that waits.
    fn receive(&mut self, watched: bool) -> u64 {
        let mut came = 0;
        for socket in 0..SOCKETS {
            let descriptor = self.media[socket].as_raw_fd();
            loop {
                let batch = receive_batch(descriptor);
                for (port, at, timestamp) in &batch {
                    let leg = self.of_port[usize::from(*port)] as usize;
                    if let Some(leg) = self.legs.get_mut(leg) {
                        came += 1;
                        if watched {
                            leg.note(*at, *timestamp);
                        }
                    }
                }
                if batch.len() < BATCH {
                    break;
                }
            }
        }
        came
    }
}

impl Leg {
    fn fill(&mut self, packet: &mut [u8; HEADER + PAYLOAD]) {
        packet[..2].copy_from_slice(&[0x80, 0]);
        packet[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        packet[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        for (at, byte) in packet[HEADER..].iter_mut().enumerate() {
            *byte = (at as u8).wrapping_mul(37) ^ self.sequence as u8;
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(PAYLOAD as u32);
    }

    fn note(&mut self, at: f64, timestamp: u32) {
        let (begun, first) = *self.first.get_or_insert((at, timestamp));
        let due = f64::from(timestamp.wrapping_sub(first) as i32) / 8.0;
        self.offsets.push((at - begun - due) as f32);
    }
}

fn media_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (size, on): (libc::c_int, libc::c_int) = (4 << 20, 1);
    for (option, value) in [(libc::SO_RCVBUF, &size), (libc::SO_SNDBUF, &size), (libc::SO_TIMESTAMPNS, &on)] {
        let value: *const libc::c_int = value;
        // SAFETY: the option's value is the integer pointed at, of the length given.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                value.cast(),
                size_of::<libc::c_int>() as _,
            );
        }
    }
    socket
}

/// Sender's port, milliseconds it came at, and RTP timestamp of what waits; RTCP is passed over.
fn receive_batch(descriptor: libc::c_int) -> Vec<(u16, f64, u32)> {
    let mut packets = [[0_u8; 256]; BATCH];
    // SAFETY: all-zero bytes are valid for these C structures.
    let (mut messages, mut names): ([libc::mmsghdr; BATCH], [libc::sockaddr_in; BATCH]) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let mut controls = [[0_u64; 8]; BATCH];
    for index in 0..BATCH {
        slices[index] = libc::iovec { iov_base: packets[index].as_mut_ptr().cast(), iov_len: 256 };
        let header = &mut messages[index].msg_hdr;
        header.msg_name = (&raw mut names[index]).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in>() as _;
        header.msg_iov = &raw mut slices[index];
        header.msg_iovlen = 1;
        header.msg_control = controls[index].as_mut_ptr().cast();
        header.msg_controllen = 64;
    }
    // SAFETY: each header points at a name, a buffer and a control block that outlive the call.
    let count = unsafe {
        libc::recvmmsg(
            descriptor,
            messages.as_mut_ptr(),
            BATCH as _,
            libc::MSG_DONTWAIT as _,
            std::ptr::null_mut(),
        )
    };
    let count = usize::try_from(count).unwrap_or(0);
    let one = |index: usize| {
        let packet = &packets[index][..(messages[index].msg_len as usize).min(256)];
        if packet.len() < HEADER || (200..208).contains(&packet[1]) {
            return (0, 0.0, 0);
        }
        let timestamp = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        (u16::from_be(names[index].sin_port), arrival(&messages[index].msg_hdr), timestamp)
    };
    (0..count).map(one).collect()
}

fn arrival(header: &libc::msghdr) -> f64 {
    // SAFETY: the kernel wrote the control block and its length; only the time it was asked for can be in it.
    let time = unsafe {
        match libc::CMSG_FIRSTHDR(header).as_ref() {
            Some(message) => libc::CMSG_DATA(message).cast::<libc::timespec>().read_unaligned(),
            None => std::mem::zeroed(),
        }
    };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

/// What this thread has used so far.
fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps this thread on one core, if there is such a core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}
