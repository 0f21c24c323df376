//! What is put on the outgoing picture: something shown in place of it, captions, a notice. The call's end of it
//! ([`Board`]) says what, the end of the thread that sends pictures ([`Canvas`]) draws it.
//!
//! A change is seen with the next look of the thread, a fifth of a second at most. Drawing is done on a copy: whoever else
//! has the picture sees nothing of it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::time::Pts;
use crate::media::frame::{CleanFrame, Frame, FrameMut, Plane, Size};
use crate::media::pool::FramePool;
use crate::vision::caption::{Captions, Page, Setting, Who};
use crate::vision::filters::Resize;
use crate::vision::text::Typeface;

/// A picture that stands still is sent so often while it is shown: an encoder makes it better each time.
const STANDING: Duration = Duration::from_millis(200);
/// The smallest picture that is sent for one that is shown; a smaller one stands in its middle.
const LEAST: Size = Size::new(640, 360);
/// Buffers of the sending thread's pool that are held here: a picture shrunk, the same on its ground, and one being
/// written on.
pub const HELD: usize = 3;

/// What a call's outgoing picture begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Showing {
    /// What is said is written.
    pub captions: bool,
    /// Written at the top in the first seconds.
    pub notice: String,
    /// Pictures given for the call need not be censored.
    pub trusts_images: bool,
}

/// How long a notice stands once the call is answered.
pub const NOTICE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Shown {
    /// Which of those shown in the call.
    number: u64,
    picture: CleanFrame,
    until: Option<Instant>,
}

impl Shown {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }
}

#[derive(Default)]
struct State {
    shown: Option<Shown>,
    /// Pictures shown so far.
    count: u64,
    captions: Captions,
}

/// The call's end.
pub struct Board {
    state: Mutex<State>,
    /// Counts what was changed; the thread looks when it differs.
    changes: AtomicU64,
    /// Somebody could send pictures, and they are being sent.
    attached: AtomicBool,
    live: AtomicBool,
}

impl Board {
    pub fn new(captions: bool) -> Arc<Board> {
        let state = State { captions: Captions::new(captions), ..State::default() };
        Arc::new(Board {
            state: Mutex::new(state),
            changes: AtomicU64::new(0),
            attached: AtomicBool::new(false),
            live: AtomicBool::new(false),
        })
    }

    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Shows a picture in place of the call's own until then; `None`: until something else is shown.
    pub fn show(&self, picture: CleanFrame, until: Option<Instant>) {
        self.with(|state| {
            state.count += 1;
            state.shown = Some(Shown { number: state.count, picture, until });
        });
        self.changed();
    }

    /// The call's own picture again. `false`: nothing was shown.
    pub fn clear(&self) -> bool {
        let shown = self.with(|state| state.shown.take().is_some());
        self.changed();
        shown
    }

    /// What one of them is saying, all of it so far.
    pub fn caption(&self, now: Instant, who: Who, text: &str) {
        if self.with(|state| state.captions.said(now, who, text)) {
            self.changed();
        }
    }

    pub fn set_captions(&self, on: bool) {
        self.with(|state| state.captions.set_on(on));
        self.changed();
    }

    /// Writes at the top until then.
    pub fn notice(&self, now: Instant, text: &str, until: Instant) {
        self.with(|state| state.captions.notice(now, text, until));
        self.changed();
    }

    /// Whether there is a stream of pictures at all, though it may be on hold.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Acquire)
    }

    /// Whether the peer gets pictures now.
    pub fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }
}

/// What a look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Another picture is shown, or none any more: the next one is a cut.
    pub picture: bool,
    pub text: bool,
}

impl News {
    pub fn any(self) -> bool {
        self.picture || self.text
    }
}

/// The end of the thread that sends pictures.
pub struct Canvas {
    board: Arc<Board>,
    /// What is shown is shrunk to this.
    max: Size,
    seen: u64,
    shown: Option<Shown>,
    page: Page,
    /// What is written has a setting once there is something to write.
    letters: Option<(Typeface, Setting)>,
    sent: Option<Instant>,
}

impl Canvas {
    pub fn new(board: Arc<Board>, max: Size) -> Self {
        let seen = board.changes.load(Ordering::Acquire).wrapping_sub(1);
        board.attached.store(true, Ordering::Release);
        Canvas { board, max, seen, shown: None, page: Page::default(), letters: None, sent: None }
    }

    pub fn set_live(&self, live: bool) {
        self.board.live.store(live, Ordering::Release);
    }

