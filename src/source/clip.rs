//! Driver. A media file as a source: pictures and 20 ms blocks of sound in file order, over and over.
//!
//! Times go on rising when the file starts again. Pacing and the gate belong to whoever plays it.

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::ptr;

use ffmpeg_next::ffi::{self, AVMediaType, AVSampleFormat};

use crate::base::time::Pts;
use crate::codec::convert::{Converted, Converter};
use crate::codec::ffmpeg::{self, CodecContext, Options, Packet, Picture, broken, check};
use crate::media::audio::{Pcm, block_samples};
use crate::media::codec::CodecError;
use crate::media::frame::{RawFrame, Size};
use crate::media::pool::FramePool;

/// What to make of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipSettings {
    pub path: PathBuf,
    /// Larger pictures are refused.
    pub max: Size,
    /// Hz of the sound wanted.
    pub rate: u32,
    /// Start again at the end.
    pub repeat: bool,
}

/// Why a file cannot be played.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path} cannot be played: {why}", path = .path.display())]
pub struct ClipError {
    pub path: PathBuf,
    pub why: CodecError,
}

/// The next thing in a file.
pub enum ClipItem {
    Picture(RawFrame),
    Sound(Pcm),
}

struct Track {
    index: c_int,
    time_base: ffi::AVRational,
    context: CodecContext,
}

impl Track {
    /// In nanoseconds since the start of the file.
    fn nanos(&self, time: i64) -> Option<i64> {
        const NANOS: ffi::AVRational = ffi::AVRational { num: 1, den: 1_000_000_000 };
        // SAFETY: plain arithmetic.
        (time != ffi::AV_NOPTS_VALUE).then(|| unsafe { ffi::av_rescale_q(time, self.time_base, NANOS) })
    }
}

/// A file being played.
pub struct Clip {
    settings: ClipSettings,
    input: ffmpeg_next::format::context::Input,
    video: Option<Track>,
    audio: Option<Track>,
    sound: Sound,
    converter: Converter,
    packet: Packet,
    picture: Picture,
    ready: std::collections::VecDeque<ClipItem>,
    /// Where the present round began, and where its last picture or sound ends, in nanoseconds.
    began: i64,
    ends: i64,
    /// Something came out of the present round: an empty file must not be repeated for ever.
    gave: bool,
    over: bool,
}

impl Clip {
    pub fn open(settings: ClipSettings) -> Result<Self, ClipError> {
        ffmpeg::init();
        let input = open_input(&settings.path);
        Clip::of(settings, input)
    }

    /// A stream of the network, by its URL as the path. Whatever blocks ends as soon as `interrupt` says so.
    pub fn open_stream(
        settings: ClipSettings,
        options: &[(&str, &str)],
        interrupt: impl FnMut() -> bool + Send + 'static,
    ) -> Result<Self, ClipError> {
        ffmpeg::init();
        let options = options.iter().copied().collect();
        let input =
            ffmpeg_next::format::input_with_interrupt_and_dictionary(&settings.path, interrupt, options)
                .map_err(|error| broken(error.to_string()));
        Clip::of(settings, input)
    }

    fn of(
        settings: ClipSettings,
        input: Result<ffmpeg_next::format::context::Input, CodecError>,
    ) -> Result<Self, ClipError> {
        let failed = |why| ClipError { path: settings.path.clone(), why };
        let mut input = input.map_err(failed)?;
        let video = track(&mut input, AVMediaType::AVMEDIA_TYPE_VIDEO).map_err(failed)?;
        let audio = track(&mut input, AVMediaType::AVMEDIA_TYPE_AUDIO).map_err(failed)?;
        if video.is_none() && audio.is_none() {
            return Err(failed(broken("there is neither picture nor sound in it")));
        }
        Ok(Clip {
            sound: Sound::new(settings.rate),
            input,
            video,
            audio,
            converter: Converter::default(),
            packet: Packet::new().map_err(failed)?,
            picture: Picture::new().map_err(failed)?,
            ready: Default::default(),
            began: 0,
            ends: 0,
            gave: false,
            over: false,
            settings,
        })
    }

    pub fn has_video(&self) -> bool {
        self.video.is_some()
    }

    pub fn has_audio(&self) -> bool {
        self.audio.is_some()
    }

