//! Floor 2: session descriptions (RFC 8866), bytes to typed values and back.
//!
//! [`mod@parse`] forgives what real endpoints get wrong, [`mod@print`] writes only what the grammar allows. What an offer
//! or answer means (RFC 3264) is not decided here: `call::negotiate` does that.

pub mod crypto;
pub mod fingerprint;
pub mod ice;
pub mod media;
pub mod parse;
pub mod print;
pub mod session;

pub use crypto::Crypto;
pub use fingerprint::{Fingerprint, Setup};
pub use media::{Direction, FormatParameters, Media, RtcpAddress, RtpMap};
pub use parse::{ParseError, parse};
pub use session::{Attribute, Bandwidth, Connection, OriginLine, SessionDescription};
