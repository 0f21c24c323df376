//! The gate before the parser: from where a datagram came, and how many came from there. Everything here costs little
//! and is bounded, because anybody can make it work.
//!
//! Trusted sources have room for proxies and load tests and are never banned. Of a stranger so much is taken as a
//! phone sends; who sends more, names a scanner or guesses passwords is banned for a while. Whom we have sent a
//! request to (a registrar, a provider) is no stranger to what it sends, though it may not call.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::Admission;
use super::bucket::{Bucket, Rate};
use super::scanner::is_scanner;
use crate::sip::Access;

/// Messages of one stranger.
const STRANGER: Rate = Rate { per_second: 8.0, burst: 32.0 };
/// Messages of one trusted source, or of one we have sent requests to.
const TRUSTED: Rate = Rate { per_second: 10_000.0, burst: 20_000.0 };
/// Messages of all strangers together: forged addresses have no other limit.
const ALL_STRANGERS: Rate = Rate { per_second: 400.0, burst: 800.0 };
/// Sources remembered in each table; the one not heard of for longest goes.
const SOURCES: usize = 4096;
const BAN: Duration = Duration::from_secs(300);
/// Messages over the rate, and refused proofs, in a row of so long that ban their source.
const WINDOW: Duration = Duration::from_secs(60);
const FLOOD: u32 = 256;
const GUESSES: u32 = 10;
/// How long the answers of someone we have sent a request to are awaited.
const ACQUAINTANCE: Duration = Duration::from_secs(3600);
/// Bans are told at most so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What becomes of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, before what strangers send.
    Trusted,
    /// It goes on, behind what others send.
    Stranger,
    /// Nobody reads it.
    Dropped,
}

/// Messages dropped before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub rate: u64,
    pub scanner: u64,
    pub banned: u64,
}

/// What is known of one stranger.
#[derive(Debug)]
struct Stranger {
    bucket: Bucket,
    since: Instant,
    over: u32,
    guesses: u32,
}

/// All sources.
pub struct Screen {
    admission: Admission,
    trusted: LruCache<IpAddr, Bucket>,
    strangers: LruCache<IpAddr, Stranger>,
    all_strangers: Option<Bucket>,
    /// Until when.
    banned: LruCache<IpAddr, Instant>,
    /// When we last sent a request there.
    acquainted: LruCache<IpAddr, Instant>,
    dropped: Dropped,
    told: Option<Instant>,
    untold: u64,
}

impl Screen {
    pub fn new(admission: Admission) -> Self {
        let size = NonZeroUsize::new(SOURCES).unwrap_or(NonZeroUsize::MIN);
        Screen {
            admission,
            trusted: LruCache::new(size),
            strangers: LruCache::new(size),
            all_strangers: None,
            banned: LruCache::new(size),
            acquainted: LruCache::new(size),
            dropped: Dropped::default(),
            told: None,
            untold: 0,
        }
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Whether what a source is about to send would be read; takes nothing from its rate.
    pub fn is_banned(&mut self, now: Instant, source: IpAddr) -> bool {
        match self.banned.peek(&grouped(source)) {
            Some(until) => *until > now,
            None => false,
        }
    }

    /// Judges one message.
    pub fn look(&mut self, now: Instant, source: IpAddr, bytes: &[u8]) -> Verdict {
        let source = grouped(source);
        match self.admission.access(source) {
            Access::Trusted => self.within(now, source, Verdict::Trusted),
            Access::Stranger if self.is_acquainted(now, source) => {
                self.within(now, source, Verdict::Stranger)
            }
            Access::Stranger => self.look_at_stranger(now, source, bytes),
        }
    }

    fn within(&mut self, now: Instant, source: IpAddr, verdict: Verdict) -> Verdict {
        let bucket = self.trusted.get_or_insert_mut(source, || Bucket::full(now, TRUSTED));
        if bucket.take(now, TRUSTED) {
            return verdict;
        }
        self.dropped.rate += 1;
        Verdict::Dropped
    }

    fn look_at_stranger(&mut self, now: Instant, source: IpAddr, bytes: &[u8]) -> Verdict {
        if self.is_banned(now, source) {
            self.dropped.banned += 1;
            return Verdict::Dropped;
        }
        let known = self.known(now, source);
        if !known.bucket.take(now, STRANGER) {
            known.over += 1;
            let floods = known.over >= FLOOD;
            self.dropped.rate += 1;
            if floods {
                self.ban(now, source, "it floods");
            }
            return Verdict::Dropped;
        }
        if is_scanner(bytes) {
            self.dropped.scanner += 1;
            self.ban(now, source, "it is a scanner");
            return Verdict::Dropped;
        }
        if !self
            .all_strangers
            .get_or_insert_with(|| Bucket::full(now, ALL_STRANGERS))
            .take(now, ALL_STRANGERS)
        {
            self.dropped.rate += 1;
            return Verdict::Dropped;
        }
        Verdict::Stranger
    }

    /// What is known of a stranger, with the counts of the running window.
    fn known(&mut self, now: Instant, source: IpAddr) -> &mut Stranger {
        let fresh = || Stranger { bucket: Bucket::full(now, STRANGER), since: now, over: 0, guesses: 0 };
        let known = self.strangers.get_or_insert_mut(source, fresh);
        if now.saturating_duration_since(known.since) > WINDOW {
            (known.since, known.over, known.guesses) = (now, 0, 0);
        }
        known
    }

    /// A source showed a wrong password.
    pub fn guessed(&mut self, now: Instant, source: IpAddr) {
        let source = grouped(source);
        if self.admission.access(source) == Access::Trusted || self.is_banned(now, source) {
            return;
        }
        let known = self.known(now, source);
        known.guesses += 1;
        if known.guesses >= GUESSES {
            self.ban(now, source, "it guesses passwords");
        }
    }

    /// We send a request to this address: what comes back is expected.
    pub fn acquaint(&mut self, now: Instant, remote: IpAddr) {
        let remote = grouped(remote);
        if self.admission.access(remote) == Access::Stranger {
            self.acquainted.put(remote, now);
        }
    }

    fn is_acquainted(&mut self, now: Instant, source: IpAddr) -> bool {
        match self.acquainted.get(&source) {
            Some(then) => now.saturating_duration_since(*then) < ACQUAINTANCE,
            None => false,
        }
    }

    fn ban(&mut self, now: Instant, source: IpAddr, why: &str) {
        self.banned.put(source, now + BAN);
        self.strangers.pop(&source);
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            self.untold += 1;
            return;
        }
        let others = std::mem::take(&mut self.untold);
        self.told = Some(now);
        tracing::warn!(%source, others, "not listened to for {} s: {why}", BAN.as_secs());
    }
}

