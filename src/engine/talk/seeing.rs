//! Driver. The eyes of one call: its sight, the model of `[vision]` that describes, and what both may cost.
//!
//! ```text
//! sight ═ pictures ─┬─ turn, look, live ─▶ the agent's own model (admitted, paid)
//!                   └─ samples, questions ─▶ describer ─▶ vision.result ─▶ Scene: context of the agent
//! describe over HTTP, look of a blind agent ─ Asked ─▶ sight ─▶ describer ─▶ who asked, within a limit
//! ```
//! Whoever drives the call polls [`Seeing::next`], also where nobody talks. A picture alone starts no turn: what comes
//! out of here is handed to a model with its next turn, or told.

#![expect(clippy::disallowed_methods, reason = "who waits for a description waits no longer than agreed")]

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{figures, until};
use crate::base::queue::{Fifo, Sender};
use crate::base::reply::Reply;
use crate::engine::plan::{CallId, Event};
use crate::engine::sight::{SightHandle, SightSettings};
use crate::talk::conversation::Told;
use crate::talk::link::Models;
use crate::talk::message::{Failure, Image, Request, Usage};
use crate::talk::sight::budget::{Budget, BudgetSettings, Ticket, image_tokens, without_pictures};
use crate::talk::sight::describe::{self, DescribeSettings, Described, Describer, For, NotDescribed};
use crate::talk::sight::description::{Description, NotSeen, Seen};
use crate::talk::sight::{Mode, Reason, Sighted, result};

/// Questions that wait for their picture or their answer.
const WAITING_MAX: usize = 8;
/// Pictures a session was sent that it may still hold.
const SHOWN_MAX: usize = 4;
/// What was seen last is what there is to see for so long, when nobody looks any more.
const STALE: Duration = Duration::from_secs(30);
/// A picture comes at once or not at all.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How a call is looked at; shared by the calls of an agent or a route.
#[derive(Clone)]
pub struct SeeingSettings {
    pub mode: Mode,
    pub sight: SightSettings,
    /// The agent's own model takes pictures, if not of the caller then others.
    pub sees: bool,
    /// Why it does not, where it was to: told once in every call.
    pub blind: Option<String>,
    /// The model of `[vision]`.
    pub describing: Option<Describing>,
    /// The agent's own model can be asked beside the talk, where there is no other that describes.
    pub aside: bool,
    /// For all pictures of a call, with the prices of the agent's own model.
    pub budget: BudgetSettings,
}

impl fmt::Debug for SeeingSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seeing({:?}, sees: {}, described: {})", self.mode, self.sees, self.describing.is_some())
    }
}

/// A model that looks at pictures for those who cannot.
#[derive(Clone)]
pub struct Describing {
    pub models: Models,
    pub settings: DescribeSettings,
    /// Whoever asks waits so long.
    pub limit: Duration,
}

impl SeeingSettings {
    /// Whether anybody would look.
    pub fn looks(&self) -> bool {
        self.mode != Mode::Off && (self.sees || self.describing.is_some())
    }

    /// Whether somebody may ask what there is to see.
    pub fn describes(&self) -> bool {
        self.mode != Mode::Off && (self.describing.is_some() || self.aside)
    }
}

/// What came of looking, for whoever drives the call.
#[derive(Debug)]
pub enum Saw {
    /// For the agent's own model; exactly one for each thing that was wanted, and samples of live sight.
    Picture { image: Option<Arc<Image>>, reason: Reason },
    /// What a model of its own sees now, in a line; `None`: it is not known any more.
    Scene(Option<String>),
    /// What the tool `look` brought in words.
    Looked(Result<String, NotSeen>),
    /// To be asked of the agent's own model beside the talk; answered by [`Seeing::handle_aside`].
    Question { number: u64, request: Box<Request> },
}

/// Somebody who asks what there is to see.
struct Waiting {
    number: u64,
    question: String,
    until: Instant,
    /// `None`: waited too long, and its picture is still on its way.
    who: Option<Who>,
    /// When the agent's own model was asked, and how old the picture was then.
    asked: Option<(Instant, Option<Duration>)>,
}

enum Who {
    /// The agent, by its tool.
    Look,
    Application(Reply<Seen>),
}

