//! Inputs of the fuzzers that are kept, given to the same functions on every run: seeds, and whatever once broke.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

#[path = "fuzz/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn every_target_has_a_corpus_and_lives_through_it() {
    let folders: BTreeSet<String> = files(&root().join("fuzz/corpus"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(folders, names, "one folder of inputs for each target");
    for (name, target) in TARGETS {
        let seeds = files(&root().join("fuzz/corpus").join(name));
        assert!(!seeds.is_empty(), "{name} has no input");
        for seed in seeds {
            // A panic names the test; this line names the input.
            println!("{}", seed.display());
            target(&fs::read(seed).unwrap());
        }
    }
}

/// Cuts, doubles and overwrites inputs of each target: a little of what the fuzzers do, in every run and always the
/// same.
#[test]
fn every_target_lives_through_its_corpus_bent_a_little() {
    for (name, target) in TARGETS {
        for seed in files(&root().join("fuzz/corpus").join(name)) {
            let bytes = fs::read(&seed).unwrap();
            println!("{}", seed.display());
            for step in 0..200_usize {
                let mut bent = bytes.clone();
                let at = step.wrapping_mul(2_654_435_761) % (bent.len() + 1);
                match step % 4 {
                    0 => bent.truncate(at),
                    1 => bent.splice(at..at, bytes[at..].iter().copied().take(9)).for_each(drop),
                    2 => drop(bent.drain(at..bytes.len().min(at + 3))),
                    _ => bent.iter_mut().skip(at).take(2).for_each(|byte| *byte ^= step as u8),
                }
                target(&bent);
            }
        }
    }
}

/// Texts that other tests read are inputs as well.
#[test]
fn the_targets_live_through_the_messages_and_descriptions_of_other_tests() {
    for (folder, targets) in
        [("data/sip", &["sip_message", "sip_stream"][..]), ("data/sdp", &["sdp", "offer_answer"])]
    {
        let seeds = files(&root().join(folder));
        assert!(seeds.len() > 20, "{folder}");
        for seed in seeds {
            let bytes = fs::read(&seed).unwrap();
            println!("{}", seed.display());
            for (_, target) in TARGETS.iter().filter(|(name, _)| targets.contains(name)) {
                target(&bytes);
            }
        }
    }
}
