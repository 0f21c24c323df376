//! The fuzzer: one program for every target, which `EYELINE_FUZZ` names. libFuzzer calls it with inputs it invents.
#![no_main]

mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use targets::{TARGETS, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("EYELINE_FUZZ").expect("EYELINE_FUZZ names the target");
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target {name}")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
