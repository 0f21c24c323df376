//! Asking for proof and judging it: RFC 7616 §3.3 and §3.4, RFC 8760 §2, RFC 3261 §22.
//!
//! A nonce carries its own time and a seal over it and the source address, so that asking a stranger costs no memory.
//! What is remembered is how often each nonce was used by somebody who knew the password.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{Algorithm, Hash, Sum, Words, hex, quoted};
use crate::sip::message::RequestMessage;
use crate::sip::uri::Uri;

/// How long a nonce may be used.
pub const NONCE_LIFE: Duration = Duration::from_secs(60);
/// Nonces in use at one time. Only those who know a password take a place; with all places taken, nonces count as
/// stale.
const MOST_NONCES: usize = 8192;
/// Hex digits of the seal: 80 bits, for a minute. Every letter counts: the answer must not outgrow the request.
const SEAL: usize = 20;
/// Hex digits before it: seconds (8) and a running number (6).
const STAMP: usize = 14;

/// Who may prove to be somebody.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User").field("name", &self.name).field("password", &"***").finish()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The user of this name.
    Known(String),
    /// Nothing for our realm: ask.
    Unproven,
    /// Right, but with a nonce that is over, used up or not ours: ask again with `stale=true`.
    Stale,
    /// The same proof a second time.
    Replayed,
    /// Unknown name, wrong password, or proof made for another request; which one is not said.
    Wrong,
}

struct Used {
    count: u32,
    until: Instant,
}

/// Asks and judges.
pub struct Guard {
    realm: String,
    users: HashMap<String, User>,
    secret: [u8; 32],
    epoch: Option<Instant>,
    made: u32,
    used: HashMap<String, Used>,
}

impl Guard {
    /// `secret` seals nonces; it need not outlive the process, older nonces are stale.
    pub fn new(realm: String, users: &[User], secret: [u8; 32]) -> Self {
        let users = users.iter().map(|user| (user.name.clone(), user.clone())).collect();
        Guard { realm, users, secret, epoch: None, made: 0, used: HashMap::new() }
    }

    pub fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// Nonces remembered.
    pub fn remembered(&self) -> usize {
        self.used.len()
    }

    /// The values of WWW-Authenticate, the strongest first (RFC 8760 §2.3).
    pub fn challenges(&mut self, now: Instant, source: IpAddr, stale: bool) -> [String; 2] {
        let nonce = self.nonce(now, source);
        let realm = quoted(&self.realm);
        let stale = if stale { ",stale=true" } else { "" };
        // MD5 is what no algorithm means.
        [",algorithm=SHA-256", ""]
            .map(|algorithm| format!("Digest realm={realm},nonce=\"{nonce}\",qop=\"auth\"{algorithm}{stale}"))
    }

    fn nonce(&mut self, now: Instant, source: IpAddr) -> String {
        let epoch = *self.epoch.get_or_insert(now);
        let time = now.saturating_duration_since(epoch).as_secs();
        self.made = self.made.wrapping_add(1);
        let stamp = format!("{:08x}{:06x}", time & 0xffff_ffff, self.made & 0xff_ffff);
        let seal = self.seal(&stamp, source);
        stamp + &seal
    }

