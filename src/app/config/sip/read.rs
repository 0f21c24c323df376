//! `[sip]` from the tree. What one value must be on its own is said here; what values must be together is in
//! [`super::check`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::file::Value;
use super::super::read::{DAY_S, SECOND, display_name, network, networks, path_or};
use super::super::secret::Secret;
use super::super::section::{Section, did_you_mean, word};
use super::super::settings::*;
use crate::sip::Uri;
use crate::sip::uri::Scheme;

const PORTS: &str = "write \"udp:0.0.0.0:5060\" or \"tcp:[::]:5060\"; also tls:, ws: and wss:";
/// The longest name of a user, a peer or an account.
const NAME_MAX: usize = 64;

pub fn sip(section: &Section, into: &mut Sip) {
    section.list("listen", &mut into.listen, listen);
    section.parsed("advertise", &mut into.advertise, advertise);
    section.parsed("dns", &mut into.dns, dns);
    section.list("origins", &mut into.origins, origin);
    section.list("trusted", &mut into.trusted, network);
    section.word("strangers", &mut into.strangers);
    section.parsed("realm", &mut into.realm, realm);
    section.whole("max_calls", &mut into.max_calls, 0..=100_000);
    busy(section, &mut into.busy);
    section.whole("calls_per_second", &mut into.calls_per_second, 0..=100_000);
    whole_seconds(section, "session_expires_s", &mut into.session_expires);
    whole_seconds(section, "min_se_s", &mut into.min_se);
    section.duration("ring_timeout_s", &mut into.ring_timeout, SECOND, 0.1..=3600.0);
    section.duration("max_call_s", &mut into.max_call, SECOND, 1.0..=30.0 * DAY_S);
    section.list("dial_allow", &mut into.dial_allow, pattern);
    section.whole("dial_per_hour", &mut into.dial_per_hour, 0..=1_000_000);
    let mut longest = Duration::ZERO;
    section.duration("dial_max_s", &mut longest, SECOND, 0.0..=30.0 * DAY_S);
    into.dial_max = (!longest.is_zero()).then_some(longest);
    tls(&section.table("tls"), &mut into.tls);
    into.users = each(section, "user", user);
    into.peers = each(section, "peer", peer);
    into.accounts = each(section, "account", account);
}

/// The readable tables of a list of tables.
fn each<T>(section: &Section, key: &str, read: fn(&Section) -> Option<T>) -> Vec<T> {
    section.table_list(key).unwrap_or_default().iter().filter_map(read).collect()
}

/// A header carries it in whole seconds.
fn whole_seconds(section: &Section, key: &str, into: &mut Duration) {
    let mut seconds = u32::try_from(into.as_secs()).unwrap_or(u32::MAX);
    section.whole(key, &mut seconds, 1..=86_400);
    *into = Duration::from_secs(u64::from(seconds));
}

/// 486 is as good as "486".
fn busy(section: &Section, into: &mut Busy) {
    match section.raw("busy").map(|node| &node.value) {
        Some(Value::Text(text)) => match word(text, "sip.busy") {
            Ok(busy) => *into = busy,
            Err(message) => section.problem("busy", message),
        },
        Some(Value::Whole(486)) => *into = Busy::Busy486,
        Some(Value::Whole(503)) => *into = Busy::Unavailable503,
        Some(_) => section.wrong_at("busy", "503 or 486"),
        None => {}
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    let Some((scheme, address)) = text.split_once(':') else {
        return Err(format!("{text:?} is no listen address; {PORTS}"));
    };
    let Some((_, transport)) = Transport::ALL.iter().find(|(word, _)| *word == scheme) else {
        let help = did_you_mean(scheme, Transport::ALL.iter().map(|(word, _)| *word));
        return Err(format!("{scheme:?} is no transport{help}; {PORTS}"));
    };
    match address.parse::<SocketAddr>() {
        Ok(address) => Ok(Listen { transport: *transport, address }),
        Err(_) if address.parse::<IpAddr>().is_ok() => Err(format!("{text:?} has no port; {PORTS}")),
        Err(_) => Err(format!("{address:?} is no address and port; {PORTS}")),
    }
}

fn advertise(text: &str) -> Result<Option<IpAddr>, String> {
    match text.parse::<IpAddr>() {
        _ if text == "auto" => Ok(None),
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(format!("peers cannot reach {address}; write \"auto\" or one address of this box"))
        }
        Ok(address) => Ok(Some(address)),
        Err(_) => Err(format!("{text:?} is neither \"auto\" nor an IP address")),
    }
}

