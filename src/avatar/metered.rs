//! Driver (the clock). A provider whose sessions are counted: admitted by the allowance, in the journal while they are
//! open, ended when the day's budget is used up, in the ledger when they are over.

#![expect(clippy::disallowed_methods, reason = "budgets count the clock's minutes")]

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use super::journal::{Entry, Journal};
use super::ledger::{Ledger, LedgerFigures};
use super::{AvatarEvent, Cause, Farewell, Limits, Lost, Provider, Session, Terms, Turn};
use crate::base::queue::{Fifo, Sender};

/// An end that comes is told so long before.
const WARNING: Duration = Duration::from_secs(15);
/// How often the budget is looked at while it is not near its end: other calls use it too.
const LOOK: Duration = Duration::from_secs(20);

/// One `[avatar.NAME]` with its book; cloning shares it.
#[derive(Clone)]
pub struct Metered {
    name: Arc<str>,
    provider: Arc<dyn Provider>,
    ledger: Arc<Mutex<Ledger>>,
    journal: Arc<Journal>,
    debts: Sender<Entry, Fifo>,
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metered({:?})", self.provider)
    }
}

impl Metered {
    /// `debts`: where sessions go whose end nobody saw.
    pub fn new(
        name: &str,
        provider: Arc<dyn Provider>,
        ledger: Ledger,
        journal: Arc<Journal>,
        debts: Sender<Entry, Fifo>,
    ) -> Self {
        Metered { name: name.into(), provider, ledger: Arc::new(Mutex::new(ledger)), journal, debts }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Dollars for a minute.
    pub fn price(&self) -> f64 {
        self.with(|ledger, _| ledger.price())
    }

    pub fn figures(&self) -> LedgerFigures {
        self.with(|ledger, now| ledger.figures(now))
    }

    /// Ends a session an earlier run left behind; `true`: it is over.
    pub async fn reap_left(&self, session: &str) -> bool {
        let over = self.provider.reap(session).await;
        if over {
            self.journal.closed(&self.name, session);
            self.with(|ledger, _| ledger.reaped());
        }
        over
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ledger, f64) -> T) -> T {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

impl Provider for Metered {
    fn open(&self, terms: Terms) -> Box<dyn Session> {
        match self.with(Ledger::admit) {
            Ok(number) => Box::new(Counted {
                book: self.clone(),
                number,
                session: String::new(),
                inner: self.provider.open(terms),
                watch: Box::pin(tokio::time::sleep(LOOK)),
                warned: false,
                over: false,
            }),
            Err(refused) => Box::new(NotBegun { why: Some(refused.to_string()), limits: Limits::default() }),
        }
    }

    fn reap<'a>(&'a self, session: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.reap_left(session))
    }
}

/// A session in the book.
struct Counted {
    book: Metered,
    number: u64,
    /// Its id, once the provider counts.
    session: String,
    inner: Box<dyn Session>,
    watch: Pin<Box<Sleep>>,
    warned: bool,
    over: bool,
}

impl Counted {
    /// Whatever becomes of this run, the next one ends it by this handle.
    fn journal(&mut self, session: &str) {
        self.book.journal.opened(&self.book.name, session);
        let before = std::mem::replace(&mut self.session, session.to_owned());
        if !before.is_empty() && before != session {
            self.book.journal.closed(&self.book.name, &before);
        }
    }

    fn opened(&mut self, session: &str) {
        self.journal(session);
        self.book.with(|ledger, now| ledger.begin(now, self.number));
        self.watch.as_mut().reset(Instant::now());
    }

    /// It counts no more.
    fn stop_counting(&mut self, lost: bool) {
        self.over = true;
        self.book.with(|ledger, now| ledger.end(now, self.number, lost));
    }

    /// The provider is known not to have it any more.
    fn ended(&mut self) {
        let session = std::mem::take(&mut self.session);
        if !session.is_empty() {
            self.book.journal.closed(&self.book.name, &session);
        }
    }

    /// The budget is looked at; an event, if it has something to say.
    fn look(&mut self) -> Option<AvatarEvent> {
        let lasts = self.book.with(Ledger::lasts);
        let next =
            lasts.map_or(LOOK, |lasts| lasts.saturating_sub(WARNING).clamp(Duration::from_millis(200), LOOK));
        self.watch.as_mut().reset(Instant::now() + next);
        let lasts = lasts.filter(|_| !self.session.is_empty() && !self.over)?;
        if lasts.is_zero() {
            self.inner.close(Farewell::Limit);
            return None;
        }
        (lasts <= WARNING && !std::mem::replace(&mut self.warned, true))
            .then_some(AvatarEvent::NearLimit { left: lasts })
    }
}

