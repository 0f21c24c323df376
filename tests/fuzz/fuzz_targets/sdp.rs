//! A session description: what is read prints to something that reads the same.
#![no_main]

use eyeline::sdp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(read) = sdp::parse(data) {
        let printed = read.to_string();
        let again = sdp::parse(printed.as_bytes()).expect("what was printed is read");
        assert_eq!(again.to_string(), printed);
    }
});
