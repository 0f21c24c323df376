//! Where a request may go, and the move to the next place when one fails (RFC 3263 §4.3) or when a request is too
//! large for a datagram (RFC 3261 §18.1.1).
//!
//! Finding the places is `locate`'s work and the driver's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::compose::leads_nowhere;
use super::session::{Cancel, State};
use super::transactions::{ClientMachine, ClientTransaction, User};
use super::{Do, Endpoint, Peer, ResolveId, SessionId, Timer, Transport};
use crate::sip::dialog::Dialog;
use crate::sip::message::{Method, RequestMessage, ResponseMessage};
use crate::sip::uri::Uri;

/// Larger requests try a stream before a datagram.
const LARGEST_BY_DATAGRAM: usize = 1300;
/// Places tried for one request.
pub const MOST_HOPS: usize = 8;
/// An INVITE's place has so many T1 to say anything while another one is left.
const SILENCE: u32 = 8;
/// A stream for a large request must open in so many T1: door stations have none and some firewalls say nothing.
const OPENING: u32 = 3;
/// Dialogs whose next hop is being looked up.
const MOST_SEEKING: usize = 1024;
/// Addresses remembered to take no streams.
const MOST_WITHOUT_STREAM: usize = 256;
/// How long that is believed, in T1.
const WITHOUT_STREAM: u32 = 1200;

/// One place a request may be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    pub transport: Transport,
    pub remote: SocketAddr,
    /// Our own listening address as this place sees it.
    pub local: SocketAddr,
    /// The domain dialled: what a certificate must name, and the Host of a WebSocket. `None`: the address itself.
    pub name: Option<String>,
}

impl Hop {
    /// A place known by its address.
    pub fn to(transport: Transport, remote: SocketAddr, local: SocketAddr) -> Self {
        Hop { transport, remote, local, name: None }
    }

    pub(super) fn peer(&self) -> Peer {
        Peer { transport: self.transport, local: self.local, remote: self.remote, connection: None }
    }
}

/// The places of one request of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Not tried yet.
    pub rest: VecDeque<Hop>,
    /// The datagram hop a stream stands in for, because the request is large.
    pub instead_of: Option<Peer>,
}

impl Endpoint {
    /// Asks the driver where a URI leads (RFC 3263). Who asks keeps the number.
    pub fn resolve(&mut self, uri: Uri) -> ResolveId {
        let id = ResolveId(self.new_id());
        self.out.push_back(Do::Resolve { id, uri });
        id
    }

    /// Where a URI leads that the endpoint itself asked for; empty: nowhere.
    pub fn handle_resolved(&mut self, _now: Instant, id: ResolveId, hops: Vec<Hop>) {
        let Some((session, uri)) = self.seeking.remove(&id) else { return };
        let hops: VecDeque<Hop> = hops.into_iter().take(MOST_HOPS).collect();
        let Some(hop) = hops.front() else { return };
        self.connections.name(hop);
        if let Some(state) = self.sessions.get_mut(&session) {
            state.named_target = Some((uri, hops));
        }
    }

    /// The places that may stand in for the one a dialog's requests go to.
    pub(super) fn stand_ins(&self, session: SessionId, peer: &Peer) -> VecDeque<Hop> {
        let known = self.sessions.get(&session).and_then(|state| state.named_target.as_ref());
        let Some((_, hops)) = known.filter(|(_, hops)| hops.front().is_some_and(|hop| hop.peer() == *peer))
        else {
            return VecDeque::new();
        };
        hops.iter().skip(1).cloned().collect()
    }

    /// The dialog's requests go to this place from now on.
    fn prefer(&mut self, session: SessionId, hop: &Hop) {
        let state = self.sessions.get_mut(&session);
        let Some((_, hops)) = state.and_then(|state| state.named_target.as_mut()) else { return };
        if let Some(at) = hops.iter().position(|known| known == hop) {
            hops.rotate_left(at);
        }
    }

