//! Driver. The sockets of one stream, read without waking for every packet.
//!
//! A wake-up costs more than the packet it is for. Sound is only needed at the next beat and is read there; the packets
//! of a picture come in one go, so the first one rings a [`Bell`] and the rest is gathered. Waiting does not blur the
//! times packets came at: the kernel notes them.

#![expect(clippy::disallowed_methods, reason = "arrival is told as an age, which takes both clocks")]

use std::cell::RefCell;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::epoll;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::base::datagram;
use crate::engine::network::guard::{Guard, Port};
use crate::engine::ports::Pair;
use crate::rtp::session::Out;

/// Packets taken from the kernel in one go.
const BATCH: usize = 8;
/// Batches read from one socket before others get their turn.
const BATCHES: usize = 8;
/// An Ethernet frame and some; longer datagrams are no media.
const LARGEST_PACKET: usize = 4096;
/// Room for one control message with the time of arrival.
const CONTROL_WORDS: usize = 8;
/// An older packet than this was not read in time, or the wall clock was set; then its age is not known.
const OLDEST: Duration = Duration::from_millis(500);
/// The same for sockets that nobody reads.
const OLDEST_UNREAD: Duration = Duration::from_secs(60);

/// The two sockets of one stream.
pub struct Sockets {
    rtp: Arc<UdpSocket>,
    rtcp: Arc<UdpSocket>,
    /// RTCP leaves from the RTP socket too (RFC 5761).
    pub mux: bool,
}

impl Sockets {
    pub fn new(pair: Pair, mux: bool) -> Self {
        Sockets { rtp: pair.rtp, rtcp: pair.rtcp, mux }
    }

    /// Reads what waits at the RTP socket. `false`: nothing did.
    pub fn read_rtp(&self, take: impl FnMut(Instant, SocketAddr, &mut [u8])) -> bool {
        read(&self.rtp, take)
    }

    /// Reads what waits at the RTCP socket.
    pub fn read_rtcp(&self, take: impl FnMut(Instant, SocketAddr, &mut [u8])) {
        read(&self.rtcp, take);
    }

    /// Sends what the guard makes of a packet; what it lets not pass is not sent.
    pub fn send(&self, out: &Out, guard: &mut Guard) {
        let (port, to, plain) = match out {
            Out::Rtp(to, plain) => (Port::Rtp, *to, plain),
            Out::Rtcp(to, plain) => (Port::Rtcp, *to, plain),
        };
        if let Some(bytes) = guard.protect(port, plain) {
            self.send_raw(port, to, bytes);
        }
    }

    /// A full socket loses the packet, as a network would.
    pub fn send_raw(&self, port: Port, to: SocketAddr, bytes: &[u8]) {
        let sent = match port {
            Port::Rtcp if !self.mux => datagram::send(&*self.rtcp, bytes, to),
            Port::Rtp | Port::Rtcp => datagram::send(&*self.rtp, bytes, to),
        };
        if let Err(error) = sent {
            tracing::trace!(%error, "a media packet was not sent");
        }
    }
}

/// Rings once when something comes to an RTP socket, and not again before it is armed again.
pub struct Bell {
    set: AsyncFd<OwnedFd>,
}

impl Bell {
    /// An armed bell; inside the runtime that will wait for it.
    pub fn new(sockets: &Sockets) -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&set, &*sockets.rtp, epoll::EventData::new_u64(0), Bell::once())?;
        // SAFETY: the descriptor is owned by the value it is registered with, and nothing else closes it.
        let set = unsafe { AsyncFd::register_with_interest(set, Interest::READABLE) };
        Ok(Bell { set: set.map_err(io::Error::from)? })
    }

    fn once() -> epoll::EventFlags {
        epoll::EventFlags::IN | epoll::EventFlags::ONESHOT
    }

    /// Cancel-safe.
    pub async fn rung(&self) {
        loop {
            // Fails only when the runtime ends, and this task with it.
            let Ok(mut ready) = self.set.readable().await else { return std::future::pending().await };
            let mut event = [MaybeUninit::<epoll::Event>::uninit(); 1];
            let taken = epoll::wait(&self.set, &mut event, Some(&rustix::time::Timespec::default()));
            ready.clear_ready();
            if taken.is_ok_and(|(events, _)| !events.is_empty()) {
                return;
            }
        }
    }

    /// Rings at once when something waits already.
    pub fn arm(&self, sockets: &Sockets) {
        let armed = epoll::modify(&self.set, &*sockets.rtp, epoll::EventData::new_u64(0), Bell::once());
        if let Err(error) = armed {
            tracing::warn!(%error, "a video socket cannot be waited for");
        }
    }
}