/// See the module.
pub struct Seeing {
    call: CallId,
    events: Sender<Event, Fifo>,
    settings: Option<SeeingSettings>,
    sight: Option<SightHandle>,
    describer: Option<Describer>,
    budget: Budget,
    /// Of the question its agent's model was asked last, which had pictures.
    asked: Option<(Arc<Request>, Ticket)>,
    /// The agent's own model takes pictures.
    sees: bool,
    begun: bool,
    /// Samples are being taken.
    samples: bool,
    spent_told: bool,
    unsupported_told: bool,
    /// What the describer failed of last; the same is not told for every picture.
    failure: Option<String>,
    /// The agent knows what there is to see; and until when it may believe it, as nobody looks any more.
    scene: bool,
    scene_until: Option<Instant>,
    next_number: u64,
    /// Without a picture yet, in the order of asking; and with one.
    unseen: VecDeque<Waiting>,
    seen: Vec<Waiting>,
    /// What a session was sent, and what was taken for it since its last turn.
    shown: VecDeque<u64>,
    taken_tokens: u64,
}

impl Seeing {
    pub fn new(
        call: CallId,
        events: Sender<Event, Fifo>,
        settings: Option<SeeingSettings>,
        sight: Option<SightHandle>,
    ) -> Self {
        let budget = Budget::new(settings.as_ref().map_or_else(BudgetSettings::default, |own| own.budget));
        let describing =
            settings.as_ref().filter(|own| own.describes()).and_then(|own| own.describing.as_ref());
        let describer = describing.map(|describing| {
            let Describing { models, settings, .. } = describing.clone();
            Describer::new(models, settings, Some(&budget))
        });
        Seeing {
            call,
            events,
            sees: settings.as_ref().is_some_and(|own| own.sees),
            settings,
            sight,
            describer,
            budget,
            asked: None,
            begun: false,
            samples: false,
            spent_told: false,
            unsupported_told: false,
            failure: None,
            scene: false,
            scene_until: None,
            next_number: 0,
            unseen: VecDeque::new(),
            seen: Vec::new(),
            shown: VecDeque::new(),
            taken_tokens: 0,
        }
    }

    fn mode(&self) -> Mode {
        self.settings.as_ref().map_or(Mode::Off, |own| own.mode)
    }

    /// The call is answered: sampling begins where the mode samples.
    pub fn begin(&mut self) {
        self.begun = true;
        if let Some(why) = self.settings.as_ref().and_then(|own| own.blind.clone()) {
            self.unsupported(&why);
        }
        self.settle_in();
    }

    /// The caller began or ceased to speak.
    pub fn speaking(&self, speaking: bool) {
        if let Some(sight) = &self.sight {
            sight.speaking(speaking);
        }
    }

    /// Whether pictures go to the agent's own model with its turns.
    fn shows_turns(&self) -> bool {
        self.sees && matches!(self.mode(), Mode::Turn | Mode::Live)
    }

    /// The agent's own model wants a picture of this turn. `false`: it gets none, and nothing will come.
    pub fn want(&self, reason: Reason) -> bool {
        let Some(sight) = self.sight.as_ref().filter(|_| self.shows_turns() && self.budget.is_open()) else {
            return false;
        };
        sight.want(reason);
        true
    }

    /// The agent looks by its tool; one [`Saw::Picture`] or [`Saw::Looked`] follows within the time given. `None`: there
    /// is nothing to look with, or nothing left to pay it with.
    pub fn look(&mut self, question: &str) -> Option<Duration> {
        if self.sees && self.budget.is_open() {
            self.sight.as_ref()?.want(Reason::Look);
            return Some(LOOK_LIMIT);
        }
        if self.sees || !self.describer.as_ref().is_some_and(Describer::is_open) || self.sight.is_none() {
            return None;
        }
        let limit = self.limit();
        self.wait(question.to_owned(), Who::Look);
        Some(limit + Duration::from_secs(1))
    }

    /// Somebody asks what there is to see now; empty: nothing in particular. The answer comes within the limit.
    pub fn describe(&mut self, question: String, reply: Reply<Seen>) {
        if self.sight.is_none() || self.describer.is_none() && !self.asks_aside() {
            reply.send(Err(NotSeen::NoPicture));
        } else if self.unseen.len() + self.seen.len() >= WAITING_MAX {
            reply.send(Err(NotSeen::Not(NotDescribed::Crowded)));
        } else {
            self.wait(question, Who::Application(reply));
        }
    }

    fn asks_aside(&self) -> bool {
        self.sees && self.settings.as_ref().is_some_and(|own| own.aside)
    }

