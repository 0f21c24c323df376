//! `a=fingerprint` (RFC 8122) and `a=setup` (RFC 4145, RFC 8842): what a description says of a DTLS association.
//!
//! Certificates and handshakes do not belong here.

use std::fmt;

/// The hash of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Its name as in SDP, lower case.
    pub hash: String,
    pub bytes: Vec<u8>,
}

/// Who opens the association, seen from the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    Active,
    Passive,
    /// Either; the answerer chooses.
    ActPass,
    /// Not now.
    HoldConnection,
}

impl Fingerprint {
    /// Reads an attribute's value. `None` for hashes that are unknown, broken (MD5) or of the wrong length.
    pub fn parse(value: &str) -> Option<Self> {
        let (hash, digits) = value.trim().split_once(char::is_whitespace)?;
        let hash = hash.to_ascii_lowercase();
        let length = match hash.as_str() {
            "sha-1" => 20,
            "sha-224" => 28,
            "sha-256" => 32,
            "sha-384" => 48,
            "sha-512" => 64,
            _ => return None,
        };
        let byte = |pair: &str| (pair.len() == 2).then(|| u8::from_str_radix(pair, 16).ok()).flatten();
        let bytes = digits.trim().split(':').map(byte).collect::<Option<Vec<u8>>>()?;
        (bytes.len() == length).then_some(Fingerprint { hash, bytes })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hash)?;
        let separated = self.bytes.iter().enumerate();
        separated
            .map(|(at, byte)| (if at == 0 { ' ' } else { ':' }, byte))
            .try_for_each(|(before, byte)| write!(f, "{before}{byte:02X}"))
    }
}

impl Setup {
    /// Reads an attribute's value.
    pub fn parse(value: &str) -> Option<Self> {
        match value.trim().to_ascii_lowercase().as_str() {
            "active" => Some(Setup::Active),
            "passive" => Some(Setup::Passive),
            "actpass" => Some(Setup::ActPass),
            "holdconn" => Some(Setup::HoldConnection),
            _ => None,
        }
    }

    /// As written.
    pub fn name(self) -> &'static str {
        match self {
            Setup::Active => "active",
            Setup::Passive => "passive",
            Setup::ActPass => "actpass",
            Setup::HoldConnection => "holdconn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_in_any_case_and_written_in_capitals() {
        let digits = (0..20).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
        let read = Fingerprint::parse(&format!("SHA-1  {digits}")).unwrap();
        assert_eq!((read.hash.as_str(), read.bytes.len()), ("sha-1", 20));
        assert_eq!(read.to_string(), format!("sha-1 {}", digits.to_uppercase()));
    }

    #[test]
    fn broken_ones_are_none() {
        for value in [
            "",
            "sha-256",
            "sha-256 00:11",
            "md5 00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff",
            "sha-1 0:é",
        ] {
            assert_eq!(Fingerprint::parse(value), None, "{value}");
        }
        assert_eq!(Setup::parse(" ActPass"), Some(Setup::ActPass));
        assert_eq!(Setup::parse("both"), None);
    }
}
