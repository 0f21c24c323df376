//! Hiding parts of an I420 picture in place: pixelated, blurred or black, on all three planes.
//!
//! Strength goes with the size of what is hidden, since a fixed one leaves large faces recognisable. Only the hidden
//! part is read or written. Which parts to hide is decided in `censor`.

use crate::media::codec::Rect;
use crate::media::frame::{FrameMut, Size};
use crate::vision::paint::{Area, Color, each_plane, fill};

/// A hidden box has at most this many cells in each direction: at 8 a detector still finds faces, at 4 none.
const CELLS: usize = 4;

/// How a part is hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// At most 4x4 cells of one colour over the box.
    #[default]
    Pixelate,
    /// Two box blurs with a kernel of at least half the box's shorter side.
    Blur,
    Black,
}

/// A polygon in shares of the picture: (0, 0) is the top left corner, (1, 1) the bottom right one.
///
/// The inside follows the even-odd rule; blocks of 2x2 pixels that an edge crosses belong to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    points: Vec<(f32, f32)>,
}

impl Zone {
    /// `None`: fewer than three points, or a coordinate that is no number or further away than one picture.
    pub fn new(points: Vec<(f32, f32)>) -> Option<Zone> {
        let near = -1.0..=2.0;
        let sound = points.len() >= 3 && points.iter().all(|(x, y)| near.contains(x) && near.contains(y));
        sound.then_some(Zone { points })
    }

    /// The corners in pixels of a picture of `size`.
    fn corners(&self, size: Size) -> impl Iterator<Item = (f32, f32)> {
        self.points.iter().map(move |(x, y)| (x * size.width as f32, y * size.height as f32))
    }

    fn bounds(&self, size: Size) -> Rect {
        let start = Rect { x1: f32::MAX, y1: f32::MAX, x2: f32::MIN, y2: f32::MIN };
        self.corners(size).fold(start, |r, (x, y)| Rect {
            x1: r.x1.min(x),
            y1: r.y1.min(y),
            x2: r.x2.max(x),
            y2: r.y2.max(y),
        })
    }

    /// The edges in pixels, each with its upper end first.
    fn edges(&self, size: Size) -> impl Iterator<Item = ((f32, f32), (f32, f32))> {
        let ends = self.corners(size).skip(1).chain(self.corners(size).take(1));
        self.corners(size).zip(ends).map(|(a, b)| if a.1 <= b.1 { (a, b) } else { (b, a) })
    }

    /// Marks in `inside` the blocks of one row of 2x2 blocks that the polygon covers or touches; `top` is the row's
    /// first luma line, `left` the luma column where `inside` starts.
    fn mark(&self, size: Size, top: usize, left: usize, inside: &mut [bool], crossings: &mut Vec<f32>) {
        inside.fill(false);
        crossings.clear();
        let mut touch = |x1: f32, x2: f32| {
            let block = |x: f32| ((x - left as f32) / 2.0).floor();
            let (first, last) = (block(x1).max(0.0), block(x2));
            if last >= first {
                let past = (last as usize).saturating_add(1).min(inside.len());
                inside.get_mut(first as usize..past).unwrap_or_default().fill(true);
            }
        };
        let (top, middle, bottom) = (top as f32, top as f32 + 1.0, top as f32 + 2.0);
        for (upper, lower) in self.edges(size) {
            if lower.1 < top || upper.1 > bottom {
                continue;
            }
            let height = (lower.1 - upper.1).max(f32::MIN_POSITIVE);
            let at = |y: f32| upper.0 + (lower.0 - upper.0) * ((y - upper.1) / height).clamp(0.0, 1.0);
            // The piece of the edge within this row.
            touch(at(top).min(at(bottom)), at(top).max(at(bottom)));
            if upper.1 <= middle && middle < lower.1 {
                crossings.push(at(middle));
            }
        }
        crossings.sort_by(f32::total_cmp);
        for between in crossings.chunks_exact(2) {
            touch(between[0], between[1]);
        }
    }
}

