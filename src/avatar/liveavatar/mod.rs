//! LiveAvatar (LITE mode): the agent's voice drives a face in the vendor's cloud; picture and voice come back over a room.
//!
//! `rest` (P) begins and ends sessions, `commands` (P) is what is said on the command channel, `session` (D) puts both and
//! the room together.

mod commands;
mod rest;
mod session;

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Url;

use super::{Limits, Provider, Session, Terms};
use crate::media::frame::Size;
use crate::remote::address;
use crate::remote::failure::Failure;
use crate::remote::http::Http;
use session::{Account, LiveAvatarSession};

const ROOT: &str = "https://api.liveavatar.com";
/// The only face of free sessions.
pub const SANDBOX_AVATAR: &str = "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a";
/// How long those last.
const SANDBOX_LONGEST: Duration = Duration::from_secs(60);

/// Whether sessions are the vendor's free short ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Where no avatar of one's own is named.
    #[default]
    Auto,
    True,
    False,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoQuality {
    VeryHigh,
    #[default]
    High,
    Medium,
    Low,
}

impl VideoQuality {
    pub fn word(self) -> &'static str {
        match self {
            VideoQuality::VeryHigh => "very_high",
            VideoQuality::High => "high",
            VideoQuality::Medium => "medium",
            VideoQuality::Low => "low",
        }
    }

    /// Lines of its picture, or columns where that stands upright; the vendor's documents call them so.
    fn lines(self) -> usize {
        match self {
            VideoQuality::VeryHigh => 1080,
            VideoQuality::High => 720,
            VideoQuality::Medium => 480,
            VideoQuality::Low => 360,
        }
    }

    /// This one, or the least that fills a picture of this size.
    pub fn within(self, most: Size) -> VideoQuality {
        let lines = most.height.min(most.width * 9 / 16).min(self.lines());
        let ordered = [VideoQuality::Low, VideoQuality::Medium, VideoQuality::High];
        ordered.into_iter().find(|quality| quality.lines() >= lines).unwrap_or(self)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VideoEncoding {
    /// What the caller takes.
    #[default]
    Auto,
    H264,
    Vp8,
}

/// `[avatar.NAME]` with `provider = "liveavatar"`.
#[derive(Clone)]
pub struct LiveAvatarSettings {
    pub api_key: String,
    /// Empty: the vendor's.
    pub base_url: String,
    /// Empty: the face of free sessions.
    pub avatar_id: String,
    pub sandbox: Sandbox,
    pub video_quality: VideoQuality,
    pub video_encoding: VideoEncoding,
    /// Of one session; the vendor may give less.
    pub longest: Option<Duration>,
    pub ready_within: Duration,
}

impl Default for LiveAvatarSettings {
    fn default() -> Self {
        LiveAvatarSettings {
            api_key: String::new(),
            base_url: String::new(),
            avatar_id: String::new(),
            sandbox: Sandbox::Auto,
            video_quality: VideoQuality::High,
            video_encoding: VideoEncoding::Auto,
            longest: None,
            ready_within: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for LiveAvatarSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveAvatar({:?}, sandbox {})", self.avatar_id, self.is_sandbox())
    }
}

impl LiveAvatarSettings {
    pub fn is_sandbox(&self) -> bool {
        match self.sandbox {
            Sandbox::Auto => self.avatar_id.is_empty(),
            Sandbox::True => true,
            Sandbox::False => false,
        }
    }

    /// What contradicts itself: free sessions have one face, others need one.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.sandbox, self.avatar_id.is_empty()) {
            (Sandbox::True, false) => Err("sandbox = true has a face of its own: leave avatar_id out"),
            (Sandbox::False, true) => Err("sandbox = false needs an avatar of yours: write avatar_id"),
            (Sandbox::Auto, _) | (Sandbox::True, true) | (Sandbox::False, false) => Ok(()),
        }
    }

    fn longest(&self) -> Option<Duration> {
        let free = self.is_sandbox().then_some(SANDBOX_LONGEST);
        [self.longest, free].into_iter().flatten().min()
    }
}

/// What the vendor takes, where a session may last so long.
fn limits(longest: Option<Duration>) -> Limits {
    Limits {
        rate: 24_000,
        first_piece: Duration::from_millis(500),
        next_piece: Duration::from_secs(1),
        largest_piece: 480_000,
        flush_after: Duration::from_millis(200),
        longest,
        ..Limits::default()
    }
}

/// The vendor's cloud.
pub struct LiveAvatar {
    settings: LiveAvatarSettings,
    account: Account,
}

impl fmt::Debug for LiveAvatar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl LiveAvatar {
    /// Fails where settings contradict each other or the address cannot be one.
    pub fn new(settings: LiveAvatarSettings, http: &Http) -> Result<LiveAvatar, Failure> {
        settings.check().map_err(|why| Failure::Refused { status: 0, text: why.to_owned() })?;
        let root: Url = address::root(&settings.base_url, ROOT)?;
        let account = Account { http: http.clone(), root, key: settings.api_key.clone() };
        Ok(LiveAvatar { settings, account })
    }
}

impl Provider for LiveAvatar {
    fn open(&self, terms: Terms) -> Box<dyn Session> {
        Box::new(LiveAvatarSession::open(self.settings.clone(), self.account.clone(), terms))
    }

    fn reap<'a>(&'a self, session: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.account.reap(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_face_of_ones_own_and_a_free_session_exclude_each_other() {
        let of = |sandbox, avatar: &str| LiveAvatarSettings {
            sandbox,
            avatar_id: avatar.to_owned(),
            ..LiveAvatarSettings::default()
        };
        for (sandbox, avatar, fine, free) in [
            (Sandbox::Auto, "", true, true),
            (Sandbox::Auto, "a", true, false),
            (Sandbox::True, "", true, true),
            (Sandbox::True, "a", false, true),
            (Sandbox::False, "", false, false),
            (Sandbox::False, "a", true, false),
        ] {
            let settings = of(sandbox, avatar);
            assert_eq!(
                (settings.check().is_ok(), settings.is_sandbox()),
                (fine, free),
                "{sandbox:?} {avatar:?}"
            );
            assert_eq!(LiveAvatar::new(settings, &Http::new()).is_ok(), fine);
        }
        let long = LiveAvatarSettings { longest: Some(Duration::from_secs(600)), ..of(Sandbox::Auto, "") };
        assert_eq!(long.longest(), Some(SANDBOX_LONGEST));
        let keyed = LiveAvatarSettings { api_key: "sk-1".to_owned(), ..long };
        assert!(!format!("{:?}", LiveAvatar::new(keyed, &Http::new())).contains("sk-1"));
    }
}
