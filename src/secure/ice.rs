//! The answering half of ICE (RFC 8445 §2.5, lite) over STUN (RFC 8489): the peer checks, we answer.
//!
//! A check that knows our password proves that its source is the peer's; one that nominates says where media goes.
//! Checking that the peer is still there is the peer's duty (RFC 7675); media that ends is the engine's to notice.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ring::hmac;

#[cfg(test)]
pub use self::tests::{NOMINATING, check};

const COOKIE: u32 = 0x2112_a442;
const HEAD: usize = 20;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;

const USERNAME: u16 = 0x0006;
const INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN: u16 = 0x000a;
const INTEGRITY_SHA256: u16 = 0x001c;
const MAPPED: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;

/// Length of the integrity attribute, and of the fingerprint attribute.
const INTEGRITY_LEN: usize = 24;
const FINGERPRINT_LEN: usize = 8;
const FINGERPRINT_MASK: u32 = 0x5354_554e;

/// Answers in one second. A full ICE agent sends a check every 50 ms per pair.
const ANSWERS_PER_SECOND: u32 = 100;
/// Of these, answers to those who do not know the password.
const REFUSALS_PER_SECOND: u32 = 20;

/// What a STUN message was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The peer: its source is valid, and with `nominated` media goes there.
    Passed { nominated: bool },
    /// Not proven to be the peer, or too much of it.
    Refused,
    /// An indication or a response: nothing to be done.
    Ignored,
}

/// Answers the checks of one stream's ports.
pub struct Responder {
    /// What a user name starts with: ours, then a colon.
    prefix: String,
    key: hmac::Key,
    second: Instant,
    answers: u32,
    refusals: u32,
}

/// A STUN message whose attributes lie within it.
struct Message<'a> {
    bytes: &'a [u8],
    username: Option<&'a [u8]>,
    /// Where the attribute begins.
    integrity: Option<usize>,
    nominates: bool,
    /// The first attribute that must be understood and is not.
    unknown: Option<u16>,
}

impl Responder {
    /// `ufrag`, `password`: our own, as in our SDP.
    pub fn new(now: Instant, ufrag: &str, password: &str) -> Self {
        Responder {
            prefix: format!("{ufrag}:"),
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()),
            second: now,
            answers: 0,
            refusals: 0,
        }
    }

    /// Judges a STUN message; what it leaves in `reply` goes back to `source`.
    pub fn handle(
        &mut self,
        now: Instant,
        source: SocketAddr,
        datagram: &[u8],
        reply: &mut Vec<u8>,
    ) -> Check {
        reply.clear();
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.answers, self.refusals) = (now, 0, 0);
        }
        let Some(message) = Message::parse(datagram) else { return Check::Refused };
        if message.kind() != REQUEST {
            return Check::Ignored;
        }
        if self.answers >= ANSWERS_PER_SECOND {
            return Check::Refused;
        }
        self.answers += 1;
        if let Err(code) = self.authenticate(&message) {
            self.refuse(&message, code, reply);
            return Check::Refused;
        }
        if let Some(unknown) = message.unknown {
            begin(reply, ERROR, &message);
            put(reply, ERROR_CODE, &[0, 0, 4, 20]);
            put(reply, UNKNOWN, &unknown.to_be_bytes());
            self.finish(reply);
            return Check::Refused;
        }
        begin(reply, SUCCESS, &message);
        put(reply, MAPPED, &mapped(source, message.transaction()));
        self.finish(reply);
        Check::Passed { nominated: message.nominates }
    }

    fn authenticate(&self, message: &Message<'_>) -> Result<(), u8> {
        let (Some(username), Some(at)) = (message.username, message.integrity) else { return Err(0) };
        let given = message.bytes.get(at + 4..at + INTEGRITY_LEN).ok_or(0)?;
        let signed = self.sign(&message.bytes[..at]);
        if username.starts_with(self.prefix.as_bytes()) && hmac_is(&signed, given) { Ok(()) } else { Err(1) }
    }

    /// An error in the class of 400; never more than was asked with, and not often.
    fn refuse(&mut self, message: &Message<'_>, code: u8, reply: &mut Vec<u8>) {
        if self.refusals >= REFUSALS_PER_SECOND {
            return;
        }
        self.refusals += 1;
        begin(reply, ERROR, message);
        put(reply, ERROR_CODE, &[0, 0, 4, code]);
        fingerprint(reply);
        if reply.len() > message.bytes.len() {
            reply.clear();
        }
    }

    fn finish(&self, reply: &mut Vec<u8>) {
        let signed = self.sign(reply);
        put(reply, INTEGRITY, signed.as_ref());
        fingerprint(reply);
    }

    /// Over everything before the attribute, with a length that ends behind it (RFC 8489 §14.5).
    fn sign(&self, before: &[u8]) -> hmac::Tag {
        let length = ((before.len() + INTEGRITY_LEN - HEAD) as u16).to_be_bytes();
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&before[..2]);
        context.update(&length);
        context.update(&before[4..]);
        context.sign()
    }
}