    /// The agent's own model is asked beside its talk, of a picture that is paid as any other.
    fn ask_aside(&mut self, mut waiting: Waiting, image: &Arc<Image>) -> Option<Saw> {
        if !self.budget.take(image) {
            self.settle_in();
            return self.answer(waiting, Err(NotSeen::Not(NotDescribed::Spent)));
        }
        let now = Instant::now();
        waiting.asked = Some((now, image.taken.map(|taken| now.saturating_duration_since(taken))));
        let request = describe::request(&DescribeSettings::default(), image, &waiting.question);
        let number = waiting.number;
        self.seen.push(waiting);
        self.settle_in();
        Some(Saw::Question { number, request: Box::new(request) })
    }

    /// What the agent's own model said beside its talk.
    pub fn handle_aside(
        &mut self,
        number: u64,
        answer: Result<String, Failure>,
        usage: Usage,
        provider: &str,
    ) {
        let Some(at) = self.seen.iter().position(|waiting| waiting.number == number) else { return };
        let waiting = self.seen.swap_remove(at);
        let Some((asked, age)) = waiting.asked else { return };
        let vision = answer
            .map_err(NotDescribed::Failed)
            .and_then(|text| result::read(&text).map_err(NotDescribed::Unreadable));
        let seen = vision.map_err(NotSeen::Not).map(|vision| Description {
            vision,
            age,
            took: asked.elapsed(),
            usage,
            usd: self.budget.cost(usage),
            provider: provider.to_owned(),
        });
        // Only applications wait here: the agent looks with its own eyes.
        let _ = self.answer(waiting, seen);
    }

    fn limit(&self) -> Duration {
        let describing = self.settings.as_ref().and_then(|own| own.describing.as_ref());
        describing.map_or(Duration::from_secs(10), |describing| describing.limit)
    }

    fn wait(&mut self, question: String, who: Who) {
        self.next_number += 1;
        let until = Instant::now() + self.limit();
        self.unseen.push_back(Waiting {
            number: self.next_number,
            question,
            until,
            who: Some(who),
            asked: None,
        });
        if let Some(sight) = &self.sight {
            sight.want(Reason::Asked);
        }
    }

    // What pictures cost.

    /// A question to the agent's own model, with as many of its pictures as it takes and the budget allows.
    pub fn admit(&mut self, request: Arc<Request>) -> Arc<Request> {
        self.asked = None;
        if request.image_count() == 0 {
            return request;
        }
        let mut request = Arc::unwrap_or_clone(request);
        if !self.sees {
            without_pictures(&mut request);
            return Arc::new(request);
        }
        let ticket = self.budget.admit(&mut request);
        let request = Arc::new(request);
        if ticket.images() > 0 {
            self.asked = Some((request.clone(), ticket));
        }
        self.settle_in();
        request
    }

    /// What the answer to it used up.
    pub fn settle(&mut self, usage: Usage) {
        if let Some((_, ticket)) = &mut self.asked {
            self.budget.settle(std::mem::take(ticket), Some(usage));
            self.settle_in();
        }
    }

    /// The question was refused. If that is for its pictures, the model gets none any more in this call, and here is the
    /// question without them.
    pub fn refused(&mut self, failure: &Failure) -> Option<Arc<Request>> {
        let (request, _) = self.asked.take_if(|_| failure.is_about_pictures())?;
        self.blinded(failure);
        let mut request = Arc::unwrap_or_clone(request);
        without_pictures(&mut request);
        Some(Arc::new(request))
    }

    /// The agent's own model does not take pictures, as it turns out.
    pub fn blinded(&mut self, failure: &Failure) {
        self.sees = false;
        self.unsupported(&failure.to_string());
        self.settle_in();
    }

    /// A picture for a session that keeps it. `false`: it is not to be sent.
    pub fn take(&mut self, image: &Arc<Image>) -> bool {
        let taken = self.sees && self.budget.take(image);
        if taken {
            self.taken_tokens += image_tokens(image);
            if self.shown.len() >= SHOWN_MAX {
                self.shown.pop_front();
            }
            self.shown.push_back(image.id);
        }
        self.settle_in();
        taken
    }

    /// Whether the session was sent it lately, and knows it.
    pub fn has_shown(&self, image: &Image) -> bool {
        self.shown.contains(&image.id)
    }

