//! How close two pictures are: peak signal-to-noise ratio of their luma.
//!
//! What is close enough is for whoever asks.

use crate::media::frame::{Frame, Plane};

/// PSNR of the luma planes in dB; 100 when they are equal, 0 when their sizes differ.
pub fn psnr_y(a: &Frame, b: &Frame) -> f64 {
    if a.size() != b.size() {
        return 0.0;
    }
    let (a, b) = (a.plane(Plane::Y), b.plane(Plane::Y));
    let squares: u64 = a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum();
    if squares == 0 {
        return 100.0;
    }
    let mean = squares as f64 / a.len() as f64;
    (10.0 * (255.0 * 255.0 / mean).log10()).min(100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Pts;
    use crate::media::frame::Size;
    use crate::media::pool::FramePool;

    #[test]
    fn one_grey_level_everywhere_is_48_db() {
        let pool = FramePool::new(3);
        let flat = |size, value| {
            let mut picture = pool.take_sized(size, Pts::ZERO).expect("room");
            picture.plane_mut(Plane::Y).fill(value);
            picture.freeze()
        };
        let (a, b) = (flat(Size::new(16, 16), 100), flat(Size::new(16, 16), 101));
        assert!((psnr_y(&a, &b) - 48.13).abs() < 0.01);
        assert_eq!(psnr_y(&a, &a), 100.0);
        assert_eq!(psnr_y(&a, &flat(Size::new(32, 16), 100)), 0.0);
    }
}
