//! Which part of a picture a still shows, and how large.
//!
//! Pure. Five strategies with the names other agents use. Nothing is ever enlarged: the box becomes smaller, keeping
//! its shape, until the picture need not grow. Enlarging costs bytes and tokens and shows nothing more.

use crate::media::frame::Size;

/// How a picture is brought into a box of another shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Whole, in the middle of a black box.
    CenterAspectFit,
    /// Fills the box; what sticks out is cut off on both sides.
    CenterAspectCover,
    /// Whole, as large as the box allows; the still has the picture's shape.
    #[default]
    ScaleAspectFit,
    /// Whole, as small as covers the box; the still has the picture's shape.
    ScaleAspectCover,
    /// Whole, in the box's shape.
    Skew,
}

impl Strategy {
    /// The names of the configuration, in the order of the variants.
    pub const NAMES: [&'static str; 5] =
        ["center_aspect_fit", "center_aspect_cover", "scale_aspect_fit", "scale_aspect_cover", "skew"];

    const ALL: [Strategy; 5] = [
        Strategy::CenterAspectFit,
        Strategy::CenterAspectCover,
        Strategy::ScaleAspectFit,
        Strategy::ScaleAspectCover,
        Strategy::Skew,
    ];

    /// The strategy of that name.
    pub fn parse(name: &str) -> Option<Strategy> {
        Self::NAMES.iter().position(|known| *known == name).map(|at| Self::ALL[at])
    }
}

/// The box a still must fit, in pixels; a side of 0 is as long as the picture's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    pub width: usize,
    pub height: usize,
    pub strategy: Strategy,
}

impl Default for Fit {
    fn default() -> Self {
        Fit { width: 1024, height: 1024, strategy: Strategy::ScaleAspectFit }
    }
}

/// A part of a picture. `left` and `top` are even, as chroma has half the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub left: usize,
    pub top: usize,
    pub size: Size,
}

/// What of the picture goes where in the still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The part of the picture that is shown.
    pub from: Part,
    /// Where it goes; what is around it is black.
    pub onto: Part,
    /// The still's size.
    pub canvas: Size,
}

impl Fit {
    /// Lays a picture of `size` out; every side of the result is at least 1 and at most the picture's.
    pub fn lay_out(&self, size: Size) -> Layout {
        let wanted = [(self.width, size.width), (self.height, size.height)];
        let [width, height] = wanted.map(|(limit, own)| if limit == 0 { own } else { limit } as f64);
        let (across, down) = (width / size.width.max(1) as f64, height / size.height.max(1) as f64);
        let (least, most) = (across.min(down), across.max(down));
        // By how much the picture would be stretched in the direction that is stretched most.
        let growth = match self.strategy {
            Strategy::CenterAspectFit | Strategy::ScaleAspectFit => least,
            Strategy::CenterAspectCover | Strategy::ScaleAspectCover | Strategy::Skew => most,
        };
        let shrink = growth.max(1.0);
        let boxed = Size::new(side(width / shrink, size.width), side(height / shrink, size.height));
        let scaled = |scale: f64| {
            let scale = scale.min(1.0);
            Size::new(
                side(size.width as f64 * scale, size.width),
                side(size.height as f64 * scale, size.height),
            )
        };
        let whole = Part { left: 0, top: 0, size };
        match self.strategy {
            Strategy::ScaleAspectFit => Layout::plain(whole, scaled(least)),
            Strategy::ScaleAspectCover => Layout::plain(whole, scaled(most)),
            Strategy::Skew => Layout::plain(whole, boxed),
            Strategy::CenterAspectFit => {
                let canvas = Size::new(wide(width / shrink), wide(height / shrink));
                let shown = scaled(least);
                let shown = Size::new(shown.width.min(canvas.width), shown.height.min(canvas.height));
                Layout { from: whole, onto: middle(canvas, shown), canvas }
            }
            Strategy::CenterAspectCover => {
                let scale = most.min(1.0);
                let part = Size::new(
                    side(boxed.width as f64 / scale, size.width),
                    side(boxed.height as f64 / scale, size.height),
                );
                Layout::plain(middle(size, part), boxed)
            }
        }
    }
}

