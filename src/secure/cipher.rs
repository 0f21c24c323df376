//! What SRTP does to the bytes of one packet: key derivation, encryption and authentication (RFC 3711 §4, RFC 7714).
//!
//! Which index a packet has, and whether it was seen before, is `srtp`'s.

use aes::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use aes::{Aes128, Aes256};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use ring::{aead, hmac};
use subtle::ConstantTimeEq;

use crate::secure::keys::SrtpSuite;

/// RTCP header and the SSRC of its sender, which stay readable.
pub const RTCP_HEAD: usize = 8;
/// The index behind an SRTCP packet, with the bit that says it is encrypted.
pub const RTCP_INDEX: usize = 4;
/// The bit that says so.
const ENCRYPTED: u32 = 1 << 31;
const HMAC_TAG_80: usize = 10;
const HMAC_TAG_32: usize = 4;
const GCM_TAG: usize = 16;

/// The keystream position of AES in counter mode over a borrowed key.
type Counting<'a, A> = StreamCipherCoreWrapper<CtrCore<&'a A, Ctr128BE>>;

/// What one direction's RTP, or its RTCP, is protected with.
pub enum Cipher {
    Counter { key: Box<Aes128>, salt: [u8; 14], mac: Box<hmac::Key>, tag: usize },
    Gcm { key: Box<aead::LessSafeKey>, salt: [u8; 12] },
}

/// Which of a direction's two ciphers: their keys are derived with different labels (RFC 3711 §4.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Rtp,
    Rtcp,
}

impl Purpose {
    /// Labels of encryption key, authentication key and salt.
    fn labels(self) -> [u8; 3] {
        match self {
            Purpose::Rtp => [0, 1, 2],
            Purpose::Rtcp => [3, 4, 5],
        }
    }
}

impl Cipher {
    /// `master`: key, then salt. `None`: its length is not that of the suite.
    pub fn derive(suite: SrtpSuite, master: &[u8], purpose: Purpose) -> Option<Cipher> {
        let (key_len, salt_len) = suite.lengths();
        if master.len() != key_len + salt_len {
            return None;
        }
        let (key, salt) = master.split_at(key_len);
        let [for_key, for_mac, for_salt] = purpose.labels();
        let counter = |tag| {
            let (mut session, mut mac, mut session_salt) = ([0; 16], [0; 20], [0; 14]);
            derive(key, salt, for_key, &mut session);
            derive(key, salt, for_mac, &mut mac);
            derive(key, salt, for_salt, &mut session_salt);
            Some(Cipher::counter(&session, session_salt, &mac, tag))
        };
        let gcm = |algorithm, session: &mut [u8]| {
            let mut session_salt = [0; 12];
            derive(key, salt, for_key, session);
            derive(key, salt, for_salt, &mut session_salt);
            Cipher::gcm(algorithm, session, session_salt)
        };
        match (suite, purpose) {
            (SrtpSuite::AesCm128HmacSha1_80, _) => counter(HMAC_TAG_80),
            // Only RTP has the short tag (RFC 4568 §6.2.2).
            (SrtpSuite::AesCm128HmacSha1_32, Purpose::Rtp) => counter(HMAC_TAG_32),
            (SrtpSuite::AesCm128HmacSha1_32, Purpose::Rtcp) => counter(HMAC_TAG_80),
            (SrtpSuite::AeadAes128Gcm, _) => gcm(&aead::AES_128_GCM, &mut [0; 16]),
            (SrtpSuite::AeadAes256Gcm, _) => gcm(&aead::AES_256_GCM, &mut [0; 32]),
        }
    }

