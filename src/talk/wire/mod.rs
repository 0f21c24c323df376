//! A provider's words to ours and back. Pure: bytes and times come in as arguments.

use std::collections::VecDeque;

use crate::talk::message::{Delta, Failure};
use events::Event;

pub mod body;
pub mod chat;
pub mod decision;
pub mod deepgram_listen;
pub mod deepgram_speak;
pub mod events;
pub mod generate;
pub mod live;
pub mod messages;
pub mod pcm;
pub mod realtime;
pub mod sound;
pub mod speech;
pub mod transcription;

/// How far a streamed answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Open,
    /// All is said; what may follow is of use but not worth waiting for.
    Said,
    /// Nothing of use can follow.
    Over,
}

/// Reads one streamed answer of a language model.
pub trait Reader: Send {
    /// Appends what an event says.
    fn handle_event(&mut self, event: &Event, out: &mut VecDeque<Delta>) -> Result<(), Failure>;

    /// No event follows: appends what was kept for the end, at last [`Delta::Finish`]. An answer that was not
    /// finished is [`Failure::Cut`]. Called again it does nothing.
    fn handle_end(&mut self, out: &mut VecDeque<Delta>) -> Result<(), Failure>;

    fn progress(&self) -> Progress;
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Everything a reader makes of the data of these events and the end after them.
    pub fn read(mut reader: impl Reader, data: &[String]) -> Result<Vec<Delta>, Failure> {
        let mut out = VecDeque::new();
        for data in data {
            reader.handle_event(&Event { name: String::new(), data: data.clone() }, &mut out)?;
        }
        reader.handle_end(&mut out)?;
        reader.handle_end(&mut out)?;
        assert_eq!(reader.progress(), Progress::Over);
        Ok(out.into())
    }

    pub fn words(deltas: &[Delta]) -> String {
        deltas
            .iter()
            .filter_map(|d| if let Delta::Text(text) = d { Some(text.as_str()) } else { None })
            .collect()
    }
}
