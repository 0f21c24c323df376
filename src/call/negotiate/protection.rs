//! SRTP in offer and answer: keys in the description (SDES, RFC 4568), DTLS (RFC 5763, RFC 8842), and ICE-lite for
//! peers that need it (RFC 8839, RFC 8445 §2.5).
//!
//! Profiles are read as real peers mean them: `RTP/AVP` with `a=crypto` (Polycom, Snom, baresip) or with a fingerprint
//! (Linphone) is an offer of protection that may be declined. What was protected once never goes on in the clear: a
//! renewed description without keys loses the line. Keys stay over renewed descriptions while the peer keeps its own;
//! a peer that changes its key may be another one, so it gets a fresh one of ours.
//! Packets, handshakes and connectivity checks do not belong here.

use std::net::IpAddr;

use rand::Rng;

use super::{MediaSettings, Origin};
use crate::engine::plan::{DtlsPeer, Ice, Protection, SrtpKeys, SrtpSuite};
use crate::sdp::{Attribute, Crypto, Fingerprint, Media, SessionDescription, Setup, ice};

/// In the order we know them; a peer's own order decides.
const SUITES: [SrtpSuite; 4] = [
    SrtpSuite::AesCm128HmacSha1_80,
    SrtpSuite::AesCm128HmacSha1_32,
    SrtpSuite::AeadAes128Gcm,
    SrtpSuite::AeadAes256Gcm,
];

/// What we offer: every peer with SRTP knows the first, and a description with both stays below 1,200 bytes.
const OFFERED: [SrtpSuite; 2] = [SrtpSuite::AesCm128HmacSha1_80, SrtpSuite::AesCm128HmacSha1_32];

const ICE_LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// `srtp` of a peer or of the appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SrtpPolicy {
    /// Keys are neither offered nor taken; lines that demand protection are refused.
    Off,
    /// What is offered protected is answered protected; our own offers are `RTP/AVP` with keys or a fingerprint, which
    /// may be declined.
    #[default]
    Optional,
    /// Nothing goes in the clear: plain lines are refused, our own offers are `RTP/SAVP` or `UDP/TLS/RTP/SAVP`.
    Required,
}

/// How our own offers let keys come. Whatever a peer offers is answered, either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyOffer {
    /// They stand in the description (RFC 4568).
    #[default]
    Sdes,
    /// From a handshake on the media path (RFC 5763).
    Dtls,
}

/// What a profile on an `m=` line demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    Plain,
    /// `RTP/SAVP(F)`.
    Secure,
    /// `UDP/TLS/RTP/SAVP(F)`.
    Dtls,
}

fn profile(media: &Media) -> Option<Profile> {
    match media.protocol.to_ascii_uppercase().as_str() {
        "RTP/AVP" | "RTP/AVPF" => Some(Profile::Plain),
        "RTP/SAVP" | "RTP/SAVPF" => Some(Profile::Secure),
        "UDP/TLS/RTP/SAVP" | "UDP/TLS/RTP/SAVPF" => Some(Profile::Dtls),
        _ => None,
    }
}

/// RTP over UDP, protected or not.
pub(super) fn is_rtp(media: &Media) -> bool {
    profile(media).is_some()
}

/// How an offered line will be protected.
#[derive(Clone, Debug)]
pub(super) enum Means {
    Plain,
    Sdes { tag: u32, suite: SrtpSuite, remote: Vec<u8> },
    Dtls { fingerprint: Fingerprint, setup: Setup },
}

impl Means {
    pub fn protects(&self) -> bool {
        !matches!(self, Means::Plain)
    }
}

/// What protects a stream, as it goes into its line and into its route.
#[derive(Debug, Default)]
pub(super) struct Secured {
    pub protection: Protection,
    pub ice: Option<Ice>,
    pub attributes: Vec<Attribute>,
}

/// What a line of ours is offered with.
pub(super) struct Offered {
    pub protocol: String,
    pub rtcp_mux: bool,
    pub attributes: Vec<Attribute>,
}

