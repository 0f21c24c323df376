//! DTLS-SRTP (RFC 5763, RFC 5764): a handshake that proves the peer's certificate and yields the keys of a stream.
//!
//! The protocol is `rtc-dtls` (DTLS 1.2, peers with ECDSA or RSA certificates). Around it stands what it leaves open:
//! records that a stranger could use against it are sorted out first, and what a peer can make it keep is bounded.
//! Whose datagrams come here, and for how long a handshake may last, is decided by `engine::network`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ring::digest;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::crypto_provider::RTCCryptoProvider;
use rtc_dtls::crypto_provider::providers::RingProvider;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_dtls::state::State;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use crate::secure::cipher::same;
use crate::secure::keys::{SrtpKeys, SrtpSuite};

/// A flight that was not answered is sent again after this.
const REPEAT: Duration = Duration::from_millis(500);
/// Bytes of handshake in one record; with headers a datagram stays below 1,200.
const RECORD: usize = 1_150;
/// The library keeps one association per address; ours has one, under this name.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// RFC 5764 §4.2.
const EXPORTER: &str = "EXTRACTOR-dtls_srtp";
const RECORD_HEAD: usize = 13;
const MESSAGE_HEAD: usize = 12;
/// The largest handshake message: a long certificate chain.
const MESSAGE_MAX: usize = 32 << 10;
/// Handshake fragments and records of the next epoch one peer may make us keep. The library collects fragments by
/// recursion, so their number must be small.
const PIECES_MAX: u32 = 400;
/// Messages a handshake has, and then some.
const MESSAGES_MAX: u16 = 32;
/// A peer that makes so many mistakes will not come to an end.
const ERRORS_MAX: u32 = 16;

/// The certificate of this process. A new one each time it starts: nothing to store, nothing to leak.
pub struct Identity {
    certificate: Certificate,
    provider: Arc<dyn RTCCryptoProvider>,
    fingerprint: Vec<u8>,
}

impl Identity {
    /// A self-signed ECDSA certificate on P-256.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, String> {
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(RingProvider::new());
        let certificate = Certificate::generate_self_signed(vec!["eyeline".to_owned()], provider.crypto())
            .map_err(|error| format!("no certificate for DTLS: {error}"))?;
        let der = certificate.certificate.first().ok_or("no certificate for DTLS")?;
        let fingerprint = digest::digest(&digest::SHA256, der).as_ref().to_vec();
        Ok(Identity { certificate, provider, fingerprint })
    }

    /// For `a=fingerprint`: the hash's name and the hash.
    pub fn fingerprint(&self) -> (String, Vec<u8>) {
        ("sha-256".to_owned(), self.fingerprint.clone())
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// What a handshake came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer is who its SDP says; these are the keys of the stream.
    Keys(SrtpKeys),
    /// The peer has said goodbye.
    Closed,
}

/// Why an association cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the peer's certificate is not the one its SDP names")]
    Fingerprint,
    #[error("the peer does not speak SRTP in its handshake")]
    NoSrtp,
    #[error("the DTLS handshake failed: {0}")]
    Broken(String),
}

/// One association, in either role, over one pair of ports.
pub struct Association {
    endpoint: Endpoint,
    client: bool,
    fingerprint: (String, Vec<u8>),
    /// Set while the library looks at the peer's certificate.
    stranger: Arc<AtomicBool>,
    done: bool,
    pieces: u32,
    errors: u32,
}

impl Association {
    /// `client`: the first flight waits in [`Association::poll`]. `fingerprint`: what the peer's certificate must have.
    ///
    /// # Errors
    /// The library refuses to begin.
    pub fn new(
        now: Instant,
        identity: &Identity,
        client: bool,
        fingerprint: (String, Vec<u8>),
    ) -> Result<Self, Failure> {
        let stranger = Arc::new(AtomicBool::new(false));
        let terms = Arc::new(terms(identity, client, &fingerprint, &stranger).map_err(broken)?);
        let home = SocketAddr::new(PEER.ip(), 2);
        let server = (!client).then(|| terms.clone());
        let mut endpoint = Endpoint::new(home, TransportProtocol::UDP, server);
        if client {
            endpoint.connect(now, PEER, terms, None).map_err(broken)?;
        }
        Ok(Association { endpoint, client, fingerprint, stranger, done: false, pieces: 0, errors: 0 })
    }

