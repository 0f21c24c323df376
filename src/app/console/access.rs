//! Who may look: a password (Basic, any user name) or a token (Bearer), compared in constant time.
//!
//! Once either is set everybody must bring it, from loopback too: a proxy on the box makes everyone look local.
//! Without one, only names of this box are accepted as `Host`, so that a web page cannot reach in by DNS rebinding.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::app::config::settings::Console;

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// 401
    NoCredentials,
    /// 403
    WrongHost,
}

/// Hashes of what must be brought; comparing hashes tells nothing about where texts differ.
#[derive(Clone)]
pub struct Access {
    password: Option<[u8; 32]>,
    token: Option<[u8; 32]>,
}

impl Access {
    pub fn new(settings: &Console) -> Self {
        let hash = |text: &str| (!text.is_empty()).then(|| hash(text.as_bytes()));
        Access { password: hash(settings.password.expose()), token: hash(settings.token.expose()) }
    }

    /// Checks the `Authorization` and `Host` headers of one request.
    ///
    /// # Errors
    /// Says which answer is due.
    pub fn check(&self, authorization: Option<&str>, host: Option<&str>) -> Result<(), Denied> {
        if self.password.is_none() && self.token.is_none() {
            return if host.is_none_or(is_this_box) { Ok(()) } else { Err(Denied::WrongHost) };
        }
        let (scheme, brought) =
            authorization.and_then(|text| text.split_once(' ')).ok_or(Denied::NoCredentials)?;
        let brought = brought.trim();
        let good = if scheme.eq_ignore_ascii_case("bearer") {
            same(self.token, brought.as_bytes())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = base64(brought).unwrap_or_default();
            let password =
                decoded.iter().position(|byte| *byte == b':').and_then(|colon| decoded.get(colon + 1..));
            same(self.password, password.unwrap_or_default())
        } else {
            false
        };
        if good { Ok(()) } else { Err(Denied::NoCredentials) }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn same(expected: Option<[u8; 32]>, brought: &[u8]) -> bool {
    let difference =
        |expected: [u8; 32]| expected.iter().zip(hash(brought)).fold(0, |all, (a, b)| all | (a ^ b));
    expected.is_some_and(|expected| difference(expected) == 0)
}

/// `localhost` or an address, with or without a port.
fn is_this_box(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// RFC 4648 §4, padding optional. `None`: not base64.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0u32);
    for c in text.trim_end_matches('=').bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(value)) & 0xff_ffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::config::secret::Secret;

    #[test]
    fn base64_decodes_the_vectors_of_rfc_4648_and_refuses_the_rest() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(base64(text), expected.map(|text| text.as_bytes().to_vec()), "{text}");
        };
        check("", Some(""));
        check("Zg==", Some("f"));
        check("Zm8=", Some("fo"));
        check("Zm9vYmFy", Some("foobar"));
        check("Zm9vYg", Some("foob"));
        check("Zm9v!", None);
    }

    #[test]
    fn password_and_token_open_each_with_its_own_scheme() {
        let settings = Console {
            password: Secret::plain("door:1"),
            token: Secret::plain("t0ken"),
            ..Console::default()
        };
        let access = Access::new(&settings);
        let check = |header: Option<&str>, good: bool| {
            assert_eq!(access.check(header, Some("eye.example.com")).is_ok(), good, "{header:?}");
        };
        check(Some("Basic YWRtaW46ZG9vcjox"), true); // admin:door:1
        check(Some("basic OmRvb3I6MQ=="), true); // :door:1
        check(Some("Bearer t0ken"), true);
        check(Some("Bearer door:1"), false);
        check(Some("Basic dDBrZW4="), false); // t0ken
        check(Some("Basic OnQwa2Vu"), false); // :t0ken
        check(Some("Basic %%%"), false);
        check(Some("Bearer"), false);
        check(Some("Bearer "), false);
        check(None, false);
    }

    #[test]
    fn without_credentials_a_foreign_name_is_refused() {
        let access = Access::new(&Console::default());
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.0.0.1"] {
            assert_eq!(access.check(None, Some(host)), Ok(()), "{host}");
        }
        assert_eq!(access.check(None, Some("evil.example.com:8080")), Err(Denied::WrongHost));
        let only_token = Access::new(&Console { token: Secret::plain("t"), ..Console::default() });
        assert_eq!(only_token.check(Some("Basic Og=="), None), Err(Denied::NoCredentials));
    }
}