/// Port 53 need not be written.
fn dns(text: &str) -> Result<Option<SocketAddr>, String> {
    match (text, text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        ("", ..) => Ok(None),
        (_, Ok(server), _) => Ok(Some(server)),
        (_, _, Ok(ip)) => Ok(Some(SocketAddr::new(ip, 53))),
        _ => Err(format!(
            "{text:?} is no address of a DNS server; write \"192.0.2.53\", or \"\" for the system's"
        )),
    }
}

/// As browsers write it: scheme, host, and a port that is not the usual one.
fn origin(text: &str) -> Result<String, String> {
    let is_page = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', ' '])
        })
    };
    match text {
        "*" => Ok(text.to_owned()),
        text if is_page(&text.to_ascii_lowercase()) => Ok(text.to_ascii_lowercase()),
        _ => Err(format!(
            "{text:?} is no origin; write \"https://phone.example.com\" without a path, or \"*\""
        )),
    }
}

/// It stands in quotes in a header.
fn realm(text: &str) -> Result<Option<String>, String> {
    match text {
        "" => Ok(None),
        text if text.len() > 128 || text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) => {
            Err("a realm has at most 128 characters and no quotes or backslashes".to_owned())
        }
        text => Ok(Some(text.to_owned())),
    }
}

/// A glob over a URI.
fn pattern(text: &str) -> Result<String, String> {
    match text {
        text if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) => Err(
            "write what may be dialled, for example \"sip:+4930*@*\", \"tel:+4930*\" or \"*@example.com\""
                .to_owned(),
        ),
        text => Ok(text.to_owned()),
    }
}

fn tls(section: &Section, into: &mut Tls) {
    section.parsed("certificate", &mut into.certificate, path_or(""));
    section.parsed("private_key", &mut into.private_key, path_or(""));
    section.parsed("client_ca", &mut into.client_ca, path_or(""));
    section.parsed("server_ca", &mut into.server_ca, path_or(""));
}

fn user(section: &Section) -> Option<User> {
    let name = required(section, "name", "the user part of its address, for example \"door1\"", user_name);
    let mut password = Secret::default();
    section.secret("password", &mut password);
    if !section.has("password") {
        section.problem("password", "write one, or a reference such as \"${credential:door1}\"");
    } else if password.is_empty() && section.is_text("password") {
        section.problem("password", "an empty password keeps nobody out");
    }
    let mut shown = String::new();
    section.parsed("display_name", &mut shown, display_name);
    Some(User { name: name?, password, display_name: shown })
}

fn peer(section: &Section) -> Option<SipPeer> {
    let name = required(section, "name", "any name of your own, for example \"office\"", own_name);
    let mut peer = SipPeer::named(name.as_deref().unwrap_or_default());
    networks(section, "source", &mut peer.source);
    networks(section, "networks", &mut peer.networks);
    (peer.srtp, peer.srtp_offer) = (or_empty(section, "srtp"), or_empty(section, "srtp_offer"));
    section.parsed("uri", &mut peer.uri, |text| optional(text, |text| uri(text, true)));
    section.parsed("username", &mut peer.username, credential_name);
    section.secret("password", &mut peer.password);
    section.parsed("realm", &mut peer.realm, realm);
    section.whole("max_calls", &mut peer.max_calls, 0..=100_000);
    section.flag("identity", &mut peer.identity);
    section.parsed("certificate", &mut peer.certificate, path_or(""));
    section.parsed("private_key", &mut peer.private_key, path_or(""));
    section.parsed("ca", &mut peer.ca, path_or(""));
    section.parsed("tls_name", &mut peer.tls_name, |text| optional(text, host_name));
    section.flag("ice", &mut peer.ice);
    name.map(|_| peer)
}