/// Hides parts of pictures in one style. Owns the working memory, so that a running call allocates nothing.
#[derive(Default)]
pub struct Brush {
    style: Style,
    blur: BoxBlur,
    /// The pixels of a zone's bounding box before it was hidden.
    kept: Vec<u8>,
    inside: Vec<bool>,
    crossings: Vec<f32>,
}

impl Brush {
    pub fn new(style: Style) -> Self {
        Brush { style, ..Brush::default() }
    }

    /// Hides the pixels of `rect` (already grown by its margin). False: it lies outside the picture.
    pub fn hide(&mut self, picture: &mut FrameMut, rect: &Rect) -> bool {
        let Some(area) = Area::covering(picture.size(), rect) else { return false };
        match self.style {
            Style::Pixelate => pixelate(picture, area, rect),
            Style::Blur => {
                // The smaller side of what is hidden, parts beyond the picture's edge included.
                let shorter = rect.width().min(rect.height());
                let shorter = if shorter.is_finite() { shorter.ceil() as usize } else { usize::MAX };
                self.blur.apply(picture, area, kernel_radius(shorter.max(area.width().min(area.height()))));
            }
            Style::Black => fill(picture, area, Color::BLACK),
        }
        true
    }

    /// Hides the pixels of `zone` and no others, but for the 2x2 blocks on its edge.
    pub fn hide_zone(&mut self, picture: &mut FrameMut, zone: &Zone) {
        let size = picture.size();
        let bounds = zone.bounds(size);
        let Some(area) = Area::covering(size, &bounds) else { return };
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        each_plane(picture, area, |plane, stride, area| {
            area.rows(plane, stride).for_each(|row| kept.extend_from_slice(row));
        });
        self.hide(picture, &bounds);
        self.restore_outside(picture, zone, area, &kept);
        self.kept = kept;
    }

    /// Hides the whole picture.
    pub fn hide_all(&mut self, picture: &mut FrameMut) {
        let size = picture.size();
        self.hide(picture, &Rect { x1: 0.0, y1: 0.0, x2: size.width as f32, y2: size.height as f32 });
    }

    /// Puts the `kept` pixels of `area` back wherever the zone is not.
    fn restore_outside(&mut self, picture: &mut FrameMut, zone: &Zone, area: Area, kept: &[u8]) {
        let size = picture.size();
        let (luma, chroma) = (area, area.chroma());
        let (old_y, rest) = kept.split_at(luma.width() * luma.height());
        let (old_u, old_v) = rest.split_at(chroma.width() * chroma.height());
        self.inside.resize(chroma.width(), false);
        let [y, u, v] = picture.planes_mut();
        for block_row in 0..chroma.height() {
            let top = luma.top + 2 * block_row;
            zone.mark(size, top, luma.left, &mut self.inside, &mut self.crossings);
            for line in (2 * block_row)..(2 * block_row + 2).min(luma.height()) {
                let new = &mut y[(luma.top + line) * size.width..][luma.left..luma.right];
                let old = &old_y[line * luma.width()..][..luma.width()];
                for ((new, old), inside) in new.chunks_mut(2).zip(old.chunks(2)).zip(&self.inside) {
                    if !inside {
                        new.copy_from_slice(old);
                    }
                }
            }
            for (plane, old) in [(&mut *u, old_u), (&mut *v, old_v)] {
                let new =
                    &mut plane[(chroma.top + block_row) * size.chroma().width..][chroma.left..chroma.right];
                let old = &old[block_row * chroma.width()..][..chroma.width()];
                for ((new, old), inside) in new.iter_mut().zip(old).zip(&self.inside) {
                    *new = if *inside { *new } else { *old };
                }
            }
        }
    }
}

