//! Boxes with labels, and the watermark, drawn on pictures that are already clean.
//!
//! Where boxes come from is no matter here: the censor ([`crate::media::filter::Gate::found`]), the observer, or
//! both chained.

use std::fmt::Write;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use crate::media::codec::Detection;
use crate::media::frame::FrameMut;
use crate::vision::paint::{Area, Color, fill, outline, shade};
use crate::vision::text::{LINE_HEIGHT_MIN, Typeface};

/// Characters of any one value put into a watermark: names come from callers.
const VALUE_MAX: usize = 64;
/// Boxes drawn in one picture.
const BOXES_MAX: usize = 100;
/// Line height of labels as a share of the picture's height, and in pixels at least.
const LABEL_SIZE: f32 = 0.035;
const LABEL_HEIGHT_MIN: usize = 12;
/// Distance of the watermark from the picture's edge, in line heights.
const MARGIN: f32 = 0.5;

const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const TIMESTAMP: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3][offset_hour sign:mandatory]:[offset_minute]"
);

/// One piece of a watermark.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Time,
    Timestamp,
    Call,
    From,
    To,
    Frame,
}

/// A watermark's text with its placeholders: `{name} {time} {timestamp} {call} {from} {to} {frame}`.
///
/// `{time}` is `2026-03-01 12:30:05`, `{timestamp}` the same moment as `2026-03-01T12:30:05.250+01:00`, both at the
/// offset of [`Stamp::time`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// A placeholder that does not exist, or a brace without its partner.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no placeholder; there are {{name}} {{time}} {{timestamp}} {{call}} {{from}} {{to}} {{frame}}"
)]
pub struct TemplateError(pub String);

impl Template {
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(open);
            let Some(close) = from.find('}').filter(|close| *close > 0) else {
                return Err(TemplateError(from.into()));
            };
            let (placeholder, after) = from.split_at(close + 1);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(match placeholder {
                "{name}" => Piece::Name,
                "{time}" => Piece::Time,
                "{timestamp}" => Piece::Timestamp,
                "{call}" => Piece::Call,
                "{from}" => Piece::From,
                "{to}" => Piece::To,
                "{frame}" => Piece::Frame,
                other => return Err(TemplateError(other.into())),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Template(pieces))
    }

    fn write(&self, stamp: &Stamp, out: &mut String) {
        let mut value = |text: &str| out.extend(text.chars().filter(|c| !c.is_control()).take(VALUE_MAX));
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => value(text),
                Piece::Name => value(stamp.name),
                Piece::Call => value(stamp.call),
                Piece::From => value(stamp.from),
                Piece::To => value(stamp.to),
                Piece::Time => value(&stamp.time.format(TIME).unwrap_or_default()),
                Piece::Timestamp => value(&stamp.time.format(TIMESTAMP).unwrap_or_default()),
                Piece::Frame => value(&stamp.frame.to_string()),
            }
        }
    }
}

/// What the placeholders stand for in one picture.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// The appliance.
    pub name: &'a str,
    /// Wall time of the picture at the offset to be shown.
    pub time: OffsetDateTime,
    pub call: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    /// Number of the picture in its call.
    pub frame: u64,
}

/// Where the watermark stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Position {
    TopLeft,
    Top,
    TopRight,
    Left,
    Center,
    Right,
    BottomLeft,
    Bottom,
    #[default]
    BottomRight,
}

impl Position {
    /// The names of the configuration, in the order of the variants.
    pub const NAMES: [&'static str; 9] =
        ["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"];

    const ALL: [Position; 9] = [
        Position::TopLeft,
        Position::Top,
        Position::TopRight,
        Position::Left,
        Position::Center,
        Position::Right,
        Position::BottomLeft,
        Position::Bottom,
        Position::BottomRight,
    ];

    /// The position of that name.
    pub fn parse(name: &str) -> Option<Position> {
        Self::NAMES.iter().position(|known| *known == name).map(|at| Self::ALL[at])
    }

    /// The free space to the left and above, as halves of all the free space.
    fn halves(self) -> (usize, usize) {
        let at = Self::ALL.iter().position(|position| *position == self).unwrap_or(8);
        (at % 3, at / 3)
    }
}

/// The watermark of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Watermark {
    pub template: Template,
    pub position: Position,
    /// Line height as a share of the picture's height.
    pub size: f32,
    pub color: Color,
}

