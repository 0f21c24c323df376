//! Driver. The single pictures of one call: given to its agent, given by it, shown to the caller.
//!
//! ```text
//! bytes, URL ─▶ fetch ─▶ process that decodes ─▶ gate of the call ─▶ file ─▶ agent's context, album, disk
//! the caller's picture now │ stock │ context │ album ─▶ album (sent)   or ─▶ board of the outgoing picture
//! ```
//! What somebody gives is cleared by a gate of its own, made like the call's, unless the route trusts who gives. The
//! operator's own files need no gate. A picture that is not cleared is used nowhere, and whoever gave it is told.

#![expect(clippy::disallowed_methods, reason = "pictures are stamped, and shown for a time")]

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::queue::{Fifo, Latest, Receiver, Sender, Taken};
use crate::base::time::{Clock, Pts};
use crate::codec::still::ImageType;
use crate::codec::still::decode::{Limits, Unusable};
use crate::codec::still::encode::{StillSettings, Stills};
use crate::engine::album::{Album, Kept, Way};
use crate::engine::canvas::Board;
use crate::engine::darkroom::Darkroom;
use crate::engine::graph::gate;
use crate::engine::plan::{CallId, Event, Gating};
use crate::engine::start::Catalogue;
use crate::media::filter::Gate;
use crate::media::frame::{CleanFrame, RawFrame, Size};
use crate::media::pool::FramePool;
use crate::record::store::picture_path;
use crate::talk::conversation::Told;
use crate::talk::link::fetch::{FetchSettings, Fetcher, NotFetched};
use crate::talk::message::{Image, Message, Part, Role};
use crate::talk::sight::given::{Place, Trusted, trusted};
use crate::worker::stills::{Opener, OpenerSettings};

/// What is taken of whoever gives pictures.
pub const LIMITS: Limits = Limits { bytes: 8 << 20, pixels: 16_000_000, size: Size::new(1920, 1920) };
/// Pictures one call is given, and gives.
const GIVEN_MAX: u32 = 32;
const SENT_MAX: u32 = 64;
/// Given pictures on their way to the agent.
pub const GIVEN_WAITING: usize = 8;
/// The caller's picture is one of now when it is not older than this.
const NOW: Duration = Duration::from_secs(3);
/// Pictures begin to be sent so long after the answer, at the latest.
const SCREEN_LIMIT: Duration = Duration::from_secs(2);
const SCREEN_TICK: Duration = Duration::from_millis(50);
/// The longest a picture is shown when a time is given.
pub const SHOWN_MAX: Duration = Duration::from_secs(24 * 3600);
/// Ids of pictures in a conversation: those sight takes begin at 1, the operator's and those given elsewhere.
pub const STOCK_IDS: u64 = 1 << 48;
const GIVEN_IDS: u64 = 1 << 40;
const CONTEXT_IDS: u64 = 1 << 44;

/// A picture the operator declared, for agents to send and show.
#[derive(Clone, Debug)]
pub struct Stock {
    pub name: String,
    pub image: Arc<Image>,
}

/// What the pictures of all calls share.
#[derive(Clone)]
pub struct Studio {
    pub album: Album,
    pub opener: Opener,
    /// For URLs of applications the route does not trust, and of those it does.
    pub public: Fetcher,
    pub near: Fetcher,
    pub stock: Arc<[Stock]>,
}

impl Default for Studio {
    fn default() -> Self {
        let fetch = FetchSettings { bytes: LIMITS.bytes, ..FetchSettings::default() };
        Studio {
            album: Album::default(),
            opener: Opener::new(OpenerSettings { limits: LIMITS, ..OpenerSettings::default() }),
            public: Fetcher::new(fetch),
            near: Fetcher::new(FetchSettings { near: true, ..fetch }),
            stock: Arc::new([]),
        }
    }
}

/// A picture on its way into an agent's context. It starts no turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub image: Arc<Image>,
    pub text: String,
}

