//! `eyeline call`: sends what it was told to send and keeps what comes back.

use super::Room;
use crate::engine::plan::{Label, Picture, Plan, Streams, Then, VideoOut, Voice};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialled {
    pub picture: Picture,
    pub sound: Then,
}

impl Dialled {
    pub(super) fn plan(&self, label: Label, streams: Streams, room: &Room) -> Plan {
        Plan {
            label,
            streams,
            reach: room.reach.clone(),
            video_in: room.video_in(),
            video_out: VideoOut { picture: self.picture.clone(), ..room.video_out.clone() },
            voice: Voice { greeting: None, then: self.sound.clone() },
            talk: None,
            watch: None,
            recording: room.recording.clone(),
            timeouts: room.timeouts,
        }
    }
}