/// What is drawn on clean pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OverlaySettings {
    pub boxes: bool,
    pub watermark: Option<Watermark>,
}

/// Draws on the pictures of one call.
pub struct Overlay {
    settings: OverlaySettings,
    typeface: Typeface,
    line: String,
}

impl Overlay {
    pub fn new(settings: OverlaySettings) -> Self {
        Overlay { settings, typeface: Typeface::new(), line: String::new() }
    }

    /// Whether `draw` would draw anything, given that there are boxes or none.
    pub fn draws(&self, boxes: bool) -> bool {
        self.settings.watermark.is_some() || (boxes && self.settings.boxes)
    }

    /// Draws the boxes and then the watermark. Boxes are in pixels of this picture.
    pub fn draw<'a>(
        &mut self,
        picture: &mut FrameMut,
        boxes: impl IntoIterator<Item = &'a Detection>,
        stamp: &Stamp,
    ) {
        if self.settings.boxes {
            for detection in boxes.into_iter().take(BOXES_MAX) {
                self.draw_box(picture, detection);
            }
        }
        if let Some(watermark) = self.settings.watermark.take() {
            self.draw_watermark(picture, &watermark, stamp);
            self.settings.watermark = Some(watermark);
        }
    }

    fn draw_box(&mut self, picture: &mut FrameMut, detection: &Detection) {
        if Area::covering(picture.size(), &detection.rect).is_none() {
            return;
        }
        let color = class_color(&detection.class);
        outline(picture, &detection.rect, color);
        let size = picture.size();
        let height = line_height(size.height, LABEL_SIZE).max(LABEL_HEIGHT_MIN);
        self.line.clear();
        let name = detection.class.chars().filter(|c| !c.is_control()).take(VALUE_MAX);
        self.line.extend(name);
        // Writing to a String cannot fail.
        let _ = write!(self.line, " {:.0}%", detection.score.clamp(0.0, 1.0) * 100.0);
        let width = self.typeface.width(&self.line, height) + 4;
        // Above the box, or inside it where there is no room above; never beyond the sides while it fits.
        let x = (detection.rect.x1 as i32).min(size.width as i32 - width as i32).max(0);
        let above = (detection.rect.y1 as i32).saturating_sub(height as i32);
        let y = if above >= 0 { above } else { (detection.rect.y1 as i32).max(0) };
        if let Some(area) = cell(picture, x, y, width, height) {
            fill(picture, area, color);
            let ink = if color.y > 110 { Color::BLACK } else { Color::WHITE };
            self.typeface.draw(picture, x + 2, y, height, ink, &self.line);
        }
    }

    fn draw_watermark(&mut self, picture: &mut FrameMut, watermark: &Watermark, stamp: &Stamp) {
        self.line.clear();
        watermark.template.write(stamp, &mut self.line);
        if self.line.trim().is_empty() {
            return;
        }
        let size = picture.size();
        let mut height = line_height(size.height, watermark.size);
        let margin = |height: usize| (height as f32 * MARGIN).round() as usize;
        // A line too long for the picture becomes smaller, down to what can still be read.
        let fits = |face: &Typeface, line: &str, height: usize| {
            face.width(line, height) + 2 * margin(height) <= size.width
        };
        while height > LINE_HEIGHT_MIN && !fits(&self.typeface, &self.line, height) {
            height -= 1;
        }
        let (edge, width) = (margin(height), self.typeface.width(&self.line, height));
        let (across, down) = watermark.position.halves();
        let place = |length: usize, taken: usize, halves: usize| -> i32 {
            let free = length.saturating_sub(taken + 2 * edge);
            i32::try_from(edge + free * halves / 2).unwrap_or(0)
        };
        let (x, y) = (place(size.width, width, across), place(size.height, height, down));
        let pad = (height / 4) as i32;
        if let Some(area) = cell(picture, x - pad, y, width + 2 * pad as usize, height) {
            shade(picture, area);
        }
        self.typeface.draw(picture, x, y, height, watermark.color, &self.line);
    }
}

