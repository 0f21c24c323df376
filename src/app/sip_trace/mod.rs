//! Driver. `--sip-trace`: every SIP message with its secrets masked, on standard output, for a while. The control
//! loop only hands copies over; what the writer cannot take in time is lost and counted.

pub mod ladder;
pub mod mask;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::ladder::{Way, step};
use crate::base::queue::{self, Fifo, Receiver, Sender};
use crate::base::stop::{Outcome, Scope};

/// How long it goes on when nothing else is said: a trace that is forgotten must not fill the disk.
pub const USUAL: Duration = Duration::from_secs(3600);
/// Messages that wait to be written.
const DEPTH: usize = 1024;
/// Longer messages are cut: nothing of SIP is.
const LONGEST: usize = 16 * 1024;

struct Traced {
    at: Instant,
    way: Way,
    transport: &'static str,
    with: Option<SocketAddr>,
    bytes: Vec<u8>,
}

struct State {
    /// When it ends, in milliseconds since `born`; 0: it is off.
    until: AtomicU64,
    born: Instant,
    sender: Mutex<Option<Sender<Traced, Fifo>>>,
}

/// A handle; clones share one trace.
#[derive(Clone)]
pub struct Tracer(Arc<State>);

impl Tracer {
    /// Off, and costing nothing until it is switched on.
    pub fn new(now: Instant) -> Self {
        Tracer(Arc::new(State { until: AtomicU64::new(0), born: now, sender: Mutex::new(None) }))
    }

    /// Traces from now on for so long; again, to go on longer.
    pub fn start(&self, now: Instant, length: Duration, scope: &mut Scope) {
        self.0.until.store(self.millis(now + length).max(1), Ordering::Relaxed);
        let mut sender = self.0.sender.lock().unwrap_or_else(PoisonError::into_inner);
        if sender.is_none() {
            let (messages, taken) = queue::queue(Fifo { depth: DEPTH });
            *sender = Some(messages);
            scope.thread("sip-trace", move || write(&taken, now));
        }
        tracing::info!("SIP messages are shown for {} s, secrets masked", length.as_secs());
    }

    /// No more; what waits is still written.
    pub fn stop(&self) {
        if self.0.until.swap(0, Ordering::Relaxed) > 0 {
            self.0.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
            tracing::info!("SIP messages are no longer shown");
        }
    }

    pub fn is_on(&self, now: Instant) -> bool {
        let until = self.0.until.load(Ordering::Relaxed);
        until > 0 && self.millis(now) < until
    }

    /// One message as it went over the wire. Costs one comparison while it is off.
    pub fn message(&self, now: Instant, way: Way, transport: &'static str, with: Option<SocketAddr>, bytes: &[u8]) {
        if self.0.until.load(Ordering::Relaxed) == 0 {
            return;
        }
        if !self.is_on(now) {
            return self.stop();
        }
        let bytes = bytes.get(..LONGEST).unwrap_or(bytes).to_vec();
        if let Some(sender) = &*self.0.sender.lock().unwrap_or_else(PoisonError::into_inner) {
            sender.offer(Traced { at: now, way, transport, with, bytes });
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.born).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The thread that writes, until the trace is over.
fn write(messages: &Receiver<Traced, Fifo>, start: Instant) -> Outcome {
    let mut out = std::io::stdout();
    let mut told = 0;
    while let Some(traced) = messages.take() {
        let lost = messages.counters().lost;
        let mut text = String::new();
        if lost > told {
            text = format!("{:>10} … {} messages were not shown\n", "", lost - told);
            told = lost;
        }
        let since = traced.at.saturating_duration_since(start);
        text.push_str(&step(since, traced.way, traced.transport, traced.with, &traced.bytes));
        // Nobody reads it any more: nothing to do about that here.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
    Outcome::Done
}

/// `10m`, `90s`, `1h`, or seconds.
///
/// # Errors
/// Says how it is written.
pub fn length(text: &str) -> Result<Duration, String> {
    const SHAPE: &str = "write 90s, 10m or 1h, at most 24h";
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(SHAPE.to_owned()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    match seconds {
        Some(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        Some(_) | None => Err(SHAPE.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_seconds_minutes_and_hours() {
        assert_eq!(length("90"), Ok(Duration::from_secs(90)));
        assert_eq!(length("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(length("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(length("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "h", "0", "1d", "25h", "-1", "1hh", "99999999999999999999h"] {
            assert!(length(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn it_switches_itself_off() {
        let start = Instant::now();
        let tracer = Tracer::new(start);
        assert!(!tracer.is_on(start));
        tracer.0.until.store(60_000, Ordering::Relaxed);
        assert!(tracer.is_on(start + Duration::from_secs(59)));
        tracer.message(start + Duration::from_secs(60), Way::In, "UDP", None, b"x");
        assert!(!tracer.is_on(start + Duration::from_secs(59)));
    }
}
