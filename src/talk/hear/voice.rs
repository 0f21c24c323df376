//! Speech and silence from probabilities: two thresholds and two least lengths.
//!
//! Pure, counted in samples, so that a late answer moves nothing. Names and defaults are those the field has settled on
//! (silero's). What speech means for the conversation belongs to `turn` and `interruption`.

use std::time::Duration;

use crate::talk::hear::time_samples;

/// How a voice is told from silence.
#[derive(Clone, Debug, PartialEq)]
pub struct VoiceSettings {
    /// From this probability on it is speech.
    pub activation_threshold: f32,
    /// Below this one it no longer is.
    pub deactivation_threshold: f32,
    /// Shorter speech is none.
    pub min_speech: Duration,
    /// Shorter silence is part of the speech.
    pub min_silence: Duration,
    /// Sound from before the onset that belongs to it.
    pub prefix_padding: Duration,
    /// Speech that lasts longer is ended: music, a radio, a detector that is stuck.
    pub max_speech: Duration,
}

impl Default for VoiceSettings {
    fn default() -> Self {
        VoiceSettings {
            activation_threshold: 0.5,
            deactivation_threshold: 0.35,
            min_speech: Duration::from_millis(50),
            min_silence: Duration::from_millis(250),
            prefix_padding: Duration::from_millis(500),
            max_speech: Duration::from_secs(60),
        }
    }
}

/// The end of speech is looked for by energy this far before where the probability fell, which it does late.
const TAIL: Duration = Duration::from_millis(160);

/// What a judgement changed; positions in samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Started { at: u64 },
    Ended { at: u64, samples: u64 },
}

#[derive(Clone, Copy, Debug)]
enum State {
    Silent {
        /// Where what may become speech began.
        candidate: Option<u64>,
    },
    Speaking {
        onset: u64,
        /// Where what may become silence began.
        silent: Option<u64>,
    },
}

/// One stream's speech.
pub struct Voice {
    activation: f32,
    deactivation: f32,
    min_speech: u64,
    min_silence: u64,
    max_speech: u64,
    tail: u64,
    state: State,
    onset: Option<u64>,
    judged: u64,
}

impl Voice {
    pub fn new(settings: &VoiceSettings, rate: u32) -> Self {
        Voice {
            activation: settings.activation_threshold,
            deactivation: settings.deactivation_threshold.min(settings.activation_threshold),
            min_speech: time_samples(settings.min_speech, rate),
            min_silence: time_samples(settings.min_silence, rate),
            max_speech: time_samples(settings.max_speech, rate),
            tail: time_samples(TAIL, rate),
            state: State::Silent { candidate: None },
            onset: None,
            judged: 0,
        }
    }

    pub fn activation(&self) -> f32 {
        self.activation
    }

    pub fn is_speaking(&self) -> bool {
        matches!(self.state, State::Speaking { .. })
    }

    /// Where the last speech began.
    pub fn onset(&self) -> Option<u64> {
        self.onset
    }

    /// Where a silence began that is too short yet to end the speech.
    pub fn silent_since(&self) -> Option<u64> {
        match self.state {
            State::Speaking { silent, .. } => silent,
            State::Silent { .. } => None,
        }
    }

    /// Samples of speech since the onset, silence at its end left out.
    pub fn spoken(&self) -> u64 {
        match self.state {
            State::Speaking { onset, silent } => silent.unwrap_or(self.judged).saturating_sub(onset),
            State::Silent { candidate } => candidate.map_or(0, |from| self.judged.saturating_sub(from)),
        }
    }

