//! Whom this box may call: `sip.dial_allow`, whoever asks for the call. Nothing is allowed that is not listed, apart
//! from what the configuration itself names; all of it under one cap an hour.
//!
//! Pure. Where a URI leads is found elsewhere; who asks for the call (the API, a 302, a REFER) asks here first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::routing::glob;
use crate::sip::Uri;
use crate::sip::uri::Scheme;

const HOUR: Duration = Duration::from_secs(3600);

/// Who asks for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialReason {
    /// The operator or an application.
    Call,
    /// A peer, by a 3xx.
    Redirect,
    /// A peer or we, by REFER.
    Refer,
    /// We join two calls that are there.
    Replaces,
}

/// Why a URI is not called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("it is not in sip.dial_allow")]
    NotListed,
    #[error("its maddr would take the call past sip.dial_allow")]
    Elsewhere,
    #[error("only sip:, sips: and tel: are dialled")]
    OtherScheme,
    #[error("sip.dial_per_hour ({0}) is reached")]
    TooMany(u32),
}

/// The rule, and what was dialled in the last hour.
#[derive(Clone, Debug, Default)]
pub struct Dialling {
    allow: Vec<String>,
    /// 0: no limit.
    per_hour: u32,
    /// Hosts of our accounts: plain calls may go there.
    domains: Vec<String>,
    /// `[[sip.user]]`: plain calls may go there, and globs without `@` and scheme name them.
    users: Vec<String>,
    /// `[[sip.peer]]`: globs without `@` and scheme name them.
    peers: Vec<String>,
    /// Names of this box, besides addresses of its own.
    own: Vec<String>,
    recent: VecDeque<Instant>,
}

impl Dialling {
    pub fn new(allow: Vec<String>) -> Self {
        Dialling { allow, ..Dialling::default() }
    }

    /// At most so many permitted calls an hour; 0: no limit.
    pub fn per_hour(self, per_hour: u32) -> Self {
        Dialling { per_hour, ..self }
    }

    /// Hosts (with a port where one is written) that plain calls may go to.
    pub fn domains(self, domains: Vec<String>) -> Self {
        Dialling { domains, ..self }
    }

    /// The names of users that register here and of peers, and the hosts that stand for this box.
    pub fn names(self, users: Vec<String>, peers: Vec<String>, own: Vec<String>) -> Self {
        Dialling { users, peers, own, ..self }
    }

    /// Whether this URI may be called; if so it counts as called.
    ///
    /// # Errors
    /// Says which rule forbids it.
    pub fn permit(&mut self, now: Instant, uri: &Uri, reason: DialReason) -> Result<(), Denied> {
        let outcome = self.judge(now, uri, reason);
        match outcome {
            Ok(()) => self.recent.push_back(now),
            Err(denied) => tracing::warn!(?reason, host = %shown(uri), "not dialled: {denied}"),
        }
        outcome
    }

    fn judge(&mut self, now: Instant, uri: &Uri, reason: DialReason) -> Result<(), Denied> {
        if uri.parameter("maddr").is_some() {
            return Err(Denied::Elsewhere);
        }
        match &uri.scheme {
            Scheme::Sip | Scheme::Sips => {}
            Scheme::Other(scheme) if scheme == "tel" => {}
            Scheme::Other(_) => return Err(Denied::OtherScheme),
        }
        let named = reason == DialReason::Call && (self.is_at_account(uri) || self.is_user(uri));
        if !named && !self.allow.iter().any(|pattern| self.allows(pattern, uri)) {
            return Err(Denied::NotListed);
        }
        while self.recent.front().is_some_and(|then| now.saturating_duration_since(*then) >= HOUR) {
            self.recent.pop_front();
        }
        // The cap bounds the list too.
        if self.per_hour == 0 {
            self.recent.clear();
        } else if self.recent.len() >= self.per_hour as usize {
            return Err(Denied::TooMany(self.per_hour));
        }
        Ok(())
    }

    fn is_at_account(&self, uri: &Uri) -> bool {
        let (host, with_port) = hosts(uri);
        self.domains.iter().any(|domain| *domain == host || *domain == with_port)
    }

    fn is_own(&self, uri: &Uri) -> bool {
        self.own.contains(&uri.host)
    }

    fn is_user(&self, uri: &Uri) -> bool {
        self.is_own(uri) && uri.user_decoded().is_some_and(|user| self.users.iter().any(|name| *name == user))
    }

