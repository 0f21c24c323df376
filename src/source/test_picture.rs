//! The moving test card: colour bars, a drifting texture, a bouncing ball, a counter to read by eye, and a marker to
//! read by machine.
//!
//! The marker is two rows of sixteen black or white blocks: frame number, then source and a check byte. It is laid
//! out in fractions of the picture, so it survives coding, scaling and a change of shape. Pure: the same number
//! always paints the same picture.

use crate::base::time::Pts;
use crate::media::frame::{CleanFrame, Frame, FrameMut, Plane, Size};
use crate::media::pool::FramePool;

const COLUMNS: usize = 16;
/// Blocks are a twentieth of the width and a twelfth of the height, two columns in and half a row down.
const ACROSS: usize = 20;
const DOWN: usize = 24;
const BLOCK_DOWN: usize = 2;
const LEFT: usize = 2;
const TOP: usize = 1;

const WHITE: u8 = 225;
const BLACK: u8 = 25;
const GREY: u8 = 90;

/// What the marker of a picture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Marker {
    /// Whose picture it is.
    pub source: u8,
    /// The low 16 bits of the frame number.
    pub number: u16,
}

impl Marker {
    fn rows(self) -> [u16; 2] {
        [self.number, u16::from_be_bytes([self.source, self.check()])]
    }

    /// CRC-8, polynomial 0x07, of number and source.
    fn check(self) -> u8 {
        let [high, low] = self.number.to_be_bytes();
        let mut crc = 0x5a_u8;
        for byte in [high, low, self.source] {
            crc ^= byte;
            for _ in 0..8 {
                crc = if crc & 0x80 != 0 { (crc << 1) ^ 0x07 } else { crc << 1 };
            }
        }
        crc
    }
}

/// Edges of block (`row`, `column`) in a picture of `size`: left, top, right, bottom.
fn block(size: Size, row: usize, column: usize) -> [usize; 4] {
    let x = |column: usize| (LEFT + column) * size.width / ACROSS;
    let y = |row: usize| (TOP + row * BLOCK_DOWN) * size.height / DOWN;
    [x(column), y(row), x(column + 1), y(row + 1)]
}

/// Reads the marker. `None`: there is none, or it is not clear enough to be sure.
pub fn read_marker(frame: &Frame) -> Option<Marker> {
    let size = frame.size();
    let luma = frame.plane(Plane::Y);
    let mut rows = [0_u16; 2];
    for (row, bits) in rows.iter_mut().enumerate() {
        for column in 0..COLUMNS {
            let [left, top, right, bottom] = block(size, row, column);
            let (dx, dy) = ((right - left) / 4, (bottom - top) / 4);
            let (mut sum, mut count) = (0_u64, 0_u64);
            for y in top + dy..bottom - dy {
                let pixels = luma.get(y * size.width + left + dx..y * size.width + right - dx)?;
                sum += pixels.iter().map(|p| u64::from(*p)).sum::<u64>();
                count += pixels.len() as u64;
            }
            let mean = sum.checked_div(count)?;
            if (100..150).contains(&mean) {
                return None;
            }
            *bits = *bits << 1 | u16::from(mean >= 150);
        }
    }
    let [source, check] = rows[1].to_be_bytes();
    let marker = Marker { source, number: rows[0] };
    (marker.check() == check).then_some(marker)
}

/// A painter of one source's test pictures of one size.
pub struct TestCard {
    size: Size,
    source: u8,
    /// Everything that does not move, I420.
    still: Vec<u8>,
    /// A strip of luma that drifts sideways: detail for encoders to work on.
    texture: Vec<u8>,
}

impl TestCard {
    /// `source` is what [`Marker::source`] will say. Sizes from 160x90 up can be read back.
    pub fn new(size: Size, source: u8) -> Self {
        TestCard { size, source, still: background(size), texture: texture(size) }
    }

    /// Picture `number` in a buffer of `pool`. `None`: the pool is empty.
    pub fn draw(&self, number: u32, pts: Pts, pool: &FramePool) -> Option<CleanFrame> {
        let mut picture = pool.take_sized(self.size, pts)?;
        self.paint(&mut picture, number);
        Some(CleanFrame::drawn_here(picture))
    }