/// Whoever has one IPv6 address has the whole /64.
fn grouped(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nFrom: <sip:b@c>\r\n\r\n";
    const SCANNER: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nUser-Agent: friendly-scanner\r\n\r\n";

    fn screen() -> (Screen, Instant) {
        let networks = vec!["10.0.0.0/8".parse().expect("a network")];
        (Screen::new(Admission::new(networks)), Instant::now())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn passed(screen: &mut Screen, now: Instant, source: IpAddr, messages: usize) -> usize {
        (0..messages).filter(|_| screen.look(now, source, PLAIN) != Verdict::Dropped).count()
    }

    #[test]
    fn a_stranger_gets_a_burst_and_the_trusted_are_not_touched_by_it() {
        let (mut screen, now) = screen();
        assert_eq!(passed(&mut screen, now, ip("192.0.2.1"), 100), 32);
        assert_eq!(passed(&mut screen, now, ip("192.0.2.2"), 100), 32);
        assert_eq!(passed(&mut screen, now, ip("10.0.0.1"), 10_000), 10_000);
        assert_eq!(screen.look(now, ip("10.0.0.1"), SCANNER), Verdict::Trusted);
        assert_eq!(screen.dropped(), Dropped { rate: 136, scanner: 0, banned: 0 });
    }

    #[test]
    fn a_flood_is_banned_and_the_ban_ends() {
        let (mut screen, start) = screen();
        let flooder = ip("192.0.2.1");
        // A thousand a second for ten seconds.
        let taken: usize =
            (0..10_000).map(|n| passed(&mut screen, start + Duration::from_millis(n), flooder, 1)).sum();
        assert!((32..=40).contains(&taken), "{taken}");
        assert!(screen.dropped().banned > 9_000, "{:?}", screen.dropped());
        assert_eq!(passed(&mut screen, start + Duration::from_secs(200), flooder, 1), 0);
        assert_eq!(passed(&mut screen, start + Duration::from_secs(400), flooder, 1), 1);
    }

    #[test]
    fn a_scanner_is_silenced_at_once_and_guessing_passwords_after_some() {
        let (mut screen, now) = screen();
        assert_eq!(screen.look(now, ip("192.0.2.1"), SCANNER), Verdict::Dropped);
        assert_eq!(screen.look(now, ip("192.0.2.1"), PLAIN), Verdict::Dropped);
        assert_eq!(screen.dropped(), Dropped { rate: 0, scanner: 1, banned: 1 });
        for _ in 0..GUESSES - 1 {
            screen.guessed(now, ip("192.0.2.2"));
        }
        assert_eq!(screen.look(now, ip("192.0.2.2"), PLAIN), Verdict::Stranger);
        screen.guessed(now, ip("192.0.2.2"));
        assert!(screen.is_banned(now, ip("192.0.2.2")));
        for _ in 0..100 {
            screen.guessed(now, ip("10.0.0.1"));
        }
        assert_eq!(screen.look(now, ip("10.0.0.1"), PLAIN), Verdict::Trusted);
        // Somebody who errs now and then is not banned.
        for minute in 0..30 {
            screen.guessed(now + Duration::from_secs(61 * minute), ip("192.0.2.3"));
        }
        assert!(!screen.is_banned(now + Duration::from_secs(61 * 30), ip("192.0.2.3")));
    }

    #[test]
    fn answers_to_our_requests_are_not_counted_as_a_strangers() {
        let (mut screen, now) = screen();
        let registrar = ip("198.51.100.7");
        screen.acquaint(now, registrar);
        assert_eq!(passed(&mut screen, now, registrar, 1000), 1000);
        assert_eq!(screen.look(now, registrar, PLAIN), Verdict::Stranger);
        let later = now + ACQUAINTANCE;
        assert_eq!(passed(&mut screen, later, registrar, 1000), 32);
    }

    #[test]
    fn forged_addresses_are_limited_together_and_memory_does_not_grow() {
        let (mut screen, now) = screen();
        let sources = (0..100_000_u32).map(|n| IpAddr::from((0xc612_0000_u32 + n).to_be_bytes()));
        let taken: usize = sources.map(|source| passed(&mut screen, now, source, 1)).sum();
        assert_eq!(taken, 800);
        assert!(screen.strangers.len() <= SOURCES && screen.banned.len() <= SOURCES);
        assert_eq!(screen.look(now, ip("10.0.0.1"), PLAIN), Verdict::Trusted);
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_source() {
        let (mut screen, now) = screen();
        let taken: usize =
            (0..100).map(|n| passed(&mut screen, now, ip(&format!("2001:db8::{n:x}")), 1)).sum();
        assert_eq!(taken, 32);
        assert_eq!(passed(&mut screen, now, ip("2001:db8:0:1::1"), 1), 1);
    }
}
