//! Driver. The sight of one call: a thread that makes stills of the cleared pictures worth it.
//!
//! Which those are is decided in `talk::sight::watch`. Pictures come over `Latest` queues, wishes and speech by the
//! handle; stills go out over a `Fifo`. Nothing here can see a picture the gate has not cleared: the queues carry
//! [`CleanFrame`], and an encoder of stills takes nothing else.

#![expect(clippy::disallowed_methods, reason = "pictures are stamped when they come")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::queue::{Fifo, Latest, Offered, Receiver, Sender, Taken, queue};
use crate::base::stop::{Outcome, Scope, StopToken};
use crate::base::time::Clock;
use crate::codec::still::encode::{StillSettings, Stills};
use crate::media::frame::CleanFrame;
use crate::talk::message::{Detail, Image};
use crate::talk::sight::scene::Look;
use crate::talk::sight::watch::{Chosen, WANTS_MAX, Watch, WatchCounters, WatchSettings};
use crate::talk::sight::{Reason, Sighted, Track};

/// Pictures of a call's pool that its sight holds at most: those of the watch, the one being coded, one in each queue.
pub const HELD: usize = crate::talk::sight::watch::HELD + 3;

/// Stills nobody has taken yet; a wish is answered within milliseconds, so more are samples of a reader that sleeps.
const STILLS_WAITING: usize = 8;

/// How often a thread without pictures looks whether it is to end, and at the other track.
const TICK: Duration = Duration::from_millis(100);

/// What a call's sight is.
#[derive(Clone, Debug)]
pub struct SightSettings {
    pub watch: WatchSettings,
    pub still: StillSettings,
    pub detail: Detail,
    /// For the notes that stand in the place of forgotten pictures.
    pub clock: Clock,
    /// Ids of images begin here; they must be unique within the call.
    pub first_id: u64,
}

/// Live figures of one call's sight.
#[derive(Debug, Default)]
struct Live {
    sent: AtomicU64,
    bytes: AtomicU64,
    encode_us: AtomicU64,
    encode_us_max: AtomicU64,
    failed: AtomicU64,
    seen: AtomicU64,
    sampled: AtomicU64,
    same: AtomicU64,
    blind: AtomicU64,
    ages_ms: Mutex<VecDeque<u32>>,
}

/// Ages that are kept for the figures.
const AGES: usize = 512;

/// Figures of one call's sight so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SightFigures {
    /// Pictures that came, and times one was due or wanted.
    pub seen: u64,
    pub sampled: u64,
    /// Stills made, their bytes, and the mean and longest time it took.
    pub sent: u64,
    pub bytes: u64,
    pub encode_us: u64,
    pub encode_us_max: u64,
    /// Times nothing had changed since a still there was already.
    pub same: u64,
    /// Wishes without a picture.
    pub blind: u64,
    /// Stills nobody took in time, and pictures that could not be coded.
    pub dropped: u64,
    pub failed: u64,
    /// How old pictures were when their still was handed over, in milliseconds, of the last 512.
    pub age_ms_p50: u32,
    pub age_ms_p95: u32,
}

/// What the handle tells the thread.
#[derive(Debug, Default)]
struct Orders {
    wants: Vec<(Instant, Reason)>,
    speaking: bool,
    dark: bool,
    closed: bool,
    forget: bool,
}

struct Shared {
    orders: Mutex<Orders>,
    gone: AtomicBool,
    live: Live,
}

