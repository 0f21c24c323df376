//! A session description: what is read prints to something that reads the same.

use eyeline::sdp;

pub fn run(data: &[u8]) {
    if let Ok(read) = sdp::parse(data) {
        let printed = read.to_string();
        let again = sdp::parse(printed.as_bytes()).expect("what was printed is read");
        assert_eq!(again.to_string(), printed);
    }
}
