//! One SIP message: what is read prints to something that reads and prints the same; what is not is answered.

use eyeline::sip::message::ResponseMessage;
use eyeline::sip::parse::parse;

pub fn run(data: &[u8]) {
    match parse(data) {
        Ok(message) => {
            let printed = message.to_bytes();
            let again = parse(&printed).expect("what was printed is read");
            assert_eq!(printed, again.to_bytes());
        }
        Err(malformed) => {
            if let Some(request) = malformed.answerable {
                assert!(!ResponseMessage::answering(&request, malformed.status).to_bytes().is_empty());
            }
        }
    }
}
