//! Digest authentication (RFC 7616 as RFC 8760 applies it to SIP; RFC 2617 for old phones): the sums and the words of
//! its headers.
//!
//! Asking and judging is `server`, answering is `client`. Which request is asked belongs to the endpoint.

pub mod client;
pub mod server;

use std::fmt;

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512_256};

/// Longest header value read, in bytes.
const LONGEST: usize = 4096;
/// Challenges read from one message.
const MOST_CHALLENGES: usize = 16;

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

/// From weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hash {
    Md5,
    Sha256,
    Sha512256,
}

/// A hash, and whether the first sum is made once per session (`-sess`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Algorithm {
    pub hash: Hash,
    pub session: bool,
}

impl Algorithm {
    /// A challenge without the parameter means MD5.
    pub fn parse(name: Option<&str>) -> Option<Algorithm> {
        let Some(name) = name else { return Some(Algorithm { hash: Hash::Md5, session: false }) };
        let name = name.to_ascii_lowercase();
        let (plain, session) = match name.strip_suffix("-sess") {
            Some(plain) => (plain, true),
            None => (name.as_str(), false),
        };
        let hash = match plain {
            "md5" => Hash::Md5,
            "sha-256" => Hash::Sha256,
            "sha-512-256" => Hash::Sha512256,
            _ => return None,
        };
        Some(Algorithm { hash, session })
    }

    pub fn name(self) -> &'static str {
        match (self.hash, self.session) {
            (Hash::Md5, false) => "MD5",
            (Hash::Md5, true) => "MD5-sess",
            (Hash::Sha256, false) => "SHA-256",
            (Hash::Sha256, true) => "SHA-256-sess",
            (Hash::Sha512256, false) => "SHA-512-256",
            (Hash::Sha512256, true) => "SHA-512-256-sess",
        }
    }
}

impl Hash {
    /// Of the parts with colons between them, in lower hex.
    fn of(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Hash::Md5 => hex(&Md5::digest(text.as_bytes())),
            Hash::Sha256 => hex(&Sha256::digest(text.as_bytes())),
            Hash::Sha512256 => hex(&Sha512_256::digest(text.as_bytes())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Everything a response is made of.
struct Sum<'a> {
    algorithm: Algorithm,
    username: &'a str,
    realm: &'a str,
    password: &'a str,
    nonce: &'a str,
    method: &'a str,
    uri: &'a str,
    /// Client nonce and count (eight hex digits) of `qop=auth`; `None`: the way of RFC 2069.
    quality: Option<(&'a str, &'a str)>,
    /// Only for `-sess` without a quality.
    cnonce: &'a str,
}

impl Sum<'_> {
    /// RFC 7616 §3.4.1.
    fn response(&self) -> String {
        let hash = self.algorithm.hash;
        let mut secret = hash.of(&[self.username, self.realm, self.password]);
        if self.algorithm.session {
            let cnonce = self.quality.map_or(self.cnonce, |(cnonce, _)| cnonce);
            secret = hash.of(&[&secret, self.nonce, cnonce]);
        }
        let asked = hash.of(&[self.method, self.uri]);
        match self.quality {
            Some((cnonce, count)) => hash.of(&[&secret, self.nonce, count, cnonce, "auth", &asked]),
            None => hash.of(&[&secret, self.nonce, &asked]),
        }
    }
}

/// One challenge, or one set of credentials, as written: names in lower case, values without quotes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Words {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Every `Digest` of a header value. One line may hold several, with only a comma between them.
    fn all(value: &str) -> Vec<Words> {
        let mut found: Vec<Words> = Vec::new();
        if value.len() > LONGEST {
            return found;
        }
        for element in super::header::split_list(value) {
            let (before, rest) = element.split_once('=').unwrap_or((element, ""));
            let before = before.trim();
            let name = match before.split_once([' ', '\t']) {
                Some((scheme, name)) => {
                    if found.len() >= MOST_CHALLENGES {
                        break;
                    }
                    found.push(Words { scheme: scheme.to_ascii_lowercase(), parameters: Vec::new() });
                    name.trim()
                }
                None => before,
            };
            if let Some(words) = found.last_mut()
                && words.get(&name.to_ascii_lowercase()).is_none()
            {
                words.parameters.push((name.to_ascii_lowercase(), unquoted(rest.trim())));
            }
        }
        found.retain(|words| words.scheme == "digest");
        found
    }
}

fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return text.to_owned();
    };
    let mut plain = String::with_capacity(inner.len());
    let mut escaped = false;
    for letter in inner.chars() {
        if letter == '\\' && !escaped {
            escaped = true;
        } else {
            plain.push(letter);
            escaped = false;
        }
    }
    plain
}

/// In quotes, with what would end them escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mufasa(algorithm: &str, password: &str) -> String {
        let rfc_2617 = password == "Circle Of Life";
        Sum {
            algorithm: Algorithm::parse(Some(algorithm)).unwrap(),
            username: "Mufasa",
            realm: if rfc_2617 { "testrealm@host.com" } else { "http-auth@example.org" },
            password,
            nonce: if rfc_2617 {
                "dcd98b7102dd2f0e8b11d0f600bfb0c093"
            } else {
                "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
            },
            method: "GET",
            uri: "/dir/index.html",
            quality: Some((
                if rfc_2617 { "0a4f113b" } else { "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ" },
                "00000001",
            )),
            cnonce: "",
        }
        .response()
    }

    #[test]
    fn the_sums_are_those_of_rfc_2617_and_rfc_7616() {
        assert_eq!(mufasa("MD5", "Circle Of Life"), "6629fae49393a05397450978507c4ef1");
        assert_eq!(mufasa("MD5", "Circle of Life"), "8ca523f5e9506fed4657c9700eebdbec");
        assert_eq!(
            mufasa("SHA-256", "Circle of Life"),
            "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
        );
    }

    #[test]
    fn a_first_sum_per_session_and_the_way_of_rfc_2069() {
        let sum = Sum {
            algorithm: Algorithm::parse(Some("md5-SESS")).unwrap(),
            username: "a",
            realm: "r",
            password: "p",
            nonce: "n",
            method: "REGISTER",
            uri: "sip:r",
            quality: None,
            cnonce: "c",
        };
        let hash = Hash::Md5;
        let first = hash.of(&[&hash.of(&["a", "r", "p"]), "n", "c"]);
        assert_eq!(sum.response(), hash.of(&[&first, "n", &hash.of(&["REGISTER", "sip:r"])]));
    }

    #[test]
    fn several_challenges_on_one_line_and_odd_spelling_are_read() {
        let line = "Digest realm=\"a, \\\"b\\\"\", nonce=\"1\",qop=\"auth,auth-int\" , Basic realm=\"x\", \
                    DIGEST  Realm = plain,nonce=2, stale=TRUE, nonce=3";
        let words = Words::all(line);
        assert_eq!(words.len(), 2);
        assert_eq!(words[0].get("realm"), Some("a, \"b\""));
        assert_eq!(words[0].get("qop"), Some("auth,auth-int"));
        assert_eq!((words[1].get("realm"), words[1].get("nonce")), (Some("plain"), Some("2")));
        for broken in ["", "Digest", "realm=\"a\"", ",,,=,=", "Digest \"", "Digest realm=\"a"] {
            assert!(Words::all(broken).iter().all(|words| words.get("nonce").is_none()), "{broken}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let credentials =
            Credentials { username: "200".to_owned(), password: "hidden".to_owned(), realms: Vec::new() };
        assert!(!format!("{credentials:?}").contains("hidden"));
    }
}