    /// Paints picture `number` over all of `picture`, which has the card's size.
    pub fn paint(&self, picture: &mut FrameMut, number: u32) {
        debug_assert_eq!(picture.size(), self.size, "a test card paints its own size");
        if picture.size() != self.size {
            return;
        }
        picture.bytes_mut().copy_from_slice(&self.still);
        let Size { width, height } = self.size;
        let mut luma = Luma { pixels: picture.plane_mut(Plane::Y), size: self.size };
        let marker = Marker { source: self.source, number: number as u16 };
        for (row, bits) in marker.rows().into_iter().enumerate() {
            for column in 0..COLUMNS {
                let value = if bits >> (COLUMNS - 1 - column) & 1 == 1 { WHITE } else { BLACK };
                luma.fill(block(self.size, row, column), value);
            }
        }
        luma.strip(&self.texture, number);
        luma.counter(number);
        luma.ball(number);
        // A bright line sweeps the bars.
        let x = number as usize * (width / 80).max(1) % width;
        luma.fill([x, height * 3 / 4, (x + (width / 100).max(2)).min(width), height], WHITE);
    }
}

/// Y, U, V of 75 % bars (ITU-R BT.601): white, yellow, cyan, green, magenta, red, blue, black.
const BARS: [[u8; 3]; 8] = [
    [180, 128, 128],
    [162, 44, 142],
    [131, 156, 44],
    [112, 72, 58],
    [84, 184, 198],
    [65, 100, 212],
    [35, 212, 114],
    [16, 128, 128],
];

fn background(size: Size) -> Vec<u8> {
    let mut out = Vec::with_capacity(size.i420_len());
    for (index, plane) in Plane::ALL.into_iter().enumerate() {
        let Size { width, height } = if plane == Plane::Y { size } else { size.chroma() };
        for y in 0..height {
            let bars = y >= height * 3 / 4;
            out.extend((0..width).map(|x| match (bars, plane) {
                (true, _) => BARS[(x * BARS.len() / width).min(7)][index],
                (false, Plane::Y) if y < height / 4 => GREY,
                (false, Plane::Y) => 45 + (x * 60 / width) as u8 + (y * 40 / height) as u8,
                (false, Plane::U) => 118 + (x * 24 / width) as u8,
                (false, Plane::V) => 118 + (y * 24 / height) as u8,
            }));
        }
    }
    out
}

/// First and last row of the texture.
fn strip_rows(size: Size) -> (usize, usize) {
    (size.height * 5 / 8, size.height * 3 / 4)
}

fn texture(size: Size) -> Vec<u8> {
    let (top, bottom) = strip_rows(size);
    let grain = |x: usize, y: usize| {
        let mixed = (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77);
        70 + ((mixed ^ mixed >> 15).wrapping_mul(0x2c1b_3c6d) >> 24) as u8 / 5 * 2
    };
    (top..bottom).flat_map(|y| (0..size.width).map(move |x| grain(x / 2, y / 2))).collect()
}

/// Segments of the digits 0 to 9: top, upper left, upper right, middle, lower left, lower right, bottom.
const DIGITS: [[u8; 7]; 10] = [
    [1, 1, 1, 0, 1, 1, 1],
    [0, 0, 1, 0, 0, 1, 0],
    [1, 0, 1, 1, 1, 0, 1],
    [1, 0, 1, 1, 0, 1, 1],
    [0, 1, 1, 1, 0, 1, 0],
    [1, 1, 0, 1, 0, 1, 1],
    [1, 1, 0, 1, 1, 1, 1],
    [1, 0, 1, 0, 0, 1, 0],
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 0, 1, 1],
];

/// Left, top, right, bottom of each segment in a cell of 4 by 7.
const SEGMENTS: [[usize; 4]; 7] =
    [[0, 0, 4, 1], [0, 0, 1, 4], [3, 0, 4, 4], [0, 3, 4, 4], [0, 3, 1, 7], [3, 3, 4, 7], [0, 6, 4, 7]];

struct Luma<'a> {
    pixels: &'a mut [u8],
    size: Size,
}

