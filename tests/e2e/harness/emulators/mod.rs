//! Emulators of the providers' APIs: strict about what they are sent, with faults on demand. What each got is logged
//! with its time.

pub mod gemini_live;
pub mod openai_realtime;
pub mod socket;
