//! The tools of pictures: what an agent sends and shows, and what it is told came of it.

use std::sync::Arc;
use std::time::Duration;

use super::toolbox::{Work, Worked};
use crate::engine::pictures::{NotTaken, Pictures, Which};

/// How long a picture is shown when nobody says.
pub const SHOWN: Duration = Duration::from_secs(10);

/// The agent gives a picture.
pub(super) fn send(pictures: Arc<Pictures>, picture: String, text: String) -> Work {
    Box::pin(async move {
        match pictures.send(&Which::parse(&picture), &text).await {
            Ok(kept) => Worked::done(format!("It is kept as picture {}.", kept.number)),
            Err(why) => refused(&pictures, &why),
        }
    })
}

/// The agent shows a picture on the caller's screen.
pub(super) fn show(pictures: Arc<Pictures>, picture: String, seconds: Option<u64>) -> Work {
    Box::pin(async move {
        if picture.eq_ignore_ascii_case("none") {
            pictures.board().clear();
            return Worked::done("Nothing is shown any more.");
        }
        match pictures.show(&Which::parse(&picture), time_of(seconds)).await {
            Ok(_) => Worked::done("The caller sees it now."),
            Err(why) => refused(&pictures, &why),
        }
    })
}

/// 0 is until something else is shown.
pub fn time_of(seconds: Option<u64>) -> Option<Duration> {
    match seconds {
        None => Some(SHOWN),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    }
}

fn refused(pictures: &Pictures, why: &NotTaken) -> Worked {
    let mut text = format!("That was refused: {why}.");
    if matches!(why, NotTaken::Unknown(_)) {
        let names = pictures.names();
        text.push_str(&format!(
            " There are snapshot{}{}.",
            if names.is_empty() { "" } else { ", " },
            names.join(", ")
        ));
    }
    Worked::refused(text)
}