impl Luma<'_> {
    fn fill(&mut self, [left, top, right, bottom]: [usize; 4], value: u8) {
        for row in self.pixels.chunks_exact_mut(self.size.width).take(bottom).skip(top) {
            if let Some(run) = row.get_mut(left..right) {
                run.fill(value);
            }
        }
    }

    fn strip(&mut self, texture: &[u8], number: u32) {
        let (width, (top, bottom)) = (self.size.width, strip_rows(self.size));
        let shift = number as usize * 3 % width;
        let rows = self.pixels.chunks_exact_mut(width).take(bottom).skip(top);
        for (row, from) in rows.zip(texture.chunks_exact(width)) {
            row[..shift].copy_from_slice(&from[width - shift..]);
            row[shift..].copy_from_slice(&from[..width - shift]);
        }
    }

    /// Six digits in seven segments, left of the middle.
    fn counter(&mut self, number: u32) {
        let unit = (self.size.height / 40).min(self.size.width / 64).max(1);
        let top = self.size.height * 2 / 5;
        for place in 0..6_u32 {
            let digit = number / 10_u32.pow(5 - place) % 10;
            let left = self.size.width / 20 + place as usize * 5 * unit;
            for (lit, [x1, y1, x2, y2]) in DIGITS[digit as usize].into_iter().zip(SEGMENTS) {
                if lit == 1 {
                    let across = [left + x1 * unit, top + y1 * unit, left + x2 * unit, top + y2 * unit];
                    self.fill(across, WHITE);
                }
            }
        }
    }

    /// A ball that bounces in the right half between marker and bars.
    fn ball(&mut self, number: u32) {
        let Size { width, height } = self.size;
        let radius = (height / 14).max(3);
        let bounce = |at: usize, room: usize| {
            let room = room.max(1);
            let at = at % (2 * room);
            at.min(2 * room - at)
        };
        let (room_x, room_y) = (width / 2 - 3 * radius, height / 2 - 3 * radius);
        let x = width / 2 + radius + bounce(number as usize * (width / 90).max(1), room_x);
        let y = height / 4 + radius + bounce(number as usize * (height / 60).max(1), room_y);
        for dy in 0..=2 * radius {
            let off = dy.abs_diff(radius);
            let half = (radius * radius - off * off).isqrt();
            self.fill([x - half, y + dy - radius, x + half, y + dy - radius + 1], 200);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_reads_back_at_every_usual_size() {
        let pool = FramePool::new(1);
        for (width, height) in [(160, 90), (176, 144), (320, 240), (640, 360), (360, 640), (1280, 720)] {
            for number in [0, 1, 4_711, 65_535] {
                let card = TestCard::new(Size::new(width, height), 42);
                let picture = card.draw(number, Pts::ZERO, &pool).expect("room");
                let wanted = Marker { source: 42, number: number as u16 };
                assert_eq!(read_marker(picture.frame()), Some(wanted), "{width}x{height}");
            }
        }
    }

    #[test]
    fn a_picture_without_a_marker_has_none() {
        let pool = FramePool::new(1);
        for value in [16, 128, 235] {
            let mut picture = pool.take_sized(Size::new(320, 180), Pts::ZERO).expect("room");
            picture.bytes_mut().fill(value);
            assert_eq!(read_marker(&picture.freeze()), None);
        }
    }

    #[test]
    fn one_wrong_block_is_noticed() {
        let pool = FramePool::new(2);
        let size = Size::new(320, 180);
        let card = TestCard::new(size, 7);
        for column in 0..COLUMNS {
            for row in 0..2 {
                let picture = card.draw(99, Pts::ZERO, &pool).expect("room");
                let turned = picture.edit(&pool, |picture| {
                    let [left, top, right, bottom] = block(size, row, column);
                    let was = picture.plane(Plane::Y)[(top + 1) * size.width + left + 1];
                    let value = if was == WHITE { BLACK } else { WHITE };
                    Luma { pixels: picture.plane_mut(Plane::Y), size }
                        .fill([left, top, right, bottom], value);
                });
                assert_eq!(read_marker(turned.expect("room").frame()), None, "{row} {column}");
            }
        }
    }

    #[test]
    fn consecutive_pictures_differ_and_the_same_number_paints_the_same() {
        let pool = FramePool::new(3);
        let card = TestCard::new(Size::new(320, 180), 7);
        let draw = |number| card.draw(number, Pts::ZERO, &pool).expect("room");
        let (a, b, again) = (draw(10), draw(11), draw(10));
        assert_ne!(a.frame().bytes(), b.frame().bytes());
        assert_eq!(a.frame().bytes(), again.frame().bytes());
    }
}