/// Which picture an agent or an application means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// What the caller's camera shows now.
    Snapshot,
    /// One of the operator's: `[picture.NAME]`, or `context-1` of the agent's own.
    Named(String),
    /// One of this call, by its number.
    Number(u32),
    /// One that comes with the question.
    Here(Place),
}

impl Which {
    /// `snapshot`, a name, or a number.
    pub fn parse(text: &str) -> Which {
        let text = text.trim();
        match (text, text.parse()) {
            ("snapshot", _) => Which::Snapshot,
            (_, Ok(number)) => Which::Number(number),
            (_, Err(_)) => Which::Named(text.to_owned()),
        }
    }

    fn name(&self) -> String {
        match self {
            Which::Snapshot => "snapshot".to_owned(),
            Which::Named(name) => name.clone(),
            Which::Number(number) => number.to_string(),
            Which::Here(_) => "given".to_owned(),
        }
    }
}

/// Why nothing came of a picture; says it to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    #[error("{0}")]
    Unusable(#[from] Unusable),
    #[error("{0}")]
    NotFetched(#[from] NotFetched),
    #[error("a picture is given as a data URL or by its URL, not as a file of this box")]
    File,
    #[error("the picture could not be cleared, so it is not used")]
    Withheld,
    #[error("the agent of this call cannot see")]
    Blind,
    #[error("this call has had its {0} pictures")]
    TooMany(u32),
    #[error("there is no picture of the caller now")]
    NoSnapshot,
    #[error("the caller gets no picture from us: the call is audio only, or on hold")]
    NoScreen,
    #[error("there is no picture {0:?}")]
    Unknown(String),
    #[error("too many pictures are being worked on: try again")]
    Busy,
}

/// What a picture is, before it is kept.
struct Plate {
    kind: ImageType,
    size: Size,
    bytes: Arc<[u8]>,
}

impl Plate {
    fn of(image: &Image) -> Plate {
        Plate { kind: image.kind, size: image.size, bytes: image.bytes.clone() }
    }
}

/// The newest picture of the caller, for whoever asks.
#[derive(Default)]
struct Glance {
    pictures: Option<Receiver<CleanFrame, Latest>>,
    last: Option<CleanFrame>,
}

/// What a call's pictures are made with.
pub struct Terms {
    pub call: CallId,
    pub epoch: Instant,
    pub clock: Clock,
    pub gating: Option<Gating>,
    pub trusts: bool,
    /// There is an agent that talks, and it has eyes.
    pub talks: bool,
    pub sees: bool,
    pub still: StillSettings,
    /// What the agent was given before the call.
    pub context: Vec<Message>,
    pub board: Arc<Board>,
}

/// The pictures of one call; shared by its agent, its media and the console.
pub struct Pictures {
    terms: Terms,
    studio: Studio,
    catalogue: Arc<dyn Catalogue>,
    darkroom: Darkroom,
    /// `None`: there is no call yet.
    events: Option<Sender<Event, Fifo>>,
    given: Option<Sender<Given, Fifo>>,
    glance: Mutex<Glance>,
    recording: Mutex<Option<PathBuf>>,
    /// The recording stands still: nothing is kept beside it.
    paused: AtomicBool,
    /// Of all pictures, of those received, of those sent.
    numbers: AtomicU32,
    received: AtomicU32,
    sent: AtomicU32,
    ids: AtomicU64,
}

impl Pictures {
    /// `given`: where the agent's pictures go.
    pub(super) fn new(
        terms: Terms,
        studio: Studio,
        catalogue: Arc<dyn Catalogue>,
        darkroom: Darkroom,
        events: Sender<Event, Fifo>,
        given: Option<Sender<Given, Fifo>>,
    ) -> Self {
        Pictures {
            terms,
            studio,
            catalogue,
            darkroom,
            events: Some(events),
            given,
            glance: Mutex::default(),
            recording: Mutex::default(),
            paused: AtomicBool::new(false),
            numbers: AtomicU32::new(0),
            received: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            ids: AtomicU64::new(GIVEN_IDS),
        }
    }

    /// For what an agent is given before its call exists.
    pub(super) fn beforehand(
        terms: Terms,
        studio: Studio,
        catalogue: Arc<dyn Catalogue>,
        darkroom: Darkroom,
        events: Sender<Event, Fifo>,
    ) -> Self {
        let ids = AtomicU64::new(CONTEXT_IDS);
        Pictures { events: None, ids, ..Pictures::new(terms, studio, catalogue, darkroom, events, None) }
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.terms.board
    }

    /// Whether there is anybody whose words could be written.
    pub fn talks(&self) -> bool {
        self.terms.talks
    }

    /// The names of the pictures there are besides `snapshot` and those of the call.
    pub fn names(&self) -> Vec<String> {
        let stock = self.studio.stock.iter().map(|stock| stock.name.clone());
        stock.chain((1..=self.context_images().count()).map(|number| format!("context-{number}"))).collect()
    }

    /// The caller's pictures come here from now on.
    pub(super) fn watch(&self, pictures: Receiver<CleanFrame, Latest>) {
        let mut glance = self.glance.lock().unwrap_or_else(PoisonError::into_inner);
        *glance = Glance { pictures: Some(pictures), last: None };
    }

    /// What is kept lies beside this file.
    pub(super) fn keep_beside(&self, recording: &Path) {
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(recording.to_owned());
    }

    /// Nothing is kept on disk while the recording is paused.
    pub(super) fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
    }

    /// The caller's picture of now.
    pub fn snapshot(&self) -> Option<CleanFrame> {
        let mut glance = self.glance.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = glance.pictures.as_ref().map(Receiver::try_take);
        if let Some(Taken::Item(picture)) = fresh {
            glance.last = Some(picture);
        }
        let now = Pts::at(self.terms.epoch, Instant::now()).nanos();
        let limit = i64::try_from(NOW.as_nanos()).unwrap_or(i64::MAX);
        glance.last.take_if(|picture| now - picture.pts().nanos() > limit);
        glance.last.clone()
    }

    /// Gives the agent a picture; it is in its context with the next turn.
    pub async fn receive(&self, place: Place, role: Role, text: &str) -> Result<Arc<Kept>, NotTaken> {
        let given = self.given.as_ref().filter(|_| self.terms.sees).ok_or(NotTaken::Blind)?;
        claim(&self.received, GIVEN_MAX)?;
        let made = self.take(place).await;
        let (plate, image) = match made {
            Ok(made) => made,
            Err(why) => {
                // It was none.
                self.received.fetch_sub(1, Ordering::AcqRel);
                return Err(why);
            }
        };
        let kept = self.keep(Way::Received, plate, text).await?;
        let text = match (role, text) {
            (_, "") => String::new(),
            (Role::System, text) => format!("[for you alone: {text}]"),
            (Role::User | Role::Assistant | Role::Tool, text) => text.to_owned(),
        };
        let mut image = image;
        image.note = format!("picture {} that was given", kept.number);
        given.offer(Given { image: Arc::new(image), text });
        self.tell("image.received", &kept);
        Ok(kept)
    }

    /// A message of an agent's context, with its picture cleared as the route wants it.
    pub async fn context(&self, role: Role, text: &str, place: Option<Place>) -> Result<Message, NotTaken> {
        let mut parts = Vec::new();
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        if let Some(place) = place {
            if !self.terms.sees {
                return Err(NotTaken::Blind);
            }
            let (_, mut image) = self.take(place).await?;
            image.pinned = true;
            parts.push(Part::Image(Arc::new(image)));
        }
        Ok(Message { parts, ..Message::text(role, "") })
    }

    /// The agent gives a picture: it is kept with the call, for the application.
    pub async fn send(&self, which: &Which, text: &str) -> Result<Arc<Kept>, NotTaken> {
        claim(&self.sent, SENT_MAX)?;
        let plate = match which {
            Which::Snapshot => {
                let picture = self.snapshot().ok_or(NotTaken::NoSnapshot)?;
                self.coded(picture).await?
            }
            Which::Named(name) => Plate::of(self.named(name).ok_or_else(|| NotTaken::Unknown(name.clone()))?),
            Which::Number(number) => {
                let kept = self.kept(*number).ok_or_else(|| NotTaken::Unknown(number.to_string()))?;
                Plate { kind: kept.kind, size: kept.size, bytes: kept.bytes.clone() }
            }
            Which::Here(_) => return Err(NotTaken::Unknown("given".to_owned())),
        };
        let text = if text.is_empty() { which.name() } else { text.to_owned() };
        let kept = self.keep(Way::Sent, plate, &text).await?;
        self.tell("image.sent", &kept);
        Ok(kept)
    }

    /// Shows a picture on the outgoing video; no time: until something else is shown.
    pub async fn show(&self, which: &Which, time: Option<Duration>) -> Result<Size, NotTaken> {
        self.screen().await?;
        let picture = match which {
            Which::Snapshot => self.snapshot().ok_or(NotTaken::NoSnapshot)?,
            Which::Named(name) => {
                let image = self.named(name).ok_or_else(|| NotTaken::Unknown(name.clone()))?;
                let raw = self.studio.opener.open(&image.bytes).await?;
                // The operator's own file.
                Gate::open().open_file_picture(raw).ok_or(NotTaken::Withheld)?
            }
            Which::Number(number) => {
                let kept = self.kept(*number).ok_or_else(|| NotTaken::Unknown(number.to_string()))?;
                self.cleared(self.studio.opener.open(&kept.bytes).await?).await?
            }
            Which::Here(place) => {
                let bytes = self.bytes(place.clone()).await?;
                self.cleared(self.studio.opener.open(&bytes).await?).await?
            }
        };
        let size = picture.size();
        // A copy: the caller's own pictures are few, and one may be shown for long.
        let pool = FramePool::new(1);
        let copied = picture.redrawn(size, &pool, |old, new| new.bytes_mut().copy_from_slice(old.bytes()));
        let until = time.map(|time| Instant::now() + time.min(SHOWN_MAX));
        self.board().show(copied.ok_or(NotTaken::Busy)?, until);
        let told = Told::new("image.shown").with("picture", which.name()).with("size", size.to_string());
        self.event(told.with("seconds", time.map_or(0, |time| time.as_secs())));
        Ok(size)
    }

    /// Waits for the first picture of a call that was just answered.
    async fn screen(&self) -> Result<(), NotTaken> {
        let until = Instant::now() + SCREEN_LIMIT;
        while self.board().is_attached() && Instant::now() < until {
            if self.board().is_live() {
                return Ok(());
            }
            tokio::time::sleep(SCREEN_TICK).await;
        }
        Err(NotTaken::NoScreen)
    }

    /// Those of this call.
    pub fn kept(&self, number: u32) -> Option<Arc<Kept>> {
        self.studio.album.one(&self.terms.call.to_string(), number)
    }

    fn context_images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.terms.context.iter().flat_map(Message::images)
    }

    fn named(&self, name: &str) -> Option<&Arc<Image>> {
        let stock = self.studio.stock.iter().find(|stock| stock.name == name).map(|stock| &stock.image);
        let number = || name.strip_prefix("context-")?.parse::<usize>().ok()?.checked_sub(1);
        stock.or_else(|| self.context_images().nth(number()?))
    }

    async fn bytes(&self, place: Place) -> Result<Arc<[u8]>, NotTaken> {
        match place {
            Place::Here(bytes) => Ok(bytes.into()),
            Place::Url(url) => {
                let studio = &self.studio;
                let fetcher = if self.terms.trusts { &studio.near } else { &studio.public };
                Ok(fetcher.fetch(url).await?)
            }
            Place::File(_) => Err(NotTaken::File),
        }
    }

    /// Opens, clears and codes what was given. What is trusted, and every model takes, stays as it came.
    async fn take(&self, place: Place) -> Result<(Plate, Image), NotTaken> {
        let bytes = self.bytes(place).await?;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        // Also where it stays as it came: no model is sent what cannot be read.
        let raw = self.studio.opener.open(&bytes).await?;
        if self.terms.trusts
            && let Trusted::Ready(image) = trusted(&bytes, id, "", false, &LIMITS)?
        {
            return Ok((Plate::of(&image), Image::clone(&image)));
        }
        let picture = self.cleared(raw).await?;
        let settings = self.terms.still;
        let still = self.darkroom.run(move || Stills::new(settings)?.encode(&picture));
        let still = still.await.map_err(|_| NotTaken::Busy)?.map_err(Unusable::from)?;
        let image = Image::of(&still, id, "");
        Ok((Plate::of(&image), image))
    }

    /// Through a gate of its own, made like the call's.
    async fn cleared(&self, raw: RawFrame) -> Result<CleanFrame, NotTaken> {
        let gating = self.terms.gating.clone().filter(|_| !self.terms.trusts);
        let (catalogue, call) = (self.catalogue.clone(), self.terms.call);
        let clear = move || {
            let gate = match gating {
                None => Gate::open(),
                Some(gating) => gate::build(&*catalogue, &gating, None)
                    .inspect_err(|why| tracing::warn!(%call, "a given picture cannot be cleared: {why}"))
                    .ok()?,
            };
            through(gate, raw)
        };
        self.darkroom.run(clear).await.map_err(|_| NotTaken::Busy)?.ok_or(NotTaken::Withheld)
    }

    async fn coded(&self, picture: CleanFrame) -> Result<Plate, NotTaken> {
        let settings = self.terms.still;
        let still = self.darkroom.run(move || Stills::new(settings)?.encode(&picture));
        let still = still.await.map_err(|_| NotTaken::Busy)?.map_err(Unusable::from)?;
        Ok(Plate { kind: still.kind(), size: still.size(), bytes: still.bytes().clone() })
    }

    /// Puts it into the album, and beside the recording if there is one.
    async fn keep(&self, way: Way, plate: Plate, text: &str) -> Result<Arc<Kept>, NotTaken> {
        let Plate { kind, size, bytes } = plate;
        let number = self.numbers.fetch_add(1, Ordering::AcqRel) + 1;
        let recording = self.recording.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let recording = recording.filter(|_| !self.paused.load(Ordering::Acquire));
        let file = match recording {
            None => None,
            Some(recording) => {
                let path = picture_path(&recording, number, kind.extension());
                let (written, call) = (bytes.clone(), self.terms.call);
                let write = move || match write(&path, &written) {
                    Ok(()) => Some(path),
                    Err(error) => {
                        tracing::warn!(%call, "a picture is not kept on disk: {}: {error}", path.display());
                        None
                    }
                };
                self.darkroom.run(write).await.map_err(|_| NotTaken::Busy)?
            }
        };
        let kept = Arc::new(Kept {
            call: self.terms.call,
            number,
            way,
            kind,
            size,
            bytes,
            text: text.to_owned(),
            at: self.terms.clock.wall(Instant::now()),
            file,
        });
        self.studio.album.add(kept.clone());
        Ok(kept)
    }

    fn tell(&self, kind: &'static str, kept: &Kept) {
        let told = Told::new(kind).with("id", kept.number).with("size", kept.size.to_string());
        let told = told.with("bytes", kept.bytes.len()).with("text", kept.text.clone());
        self.event(told);
    }

    fn event(&self, told: Told) {
        if let Some(events) = &self.events {
            events.offer(Event::Told { call: self.terms.call, told });
        }
    }
}