impl<'a> Message<'a> {
    /// `None`: not STUN, cut off, or with a wrong fingerprint.
    fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        let cookie = bytes.get(4..8)?;
        let length = usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]));
        let sound = bytes[0] < 4 && cookie == COOKIE.to_be_bytes() && length.is_multiple_of(4);
        if !sound || bytes.len() != HEAD + length {
            return None;
        }
        let mut message = Message { bytes, username: None, integrity: None, nominates: false, unknown: None };
        let mut at = HEAD;
        while at < bytes.len() {
            let head = bytes.get(at..at + 4)?;
            let (kind, length) =
                (u16::from_be_bytes([head[0], head[1]]), usize::from(u16::from_be_bytes([head[2], head[3]])));
            let value = bytes.get(at + 4..at + 4 + length)?;
            message.take(at, kind, value)?;
            at += 4 + length.next_multiple_of(4);
        }
        Some(message)
    }

    fn take(&mut self, at: usize, kind: u16, value: &'a [u8]) -> Option<()> {
        match kind {
            FINGERPRINT => {
                let last = at + FINGERPRINT_LEN == self.bytes.len();
                let good = value == checksum(&self.bytes[..at]).to_be_bytes();
                return (last && good).then_some(());
            }
            // Whoever changed the message could have added what comes behind its proof.
            _ if self.integrity.is_some() => {}
            INTEGRITY if value.len() == INTEGRITY_LEN - 4 => self.integrity = Some(at),
            INTEGRITY => return None,
            USERNAME => self.username = Some(value),
            USE_CANDIDATE => self.nominates = true,
            PRIORITY | INTEGRITY_SHA256 => {}
            0..0x8000 => self.unknown = self.unknown.or(Some(kind)),
            _ => {}
        }
        Some(())
    }

    fn kind(&self) -> u16 {
        u16::from_be_bytes([self.bytes[0], self.bytes[1]])
    }

    fn transaction(&self) -> &'a [u8] {
        &self.bytes[8..HEAD]
    }
}

fn begin(reply: &mut Vec<u8>, kind: u16, to: &Message<'_>) {
    reply.clear();
    reply.extend(kind.to_be_bytes());
    reply.extend([0, 0]);
    reply.extend(&to.bytes[4..HEAD]);
}

/// Adds an attribute and keeps the length right.
fn put(reply: &mut Vec<u8>, kind: u16, value: &[u8]) {
    reply.extend(kind.to_be_bytes());
    reply.extend((value.len() as u16).to_be_bytes());
    reply.extend(value);
    reply.resize(reply.len().next_multiple_of(4), 0);
    let length = (reply.len() - HEAD) as u16;
    reply[2..4].copy_from_slice(&length.to_be_bytes());
}

fn fingerprint(reply: &mut Vec<u8>) {
    let sum = checksum(reply);
    put(reply, FINGERPRINT, &sum.to_be_bytes());
}

/// Over everything before the attribute, with a length that ends behind it (RFC 8489 §14.7).
fn checksum(before: &[u8]) -> u32 {
    let length = ((before.len() + FINGERPRINT_LEN - HEAD) as u16).to_be_bytes();
    let mut sum = crc32fast::Hasher::new();
    sum.update(&before[..2]);
    sum.update(&length);
    sum.update(&before[4..]);
    sum.finalize() ^ FINGERPRINT_MASK
}

