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
