//! Driver. The voice on this box: espeak-ng as a process whose output is read as it is made.
//!
//! For when nothing else speaks: it needs no network. Announcements spoken before a call are `source::speech`'s.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::talk::message::{Endpoint, Failure};
use crate::talk::wire::pcm::Pcm;

/// Longest text.
const LETTERS_MAX: usize = 4_000;

/// A process speaking.
pub struct Espeak {
    child: Child,
    pipe: Receiver,
    piece: Vec<u8>,
    pcm: Pcm,
    timeout_ms: u64,
    over: bool,
}

impl Espeak {
    /// Starts it. `base_url` names another program, `voice` (else `language`) one of its voices, the option
    /// `words_per_minute` its pace.
    pub fn begin(endpoint: &Endpoint, text: &str, rate: u32) -> Result<Self, Failure> {
        let program = if endpoint.base_url.is_empty() { "espeak-ng" } else { &endpoint.base_url };
        let text: String = text.chars().take(LETTERS_MAX).collect();
        let voice = match (endpoint.voice.as_str(), endpoint.language.as_str()) {
            ("", "" | "auto") => "en",
            ("", language) => language,
            (voice, _) => voice,
        };
        let pace = endpoint.options.get("words_per_minute").and_then(Value::as_u64).unwrap_or(160);
        let unreached = |error: std::io::Error| {
            Failure::Unreached(format!("{program} cannot be run: {error}; install espeak-ng"))
        };
        let mut child = Command::new(program)
            .args(["--stdout", "-v", voice, "-s", &pace.to_string(), "--", &text])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(unreached)?;
        let stdout = child.stdout.take();
        let pipe = stdout.ok_or_else(|| std::io::Error::other("no pipe"));
        match pipe.and_then(|stdout| Receiver::from_owned_fd(stdout.into())) {
            Ok(pipe) => Ok(Espeak {
                child,
                pipe,
                piece: vec![0; 16 << 10],
                pcm: Pcm::new(22_050, rate),
                timeout_ms: endpoint.timeout_ms,
                over: false,
            }),
            Err(error) => {
                end(&mut child);
                Err(unreached(error))
            }
        }
    }

    /// The next samples; `None`: there are no more.
    pub async fn next(&mut self) -> Result<Option<Vec<i16>>, Failure> {
        let mut samples = Vec::new();
        while samples.is_empty() && !self.over {
            let limit = Duration::from_millis(self.timeout_ms);
            let read = tokio::time::timeout(limit, self.pipe.read(&mut self.piece)).await;
            match read.map_err(|_| Failure::TooSlow(self.timeout_ms))? {
                Ok(0) => {
                    self.over = true;
                    self.pcm.finish(&mut samples)?;
                }
                Ok(count) => self.pcm.push(self.piece.get(..count).unwrap_or_default(), &mut samples)?,
                Err(_) => return Err(Failure::Cut),
            }
        }
        Ok((!samples.is_empty()).then_some(samples))
    }
}

impl Drop for Espeak {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The process is gone when this returns, whatever state it was in. Killed, it is gone within a moment.
fn end(child: &mut Child) {
    // An error means it ended by itself, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::wav;
    use crate::talk::message::Vendor;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &tempfile::TempDir, body: &str) -> Endpoint {
        let path = dir.path().join("voice");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let base_url = path.display().to_string();
        Endpoint { base_url, timeout_ms: 300, ..Endpoint::new("x", Vendor::Espeak) }
    }

    async fn say(endpoint: &Endpoint, rate: u32) -> Result<Vec<i16>, Failure> {
        let mut speech = Espeak::begin(endpoint, "Hello there.", rate)?;
        let mut all = Vec::new();
        while let Some(samples) = speech.next().await? {
            all.extend(samples);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn words_are_spoken_where_the_program_is_installed() {
        match say(&Endpoint::new("x", Vendor::Espeak), 8_000).await {
            Ok(samples) => {
                assert!((4_000..40_000).contains(&samples.len()), "{}", samples.len());
                assert!(samples.iter().any(|sample| sample.abs() > 3_000));
            }
            Err(failure) => assert!(failure.to_string().contains("install espeak-ng"), "{failure}"),
        }
    }

    #[tokio::test]
    async fn a_programs_sound_comes_at_the_wanted_rate() {
        let dir = tempfile::tempdir().expect("a directory");
        let samples: Vec<i16> = (0..22_050).map(|n| (n % 50) as i16 * 100).collect();
        std::fs::write(dir.path().join("sound.wav"), wav::write(22_050, &samples)).expect("written");
        let endpoint = script(&dir, &format!("exec cat {}", dir.path().join("sound.wav").display()));
        let spoken = say(&endpoint, 8_000).await.expect("sound");
        assert!((7_900..8_400).contains(&spoken.len()), "{}", spoken.len());
    }

    #[tokio::test]
    async fn a_program_that_hangs_fails_other_output_is_garbled_and_a_missing_one_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(say(&script(&dir, "printf RIFF; exec sleep 60"), 8_000).await, Err(Failure::TooSlow(300)));
        assert!(matches!(
            say(&script(&dir, "echo RIFF and no sound at all"), 8_000).await,
            Err(Failure::Garbled(_))
        ));
        let missing =
            Endpoint { base_url: "/nonexistent/voice".to_owned(), ..Endpoint::new("x", Vendor::Espeak) };
        assert!(say(&missing, 8_000).await.is_err_and(|failure| failure.to_string().contains("install")));
    }
}