    /// The keys are out.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a datagram of the peer. Poll afterwards.
    ///
    /// # Errors
    /// This association is over; the next ClientHello may begin another.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) -> Result<Option<Progress>, Failure> {
        let records = self.sort(datagram);
        if records.is_empty() {
            return Ok(None);
        }
        let events = match self.endpoint.read(now, PEER, None, records) {
            Ok(events) => events,
            Err(error) => return self.mistake(error).map(|()| None),
        };
        let mut progress = None;
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => progress = Some(Progress::Keys(self.keys()?)),
                EndpointEvent::PeerClosed => progress = Some(Progress::Closed),
                // Nothing is said inside; and what may come to be is not for us.
                EndpointEvent::ApplicationData(_) | _ => {}
            }
        }
        Ok(progress)
    }

    /// # Errors
    /// The peer never answered.
    pub fn handle_time(&mut self, now: Instant) -> Result<(), Failure> {
        if self.wake_at().is_some_and(|at| now >= at) {
            self.endpoint.handle_timeout(PEER, now).map_err(broken)?;
        }
        Ok(())
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.endpoint.poll_timeout(&PEER)
    }

    /// Datagrams to send.
    pub fn poll(&mut self) -> Option<BytesMut> {
        self.endpoint.poll_transmit().map(|transmit| transmit.message)
    }

    /// Says goodbye. Poll afterwards.
    pub fn close(&mut self, now: Instant) {
        if self.done {
            // Nothing can come of it but the datagram.
            let _ = self.endpoint.close(now);
        }
    }

    fn mistake(&mut self, error: Error) -> Result<(), Failure> {
        self.errors += 1;
        if self.stranger.load(Ordering::Relaxed) {
            return Err(Failure::Fingerprint);
        }
        if self.errors > ERRORS_MAX { Err(broken(error)) } else { Ok(()) }
    }

    fn keys(&mut self) -> Result<SrtpKeys, Failure> {
        let state = self.endpoint.get_connection_state(PEER).ok_or(Failure::NoSrtp)?;
        let certificate = state.peer_certificates.first().ok_or(Failure::Fingerprint)?;
        if !has_fingerprint(certificate, &self.fingerprint) {
            return Err(Failure::Fingerprint);
        }
        let keys = export(state, self.client)?;
        self.done = true;
        Ok(keys)
    }

    /// The records the library may see: whole ones, of a bounded number, and before there are keys none that anybody
    /// could use to end the handshake (alerts and data in the clear).
    fn sort(&mut self, datagram: &[u8]) -> BytesMut {
        let mut good = BytesMut::new();
        let mut rest = datagram;
        while let Some((head, behind)) = rest.split_at_checked(RECORD_HEAD) {
            let length = usize::from(u16::from_be_bytes([head[11], head[12]]));
            let Some((body, behind)) = behind.split_at_checked(length) else { break };
            let (record, epoch) = (&rest[..RECORD_HEAD + length], u16::from_be_bytes([head[3], head[4]]));
            rest = behind;
            let version = head[1] == 0xfe && matches!(head[2], 0xfd | 0xff);
            let pieces = match (head[0], epoch) {
                (22, 0) => fragments(body),
                (20, 0) => Some(1),
                (20..=23, 1) => Some(u32::from(!self.done)),
                _ => None,
            };
            let Some(pieces) = pieces.filter(|_| version && length > 0) else { continue };
            if self.pieces + pieces <= PIECES_MAX {
                self.pieces += pieces;
                good.extend_from_slice(record);
            }
        }
        good
    }
}

/// The number of handshake fragments in a plain record, if it holds whole and sane ones only.
fn fragments(mut body: &[u8]) -> Option<u32> {
    let mut number = 0;
    let three = |at: &[u8]| usize::from(at[0]) << 16 | usize::from(at[1]) << 8 | usize::from(at[2]);
    while !body.is_empty() {
        let (head, behind) = body.split_at_checked(MESSAGE_HEAD)?;
        let (whole, offset, length) = (three(&head[1..4]), three(&head[6..9]), three(&head[9..12]));
        let sequence = u16::from_be_bytes([head[4], head[5]]);
        // A fragment of nothing is only good for an empty message.
        let empty = length == 0 && whole != 0;
        if whole > MESSAGE_MAX || offset + length > whole || empty || sequence > MESSAGES_MAX {
            return None;
        }
        body = behind.get(length..)?;
        number += 1;
    }
    Some(number)
}

