//! Driver. `--sip-trace`: every SIP message with its secrets masked, on standard output, for a while. The control
//! loop only hands copies over; what the writer cannot take in time is lost and counted.

pub mod ladder;
pub mod mask;

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::ladder::{Way, step};
use crate::base::queue::{self, Fifo, Receiver, Sender};
use crate::base::stop::{Outcome, Scope};
use crate::sip::Transport;

/// How long it goes on when nothing else is said: a trace that is forgotten must not fill the disk.
pub const USUAL: Duration = Duration::from_secs(3600);
/// Messages that wait to be written.
const DEPTH: usize = 1024;
/// Longer messages are cut: nothing of SIP is.
const LONGEST: usize = 16 * 1024;

struct Traced {
    at: Instant,
    way: Way,
    with: Option<(Transport, SocketAddr)>,
    bytes: Vec<u8>,
}

/// A trace that runs.
struct Running {
    until: Instant,
    messages: Sender<Traced, Fifo>,
}

/// A handle; clones share one trace. Off, and costing nothing, until it is switched on.
#[derive(Clone, Default)]
pub struct Tracer {
    is_on: Arc<AtomicBool>,
    running: Arc<Mutex<Option<Running>>>,
}

impl Tracer {
    /// Shows messages from now on for so long; again, to go on longer.
    pub fn start(&self, now: Instant, length: Duration, scope: &mut Scope) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now + length;
        match &mut *running {
            Some(running) => running.until = until,
            None => {
                let (messages, taken) = queue::queue(Fifo { depth: DEPTH });
                *running = Some(Running { until, messages });
                scope.thread("sip-trace", move || write(&taken, now));
            }
        }
        self.is_on.store(true, Ordering::Relaxed);
        tracing::info!("SIP messages are shown for {} s, secrets masked", length.as_secs());
    }

    /// No more; what waits is still written.
    pub fn stop(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!("SIP messages are no longer shown");
        }
    }

    /// One message as it went over the wire. Costs one comparison while it is off.
    pub fn message(&self, now: Instant, way: Way, with: Option<(Transport, SocketAddr)>, bytes: &[u8]) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match &*running {
            Some(running) if now < running.until => {
                let bytes = bytes.get(..LONGEST).unwrap_or(bytes).to_vec();
                running.messages.offer(Traced { at: now, way, with, bytes });
            }
            Some(_) | None => {
                drop(running);
                self.stop();
            }
        }
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
        text.push_str(&step(since, traced.way, traced.with, &traced.bytes));
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
        let (messages, taken) = queue::queue(Fifo { depth: DEPTH });
        let tracer = Tracer::default();
        tracer.message(start, Way::In, None, b"before");
        *tracer.running.lock().unwrap() = Some(Running { until: start + Duration::from_secs(60), messages });
        tracer.is_on.store(true, Ordering::Relaxed);
        tracer.message(start + Duration::from_secs(59), Way::In, None, b"within");
        tracer.message(start + Duration::from_secs(60), Way::In, None, b"after");
        tracer.message(start, Way::In, None, b"later");
        assert_eq!(taken.take().map(|traced| traced.bytes), Some(b"within".to_vec()));
        assert!(taken.take().is_none(), "its writer is told to end");
    }
}
