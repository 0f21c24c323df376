//! Text on I420 pictures: glyphs of the Hack typeface, drawn once per size and kept.
//!
//! After a glyph's first use, drawing it allocates nothing. Hack is monospaced and covers Latin, Greek and Cyrillic;
//! what it lacks is shown as an empty box. Right-to-left and combining scripts are not shaped.

use std::collections::HashMap;

use ab_glyph::{Font, FontRef, PxScale, ScaleFont};

use crate::media::frame::FrameMut;
use crate::vision::paint::Color;

/// Glyphs kept before all are thrown away: names of callers decide which are drawn.
const GLYPHS_MAX: usize = 1024;
/// Lines lower than this cannot be read.
pub const LINE_HEIGHT_MIN: usize = 8;
/// Lines higher than this are drawn at this height.
const LINE_HEIGHT_MAX: usize = 256;

/// One drawn glyph: how much of each pixel it covers.
struct Glyph {
    /// From the left end of its cell, from the top of its line.
    left: i32,
    top: i32,
    width: usize,
    coverage: Vec<u8>,
}

/// Draws lines of text. One per thread that draws.
pub struct Typeface {
    font: FontRef<'static>,
    glyphs: HashMap<(usize, char), Glyph>,
}

impl Default for Typeface {
    fn default() -> Self {
        Typeface::new()
    }
}

impl Typeface {
    pub fn new() -> Self {
        let font = FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR)
            .expect("the built-in typeface is a well-formed TrueType file");
        Typeface { font, glyphs: HashMap::new() }
    }

    /// Pixels from one character to the next in a line of `height` pixels.
    pub fn advance(&self, height: usize) -> usize {
        let scaled = self.font.as_scaled(scale(height));
        (scaled.h_advance(self.font.glyph_id('M')).round() as usize).max(1)
    }

    /// Pixels that `text` takes in a line of `height` pixels.
    pub fn width(&self, text: &str, height: usize) -> usize {
        text.chars().filter(|c| !c.is_control()).count() * self.advance(height)
    }

    /// Draws one line of `height` pixels whose cell starts at (`x`, `y`). What lies outside the picture is cut.
    /// Control characters are left out.
    pub fn draw(&mut self, picture: &mut FrameMut, x: i32, y: i32, height: usize, color: Color, text: &str) {
        let height = height.clamp(LINE_HEIGHT_MIN, LINE_HEIGHT_MAX);
        let advance = self.advance(height) as i32;
        let mut pen = x;
        let right = i32::try_from(picture.size().width).unwrap_or(i32::MAX);
        for character in text.chars().filter(|c| !c.is_control()) {
            if pen >= right {
                break;
            }
            if character != ' ' && pen > -2 * advance {
                let glyph = self.glyph(character, height);
                blend(picture, glyph, pen.saturating_add(glyph.left), y.saturating_add(glyph.top), color);
            }
            pen = pen.saturating_add(advance);
        }
    }

    fn glyph(&mut self, character: char, height: usize) -> &Glyph {
        if self.glyphs.len() >= GLYPHS_MAX && !self.glyphs.contains_key(&(height, character)) {
            self.glyphs.clear();
        }
        let font = &self.font;
        self.glyphs.entry((height, character)).or_insert_with(|| rasterise(font, character, height))
    }
}

fn scale(height: usize) -> PxScale {
    PxScale::from(height.clamp(LINE_HEIGHT_MIN, LINE_HEIGHT_MAX) as f32)
}

fn rasterise(font: &FontRef<'static>, character: char, height: usize) -> Glyph {
    let scale = scale(height);
    let ascent = font.as_scaled(scale).ascent();
    let placed = font.glyph_id(character).with_scale_and_position(scale, ab_glyph::point(0.0, ascent));
    let Some(outline) = font.outline_glyph(placed) else {
        return Glyph { left: 0, top: 0, width: 0, coverage: Vec::new() };
    };
    let bounds = outline.px_bounds();
    let (width, rows) = (bounds.width().ceil() as usize, bounds.height().ceil() as usize);
    let mut coverage = vec![0; width * rows];
    outline.draw(|x, y, share| {
        if let Some(pixel) = coverage.get_mut(y as usize * width + x as usize) {
            *pixel = (share.clamp(0.0, 1.0) * 255.0).round() as u8;
        }
    });
    Glyph { left: bounds.min.x as i32, top: bounds.min.y as i32, width, coverage }
}

