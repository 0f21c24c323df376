//! YOLOX: one output `[1, N, 5 + C]`, the cells of strides 8, 16 and 32 row by row.
//!
//! `cx = (p0 + gx) * s`, `cy = (p1 + gy) * s`, `w = exp(p2) * s`, `h = exp(p3) * s`, score = `p4` times the best class.

use super::{Candidates, Output, ShapeError, check};

const STRIDES: [usize; 3] = [8, 16, 32];

pub(super) fn decode(outputs: &[Output<'_>], candidates: &mut Candidates<'_>) -> Result<(), ShapeError> {
    let (width, height) = candidates.tensor();
    let cells: usize = STRIDES.iter().map(|s| (width / s) * (height / s)).sum();
    let output = outputs.first().copied().unwrap_or(Output { shape: &[], values: &[] });
    let row = output.shape.last().and_then(|n| usize::try_from(*n).ok()).unwrap_or(0);
    let fits = row > 5 && cells > 0 && output.values.len() == cells * row;
    check(outputs, 0, fits, "[1, cells, 5 + classes]")?;

    let mut rows = output.values.chunks_exact(row);
    for stride in STRIDES {
        for gy in 0..height / stride {
            for gx in 0..width / stride {
                let Some([p0, p1, p2, p3, object, classes @ ..]) = rows.next() else { return Ok(()) };
                // No class can lift the score above the object's own.
                if *object <= candidates.limits.confidence {
                    continue;
                }
                let Some((class, best)) = best_of(classes) else { continue };
                let score = object * best;
                if candidates.wanted(class, score) {
                    let s = stride as f32;
                    let centre = ((p0 + gx as f32) * s, (p1 + gy as f32) * s);
                    candidates.push_centred(class, score, centre, (p2.exp() * s, p3.exp() * s));
                }
            }
        }
    }
    Ok(())
}

fn best_of(classes: &[f32]) -> Option<(usize, f32)> {
    let mut best = None;
    for (class, score) in classes.iter().copied().enumerate() {
        if best.is_none_or(|(_, other)| score > other) {
            best = Some((class, score));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use crate::inference::family::{Family, Limits, Output, decode};
    use crate::inference::manifest::Fit;
    use crate::inference::tensor::Placement;
    use crate::media::codec::Rect;
    use crate::media::frame::Size;

    fn cells_of_64() -> Vec<f32> {
        vec![0.0; (8 * 8 + 4 * 4 + 2 * 2) * 7]
    }

    #[test]
    fn a_cell_of_stride_16_becomes_a_box_in_the_larger_picture() {
        let mut values = cells_of_64();
        let cell = (64 + 4 + 2) * 7; // stride 16, gx 2, gy 1
        values[cell..cell + 7].copy_from_slice(&[0.5, 0.25, 2.0f32.ln(), 1.0f32.ln(), 0.8, 0.1, 0.9]);
        let placement = Placement::new(Fit::TopLeft, Size::new(128, 96), Size::new(64, 64));
        let limits = Limits { confidence: 0.3, iou: 0.45, classes: &[] };
        let mut found = Vec::new();
        let output = Output { shape: &[1, 84, 7], values: &values };
        decode(Family::Yolox, &[output], &placement, &limits, &mut found).expect("the shape fits");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, 1);
        assert!((found[0].score - 0.72).abs() < 1e-6);
        assert_eq!(found[0].rect, Rect { x1: 48.0, y1: 24.0, x2: 112.0, y2: 56.0 });
    }

    #[test]
    fn unwanted_classes_numbers_that_are_none_and_foreign_shapes_are_left_out() {
        let mut values = cells_of_64();
        values[..7].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.9, 0.0]);
        values[7..14].copy_from_slice(&[0.0, 0.0, f32::INFINITY, 0.0, 1.0, 0.0, 0.9]);
        values[14..21].copy_from_slice(&[0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, 0.9]);
        let placement = Placement::new(Fit::TopLeft, Size::new(64, 64), Size::new(64, 64));
        let limits = Limits { confidence: 0.3, iou: 0.45, classes: &[1] };
        let mut found = Vec::new();
        let output = Output { shape: &[1, 84, 7], values: &values };
        decode(Family::Yolox, &[output], &placement, &limits, &mut found).expect("the shape fits");
        assert!(found.iter().all(|f| f.class == 1 && f.rect.x2 <= 64.0), "{found:?}");

        let short = Output { shape: &[1, 83, 7], values: &values[7..] };
        assert!(decode(Family::Yolox, &[short], &placement, &limits, &mut found).is_err());
        assert!(decode(Family::Yolox, &[], &placement, &limits, &mut found).is_err());
    }
}
