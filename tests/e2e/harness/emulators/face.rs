//! A made-up avatar for emulators: it speaks what it is given as Opus, with a picture whose lips are lit exactly while
//! the sound is not silent, both stamped on one clock; and the judges of what becomes of them.
//!
//! Pictures are coded beforehand, once for all test runs: a loop without and a loop with lit lips; each change of the
//! lips, each wish and each turn of a loop is a key picture.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eyeline::base::time::Pts;
use eyeline::codec::opus::{OpusDecoder, OpusEncoder, OpusSettings};
use eyeline::codec::resample::Resampler;
use eyeline::media::access_unit::{AccessUnit, VideoCodec};
use eyeline::media::codec::{AudioDecoder as _, AudioEncoder as _};
use eyeline::media::nal::{self, NalType};
use eyeline::webrtc::link::PeerLink;

use super::super::picture::{Area, Picture};

/// Hz of the avatar's sound, and samples of one packet.
pub const RATE: u32 = 48_000;
const BLOCK: usize = 960;
const TICK: Duration = Duration::from_millis(20);
/// Louder is not silence.
const LOUD: u16 = 300;
/// Seconds of a loop, which is the longest time between two key pictures nobody asked for.
const LOOP_S: usize = 5;

/// How the picture is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coding {
    /// Constrained Baseline.
    Baseline,
    High,
    Vp8,
}

