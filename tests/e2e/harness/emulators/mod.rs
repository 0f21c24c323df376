//! Emulators of the providers' APIs: strict about what they are sent, with faults on demand. What each got is logged
//! with its time.

pub mod anam;
pub mod audio;
pub mod deepgram;
pub mod face;
pub mod gemini_live;
pub mod liveavatar;
pub mod livekit;
pub mod models;
pub mod openai_realtime;
pub mod providers;
pub mod raw_avatar;
pub mod server;
pub mod socket;
