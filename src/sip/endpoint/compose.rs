//! Composes requests and responses: the headers RFC 3261 §8 wants in each.

use std::net::{IpAddr, SocketAddr};

use super::super::dialog::Dialog;
use super::super::message::{Body, Headers, Method, RequestMessage, ResponseMessage};
use super::super::uri::{Scheme, Uri};
use super::known::with_display;
use super::options::SUPPORTED;
use super::session::Session;
use super::{Endpoint, Hop, Peer, Response, Transport};

/// Every method a session understands.
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, PRACK, UPDATE, MESSAGE, REFER, NOTIFY";
pub(super) const ACCEPT: &str =
    "application/sdp, application/dtmf-relay, application/media_control+xml, message/sipfrag, text/plain";

/// The response to `request`, its To tagged when it has no tag yet (§8.2.6.2). A To that cannot be read, as in a
/// request that gets a 400, is repeated as it is with the tag behind it.
pub(super) fn response_to(request: &RequestMessage, status: u16, tag: Option<&str>) -> ResponseMessage {
    let mut response = ResponseMessage::answering(request, status);
    if let (Some(tag), Some(to)) = (tag, request.headers.value("To")) {
        let tagged = match request.to() {
            Some(mut readable) => readable.tag().is_none().then(|| {
                readable.set_tag(tag);
                readable.to_string()
            }),
            None => (!to.to_ascii_lowercase().contains(";tag=")).then(|| format!("{to};tag={tag}")),
        };
        if let Some(tagged) = tagged {
            response.headers.set("To", tagged);
        }
    }
    response
}

/// Notes in the top Via where the request really came from (RFC 3261 §18.2.1, RFC 3581 §4).
pub(super) fn stamp_source(request: &mut RequestMessage, source: SocketAddr) {
    let Some(mut top) = request.via() else { return };
    let ip = source.ip().to_canonical();
    let asked = top.rport().is_some();
    if asked || top.host_ip() != Some(ip) {
        top.set_parameter("received", Some(&ip.to_string()));
    }
    if asked {
        top.set_parameter("rport", Some(&source.port().to_string()));
    }
    request.headers.set_first("Via", &top.to_string());
}

/// Where a response goes (RFC 3261 §18.2.2, RFC 3581): to the source, but for a peer that says it listens on
/// another port and is not behind a translator.
pub(super) fn response_peer(request: &RequestMessage, peer: Peer) -> Peer {
    if peer.transport.is_reliable() {
        return peer;
    }
    let Some(via) = request.via() else { return peer };
    let translated = via.host_ip() != Some(peer.remote.ip().to_canonical());
    if via.rport().is_some() || translated {
        return peer;
    }
    let remote = SocketAddr::new(peer.remote.ip(), via.port.unwrap_or(5060));
    Peer { remote, ..peer }
}

