//! Torture messages as files: the name of each and its bytes. Shared by the tests that read them and those that send
//! them.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file with this extension, by name.
pub fn messages(folder: &Path, extension: &str) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|known| known == extension))
        .collect();
    files.sort();
    let name = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}
