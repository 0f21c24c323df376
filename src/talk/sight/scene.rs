//! Has anything changed, and which of several pictures is sharp?
//!
//! Pure. Both look at a fixed number of points, so that they cost the same for every size: a [`Look`] about 10,000
//! reads, the sharpness about 35,000.

use crate::media::frame::{Frame, Plane};

const COLUMNS: usize = 32;
const ROWS: usize = 18;
const CELLS: usize = COLUMNS * ROWS;
/// Points in a cell, each way: their mean is calm where single pixels are noise.
const POINTS: usize = 4;
/// A cell is another when its mean moved by so much: three times what noise and an encoder do to it.
const CELL_MOVED: u8 = 8;
/// Two such cells are a change; so is one that moved this much.
const CELL_JUMPED: u8 = 20;

/// What a picture looks like from afar, and a hash of it. Two pictures of the same scene have the same look.
#[derive(Clone, PartialEq, Eq)]
pub struct Look {
    cells: [u8; CELLS],
    hash: u64,
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Look({:016x})", self.hash)
    }
}

impl Look {
    pub fn of(picture: &Frame) -> Look {
        let (size, luma) = (picture.size(), picture.plane(Plane::Y));
        let at = |step: usize, steps: usize, length: usize| {
            ((2 * step + 1) * length / (2 * steps)).min(length.saturating_sub(1))
        };
        let mut cells = [0; CELLS];
        let mut columns = [0; COLUMNS * POINTS];
        for (step, column) in columns.iter_mut().enumerate() {
            *column = at(step, COLUMNS * POINTS, size.width);
        }
        let mut sums = [0_u32; COLUMNS];
        for step in 0..ROWS * POINTS {
            let start = at(step, ROWS * POINTS, size.height) * size.width;
            let Some(line) = luma.get(start..start + size.width) else { break };
            for (sum, columns) in sums.iter_mut().zip(columns.chunks_exact(POINTS)) {
                *sum += columns.iter().map(|column| u32::from(line[*column])).sum::<u32>();
            }
            if step % POINTS == POINTS - 1 {
                let row = step / POINTS * COLUMNS;
                for (cell, sum) in cells[row..row + COLUMNS].iter_mut().zip(&mut sums) {
                    *cell = (*sum / (POINTS * POINTS) as u32) as u8;
                    *sum = 0;
                }
            }
        }
        Look { hash: hash_of(&cells), cells }
    }

    /// Which way the light falls between 64 pairs of places: close numbers are alike pictures.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether both show the same, as far as it is worth telling a model.
    pub fn is_like(&self, other: &Look) -> bool {
        let mut moved = 0;
        for (a, b) in self.cells.iter().zip(&other.cells) {
            let by = a.abs_diff(*b);
            moved += usize::from(by >= CELL_MOVED);
            if moved >= 2 || by >= CELL_JUMPED {
                return false;
            }
        }
        true
    }
}

/// Eight lines of eight steps from left to right: up or down.
fn hash_of(cells: &[u8; CELLS]) -> u64 {
    let mut hash = 0;
    for line in 0..8 {
        let row = (2 * line + 1) * ROWS / 16 * COLUMNS;
        let mean = |step: usize| {
            let from = step * COLUMNS / 9;
            u32::from(cells[row + from]) + u32::from(cells[row + from + 1]) + u32::from(cells[row + from + 2])
        };
        for step in 0..8 {
            hash = hash << 1 | u64::from(mean(step + 1) > mean(step));
        }
    }
    hash
}

const SHARP_LINES: usize = 72;
const SHARP_POINTS: usize = 96;

