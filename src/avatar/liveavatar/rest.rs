//! LiveAvatar's REST messages: a session is asked for, started, stopped, looked for.
//!
//! Source: the vendor's OpenAPI and SDK. Pure. The envelope's `code` is not believed, vendors' documents differ; the HTTP
//! status is.

use std::time::Duration;

use serde_json::{Value, json};

use super::{LiveAvatarSettings, SANDBOX_AVATAR, VideoEncoding};
use crate::avatar::{Farewell, Terms};
use crate::media::access_unit::VideoCodec;

/// Of a vendor's id; longer is none.
const ID_MOST: usize = 256;

/// What a session's token is given for.
#[derive(Clone, PartialEq, Eq)]
pub struct Pass {
    pub session: String,
    pub token: String,
}

/// Where a started session is.
#[derive(Clone, PartialEq, Eq)]
pub struct Places {
    pub commands: String,
    pub room: String,
    pub token: String,
    pub longest: Option<Duration>,
}

/// Which codec is asked for: what the caller takes, where nothing else is configured.
pub fn encoding(settings: &LiveAvatarSettings, terms: &Terms) -> VideoCodec {
    match settings.video_encoding {
        VideoEncoding::H264 => VideoCodec::H264,
        VideoEncoding::Vp8 => VideoCodec::Vp8,
        VideoEncoding::Auto => {
            let known = |codec: &&VideoCodec| matches!(codec, VideoCodec::H264 | VideoCodec::Vp8);
            terms.codecs.iter().find(known).copied().unwrap_or_default()
        }
    }
}

pub fn token(settings: &LiveAvatarSettings, terms: &Terms) -> Value {
    let avatar = if settings.avatar_id.is_empty() { SANDBOX_AVATAR } else { &settings.avatar_id };
    let mut asked = json!({
        "mode": "LITE",
        "avatar_id": avatar,
        "is_sandbox": settings.is_sandbox(),
        "video_settings": {
            "quality": settings.video_quality.within(terms.most).word(),
            "encoding": encoding(settings, terms).name(),
        },
    });
    if let Some(longest) = settings.longest {
        asked["max_session_duration"] = longest.as_secs().into();
    }
    asked
}

fn text(data: &Value, key: &str) -> Option<String> {
    let text = data[key].as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

/// `None`: it lacks something.
pub fn read_token(body: &Value) -> Option<Pass> {
    let data = &body["data"];
    let session = text(data, "session_id").filter(|id| id.len() <= ID_MOST)?;
    Some(Pass { session, token: text(data, "session_token")? })
}

/// What it lacks is named.
pub fn read_start(body: &Value) -> Result<Places, &'static str> {
    let data = &body["data"];
    let longest = data["max_session_duration"].as_u64().filter(|seconds| *seconds > 0);
    Ok(Places {
        commands: text(data, "ws_url").ok_or("ws_url")?,
        room: text(data, "livekit_url").ok_or("livekit_url")?,
        token: text(data, "livekit_client_token").ok_or("livekit_client_token")?,
        longest: longest.map(Duration::from_secs),
    })
}

/// Why a session is stopped, in the vendor's words.
pub fn reason(farewell: Farewell) -> &'static str {
    match farewell {
        Farewell::CallOver => "USER_CLOSED",
        Farewell::Idle => "IDLE_TIMEOUT",
        Farewell::Limit => "MAX_DURATION_REACHED",
        Farewell::Broken => "SERVER_ERROR",
    }
}

pub fn stop(session: &str, reason: &str) -> Value {
    json!({ "session_id": session, "reason": reason })
}

