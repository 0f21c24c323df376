//! Driver. The control socket: whole messages, with at most one file descriptor each.
//!
//! What the messages say is [`super::wire`].

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::time::Duration;

/// Two connected ends.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Whether the other end waits for room when its queue is full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// Fails with `EAGAIN` instead.
    No,
    Yes,
}

/// Sends one message. `EPIPE`: the other end is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    carried: Option<BorrowedFd<'_>>,
    blocking: Blocking,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = carried.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let mut flags = SendFlags::NOSIGNAL;
    if blocking == Blocking::No {
        flags |= SendFlags::DONTWAIT;
    }
    retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, flags)).map(drop)
}

/// What waits at the socket.
pub enum Received {
    /// Bytes of the message at the start of the buffer, and the descriptor it carried.
    Message(usize, Option<OwnedFd>),
    Nothing,
    /// The other end is gone.
    Closed,
}

/// Takes one message without waiting. A message longer than `buffer` is an error.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received =
        retry(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags));
    let message = match received {
        Ok(message) => message,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(Errno::CONNRESET) => return Ok(Received::Closed),
        Err(error) => return Err(error),
    };
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    let mut carried = None;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
            carried = descriptors.last();
        }
    }
    // No message of ours is empty, so nothing can only be the end.
    if message.bytes == 0 { Ok(Received::Closed) } else { Ok(Received::Message(message.bytes, carried)) }
}

/// Waits until one of `descriptors` can be read or has ended, at most `limit`.
pub fn wait(descriptors: &[&dyn AsFd], limit: Option<Duration>) -> Result<(), Errno> {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)).collect();
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    });
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of `Instant`, comparable between processes.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanos = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanos).unwrap_or(0)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds_and_bring_a_descriptor() {
        let (near, far) = pair().expect("a pair");
        let (carried, _other) = pair().expect("a pair");
        send(near.as_fd(), b"one", None, Blocking::No).expect("sent");
        send(near.as_fd(), b"two", Some(carried.as_fd()), Blocking::No).expect("sent");
        let mut buffer = [0; 16];
        assert!(matches!(receive(far.as_fd(), &mut buffer), Ok(Received::Message(3, None))));
        assert!(matches!(receive(far.as_fd(), &mut buffer), Ok(Received::Message(3, Some(_)))));
        assert_eq!(&buffer[..3], b"two");
        assert!(matches!(receive(far.as_fd(), &mut buffer), Ok(Received::Nothing)));
        drop(near);
        assert!(matches!(receive(far.as_fd(), &mut buffer), Ok(Received::Closed)));
        assert_eq!(send(far.as_fd(), b"x", None, Blocking::No), Err(Errno::PIPE));
    }

    #[test]
    fn a_full_queue_does_not_make_the_sender_wait() {
        let (near, _far) = pair().expect("a pair");
        let stopped = (0..100_000).find_map(|_| send(near.as_fd(), &[0; 1000], None, Blocking::No).err());
        assert_eq!(stopped, Some(Errno::AGAIN));
    }
}
