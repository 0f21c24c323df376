//! Messages of the signalling socket: JSON text, `{actionType, sessionId, payload}`.
//!
//! Pure. What follows from them is in [`super::machine`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Letters of a warning or a reason that are kept.
const LETTERS: usize = 200;

/// A candidate on its way to or from the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// As in SDP, without `a=`.
    pub candidate: String,
    pub mid: Option<String>,
    pub line: Option<u16>,
}

/// What the engine says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// SDP.
    Answer(String),
    Candidate(Candidate),
    /// Sound sent from now on is spoken.
    Ready,
    /// What [`talk`] asked to be spoken under this id was cut.
    Interrupted(String),
    Warning(String),
    /// The session is over, and why.
    End(String),
    /// Not for us, or not known.
    Other,
}

fn message(action: &str, session: &str, payload: Value) -> String {
    json!({ "actionType": action, "sessionId": session, "payload": payload }).to_string()
}

pub fn offer(session: &str, sdp: &str) -> String {
    let description = json!({ "type": "offer", "sdp": sdp });
    message("offer", session, json!({ "connectionDescription": description, "userUid": session }))
}

pub fn candidate(session: &str, candidate: &Candidate) -> String {
    let payload = json!({ "candidate": candidate.candidate, "sdpMid": candidate.mid,
        "sdpMLineIndex": candidate.line });
    message("icecandidate", session, payload)
}

pub fn heartbeat(session: &str) -> String {
    message("heartbeat", session, json!(""))
}

/// A piece of our voice; `number` counts from 0 within a turn.
pub fn audio(session: &str, rate: u32, number: u32, samples: &[i16]) -> String {
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let payload = json!({ "audioData": STANDARD.encode(bytes), "encoding": "pcm_s16le", "sampleRate": rate,
        "channels": 1, "sequenceNumber": number });
    message("agentaudioinput", session, payload)
}

/// A turn of our voice is complete.
pub fn audio_end(session: &str) -> String {
    message("agentaudioinputend", session, json!({}))
}

/// A text to be spoken with the engine's own voice, whole.
pub fn talk(session: &str, id: &str, text: &str) -> String {
    let payload = json!({ "content": text, "startOfSpeech": true, "endOfSpeech": true, "correlationId": id });
    message("talkstream", session, payload)
}

pub fn end(session: &str) -> String {
    message("endsession", session, json!({}))
}

/// Reads a message. `None`: it cannot be read.
pub fn read(text: &str) -> Option<Said> {
    let message: Value = serde_json::from_str(text).ok()?;
    let payload = &message["payload"];
    let said = match message["actionType"].as_str()?.to_ascii_lowercase().as_str() {
        "answer" => Said::Answer(payload["sdp"].as_str()?.to_owned()),
        "icecandidate" => Said::Candidate(Candidate {
            candidate: payload["candidate"].as_str()?.to_owned(),
            mid: payload["sdpMid"].as_str().map(str::to_owned),
            line: payload["sdpMLineIndex"].as_u64().and_then(|line| u16::try_from(line).ok()),
        }),
        "sessionready" => Said::Ready,
        "talkinputstreaminterrupted" => {
            Said::Interrupted(payload["correlationId"].as_str().unwrap_or_default().to_owned())
        }
        "warning" => Said::Warning(line(payload)),
        "endsession" => Said::End(line(payload)),
        _ => Said::Other,
    };
    Some(said)
}

/// A payload of text, or of JSON with text in it, as one short line.
fn line(payload: &Value) -> String {
    let said = ["message", "reason"].iter().find_map(|name| payload[*name].as_str());
    let text = payload.as_str().or(said).unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|letter| !letter.is_control()).take(LETTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn what_we_say_has_the_names_of_the_engine() {
        assert_eq!(
            value(&offer("s", "v=0")),
            json!({ "actionType": "offer", "sessionId": "s", "payload":
                { "connectionDescription": { "type": "offer", "sdp": "v=0" }, "userUid": "s" } })
        );
        assert_eq!(
            value(&audio("s", 24_000, 3, &[1, -2])),
            json!({ "actionType": "agentaudioinput", "sessionId": "s", "payload": { "audioData": "AQD+/w==",
                "encoding": "pcm_s16le", "sampleRate": 24_000, "channels": 1, "sequenceNumber": 3 } })
        );
        assert_eq!(value(&audio_end("s"))["payload"], json!({}));
        assert_eq!(value(&heartbeat("s"))["payload"], json!(""));
        assert_eq!(value(&end("s"))["actionType"], "endsession");
        let ours = Candidate { candidate: "candidate:1".to_owned(), mid: Some("0".to_owned()), line: None };
        assert_eq!(
            value(&candidate("s", &ours))["payload"],
            json!({ "candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": null })
        );
        assert_eq!(
            value(&talk("s", "t1", "Hello."))["payload"],
            json!({ "content": "Hello.", "startOfSpeech": true, "endOfSpeech": true, "correlationId": "t1" })
        );
    }

    #[test]
    fn what_it_says_is_read_in_any_case_and_nonsense_is_not() {
        let said = |action: &str, payload: Value| read(&message(action, "s", payload));
        assert_eq!(
            said("Answer", json!({ "type": "answer", "sdp": "v=0" })),
            Some(Said::Answer("v=0".into()))
        );
        assert_eq!(said("sessionready", Value::Null), Some(Said::Ready));
        let candidate = json!({ "candidate": "candidate:7", "sdpMid": "1", "sdpMLineIndex": 0 });
        assert_eq!(
            said("icecandidate", candidate),
            Some(Said::Candidate(Candidate {
                candidate: "candidate:7".into(),
                mid: Some("1".into()),
                line: Some(0)
            }))
        );
        assert_eq!(said("endsession", json!("time\n is up")), Some(Said::End("time is up".into())));
        assert_eq!(said("warning", json!({ "message": "slow" })), Some(Said::Warning("slow".into())));
        assert_eq!(said("something", json!(1)), Some(Said::Other));
        for broken in ["", "[]", "{}", "{\"actionType\":\"answer\"}", "{\"actionType\":7}"] {
            assert_eq!(read(broken), None, "{broken}");
        }
        let long = said("warning", json!("x".repeat(5_000)));
        assert_eq!(long, Some(Said::Warning("x".repeat(LETTERS))));
    }
}
