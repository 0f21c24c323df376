//! Floor 3: pictures and sound made on this box or fetched by it: a test card, a file, a stream, a voice, a tone.
//!
//! Who listens to a source and at what pace does not belong here.

pub mod clip;
pub mod feed;
pub mod speech;
pub mod test_picture;
pub mod tone;
