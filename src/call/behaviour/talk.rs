//! The agent that talks: hears, looks, thinks and speaks with the caller. Without a face, it shows a still.

use std::sync::Arc;

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, Voice};
use crate::engine::talk::{Agent, Mind};
use crate::media::frame::Size;
use crate::sip::language;
use crate::talk::message::Message;

/// An agent as it is in one language.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub agent: Arc<Agent>,
    /// Written on the still: who is talking.
    pub text: String,
    /// Written over the picture in the first seconds: that it is a machine.
    pub notice: String,
}

#[derive(Clone, Debug)]
pub struct Talk {
    pub speaker: Speaker,
    /// The same agent in languages a caller's device may ask for; empty: it has one.
    pub languages: Vec<(String, Speaker)>,
}

impl Talk {
    /// Who talks with this caller.
    fn speaker(&self, wanted: &[String]) -> &Speaker {
        let known = self.languages.iter().map(|(language, _)| language.as_str());
        let chosen = language::best(wanted, known);
        let found = self.languages.iter().find(|(language, _)| Some(language.as_str()) == chosen);
        found.map_or(&self.speaker, |(_, speaker)| speaker)
    }

    /// The same agent, told more before its call begins.
    #[must_use]
    pub fn with_context(&self, context: &[Message]) -> Talk {
        let told = |speaker: &Speaker| {
            let mut agent = Agent::clone(&speaker.agent);
            agent.conversation.pinned.extend_from_slice(context);
            if let Mind::Realtime(realtime) = &mut agent.mind {
                realtime.settings.history.extend_from_slice(context);
            }
            Speaker { agent: Arc::new(agent), ..speaker.clone() }
        };
        let other = |(language, speaker): &(String, Speaker)| (language.clone(), told(speaker));
        Talk { speaker: told(&self.speaker), languages: self.languages.iter().map(other).collect() }
    }

    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let Speaker { agent, text, notice } = self.speaker(&label.languages).clone();
        let mut out = room.video_out.clone();
        if let Some(face) = &agent.face {
            // What is larger goes out smaller; what is smaller stays so.
            let Size { width, height } = face.most;
            out.max = Size::new(width.min(out.max.width), height.min(out.max.height));
            out.fps = out.fps.min(face.fps);
        }
        let size = out.max;
        out.picture = match agent.face {
            Some(_) => Picture::Face { text, size },
            None => Picture::Still { text, size },
        };
        out.showing.notice = notice;
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: out,
            voice: Voice { greeting: None, then: Then::Silence },
            talk: Some(agent),
            watch: None,
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
