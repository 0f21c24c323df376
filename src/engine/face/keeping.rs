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
    /// A session was ready: who greets by itself has greeted.
    greeted: bool,
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
            greeted: false,
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
        self.greeted = true;
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
        let session = self.settings.provider.open(Terms { again: self.greeted, ..terms });
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
                    Poll::Ready(AvatarEvent::Closed { .. }) => return false,
                    Poll::Pending => return true,
                    // Of no interest, a loss neither; the end follows.
                    Poll::Ready(_) => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Waker;

    use super::*;
    use crate::avatar::{Limits, Provider, Turn};
    use crate::media::access_unit::VideoCodec;
    use crate::media::frame::Size;

    #[derive(Default)]
    struct Books {
        opened: usize,
        /// Those that were asked for as further ones of their call.
        again: usize,
        farewells: Vec<Farewell>,
        /// Sessions that were closed say so.
        answers: bool,
    }

    struct Fake(Limits, Arc<Mutex<Books>>, bool);

    impl Session for Fake {
        fn limits(&self) -> &Limits {
            &self.0
        }
        fn poll_next(&mut self, _context: &mut Context<'_>) -> Poll<AvatarEvent> {
            let over = self.2 && self.1.lock().unwrap().answers;
            if over { Poll::Ready(AvatarEvent::Closed { ended: true }) } else { Poll::Pending }
        }
        fn speak(&mut self, _turn: Turn, _samples: &[i16]) {}
        fn end(&mut self, _turn: Turn) {}
        fn interrupt(&mut self, _turn: Turn) {}
        fn close(&mut self, farewell: Farewell) {
            self.1.lock().unwrap().farewells.push(farewell);
            self.2 = true;
        }
    }

    #[derive(Default)]
    struct FakeProvider(Arc<Mutex<Books>>);

    impl std::fmt::Debug for FakeProvider {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("FakeProvider")
        }
    }

    impl Provider for FakeProvider {
        fn open(&self, terms: Terms) -> Box<dyn Session> {
            let mut books = self.0.lock().unwrap();
            books.opened += 1;
            books.again += usize::from(terms.again);
            Box::new(Fake(Limits::default(), self.0.clone(), false))
        }
        fn reap<'a>(&'a self, _session: &'a str) -> futures_util::future::BoxFuture<'a, bool> {
            Box::pin(async { true })
        }
    }

    /// A call in virtual time.
    struct World {
        keeping: Keeping,
        books: Arc<Mutex<Books>>,
        now: Instant,
    }

    fn terms() -> Option<Terms> {
        Some(Terms {
            call: "c".to_owned(),
            codecs: vec![VideoCodec::H264],
            most: Size::new(640, 360),
            language: String::new(),
            again: false,
        })
    }

    impl World {
        fn new(change: impl FnOnce(&mut FaceSettings)) -> World {
            let (books, now) = (Arc::new(Mutex::new(Books::default())), Instant::now());
            let mut settings = FaceSettings::new("face", Arc::new(FakeProvider(books.clone())));
            change(&mut settings);
            World { keeping: Keeping::new(Arc::new(settings), now), books, now }
        }

        /// A session that is ready.
        fn ready(&mut self) {
            self.keeping.want(self.now, terms());
            assert!(self.keeping.open(self.now));
            self.keeping.ready(self.now).expect("it is open");
        }

        fn pass(&mut self, seconds: f64) {
            self.now += Duration::from_secs_f64(seconds);
            self.keeping.handle_time(self.now);
        }

        fn is_done(&mut self) -> bool {
            self.keeping.poll_done(&mut Context::from_waker(Waker::noop())).is_ready()
        }

        fn farewells(&self) -> Vec<Farewell> {
            self.books.lock().unwrap().farewells.clone()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_session_is_opened_when_it_is_wanted_and_of_use_when_it_is_ready() {
        let mut world = World::new(|_| ());
        assert!(!world.keeping.open(world.now), "nobody could see it");
        world.keeping.want(world.now, terms());
        assert_eq!(world.keeping.wake_at(), Some(world.now));
        assert!(world.keeping.open(world.now) && !world.keeping.open(world.now), "one");
        assert!(world.keeping.session().is_none());
        world.pass(0.4);
        assert_eq!(world.keeping.ready(world.now), Some(SECOND * 2 / 5));
        assert!(world.keeping.session().is_some());
        // Wanted again, otherwise: it goes on.
        world.keeping.want(world.now, terms());
        assert!(!world.keeping.open(world.now));
        world.pass(2.0);
        world.keeping.want(world.now, None);
        assert_eq!(world.keeping.close(world.now, Farewell::CallOver), Some(SECOND * 2));
        assert_eq!(world.keeping.close(world.now, Farewell::CallOver), None, "once");
        assert_eq!(world.farewells(), [Farewell::CallOver]);
        assert_eq!(world.books.lock().unwrap().opened, 1);
    }

    #[test]
    fn one_that_is_never_ready_is_overdue_after_the_providers_own_time() {
        let mut world = World::new(|_| ());
        world.keeping.want(world.now, terms());
        world.keeping.open(world.now);
        let due = world.now + Limits::default().ready_within + GRACE;
        assert_eq!(world.keeping.wake_at(), Some(due));
        assert!(!world.keeping.is_overdue(due - Duration::from_millis(1)) && world.keeping.is_overdue(due));
        world.keeping.ready(world.now);
        assert!(!world.keeping.is_overdue(due));
    }

    #[test]
    fn a_lost_one_is_tried_again_later_and_later_and_not_for_ever() {
        let mut world = World::new(|settings| settings.retries = 2);
        world.ready();
        for pause in [SECOND, SECOND * 2] {
            let ended = world.keeping.lost(world.now, Cause::Connection).expect("there was one");
            assert_eq!(ended.again, Some(pause));
            assert!(!world.keeping.open(world.now), "not yet");
            world.pass(pause.as_secs_f64());
            assert!(world.keeping.open(world.now));
            world.keeping.ready(world.now);
        }
        let ended = world.keeping.lost(world.now, Cause::Connection).expect("there was one");
        assert_eq!(ended.again, None);
        assert_eq!(world.keeping.lost(world.now, Cause::Connection), None, "there is none");
        world.pass(3_600.0);
        assert!(!world.keeping.open(world.now));
        assert_eq!(world.farewells(), [Farewell::Broken; 3], "each is ended at its provider");
        let books = world.books.lock().unwrap();
        assert_eq!((books.opened, books.again), (3, 2), "who greeted does not greet again");
    }

    #[test]
    fn what_was_good_for_long_makes_up_for_what_failed() {
        let mut world = World::new(|settings| settings.retries = 1);
        world.ready();
        world.keeping.lost(world.now, Cause::Connection);
        world.pass(1.0);
        world.keeping.open(world.now);
        world.keeping.ready(world.now);
        world.pass(PROVEN.as_secs_f64());
        let ended = world.keeping.lost(world.now, Cause::Connection).expect("there was one");
        assert_eq!((ended.counted, ended.again), (PROVEN, Some(SECOND)));
    }

    #[test]
    fn one_without_room_is_asked_much_later_and_one_that_refuses_never() {
        for (cause, again) in
            [(Cause::Busy, Some(SECOND * BUSY)), (Cause::Refused, None), (Cause::Over, None)]
        {
            let mut world = World::new(|_| ());
            world.keeping.want(world.now, terms());
            world.keeping.open(world.now);
            let ended = world.keeping.lost(world.now, cause).expect("there was one");
            assert_eq!(ended, Ended { counted: Duration::ZERO, again }, "{cause:?}");
        }
        // Nobody looks any more: nothing is tried.
        let mut world = World::new(|_| ());
        world.ready();
        world.keeping.want(world.now, None);
        assert_eq!(world.keeping.lost(world.now, Cause::Connection).and_then(|ended| ended.again), None);
    }

    #[test]
    fn an_idle_one_is_given_back_and_words_open_another() {
        let mut world = World::new(|settings| settings.idle_release = Some(SECOND * 60));
        world.ready();
        world.pass(59.0);
        world.keeping.touch(world.now);
        world.pass(59.0);
        assert!(!world.keeping.is_idle(world.now));
        world.pass(1.0);
        assert!(world.keeping.is_idle(world.now));
        assert_eq!(world.keeping.release(world.now), Some(SECOND * 119));
        world.pass(600.0);
        assert!(!world.keeping.open(world.now) && !world.keeping.is_idle(world.now));
        world.keeping.touch(world.now);
        assert!(world.keeping.open(world.now));
        assert_eq!(world.farewells(), [Farewell::Idle]);
    }

    #[test]
    fn farewells_are_waited_for_and_given_up() {
        let mut world = World::new(|_| ());
        assert!(world.is_done(), "there was none");
        world.ready();
        world.keeping.close(world.now, Farewell::CallOver);
        assert!(!world.is_done() && !world.keeping.is_done());
        world.books.lock().unwrap().answers = true;
        assert!(world.is_done() && world.keeping.is_done());
        world.books.lock().unwrap().answers = false;
        world.keeping.want(world.now, None);
        world.ready();
        world.keeping.close(world.now, Farewell::CallOver);
        assert_eq!(world.keeping.wake_at(), Some(world.now + FAREWELL));
        world.pass(FAREWELL.as_secs_f64());
        assert!(world.is_done(), "nobody answers");
    }

    #[test]
    fn farewells_nobody_answers_do_not_pile_up() {
        let mut world = World::new(|settings| settings.retries = 100);
        world.keeping.want(world.now, terms());
        for _ in 0..CLOSING {
            assert!(world.keeping.open(world.now));
            world.keeping.close(world.now, Farewell::Broken);
            world.keeping.want(world.now, None);
            world.keeping.want(world.now, terms());
        }
        assert!(!world.keeping.open(world.now));
        world.pass(FAREWELL.as_secs_f64());
        assert!(world.keeping.open(world.now));
    }

    #[test]
    fn times_of_a_session_become_those_of_the_call() {
        let mut world = World::new(|_| ());
        world.ready();
        world.pass(2.0);
        assert_eq!(world.keeping.made(world.now, MediaTime(70_000)), MediaTime(2_000_000));
        // From then on its own clock leads.
        world.pass(0.5);
        assert_eq!(world.keeping.made(world.now, MediaTime(90_000)), MediaTime(2_020_000));
        assert_eq!(world.keeping.made(world.now, MediaTime(-9_000_000)), MediaTime(0));
    }
}
