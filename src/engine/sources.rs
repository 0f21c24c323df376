//! Driver. The configured sources of pictures besides callers: each on a thread of its own, open only while somebody
//! wants its pictures, looked at only through a gate.
//!
//! ```text
//! look ─▶ wish ─▶ thread: open, newest picture ─▶ gate (fails closed) ─▶ still ─▶ answer
//! ```
//! A source that is lost is tried again with a growing pause; whoever looks meanwhile is told why there is no picture.

#![expect(clippy::disallowed_methods, reason = "pictures are stamped, pauses are counted")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::base::stop::{Outcome, Scope, StopToken};
use crate::codec::still::encode::{StillSettings, Stills};
use crate::engine::Catalogue;
use crate::engine::graph::gate;
use crate::engine::plan::Gating;
use crate::media::codec::CodecError;
use crate::media::filter::Gate;
use crate::media::frame::{RawFrame, Size};
use crate::media::pool::FramePool;
use crate::source::feed::{Feed, Place};
use crate::talk::message::{Detail, Image};

/// Open for so long after the last look.
const LINGER: Duration = Duration::from_secs(10);
/// How long somebody who looks waits.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between two tries.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Looks that wait at one source.
const WISHES: usize = 16;
/// How often a thread without wishes looks whether it is to end.
const TICK: Duration = Duration::from_millis(200);
/// Pictures of a source: the newest, one being decoded, one in the gate.
const PICTURES: usize = 4;
/// Ids of their images, apart from those of any call's own sight.
const FIRST_ID: u64 = 1 << 40;

/// One source.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    pub name: String,
    /// What it shows, for a model and for people.
    pub description: String,
    pub place: Place,
    /// `None`: everybody may see everything in it.
    pub gate: Option<Gating>,
    pub still: StillSettings,
    pub detail: Detail,
    /// Larger pictures are refused.
    pub max: Size,
}

/// How a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody wants it.
    Idle,
    Connected,
    /// Why there are no pictures.
    Lost(String),
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Connected => "connected",
            State::Lost(_) => "lost",
        }
    }
}

/// A source as it is listed.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: String,
    pub description: String,
    pub state: State,
    /// Pictures handed out, and those the gate withheld.
    pub shown: u64,
    pub withheld: u64,
}

type Answer = Result<Arc<Image>, String>;

struct Wishes {
    open: Vec<oneshot::Sender<Answer>>,
    state: State,
    shown: u64,
    withheld: u64,
}

struct Entry {
    settings: SourceSettings,
    wishes: Mutex<Wishes>,
    wanted: Condvar,
}

impl Entry {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, answer: &Answer) {
        for wish in std::mem::take(&mut self.wishes().open) {
            // Whoever asked may have gone meanwhile.
            let _ = wish.send(answer.clone());
        }
    }

    fn set(&self, state: State) {
        let before = std::mem::replace(&mut self.wishes().state, state.clone());
        let name = &self.settings.name;
        match &state {
            State::Connected if before != state => tracing::info!(source = %name, "source.connected"),
            State::Lost(why) if before != state => tracing::warn!(source = %name, %why, "source.lost"),
            State::Idle | State::Connected | State::Lost(_) => {}
        }
    }
}

/// All sources of this box; cloning shares them.
#[derive(Clone, Default)]
pub struct Sources {
    all: Arc<Vec<Arc<Entry>>>,
}

impl Sources {
    /// A thread for each, in `scope`; all of them wait until somebody looks.
    pub fn start(&self, catalogue: &Arc<dyn Catalogue>, scope: &mut Scope) {
        for entry in self.all.iter() {
            let watching = Watching {
                entry: entry.clone(),
                catalogue: catalogue.clone(),
                stop: scope.token(),
                tries: 0,
            };
            scope.thread("source", move || watching.run());
        }
    }

    /// Nobody answers before they are started.
    pub fn new(settings: Vec<SourceSettings>) -> Self {
        let entry = |settings| {
            let wishes = Wishes { open: Vec::new(), state: State::Idle, shown: 0, withheld: 0 };
            Arc::new(Entry { settings, wishes: Mutex::new(wishes), wanted: Condvar::new() })
        };
        Sources { all: Arc::new(settings.into_iter().map(entry).collect()) }
    }

    pub fn list(&self) -> Vec<Listed> {
        let listed = |entry: &Arc<Entry>| {
            let SourceSettings { name, description, .. } = entry.settings.clone();
            let wishes = entry.wishes();
            let (state, shown, withheld) = (wishes.state.clone(), wishes.shown, wishes.withheld);
            Listed { name, description, state, shown, withheld }
        };
        self.all.iter().map(listed).collect()
    }

    /// What a source shows now, cleared by its gate; `None`: there is no such source.
    pub fn look(&self, name: &str) -> Option<impl Future<Output = Answer> + Send + 'static> {
        let entry = self.all.iter().find(|entry| entry.settings.name == name)?;
        let (wish, answer) = oneshot::channel();
        {
            let mut wishes = entry.wishes();
            if wishes.open.len() < WISHES {
                wishes.open.push(wish);
            }
        }
        entry.wanted.notify_all();
        Some(async move {
            match tokio::time::timeout(PATIENCE, answer).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err("too many look at it".to_owned()),
                Err(_) => Err("no picture came in time".to_owned()),
            }
        })
    }
}

/// What a source's thread owns.
struct Watching {
    entry: Arc<Entry>,
    catalogue: Arc<dyn Catalogue>,
    stop: StopToken,
    /// In a row without a picture.
    tries: u32,
}

