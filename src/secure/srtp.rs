//! SRTP and SRTCP of one stream (RFC 3711, RFC 7714): packet indexes, replays, several senders, in place.
//!
//! Bytes are `cipher`'s, replays `window`'s. State is kept for senders that proved to have the key, nobody else, and
//! for a bounded number of them. What fails is told and forgotten: it ends nothing.

use crate::secure::cipher::{Cipher, Purpose, RTCP_HEAD};
use crate::secure::keys::SrtpSuite;
use crate::secure::window::Window;

/// Senders whose indexes are kept in one direction; the one that was silent longest goes first.
const SENDERS_MAX: usize = 8;
const RTP_HEAD: usize = 12;
/// A key protects so many packets of a sender (RFC 3711 §9.2).
const RTP_INDEX_END: u64 = 1 << 48;
const RTCP_INDEX_END: u32 = 1 << 31;

/// Why a packet was not protected or not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// No RTP or RTCP header, or cut off.
    Malformed,
    /// Not made by a holder of the key, or changed on the way.
    Forged,
    /// Seen before, or older than can be told.
    Replayed,
    /// The key has protected as much as it may, or too many senders.
    Exhausted,
}

/// What is known of one sender (SSRC).
struct Sender {
    ssrc: u32,
    rtp: Option<Window>,
    rtcp: Option<Window>,
    /// The last packet failed: the rollover counter may have been lost in a long gap.
    doubt: bool,
    used: u64,
}

/// Protects what we send.
pub struct Outgoing {
    rtp: Cipher,
    rtcp: Cipher,
    /// SSRC, next-to-last RTP index, last RTCP index.
    senders: Vec<(u32, Option<u64>, u32)>,
}

/// Opens what the peer sends.
pub struct Incoming {
    rtp: Cipher,
    rtcp: Cipher,
    senders: Vec<Sender>,
    /// A packet of a sender not known yet failed.
    doubt: bool,
    uses: u64,
    /// A packet that may have to be tried twice.
    copy: Vec<u8>,
}

impl Outgoing {
    /// `master`: key, then salt. `None`: its length is not that of the suite.
    pub fn new(suite: SrtpSuite, master: &[u8]) -> Option<Self> {
        Some(Outgoing {
            rtp: Cipher::derive(suite, master, Purpose::Rtp)?,
            rtcp: Cipher::derive(suite, master, Purpose::Rtcp)?,
            senders: Vec::with_capacity(1),
        })
    }

    /// Packets of each sender come in the order of their numbers.
    ///
    /// # Errors
    /// Nothing may be sent then.
    pub fn protect_rtp(&mut self, packet: &mut Vec<u8>) -> Result<(), Discard> {
        let Head { length, ssrc, sequence } = rtp_head(packet).ok_or(Discard::Malformed)?;
        let (_, last, _) = self.sender(ssrc)?;
        let index = last.map_or(u64::from(sequence), |last| after(last, sequence));
        if index >= RTP_INDEX_END {
            return Err(Discard::Exhausted);
        }
        *last = Some(last.map_or(index, |last| last.max(index)));
        self.rtp.seal_rtp(packet, length, ssrc, index);
        if packet.is_empty() { Err(Discard::Exhausted) } else { Ok(()) }
    }

    /// # Errors
    /// Nothing may be sent then.
    pub fn protect_rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), Discard> {
        let ssrc = rtcp_sender(packet).ok_or(Discard::Malformed)?;
        let (_, _, last) = self.sender(ssrc)?;
        if *last + 1 >= RTCP_INDEX_END {
            return Err(Discard::Exhausted);
        }
        *last += 1;
        let index = *last;
        self.rtcp.seal_rtcp(packet, ssrc, index);
        if packet.is_empty() { Err(Discard::Exhausted) } else { Ok(()) }
    }

    /// A sender is never forgotten: its keystream would begin again.
    fn sender(&mut self, ssrc: u32) -> Result<&mut (u32, Option<u64>, u32), Discard> {
        let known = self.senders.iter().position(|(known, ..)| *known == ssrc);
        let at = match known {
            Some(at) => at,
            None if self.senders.len() >= SENDERS_MAX => return Err(Discard::Exhausted),
            None => {
                self.senders.push((ssrc, None, 0));
                self.senders.len() - 1
            }
        };
        self.senders.get_mut(at).ok_or(Discard::Exhausted)
    }
}

