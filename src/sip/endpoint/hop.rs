//! Where a request may go, and the move to the next place when one fails (RFC 3263 §4.3) or when a request is too
//! large for a datagram (RFC 3261 §18.1.1).
//!
//! Finding the places is `locate`'s work and the driver's.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::session::{Cancel, State};
use super::transactions::{ClientMachine, ClientTransaction, User};
use super::{Do, Endpoint, Peer, ResolveId, Timer, Transport};
use crate::sip::message::{Method, RequestMessage};
use crate::sip::uri::Uri;

/// Larger requests try a stream before a datagram.
const LARGEST_BY_DATAGRAM: usize = 1300;
/// Places tried for one request.
pub const MOST_HOPS: usize = 8;
/// An INVITE's place has so many T1 to say anything while another one is left.
const SILENCE: u32 = 8;
/// A stream for a large request must open in so many T1: door stations have none and some firewalls say nothing.
const OPENING: u32 = 3;
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
        tracing::debug!(?id, hops = hops.len(), "nobody waits for these addresses any more");
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
        if let User::Invite(session) = user
            && let Some(state) = self.sessions.get_mut(&session)
        {
            (state.peer, state.contact_local) = (peer, hop.local);
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
            User::Request(..) | User::Bye(_) | User::Refresh(_) | User::Outside(_) | User::Nobody => true,
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