    /// Finds where a dialog goes on when its next hop has a name; until then it goes where it came from.
    pub(super) fn seek_target(&mut self, session: SessionId) {
        let Some(state) = self.sessions.get(&session) else { return };
        let Some(next) = state.dialog.as_ref().map(Dialog::next_hop) else { return };
        let known = state.named_target.as_ref().is_some_and(|(uri, _)| uri == next);
        let named = next.host_ip().is_none() && !next.host.ends_with(".invalid");
        if known || !named || state.peer.connection.is_some() || self.seeking.len() >= MOST_SEEKING {
            return;
        }
        let uri = next.clone();
        let id = self.resolve(uri.clone());
        self.seeking.insert(id, (session, uri));
    }

    /// Where an answer to our INVITE came from: its stream, and whether its Contact can be reached from here.
    pub(super) fn learn_hop(&mut self, id: u64, session: SessionId, response: &ResponseMessage) {
        let Some(transaction) = self.clients.get(&id) else { return };
        let (peer, connection) = (transaction.peer, transaction.connection);
        let stands_in = transaction.places.instead_of.is_some();
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if !stands_in {
            state.peer.connection = connection;
        }
        let contact = response.contact().and_then(|contact| contact.uri.host_ip());
        state.behind_translator = response.headers.value("Record-Route").is_none()
            && contact.is_some_and(|contact| leads_nowhere(contact, peer.remote.ip()));
    }

    /// The first place of a new request, the others, and the name of the first kept for its connection.
    pub(super) fn places(&mut self, hops: Vec<Hop>) -> Option<(Hop, VecDeque<Hop>)> {
        let mut rest: VecDeque<Hop> = hops.into_iter().take(MOST_HOPS).collect();
        let first = rest.pop_front()?;
        self.connections.name(&first);
        Some((first, rest))
    }

    /// The stream a large request goes over in place of a datagram.
    pub(super) fn by_stream(&mut self, now: Instant, peer: Peer, length: usize) -> Option<Peer> {
        if peer.transport != Transport::Udp || length <= LARGEST_BY_DATAGRAM {
            return None;
        }
        self.without_stream.retain(|_, until| *until > now);
        (!self.without_stream.contains_key(&peer.remote)).then_some(Peer {
            transport: Transport::Tcp,
            connection: None,
            ..peer
        })
    }

    /// Says when a place that says nothing is left, if there is another.
    pub(super) fn hurry(&mut self, now: Instant, id: u64) {
        let t1 = self.settings.timers.t1;
        let Some(transaction) = self.clients.get_mut(&id) else { return };
        if transaction.places.instead_of.is_some() {
            self.timers.insert((now + t1 * OPENING, Timer::Opening(id)));
        } else if !transaction.places.rest.is_empty()
            && let ClientMachine::Invite(machine) = &mut transaction.machine
        {
            machine.hurry(now + t1 * SILENCE);
            self.tend_client(id);
        }
    }

    /// The stream of a large request should be open by now.
    pub(super) fn opening_time(&mut self, now: Instant, id: u64) {
        let Some(transaction) = self.clients.get(&id) else { return };
        let opening = transaction.connection.is_some_and(|id| self.connections.is_opening(id));
        if transaction.places.instead_of.is_some() && opening {
            self.next_place(now, id);
        }
    }

