//! Certificates made for one test: an authority of its own and what it signs.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

/// An authority and the folder of its files.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files; `both` holds one behind the other.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub both: PathBuf,
}

impl Authority {
    pub fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::default();
        // Two authorities of one name would be taken for one another until their signatures are looked at.
        let name = folder.path().display().to_string();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("an authority");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("its file");
        Authority { folder, issuer: Issuer::new(parameters, key) }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names: addresses, `sip:` URIs or domains.
    pub fn issue(&self, name: &str, sans: &[&str]) -> Files {
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = sans
            .iter()
            .map(|san| match (san.parse(), san.contains(':')) {
                (Ok(ip), _) => SanType::IpAddress(ip),
                (Err(_), true) => SanType::URI((*san).try_into().expect("ASCII")),
                (Err(_), false) => SanType::DnsName((*san).try_into().expect("ASCII")),
            })
            .collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |ending: &str, text: &str| {
            let path = self.folder.path().join(format!("{name}{ending}"));
            fs::write(&path, text).expect("a file");
            path
        };
        let (pem, key) = (certificate.pem(), key.serialize_pem());
        Files {
            both: file(".both.pem", &format!("{pem}{key}")),
            certificate: file(".pem", &pem),
            key: file(".key", &key),
        }
    }
}

/// `[sip.tls]` that shows this certificate.
pub fn shown(files: &Files, client_ca: Option<&Path>) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let client_ca = client_ca.map_or(String::new(), |ca| format!(", client_ca={}", quoted(ca)));
    format!(
        "sip.tls={{certificate={}, private_key={}{client_ca}}}",
        quoted(&files.certificate),
        quoted(&files.key)
    )
}
