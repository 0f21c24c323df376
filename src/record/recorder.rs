//! Driver. The body of a call's recorder thread: takes what the call offers, ends when its queues close.
//!
//! A disk that fails ends the recording with a reason in the report, never the call. Sound that is missing becomes
//! silence; pictures that are missing leave the last one standing.

#![expect(clippy::disallowed_methods, reason = "the thread knows by the clock how long it waited")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::queue::{Fifo, Gop, Latest, Receiver, Taken};
use crate::base::time::Pts;
use crate::codec::aac::{AacEncoder, AacPacket, PACKET_SAMPLES};
use crate::codec::h264::encoder::{EncoderKind, EncoderSettings, open};
use crate::codec::resample::Resampler;
use crate::media::access_unit::AccessUnit;
use crate::media::audio::Pcm;
use crate::media::codec::{CodecError, VideoEncoder};
use crate::media::filter::{BlackSlate, Slate};
use crate::media::frame::{CleanFrame, Size};
use crate::media::pool::FramePool;
use crate::record::mux::{MuxError, PictureTrack, SoundTrack};
use crate::record::part::{LAST_PICTURE_NANOS, Packet, Parts, Unit, track_of};
use crate::record::pauses::Pauses;
use crate::record::timeline::{Interleave, Next, PictureTimeline, Side, SoundTimeline};

/// The thread looks at its queues at least this often.
const PATIENCE: Duration = Duration::from_millis(20);
/// A file begins without its first picture after this long; the track is declared and starts later.
const FIRST_PICTURE_NANOS: i64 = 1_000_000_000;
/// At most a second between two fragments and this between two syncs keeps a power cut's loss under two seconds.
const SYNC_EVERY: Duration = Duration::from_millis(900);
/// Of one block of sound.
const BLOCK: Duration = Duration::from_millis(20);
/// Seekable every two seconds.
const KEY_INTERVAL_S: u32 = 2;

/// The picture track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordVideo {
    /// What is expected; the first picture decides, a later change begins the next file.
    pub size: Size,
    pub fps: u32,
    pub kbps: u32,
    pub encoder: EncoderKind,
    /// The first file waits a moment for its first picture. `false`: it begins without a picture track; pictures
    /// that come later begin the next file.
    pub expected: bool,
}

/// How two voices share the sound track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundLayout {
    /// Caller left, agent right.
    Stereo,
    /// Both in one channel.
    Mixed,
}

/// The sound track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordAudio {
    /// Hz of the track: 8000, 16000 or 48000. Blocks at other rates are converted.
    pub rate: u32,
    pub layout: SoundLayout,
}

/// What to record and where.
#[derive(Clone, Debug)]
pub struct RecorderSettings {
    /// The file; it may exist empty (reserved by [`crate::record::store`]), never with content.
    pub path: PathBuf,
    /// The instant that is zero on the call's media clock.
    pub epoch: Instant,
    /// What becomes time zero of the file, normally the moment the recording starts.
    pub origin: Pts,
    pub video: Option<RecordVideo>,
    pub audio: Option<RecordAudio>,
    /// When nothing is to be kept.
    pub pauses: Pauses,
}

/// Where pictures come from.
pub enum PictureInput {
    /// Cleared pictures, encoded here.
    Pictures(Receiver<CleanFrame, Latest>),
    /// Access units of H.264 that need no clearing, copied.
    Units(Receiver<AccessUnit, Gop>),
    /// Both, of a peer that may change its codec: at any time one of them comes.
    Either { units: Receiver<AccessUnit, Gop>, pictures: Receiver<CleanFrame, Latest> },
}

/// The recorder's queues. It ends when all of them have closed.
#[derive(Default)]
pub struct RecorderInputs {
    pub pictures: Option<PictureInput>,
    pub caller: Option<Receiver<Pcm, Fifo>>,
    pub agent: Option<Receiver<Pcm, Fifo>>,
}

