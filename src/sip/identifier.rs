//! Session-ID (RFC 7989): one identifier that stays with a call across every box it passes, half of it from each end.

use std::fmt;

/// 32 hexadecimal zeros: the other half is not known.
const NIL: &str = "00000000000000000000000000000000";

/// Both halves as this box sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionIdentifier {
    local: String,
    remote: String,
}

impl SessionIdentifier {
    /// Made of random bytes, as a UUID of version 4 (RFC 4122 §4.4).
    pub fn new(mut random: [u8; 16]) -> Self {
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        let local = random.iter().map(|byte| format!("{byte:02x}")).collect();
        SessionIdentifier { local, remote: NIL.to_owned() }
    }

    /// Takes the sender's half of a header of the peer; anything unreadable leaves what is known.
    pub fn hear(&mut self, value: Option<&str>) {
        let half = value.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if half.len() == NIL.len() && half.bytes().all(|byte| byte.is_ascii_hexdigit()) && half != NIL {
            self.remote = half.to_ascii_lowercase();
        }
    }
}

/// The header's value.
impl fmt::Display for SessionIdentifier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{};remote={}", self.local, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_fills_its_half_and_rubbish_does_not() {
        let mut id = SessionIdentifier::new([0xff; 16]);
        assert_eq!(id.to_string(), format!("ffffffffffff4fffbfffffffffffffff;remote={NIL}"));
        for rubbish in [None, Some(""), Some("xyz"), Some("ab30317f1a784dc48ff824d0d3715d8"), Some(NIL)] {
            id.hear(rubbish);
        }
        assert!(id.to_string().ends_with(NIL));
        id.hear(Some("AB30317f1a784dc48ff824d0d3715d86 ;remote=47755a9de7794ba387653f2099600ef2"));
        assert!(id.to_string().ends_with(";remote=ab30317f1a784dc48ff824d0d3715d86"), "{id}");
        // Of RFC 7329: one half and nothing else.
        id.hear(Some("f81d4fae7dec11d0a76500a0c91e6bf6"));
        assert!(id.to_string().ends_with("=f81d4fae7dec11d0a76500a0c91e6bf6"), "{id}");
    }
}
