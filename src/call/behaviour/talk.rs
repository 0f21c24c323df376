//! The agent that talks: hears, looks, thinks and speaks with the caller. Until it has a face, it shows a still.

use std::sync::Arc;

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};
use crate::engine::talk::Agent;
use crate::sip::language;

/// An agent as it is in one language.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub agent: Arc<Agent>,
    /// Written on the still: who is talking, and that it is a machine.
    pub text: String,
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

    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        let Speaker { agent, text } = self.speaker(&label.languages).clone();
        let picture = Picture::Still { text, size: room.video_out.max };
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut { picture, ..room.video_out.clone() },
            voice: Voice { greeting: None, then: Then::Silence },
            talk: Some(agent),
            watch: None,
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