/// Mixes `color` into the picture where `glyph`, placed at (`left`, `top`), covers it.
fn blend(picture: &mut FrameMut, glyph: &Glyph, left: i32, top: i32, color: Color) {
    let size = picture.size();
    let width = glyph.width;
    if width == 0 {
        return;
    }
    let rows = glyph.coverage.len() / width;
    let (first_x, past_x) = visible(left, width, size.width);
    let (first_y, past_y) = visible(top, rows, size.height);
    if first_x >= past_x || first_y >= past_y {
        return;
    }
    let covered = |x: usize, y: usize| -> u32 {
        let (gx, gy) = (x as i32 - left, y as i32 - top);
        let inside = (0..width as i32).contains(&gx) && (0..rows as i32).contains(&gy);
        if inside { u32::from(glyph.coverage[gy as usize * width + gx as usize]) } else { 0 }
    };
    let [luma, u, v] = picture.planes_mut();
    for y in first_y..past_y {
        let line = &mut luma[y * size.width..][first_x..past_x];
        let skipped = (first_x as i32 - left) as usize;
        let shape = &glyph.coverage[(y as i32 - top) as usize * width..][skipped..width];
        for (pixel, share) in line.iter_mut().zip(shape) {
            *pixel = mix(*pixel, color.y, u32::from(*share), 255);
        }
    }
    let stride = size.chroma().width;
    for y in first_y / 2..past_y.div_ceil(2) {
        for x in first_x / 2..past_x.div_ceil(2) {
            let (lx, ly) = (2 * x, 2 * y);
            let share = covered(lx, ly) + covered(lx + 1, ly) + covered(lx, ly + 1) + covered(lx + 1, ly + 1);
            let at = y * stride + x;
            u[at] = mix(u[at], color.u, share, 4 * 255);
            v[at] = mix(v[at], color.v, share, 4 * 255);
        }
    }
}

/// The part of `length` pixels from `start` that lies within `limit`.
fn visible(start: i32, length: usize, limit: usize) -> (usize, usize) {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let start = i64::from(start);
    let past = start.saturating_add(i64::try_from(length).unwrap_or(i64::MAX));
    (start.clamp(0, limit) as usize, past.clamp(0, limit) as usize)
}

fn mix(old: u8, new: u8, share: u32, whole: u32) -> u8 {
    ((u32::from(old) * (whole - share) + u32::from(new) * share + whole / 2) / whole) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::{Plane, Size};
    use crate::media::pool::FramePool;

    fn grey(size: Size) -> FrameMut {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        picture.bytes_mut().fill(60);
        picture
    }

    fn touched(picture: &FrameMut) -> usize {
        picture.plane(Plane::Y).iter().filter(|luma| **luma != 60).count()
    }

    /// The bounding box of what was drawn.
    fn extent(picture: &FrameMut) -> (usize, usize, usize, usize) {
        let width = picture.size().width;
        let drawn = picture.plane(Plane::Y).iter().enumerate().filter(|(_, luma)| **luma != 60);
        drawn.fold((width, usize::MAX, 0, 0), |(x1, y1, x2, y2), (at, _)| {
            (x1.min(at % width), y1.min(at / width), x2.max(at % width), y2.max(at / width))
        })
    }

    #[test]
    fn a_line_stays_in_its_cells() {
        let mut face = Typeface::new();
        let mut picture = grey(Size::new(200, 60));
        face.draw(&mut picture, 10, 20, 20, Color::WHITE, "Mj|Åg");
        let (x1, y1, x2, y2) = extent(&picture);
        assert!(x1 >= 10 && x2 < 10 + face.width("Mj|Åg", 20), "{x1} {x2}");
        assert!(y1 >= 19 && y2 <= 41, "{y1} {y2}");
        assert!(picture.plane(Plane::Y).contains(&235));
    }

    #[test]
    fn different_letters_look_different_and_a_space_looks_like_nothing() {
        let mut face = Typeface::new();
        let mut drawn = |text: &str| {
            let mut picture = grey(Size::new(40, 40));
            face.draw(&mut picture, 4, 4, 30, Color::WHITE, text);
            picture.bytes().to_vec()
        };
        assert_ne!(drawn("A"), drawn("B"));
        assert_ne!(drawn("é"), drawn("e"));
        assert_eq!(drawn("A"), drawn("A\n\0"));
        assert_eq!(drawn(" "), grey(Size::new(40, 40)).bytes());
    }

    #[test]
    fn text_beyond_any_edge_is_cut() {
        let mut face = Typeface::new();
        for (x, y) in [(-25, -9), (30, 15), (-10_000, 0), (i32::MAX, i32::MAX), (i32::MIN, i32::MIN), (5, 18)]
        {
            let mut picture = grey(Size::new(41, 21));
            face.draw(&mut picture, x, y, 16, Color::WHITE, "cut at the edges");
            face.draw(&mut picture, x, y, 1_000_000, Color::WHITE, "W");
        }
        let mut picture = grey(Size::new(41, 21));
        face.draw(&mut picture, -25, 0, 16, Color::WHITE, "cut at the edges");
        assert!(touched(&picture) > 20);
    }

    #[test]
    fn the_colour_of_text_reaches_the_chroma() {
        let mut picture = grey(Size::new(64, 64));
        let red = Color::rgb(255, 0, 0);
        Typeface::new().draw(&mut picture, 0, 0, 60, red, "█");
        assert!(picture.plane(Plane::V).contains(&red.v));
        assert!(picture.plane(Plane::U).contains(&red.u));
    }

    #[test]
    fn the_glyphs_kept_are_bounded() {
        let mut face = Typeface::new();
        let mut picture = grey(Size::new(32, 32));
        for code in 0x4e00..0x4e00 + 3 * GLYPHS_MAX as u32 {
            let character = char::from_u32(code).expect("a letter").to_string();
            face.draw(&mut picture, 0, 0, 12, Color::WHITE, &character);
        }
        assert!(face.glyphs.len() <= GLYPHS_MAX);
    }
}