impl std::fmt::Debug for Pictures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pictures({})", self.terms.call)
    }
}

/// What a gate made for this one picture lets through: the picture, and never the slate.
fn through(mut gate: Gate, raw: RawFrame) -> Option<CleanFrame> {
    let cleared = gate.release(Instant::now(), raw, &FramePool::new(1));
    cleared.filter(|_| gate.counters().passed == 1)
}

/// One more, if there may be.
fn claim(count: &AtomicU32, most: u32) -> Result<(), NotTaken> {
    let next = |count: u32| (count < most).then_some(count + 1);
    let claimed = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    claimed.map(drop).map_err(|_| NotTaken::TooMany(most))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    file.write_all(bytes)
}

/// What the operator gives: opened once to see that it can be, and coded anew where models would not take it.
///
/// # Errors
/// Says what is wrong with it.
pub async fn own_picture(
    studio: &Studio,
    place: &Place,
    id: u64,
    note: &str,
) -> Result<Arc<Image>, NotTaken> {
    let bytes: Arc<[u8]> = match place {
        Place::File(path) => read(path)?,
        Place::Here(bytes) => bytes.clone().into(),
        Place::Url(url) => studio.near.fetch(url.clone()).await?,
    };
    let raw = studio.opener.open(&bytes).await?;
    if let Trusted::Ready(image) = trusted(&bytes, id, note, true, &LIMITS)? {
        return Ok(image);
    }
    let clean = Gate::open().open_file_picture(raw).ok_or(NotTaken::Withheld)?;
    let still = Stills::new(StillSettings::default()).and_then(|mut stills| stills.encode(&clean));
    let mut image = Image::of(&still.map_err(Unusable::from)?, id, note);
    image.pinned = true;
    Ok(Arc::new(image))
}