impl Endpoint {
    /// Our Contact on one hop.
    pub(super) fn contact(&self, transport: Transport, local: SocketAddr) -> String {
        let host = self.settings.advertise.unwrap_or(local.ip());
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let parameter = match transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
            Transport::Ws | Transport::Wss => ";transport=ws",
        };
        format!("<sip:{}@{host}:{}{parameter}>", self.settings.contact_user, local.port())
    }

    /// A Via for a new request on one hop.
    pub(super) fn new_via(&mut self, transport: Transport, local: SocketAddr) -> (String, String) {
        let branch = format!("z9hG4bK{}", self.token());
        let host = self.settings.advertise.unwrap_or(local.ip());
        let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
        let via = format!("SIP/2.0/{} {host}:{};rport;branch={branch}", transport.name(), local.port());
        (branch, via)
    }

    pub(super) fn identify(&self, headers: &mut Headers, name: &str) {
        if !self.settings.user_agent.is_empty() {
            headers.push(name, self.settings.user_agent.clone());
        }
    }

    /// The user's response, complete. `dialog`: it makes or refreshes a dialog (Contact, Record-Route).
    pub(super) fn finish_response(
        &self,
        request: &RequestMessage,
        response: &Response,
        tag: &str,
        peer: Peer,
    ) -> ResponseMessage {
        let mut message = response_to(request, response.status, Some(tag));
        if let Some(reason) = &response.reason {
            message.reason = reason.clone();
        }
        let session = self.session_answering(request, tag);
        let makes_dialog = request.method == Method::Invite && (101..300).contains(&response.status);
        if makes_dialog {
            for route in request.headers.values("Record-Route") {
                message.headers.push("Record-Route", route.to_owned());
            }
            let contact = self.contact(peer.transport, peer.local);
            let display = session.map_or("", |session| session.display.as_str());
            message.headers.push("Contact", with_display(display, contact));
        }
        if let Some(identifier) = session.and_then(|session| session.identifier.as_ref()) {
            message.headers.push("Session-ID", identifier.to_string());
        }
        let refreshes = request.method == Method::Update && (200..300).contains(&response.status);
        if refreshes {
            let display = session.map_or("", |session| session.display.as_str());
            let contact = self.contact(peer.transport, peer.local);
            message.headers.push("Contact", with_display(display, contact));
        }
        let tells = request.method == Method::Invite && response.status < 300;
        if tells || response.status == 405 {
            message.headers.push("Allow", ALLOW.to_owned());
        }
        if tells || refreshes {
            message.headers.push("Supported", SUPPORTED.to_owned());
        }
        self.identify(&mut message.headers, "Server");
        for (name, value) in &response.headers {
            message.headers.push(name, value.clone());
        }
        set_body(&mut message.headers, &mut message.body, response.body.as_ref());
        message
    }

    /// A request inside a dialog, complete but for its Via.
    pub(super) fn finish_request(
        &self,
        request: &mut RequestMessage,
        session: &Session,
        headers: &[(String, String)],
        body: Option<&Body>,
    ) {
        let refreshes = matches!(request.method, Method::Invite | Method::Update);
        if refreshes {
            let contact = self.contact(session.peer.transport, session.contact_local);
            request.headers.push("Contact", with_display(&session.display, contact));
        }
        if let Some(identifier) = &session.identifier {
            request.headers.push("Session-ID", identifier.to_string());
        }
        if refreshes {
            request.headers.push("Allow", ALLOW.to_owned());
            request.headers.push("Supported", SUPPORTED.to_owned());
        }
        self.identify(&mut request.headers, "User-Agent");
        for (name, value) in headers {
            request.headers.push(name, value.clone());
        }
        set_body(&mut request.headers, &mut request.body, body);
    }
}

pub(super) fn set_body(headers: &mut Headers, bytes: &mut Vec<u8>, body: Option<&Body>) {
    if let Some(body) = body {
        headers.push("Content-Type", body.content_type.clone());
        bytes.clone_from(&body.bytes);
    }
}

/// The hop of a request inside a dialog: the first route or the target by address, and the signalling source when
/// that is a name, or an address the peer cannot be reached at because a translator stands before it.
pub(super) fn dialog_peer(dialog: &Dialog, session: &Session) -> Peer {
    if session.behind_translator && !dialog.has_routes() {
        return session.peer;
    }
    let hop = dialog.next_hop();
    let Some(ip) = hop.host_ip() else {
        let found = session.named_target.as_ref().filter(|(uri, _)| uri == hop);
        return found.and_then(|(_, hops)| hops.front()).map_or(session.peer, Hop::peer);
    };
    let transport = transport_of(hop, session.peer);
    let remote = SocketAddr::new(ip, hop.port.unwrap_or(transport.default_port()));
    let connection = session.peer.connection.filter(|_| transport == session.peer.transport);
    // The open connection of the session serves whatever port its Contact names (RFC 5923).
    let remote = if connection.is_some() && remote.ip() == session.peer.remote.ip() {
        session.peer.remote
    } else {
        remote
    };
    Peer { transport, local: session.contact_local, remote, connection }
}

