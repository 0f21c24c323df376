//! The single pictures of calls: those that were given to agents and those that agents gave, for whoever asks for them.
//!
//! Bounded over all calls by number and bytes; the oldest go first. What is beside a recording stays there.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::codec::still::ImageType;
use crate::engine::plan::CallId;
use crate::media::frame::Size;

/// Pictures kept, and their bytes.
const KEPT: usize = 512;
const KEPT_BYTES: usize = 64 << 20;

/// Which way a picture went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the agent.
    Received,
    /// From the agent.
    Sent,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Received => "received",
            Way::Sent => "sent",
        }
    }
}

/// One picture of a call. What a caller's side gave is cleared, unless its route trusts it.
#[derive(Clone)]
pub struct Kept {
    pub call: CallId,
    /// Counts up from 1 within the call, both ways.
    pub number: u32,
    pub way: Way,
    pub kind: ImageType,
    pub size: Size,
    pub bytes: Arc<[u8]>,
    /// What was said with it, or what it is.
    pub text: String,
    pub at: SystemTime,
    /// Where it lies beside the call's recording.
    pub file: Option<PathBuf>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Kept { call, number, way, size, .. } = self;
        write!(f, "Kept({call} {number} {} {size})", way.name())
    }
}

/// Shared by all calls and the console.
#[derive(Clone, Default)]
pub struct Album {
    kept: Arc<Mutex<VecDeque<Arc<Kept>>>>,
}

impl Album {
    fn with<R>(&self, change: impl FnOnce(&mut VecDeque<Arc<Kept>>) -> R) -> R {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn add(&self, kept: Arc<Kept>) {
        self.with(|all| {
            all.push_back(kept);
            let mut bytes: usize = all.iter().map(|kept| kept.bytes.len()).sum();
            while all.len() > 1 && (all.len() > KEPT || bytes > KEPT_BYTES) {
                bytes -= all.pop_front().map_or(0, |oldest| oldest.bytes.len());
            }
        });
    }

    /// Those of a call, oldest first. `call`: its id as it is shown.
    pub fn of(&self, call: &str) -> Vec<Arc<Kept>> {
        self.with(|all| all.iter().filter(|kept| kept.call.to_string() == call).cloned().collect())
    }

    pub fn one(&self, call: &str, number: u32) -> Option<Arc<Kept>> {
        // Short ids repeat; the newest call is meant.
        self.with(|all| {
            let own = |kept: &&Arc<Kept>| kept.number == number && kept.call.to_string() == call;
            all.iter().rev().find(own).cloned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(call: u64, number: u32, bytes: usize) -> Arc<Kept> {
        Arc::new(Kept {
            call: CallId(call),
            number,
            way: Way::Sent,
            kind: ImageType::Jpeg,
            size: Size::new(2, 2),
            bytes: vec![0; bytes].into(),
            text: String::new(),
            at: SystemTime::UNIX_EPOCH,
            file: None,
        })
    }

    #[test]
    fn pictures_are_found_by_call_and_number_and_no_others() {
        let album = Album::default();
        for (call, number) in [(1, 1), (2, 1), (1, 2)] {
            album.add(kept(call, number, 10));
        }
        let numbers: Vec<u32> = album.of("000001").iter().map(|kept| kept.number).collect();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(album.one("000002", 1).map(|kept| kept.call), Some(CallId(2)));
        assert!(album.one("000002", 2).is_none() && album.of("000003").is_empty());
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let album = Album::default();
        for number in 0..600 {
            album.add(kept(1, number, 10));
        }
        assert_eq!(album.of("000001").len(), KEPT);
        for number in 600..605 {
            album.add(kept(2, number, 20 << 20));
        }
        assert_eq!(album.of("000002").len(), 3);
        assert!(album.of("000001").is_empty());
        album.add(kept(3, 1, KEPT_BYTES + 1));
        assert_eq!(album.of("000003").len(), 1, "one there is always");
    }
}
