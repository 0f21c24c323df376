//! Driver. What `[sip]` must be together: listeners that do not collide, keys that come in pairs and files that can
//! be read, names that stand for one thing. Only files are asked for; what is in them is read where they are used.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::super::section::Reading;
use super::super::settings::{Config, Listen, Strangers, Transport};

/// Reports what does not fit together.
pub fn check(config: &Config, reading: &Reading) {
    listens(config, reading);
    tls(config, reading);
    users_and_accounts(config, reading);
    peers(config, reading);
    let sip = &config.sip;
    if sip.trusted.is_empty() && sip.users.is_empty() && sip.peers.iter().all(|peer| peer.source.is_empty()) {
        reading.warning("sip.trusted", "nobody may call");
    }
    if sip.min_se > sip.session_expires {
        let seconds = sip.session_expires.as_secs();
        reading.problem("sip.min_se_s", format!("longer than sip.session_expires_s ({seconds})"));
    }
    for (n, pattern) in sip.dial_allow.iter().enumerate() {
        if pattern.bytes().all(|byte| b"*@:".contains(&byte)) {
            reading
                .warning(&format!("sip.dial_allow[{n}]"), "everything may be dialled, premium numbers too");
        }
    }
}

fn listens(config: &Config, reading: &Reading) {
    let listens = &config.sip.listen;
    if listens.is_empty() {
        reading.problem("sip.listen", "nothing to listen on; write at least [\"udp:0.0.0.0:5060\"]");
    }
    for (n, one) in listens.iter().enumerate() {
        if let Some(earlier) = listens.iter().take(n).find(|earlier| collide(earlier, one)) {
            reading.problem(&format!("sip.listen[{n}]"), format!("\"{earlier}\" already covers it"));
        }
        let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
        if let Some(advertise) = config.sip.advertise
            && family(advertise) != family(one.address.ip())
        {
            let message =
                format!("{advertise} cannot stand for \"{one}\", which is {}", family(one.address.ip()));
            reading.warning("sip.advertise", message);
        }
    }
}

/// Whether binding both must fail.
pub fn collide(a: &Listen, b: &Listen) -> bool {
    let (ip_a, ip_b) = (a.address.ip(), b.address.ip());
    let covers = ip_a == ip_b
        || (ip_a.is_ipv4() == ip_b.is_ipv4() && (ip_a.is_unspecified() || ip_b.is_unspecified()));
    let is_udp = |listen: &Listen| listen.transport == Transport::Udp;
    is_udp(a) == is_udp(b) && a.address.port() == b.address.port() && a.address.port() != 0 && covers
}

fn tls(config: &Config, reading: &Reading) {
    let tls = &config.sip.tls;
    let secure = config.sip.listen.iter().find(|listen| listen.transport.is_secure());
    if let Some(listen) = secure {
        for (key, file) in [("certificate", &tls.certificate), ("private_key", &tls.private_key)] {
            if file.is_none() {
                let message = format!("\"{listen}\" needs one: the path of a PEM file");
                reading.problem(&format!("sip.tls.{key}"), message);
            }
        }
    } else if tls.client_ca.is_some() {
        reading.warning("sip.tls.client_ca", "sip.listen has no tls: or wss: where a client could show one");
    }
    if secure.is_none() {
        pair(reading, "sip.tls", tls.certificate.as_deref(), tls.private_key.as_deref());
    }
    let files = [
        ("certificate", &tls.certificate),
        ("private_key", &tls.private_key),
        ("client_ca", &tls.client_ca),
        ("server_ca", &tls.server_ca),
    ];
    for (key, file) in files {
        readable(reading, &format!("sip.tls.{key}"), file.as_deref());
    }
}

/// A certificate is of no use without its key, and the other way round.
fn pair(reading: &Reading, section: &str, certificate: Option<&Path>, private_key: Option<&Path>) {
    match (certificate, private_key) {
        (Some(_), None) => {
            reading.problem(&format!("{section}.private_key"), "missing: the certificate's key")
        }
        (None, Some(_)) => {
            reading.problem(&format!("{section}.certificate"), "missing: the private key's certificate");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// A file may be missing where nothing is going to be run.
fn readable(reading: &Reading, key: &str, file: Option<&Path>) {
    if let Some(file) = file
        && let Err(error) = File::open(file)
    {
        let message = format!("{} cannot be read: {error}", file.display());
        if reading.only_looking() { reading.warning(key, message) } else { reading.problem(key, message) }
    }
}

/// Reports a name that an earlier table of the same list has.
fn unique<'a>(reading: &Reading, list: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen: Vec<&str> = Vec::new();
    for (n, name) in names.enumerate() {
        if let Some(first) = seen.iter().position(|earlier| *earlier == name) {
            reading.problem(&format!("{list}[{n}].name"), format!("{name:?} is already {list}[{first}]"));
        }
        seen.push(name);
    }
}

fn users_and_accounts(config: &Config, reading: &Reading) {
    let sip = &config.sip;
    unique(reading, "sip.user", sip.users.iter().map(|user| user.name.as_str()));
    unique(reading, "sip.account", sip.accounts.iter().map(|account| account.name.as_str()));
    if sip.strangers == Strangers::Challenge && sip.users.is_empty() {
        reading.problem("sip.strangers", "there is no [[sip.user]] whose password could answer a challenge");
    }
    for (n, account) in sip.accounts.iter().enumerate() {
        if account.password.is_empty() {
            reading.warning(
                &format!("sip.account[{n}].password"),
                "without one it can only register where nobody asks",
            );
        }
    }
}

fn peers(config: &Config, reading: &Reading) {
    let peers = &config.sip.peers;
    unique(reading, "sip.peer", peers.iter().map(|peer| peer.name.as_str()));
    for (n, peer) in peers.iter().enumerate() {
        let key = |key: &str| format!("sip.peer[{n}].{key}");
        if peer.source.is_empty() && peer.tls_name.is_none() && peer.uri.is_none() {
            reading.problem(
                &key("source"),
                "nothing tells this peer: write its source, its tls_name, or the uri where it is dialled",
            );
        }
        if config.sip.users.iter().any(|user| user.name == peer.name) {
            reading.problem(&key("name"), format!("{:?} is a [[sip.user]]; one name, one target", peer.name));
        }
        pair(reading, &format!("sip.peer[{n}]"), peer.certificate.as_deref(), peer.private_key.as_deref());
        let files =
            [("certificate", &peer.certificate), ("private_key", &peer.private_key), ("ca", &peer.ca)];
        for (name, file) in files {
            readable(reading, &key(name), file.as_deref());
        }
        if peer.username.is_empty() != peer.password.is_empty() {
            reading.problem(&key("username"), "username and password come together");
        }
        for (m, earlier) in peers.iter().take(n).enumerate() {
            let twice =
                |network: &&IpNet| earlier.source.contains(network) && earlier.tls_name == peer.tls_name;
            if let Some(network) = peer.source.iter().find(twice) {
                reading.problem(&key("source"), format!("{network} is already that of sip.peer[{m}]"));
            }
            if peer.tls_name.is_some() && peer.tls_name == earlier.tls_name && peer.source == earlier.source {
                reading.problem(&key("tls_name"), format!("already that of sip.peer[{m}]"));
            }
        }
    }
}
