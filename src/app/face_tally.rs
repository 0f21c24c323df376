//! What the face of one call's agent came to, counted from what is told of it. Pure.

use serde_json::Value;

use crate::app::tally::{TIMES_MAX, latency_of, members, of};
use crate::call::story::Moment;
use crate::record::agent::AvatarRecord;

/// The figures of one call's face.
#[derive(Clone, Debug, Default)]
pub struct FaceTally {
    record: AvatarRecord,
    connected: bool,
    connect: Vec<u32>,
    speaking: Vec<u32>,
    any: bool,
}

impl FaceTally {
    /// Counts a moment whose kind begins with `avatar.`.
    pub fn told(&mut self, moment: &Moment) {
        self.any = true;
        let text = |name: &str| of(moment, name).and_then(Value::as_str).unwrap_or_default();
        let ms = |name: &str| of(moment, name).and_then(Value::as_u64);
        if !text("avatar").is_empty() {
            text("avatar").clone_into(&mut self.record.name);
        }
        match moment.kind {
            "avatar.connected" => {
                self.record.sessions += 1;
                self.connected = true;
                keep(&mut self.connect, ms("after_ms"));
            }
            "avatar.speaking" => keep(&mut self.speaking, ms("after_ms")),
            "avatar.lost" => {
                self.connected = false;
                *self.record.failures.entry(text("cause").to_owned()).or_default() += 1;
            }
            "avatar.closed" => self.connected = false,
            "avatar.near_limit" => self.record.near_limits += 1,
            "avatar.figures" => self.record.figures = members(moment),
            _ => {}
        }
        self.record.seconds += of(moment, "seconds").and_then(Value::as_f64).unwrap_or_default();
    }

    /// The face the caller sees now.
    pub fn wears(&self) -> Option<&str> {
        self.connected.then_some(self.record.name.as_str())
    }

    /// The face the caller saw at some time.
    pub fn name(&self) -> Option<&str> {
        (self.record.sessions > 0).then_some(self.record.name.as_str())
    }

    /// `None`: there was no face.
    pub fn record(&self) -> Option<AvatarRecord> {
        self.any.then(|| AvatarRecord {
            connect_ms: latency_of(&self.connect),
            speaking_ms: latency_of(&self.speaking),
            ..self.record.clone()
        })
    }
}

fn keep(times: &mut Vec<u32>, ms: Option<u64>) {
    if times.len() < TIMES_MAX {
        times.extend(ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tally: &mut FaceTally, kind: &'static str, data: &[(&'static str, Value)]) {
        tally.told(&Moment { kind, data: data.to_vec() });
    }

    #[test]
    fn sessions_their_ends_and_their_minutes_are_counted() {
        let mut tally = FaceTally::default();
        assert_eq!((tally.record(), tally.wears(), tally.name()), (None, None, None));
        let name = ("avatar", Value::from("face"));
        told(&mut tally, "avatar.lost", &[name.clone(), ("cause", "busy".into())]);
        assert_eq!(tally.name(), None, "it was never seen");
        told(&mut tally, "avatar.connected", &[name.clone(), ("after_ms", 900.into())]);
        assert_eq!(tally.wears(), Some("face"));
        for ms in [100, 300] {
            told(&mut tally, "avatar.speaking", &[("after_ms", ms.into())]);
        }
        told(&mut tally, "avatar.near_limit", &[("left_s", 15.into())]);
        told(&mut tally, "avatar.lost", &[("cause", "connection".into()), ("seconds", 30.5.into())]);
        assert_eq!((tally.wears(), tally.name()), (None, Some("face")));
        told(&mut tally, "avatar.connected", &[name, ("after_ms", 400.into())]);
        told(&mut tally, "avatar.closed", &[("seconds", 10.0.into())]);
        told(&mut tally, "avatar.figures", &[("passed_through", 7.into())]);
        let record = tally.record().expect("a face");
        assert_eq!((record.sessions, record.near_limits, record.seconds), (2, 1, 40.5));
        assert_eq!((record.failures["busy"], record.failures["connection"]), (1, 1));
        assert_eq!((record.connect_ms.max, record.speaking_ms.count), (900, 2));
        assert_eq!(record.figures["passed_through"], 7);
    }
}