impl Shared {
    fn orders<R>(&self, change: impl FnOnce(&mut Orders) -> R) -> R {
        change(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where cleared pictures go in.
pub struct SightInputs {
    pub camera: Sender<CleanFrame, Latest>,
    pub screen: Sender<CleanFrame, Latest>,
}

/// The agent's end. Dropping it ends the thread.
pub struct SightHandle {
    shared: Arc<Shared>,
    /// To wake the thread.
    camera: Sender<CleanFrame, Latest>,
    screen: Sender<CleanFrame, Latest>,
    stills: Receiver<Sighted, Fifo>,
}

/// Sight of one call.
pub struct Sight;

impl Sight {
    /// Starts the thread `sight` in `scope`. It ends when the handle is dropped or the scope's token is stopped.
    pub fn start(settings: SightSettings, scope: &mut Scope) -> (SightInputs, SightHandle) {
        let (camera, camera_pictures) = queue(Latest);
        let (screen, screen_pictures) = queue(Latest);
        let (out, stills) = queue(Fifo { depth: STILLS_WAITING });
        let shared = Arc::new(Shared {
            orders: Mutex::default(),
            gone: AtomicBool::new(false),
            live: Live::default(),
        });
        let seeing = Seeing {
            watch: Watch::new(settings.watch),
            next_id: settings.first_id,
            settings,
            shared: shared.clone(),
            pictures: [camera_pictures, screen_pictures],
            track: Track::Camera,
            out,
            kept: VecDeque::new(),
            stopped: scope.token(),
        };
        scope.thread("sight", move || seeing.run());
        let inputs = SightInputs { camera: camera.clone(), screen: screen.clone() };
        (inputs, SightHandle { shared, camera, screen, stills })
    }
}

impl SightHandle {
    /// The caller began or ceased to speak.
    pub fn speaking(&self, speaking: bool) {
        self.shared.orders(|orders| orders.speaking = speaking);
        self.wake();
    }

    /// A picture is wanted now; exactly one answer will name `reason`. At most 16 can wait.
    pub fn want(&self, reason: Reason) {
        let now = Instant::now();
        self.shared.orders(|orders| {
            if orders.wants.len() < WANTS_MAX {
                orders.wants.push((now, reason));
            }
        });
        self.wake();
    }

    /// The video ended or is on hold: what it showed is no answer any more.
    pub fn dark(&self) {
        self.shared.orders(|orders| orders.dark = true);
        self.wake();
    }

    /// Samples may be taken (a budget, a mode); wishes are answered in any case.
    pub fn open(&self, open: bool) {
        self.shared.orders(|orders| orders.closed = !open);
    }

    /// The model knows none of the pictures any more: a new session.
    pub fn forget(&self) {
        self.shared.orders(|orders| orders.forget = true);
    }

    /// The next answer. `None`: the thread has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Sighted> {
        self.stills.recv().await
    }

    pub fn figures(&self) -> SightFigures {
        let live = &self.shared.live;
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let mut ages: Vec<u32> =
            live.ages_ms.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        ages.sort_unstable();
        let part = |percent: usize| ages.get((ages.len() * percent / 100).min(ages.len().saturating_sub(1)));
        let sent = read(&live.sent);
        SightFigures {
            seen: read(&live.seen),
            sampled: read(&live.sampled),
            sent,
            bytes: read(&live.bytes),
            encode_us: read(&live.encode_us) / sent.max(1),
            encode_us_max: read(&live.encode_us_max),
            same: read(&live.same),
            blind: read(&live.blind),
            dropped: self.stills.counters().lost,
            failed: read(&live.failed),
            age_ms_p50: part(50).copied().unwrap_or(0),
            age_ms_p95: part(95).copied().unwrap_or(0),
        }
    }

    fn wake(&self) {
        self.camera.nudge();
        self.screen.nudge();
    }
}

impl Drop for SightHandle {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
        self.wake();
    }
}

/// What the thread owns.
struct Seeing {
    settings: SightSettings,
    watch: Watch,
    shared: Arc<Shared>,
    /// Camera and screen.
    pictures: [Receiver<CleanFrame, Latest>; 2],
    /// The one that is waited on: it showed last.
    track: Track,
    out: Sender<Sighted, Fifo>,
    /// The last images, newest last, to be handed out again while nothing changes.
    kept: VecDeque<Arc<Image>>,
    next_id: u64,
    stopped: StopToken,
}

impl Seeing {
    fn run(mut self) -> Outcome {
        let mut stills = match Stills::new(self.settings.still) {
            Ok(stills) => stills,
            Err(error) => return Outcome::Failed(format!("no encoder of stills: {error}")),
        };
        while !self.shared.gone.load(Ordering::Acquire) && !self.stopped.is_stopped() {
            let now = Instant::now();
            let wait = self.watch.wake_at().map_or(TICK, |at| at.saturating_duration_since(now).min(TICK));
            self.take_pictures(wait);
            self.take_orders();
            while let Some(chosen) = self.watch.poll(Instant::now()) {
                // Whoever has the answer finds it counted.
                self.tell(self.watch.counters());
                self.answer(chosen, &mut stills);
            }
            self.tell(self.watch.counters());
        }
        Outcome::Done
    }

