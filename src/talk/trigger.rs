//! What makes an agent act without anybody speaking: time, or something that is seen for a while.
//!
//! Pure: who sees says what, whoever drives it says when, and takes what is due once the moment is right for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen is gone when nobody says for so long that it is there: a picture that stands still shows nothing.
const STALE: Duration = Duration::from_secs(5);

/// When.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Once, so long after it was started.
    After(Duration),
    Every(Duration),
    /// Something of this class was there for so long.
    Seen {
        class: String,
        lasting: Duration,
    },
}

/// What then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The agent's model is asked, with a picture.
    Ask(String),
    /// A tool is used with these arguments (JSON), and no model is asked.
    Tool { name: String, arguments: String },
}

/// `[[trigger]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub name: String,
    pub when: When,
    /// From one time to the next.
    pub cooldown: Duration,
    /// Times in one call; 0: as often as it comes.
    pub max_per_call: u32,
    pub action: Action,
    /// It begins when the call is answered; `false`: when it is started by its name.
    pub at_answer: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// It runs since then.
    begun: Option<Instant>,
    /// Of a timer: when next.
    next: Option<Instant>,
    /// Its class is there since then, and was last said to be.
    since: Option<(Instant, Instant)>,
    /// For what is there now it has fired.
    done: bool,
    last: Option<Instant>,
    fired: u32,
    waits: bool,
}

/// The triggers of one call.
#[derive(Debug)]
pub struct Triggers {
    list: Arc<[Trigger]>,
    states: Vec<State>,
    /// Each at most once.
    due: VecDeque<usize>,
}

impl Triggers {
    pub fn new(list: Arc<[Trigger]>) -> Self {
        Triggers { states: vec![State::default(); list.len()], list, due: VecDeque::new() }
    }

    /// The call is answered.
    pub fn begin(&mut self, now: Instant) {
        for at in 0..self.list.len() {
            if self.list[at].at_answer {
                self.start_at(now, at);
            }
        }
    }

    /// Starts one by its name; one that runs goes on.
    pub fn start(&mut self, now: Instant, name: &str) {
        if let Some(at) = self.list.iter().position(|trigger| trigger.name == name) {
            self.start_at(now, at);
        }
    }

    fn start_at(&mut self, now: Instant, at: usize) {
        let state = &mut self.states[at];
        if state.begun.is_some() {
            return;
        }
        state.begun = Some(now);
        state.next = match self.list[at].when {
            When::After(after) => Some(now + after),
            When::Every(every) => Some(now + every),
            When::Seen { .. } => None,
        };
    }

    /// Something of this class is in the picture, or is not any more.
    pub fn handle_seen(&mut self, now: Instant, class: &str, there: bool) {
        for (trigger, state) in self.list.iter().zip(&mut self.states) {
            let When::Seen { class: wanted, .. } = &trigger.when else { continue };
            if wanted != class {
                continue;
            }
            match (&mut state.since, there) {
                (Some((_, last)), true) => *last = now,
                (since @ None, true) => (*since, state.done) = (Some((now, now)), false),
                (since, false) => *since = None,
            }
        }
        self.handle_time(now);
    }

    pub fn wake_at(&self) -> Option<Instant> {
        (0..self.list.len()).filter_map(|at| self.moment(at)).min()
    }

    /// When a trigger is due, as far as is known; of one that waits already, nothing.
    fn moment(&self, at: usize) -> Option<Instant> {
        let (trigger, state) = (&self.list[at], &self.states[at]);
        let begun = state.begun.filter(|_| !state.waits)?;
        if trigger.max_per_call > 0 && state.fired >= trigger.max_per_call {
            return None;
        }
        let ready = match &trigger.when {
            When::After(_) | When::Every(_) => state.next?,
            When::Seen { lasting, .. } => {
                let (since, last) = state.since.filter(|_| !state.done)?;
                let ready = since.max(begun) + *lasting;
                let cool = state.last.map_or(ready, |last| last + trigger.cooldown);
                // Too long ago to be believed: whoever sees will say so again, or that it is gone.
                return Some(ready.max(cool)).filter(|ready| *ready <= last + STALE);
            }
        };
        Some(state.last.map_or(ready, |last| ready.max(last + trigger.cooldown)))
    }

    pub fn handle_time(&mut self, now: Instant) {
        for (trigger, state) in self.list.iter().zip(&mut self.states) {
            state.since.take_if(|(_, last)| now > *last + STALE);
            // A timer that could not be held goes on from now.
            if let (When::Every(every), Some(next)) = (&trigger.when, &mut state.next)
                && now >= *next + *every
            {
                *next = now;
            }
        }
        for at in 0..self.list.len() {
            if self.moment(at).is_none_or(|moment| now < moment) {
                continue;
            }
            let state = &mut self.states[at];
            (state.waits, state.done) = (true, true);
            state.next = match self.list[at].when {
                When::Every(every) => state.next.map(|next| next + every),
                When::After(_) | When::Seen { .. } => None,
            };
            self.due.push_back(at);
        }
    }

