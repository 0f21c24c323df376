//! Which web pages may open WebSockets for SIP (RFC 6455 §10.2): a browser sends a page's scripts to whatever they name,
//! and only the server can tell that they are not ours. Pure.

/// `sip.origins`: origins besides those of our own host.
#[derive(Clone, Debug, Default)]
pub struct Origins(Vec<String>);

impl Origins {
    /// `https://phone.example.com`, or `*` for every page.
    pub fn new(listed: Vec<String>) -> Self {
        Origins(listed)
    }

    /// Whether a handshake may go on. Who names no origin is no browser. A page of the host that was dialled may come
    /// from another port of it.
    pub fn allows(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let listed = |known: &String| known == "*" || known.eq_ignore_ascii_case(origin);
        let own = || {
            let (_, page) = origin.split_once("://")?;
            Some(name(page).eq_ignore_ascii_case(name(host?)))
        };
        self.0.iter().any(listed) || own().unwrap_or(false)
    }
}

/// A host without its port.
fn name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_the_own_host_and_those_listed_may_and_no_others() {
        let origins = Origins::new(vec!["https://phone.example.com".to_owned()]);
        for (origin, host, expected) in [
            (None, None, true),
            (Some("https://box.example.com"), Some("box.example.com"), true),
            (Some("https://BOX.example.com"), Some("box.example.com:8443"), true),
            (Some("http://box.example.com:8080"), Some("box.example.com:8443"), true),
            (Some("https://[2001:db8::1]"), Some("[2001:db8::1]:443"), true),
            (Some("https://phone.example.com"), Some("box.example.com"), true),
            (Some("https://phone.example.com:444"), Some("box.example.com"), false),
            (Some("http://phone.example.com"), Some("box.example.com"), false),
            (Some("https://box.example.com.evil.example"), Some("box.example.com"), false),
            (Some("https://evil.example"), Some("box.example.com"), false),
            (Some("https://evil.example"), None, false),
            (Some("null"), Some("null"), false),
            (Some(""), Some(""), false),
        ] {
            assert_eq!(origins.allows(origin, host), expected, "{origin:?} {host:?}");
        }
        assert!(Origins::new(vec!["*".to_owned()]).allows(Some("null"), None));
    }
}
