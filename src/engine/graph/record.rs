//! Driver. Starts the recorder of a call and keeps the writing ends of its queues.
//!
//! One recorder runs as long as the call, whatever streams come and go. Sound missing from it is silence. A call that
//! begins without pictures begins a file without a track for them; the first picture of a later upgrade begins the
//! next file, `…-2.mp4`, with both. Pictures that end leave the last one standing; those that come back go on in the
//! same file, or in the next one when their size is another.

#![expect(clippy::disallowed_methods, reason = "a pause begins at once")]

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Running, Supplies};
use crate::base::queue::{self, Fifo, Gop, Latest, Sender};
use crate::base::stop::Outcome;
use crate::base::time::Pts;
use crate::engine::paint::FIRST_SLATE;
use crate::engine::plan::{
    GatedRecord, OpenRecord, Place, Plan, RecordAudio, Recording, VideoIn as VideoInPlan,
};
use crate::media::access_unit::AccessUnit;
use crate::media::audio::Pcm;
use crate::media::frame::CleanFrame;
use crate::record::recorder::{
    self, PictureInput, RecordVideo, RecorderInputs, RecorderReport, RecorderSettings, SoundLayout,
};
use crate::record::store::{RecordingName, Store};

const UNITS_RECORDED: usize = 120;
/// 5 s of sound.
const PCM_RECORDED: usize = 250;

/// The writing ends of the recorder's queues. The recorder ends when they and every copy of them are gone.
#[derive(Default)]
pub(super) struct Taps {
    pub caller: Option<Sender<Pcm, Fifo>>,
    pub agent: Option<Sender<Pcm, Fifo>>,
    pub units: Option<Sender<AccessUnit, Gop>>,
    pub pictures: Option<Sender<CleanFrame, Latest>>,
    /// Beside `units`: pictures that did not come as H.264, which is all a file holds.
    pub recoded: Option<Sender<CleanFrame, Latest>>,
    /// Of the shared screen, once there was one.
    pub slides: Option<Sender<CleanFrame, Latest>>,
}

impl Taps {
    /// The queues the plan wants, whether or not their streams are there yet.
    pub fn of(plan: &Plan) -> (Taps, RecorderInputs) {
        let (mut taps, mut inputs) = (Taps::default(), RecorderInputs::default());
        let Some(recording) = &plan.recording else { return (taps, inputs) };
        if recording.audio != RecordAudio::None {
            let (caller, heard) = queue::queue(Fifo { depth: PCM_RECORDED });
            let (agent, said) = queue::queue(Fifo { depth: PCM_RECORDED });
            (taps.caller, taps.agent) = (Some(caller), Some(agent));
            (inputs.caller, inputs.agent) = (Some(heard), Some(said));
        }
        match &plan.video_in {
            VideoInPlan::Open { record: OpenRecord::CopyUnits, .. } => {
                let (units, taken) = queue::queue(Gop::new(UNITS_RECORDED));
                let (recoded, pictures) = queue::queue(Latest);
                (taps.units, taps.recoded) = (Some(units), Some(recoded));
                inputs.pictures = Some(PictureInput::Either { units: taken, pictures });
            }
            VideoInPlan::Open { record: OpenRecord::Reencode, .. }
            | VideoInPlan::Gated { record: GatedRecord::Reencode, .. } => {
                let (pictures, taken) = queue::queue(Latest);
                taps.pictures = Some(pictures);
                inputs.pictures = Some(PictureInput::Pictures(taken));
            }
            VideoInPlan::Open { record: OpenRecord::Off, .. }
            | VideoInPlan::Gated { record: GatedRecord::Off, .. } => {}
        }
        (taps, inputs)
    }
}

fn records_pictures(video_in: &VideoInPlan) -> bool {
    match video_in {
        VideoInPlan::Open { record, .. } => *record != OpenRecord::Off,
        VideoInPlan::Gated { record, .. } => *record != GatedRecord::Off,
    }
}

impl Running {
    /// Pauses or resumes the recording. `false`: this call is not recorded, or was paused too often.
    pub(in crate::engine) fn pause_recording(&self, paused: bool) -> bool {
        if self.recording.is_none() {
            return false;
        }
        self.pictures.pause(paused);
        let now = Pts::at(self.epoch, Instant::now());
        if paused {
            return self.pauses.pause(now);
        }
        self.pauses.resume(now);
        if let Some(needed) = &self.key_needed {
            // What is copied goes on with a key picture only.
            needed.store(true, Ordering::Release);
        }
        true
    }