    fn seal(&self, stamp: &str, source: IpAddr) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.secret) else { return String::new() };
        mac.update(stamp.as_bytes());
        mac.update(source.to_canonical().to_string().as_bytes());
        let mut seal = hex(&mac.finalize().into_bytes());
        seal.truncate(SEAL);
        seal
    }

    /// Whether a nonce is ours, for this source, and young enough.
    fn is_fresh(&self, now: Instant, source: IpAddr, nonce: &str) -> bool {
        let (Some(epoch), Some((stamp, seal))) = (self.epoch, nonce.split_at_checked(STAMP)) else {
            return false;
        };
        let sealed = self.seal(stamp, source);
        let made = stamp.get(..8).and_then(|time| u64::from_str_radix(time, 16).ok());
        let Some(made) = made else { return false };
        let age = now.saturating_duration_since(epoch).checked_sub(Duration::from_secs(made));
        bool::from(sealed.as_bytes().ct_eq(seal.as_bytes())) && age.is_some_and(|age| age <= NONCE_LIFE)
    }

    /// Judges the Authorization of a request. The same work is done whether the name is known or not.
    pub fn judge(&mut self, now: Instant, source: IpAddr, request: &RequestMessage) -> Verdict {
        let all = request.headers.values("Authorization").take(8).flat_map(Words::all);
        let ours = all.into_iter().find(|words| words.get("realm") == Some(&self.realm));
        let Some(words) = ours else { return Verdict::Unproven };
        let Some((name, proof)) = self.prove(request, &words) else { return Verdict::Wrong };
        if !is_for(&proof.uri, &request.uri) {
            return Verdict::Wrong;
        }
        if !self.is_fresh(now, source, &proof.nonce) {
            return Verdict::Stale;
        }
        self.spend(now, name, proof)
    }

    /// The user's name when the response is right.
    fn prove(&self, request: &RequestMessage, words: &Words) -> Option<(String, Proof)> {
        let algorithm =
            Algorithm::parse(words.get("algorithm")).filter(|a| !a.session && a.hash != Hash::Sha512256)?;
        let get = |name: &str| words.get(name).unwrap_or_default();
        let (username, nonce, uri, response) = (get("username"), get("nonce"), get("uri"), get("response"));
        let quality = match words.get("qop") {
            Some(quality) if quality.eq_ignore_ascii_case("auth") => Some((get("cnonce"), get("nc"))),
            Some(_) => return None,
            None => None,
        };
        // Some phones write their whole address.
        let short = username.split_once('@').map_or(username, |(name, _)| name);
        let user = self.users.get(username).or_else(|| self.users.get(short));
        let password = user.map_or("nobody has this password", |user| user.password.as_str());
        let realm = self.realm.as_str();
        let method = request.method.as_str();
        let sum = Sum { algorithm, username, realm, password, nonce, method, uri, quality, cnonce: "" };
        let right = sum.response().as_bytes().ct_eq(response.to_ascii_lowercase().as_bytes());
        let count = match quality {
            Some((_, count)) => u32::from_str_radix(count, 16).ok()?,
            // Without a count the nonce is good for one request.
            None => u32::MAX,
        };
        let name = user.filter(|_| bool::from(right))?.name.clone();
        Some((name, Proof { nonce: nonce.to_owned(), uri: uri.to_owned(), count }))
    }

    /// Takes one use of a nonce.
    fn spend(&mut self, now: Instant, name: String, proof: Proof) -> Verdict {
        if let Some(used) = self.used.get_mut(&proof.nonce) {
            if proof.count <= used.count {
                return Verdict::Replayed;
            }
            used.count = proof.count;
            return Verdict::Known(name);
        }
        if self.used.len() >= MOST_NONCES {
            self.used.retain(|_, used| used.until > now);
            if self.used.len() >= MOST_NONCES {
                return Verdict::Stale;
            }
        }
        self.used.insert(proof.nonce, Used { count: proof.count, until: now + NONCE_LIFE });
        Verdict::Known(name)
    }
}

struct Proof {
    nonce: String,
    uri: String,
    count: u32,
}