impl Incoming {
    /// `master`: key, then salt. `None`: its length is not that of the suite.
    pub fn new(suite: SrtpSuite, master: &[u8]) -> Option<Self> {
        Some(Incoming {
            rtp: Cipher::derive(suite, master, Purpose::Rtp)?,
            rtcp: Cipher::derive(suite, master, Purpose::Rtcp)?,
            senders: Vec::with_capacity(SENDERS_MAX),
            doubt: false,
            uses: 0,
            copy: Vec::new(),
        })
    }

    /// The length of the plain packet, which then stands at the start of `packet`.
    ///
    /// # Errors
    /// Nothing of `packet` may be used then.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, Discard> {
        let Head { length: head, ssrc, sequence } = rtp_head(packet).ok_or(Discard::Malformed)?;
        if packet.len() < head + self.rtp.tag_len() {
            return Err(Discard::Malformed);
        }
        let known = self.senders.iter_mut().find(|sender| sender.ssrc == ssrc);
        let window = known.as_ref().and_then(|sender| sender.rtp.as_ref());
        let first = window.map_or(Some(u64::from(sequence)), |window| near(window.highest(), sequence));
        if first.is_some_and(|index| window.is_some_and(|window| !window.is_new(index))) {
            return Err(Discard::Replayed);
        }
        // Half of all numbers may have been lost in a gap: then the rollover counter is one ahead.
        let doubt = known.as_ref().map_or(self.doubt, |sender| sender.doubt);
        let second = first.filter(|_| doubt).map(|index| index + 0x1_0000);
        if second.is_some() && !self.rtp.spares_forgeries() {
            self.copy.clear();
            self.copy.extend_from_slice(packet);
        }
        for index in [first, second].into_iter().flatten().filter(|index| *index < RTP_INDEX_END) {
            if first != Some(index) && !self.rtp.spares_forgeries() {
                packet.copy_from_slice(&self.copy);
            }
            if let Some(length) = self.rtp.open_rtp(packet, head, ssrc, index) {
                self.authentic(ssrc, |sender| match &mut sender.rtp {
                    Some(window) => window.take(index),
                    none @ None => *none = Some(Window::new(index)),
                });
                return Ok(length);
            }
        }
        match known {
            Some(sender) => sender.doubt = true,
            None => self.doubt = true,
        }
        Err(Discard::Forged)
    }

    /// The length of the plain compound, which then stands at the start of `packet`.
    ///
    /// # Errors
    /// Nothing of `packet` may be used then.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Discard> {
        let ssrc = rtcp_sender(packet).ok_or(Discard::Malformed)?;
        let index = self.rtcp.rtcp_index(packet).ok_or(Discard::Malformed)?;
        let known = self.senders.iter().find(|sender| sender.ssrc == ssrc);
        let window = known.and_then(|sender| sender.rtcp.as_ref());
        if window.is_some_and(|window| !window.is_new(index.into())) {
            return Err(Discard::Replayed);
        }
        let length = self.rtcp.open_rtcp(packet, ssrc, index).ok_or(Discard::Forged)?;
        self.authentic(ssrc, |sender| match &mut sender.rtcp {
            Some(window) => window.take(index.into()),
            none @ None => *none = Some(Window::new(index.into())),
        });
        Ok(length)
    }

    fn authentic(&mut self, ssrc: u32, note: impl FnOnce(&mut Sender)) {
        self.uses += 1;
        self.doubt = false;
        if !self.senders.iter().any(|sender| sender.ssrc == ssrc) {
            let oldest = self.senders.iter().enumerate().min_by_key(|(_, sender)| sender.used);
            if let Some((at, _)) = oldest.filter(|_| self.senders.len() >= SENDERS_MAX) {
                self.senders.swap_remove(at);
            }
            self.senders.push(Sender { ssrc, rtp: None, rtcp: None, doubt: false, used: 0 });
        }
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.ssrc == ssrc) {
            sender.doubt = false;
            sender.used = self.uses;
            note(sender);
        }
    }
}

/// What SRTP needs to know of an RTP header.
struct Head {
    /// With contributing sources and extension, which stay readable.
    length: usize,
    ssrc: u32,
    sequence: u16,
}

fn rtp_head(packet: &[u8]) -> Option<Head> {
    let word = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    let (start, ssrc) = (word(0)?, word(8)?);
    let sources = (start >> 24 & 0xf) as usize;
    let mut length = RTP_HEAD + 4 * sources;
    if start >> 28 & 1 == 1 {
        length += 4 + 4 * (word(length)? & 0xffff) as usize;
    }
    let whole = start >> 30 == 2 && packet.len() >= length;
    whole.then_some(Head { length, ssrc, sequence: start as u16 })
}

