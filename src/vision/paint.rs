//! Areas, colours and flat shapes on I420 pictures. Glyphs are in `text`, privacy masks in `mask`.

use crate::media::codec::Rect;
use crate::media::frame::{FrameMut, Size};

/// A part of a picture in luma pixels, inside the picture, made of whole 2x2 blocks so that luma and chroma end at
/// the same place (an odd last column or row counts as a block).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub left: usize,
    pub top: usize,
    /// One past the last column.
    pub right: usize,
    /// One past the last row.
    pub bottom: usize,
}

impl Area {
    /// The blocks that `rect` touches. `None`: it lies outside the picture. Edges that are not numbers are taken as
    /// the picture's own, so that a mask can only become larger.
    pub fn covering(size: Size, rect: &Rect) -> Option<Area> {
        if rect.x1 >= size.width as f32 || rect.y1 >= size.height as f32 {
            return None;
        }
        let first = |edge: f32, limit: usize| if edge.is_nan() { 0 } else { down(edge, limit) & !1 };
        let last = |edge: f32, limit: usize| {
            let past = if edge.is_nan() { limit } else { down(edge.ceil(), limit) };
            past.next_multiple_of(2).min(limit)
        };
        let area = Area {
            left: first(rect.x1, size.width),
            top: first(rect.y1, size.height),
            right: last(rect.x2, size.width),
            bottom: last(rect.y2, size.height),
        };
        (area.left < area.right && area.top < area.bottom).then_some(area)
    }

    /// The whole picture.
    pub fn whole(size: Size) -> Area {
        Area { left: 0, top: 0, right: size.width, bottom: size.height }
    }

    pub fn width(&self) -> usize {
        self.right - self.left
    }

    pub fn height(&self) -> usize {
        self.bottom - self.top
    }

    /// The same area in chroma samples.
    pub fn chroma(&self) -> Area {
        Area {
            left: self.left / 2,
            top: self.top / 2,
            right: self.right.div_ceil(2),
            bottom: self.bottom.div_ceil(2),
        }
    }

    /// The pixels of each row of this area in a plane of the given row length.
    pub fn rows<'a>(&self, plane: &'a mut [u8], stride: usize) -> impl Iterator<Item = &'a mut [u8]> {
        let (left, right) = (self.left, self.right);
        let rows = plane.chunks_exact_mut(stride.max(1)).skip(self.top).take(self.height());
        rows.map(move |row| &mut row[left..right])
    }
}

/// Whole pixels of an edge, between 0 and `limit`. Rust's float casts saturate.
fn down(edge: f32, limit: usize) -> usize {
    (edge.max(0.0) as usize).min(limit)
}

/// Calls `each` for Y, U, V with the plane, its row length and the area in the plane's own samples.
pub fn each_plane(picture: &mut FrameMut, area: Area, mut each: impl FnMut(&mut [u8], usize, Area)) {
    let size = picture.size();
    let [y, u, v] = picture.planes_mut();
    each(y, size.width, area);
    each(u, size.chroma().width, area.chroma());
    each(v, size.chroma().width, area.chroma());
}

/// One colour in limited-range BT.601.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    pub y: u8,
    pub u: u8,
    pub v: u8,
}

impl Color {
    pub const BLACK: Color = Color { y: 16, u: 128, v: 128 };
    pub const WHITE: Color = Color { y: 235, u: 128, v: 128 };