/// The edges of the cells of one direction, in whole blocks inside the area. Cells divide the box itself, not what
/// the picture shows of it, so that a face at the edge gets no finer cells.
fn cell_edges(from: f32, to: f32, first: usize, past: usize) -> [usize; CELLS + 1] {
    let mut edges = [first; CELLS + 1];
    for (step, edge) in edges.iter_mut().enumerate() {
        let place = from + (to - from) * step as f32 / CELLS as f32;
        *edge = (((place / 2.0).round().max(0.0) as usize).saturating_mul(2)).clamp(first, past);
    }
    edges[0] = first;
    edges[CELLS] = past;
    edges
}

fn pixelate(picture: &mut FrameMut, area: Area, rect: &Rect) {
    let columns = cell_edges(rect.x1, rect.x2, area.left, area.right);
    let rows = cell_edges(rect.y1, rect.y2, area.top, area.bottom);
    for down in rows.windows(2) {
        for across in columns.windows(2) {
            let cell = Area { left: across[0], right: across[1], top: down[0], bottom: down[1] };
            if cell.left < cell.right && cell.top < cell.bottom {
                each_plane(picture, cell, flatten);
            }
        }
    }
}

/// Gives the whole area its mean value.
pub(crate) fn flatten(plane: &mut [u8], stride: usize, area: Area) {
    let count = (area.width() * area.height()) as u64;
    let sum = |row: &mut [u8]| u64::from(row.iter().map(|sample| u32::from(*sample)).sum::<u32>());
    let total: u64 = area.rows(plane, stride).map(sum).sum();
    let mean = (total + count / 2) / count.max(1);
    area.rows(plane, stride).for_each(|row| row.fill(mean as u8));
}

/// Radius r of a kernel 2r + 1 that is at least half of `shorter`.
fn kernel_radius(shorter: usize) -> usize {
    shorter.div_ceil(4).max(1)
}

/// Two box blurs over an area, with the window cut off at the area's edge: the cost does not depend on the radius.
///
/// A wide blur is done on a picture made smaller by `step` and enlarged again, which blurs a little more, for a
/// fraction of the time.
#[derive(Default)]
pub(crate) struct BoxBlur {
    copy: Vec<u8>,
    sums: Vec<u32>,
    small: Vec<u8>,
}

impl BoxBlur {
    /// Blurs all planes with a kernel of at least `2 * radius + 1` luma pixels.
    pub(crate) fn apply(&mut self, picture: &mut FrameMut, area: Area, radius: usize) {
        let mut luma = true;
        each_plane(picture, area, |plane, stride, area| {
            let radius = if luma { radius } else { radius.div_ceil(2) };
            luma = false;
            let step = match radius {
                0..6 => return self.twice(plane, stride, area, radius),
                6..12 => 2,
                12..24 => 4,
                24..48 => 8,
                _ => 16,
            };
            let mut small = std::mem::take(&mut self.small);
            let size = Size::new(area.width().div_ceil(step), area.height().div_ceil(step));
            self.shrink(plane, stride, area, step, &mut small);
            self.twice(&mut small, size.width, Area::whole(size), radius.div_ceil(step));
            self.enlarge(&small, size.width, step, plane, stride, area);
            self.small = small;
        });
    }

    fn twice(&mut self, plane: &mut [u8], stride: usize, area: Area, radius: usize) {
        for _ in 0..2 {
            self.across(plane, stride, area, radius);
            self.down(plane, stride, area, radius);
        }
    }

    /// Fills `small` with the means of blocks of `step` by `step`.
    fn shrink(&mut self, plane: &mut [u8], stride: usize, area: Area, step: usize, small: &mut Vec<u8>) {
        let width = area.width().div_ceil(step);
        small.clear();
        self.sums.clear();
        self.sums.resize(width, 0);
        let mut lines = 0;
        for (y, row) in area.rows(plane, stride).enumerate() {
            for (sum, block) in self.sums.iter_mut().zip(row.chunks(step)) {
                *sum += block.iter().map(|sample| u32::from(*sample)).sum::<u32>();
            }
            lines += 1;
            if lines == step || y + 1 == area.height() {
                for (column, sum) in self.sums.iter_mut().enumerate() {
                    let count = (lines * step.min(area.width() - column * step)) as u32;
                    small.push(((*sum + count / 2) / count) as u8);
                    *sum = 0;
                }
                lines = 0;
            }
        }
    }

