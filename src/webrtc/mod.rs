//! Floor 2: one WebRTC peer connection (RFC 8825 and what it names), around `str0m`.
//!
//! Signalling, and what the streams are for, belong to `avatar`.