    /// From full-range RGB (ITU-R BT.601 coefficients, 8-bit fixed point).
    pub const fn rgb(red: u8, green: u8, blue: u8) -> Color {
        let (r, g, b) = (red as i32, green as i32, blue as i32);
        Color {
            y: (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8,
            u: (((-38 * r - 74 * g + 112 * b + 128) >> 8) + 128) as u8,
            v: (((112 * r - 94 * g - 18 * b + 128) >> 8) + 128) as u8,
        }
    }
}

/// Fills `area` with one colour.
pub fn fill(picture: &mut FrameMut, area: Area, color: Color) {
    let mut values = [color.y, color.u, color.v].into_iter();
    each_plane(picture, area, |plane, stride, area| {
        let value = values.next().unwrap_or(color.v);
        area.rows(plane, stride).for_each(|row| row.fill(value));
    });
}

/// Darkens `area` so that light text on it can be read over any picture.
pub fn shade(picture: &mut FrameMut, area: Area) {
    let mut base = [16, 128, 128].into_iter();
    each_plane(picture, area, |plane, stride, area| {
        let base: i16 = base.next().unwrap_or(128);
        let darker = |sample: u8| (base + (i16::from(sample) - base) * 5 / 16) as u8;
        // Row by row, in small numbers: many samples at a time.
        for row in area.rows(plane, stride) {
            row.iter_mut().for_each(|sample| *sample = darker(*sample));
        }
    });
}

/// Draws the border of `rect`, 2 pixels thick, inside the rectangle. Sides outside the picture are not drawn.
pub fn outline(picture: &mut FrameMut, rect: &Rect, color: Color) {
    const THICK: f32 = 2.0;
    // Even edges keep each side one block thick.
    let even = |edge: f32| (edge / 2.0).round() * 2.0;
    let (x1, y1, x2, y2) = (even(rect.x1), even(rect.y1), even(rect.x2), even(rect.y2));
    let sides = [
        Rect { x1, y1, x2, y2: y1 + THICK },
        Rect { x1, y1: y2 - THICK, x2, y2 },
        Rect { x1, y1, x2: x1 + THICK, y2 },
        Rect { x1: x2 - THICK, y1, x2, y2 },
    ];
    for side in sides {
        if let Some(area) = Area::covering(picture.size(), &side) {
            fill(picture, area, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Plane;
    use crate::media::pool::FramePool;

    fn area(x1: f32, y1: f32, x2: f32, y2: f32) -> Option<(usize, usize, usize, usize)> {
        Area::covering(Size::new(9, 7), &Rect { x1, y1, x2, y2 }).map(|a| (a.left, a.top, a.right, a.bottom))
    }

    #[test]
    fn an_area_covers_every_pixel_it_touches_and_stays_inside_the_picture() {
        assert_eq!(area(1.2, 3.9, 4.1, 4.0), Some((0, 2, 6, 4)));
        assert_eq!(area(-5.0, -5.0, 100.0, 1e30), Some((0, 0, 9, 7)));
        assert_eq!(area(7.5, 5.5, 8.5, 6.5), Some((6, 4, 9, 7)));
        assert_eq!(area(-5.0, 1.0, 0.0, 3.0), None);
        assert_eq!(area(9.0, 1.0, 12.0, 3.0), None);
    }

    #[test]
    fn an_edge_that_is_no_number_makes_the_area_larger_not_smaller() {
        assert_eq!(area(f32::NAN, 2.0, f32::NAN, 4.0), Some((0, 2, 9, 4)));
        assert_eq!(area(f32::NEG_INFINITY, f32::NAN, f32::INFINITY, f32::NAN), Some((0, 0, 9, 7)));
    }

    #[test]
    fn full_range_colours_become_limited_range_ones() {
        assert_eq!(Color::rgb(255, 255, 255), Color::WHITE);
        assert_eq!(Color::rgb(0, 0, 0), Color::BLACK);
        assert_eq!(Color::rgb(255, 0, 0), Color { y: 82, u: 90, v: 240 });
    }

    #[test]
    fn an_outline_is_two_pixels_thick_and_leaves_the_inside_alone() {
        let pool = FramePool::new(1);
        let mut picture = pool.take_sized(Size::new(32, 32), Pts::ZERO).expect("room");
        picture.bytes_mut().fill(77);
        outline(&mut picture, &Rect { x1: 4.0, y1: 4.0, x2: 20.0, y2: 40.0 }, Color::WHITE);
        let luma = |x: usize, y: usize| picture.plane(Plane::Y)[y * 32 + x];
        assert_eq!([luma(3, 10), luma(4, 10), luma(5, 10), luma(6, 10)], [77, 235, 235, 77]);
        assert_eq!([luma(10, 3), luma(10, 5), luma(10, 6), luma(10, 31)], [77, 235, 77, 77]);
    }
}