/// Lets the kernel note when packets come. Best effort: without it they have come when they are read.
pub fn note_arrivals(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is the integer pointed at, of the length given.
    unsafe {
        let (value, length) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, value, length);
    }
}

thread_local! {
    /// All calls' packets are read on one thread, one after the other.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BATCH * LARGEST_PACKET]);
}

fn read(socket: &UdpSocket, mut take: impl FnMut(Instant, SocketAddr, &mut [u8])) -> bool {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut any = false;
        for _ in 0..BATCHES {
            let count = read_batch(socket, scratch, OLDEST, &mut take);
            any |= count > 0;
            if count < BATCH {
                break;
            }
        }
        any
    })
}

/// Throws away what waits at a socket that nobody reads any more, and says how long ago the newest of it came.
pub fn drain(socket: &UdpSocket) -> Option<Duration> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut newest = None;
        for batch in 0.. {
            let count =
                read_batch(socket, scratch, OLDEST_UNREAD, &mut |at, _, _| newest = newest.max(Some(at)));
            if count < BATCH {
                break;
            }
            // More than this may have pushed out what came after it.
            if batch == BATCHES {
                return Some(Duration::ZERO);
            }
        }
        newest.map(|at| at.elapsed())
    })
}

/// One `recvmmsg`; says how many datagrams there were.
fn read_batch(
    socket: &UdpSocket,
    scratch: &mut [u8],
    oldest: Duration,
    take: &mut impl FnMut(Instant, SocketAddr, &mut [u8]),
) -> usize {
    // SAFETY: all-zero bytes are valid for these C structures.
    let (mut messages, mut names): ([libc::mmsghdr; BATCH], [libc::sockaddr_storage; BATCH]) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut controls = [[0_u64; CONTROL_WORDS]; BATCH];
    let mut slices = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let parts = scratch.chunks_exact_mut(LARGEST_PACKET).zip(&mut slices).zip(&mut names).zip(&mut controls);
    for (message, (((buffer, slice), name), control)) in messages.iter_mut().zip(parts) {
        *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let header = &mut message.msg_hdr;
        header.msg_name = (&raw mut *name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        header.msg_iov = slice;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(control) as _;
    }
    // SAFETY: each header points at a buffer, a name and a control block of the lengths it says; all outlive the call.
    let count = unsafe {
        let flags = libc::MSG_DONTWAIT as _;
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            messages.as_mut_ptr(),
            BATCH as _,
            flags,
            std::ptr::null_mut(),
        )
    };
    // An error is "nothing there", or an ICMP echo of something sent before.
    let count = usize::try_from(count).unwrap_or(0);
    let clocks = (Instant::now(), SystemTime::now());
    for (index, message) in messages.iter().enumerate().take(count) {
        let cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
        let bytes = scratch
            .get_mut(index * LARGEST_PACKET..)
            .and_then(|rest| rest.get_mut(..message.msg_len as usize));
        let (Some(bytes), Some(source), false) = (bytes, address(&names[index]), cut) else { continue };
        take(arrival(clocks, oldest, &message.msg_hdr), source, bytes);
    }
    count
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: the kernel wrote an address of the family it says; both structures fit into the storage.
    unsafe {
        match libc::c_int::from((*name).ss_family) {
            libc::AF_INET => {
                let name = *name.cast::<libc::sockaddr_in>();
                let ip = u32::from_be(name.sin_addr.s_addr);
                Some(SocketAddr::new(std::net::Ipv4Addr::from(ip).into(), u16::from_be(name.sin_port)))
            }
            libc::AF_INET6 => {
                let name = *name.cast::<libc::sockaddr_in6>();
                let ip = std::net::Ipv6Addr::from(name.sin6_addr.s6_addr);
                let port = u16::from_be(name.sin6_port);
                Some(std::net::SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// When a packet came: the kernel's note is wall time, so its age is taken off the present.
fn arrival((now, wall): (Instant, SystemTime), oldest: Duration, header: &libc::msghdr) -> Instant {
    let age = stamp(header).and_then(|stamp| wall.duration_since(UNIX_EPOCH + stamp).ok());
    age.filter(|age| *age <= oldest).and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

fn stamp(header: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel wrote the control block and its length; the macros stay inside it, and the length of the
    // message's content is checked before it is read.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header).as_ref()?;
        if message.cmsg_level != libc::SOL_SOCKET || message.cmsg_type != libc::SCM_TIMESTAMPNS {
            return None;
        }
        let length = message.cmsg_len as usize;
        let data = libc::CMSG_DATA(message).cast::<libc::timespec>();
        if length < libc::CMSG_LEN(size_of::<libc::timespec>() as _) as usize {
            return None;
        }
        let time = data.read_unaligned();
        Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
            socket.set_nonblocking(true).expect("non-blocking");
            note_arrivals(&socket);
            Arc::new(socket)
        };
        Pair { rtp: bind(), rtcp: bind(), port: 0 }
    }

    #[test]
    fn packets_come_whole_and_in_order_with_their_sender() {
        let pair = pair();
        let to = pair.rtp.local_addr().expect("bound");
        let sockets = Sockets::new(pair, false);
        assert!(!sockets.read_rtp(|_, _, _| panic!("nothing was sent")));
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
        for number in 0..20_u8 {
            peer.send_to(&vec![number; 100 + usize::from(number)], to).expect("sent");
        }
        peer.send_to(&[9; LARGEST_PACKET + 1], to).expect("sent");
        let mut seen = Vec::new();
        assert!(sockets.read_rtp(|_, source, bytes| {
            assert_eq!(Some(source), peer.local_addr().ok());
            seen.push((bytes.len(), bytes[0]));
        }));
        assert_eq!(seen, (0..20).map(|number| (100 + usize::from(number), number)).collect::<Vec<_>>());
    }

    #[test]
    fn a_packet_read_late_still_has_the_time_it_came() {
        let pair = pair();
        let to = pair.rtp.local_addr().expect("bound");
        let sockets = Sockets::new(pair, false);
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
        // The kernel begins to note times a moment after the first socket asked for it.
        let known = (0..20).any(|_| {
            peer.send_to(b"late", to).expect("sent");
            let sent = Instant::now();
            std::thread::sleep(Duration::from_millis(100));
            let mut came = None;
            sockets.read_rtp(|at, _, _| came = Some(at));
            came.is_some_and(|came| came < sent + Duration::from_millis(50))
        });
        assert!(known, "packets are taken for as young as they are read");
    }

    #[tokio::test]
    async fn the_bell_rings_once_until_it_is_armed_again() {
        let pair = pair();
        let to = pair.rtp.local_addr().expect("bound");
        let sockets = Sockets::new(pair, false);
        let bell = Bell::new(&sockets).expect("a bell");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port on loopback");
        peer.send_to(b"one", to).expect("sent");
        bell.rung().await;
        peer.send_to(b"two", to).expect("sent");
        let again = tokio::time::timeout(Duration::from_millis(50), bell.rung()).await;
        assert!(again.is_err(), "it was not armed");
        bell.arm(&sockets);
        tokio::time::timeout(Duration::from_secs(5), bell.rung()).await.expect("something waits already");
        assert!(sockets.read_rtp(|_, _, _| {}));
    }
}