/// RFC 8489 §14.2.
fn mapped(source: SocketAddr, transaction: &[u8]) -> Vec<u8> {
    let cookie = COOKIE.to_be_bytes();
    let mut value = vec![0, 1];
    value.extend((source.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
    match source.ip().to_canonical() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(cookie).map(|(byte, mask)| byte ^ mask)),
        IpAddr::V6(ip) => {
            value[1] = 2;
            let mask = cookie.iter().chain(transaction);
            value.extend(ip.octets().iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        }
    }
    value
}

fn hmac_is(tag: &hmac::Tag, given: &[u8]) -> bool {
    crate::secure::cipher::same(tag.as_ref(), given)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    /// Nominates.
    pub const NOMINATING: (u16, &[u8]) = (USE_CANDIDATE, &[]);

    const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

    fn source() -> SocketAddr {
        "192.0.2.1:32853".parse().expect("an address")
    }

    /// A check as a full agent sends it.
    pub fn check(password: &str, user: &str, extra: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 0];
        bytes.extend(COOKIE.to_be_bytes());
        bytes.extend([7; 12]);
        put(&mut bytes, USERNAME, user.as_bytes());
        put(&mut bytes, PRIORITY, &[0x6e, 0, 1, 0xff]);
        put(&mut bytes, 0x802a, &[1; 8]);
        for (kind, value) in extra {
            put(&mut bytes, *kind, value);
        }
        Responder::new(Instant::now(), "", password).finish(&mut bytes);
        bytes
    }

    fn responder() -> Responder {
        Responder::new(Instant::now(), "evtj", PASSWORD)
    }

    #[test]
    fn the_request_of_rfc_5769_is_authentic() {
        // RFC 5769 §2.1: user name "evtj:h6vY", SHA-1 integrity, fingerprint.
        let mut bytes = vec![0, 1, 0, 0x58, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
        bytes.extend([0x80, 0x22, 0, 0x10]);
        bytes.extend(b"STUN test client");
        bytes.extend([0, 0x24, 0, 4, 0x6e, 0, 1, 0xff]);
        bytes.extend([0x80, 0x29, 0, 8, 0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36]);
        bytes.extend([0, 6, 0, 9]);
        bytes.extend(b"evtj:h6vY   ");
        bytes.extend([0, 8, 0, 0x14, 0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5]);
        bytes.extend([0xb2, 0xd3, 0xf2, 0x49, 0xc1, 0xb5, 0x71, 0xa2]);
        bytes.extend([0x80, 0x28, 0, 4, 0xe5, 0x7a, 0x3b, 0xcf]);
        let mut reply = Vec::new();
        let check = responder().handle(Instant::now(), source(), &bytes, &mut reply);
        assert_eq!(check, Check::Passed { nominated: false });
        assert_eq!(reply[..2], [1, 1]);
        // RFC 5769 §2.2: what 192.0.2.1:32853 becomes in the answer.
        assert_eq!(reply[20..32], [0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert!(Message::parse(&reply).is_some(), "its fingerprint is right");
        assert!(responder().authenticate(&Message::parse(&reply).expect("sound")).is_err(), "it has no user");
    }

    #[test]
    fn a_nominating_check_says_where_media_goes() {
        let mut reply = Vec::new();
        let bytes = check(PASSWORD, "evtj:peer", &[(USE_CANDIDATE, &[])]);
        let passed = responder().handle(Instant::now(), source(), &bytes, &mut reply);
        assert_eq!(passed, Check::Passed { nominated: true });
        let six: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        assert_eq!(responder().handle(Instant::now(), six, &bytes, &mut reply), passed);
        assert_eq!(reply[20..26], [0, 0x20, 0, 20, 0, 2]);
    }

    #[test]
    fn whoever_does_not_know_the_password_gets_an_error_and_no_more_than_was_sent() {
        let mut reply = Vec::new();
        let mut bare = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        bare.extend([1; 12]);
        for (bytes, code) in [
            (check("guessed", "evtj:peer", &[]), Some([4, 1])),
            (check(PASSWORD, "other:peer", &[]), Some([4, 1])),
            (bare, None),
        ] {
            assert_eq!(responder().handle(Instant::now(), source(), &bytes, &mut reply), Check::Refused);
            assert!(reply.len() <= bytes.len());
            assert_eq!(reply.get(26..28), code.as_ref().map(<[u8; 2]>::as_slice));
        }
    }

    #[test]
    fn what_must_be_understood_and_is_not_is_said() {
        let mut reply = Vec::new();
        let bytes = check(PASSWORD, "evtj:peer", &[(0x0033, &[1])]);
        assert_eq!(responder().handle(Instant::now(), source(), &bytes, &mut reply), Check::Refused);
        assert_eq!(reply[24..34], [0, 0, 4, 20, 0, 0x0a, 0, 2, 0, 0x33]);
    }

    #[test]
    fn a_flood_is_answered_up_to_its_limit_each_second() {
        let (mut responder, now, mut reply) = (responder(), Instant::now(), Vec::new());
        let (bad, good) = (check("guessed", "evtj:x", &[]), check(PASSWORD, "evtj:x", &[]));
        let mut answered = 0;
        for _ in 0..1_000 {
            responder.handle(now, source(), &bad, &mut reply);
            answered += u32::from(!reply.is_empty());
        }
        assert_eq!(answered, REFUSALS_PER_SECOND);
        let later = now + Duration::from_secs(1);
        assert_eq!(responder.handle(later, source(), &good, &mut reply), Check::Passed { nominated: false });
    }

    #[test]
    fn responses_and_indications_are_left_alone() {
        for kind in [[1, 1], [1, 0x11], [0, 0x11]] {
            let mut bytes = check(PASSWORD, "evtj:x", &[]);
            bytes.truncate(bytes.len() - FINGERPRINT_LEN);
            bytes[..2].copy_from_slice(&kind);
            fingerprint(&mut bytes);
            let mut reply = Vec::new();
            assert_eq!(responder().handle(Instant::now(), source(), &bytes, &mut reply), Check::Ignored);
            assert!(reply.is_empty());
        }
    }

    #[test]
    fn seeded_mutations_never_panic_and_never_pass() {
        let mut random = StdRng::seed_from_u64(5);
        let good = check(PASSWORD, "evtj:peer", &[(USE_CANDIDATE, &[])]);
        let mut reply = Vec::new();
        for _ in 0..1_000 {
            let mut bytes = good.clone();
            bytes.truncate(random.random_range(0..=bytes.len()));
            for _ in 0..random.random_range(1..5) {
                let at = random.random_range(0..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.random();
                }
            }
            let check = responder().handle(Instant::now(), source(), &bytes, &mut reply);
            assert!(bytes == good || !matches!(check, Check::Passed { .. }));
            assert!(reply.len() <= bytes.len());
        }
    }
}
