//! The endpoint's tables of transactions: making them, finding them, repeating what they sent, forgetting them.

use std::collections::VecDeque;
use std::time::Instant;

use super::super::digest::client::Attempts;
use super::super::message::{Headers, Method, RequestMessage, ResponseMessage};
use super::super::transaction::client::Client;
use super::super::transaction::client_invite::{ClientInvite, Timed};
use super::super::transaction::server::Server;
use super::super::transaction::server_invite::{self, ServerInvite};
use super::hop::{Hop, Places};
use super::keepalive::Pulse;
use super::{ConnectionId, Endpoint, Peer, RequestId, SessionId, Timer};

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    /// The INVITE that makes the session.
    Invite(SessionId),
    /// A request inside the dialog that the session's user asked for.
    Request(SessionId, RequestId, Method),
    Bye(SessionId),
    /// An UPDATE that keeps the session from expiring.
    Refresh(SessionId),
    /// A PRACK: nobody waits for its outcome, but it may be asked for proof.
    Prack(SessionId),
    /// A request outside any dialog.
    Outside(RequestId),
    /// CANCEL, or the BYE of a forked 2xx: nobody waits for its outcome.
    Nobody,
}

pub(super) enum ClientMachine {
    Invite(ClientInvite),
    Other(Client),
}

pub(super) struct ClientTransaction {
    pub machine: ClientMachine,
    pub key: (String, Method),
    pub peer: Peer,
    pub connection: Option<ConnectionId>,
    pub bytes: Vec<u8>,
    pub request: RequestMessage,
    pub places: Places,
    pub user: User,
    pub attempts: Attempts,
    pub armed: Option<Instant>,
}

pub(super) enum ServerMachine {
    Invite(ServerInvite),
    Other(Server),
}

pub(super) struct ServerTransaction {
    pub machine: ServerMachine,
    pub key: String,
    pub merge: Option<String>,
    /// Where responses go.
    pub peer: Peer,
    pub request: RequestMessage,
    pub last: Option<Vec<u8>>,
    pub session: Option<SessionId>,
    pub armed: Option<Instant>,
}

impl ClientTransaction {
    fn wake_at(&self) -> Option<Instant> {
        match &self.machine {
            ClientMachine::Invite(machine) => machine.wake_at(),
            ClientMachine::Other(machine) => machine.wake_at(),
        }
    }

    fn is_over(&self) -> bool {
        match &self.machine {
            ClientMachine::Invite(machine) => machine.is_over(),
            ClientMachine::Other(machine) => machine.is_over(),
        }
    }
}

impl ServerTransaction {
    /// After the final response only repeats come: 32 seconds of them are many transactions.
    fn forget_request(&mut self) {
        let cseq = self.request.headers.value("CSeq").map(str::to_owned);
        self.request.body = Vec::new();
        self.request.headers = Headers::new();
        if let Some(cseq) = cseq {
            self.request.headers.push("CSeq", cseq);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.machine {
            ServerMachine::Invite(machine) => machine.wake_at(),
            ServerMachine::Other(machine) => machine.wake_at(),
        }
    }

    fn is_over(&self) -> bool {
        match &self.machine {
            ServerMachine::Invite(machine) => machine.is_over(),
            ServerMachine::Other(machine) => machine.is_over(),
        }
    }
}

impl Endpoint {
    /// Sends a complete request and remembers it until its transaction ends.
    pub(super) fn start_client(
        &mut self,
        now: Instant,
        peer: Peer,
        branch: String,
        request: RequestMessage,
        user: User,
    ) -> u64 {
        self.start_client_over(now, peer, VecDeque::new(), branch, request, user)
    }

