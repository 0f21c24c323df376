//! `[avatar.NAME]`: faces for agents, by provider.

pub mod check;
pub mod print;
pub mod read;
pub mod settings;
