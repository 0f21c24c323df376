//! Bodies of several parts (RFC 2046 §5.1, used in SIP by RFC 5621): which part of one is the session description.
//!
//! Read forgivingly: line ends LF or CRLF, a boundary that is not quoted, a last delimiter that is missing. One level of
//! nesting is followed. A part that must be understood and is not refuses the whole body only when it says so itself
//! (`handling=required`): senders of recording metadata and of ISUP leave the word out and mean that it may be skipped.
//! What a description says is not asked here.

use memchr::memmem;

/// Most parts read, over all levels.
const MAX_PARTS: usize = 16;
/// Most bytes of headers of one part.
const MAX_PART_HEADERS: usize = 4096;
/// RFC 2046 §5.1.1.
const LONGEST_BOUNDARY: usize = 70;

const DESCRIPTION: &str = "application/sdp";

/// What a body is for somebody who wants a session description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// The bytes of the description: the body, or one of its parts.
    Description(&'a [u8]),
    /// Something else, or nothing; a part that must be understood and is not counts as this.
    Other,
}

/// Finds the session description in a body of the given `Content-Type`.
pub fn description<'a>(content_type: &str, body: &'a [u8]) -> Content<'a> {
    let kind = media_type(content_type);
    if kind == DESCRIPTION {
        return Content::Description(body);
    }
    if !kind.starts_with("multipart/") {
        return Content::Other;
    }
    let mut left = MAX_PARTS;
    match search(content_type, body, 0, &mut left) {
        Found::Description(bytes) => Content::Description(bytes),
        Found::Nothing | Found::Refused => Content::Other,
    }
}

/// Whether a body is made of parts.
pub fn is_multipart(content_type: &str) -> bool {
    media_type(content_type).starts_with("multipart/")
}

enum Found<'a> {
    Nothing,
    Description(&'a [u8]),
    /// A part that must be understood is not.
    Refused,
}

fn search<'a>(content_type: &str, body: &'a [u8], depth: usize, left: &mut usize) -> Found<'a> {
    let Some(boundary) = parameter(content_type, "boundary") else { return Found::Nothing };
    if boundary.is_empty() || boundary.len() > LONGEST_BOUNDARY {
        return Found::Nothing;
    }
    // Of alternatives the last that is understood is the best (RFC 2046 §5.1.4); else the first counts.
    let alternative = media_type(content_type) == "multipart/alternative";
    let mut found = Found::Nothing;
    for bytes in parts(body, &boundary) {
        if *left == 0 {
            break;
        }
        *left -= 1;
        let part = Part::read(bytes);
        let kind = media_type(&part.content_type);
        let inner = if kind.starts_with("multipart/") && depth == 0 {
            search(&part.content_type, part.body, depth + 1, left)
        } else if kind == DESCRIPTION && part.is_plain {
            Found::Description(part.body)
        } else if part.required && !alternative {
            Found::Refused
        } else {
            Found::Nothing
        };
        match inner {
            Found::Refused => return Found::Refused,
            Found::Description(bytes) if alternative || matches!(found, Found::Nothing) => {
                found = Found::Description(bytes);
            }
            Found::Description(_) | Found::Nothing => {}
        }
    }
    found
}

/// The pieces between delimiter lines, without the line end before the next one.
fn parts<'a>(body: &'a [u8], boundary: &str) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = format!("--{boundary}");
    let mut delimiters: Vec<(usize, usize, bool)> = Vec::new();
    for at in memmem::find_iter(body, delimiter.as_bytes()) {
        let line_begins = at == 0 || body.get(at - 1) == Some(&b'\n');
        let after = body.get(at + delimiter.len()..).unwrap_or_default();
        let line_end = after.iter().position(|byte| *byte == b'\n');
        let rest = after.get(..line_end.unwrap_or(after.len())).unwrap_or_default();
        let last = rest.starts_with(b"--");
        let blank = rest.iter().all(|byte| byte.is_ascii_whitespace());
        if line_begins && (last || blank) {
            let begin = at + delimiter.len() + line_end.map_or(after.len(), |end| end + 1);
            delimiters.push((at, begin, last));
        }
        if last || delimiters.len() > MAX_PARTS {
            break;
        }
    }
    let ends: Vec<usize> = delimiters.iter().skip(1).map(|(at, ..)| *at).chain([body.len()]).collect();
    delimiters.into_iter().zip(ends).filter(|((_, _, last), _)| !last).map(move |((_, begin, _), end)| {
        let part = body.get(begin..end).unwrap_or_default();
        let part = part.strip_suffix(b"\n").unwrap_or(part);
        part.strip_suffix(b"\r").unwrap_or(part)
    })
}

struct Part<'a> {
    content_type: String,
    /// Neither encoded nor for something else than the session.
    is_plain: bool,
    required: bool,
    body: &'a [u8],
}

impl<'a> Part<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let (head, body) = head_and_body(bytes);
        let head = String::from_utf8_lossy(head.get(..MAX_PART_HEADERS).unwrap_or(head)).into_owned();
        let unfolded = head.replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", " ");
        let header = |name: &str, short: &str| {
            unfolded.lines().find_map(|line| {
                let (own, value) = line.split_once(':')?;
                let own = own.trim();
                let named = own.eq_ignore_ascii_case(name) || own.eq_ignore_ascii_case(short);
                named.then(|| value.trim().to_owned())
            })
        };
        let disposition = header("Content-Disposition", "Content-Disposition").unwrap_or_default();
        let encoding = header("Content-Transfer-Encoding", "Content-Transfer-Encoding").unwrap_or_default();
        let plain = ["", "binary", "8bit", "7bit"].iter().any(|plain| encoding.eq_ignore_ascii_case(plain));
        let handling = parameter(&disposition, "handling").unwrap_or_default();
        let purpose = media_type(&disposition);
        Part {
            content_type: header("Content-Type", "c").unwrap_or_default(),
            is_plain: plain && ["", "session", "early-session"].contains(&purpose.as_str()),
            required: handling.eq_ignore_ascii_case("required"),
            body,
        }
    }
}