/// Whether a list of sessions has this one; `None`: it may stand on another page.
pub fn lists(body: &Value, session: &str) -> Option<bool> {
    fn holds(value: &Value, session: &str) -> bool {
        match value {
            Value::String(text) => text == session,
            Value::Array(items) => items.iter().any(|item| holds(item, session)),
            Value::Object(fields) => fields.values().any(|field| holds(field, session)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    if holds(&body["data"], session) {
        return Some(true);
    }
    let more = ["next", "next_page", "next_cursor", "next_page_token"];
    let whole = body["data"].is_array() || body["data"].is_object();
    (whole && more.iter().all(|key| body["data"][key].is_null() && body[key].is_null())).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::super::VideoQuality;
    use super::*;
    use crate::media::frame::Size;

    fn terms(codecs: &[VideoCodec]) -> Terms {
        Terms {
            call: "c1".to_owned(),
            codecs: codecs.to_vec(),
            most: Size::new(1280, 720),
            language: String::new(),
            again: false,
        }
    }

    #[test]
    fn without_an_avatar_of_ones_own_a_session_is_the_vendors_free_one() {
        let free = LiveAvatarSettings::default();
        let asked = token(&free, &terms(&[VideoCodec::Vp8, VideoCodec::H264]));
        assert_eq!((&asked["is_sandbox"], &asked["avatar_id"]), (&true.into(), &SANDBOX_AVATAR.into()));
        assert_eq!(asked["video_settings"], json!({ "quality": "high", "encoding": "VP8" }));
        assert_eq!(asked.get("max_session_duration"), None);
        let own = LiveAvatarSettings {
            avatar_id: "a1".to_owned(),
            video_encoding: VideoEncoding::H264,
            longest: Some(Duration::from_secs(600)),
            ..free
        };
        let asked = token(&own, &terms(&[VideoCodec::Vp8]));
        assert_eq!((&asked["is_sandbox"], &asked["avatar_id"]), (&false.into(), &"a1".into()));
        assert_eq!((&asked["mode"], &asked["max_session_duration"]), (&"LITE".into(), &600.into()));
        assert_eq!(asked["video_settings"]["encoding"], "H264");
        assert_eq!(encoding(&LiveAvatarSettings::default(), &terms(&[VideoCodec::H265])), VideoCodec::H264);
    }

    #[test]
    fn no_better_quality_is_asked_for_than_fills_the_largest_picture_of_use() {
        for (wanted, most, asked) in [
            (VideoQuality::High, (1280, 720), "high"),
            (VideoQuality::VeryHigh, (1280, 720), "high"),
            (VideoQuality::VeryHigh, (1920, 1080), "very_high"),
            (VideoQuality::High, (640, 480), "low"),
            (VideoQuality::High, (854, 480), "medium"),
            (VideoQuality::High, (1024, 576), "high"),
            (VideoQuality::Medium, (1280, 720), "medium"),
            (VideoQuality::Low, (4096, 2304), "low"),
        ] {
            assert_eq!(wanted.within(Size::new(most.0, most.1)).word(), asked, "{wanted:?} in {most:?}");
        }
    }

    #[test]
    fn answers_are_read_whatever_code_they_bear() {
        let body = json!({ "code": 1000, "data": { "session_id": "s", "session_token": "t" } });
        assert!(read_token(&body).is_some_and(|pass| pass.session == "s" && pass.token == "t"));
        assert!(read_token(&json!({ "code": 100, "data": null })).is_none());
        let data = json!({ "session_id": "s", "livekit_url": "wss://l", "livekit_client_token": "j",
            "ws_url": "wss://w", "max_session_duration": 60 });
        let places = read_start(&json!({ "data": data })).expect("whole");
        assert_eq!((places.commands.as_str(), places.longest), ("wss://w", Some(Duration::from_secs(60))));
        assert_eq!(read_start(&json!({ "data": { "ws_url": "w" } })).err(), Some("livekit_url"));
    }

    #[test]
    fn a_session_is_found_in_any_list_and_a_page_is_not_all() {
        let list = json!({ "data": { "results": [{ "id": "a" }, { "session_id": "b" }], "next": null } });
        assert_eq!((lists(&list, "b"), lists(&list, "c")), (Some(true), Some(false)));
        let page = json!({ "data": { "results": [], "next": "https://…" } });
        assert_eq!(lists(&page, "b"), None);
        assert_eq!(lists(&json!({ "message": "?" }), "b"), None);
        assert_eq!(lists(&json!({ "data": ["b"] }), "b"), Some(true));
    }
}
