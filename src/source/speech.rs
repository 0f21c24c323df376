//! Driver. Words to sound through `espeak-ng`, run as a process with a deadline; a chime where it is missing.
//!
//! Cloud and local neural voices do not belong here (`talk/`).

#![expect(clippy::disallowed_methods, reason = "a process is given a deadline by the clock")]

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::codec::resample::Resampler;
use crate::codec::wav;
use crate::source::tone;

/// More text than this is cut: an announcement, not a book.
const TEXT_MAX: usize = 4_000;
/// Sound beyond this is a fault of the program (2 minutes at 22.05 kHz).
const SOUND_MAX: usize = 6 << 20;

/// How to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeechSettings {
    pub program: PathBuf,
    /// A voice of `espeak-ng --voices`, "en" or "de".
    pub voice: String,
    pub words_per_minute: u32,
    /// Hz of the samples wanted.
    pub rate: u32,
    pub deadline: Duration,
}

impl SpeechSettings {
    pub fn new(rate: u32) -> Self {
        SpeechSettings {
            program: PathBuf::from("espeak-ng"),
            voice: "en".to_owned(),
            words_per_minute: 160,
            rate,
            deadline: Duration::from_secs(5),
        }
    }
}

/// Why there are no words.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    #[error("{program} cannot be run: {error}; install espeak-ng", program = .program.display())]
    Absent { program: PathBuf, error: std::io::Error },
    #[error("{program} took longer than {deadline:?}", program = .program.display())]
    Late { program: PathBuf, deadline: Duration },
    #[error("{program} gave no sound: {why}", program = .program.display())]
    Unusable { program: PathBuf, why: String },
}

/// The words as mono samples, or the chime when they cannot be spoken; the reason is logged.
pub fn say_or_chime(text: &str, settings: &SpeechSettings) -> Vec<i16> {
    say(text, settings).unwrap_or_else(|error| {
        tracing::warn!("a chime is heard instead of words: {error}");
        tone::chime(settings.rate)
    })
}

/// The words as mono samples at the wanted rate.
pub fn say(text: &str, settings: &SpeechSettings) -> Result<Vec<i16>, SpeechError> {
    let text: String = text.chars().take(TEXT_MAX).collect();
    let mut child = Command::new(&settings.program)
        .args(["--stdout", "-v", &settings.voice, "-s", &settings.words_per_minute.to_string(), "--", &text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| SpeechError::Absent { program: settings.program.clone(), error })?;
    let read = child.stdout.take().map(|stdout| read_until(stdout, Instant::now() + settings.deadline));
    end(&mut child);
    let unusable = |why: String| SpeechError::Unusable { program: settings.program.clone(), why };
    match read {
        Some(Ok(Some(wav))) => {
            let (rate, samples) = wav::read(&wav).map_err(|why| unusable(why.to_owned()))?;
            convert(rate, &samples, settings.rate).map_err(unusable)
        }
        Some(Ok(None)) => {
            let (program, deadline) = (settings.program.clone(), settings.deadline);
            Err(SpeechError::Late { program, deadline })
        }
        Some(Err(error)) => Err(unusable(error.to_string())),
        None => Err(unusable("its output is not a pipe".to_owned())),
    }
}

/// Everything up to the end of the pipe. `None`: the deadline came first.
fn read_until(mut pipe: ChildStdout, deadline: Instant) -> std::io::Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    let mut piece = vec![0; 32 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let patience =
            Timespec { tv_sec: left.as_secs().min(3_600) as _, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let count = pipe.read(&mut piece)?;
        all.extend_from_slice(piece.get(..count).unwrap_or_default());
        if count == 0 || all.len() > SOUND_MAX {
            return Ok(Some(all));
        }
    }
}

/// The process is gone when this returns, whatever state it was in.
/// Ends a process and takes its leave.
pub(super) fn end(child: &mut Child) {
    // An error means it ended by itself, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn convert(from: u32, samples: &[i16], to: u32) -> Result<Vec<i16>, String> {
    let mut resampler = Resampler::new(from, to).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    // The converter holds back its delay; as much silence pushes the end out.
    let tail = vec![0; from as usize / 20];
    for part in [samples, &tail] {
        resampler.process(part, &mut out).map_err(|error| error.to_string())?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_missing_program_is_a_chime_at_the_calls_rate() {
        let settings =
            SpeechSettings { program: "/nonexistent/espeak-ng".into(), ..SpeechSettings::new(16_000) };
        assert!(say("hello", &settings).is_err_and(|error| error.to_string().contains("install espeak-ng")));
        assert_eq!(say_or_chime("hello", &settings), tone::chime(16_000));
    }

    fn script(dir: &tempfile::TempDir, body: &str) -> PathBuf {
        let path = dir.path().join("voice");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        path
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_its_deadline() {
        let dir = tempfile::tempdir().expect("a directory");
        let program = script(&dir, "printf RIFF; exec sleep 60");
        let deadline = Duration::from_millis(200);
        let settings = SpeechSettings { program, deadline, ..SpeechSettings::new(8_000) };
        assert!(matches!(say("hello", &settings), Err(SpeechError::Late { .. })));
    }

    #[test]
    fn a_programs_sound_comes_at_the_wanted_rate() {
        let dir = tempfile::tempdir().expect("a directory");
        let samples = tone::sine(22_050, 440.0, 1_000, 0.5);
        std::fs::write(dir.path().join("sound.wav"), wav::write(22_050, &samples)).expect("written");
        let program = script(&dir, &format!("exec cat {}", dir.path().join("sound.wav").display()));
        let spoken = say("hello", &SpeechSettings { program, ..SpeechSettings::new(8_000) }).expect("sound");
        assert!((8_000..8_800).contains(&spoken.len()), "{}", spoken.len());
        assert!(tone::share(&spoken[1_000..7_000], 8_000, 440.0) > 0.9);
    }

    #[test]
    fn words_are_spoken_where_the_program_is_installed() {
        match say("Good morning. This call is recorded.", &SpeechSettings::new(8_000)) {
            Ok(samples) => {
                assert!((8_000..64_000).contains(&samples.len()), "{}", samples.len());
                assert!(samples.iter().any(|s| s.abs() > 3_000));
            }
            Err(error) => assert!(matches!(error, SpeechError::Absent { .. }), "{error}"),
        }
    }
}