/// Our secrets of one line, kept while the peer keeps its own.
#[derive(Clone, Default)]
pub(super) struct Secrets {
    answered: Option<SrtpKeys>,
    offered: Vec<(SrtpSuite, Vec<u8>)>,
    dtls: Option<DtlsPeer>,
    ice: Option<Ice>,
    /// `a=tls-id` (RFC 8842): theirs and ours.
    tls_id: Option<(String, String)>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

pub(super) fn is_protected(agreed: Option<&Protection>) -> bool {
    agreed.is_some_and(|agreed| *agreed != Protection::None)
}

/// How a line they offer can be protected under the policy; `None`: it cannot be taken. `protected`: the stream was,
/// and may not go in the clear any more.
pub(super) fn means(
    offer: &SessionDescription,
    media: &Media,
    settings: &MediaSettings,
    protected: bool,
) -> Option<Means> {
    let allowed = settings.srtp != SrtpPolicy::Off || protected;
    let sdes = || {
        let (tag, suite, remote) = cryptos(media).next().filter(|_| allowed)?;
        Some(Means::Sdes { tag, suite, remote })
    };
    let dtls = || {
        let setup = setup(offer, media).unwrap_or(Setup::Active);
        let usable = allowed && settings.dtls_fingerprint.is_some() && setup != Setup::HoldConnection;
        let fingerprint = fingerprint(offer, media).filter(|_| usable)?;
        Some(Means::Dtls { fingerprint, setup })
    };
    match profile(media)? {
        Profile::Plain => {
            let plain = settings.srtp != SrtpPolicy::Required && !protected;
            sdes().or_else(dtls).or_else(|| plain.then_some(Means::Plain))
        }
        Profile::Secure => sdes().or_else(dtls),
        Profile::Dtls => dtls(),
    }
}

/// The keys of a line that we can use as they are, in the writer's order.
fn cryptos(media: &Media) -> impl Iterator<Item = (u32, SrtpSuite, Vec<u8>)> {
    media.values("crypto").filter_map(Crypto::parse).filter_map(|crypto| {
        let suite = SUITES.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(&crypto.suite))?;
        let (key, salt) = suite.lengths();
        let fits = crypto.key.len() == key + salt && !crypto.key_identifier && crypto.is_ordinary();
        fits.then_some((crypto.tag, suite, crypto.key))
    })
}

/// The longest hash stated: of several, the strongest (RFC 8122 §5.1).
fn fingerprint(description: &SessionDescription, media: &Media) -> Option<Fingerprint> {
    let strongest = |attributes: &[Attribute]| {
        let stated = attributes.iter().filter(|attribute| attribute.name.eq_ignore_ascii_case("fingerprint"));
        let read = stated.filter_map(|attribute| Fingerprint::parse(attribute.value.as_deref()?));
        read.max_by_key(|fingerprint| fingerprint.bytes.len())
    };
    strongest(&media.attributes).or_else(|| strongest(&description.attributes))
}

fn setup(description: &SessionDescription, media: &Media) -> Option<Setup> {
    Setup::parse(ice::attribute(description, media, "setup")?)
}

/// A line of the peer's offer and where it will be answered.
pub(super) struct Place<'a> {
    pub place: usize,
    pub offer: &'a SessionDescription,
    pub theirs: &'a Media,
    pub kept: Option<&'a Protection>,
    pub address: IpAddr,
    pub port: u16,
}

impl Origin {
    /// Answers an offered protection: our key, our fingerprint, our candidates. The same offer gets the same.
    pub(super) fn secure_answer(
        &mut self,
        means: &Means,
        at: &Place<'_>,
        settings: &MediaSettings,
    ) -> Secured {
        let mut secured = Secured::default();
        match means {
            Means::Plain => {}
            Means::Sdes { tag, suite, remote } => {
                let local = self.answering_key(at.place, *suite, remote, at.kept);
                secured.attributes.push(Attribute::new("crypto", Crypto::value(*tag, suite.name(), &local)));
                let keys = SrtpKeys { suite: *suite, local, remote: remote.clone() };
                self.secrets(at.place).answered = Some(keys.clone());
                secured.protection = Protection::Sdes(Box::new(keys));
            }
            Means::Dtls { fingerprint, setup } => {
                let peer = self.dtls_peer(at, fingerprint, *setup);
                let ours = if peer.client { Setup::Active } else { Setup::Passive };
                secured.attributes.extend(own_fingerprint(settings));
                secured.attributes.push(Attribute::new("setup", ours.name()));
                secured.attributes.extend(self.tls_id(at));
                secured.protection = Protection::Dtls(Box::new(peer));
            }
        }
        let feedback = at.theirs.protocol.to_ascii_uppercase().ends_with("SAVPF");
        let needed = settings.ice || feedback || matches!(means, Means::Dtls { .. });
        if let Some(remote) = ice::credentials(at.offer, at.theirs).filter(|_| needed) {
            let ours = self.answering_ice(at.place, remote);
            secured.attributes.extend(ice_attributes(&ours, at.address, at.port, at.theirs.has("rtcp-mux")));
            // Two that only answer checks need none (RFC 8445 §6.1.1).
            secured.ice = Some(ours).filter(|_| !ice::is_lite(at.offer));
        }
        secured
    }