impl Watching {
    fn run(mut self) -> Outcome {
        let mut stills = match Stills::new(self.entry.settings.still) {
            Ok(stills) => stills,
            Err(error) => return Outcome::Failed(format!("no encoder of stills: {error}")),
        };
        while self.wait_for_wishes() {
            let why = match self.show(&mut stills) {
                Ok(()) => {
                    self.entry.set(State::Idle);
                    continue;
                }
                Err(why) => why,
            };
            self.entry.set(State::Lost(why.clone()));
            let pause = (RETRY.0 * 2_u32.saturating_pow(self.tries)).min(RETRY.1);
            self.tries = (self.tries + 1).min(16);
            let again = Instant::now() + pause;
            // Whoever looks until then is told at once.
            while Instant::now() < again && !self.stop.is_stopped() {
                self.entry.answer(&Err(why.clone()));
                self.stop.wait(TICK.min(again.saturating_duration_since(Instant::now())));
            }
        }
        self.entry.answer(&Err("this box is stopping".to_owned()));
        Outcome::Done
    }

    /// `false`: told to stop.
    fn wait_for_wishes(&self) -> bool {
        loop {
            if self.stop.is_stopped() {
                return false;
            }
            let wishes = self.entry.wishes();
            let (wishes, _) = self
                .entry
                .wanted
                .wait_timeout_while(wishes, TICK, |wishes| wishes.open.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            if !wishes.open.is_empty() {
                return true;
            }
        }
    }

    /// Open until nobody has looked for a while.
    fn show(&mut self, stills: &mut Stills) -> Result<(), String> {
        let settings = self.entry.settings.clone();
        let mut feed = Feed::open(&settings.place, settings.max, &self.stop)?;
        let pool = FramePool::new(PICTURES);
        let mut until = Instant::now() + LINGER;
        while Instant::now() < until && !self.stop.is_stopped() {
            // Pictures nobody wants are still taken: the next look gets the newest.
            let Some(raw) = feed.next(&pool)? else { continue };
            self.tries = 0;
            self.entry.set(State::Connected);
            if self.entry.wishes().open.is_empty() {
                continue;
            }
            until = Instant::now() + LINGER;
            let answer = self.clear(raw, &pool, stills);
            {
                let mut wishes = self.entry.wishes();
                if answer.is_ok() { wishes.shown += 1 } else { wishes.withheld += 1 }
            }
            self.entry.answer(&answer);
        }
        Ok(())
    }

    /// A gate for this one picture: what it cannot clear nobody sees.
    fn clear(&self, raw: RawFrame, pool: &FramePool, stills: &mut Stills) -> Answer {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST_ID);
        let settings = &self.entry.settings;
        let taken = Instant::now();
        let mut gate = match &settings.gate {
            None => Gate::open(),
            Some(gating) => gate::build(&*self.catalogue, gating, None)?,
        };
        let clean = gate.release(taken, raw, pool).filter(|_| gate.counters().passed == 1);
        let clean = clean.ok_or("its picture could not be checked and is withheld")?;
        let still = stills.encode(&clean).map_err(|error: CodecError| error.to_string())?;
        let note = format!("a picture of {}", settings.name);
        let mut image = Image::of(&still, NEXT.fetch_add(1, Ordering::Relaxed), note);
        (image.detail, image.taken) = (settings.detail, Some(taken));
        Ok(Arc::new(image))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::codec::Detector;
    use crate::vision::censor::CensorSettings;
    use crate::vision::observer::ObserverSettings;
    use crate::vision::schedule::Schedule;

    struct Nothing;

    impl Catalogue for Nothing {
        fn gate(&self, name: &str) -> Result<(Box<dyn Detector>, Schedule), String> {
            Err(format!("there is no {name}"))
        }

        fn observer(&self, name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String> {
            Err(format!("there is no {name}"))
        }
    }

    fn source(name: &str, place: Place, gate: Option<Gating>) -> SourceSettings {
        SourceSettings {
            name: name.to_owned(),
            description: String::new(),
            place,
            gate,
            still: StillSettings::default(),
            detail: Detail::Auto,
            max: Size::new(1920, 1080),
        }
    }

    #[tokio::test]
    async fn a_source_is_opened_for_who_looks_and_shows_nothing_unchecked() {
        let blind = Gating { censor: CensorSettings::default(), detectors: Vec::new() };
        let missing = Place::File("/nowhere/at/all.mp4".into());
        let settings = vec![
            source("card", Place::Test, None),
            source("hidden", Place::Test, Some(blind)),
            source("missing", missing, None),
        ];
        let mut scope = Scope::new("test", tokio::runtime::Handle::current());
        let catalogue: Arc<dyn Catalogue> = Arc::new(Nothing);
        let sources = Sources::new(settings);
        sources.start(&catalogue, &mut scope);
        let states = || -> Vec<&'static str> { sources.list().iter().map(|own| own.state.word()).collect() };
        assert_eq!(states(), ["idle"; 3]);
        assert!(sources.look("other").is_none());
        let first = sources.look("card").expect("a source").await.expect("a picture");
        let second = sources.look("card").expect("a source").await.expect("a picture");
        assert!(
            first.bytes.starts_with(&[0xff, 0xd8]) && first.id != second.id && first.bytes != second.bytes
        );
        // Nobody can say what is in it.
        assert!(sources.look("hidden").expect("a source").await.is_err());
        assert!(sources.look("missing").expect("a source").await.is_err());
        let again = Instant::now();
        assert!(sources.look("missing").expect("a source").await.is_err());
        assert!(again.elapsed() < Duration::from_secs(2), "it is not waited for while it is given a rest");
        assert_eq!(states(), ["connected", "connected", "lost"]);
        scope.close(Duration::from_secs(2)).await;
    }
}
