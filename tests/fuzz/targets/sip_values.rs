//! Header values with a grammar of their own: what is read prints to something that reads the same.

use std::str;

use eyeline::sip::header::{CSeq, NameAddr, Via, split_list};

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    for element in split_list(text) {
        if let Some(address) = NameAddr::parse(element) {
            assert_eq!(NameAddr::parse(&address.to_string()).as_ref(), Some(&address));
        }
        if let Some(via) = Via::parse(element) {
            assert_eq!(Via::parse(&via.to_string()).as_ref(), Some(&via));
            let _ = (via.unique_branch(), via.received(), via.rport());
        }
    }
    if let Some(cseq) = CSeq::parse(text) {
        assert_eq!(CSeq::parse(&cseq.to_string()), Some(cseq));
    }
}
