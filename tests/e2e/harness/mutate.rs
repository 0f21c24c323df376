//! Spoils RTP and RTCP of a real call, reproducibly: what a broken, or a malicious, peer sends from its own address.

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// The fixed part of an RTP header.
const HEADER: usize = 12;

/// A seeded source of broken packets.
pub struct Mutator {
    random: StdRng,
    /// One that was held back, to come out of order.
    held: Option<Vec<u8>>,
    /// Datagrams that left spoilt.
    pub spoilt: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator { random: StdRng::seed_from_u64(seed), held: None, spoilt: 0 }
    }

    /// What becomes of one good packet: about half go out as they are, others spoilt, twice, later, or not at all, and
    /// now and then with RTCP that nobody sends on purpose.
    pub fn send(&mut self, packet: Vec<u8>, mut out: impl FnMut(&[u8])) {
        if let Some(held) = self.held.take() {
            out(&held);
        }
        match self.random.random_range(0..20) {
            0..=8 => out(&packet),
            9 => (out(&packet), out(&packet)).0,
            10 => self.held = Some(packet),
            11 => {}
            12 => {
                out(&packet);
                out(&self.control(&packet));
                self.spoilt += 1;
            }
            _ => {
                let mut packet = packet;
                for _ in 0..self.random.random_range(1..=3) {
                    self.spoil(&mut packet);
                }
                out(&packet);
                self.spoilt += 1;
            }
        }
    }

    fn spoil(&mut self, packet: &mut Vec<u8>) {
        let random = &mut self.random;
        if packet.len() < HEADER + 2 {
            packet.resize(HEADER + random.random_range(2..40), 0x80);
        }
        let length = packet.len();
        match random.random_range(0..16) {
            0 => (0..random.random_range(1..9)).for_each(|_| {
                packet[random.random_range(0..length)] ^= 1 << random.random_range(0..8);
            }),
            1 => packet.truncate(random.random_range(0..length)),
            2 => {
                let mut more = vec![0; random.random_range(1..2000)];
                random.fill_bytes(&mut more);
                packet.extend(more);
            }
            3 => packet[0] = random.random(),
            4 => packet[1] = random.random(),
            // Numbers that jump, times that jump, another source.
            5 => random.fill_bytes(&mut packet[2..4]),
            6 => random.fill_bytes(&mut packet[4..8]),
            7 => random.fill_bytes(&mut packet[8..12]),
            // Contributing sources, as many as it says or not.
            8 => {
                let count = random.random_range(1..16u8);
                packet[0] = (packet[0] & 0xf0) | count;
                let listed = if random.random() { count } else { random.random_range(0..16) };
                packet.splice(HEADER..HEADER, std::iter::repeat_n(7, usize::from(listed) * 4));
            }
            // A header extension: one-byte or two-byte elements or nonsense, as long as it says or not.
            9 => {
                packet[0] |= 0x10;
                let words = random.random_range(0..6u16);
                let said = if random.random() { words } else { random.random() };
                let profile = [0xbede_u16, 0x1000, 0x0001][random.random_range(0..3)];
                let mut extension = [profile.to_be_bytes(), said.to_be_bytes()].concat();
                extension.resize(4 + usize::from(words) * 4, 0);
                random.fill_bytes(&mut extension[4..]);
                packet.splice(HEADER..HEADER, extension);
            }
            // Padding, as long as it says or not.
            10 => {
                packet[0] |= 0x20;
                let pad = random.random_range(0..40u8);
                packet.resize(length + usize::from(pad), 0);
                *packet.last_mut().expect("a header") = if random.random() { pad } else { random.random() };
            }
            // The payload's own header: NAL unit types, fragments without beginning or end, aggregates that lie.
            11 => random.fill_bytes(&mut packet[HEADER..HEADER + 2]),
            12 => {
                let kind = [0x18, 0x19, 0x1c, 0x1d, 0x07, 0x08, 0x05, 0x1f][random.random_range(0..8)];
                packet[HEADER] = (packet[HEADER] & 0xe0) | kind;
            }
            13 => {
                let from = random.random_range(HEADER..length);
                packet.drain(from..random.random_range(from..=length));
            }
            14 => {
                let from = random.random_range(HEADER..length);
                random.fill_bytes(&mut packet[from..]);
            }
            // It becomes RTCP, or what RFC 7983 takes for STUN, DTLS or TURN.
            _ => {
                packet[random.random_range(0..2)] =
                    [200, 201, 205, 206, 0, 2, 22, 64][random.random_range(0..8)]
            }
        }
    }

    /// A compound of everything we read, about the stream of `packet`, spoilt like the rest.
    fn control(&mut self, packet: &[u8]) -> Vec<u8> {
        let ssrc: [u8; 4] = packet.get(8..12).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        let mut compound = Vec::new();
        for _ in 0..self.random.random_range(1..6) {
            let kind = [200, 201, 202, 203, 204, 205, 206, 207][self.random.random_range(0..8)];
            let words = self.random.random_range(0..8u16);
            let said = if self.random.random_range(0..4) > 0 { words + 1 } else { self.random.random() };
            compound.extend([0x80 | self.random.random_range(0..32u8), kind]);
            compound.extend(said.to_be_bytes());
            compound.extend(ssrc);
            let start = compound.len();
            compound.resize(start + usize::from(words) * 4, 0);
            self.random.fill_bytes(&mut compound[start..]);
        }
        if self.random.random() {
            let at = self.random.random_range(0..compound.len());
            compound[at] = self.random.random();
        }
        compound
    }
}
