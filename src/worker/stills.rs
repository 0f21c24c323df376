//! Driver. Pictures that were given, decoded in a process of their own: one child a picture, with little memory and
//! time, dead when it is done.
//!
//! A file made to break a decoder breaks a process that holds nothing but that file. What comes back is a [`RawFrame`]:
//! it has passed no gate. How many are open at once is bounded; given pictures are rare.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::base::time::Pts;
use crate::codec::still::decode::{Limits, Unusable, admit, pixels};
use crate::media::frame::{RawFrame, Size};
use crate::media::pool::FramePool;
use crate::worker::child::isolate;
use crate::worker::control::{self, Blocking, Received};
use crate::worker::launch;
use crate::worker::picture::{Readable, Writable};

/// How given pictures are opened.
#[derive(Clone, Debug)]
pub struct OpenerSettings {
    /// The program to run; by default this one.
    pub executable: PathBuf,
    pub limits: Limits,
    /// For one picture, the start of its process included.
    pub patience: Duration,
    /// Pictures opened at a time, of all calls.
    pub at_once: usize,
}

impl Default for OpenerSettings {
    fn default() -> Self {
        OpenerSettings {
            executable: PathBuf::from("/proc/self/exe"),
            limits: Limits::default(),
            patience: Duration::from_secs(3),
            at_once: 2,
        }
    }
}

/// Memory a child may map: its libraries, and a picture at both ends of a conversion.
const CHILD_MEMORY: u64 = 1 << 30;
/// Processor time it may use.
const CHILD_SECONDS: u64 = 5;
/// Longest message either way.
const MAX_MESSAGE: usize = 512;

/// Opens given pictures; shared by all calls.
#[derive(Clone)]
pub struct Opener {
    settings: Arc<OpenerSettings>,
    open: Arc<AtomicUsize>,
}

/// A place among those opened at a time.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A running child; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Opener {
    pub fn new(settings: OpenerSettings) -> Self {
        Opener { settings: Arc::new(settings), open: Arc::new(AtomicUsize::new(0)) }
    }

    pub fn limits(&self) -> &Limits {
        &self.settings.limits
    }

    /// Opens one picture. Dropping the future ends the child. It needs the runtime's I/O.
    pub async fn open(&self, bytes: &[u8]) -> Result<RawFrame, Unusable> {
        let OpenerSettings { executable, limits, patience, at_once } = &*self.settings;
        // What is wrong on its face costs no process.
        admit(bytes, limits)?;
        let claim = |open: usize| (open < *at_once).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, claim).map_err(|_| Unusable::NoRoom)?;
        let _seat = Seat(self.open.clone());
        let broken = |what: &str| Unusable::Damaged(what.to_owned());
        let mut file = Writable::new(bytes.len()).map_err(|_| Unusable::NoRoom)?;
        file.write(bytes);
        let started = launch::launch(executable, &["worker", "stills"], &[]).map_err(|error| {
            tracing::warn!("no process to open a picture: {error}");
            Unusable::NoRoom
        });
        let (child, socket) = started?;
        let _running = Running(child);
        // SAFETY: the socket is valid, owned by what is made here, and never replaced in it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = socket.map_err(|_| Unusable::NoRoom)?;
        let message = Order { length: bytes.len(), limits: *limits }.write();
        let sent = control::send(socket.as_fd(), &message, Some(file.descriptor()), Blocking::No);
        sent.map_err(|_| broken("its process did not start"))?;
        let reply = tokio::time::timeout(*patience, reply(&socket)).await;
        let (size, memory) = reply.map_err(|_| broken("it takes too long to decode"))??;
        take(size, &memory, limits)
    }
}

async fn reply(socket: &AsyncFd<OwnedFd>) -> Result<(Size, OwnedFd), Unusable> {
    let gone = || Unusable::Damaged("its process ended".to_owned());
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let mut ready = socket.readable().await.map_err(|_| gone())?;
        match control::receive(socket.as_fd(), &mut buffer) {
            Ok(Received::Message(length, carried)) => return read_reply(&buffer[..length], carried),
            Ok(Received::Nothing) => ready.clear_ready(),
            Ok(Received::Closed) | Err(_) => return Err(gone()),
        }
    }
}

/// Copies the child's picture; what it says of the size is checked.
fn take(size: Size, memory: &OwnedFd, limits: &Limits) -> Result<RawFrame, Unusable> {
    let broken = || Unusable::Damaged("its process said nonsense".to_owned());
    let even = size.width.is_multiple_of(2) && size.height.is_multiple_of(2);
    let fits =
        size.width.max(1) <= limits.size.width.max(2) && size.height.max(1) <= limits.size.height.max(2);
    if !even || !fits || size.i420_len() == 0 {
        return Err(broken());
    }
    let memory = Readable::new(memory, size.i420_len()).map_err(|_| broken())?;
    // A pool of its own: the picture is not one of the call's video.
    let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).ok_or(Unusable::NoRoom)?;
    picture.bytes_mut().copy_from_slice(memory.bytes().get(..size.i420_len()).ok_or_else(broken)?);
    Ok(RawFrame::new(picture.freeze()))
}

