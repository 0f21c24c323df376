//! `[sip]` and what hangs below it: TLS, users, peers, accounts. Settings, reading, checking, printing; what the
//! keys do is decided by the floors that get the settings.

pub mod check;
pub mod print;
pub mod read;
pub mod settings;
