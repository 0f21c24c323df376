//! Driver. A camera at the box (V4L2) or its screen (X11), read by the program `ffmpeg` as a process of its own: raw
//! pictures in a NUT stream over a pipe.
//!
//! FFmpeg's own library of devices would load some forty libraries of sound and windows into the appliance, and a
//! driver that hangs would hang with it. A process can be ended.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::fs::{OFlags, fcntl_setfl};

use crate::media::frame::Size;
use crate::source::speech::end;

/// Pictures a second: whoever looks now and then needs no more.
const FPS: u32 = 10;
/// Of the program's complaints, the last are told.
const COMPLAINT_MAX: usize = 200;

/// What is grabbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grabbed {
    Camera,
    Screen,
    /// A picture FFmpeg makes itself, for tests.
    Made,
}

impl Grabbed {
    /// FFmpeg's name of the device's kind.
    fn format(self) -> &'static str {
        match self {
            Grabbed::Camera => "v4l2",
            Grabbed::Screen => "x11grab",
            Grabbed::Made => "lavfi",
        }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub grabbed: Grabbed,
    /// `/dev/video0`, `:0.0`.
    pub name: String,
    /// The program, `ffmpeg`.
    pub program: PathBuf,
}

/// The running program. Dropped, it ends.
pub struct Grabber {
    child: Child,
    pipe: ChildStdout,
}

impl Grabber {
    /// Starts the program; larger pictures than `max` are made smaller.
    ///
    /// # Errors
    /// Says why it cannot be.
    pub fn start(device: &Device, max: Size) -> Result<Grabber, String> {
        if device.grabbed == Grabbed::Camera {
            fs::metadata(&device.name).map_err(|error| format!("{}: {error}", device.name))?;
        }
        let fits = format!("fps={FPS},scale=w='min(iw,{})':h='min(ih,{})'", max.width, max.height)
            + ":force_original_aspect_ratio=decrease:force_divisible_by=2";
        let mut child = Command::new(&device.program)
            .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-f", device.grabbed.format()])
            .args(["-i", &device.name, "-an", "-vf", &fits])
            .args(["-c:v", "rawvideo", "-pix_fmt", "yuv420p", "-f", "nut", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                format!("{} cannot be run: {error}; install ffmpeg", device.program.display())
            })?;
        match child.stdout.take() {
            Some(pipe) => {
                // Whoever reads can be told to stop while nothing comes.
                fcntl_setfl(&pipe, OFlags::NONBLOCK).map_err(|error| error.to_string())?;
                Ok(Grabber { child, pipe })
            }
            None => Err("its output is not a pipe".to_owned()),
        }
    }

    /// Where the pictures are read, as FFmpeg's libraries write it; good as long as this lives.
    pub fn url(&self) -> PathBuf {
        format!("pipe:{}", self.pipe.as_raw_fd()).into()
    }

    /// Ends the program; what it complained of last, where it did.
    pub fn complaint(mut self) -> Option<String> {
        end(&mut self.child);
        let mut said = Vec::new();
        self.child.stderr.take()?.take(16 << 10).read_to_end(&mut said).ok()?;
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(last.chars().filter(|letter| !letter.is_control()).take(COMPLAINT_MAX).collect())
    }
}

impl Drop for Grabber {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
