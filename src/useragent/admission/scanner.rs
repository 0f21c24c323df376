//! Programs that look for open SIP servers, told by the names they give themselves. Never the only defence: a name is
//! soon changed.

/// Parts of User-Agent, From, To or Contact, in lower case.
const MARKS: [&[u8]; 12] = [
    b"friendly-scanner",
    b"friendly-request",
    b"sipvicious",
    b"sipcli",
    b"sip-scan",
    b"sipsak",
    b"vaxsipuseragent",
    b"pplsip",
    b"sundayddr",
    b"iwar",
    b"smap",
    b"sivus",
];

/// Further than this no header is looked for.
const LOOKED_AT: usize = 2048;

/// Whether a message names a scanner. Bytes as they came, whatever they are.
pub fn is_scanner(bytes: &[u8]) -> bool {
    let head = bytes.get(..LOOKED_AT).unwrap_or(bytes);
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let telling = [&b"user-agent"[..], b"from", b"f", b"to", b"t", b"contact", b"m"];
        if telling.iter().any(|known| name.trim_ascii().eq_ignore_ascii_case(known)) && has_mark(value) {
            return true;
        }
    }
    false
}

fn has_mark(value: &[u8]) -> bool {
    MARKS.iter().any(|mark| value.windows(mark.len()).any(|window| window.eq_ignore_ascii_case(mark)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(header: &str) -> Vec<u8> {
        format!("OPTIONS sip:100@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{header}\r\n\r\nbody")
            .into_bytes()
    }

    #[test]
    fn scanners_are_told_by_their_names_and_phones_are_not() {
        for header in [
            "User-Agent: friendly-scanner",
            "user-agent : SIPVicious 0.3",
            "From: \"sipvicious\"<sip:100@1.1.1.1>;tag=6339",
            "f: <sip:sipcli@h>",
            "USER-AGENT: VaxSIPUserAgent/3.1",
            "User-Agent: pplsip",
            "User-Agent: sundayddr",
        ] {
            assert!(is_scanner(&message(header)), "{header}");
        }
        for header in
            ["User-Agent: baresip v1.0.0", "From: <sip:door1@h>", "X-Note: friendly-scanner", "Subject"]
        {
            assert!(!is_scanner(&message(header)), "{header}");
        }
        let in_body = b"MESSAGE sip:a SIP/2.0\r\nFrom: <sip:a@b>\r\n\r\nUser-Agent: sipvicious";
        assert!(!is_scanner(in_body));
        assert!(!is_scanner(b"") && !is_scanner(b"\n\n\n:") && !is_scanner(&[0xff; 70_000]));
    }
}