impl Layout {
    fn plain(from: Part, canvas: Size) -> Layout {
        Layout { from, onto: Part { left: 0, top: 0, size: canvas }, canvas }
    }
}

fn wide(length: f64) -> usize {
    (length.round() as usize).max(1)
}

fn side(length: f64, most: usize) -> usize {
    wide(length).min(most.max(1))
}

/// `inner` in the middle of `outer`, at even places.
fn middle(outer: Size, inner: Size) -> Part {
    let before = |outer: usize, inner: usize| (outer.saturating_sub(inner) / 2) & !1;
    Part { left: before(outer.width, inner.width), top: before(outer.height, inner.height), size: inner }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(strategy: Strategy, size: (usize, usize), limit: (usize, usize)) -> Layout {
        Fit { width: limit.0, height: limit.1, strategy }.lay_out(Size::new(size.0, size.1))
    }

    fn canvas(strategy: Strategy, size: (usize, usize), limit: (usize, usize)) -> (usize, usize) {
        let canvas = laid(strategy, size, limit).canvas;
        (canvas.width, canvas.height)
    }

    #[test]
    fn a_wide_picture_comes_into_a_square_box_in_five_ways() {
        let (size, limit) = ((1280, 720), (512, 512));
        assert_eq!(canvas(Strategy::CenterAspectFit, size, limit), (512, 512));
        assert_eq!(canvas(Strategy::CenterAspectCover, size, limit), (512, 512));
        assert_eq!(canvas(Strategy::ScaleAspectFit, size, limit), (512, 288));
        assert_eq!(canvas(Strategy::ScaleAspectCover, size, limit), (910, 512));
        assert_eq!(canvas(Strategy::Skew, size, limit), (512, 512));
        let fit = laid(Strategy::CenterAspectFit, size, limit);
        assert_eq!(fit.onto, Part { left: 0, top: 112, size: Size::new(512, 288) });
        let cover = laid(Strategy::CenterAspectCover, size, limit);
        assert_eq!(cover.from, Part { left: 280, top: 0, size: Size::new(720, 720) });
    }

    #[test]
    fn a_small_picture_is_not_enlarged_in_any_way() {
        let (size, limit) = ((320, 240), (1024, 1024));
        assert_eq!(canvas(Strategy::ScaleAspectFit, size, limit), (320, 240));
        assert_eq!(canvas(Strategy::ScaleAspectCover, size, limit), (320, 240));
        assert_eq!(canvas(Strategy::CenterAspectFit, size, limit), (320, 320));
        assert_eq!(canvas(Strategy::CenterAspectCover, size, limit), (240, 240));
        assert_eq!(canvas(Strategy::Skew, size, limit), (240, 240));
        for strategy in Strategy::ALL {
            for size in [(2, 2), (16, 4000), (320, 240), (1279, 721), (4000, 16)] {
                for limit in [(1, 1), (100, 700), (1024, 1024), (0, 300), (0, 0), (9000, 20)] {
                    let Layout { from, onto, canvas } = laid(strategy, size, limit);
                    let grows = onto.size.width > from.size.width || onto.size.height > from.size.height;
                    assert!(!grows, "{strategy:?} {size:?} in {limit:?}: {from:?} to {onto:?}");
                    assert!(from.left + from.size.width <= size.0 && from.top + from.size.height <= size.1);
                    assert!(onto.left + onto.size.width <= canvas.width, "{strategy:?} {size:?} {limit:?}");
                    assert!(onto.top + onto.size.height <= canvas.height, "{strategy:?} {size:?} {limit:?}");
                    assert!(onto.size.width > 0 && onto.size.height > 0);
                }
            }
        }
    }

    #[test]
    fn no_limit_keeps_the_size_and_every_name_is_read() {
        assert_eq!(canvas(Strategy::ScaleAspectFit, (1920, 1080), (0, 0)), (1920, 1080));
        assert_eq!(canvas(Strategy::ScaleAspectFit, (1920, 1080), (0, 540)), (960, 540));
        for (name, strategy) in Strategy::NAMES.iter().zip(Strategy::ALL) {
            assert_eq!(Strategy::parse(name), Some(strategy));
        }
        assert_eq!(Strategy::parse("stretch"), None);
    }
}