    /// Waits for a picture of the track that shows; takes what the other has.
    fn take_pictures(&mut self, wait: Duration) {
        let other = match self.track {
            Track::Camera => Track::Screen,
            Track::Screen => Track::Camera,
        };
        for (track, patience) in [(self.track, wait), (other, Duration::ZERO)] {
            match self.pictures[track as usize].take_within(patience) {
                Taken::Item(picture) => {
                    self.watch.handle_picture(Instant::now(), track, picture);
                    self.track = track;
                }
                Taken::Empty | Taken::Closed => {}
            }
        }
    }

    fn take_orders(&mut self) {
        let Orders { wants, speaking, dark, closed, forget } = self.shared.orders(|orders| {
            let (speaking, closed) = (orders.speaking, orders.closed);
            std::mem::replace(orders, Orders { speaking, closed, ..Orders::default() })
        });
        if dark {
            self.watch.handle_dark();
        }
        if forget {
            self.watch.forget();
            self.kept.clear();
        }
        self.watch.set_open(!closed);
        self.watch.handle_speaking(speaking);
        for (at, reason) in wants {
            self.watch.want(at, reason);
        }
    }

    fn answer(&mut self, chosen: Chosen, stills: &mut Stills) {
        match chosen {
            Chosen::Take { picture, track, taken, look, reasons } => {
                match self.still(&picture, track, taken, *look, stills) {
                    Some(image) => self.hand_out(&image, &reasons, false),
                    None => self.blind(&reasons),
                }
            }
            Chosen::Same { id, taken, reasons } => {
                let known = self.kept.iter().find(|image| image.id == id).cloned();
                match known {
                    Some(image) => {
                        let mut again = Image::clone(&image);
                        again.taken = Some(taken);
                        self.hand_out(&Arc::new(again), &reasons, true);
                    }
                    None => self.blind(&reasons),
                }
            }
            Chosen::Blind { reasons } => self.blind(&reasons),
        }
    }

