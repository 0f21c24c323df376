//! The pictures this box draws or plays itself: test card, still, slate, file.
//!
//! A file is opened through a gate that lets everything pass: it was named by the operator, not sent by a peer.

use std::path::Path;
use std::time::Duration;

use crate::base::time::Pts;
use crate::engine::video_out::Painter;
use crate::media::filter::{Gate, Slate};
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::source::clip::{Clip, ClipItem, ClipSettings};
use crate::source::test_picture::TestCard;
use crate::vision::filters::Resize;
use crate::vision::slate::TextSlate;

/// The size of the first slate, before the caller's own is known.
pub const FIRST_SLATE: Size = Size::new(640, 360);
/// A file that was not asked for pictures this long was held: it goes on where it stopped.
const HELD: Duration = Duration::from_secs(2);

/// A still with a text, or the slate shown before the caller's first picture.
pub struct Still {
    slate: TextSlate,
    size: Size,
}

impl Still {
    pub fn new(text: &str, name: &str, size: Size) -> Self {
        Still { slate: TextSlate::new(text, Some(name)), size }
    }
}

impl Painter for Still {
    fn paint(&mut self, _n: u64, pts: Pts, pool: &FramePool) -> Option<CleanFrame> {
        let mut picture = pool.take_sized(self.size, pts)?;
        self.slate.paint(&mut picture);
        Some(CleanFrame::drawn_here(picture))
    }
}

impl Painter for TestCard {
    fn paint(&mut self, n: u64, pts: Pts, pool: &FramePool) -> Option<CleanFrame> {
        self.draw(n as u32, pts, pool)
    }
}

/// A file's pictures, looped, each shown at its own time of the file.
pub struct Playing {
    clip: Clip,
    gate: Gate,
    resize: Resize,
    next: Option<CleanFrame>,
    shown: Option<CleanFrame>,
    began: Option<Pts>,
    asked: Option<Pts>,
}

impl Playing {
    /// Opens the file; pictures are shrunk to fit `size`.
    pub fn open(path: &Path, size: Size) -> Result<Self, String> {
        // Room for what comes out of common cameras; larger files are refused with a clear text.
        let max = Size::new(4096, 2304);
        let settings = ClipSettings { path: path.to_owned(), max, rate: 8000, repeat: true };
        let clip = Clip::open(settings).map_err(|error| error.to_string())?;
        if !clip.has_video() {
            return Err(format!("{} has no picture", path.display()));
        }
        let (gate, resize) = (Gate::open(), Resize::new(size));
        Ok(Playing { clip, gate, resize, next: None, shown: None, began: None, asked: None })
    }

    fn advance(&mut self, pool: &FramePool) -> Option<CleanFrame> {
        loop {
            match self.clip.next(pool) {
                Ok(Some(ClipItem::Picture(raw))) => {
                    // An open gate looks at nothing, so it needs no time.
                    let at = raw.pts();
                    let clean = self.gate.open_file_picture(raw)?;
                    return self.resize.apply(clean.at(at), pool);
                }
                Ok(Some(ClipItem::Sound(_))) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}

impl Painter for Playing {
    /// The picture whose turn it is at `pts`; the last one again while the file's next is not due.
    fn paint(&mut self, _n: u64, pts: Pts, pool: &FramePool) -> Option<CleanFrame> {
        let mut began = self.began.unwrap_or(pts);
        let pause = Duration::from_nanos(self.asked.map_or(0, |asked| u64::try_from(pts - asked).unwrap_or(0)));
        if pause > HELD {
            began = began + pause;
        }
        (self.began, self.asked) = (Some(began), Some(pts));
        let due = pts - began;
        loop {
            if self.next.is_none() {
                self.next = self.advance(pool);
            }
            match &self.next {
                Some(next) if next.pts().nanos() <= due => self.shown = self.next.take(),
                Some(_) | None => break,
            }
        }
        self.shown.as_ref().map(|picture| picture.at(pts))
    }
}