fn account(section: &Section) -> Option<Account> {
    let name = required(section, "name", "any name of your own, for example \"pbx\"", own_name);
    let registrar =
        required(section, "registrar", "where to register: \"sip:pbx.example.com\"", |text| uri(text, false));
    let username = required(section, "username", "your user there, for example \"200\"", user_name);
    let mut password = Secret::default();
    section.secret("password", &mut password);
    let mut pinned = None;
    section.parsed("realm", &mut pinned, realm);
    let mut shown = String::new();
    section.parsed("display_name", &mut shown, display_name);
    let mut expires = Duration::from_secs(300);
    whole_seconds(section, "expires_s", &mut expires);
    let mut outbound_proxy = None;
    section.parsed("outbound_proxy", &mut outbound_proxy, |text| optional(text, |text| uri(text, false)));
    Some(Account {
        name: name?,
        registrar: registrar?,
        username: username?,
        password,
        realm: pinned,
        display_name: shown,
        expires,
        outbound_proxy,
        srtp: or_empty(section, "srtp"),
        srtp_offer: or_empty(section, "srtp_offer"),
    })
}

/// A key that has no default. `None` after a problem.
fn required<T>(
    section: &Section,
    key: &str,
    help: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let mut found = None;
    section.parsed(key, &mut found, |text| parse(text).map(Some));
    if !section.has(key) {
        section.problem(key, format!("missing: {help}"));
    }
    found
}

/// `None` for an empty text.
fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// Empty: as `[media]` says.
fn or_empty<T: Word>(section: &Section, key: &str) -> Option<T> {
    let (mut found, path) = (None, section.path_of(key));
    section.parsed(key, &mut found, |text| optional(text, |text| word(text, &path)));
    found
}

fn own_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("give it a name".to_owned()),
        name if name.len() > NAME_MAX || name.chars().any(char::is_control) => {
            Err(format!("at most {NAME_MAX} characters, none of them control characters"))
        }
        name => Ok(name.to_owned()),
    }
}

/// What may stand in a user part without escapes, and without globs of `dial_allow`.
fn user_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+~=&$".contains(c);
    match text {
        text if text.is_empty() || text.len() > NAME_MAX || !text.chars().all(good) => {
            Err(format!("{text:?} is no user part: up to {NAME_MAX} letters, digits and - _ . + ~ = & $"))
        }
        text => Ok(text.to_owned()),
    }
}

/// The user name in a digest; it stands in quotes in a header.
fn credential_name(text: &str) -> Result<String, String> {
    if text.len() > 128 || text.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        return Err("at most 128 characters and no quotes or backslashes".to_owned());
    }
    Ok(text.to_owned())
}

fn host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if text.len() > 253 || !(text.split('.').all(label) || text.parse::<IpAddr>().is_ok()) {
        return Err(format!("{text:?} is no host name"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A SIP URI of a server; the password is a key of its own.
fn uri(text: &str, may_have_user: bool) -> Result<Uri, String> {
    let Some(uri) = Uri::parse(text) else {
        // Not what was found: a URI may hold a password.
        return Err("this is no URI; write \"sip:pbx.example.com\" or \"sip:192.0.2.1:5060;transport=tcp\""
            .to_owned());
    };
    match &uri.scheme {
        Scheme::Sip | Scheme::Sips => {}
        Scheme::Other(scheme) => {
            return Err(format!("\"{scheme}:\" is no SIP URI; write \"sip:\" or \"sips:\""));
        }
    }
    if uri.password.is_some() {
        return Err("no password in a URI: it has a key of its own".to_owned());
    }
    if uri.user.is_some() && !may_have_user {
        return Err(format!("without a user part: \"{}:{}\"", uri.scheme.as_str(), uri.host));
    }
    if uri.headers.is_some() {
        return Err("no headers (behind \"?\") in it".to_owned());
    }
    if let Some(transport) = uri.transport()
        && Transport::of_parameter(transport).is_none()
    {
        let help = did_you_mean(transport, Transport::ALL.iter().map(|(word, _)| *word));
        return Err(format!("{transport:?} is no transport{help}"));
    }
    Ok(uri)
}
