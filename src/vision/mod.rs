//! Floor 3: what is done to pictures on this box: hiding, drawing, watching.
//!
//! Pure: detectors and pictures are handed in, time is an argument. Running a model belongs to `worker/`, moving
//! pictures between threads to `engine/`.
//!
//! ```text
//! RawFrame ─▶ media::filter::Gate [ censor: schedule · track · mask │ slate ] ─▶ CleanFrame
//!          ─▶ filters (transforms, resize) ─▶ overlay (boxes of censor and observer, watermark) ─▶ consumers
//! ```

//TODO pub mod censor;
//TODO pub mod filters;
pub mod mask;
//TODO pub mod observer;
//TODO pub mod overlay;
pub mod paint;
pub mod schedule;
//TODO pub mod slate;
//TODO pub mod text;
pub mod track;