    /// What our own line is offered with: as it was agreed on, else by the policy.
    pub(super) fn secure_offer(
        &mut self,
        (place, earlier): (usize, Option<&Media>),
        (protection, ice): (Option<&Protection>, Option<&Ice>),
        settings: &MediaSettings,
        (address, port): (IpAddr, u16),
    ) -> Offered {
        let mux = earlier.is_some_and(|media| media.has("rtcp-mux"));
        let as_before = |otherwise: &str| earlier.map_or(otherwise, |media| &media.protocol).to_owned();
        let mut offered = match protection {
            Some(Protection::None) => plain_offer(as_before("RTP/AVP"), mux),
            Some(Protection::Sdes(keys)) => Offered {
                protocol: as_before("RTP/SAVP"),
                rtcp_mux: mux,
                attributes: vec![Attribute::new("crypto", Crypto::value(1, keys.suite.name(), &keys.local))],
            },
            Some(Protection::Dtls(_)) => dtls_offer(settings, as_before("UDP/TLS/RTP/SAVPF"), mux),
            None => self.first_offer(place, settings),
        };
        let browser = protection.is_none() && is_for_browser(settings);
        let ours = match ice {
            Some(ice) => Some(ice.clone()),
            None => browser.then(|| self.offering_ice(place)),
        };
        if let Some(ours) = ours {
            offered.attributes.extend(ice_attributes(&ours, address, port, offered.rtcp_mux));
        }
        offered
    }

    fn first_offer(&mut self, place: usize, settings: &MediaSettings) -> Offered {
        if is_for_browser(settings) {
            return dtls_offer(settings, "UDP/TLS/RTP/SAVPF".to_owned(), true);
        }
        let handshake = settings.key_offer == KeyOffer::Dtls && settings.dtls_fingerprint.is_some();
        let protocol = match (settings.srtp, handshake) {
            (SrtpPolicy::Off, _) => return plain_offer("RTP/AVP".to_owned(), false),
            // RFC 8643: who knows no DTLS answers in the clear.
            (SrtpPolicy::Optional, true) => return dtls_offer(settings, "RTP/AVP".to_owned(), true),
            (SrtpPolicy::Required, true) => return dtls_offer(settings, "UDP/TLS/RTP/SAVP".to_owned(), true),
            (SrtpPolicy::Optional, false) => "RTP/AVP",
            (SrtpPolicy::Required, false) => "RTP/SAVP",
        };
        if self.secrets(place).offered.is_empty() {
            let keys = OFFERED.map(|suite| (suite, self.fresh_key(suite)));
            self.secrets(place).offered = keys.to_vec();
        }
        let lines = self
            .secrets(place)
            .offered
            .iter()
            .zip(1..)
            .map(|((suite, key), tag)| Attribute::new("crypto", Crypto::value(tag, suite.name(), key)));
        Offered { protocol: protocol.to_owned(), rtcp_mux: false, attributes: lines.collect() }
    }

    fn secrets(&mut self, place: usize) -> &mut Secrets {
        if self.secrets.len() <= place {
            self.secrets.resize_with(place + 1, Secrets::default);
        }
        &mut self.secrets[place]
    }

    fn answering_key(
        &mut self,
        place: usize,
        suite: SrtpSuite,
        remote: &[u8],
        kept: Option<&Protection>,
    ) -> Vec<u8> {
        let same = |keys: &SrtpKeys| keys.suite == suite && keys.remote == remote;
        if let Some(Protection::Sdes(keys)) = kept
            && same(keys)
        {
            return keys.local.clone();
        }
        let known = self.secrets(place).answered.as_ref().filter(|keys| same(keys));
        match known.map(|keys| keys.local.clone()) {
            Some(local) => local,
            None => self.fresh_key(suite),
        }
    }

    fn fresh_key(&mut self, suite: SrtpSuite) -> Vec<u8> {
        let (key, salt) = suite.lengths();
        let mut bytes = vec![0; key + salt];
        self.random.fill(bytes.as_mut_slice());
        bytes
    }

