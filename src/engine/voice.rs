//! Driver (runs `espeak-ng`, reads files). Prepares what an agent says before or while its call starts.
//!
//! Speech for the same text is made once per process and rate; the mixer plays it, block by block.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::media::frame::Size;
use crate::media::pool::FramePool;
use crate::source::clip::{Clip, ClipItem, ClipSettings};
use crate::source::speech::{SpeechSettings, say_or_chime};

/// The sound of longer files is cut.
const LONGEST: Duration = Duration::from_secs(600);
/// Texts remembered; greetings are few.
const REMEMBERED: usize = 64;

/// Text and rate to samples.
type Spoken = HashMap<(String, u32), Arc<[i16]>>;

/// A cache of spoken texts, shared by all calls.
#[derive(Clone, Default)]
pub struct Speaker {
    spoken: Arc<Mutex<Spoken>>,
}

impl Speaker {
    /// The text as sound at `rate`; a tone when nothing on the box speaks.
    pub fn say(&self, text: &str, rate: u32) -> Arc<[i16]> {
        let key = (text.to_owned(), rate);
        if let Some(known) = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let samples: Arc<[i16]> = say_or_chime(text, &SpeechSettings::new(rate)).into();
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.len() >= REMEMBERED {
            spoken.clear();
        }
        spoken.insert(key, samples.clone());
        samples
    }

    /// The sound of a file at `rate`, at most [`LONGEST`] of it.
    pub fn sound_of(path: &Path, rate: u32) -> Result<Arc<[i16]>, String> {
        let settings =
            ClipSettings { path: path.to_owned(), max: Size::new(4096, 2304), rate, repeat: false };
        let mut clip = Clip::open(settings).map_err(|error| error.to_string())?;
        if !clip.has_audio() {
            return Err(format!("{} has no sound", path.display()));
        }
        // No buffer: its pictures are not wanted here.
        let no_pictures = FramePool::new(0);
        let longest = LONGEST.as_secs() as usize * rate as usize;
        let mut samples = Vec::new();
        while samples.len() < longest {
            match clip.next(&no_pictures).map_err(|error| error.to_string())? {
                Some(ClipItem::Sound(block)) => samples.extend_from_slice(&block.samples),
                Some(ClipItem::Picture(_)) => {}
                None => break,
            }
        }
        Ok(samples.into())
    }
}