/// How sharp a picture is: how much neighbouring pixels differ from a straight line between theirs, over points spread
/// across it. Numbers of pictures of one size and scene can be compared, no others.
pub fn sharpness(picture: &Frame) -> u32 {
    let (size, luma) = (picture.size(), picture.plane(Plane::Y));
    if size.width < 4 || size.height < 4 {
        return 0;
    }
    let mut sum = 0_u64;
    for step in 0..SHARP_LINES {
        let y = 1 + step * (size.height - 2) / SHARP_LINES;
        let line = |y: usize| luma.get(y * size.width..(y + 1) * size.width);
        let (Some(above), Some(here), Some(below)) = (line(y - 1), line(y), line(y + 1)) else { break };
        for step in 0..SHARP_POINTS {
            let x = 1 + step * (size.width - 2) / SHARP_POINTS;
            let around = [above[x], below[x], here[x - 1], here[x + 1]].map(u32::from).iter().sum::<u32>();
            sum += u64::from((4 * u32::from(here[x])).abs_diff(around)).pow(2);
        }
    }
    (sum / (SHARP_LINES * SHARP_POINTS / 16) as u64).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Size;
    use crate::media::pool::FramePool;

    fn picture(size: Size, luma: impl Fn(usize, usize) -> u8) -> Frame {
        let mut picture = FramePool::new(1).take_sized(size, Pts::ZERO).expect("room");
        for (at, pixel) in picture.plane_mut(Plane::Y).iter_mut().enumerate() {
            *pixel = luma(at % size.width, at / size.width);
        }
        picture.freeze()
    }

    /// A scene with noise of a small camera.
    fn room(seed: u32) -> impl Fn(usize, usize) -> u8 {
        move |x, y| {
            let mixed = (x as u32).wrapping_mul(2_654_435_761) ^ (y as u32).wrapping_mul(40_503) ^ seed;
            let noise = (mixed.wrapping_mul(2_246_822_519) >> 24) % 13;
            (40 + x / 8 + if (200..260).contains(&x) { 60 } else { 0 } + y / 10) as u8 + noise as u8
        }
    }

    const SIZE: Size = Size::new(640, 360);

    #[test]
    fn noise_is_no_change_and_a_raised_hand_is() {
        let before = Look::of(&picture(SIZE, room(1)));
        assert!(before.is_like(&Look::of(&picture(SIZE, room(99)))));
        let hand = |x: usize, y: usize| {
            if (400..440).contains(&x) && (200..250).contains(&y) { 200 } else { room(3)(x, y) }
        };
        assert!(!before.is_like(&Look::of(&picture(SIZE, hand))));
        let darker = |x: usize, y: usize| room(5)(x, y) - 12;
        assert!(!before.is_like(&Look::of(&picture(SIZE, darker))), "the light went");
    }

    #[test]
    fn hashes_of_one_scene_are_close_in_any_size_and_of_others_far() {
        let hash = |size: Size, shift: usize| {
            let texture = move |x: usize, y: usize| {
                let (x, y) = ((x * 640 / size.width + shift) % 640, y * 360 / size.height);
                (((x / 70 * 37 + y / 60 * 91) % 5) * 45 + 20) as u8
            };
            Look::of(&picture(size, texture)).hash()
        };
        let apart = |a: u64, b: u64| (a ^ b).count_ones();
        assert!(apart(hash(SIZE, 0), hash(Size::new(1280, 720), 0)) <= 4);
        assert!(apart(hash(SIZE, 0), hash(SIZE, 160)) > 8);
    }

    #[test]
    fn what_is_blurred_is_less_sharp() {
        let sharp = |x: usize, y: usize| if (x / 6 + y / 6).is_multiple_of(2) { 60 } else { 180 };
        let blurred = |x: usize, y: usize| {
            let sum: u32 = (0..8).map(|by| u32::from(sharp(x + by, y))).sum();
            (sum / 8) as u8
        };
        let (clear, smeared) = (sharpness(&picture(SIZE, sharp)), sharpness(&picture(SIZE, blurred)));
        assert!(clear > 3 * smeared, "{clear} {smeared}");
        assert_eq!(sharpness(&picture(SIZE, |_, _| 90)), 0);
        assert_eq!(sharpness(&picture(Size::new(2, 2), sharp)), 0);
    }
}
