//! What happens in a call, as its record tells it: moments with a kind and a few words each.
//!
//! Pure: what changed between two sets of streams is read from the streams alone.

use serde_json::Value;

use crate::engine::plan::{Direction, Streams, VideoStream};
use crate::talk::conversation::Told;

/// One thing that happened. When, is known to whoever is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// As in events: `call.held`, `video.track_added`.
    pub kind: &'static str,
    pub data: Vec<(&'static str, Value)>,
}

impl Moment {
    pub fn new(kind: &'static str) -> Self {
        Moment { kind, data: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.data.push((name, value.into()));
        self
    }

    /// A text from the peer.
    pub fn message(text: &str) -> Self {
        Moment::new("message.received").with("text", text)
    }
}

/// The peer's picture stands still, though packets come or because none do.
pub fn stalled(packets: bool) -> Moment {
    Moment::new("video.stalled").with("packets", if packets { "come" } else { "none" })
}

/// Something of the conversation.
pub fn told(told: Told) -> Moment {
    Moment { kind: told.kind, data: told.data }
}

/// It moves again.
pub fn resumed(after_ms: u64) -> Moment {
    Moment::new("video.resumed").with("after_ms", after_ms)
}

/// Text of a peer for the record: lines stay, other control characters are drawn.
pub fn readable(text: &str) -> String {
    let drawn = |letter: char| match letter {
        '\n' | '\t' => letter,
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    };
    text.replace("\r\n", "\n").trim_end().chars().map(drawn).collect()
}

/// What the step from one set of streams to the next means: pictures that come and go, a shared screen, holds.
pub fn changes(before: &Streams, after: &Streams) -> Vec<Moment> {
    let mut moments = Vec::new();
    if let (Some(old), Some(new)) = (&before.audio, &after.audio)
        && old.codec != new.codec
    {
        moments.push(Moment::new("audio.codec_changed").with("codec", new.codec.name()));
    }
    let video = |streams: &Streams| streams.video.is_some() || streams.slides.is_some();
    if !video(before) && video(after) {
        let codec = after.video.as_ref().or(after.slides.as_ref()).map_or("", |video| video.codec.name());
        moments.push(Moment::new("video.session_started").with("codec", codec));
    }
    for (track, old, new) in
        [("camera", &before.video, &after.video), ("slides", &before.slides, &after.slides)]
    {
        match (old, new) {
            (None, Some(stream)) => {
                let direction = direction_word(stream.route.direction);
                moments
                    .push(Moment::new("video.track_added").with("track", track).with("direction", direction));
            }
            (Some(_), None) => moments.push(Moment::new("video.track_removed").with("track", track)),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    match (shows(&before.slides), shows(&after.slides)) {
        (false, true) => moments.push(Moment::new("screen_share.started")),
        (true, false) => moments.push(Moment::new("screen_share.stopped")),
        (true, true) | (false, false) => {}
    }
    if video(before) && !video(after) {
        moments.push(Moment::new("video.session_ended"));
    }
    match (held_by(before), held_by(after)) {
        // How a call begins is no change.
        _ if main_direction(before).is_none() || main_direction(after).is_none() => {}
        (None, Some(by)) => moments.push(Moment::new("call.held").with("by", by)),
        (Some(_), None) => moments.push(Moment::new("call.resumed")),
        (Some(old), Some(new)) if old != new => moments.push(Moment::new("call.held").with("by", new)),
        (Some(_), Some(_)) | (None, None) => {}
    }
    moments
}

/// Whether the peer shows something on this stream.
fn shows(stream: &Option<VideoStream>) -> bool {
    stream.as_ref().is_some_and(|stream| stream.route.direction.receives())
}

/// The direction that says whether a call is held: that of its sound, else of its picture.
fn main_direction(streams: &Streams) -> Option<Direction> {
    let audio = streams.audio.as_ref().map(|audio| audio.route.direction);
    audio.or(streams.video.as_ref().map(|video| video.route.direction))
}

fn held_by(streams: &Streams) -> Option<&'static str> {
    match main_direction(streams)? {
        Direction::SendReceive => None,
        Direction::SendOnly => Some("us"),
        Direction::ReceiveOnly => Some("peer"),
        Direction::Inactive => Some("both"),
    }
}

fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::SendReceive => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::ReceiveOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::{
        AudioCodec, AudioStream, Feedback, PacketizationMode, Protection, Retransmission, Route, VideoCodec,
    };

    fn route(direction: Direction) -> Route {
        Route {
            remote: None,
            remote_rtcp: None,
            rtcp_mux: false,
            direction,
            protection: Protection::None,
            ice: None,
        }
    }

    fn audio(direction: Direction) -> Option<AudioStream> {
        Some(AudioStream {
            route: route(direction),
            codec: AudioCodec::Pcma,
            send_payload_type: 8,
            receive: vec![(8, AudioCodec::Pcma)],
            opus: Default::default(),
            telephone_events: Vec::new(),
            comfort_noises: Vec::new(),
            ptime_ms: 20,
            extended_reports: false,
        })
    }

    fn video(direction: Direction) -> Option<VideoStream> {
        Some(VideoStream {
            route: route(direction),
            codec: VideoCodec::H264,
            send_payload_type: 97,
            send_mode: PacketizationMode::NonInterleaved,
            receive: vec![(97, VideoCodec::H264)],
            profile_level_id: [0x42, 0xe0, 0x1f],
            parameter_sets: Vec::new(),
            feedback: Feedback::default(),
            retransmission: Retransmission::default(),
            max_kbps: None,
            max_macroblocks: 3600,
            max_macroblocks_per_second: 108_000,
        })
    }

    fn kinds(before: &Streams, after: &Streams) -> String {
        changes(before, after).iter().map(|moment| moment.kind).collect::<Vec<_>>().join(" ")
    }

    const BOTH: Direction = Direction::SendReceive;

    #[test]
    fn pictures_come_and_go_where_they_do() {
        let nothing = Streams::default();
        let sound = Streams { audio: audio(BOTH), ..Streams::default() };
        let seen = Streams { video: video(BOTH), ..sound.clone() };
        assert_eq!(kinds(&nothing, &sound), "");
        assert_eq!(kinds(&nothing, &seen), "video.session_started video.track_added");
        assert_eq!(kinds(&sound, &seen), "video.session_started video.track_added");
        assert_eq!(kinds(&seen, &sound), "video.track_removed video.session_ended");
        assert_eq!(kinds(&seen, &seen), "");
        let added = &changes(&nothing, &seen)[1];
        assert_eq!(added.data, [("track", "camera".into()), ("direction", "sendrecv".into())]);
    }

    #[test]
    fn a_shared_screen_starts_when_it_is_shown_and_stops_when_it_is_not() {
        let camera = Streams { audio: audio(BOTH), video: video(BOTH), ..Streams::default() };
        let ready = Streams { slides: video(Direction::Inactive), ..camera.clone() };
        let shown = Streams { slides: video(Direction::ReceiveOnly), ..camera.clone() };
        assert_eq!(kinds(&camera, &ready), "video.track_added");
        assert_eq!(kinds(&ready, &shown), "screen_share.started");
        assert_eq!(kinds(&camera, &shown), "video.track_added screen_share.started");
        assert_eq!(kinds(&shown, &ready), "screen_share.stopped");
        assert_eq!(kinds(&shown, &camera), "video.track_removed screen_share.stopped");
        let last = Streams { slides: video(Direction::ReceiveOnly), ..Streams::default() };
        assert_eq!(
            kinds(&last, &Streams::default()),
            "video.track_removed screen_share.stopped video.session_ended"
        );
    }

    #[test]
    fn holds_say_whose_they_are_and_a_beginning_is_no_hold() {
        let at = |direction| Streams { audio: audio(direction), ..Streams::default() };
        let by = |before, after| {
            changes(&at(before), &at(after)).first().map(|moment| (moment.kind, moment.data.clone()))
        };
        let held = |by: &str| Some(("call.held", vec![("by", by.into())]));
        assert_eq!(by(BOTH, Direction::ReceiveOnly), held("peer"));
        assert_eq!(by(BOTH, Direction::SendOnly), held("us"));
        assert_eq!(by(Direction::SendOnly, Direction::Inactive), held("both"));
        assert_eq!(by(Direction::Inactive, BOTH), Some(("call.resumed", Vec::new())));
        assert_eq!(kinds(&Streams::default(), &at(Direction::ReceiveOnly)), "");
        assert_eq!(kinds(&at(Direction::ReceiveOnly), &Streams::default()), "");
    }

    #[test]
    fn texts_keep_their_lines_and_lose_their_control_characters() {
        assert_eq!(readable("a\r\nb\tc\u{1b}[2J\u{0}\r\n"), "a\nb\tc\u{fffd}[2J\u{fffd}");
    }
}
