//! Floor 3: what is done to pictures on this box: hiding, drawing, watching.
//!
//! Pure: detectors and pictures are handed in, time is an argument. Running a model belongs to `worker/`, moving
//! pictures between threads to `engine/`.
//!
//! ```text
//! RawFrame ─▶ media::filter::Gate [ censor: schedule · track · mask │ slate ] ─▶ CleanFrame
//!          ─▶ filters (transforms, resize) ─▶ overlay (boxes of censor and observer, watermark) ─▶ consumers
//! ```

pub mod appearance;
pub mod caption;
pub mod censor;
pub mod filters;
pub mod mask;
pub mod observer;
pub mod overlay;
pub mod paint;
pub mod schedule;
pub mod slate;
pub mod text;
pub mod track;
