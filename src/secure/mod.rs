//! Floor 2: media that only the peer can read and write, and who the peer is.
//!
//! ```text
//! datagram ─▶ kind ─┬▶ ice::Responder      STUN: the peer proves that it knows our password from the SDP
//!                   ├▶ dtls::Association   DTLS: the peer proves its certificate, both get keys
//!                   └▶ srtp::Incoming ─▶ RTP, RTCP           RTP, RTCP ─▶ srtp::Outgoing ─▶ datagram
//! ```
//! Pure machines. Random numbers come from the system: they are keys. What `a=crypto`, `a=fingerprint` and `a=ice-*`
//! say is read by `call::negotiate`; sockets, and which machine serves which of them, are `engine::network`'s.

mod cipher;
pub mod dtls;
pub mod ice;
pub mod keys;
pub mod srtp;
mod window;

/// What shares one media port (RFC 7983 §7), by the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stun,
    Dtls,
    /// RTP or RTCP, protected or not.
    Media,
    /// Nothing we speak (TURN channels, ZRTP) or nothing at all.
    Unknown,
}

/// Tells what a datagram is.
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0..=3) => Kind::Stun,
        Some(20..=63) => Kind::Dtls,
        Some(128..=191) => Kind::Media,
        Some(_) | None => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_who_a_datagram_is_for() {
        for (first, expected) in [
            (0, Kind::Stun),
            (3, Kind::Stun),
            (4, Kind::Unknown),
            (19, Kind::Unknown),
            (20, Kind::Dtls),
            (63, Kind::Dtls),
            (64, Kind::Unknown),
            (127, Kind::Unknown),
            (128, Kind::Media),
            (191, Kind::Media),
            (192, Kind::Unknown),
        ] {
            assert_eq!(kind(&[first, 1, 2]), expected, "{first}");
        }
        assert_eq!(kind(&[]), Kind::Unknown);
    }
}
