//! YuNet: per stride 8, 16, 32 the outputs `cls`, `obj` and `bbox`, cells row by row.
//!
//! `score = sqrt(clip(cls) * clip(obj))`, `cx = (gx + b0) * s`, `cy = (gy + b1) * s`, `w = exp(b2) * s`,
//! `h = exp(b3) * s`. The landmarks (`kps`) are not read: a censor needs boxes.

use super::{Candidates, Output, ShapeError, check};

const STRIDES: [usize; 3] = [8, 16, 32];

pub(super) fn decode(outputs: &[Output<'_>], candidates: &mut Candidates<'_>) -> Result<(), ShapeError> {
    let (width, height) = candidates.tensor();
    for (level, stride) in STRIDES.into_iter().enumerate() {
        let (columns, rows) = (width / stride, height / stride);
        let cells = columns * rows;
        let values = |index: usize, each: usize| {
            let values = outputs.get(index).map_or(&[][..], |output| output.values);
            check(
                outputs,
                index,
                values.len() == cells * each,
                "[1, cells, 1], [1, cells, 1] and [1, cells, 4]",
            )?;
            Ok(values)
        };
        let (class, object, boxes) = (values(level, 1)?, values(level + 3, 1)?, values(level + 6, 4)?);
        // Both factors are at most 1, so neither may be below the square of the limit.
        let floor = candidates.limits.confidence * candidates.limits.confidence;
        let cells = class.iter().zip(object).zip(boxes.chunks_exact(4)).enumerate();
        for (cell, ((class, object), sides)) in cells {
            if *class <= floor || *object <= floor {
                continue;
            }
            let score = (class.clamp(0.0, 1.0) * object.clamp(0.0, 1.0)).sqrt();
            if let [b0, b1, b2, b3] = sides
                && candidates.wanted(0, score)
            {
                let s = stride as f32;
                let (gx, gy) = ((cell % columns) as f32, (cell / columns) as f32);
                candidates.push_centred(
                    0,
                    score,
                    ((gx + b0) * s, (gy + b1) * s),
                    (b2.exp() * s, b3.exp() * s),
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::inference::family::{Family, Limits, Output, decode};
    use crate::inference::manifest::Fit;
    use crate::inference::tensor::Placement;
    use crate::media::codec::Rect;
    use crate::media::frame::Size;

    #[test]
    fn a_face_of_stride_32_is_placed_by_its_cell_and_scored_by_both_outputs() {
        // 64x32: 8x4, 4x2 and 2x1 cells.
        let zeros = [0.0f32; 32 * 4];
        let class = [0.0, 0.81];
        let object = [0.0, 1.7];
        let boxes = [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.5f32.ln()];
        let plain = |n: usize| Output { shape: &[], values: &zeros[..n] };
        let exact = |values: &'static [f32]| Output { shape: &[], values };
        let outputs = [
            plain(32),
            plain(8),
            Output { shape: &[], values: &class },
            plain(32),
            plain(8),
            Output { shape: &[], values: &object },
            plain(128),
            plain(32),
            Output { shape: &[], values: &boxes },
        ];
        let placement = Placement::new(Fit::TopLeft, Size::new(64, 32), Size::new(64, 32));
        let limits = Limits { confidence: 0.6, iou: 0.3, classes: &[] };
        let mut found = Vec::new();
        decode(Family::Yunet, &outputs, &placement, &limits, &mut found).expect("the shapes fit");
        assert_eq!(found.len(), 1);
        assert!((found[0].score - 0.9).abs() < 1e-6);
        assert_eq!(found[0].rect, Rect { x1: 32.0, y1: 8.0, x2: 64.0, y2: 24.0 });

        let mut short = outputs;
        short[8] = exact(&[0.0]);
        assert!(decode(Family::Yunet, &short, &placement, &limits, &mut found).is_err());
    }
}
