//! Driver. One picture's memory shared by two processes: written by the program, read by the child.
//!
//! The protocol orders access: the program does not write while a request on this memory is unanswered. The size is
//! sealed, so neither side can make the other fault.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// The program's side.
pub struct Writable {
    file: OwnedFd,
    map: Map,
}

impl Writable {
    /// New memory of `capacity` bytes, more than none.
    pub fn new(capacity: usize) -> Result<Self, Errno> {
        let file =
            rustix::fs::memfd_create("eyeline-picture", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, capacity as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let map = Map::new(file.as_fd(), capacity, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Writable { file, map })
    }

    pub fn capacity(&self) -> usize {
        self.map.length
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Copies a picture of at most [`Writable::capacity`] bytes to the start.
    pub fn write(&mut self, picture: &[u8]) {
        let length = picture.len().min(self.map.length);
        // SAFETY: the map is `length` bytes long at least, writable, and not aliased by any reference here.
        unsafe { std::ptr::copy_nonoverlapping(picture.as_ptr(), self.map.start.as_ptr().cast(), length) };
    }
}

/// The child's side.
pub struct Readable(Map);

impl Readable {
    /// Maps received memory after checking that it is as long as it was said to be.
    pub fn new(file: &OwnedFd, capacity: usize) -> Result<Self, Errno> {
        let length = rustix::fs::fstat(file)?.st_size;
        if capacity == 0 || u64::try_from(length).is_ok_and(|length| length < capacity as u64) {
            return Err(Errno::INVAL);
        }
        Map::new(file.as_fd(), capacity, ProtFlags::READ).map(Readable)
    }

    /// The memory; the other side leaves it alone until the request is answered.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the map is readable and `length` bytes long, and its size is sealed.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr().cast(), self.0.length) }
    }
}

struct Map {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: a map belongs to the process, not to a thread; access goes through its owner.
unsafe impl Send for Map {}

impl Map {
    fn new(file: BorrowedFd<'_>, length: usize, protection: ProtFlags) -> Result<Self, Errno> {
        // SAFETY: a new map at an address the kernel chooses touches no memory that exists.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0)? };
        NonNull::new(start).map(|start| Map { start, length }).ok_or(Errno::NOMEM)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the map was made by `new`, and every reference into it borrows its owner.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.length) };
        debug_assert!(unmapped.is_ok(), "a map of ours can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads_and_neither_can_resize() {
        let mut writable = Writable::new(8192).expect("memory");
        let file = writable.descriptor().try_clone_to_owned().expect("a second descriptor");
        let readable = Readable::new(&file, 8192).expect("mapped");
        writable.write(&[7; 10]);
        assert_eq!(readable.bytes()[..11], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0]);
        assert_eq!(rustix::fs::ftruncate(&file, 1), Err(Errno::PERM));
        assert!(Readable::new(&file, 1 << 20).is_err(), "more than there is");
    }
}
