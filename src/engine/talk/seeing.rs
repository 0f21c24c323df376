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

use super::until;
use crate::base::queue::{Fifo, Sender};
use crate::base::reply::Reply;
use crate::engine::plan::{CallId, Event};
use crate::engine::sight::{SightHandle, SightSettings};
use crate::talk::conversation::Told;
use crate::talk::link::Models;
use crate::talk::message::{Failure, Image, Request, Usage};
use crate::talk::sight::budget::{Budget, BudgetSettings, Ticket, image_tokens, without_pictures};
use crate::talk::sight::describe::{DescribeSettings, Described, Describer, For, NotDescribed};
use crate::talk::sight::description::{Description, NotSeen, Seen};
use crate::talk::sight::{Mode, Reason, Sighted};

/// Questions that wait for their picture or their answer.
const WAITING_MAX: usize = 8;
/// Pictures a session was sent that it may still hold.
const SHOWN_MAX: usize = 4;
/// A picture comes at once or not at all.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How a call is looked at; shared by the calls of an agent or a route.
#[derive(Clone)]
pub struct SeeingSettings {
    pub mode: Mode,
    pub sight: SightSettings,
    /// The agent's own model takes pictures.
    pub sees: bool,
    /// Why it does not, where it was to: told once in every call.
    pub blind: Option<String>,
    /// The model of `[vision]`.
    pub describing: Option<Describing>,
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
        self.mode != Mode::Off && self.describing.is_some()
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
}

/// Somebody who asks what there is to see.
struct Waiting {
    number: u64,
    question: String,
    until: Instant,
    /// `None`: waited too long, and its picture is still on its way.
    who: Option<Who>,
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
            sees: settings.as_ref().is_some_and(|own| own.sees && own.mode != Mode::Off),
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
        if self.describer.is_none() || self.sight.is_none() {
            reply.send(Err(NotSeen::NoPicture));
        } else if self.unseen.len() + self.seen.len() >= WAITING_MAX {
            reply.send(Err(NotSeen::Not(NotDescribed::Crowded)));
        } else {
            self.wait(question, Who::Application(reply));
        }
    }

    fn limit(&self) -> Duration {
        let describing = self.settings.as_ref().and_then(|own| own.describing.as_ref());
        describing.map_or(Duration::from_secs(10), |describing| describing.limit)
    }

    fn wait(&mut self, question: String, who: Who) {
        self.next_number += 1;
        let until = Instant::now() + self.limit();
        self.unseen.push_back(Waiting { number: self.next_number, question, until, who: Some(who) });
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
            let first = waiting.map(|waiting| waiting.until).min();
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
        match (image, &mut self.describer) {
            _ if waiting.who.is_none() => None,
            (Some(image), Some(describer)) => {
                describer.ask(image, waiting.number, waiting.question.clone());
                self.seen.push(waiting);
                None
            }
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
            Ok(_) if again => {
                self.failure = None;
                None
            }
            Ok(description) => {
                self.failure = None;
                self.tell_result(description, Reason::Sample, "");
                Some(Saw::Scene(Some(description.vision.line())))
            }
            Err(why) => {
                // The picture has changed, and nobody knows to what.
                let text = why.to_string();
                if self.failure.as_ref() == Some(&text) {
                    return None;
                }
                self.failure = Some(text);
                self.tell_failure(why, Reason::Sample);
                Some(Saw::Scene(None))
            }
        }
    }

    /// Whoever has waited too long is told.
    fn give_up(&mut self, now: Instant) -> Option<Saw> {
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
