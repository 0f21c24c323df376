//! What an agent did in one call, in numbers: counted from what is told of the call, so that the figures and the
//! timeline cannot disagree. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::app::console::view::Histogram;
use crate::app::face_tally::FaceTally;
use crate::call::story::Moment;
use crate::record::agent::{AgentRecord, LatencyRecord, ToolRecord};

/// Times kept of each stage, for the percentiles of a call.
pub const TIMES_MAX: usize = 1_024;
/// Names of tools and services kept; a model may think up any number.
const NAMES_MAX: usize = 32;

/// Kinds that are counted and stand in no timeline: they say nothing by themselves.
const SILENT: [&str; 4] = ["agent.usage", "agent.figures", "vision.figures", "avatar.figures"];

/// The stages of an answer, by the words they are told with.
pub const STAGES: [(&str, &str); 5] = [
    // From the caller's last sound to the first of the reply.
    ("after_ms", "turn"),
    // Of that, the words; whether that was all; the model's first word; the voice's first sound.
    ("transcript_ms", "transcript"),
    ("end_of_turn_ms", "end_of_turn"),
    ("first_words_ms", "first_words"),
    ("first_sound_ms", "first_sound"),
];

/// Whether a moment is for the figures only.
pub fn is_silent(kind: &str) -> bool {
    SILENT.contains(&kind)
}

/// The figures of one call.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    record: AgentRecord,
    times: BTreeMap<&'static str, Vec<u32>>,
    stages: BTreeMap<&'static str, Histogram>,
    any: bool,
    face: FaceTally,
}

impl Tally {
    /// Counts what is told.
    pub fn told(&mut self, moment: &Moment) {
        let record = &mut self.record;
        let number = |name: &str| whole(of(moment, name));
        let text = |name: &str| of(moment, name).and_then(Value::as_str).unwrap_or_default();
        match moment.kind {
            "transcript.final" if text("used") == "no" => record.turns_unused += 1,
            "transcript.final" => {
                record.turns += 1;
                record.pictures_sent += number("pictures");
            }
            "turn.amended" => record.turns_amended += 1,
            "turn.vetoed" => record.turns_vetoed += 1,
            "agent.reply" => record.replies += 1,
            "agent.interrupted" => record.interruptions += 1,
            "agent.false_interruption" => record.false_interruptions += 1,
            "agent.fallback" => record.fallbacks += 1,
            "agent.failed" => *entry(&mut record.failures, text("service")) += 1,
            "decision.failed" => *entry(&mut record.failures, "decision") += 1,
            "vision.sent" => record.pictures_sent += 1,
            "vision.result" => record.vision_results += 1,
            "vision.failed" => *entry(&mut record.failures, "vision") += 1,
            "agent.tool_called" => entry::<ToolRecord>(&mut record.tools, text("tool")).called += 1,
            "agent.tool_refused" => entry::<ToolRecord>(&mut record.tools, text("tool")).refused += 1,
            "agent.usage" => {
                record.tokens.input += number("input_tokens");
                record.tokens.cached += number("cached_tokens");
                record.tokens.image += number("image_tokens");
                record.tokens.output += number("output_tokens");
            }
            "agent.speaking" => self.spoke(moment),
            kind if kind.starts_with("avatar.") => self.face.told(moment),
            "agent.figures" => record.model = members(moment),
            "vision.figures" => record.sight = members(moment),
            _ => return,
        }
        self.any = true;
    }

    fn spoke(&mut self, moment: &Moment) {
        for (name, stage) in STAGES {
            let Some(ms) = of(moment, name).and_then(Value::as_u64) else { continue };
            let times = self.times.entry(stage).or_default();
            if times.len() < TIMES_MAX {
                times.push(u32::try_from(ms).unwrap_or(u32::MAX));
            }
            self.stages.entry(stage).or_default().extend([Duration::from_millis(ms)]);
        }
    }