impl Session for Counted {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<AvatarEvent> {
        while self.watch.as_mut().poll(context).is_ready() {
            if let Some(event) = self.look() {
                return Poll::Ready(event);
            }
        }
        let event = std::task::ready!(self.inner.poll_next(context));
        match &event {
            AvatarEvent::Asked { session } => self.journal(session),
            AvatarEvent::Opened { session } => self.opened(session),
            AvatarEvent::Lost(_) => self.stop_counting(true),
            AvatarEvent::Closed { ended } => {
                self.stop_counting(false);
                if *ended {
                    self.ended();
                }
            }
            AvatarEvent::Ready
            | AvatarEvent::Speaking { .. }
            | AvatarEvent::Ended { .. }
            | AvatarEvent::Hushed
            | AvatarEvent::Transcript { .. }
            | AvatarEvent::CallerSpeaks(_)
            | AvatarEvent::Sound { .. }
            | AvatarEvent::Picture { .. }
            | AvatarEvent::Warning(_)
            | AvatarEvent::NearLimit { .. } => {}
        }
        Poll::Ready(event)
    }

    fn speak(&mut self, turn: Turn, samples: &[i16]) {
        self.inner.speak(turn, samples);
    }

    fn end(&mut self, turn: Turn) {
        self.inner.end(turn);
    }

    fn interrupt(&mut self, turn: Turn) {
        self.inner.interrupt(turn);
    }

    fn listening(&mut self, listening: bool) {
        self.inner.listening(listening);
    }

    fn microphone(&mut self, samples: &[i16], rate: u32) {
        self.inner.microphone(samples, rate);
    }

    fn say(&mut self, text: &str) -> bool {
        self.inner.say(text)
    }

    fn text(&mut self, text: &str) -> bool {
        self.inner.text(text)
    }

    fn want_key_picture(&mut self) {
        self.inner.want_key_picture();
    }

    fn close(&mut self, farewell: Farewell) {
        self.inner.close(farewell);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.stop_counting(false);
        if !self.session.is_empty() {
            // Nobody saw it end. Lost if too many wait: the next start finds it in the journal.
            let session = std::mem::take(&mut self.session);
            self.book.debts.offer((self.book.name.to_string(), session));
        }
    }
}

/// A session the allowance does not allow.
struct NotBegun {
    why: Option<String>,
    limits: Limits,
}

impl Session for NotBegun {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn poll_next(&mut self, _context: &mut Context<'_>) -> Poll<AvatarEvent> {
        match self.why.take() {
            Some(why) => Poll::Ready(AvatarEvent::Lost(Lost { why, cause: Cause::Busy })),
            None => Poll::Pending,
        }
    }

    fn speak(&mut self, _turn: Turn, _samples: &[i16]) {}

    fn end(&mut self, _turn: Turn) {}

    fn interrupt(&mut self, _turn: Turn) {}

    fn close(&mut self, _farewell: Farewell) {}
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use super::super::ledger::Allowance;
    use super::*;
    use crate::base::queue::{self, Receiver, Taken};

    type Script = Vec<fn() -> AvatarEvent>;

    /// Sessions that tell what they are given to tell; a farewell is answered with the end.
    #[derive(Debug, Default)]
    struct Scripted(Mutex<VecDeque<Script>>);

    struct Play {
        events: VecDeque<fn() -> AvatarEvent>,
        limits: Limits,
    }

    impl Provider for Scripted {
        fn open(&self, _terms: Terms) -> Box<dyn Session> {
            let events = self.0.lock().expect("a script").pop_front().unwrap_or_default();
            Box::new(Play { events: events.into(), limits: Limits::default() })
        }

        fn reap<'a>(&'a self, session: &'a str) -> BoxFuture<'a, bool> {
            Box::pin(async move { session != "stubborn" })
        }
    }

    impl Session for Play {
        fn limits(&self) -> &Limits {
            &self.limits
        }

        fn poll_next(&mut self, _context: &mut Context<'_>) -> Poll<AvatarEvent> {
            self.events.pop_front().map_or(Poll::Pending, |event| Poll::Ready(event()))
        }

        fn speak(&mut self, _turn: Turn, _samples: &[i16]) {}

        fn end(&mut self, _turn: Turn) {}

        fn interrupt(&mut self, _turn: Turn) {}

        fn close(&mut self, _farewell: Farewell) {
            self.events.push_back(|| AvatarEvent::Closed { ended: true });
        }
    }

    fn opened() -> AvatarEvent {
        AvatarEvent::Opened { session: "s-1".into() }
    }