    /// An association that stands keeps its roles: a renewed offer says `actpass` again (RFC 8842 §5.3).
    fn dtls_peer(&mut self, at: &Place<'_>, fingerprint: &Fingerprint, setup: Setup) -> DtlsPeer {
        let fingerprint = (fingerprint.hash.clone(), fingerprint.bytes.clone());
        let before = match at.kept {
            Some(Protection::Dtls(peer)) => Some((**peer).clone()),
            Some(Protection::None | Protection::Sdes(_)) | None => self.secrets(at.place).dtls.clone(),
        };
        let client = match setup {
            Setup::Active => false,
            Setup::Passive => true,
            Setup::ActPass | Setup::HoldConnection => {
                before.is_none_or(|before| before.client || before.fingerprint != fingerprint)
            }
        };
        let peer = DtlsPeer { client, fingerprint };
        self.secrets(at.place).dtls = Some(peer.clone());
        peer
    }

    fn tls_id(&mut self, at: &Place<'_>) -> Option<Attribute> {
        let theirs = at.theirs.values("tls-id").next()?.to_owned();
        let known = self.secrets(at.place).tls_id.clone().filter(|(known, _)| *known == theirs);
        let (_, ours) = known.unwrap_or_else(|| (theirs.clone(), self.word(20)));
        self.secrets(at.place).tls_id = Some((theirs, ours.clone()));
        Some(Attribute::new("tls-id", ours))
    }

    /// A peer that restarts ICE has new words, and then ours are new (RFC 8839 §4.4.1.1.1).
    fn answering_ice(&mut self, place: usize, (ufrag, password): (String, String)) -> Ice {
        let known = self.secrets(place).ice.clone();
        let ours = match known {
            // Nothing was heard of the peer yet: these words stand in our offer.
            Some(ice) if ice.remote_ufrag.is_empty() => {
                Ice { remote_ufrag: ufrag, remote_password: password, ..ice }
            }
            Some(ice) if ice.remote_ufrag == ufrag && ice.remote_password == password => ice,
            Some(_) | None => Ice {
                local_ufrag: self.word(8),
                local_password: self.word(24),
                remote_ufrag: ufrag,
                remote_password: password,
            },
        };
        self.secrets(place).ice = Some(ours.clone());
        ours
    }

    fn offering_ice(&mut self, place: usize) -> Ice {
        if let Some(known) = self.secrets(place).ice.clone() {
            return known;
        }
        let (local_ufrag, local_password) = (self.word(8), self.word(24));
        let ours =
            Ice { local_ufrag, local_password, remote_ufrag: String::new(), remote_password: String::new() };
        self.secrets(place).ice = Some(ours.clone());
        ours
    }

    /// Letters ICE and TLS identifiers are made of, six bits each.
    fn word(&mut self, length: usize) -> String {
        let letter = |_| char::from(ICE_LETTERS[self.random.random_range(0..ICE_LETTERS.len())]);
        (0..length).map(letter).collect()
    }
}

/// Our line in an offer and the line that answers it.
pub(super) struct Pairing<'a> {
    pub offer: &'a SessionDescription,
    pub ours: &'a Media,
    pub answer: &'a SessionDescription,
    pub theirs: &'a Media,
}

/// What their answer makes of our line; `None`: the line cannot be used. `protected`: the stream was before our offer.
pub(super) fn accepted(
    pair: &Pairing<'_>,
    settings: &MediaSettings,
    protected: bool,
) -> Option<(Protection, Option<Ice>)> {
    let profiles = (profile(pair.ours)?, profile(pair.theirs)?);
    let plain = settings.srtp != SrtpPolicy::Required && !protected;
    let protection = match accepted_keys(pair.ours, pair.theirs).or_else(|| accepted_dtls(pair)) {
        Some(protection) => protection,
        None if plain && profiles == (Profile::Plain, Profile::Plain) => Protection::None,
        None => return None,
    };
    let local = ice::credentials(pair.offer, pair.ours);
    let remote = ice::credentials(pair.answer, pair.theirs).filter(|_| !ice::is_lite(pair.answer));
    let ice = local.zip(remote).map(|((local_ufrag, local_password), (remote_ufrag, remote_password))| Ice {
        local_ufrag,
        local_password,
        remote_ufrag,
        remote_password,
    });
    Some((protection, ice))
}

/// By the suite, which stands on one line of ours only: there are peers that answer every tag with 1.
fn accepted_keys(ours: &Media, theirs: &Media) -> Option<Protection> {
    cryptos(theirs).find_map(|(_, suite, remote)| {
        let (_, _, local) = cryptos(ours).find(|(_, own, _)| *own == suite)?;
        Some(Protection::Sdes(Box::new(SrtpKeys { suite, local, remote })))
    })
}

