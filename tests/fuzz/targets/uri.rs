//! One URI: what is read prints to something that reads the same, and what we make of a user and a host reads back.

use std::str;

use eyeline::sip::uri::{Scheme, Uri};

pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(uri) = Uri::parse(text) {
        let printed = uri.to_string();
        assert_eq!(Uri::parse(&printed).as_ref(), Some(&uri), "{printed}");
        // Whatever a URI says, it stays within its place in a header line.
        assert!(!printed.contains(['\r', '\n', '<', '>', '"', ' ']), "{printed:?}");
        assert!(printed.len() <= text.len(), "{printed}");
        assert_eq!(uri.is_sip(), !matches!(uri.scheme, Scheme::Other(_)));
        assert!(uri.user().is_none_or(|user| text.contains(user)));
        let _ = (uri.user_decoded(), uri.host_ip(), uri.transport(), uri.is_loose());
    }
    let made = Uri::sip(text, "2001:db8::1", Some(5060));
    let read = Uri::parse(&made.to_string());
    assert_eq!(read.as_ref(), Some(&made));
    assert_eq!(made.user_decoded().unwrap_or_default(), text);
}
