//! The agent that talks: hears, looks, thinks and speaks with the caller. Until it has a face, it shows a still.

use std::sync::Arc;

use super::Room;
use crate::engine::canvas::Showing;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};
use crate::engine::talk::{Agent, Mind};
use crate::talk::message::Message;

#[derive(Clone, Debug)]
pub struct Talk {
    pub agent: Arc<Agent>,
    /// Written on the still: who is talking.
    pub text: String,
    /// Written over the picture in the first seconds: that it is a machine.
    pub notice: String,
}

impl Talk {
    /// The same agent, told more before its call begins.
    #[must_use]
    pub fn with_context(&self, context: &[Message]) -> Talk {
        let mut agent = Agent::clone(&self.agent);
        agent.conversation.pinned.extend_from_slice(context);
        if let Mind::Realtime(realtime) = &mut agent.mind {
            realtime.settings.history.extend_from_slice(context);
        }
        Talk { agent: Arc::new(agent), ..self.clone() }
    }

    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let picture = Picture::Still { text: self.text.clone(), size: room.video_out.max };
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut {
                picture,
                showing: Showing { notice: self.notice.clone(), ..room.video_out.showing.clone() },
                ..room.video_out.clone()
            },
            voice: Voice { greeting: None, then: Then::Silence },
            talk: Some(self.agent.clone()),
            watch: None,
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