    /// User and host are compared one by one, so that an `@` in either cannot shift the other.
    fn allows(&self, pattern: &str, uri: &Uri) -> bool {
        let (scheme, rest) = match pattern.split_once(':') {
            Some((scheme @ ("sip" | "sips" | "tel"), rest)) => (Some(scheme), rest),
            _ => (None, pattern),
        };
        let fits = match (scheme, &uri.scheme) {
            (None, Scheme::Sip | Scheme::Sips) | (Some("sip"), Scheme::Sip | Scheme::Sips) => true,
            (Some("sips"), Scheme::Sips) => true,
            (Some("tel"), Scheme::Other(_)) => return number_fits(rest, uri),
            _ => false,
        };
        if !fits {
            return false;
        }
        match (rest.rsplit_once('@'), scheme) {
            (Some((user, host)), _) => {
                uri.user_decoded().is_some_and(|found| user_fits(user, &found)) && host_fits(host, uri)
            }
            (None, Some(_)) => uri.user.is_none() && host_fits(rest, uri),
            (None, None) => {
                let names = self.users.iter().chain(&self.peers);
                let is_known = |user: &str| names.clone().any(|name| name == user);
                self.is_own(uri)
                    && uri.user_decoded().is_some_and(|found| is_known(&found) && glob(rest, &found))
            }
        }
    }
}

/// The host alone and with its port.
fn hosts(uri: &Uri) -> (String, String) {
    match uri.port {
        Some(port) => (uri.host.clone(), format!("{}:{port}", uri.host)),
        None => (uri.host.clone(), uri.host.clone()),
    }
}

fn host_fits(pattern: &str, uri: &Uri) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let (host, with_port) = hosts(uri);
    glob(&pattern, &host) || glob(&pattern, &with_port)
}

/// Parameters in a user part (RFC 3261 §19.1.6) can lead a number elsewhere: only a pattern that has them takes them.
fn user_fits(pattern: &str, user: &str) -> bool {
    (!user.contains(';') || pattern.contains(';')) && glob(pattern, &plain_number(user))
}

/// RFC 3966. A local number means nothing without its context, so the pattern must have it too.
fn number_fits(pattern: &str, uri: &Uri) -> bool {
    let (number, parameters) = uri.host.split_once(';').unwrap_or((&uri.host, ""));
    let has_context = parameters.to_ascii_lowercase().contains("phone-context");
    if !has_context {
        return glob(pattern, &plain_number(number));
    }
    pattern.contains(';') && glob(pattern, &format!("{};{parameters}", plain_number(number)))
}

/// A telephone number without its visual separators; anything else as it is.
fn plain_number(text: &str) -> String {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.()*# ".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_digit());
    if is_number { text.chars().filter(|c| !"-.() ".contains(*c)).collect() } else { text.to_owned() }
}

