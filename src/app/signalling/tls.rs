//! Driver. TLS of SIP (RFC 3261 §26, RFC 5922): certificate files to rustls configurations, and who a certificate names.
//!
//! Read once at the start and again on SIGHUP. A trunk (`[[sip.peer]]`) may have a certificate of ours, authorities and
//! a name of its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, anyhow};
use ipnet::IpNet;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use super::certificate;

/// `[sip.tls]` and what `[[sip.peer]]` adds.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Ours, with its chain; PEM files.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Authorities of servers we dial; `None`: the system's.
    pub server_ca: Option<PathBuf>,
    pub trunks: Vec<TrunkTls>,
}

/// What one `[[sip.peer]]` changes.
#[derive(Clone, Debug, Default)]
pub struct TrunkTls {
    /// The domain it is dialled by.
    pub host: Option<String>,
    pub sources: Vec<IpNet>,
    /// Ours towards it.
    pub certificate: Option<PathBuf>,
    pub private_key: Option<PathBuf>,
    /// Its authorities.
    pub ca: Option<PathBuf>,
    /// The domain its certificate must name.
    pub tls_name: Option<String>,
}

/// Everything read from the files.
pub struct Tls {
    server: Option<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
    trunks: Vec<Trunk>,
    /// Of `client_ca`.
    client_ca: Option<Arc<dyn ClientCertVerifier>>,
}

struct Trunk {
    settings: TrunkTls,
    client: Arc<ClientConfig>,
    ca: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// Reads every file, or says which one is wrong and what to do.
    pub fn load(settings: &TlsSettings) -> anyhow::Result<Tls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let ours = identity(settings.certificate.as_deref(), settings.private_key.as_deref(), "sip.tls")?;
        let client_ca = settings.client_ca.as_deref().map(authorities).transpose()?;
        let server_ca = settings.server_ca.as_deref().map(authorities).transpose()?;
        let mut accepted = client_ca.clone().unwrap_or_else(RootCertStore::empty);
        let mut trunks = Vec::new();
        for trunk in &settings.trunks {
            let place = format!("sip.peer {}", trunk.host.as_deref().unwrap_or("without uri"));
            let own = identity(trunk.certificate.as_deref(), trunk.private_key.as_deref(), &place)?;
            let ca = trunk.ca.as_deref().map(authorities).transpose()?;
            accepted.roots.extend(ca.iter().flat_map(|ca| ca.roots.iter().cloned()));
            let verifier = NamedVerifier {
                chain: chain(&provider, ca.as_ref().or(server_ca.as_ref()))?,
                must_show: trunk.tls_name.clone(),
            };
            trunks.push(Trunk {
                settings: trunk.clone(),
                client: client_config(&provider, verifier, own.as_ref().or(ours.as_ref()))?,
                ca: ca.map(|ca| client_verifier(&provider, ca)).transpose()?,
            });
        }
        let verifier = NamedVerifier { chain: chain(&provider, server_ca.as_ref())?, must_show: None };
        let client = client_config(&provider, verifier, ours.as_ref())?;
        let server = ours.map(|ours| server_config(&provider, accepted, ours)).transpose()?;
        let client_ca = client_ca.map(|ca| client_verifier(&provider, ca)).transpose()?;
        Ok(Tls { server, client, trunks, client_ca })
    }

    /// For streams we accept; `None`: there is no certificate of ours.
    pub fn server(&self) -> Option<Arc<ServerConfig>> {
        self.server.clone()
    }

    /// Whether a client may show who it is by a certificate.
    pub fn knows_clients(&self) -> bool {
        self.client_ca.is_some() || self.trunks.iter().any(|trunk| trunk.ca.is_some())
    }

    /// For a stream we open to an address, dialled by that domain.
    pub fn client(&self, name: Option<&str>, remote: IpAddr) -> Arc<ClientConfig> {
        let by_name = |trunk: &&Trunk| {
            let host = trunk.settings.host.as_deref();
            host.zip(name).is_some_and(|(host, name)| host.eq_ignore_ascii_case(name))
        };
        let by_address = |trunk: &&Trunk| {
            let remote = remote.to_canonical();
            let dialled = trunk.settings.host.as_deref().and_then(|host| host.parse::<IpAddr>().ok());
            dialled == Some(remote) || trunk.settings.sources.iter().any(|source| source.contains(&remote))
        };
        let trunk = self.trunks.iter().find(by_name).or_else(|| self.trunks.iter().find(by_address));
        trunk.map_or(&self.client, |trunk| &trunk.client).clone()
    }

    /// The domain a verified client certificate stands for: the `tls_name` of the trunk it belongs to, else its first
    /// name when `client_ca` vouches for it.
    pub fn name_of(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
        let (certificate, between) = shown.split_first()?;
        let vouched =
            |ca: &Arc<dyn ClientCertVerifier>| ca.verify_client_cert(certificate, between, now).is_ok();
        let names = certificate::names(certificate);
        let trunk = self.trunks.iter().find(|trunk| {
            let shows = |wanted: &String| names.iter().any(|name| name.eq_ignore_ascii_case(wanted));
            trunk.settings.tls_name.as_ref().is_some_and(shows)
                && trunk.ca.as_ref().or(self.client_ca.as_ref()).is_some_and(vouched)
        });
        match trunk {
            Some(trunk) => trunk.settings.tls_name.clone(),
            None => self.client_ca.as_ref().is_some_and(vouched).then(|| names.into_iter().next()).flatten(),
        }
    }
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn identity(certificate: Option<&Path>, key: Option<&Path>, place: &str) -> anyhow::Result<Option<Identity>> {
    let (file, key_file) = match (certificate, key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(anyhow!("{place}: certificate needs its private_key beside it")),
        (None, Some(_)) => return Err(anyhow!("{place}: private_key needs its certificate beside it")),
    };
    let chain = certificates(file)?;
    if let Some(first) = chain.first()
        && let Some(problem) = certificate::problem_today(first, UnixTime::now())
    {
        tracing::warn!("{}: {problem}", file.display());
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
        anyhow!("{}: no private key in it ({error}): name the PEM file of the key", key_file.display())
    })?;
    Ok(Some(Identity { chain, key }))
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(anyhow!("{}: no certificate in it: a PEM file is wanted", file.display())),
        Err(error) => Err(anyhow!("{}: cannot be read as PEM: {error}", file.display())),
    }
}

