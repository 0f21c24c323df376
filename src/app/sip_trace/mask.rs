//! A SIP message as text without what must stay secret: answers to challenges, keys of media, passwords, keys that were
//! pressed: they may be a PIN.

use std::borrow::Cow;

const HIDDEN: &str = "…";

/// Headers that hold challenges and answers to them.
const PROOFS: [&str; 5] =
    ["authorization", "proxy-authorization", "www-authenticate", "proxy-authenticate", "authentication-info"];
/// Their parts that are secret or lead to it.
const SECRET_PARTS: [&str; 6] = ["response", "nonce", "cnonce", "nextnonce", "rspauth", "opaque"];

/// The text with each secret replaced. Bytes that are no UTF-8 are drawn as what they are not.
pub fn mask(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut in_proof = false;
    // Of INFO: whether the body is keys, and whether it has begun.
    let (mut pressed, mut body) = (false, false);
    for line in text.split_inclusive('\n') {
        if body && pressed {
            out.push_str(&without_digits(line));
            continue;
        }
        body |= line.trim_end().is_empty();
        pressed |= !body && is_of_keys(line);
        // A folded line belongs to the header above it.
        if !line.starts_with([' ', '\t']) {
            let name = line.split_once(':').map_or("", |(name, _)| name).trim();
            in_proof = PROOFS.iter().any(|proof| name.eq_ignore_ascii_case(proof));
        }
        let line = without_passwords(line);
        let line = if in_proof { Cow::Owned(without_proofs(&line)) } else { without_keys(&line) };
        out.push_str(&line);
    }
    out
}

/// Whether a header says that the body is keys of a telephone.
fn is_of_keys(line: &str) -> bool {
    let Some((name, value)) = line.split_once(':') else { return false };
    let named = ["content-type", "c"].iter().any(|known| name.trim().eq_ignore_ascii_case(known));
    named && value.trim().to_ascii_lowercase().starts_with("application/dtmf")
}

/// `Signal=5`, or the bare key.
fn without_digits(line: &str) -> String {
    let text = line.trim_end();
    let end = &line[text.len()..];
    match text.split_once('=') {
        Some((name, _)) if name.trim().eq_ignore_ascii_case("signal") => format!("{name}={HIDDEN}{end}"),
        Some(_) => line.to_owned(),
        None if text.is_empty() => line.to_owned(),
        None => format!("{HIDDEN}{end}"),
    }
}

/// `name="value"` and `name=value` of the secret parts.
fn without_proofs(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(equals) = rest.find('=') {
        let (before, after) = (&rest[..=equals], &rest[equals + 1..]);
        let name = before[..equals].trim_end().rsplit([',', ' ', '\t', ':']).next().unwrap_or_default();
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let start = after.len() - quoted.len();
                let end = quoted.find('"').map(|end| start + end + 1);
                after.split_at(end.unwrap_or(after.trim_end_matches(['\r', '\n']).len()))
            }
            None => after.split_at(after.find([',', '\r', '\n']).unwrap_or(after.len())),
        };
        out.push_str(before);
        let is_secret = SECRET_PARTS.iter().any(|part| name.eq_ignore_ascii_case(part));
        if is_secret {
            out.push_str(HIDDEN);
            let line_end = value.len() - value.trim_end_matches(['\r', '\n']).len();
            out.push_str(&value[value.len() - line_end..]);
        } else {
            out.push_str(value);
        }
        rest = next;
    }
    out.push_str(rest);
    out
}

/// SDP lines with keys: RFC 4568, RFC 8839, and the `k=` of old.
fn without_keys(line: &str) -> Cow<'_, str> {
    let end = &line[line.trim_end_matches(['\r', '\n']).len()..];
    let lower = line.to_ascii_lowercase();
    if let Some(at) = lower.find("inline:").filter(|_| lower.starts_with("a=crypto:")) {
        return Cow::Owned(format!("{}{HIDDEN}{end}", &line[..at + "inline:".len()]));
    }
    for start in ["a=ice-pwd:", "k=", "a=key-mgmt:"] {
        if lower.starts_with(start) {
            return Cow::Owned(format!("{}{HIDDEN}{end}", &line[..start.len()]));
        }
    }
    Cow::Borrowed(line)
}