    fn counter(key: &[u8; 16], salt: [u8; 14], mac: &[u8], tag: usize) -> Cipher {
        Cipher::Counter {
            key: Box::new(Aes128::new(key.into())),
            salt,
            mac: Box::new(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, mac)),
            tag,
        }
    }

    fn gcm(algorithm: &'static aead::Algorithm, key: &[u8], salt: [u8; 12]) -> Option<Cipher> {
        let key = aead::UnboundKey::new(algorithm, key).ok()?;
        Some(Cipher::Gcm { key: Box::new(aead::LessSafeKey::new(key)), salt })
    }

    /// Bytes a packet grows by, without an index.
    pub fn tag_len(&self) -> usize {
        match self {
            Cipher::Counter { tag, .. } => *tag,
            Cipher::Gcm { .. } => GCM_TAG,
        }
    }

    /// Whether a failed [`Cipher::open_rtp`] leaves the packet as it was.
    pub fn spares_forgeries(&self) -> bool {
        matches!(self, Cipher::Counter { .. })
    }

    /// Protects an RTP packet whose header is `head` bytes long.
    pub fn seal_rtp(&self, packet: &mut Vec<u8>, head: usize, ssrc: u32, index: u64) {
        match self {
            Cipher::Counter { key, salt, mac, tag } => {
                count(key, counter_iv(salt, ssrc, index), &mut packet[head..]);
                let roc = ((index >> 16) as u32).to_be_bytes();
                let signed = sign(mac, &[packet, &roc]);
                packet.extend_from_slice(&signed.as_ref()[..*tag]);
            }
            Cipher::Gcm { key, salt } => {
                let nonce = gcm_nonce(salt, ssrc, index);
                let (aad, body) = packet.split_at_mut(head);
                match seal(key, nonce, aad, body) {
                    Some(tag) => packet.extend(tag),
                    None => packet.clear(),
                }
            }
        }
    }

    /// The length of the plain packet, which then stands at the start of `packet`. `None`: it is forged, or its
    /// index is another.
    pub fn open_rtp(&self, packet: &mut [u8], head: usize, ssrc: u32, index: u64) -> Option<usize> {
        let end = packet.len().checked_sub(self.tag_len()).filter(|end| *end >= head)?;
        match self {
            Cipher::Counter { key, salt, mac, .. } => {
                let (content, tag) = packet.split_at_mut(end);
                let roc = ((index >> 16) as u32).to_be_bytes();
                if !same(&sign(mac, &[content, &roc]).as_ref()[..tag.len()], tag) {
                    return None;
                }
                count(key, counter_iv(salt, ssrc, index), &mut content[head..]);
                Some(end)
            }
            Cipher::Gcm { key, salt } => {
                let (aad, body) = packet.split_at_mut(head);
                key.open_in_place(gcm_nonce(salt, ssrc, index), aead::Aad::from(&*aad), body).ok()?;
                Some(end)
            }
        }
    }

    /// Protects an RTCP compound of at least [`RTCP_HEAD`] bytes.
    pub fn seal_rtcp(&self, packet: &mut Vec<u8>, ssrc: u32, index: u32) {
        let word = (ENCRYPTED | index).to_be_bytes();
        match self {
            Cipher::Counter { key, salt, mac, tag } => {
                count(key, counter_iv(salt, ssrc, index.into()), &mut packet[RTCP_HEAD..]);
                packet.extend_from_slice(&word);
                let signed = sign(mac, &[packet]);
                packet.extend_from_slice(&signed.as_ref()[..*tag]);
            }
            Cipher::Gcm { key, salt } => {
                let (head, body) = packet.split_at_mut(RTCP_HEAD);
                let tag = seal(key, gcm_rtcp_nonce(salt, ssrc, index), &rtcp_aad(head, word), body);
                match tag {
                    Some(tag) => packet.extend(tag.iter().chain(&word)),
                    None => packet.clear(),
                }
            }
        }
    }

    /// The index of an SRTCP packet. `None`: too short, or not encrypted although that was agreed.
    pub fn rtcp_index(&self, packet: &[u8]) -> Option<u32> {
        let end = match self {
            Cipher::Counter { tag, .. } => packet.len().checked_sub(*tag)?,
            Cipher::Gcm { .. } => packet.len(),
        };
        let start = end.checked_sub(RTCP_INDEX).filter(|_| packet.len() >= self.rtcp_least())?;
        let word = u32::from_be_bytes(packet.get(start..end)?.try_into().ok()?);
        (word & ENCRYPTED != 0).then_some(word & !ENCRYPTED)
    }

    fn rtcp_least(&self) -> usize {
        RTCP_HEAD + RTCP_INDEX + self.tag_len()
    }

    /// The length of the plain compound. `None`: it is forged.
    pub fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, index: u32) -> Option<usize> {
        let end = packet.len().checked_sub(RTCP_INDEX + self.tag_len()).filter(|end| *end >= RTCP_HEAD)?;
        match self {
            Cipher::Counter { key, salt, mac, tag } => {
                let (content, given) = packet.split_at_mut(end + RTCP_INDEX);
                if !same(&sign(mac, &[content]).as_ref()[..*tag], given) {
                    return None;
                }
                count(key, counter_iv(salt, ssrc, index.into()), &mut content[RTCP_HEAD..end]);
            }
            Cipher::Gcm { key, salt } => {
                let (content, word) = packet.split_at_mut(end + GCM_TAG);
                let (head, body) = content.split_at_mut(RTCP_HEAD);
                let aad = rtcp_aad(head, (&*word).try_into().ok()?);
                let nonce = gcm_rtcp_nonce(salt, ssrc, index);
                key.open_in_place(nonce, aead::Aad::from(aad), body).ok()?;
            }
        }
        Some(end)
    }
}

