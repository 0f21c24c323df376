//! What may be done to clean pictures for looks or size: transforms in place, and resizing.
//!
//! None of these protects anybody: hiding is `censor`, and it comes before.

use crate::media::codec::Rect;
use crate::media::frame::{CleanFrame, Frame, FrameMut, Plane, Size};
use crate::media::pool::FramePool;
use crate::vision::mask::{BoxBlur, flatten};
use crate::vision::paint::{Area, each_plane};

/// One change of a picture's look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    Grayscale,
    Sepia,
    Invert,
    Blur,
    Pixelate,
    Edges,
    Cartoon,
    Sketch,
}

impl Transform {
    /// The names of the configuration, in the order of the variants.
    pub const NAMES: [&'static str; 8] =
        ["grayscale", "sepia", "invert", "blur", "pixelate", "edges", "cartoon", "sketch"];

    const ALL: [Transform; 8] = [
        Transform::Grayscale,
        Transform::Sepia,
        Transform::Invert,
        Transform::Blur,
        Transform::Pixelate,
        Transform::Edges,
        Transform::Cartoon,
        Transform::Sketch,
    ];

    /// The transform of that name.
    pub fn parse(name: &str) -> Option<Transform> {
        Self::NAMES.iter().position(|known| *known == name).map(|at| Self::ALL[at])
    }
}

/// The transforms of one call, in order, with their working memory.
#[derive(Default)]
pub struct Transforms {
    list: Vec<Transform>,
    blur: BoxBlur,
    edges: Vec<u8>,
}

impl Transforms {
    pub fn new(list: Vec<Transform>) -> Self {
        Transforms { list, ..Transforms::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Applies all transforms, in order.
    pub fn apply(&mut self, picture: &mut FrameMut) {
        for at in 0..self.list.len() {
            self.apply_one(self.list[at], picture);
        }
    }

    fn apply_one(&mut self, transform: Transform, picture: &mut FrameMut) {
        let size = picture.size();
        let shorter = size.width.min(size.height);
        match transform {
            Transform::Grayscale => tint(picture, 128, 128),
            Transform::Sepia => tint(picture, 112, 142),
            Transform::Invert => invert(picture),
            Transform::Blur => self.blur.apply(picture, Area::whole(size), (shorter / 60).max(2)),
            Transform::Pixelate => cells(picture, ((shorter / 30).max(2)).next_multiple_of(2)),
            Transform::Edges => {
                self.find_edges(picture);
                let dark = |edge: u8| 16 + edge.min(219);
                set_luma(picture, self.edges.iter().map(|edge| dark(*edge)));
                tint(picture, 128, 128);
            }
            Transform::Sketch => {
                self.find_edges(picture);
                set_luma(picture, self.edges.iter().map(|edge| 235 - edge.min(&219)));
                tint(picture, 128, 128);
            }
            Transform::Cartoon => self.cartoon(picture),
        }
    }

    /// Few shades, smooth, with dark lines along the edges.
    fn cartoon(&mut self, picture: &mut FrameMut) {
        const SHADE: u8 = 32;
        self.blur.apply(picture, Area::whole(picture.size()), 1);
        self.find_edges(picture);
        let flat = |sample: u8| (sample / SHADE).saturating_mul(SHADE).saturating_add(SHADE / 2);
        for (luma, edge) in picture.plane_mut(Plane::Y).iter_mut().zip(&self.edges) {
            *luma = if *edge > 90 { 24 } else { flat(*luma).clamp(16, 235) };
        }
        for plane in [Plane::U, Plane::V] {
            // Steps of 8 around neutral: colours become flat without turning.
            picture.plane_mut(plane).iter_mut().for_each(|sample| *sample = sample.saturating_add(4) & !7);
        }
    }

    /// Fills `edges` with how steep the luma is at each pixel (Sobel); the outermost pixels count as flat.
    fn find_edges(&mut self, picture: &FrameMut) {
        let width = picture.size().width;
        let luma = picture.plane(Plane::Y);
        self.edges.clear();
        self.edges.resize(luma.len(), 0);
        if width < 3 {
            return;
        }
        let lines = luma.chunks_exact(width).zip(luma.chunks_exact(width).skip(1));
        let lines = lines.zip(luma.chunks_exact(width).skip(2));
        for (((above, here), below), out) in lines.zip(self.edges.chunks_exact_mut(width).skip(1)) {
            // Per column: the weighted sum and the difference of the three lines; the last two are kept.
            let (mut sums, mut steps) = ((0, 0), (0, 0));
            for (x, ((a, h), b)) in above.iter().zip(here).zip(below).enumerate() {
                let (a, h, b) = (i32::from(*a), i32::from(*h), i32::from(*b));
                let (sum, step) = (a + 2 * h + b, b - a);
                if x >= 2 {
                    let (across, down) = (sum - sums.0, steps.0 + 2 * steps.1 + step);
                    out[x - 1] = ((across.abs() + down.abs()) / 2).min(255) as u8;
                }
                (sums, steps) = ((sums.1, sum), (steps.1, step));
            }
        }
    }
}

fn tint(picture: &mut FrameMut, u: u8, v: u8) {
    picture.plane_mut(Plane::U).fill(u);
    picture.plane_mut(Plane::V).fill(v);
}

fn invert(picture: &mut FrameMut) {
    let [y, u, v] = picture.planes_mut();
    // Limited range: 16 and 235 change places; chroma is mirrored at 128.
    y.iter_mut().for_each(|luma| *luma = 251u8.saturating_sub(*luma).max(16));
    u.iter_mut().chain(v).for_each(|chroma| *chroma = 0u8.wrapping_sub(*chroma).max(1));
}

fn cells(picture: &mut FrameMut, side: usize) {
    let size = picture.size();
    for top in (0..size.height).step_by(side) {
        for left in (0..size.width).step_by(side) {
            let (right, bottom) = ((left + side).min(size.width), (top + side).min(size.height));
            each_plane(picture, Area { left, top, right, bottom }, flatten);
        }
    }
}

fn set_luma(picture: &mut FrameMut, values: impl Iterator<Item = u8>) {
    picture.plane_mut(Plane::Y).iter_mut().zip(values).for_each(|(luma, value)| *luma = value);
}

/// Makes pictures fit into a frame: same aspect, even sides, never larger than they came.
///
/// Bilinear; when shrinking, each pixel takes in every source pixel below it, so that fine detail does not flicker.
pub struct Resize {
    limit: Size,
    /// Weights for the size seen last.
    plan: Option<(Size, Vec<Scale>)>,
    across: Vec<u8>,
}

impl Resize {
    /// Pictures will fit into `limit`.
    pub fn new(limit: Size) -> Self {
        Resize { limit, plan: None, across: Vec::new() }
    }

    /// The size of a picture of `size` after resizing.
    pub fn size_for(&self, size: Size) -> Size {
        let share = |limit: usize, length: usize| limit as f64 / length.max(1) as f64;
        let shrink = share(self.limit.width, size.width).min(share(self.limit.height, size.height));
        if shrink >= 1.0 {
            return size;
        }
        let even = |length: usize| (((length as f64 * shrink) / 2.0).round() as usize * 2).max(2);
        Size::new(even(size.width).min(size.width), even(size.height).min(size.height))
    }

    /// The picture in its new size; as it is when it fits already. `None`: the pool is empty.
    pub fn apply(&mut self, picture: CleanFrame, pool: &FramePool) -> Option<CleanFrame> {
        let (from, to) = (picture.size(), self.size_for(picture.size()));
        if from == to {
            return Some(picture);
        }
        picture.redrawn(to, pool, |old, new| self.scale(old, new))
    }

    fn scale(&mut self, old: &Frame, new: &mut FrameMut) {
        let (from, to) = (old.size(), new.size());
        if self.plan.as_ref().is_none_or(|(size, _)| *size != from) {
            let lengths = [
                (from.width, to.width),
                (from.height, to.height),
                (from.chroma().width, to.chroma().width),
                (from.chroma().height, to.chroma().height),
            ];
            self.plan = Some((from, lengths.iter().map(|(from, to)| Scale::new(*from, *to)).collect()));
        }
        let Some((_, scales)) = &self.plan else { return };
        let [luma_x, luma_y, chroma_x, chroma_y] = scales.as_slice() else { return };
        for plane in Plane::ALL {
            let (x, y) = if plane == Plane::Y { (luma_x, luma_y) } else { (chroma_x, chroma_y) };
            scale_plane(old.plane(plane), x, y, &mut self.across, new.plane_mut(plane));
        }
    }
}

/// Which source samples make each target sample of one direction, with weights of 14 bits that add up to one.
struct Scale {
    from: usize,
    /// First source sample, and the range of `weights`.
    taps: Vec<(usize, std::ops::Range<usize>)>,
    weights: Vec<u32>,
}

const WHOLE: u32 = 1 << 14;

impl Scale {
    fn new(from: usize, to: usize) -> Scale {
        let ratio = from as f64 / to.max(1) as f64;
        let reach = ratio.max(1.0);
        let mut scale = Scale { from, taps: Vec::with_capacity(to), weights: Vec::new() };
        for target in 0..to {
            let centre = (target as f64 + 0.5) * ratio - 0.5;
            let first = (centre - reach).ceil().max(0.0) as usize;
            let past = ((centre + reach).floor() as usize + 1).min(from).max(first + 1);
            let share = |at: usize| (1.0 - (at as f64 - centre).abs() / reach).max(0.0);
            let sum: f64 = (first..past).map(share).sum();
            let start = scale.weights.len();
            let weight = |at: usize| (share(at) / sum.max(1e-9) * f64::from(WHOLE)).round() as u32;
            scale.weights.extend((first..past).map(weight));
            // What rounding left over goes to the middle sample.
            let rounded: u32 = scale.weights[start..].iter().sum();
            let middle = start + (past - first) / 2;
            scale.weights[middle] = (scale.weights[middle] + WHOLE).saturating_sub(rounded);
            scale.taps.push((first, start..scale.weights.len()));
        }
        scale
    }
}

fn scale_plane(old: &[u8], x: &Scale, y: &Scale, across: &mut Vec<u8>, new: &mut [u8]) {
    let width = x.taps.len().max(1);
    across.clear();
    for line in old.chunks_exact(x.from.max(1)) {
        across.extend(x.taps.iter().map(|(first, weights)| {
            let weights = &x.weights[weights.clone()];
            let sum: u32 = line[*first..].iter().zip(weights).map(|(s, weight)| u32::from(*s) * weight).sum();
            ((sum + WHOLE / 2) / WHOLE).min(255) as u8
        }));
    }
    for ((first, weights), out) in y.taps.iter().zip(new.chunks_exact_mut(width)) {
        let weights = &y.weights[weights.clone()];
        for (column, sample) in out.iter_mut().enumerate() {
            let lines = across[first * width + column..].iter().step_by(width);
            let sum: u32 = lines.zip(weights).map(|(s, weight)| u32::from(*s) * weight).sum();
            *sample = ((sum + WHOLE / 2) / WHOLE).min(255) as u8;
        }
    }
}

/// A box in a picture of `from`, carried over to the same picture in size `to`.
pub fn rescaled(rect: &Rect, from: Size, to: Size) -> Rect {
    let share = |to: usize, from: usize| to as f32 / from.max(1) as f32;
    let (x, y) = (share(to.width, from.width), share(to.height, from.height));
    Rect { x1: rect.x1 * x, y1: rect.y1 * y, x2: rect.x2 * x, y2: rect.y2 * y }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;

    /// Dark left half, light right half, coloured.
    fn halves(size: Size) -> FrameMut {
        let mut picture = FramePool::new(1).take_sized(size, Pts::from_millis(40)).expect("room");
        picture.plane_mut(Plane::Y).chunks_mut(size.width).for_each(|line| {
            let middle = line.len() / 2;
            line[..middle].fill(60);
            line[middle..].fill(180);
        });
        picture.plane_mut(Plane::U).fill(90);
        picture.plane_mut(Plane::V).fill(170);
        picture
    }

    fn after(name: &str) -> FrameMut {
        let mut picture = halves(Size::new(64, 48));
        Transforms::new(vec![Transform::parse(name).expect("a name")]).apply(&mut picture);
        picture
    }

    /// Luma far left, at the edge, far right; then the chroma of the middle.
    fn look(name: &str) -> (u8, u8, u8, u8, u8) {
        let picture = after(name);
        let luma = |x: usize| picture.plane(Plane::Y)[24 * 64 + x];
        let chroma = |plane: Plane| picture.plane(plane)[12 * 32 + 5];
        (luma(8), luma(31), luma(56), chroma(Plane::U), chroma(Plane::V))
    }

    #[test]
    fn each_transform_does_what_its_name_says() {
        assert_eq!(look("grayscale"), (60, 60, 180, 128, 128));
        assert_eq!(look("sepia"), (60, 60, 180, 112, 142));
        assert_eq!(look("invert"), (191, 191, 71, 166, 86));
        assert_eq!(look("edges"), (16, 235, 16, 128, 128));
        assert_eq!(look("sketch"), (235, 16, 235, 128, 128));
        let (left, edge, right, u, v) = look("cartoon");
        assert!(edge < 30 && left.abs_diff(60) <= 16 && right.abs_diff(180) <= 16, "{left} {edge} {right}");
        assert!(u.abs_diff(90) <= 4 && v.abs_diff(170) <= 4);
        let (left, edge, right, ..) = look("blur");
        assert!(left == 60 && right == 180 && edge > 80 && edge < 160, "{edge}");
    }

    #[test]
    fn pixelate_makes_even_cells() {
        let mut picture = halves(Size::new(63, 47));
        picture
            .plane_mut(Plane::Y)
            .iter_mut()
            .enumerate()
            .for_each(|(at, luma)| *luma = 16 + (at * 37 % 200) as u8);
        Transforms::new(vec![Transform::Pixelate]).apply(&mut picture);
        let line = &picture.plane(Plane::Y)[..63];
        assert!(line.chunks(2).all(|cell| cell.iter().all(|luma| *luma == cell[0])));
    }

    #[test]
    fn transforms_run_in_order_and_unknown_names_are_refused() {
        let mut picture = halves(Size::new(64, 48));
        Transforms::new(vec![Transform::Invert, Transform::Sepia]).apply(&mut picture);
        assert_eq!((picture.plane(Plane::Y)[0], picture.plane(Plane::U)[0]), (191, 112));
        assert_eq!(Transform::parse("Sepia"), None);
        for name in Transform::NAMES {
            for size in [Size::new(1, 1), Size::new(2, 3), Size::new(3, 2)] {
                Transforms::new(vec![Transform::parse(name).expect("a name")]).apply(&mut halves(size));
            }
        }
    }

    #[test]
    fn resizing_fits_keeps_the_aspect_and_never_enlarges() {
        let fit = |limit: (usize, usize), size: (usize, usize)| {
            let to = Resize::new(Size::new(limit.0, limit.1)).size_for(Size::new(size.0, size.1));
            (to.width, to.height)
        };
        assert_eq!(fit((640, 640), (1280, 720)), (640, 360));
        assert_eq!(fit((640, 640), (720, 1280)), (360, 640));
        assert_eq!(fit((640, 360), (640, 480)), (480, 360));
        assert_eq!(fit((1920, 1080), (640, 360)), (640, 360));
        assert_eq!(fit((0, 0), (640, 360)), (2, 2));
    }

    #[test]
    fn a_resized_picture_shows_the_same_and_keeps_its_time() {
        let pool = FramePool::new(3);
        let mut resize = Resize::new(Size::new(32, 32));
        for size in [Size::new(64, 48), Size::new(200, 150), Size::new(63, 47)] {
            let small = resize.apply(CleanFrame::drawn_here(halves(size)), &pool).expect("room");
            assert_eq!((small.size(), small.pts()), (Size::new(32, 24), Pts::from_millis(40)));
            let luma = |x: usize| small.frame().plane(Plane::Y)[12 * 32 + x];
            assert_eq!([luma(2), luma(29)], [60, 180]);
            assert!(small.frame().plane(Plane::U).iter().all(|u| *u == 90));
        }
    }

    #[test]
    fn fine_detail_becomes_its_mean_when_shrunk() {
        let pool = FramePool::new(2);
        let mut picture = halves(Size::new(256, 128));
        picture
            .plane_mut(Plane::Y)
            .iter_mut()
            .enumerate()
            .for_each(|(at, luma)| *luma = (at % 2 * 200) as u8);
        let small =
            Resize::new(Size::new(64, 64)).apply(CleanFrame::drawn_here(picture), &pool).expect("room");
        let inner = small.frame().plane(Plane::Y).chunks(64).flat_map(|line| &line[1..63]);
        assert!(inner.into_iter().all(|luma| luma.abs_diff(100) <= 2));
    }

    #[test]
    fn a_picture_that_fits_is_passed_on_without_a_copy() {
        let pool = FramePool::new(0);
        let picture = CleanFrame::drawn_here(halves(Size::new(16, 16)));
        assert!(Resize::new(Size::new(16, 16)).apply(picture, &pool).is_some());
        let large = CleanFrame::drawn_here(halves(Size::new(32, 32)));
        assert!(Resize::new(Size::new(16, 16)).apply(large, &pool).is_none());
    }

    #[test]
    fn boxes_follow_the_picture() {
        let rect = Rect { x1: 10.0, y1: 20.0, x2: 30.0, y2: 40.0 };
        let half = rescaled(&rect, Size::new(640, 360), Size::new(320, 180));
        assert_eq!(half, Rect { x1: 5.0, y1: 10.0, x2: 15.0, y2: 20.0 });
    }
}
