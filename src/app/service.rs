//! Driver. The operating system around the process: systemd's notices, signals, real-time priority.
//!
//! Ready, watchdog and stopping notices come from the control loop, which also [`Heartbeat::beat`]s: a loop that is
//! stuck pings no more and systemd starts the process anew.

#![expect(clippy::disallowed_methods, reason = "signals and the watchdog wait on the clock")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::base::stop::{Outcome, Scope};

/// A loop that has not beaten for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

/// When the control loop last went round. Cheap to clone and to beat.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Heartbeat {
    pub fn new(now: Instant) -> Self {
        Heartbeat { start: now, last_ms: Arc::new(AtomicU64::new(0)) }
    }

    /// The loop has gone round. It must do so at least once a second, with or without work.
    pub fn beat(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.start).as_millis();
        self.last_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.start).saturating_sub(last)
    }

    pub fn is_fresh(&self, now: Instant) -> bool {
        self.age(now) < STUCK_AFTER
    }
}

/// Tells systemd that calls are taken from now on; `status` shows in `systemctl status`.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the process is on its way out, and that it may take `patience`.
pub fn stopping(patience: Duration) {
    let micros = u32::try_from(patience.as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::Status("draining"), NotifyState::ExtendTimeoutUsec(micros)]);
}

/// Outside systemd this does nothing.
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd does not take notices");
    }
}

/// Pings systemd's watchdog in `scope` as long as the loop beats. Without a watchdog nothing is started.
pub fn watch(scope: &mut Scope, heartbeat: Heartbeat) {
    if let Some(limit) = sd_notify::watchdog_enabled() {
        let token = scope.token();
        scope.task("watchdog", async move {
            tokio::select! {
                () = token.stopped() => Outcome::Done,
                () = ping(&heartbeat, limit / 3, || notify(&[NotifyState::Watchdog])) => Outcome::Done,
            }
        });
    }
}

/// Pings every `interval` while the loop is alive.
async fn ping(heartbeat: &Heartbeat, interval: Duration, ping: impl Fn()) {
    let mut tick = tokio::time::interval(interval.max(Duration::from_millis(10)));
    let mut was_fresh = true;
    loop {
        tick.tick().await;
        let now = Instant::now();
        let fresh = heartbeat.is_fresh(now);
        if fresh {
            ping();
        } else if was_fresh {
            tracing::error!(
                age_s = heartbeat.age(now).as_secs_f32(),
                "the control loop is stuck; no more watchdog pings"
            );
        }
        was_fresh = fresh;
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Read the certificates again.
    Reload,
    /// Take no new calls, let the running ones end.
    Drain,
    /// End the running calls now, still close their files.
    Hurry,
}

/// SIGTERM, SIGINT and SIGHUP from the moment it is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    drains: bool,
}

impl Signals {
    /// Needs a running tokio runtime with I/O.
    ///
    /// # Errors
    /// The process may not have signal handlers.
    pub fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            drains: false,
        })
    }

    /// The next wish: SIGHUP reloads, the first SIGTERM or SIGINT drains, every further one hurries. Cancel-safe.
    pub async fn next(&mut self) -> Ask {
        let name = tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => {
                tracing::info!("SIGHUP: TLS certificates are read again; restart to apply changes of the configuration");
                return Ask::Reload;
            }
        };
        let ask = if self.drains { Ask::Hurry } else { Ask::Drain };
        self.drains = true;
        tracing::info!(?ask, "{name}");
        ask
    }
}

/// A file that may not grow any further (`LimitFSIZE`) is an error of that file, as a full disk is, and not the end of
/// the process with all its calls.
pub fn file_limit_is_an_error() {
    // SAFETY: ignoring a signal installs no handler and touches no memory.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// As many open files as the system lets this process have: a call needs two for each of its streams, and shells start
/// programs with far fewer than they may have.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "open files are limited to {:?}", limit.current);
    }
}

/// Gives the calling thread round-robin real-time priority, the lowest there is; children start without it.
///
/// # Errors
/// Says what to grant. The program works without, with more jitter.
pub fn real_time() -> Result<(), String> {
    // SAFETY: sched_param is plain integers, all of them set; the calls read it and touch only this thread (pid 0).
    let refused = unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = libc::sched_get_priority_min(libc::SCHED_RR);
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) != 0
    };
    if refused {
        let error = std::io::Error::last_os_error();
        return Err(format!(
            "no real-time priority: {error}; grant it with LimitRTPRIO=1 in the unit or `ulimit -r 1`"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_beating_is_stuck() {
        let start = Instant::now();
        let heartbeat = Heartbeat::new(start);
        heartbeat.beat(start + Duration::from_secs(60));
        assert!(heartbeat.is_fresh(start + Duration::from_secs(64)));
        assert!(!heartbeat.is_fresh(start + Duration::from_secs(66)));
        assert_eq!(heartbeat.age(start + Duration::from_secs(66)), Duration::from_secs(6));
    }

    #[tokio::test]
    async fn the_watchdog_is_pinged_only_while_the_loop_beats() {
        let now = Instant::now();
        let pings = AtomicU64::new(0);
        let count = || {
            pings.fetch_add(1, Ordering::Relaxed);
        };
        let stuck = Heartbeat { start: now - STUCK_AFTER, last_ms: Arc::default() };
        let brief = Duration::from_millis(60);
        let _ = tokio::time::timeout(brief, ping(&stuck, Duration::from_millis(10), count)).await;
        assert_eq!(pings.load(Ordering::Relaxed), 0);
        let _ =
            tokio::time::timeout(brief, ping(&Heartbeat::new(now), Duration::from_millis(10), count)).await;
        assert_ne!(pings.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_hurries() {
        let mut signals = Signals::new().unwrap();
        // nextest runs each test in a process of its own; under cargo test nobody else listens to these.
        let send = |signal| assert_eq!(unsafe { libc::raise(signal) }, 0);
        send(libc::SIGHUP);
        assert_eq!(signals.next().await, Ask::Reload);
        send(libc::SIGTERM);
        assert_eq!(signals.next().await, Ask::Drain);
        send(libc::SIGINT);
        assert_eq!(signals.next().await, Ask::Hurry);
    }

    #[test]
    fn real_time_priority_is_given_or_the_refusal_says_what_to_do() {
        let outcome = std::thread::spawn(|| {
            let outcome = real_time();
            // SAFETY: asks only.
            (outcome, unsafe { libc::sched_getscheduler(0) })
        });
        match outcome.join().unwrap() {
            (Ok(()), policy) => assert_eq!(policy, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK),
            (Err(text), policy) => {
                assert_eq!(policy, libc::SCHED_OTHER);
                assert!(text.contains("LimitRTPRIO"), "{text}");
            }
        }
    }
}