    /// Fills the area with `small`, `step` times as large; bilinear. `step` is a power of two.
    fn enlarge(
        &mut self,
        small: &[u8],
        width: usize,
        step: usize,
        plane: &mut [u8],
        stride: usize,
        area: Area,
    ) {
        // Place of target sample `at` in 256ths of a source sample; `half` is half a target sample.
        let half = 128 / step;
        let place = |at: usize| ((2 * at + 1) * half).saturating_sub(128);
        let height = small.len() / width;
        for (y, row) in area.rows(plane, stride).enumerate() {
            let (first, share) = (place(y) >> 8, (place(y) & 255) as u32);
            let line = |y: usize| &small[y.min(height - 1) * width..][..width];
            let mixed = |(a, b): (&u8, &u8)| u32::from(*a) * (256 - share) + u32::from(*b) * share;
            self.sums.clear();
            self.sums.extend(line(first).iter().zip(line(first + 1)).map(mixed));
            let mut start = 0;
            // Between the middles of two neighbouring source samples lie `step` target samples.
            for column in 0..=width {
                let (left, right) = (self.sums[column.max(1) - 1], self.sums[column.min(width - 1)]);
                let past = (step / 2 + column * step).min(row.len());
                let mut share = half as u32;
                for sample in &mut row[start..past] {
                    *sample = ((left * (256 - share) + right * share + (1 << 15)) >> 16) as u8;
                    share += 2 * half as u32;
                }
                start = past;
            }
        }
    }

    fn across(&mut self, plane: &mut [u8], stride: usize, area: Area, radius: usize) {
        let width = area.width();
        let radius = radius.min(width);
        for row in area.rows(plane, stride) {
            self.copy.clear();
            self.copy.extend_from_slice(row);
            let old = self.copy.as_slice();
            let mut count = radius.min(width);
            let mut sum: u32 = old[..count].iter().map(|sample| u32::from(*sample)).sum();
            let mut share = reciprocal(count.max(1));
            for (x, new) in row.iter_mut().enumerate() {
                let before = count;
                if let Some(entering) = old.get(x + radius) {
                    sum += u32::from(*entering);
                    count += 1;
                }
                if x > radius {
                    sum -= u32::from(old[x - radius - 1]);
                    count -= 1;
                }
                if count != before || x == 0 {
                    share = reciprocal(count);
                }
                *new = scaled(sum, share);
            }
        }
    }

    fn down(&mut self, plane: &mut [u8], stride: usize, area: Area, radius: usize) {
        let (width, height) = (area.width(), area.height());
        let radius = radius.min(height);
        self.copy.clear();
        area.rows(plane, stride).for_each(|row| self.copy.extend_from_slice(row));
        self.sums.clear();
        self.sums.resize(width, 0);
        let line = |copy: &[u8], y: usize| -> std::ops::Range<usize> {
            let from = (y * width).min(copy.len());
            from..(from + width).min(copy.len())
        };
        let mut count = radius.min(height);
        for y in 0..count {
            add(&mut self.sums, &self.copy[line(&self.copy, y)]);
        }
        for (y, row) in area.rows(plane, stride).enumerate() {
            if y + radius < height {
                add(&mut self.sums, &self.copy[line(&self.copy, y + radius)]);
                count += 1;
            }
            if y > radius {
                let leaving = &self.copy[line(&self.copy, y - radius - 1)];
                self.sums.iter_mut().zip(leaving).for_each(|(sum, sample)| *sum -= u32::from(*sample));
                count -= 1;
            }
            let share = reciprocal(count);
            row.iter_mut().zip(&self.sums).for_each(|(new, sum)| *new = scaled(*sum, share));
        }
    }
}