    /// The place of a request failed. `true`: it goes to the next one as a new transaction, under the same number.
    pub(super) fn next_place(&mut self, now: Instant, id: u64) -> bool {
        let Some(transaction) = self.clients.get(&id) else { return false };
        if !self.may_move(transaction) {
            return false;
        }
        let Some(transaction) = self.clients.get_mut(&id) else { return false };
        if let Some(datagram) = transaction.places.instead_of.take() {
            if self.without_stream.len() < MOST_WITHOUT_STREAM {
                let until = now + self.settings.timers.t1 * WITHOUT_STREAM;
                self.without_stream.insert(datagram.remote, until);
            }
            self.restart_client(now, id, datagram);
            return true;
        }
        let Some(hop) = transaction.places.rest.pop_front() else { return false };
        let before = transaction.peer;
        let from = self.contact(before.transport, before.local);
        let to = self.contact(hop.transport, hop.local);
        self.connections.name(&hop);
        let Some(transaction) = self.clients.get_mut(&id) else { return false };
        if let Some(contact) = transaction.request.headers.value("Contact").map(str::to_owned) {
            transaction.request.headers.set("Contact", contact.replace(&from, &to));
        }
        tracing::debug!(from = %before.remote, to = %hop.remote, "a request goes to the next address");
        let (user, peer) = (transaction.user.clone(), hop.peer());
        match &user {
            User::Invite(session) => {
                if let Some(state) = self.sessions.get_mut(session) {
                    (state.peer, state.contact_local) = (peer, hop.local);
                }
            }
            User::Request(session, ..)
            | User::Refresh(session)
            | User::Prack(session)
            | User::Bye(session) => {
                self.prefer(*session, &hop);
            }
            User::Outside(_) | User::Nobody => {}
        }
        self.restart_client(now, id, peer);
        true
    }

    fn may_move(&self, transaction: &ClientTransaction) -> bool {
        if transaction.places.instead_of.is_none() && transaction.places.rest.is_empty() {
            return false;
        }
        match &transaction.user {
            User::Invite(session) => self.sessions.get(session).is_some_and(|state| {
                matches!(state.state, State::Inviting { cancel: Cancel::No }) && !state.progressed
            }),
            User::Request(..)
            | User::Bye(_)
            | User::Refresh(_)
            | User::Prack(_)
            | User::Outside(_)
            | User::Nobody => true,
        }
    }

    /// Sends the request of a transaction again, with a new branch, to `peer`.
    fn restart_client(&mut self, now: Instant, id: u64, peer: Peer) {
        let Some(request) = self.clients.get(&id).map(|transaction| transaction.request.clone()) else {
            return;
        };
        let by_stream = self.by_stream(now, peer, request.to_bytes().len());
        let used = by_stream.unwrap_or(peer);
        let (branch, request) = self.addressed(request, used);
        let bytes = request.to_bytes();
        let connection = self.send(used, bytes.clone());
        let Some(transaction) = self.clients.get_mut(&id) else { return };
        transaction.places.instead_of = by_stream.map(|_| peer);
        self.client_of.remove(&transaction.key);
        transaction.key.0 = branch;
        self.client_of.insert(transaction.key.clone(), id);
        let reliable = used.transport.is_reliable();
        match &mut transaction.machine {
            ClientMachine::Invite(machine) => machine.restart(now, reliable),
            ClientMachine::Other(machine) => machine.restart(now, reliable),
        }
        (transaction.peer, transaction.connection) = (used, connection);
        (transaction.bytes, transaction.request) = (bytes, request);
        if let (User::Invite(session), Method::Invite) = (&transaction.user, &transaction.request.method)
            && let Some(state) = self.sessions.get_mut(session)
        {
            state.sent_invite = Some(transaction.request.clone());
        }
        self.tend_client(id);
        self.hurry(now, id);
    }