/// The part of a cell that lies in the picture.
fn cell(picture: &FrameMut, x: i32, y: i32, width: usize, height: usize) -> Option<Area> {
    let (x1, y1) = (x as f32, y as f32);
    let rect = crate::media::codec::Rect { x1, y1, x2: x1 + width as f32, y2: y1 + height as f32 };
    Area::covering(picture.size(), &rect)
}

fn line_height(picture_height: usize, share: f32) -> usize {
    let share = if share.is_finite() { share.clamp(0.0, 0.5) } else { 0.0 };
    ((picture_height as f32 * share).round() as usize).max(LINE_HEIGHT_MIN)
}

/// Well apart in hue; a class always has the same one.
const PALETTE: [Color; 8] = [
    Color::rgb(80, 220, 100),
    Color::rgb(255, 170, 40),
    Color::rgb(70, 170, 255),
    Color::rgb(255, 90, 90),
    Color::rgb(200, 120, 255),
    Color::rgb(60, 220, 220),
    Color::rgb(250, 230, 60),
    Color::rgb(255, 140, 200),
];

fn class_color(class: &str) -> Color {
    // The two classes that are nearly always seen together never share a colour.
    match class {
        "face" => PALETTE[0],
        "person" => PALETTE[1],
        _ => {
            let hash =
                class.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
            PALETTE[2 + hash as usize % (PALETTE.len() - 2)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::codec::Rect;
    use crate::media::frame::{Plane, Size};
    use crate::media::pool::FramePool;
    use time::macros::datetime;

    fn stamp() -> Stamp<'static> {
        Stamp {
            name: "door",
            time: datetime!(2026-03-01 12:30:05.250 +1),
            call: "a1b2",
            from: "alice",
            to: "100",
            frame: 42,
        }
    }

    fn written(template: &str) -> String {
        let mut out = String::new();
        Template::parse(template).expect("a template").write(&stamp(), &mut out);
        out
    }

    #[test]
    fn every_placeholder_is_filled_in() {
        assert_eq!(written("{name} {time}"), "door 2026-03-01 12:30:05");
        assert_eq!(written("{timestamp}"), "2026-03-01T12:30:05.250+01:00");
        assert_eq!(written("[{call}] {from}→{to} #{frame}!"), "[a1b2] alice→100 #42!");
        assert_eq!(written("plain"), "plain");
    }

    #[test]
    fn unknown_placeholders_and_single_braces_are_errors_that_name_them() {
        for (template, named) in [("{nam}", "{nam}"), ("a {b", "{b"), ("a } b", "} b"), ("{}", "{}")] {
            assert_eq!(Template::parse(template), Err(TemplateError(named.into())));
        }
    }

    #[test]
    fn callers_cannot_flood_the_picture_with_their_name() {
        let from = "x".repeat(10_000);
        let mut out = String::new();
        Template::parse("{from}").expect("a template").write(&Stamp { from: &from, ..stamp() }, &mut out);
        assert_eq!(out.len(), VALUE_MAX);
    }

    fn watermarked(position: Position, text: &str) -> FrameMut {
        let mut picture = FramePool::new(1).take_sized(Size::new(640, 360), Pts::ZERO).expect("room");
        picture.bytes_mut().fill(100);
        let template = Template::parse(text).expect("a template");
        let watermark = Some(Watermark { template, position, size: 0.04, color: Color::WHITE });
        Overlay::new(OverlaySettings { boxes: true, watermark }).draw(&mut picture, [], &stamp());
        picture
    }

    /// Where the middle of what was drawn lies, in thirds of the picture.
    fn third(picture: &FrameMut) -> (usize, usize) {
        let drawn = picture.plane(Plane::Y).iter().enumerate().filter(|(_, luma)| **luma != 100);
        let (mut x1, mut x2, mut y1, mut y2) = (640, 0, 360, 0);
        for (at, _) in drawn {
            let (x, y) = (at % 640, at / 640);
            (x1, x2, y1, y2) = (x1.min(x), x2.max(x), y1.min(y), y2.max(y));
        }
        ((x1 + x2) / 2 * 3 / 640, (y1 + y2) / 2 * 3 / 360)
    }

    #[test]
    fn the_watermark_stands_where_it_was_asked_to() {
        for (at, name) in Position::NAMES.iter().enumerate() {
            let position = Position::parse(name).expect("a position");
            assert_eq!(third(&watermarked(position, "{name}")), (at % 3, at / 3), "{name}");
        }
        assert_eq!(Position::parse("middle"), None);
    }

    #[test]
    fn a_long_watermark_shrinks_into_the_picture() {
        let picture = watermarked(Position::BottomRight, &"long text ".repeat(6).repeat(2));
        let edge = |x: usize| (0..360).all(|y| picture.plane(Plane::Y)[y * 640 + x] == 100);
        assert!(edge(0) && edge(639));
    }

    #[test]
    fn boxes_have_an_outline_and_a_label_wherever_they_lie() {
        let detection =
            |x1, y1, x2, y2| Detection { class: "face".into(), score: 0.87, rect: Rect { x1, y1, x2, y2 } };
        let drawn = |detection: &Detection| {
            let mut picture = FramePool::new(1).take_sized(Size::new(320, 180), Pts::ZERO).expect("room");
            picture.bytes_mut().fill(100);
            let settings = OverlaySettings { boxes: true, watermark: None };
            Overlay::new(settings).draw(&mut picture, [detection], &stamp());
            picture
        };
        let picture = drawn(&detection(100.0, 60.0, 200.0, 120.0));
        let luma = |x: usize, y: usize| picture.plane(Plane::Y)[y * 320 + x];
        let color = class_color("face").y;
        assert_eq!(
            [luma(100, 100), luma(101, 100), luma(102, 100), luma(150, 100)],
            [color, color, 100, 100]
        );
        assert_eq!([luma(150, 60), luma(150, 119)], [color, color]);
        let label = || (49..60).flat_map(|y| (100..150).map(move |x| luma(x, y)));
        assert!(label().any(|luma| luma < 60) && label().any(|luma| luma == color), "dark letters on colour");
        for wild in [
            detection(-50.0, -50.0, 20.0, 20.0),
            detection(310.0, 170.0, 900.0, 900.0),
            detection(f32::NAN, -1e30, 1e30, f32::INFINITY),
            detection(0.0, 0.0, 0.0, 0.0),
        ] {
            drawn(&wild);
        }
    }

    #[test]
    fn with_everything_off_the_picture_is_untouched() {
        let mut picture = FramePool::new(1).take_sized(Size::new(64, 64), Pts::ZERO).expect("room");
        picture.bytes_mut().fill(100);
        let detection =
            Detection { class: "face".into(), score: 1.0, rect: Rect { x1: 1.0, y1: 1.0, x2: 9.0, y2: 9.0 } };
        let mut overlay = Overlay::new(OverlaySettings { boxes: false, watermark: None });
        overlay.draw(&mut picture, [&detection], &stamp());
        assert!(!overlay.draws(true));
        assert!(picture.bytes().iter().all(|byte| *byte == 100));
    }
}
