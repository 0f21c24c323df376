//! What happened in one call, in order, as its record and the console tell it. Bounded; what is too much is counted.

use std::time::{Duration, Instant};

use crate::app::tally::{Tally, is_silent};
use crate::call::story::{Moment, changes};
use crate::call::{Ended, Tell};
use crate::engine::plan::Streams;
use crate::record::record::EventRecord;

/// Events kept of one call.
const EVENTS_MAX: usize = 2_000;

/// The events of one call.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// When the first was told.
    started: Option<Instant>,
    streams: Streams,
    events: Vec<(Instant, Moment)>,
    lost: u64,
    tally: Tally,
}

impl Timeline {
    /// Takes what a call told.
    pub fn told(&mut self, now: Instant, tell: &Tell) {
        self.started.get_or_insert(now);
        match tell {
            Tell::Ringing => self.add(now, Moment::new("call.ringing")),
            Tell::Answered { streams } => {
                self.add(now, Moment::new("call.answered"));
                self.moved(now, streams);
            }
            Tell::Early { streams } | Tell::Updated { streams } => self.moved(now, streams),
            Tell::Digit(digit) => {
                self.add(now, Moment::new("dtmf.received").with("digit", digit.to_string()))
            }
            Tell::Moment(moment) => self.add(now, moment.clone()),
        }
    }

    /// The call is over: what still ran has ended with it.
    pub fn ended(&mut self, ended: &Ended) {
        self.moved(ended.ended, &Streams::default());
        self.add(ended.ended, Moment::new("call.ended").with("reason", ended.reason.name()));
    }

    fn moved(&mut self, now: Instant, streams: &Streams) {
        for moment in changes(&self.streams, streams) {
            self.add(now, moment);
        }
        self.streams = streams.clone();
    }

    fn add(&mut self, now: Instant, moment: Moment) {
        self.tally.told(&moment);
        if is_silent(moment.kind) {
            return;
        }
        // What was understood so far gives way to what is understood now.
        if moment.kind.starts_with("transcript.") {
            self.events.pop_if(|(_, last)| last.kind == "transcript.partial");
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push((now, moment));
        } else {
            self.lost += 1;
        }
    }

    /// What the agent did, in numbers.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The last `most` events with their time since `start`, and how many were lost.
    pub fn record(&self, start: Instant, most: usize) -> (Vec<EventRecord>, u64) {
        let skipped = self.events.len().saturating_sub(most);
        let record = |(at, moment): &(Instant, Moment)| EventRecord {
            at_ms: milliseconds(at.saturating_duration_since(start)),
            kind: moment.kind.to_owned(),
            data: moment.data.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        (self.events.iter().skip(skipped).map(record).collect(), self.lost)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::end::EndReason;

    #[test]
    fn a_call_tells_its_story_in_order_and_to_its_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timeline = Timeline::default();
        timeline.told(at(2), &Tell::Ringing);
        timeline.told(at(5), &Tell::Answered { streams: Box::default() });
        timeline.told(at(700), &Tell::Digit('5'));
        timeline.told(at(800), &Tell::Moment(Moment::message("hello")));
        timeline.ended(&Ended {
            reason: EndReason::PeerHungUp,
            peer_reason: None,
            started: start,
            answered: Some(at(5)),
            ended: at(900),
            streams: Streams::default(),
            report: None,
        });
        let (events, lost) = timeline.record(start, usize::MAX);
        let told: Vec<String> =
            events.iter().map(|event| format!("{} {}", event.at_ms, event.kind)).collect();
        assert_eq!(
            told,
            [
                "2 call.ringing",
                "5 call.answered",
                "700 dtmf.received",
                "800 message.received",
                "900 call.ended"
            ]
        );
        assert_eq!(events[2].data["digit"], "5");
        assert_eq!(events[3].data["text"], "hello");
        assert_eq!((&events[4].data["reason"], lost), (&"peer-hung-up".into(), 0));
        assert_eq!(timeline.record(start, 1).0[0].kind, "call.ended", "the last ones");
    }

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut timeline = Timeline::default();
        (0..EVENTS_MAX + 7).for_each(|_| timeline.told(start, &Tell::Digit('1')));
        let (events, lost) = timeline.record(start, usize::MAX);
        assert_eq!((events.len(), lost), (EVENTS_MAX, 7));
    }
}
