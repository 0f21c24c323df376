//! Datagrams on their way: seeded delay, loss, doubles; whatever is later overtaken is out of order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// What was sent, lost or not.
pub struct Sent {
    pub at: Instant,
    pub from: SocketAddr,
    pub text: String,
}

type Rule = Box<dyn FnMut(&str) -> bool>;

pub struct Network {
    rng: StdRng,
    flight: BTreeMap<(Instant, u64), Datagram>,
    count: u64,
    rule: Option<Rule>,
    pub loss: f64,
    pub doubles: f64,
    pub delay: Range<Duration>,
    pub sent: Vec<Sent>,
    pub keeps_texts: bool,
}

impl Network {
    /// Perfect and in order, with 5 ms of delay.
    pub fn new(seed: u64) -> Self {
        Network {
            rng: StdRng::seed_from_u64(seed),
            flight: BTreeMap::new(),
            count: 0,
            rule: None,
            loss: 0.0,
            doubles: 0.0,
            delay: Duration::from_millis(5)..Duration::from_nanos(5_000_001),
            sent: Vec::new(),
            keeps_texts: true,
        }
    }

    /// From now on swallows the messages for which `rule` says so.
    pub fn lose(&mut self, rule: impl FnMut(&str) -> bool + 'static) {
        self.rule = Some(Box::new(rule));
    }

    pub fn send(&mut self, now: Instant, datagram: Datagram) {
        let text = String::from_utf8_lossy(&datagram.bytes).into_owned();
        let swallowed = self.rule.as_mut().is_some_and(|rule| rule(&text));
        if self.keeps_texts {
            self.sent.push(Sent { at: now, from: datagram.from, text });
        }
        if swallowed || self.rng.random_bool(self.loss) {
            return;
        }
        if self.rng.random_bool(self.doubles) {
            let again = Datagram { bytes: datagram.bytes.clone(), ..datagram };
            self.fly(now, again);
        }
        self.fly(now, datagram);
    }

    fn fly(&mut self, now: Instant, datagram: Datagram) {
        self.count += 1;
        let at = now + self.rng.random_range(self.delay.clone());
        self.flight.insert((at, self.count), datagram);
    }

    pub fn next(&self) -> Option<Instant> {
        self.flight.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that has arrived by `now`.
    pub fn arrived(&mut self, now: Instant) -> Option<Datagram> {
        let entry = self.flight.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
