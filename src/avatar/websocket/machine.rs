//! What both protocols are to the driver.
//!
//! Pure.

use std::time::{Duration, Instant};

use crate::avatar::{AvatarEvent, Farewell, Limits, Turn};
use crate::remote::websocket::{Bytes, Frame};

/// What a machine wants.
#[derive(Debug)]
pub enum Act {
    Send(Frame),
    /// After [`AvatarEvent::Lost`] nothing more is asked of the machine.
    Tell(AvatarEvent),
    /// The provider gives the session so long from now.
    Left(Duration),
}

/// What was learnt while connecting.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// Under which name the provider knows the session; empty: it says so later.
    pub session: String,
    /// Pictures a second the server makes; 0: it did not say.
    pub fps: u32,
    /// The picture of a face at rest, as it came.
    pub idle: Bytes,
}

/// One session's side of a protocol.
pub trait Machine: Send {
    fn limits(&self) -> &Limits;
    /// The connection stands.
    fn handle_open(&mut self, now: Instant, beginning: Beginning);
    fn handle_frame(&mut self, now: Instant, frame: Frame);
    fn wake_at(&self) -> Option<Instant>;
    fn handle_time(&mut self, now: Instant);
    fn speak(&mut self, now: Instant, turn: Turn, samples: &[i16]);
    fn end(&mut self, turn: Turn);
    fn interrupt(&mut self, turn: Turn);
    fn listening(&mut self, _listening: bool) {}
    fn want_key_picture(&mut self) {}
    /// Says farewell; the connection is closed after it.
    fn leave(&mut self, _farewell: Farewell) {}
    fn next_act(&mut self) -> Option<Act>;
}
