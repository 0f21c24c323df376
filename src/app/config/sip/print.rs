//! `[sip]` back to TOML; secrets as references or left out.

use super::super::print::{Page, networks};
use super::super::settings::*;
use crate::sip::Uri;

pub(in super::super) fn sip(page: &mut Page, sip: &Sip) {
    page.section("sip");
    page.texts("listen", sip.listen.iter().map(Listen::to_string));
    page.text("advertise", &sip.advertise.map_or("auto".to_owned(), |address| address.to_string()));
    page.text("dns", &sip.dns.map_or(String::new(), |server| server.to_string()));
    page.texts("origins", &sip.origins);
    page.texts("trusted", networks(&sip.trusted));
    page.word("strangers", sip.strangers);
    page.text("realm", sip.realm.as_deref().unwrap_or_default());
    page.raw("max_calls", sip.max_calls);
    page.word("busy", sip.busy);
    page.raw("calls_per_second", sip.calls_per_second);
    page.raw("session_expires_s", sip.session_expires.as_secs());
    page.raw("min_se_s", sip.min_se.as_secs());
    page.seconds("ring_timeout_s", sip.ring_timeout);
    page.seconds("max_call_s", sip.max_call);
    page.texts("dial_allow", &sip.dial_allow);
    page.raw("dial_per_hour", sip.dial_per_hour);
    page.seconds("dial_max_s", sip.dial_max.unwrap_or_default());
    page.section("sip.tls");
    page.path("certificate", sip.tls.certificate.as_deref());
    page.path("private_key", sip.tls.private_key.as_deref());
    page.path("client_ca", sip.tls.client_ca.as_deref());
    page.path("server_ca", sip.tls.server_ca.as_deref());
    sip.users.iter().for_each(|found| user(page, found));
    sip.peers.iter().for_each(|found| peer(page, found));
    sip.accounts.iter().for_each(|found| account(page, found));
}

fn user(page: &mut Page, user: &User) {
    page.section("[sip.user]");
    page.text("name", &user.name);
    page.text("password", user.password.shown());
    page.text("display_name", &user.display_name);
}

fn peer(page: &mut Page, peer: &SipPeer) {
    page.section("[sip.peer]");
    page.text("name", &peer.name);
    page.texts("source", networks(&peer.source));
    page.texts("networks", networks(&peer.networks));
    page.text("srtp", peer.srtp.map_or("", Word::word));
    page.text("srtp_offer", peer.srtp_offer.map_or("", Word::word));
    page.text("uri", &shown(peer.uri.as_ref()));
    page.text("username", &peer.username);
    page.text("password", peer.password.shown());
    page.text("realm", peer.realm.as_deref().unwrap_or_default());
    page.raw("max_calls", peer.max_calls);
    page.raw("identity", peer.identity);
    page.path("certificate", peer.certificate.as_deref());
    page.path("private_key", peer.private_key.as_deref());
    page.path("ca", peer.ca.as_deref());
    page.text("tls_name", peer.tls_name.as_deref().unwrap_or_default());
    page.raw("ice", peer.ice);
}

fn account(page: &mut Page, account: &Account) {
    page.section("[sip.account]");
    page.text("name", &account.name);
    page.text("registrar", &account.registrar.to_string());
    page.text("username", &account.username);
    page.text("password", account.password.shown());
    page.text("realm", account.realm.as_deref().unwrap_or_default());
    page.text("display_name", &account.display_name);
    page.raw("expires_s", account.expires.as_secs());
    page.text("outbound_proxy", &shown(account.outbound_proxy.as_ref()));
    page.text("srtp", account.srtp.map_or("", Word::word));
    page.text("srtp_offer", account.srtp_offer.map_or("", Word::word));
}

/// Empty: none.
fn shown(uri: Option<&Uri>) -> String {
    uri.map(Uri::to_string).unwrap_or_default()
}