/// The key derivation of RFC 3711 §4.3.1 with a rate of 0: keystream of the master key at the label.
fn derive(key: &[u8], salt: &[u8], label: u8, out: &mut [u8]) {
    let mut iv = [0; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    out.fill(0);
    match (<&[u8; 16]>::try_from(key), <&[u8; 32]>::try_from(key)) {
        (Ok(key), _) => count(&Aes128::new(key.into()), iv, out),
        (_, Ok(key)) => {
            let key = Aes256::new(key.into());
            Counting::from_core(CtrCore::inner_iv_init(&key, &iv.into())).apply_keystream(out);
        }
        (Err(_), Err(_)) => {}
    }
}

fn count(key: &Aes128, iv: [u8; 16], bytes: &mut [u8]) {
    Counting::from_core(CtrCore::inner_iv_init(key, &iv.into())).apply_keystream(bytes);
}

/// RFC 3711 §4.1.1.
fn counter_iv(salt: &[u8; 14], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    mix(&mut iv[4..8], &ssrc.to_be_bytes());
    mix(&mut iv[8..14], &index.to_be_bytes()[2..]);
    iv
}

/// RFC 7714 §8.1.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> aead::Nonce {
    let mut nonce = *salt;
    mix(&mut nonce[2..6], &ssrc.to_be_bytes());
    mix(&mut nonce[6..12], &index.to_be_bytes()[2..]);
    aead::Nonce::assume_unique_for_key(nonce)
}

/// RFC 7714 §9.1: the same, as SRTCP indexes have 31 bits.
fn gcm_rtcp_nonce(salt: &[u8; 12], ssrc: u32, index: u32) -> aead::Nonce {
    gcm_nonce(salt, ssrc, index.into())
}

/// RFC 7714 §9.2.
fn rtcp_aad(head: &[u8], word: [u8; RTCP_INDEX]) -> [u8; RTCP_HEAD + RTCP_INDEX] {
    let mut aad = [0; RTCP_HEAD + RTCP_INDEX];
    aad[..RTCP_HEAD].copy_from_slice(head);
    aad[RTCP_HEAD..].copy_from_slice(&word);
    aad
}

fn mix(bytes: &mut [u8], with: &[u8]) {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
}

fn sign(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    context.sign()
}