/// The sender of the first packet of a compound.
fn rtcp_sender(packet: &[u8]) -> Option<u32> {
    let ssrc = packet.get(4..RTCP_HEAD)?;
    (packet[0] >> 6 == 2).then_some(u32::from_be_bytes(ssrc.try_into().ok()?))
}

/// The index of the next packet we send, given the last one's (numbers only go forward here).
fn after(last: u64, sequence: u16) -> u64 {
    near(last, sequence).unwrap_or(u64::from(sequence))
}

/// RFC 3711 §3.3.1: the index nearest to the highest one so far. `None`: it would lie before the first.
fn near(highest: u64, sequence: u16) -> Option<u64> {
    let (rollovers, last) = (highest >> 16, highest & 0xffff);
    let sequence = u64::from(sequence);
    let rollovers = if last < 0x8000 && sequence > last + 0x8000 {
        rollovers.checked_sub(1)?
    } else if last >= 0x8000 && last - 0x8000 > sequence {
        rollovers + 1
    } else {
        rollovers
    };
    Some(rollovers << 16 | sequence)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const SUITES: [SrtpSuite; 4] = [
        SrtpSuite::AesCm128HmacSha1_80,
        SrtpSuite::AesCm128HmacSha1_32,
        SrtpSuite::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm,
    ];
    const SSRC: u32 = 0xcafe_babe;

    fn master(suite: SrtpSuite) -> Vec<u8> {
        let (key, salt) = suite.lengths();
        (0..key + salt).map(|byte| byte as u8).collect()
    }

    fn pair(suite: SrtpSuite) -> (Outgoing, Incoming) {
        let master = master(suite);
        let out = Outgoing::new(suite, &master).expect("a key of its length");
        (out, Incoming::new(suite, &master).expect("a key of its length"))
    }

    fn rtp(ssrc: u32, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 9]);
        packet.extend(ssrc.to_be_bytes());
        packet.extend(payload);
        packet
    }

    fn report(ssrc: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 201, 0, 1];
        packet.extend(ssrc.to_be_bytes());
        packet
    }

    fn protected(out: &mut Outgoing, sequence: u16) -> Vec<u8> {
        let mut packet = rtp(SSRC, sequence, b"sound");
        out.protect_rtp(&mut packet).expect("protected");
        packet
    }

    fn opens(incoming: &mut Incoming, packet: &[u8]) -> Result<Vec<u8>, Discard> {
        let mut packet = packet.to_vec();
        let length = incoming.unprotect_rtp(&mut packet)?;
        packet.truncate(length);
        Ok(packet)
    }

    /// The packets of libsrtp's own test driver, made with the key of RFC 3711 B.3.
    #[test]
    fn packets_are_those_of_another_implementation() {
        let mut master = vec![0xe1, 0xf9, 0x7a, 0x0d, 0x3e, 0x01, 0x8b, 0xe0, 0xd6, 0x4f, 0xa3, 0x2c, 0x06];
        master.extend([0xde, 0x41, 0x39, 0x0e, 0xc6, 0x75, 0xad, 0x49, 0x8a, 0xfe, 0xeb, 0xb6, 0x96, 0x0b]);
        master.extend([0x3a, 0xab, 0xe6]);
        let suite = SrtpSuite::AesCm128HmacSha1_80;
        let mut out = Outgoing::new(suite, &master).expect("a key");
        let mut packet = vec![0x80, 0x0f, 0x12, 0x34, 0xde, 0xca, 0xfb, 0xad, 0xca, 0xfe, 0xba, 0xbe];
        packet.extend([0xab; 16]);
        out.protect_rtp(&mut packet).expect("protected");
        let expected = [
            0x4e, 0x55, 0xdc, 0x4c, 0xe7, 0x99, 0x78, 0xd8, 0x8c, 0xa4, 0xd2, 0x15, 0x94, 0x9d, 0x24, 0x02,
            0xb7, 0x8d, 0x6a, 0xcc, 0x99, 0xea, 0x17, 0x9b, 0x8d, 0xbb,
        ];
        assert_eq!(packet[12..], expected);
        let mut packet = vec![0x81, 0xc8, 0x00, 0x0b, 0xca, 0xfe, 0xba, 0xbe];
        packet.extend([0xab; 16]);
        out.protect_rtcp(&mut packet).expect("protected");
        let expected = [
            0x71, 0x28, 0x03, 0x5b, 0xe4, 0x87, 0xb9, 0xbd, 0xbe, 0xf8, 0x90, 0x41, 0xf9, 0x77, 0xa5, 0xa8,
            0x80, 0x00, 0x00, 0x01, 0x99, 0x3e, 0x08, 0xcd, 0x54, 0xd6, 0xc1, 0x23, 0x07, 0x98,
        ];
        assert_eq!(packet[8..], expected);
    }

    #[test]
    fn every_suite_gives_back_what_went_in_with_any_header() {
        for suite in SUITES {
            let (mut out, mut incoming) = pair(suite);
            let plain = rtp(SSRC, 7, &[5; 300]);
            let mut with_extension = rtp(SSRC, 8, &[1, 2, 3, 4, 0xbe, 0xde, 0, 1, 9, 9, 9, 9, 7, 7]);
            with_extension[0] |= 0x11;
            for plain in [plain, with_extension, rtp(SSRC, 9, &[])] {
                let mut packet = plain.clone();
                out.protect_rtp(&mut packet).expect("protected");
                assert!(packet.len() > plain.len() && (plain.len() < 40 || packet[40..80] != plain[40..80]));
                assert_eq!(opens(&mut incoming, &packet), Ok(plain), "{suite:?}");
            }
            let mut compound = report(SSRC);
            compound.extend([0x81, 202, 0, 2, 1, 2, 3, 4, 1, 2, 3, 4]);
            let plain = compound.clone();
            out.protect_rtcp(&mut compound).expect("protected");
            let length = incoming.unprotect_rtcp(&mut compound).expect("authentic");
            assert_eq!(compound[..length], plain, "{suite:?}");
        }
    }

    #[test]
    fn loss_reordering_and_wrapping_numbers_are_followed() {
        for suite in SUITES {
            let (mut out, mut incoming) = pair(suite);
            let mut random = StdRng::seed_from_u64(3);
            let mut waiting: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            // A sparse packet must not wait until it has left the window.
            let mut taken = 0;
            for n in 0..70_000_u32 {
                let plain = rtp(SSRC, (65_000 + n) as u16, &n.to_be_bytes());
                let mut packet = plain.clone();
                out.protect_rtp(&mut packet).expect("protected");
                // Most of the long middle is lost; the counter must come through all the same.
                if (2_000..69_000).contains(&n) && n % 97 != 0 {
                    continue;
                }
                waiting.push((packet, plain));
                while waiting.len() == 8 || !waiting.is_empty() && taken % 8 != 0 {
                    let (packet, plain) = waiting.swap_remove(random.random_range(0..waiting.len()));
                    assert_eq!(opens(&mut incoming, &packet), Ok(plain), "{suite:?} {n}");
                    taken += 1;
                }
            }
            assert!(taken > 3_000);
        }
    }

    #[test]
    fn a_gap_longer_than_half_the_numbers_is_caught_up_with_at_the_second_packet() {
        for suite in SUITES {
            let (mut out, mut incoming) = pair(suite);
            let first = protected(&mut out, 10);
            assert!(opens(&mut incoming, &first).is_ok());
            for sequence in (11..=0xffff).chain(0..20) {
                let _ = protected(&mut out, sequence);
            }
            let (lost, next) = (protected(&mut out, 20), protected(&mut out, 21));
            assert_eq!(opens(&mut incoming, &lost), Err(Discard::Forged), "{suite:?}");
            assert!(opens(&mut incoming, &next).is_ok(), "{suite:?}");
            let after = protected(&mut out, 22);
            assert!(opens(&mut incoming, &after).is_ok(), "{suite:?}");
        }
    }

    #[test]
    fn whoever_joins_right_after_a_wrap_is_in_at_the_second_packet() {
        let (mut out, mut incoming) = pair(SrtpSuite::AeadAes128Gcm);
        let _lost = protected(&mut out, 0xffff);
        let (first, second) = (protected(&mut out, 0), protected(&mut out, 1));
        assert_eq!(opens(&mut incoming, &first), Err(Discard::Forged));
        assert!(opens(&mut incoming, &second).is_ok());
    }

    #[test]
    fn nothing_is_taken_twice() {
        for suite in SUITES {
            let (mut out, mut incoming) = pair(suite);
            let packets: Vec<_> = (0..50).map(|n| protected(&mut out, n)).collect();
            for packet in &packets {
                assert!(opens(&mut incoming, packet).is_ok());
            }
            for packet in &packets {
                assert_eq!(opens(&mut incoming, packet), Err(Discard::Replayed));
            }
            let mut compound = report(SSRC);
            out.protect_rtcp(&mut compound).expect("protected");
            assert!(incoming.unprotect_rtcp(&mut compound.clone()).is_ok());
            assert_eq!(incoming.unprotect_rtcp(&mut compound), Err(Discard::Replayed));
        }
    }

    #[test]
    fn every_changed_bit_is_noticed_and_harms_nothing_after_it() {
        for suite in SUITES {
            let (mut out, mut incoming) = pair(suite);
            assert!(opens(&mut incoming, &protected(&mut out, 1)).is_ok());
            let good = protected(&mut out, 2);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(opens(&mut incoming, &bad).is_err(), "{suite:?}: bit {bit}");
            }
            assert!(opens(&mut incoming, &good).is_ok(), "{suite:?}");
            let mut good = report(SSRC);
            out.protect_rtcp(&mut good).expect("protected");
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(incoming.unprotect_rtcp(&mut bad).is_err(), "{suite:?}: RTCP bit {bit}");
            }
            assert!(incoming.unprotect_rtcp(&mut good).is_ok());
        }
    }

    #[test]
    fn strangers_leave_no_state_behind_and_real_senders_are_bounded() {
        let suite = SrtpSuite::AesCm128HmacSha1_80;
        let (mut out, mut incoming) = pair(suite);
        for ssrc in 0..10_000 {
            assert_eq!(opens(&mut incoming, &rtp(ssrc, 1, &[0; 40])), Err(Discard::Forged));
        }
        assert!(incoming.senders.is_empty());
        for ssrc in 0..20 {
            let mut other = pair(suite).0;
            let mut packet = rtp(ssrc, 1, b"x");
            other.protect_rtp(&mut packet).expect("protected");
            assert!(opens(&mut incoming, &packet).is_ok());
        }
        assert_eq!(incoming.senders.len(), SENDERS_MAX);
        for ssrc in 0..SENDERS_MAX as u32 {
            assert!(out.protect_rtp(&mut rtp(ssrc, 1, b"x")).is_ok());
        }
        assert_eq!(out.protect_rtp(&mut rtp(99, 1, b"x")), Err(Discard::Exhausted));
    }

    #[test]
    fn seeded_mutations_never_panic_and_are_never_taken() {
        let mut random = StdRng::seed_from_u64(11);
        for round in 0..1_000 {
            let suite = SUITES[round % SUITES.len()];
            let (mut out, mut incoming) = pair(suite);
            let mut packet = protected(&mut out, random.random());
            let mut compound = report(SSRC);
            out.protect_rtcp(&mut compound).expect("protected");
            for bytes in [&mut packet, &mut compound] {
                let before = bytes.clone();
                bytes.truncate(random.random_range(0..=bytes.len()));
                for _ in 0..random.random_range(1..4) {
                    let at = random.random_range(0..bytes.len().max(1));
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = random.random();
                    }
                }
                let same = *bytes == before;
                let taken = [incoming.unprotect_rtp(&mut bytes.clone()), incoming.unprotect_rtcp(bytes)];
                assert!(same || taken.iter().all(Result::is_err), "{suite:?}");
            }
        }
    }

    #[test]
    fn keys_of_a_wrong_length_are_refused() {
        for suite in SUITES {
            let mut short = master(suite);
            short.pop();
            assert!(Outgoing::new(suite, &short).is_none() && Incoming::new(suite, &[]).is_none());
        }
    }

    /// `cargo nextest run --run-ignored only -E 'test(what_a_packet_costs)' --no-capture`
    #[test]
    #[ignore = "a measurement"]
    fn what_a_packet_costs() {
        for suite in SUITES {
            for payload in [160, 1_100] {
                let (mut out, mut incoming) = pair(suite);
                let plain = rtp(SSRC, 0, &vec![7; payload]);
                let mut buffer = Vec::with_capacity(2_000);
                let (mut sealing, mut opening) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
                for n in 0..50_000_u32 {
                    buffer.clear();
                    buffer.extend_from_slice(&plain);
                    buffer[2..4].copy_from_slice(&(n as u16).to_be_bytes());
                    let start = std::time::Instant::now();
                    out.protect_rtp(&mut buffer).expect("protected");
                    let middle = std::time::Instant::now();
                    incoming.unprotect_rtp(&mut buffer).expect("authentic");
                    sealing += middle - start;
                    opening += middle.elapsed();
                }
                let each = |time: std::time::Duration| time.as_nanos() / 50_000;
                println!("{suite:?} {payload} bytes: {} ns out, {} ns in", each(sealing), each(opening));
            }
        }
    }
}
