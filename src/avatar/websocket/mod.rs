//! Avatars on the local network over one WebSocket: a talking-head program on a machine with a GPU.
//!
//! Two protocols: `raw`, that of MuseTalk-type servers, and `timed`, ours. `wire` has their messages, `line` gives out our
//! own sound beside plain pictures, `session` (D) carries either machine.

mod line;
mod machine;
mod raw;
mod session;
mod timed;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Url;

use super::{Provider, Session, Terms};
use crate::media::frame::Size;
use crate::remote::address;
use crate::remote::failure::Failure;
use crate::remote::http::Http;
use session::WebSocketSession;

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Plain pictures and no sound back, as MuseTalk-type servers do: `POST /start`, `/ws/stream`, `POST /stop`.
    Raw,
    /// Sound and coded pictures on one clock: `docs/AVATAR_WEBSOCKET.md`.
    Timed,
}

/// `[avatar.NAME]` with `provider = "websocket"`.
#[derive(Clone)]
pub struct WebSocketSettings {
    pub protocol: Protocol,
    /// Where the server is: with [`Protocol::Raw`] the root below which `/start` is, with [`Protocol::Timed`] the
    /// WebSocket itself. HTTP's and WebSocket's schemes mean the same; plain text to near addresses only.
    pub url: String,
    /// Sent as a bearer's token; empty: none.
    pub api_key: String,
    /// Which face, for [`Protocol::Timed`].
    pub avatar_id: String,
    /// A file with the face, for [`Protocol::Raw`]; empty: the server has its own.
    pub image: Arc<[u8]>,
    /// Hz of the sound that goes up.
    pub rate: u32,
    /// Pictures at most so large and so many a second.
    pub size: Size,
    pub fps: u32,
    pub longest: Option<Duration>,
    pub ready_within: Duration,
    /// A piece of sound without its pictures for so long: the server hangs.
    pub answer_within: Duration,
}

impl Default for WebSocketSettings {
    fn default() -> Self {
        WebSocketSettings {
            protocol: Protocol::Timed,
            url: String::new(),
            api_key: String::new(),
            avatar_id: String::new(),
            image: Arc::new([]),
            rate: 16_000,
            size: Size::new(512, 512),
            fps: 25,
            longest: None,
            ready_within: Duration::from_secs(30),
            answer_within: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for WebSocketSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.protocol, self.url)
    }
}

impl WebSocketSettings {
    /// The configured size, made smaller until it fits: never larger, of even sides.
    fn size_within(&self, most: Size) -> Size {
        let (width, height) = (self.size.width.max(2), self.size.height.max(2));
        let (mut wide, mut high) = (width.min(most.width.max(2)), height.min(most.height.max(2)));
        if wide * height > high * width {
            wide = (high * width / height).max(2);
        } else {
            high = (wide * height / width).max(2);
        }
        Size::new(wide & !1, high & !1)
    }
}

/// A server of avatars on the local network.
pub struct WebSocketAvatar {
    settings: WebSocketSettings,
    root: Url,
    http: Http,
}

impl fmt::Debug for WebSocketAvatar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl WebSocketAvatar {
    /// Fails where the address cannot be one, or may not be spoken to in the clear.
    pub fn new(settings: WebSocketSettings, http: &Http) -> Result<WebSocketAvatar, Failure> {
        if settings.url.is_empty() {
            return Err(Failure::Refused { status: 0, text: "base_url: it is empty".to_owned() });
        }
        let root = address::root(&settings.url, "")?;
        Ok(WebSocketAvatar { settings, root, http: http.clone() })
    }
}

impl Provider for WebSocketAvatar {
    fn open(&self, terms: Terms) -> Box<dyn Session> {
        Box::new(WebSocketSession::open(&self.settings, &self.root, &self.http, terms))
    }

    fn reap<'a>(&'a self, _session: &'a str) -> BoxFuture<'a, bool> {
        match self.settings.protocol {
            Protocol::Raw => {
                session::stop(self.http.clone(), self.root.clone(), self.settings.api_key.clone())
            }
            // A session ends with its connection.
            Protocol::Timed => async { true }.boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_made_as_large_as_is_of_use_and_never_larger() {
        let settings = WebSocketSettings { size: Size::new(1280, 720), ..WebSocketSettings::default() };
        for (most, wanted) in [
            (Size::new(1920, 1080), Size::new(1280, 720)),
            (Size::new(640, 480), Size::new(640, 360)),
            (Size::new(480, 640), Size::new(480, 270)),
            (Size::new(352, 288), Size::new(352, 198)),
            (Size::new(0, 0), Size::new(2, 2)),
        ] {
            assert_eq!(settings.size_within(most), wanted, "{most}");
        }
    }

    #[test]
    fn an_address_far_away_wants_tls_and_the_key_is_not_shown() {
        let at = |url: &str| {
            let settings = WebSocketSettings {
                url: url.to_owned(),
                api_key: "sk-1".to_owned(),
                ..WebSocketSettings::default()
            };
            WebSocketAvatar::new(settings, &Http::new())
        };
        assert!(at("ws://93.184.216.34/").is_err() && at("").is_err() && at("box").is_err());
        let avatar = at("ws://10.0.0.7:8700/avatar").expect("near");
        assert!(!format!("{avatar:?}").contains("sk-1"));
    }
}
