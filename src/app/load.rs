//! Driver. How busy the box is, once a second, from /proc.

use std::fs;
use std::time::Duration;

use crate::app::signalling::Order;
use crate::base::queue::{Fifo, Offered, Sender};
use crate::base::stop::Outcome;
use crate::useragent::admission::capacity::Figures;

const EVERY: Duration = Duration::from_secs(1);

/// Clock ticks since the start of the box.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ticks {
    all: u64,
    idle: u64,
    own: u64,
}

/// Sends figures to the control loop until it is gone. Ports are its own to count.
pub async fn sample(orders: Sender<Order, Fifo>) -> Outcome {
    let mut before = ticks();
    loop {
        #[expect(clippy::disallowed_methods, reason = "the box is looked at once a second")]
        tokio::time::sleep(EVERY).await;
        let now = ticks();
        if let (Some(before), Some(now), Some(memory)) = (before, now, memory()) {
            let figures = Figures { memory, ..shares(before, now) };
            if orders.offer(Order::Observed(figures)) == Offered::Closed {
                return Outcome::Done;
            }
        }
        before = now;
    }
}

fn ticks() -> Option<Ticks> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    let (all, idle) = of_all(&stat)?;
    Some(Ticks { all, idle, own: of_process(&own)? })
}

/// The line `cpu  user nice system idle iowait irq softirq steal …`: all ticks, and those nobody used.
fn of_all(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // Guests are counted in user already.
    let numbers: Vec<u64> = line.split_whitespace().take(8).filter_map(|n| n.parse().ok()).collect();
    let idle = numbers.get(3)? + numbers.get(4).copied().unwrap_or(0);
    Some((numbers.iter().sum(), idle))
}

/// User and system ticks of `/proc/self/stat`; the name in brackets may hold anything.
fn of_process(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn shares(before: Ticks, now: Ticks) -> Figures {
    let all = now.all.saturating_sub(before.all).max(1) as f32;
    let idle = now.idle.saturating_sub(before.idle) as f32;
    let own = now.own.saturating_sub(before.own) as f32;
    Figures { busy: (1.0 - idle / all).clamp(0.0, 1.0), own: (own / all).min(1.0), ..Figures::default() }
}

/// Bytes that could be had without swapping.
fn memory() -> Option<u64> {
    available(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_the_kernel_are_read() {
        let stat = "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2 3 4\n";
        assert_eq!(of_all(stat), Some((1000, 850)));
        let own = "12 (a ) name) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 9";
        assert_eq!(of_process(own), Some(42));
        assert_eq!(available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!((of_all("x"), of_process("x"), available("x")), (None, None, None));
        let (now, later) = (ticks().expect("ticks"), ticks().expect("ticks"));
        assert!(now.all > 0 && later.all >= now.all && memory().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn shares_are_of_all_processors() {
        let before = Ticks { all: 1000, idle: 800, own: 10 };
        let now = Ticks { all: 1200, idle: 900, own: 60 };
        let figures = shares(before, now);
        assert!((figures.busy - 0.5).abs() < 1e-6 && (figures.own - 0.25).abs() < 1e-6);
        assert_eq!(shares(now, now).busy, 1.0 - 0.0);
    }
}
