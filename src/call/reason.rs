//! What the peer says of its BYE, CANCEL or refusal: the Reason header (RFC 3326), Q.850 before SIP.

use crate::sip::message::reason_phrase;

/// One reason of the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerReason {
    pub protocol: Protocol,
    /// A cause of Q.850 (1 to 127) or a SIP status.
    pub cause: u16,
    /// In the peer's words, else in those of the standard.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Q850,
    Sip,
}

impl std::fmt::Display for PeerReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Q850 => "Q.850",
            Protocol::Sip => "SIP",
        };
        write!(f, "{protocol} {}: {}", self.cause, self.text)
    }
}

/// A peer's text is kept no longer than this.
const LONGEST: usize = 120;

/// The reason in a Reason header, or in several joined by commas: the one of Q.850 if there is one.
pub fn read(header: &str) -> Option<PeerReason> {
    let all: Vec<PeerReason> = outside_quotes(header, ',').filter_map(one).collect();
    all.iter().find(|reason| reason.protocol == Protocol::Q850).or(all.first()).cloned()
}

fn one(text: &str) -> Option<PeerReason> {
    let mut parts = outside_quotes(text, ';');
    let protocol = match parts.next()?.trim().to_ascii_uppercase().as_str() {
        "Q.850" => Protocol::Q850,
        "SIP" => Protocol::Sip,
        _ => return None,
    };
    let (mut cause, mut said) = (None, String::new());
    for part in parts {
        let Some((name, value)) = part.split_once('=') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "cause" => cause = value.trim().parse::<u16>().ok(),
            "text" => said = plain(value),
            _ => {}
        }
    }
    let cause = cause?;
    let text = match (said.is_empty(), protocol) {
        (false, _) => said,
        (true, Protocol::Q850) => meaning(cause).to_owned(),
        (true, Protocol::Sip) => reason_phrase(cause).to_owned(),
    };
    Some(PeerReason { protocol, cause, text })
}

/// Without quotes and escapes, printable, bounded.
fn plain(value: &str) -> String {
    let value = value.trim();
    let inner = value.strip_prefix('"').map_or(value, |value| value.strip_suffix('"').unwrap_or(value));
    let value = inner.replace('\\', "");
    value.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}

fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |letter| {
        let splits = letter == separator && !quoted;
        quoted ^= letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        splits
    })
}

/// Q.850 table 1, the causes telephony uses.
fn meaning(cause: u16) -> &'static str {
    match cause {
        1 => "unallocated number",
        3 => "no route to destination",
        16 => "normal call clearing",
        17 => "user busy",
        18 => "no user responding",
        19 => "no answer from user",
        20 => "subscriber absent",
        21 => "call rejected",
        22 => "number changed",
        26 => "non-selected user clearing",
        27 => "destination out of order",
        28 => "invalid number format",
        31 => "normal, unspecified",
        34 => "no circuit available",
        38 => "network out of order",
        41 => "temporary failure",
        42 => "switching equipment congestion",
        44 => "requested circuit not available",
        47 => "resource unavailable",
        50 => "requested facility not subscribed",
        57 => "bearer capability not authorized",
        58 => "bearer capability not available",
        65 => "bearer capability not implemented",
        79 => "service not implemented",
        88 => "incompatible destination",
        102 => "recovery on timer expiry",
        111 => "protocol error",
        127 => "interworking, unspecified",
        _ => "unknown cause",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as(header: &str) -> Option<String> {
        read(header).map(|reason| reason.to_string())
    }

    #[test]
    fn q850_is_preferred_and_text_may_hold_separators() {
        let header = "SIP ;cause=200 ;text=\"Call completed, elsewhere\", Q.850;cause=26";
        assert_eq!(read_as(header).as_deref(), Some("Q.850 26: non-selected user clearing"));
        let header = "sip;text=\"a; b, \\\"c\\\"\";cause=600";
        assert_eq!(read_as(header).as_deref(), Some("SIP 600: a; b, \"c\""));
    }

    #[test]
    fn unknown_causes_are_kept_and_rubbish_is_not() {
        assert_eq!(read_as("Q.850;cause=99").as_deref(), Some("Q.850 99: unknown cause"));
        for rubbish in ["", "Q.850", "Q.850;cause=x", "X;cause=1", ";;;", "\"", "Q.850;cause=99999999"] {
            assert_eq!(read(rubbish), None, "{rubbish}");
        }
        let long = format!("Q.850;cause=16;text=\"{}\"", "x\u{7}".repeat(5000));
        assert_eq!(read(&long).map(|reason| reason.text.len()), Some(LONGEST));
    }
}