    /// The request with a new top Via for its hop.
    pub(super) fn addressed(&mut self, mut request: RequestMessage, peer: Peer) -> (String, RequestMessage) {
        let (branch, via) = self.new_via(peer.transport, peer.local);
        request.headers.set_first("Via", &via);
        (branch, request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Access, Body, ConnectionId, Event, Outgoing, Settings};
    use super::*;
    use crate::sip::header::NameAddr;

    const US: &str = "10.0.0.1:5060";
    const ONE: &str = "10.0.0.2:5060";
    const TWO: &str = "10.0.0.3:5060";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    struct Caller {
        now: Instant,
        endpoint: Endpoint,
        events: Vec<Event>,
        session: SessionId,
        /// Streams asked for.
        asked: Vec<(ConnectionId, SocketAddr)>,
        resolves: Vec<ResolveId>,
    }

    impl Caller {
        fn calls(transports: &[(Transport, &str)], body: usize) -> Caller {
            let now = Instant::now();
            let mut endpoint = Endpoint::new(Settings::default(), [7; 32]);
            let session = endpoint.invite(now, outgoing(transports, body));
            Caller { now, endpoint, events: Vec::new(), session, asked: Vec::new(), resolves: Vec::new() }
        }

        /// What is sent: where, over what, and the text.
        fn says(&mut self) -> Vec<(Transport, SocketAddr, String)> {
            let mut said = Vec::new();
            while let Some(wanted) = self.endpoint.poll() {
                match wanted {
                    Do::Send { peer, bytes } => {
                        said.push((peer.transport, peer.remote, String::from_utf8(bytes).unwrap()));
                    }
                    Do::Connect { connection, remote, .. } => self.asked.push((connection, remote)),
                    Do::Resolve { id, .. } => self.resolves.push(id),
                    Do::Event(event) => self.events.push(event),
                    Do::Close(_) => {}
                }
            }
            said
        }

        fn says_one(&mut self, start: &str) -> (Transport, SocketAddr, String) {
            let said = self.says();
            let [one] = &said[..] else { panic!("one message: {said:?}") };
            assert!(one.2.starts_with(start), "{start}: {}", one.2);
            one.clone()
        }

        fn waits(&mut self, seconds: f64) {
            let end = self.now + Duration::from_secs_f64(seconds);
            while let Some(at) = self.endpoint.wake_at().filter(|at| *at <= end) {
                self.now = at;
                self.endpoint.handle_time(at);
            }
            self.now = end;
        }

        fn hears(&mut self, request: &str, status: u16, more: &str) {
            let mut text = format!("SIP/2.0 {status} X\r\n{more}");
            for line in request.lines() {
                let name = line.split(':').next().unwrap();
                if ["Via", "From", "Call-ID", "CSeq"].contains(&name) {
                    text.push_str(&format!("{line}\r\n"));
                } else if name == "To" {
                    text.push_str(&format!("{line};tag=t\r\n"));
                }
            }
            text.push_str("Content-Length: 0\r\n\r\n");
            let peer = Peer { transport: Transport::Udp, local: at(US), remote: at(ONE), connection: None };
            self.endpoint.handle_datagram(self.now, peer, Access::Stranger, text.as_bytes());
        }

        fn failed(&mut self) -> Option<u16> {
            self.says();
            self.events.iter().find_map(|event| match event {
                Event::Failed { status, .. } => Some(*status),
                _ => None,
            })
        }
    }

    fn outgoing(transports: &[(Transport, &str)], body: usize) -> Outgoing {
        let hop = |(transport, remote): &(Transport, &str)| Hop::to(*transport, at(remote), at(US));
        Outgoing {
            target: None,
            to: Uri::parse("sip:bob@example.com").unwrap(),
            from: NameAddr::parse("<sip:alice@example.com>").unwrap(),
            hops: transports.iter().map(hop).collect(),
            headers: Vec::new(),
            body: Some(Body { content_type: "application/sdp".to_owned(), bytes: vec![b'x'; body] }),
            credentials: None,
        }
    }

    fn line<'a>(text: &'a str, name: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(name)).unwrap()
    }

    const BOTH: [(Transport, &str); 2] = [(Transport::Udp, ONE), (Transport::Udp, TWO)];

    #[test]
    fn a_silent_place_is_left_after_four_seconds_for_the_next() {
        let mut caller = Caller::calls(&BOTH, 10);
        let (_, remote, first) = caller.says_one("INVITE");
        assert_eq!(remote, at(ONE));
        caller.waits(3.9);
        assert!(caller.says().iter().all(|(_, remote, _)| *remote == at(ONE)));
        caller.waits(0.2);
        let (_, remote, second) = caller.says_one("INVITE");
        assert_eq!(remote, at(TWO));
        assert_ne!(line(&first, "Via"), line(&second, "Via"), "a new transaction");
        for name in ["Call-ID", "From", "CSeq", "Contact"] {
            assert_eq!(line(&first, name), line(&second, name), "of the same request");
        }
        caller.hears(&second, 200, "Contact: <sip:bob@10.0.0.3>\r\n");
        caller.says();
        assert!(matches!(caller.events.last(), Some(Event::Answered { .. })), "{:?}", caller.events);
        let (now, session) = (caller.now, caller.session);
        caller.endpoint.ack(now, session, None);
        assert_eq!(caller.says_one("ACK").1, at(TWO));
    }

    #[test]
    fn an_overloaded_place_is_left_and_a_busy_one_is_an_answer() {
        let mut caller = Caller::calls(&BOTH, 10);
        let (_, _, first) = caller.says_one("INVITE");
        caller.hears(&first, 503, "");
        let said = caller.says();
        assert!(said[0].2.starts_with("ACK") && said[0].1 == at(ONE), "{said:?}");
        assert!(said[1].2.starts_with("INVITE") && said[1].1 == at(TWO), "{said:?}");
        caller.hears(&said[1].2, 503, "");
        assert_eq!(caller.failed(), Some(503), "no place is left");
        let mut caller = Caller::calls(&BOTH, 10);
        let (_, _, first) = caller.says_one("INVITE");
        caller.hears(&first, 486, "");
        assert_eq!(caller.failed(), Some(486));
    }

    #[test]
    fn a_call_that_rings_stays_where_it_is_and_a_cancelled_one_goes_nowhere() {
        let mut caller = Caller::calls(&BOTH, 10);
        let (_, _, first) = caller.says_one("INVITE");
        caller.hears(&first, 180, "");
        caller.hears(&first, 503, "");
        assert_eq!(caller.failed(), Some(503));
        let mut caller = Caller::calls(&BOTH, 10);
        caller.says_one("INVITE");
        let (now, session) = (caller.now, caller.session);
        caller.endpoint.cancel(now, session, None);
        caller.waits(5.0);
        assert!(caller.says().iter().all(|(_, remote, _)| *remote == at(ONE)));
    }

    #[test]
    fn a_refused_stream_moves_the_request_on() {
        let mut caller = Caller::calls(&[(Transport::Tcp, ONE), (Transport::Udp, TWO)], 10);
        assert!(caller.says().is_empty());
        let (stream, remote) = caller.asked[0];
        assert_eq!(remote, at(ONE));
        let now = caller.now;
        caller.endpoint.handle_closed(now, stream);
        let (transport, remote, text) = caller.says_one("INVITE");
        assert_eq!((transport, remote), (Transport::Udp, at(TWO)));
        assert!(line(&text, "Contact").ends_with(":5060>") && line(&text, "Via").contains("UDP"), "{text}");
    }

    #[test]
    fn a_large_request_takes_a_stream_and_a_datagram_where_there_is_none() {
        let mut caller = Caller::calls(&[(Transport::Udp, ONE)], 1300);
        assert!(caller.says().is_empty());
        let (stream, remote) = caller.asked[0];
        assert_eq!(remote, at(ONE));
        let now = caller.now;
        caller.endpoint.handle_connected(now, stream, at(US));
        let (transport, _, text) = caller.says_one("INVITE");
        assert_eq!(transport, Transport::Tcp);
        assert!(
            line(&text, "Via").contains("SIP/2.0/TCP") && !line(&text, "Contact").contains("tcp"),
            "{text}"
        );

        let mut caller = Caller::calls(&[(Transport::Udp, ONE)], 1300);
        caller.says();
        let (stream, now) = (caller.asked[0].0, caller.now);
        caller.endpoint.handle_closed(now, stream);
        let (transport, _, text) = caller.says_one("INVITE");
        assert!(transport == Transport::Udp && line(&text, "Via").contains("SIP/2.0/UDP"), "{text}");
        // It is remembered.
        caller.endpoint.invite(now, outgoing(&[(Transport::Udp, ONE)], 1300));
        assert_eq!(caller.says_one("INVITE").0, Transport::Udp);
    }

    #[test]
    fn a_stream_that_does_not_open_holds_a_large_request_up_for_a_moment_only() {
        let mut caller = Caller::calls(&[(Transport::Udp, ONE)], 1300);
        caller.waits(1.4);
        assert!(caller.says().is_empty());
        caller.waits(0.2);
        assert_eq!(caller.says_one("INVITE").0, Transport::Udp);
    }

    #[test]
    fn a_dialog_goes_on_where_the_name_of_its_contact_leads() {
        for (found, expected) in [(vec![Hop::to(Transport::Udp, at(TWO), at(US))], TWO), (Vec::new(), ONE)] {
            let mut caller = Caller::calls(&[(Transport::Udp, ONE)], 10);
            let (_, _, invite) = caller.says_one("INVITE");
            caller.hears(&invite, 200, "Contact: <sip:bob@phone.example>\r\n");
            let (now, session) = (caller.now, caller.session);
            caller.endpoint.ack(now, session, None);
            caller.says();
            let asked = caller.resolves[0];
            caller.endpoint.handle_resolved(now, asked, found);
            caller.endpoint.bye(now, session, None);
            assert_eq!(caller.says_one("BYE").1, at(expected));
        }
    }

    #[test]
    fn a_dialog_whose_next_server_fails_goes_on_at_another_of_its_name_and_stays_there() {
        const THREE: &str = "10.0.0.4:5060";
        let mut caller = Caller::calls(&[(Transport::Udp, ONE)], 10);
        let (_, _, invite) = caller.says_one("INVITE");
        caller.hears(&invite, 200, "Contact: <sip:bob@phone.example>\r\n");
        let (now, session) = (caller.now, caller.session);
        caller.endpoint.ack(now, session, None);
        caller.says();
        let asked = caller.resolves[0];
        let found = [TWO, THREE].map(|place| Hop::to(Transport::Udp, at(place), at(US))).to_vec();
        caller.endpoint.handle_resolved(now, asked, found);
        caller.endpoint.request(now, session, Method::Info, Vec::new(), None);
        let (_, remote, first) = caller.says_one("INFO");
        assert_eq!(remote, at(TWO));
        caller.hears(&first, 503, "");
        let (_, remote, second) = caller.says_one("INFO");
        assert_eq!((remote, line(&first, "CSeq")), (at(THREE), line(&second, "CSeq")));
        caller.hears(&second, 200, "");
        assert!(caller.says().is_empty());
        assert!(
            matches!(caller.events.last(), Some(Event::Responded { status: 200, .. })),
            "{:?}",
            caller.events
        );
        caller.endpoint.bye(now, session, None);
        assert_eq!(caller.says_one("BYE").1, at(THREE), "the dead one is not asked again");
    }

    #[test]
    fn a_private_contact_from_a_public_address_is_answered_at_that_address() {
        let mut caller = Caller::calls(&[(Transport::Udp, "198.51.100.7:5070")], 10);
        let (_, _, invite) = caller.says_one("INVITE");
        caller.hears(&invite, 200, "Contact: <sip:bob@192.168.1.20>\r\n");
        caller.says();
        let (now, session) = (caller.now, caller.session);
        caller.endpoint.ack(now, session, None);
        assert_eq!(caller.says_one("ACK").1, at("198.51.100.7:5070"));
    }
}
