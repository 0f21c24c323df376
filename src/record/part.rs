//! Driver. The files of one recording: which picture and which sound goes into which, and when they are cut.
//!
//! Tracks are fixed when a file begins. A picture with other parameter sets than the file declares begins the next
//! file, `…-2.mp4`; each file's times start at zero.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::base::time::Pts;
use crate::media::frame::Size;
use crate::media::{nal, sps};
use crate::record::mux::{Mux, MuxError, PictureTrack, SoundTrack};
use crate::record::timeline::{Fragments, Timed};

/// How long the last picture of a file is shown.
pub(super) const LAST_PICTURE_NANOS: i64 = 66_000_000;

/// One coded picture with its place in the recording.
pub(super) struct Unit {
    pub(super) data: Bytes,
    pub(super) time: i64,
    pub(super) key: bool,
    /// For key pictures: what they declare.
    pub(super) track: Option<PictureTrack>,
}

/// One AAC packet with its place in the recording.
pub(super) struct Packet {
    pub(super) data: Bytes,
    pub(super) time: i64,
}

impl Timed for Unit {
    fn time(&self) -> i64 {
        self.time
    }
}

impl Timed for Packet {
    fn time(&self) -> i64 {
        self.time
    }
}

struct Part {
    mux: Mux,
    sets: Option<Vec<u8>>,
    origin: i64,
    /// The last picture: how long it is shown is known when the next one comes.
    shown: Option<Unit>,
    fragments: Fragments,
}

/// All files of one recording.
pub(super) struct Parts {
    path: PathBuf,
    sound: Option<SoundTrack>,
    part: Option<Part>,
    paths: Vec<PathBuf>,
    bytes: u64,
    /// Something was cut since the last sync.
    unsynced: bool,
}

impl Parts {
    pub(super) fn new(path: PathBuf) -> Self {
        Parts { path, sound: None, part: None, paths: Vec::new(), bytes: 0, unsynced: false }
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.paths.clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.part.as_ref().map_or(0, |part| part.mux.bytes())
    }

    pub(super) fn begun(&self) -> bool {
        self.part.is_some()
    }

    /// Begins the first file at time zero.
    pub(super) fn begin(
        &mut self,
        picture: Option<PictureTrack>,
        sound: Option<SoundTrack>,
    ) -> Result<(), MuxError> {
        self.sound = sound;
        self.start(picture, 0)
    }

    fn start(&mut self, picture: Option<PictureTrack>, origin: i64) -> Result<(), MuxError> {
        let path = numbered(&self.path, self.paths.len() + 1);
        let mux = Mux::create(&path, picture.as_ref(), self.sound.as_ref())?;
        self.paths.push(path);
        let sets = picture.map(|track| track.sets);
        self.part = Some(Part { mux, sets, origin, shown: None, fragments: Fragments::default() });
        Ok(())
    }

    /// Adds a picture. What the file cannot hold begins the next one.
    pub(super) fn picture(&mut self, unit: Unit, now: Pts) -> Result<(), MuxError> {
        let Some(part) = &mut self.part else { return Ok(()) };
        if let Some(track) = unit.track.as_ref().filter(|track| part.sets.as_ref() != Some(&track.sets)) {
            let (track, time) = (track.clone(), unit.time);
            self.end_part()?;
            self.start(Some(track), time)?;
        }
        let Some(part) = &mut self.part else { return Ok(()) };
        part.show(Some(unit), now).map(|cut| self.unsynced |= cut)
    }

    pub(super) fn sound(&mut self, packet: &Packet, now: Pts) -> Result<(), MuxError> {
        let Some(part) = &mut self.part else { return Ok(()) };
        let time = packet.time - part.origin;
        if time < 0 {
            return Ok(());
        }
        if part.fragments.cut_before(time, now) {
            part.mux.cut()?;
            self.unsynced = true;
        }
        part.mux.sound(&packet.data, time)
    }

    /// Ends a fragment that has waited long enough for its successor.
    pub(super) fn tick(&mut self, now: Pts) -> Result<(), MuxError> {
        let Some(part) = &mut self.part else { return Ok(()) };
        if part.fragments.cut_now(now) {
            part.mux.cut()?;
            self.unsynced = true;
        }
        Ok(())
    }

    /// Brings what was cut onto the disk.
    pub(super) fn sync(&mut self) -> Result<(), MuxError> {
        if let (true, Some(part)) = (self.unsynced, &mut self.part) {
            part.mux.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    pub(super) fn end_part(&mut self) -> Result<(), MuxError> {
        let Some(mut part) = self.part.take() else { return Ok(()) };
        part.show(None, Pts::ZERO)?;
        self.bytes += part.mux.finish()?;
        Ok(())
    }
}

impl Part {
    /// Writes the picture before `next`, now that it is known how long it is shown. `true`: a fragment ended.
    fn show(&mut self, next: Option<Unit>, now: Pts) -> Result<bool, MuxError> {
        let mut cut = false;
        if let Some(unit) = self.shown.take() {
            let time = unit.time - self.origin;
            let lasts = next.as_ref().map_or(LAST_PICTURE_NANOS, |next| next.time - unit.time);
            cut = self.fragments.cut_before(time, now);
            if cut {
                self.mux.cut()?;
            }
            // The file declares the parameter sets; repeating them in the samples is not allowed (ISO 14496-15).
            let data = if unit.key { nal::slices(&unit.data) } else { &unit.data };
            self.mux.picture(data, time, lasts, unit.key)?;
        }
        self.shown = next;
        Ok(cut)
    }
}

/// `call.mp4`, `call-2.mp4`, `call-3.mp4`.
pub(super) fn numbered(path: &Path, number: usize) -> PathBuf {
    if number < 2 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number}.mp4"))
}

/// What a key picture declares; `size` where it is known already.
pub(super) fn track_of(data: &[u8], size: Option<Size>) -> Option<PictureTrack> {
    let sets = nal::parameter_sets(data)?;
    let size = size.or_else(|| sps::picture_size(&sets))?;
    Some(PictureTrack { size, sets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_parts_are_numbered_beside_the_first() {
        let path = Path::new("/r/abc_101_102.mp4");
        assert_eq!(numbered(path, 1), path);
        assert_eq!(numbered(path, 2), Path::new("/r/abc_101_102-2.mp4"));
    }
}