    /// Takes over what was changed or is over.
    pub fn look(&mut self, now: Instant, pool: &FramePool) -> News {
        let changes = self.board.changes.load(Ordering::Acquire);
        let over = self.shown.as_ref().is_some_and(|shown| shown.is_over(now));
        let turned = self.page.until.is_some_and(|at| now >= at);
        if changes == self.seen && !over && !turned {
            return News::default();
        }
        let mut news = News::default();
        if changes != self.seen || over {
            news.picture = self.take_shown(now, pool);
        }
        self.seen = changes;
        let page = self.page_of(now);
        news.text = page != self.page;
        self.page = page;
        news
    }

    fn take_shown(&mut self, now: Instant, pool: &FramePool) -> bool {
        let wanted = self.board.with(|state| {
            state.shown.take_if(|shown| shown.is_over(now));
            state.shown.clone()
        });
        let Some(wanted) = wanted else { return self.shown.take().is_some() };
        if self.shown.as_ref().is_some_and(|shown| shown.number == wanted.number) {
            return false;
        }
        let Some(picture) = placed(wanted.picture, self.max, pool) else { return false };
        self.shown = Some(Shown { picture, ..wanted });
        true
    }

    fn page_of(&mut self, now: Instant) -> Page {
        let columns = self.letters.as_ref().map_or(40, |(_, setting)| setting.columns);
        self.board.with(|state| state.captions.page(now, columns))
    }

    /// What is shown in place of the call's own picture.
    pub fn instead(&self, pts: Pts) -> Option<CleanFrame> {
        self.shown.as_ref().map(|shown| shown.picture.at(pts))
    }

    /// Whether anything is written on the pictures.
    pub fn writes(&self) -> bool {
        !self.page.is_empty()
    }

    /// Whether a picture that stands still is to be sent again.
    pub fn is_due(&self, now: Instant) -> bool {
        self.sent.is_none_or(|sent| now >= sent + STANDING)
    }

    /// The picture with what is written on it; as it is where there is no room for a copy.
    pub fn write(&mut self, now: Instant, picture: CleanFrame, pool: &FramePool) -> CleanFrame {
        self.sent = Some(now);
        if self.page.is_empty() {
            return picture;
        }
        let size = picture.size();
        if self.letters.as_ref().is_none_or(|(_, setting)| !setting.fits(size)) {
            let face = self.letters.take().map_or_else(Typeface::new, |(face, _)| face);
            let setting = Setting::new(size, &face);
            self.letters = Some((face, setting));
            self.page = self.page_of(now);
        }
        let Some((face, setting)) = &mut self.letters else { return picture };
        let page = &self.page;
        let plain = picture.clone();
        picture.edit(pool, |copy| setting.draw(copy, face, page)).unwrap_or(plain)
    }
}

impl Drop for Canvas {
    fn drop(&mut self) {
        self.set_live(false);
        self.board.attached.store(false, Ordering::Release);
    }
}

/// The picture shrunk into `max`, on a black ground of that shape; never enlarged.
fn placed(picture: CleanFrame, max: Size, pool: &FramePool) -> Option<CleanFrame> {
    let fitted = Resize::new(max).apply(picture, pool)?;
    let ground = ground_for(fitted.size(), max);
    if ground == fitted.size() {
        return Some(fitted);
    }
    fitted.redrawn(ground, pool, lay)
}

/// The smallest ground of the shape of `max` a picture has room on.
fn ground_for(size: Size, max: Size) -> Size {
    let least = Size::new(LEAST.width.min(max.width), LEAST.height.min(max.height));
    let width =
        size.width.max(least.width).max(size.height.max(least.height) * max.width / max.height.max(1));
    let width = (width.min(max.width) & !1).max(size.width);
    let height = (width * max.height / max.width.max(1)) & !1;
    Size::new(width, height.max(size.height))
}

