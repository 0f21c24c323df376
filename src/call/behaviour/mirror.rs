//! The mirror: shows callers their own cleared picture, greets, then returns their voice.

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};

/// What the caller hears from a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Spoken at the start; empty: nothing.
    pub greeting: String,
    /// Whether the voice comes back after it.
    pub echo: bool,
}

impl Mirror {
    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let greeting = (!self.greeting.is_empty()).then(|| self.greeting.clone());
        let then = if self.echo { Then::Echo } else { Then::Silence };
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut { picture: Picture::Mirror, ..room.video_out.clone() },
            voice: Voice { greeting, then },
            talk: None,
            watch: room.watch.clone(),
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