/// The child: opens the one picture it is sent, and ends. The result is the exit code.
pub fn run(control: impl AsFd) -> i32 {
    let control = control.as_fd();
    if rustix::net::sockopt::socket_type(control).is_err() {
        eprintln!("eyeline worker is started by eyeline itself");
        return 2;
    }
    isolate(c"eyeline-stills");
    for (resource, most) in [(Resource::As, CHILD_MEMORY), (Resource::Cpu, CHILD_SECONDS)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        if let Err(error) = rustix::process::setrlimit(resource, limit) {
            eprintln!("eyeline worker: not limited: {error}");
        }
    }
    let mut buffer = [0; MAX_MESSAGE];
    let waited = control::wait(&[&control], Some(Duration::from_secs(CHILD_SECONDS)));
    let Ok(Received::Message(length, Some(file))) =
        waited.and_then(|()| control::receive(control, &mut buffer))
    else {
        return 1;
    };
    let Some(order) = Order::read(&buffer[..length]) else { return 1 };
    let sent = match open(&order, &file) {
        Ok((size, memory)) => {
            let message = [b"done".as_slice(), &number(size.width), &number(size.height)].concat();
            control::send(control, &message, Some(memory.descriptor()), Blocking::Yes)
        }
        Err(why) => {
            let text = match &why {
                Unusable::Damaged(text) => text.clone(),
                other => other.to_string(),
            };
            let text: String = text.chars().take(MAX_MESSAGE / 8).collect();
            control::send(control, &[b"fail", text.as_bytes()].concat(), None, Blocking::Yes)
        }
    };
    i32::from(sent.is_err())
}

fn open(order: &Order, file: &OwnedFd) -> Result<(Size, Writable), Unusable> {
    let room = |_| Unusable::NoRoom;
    let file = Readable::new(file, order.length).map_err(room)?;
    let bytes = file.bytes().get(..order.length).ok_or(Unusable::NoRoom)?;
    let picture = pixels(bytes, &FramePool::new(1), Pts::ZERO, &order.limits)?;
    let mut memory = Writable::new(picture.bytes().len()).map_err(room)?;
    memory.write(picture.bytes());
    Ok((picture.size(), memory))
}

/// What the child is to open.
#[derive(Debug, PartialEq)]
struct Order {
    length: usize,
    limits: Limits,
}

impl Order {
    fn write(&self) -> Vec<u8> {
        let Limits { bytes, pixels, size } = self.limits;
        let numbers = [self.length, bytes, pixels, size.width, size.height];
        [b"open".as_slice(), &numbers.map(number).concat()].concat()
    }

    fn read(message: &[u8]) -> Option<Order> {
        let mut numbers = message
            .strip_prefix(b"open")?
            .as_chunks::<8>()
            .0
            .iter()
            .map(|eight| usize::try_from(u64::from_le_bytes(*eight)).unwrap_or(0));
        let mut next = || numbers.next();
        let (length, bytes, pixels) = (next()?, next()?, next()?);
        Some(Order { length, limits: Limits { bytes, pixels, size: Size::new(next()?, next()?) } })
    }
}

fn number(value: usize) -> [u8; 8] {
    (value as u64).to_le_bytes()
}

fn read_reply(message: &[u8], carried: Option<OwnedFd>) -> Result<(Size, OwnedFd), Unusable> {
    if let Some(why) = message.strip_prefix(b"fail") {
        return Err(Unusable::Damaged(String::from_utf8_lossy(why).into_owned()));
    }
    let nonsense = || Unusable::Damaged("its process said nonsense".to_owned());
    let sides = message.strip_prefix(b"done").ok_or_else(nonsense)?.as_chunks::<8>().0;
    let [width, height] = sides else { return Err(nonsense()) };
    let side = |eight: &[u8; 8]| usize::try_from(u64::from_le_bytes(*eight)).unwrap_or(usize::MAX);
    let size = Size::new(side(width).min(1 << 16), side(height).min(1 << 16));
    Ok((size, carried.ok_or_else(nonsense)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_read_back() {
        let order = Order { length: 7, limits: Limits::default() };
        assert_eq!(Order::read(&order.write()), Some(order));
        assert_eq!(Order::read(b"open"), None);
        assert_eq!(Order::read(b"shut the door"), None);
    }

    #[test]
    fn what_a_broken_child_says_is_not_believed() {
        let memory = || Writable::new(6).expect("memory").descriptor().try_clone_to_owned().expect("a copy");
        let said = |width: usize, height: usize| {
            let message = [b"done".as_slice(), &number(width), &number(height)].concat();
            let (size, memory) = read_reply(&message, Some(memory()))?;
            take(size, &memory, &Limits::default())
        };
        assert!(said(2, 2).is_ok());
        for (width, height) in [(4, 2), (0, 0), (3, 1), (usize::MAX, usize::MAX), (1 << 20, 2)] {
            assert!(said(width, height).is_err(), "{width} {height}");
        }
        assert!(read_reply(b"done", Some(memory())).is_err());
        assert!(
            read_reply(b"fail it is no picture", None)
                .is_err_and(|why| why.to_string().contains("no picture"))
        );
    }
}