impl Coding {
    pub fn codec(self) -> VideoCodec {
        match self {
            Coding::Baseline | Coding::High => VideoCodec::H264,
            Coding::Vp8 => VideoCodec::Vp8,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FaceSettings {
    pub coding: Coding,
    pub width: usize,
    pub height: usize,
    /// 25 or 50: a whole number of blocks of sound to a picture.
    pub fps: usize,
    /// From the first sound of a turn to its being spoken.
    pub latency: Duration,
    /// Pictures are sent so much later than the sound they belong to, and bear the same time.
    pub pictures_late: Duration,
}

impl Default for FaceSettings {
    fn default() -> Self {
        FaceSettings {
            coding: Coding::Baseline,
            width: 640,
            height: 360,
            fps: 25,
            latency: Duration::from_millis(60),
            pictures_late: Duration::ZERO,
        }
    }
}

/// Something to be sent now.
pub enum Due {
    /// `samples` at 48 kHz, and the same as Opus; `time`: RTP, 48 kHz.
    Sound { at: Instant, time: u64, samples: Vec<i16>, packet: Vec<u8> },
    /// `time`: RTP, 90 kHz; `lit`: whether the lips are.
    Unit { at: Instant, time: u64, unit: AccessUnit, lit: bool },
}

/// What a face did.
#[derive(Clone, Debug, Default)]
pub struct FaceLog {
    pub pictures: u64,
    pub key_pictures: u64,
    pub key_wishes: u64,
    /// When lips were lit and went dark.
    pub turns: Vec<(Instant, bool)>,
    /// When it was cut, and how many milliseconds were never spoken.
    pub cuts: Vec<(Instant, u64)>,
    /// Milliseconds given to it.
    pub given_ms: u64,
}

struct Loops {
    dark: Vec<AccessUnit>,
    lit: Vec<AccessUnit>,
}

/// One avatar on one session.
pub struct Face {
    settings: FaceSettings,
    loops: Arc<Loops>,
    encoder: OpusEncoder,
    /// And how much of its delay was left out.
    resampler: Option<(u32, Resampler, usize)>,
    waiting: VecDeque<i16>,
    /// What waits may be spoken from then on.
    ready: Instant,
    speaking: bool,
    start: Instant,
    tick: u64,
    /// Where the loop stands; `None`: a key picture comes next.
    at: Option<usize>,
    lit: bool,
    frozen: bool,
    late: VecDeque<Due>,
    pub log: FaceLog,
}

impl Face {
    pub fn new(settings: FaceSettings, now: Instant) -> Face {
        assert!(50 % settings.fps == 0, "a whole number of blocks to a picture");
        Face {
            loops: loops(&settings),
            encoder: OpusEncoder::new(&OpusSettings { bitrate: 48_000, ..OpusSettings::default() })
                .expect("libopus"),
            settings,
            resampler: None,
            waiting: VecDeque::new(),
            ready: now,
            speaking: false,
            start: now,
            tick: 0,
            at: None,
            lit: false,
            frozen: false,
            late: VecDeque::new(),
            log: FaceLog::default(),
        }
    }

    /// Speaks this behind what waits, at real-time pace.
    pub fn say(&mut self, now: Instant, samples: &[i16], rate: u32) {
        if self.waiting.is_empty() && !self.speaking {
            self.ready = now + self.settings.latency;
        }
        self.log.given_ms += samples.len() as u64 * 1_000 / u64::from(rate);
        if self.resampler.as_ref().is_none_or(|(own, ..)| *own != rate) {
            self.resampler = Some((rate, Resampler::new(rate, RATE).expect("a rate"), 0));
        }
        let mut made = Vec::new();
        if let Some((_, resampler, skipped)) = &mut self.resampler {
            resampler.process(samples, &mut made).expect("resampled");
            // Words begin with the first sample given, not with what the conversion puts before it.
            let rest = (resampler.delay() - *skipped).min(made.len());
            made.drain(..rest);
            *skipped += rest;
        }
        self.waiting.extend(made);
    }

    /// Is silent at once: what waits is never spoken.
    pub fn cut(&mut self, now: Instant) {
        let ms = self.waiting.len() as u64 * 1_000 / u64::from(RATE);
        self.log.cuts.push((now, ms));
        self.waiting.clear();
        self.resampler = None;
        self.speaking = false;
    }

    /// How much waits to be spoken.
    pub fn waiting(&self) -> Duration {
        Duration::from_micros(self.waiting.len() as u64 * 1_000_000 / u64::from(RATE))
    }

    /// Something is spoken, or is about to be.
    pub fn is_speaking(&self) -> bool {
        self.speaking || !self.waiting.is_empty()
    }

    /// The picture stands still (nothing is sent), while sound goes on.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// The next picture is a key picture.
    pub fn key_wanted(&mut self) {
        self.log.key_wishes += 1;
        self.at = None;
    }

    /// What is due by `now`, one at a time, in order.
    pub fn poll(&mut self, now: Instant) -> Option<Due> {
        if let Some(Due::Unit { at, .. }) = self.late.front()
            && *at + self.settings.pictures_late <= now
        {
            return self.late.pop_front();
        }
        let at = self.start + TICK * u32::try_from(self.tick).expect("not for ever");
        if at > now {
            return None;
        }
        let ticks = 50 / self.settings.fps as u64;
        if self.tick.is_multiple_of(ticks) {
            // Turns begin with a picture.
            self.speaking = !self.waiting.is_empty() && (self.speaking || self.ready <= at);
            let picture = self.picture(at, ticks as usize);
            self.late.extend(picture);
        }
        let mut samples: Vec<i16> = Vec::with_capacity(BLOCK);
        if self.speaking {
            samples.extend(self.waiting.drain(..BLOCK.min(self.waiting.len())));
        }
        samples.resize(BLOCK, 0);
        let mut packet = Vec::new();
        self.encoder.encode(&samples, &mut packet).expect("coded");
        let time = 1_000_000 + self.tick * BLOCK as u64;
        self.tick += 1;
        Some(Due::Sound { at, time, samples, packet })
    }

    /// When something is due.
    pub fn wake_at(&self) -> Instant {
        let tick = self.start + TICK * u32::try_from(self.tick).expect("not for ever");
        match self.late.front() {
            Some(Due::Unit { at, .. }) => tick.min(*at + self.settings.pictures_late),
            _ => tick,
        }
    }

    /// Sends everything that is due.
    pub fn run(&mut self, now: Instant, link: &mut PeerLink) {
        while let Some(due) = self.poll(now) {
            match due {
                Due::Sound { at, time, packet, .. } => link.send_sound(at, time, &packet),
                Due::Unit { at, time, unit, .. } => link.send_unit(at, time, &unit),
            };
        }
    }

    fn picture(&mut self, at: Instant, ticks: usize) -> Option<Due> {
        let spoken = self.waiting.iter().take(ticks * BLOCK);
        let lit = self.speaking && spoken.into_iter().any(|sample| sample.unsigned_abs() > LOUD);
        if lit != std::mem::replace(&mut self.lit, lit) {
            self.log.turns.push((at, lit));
            self.at = None;
        }
        if self.frozen {
            self.at = None;
            return None;
        }
        let units = if lit { &self.loops.lit } else { &self.loops.dark };
        let number = self.at.map_or(0, |at| (at + 1) % units.len());
        self.at = Some(number);
        let unit = units[number].clone();
        self.log.pictures += 1;
        self.log.key_pictures += u64::from(unit.key);
        let time = 4_500_000 + self.tick * 1_800;
        Some(Due::Unit { at, time, unit, lit })
    }
}

/// Where the lips are in a picture of this size.
pub fn lips(width: usize, height: usize) -> Area {
    Area { left: width * 2 / 5, top: height * 3 / 5, right: width * 3 / 5, bottom: height * 4 / 5 }
}

/// Whether the lips are lit in a picture as a caller got it; the face fills the picture.
pub fn is_lit(picture: &Picture) -> bool {
    let area = lips(super::super::picture::WIDTH, super::super::picture::HEIGHT);
    // Away from the edge, which scaling blurs.
    let inner =
        Area { left: area.left + 16, top: area.top + 9, right: area.right - 16, bottom: area.bottom - 9 };
    picture.mean(inner) > 130.0
}

/// Moments at which sound begins after at least 100 ms of silence, in seconds.
pub fn onsets(samples: &[f64], rate: u32) -> Vec<f64> {
    let block = rate as usize / 200;
    let (mut found, mut silent) = (Vec::new(), usize::MAX);
    for (number, piece) in samples.chunks(block).enumerate() {
        let loud = piece.iter().any(|sample| sample.abs() > 0.03);
        if loud && silent >= 20 {
            let first = piece.iter().position(|sample| sample.abs() > 0.03).unwrap_or(0);
            found.push((number * block + first) as f64 / f64::from(rate));
        }
        silent = if loud { 0 } else { silent.saturating_add(1) };
    }
    found
}

/// Moments at which lips are lit after at least 100 ms of darkness, in seconds.
pub fn lit_onsets(pictures: &[(f64, bool)]) -> Vec<f64> {
    let (mut found, mut last) = (Vec::new(), f64::MIN);
    for (at, lit) in pictures {
        if *lit && at - last > 0.1 {
            found.push(*at);
        }
        if *lit {
            last = *at;
        }
    }
    found
}

/// By how much each onset of sound comes after the onset of the lips nearest to it, in seconds; those without one within
/// half a second are left out.
pub fn offsets(sound: &[f64], lips: &[f64]) -> Vec<f64> {
    let nearest = |at: &f64| {
        let apart = lips.iter().map(|lip| at - lip);
        apart.min_by(|a, b| a.abs().total_cmp(&b.abs())).filter(|apart| apart.abs() < 0.5)
    };
    sound.iter().filter_map(nearest).collect()
}

/// What an emulator was given to hear.
pub struct Ear {
    pub rate: u32,
    pub samples: Vec<i16>,
    decoder: Option<OpusDecoder>,
}

impl Ear {
    pub fn new(rate: u32) -> Ear {
        Ear { rate, samples: Vec::new(), decoder: None }
    }

    /// An ear for Opus.
    pub fn opus() -> Ear {
        Ear { decoder: Some(OpusDecoder::new().expect("libopus")), ..Ear::new(RATE) }
    }

    pub fn hear(&mut self, samples: &[i16]) {
        self.samples.extend_from_slice(samples);
    }

    /// s16le.
    pub fn hear_bytes(&mut self, bytes: &[u8]) {
        self.samples.extend(bytes.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)));
    }

    pub fn hear_packet(&mut self, packet: &[u8]) {
        if let Some(decoder) = &mut self.decoder {
            let _ = decoder.decode(packet, &mut self.samples);
        }
    }

    /// Hz of the tone in its loud part, by its zero crossings; 0: there is none.
    pub fn frequency(&self) -> f64 {
        frequency(&self.samples, self.rate)
    }
}

/// See [`Ear::frequency`].
pub fn frequency(samples: &[i16], rate: u32) -> f64 {
    let loud = |sample: &i16| sample.unsigned_abs() > LOUD;
    let Some((first, last)) = samples.iter().position(loud).zip(samples.iter().rposition(loud)) else {
        return 0.0;
    };
    let rising = |pair: &[i16]| pair[0] < 0 && pair[1] >= 0;
    let crossings: Vec<usize> = samples[first..=last]
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| rising(pair))
        .map(|(at, _)| at)
        .collect();
    // The median of the periods: pauses between words, and the edges of pieces, do not count.
    let mut periods: Vec<usize> = crossings.windows(2).map(|pair| pair[1] - pair[0]).collect();
    periods.sort_unstable();
    let Some(median) = periods.get(periods.len() / 2).copied() else { return 0.0 };
    let usual: Vec<usize> =
        periods.into_iter().filter(|own| own.abs_diff(median) <= 2 + median / 8).collect();
    f64::from(rate) * usual.len() as f64 / usual.iter().sum::<usize>() as f64
}