/// A part without headers begins with an empty line.
fn head_and_body(bytes: &[u8]) -> (&[u8], &[u8]) {
    for blank in [&b"\r\n"[..], b"\n"] {
        if let Some(body) = bytes.strip_prefix(blank) {
            return (b"", body);
        }
    }
    let ends = [&b"\r\n\r\n"[..], b"\n\n"].map(|end| memmem::find(bytes, end).map(|at| (at, at + end.len())));
    match ends.into_iter().flatten().min() {
        Some((end, begin)) => (bytes.get(..end).unwrap_or_default(), bytes.get(begin..).unwrap_or_default()),
        None => (bytes, b""),
    }
}

/// `type/subtype` in small letters, or the first word of a disposition.
fn media_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn parameter(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|parameter| {
        let (own, value) = parameter.split_once('=')?;
        own.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &str = "multipart/mixed;boundary=\"b1\"";

    fn found(content_type: &str, body: &str) -> Option<String> {
        match description(content_type, body.as_bytes()) {
            Content::Description(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Content::Other => None,
        }
    }

    #[test]
    fn the_description_is_found_beside_other_parts() {
        let body = "preamble\r\n--b1\r\nContent-Type: application/rs-metadata+xml\r\n\
            Content-Disposition: recording-session\r\n\r\n<xml/>\r\n--b1 \r\nc: Application/SDP;charset=x\r\n\r\n\
            v=0\r\nm=audio 1 RTP/AVP 0\r\n\r\n--b1--\r\nepilogue";
        assert_eq!(found(MIXED, body).as_deref(), Some("v=0\r\nm=audio 1 RTP/AVP 0\r\n"));
        assert_eq!(found(MIXED, &body.replace("\r\n", "\n")).as_deref(), Some("v=0\nm=audio 1 RTP/AVP 0\n"));
        assert!(found("Multipart/Mixed; boundary=b1", body).is_some());
        assert_eq!(found("application/sdp", "v=0").as_deref(), Some("v=0"));
    }

    #[test]
    fn of_alternatives_the_last_counts_and_of_a_mixture_the_first() {
        let body = "--x\r\nContent-Type: application/sdp\r\n\r\nfirst\r\n--x\r\nContent-Type: application/sdp\r\n\
            Content-Disposition: session; handling=optional\r\n\r\nsecond\r\n--x--";
        assert_eq!(found("multipart/alternative;boundary=x", body).as_deref(), Some("second"));
        assert_eq!(found("multipart/mixed;boundary=x", body).as_deref(), Some("first"));
    }

    #[test]
    fn nesting_is_followed_once() {
        let inner = "--i\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--i--\r\n";
        let nested = |depth: &str| format!("--b1\r\nContent-Type: {depth}\r\n\r\n{inner}\r\n--b1--");
        assert_eq!(found(MIXED, &nested("multipart/alternative; boundary=i")).as_deref(), Some("v=0"));
        let twice = format!(
            "--o\r\nContent-Type: {MIXED}\r\n\r\n{}\r\n--o--",
            nested("multipart/alternative; boundary=i")
        );
        assert_eq!(found("multipart/mixed;boundary=o", &twice), None);
    }

    #[test]
    fn a_part_is_refused_only_when_it_insists() {
        let body = |disposition: &str| {
            format!(
                "--b1\r\nContent-Type: application/isup\r\nContent-Disposition: signal{disposition}\r\n\r\n\x01\r\n\
                 --b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b1--"
            )
        };
        assert!(found(MIXED, &body("")).is_some());
        assert!(found(MIXED, &body("; handling=optional")).is_some());
        assert_eq!(found(MIXED, &body("; handling=required")), None);
    }

    #[test]
    fn what_is_no_description_is_none() {
        assert_eq!(found("text/plain", "v=0"), None);
        assert_eq!(found("", ""), None);
        assert_eq!(found("multipart/mixed", "--b1\r\n\r\nv=0"), None);
        assert_eq!(found(MIXED, ""), None);
        assert_eq!(found(MIXED, "--b1--"), None);
        let coded = "--b1\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: base64\r\n\r\ndj0w\r\n--b1--";
        assert_eq!(found(MIXED, coded), None);
        let recorded =
            "--b1\r\nContent-Type: application/sdp\r\nContent-Disposition: icon\r\n\r\nv=0\r\n--b1--";
        assert_eq!(found(MIXED, recorded), None);
    }

    #[test]
    fn a_body_that_is_cut_or_crowded_is_read_without_end() {
        let open = "--b1\r\nContent-Type: application/sdp\r\n\r\nv=0";
        assert_eq!(found(MIXED, open).as_deref(), Some("v=0"));
        let crowd =
            format!("{}--b1\r\nContent-Type: application/sdp\r\n\r\nv=0", "--b1\r\n\r\nx\r\n".repeat(5000));
        assert_eq!(found(MIXED, &crowd), None);
        let mut bytes = open.as_bytes().to_vec();
        for seed in 0..2000usize {
            let at = seed * 7919 % bytes.len();
            bytes[at] = (seed * 31 % 256) as u8;
            let _ = description(MIXED, &bytes);
        }
    }
}
