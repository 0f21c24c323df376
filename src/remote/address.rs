//! Where a provider is: the root of its API, and where nothing but TLS may go.
//!
//! Pure. What somebody says to an agent is private; unencrypted it goes to this box and to private networks only.

use std::net::IpAddr;

use reqwest::Url;

use super::failure::Failure;

/// Whether plain text may go there: loopback, private, link-local, and what carriers share (RFC 6598).
pub fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether a URL is encrypted.
pub fn is_encrypted(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// The root of a provider's API: what is configured, else its vendor's own. An address that may not be spoken to in
/// the clear is refused here; a name is checked when it is looked up.
pub fn root(base_url: &str, vendors: &str) -> Result<Url, Failure> {
    let text = if base_url.is_empty() { vendors } else { base_url };
    let refused = |why: &str| Failure::Refused { status: 0, text: format!("base_url: {why}") };
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") {
        return Err(refused("http or https is wanted"));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if !is_encrypted(&url)
        && let Ok(ip) = host.parse::<IpAddr>()
        && !is_near(ip)
    {
        return Err(refused("plain http goes to loopback and private addresses only"));
    }
    Ok(url)
}

/// `path` below the root, whose own version is kept: `v1/messages` below `…/v1` is `…/v1/messages`.
pub fn below(root: &Url, version: &str, path: &str) -> Url {
    let mut url = root.clone();
    let own = url.path().trim_end_matches('/').to_owned();
    let last = own.rsplit('/').next().unwrap_or_default();
    let mut digits = last.chars();
    let has_version = digits.next() == Some('v') && digits.next().is_some_and(|digit| digit.is_ascii_digit());
    let version = if has_version || version.is_empty() { String::new() } else { format!("/{version}") };
    url.set_path(&format!("{own}{version}/{path}"));
    url
}

/// The same place over WebSocket, or over HTTP.
pub fn with_scheme(mut url: Url, websocket: bool) -> Url {
    let scheme = match (is_encrypted(&url), websocket) {
        (true, true) => "wss",
        (true, false) => "https",
        (false, true) => "ws",
        (false, false) => "http",
    };
    // All four are special schemes with a host, between which a change is always possible.
    let _ = url.set_scheme(scheme);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base_url: &str) -> Result<Url, Failure> {
        root(base_url, "https://api.example.com/v1")
    }

    #[test]
    fn plain_text_stays_near() {
        for (url, allowed) in [
            ("http://127.0.0.1:8000/v1", true),
            ("http://[::1]:8000/v1", true),
            ("http://192.168.1.7/v1", true),
            ("http://100.64.3.2", true),
            ("http://[fd00::7]/v1", true),
            ("ws://10.0.0.1", true),
            ("http://gpu.lan/v1", true),
            ("http://93.184.216.34/v1", false),
            ("http://[2606:4700::1]/v1", false),
            ("http://[::ffff:93.184.216.34]/v1", false),
            ("https://93.184.216.34/v1", true),
            ("ftp://127.0.0.1", false),
            ("no address", false),
            ("", true),
        ] {
            assert_eq!(at(url).is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn paths_keep_the_version_of_the_root() {
        for (root, version, path, whole) in [
            ("https://a.example/v1", "", "chat/completions", "https://a.example/v1/chat/completions"),
            ("https://a.example/v1/", "v1", "messages", "https://a.example/v1/messages"),
            ("https://a.example", "v1", "messages", "https://a.example/v1/messages"),
            ("http://10.0.0.1/proxy/", "v1beta", "models/m:x", "http://10.0.0.1/proxy/v1beta/models/m:x"),
            ("http://10.0.0.1/v1alpha", "v1beta", "models", "http://10.0.0.1/v1alpha/models"),
        ] {
            assert_eq!(below(&Url::parse(root).expect("a URL"), version, path).as_str(), whole);
        }
    }

    #[test]
    fn schemes_are_derived_from_one_another() {
        for (from, websocket, to) in [
            ("https://a.example/v1", true, "wss://a.example/v1"),
            ("http://127.0.0.1:9/v1", true, "ws://127.0.0.1:9/v1"),
            ("wss://a.example/v1", false, "https://a.example/v1"),
            ("ws://127.0.0.1/", false, "http://127.0.0.1/"),
        ] {
            assert_eq!(with_scheme(Url::parse(from).expect("a URL"), websocket).as_str(), to);
        }
    }
}