    /// The next picture or block. `None`: the end of a file that is not repeated. A picture for which `pool` has no
    /// buffer is left out.
    pub fn next(&mut self, pool: &FramePool) -> Result<Option<ClipItem>, ClipError> {
        self.advance(pool).map_err(|why| ClipError { path: self.settings.path.clone(), why })
    }

    fn advance(&mut self, pool: &FramePool) -> Result<Option<ClipItem>, CodecError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.gave = true;
                return Ok(Some(item));
            }
            if self.over {
                return Ok(None);
            }
            // SAFETY: the input and the packet are valid.
            let code = unsafe { ffi::av_read_frame(self.input.as_mut_ptr(), self.packet.as_ptr()) };
            if code >= 0 {
                let index = self.packet.fields().stream_index;
                self.decode(index, false, pool)?;
                self.packet.clear();
            } else {
                self.end_of_round(pool)?;
            }
        }
    }

    fn end_of_round(&mut self, pool: &FramePool) -> Result<(), CodecError> {
        let tracks = [&self.video, &self.audio].map(|track| track.as_ref().map(|track| track.index));
        for index in tracks.into_iter().flatten() {
            self.decode(index, true, pool)?;
        }
        if !self.settings.repeat || (!self.gave && self.ready.is_empty()) {
            self.over = true;
            return Ok(());
        }
        // SAFETY: the input is valid; the decoders are drained and start afresh.
        unsafe {
            check(
                ffi::av_seek_frame(self.input.as_mut_ptr(), -1, 0, ffi::AVSEEK_FLAG_BACKWARD),
                "starting again",
            )?;
            for track in [&mut self.video, &mut self.audio].into_iter().flatten() {
                ffi::avcodec_flush_buffers(track.context.as_ptr());
            }
        }
        self.began = self.ends.max(self.began);
        self.sound.next = None;
        self.gave = false;
        Ok(())
    }

    fn decode(&mut self, index: c_int, last: bool, pool: &FramePool) -> Result<(), CodecError> {
        let is = |track: &Option<Track>| track.as_ref().is_some_and(|track| track.index == index);
        let pictures = is(&self.video);
        let Some(track) = (if pictures { &mut self.video } else { &mut self.audio }) else { return Ok(()) };
        if track.index != index {
            return Ok(());
        }
        let packet = if last { ptr::null_mut() } else { self.packet.as_ptr() };
        // A packet that cannot be decoded is left out; the rest of the file may be whole.
        // SAFETY: context and packet are valid; a null packet asks for what is left.
        unsafe { ffi::avcodec_send_packet(track.context.as_ptr(), packet) };
        // SAFETY: context and frame are valid.
        while unsafe { ffi::avcodec_receive_frame(track.context.as_ptr(), self.picture.as_ptr()) } >= 0 {
            let fields = self.picture.read();
            let time = track.nanos(fields.best_effort_timestamp).map(|time| self.began + time.max(0));
            let time = time.unwrap_or(self.ends);
            if pictures {
                self.ends = self.ends.max(time + 40_000_000);
                let pts = Pts::from_nanos(time);
                match self.converter.convert(&self.picture, pool, pts, self.settings.max)? {
                    Converted::Picture(frame) => {
                        self.ready.push_back(ClipItem::Picture(RawFrame::new(frame.freeze())));
                    }
                    Converted::BadSize(size) => {
                        let max = self.settings.max;
                        return Err(broken(format!("its pictures are {size}, the limit is {max}")));
                    }
                    Converted::NoRoom => {}
                }
            } else {
                self.sound.take(&self.picture, time)?;
                self.sound.give(&mut self.ready);
                self.ends = self.ends.max(self.sound.next.unwrap_or(0));
            }
            self.picture.clear();
        }
        Ok(())
    }
}

fn open_input(path: &Path) -> Result<ffmpeg_next::format::context::Input, CodecError> {
    ffmpeg_next::format::input(path).map_err(|error| broken(error.to_string()))
}