/// Coded once in a process, and once on a machine.
fn loops(settings: &FaceSettings) -> Arc<Loops> {
    type Known = HashMap<(Coding, usize, usize, usize), Arc<Loops>>;
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (settings.coding, settings.width, settings.height, settings.fps);
    let made = || Arc::new(Loops { dark: stored(settings, false), lit: stored(settings, true) });
    known.get_or_insert_default().entry(key).or_insert_with(made).clone()
}

fn stored(settings: &FaceSettings, lit: bool) -> Vec<AccessUnit> {
    let FaceSettings { coding, width, height, fps, .. } = settings;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| super::super::root().join("target"), PathBuf::from)
        .join("media");
    std::fs::create_dir_all(&target).expect("a writable folder");
    let file = target.join(format!("face-{coding:?}-{width}x{height}-{fps}-{lit}-1.bin"));
    if !file.exists() {
        let own = tempfile::NamedTempFile::new_in(&target).expect("a writable folder");
        std::fs::write(own.path(), encode(settings, lit)).expect("a writable folder");
        own.persist(&file).expect("renamed");
    }
    let bytes = std::fs::read(&file).expect("coded before");
    let units = match coding.codec() {
        VideoCodec::Vp8 => of_ivf(&bytes),
        _ => of_annex_b(&bytes),
    };
    assert_eq!(units.len(), fps * LOOP_S, "{}", file.display());
    assert!(units[0].key && units[1..].iter().all(|unit| !unit.key), "one key picture: {}", file.display());
    units
}

