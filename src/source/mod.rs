//! Floor 3: pictures and sound made on this box: a test card, a file, a voice, a tone.
//!
//! Cameras and networks come later. Who listens to a source and at what pace does not belong here.

pub mod clip;
pub mod speech;
pub mod test_picture;
pub mod tone;
