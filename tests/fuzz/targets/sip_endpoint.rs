//! A conversation with a whole endpoint: datagrams of up to 64 KiB, parted by a zero byte and a number. The number
//! says how much time passes, who sends, and what is done with what the endpoint tells.
//!
//! However it goes, the endpoint comes to rest once every timer has run out.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use eyeline::sip::{Access, Do, Endpoint, Event, Peer, Response, Settings, Transport};

/// More wake-ups than this for so few messages is a machine that turns in place.
const STEPS: usize = 100_000;

fn response(status: u16) -> Response {
    Response { status, ..Response::default() }
}

/// What a user might do with an event.
fn react(endpoint: &mut Endpoint, now: Instant, event: Event, mood: u8) {
    match event {
        Event::Invited { session, .. } => {
            let status = [180, 200, 486, 183][usize::from(mood % 4)];
            endpoint.respond(now, session, response(status));
            if mood & 4 != 0 {
                endpoint.bye(now, session, None);
            }
        }
        Event::Reinvited { session, request, .. } | Event::Requested { session, request, .. }
            if mood & 8 != 0 =>
        {
            endpoint.respond_to(now, session, request, response([200, 488][usize::from(mood & 1)]));
        }
        Event::Acked { session, .. } if mood & 2 != 0 => endpoint.bye(now, session, None),
        _ => {}
    }
}

fn drain(endpoint: &mut Endpoint, now: Instant, mood: u8) {
    while let Some(wanted) = endpoint.poll() {
        if let Do::Event(event) = wanted {
            react(endpoint, now, event, mood);
        }
    }
}

pub fn run(data: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "virtual time starts at a real instant")]
    let mut now = Instant::now();
    let mut endpoint = Endpoint::new(Settings::default(), [7; 32]);
    let mut moods = 0;
    for part in data.split_inclusive(|byte| *byte == 0).take(64) {
        let (mood, bytes) = part.split_first().unwrap_or((&0, &[]));
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        moods ^= mood;
        let remote = SocketAddr::from(([192, 0, 2, 1 + mood % 3], 5060));
        let local = SocketAddr::from(([192, 0, 2, 9], 5060));
        let peer = Peer { transport: Transport::Udp, local, remote, connection: None };
        let access = if mood & 64 == 0 { Access::Trusted } else { Access::Stranger };
        endpoint.handle_datagram(now, peer, access, bytes);
        drain(&mut endpoint, now, *mood);
        now += Duration::from_millis(u64::from(mood >> 4) * 300);
        endpoint.handle_time(now);
        drain(&mut endpoint, now, *mood);
    }
    // Calls that were neither answered nor given up wait for their user: shutting down is what ends them.
    for _ in 0..STEPS {
        let Some(at) = endpoint.wake_at() else { return };
        now = now.max(at);
        endpoint.handle_time(now);
        drain(&mut endpoint, now, moods);
    }
    panic!("the endpoint does not come to rest");
}
