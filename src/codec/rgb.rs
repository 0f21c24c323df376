//! Pictures as 24-bit RGB, as programs that draw or infer make them, to I420 in BT.601 limited range.
//!
//! One pass without a scaler: the size stays, an odd last line or column is left out.

use crate::base::time::Pts;
use crate::media::frame::{FrameMut, Size};
use crate::media::pool::FramePool;

/// `width * height * 3` bytes, lines without padding. `None`: there are fewer or more, the picture is empty, or the pool
/// is.
pub fn picture(rgb: &[u8], size: Size, pool: &FramePool, pts: Pts) -> Option<FrameMut> {
    let even = Size::new(size.width & !1, size.height & !1);
    let wanted = size.width.checked_mul(size.height)?.checked_mul(3)?;
    if even.width == 0 || even.height == 0 || rgb.len() != wanted {
        return None;
    }
    let mut into = pool.take_sized(even, pts)?;
    let [luma, blue, red] = into.planes_mut();
    let half = even.width / 2;
    let lines = rgb.chunks_exact(6 * size.width).zip(luma.chunks_exact_mut(2 * even.width));
    let chroma = blue.chunks_exact_mut(half).zip(red.chunks_exact_mut(half));
    for ((source, luma), (blue, red)) in lines.zip(chroma) {
        let (upper, lower) = source.split_at(3 * size.width);
        let (luma_upper, luma_lower) = luma.split_at_mut(even.width);
        let source = upper.chunks_exact(6).zip(lower.chunks_exact(6));
        let luma = luma_upper.chunks_exact_mut(2).zip(luma_lower.chunks_exact_mut(2));
        for (((upper, lower), (luma_upper, luma_lower)), (blue, red)) in
            source.zip(luma).zip(blue.iter_mut().zip(red))
        {
            let pixel = |from: &[u8], at: usize| [0, 1, 2].map(|n| i32::from(from[3 * at + n]));
            let [a, b, c, d] = [pixel(upper, 0), pixel(upper, 1), pixel(lower, 0), pixel(lower, 1)];
            (luma_upper[0], luma_upper[1]) = (luma_of(a), luma_of(b));
            (luma_lower[0], luma_lower[1]) = (luma_of(c), luma_of(d));
            let [r, g, b] = [0, 1, 2].map(|n| a[n] + b[n] + c[n] + d[n]);
            *blue = chroma_of(-38 * r - 74 * g + 112 * b);
            *red = chroma_of(112 * r - 94 * g - 18 * b);
        }
    }
    Some(into)
}

fn luma_of([r, g, b]: [i32; 3]) -> u8 {
    (((66 * r + 129 * g + 25 * b + 128) >> 8) + 16) as u8
}

/// Of the sum of four pixels.
fn chroma_of(sum: i32) -> u8 {
    (((sum + 512) >> 10) + 128) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::frame::Plane;

    fn plain(colour: [u8; 3], size: Size) -> Option<(Size, [u8; 3])> {
        let pixels: Vec<u8> = colour.iter().copied().cycle().take(3 * size.width * size.height).collect();
        let frame = picture(&pixels, size, &FramePool::new(1), Pts::ZERO)?;
        Some((frame.size(), Plane::ALL.map(|plane| frame.plane(plane)[0])))
    }

    #[test]
    fn colours_come_out_as_the_standard_says() {
        let size = Size::new(6, 4);
        for (colour, wanted) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [82, 90, 240]),
            ([0, 255, 0], [145, 54, 34]),
            ([0, 0, 255], [41, 240, 110]),
        ] {
            let (_, made) = plain(colour, size).expect("a picture");
            let close = made.iter().zip(wanted).all(|(made, wanted): (&u8, u8)| made.abs_diff(wanted) <= 1);
            assert!(close, "{colour:?}: {made:?}, not {wanted:?}");
        }
    }

    #[test]
    fn every_pixel_has_its_place_and_odd_sides_are_cut() {
        let size = Size::new(5, 3);
        let mut pixels = vec![0; 45];
        // White at column 2, line 1.
        pixels[3 * 7..3 * 8].fill(255);
        let frame = picture(&pixels, size, &FramePool::new(1), Pts::ZERO).expect("a picture");
        assert_eq!(frame.size(), Size::new(4, 2));
        assert_eq!(frame.plane(Plane::Y), [16, 16, 16, 16, 16, 16, 235, 16]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let pool = FramePool::new(1);
        assert!(picture(&[0; 11], Size::new(2, 2), &pool, Pts::ZERO).is_none());
        assert!(picture(&[0; 13], Size::new(2, 2), &pool, Pts::ZERO).is_none());
        assert!(picture(&[0; 3], Size::new(1, 1), &pool, Pts::ZERO).is_none());
        assert!(picture(&[], Size::new(usize::MAX, 2), &pool, Pts::ZERO).is_none());
        assert_eq!(pool.in_use(), 0);
    }
}
