//! What the sessions of one `[avatar.NAME]` come to: how many at once, how many minutes today, what they cost.
//!
//! Pure: time is seconds since 1970 (UTC). A second of a session counts from the moment the provider has it, as providers
//! count.

use std::time::Duration;

const DAY: u64 = 86_400;

/// What is allowed; zero: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowance {
    pub minutes_a_day: u32,
    pub sessions: u32,
    pub usd_per_minute: f64,
}

/// Why no session may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} sessions are open, as many as max_sessions allows")]
    Full(u32),
    #[error("the {0} minutes of budget_minutes are used up for today")]
    Spent(u32),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LedgerFigures {
    pub open: u32,
    pub opened: u64,
    /// Not begun for the sake of the allowance.
    pub refused: u64,
    /// Lost without our doing.
    pub lost: u64,
    /// Left behind by an earlier run and ended at the start.
    pub reaped: u64,
    pub seconds: f64,
    pub usd: f64,
    /// Minutes left today; `None`: no limit.
    pub left_today: Option<f64>,
}

/// The book of one avatar's sessions.
#[derive(Debug)]
pub struct Ledger {
    allowance: Allowance,
    /// Sessions admitted, by their number, with the second they began to count.
    open: Vec<(u64, Option<f64>)>,
    numbers: u64,
    /// The day and what was used of it by sessions that are over.
    day: u64,
    used: f64,
    figures: LedgerFigures,
}

impl Ledger {
    pub fn new(allowance: Allowance) -> Self {
        Ledger {
            allowance,
            open: Vec::new(),
            numbers: 0,
            day: 0,
            used: 0.0,
            figures: LedgerFigures::default(),
        }
    }

    /// A session may begin: its number. Ends with [`Ledger::end`] in any case.
    ///
    /// # Errors
    /// Says which limit stands against it.
    pub fn admit(&mut self, now: f64) -> Result<u64, Refused> {
        let Allowance { minutes_a_day, sessions, .. } = self.allowance;
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        let refused = if sessions > 0 && open >= sessions {
            Some(Refused::Full(open))
        } else if self.left(now).is_some_and(|left| left <= 0.0) {
            Some(Refused::Spent(minutes_a_day))
        } else {
            None
        };
        if let Some(refused) = refused {
            self.figures.refused += 1;
            return Err(refused);
        }
        self.numbers += 1;
        self.open.push((self.numbers, None));
        Ok(self.numbers)
    }

    /// The provider has begun to count.
    pub fn begin(&mut self, now: f64, number: u64) {
        if let Some((_, began)) =
            self.open.iter_mut().find(|(open, began)| *open == number && began.is_none())
        {
            *began = Some(now);
            self.figures.opened += 1;
        }
    }

    /// A session is over; how long it counted. Again: nothing.
    pub fn end(&mut self, now: f64, number: u64, lost: bool) -> Duration {
        self.turn_page(now);
        let Some(at) = self.open.iter().position(|(open, _)| *open == number) else { return Duration::ZERO };
        let (_, began) = self.open.swap_remove(at);
        let Some(began) = began else { return Duration::ZERO };
        let lasted = (now - began).max(0.0);
        self.used += (now - began.max(self.midnight())).max(0.0);
        self.figures.seconds += lasted;
        self.figures.usd += lasted / 60.0 * self.allowance.usd_per_minute;
        self.figures.lost += u64::from(lost);
        Duration::from_secs_f64(lasted)
    }

    pub fn reaped(&mut self) {
        self.figures.reaped += 1;
    }

    /// What a minute costs.
    pub fn price(&self) -> f64 {
        self.allowance.usd_per_minute
    }

    /// Seconds all open sessions together may still last today; `None`: no limit.
    pub fn left(&mut self, now: f64) -> Option<f64> {
        if self.allowance.minutes_a_day == 0 {
            return None;
        }
        self.turn_page(now);
        let midnight = self.midnight();
        let running: f64 = self
            .open
            .iter()
            .filter_map(|(_, began)| *began)
            .map(|began| (now - began.max(midnight)).max(0.0))
            .sum();
        Some(f64::from(self.allowance.minutes_a_day) * 60.0 - self.used - running)
    }