/// What became of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecorderReport {
    /// The files in order; none when nothing ever came.
    pub paths: Vec<PathBuf>,
    /// From the origin to the end of the last picture or sound.
    pub duration: Duration,
    pub bytes: u64,
    /// Pictures written.
    pub pictures: u64,
    /// Blocks of sound taken, both sides together.
    pub audio_blocks: u64,
    /// Pictures more than a second apart.
    pub picture_gaps: u64,
    /// Holes in a side's sound that became silence.
    pub audio_gaps: u64,
    /// Blocks that came too late to be written.
    pub late_blocks: u64,
    /// What the queues threw away before it could be recorded.
    pub lost_pictures: u64,
    pub lost_blocks: u64,
    /// How long it was paused: nothing of that time is in it.
    pub paused: Duration,
    /// Why the recording ended before the call.
    pub error: Option<String>,
}

/// Records until every queue has closed and is drained, or until the disk or a codec gives up.
pub fn run(settings: RecorderSettings, inputs: RecorderInputs) -> RecorderReport {
    let mut recorder = match Recorder::new(settings) {
        Ok(recorder) => recorder,
        Err(error) => return RecorderReport { error: Some(error.to_string()), ..Default::default() },
    };
    let result = recorder.record(&inputs);
    recorder.report(&inputs, result.err())
}

