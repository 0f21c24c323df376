//! Driver (runs `espeak-ng`, reads files). Prepares what an agent says before or while its call starts.
//!
//! Speech for the same text is made once per process and rate; the mixer plays it, block by block.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::source::{clip, speech};

/// Texts remembered; greetings are few.
const REMEMBERED: usize = 64;

/// A cache of spoken texts, shared by all calls.
#[derive(Clone, Default)]
pub struct Speaker {
    spoken: Arc<Mutex<HashMap<(String, u32), Arc<[i16]>>>>,
}

impl Speaker {
    /// The text as sound at `rate`; a tone when nothing on the box speaks.
    pub fn say(&self, text: &str, rate: u32) -> Arc<[i16]> {
        let key = (text.to_owned(), rate);
        if let Some(known) = self.spoken.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let samples: Arc<[i16]> = speech::speak(text, rate).into();
        let mut spoken = self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        if spoken.len() >= REMEMBERED {
            spoken.clear();
        }
        spoken.insert(key, samples.clone());
        samples
    }

    /// The sound of a file at `rate`, at most ten minutes of it.
    pub fn sound_of(path: &Path, rate: u32) -> Result<Arc<[i16]>, String> {
        clip::sound(path, rate).map(Into::into).map_err(|error| error.to_string())
    }
}