/// A `sips:` target is reached over TLS and nothing else (RFC 3261 §26.2.2). One that names no transport means UDP, but
/// whoever signals on a stream and forgets to say so means that stream.
fn transport_of(uri: &Uri, signalling: Peer) -> Transport {
    let named = uri.transport().and_then(Transport::of_parameter);
    match (uri.scheme == Scheme::Sips, named) {
        (true, Some(Transport::Ws | Transport::Wss)) => Transport::Wss,
        (true, _) if signalling.transport.is_secure() && named.is_none() => signalling.transport,
        (true, _) => Transport::Tls,
        (false, Some(named)) => named,
        (false, None) if signalling.transport.is_reliable() => signalling.transport,
        (false, None) => Transport::Udp,
    }
}

/// The peer that answers from `source` cannot be reached at the address of its Contact: it is one of a network behind a
/// translator, or means itself only.
pub(super) fn leads_nowhere(contact: IpAddr, source: IpAddr) -> bool {
    let (contact, source) = (contact.to_canonical(), source.to_canonical());
    contact != source && scope_of(contact) < scope_of(source)
}

/// How far an address reaches: nowhere, this box, this link, this site, everywhere.
fn scope_of(ip: IpAddr) -> u8 {
    match ip {
        _ if ip.is_unspecified() => 0,
        _ if ip.is_loopback() => 1,
        IpAddr::V4(ip) if ip.is_link_local() => 2,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 2,
        // RFC 6598 belongs to carriers' translators.
        IpAddr::V4(ip) if ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64) => 3,
        IpAddr::V6(ip) if ip.is_unique_local() => 3,
        IpAddr::V4(_) | IpAddr::V6(_) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_of_a_smaller_world_than_its_sender_leads_nowhere() {
        let nowhere =
            |contact: &str, source: &str| leads_nowhere(contact.parse().unwrap(), source.parse().unwrap());
        for (contact, source) in [
            ("192.168.1.20", "198.51.100.7"),
            ("100.64.3.1", "198.51.100.7"),
            ("127.0.0.1", "192.168.1.20"),
            ("0.0.0.0", "127.0.0.1"),
            ("169.254.1.1", "10.0.0.1"),
            ("fd00::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "198.51.100.7"),
        ] {
            assert!(nowhere(contact, source), "{contact} from {source}");
        }
        for (contact, source) in [
            ("192.168.1.20", "192.168.1.20"),
            // A proxy that does not stay in the path.
            ("192.168.1.20", "192.168.1.1"),
            ("198.51.100.8", "198.51.100.7"),
            ("198.51.100.7", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert!(!nowhere(contact, source), "{contact} from {source}");
        }
    }

    #[test]
    fn sips_targets_are_reached_over_tls_and_streams_are_used_again() {
        let peer = |transport, stream: bool| Peer {
            transport,
            local: "10.0.0.1:5060".parse().unwrap(),
            remote: "10.0.0.2:5060".parse().unwrap(),
            connection: stream.then_some(super::super::ConnectionId(1)),
        };
        for (uri, signalling, expected) in [
            ("sip:a@h", peer(Transport::Udp, false), Transport::Udp),
            ("sip:a@h;transport=tcp", peer(Transport::Udp, false), Transport::Tcp),
            ("sip:a@h", peer(Transport::Tls, true), Transport::Tls),
            ("sip:a@h", peer(Transport::Tls, false), Transport::Tls),
            ("sips:a@h", peer(Transport::Udp, false), Transport::Tls),
            ("sips:a@h;transport=tcp", peer(Transport::Tcp, true), Transport::Tls),
            ("sips:a@h;transport=ws", peer(Transport::Wss, true), Transport::Wss),
            ("sips:a@h", peer(Transport::Wss, true), Transport::Wss),
        ] {
            assert_eq!(transport_of(&Uri::parse(uri).unwrap(), signalling), expected, "{uri} {signalling:?}");
        }
    }
}
