//! `a=crypto`: SRTP master keys in a description (RFC 4568; the GCM suites are RFC 7714 §14).
//!
//! Read as written; which suites are known, how long their keys are and which line is taken is not decided here.

use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding is written, but may be missing in what is read.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// RFC 4648 §4; `None` for anything else.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.trim()).ok()
}

/// One `a=crypto` line.
#[derive(Clone, PartialEq, Eq)]
pub struct Crypto {
    pub tag: u32,
    /// As written.
    pub suite: String,
    /// Master key and salt, key first.
    pub key: Vec<u8>,
    /// Packets carry a master key identifier, or there are several keys to tell apart by it.
    pub key_identifier: bool,
    /// Session parameters, as written.
    pub session: Vec<String>,
}

impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crypto({} {})", self.tag, self.suite)
    }
}

impl Crypto {
    /// Reads an attribute's value. `None`: not a line with an inline key.
    pub fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_whitespace();
        let tag = words.next()?.parse().ok()?;
        let suite = words.next()?.to_owned();
        let mut keys = words.next()?.split(';');
        let first = keys.next()?;
        let (method, first) = first.split_once(':')?;
        method.eq_ignore_ascii_case("inline").then_some(())?;
        let mut fields = first.split('|');
        let key = from_base64(fields.next()?)?;
        // A field with a colon is an identifier and its length, one without is a lifetime (RFC 4568 §6.1).
        let identified = fields.any(|field| field.contains(':'));
        let key_identifier = identified || keys.any(|key| !key.is_empty());
        Some(Crypto { tag, suite, key, key_identifier, session: words.map(str::to_owned).collect() })
    }

    /// Whether the session parameters leave SRTP as it is by default: encrypted, authenticated, without key
    /// derivation on the way. An unknown one without `-` in front must be understood (RFC 4568 §6.3.7).
    pub fn is_ordinary(&self) -> bool {
        self.session.iter().all(|parameter| {
            let name = parameter.split('=').next().unwrap_or_default().to_ascii_uppercase();
            parameter.starts_with('-') || name == "WSH" || parameter.eq_ignore_ascii_case("KDR=0")
        })
    }

    /// The value of an attribute that states this key.
    pub fn value(tag: u32, suite: &str, key: &[u8]) -> String {
        format!("{tag} {suite} inline:{}", BASE64.encode(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIz";

    #[test]
    fn a_key_is_read_with_everything_around_it() {
        let line = format!("2 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^31 WSH=64 KDR=0");
        let crypto = Crypto::parse(&line).unwrap();
        assert_eq!((crypto.tag, crypto.suite.as_str()), (2, "AES_CM_128_HMAC_SHA1_32"));
        assert_eq!(crypto.key, b"abcdefghijklmnopqrstuvwxyz0123");
        assert!(!crypto.key_identifier && crypto.is_ordinary());
    }

    #[test]
    fn identifiers_and_several_keys_are_noticed() {
        for key in [
            format!("inline:{KEY}|2^31|1:1"),
            format!("inline:{KEY}|1:4"),
            format!("inline:{KEY}|2^20|1:4;inline:{KEY}|2^20|2:4"),
        ] {
            let line = format!("1 AES_CM_128_HMAC_SHA1_80 {key}");
            assert!(Crypto::parse(&line).unwrap().key_identifier, "{line}");
        }
    }

    #[test]
    fn parameters_that_weaken_srtp_are_noticed() {
        for parameter in ["UNENCRYPTED_SRTCP", "UNENCRYPTED_SRTP", "UNAUTHENTICATED_SRTP", "KDR=2", "NEW=1"] {
            let line = format!("1 AES_CM_128_HMAC_SHA1_80 inline:{KEY} {parameter}");
            assert!(!Crypto::parse(&line).unwrap().is_ordinary(), "{line}");
        }
    }

    #[test]
    fn what_is_no_key_is_no_line() {
        for value in
            ["", "1", "x AES inline:aaaa", "1 AES", "1 AES uri:aaaa", "1 AES inline:%%", "1 AES inline"]
        {
            assert_eq!(Crypto::parse(value), None, "{value}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_never_printed() {
        let written = Crypto::value(7, "AEAD_AES_128_GCM", &[9; 28]);
        let crypto = Crypto::parse(&written).unwrap();
        assert_eq!((crypto.tag, crypto.key.len()), (7, 28));
        assert_eq!(format!("{crypto:?}"), "Crypto(7 AEAD_AES_128_GCM)");
    }
}