    /// Starts the recorder. A recording that cannot start never costs the call; it is reported.
    pub(super) fn record(&mut self, supplies: &Supplies, inputs: RecorderInputs) {
        let Some(recording) = self.plan.recording.clone() else { return };
        let settings = match self.recorder_settings(supplies, &recording, &inputs) {
            Ok(settings) => settings,
            Err(text) => {
                tracing::error!(call = %self.call, "not recorded: {text}");
                let report = RecorderReport { error: Some(text), ..RecorderReport::default() };
                *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
                return;
            }
        };
        self.recording = Some(settings.path.clone());
        self.recorder_thread(settings, inputs, self.recorded.clone());
    }

    fn recorder_thread(
        &mut self,
        settings: RecorderSettings,
        inputs: RecorderInputs,
        slot: Arc<Mutex<Option<RecorderReport>>>,
    ) {
        let call = self.call;
        self.scope.thread("recorder", move || {
            let report = recorder::run(settings, inputs);
            // Now, not when the call is over: somebody may still make room.
            if let Some(error) = &report.error {
                tracing::error!(%call, "the recording has ended before its call: {error}");
            }
            let outcome = report.error.clone().map_or(Outcome::Done, Outcome::Failed);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
            outcome
        });
    }

    /// Where cleared pictures of a shared screen are recorded: `…-slides.mp4` beside the call's file, from the first
    /// picture on. `None`: pictures of this call are not recorded.
    pub(super) fn slides_recorder(&mut self, supplies: &Supplies) -> Option<Sender<CleanFrame, Latest>> {
        if self.taps.slides.is_some() {
            return self.taps.slides.clone();
        }
        let recording = self.plan.recording.clone()?;
        // Only where the camera's picture is recorded too: the gate in front of both is the same.
        let own = self.recording.clone().filter(|_| records_pictures(&self.plan.video_in))?;
        let encoder = match (supplies.settings.choose_encoder)(&recording.encoder, false) {
            Ok(encoder) => encoder,
            Err(text) => {
                self.gauges.fault(format!("slides are not recorded: {text}"));
                return None;
            }
        };
        let (pictures, taken) = queue::queue(Latest);
        let stem = own.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let settings = RecorderSettings {
            path: own.with_file_name(format!("{stem}-slides.mp4")),
            epoch: self.epoch,
            origin: Pts::from_nanos(i64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(0)),
            video: Some(RecordVideo {
                size: FIRST_SLATE,
                fps: self.plan.video_out.fps,
                kbps: recording.kbps,
                encoder,
                expected: false,
            }),
            audio: None,
            pauses: self.pauses.clone(),
        };
        let inputs = RecorderInputs { pictures: Some(PictureInput::Pictures(taken)), ..Default::default() };
        self.recorder_thread(settings, inputs, self.slides_recorded.clone());
        self.taps.slides = Some(pictures.clone());
        Some(pictures)
    }

    fn recorder_settings(
        &self,
        supplies: &Supplies,
        recording: &Recording,
        inputs: &RecorderInputs,
    ) -> Result<RecorderSettings, String> {
        let encoder = (supplies.settings.choose_encoder)(&recording.encoder, false)?;
        let audio = match recording.audio {
            RecordAudio::Stereo => Some(SoundLayout::Stereo),
            RecordAudio::Mixed => Some(SoundLayout::Mixed),
            RecordAudio::None => None,
        };
        Ok(RecorderSettings {
            path: self.place(supplies, recording)?,
            epoch: self.epoch,
            origin: Pts::ZERO,
            video: inputs.pictures.as_ref().map(|_| RecordVideo {
                size: FIRST_SLATE,
                fps: self.plan.video_out.fps,
                kbps: recording.kbps,
                encoder,
                expected: self.streams.video.is_some(),
            }),
            audio: audio.map(|layout| recorder::RecordAudio { rate: self.recorded_rate(), layout }),
            pauses: self.pauses.clone(),
        })
    }

    /// The track has the rate of the sound that the call begins with; what comes at another rate later is converted.
    fn recorded_rate(&self) -> u32 {
        self.streams.audio.as_ref().map_or(16_000, |audio| audio.codec.sample_rate())
    }

    fn place(&self, supplies: &Supplies, recording: &Recording) -> Result<PathBuf, String> {
        match &recording.place {
            Place::Exact(path) => {
                let folder = path.parent().unwrap_or(path);
                std::fs::create_dir_all(folder)
                    .map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
                Ok(path.clone())
            }
            Place::Dated(root) => {
                let store = Store::new(root, recording.min_free_bytes);
                let date = time::OffsetDateTime::from(supplies.settings.clock.wall(self.epoch)).date();
                let label = &self.plan.label;
                let name = RecordingName {
                    call: label.call.clone(),
                    from: label.from.clone(),
                    to: label.to.clone(),
                };
                store.reserve(date, &name).map_err(|error| error.to_string())
            }
        }
    }
}
