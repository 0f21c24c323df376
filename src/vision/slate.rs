//! The picture shown while the real one may not be: dark, a crossed-out camera, a line of text.
//!
//! Drawn once per picture size and kept, so that showing it costs one copy.

use crate::media::codec::Rect;
use crate::media::filter::Slate;
use crate::media::frame::{FrameMut, Size};
use crate::vision::paint::{Area, Color, fill};
use crate::vision::text::{LINE_HEIGHT_MIN, Typeface};

const GROUND: Color = Color::rgb(24, 28, 36);
const INK: Color = Color::rgb(170, 178, 190);
const CROSS: Color = Color::rgb(214, 70, 70);

/// A [`Slate`] with text.
pub struct TextSlate {
    text: String,
    name: Option<String>,
    drawn: Option<(Size, Vec<u8>)>,
}

impl Default for TextSlate {
    fn default() -> Self {
        TextSlate::new("picture withheld", None)
    }
}

impl TextSlate {
    /// `text` says why there is no picture; `name`, in a smaller line below, whose box says so.
    pub fn new(text: &str, name: Option<&str>) -> Self {
        TextSlate { text: text.into(), name: name.map(Into::into), drawn: None }
    }

    fn draw(&self, picture: &mut FrameMut) {
        let size = picture.size();
        fill(picture, Area::whole(size), GROUND);
        let (width, height) = (size.width as f32, size.height as f32);
        let unit = (width.min(height * 1.5) / 24.0).max(1.0);
        draw_camera(picture, width / 2.0, height * 0.4, unit);
        let mut typeface = Typeface::new();
        let top = height * 0.4 + 5.0 * unit;
        let line = draw_line(&mut typeface, picture, &self.text, top, 1.6 * unit, INK);
        if let Some(name) = &self.name {
            draw_line(&mut typeface, picture, name, top + line * 1.4, 1.1 * unit, INK);
        }
    }
}

impl Slate for TextSlate {
    fn paint(&mut self, picture: &mut FrameMut) {
        match &self.drawn {
            Some((size, bytes)) if *size == picture.size() => picture.bytes_mut().copy_from_slice(bytes),
            _ => {
                self.draw(picture);
                self.drawn = Some((picture.size(), picture.bytes().to_vec()));
            }
        }
    }
}

/// A camera of 8 by 5 units around a point, with a bar across it.
fn draw_camera(picture: &mut FrameMut, x: f32, y: f32, unit: f32) {
    let mut block = |x1: f32, y1: f32, x2: f32, y2: f32, color: Color| {
        let rect = Rect { x1: x + x1 * unit, y1: y + y1 * unit, x2: x + x2 * unit, y2: y + y2 * unit };
        if let Some(area) = Area::covering(picture.size(), &rect) {
            fill(picture, area, color);
        }
    };
    block(-4.0, -2.2, 2.0, 2.2, INK);
    // The lens: narrow at the body, wide at the front.
    for step in 0..8 {
        let (at, open) = (2.3 + step as f32 * 0.22, 0.5 + step as f32 * 0.17);
        block(at, -open, at + 0.22, open, INK);
    }
    let steps = (9.0 * unit).ceil().max(1.0);
    let mut along = |half: f32, color: Color| {
        for step in 0..=(steps as usize) {
            let at = step as f32 / steps;
            let (cx, cy) = (-4.8 + 9.6 * at, 3.2 - 6.4 * at);
            block(cx - half, cy - half, cx + half, cy + half, color);
        }
    };
    along(0.55, GROUND);
    along(0.25, CROSS);
}

/// Draws `text` centred, smaller if it is too long for the picture; returns the height it took.
fn draw_line(
    face: &mut Typeface,
    picture: &mut FrameMut,
    text: &str,
    top: f32,
    height: f32,
    color: Color,
) -> f32 {
    let width = picture.size().width;
    let mut height = (height.round() as usize).max(LINE_HEIGHT_MIN);
    while height > LINE_HEIGHT_MIN && face.width(text, height) > width {
        height -= 1;
    }
    let x = width.saturating_sub(face.width(text, height)) / 2;
    face.draw(picture, i32::try_from(x).unwrap_or(0), top as i32, height, color, text);
    height as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Plane;
    use crate::media::pool::FramePool;

    fn painted(slate: &mut TextSlate, size: Size, before: u8) -> Vec<u8> {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        picture.bytes_mut().fill(before);
        slate.paint(&mut picture);
        picture.bytes().to_vec()
    }

    #[test]
    fn nothing_of_the_picture_below_shines_through() {
        for size in [Size::new(640, 360), Size::new(1280, 720), Size::new(97, 43), Size::new(2, 2)] {
            let dark = painted(&mut TextSlate::default(), size, 0);
            let light = painted(&mut TextSlate::default(), size, 255);
            assert_eq!(dark, light, "{size}");
        }
    }

    #[test]
    fn the_kept_slate_is_the_drawn_one_and_follows_the_size() {
        let mut slate = TextSlate::new("no camera", Some("door"));
        let first = painted(&mut slate, Size::new(320, 180), 9);
        assert_eq!(painted(&mut slate, Size::new(320, 180), 200), first);
        assert_eq!(painted(&mut slate, Size::new(64, 64), 200).len(), Size::new(64, 64).i420_len());
        assert_eq!(painted(&mut slate, Size::new(320, 180), 7), first);
    }

    #[test]
    fn its_text_and_name_can_be_seen() {
        let size = Size::new(640, 360);
        let plain = painted(&mut TextSlate::new("", None), size, 0);
        let text = painted(&mut TextSlate::new("picture withheld", None), size, 0);
        let named = painted(&mut TextSlate::new("picture withheld", Some("front door")), size, 0);
        let differing = |a: &[u8], b: &[u8]| a.iter().zip(b).filter(|(a, b)| a.abs_diff(**b) > 60).count();
        assert!(differing(&plain, &text) > 300);
        assert!(differing(&text, &named) > 100);
        let ground = plain.iter().filter(|luma| **luma == GROUND.y).count();
        assert!(ground > size.width * size.height / 2, "mostly dark: {ground}, {:?}", Plane::Y);
    }
}