    fn lost() -> AvatarEvent {
        AvatarEvent::Lost(Lost { why: "gone".into(), cause: Cause::Connection })
    }

    struct Desk {
        metered: Metered,
        debts: Receiver<Entry, Fifo>,
        folder: tempfile::TempDir,
    }

    fn desk(scripts: Vec<Script>, sessions: u32) -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        let (journal, _) = Journal::open(&folder.path().join("j"));
        let (debts, owed) = queue::queue(Fifo { depth: 4 });
        let provider = Arc::new(Scripted(Mutex::new(scripts.into())));
        let ledger = Ledger::new(Allowance { sessions, ..Allowance::default() });
        let metered = Metered::new("face", provider, ledger, Arc::new(journal), debts);
        Desk { metered, debts: owed, folder }
    }

    impl Desk {
        fn journal(&self) -> Vec<Entry> {
            Journal::open(&self.folder.path().join("j")).1
        }
    }

    fn terms() -> Terms {
        let most = crate::media::frame::Size::new(640, 360);
        Terms { call: "c".into(), codecs: Vec::new(), most, language: String::new(), again: false }
    }

    async fn next(session: &mut Box<dyn Session>) -> AvatarEvent {
        poll_fn(|context| session.poll_next(context)).await
    }

    #[tokio::test]
    async fn a_session_is_in_the_journal_from_its_beginning_to_its_end() {
        let desk = desk(vec![vec![opened, || AvatarEvent::Ready]], 0);
        let mut session = desk.metered.open(terms());
        assert!(matches!(next(&mut session).await, AvatarEvent::Opened { .. }));
        assert!(matches!(next(&mut session).await, AvatarEvent::Ready));
        let text = std::fs::read_to_string(desk.folder.path().join("j")).expect("a journal");
        assert_eq!(text, "+\tface\ts-1\n");
        session.close(Farewell::CallOver);
        assert!(matches!(next(&mut session).await, AvatarEvent::Closed { ended: true }));
        drop(session);
        assert_eq!((desk.metered.figures().opened, desk.metered.figures().open), (1, 0));
        assert_eq!(desk.debts.try_take(), Taken::Empty, "nothing is owed");
        assert!(desk.journal().is_empty());
    }

    #[tokio::test]
    async fn what_was_lost_or_dropped_is_owed_until_it_is_ended() {
        let desk = desk(vec![vec![opened, lost], vec![opened]], 0);
        for _ in 0..2 {
            let mut session = desk.metered.open(terms());
            while let AvatarEvent::Opened { .. } = next(&mut session).await {
                if desk.metered.figures().opened == 2 {
                    break;
                }
            }
            drop(session);
            assert_eq!(desk.debts.try_take(), Taken::Item(("face".into(), "s-1".into())));
        }
        assert_eq!(desk.metered.figures().lost, 1);
        assert!(!desk.metered.reap_left("stubborn").await);
        assert!(desk.metered.reap_left("s-1").await);
        assert_eq!(desk.metered.figures().reaped, 1);
        assert!(desk.journal().is_empty());
    }

    #[tokio::test]
    async fn a_session_that_was_asked_for_is_known_and_an_end_nobody_confirmed_is_owed() {
        let asked = || AvatarEvent::Asked { session: "room/".into() };
        let unconfirmed = || AvatarEvent::Closed { ended: false };
        let desk = desk(vec![vec![asked, unconfirmed], vec![asked, opened, unconfirmed]], 0);
        for handle in ["room/", "s-1"] {
            let mut session = desk.metered.open(terms());
            while !matches!(next(&mut session).await, AvatarEvent::Closed { .. }) {}
            let text = std::fs::read_to_string(desk.folder.path().join("j")).expect("a journal");
            let last = text.lines().rfind(|line| line.starts_with('+')).unwrap_or_default();
            assert_eq!(last, format!("+\tface\t{handle}"), "{text}");
            drop(session);
            assert_eq!(desk.debts.try_take(), Taken::Item(("face".into(), handle.into())));
            desk.metered.journal.closed("face", handle);
        }
        assert_eq!(desk.metered.figures().opened, 1, "what was only asked for did not count");
    }

    #[tokio::test]
    async fn one_session_too_many_is_refused_in_words_and_counted() {
        let desk = desk(vec![vec![opened]], 1);
        let _first = desk.metered.open(terms());
        let mut second = desk.metered.open(terms());
        let AvatarEvent::Lost(lost) = next(&mut second).await else { panic!("it is refused") };
        assert!(lost.why.contains("max_sessions") && lost.cause == Cause::Busy, "{lost:?}");
        assert_eq!(desk.metered.figures().refused, 1);
    }
}