fn lay(small: &Frame, large: &mut FrameMut) {
    let (from, to) = (small.size(), large.size());
    // Even, so that both chroma planes begin at a sample.
    let left = ((to.width - from.width) / 2) & !1;
    let top = ((to.height - from.height) / 2) & !1;
    for plane in Plane::ALL {
        let luma = plane == Plane::Y;
        let (width, stride) =
            if luma { (from.width, to.width) } else { (from.chroma().width, to.chroma().width) };
        let (x, y) = if luma { (left, top) } else { (left / 2, top / 2) };
        let target = large.plane_mut(plane);
        target.fill(if luma { 16 } else { 128 });
        for (row, line) in small.plane(plane).chunks_exact(width.max(1)).enumerate() {
            let start = (y + row) * stride + x;
            if let Some(part) = target.get_mut(start..start + width) {
                part.copy_from_slice(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(size: Size, luma: u8) -> CleanFrame {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        picture.plane_mut(Plane::Y).fill(luma);
        picture.plane_mut(Plane::U).fill(90);
        picture.plane_mut(Plane::V).fill(160);
        CleanFrame::drawn_here(picture)
    }

    const MAX: Size = Size::new(1280, 720);

    #[test]
    fn what_is_shown_is_shrunk_never_enlarged_and_has_the_shape_of_the_call() {
        for (from, ground, inside) in [
            ((1654, 2338), (1280, 720), (508, 720)),
            ((4000, 1000), (1280, 720), (1280, 320)),
            ((640, 360), (640, 360), (640, 360)),
            ((640, 480), (852, 480), (640, 480)),
            ((32, 32), (640, 360), (32, 32)),
            ((1280, 720), (1280, 720), (1280, 720)),
        ] {
            let pool = FramePool::new(3);
            let shown = placed(picture(Size::new(from.0, from.1), 200), MAX, &pool).expect("room");
            assert_eq!(shown.size(), Size::new(ground.0, ground.1), "{from:?}");
            let bright = shown.frame().plane(Plane::Y).iter().filter(|luma| **luma == 200).count();
            let wanted = inside.0 * inside.1;
            assert!(bright.abs_diff(wanted) <= wanted / 100, "{from:?}: {bright} of {wanted}");
        }
    }

    #[test]
    fn a_picture_is_shown_for_its_time_and_each_change_is_told_once() {
        let (board, pool, now) = (Board::new(false), FramePool::new(8), Instant::now());
        let mut canvas = Canvas::new(board.clone(), MAX);
        assert!(!canvas.look(now, &pool).any());
        board.show(picture(Size::new(640, 360), 77), Some(now + Duration::from_secs(10)));
        assert!(canvas.look(now, &pool).picture);
        assert!(!canvas.look(now, &pool).any());
        let shown = canvas.instead(Pts::ZERO).expect("it is shown");
        assert_eq!(shown.frame().plane(Plane::Y)[0], 77);
        assert!(canvas.is_due(now));
        drop(canvas.write(now, shown, &pool));
        assert!(!canvas.is_due(now) && canvas.is_due(now + STANDING));
        assert!(canvas.look(now + Duration::from_secs(10), &pool).picture);
        assert!(canvas.instead(Pts::ZERO).is_none());
        assert!(!board.clear(), "it is over");
        board.show(picture(Size::new(16, 16), 5), None);
        board.show(picture(Size::new(640, 360), 9), None);
        assert!(canvas.look(now + Duration::from_secs(3_600), &pool).picture);
        assert_eq!(canvas.instead(Pts::ZERO).map(|shown| shown.frame().plane(Plane::Y)[0]), Some(9));
        assert!(board.clear());
        assert!(canvas.look(now, &pool).picture);
    }

    #[test]
    fn what_is_written_is_on_a_copy() {
        let (board, pool, now) = (Board::new(true), FramePool::new(4), Instant::now());
        let mut canvas = Canvas::new(board.clone(), MAX);
        let own = picture(Size::new(640, 360), 100);
        assert!(
            canvas.write(now, own.clone(), &pool).frame().plane(Plane::Y).iter().all(|luma| *luma == 100)
        );
        board.caption(now, Who::Agent, "A parcel.");
        assert!(canvas.look(now, &pool).text);
        let written = canvas.write(now, own.clone(), &pool);
        assert!(written.frame().plane(Plane::Y).iter().any(|luma| *luma > 200));
        assert!(own.frame().plane(Plane::Y).iter().all(|luma| *luma == 100));
        board.set_captions(false);
        assert!(canvas.look(now, &pool).text);
        let none = canvas.write(now, own, &pool);
        assert!(none.frame().plane(Plane::Y).iter().all(|luma| *luma == 100));
    }

    #[test]
    fn whether_the_peer_gets_pictures_is_known() {
        let board = Board::new(false);
        let canvas = Canvas::new(board.clone(), MAX);
        assert!(board.is_attached() && !board.is_live());
        canvas.set_live(true);
        assert!(board.is_live());
        drop(canvas);
        assert!(!board.is_attached() && !board.is_live());
    }
}