/// `None` only for packets beyond what GCM can seal (64 GiB).
fn seal(key: &aead::LessSafeKey, nonce: aead::Nonce, aad: &[u8], body: &mut [u8]) -> Option<[u8; GCM_TAG]> {
    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(aad), body).ok()?;
    tag.as_ref().try_into().ok()
}

/// In a time that says nothing about where they differ.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("hexadecimal")).collect()
    }

    #[test]
    fn keystream_is_that_of_rfc_3711_b_2() {
        let key: [u8; 16] = hex("2B7E151628AED2A6ABF7158809CF4F3C").try_into().expect("a key");
        let salt: [u8; 14] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD").try_into().expect("a salt");
        let mut stream = vec![0; 0xff02 * 16];
        count(&Aes128::new(&key.into()), counter_iv(&salt, 0, 0), &mut stream);
        assert_eq!(&stream[..16], hex("E03EAD0935C95E80E166B16DD92B4EB4"));
        assert_eq!(&stream[16..32], hex("D23513162B02D0F72A43A2FE4A5F97AB"));
        assert_eq!(&stream[0xfeff * 16..0xff00 * 16], hex("EC8CDF7398607CB0F2D21675EA9EA1E4"));
        assert_eq!(&stream[0xff00 * 16..0xff01 * 16], hex("362B7C3C6773516318A077D7FC5073AE"));
        assert_eq!(&stream[0xff01 * 16..], hex("6A2CC3787889374FBEB4C81B17BA6C44"));
    }

    #[test]
    fn session_keys_are_those_of_rfc_3711_b_3() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let derived = |label, length| {
            let mut out = vec![0; length];
            derive(&key, &salt, label, &mut out);
            out
        };
        assert_eq!(derived(0, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derived(2, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let mac = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCEE049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC256D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2";
        let mac = hex(mac);
        assert_eq!(derived(1, mac.len()), mac);
    }

    /// RFC 7714 §16.1 and §16.2: session keys as given, not derived.
    #[test]
    fn gcm_protects_rtp_as_in_rfc_7714() {
        let salt: [u8; 12] = hex("517569642070726f2071756f").try_into().expect("a salt");
        let plain = hex(
            "8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120696e207061727465732074726573",
        );
        let cases = [
            (
                &aead::AES_128_GCM,
                hex("000102030405060708090a0b0c0d0e0f"),
                "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce",
            ),
            (
                &aead::AES_256_GCM,
                (0..32).collect(),
                "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13",
            ),
        ];
        for (algorithm, key, expected) in cases {
            let cipher = Cipher::gcm(algorithm, &key, salt).expect("a key");
            let mut packet = plain.clone();
            cipher.seal_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b);
            assert_eq!(packet[12..], hex(expected));
            assert_eq!(cipher.open_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b), Some(plain.len()));
            assert_eq!(packet[..plain.len()], plain);
        }
    }

    #[test]
    fn gcm_protects_rtcp_as_in_rfc_7714_17_1() {
        let salt: [u8; 12] = hex("517569642070726f2071756f").try_into().expect("a salt");
        let key: Vec<u8> = (0..16).collect();
        let cipher = Cipher::gcm(&aead::AES_128_GCM, &key, salt).expect("a key");
        let plain = hex(
            "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
        );
        let mut packet = plain.clone();
        cipher.seal_rtcp(&mut packet, 0x4d61_7273, 0x5d4);
        let expected = "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4";
        assert_eq!(packet, hex(expected));
        assert_eq!(cipher.rtcp_index(&packet), Some(0x5d4));
        assert_eq!(cipher.open_rtcp(&mut packet, 0x4d61_7273, 0x5d4), Some(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
    }

    #[test]
    fn only_equal_tags_of_equal_length_are_the_same() {
        assert!(same(&[1, 2, 3], &[1, 2, 3]));
        assert!(!same(&[1, 2, 3], &[1, 2, 4]) && !same(&[1, 2], &[1, 2, 3]));
    }
}