fn track(
    input: &mut ffmpeg_next::format::context::Input,
    kind: AVMediaType,
) -> Result<Option<Track>, CodecError> {
    // SAFETY: the input is open; the stream index FFmpeg returns is one of its streams.
    unsafe {
        let format = input.as_mut_ptr();
        let index = ffi::av_find_best_stream(format, kind, -1, -1, ptr::null_mut(), 0);
        let Ok(at) = usize::try_from(index) else { return Ok(None) };
        let stream = *(*format).streams.add(at);
        let parameters = (*stream).codecpar;
        let mut context = CodecContext::decoder((*parameters).codec_id)?;
        check(
            ffi::avcodec_parameters_to_context(context.as_ptr(), parameters),
            "reading the codec's settings",
        )?;
        context.fields().thread_count = 1;
        context.open(&mut Options::new(), "opening the file's decoder")?;
        Ok(Some(Track { index, time_base: (*stream).time_base, context }))
    }
}

/// Decoded sound of any shape to mono blocks of 20 ms.
struct Sound {
    rate: u32,
    converter: *mut ffi::SwrContext,
    /// Rate, sample format and channels the converter was made for.
    source: (c_int, c_int, c_int),
    waiting: Vec<i16>,
    /// When the next block begins, in nanoseconds.
    next: Option<i64>,
}

// SAFETY: the conversion context is used by one thread at a time, through `&mut`.
unsafe impl Send for Sound {}

impl Sound {
    fn new(rate: u32) -> Self {
        Sound { rate, converter: ptr::null_mut(), source: (0, 0, 0), waiting: Vec::new(), next: None }
    }

    fn take(&mut self, frame: &Picture, time: i64) -> Result<(), CodecError> {
        self.next.get_or_insert(time);
        self.prepare(frame)?;
        let fields = frame.read();
        // SAFETY: the converter was made for frames of this shape; the output has the room FFmpeg says it needs.
        unsafe {
            let room = ffi::swr_get_out_samples(self.converter, fields.nb_samples);
            let mut out = vec![0_i16; usize::try_from(room).unwrap_or(0)];
            let mut plane = out.as_mut_ptr().cast::<u8>();
            let input = fields.extended_data.cast::<*const u8>();
            let made = ffi::swr_convert(self.converter, &mut plane, room, input, fields.nb_samples);
            let made = usize::try_from(check(made, "converting the sound")?).unwrap_or(0);
            self.waiting.extend_from_slice(out.get(..made).unwrap_or_default());
        }
        Ok(())
    }

    fn prepare(&mut self, frame: &Picture) -> Result<(), CodecError> {
        let fields = frame.read();
        let source = (fields.sample_rate, fields.format, fields.ch_layout.nb_channels);
        if !self.converter.is_null() && self.source == source {
            return Ok(());
        }
        let known = (0..AVSampleFormat::AV_SAMPLE_FMT_NB as c_int).contains(&fields.format);
        if !known || fields.sample_rate <= 0 {
            return Err(broken("sound in an unknown format"));
        }
        // SAFETY: the format is one of this binding's, checked above; layouts outlive the call.
        unsafe {
            let format: AVSampleFormat = std::mem::transmute(fields.format);
            let mut mono: ffi::AVChannelLayout = std::mem::zeroed();
            ffi::av_channel_layout_default(&mut mono, 1);
            let to = AVSampleFormat::AV_SAMPLE_FMT_S16;
            let (rate, from) = (self.rate as c_int, (&raw const fields.ch_layout).cast_mut());
            let (at, none) = (&mut self.converter, ptr::null_mut());
            let code =
                ffi::swr_alloc_set_opts2(at, &mut mono, to, rate, from, format, fields.sample_rate, 0, none);
            check(code, "preparing to convert the sound")?;
            check(ffi::swr_init(self.converter), "preparing to convert the sound")?;
        }
        self.source = source;
        Ok(())
    }

    fn give(&mut self, ready: &mut std::collections::VecDeque<ClipItem>) {
        let block = block_samples(self.rate);
        let mut used = 0;
        while let (Some(samples), Some(next)) = (self.waiting.get(used..used + block), &mut self.next) {
            let pts = Pts::from_nanos(*next);
            ready.push_back(ClipItem::Sound(Pcm { rate: self.rate, pts, samples: samples.into() }));
            *next += i64::from(crate::media::audio::BLOCK_MS) * 1_000_000;
            used += block;
        }
        self.waiting.drain(..used);
    }
}

impl Drop for Sound {
    fn drop(&mut self) {
        // SAFETY: this is the only owner; a null context is allowed.
        unsafe { ffi::swr_free(&mut self.converter) };
    }
}
