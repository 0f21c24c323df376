//! Decode families: from a network's output tensors to boxes in pixels of the picture.
//!
//! Pure. One file a family; here is what they share: the outputs' shape, placing boxes back on the picture, and
//! greedy class-aware non-maximum suppression. Pre-processing is in [`super::tensor`].

mod centerface;
mod yolox;
mod yunet;

use serde::{Deserialize, Serialize};

use crate::inference::tensor::Placement;
use crate::media::codec::Rect;

/// How the outputs of a network are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    Yolox,
    Yunet,
    Centerface,
}

impl Family {
    /// The family of a manifest's `decode` key; `None`: this build does not know it.
    pub fn named(decode: &str) -> Option<Family> {
        match decode {
            "yolox" => Some(Family::Yolox),
            "yunet" => Some(Family::Yunet),
            "centerface" => Some(Family::Centerface),
            _ => None,
        }
    }

    /// How many outputs [`decode`] needs, from the start of the manifest's list.
    pub fn outputs(self) -> usize {
        match self {
            Family::Yolox => 1,
            Family::Yunet => 9,
            Family::Centerface => 3,
        }
    }
}

/// What counts as found.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits<'a> {
    /// Scores must be above it, 0 to 1.
    pub confidence: f32,
    /// Of two boxes of a class that overlap more than this, the weaker one goes; 0: none goes.
    pub iou: f32,
    /// Class indices wanted; empty: all.
    pub classes: &'a [u16],
}

/// One box in pixels of the picture, inside its edges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Index into the model's labels.
    pub class: u16,
    pub score: f32,
    pub rect: Rect,
}

/// One output tensor.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    pub shape: &'a [i64],
    pub values: &'a [f32],
}

/// An output that does not have the shape its family reads.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("output {index} has the shape {shape:?}, wanted {wanted}: the file does not fit its manifest entry")]
pub struct ShapeError {
    index: usize,
    shape: Vec<i64>,
    wanted: &'static str,
}

/// A network that answers with noise must not make suppression quadratic in tens of thousands of boxes.
const MAX_CANDIDATES: usize = 2000;

/// Reads `outputs` (in the contract's order) into `found`, strongest first.
pub fn decode(
    family: Family,
    outputs: &[Output<'_>],
    placement: &Placement,
    limits: &Limits<'_>,
    found: &mut Vec<Found>,
) -> Result<(), ShapeError> {
    found.clear();
    let mut candidates = Candidates { placement, limits, found };
    match family {
        Family::Yolox => yolox::decode(outputs, &mut candidates)?,
        Family::Yunet => yunet::decode(outputs, &mut candidates)?,
        Family::Centerface => centerface::decode(outputs, &mut candidates)?,
    }
    suppress(found, limits.iou);
    Ok(())
}

/// Takes boxes in tensor pixels while a family walks its outputs.
struct Candidates<'a> {
    placement: &'a Placement,
    limits: &'a Limits<'a>,
    found: &'a mut Vec<Found>,
}

impl Candidates<'_> {
    /// Width and height of the tensor the outputs belong to.
    fn tensor(&self) -> (usize, usize) {
        (self.placement.tensor.width, self.placement.tensor.height)
    }

    fn wanted(&self, class: usize, score: f32) -> bool {
        let classes = self.limits.classes;
        // A score that is not a number compares false and is left out.
        score > self.limits.confidence
            && (classes.is_empty() || classes.iter().any(|c| usize::from(*c) == class))
    }

    fn push_centred(&mut self, class: usize, score: f32, centre: (f32, f32), size: (f32, f32)) {
        let (w, h) = (size.0 / 2.0, size.1 / 2.0);
        let rect = Rect { x1: centre.0 - w, y1: centre.1 - h, x2: centre.0 + w, y2: centre.1 + h };
        let rect = self.placement.to_picture(&rect);
        let finite = [rect.x1, rect.y1, rect.x2, rect.y2].iter().all(|side| side.is_finite());
        if let Ok(class) = u16::try_from(class)
            && finite
        {
            self.found.push(Found { class, score: score.min(1.0), rect });
        }
    }
}

/// Sorts by score and removes, class by class, what overlaps a stronger box by more than `iou`.
fn suppress(found: &mut Vec<Found>, iou: f32) {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    found.truncate(MAX_CANDIDATES);
    if iou <= 0.0 {
        return;
    }
    let mut kept = 0;
    for next in 0..found.len() {
        let candidate = found[next];
        let covered = found[..kept]
            .iter()
            .any(|stronger| stronger.class == candidate.class && stronger.rect.iou(&candidate.rect) > iou);
        if !covered {
            found[kept] = candidate;
            kept += 1;
        }
    }
    found.truncate(kept);
}

fn check(outputs: &[Output<'_>], index: usize, fits: bool, wanted: &'static str) -> Result<(), ShapeError> {
    if fits {
        return Ok(());
    }
    let shape = outputs.get(index).map(|output| output.shape.to_vec()).unwrap_or_default();
    Err(ShapeError { index, shape, wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(class: u16, score: f32, x: f32) -> Found {
        Found { class, score, rect: Rect { x1: x, y1: 0.0, x2: x + 10.0, y2: 10.0 } }
    }

    #[test]
    fn of_two_overlapping_boxes_of_a_class_the_stronger_stays() {
        let mut boxes = vec![found(0, 0.5, 1.0), found(0, 0.9, 0.0), found(1, 0.6, 1.0), found(0, 0.4, 40.0)];
        suppress(&mut boxes, 0.5);
        let left: Vec<(u16, f32)> = boxes.iter().map(|f| (f.class, f.score)).collect();
        assert_eq!(left, [(0, 0.9), (1, 0.6), (0, 0.4)]);
    }

    #[test]
    fn a_suppressed_box_does_not_suppress_others() {
        // 0 covers 4, 4 would cover 8, 0 does not cover 8.
        let mut boxes = vec![found(0, 0.9, 0.0), found(0, 0.8, 4.0), found(0, 0.7, 8.0)];
        suppress(&mut boxes, 0.4);
        assert_eq!(boxes.len(), 2);
        assert_eq!(boxes[1].score, 0.7);
    }
}