    /// The same with other places to try when this one fails.
    pub(super) fn start_client_over(
        &mut self,
        now: Instant,
        peer: Peer,
        rest: VecDeque<Hop>,
        branch: String,
        request: RequestMessage,
        user: User,
    ) -> u64 {
        let (mut peer, mut branch, mut request) = (peer, branch, request);
        peer.connection = peer.connection.filter(|id| self.connections.is_known(*id));
        let mut bytes = request.to_bytes();
        let mut places = Places { rest, instead_of: None };
        // A CANCEL goes the way of its INVITE, whose size it has not.
        if request.method != Method::Cancel
            && let Some(stream) = self.by_stream(now, peer, bytes.len())
        {
            places.instead_of = Some(peer);
            peer = stream;
            (branch, request) = self.addressed(request, peer);
            bytes = request.to_bytes();
        }
        let timers = self.settings.timers;
        let reliable = peer.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => ClientMachine::Invite(ClientInvite::new(now, timers, reliable)),
            _ => ClientMachine::Other(Client::new(now, timers, reliable)),
        };
        let connection = self.send(peer, bytes.clone());
        let id = self.new_id();
        let key = (branch, request.method.clone());
        self.client_of.insert(key.clone(), id);
        let transaction = ClientTransaction {
            machine,
            key,
            peer,
            connection,
            bytes,
            request,
            places,
            user,
            attempts: Attempts::default(),
            armed: None,
        };
        self.clients.insert(id, transaction);
        self.tend_client(id);
        self.hurry(now, id);
        id
    }

    /// Arms the timer of a client transaction, or forgets it when it is over.
    pub(super) fn tend_client(&mut self, id: u64) {
        let Some(transaction) = self.clients.get_mut(&id) else { return };
        let over = transaction.is_over();
        let wanted = if over { None } else { transaction.wake_at() };
        let armed = std::mem::replace(&mut transaction.armed, wanted);
        self.rearm(Timer::Client(id), armed, wanted);
        if over && let Some(transaction) = self.clients.remove(&id) {
            self.client_of.remove(&transaction.key);
        }
    }

    pub(super) fn client_time(&mut self, now: Instant, id: u64) {
        let Some(transaction) = self.clients.get_mut(&id) else { return };
        transaction.armed = None;
        let timed = match &mut transaction.machine {
            ClientMachine::Invite(machine) => machine.handle_time(now),
            ClientMachine::Other(machine) => machine.handle_time(now),
        };
        match timed {
            Timed::Resend => {
                let (peer, bytes) = (transaction.peer, transaction.bytes.clone());
                self.counters.retransmissions += 1;
                self.send(peer, bytes);
            }
            Timed::TimedOut => {
                if self.next_place(now, id) {
                    return;
                }
                let Some(transaction) = self.clients.get(&id) else { return };
                let user = transaction.user.clone();
                self.tend_client(id);
                return self.client_failed(now, user, 408);
            }
            Timed::Nothing => {}
        }
        self.tend_client(id);
    }

    /// Waits for the final response to an INVITE no longer than this.
    pub(super) fn limit_client(&mut self, id: u64, until: Instant) {
        if let Some(transaction) = self.clients.get_mut(&id)
            && let ClientMachine::Invite(machine) = &mut transaction.machine
        {
            machine.limit(until);
            self.tend_client(id);
        }
    }

