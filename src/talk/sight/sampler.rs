//! When a picture is due: often while the caller speaks, seldom while it is silent, at once when speech begins.
//!
//! Pure. Rates are kept on the clock and not by counting pictures, whatever rate the pictures come at.

use std::time::{Duration, Instant};

use crate::talk::sight::Reason;

/// How often samples are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerSettings {
    /// Pictures a second while the caller speaks; 0: none.
    pub speaking_fps: f64,
    /// While it is silent.
    pub silent_fps: f64,
    /// One picture when speech begins.
    pub onset: bool,
}

impl Default for SamplerSettings {
    fn default() -> Self {
        SamplerSettings { speaking_fps: 1.0, silent_fps: 0.334, onset: true }
    }
}

/// The schedule of one call.
#[derive(Clone, Debug)]
pub struct Sampler {
    settings: SamplerSettings,
    speaking: bool,
    last: Option<Instant>,
    onset_owed: bool,
}

impl Sampler {
    pub fn new(settings: SamplerSettings) -> Self {
        Sampler { settings, speaking: false, last: None, onset_owed: false }
    }

    /// The caller began or ceased to speak.
    pub fn handle_speaking(&mut self, speaking: bool) {
        self.onset_owed |= speaking && !self.speaking && self.settings.onset;
        self.speaking = speaking;
    }

    fn period(&self) -> Option<Duration> {
        let fps = if self.speaking { self.settings.speaking_fps } else { self.settings.silent_fps };
        (fps > 0.0).then(|| Duration::from_secs_f64(1.0 / fps.clamp(0.001, 60.0)))
    }

    /// Whether a picture is due at `now`, and why. Say [`Sampler::taken`] when one was found.
    pub fn due(&self, now: Instant) -> Option<Reason> {
        if self.onset_owed {
            return Some(Reason::Onset);
        }
        // A picture that comes a little early would otherwise cost a whole picture's time.
        let slack = |period: Duration| (period / 8).min(Duration::from_millis(20));
        let is_time =
            |last: Instant, period: Duration| now.saturating_duration_since(last) + slack(period) >= period;
        let period = self.period()?;
        self.last.is_none_or(|last| is_time(last, period)).then_some(Reason::Sample)
    }

    /// A picture was taken at `now`, for whatever reason: the next sample is counted from it.
    pub fn taken(&mut self, now: Instant) {
        self.onset_owed = false;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds at which pictures are taken of a source of one picture per `step`.
    fn taken(settings: SamplerSettings, step: u64, end: u64, speaking: impl Fn(u64) -> bool) -> Vec<u64> {
        let (start, mut sampler) = (Instant::now(), Sampler::new(settings));
        let mut times = Vec::new();
        for at in (0..end).step_by(step as usize) {
            let now = start + Duration::from_millis(at);
            sampler.handle_speaking(speaking(at));
            if sampler.due(now).is_some() {
                sampler.taken(now);
                times.push(at);
            }
        }
        times
    }

    #[test]
    fn a_silent_caller_is_seen_every_three_seconds_and_a_speaking_one_every_second() {
        let silent = taken(SamplerSettings::default(), 40, 60_000, |_| false);
        assert!((20..=21).contains(&silent.len()), "{silent:?}");
        let speaking = taken(SamplerSettings::default(), 66, 10_000, |_| true);
        assert!((9..=11).contains(&speaking.len()), "{speaking:?}");
        assert!(speaking.windows(2).all(|two| two[1] - two[0] >= 970), "{speaking:?}");
    }

    #[test]
    fn the_onset_is_never_waited_for() {
        let settings = SamplerSettings { silent_fps: 0.0, ..SamplerSettings::default() };
        let times = taken(settings, 40, 4_000, |at| (1_020..2_500).contains(&at));
        assert_eq!(times, [1_040, 2_040]);
        let none = SamplerSettings { speaking_fps: 0.0, silent_fps: 0.0, onset: false };
        assert_eq!(taken(none, 40, 4_000, |at| at > 1_000), Vec::<u64>::new());
    }
}