fn accepted_dtls(pair: &Pairing<'_>) -> Option<Protection> {
    pair.ours.has("fingerprint").then_some(())?;
    let fingerprint = fingerprint(pair.answer, pair.theirs)?;
    let client = match setup(pair.answer, pair.theirs).unwrap_or(Setup::Active) {
        // An answer must choose; one that does not leaves the first word to the peer.
        Setup::Active | Setup::ActPass => false,
        Setup::Passive => true,
        Setup::HoldConnection => return None,
    };
    let fingerprint = (fingerprint.hash, fingerprint.bytes);
    Some(Protection::Dtls(Box::new(DtlsPeer { client, fingerprint })))
}

fn is_for_browser(settings: &MediaSettings) -> bool {
    settings.browser && settings.srtp != SrtpPolicy::Off && settings.dtls_fingerprint.is_some()
}

fn plain_offer(protocol: String, rtcp_mux: bool) -> Offered {
    Offered { protocol, rtcp_mux, attributes: Vec::new() }
}

fn dtls_offer(settings: &MediaSettings, protocol: String, rtcp_mux: bool) -> Offered {
    let mut attributes: Vec<Attribute> = own_fingerprint(settings).into_iter().collect();
    attributes.push(Attribute::new("setup", Setup::ActPass.name()));
    Offered { protocol, rtcp_mux, attributes }
}

fn own_fingerprint(settings: &MediaSettings) -> Option<Attribute> {
    let (hash, bytes) = settings.dtls_fingerprint.clone()?;
    Some(Attribute::new("fingerprint", Fingerprint { hash, bytes }.to_string()))
}

fn ice_attributes(ours: &Ice, address: IpAddr, port: u16, rtcp_mux: bool) -> Vec<Attribute> {
    let mut attributes =
        vec![Attribute::new("ice-ufrag", &ours.local_ufrag), Attribute::new("ice-pwd", &ours.local_password)];
    attributes.extend(ice::host_candidates(address, port, rtcp_mux));
    attributes
}