    /// For the call record and the API; `None`: no agent did anything.
    pub fn record(&self) -> Option<AgentRecord> {
        let latency = |(stage, times): (&&'static str, &Vec<u32>)| ((*stage).to_owned(), latency_of(times));
        self.any.then(|| AgentRecord {
            avatar: self.face.record(),
            latency_ms: self.times.iter().map(latency).collect(),
            ..self.record.clone()
        })
    }

    /// The face the caller sees now.
    pub fn wears(&self) -> Option<&str> {
        self.face.wears()
    }

    /// The face the caller saw at some time.
    pub fn face(&self) -> Option<&str> {
        self.face.name()
    }

    /// Times of the stages, for metrics.
    pub fn stages(&self) -> &BTreeMap<&'static str, Histogram> {
        &self.stages
    }
}

pub fn latency_of(times: &[u32]) -> LatencyRecord {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let part = |percent: usize| {
        let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(at).copied().unwrap_or_default()
    };
    LatencyRecord { count: sorted.len() as u64, p50: part(50), p95: part(95), max: part(100) }
}

pub fn of<'a>(moment: &'a Moment, name: &str) -> Option<&'a Value> {
    moment.data.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

fn whole(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).unwrap_or_default()
}

pub fn members(moment: &Moment) -> BTreeMap<String, Value> {
    moment.data.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// The entry of a name; once there are too many, of all others.
fn entry<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    let name = if map.len() < NAMES_MAX || map.contains_key(name) { name } else { "other" };
    map.entry(name.chars().take(64).collect()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tally: &mut Tally, kind: &'static str, data: &[(&'static str, Value)]) {
        tally.told(&Moment { kind, data: data.to_vec() });
    }

    #[test]
    fn a_call_without_an_agent_has_no_figures() {
        let mut tally = Tally::default();
        told(&mut tally, "call.answered", &[]);
        told(&mut tally, "dtmf.received", &[("digit", "1".into())]);
        assert_eq!(tally.record(), None);
    }

    #[test]
    fn what_is_told_is_counted_once_each() {
        let mut tally = Tally::default();
        told(&mut tally, "transcript.final", &[("text", "hello".into()), ("pictures", 1.into())]);
        told(&mut tally, "transcript.final", &[("text", "noise".into()), ("used", "no".into())]);
        for ms in [100, 200, 300, 400] {
            told(&mut tally, "agent.speaking", &[("after_ms", ms.into()), ("first_words_ms", 50.into())]);
        }
        told(&mut tally, "agent.failed", &[("service", "llm".into())]);
        told(&mut tally, "agent.tool_called", &[("tool", "look".into())]);
        told(&mut tally, "agent.tool_refused", &[("tool", "unlock".into())]);
        for _ in 0..2 {
            told(&mut tally, "agent.usage", &[("input_tokens", 70.into()), ("output_tokens", 5.into())]);
        }
        told(&mut tally, "vision.figures", &[("sampled", 12.into())]);
        let record = tally.record().expect("figures");
        assert_eq!((record.turns, record.turns_unused, record.pictures_sent), (1, 1, 1));
        assert_eq!(record.latency_ms["turn"], LatencyRecord { count: 4, p50: 200, p95: 400, max: 400 });
        assert_eq!((record.failures["llm"], record.tokens.input, record.tokens.output), (1, 140, 10));
        assert_eq!((record.tools["look"].called, record.tools["unlock"].refused), (1, 1));
        assert_eq!(record.sight["sampled"], 12);
        assert_eq!(tally.stages()["first_words"].count, 4);
    }

    #[test]
    fn names_a_model_thinks_up_do_not_fill_memory() {
        let mut tally = Tally::default();
        for n in 0..1_000 {
            told(&mut tally, "agent.tool_refused", &[("tool", format!("tool{n}").into())]);
        }
        let record = tally.record().expect("figures");
        assert_eq!(record.tools.len(), NAMES_MAX + 1);
        assert_eq!(record.tools.values().map(|tool| tool.refused).sum::<u64>(), 1_000);
    }
}