/// `sip:user:password@host`.
fn without_passwords(line: &str) -> Cow<'_, str> {
    let lower = line.to_ascii_lowercase();
    if !lower.contains("sip:") && !lower.contains("sips:") {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut from = 0;
    while let Some(at) = ["sip:", "sips:"]
        .iter()
        .filter_map(|scheme| lower[from..].find(scheme).map(|at| from + at + scheme.len()))
        .min()
    {
        out.push_str(&line[from..at]);
        let rest = &line[at..];
        let end = rest.find(['@', '>', ' ', '\r', '\n', '"']).unwrap_or(rest.len());
        let user = &rest[..end];
        match user.find(':').filter(|_| rest[end..].starts_with('@')) {
            Some(colon) => out.push_str(&format!("{}:{HIDDEN}", &user[..colon])),
            None => out.push_str(user),
        }
        from = at + end;
    }
    out.push_str(&line[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_the_rest_is_not_touched() {
        let message = "INVITE sip:bob:s3cret1@example.com;transport=tcp SIP/2.0\r\n\
            Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1\r\n\
            From: \"Bob\" <sips:alice:s3cret2@example.com:5061>;tag=1\r\n\
            To: <sip:bob@example.com>\r\n\
            Contact: <sip:alice@192.0.2.1:5060>, <sip:a:s3cret3@192.0.2.1>\r\n\
            Authorization: Digest username=\"alice\", realm=\"r\", nonce=\"s3cret4\", uri=\"sip:b\",\r\n\
            \x20response=\"s3cret5\" , cnonce = \"s3cret6\", nc=00000001, qop=auth\r\n\
            WWW-Authenticate: Digest realm=\"r\", nonce=s3cret7\r\n\
            Content-Type: application/sdp\r\n\r\n\
            v=0\r\nk=clear:s3cret8\r\n\
            a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:s3cret9|2^20\r\n\
            a=ICE-pwd:s3cret0\r\na=ice-ufrag:abcd\r\n";
        let masked = mask(message.as_bytes());
        assert!(!masked.contains("s3cret"), "{masked}");
        for kept in [
            "INVITE sip:bob:…@example.com;transport=tcp SIP/2.0\r\n",
            "<sips:alice:…@example.com:5061>;tag=1",
            "To: <sip:bob@example.com>\r\n",
            "Contact: <sip:alice@192.0.2.1:5060>, <sip:a:…@192.0.2.1>\r\n",
            "username=\"alice\", realm=\"r\", nonce=…, uri=\"sip:b\",\r\n",
            " , cnonce =…, nc=00000001, qop=auth\r\n",
            "nonce=…\r\nContent-Type",
            "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:…\r\n",
            "a=ice-ufrag:abcd\r\n",
        ] {
            assert!(masked.contains(kept), "{kept:?} in {masked}");
        }
        assert_eq!(masked.lines().count(), message.lines().count());
    }

    #[test]
    fn anything_can_be_masked() {
        for bytes in [
            &b""[..],
            b"\xff\xfe",
            b"Authorization: nonce=\"",
            b"sip:",
            b"a=crypto:1",
            b"sip:\xc3\xa4:x@y\n=",
        ] {
            let _ = mask(bytes);
        }
        assert!(!mask("Authorization: Digest nonce=\"s3cret\u{3000}".as_bytes()).contains("s3cret"));
        assert!(!mask(b"Authorization: Digest response=\"s3cret").contains("s3cret"));
        assert!(!mask("authorization: Digest ä=\"ö\", response=\"s3cret\"".as_bytes()).contains("s3cret"));
    }

    #[test]
    fn keys_that_were_pressed_are_hidden() {
        let relay = mask(
            b"INFO sip:a SIP/2.0\r\nContent-Type: application/dtmf-relay\r\n\r\nSignal=5\r\nDuration=160\r\n",
        );
        assert!(relay.ends_with("\r\n\r\nSignal=\u{2026}\r\nDuration=160\r\n"), "{relay}");
        let bare = mask(b"INFO sip:a SIP/2.0\r\nc: application/dtmf\r\n\r\n7\r\n");
        assert!(bare.ends_with("\r\n\r\n\u{2026}\r\n"), "{bare}");
        let other = mask(b"MESSAGE sip:a SIP/2.0\r\nContent-Type: text/plain\r\n\r\nSignal=5\r\n");
        assert!(other.ends_with("Signal=5\r\n"), "{other}");
    }
}