    /// A session says what its last turn used up. The pictures it is to forget, as there is nothing left for them.
    pub fn turn_done(&mut self, usage: Usage) -> Vec<u64> {
        let taken = std::mem::take(&mut self.taken_tokens);
        let beyond = usage.image_tokens.saturating_sub(taken);
        if beyond > 0 {
            self.budget.book(beyond);
            self.settle_in();
        }
        if self.sees && self.budget.is_open() { Vec::new() } else { self.shown.drain(..).collect() }
    }

    /// Samples only while somebody looks at them and they are paid for.
    fn settle_in(&mut self) {
        let describes = self.describer.as_ref().is_some_and(Describer::is_open);
        let samples = self.begun
            && match self.mode() {
                Mode::Off | Mode::Turn => false,
                Mode::Live => self.sees && self.budget.is_open(),
                Mode::Continuous => describes,
            };
        if std::mem::replace(&mut self.samples, samples) != samples
            && let Some(sight) = &self.sight
        {
            sight.open(samples);
            self.scene_until = (!samples && self.scene).then(|| Instant::now() + STALE);
        }
        let pays = self.sees || self.describer.is_some();
        let open = self.budget.is_open() && (self.describer.is_none() || describes);
        if pays && !open && !std::mem::replace(&mut self.spent_told, true) {
            let spent = self.budget.spent();
            self.tell(
                Told::new("vision.budget_spent")
                    .with("images", spent.images)
                    .with("tokens", spent.tokens)
                    .with("cost_usd", spent.usd),
            );
        }
    }

    // What happens.

    /// What comes next; waits for ever where nobody looks. Cancel-safe.
    pub async fn next(&mut self) -> Saw {
        loop {
            let waiting = self.unseen.iter().chain(&self.seen).filter(|waiting| waiting.who.is_some());
            let first = waiting.map(|waiting| waiting.until).chain(self.scene_until).min();
            let Seeing { sight, describer, .. } = self;
            let saw = tokio::select! {
                biased;
                sighted = sighted(sight.as_mut()) => self.handle_sighted(sighted),
                described = described(describer.as_mut()) => self.handle_described(&described),
                () = until(first) => self.give_up(Instant::now()),
            };
            if let Some(saw) = saw {
                return saw;
            }
        }
    }

    fn handle_sighted(&mut self, sighted: Option<Sighted>) -> Option<Saw> {
        let (image, reason, again) = match sighted {
            Some(Sighted::Seen { image, reason, again }) => (Some(image), reason, again),
            Some(Sighted::Blind { reason }) => (None, reason, false),
            None => {
                // The thread of pictures broke: nothing will be seen in this call any more.
                self.sight = None;
                let all: Vec<Waiting> = self.unseen.drain(..).collect();
                return all
                    .into_iter()
                    .filter_map(|waiting| self.answer(waiting, Err(NotSeen::NoPicture)))
                    .last();
            }
        };
        match reason {
            Reason::Asked => self.handle_asked(image),
            // The camera shows nothing any more.
            Reason::Sample if image.is_none() => self.unsee(),
            Reason::Look => Some(Saw::Picture { image, reason }),
            Reason::Onset | Reason::Turn | Reason::Sample if self.shows_turns() => {
                Some(Saw::Picture { image, reason })
            }
            Reason::Onset | Reason::Turn | Reason::Sample => {
                let wanted = self.mode() == Mode::Continuous && !again;
                if let (true, Some(image), Some(describer)) = (wanted, image, &mut self.describer) {
                    describer.show(image);
                }
                None
            }
        }
    }

    /// The picture somebody asks about.
    fn handle_asked(&mut self, image: Option<Arc<Image>>) -> Option<Saw> {
        let waiting = self.unseen.pop_front()?;
        let aside = self.asks_aside();
        match (image, &mut self.describer) {
            _ if waiting.who.is_none() => None,
            (Some(image), Some(describer)) => {
                describer.ask(image, waiting.number, waiting.question.clone());
                self.seen.push(waiting);
                None
            }
            (Some(image), None) if aside => self.ask_aside(waiting, &image),
            (None, _) | (_, None) => self.answer(waiting, Err(NotSeen::NoPicture)),
        }
    }

    /// Tells who waits what came of it.
    fn answer(&self, waiting: Waiting, seen: Seen) -> Option<Saw> {
        let reason = match &waiting.who {
            None => return None,
            Some(Who::Look) => Reason::Look,
            Some(Who::Application(_)) => Reason::Asked,
        };
        match &seen {
            Ok(description) => self.tell_result(description, reason, &waiting.question),
            Err(why) => self.tell_failure(why, reason),
        }
        match waiting.who? {
            Who::Look => Some(Saw::Looked(seen.map(|description| description.vision.line()))),
            Who::Application(reply) => {
                reply.send(seen);
                None
            }
        }
    }

