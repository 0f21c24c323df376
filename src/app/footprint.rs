//! Driver (reads `/proc/self`). Memory that only the start needed, or calls that are over, goes back to the system.
//!
//! FFmpeg brings a hundred libraries that set themselves up and are never used again, and the proof of the encoder runs
//! code and takes memory that calls may never need. What is used is read again from the page cache, where it stays.

use std::ffi::c_void;
use std::time::Duration;

use rustix::mm::{Advice, madvise};
use rustix::time::{ClockId, clock_gettime};

use crate::base::stop::{Outcome, StopToken};

/// How often it is looked whether there is something to give back.
const EVERY: Duration = Duration::from_secs(15);
/// Less work than this between two looks: no call is there to be held up.
const QUIET: Duration = Duration::from_millis(300);
/// More work than this since memory was given back last: it may be worth it.
const WORKED: Duration = Duration::from_secs(1);

/// From this size on, in bytes, memory comes from the system and goes back to it: pictures. By itself the allocator moves
/// that limit up with every picture that is freed, and keeps what it should give back.
const PICTURES_FROM: i32 = 128 << 10;

/// Keeps pictures out of the heap that small things share. Before there are threads.
pub fn settle() {
    // SAFETY: sets a parameter of the allocator and touches nothing else.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, PICTURES_FROM);
    }
}

/// Gives memory back after the start and whenever calls are over, until it is told to stop.
pub fn keep_small(token: &StopToken) -> Outcome {
    give_back();
    let (mut before, mut given_back) = (used(), used());
    while !token.wait(EVERY) {
        let now = used();
        if now.saturating_sub(before) < QUIET && now.saturating_sub(given_back) > WORKED {
            trim();
            given_back = now;
        }
        before = now;
    }
    Outcome::Done
}

/// Processor time of this process so far.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Free heap goes back; what is in use stays.
fn trim() {
    // SAFETY: gives free memory back and touches nothing else.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of free heap and of file pages nobody has written to. Best effort.
pub fn give_back() {
    trim();
    let Ok(text) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, length) in untouched(&text) {
        // SAFETY: the pages of this mapping are those of its file, unwritten and not writable: the next access reads
        // the same bytes again.
        let done = unsafe { madvise(start as *mut c_void, length, Advice::LinuxDontNeed) };
        if let Err(error) = done {
            tracing::debug!(%error, "a mapping stays in memory");
        }
    }
}

/// Start and length of the private file mappings that cannot be written to and hold no page of their own.
fn untouched(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if first == "Anonymous:" {
            let own = words.next().and_then(|kib| kib.parse::<u64>().ok());
            found.extend(candidate.take().filter(|_| own == Some(0)));
        } else if !first.ends_with(':') {
            // ADDRESSES PERMISSIONS OFFSET DEVICE INODE PATH
            let read_only = matches!(words.next(), Some("r--p" | "r-xp"));
            let is_file = words.nth(2).is_some_and(|inode| inode != "0");
            candidate = range(first).filter(|_| read_only && is_file);
        }
    }
    found
}

fn range(addresses: &str) -> Option<(usize, usize)> {
    let (start, end) = addresses.split_once('-')?;
    let parse = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (parse(start)?, parse(end)?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5000-7000 r-xp 00001000 fe:00 42 /usr/lib/code.so
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7000-8000 r--p 00003000 fe:00 42 /usr/lib/code.so
Anonymous:             4 kB
8000-9000 rw-p 00004000 fe:00 42 /usr/lib/code.so
Anonymous:             0 kB
9000-a000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
a000-b000 r--s 00000000 fe:00 43 /shared
Anonymous:             0 kB
";

    #[test]
    fn only_unwritten_pages_of_files_are_let_go() {
        assert_eq!(untouched(SMAPS), [(0x5000, 0x2000)]);
    }

    #[test]
    fn the_program_goes_on_after_it_let_go() {
        let before = format!("{:?}", SMAPS.lines().count());
        give_back();
        assert_eq!(before, format!("{:?}", SMAPS.lines().count()));
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("procfs");
        assert!(!untouched(&smaps).is_empty(), "the program's own code is such a mapping");
    }
}
