//! Bytes on a stream to a whole endpoint. The first byte chooses TCP or WebSocket and in which pieces they come; a
//! zero byte parts the frames of a WebSocket.
//!
//! Answers are few and go back on the stream they are for, a stream that cannot be followed is closed, and however it
//! goes the endpoint comes to rest. That messages are cut alike whatever the pieces is the target `sip_stream`'s.

use std::net::SocketAddr;
use std::time::Instant;

use eyeline::sip::{Access, ConnectionId, Do, Endpoint, Event, Peer, Response, Settings, Transport};

/// More wake-ups than this for so few messages is a machine that turns in place.
const STEPS: usize = 100_000;
const ID: ConnectionId = ConnectionId(1);
/// What a message may cost in answers, at most; and a stream as a whole.
const MOST_ANSWERS: usize = 4;

struct Line {
    now: Instant,
    endpoint: Endpoint,
    sent: usize,
    closed: bool,
}

impl Line {
    fn new(now: Instant, transport: Transport) -> Self {
        let mut endpoint = Endpoint::new(Settings::default(), [7; 32]);
        let remote = SocketAddr::from(([192, 0, 2, 1], 40_000));
        let local = SocketAddr::from(([192, 0, 2, 9], 5060));
        let peer = Peer { transport, local, remote, connection: Some(ID) };
        endpoint.handle_accepted(now, ID, peer, Access::Trusted, None);
        Line { now, endpoint, sent: 0, closed: false }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.endpoint.handle_stream(self.now, ID, bytes);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(wanted) = self.endpoint.poll() {
            match wanted {
                Do::Send { peer, .. } => {
                    assert_eq!(peer.transport.is_reliable(), peer.connection == Some(ID));
                    self.sent += 1;
                }
                Do::Close(ID) => {
                    self.closed = true;
                    self.endpoint.handle_closed(self.now, ID);
                }
                Do::Connect { connection, .. } => self.endpoint.handle_closed(self.now, connection),
                Do::Event(Event::Invited { session, .. }) => {
                    let refusal = Response { status: 486, ..Response::default() };
                    self.endpoint.respond(self.now, session, refusal);
                }
                Do::Event(Event::OutsideRequested { request, .. }) => {
                    let refusal = Response { status: 403, ..Response::default() };
                    self.endpoint.reply(self.now, request, refusal);
                }
                _ => {}
            }
        }
    }

    fn rest(&mut self) {
        for _ in 0..STEPS {
            let Some(at) = self.endpoint.wake_at() else { return };
            self.now = self.now.max(at);
            self.endpoint.handle_time(self.now);
            self.drain();
            if self.endpoint.open_transactions() == 0 && self.endpoint.open_sessions() == 0 {
                self.endpoint.handle_closed(self.now, ID);
            }
        }
        panic!("the endpoint does not come to rest");
    }
}

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let now = Instant::now();
    let Some((how, bytes)) = data.split_first() else { return };
    let web = how & 1 != 0;
    let mut line = Line::new(now, if web { Transport::Ws } else { Transport::Tcp });
    if web {
        bytes.split(|byte| *byte == 0).for_each(|frame| line.hear(frame));
    } else {
        bytes.chunks(usize::from(how >> 1).max(1)).for_each(|piece| line.hear(piece));
    }
    // The shortest thing that is answered is a keep-alive of 4 bytes.
    assert!(line.sent <= MOST_ANSWERS * (bytes.len() / 4 + 1));
    line.rest();
    assert!(line.closed || line.endpoint.open_transactions() == 0);
}
