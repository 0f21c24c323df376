//! The tracks of a call, for the API and the call record: which way each goes, whose it is, and for whom that one speaks.
//! Pure.

use crate::engine::plan::{Direction, Streams, VideoStream};
use crate::record::record::TrackRecord;

/// Every track of these streams. `agent`: who has the call; `face`: the avatar it wears, if one was connected.
pub fn of(streams: &Streams, agent: &str, face: Option<&str>) -> Vec<TrackRecord> {
    let mut tracks = Vec::new();
    let mut add = |kind: &str, codec: &str, direction: Direction, content: Option<&str>| {
        let track = |way: &str, role: &str, behalf: Option<&str>| TrackRecord {
            kind: kind.to_owned(),
            direction: way.to_owned(),
            role: role.to_owned(),
            on_behalf_of: behalf.map(str::to_owned),
            codec: codec.to_owned(),
            content: content.map(str::to_owned),
        };
        if direction.receives() {
            tracks.push(track("in", "caller", None));
        }
        if direction.sends() {
            match face {
                // The agent speaks, the avatar is seen and heard.
                Some(_) => tracks.push(track("out", "avatar", Some(agent))),
                None => tracks.push(track("out", "agent", None)),
            }
        }
    };
    if let Some(audio) = &streams.audio {
        add("audio", audio.codec.name(), audio.route.direction, None);
    }
    if let Some(video) = &streams.video {
        add("video", video.codec.name(), video.route.direction, None);
    }
    if let Some(VideoStream { codec, .. }) = &streams.slides {
        add("video", codec.name(), Direction::ReceiveOnly, Some("slides"));
    }
    tracks
}
