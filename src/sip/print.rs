//! Messages to bytes: CRLF line ends, one true Content-Length at the end of the headers.
//!
//! A line break inside a value would start a new header, so it is written as a space.

use std::io::Write;

use super::message::{Headers, Message, RequestMessage, ResponseMessage};

impl Message {
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Message::Request(request) => request.to_bytes(),
            Message::Response(response) => response.to_bytes(),
        }
    }
}

impl RequestMessage {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(capacity(&self.headers, &self.body));
        put(&mut out, self.method.as_str());
        out.push(b' ');
        put(&mut out, &self.uri.to_string());
        out.extend_from_slice(b" SIP/2.0\r\n");
        finish(out, &self.headers, &self.body)
    }
}

impl ResponseMessage {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(capacity(&self.headers, &self.body));
        out.extend_from_slice(b"SIP/2.0 ");
        put_number(&mut out, self.status.into());
        out.push(b' ');
        put(&mut out, &self.reason);
        out.extend_from_slice(b"\r\n");
        finish(out, &self.headers, &self.body)
    }
}

fn capacity(headers: &Headers, body: &[u8]) -> usize {
    headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() + body.len() + 192
}

fn finish(mut out: Vec<u8>, headers: &Headers, body: &[u8]) -> Vec<u8> {
    for (name, value) in headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Length")) {
        put(&mut out, name);
        out.extend_from_slice(b": ");
        put(&mut out, value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"Content-Length: ");
    put_number(&mut out, body.len());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
    out
}

fn put(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in out.iter_mut().skip(start).filter(|byte| matches!(byte, b'\r' | b'\n')) {
        *byte = b' ';
    }
}

fn put_number(out: &mut Vec<u8>, number: usize) {
    write!(out, "{number}").expect("a Vec takes every write");
}

#[cfg(test)]
mod tests {
    use crate::sip::message::{Body, Method, RequestMessage, ResponseMessage};
    use crate::sip::uri::Uri;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_request_ends_with_its_true_length_and_body() {
        let mut request = RequestMessage::new(Method::Info, Uri::sip("a", "h", Some(5070)));
        request.headers.push("Content-Length", "7");
        request.headers.push("v", "SIP/2.0/UDP h");
        request.set_body(Some(Body { content_type: "text/plain".into(), bytes: b"hello".to_vec() }));
        assert_eq!(
            text(request.to_bytes()),
            "INFO sip:a@h:5070 SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
        );
    }

    #[test]
    fn line_breaks_cannot_start_a_header() {
        let mut response = ResponseMessage::new(200);
        response.reason = "OK\r\nX: 1".into();
        response.headers.push("Subject", "a\r\nY: 2\n\nbody");
        response.headers.push("Z\nZ", "b");
        assert_eq!(
            text(response.to_bytes()),
            "SIP/2.0 200 OK  X: 1\r\nSubject: a  Y: 2  body\r\nZ Z: b\r\nContent-Length: 0\r\n\r\n"
        );
    }
}
