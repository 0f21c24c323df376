//! Driver. Pictures from elsewhere as they are now: a file that is played over and over, a stream of the network, the
//! moving test card.
//!
//! Pictures come raw: whoever shows them to anybody passes them through a gate. Whether a feed is wanted, and what is done
//! when it breaks, does not belong here.

#![expect(
    clippy::disallowed_methods,
    reason = "pictures are given out at their pace, and a peer that hangs is left"
)]

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::stop::StopToken;
use crate::base::time::Pts;
use crate::media::frame::{RawFrame, Size};
use crate::media::pool::FramePool;
use crate::source::clip::{Clip, ClipItem, ClipSettings};
use crate::source::test_picture::TestCard;

/// A stream that gives nothing for so long is lost.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pictures a second of the test card.
const TEST_FPS: u32 = 10;
const TEST_SIZE: Size = Size { width: 640, height: 360 };
/// What the marker of the test card says.
const TEST_SOURCE: u8 = 77;
/// Of the sound nobody listens to.
const RATE: u32 = 8_000;

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// `rtsp://…`; it may hold a password and is not shown.
    Stream(String),
    Test,
}

/// Pictures of one place, while it is open.
pub struct Feed {
    pictures: Pictures,
    stop: StopToken,
    /// When the first picture was given, and its time in the file.
    began: Option<(Instant, Pts)>,
}

enum Pictures {
    /// Given out at the file's own pace.
    File(Box<Clip>),
    /// At the pace of the network.
    Stream {
        clip: Box<Clip>,
        until: Arc<Mutex<Instant>>,
    },
    Test {
        card: Box<TestCard>,
        number: u32,
    },
}

impl Feed {
    /// Opens the place; `stop` ends what blocks.
    ///
    /// # Errors
    /// Says why there are no pictures, without the address.
    pub fn open(place: &Place, max: Size, stop: &StopToken) -> Result<Feed, String> {
        let settings = |path: PathBuf, repeat| ClipSettings { path, max, rate: RATE, repeat };
        let pictures = match place {
            Place::File(path) => {
                let clip = Clip::open(settings(path.clone(), true)).map_err(|error| error.why.to_string())?;
                Pictures::File(Box::new(clip))
            }
            Place::Stream(url) => {
                let until = Arc::new(Mutex::new(Instant::now() + PATIENCE));
                let (limit, stop) = (until.clone(), stop.clone());
                let over = move || {
                    stop.is_stopped()
                        || Instant::now() > *limit.lock().unwrap_or_else(PoisonError::into_inner)
                };
                let clip = Clip::open_stream(settings(url.into(), false), &[("rtsp_transport", "tcp")], over)
                    .map_err(|error| error.why.to_string())?;
                Pictures::Stream { clip: Box::new(clip), until }
            }
            Place::Test => {
                Pictures::Test { card: Box::new(TestCard::new(TEST_SIZE, TEST_SOURCE)), number: 0 }
            }
        };
        let has_pictures = match &pictures {
            Pictures::File(clip) | Pictures::Stream { clip, .. } => clip.has_video(),
            Pictures::Test { .. } => true,
        };
        if !has_pictures {
            return Err("there are no pictures in it".to_owned());
        }
        Ok(Feed { pictures, stop: stop.clone(), began: None })
    }

    /// The next picture, when its time has come. `None`: told to stop, or `pool` has no room for it.
    ///
    /// # Errors
    /// Says why there are no more pictures.
    pub fn next(&mut self, pool: &FramePool) -> Result<Option<RawFrame>, String> {
        let (raw, pts) = match &mut self.pictures {
            Pictures::Test { card, number } => {
                let pts = Pts::ZERO + Duration::from_secs(1) / TEST_FPS * *number;
                let Some(mut picture) = pool.take_sized(TEST_SIZE, pts) else { return Ok(None) };
                card.paint(&mut picture, *number);
                *number = number.wrapping_add(1);
                (RawFrame::new(picture.freeze()), Some(pts))
            }
            Pictures::File(clip) => {
                let raw = picture(clip, pool)?;
                let pts = raw.pts();
                (raw, Some(pts))
            }
            Pictures::Stream { clip, until } => {
                *until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + PATIENCE;
                (picture(clip, pool)?, None)
            }
        };
        if let Some(pts) = pts {
            let now = Instant::now();
            let (began, first) = *self.began.get_or_insert((now, pts));
            let due = began + Duration::from_nanos((pts - first).max(0).unsigned_abs());
            if self.stop.wait(due.saturating_duration_since(now)) {
                return Ok(None);
            }
        }
        Ok(Some(raw))
    }
}

/// The next picture of a clip; its sound is left out.
fn picture(clip: &mut Clip, pool: &FramePool) -> Result<RawFrame, String> {
    loop {
        match clip.next(pool).map_err(|error| error.why.to_string())? {
            Some(ClipItem::Picture(raw)) => return Ok(raw),
            Some(ClipItem::Sound(_)) => {}
            None => return Err("it has ended".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::filter::Gate;
    use crate::source::test_picture::read_marker;

    const MAX: Size = Size { width: 1920, height: 1080 };

    #[test]
    fn the_test_card_moves_at_its_pace() {
        let (stop, pool) = (StopToken::default(), FramePool::new(4));
        let mut feed = Feed::open(&Place::Test, MAX, &stop).expect("open");
        let started = Instant::now();
        for number in 0..4 {
            let raw = feed.next(&pool).expect("no fault").expect("a picture");
            let clean = Gate::open().release(Instant::now(), raw, &pool).expect("open");
            assert_eq!(
                read_marker(clean.frame()).map(|marker| (marker.source, marker.number)),
                Some((77, number))
            );
        }
        assert!((250..900).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
        stop.stop();
        assert!(feed.next(&pool).expect("no fault").is_none());
    }

    #[test]
    fn what_cannot_be_opened_says_why_and_nothing_secret() {
        let stop = StopToken::default();
        let open = |place: &Place| Feed::open(place, MAX, &stop).err().expect("an error");
        assert!(!open(&Place::File("/nowhere/at/all.mp4".into())).is_empty());
        // Nobody listens there.
        let why = open(&Place::Stream("rtsp://eye:secret@127.0.0.1:9/door".into()));
        assert!(!why.is_empty() && !why.contains("secret"), "{why}");
    }
}
