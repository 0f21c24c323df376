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
    /// What is offered protected is answered protected; our own offers are `RTP/AVP` with keys, which may be declined.
    #[default]
    Optional,
    /// Nothing goes in the clear: plain lines are refused, our own offers are `RTP/SAVP`.
    Required,
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

fn is_protected(kept: Option<&Protection>) -> bool {
    kept.is_some_and(|kept| *kept != Protection::None)
}

/// How a line they offer can be protected under the policy; `None`: it cannot be taken. `kept`: what protects the
/// stream so far.
pub(super) fn means(
    offer: &SessionDescription,
    media: &Media,
    settings: &MediaSettings,
    kept: Option<&Protection>,
) -> Option<Means> {
    let protected = is_protected(kept);
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
    pub(super) fn secure_answer(&mut self, means: &Means, at: &Place<'_>, settings: &MediaSettings) -> Secured {
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
        let protocol = match settings.srtp {
            SrtpPolicy::Off => return plain_offer("RTP/AVP".to_owned(), false),
            SrtpPolicy::Optional => "RTP/AVP",
            SrtpPolicy::Required => "RTP/SAVP",
        };
        if self.secrets(place).offered.is_empty() {
            let keys = OFFERED.map(|suite| (suite, self.fresh_key(suite)));
            self.secrets(place).offered = keys.to_vec();
        }
        let lines = self.secrets(place).offered.iter().zip(1..).map(|((suite, key), tag)| {
            Attribute::new("crypto", Crypto::value(tag, suite.name(), key))
        });
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
            Some(ice) if ice.remote_ufrag.is_empty() => Ice { remote_ufrag: ufrag, remote_password: password, ..ice },
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

/// What their answer makes of our line; `None`: the line cannot be used. `settled`: what protected the stream before
/// our offer.
pub(super) fn accepted(
    pair: &Pairing<'_>,
    settings: &MediaSettings,
    settled: Option<&Protection>,
) -> Option<(Protection, Option<Ice>)> {
    let profiles = (profile(pair.ours)?, profile(pair.theirs)?);
    let plain = settings.srtp != SrtpPolicy::Required && !is_protected(settled);
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
    if media.iter().any(|media| media.has("ice-ufrag")) { vec![Attribute::flag("ice-lite")] } else { Vec::new() }
}
