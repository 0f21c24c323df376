//! CenterFace: a heat map of stride 4 with sizes and offsets per cell.
//!
//! Where the heat map exceeds the limit at (y, x): `h = exp(scale0) * 4`, `w = exp(scale1) * 4`,
//! `cx = (x + offset1 + 0.5) * 4`, `cy = (y + offset0 + 0.5) * 4`. Landmarks are not read.

use super::{Candidates, Output, ShapeError, check};

const STRIDE: usize = 4;

pub(super) fn decode(outputs: &[Output<'_>], candidates: &mut Candidates<'_>) -> Result<(), ShapeError> {
    let (width, height) = candidates.tensor();
    let (columns, rows) = (width / STRIDE, height / STRIDE);
    let cells = columns * rows;
    let values = |index: usize, planes: usize| {
        let values = outputs.get(index).map_or(&[][..], |output| output.values);
        check(outputs, index, values.len() == cells * planes, "[1, 1 or 2, height / 4, width / 4]")?;
        Ok(values)
    };
    let (heat, scale, offset) = (values(0, 1)?, values(1, 2)?, values(2, 2)?);
    let (heights, widths) = scale.split_at(cells);
    let (downs, rights) = offset.split_at(cells);
    for (cell, score) in heat.iter().copied().enumerate() {
        if !candidates.wanted(0, score) {
            continue;
        }
        let s = STRIDE as f32;
        let (x, y) = ((cell % columns) as f32, (cell / columns) as f32);
        let centre = ((x + rights[cell] + 0.5) * s, (y + downs[cell] + 0.5) * s);
        candidates.push_centred(0, score, centre, (widths[cell].exp() * s, heights[cell].exp() * s));
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
    fn height_and_vertical_offset_come_first_and_both_axes_scale_on_their_own() {
        let mut heat = [0.0f32; 64];
        heat[3 * 8 + 2] = 0.7;
        let mut scale = [0.0f32; 128];
        scale[3 * 8 + 2] = 3.0f32.ln();
        scale[64 + 3 * 8 + 2] = 2.0f32.ln();
        let mut offset = [0.0f32; 128];
        offset[3 * 8 + 2] = 0.5;
        let outputs = [&heat[..], &scale, &offset].map(|values| Output { shape: &[], values });
        let placement = Placement::new(Fit::Stretch, Size::new(64, 32), Size::new(32, 32));
        let limits = Limits { confidence: 0.4, iou: 0.3, classes: &[] };
        let mut found = Vec::new();
        decode(Family::Centerface, &outputs, &placement, &limits, &mut found).expect("the shapes fit");
        // Centre (10, 16), 8 wide, 12 high in the tensor; the picture is twice as wide.
        assert_eq!(found[0].rect, Rect { x1: 12.0, y1: 10.0, x2: 28.0, y2: 22.0 });
    }
}