    /// The first that is due and whose moment it is: a question waits until nobody speaks (`free`), a tool does not.
    pub fn poll(&mut self, now: Instant, free: bool) -> Option<Trigger> {
        let fits = |at: &usize| free || matches!(self.list[*at].action, Action::Tool { .. });
        let found = self.due.iter().position(fits)?;
        let at = self.due.remove(found)?;
        let state = &mut self.states[at];
        state.waits = false;
        state.fired += 1;
        state.last = Some(now);
        Some(self.list[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(name: &str, when: When) -> Trigger {
        Trigger {
            name: name.into(),
            when,
            cooldown: Duration::ZERO,
            max_per_call: 0,
            action: Action::Ask("what is it?".into()),
            at_answer: true,
        }
    }

    fn person(lasting: u64, cooldown: u64) -> Trigger {
        let when = When::Seen { class: "person".into(), lasting: Duration::from_secs(lasting) };
        Trigger { cooldown: Duration::from_secs(cooldown), ..trigger("parcel", when) }
    }

    /// Runs until `until`, in steps as a driver would, telling every second what is there; what fired, in seconds.
    fn run(list: Vec<Trigger>, until: u64, there: impl Fn(u64) -> bool) -> Vec<(u64, String)> {
        let start = Instant::now();
        let mut triggers = Triggers::new(list.into());
        triggers.begin(start);
        let mut fired = Vec::new();
        for ms in 0..until * 10 {
            let now = start + Duration::from_millis(ms * 100);
            if ms % 10 == 0 {
                triggers.handle_seen(now, "person", there(ms / 10));
            }
            if triggers.wake_at().is_some_and(|at| now >= at) {
                triggers.handle_time(now);
            }
            while let Some(trigger) = triggers.poll(now, true) {
                fired.push((ms / 10, trigger.name));
            }
        }
        fired
    }

    fn seconds(fired: Vec<(u64, String)>) -> Vec<u64> {
        fired.into_iter().map(|(second, _)| second).collect()
    }

    #[test]
    fn timers_fire_when_they_should() {
        let after = trigger("after", When::After(Duration::from_secs(3)));
        assert_eq!(seconds(run(vec![after], 30, |_| false)), [3]);
        let every = trigger("every", When::Every(Duration::from_secs(10)));
        assert_eq!(seconds(run(vec![every.clone()], 35, |_| false)), [10, 20, 30]);
        let twice = Trigger { max_per_call: 2, ..every };
        assert_eq!(seconds(run(vec![twice], 99, |_| false)), [10, 20]);
    }

    #[test]
    fn what_is_seen_long_enough_fires_once_each_time_it_comes() {
        let seen = |second: u64| matches!(second, 2..=3 | 10..=20 | 30..=60);
        assert_eq!(seconds(run(vec![person(3, 0)], 70, seen)), [13, 33]);
        // Still there when the pause is over: then.
        assert_eq!(seconds(run(vec![person(3, 30)], 70, seen)), [13, 43]);
        assert_eq!(seconds(run(vec![person(3, 60)], 70, seen)), [13]);
        assert_eq!(seconds(run(vec![person(0, 0)], 5, |second| second == 2)), [2]);
    }

    #[test]
    fn a_question_waits_until_nobody_speaks_and_a_tool_does_not() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let tool = Action::Tool { name: "unlock".into(), arguments: "{}".into() };
        let list = vec![person(0, 0), Trigger { action: tool, name: "open".into(), ..person(0, 0) }];
        let mut triggers = Triggers::new(list.into());
        triggers.begin(start);
        triggers.handle_seen(at(1), "person", true);
        assert_eq!(triggers.poll(at(1), false).map(|trigger| trigger.name).as_deref(), Some("open"));
        assert_eq!(triggers.poll(at(1), false), None);
        // It is gone meanwhile; the agent is asked all the same, once.
        triggers.handle_seen(at(2), "person", false);
        triggers.handle_seen(at(3), "person", true);
        assert_eq!(triggers.poll(at(9), true).map(|trigger| trigger.name).as_deref(), Some("parcel"));
        assert_eq!(triggers.poll(at(9), true).map(|trigger| trigger.name).as_deref(), Some("open"));
        assert_eq!(triggers.poll(at(9), true), None);
    }

    #[test]
    fn a_trigger_that_is_started_by_name_waits_for_it_and_old_sights_count_for_nothing() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut triggers = Triggers::new(vec![Trigger { at_answer: false, ..person(2, 0) }].into());
        triggers.begin(start);
        triggers.handle_seen(at(1), "person", true);
        triggers.handle_seen(at(4), "person", true);
        assert_eq!(triggers.poll(at(4), true), None);
        triggers.start(at(5), "parcel");
        triggers.start(at(5), "no such trigger");
        triggers.handle_time(at(30));
        assert_eq!(
            (triggers.poll(at(30), true), triggers.wake_at()),
            (None, None),
            "the picture stood still"
        );
        triggers.handle_seen(at(31), "person", true);
        triggers.handle_seen(at(33), "person", true);
        assert!(triggers.poll(at(33), true).is_some());
    }
}
