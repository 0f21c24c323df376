//! The agent that talks: hears, looks, thinks and speaks with the caller. Until it has a face, it shows a still.

use std::sync::Arc;

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};
use crate::engine::talk::Agent;

#[derive(Clone, Debug)]
pub struct Talk {
    pub agent: Arc<Agent>,
    /// Written on the still: who is talking, and that it is a machine.
    pub text: String,
}

impl Talk {
    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let picture = Picture::Still { text: self.text.clone(), size: room.video_out.max };
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut { picture, ..room.video_out.clone() },
            voice: Voice { greeting: None, then: Then::Silence },
            talk: Some(self.agent.clone()),
            watch: None,
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
