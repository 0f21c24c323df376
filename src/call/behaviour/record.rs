//! The recorder: answers, shows a still, says a sentence if it has one, and keeps what the caller shows and says.

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Spoken at the start; empty: nothing.
    pub greeting: String,
    /// Written on the still.
    pub text: String,
}

impl Record {
    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let picture = Picture::Still { text: self.text.clone(), size: room.video_out.max };
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut { picture, ..room.video_out.clone() },
            voice: Voice {
                greeting: (!self.greeting.is_empty()).then(|| self.greeting.clone()),
                then: Then::Silence,
            },
            talk: None,
            watch: room.watch.clone(),
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
