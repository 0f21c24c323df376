//! Driver. Which sessions are open, on disk, so that those a crash left behind can be ended at the next start: a session
//! nobody ends costs money until its provider notices.
//!
//! A line a change, `+` or `-`, the avatar's name and the session's id. Written at once, not waited for until it is on the
//! disk itself: it outlives the program, which is what it is for.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The longest id a provider may give, bytes; a longer one is not kept.
const LONGEST: usize = 2_048;
/// Lines after which the file is written anew.
const LINES: usize = 10_000;

/// One open session.
pub type Entry = (String, String);

struct Inner {
    file: Option<File>,
    open: BTreeSet<Entry>,
    lines: usize,
}

/// The open sessions of all avatars.
pub struct Journal {
    path: PathBuf,
    inner: Mutex<Inner>,
}

impl Journal {
    /// Opens the journal; what an earlier run left behind comes with it. A journal that cannot be kept costs only itself.
    pub fn open(path: &Path) -> (Journal, Vec<Entry>) {
        let left: BTreeSet<Entry> = match fs::read_to_string(path) {
            Ok(text) => replay(&text),
            Err(_) => BTreeSet::new(),
        };
        let journal = Journal {
            path: path.to_owned(),
            inner: Mutex::new(Inner { file: None, open: left.clone(), lines: 0 }),
        };
        journal.with(|journal, inner| journal.write_anew(inner));
        (journal, left.into_iter().collect())
    }

    /// The provider has begun this session.
    pub fn opened(&self, avatar: &str, session: &str) {
        if session.len() > LONGEST || session.contains(char::is_control) {
            return;
        }
        let entry = (avatar.to_owned(), session.to_owned());
        self.with(|journal, inner| {
            if inner.open.insert(entry.clone()) {
                journal.line(inner, '+', &entry);
            }
        });
    }

    /// It is over.
    pub fn closed(&self, avatar: &str, session: &str) {
        let entry = (avatar.to_owned(), session.to_owned());
        self.with(|journal, inner| {
            if inner.open.remove(&entry) {
                journal.line(inner, '-', &entry);
            }
        });
    }

    fn with(&self, change: impl FnOnce(&Journal, &mut Inner)) {
        change(self, &mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn line(&self, inner: &mut Inner, sign: char, (avatar, session): &Entry) {
        inner.lines += 1;
        let written = match &mut inner.file {
            Some(file) if inner.lines < LINES => {
                file.write_all(format!("{sign}\t{avatar}\t{session}\n").as_bytes())
            }
            _ => return self.write_anew(inner),
        };
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), "the journal of avatar sessions cannot be written: {error}");
            inner.file = None;
        }
    }

    /// Only what is open, in a new file that takes the place of the old one.
    fn write_anew(&self, inner: &mut Inner) {
        let lines = inner.open.iter().map(|(avatar, session)| format!("+\t{avatar}\t{session}\n"));
        let text: String = lines.collect();
        let fresh = self.path.with_extension("new");
        let made = fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &self.path))
            .and_then(|()| OpenOptions::new().append(true).open(&self.path));
        inner.lines = 0;
        inner.file = made
            .inspect_err(|error| {
                let path = self.path.display();
                tracing::warn!(%path, "avatar sessions a crash leaves behind will not be ended: {error}");
            })
            .ok();
    }
}

/// What is open after all lines; a line that was cut off is passed over.
fn replay(text: &str) -> BTreeSet<Entry> {
    let mut open = BTreeSet::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut parts = line.splitn(3, '\t');
        let (Some(sign), Some(avatar), Some(session)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let entry = (avatar.to_owned(), session.to_owned());
        match sign {
            "+" => open.insert(entry),
            "-" => open.remove(&entry),
            _ => continue,
        };
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_closed_is_there_after_a_crash() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("avatars.journal");
        let (journal, left) = Journal::open(&path);
        assert!(left.is_empty());
        journal.opened("face", "one");
        journal.opened("face", "two");
        journal.closed("face", "one");
        journal.opened("other", "one");
        // The program is killed: nothing more is written, and the last line is cut off.
        std::mem::forget(journal);
        let mut text = fs::read_to_string(&path).expect("the journal");
        text.push_str("-\tface\ttw");
        fs::write(&path, text).expect("a file");
        let (journal, left) = Journal::open(&path);
        let names: Vec<(&str, &str)> =
            left.iter().map(|(avatar, session)| (avatar.as_str(), session.as_str())).collect();
        assert_eq!(names, [("face", "two"), ("other", "one")]);
        for (avatar, session) in &left {
            journal.closed(avatar, session);
        }
        assert!(Journal::open(&path).1.is_empty());
    }

    #[test]
    fn the_file_stays_short() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("avatars.journal");
        let (journal, _) = Journal::open(&path);
        for n in 0..LINES {
            journal.opened("face", &n.to_string());
            journal.closed("face", &n.to_string());
        }
        let length = fs::metadata(&path).expect("the journal").len();
        assert!(length < 20 * LINES as u64, "{length} bytes");
        assert!(Journal::open(&path).1.is_empty());
    }

    #[test]
    fn a_journal_that_cannot_be_kept_stops_nothing() {
        let (journal, left) = Journal::open(Path::new("/proc/none/avatars.journal"));
        assert!(left.is_empty());
        journal.opened("face", "one");
        journal.closed("face", "one");
    }
}