    fn handle_described(&mut self, described: &Described) -> Option<Saw> {
        self.settle_in();
        let seen = Seen::from(described);
        if let Err(NotSeen::Not(NotDescribed::Failed(failure))) = &seen
            && failure.is_about_pictures()
        {
            self.unsupported(&format!("[vision]: {failure}"));
        }
        match &described.wanted {
            For::Sample => self.handle_scene(&seen, described.again),
            For::Question { number, .. } => {
                let at = self.seen.iter().position(|waiting| waiting.number == *number)?;
                let waiting = self.seen.swap_remove(at);
                self.answer(waiting, seen)
            }
        }
    }

    fn handle_scene(&mut self, seen: &Seen, again: bool) -> Option<Saw> {
        match seen {
            Ok(description) => {
                self.failure = None;
                if !again {
                    self.tell_result(description, Reason::Sample, "");
                }
                self.scene_until = (!self.samples).then(|| Instant::now() + STALE);
                let known = std::mem::replace(&mut self.scene, true);
                (!again || !known).then(|| Saw::Scene(Some(description.vision.line())))
            }
            Err(why) => {
                let text = why.to_string();
                if self.failure.as_ref() != Some(&text) {
                    self.tell_failure(why, Reason::Sample);
                    self.failure = Some(text);
                }
                // The picture has changed, and nobody knows to what.
                self.unsee()
            }
        }
    }

    /// What there is to see is not known any more.
    fn unsee(&mut self) -> Option<Saw> {
        self.scene_until = None;
        std::mem::take(&mut self.scene).then_some(Saw::Scene(None))
    }

    /// Whoever has waited too long is told.
    fn give_up(&mut self, now: Instant) -> Option<Saw> {
        if self.scene_until.is_some_and(|until| now >= until) {
            return self.unsee();
        }
        let (mut late, rest) = self.seen.drain(..).partition::<Vec<_>, _>(|waiting| now >= waiting.until);
        self.seen = rest;
        if let Some(describer) = &mut self.describer {
            late.iter().for_each(|waiting| describer.forget(waiting.number));
        }
        // One whose picture has not come keeps its place: the next picture is that one's.
        for waiting in self.unseen.iter_mut().filter(|waiting| now >= waiting.until) {
            late.push(Waiting { question: waiting.question.clone(), who: waiting.who.take(), ..*waiting });
        }
        let ms = u64::try_from(self.limit().as_millis()).unwrap_or(u64::MAX);
        late.into_iter().filter_map(|waiting| self.answer(waiting, Err(NotSeen::TooSlow(ms)))).last()
    }

    // What is told.

    fn tell_result(&self, description: &Description, reason: Reason, question: &str) {
        let mut told = Told::new("vision.result").with("reason", reason.name());
        if !question.is_empty() {
            told = told.with("question", question);
        }
        self.tell(description.members().into_iter().fold(told, |told, (name, value)| told.with(name, value)));
    }

    fn tell_failure(&self, why: &NotSeen, reason: Reason) {
        let told = Told::new("vision.failed").with("reason", reason.name());
        self.tell(told.with("code", why.code()).with("why", why.to_string()));
    }

    /// Once in a call.
    fn unsupported(&mut self, why: &str) {
        if std::mem::replace(&mut self.unsupported_told, true) {
            return;
        }
        let instead = if self.describer.is_some() { "described" } else { "nothing" };
        self.tell(Told::new("vision.unsupported").with("why", why).with("instead", instead));
    }

    /// The call is over: what looking came to.
    pub fn close(&self) {
        if let Some(sight) = &self.sight {
            self.tell(figures::sight(sight.figures(), self.budget.spent()));
        }
    }

    fn tell(&self, told: Told) {
        self.events.offer(Event::Told { call: self.call, told });
    }
}

async fn sighted(sight: Option<&mut SightHandle>) -> Option<Sighted> {
    match sight {
        Some(sight) => sight.next().await,
        None => std::future::pending().await,
    }
}