/// Without the number: logs hold where it was to go, not whom it was to reach.
fn shown(uri: &Uri) -> &str {
    match &uri.scheme {
        Scheme::Sip | Scheme::Sips => &uri.host,
        Scheme::Other(scheme) => scheme,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        Uri::parse(text).expect("a URI")
    }

    fn start() -> Instant {
        Instant::now()
    }

    fn judged(allow: &[&str], text: &str, reason: DialReason) -> Result<(), Denied> {
        let own = ["10.0.0.1", "door"].map(str::to_owned).to_vec();
        let mut dialling = Dialling::new(allow.iter().map(|text| (*text).to_owned()).collect())
            .domains(vec!["pbx.example.com".to_owned()])
            .names(vec!["door1".to_owned()], vec!["office".to_owned()], own);
        dialling.permit(start(), &uri(text), reason)
    }

    #[test]
    fn nothing_is_dialled_that_is_not_listed() {
        for text in ["sip:100@10.0.0.9", "sip:+49900@gw.example", "tel:+49900", "sips:a@b", "sip:gw.example"]
        {
            for reason in [DialReason::Call, DialReason::Redirect, DialReason::Refer, DialReason::Replaces] {
                assert_eq!(judged(&[], text, reason), Err(Denied::NotListed), "{text}");
            }
        }
    }

    #[test]
    fn globs_are_over_users_hosts_and_numbers() {
        for (pattern, text, allowed) in [
            ("sip:+4930*@*", "sip:+4930123@gw.example", true),
            ("sip:+4930*@*", "sip:+49-30.123@gw.example", true),
            ("sip:+4930*@*", "sips:+4930123@gw.example:5061;transport=tls", true),
            ("sip:+4930*@*", "sip:+49900123@gw.example", false),
            ("sip:+4930*@*", "sip:+4930123;phone-context=+900@gw.example", false),
            ("sip:+4930*@*", "tel:+4930123", false),
            ("sips:*@gw.example", "sip:1@gw.example", false),
            ("sip:1@gw.example:5070", "sip:1@gw.example:5070", true),
            ("sip:1@gw.example:5070", "sip:1@gw.example:5071", false),
            ("sip:1@gw.example", "sip:1@gw.example:5071", true),
            ("*@Example.com", "sip:anyone@EXAMPLE.com", true),
            ("*@example.com", "sip:anyone@evil.example", false),
            ("*@example.com", "sip:x%40example.com@evil.example", false),
            ("100@*", "sip:100%40example.com@evil.example", false),
            ("*@example.com", "sip:anyone@notexample.com", false),
            ("*@*.example.com", "sip:anyone@a.example.com", true),
            ("sip:gw.example", "sip:gw.example", true),
            ("sip:gw.example", "sip:900@gw.example", false),
            ("tel:+4930*", "tel:+49-(30)-123", true),
            ("tel:+4930*", "tel:+49900", false),
            ("tel:112", "tel:112;phone-context=+900", false),
            ("tel:112;phone-context=+49", "tel:112;phone-context=+49", true),
            ("door*", "sip:door1@10.0.0.1", true),
            ("door*", "sip:door2@10.0.0.1", false),
            ("door*", "sip:door1@evil.example", false),
            ("office", "sip:office@door", true),
            ("*", "sip:900@evil.example", false),
        ] {
            let expected = if allowed { Ok(()) } else { Err(Denied::NotListed) };
            for reason in [DialReason::Redirect, DialReason::Refer, DialReason::Replaces] {
                assert_eq!(judged(&[pattern], text, reason), expected, "{pattern} on {text}");
            }
        }
    }

    #[test]
    fn what_the_configuration_names_may_be_called_but_not_redirected_to() {
        for text in ["sip:anyone@pbx.example.com", "sip:door1@10.0.0.1"] {
            assert_eq!(judged(&[], text, DialReason::Call), Ok(()), "{text}");
            assert_eq!(judged(&[], text, DialReason::Redirect), Err(Denied::NotListed), "{text}");
            assert_eq!(judged(&[], text, DialReason::Refer), Err(Denied::NotListed), "{text}");
        }
        assert_eq!(judged(&[], "sip:office@10.0.0.1", DialReason::Call), Err(Denied::NotListed));
    }

    #[test]
    fn a_uri_cannot_lead_past_the_list() {
        let past = "sip:1@pbx.example.com;maddr=192.0.2.66";
        assert_eq!(judged(&["*@*"], past, DialReason::Call), Err(Denied::Elsewhere));
        assert_eq!(judged(&["*@*"], "mailto:a@b", DialReason::Call), Err(Denied::OtherScheme));
    }

    #[test]
    fn the_cap_is_over_any_hour() {
        let mut dialling = Dialling::new(vec!["sip:*@*".to_owned()]).per_hour(3);
        let (first, target) = (start(), uri("sip:1@a"));
        for minute in [0, 10, 20] {
            let now = first + Duration::from_secs(60 * minute);
            assert_eq!(dialling.permit(now, &target, DialReason::Call), Ok(()));
        }
        let minute = |minute: u64| first + Duration::from_secs(60 * minute);
        assert_eq!(dialling.permit(minute(59), &target, DialReason::Refer), Err(Denied::TooMany(3)));
        // What is refused is not counted, and one leaves after its hour.
        assert_eq!(dialling.permit(minute(60), &target, DialReason::Refer), Ok(()));
        assert_eq!(dialling.permit(minute(61), &target, DialReason::Refer), Err(Denied::TooMany(3)));
        let mut without = Dialling::new(vec!["sip:*@*".to_owned()]);
        assert!((0..1000).all(|_| without.permit(first, &target, DialReason::Call).is_ok()));
        assert!(without.recent.len() <= 1);
    }
}