/// The session attribute of a description that has a line with ICE.
pub(super) fn lite_if_ice(media: &[Media]) -> Vec<Attribute> {
    if media.iter().any(|media| media.has("ice-ufrag")) {
        vec![Attribute::flag("ice-lite")]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{described, origin, ports, settings};
    use super::super::{Refusal, accept, answer, offer, wanted};
    use super::*;
    use crate::engine::plan::Streams;

    const KEY: &str = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXowMTIz";
    const OTHER_KEY: &str = "MTIzNDU2Nzg5MGFiY2RlZmdoaWprbG1ub3BxcnN0";

    fn required() -> MediaSettings {
        MediaSettings { srtp: SrtpPolicy::Required, ..settings() }
    }

    fn off() -> MediaSettings {
        MediaSettings { srtp: SrtpPolicy::Off, ..settings() }
    }

    fn keyed(protocol: &str, key: &str) -> String {
        format!("m=audio 4000 {protocol} 0\r\na=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:{key}|2^31\r\n")
    }

    fn hashed(protocol: &str, setup: &str) -> String {
        let digits = vec!["0A"; 32].join(":");
        format!(
            "m=audio 4000 {protocol} 0\r\na=fingerprint:sha-256 {digits}\r\na=setup:{setup}\r\na=rtcp-mux\r\n\
             a=ice-ufrag:peer\r\na=ice-pwd:peerpasswordpeerpassword\r\n"
        )
    }

    fn answered(lines: &str, settings: &MediaSettings) -> Result<(SessionDescription, Streams), Refusal> {
        answer(&described(lines), settings, &ports(), &mut origin())
    }

    fn protection(streams: &Streams) -> &Protection {
        &streams.audio.as_ref().unwrap().route.protection
    }

    fn keys(streams: &Streams) -> &SrtpKeys {
        match protection(streams) {
            Protection::Sdes(keys) => keys,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_policy_decides_what_is_taken() {
        let plain = "m=audio 4000 RTP/AVP 0\r\n";
        let optional = keyed("RTP/AVP", KEY);
        let demanded = keyed("RTP/SAVP", KEY);
        let takes = |lines: &str, settings: &MediaSettings| {
            answered(lines, settings).map(|(_, streams)| protection(&streams) != &Protection::None).ok()
        };
        let cases =
            [(plain, [Some(false), Some(false), None]), (&optional, [Some(false), Some(true), Some(true)])];
        for (lines, expected) in cases {
            let policies = [off(), settings(), required()];
            assert_eq!(policies.map(|settings| takes(lines, &settings)), expected, "{lines}");
        }
        assert_eq!(
            [off(), settings(), required()].map(|s| takes(&demanded, &s)),
            [None, Some(true), Some(true)]
        );
    }

    #[test]
    fn one_key_of_ours_answers_the_first_usable_of_theirs() {
        let short = "AAAA";
        let lines = format!(
            "m=audio 4000 RTP/SAVP 0\r\na=crypto:1 F8_128_HMAC_SHA1_80 inline:{KEY}\r\n\
             a=crypto:2 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31|1:1\r\n\
             a=crypto:4 AES_CM_128_HMAC_SHA1_80 inline:{short}\r\n\
             a=crypto:5 AES_CM_128_HMAC_SHA1_80 inline:{KEY} UNENCRYPTED_SRTP\r\n\
             a=crypto:6 AES_CM_128_HMAC_SHA1_32 inline:{KEY}|2^20\r\na=crypto:7 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n"
        );
        let (answer, streams) = answered(&lines, &settings()).unwrap();
        let stated: Vec<_> = answer.media[0].values("crypto").filter_map(Crypto::parse).collect();
        assert_eq!(stated.len(), 1);
        assert_eq!((stated[0].tag, stated[0].suite.as_str()), (6, "AES_CM_128_HMAC_SHA1_32"));
        let keys = keys(&streams);
        assert_eq!((&keys.local, keys.remote.len()), (&stated[0].key, 30));
        assert_ne!(keys.local, keys.remote);
    }

    #[test]
    fn a_line_that_demands_keys_and_has_none_is_refused_with_its_reason() {
        let reason =
            |lines: &str, settings: &MediaSettings| answered(lines, settings).unwrap_err().to_string();
        assert!(reason("m=audio 4000 RTP/SAVP 0\r\n", &settings()).contains("demanded"));
        assert!(reason("m=audio 4000 RTP/AVP 0\r\n", &required()).contains("required"));
        let deaf = MediaSettings { dtls_fingerprint: None, ..settings() };
        assert!(reason(&hashed("UDP/TLS/RTP/SAVPF", "actpass"), &deaf).contains("demanded"));
        assert!(reason(&hashed("UDP/TLS/RTP/SAVPF", "holdconn"), &settings()).contains("demanded"));
    }

    #[test]
    fn a_protected_line_comes_before_a_plain_one_beside_it() {
        let both = format!("m=audio 4002 RTP/AVP 0\r\n{}", keyed("RTP/SAVP", KEY));
        let (answer, _) = answered(&both, &settings()).unwrap();
        assert_eq!(answer.media.iter().map(|media| media.port).collect::<Vec<_>>(), [0, 20000]);
        assert_eq!(answered(&both, &off()).unwrap().0.media[0].port, 20000);
    }

    #[test]
    fn keys_stay_while_the_peer_keeps_its_own_and_change_when_it_does() {
        let mut origin = origin();
        let mut say = |lines: &str| {
            let (_, streams) = answer(&described(lines), &settings(), &ports(), &mut origin).unwrap();
            keys(&streams).local.clone()
        };
        let first = say(&keyed("RTP/SAVP", KEY));
        assert_eq!(say(&keyed("RTP/SAVP", KEY)), first);
        let second = say(&keyed("RTP/SAVP", OTHER_KEY));
        assert_ne!(second, first);
        assert_eq!(say(&format!("a=sendonly\r\n{}", keyed("RTP/SAVP", OTHER_KEY))), second);
    }

    #[test]
    fn what_was_protected_never_goes_on_in_the_clear() {
        let mut origin = origin();
        answer(&described(&keyed("RTP/AVP", KEY)), &settings(), &ports(), &mut origin).unwrap();
        let plain = described("m=audio 4000 RTP/AVP 0\r\n");
        assert_eq!(answer(&plain, &settings(), &ports(), &mut origin).unwrap_err().status(), 488);
        let again = offer(&settings(), &ports(), &mut origin);
        assert_eq!(again.media[0].values("crypto").count(), 1, "the key in use, and no other");
        assert_eq!(accept(&again, &plain, &settings(), &mut origin).unwrap_err().status(), 488);
        let protected = described(&keyed("RTP/AVP", OTHER_KEY));
        assert!(accept(&again, &protected, &settings(), &mut origin).is_ok());
    }

    #[test]
    fn a_stream_that_was_away_does_not_come_back_in_the_clear() {
        let mut origin = origin();
        let mut say = |lines: &str| answer(&described(lines), &settings(), &ports(), &mut origin);
        let video = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n";
        let audio = keyed("RTP/SAVP", KEY);
        let crypto = format!("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}\r\n");
        assert!(say(&format!("{audio}{video}{crypto}")).unwrap().1.video.is_some());
        assert!(say(&format!("{audio}{}", video.replace("4002", "0"))).unwrap().1.video.is_none());
        let (refused, streams) = say(&format!("{audio}{video}")).unwrap();
        assert_eq!((refused.media[1].port, streams.video), (0, None));
    }

    #[test]
    fn our_offer_follows_the_policy_and_the_answer_chooses() {
        let offered = |settings: &MediaSettings| {
            let mut origin = origin();
            let offered = offer(settings, &ports(), &mut origin);
            assert!(offered.to_string().len() <= 1200, "{} bytes", offered.to_string().len());
            let audio = &offered.media[0];
            let known = (audio.protocol.clone(), audio.values("crypto").count());
            (offered, origin, known)
        };
        assert_eq!(offered(&off()).2, ("RTP/AVP".to_owned(), 0));
        let (ours, mut origin, known) = offered(&settings());
        assert_eq!(known, ("RTP/AVP".to_owned(), 2));
        let plain = described("m=audio 4000 RTP/AVP 0\r\n");
        let streams = accept(&ours, &plain, &settings(), &mut origin).unwrap();
        assert_eq!(protection(&streams), &Protection::None);
        let again = offer(&settings(), &ports(), &mut origin);
        assert!(!again.media[0].has("crypto"), "what goes in the clear stays as it was agreed on");
        let (ours, mut origin, known) = offered(&required());
        assert_eq!(known, ("RTP/SAVP".to_owned(), 2));
        assert!(accept(&ours, &plain, &required(), &mut origin).is_err());
        let wrong_tag = described(&keyed("RTP/SAVP", KEY).replace("crypto:3", "crypto:1"));
        let streams = accept(&ours, &wrong_tag, &required(), &mut origin).unwrap();
        let stated = Crypto::parse(ours.media[0].values("crypto").next().unwrap()).unwrap();
        assert_eq!(keys(&streams).local, stated.key);
    }

    #[test]
    fn of_two_forks_the_second_may_be_plain() {
        let mut origin = origin();
        let ours = offer(&settings(), &ports(), &mut origin);
        let early = accept(&ours, &described(&keyed("RTP/AVP", KEY)), &settings(), &mut origin).unwrap();
        assert_ne!(protection(&early), &Protection::None);
        assert!(accept(&ours, &described("m=audio 4000 RTP/AVP 0\r\n"), &settings(), &mut origin).is_ok());
    }

    fn dtls(streams: &Streams) -> &DtlsPeer {
        match protection(streams) {
            Protection::Dtls(peer) => peer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_browser_is_answered_with_dtls_and_ice_lite() {
        let offer = described(&hashed("UDP/TLS/RTP/SAVPF", "actpass"));
        let mut origin = origin();
        let (first, streams) = answer(&offer, &settings(), &ports(), &mut origin).unwrap();
        let line = &first.media[0];
        assert_eq!(line.protocol, "UDP/TLS/RTP/SAVPF");
        assert_eq!(line.values("setup").next(), Some("active"));
        assert!(line.has("fingerprint") && line.has("rtcp-mux") && !line.has("crypto"));
        assert_eq!(line.values("candidate").count(), 1);
        assert!(first.to_string().contains("a=ice-lite\r\nm="));
        assert!(dtls(&streams).client);
        let ice = streams.audio.as_ref().unwrap().route.ice.clone().unwrap();
        assert_eq!(
            (ice.remote_ufrag.as_str(), ice.local_ufrag.len(), ice.local_password.len()),
            ("peer", 8, 24)
        );
        assert_eq!(answer(&offer, &settings(), &ports(), &mut origin).unwrap().0, first);
        let restarted = described(&hashed("UDP/TLS/RTP/SAVPF", "actpass").replace("ufrag:peer", "ufrag:new"));
        let (_, streams) = answer(&restarted, &settings(), &ports(), &mut origin).unwrap();
        assert_ne!(streams.audio.unwrap().route.ice.unwrap().local_ufrag, ice.local_ufrag);
    }

    #[test]
    fn a_handshake_is_offered_where_the_settings_say_so() {
        let handshake = |settings: MediaSettings| MediaSettings { key_offer: KeyOffer::Dtls, ..settings };
        for (settings, protocol) in [(settings(), "RTP/AVP"), (required(), "UDP/TLS/RTP/SAVP")] {
            let settings = handshake(settings);
            let mut origin = origin();
            let ours = offer(&settings, &ports(), &mut origin);
            let line = &ours.media[0];
            assert_eq!((line.protocol.as_str(), line.values("setup").next()), (protocol, Some("actpass")));
            assert!(
                line.has("fingerprint")
                    && line.has("rtcp-mux")
                    && !line.has("crypto")
                    && !line.has("ice-ufrag")
            );
            let theirs = described(&hashed(protocol, "passive"));
            let streams = accept(&ours, &theirs, &settings, &mut origin).unwrap();
            assert!(dtls(&streams).client && streams.audio.unwrap().route.ice.is_none());
            let again = offer(&settings, &ports(), &mut origin);
            assert_eq!((&again.media[0].protocol, again.media[0].has("fingerprint")), (&line.protocol, true));
        }
        // Who knows no DTLS answers in the clear, where that may be.
        let plain = described("m=audio 4000 RTP/AVP 0\r\n");
        for (settings, taken) in [(settings(), true), (required(), false)] {
            let (settings, mut origin) = (handshake(settings), origin());
            let ours = offer(&settings, &ports(), &mut origin);
            let accepted = accept(&ours, &plain, &settings, &mut origin);
            assert_eq!(accepted.is_ok_and(|streams| protection(&streams) == &Protection::None), taken);
        }
        let without = MediaSettings { dtls_fingerprint: None, ..handshake(settings()) };
        assert!(offer(&without, &ports(), &mut origin()).media[0].has("crypto"), "no certificate of our own");
    }

    #[test]
    fn roles_follow_the_offer_and_stay() {
        let role = |setup: &str| {
            let (answer, streams) = answered(&hashed("RTP/AVP", setup), &settings()).unwrap();
            (answer.media[0].values("setup").next().unwrap().to_owned(), dtls(&streams).client)
        };
        assert_eq!(role("active"), ("passive".to_owned(), false));
        assert_eq!(role("passive"), ("active".to_owned(), true));
        let mut origin = origin();
        let browser = MediaSettings { browser: true, ..settings() };
        let ours = offer(&browser, &ports(), &mut origin);
        // Browsers come over streams: no datagram has to hold it.
        assert!(ours.to_string().len() <= 1500, "{} bytes", ours.to_string().len());
        assert_eq!(ours.media[0].protocol, "UDP/TLS/RTP/SAVPF");
        assert_eq!(ours.media[1].values("setup").next(), Some("actpass"));
        let theirs = described(&hashed("UDP/TLS/RTP/SAVPF", "active"));
        let streams = accept(&ours, &theirs, &browser, &mut origin).unwrap();
        assert!(!dtls(&streams).client && streams.audio.unwrap().route.ice.is_some());
        let renewed = described(&hashed("UDP/TLS/RTP/SAVPF", "actpass"));
        let (again, streams) = answer(&renewed, &browser, &ports(), &mut origin).unwrap();
        assert_eq!((again.media[0].values("setup").next(), dtls(&streams).client), (Some("passive"), false));
        let ufrag = |description: &SessionDescription| {
            description.media[0].values("ice-ufrag").next().map(str::to_owned)
        };
        assert_eq!(ufrag(&again), ufrag(&ours));
    }

    #[test]
    fn ice_is_answered_where_it_is_needed_or_wanted() {
        let plain = "m=audio 4000 RTP/AVP 0\r\na=ice-ufrag:peer\r\na=ice-pwd:peerpasswordpeerpassword\r\n";
        let (answer, streams) = answered(plain, &settings()).unwrap();
        assert!(!answer.to_string().contains("a=ice") && streams.audio.unwrap().route.ice.is_none());
        let wanting = MediaSettings { ice: true, ..settings() };
        let (answer, streams) = answered(plain, &wanting).unwrap();
        assert_eq!(answer.media[0].values("candidate").count(), 2, "RTCP has a component of its own");
        assert!(streams.audio.unwrap().route.ice.is_some());
        let (answer, streams) = answered(&format!("a=ice-lite\r\n{plain}"), &wanting).unwrap();
        assert!(answer.media[0].has("ice-ufrag") && streams.audio.unwrap().route.ice.is_none());
    }

    #[test]
    fn a_line_without_an_address_yet_is_not_held_when_it_speaks_ice() {
        let trickling = hashed("UDP/TLS/RTP/SAVPF", "actpass").replace("m=audio 4000", "m=audio 9")
            + "c=IN IP4 0.0.0.0\r\n";
        let (_, streams) = answered(&trickling, &settings()).unwrap();
        let route = streams.audio.unwrap().route;
        assert!(route.direction.sends() && route.remote.is_none());
        assert!(wanted(&described(&trickling), &settings()).is_ok());
    }
}