async fn described(describer: Option<&mut Describer>) -> Described {
    match describer {
        Some(describer) => describer.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::{Map, Value, json};
    use tokio::runtime::Handle;

    use super::*;
    use crate::base::queue::{self, Receiver, Taken};
    use crate::base::stop::Scope;
    use crate::base::time::{Clock, Pts};
    use crate::codec::still::encode::StillSettings;
    use crate::engine::sight::{Sight, SightInputs};
    use crate::media::frame::{CleanFrame, Plane, Size};
    use crate::media::pool::FramePool;
    use crate::talk::link::{Http, LinkSettings};
    use crate::talk::message::{Detail, Endpoint, Message, Part, Role, Vendor};
    use crate::talk::sight::sampler::SamplerSettings;
    use crate::talk::sight::watch::WatchSettings;

    const SCENE: &str =
        r#"{"description":"Scene {number}.","labels":["{number}"],"text":"","faces":1,"confidence":0.9}"#;

    fn describing(options: &Value) -> Describing {
        let options = options.as_object().cloned().expect("a table");
        let endpoint = Endpoint { options, timeout_ms: 300, ..Endpoint::new("vision", Vendor::Mock) };
        let link = LinkSettings { retries: 0, ..LinkSettings::default() };
        let settings = DescribeSettings { budget: limits(), ..DescribeSettings::default() };
        let models = Models::new(&Http::new(), vec![endpoint], link);
        Describing { models, settings, limit: Duration::from_millis(250) }
    }

    fn limits() -> BudgetSettings {
        BudgetSettings { images: 3, ..BudgetSettings::default() }
    }

    fn settings(mode: Mode, sees: bool, describing: Option<Describing>) -> SeeingSettings {
        let sampler = SamplerSettings { speaking_fps: 20.0, silent_fps: 20.0, onset: false };
        let sight = SightSettings {
            watch: WatchSettings { sampler, ..WatchSettings::default() },
            still: StillSettings::default(),
            detail: Detail::Low,
            clock: Clock::new(Instant::now(), SystemTime::UNIX_EPOCH),
            first_id: 1,
        };
        SeeingSettings { mode, sight, sees, blind: None, describing, aside: false, budget: limits() }
    }

    struct Bench {
        seeing: Seeing,
        inputs: SightInputs,
        told: Receiver<Event, Fifo>,
        pool: FramePool,
        scenes: u8,
        _scope: Scope,
    }

    impl Bench {
        fn new(settings: SeeingSettings) -> Bench {
            let mut scope = Scope::new("call", Handle::current());
            let (inputs, handle) = Sight::start(settings.sight.clone(), &mut scope);
            handle.open(false);
            let (events, told) = queue::queue(Fifo { depth: 100 });
            let mut seeing = Seeing::new(CallId(1), events, Some(settings), Some(handle));
            seeing.begin();
            Bench { seeing, inputs, told, pool: FramePool::new(20), scenes: 0, _scope: scope }
        }

        /// The caller shows something new.
        fn show(&mut self) {
            self.scenes += 1;
        }

        /// What it shows now, once.
        fn offer(&self) {
            if self.scenes == 0 {
                return;
            }
            let size = Size::new(320, 180);
            let mut picture = self.pool.take_sized(size, Pts::ZERO).expect("room");
            let shade = self.scenes.wrapping_mul(70) % 200;
            for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
                *luma = shade + if (at % size.width / 4).is_multiple_of(2) { 40 } else { 0 };
            }
            self.inputs.camera.offer(CleanFrame::drawn_here(picture));
        }

        async fn next_within(&mut self, ms: u64) -> Option<Saw> {
            let end = Instant::now() + Duration::from_millis(ms);
            while Instant::now() < end {
                self.offer();
                let next = tokio::time::timeout(Duration::from_millis(40), self.seeing.next());
                if let Ok(saw) = next.await {
                    return Some(saw);
                }
            }
            None
        }

        /// What was told since, by kind.
        fn told(&self) -> Vec<(&'static str, Map<String, Value>)> {
            let taken = || match self.told.try_take() {
                Taken::Item(Event::Told { told, .. }) => Some(told),
                _ => None,
            };
            let members = |told: Told| {
                let data = told.data.into_iter().map(|(name, value)| (name.to_owned(), value));
                (told.kind, data.collect())
            };
            std::iter::from_fn(taken).map(members).collect()
        }

        fn kinds(&self) -> Vec<&'static str> {
            self.told().into_iter().map(|(kind, _)| kind).collect()
        }

        async fn described(&mut self, question: &str) -> Seen {
            let (reply, mut answer) = Reply::new();
            self.seeing.describe(question.to_owned(), reply);
            tokio::select! {
                seen = &mut answer => seen.expect("an answer"),
                _ = self.next_within(1_000) => panic!("no answer"),
            }
        }
    }

    fn question(ids: &[u64]) -> Arc<Request> {
        let size = Size::new(640, 360);
        let image = |id: &u64| {
            let kind = crate::talk::message::ImageType::Jpeg;
            Part::Image(Arc::new(Image::given(*id, kind, vec![0], size, format!("picture {id}"))))
        };
        let mut message = Message::text(Role::User, "What is this?");
        message.parts.extend(ids.iter().map(image));
        Arc::new(Request { messages: vec![message], ..Request::default() })
    }

    #[tokio::test]
    async fn continuous_sight_says_what_is_new_until_three_pictures_are_spent() {
        let describing = describing(&json!({ "text": SCENE }));
        let mut bench = Bench::new(settings(Mode::Continuous, true, Some(describing)));
        let mut scenes = Vec::new();
        for _ in 0..5 {
            bench.show();
            if let Some(Saw::Scene(Some(line))) = bench.next_within(400).await {
                scenes.push(line);
            }
        }
        assert_eq!(scenes, ["Scene 0.", "Scene 1.", "Scene 2."]);
        let told = bench.told();
        let kinds: Vec<&str> = told.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, ["vision.result", "vision.result", "vision.budget_spent", "vision.result"]);
        let first = &told[0].1;
        assert_eq!((&first["description"], &first["reason"]), (&json!("Scene 0."), &json!("sample")));
        assert!(first["age_ms"].as_u64().is_some_and(|age| age <= 150), "{first:?}");
        assert_eq!(told[2].1["images"], 3);
        // Nothing more is spent, whoever asks: neither for the agent's own model nor for an application.
        assert_eq!(bench.described("And now?").await, Err(NotSeen::Not(NotDescribed::Spent)));
        assert_eq!(bench.seeing.admit(question(&[77])).image_count(), 0);
        assert!(bench.seeing.look("").is_none() && !bench.seeing.want(Reason::Turn));
        assert_eq!(bench.kinds(), ["vision.failed"], "spent is told once");
    }

    #[tokio::test]
    async fn a_model_that_fails_is_told_once_and_the_agent_believes_nothing_old() {
        let describing = describing(&json!({ "text": SCENE, "answers": [] }));
        let mut bench = Bench::new(settings(Mode::Continuous, false, Some(describing)));
        bench.show();
        assert!(matches!(bench.next_within(400).await, Some(Saw::Scene(Some(_)))));
        let Seeing { describer, budget, .. } = &mut bench.seeing;
        let Describing { models, settings, .. } = self::describing(&json!({ "fail": "error" }));
        *describer = Some(Describer::new(models, settings, Some(budget)));
        bench.show();
        assert!(matches!(bench.next_within(400).await, Some(Saw::Scene(None))));
        bench.show();
        assert!(bench.next_within(300).await.is_none());
        assert_eq!(bench.kinds(), ["vision.result", "vision.failed", "vision.budget_spent"]);
    }

    #[tokio::test]
    async fn whoever_asks_has_an_answer_in_time_whatever_becomes_of_the_model() {
        let good = describing(&json!({ "text": SCENE }));
        let mut bench = Bench::new(settings(Mode::Turn, false, Some(good)));
        assert_eq!(bench.described("").await, Err(NotSeen::NoPicture));
        bench.show();
        let seen = bench.described("Is there a parcel?").await.expect("a description");
        assert_eq!((seen.vision.description.as_str(), seen.provider.as_str()), ("Scene 0.", "vision"));
        let told = bench.told();
        assert_eq!(told[1].1["question"], "Is there a parcel?");
        assert_eq!((told[0].0, told[1].0), ("vision.failed", "vision.result"));
        for (fault, code) in [("hang", "model_too_slow"), ("error", "model_failed")] {
            let mut bench =
                Bench::new(settings(Mode::Turn, false, Some(describing(&json!({ "fail": fault })))));
            bench.show();
            let began = Instant::now();
            let why = bench.described("").await.expect_err("a failure");
            assert_eq!(why.code(), code);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        }
        let mut unwatched = Bench::new(settings(Mode::Turn, true, None));
        assert_eq!(unwatched.described("").await, Err(NotSeen::NoPicture));
    }

    #[tokio::test]
    async fn an_agent_that_cannot_see_looks_through_the_other_model() {
        let mut bench = Bench::new(settings(Mode::Turn, false, Some(describing(&json!({ "text": SCENE })))));
        bench.show();
        assert!(!bench.seeing.want(Reason::Turn), "it gets no picture with its turns");
        assert!(bench.seeing.look("").is_some());
        let Some(Saw::Looked(Ok(words))) = bench.next_within(400).await else { panic!("nothing") };
        assert_eq!(words, "Scene 0.");
        assert_eq!(bench.seeing.admit(question(&[1])).image_count(), 0);
    }

    #[tokio::test]
    async fn a_model_that_refuses_pictures_is_asked_again_without_and_gets_none_any_more() {
        let mut bench = Bench::new(settings(Mode::Turn, true, None));
        let asked = bench.seeing.admit(question(&[1, 2]));
        assert_eq!(asked.image_count(), 2);
        let busy = Failure::Busy { retry_after_ms: None };
        assert!(bench.seeing.refused(&busy).is_none());
        let text = "This model does not support images.".to_owned();
        let refusal = Failure::Refused { status: 400, text };
        let blind = bench.seeing.refused(&refusal).expect("the same without pictures");
        assert_eq!(blind.image_count(), 0);
        assert!(blind.messages[0].words().ends_with("[picture 1]\n[picture 2]"));
        assert_eq!(bench.seeing.admit(question(&[3])).image_count(), 0);
        assert!(bench.seeing.refused(&refusal).is_none() && !bench.seeing.want(Reason::Turn));
        assert_eq!(bench.kinds(), ["vision.unsupported"]);
    }

    #[tokio::test]
    async fn a_live_session_is_sent_as_many_pictures_as_are_paid_and_forgets_them_then() {
        let mut bench = Bench::new(settings(Mode::Live, true, None));
        let mut sent = 0;
        for _ in 0..5 {
            bench.show();
            if let Some(Saw::Picture { image: Some(image), reason: Reason::Sample }) =
                bench.next_within(300).await
            {
                assert!(bench.seeing.take(&image) && bench.seeing.has_shown(&image));
                sent += 1;
            }
        }
        assert_eq!((sent, bench.kinds()), (3, vec!["vision.budget_spent"]));
        assert_eq!(bench.seeing.turn_done(Usage::default()), [1, 2, 3]);
    }

    /// In turn sight no picture comes that nobody asked for; in the others, pictures and scenes come, and nothing else.
    #[tokio::test]
    async fn pictures_alone_are_nothing_but_pictures() {
        let describing = || Some(describing(&json!({ "text": SCENE })));
        for (mode, sees) in
            [(Mode::Off, true), (Mode::Turn, true), (Mode::Live, true), (Mode::Continuous, false)]
        {
            let mut bench = Bench::new(settings(mode, sees, describing()));
            let mut saw = Vec::new();
            for _ in 0..2 {
                bench.show();
                saw.extend(bench.next_within(200).await.map(|saw| match saw {
                    Saw::Picture { reason: Reason::Sample, .. } => "sample",
                    Saw::Scene(_) => "scene",
                    Saw::Picture { .. } | Saw::Looked(_) | Saw::Question { .. } => "more",
                }));
            }
            let expected: &[&str] = match mode {
                Mode::Off | Mode::Turn => &[],
                Mode::Live => &["sample", "sample"],
                Mode::Continuous => &["scene", "scene"],
            };
            assert_eq!(saw, expected, "{mode:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_model_that_describes_a_realtime_one_is_asked_beside_its_talk() {
        let mut bench = Bench::new(SeeingSettings { aside: true, ..settings(Mode::Turn, true, None) });
        bench.show();
        for (answer, expected) in [
            (
                Ok(
                    r#"{"description": "A parcel.", "labels": [], "text": "", "faces": 0, "confidence": 0.9}"#,
                ),
                "A parcel.",
            ),
            (Err(Failure::Cut), ""),
        ] {
            let (reply, answered) = Reply::new();
            bench.seeing.describe("Is there a parcel?".to_owned(), reply);
            let Some(Saw::Question { number, request }) = bench.next_within(1_000).await else {
                panic!("a question")
            };
            assert_eq!(request.image_count(), 1);
            bench.seeing.handle_aside(number, answer.map(str::to_owned), Usage::default(), "gpt");
            let seen = answered.await.expect("an answer");
            let description = seen.as_ref().map_or("", |seen| seen.vision.description.as_str());
            assert_eq!(description, expected, "{seen:?}");
        }
        assert_eq!(bench.kinds(), ["vision.result", "vision.failed"]);
    }
}