/// FFmpeg codes the loop.
fn encode(settings: &FaceSettings, lit: bool) -> Vec<u8> {
    let FaceSettings { coding, width, height, fps, .. } = settings;
    let (size, rate, length) = (format!("{width}x{height}"), fps.to_string(), (fps * LOOP_S).to_string());
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p"]);
    command.args(["-s", &size, "-r", &rate, "-i", "-"]);
    command.args(["-g", &length, "-keyint_min", &length, "-b:v", "500k"]);
    let x264 = ["-c:v", "libx264", "-preset", "superfast", "-bf", "0", "-sc_threshold", "0", "-level", "3.1"];
    let x264 = [&x264[..], &["-x264-params", "aud=1:repeat-headers=1", "-threads", "1"]].concat();
    match coding {
        Coding::Baseline => command.args(x264).args(["-profile:v", "baseline", "-f", "h264"]),
        Coding::High => command.args(x264).args(["-profile:v", "high", "-f", "h264"]),
        Coding::Vp8 => command.args(["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"]).args([
            "-auto-alt-ref",
            "0",
            "-lag-in-frames",
            "0",
            "-f",
            "ivf",
        ]),
    };
    command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("ffmpeg is installed by `make setup`");
    let mut into = child.stdin.take().expect("piped");
    let (width, height, pictures) = (*width, *height, fps * LOOP_S);
    let writer = std::thread::spawn(move || {
        for number in 0..pictures {
            into.write_all(&paint(width, height, number, lit)).expect("taken");
        }
    });
    let output = child.wait_with_output().expect("coded");
    writer.join().expect("written");
    assert!(output.status.success(), "ffmpeg failed");
    output.stdout
}

/// A ground that shades, a bar that wanders above, lips below.
fn paint(width: usize, height: usize, number: usize, lit: bool) -> Vec<u8> {
    let mut picture = vec![128_u8; width * height * 3 / 2];
    let bar = number * 4 % width;
    let lips = lips(width, height);
    for (y, row) in picture[..width * height].chunks_exact_mut(width).enumerate() {
        for (x, luma) in row.iter_mut().enumerate() {
            let in_bar = y < height * 3 / 10 && (x + width - bar) % width < width / 16;
            let in_lips = (lips.top..lips.bottom).contains(&y) && (lips.left..lips.right).contains(&x);
            *luma = match (in_lips, in_bar) {
                (true, _) => {
                    if lit {
                        220
                    } else {
                        30
                    }
                }
                (false, true) => 170,
                (false, false) => (70 + (x + y) * 40 / (width + height)) as u8,
            };
        }
    }
    picture
}

fn unit(codec: VideoCodec, data: Vec<u8>, key: bool) -> AccessUnit {
    AccessUnit { codec, data: Bytes::from(data), pts: Pts::ZERO, key, damaged: false }
}

