//! A body and its Content-Type, parted by the first line end: the description found is a piece of the body, and one
//! that is wrapped in parts comes out as it went in.

use std::str;

use eyeline::sip::multipart::{Content, description, is_multipart};

const BOUNDARY: &str = "a boundary that no body holds";

pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (kind, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let Ok(kind) = str::from_utf8(kind) else { return };
    if let Content::Description(found) = description(kind, body) {
        assert!(body.as_ptr_range().contains(&found.as_ptr()) || found.is_empty());
        assert!(is_multipart(kind) || found == body);
    }
    if memchr_in(body, BOUNDARY.as_bytes()) {
        return;
    }
    for kind in ["mixed", "alternative", "related"] {
        let mut whole =
            format!("preamble\r\n--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n").into_bytes();
        whole.extend(format!("--{BOUNDARY}\r\nContent-Type: application/sdp\r\n\r\n").into_bytes());
        whole.extend(body);
        whole.extend(format!("\r\n--{BOUNDARY}--\r\n").into_bytes());
        let kind = format!("multipart/{kind};boundary=\"{BOUNDARY}\"");
        assert_eq!(description(&kind, &whole), Content::Description(body));
    }
}

fn memchr_in(body: &[u8], needle: &[u8]) -> bool {
    body.windows(needle.len()).any(|window| window == needle)
}
