//! Floor 1: the vocabulary of pictures and sound that every other floor shares.
//!
//! Types and traits only: no codec, no socket, no model. A picture from outside is a [`frame::RawFrame`] until
//! [`filter::Gate`] has cleared it; everything that consumes pictures takes [`frame::CleanFrame`].

pub mod access_unit;
pub mod audio;
pub mod codec;
pub mod filter;
pub mod frame;
pub mod h265;
pub mod nal;
pub mod pool;
pub mod psnr;
pub mod sps;
pub mod vp8;
pub mod vp9;
