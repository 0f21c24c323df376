//! Faults that tests inject into the child; compiled with the feature `faults` only.
//!
//! Pure. [`super::client::Worker::inject`] sends one, the variable `EYELINE_FAULTS` holds a [`Plan`].

use serde::{Deserialize, Serialize};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The child is killed at once.
    Kill,
    /// The next request takes this much longer, in milliseconds; nothing else is done meanwhile.
    Stall { ms: u64 },
    /// This many requests get no answer.
    DropAnswers(u32),
    /// This many requests are answered with an error.
    FailAnswers(u32),
}

/// Faults on every n-th request, for runs without a test at the controls: `kill:300,stall:97:2500,drop:13,fail:7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    entries: Vec<(u64, Fault)>,
}

impl Plan {
    /// Entries that cannot be read are left out.
    pub fn parse(text: &str) -> Plan {
        let entry = |text: &str| {
            let mut words = text.trim().split(':');
            let kind = words.next()?;
            let every = words.next()?.parse().ok().filter(|every| *every > 0)?;
            let fault = match kind {
                "kill" => Fault::Kill,
                "stall" => Fault::Stall { ms: words.next()?.parse().ok()? },
                "drop" => Fault::DropAnswers(1),
                "fail" => Fault::FailAnswers(1),
                _ => return None,
            };
            Some((every, fault))
        };
        Plan { entries: text.split(',').filter_map(entry).collect() }
    }

    /// What goes wrong with request `number`, counted from 1.
    pub fn of(&self, number: u64) -> impl Iterator<Item = Fault> {
        self.entries.iter().filter(move |(every, _)| number.is_multiple_of(*every)).map(|(_, fault)| *fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_strikes_every_nth_request() {
        let plan = Plan::parse("drop:3, stall:4:50,nonsense,kill:0");
        assert_eq!(plan.of(12).collect::<Vec<_>>(), [Fault::DropAnswers(1), Fault::Stall { ms: 50 }]);
        assert_eq!(plan.of(1).count(), 0);
    }
}