/// Whether proof made for `told` is proof for a request to `asked`. Devices leave out or add ports, parameters and the
/// user, or name the domain where the request names the address; the user, where both have one, must agree, and so
/// must a host that is a name in both.
fn is_for(told: &str, asked: &Uri) -> bool {
    let Some(told) = Uri::parse(told.trim_matches(['<', '>'])) else { return false };
    let users_agree = match (told.user_decoded(), asked.user_decoded()) {
        (Some(told), Some(asked)) => told == asked,
        (None, _) | (_, None) => true,
    };
    let is_name = |uri: &Uri| uri.host_ip().is_none();
    users_agree && (told.host == asked.host || !(is_name(&told) && is_name(asked)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]

    use super::super::Credentials;
    use super::super::client::{Attempts, Client};
    use super::*;
    use crate::sip::message::{Headers, Method};

    const SOURCE: &str = "203.0.113.9";

    struct Door {
        now: Instant,
        guard: Guard,
        source: IpAddr,
        client: Client,
    }

    impl Door {
        fn new(password: &str) -> Self {
            let user = User { name: "door1".to_owned(), password: "s3cret".to_owned() };
            let realms = vec!["eyeline".to_owned()];
            let credentials =
                Credentials { username: "door1".to_owned(), password: password.to_owned(), realms };
            Door {
                now: Instant::now(),
                guard: Guard::new("eyeline".to_owned(), &[user], [7; 32]),
                source: SOURCE.parse().unwrap(),
                client: Client::new(credentials),
            }
        }

        fn request(&self) -> RequestMessage {
            RequestMessage::new(Method::Register, Uri::parse("sip:eyeline.example").unwrap())
        }

        /// A request with the proof for a challenge.
        fn proven(&mut self, stale: bool) -> RequestMessage {
            let challenge = self.challenge(stale);
            self.answered(&challenge)
        }

        fn challenge(&mut self, stale: bool) -> Headers {
            let mut headers = Headers::new();
            for challenge in self.guard.challenges(self.now, self.source, stale) {
                headers.push("WWW-Authenticate", challenge);
            }
            headers
        }

        fn answered(&mut self, challenge: &Headers) -> RequestMessage {
            let mut request = self.request();
            let answers = self.client.answer(challenge, &mut Attempts::default(), &request, "abc").unwrap();
            for (name, value) in answers {
                request.headers.push(name, value);
            }
            request
        }

        fn judge(&mut self, request: &RequestMessage) -> Verdict {
            self.guard.judge(self.now, self.source, request)
        }
    }

    fn changed(request: &RequestMessage, from: &str, to: &str) -> RequestMessage {
        let mut request = request.clone();
        let value = request.headers.value("Authorization").unwrap().to_owned();
        assert!(value.contains(from), "{value}");
        request.headers.set("Authorization", value.replace(from, to));
        request
    }

    #[test]
    fn who_knows_the_password_is_known_once_per_count() {
        let mut door = Door::new("s3cret");
        let request = door.request();
        assert_eq!(door.judge(&request), Verdict::Unproven);
        let challenge = door.challenge(false);
        let request = door.answered(&challenge);
        assert!(request.headers.value("Authorization").unwrap().contains("algorithm=SHA-256"));
        assert_eq!(door.judge(&request), Verdict::Known("door1".to_owned()));
        assert_eq!(door.judge(&request), Verdict::Replayed);
        // A count that was not proven does not help.
        let lied = changed(&request, "nc=00000001", "nc=00000002");
        assert_eq!(door.judge(&lied), Verdict::Wrong);
        let counted = door.answered(&challenge);
        assert!(counted.headers.value("Authorization").unwrap().contains("nc=00000002"));
        assert_eq!(door.judge(&counted), Verdict::Known("door1".to_owned()));
    }

    #[test]
    fn wrong_passwords_and_unknown_names_look_the_same() {
        let mut door = Door::new("guess");
        let request = door.proven(false);
        assert_eq!(door.judge(&request), Verdict::Wrong);
        let nobody = changed(&request, "username=\"door1\"", "username=\"nobody\"");
        assert_eq!(door.judge(&nobody), Verdict::Wrong);
        let empty = changed(&request, "username=\"door1\"", "username=\"\"");
        assert_eq!(door.judge(&empty), Verdict::Wrong);
        assert_eq!(door.guard.remembered(), 0, "a stranger costs no memory");
    }

    #[test]
    fn a_nonce_is_over_after_a_minute_and_bound_to_its_source() {
        let mut door = Door::new("s3cret");
        let request = door.proven(false);
        door.source = "203.0.113.10".parse().unwrap();
        assert_eq!(door.judge(&request), Verdict::Stale);
        door.source = SOURCE.parse().unwrap();
        door.now += NONCE_LIFE + Duration::from_secs(1);
        assert_eq!(door.judge(&request), Verdict::Stale);
        let renewed = door.proven(true);
        assert_eq!(door.judge(&renewed), Verdict::Known("door1".to_owned()));
        let forged = changed(&renewed, "nonce=\"0", "nonce=\"1");
        assert_eq!(door.judge(&forged), Verdict::Wrong);
    }

    #[test]
    fn an_old_phone_without_a_quality_may_use_a_nonce_once() {
        let mut door = Door::new("s3cret");
        let challenge = door.guard.challenges(door.now, door.source, false)[1].replace(",qop=\"auth\"", "");
        let mut headers = Headers::new();
        headers.push("WWW-Authenticate", challenge);
        let mut request = door.request();
        let answers = door.client.answer(&headers, &mut Attempts::default(), &request, "abc").unwrap();
        request.headers.push(answers[0].0, answers[0].1.clone());
        assert!(!answers[0].1.contains("qop"));
        assert_eq!(door.judge(&request), Verdict::Known("door1".to_owned()));
        assert_eq!(door.judge(&request), Verdict::Replayed);
    }

    #[test]
    fn proof_for_another_request_is_none() {
        let mut door = Door::new("s3cret");
        let request = door.proven(false);
        let mut other = request.clone();
        other.method = Method::Invite;
        assert_eq!(door.judge(&other), Verdict::Wrong);
        for (told, asked, fits) in [
            ("sip:eyeline", "sip:eyeline:5060;transport=tcp", true),
            ("sip:eyeline", "sip:100@eyeline", true),
            ("sip:100@eyeline", "sip:100@10.0.0.1", true),
            ("sip:100@eyeline", "sip:101@eyeline", false),
            ("sip:eyeline", "sip:elsewhere", false),
            ("eyeline", "sip:eyeline", false),
        ] {
            assert_eq!(is_for(told, &Uri::parse(asked).unwrap()), fits, "{told} {asked}");
        }
    }

    #[test]
    fn anything_in_the_header_is_judged_without_a_panic() {
        let mut door = Door::new("s3cret");
        let good = door.proven(false).headers.value("Authorization").unwrap().to_owned();
        for at in 0..good.len() {
            for change in ["", "\"", ",", "=", "\u{e4}", "00"] {
                let mut request = door.request();
                let (left, right) = (&good[..at], &good[at + 1..]);
                request.headers.push("Authorization", format!("{left}{change}{right}"));
                let verdict = door.judge(&request);
                // A changed header may still be the same proof; it never makes somebody else.
                assert!(!matches!(verdict, Verdict::Known(name) if name != "door1"), "{at}");
            }
        }
    }
}