    /// How long from now on until the budget is used up at the present pace; `None`: not today.
    pub fn lasts(&mut self, now: f64) -> Option<Duration> {
        let left = self.left(now)?;
        let counting = self.open.iter().filter(|(_, began)| began.is_some()).count().max(1);
        let lasts = (left / counting as f64).max(0.0);
        let midnight = self.midnight() + DAY as f64;
        (now + lasts < midnight).then(|| Duration::from_secs_f64(lasts))
    }

    pub fn figures(&mut self, now: f64) -> LedgerFigures {
        let left_today = self.left(now).map(|left| (left / 60.0).max(0.0));
        let running: f64 =
            self.open.iter().filter_map(|(_, began)| *began).map(|began| (now - began).max(0.0)).sum();
        let seconds = self.figures.seconds + running;
        let usd = self.figures.usd + running / 60.0 * self.allowance.usd_per_minute;
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        LedgerFigures { open, seconds, usd, left_today, ..self.figures }
    }

    fn midnight(&self) -> f64 {
        (self.day * DAY) as f64
    }

    /// A new day has the whole budget; a session that runs over midnight counts for each day its own part.
    fn turn_page(&mut self, now: f64) {
        let day = now.max(0.0) as u64 / DAY;
        if day > self.day {
            self.day = day;
            self.used = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: f64 = 100.0 * DAY as f64 + 43_200.0;

    fn ledger(minutes_a_day: u32, sessions: u32) -> Ledger {
        Ledger::new(Allowance { minutes_a_day, sessions, usd_per_minute: 0.6 })
    }

    #[test]
    fn no_more_sessions_at_once_than_allowed() {
        let mut ledger = ledger(0, 2);
        let first = ledger.admit(NOON).expect("room");
        ledger.admit(NOON).expect("room");
        assert_eq!(ledger.admit(NOON), Err(Refused::Full(2)));
        ledger.end(NOON, first, false);
        assert!(ledger.admit(NOON).is_ok());
        assert_eq!(ledger.figures(NOON).refused, 1);
    }

    #[test]
    fn minutes_count_from_when_the_provider_has_the_session_and_are_paid() {
        let mut ledger = ledger(10, 0);
        let number = ledger.admit(NOON).expect("room");
        assert_eq!(ledger.left(NOON + 60.0), Some(600.0), "nothing counts yet");
        ledger.begin(NOON + 60.0, number);
        assert_eq!(ledger.left(NOON + 120.0), Some(540.0));
        assert_eq!(ledger.lasts(NOON + 120.0), Some(Duration::from_secs(540)));
        assert_eq!(ledger.end(NOON + 360.0, number, true), Duration::from_secs(300));
        assert_eq!(ledger.end(NOON + 400.0, number, true), Duration::ZERO, "once");
        let figures = ledger.figures(NOON + 400.0);
        assert_eq!((figures.opened, figures.lost, figures.open), (1, 1, 0));
        assert!((figures.usd - 3.0).abs() < 1e-9 && (figures.seconds - 300.0).abs() < 1e-9);
        let number = ledger.admit(NOON + 400.0).expect("room");
        ledger.begin(NOON + 400.0, number);
        assert_eq!(ledger.admit(NOON + 701.0), Err(Refused::Spent(10)));
    }

    #[test]
    fn a_new_day_has_its_own_budget_and_a_session_over_midnight_counts_for_both() {
        let mut ledger = ledger(10, 0);
        let midnight = 101.0 * DAY as f64;
        let number = ledger.admit(midnight - 300.0).expect("room");
        ledger.begin(midnight - 300.0, number);
        assert_eq!(ledger.lasts(midnight - 200.0), None, "tomorrow there is more");
        assert_eq!(ledger.left(midnight - 1.0), Some(301.0));
        assert_eq!(ledger.left(midnight + 120.0), Some(480.0));
        ledger.end(midnight + 240.0, number, false);
        assert_eq!(ledger.left(midnight + 300.0), Some(360.0));
    }

    #[test]
    fn two_sessions_use_the_budget_up_twice_as_fast() {
        let mut ledger = ledger(10, 0);
        for _ in 0..2 {
            let number = ledger.admit(NOON).expect("room");
            ledger.begin(NOON, number);
        }
        assert_eq!(ledger.lasts(NOON), Some(Duration::from_secs(300)));
    }
}
