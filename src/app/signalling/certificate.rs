//! What a certificate says: whom it names (RFC 5922 §7.1), whether it is valid today, and in words why it was refused.

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use webpki::{EndEntityCert, KeyUsage};

/// The domains a certificate names: its SIP URIs without a user, then its DNS names.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let of_sip = parsed.valid_uri_names().filter_map(sip_domain);
    of_sip.chain(parsed.valid_dns_names().map(str::to_owned)).collect()
}

pub(super) fn has_sip_uri(certificate: &CertificateDer<'_>, domain: &str) -> bool {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return false };
    parsed.valid_uri_names().filter_map(sip_domain).any(|name| name.eq_ignore_ascii_case(domain))
}

/// A URI with a user names a person, not a domain.
fn sip_domain(uri: &str) -> Option<String> {
    let uri = crate::sip::Uri::parse(uri)?;
    let is_domain = uri.scheme == crate::sip::uri::Scheme::Sip && uri.user.is_none();
    is_domain.then_some(uri.host)
}

/// Why our own certificate will not be believed today, as far as its dates say.
pub(super) fn problem_today(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<&'static str> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let checked = parsed.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[],
        &[],
        now,
        KeyUsage::server_auth(),
        None,
        None,
    );
    match checked.err()? {
        webpki::Error::CertExpired { .. } => Some("this certificate has expired: renew it and send SIGHUP"),
        webpki::Error::CertNotValidYet { .. } => {
            Some("this certificate is not valid yet: is the clock of this box right?")
        }
        // That nobody vouches for it is for the other side to judge.
        _ => None,
    }
}

/// What a failed handshake means and what to do about it.
pub(super) fn refusal(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired: whoever runs it must renew it, or the clock of this box is wrong".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: is the clock of this box right?".into()
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "nobody we trust signed its certificate: set server_ca in [sip.tls] (or --ca), or ca of the peer".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
                "its certificate names somebody else ({why}): dial the domain it names, or set tls_name of the peer"
            ),
            other => format!("its certificate is refused: {other}"),
        },
        Some(Error::AlertReceived(alert)) => format!(
            "it refuses us ({alert:?}): it may want a client certificate it trusts: set certificate and private_key"
        ),
        Some(other) => format!("no TLS: {other}"),
        None => format!("no TLS: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(sans: &[&str], last_year: i32) -> CertificateDer<'static> {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.subject_alt_names = sans
            .iter()
            .map(|san| match san.split_once(':') {
                Some(_) => rcgen::SanType::URI((*san).try_into().unwrap()),
                None => rcgen::SanType::DnsName((*san).try_into().unwrap()),
            })
            .collect();
        parameters.not_before = rcgen::date_time_ymd(2000, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        parameters.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn sip_uris_without_a_user_name_domains_and_come_first() {
        let certificate = made(
            &["pbx.example.com", "sip:Example.COM", "sip:bob@other.example", "https://web.example"],
            2100,
        );
        assert_eq!(names(&certificate), ["example.com", "pbx.example.com"]);
        assert!(has_sip_uri(&certificate, "EXAMPLE.com"));
        for other in ["other.example", "web.example", "pbx.example.com"] {
            assert!(!has_sip_uri(&certificate, other), "{other}");
        }
        assert!(names(&CertificateDer::from(vec![1, 2, 3])).is_empty());
    }

    #[test]
    fn dates_are_told_with_what_to_do() {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        assert_eq!(problem_today(&made(&["a.example"], 2100), now), None);
        assert!(problem_today(&made(&["a.example"], 2010), now).is_some_and(|why| why.contains("renew it")));
    }
}