#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error(transparent)]
    File(#[from] MuxError),
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One side's way to the timeline.
struct Voice {
    side: Side,
    resampler: Option<Resampler>,
    converted: Vec<i16>,
}

struct SoundFeed {
    settings: RecordAudio,
    timeline: SoundTimeline,
    voices: [Voice; 2],
    encoder: AacEncoder,
    samples: Vec<i16>,
    packets: Vec<AacPacket>,
    blocks: u64,
}

struct PictureFeed {
    settings: RecordVideo,
    encoder: Option<Box<dyn VideoEncoder>>,
    timeline: PictureTimeline,
    /// A key picture has been seen: what follows can be decoded.
    begun: bool,
}

struct Recorder {
    epoch: Instant,
    origin: Pts,
    pictures: Option<PictureFeed>,
    sound: Option<SoundFeed>,
    order: Interleave<Unit, Packet>,
    parts: Parts,
    pauses: Pauses,
    synced: Instant,
    sound_is_over: bool,
    ends: i64,
    written: u64,
}

impl Recorder {
    fn new(settings: RecorderSettings) -> Result<Self, RecordError> {
        let origin = settings.origin;
        let pictures = settings.video.map(|settings| PictureFeed {
            settings,
            encoder: None,
            timeline: PictureTimeline::new(origin),
            begun: false,
        });
        let sound = settings.audio.map(|settings| SoundFeed::new(settings, origin)).transpose()?;
        Ok(Recorder {
            epoch: settings.epoch,
            origin,
            order: Interleave::new(pictures.is_some(), sound.is_some()),
            pictures,
            sound,
            parts: Parts::new(settings.path),
            pauses: settings.pauses,
            synced: Instant::now(),
            sound_is_over: false,
            ends: 0,
            written: 0,
        })
    }

    fn now(&self) -> Pts {
        Pts::at(self.epoch, Instant::now())
    }

    fn record(&mut self, inputs: &RecorderInputs) -> Result<(), RecordError> {
        loop {
            let pictures = self.take_picture(inputs)?;
            let sounds = self.take_sound(inputs, pictures)?;
            let open = sounds || pictures;
            if !pictures {
                self.order.pictures_are_over();
            }
            let now = self.now();
            if sounds {
                self.advance_sound(now)?;
            } else {
                // The last pictures of a call may take a while to come; there is no silence to record meanwhile.
                self.finish_sound()?;
            }
            self.write(now, !open)?;
            if !open {
                return Ok(());
            }
            self.parts.tick(now)?;
            if self.synced.elapsed() >= SYNC_EVERY {
                self.parts.sync()?;
                self.synced = Instant::now();
            }
        }
    }

    fn advance_sound(&mut self, now: Pts) -> Result<(), RecordError> {
        if let Some(sound) = &mut self.sound {
            sound.advance(now, &mut self.order)?;
        }
        Ok(())
    }

    fn finish_sound(&mut self) -> Result<(), RecordError> {
        if !std::mem::replace(&mut self.sound_is_over, true)
            && let Some(sound) = &mut self.sound
        {
            sound.finish(&mut self.order)?;
            self.order.sound_is_over();
        }
        Ok(())
    }

    /// Waits a little for a picture, or for the caller when there are none. `false`: the queue is closed.
    fn take_picture(&mut self, inputs: &RecorderInputs) -> Result<bool, RecordError> {
        match &inputs.pictures {
            None => Ok(false),
            Some(PictureInput::Pictures(queue)) => {
                let taken = queue.take_within(PATIENCE);
                let open = !matches!(taken, Taken::Closed);
                self.picture(taken)?;
                Ok(open)
            }
            Some(PictureInput::Units(queue)) => {
                let taken = queue.take_within(PATIENCE);
                let open = !matches!(taken, Taken::Closed);
                self.unit(taken);
                Ok(open)
            }
            Some(PictureInput::Either { units, pictures }) => {
                let unit = units.take_within(PATIENCE);
                let over = matches!(unit, Taken::Closed);
                let picture = pictures.take_within(if over { PATIENCE } else { Duration::ZERO });
                let closed = over && matches!(picture, Taken::Closed);
                self.unit(unit);
                self.picture(picture)?;
                Ok(!closed)
            }
        }
    }

    fn picture(&mut self, taken: Taken<CleanFrame>) -> Result<(), RecordError> {
        let Taken::Item(picture) = taken else { return Ok(()) };
        let paused = self.is_paused(picture.pts());
        let Some(feed) = &mut self.pictures else { return Ok(()) };
        if paused {
            feed.begun = false;
        } else {
            feed.encode(&picture)?.into_iter().for_each(|unit| self.order.picture(unit));
        }
        Ok(())
    }

    fn unit(&mut self, taken: Taken<AccessUnit>) {
        let Taken::Item(unit) = taken else { return };
        let paused = self.is_paused(unit.pts);
        let Some(feed) = &mut self.pictures else { return };
        if paused {
            // What follows the pause may not build on what was left out.
            feed.begun = false;
        } else {
            feed.copy(unit).into_iter().for_each(|unit| self.order.picture(unit));
        }
    }

    fn is_paused(&self, at: Pts) -> bool {
        self.pauses.cover(at, Duration::ZERO, self.now())
    }

    /// Takes all blocks there are; unless it has `waited` for a picture, it waits a little at the first queue that is
    /// still open. `false`: both queues are closed.
    fn take_sound(&mut self, inputs: &RecorderInputs, waited: bool) -> Result<bool, RecordError> {
        let mut open = false;
        let mut patience = if waited { Duration::ZERO } else { PATIENCE };
        for (side, queue) in [(Side::Caller, &inputs.caller), (Side::Agent, &inputs.agent)] {
            let Some(queue) = queue else { continue };
            loop {
                match queue.take_within(patience) {
                    Taken::Item(block) => {
                        patience = Duration::ZERO;
                        let paused = self.pauses.cover(block.pts, BLOCK, self.now());
                        if let Some(sound) = self.sound.as_mut().filter(|_| !paused) {
                            sound.take(side, &block)?;
                        }
                    }
                    Taken::Empty => {
                        patience = Duration::ZERO;
                        open = true;
                        break;
                    }
                    Taken::Closed => break,
                }
            }
        }
        Ok(open)
    }

    /// Moves what is in order into the files.
    fn write(&mut self, now: Pts, last: bool) -> Result<(), RecordError> {
        if !self.parts.begun() && !self.begin(now, last)? {
            return Ok(());
        }
        while let Some(next) = self.order.take(now - self.origin) {
            match next {
                Next::Picture(unit) => {
                    self.ends = self.ends.max(unit.time + LAST_PICTURE_NANOS);
                    self.written += 1;
                    self.parts.picture(unit, now)?;
                }
                Next::Sound(packet) => {
                    self.ends =
                        self.ends.max(packet.time + self.sound.as_ref().map_or(0, SoundFeed::packet_nanos));
                    self.parts.sound(&packet, now)?;
                }
            }
        }
        if last {
            self.parts.end_part()?;
        }
        Ok(())
    }

    /// Begins the file once its tracks are known. `false`: not yet.
    fn begin(&mut self, now: Pts, last: bool) -> Result<bool, RecordError> {
        if last && self.order.first_picture().is_none() && !self.order.has_sound() {
            return Ok(false);
        }
        let first = self.order.first_picture().and_then(|unit| unit.track.clone());
        let track = match (&mut self.pictures, first) {
            (_, Some(track)) => Some(track),
            (None, None) => None,
            (Some(feed), None) if !feed.settings.expected => None,
            (Some(_), None) if !last && now - self.origin < FIRST_PICTURE_NANOS => return Ok(false),
            (Some(feed), None) => feed.declared(),
        };
        if track.is_none() && !self.order.has_sound() {
            return Ok(false);
        }
        self.parts.begin(track, self.sound.as_ref().map(SoundFeed::track))?;
        Ok(true)
    }

    fn report(mut self, inputs: &RecorderInputs, error: Option<RecordError>) -> RecorderReport {
        let mut error = error.map(|error| error.to_string());
        if error.is_some() {
            // What was cut is whole; ending the file properly is a courtesy that may fail for the same reason.
            let _ = self.parts.end_part();
        } else if let Err(late) = self.parts.sync() {
            error = Some(late.to_string());
        }
        let gaps = self.sound.as_ref().map(|sound| sound.timeline.gaps()).unwrap_or_default();
        let lost = |queue: &Option<Receiver<Pcm, Fifo>>| queue.as_ref().map_or(0, |q| q.counters().lost);
        RecorderReport {
            paths: self.parts.paths(),
            duration: Duration::from_nanos(u64::try_from(self.ends).unwrap_or(0)),
            bytes: self.parts.bytes(),
            pictures: self.written,
            audio_blocks: self.sound.as_ref().map_or(0, |sound| sound.blocks),
            picture_gaps: self.pictures.as_ref().map_or(0, |pictures| pictures.timeline.gaps()),
            audio_gaps: gaps.gaps,
            late_blocks: gaps.late,
            lost_pictures: match &inputs.pictures {
                None => 0,
                Some(PictureInput::Pictures(queue)) => queue.counters().lost,
                Some(PictureInput::Units(queue)) => queue.counters().lost,
                Some(PictureInput::Either { units, pictures }) => {
                    units.counters().lost + pictures.counters().lost
                }
            },
            lost_blocks: lost(&inputs.caller) + lost(&inputs.agent),
            paused: self.pauses.length(Pts::at(self.epoch, Instant::now())),
            error,
        }
    }
}

/// What speech on two channels needs.
fn sound_kbps(rate: u32) -> u32 {
    match rate {
        0..=8_000 => 48,
        8_001..=16_000 => 64,
        16_001.. => 96,
    }
}

impl PictureFeed {
    fn opened(&self, size: Size) -> Result<Box<dyn VideoEncoder>, CodecError> {
        let settings = &self.settings;
        let base = EncoderSettings::new(size, settings.fps, settings.kbps);
        open(settings.encoder, &EncoderSettings { key_interval_s: KEY_INTERVAL_S, ..base })
    }

    fn encode(&mut self, picture: &CleanFrame) -> Result<Option<Unit>, CodecError> {
        let size = picture.size();
        let mut encoder = match self.encoder.take() {
            Some(encoder) if encoder.size() == size => encoder,
            _ => {
                self.begun = false;
                self.opened(size)?
            }
        };
        let coded = encoder.encode(picture, !self.begun)?;
        self.encoder = Some(encoder);
        Ok(coded.and_then(|unit| self.place(unit, Some(size))))
    }

    fn copy(&mut self, unit: AccessUnit) -> Option<Unit> {
        // Whatever is encoded later cannot build on what was encoded before.
        self.encoder = None;
        self.place(unit, None)
    }

    fn place(&mut self, unit: AccessUnit, size: Option<Size>) -> Option<Unit> {
        self.begun |= unit.key;
        if !self.begun {
            return None;
        }
        let track = if unit.key { track_of(&unit.data, size) } else { None };
        let time = self.timeline.place(unit.pts);
        Some(Unit { data: unit.data, time, key: unit.key, track })
    }

    /// The track of a file that begins before its first picture: what the encoder will declare, as far as one can
    /// know. The first real picture begins another file if it says otherwise.
    fn declared(&mut self) -> Option<PictureTrack> {
        let mut encoder = self.opened(self.settings.size).ok()?;
        let pool = FramePool::new(1);
        let mut black = pool.take_sized(self.settings.size, Pts::ZERO)?;
        BlackSlate.paint(&mut black);
        let unit = encoder.encode(&CleanFrame::drawn_here(black), true).ok().flatten()?;
        track_of(&unit.data, Some(self.settings.size))
    }
}

impl SoundFeed {
    fn new(settings: RecordAudio, origin: Pts) -> Result<Self, CodecError> {
        let channels = match settings.layout {
            SoundLayout::Stereo => 2,
            SoundLayout::Mixed => 1,
        };
        let encoder = AacEncoder::new(settings.rate, channels, sound_kbps(settings.rate))?;
        let voice = |side| Voice { side, resampler: None, converted: Vec::new() };
        Ok(SoundFeed {
            timeline: SoundTimeline::new(settings.rate, origin),
            voices: [voice(Side::Caller), voice(Side::Agent)],
            settings,
            encoder,
            samples: Vec::new(),
            packets: Vec::new(),
            blocks: 0,
        })
    }

    fn track(&self) -> SoundTrack {
        SoundTrack {
            rate: self.settings.rate,
            channels: self.encoder.channels(),
            configuration: self.encoder.configuration().to_vec(),
        }
    }

    fn packet_nanos(&self) -> i64 {
        PACKET_SAMPLES as i64 * 1_000_000_000 / i64::from(self.settings.rate)
    }

    fn take(&mut self, side: Side, block: &Pcm) -> Result<(), CodecError> {
        self.blocks += 1;
        if block.rate == self.settings.rate {
            self.timeline.add(side, block.pts, &block.samples);
            return Ok(());
        }
        let to = self.settings.rate;
        let voice = &mut self.voices[side as usize];
        let resampler = match voice.resampler.take() {
            Some(resampler) if resampler.from() == block.rate => resampler,
            _ => Resampler::new(block.rate, to)?,
        };
        let resampler = voice.resampler.insert(resampler);
        voice.converted.clear();
        resampler.process(&block.samples, &mut voice.converted)?;
        let delay = resampler.delay() as u64 * 1_000_000_000 / u64::from(to);
        let pts = block.pts - Duration::from_nanos(delay);
        self.timeline.add(voice.side, pts, &voice.converted);
        Ok(())
    }

    fn advance(&mut self, now: Pts, order: &mut Interleave<Unit, Packet>) -> Result<(), CodecError> {
        self.samples.clear();
        self.timeline.take(now, &mut self.samples);
        self.code(order)?;
        // The coder still holds what does not fill a packet.
        let held = PACKET_SAMPLES as i64 * 2 * 1_000_000_000 / i64::from(self.settings.rate);
        order.sound_is_complete_until(self.timeline.given_until() - held);
        Ok(())
    }

    fn finish(&mut self, order: &mut Interleave<Unit, Packet>) -> Result<(), CodecError> {
        self.samples.clear();
        self.timeline.finish(&mut self.samples);
        self.code(order)?;
        if self.timeline.given_until() == 0 {
            return Ok(());
        }
        self.encoder.finish(&mut self.packets)?;
        self.hand_over(order);
        Ok(())
    }

    fn code(&mut self, order: &mut Interleave<Unit, Packet>) -> Result<(), CodecError> {
        if self.settings.layout == SoundLayout::Mixed {
            let mixed = self.samples.chunks_exact(2).map(|pair| pair[0].saturating_add(pair[1])).collect();
            self.samples = mixed;
        }
        self.encoder.encode(&self.samples, &mut self.packets)?;
        self.hand_over(order);
        Ok(())
    }

    fn hand_over(&mut self, order: &mut Interleave<Unit, Packet>) {
        let rate = i64::from(self.settings.rate);
        for packet in self.packets.drain(..) {
            // The run-up before the first sample is left out, so that the file's time is the recording's.
            if packet.pts >= 0 {
                order.sound(Packet { data: packet.data, time: packet.pts * 1_000_000_000 / rate });
            }
        }
    }
}