fn add(sums: &mut [u32], line: &[u8]) {
    sums.iter_mut().zip(line).for_each(|(sum, sample)| *sum += u32::from(*sample));
}

/// 1 / `count` as a binary fraction of 32 bits: a multiplication per pixel instead of a division.
fn reciprocal(count: usize) -> u64 {
    (1u64 << 32) / count.max(1) as u64 + 1
}

fn scaled(sum: u32, share: u64) -> u8 {
    ((u64::from(sum) * share) >> 32).min(255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Plane;
    use crate::media::pool::FramePool;
    use std::collections::HashSet;

    const STYLES: [Style; 3] = [Style::Pixelate, Style::Blur, Style::Black];

    /// A picture with detail everywhere: neighbouring pixels differ strongly.
    fn detailed(size: Size) -> FrameMut {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        let mut seed = 7u32;
        for byte in picture.bytes_mut() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = 16 + (seed >> 24) as u8 % 220;
        }
        picture
    }

    /// A drawn face in the middle of `rect`: light oval, two dark eyes, a dark mouth.
    fn with_face(size: Size, rect: &Rect) -> FrameMut {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        picture.bytes_mut().fill(128);
        let (cx, cy) = ((rect.x1 + rect.x2) / 2.0, (rect.y1 + rect.y2) / 2.0);
        let near = |x: f32, y: f32, ex: f32, ey: f32, rx: f32, ry: f32| {
            ((x - cx) / rect.width() - ex).powi(2) / (rx * rx)
                + ((y - cy) / rect.height() - ey).powi(2) / (ry * ry)
                < 1.0
        };
        for (at, luma) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            let (x, y) = ((at % size.width) as f32, (at / size.width) as f32);
            if near(x, y, 0.0, 0.0, 0.4, 0.5) {
                *luma = 200;
            }
            if near(x, y, -0.17, -0.12, 0.08, 0.05)
                || near(x, y, 0.17, -0.12, 0.08, 0.05)
                || near(x, y, 0.0, 0.25, 0.15, 0.04)
            {
                *luma = 30;
            }
        }
        picture
    }

    fn values(picture: &FrameMut, plane: Plane, area: Area) -> Vec<u8> {
        let size = if plane == Plane::Y { picture.size() } else { picture.size().chroma() };
        let mut copy = picture.plane(plane).to_vec();
        area.rows(&mut copy, size.width).flatten().map(|sample| *sample).collect()
    }

    fn steepest_step(picture: &FrameMut, area: Area) -> u8 {
        values(picture, Plane::Y, area)
            .chunks(area.width())
            .flat_map(|row| row.windows(2).map(|pair| pair[0].abs_diff(pair[1])).collect::<Vec<_>>())
            .max()
            .unwrap_or(0)
    }

    fn variance(samples: &[u8]) -> f64 {
        let mean = samples.iter().map(|s| f64::from(*s)).sum::<f64>() / samples.len() as f64;
        samples.iter().map(|s| (f64::from(*s) - mean).powi(2)).sum::<f64>() / samples.len() as f64
    }

    #[test]
    fn nothing_of_the_detail_under_a_mask_is_left_in_any_style_or_plane() {
        let size = Size::new(160, 120);
        let rect = Rect { x1: 31.4, y1: 17.2, x2: 90.9, y2: 99.9 };
        let area = Area::covering(size, &rect).expect("inside");
        for style in STYLES {
            let mut picture = detailed(size);
            let before = variance(&values(&picture, Plane::Y, area));
            assert!(Brush::new(style).hide(&mut picture, &rect));
            for plane in Plane::ALL {
                let part = if plane == Plane::Y { area } else { area.chroma() };
                let after = variance(&values(&picture, plane, part));
                assert!(after < before / 20.0, "{style:?} {plane:?}: variance {before} became {after}");
            }
        }
    }

    #[test]
    fn a_pixelated_box_has_at_most_sixteen_cells() {
        let size = Size::new(160, 120);
        for rect in [
            Rect { x1: 31.4, y1: 17.2, x2: 90.9, y2: 99.9 },
            Rect { x1: -40.0, y1: -30.0, x2: 50.5, y2: 61.0 },
            Rect { x1: 100.0, y1: 60.0, x2: 1e9, y2: 1e9 },
            Rect { x1: 3.0, y1: 3.0, x2: 8.0, y2: 9.0 },
        ] {
            let mut picture = detailed(size);
            Brush::new(Style::Pixelate).hide(&mut picture, &rect);
            let area = Area::covering(size, &rect).expect("touches");
            let distinct: HashSet<u8> = values(&picture, Plane::Y, area).into_iter().collect();
            assert!(distinct.len() <= 16, "{rect:?}: {} values", distinct.len());
        }
    }

    #[test]
    fn a_box_half_outside_gets_no_finer_cells_than_a_whole_one() {
        let size = Size::new(160, 120);
        let mut picture = detailed(size);
        Brush::new(Style::Pixelate).hide(&mut picture, &Rect { x1: -60.0, y1: 20.0, x2: 20.0, y2: 100.0 });
        let row = values(&picture, Plane::Y, Area { left: 0, top: 24, right: 20, bottom: 26 });
        assert_eq!(row.iter().collect::<HashSet<_>>().len(), 1);
    }

    #[test]
    fn the_eyes_and_mouth_of_a_face_are_gone_in_every_style() {
        let size = Size::new(320, 180);
        let face = Rect { x1: 101.0, y1: 31.0, x2: 199.0, y2: 151.0 };
        let grown = face.grown(0.3);
        let area = Area::covering(size, &face).expect("inside");
        for style in STYLES {
            let mut picture = with_face(size, &face);
            assert!(steepest_step(&picture, area) > 100);
            Brush::new(style).hide(&mut picture, &grown);
            // The contrast between an eye and the cheek below it was 170.
            let at = |x: usize, y: usize| picture.plane(Plane::Y)[y * size.width + x];
            let left = at(133, 77).abs_diff(at(133, 110));
            assert!(left <= 40, "{style:?}: {left}");
            let cells: HashSet<u8> = values(&picture, Plane::Y, area).into_iter().collect();
            match style {
                Style::Pixelate => assert!(cells.len() <= 16),
                Style::Blur => assert!(steepest_step(&picture, area) <= 3),
                Style::Black => assert_eq!(cells.len(), 1),
            }
        }
    }

    #[test]
    fn pixels_outside_the_mask_are_not_touched() {
        for size in [Size::new(64, 48), Size::new(63, 47)] {
            for style in STYLES {
                for rect in [
                    Rect { x1: 10.3, y1: 11.7, x2: 33.1, y2: 30.2 },
                    Rect { x1: -9.0, y1: 40.0, x2: 5.0, y2: 90.0 },
                    Rect { x1: 61.2, y1: 45.1, x2: 200.0, y2: 200.0 },
                ] {
                    let untouched = detailed(size);
                    let mut picture = detailed(size);
                    Brush::new(style).hide(&mut picture, &rect);
                    let area = Area::covering(size, &rect).expect("touches");
                    for plane in Plane::ALL {
                        let (part, width) = if plane == Plane::Y {
                            (area, size.width)
                        } else {
                            (area.chroma(), size.chroma().width)
                        };
                        for (at, (new, old)) in
                            picture.plane(plane).iter().zip(untouched.plane(plane)).enumerate()
                        {
                            let (x, y) = (at % width, at / width);
                            let inside =
                                (part.left..part.right).contains(&x) && (part.top..part.bottom).contains(&y);
                            assert!(inside || new == old, "{size} {style:?} {rect:?} {plane:?} {x},{y}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn boxes_outside_the_picture_and_endless_boxes_do_no_harm() {
        let size = Size::new(32, 32);
        for style in STYLES {
            let mut brush = Brush::new(style);
            let mut picture = detailed(size);
            assert!(!brush.hide(&mut picture, &Rect { x1: 40.0, y1: 0.0, x2: 50.0, y2: 9.0 }));
            assert!(!brush.hide(&mut picture, &Rect { x1: -9.0, y1: 0.0, x2: -1.0, y2: 9.0 }));
            assert_eq!(picture.bytes(), detailed(size).bytes());
            let endless = Rect { x1: f32::NEG_INFINITY, y1: f32::NAN, x2: f32::INFINITY, y2: f32::NAN };
            assert!(brush.hide(&mut picture, &endless));
            assert!(variance(picture.plane(Plane::Y)) < 100.0);
        }
    }

    #[test]
    fn a_whole_blurred_picture_shows_no_edge() {
        let size = Size::new(320, 180);
        let mut picture = with_face(size, &Rect { x1: 101.0, y1: 31.0, x2: 199.0, y2: 151.0 });
        Brush::new(Style::Blur).hide_all(&mut picture);
        assert!(steepest_step(&picture, Area::whole(size)) <= 3);
    }

    #[test]
    fn a_zone_hides_its_inside_and_nothing_beyond_its_edge_blocks() {
        let size = Size::new(80, 60);
        // A triangle with its right angle at the top left.
        let zone = Zone::new(vec![(0.25, 0.25), (0.75, 0.25), (0.25, 0.75)]).expect("a polygon");
        for style in STYLES {
            let untouched = detailed(size);
            let mut picture = detailed(size);
            Brush::new(style).hide_zone(&mut picture, &zone);
            for y in 0..size.height {
                for x in 0..size.width {
                    let same = picture.plane(Plane::Y)[y * 80 + x] == untouched.plane(Plane::Y)[y * 80 + x];
                    // Distance from the slanted side, positive inside.
                    let (px, py) = ((x as f32 + 0.5) / 80.0, (y as f32 + 0.5) / 60.0);
                    let outside = px + py > 1.0 + 0.08 || px < 0.22 || py < 0.21;
                    assert!(!outside || same, "{style:?} touched {x},{y}");
                    if style == Style::Black && px > 0.25 && py > 0.25 && px + py < 1.0 {
                        assert_eq!(picture.plane(Plane::Y)[y * 80 + x], 16, "{x},{y}");
                    }
                }
            }
            assert!(picture.bytes() != untouched.bytes());
        }
    }

    #[test]
    fn a_zone_with_a_notch_leaves_the_notch_open() {
        let size = Size::new(100, 100);
        let notched = vec![
            (0.1, 0.1),
            (0.9, 0.1),
            (0.9, 0.9),
            (0.7, 0.9),
            (0.7, 0.3),
            (0.3, 0.3),
            (0.3, 0.9),
            (0.1, 0.9),
        ];
        let zone = Zone::new(notched).expect("a polygon");
        let mut picture = detailed(size);
        picture.bytes_mut().fill(200);
        Brush::new(Style::Black).hide_zone(&mut picture, &zone);
        let luma = |x: usize, y: usize| picture.plane(Plane::Y)[y * 100 + x];
        assert_eq!([luma(20, 60), luma(50, 20), luma(80, 60)], [16, 16, 16]);
        assert_eq!([luma(50, 60), luma(50, 40), luma(5, 5), luma(95, 50)], [200, 200, 200, 200]);
    }

    #[test]
    fn zones_beyond_the_picture_are_cut_and_nonsense_is_refused() {
        let zone = Zone::new(vec![(-1.0, -1.0), (2.0, -1.0), (2.0, 2.0), (-1.0, 2.0)]).expect("a polygon");
        let mut picture = detailed(Size::new(31, 21));
        Brush::new(Style::Black).hide_zone(&mut picture, &zone);
        assert!(picture.plane(Plane::Y).iter().all(|luma| *luma == 16));
        assert_eq!(Zone::new(vec![(0.0, 0.0), (1.0, 1.0)]), None);
        assert_eq!(Zone::new(vec![(0.0, 0.0), (1.0, f32::NAN), (1.0, 0.0)]), None);
    }
}
