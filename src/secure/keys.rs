//! Protection profiles of SRTP and the master keys of one stream (RFC 3711 §8.2, RFC 4568 §6.2, RFC 7714 §12).
//!
//! How keys come into being (`a=crypto`, DTLS) and what is done with them is elsewhere.

/// A protection profile of SRTP (RFC 3711, RFC 7714).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpSuite {
    AesCm128HmacSha1_80,
    AesCm128HmacSha1_32,
    AeadAes128Gcm,
    AeadAes256Gcm,
}

impl SrtpSuite {
    /// As written in `a=crypto` (RFC 4568 §6.2, RFC 7714 §14.2).
    pub fn name(self) -> &'static str {
        match self {
            SrtpSuite::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            SrtpSuite::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            SrtpSuite::AeadAes128Gcm => "AEAD_AES_128_GCM",
            SrtpSuite::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Bytes of the master key and of the master salt.
    pub fn lengths(self) -> (usize, usize) {
        match self {
            SrtpSuite::AesCm128HmacSha1_80 | SrtpSuite::AesCm128HmacSha1_32 => (16, 14),
            SrtpSuite::AeadAes128Gcm => (16, 12),
            SrtpSuite::AeadAes256Gcm => (32, 12),
        }
    }
}

/// One suite and the master key with its salt, key first, of each side. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SrtpKeys {
    pub suite: SrtpSuite,
    /// Protects what we send.
    pub local: Vec<u8>,
    /// Protects what the peer sends.
    pub remote: Vec<u8>,
}

impl std::fmt::Debug for SrtpKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SrtpKeys({})", self.suite.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_never_printed() {
        let keys = SrtpKeys { suite: SrtpSuite::AeadAes128Gcm, local: vec![222; 28], remote: vec![173; 28] };
        let text = format!("{keys:?}");
        assert!(!text.contains("222") && !text.contains("173"), "{text}");
    }
}
