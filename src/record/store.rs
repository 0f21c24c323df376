//! Driver. Where recordings lie: `YYYY/MM/DD/<call>_<from>_<to>.mp4` under one directory, and whether there is room.
//!
//! A name that exists is never used again. Deleting and uploading do not belong here.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use time::Date;

/// Longest part of a file name one party's name becomes.
const PARTY_MAX: usize = 40;
/// So many recordings may share one name before something is wrong.
const SAME_NAME_MAX: u32 = 1_000;

/// Why there is no place for a recording.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} has {free} MiB free, less than recording.min_free_gib ({wanted} MiB): make room or lower it",
            path = .path.display())]
    Full { path: PathBuf, free: u64, wanted: u64 },
    #[error("{path} cannot be written: {error}; check recording.dir and its owner", path = .path.display())]
    Unusable { path: PathBuf, error: io::Error },
}

/// Whose recording it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingName {
    /// The call's short id.
    pub call: String,
    pub from: String,
    pub to: String,
}

/// The directory of recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
    min_free: u64,
}

impl Store {
    /// `min_free_bytes` must stay free for a recording to start.
    pub fn new(root: impl Into<PathBuf>, min_free_bytes: u64) -> Self {
        Store { root: root.into(), min_free: min_free_bytes }
    }

    /// Reserves the file for a recording that starts on `date`: it exists, empty, when this returns.
    pub fn reserve(&self, date: Date, name: &RecordingName) -> Result<PathBuf, StoreError> {
        let (year, month, day) = date.to_calendar_date();
        let folder = self.root.join(format!("{year:04}/{:02}/{day:02}", u8::from(month)));
        let unusable = |error| StoreError::Unusable { path: folder.clone(), error };
        DirBuilder::new().recursive(true).mode(0o750).create(&folder).map_err(unusable)?;
        self.check_room(&folder)?;
        let stem = format!("{}_{}_{}", plain(&name.call), plain(&name.from), plain(&name.to));
        for attempt in 1..=SAME_NAME_MAX {
            let again = if attempt == 1 { String::new() } else { format!("_{attempt}") };
            let path = folder.join(format!("{stem}{again}.mp4"));
            if record_path(&path).exists() {
                continue;
            }
            match OpenOptions::new().write(true).create_new(true).mode(0o640).open(&path) {
                Ok(_) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unusable(error)),
            }
        }
        Err(unusable(io::Error::other(format!("{SAME_NAME_MAX} recordings are called {stem} already"))))
    }

    /// Whether a recording may start or go on.
    pub fn check_room(&self, folder: &Path) -> Result<(), StoreError> {
        let free =
            free_bytes(folder).map_err(|error| StoreError::Unusable { path: folder.to_owned(), error })?;
        if free < self.min_free {
            let path = self.root.clone();
            return Err(StoreError::Full { path, free: free >> 20, wanted: self.min_free >> 20 });
        }
        Ok(())
    }
}

/// Bytes an unprivileged process may still write where `path` lies.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// A picture of the call beside its recording.
pub fn picture_path(recording: &Path, number: u32, extension: &str) -> PathBuf {
    let stem = recording.file_stem().unwrap_or_default().to_string_lossy();
    recording.with_file_name(format!("{stem}-image-{number}.{extension}"))
}

/// The call record beside a recording.
pub fn record_path(recording: &Path) -> PathBuf {
    recording.with_extension("json")
}

/// A name as part of a file name: letters, digits, `-`, `.` and `+`; never hidden, never empty, never long.
fn plain(name: &str) -> String {
    let name = name.strip_prefix("sips:").or_else(|| name.strip_prefix("sip:")).unwrap_or(name);
    let keep = |c: char| if c.is_ascii_alphanumeric() || "-.+".contains(c) { c } else { '-' };
    let plain: String = name.chars().map(keep).take(PARTY_MAX).collect();
    let trimmed = plain.trim_matches(['.', '-']);
    if trimmed.is_empty() { "unknown".to_owned() } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(from: &str) -> RecordingName {
        RecordingName { call: "3f2a".to_owned(), from: from.to_owned(), to: "sip:desk@10.0.0.1".to_owned() }
    }

    fn date() -> Date {
        Date::from_calendar_date(2026, time::Month::March, 7).expect("a date")
    }

    #[test]
    fn a_recording_lies_under_its_day_and_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::new(dir.path(), 0);
        let first = store.reserve(date(), &name("sip:+49301234@gw")).expect("a place");
        let folder = dir.path().join("2026/03/07");
        assert_eq!(first, folder.join("3f2a_+49301234-gw_desk-10.0.0.1.mp4"));
        let second = store.reserve(date(), &name("sip:+49301234@gw")).expect("a place");
        assert_eq!(second, folder.join("3f2a_+49301234-gw_desk-10.0.0.1_2.mp4"));
        // A record without its file, the file having been deleted, keeps its name too.
        std::fs::rename(&first, record_path(&first)).expect("renamed");
        assert_ne!(store.reserve(date(), &name("sip:+49301234@gw")).expect("a place"), first);
    }

    #[test]
    fn names_from_outside_stay_in_the_directory() {
        for (from, wanted) in [
            ("../../etc/passwd", "etc-passwd"),
            ("..", "unknown"),
            ("", "unknown"),
            ("Ünsal \"x\"\n", "nsal--x"),
            (&"a".repeat(300), &"a".repeat(PARTY_MAX)),
        ] {
            assert_eq!(plain(from), wanted);
        }
    }

    #[test]
    fn a_full_disk_is_said_with_both_numbers() {
        let dir = tempfile::tempdir().expect("a directory");
        let error =
            Store::new(dir.path(), u64::MAX).reserve(date(), &name("a")).expect_err("no disk is that large");
        assert!(matches!(error, StoreError::Full { .. }));
        assert!(error.to_string().contains("min_free_gib"), "{error}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Store::new("/proc/recordings", 0).reserve(date(), &name("a")).expect_err("read-only");
        assert!(error.to_string().contains("/proc/recordings"), "{error}");
    }
}
