//! Judges of a face in a call: when its voice and its lips begin and end, and how far apart the caller gets them.
//!
//! How an open mouth is told depends on who drew the face: a [`Mouth`] for each.

use std::time::Duration;

use serde_json::Value;

use super::appliance::Appliance;
use super::capture::Stream;
use super::picture::{self, Picture};
use super::sound::{from_mu_law, level_db};
use super::uac::{Answer, Caller, Received, Sending};

/// Louder than this is a voice, in dB below full scale.
pub const LOUD_DB: f64 = -35.0;

/// Whether the mouth is open.
pub type Mouth = fn(&Picture) -> bool;

/// `examples/avatar_server.py`. Below the middle of the mouth: skin while it is closed.
pub fn drawn(picture: &Picture) -> bool {
    picture.luma_at(320, 264) > 205
}

/// `emulators::face`, which LiveKit rooms and their vendors show.
pub fn lit(picture: &Picture) -> bool {
    super::emulators::face::is_lit(picture)
}

/// `emulators::raw_avatar`.
pub fn in_the_middle(picture: &Picture) -> bool {
    picture.luma_at(320, 180) > 130
}

/// What a caller of PCMU heard, block by block: when, and how loud.
pub fn levels(heard: &Stream) -> Vec<(f64, f64)> {
    let level = |payload: &[u8]| level_db(&payload.iter().map(|byte| from_mu_law(*byte)).collect::<Vec<_>>());
    let sound = heard.packets.iter().filter(|packet| packet.payload_type == 0);
    sound.map(|packet| (packet.at, level(&packet.payload))).collect()
}

/// When there is a voice.
pub fn voices(heard: &Stream) -> Vec<(f64, bool)> {
    levels(heard).into_iter().map(|(at, level)| (at, level > LOUD_DB)).collect()
}

/// When something begins to be so, and when it ends; what lasts less than 150 ms is not looked at.
pub fn edges(states: &[(f64, bool)]) -> Vec<(f64, bool)> {
    let mut edges: Vec<(f64, bool)> = Vec::new();
    let mut now = false;
    for (at, (when, state)) in states.iter().enumerate() {
        let lasts = states[at..]
            .iter()
            .take_while(|(later, _)| *later < when + 0.15)
            .all(|(_, other)| other == state);
        if *state != now && lasts {
            now = *state;
            edges.push((*when, now));
        }
    }
    edges
}

/// When each picture was complete.
pub fn complete(video: &Stream) -> Vec<f64> {
    let mut complete: Vec<(u32, f64)> = Vec::new();
    for packet in &video.packets {
        match complete.last_mut().filter(|(timestamp, _)| *timestamp == packet.timestamp) {
            Some((_, at)) => *at = packet.at,
            None => complete.push((packet.timestamp, packet.at)),
        }
    }
    complete.into_iter().map(|(_, at)| at).collect()
}

/// Each picture of H.264: when it was complete, and whether the mouth is open.
pub fn mouths(video: &Stream, open: Mouth) -> Vec<(f64, bool)> {
    let complete = complete(video);
    let pictures = picture::read_h264(&video.h264());
    assert!(
        pictures.len().abs_diff(complete.len()) <= 2,
        "{} of {} pictures",
        pictures.len(),
        complete.len()
    );
    complete.into_iter().zip(&pictures).map(|(at, picture)| (at, open(picture))).collect()
}

/// By how many milliseconds the lips come later than the sound, at each beginning and end of words.
pub fn offsets(received: &Received, open: Mouth) -> Vec<f64> {
    let lips = edges(&mouths(&received.video, open));
    let nearest = |(at, opens): &(f64, bool)| {
        let same = lips.iter().filter(|(_, open)| open == opens).map(|(lip, _)| (lip - at) * 1_000.0);
        same.min_by(|a, b| a.abs().total_cmp(&b.abs()))
    };
    edges(&voices(&received.audio)).iter().filter_map(nearest).collect()
}

/// What a call record says of the face.
pub fn face_of(record: &Value) -> &Value {
    &record["conversation"]["avatar"]
}

/// Has a call say this.
pub fn say(appliance: &Appliance, id: &str, text: &str) {
    let body = format!(r#"{{"text":"{text}"}}"#);
    let (status, answer) = appliance.api("POST", &format!("/api/v1/calls/{id}/say"), &body);
    assert_eq!(status, 202, "{answer}");
}

/// Calls with sound and H.264, has texts said at these times (seconds), and listens for `time`; does not hang up.
pub fn call(
    appliance: &Appliance,
    caller: &mut Caller,
    time: Duration,
    texts: &[(f64, &str)],
    disturb: impl FnMut(Duration),
) -> Received {
    let answer = caller.invite(&caller.offer(Some(&Caller::h264_offer(1))));
    let sending = Sending { time, sound: Some(&[]), ..Sending::default() };
    listen(appliance, caller, &answer, &sending, texts, disturb)
}

/// Goes on with a call that was answered.
pub fn listen(
    appliance: &Appliance,
    caller: &mut Caller,
    answer: &Answer,
    sending: &Sending<'_>,
    texts: &[(f64, &str)],
    mut disturb: impl FnMut(Duration),
) -> Received {
    let id = appliance.current_call();
    let mut said = 0;
    caller.stream_as(answer, sending, |_, at| {
        if let Some((_, text)) = texts.get(said).filter(|(due, _)| at.as_secs_f64() >= *due) {
            said += 1;
            say(appliance, &id, text);
        }
        disturb(at);
    })
}

/// Hz of a second in the middle of words, 16,000 samples a second.
pub fn frequency_there(samples: &[i16]) -> f64 {
    let loud = samples.iter().skip_while(|sample| sample.unsigned_abs() < 500);
    let loud: Vec<i16> = loud.skip(1_600).take(16_000).copied().collect();
    loud.windows(2).filter(|pair| pair[0] < 0 && pair[1] >= 0).count() as f64
}