fn authorities(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .with_context(|| format!("{}: not the certificate of an authority", file.display()))?;
    }
    Ok(roots)
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    clients: RootCertStore,
    ours: Identity,
) -> anyhow::Result<Arc<ServerConfig>> {
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = if clients.is_empty() {
        builder.with_no_client_auth()
    } else {
        // Who shows none is judged by its address.
        let verifier = WebPkiClientVerifier::builder_with_provider(clients.into(), provider.clone())
            .allow_unauthenticated()
            .build()?;
        builder.with_client_cert_verifier(verifier)
    };
    let config = builder
        .with_single_cert(ours.chain, ours.key)
        .context("sip.tls: the private key does not belong to the certificate, or is of an unknown kind")?;
    Ok(Arc::new(config))
}

fn client_verifier(
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    Ok(WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: NamedVerifier,
    ours: Option<&Identity>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match ours {
        Some(ours) => builder
            .with_client_auth_cert(ours.chain.clone(), ours.key.clone_key())
            .context("the private key does not belong to the certificate, or is of an unknown kind")?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn chain(provider: &Arc<CryptoProvider>, roots: Option<&RootCertStore>) -> anyhow::Result<Chain> {
    Ok(match roots {
        Some(roots) => {
            let roots = Arc::new(roots.clone());
            Chain::Given(WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?)
        }
        None => Chain::System { provider: provider.clone(), verifier: OnceLock::new() },
    })
}

/// Who vouches for a server.
#[derive(Debug)]
enum Chain {
    Given(Arc<WebPkiServerVerifier>),
    /// Read when it is first needed.
    System {
        provider: Arc<CryptoProvider>,
        verifier: OnceLock<Result<rustls_platform_verifier::Verifier, Error>>,
    },
}

/// A server's certificate, with the names RFC 5922 §7.1 knows besides those of the web: SIP URIs. A name with `*` is
/// taken as the web does, against its §7.2: large trunks have no other.
#[derive(Debug)]
struct NamedVerifier {
    chain: Chain,
    must_show: Option<String>,
}

impl NamedVerifier {
    fn inner(&self) -> Result<&dyn ServerCertVerifier, Error> {
        match &self.chain {
            Chain::Given(verifier) => Ok(&**verifier),
            Chain::System { provider, verifier } => {
                let read = || rustls_platform_verifier::Verifier::new(provider.clone());
                match verifier.get_or_init(read) {
                    Ok(verifier) => Ok(verifier),
                    Err(error) => Err(error.clone()),
                }
            }
        }
    }
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let wanted = match &self.must_show {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| Error::General(format!("tls_name {name} is not a domain")))?,
            None => dialled.to_owned(),
        };
        let inner = self.inner()?;
        match inner.verify_server_cert(certificate, between, &wanted, ocsp, now) {
            // The chain is good, only the name is not among the DNS ones.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if certificate::has_sip_uri(certificate, &wanted.to_str()) => {
                Ok(ServerCertVerified::assertion())
            }
            Ok(verified) => Ok(verified),
            Err(error) => Err(error),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner()?.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner().map(ServerCertVerifier::supported_verify_schemes).unwrap_or_default()
    }
}
