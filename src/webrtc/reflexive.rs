//! Asking a STUN server (RFC 8489) from which address it sees us: the server-reflexive candidate (RFC 8445 §5.1.1.2).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use turn_client_proto::stun::types::attribute::XorMappedAddress;
use turn_client_proto::stun::types::message::{
    BINDING, Message, MessageClass, MessageWriteExt as _, MessageWriteVec, TransactionId,
};
use turn_client_proto::stun::types::prelude::MessageWrite as _;

/// After which waits it is asked again; then given up after as long as the last.
const WAITS_MS: [u64; 4] = [250, 500, 1_000, 2_000];

/// One question to one server.
#[derive(Debug)]
pub struct Reflexive {
    server: SocketAddr,
    request: Vec<u8>,
    transaction: TransactionId,
    asked: usize,
    due: Instant,
    done: bool,
}

impl Reflexive {
    pub fn new(now: Instant, server: SocketAddr) -> Self {
        let builder = Message::builder_request(BINDING, MessageWriteVec::new());
        let transaction = builder.transaction_id();
        let request = builder.finish();
        Reflexive { server, request, transaction, asked: 0, due: now, done: false }
    }

    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Answered or given up.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// When [`Reflexive::poll`] is due.
    pub fn wake_at(&self) -> Option<Instant> {
        (!self.done).then_some(self.due)
    }

    /// The question, when it is due.
    pub fn poll(&mut self, now: Instant) -> Option<&[u8]> {
        if self.done || now < self.due {
            return None;
        }
        let Some(wait) = WAITS_MS.get(self.asked) else {
            self.done = true;
            return None;
        };
        self.asked += 1;
        self.due = now + Duration::from_millis(*wait);
        Some(&self.request)
    }

    /// A datagram from the server: the address it saw, if this is its answer.
    pub fn receive(&mut self, bytes: &[u8]) -> Option<SocketAddr> {
        let message = Message::from_bytes(bytes).ok()?;
        let is_answer =
            message.transaction_id() == self.transaction && message.has_class(MessageClass::Success);
        if self.done || !is_answer {
            return None;
        }
        self.done = true;
        let mapped = message.attribute::<XorMappedAddress>().ok()?;
        Some(mapped.addr(self.transaction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(request: &[u8], seen: SocketAddr) -> Vec<u8> {
        let request = Message::from_bytes(request).expect("a request");
        let mut answer = Message::builder_success(&request, MessageWriteVec::new());
        let address = XorMappedAddress::new(seen, request.transaction_id());
        answer.add_attribute(&address).expect("room");
        answer.finish()
    }

    #[test]
    fn it_is_asked_again_until_the_answer_comes_and_the_answer_is_its_own() {
        let (server, seen) = ("192.0.2.1:3478".parse().expect("a"), "198.51.100.7:4000".parse().expect("a"));
        let start = Instant::now();
        let mut one = Reflexive::new(start, server);
        let first = one.poll(start).expect("asked at once").to_vec();
        assert!(one.poll(start).is_none());
        let again = one.wake_at().expect("again");
        assert_eq!(again, start + Duration::from_millis(250));
        assert_eq!(one.poll(again), Some(first.as_slice()));
        let mut other = Reflexive::new(start, server);
        let strange = answer(other.poll(start).expect("asked"), seen);
        assert_eq!(one.receive(&strange), None, "another's answer");
        assert_eq!(one.receive(b"\x01\x01 nonsense"), None);
        assert_eq!(one.receive(&answer(&first, seen)), Some(seen));
        assert!(one.is_done() && one.wake_at().is_none());
        assert_eq!(one.receive(&answer(&first, seen)), None, "once");
    }

    #[test]
    fn a_server_that_is_silent_is_given_up() {
        let mut one = Reflexive::new(Instant::now(), "192.0.2.1:3478".parse().expect("an address"));
        let mut asked = 0;
        while let Some(due) = one.wake_at() {
            asked += usize::from(one.poll(due).is_some());
        }
        assert_eq!(asked, 4);
        assert!(one.is_done());
    }
}