/// A file of at most so many bytes.
fn read(path: &Path) -> Result<Arc<[u8]>, NotTaken> {
    let unreadable =
        |error: std::io::Error| Unusable::Damaged(format!("{} cannot be read: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > LIMITS.bytes {
        return Err(Unusable::TooManyBytes(length, LIMITS.bytes).into());
    }
    Ok(std::fs::read(path).map_err(unreadable)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::queue::queue;
    use crate::base::stop::Scope;
    use crate::media::codec::Detector;
    use crate::media::filter::{BlackSlate, Verdict, VideoFilter};
    use crate::media::frame::{Frame, FrameMut, Plane};
    use crate::vision::censor::CensorSettings;
    use crate::vision::observer::ObserverSettings;
    use crate::vision::schedule::Schedule;

    /// There is no detector.
    struct Nothing;

    impl Catalogue for Nothing {
        fn gate(&self, _name: &str) -> Result<(Box<dyn Detector>, Schedule), String> {
            Err("no model".to_owned())
        }
        fn observer(&self, _name: &str) -> Result<(Box<dyn Detector>, ObserverSettings), String> {
            Err("no model".to_owned())
        }
    }

    struct Hides(Verdict);

    impl VideoFilter for Hides {
        fn look(&mut self, _now: Instant, _picture: &Frame) -> Verdict {
            self.0
        }
        fn draw(&mut self, picture: &mut FrameMut) {
            picture.plane_mut(Plane::Y).fill(200);
        }
    }

    fn raw() -> RawFrame {
        let mut picture = FramePool::new(1).take_sized(Size::new(320, 240), Pts::ZERO).expect("room");
        picture.bytes_mut().fill(90);
        RawFrame::new(picture.freeze())
    }

    fn pictures(
        scope: &mut Scope,
        gating: Option<Gating>,
        trusts: bool,
    ) -> (Pictures, Receiver<Given, Fifo>) {
        let terms = Terms {
            call: CallId(1),
            epoch: Instant::now(),
            clock: Clock::new(Instant::now(), std::time::SystemTime::now()),
            gating,
            trusts,
            talks: true,
            sees: true,
            still: StillSettings::default(),
            context: Vec::new(),
            board: Board::new(false),
        };
        let (events, _) = queue(Fifo { depth: 8 });
        let (give, given) = queue(Fifo { depth: 8 });
        let darkroom = Darkroom::start(scope);
        (Pictures::new(terms, Studio::default(), Arc::new(Nothing), darkroom, events, Some(give)), given)
    }

    fn gating() -> Option<Gating> {
        let censor = CensorSettings { targets: vec!["face".to_owned()], ..CensorSettings::default() };
        Some(Gating { censor, detectors: vec!["faces".to_owned()] })
    }

    #[test]
    fn a_gate_lets_the_picture_through_as_it_drew_it_or_nothing() {
        let gate = |verdict| Gate::filtering(vec![Box::new(Hides(verdict))], Box::new(BlackSlate));
        let clean = through(gate(Verdict::Pass), raw()).expect("a picture");
        assert!(clean.frame().plane(Plane::Y).iter().all(|luma| *luma == 200), "what was hidden shows");
        assert!(through(gate(Verdict::Withhold), raw()).is_none());
        assert!(through(Gate::closed(Box::new(BlackSlate)), raw()).is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_cleared_is_used_nowhere_and_whoever_gave_it_is_told() {
        let mut scope = Scope::new("test", tokio::runtime::Handle::current());
        let (censored, _given) = pictures(&mut scope, gating(), false);
        assert_eq!(censored.cleared(raw()).await.map(drop), Err(NotTaken::Withheld));
        let (open, _given) = pictures(&mut scope, None, false);
        assert!(open.cleared(raw()).await.is_ok());
        let (trusting, _given) = pictures(&mut scope, gating(), true);
        assert!(trusting.cleared(raw()).await.is_ok());
    }

    #[tokio::test]
    async fn a_call_has_so_many_pictures_and_without_video_no_screen_and_no_snapshot() {
        let mut scope = Scope::new("test", tokio::runtime::Handle::current());
        let (pictures, given) = pictures(&mut scope, None, false);
        assert_eq!(pictures.send(&Which::Snapshot, "").await.map(drop), Err(NotTaken::NoSnapshot));
        assert_eq!(pictures.show(&Which::Snapshot, None).await, Err(NotTaken::NoScreen));
        let nothing = || Place::Here(b"no picture".to_vec());
        let refused = pictures.receive(nothing(), Role::User, "").await.map(drop);
        assert_eq!(refused, Err(NotTaken::Unusable(Unusable::Unknown)));
        let file = Place::File("/etc/hostname".into());
        assert_eq!(pictures.receive(file, Role::User, "").await.map(drop), Err(NotTaken::File));
        // What was refused does not count.
        pictures.received.store(GIVEN_MAX, Ordering::Relaxed);
        assert_eq!(
            pictures.receive(nothing(), Role::User, "").await.map(drop),
            Err(NotTaken::TooMany(GIVEN_MAX))
        );
        assert!(given.is_empty());
    }

    #[tokio::test]
    async fn the_callers_picture_is_one_of_now_and_is_sent_as_a_file() {
        let mut scope = Scope::new("test", tokio::runtime::Handle::current());
        let (pictures, _given) = pictures(&mut scope, None, false);
        let (camera, shown) = queue(Latest);
        pictures.watch(shown);
        let old = Pts::from_nanos(-10_000_000_000);
        for (at, seen) in [(old, false), (Pts::ZERO, true)] {
            camera.offer(through(Gate::open(), raw()).expect("a picture").at(at));
            assert_eq!(pictures.snapshot().is_some(), seen);
        }
        assert!(pictures.snapshot().is_some(), "until it is old");
        let kept = pictures.send(&Which::Snapshot, "the caller").await.expect("kept");
        assert_eq!((kept.number, kept.kind, kept.size), (1, ImageType::Jpeg, Size::new(320, 240)));
        assert_eq!(pictures.kept(1).map(|kept| kept.text.clone()), Some("the caller".to_owned()));
        let again = pictures.send(&Which::Number(1), "").await.expect("kept");
        assert_eq!((again.number, &again.bytes), (2, &kept.bytes));
        assert_eq!(
            pictures.send(&Which::parse("map"), "").await.map(drop),
            Err(NotTaken::Unknown("map".into()))
        );
    }
}