    fn still(
        &mut self,
        picture: &CleanFrame,
        track: Track,
        taken: Instant,
        look: Look,
        stills: &mut Stills,
    ) -> Option<Arc<Image>> {
        let live = &self.shared.live;
        let began = Instant::now();
        let still = match stills.encode(picture) {
            Ok(still) => still,
            Err(error) => {
                tracing::warn!("no still of a picture of {}: {error}", picture.size());
                live.failed.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        live.encode_us.fetch_add(took, Ordering::Relaxed);
        live.encode_us_max.fetch_max(took, Ordering::Relaxed);
        live.sent.fetch_add(1, Ordering::Relaxed);
        live.bytes.fetch_add(still.bytes().len() as u64, Ordering::Relaxed);
        let mut image = Image::of(&still, self.next_id, note(track, self.settings.clock, taken));
        (image.detail, image.taken) = (self.settings.detail, Some(taken));
        self.watch.made(image.id, look);
        self.next_id += 1;
        let image = Arc::new(image);
        while self.kept.len() >= self.settings.watch.remembered.max(1) {
            self.kept.pop_front();
        }
        self.kept.push_back(image.clone());
        Some(image)
    }

    fn hand_out(&self, image: &Arc<Image>, reasons: &[Reason], again: bool) {
        if let Some(taken) = image.taken {
            let mut ages = self.shared.live.ages_ms.lock().unwrap_or_else(PoisonError::into_inner);
            if ages.len() >= AGES {
                ages.pop_front();
            }
            ages.push_back(u32::try_from(taken.elapsed().as_millis()).unwrap_or(u32::MAX));
        }
        for reason in reasons {
            self.give(Sighted::Seen { image: image.clone(), reason: *reason, again });
        }
    }

    fn blind(&self, reasons: &[Reason]) {
        for reason in reasons {
            self.give(Sighted::Blind { reason: *reason });
        }
    }

    fn give(&self, sighted: Sighted) {
        match self.out.offer(sighted) {
            Offered::Queued | Offered::Replaced(_) | Offered::Refused | Offered::Closed => {}
        }
    }

    fn tell(&self, counters: WatchCounters) {
        let live = &self.shared.live;
        let WatchCounters { seen, sampled, same, blind } = counters;
        for (figure, value) in
            [(&live.seen, seen), (&live.sampled, sampled), (&live.same, same), (&live.blind, blind)]
        {
            figure.store(value, Ordering::Relaxed);
        }
    }
}

/// What stands in a conversation once the picture is forgotten: `a picture of the caller at 12:03:05`, in UTC.
fn note(track: Track, clock: Clock, taken: Instant) -> String {
    let time = time::OffsetDateTime::from(clock.wall(taken));
    let of = match track {
        Track::Camera => "the caller",
        Track::Screen => "the caller's screen",
    };
    format!("a picture of {of} at {:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::runtime::Handle;

    use super::*;
    use crate::base::time::Pts;
    use crate::codec::still::sniff::sniff;
    use crate::media::frame::{Plane, Size};
    use crate::media::pool::FramePool;
    use crate::talk::message::Origin;
    use crate::talk::sight::sampler::SamplerSettings;

    fn settings(sampler: SamplerSettings) -> SightSettings {
        SightSettings {
            watch: WatchSettings { sampler, ..WatchSettings::default() },
            still: StillSettings::default(),
            detail: Detail::Low,
            clock: Clock::new(Instant::now(), SystemTime::UNIX_EPOCH),
            first_id: 1,
        }
    }

    const ASKED_ONLY: SamplerSettings = SamplerSettings { speaking_fps: 0.0, silent_fps: 0.0, onset: true };

    fn picture(pool: &FramePool, size: Size, shade: u8) -> Option<CleanFrame> {
        let mut picture = pool.take_sized(size, Pts::ZERO)?;
        for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            *luma = shade.wrapping_add((at % size.width / 8) as u8 % 60);
        }
        picture.plane_mut(Plane::U).fill(110);
        picture.plane_mut(Plane::V).fill(140);
        Some(CleanFrame::drawn_here(picture))
    }

    async fn seen(handle: &mut SightHandle) -> Sighted {
        let next = tokio::time::timeout(Duration::from_secs(5), handle.next());
        next.await.expect("an answer in time").expect("the thread runs")
    }

    #[tokio::test]
    async fn a_turn_gets_a_small_jpeg_of_what_is_there_now() {
        let mut scope = Scope::new("call", Handle::current());
        let (inputs, mut handle) = Sight::start(settings(ASKED_ONLY), &mut scope);
        let pool = FramePool::new(HELD + 1);
        let size = Size::new(1280, 720);
        inputs.camera.offer(picture(&pool, size, 40).expect("room"));
        handle.want(Reason::Turn);
        let Sighted::Seen { image, reason: Reason::Turn, again: false } = seen(&mut handle).await else {
            panic!("not seen")
        };
        assert_eq!(
            (image.size, image.origin(), image.detail),
            (Size::new(1024, 576), Origin::Cleared, Detail::Low)
        );
        assert_eq!(sniff(&image.bytes).map(|claim| claim.size), Some(image.size));
        assert!(image.note.starts_with("a picture of the caller at 00:00:0"), "{}", image.note);
        // Nothing has changed: the same image, newly stamped.
        inputs.camera.offer(picture(&pool, size, 40).expect("room"));
        handle.want(Reason::Look);
        let Sighted::Seen { image: second, again: true, .. } = seen(&mut handle).await else {
            panic!("anew")
        };
        assert!(second.id == image.id && Arc::ptr_eq(&second.bytes, &image.bytes));
        assert!(second.taken > image.taken);
        let figures = handle.figures();
        assert_eq!((figures.sent, figures.same, figures.dropped), (1, 1, 0));
        assert!(figures.encode_us > 0 && figures.bytes == image.bytes.len() as u64);
        drop((handle, inputs));
        let outcomes = scope.close(Duration::from_secs(2)).await;
        assert_eq!(outcomes, [("sight".to_owned(), Outcome::Done)]);
        assert_eq!(pool.in_use(), 0);
    }

    /// Twenty-five pictures a second, wishes at all times: how old is what is handed over?
    #[tokio::test]
    async fn pictures_are_young_when_they_are_handed_over() {
        let mut scope = Scope::new("call", Handle::current());
        let (inputs, mut handle) = Sight::start(settings(ASKED_ONLY), &mut scope);
        let pool = FramePool::new(HELD + 1);
        for number in 0..60_u32 {
            if let Some(picture) = picture(&pool, Size::new(640, 360), (number * 4 % 180) as u8) {
                inputs.camera.offer(picture);
            }
            tokio::time::sleep(Duration::from_millis(u64::from(20 + number % 21))).await;
            if number % 2 == 1 {
                handle.want(Reason::Turn);
                assert!(matches!(seen(&mut handle).await, Sighted::Seen { .. }));
            }
        }
        let figures = handle.figures();
        assert!(figures.age_ms_p95 <= 150, "{figures:?}");
        assert_eq!(figures.dropped + figures.blind + figures.failed, 0, "{figures:?}");
    }

    #[tokio::test]
    async fn without_pictures_a_wish_is_answered_and_the_scope_can_close_with_the_handle_held() {
        let mut scope = Scope::new("call", Handle::current());
        let (_inputs, mut handle) = Sight::start(settings(SamplerSettings::default()), &mut scope);
        handle.want(Reason::Look);
        assert_eq!(seen(&mut handle).await, Sighted::Blind { reason: Reason::Look });
        let outcomes = scope.close(Duration::from_secs(2)).await;
        assert_eq!(outcomes, [("sight".to_owned(), Outcome::Done)]);
        assert_eq!(handle.next().await, None);
    }

    #[tokio::test]
    async fn a_screen_is_seen_while_the_camera_goes_on_and_speech_is_answered_by_its_onset() {
        let mut scope = Scope::new("call", Handle::current());
        let (inputs, mut handle) = Sight::start(settings(ASKED_ONLY), &mut scope);
        let pool = FramePool::new(HELD + 1);
        inputs.camera.offer(picture(&pool, Size::new(320, 240), 40).expect("room"));
        handle.speaking(true);
        let Sighted::Seen { image, reason: Reason::Onset, .. } = seen(&mut handle).await else {
            panic!("blind")
        };
        assert_eq!(image.size, Size::new(320, 240));
        inputs.screen.offer(picture(&pool, Size::new(640, 480), 90).expect("room"));
        tokio::time::sleep(Duration::from_millis(150)).await;
        inputs.camera.offer(picture(&pool, Size::new(320, 240), 40).expect("room"));
        handle.want(Reason::Turn);
        let Sighted::Seen { image, .. } = seen(&mut handle).await else { panic!("blind") };
        assert_eq!(image.size, Size::new(640, 480));
        assert!(image.note.contains("screen"));
    }
}