fn terms(
    identity: &Identity,
    client: bool,
    fingerprint: &(String, Vec<u8>),
    stranger: &Arc<AtomicBool>,
) -> Result<HandshakeConfig, Error> {
    let (expected, stranger) = (fingerprint.clone(), stranger.clone());
    let look = move |certificates: &[Vec<u8>], _: &[_]| {
        let known = certificates.first().is_some_and(|certificate| has_fingerprint(certificate, &expected));
        stranger.store(!known, Ordering::Relaxed);
        if known { Ok(()) } else { Err(Error::Other("another certificate".to_owned())) }
    };
    ConfigBuilder::default()
        .with_crypto_provider(identity.provider.clone())
        .with_certificates(vec![identity.certificate.clone()])
        .with_srtp_protection_profiles(vec![
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        ])
        .with_client_auth(ClientAuthType::RequireAnyClientCert)
        // Certificates are self-signed: the fingerprint of the SDP is what is verified.
        .with_insecure_skip_verify(true)
        .with_verify_peer_certificate(Some(Arc::new(look)))
        .with_flight_interval(REPEAT)
        .with_mtu(RECORD)
        .build(client, Some(PEER))
}

/// Splits what the exporter gives: both keys, then both salts, the client's first (RFC 5764 §4.2).
fn export(state: &State, client: bool) -> Result<SrtpKeys, Failure> {
    let suite = match state.srtp_protection_profile() {
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => SrtpSuite::AesCm128HmacSha1_80,
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => SrtpSuite::AeadAes128Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => SrtpSuite::AeadAes256Gcm,
        _ => return Err(Failure::NoSrtp),
    };
    let (key, salt) = suite.lengths();
    let material = state.export_keying_material(EXPORTER, &[], 2 * (key + salt)).map_err(broken)?;
    let (keys, salts) = material.as_ref().split_at_checked(2 * key).ok_or(Failure::NoSrtp)?;
    let of_client = [&keys[..key], &salts[..salt]].concat();
    let of_server = [&keys[key..], &salts[salt..]].concat();
    let (local, remote) = if client { (of_client, of_server) } else { (of_server, of_client) };
    Ok(SrtpKeys { suite, local, remote })
}

/// RFC 8122 §5; MD5 and MD2 are refused.
fn has_fingerprint(certificate: &[u8], (name, expected): &(String, Vec<u8>)) -> bool {
    let algorithm = match name.as_str() {
        "sha-1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "sha-256" => &digest::SHA256,
        "sha-384" => &digest::SHA384,
        "sha-512" => &digest::SHA512,
        _ => return false,
    };
    same(digest::digest(algorithm, certificate).as_ref(), expected)
}