    /// A stream is gone: what waited for an answer on it has failed (RFC 3261 §17.1.4).
    pub(super) fn fail_clients(&mut self, now: Instant, connection: ConnectionId) {
        let waits = |transaction: &ClientTransaction| match &transaction.machine {
            ClientMachine::Invite(machine) => !machine.is_over(),
            ClientMachine::Other(machine) => !machine.is_over(),
        };
        let mut failed: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, transaction)| transaction.connection == Some(connection) && waits(transaction))
            .map(|(id, _)| *id)
            .collect();
        failed.sort_unstable();
        for id in failed {
            self.counters.transport_errors += 1;
            if self.next_place(now, id) {
                continue;
            }
            let Some(transaction) = self.clients.get_mut(&id) else { continue };
            match &mut transaction.machine {
                ClientMachine::Invite(machine) => machine.terminate(),
                ClientMachine::Other(machine) => machine.terminate(),
            }
            let user = transaction.user.clone();
            self.tend_client(id);
            self.client_failed(now, user, 503);
        }
    }

    /// Remembers a request of the peer.
    pub(super) fn start_server(
        &mut self,
        key: String,
        merge: Option<String>,
        peer: Peer,
        request: RequestMessage,
        session: Option<SessionId>,
    ) -> u64 {
        let timers = self.settings.timers;
        let reliable = peer.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => ServerMachine::Invite(ServerInvite::new(timers, reliable)),
            _ => ServerMachine::Other(Server::new(timers, reliable)),
        };
        let id = self.new_id();
        self.server_of.insert(key.clone(), id);
        if let Some(merge) = &merge {
            self.merges.insert(merge.clone(), id);
        }
        let transaction =
            ServerTransaction { machine, key, merge, peer, request, last: None, session, armed: None };
        self.servers.insert(id, transaction);
        id
    }

    /// Sends a response through its transaction. `false`: it has had its final response.
    pub(super) fn send_response(&mut self, now: Instant, id: u64, message: &ResponseMessage) -> bool {
        let Some(transaction) = self.servers.get_mut(&id) else { return false };
        let may = match &mut transaction.machine {
            ServerMachine::Invite(machine) => machine.respond(now, message.status),
            ServerMachine::Other(machine) => message.status < 200 || machine.respond(now),
        };
        if may {
            let bytes = message.to_bytes();
            let success = (200..300).contains(&message.status)
                && matches!(transaction.request.method, Method::Invite | Method::Register);
            if success && let Some(id) = transaction.peer.connection {
                self.connections.pulse(id).into_iter().for_each(Pulse::proven);
            }
            transaction.last = Some(bytes.clone());
            if message.status >= 200 {
                transaction.forget_request();
            }
            let peer = transaction.peer;
            self.send(peer, bytes);
        }
        self.tend_server(id);
        may
    }

    /// The peer sent the same request again.
    pub(super) fn repeat_server(&mut self, id: u64) {
        self.counters.repeats += 1;
        let Some(transaction) = self.servers.get(&id) else { return };
        let again = match &transaction.machine {
            ServerMachine::Invite(machine) => machine.handle_repeat(),
            ServerMachine::Other(machine) => machine.handle_repeat(),
        };
        if let (true, Some(bytes)) = (again, transaction.last.clone()) {
            let peer = transaction.peer;
            self.counters.retransmissions += 1;
            self.send(peer, bytes);
        }
    }

    /// Arms the timer of a server transaction, or forgets it when it is over.
    pub(super) fn tend_server(&mut self, id: u64) {
        let Some(transaction) = self.servers.get_mut(&id) else { return };
        let over = transaction.is_over();
        let wanted = if over { None } else { transaction.wake_at() };
        let armed = std::mem::replace(&mut transaction.armed, wanted);
        self.rearm(Timer::Server(id), armed, wanted);
        if over && let Some(transaction) = self.servers.remove(&id) {
            self.server_of.remove(&transaction.key);
            if let Some(merge) = transaction.merge {
                self.merges.remove(&merge);
            }
        }
    }

    pub(super) fn server_time(&mut self, now: Instant, id: u64) {
        let Some(transaction) = self.servers.get_mut(&id) else { return };
        transaction.armed = None;
        let again = match &mut transaction.machine {
            ServerMachine::Invite(machine) => machine.handle_time(now) == server_invite::Timed::Resend,
            ServerMachine::Other(machine) => {
                machine.handle_time(now);
                false
            }
        };
        if let (true, Some(bytes)) = (again, transaction.last.clone()) {
            let peer = transaction.peer;
            self.counters.retransmissions += 1;
            self.send(peer, bytes);
        }
        self.tend_server(id);
    }
}