/// Every picture stands behind an access unit delimiter, which is left out.
fn of_annex_b(bytes: &[u8]) -> Vec<AccessUnit> {
    let (mut units, mut data, mut key) = (Vec::new(), Vec::new(), false);
    for part in nal::units(bytes) {
        match NalType::of(part[0]) {
            NalType::AccessUnitDelimiter => {
                if !data.is_empty() {
                    units.push(unit(VideoCodec::H264, std::mem::take(&mut data), key));
                }
                key = false;
                continue;
            }
            NalType::Idr => key = true,
            NalType::Sei => continue,
            _ => {}
        }
        nal::push(&mut data, part);
    }
    units.push(unit(VideoCodec::H264, data, key));
    units
}

fn of_ivf(bytes: &[u8]) -> Vec<AccessUnit> {
    let (mut units, mut rest) = (Vec::new(), &bytes[32..]);
    while let Some((head, body)) = rest.split_at_checked(12) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        units.push(unit(VideoCodec::Vp8, body[..length].to_vec(), body[0] & 1 == 0));
        rest = &body[length..];
    }
    units
}

fn tone(hertz: f64, rate: u32, ms: usize) -> Vec<i16> {
    let step = std::f64::consts::TAU * hertz / f64::from(rate);
    (0..rate as usize * ms / 1_000).map(|n| ((n as f64 * step).sin() * 9_000.0) as i16).collect()
}

/// Everything a face does until then, in virtual time: sound, and when its pictures were lit.
fn watch(face: &mut Face, start: Instant, from_ms: u64, to_ms: u64) -> (Vec<f64>, Vec<(f64, bool)>) {
    let (mut sound, mut pictures) = (Vec::new(), Vec::new());
    for ms in from_ms..to_ms {
        let now = start + Duration::from_millis(ms);
        while let Some(due) = face.poll(now) {
            match due {
                Due::Sound { samples, .. } => sound.extend(samples.iter().map(|s| f64::from(*s) / 32_768.0)),
                Due::Unit { time, lit, .. } => pictures.push(((time - 4_500_000) as f64 / 90_000.0, lit)),
            }
        }
    }
    (sound, pictures)
}

#[test]
fn lips_and_sound_go_together_and_a_cut_is_at_once() {
    let start = Instant::now();
    for coding in [Coding::Baseline, Coding::High, Coding::Vp8] {
        let mut face = Face::new(FaceSettings { coding, ..FaceSettings::default() }, start);
        let (quiet, _) = watch(&mut face, start, 0, 300);
        assert!(quiet.iter().all(|sample| *sample == 0.0));
        face.say(start + Duration::from_millis(300), &tone(440.0, 24_000, 1_000), 24_000);
        let (sound, pictures) = watch(&mut face, start, 300, 3_000);
        let sounds: Vec<f64> = onsets(&sound, RATE).iter().map(|at| at + 0.3).collect();
        let lips = lit_onsets(&pictures);
        assert_eq!((sounds.len(), lips.len()), (1, 1), "{sounds:?} {lips:?}");
        assert!((0.34..0.42).contains(&lips[0]), "60 ms after it was given: {lips:?}");
        let apart = offsets(&sounds, &lips);
        assert!(apart[0].abs() < 0.012, "{apart:?}");
        let samples: Vec<i16> = sound.iter().map(|sample| (sample * 32_768.0) as i16).collect();
        assert!((frequency(&samples, RATE) - 440.0).abs() < 2.0, "{}", frequency(&samples, RATE));
        assert!(!face.is_speaking());

        face.say(start + Duration::from_millis(3_000), &tone(700.0, 16_000, 5_000), 16_000);
        watch(&mut face, start, 3_000, 3_500);
        face.cut(start + Duration::from_millis(3_500));
        let (sound, pictures) = watch(&mut face, start, 3_500, 4_500);
        assert!(sound.iter().all(|sample| *sample == 0.0), "nothing after the cut");
        assert!(pictures.iter().skip(1).all(|(_, lit)| !lit));
        assert!(face.log.cuts[0].1 > 4_000, "{:?}", face.log.cuts);
        let keys = face.log.key_pictures;
        face.key_wanted();
        watch(&mut face, start, 4_500, 4_600);
        assert_eq!(face.log.key_pictures, keys + 1);
    }
}

#[test]
fn an_ear_tells_the_tone_it_heard_over_pauses() {
    let mut ear = Ear::new(16_000);
    for _ in 0..5 {
        ear.hear(&tone(523.0, 16_000, 200));
        ear.hear(&[0; 3_000]);
    }
    assert!((ear.frequency() - 523.0).abs() < 3.0, "{}", ear.frequency());
    assert!(frequency(&[0; 500], 8_000) < 1.0);
}
