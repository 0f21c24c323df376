//! Which session a call has: when one is opened, tried again, given back, and said farewell to.
//!
//! A session that was opened is closed whatever became of it, and waited for: it costs money until its provider knows.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, Cause, Farewell, MediaTime, Session, Terms};
use crate::base::time::Pts;
use crate::engine::face::FaceSettings;

/// How long a farewell is waited for.
pub const FAREWELL: Duration = Duration::from_secs(5);
/// A provider without room is asked again so much later than one that was cut off.
const BUSY: u32 = 5;
/// A session that was ready for so long makes up for those that failed before.
const PROVEN: Duration = Duration::from_secs(30);
/// After the provider's own limit, a session that is not ready is given up.
const GRACE: Duration = Duration::from_secs(1);
/// Sessions that are being closed; more than that never are: each is closed before the next is opened.
const CLOSING: usize = 4;

struct Open {
    session: Box<dyn Session>,
    since: Instant,
    /// When the provider began to count.
    counted: Option<Instant>,
    ready: bool,
    /// What turns its times into those of the call.
    base: Option<i64>,
}

/// What became of a session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The provider counted so long.
    pub counted: Duration,
    /// When another is tried; `None`: none is.
    pub again: Option<Duration>,
}

pub struct Keeping {
    settings: Arc<FaceSettings>,
    epoch: Instant,
    /// `None`: nobody could see it.
    terms: Option<Terms>,
    open: Option<Open>,
    closing: Vec<(Box<dyn Session>, Instant)>,
    /// Sessions in a row that came to nothing.
    failed: u32,
    /// When another is opened; `None`: none is.
    open_at: Option<Instant>,
    /// Given back until something is said.
    released: bool,
    /// When something was last said.
    used: Instant,
}

impl Keeping {
    pub fn new(settings: Arc<FaceSettings>, epoch: Instant) -> Self {
        Keeping {
            settings,
            epoch,
            terms: None,
            open: None,
            closing: Vec::new(),
            failed: 0,
            open_at: None,
            released: false,
            used: epoch,
        }
    }

    /// What the call wants of a session from now on; `None`: nothing. A session that runs goes on.
    pub fn want(&mut self, now: Instant, terms: Option<Terms>) {
        let wants = terms.is_some();
        if wants && self.terms.is_none() {
            self.open_at = Some(now);
            self.used = now;
            self.released = false;
        }
        if !wants {
            self.open_at = None;
        }
        self.terms = terms;
    }

    /// The session that is ready.
    pub fn session(&mut self) -> Option<&mut dyn Session> {
        let open = self.open.as_mut().filter(|open| open.ready)?;
        Some(open.session.as_mut())
    }

    /// Something is said or heard. `true`: a session that was given back is opened again.
    pub fn touch(&mut self, now: Instant) {
        self.used = now;
        if std::mem::take(&mut self.released) && self.terms.is_some() {
            self.open_at = Some(now);
        }
    }

    /// A time of the session, as one of the call.
    pub fn made(&mut self, now: Instant, at: MediaTime) -> MediaTime {
        let now = Pts::at(self.epoch, now).nanos() / 1_000;
        let base = self.open.as_mut().map_or(0, |open| *open.base.get_or_insert(now - at.0));
        MediaTime((at.0 + base).max(0))
    }

    /// The provider has begun to count.
    pub fn counted(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.counted.get_or_insert(now);
        }
    }

    /// The session is ready: how long that took.
    pub fn ready(&mut self, now: Instant) -> Option<Duration> {
        let open = self.open.as_mut()?;
        open.ready = true;
        open.counted.get_or_insert(now);
        Some(now.saturating_duration_since(open.since))
    }

    /// Opens one that is due. `true`: it did.
    pub fn open(&mut self, now: Instant) -> bool {
        let due = self.open_at.is_some_and(|at| at <= now) && self.open.is_none();
        let Some(terms) = self.terms.clone().filter(|_| due && self.closing.len() < CLOSING) else {
            return false;
        };
        self.open_at = None;
        let session = self.settings.provider.open(terms);
        self.open = Some(Open { session, since: now, counted: None, ready: false, base: None });
        true
    }

    /// The session is over by itself. `None`: there is none.
    pub fn lost(&mut self, now: Instant, cause: Cause) -> Option<Ended> {
        let open = self.open.as_ref()?;
        if open.ready && now.saturating_duration_since(open.since) >= PROVEN {
            self.failed = 0;
        }
        let pause = match cause {
            Cause::Refused | Cause::Over => None,
            Cause::Connection | Cause::Busy if self.failed >= self.settings.retries => None,
            Cause::Connection => Some(self.settings.retry_after * (1 << self.failed.min(8))),
            Cause::Busy => Some(self.settings.retry_after * BUSY * (1 << self.failed.min(8))),
        };
        self.failed += 1;
        let again = pause.filter(|_| self.terms.is_some());
        self.open_at = again.map(|pause| now + pause);
        let counted = self.close(now, Farewell::Broken)?;
        Some(Ended { counted, again })
    }

    /// Says farewell to the session, if there is one: how long its provider counted.
    pub fn close(&mut self, now: Instant, farewell: Farewell) -> Option<Duration> {
        let mut open = self.open.take()?;
        open.session.close(farewell);
        self.closing.push((open.session, now + FAREWELL));
        Some(open.counted.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)))
    }

    /// Whether the session is to be given back now: nothing was said for long.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.idle_at().is_some_and(|at| at <= now)
    }

    fn idle_at(&self) -> Option<Instant> {
        self.open.as_ref()?;
        Some(self.used + self.settings.idle_release?)
    }

    /// Gives it back until something is said.
    pub fn release(&mut self, now: Instant) -> Option<Duration> {
        self.released = true;
        self.close(now, Farewell::Idle)
    }

    /// Whether it should have been ready by now.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.overdue_at().is_some_and(|at| at <= now)
    }

    fn overdue_at(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|open| !open.ready)?;
        Some(open.since + open.session.limits().ready_within + GRACE)
    }

    /// Whether every session has been said farewell to.
    pub fn is_done(&self) -> bool {
        self.open.is_none() && self.closing.is_empty()
    }

    /// When [`Keeping::handle_time`] or one of the questions about time has another answer.
    pub fn wake_at(&self) -> Option<Instant> {
        let closing = self.closing.iter().map(|(_, until)| *until).min();
        let opens = self.open_at.filter(|_| self.open.is_none());
        [closing, opens, self.idle_at(), self.overdue_at()].into_iter().flatten().min()
    }

    /// Gives up farewells nobody answers.
    pub fn handle_time(&mut self, now: Instant) {
        self.closing.retain(|(_, until)| *until > now);
    }

    /// Ready when every session that was closed is over.
    pub fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.farewells(context);
        if self.closing.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The next event of the session that is open; those of the others are of no interest but for their end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        self.farewells(context);
        match &mut self.open {
            Some(open) => open.session.poll_next(context),
            None => Poll::Pending,
        }
    }

    fn farewells(&mut self, context: &mut Context<'_>) {
        self.closing.retain_mut(|(session, _)| {
            loop {
                match session.poll_next(context) {
                    Poll::Ready(AvatarEvent::Closed) => return false,
                    Poll::Pending => return true,
                    // Of no interest, a loss neither; the end follows.
                    Poll::Ready(_) => {}
                }
            }
        });
    }
}
