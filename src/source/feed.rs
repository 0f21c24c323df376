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
use crate::source::device::{Device, Grabber};
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
    Device(Device),
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
        /// Dropped behind the clip that reads from it.
        _grabber: Option<Grabber>,
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
                let options = [("rtsp_transport", "tcp")];
                let (clip, until) = stream(settings(url.into(), false), &options, stop)?;
                Pictures::Stream { clip, until, _grabber: None }
            }
            Place::Device(device) => {
                let grabber = Grabber::start(device, max)?;
                match stream(settings(grabber.url(), false), &[], stop) {
                    Ok((clip, until)) => Pictures::Stream { clip, until, _grabber: Some(grabber) },
                    Err(why) => return Err(grabber.complaint().unwrap_or(why)),
                }
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
            Pictures::Stream { clip, until, .. } => {
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

/// A stream that ends when it is told to, or gives nothing for too long.
fn stream(
    settings: ClipSettings,
    options: &[(&str, &str)],
    stop: &StopToken,
) -> Result<(Box<Clip>, Arc<Mutex<Instant>>), String> {
    let until = Arc::new(Mutex::new(Instant::now() + PATIENCE));
    let (limit, stop) = (until.clone(), stop.clone());
    let over =
        move || stop.is_stopped() || Instant::now() > *limit.lock().unwrap_or_else(PoisonError::into_inner);
    let clip = Clip::open_stream(settings, options, over).map_err(|error| error.why.to_string())?;
    Ok((Box::new(clip), until))
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
    use crate::source::device::Grabbed;
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

    fn device(grabbed: Grabbed, name: &str) -> Place {
        Place::Device(Device { grabbed, name: name.to_owned(), program: "ffmpeg".into() })
    }

    #[test]
    fn a_device_is_read_by_a_process_of_its_own_that_ends_with_the_feed() {
        let (stop, pool) = (StopToken::default(), FramePool::new(4));
        let place = device(Grabbed::Made, "testsrc=size=1280x720:rate=30");
        let mut feed = Feed::open(&place, Size { width: 640, height: 640 }, &stop).expect("open");
        let mut times = Vec::new();
        for _ in 0..3 {
            let raw = feed.next(&pool).expect("no fault").expect("a picture");
            assert_eq!(raw.size(), Size { width: 640, height: 360 });
            times.push(raw.pts());
        }
        assert!(
            times.windows(2).all(|pair| (90..=110).contains(&((pair[1] - pair[0]) / 1_000_000))),
            "{times:?}"
        );
        let began = Instant::now();
        drop(feed);
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_device_that_is_not_there_or_says_nothing_is_told_of() {
        let stop = StopToken::default();
        let open = |place: &Place| Feed::open(place, MAX, &stop).err().expect("an error");
        let why = open(&device(Grabbed::Camera, "/dev/no-camera"));
        assert!(why.starts_with("/dev/no-camera: No such file"), "{why}");
        let why = open(&device(Grabbed::Screen, ":99.7"));
        assert!(why.contains("display") || why.contains(":99.7"), "{why}");
        let program = PathBuf::from("/nowhere/ffmpeg");
        let absent = Device { grabbed: Grabbed::Screen, name: ":0".into(), program };
        assert!(open(&Place::Device(absent)).contains("install ffmpeg"));
        // It runs, and gives nothing: told to stop, it does.
        let stopped = stop.clone();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            stopped.stop();
        });
        let folder = tempfile::tempdir().expect("a folder");
        let mute = folder.path().join("mute");
        std::fs::write(&mute, "#!/bin/sh\nexec sleep 60\n").expect("a script");
        std::fs::set_permissions(&mute, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("runs");
        let began = Instant::now();
        open(&Place::Device(Device { grabbed: Grabbed::Screen, name: ":0".into(), program: mute }));
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        ends.join().expect("no panic");
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