    /// The sound from `from` to `until` is speech with this probability; it was last loud at `last_loud`.
    pub fn judge(&mut self, probability: f32, from: u64, until: u64, last_loud: u64) -> Option<Change> {
        self.judged = until;
        match &mut self.state {
            State::Silent { candidate } => {
                if probability < self.deactivation {
                    *candidate = None;
                } else if probability >= self.activation {
                    candidate.get_or_insert(from);
                }
                let onset = (*candidate).filter(|onset| until - onset >= self.min_speech)?;
                self.state = State::Speaking { onset, silent: None };
                self.onset = Some(onset);
                Some(Change::Started { at: onset })
            }
            State::Speaking { onset, silent } => {
                if probability >= self.deactivation {
                    *silent = None;
                    if until - *onset < self.max_speech {
                        return None;
                    }
                } else if silent.is_none() {
                    let earliest = from.saturating_sub(self.tail).max(*onset);
                    *silent = Some(last_loud.clamp(earliest, from.max(earliest)));
                }
                let end = silent.unwrap_or(until);
                if silent.is_some() && until - end < self.min_silence {
                    return None;
                }
                let samples = end - *onset;
                self.state = State::Silent { candidate: None };
                Some(Change::Ended { at: end, samples })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Judges windows of 32 ms at 8 kHz; the energy always agrees with the probability.
    fn changes(probabilities: &[f32]) -> Vec<(usize, Change)> {
        let mut voice = Voice::new(&VoiceSettings::default(), 8_000);
        let mut loud = 0;
        let windows = probabilities.iter().enumerate().filter_map(|(number, probability)| {
            let (from, until) = (number as u64 * 256, number as u64 * 256 + 256);
            loud = if *probability >= 0.35 { until } else { loud };
            voice.judge(*probability, from, until, loud).map(|change| (number, change))
        });
        windows.collect()
    }

    #[test]
    fn speech_begins_after_two_windows_and_ends_after_a_quarter_of_a_second_of_silence() {
        let mut heard = vec![0.1; 4];
        heard.extend([0.9; 10]);
        heard.extend([0.1; 12]);
        let expected =
            [(5, Change::Started { at: 4 * 256 }), (21, Change::Ended { at: 14 * 256, samples: 10 * 256 })];
        assert_eq!(changes(&heard), expected);
    }

    #[test]
    fn a_click_is_no_speech_and_a_short_pause_no_end() {
        assert!(changes(&[0.0, 0.9, 0.0, 0.9, 0.0]).is_empty());
        let mut heard = vec![0.9; 5];
        heard.extend([0.1; 7]);
        heard.extend([0.9; 5]);
        assert_eq!(changes(&heard).len(), 1);
        // Between the thresholds nothing changes, either way.
        let mut heard = vec![0.4; 20];
        assert!(changes(&heard).is_empty());
        heard.splice(0..0, [0.9; 3]);
        assert_eq!(changes(&heard).len(), 1);
    }

    #[test]
    fn the_end_is_where_the_sound_ended_and_not_where_the_network_noticed() {
        let mut voice = Voice::new(&VoiceSettings::default(), 8_000);
        for number in 0..10 {
            voice.judge(0.9, number * 256, number * 256 + 256, 2_000);
        }
        let ended = (10..20).find_map(|number| voice.judge(0.1, number * 256, number * 256 + 256, 2_000));
        assert_eq!(ended, Some(Change::Ended { at: 2_000, samples: 2_000 }));
        // Noise that goes on says nothing of the end; the probability does. Nor does sound long gone.
        for (loud, end) in [(9_999_999, 2_560), (0, 2_560 - 1_280)] {
            let mut voice = Voice::new(&VoiceSettings::default(), 8_000);
            let mut changes = (0..30).filter_map(|number| {
                let probability = if number < 10 { 0.9 } else { 0.1 };
                voice.judge(probability, number * 256, number * 256 + 256, loud)
            });
            assert_eq!(changes.nth(1), Some(Change::Ended { at: end, samples: end }));
        }
    }

    #[test]
    fn speech_without_end_is_ended() {
        let changes = changes(&vec![0.9; 60 * 32]);
        assert!(
            matches!(changes[1], (_, Change::Ended { samples, .. }) if samples >= 480_000),
            "{changes:?}"
        );
        assert!(matches!(changes[2], (_, Change::Started { .. })));
    }
}