fn broken(error: Error) -> Failure {
    Failure::Broken(error.to_string())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn identity() -> Identity {
        Identity::generate().expect("a certificate")
    }

    /// Both ends of one handshake on a wire that loses, in virtual time.
    struct Wire {
        now: Instant,
        ends: [Association; 2],
        keys: [Option<SrtpKeys>; 2],
        closed: [bool; 2],
        /// Datagrams that were on the wire.
        sent: Vec<Vec<u8>>,
    }

    impl Wire {
        /// The first end is the client.
        fn new(client: &Identity, server: &Identity) -> Wire {
            let now = Instant::now();
            let of = |own, is_client, other: &Identity| {
                Association::new(now, own, is_client, other.fingerprint()).expect("it begins")
            };
            let ends = [of(client, true, server), of(server, false, client)];
            Wire { now, ends, keys: [None, None], closed: [false; 2], sent: Vec::new() }
        }

        /// Runs until nothing moves any more or `limit` is over.
        fn run(&mut self, limit: Duration, mut lost: impl FnMut() -> bool) -> Result<(), Failure> {
            let end = self.now + limit;
            while self.now < end && self.keys.iter().any(Option::is_none) {
                let mut moved = false;
                for from in [0, 1] {
                    while let Some(datagram) = self.ends[from].poll() {
                        moved = true;
                        assert!(datagram.len() <= 1_232, "{} bytes", datagram.len());
                        self.sent.push(datagram.to_vec());
                        if !lost() {
                            self.deliver(1 - from, &datagram)?;
                        }
                    }
                }
                if !moved {
                    let wake = self.ends.iter().filter_map(Association::wake_at).min();
                    self.now = wake.unwrap_or(end).max(self.now + Duration::from_millis(1));
                    for end in &mut self.ends {
                        end.handle_time(self.now)?;
                    }
                }
            }
            Ok(())
        }

        fn deliver(&mut self, to: usize, datagram: &[u8]) -> Result<(), Failure> {
            match self.ends[to].handle(self.now, datagram)? {
                Some(Progress::Keys(keys)) => self.keys[to] = Some(keys),
                Some(Progress::Closed) => self.closed[to] = true,
                None => {}
            }
            Ok(())
        }
    }

    #[test]
    fn both_sides_get_the_same_keys_the_other_way_round() {
        let (one, two) = (identity(), identity());
        let mut wire = Wire::new(&one, &two);
        wire.run(Duration::from_secs(5), || false).expect("a handshake");
        let [Some(client), Some(server)] = wire.keys.clone() else { panic!("both have keys") };
        assert_eq!(client.suite, SrtpSuite::AeadAes128Gcm);
        assert_eq!((&client.local, &client.remote), (&server.remote, &server.local));
        assert_ne!(client.local, client.remote);
        assert_eq!(client.local.len(), 28);
        assert!(wire.ends.iter().all(Association::is_done));
    }

    #[test]
    fn lost_flights_are_sent_again_until_both_are_through() {
        let (one, two) = (identity(), identity());
        let mut through = 0;
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut wire = Wire::new(&one, &two);
            let result = wire.run(Duration::from_secs(5), || random.random_bool(0.2));
            through += u32::from(result.is_ok() && wire.keys.iter().all(Option::is_some));
        }
        assert!(through >= 18, "{through} of 20 at 20 % loss");
    }

    #[test]
    fn a_peer_with_another_certificate_gets_no_keys() {
        let (one, two, other) = (identity(), identity(), identity());
        for impostor in [0, 1] {
            let mut wire = Wire::new(&one, &two);
            let fingerprint = other.fingerprint();
            let (own, client) = if impostor == 0 { (&two, false) } else { (&one, true) };
            let end = Association::new(wire.now, own, client, fingerprint).expect("it begins");
            wire.ends[1 - impostor] = end;
            assert_eq!(wire.run(Duration::from_secs(5), || false), Err(Failure::Fingerprint));
            assert!(wire.keys[1 - impostor].is_none());
        }
    }

    #[test]
    fn goodbyes_are_heard_and_those_in_the_clear_are_not() {
        let (one, two) = (identity(), identity());
        let mut wire = Wire::new(&one, &two);
        // A stranger's fatal alert, in the clear, in the middle of the handshake.
        let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 77, 0, 2, 2, 40];
        let hello = wire.ends[0].poll().expect("a first flight");
        wire.deliver(1, &hello).expect("taken");
        wire.deliver(1, &alert).expect("left alone");
        wire.run(Duration::from_secs(5), || false).expect("a handshake");
        assert!(wire.keys.iter().all(Option::is_some));
        wire.deliver(0, &alert).expect("left alone");
        let now = wire.now;
        wire.ends[0].close(now);
        let bye = wire.ends[0].poll().expect("it says goodbye");
        wire.deliver(1, &bye).expect("heard");
        assert!(wire.closed[1]);
    }

    #[test]
    fn pieces_without_end_are_kept_up_to_a_bound_only() {
        let (one, two) = (identity(), identity());
        let mut wire = Wire::new(&one, &two);
        // A message of 30,000 bytes, one byte a fragment, the last one first.
        for offset in (0..30_000_u32).rev() {
            let [_, high, middle, low] = offset.to_be_bytes();
            let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0];
            record.extend(&offset.to_be_bytes()[1..]);
            record.extend([0, 13, 1, 0, 0x75, 0x30, 0, 0, high, middle, low, 0, 0, 1, 9]);
            wire.deliver(1, &record).expect("sorted out");
        }
        assert_eq!(wire.ends[1].pieces, PIECES_MAX);
    }

    #[test]
    fn seeded_mutations_of_a_handshake_never_panic() {
        let (one, two) = (identity(), identity());
        let mut model = Wire::new(&one, &two);
        model.run(Duration::from_secs(5), || false).expect("a handshake");
        let mut random = StdRng::seed_from_u64(17);
        for round in 0..1_000 {
            let mut wire = Wire::new(&one, &two);
            let to = round % 2;
            for datagram in &model.sent {
                let mut bytes = datagram.clone();
                for _ in 0..random.random_range(0..4) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] = random.random();
                }
                if random.random_bool(0.1) {
                    bytes.truncate(random.random_range(0..bytes.len()));
                }
                if wire.deliver(to, &bytes).is_err() {
                    break;
                }
            }
            assert!(wire.keys[to].is_none(), "nobody gets keys from an old handshake");
        }
    }

    #[test]
    fn fingerprints_are_compared_by_their_own_hash() {
        let certificate = b"a certificate";
        for (name, algorithm) in [
            ("sha-1", &digest::SHA1_FOR_LEGACY_USE_ONLY),
            ("sha-256", &digest::SHA256),
            ("sha-384", &digest::SHA384),
            ("sha-512", &digest::SHA512),
        ] {
            let hash = digest::digest(algorithm, certificate).as_ref().to_vec();
            assert!(has_fingerprint(certificate, &(name.to_owned(), hash.clone())), "{name}");
            assert!(!has_fingerprint(b"another", &(name.to_owned(), hash.clone())), "{name}");
            assert!(!has_fingerprint(certificate, &("md5".to_owned(), hash)));
        }
    }
}
