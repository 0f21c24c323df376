//! Sound and pictures of a made-up sender in virtual time.
