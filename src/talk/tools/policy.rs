//! Whether a tool may be used now: how often, how soon again, with which values, and what must have happened before.
//!
//! Pure. A policy is configuration; the facts it is held against are of this box. A model's arguments are only ever
//! compared, never believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Tools used in one call, whatever their policies say.
const TOTAL: u32 = 500;

/// What must have happened before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Needs {
    #[default]
    Nothing,
    /// The caller has spoken in this call.
    Speech,
}

/// What one tool is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Times in one call; 0: as often as it likes.
    pub max_per_call: u32,
    /// From one use to the next.
    pub min_interval: Duration,
    pub needs: Needs,
    /// Values of the argument that decides (digits, whom to transfer to), `*` at the end for any rest. Empty: any;
    /// what the call itself refuses is refused all the same.
    pub allow: Vec<String>,
}

/// The policies of an agent's tools, by name. A tool without one is unbounded but for the bound of all.
pub type Policies = Arc<BTreeMap<String, Policy>>;

/// Why a tool was not used, in words for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooOften,
    TooSoon,
    NotAllowed,
    NobodySpoke,
}

impl Refusal {
    pub fn words(self) -> &'static str {
        match self {
            Refusal::TooOften => "That was refused: it was used as often as this call allows.",
            Refusal::TooSoon => "That was refused: it was used a moment ago. Wait before you try again.",
            Refusal::NotAllowed => "That was refused: this value is not allowed.",
            Refusal::NobodySpoke => "That was refused: the caller has not spoken yet.",
        }
    }
}

/// Holds the tools of one call to their policies.
#[derive(Debug, Default)]
pub struct Gatekeeper {
    policies: Policies,
    /// Of each tool: how often, and when last.
    used: BTreeMap<String, (u32, Instant)>,
    total: u32,
    spoken: bool,
}

impl Gatekeeper {
    pub fn new(policies: Policies) -> Self {
        Gatekeeper { policies, ..Gatekeeper::default() }
    }

    /// The caller has spoken.
    pub fn handle_speech(&mut self) {
        self.spoken = true;
    }

    /// Counts a use, if it is allowed. `subject`: what [`Policy::allow`] is about.
    ///
    /// # Errors
    /// Says why it is not; nothing is counted then.
    pub fn admit(&mut self, now: Instant, name: &str, subject: Option<&str>) -> Result<(), Refusal> {
        if self.total >= TOTAL {
            return Err(Refusal::TooOften);
        }
        let used = self.used.get(name).copied();
        if let Some(policy) = self.policies.get(name) {
            policy.permits(now, used, self.spoken, subject)?;
        }
        self.total += 1;
        let times = used.map_or(0, |(times, _)| times);
        self.used.insert(name.to_owned(), (times + 1, now));
        Ok(())
    }
}

impl Policy {
    fn permits(
        &self,
        now: Instant,
        used: Option<(u32, Instant)>,
        spoken: bool,
        subject: Option<&str>,
    ) -> Result<(), Refusal> {
        if self.needs == Needs::Speech && !spoken {
            return Err(Refusal::NobodySpoke);
        }
        let listed = |subject: &str| self.allow.iter().any(|pattern| covers(pattern, subject));
        if !self.allow.is_empty() && !subject.is_some_and(listed) {
            return Err(Refusal::NotAllowed);
        }
        let Some((times, last)) = used else { return Ok(()) };
        if self.max_per_call > 0 && times >= self.max_per_call {
            return Err(Refusal::TooOften);
        }
        if now < last + self.min_interval {
            return Err(Refusal::TooSoon);
        }
        Ok(())
    }
}

/// Whether a pattern, `*` at its end for any rest, covers a value.
pub fn covers(pattern: &str, subject: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => subject.starts_with(start),
        None => subject == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(policy: Policy) -> Gatekeeper {
        Gatekeeper::new(Arc::new(BTreeMap::from([("dtmf".to_owned(), policy)])))
    }

    #[test]
    fn rates_are_kept_and_refusals_do_not_count() {
        let policy = Policy { max_per_call: 2, min_interval: Duration::from_secs(5), ..Policy::default() };
        let (mut keeper, start) = (keeper(policy), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(keeper.admit(at(0), "dtmf", Some("1")), Ok(()));
        assert_eq!(keeper.admit(at(4), "dtmf", Some("1")), Err(Refusal::TooSoon));
        assert_eq!(keeper.admit(at(5), "dtmf", Some("1")), Ok(()));
        assert_eq!(keeper.admit(at(99), "dtmf", Some("1")), Err(Refusal::TooOften));
        // One without a policy goes on, as far as everything does.
        let more = (0..1000).filter(|_| keeper.admit(at(100), "look", None).is_ok()).count();
        assert_eq!(more, TOTAL as usize - 2);
    }

    #[test]
    fn only_listed_values_pass() {
        let policy = Policy { allow: vec!["100".into(), "sip:desk@*".into()], ..Policy::default() };
        let (mut keeper, now) = (keeper(policy), Instant::now());
        let mut tried = |subject| keeper.admit(now, "dtmf", subject);
        assert_eq!(tried(Some("100")), Ok(()));
        assert_eq!(tried(Some("sip:desk@10.0.0.1")), Ok(()));
        for bad in [Some("1001"), Some("900100"), Some("sip:boss@desk"), Some(""), None] {
            assert_eq!(tried(bad), Err(Refusal::NotAllowed), "{bad:?}");
        }
    }

    #[test]
    fn what_needs_a_voice_waits_for_one() {
        let (mut keeper, now) =
            (keeper(Policy { needs: Needs::Speech, ..Policy::default() }), Instant::now());
        assert_eq!(keeper.admit(now, "dtmf", None), Err(Refusal::NobodySpoke));
        keeper.handle_speech();
        assert_eq!(keeper.admit(now, "dtmf", None), Ok(()));
    }
}
