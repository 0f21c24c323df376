//! Digest authentication (RFC 7616, RFC 8760, and RFC 2617 for old phones), both sides.

use std::fmt;

/// What we prove ourselves with.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// Realms that may be answered; no other is. Empty: whatever realm asks first, and only that one from then on.
    pub realms: Vec<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &"***")
            .field("realms", &self.realms)
            .finish()
    }
}
